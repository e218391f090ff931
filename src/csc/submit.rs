//! From an accepted execute to a job that exists.
//!
//! A PUT is not idempotent, and an answer can fail to come although the job was created.
//! So nothing is sent again before the service's list has shown, for long enough, that there is no job of the run.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::command::{CommandName, Execute, Sender};
use super::context::Purpose;
use super::event::{Ack, Event};
use super::history::NoteKind;
use super::id::{EntryKey, JobId, RunId};
use super::job::{Doubt, Job, Stage, Submitting};
use super::lookups::{DUPLICATES_FOR, Listing};
use super::polls::{Poll, Polled};
use super::prerequisites::JobAt;
use super::record::{Completion, Work};
use super::request::{Action, Contact, Failure, FailureKind, JobStatus};
use super::retry::Retry;
use super::{Csc, REMINDER, RunState};

/// First wait after a PUT that did not reach the service; it doubles with each.
const RESEND_BASE: Duration = Duration::from_secs(1);
/// How often the service may refuse a submission before the command fails.
const REFUSALS_MAX: u32 = 2;

impl Csc {
    /// Accepts an execute.
    pub(super) fn execute(&mut self, sender: Sender, execute: &Execute) {
        let max = self.ctx.settings.max_jobs;
        let refusal = if execute.pipeline.trim().is_empty() {
            Some("pipeline is empty: give the URL or path of a pipeline".to_owned())
        } else if self.jobs.len() >= max {
            Some(format!("{max} jobs are in progress, which is the limit"))
        } else if self.polls.prerequisites() + execute.prereq_jobs.len() > max {
            Some(format!("more than {max} prerequisite jobs would be waited for"))
        } else {
            None
        };
        let service = match (refusal, self.transitions.service()) {
            (None, Some(service)) => service,
            (refusal, _) => {
                // ENABLED is reached only through a `start`.
                let reason = refusal.unwrap_or_else(|| "no configuration was applied".to_owned());
                return self.ctx.fail(&sender, Some(CommandName::Execute), reason);
            }
        };
        let run_id = RunId::new(sender.seq_num, self.ctx.settings.index, &mut self.ctx.rng);
        let (seq_num, identity) = (sender.seq_num.0, &sender.identity);
        let accepted =
            format!("accepted {} as run {run_id}: execute {seq_num} of {identity}", execute.pipeline);
        self.ctx.info(accepted);
        let work = Work::Execute {
            submission: Arc::new(self.ctx.settings.payload.submission(service, run_id, execute)),
            url: service.url.clone(),
            poll_interval: service.poll_interval,
            prereqs: execute.prereq_jobs.clone(),
        };
        let entry = self.accept(sender, work);
        if let Some(job) = Job::of(&entry) {
            self.jobs.insert(&mut self.ctx, entry.key, job);
        }
    }

    /// The record of an execute is durable: its job is submitted once its prerequisites have ended. `stale_at` is there if a
    /// previous run of the daemon may have sent the PUT: after that time the job may have ended and left the list.
    pub(super) fn wait_for_prereqs(&mut self, key: EntryKey, stale_at: Option<Duration>) {
        let Some(Job { url, stage: Stage::Recording { prereqs }, .. }) = self.jobs.get(key) else { return };
        let (url, mut waits) = (url.clone(), BTreeSet::new());
        for job_id in prereqs.clone() {
            // The end of a job of ours is noticed anyway; any other job is polled.
            let ours = self.jobs.by_id(&job_id).and_then(|key| self.jobs.get(key)).map(|job| job.url.clone());
            let is_ours = ours.is_some();
            let at = (ours.unwrap_or_else(|| url.clone()), job_id);
            self.wait_for(key, &at, is_ours);
            waits.insert(at);
        }
        let ids: Vec<&str> = waits.iter().map(|(_, job_id)| job_id.as_str()).collect();
        let ids = ids.join(", ");
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            if !waits.is_empty() {
                job.history.note(ctx, key, NoteKind::Waits, &ids);
            }
            job.stage = Stage::Waiting { prereqs: waits, stale_at };
        });
        self.submit_if_ready(key);
    }

    /// A job that this one waits for has ended.
    pub(super) fn end_wait(&mut self, key: EntryKey, at: &JobAt, was_active: bool) {
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            let Stage::Waiting { prereqs, stale_at } = &mut job.stage else { return };
            prereqs.remove(at);
            // It was active in this run, so that the previous run has sent nothing, unless it took the job for missing.
            if let Some(stale_at) = stale_at
                && was_active
                && !job.history.has_wait_ended(&at.1)
            {
                *stale_at = ctx.real_time() + ctx.settings.resubmit_limit;
            }
            let is_missing = job.missing_prereqs.contains(&at.1);
            let kind = if is_missing { NoteKind::MissingPrereq } else { NoteKind::WaitOver };
            job.history.note(ctx, key, kind, at.1.as_str());
        });
        self.submit_if_ready(key);
    }

    /// Submits a job that has no prerequisite to wait for.
    fn submit_if_ready(&mut self, key: EntryKey) {
        let stale_at = match self.jobs.get(key).map(|job| &job.stage) {
            Some(Stage::Waiting { prereqs, stale_at }) if prereqs.is_empty() => *stale_at,
            Some(_) | None => return,
        };
        let now = self.ctx.now.mono;
        let submitting = Submitting {
            attempts: 0,
            refusals: 0,
            sent: now,
            expires: None,
            // A job that a previous run of the daemon submitted may appear at any time.
            doubtful: stale_at.is_some(),
            stale_at: stale_at.unwrap_or(self.ctx.real_time() + self.ctx.settings.resubmit_limit),
            retry: Retry::at(now),
            doubt: None,
        };
        self.jobs.update(&mut self.ctx, key, |_, job| job.stage = Stage::Submitting(submitting));
        if stale_at.is_none() {
            return self.send(key);
        }
        let reason = "the daemon was restarted before its job was known".to_owned();
        self.doubt(key, Failure { kind: FailureKind::Unclear, contact: Contact::Silent, reason });
    }

    /// Sends the PUT, unless the daemon stops.
    pub(super) fn send(&mut self, key: EntryKey) {
        if self.run_state != RunState::Serving {
            return;
        }
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            let action = Action::Submit(Arc::clone(&job.submission));
            let url = job.url.clone();
            if let Some(submitting) = job.submitting_mut() {
                submitting.attempts += 1;
                submitting.sent = ctx.now.mono;
                submitting.doubt = None;
                submitting.retry.due = None;
                ctx.ask(Purpose::Submit(key), url, action);
            }
        });
    }

    /// The answer to a PUT.
    pub(super) fn on_submitted(&mut self, key: EntryKey, url: &Url, result: Result<JobStatus, Failure>) {
        match result {
            // The execute was aborted meanwhile. Until that is recorded, its job is left to the search for duplicates.
            Ok(status) if self.jobs.get(key).is_none() => {
                if self.announcements.is_recorded(key) {
                    self.remove_duplicate(url, status.job_id);
                }
            }
            Ok(status) => self.created(key, status.job_id.clone(), Some(status)),
            Err(Failure { kind: FailureKind::Rejected, reason, .. }) => self.give_up(key, reason),
            Err(failure) => {
                self.log_trouble(key, |run_id| format!("submission of {run_id}: {failure}"));
                if failure.kind == FailureKind::NotSent {
                    self.pause(key, failure.reason);
                } else {
                    self.doubt(key, failure);
                }
            }
        }
    }

    /// The PUT did not reach the service: it is sent again after a wait, and a last time when submit_timeout is over.
    fn pause(&mut self, key: EntryKey, reason: String) {
        let Some(submitting) = self.jobs.get(key).and_then(Job::submitting) else { return };
        // A PUT that was still queued when the daemon began to stop is left to the next run.
        if submitting.was_last() && self.run_state == RunState::Serving {
            return self.give_up(key, reason);
        }
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            job.note_failure(ctx, key, FailureKind::NotSent, reason);
            if let Some(submitting) = job.submitting_mut() {
                let expires = ctx.now.mono + ctx.settings.submit_timeout;
                let expires = *submitting.expires.get_or_insert(expires);
                submitting.retry.fail(ctx, RESEND_BASE);
                submitting.retry.not_later_than(expires);
            }
        });
    }

    /// The job may exist: it is looked up before the PUT is sent again.
    fn doubt(&mut self, key: EntryKey, failure: Failure) {
        let url = self.jobs.update(&mut self.ctx, key, |ctx, job| {
            let now = ctx.now.mono;
            job.note_failure(ctx, key, failure.kind, failure.reason.clone());
            let submitting = job.submitting_mut()?;
            submitting.refusals += u32::from(failure.kind == FailureKind::Refused);
            let expires = *submitting.expires.get_or_insert(now + ctx.settings.submit_timeout);
            let lost = expires.max(now) + ctx.settings.settle_time;
            let after = ctx.last_ticket();
            submitting.doubt = Some(Doubt { after, listed: None, failure, lost, is_last: false });
            submitting.retry.due = None;
            Some(job.url.clone())
        });
        if let Some(url) = url.flatten() {
            self.lookups.look_soon(&mut self.ctx, &url);
        }
    }

    /// This list does not show the job of a submission.
    pub(super) fn not_found(&mut self, key: EntryKey, list: &Listing) {
        let next = self.jobs.update(&mut self.ctx, key, |ctx, job| {
            let now = ctx.now.mono;
            let submitting = job.submitting_mut()?;
            let was_last = submitting.was_last();
            let Submitting { doubt, doubtful, expires, refusals, stale_at, .. } = submitting;
            let doubt = doubt.as_mut().filter(|doubt| list.ticket > doubt.after)?;
            let first = *doubt.listed.get_or_insert(now);
            // A job may be listed late: only a list that was asked for settle_time after the first one proves anything.
            if doubt.may_show_up_late() && list.asked < first + ctx.settings.settle_time {
                return None;
            }
            *doubtful |= doubt.may_show_up_late();
            // A PUT to which the service itself never answered is sent once more when submit_timeout is over.
            let is_over = expires.is_some_and(|expires| list.asked >= expires)
                && (was_last || doubt.failure.contact != Contact::Silent);
            let (is_stale, is_refused) = (ctx.real_time() >= *stale_at, *refusals >= REFUSALS_MAX);
            Some(if is_stale {
                Err(stale(job.run_id(), ctx.settings.resubmit_limit))
            } else if is_over || is_refused {
                Err(doubt.failure.reason.clone())
            } else {
                job.history.note(ctx, key, NoteKind::SubmittedAgain, "");
                Ok(())
            })
        });
        match next.flatten() {
            Some(Ok(())) => {
                self.log_trouble(key, |run_id| format!("no job of run {run_id} was found: sending again"));
                self.send(key);
            }
            Some(Err(reason)) => self.give_up(key, reason),
            None => {}
        }
    }

    /// This list failed: submissions whose last chance it was are given up.
    pub(super) fn give_up_lost(&mut self, url: &Url, list: &Listing) {
        for (key, _) in self.jobs.lacking(url) {
            let reason = self.jobs.update(&mut self.ctx, key, |_, job| {
                let submitting = job.submitting_mut()?;
                let doubt = submitting.doubt.as_ref().filter(|doubt| list.asked >= doubt.lost)?;
                submitting.doubtful = true;
                Some(doubt.failure.reason.clone())
            });
            if let Some(reason) = reason.flatten() {
                self.give_up(key, reason);
            }
        }
    }

    /// The job exists; its job id is published once its record is durable.
    pub(super) fn created(&mut self, key: EntryKey, job_id: JobId, status: Option<JobStatus>) {
        let holder = self.jobs.by_id(&job_id);
        let holder = holder.or_else(|| self.announcements.unpublished_result_of(&job_id));
        let Some(job) = self.jobs.get(key) else { return };
        let Some(Submitting { doubtful, attempts, .. }) = job.submitting() else { return };
        if let Some(holder) = holder.filter(|holder| *holder != key) {
            // Two jobs cannot have one job id: the service is wrong, or the answer belongs to another request.
            let reason = format!("the service gave job id {job_id} twice, first to job {}", holder.0);
            return self.doubt(key, Failure { kind: FailureKind::Wrong, contact: Contact::Answered, reason });
        }
        let run_id = job.run_id().clone();
        let more = if *attempts > 1 { format!(", sent {attempts} times") } else { String::new() };
        // An earlier PUT may have created a job too; a gateway may have repeated the last one.
        let time = if *doubtful { DUPLICATES_FOR } else { self.ctx.settings.settle_time };
        let phase = status.as_ref().map(|status| status.phase);
        let kind = if phase.is_some() { NoteKind::Created } else { NoteKind::Found };
        self.polls.insert(
            &job.url,
            Polled::Ours(key),
            Poll::of_present(&self.ctx, job_id.clone(), run_id.clone()),
        );
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            job.stage = Stage::Running { job_id: job_id.clone() };
            (job.problem, job.trouble_logged) = (None, false);
            job.history.note(ctx, key, kind, job_id.as_str());
            phase.into_iter().for_each(|phase| job.set_phase(ctx, key, phase));
        });
        self.ctx.counters.submitted += 1;
        self.announcements.create(&mut self.ctx, key, job_id.clone(), status);
        self.ctx.info(format!("run {run_id} is job {job_id}{more}"));
        if let Some(job) = self.jobs.get(key) {
            self.lookups.look_for_duplicates(&mut self.ctx, time, key, job, Some(&job_id));
        }
        if self.removals.contains(&job_id) {
            // An abort_job came before the job id was published: its sender knew it from the service.
            self.stop_polling(key, &job_id);
            self.removals.note_present(&mut self.ctx, &job_id);
        }
    }

    /// The record of a job id is durable.
    pub(super) fn announce_job_id(&mut self, key: EntryKey) {
        let url = self.jobs.update(&mut self.ctx, key, |ctx, job| {
            let Stage::Running { job_id } = &job.stage else { return None };
            let (seq_num, job_id) = (job.sender.seq_num, job_id.clone());
            ctx.ack(&job.sender, Some(CommandName::Execute), job.in_progress()?);
            ctx.publish(Event::JobId { seq_num, job_id });
            job.reminder = Some(ctx.now.mono + REMINDER);
            Some(job.url.clone())
        });
        if let Some(url) = url.flatten() {
            self.polls.begin(&mut self.ctx, &url, &Polled::Ours(key));
        }
    }

    /// As far as is known there is no job: the command fails. A job that appears all the same is removed.
    fn give_up(&mut self, key: EntryKey, mut reason: String) {
        let Some(job) = self.jobs.remove(&mut self.ctx, key) else { return };
        let run_id = job.run_id();
        let time = match job.submitting() {
            Some(Submitting { doubtful: true, .. }) => {
                let more = format!(
                    "; it is unclear whether a job with run id {run_id} was created: if one shows up within an hour, \
                     it is removed"
                );
                reason.push_str(&more);
                Some(DUPLICATES_FOR)
            }
            Some(Submitting { refusals: 1.., .. }) => Some(self.ctx.settings.settle_time),
            Some(_) | None => None,
        };
        if let Some(time) = time {
            self.lookups.look_for_duplicates(&mut self.ctx, time, key, &job, None);
        }
        let ack = Ack::Failed { reason: reason.clone() };
        self.close(key, job, Completion { at: self.ctx.now.tai, result: None, ack, problem: Some(reason) });
    }

    /// Logs the first thing that goes wrong with a job, and no more; `ocps jobs` shows the last one as its problem.
    pub(super) fn log_trouble(&mut self, key: EntryKey, line: impl FnOnce(&RunId) -> String) {
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            if !mem::replace(&mut job.trouble_logged, true) {
                ctx.warn(line(job.run_id()));
            }
        });
    }
}

/// Why a submission is not sent again that may be too long ago.
fn stale(run_id: &RunId, limit: Duration) -> String {
    format!(
        "run {run_id} may have been submitted more than {} s ago, and a job that ended since may not be listed any more: \
         look for its output before you send the command again",
        limit.as_secs_f64()
    )
}
