//! One job of ours, as data. What moves it is in `submit`, `track` and `removals`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::command::Sender;
use super::context::Context;
use super::event::{Ack, Phase};
use super::history::{History, NoteKind};
use super::id::{EntryKey, JobId, RunId};
use super::prerequisites::JobAt;
use super::record::{AcceptedCommand, Work};
use super::request::{Failure, FailureKind, Submission, Ticket};
use super::retry::Retry;
use super::time::Tai;
use super::timers::{Timed, Timer};

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct Job {
    /// The sender of its execute.
    pub(super) sender: Sender,
    pub(super) submission: Arc<Submission>,
    /// Base URL of its service; a later configuration does not change it.
    pub(super) url: Url,
    pub(super) accepted: Tai,
    pub(super) stage: Stage,
    /// Its phase at the service, as of the last answer.
    pub(super) phase: Option<Phase>,
    /// Prerequisites that do not exist.
    pub(super) missing_prereqs: Vec<JobId>,
    /// When the sender is reminded that it is in progress.
    pub(super) reminder: Option<Duration>,
    /// The last thing that went wrong with it, until something goes right.
    pub(super) problem: Option<String>,
    /// Whether the log has a line of something that went wrong with it, since its submission or since it exists.
    pub(super) trouble_logged: bool,
    pub(super) history: History,
}

/// How far a job is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its record is being made durable; nothing was sent yet.
    Recording { prereqs: Vec<JobId> },
    /// It waits for these jobs to end.
    Waiting {
        prereqs: BTreeSet<JobAt>,
        /// Of a job of a previous run, which may have sent it: the real time from which on that may be too long ago to
        /// send it again.
        stale_at: Option<Duration>,
    },
    /// The service is asked to create it.
    Submitting(Submitting),
    /// It exists and is polled.
    Running { job_id: JobId },
    /// It is being removed; the rest is in the removal of this id.
    Aborting { job_id: JobId },
}

/// A submission in progress.
#[derive(Debug)]
pub(super) struct Submitting {
    /// PUTs sent, the present one included.
    pub(super) attempts: u32,
    /// How many of them the service refused.
    pub(super) refusals: u32,
    /// When the last of them was sent.
    pub(super) sent: Duration,
    /// When the time to submit is over; set by the first attempt that failed or was unclear. An attempt that is made later
    /// is the last.
    pub(super) expires: Option<Duration>,
    /// Whether an earlier attempt may have left a job that no list has shown.
    pub(super) doubtful: bool,
    /// From this real time on the first attempt, perhaps of a previous run, is too long ago to send another.
    pub(super) stale_at: Duration,
    /// When the next PUT is due; none while one is in flight, and while the job may exist.
    pub(super) retry: Retry,
    /// Set while the job may exist.
    pub(super) doubt: Option<Doubt>,
}

/// A job that may exist: it is looked for in the service's list before anything else.
#[derive(Debug)]
pub(super) struct Doubt {
    /// The last request before the doubt: only a list that is asked for later counts.
    pub(super) after: Ticket,
    /// When the first such list was answered.
    pub(super) listed: Option<Duration>,
    /// Why the attempt failed.
    pub(super) failure: Failure,
    /// If a list that is asked for from this time on fails, the submission is given up. An attempt that ends long after
    /// the time to submit is over is looked up all the same.
    pub(super) lost: Duration,
    /// Whether that list was asked for.
    pub(super) is_last: bool,
}

impl Timed for Job {
    type Key = EntryKey;

    const TIMER: fn(EntryKey) -> Timer = Timer::Job;

    fn due(&self) -> Option<Duration> {
        let step = match &self.stage {
            // The journal, a prerequisite, a poll or a removal moves it on.
            Stage::Recording { .. }
            | Stage::Waiting { .. }
            | Stage::Running { .. }
            | Stage::Aborting { .. } => None,
            Stage::Submitting(Submitting { doubt: Some(doubt), .. }) => {
                (!doubt.is_last).then_some(doubt.lost)
            }
            Stage::Submitting(submitting) => submitting.retry.due,
        };
        [step, self.reminder].into_iter().flatten().min()
    }
}

impl Job {
    /// The job of an execute that was accepted; none for another command.
    pub(super) fn of(entry: &AcceptedCommand) -> Option<Self> {
        let Work::Execute { submission, url, prereqs, .. } = &entry.work else { return None };
        Some(Self {
            sender: entry.sender.clone(),
            submission: Arc::clone(submission),
            url: url.clone(),
            accepted: entry.accepted,
            stage: Stage::Recording { prereqs: prereqs.clone() },
            phase: None,
            missing_prereqs: Vec::new(),
            reminder: None,
            problem: None,
            trouble_logged: false,
            history: History::default(),
        })
    }

    pub(super) fn job_id(&self) -> Option<&JobId> {
        match &self.stage {
            Stage::Running { job_id } | Stage::Aborting { job_id } => Some(job_id),
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Submitting(_) => None,
        }
    }

    /// The ack that tells the sender that its job exists and has not ended.
    pub(super) fn in_progress(&self) -> Option<Ack> {
        let missing_prereqs = self.missing_prereqs.clone();
        self.job_id().cloned().map(|job_id| Ack::InProgress { job_id, missing_prereqs })
    }

    pub(super) fn run_id(&self) -> &RunId {
        &self.submission.run_id
    }

    pub(super) fn submitting(&self) -> Option<&Submitting> {
        let Stage::Submitting(submitting) = &self.stage else { return None };
        Some(submitting)
    }

    pub(super) fn submitting_mut(&mut self) -> Option<&mut Submitting> {
        let Stage::Submitting(submitting) = &mut self.stage else { return None };
        Some(submitting)
    }

    /// The service says that it is in this phase: nothing is wrong with it. Another phase is noted, unless it is final,
    /// since the end of the job says it.
    pub(super) fn set_phase(&mut self, ctx: &mut Context, key: EntryKey, phase: Phase) {
        self.problem = None;
        let before = self.phase.replace(phase).unwrap_or(Phase::Pending);
        if phase != before && phase.exit_code().is_none() {
            self.history.note(ctx, key, NoteKind::Phase, phase.as_str());
        }
    }

    /// Notes why an attempt to submit it failed.
    pub(super) fn note_failure(
        &mut self,
        ctx: &mut Context,
        key: EntryKey,
        kind: FailureKind,
        reason: String,
    ) {
        let what = match kind {
            FailureKind::NotSent => "did not reach the service",
            FailureKind::Unclear => "may have reached the service",
            FailureKind::Refused => "was refused",
            FailureKind::NotNow | FailureKind::Rejected => "is not possible now",
            FailureKind::Wrong => "got an answer that cannot be right",
        };
        self.history.note(ctx, key, NoteKind::SubmissionFailed, &format!("{what}: {reason}"));
        self.problem = Some(reason);
    }
}

impl Doubt {
    /// Whether a list may show the job only after a while. Otherwise one list is enough, since the service said that it
    /// refused.
    pub(super) fn may_show_up_late(&self) -> bool {
        match self.failure.kind {
            FailureKind::Unclear | FailureKind::Wrong | FailureKind::NotSent => true,
            FailureKind::Refused | FailureKind::NotNow | FailureKind::Rejected => false,
        }
    }
}

impl Submitting {
    /// Whether the last attempt was made when the time to submit was over.
    pub(super) fn was_last(&self) -> bool {
        self.expires.is_some_and(|expires| self.sent >= expires)
    }
}
