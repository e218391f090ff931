//! What the daemon is told, from its command line, its environment and `ocps.toml`: flags win over
//! the environment, the environment wins over the file.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::backend::Backend;
#[cfg(feature = "redis")]
use crate::backend::rapid_analysis::{RapidAnalysis, access::Access};
use crate::backend::simulated::Simulated;
use crate::backend::uws::Uws;
use crate::cli::flags::RunArgs;
use crate::config::component::{self, Reader};
use crate::config::kafka::{self, Options, Problem};
use crate::config::settings::{self, Keys, Settings};
use crate::csc;
use crate::csc::id::SalIndex;
use crate::journal::{Identity, Limits};
use crate::sal;
use crate::transport::kafka::Kafka;
use crate::transport::socket;
use crate::transport::socket_path::{self, Candidates};

/// File systems by their numbers in `linux/magic.h`.
const OVERLAYFS: u32 = 0x794c_7630;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// All that the daemon is told.
pub(super) struct Setup {
    /// The toml, if it is not the usual one.
    pub(super) config: Option<PathBuf>,
    pub(super) settings: Settings,
    /// The keys that the toml gives.
    pub(super) keys: Keys,
    pub(super) index: SalIndex,
    pub(super) log_level: i32,
    pub(super) socket: Candidates,
    /// None without a journal: in a simulation that is not to keep anything, or where it is off.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) journal: Option<JournalPlan>,
    pub(super) reader: Reader,
    pub(super) kafka: KafkaPlan,
}

/// The journal that is kept.
pub(super) struct JournalPlan {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) limits: Limits,
}

/// What is done about Kafka.
pub(super) enum KafkaPlan {
    /// Nobody wants it.
    Off,
    /// It is wanted, but this is missing.
    Impossible(String),
    On(Box<Options>),
}

/// A variable of the environment; one that is empty counts as not set.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl KafkaPlan {
    /// How long the start waits for Kafka.
    pub(super) fn start_timeout(&self) -> Duration {
        match self {
            Self::On(options) => options.start_timeout,
            Self::Off | Self::Impossible(_) => Duration::ZERO,
        }
    }
}

impl Setup {
    /// Puts it all together; nothing is opened but the toml.
    pub(super) fn new(args: &RunArgs, env: Env<'_>) -> Result<Self, Failure> {
        let config = config(args, env);
        let read = Settings::load_with_keys(config.as_deref());
        let (settings, keys) = read.map_err(|error| Failure::Configuration(error.to_string()))?;
        Ok(Self { keys, ..Self::with(args, env, config, settings)? })
    }

    fn with(
        args: &RunArgs,
        env: Env<'_>,
        config: Option<PathBuf>,
        settings: Settings,
    ) -> Result<Self, Failure> {
        let index = index(args, &settings)?;
        let socket = socket(args, &settings, env);
        let state_dir = state_dir(args, &settings, env)?;
        let journal = state_dir.as_deref().map(|dir| JournalPlan {
            // A rehearsal never touches the real one.
            path: dir.join(if args.simulate { "simulated.db" } else { "journal.db" }),
            identity: Identity { index, simulated: args.simulate },
            limits: Limits::new(settings.history),
        });
        let reader = Reader {
            dir: component::directory(args.config_dir.as_deref(), &settings, env),
            site: component::site(&settings, env),
            index,
            simulated: args.simulate,
        };
        let kafka = kafka_plan(args, &settings, env)?;
        let log_level = args.log_level.unwrap_or(settings.log.level);
        let keys = Keys::default();
        Ok(Self { config, settings, keys, index, log_level, socket, state_dir, journal, reader, kafka })
    }

    /// What is wrong with the state directory, once it is there; a rehearsal's need not last.
    pub(super) fn state_dir_problem(&self) -> Option<String> {
        let dir = self.state_dir.as_deref().filter(|_| !self.reader.simulated)?;
        let problem = transience(dir)?;
        log::warn!("the state directory {}: {problem}", dir.display());
        Some(problem)
    }

    /// What carries out the commands of our index.
    pub(super) fn backend(&self) -> Result<RunsWork, Failure> {
        if self.reader.simulated {
            return Ok(RunsWork::jobs(Simulated::new(self.settings.simulation.clone())));
        }
        match self.index {
            SalIndex::Ra => self.rapid_analysis(),
            SalIndex::Latiss | SalIndex::LsstComCam | SalIndex::LsstCam => {
                Ok(RunsWork::jobs(Uws::new(&self.settings.uws).map_err(Failure::Configuration)?))
            }
        }
    }

    #[cfg(feature = "redis")]
    #[allow(clippy::unnecessary_wraps, reason = "it fails where the feature is off")]
    fn rapid_analysis(&self) -> Result<RunsWork, Failure> {
        let access = Access::new(&self.settings.redis, &environment);
        let redis = Some(access.shown());
        Ok(RunsWork { backend: Arc::new(RapidAnalysis::new(access, &self.settings.redis)), redis })
    }

    #[cfg(not(feature = "redis"))]
    fn rapid_analysis(&self) -> Result<RunsWork, Failure> {
        Err(Failure::Other(
            "index 101 (RA) drives Redis, which this build of ocps cannot: it was made without the feature redis. \
             Install a full build, or run it with --simulate"
                .to_owned(),
        ))
    }

    /// The part that the core needs.
    pub(super) fn core(&self) -> csc::Settings {
        let uws = &self.settings.uws;
        csc::Settings {
            index: self.index,
            simulated: self.reader.simulated,
            log_level: self.log_level,
            payload: Arc::new(uws.clone()),
            submit_timeout: uws.submit_timeout,
            settle_time: uws.settle_time,
            outage_limit: uws.outage_limit,
            resubmit_limit: uws.resubmit_limit,
            history: self.settings.history,
            uptime: sal::time::uptime(),
            journal: self.journal.is_some(),
            joins: matches!(self.kafka, KafkaPlan::On(_)),
            max_jobs: self.settings.max_jobs,
        }
    }
}

/// A variable of our own environment; one that is empty counts as not set.
pub(super) fn environment(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// What a start would use, and all that it would stumble over.
#[derive(Debug)]
pub struct Findings {
    /// The toml, if it is not the usual one.
    pub config: Option<PathBuf>,
    /// The index, if one is given.
    pub index: Option<SalIndex>,
    /// The site, if one is given.
    pub site: Option<String>,
    /// The directory of the component configuration; none if there is none, or none is used.
    pub config_dir: Option<PathBuf>,
    /// What is wrong besides the contents of these files, each in one line.
    pub problems: Vec<String>,
}

/// Finds out what `ocps run` with these arguments would stumble over in this environment, as far as can be said
/// without a daemon. What is wrong in the toml and in the component configuration is said by
/// [`crate::config::check`]: here the keys of the toml that are wrong count as not given.
#[must_use]
pub fn check(args: &RunArgs, env: Env<'_>) -> Findings {
    let config = config(args, env);
    let (settings, _) = Settings::examine(config.as_deref());
    let mut problems: Vec<String> = [
        index(args, &settings).err(),
        state_dir(args, &settings, env).err(),
        kafka_plan(args, &settings, env).err(),
    ]
    .into_iter()
    .flatten()
    .map(|failure| failure.to_string())
    .collect();
    let mut findings = Findings {
        index: args.index.or(settings.index),
        site: component::site(&settings, env),
        config_dir: component::directory(args.config_dir.as_deref(), &settings, env)
            .filter(|_| !args.simulate),
        config: config.clone(),
        problems: Vec::new(),
    };
    // What concerns no index is found without one too.
    let any = RunArgs { index: findings.index.or(Some(SalIndex::Latiss)), ..args.clone() };
    if let Ok(setup) = Setup::with(&any, env, config, settings) {
        problems.extend(setup.problems(args, env));
    }
    findings.problems = problems;
    findings
}

impl Setup {
    /// What is wrong although all settings are there.
    #[cfg_attr(not(feature = "redis"), allow(unused_variables, reason = "only Redis asks the environment"))]
    fn problems(&self, args: &RunArgs, env: Env<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if let Candidates::Named(path) = &self.socket {
            problems.extend(socket::check_path(path).err());
        }
        match &self.kafka {
            KafkaPlan::Off => {}
            KafkaPlan::Impossible(problem) => problems.push(problem.clone()),
            KafkaPlan::On(options) => problems.extend(Kafka::check(options, self.index).err()),
        }
        problems.extend(self.backend().err().map(|failure| failure.to_string()));
        #[cfg(feature = "redis")]
        if self.index == SalIndex::Ra && !self.reader.simulated {
            problems.extend(Access::new(&self.settings.redis, env).check().err());
        }
        // The directory's files are checked apart, but not as of a commit, nor whether there is one at all.
        if self.reader.dir.is_none() || args.override_name.is_some() {
            let override_name = args.override_name.as_deref().unwrap_or_default();
            problems.extend(self.reader.read(override_name).err().map(|error| error.to_string()));
        }
        let log_dir = self.settings.log.file.as_deref().and_then(Path::parent);
        for dir in [self.state_dir.as_deref(), log_dir].into_iter().flatten() {
            problems.extend(unwritable(dir));
        }
        problems
    }
}

/// Why nothing can be written to a directory, or the directory not be made, if so.
fn unwritable(dir: &Path) -> Option<String> {
    let there = dir.ancestors().find(|path| path.exists() || path.as_os_str().is_empty())?;
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let access = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let problem = match access {
        Ok(()) if there.is_dir() => return None,
        Ok(()) => format!("{} is not a directory", there.display()),
        Err(error) => io::Error::from(error).to_string(),
    };
    Some(format!("{}: cannot be written: {problem}", dir.display()))
}

/// A back-end, and what `ocps status` says of it beside what the core knows.
pub(super) struct RunsWork {
    pub(super) backend: Arc<dyn Backend>,
    /// Where Redis is, for Rapid Analysis.
    pub(super) redis: Option<String>,
}

impl RunsWork {
    fn jobs(backend: impl Backend + 'static) -> Self {
        Self { backend: Arc::new(backend), redis: None }
    }
}

/// The toml, if it is not the usual one.
fn config(args: &RunArgs, env: Env<'_>) -> Option<PathBuf> {
    args.config.clone().or_else(|| settings::of_unit(env))
}

fn index(args: &RunArgs, settings: &Settings) -> Result<SalIndex, Failure> {
    args.index.or(settings.index).ok_or_else(|| {
        Failure::Usage("no index: give 1, 2, 3 or 101 (ocps run INDEX), or set index in ocps.toml".to_owned())
    })
}

fn socket(args: &RunArgs, settings: &Settings, env: Env<'_>) -> Candidates {
    let user = socket_path::User::current();
    socket_path::of_daemon(args.socket.as_deref(), settings.socket.as_deref(), env, user)
}

/// The journal is all that is kept there.
fn state_dir(args: &RunArgs, settings: &Settings, env: Env<'_>) -> Result<Option<PathBuf>, Failure> {
    match (settings.journal, args.simulate, args.state_dir.clone()) {
        (false, _, _) => Ok(None),
        (true, true, dir) | (true, false, dir @ Some(_)) => Ok(dir),
        (true, false, None) => {
            settings.state_dir.clone().map_or_else(|| default_state_dir(env), Ok).map(Some)
        }
    }
}

fn kafka_plan(args: &RunArgs, settings: &Settings, env: Env<'_>) -> Result<KafkaPlan, Failure> {
    if !kafka::is_wanted(&settings.kafka, args.kafka, env) {
        return Ok(KafkaPlan::Off);
    }
    match Options::new(&settings.kafka, env) {
        Ok(options) => Ok(KafkaPlan::On(Box::new(options))),
        Err(Problem::NoSubname(text)) => Ok(KafkaPlan::Impossible(text)),
        Err(Problem::Wrong(text)) => Err(Failure::Configuration(text)),
    }
}

/// `$STATE_DIRECTORY` (systemd), `/var/lib/ocps` for root, `$XDG_STATE_HOME/ocps` for others.
fn default_state_dir(env: Env<'_>) -> Result<PathBuf, Failure> {
    let lookup = |name: &str| env(name).map(PathBuf::from);
    if let Some(dir) = lookup("STATE_DIRECTORY") {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ocps"));
    }
    lookup("XDG_STATE_HOME")
        .or_else(|| lookup("HOME").map(|home| home.join(".local").join("state")))
        .map(|state| state.join("ocps"))
        .ok_or_else(|| {
            Failure::Other(
                "no state directory: give --state-dir, set HOME, or do without a journal (journal = \"off\" in \
                 ocps.toml)"
                    .to_owned(),
            )
        })
}

/// Says that a state directory is in a file system that ends with the container or the machine, if it is.
fn transience(dir: &Path) -> Option<String> {
    // A number of 32 bits, whatever its type.
    let problem = match rustix::fs::statfs(dir).ok()?.f_type as u32 {
        OVERLAYFS => {
            "it is on an overlay, as the root of a container is: its jobs do not survive the container"
        }
        TMPFS | RAMFS => "it is in memory: its jobs survive neither the container nor a reboot",
        _ => return None,
    };
    Some(format!("{problem}; mount a volume there"))
}
