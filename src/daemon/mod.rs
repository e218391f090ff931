//! The main loop: wires the rooms together and owns the threads.
//!
//! It blocks on what can happen, one closed `Event` enum, hands it to the core and carries out the
//! effects. It never waits for network, disk, git or a client. A dead inside channel is a bug and ends
//! the process with a message.

mod setup;

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::backend::Backend;
use crate::backend::workers::Workers;
use crate::cli::flags::RunArgs;
use crate::config::settings::Settings;
use crate::config::watcher::{self, ConfigRequest, ConfigResult};
use crate::csc::command::{Command, Order, Sender as CommandSender, Via};
use crate::csc::event::{Event as SalEvent, LogMessage};
use crate::csc::id::{SalIndex, SeqNum};
use crate::csc::record::{Receipt, Record};
use crate::csc::report::StageName;
use crate::csc::request::Outcome;
use crate::csc::state::{SummaryState, Transition};
use crate::csc::time::Time;
use crate::csc::{Csc, Effect, Input, Watching};
use crate::logging::{self, Logs};
use crate::sal;
use crate::systemd::Manager;
use crate::timer::{self, Tick};
use crate::transport::kafka::Kafka;
use crate::transport::line::Query;
use crate::transport::socket::{self, ClientInput, Hub};
use crate::transport::{KafkaInput, document};
use setup::{KafkaPlan, Setup};

/// Things that happened are handled in batches of at most so many, so that the deadline is looked at.
const BATCH: usize = 256;
/// A turn that takes longer is complained about.
const SLOW_TURN: Duration = Duration::from_millis(100);
/// Things that clients did and that wait to be handled; a client that does more waits.
const CLIENT_QUEUE: usize = 1024;
/// Answers of the back-end that wait to be handled; a worker that has more waits.
const OUTCOME_QUEUE: usize = 1024;
/// Log lines that wait to become events; more are not told.
const LOG_QUEUE: usize = 1024;
/// Things that came over Kafka and wait to be handled; the reading thread waits then.
const KAFKA_QUEUE: usize = 1024;
/// Commands that wait for the start to end; more are refused.
const DEFERRED_MAX: usize = 1024;
/// Requests to the configuration thread that wait.
const CONFIG_QUEUE: usize = 64;
/// Room in a worker queue for each job: a job, its removal and the jobs it waits for may all ask at once.
const REQUESTS_PER_JOB: usize = 3;

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

/// Anything that can happen.
#[derive(Debug)]
enum Event {
    Client(ClientInput),
    Outcome(Outcome),
    Configuration(ConfigResult),
    Kafka(KafkaInput),
    Log(LogMessage),
    Signal(Signal),
    Tick,
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Client(ClientInput::Connected(..)) => "a client",
            Self::Client(ClientInput::Command(_)) => "a command",
            Self::Client(ClientInput::Subscribe(_)) => "a subscription",
            Self::Client(ClientInput::Query(..)) => "a query",
            Self::Client(ClientInput::Silent(_) | ClientInput::Gone(_)) => "the end of a client",
            Self::Outcome(_) => "an answer of the back-end",
            Self::Configuration(_) => "a configuration",
            Self::Kafka(KafkaInput::Command(_)) => "a command over Kafka",
            Self::Kafka(KafkaInput::Joined) => "Kafka joined",
            Self::Kafka(KafkaInput::Intruder(_)) => "another instance",
            Self::Kafka(KafkaInput::Delivered(_)) => "a delivery",
            Self::Log(_) => "a log line",
            Self::Signal(_) => "a signal",
            Self::Tick => "a tick",
        }
    }
}

/// A signal that means something to us.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Terminate,
    HangUp,
}

/// Where things that happen come from.
struct Sources {
    clients: Receiver<ClientInput>,
    outcomes: Receiver<Outcome>,
    configuration: Receiver<ConfigResult>,
    kafka: Receiver<KafkaInput>,
    logs: Receiver<LogMessage>,
    signals: Receiver<Signal>,
    ticks: Receiver<Tick>,
    /// In the place of `clients` until the state asked for on the command line is reached.
    nobody: Receiver<ClientInput>,
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
    /// Whether the command line chose the log level, so that the toml does not.
    log_level_fixed: bool,
    state_dir: Option<PathBuf>,
    /// Held for as long as we live.
    _state_lock: Option<File>,
    /// What came of effects and is to be handled in this turn.
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    /// What this turn wants to be kept.
    records: Vec<Record>,
    /// What is to be done once it is clear that no other instance lives.
    joining: Option<Joining>,
    /// Transitions asked for on the command line that have not ended.
    starting: usize,
    /// Commands that came before all that.
    deferred: VecDeque<Command>,
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
    let ended = serve(args);
    log::logger().flush();
    ended
}

fn serve(args: &RunArgs) -> Result<(), Failure> {
    let setup = Setup::new(args)?;
    sal::time::set_tai_minus_utc(setup.settings.tai_minus_utc_s);
    let work = setup.backend()?;
    let (log_sender, logs) = bounded(LOG_QUEUE);
    let log_outputs = Logs::start(setup.log_level, setup.settings.log.file.as_deref(), log_sender)
        .map_err(Failure::Other)?;
    abort_on_panic();
    let signals = signals()?;
    let state_lock = setup.state_dir.as_deref().map(setup::lock_state_dir).transpose()?;
    let (client_sender, clients) = bounded(CLIENT_QUEUE);
    let hub = socket::listen(&setup.socket, client_sender).map_err(Failure::Other)?;
    let core = setup.core();
    log::info!("ocps {} for index {} on {}", env!("CARGO_PKG_VERSION"), setup.index, setup.socket.display());
    let start_timeout = match &setup.kafka {
        KafkaPlan::On(options) => options.start_timeout,
        KafkaPlan::Off | KafkaPlan::Impossible(_) => Duration::ZERO,
    };
    let (kafka, kafka_inputs, kafka_problem) = start_kafka(setup.kafka, setup.index)?;
    let (outcome_sender, outcomes) = bounded(OUTCOME_QUEUE);
    let workers = start_workers(&setup.settings, &work.backend, &outcome_sender)?;
    let (config_sender, config_requests) = bounded(CONFIG_QUEUE);
    let (config_results, configuration) = bounded(CONFIG_QUEUE);
    watcher::spawn(setup.reader, config_requests, config_results).map_err(|error| no_thread(&error))?;
    let (deadlines, ticks) = timer::start().map_err(|error| no_thread(&error))?;

    let epoch = Instant::now();
    let mut effects = Vec::new();
    let start = Time { mono: Duration::ZERO, tai: sal::time::now() };
    let simulated = core.simulated;
    let csc = Csc::new(core, fastrand::u64(..), start, &mut effects);
    let joining = Joining {
        until: epoch + start_timeout,
        state: args.state,
        override_name: args.override_name.clone(),
    };
    let mut daemon = Daemon {
        epoch,
        csc,
        hub,
        kafka,
        kafka_problem,
        workers,
        configuration: config_sender,
        deadlines,
        manager: Manager::new(),
        logs: log_outputs,
        index: setup.index,
        simulated,
        redis: work.redis,
        config: setup.config,
        log_level_fixed: args.log_level.is_some(),
        state_dir: setup.state_dir,
        _state_lock: state_lock,
        inputs: VecDeque::new(),
        effects,
        records: Vec::new(),
        joining: Some(joining),
        starting: 0,
        deferred: VecDeque::new(),
        over: false,
        failure: None,
    };
    daemon.carry_out();
    if daemon.kafka.is_none() {
        daemon.joined();
    }
    let nobody = never();
    let kafka = kafka_inputs;
    daemon.run(Sources { clients, outcomes, configuration, kafka, logs, signals, ticks, nobody })
}

fn start_workers(
    settings: &Settings,
    backend: &Arc<dyn Backend>,
    outcomes: &Sender<Outcome>,
) -> Result<Workers, Failure> {
    let capacity = REQUESTS_PER_JOB * settings.max_jobs;
    Workers::start(backend, settings.uws.connections, capacity, outcomes).map_err(|error| no_thread(&error))
}

/// Kafka, what comes over it, and why there is none although it is wanted.
type StartedKafka = (Option<Kafka>, Receiver<KafkaInput>, Option<String>);

fn start_kafka(plan: KafkaPlan, index: SalIndex) -> Result<StartedKafka, Failure> {
    match plan {
        KafkaPlan::Off => Ok((None, never(), None)),
        KafkaPlan::Impossible(problem) => {
            log::error!("no Kafka, only the local socket: {problem}");
            Ok((None, never(), Some(problem)))
        }
        KafkaPlan::On(options) => {
            let (sender, inputs) = bounded(KAFKA_QUEUE);
            let kafka = Kafka::start(*options, index, sender).map_err(Failure::Configuration)?;
            Ok((Some(kafka), inputs, None))
        }
    }
}

fn no_thread(error: &std::io::Error) -> Failure {
    Failure::Other(format!("cannot start a thread: {error}"))
}

/// A thread that panics is a bug; without it the daemon would be alive but deaf.
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("this is a bug in ocps: {info}");
        log::logger().flush();
        default(info);
        std::process::abort();
    }));
}

/// The first TERM or INT ends the daemon in order, the second one at once.
fn signals() -> Result<Receiver<Signal>, Failure> {
    let failed = |error| Failure::Other(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    // Room for one of each kind: a hang-up that was not heard yet says all that another one could.
    let (sender, receiver) = bounded(2);
    let listen = move || {
        let mut terminated = false;
        for signal in signals.forever() {
            let signal = if signal == SIGHUP { Signal::HangUp } else { Signal::Terminate };
            match signal {
                Signal::Terminate if terminated => signal_hook::low_level::exit(1),
                Signal::Terminate => terminated = true,
                Signal::HangUp if !sender.is_empty() => continue,
                Signal::HangUp => {}
            }
            // Without waiting: when the main loop hangs, the second signal must still work.
            let _ = sender.try_send(signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(receiver)
}

impl Sources {
    /// What happened next; waits for it.
    fn wait(&self, starting: bool) -> Event {
        let clients = if starting { &self.nobody } else { &self.clients };
        let event = select! {
            recv(self.signals) -> signal => signal.map(Event::Signal),
            recv(self.ticks) -> tick => tick.map(|Tick| Event::Tick),
            recv(self.outcomes) -> outcome => outcome.map(Event::Outcome),
            recv(self.configuration) -> result => result.map(Event::Configuration),
            recv(self.kafka) -> input => input.map(Event::Kafka),
            recv(clients) -> input => input.map(Event::Client),
            recv(self.logs) -> message => message.map(Event::Log),
        };
        event.unwrap_or_else(|_| dead_channel())
    }

    /// What has happened already, if anything.
    fn take(&self, starting: bool) -> Option<Event> {
        let clients = if starting { &self.nobody } else { &self.clients };
        let event = select! {
            recv(self.signals) -> signal => signal.map(Event::Signal),
            recv(self.ticks) -> tick => tick.map(|Tick| Event::Tick),
            recv(self.outcomes) -> outcome => outcome.map(Event::Outcome),
            recv(self.configuration) -> result => result.map(Event::Configuration),
            recv(self.kafka) -> input => input.map(Event::Kafka),
            recv(clients) -> input => input.map(Event::Client),
            recv(self.logs) -> message => message.map(Event::Log),
            default => return None,
        };
        Some(event.unwrap_or_else(|_| dead_channel()))
    }
}

/// One of our own threads has ended: a bug, and nothing can be done about it but to start anew.
fn dead_channel() -> ! {
    log::error!("this is a bug in ocps: one of its threads has ended");
    log::logger().flush();
    std::process::abort();
}

impl Daemon {
    /// Begins for good: no other instance lives, or nobody can be asked.
    fn joined(&mut self) {
        let Some(joining) = self.joining.take() else { return };
        self.inputs.push_back(Input::Joined);
        self.turn();
        if !self.over {
            self.start(joining.state, joining.override_name.as_deref());
        }
    }

    /// Begins without Kafka, when it did not answer for too long.
    fn wait_no_longer(&mut self) {
        let Some(joining) = &self.joining else { return };
        if Instant::now() >= joining.until {
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
                sent: sal::time::now(),
            };
            self.starting += 1;
            self.inputs.push_back(Input::Command(Command { sender, order }));
            let Some(next) = state.after(transition) else { break };
            state = next;
        }
        self.turn();
        self.ready_if_started();
    }

    fn ready_if_started(&mut self) {
        if self.starting == 0 {
            self.tell_manager();
            self.manager.ready();
        }
    }

    fn run(mut self, sources: Sources) -> Result<(), Failure> {
        // Before anything happens too: it may be long in coming, and the heart is to beat.
        let mut deadline = self.set_deadline();
        while !self.over {
            let mut event = sources.wait(self.starting > 0);
            let begun = Instant::now();
            let mut ticked = false;
            let first = event.name();
            let mut handled = 0;
            loop {
                ticked |= matches!(event, Event::Tick);
                self.handle(event);
                handled += 1;
                if self.over || handled == BATCH {
                    break;
                }
                match sources.take(self.starting > 0) {
                    Some(next) => event = next,
                    None => break,
                }
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
        for message in sources.logs.try_iter() {
            self.publish(&SalEvent::LogMessage(message), None);
        }
        // A client that waits to be heard, or to be taken, is not waited for.
        drop(sources);
        self.hub.close();
        if let Some(kafka) = self.kafka {
            kafka.close();
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
        Time { mono: self.epoch.elapsed(), tai: sal::time::now() }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Client(input) => self.handle_client(input),
            Event::Outcome(outcome) => self.inputs.push_back(Input::Outcome(outcome)),
            Event::Configuration(ConfigResult::Read(result)) => {
                self.inputs.push_back(Input::Configuration(result))
            }
            Event::Configuration(ConfigResult::Available(available)) => {
                self.inputs.push_back(Input::ConfigurationsAvailable(available));
            }
            Event::Kafka(KafkaInput::Command(command)) => self.take(command),
            Event::Kafka(KafkaInput::Joined) => self.joined(),
            Event::Kafka(KafkaInput::Intruder(who)) => self.inputs.push_back(Input::Intruder(who)),
            Event::Kafka(KafkaInput::Delivered(receipt)) => self.delivered(Some(receipt)),
            Event::Log(message) => self.publish(&SalEvent::LogMessage(message), None),
            Event::Signal(Signal::Terminate) => {
                log::info!("told to end");
                self.inputs.push_back(Input::Terminate);
            }
            Event::Signal(Signal::HangUp) => self.reload(),
            Event::Tick => {
                self.inputs.push_back(Input::Tick);
                self.wait_no_longer();
                self.tell_manager();
            }
        }
        self.turn();
    }

    fn handle_client(&mut self, input: ClientInput) {
        match input {
            ClientInput::Connected(client, outbox) => self.hub.connected(client, outbox),
            ClientInput::Silent(client) => self.hub.silent(client),
            ClientInput::Gone(client) => self.hub.gone(client),
            ClientInput::Subscribe(client) => self.hub.subscribe(client),
            ClientInput::Query(client, Query::Status) => {
                let process = document::Process {
                    index: self.index,
                    simulated: self.simulated,
                    redis: self.redis.as_deref(),
                    uptime: self.epoch.elapsed(),
                    socket: self.hub.path(),
                    state_dir: self.state_dir.as_deref(),
                    clients: self.hub.clients(),
                    kafka: self.kafka.as_ref().map(Kafka::report),
                    kafka_problem: self.kafka_problem.as_deref(),
                };
                let document = document::status(&self.csc.status(), &process);
                self.hub.reply(client, document);
            }
            ClientInput::Query(client, Query::Jobs) => {
                let document = document::jobs(self.csc.job_reports(), self.now().tai);
                self.hub.reply(client, document);
            }
            ClientInput::Command(command) => self.take(command),
        }
    }

    /// Hands a command to the core, or keeps it until the start has ended.
    fn take(&mut self, command: Command) {
        let name = command.order.name().map_or("unknown command", |name| name.as_str());
        let sender = &command.sender;
        log::info!("{name} {} from {} (process {})", sender.seq_num.0, sender.identity, sender.origin);
        if let Via::Socket(client) = sender.via {
            self.hub.owe(client);
        }
        if (self.joining.is_some() || self.starting > 0) && self.deferred.len() < DEFERRED_MAX {
            self.deferred.push_back(command);
        } else {
            self.inputs.push_back(Input::Command(command));
        }
    }

    fn publish(&mut self, event: &SalEvent, receipt: Option<Receipt>) {
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
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            self.csc.handle(now, input, &mut self.effects);
            self.carry_out();
            if self.inputs.is_empty() && self.joining.is_none() && self.starting == 0 {
                self.inputs.extend(self.deferred.drain(..).map(Input::Command));
            }
        }
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
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
                Via::CommandLine => {
                    self.starting = self.starting.saturating_sub(1);
                    self.ready_if_started();
                }
                Via::Kafka => {
                    if let Some(kafka) = &self.kafka {
                        kafka.ack(&to, command, &ack, receipt);
                    }
                }
            },
            Effect::Publish { event, receipt } => self.publish(&event, receipt),
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
            Effect::Log(level, message) => logging::write(level, &message),
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
        match Settings::load(self.config.as_deref()) {
            Ok(_) if self.log_level_fixed => {
                log::info!("reloaded; the log level is that of the command line")
            }
            Ok(settings) => {
                log::info!("reloaded");
                self.inputs.push_back(Input::LogLevel(settings.log.level));
            }
            Err(error) => log::error!("not reloaded: {error}"),
        }
        // A reload during the start ends it no earlier.
        self.ready_if_started();
    }

    fn tell_manager(&mut self) {
        let status = self.csc.status();
        let count =
            |stage| status.jobs.iter().find(|(name, _)| *name == stage).map_or(0, |(_, count)| *count);
        let jobs: usize = status.jobs.iter().map(|(_, count)| count).sum();
        let running = count(StageName::Running);
        let kafka = match (&self.kafka, &self.kafka_problem) {
            (Some(kafka), _) => kafka.report().problem,
            (None, problem) => problem.clone(),
        };
        let kafka = kafka.map(|problem| format!("; no Kafka: {problem}")).unwrap_or_default();
        self.manager.status(format!("{}: {jobs} jobs, {running} of them running{kafka}", status.state));
    }
}
