//! The service's list of jobs, read as a stream. Invariant: only what was asked for is kept,
//! and nothing that one element contains makes the others unreadable.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};

use serde::Deserialize;
use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::backend::Wanted;
use crate::csc::event::Phase;
use crate::csc::id::{JobId, RunId};
use crate::csc::request::ListedJob;
use crate::json::elements;

/// Most jobs of one run in one answer. There should be one; of more the rest is found with the next list, when these
/// have been removed.
const OF_RUN_MAX: usize = 16;

/// Reads the array and picks the jobs that are wanted; what is no usable job is skipped,
/// and a job that is there twice counts once.
///
/// # Errors
/// The text is no array, is cut off, or the reader failed.
pub(super) fn read(reader: impl Read, wanted: &Wanted<'_>) -> Result<Vec<ListedJob>, serde_json::Error> {
    let mut seen: BTreeMap<RunId, BTreeSet<JobId>> = BTreeMap::new();
    let mut jobs = Vec::new();
    elements(Deserializer::from_reader(BufReader::new(reader)), |element| {
        let Some(job) = pick(element, wanted) else { return };
        let of_run = seen.entry(job.run_id.clone()).or_default();
        let is_new = of_run.insert(job.job_id.clone());
        if is_new && (of_run.len() <= OF_RUN_MAX || wanted.job_ids.contains(&job.job_id)) {
            jobs.push(job);
        }
    })?;
    Ok(jobs)
}

/// What counts of an element.
#[derive(Deserialize)]
struct Element<'a> {
    #[serde(rename = "jobId", borrow)]
    job_id: Cow<'a, str>,
    #[serde(rename = "runId", borrow)]
    run_id: Cow<'a, str>,
    #[serde(borrow)]
    phase: Option<&'a RawValue>,
}

/// The job of an element, if it is wanted. One without a phase is not known to be active.
fn pick(element: &str, wanted: &Wanted<'_>) -> Option<ListedJob> {
    let Element { job_id, run_id, phase } = serde_json::from_str(element).ok()?;
    let phase: Option<String> = phase.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let phase = phase.map_or(Phase::Unknown, |phase| Phase::parse(&phase));
    let job = ListedJob { job_id: JobId::parse(&job_id).ok()?, run_id: RunId::parse(&run_id)?, phase };
    wanted.has(&job).then_some(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csc::id::SalIndex;

    fn picked(json: &str) -> Result<Vec<String>, serde_json::Error> {
        let run_ids = ["1-a", "2-b"].iter().filter_map(|id| RunId::parse(id)).collect();
        let job_ids = JobId::parse("k1").into_iter().collect();
        picked_by(json, &Wanted { run_ids: &run_ids, job_ids: &job_ids, active_of: None })
    }

    fn picked_by(json: &str, wanted: &Wanted<'_>) -> Result<Vec<String>, serde_json::Error> {
        let jobs = read(json.as_bytes(), wanted)?;
        Ok(jobs.iter().map(|j| format!("{} {}", j.job_id, j.run_id)).collect())
    }

    #[test]
    fn only_usable_jobs_of_the_run_ids_asked_for_are_kept() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        for (json, expected) in [
            ("[]", &[][..]),
            (" [ ] ", &[]),
            (r#"[{"jobId":"j1","runId":"1-a"},{"jobId":"j2","runId":"9-z"}]"#, &["j1 1-a"]),
            (
                r#"[{"runId":"1-a","phase":"error","jobId":"j1"},{"jobId":"j3","runId":"1-a"}]"#,
                &["j1 1-a", "j3 1-a"],
            ),
            (r#"[{"jobId":"j1","runId":"1-a"},{"jobId":"j1","runId":"1-a"}]"#, &["j1 1-a"]),
            (
                r#"[null,1,1e999,"x","\udcff",true,[],{},[[{"jobId":"j9","runId":"1-a"}]],{"jobId":"j1","runId":"2-b"}]"#,
                &["j1 2-b"],
            ),
            (
                r#"[{"jobId":7,"runId":"1-a"},{"jobId":"../x","runId":"1-a"},{"jobId":"","runId":"1-a"},{"jobId":"j1","runId":["1-a"]},{"jobId":"j1"}]"#,
                &[],
            ),
            (r#"[{"jobId":"j1","runId":"1-a","results":[{"uri":"\udcff"}]}]"#, &["j1 1-a"]),
            (r#"[{"jobId":"\udcff","runId":"1-a"},{"jobId":"j1","jobId":"j2","runId":"1-a"}]"#, &[]),
            (r#"[{"jobId":"k1","runId":"9-z"},{"jobId":"k2","runId":"9-z"}]"#, &["k1 9-z"]),
            (&deep, &[]),
        ] {
            assert_eq!(picked(json).unwrap(), expected, "{json:.200}");
        }
    }

    #[test]
    fn jobs_that_run_for_an_index_are_found_by_their_run_ids() {
        let run_ids = [RunId::parse("1-a").unwrap()].into();
        let job_ids = BTreeSet::new();
        let wanted = Wanted { run_ids: &run_ids, job_ids: &job_ids, active_of: Some(SalIndex::LsstComCam) };
        let json = r#"[
            {"jobId":"j1","runId":"1-a","phase":"completed"},
            {"jobId":"j2","runId":"7-ocps2-abc","phase":"executing"},
            {"jobId":"j3","runId":"7-ocps2-abd","phase":"held"},
            {"jobId":"j4","runId":"7-ocps2-abe","phase":"completed"},
            {"jobId":"j5","runId":"7-ocps2-abf","phase":"error"},
            {"jobId":"j6","runId":"7-ocps1-abc","phase":"executing"},
            {"jobId":"j7","runId":"7-abc","phase":"executing"},
            {"jobId":"j8","runId":"7-ocps2-abg"},
            {"jobId":"j9","runId":"7-ocps2-abh","phase":["executing"]},
            {"jobId":"j10","runId":"7-ocps2-abi","phase":"pending"}
        ]"#;
        assert_eq!(
            picked_by(json, &wanted).unwrap(),
            ["j1 1-a", "j2 7-ocps2-abc", "j3 7-ocps2-abd", "j10 7-ocps2-abi"]
        );
        let phases = read(json.as_bytes(), &wanted).unwrap().into_iter().map(|job| job.phase);
        let expected = [Phase::Completed, Phase::Active, Phase::Held, Phase::Pending];
        assert_eq!(phases.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_whole_array_fails() {
        for json in [
            "",
            "{}",
            "\"\"",
            "null",
            "[",
            "[1",
            "[1,",
            "[1] x",
            "[{\"jobId\":\"j1\",\"runId\":\"1-a\"}",
            "<html>",
        ] {
            assert!(picked(json).is_err(), "{json}");
        }
    }

    #[test]
    fn however_many_runs_are_asked_for_all_are_found() {
        let run_ids: BTreeSet<RunId> = (0..30_000).filter_map(|n| RunId::parse(&format!("{n}-a"))).collect();
        let jobs: Vec<_> = (0..30_000).map(|n| format!(r#"{{"jobId":"j{n}","runId":"{n}-a"}}"#)).collect();
        let wanted = Wanted { run_ids: &run_ids, job_ids: &BTreeSet::new(), active_of: None };
        let found = read(format!("[{}]", jobs.join(",")).as_bytes(), &wanted).unwrap();
        assert_eq!(found.len(), 30_000);
    }

    #[test]
    fn of_many_jobs_of_one_run_some_are_kept_and_each_that_was_named() {
        let job = |id: &str| format!(r#"{{"jobId":"{id}","runId":"1-a"}}"#);
        let mut many: Vec<_> = (0..1000).map(|n| job(&n.to_string())).collect();
        many.push(job("k1"));
        let found = picked(&format!("[{}]", many.join(","))).unwrap();
        assert_eq!((found.len(), found.last().unwrap().as_str()), (OF_RUN_MAX + 1, "k1 1-a"));
    }
}
