//! `ocps state`: prints the summary state, or goes to another one.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::client::{Client, PATIENCE, STATUS, Target};
use super::event_text::ack_text;
use super::flags::{Line, choose, seconds, text};
use super::output::Output;
use super::{Failure, Task, failed};
use crate::csc::command::CommandName;
use crate::csc::state::SummaryState;
use crate::display::text::painted_state;

/// Time between two queries while the daemon is starting.
const STARTING: Duration = Duration::from_millis(200);

/// The states that commands lead to.
pub(super) const GOALS: &[(&str, SummaryState)] = &[
    ("standby", SummaryState::Standby),
    ("disabled", SummaryState::Disabled),
    ("enabled", SummaryState::Enabled),
    ("offline", SummaryState::Offline),
];

/// `ocps state`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let goal = line.words(1)?.first().map(|name| choose(name, GOALS)).transpose()?;
    let override_name = line.value("override", text)?;
    if override_name.is_some() && !matches!(goal, Some(SummaryState::Disabled | SummaryState::Enabled)) {
        return Err("--override is for the start command: give it with disabled or enabled".to_owned());
    }
    let (target, timeout) = (line.target()?, line.value("timeout", seconds)?);
    Ok(Box::new(move |out| run(&target, goal, override_name, timeout, out)))
}

/// Goes to the state `goal`, or without one prints the state. Each ack has the time limit `timeout`.
fn run(
    target: &Target,
    goal: Option<SummaryState>,
    override_name: Option<String>,
    timeout: Option<Duration>,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut client = Client::connect(target)?;
    let (mut found, mut is_starting) = current(&mut client)?;
    if goal.is_some() {
        // The daemon may reach the state by itself while it starts.
        let end = Instant::now() + timeout.unwrap_or(PATIENCE);
        while is_starting && Instant::now() < end {
            thread::sleep(STARTING);
            (found, is_starting) = current(&mut client)?;
        }
    }
    let goal = goal.unwrap_or(found);
    if override_name.is_some() && !matches!(found, SummaryState::Standby | SummaryState::Fault) {
        return Err(failed(format!(
            "the override is read by start, which {found} does not need: first ocps state standby"
        )));
    }
    let mut state = found;
    // Each transition is a step closer to the goal, so this ends.
    while let Some(transition) = state.next_towards(goal) {
        let override_name = override_name.as_deref().filter(|_| transition == CommandName::Start);
        let params = override_name.map(|name| ("configurationOverride".to_owned(), Value::from(name)));
        let mut sent = client.send(transition, &Map::from_iter(params), timeout)?;
        client.follow(&mut sent, |sent, message| {
            if let Some(ack) = sent.ack_in(message) {
                out.line(&format!("{} {}", transition.as_str(), ack_text(ack)))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        state = state.after(transition).unwrap_or(goal);
    }
    if state != goal {
        return Err(failed(format!(
            "no transition leads from {state} to {goal}: the daemon is about to end"
        )));
    }
    out.line(&painted_state(goal.name()))
}

/// The summary state, and whether the daemon is starting.
fn current(client: &mut Client) -> Result<(SummaryState, bool), Failure> {
    let status = client.query(STATUS)?;
    let name = status.get("state").and_then(Value::as_str).unwrap_or_default();
    let state = SummaryState::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| {
        failed(format!("the daemon's status names no summary state that is known here: {name:?}"))
    })?;
    Ok((state, status.get("starting").and_then(Value::as_bool).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use crate::cli::flags::tests::problem;

    #[test]
    fn a_goal_is_a_state_that_commands_lead_to() {
        for state in ["fault", "on"] {
            let expected = "must be one of standby, disabled, enabled, offline";
            assert_eq!(
                problem(&["state", state]),
                format!("{expected}, not {state} (see ocps state --help)")
            );
        }
        assert_eq!(
            problem(&["state", "standby", "--override", "a.yaml"]),
            "--override is for the start command: give it with disabled or enabled (see ocps state --help)"
        );
    }
}
