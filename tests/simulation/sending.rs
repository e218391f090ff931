//! When a job may be submitted once more: a PUT is not idempotent, and one that seems to have failed may not have.
//!
//! Within a life, after an attempt whose outcome is not known, the service's list must have been asked for twice, at
//! least `settle_time` apart, without showing the job; after a refusal once; and after what was not sent never.
//! A life that takes up a command of an earlier one does not know what that one sent.

use std::collections::HashMap;
use std::time::Duration;

use ocps::csc::id::RunId;
use ocps::csc::request::{Answer, FailureKind, ListedJob, Ticket};

use super::service::{Job, Put, Service};

/// What must be known before a job is submitted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    OneLook,
    Settled,
}

/// The submissions of one run in this life.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    is_out: bool,
    need: Need,
    /// Only lists that were asked for later count.
    after: Ticket,
    /// When the first such list was answered.
    first: Option<Duration>,
    is_settled: bool,
    /// When the last such list was made at the service.
    looked: Option<Duration>,
    /// Whether one showed the job.
    is_found: bool,
}

impl Attempt {
    fn over(need: Need, after: Ticket) -> Self {
        Self { is_out: false, need, after, first: None, is_settled: false, looked: None, is_found: false }
    }

    /// What is needed after the answer to a PUT.
    fn answered(self, answer: &Answer, last: Ticket) -> Self {
        match answer {
            Answer::Failed(failure) if failure.kind == FailureKind::NotSent => {
                Self { is_out: false, need: Need::Nothing, ..self }
            }
            Answer::Failed(failure) if failure.kind == FailureKind::Refused => {
                Self::over(Need::OneLook, last)
            }
            Answer::Failed(_)
            | Answer::Job(_)
            | Answer::Gone
            | Answer::Removed { .. }
            | Answer::Listed(_)
            | Answer::Done
            | Answer::Rejected { .. }
            | Answer::Broken { .. } => Self::over(Need::Settled, last),
        }
    }

    fn may_repeat(&self) -> bool {
        let is_known = match self.need {
            Need::Nothing => true,
            Need::OneLook => self.first.is_some(),
            Need::Settled => self.is_settled,
        };
        !self.is_out && !self.is_found && is_known
    }
}

/// The submissions and look-ups of a life.
#[derive(Debug)]
pub(crate) struct Sending {
    settle_time: Duration,
    attempts: HashMap<RunId, Attempt>,
    /// When each list was asked for.
    lists: HashMap<Ticket, Duration>,
    submissions: HashMap<Ticket, RunId>,
    last_ticket: Ticket,
    /// The last look before each PUT, of all lives.
    looks: HashMap<Put, Option<Duration>>,
}

impl Sending {
    pub(crate) fn new(settle_time: Duration) -> Self {
        Self {
            settle_time,
            attempts: HashMap::new(),
            lists: HashMap::new(),
            submissions: HashMap::new(),
            last_ticket: Ticket(0),
            looks: HashMap::new(),
        }
    }

    /// A new life, with these runs whose jobs are not known.
    pub(crate) fn begin<'a>(&mut self, in_doubt: impl Iterator<Item = &'a RunId>) {
        let attempt = |run_id: &RunId| (run_id.clone(), Attempt::over(Need::Settled, Ticket(0)));
        self.attempts = in_doubt.map(attempt).collect();
        self.lists.clear();
        self.submissions.clear();
        self.last_ticket = Ticket(0);
    }

    pub(crate) fn note(&mut self, ticket: Ticket) {
        assert!(ticket > self.last_ticket, "an old ticket");
        self.last_ticket = ticket;
    }

    pub(crate) fn list(&mut self, now: Duration, ticket: Ticket) {
        self.lists.insert(ticket, now);
    }

    pub(crate) fn submit(&mut self, life: u32, ticket: Ticket, run_id: &RunId) {
        let attempt = self.attempts.get(run_id).copied();
        if let Some(attempt) = attempt {
            assert!(attempt.may_repeat(), "{run_id} is sent again without having looked: {attempt:?}");
        }
        self.looks.insert((life, ticket), attempt.and_then(|attempt| attempt.looked));
        self.submissions.insert(ticket, run_id.clone());
        let attempt = attempt.unwrap_or(Attempt::over(Need::Nothing, ticket));
        self.attempts.insert(run_id.clone(), Attempt { is_out: true, ..attempt });
    }

    /// The core was answered; a list was made at the service at `served`.
    pub(crate) fn answered(&mut self, now: Duration, ticket: Ticket, answer: &Answer, served: Duration) {
        if let Some(run_id) = self.submissions.remove(&ticket) {
            let before = self.attempts[&run_id];
            self.attempts.insert(run_id, before.answered(answer, self.last_ticket));
        }
        if let (Some(asked), Answer::Listed(jobs)) = (self.lists.remove(&ticket), answer) {
            for (run_id, attempt) in &mut self.attempts {
                if !attempt.is_out && ticket > attempt.after {
                    attempt.is_found = jobs.iter().any(|job: &ListedJob| job.run_id == *run_id);
                    attempt.looked = Some(served);
                    let first = *attempt.first.get_or_insert(now);
                    attempt.is_settled |= asked >= first + self.settle_time;
                }
            }
        }
    }

    /// No job runs that has run to its end before and vanished, so that it could not be found any more.
    pub(crate) fn check_rerun(&self, made: &Job, service: &Service) {
        let Some((run_id, put)) = &made.made else { return };
        let Some(Some(looked)) = self.looks.get(put) else { return };
        let is_earlier = |job: &&Job| job.made.as_ref().is_some_and(|(run, at)| run == run_id && at < put);
        let earlier = service.jobs.iter().filter(is_earlier).find(|job| job.had_vanished(*looked));
        let is_excused = !service.lied_about.is_empty();
        assert!(earlier.is_none() || is_excused, "{} runs although {earlier:?} ran and vanished", made.id);
    }

    /// The jobs of its run that there are beside this new one. There may be none, unless the earlier one was shown
    /// only after the last look that the later one waited for.
    pub(crate) fn doubles(&self, now: Duration, made: &Job, service: &Service) -> u64 {
        let Some((run_id, put)) = &made.made else { return 0 };
        let is_other = |job: &&Job| job.id != made.id && job.is_of(run_id) && job.is_alive(now);
        let mut count = 0;
        for other in service.jobs.iter().filter(is_other) {
            let Some((_, other_put)) = &other.made else { continue };
            let (early, late) = if other_put < put { (other, put) } else { (made, other_put) };
            let was_late = self.looks[late].is_some_and(|looked| early.visible > looked);
            let is_excused = was_late || service.lied_about.contains(run_id.as_str());
            assert!(is_excused, "{} and {} of {run_id}, although {} was there", made.id, other.id, early.id);
            count += 1;
        }
        count
    }
}
