//! What the daemon is told, from its command line, its environment and `ocps.toml`: flags win over
//! the environment, the environment wins over the file.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use crate::backend::Backend;
#[cfg(feature = "redis")]
use crate::backend::rapid_analysis::{RapidAnalysis, access::Access};
use crate::backend::simulated::Simulated;
use crate::backend::uws::Uws;
use crate::cli::flags::RunArgs;
use crate::config::component::{self, Reader};
use crate::config::kafka::{self, Options, Problem};
use crate::config::settings::{self, Settings};
use crate::csc;
use crate::csc::id::SalIndex;
use crate::journal::{Identity, Limits};
use crate::sal;
use crate::transport::socket_path;

/// All that the daemon is told.
pub(super) struct Setup {
    /// The toml, if it is not the usual one.
    pub(super) config: Option<PathBuf>,
    pub(super) settings: Settings,
    pub(super) index: SalIndex,
    pub(super) log_level: i32,
    pub(super) socket: PathBuf,
    /// None in a simulation that is not told to keep anything.
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

impl Setup {
    /// Puts it all together; nothing is opened but the toml.
    pub(super) fn new(args: &RunArgs) -> Result<Self, Failure> {
        let lookup = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let config = args.config.clone().or_else(|| settings::of_unit(&lookup));
        let settings =
            Settings::load(config.as_deref()).map_err(|error| Failure::Configuration(error.to_string()))?;
        let index = args.index.or(settings.index).ok_or_else(|| {
            Failure::Usage(
                "no index: give 1, 2, 3 or 101 (ocps run INDEX), or set index in ocps.toml".to_owned(),
            )
        })?;
        let socket = socket_path::of_daemon(
            args.socket.as_deref(),
            settings.socket.as_deref(),
            &lookup,
            socket_path::User::current(),
        )
        .map_err(Failure::Other)?;
        let state_dir = match (args.simulate, args.state_dir.clone()) {
            (true, dir) | (false, dir @ Some(_)) => dir,
            (false, None) => Some(settings.state_dir.clone().map_or_else(default_state_dir, Ok)?),
        };
        let journal = state_dir.as_deref().filter(|_| settings.journal).map(|dir| JournalPlan {
            // A rehearsal never touches the real one.
            path: dir.join(if args.simulate { "simulated.db" } else { "journal.db" }),
            identity: Identity { index, simulated: args.simulate },
            limits: Limits::new(settings.history),
        });
        let reader = Reader {
            dir: component::directory(args.config_dir.as_deref(), &settings, &lookup),
            site: component::site(&settings, &lookup),
            index,
            simulated: args.simulate,
        };
        let kafka = if kafka::is_wanted(&settings.kafka, args.kafka, &lookup) {
            match Options::new(&settings.kafka, &lookup) {
                Ok(options) => KafkaPlan::On(Box::new(options)),
                Err(Problem::NoSubname(text)) => KafkaPlan::Impossible(text),
                Err(Problem::Wrong(text)) => return Err(Failure::Configuration(text)),
            }
        } else {
            KafkaPlan::Off
        };
        let log_level = args.log_level.unwrap_or(settings.log.level);
        Ok(Self { config, settings, index, log_level, socket, state_dir, journal, reader, kafka })
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
        let access = Access::new(&self.settings.redis, &|name| env::var_os(name));
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
            job_command: uws.command.clone(),
            source_url: uws.source_url.clone(),
            commit_ref: uws.commit_ref.clone(),
            version_selects_image: uws.version_selects_image,
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

/// `$STATE_DIRECTORY` (systemd), `/var/lib/ocps` for root, `$XDG_STATE_HOME/ocps` for others.
fn default_state_dir() -> Result<PathBuf, Failure> {
    let lookup = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = lookup("STATE_DIRECTORY") {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ocps"));
    }
    lookup("XDG_STATE_HOME")
        .or_else(|| lookup("HOME").map(|home| home.join(".local").join("state")))
        .map(|state| state.join("ocps"))
        .ok_or_else(|| Failure::Other("no state directory: give --state-dir, or set HOME".to_owned()))
}
