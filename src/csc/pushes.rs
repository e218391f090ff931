//! An execute of Rapid Analysis (index 101): its values are pushed to Redis, and that is all. There is no job.
//!
//! Consumers see the values in the order of the commands, so one push is in progress at a time and the others
//! wait. Scripts wait 5 s in all: each execute is answered before that, whatever its push or those before it do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::STOPPING;
use super::command::{CommandName, Execute, Sender};
use super::configuration::Service;
use super::context::{Context, Purpose};
use super::event::Ack;
use super::request::{Action, Failure, FailureKind};
use super::timers::Timer;

/// How long the values of an execute may take to be pushed. The rest of the scripts' 5 s is for the way of the command
/// and of its ack.
const PATIENCE: Duration = Duration::from_millis(4250);

/// How long an answer of the back-end is waited for after its time is over, since it knows best what became of a push.
/// Then the sender is answered that it is unclear.
const GRACE: Duration = Duration::from_millis(250);

/// An execute whose push waits for those before it.
#[derive(Debug)]
struct Push {
    sender: Sender,
    config: Arc<str>,
    /// The real time at which it is too late for its sender.
    until: Duration,
}

/// The push that the back-end carries out.
#[derive(Debug)]
struct Flight {
    /// None once it was answered that it is unclear.
    sender: Option<Sender>,
    until: Duration,
}

/// All pushes in progress.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// In the order of the commands, and so of their times too.
    waiting: VecDeque<Push>,
    flight: Option<Flight>,
}

impl Pushes {
    /// Accepts an execute of Rapid Analysis, whose only parameter is `config`.
    pub(super) fn push(
        &mut self,
        ctx: &mut Context,
        service: Option<&Service>,
        sender: Sender,
        execute: Execute,
    ) {
        let max = ctx.settings.max_jobs;
        if self.waiting.len() >= max {
            let reason = format!("{max} commands wait for Redis, which is the limit; nothing was pushed");
            return ctx.fail(&sender, Some(CommandName::Execute), reason);
        }
        let until = ctx.real_time() + PATIENCE;
        self.waiting.push_back(Push { sender, config: Arc::from(execute.config), until });
        self.advance(ctx, service);
    }

    /// Answers the executes whose time is over, and begins the next push.
    pub(super) fn advance(&mut self, ctx: &mut Context, service: Option<&Service>) {
        let (now, real_time) = (ctx.now.mono, ctx.real_time());
        if self.flight.as_ref().is_some_and(|flight| now >= flight.until) {
            self.give_up(ctx, "Redis did not answer in time");
        }
        while self.waiting.front().is_some_and(|push| real_time >= push.until) {
            if let Some(late) = self.waiting.pop_front() {
                refuse(ctx, &late.sender, "commands before it waited for Redis too long");
            }
        }
        if self.flight.is_none()
            && let Some(Push { sender, config, until }) = self.waiting.pop_front()
        {
            let patience = until.saturating_sub(real_time);
            let action = Action::Push { config, patience };
            let url = service.map_or_else(|| "".into(), |service| service.url.clone());
            ctx.ask(Purpose::Push, url, action);
            self.flight = Some(Flight { sender: Some(sender), until: now + patience + GRACE });
        }
        let flight = self.flight.as_ref().filter(|flight| flight.sender.is_some()).map(|flight| flight.until);
        let first = self.waiting.front().map(|push| now + push.until.saturating_sub(real_time));
        ctx.timers.set(Timer::Push, [flight, first].into_iter().flatten().min());
    }

    /// The answer to a push.
    pub(super) fn on_pushed(&mut self, ctx: &mut Context, result: Result<(), Failure>) {
        let verdict = result.map_err(push_failed);
        let Some(Flight { sender, .. }) = self.flight.take() else { return };
        match (sender, verdict) {
            (Some(sender), Ok(())) => ctx.ack(&sender, Some(CommandName::Execute), Ack::Complete),
            (Some(sender), Err(reason)) => ctx.fail(&sender, Some(CommandName::Execute), reason),
            (None, verdict) => {
                let end = verdict.err().unwrap_or_else(|| "the values were pushed".to_owned());
                ctx.warn(format!("an execute that was answered as unclear: {end}"));
            }
        }
        // The next push is begun at once.
        ctx.timers.set(Timer::Push, Some(ctx.now.mono));
    }

    /// The daemon stops: pushes that wait are not begun.
    pub(super) fn stop(&mut self, ctx: &mut Context) {
        for push in self.waiting.drain(..) {
            refuse(ctx, &push.sender, STOPPING);
        }
    }

    /// The sender of the push in progress is answered that it is unclear whether it is pushed.
    pub(super) fn give_up(&mut self, ctx: &mut Context, why: &str) {
        if let Some(sender) = self.flight.as_mut().and_then(|flight| flight.sender.take()) {
            ctx.fail(&sender, Some(CommandName::Execute), unclear(why));
        }
    }
}

fn refuse(ctx: &mut Context, sender: &Sender, why: &str) {
    ctx.fail(sender, Some(CommandName::Execute), nothing_was_pushed(why));
}

fn push_failed(Failure { kind, reason, .. }: Failure) -> String {
    match kind {
        FailureKind::Rejected | FailureKind::NotSent | FailureKind::Refused | FailureKind::NotNow => {
            nothing_was_pushed(&reason)
        }
        FailureKind::Unclear => unclear(&reason),
        // The back-end says what was pushed.
        FailureKind::Wrong => reason,
    }
}

fn nothing_was_pushed(reason: &str) -> String {
    format!("{reason}; nothing was pushed")
}

fn unclear(reason: &str) -> String {
    format!(
        "{reason}; it is unclear whether the values were pushed: look at the lists before you send them again"
    )
}
