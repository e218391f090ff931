//! The core: a pure state machine.
//!
//! It takes an [`Input`] and the time, and gives [`Effect`]s for the daemon to carry out in order.
//! It does no I/O, reads no clock, starts no thread, writes no log, and its random numbers come
//! from a seed: the same seed and inputs give the same effects, always.
//! It knows nothing of HTTP, Kafka, JSON on a wire, files or time sources.
//!
//! Start reading at [`Csc::handle`]: [`Csc`] dispatches between parts with private fields, which know nothing of each
//! other and share a `Context`: the time, the settings, the timers and the effects.
//!
//! | part | what it is | what moves it, besides itself |
//! |---|---|---|
//! | `transitions` | summary states, FAULT, `start` and its configuration | |
//! | `announcements` | what is done when a record is durable | |
//! | `jobs`, `job` | our jobs and those that ended | `submit`: until a job exists; `track`: from there to its end |
//! | `history` | what happened to a job and when | |
//! | `prerequisites` | jobs that other jobs wait for | |
//! | `polls` | when each job is polled, singly or by list | `poll`: what the answers mean |
//! | `removals` | aborts | |
//! | `lookups` | jobs found in the service's list: after an unclear answer, and duplicates | |
//! | `services` | whether a service answers, and what the log says of it | |
//! | `pushes` | executes of Rapid Analysis, which have no job | |
//! | `seen` | commands that came twice | |
//!
//! `timers` says what is due when, `retry` is a request that is repeated, `recover` resumes what a previous run left.
//! [`command`], [`event`], [`request`], [`record`] and [`report`] are what goes in and out.

mod announcements;
pub mod command;
pub mod configuration;
mod context;
pub mod event;
pub mod history;
pub mod id;
mod job;
mod jobs;
mod lookups;
mod poll;
mod polls;
mod prerequisites;
mod pushes;
pub mod record;
mod recover;
mod removals;
pub mod report;
pub mod request;
mod retry;
mod seen;
mod services;
pub mod state;
mod submit;
pub mod time;
mod timers;
mod track;
mod transitions;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use announcements::{Announcements, final_ack};
use command::{Command, CommandKind, CommandName, Sender, Via};
use configuration::{Configuration, Polling, Service};
use context::{Context, Purpose, Question};
use event::{Ack, ConfigurationsAvailable, ErrorCode, Event, LogLevel};
use id::{EntryKey, SalIndex};
use jobs::Jobs;
use lookups::Lookups;
use polls::Polls;
use prerequisites::Prerequisites;
use pushes::Pushes;
use record::{AcceptedCommand, Awaited, Receipt, Record, Recovered, Work};
use removals::Removals;
use request::{Action, Answer, Failure, Outcome, Payload, Request};
use services::{Change, Services};
use state::SummaryState;
use time::{Time, Uptime};
use timers::Timer;
use transitions::Transitions;

/// Time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time between the in-progress acks of a command: half of the 600 s for which its sender waits for the next ack.
const REMINDER: Duration = Duration::from_secs(300);
/// How long a PUT or DELETE in flight is waited for when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Why commands are refused while the daemon stops.
const STOPPING: &str = "the daemon is stopping";

/// What the core needs to know from the beginning.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our index.
    pub index: SalIndex,
    /// Whether jobs are only simulated.
    pub simulated: bool,
    /// Minimum log level, Python's number.
    pub log_level: i32,
    /// Makes the submission of an execute.
    pub payload: Arc<dyn Payload>,
    /// How long a submission is tried, from its first failed or unclear attempt.
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    pub settle_time: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    pub outage_limit: Duration,
    /// Whether to wait for [`Input::Joined`] first: nothing is published before it but logLevel.
    pub joins: bool,
    /// How old the record of a submission in doubt may be for it to be sent again.
    pub resubmit_limit: Duration,
    /// For how long jobs that ended are remembered.
    pub history: Duration,
    /// How long the machine had been up when [`Time::mono`] was zero, where that is known.
    pub uptime: Option<Uptime>,
    /// Whether there is a journal: what is unfinished is then left to the next run when the daemon ends.
    pub journal: bool,
    /// How jobs are polled.
    pub polling: Polling,
    /// How many polls the back-end carries out at a time.
    pub connections: usize,
    /// Maximum number of unfinished jobs, of aborts in progress, and of prerequisites that are polled.
    pub max_jobs: usize,
}

/// What happens to the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// A command came; not before [`Input::Joined`].
    Command(Command),
    /// A command came that cannot be taken, and why: it fails, and is ignored if it comes again.
    Refused(Command, String),
    /// A back-end request ended.
    Outcome(Outcome),
    /// The time that [`Csc::next_deadline`] asked for has come (any other time does no harm). All reports of the journal
    /// were handed over before.
    Tick,
    /// The configuration that [`Effect::ReadConfiguration`] asked for, or why it cannot be read.
    Configuration(Result<Configuration, String>),
    /// What the configuration directory holds.
    ConfigurationsAvailable(ConfigurationsAvailable),
    /// What previous runs left; comes before [`Input::Joined`], or not at all.
    Recovered(Recovered),
    /// This record is durable.
    Journaled(Awaited),
    /// The journal cannot be written, and why, in one line; it goes on trying to write what is not durable.
    JournalFailed(String),
    /// The journal can be written again.
    JournalBack,
    /// This result or final ack was delivered, and the journal has recorded that.
    Delivered(Receipt),
    /// A new minimum log level, Python's number, which no command has set.
    LogLevel(i32),
    /// Begin: no other instance was heard, or Kafka cannot be asked.
    Joined,
    /// Another instance with our index is running; who it is.
    DuplicateInstance(String),
    /// End the daemon; jobs keep running at the service.
    Terminate,
}

/// What the daemon is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a command.
    Ack {
        /// The sender of the command.
        to: Sender,
        /// The command that is answered, when it is known.
        command: Option<CommandName>,
        /// The ack.
        ack: Ack,
        /// If set, the journal is to record its delivery under this name.
        receipt: Option<Receipt>,
    },
    /// Publish an event.
    Publish {
        /// The event.
        event: Event,
        /// If set, the journal is to record its delivery under this name.
        receipt: Option<Receipt>,
    },
    /// Write this record; if it is [`Record::awaited`], report [`Input::Journaled`] when it is durable.
    Journal(Record),
    /// Carry out this back-end request.
    Request(Request),
    /// Begin no request any more: those that are queued fail as not sent.
    StopRequests,
    /// Read the configuration with this override, then report [`Input::Configuration`].
    ReadConfiguration {
        /// `[file][:gitref]`, may be empty.
        override_name: String,
    },
    /// Look at the configuration directory each second from now on, or not any more.
    WatchConfigurations(Watching),
    /// Set the minimum log level, Python's number.
    SetLogLevel(i32),
    /// Log a line.
    Log(LogLevel, String),
    /// End the process, successfully.
    Exit,
    /// End the process as failed, and why.
    Fail(String),
}

/// Whether the configuration directory is looked at: only in STANDBY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Every second.
    On,
    /// Not at all.
    Off,
}

/// How far the run of the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    /// It waits for [`Input::Joined`].
    Joining,
    /// Commands are carried out.
    Serving,
    /// It waits for what is in flight, until [`Timer::Stop`] at most.
    Stopping,
    /// [`Effect::Exit`] was given.
    Over,
}

/// The state machine.
///
/// [`Csc::handle`] takes each input and dispatches it to the parts, which know nothing of each other.
/// [`Input::Recovered`], if it comes, comes before [`Input::Joined`], which with [`Settings::joins`] comes before any
/// command.
#[derive(Debug)]
pub struct Csc {
    ctx: Context,
    run_state: RunState,
    /// What a previous run left, until [`Input::Joined`].
    recovered: Option<Recovered>,
    recovery: report::Recovery,
    log_level: i32,
    transitions: Transitions,
    announcements: Announcements,
    seen: seen::Seen,
    last_key: u64,
    jobs: Jobs,
    polls: Polls,
    prerequisites: Prerequisites,
    removals: Removals,
    lookups: Lookups,
    services: Services,
    pushes: Pushes,
}

impl Csc {
    /// A core in STANDBY; its effects are the events that every start-up begins with.
    pub fn new(settings: Settings, seed: u64, now: Time, effects: &mut Vec<Effect>) -> Self {
        let mut csc = Self {
            log_level: settings.log_level,
            ctx: Context::new(settings, seed, now),
            run_state: RunState::Joining,
            recovered: None,
            recovery: report::Recovery::default(),
            transitions: Transitions::default(),
            announcements: Announcements::default(),
            seen: seen::Seen::default(),
            last_key: 0,
            jobs: Jobs::default(),
            polls: Polls::default(),
            prerequisites: Prerequisites::default(),
            removals: Removals::default(),
            lookups: Lookups::default(),
            services: Services::default(),
            pushes: Pushes::default(),
        };
        csc.ctx.begin(now, effects);
        csc.ctx.timers.set(Timer::Heartbeat, Some(now.mono + HEARTBEAT));
        csc.ctx.publish(Event::LogLevel { level: csc.log_level });
        if !csc.ctx.settings.joins {
            csc.join();
        }
        csc.ctx.end(effects);
        csc
    }

    /// Begins to serve, with the events of start-up that follow logLevel, in salobj's order.
    fn join(&mut self) {
        if self.run_state != RunState::Joining {
            return;
        }
        self.run_state = RunState::Serving;
        self.ctx.timers.set(Timer::Heartbeat, Some(self.ctx.now.mono + HEARTBEAT));
        self.ctx.publish(Event::Heartbeat);
        self.ctx.publish(Event::SimulationMode { mode: i32::from(self.ctx.settings.simulated) });
        self.ctx.publish(Event::SoftwareVersions);
        self.transitions.begin(&mut self.ctx);
        if let Some(recovered) = self.recovered.take() {
            self.recover(recovered);
        }
    }

    /// Takes one input; appends what is to be done to `effects`.
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        if self.run_state == RunState::Over {
            return;
        }
        self.ctx.begin(now, effects);
        match input {
            Input::Command(command) => self.on_command(command),
            Input::Refused(command, reason) => {
                if self.is_new(&command) {
                    self.ctx.fail(&command.sender, command.kind.name(), reason);
                }
            }
            Input::Outcome(outcome) => self.on_outcome(outcome),
            Input::Tick => self.check_records(),
            Input::Configuration(result) => self.on_configuration(result),
            Input::ConfigurationsAvailable(available) => {
                self.transitions.on_available(&mut self.ctx, available)
            }
            Input::Recovered(recovered) => self.on_recovered(recovered),
            Input::Journaled(awaited) => {
                if let Some(announcement) = self.announcements.take(awaited) {
                    self.announce(awaited, announcement);
                }
            }
            Input::JournalFailed(reason) => self.on_journal_failed(&reason),
            Input::Delivered(receipt) => self.jobs.note_delivered(&mut self.ctx, receipt),
            Input::JournalBack => self.ctx.info("the journal can be written again".to_owned()),
            Input::LogLevel(level) => self.set_log_level(level),
            Input::Joined => self.join(),
            Input::DuplicateInstance(who) => self.on_duplicate_instance(&who),
            Input::Terminate => self.stop(),
        }
        self.advance();
        self.finish_stop();
        self.ctx.end(effects);
    }

    /// The monotonic time at which the core wants the next [`Input::Tick`].
    pub fn next_deadline(&self) -> Duration {
        // Once it stops, no record is given up any more.
        let records = self.announcements.due().filter(|_| self.run_state == RunState::Serving);
        let due = [self.ctx.timers.next(), records].into_iter().flatten().min();
        self.ctx.to_real_time(due.unwrap_or(self.ctx.now.mono + HEARTBEAT))
    }

    /// The current summary state.
    pub fn state(&self) -> SummaryState {
        self.transitions.state()
    }

    /// Notes that a command came; false if it came before.
    fn is_new(&mut self, command: &Command) -> bool {
        if self.seen.is_repeated(&command.sender) {
            let name = command.kind.name().map_or("unknown", CommandName::as_str);
            let Sender { seq_num, identity, .. } = &command.sender;
            self.ctx.warn(format!("ignored a command that came twice: {name} {} of {identity}", seq_num.0));
            return false;
        }
        if command.sender.via == Via::Kafka {
            // It is not carried out again in the next run either.
            self.ctx.journal(Record::Seen { sender: command.sender.clone(), at: self.ctx.now.tai });
        }
        self.ctx.counters.commands += 1;
        true
    }

    fn on_command(&mut self, command: Command) {
        if !self.is_new(&command) {
            return;
        }
        let name = command.kind.name();
        let is_valid = !matches!(command.kind, CommandKind::Invalid { .. });
        let refusal = match name {
            _ if self.run_state != RunState::Serving => Some(STOPPING.to_owned()),
            // Whether a transition is allowed is decided when the `start` before it is over.
            Some(name) if is_valid && name.is_transition() => None,
            Some(name) => self.transitions.not_allowed(name),
            None => None,
        };
        if let Some(reason) = refusal {
            return self.ctx.fail(&command.sender, name, reason);
        }
        let sender = command.sender.clone();
        let is_rapid_analysis = self.ctx.settings.index == SalIndex::Ra;
        match command.kind {
            CommandKind::SetLogLevel { level } => {
                self.set_log_level(level);
                self.ctx.ack(&sender, name, Ack::Complete);
            }
            CommandKind::Execute(execute) if is_rapid_analysis => {
                self.pushes.push(&mut self.ctx, self.transitions.service(), sender, execute);
            }
            CommandKind::Execute(execute) => self.execute(sender, &execute),
            // A push is over before anybody could abort it.
            CommandKind::AbortJob(_) if is_rapid_analysis => {
                self.ctx.fail(&sender, name, "Rapid Analysis (index 101) has no jobs to abort".to_owned());
            }
            CommandKind::AbortJob(job_id) => self.abort(sender, job_id),
            CommandKind::Invalid { reason, .. } => self.ctx.fail(&sender, name, reason),
            CommandKind::Start { .. }
            | CommandKind::Enable
            | CommandKind::Disable
            | CommandKind::Standby
            | CommandKind::ExitControl => {
                self.transitions.on_command(&mut self.ctx, command);
                self.stop_if_offline();
            }
        }
    }

    /// The configuration that a `start` waits for was read, or cannot be. Rapid Analysis starts only if Redis answers, too.
    fn on_configuration(&mut self, result: Result<Configuration, String>) {
        match result {
            Ok(configuration)
                if self.ctx.settings.index == SalIndex::Ra && self.transitions.is_starting() =>
            {
                let url = configuration.service.url.clone();
                self.ctx.ask(Purpose::Ping(Box::new(configuration)), url, Action::Ping);
            }
            result => self.finish_start(result),
        }
    }

    /// Concludes a `start`, then carries out the commands that waited for it.
    fn finish_start(&mut self, result: Result<Configuration, String>) {
        if let Some(service) = self.transitions.finish_start(&mut self.ctx, result) {
            self.apply(&service);
        }
        self.transitions.make_waiting(&mut self.ctx);
        self.stop_if_offline();
    }

    /// Applies a configuration: the poll interval at once to all jobs, the rest to those to come.
    fn apply(&mut self, service: &Service) {
        self.ctx.poll_interval = service.poll_interval;
        self.polls.note_new_interval(&mut self.ctx);
        // Services that were configured before and that have no job of ours are forgotten.
        self.services.retain(&mut self.ctx, |url| {
            *url == service.url || self.jobs.iter().any(|(_, job)| job.url == *url)
        });
        self.polls.retain(&mut self.ctx, |url| *url == service.url);
        if self.ctx.settings.index != SalIndex::Ra {
            self.lookups.begin_search(&mut self.ctx, &service.url);
            if !self.ctx.settings.simulated {
                self.ctx.probe(service.url.clone());
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        // An answer is dropped if its request is not of interest any more.
        let Some(Question { purpose, url, at }) = self.ctx.close_question(outcome.ticket) else { return };
        if let Some(contact) = outcome.answer.of_service() {
            self.note_contact(&url, at, contact);
        }
        match (purpose, outcome.answer) {
            (Purpose::Submit(key), Answer::Submit(result)) => self.on_submitted(key, &url, result),
            (Purpose::Poll(polled), Answer::Status(result)) => {
                self.on_polled(&polled, &url, (at, outcome.took), result);
            }
            (Purpose::Remove(job_id), Answer::Remove(result)) => {
                self.step_removal(&job_id, |ctx, removal| removal.on_removed(ctx, at, result));
            }
            (Purpose::List, Answer::List(result)) => self.on_list(&url, outcome.took, result),
            (Purpose::Push, Answer::Push(result)) => self.pushes.on_pushed(&mut self.ctx, result),
            (Purpose::Ping(configuration), Answer::Ping(result)) => {
                self.finish_start(result.map(|()| *configuration).map_err(|failure| failure.reason));
            }
            // A probe only shows whether the service answers; and no answer is of another action than its request.
            _ => {}
        }
    }

    /// Notes whether the service answered a request that was made at `asked`.
    fn note_contact(&mut self, url: &Url, asked: Duration, result: Result<(), &Failure>) {
        let change = match result {
            Ok(()) => self.services.on_valid_answer(&mut self.ctx, url),
            Err(failure) => {
                self.services.on_failure(&mut self.ctx, url, asked, failure, self.jobs.is_any_at(url))
            }
        };
        match change {
            Change::Nothing => {}
            // Polls that failed need not wait any longer.
            Change::Back => self.polls.hurry_failed(&mut self.ctx, url),
            Change::Outage(report) => self.transitions.fault(&mut self.ctx, ErrorCode::Unreachable, report),
        }
    }

    /// A service has been silent for too long: it is asked once more, and the answer decides whether that is a FAULT.
    fn on_outage_timer(&mut self, url: &Url) {
        if self.jobs.is_any_at(url) {
            self.polls.hurry_one(&mut self.ctx, url);
        }
    }

    /// Another instance with our index is running: a daemon that is starting ends, one that has started goes to FAULT.
    fn on_duplicate_instance(&mut self, who: &str) {
        let report = format!("another instance with index {} is running: {who}", self.ctx.settings.index);
        self.transitions.note_other(&self.ctx, report.clone());
        match self.run_state {
            RunState::Joining => {
                self.run_state = RunState::Over;
                self.ctx.effect(Effect::Fail(report));
            }
            // One FAULT is enough; it comes again when an operator has cleared it and the other is still running.
            RunState::Serving if self.transitions.error().0 != ErrorCode::Duplicate => {
                self.transitions.fault(&mut self.ctx, ErrorCode::Duplicate, report);
            }
            RunState::Serving | RunState::Stopping | RunState::Over => {}
        }
    }

    /// Handles the timers that have expired, the earliest first.
    fn advance(&mut self) {
        let now = self.ctx.now.mono;
        while let Some((time, timer)) = self.ctx.timers.expired(now) {
            match timer {
                Timer::Heartbeat => self.beat(time),
                _ if self.run_state != RunState::Serving => {}
                Timer::Stop => {}
                Timer::Outage(url) => self.on_outage_timer(&url),
                Timer::Job(key) => self.on_job_timer(key),
                Timer::Polls(url) => self.on_polls_timer(&url),
                Timer::Removal(job_id) => self.removals.on_timer(&mut self.ctx, &job_id),
                Timer::Duplicate(run_id) => self.lookups.on_duplicate_timer(&mut self.ctx, &run_id),
                Timer::List(url) => self.on_list_timer(&url),
                Timer::Push => self.pushes.advance(&mut self.ctx, self.transitions.service()),
                Timer::Probe => self.ctx.on_probe_timer(),
                Timer::Notices(url) => self.services.sum_up(&mut self.ctx, &url),
            }
        }
    }

    /// Publishes a heartbeat. Those that were missed are not caught up.
    fn beat(&mut self, time: Duration) {
        if self.run_state != RunState::Joining {
            self.ctx.publish(Event::Heartbeat);
        }
        let late = self.ctx.now.mono.saturating_sub(time);
        let beats = u32::try_from(late.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        self.ctx.timers.set(Timer::Heartbeat, Some(time + HEARTBEAT.saturating_mul(beats)));
    }

    fn set_log_level(&mut self, level: i32) {
        self.ctx.effect(Effect::SetLogLevel(level));
        if mem::replace(&mut self.log_level, level) != level {
            self.ctx.publish(Event::LogLevel { level });
        }
    }

    /// Numbers a command and makes its record durable; then it is carried out.
    fn accept(&mut self, sender: Sender, work: Work) -> AcceptedCommand {
        self.last_key += 1;
        let key = EntryKey(self.last_key);
        let entry =
            AcceptedCommand { key, sender, accepted: self.ctx.now.tai, uptime: self.ctx.uptime(), work };
        self.ctx.journal(Record::Accepted(Box::new(entry.clone())));
        self.announcements.accept(&self.ctx, key);
        entry
    }

    fn stop_if_offline(&mut self) {
        if self.transitions.state() == SummaryState::Offline {
            self.stop();
        }
    }

    /// Ends the daemon: nothing new is begun, what is in flight is waited for.
    fn stop(&mut self) {
        match self.run_state {
            RunState::Serving => {}
            // No summary state was published.
            RunState::Joining => {
                self.run_state = RunState::Over;
                self.transitions.go_offline();
                self.ctx.effect(Effect::StopRequests);
                return self.ctx.effect(Effect::Exit);
            }
            RunState::Stopping | RunState::Over => return,
        }
        self.run_state = RunState::Stopping;
        self.ctx.timers.set(Timer::Stop, Some(self.ctx.now.mono + STOP_PATIENCE));
        self.ctx.effect(Effect::StopRequests);
        self.transitions.fail_waiting(&mut self.ctx);
        self.announcements.forget_accepted();
        self.pushes.stop(&mut self.ctx);
    }

    fn finish_stop(&mut self) {
        if self.run_state != RunState::Stopping {
            return;
        }
        // Ids and results that come in time are still published.
        let is_in_time = self.ctx.timers.time_of(&Timer::Stop).is_some();
        if is_in_time && (!self.announcements.is_empty() || self.ctx.awaits_change()) {
            return;
        }
        self.run_state = RunState::Over;
        self.pushes.give_up(&mut self.ctx, "the daemon ended before Redis answered");
        if !self.ctx.settings.journal {
            self.abandon();
        } else if self.jobs.len() > 0 {
            self.ctx.info(format!(
                "jobs that keep running at the service: {}; the next start resumes them",
                self.jobs.len()
            ));
        }
        if self.transitions.go_offline() {
            self.ctx.publish(Event::SummaryState(SummaryState::Offline));
        }
        self.ctx.effect(Effect::Exit);
    }

    /// Ends without a journal: no later run resumes unfinished commands, so they fail now.
    fn abandon(&mut self) {
        self.announce_all();
        for (key, job) in self.jobs.iter() {
            let reason = match (job.job_id(), job.submitting()) {
                (Some(job_id), _) => {
                    format!("the daemon ended; job {job_id} is left at the execution service")
                }
                (None, Some(_)) => {
                    "the daemon ended before it was known whether the job was created".to_owned()
                }
                (None, None) => "the daemon ended before the job was submitted".to_owned(),
            };
            self.ctx.warn(format!("run {}: {reason}", job.run_id()));
            final_ack(&mut self.ctx, *key, &job.sender, CommandName::Execute, Ack::Failed { reason });
        }
        for (job_id, key, sender) in self.removals.waiting() {
            let reason = format!("the daemon ended before it was known whether job {job_id} was removed");
            final_ack(&mut self.ctx, key, sender, CommandName::AbortJob, Ack::Failed { reason });
        }
    }
}
