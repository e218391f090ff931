//! `ocps state`: print the summary state, or walk to another one.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::Failure;
use super::client::{Ack, Client, Message, Next, Query, Standing, refused};
use super::event_text::ack_text;
use super::flags::StateArgs;
use super::output::Output;
use super::send::Patience;
use super::text;
use crate::csc::command::CommandName;
use crate::csc::state::{SummaryState, Transition};

/// Time between two looks whether the daemon has started.
const STARTING: Duration = Duration::from_millis(200);

/// Runs `ocps state`.
///
/// # Errors
/// [`Failure::Refused`] when a transition was refused or failed, and whatever breaks before.
pub(super) fn run(args: &StateArgs, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    let (mut found, mut is_starting) = current(&mut client)?;
    if let Some(goal) = args.goal {
        // The start may lead there by itself.
        let deadline =
            Patience::new(args.timeout, CommandName::Start).deadline(Instant::now(), Duration::ZERO);
        while is_starting && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            thread::sleep(STARTING);
            (found, is_starting) = current(&mut client)?;
        }
        walk(args, &mut client, found, goal, out)?;
        return out.line(&text::state(out.palette(), goal.name()));
    }
    out.line(&text::state(out.palette(), found.name()))
}

/// The summary state, and whether the daemon is starting.
fn current(client: &mut Client) -> Result<(SummaryState, bool), Failure> {
    let status = client.query(Query::Status)?;
    let name = status.get("state").and_then(Value::as_str).unwrap_or_default();
    let state = SummaryState::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| {
        Failure::Failed(format!("the daemon's status names no summary state that is known here: {name:?}"))
    })?;
    Ok((state, status.get("starting").and_then(Value::as_bool).unwrap_or_default()))
}

fn walk(
    args: &StateArgs,
    client: &mut Client,
    found: SummaryState,
    goal: SummaryState,
    out: &mut Output,
) -> Result<(), Failure> {
    let starts = matches!(found, SummaryState::Standby | SummaryState::Fault);
    if args.override_name.is_some() && !starts {
        return Err(Failure::Failed(format!(
            "the override is read by start, which {found} does not need: first ocps state standby"
        )));
    }
    let mut state = found;
    let mut seq = 0;
    // Every transition is a step nearer, so this ends.
    while let Some(transition) = state.next_towards(goal) {
        seq += 1;
        take_step(args, client, seq, transition, out)?;
        state = state.after(transition).unwrap_or(goal);
    }
    if state == goal {
        return Ok(());
    }
    Err(Failure::Failed(format!("no transition leads from {state} to {goal}: the daemon is about to end")))
}

/// Sends one transition and waits for its final ack.
fn take_step(
    args: &StateArgs,
    client: &mut Client,
    seq: i32,
    transition: Transition,
    out: &mut Output,
) -> Result<(), Failure> {
    let command = CommandName::of_transition(transition);
    let mut params = Map::new();
    if let (Transition::Start, Some(name)) = (transition, &args.override_name) {
        params.insert("configurationOverride".to_owned(), Value::from(name.as_str()));
    }
    client.command(seq, command, &params)?;
    let patience = Patience::new(args.timeout, command);
    let mut more = Duration::ZERO;
    loop {
        let ack = next_ack(client, seq, command, patience.deadline(Instant::now(), more))?;
        out.line(&format!("{} {}", command.as_str(), ack_text(out.palette(), &ack)))?;
        match ack.standing() {
            Standing::Complete => return Ok(()),
            Standing::Refused => return Err(Failure::Refused),
            Standing::InProgress => more = ack.timeout,
        }
    }
}

fn next_ack(
    client: &mut Client,
    seq: i32,
    command: CommandName,
    deadline: Option<Instant>,
) -> Result<Ack, Failure> {
    let command = command.as_str();
    loop {
        match client.next(deadline) {
            Next::Line(line) => match line.message {
                Message::Ack(ack) if ack.seq == i64::from(seq) => return Ok(ack),
                Message::Error(reason) => return Err(Failure::Failed(refused(&reason))),
                Message::Ack(_)
                | Message::Event(_)
                | Message::Status(_)
                | Message::Jobs(_)
                | Message::Other => {}
            },
            Next::Timeout | Next::Interrupted => {
                return Err(Failure::Failed(format!(
                    "no ack of {command} in time: it may still be carried out, see ocps state"
                )));
            }
            Next::Lost(reason) => {
                return Err(Failure::Failed(format!("{reason} before the final ack of {command}")));
            }
        }
    }
}
