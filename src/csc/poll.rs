//! What the answer to a poll means: of one of our jobs, or of a prerequisite of one.

use std::time::Duration;

use crate::url::Url;

use super::Csc;
use super::event::LogLevel;
use super::job::Job;
use super::lookups::Listing;
use super::polls::Polled;
use super::request::{Contact, Failure, Named, StatusAnswer};
use super::track::JobEnd;

/// This many answers in a row that there is no such job are believed without a list.
pub(super) const ABSENCES_MAX: u32 = 8;

impl Csc {
    /// Polls of this service may be due.
    pub(super) fn on_polls_timer(&mut self, url: &Url) {
        if self.polls.on_timer(&mut self.ctx, url) {
            self.lookups.look_for_all(&mut self.ctx, url);
        }
    }

    /// A list came and took this long: it serves as a poll of the jobs that it shows as active.
    pub(super) fn note_listed(&mut self, url: &Url, took: Duration, list: &Listing, shown: Named) {
        if list.is_of_all {
            self.prerequisites.note_list(url, &shown);
        }
        let asked = list.is_of_all.then_some(list.asked);
        for (key, phase) in self.polls.note_list(&mut self.ctx, url, took, asked, shown) {
            let is_known = |job: &Job| job.phase == Some(phase) && job.problem.is_none();
            if !self.jobs.get(key).is_some_and(is_known) {
                self.jobs.update(&mut self.ctx, key, |ctx, job| job.set_phase(ctx, key, phase));
            }
        }
    }

    /// The answer to a poll, when that was sent, and how long it took. A prerequisite need only end, not succeed.
    pub(super) fn on_polled(
        &mut self,
        polled: &Polled,
        url: &Url,
        (asked, took): (Duration, Duration),
        result: Result<StatusAnswer, Failure>,
    ) {
        if result.is_ok() {
            self.polls.note_single(&mut self.ctx, url, took);
        }
        match (result, polled) {
            (result, Polled::Removal(job_id)) => {
                self.step_removal(job_id, |ctx, removal| removal.on_confirmed(ctx, result));
            }
            (Ok(StatusAnswer::Job(status)), Polled::Ours(key)) => self.note_status(*key, status),
            (Ok(StatusAnswer::Broken { report }), Polled::Ours(key)) => {
                self.finish(*key, JobEnd::Broken { report });
            }
            (Ok(StatusAnswer::Job(status)), Polled::Prerequisite(job_id))
                if status.phase.exit_code().is_none() =>
            {
                self.prerequisites.note_active(&(url.clone(), job_id.clone()));
                self.polls.note_present(&mut self.ctx, url, polled);
            }
            (Ok(StatusAnswer::Job(_) | StatusAnswer::Broken { .. }), Polled::Prerequisite(job_id)) => {
                self.prerequisite_ended(&(url.clone(), job_id.clone()));
            }
            (Ok(StatusAnswer::Gone), Polled::Ours(_) | Polled::Prerequisite(_)) => {
                if let Polled::Ours(key) = polled {
                    let problem = "the service says that there is no such job: it is asked again";
                    self.jobs.update(&mut self.ctx, *key, |_, job| job.problem = Some(problem.to_owned()));
                }
                match self.polls.note_absence(&mut self.ctx, url, polled) {
                    None | Some((..2, _)) => {}
                    // There was no list for too long.
                    Some((ABSENCES_MAX.., _)) => self.lose(polled, url),
                    Some((_, job_id)) => self.lookups.miss(&mut self.ctx, url, polled.clone(), job_id),
                }
            }
            (Err(failure), Polled::Ours(_) | Polled::Prerequisite(_)) => {
                self.poll_failed(polled, url, asked, failure);
            }
        }
    }

    /// Whether a list shows a job of which the service said that there is no such job; or there was no list, and the job is
    /// polled again at that time.
    pub(super) fn on_looked_up(
        &mut self,
        polled: &Polled,
        url: &Url,
        asked: Duration,
        found: Result<bool, Duration>,
    ) {
        if let Polled::Removal(job_id) = polled {
            return self.step_removal(job_id, |ctx, removal| removal.on_looked_up(ctx, asked, found));
        }
        match (self.polls.decide(&mut self.ctx, url, polled, found), found, polled) {
            (true, Ok(false), _) => self.lose(polled, url),
            (true, Ok(true), Polled::Ours(key)) => self.log_trouble(*key, |run_id| {
                format!("run {run_id} is in the service's list although it says that there is no such job")
            }),
            (_, _, _) => {}
        }
    }

    /// The service has lost a job, and it is unknown how that ended.
    fn lose(&mut self, polled: &Polled, url: &Url) {
        match polled {
            Polled::Ours(key) => {
                let reason = "the service does not know it any more".to_owned();
                self.finish(*key, JobEnd::Vanished { reason });
            }
            Polled::Prerequisite(job_id) => self.lose_prerequisite(&(url.clone(), job_id.clone())),
            Polled::Removal(_) => {}
        }
    }

    fn poll_failed(&mut self, polled: &Polled, url: &Url, asked: Duration, failure: Failure) {
        let Some(last) = self.polls.get(url, polled).map(|poll| poll.last_valid_answer) else { return };
        let is_abandoned = self.services.is_abandoned(&self.ctx, url, last, asked);
        match polled {
            Polled::Ours(key) if is_abandoned => {
                let reason = format!("no valid answer about it for a day: {failure}");
                return self.finish(*key, JobEnd::Vanished { reason });
            }
            Polled::Prerequisite(job_id) if is_abandoned => {
                let line = format!("gave up waiting for prerequisite job {job_id}: {failure}");
                self.ctx.log(LogLevel::Error, line);
                return self.prerequisite_ended(&(url.clone(), job_id.clone()));
            }
            Polled::Ours(_) | Polled::Prerequisite(_) if failure.contact == Contact::Silent => {
                self.services.leave_out(&mut self.ctx, url)
            }
            Polled::Ours(key) => self.log_trouble(*key, |run_id| format!("poll of run {run_id}: {failure}")),
            Polled::Prerequisite(job_id) => {
                self.prerequisites.log_trouble(&mut self.ctx, &(url.clone(), job_id.clone()), &failure);
            }
            Polled::Removal(_) => {}
        }
        self.polls.note_failure(&mut self.ctx, url, polled, failure.contact);
        if let Polled::Ours(key) = polled {
            self.jobs.update(&mut self.ctx, *key, |_, job| job.problem = Some(failure.reason));
        }
    }
}
