//! Start-up: all threads and channels, then the main loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};

use super::options::{InitialState, RunArgs};
use super::setup::{self, KafkaPlan, Setup};
use super::sources::{Sources, signals};
use super::{Daemon, Failure, Joining};
use crate::backend::Backend;
use crate::backend::workers::Workers;
use crate::clock::{self, Moment};
use crate::config::settings::Settings;
use crate::config::watcher;
use crate::csc::command::Command;
use crate::csc::event::LogMessage;
use crate::csc::id::SalIndex;
use crate::csc::record::Recovered;
use crate::csc::request::Outcome;
use crate::csc::state::SummaryState;
use crate::csc::time::Time;
use crate::csc::{Csc, Input};
use crate::journal::{Journal, OpenError, Report};
use crate::logging::{Logs, Tap};
use crate::systemd::Manager;
use crate::timer;
use crate::transport::KafkaInput;
use crate::transport::admission::Admission;
use crate::transport::kafka::Kafka;
use crate::transport::socket::{self, ClientInput, Hub, NoSocket};

/// Things that clients did and that wait to be handled; a client that does more waits.
const CLIENT_QUEUE: usize = 1024;
/// Answers of the back-end that wait to be handled; a worker that has more waits.
const OUTCOME_QUEUE: usize = 1024;
/// Log lines that wait to become events; more are not told.
const LOG_QUEUE: usize = 1024;
/// Commands, and other things, that came over Kafka and wait to be handled; the reading thread waits then.
const KAFKA_QUEUE: usize = 1024;
/// Requests to the configuration thread that wait.
const CONFIG_QUEUE: usize = 64;
/// Room in a worker queue for each job: a job, its removal and the jobs it waits for may all ask at once.
const REQUESTS_PER_JOB: usize = 3;

/// Starts everything and serves until the end.
pub(super) fn serve(args: &RunArgs) -> Result<(), Failure> {
    let setup = Setup::new(args, &setup::environment)?;
    clock::set_tai_minus_utc(setup.settings.tai_minus_utc_s);
    let (backend, redis) = setup.backend()?;
    let (log_sender, logs) = bounded(LOG_QUEUE);
    let log_outputs =
        Logs::start(setup.settings.log.level, setup.settings.log.file.as_deref(), log_events(log_sender))
            .map_err(Failure::Configuration)?;
    abort_on_panic();
    let signals = signals()?;
    let (journal, reports, recovered) = open_journal(&setup)?;
    let state_dir_problem = setup.state_dir_problem();
    let (state, override_name) = initial_state(args, &recovered);
    let (hub, clients) = open_socket(&setup)?;
    let core = setup.core();
    let start_timeout = setup.kafka.start_timeout();
    let StartedKafka { kafka, inputs, commands, problem } = start_kafka(setup.kafka, setup.index)?;
    let (outcome_sender, outcomes) = bounded(OUTCOME_QUEUE);
    let workers = start_workers(&setup.settings, &backend, &outcome_sender)?;
    let (config_sender, config_requests) = bounded(CONFIG_QUEUE);
    let (config_results, configuration) = bounded(CONFIG_QUEUE);
    watcher::spawn(setup.reader, config_requests, config_results).map_err(|error| no_thread(&error))?;
    let (deadlines, ticks) = timer::start().map_err(|error| no_thread(&error))?;

    let epoch = Instant::now();
    let mut effects = Vec::new();
    let start = Time { mono: Duration::ZERO, tai: clock::now() };
    let simulated = core.simulated;
    let csc = Csc::new(core, fastrand::u64(..), start, &mut effects);
    let joining = Joining { until: epoch + start_timeout, state, override_name };
    let mut daemon = Daemon {
        epoch,
        csc,
        hub,
        kafka,
        kafka_problem: problem,
        workers,
        configuration: config_sender,
        deadlines,
        manager: Manager::connect(),
        logs: log_outputs,
        index: setup.index,
        simulated,
        redis,
        keys: setup.keys,
        config: setup.config,
        log_level_fixed: args.log_level.is_some(),
        state_dir: setup.state_dir,
        state_dir_problem,
        journal,
        inputs: VecDeque::from([Input::Recovered(recovered)]),
        effects,
        records: Vec::new(),
        joining: Some(joining),
        starting: VecDeque::new(),
        state_reached: None,
        start_problem: None,
        deferred: VecDeque::new(),
        looked: Moment::now(),
        admission: Admission::default(),
        over: false,
        failure: None,
    };
    daemon.carry_out();
    daemon.turn();
    if daemon.kafka.is_none() {
        daemon.joined();
    }
    let (kafka, journal) = (inputs, reports);
    daemon.run(Sources { clients, outcomes, configuration, kafka, commands, journal, logs, signals, ticks })
}

/// The local socket, and what its clients do. Where it cannot be made in any usual place, Kafka alone will do.
fn open_socket(setup: &Setup) -> Result<(Hub, Receiver<ClientInput>), Failure> {
    let (sender, clients) = bounded(CLIENT_QUEUE);
    let (hub, clients) = match (socket::listen(&setup.socket, sender), &setup.kafka) {
        (Ok(hub), _) => (hub, clients),
        (Err(NoSocket::Nowhere(reason)), KafkaPlan::On(_)) => {
            log::warn!("no local socket, only Kafka: {reason}");
            (Hub::default(), never())
        }
        (Err(NoSocket::Nowhere(reason)), KafkaPlan::Off | KafkaPlan::Impossible(_))
        | (Err(NoSocket::Refused(reason)), _) => return Err(Failure::Other(reason)),
    };
    let place = hub.path().map_or_else(|| "no socket".to_owned(), |path| path.display().to_string());
    log::info!("ocps {} for index {} on {place}", env!("CARGO_PKG_VERSION"), setup.index);
    Ok((hub, clients))
}

/// The journal, what it says, and what it kept.
type StartedJournal = (Option<Journal>, Receiver<Report>, Recovered);

fn open_journal(setup: &Setup) -> Result<StartedJournal, Failure> {
    let Some((path, identity, limits)) = setup.journal() else {
        // A previous run may have left jobs.
        return Ok((None, never(), Recovered { unsearched: true, ..Recovered::default() }));
    };
    let opened = Journal::open(&path, identity, limits);
    let (journal, recovered) = opened.map_err(|error| match error {
        OpenError::Unusable(reason) => Failure::Other(reason),
        OpenError::Refused(reason) => Failure::Configuration(reason),
    })?;
    let reports = journal.reports().clone();
    Ok((Some(journal), reports, recovered))
}

/// Where to go at start, and with which override.
fn initial_state(args: &RunArgs, recovered: &Recovered) -> (SummaryState, Option<String>) {
    let InitialState::At(state) = args.state else {
        let Some((state, override_name)) = &recovered.state else {
            log::info!("no summary state to resume is known: STANDBY");
            return (SummaryState::Standby, args.override_name.clone());
        };
        return match state {
            SummaryState::Disabled | SummaryState::Enabled => {
                (*state, args.override_name.clone().or_else(|| Some(override_name.clone())))
            }
            SummaryState::Standby => (SummaryState::Standby, None),
            SummaryState::Fault | SummaryState::Offline => {
                log::info!("the last run was in {state}, which is not resumed: beginning in STANDBY");
                (SummaryState::Standby, None)
            }
        };
    };
    (state, args.override_name.clone())
}

fn start_workers(
    settings: &Settings,
    backend: &Arc<dyn Backend>,
    outcomes: &Sender<Outcome>,
) -> Result<Workers, Failure> {
    let capacity = REQUESTS_PER_JOB * settings.limits.jobs;
    Workers::start(backend, settings.uws.connections, capacity, outcomes).map_err(|error| no_thread(&error))
}

/// Kafka, what comes over it, and why there is none although it is wanted.
struct StartedKafka {
    kafka: Option<Kafka>,
    inputs: Receiver<KafkaInput>,
    commands: Receiver<Command>,
    problem: Option<String>,
}

impl StartedKafka {
    fn none(problem: Option<String>) -> Self {
        Self { kafka: None, inputs: never(), commands: never(), problem }
    }
}

fn start_kafka(plan: KafkaPlan, index: SalIndex) -> Result<StartedKafka, Failure> {
    match plan {
        KafkaPlan::Off => Ok(StartedKafka::none(None)),
        KafkaPlan::Impossible(problem) => {
            log::error!("no Kafka, only the local socket: {problem}");
            Ok(StartedKafka::none(Some(problem)))
        }
        KafkaPlan::On(options) => {
            let (sender, inputs) = bounded(KAFKA_QUEUE);
            let (taker, commands) = bounded(KAFKA_QUEUE);
            let kafka = Kafka::start(*options, index, sender, taker).map_err(Failure::Configuration)?;
            Ok(StartedKafka { kafka: Some(kafka), inputs, commands, problem: None })
        }
    }
}

fn no_thread(error: &std::io::Error) -> Failure {
    Failure::Other(format!("cannot start a thread: {error}"))
}

/// Makes `logMessage` events of log lines; those that are not taken in time are lost.
fn log_events(sender: Sender<LogMessage>) -> Tap {
    let process = i32::try_from(std::process::id()).unwrap_or(0);
    Box::new(move |record, message, level| {
        let _ = sender.try_send(LogMessage {
            name: record.target().to_owned(),
            level,
            message: message.to_owned(),
            file_path: record.file().unwrap_or_default().to_owned(),
            line_number: record.line().and_then(|line| i32::try_from(line).ok()).unwrap_or(0),
            process,
            timestamp: clock::now(),
        });
    })
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
