//! The main loop: wires the rooms together and owns the threads.
//!
//! It blocks on one closed `Event` enum, hands each event to the [`turn`] and carries out the steps that follow. It never
//! waits for network, disk, git or a client. If the channel of a thread of ours is closed, that is a bug, and the process
//! ends with a message.

mod doctor;
mod metrics;
pub mod options;
mod setup;
mod sources;
mod start;
mod status;
pub mod turn;

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::backend::workers::Workers;
use crate::clock::{self, LARGE_STEP_S, Moment};
use crate::config::settings::{Keys, Settings};
use crate::config::watcher::{ConfigRequest, ConfigResult};
use crate::csc::command::{Command, CommandKind, Via};
use crate::csc::event::Event as SalEvent;
use crate::csc::record::{Receipt, Record, Recovered, RecoveredCommand};
use crate::csc::report::JobReport;
use crate::csc::time::Time;
use crate::csc::{Csc, Effect, Input};
use crate::journal::{Ask, Journal, News, OpenError};
use crate::lease::{Lease, TERM};
use crate::logging::{self, Logs};
use crate::systemd::{self, Manager};
use crate::transport::admission::Admission;
use crate::transport::socket::{ClientInput, Hub};
use crate::transport::{Kafka, KafkaInput, Stage};
pub use doctor::{Finding, doctor};
use metrics::Figures;
use options::RunArgs;
pub use setup::check;
use setup::{KafkaPlan, Setup};
use sources::{Event, Sources, dead_channel};
use turn::{Step, Turn};

/// A turn that takes longer is logged.
const SLOW_TURN: Duration = Duration::from_millis(100);
/// The main loop turns each second: if it has not turned for so long, process or machine stood still.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// How long the journal may take after such a pause to say whether another instance has taken over.
const CONFIRMATION: Duration = Duration::from_secs(8);
/// Time between two looks at whether the journal has said so.
const LOOK: Duration = Duration::from_millis(5);
/// Longest wait for the last records to be written when the daemon ends.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(3);

/// Why a command is refused that came after one instance ended and before the next one began.
const MISSED: &str = "no instance took commands when it was sent: send it again";
/// Why a command is not taken while another instance takes them.
const STANDING_BY: &str = "this instance stands by for another one, which takes commands: see ocps status";

/// Most jobs that are named in the log line about forgotten jobs.
const FORGOTTEN_NAMED_MAX: usize = 20;

/// Why the daemon did not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub enum Failure {
    /// The command line is incomplete.
    Usage(String),
    /// The settings are wrong.
    Configuration(String),
    /// Another instance has taken over the journal, and with it all jobs.
    Fenced(String),
    /// Anything else, for example a socket that is in use.
    Other(String),
}

/// The daemon.
struct Daemon {
    setup: Setup,
    epoch: Instant,
    turn: Turn,
    hub: Hub,
    kafka: Option<Box<dyn Kafka>>,
    /// Commands over Kafka that may be for another instance.
    admission: Admission,
    /// Commands over Kafka that were not taken yet; only their number is of interest here.
    commands: Receiver<Command>,
    workers: Workers,
    configuration: Sender<ConfigRequest>,
    deadlines: Sender<Instant>,
    manager: Manager,
    logs: Logs,
    journal: Option<Journal>,
    lease: Lease,
    /// The address of Redis, for Rapid Analysis.
    redis: Option<String>,
    /// Why the state directory does not survive the container or the machine.
    state_dir_problem: Option<&'static str>,
    figures: Figures,
    /// Why there is no HTTP although the settings ask for it.
    http_problem: Option<String>,
    /// When the main loop last turned.
    turned: Moment,
    /// The daemon has stood by for another instance.
    stood_by: bool,
    /// How the daemon ends, once that is decided.
    end: Option<Result<(), Failure>>,
}

/// Runs the daemon until a command or a signal ends it.
///
/// # Errors
/// When it cannot start, or another instance with its index is running; the reason was logged.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let started = start::start(args).inspect_err(|failure| logging::write_last_words(&failure.to_string()));
    let ended = started.and_then(|(daemon, sources)| daemon.run(sources));
    if let Err(failure) = &ended {
        systemd::failed(&failure.to_string());
    }
    log::logger().flush();
    ended
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unusable(reason) => Self::Other(reason),
            OpenError::Refused(reason) => Self::Configuration(reason),
        }
    }
}

impl Daemon {
    fn run(mut self, sources: Sources) -> Result<(), Failure> {
        // Heartbeats must go out even if no event comes.
        let mut deadline = self.next_deadline();
        let mut armed = deadline;
        self.set_timer(armed);
        while self.end.is_none() {
            let event = sources.next(self.admission.has_room());
            self.check_pause(&sources);
            if matches!(event, Event::Kafka(KafkaInput::DuplicateInstance(_))) {
                // A journal that does not answer in time counts as one that no other instance can take over.
                self.is_owner(&sources, STOOD_STILL);
            }
            // The wait for the journal's answer is no pause.
            self.turned = Moment::now();
            if self.end.is_none() {
                self.timed((&event).into(), |daemon| daemon.handle(event));
            }
            // What is due is done in time, however many events come.
            let is_due = Instant::now() >= deadline && self.end.is_none();
            if is_due {
                self.timed("tick", Self::tick);
            }
            deadline = self.next_deadline();
            // A timer that ends too early only wakes the main loop, once: it need not know of a deadline that moves back.
            if deadline < armed || Instant::now() >= armed {
                armed = deadline;
                self.set_timer(armed);
            }
            self.manager.pet();
        }
        self.close(sources)
    }

    /// Logs that the clock was set. Ends the daemon where process or machine stood still and the journal does not say whether
    /// another instance has taken it over meanwhile. Where the brokers were away before the pause already, the daemon goes
    /// on as before.
    fn check_pause(&mut self, sources: &Sources) {
        let now = Moment::now();
        let (still, step) = (self.turned.age(now), self.turned.clock_step(now));
        if step.abs() >= LARGE_STEP_S {
            log::warn!("the clock was set by {step:+.1} s: stamps never go back");
        }
        // The brokers have not confirmed the lease for a term before the pause.
        let was_cut_off = self.lease.confirmed().is_some_and(|confirmed| confirmed.age(self.turned) >= TERM);
        if still >= STOOD_STILL && !self.is_owner(sources, CONFIRMATION) && !was_cut_off {
            self.fail(Failure::Other(format!(
                "the process stood still for {:.1} s, and its journal does not say whether another instance has taken \
                 over: the daemon ends and must be started again",
                still.as_secs_f64()
            )));
        }
    }

    /// Ends the daemon after this turn, and logs why: all that is still to be closed may take a while.
    fn fail(&mut self, failure: Failure) {
        log::error!("{failure}");
        if self.setup.settings.log.file.is_some() {
            logging::write_last_words(&failure.to_string());
        }
        self.end = Some(Err(failure));
    }

    /// Waits until the journal says that it is still ours, or that it is not, which ends the daemon; false if it says
    /// neither in time. True at once with a journal that no other instance can take over.
    fn is_owner(&mut self, sources: &Sources, patience: Duration) -> bool {
        let asked = Moment::now();
        // The journal has to confirm the lease, and has not done so since it is asked.
        let is_unsure =
            |lease: &Lease| lease.confirmed().is_some_and(|confirmed| asked.age(confirmed) == Duration::ZERO);
        let Some(journal) = self.journal.as_ref().filter(|_| is_unsure(&self.lease)) else { return true };
        journal.confirm();
        let until = Instant::now() + patience;
        while self.end.is_none() && is_unsure(&self.lease) && Instant::now() < until {
            if let Ok(news) = sources.journal.recv_timeout(LOOK) {
                self.handle_news(news);
            }
        }
        self.end.is_some() || !is_unsure(&self.lease)
    }

    fn timed(&mut self, name: &str, turn: impl FnOnce(&mut Self)) {
        let begun = Instant::now();
        turn(self);
        let took = begun.elapsed();
        self.figures.turn(took);
        if took > SLOW_TURN {
            log::warn!("the main loop took {} ms to handle an event: {name}", took.as_millis());
        }
    }

    /// Publishes and records what is left to be published and recorded, and ends.
    fn close(mut self, sources: Sources) -> Result<(), Failure> {
        if let Some(Err(Failure::Fenced(_))) = self.end {
            // Another instance acts for our index now.
            drop(self.workers.cancel_queued());
            return self.end.unwrap_or(Ok(()));
        }
        for message in sources.logs.try_iter() {
            self.publish(&SalEvent::LogMessage(message), None);
        }
        let from_kafka = sources.kafka.clone();
        // A client that waits for an answer is disconnected.
        drop(sources);
        self.hub.close();
        if let Some(kafka) = self.kafka {
            kafka.close();
        }
        if let Some(journal) = self.journal {
            let delivered = from_kafka.try_iter().filter_map(|input| {
                if let KafkaInput::Delivered(receipt) = input {
                    Some(Record::Delivered(receipt))
                } else {
                    None
                }
            });
            let left = self.turn.left().into_iter().chain(delivered).collect();
            let kept = journal.write(left).and_then(|()| journal.close(JOURNAL_PATIENCE));
            if let Err(problem) = kept {
                log::error!("{problem}{}", forgotten(self.turn.csc()));
            }
        }
        self.end.unwrap_or(Ok(()))
    }

    fn next_deadline(&self) -> Instant {
        self.epoch + self.turn.csc().next_deadline()
    }

    fn set_timer(&self, deadline: Instant) {
        if self.deadlines.send(deadline).is_err() {
            dead_channel();
        }
    }

    fn now(&self) -> Time {
        Time { mono: self.epoch.elapsed(), tai: clock::now() }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Client(input) => self.handle_client(input),
            Event::Outcome(outcome) => {
                self.figures.answered(&outcome);
                self.turn.input(Input::Outcome(outcome));
            }
            Event::Configuration(ConfigResult::Read(result)) => {
                result.iter().for_each(|read| self.workers.configured(&read.service.url));
                self.turn.input(Input::Configuration(result));
            }
            Event::Configuration(ConfigResult::Service(Ok(read))) => {
                self.workers.configured(&read.service.url);
            }
            Event::Configuration(ConfigResult::Service(Err(reason))) => {
                no_credentials(&reason);
            }
            Event::Configuration(ConfigResult::Settings(settings)) => self.reloaded(*settings),
            Event::Configuration(ConfigResult::Available(available)) => {
                self.turn.input(Input::ConfigurationsAvailable(available));
            }
            Event::Kafka(input) => self.handle_kafka(input),
            Event::Command(command) => {
                let admitted = self.admission.admit(command, Moment::now());
                admitted.into_iter().for_each(|command| self.take(command));
            }
            Event::Journal(news) => self.handle_news(news),
            Event::Log(message) => self.publish(&SalEvent::LogMessage(message), None),
            Event::Question((query, to)) => {
                // The HTTP thread may have given up waiting.
                let _ = to.try_send(self.answer(query));
            }
            Event::Terminate => {
                log::info!("shutting down on a signal");
                self.turn.input(Input::Terminate);
            }
            Event::HangUp => self.reload(),
            // The main loop knows itself what is due.
            Event::Tick => {}
        }
        self.run_turn();
    }

    fn tick(&mut self) {
        // Once connected, Kafka listens for another instance, for a bounded time.
        if self.turn.is_joining()
            && !self.setup.stands_by()
            && self.stage() == Some(Stage::Connecting)
            && self.epoch.elapsed() >= self.setup.settings.kafka.start_timeout
        {
            if let Some(journal) = self.journal.as_ref().filter(|_| self.turn.is_recovering()) {
                journal.ask(Ask::OpenUnheard);
            } else {
                log::warn!(
                    "Kafka cannot be reached: starting without it, over the local socket alone; retrying"
                );
                self.begin();
                self.join();
            }
        }
        self.check_admission();
        // A tick decides that the journal does not answer: what it has reported until now goes first.
        while let Some(news) = self.journal.as_ref().and_then(|journal| journal.news.try_recv().ok()) {
            self.handle_news(news);
        }
        self.turn.tick();
        self.run_turn();
        self.report_to_manager();
        if !self.stood_by && self.stage() == Some(Stage::StandingBy) {
            self.stood_by = true;
            self.journal.iter().for_each(|journal| journal.ask(Ask::Follow));
            self.turn.refuse_early(STANDING_BY);
            self.run_turn();
            // Standing by may last for ever: for the service manager the start has ended.
            self.ready();
        }
    }

    /// No other instance is running, as far as is known: ours may open the journal, and then claim the index.
    fn begin(&mut self) {
        match (&self.journal, &self.kafka) {
            (Some(journal), _) if self.turn.is_recovering() => journal.ask(Ask::Open),
            (_, Some(kafka)) => kafka.claim(),
            (_, None) => {}
        }
    }

    fn handle_news(&mut self, news: News) {
        match news {
            News::Open(recovered) => {
                self.find_credentials(missing_credentials(&recovered));
                let effects = self.turn.recovered(self.now(), *recovered);
                self.run_effects(effects);
                self.begin();
            }
            News::HandedOver => self.kafka.iter().for_each(|kafka| kafka.take_over()),
            News::Refused(error) => self.fail(error.into()),
            News::Fenced(reason) => {
                if let Some(kafka) = &self.kafka {
                    kafka.silence();
                }
                let reason =
                    format!("the journal is not ours any more, and nothing was done since: {reason}");
                self.fail(Failure::Fenced(reason));
            }
            News::Records(report) => self.turn.report(report),
        }
    }

    /// Reads the configuration for credentials that the journal does not keep.
    fn find_credentials(&self, override_name: Option<String>) {
        let request = override_name.map(|override_name| ConfigRequest::Service { override_name });
        if let Some(Err(reason)) = request.map(|request| self.configure(request)) {
            no_credentials(&reason);
        }
    }

    /// No other instance is running, as far as can be known, and what the previous run left is known.
    fn join(&mut self) {
        if let Some(kafka) = &self.kafka {
            kafka.begun();
        }
        self.turn.joined();
    }

    /// Takes commands over Kafka that have waited too long, and logs those that were for another instance.
    fn check_admission(&mut self) {
        let foreign = self.admission.foreign();
        if foreign > 0 {
            log::warn!("commands for another instance, which are not carried out: {foreign}");
        }
        let overdue = self.admission.look(Moment::now());
        if !overdue.is_empty() {
            log::warn!(
                "Kafka: our heartbeats cannot be read back, so another instance may go unnoticed; commands that are carried \
                 out nevertheless: {}",
                overdue.len()
            );
        }
        overdue.into_iter().for_each(|command| self.take(command));
    }

    fn handle_kafka(&mut self, input: KafkaInput) {
        match input {
            KafkaInput::ReadBack(sent) => {
                let commands = self.admission.read_back(sent, Moment::now());
                commands.into_iter().for_each(|command| self.take(command));
            }
            KafkaInput::Alone => self.begin(),
            // If the other instance has taken the command, the journal knows, and the command gets no second answer.
            KafkaInput::Missed(command) => self.turn.input(Input::Refused(command, MISSED.to_owned())),
            KafkaInput::Joined => {
                self.admission.begin(Moment::now());
                self.join();
            }
            KafkaInput::DuplicateInstance(who) => {
                self.admission.yield_to_another(Moment::now());
                self.turn.input(Input::DuplicateInstance(who));
            }
            KafkaInput::Delivered(receipt) => self.turn.delivered(Some(receipt)),
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
            ClientInput::Invalid(client, reason) => self.hub.refuse(client, &reason),
            ClientInput::Command(command) => self.take(command),
        }
    }

    fn take(&mut self, command: Command) {
        let name = command.kind.name().map_or("unknown command", |name| name.as_str());
        let sender = &command.sender;
        let process = match sender.origin {
            0 => "a process of another PID namespace".to_owned(),
            id => format!("process {id}"),
        };
        // The core logs the executes that it accepts, and each line is a message over Kafka.
        let level = if matches!(command.kind, CommandKind::Execute(_)) {
            log::Level::Debug
        } else {
            log::Level::Info
        };
        log::log!(level, "{name} {} from {} ({process})", sender.seq_num.0, sender.identity);
        if let Via::Socket(client) = sender.via {
            self.hub.owe(client);
        }
        if self.stage() == Some(Stage::StandingBy) {
            self.turn.input(Input::Refused(command, STANDING_BY.to_owned()));
        } else {
            self.turn.command(command);
        }
    }

    /// How far Kafka has come, if it is used.
    fn stage(&self) -> Option<Stage> {
        self.kafka.as_ref().map(|kafka| kafka.stage())
    }

    fn publish(&mut self, event: &SalEvent, receipt: Option<Receipt>) {
        if matches!(event, SalEvent::Heartbeat) {
            self.figures.heartbeat();
        }
        self.hub.publish(event);
        match (&self.kafka, &self.setup.kafka) {
            (Some(kafka), _) => kafka.publish(event, receipt),
            (None, KafkaPlan::Off) => self.turn.delivered(receipt),
            // The next run that has Kafka publishes it.
            (None, KafkaPlan::Impossible(_) | KafkaPlan::On(_)) => {}
        }
    }

    /// Carries out the steps of the turn until there is none.
    fn run_turn(&mut self) {
        while let Some(step) = self.turn.next(self.now()) {
            match step {
                Step::Run(effects) => self.run_effects(effects),
                Step::Write(records) => self.flush_records(records),
                Step::Started => self.ready(),
            }
        }
    }

    fn flush_records(&mut self, records: Vec<Record>) {
        let Some(journal) = &self.journal else { return };
        let is_awaited = records.iter().any(|record| record.awaited().is_some());
        let Err(reason) = journal.write(records) else { return };
        log::error!("{reason}");
        if is_awaited {
            self.turn.input(Input::JournalFailed(reason));
        }
    }

    fn run_effects(&mut self, effects: Vec<Effect>) {
        effects.into_iter().for_each(|effect| self.run_effect(effect));
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Ack { to, command, ack, receipt } => match to.via {
                Via::Socket(client) => {
                    self.hub.ack(client, to.seq_num, &ack);
                    self.turn.delivered(receipt);
                }
                Via::CommandLine => self.turn.transition_ended(&ack),
                Via::Kafka => {
                    if let Some(kafka) = &self.kafka {
                        kafka.ack(&to, command, &ack, receipt);
                    }
                }
            },
            Effect::Publish { event, receipt } => self.publish(&event, receipt),
            Effect::Journal(record) => self.turn.keep(record),
            Effect::Request(request) => {
                self.figures.asked(&request.action);
                if let Err(outcome) = self.workers.request(request) {
                    self.turn.input(Input::Outcome(outcome));
                }
            }
            Effect::StopRequests => {
                self.manager.stopping();
                let cancelled = self.workers.cancel_queued().into_iter();
                cancelled.for_each(|outcome| self.turn.input(Input::Outcome(outcome)));
            }
            Effect::ReadConfiguration { override_name } => {
                if let Err(reason) = self.configure(ConfigRequest::Read { override_name }) {
                    self.turn.input(Input::Configuration(Err(reason)));
                }
            }
            Effect::WatchConfigurations(watching) => {
                if let Err(reason) = self.configure(ConfigRequest::Watch(watching)) {
                    log::warn!("{reason}: configurationsAvailable may be out of date");
                }
            }
            Effect::SetLogLevel(level) => logging::set_level(level),
            Effect::Log(level, message) => logging::write(level.number(), &message),
            Effect::Exit => self.end = Some(Ok(())),
            Effect::Fail(reason) => self.fail(Failure::Other(reason)),
        }
    }

    /// SIGHUP: the log file may have been moved away, and the toml's log level changed.
    fn reload(&mut self) {
        self.manager.reloading();
        self.logs.reopen();
        let request = ConfigRequest::Settings { path: self.setup.config.clone() };
        if let Err(reason) = self.configure(request) {
            self.reloaded(Err(reason));
        }
    }

    fn configure(&self, request: ConfigRequest) -> Result<(), String> {
        let sent = self.configuration.try_send(request);
        sent.map_err(|_| "the configuration directory does not answer".to_owned())
    }

    fn reloaded(&mut self, read: Result<(Settings, Keys), String>) {
        match read {
            Ok((settings, keys)) => {
                if self.setup.log_level_fixed {
                    log::info!("reloaded; the log level is that of the command line");
                } else {
                    log::info!("reloaded");
                    self.turn.input(Input::LogLevel(settings.log.level));
                }
                let mut changed = self.setup.keys.changed(&keys);
                changed.retain(|key| key != "log.level");
                if !changed.is_empty() {
                    log::warn!(
                        "changed in ocps.toml, but in force only after a restart: {}",
                        changed.join(", ")
                    );
                }
            }
            Err(error) => log::error!("not reloaded: {error}"),
        }
        // A reload during the start does not end the start.
        if self.turn.has_started() {
            self.ready();
        }
    }

    fn ready(&mut self) {
        self.report_to_manager();
        self.manager.ready();
    }

    fn report_to_manager(&mut self) {
        if self.manager.is_there() {
            let status = self.manager_status();
            self.manager.status(status);
        }
    }
}

/// The override of the previous run, if that left jobs at a service whose credentials the journal does not keep.
fn missing_credentials(recovered: &Recovered) -> Option<String> {
    let is_open = |known: &&RecoveredCommand| known.end.is_none() || known.suspected.is_some();
    let mut open = recovered.entries.iter().filter(is_open);
    open.any(|known| known.entry.work.url().lacks_credentials())
        .then(|| recovered.state.as_ref().map(|(_, name)| name.clone()).unwrap_or_default())
}

fn no_credentials(reason: &str) {
    log::warn!(
        "jobs of the previous run are not polled until a start succeeds, as their password is not known: {reason}"
    );
}

/// The unfinished jobs that the next run may not know because the journal could not be written, for the log.
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
        "; unfinished jobs that the next start may not know: {}; the end of those that it does not find at the execution \
         service is never published: {}",
        unfinished.len(),
        names.join(", ")
    )
}
