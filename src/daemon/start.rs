//! Start-up: all threads and channels, then the main loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};

use super::metrics::Figures;
use super::options::RunArgs;
use super::setup::{self, KafkaPlan, Setup};
use super::sources::{Sources, signals};
use super::turn::Turn;
use super::{Daemon, Failure, missing_credentials};
use crate::backend::Backend;
use crate::backend::workers::Workers;
use crate::clock::{self, Moment};
#[cfg(feature = "kafka")]
use crate::config::settings;
use crate::config::watcher;
use crate::csc::command::Command;
use crate::csc::event::LogMessage;
use crate::csc::record::Recovered;
use crate::csc::request::Outcome;
use crate::csc::time::Time;
use crate::http::{self, Question};
#[cfg(feature = "kafka")]
use crate::journal::topic::Address;
use crate::journal::{Journal, Limits};
use crate::lease::Lease;
use crate::logging::{Logs, Tap};
use crate::systemd::Manager;
use crate::timer;
use crate::transport::admission::Admission;
use crate::transport::kafka;
use crate::transport::socket::{self, ClientInput, Hub, NoSocket};
use crate::transport::{Kafka, KafkaInput};

/// Most inputs of clients that wait for the main loop; beyond it, clients wait.
const CLIENT_QUEUE: usize = 1024;
/// Most answers of the back-end that wait for the main loop; beyond it, workers wait.
const OUTCOME_QUEUE: usize = 1024;
/// Most log lines that wait to become events; more are dropped.
const LOG_QUEUE: usize = 1024;
/// Most commands, and most other inputs, over Kafka that wait for the main loop; beyond it, the reading threads wait.
const KAFKA_QUEUE: usize = 1024;
/// Most requests that wait for the configuration thread.
const CONFIG_QUEUE: usize = 64;
/// Most requests for each job: the job, its removal and the jobs that it waits for may each have one of every kind.
const REQUESTS_PER_JOB: usize = 12;

/// Starts all threads; gives the daemon and what its events come over.
pub(super) fn start(args: &RunArgs) -> Result<(Daemon, Sources), Failure> {
    let setup = Setup::new(args, &setup::environment)?;
    clock::set_tai_minus_utc(setup.settings.tai_minus_utc_s);
    let lease = setup.lease();
    let (backend, redis) = setup.backend(lease.clone())?;
    let (log_sender, logs) = bounded(LOG_QUEUE);
    let log_outputs =
        Logs::start(setup.settings.log.level, setup.settings.log.file.as_deref(), log_events(log_sender))
            .map_err(Failure::Configuration)?;
    abort_on_panic();
    let signals = signals()?;
    let (journal, recovered) = open_journal(&setup, lease.clone())?;
    let state_dir_problem = setup.state_dir_problem();
    let (hub, clients) = open_socket(&setup)?;
    let (kafka, (inputs, commands)) = start_kafka(&setup, lease.clone())?;
    let (workers, outcomes) = start_workers(&setup, backend, lease.clone())?;
    let (config_sender, config_requests) = bounded(CONFIG_QUEUE);
    let (config_results, configuration) = bounded(CONFIG_QUEUE);
    watcher::spawn(setup.reader.clone(), config_requests, config_results).map_err(no_thread)?;
    let (deadlines, ticks) = timer::start().map_err(no_thread)?;

    let (questions, http_problem) = serve_http(&setup);

    let epoch = Instant::now();
    let start = Time { mono: Duration::ZERO, tai: clock::now() };
    let (core, seed) = (setup.core(), fastrand::u64(..));
    let override_name = recovered.as_ref().and_then(missing_credentials);
    let (turn, effects) = Turn::new(core, seed, start, &args.goal, recovered);
    let mut daemon = Daemon {
        epoch,
        turn,
        hub,
        kafka,
        admission: Admission::default(),
        commands: commands.clone(),
        workers,
        configuration: config_sender,
        deadlines,
        manager: Manager::connect(),
        logs: log_outputs,
        journal,
        lease,
        redis,
        state_dir_problem,
        setup,
        figures: Figures::new(),
        http_problem,
        turned: Moment::now(),
        stood_by: false,
        end: None,
    };
    daemon.find_credentials(override_name);
    daemon.run_effects(effects);
    daemon.run_turn();
    let journal = daemon.journal.as_ref().map_or_else(never, |journal| journal.news.clone());
    let sources = Sources {
        clients,
        outcomes,
        configuration,
        kafka: inputs,
        commands,
        journal,
        logs,
        questions,
        signals,
        ticks,
    };
    Ok((daemon, sources))
}

/// The threads that carry out requests, and the channel of their answers.
fn start_workers(
    setup: &Setup,
    backend: Arc<dyn Backend>,
    lease: Lease,
) -> Result<(Workers, Receiver<Outcome>), Failure> {
    let (sender, outcomes) = bounded(OUTCOME_QUEUE);
    let (connections, capacity) =
        (setup.settings.uws.connections, REQUESTS_PER_JOB * setup.settings.limits.jobs);
    let workers = Workers::start(backend, lease, connections, capacity, sender).map_err(no_thread)?;
    Ok((workers, outcomes))
}

/// The questions over HTTP. Where the daemon cannot listen for them it starts without HTTP, and the status says why.
fn serve_http(setup: &Setup) -> (Receiver<Question>, Option<String>) {
    let Some(listen) = &setup.settings.http.listen else { return (never(), None) };
    match http::serve(listen) {
        Ok(questions) => (questions, None),
        Err(error) => {
            let problem = format!("cannot listen on {listen}: {error}; see [http] in ocps.toml");
            log::error!("no HTTP: {problem}");
            (never(), Some(problem))
        }
    }
}

/// The local socket, and the inputs of its clients. Where it cannot be made in any usual place and there is Kafka, the
/// daemon starts without a socket.
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

/// The journal, if one is kept, and what the previous run left; none while the journal is not open.
#[cfg_attr(not(feature = "kafka"), allow(unused_variables, reason = "only a journal on Kafka confirms it"))]
fn open_journal(setup: &Setup, lease: Lease) -> Result<(Option<Journal>, Option<Recovered>), Failure> {
    let history = setup.settings.history;
    #[cfg(feature = "kafka")]
    if let (settings::Journal::Kafka, KafkaPlan::On(options)) = (setup.settings.journal, &setup.kafka) {
        let address = Address::new(options.as_ref().clone(), setup.identity(), Limits::in_memory(history));
        return Ok((Some(Journal::on_topic(address, lease)?), None));
    }
    let Some(path) = setup.journal_file() else {
        // A previous run may have left jobs.
        return Ok((None, Some(Recovered { unsearched: true, ..Recovered::default() })));
    };
    let (journal, recovered) = Journal::open(&path, setup.identity(), Limits::new(history))?;
    Ok((Some(journal), Some(recovered)))
}

/// The inputs and commands over Kafka.
type FromKafka = (Receiver<KafkaInput>, Receiver<Command>);

/// Kafka, if it is used, and its inputs and commands.
fn start_kafka(setup: &Setup, lease: Lease) -> Result<(Option<Box<dyn Kafka>>, FromKafka), Failure> {
    let options = match &setup.kafka {
        KafkaPlan::Off => return Ok((None, (never(), never()))),
        KafkaPlan::Impossible(problem) => {
            log::error!("no Kafka, only the local socket: {problem}");
            return Ok((None, (never(), never())));
        }
        KafkaPlan::On(options) => options.as_ref().clone(),
    };
    let (sender, inputs) = bounded(KAFKA_QUEUE);
    let (taker, commands) = bounded(KAFKA_QUEUE);
    let kafka = kafka::start(options, setup.index, lease, sender, taker).map_err(Failure::Configuration)?;
    Ok((Some(kafka), (inputs, commands)))
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::Other(format!("cannot start a thread: {error}"))
}

/// Makes `logMessage` events of log lines; what finds no room in the channel is lost.
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

/// Ends the process when a thread panics, which is a bug: without one of its threads the daemon would seem to work.
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("this is a bug in ocps: {info}");
        log::logger().flush();
        default(info);
        std::process::abort();
    }));
}
