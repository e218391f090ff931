//! From a job that exists to its end: polls, results, final acks; and the prerequisites of others.

use std::time::Duration;

use super::command::CommandName;
use super::event::{Ack, ErrorCode, ExitCode, JobObject, JobResult, LogLevel, Phase, ResultObject};
use super::id::{EntryKey, JobId};
use super::job::{Ended, Job, Poll, PollStep, Running, Stage};
use super::record::End;
use super::request::{Action, Answer, Failure, JobStatus};
use super::{Asked, Csc, HISTORY_MAX, REMINDER};

/// How a job ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// In a final phase, with an object where the service told one.
    Phase(Phase, Option<JobObject>),
    /// By our `abort_job`, with an object where the back-end has one.
    Aborted(Option<JobObject>),
    /// The back-end broke down.
    Broken { code: ErrorCode, report: String },
}

impl Csc {
    pub(super) fn advance_jobs(&mut self) {
        let now = self.now.mono;
        let due = |job: &Job| job.due(&self.settings).is_some_and(|due| due <= now);
        let keys: Vec<EntryKey> = self.jobs.iter().filter(|(_, job)| due(job)).map(|(key, _)| *key).collect();
        for key in keys {
            self.remind(key);
            self.advance_submission(key);
            self.poll(key);
        }
    }

    /// Tells a waiting sender again that its job goes on.
    fn remind(&mut self, key: EntryKey) {
        let now = self.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if job.reminder.is_none_or(|due| now < due) {
            return;
        }
        job.reminder = Some(now + REMINDER);
        let Some(job_id) = job.job_id().cloned() else { return };
        let sender = job.sender.clone();
        self.ack(&sender, Some(CommandName::Execute), Ack::InProgress { job_id });
    }

    fn poll(&mut self, key: EntryKey) {
        let now = self.now.mono;
        let Some((job, Running { job_id, poll, untold: None })) = self.running(key) else { return };
        if poll.due().is_none_or(|due| now < due) {
            return;
        }
        let action = Action::Status { job_id: job_id.clone(), run_id: Some(job.run_id().clone()) };
        let url = job.url.clone();
        let ticket = self.ask(Asked::Poll(key), url, action);
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

    /// The answer to a poll of one of our jobs.
    pub(super) fn polled(&mut self, key: EntryKey, answer: Answer) {
        match answer {
            Answer::Job(status) => self.note_status(key, status),
            Answer::Gone => {
                self.log(
                    LogLevel::Warning,
                    format!("the service does not know run {} any more", self.name_of(key)),
                );
                self.finish(key, Ending::Phase(Phase::Unknown, None));
            }
            Answer::Broken { code, report } => self.finish(key, Ending::Broken { code, report }),
            Answer::Failed(failure) => self.poll_failed(key, failure),
            // No back-end answers a poll so.
            Answer::Removed { .. } | Answer::Listed(_) | Answer::Done | Answer::Rejected { .. } => {
                self.poll_failed(key, out_of_place());
            }
        }
    }

    /// A believable status of a running job.
    pub(super) fn note_status(&mut self, key: EntryKey, status: JobStatus) {
        let now = self.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.problem = None;
        if status.phase.exit_code().is_some() {
            return self.finish(key, Ending::Phase(status.phase, Some(status.object)));
        }
        if let Stage::Running(running) = &mut job.stage {
            running.poll = Poll::new(now, now + job.poll_interval);
        }
        self.note_active(&status.job_id);
    }

    /// Recovered commands that wait for this job have not been submitted yet.
    fn note_active(&mut self, job_id: &JobId) {
        if let Some(active) = self.recovered_prereqs.get_mut(job_id) {
            *active = Some(self.now.mono);
        }
    }

    fn poll_failed(&mut self, key: EntryKey, failure: Failure) {
        let now = self.now.mono;
        let Some((job, running)) = self.running(key) else { return };
        let (interval, misses) = (job.poll_interval, running.poll.misses + 1);
        if self.is_disbelieved(&job.url, running.poll.believed) {
            let reason = &failure.reason;
            self.log(LogLevel::Error, format!("gave up run {}: {reason}", self.name_of(key)));
            return self.finish(key, Ending::Phase(Phase::Unknown, None));
        }
        if misses == 1 {
            self.log(LogLevel::Warning, format!("poll of run {}: {failure}", self.name_of(key)));
        }
        let next = now + self.backoff(interval, misses - 1);
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
        let or_known =
            |object: Option<JobObject>, phase| object.map_or_else(|| known(phase), ResultObject::Service);
        let (exit_code, result, ack, fault) = match ending {
            Ending::Phase(phase, object) => {
                let exit_code = phase.exit_code().unwrap_or(ExitCode::Error);
                (exit_code, or_known(object, phase), Ack::Complete, None)
            }
            Ending::Aborted(object) => {
                (ExitCode::Aborted, or_known(object, Phase::Aborted), Ack::Aborted, None)
            }
            Ending::Broken { code, report } => {
                let ack = Ack::Failed { reason: report.clone() };
                (ExitCode::Error, known(Phase::Unknown), ack, Some((code, report)))
            }
        };
        self.log(LogLevel::Info, format!("job {job_id} ended with exit code {}", exit_code.number()));
        let result = JobResult { job_id: job_id.clone(), exit_code, result };
        let end = End { at: self.now.tai, result: Some(result), ack, problem: job.problem.clone() };
        self.end_with_fault(key, job.sender.clone(), CommandName::Execute, end, fault);
        self.remember(Ended {
            run_id: job.run_id().clone(),
            pipeline: job.submission.pipeline.clone(),
            sender: job.sender,
            job_id: Some(job_id.clone()),
            accepted: job.accepted,
            ended: self.now.tai,
            exit_code: Some(exit_code),
            problem: job.problem,
        });
        self.prerequisite_ended(&job_id);
    }

    pub(super) fn remember(&mut self, ended: Ended) {
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(ended);
    }

    /// Polls the jobs of others that ours wait for.
    pub(super) fn advance_watches(&mut self) {
        let now = self.now.mono;
        let due = self.watches.iter().filter(|(_, watch)| watch.due().is_some_and(|due| due <= now));
        let due: Vec<JobId> = due.map(|(job_id, _)| job_id.clone()).collect();
        for job_id in due {
            let Some(watch) = self.watches.get(&job_id) else { continue };
            let action = Action::Status { job_id: job_id.clone(), run_id: None };
            let ticket = self.ask(Asked::Watch(job_id.clone()), watch.url.clone(), action);
            if let Some(watch) = self.watches.get_mut(&job_id) {
                watch.poll.step = PollStep::Asked(ticket);
            }
        }
    }

    /// The answer to a poll of a prerequisite. Success is not required, only an end.
    pub(super) fn watched(&mut self, job_id: &JobId, answer: Answer) {
        match answer {
            Answer::Job(status) if status.phase.exit_code().is_some() => self.prerequisite_ended(job_id),
            Answer::Job(_) => {
                let now = self.now.mono;
                if let Some(watch) = self.watches.get_mut(job_id) {
                    watch.poll = Poll::new(now, now + watch.poll_interval);
                }
                self.note_active(job_id);
            }
            Answer::Gone => {
                self.log(
                    LogLevel::Warning,
                    format!("prerequisite job {job_id} does not exist: not waited for"),
                );
                self.prerequisite_ended(job_id);
            }
            Answer::Failed(failure) => self.watch_failed(job_id, &failure),
            // No back-end answers a poll so; the simulator's broken jobs are none of somebody else's.
            Answer::Removed { .. }
            | Answer::Listed(_)
            | Answer::Done
            | Answer::Rejected { .. }
            | Answer::Broken { .. } => {
                self.watch_failed(job_id, &out_of_place());
            }
        }
    }

    fn watch_failed(&mut self, job_id: &JobId, failure: &Failure) {
        let Some(watch) = self.watches.get(job_id) else { return };
        let (interval, misses) = (watch.poll_interval, watch.poll.misses + 1);
        if self.is_disbelieved(&watch.url, watch.poll.believed) {
            self.log(LogLevel::Error, format!("gave up waiting for prerequisite job {job_id}: {failure}"));
            return self.prerequisite_ended(job_id);
        }
        if misses == 1 {
            self.log(LogLevel::Warning, format!("prerequisite job {job_id}: {failure}"));
        }
        let next: Duration = self.now.mono + self.backoff(interval, misses - 1);
        if let Some(watch) = self.watches.get_mut(job_id) {
            watch.poll.misses = misses;
            watch.poll.step = PollStep::Due(next);
        }
    }
}

/// A failure for an answer that no back-end gives to this question.
pub(super) fn out_of_place() -> Failure {
    Failure {
        kind: super::request::FailureKind::Wrong,
        contact: super::request::Contact::Answered,
        reason: "the back-end answered out of place".to_owned(),
    }
}
