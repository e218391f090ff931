//! From an accepted execute to a job that exists.
//!
//! A PUT is not idempotent, and an answer can fail to come although the job was created.
//! So nothing is sent twice before the service's list was asked, long enough, whether the job is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::command::{CommandName, Execute, Sender};
use super::context::Purpose;
use super::event::{Ack, Event, LogLevel};
use super::id::{EntryKey, JobId, RunId};
use super::job::{Job, Look, Origin, Poll, Running, Stage, SubmitStep, Submitting, Watch};
use super::lookup::{Listing, SUSPECT_FOR};
use super::record::{End, Work};
use super::request::{Action, Contact, Failure, FailureKind, JobStatus, NotDone};
use super::{Csc, REMINDER, RunState};

/// First wait after a PUT that did not reach the service; it doubles with each.
const RESEND_BASE: Duration = Duration::from_secs(1);
/// How often the service may refuse a submission before the command fails.
const REFUSALS_MAX: u32 = 2;

impl Csc {
    pub(super) fn execute(&mut self, sender: Sender, execute: &Execute) {
        let name = Some(CommandName::Execute);
        if execute.pipeline.trim().is_empty() {
            let reason = "pipeline is empty: give the URL or path of a pipeline".to_owned();
            return self.ctx.fail(&sender, name, reason);
        }
        let Some(service) = self.transitions.service() else {
            // ENABLED is reached only through a `start`.
            return self.ctx.fail(&sender, name, "no configuration was applied".to_owned());
        };
        let max = self.ctx.settings.max_jobs;
        if self.jobs.len() >= max {
            return self.ctx.fail(&sender, name, format!("{max} jobs are in progress, which is the limit"));
        }
        if self.watches.len() + execute.prereq_jobs.len() > max {
            return self.ctx.fail(
                &sender,
                name,
                format!("more than {max} prerequisite jobs would be waited for"),
            );
        }
        let run_id = RunId::new(sender.seq_num, self.ctx.settings.index, &mut self.ctx.rng);
        let submission = self.ctx.settings.payload.submission(service, run_id, execute);
        let prereqs = execute.prereq_jobs.clone();
        let job = Job {
            sender: sender.clone(),
            submission: Arc::new(submission),
            url: service.url.clone(),
            poll_interval: service.poll_interval,
            accepted: self.ctx.now.tai,
            stage: Stage::Recording { prereqs: prereqs.clone() },
            phase: None,
            missing_prereqs: Vec::new(),
            reminder: None,
            problem: None,
            trouble_logged: false,
        };
        let (submission, url) = (job.submission.clone(), job.url.clone());
        let poll_interval = job.poll_interval;
        self.ctx.log(LogLevel::Info, format!("accepted {} as run {}", execute.pipeline, job.run_id()));
        let key = self.accept(sender, Work::Execute { submission, url, poll_interval, prereqs });
        self.jobs.insert(key, job);
    }

    /// The record of an execute is durable: from now on requests may be made for its job.
    pub(super) fn job_journaled(&mut self, key: EntryKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let Stage::Recording { prereqs, .. } = &mut job.stage else { return };
        let prereqs = std::mem::take(prereqs);
        self.wait_for(key, prereqs, Origin::Accepted);
    }

    /// The job is submitted as soon as these have ended.
    pub(super) fn wait_for(&mut self, key: EntryKey, prereqs: Vec<JobId>, origin: Origin) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let prereqs: BTreeSet<JobId> = prereqs.into_iter().collect();
        let (url, poll_interval) = (job.url.clone(), job.poll_interval);
        job.stage = Stage::Waiting { prereqs: prereqs.clone(), origin };
        let now = self.ctx.now.mono;
        for job_id in prereqs {
            // One of our own tells by itself when it ends; one that has ended already is looked up.
            if !self.job_ids.contains_key(&job_id) {
                self.watches.entry(job_id).or_insert_with(|| Watch {
                    url: url.clone(),
                    poll_interval,
                    poll: Poll::new(now, now),
                    trouble_logged: false,
                });
            }
        }
        self.submit_if_ready(key);
    }

    /// Submits a job that waits for nothing any more.
    fn submit_if_ready(&mut self, key: EntryKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let origin = match &job.stage {
            Stage::Waiting { prereqs, origin } if prereqs.is_empty() => *origin,
            Stage::Waiting { .. }
            | Stage::Recording { .. }
            | Stage::Submitting(_)
            | Stage::Running(_)
            | Stage::Aborting { .. } => return,
        };
        let sent = self.ctx.now.mono;
        let step = SubmitStep::Pausing { until: sent };
        // What an earlier life sent may come to life at any time.
        let (doubtful, stale_at) = match origin {
            Origin::Accepted => (false, sent + self.ctx.settings.resubmit_limit),
            Origin::Recovered { stale_at } => (true, stale_at),
        };
        let submitting =
            Submitting { attempts: 0, refusals: 0, sent, trouble: None, doubtful, stale_at, step };
        job.stage = Stage::Submitting(submitting);
        match origin {
            Origin::Accepted => self.send(key),
            Origin::Recovered { .. } => {
                let reason = "the daemon was restarted before its job was known".to_owned();
                self.doubt(key, Look::Settle, Contact::Silent, reason);
            }
        }
    }

    /// Tells all jobs that wait for this one that it has ended.
    pub(super) fn prerequisite_ended(&mut self, job_id: &JobId) {
        self.watches.remove(job_id);
        let active = self.recovered_prereqs.remove(job_id).flatten();
        let mut ready = Vec::new();
        for (key, job) in &mut self.jobs {
            if let Stage::Waiting { prereqs, origin } = &mut job.stage
                && prereqs.remove(job_id)
            {
                if let (Origin::Recovered { stale_at }, Some(active)) = (origin, active) {
                    // While it was active, nothing was sent: the doubt is no older than that.
                    *stale_at = (*stale_at).max(active + self.ctx.settings.resubmit_limit);
                }
                if prereqs.is_empty() {
                    ready.push(*key);
                }
            }
        }
        for key in ready {
            self.submit_if_ready(key);
        }
    }

    /// All that wait for this job are told with the id of their own that it does not exist.
    pub(super) fn note_missing(&mut self, job_id: &JobId) {
        for job in self.jobs.values_mut() {
            if let Stage::Waiting { prereqs, .. } = &job.stage
                && prereqs.contains(job_id)
            {
                job.missing_prereqs.push(job_id.clone());
            }
        }
    }

    /// Stops polling those that nobody waits for any more.
    pub(super) fn forget_watches(&mut self) {
        let Self { jobs, watches, .. } = self;
        watches.retain(|job_id, _| {
            jobs.values()
                .any(|job| matches!(&job.stage, Stage::Waiting { prereqs, .. } if prereqs.contains(job_id)))
        });
    }

    /// Sends the PUT, unless the daemon stops.
    fn send(&mut self, key: EntryKey) {
        if self.run_state != RunState::Serving {
            return;
        }
        let Some(job) = self.jobs.get(&key) else { return };
        let (url, submission) = (job.url.clone(), job.submission.clone());
        self.ctx.ask(Purpose::Submit(key), url, Action::Submit(submission));
        let now = self.ctx.now.mono;
        if let Some(submitting) = self.submitting(key) {
            submitting.attempts += 1;
            submitting.sent = now;
            submitting.step = SubmitStep::Sending;
        }
    }

    fn submitting(&mut self, key: EntryKey) -> Option<&mut Submitting> {
        match &mut self.jobs.get_mut(&key)?.stage {
            Stage::Submitting(submitting) => Some(submitting),
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Running(_) | Stage::Aborting { .. } => {
                None
            }
        }
    }

    /// The answer to a PUT.
    pub(super) fn submitted(&mut self, key: EntryKey, url: &Url, result: Result<JobStatus, NotDone>) {
        match result {
            // Its run was aborted meanwhile.
            Ok(status) if !self.jobs.contains_key(&key) => self.remove_stray(url.clone(), status.job_id),
            Ok(status) => self.created(key, status.job_id.clone(), Some(status)),
            Err(NotDone::Rejected(reason)) => self.give_up(key, reason),
            Err(NotDone::Failed(failure)) => self.submit_failed(key, failure),
        }
    }

    fn submit_failed(&mut self, key: EntryKey, failure: Failure) {
        self.log_trouble(key, format!("submission of {}: {failure}", self.name_of(key)));
        match failure.kind {
            FailureKind::NotSent => self.pause(key, failure.reason),
            FailureKind::Refused => {
                if let Some(submitting) = self.submitting(key) {
                    submitting.refusals += 1;
                }
                self.doubt(key, Look::Once, failure.contact, failure.reason);
            }
            FailureKind::Unclear | FailureKind::Wrong => {
                self.doubt(key, Look::Settle, failure.contact, failure.reason);
            }
            FailureKind::NotNow => self.doubt(key, Look::Once, failure.contact, failure.reason),
        }
    }

    /// Nothing reached the service: wait, then send again, for the last time when its time is over.
    fn pause(&mut self, key: EntryKey, reason: String) {
        let now = self.ctx.now.mono;
        let settings = self.ctx.settings.clone();
        let Some(submitting) = self.submitting(key) else { return };
        let (attempts, was_last) = (submitting.attempts, submitting.was_last(&settings));
        // What was queued when the daemon was told to end is left to the next life.
        if was_last && self.run_state == RunState::Serving {
            return self.give_up(key, reason);
        }
        let until = now + self.ctx.backoff(RESEND_BASE, attempts.saturating_sub(1));
        if let Some(job) = self.jobs.get_mut(&key)
            && let Stage::Submitting(submitting) = &mut job.stage
        {
            submitting.trouble.get_or_insert(now);
            let expires = submitting.expires(&settings).unwrap_or(until);
            submitting.step = SubmitStep::Pausing { until: until.min(expires) };
            job.problem = Some(reason);
        }
    }

    /// The job may exist: look for it before anything else.
    fn doubt(&mut self, key: EntryKey, look: Look, contact: Contact, reason: String) {
        let now = self.ctx.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let Stage::Submitting(submitting) = &mut job.stage else { return };
        submitting.trouble.get_or_insert(now);
        let after = self.ctx.last_ticket();
        submitting.step = SubmitStep::InDoubt { ended: now, after, listed: None, look, contact };
        job.problem = Some(reason);
        let url = job.url.clone();
        self.look_soon(url);
    }

    /// This list does not show the job.
    pub(super) fn not_found(&mut self, key: EntryKey, list: &Listing) {
        let now = self.ctx.now.mono;
        let settings = &self.ctx.settings;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let Stage::Submitting(submitting) = &mut job.stage else { return };
        let expired = submitting.expires(settings).is_some_and(|expires| list.asked >= expires);
        let was_last = submitting.was_last(settings);
        let SubmitStep::InDoubt { after, listed, look, contact, .. } = &mut submitting.step else { return };
        if list.ticket <= *after {
            return;
        }
        let first = *listed.get_or_insert(now);
        // Once it may have been there all the time but not listed: this list was asked for after that.
        if *look == Look::Settle && list.asked < first + settings.settle_time {
            return;
        }
        submitting.doubtful |= *look == Look::Settle;
        if now >= submitting.stale_at {
            let reason = stale(job.run_id(), settings.resubmit_limit);
            return self.give_up(key, reason);
        }
        // One that never came to a word of the service itself is sent once more when its time is over.
        let is_over = expired && (was_last || *contact == Contact::Answered);
        if is_over || submitting.refusals >= REFUSALS_MAX {
            let reason = job.problem.clone().unwrap_or_default();
            return self.give_up(key, reason);
        }
        self.log_trouble(key, format!("no job of run {} was found: sending again", self.name_of(key)));
        self.send(key);
    }

    /// Does what is due for a submission.
    pub(super) fn advance_submission(&mut self, key: EntryKey) {
        let now = self.ctx.now.mono;
        let Some(submitting) = self.submitting(key) else { return };
        match submitting.step {
            SubmitStep::Pausing { until } if until <= now => self.send(key),
            SubmitStep::Pausing { .. } | SubmitStep::Sending | SubmitStep::InDoubt { .. } => {}
        }
    }

    /// This list, which could not be had, was the last chance of some submissions.
    pub(super) fn give_up_lost(&mut self, url: &Url, list: &Listing) {
        let mut lost = Vec::new();
        for (key, job) in self.jobs.iter_mut().filter(|(_, job)| job.url == *url) {
            if let Stage::Submitting(submitting) = &mut job.stage
                && submitting.lost(&self.ctx.settings).is_some_and(|lost| list.asked >= lost)
            {
                submitting.doubtful = true;
                lost.push((*key, job.problem.clone().unwrap_or_default()));
            }
        }
        for (key, reason) in lost {
            self.give_up(key, reason);
        }
    }

    /// The job exists; the world learns its id when that is durable.
    pub(super) fn created(&mut self, key: EntryKey, job_id: JobId, status: Option<JobStatus>) {
        let now = self.ctx.now.mono;
        let holder =
            self.job_ids.get(&job_id).copied().or_else(|| self.announcements.unpublished_result_of(&job_id));
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let Stage::Submitting(submitting) = &job.stage else { return };
        let (resent, attempts) = (submitting.doubtful, submitting.attempts);
        if let Some(holder) = holder.filter(|holder| *holder != key) {
            // Two jobs cannot have one id: the service lies, or the answer was of another job.
            let reason = format!("the service gave job id {job_id} twice, first to job {}", holder.0);
            return self.doubt(key, Look::Settle, Contact::Answered, reason);
        }
        let poll = Poll::seen(now, now + job.poll_interval);
        let phase = status.as_ref().map(|status| status.phase);
        job.stage = Stage::Running(Running { job_id: job_id.clone(), poll, is_announced: false });
        job.phase = phase;
        (job.problem, job.trouble_logged) = (None, false);
        let (run_id, url) = (job.run_id().clone(), job.url.clone());
        self.ctx.counters.submitted += 1;
        self.job_ids.insert(job_id.clone(), key);
        self.announcements.create(&mut self.ctx, key, job_id.clone(), status);
        let more = if attempts > 1 { format!(", sent {attempts} times") } else { String::new() };
        self.ctx.log(LogLevel::Info, format!("run {run_id} is job {job_id}{more}"));
        // An earlier attempt may still come to life; a gateway may have repeated the one that was answered.
        let time = if resent { SUSPECT_FOR } else { self.ctx.settings.settle_time };
        self.suspect(time, key, run_id, url, Some(job_id.clone()));
        if self.removals.contains_key(&job_id) {
            // Somebody who found its id elsewhere was quicker with an abort.
            self.stop_polling(key, &job_id);
            self.note_alive(&job_id);
        }
    }

    /// Publishes the id of a job, if that was not done before; gives what is known of the job besides.
    pub(super) fn announce_job_id(&mut self, key: EntryKey) -> Option<JobStatus> {
        let status = self.announcements.take_job_id(key)?;
        self.publish_job_id(key);
        status
    }

    /// The id of a job is durable: it is published, and its end if it has come already.
    pub(super) fn announce_job(&mut self, key: EntryKey, status: Option<JobStatus>) {
        self.publish_job_id(key);
        if let Some(status) = status {
            self.note_status(key, status);
        }
    }

    fn publish_job_id(&mut self, key: EntryKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let Stage::Running(Running { job_id, is_announced, .. }) = &mut job.stage else { return };
        *is_announced = true;
        job.reminder = Some(self.ctx.now.mono + REMINDER);
        let (sender, job_id, missing_prereqs) = (&job.sender, job_id.clone(), job.missing_prereqs.clone());
        let ack = Ack::InProgress { job_id: job_id.clone(), missing_prereqs };
        self.ctx.ack(sender, Some(CommandName::Execute), ack);
        self.ctx.publish(Event::JobId { seq_num: sender.seq_num, job_id });
    }

    /// There is no job, as far as is known: the command fails. One that comes to life all the same is removed.
    fn give_up(&mut self, key: EntryKey, mut reason: String) {
        let Some(job) = self.jobs.remove(&key) else { return };
        let run_id = job.run_id().clone();
        if let Stage::Submitting(Submitting { doubtful: true, .. }) = job.stage {
            let more = format!(
                "; it is unclear whether a job with run id {run_id} was created: if one shows up within an hour, it is removed"
            );
            reason.push_str(&more);
            self.suspect(SUSPECT_FOR, key, run_id, job.url.clone(), None);
        } else if let Stage::Submitting(Submitting { refusals: 1.., .. }) = job.stage {
            self.suspect(self.ctx.settings.settle_time, key, run_id, job.url.clone(), None);
        }
        let ack = Ack::Failed { reason: reason.clone() };
        self.close(key, job, End { at: self.ctx.now.tai, result: None, ack, problem: Some(reason) }, None);
    }

    /// The first thing that goes wrong with a job is logged; the last is its problem, which `ocps jobs` shows.
    pub(super) fn log_trouble(&mut self, key: EntryKey, line: String) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if !std::mem::replace(&mut job.trouble_logged, true) {
            self.ctx.log(LogLevel::Warning, line);
        }
    }

    /// A job's name in the log.
    pub(super) fn name_of(&self, key: EntryKey) -> String {
        self.jobs.get(&key).map_or_else(|| format!("job {}", key.0), |job| job.run_id().to_string())
    }
}

/// Why a submission that may be old is not sent again.
fn stale(run_id: &RunId, limit: Duration) -> String {
    format!(
        "run {run_id} may have been submitted more than {} s ago, and a job that ended since may not be listed any more: \
         look for its output before you send the command again",
        limit.as_secs_f64()
    )
}
