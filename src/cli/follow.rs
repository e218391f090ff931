//! Follows jobs: prints a line for each change and, on a terminal, a last line with their present state.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde_json::Value;

use super::client::{Client, JOBS};
use super::exit::{Exit, left};
use super::jobs::Filter;
use super::output::Output;
use super::times::Zone;
use super::{Failure, failed};
use crate::display::job::{elapsed, id, is_unfinished, state, state_text};
use crate::display::text::{UNKNOWN, clean, duration, value};

/// Time between two queries for the jobs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which jobs are followed.
pub(super) enum Which {
    /// These runs, until all have ended.
    Runs(Vec<String>),
    /// All jobs that match the filter.
    All(Filter),
}

/// How the changes are printed.
pub(super) struct Style {
    pub(super) zone: Zone,
    /// Whether as JSON.
    pub(super) json: bool,
}

/// Follows the jobs.
///
/// # Errors
/// [`Failure::Printed`] if all runs have ended and not all completed. Otherwise: the runs have not ended within `timeout`,
/// the daemon no longer knows one of them, the connection is lost, or ^C.
pub(super) fn follow(
    client: &mut Client,
    mut which: Which,
    style: &Style,
    timeout: Option<Duration>,
    out: &mut Output,
) -> Result<(), Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut shown = HashMap::new();
    loop {
        let document = client.query(JOBS).map_err(|lost| lost.with("before the jobs ended"))?;
        let jobs = which.select(&document)?;
        show(&jobs, &mut shown, style, out)?;
        let running: Vec<&Value> = jobs.iter().copied().filter(|job| is_unfinished(job)).collect();
        match &mut which {
            Which::Runs(_) if running.is_empty() => {
                let completed = jobs.iter().all(|job| state(job).is_some_and(|state| state == "completed"));
                return if completed { Ok(()) } else { Err(Failure::Printed(Exit::Refused)) };
            }
            Which::Runs(_) => {}
            Which::All(filter) => {
                filter.widen();
                for job in document.as_array().into_iter().flatten().filter(|job| !is_unfinished(job)) {
                    shown.entry(run_id(job)).or_insert_with(|| described(job));
                }
            }
        }
        out.live(&live_line(&running))?;
        let next = Instant::now() + LOOK_INTERVAL;
        let next = deadline.map_or(next, |deadline| deadline.min(next));
        while Instant::now() < next {
            if client.is_interrupted() {
                return Err(left(Exit::Interrupted));
            }
            client.next(Some(next)).map_err(|lost| lost.with("before the jobs ended"))?;
            out.expect_reader()?;
        }
        if let (Some(timeout), true) = (timeout, deadline.is_some_and(|deadline| deadline <= Instant::now()))
        {
            let ids: Vec<String> = running.iter().filter_map(|job| id(job)).collect();
            let seconds = timeout.as_secs_f64();
            return Err(failed(format!("not ended within {seconds} s: {}", ids.join(", "))));
        }
    }
}

impl Which {
    fn select<'a>(&self, document: &'a Value) -> Result<Vec<&'a Value>, Failure> {
        let find = |run: &String| {
            let job = document.as_array().into_iter().flatten().find(|job| run_id(job) == *run);
            job.ok_or_else(|| failed(format!("the daemon no longer knows run {}", clean(run))))
        };
        match self {
            Self::Runs(runs) => runs.iter().map(find).collect(),
            Self::All(filter) => Ok(filter.select(document)),
        }
    }
}

/// The run id of a job, not made fit for a terminal.
pub(super) fn run_id(job: &Value) -> String {
    job.get("run_id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Id and state of a job: a line is printed when they change.
fn described(job: &Value) -> String {
    let name = id(job).unwrap_or_else(|| UNKNOWN.to_owned());
    format!("{name}  {}", state_text(job).as_deref().unwrap_or(UNKNOWN))
}

/// Prints a line for each job that changed since it was last shown.
fn show(
    jobs: &[&Value],
    shown: &mut HashMap<String, String>,
    style: &Style,
    out: &mut Output,
) -> Result<(), Failure> {
    for job in jobs {
        let text = described(job);
        if shown.get(&run_id(job)) == Some(&text) {
            continue;
        }
        let after = elapsed(job).and_then(duration).map(|time| format!(", {time}")).unwrap_or_default();
        out.line(&if style.json { job.to_string() } else { format!("{}  {text}{after}", style.zone.now()) })?;
        shown.insert(run_id(job), text);
    }
    Ok(())
}

/// The present state of the unfinished jobs: a single one with its times, of several the number in each state.
fn live_line(jobs: &[&Value]) -> String {
    if let [job] = jobs {
        let elapsed = elapsed(job).and_then(duration).map(|time| format!(", {time}"));
        let polled = value(job, "polled_s").map(|time| format!(", polled {time} ago"));
        return format!("{}{}{}", described(job), elapsed.unwrap_or_default(), polled.unwrap_or_default());
    }
    let mut counts = IndexMap::<String, usize>::new();
    for word in jobs.iter().map(|job| state(job).unwrap_or_else(|| UNKNOWN.to_owned())) {
        *counts.entry(word).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("{} unfinished: {}", jobs.len(), counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_live_line_has_one_job_or_the_counts() {
        let one =
            json!({"job_id": "j", "stage": "running", "phase": "queued", "age_s": 61.0, "polled_s": 0.52});
        assert_eq!(live_line(&[&one]), "j  queued, 1m01s, polled 0.5s ago");
        let waiting = json!({"stage": "waiting"});
        assert_eq!(live_line(&[&one, &waiting, &one]), "3 unfinished: 2 queued, 1 waiting");
        assert_eq!(live_line(&[]), "0 unfinished: ");
    }
}
