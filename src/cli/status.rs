//! `ocps status` and `ocps metrics`: what the daemon is doing.

use serde_json::Value;

use super::client::{Client, METRICS, STATUS};
use super::flags::Line;
use super::{Task, failed};
use crate::display::status::lines;
use crate::display::text::{clean, value};

/// Width of the names in front.
const COLUMN: usize = 15;

/// `ocps status`.
pub(crate) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let (target, json) = (line.target()?, line.has("json"));
    let (alive, ready) = (line.has("alive"), line.has("ready"));
    Ok(Box::new(move |out| {
        let status = Client::connect(&target)?.query(STATUS)?;
        if ready && let Some(reason) = value(&status, "not_ready") {
            return Err(failed(format!("not ready: {}", clean(&reason))));
        }
        if ready || alive {
            return Ok(());
        }
        if json { out.line(&status.to_string()) } else { out.text(&status_text(&status)) }
    }))
}

/// `ocps metrics`.
pub(crate) fn metrics_task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let target = line.target()?;
    Ok(Box::new(move |out| out.text(Client::connect(&target)?.query(METRICS)?.as_str().unwrap_or_default())))
}

/// The status document as lines for people.
pub(super) fn status_text(status: &Value) -> String {
    lines(status).map(|(name, text)| format!("{name:<COLUMN$}{text}\n")).collect()
}
