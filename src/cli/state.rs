//! `ocps state`: print the summary state, or walk to another one.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::client::{Client, PATIENCE, STATUS, Target};
use super::event_text::ack_text;
use super::flags::{Line, choose, seconds, text};
use super::output::Output;
use super::{Failure, Task};
use crate::csc::command::CommandName;
use crate::csc::state::SummaryState;
use crate::display::text::painted_state;

/// Time between two queries whether the daemon has started.
const STARTING: Duration = Duration::from_millis(200);

/// The states that can be reached with commands.
pub(super) const GOALS: &[(&str, SummaryState)] = &[
    ("standby", SummaryState::Standby),
    ("disabled", SummaryState::Disabled),
    ("enabled", SummaryState::Enabled),
    ("offline", SummaryState::Offline),
];

/// The values of `ocps state`.
#[derive(Debug)]
struct Args {
    target: Target,
    /// None: print the state.
    goal: Option<SummaryState>,
    /// Only with a goal that may need `start`.
    override_name: Option<String>,
    /// Longest wait for the ack of each transition.
    timeout: Option<Duration>,
}

impl Args {
    fn of(line: &Line) -> Result<Self, String> {
        let goal = line.words(1)?.first().map(|name| choose(name, GOALS)).transpose()?;
        let override_name = line.value("override", text)?;
        if override_name.is_some() && !matches!(goal, Some(SummaryState::Disabled | SummaryState::Enabled)) {
            return Err("--override is for the start command: give it with disabled or enabled".to_owned());
        }
        Ok(Self { target: line.target()?, goal, override_name, timeout: line.value("timeout", seconds)? })
    }
}

/// `ocps state`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let args = Args::of(line)?;
    Ok(Box::new(move |out| run(&args, out)))
}

fn run(args: &Args, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    let (mut found, mut is_starting) = current(&mut client)?;
    if args.goal.is_some() {
        // The start may lead there by itself.
        let end = Instant::now() + args.timeout.unwrap_or(PATIENCE);
        while is_starting && Instant::now() < end {
            thread::sleep(STARTING);
            (found, is_starting) = current(&mut client)?;
        }
    }
    let goal = args.goal.unwrap_or(found);
    if args.override_name.is_some() && !matches!(found, SummaryState::Standby | SummaryState::Fault) {
        return Err(Failure::Failed(format!(
            "the override is read by start, which {found} does not need: first ocps state standby"
        )));
    }
    let mut state = found;
    // Every transition is a step nearer, so this ends.
    while let Some(transition) = state.next_towards(goal) {
        let override_name = args.override_name.as_deref().filter(|_| transition == CommandName::Start);
        let params = override_name.map(|name| ("configurationOverride".to_owned(), Value::from(name)));
        let mut sent = client.send(transition, &Map::from_iter(params), args.timeout)?;
        client.follow(&mut sent, |sent, message| {
            if let Some(ack) = sent.ack_in(message) {
                out.line(&format!("{} {}", transition.as_str(), ack_text(ack)))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        state = state.after(transition).unwrap_or(goal);
    }
    if state != goal {
        return Err(Failure::Failed(format!(
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
        Failure::Failed(format!("the daemon's status names no summary state that is known here: {name:?}"))
    })?;
    Ok((state, status.get("starting").and_then(Value::as_bool).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::{line, problem};

    #[test]
    fn a_target_is_a_state_that_can_be_reached() {
        let args =
            Args::of(&line(&["ocps", "state", "Enabled", "--override", "a.yaml", "--timeout=2.5"])).unwrap();
        assert_eq!((args.goal, args.override_name.as_deref()), (Some(SummaryState::Enabled), Some("a.yaml")));
        assert_eq!(args.timeout, Some(Duration::from_millis(2500)));
        assert_eq!(Args::of(&line(&["ocps", "state"])).unwrap().goal, None);
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
