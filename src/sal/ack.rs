//! Acks as SAL writes them.

use std::ops::RangeInclusive;

use serde_json::json;

use crate::csc::event::Ack;
use crate::csc::id::JobId;
use crate::text::one_line;

/// How long a sender is to wait for the next ack after an in-progress one, in seconds.
const PATIENCE_S: f64 = 600.0;

/// The fields of an `ackcmd` that depend on the ack.
#[derive(Clone, Debug, PartialEq)]
pub struct AckFields {
    /// The code, see [`AckFields::name`].
    pub ack: i32,
    /// 1 for a failure or an abort, else 0.
    pub error: i32,
    /// The result, for the sender.
    pub result: String,
    /// Seconds that the sender is to wait for the next ack; 0 in a final ack.
    pub timeout: f64,
    /// SAL's name of the code.
    pub name: &'static str,
}

/// The code of a command that was carried out.
pub const COMPLETE: i32 = 303;
/// The codes of a command that is still carried out: `CMD_ACK`, `CMD_INPROGRESS` and `CMD_STALLED`.
pub const NOT_FINAL: RangeInclusive<i32> = 300..=302;

impl From<&Ack> for AckFields {
    fn from(ack: &Ack) -> Self {
        let (code, name, result) = match ack {
            // Observing scripts parse this text and read `job_id`.
            Ack::InProgress { job_id, missing_prereqs } => {
                (301, "CMD_INPROGRESS", in_progress(job_id, missing_prereqs))
            }
            Ack::Complete => (COMPLETE, "CMD_COMPLETE", "Done".to_owned()),
            Ack::Failed { reason } => (-302, "CMD_FAILED", format!("Failed: {}", one_line(reason))),
            Ack::Aborted => (-303, "CMD_ABORTED", "Aborted".to_owned()),
        };
        let timeout = if ack.is_final() { 0.0 } else { PATIENCE_S };
        Self { ack: code, error: i32::from(code < 0), result, timeout, name }
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
