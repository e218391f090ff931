//! An answer of a service to any request; only one that fits the request can be given.

use ocps::csc::event::JobObject;
use ocps::csc::request::{
    Action, Answer, Failure, FailureKind, JobStatus, ListedJob, RemoveAnswer, StatusAnswer,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Job(JobStatus),
    Gone,
    Removed { object: Option<JobObject> },
    Listed(Vec<ListedJob>),
    Done,
    Rejected { reason: String },
    Broken { report: String },
    Failed(Failure),
}

impl Reply {
    /// The answer to this request, if it is one.
    pub fn to(self, action: &Action) -> Option<Answer> {
        let answer = match (action, self) {
            (action, Self::Failed(failure)) => action.failed(failure),
            (Action::Submit(_), Self::Job(job)) => Answer::Submit(Ok(job)),
            (Action::Submit(_), Self::Rejected { reason }) => Answer::Submit(Err(Failure::rejected(reason))),
            (Action::Status { .. }, Self::Job(job)) => Answer::Status(Ok(StatusAnswer::Job(job))),
            (Action::Status { .. }, Self::Gone) => Answer::Status(Ok(StatusAnswer::Gone)),
            (Action::Status { .. }, Self::Broken { report }) => {
                Answer::Status(Ok(StatusAnswer::Broken { report }))
            }
            (Action::Remove { .. }, Self::Gone) => Answer::Remove(Ok(RemoveAnswer::Gone)),
            (Action::Remove { .. }, Self::Removed { object }) => {
                Answer::Remove(Ok(RemoveAnswer::Removed { object }))
            }
            (Action::List(wanted), Self::Listed(jobs)) => Answer::List(Ok(wanted.pick(jobs))),
            (Action::Push { .. }, Self::Done) => Answer::Push(Ok(())),
            (Action::Push { .. }, Self::Rejected { reason }) => Answer::Push(Err(Failure::rejected(reason))),
            (Action::Ping, Self::Done) => Answer::Ping(Ok(())),
            _ => return None,
        };
        Some(answer)
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Submit(Ok(job)) | Answer::Status(Ok(StatusAnswer::Job(job))) => Self::Job(job),
            Answer::Status(Ok(StatusAnswer::Gone)) | Answer::Remove(Ok(RemoveAnswer::Gone)) => Self::Gone,
            Answer::Status(Ok(StatusAnswer::Broken { report })) => Self::Broken { report },
            Answer::Remove(Ok(RemoveAnswer::Removed { object })) => Self::Removed { object },
            Answer::List(Ok(listed)) => Self::Listed(listed.jobs),
            Answer::Push(Ok(())) | Answer::Ping(Ok(())) => Self::Done,
            Answer::Submit(Err(Failure { kind: FailureKind::Rejected, reason, .. }))
            | Answer::Push(Err(Failure { kind: FailureKind::Rejected, reason, .. })) => {
                Self::Rejected { reason }
            }
            Answer::Submit(Err(failure))
            | Answer::Push(Err(failure))
            | Answer::Status(Err(failure))
            | Answer::Remove(Err(failure))
            | Answer::List(Err(failure))
            | Answer::Ping(Err(failure)) => Self::Failed(failure),
        }
    }
}

/// The failure of the request that has this answer.
pub fn failed_instead(answer: &Answer, failure: Failure) -> Answer {
    match answer {
        Answer::Submit(_) => Answer::Submit(Err(failure)),
        Answer::Status(_) => Answer::Status(Err(failure)),
        Answer::Remove(_) => Answer::Remove(Err(failure)),
        Answer::List(_) => Answer::List(Err(failure)),
        Answer::Push(_) => Answer::Push(Err(failure)),
        Answer::Ping(_) => Answer::Ping(Err(failure)),
    }
}
