//! `ocps doctor`: makes all the checks that an operator would make, in order, and says what to do about what is wrong.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::check::Args;
use super::client::{Client, STATUS, Target};
use super::exit::Exit;
use super::flags::Line;
use super::output::Output;
use super::{Failure, Task};
use crate::daemon::{Finding, doctor};
use crate::display::text::{clean, value};
use crate::display::{Tone, paint};

/// Width of the names at the left.
const COLUMN: usize = 16;
/// A higher exposure, of at most 10, means that drop-ins weaken the unit; that of the installed unit is 1.2.
const EXPOSURE_MAX: f64 = 3.0;

/// `ocps doctor`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let args = Args::of(line)?;
    Ok(Box::new(move |out| run(&args, out)))
}

fn run(args: &Args, out: &mut Output) -> Result<(), Failure> {
    let (unit, installed) = args.unit();
    let target = Target { socket: unit.start.socket.clone(), index: args.index };
    let running = Client::connect(&target).and_then(|mut client| client.query(STATUS)).ok();
    let (report, user) = (unit.report.clone(), unit.user.as_deref());
    let mut found = doctor(&unit.start, &|name| unit.variable(name), report, user, running.as_ref());
    found.push(("unit", exposure(installed.as_deref())));
    found.push(("daemon", daemon(running.as_ref())));
    if args.json {
        let checks: Vec<Value> = found.iter().map(as_json).collect();
        out.line(&json!({ "checks": checks }).to_string())?;
    } else {
        for (name, result) in &found {
            let (tone, word, text) = match result {
                Ok(text) => (Tone::Good, "ok   ", text),
                Err(text) => (Tone::Bad, "WRONG", text),
            };
            out.line(&format!("{} {name:<COLUMN$}{}", paint(tone, word), clean(text)))?;
        }
    }
    let wrong: Vec<&str> =
        found.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong if wrong.contains(&"configuration") => Err(Failure::Printed(Exit::Configuration)),
        _ => Err(Failure::Printed(Exit::Failed)),
    }
}

fn as_json((name, result): &Finding) -> Value {
    let (Ok(text) | Err(text)) = result;
    json!({ "name": name, "ok": result.is_ok(), "text": text })
}

fn daemon(running: Option<&Value>) -> Result<String, String> {
    let Some(status) = running else { return Ok("none is running".to_owned()) };
    let word = |key: &str| value(status, key).unwrap_or_default();
    let text = format!("process {} is {}", word("pid"), word("state"));
    match ["start_problem", "not_ready", "state_dir_problem"].into_iter().find_map(|key| value(status, key)) {
        Some(problem) => Err(format!("{text}: {problem}")),
        None if word("state") == "FAULT" => Err(format!(
            "{text}, errorCode {}: {}; see ocps state enabled",
            word("error_code"),
            word("error_report")
        )),
        None => Ok(text),
    }
}

/// The exposure of the unit that `systemd-analyze security` reports.
fn exposure(unit: Option<&str>) -> Result<String, String> {
    let Some(unit) = unit else { return Ok("not installed here".to_owned()) };
    let analyze =
        Command::new("systemd-analyze").args(["security", "--no-pager", unit]).stderr(Stdio::null()).output();
    let text = analyze.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let score =
        text.lines().last().and_then(|line| line.split_once("exposure level for ")?.1.split_once(": "));
    let score = score.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    match score {
        None => Ok(format!("{unit} is installed")),
        Some(score) if score > EXPOSURE_MAX => Err(format!(
            "{unit} is installed, its exposure is {score}: see its drop-ins with systemctl cat {unit}"
        )),
        Some(score) => Ok(format!("{unit} is installed, its exposure is {score}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_takes_no_commands_is_wrong() {
        let check = |status: Value, expected: Result<&str, &str>| {
            let found = daemon(Some(&status));
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        check(json!({"pid": 7, "state": "ENABLED", "not_ready": null}), Ok("process 7 is ENABLED"));
        check(json!({"pid": 7, "state": "STANDBY", "not_ready": "no"}), Err("process 7 is STANDBY: no"));
        check(
            json!({"pid": 7, "state": "FAULT", "error_code": 1, "error_report": "away"}),
            Err("process 7 is FAULT, errorCode 1: away; see ocps state enabled"),
        );
        assert_eq!(daemon(None), Ok("none is running".to_owned()));
    }
}
