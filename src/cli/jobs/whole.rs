//! `ocps job`: what the daemon knows of one job.

use serde_json::Value;

use super::{elapsed, ids, state_text};
use crate::cli::Task;
use crate::cli::client::{Client, JOBS};
use crate::cli::find::find;
use crate::cli::flags::Line;
use crate::cli::text::{duration, fill, value};
use crate::cli::times::Zone;

/// Width of the names in front.
const COLUMN: usize = 15;

/// `ocps job`.
pub(in crate::cli) fn task(line: &Line) -> Result<Task, String> {
    let [id] = *line.words(1)? else {
        return Err("no ID: the beginning of a job id or run id, as in ocps jobs".to_owned());
    };
    let (target, zone, json, id) = (line.target()?, Zone::of(line), line.has("json"), id.to_owned());
    Ok(Box::new(move |out| {
        let document = Client::connect(&target)?.query(JOBS)?;
        let job = find(&document, &id)?;
        if json { out.line(&job.to_string()) } else { out.text(&text(job, &zone)) }
    }))
}

/// The job as lines; what it lacks is left out.
fn text(job: &Value, zone: &Zone) -> String {
    let time = |key: &str| zone.show_in_full(job.get(key)?.as_str()?);
    let list = |key: &str| Some(ids(job, key).join(", ")).filter(|ids| !ids.is_empty());
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
        ("polled", fill(job, "{polled_s} ago")),
        ("waits for", list("waits_for")),
        ("missing", list("missing_prereqs")),
    ];
    let line = |(name, text): (&str, Option<String>)| text.map(|text| format!("{name:COLUMN$}{text}\n"));
    lines.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_lines_of_what_is_known() {
        let job = json!({"job_id": "j1", "run_id": "5-x", "identity": "root@localhost", "pipeline": "true.yaml",
                         "seq_num": 7, "origin": 12, "version": "", "stage": "waiting", "phase": null, "output_glob": "*",
                         "accepted_utc": "2026-11-22T14:00:23.504Z", "ended_utc": null, "age_s": 61.0, "polled_s": 0.52,
                         "waits_for": ["a", "b", "c", "d"], "missing_prereqs": []});
        let expected = "\
job            j1
run            5-x
state          waiting for a, b, c and 1 more
pipeline       true.yaml
outputs        *
sender         root@localhost, command 7, origin 12
accepted       2026-11-22 14:00:23 UTC
elapsed        1m01s
polled         0.5s ago
waits for      a, b, c, d
";
        assert_eq!(text(&job, &Zone::UTC), expected);
        assert_eq!(text(&json!(7), &Zone::UTC), "");
    }
}
