//! Summary states: the commands that change them, FAULT, and the configuration that `start` reads.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::command::{Command, CommandKind, CommandName, Sender};
use super::configuration::{Configuration, Service};
use super::context::Context;
use super::event::{Ack, ConfigurationsAvailable, ErrorCode, Event, LogLevel};
use super::record::Record;
use super::state::SummaryState;
use super::{Effect, STOPPING, Watching};

/// Transition commands that may wait behind a `start`.
const WAITING_MAX: usize = 100;
/// How long another instance is taken to be running after it was heard: three of its heartbeats.
const OTHER_RUNS: Duration = Duration::from_secs(3);

/// The summary state, and what changes it.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    state: SummaryState,
    error: (ErrorCode, String),
    configuration: Option<Configuration>,
    /// The override of the last `start`.
    override_name: String,
    /// The `start` whose configuration is being read: its sender and its override.
    starting: Option<(Sender, String)>,
    /// Transition commands that wait behind it.
    waiting: VecDeque<Command>,
    /// When another instance with our index was heard last, and the report of it.
    other: Option<(Duration, String)>,
    /// What configurationsAvailable said last.
    available: Option<ConfigurationsAvailable>,
}

impl Transitions {
    pub(super) fn state(&self) -> SummaryState {
        self.state
    }

    /// The last error that was not cleared.
    pub(super) fn error(&self) -> (ErrorCode, &str) {
        (self.error.0, &self.error.1)
    }

    /// The configuration that the last `start` applied.
    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    pub(super) fn service(&self) -> Option<&Service> {
        self.configuration.as_ref().map(|configuration| &configuration.service)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting.is_some()
    }

    /// The events that every run begins with.
    pub(super) fn begin(&self, ctx: &mut Context) {
        ctx.publish(Event::SummaryState(self.state));
        ctx.publish(Event::ErrorCode { code: ErrorCode::None, report: String::new() });
        ctx.effect(Effect::WatchConfigurations(Watching::On));
        self.journal_state(ctx);
    }

    /// A transition command: it is carried out at once, or behind the `start` whose configuration is being read.
    pub(super) fn on_command(&mut self, ctx: &mut Context, command: Command) {
        if self.starting.is_none() {
            self.make(ctx, command);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(command);
        } else {
            let reason = "too many commands wait for the configuration to be read".to_owned();
            ctx.fail(&command.sender, command.kind.name(), reason);
        }
    }

    /// Carries out the commands that waited for a `start` that is over, up to the next `start` or OFFLINE.
    pub(super) fn make_waiting(&mut self, ctx: &mut Context) {
        while self.starting.is_none() && self.state != SummaryState::Offline {
            let Some(command) = self.waiting.pop_front() else { return };
            self.make(ctx, command);
        }
    }

    /// Carries out a transition command.
    fn make(&mut self, ctx: &mut Context, Command { sender, kind }: Command) {
        let Some(name) = kind.name() else { return };
        let Some(next) = self.state.after(name) else {
            return ctx.fail(&sender, Some(name), self.not_in_this_state(name));
        };
        // Two in ENABLED would both carry out each command, until each has heard the other again.
        if let (CommandName::Enable, Some((heard, report))) = (name, &self.other)
            && ctx.now.mono.saturating_sub(*heard) < OTHER_RUNS
        {
            return ctx.fail(&sender, Some(name), report.clone());
        }
        if let CommandKind::Start { override_name } = kind {
            self.starting = Some((sender, override_name.clone()));
            return ctx.effect(Effect::ReadConfiguration { override_name });
        }
        self.enter(ctx, next);
        ctx.ack(&sender, Some(name), Ack::Complete);
    }

    /// The daemon stops: a `start` in progress fails, and so does what waits behind it.
    pub(super) fn fail_waiting(&mut self, ctx: &mut Context) {
        if let Some((sender, _)) = self.starting.take() {
            ctx.fail(&sender, Some(CommandName::Start), STOPPING.to_owned());
        }
        for command in mem::take(&mut self.waiting) {
            ctx.fail(&command.sender, command.kind.name(), STOPPING.to_owned());
        }
    }

    /// Ends the `start` in progress; gives the service that it applies, if it succeeds.
    pub(super) fn finish_start(
        &mut self,
        ctx: &mut Context,
        result: Result<Configuration, String>,
    ) -> Option<Service> {
        let (sender, override_name) = self.starting.take()?;
        // It was allowed when it began: a FAULT may have come in between.
        let next = self.state.after(CommandName::Start);
        let next = next.ok_or_else(|| format!("start ended in state {}: {}", self.state, self.error.1));
        let (next, configuration) = match next.and_then(|next| Ok((next, result?))) {
            Ok(checked) => checked,
            Err(reason) => {
                ctx.fail(&sender, Some(CommandName::Start), reason);
                return None;
            }
        };
        ctx.publish(Event::ConfigurationApplied {
            configurations: configuration.files.clone(),
            version: configuration.version.clone(),
            url: configuration.directory_url.clone(),
        });
        let service = configuration.service.clone();
        self.configuration = Some(configuration);
        self.override_name = override_name;
        self.enter(ctx, next);
        ctx.ack(&sender, Some(CommandName::Start), Ack::Complete);
        Some(service)
    }

    /// Enters a state that is not FAULT.
    fn enter(&mut self, ctx: &mut Context, next: SummaryState) {
        ctx.info(format!("summary state {next}"));
        self.change(ctx, next);
        if self.error.0 != ErrorCode::None {
            self.error = (ErrorCode::None, String::new());
            ctx.publish(Event::ErrorCode { code: ErrorCode::None, report: String::new() });
        }
    }

    /// Changes the summary state; the configuration directory is looked at only in STANDBY.
    fn change(&mut self, ctx: &mut Context, next: SummaryState) {
        let previous = mem::replace(&mut self.state, next);
        if next != previous {
            ctx.publish(Event::SummaryState(next));
        }
        self.journal_state(ctx);
        if previous == SummaryState::Standby {
            ctx.effect(Effect::WatchConfigurations(Watching::Off));
        } else if next == SummaryState::Standby {
            ctx.effect(Effect::WatchConfigurations(Watching::On));
        }
    }

    /// Goes to FAULT, with an error code also if it is there already. OFFLINE is final.
    pub(super) fn fault(&mut self, ctx: &mut Context, code: ErrorCode, report: String) {
        if self.state == SummaryState::Offline {
            return ctx.log(LogLevel::Error, format!("after OFFLINE: {report}"));
        }
        ctx.publish(Event::ErrorCode { code, report: report.clone() });
        ctx.log(LogLevel::Critical, format!("FAULT: errorCode={}, errorReport='{report}'", code.number()));
        self.error = (code, report);
        self.change(ctx, SummaryState::Fault);
    }

    /// Another instance with our index was heard, and this is the report of it.
    pub(super) fn note_other(&mut self, ctx: &Context, report: String) {
        self.other = Some((ctx.now.mono, report));
    }

    /// The daemon ends; false if it was OFFLINE before.
    pub(super) fn go_offline(&mut self) -> bool {
        mem::replace(&mut self.state, SummaryState::Offline) != SummaryState::Offline
    }

    /// Records the state to which the next run can return; OFFLINE is not recorded.
    fn journal_state(&self, ctx: &mut Context) {
        if self.state != SummaryState::Offline {
            ctx.journal(Record::State { state: self.state, override_name: self.override_name.clone() });
        }
    }

    pub(super) fn on_available(&mut self, ctx: &mut Context, available: ConfigurationsAvailable) {
        if self.state == SummaryState::Standby && self.available.as_ref() != Some(&available) {
            self.available = Some(available.clone());
            ctx.publish(Event::ConfigurationsAvailable(available));
        }
    }

    /// Why a command is not allowed now, whatever its parameters.
    pub(super) fn not_allowed(&self, name: CommandName) -> Option<String> {
        let is_allowed = match name {
            CommandName::SetLogLevel => true,
            CommandName::Execute | CommandName::AbortJob => self.state == SummaryState::Enabled,
            CommandName::Start
            | CommandName::Enable
            | CommandName::Disable
            | CommandName::Standby
            | CommandName::ExitControl => self.state.after(name).is_some(),
        };
        if is_allowed {
            None
        } else if self.state == SummaryState::Fault && !name.is_transition() {
            let (code, report) = (self.error.0.number(), &self.error.1);
            Some(format!("{} not allowed in FAULT: errorCode={code}, errorReport='{report}'", name.as_str()))
        } else {
            Some(self.not_in_this_state(name))
        }
    }

    fn not_in_this_state(&self, name: CommandName) -> String {
        format!("{} not allowed in state {}", name.as_str(), self.state)
    }
}
