//! `ocps console`: reads commands, and prints acks and events as they come.
//!
//! One thread reads standard input, at a terminal with a line editor; the client's thread reads the daemon's lines. The
//! session handles both in turn.

mod input;
#[cfg(feature = "terminal")]
mod prompt;
#[cfg(not(feature = "terminal"))]
#[path = "no_prompt.rs"]
mod prompt;

use std::io::{self, IsTerminal, stdin};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select};
use serde_json::Value;

use self::input::{Request, request};
use self::prompt::Prompt;
use super::client::{
    Client, Event, IDLE_TURN, JOBS, Lines, Message, STATUS, Sent, Standing, Target, refused,
};
use super::event_text::{HEARTBEAT, LOG_MESSAGE, ack_text, event_line, summary_state};
use super::exit::Signals;
use super::flags::{Line, help, seconds};
use super::jobs::{jobs_text, unfinished};
use super::output::{Output, complain};
use super::status::status_text;
use super::times::Zone;
use super::{Failure, Task, failed};
use crate::clock;
use crate::csc::state::SummaryState;
use crate::display::text::fill;
use crate::display::{Tone, paint};

/// Time between two attempts to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// `ocps console`. It fails if the connection is lost before the daemon has gone OFFLINE, and if the ack of a command is
/// late. A command that fails is no failure of the console.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let (target, wait) = (line.target()?, line.value("wait", seconds)?.unwrap_or_default());
    Ok(Box::new(move |out| run(&target, wait, out)))
}

fn run(target: &Target, wait: Duration, out: &mut Output) -> Result<(), Failure> {
    let mut client = connect(target, wait)?;
    client.subscribe()?;
    let (prompt, input) = match Prompt::start(target.clone()) {
        Ok((prompt, input)) => (Some(prompt), Ok(input)),
        Err(_) => (None, input::read_standard_input()),
    };
    let input = input.map_err(|error| failed(format!("cannot read standard input: {error}")))?;
    // Only the line editor changes the terminal, so that it has to be restored.
    let signals = prompt.as_ref().map(|_| Signals::listen()).transpose()?;
    if prompt.is_some() {
        client.ask(STATUS)?;
    }
    let mut session = Session {
        client,
        is_script: !stdin().is_terminal(),
        greets: prompt.is_some(),
        is_editing: prompt.is_some(),
        prompt,
        signals,
        sent: Vec::new(),
        queries: 0,
        input_ended: false,
        unanswered: 0,
        last_state: None,
        refusal: None,
    };
    session.run(&input, out)
}

/// Connects; while there is no daemon it tries again for the time of `--wait`.
fn connect(target: &Target, wait: Duration) -> Result<Client, Failure> {
    let deadline = Instant::now() + wait;
    loop {
        match Client::connect(target) {
            Err(Failure::NoDaemon(_)) if Instant::now() < deadline => thread::sleep(CONNECT_AGAIN),
            outcome => return outcome,
        }
    }
}

/// The first lines at a terminal.
fn greeting(status: &Value) -> String {
    let simulated = fill(status, "{+simulation_mode}").map_or("", |_| ", simulated");
    let state = fill(status, "ocps {index} ({name}) is {state}").unwrap_or_default();
    let error = fill(status, ": error {+error_code}, {error_report}").unwrap_or_default();
    format!("{state}{simulated}{error}\nType help, or for example execute pipeline=true.yaml\n")
}

struct Session {
    client: Client,
    /// Whether the commands come from a pipe or a file. Then the next line is read only after the final ack of a state
    /// transition command, and the end waits for all final acks and answers. A person may leave at any time.
    is_script: bool,
    /// Whether the first status has not come yet. It is printed instead of the old events that the daemon sends before it.
    greets: bool,
    /// The line editor, at a terminal.
    prompt: Option<Prompt>,
    /// A line is being edited, and what is printed goes above it.
    is_editing: bool,
    signals: Option<Signals>,
    /// Commands without a final ack.
    sent: Vec<Sent>,
    /// Number of queries without an answer.
    queries: usize,
    input_ended: bool,
    /// Number of commands whose ack was late.
    unanswered: usize,
    last_state: Option<SummaryState>,
    /// Why the last command was refused, until the daemon's log says it too.
    refusal: Option<String>,
}

impl Session {
    fn run(&mut self, input: &Lines, out: &mut Output) -> Result<(), Failure> {
        let no_input = never();
        let lines = self.client.lines.clone();
        while !self.is_over() {
            self.signals.as_ref().map_or(Ok(()), Signals::expect_none)?;
            let input = if self.reads_on() { input } else { &no_input };
            select! {
                recv(lines) -> line => match Message::of(line) {
                    Ok(message) => self.message(&message, out)?,
                    Err(reason) => return self.lost(&reason, out),
                },
                recv(input) -> input => match input {
                    Ok(input) => self.input(input, out)?,
                    Err(_) => self.input_ended = true,
                },
                default(self.idle_time()) => {
                    out.expect_reader()?;
                    self.give_up_late(Instant::now(), out);
                }
            }
        }
        match self.unanswered {
            0 => Ok(()),
            count => Err(failed(format!("commands without a final ack: {count}"))),
        }
    }

    /// Whether the session ends now.
    fn is_over(&self) -> bool {
        self.input_ended && (!self.is_script || (self.sent.is_empty() && self.queries == 0))
    }

    /// Whether the next line may be read.
    fn reads_on(&self) -> bool {
        // Which commands are allowed depends on the state after a transition.
        let waits = self.is_script && self.sent.iter().any(|sent| sent.command.is_transition());
        !self.input_ended && !waits
    }

    fn idle_time(&self) -> Duration {
        let first = self.sent.iter().filter_map(|sent| sent.deadline).min();
        first.map_or(IDLE_TURN, |first| first.saturating_duration_since(Instant::now()).min(IDLE_TURN))
    }

    fn give_up_late(&mut self, now: Instant, out: &Output) {
        for late in self.sent.extract_if(.., |sent| sent.is_late(now)).collect::<Vec<_>>() {
            self.complain(
                &format!("no ack of {} in time: it may still be carried out", late.numbered()),
                out,
            );
            self.unanswered += 1;
        }
    }

    /// Handles one line of the input.
    fn input(&mut self, line: io::Result<Vec<u8>>, out: &mut Output) -> Result<(), Failure> {
        self.is_editing = false;
        match request(line) {
            Ok(Request::Nothing) => {}
            Ok(Request::Quit) => self.input_ended = true,
            Ok(Request::Help) => self.print(&help("console help"), out)?,
            Ok(Request::Ask(document)) => {
                self.client.ask(document)?;
                self.queries += 1;
            }
            Ok(Request::Send(command, params)) => self.sent.push(self.client.send(command, &params, None)?),
            Err(reason) => self.complain(&reason, out),
        }
        if let Some(prompt) = &self.prompt {
            prompt.go_on();
            self.is_editing = true;
        }
        Ok(())
    }

    /// Handles one message of the daemon.
    fn message(&mut self, message: &Message, out: &mut Output) -> Result<(), Failure> {
        if self.greets && !message.documents.is_empty() {
            self.greets = false;
            return self.print(&greeting(message.documents.get(STATUS).unwrap_or(&Value::Null)), out);
        }
        if let Some(event) = &message.event {
            return self.event(event, out);
        }
        let text = if let Some(ack) = &message.ack {
            let Some(sent) = self.sent.iter_mut().find(|sent| sent.ack_in(message).is_some()) else {
                return Ok(());
            };
            sent.wait_on(ack);
            // An ack has no time stamp, so it is shown with the present time.
            let time = paint(Tone::Quiet, &clock::rfc3339(clock::unix_now()));
            let line = format!("{time} {} {}\n", sent.numbered(), ack_text(ack));
            if ack.standing() == Standing::Refused {
                self.refusal = ack.result.strip_prefix("Failed: ").map(str::to_owned);
            }
            if ack.standing() != Standing::InProgress {
                self.sent.retain(|sent| sent.ack_in(message).is_none());
            }
            line
        } else if let Some(reason) = &message.error {
            if self.is_script {
                return Err(failed(refused(reason)));
            }
            format!("{}\n", refused(reason))
        } else {
            let status = message.documents.get(STATUS).map(status_text);
            let jobs = || {
                let jobs = message.documents.get(JOBS)?;
                Some(jobs_text(jobs, &unfinished(jobs), &Zone::UTC, out.width()))
            };
            let Some(text) = status.or_else(jobs) else { return Ok(()) };
            self.queries = self.queries.saturating_sub(1);
            text
        };
        self.print(&text, out)
    }

    fn event(&mut self, event: &Event, out: &mut Output) -> Result<(), Failure> {
        self.last_state = summary_state(event).or(self.last_state);
        if event.topic == HEARTBEAT || self.greets || self.repeats_refusal(event) {
            return out.expect_reader();
        }
        self.print(&format!("{}\n", event_line(event)), out)
    }

    /// Whether it is the log message of the refusal that was shown last.
    fn repeats_refusal(&mut self, event: &Event) -> bool {
        let text = event.data.get("message").and_then(Value::as_str).filter(|_| event.topic == LOG_MESSAGE);
        text.is_some_and(|text| self.refusal.take_if(|reason| text.ends_with(reason.as_str())).is_some())
    }

    fn lost(&mut self, reason: &str, out: &mut Output) -> Result<(), Failure> {
        // Restores the terminal.
        self.prompt = None;
        if self.last_state != Some(SummaryState::Offline) {
            return Err(Failure::Lost(format!("{reason} without going OFFLINE")));
        }
        out.line("the daemon went OFFLINE and ended")
    }

    /// The line editor, while it shows a line.
    fn editor(&mut self) -> Option<&mut Prompt> {
        self.prompt.as_mut().filter(|_| self.is_editing)
    }

    /// Prints whole lines.
    fn print(&mut self, text: &str, out: &mut Output) -> Result<(), Failure> {
        let Some(editor) = self.editor() else { return out.text(text) };
        editor.print(text, out);
        Ok(())
    }

    /// Prints an error.
    fn complain(&mut self, reason: &str, out: &Output) {
        match self.editor() {
            Some(editor) => editor.print(&format!("ocps: {reason}\n"), out),
            None => complain(reason),
        }
    }
}
