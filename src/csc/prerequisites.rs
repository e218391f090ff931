//! Jobs that other jobs wait for, and which jobs wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use crate::url::Url;

use super::Csc;
use super::context::Context;
use super::id::{EntryKey, JobId};
use super::polls::{Poll, Polled};
use super::request::{Failure, Named, Shown};

/// A job and its service.
pub(super) type JobAt = (Url, JobId);

#[derive(Debug, Default)]
pub(super) struct Prerequisites(BTreeMap<JobAt, WaitedFor>);

#[derive(Debug, Default)]
struct WaitedFor {
    by: BTreeSet<EntryKey>,
    /// Whether it was seen to be active: then no previous run has submitted the jobs that wait for it.
    was_active: bool,
    /// Whether the log has a line of something that went wrong with it.
    trouble_logged: bool,
}

impl Prerequisites {
    /// A job that others may wait for is active.
    pub(super) fn note_active(&mut self, at: &JobAt) {
        self.0.get_mut(at).into_iter().for_each(|waited_for| waited_for.was_active = true);
    }

    /// A list of this service shows these jobs.
    pub(super) fn note_list(&mut self, url: &Url, shown: &Named) {
        for ((_, job_id), waited_for) in self.0.iter_mut().filter(|((at, _), _)| at == url) {
            let phase = shown.get(&job_id.fingerprint()).and_then(Shown::active);
            waited_for.was_active |= phase.is_some();
        }
    }

    /// The first thing that goes wrong with a prerequisite is logged.
    pub(super) fn log_trouble(&mut self, ctx: &mut Context, at: &JobAt, failure: &Failure) {
        if let Some(waited_for) = self.0.get_mut(at)
            && !mem::replace(&mut waited_for.trouble_logged, true)
        {
            ctx.warn(format!("prerequisite job {}: {failure}", at.1));
        }
    }
}

impl Csc {
    /// A job of ours waits for this one, which is polled; if it is ours too, it is polled already.
    pub(super) fn wait_for(&mut self, key: EntryKey, (url, job_id): &JobAt, is_ours: bool) {
        self.prerequisites.0.entry((url.clone(), job_id.clone())).or_default().by.insert(key);
        let polled = Polled::Prerequisite(job_id.clone());
        if !is_ours && self.polls.get(url, &polled).is_none() {
            self.polls.insert(url, polled.clone(), Poll::new(&self.ctx, job_id.clone(), None));
            self.polls.begin(&mut self.ctx, url, &polled);
        }
    }

    /// A job of ours does not wait for these jobs any more.
    pub(super) fn forget_wait(&mut self, key: EntryKey, prereqs: &BTreeSet<JobAt>) {
        for at in prereqs {
            if let Some(waited_for) = self.prerequisites.0.get_mut(at) {
                waited_for.by.remove(&key);
                if waited_for.by.is_empty() {
                    self.prerequisite_ended(at);
                }
            }
        }
    }

    /// A prerequisite does not exist: it is not waited for.
    pub(super) fn lose_prerequisite(&mut self, at: &JobAt) {
        self.ctx.warn(format!("prerequisite job {} does not exist: not waited for", at.1));
        let waiting = self.prerequisites.0.get(at).map(|waited_for| waited_for.by.clone());
        for key in waiting.into_iter().flatten() {
            self.jobs.update(&mut self.ctx, key, |_, job| job.missing_prereqs.push(at.1.clone()));
        }
        self.prerequisite_ended(at);
    }

    /// A prerequisite has ended, or no job waits for it any more: jobs that wait for nothing else are submitted.
    pub(super) fn prerequisite_ended(&mut self, at: &JobAt) {
        let Some(WaitedFor { by, was_active, .. }) = self.prerequisites.0.remove(at) else { return };
        self.polls.remove(&mut self.ctx, &at.0, &Polled::Prerequisite(at.1.clone()));
        for key in by {
            self.end_wait(key, at, was_active);
        }
    }
}
