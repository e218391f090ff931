//! The settings of the daemon, from its command line, its environment and `ocps.toml`: flags win over the environment,
//! the environment wins over the file.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Failure;
use super::options::RunArgs;
use crate::backend::Backend;
#[cfg(feature = "redis")]
use crate::backend::rapid_analysis::{RapidAnalysis, access::Access};
use crate::backend::simulated::Simulated;
use crate::backend::uws::Uws;
use crate::clock;
use crate::config::Env;
use crate::config::check::{Report, check as check_path};
use crate::config::component::{self, Reader};
use crate::config::kafka::{self, Options, Problem};
use crate::config::settings::{self, DEFAULT_PATH, Journal, Keys, Settings};
use crate::csc;
use crate::csc::id::SalIndex;
use crate::journal::Identity;
use crate::lease::Lease;
use crate::transport;
use crate::transport::socket;
use crate::transport::socket_path::{self, Place};

/// File systems by their numbers in `linux/magic.h`.
const OVERLAYFS: u32 = 0x794c_7630;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// All settings of the daemon.
pub(super) struct Setup {
    /// The toml, if it is not the default one.
    pub(super) config: Option<PathBuf>,
    pub(super) settings: Settings,
    /// The keys that the toml gives.
    pub(super) keys: Keys,
    /// Whether the command line chose the log level, so that the toml does not.
    pub(super) log_level_fixed: bool,
    pub(super) index: SalIndex,
    pub(super) socket: Vec<Place>,
    /// None without a journal in a file: it is off or on Kafka, or a simulation keeps none.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) reader: Reader,
    pub(super) kafka: KafkaPlan,
}

/// Whether Kafka is used.
pub(super) enum KafkaPlan {
    /// Kafka is not configured, or turned off.
    Off,
    /// Kafka is configured, but this is missing.
    Impossible(String),
    On(Box<Options>),
}

impl KafkaPlan {
    /// Why Kafka is not used although it is configured.
    pub(super) fn problem(&self) -> Option<&str> {
        if let Self::Impossible(problem) = self { Some(problem) } else { None }
    }
}

impl Setup {
    /// Reads the toml and combines all settings; opens nothing else.
    pub(super) fn new(args: &RunArgs, env: Env<'_>) -> Result<Self, Failure> {
        let config = config(args, env);
        let read = Settings::load_with_keys(config.as_deref());
        let (settings, keys) = read.map_err(|error| Failure::Configuration(error.to_string()))?;
        let (setup, failures) = Self::with(args, env, config, settings, keys);
        failures.into_iter().next().map_or(Ok(setup), Err)
    }

    /// Also gives what is missing, in place of which a harmless setting is taken.
    fn with(
        args: &RunArgs,
        env: Env<'_>,
        config: Option<PathBuf>,
        mut settings: Settings,
        keys: Keys,
    ) -> (Self, Vec<Failure>) {
        let mut failures = Vec::new();
        settings.log.level = args.log_level.unwrap_or(settings.log.level);
        let no_index = || {
            Failure::Usage(
                "no index: give 1, 2, 3 or 101 (ocps run INDEX), or set index in ocps.toml".to_owned(),
            )
        };
        let index = noted(args.index.or(settings.index).ok_or_else(no_index), &mut failures)
            .unwrap_or(SalIndex::Latiss);
        let uid = rustix::process::geteuid().as_raw();
        let socket = socket_path::of_daemon(args.socket.as_deref(), settings.socket.as_deref(), env, uid);
        let state_dir = noted(state_dir(args, &settings, env), &mut failures).flatten();
        let reader = Reader {
            dir: component::directory(args.config_dir.as_deref(), &settings, env),
            site: component::site(&settings, env),
            index,
            simulated: args.simulate,
        };
        let kafka = noted(kafka_plan(args, &settings, env), &mut failures).unwrap_or(KafkaPlan::Off);
        if settings.journal == Journal::Kafka {
            noted(check_journal(&kafka), &mut failures);
        }
        let log_level_fixed = args.log_level.is_some();
        let setup = Self { config, settings, keys, log_level_fixed, index, socket, state_dir, reader, kafka };
        (setup, failures)
    }

    /// Why the state directory, by its file system, does not survive the container or the machine; none for a simulation.
    pub(super) fn state_dir_problem(&self) -> Option<&'static str> {
        let dir = self.state_dir.as_deref().filter(|_| !self.reader.simulated)?;
        // The kernel's number has 32 bits, whatever its type is here.
        let problem = match rustix::fs::statfs(dir).ok()?.f_type as u32 {
            OVERLAYFS => {
                "it is on an overlay, as the root of a container is: its jobs do not survive the container; mount a \
                 volume there"
            }
            TMPFS | RAMFS => {
                "it is in memory: its jobs survive neither the container nor a reboot; mount a volume there"
            }
            _ => return None,
        };
        log::warn!("the state directory {}: {problem}", dir.display());
        Some(problem)
    }

    /// The instance that owns the journal.
    pub(super) fn identity(&self) -> Identity {
        Identity { index: self.index, simulated: self.reader.simulated }
    }

    /// The file of the journal, if it is in a file.
    pub(super) fn journal_file(&self) -> Option<PathBuf> {
        // A simulation never writes to the real one.
        let name = if self.reader.simulated { "simulated.db" } else { "journal.db" };
        self.state_dir.as_ref().map(|dir| dir.join(name))
    }

    /// The lease of this instance: with a journal on Kafka, one that the journal must confirm.
    pub(super) fn lease(&self) -> Lease {
        match self.settings.journal {
            Journal::Kafka => Lease::unconfirmed(),
            Journal::On | Journal::Off => Lease::default(),
        }
    }

    /// The back-end of our index.
    pub(super) fn backend(&self, lease: Lease) -> Result<Work, Failure> {
        Ok(match self.index {
            _ if self.reader.simulated => (Arc::new(Simulated::new(self.settings.simulation.clone())), None),
            SalIndex::Ra => self.rapid_analysis(lease)?,
            SalIndex::Latiss | SalIndex::LsstComCam | SalIndex::LsstCam => {
                let uws = Uws::leased(&self.settings.uws, lease).map_err(Failure::Configuration)?;
                (Arc::new(uws), None)
            }
        })
    }

    #[cfg(feature = "redis")]
    fn rapid_analysis(&self, lease: Lease) -> Result<Work, Failure> {
        let access = Access::new(&self.settings.redis, &environment);
        let address = access.shown();
        Ok((Arc::new(RapidAnalysis::new(access, &self.settings.redis, lease)), Some(address)))
    }

    #[cfg(not(feature = "redis"))]
    fn rapid_analysis(&self, _lease: Lease) -> Result<Work, Failure> {
        Err(Failure::Other(
            "index 101 (RA) drives Redis, which this build of ocps cannot: it was made without the feature redis. \
             Install a full build, or run it with --simulate"
                .to_owned(),
        ))
    }

    /// Whether this instance is to stand by for another one.
    pub(super) fn stands_by(&self) -> bool {
        matches!(&self.kafka, KafkaPlan::On(options) if options.standby.is_some())
    }

    /// The settings of the core.
    pub(super) fn core(&self) -> csc::Settings {
        let uws = &self.settings.uws;
        csc::Settings {
            index: self.index,
            simulated: self.reader.simulated,
            log_level: self.settings.log.level,
            payload: Arc::new(uws.clone()),
            submit_timeout: uws.submit_timeout,
            settle_time: uws.settle_time,
            outage_limit: uws.outage_limit,
            resubmit_limit: uws.resubmit_limit,
            history: self.settings.history,
            uptime: clock::uptime(),
            journal: self.state_dir.is_some() || self.settings.journal == Journal::Kafka,
            joins: matches!(self.kafka, KafkaPlan::On(_)),
            polling: uws.polling,
            connections: uws.connections,
            max_jobs: self.settings.limits.jobs,
        }
    }
}

/// A variable of our environment; an empty one counts as not set.
pub(super) fn environment(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Finds out why `ocps run` with these arguments would fail in this environment, as far as can be known without a
/// daemon: a report on the toml, one on the component configuration (for `site`, if it is given), and `rest`, to which all
/// other problems are added. Wrong keys of the toml count as not given.
pub fn check(args: &RunArgs, env: Env<'_>, site: Option<&str>, rest: Report) -> Vec<Report> {
    let (setup, mut reports) = examine(args, env, site, rest);
    if let Some(rest) = reports.last_mut() {
        setup.directory_problems().into_iter().for_each(|problem| rest.add(problem));
    }
    reports
}

/// The settings as far as they can be known, and the same reports without problems of directories.
pub(super) fn examine(
    args: &RunArgs,
    env: Env<'_>,
    site: Option<&str>,
    mut rest: Report,
) -> (Setup, Vec<Report>) {
    let config = config(args, env);
    let (settings, _, _) = Settings::examine(config.as_deref());
    let index = args.index.or(settings.index);
    let (setup, failures) = Setup::with(args, env, config, settings, Keys::default());
    failures.into_iter().for_each(|failure| rest.add(failure));
    setup.problems(args, env).into_iter().for_each(|problem| rest.add(problem));
    let toml =
        setup.config.clone().or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.is_file()));
    let mut reports: Vec<Report> = toml.iter().map(|path| check_path(path, None, None)).collect();
    let site = site.map(str::to_owned).or(setup.reader.site.clone());
    let dir = setup.reader.dir.as_ref().filter(|_| !args.simulate);
    reports.extend(dir.iter().map(|dir| check_path(dir, site.as_deref(), index)));
    reports.push(rest);
    (setup, reports)
}

/// The value; a failure is added to the others.
fn noted<T>(result: Result<T, Failure>, failures: &mut Vec<Failure>) -> Option<T> {
    result.map_err(|failure| failures.push(failure)).ok()
}

impl Setup {
    /// Problems that show only when the settings are used.
    #[cfg_attr(not(feature = "redis"), allow(unused_variables, reason = "only Redis asks the environment"))]
    fn problems(&self, args: &RunArgs, env: Env<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if let [Place::Named(path)] = self.socket.as_slice() {
            problems.extend(socket::check_path(path).err());
        }
        match &self.kafka {
            KafkaPlan::Off => {}
            KafkaPlan::Impossible(problem) => problems.push(problem.clone()),
            KafkaPlan::On(options) => problems.extend(transport::kafka::check(options, self.index).err()),
        }
        problems.extend(self.backend(Lease::default()).err().map(|failure| failure.to_string()));
        #[cfg(feature = "redis")]
        if self.index == SalIndex::Ra && !self.reader.simulated {
            problems.extend(Access::new(&self.settings.redis, env).check().err());
        }
        // The files of the directory have a report of their own, but not those of a commit; nor has a missing directory.
        if self.reader.dir.is_none() || args.goal.override_name.is_some() {
            let override_name = args.goal.override_name.as_deref().unwrap_or_default();
            problems.extend(self.reader.read(override_name).err().map(|error| error.to_string()));
        }
        problems
    }

    /// The directories to which the daemon writes.
    pub(super) fn written_directories(&self) -> impl Iterator<Item = &Path> {
        let log_dir = self.settings.log.file.as_deref().and_then(Path::parent);
        [self.state_dir.as_deref(), log_dir].into_iter().flatten()
    }

    /// Which of these directories cannot be written, and why.
    pub(super) fn directory_problems(&self) -> Vec<String> {
        self.written_directories().filter_map(unwritable).collect()
    }
}

/// The directory, or the nearest one above it that exists.
pub(super) fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// Why a directory cannot be written, or cannot be made; none if it can.
fn unwritable(dir: &Path) -> Option<String> {
    let there = existing(dir);
    let access = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let problem = match access {
        Ok(()) if there.is_dir() => return None,
        Ok(()) => format!("{} is not a directory", there.display()),
        Err(error) => io::Error::from(error).to_string(),
    };
    Some(format!("{}: cannot be written: {problem}", dir.display()))
}

/// A back-end, and for Rapid Analysis the address of Redis.
pub(super) type Work = (Arc<dyn Backend>, Option<String>);

/// The toml, if it is not the default one.
fn config(args: &RunArgs, env: Env<'_>) -> Option<PathBuf> {
    args.config.clone().or_else(|| settings::of_unit(env))
}

/// The state directory, if there is to be one; it holds the journal and nothing else.
fn state_dir(args: &RunArgs, settings: &Settings, env: Env<'_>) -> Result<Option<PathBuf>, Failure> {
    match args.state_dir.clone() {
        _ if settings.journal != Journal::On => Ok(None),
        dir if dir.is_some() || args.simulate => Ok(dir),
        _ => settings.state_dir.clone().map_or_else(|| default_state_dir(env), Ok).map(Some),
    }
}

/// Checks that the journal can be on Kafka.
fn check_journal(kafka: &KafkaPlan) -> Result<(), Failure> {
    let problem = match kafka {
        _ if !cfg!(feature = "kafka") => "this build has no Kafka: install a full build",
        KafkaPlan::On(_) => return Ok(()),
        KafkaPlan::Impossible(problem) => problem,
        KafkaPlan::Off => {
            "Kafka is off: set kafka.brokers or LSST_KAFKA_BROKER_ADDR, and leave out --no-kafka"
        }
    };
    Err(Failure::Configuration(format!(
        "the journal cannot be on Kafka (journal = \"kafka\" in ocps.toml): {problem}"
    )))
}

fn kafka_plan(args: &RunArgs, settings: &Settings, env: Env<'_>) -> Result<KafkaPlan, Failure> {
    let mut kafka = settings.kafka.clone();
    kafka.standby |= args.standby;
    if kafka.standby && settings.journal != Journal::Kafka {
        let problem = "an instance can stand by (--standby, or kafka.standby in ocps.toml) only where it can read the \
                       journal of the other: set journal = \"kafka\" for both";
        return Err(Failure::Configuration(problem.to_owned()));
    }
    if !args.kafka.unwrap_or_else(|| kafka::is_configured(&settings.kafka, env)) {
        return Ok(KafkaPlan::Off);
    }
    match Options::new(&kafka, env) {
        Ok(options) => Ok(KafkaPlan::On(Box::new(options))),
        Err(Problem::NoSubname(text)) => Ok(KafkaPlan::Impossible(text)),
        Err(Problem::Wrong(text)) => Err(Failure::Configuration(text)),
    }
}

/// `$STATE_DIRECTORY` (systemd), `/var/lib/ocps` for root, `$XDG_STATE_HOME/ocps` for others.
fn default_state_dir(env: Env<'_>) -> Result<PathBuf, Failure> {
    let lookup = |name: &str| env(name).map(PathBuf::from);
    lookup("STATE_DIRECTORY")
        .or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/ocps")))
        .or_else(|| {
            let state = lookup("XDG_STATE_HOME").or_else(|| Some(lookup("HOME")?.join(".local/state")));
            Some(state?.join("ocps"))
        })
        .ok_or_else(|| {
            let remedy =
                "give --state-dir, set HOME, or do without a journal (journal = \"off\" in ocps.toml)";
            Failure::Other(format!("no state directory: {remedy}"))
        })
}
