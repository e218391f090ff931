//! What the core asks of a back-end, and the answers.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::command::Execute;
use super::configuration::Service;
use super::event::{JobObject, Phase};
use super::id::{Fingerprint, JobId, RunId, SalIndex};

/// Identifies one request; a later request has a higher ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One request to a back-end.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Base URL of the service, without a trailing slash; empty in simulation.
    pub url: Url,
    /// What to do.
    pub action: Action,
}

/// What a back-end can do; each action has its own kind of [`Answer`].
#[derive(Clone, Debug, PartialEq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Action {
    /// Create a job.
    Submit(Arc<Submission>),
    /// Ask how a job is.
    Status {
        /// The job.
        job_id: JobId,
        /// Its run id if the job is ours: an answer with another one is wrong.
        run_id: Option<RunId>,
    },
    /// Abort a job and remove it.
    Remove {
        /// The job.
        job_id: JobId,
    },
    /// Push the values of a Rapid Analysis command to their lists: all of them or none.
    Push {
        /// The `config` of the command, as it was written.
        config: Arc<str>,
        /// How long this may take.
        patience: Duration,
    },
    /// Ask whether the back-end can be used: its settings, its connection, its password. Of a job service only
    /// whether it answers.
    Ping,
    /// Look for jobs in the service's list.
    List(Wanted),
}

/// Which jobs are taken from a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Jobs with these run ids.
    pub run_ids: Arc<BTreeSet<RunId>>,
    /// Jobs whose job ids have these fingerprints.
    pub job_ids: Arc<HashSet<Fingerprint>>,
    /// Besides these, all jobs that have not ended and whose run ids were made for this index.
    pub active_of: Option<SalIndex>,
}

impl Wanted {
    /// Whether a job of this run and in this phase is wanted, whatever its job id.
    #[must_use]
    pub fn wants_run(&self, run_id: &str, phase: Phase) -> bool {
        let made_for = || Some(RunId::parse(run_id)?.made_for()?.1);
        self.run_ids.contains(run_id)
            || (self.active_of.is_some() && phase.exit_code().is_none() && made_for() == self.active_of)
    }

    /// Takes from all jobs of a service those that are wanted.
    pub fn pick(&self, jobs: impl IntoIterator<Item = ListedJob>) -> Listed {
        let mut listed = Listed::default();
        for job in jobs {
            listed.note(self, job.job_id.fingerprint(), Shown { phase: job.phase, ended: job.ended });
            if self.wants_run(job.run_id.as_str(), job.phase) {
                listed.jobs.push(job);
            }
        }
        listed
    }
}

impl Action {
    /// Whether it changes something at the service.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Submit(_) | Self::Remove { .. } | Self::Push { .. } => true,
            Self::Status { .. } | Self::List(_) | Self::Ping => false,
        }
    }

    /// The answer that says that this action failed.
    pub fn failed(&self, failure: Failure) -> Answer {
        match self {
            Self::Submit(_) => Answer::Submit(Err(failure)),
            Self::Status { .. } => Answer::Status(Err(failure)),
            Self::Remove { .. } => Answer::Remove(Err(failure)),
            Self::List(_) => Answer::List(Err(failure)),
            Self::Push { .. } => Answer::Push(Err(failure)),
            Self::Ping => Answer::Ping(Err(failure)),
        }
    }
}

/// What the back-end submits for an execute; it depends only on the back-end's settings and these arguments.
pub trait Payload: fmt::Debug + Send + Sync {
    /// The job as it is to be submitted.
    fn submission(&self, service: &Service, run_id: RunId, execute: &Execute) -> Submission;
}

/// A job as it is to be submitted: everything that the back-end's request says, fixed when the command was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Our unique key for it.
    pub run_id: RunId,
    /// The shell command that the job runs.
    pub command: String,
    /// Repository of the job scripts.
    pub source_url: String,
    /// Branch, tag or commit of the job scripts.
    pub commit_ref: String,
    /// The job's environment, in this order; values are plain text, not yet escaped for any wire.
    pub environment: Vec<(Cow<'static, str>, String)>,
    /// The pipeline, also named in the environment.
    pub pipeline: String,
}

impl Submission {
    /// The value of a variable of the job's environment; empty if it is not set.
    pub fn variable(&self, name: &str) -> &str {
        self.environment.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The ticket of the request.
    pub ticket: Ticket,
    /// How long the back-end took for it, without the time in which it waited for a thread.
    pub took: Duration,
    /// The answer.
    pub answer: Answer,
}

/// The result of an action. A wrong answer of the service is a [`Failure`].
#[derive(Clone, Debug, PartialEq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Answer {
    /// The new job.
    Submit(Result<JobStatus, Failure>),
    /// How the job is.
    Status(Result<StatusAnswer, Failure>),
    /// Whether the job was there to be removed.
    Remove(Result<RemoveAnswer, Failure>),
    /// The jobs asked for that are there.
    List(Result<Listed, Failure>),
    /// Whether the values were pushed.
    Push(Result<(), Failure>),
    /// Whether the back-end can be used.
    Ping(Result<(), Failure>),
}

impl Answer {
    /// What it shows about the service: whether it gave a valid answer. None if the back-end decided without it.
    pub fn of_service(&self) -> Option<Result<(), &Failure>> {
        match self {
            Self::Status(Ok(StatusAnswer::Broken { .. })) => None,
            Self::Submit(Ok(_)) | Self::Status(Ok(_)) | Self::Remove(Ok(_)) | Self::List(Ok(_)) => {
                Some(Ok(()))
            }
            Self::Push(Ok(())) | Self::Ping(Ok(())) => Some(Ok(())),
            Self::Submit(Err(failure))
            | Self::Status(Err(failure))
            | Self::Remove(Err(failure))
            | Self::List(Err(failure))
            | Self::Push(Err(failure))
            | Self::Ping(Err(failure)) => (failure.kind != FailureKind::Rejected).then_some(Err(failure)),
        }
    }
}

/// How a job is.
#[derive(Clone, Debug, PartialEq)]
pub enum StatusAnswer {
    /// It is there.
    Job(JobStatus),
    /// There is no such job.
    Gone,
    /// The back-end itself broke down and the job is lost (simulator only).
    Broken {
        /// What happened, for the `errorCode` event and the ack.
        report: String,
    },
}

/// The result of the removal of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoveAnswer {
    /// The job is aborted and removed.
    Removed {
        /// A job object to report, if the back-end has one.
        object: Option<JobObject>,
    },
    /// There is no such job.
    Gone,
}

/// A job as the service reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobStatus {
    /// Its id.
    pub job_id: JobId,
    /// Its phase.
    pub phase: Phase,
    /// The whole object of a job that has ended; that of another one is not needed, and may be empty.
    pub object: JobObject,
}

/// What a list shows of the jobs that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The jobs that were asked for by their job ids, by the fingerprints of those. The order of its elements means nothing.
    pub named: Named,
    /// The other jobs that were asked for, and of the named ones those whose run was asked for too.
    pub jobs: Vec<ListedJob>,
}

impl Listed {
    /// The list shows a job so: takes it if it was asked for by its job id. Of two with one id the first counts.
    pub fn note(&mut self, wanted: &Wanted, id: Fingerprint, shown: Shown) {
        if wanted.job_ids.contains(&id) {
            self.named.entry(id).or_insert(shown);
        }
    }
}

/// Jobs by the fingerprints of their job ids.
pub type Named = HashMap<Fingerprint, Shown, BuildHasherDefault<DefaultHasher>>;

/// How a list shows a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its phase.
    pub phase: Phase,
    /// When it ended, in seconds of the service's clock, if the list says so.
    pub ended: Option<i64>,
}

impl Shown {
    /// Its phase, unless it has ended.
    pub fn active(&self) -> Option<Phase> {
        Some(self.phase).filter(|phase| phase.exit_code().is_none())
    }
}

/// A job in the service's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedJob {
    /// Its id.
    pub job_id: JobId,
    /// Its run id.
    pub run_id: RunId,
    /// Its phase.
    pub phase: Phase,
    /// When it ended, in seconds of the service's clock, if the list says so.
    pub ended: Option<i64>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What the request may have done.
    pub kind: FailureKind,
    /// What it shows about the service.
    pub contact: Contact,
    /// What happened, in one line.
    pub reason: String,
}

impl Failure {
    /// Of a request that was not sent; the service was not asked.
    pub fn not_sent(reason: String) -> Self {
        Self { kind: FailureKind::NotSent, contact: Contact::NotAsked, reason }
    }

    /// Of a submission or a push that can never be done as it is: why, for the ack.
    pub fn rejected(reason: String) -> Self {
        Self { kind: FailureKind::Rejected, contact: Contact::NotAsked, reason }
    }
}

/// What a failed request may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum FailureKind {
    /// A submission or a push can never be done as it is: to try it again is useless. Nothing was sent.
    Rejected,
    /// Nothing reached the service.
    NotSent,
    /// It may have been carried out, or may be later.
    Unclear,
    /// The service refused. A submission that it refused has made no job.
    Refused,
    /// The service or a gateway says that it cannot be done now; as far as is known it was not carried out.
    NotNow,
    /// The answer is not valid.
    Wrong,
}

/// What a failed request shows about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing: the service was not asked.
    NotAsked,
    /// The service answered, if only to refuse.
    Answered,
    /// The service is away: no connection, no answer in time, or a server error to a plain question.
    Silent,
}
