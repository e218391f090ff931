//! From argv to an [`Invocation`]: what is asked for, checked as far as the command line alone allows.
//!
//! Knows no files, no sockets and no environment, so that `--help` works whatever else is broken.
//!
//! `table` has every command and flag once; `help` and `generate` make texts from it.

mod generate;
pub(super) mod help;
mod table;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::{Arg, Parser};
use serde_json::{Map, Value};

use self::generate::Product;
use self::table::{Action, COMMANDS, Draft, FLAGS, Flag};
use super::client::Target;
use super::event_text::TOPICS;
use crate::csc::command::CommandName;
use crate::csc::id::SalIndex;
use crate::csc::state::SummaryState;
use crate::daemon::options::RunArgs;
use crate::sal::topic::{FieldType, parameters};
use crate::text::nearest;

/// A command of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `ocps run`.
    Run,
    /// `ocps send`.
    Send,
    /// `ocps state`.
    State,
    /// `ocps status`.
    Status,
    /// `ocps jobs`.
    Jobs,
    /// `ocps watch`.
    Watch,
    /// `ocps console`.
    Console,
    /// `ocps check`.
    Check,
    /// `ocps generate`.
    Generate,
    /// `ocps help`.
    Help,
}

impl Verb {
    /// All of them, in the order of help.
    pub const ALL: [Self; 10] = [
        Self::Run,
        Self::Send,
        Self::State,
        Self::Status,
        Self::Jobs,
        Self::Watch,
        Self::Console,
        Self::Check,
        Self::Generate,
        Self::Help,
    ];
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// Run the daemon.
    Run(RunArgs),
    /// Send a command.
    Send(SendArgs),
    /// Print or change the summary state.
    State(StateArgs),
    /// Show the status.
    Status(StatusArgs),
    /// List the jobs.
    Jobs(JobsArgs),
    /// Print events.
    Watch(WatchArgs),
    /// Prompt for commands.
    Console(ConsoleArgs),
    /// Check configuration files.
    Check(CheckArgs),
    /// Print this text: help, or what `ocps generate` made.
    Text(String),
    /// Print the version, in one line.
    Version,
    /// Print what the build is made of.
    Build,
}

/// What `ocps send` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct SendArgs {
    /// The daemon.
    pub target: Target,
    /// COMMAND.
    pub command: CommandName,
    /// NAME=VALUE.
    pub params: Map<String, Value>,
    /// `--timeout`: longest wait for the next ack; none: as the command needs.
    pub timeout: Option<Duration>,
    /// `--no-wait`.
    pub no_wait: bool,
    /// `--json`.
    pub json: bool,
}

/// What `ocps state` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct StateArgs {
    /// The daemon.
    pub target: Target,
    /// TARGET; never FAULT. None: print the state.
    pub goal: Option<SummaryState>,
    /// `--override`, only with a goal that may need `start`.
    pub override_name: Option<String>,
    /// `--timeout`: longest wait for the ack of each transition.
    pub timeout: Option<Duration>,
}

/// What `ocps status` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusArgs {
    /// The daemon.
    pub target: Target,
    /// `--json`.
    pub json: bool,
}

/// What `ocps jobs` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct JobsArgs {
    /// The daemon.
    pub target: Target,
    /// `--all`: finished ones, too.
    pub all: bool,
    /// `--json`.
    pub json: bool,
}

/// What `ocps watch` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchArgs {
    /// The daemon.
    pub target: Target,
    /// TOPIC: names of events; empty: all but heartbeat.
    pub topics: Vec<&'static str>,
    /// `--json`.
    pub json: bool,
}

/// What `ocps console` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsoleArgs {
    /// The daemon.
    pub target: Target,
    /// `--wait`: how long to wait for a daemon.
    pub wait: Duration,
}

/// What `ocps check` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckArgs {
    /// PATH: files and directories; empty: all that a start needs.
    pub paths: Vec<PathBuf>,
    /// `--site`.
    pub site: Option<String>,
    /// `--index`.
    pub index: Option<SalIndex>,
    /// The flags of `ocps run`, if any is given.
    pub start: Option<RunArgs>,
    /// `--json`.
    pub json: bool,
}

/// The command line cannot be carried out: one line that says why and where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    problem: String,
    verb: Option<Verb>,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verb.map(table::command) {
            Some(command) => write!(f, "{} (see ocps {} --help)", self.problem, command.name),
            None => write!(f, "{} (see ocps --help)", self.problem),
        }
    }
}

impl std::error::Error for Usage {}

/// Parses the command line, the program's own name first.
///
/// Under the name `run_ocps` or `run_OCPS.py` the program is `ocps run`.
///
/// # Errors
/// What is wrong with it, and what was probably meant. A line that asks for help is never wrong.
pub fn parse(argv: impl Iterator<Item = OsString>) -> Result<Invocation, Usage> {
    let argv: Vec<OsString> = argv.collect();
    let mut line = Line { verb: verb_of_program(argv.first()), ..Line::default() };
    match line.read(Parser::from_iter(argv.iter().cloned())).and_then(|early| match early {
        Some(invocation) => Ok(invocation),
        None => line.finish(),
    }) {
        Err(_) if asks_for_help(&argv) => Ok(Invocation::Text(help::text(line.verb))),
        outcome => outcome,
    }
}

/// The command that the name of the program stands for.
fn verb_of_program(name: Option<&OsString>) -> Option<Verb> {
    let name = Path::new(name?).file_name()?;
    (name == "run_ocps" || name == "run_OCPS.py").then_some(Verb::Run)
}

/// Whether help is asked for anywhere, also after a mistake.
fn asks_for_help(argv: &[OsString]) -> bool {
    argv.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h")
}

/// A command line while it is read.
#[derive(Default)]
struct Line {
    verb: Option<Verb>,
    draft: Draft,
    /// Flags that were there, with their values.
    seen: Vec<(&'static str, Option<OsString>)>,
    /// Arguments after the command.
    arguments: Vec<OsString>,
}

impl Line {
    fn wrong<T>(&self, problem: impl Into<String>) -> Result<T, Usage> {
        Err(Usage { problem: problem.into(), verb: self.verb })
    }

    /// Reads to the end, or to a flag that ends parsing.
    fn read(&mut self, mut parser: Parser) -> Result<Option<Invocation>, Usage> {
        loop {
            let raw = parser.try_raw_args().and_then(|rest| rest.peek().map(OsStr::to_owned));
            let found = match parser.next() {
                Ok(None) => return Ok(None),
                Ok(Some(Arg::Value(value))) => {
                    self.argument(value)?;
                    continue;
                }
                Ok(Some(Arg::Short(short))) => FLAGS.iter().find(|flag| flag.short == Some(short)),
                Ok(Some(Arg::Long(long))) => FLAGS.iter().find(|flag| flag.name == long),
                // The only error here: `--flag=value` where the flag before took no value.
                Err(error) => return self.wrong(unexpected_value(&error)),
            };
            let raw = raw.unwrap_or_default();
            let Some(flag) = found.filter(|flag| self.verb.is_none_or(|verb| flag.verbs.contains(&verb)))
            else {
                return self.unknown_flag(&raw, found);
            };
            match flag.action {
                Action::Help => return Ok(Some(Invocation::Text(help::text(self.verb)))),
                Action::Version if raw == "--version" => return Ok(Some(Invocation::Build)),
                Action::Version => return Ok(Some(Invocation::Version)),
                Action::Switch(_) | Action::Value { .. } => self.flag(flag, &mut parser)?,
            }
        }
    }

    fn argument(&mut self, value: OsString) -> Result<(), Usage> {
        if self.verb.is_some() {
            self.arguments.push(value);
            return Ok(());
        }
        let name = value.to_string_lossy();
        match COMMANDS.iter().find(|command| command.name == name) {
            Some(command) => self.verb = Some(command.verb),
            None => {
                let near = nearest(&name, COMMANDS.iter().map(|command| command.name));
                return self.wrong(format!("unknown command {}{}", shown(&name), did_you_mean("", near)));
            }
        }
        Ok(())
    }

    /// Applies one flag.
    fn flag(&mut self, flag: &'static Flag, parser: &mut Parser) -> Result<(), Usage> {
        if self.verb.is_none() {
            return self.wrong(format!("the command comes before its flags: ocps COMMAND --{} …", flag.name));
        }
        let value = match flag.action {
            Action::Help | Action::Version => return Ok(()),
            Action::Switch(set) => {
                set(&mut self.draft);
                None
            }
            Action::Value { name, set } => {
                let Some(value) = value_of(parser) else {
                    return self.wrong(format!("--{} needs a value: --{} {name}", flag.name, flag.name));
                };
                if let Err(reason) = set(&mut self.draft, &value) {
                    return self.wrong(format!("--{}: {reason}", flag.name));
                }
                Some(value)
            }
        };
        match self.seen.iter().find(|(name, _)| *name == flag.name) {
            Some((_, before)) if *before != value => {
                self.wrong(format!("--{} is given twice with different values", flag.name))
            }
            Some(_) => Ok(()),
            None => {
                self.seen.push((flag.name, value));
                Ok(())
            }
        }
    }

    /// `known`: it is a flag, but of other commands.
    fn unknown_flag<T>(&self, raw: &OsStr, known: Option<&'static Flag>) -> Result<T, Usage> {
        let raw = raw.to_string_lossy();
        let raw = raw.split('=').next().unwrap_or_default();
        if let (Some(flag), Some(verb)) = (known, self.verb) {
            let takers: Vec<&str> = flag.verbs.iter().map(|verb| table::command(*verb).name).collect();
            return self.wrong(format!(
                "unknown flag {raw}: ocps {} does not take it, only {}",
                table::command(verb).name,
                takers.join(", ")
            ));
        }
        let candidates = FLAGS.iter().filter(|flag| self.verb.is_none_or(|verb| flag.verbs.contains(&verb)));
        let near = nearest(raw.trim_start_matches('-'), candidates.map(|flag| flag.name));
        self.wrong(format!("unknown flag {}{}", shown(raw), did_you_mean("--", near)))
    }

    /// Puts together what was read.
    fn finish(&mut self) -> Result<Invocation, Usage> {
        let Some(verb) = self.verb else { return self.wrong("no command given") };
        let target = Target { socket: self.draft.socket.clone(), index: self.draft.index };
        let json = self.draft.json;
        Ok(match verb {
            Verb::Run => Invocation::Run(self.run_args()?),
            Verb::Send => Invocation::Send(self.send_args(target)?),
            Verb::State => Invocation::State(self.state_args(target)?),
            Verb::Status => {
                self.at_most(0)?;
                Invocation::Status(StatusArgs { target, json })
            }
            Verb::Jobs => {
                self.at_most(0)?;
                Invocation::Jobs(JobsArgs { target, all: self.draft.all, json })
            }
            Verb::Watch => Invocation::Watch(WatchArgs { target, topics: self.topics()?, json }),
            Verb::Console => {
                self.at_most(0)?;
                Invocation::Console(ConsoleArgs { target, wait: self.draft.wait.unwrap_or_default() })
            }
            Verb::Check => Invocation::Check(self.check_args()?),
            Verb::Generate => self.product()?,
            Verb::Help => self.help_of_argument()?,
        })
    }

    fn at_most(&self, count: usize) -> Result<(), Usage> {
        match self.arguments.get(count) {
            Some(extra) => self.wrong(format!("unexpected argument {}", shown(&extra.to_string_lossy()))),
            None => Ok(()),
        }
    }

    fn run_args(&mut self) -> Result<RunArgs, Usage> {
        self.at_most(1)?;
        let index = match self.arguments.first().map(|index| SalIndex::parse(&index.to_string_lossy())) {
            None => None,
            Some(Ok(index)) => Some(index),
            Some(Err(reason)) => return self.wrong(reason),
        };
        let kafka = match (self.draft.kafka, self.draft.no_kafka) {
            (false, false) => None,
            (on, off) if on != off => Some(on),
            _ => return self.wrong("--kafka and --no-kafka contradict each other"),
        };
        Ok(RunArgs {
            index,
            simulate: self.draft.simulate,
            state: self.draft.state.unwrap_or_default(),
            override_name: self.draft.override_name.take(),
            config_dir: self.draft.config_dir.take(),
            config: self.draft.config.take(),
            socket: self.draft.socket.take(),
            state_dir: self.draft.state_dir.take(),
            log_level: self.draft.log_level,
            kafka,
        })
    }

    fn check_args(&mut self) -> Result<CheckArgs, Usage> {
        let paths: Vec<PathBuf> = self.arguments.drain(..).map(PathBuf::from).collect();
        let index = self.draft.index;
        // The flags that say how the daemon would be started.
        let of_run = |name: &&str| !["site", "index", "json"].contains(name);
        let flag = self.seen.iter().map(|(name, _)| *name).find(of_run);
        let start = match flag {
            None => None,
            Some(flag) if !paths.is_empty() => {
                return self.wrong(format!("--{flag} says how the daemon is started: give it without PATH"));
            }
            Some(_) => Some(RunArgs { index, ..self.run_args()? }),
        };
        Ok(CheckArgs { paths, site: self.draft.site.take(), index, start, json: self.draft.json })
    }

    fn send_args(&self, target: Target) -> Result<SendArgs, Usage> {
        let mut words = Vec::new();
        for argument in &self.arguments {
            match argument.to_str() {
                Some(word) => words.push(word),
                None => return self.wrong(format!("argument {argument:?} is not UTF-8")),
            }
        }
        let Some((name, parameters)) = words.split_first() else {
            return self.wrong("no COMMAND to send: for example ocps send execute pipeline=true.yaml");
        };
        let (command, params) = command_line(name, parameters).or_else(|problem| self.wrong(problem))?;
        let Draft { timeout, no_wait, json, .. } = self.draft;
        Ok(SendArgs { target, command, params, timeout, no_wait, json })
    }

    fn state_args(&mut self, target: Target) -> Result<StateArgs, Usage> {
        self.at_most(1)?;
        let goal = match self.arguments.first() {
            None => None,
            Some(name) => Some(self.goal(&name.to_string_lossy())?),
        };
        let starts = matches!(goal, Some(SummaryState::Disabled | SummaryState::Enabled));
        if self.draft.override_name.is_some() && !starts {
            return self.wrong("--override is for the start command: give it with disabled or enabled");
        }
        let override_name = self.draft.override_name.take();
        Ok(StateArgs { target, goal, override_name, timeout: self.draft.timeout })
    }

    fn goal(&self, name: &str) -> Result<SummaryState, Usage> {
        const ALLOWED: &str = "give standby, disabled, enabled or offline";
        match SummaryState::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(name)) {
            Some(SummaryState::Fault) => self.wrong(format!("no transition leads to FAULT: {ALLOWED}")),
            Some(state) => Ok(state),
            None => self.wrong(format!("unknown state {}: {ALLOWED}", shown(name))),
        }
    }

    fn topics(&self) -> Result<Vec<&'static str>, Usage> {
        let mut topics = Vec::new();
        for name in self.arguments.iter().map(|name| name.to_string_lossy()) {
            // The full SAL name does as well.
            let bare = name.strip_prefix("logevent_").unwrap_or(&name);
            match TOPICS.iter().copied().find(|topic| *topic == bare) {
                Some(topic) => topics.push(topic),
                None => {
                    let near = nearest(bare, TOPICS.iter().copied());
                    return self.wrong(format!("unknown topic {}{}", shown(&name), did_you_mean("", near)));
                }
            }
        }
        Ok(topics)
    }

    fn product(&self) -> Result<Invocation, Usage> {
        self.at_most(1)?;
        let name = self.arguments.first().map(|name| name.to_string_lossy());
        match Product::ALL.into_iter().find(|product| Some(product.name()) == name.as_deref()) {
            Some(product) => Ok(Invocation::Text(product.text())),
            None => self.wrong("nothing to make: give man, bash, zsh or fish"),
        }
    }

    fn help_of_argument(&mut self) -> Result<Invocation, Usage> {
        self.at_most(1)?;
        let Some(name) = self.arguments.pop() else { return Ok(Invocation::Text(help::text(None))) };
        self.verb = None;
        self.argument(name)?;
        Ok(Invocation::Text(help::text(self.verb)))
    }
}

/// The value of the flag just read: attached with `=`, or the next argument unless that is a flag itself.
fn value_of(parser: &mut Parser) -> Option<OsString> {
    if let Some(attached) = parser.optional_value() {
        return Some(attached);
    }
    let next_is_flag = parser
        .try_raw_args()
        .and_then(|rest| rest.peek().map(|next| next.as_encoded_bytes().starts_with(b"--")))
        .unwrap_or(true);
    if next_is_flag { None } else { parser.value().ok() }
}

fn unexpected_value(error: &lexopt::Error) -> String {
    if let lexopt::Error::UnexpectedValue { option, .. } = error {
        return format!("{option} takes no value");
    }
    error.to_string()
}

/// A word from outside, as it is or quoted when it would be hard to see.
pub(super) fn shown(word: &str) -> String {
    let plain = !word.is_empty() && !word.chars().any(|c| c.is_control() || c.is_whitespace());
    if plain { word.to_owned() } else { format!("{word:?}") }
}

/// The question that names what was probably meant, if anything was.
pub(super) fn did_you_mean(dashes: &str, near: Option<&str>) -> String {
    near.map(|near| format!(": did you mean {dashes}{near}?")).unwrap_or_default()
}

/// Parses a command of the daemon and its `NAME=VALUE` parameters.
///
/// A parameter that the command does not have is handed on as text: the daemon's answer is the true one.
///
/// # Errors
/// One line: an unknown command, a word without `=`, a name given twice, text where a number must be.
pub(super) fn command_line(name: &str, words: &[&str]) -> Result<(CommandName, Map<String, Value>), String> {
    let Some(command) = CommandName::parse(name) else {
        let near = nearest(name, CommandName::ALL.map(CommandName::as_str));
        return Err(format!("unknown command {}{}", shown(name), did_you_mean("", near)));
    };
    let fields = parameters(command);
    let mut params = Map::new();
    for word in words {
        let Some((name, text)) = word.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("{} is not NAME=VALUE", shown(word)));
        };
        let is_int = fields.iter().any(|field| field.name == name && field.kind == FieldType::Int);
        let value = match (is_int, text.parse::<i32>()) {
            (true, Ok(number)) => Value::from(number),
            (true, Err(_)) => {
                return Err(format!("{name} must be a whole number of 32 bits, not {}", shown(text)));
            }
            (false, _) => Value::from(text),
        };
        if params.insert(name.to_owned(), value).is_some() {
            return Err(format!("parameter {name} is given twice"));
        }
    }
    Ok((command, params))
}

#[cfg(test)]
mod tests;
