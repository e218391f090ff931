//! Aborts: a job is removed at the service, and it is made sure that it is gone.
//!
//! A DELETE can fail to be answered although it was carried out, so an unclear one is confirmed by a
//! GET and, if that finds nothing, by the list: only a job that is not there any more is aborted. This holds for a job
//! of ours, for one that we did not submit and whose id a script holds, and for a duplicate.
//! A job of ours can also be named by its run id, which it has before it is submitted.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::url::Url;

use super::command::{CommandName, Sender};
use super::context::{Context, Purpose};
use super::event::{Ack, ExitCode, JobResult, Phase, ResultObject};
use super::history::NoteKind;
use super::id::{EntryKey, JobId, RunId};
use super::job::{Job, Stage};
use super::lookups::DUPLICATES_FOR;
use super::poll::ABSENCES_MAX;
use super::polls::Polled;
use super::record::HISTORY_MAX;
use super::record::{Completion, Work};
use super::report::JobOutcome;
use super::request::{Action, Failure, FailureKind, RemoveAnswer, StatusAnswer};
use super::retry::Retry;
use super::timers::{Timed, TimedMap, Timer};
use super::track::JobEnd;
use super::{Csc, REMINDER};

/// First wait before a removal is tried or confirmed again; it doubles with each failure.
const RETRY_BASE: Duration = Duration::from_secs(1);

/// A job that was there so short a time ago cannot have ended and vanished since: services keep them for hours.
/// A DELETE that finds nothing then is the second of two that a gateway made of one.
const SEEN_RECENTLY: Duration = Duration::from_secs(600);

/// Maximum number of aborted jobs that are remembered: more than the commands that ended that the journal remembers.
const ABORTED_MAX: usize = 2 * HISTORY_MAX;

/// All aborts in progress.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Commands whose records are not durable yet.
    recording: BTreeMap<EntryKey, Abort>,
    active: TimedMap<Removal>,
    /// The last jobs that were aborted, the oldest first.
    aborted: VecDeque<JobId>,
}

/// An `abort_job` whose record is being made durable.
#[derive(Debug)]
pub(super) struct Abort {
    pub(super) sender: Sender,
    pub(super) job_id: JobId,
    pub(super) url: Url,
}

/// A job that is being removed at the service.
#[derive(Debug)]
pub(super) struct Removal {
    job_id: JobId,
    url: Url,
    /// The `abort_job` commands that wait for it; none of a duplicate.
    waiting: Vec<(EntryKey, Sender)>,
    retry: Retry,
    next: Next,
    /// Whether a DELETE may have been carried out without an answer: if the job is not there then, it was.
    unclear: bool,
    /// When the service last showed that the job is there.
    seen: Option<Duration>,
    /// GETs in a row that found nothing.
    absences: u32,
    /// When the next in-progress ack is due; none before the first.
    reminder: Option<Duration>,
}

/// What comes next for a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A DELETE removes the job.
    Delete,
    /// A GET shows whether the job is still there.
    Confirm,
    /// The service's list shows whether it is.
    List,
}

/// What follows from an answer.
pub(super) enum Step {
    /// The timer makes the next request.
    Next,
    /// The next request is made later, and why.
    Later(String),
    /// The list of this service decides.
    Look(Url),
    /// The removal is over: the job is removed, or there was none.
    End(RemoveAnswer),
}

impl Timed for Removal {
    type Key = JobId;

    const TIMER: fn(JobId) -> Timer = Timer::Removal;

    fn due(&self) -> Option<Duration> {
        [self.retry.due, self.reminder].into_iter().flatten().min()
    }
}

impl Removal {
    /// The first request is due at once.
    fn new(ctx: &Context, job_id: JobId, url: Url, next: Next, seen: Option<Duration>) -> Self {
        Self {
            job_id,
            url,
            waiting: Vec::new(),
            retry: Retry::at(ctx.now.mono),
            next,
            unclear: false,
            seen,
            absences: 0,
            reminder: None,
        }
    }

    /// Sends the in-progress acks and the request that are due.
    fn on_timer(&mut self, ctx: &mut Context) {
        self.remind(ctx);
        if self.retry.due.is_none_or(|due| ctx.now.mono < due) {
            return;
        }
        self.retry.due = None;
        let job_id = self.job_id.clone();
        let (purpose, action) = match self.next {
            Next::Delete => (Purpose::Remove(job_id.clone()), Action::Remove { job_id }),
            Next::Confirm => {
                let polled = Polled::Removal(job_id.clone());
                (Purpose::Poll(polled), Action::Status { job_id, run_id: None })
            }
            Next::List => return,
        };
        ctx.ask(purpose, self.url.clone(), action);
    }

    fn remind(&mut self, ctx: &mut Context) {
        if self.reminder.is_none_or(|due| ctx.now.mono < due) {
            return;
        }
        self.reminder = Some(ctx.now.mono + REMINDER);
        for (_, sender) in &self.waiting {
            ctx.ack(sender, Some(CommandName::AbortJob), in_progress(&self.job_id));
        }
    }

    /// The answer to a DELETE that was asked for at that time.
    pub(super) fn on_removed(
        &mut self,
        ctx: &mut Context,
        asked: Duration,
        result: Result<RemoveAnswer, Failure>,
    ) -> Step {
        let is_recent = |seen| ctx.real_time_since(seen) <= SEEN_RECENTLY;
        let was_there = self.seen.is_some_and(is_recent);
        match result {
            Ok(answer @ RemoveAnswer::Removed { .. }) => Step::End(answer),
            Ok(RemoveAnswer::Gone) if self.was_seen_after(asked) => self.found(ctx),
            Ok(RemoveAnswer::Gone) if was_there => Step::End(RemoveAnswer::Removed { object: None }),
            Ok(RemoveAnswer::Gone) => Step::End(self.absence()),
            Err(Failure { kind: FailureKind::NotSent, reason, .. }) => self.fail(ctx, Next::Delete, reason),
            Err(Failure { reason, .. }) => {
                self.unclear = true;
                self.fail(ctx, Next::Confirm, reason)
            }
        }
    }

    /// The answer to the GET that confirms an unclear DELETE. That there is no job can be wrong, or an old answer out of a
    /// cache: the list decides.
    pub(super) fn on_confirmed(&mut self, ctx: &mut Context, result: Result<StatusAnswer, Failure>) -> Step {
        match result {
            Ok(StatusAnswer::Gone) => {
                self.absences += 1;
                self.next = Next::List;
                let is_certain = self.absences >= ABSENCES_MAX;
                if is_certain { Step::End(self.absence()) } else { Step::Look(self.url.clone()) }
            }
            Ok(StatusAnswer::Job(_) | StatusAnswer::Broken { .. }) => self.found(ctx),
            Err(failure) => self.fail(ctx, Next::Confirm, failure.reason),
        }
    }

    /// Whether a list shows a job that a GET did not find; or, if there is no list, when the GET is made again.
    pub(super) fn on_looked_up(
        &mut self,
        ctx: &mut Context,
        asked: Duration,
        found: Result<bool, Duration>,
    ) -> Step {
        match found {
            _ if self.next != Next::List => {}
            Ok(false) if !self.was_seen_after(asked) => return Step::End(self.absence()),
            Ok(_) => return self.found(ctx),
            Err(time) => {
                self.next = Next::Confirm;
                self.retry.due = Some(time);
            }
        }
        Step::Next
    }

    /// Whether the job was seen after that time: the answer to an earlier request says nothing about it.
    fn was_seen_after(&self, asked: Duration) -> bool {
        self.seen.is_some_and(|seen| seen > asked)
    }

    /// How the removal ends if the job is not there: an unclear DELETE has removed it, or there was none.
    fn absence(&self) -> RemoveAnswer {
        if self.unclear { RemoveAnswer::Removed { object: None } } else { RemoveAnswer::Gone }
    }

    /// The job is there: a DELETE is sent at once, or after a while if one was sent before.
    fn found(&mut self, ctx: &mut Context) -> Step {
        (self.seen, self.absences) = (Some(ctx.now.mono), 0);
        if self.unclear {
            return self.fail(ctx, Next::Delete, "the job is still there".to_owned());
        }
        self.next = Next::Delete;
        self.retry.due = Some(ctx.now.mono);
        Step::Next
    }

    /// The next request is made after a while; the senders get an in-progress ack.
    fn fail(&mut self, ctx: &mut Context, next: Next, reason: String) -> Step {
        if self.retry.failures == 0 {
            ctx.warn(format!("abort of job {}: {reason}", self.job_id));
        }
        self.next = next;
        self.retry.fail(ctx, RETRY_BASE);
        if self.reminder.is_none() && !self.waiting.is_empty() {
            self.reminder = Some(ctx.now.mono);
            self.remind(ctx);
        }
        Step::Later(reason)
    }
}

impl Removals {
    /// How many aborts are in progress, duplicates included.
    fn count(&self) -> usize {
        let active = self.active.iter().map(|(_, removal)| removal.waiting.len().max(1));
        self.recording.len() + active.sum::<usize>()
    }

    /// Forgets an abort that cannot be recorded; gives its sender.
    pub(super) fn take_recording(&mut self, key: EntryKey) -> Option<Sender> {
        self.recording.remove(&key).map(|abort| abort.sender)
    }

    pub(super) fn contains(&self, job_id: &JobId) -> bool {
        self.active.get(job_id).is_some()
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Context, job_id: &JobId) {
        self.active.update(ctx, job_id, |ctx, removal| removal.on_timer(ctx));
    }

    /// The service says that it has created this job, which is being removed already: a script that found its id
    /// elsewhere was quicker.
    pub(super) fn note_present(&mut self, ctx: &mut Context, job_id: &JobId) {
        self.active.update(ctx, job_id, |ctx, removal| removal.seen = Some(ctx.now.mono));
    }

    /// Remembers a job that was aborted: if it is aborted again, no second result is published.
    pub(super) fn note_aborted(&mut self, end: &Completion) {
        let aborted = end.result.as_ref().filter(|result| result.exit_code == ExitCode::Aborted);
        self.aborted.extend(aborted.map(|result| result.job_id.clone()));
        if self.aborted.len() > ABORTED_MAX {
            self.aborted.pop_front();
        }
    }

    /// The `abort_job` commands in progress.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&JobId, EntryKey, &Sender)> {
        let recording = self.recording.iter().map(|(key, abort)| (&abort.job_id, *key, &abort.sender));
        recording.chain(self.active.iter().flat_map(|(job_id, removal)| {
            removal.waiting.iter().map(move |(key, sender)| (job_id, *key, sender))
        }))
    }
}

impl Csc {
    /// Accepts an `abort_job`.
    pub(super) fn abort(&mut self, sender: Sender, job_id: JobId) {
        let max = self.ctx.settings.max_jobs;
        if self.removals.count() >= max {
            let reason = format!("{max} aborts are in progress, which is the limit");
            return self.ctx.fail(&sender, Some(CommandName::AbortJob), reason);
        }
        let ours = self.our_job(&job_id).and_then(|key| self.jobs.get(key)).map(|job| &job.url);
        let url = ours.or_else(|| self.transitions.service().map(|service| &service.url)).cloned();
        // ENABLED is reached only through a `start`, which applies a service.
        let url = url.unwrap_or_else(|| "".into());
        let work = Work::Abort { job_id: job_id.clone(), url: url.clone() };
        let key = self.accept(sender.clone(), work).key;
        self.removals.recording.insert(key, Abort { sender, job_id, url });
    }

    /// The record of an abort is durable: the job may be removed.
    pub(super) fn abort_journaled(&mut self, key: EntryKey) {
        if let Some(abort) = self.removals.recording.remove(&key) {
            if let Some(ours) = self.our_job(&abort.job_id) {
                self.jobs.update(&mut self.ctx, ours, |ctx, job| {
                    job.history.note(ctx, ours, NoteKind::Abort, &abort.sender.identity);
                });
            }
            self.begin_removal(key, abort);
        }
    }

    /// Resumes an abort of a previous run, which may have sent its DELETE.
    pub(super) fn recover_removal(&mut self, key: EntryKey, abort: Abort) {
        let Some(job_id) = self.begin_removal(key, abort) else { return };
        self.removals.active.update(&mut self.ctx, &job_id, |ctx, removal| {
            removal.unclear = true;
            removal.next = Next::Delete;
            removal.retry.due = Some(ctx.now.mono);
            removal.reminder = Some(ctx.now.mono);
        });
    }

    /// Removes a job for an `abort_job`, and gives its id, unless there is none.
    fn begin_removal(&mut self, key: EntryKey, abort: Abort) -> Option<JobId> {
        let Abort { sender, job_id, url } = abort;
        let job_id = self.end_unsubmitted(key, &sender, job_id)?;
        if !self.removals.contains(&job_id) {
            self.ctx.info(format!("aborting job {job_id}"));
            let ours = self.jobs.by_id(&job_id);
            let seen = ours.and_then(|key| self.polls.seen(&url, &Polled::Ours(key)));
            if let Some(key) = ours {
                self.stop_polling(key, &job_id);
            }
            // A job of a previous run may have vanished since: a GET comes first, so that a DELETE that finds nothing is
            // clear.
            let first = if ours.is_some() && seen.is_none() { Next::Confirm } else { Next::Delete };
            let removal = Removal::new(&self.ctx, job_id.clone(), url, first, seen);
            self.removals.active.insert(&mut self.ctx, job_id.clone(), removal);
        }
        // Commands that abort the same job share one outcome.
        self.removals.active.update(&mut self.ctx, &job_id, |ctx, removal| {
            if removal.reminder.is_some() {
                // The other senders have had an in-progress ack.
                ctx.ack(&sender, Some(CommandName::AbortJob), in_progress(&job_id));
            }
            removal.waiting.push((key, sender));
        });
        Some(job_id)
    }

    /// The execute whose job id or run id this is, unless it has ended.
    fn our_job(&self, id: &JobId) -> Option<EntryKey> {
        self.jobs.by_id(id).or_else(|| self.jobs.by_run(&RunId::parse(id.as_str())?))
    }

    /// Ends the abort of a run that has no job; else gives the job that is to be removed.
    fn end_unsubmitted(&mut self, key: EntryKey, sender: &Sender, id: JobId) -> Option<JobId> {
        let ack = if let Some(execute) = self.our_job(&id) {
            let job_id = self.jobs.get(execute).and_then(Job::job_id).cloned();
            if job_id.is_some() {
                return job_id;
            }
            self.abort_unsubmitted(execute, sender);
            Ack::Complete
        } else {
            let ended = self.jobs.ended().find(|ended| ended.report.run_id.as_str() == id.as_str());
            match ended.map(|ended| (&ended.report.job_id, ended.report.outcome)) {
                None => return Some(id),
                Some((Some(job_id), _)) => return Some(job_id.clone()),
                // Perhaps by this very command in a previous run.
                Some((None, Some(JobOutcome::Aborted))) => Ack::Complete,
                Some((None, _)) => Ack::Failed { reason: "No such job: its submission failed".to_owned() },
            }
        };
        self.end_abort(key, sender.clone(), None, ack);
        None
    }

    /// Aborts an execute that has no job yet: there is no id and so no result. If a job of its run appears all the same,
    /// it is removed.
    fn abort_unsubmitted(&mut self, execute: EntryKey, sender: &Sender) {
        let Some(job) = self.jobs.remove(&mut self.ctx, execute) else { return };
        let may_exist = match &job.stage {
            Stage::Waiting { prereqs, stale_at } => {
                self.forget_wait(execute, prereqs);
                stale_at.is_some()
            }
            Stage::Submitting(submitting) => submitting.doubtful || submitting.retry.due.is_none(),
            Stage::Recording { .. } | Stage::Running { .. } | Stage::Aborting { .. } => false,
        };
        if may_exist {
            self.lookups.look_for_duplicates(&mut self.ctx, DUPLICATES_FOR, execute, &job, None);
        }
        let reason = format!("abort_job of {} before it was submitted", sender.identity);
        let at = self.ctx.now.tai;
        self.close(execute, job, Completion { at, result: None, ack: Ack::Aborted, problem: Some(reason) });
    }

    fn end_abort(&mut self, key: EntryKey, sender: Sender, result: Option<JobResult>, ack: Ack) {
        let end = Completion { at: self.ctx.now.tai, result, ack, problem: None };
        self.end(key, sender, CommandName::AbortJob, end);
    }

    /// Removes a second job of a run.
    pub(super) fn remove_duplicate(&mut self, url: &Url, job_id: JobId) {
        let known = self.removals.contains(&job_id) || self.jobs.by_id(&job_id).is_some();
        if known || self.removals.count() >= self.ctx.settings.max_jobs {
            return;
        }
        self.ctx.warn(format!("removing job {job_id}: its run has another job, or its command has ended"));
        let seen = Some(self.ctx.now.mono);
        let removal = Removal::new(&self.ctx, job_id.clone(), url.clone(), Next::Delete, seen);
        self.removals.active.insert(&mut self.ctx, job_id, removal);
    }

    /// Changes a removal, if it is in progress, and does what follows.
    pub(super) fn step_removal(
        &mut self,
        job_id: &JobId,
        change: impl FnOnce(&mut Context, &mut Removal) -> Step,
    ) {
        match self.removals.active.update(&mut self.ctx, job_id, change) {
            Some(Step::Later(reason)) => {
                if let Some(key) = self.jobs.by_id(job_id) {
                    let problem = Some(format!("abort: {reason}"));
                    self.jobs.update(&mut self.ctx, key, |_, job| job.problem = problem);
                }
            }
            Some(Step::Look(url)) => {
                let polled = Polled::Removal(job_id.clone());
                self.lookups.miss(&mut self.ctx, &url, polled, job_id.clone());
            }
            Some(Step::End(answer)) => self.end_removal(job_id, answer),
            Some(Step::Next) | None => {}
        }
    }

    /// Ends a removal, in this order: the job's result, the final ack of its execute, those of the aborts.
    fn end_removal(&mut self, job_id: &JobId, answer: RemoveAnswer) {
        let Some(removal) = self.removals.active.remove(&mut self.ctx, job_id) else { return };
        let removed = matches!(answer, RemoveAnswer::Removed { .. });
        let mut result = None;
        match (answer, self.jobs.by_id(job_id)) {
            (RemoveAnswer::Removed { object }, Some(key)) => {
                let reason = match removal.waiting.first() {
                    Some((_, sender)) => format!("abort_job of {}", sender.identity),
                    None => "removed, as it seemed to be left by an unclear submission".to_owned(),
                };
                self.finish(key, JobEnd::Aborted { object, reason });
            }
            (RemoveAnswer::Gone, Some(key)) => {
                let reason = "the service did not know it any more when it was to be aborted".to_owned();
                self.finish(key, JobEnd::Vanished { reason });
            }
            // A job that we did not submit: the first waiting abort publishes its result. That of a duplicate is not
            // published.
            (RemoveAnswer::Removed { object }, None) if !self.removals.aborted.contains(job_id) => {
                let known =
                    ResultObject::Known { job_id: job_id.clone(), run_id: None, phase: Phase::Aborted };
                let object = object.map_or(known, ResultObject::Service);
                let exit_code = ExitCode::Aborted;
                result = Some(JobResult { job_id: job_id.clone(), exit_code, result: object });
                self.prerequisite_ended(&(removal.url.clone(), job_id.clone()));
            }
            // Its result was published before, perhaps in a previous run.
            (RemoveAnswer::Removed { .. } | RemoveAnswer::Gone, None) => {}
        }
        for (key, sender) in removal.waiting {
            let reason = format!("No such job: {job_id}");
            let ack = if removed { Ack::Complete } else { Ack::Failed { reason } };
            self.end_abort(key, sender, result.take(), ack);
        }
    }
}

fn in_progress(job_id: &JobId) -> Ack {
    Ack::InProgress { job_id: job_id.clone(), missing_prereqs: Vec::new() }
}
