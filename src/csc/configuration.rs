//! The component configuration, as far as the core needs it.

use std::time::Duration;

use crate::url::Url;

/// Shortest time between polls; a shorter one would leave time for nothing else.
pub const POLL_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Longest time between polls; a longer one is a typing error.
pub const POLL_INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How jobs are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Each job by a request of its own.
    Each,
    /// All jobs of a service by its list.
    List,
    /// By list if that costs less than a request for each job.
    Auto {
        /// The least number of jobs that are polled by list.
        from: usize,
    },
}

/// The execution service as the component configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Base URL, without a trailing slash; empty in simulation.
    pub url: Url,
    /// Time between polls of a job.
    pub poll_interval: Duration,
    /// Butler repository, if configured.
    pub butler: Option<String>,
    /// Default input collection, if configured.
    pub input_collection: Option<String>,
    /// Output dataset types of jobs that name none, if configured.
    pub output_glob: Option<String>,
}

/// What `start` reads: the service, and what `configurationApplied` says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The service for our index.
    pub service: Service,
    /// Names of the files read, comma-joined.
    pub files: String,
    /// `git describe` of the directory, or empty.
    pub version: String,
    /// The directory as a file URI, or empty.
    pub directory_url: String,
}
