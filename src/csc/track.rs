//! From a job that exists to its end: polls, results, final acks.

use strum::EnumMessage;

use super::command::CommandName;
use super::context::Context;
use super::event::{Ack, ExitCode, JobObject, JobResult, LogLevel, Phase, ResultObject};
use super::id::{EntryKey, JobId};
use super::job::{Job, Stage};
use super::jobs::EndedJob;
use super::polls::Polled;
use super::record::{Awaited, Completion};
use super::report::{JobOutcome, JobReport};
use super::request::JobStatus;
use super::{Csc, REMINDER};

/// How a job ended.
#[derive(Debug)]
pub(super) enum JobEnd {
    /// In a final phase.
    Phase(Phase, JobObject),
    /// It is unknown how it ended, and why.
    Vanished { reason: String },
    /// By `abort_job`; with an object if the back-end has one.
    Aborted { object: Option<JobObject>, reason: String },
    /// The back-end broke down.
    Broken { report: String },
}

impl Csc {
    /// The timer of a job has expired.
    pub(super) fn on_job_timer(&mut self, key: EntryKey) {
        let now = self.ctx.now.mono;
        self.jobs.update(&mut self.ctx, key, |ctx, job| {
            if job.reminder.is_some_and(|due| due <= now) {
                job.reminder = Some(now + REMINDER);
                if let Some(ack) = job.in_progress() {
                    ctx.ack(&job.sender, Some(CommandName::Execute), ack);
                }
            }
        });
        if let Some(job) = self.jobs.get(key)
            && let Some(submitting) = job.submitting()
        {
            if submitting.retry.due.is_some_and(|due| due <= now) {
                self.send(key);
            } else if submitting.doubt.as_ref().is_some_and(|doubt| doubt.lost <= now) {
                self.lookups.look_a_last_time(&mut self.ctx, &job.url);
                self.jobs.update(&mut self.ctx, key, |_, job| {
                    let doubt = job.submitting_mut().and_then(|submitting| submitting.doubt.as_mut());
                    doubt.into_iter().for_each(|doubt| doubt.is_last = true);
                });
            }
        }
    }

    /// A valid status of a running job.
    pub(super) fn note_status(&mut self, key: EntryKey, status: JobStatus) {
        let url = self.jobs.update(&mut self.ctx, key, |ctx, job| {
            job.set_phase(ctx, key, status.phase);
            job.url.clone()
        });
        let Some(url) = url else { return };
        if status.phase.exit_code().is_some() {
            self.polls.note_end(&mut self.ctx, &url, &Polled::Ours(key));
            self.finish(key, JobEnd::Phase(status.phase, status.object));
        } else {
            self.polls.note_present(&mut self.ctx, &url, &Polled::Ours(key));
            self.prerequisites.note_active(&(url, status.job_id));
        }
    }

    /// The job is being removed: it is not polled any more, and the answer to a poll in progress is dropped.
    pub(super) fn stop_polling(&mut self, key: EntryKey, job_id: &JobId) {
        if self.announcements.take(Awaited::Created(key)).is_some() {
            self.announce_job_id(key);
        }
        let stop = |_: &mut Context, job: &mut Job| {
            job.stage = Stage::Aborting { job_id: job_id.clone() };
            job.url.clone()
        };
        if let Some(url) = self.jobs.update(&mut self.ctx, key, stop) {
            self.polls.remove(&mut self.ctx, &url, &Polled::Ours(key));
            self.lookups.forget_missing(&mut self.ctx, &url, &Polled::Ours(key));
        }
    }

    /// The end of a job that exists: its result, then the final ack of its command.
    pub(super) fn finish(&mut self, key: EntryKey, how: JobEnd) {
        let Some(job_id) = self.jobs.get(key).and_then(Job::job_id).cloned() else { return };
        let Some(job) = self.jobs.remove(&mut self.ctx, key) else { return };
        self.polls.remove(&mut self.ctx, &job.url, &Polled::Ours(key));
        let known =
            |phase| ResultObject::Known { job_id: job_id.clone(), run_id: Some(job.run_id().clone()), phase };
        let (exit_code, result, ack, problem) = match how {
            JobEnd::Phase(phase, object) => {
                let exit_code = phase.exit_code().unwrap_or(ExitCode::Error);
                (
                    exit_code,
                    ResultObject::Service(object),
                    Ack::Complete,
                    phase.get_message().map(str::to_owned),
                )
            }
            JobEnd::Vanished { reason } => {
                (ExitCode::Error, known(Phase::Unknown), Ack::Complete, Some(reason))
            }
            JobEnd::Aborted { object, reason } => {
                let result = object.map_or_else(|| known(Phase::Aborted), ResultObject::Service);
                (ExitCode::Aborted, result, Ack::Aborted, Some(reason))
            }
            JobEnd::Broken { report } => {
                let ack = Ack::Failed { reason: report.clone() };
                (ExitCode::Error, known(Phase::Unknown), ack, Some(report))
            }
        };
        let at = (job.url.clone(), job_id.clone());
        let result = Some(JobResult { job_id, exit_code, result });
        self.close(key, job, Completion { at: self.ctx.now.tai, result, ack, problem });
        self.prerequisite_ended(&at);
    }

    /// An execute has ended, with a job or without: for its sender, the journal, the log and the history.
    pub(super) fn close(&mut self, key: EntryKey, job: Job, end: Completion) {
        let job_id = end.result.as_ref().map(|result| result.job_id.clone());
        let report = JobReport::of_ended(&job, job_id, &end);
        if let Some(outcome) = report.outcome {
            *self.ctx.counters.executes.entry(outcome).or_default() += 1;
        }
        let level = match report.outcome {
            Some(JobOutcome::Completed | JobOutcome::Aborted) => LogLevel::Info,
            Some(JobOutcome::Failed | JobOutcome::Vanished | JobOutcome::Refused) | None => LogLevel::Warning,
        };
        self.ctx.log(level, report.to_string());
        let undelivered = end.deliverables();
        self.end(key, job.sender, CommandName::Execute, end);
        self.jobs.remember(EndedJob { key, report, history: job.history, undelivered });
    }
}
