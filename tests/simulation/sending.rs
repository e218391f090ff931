//! When a job may be submitted once more: a PUT is not idempotent, and one that seems to have failed may not have.
//!
//! Within a process, after an attempt whose outcome is not known, the service's list must have been asked for twice, at
//! least `settle_time` apart, without showing the job; after a refusal once; and after what was not sent never.
//! A process that takes up a command of an earlier one does not know what that one sent.

use std::collections::HashMap;
use std::time::Duration;

use ocps::csc::id::RunId;
use ocps::csc::request::{Answer, FailureKind, Ticket};

use super::service::{Job, Put, Service};

/// How long a submission is tried.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What must be known before a job is submitted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    OneLook,
    Settled,
}

/// The submissions of one run in this process.
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
    listed: Option<Duration>,
    /// Whether one showed the job.
    is_found: bool,
    /// When the first attempt failed or was unclear, in time in which the process ran.
    trouble: Option<Duration>,
    refusals: u32,
}

impl Attempt {
    fn over(need: Need, after: Ticket) -> Self {
        Self {
            is_out: false,
            need,
            after,
            first: None,
            is_settled: false,
            listed: None,
            is_found: false,
            trouble: None,
            refusals: 0,
        }
    }

    /// What is needed after the answer to a PUT.
    fn answered(self, answer: &Answer, last: Ticket) -> Self {
        match answer.of_service().and_then(Result::err).map(|failure| failure.kind) {
            Some(FailureKind::NotSent) => Self { is_out: false, need: Need::Nothing, ..self },
            Some(FailureKind::NotNow) => Self { refusals: self.refusals, ..Self::over(Need::OneLook, last) },
            Some(FailureKind::Refused) => {
                Self { refusals: self.refusals + 1, ..Self::over(Need::OneLook, last) }
            }
            Some(FailureKind::Unclear | FailureKind::Wrong | FailureKind::Rejected) | None => {
                Self { refusals: self.refusals, ..Self::over(Need::Settled, last) }
            }
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

/// The submissions and look-ups of a process.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    settle_time: Duration,
    attempts: HashMap<RunId, Attempt>,
    /// When each list was asked for.
    lists: HashMap<Ticket, Duration>,
    submissions: HashMap<Ticket, RunId>,
    last_ticket: Ticket,
    /// When each PUT was answered, of all processes.
    ended: HashMap<Put, Duration>,
    process: u32,
    /// The last look before each PUT, of all processes.
    looks: HashMap<Put, Option<Duration>>,
    /// When each request was asked for, in time in which the process ran.
    asked: HashMap<Ticket, Duration>,
    /// When that was of the request that was answered last.
    answered: Option<Duration>,
    /// How long this process has stood still.
    pub(crate) stood_still: Duration,
}

impl Sending {
    pub(crate) fn new(settle_time: Duration) -> Self {
        Self {
            settle_time,
            attempts: HashMap::new(),
            lists: HashMap::new(),
            submissions: HashMap::new(),
            last_ticket: Ticket(0),
            ended: HashMap::new(),
            process: 0,
            looks: HashMap::new(),
            asked: HashMap::new(),
            answered: None,
            stood_still: Duration::ZERO,
        }
    }

    /// A new process, with these runs whose jobs are not known.
    pub(crate) fn begin<'a>(&mut self, now: Duration, in_doubt: impl Iterator<Item = &'a RunId>) {
        self.stood_still = Duration::ZERO;
        let attempt = Attempt { trouble: Some(now), ..Attempt::over(Need::Settled, Ticket(0)) };
        self.attempts = in_doubt.map(|run_id| (run_id.clone(), attempt)).collect();
        self.asked.clear();
        self.lists.clear();
        self.submissions.clear();
        self.last_ticket = Ticket(0);
    }

    pub(crate) fn note(&mut self, now: Duration, ticket: Ticket) {
        assert!(ticket > self.last_ticket, "an old ticket");
        self.last_ticket = ticket;
        self.asked.insert(ticket, now - self.stood_still);
    }

    /// The core handles an answer, or something else.
    pub(crate) fn taken(&mut self, answer: Option<Ticket>) {
        self.answered = answer.and_then(|ticket| self.asked.remove(&ticket));
    }

    /// Whether the request that was just answered was made when the process had run for so long.
    pub(crate) fn was_asked_after(&self, since: Duration, time: Duration) -> bool {
        self.answered.is_some_and(|asked| asked >= since + time)
    }

    /// An execute fails without a job: it was refused twice, or it was tried as long as that is promised, and what was
    /// asked for after that failed too.
    pub(crate) fn given_up(&self, run_id: &RunId) {
        let attempt = self.attempts.get(run_id).unwrap_or_else(|| panic!("{run_id} was never sent"));
        let since = attempt.trouble.unwrap_or_else(|| panic!("{run_id} had no trouble"));
        let is_over = self.was_asked_after(since, SUBMIT_TIMEOUT) && !attempt.is_found;
        assert!(attempt.refusals >= 2 || is_over, "{run_id} is given up too early: {attempt:?}");
    }

    pub(crate) fn list(&mut self, now: Duration, ticket: Ticket) {
        self.lists.insert(ticket, now);
    }

    pub(crate) fn submit(&mut self, process: u32, ticket: Ticket, run_id: &RunId) {
        let attempt = self.attempts.get(run_id).copied();
        if let Some(attempt) = attempt {
            assert!(attempt.may_repeat(), "{run_id} is sent again without a lookup: {attempt:?}");
        }
        self.process = process;
        self.looks.insert((process, ticket), attempt.and_then(|attempt| attempt.listed));
        self.submissions.insert(ticket, run_id.clone());
        let attempt = attempt.unwrap_or(Attempt::over(Need::Nothing, ticket));
        self.attempts.insert(run_id.clone(), Attempt { is_out: true, ..attempt });
    }

    /// The core was answered; a list was made at the service at `served`.
    pub(crate) fn answered(&mut self, now: Duration, ticket: Ticket, answer: &Answer, served: Duration) {
        if let Some(run_id) = self.submissions.remove(&ticket) {
            self.ended.insert((self.process, ticket), now);
            let before = self.attempts[&run_id];
            let trouble = before.trouble.or(Some(now - self.stood_still));
            let answered = before.answered(answer, self.last_ticket);
            self.attempts.insert(run_id, Attempt { trouble, ..answered });
        }
        if let (Some(asked), Answer::List(Ok(listed))) = (self.lists.remove(&ticket), answer) {
            for (run_id, attempt) in &mut self.attempts {
                if !attempt.is_out && ticket > attempt.after {
                    attempt.is_found = listed.jobs.iter().any(|job| job.run_id == *run_id);
                    attempt.listed = Some(served);
                    let first = *attempt.first.get_or_insert(now);
                    attempt.is_settled |= asked >= first + self.settle_time;
                }
            }
        }
    }

    /// No job runs that has run to its end before and vanished, so that it could not be found any more.
    pub(crate) fn check_rerun(&self, made: &Job, service: &Service) {
        let Some((run_id, put)) = &made.made else { return };
        let Some(Some(listed)) = self.looks.get(put) else { return };
        let is_earlier = |job: &&Job| job.made.as_ref().is_some_and(|(run, at)| run == run_id && at < put);
        let earlier = service.jobs.iter().filter(is_earlier).find(|job| job.had_vanished(*listed));
        let is_excused = !service.lied_about.is_empty();
        assert!(earlier.is_none() || is_excused, "{} runs although {earlier:?} ran and vanished", made.id);
    }

    /// The jobs of its run that there are beside this new one. There may be none, unless the earlier one was shown
    /// only after the last look that the later one waited for, and later than jobs are waited for.
    pub(crate) fn doubles(&self, now: Duration, made: &Job, service: &Service) -> u64 {
        let Some((run_id, put)) = &made.made else { return 0 };
        let is_other = |job: &&Job| job.id != made.id && job.is_of(run_id) && job.is_alive(now);
        let mut count = 0;
        for other in service.jobs.iter().filter(is_other) {
            let Some((_, other_put)) = &other.made else { continue };
            if other_put == put {
                // Of one PUT, by a gateway.
                continue;
            }
            let (early, early_put, late) =
                if other_put < put { (other, other_put, put) } else { (made, put, other_put) };
            let was_in_time =
                self.ended.get(early_put).is_some_and(|ended| early.visible <= *ended + self.settle_time);
            let was_late = self.looks[late].is_some_and(|listed| early.visible > listed) && !was_in_time;
            let is_excused = was_late || service.lied_about.contains(run_id.as_str());
            assert!(is_excused, "{} and {} of {run_id}, although {} was there", made.id, other.id, early.id);
            count += 1;
        }
        count
    }
}
