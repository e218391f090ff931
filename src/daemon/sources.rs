//! Where things that happen come from: one closed [`Event`], whichever channel it came over.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never, select};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::config::watcher::ConfigResult;
use crate::csc::command::Command;
use crate::csc::event::LogMessage;
use crate::csc::request::Outcome;
use crate::journal::Report;
use crate::timer::Tick;
use crate::transport::KafkaInput;
use crate::transport::socket::ClientInput;

/// Anything that can happen.
#[derive(Debug)]
pub(super) enum Event {
    Client(ClientInput),
    Outcome(Outcome),
    Configuration(ConfigResult),
    Kafka(KafkaInput),
    /// A command over Kafka.
    Command(Command),
    Journal(Report),
    Log(LogMessage),
    Signal(Signal),
    Tick,
}

impl Event {
    /// What it is, for the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Client(ClientInput::Connected(..)) => "a client",
            Self::Client(ClientInput::Command(_)) => "a command",
            Self::Client(ClientInput::Subscribe(_)) => "a subscription",
            Self::Client(ClientInput::Query(..)) => "a query",
            Self::Client(ClientInput::Silent(_) | ClientInput::Gone(_)) => "the end of a client",
            Self::Outcome(_) => "an answer of the back-end",
            Self::Configuration(_) => "a configuration",
            Self::Command(_) => "a command over Kafka",
            Self::Kafka(KafkaInput::Joined) => "Kafka joined",
            Self::Kafka(KafkaInput::Vouched(_)) => "a heartbeat of ours",
            Self::Kafka(KafkaInput::Intruder(_)) => "another instance",
            Self::Kafka(KafkaInput::Delivered(_)) => "a delivery",
            Self::Journal(_) => "a word of the journal",
            Self::Log(_) => "a log line",
            Self::Signal(_) => "a signal",
            Self::Tick => "a tick",
        }
    }
}

/// A signal that means something to us.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Terminate,
    HangUp,
}

/// Where things that happen come from.
pub(super) struct Sources {
    pub(super) clients: Receiver<ClientInput>,
    pub(super) outcomes: Receiver<Outcome>,
    pub(super) configuration: Receiver<ConfigResult>,
    pub(super) kafka: Receiver<KafkaInput>,
    /// Over Kafka.
    pub(super) commands: Receiver<Command>,
    pub(super) journal: Receiver<Report>,
    pub(super) logs: Receiver<LogMessage>,
    pub(super) signals: Receiver<Signal>,
    pub(super) ticks: Receiver<Tick>,
}

/// What is not to happen now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    /// Until the state asked for on the command line is reached.
    pub(super) clients: bool,
    /// While there is no room for one over Kafka.
    pub(super) commands: bool,
}

impl Sources {
    /// What happens within `patience`.
    pub(super) fn next(&self, closed: Closed, patience: Duration) -> Option<Event> {
        let (nobody, nothing) = (never(), never());
        let clients = if closed.clients { &nobody } else { &self.clients };
        let commands = if closed.commands { &nothing } else { &self.commands };
        let event = select! {
            recv(self.signals) -> signal => signal.map(Event::Signal),
            recv(self.ticks) -> tick => tick.map(|Tick| Event::Tick),
            recv(self.journal) -> report => report.map(Event::Journal),
            recv(self.outcomes) -> outcome => outcome.map(Event::Outcome),
            recv(self.configuration) -> result => result.map(Event::Configuration),
            recv(self.kafka) -> input => input.map(Event::Kafka),
            recv(commands) -> command => command.map(Event::Command),
            recv(clients) -> input => input.map(Event::Client),
            recv(self.logs) -> message => message.map(Event::Log),
            default(patience) => return None,
        };
        Some(event.unwrap_or_else(|_| dead_channel()))
    }
}

/// The first TERM or INT ends the daemon in order, the second one at once.
pub(super) fn signals() -> Result<Receiver<Signal>, Failure> {
    let failed = |error| Failure::Other(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    // Room for one of each kind: a hang-up that was not heard yet says all that another one could.
    let (sender, receiver) = bounded(2);
    let listen = move || {
        let mut terminated = false;
        for signal in signals.forever() {
            let signal = if signal == SIGHUP { Signal::HangUp } else { Signal::Terminate };
            match signal {
                Signal::Terminate if terminated => signal_hook::low_level::exit(1),
                Signal::Terminate => terminated = true,
                Signal::HangUp if !sender.is_empty() => continue,
                Signal::HangUp => {}
            }
            // Without waiting: when the main loop hangs, the second signal must still work.
            let _ = sender.try_send(signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(receiver)
}

/// One of our own threads has ended: a bug, and nothing can be done about it but to start anew.
pub(super) fn dead_channel() -> ! {
    log::error!("this is a bug in ocps: one of its threads has ended");
    log::logger().flush();
    std::process::abort();
}
