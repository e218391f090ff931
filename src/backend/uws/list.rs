//! The service's list of jobs, read piece by piece. Invariant: only what was asked for is kept,
//! and nothing that one element contains makes the others unreadable.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Deserializer, Error};

use crate::csc::event::Phase;
use crate::csc::id::{Fingerprint, JobId, RunId};
use crate::csc::request::{Listed, ListedJob, Shown, Wanted};

/// Maximum number of jobs of one run in one answer. There should be one; if there are more, the next list shows the rest,
/// after these have been removed.
const OF_RUN_MAX: usize = 16;

/// How much is read at once, in bytes, unless an element is larger.
const PIECE: usize = 64 * 1024;

/// Reads the array and takes the jobs that are wanted; an element without the ids that are needed is skipped, and a job
/// that is there twice is taken once. At most twice the largest element, and a piece, are in memory.
///
/// # Errors
/// The reader failed; or the text is no array, or is cut off, and there is a [`serde_json::Error`] inside.
pub(super) fn read(mut reader: impl Read, wanted: &Wanted) -> io::Result<Listed> {
    let found = Found { wanted, of_runs: HashMap::new(), listed: Listed::default() };
    let (mut found, mut next) = (found, Next::Begin);
    let (mut text, mut at, mut end, mut is_whole) = (Vec::new(), 0, 0, false);
    // The text is cut only behind such a byte: a number that is cut would seem to be complete.
    let is_boundary = |byte: &u8| b"{}[],\"".contains(byte);
    loop {
        match found.step(text.get(at..end).unwrap_or_default(), next) {
            Ok(Some((length, then))) => (at, next) = (at + length, then),
            Ok(None) if is_whole && next == Next::Nothing => return Ok(found.listed),
            Ok(None) if is_whole => return Err(Error::custom("the list is cut off").into()),
            Err(error) if is_whole || !error.is_eof() => return Err(error.into()),
            Ok(None) | Err(_) => {
                text.drain(..at);
                at = 0;
                let wanted = text.len().max(PIECE);
                is_whole = reader.by_ref().take(wanted as u64).read_to_end(&mut text)? < wanted;
                let last = text.iter().rposition(is_boundary).map_or(0, |last| last + 1);
                end = if is_whole { text.len() } else { last };
            }
        }
    }
}

/// What may come next in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Begin,
    FirstOrEnd,
    Element,
    CommaOrEnd,
    Nothing,
}

/// The jobs that were taken so far.
struct Found<'a> {
    wanted: &'a Wanted,
    listed: Listed,
    /// Those that were asked for by their runs.
    of_runs: HashMap<RunId, BTreeSet<JobId>>,
}

impl Found<'_> {
    /// Reads what comes next; gives its length and what may follow, or none if there are only blanks.
    fn step(&mut self, text: &[u8], next: Next) -> Result<Option<(usize, Next)>, Error> {
        let Some(blanks) = text.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(None) };
        let text = text.get(blanks..).unwrap_or_default();
        let (length, then) = match (next, text.first()) {
            (Next::Begin, Some(b'[')) => (1, Next::FirstOrEnd),
            (Next::FirstOrEnd | Next::CommaOrEnd, Some(b']')) => (1, Next::Nothing),
            (Next::CommaOrEnd, Some(b',')) => (1, Next::Element),
            (Next::FirstOrEnd | Next::Element, _) => (self.element(text)?, Next::CommaOrEnd),
            (Next::Begin, _) => return Err(Error::custom("it is no array")),
            (Next::CommaOrEnd | Next::Nothing, _) => {
                return Err(Error::custom("there is something between or behind its elements"));
            }
        };
        Ok(Some((blanks + length, then)))
    }

    /// Reads the element that the text begins with; gives its length.
    fn element(&mut self, text: &[u8]) -> Result<usize, Error> {
        match first::<Element<'_>>(text) {
            Ok((element, length)) => {
                self.note(&element);
                Ok(length)
            }
            Err(error) if error.is_eof() => Err(error),
            Err(_) => first::<IgnoredAny>(text).map(|(_, length)| length),
        }
    }

    fn note(&mut self, element: &Element<'_>) {
        let (phase, ended) = (element.phase(), element.ended());
        self.listed.note(self.wanted, Fingerprint::of(&element.job_id), Shown { phase, ended });
        if !self.wanted.wants_run(&element.run_id, phase) {
            return;
        }
        let (Ok(job_id), Some(run_id)) = (JobId::parse(&element.job_id), RunId::parse(&element.run_id))
        else {
            return;
        };
        let of_run = self.of_runs.entry(run_id.clone()).or_default();
        if of_run.len() < OF_RUN_MAX && of_run.insert(job_id.clone()) {
            self.listed.jobs.push(ListedJob { job_id, run_id, phase, ended });
        }
    }
}

/// The value that the text begins with, and its length.
fn first<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<(T, usize), Error> {
    let mut values = Deserializer::from_slice(text).into_iter();
    let value = values.next().unwrap_or_else(|| Err(Error::custom("there is no value")))?;
    Ok((value, values.byte_offset()))
}

/// The fields of an element that are read.
#[derive(Deserialize)]
struct Element<'a> {
    #[serde(rename = "jobId", borrow)]
    job_id: Cow<'a, str>,
    #[serde(rename = "runId", borrow)]
    run_id: Cow<'a, str>,
    #[serde(borrow)]
    phase: Option<&'a RawValue>,
    #[serde(rename = "endTime", borrow)]
    end_time: Option<&'a RawValue>,
}

impl Element<'_> {
    /// Without a phase it does not count as active.
    fn phase(&self) -> Phase {
        let phase = self.phase.and_then(|raw| serde_json::from_str(raw.get()).ok());
        phase.map_or(Phase::Unknown, Phase::parse)
    }

    fn ended(&self) -> Option<i64> {
        let time: Cow<'_, str> = serde_json::from_str(self.end_time?.get()).ok()?;
        Some(time.parse::<Timestamp>().ok()?.as_second())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::csc::id::SalIndex;

    fn picked(json: &str) -> io::Result<Vec<String>> {
        let run_ids: BTreeSet<RunId> = ["1-a", "2-b"].iter().filter_map(|id| RunId::parse(id)).collect();
        let job_ids = HashSet::from([Fingerprint::of("k1")]);
        picked_by(json, &Wanted { run_ids: run_ids.into(), job_ids: job_ids.into(), active_of: None })
    }

    fn picked_by(json: &str, wanted: &Wanted) -> io::Result<Vec<String>> {
        let listed = read(json.as_bytes(), wanted)?;
        let named = listed.named.iter().map(|(id, job)| {
            assert_eq!(*id, Fingerprint::of("k1"));
            format!("k1 {}", job.phase.as_str())
        });
        Ok(listed.jobs.iter().map(|job| format!("{} {}", job.job_id, job.run_id)).chain(named).collect())
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
            (
                r#"[{"jobId":"k1","runId":"9-z","phase":"held"},{"jobId":"k2","runId":"9-z"},{"jobId":"k1","runId":"9-z"}]"#,
                &["k1 held"],
            ),
            (r#"[{"jobId":"k1","runId":"a b","phase":"held"}]"#, &["k1 held"]),
            (r#"[{"jobId":"k1","runId":"1-a","phase":"executing"}]"#, &["k1 1-a", "k1 executing"]),
            (&deep, &[]),
        ] {
            assert_eq!(picked(json).unwrap(), expected, "{json:.200}");
        }
    }

    #[test]
    fn jobs_that_run_for_an_index_are_found_by_their_run_ids() {
        let run_ids = BTreeSet::from([RunId::parse("1-a").unwrap()]).into();
        let wanted = Wanted { run_ids, active_of: Some(SalIndex::LsstComCam), ..Wanted::default() };
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
        let phases = read(json.as_bytes(), &wanted).unwrap().jobs.into_iter().map(|job| job.phase);
        let expected = [Phase::Completed, Phase::Active, Phase::Held, Phase::Pending];
        assert_eq!(phases.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_time_of_an_end_is_taken_if_it_is_one() {
        for (end_time, expected) in [
            (r#""2026-11-22 18:36:05+00:00""#, Some(1_795_372_565)),
            (r#""2026-11-22T15:36:05.5-03:00""#, Some(1_795_372_565)),
            (r#""2026-11-22 18:36:05""#, None),
            (r#""yesterday""#, None),
            ("null", None),
            ("1795372565", None),
            (r#"{"x":[]}"#, None),
        ] {
            let json =
                format!(r#"[{{"jobId":"j1","runId":"1-a","phase":"completed","endTime":{end_time}}}]"#);
            let wanted = Wanted {
                run_ids: BTreeSet::from([RunId::parse("1-a").unwrap()]).into(),
                ..Wanted::default()
            };
            let ended = read(json.as_bytes(), &wanted).unwrap().jobs.into_iter().map(|job| job.ended);
            assert_eq!(ended.collect::<Vec<_>>(), [expected], "{end_time}");
        }
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
    fn it_is_the_same_list_wherever_a_piece_of_it_ends() {
        for length in PIECE - 60..PIECE {
            let text = "]".repeat(length);
            let json = format!(
                r#"[{{"a":"{text}","n":-12.5e3,"jobId":"j1","runId":"1-a"}} , -12.5e3,null,{{"jobId":"j2","runId":"1-a"}}]"#
            );
            assert_eq!(picked(&json).unwrap(), ["j1 1-a", "j2 1-a"], "{length}");
        }
    }

    #[test]
    fn however_many_runs_are_asked_for_all_are_found() {
        let run_ids: BTreeSet<RunId> = (0..30_000).filter_map(|n| RunId::parse(&format!("{n}-a"))).collect();
        let jobs: Vec<_> = (0..30_000).map(|n| format!(r#"{{"jobId":"j{n}","runId":"{n}-a"}}"#)).collect();
        let wanted = Wanted { run_ids: run_ids.into(), ..Wanted::default() };
        let found = read(format!("[{}]", jobs.join(",")).as_bytes(), &wanted).unwrap();
        assert_eq!(found.jobs.len(), 30_000);
    }

    #[test]
    fn of_many_jobs_of_one_run_some_are_kept_and_each_that_was_named() {
        let job = |id: &str| format!(r#"{{"jobId":"{id}","runId":"1-a"}}"#);
        let mut many: Vec<_> = (0..1000).map(|n| job(&n.to_string())).collect();
        many.push(job("k1"));
        let found = picked(&format!("[{}]", many.join(","))).unwrap();
        assert_eq!((found.len(), found.last().unwrap().as_str()), (OF_RUN_MAX + 1, "k1 unknown"));
    }
}
