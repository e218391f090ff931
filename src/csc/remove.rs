//! Aborts: a job is removed at the service, and it is made sure that it is gone.
//!
//! A DELETE can fail to be answered although it was carried out, so an unclear one is confirmed by a
//! GET and, if that finds nothing, by the list: only a job that is not there any more is aborted. This holds for a job
//! of ours, for one that we do not follow and whose id a script holds, and for an extra job of a run of ours.
//! A job of ours can also be named by its run id, which is all that there is of one that waits for others.

use std::time::Duration;

use crate::url::Url;

use super::command::{CommandName, Sender};
use super::context::Purpose;
use super::event::{Ack, ExitCode, JobObject, JobResult, LogLevel, Phase, ResultObject};
use super::id::{EntryKey, JobId};
use super::job::{ABSENCES_MAX, Origin, PollStep, Stage, SubmitStep};
use super::lookup::{Listing, SUSPECT_FOR};
use super::record::{End, Work};
use super::report::JobOutcome;
use super::request::{Action, Failure, FailureKind, RemoveAnswer, StatusAnswer, Ticket};
use super::track::Ending;
use super::{Csc, HISTORY_MAX, REMINDER};

/// First wait before a removal is tried or confirmed again; it doubles with each.
const RETRY_BASE: Duration = Duration::from_secs(1);

/// Most `abort_job` commands that wait for one removal.
const WAITING_MAX: usize = 100;

/// A job that was there so short a time ago cannot have ended and vanished since: services keep them for hours.
/// A DELETE that finds nothing then is the second of two that a gateway made of one.
const SEEN_RECENTLY: Duration = Duration::from_secs(600);

/// Most aborted jobs that are remembered: more than the journal gives back of those that are over.
const ABORTED_MAX: usize = 2 * HISTORY_MAX;

/// An `abort_job` whose record is being made durable.
#[derive(Debug)]
pub(super) struct Abort {
    pub(super) sender: Sender,
    pub(super) job_id: JobId,
    url: Url,
}

/// A job on its way out.
#[derive(Debug)]
pub(super) struct Removal {
    url: Url,
    /// The `abort_job` commands that wait for it; none of a stray.
    pub(super) waiting: Vec<(EntryKey, Sender)>,
    step: Step,
    /// Whether a DELETE may have been carried out unseen: then its absence proves that it was.
    unclear: bool,
    /// When the service last showed that the job is there.
    seen: Option<Duration>,
    /// GETs in a row that found nothing.
    absences: u32,
    failures: u32,
    /// When those that wait are told again that it is in progress; none before they were told once.
    reminder: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Asking,
    Pausing {
        until: Duration,
        next: Next,
    },
    /// A GET found nothing: the next list that is asked for after this decides.
    Missing {
        after: Ticket,
    },
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Delete,
    Confirm,
}

/// What an id in an `abort_job` means.
enum Named {
    /// A job at the service.
    Job(JobId),
    /// An execute that has no job yet.
    Unsubmitted(EntryKey),
    /// A run that ended without a job.
    Ended(JobOutcome),
}

/// How a removal ended.
enum Verdict {
    Removed(Option<JobObject>),
    NoSuchJob,
}

impl Removal {
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn due(&self) -> Option<Duration> {
        let step = match self.step {
            Step::Asking | Step::Missing { .. } => None,
            Step::Pausing { until, .. } => Some(until),
        };
        [step, self.reminder].into_iter().flatten().min()
    }

    /// Whether the job was created after that: what was asked then tells nothing of it.
    fn was_seen_after(&self, asked: Duration) -> bool {
        self.seen.is_some_and(|seen| seen > asked)
    }

    fn is_decided_by(&self, list: Ticket) -> bool {
        match self.step {
            Step::Missing { after } => list > after,
            Step::Asking | Step::Pausing { .. } => false,
        }
    }
}

impl Csc {
    /// Takes an `abort_job`.
    pub(super) fn abort(&mut self, sender: Sender, job_id: JobId) {
        let recording = self.aborts.values().filter(|abort| abort.job_id == job_id).count();
        let waiting = self.removals.get(&job_id).map_or(0, |removal| removal.waiting.len());
        let max = self.ctx.settings.max_jobs;
        let problem = if recording + waiting >= WAITING_MAX {
            Some(format!("{WAITING_MAX} commands wait for the abort of job {job_id}, which is the limit"))
        } else if recording + waiting == 0 && self.aborts.len() + self.removals.len() >= max {
            Some(format!("{max} aborts are in progress, which is the limit"))
        } else {
            None
        };
        if let Some(reason) = problem {
            return self.ctx.fail(&sender, Some(CommandName::AbortJob), reason);
        }
        let tracked = self.job_ids.get(&job_id).copied().or_else(|| self.key_of_run(&job_id));
        let tracked = tracked.and_then(|key| self.jobs.get(&key));
        let url = tracked
            .map(|job| job.url.clone())
            .or_else(|| self.transitions.configuration().map(|c| c.service.url.clone()));
        let Some(url) = url else {
            let reason = "no configuration was applied".to_owned();
            return self.ctx.fail(&sender, Some(CommandName::AbortJob), reason);
        };
        let work = Work::Abort { job_id: job_id.clone(), url: url.clone() };
        let key = self.accept(sender.clone(), work);
        self.aborts.insert(key, Abort { sender, job_id, url });
    }

    /// The record of an abort is durable: the job may be removed.
    pub(super) fn abort_journaled(&mut self, key: EntryKey) {
        let Some(Abort { sender, job_id, url, .. }) = self.aborts.remove(&key) else { return };
        match self.named(job_id) {
            Named::Job(job_id) => self.remove_for(key, sender, job_id, url),
            Named::Unsubmitted(execute) => self.abort_unsubmitted(execute, key, sender),
            Named::Ended(outcome) => self.abort_ended(outcome, key, sender),
        }
    }

    /// The execute whose run id this is, unless it has ended.
    fn key_of_run(&self, id: &JobId) -> Option<EntryKey> {
        let of_run = self.jobs.iter().find(|(_, job)| job.run_id().as_str() == id.as_str());
        of_run.map(|(key, _)| *key)
    }

    fn named(&self, id: JobId) -> Named {
        if let Some(key) = self.key_of_run(&id) {
            let job_id = self.jobs.get(&key).and_then(|job| job.job_id().cloned());
            return job_id.map_or(Named::Unsubmitted(key), Named::Job);
        }
        match self.history.iter().find(|ended| ended.run_id.as_str() == id.as_str()) {
            Some(ended) => ended.job_id.clone().map_or(Named::Ended(ended.outcome), Named::Job),
            None => Named::Job(id),
        }
    }

    /// Aborts an execute that has no job yet, which may wait for others: there is no id and so no result. Should a
    /// job of it come to life all the same, it is removed.
    fn abort_unsubmitted(&mut self, execute: EntryKey, key: EntryKey, sender: Sender) {
        let Some(job) = self.jobs.remove(&execute) else { return };
        let may_exist = match &job.stage {
            Stage::Waiting { origin, .. } => matches!(origin, Origin::Recovered { .. }),
            Stage::Submitting(submitting) => match submitting.step {
                SubmitStep::Pausing { .. } => submitting.doubtful,
                SubmitStep::Sending | SubmitStep::InDoubt { .. } => true,
            },
            Stage::Recording { .. } | Stage::Running(_) | Stage::Aborting { .. } => false,
        };
        if may_exist {
            self.suspect(SUSPECT_FOR, execute, job.run_id().clone(), job.url.clone(), None);
        }
        let at = self.ctx.now.tai;
        let reason = format!("abort_job of {} before it was submitted", sender.identity);
        self.close(execute, job, End { at, result: None, ack: Ack::Aborted, problem: Some(reason) }, None);
        let end = End { at, result: None, ack: Ack::Complete, problem: None };
        self.end(key, sender, CommandName::AbortJob, end);
        self.forget_watches();
    }

    /// Who aborts a run that was aborted before it had a job, perhaps by this very command in a previous run, has
    /// what he wants.
    fn abort_ended(&mut self, outcome: JobOutcome, key: EntryKey, sender: Sender) {
        let ack = match outcome {
            JobOutcome::Aborted => Ack::Complete,
            JobOutcome::Completed | JobOutcome::Failed | JobOutcome::Vanished | JobOutcome::Refused => {
                Ack::Failed { reason: "No such job: its submission failed".to_owned() }
            }
        };
        self.end(
            key,
            sender,
            CommandName::AbortJob,
            End { at: self.ctx.now.tai, result: None, ack, problem: None },
        );
    }

    /// Removes a job for an `abort_job`.
    fn remove_for(&mut self, key: EntryKey, sender: Sender, job_id: JobId, url: Url) {
        if let Some(removal) = self.removals.get_mut(&job_id) {
            // The same job twice: the commands share one outcome.
            removal.waiting.push((key, sender.clone()));
            if removal.reminder.is_some() {
                // The others know already that it takes longer.
                self.ctx.ack(&sender, Some(CommandName::AbortJob), in_progress(job_id));
            }
            return;
        }
        self.ctx.log(LogLevel::Info, format!("aborting job {job_id}"));
        let tracked = self.job_ids.get(&job_id).copied();
        let seen = tracked.and_then(|key| self.running(key)).and_then(|(_, running)| running.poll.seen);
        if let Some(key) = tracked {
            self.stop_polling(key, &job_id);
        }
        // A job of a previous run may have vanished since: the GET comes first, so that a DELETE that finds nothing is clear.
        let first = if tracked.is_some() && seen.is_none() { Next::Confirm } else { Next::Delete };
        self.begin_removal(url, job_id, vec![(key, sender)], first, seen);
    }

    /// Goes on with an abort of an earlier life, which may have sent its DELETE.
    pub(super) fn recover_removal(&mut self, key: EntryKey, sender: Sender, job_id: JobId, url: Url) {
        let job_id = match self.named(job_id) {
            Named::Job(job_id) => job_id,
            Named::Unsubmitted(execute) => return self.abort_unsubmitted(execute, key, sender),
            Named::Ended(outcome) => return self.abort_ended(outcome, key, sender),
        };
        self.remove_for(key, sender, job_id.clone(), url);
        let now = self.ctx.now.mono;
        if let Some(removal) = self.removals.get_mut(&job_id) {
            removal.unclear = true;
            removal.step = Step::Pausing { until: now, next: Next::Delete };
            removal.reminder = Some(now);
        }
    }

    /// Somebody who found the id of a job elsewhere aborted it before the service gave it to us.
    pub(super) fn note_alive(&mut self, job_id: &JobId) {
        let now = self.ctx.now.mono;
        if let Some(removal) = self.removals.get_mut(job_id) {
            removal.seen = Some(now);
        }
    }

    /// Whatever a poll under way still says, the job is on its way out.
    pub(super) fn stop_polling(&mut self, key: EntryKey, job_id: &JobId) {
        self.announce_job_id(key);
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if let Stage::Running(running) = &job.stage
            && let PollStep::Asked(ticket) = running.poll.step
        {
            self.ctx.close_question(ticket);
        }
        job.stage = Stage::Aborting { job_id: job_id.clone() };
    }

    /// Removes a job that an unclear submission left beside the one that we keep.
    pub(super) fn remove_stray(&mut self, url: Url, job_id: JobId) {
        let known = self.removals.contains_key(&job_id) || self.job_ids.contains_key(&job_id);
        if known || self.removals.len() >= self.ctx.settings.max_jobs {
            return;
        }
        self.ctx.log(
            LogLevel::Warning,
            format!("removing job {job_id}: its run has another job, or its command has ended"),
        );
        self.begin_removal(url, job_id, Vec::new(), Next::Delete, Some(self.ctx.now.mono));
    }

    /// The first request is due at once.
    fn begin_removal(
        &mut self,
        url: Url,
        job_id: JobId,
        waiting: Vec<(EntryKey, Sender)>,
        next: Next,
        seen: Option<Duration>,
    ) {
        let step = Step::Pausing { until: self.ctx.now.mono, next };
        let removal =
            Removal { url, waiting, step, unclear: false, seen, absences: 0, failures: 0, reminder: None };
        self.removals.insert(job_id, removal);
    }

    pub(super) fn advance_removals(&mut self) {
        let now = self.ctx.now.mono;
        let due = self.removals.iter().filter(|(_, removal)| removal.due().is_some_and(|due| due <= now));
        let due: Vec<JobId> = due.map(|(job_id, _)| job_id.clone()).collect();
        for job_id in due {
            self.remind_of_removal(&job_id);
            let Some(removal) = self.removals.get_mut(&job_id) else { continue };
            let Step::Pausing { until, next } = removal.step else { continue };
            if now < until {
                continue;
            }
            removal.step = Step::Asking;
            let url = removal.url.clone();
            match next {
                Next::Delete => {
                    self.ctx.ask(Purpose::Remove(job_id.clone()), url, Action::Remove { job_id });
                }
                Next::Confirm => {
                    let action = Action::Status { job_id: job_id.clone(), run_id: None };
                    self.ctx.ask(Purpose::Confirm(job_id), url, action);
                }
            }
        }
    }

    fn remind_of_removal(&mut self, job_id: &JobId) {
        let now = self.ctx.now.mono;
        let Some(removal) = self.removals.get_mut(job_id) else { return };
        if removal.reminder.is_none_or(|due| now < due) {
            return;
        }
        removal.reminder = Some(now + REMINDER);
        for (_, sender) in removal.waiting.clone() {
            self.ctx.ack(&sender, Some(CommandName::AbortJob), in_progress(job_id.clone()));
        }
    }

    /// The answer to a DELETE that was asked for at that time.
    pub(super) fn removed(&mut self, job_id: JobId, asked: Duration, result: Result<RemoveAnswer, Failure>) {
        let now = self.ctx.now.mono;
        let Some(removal) = self.removals.get_mut(&job_id) else { return };
        let was_there = removal.seen.is_some_and(|seen| now.saturating_sub(seen) <= SEEN_RECENTLY);
        match result {
            Ok(RemoveAnswer::Removed { object }) => self.end_removal(&job_id, Verdict::Removed(object)),
            Ok(RemoveAnswer::Gone) if removal.was_seen_after(asked) => self.found_for_removal(&job_id),
            Ok(RemoveAnswer::Gone) if removal.unclear || was_there => {
                self.end_removal(&job_id, Verdict::Removed(None));
            }
            Ok(RemoveAnswer::Gone) => self.end_removal(&job_id, Verdict::NoSuchJob),
            Err(Failure { kind: FailureKind::NotSent, reason, .. }) => {
                self.retry(&job_id, Next::Delete, &reason);
            }
            Err(Failure { reason, .. }) => {
                removal.unclear = true;
                self.retry(&job_id, Next::Confirm, &reason);
            }
        }
    }

    /// The answer to the GET that confirms an unclear DELETE.
    pub(super) fn confirmed(&mut self, job_id: JobId, result: Result<StatusAnswer, Failure>) {
        match result {
            Ok(StatusAnswer::Gone) => self.look_for_removed(&job_id),
            Ok(StatusAnswer::Job(_) | StatusAnswer::Broken { .. }) => self.found_for_removal(&job_id),
            Err(failure) => self.retry(&job_id, Next::Confirm, &failure.reason),
        }
    }

    /// A GET found nothing. That alone can be wrong, or an old answer out of a cache: the list decides.
    fn look_for_removed(&mut self, job_id: &JobId) {
        let after = self.ctx.last_ticket();
        let Some(removal) = self.removals.get_mut(job_id) else { return };
        removal.absences += 1;
        if removal.absences >= ABSENCES_MAX {
            return self.end_absent(job_id);
        }
        removal.step = Step::Missing { after };
        let url = removal.url.clone();
        self.look_soon(url);
    }

    /// Jobs of this service that a GET did not find.
    pub(super) fn missing_removals(&self, url: &Url) -> impl Iterator<Item = &JobId> {
        let is_missing = move |removal: &Removal| match removal.step {
            Step::Missing { .. } => removal.url == *url,
            Step::Asking | Step::Pausing { .. } => false,
        };
        self.removals.iter().filter(move |(_, removal)| is_missing(removal)).map(|(job_id, _)| job_id)
    }

    /// A list shows a job that a GET did not find, or not.
    pub(super) fn removal_looked_up(&mut self, job_id: &JobId, list: &Listing, is_there: bool) {
        let removal = self.removals.get(job_id).filter(|removal| removal.is_decided_by(list.ticket));
        let Some(removal) = removal else { return };
        if is_there || removal.was_seen_after(list.asked) {
            self.found_for_removal(job_id);
        } else {
            self.end_absent(job_id);
        }
    }

    /// The job is not there: a DELETE may have done that unseen, or there was none.
    fn end_absent(&mut self, job_id: &JobId) {
        let unclear = self.removals.get(job_id).is_some_and(|removal| removal.unclear);
        let verdict = if unclear { Verdict::Removed(None) } else { Verdict::NoSuchJob };
        self.end_removal(job_id, verdict);
    }

    /// The list that was to decide about them could not be had.
    pub(super) fn confirm_removals_again(&mut self, url: &Url, list: Ticket, time: Duration) {
        let of_list = |removal: &&mut Removal| removal.url == *url && removal.is_decided_by(list);
        for removal in self.removals.values_mut().filter(of_list) {
            removal.step = Step::Pausing { until: time, next: Next::Confirm };
        }
    }

    /// One of those that wait to be tried again is tried now.
    pub(super) fn retry_a_removal(&mut self, url: &Url) {
        let now = self.ctx.now.mono;
        let pauses = self.removals.values_mut().filter(|removal| removal.url == *url);
        let mut pauses = pauses.filter_map(|removal| match &mut removal.step {
            Step::Pausing { until, .. } => Some(until),
            Step::Asking | Step::Missing { .. } => None,
        });
        if let Some(until) = pauses.next() {
            *until = now.min(*until);
        }
    }

    /// The job is there: the DELETE comes at once, or once more after a while.
    fn found_for_removal(&mut self, job_id: &JobId) {
        let now = self.ctx.now.mono;
        let Some(removal) = self.removals.get_mut(job_id) else { return };
        (removal.seen, removal.absences) = (Some(now), 0);
        if !removal.unclear {
            removal.step = Step::Pausing { until: now, next: Next::Delete };
            return;
        }
        self.retry(job_id, Next::Delete, "the job is still there");
    }

    /// Goes on after a while; those that wait learn that it takes longer.
    fn retry(&mut self, job_id: &JobId, next: Next, reason: &str) {
        let now = self.ctx.now.mono;
        let Some(failures) = self.removals.get(job_id).map(|removal| removal.failures) else { return };
        let until = now + self.ctx.backoff(RETRY_BASE, failures);
        if failures == 0 {
            self.ctx.log(LogLevel::Warning, format!("abort of job {job_id}: {reason}"));
        }
        let Some(removal) = self.removals.get_mut(job_id) else { return };
        removal.failures += 1;
        removal.step = Step::Pausing { until, next };
        if removal.reminder.is_none() && !removal.waiting.is_empty() {
            removal.reminder = Some(now);
            self.remind_of_removal(job_id);
        }
        if let Some(job) = self.job_ids.get(job_id).and_then(|key| self.jobs.get_mut(key)) {
            job.problem = Some(format!("abort: {reason}"));
        }
    }

    /// Whoever aborts it again is told no second result.
    pub(super) fn note_aborted(&mut self, end: &End) {
        let aborted = end.result.as_ref().filter(|result| result.exit_code == ExitCode::Aborted);
        self.aborted.extend(aborted.map(|result| result.job_id.clone()));
        if self.aborted.len() > ABORTED_MAX {
            self.aborted.pop_front();
        }
    }

    /// In this order: the job's result, the final ack of its execute, those of the aborts.
    fn end_removal(&mut self, job_id: &JobId, verdict: Verdict) {
        let Some(removal) = self.removals.remove(job_id) else { return };
        let tracked = self.job_ids.get(job_id).copied();
        let removed = matches!(verdict, Verdict::Removed(_));
        let mut result = None;
        match (verdict, tracked) {
            (Verdict::Removed(object), Some(key)) => {
                let reason = match removal.waiting.first() {
                    Some((_, sender)) => format!("abort_job of {}", sender.identity),
                    None => "removed, as it seemed to be left by an unclear submission".to_owned(),
                };
                self.finish(key, Ending::Aborted { object, reason });
            }
            (Verdict::NoSuchJob, Some(key)) => {
                let reason = "the service did not know it any more when it was to be aborted".to_owned();
                self.finish(key, Ending::Vanished { reason });
            }
            (Verdict::Removed(object), None) if !self.aborted.contains(job_id) => {
                let known =
                    ResultObject::Known { job_id: job_id.clone(), run_id: None, phase: Phase::Aborted };
                let object = object.map_or(known, ResultObject::Service);
                // Of somebody else's job the first abort tells the result; of a stray nobody.
                result =
                    Some(JobResult { job_id: job_id.clone(), exit_code: ExitCode::Aborted, result: object });
                self.prerequisite_ended(job_id);
            }
            // Its abort was told before, perhaps in an earlier life.
            (Verdict::Removed(_) | Verdict::NoSuchJob, None) => {}
        }
        for (key, sender) in removal.waiting {
            let reason = format!("No such job: {job_id}");
            let ack = if removed { Ack::Complete } else { Ack::Failed { reason } };
            let end = End { at: self.ctx.now.tai, result: result.take(), ack, problem: None };
            self.end(key, sender, CommandName::AbortJob, end);
        }
    }
}

fn in_progress(job_id: JobId) -> Ack {
    Ack::InProgress { job_id, missing_prereqs: Vec::new() }
}
