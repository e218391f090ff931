//! Acks as SAL writes them.

use serde_json::json;

use crate::csc::event::Ack;
use crate::csc::id::JobId;
use crate::text::one_line;

/// How long a sender goes on waiting after an in-progress ack, in seconds.
const PATIENCE_S: f64 = 600.0;

/// The fields of an `ackcmd` that depend on the ack.
#[derive(Clone, Debug, PartialEq)]
pub struct AckFields {
    /// The code, see [`AckFields::name`].
    pub ack: i32,
    /// 1 for a failure or an abort, else 0.
    pub error: i32,
    /// What to tell the sender.
    pub result: String,
    /// Seconds for which the sender is to wait on; 0 in a final ack.
    pub timeout: f64,
    /// SAL's name of the code.
    pub name: &'static str,
}

impl From<&Ack> for AckFields {
    fn from(ack: &Ack) -> Self {
        match ack {
            Ack::InProgress { job_id, missing_prereqs } => Self {
                ack: 301,
                error: 0,
                // Observing scripts parse this text and read `job_id`.
                result: in_progress(job_id, missing_prereqs),
                timeout: PATIENCE_S,
                name: "CMD_INPROGRESS",
            },
            Ack::Complete => {
                Self { ack: 303, error: 0, result: "Done".to_owned(), timeout: 0.0, name: "CMD_COMPLETE" }
            }
            Ack::Failed { reason } => Self {
                ack: -302,
                error: 1,
                result: format!("Failed: {}", one_line(reason)),
                timeout: 0.0,
                name: "CMD_FAILED",
            },
            Ack::Aborted => {
                Self { ack: -303, error: 1, result: "Aborted".to_owned(), timeout: 0.0, name: "CMD_ABORTED" }
            }
        }
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
