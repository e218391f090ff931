//! `ocps jobs` and `ocps job`: the jobs that the daemon knows, and one of them.

mod filter;
pub(super) mod whole;

use serde_json::{Value, json};

pub(super) use self::filter::Filter;
use super::Task;
use super::client::{Client, JOBS};
use super::flags::Line;
use super::follow::{Style, Which, follow};
use super::table::{Column, fit, shortest, table};
use super::times::Zone;
use crate::display::job::{elapsed, id, is_unfinished, state_text};
use crate::display::text::{UNKNOWN, duration, value};

/// The columns: heading, member of a job, width to which it may be cut, and rank (see [`Column`]).
const COLUMNS: [(&str, &str, usize, u8); 8] = [
    ("JOB", "job", usize::MAX, 0),
    ("ACCEPTED", "accepted_utc", usize::MAX, 0),
    ("ENDED", "ended_utc", usize::MAX, 2),
    ("ELAPSED", "elapsed", usize::MAX, 0),
    ("RUN ID", "run_id", usize::MAX, 1),
    ("USER", "identity", 8, 3),
    ("PIPELINE", "pipeline", 8, 0),
    ("STATE", "state", 24, 0),
];
/// What `--csv` has of each job: the heading.
const CSV: &str = "job_id,run_id,seq_num,identity,pipeline,version,data_query,stage,phase,outcome,reason,exit_code,\
                   accepted_utc,ended_utc,elapsed_s";

/// `ocps jobs`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let zone = Zone::of(line);
    let (target, filter, json, csv) =
        (line.target()?, Filter::of(line, &zone)?, line.has("json"), line.has("csv"));
    let follows = line.has("follow");
    match (json, csv, follows) {
        (true, true, _) => return Err("--json and --csv contradict each other".to_owned()),
        (_, true, true) => return Err("--follow prints lines or --json, but not --csv".to_owned()),
        (_, _, _) => {}
    }
    Ok(Box::new(move |out| {
        let mut client = Client::connect(&target)?;
        if follows {
            let style = Style { zone, json };
            client.catch_interrupt()?;
            return follow(&mut client, Which::All(filter), &style, None, out);
        }
        let document = client.query(JOBS)?;
        let jobs = filter.select(&document);
        if json {
            out.line(&json!(jobs).to_string())
        } else if csv {
            out.text(&csv_text(&jobs))
        } else {
            out.text(&jobs_text(&document, &jobs, &zone, out.width()))
        }
    }))
}

/// The jobs of the document that have not finished.
pub(super) fn unfinished(document: &Value) -> Vec<&Value> {
    document.as_array().into_iter().flatten().filter(|job| is_unfinished(job)).collect()
}

/// Some of the document's jobs as a table. What they lack is shown as a dash. If it is for a terminal, it fits that, and ids are
/// shortened to what means one job.
pub(super) fn jobs_text(document: &Value, jobs: &[&Value], zone: &Zone, width: Option<usize>) -> String {
    if jobs.is_empty() {
        return match document.as_array().map_or(0, Vec::len) {
            0 => "no jobs\n".to_owned(),
            known => format!("none of the {known} known jobs (all: ocps jobs --all)\n"),
        };
    }
    // An id must not begin a run id either: both are looked for.
    let ids = document.as_array().into_iter().flatten();
    let ids: Vec<String> =
        ids.flat_map(|job| ["job_id", "run_id"].map(|key| value(job, key))).flatten().collect();
    let name = |job: &Value| {
        let id = id(job)?;
        Some(if width.is_some() { shortest(&id, ids.iter().map(String::as_str)) } else { id })
    };
    let column = |(heading, member, least, rank): (&str, &str, usize, u8)| {
        let is_time = member.ends_with("_utc");
        let cell = |job: &&Value| match member {
            "job" => name(job),
            "elapsed" => duration(elapsed(job)?),
            "state" => state_text(job),
            _ if is_time => zone.show(job.get(member)?.as_str()?),
            _ => value(job, member),
        };
        let cells: Vec<Option<String>> = jobs.iter().map(cell).collect();
        let is_shown = member != "ended_utc" || cells.iter().any(Option::is_some);
        let heading = if is_time { format!("{heading} ({})", zone.name()) } else { heading.to_owned() };
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| UNKNOWN.to_owned()));
        is_shown.then(|| Column { cells: [heading].into_iter().chain(cells).collect(), least, rank })
    };
    table(&fit(COLUMNS.into_iter().filter_map(column).collect(), width))
}

/// The jobs as comma-separated values, with a heading.
fn csv_text(jobs: &[&Value]) -> String {
    let quoted = |text: String| {
        let is_plain = !text.contains([',', '"', '\n', '\r']);
        if is_plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
    };
    let cell = |job: &Value, name: &str| match (name, job.get(name)) {
        ("elapsed_s", _) => elapsed(job).map(|seconds| format!("{seconds:.3}")).unwrap_or_default(),
        (_, None | Some(Value::Null)) => String::new(),
        (_, Some(Value::String(text))) => quoted(text.clone()),
        (_, Some(other)) => quoted(other.to_string()),
    };
    let row = |job: &&Value| CSV.split(',').map(|name| cell(job, name)).collect::<Vec<_>>().join(",");
    [CSV.to_owned()].into_iter().chain(jobs.iter().map(row)).map(|row| format!("{row}\n")).collect()
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
            json!({"run_id": "6-x", "stage": "waiting", "waits_for": ["a", "b", "c", "d", "e"], "missing_prereqs": ["z"]}),
            json!({"stage": "running", "phase": null}),
            json!({"stage": "aborting", "phase": "executing"}),
            json!({"stage": "finished", "outcome": "aborted", "exit_code": 255, "age_s": 100.0, "ended_s": 60.0,
                   "ended_utc": "2026-11-22T14:01:00.000Z", "problem": "abort_job of ana@h", "new": 1}),
            json!(7),
        ];
        let expected = "\
JOB  ACCEPTED (UTC)       ENDED (UTC)          ELAPSED  RUN ID  USER            PIPELINE   STATE
j1   2026-11-22 14:00:23  -                    1m01s    5-x     root@localhost  true.yaml  queued: timeout
6-x  -                    -                    -        6-x     -               -          \
waiting for a, b, c and 2 more; prerequisite z does not exist
-    -                    -                    -        -       -               -          running
-    -                    -                    -        -       -               -          aborting
-    -                    2026-11-22 14:01:00  40.0s    -       -               -          aborted by ana@h
-    -                    -                    -        -       -               -          -
";
        let document = json!(jobs);
        let text = |jobs: &[&Value], width| jobs_text(&document, jobs, &Zone::UTC, width);
        assert_eq!(text(&jobs.iter().collect::<Vec<_>>(), None), expected);
        assert_eq!(text(&[], None), "none of the 6 known jobs (all: ocps jobs --all)\n");
        assert_eq!(jobs_text(&json!([]), &[], &Zone::UTC, None), "no jobs\n");
        assert_eq!(unfinished(&document), [&jobs[0], &jobs[1], &jobs[2], &jobs[3], &jobs[5]]);
        let expected = "\
JOB  ACCEPTED (UTC)       ELAPSED  USER      PIPELINE  STATE
j1   2026-11-22 14:00:23  1m01s    root@lo…  true.ya…  queued: timeout
6-x  -                    -        -         -         waiting for a, b, c and 2…
";
        assert_eq!(text(&[&jobs[0], &jobs[1]], Some(81)), expected);
        let document = json!([{"job_id": "j1", "run_id": "1-ocps1-aa"}, {"run_id": "1-ocps1-ab"}]);
        // The beginning of a run id says nothing: it is shown as a whole or not at all.
        assert!(!jobs_text(&document, &[&document[0]], &Zone::UTC, Some(62)).contains("RUN ID"));
        let shortened = jobs_text(&document, &[&document[1]], &Zone::UTC, Some(200));
        assert!(shortened.contains("\n1-ocps1-ab  "), "{shortened}");
        assert!(!text(&[&jobs[0]], Some(60)).contains("USER") && !text(&[&jobs[0]], Some(1)).is_empty());
    }

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let job = json!({"job_id": "j", "seq_num": 3, "pipeline": "a,\"b\"", "reason": null, "age_s": 2.5,
                         "ended_s": 1.0, "version": "w\n1"});
        let heading = "job_id,run_id,seq_num,identity,pipeline,version,data_query,stage,phase,outcome,reason,exit_code,\
                       accepted_utc,ended_utc,elapsed_s";
        let expected = format!("{heading}\nj,,3,,\"a,\"\"b\"\"\",\"w\n1\",,,,,,,,,1.500\n");
        assert_eq!(csv_text(&[&job]), expected);
    }
}
