//! A job of the daemon's documents as text: id, times, state, and why it is in that state.

use serde_json::Value;

use super::text::{clean, fill, some, value};

/// Maximum number of prerequisites that are named.
const WAITS_SHOWN: usize = 3;

pub(crate) fn is_unfinished(job: &Value) -> bool {
    job.get("stage").is_none_or(|stage| stage != "finished")
}

/// The job id, or while there is none the run id.
pub(crate) fn id(job: &Value) -> Option<String> {
    value(job, "job_id").or_else(|| value(job, "run_id"))
}

/// Seconds from the acceptance of the command to the end of the job, or until now.
pub(crate) fn elapsed(job: &Value) -> Option<f64> {
    let seconds = |key: &str| job.get(key).and_then(Value::as_f64);
    Some((seconds("age_s")? - seconds("ended_s").unwrap_or_default()).max(0.0))
}

/// One word: the outcome, else the phase at the service while the job runs there, else the stage.
pub(crate) fn state(job: &Value) -> Option<String> {
    let stage = value(job, "stage");
    let phase = || value(job, "phase").filter(|_| stage.as_deref() == Some("running"));
    value(job, "outcome").or_else(phase).or(stage.clone())
}

/// The state, and why the job is in it.
pub(crate) fn state_text(job: &Value) -> Option<String> {
    let (state, note) = (state(job)?, note(job));
    Some(match note {
        None => state,
        Some(note) => match (state.as_str(), note.strip_prefix("waits ")) {
            ("waiting", Some(what)) => format!("waiting {what}"),
            ("aborted", _) if note.starts_with("by ") => format!("aborted {note}"),
            (_, _) => format!("{state}: {note}"),
        },
    })
}

/// Why the job ended as it did; before its end: what it waits for, which prerequisites do not exist, and what is wrong.
pub(crate) fn note(job: &Value) -> Option<String> {
    let problem = value(job, "problem");
    match (state(job)?.as_str(), &problem) {
        ("aborted", Some(problem)) => {
            let user = problem.strip_prefix("abort_job of ");
            Some(user.map_or_else(|| problem.clone(), |user| format!("by {user}")))
        }
        ("failed", _) => {
            let parts = [fill(job, "exit {exit_code}"), problem];
            Some(parts.into_iter().flatten().collect::<Vec<_>>().join(", ")).filter(|note| !note.is_empty())
        }
        ("refused", Some(problem)) => {
            let answer = problem.split_once(" answered PUT with ");
            Some(answer.map_or_else(|| problem.clone(), |(_, answer)| format!("service answered {answer}")))
        }
        (_, _) => waits(job, problem),
    }
}

fn waits(job: &Value, problem: Option<String>) -> Option<String> {
    let mut parts = Vec::new();
    let waits_for = ids(job, "waits_for");
    if !waits_for.is_empty() {
        parts.push(format!("waits for {}", some(&waits_for, WAITS_SHOWN)));
    }
    let missing = ids(job, "missing_prereqs").into_iter();
    parts.extend(missing.map(|id| format!("prerequisite {id} does not exist")));
    parts.extend(problem);
    Some(parts.join("; ")).filter(|note| !note.is_empty())
}

/// The ids in a member of the job.
pub(crate) fn ids(job: &Value, key: &str) -> Vec<String> {
    let ids = job.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    ids.map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_state_of_an_ended_job_says_why() {
        let check =
            |job: Value, expected: &str| assert_eq!(state_text(&job).as_deref(), Some(expected), "{job}");
        check(json!({"outcome": "completed", "exit_code": 0}), "completed");
        check(json!({"outcome": "failed", "exit_code": 1}), "failed: exit 1");
        check(
            json!({"outcome": "failed", "exit_code": 1, "problem": "phase error"}),
            "failed: exit 1, phase error",
        );
        let problem = "http://h/job answered PUT with 500: no disk";
        check(json!({"outcome": "refused", "problem": problem}), "refused: service answered 500: no disk");
        check(json!({"outcome": "refused", "problem": "no luck\n"}), "refused: no luck\\n");
        check(json!({"outcome": "aborted", "problem": "removed"}), "aborted: removed");
        check(json!({"outcome": "vanished", "problem": "gone"}), "vanished: gone");
    }
}
