//! Whether the execution service that is configured answers, although nothing else is asked of it: once after each
//! `start`, then each minute in which it was asked nothing. A `start` does not wait for it, nor fail by it.

use std::time::Duration;

use super::Csc;
use super::context::Purpose;
use super::request::Action;

/// Longest time in which a service that is configured is asked nothing at all.
const IDLE: Duration = Duration::from_secs(60);

impl Csc {
    /// Asks the service that is configured.
    pub(super) fn probe(&mut self) {
        if let Some((url, _)) = &self.ctx.probed {
            self.ctx.ask(Purpose::Probe, url.clone(), Action::Ping);
        }
    }

    /// When it has been asked nothing for long.
    pub(super) fn probe_due(&self) -> Option<Duration> {
        self.ctx.probed.as_ref().map(|(_, last)| *last + IDLE)
    }

    pub(super) fn advance_probe(&mut self) {
        if self.probe_due().is_some_and(|due| due <= self.ctx.now.mono) {
            self.probe();
        }
    }
}
