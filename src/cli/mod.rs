//! The command line, and the clients of a running daemon.
//!
//! * `flags`: argv to a `Task`
//! * `client`: the connection to the daemon's socket, and its messages
//! * `output`: the one place that prints; `exit`: all exit codes
//! * `event_text`, `table`, `times`: events, acks, tables and times for people
//! * `find`, `follow`: finds a job by its id; follows the changes of jobs
//! * `send`, `state`, `status`, `jobs`, `watch`, `console`: one client command each; `wait`: `ocps wait` and `abort`
//! * `files`: `results` and `logs`, the files of a job, from its service
//! * `top`: the live screen
//! * `check`, `doctor`, `unit`: check what a daemon would use, also one that systemd would start
//! * `version`: what `ocps --version` prints
//!
//! A client knows only the socket of the daemon, not its configuration and files. Only `files` also reads the configuration,
//! for the proxy and the password of the service.

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
mod table;
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

/// A command with its checked flags and arguments, ready to be carried out.
type Task = Box<dyn FnOnce(&mut Output) -> Result<(), Failure>>;

/// Makes a task from flags and arguments. The error is one line about what is wrong with them.
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

/// Why a command did not succeed; the texts are one line each.
#[derive(Debug, PartialEq)]
enum Failure {
    /// The reader of the output is gone: a normal end.
    OutputClosed,
    /// Any other failure.
    Failed(String),
    /// The connection to the daemon was closed or broke.
    Lost(String),
    /// The command line is wrong.
    Usage(String),
    /// No daemon could be reached: the places that were tried.
    NoDaemon(String),
    /// ^C or another signal ended the command: what keeps running.
    Interrupted(Exit, String),
    /// The reason was printed already.
    Printed(Exit),
}

/// A failure with this reason.
fn failed(reason: impl ToString) -> Failure {
    Failure::Failed(reason.to_string())
}

impl Failure {
    /// Adds to a lost connection what that means.
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

/// Carries out a command line, which begins with the name of the program, and returns the exit code of the process, one of
/// those in `ocps --help`.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let task = flags::parse(with_run_arg(argv.collect()).into_iter()).map_err(Failure::Usage);
    match task.and_then(|task| task(&mut Output::of_process())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.exit().code()),
    }
}

/// Adds the arguments in the variable `RUN_ARG`, separated by blanks, to a command line that is only a name that means
/// `ocps run`: the observatory's deployments set it.
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
