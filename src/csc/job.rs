//! The life of one job, as data. What moves it is in `submit`, `track` and `remove`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::Settings;
use super::command::Sender;
use super::event::{ExitCode, Phase};
use super::id::{JobId, RunId};
use super::record::End;
use super::report::{JobOutcome, beginning};
use super::request::{Contact, Submission, Ticket};
use super::time::Tai;

/// How soon a job is asked for again that the service does not know.
const ABSENT_AGAIN: Duration = Duration::from_secs(3);
/// So many such answers are believed without a list.
pub(super) const ABSENCES_MAX: u32 = 8;

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct Job {
    /// Whose execute it is.
    pub(super) sender: Sender,
    pub(super) submission: Arc<Submission>,
    /// Base URL of its service; a later configuration does not change it.
    pub(super) url: Url,
    pub(super) poll_interval: Duration,
    pub(super) accepted: Tai,
    pub(super) stage: Stage,
    /// Its phase at the service, as of the last answer.
    pub(super) phase: Option<Phase>,
    /// Prerequisites that do not exist.
    pub(super) missing_prereqs: Vec<JobId>,
    /// When the sender is told again that it is in progress.
    pub(super) reminder: Option<Duration>,
    /// The last thing that went wrong with it, until something goes right.
    pub(super) problem: Option<String>,
    /// Whether the log has a line of something that went wrong with it, since its submission or since it exists.
    pub(super) trouble_logged: bool,
}

/// Where a job is in its life.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its record is being made durable; nothing was sent yet.
    Recording { prereqs: Vec<JobId> },
    /// It waits for these jobs to end.
    Waiting { prereqs: BTreeSet<JobId>, origin: Origin },
    /// The service is asked to create it.
    Submitting(Submitting),
    /// It exists and is polled.
    Running(Running),
    /// It is being removed; the rest is in the removal of this id.
    Aborting { job_id: JobId },
}

/// Since when a job is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This life: nothing was sent for it before.
    Accepted,
    /// An earlier life, which may have sent it.
    Recovered {
        /// From when on that may be too long ago for it to be sent again.
        stale_at: Duration,
    },
}

/// A submission under way.
#[derive(Debug)]
pub(super) struct Submitting {
    /// PUTs sent, the present one included.
    pub(super) attempts: u32,
    /// How many of them the service refused.
    pub(super) refusals: u32,
    /// When the last of them was sent.
    pub(super) sent: Duration,
    /// When the first of them failed or was unclear: `submit_timeout` runs from there.
    pub(super) trouble: Option<Duration>,
    /// Whether one that is over may have left a job that was not found.
    pub(super) doubtful: bool,
    /// From this time on the first attempt, perhaps of a previous run, is too long ago to send another.
    pub(super) stale_at: Duration,
    pub(super) step: SubmitStep,
}

#[derive(Debug)]
pub(super) enum SubmitStep {
    /// A PUT is on its way.
    Sending,
    /// Nothing reached the service; try again at that time.
    Pausing { until: Duration },
    /// The job may exist: it is looked for in the service's list.
    InDoubt {
        /// When the unclear attempt ended.
        ended: Duration,
        /// The last request before that: only lists asked for later count.
        after: Ticket,
        /// When the first such list was answered.
        listed: Option<Duration>,
        look: Look,
        /// Whether it was the service that answered the attempt.
        contact: Contact,
    },
}

/// How long to look for a job that may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// One list is enough: the service said that it refused.
    Once,
    /// As long as a job may take to show up.
    Settle,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) job_id: JobId,
    pub(super) poll: Poll,
    /// Whether its id is published.
    pub(super) is_announced: bool,
}

/// Regular questions about one job.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) step: PollStep,
    /// Answers in a row that were of no use.
    pub(super) misses: u32,
    /// When the last believable answer came (or we began to ask).
    pub(super) believed: Duration,
    /// When the service last showed that the job is there.
    pub(super) seen: Option<Duration>,
    /// Answers in a row that there is no such job.
    pub(super) absences: u32,
}

/// What follows when the service says that there is no such job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is asked again.
    Again,
    /// The list decides.
    Listed,
    /// It is so: no list could be had for too long.
    Certain,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PollStep {
    /// Ask at that time.
    Due(Duration),
    /// The answer is awaited.
    Asked(Ticket),
    /// The service says that there is no such job: the next list that is asked for after this decides.
    Missing { after: Ticket },
}

impl Poll {
    /// Of a job of which nothing was heard yet.
    pub(super) fn new(now: Duration, first: Duration) -> Self {
        Self { step: PollStep::Due(first), misses: 0, believed: now, seen: None, absences: 0 }
    }

    /// Of a job that is there.
    pub(super) fn seen(now: Duration, next: Duration) -> Self {
        Self { seen: Some(now), ..Self::new(now, next) }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        match self.step {
            PollStep::Due(time) => Some(time),
            PollStep::Asked(_) | PollStep::Missing { .. } => None,
        }
    }

    /// The service says that there is no such job.
    pub(super) fn absent(&mut self, now: Duration, after: Ticket) -> Absence {
        self.misses = 0;
        self.absences += 1;
        match self.absences {
            1 => {
                self.step = PollStep::Due(now + ABSENT_AGAIN);
                Absence::Again
            }
            ABSENCES_MAX.. => Absence::Certain,
            _ => {
                self.step = PollStep::Missing { after };
                Absence::Listed
            }
        }
    }

    /// Whether this list decides if the job is there.
    pub(super) fn is_decided_by(&self, list: Ticket) -> bool {
        match self.step {
            PollStep::Missing { after } => list > after,
            PollStep::Due(_) | PollStep::Asked(_) => false,
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        match self.step {
            PollStep::Missing { .. } => true,
            PollStep::Due(_) | PollStep::Asked(_) => false,
        }
    }

    /// Asks at `time`, if it would have been later, and then at its normal pace.
    pub(super) fn hurry(&mut self, time: Duration) {
        self.misses = 0;
        self.not_later_than(time);
    }

    /// Asks at `time`, if it would have been later.
    pub(super) fn not_later_than(&mut self, time: Duration) {
        if let PollStep::Due(due) = &mut self.step {
            *due = time.min(*due);
        }
    }
}

/// A job of somebody else that one of ours waits for.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) url: Url,
    pub(super) poll_interval: Duration,
    pub(super) poll: Poll,
    /// Whether the log has a line of something that went wrong with it.
    pub(super) trouble_logged: bool,
}

impl Watch {
    pub(super) fn due(&self) -> Option<Duration> {
        self.poll.due()
    }
}

impl Job {
    /// When this job wants something done.
    pub(super) fn due(&self) -> Option<Duration> {
        let step = match &self.stage {
            // The journal, a removal and the end of a prerequisite come by themselves.
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Aborting { .. } => None,
            Stage::Submitting(submitting) => submitting.due(),
            Stage::Running(Running { is_announced: false, .. }) => None,
            Stage::Running(running) => running.poll.due(),
        };
        [step, self.reminder].into_iter().flatten().min()
    }

    pub(super) fn job_id(&self) -> Option<&JobId> {
        match &self.stage {
            Stage::Running(Running { job_id, .. }) | Stage::Aborting { job_id } => Some(job_id),
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Submitting(_) => None,
        }
    }

    pub(super) fn run_id(&self) -> &RunId {
        &self.submission.run_id
    }
}

impl Submitting {
    fn due(&self) -> Option<Duration> {
        match self.step {
            SubmitStep::Pausing { until } => Some(until),
            // A list comes by itself.
            SubmitStep::Sending | SubmitStep::InDoubt { .. } => None,
        }
    }

    /// Until when it is tried: only an attempt that is made later may be the last.
    pub(super) fn expires(&self, settings: &Settings) -> Option<Duration> {
        self.trouble.map(|trouble| trouble + settings.submit_timeout)
    }

    /// Whether the last attempt was made when the time was over.
    pub(super) fn was_last(&self, settings: &Settings) -> bool {
        self.expires(settings).is_some_and(|expires| self.sent >= expires)
    }

    /// From when on it is given up if the list cannot be had: an attempt may end long after nothing more is sent,
    /// and is looked up all the same.
    pub(super) fn lost(&self, settings: &Settings) -> Option<Duration> {
        match self.step {
            SubmitStep::InDoubt { ended, .. } => {
                self.expires(settings).map(|expires| expires.max(ended) + settings.settle_time)
            }
            SubmitStep::Sending | SubmitStep::Pausing { .. } => None,
        }
    }
}

/// A job that has ended, for the history.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) sender: Sender,
    pub(super) run_id: RunId,
    pub(super) pipeline: String,
    pub(super) version: String,
    pub(super) data_query: String,
    pub(super) job_id: Option<JobId>,
    pub(super) accepted: Tai,
    pub(super) ended: Tai,
    /// None: it was never submitted.
    pub(super) exit_code: Option<ExitCode>,
    pub(super) outcome: JobOutcome,
    /// Why it ended so; none if it completed.
    pub(super) reason: Option<String>,
}

impl Ended {
    /// What the history keeps of an execute.
    pub(super) fn new(
        sender: &Sender,
        submission: &Submission,
        job_id: Option<JobId>,
        accepted: Tai,
        end: &End,
    ) -> Self {
        Self {
            sender: sender.clone(),
            run_id: submission.run_id.clone(),
            pipeline: beginning(&submission.pipeline),
            version: beginning(submission.version()),
            data_query: beginning(submission.data_query()),
            job_id,
            accepted,
            ended: end.at,
            exit_code: end.result.as_ref().map(|result| result.exit_code),
            outcome: JobOutcome::of(end),
            reason: end.problem.clone(),
        }
    }
}

/// For the log.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender, run_id, pipeline, version, data_query, job_id, outcome, reason, .. } = self;
        match job_id {
            Some(job_id) => write!(f, "job {job_id} of run {run_id}")?,
            None => write!(f, "run {run_id}")?,
        }
        write!(f, " {}", outcome.as_str())?;
        if let Some(reason) = reason {
            write!(f, ": {reason}")?;
        }
        write!(f, "; pipeline {pipeline}")?;
        for (name, value) in [("version", version), ("data_query", data_query)] {
            if !value.is_empty() {
                write!(f, ", {name} {value}")?;
            }
        }
        write!(f, ", for {}", sender.identity)
    }
}
