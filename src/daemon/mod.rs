//! The main loop: wires the rooms together and owns the threads.
//!
//! It blocks on what can happen, one closed `Event` enum, hands it to the core and carries out the
//! effects. It never waits for network, disk, git or a client. A dead inside channel is a bug and ends
//! the process with a message.

pub mod options;
mod setup;
mod sources;
mod start;
mod status;

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backend::workers::Workers;
use crate::clock::{self, LARGE_STEP_S, Moment};
use crate::config::settings::{Keys, Settings};
use crate::config::watcher::{ConfigRequest, ConfigResult};
use crate::csc::command::{Command, CommandName, Order, Sender as CommandSender, Via};
use crate::csc::event::{Ack, Event as SalEvent};
use crate::csc::id::{SalIndex, SeqNum};
use crate::csc::record::{Awaited, Receipt, Record};
use crate::csc::report::JobReport;
use crate::csc::state::{SummaryState, Transition};
use crate::csc::time::Time;
use crate::csc::{Csc, Effect, Input, Watching};
use crate::journal::{Journal, Report};
use crate::logging::{self, Logs};
use crate::systemd::Manager;
use crate::transport::KafkaInput;
use crate::transport::admission::Admission;
use crate::transport::kafka::Kafka;
use crate::transport::socket::{ClientInput, Hub};
use options::RunArgs;
pub use setup::{Findings, check};
use sources::{Closed, Event, Signal, Sources, dead_channel};

/// Things that happened are handled in batches of at most so many, so that the deadline is looked at.
const BATCH: usize = 256;
/// A turn that takes longer is complained about.
const SLOW_TURN: Duration = Duration::from_millis(100);
/// Commands that wait for the start to end; more are refused.
const DEFERRED_MAX: usize = 1024;
/// Longest wait of the main loop for anything at all; the timer wakes it long before.
const IDLE: Duration = Duration::from_secs(3600);
/// Longest wait for the last records to be written when the daemon ends.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(3);

/// Most jobs that the last log line names.
const FORGOTTEN_NAMED_MAX: usize = 20;

/// Why the daemon did not start.
#[derive(Debug)]
pub enum Failure {
    /// The command line is incomplete.
    Usage(String),
    /// The settings are wrong.
    Configuration(String),
    /// Anything else: the socket is in use, say.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(reason) | Self::Configuration(reason) | Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// The daemon.
struct Daemon {
    epoch: Instant,
    csc: Csc,
    hub: Hub,
    kafka: Option<Kafka>,
    /// Why there is no Kafka although it is wanted.
    kafka_problem: Option<String>,
    workers: Workers,
    configuration: Sender<ConfigRequest>,
    deadlines: Sender<Instant>,
    manager: Manager,
    logs: Logs,
    index: SalIndex,
    simulated: bool,
    /// Where Redis is, for Rapid Analysis.
    redis: Option<String>,
    /// The toml, to be read again on SIGHUP.
    config: Option<PathBuf>,
    /// The keys that it gave at the start.
    keys: Keys,
    /// Whether the command line chose the log level, so that the toml does not.
    log_level_fixed: bool,
    state_dir: Option<PathBuf>,
    /// Why it does not last.
    state_dir_problem: Option<&'static str>,
    journal: Option<Journal>,
    /// What came of effects and is to be handled in this turn.
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    /// What this turn wants to be kept.
    records: Vec<Record>,
    /// What is to be done once it is clear that no other instance lives.
    joining: Option<Joining>,
    /// Transitions asked for on the command line that have not ended; the first is under way.
    starting: VecDeque<Command>,
    /// The summary state that the start has reached so far.
    state_reached: Option<Record>,
    /// Why the state that the command line asks for was not reached; until the next change of state.
    start_problem: Option<String>,
    /// Commands that came before all that.
    deferred: VecDeque<Command>,
    /// When the clock was looked at last.
    looked: Moment,
    /// Commands over Kafka that may be for another instance.
    admission: Admission,
    over: bool,
    /// Why it is over, if that is no success.
    failure: Option<String>,
}

/// A start that waits for Kafka.
struct Joining {
    /// Not longer than this.
    until: Instant,
    state: SummaryState,
    override_name: Option<String>,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When it cannot start; once it runs, it only ends by command or signal.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let ended = start::serve(args);
    log::logger().flush();
    ended
}

impl Daemon {
    /// Begins for good: no other instance lives, or nobody can be asked.
    fn joined(&mut self) {
        if self.joining.is_none() {
            return;
        }
        if let Some(kafka) = &self.kafka {
            kafka.begun();
        }
        self.inputs.push_back(Input::Joined);
        self.turn();
        if let Some(joining) = self.joining.take()
            && !self.over
        {
            self.start(joining.state, joining.override_name.as_deref());
        }
    }

    /// Begins without Kafka, when it did not answer for too long.
    fn wait_no_longer(&mut self) {
        let Some(joining) = &self.joining else { return };
        // One that is there is listening for another instance, for a bounded time.
        let is_away = self.kafka.as_ref().is_some_and(Kafka::is_connecting);
        if is_away && Instant::now() >= joining.until {
            log::warn!("Kafka is not there: starting without it, over the local socket alone; trying on");
            self.joined();
        }
    }

    /// Goes to the state that the command line asks for.
    fn start(&mut self, target: SummaryState, override_name: Option<&str>) {
        let mut state = SummaryState::Standby;
        while let Some(transition) = state.next_towards(target) {
            let order = match transition {
                Transition::Start => {
                    Order::Start { override_name: override_name.unwrap_or_default().to_owned() }
                }
                Transition::Enable => Order::Enable,
                Transition::Disable => Order::Disable,
                Transition::Standby => Order::Standby,
                Transition::ExitControl => Order::ExitControl,
            };
            let sender = CommandSender {
                via: Via::CommandLine,
                identity: "the command line".to_owned(),
                origin: i32::try_from(std::process::id()).unwrap_or(0),
                seq_num: SeqNum(1),
                sent: clock::now(),
            };
            self.starting.push_back(Command { sender, order });
            let Some(next) = state.after(transition) else { break };
            state = next;
        }
        self.inputs.extend(self.starting.front().cloned().map(Input::Command));
        self.turn();
        self.ready_if_started();
        self.keep();
    }

    fn is_starting(&self) -> bool {
        self.joining.is_some() || !self.starting.is_empty()
    }

    /// A transition that the command line asked for has ended; after one that failed the next would only fail too.
    fn transition_ended(&mut self, ack: &Ack) {
        match ack {
            Ack::InProgress { .. } => return,
            Ack::Complete => {
                self.starting.pop_front();
                self.inputs.extend(self.starting.front().cloned().map(Input::Command));
            }
            Ack::Failed { reason } => {
                self.start_problem = Some(self.describe_failed_start(reason));
                self.starting.clear();
            }
            Ack::Aborted => self.starting.clear(),
        }
        self.ready_if_started();
    }

    fn describe_failed_start(&self, reason: &str) -> String {
        let command = self.starting.front().and_then(|command| command.order.name());
        format!("{} failed: {reason}", command.map_or("start", CommandName::as_str))
    }

    fn ready_if_started(&mut self) {
        if !self.is_starting() {
            self.records.extend(self.state_reached.take());
            self.tell_manager();
            self.manager.ready();
        }
    }

    fn run(mut self, sources: Sources) -> Result<(), Failure> {
        // Before anything happens too: it may be long in coming, and the heart is to beat.
        let mut deadline = self.set_deadline();
        while !self.over {
            let Some(mut event) = sources.next(self.closed(), IDLE) else { continue };
            let begun = Instant::now();
            let mut ticked = false;
            let first = event.name();
            let mut handled = 0;
            loop {
                ticked |= matches!(event, Event::Tick);
                self.handle(event);
                handled += 1;
                // What is due is done in time, however much happens.
                if self.over || handled == BATCH || Instant::now() >= deadline {
                    break;
                }
                match sources.next(self.closed(), Duration::ZERO) {
                    Some(next) => event = next,
                    None => break,
                }
            }
            if !self.over && !ticked && Instant::now() >= deadline {
                while let Some(report) = sources.report() {
                    self.handle(report);
                }
                self.handle(Event::Tick);
                ticked = true;
            }
            if ticked || deadline != self.next_deadline() {
                deadline = self.set_deadline();
            }
            self.manager.pet();
            let took = begun.elapsed();
            if took > SLOW_TURN {
                log::warn!("a turn of the main loop took {} ms; it began with {first}", took.as_millis());
            }
        }
        self.close(sources)
    }

    /// What is to wait.
    fn closed(&self) -> Closed {
        Closed { clients: !self.starting.is_empty(), commands: !self.admission.has_room() }
    }

    /// The last that is to be said and kept.
    fn close(mut self, sources: Sources) -> Result<(), Failure> {
        for message in sources.logs.try_iter() {
            self.publish(&SalEvent::LogMessage(message), None);
        }
        let from_kafka = sources.kafka.clone();
        // A client that waits to be heard, or to be taken, is not waited for.
        drop(sources);
        self.hub.close();
        if let Some(kafka) = self.kafka {
            kafka.close();
        }
        if let Some(journal) = self.journal {
            let said = from_kafka.try_iter().filter_map(|input| match input {
                KafkaInput::Delivered(receipt) => Some(Record::Said(receipt)),
                // They came too late.
                KafkaInput::Joined | KafkaInput::Vouched(_) | KafkaInput::Intruder(_) => None,
            });
            let kept = journal.write(said.collect()).and_then(|()| journal.close(JOURNAL_PATIENCE));
            if let Err(problem) = kept {
                log::error!("{problem}{}", forgotten(&self.csc));
            }
        }
        self.failure.map_or(Ok(()), |reason| Err(Failure::Other(reason)))
    }

    fn next_deadline(&self) -> Instant {
        self.epoch + self.csc.next_deadline()
    }

    /// Tells the timer when the core wants the next tick.
    fn set_deadline(&self) -> Instant {
        let next = self.next_deadline();
        if self.deadlines.send(next).is_err() {
            dead_channel();
        }
        next
    }

    fn now(&self) -> Time {
        Time { mono: self.epoch.elapsed(), tai: clock::now() }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Client(input) => self.handle_client(input),
            Event::Outcome(outcome) => self.inputs.push_back(Input::Outcome(outcome)),
            Event::Configuration(ConfigResult::Read(result)) => {
                self.inputs.push_back(Input::Configuration(result))
            }
            Event::Configuration(ConfigResult::Settings(settings)) => self.reloaded(*settings),
            Event::Configuration(ConfigResult::Available(available)) => {
                self.inputs.push_back(Input::ConfigurationsAvailable(available));
            }
            Event::Kafka(input) => self.handle_kafka(input),
            Event::Command(command) => {
                let admitted = self.admission.admit(command, Moment::now());
                admitted.into_iter().for_each(|command| self.take(command));
            }
            Event::Journal(Report::Durable(records)) => {
                self.inputs.extend(records.into_iter().map(Input::Journaled))
            }
            Event::Journal(Report::Failed(reason)) => self.inputs.push_back(Input::JournalFailed(reason)),
            Event::Journal(Report::Back) => self.inputs.push_back(Input::JournalBack),
            Event::Log(message) => self.publish(&SalEvent::LogMessage(message), None),
            Event::Signal(Signal::Terminate) => {
                log::info!("told to end");
                self.inputs.push_back(Input::Terminate);
            }
            Event::Signal(Signal::HangUp) => self.reload(),
            Event::Tick => {
                self.inputs.push_back(Input::Tick);
                self.wait_no_longer();
                self.look_at_clock();
                self.tell_manager();
            }
        }
        self.turn();
    }

    /// Looks whether the clock was set, and whether commands have waited too long.
    fn look_at_clock(&mut self) {
        let now = Moment::now();
        let step = mem::replace(&mut self.looked, now).clock_step(now);
        if step >= LARGE_STEP_S {
            log::warn!("the clock was set forward by {step:.1} s");
        } else if step <= -LARGE_STEP_S {
            log::warn!(
                "the clock was set back by {:.1} s: stamps stay ahead of it until it has caught up",
                -step
            );
        }
        let foreign = self.admission.foreign();
        if foreign > 0 {
            log::warn!("{foreign} commands were for another instance, and are not carried out");
        }
        let overdue = self.admission.look(now);
        if !overdue.is_empty() {
            log::warn!(
                "Kafka: our heartbeats cannot be read back, so another instance may go unnoticed; {} commands are \
                 carried out nevertheless",
                overdue.len()
            );
        }
        overdue.into_iter().for_each(|command| self.take(command));
    }

    fn handle_kafka(&mut self, input: KafkaInput) {
        match input {
            KafkaInput::Vouched(sent) => {
                let commands = self.admission.vouch(sent, Moment::now());
                commands.into_iter().for_each(|command| self.take(command));
            }
            KafkaInput::Joined => {
                self.admission.begin(Moment::now());
                self.joined();
            }
            KafkaInput::Intruder(who) => {
                self.admission.yield_to_another(Moment::now());
                self.inputs.push_back(Input::Intruder(who));
            }
            KafkaInput::Delivered(receipt) => self.delivered(Some(receipt)),
        }
    }

    fn handle_client(&mut self, input: ClientInput) {
        match input {
            ClientInput::Connected(client, outbox) => self.hub.connected(client, outbox),
            ClientInput::Silent(client) => self.hub.silent(client),
            ClientInput::Gone(client) => self.hub.gone(client),
            ClientInput::Subscribe(client) => self.hub.subscribe(client),
            ClientInput::Query(client, query, asked) => {
                let document = self.answer(query);
                self.hub.reply(client, document, asked);
            }
            ClientInput::Command(command) => self.take(command),
        }
    }

    /// Hands a command to the core, or keeps it until the start has ended.
    fn take(&mut self, command: Command) {
        let name = command.order.name().map_or("unknown command", |name| name.as_str());
        let sender = &command.sender;
        let process = match sender.origin {
            0 => "a process of another PID namespace".to_owned(),
            id => format!("process {id}"),
        };
        log::info!("{name} {} from {} ({process})", sender.seq_num.0, sender.identity);
        if let Via::Socket(client) = sender.via {
            self.hub.owe(client);
        }
        if self.is_starting() && self.deferred.len() < DEFERRED_MAX {
            self.deferred.push_back(command);
        } else {
            self.inputs.push_back(Input::Command(command));
        }
    }

    fn publish(&mut self, event: &SalEvent, receipt: Option<Receipt>) {
        if let SalEvent::SummaryState(_) = event {
            self.start_problem = None;
        }
        self.hub.publish(event);
        match (&self.kafka, &self.kafka_problem) {
            (Some(kafka), _) => kafka.publish(event, receipt),
            // It stays owed until a life that has Kafka.
            (None, Some(_)) => {}
            (None, None) => self.delivered(receipt),
        }
    }

    /// This need not be said again.
    fn delivered(&mut self, receipt: Option<Receipt>) {
        self.records.extend(receipt.map(Record::Said));
    }

    /// Hands all inputs to the core and carries out what it wants.
    fn turn(&mut self) {
        loop {
            while let Some(input) = self.inputs.pop_front() {
                let now = self.now();
                self.csc.handle(now, input, &mut self.effects);
                self.carry_out();
                if self.inputs.is_empty() && !self.is_starting() {
                    self.inputs.extend(self.deferred.drain(..).map(Input::Command));
                }
            }
            self.keep();
            if self.inputs.is_empty() {
                return;
            }
        }
    }

    /// Hands all records of this turn to the journal, to be kept together.
    fn keep(&mut self) {
        let records = mem::take(&mut self.records);
        let awaited: Vec<Awaited> = records.iter().filter_map(Record::awaited).collect();
        match &self.journal {
            // Without a journal nothing is waited for.
            None => self.inputs.extend(awaited.into_iter().map(Input::Journaled)),
            Some(_) if records.is_empty() => {}
            Some(journal) => {
                let Err(reason) = journal.write(records) else { return };
                log::error!("{reason}");
                if !awaited.is_empty() {
                    self.inputs.push_back(Input::JournalFailed(reason));
                }
            }
        }
    }

    fn carry_out(&mut self) {
        for effect in mem::take(&mut self.effects) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ack { to, command, ack, receipt } => match to.via {
                Via::Socket(client) => {
                    self.hub.ack(client, to.seq_num, &ack);
                    self.delivered(receipt);
                }
                Via::CommandLine => self.transition_ended(&ack),
                Via::Kafka => {
                    if let Some(kafka) = &self.kafka {
                        kafka.ack(&to, command, &ack, receipt);
                    }
                }
            },
            Effect::Publish { event, receipt } => self.publish(&event, receipt),
            // A start that is cut off is resumed to where it was to lead.
            Effect::Journal(record @ Record::State { .. }) if self.is_starting() => {
                self.state_reached = Some(record);
            }
            Effect::Journal(record) => self.records.push(record),
            Effect::Request(request) => {
                if let Some(outcome) = self.workers.request(request) {
                    self.inputs.push_back(Input::Outcome(outcome));
                }
            }
            Effect::StopRequests => {
                self.manager.stopping();
                self.inputs.extend(self.workers.cancel_queued().map(Input::Outcome));
            }
            Effect::ReadConfiguration { override_name } => {
                if self.configuration.try_send(ConfigRequest::Read { override_name }).is_err() {
                    let reason = "the configuration directory does not answer".to_owned();
                    self.inputs.push_back(Input::Configuration(Err(reason)));
                }
            }
            Effect::WatchConfigurations(watching) => {
                let request = match watching {
                    Watching::On => ConfigRequest::Watch,
                    Watching::Off => ConfigRequest::Unwatch,
                };
                if self.configuration.try_send(request).is_err() {
                    log::warn!("the configuration directory does not answer: not watched");
                }
            }
            Effect::SetLogLevel(level) => logging::set_level(level),
            Effect::Log(level, message) => logging::write(level.number(), &message),
            Effect::Exit => self.over = true,
            Effect::Fail(reason) => {
                self.failure = Some(reason);
                self.over = true;
            }
        }
    }

    /// SIGHUP: the log file may have been moved away, and the toml's log level changed.
    fn reload(&mut self) {
        self.manager.reloading();
        self.logs.reopen();
        let request = ConfigRequest::Settings { path: self.config.clone() };
        if self.configuration.try_send(request).is_err() {
            self.reloaded(Err("the configuration directory does not answer".to_owned()));
        }
    }

    fn reloaded(&mut self, read: Result<(Settings, Keys), String>) {
        match read {
            Ok((settings, keys)) => {
                let fixed =
                    if self.log_level_fixed { "; the log level is that of the command line" } else { "" };
                log::info!("reloaded{fixed}");
                let mut changed = self.keys.changed(&keys);
                changed.retain(|key| key != "log.level");
                if !changed.is_empty() {
                    log::warn!(
                        "changed in ocps.toml, but in force only after a restart: {}",
                        changed.join(", ")
                    );
                }
                if !self.log_level_fixed {
                    self.inputs.push_back(Input::LogLevel(settings.log.level));
                }
            }
            Err(error) => log::error!("not reloaded: {error}"),
        }
        // A reload during the start ends it no earlier.
        self.ready_if_started();
    }

    fn tell_manager(&mut self) {
        let status = self.manager_status();
        self.manager.status(status);
    }
}

/// What the next life may not know, since the journal could not be written.
fn forgotten(csc: &Csc) -> String {
    let unfinished: Vec<JobReport> = csc.job_reports().filter(|job| job.ended.is_none()).collect();
    if unfinished.is_empty() {
        return String::new();
    }
    let name = |job: &JobReport| match &job.job_id {
        Some(job_id) => format!("{job_id} (run {})", job.run_id),
        None => format!("run {}, {}", job.run_id, job.stage.as_str()),
    };
    let names: Vec<String> = unfinished.iter().take(FORGOTTEN_NAMED_MAX).map(name).collect();
    format!(
        "; the next start may not know of {} unfinished jobs, and nobody is told how those end that it does not find at \
         the execution service: {}",
        unfinished.len(),
        names.join(", ")
    )
}
