//! The life of one job, as data. What moves it is in `submit`, `track` and `remove`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::command::Sender;
use super::event::ExitCode;
use super::id::{JobId, RunId};
use super::request::{JobStatus, Submission, Ticket};
use super::time::Tai;

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct Job {
    /// Whose execute it is.
    pub(super) sender: Sender,
    pub(super) submission: Arc<Submission>,
    /// Base URL of its service; a later configuration does not change it.
    pub(super) url: Arc<str>,
    pub(super) poll_interval: Duration,
    pub(super) accepted: Tai,
    pub(super) stage: Stage,
    /// When the sender is told again that it is in progress.
    pub(super) reminder: Option<Duration>,
    /// The last thing that went wrong with it, until something goes right.
    pub(super) problem: Option<String>,
}

/// Where a job is in its life.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its record is being made durable, until this time at most; nothing was sent yet.
    Recording { prereqs: Vec<JobId>, until: Duration },
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
    /// When the first of them failed or was unclear: `submit_timeout` runs from there.
    pub(super) trouble: Option<Duration>,
    /// Whether one that is over may have left a job that was not found.
    pub(super) doubtful: bool,
    /// From when on the first of them, perhaps of an earlier life, may be too long ago to send another.
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
    /// The world does not know the id yet.
    pub(super) untold: Option<Untold>,
}

/// An id that is told only when it is durable: whoever knows it may abort the job, over a restart too.
#[derive(Debug)]
pub(super) struct Untold {
    /// Not later than then.
    pub(super) until: Duration,
    /// What is known of the job besides.
    pub(super) status: Option<JobStatus>,
}

/// Regular questions about one job.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) step: PollStep,
    /// Answers in a row that were of no use.
    pub(super) misses: u32,
    /// When the last believable answer came (or the job was made).
    pub(super) believed: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PollStep {
    /// Ask at that time.
    Due(Duration),
    /// The answer is awaited.
    Asked(Ticket),
}

impl Poll {
    pub(super) fn new(now: Duration, first: Duration) -> Self {
        Self { step: PollStep::Due(first), misses: 0, believed: now }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        match self.step {
            PollStep::Due(time) => Some(time),
            PollStep::Asked(_) => None,
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
    pub(super) url: Arc<str>,
    pub(super) poll_interval: Duration,
    pub(super) poll: Poll,
}

impl Watch {
    pub(super) fn due(&self) -> Option<Duration> {
        self.poll.due()
    }
}

impl Job {
    /// When this job wants something done.
    pub(super) fn due(&self, settings: &Settings) -> Option<Duration> {
        let step = match &self.stage {
            Stage::Recording { .. } => self.recorded_by(),
            // A removal and the end of a prerequisite come by themselves.
            Stage::Waiting { .. } | Stage::Aborting { .. } => None,
            Stage::Submitting(submitting) => submitting.due(settings),
            Stage::Running(Running { untold: Some(_), .. }) => self.recorded_by(),
            Stage::Running(running) => running.poll.due(),
        };
        [step, self.reminder].into_iter().flatten().min()
    }

    /// When a record that it waits for must be durable.
    pub(super) fn recorded_by(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Recording { until, .. } => Some(*until),
            Stage::Running(running) => running.untold.as_ref().map(|untold| untold.until),
            Stage::Waiting { .. } | Stage::Submitting(_) | Stage::Aborting { .. } => None,
        }
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
    fn due(&self, settings: &Settings) -> Option<Duration> {
        match self.step {
            SubmitStep::Sending => None,
            SubmitStep::Pausing { until } => Some(until),
            SubmitStep::InDoubt { .. } => self.lost(settings),
        }
    }

    /// From when on nothing is sent any more.
    pub(super) fn expires(&self, settings: &Settings) -> Option<Duration> {
        self.trouble.map(|trouble| trouble + settings.submit_timeout)
    }

    /// From when on nothing is looked for any more: an attempt may end long after nothing more is sent,
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
    pub(super) job_id: Option<JobId>,
    pub(super) accepted: Tai,
    pub(super) ended: Tai,
    /// None: it was never submitted.
    pub(super) exit_code: Option<ExitCode>,
    pub(super) problem: Option<String>,
}
