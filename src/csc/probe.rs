//! Health checks of the configured execution service: once after each `start`, then whenever it was asked nothing for a
//! minute. A `start` neither waits for one nor fails because of it.

use std::time::Duration;

use crate::url::Url;

use super::push::Drives;
use super::request::Action;
use super::{Asked, Csc, Life};

/// Longest time without any request to the configured service.
const IDLE: Duration = Duration::from_secs(60);

impl Csc {
    /// Checks the configured service now.
    pub(super) fn probe_configured(&mut self) {
        if let Some(url) = self.probed().filter(|_| self.life == Life::Serving) {
            self.ask(Asked::Probe, url, Action::Ping);
        }
    }

    /// The service to ask; none in a simulation. Redis is asked by `start` itself and by each push.
    fn probed(&self) -> Option<Url> {
        let is_real = !self.settings.simulated && Drives::of(self.settings.index) == Drives::Jobs;
        self.configuration.as_ref().filter(|_| is_real).map(|configuration| configuration.service.url.clone())
    }

    /// When the next check is due.
    pub(super) fn probe_due(&self) -> Option<Duration> {
        let url = self.probed()?;
        Some(self.services.get(&url).map_or(self.now.mono, |health| health.asked + IDLE))
    }

    pub(super) fn advance_probe(&mut self) {
        if self.probe_due().is_some_and(|due| due <= self.now.mono) {
            self.probe_configured();
        }
    }
}
