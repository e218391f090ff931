//! Readiness, watchdog and status line for systemd. Without systemd, nothing here has an effect.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::text::one_line;

/// The connection to the service manager.
#[derive(Debug)]
pub struct Manager {
    /// Half the period of the watchdog; none without a watchdog.
    period: Option<Duration>,
    last_pet: Instant,
    last_status: String,
    /// The socket of the manager, non-blocking. It stays open so that the watchdog is notified even if the process has no free
    /// file descriptors.
    socket: Option<UnixDatagram>,
}

impl Manager {
    /// Connects to the service manager, if one started this process.
    pub fn connect() -> Self {
        // Notified twice a period, so that one late turn is no alarm.
        let period = sd_notify::watchdog_enabled().map(|period| period / 2);
        Self { period, last_pet: Instant::now(), last_status: String::new(), socket: connect() }
    }

    /// Reports that commands are accepted, and the end of a reload.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// Reports the begin of a reload.
    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    /// Reports that the daemon is stopping.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Whether a service manager started this process.
    pub fn is_there(&self) -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// Sends the status line if it changed.
    pub fn status(&mut self, status: String) {
        if status != self.last_status && self.try_notify(NotifyState::Status(&status)) {
            self.last_status = status;
        }
    }

    /// Notifies the watchdog that the main loop is running, if it is time.
    pub fn pet(&mut self) {
        let is_due = self.period.is_some_and(|period| self.last_pet.elapsed() >= period);
        if is_due && self.try_notify(NotifyState::Watchdog) {
            self.last_pet = Instant::now();
        }
    }

    /// Sends a notification; false if the socket is full, so that it has to be sent again later.
    fn try_notify(&self, state: NotifyState) -> bool {
        match self.socket.as_ref().map(|socket| socket.send(format!("{state}\n").as_bytes())) {
            Some(Ok(_)) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // The manager may have made a new socket.
            Some(Err(_)) | None => notify(&[state]),
        }
        true
    }
}

/// A socket that is connected to the service manager.
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
