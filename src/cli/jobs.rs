//! `ocps jobs`: the jobs that the daemon knows.

use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Query};
use super::flags::JobsArgs;
use super::output::Output;
use super::text::{UNKNOWN, duration, scalar, table};

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

/// The jobs as a table. What they lack is shown as a dash.
fn jobs_text(jobs: &[&Value]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let heading = ["JOB ID", "STAGE", "AGE", "ENDED", "EXIT", "SEQ NUM", "SENDER", "PIPELINE", "PROBLEM"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for job in jobs {
        let get = |key: &str| scalar(job.get(key));
        let ended = match duration(job.get("ended_s")) {
            text if text == UNKNOWN => text,
            text => format!("{text} ago"),
        };
        rows.push(vec![
            get("job_id"),
            get("stage"),
            duration(job.get("age_s")),
            ended,
            get("exit_code"),
            get("seq_num"),
            get("identity"),
            get("pipeline"),
            get("problem"),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_a_table() {
        let jobs = [
            json!({"job_id": "j1", "run_id": "5-x", "seq_num": 5, "identity": "root@localhost",
                   "pipeline": "true.yaml", "stage": "running", "age_s": 61.0, "exit_code": null,
                   "ended_s": null, "problem": "timeout"}),
            json!({"stage": "finished", "exit_code": 255, "ended_s": 3.0, "new": 1}),
            json!(7),
        ];
        let expected = "\
JOB ID  STAGE     AGE    ENDED     EXIT  SEQ NUM  SENDER          PIPELINE   PROBLEM
j1      running   1m01s  -         -     5        root@localhost  true.yaml  timeout
-       finished  -      3.0s ago  255   -        -               -          -
-       -         -      -         -     -        -               -          -
";
        assert_eq!(jobs_text(&jobs.iter().collect::<Vec<_>>()), expected);
        assert_eq!(jobs_text(&[]), "no jobs\n");
        assert_eq!(jobs.iter().map(is_finished).collect::<Vec<_>>(), [false, true, false]);
    }
}
