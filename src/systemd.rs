//! Readiness, watchdog and status for systemd; outside of it everything here does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Our connection to the service manager.
#[derive(Debug)]
pub struct Manager {
    /// How often the watchdog wants to be petted; none if there is none.
    period: Option<Duration>,
    last_pet: Instant,
    last_status: String,
}

impl Manager {
    /// Looks whether a service manager watches us.
    #[must_use]
    pub fn new() -> Self {
        // Petted twice a period, so that one late turn is no alarm.
        let period = sd_notify::watchdog_enabled().map(|period| period / 2);
        Self { period, last_pet: Instant::now(), last_status: String::new() }
    }

    /// Commands are accepted.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// A reload has begun; [`Manager::ready`] says that it has ended.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("cannot notify the service manager: {error}"),
        }
    }

    /// The daemon has begun to end.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Tells the status line, when it changed.
    pub fn status(&mut self, status: String) {
        if status != self.last_status {
            notify(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    /// The main loop lives.
    pub fn pet(&mut self) {
        if self.period.is_some_and(|period| self.last_pet.elapsed() >= period) {
            self.last_pet = Instant::now();
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// The daemon does not start: says why in the status line, which stays after our end.
pub fn not_started(reason: &str) {
    // A line break would end the status.
    notify(&[NotifyState::Status(&reason.replace(['\n', '\r'], " "))]);
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
