//! Summary states: the commands that change them, FAULT, and the configuration that `start` reads.

use super::command::{Command, CommandName, Order, Sender};
use super::configuration::Configuration;
use super::event::{Ack, ConfigurationsAvailable, ErrorCode, Event, LogLevel};
use super::job::Stage;
use super::push::Drives;
use super::state::{SummaryState, Transition};
use super::{Csc, Effect, OTHER_LIVES, STOPPING, WAITING_TRANSITIONS_MAX, Watching};

impl Csc {
    /// A transition command: at once, or behind the `start` whose configuration is being read.
    pub(super) fn take_transition(&mut self, command: Command) {
        if self.starting.is_none() {
            self.make_transition(command);
        } else if self.waiting_transitions.len() < WAITING_TRANSITIONS_MAX {
            self.waiting_transitions.push_back(command);
        } else {
            let reason = "too many commands wait for the configuration to be read".to_owned();
            self.fail(&command.sender, command.order.name(), reason);
        }
    }

    fn make_transition(&mut self, command: Command) {
        let Command { sender, order } = command;
        let (transition, override_name) = match order {
            Order::Start { override_name } => (Transition::Start, Some(override_name)),
            Order::Enable => (Transition::Enable, None),
            Order::Disable => (Transition::Disable, None),
            Order::Standby => (Transition::Standby, None),
            Order::ExitControl => (Transition::ExitControl, None),
            // Only transitions come here, so there is nothing to do for the others.
            Order::SetLogLevel { .. } | Order::Execute(_) | Order::AbortJob(_) | Order::Invalid { .. } => {
                return;
            }
        };
        let name = CommandName::of_transition(transition);
        let Some(next) = self.state.after(transition) else {
            let reason = format!("{} not allowed in state {}", name.as_str(), self.state);
            return self.fail(&sender, Some(name), reason);
        };
        // Two in ENABLED would both carry out each command, until each has heard the other again.
        if let (Transition::Enable, Some((heard, report))) = (transition, &self.other)
            && self.now.mono.saturating_sub(*heard) < OTHER_LIVES
        {
            let reason = report.clone();
            return self.fail(&sender, Some(name), reason);
        }
        if let Some(override_name) = override_name {
            self.starting = Some((sender, override_name.clone()));
            self.out.push(Effect::ReadConfiguration { override_name });
            return;
        }
        self.enter(next);
        self.ack(&sender, Some(name), Ack::Complete);
        if next == SummaryState::Offline {
            self.stop();
        }
    }

    /// The daemon stops: a `start` under way fails, and so does what waits behind it.
    pub(super) fn fail_waiting_transitions(&mut self) {
        if let Some((sender, _)) = self.starting.take() {
            self.fail(&sender, Some(CommandName::Start), STOPPING.to_owned());
        }
        for command in std::mem::take(&mut self.waiting_transitions) {
            self.fail(&command.sender, command.order.name(), STOPPING.to_owned());
        }
    }

    /// The configuration that a `start` waits for was read, or not.
    pub(super) fn configured(&mut self, result: Result<Configuration, String>) {
        match (result, Drives::of(self.settings.index)) {
            (Ok(configuration), Drives::Lists) if self.starting.is_some() => self.ping(configuration),
            (result, Drives::Lists | Drives::Jobs) => self.conclude_start(result),
        }
    }

    /// All that a `start` waits for is known.
    pub(super) fn conclude_start(&mut self, result: Result<Configuration, String>) {
        let Some((sender, override_name)) = self.starting.take() else { return };
        self.finish_start(&sender, override_name, result);
        // Those that waited; one of them may be a `start` behind which the rest waits on.
        while self.starting.is_none() {
            let Some(command) = self.waiting_transitions.pop_front() else { break };
            self.make_transition(command);
        }
    }

    fn finish_start(
        &mut self,
        sender: &Sender,
        override_name: String,
        result: Result<Configuration, String>,
    ) {
        let name = Some(CommandName::Start);
        let next = match self.state.after(Transition::Start) {
            Some(next) => next,
            // It was allowed when it began: a FAULT came in between.
            None => {
                let reason = format!("start ended in state {}: {}", self.state, self.error.1);
                return self.fail(sender, name, reason);
            }
        };
        let configuration = match result {
            Ok(configuration) => configuration,
            Err(reason) => return self.fail(sender, name, reason),
        };
        self.apply(configuration);
        self.override_name = override_name;
        self.enter(next);
        self.ack(sender, name, Ack::Complete);
        self.probe_configured();
    }

    /// Applies a configuration: the poll interval at once to all jobs, the rest to those to come.
    fn apply(&mut self, configuration: Configuration) {
        let poll_interval = configuration.service.poll_interval;
        let next = self.now.mono + poll_interval;
        for job in self.jobs.values_mut() {
            job.poll_interval = poll_interval;
            if let Stage::Running(running) = &mut job.stage {
                running.poll.not_later_than(next);
            }
        }
        for watch in self.watches.values_mut() {
            watch.poll_interval = poll_interval;
            watch.poll.not_later_than(next);
        }
        self.publish(Event::ConfigurationApplied {
            configurations: configuration.files.clone(),
            version: configuration.version.clone(),
            url: configuration.directory_url.clone(),
        });
        match Drives::of(self.settings.index) {
            Drives::Jobs => self.begin_search(&configuration.service.url),
            Drives::Lists => {}
        }
        self.configuration = Some(configuration);
        self.forget_services();
    }

    /// Enters a state that is not FAULT.
    fn enter(&mut self, next: SummaryState) {
        let watching = |state| state == SummaryState::Standby;
        let was_watching = watching(self.state);
        self.state = next;
        self.log(LogLevel::Info, format!("summary state {next}"));
        self.publish(Event::SummaryState(next));
        self.journal_state();
        if self.error.0 != ErrorCode::None {
            self.error = (ErrorCode::None, String::new());
            self.publish(Event::ErrorCode { code: ErrorCode::None, report: String::new() });
        }
        if was_watching != watching(next) {
            let watch = if watching(next) { Watching::On } else { Watching::Off };
            self.out.push(Effect::WatchConfigurations(watch));
        }
    }

    /// Goes to FAULT; the error code is told even if the last one was the same. OFFLINE is not left any more.
    pub(super) fn fault(&mut self, code: ErrorCode, report: String) {
        if self.state == SummaryState::Offline {
            return self.log(LogLevel::Error, format!("after OFFLINE: {report}"));
        }
        let event = Event::ErrorCode { code, report: report.clone() };
        self.published.retain(|e| !matches!(e, Event::ErrorCode { .. }));
        self.publish(event);
        self.log(LogLevel::Critical, format!("FAULT: errorCode={}, errorReport='{report}'", code.number()));
        self.error = (code, report);
        if self.state == SummaryState::Standby {
            self.out.push(Effect::WatchConfigurations(Watching::Off));
        }
        self.state = SummaryState::Fault;
        self.publish(Event::SummaryState(self.state));
        self.journal_state();
    }

    pub(super) fn available(&mut self, available: ConfigurationsAvailable) {
        if self.state == SummaryState::Standby {
            self.publish(Event::ConfigurationsAvailable(available));
        }
    }

    /// Why a command that is allowed only in ENABLED is not allowed now.
    pub(super) fn not_enabled(&self, name: CommandName) -> Option<String> {
        match self.state {
            SummaryState::Enabled => None,
            SummaryState::Fault => Some(format!(
                "{} not allowed in FAULT: errorCode={}, errorReport='{}'",
                name.as_str(),
                self.error.0.number(),
                self.error.1
            )),
            SummaryState::Disabled | SummaryState::Standby | SummaryState::Offline => {
                Some(format!("{} not allowed in state {}", name.as_str(), self.state))
            }
        }
    }

    /// Why a command is not allowed now, whatever its parameters.
    pub(super) fn not_allowed(&self, name: CommandName) -> Option<String> {
        let transition = match name {
            CommandName::Execute | CommandName::AbortJob => return self.not_enabled(name),
            CommandName::SetLogLevel => return None,
            CommandName::Start => Transition::Start,
            CommandName::Enable => Transition::Enable,
            CommandName::Disable => Transition::Disable,
            CommandName::Standby => Transition::Standby,
            CommandName::ExitControl => Transition::ExitControl,
        };
        let allowed = self.state.after(transition).is_some();
        (!allowed).then(|| format!("{} not allowed in state {}", name.as_str(), self.state))
    }
}
