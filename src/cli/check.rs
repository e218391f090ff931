//! `ocps check`: what is wrong with configuration files, before a daemon reads them.

use std::path::PathBuf;

use serde_json::json;

use super::Failure;
use super::flags::CheckArgs;
use super::output::Output;
use crate::config::check::{Report, check};
use crate::config::component;
use crate::config::settings::{DEFAULT_PATH, Settings};

/// Checks all paths, and prints `PATH: ok` or each problem of it.
pub(super) fn run(args: &CheckArgs, out: &mut Output) -> Result<(), Failure> {
    let paths = if args.paths.is_empty() { usual_paths() } else { args.paths.clone() };
    if paths.is_empty() {
        let reason = format!(
            "nothing to check: there is no {DEFAULT_PATH} and no configuration directory; name a PATH"
        );
        return Err(Failure::Failed(reason));
    }
    let reports: Vec<Report> =
        paths.iter().map(|path| check(path, args.site.as_deref(), args.index)).collect();
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

/// What the daemon would read: its toml, and the directory that this, the environment or custom names.
fn usual_paths() -> Vec<PathBuf> {
    let toml = PathBuf::from(DEFAULT_PATH);
    let toml = toml.is_file().then_some(toml);
    // A broken toml is a finding of its own.
    let settings = Settings::load(None).unwrap_or_default();
    let directory = component::directory(None, &settings, &|name| std::env::var_os(name));
    toml.into_iter().chain(directory).collect()
}

fn as_json(report: &Report) -> serde_json::Value {
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    json!({ "path": report.path.to_string_lossy(), "ok": report.is_ok(), "problems": problems })
}
