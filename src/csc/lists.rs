//! Whether the jobs of a service are polled by its list, and whether its lists are believed.
//!
//! A list shows all jobs that are still active in one request. It proves nothing else, since it can lag, be partial or
//! come out of a cache: a job that it does not show is polled singly before anything is believed, and each round a few
//! of the jobs that it shows are polled singly too. Where their answers contradict the lists, lists are not used for long.

use std::time::Duration;

use super::configuration::Polling;
use super::context::Context;
use super::id::JobId;
use super::request::{Contact, Failure, Named, Shown};

/// A list is not wrong before it shows a job as active that ended this long ago, or two poll intervals.
const LAG_MAX: Duration = Duration::from_secs(30);
/// How long a list is waited for, at least: a burst of executes goes before it.
const PATIENCE_MIN: Duration = Duration::from_secs(15);
/// How long the time that a list took stays valid; after that a list is tried to learn it anew.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// How long jobs are polled singly after a list failed; it doubles with each failure.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest such time, which also follows when lists have proved wrong.
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// The lists of one service, as far as they serve as polls of all its jobs.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The next list; none while jobs are polled singly.
    next: Option<Next>,
    /// What the last list took, and when it came.
    last: Option<(Duration, Duration)>,
    /// When the last list that served as a poll was asked for.
    last_asked: Option<Duration>,
    /// Lists are not used before this time.
    not_before: Duration,
    /// Lists that failed since the last that served as a poll.
    failures: u32,
    /// Why the last list failed, while it is open whether the whole service is away.
    problem: Option<String>,
    /// A job that ended although the last list showed it as active, and when.
    witness: Option<(JobId, Duration)>,
    /// Active jobs that the last list did not show as such.
    left_out: usize,
}

#[derive(Clone, Copy, Debug)]
struct Next {
    due: Duration,
    /// Whether it has been due, and is waited for.
    is_wanted: bool,
}

impl Lists {
    /// Whether jobs are polled by list.
    pub(super) fn are_used(&self) -> bool {
        self.next.is_some()
    }

    /// Whether lists proved to be of no use, and are not tried again yet.
    pub(super) fn are_given_up(&self, ctx: &Context) -> bool {
        ctx.now.mono < self.not_before
    }

    /// When something is to be done about lists. Polling all jobs singly would take `singly`, if that is known.
    pub(super) fn due(&self, ctx: &Context, singly: Option<Duration>) -> Option<Duration> {
        let next = self.next?;
        Some(if next.is_wanted { next.due + self.patience(ctx, singly) } else { next.due })
    }

    /// How long a list is waited for.
    fn patience(&self, ctx: &Context, singly: Option<Duration>) -> Duration {
        let rounds = ctx.poll_interval.max(singly.unwrap_or_default()).saturating_mul(2);
        // After a list that took long, the service rests before the next one.
        let rest = self.last.map_or(Duration::ZERO, |(took, _)| took.saturating_mul(3));
        rounds.max(rest).max(PATIENCE_MIN)
    }

    /// Begins to use lists if one takes at most half of the time of polling `count` jobs singly, and ends if it takes
    /// more than all of it.
    pub(super) fn choose(&mut self, ctx: &Context, count: usize, singly: Option<Duration>) {
        let last = self.last.filter(|(_, at)| ctx.now.mono.saturating_sub(*at) < KNOWN_FOR);
        let is_cheap = |factor| match (last, singly) {
            (Some((took, _)), Some(singly)) => took.saturating_mul(factor) <= singly,
            (_, _) => true,
        };
        let (begins, ends) = match ctx.settings.polling {
            Polling::Each => (false, true),
            Polling::List => (count > 0, count == 0),
            Polling::Auto { from } => (count >= from && is_cheap(2), count < from / 2 || !is_cheap(1)),
        };
        if self.are_used() && ends {
            self.end();
        } else if !self.are_used() && begins && !self.are_given_up(ctx) {
            self.next = Some(Next { due: ctx.now.mono, is_wanted: false });
        }
    }

    fn end(&mut self) {
        (self.next, self.last_asked, self.problem, self.left_out) = (None, None, None, 0);
    }

    /// Lists are of no use: for this time jobs are polled singly.
    fn give_up(&mut self, ctx: &mut Context, reason: &str, time: Duration) {
        if self.failures == 0 {
            let minutes = time.as_secs() / 60;
            ctx.warn(format!(
                "jobs are polled singly, since the service's list is of no use: {reason}; it is tried again after {minutes} min"
            ));
        }
        self.failures += 1;
        self.witness = None;
        self.not_before = ctx.now.mono + time;
        self.end();
    }

    /// A list failed; the next one may not.
    fn fail(&mut self, ctx: &mut Context, reason: &str) {
        let time = AGAIN.saturating_mul(1 << self.failures.min(6)).min(AGAIN_MAX);
        self.give_up(ctx, reason, time);
    }

    /// Gives whether a list is wanted from now on.
    pub(super) fn on_timer(&mut self, ctx: &mut Context, singly: Option<Duration>) -> bool {
        let Some(next) = self.next.filter(|_| self.due(ctx, singly).is_some_and(|due| due <= ctx.now.mono))
        else {
            return false;
        };
        if next.is_wanted {
            let reason = format!("there was none for {:.1} s", self.patience(ctx, singly).as_secs_f64());
            self.fail(ctx, &reason);
        } else {
            self.next = Some(Next { is_wanted: true, ..next });
        }
        !next.is_wanted
    }

    /// Any list came, and took this long.
    pub(super) fn note_duration(&mut self, ctx: &Context, took: Duration) {
        self.last = Some((took, ctx.now.mono));
    }

    /// A list that shows these jobs, of `count` that are polled, is to serve as a poll: gives the time between it and the one
    /// before, if there was one. None: it is not believed.
    pub(super) fn note_list(
        &mut self,
        ctx: &mut Context,
        asked: Duration,
        shown: &Named,
        count: usize,
    ) -> Option<Option<Duration>> {
        if let Some(problem) = self.disproof(ctx, asked, shown, count) {
            self.give_up(ctx, &problem, AGAIN_MAX);
            return None;
        }
        (self.failures, self.problem, self.left_out) = (0, None, 0);
        // No job's news is to be older than an interval, the time that a list takes included.
        let took = ctx.now.mono.saturating_sub(asked);
        let due = asked + ctx.poll_interval.saturating_sub(took);
        self.next = Some(Next { due, is_wanted: false });
        let before = self.last_asked.replace(asked);
        Some(before.map(|before| asked.saturating_sub(before)))
    }

    /// The polls that follow the last list take so long: the next list comes earlier, so that a job's end is known after an
    /// interval all the same.
    pub(super) fn leave_time(&mut self, ctx: &Context, polls: Duration) {
        if let Some(next) = &mut self.next {
            next.due = next.due.saturating_sub(polls.min(ctx.poll_interval / 2));
        }
    }

    /// A job that the next list is to show, or not, although it is not polled any more: see [`Lists::disproof`].
    pub(super) fn witness(&self) -> Option<&JobId> {
        self.witness.as_ref().map(|(job_id, _)| job_id)
    }

    /// Why lists are not believed, if single polls contradict them.
    fn disproof(&mut self, ctx: &Context, asked: Duration, shown: &Named, count: usize) -> Option<String> {
        let lag_max = LAG_MAX.max(ctx.poll_interval.saturating_mul(2));
        if let Some((job_id, ended)) = self.witness.take_if(|(_, ended)| *ended < asked)
            && shown.get(&job_id.fingerprint()).and_then(Shown::active).is_some()
        {
            if asked >= ended + lag_max {
                let lag = asked.saturating_sub(ended).as_secs_f64();
                return Some(format!(
                    "job {job_id} ended, and {lag:.0} s later it is still listed as active"
                ));
            }
            self.witness = Some((job_id, ended));
        }
        let (left_out, most) = (self.left_out, (count / 10).max(10));
        (left_out > most).then(|| format!("{left_out} active jobs were not listed as such"))
    }

    /// A single poll shows a job as active that the last list did not show as such.
    pub(super) fn note_left_out(&mut self) {
        self.left_out += 1;
    }

    /// A job ended that the last list showed as active.
    pub(super) fn note_end(&mut self, ctx: &Context, job_id: &JobId) {
        if self.are_used() && self.witness.is_none() {
            self.witness = Some((job_id.clone(), ctx.now.mono));
        }
    }

    /// The service answers a single poll: if its list failed, that was not for the whole service being away.
    pub(super) fn note_answer(&mut self, ctx: &mut Context) {
        if let Some(problem) = self.problem.take() {
            self.fail(ctx, &problem);
        }
    }

    /// A single poll got no answer either: the list need not be the reason.
    pub(super) fn note_silence(&mut self) {
        self.problem = None;
    }

    /// A list failed, and can be asked for again at `again`. Gives whether it is open if the whole service is away.
    pub(super) fn note_failure(&mut self, ctx: &mut Context, failure: &Failure, again: Duration) -> bool {
        if !self.are_used() {
            return false;
        }
        if failure.contact == Contact::Answered {
            self.fail(ctx, &failure.reason);
            return false;
        }
        (self.next, self.last_asked) = (Some(Next { due: again, is_wanted: false }), None);
        let is_open = failure.contact == Contact::Silent;
        if is_open {
            self.problem = Some(failure.reason.clone());
        }
        is_open
    }

    /// The poll interval has changed.
    pub(super) fn note_new_interval(&mut self, ctx: &Context) {
        if let Some(Next { due, is_wanted: false }) = &mut self.next {
            *due = (ctx.now.mono + ctx.poll_interval).min(*due);
        }
    }
}
