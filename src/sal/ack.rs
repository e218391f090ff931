//! Acks as SAL writes them.

use std::ops::RangeInclusive;

use serde_json::json;
use strum::{IntoStaticStr, VariantArray};

use crate::csc::event::Ack;
use crate::csc::id::JobId;
use crate::text::one_line;

/// How long a sender is to wait for the next ack after an in-progress one, in seconds.
const PATIENCE_S: f64 = 600.0;

/// The fields of an `ackcmd` that depend on the ack.
#[derive(Clone, Debug, PartialEq)]
pub struct AckFields {
    /// The code.
    pub code: AckCode,
    /// The result, for the sender.
    pub result: String,
    /// Seconds that the sender is to wait for the next ack; 0 in a final ack.
    pub timeout: f64,
}

/// The codes of the acks that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(prefix = "CMD_", serialize_all = "UPPERCASE")]
pub enum AckCode {
    /// The job of an execute exists and has not ended.
    InProgress = 301,
    /// The command was carried out.
    Complete = 303,
    /// It failed or was refused.
    Failed = -302,
    /// The job of an execute was aborted by `abort_job`.
    Aborted = -303,
}

impl AckCode {
    /// The number in `ack`.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// SAL's name.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// `error`: 1 for a failure or an abort, else 0.
    pub fn error(self) -> i32 {
        i32::from(self.number() < 0)
    }
}

/// The codes of a command that is in progress: `CMD_ACK`, `CMD_INPROGRESS` and `CMD_STALLED`.
pub const NOT_FINAL: RangeInclusive<i32> = 300..=302;

impl From<&Ack> for AckFields {
    fn from(ack: &Ack) -> Self {
        let (code, result) = match ack {
            // Observing scripts parse this text and read `job_id`.
            Ack::InProgress { job_id, missing_prereqs } => {
                (AckCode::InProgress, in_progress(job_id, missing_prereqs))
            }
            Ack::Complete => (AckCode::Complete, "Done".to_owned()),
            Ack::Failed { reason } => (AckCode::Failed, format!("Failed: {}", one_line(reason))),
            Ack::Aborted => (AckCode::Aborted, "Aborted".to_owned()),
        };
        let timeout = if ack.is_final() { 0.0 } else { PATIENCE_S };
        Self { code, result, timeout }
    }
}

fn in_progress(job_id: &JobId, missing_prereqs: &[JobId]) -> String {
    let job_id = job_id.as_str();
    if missing_prereqs.is_empty() {
        return json!({ "job_id": job_id }).to_string();
    }
    let missing: Vec<&str> = missing_prereqs.iter().map(JobId::as_str).collect();
    json!({ "job_id": job_id, "missing_prereqs": missing }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let fields =
            AckFields::from(&Ack::Failed { reason: "Unknown (simulated) pipeline: a\n\x1bb".to_owned() });
        assert_eq!(fields.result, "Failed: Unknown (simulated) pipeline: a  b");
    }
}
