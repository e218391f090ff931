//! Jobs that others wait for: who waits, and polls of those that we did not submit.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use crate::url::Url;

use super::Csc;
use super::context::{Context, Purpose};
use super::id::{EntryKey, JobId};
use super::poll::{Poll, Polled};
use super::request::{Action, Failure};
use super::timers::{Timed, TimedMap, Timer};

/// A job and its service.
pub(super) type JobAt = (Url, JobId);

#[derive(Debug, Default)]
pub(super) struct Prerequisites {
    waited_for: BTreeMap<JobAt, WaitedFor>,
    polls: TimedMap<Prerequisite>,
}

#[derive(Debug, Default)]
struct WaitedFor {
    by: BTreeSet<EntryKey>,
    /// When it was last seen to be active: those that wait for it were not submitted by then.
    last_active: Option<Duration>,
}

/// A job that we did not submit and that one of ours waits for.
#[derive(Debug)]
struct Prerequisite {
    poll: Poll,
    /// Whether the log has a line of something that went wrong with it.
    trouble_logged: bool,
}

impl Timed for Prerequisite {
    type Key = JobAt;

    fn timer((url, job_id): &JobAt) -> Timer {
        Timer::Prerequisite(url.clone(), job_id.clone())
    }

    fn due(&self) -> Option<Duration> {
        self.poll.retry.due()
    }
}

impl Prerequisites {
    /// How many are polled.
    pub(super) fn len(&self) -> usize {
        self.polls.len()
    }

    /// A job of ours waits for this one, which is polled unless it is ours too and so ends by itself.
    pub(super) fn wait(&mut self, ctx: &mut Context, key: EntryKey, at: &JobAt, is_ours: bool) {
        self.waited_for.entry(at.clone()).or_default().by.insert(key);
        if !is_ours && self.polls.get(at).is_none() {
            let poll = Poll::new(ctx, ctx.now.mono);
            self.polls.insert(ctx, at.clone(), Prerequisite { poll, trouble_logged: false });
        }
    }

    /// A job of ours does not wait any more.
    pub(super) fn forget(&mut self, ctx: &mut Context, key: EntryKey, prereqs: &BTreeSet<JobAt>) {
        for at in prereqs {
            if let Some(waited_for) = self.waited_for.get_mut(at) {
                waited_for.by.remove(&key);
                if waited_for.by.is_empty() {
                    self.end(ctx, at);
                }
            }
        }
    }

    /// It has ended: those that wait for it, and when it was last seen to be active.
    fn end(&mut self, ctx: &mut Context, at: &JobAt) -> (BTreeSet<EntryKey>, Option<Duration>) {
        self.polls.remove(ctx, at);
        self.waited_for.remove(at).map_or_else(Default::default, |waited| (waited.by, waited.last_active))
    }

    pub(super) fn note_active(&mut self, ctx: &Context, at: &JobAt) {
        if let Some(waited_for) = self.waited_for.get_mut(at) {
            waited_for.last_active = Some(ctx.now.mono);
        }
    }

    /// Changes all polls.
    pub(super) fn update_polls(
        &mut self,
        ctx: &mut Context,
        mut change: impl FnMut(&mut Context, &mut Poll),
    ) {
        self.polls.update_all(ctx, |ctx, prerequisite| change(ctx, &mut prerequisite.poll));
    }

    pub(super) fn update_poll<R>(
        &mut self,
        ctx: &mut Context,
        at: &JobAt,
        change: impl FnOnce(&mut Context, &mut Poll) -> R,
    ) -> Option<R> {
        self.polls.update(ctx, at, |ctx, prerequisite| change(ctx, &mut prerequisite.poll))
    }

    /// The first thing that goes wrong with it is logged.
    pub(super) fn log_trouble(&mut self, ctx: &mut Context, at: &JobAt, failure: &Failure) {
        self.polls.update(ctx, at, |ctx, prerequisite| {
            if !mem::replace(&mut prerequisite.trouble_logged, true) {
                ctx.warn(format!("prerequisite job {}: {failure}", at.1));
            }
        });
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Context, at: JobAt) {
        self.polls.update(ctx, &at, |ctx, Prerequisite { poll, .. }| {
            let action = Action::Status { job_id: at.1.clone(), run_id: None };
            poll.retry.asked(ctx.ask(Purpose::Poll(Polled::Prerequisite(at.clone())), at.0.clone(), action));
        });
    }
}

impl Csc {
    /// It does not exist: it is not waited for.
    pub(super) fn lose_prerequisite(&mut self, at: &JobAt) {
        self.ctx.warn(format!("prerequisite job {} does not exist: not waited for", at.1));
        let waiting = self.prerequisites.waited_for.get(at).map(|waited_for| waited_for.by.clone());
        for key in waiting.into_iter().flatten() {
            self.jobs.update(&mut self.ctx, key, |_, job| job.missing_prereqs.push(at.1.clone()));
        }
        self.prerequisite_ended(at);
    }

    /// A job has ended: those that wait for nothing else are submitted.
    pub(super) fn prerequisite_ended(&mut self, at: &JobAt) {
        let (waiting, last_active) = self.prerequisites.end(&mut self.ctx, at);
        for key in waiting {
            self.end_wait(key, at, last_active);
        }
    }
}
