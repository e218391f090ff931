//! Announcements: what is done only when a record is durable. A command is carried out, the id of a job is published,
//! the end of a command is published and acked.
//!
//! While the journal cannot be written, or hangs for longer than [`RECORDING_MAX`], commands that are not durable are
//! refused; ids and ends are published although they are not durable.

use std::collections::VecDeque;
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

/// What is done when a record is durable.
#[derive(Debug)]
pub(super) enum Announcement {
    /// The command is carried out.
    Accepted,
    /// The id of its job is published: whoever knows it may abort the job, over a restart too. With the status of the
    /// job, if the service gave one.
    JobId(Option<JobStatus>),
    /// The result and final ack of this command are published, so that no crash can make it end in another way.
    Completion(Box<(Sender, CommandName, Completion)>),
}

/// Records that are not durable yet, each with the time until which it is waited for, the first first.
#[derive(Debug, Default)]
pub(super) struct Announcements(VecDeque<(Duration, Awaited, Announcement)>);

impl Announcements {
    fn add(&mut self, ctx: &Context, awaited: Awaited, announcement: Announcement) {
        self.0.push_back((ctx.now.mono + RECORDING_MAX, awaited, announcement));
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

    /// Takes the announcement that waits for this record. Records become durable in their order, so that the first is
    /// nearly always the right one.
    pub(super) fn take(&mut self, awaited: Awaited) -> Option<Announcement> {
        let place = self.0.iter().position(|(_, other, _)| *other == awaited)?;
        self.0.remove(place).map(|(_, _, announcement)| announcement)
    }

    /// The command that ended with the result of this job, while that is not published.
    pub(super) fn unpublished_result_of(&self, job_id: &JobId) -> Option<EntryKey> {
        self.0.iter().find_map(|(_, awaited, announcement)| {
            let (Awaited::Ended(key), Announcement::Completion(command)) = (awaited, announcement) else {
                return None;
            };
            command.2.result.as_ref().filter(|result| result.job_id == *job_id).map(|_| *key)
        })
    }

    /// Whether all that is to be recorded of a command is durable, or not waited for any more.
    pub(super) fn is_recorded(&self, key: EntryKey) -> bool {
        let of_command = [Awaited::Accepted(key), Awaited::Created(key), Awaited::Ended(key)];
        !self.0.iter().any(|(_, awaited, _)| of_command.contains(awaited))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Until when the oldest record is waited for.
    pub(super) fn due(&self) -> Option<Duration> {
        self.0.front().map(|(until, ..)| *until)
    }

    /// The daemon stops: commands whose records are not durable are left to the next run, if that will know of them.
    pub(super) fn forget_accepted(&mut self) {
        self.0.retain(|(_, awaited, _)| !matches!(awaited, Awaited::Accepted(_)));
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
    // For an execute, the line about the end of its job says that.
    if let Ack::Failed { reason } = &ack
        && name != CommandName::Execute
    {
        ctx.warn(format!("{} of {} failed: {reason}", name.as_str(), sender.identity));
    }
    let receipt = Some(Receipt { key, what: Deliverable::Ack });
    ctx.send_ack(sender, Some(name), ack, receipt);
}

impl Csc {
    /// An accepted command has ended.
    pub(super) fn end(&mut self, key: EntryKey, sender: Sender, name: CommandName, end: Completion) {
        self.removals.note_aborted(&end);
        self.ctx.journal(Record::Ended { key, end: Box::new(end.clone()) });
        let announcement = Announcement::Completion(Box::new((sender, name, end)));
        self.announcements.add(&self.ctx, Awaited::Ended(key), announcement);
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
                // The job may have ended already.
                status.into_iter().for_each(|status| self.note_status(key, status));
            }
            Announcement::Completion(command) => {
                let (sender, name, end) = *command;
                if let Some(result) = end.result {
                    publish_result(&mut self.ctx, key, result);
                    // Only where the back-end broke down does a command fail that has a result.
                    if let Ack::Failed { reason } = &end.ack {
                        self.transitions.fault(&mut self.ctx, ErrorCode::Simulated, reason.clone());
                    }
                }
                final_ack(&mut self.ctx, key, &sender, name, end.ack);
            }
        }
    }

    /// The journal cannot be written: commands that are not durable are refused, ids and ends are published.
    pub(super) fn on_journal_failed(&mut self, reason: &str) {
        while let Some((_, awaited, announcement)) = self.announcements.0.pop_front() {
            if let Awaited::Accepted(key) = awaited {
                self.refuse_recording(key, reason);
            } else {
                self.announce(awaited, announcement);
            }
        }
        if self.run_state == RunState::Serving && self.transitions.error().0 != ErrorCode::Journal {
            self.transitions.fault(&mut self.ctx, ErrorCode::Journal, reason.to_owned());
        }
    }

    /// A disk that hangs counts as one that is full. Only a tick decides that, since all reports of the journal come
    /// before it: in a turn that comes late, other inputs may come before them.
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

    /// Publishes ids and ends that wait for a record, when the daemon ends without a journal.
    pub(super) fn announce_all(&mut self) {
        while let Some((_, awaited, announcement)) = self.announcements.0.pop_front() {
            self.announce(awaited, announcement);
        }
    }
}
