//! `ocps check`: checks the configuration before a daemon reads it.

use std::path::PathBuf;

use serde_json::json;

use super::exit::Exit;
use super::flags::{Line, text};
use super::output::Output;
use super::unit::Unit;
use super::{Failure, Task};
use crate::config::check::{Report, check};
use crate::csc::id::SalIndex;
use crate::daemon::{self, options::RunArgs};

/// The flags and arguments of `ocps check`.
#[derive(Debug)]
pub(super) struct Args {
    /// Files and directories; empty: everything that a start needs.
    paths: Vec<PathBuf>,
    site: Option<String>,
    pub(super) index: Option<SalIndex>,
    /// The flags of `ocps run`, if any is given.
    start: Option<RunArgs>,
    pub(super) json: bool,
}

impl Args {
    pub(super) fn of(line: &Line) -> Result<Self, String> {
        let (paths, index) = (line.paths(), line.value("index", SalIndex::parse)?);
        let of_run = line.flags().find(|flag| !["site", "index", "json"].contains(flag));
        let start = match of_run {
            None => None,
            Some(flag) if !paths.is_empty() => {
                return Err(format!("--{flag} says how the daemon is started: give it without PATH"));
            }
            Some(_) => Some(RunArgs { index, ..line.run_args()? }),
        };
        Ok(Self { paths, site: line.value("site", text)?, index, start, json: line.has("json") })
    }

    /// What would be started, and its name if it is a systemd unit.
    pub(super) fn unit(&self) -> (Unit, Option<String>) {
        let found = if self.start.is_none() { Unit::find(self.index) } else { None };
        let start = || RunArgs { index: self.index, ..self.start.clone().unwrap_or_default() };
        found.map_or_else(|| (Unit::of_process(start()), None), |(name, unit)| (unit, Some(name)))
    }
}

/// `ocps check`: checks the paths, or everything that a start needs, and prints for each `PATH: ok` or its problems.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let args = Args::of(line)?;
    Ok(Box::new(move |out| run(&args, out)))
}

fn run(args: &Args, out: &mut Output) -> Result<(), Failure> {
    let reports = if args.paths.is_empty() {
        start(args)
    } else {
        args.paths.iter().map(|path| check(path, args.site.as_deref(), args.index)).collect()
    };
    if args.json {
        let reports: Vec<_> = reports.iter().map(as_json).collect();
        out.line(&json!({ "checks": reports }).to_string())?;
    } else {
        for report in &reports {
            out.line(&report.to_string())?;
        }
    }
    if reports.iter().all(Report::is_ok) { Ok(()) } else { Err(Failure::Printed(Exit::Configuration)) }
}

/// Reports about everything that a start needs: the toml, the configuration directory, and the rest under the command that
/// would start the daemon.
fn start(args: &Args) -> Vec<Report> {
    let (unit, _) = args.unit();
    daemon::check(&unit.start, &|name| unit.variable(name), args.site.as_deref(), unit.report.clone())
}

fn as_json(report: &Report) -> serde_json::Value {
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    json!({ "path": report.path.to_string_lossy(), "ok": report.is_ok(), "problems": problems })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::{line, problem};

    #[test]
    fn paths_or_the_flags_of_a_start_are_checked() {
        let args = Args::of(&line(&["ocps", "check", "a", "b", "--site", "summit", "--index", "1"])).unwrap();
        assert_eq!(args.paths, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((args.site.as_deref(), args.index), (Some("summit"), Some(SalIndex::Latiss)));
        assert_eq!(args.start, None);
        let args =
            Args::of(&line(&["ocps", "check", "--index", "1", "--simulate", "--site", "base"])).unwrap();
        let start = RunArgs { index: Some(SalIndex::Latiss), simulate: true, ..RunArgs::default() };
        assert_eq!((args.start, args.paths), (Some(start), Vec::new()));
        assert!(
            problem(&["check", "a", "--simulate"]).starts_with("--simulate says how the daemon is started: ")
        );
    }
}
