//! A request that is made again and again until it has done its work, later after each failure.

use std::time::Duration;

use super::context::Context;

/// When a request is due, and how often it failed.
#[derive(Debug)]
pub(super) struct Retry {
    /// None while an answer, or something else that comes first, is waited for.
    pub(super) due: Option<Duration>,
    /// Failures in a row.
    pub(super) failures: u32,
}

/// The request may be made at once.
impl Default for Retry {
    fn default() -> Self {
        Self::at(Duration::ZERO)
    }
}

impl Retry {
    /// The request is made at that time for the first time.
    pub(super) fn at(time: Duration) -> Self {
        Self { due: Some(time), failures: 0 }
    }

    /// The request failed: the next one is due after a time that grows with each failure.
    pub(super) fn fail(&mut self, ctx: &mut Context, base: Duration) {
        self.due = Some(ctx.now.mono + ctx.backoff(base, self.failures));
        self.failures += 1;
    }

    /// If the request is due later than that, it is due then.
    pub(super) fn not_later_than(&mut self, time: Duration) {
        self.due = self.due.map(|due| due.min(time));
    }
}
