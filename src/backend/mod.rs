//! What runs pipelines. A back-end knows how to ask a service; it knows nothing of commands or summary states.

pub mod lanes;
pub mod rapid_analysis;
pub mod simulated;
pub mod uws;
pub mod workers;

use crate::csc::request::{Action, Answer};
use crate::url::Url;

/// Something that runs jobs.
///
/// One value is shared by all worker threads.
pub trait Backend: Send + Sync {
    /// Carries out one request at the service of that base URL.
    ///
    /// Blocks, but never longer than the back-end's timeouts allow. Never panics:
    /// whatever the service answers becomes an [`Answer`].
    fn perform(&self, url: &Url, action: &Action) -> Answer;
}
