//! Which jobs `ocps jobs` lists.

use jiff::Timestamp;
use serde_json::Value;
use strum::VariantNames;
use wildmatch::WildMatch;

use crate::cli::flags::{Line, shown, unknown};
use crate::cli::times::Zone;
use crate::csc::event::Phase;
use crate::csc::report::{JobOutcome, StageName};
use crate::display::job::is_unfinished;

/// The flags of `ocps jobs` that select jobs.
pub(in crate::cli) struct Filter {
    /// Whether finished jobs are listed too.
    all: bool,
    /// Only jobs that ended after this time or have not ended.
    since: Option<Timestamp>,
    /// Only jobs that were accepted before this time.
    until: Option<Timestamp>,
    /// Only jobs in one of these stages, phases or outcomes; empty: in any.
    states: Vec<&'static str>,
    pipeline: Option<WildMatch>,
    user: Option<WildMatch>,
    /// Maximum number of jobs; the last ones are listed.
    limit: usize,
}

impl Filter {
    pub(super) fn of(line: &Line, zone: &Zone) -> Result<Self, String> {
        let now = Timestamp::now();
        let time = |flag| line.value(flag, |text| zone.parse(text, now));
        let glob = |flag| line.value(flag, |text| Ok(WildMatch::new(text)));
        let (since, until) = (time("since")?, time("until")?);
        let mut states = line.value("phase", states)?.unwrap_or_default();
        if line.has("failed") {
            states.extend(
                [JobOutcome::Failed, JobOutcome::Vanished, JobOutcome::Refused].map(JobOutcome::as_str),
            );
        }
        Ok(Self {
            all: line.has("all") || since.is_some() || until.is_some() || !states.is_empty(),
            since,
            until,
            states,
            pipeline: glob("pipeline")?,
            user: glob("user")?,
            limit: line.value("limit", limit)?.unwrap_or(usize::MAX),
        })
    }

    /// Removes the limit, and includes finished jobs.
    pub(in crate::cli) fn widen(&mut self) {
        (self.all, self.limit) = (true, usize::MAX);
    }

    /// The jobs of the daemon's list that match.
    pub(in crate::cli) fn select<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let jobs = document.as_array().into_iter().flatten();
        let mut jobs: Vec<&Value> = jobs.filter(|job| self.takes(job)).collect();
        jobs.split_off(jobs.len().saturating_sub(self.limit))
    }

    fn takes(&self, job: &Value) -> bool {
        let text = |key| job.get(key).and_then(Value::as_str);
        let time = |key| text(key)?.parse::<Timestamp>().ok();
        // The name of the user alone, or with the host.
        let is_of = |user: &WildMatch, identity: &str| {
            user.matches(identity) || identity.split('@').next().is_some_and(|name| user.matches(name))
        };
        let is_in = |key| text(key).is_some_and(|word| self.states.contains(&word));
        let is_pipeline = |glob: &WildMatch| text("pipeline").is_some_and(|text| glob.matches(text));
        let (accepted, ended) = (time("accepted_utc"), time("ended_utc"));
        (self.all || is_unfinished(job))
            && self.since.is_none_or(|since| ended.is_none_or(|ended| ended >= since))
            && self.until.is_none_or(|until| accepted.is_some_and(|accepted| accepted <= until))
            && (self.states.is_empty() || ["stage", "phase", "outcome"].into_iter().any(is_in))
            && self.pipeline.as_ref().is_none_or(is_pipeline)
            && self.user.as_ref().is_none_or(|user| text("identity").is_some_and(|text| is_of(user, text)))
    }
}

/// The value of `--phase`: stages, phases and outcomes, joined with commas.
fn states(text: &str) -> Result<Vec<&'static str>, String> {
    let phases = [Phase::Pending, Phase::Queued, Phase::Active, Phase::Held, Phase::Suspended, Phase::Other];
    let known = StageName::UNFINISHED.map(StageName::as_str).into_iter();
    let known = known.chain(phases.map(Phase::as_str)).chain(JobOutcome::VARIANTS.iter().copied());
    let known: Vec<&'static str> = known.collect();
    let state = |word: &str| {
        let found = known.iter().find(|known| known.eq_ignore_ascii_case(word));
        found.copied().ok_or_else(|| {
            let problem = unknown("state", word, known.iter().copied());
            // Then it says already which one was probably meant.
            if problem.ends_with('?') {
                problem
            } else {
                format!("{problem}: it is one of {}", known.join(", "))
            }
        })
    };
    text.split(',').map(state).collect()
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| format!("{} is not a count", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::{line, problem};
    use serde_json::json;

    #[test]
    fn jobs_are_chosen_by_time_state_pipeline_and_user() {
        let jobs = json!([
            {"job_id": "a", "stage": "finished", "outcome": "completed", "identity": "root@h", "pipeline": "p/drp.yaml",
             "accepted_utc": "2026-11-22T10:00:00.000Z", "ended_utc": "2026-11-22T11:00:00.000Z"},
            {"job_id": "b", "stage": "finished", "outcome": "refused", "identity": "ana@h", "pipeline": "cal.yaml",
             "accepted_utc": "2026-11-22T12:00:00.000Z", "ended_utc": "2026-11-22T12:00:01.000Z"},
            {"job_id": "c", "stage": "running", "phase": "executing", "identity": "ana@h", "pipeline": "drp.yaml",
             "accepted_utc": "2026-11-22T13:00:00.000Z", "ended_utc": null},
            7
        ]);
        let check = |flags: &str, expected: &str| {
            let words: Vec<&str> = ["ocps", "jobs", "--utc"].into_iter().chain(flags.split(' ')).collect();
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let filter = Filter::of(&line(&words), &Zone::UTC).unwrap();
            let ids = filter.select(&jobs).into_iter().map(|job| job["job_id"].as_str().unwrap_or("7"));
            assert_eq!(ids.collect::<String>(), expected, "{flags}");
        };
        check("", "c7");
        check("--all", "abc7");
        check("--all --limit 2", "c7");
        check("--since 2026-11-22T11:30", "bc7");
        check("--since 2026-11-22T11:00 --until 2026-11-22T11:30", "a");
        check("--until 2026-11-22T12:30", "ab");
        check("--phase executing", "c");
        check("--phase running", "c");
        check("--phase Completed,refused", "ab");
        check("--failed", "b");
        check("--failed --until 2026-11-22T11:30", "");
        check("--pipeline drp*", "c");
        check("--all --pipeline *drp*", "ac");
        check("--all --user ana", "bc");
        check("--all --user *@h --pipeline cal.yam?", "b");
        let jobs = |flag: &str| problem(&["jobs", flag]);
        let expected = "--phase: unknown state faild: did you mean failed? (see ocps jobs --help)";
        assert_eq!(jobs("--phase=faild"), expected);
        let expected = "--phase: unknown state bad: it is one of recording, waiting, ";
        assert!(jobs("--phase=bad").starts_with(expected), "{}", jobs("--phase=bad"));
        assert!(jobs("--since=2").starts_with("--since: \"2\" is not a time: for example 2h"));
        for limit in ["0", "-1", "x"] {
            let expected = format!("--limit: {limit} is not a count (see ocps jobs --help)");
            assert_eq!(jobs(&format!("--limit={limit}")), expected);
        }
    }
}
