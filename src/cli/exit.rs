//! How the program ends: its exit codes, and the signals that end a client in good order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

use super::{Failure, failed};

/// All exit codes. Help, manual and README explain each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub(super) enum Exit {
    /// Success.
    Ok = 0,
    /// Any other failure.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A command was refused or failed, or a job that was waited for did not complete.
    Refused = 3,
    /// No daemon could be reached.
    NoDaemon = 4,
    /// Another instance has taken over the journal of this daemon.
    TakenOver = 5,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h); systemd does not restart after it.
    Configuration = 78,
    /// SIGHUP ended a client: its terminal is gone.
    HungUp = 129,
    /// ^C or SIGINT ended a client.
    Interrupted = 130,
    /// SIGTERM ended a client.
    Terminated = 143,
}

impl Exit {
    /// The number.
    pub(super) fn code(self) -> u8 {
        self as u8
    }

    /// The signal that this code stands for, if any.
    fn signal(self) -> Option<i32> {
        self.code().checked_sub(128).map(i32::from)
    }

    /// Ends the process by the signal of this code, if it has one, so that a shell script around it ends as well.
    pub(super) fn raise(self) {
        if let Some(signal) = self.signal() {
            let _ = emulate_default_handler(signal);
        }
    }

    /// A flag that the first signal of this code sets; the second one ends the process.
    pub(super) fn flag(self) -> Result<Arc<AtomicBool>, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        let signal = self.signal().unwrap_or_default();
        flag::register_conditional_default(signal, Arc::clone(&flag))
            .and_then(|_| flag::register(signal, Arc::clone(&flag)))
            .map_err(|error| failed(format!("cannot listen for signals: {error}")))?;
        Ok(flag)
    }
}

/// The signals after which the terminal must be restored, with a flag each.
pub(super) struct Signals(Vec<(Exit, Arc<AtomicBool>)>);

impl Signals {
    /// Sets the flags from now on.
    ///
    /// # Errors
    /// The system does not let the process listen for signals.
    pub(super) fn listen() -> Result<Self, Failure> {
        let exits = [Exit::Interrupted, Exit::Terminated, Exit::HungUp];
        let flags = exits.into_iter().map(|exit| Ok((exit, exit.flag()?)));
        flags.collect::<Result<_, Failure>>().map(Self)
    }

    /// # Errors
    /// One of the signals has come.
    pub(super) fn expect_none(&self) -> Result<(), Failure> {
        let came = self.0.iter().find(|(_, flag)| flag.load(Ordering::Relaxed));
        came.map_or(Ok(()), |(exit, _)| Err(left(*exit)))
    }
}

/// The failure of a client that only shows something and was ended by a signal.
pub(super) fn left(exit: Exit) -> Failure {
    let how = if exit == Exit::Interrupted { "interrupted" } else { "terminated" };
    Failure::Interrupted(exit, format!("{how}: jobs keep running"))
}
