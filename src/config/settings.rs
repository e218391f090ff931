//! The daemon's own settings: `ocps.toml`.

use std::path::PathBuf;
use std::time::Duration;

use crate::csc::id::SalIndex;

/// All settings of the daemon, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Our index, when the command line names none.
    pub index: Option<SalIndex>,
    /// Site, for `_<site>.yaml`.
    pub site: Option<String>,
    /// Directory of the component configuration.
    pub config_dir: Option<PathBuf>,
    /// Path of the local socket.
    pub socket: Option<PathBuf>,
    /// Directory of what must survive a restart.
    pub state_dir: Option<PathBuf>,
    /// The log.
    pub log: Log,
    /// The execution service.
    pub uws: Uws,
    /// The simulator.
    pub simulation: Simulation,
    /// Most jobs at once.
    pub max_jobs: usize,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least level that is logged, Python's number (10, 20, 30, 40).
    pub level: i32,
    /// Write the log there instead of standard error.
    pub file: Option<PathBuf>,
}

/// `[uws]`: how to talk to the execution service, and what to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Uws {
    /// Shell command of every job.
    pub command: String,
    /// Repository of the job scripts.
    pub source_url: String,
    /// Branch, tag or commit of the job scripts.
    pub commit_ref: String,
    /// Whether the version of an execute chooses the container image (`UWS_JOB_IMAGE_TAG`).
    pub version_selects_image: bool,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest PUT.
    pub put_timeout: Duration,
    /// Longest GET.
    pub get_timeout: Duration,
    /// Longest DELETE.
    pub delete_timeout: Duration,
    /// How long a submission is tried, from its first failed or unclear attempt.
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    pub settle_time: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    pub outage_limit: Duration,
    /// Polls at the same time (worker threads).
    pub connections: usize,
    /// HTTP proxy, if any.
    pub proxy: Option<String>,
}

/// `[simulation]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulation {
    /// Mean duration of a simulated job.
    pub mean_duration: Duration,
    /// Standard deviation of the duration.
    pub sigma: Duration,
    /// Seed of the durations; none: another one at each start.
    pub seed: Option<u64>,
}
