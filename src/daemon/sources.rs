//! The channels that events come over, and [`Event`], the closed enum of all events.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never, select};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::config::watcher::ConfigResult;
use crate::csc::command::Command;
use crate::csc::event::LogMessage;
use crate::csc::request::Outcome;
use crate::http::Question;
use crate::journal::News;
use crate::timer::Tick;
use crate::transport::KafkaInput;
use crate::transport::socket::ClientInput;

/// A further SIGTERM so long after the first signal ends the daemon at once.
const IMPATIENCE: Duration = Duration::from_secs(3);

/// Anything that can happen; the names of the variants stand in the log.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Event {
    Client(ClientInput),
    Outcome(Outcome),
    Configuration(ConfigResult),
    Kafka(KafkaInput),
    /// A command over Kafka.
    Command(Command),
    Journal(News),
    Log(LogMessage),
    /// A question over HTTP.
    Question(Question),
    /// A signal asks the daemon to end.
    Terminate,
    /// A signal asks the daemon to reload.
    HangUp,
    /// The deadline may have come.
    Tick,
}

/// The channels that events come over.
pub(super) struct Sources {
    pub(super) clients: Receiver<ClientInput>,
    pub(super) outcomes: Receiver<Outcome>,
    pub(super) configuration: Receiver<ConfigResult>,
    pub(super) kafka: Receiver<KafkaInput>,
    /// Commands over Kafka.
    pub(super) commands: Receiver<Command>,
    pub(super) journal: Receiver<News>,
    pub(super) logs: Receiver<LogMessage>,
    pub(super) questions: Receiver<Question>,
    pub(super) signals: Receiver<Event>,
    pub(super) ticks: Receiver<Tick>,
}

impl Sources {
    /// Waits for the next event; takes no command over Kafka while `has_room` is false.
    pub(super) fn next(&self, has_room: bool) -> Event {
        let nothing = never();
        let commands = if has_room { &self.commands } else { &nothing };
        let event = select! {
            recv(self.signals) -> signal => signal,
            recv(self.ticks) -> tick => tick.map(|Tick| Event::Tick),
            recv(self.journal) -> news => news.map(Event::Journal),
            recv(self.outcomes) -> outcome => outcome.map(Event::Outcome),
            recv(self.configuration) -> result => result.map(Event::Configuration),
            recv(self.kafka) -> input => input.map(Event::Kafka),
            recv(commands) -> command => command.map(Event::Command),
            recv(self.clients) -> input => input.map(Event::Client),
            recv(self.questions) -> question => question.map(Event::Question),
            recv(self.logs) -> message => message.map(Event::Log),
        };
        event.unwrap_or_else(|_| dead_channel())
    }
}

/// The first TERM or INT ends the daemon in order; a second one may end it at once ([`is_impatient`]).
pub(super) fn signals() -> Result<Receiver<Event>, Failure> {
    let failed = |error| Failure::Other(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    // Room for one of each kind: a second hang-up adds nothing to one that was not handled yet.
    let (sender, receiver) = bounded(2);
    let listen = move || {
        let mut stopping: Option<Instant> = None;
        for signal in signals.forever() {
            let signal = match stopping {
                _ if signal == SIGHUP && !sender.is_empty() => continue,
                _ if signal == SIGHUP => Event::HangUp,
                None => {
                    stopping = Some(Instant::now());
                    Event::Terminate
                }
                Some(since) if is_impatient(signal, since.elapsed()) => signal_hook::low_level::exit(1),
                Some(_) => {
                    log::info!("another SIGTERM so soon after the first is ignored");
                    continue;
                }
            };
            // This must not wait: when the main loop hangs, the second signal must still work.
            let _ = sender.try_send(signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(receiver)
}

/// Whether a further signal, so long after the first, asks to end at once. Wrapper scripts and process managers send
/// SIGTERM twice in a moment; ^C is pressed by a person.
fn is_impatient(signal: i32, since_the_first: Duration) -> bool {
    signal == SIGINT || since_the_first >= IMPATIENCE
}

/// Ends the process: one of our own threads has ended, which is a bug.
pub(super) fn dead_channel() -> ! {
    log::error!("this is a bug in ocps: one of its threads has ended");
    log::logger().flush();
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_sigterm_is_impatience_only_some_seconds_later_and_a_second_ctrl_c_at_once() {
        assert!(is_impatient(SIGINT, Duration::ZERO));
        assert!(!is_impatient(SIGTERM, Duration::from_millis(2999)));
        assert!(is_impatient(SIGTERM, Duration::from_secs(3)));
    }
}
