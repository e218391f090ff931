//! Makes a [`Task`] from the command line: the command with its flags and arguments, checked without looking at files, sockets
//! or the environment, so that `--help` works whatever else is broken.
//!
//! `help.txt` contains each command and flag once, and defines which flags each command takes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::{Arg, Parser};

use super::client::Target;
use super::{COMMANDS, Task, version};
use crate::csc::command::CommandName;
use crate::csc::id::SalIndex;
use crate::csc::state::SummaryState;
use crate::daemon::options::RunArgs;
use crate::daemon::turn::Goal;
use crate::text::nearest;

/// The help texts: sections that begin with a line `== NAME`, and may include others with a line `{NAME}`. The section of a
/// flag is named `--flag`, or `--flag VALUE` if it takes a value. A command takes the flags that its section includes.
const HELP: &str = include_str!("help.txt");

/// The name of the section about the whole program.
const PROGRAM: &str = "ocps";

/// Maximum time that a flag may give, in seconds: a day.
const SECONDS_MAX: f64 = 86_400.0;

/// The choices of `--state`.
const INITIAL_STATES: &[(&str, Option<SummaryState>)] = &[
    ("standby", Some(SummaryState::Standby)),
    ("disabled", Some(SummaryState::Disabled)),
    ("enabled", Some(SummaryState::Enabled)),
    ("resume", None),
];

/// The choices of `--loglevel`, with Python's numbers.
const LOG_LEVELS: &[(&str, i32)] = &[
    ("debug", 10),
    ("info", 20),
    ("warning", 30),
    ("error", 40),
    ("10", 10),
    ("20", 20),
    ("30", 30),
    ("40", 40),
];

/// The task of a command line, which begins with the name of the program.
///
/// # Errors
/// One line: what is wrong with the command line, and which help to read. A command line with `--help` is never wrong.
pub(super) fn parse(argv: impl Iterator<Item = OsString>) -> Result<Task, String> {
    let argv: Vec<OsString> = argv.collect();
    let mut line = Line::default();
    line.read(&argv).and_then(|()| line.task()).or_else(|problem| {
        if argv.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h") {
            return Ok(print(line.help()));
        }
        let command = line.command.map(|command| format!(" {command}")).unwrap_or_default();
        Err(format!("{problem} (see ocps{command} --help)"))
    })
}

/// Whether the name of the program means `ocps run`, as `run_ocps` and `run_OCPS.py` do.
pub(super) fn means_run(argv: &[OsString]) -> bool {
    let program = argv.first().and_then(|name| Path::new(name).file_name());
    program.is_some_and(|name| name == "run_ocps" || name == "run_OCPS.py")
}

/// A command line whose values are not checked yet.
#[derive(Debug, Default)]
pub(super) struct Line {
    command: Option<&'static str>,
    /// The flags with their values.
    flags: Vec<(&'static str, Option<OsString>)>,
    /// The arguments after the command.
    arguments: Vec<OsString>,
    /// The text to print instead of carrying out the command: help or version.
    text: Option<String>,
    /// Whether help about the command is requested.
    explain: bool,
}

impl Line {
    /// Reads the command line to its end, or to a flag for help or version.
    pub(super) fn read(&mut self, argv: &[OsString]) -> Result<(), String> {
        if means_run(argv) {
            self.command = Some("run");
        }
        let mut parser = Parser::from_iter(argv);
        loop {
            let raw = parser.try_raw_args().and_then(|rest| rest.peek().map(OsStr::to_owned));
            let raw = raw.unwrap_or_default().to_string_lossy().into_owned();
            match parser.next().map_err(|error| error.to_string())? {
                None => break,
                Some(Arg::Value(word)) => self.take_word(word)?,
                Some(Arg::Short('h') | Arg::Long("help")) => {
                    self.explain = true;
                    break;
                }
                Some(Arg::Short('V')) => {
                    self.text = Some(format!("{}\n", version::NAME));
                    break;
                }
                Some(Arg::Long("version")) => {
                    self.text = Some(version::text());
                    break;
                }
                Some(Arg::Short(_)) => return Err(self.unknown_flag("", &raw)),
                Some(Arg::Long(name)) => {
                    let name = name.to_owned();
                    self.take_flag(&name, &raw, &mut parser)?;
                }
            }
        }
        if self.explain {
            self.text = Some(self.help());
        }
        Ok(())
    }

    fn take_word(&mut self, word: OsString) -> Result<(), String> {
        if self.command.is_some() {
            self.arguments.push(word);
        } else if word == "help" {
            self.explain = true;
        } else {
            self.command = command_names().find(|name| word == *name);
            if self.command.is_none() {
                let word = word.to_string_lossy();
                if CommandName::parse(&word).is_some() {
                    return Err(format!("{word} is a command of the daemon: ocps send {word}"));
                }
                return Err(unknown("command", &word, command_names()));
            }
        }
        Ok(())
    }

    /// Takes a flag, and its value from the parser; `raw` is the flag as it was written.
    fn take_flag(&mut self, name: &str, raw: &str, parser: &mut Parser) -> Result<(), String> {
        let Some((flag, value)) = flags_of(self.command).find(|(flag, _)| *flag == name) else {
            return Err(self.unknown_flag(name, raw));
        };
        if self.command.is_none() {
            return Err(format!("the command comes before its flags: ocps COMMAND --{flag} …"));
        }
        let value = match value {
            None => None,
            Some(name) => {
                Some(value_of(parser).ok_or_else(|| format!("--{flag} needs a value: --{flag} {name}"))?)
            }
        };
        if self.flags.iter().any(|(known, before)| *known == flag && *before != value) {
            return Err(format!("--{flag} is given twice with different values"));
        }
        self.flags.push((flag, value));
        Ok(())
    }

    fn unknown_flag(&self, name: &str, raw: &str) -> String {
        let raw = raw.split('=').next().unwrap_or_default();
        let takes = |command: &&str| flags_of(Some(command)).any(|(flag, _)| flag == name);
        let takers: Vec<&str> = command_names().filter(takes).collect();
        match self.command {
            Some("run") if name == "index" => format!("unknown flag {raw}: write ocps run INDEX"),
            Some(command) if !takers.is_empty() => {
                format!("unknown flag {raw}: ocps {command} does not take it, only {}", takers.join(", "))
            }
            Some(_) | None => {
                let near = nearest(raw.trim_start_matches('-'), flags_of(self.command).map(|(flag, _)| flag));
                format!("unknown flag {}{}", shown(raw), did_you_mean("--", near))
            }
        }
    }

    fn task(&self) -> Result<Task, String> {
        if let Some(text) = &self.text {
            return Ok(print(text.clone()));
        }
        let command = COMMANDS.iter().find(|(name, _)| Some(*name) == self.command);
        command.map_or_else(|| Err("no command given".to_owned()), |(_, task)| task(self))
    }

    /// The help of the command, or of the whole program.
    fn help(&self) -> String {
        help(self.command.unwrap_or(PROGRAM))
    }

    /// Whether this is `ocps run` without `--help` or `--version`.
    pub(super) fn runs_the_daemon(&self) -> bool {
        self.command == Some("run") && self.text.is_none()
    }

    /// Whether the flag is given.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| *name == flag)
    }

    /// The names of the flags that are given.
    pub(super) fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.flags.iter().map(|(name, _)| *name)
    }

    fn raw(&self, flag: &str) -> Option<&OsStr> {
        self.flags.iter().find(|(name, _)| *name == flag)?.1.as_deref()
    }

    /// The value of a flag, if it is given.
    pub(super) fn value<T>(
        &self,
        flag: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.raw(flag) else { return Ok(None) };
        let parsed = value.to_str().ok_or_else(|| "the value is not UTF-8".to_owned()).and_then(parse);
        parsed.map(Some).map_err(|reason| format!("--{flag}: {reason}"))
    }

    /// The path that is the value of a flag, if it is given.
    pub(super) fn path(&self, flag: &str) -> Result<Option<PathBuf>, String> {
        match self.raw(flag) {
            Some(path) if path.is_empty() => Err(format!("--{flag}: the path is empty")),
            path => Ok(path.map(PathBuf::from)),
        }
    }

    /// The arguments, of which there may be at most `max`.
    pub(super) fn words(&self, max: usize) -> Result<Vec<&str>, String> {
        let utf8 = |word: &OsString| format!("argument {word:?} is not UTF-8");
        let words = self.arguments.iter().map(|word| word.to_str().ok_or_else(|| utf8(word)));
        let words: Vec<&str> = words.collect::<Result<_, _>>()?;
        match words.get(max) {
            Some(extra) => Err(format!("unexpected argument {}", shown(extra))),
            None => Ok(words),
        }
    }

    /// The arguments as paths.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.arguments.iter().map(PathBuf::from).collect()
    }

    /// The daemon to which a client connects.
    pub(super) fn target(&self) -> Result<Target, String> {
        Ok(Target { socket: self.path("socket")?, index: self.value("index", SalIndex::parse)? })
    }

    /// The flags and arguments of `ocps run`.
    pub(super) fn run_args(&self) -> Result<RunArgs, String> {
        let kafka = match (self.has("kafka"), self.has("no-kafka")) {
            (false, false) => None,
            (true, true) => return Err("--kafka and --no-kafka contradict each other".to_owned()),
            (on, _) => Some(on),
        };
        Ok(RunArgs {
            index: self.words(1)?.first().map(|index| SalIndex::parse(index)).transpose()?,
            simulate: self.has("simulate"),
            goal: Goal {
                state: self
                    .value("state", |name| choose(name, INITIAL_STATES))?
                    .unwrap_or(Some(SummaryState::Standby)),
                override_name: self.value("override", text)?,
            },
            config_dir: self.path("configdir")?,
            config: self.path("config")?,
            socket: self.path("socket")?,
            state_dir: self.path("state-dir")?,
            log_level: self.value("loglevel", |level| choose(level, LOG_LEVELS))?,
            kafka,
            standby: self.has("standby"),
        })
    }
}

fn command_names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(name, _)| *name)
}

fn print(text: String) -> Task {
    Box::new(move |out| out.text(&text))
}

/// The section of the help with this name, without those that it includes.
fn section(name: &str) -> &'static str {
    HELP.split("\n== ").find_map(|section| section.strip_prefix(name)?.strip_prefix('\n')).unwrap_or_default()
}

/// The section of the help with this name, and those that it includes.
pub(super) fn help(name: &str) -> String {
    let line = |line: &str| match included(line) {
        Some(name) => help(name),
        None => format!("{line}\n"),
    };
    section(name).lines().map(line).collect()
}

fn included(line: &str) -> Option<&str> {
    line.strip_prefix('{')?.strip_suffix('}')
}

/// The flags of a command, or without a command all flags: the name of each, and the name of its value if it takes one.
fn flags_of(command: Option<&str>) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let names: Box<dyn Iterator<Item = &'static str>> = match command {
        Some(command) => Box::new(section(command).lines().filter_map(included)),
        None => Box::new(HELP.lines().filter_map(|line| line.strip_prefix("== "))),
    };
    names.filter_map(|name| name.strip_prefix("--")).map(|name| match name.split_once(' ') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// The value of the flag that was just read: after `=`, or the next argument unless that is a flag.
fn value_of(parser: &mut Parser) -> Option<OsString> {
    if let Some(attached) = parser.optional_value() {
        return Some(attached);
    }
    let is_flag = |next: &OsStr| next.as_encoded_bytes().starts_with(b"--");
    let next_is_flag = parser.try_raw_args()?.peek().is_none_or(is_flag);
    if next_is_flag { None } else { parser.value().ok() }
}

/// Any text.
pub(super) fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// The choice with this name, whose case does not matter.
pub(super) fn choose<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    match choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(value)) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(format!("must be one of {}, not {}", names.join(", "), shown(value)))
        }
    }
}

/// A number of seconds.
pub(super) fn seconds(value: &str) -> Result<Duration, String> {
    match value.parse() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err(format!("{value:?} is not a number of seconds from 0 to {SECONDS_MAX}")),
    }
}

/// A word from outside, quoted if it is empty or contains blanks or control characters.
pub(super) fn shown(word: &str) -> String {
    let plain = !word.is_empty() && !word.chars().any(|c| c.is_control() || c.is_whitespace());
    if plain { word.to_owned() } else { format!("{word:?}") }
}

/// An error text: there is no `what` with this name, and which one was probably meant.
pub(super) fn unknown<'a>(
    what: impl fmt::Display,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    format!("unknown {what} {}{}", shown(name), did_you_mean("", nearest(name, known)))
}

fn did_you_mean(dashes: &str, near: Option<&str>) -> String {
    near.map(|near| format!(": did you mean {dashes}{near}?")).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
