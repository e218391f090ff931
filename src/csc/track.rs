//! From a job that exists to its end: polls, results, final acks; and the prerequisites of others.

use std::time::Duration;

use crate::url::Url;

use super::command::CommandName;
use super::context::Purpose;
use super::event::{Ack, ErrorCode, ExitCode, JobObject, JobResult, LogLevel, Phase, ResultObject};
use super::id::{EntryKey, JobId};
use super::job::{Absence, Ended, Job, Poll, PollStep, Running, Stage};
use super::record::End;
use super::report::JobOutcome;
use super::request::{Action, Contact, Failure, JobStatus, StatusAnswer, Ticket};
use super::{Csc, HISTORY_MAX, REMINDER};

/// How a job ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// In a final phase.
    Phase(Phase, JobObject),
    /// Nobody can tell how: why so.
    Vanished { reason: String },
    /// By our `abort_job`, with an object where the back-end has one.
    Aborted { object: Option<JobObject>, reason: String },
    /// The back-end broke down.
    Broken { report: String },
}

impl Csc {
    pub(super) fn advance_jobs(&mut self) {
        let now = self.ctx.now.mono;
        let due = |job: &Job| job.due().is_some_and(|due| due <= now);
        let keys: Vec<EntryKey> = self.jobs.iter().filter(|(_, job)| due(job)).map(|(key, _)| *key).collect();
        for key in keys {
            self.remind(key);
            self.advance_submission(key);
            self.poll(key);
        }
    }

    /// Tells a waiting sender again that its job goes on.
    fn remind(&mut self, key: EntryKey) {
        let now = self.ctx.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if job.reminder.is_none_or(|due| now < due) {
            return;
        }
        job.reminder = Some(now + REMINDER);
        let Some(job_id) = job.job_id().cloned() else { return };
        let (sender, missing_prereqs) = (job.sender.clone(), job.missing_prereqs.clone());
        self.ctx.ack(&sender, Some(CommandName::Execute), Ack::InProgress { job_id, missing_prereqs });
    }

    fn poll(&mut self, key: EntryKey) {
        let now = self.ctx.now.mono;
        let Some((job, Running { job_id, poll, is_announced: true })) = self.running(key) else { return };
        if poll.due().is_none_or(|due| now < due) {
            return;
        }
        let action = Action::Status { job_id: job_id.clone(), run_id: Some(job.run_id().clone()) };
        let url = job.url.clone();
        let ticket = self.ctx.ask(Purpose::Poll(key), url, action);
        if let Some(Job { stage: Stage::Running(running), .. }) = self.jobs.get_mut(&key) {
            running.poll.step = PollStep::Asked(ticket);
        }
    }

    pub(super) fn running(&self, key: EntryKey) -> Option<(&Job, &Running)> {
        let job = self.jobs.get(&key)?;
        match &job.stage {
            Stage::Running(running) => Some((job, running)),
            Stage::Recording { .. }
            | Stage::Waiting { .. }
            | Stage::Submitting(_)
            | Stage::Aborting { .. } => None,
        }
    }

    /// The answer to a poll of one of our jobs, asked for at that time.
    pub(super) fn polled(&mut self, key: EntryKey, asked: Duration, result: Result<StatusAnswer, Failure>) {
        match result {
            Ok(StatusAnswer::Job(status)) => self.note_status(key, status),
            Ok(StatusAnswer::Gone) => self.note_absence(key),
            Ok(StatusAnswer::Broken { report }) => self.finish(key, Ending::Broken { report }),
            Err(failure) => self.poll_failed(key, asked, failure),
        }
    }

    /// The service says that there is no such job. One such answer can be wrong, or an old one out of a cache: it is
    /// asked again, and then the list decides.
    fn note_absence(&mut self, key: EntryKey) {
        let (now, after) = (self.ctx.now.mono, self.ctx.last_ticket());
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let url = job.url.clone();
        let Stage::Running(running) = &mut job.stage else { return };
        job.problem = Some("the service says that there is no such job: it is asked again".to_owned());
        match running.poll.absent(now, after) {
            Absence::Again => {}
            Absence::Listed => self.look_soon(url),
            Absence::Certain => self.lose(key),
        }
    }

    /// A list shows a job that seemed to have vanished, or not.
    pub(super) fn job_looked_up(&mut self, key: EntryKey, list: Ticket, is_there: bool) {
        let now = self.ctx.now.mono;
        let name = self.name_of(key);
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let interval = job.poll_interval;
        let Stage::Running(running) = &mut job.stage else { return };
        if !running.poll.is_decided_by(list) {
            return;
        }
        if is_there {
            running.poll = Poll::seen(now, now + interval);
            let line =
                format!("run {name} is in the service's list although it says that there is no such job");
            self.log_trouble(key, line);
        } else {
            self.lose(key);
        }
    }

    /// A job is not at the service any more, and nobody knows how it ended.
    fn lose(&mut self, key: EntryKey) {
        self.finish(key, Ending::Vanished { reason: "the service does not know it any more".to_owned() });
    }

    /// The list that was to decide about them could not be had.
    pub(super) fn ask_missing_again(&mut self, url: &Url, list: Ticket, time: Duration) {
        let running = self.jobs.values_mut().filter_map(|job| match &mut job.stage {
            Stage::Running(running) => Some((&job.url, &mut running.poll)),
            Stage::Recording { .. }
            | Stage::Waiting { .. }
            | Stage::Submitting(_)
            | Stage::Aborting { .. } => None,
        });
        let watched = self.watches.values_mut().map(|watch| (&watch.url, &mut watch.poll));
        for (_, poll) in running.chain(watched).filter(|(of, poll)| *of == url && poll.is_decided_by(list)) {
            poll.step = PollStep::Due(time);
        }
        self.confirm_removals_again(url, list, time);
    }

    /// A believable status of a running job.
    pub(super) fn note_status(&mut self, key: EntryKey, status: JobStatus) {
        let now = self.ctx.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.problem = None;
        job.phase = Some(status.phase);
        if status.phase.exit_code().is_some() {
            return self.finish(key, Ending::Phase(status.phase, status.object));
        }
        if let Stage::Running(running) = &mut job.stage {
            running.poll = Poll::seen(now, now + job.poll_interval);
        }
        self.note_active(&status.job_id);
    }

    /// Recovered commands that wait for this job have not been submitted yet.
    fn note_active(&mut self, job_id: &JobId) {
        if let Some(active) = self.recovered_prereqs.get_mut(job_id) {
            *active = Some(self.ctx.now.mono);
        }
    }

    fn poll_failed(&mut self, key: EntryKey, asked: Duration, failure: Failure) {
        let now = self.ctx.now.mono;
        let Some((job, running)) = self.running(key) else { return };
        let (interval, misses) = (job.poll_interval, running.poll.misses + 1);
        if self.is_disbelieved(&job.url, running.poll.believed, asked) {
            let reason = format!("no believable answer about it for a day: {}", failure.reason);
            return self.finish(key, Ending::Vanished { reason });
        }
        match failure.contact {
            Contact::Answered | Contact::NotAsked => {
                self.log_trouble(key, format!("poll of run {}: {failure}", self.name_of(key)))
            }
            Contact::Silent => self.leave_out(&job.url.clone()),
        }
        let next = now + self.ctx.backoff(interval, misses - 1);
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.problem = Some(failure.reason);
        if let Stage::Running(running) = &mut job.stage {
            running.poll.misses = misses;
            running.poll.step = PollStep::Due(next);
        }
    }

    /// The end of a job that exists: its result, then the final ack of its command.
    pub(super) fn finish(&mut self, key: EntryKey, ending: Ending) {
        let Some(job) = self.jobs.remove(&key) else { return };
        let Some(job_id) = job.job_id().cloned() else { return };
        self.job_ids.remove(&job_id);
        let known =
            |phase| ResultObject::Known { job_id: job_id.clone(), run_id: Some(job.run_id().clone()), phase };
        let mut fault = None;
        let (exit_code, result, ack, problem) = match ending {
            Ending::Phase(phase, object) => {
                let exit_code = phase.exit_code().unwrap_or(ExitCode::Error);
                (exit_code, ResultObject::Service(object), Ack::Complete, reason_of(phase))
            }
            Ending::Vanished { reason } => {
                (ExitCode::Error, known(Phase::Unknown), Ack::Complete, Some(reason))
            }
            Ending::Aborted { object, reason } => {
                let result = object.map_or_else(|| known(Phase::Aborted), ResultObject::Service);
                (ExitCode::Aborted, result, Ack::Aborted, Some(reason))
            }
            Ending::Broken { report } => {
                fault = Some((ErrorCode::Simulated, report.clone()));
                let ack = Ack::Failed { reason: report.clone() };
                (ExitCode::Error, known(Phase::Unknown), ack, Some(report))
            }
        };
        let result = Some(JobResult { job_id: job_id.clone(), exit_code, result });
        self.close(key, job, End { at: self.ctx.now.tai, result, ack, problem }, fault);
        self.prerequisite_ended(&job_id);
    }

    /// An execute has ended, with a job or without: for the world, the journal, the log and the history.
    pub(super) fn close(&mut self, key: EntryKey, job: Job, end: End, fault: Option<(ErrorCode, String)>) {
        let job_id = end.result.as_ref().map(|result| result.job_id.clone());
        let ended = Ended::new(&job.sender, &job.submission, job_id, job.accepted, &end);
        let level = match ended.outcome {
            JobOutcome::Completed | JobOutcome::Aborted => LogLevel::Info,
            JobOutcome::Failed | JobOutcome::Vanished | JobOutcome::Refused => LogLevel::Warning,
        };
        self.ctx.log(level, ended.to_string());
        self.end_with_fault(key, job.sender, CommandName::Execute, end, fault);
        self.remember(ended);
    }

    pub(super) fn remember(&mut self, ended: Ended) {
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(ended);
    }

    /// Polls the jobs of others that ours wait for.
    pub(super) fn advance_watches(&mut self) {
        let now = self.ctx.now.mono;
        let due = self.watches.iter().filter(|(_, watch)| watch.due().is_some_and(|due| due <= now));
        let due: Vec<JobId> = due.map(|(job_id, _)| job_id.clone()).collect();
        for job_id in due {
            let Some(watch) = self.watches.get(&job_id) else { continue };
            let action = Action::Status { job_id: job_id.clone(), run_id: None };
            let ticket = self.ctx.ask(Purpose::Prerequisite(job_id.clone()), watch.url.clone(), action);
            if let Some(watch) = self.watches.get_mut(&job_id) {
                watch.poll.step = PollStep::Asked(ticket);
            }
        }
    }

    /// The answer to a poll of a prerequisite. Success is not required, only an end.
    pub(super) fn watched(&mut self, job_id: &JobId, asked: Duration, result: Result<StatusAnswer, Failure>) {
        match result {
            Ok(StatusAnswer::Job(status)) if status.phase.exit_code().is_some() => {
                self.prerequisite_ended(job_id);
            }
            Ok(StatusAnswer::Broken { .. }) => self.prerequisite_ended(job_id),
            Ok(StatusAnswer::Job(_)) => {
                let now = self.ctx.now.mono;
                if let Some(watch) = self.watches.get_mut(job_id) {
                    watch.poll = Poll::seen(now, now + watch.poll_interval);
                }
                self.note_active(job_id);
            }
            Ok(StatusAnswer::Gone) => {
                let (now, after) = (self.ctx.now.mono, self.ctx.last_ticket());
                let Some(watch) = self.watches.get_mut(job_id) else { return };
                let url = watch.url.clone();
                match watch.poll.absent(now, after) {
                    Absence::Again => {}
                    Absence::Listed => self.look_soon(url),
                    Absence::Certain => self.lose_prerequisite(job_id),
                }
            }
            Err(failure) => self.watch_failed(job_id, asked, &failure),
        }
    }

    /// A list shows a prerequisite that seemed not to exist, or not.
    pub(super) fn prerequisite_looked_up(&mut self, job_id: &JobId, list: Ticket, is_there: bool) {
        let now = self.ctx.now.mono;
        let decided = self.watches.get_mut(job_id).filter(|watch| watch.poll.is_decided_by(list));
        let Some(watch) = decided else { return };
        if is_there {
            watch.poll = Poll::seen(now, now + watch.poll_interval);
        } else {
            self.lose_prerequisite(job_id);
        }
    }

    fn lose_prerequisite(&mut self, job_id: &JobId) {
        self.ctx.log(LogLevel::Warning, format!("prerequisite job {job_id} does not exist: not waited for"));
        self.note_missing(job_id);
        self.prerequisite_ended(job_id);
    }

    fn watch_failed(&mut self, job_id: &JobId, asked: Duration, failure: &Failure) {
        let Some(watch) = self.watches.get(job_id) else { return };
        let (interval, misses) = (watch.poll_interval, watch.poll.misses + 1);
        if self.is_disbelieved(&watch.url, watch.poll.believed, asked) {
            self.ctx
                .log(LogLevel::Error, format!("gave up waiting for prerequisite job {job_id}: {failure}"));
            return self.prerequisite_ended(job_id);
        }
        match failure.contact {
            Contact::Answered | Contact::NotAsked if !watch.trouble_logged => {
                self.ctx.log(LogLevel::Warning, format!("prerequisite job {job_id}: {failure}"));
            }
            Contact::Answered | Contact::NotAsked => {}
            Contact::Silent => self.leave_out(&watch.url.clone()),
        }
        let next: Duration = self.ctx.now.mono + self.ctx.backoff(interval, misses - 1);
        if let Some(watch) = self.watches.get_mut(job_id) {
            watch.poll.misses = misses;
            watch.trouble_logged |= failure.contact != Contact::Silent;
            watch.poll.step = PollStep::Due(next);
        }
    }
}

/// Why a job that ended in this phase did not succeed.
fn reason_of(phase: Phase) -> Option<String> {
    let reason = match phase {
        Phase::Error => "the service says that it failed (phase error)",
        Phase::Aborted => "aborted at the service, not by abort_job",
        Phase::Unknown => "the service does not know how it ended (phase unknown)",
        Phase::Completed
        | Phase::Pending
        | Phase::Queued
        | Phase::Active
        | Phase::Held
        | Phase::Suspended
        | Phase::Other => return None,
    };
    Some(reason.to_owned())
}
