//! Regular questions about a job, ours or a prerequisite of one.

use std::time::Duration;

use crate::url::Url;

use super::Csc;
use super::context::Context;
use super::event::LogLevel;
use super::id::{EntryKey, JobId};
use super::lookups::Missing;
use super::prerequisites::JobAt;
use super::request::{Contact, Failure, StatusAnswer};
use super::retry::Retry;
use super::track::JobEnd;

/// How soon a job is asked for again that the service does not know.
const ABSENT_AGAIN: Duration = Duration::from_secs(3);
/// So many such answers are enough without a list.
pub(super) const ABSENCES_MAX: u32 = 8;

#[derive(Debug)]
pub(super) struct Poll {
    /// It waits while the service's list is to decide whether the job is there.
    pub(super) retry: Retry,
    /// When the last valid answer came (or we began to ask).
    last_valid_answer: Duration,
    /// When the service last showed that the job is there.
    seen: Option<Duration>,
    /// Answers in a row that there is no such job.
    absences: u32,
}

/// A job that is polled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Polled {
    Ours(EntryKey, JobId),
    Prerequisite(JobAt),
}

impl Poll {
    /// Of a job of which nothing is known yet.
    pub(super) fn new(ctx: &Context, first: Duration) -> Self {
        Self { retry: Retry::at(first), last_valid_answer: ctx.now.mono, seen: None, absences: 0 }
    }

    /// Of a job that is there: it is asked for after the usual time.
    pub(super) fn of_present(ctx: &Context) -> Self {
        let now = ctx.now.mono;
        Self { seen: Some(now), ..Self::new(ctx, now + ctx.poll_interval) }
    }

    pub(super) fn seen(&self) -> Option<Duration> {
        self.seen
    }

    /// The service says that there is no such job; how often it has said so. One such answer can be wrong, or an old one
    /// out of a cache: it is asked again, and then the list decides.
    fn note_absence(&mut self, ctx: &Context) -> u32 {
        self.absences += 1;
        if self.absences == 1 {
            self.retry = Retry::at(ctx.now.mono + ABSENT_AGAIN);
        } else {
            self.retry.wait();
        }
        self.absences
    }

    /// The process stood still for a time, in which nobody could answer.
    pub(super) fn forgive(&mut self, pause: Duration) {
        self.last_valid_answer += pause;
    }
}

impl Csc {
    fn update_poll<R>(
        &mut self,
        polled: &Polled,
        change: impl FnOnce(&mut Context, &mut Poll) -> R,
    ) -> Option<R> {
        match polled {
            Polled::Ours(key, _) => self
                .jobs
                .update(&mut self.ctx, *key, |ctx, job| job.poll_mut().map(|poll| change(ctx, poll)))?,
            Polled::Prerequisite(at) => self.prerequisites.update_poll(&mut self.ctx, at, change),
        }
    }

    /// The answer to a poll that was asked at that time. Of a prerequisite success is not required, only an end.
    pub(super) fn on_polled(
        &mut self,
        polled: &Polled,
        url: &Url,
        asked: Duration,
        result: Result<StatusAnswer, Failure>,
    ) {
        match (result, polled) {
            (Ok(StatusAnswer::Job(status)), Polled::Ours(key, _)) => self.note_status(*key, status),
            (Ok(StatusAnswer::Broken { report }), Polled::Ours(key, _)) => {
                self.finish(*key, JobEnd::Broken { report });
            }
            (Ok(StatusAnswer::Job(status)), Polled::Prerequisite(at))
                if status.phase.exit_code().is_none() =>
            {
                self.prerequisites.note_active(&self.ctx, at);
                self.update_poll(polled, |ctx, poll| *poll = Poll::of_present(ctx));
            }
            (Ok(StatusAnswer::Job(_) | StatusAnswer::Broken { .. }), Polled::Prerequisite(at)) => {
                self.prerequisite_ended(at);
            }
            (Ok(StatusAnswer::Gone), _) => {
                if let Polled::Ours(key, _) = polled {
                    let problem = "the service says that there is no such job: it is asked again";
                    self.jobs.update(&mut self.ctx, *key, |_, job| job.problem = Some(problem.to_owned()));
                }
                match self.update_poll(polled, |ctx, poll| poll.note_absence(ctx)) {
                    None | Some(..2) => {}
                    // No list could be had for too long.
                    Some(ABSENCES_MAX..) => self.lose(polled),
                    Some(_) => self.lookups.miss(&mut self.ctx, url, Missing::Polled(polled.clone())),
                }
            }
            (Err(failure), _) => self.poll_failed(polled, url, asked, failure),
        }
    }

    /// A list shows a job that seemed not to be there, or not; or it could not be had, and it is asked again then.
    pub(super) fn poll_looked_up(&mut self, polled: &Polled, found: Result<bool, Duration>) {
        let decided = self.update_poll(polled, |ctx, poll| {
            match found {
                _ if !poll.retry.is_waiting() => return false,
                Ok(true) => *poll = Poll::of_present(ctx),
                Ok(false) => {}
                Err(time) => poll.retry.again_at(time),
            }
            true
        });
        match (found, polled) {
            (Ok(_), _) if decided != Some(true) => {}
            (Ok(false), _) => self.lose(polled),
            (Ok(true), Polled::Ours(key, _)) => self.log_trouble(*key, |run_id| {
                format!("run {run_id} is in the service's list although it says that there is no such job")
            }),
            (Ok(true), Polled::Prerequisite(_)) | (Err(_), _) => {}
        }
    }

    /// A job is not at the service any more, and it is unknown how it ended.
    fn lose(&mut self, polled: &Polled) {
        match polled {
            Polled::Ours(key, _) => {
                let reason = "the service does not know it any more".to_owned();
                self.finish(*key, JobEnd::Vanished { reason });
            }
            Polled::Prerequisite(at) => self.lose_prerequisite(at),
        }
    }

    fn poll_failed(&mut self, polled: &Polled, url: &Url, asked: Duration, failure: Failure) {
        let Some(last) = self.update_poll(polled, |_, poll| poll.last_valid_answer) else { return };
        let is_abandoned = self.services.is_abandoned(&self.ctx, url, last, asked);
        match polled {
            Polled::Ours(key, _) if is_abandoned => {
                let reason = format!("no valid answer about it for a day: {failure}");
                return self.finish(*key, JobEnd::Vanished { reason });
            }
            Polled::Prerequisite(at) if is_abandoned => {
                let line = format!("gave up waiting for prerequisite job {}: {failure}", at.1);
                self.ctx.log(LogLevel::Error, line);
                return self.prerequisite_ended(at);
            }
            Polled::Ours(..) | Polled::Prerequisite(_) if failure.contact == Contact::Silent => {
                self.services.leave_out(&mut self.ctx, url)
            }
            Polled::Ours(key, _) => {
                self.log_trouble(*key, |run_id| format!("poll of run {run_id}: {failure}"))
            }
            Polled::Prerequisite(at) => self.prerequisites.log_trouble(&mut self.ctx, at, &failure),
        }
        let interval = self.ctx.poll_interval;
        self.update_poll(polled, |ctx, poll| poll.retry.fail(ctx, interval));
        if let Polled::Ours(key, _) = polled {
            self.jobs.update(&mut self.ctx, *key, |_, job| job.problem = Some(failure.reason));
        }
    }
}
