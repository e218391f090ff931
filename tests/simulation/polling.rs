//! Each job whose id was published is asked for often enough, singly or by a list that shows it, and its end is noticed
//! in time, whatever the lists say. Time counts only while the process runs and the job's service answers.

use std::collections::BTreeMap;
use std::time::Duration;

use ocps::csc::id::JobId;
use ocps::csc::request::{Answer, Shown, Ticket};

use super::excuses;
use super::plan::secs;
use super::service::{Job, Service, run_of};

/// Longest time in which a job is not polled: GETs that time out after 30 s, those of some aborts among them, one after the
/// other on one connection.
const UNASKED_MAX: Duration = secs(600);
/// Longest time from the end of a job to its result: a poll whose answer is lost takes 30 s too, and so may the next ones.
const UNNOTICED_MAX: Duration = secs(600);
/// More does not pass between two turns of a process that runs.
const STEP_MAX: Duration = secs(1);

#[derive(Clone, Debug)]
struct Followed {
    /// Which of the services it is at.
    at: usize,
    /// When it was last asked for, on the clock of its service.
    asked: Duration,
    /// Since when it is known and has ended.
    ended: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Polling {
    jobs: BTreeMap<JobId, Followed>,
    /// Polls of ours that were not answered.
    polls: BTreeMap<Ticket, JobId>,
    /// How long each service has answered while the process ran.
    clocks: [Duration; 2],
    last_turn: Duration,
    pub(crate) longest_unasked: Duration,
    pub(crate) longest_unnoticed: Duration,
}

impl Polling {
    /// Its id is published.
    pub(crate) fn follow(&mut self, job_id: &JobId, services: &[Service]) {
        let Some(at) = services.iter().position(|service| service.job(job_id).is_some()) else { return };
        let asked = self.clocks[at];
        self.jobs.insert(job_id.clone(), Followed { at, asked, ended: None });
    }

    /// It has ended, or it is being aborted, perhaps by the name of its run.
    pub(crate) fn forget(&mut self, name: &JobId, services: &[Service]) {
        let is_its = |run_id: &ocps::csc::id::RunId| run_id.as_str() == name.as_str();
        self.jobs.retain(|job_id, _| job_id != name && !run_of(services, job_id).is_some_and(is_its));
    }

    /// The process has ended.
    pub(crate) fn end(&mut self) {
        self.jobs.clear();
        self.polls.clear();
    }

    /// A job of ours is polled.
    pub(crate) fn polled(&mut self, ticket: Ticket, job_id: &JobId) {
        // One that is aborted is polled no more, but the poll that is out is still carried out.
        let is_out = self.jobs.contains_key(job_id) && self.polls.values().any(|polled| polled == job_id);
        assert!(!is_out, "{job_id} is asked for although that was not answered");
        self.polls.insert(ticket, job_id.clone());
        self.asked(job_id);
    }

    fn asked(&mut self, job_id: &JobId) {
        if let Some(job) = self.jobs.get_mut(job_id) {
            job.asked = self.clocks[job.at];
        }
    }

    pub(crate) fn answered(&mut self, ticket: Ticket, answer: &Answer) {
        self.polls.remove(&ticket);
        if let Answer::List(Ok(listed)) = answer {
            for (job_id, job) in &mut self.jobs {
                let shown = listed.named.get(&job_id.fingerprint());
                if shown.and_then(Shown::active).is_some() {
                    job.asked = self.clocks[job.at];
                }
            }
        }
    }

    pub(crate) fn turned(&mut self, now: Duration, services: &[Service]) {
        let passed = now.saturating_sub(self.last_turn).min(STEP_MAX);
        self.last_turn = now;
        for (clock, service) in self.clocks.iter_mut().zip(services) {
            *clock += if service.answers(now) { passed } else { Duration::ZERO };
        }
        for (job_id, job) in &mut self.jobs {
            if excuses::is_lied_about(services, job_id.as_str()) {
                continue;
            }
            let clock = self.clocks[job.at];
            // One that has vanished by then takes a list, which may fail for long.
            let has_ended = |job: &Job| job.is_listed(now) && !job.is_running(now);
            if services[job.at].job(job_id).is_some_and(has_ended) {
                let unnoticed = clock - *job.ended.get_or_insert(clock);
                assert!(unnoticed < UNNOTICED_MAX, "the end of {job_id} is not noticed");
                self.longest_unnoticed = self.longest_unnoticed.max(unnoticed);
            }
            assert!(clock - job.asked < UNASKED_MAX, "{job_id} is not asked for");
            self.longest_unasked = self.longest_unasked.max(clock - job.asked);
        }
    }
}
