//! The command line: what a person or a script asks for, and the clients of a running daemon.
//!
//! * [`flags`]: argv to an [`Invocation`]
//! * `client`: the connection to the daemon's socket, and what comes over it
//! * `output`: the one place that prints, and what to do when nobody reads
//! * `event_text`, `text`: what came, as lines for people
//! * `send`, `state`, `status`, `jobs`, `watch`, `console`: one client command each
//! * `check`, `unit`: the configuration, without a daemon, and as the service manager would start one
//! * `version`: what this build is made of
//!
//! A client knows nothing of the daemon but its socket: not its configuration, not its files.

mod check;
mod client;
mod console;
mod event_text;
pub mod flags;
mod jobs;
mod output;
mod send;
mod state;
mod status;
mod text;
mod unit;
mod version;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use self::flags::Invocation;
use self::output::Output;
use crate::daemon::options::RunArgs;
use crate::{daemon, logging, systemd};

/// Why a client command did not succeed.
#[derive(Debug, PartialEq)]
enum Failure {
    /// Nobody reads our output any more: a normal end.
    OutputClosed,
    /// It did not work; the line says why.
    Failed(String),
    /// The command was refused or failed; its ack, already printed, says why.
    Refused,
    /// The person at the terminal left with ^C; the line says what goes on.
    Interrupted(String),
    /// No daemon could be reached; the line says where one was looked for.
    NoDaemon(String),
    /// Configuration is wrong; all problems were printed.
    BadConfiguration,
}

/// Exit code where a signal could not end the process.
const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a wrong command line.
const EXIT_USAGE: u8 = 2;
/// Exit code of a wrong configuration (`EX_CONFIG` of sysexits.h); systemd does not restart after it.
const EXIT_CONFIGURATION: u8 = 78;

/// Carries out a command line, the program's own name first, and returns the exit code of the process.
///
/// 0 ok, 1 failure, 2 usage, 3 the command was refused or failed, 4 no daemon reachable,
/// 78 bad configuration.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let mut out = Output::of_process();
    let outcome = match flags::parse(argv) {
        Ok(Invocation::Run(args)) => return ExitCode::from(run_daemon(&args)),
        Ok(Invocation::Send(args)) => send::run(&args, &mut out),
        Ok(Invocation::State(args)) => state::run(&args, &mut out),
        Ok(Invocation::Status(args)) => status::run(&args, &mut out),
        Ok(Invocation::Jobs(args)) => jobs::run(&args, &mut out),
        Ok(Invocation::Watch(args)) => watch::run(&args, &mut out),
        Ok(Invocation::Console(args)) => console::run(&args, &mut out),
        Ok(Invocation::Check(args)) => check::run(&args, &mut out),
        Ok(Invocation::Text(text)) => out.text(&text),
        Ok(Invocation::Version) => out.line(version::NAME),
        Ok(Invocation::Build) => out.text(&version::text()),
        Err(usage) => {
            output::complain(&usage.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    ExitCode::from(exit_code(outcome))
}

fn exit_code(outcome: Result<(), Failure>) -> u8 {
    match outcome {
        Ok(()) | Err(Failure::OutputClosed) => 0,
        Err(Failure::Failed(reason)) => {
            output::complain(&reason);
            1
        }
        Err(Failure::Interrupted(reason)) => {
            output::complain(&reason);
            // So that a script that waits for us ends as well; it does not return.
            let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGINT);
            EXIT_INTERRUPTED
        }
        Err(Failure::Refused) => 3,
        Err(Failure::BadConfiguration) => EXIT_CONFIGURATION,
        Err(Failure::NoDaemon(reason)) => {
            output::complain(&reason);
            4
        }
    }
}

/// Runs the daemon until it is told to end.
fn run_daemon(args: &RunArgs) -> u8 {
    let (reason, code) = match daemon::run(args) {
        Ok(()) => return 0,
        Err(daemon::Failure::Usage(reason)) => (reason, EXIT_USAGE),
        Err(daemon::Failure::Configuration(reason)) => (reason, EXIT_CONFIGURATION),
        Err(daemon::Failure::Other(reason)) => (reason, 1),
    };
    systemd::not_started(&reason);
    logging::write_last_words(&reason);
    code
}
