//! All jobs of ours that have not ended, and the last that have: found by their ids and counted by their stages
//! without a look at each.

use std::collections::{BTreeMap, VecDeque};

use crate::url::Url;

use super::context::Context;
use super::history::{History, NoteKind};
use super::id::{EntryKey, JobId, RunId};
use super::job::{Job, Submitting};
use super::record::{Deliverable, HISTORY_MAX, Receipt};
use super::report::{JobReport, StageName};
use super::timers::TimedMap;

/// A delivery is noted if it comes so many seconds after the end of the job.
const LATE_S: f64 = 5.0;

#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: TimedMap<Job>,
    runs: BTreeMap<RunId, EntryKey>,
    /// Only jobs that exist at the service.
    ids: BTreeMap<JobId, EntryKey>,
    /// How many jobs are in each stage.
    stages: BTreeMap<StageName, usize>,
    /// The last jobs that ended, the oldest first.
    ended: VecDeque<EndedJob>,
}

/// A job that has ended.
#[derive(Debug)]
pub(super) struct EndedJob {
    pub(super) key: EntryKey,
    pub(super) report: JobReport,
    pub(super) history: History,
    /// Which of its result and final ack are not known to be delivered.
    pub(super) undelivered: Vec<Deliverable>,
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn get(&self, key: EntryKey) -> Option<&Job> {
        self.jobs.get(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&EntryKey, &Job)> {
        self.jobs.iter()
    }

    pub(super) fn insert(&mut self, ctx: &mut Context, key: EntryKey, job: Job) {
        self.runs.insert(job.run_id().clone(), key);
        self.ids.extend(job.job_id().map(|job_id| (job_id.clone(), key)));
        *self.stages.entry(StageName::of(&job.stage)).or_default() += 1;
        self.jobs.insert(ctx, key, job);
    }

    pub(super) fn remove(&mut self, ctx: &mut Context, key: EntryKey) -> Option<Job> {
        let job = self.jobs.remove(ctx, &key)?;
        self.runs.remove(job.run_id());
        job.job_id().and_then(|job_id| self.ids.remove(job_id));
        *self.stages.entry(StageName::of(&job.stage)).or_default() -= 1;
        Some(job)
    }

    /// Changes a job, if it is there.
    pub(super) fn update<R>(
        &mut self,
        ctx: &mut Context,
        key: EntryKey,
        change: impl FnOnce(&mut Context, &mut Job) -> R,
    ) -> Option<R> {
        self.jobs.update(ctx, &key, |ctx, job| {
            let (stage, had_id) = (StageName::of(&job.stage), job.job_id().is_some());
            let result = change(ctx, job);
            *self.stages.entry(stage).or_default() -= 1;
            *self.stages.entry(StageName::of(&job.stage)).or_default() += 1;
            self.ids.extend(job.job_id().filter(|_| !had_id).map(|job_id| (job_id.clone(), key)));
            result
        })
    }

    /// The job of that id.
    pub(super) fn by_id(&self, job_id: &JobId) -> Option<EntryKey> {
        self.ids.get(job_id).copied()
    }

    /// The job of that run.
    pub(super) fn by_run(&self, run_id: &RunId) -> Option<EntryKey> {
        self.runs.get(run_id).copied()
    }

    /// The jobs of this service.
    fn at<'a>(&'a self, url: &'a Url) -> impl Iterator<Item = (EntryKey, &'a Job)> {
        self.iter().filter(move |(_, job)| job.url == *url).map(|(key, job)| (*key, job))
    }

    /// Whether a job is known to exist at this service.
    pub(super) fn is_any_at(&self, url: &Url) -> bool {
        self.at(url).any(|(_, job)| job.job_id().is_some())
    }

    /// Whether a job may exist at this service.
    pub(super) fn is_any_in_doubt(&self, url: &Url) -> bool {
        self.at(url).any(|(_, job)| job.submitting().is_some_and(|submitting| submitting.doubt.is_some()))
    }

    /// Submissions that take a job of their run if this service has one. While a PUT is in flight, its answer decides.
    pub(super) fn lacking(&self, url: &Url) -> Vec<(EntryKey, RunId)> {
        let is_lacking = |it: &Submitting| it.retry.due.is_some() || it.doubt.is_some();
        let lacking = self.at(url).filter(|(_, job)| job.submitting().is_some_and(is_lacking));
        lacking.map(|(key, job)| (key, job.run_id().clone())).collect()
    }

    /// How many jobs are in this stage.
    pub(super) fn count(&self, stage: StageName) -> usize {
        self.stages.get(&stage).copied().unwrap_or_default()
    }

    pub(super) fn remember(&mut self, ended: EndedJob) {
        if self.ended.len() >= HISTORY_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// Jobs that have ended, the oldest first.
    pub(super) fn ended(&self) -> impl DoubleEndedIterator<Item = &EndedJob> {
        self.ended.iter()
    }

    /// A result or final ack was delivered, most often of one of the last jobs that ended.
    pub(super) fn note_delivered(&mut self, ctx: &mut Context, Receipt { key, what }: Receipt) {
        let Some(ended) = self.ended.iter_mut().rev().find(|ended| ended.key == key) else { return };
        let is_new = ended.undelivered.contains(&what);
        ended.undelivered.retain(|other| *other != what);
        let is_late = ended.report.ended.is_some_and(|at| ctx.now.tai.0 - at.0 >= LATE_S);
        if is_new && is_late && ended.undelivered.is_empty() {
            let has_result = ended.report.exit_code.is_some();
            let all = if has_result { "job_result and final ack" } else { "final ack" };
            ended.history.note(ctx, key, NoteKind::Delivered, all);
        }
    }
}
