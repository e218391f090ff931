//! Whether the execution service lives: outages, and jobs that it answers wrongly while it answers others.

use std::time::Duration;

use super::event::{ErrorCode, LogLevel};
use super::job::Stage;
use super::request::{Answer, Contact, FailureKind};
use super::{Csc, report};

/// A job for which nothing believable came for so long, while the service answered others, is given up.
pub(super) const DISBELIEF_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What we know of the service's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Since when it has been silent.
    silent_since: Option<Duration>,
    /// Whether this silence has been a FAULT already.
    faulted: bool,
    /// The last thing that went wrong.
    last_problem: Option<String>,
    /// When it last gave a believable answer.
    last_believed: Option<Duration>,
    /// When it last gave one after `outage_limit` or longer without.
    restored: Duration,
}

impl Csc {
    /// Learns from an answer whether the service is there.
    pub(super) fn note_contact(&mut self, answer: &Answer) {
        let now = self.now.mono;
        match answer {
            Answer::Failed(failure) => {
                self.counters.failed_requests += 1;
                self.contact.last_problem = Some(failure.reason.clone());
                match (failure.contact, failure.kind) {
                    // It was never asked, say because too much is queued: nothing is learnt of it.
                    (Contact::Answered, FailureKind::NotSent) => {}
                    (Contact::Answered, FailureKind::Unclear | FailureKind::Refused | FailureKind::Wrong) => {
                        self.note_answer()
                    }
                    (
                        Contact::Silent,
                        FailureKind::NotSent
                        | FailureKind::Unclear
                        | FailureKind::Refused
                        | FailureKind::Wrong,
                    ) => {
                        if self.contact.silent_since.is_none() {
                            self.contact.silent_since = Some(now);
                            let reason = &failure.reason;
                            self.log(LogLevel::Warning, format!("no contact with the service: {reason}"));
                        }
                    }
                }
            }
            Answer::Job(_) | Answer::Gone | Answer::Removed { .. } | Answer::Listed(_) | Answer::Done => {
                self.note_answer();
                if !self.was_believed_recently() {
                    self.contact.restored = now;
                }
                self.contact.last_believed = Some(now);
            }
            // These tell nothing of a service: the simulator's own, or a request that was never sent.
            Answer::Rejected { .. } | Answer::Broken { .. } => {}
        }
    }

    fn note_answer(&mut self) {
        let Some(since) = self.contact.silent_since.take() else { return };
        let now = self.now.mono;
        let silent_for = now.saturating_sub(since);
        self.contact.faulted = false;
        self.log(
            LogLevel::Info,
            format!("the service answers again after {:.1} s", silent_for.as_secs_f64()),
        );
        // What had backed off need not wait any longer; spread over one poll interval.
        let Self { jobs, rng, .. } = self;
        for job in jobs.values_mut() {
            if let Stage::Running(running) = &mut job.stage {
                running.poll.hurry(now + job.poll_interval.mul_f64(rng.f64()));
            }
        }
    }

    /// When the present silence becomes a FAULT.
    pub(super) fn outage_due(&self) -> Option<Duration> {
        let since = self.contact.silent_since?;
        let tracking = self.jobs.values().any(|job| match job.stage {
            Stage::Running(_) | Stage::Aborting { .. } => true,
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Submitting(_) => false,
        });
        (tracking && !self.contact.faulted).then(|| since + self.settings.outage_limit)
    }

    pub(super) fn check_outage(&mut self) {
        if self.outage_due().is_none_or(|due| self.now.mono < due) {
            return;
        }
        self.contact.faulted = true;
        let limit = self.settings.outage_limit.as_secs_f64();
        let last = self.contact.last_problem.as_deref().unwrap_or("no answer");
        let report = format!("cannot contact the execution service for {limit} s: {last}");
        self.fault(ErrorCode::Unreachable, report);
    }

    /// Whether a job last believed at `believed` must be given up: the service answers others, but not for it.
    pub(super) fn is_disbelieved(&self, believed: Duration) -> bool {
        let since = believed.max(self.contact.restored);
        self.now.mono.saturating_sub(since) >= DISBELIEF_LIMIT && self.was_believed_recently()
    }

    /// Whether a believable answer to anything came within `outage_limit`.
    fn was_believed_recently(&self) -> bool {
        let recent = |time: Duration| self.now.mono.saturating_sub(time) < self.settings.outage_limit;
        self.contact.last_believed.is_some_and(recent)
    }

    pub(super) fn service_report(&self) -> report::Service {
        report::Service {
            silent_for: self.contact.silent_since.map(|since| self.now.mono.saturating_sub(since)),
            last_problem: self.contact.last_problem.clone(),
            last_believed: self.contact.last_believed.map(|time| self.now.mono.saturating_sub(time)),
        }
    }
}
