//! `ocps check`: what is wrong with the configuration, before a daemon reads it.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Failure;
use super::flags::CheckArgs;
use super::output::Output;
use super::unit::Unit;
use crate::config::Error;
use crate::config::check::{Report, check};
use crate::config::settings::DEFAULT_PATH;
use crate::daemon::{self, options::RunArgs};

/// Checks all paths, or all that a start needs, and prints `PATH: ok` or each problem of it.
pub(super) fn run(args: &CheckArgs, out: &mut Output) -> Result<(), Failure> {
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
    if reports.iter().all(Report::is_ok) { Ok(()) } else { Err(Failure::BadConfiguration) }
}

/// All that a start needs: its toml, its configuration directory, and under the name of what would be started the rest.
fn start(args: &CheckArgs) -> Vec<Report> {
    let of_process = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let unit = if args.start.is_some() { None } else { Unit::find(args.index) };
    let (name, problems, findings) = match &unit {
        Some(unit) => {
            let name = format!("systemctl start {}", unit.name);
            let findings = daemon::check(&unit.start, &|name| unit.variable(name));
            (name, unit.problems.clone(), findings)
        }
        None => {
            let plain = RunArgs { index: args.index, ..RunArgs::default() };
            let start = args.start.as_ref().unwrap_or(&plain);
            ("ocps run".to_owned(), Vec::new(), daemon::check(start, &of_process))
        }
    };
    let toml = findings.config.or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.is_file()));
    let site = args.site.as_deref().or(findings.site.as_deref());
    let mut reports: Vec<Report> = toml.iter().map(|path| check(path, None, None)).collect();
    reports.extend(findings.config_dir.iter().map(|dir| check(dir, site, findings.index)));
    let problems =
        problems.into_iter().chain(findings.problems).map(|text| Error::in_file(Path::new(&name), text));
    let problems = problems.collect();
    reports.push(Report { path: name.into(), problems });
    reports
}

fn as_json(report: &Report) -> serde_json::Value {
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    json!({ "path": report.path.to_string_lossy(), "ok": report.is_ok(), "problems": problems })
}
