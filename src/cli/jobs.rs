//! `ocps jobs`: the jobs that the daemon knows.

use serde_json::{Value, json};

use super::Task;
use super::client::{Client, JOBS};
use super::flags::Line;
use super::text::{UNKNOWN, clean, table, value};

/// The columns, and the member of a job that each shows.
const COLUMNS: [(&str, &str); 10] = [
    ("JOB ID", "job_id"),
    (STATE, ""),
    ("ACCEPTED (UTC)", "accepted_utc"),
    ("AGE", "age_s"),
    ("ENDED (UTC)", "ended_utc"),
    ("EXIT", "exit_code"),
    ("RUN ID", "run_id"),
    ("SENDER", "identity"),
    ("PIPELINE", "pipeline"),
    (NOTE, ""),
];
const STATE: &str = "STATE";
const NOTE: &str = "NOTE";
/// Columns that are left out when no job of the table has anything there.
const OPTIONAL: [&str; 3] = ["ENDED (UTC)", "EXIT", NOTE];
/// Jobs waited for that are named.
const WAITS_SHOWN: usize = 3;

/// `ocps jobs`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let (target, all, json) = (line.target()?, line.has("all"), line.has("json"));
    Ok(Box::new(move |out| {
        let document = Client::connect(&target)?.query(JOBS)?;
        let jobs = if all { all_of(&document).collect() } else { unfinished(&document) };
        if json { out.line(&json!(jobs).to_string()) } else { out.text(&jobs_text(&jobs)) }
    }))
}

fn all_of(document: &Value) -> impl Iterator<Item = &Value> {
    document.as_array().into_iter().flatten()
}

/// The jobs of the document that have not finished.
pub(super) fn unfinished(document: &Value) -> Vec<&Value> {
    all_of(document).filter(|job| job.get("stage").is_none_or(|stage| stage != "finished")).collect()
}

/// The jobs as a table. What they lack is shown as a dash.
pub(super) fn jobs_text(jobs: &[&Value]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let column = |(heading, member): (&str, &str)| {
        let cell = |job: &&Value| match heading {
            STATE => state(job),
            NOTE => note(job),
            _ => value(job, member),
        };
        let cells: Vec<Option<String>> = jobs.iter().map(cell).collect();
        let is_shown = !OPTIONAL.contains(&heading) || cells.iter().any(Option::is_some);
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| UNKNOWN.to_owned()));
        is_shown.then(|| [heading.to_owned()].into_iter().chain(cells).collect())
    };
    table(&COLUMNS.into_iter().filter_map(column).collect::<Vec<Vec<String>>>())
}

/// One word: how it ended, else its phase at the service while it runs there, else where it is with us.
pub(super) fn state(job: &Value) -> Option<String> {
    let stage = value(job, "stage");
    let phase = || value(job, "phase").filter(|_| stage.as_deref() == Some("running"));
    value(job, "outcome").or_else(phase).or(stage.clone())
}

/// What it waits for, what it did not wait for, and what is or was wrong.
pub(super) fn note(job: &Value) -> Option<String> {
    let ids = |key: &str| {
        let ids = job.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        ids.map(clean).collect::<Vec<_>>()
    };
    let mut parts = Vec::new();
    let waits_for = ids("waits_for");
    let (first, rest) = waits_for.split_at(waits_for.len().min(WAITS_SHOWN));
    if !first.is_empty() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        parts.push(format!("waits for {}{more}", first.join(", ")));
    }
    parts.extend(ids("missing_prereqs").iter().map(|id| format!("prerequisite {id} does not exist")));
    parts.extend(value(job, "problem"));
    Some(parts.join("; ")).filter(|note| !note.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_a_table() {
        let jobs = [
            json!({"job_id": "j1", "run_id": "5-x", "identity": "root@localhost", "pipeline": "true.yaml",
                   "stage": "running", "phase": "queued", "accepted_utc": "2026-11-22T14:00:23.504Z",
                   "age_s": 61.0, "exit_code": null, "ended_utc": null, "outcome": null, "problem": "timeout"}),
            json!({"stage": "waiting", "waits_for": ["a", "b", "c", "d", "e"], "missing_prereqs": ["z"]}),
            json!({"stage": "running", "phase": null}),
            json!({"stage": "aborting", "phase": "executing"}),
            json!({"stage": "finished", "outcome": "aborted", "exit_code": 255,
                   "ended_utc": "2026-11-22T14:01:00.000Z", "problem": "abort_job", "new": 1}),
            json!(7),
        ];
        let expected = "\
JOB ID  STATE     ACCEPTED (UTC)       AGE    ENDED (UTC)          EXIT  RUN ID  SENDER          PIPELINE   NOTE
j1      queued    2026-11-22 14:00:23  1m01s  -                    -     5-x     root@localhost  true.yaml  timeout
-       waiting   -                    -      -                    -     -       -               -          \
waits for a, b, c and 2 more; prerequisite z does not exist
-       running   -                    -      -                    -     -       -               -          -
-       aborting  -                    -      -                    -     -       -               -          -
-       aborted   -                    -      2026-11-22 14:01:00  255   -       -               -          abort_job
-       -         -                    -      -                    -     -       -               -          -
";
        assert_eq!(jobs_text(&jobs.iter().collect::<Vec<_>>()), expected);
        assert_eq!(jobs_text(&[]), "no jobs\n");
        let document = json!(jobs);
        let unfinished = unfinished(&document);
        assert_eq!(unfinished, [&jobs[0], &jobs[1], &jobs[2], &jobs[3], &jobs[5]]);
        let columns = jobs_text(&[&jobs[2]]);
        assert!(
            columns.starts_with("JOB ID  STATE    ACCEPTED (UTC)  AGE  RUN ID  SENDER  PIPELINE\n"),
            "{columns}"
        );
    }
}
