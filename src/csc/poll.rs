//! Regular questions about one job, ours or not.

use std::time::Duration;

use super::context::Context;
use super::retry::Retry;

/// How soon a job is asked for again that the service does not know.
const ABSENT_AGAIN: Duration = Duration::from_secs(3);
/// So many such answers are believed without a list.
pub(super) const ABSENCES_MAX: u32 = 8;

#[derive(Debug)]
pub(super) struct Poll {
    /// It waits while the service's list is to decide whether the job is there.
    pub(super) retry: Retry,
    /// When the last valid answer came (or we began to ask).
    last_valid_answer: Duration,
    /// When the service last showed that the job is there.
    seen: Option<Duration>,
    /// Answers in a row that there is no such job.
    absences: u32,
}

/// What follows when the service says that there is no such job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is asked again.
    Again,
    /// The list decides.
    Listed,
    /// It is so: no list could be had for too long.
    Certain,
}

impl Poll {
    /// Of a job of which nothing is known yet.
    pub(super) fn new(ctx: &Context, first: Duration) -> Self {
        Self { retry: Retry::at(first), last_valid_answer: ctx.now.mono, seen: None, absences: 0 }
    }

    /// Of a job that is there: it is asked for after the usual time.
    pub(super) fn of_present(ctx: &Context) -> Self {
        let now = ctx.now.mono;
        Self { seen: Some(now), ..Self::new(ctx, now + ctx.poll_interval) }
    }

    pub(super) fn last_valid_answer(&self) -> Duration {
        self.last_valid_answer
    }

    pub(super) fn seen(&self) -> Option<Duration> {
        self.seen
    }

    /// The service says that there is no such job. One such answer can be wrong, or an old one out of a cache: it is
    /// asked again, and then the list decides.
    pub(super) fn note_absence(&mut self, ctx: &Context) -> Absence {
        self.absences += 1;
        match self.absences {
            1 => {
                self.retry.succeed(ctx.now.mono + ABSENT_AGAIN);
                Absence::Again
            }
            ABSENCES_MAX.. => Absence::Certain,
            _ => {
                self.retry.wait();
                Absence::Listed
            }
        }
    }

    /// The answer was of no use: it is asked again, later with each failure.
    pub(super) fn fail(&mut self, ctx: &mut Context) {
        let interval = ctx.poll_interval;
        self.retry.fail(ctx, interval);
    }

    /// The process stood still for a time, in which nobody could answer.
    pub(super) fn forgive(&mut self, pause: Duration) {
        self.last_valid_answer += pause;
    }
}
