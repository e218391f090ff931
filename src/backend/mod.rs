//! What runs pipelines. A back-end knows how to ask a service; it knows nothing of commands or summary states.

pub mod lanes;
pub mod rapid_analysis;
pub mod simulated;
pub mod uws;
pub mod workers;

use std::time::Duration;

use crate::csc::id::{JobId, RunId};
use crate::csc::request::{
    Action, Answer, Failure, JobStatus, Listed, RemoveAnswer, StatusAnswer, Submission, Wanted,
};
use crate::lease;
use crate::url::Url;

/// Something that runs jobs, or pushes values to Redis lists. The core asks only for what the back-end offers.
///
/// One value is shared by all worker threads. Each request blocks, but never longer than the back-end's timeouts
/// allow, and never panics, whatever the service answers.
pub trait Backend: Send + Sync {
    /// Creates a job.
    ///
    /// # Errors
    /// No job is known to exist.
    fn submit(&self, _url: &Url, _submission: &Submission) -> Result<JobStatus, Failure> {
        Err(not_offered())
    }

    /// Asks how a job is; with a run id the job must be of that run.
    ///
    /// # Errors
    /// There was no valid answer.
    fn status(&self, _url: &Url, _job_id: &JobId, _run_id: Option<&RunId>) -> Result<StatusAnswer, Failure> {
        Err(not_offered())
    }

    /// Aborts a job and removes it.
    ///
    /// # Errors
    /// It is not known that the job is gone.
    fn remove(&self, _url: &Url, _job_id: &JobId) -> Result<RemoveAnswer, Failure> {
        Err(not_offered())
    }

    /// Looks for jobs in the service's list.
    ///
    /// # Errors
    /// There was no valid answer.
    fn list(&self, _url: &Url, _wanted: &Wanted) -> Result<Listed, Failure> {
        Err(not_offered())
    }

    /// Pushes the values of a Rapid Analysis command to their lists within this time: all of them or none.
    ///
    /// # Errors
    /// They are not known to be pushed.
    fn push(&self, _config: &str, _patience: Duration) -> Result<(), Failure> {
        Err(not_offered())
    }

    /// A `start` has applied this URL. Jobs of previous runs at the same host use its credentials, since the journal keeps
    /// none.
    fn configured(&self, _url: &Url) {}

    /// Asks whether the back-end can be used.
    ///
    /// # Errors
    /// It cannot.
    fn ping(&self, url: &Url) -> Result<(), Failure>;

    /// Carries out one request at the service of that base URL.
    fn perform(&self, url: &Url, action: &Action) -> Answer {
        match action {
            Action::Submit(submission) => Answer::Submit(self.submit(url, submission)),
            Action::Status { job_id, run_id } => Answer::Status(self.status(url, job_id, run_id.as_ref())),
            Action::Remove { job_id } => Answer::Remove(self.remove(url, job_id)),
            Action::List(wanted) => Answer::List(self.list(url, wanted)),
            Action::Push { config, patience } => Answer::Push(self.push(config, *patience)),
            Action::Ping => Answer::Ping(self.ping(url)),
        }
    }
}

fn not_offered() -> Failure {
    Failure::not_sent("this back-end does not offer that".to_owned())
}

/// Why a change is not sent: another instance may have taken over and change the same things.
fn withheld() -> Failure {
    let seconds = lease::TERM.as_secs();
    Failure::not_sent(format!(
        "not sent: the journal has not confirmed for {seconds} s that no other instance has taken over"
    ))
}
