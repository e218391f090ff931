//! `ocps console`: commands in, acks and events as they come.
//!
//! A thread reads standard input, the client's thread reads the daemon, and the session sees both in turn.

mod input;

use std::io::{IsTerminal, stdin};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use self::input::{Input, Request, parse};
use super::Failure;
use super::client::{Ack, CLOSED, Client, Event, Incoming, Line, Message, Standing, refused};
use super::event_text::{HEARTBEAT, ack_text, event_line, summary_state};
use super::flags::ConsoleArgs;
use super::flags::help::commands_of_the_daemon;
use super::jobs::unfinished_text;
use super::output::{Output, Tone, complain};
use super::send::Patience;
use super::status::status_text;
use crate::clock;
use crate::csc::command::CommandName;
use crate::csc::state::SummaryState;

const PROMPT: &str = "ocps> ";
/// Begins the line of the prompt anew, so that something can be printed there.
const ERASE_LINE: &str = "\r\x1b[K";
/// How long to wait before another attempt to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// How often the session looks around when nothing comes.
const IDLE_TURN: Duration = Duration::from_millis(500);

/// Runs `ocps console`.
///
/// # Errors
/// When the daemon goes away without having gone OFFLINE, when a command got no answer in time, and
/// whatever breaks before. A command that fails is no error here: its ack told.
pub(super) fn run(args: &ConsoleArgs, out: &mut Output) -> Result<(), Failure> {
    let mut client = connect(args)?;
    client.subscribe()?;
    let input = input::read_standard_input()
        .map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
    let typist = if stdin().is_terminal() { Typist::Person } else { Typist::Script };
    let mut session = Session {
        client,
        typist,
        has_prompt: typist == Typist::Person && out.is_terminal(),
        last_seq: 0,
        sent: Vec::new(),
        queries: 0,
        input_ended: false,
        unanswered: 0,
        last_state: None,
    };
    session.prompt(out)?;
    session.run(&input, out)
}

/// Connects; while there is no daemon, again and again for the time of `--wait`.
fn connect(args: &ConsoleArgs) -> Result<Client, Failure> {
    let deadline = Instant::now() + args.wait;
    loop {
        match Client::connect(&args.target) {
            Err(Failure::NoDaemon(_)) if Instant::now() < deadline => thread::sleep(CONNECT_AGAIN),
            outcome => return outcome,
        }
    }
}

/// Where the commands come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typist {
    /// A person at a terminal, who sees what comes of a command and may leave at any time.
    Person,
    /// A pipe or a file: a change of state is awaited before the next line, and in the end everything is.
    Script,
}

/// A command whose final ack has not come.
struct Sent {
    seq: i32,
    command: CommandName,
    patience: Patience,
    deadline: Option<Instant>,
}

impl Sent {
    fn name(&self) -> String {
        format!("{}[{}]", self.command.as_str(), self.seq)
    }
}

struct Session {
    client: Client,
    typist: Typist,
    has_prompt: bool,
    last_seq: i32,
    sent: Vec<Sent>,
    /// Queries whose answer has not come.
    queries: usize,
    input_ended: bool,
    /// Commands given up.
    unanswered: usize,
    last_state: Option<SummaryState>,
}

impl Session {
    fn run(&mut self, input: &Receiver<Input>, out: &mut Output) -> Result<(), Failure> {
        let no_input = never();
        let lines = self.client.lines().clone();
        while !self.is_over() {
            let input = if self.reads_on() { input } else { &no_input };
            select! {
                recv(lines) -> incoming => match incoming {
                    Ok(Incoming::Line(line)) => self.line(line, out)?,
                    Ok(Incoming::Broken(reason)) => return self.lost(&reason, out),
                    Err(_) => return self.lost(CLOSED, out),
                },
                recv(input) -> input => self.input(input.unwrap_or(Input::End), out)?,
                default(self.idle_time()) => {
                    out.expect_reader()?;
                    self.give_up_late(Instant::now());
                }
            }
        }
        match self.unanswered {
            0 => Ok(()),
            count => Err(Failure::Failed(format!("commands without a final ack: {count}"))),
        }
    }

    /// Whether all is said.
    fn is_over(&self) -> bool {
        let leaves = self.typist == Typist::Person || (self.sent.is_empty() && self.queries == 0);
        self.input_ended && leaves
    }

    /// Whether the next line may be taken.
    fn reads_on(&self) -> bool {
        let waits = self.typist == Typist::Script && self.sent.iter().any(|sent| changes_state(sent.command));
        !self.input_ended && !waits
    }

    fn idle_time(&self) -> Duration {
        let first = self.sent.iter().filter_map(|sent| sent.deadline).min();
        first.map_or(IDLE_TURN, |first| first.saturating_duration_since(Instant::now()).min(IDLE_TURN))
    }

    fn give_up_late(&mut self, now: Instant) {
        for late in self.sent.extract_if(.., |sent| sent.deadline.is_some_and(|deadline| deadline <= now)) {
            complain(&format!("no ack of {} in time: it may still be carried out", late.name()));
            self.unanswered += 1;
        }
    }

    /// Takes one line that was typed.
    fn input(&mut self, input: Input, out: &mut Output) -> Result<(), Failure> {
        let line = match input {
            Input::Line(line) => line,
            Input::Bad(reason) => {
                complain(&reason);
                return self.prompt(out);
            }
            Input::End => {
                self.input_ended = true;
                // The end of input at a prompt leaves the cursor there.
                return if self.has_prompt { out.line("") } else { Ok(()) };
            }
        };
        match parse(&line) {
            Ok(Request::Nothing) => {}
            Ok(Request::Quit) => {
                self.input_ended = true;
                return Ok(());
            }
            Ok(Request::Help) => out.text(&help())?,
            Ok(Request::Ask(query)) => {
                self.client.ask(query)?;
                self.queries += 1;
            }
            Ok(Request::Send(command, params)) => {
                self.last_seq += 1;
                self.client.command(self.last_seq, command, &params)?;
                let patience = Patience::new(None, command);
                let deadline = patience.deadline(Instant::now(), Duration::ZERO);
                self.sent.push(Sent { seq: self.last_seq, command, patience, deadline });
            }
            Err(reason) => complain(&reason),
        }
        self.prompt(out)
    }

    /// Takes one line of the daemon.
    fn line(&mut self, line: Line, out: &mut Output) -> Result<(), Failure> {
        match line.message {
            Message::Ack(ack) => self.ack(&ack, out),
            Message::Event(event) => self.event(&event, out),
            Message::Status(status) => {
                self.queries = self.queries.saturating_sub(1);
                self.print(&status_text(out.palette(), &status), out)
            }
            Message::Jobs(jobs) => {
                self.queries = self.queries.saturating_sub(1);
                self.print(&unfinished_text(&jobs), out)
            }
            Message::Error(reason) if self.typist == Typist::Script => Err(Failure::Failed(refused(&reason))),
            Message::Error(reason) => self.print(&format!("{}\n", refused(&reason)), out),
            Message::Other => Ok(()),
        }
    }

    fn ack(&mut self, ack: &Ack, out: &mut Output) -> Result<(), Failure> {
        let Some(at) = self.sent.iter().position(|sent| i64::from(sent.seq) == ack.seq) else {
            return Ok(());
        };
        let mut sent = self.sent.remove(at);
        // An ack has no stamp; it has just come.
        let time = out.palette().paint(Tone::Quiet, &clock::rfc3339(clock::unix_now()));
        let line = format!("{time} {} {}\n", sent.name(), ack_text(out.palette(), ack));
        if ack.standing() == Standing::InProgress {
            sent.deadline = sent.patience.deadline(Instant::now(), ack.timeout);
            self.sent.push(sent);
        }
        self.print(&line, out)
    }

    fn event(&mut self, event: &Event, out: &mut Output) -> Result<(), Failure> {
        self.last_state = summary_state(event).or(self.last_state);
        if event.topic == HEARTBEAT {
            return out.expect_reader();
        }
        self.print(&format!("{}\n", event_line(out.palette(), event)), out)
    }

    fn lost(&mut self, reason: &str, out: &mut Output) -> Result<(), Failure> {
        if self.has_prompt {
            out.text(ERASE_LINE)?;
        }
        if self.last_state != Some(SummaryState::Offline) {
            return Err(Failure::Failed(format!("{reason} without going OFFLINE")));
        }
        out.line("the daemon went OFFLINE and ended")
    }

    /// Prints something that comes while the prompt may be there.
    fn print(&self, text: &str, out: &mut Output) -> Result<(), Failure> {
        if self.has_prompt { out.text(&format!("{ERASE_LINE}{text}{PROMPT}")) } else { out.text(text) }
    }

    fn prompt(&self, out: &mut Output) -> Result<(), Failure> {
        if self.has_prompt { out.text(PROMPT) } else { Ok(()) }
    }
}

/// Whether what is allowed afterwards depends on the command.
fn changes_state(command: CommandName) -> bool {
    match command {
        CommandName::Disable
        | CommandName::Enable
        | CommandName::ExitControl
        | CommandName::Standby
        | CommandName::Start => true,
        CommandName::AbortJob | CommandName::Execute | CommandName::SetLogLevel => false,
    }
}

fn help() -> String {
    format!(
        "Type a command of the daemon with its parameters, for example\n  \
         execute pipeline=true.yaml data_query=\"visit = 3\"\n\
         or one of\n  \
         status   what the daemon is doing\n  \
         jobs     the jobs that have not finished\n  \
         help     this text\n  \
         quit     leave; jobs go on\n\n{}",
        commands_of_the_daemon()
    )
}
