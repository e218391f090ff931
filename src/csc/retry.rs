//! A request that is made again and again until it has done its work, later after each failure.

use std::time::Duration;

use super::context::Context;
use super::request::Ticket;

/// Whether a request is asked, or when it is due.
#[derive(Debug)]
pub(super) struct Retry {
    step: Step,
    failures: u32,
}

#[derive(Debug)]
enum Step {
    Due(Duration),
    Asked(Ticket),
    /// Something else comes first.
    Waiting,
}

/// It may be made at once.
impl Default for Retry {
    fn default() -> Self {
        Self::at(Duration::ZERO)
    }
}

impl Retry {
    /// It is made at that time for the first time.
    pub(super) fn at(time: Duration) -> Self {
        Self { step: Step::Due(time), failures: 0 }
    }

    /// When it is due, if it is neither asked nor waits for something else.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.step {
            Step::Due(time) => Some(time),
            Step::Asked(_) | Step::Waiting => None,
        }
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// The request that was not answered yet.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self.step {
            Step::Asked(ticket) => Some(ticket),
            Step::Due(_) | Step::Waiting => None,
        }
    }

    /// Whether something else comes first.
    pub(super) fn is_waiting(&self) -> bool {
        self.due().is_none() && self.ticket().is_none()
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn asked(&mut self, ticket: Ticket) {
        self.step = Step::Asked(ticket);
    }

    /// Something else comes first.
    pub(super) fn wait(&mut self) {
        self.step = Step::Waiting;
    }

    /// It is made again at that time.
    pub(super) fn again_at(&mut self, time: Duration) {
        self.step = Step::Due(time);
    }

    /// It failed; the next one is due later with each failure.
    pub(super) fn fail(&mut self, ctx: &mut Context, base: Duration) {
        self.step = Step::Due(ctx.now.mono + ctx.backoff(base, self.failures));
        self.failures += 1;
    }

    /// It is made at that time, if it would have been later.
    pub(super) fn not_later_than(&mut self, time: Duration) {
        if let Step::Due(due) = &mut self.step {
            *due = time.min(*due);
        }
    }
}
