//! `ocps job`: everything that the daemon knows about one job, with its history.

use std::iter;

use serde_json::Value;

use crate::cli::client::{Client, JOBS};
use crate::cli::find::find;
use crate::cli::flags::Line;
use crate::cli::follow::run_id;
use crate::cli::table::table;
use crate::cli::times::Zone;
use crate::cli::{Task, failed};
use crate::display::job::{elapsed, ids, state, state_text};
use crate::display::text::{UNKNOWN, clean, duration, fill, value};

/// Width of the names at the left, without and with the gap.
const NAME: usize = 13;
pub(in crate::cli) const COLUMN: usize = NAME + 2;

/// `ocps job`.
pub(in crate::cli) fn task(line: &Line) -> Result<Task, String> {
    let [id] = *line.words(1)? else {
        return Err("no ID: the beginning of a job id or run id, as in ocps jobs".to_owned());
    };
    let (target, zone, json, id) = (line.target()?, Zone::of(line), line.has("json"), id.to_owned());
    Ok(Box::new(move |out| {
        let mut client = Client::connect(&target)?;
        let run_id = run_id(find(&client.query(JOBS)?, &id)?);
        let job = client.job(&run_id)?;
        if job.is_null() {
            return Err(failed(format!("the daemon no longer knows run {}", clean(&run_id))));
        }
        if json { out.line(&job.to_string()) } else { out.text(&text(&job, &zone)) }
    }))
}

/// The job as lines; what is not known is left out.
pub(in crate::cli) fn text(job: &Value, zone: &Zone) -> String {
    let time = |key: &str| zone.show_in_full(job.get(key)?.as_str()?);
    let list = |key: &str| Some(ids(job, key).join(", ")).filter(|ids| !ids.is_empty());
    let delivered = job.get("undelivered").map(|_| match list("undelivered") {
        Some(what) => format!("not yet: {what}"),
        None => "yes".to_owned(),
    });
    // An abort deletes the files of the job.
    let has_files =
        fill(job, "{job_id}{service_url}").filter(|_| state(job).is_none_or(|state| state != "aborted"));
    let lines = [
        ("job", value(job, "job_id")),
        ("run", value(job, "run_id")),
        ("state", state_text(job)),
        ("pipeline", value(job, "pipeline")),
        ("version", value(job, "version")),
        ("data query", value(job, "data_query")),
        ("run options", value(job, "run_options")),
        ("outputs", value(job, "output_glob")),
        ("sender", fill(job, "{identity}, command {seq_num}, origin {origin}")),
        ("accepted", time("accepted_utc")),
        ("ended", time("ended_utc")),
        ("elapsed", elapsed(job).and_then(duration)),
        ("duration", ran(job).and_then(duration).map(|time| format!("{time} from phase executing on"))),
        ("polled", fill(job, "{polled_s} ago")),
        ("waits for", list("waits_for")),
        ("missing", list("missing_prereqs")),
        ("files", has_files.map(|_| "see ocps results and ocps logs".to_owned())),
        ("delivered", delivered.filter(|_| value(job, "ended_utc").is_some())),
    ];
    let line = |(name, text): (&str, Option<String>)| text.map(|text| format!("{name:COLUMN$}{text}\n"));
    lines.into_iter().filter_map(line).chain([history(job, zone)]).collect()
}

/// Seconds from the first poll with phase executing to the end of the job, or until now.
fn ran(job: &Value) -> Option<f64> {
    let mut notes = job.get("history")?.as_array()?.iter();
    let begun = notes.find(|note| fill(note, "{kind} {about}").as_deref() == Some("phase executing"))?;
    Some(elapsed(job)? - (begun.get("at")?.as_f64()? - job.get("accepted")?.as_f64()?))
}

/// The history of the job, a line for each entry: time, seconds since the command was accepted, and what happened.
fn history(job: &Value, zone: &Zone) -> String {
    let notes = || job.get("history").and_then(Value::as_array).into_iter().flatten();
    let since = |note: &Value| duration(note.get("at")?.as_f64()? - job.get("accepted")?.as_f64()?);
    let column = |cell: &dyn Fn(&Value) -> Option<String>| {
        notes().map(|note| cell(note).unwrap_or_else(|| UNKNOWN.to_owned())).collect::<Vec<_>>()
    };
    let names = ["history"].into_iter().chain(iter::repeat(""));
    let names = names.take(notes().count()).map(|name| format!("{name:NAME$}")).collect();
    let times = column(&|note| zone.show(note.get("at_utc")?.as_str()?));
    table(&[names, times, column(&since), column(&|note| value(note, "text"))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_lines_of_what_is_known() {
        let job = json!({"job_id": "j1", "run_id": "5-x", "identity": "root@localhost", "pipeline": "true.yaml",
                         "seq_num": 7, "origin": 12, "version": "", "stage": "waiting", "phase": null, "output_glob": "*",
                         "accepted_utc": "2026-11-22T14:00:23.504Z", "ended_utc": "2026-11-22T14:01:24.504Z", "age_s": 61.0,
                         "polled_s": 0.52,
                         "waits_for": ["a", "b", "c", "d"], "missing_prereqs": [], "undelivered": ["final ack"],
                         "accepted": 100.5, "history": [
                             {"at": 100.5, "at_utc": "2026-11-22T14:00:23.504Z", "text": "accepted from root@localhost"},
                             {"at": 131.0, "at_utc": "2026-11-22T14:00:54.004Z", "kind": "phase", "about": "executing",
                              "text": "phase executing"},
                             {"at": 99.0, "at_utc": "2026-11-22T14:01:25.000Z", "text": "phase\n"}]});
        let expected = "\
job            j1
run            5-x
state          waiting for a, b, c and 1 more
pipeline       true.yaml
outputs        *
sender         root@localhost, command 7, origin 12
accepted       2026-11-22 14:00:23 UTC
ended          2026-11-22 14:01:24 UTC
elapsed        1m01s
duration       30.5s from phase executing on
polled         0.5s ago
waits for      a, b, c, d
delivered      not yet: final ack
history        2026-11-22 14:00:23  0.0s   accepted from root@localhost
               2026-11-22 14:00:54  30.5s  phase executing
               2026-11-22 14:01:25  -      phase\\n
";
        assert_eq!(text(&job, &Zone::UTC), expected);
        assert_eq!(text(&json!(7), &Zone::UTC), "");
    }
}
