//! Announcements: what waits until a record is durable. A command is carried out, the id of a job published, and the
//! end of a command published and acked only then.
//!
//! While the journal cannot be written, or hangs for longer than [`RECORDING_MAX`], commands that are not durable are
//! refused, and the rest is announced without it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::command::{CommandName, Sender};
use super::context::Context;
use super::event::{Ack, ErrorCode, Event, JobResult};
use super::id::{EntryKey, JobId};
use super::job::{Job, Stage};
use super::record::{Awaited, Completion, Deliverable, Receipt, Record};
use super::request::JobStatus;
use super::{Csc, Effect, RunState};

/// How long a record is waited for: a commit takes milliseconds, a hanging disk for ever.
const RECORDING_MAX: Duration = Duration::from_secs(10);

/// What happens when a record is durable.
#[derive(Debug)]
pub(super) enum Announcement {
    /// The command is carried out.
    Accepted,
    /// The id of its job is published: whoever knows it may abort the job, over a restart too. With what is known of
    /// the job besides.
    JobId(Option<JobStatus>),
    /// Its result and final ack are published, so that no crash can make it end in another way.
    Completion(Box<PendingCompletion>),
}

/// How a command ended, which is not published yet.
#[derive(Debug)]
pub(super) struct PendingCompletion {
    sender: Sender,
    name: CommandName,
    end: Completion,
}

/// Records that are not durable yet.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    waiting: HashMap<Awaited, Announcement>,
    /// Until when each is waited for; the first is always waited for.
    order: VecDeque<(Duration, Awaited)>,
    /// The commands whose results wait, by their jobs.
    results: HashMap<JobId, EntryKey>,
}

impl Announcements {
    fn add(&mut self, ctx: &Context, awaited: Awaited, announcement: Announcement) {
        self.waiting.insert(awaited, announcement);
        self.order.push_back((ctx.now.mono + RECORDING_MAX, awaited));
    }

    /// The command is carried out when [`Record::Accepted`] is durable.
    pub(super) fn accept(&mut self, ctx: &Context, key: EntryKey) {
        self.add(ctx, Awaited::Accepted(key), Announcement::Accepted);
    }

    /// Records the job of an execute; its id is published when that is durable.
    pub(super) fn create(
        &mut self,
        ctx: &mut Context,
        key: EntryKey,
        job_id: JobId,
        status: Option<JobStatus>,
    ) {
        ctx.journal(Record::Created { key, job_id });
        self.add(ctx, Awaited::Created(key), Announcement::JobId(status));
    }

    /// Records the end of a command.
    fn complete(&mut self, ctx: &mut Context, key: EntryKey, completion: PendingCompletion) {
        ctx.journal(Record::Ended { key, end: Box::new(completion.end.clone()) });
        self.results.extend(completion.end.result.as_ref().map(|result| (result.job_id.clone(), key)));
        self.add(ctx, Awaited::Ended(key), Announcement::Completion(Box::new(completion)));
    }

    /// What waits for this record, which waits no longer.
    pub(super) fn take(&mut self, awaited: Awaited) -> Option<Announcement> {
        let announcement = self.waiting.remove(&awaited)?;
        if let Announcement::Completion(completion) = &announcement
            && let Some(result) = &completion.end.result
        {
            self.results.remove(&result.job_id);
        }
        while self.order.front().is_some_and(|(_, first)| !self.waiting.contains_key(first)) {
            self.order.pop_front();
        }
        Some(announcement)
    }

    /// What waits for the first of all records.
    fn take_first(&mut self) -> Option<(Awaited, Announcement)> {
        let (_, awaited) = *self.order.front()?;
        self.take(awaited).map(|announcement| (awaited, announcement))
    }

    /// The command whose job this was, while its result is not published.
    pub(super) fn unpublished_result_of(&self, job_id: &JobId) -> Option<EntryKey> {
        self.results.get(job_id).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Until when the first is waited for.
    pub(super) fn due(&self) -> Option<Duration> {
        self.order.front().map(|(until, _)| *until)
    }

    /// The daemon stops: what is not durable yet is left to the next run, if that will know of it.
    pub(super) fn forget_accepted(&mut self) {
        self.order.retain(|(_, awaited)| !matches!(awaited, Awaited::Accepted(_)));
        self.waiting.retain(|awaited, _| !matches!(awaited, Awaited::Accepted(_)));
    }
}

/// Publishes the result of an accepted command.
pub(super) fn publish_result(ctx: &mut Context, key: EntryKey, result: JobResult) {
    ctx.counters.results += 1;
    let receipt = Some(Receipt { key, what: Deliverable::Result });
    ctx.effect(Effect::Publish { event: Event::JobResult(result), receipt });
}

/// Sends the final ack of an accepted command.
pub(super) fn final_ack(ctx: &mut Context, key: EntryKey, sender: &Sender, name: CommandName, ack: Ack) {
    match &ack {
        // The line of its job's end says all of an execute.
        Ack::Failed { reason } if name != CommandName::Execute => {
            ctx.warn(format!("{} of {} failed: {reason}", name.as_str(), sender.identity));
        }
        Ack::Failed { .. } | Ack::Aborted | Ack::InProgress { .. } | Ack::Complete => {}
    }
    let receipt = Some(Receipt { key, what: Deliverable::Ack });
    ctx.send_ack(sender, Some(name), ack, receipt);
}

impl Csc {
    /// An accepted command has ended.
    pub(super) fn end(&mut self, key: EntryKey, sender: Sender, name: CommandName, end: Completion) {
        self.removals.note_aborted(&end);
        self.announcements.complete(&mut self.ctx, key, PendingCompletion { sender, name, end });
    }

    /// This record is durable, or is not waited for any longer.
    pub(super) fn announce(&mut self, awaited: Awaited, announcement: Announcement) {
        let (Awaited::Accepted(key) | Awaited::Created(key) | Awaited::Ended(key)) = awaited;
        match announcement {
            Announcement::Accepted => {
                self.wait_for_prereqs(key, None);
                self.abort_journaled(key);
            }
            Announcement::JobId(status) => {
                self.announce_job_id(key);
                // Perhaps it has ended already.
                status.into_iter().for_each(|status| self.note_status(key, status));
            }
            Announcement::Completion(completion) => self.announce_completion(key, *completion),
        }
    }

    fn announce_completion(&mut self, key: EntryKey, completion: PendingCompletion) {
        let PendingCompletion { sender, name, end } = completion;
        if let Some(result) = end.result {
            publish_result(&mut self.ctx, key, result);
            // Only where the back-end broke down does a command fail that has a result.
            if let Ack::Failed { reason } = &end.ack {
                self.transitions.fault(&mut self.ctx, ErrorCode::Simulated, reason.clone());
            }
        }
        final_ack(&mut self.ctx, key, &sender, name, end.ack);
    }

    /// The journal cannot be written: commands that are not durable are refused, the rest is announced.
    pub(super) fn on_journal_failed(&mut self, reason: &str) {
        match self.run_state {
            RunState::Serving | RunState::Stopping => {}
            RunState::Joining | RunState::Over => return,
        }
        while let Some((awaited, announcement)) = self.announcements.take_first() {
            match (awaited, announcement) {
                (Awaited::Accepted(key), _) => self.refuse_recording(key, reason),
                (awaited, announcement) => self.announce(awaited, announcement),
            }
        }
        if self.run_state == RunState::Serving && self.transitions.error().0 != ErrorCode::Journal {
            self.transitions.fault(&mut self.ctx, ErrorCode::Journal, reason.to_owned());
        }
    }

    /// A disk that hangs fails like one that is full. Only a tick decides that, before which all that the journal has
    /// said was heard: in a turn that comes late, its words may still wait behind others.
    pub(super) fn check_records(&mut self) {
        let is_late = self.announcements.due().is_some_and(|until| until <= self.ctx.now.mono);
        if is_late && self.run_state == RunState::Serving {
            self.on_journal_failed("the journal cannot be written: its disk does not answer");
        }
    }

    fn refuse_recording(&mut self, key: EntryKey, report: &str) {
        let ack = Ack::Failed { reason: format!("{report}; nothing was sent to the execution service") };
        let end = Completion { at: self.ctx.now.tai, result: None, ack, problem: Some(report.to_owned()) };
        let recorded = |job: &Job| matches!(job.stage, Stage::Recording { .. });
        if self.jobs.get(key).is_some_and(recorded)
            && let Some(job) = self.jobs.remove(&mut self.ctx, key)
        {
            self.close(key, job, end);
        } else if let Some(sender) = self.removals.take_recording(key) {
            self.end(key, sender, CommandName::AbortJob, end);
        }
    }

    /// Announces what is known although it may not be durable, when the daemon ends without a journal.
    pub(super) fn announce_all(&mut self) {
        while let Some((awaited, announcement)) = self.announcements.take_first() {
            self.announce(awaited, announcement);
        }
    }
}
