//! `ocps jobs`: the jobs that the daemon knows.

use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Query};
use super::flags::JobsArgs;
use super::output::Output;
use super::text::{UNKNOWN, clean, date_and_time, duration, scalar, table};

/// Runs `ocps jobs`.
///
/// # Errors
/// Whatever breaks before the list is printed.
pub(super) fn run(args: &JobsArgs, out: &mut Output) -> Result<(), Failure> {
    let document = Client::connect(&args.target)?.query(Query::Jobs)?;
    let jobs: Vec<&Value> = document.as_array().map(|jobs| jobs.iter().collect()).unwrap_or_default();
    let wanted: Vec<&Value> = jobs.into_iter().filter(|job| args.all || !is_finished(job)).collect();
    if args.json {
        return out.line(&json!(wanted).to_string());
    }
    out.text(&jobs_text(&wanted))
}

/// The jobs of the document that have not finished.
pub(super) fn unfinished_text(document: &Value) -> String {
    let jobs = document.as_array().into_iter().flatten();
    jobs_text(&jobs.filter(|job| !is_finished(job)).collect::<Vec<_>>())
}

/// Whether the job has come to its end.
fn is_finished(job: &Value) -> bool {
    job.get("stage").and_then(Value::as_str) == Some("finished")
}

/// Jobs waited for that are named.
const WAITS_SHOWN: usize = 3;
/// Columns that are left out when no job of the table has anything there.
const OPTIONAL: [&str; 3] = ["ENDED (UTC)", "EXIT", "NOTE"];

/// The jobs as a table. What they lack is shown as a dash.
fn jobs_text(jobs: &[&Value]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let heading = [
        "JOB ID",
        "STATE",
        "ACCEPTED (UTC)",
        "AGE",
        "ENDED (UTC)",
        "EXIT",
        "RUN ID",
        "SENDER",
        "PIPELINE",
        "NOTE",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for job in jobs {
        let get = |key: &str| scalar(job.get(key));
        rows.push(vec![
            get("job_id"),
            state(job),
            date_and_time(job.get("accepted_utc")),
            duration(job.get("age_s")),
            date_and_time(job.get("ended_utc")),
            get("exit_code"),
            get("run_id"),
            get("identity"),
            get("pipeline"),
            note(job),
        ]);
    }
    let is_shown = |at: usize, name: &&str| {
        !OPTIONAL.contains(name)
            || rows.iter().skip(1).any(|row| row.get(at).is_some_and(|cell| cell != UNKNOWN))
    };
    let shown: Vec<bool> = heading.iter().enumerate().map(|(at, name)| is_shown(at, name)).collect();
    for row in &mut rows {
        let mut shown = shown.iter();
        row.retain(|_| shown.next() == Some(&true));
    }
    table(&rows)
}

/// One word: how it ended, else its phase at the service while it runs there, else where it is with us.
fn state(job: &Value) -> String {
    let is_running = job.get("stage").and_then(Value::as_str) == Some("running");
    let phase = job.get("phase").filter(|phase| is_running && phase.is_string());
    scalar(job.get("outcome").filter(|outcome| outcome.is_string()).or(phase).or(job.get("stage")))
}

/// What it waits for, what it did not wait for, and what is or was wrong.
fn note(job: &Value) -> String {
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
    for missing in ids("missing_prereqs") {
        parts.push(format!("prerequisite {missing} does not exist"));
    }
    parts.extend(job.get("problem").and_then(Value::as_str).map(clean));
    if parts.is_empty() { UNKNOWN.to_owned() } else { parts.join("; ") }
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
        let finished = jobs.iter().map(is_finished).collect::<Vec<_>>();
        assert_eq!(finished, [false, false, false, false, true, false]);
        let columns = jobs_text(&[&jobs[2]]);
        assert!(
            columns.starts_with("JOB ID  STATE    ACCEPTED (UTC)  AGE  RUN ID  SENDER  PIPELINE\n"),
            "{columns}"
        );
    }
}
