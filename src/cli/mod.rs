//! The command line: what a person or a script asks for, and the clients of a running daemon.
//!
//! * `flags`: argv to a `Task`
//! * `client`: the connection to the daemon's socket, and what comes over it
//! * `output`: the one place that prints, and what to do when its reader is gone; `exit`: all exit codes
//! * `event_text`, `text`, `times`: what came, as lines for people
//! * `find`, `follow`: the job that is meant, and its changes as they come
//! * `send`, `state`, `status`, `jobs`, `watch`, `console`: one client command each; `wait`: `ocps wait` and `abort`
//! * `files`: `results` and `logs`, the files of a job, from its service
//! * `top`: the live screen
//! * `check`, `doctor`, `unit`: the configuration, without a daemon, and as the service manager would start one
//! * `version`: what this build is made of
//!
//! A client knows nothing of the daemon but its socket: not its configuration, not its files. Only `files` reads the
//! configuration too, for how to reach the service.

mod check;
mod client;
mod console;
mod doctor;
mod event_text;
mod exit;
mod files;
mod find;
mod flags;
mod follow;
mod jobs;
mod output;
mod send;
mod state;
mod status;
mod text;
mod times;
#[cfg(feature = "terminal")]
mod top;
#[cfg(not(feature = "terminal"))]
#[path = "no_top.rs"]
mod top;
mod unit;
mod version;
mod wait;
mod watch;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use self::exit::Exit;
use self::flags::Line;
use self::output::Output;
use crate::daemon;

/// A command, its values in it, that is ready to be carried out.
type Task = Box<dyn FnOnce(&mut Output) -> Result<(), Failure>>;

/// What makes a task from flags and arguments; the error is one line about these.
type Prepare = fn(&Line) -> Result<Task, String>;

/// All commands.
const COMMANDS: &[(&str, Prepare)] = &[
    ("run", run),
    ("send", send::task),
    ("state", state::task),
    ("status", status::task),
    ("jobs", jobs::task),
    ("job", jobs::whole::task),
    ("wait", wait::wait_task),
    ("abort", wait::abort_task),
    ("metrics", status::metrics_task),
    ("results", files::results),
    ("logs", files::logs),
    ("top", top::task),
    ("watch", watch::task),
    ("console", console::task),
    ("check", check::task),
    ("doctor", doctor::task),
];

/// Why a command did not succeed.
#[derive(Debug, PartialEq)]
enum Failure {
    /// The reader of our output is gone: a normal end.
    OutputClosed,
    /// It did not work; the line says why.
    Failed(String),
    /// The daemon closed the connection, or it broke; the line says so.
    Lost(String),
    /// The command line is wrong; the line says how.
    Usage(String),
    /// No daemon could be reached; the line names the places that were tried.
    NoDaemon(String),
    /// ^C or another signal ended it; the line says what keeps running.
    Interrupted(Exit, String),
    /// The reason is printed already.
    Printed(Exit),
}

impl Failure {
    /// Of a lost connection also what that means.
    fn with(self, meaning: &str) -> Self {
        if let Self::Lost(reason) = &self { Self::Lost(format!("{reason} {meaning}")) } else { self }
    }

    /// Prints the reason and returns the exit code.
    fn exit(self) -> Exit {
        let (reason, exit) = match self {
            Self::OutputClosed => return Exit::Ok,
            Self::Failed(reason) | Self::Lost(reason) => (reason, Exit::Failed),
            Self::Usage(reason) => (reason, Exit::Usage),
            Self::NoDaemon(reason) => (reason, Exit::NoDaemon),
            Self::Interrupted(exit, reason) => (reason, exit),
            Self::Printed(exit) => return exit,
        };
        output::complain(&reason);
        exit.raise();
        exit
    }
}

/// Carries out a command line, the program's own name first, and returns the exit code of the process: one of those that
/// `ocps --help` lists.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let task = flags::parse(with_run_arg(argv.collect()).into_iter()).map_err(Failure::Usage);
    match task.and_then(|task| task(&mut Output::of_process())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.exit().code()),
    }
}

/// Under a name that means `ocps run`, and without arguments, the program takes those of `RUN_ARG`, which the
/// observatory's deployments set; they are separated by blanks.
fn with_run_arg(mut argv: Vec<OsString>) -> Vec<OsString> {
    if argv.len() == 1 && flags::means_run(&argv) {
        let words = env::var_os("RUN_ARG").unwrap_or_default();
        argv.extend(words.to_string_lossy().split_whitespace().map(OsString::from));
    }
    argv
}

/// `ocps run`: the daemon, until it ends.
fn run(line: &Line) -> Result<Task, String> {
    let args = line.run_args()?;
    Ok(Box::new(move |_| {
        daemon::run(&args).map_err(|failure| {
            Failure::Printed(match failure {
                daemon::Failure::Usage(_) => Exit::Usage,
                daemon::Failure::Configuration(_) => Exit::Configuration,
                daemon::Failure::Fenced(_) => Exit::TakenOver,
                daemon::Failure::Other(_) => Exit::Failed,
            })
        })
    }))
}
