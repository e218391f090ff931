//! Readiness, watchdog and status for systemd; outside of it everything here does nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::text::one_line;

/// Our connection to the service manager.
#[derive(Debug)]
pub struct Manager {
    is_there: bool,
    /// Half the watchdog's period; none without a watchdog.
    period: Option<Duration>,
    last_pet: Instant,
    last_status: String,
    /// Kept open, so that the watchdog is served also when the process has no more descriptors; non-blocking.
    socket: Option<UnixDatagram>,
}

impl Manager {
    /// The service manager that started us, if one did.
    pub fn connect() -> Self {
        // Served twice a period, so that one late turn is no alarm.
        let period = sd_notify::watchdog_enabled().map(|period| period / 2);
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self { is_there, period, last_pet: Instant::now(), last_status: String::new(), socket: connect() }
    }

    /// Commands are accepted.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// A reload has begun; [`Manager::ready`] says that it has ended.
    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    /// The daemon is stopping.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Whether one has started us.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// Sends the status line, when it changed.
    pub fn status(&mut self, status: String) {
        if status != self.last_status && self.try_notify(NotifyState::Status(&status)) {
            self.last_status = status;
        }
    }

    /// The main loop is running.
    pub fn pet(&mut self) {
        let is_due = self.period.is_some_and(|period| self.last_pet.elapsed() >= period);
        if is_due && self.try_notify(NotifyState::Watchdog) {
            self.last_pet = Instant::now();
        }
    }

    /// Sends something that can be sent again later; false if we would have to wait for the manager.
    fn try_notify(&self, state: NotifyState) -> bool {
        match self.socket.as_ref().map(|socket| socket.send(format!("{state}\n").as_bytes())) {
            Some(Ok(_)) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Where the manager has made its socket anew, ours leads nowhere.
            Some(Err(_)) | None => notify(&[state]),
        }
        true
    }
}

/// The service manager's socket, if we can be connected to it for good.
fn connect() -> Option<UnixDatagram> {
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(&name).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect_addr(&address).ok().map(|()| socket)
}

/// Writes why the daemon ends into the status line, which remains after the process has ended.
pub fn failed(reason: &str) {
    // A line break would end the status.
    notify(&[NotifyState::Status(&one_line(reason))]);
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
