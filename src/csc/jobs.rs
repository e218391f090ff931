//! All jobs of ours that have not ended, and the last that have: found by their ids and counted by their stages
//! without a look at each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::url::Url;

use super::context::Context;
use super::event::Phase;
use super::history::{History, NoteKind};
use super::id::{EntryKey, JobId, RunId};
use super::job::Job;
use super::record::{Deliverable, HISTORY_MAX, Receipt};
use super::report::{JobReport, StageName};
use super::timers::TimedMap;

/// That the end of a job was delivered is noted if that came so long after it, in seconds.
const LATE_S: f64 = 5.0;

/// What some jobs have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Facet {
    Run(RunId),
    Id(JobId),
    Stage(StageName),
    /// They run, and the service says this of them.
    Phase(Phase),
    /// They exist at this service.
    At(Url),
    /// They are taken if this service has a job of their run; while a PUT is out, its answer decides.
    Lacking(Url),
    /// They may exist at this service.
    InDoubt(Url),
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: TimedMap<Job>,
    index: BTreeMap<Facet, BTreeSet<EntryKey>>,
    /// The last that have ended, the oldest first.
    ended: VecDeque<EndedJob>,
}

/// A job that has ended.
#[derive(Debug)]
pub(super) struct EndedJob {
    pub(super) key: EntryKey,
    pub(super) report: JobReport,
    pub(super) history: History,
    /// Of its end, what is not known to be delivered.
    pub(super) undelivered: Vec<Deliverable>,
}

fn facets(job: &Job) -> Vec<Facet> {
    let mut facets = vec![Facet::Run(job.run_id().clone()), Facet::Stage(StageName::of(&job.stage))];
    if let Some(submitting) = job.submitting() {
        if submitting.retry.ticket().is_none() {
            facets.push(Facet::Lacking(job.url.clone()));
        }
        if submitting.doubt.is_some() {
            facets.push(Facet::InDoubt(job.url.clone()));
        }
    }
    if let Some(job_id) = job.job_id() {
        facets.extend([Facet::Id(job_id.clone()), Facet::At(job.url.clone())]);
    }
    if job.running().is_some() {
        facets.extend(job.phase.map(Facet::Phase));
    }
    facets
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
        self.reindex(key, &[], &facets(&job));
        self.jobs.insert(ctx, key, job);
    }

    pub(super) fn remove(&mut self, ctx: &mut Context, key: EntryKey) -> Option<Job> {
        let job = self.jobs.remove(ctx, &key)?;
        self.reindex(key, &facets(&job), &[]);
        Some(job)
    }

    /// Changes a job, if it is there.
    pub(super) fn update<R>(
        &mut self,
        ctx: &mut Context,
        key: EntryKey,
        change: impl FnOnce(&mut Context, &mut Job) -> R,
    ) -> Option<R> {
        let (before, after, result) = self.jobs.update(ctx, &key, |ctx, job| {
            let before = facets(job);
            let result = change(ctx, job);
            (before, facets(job), result)
        })?;
        if before != after {
            self.reindex(key, &before, &after);
        }
        Some(result)
    }

    fn reindex(&mut self, key: EntryKey, before: &[Facet], after: &[Facet]) {
        for old in before.iter().filter(|old| !after.contains(old)) {
            if let Some(keys) = self.index.get_mut(old) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.index.remove(old);
                }
            }
        }
        for new in after.iter().filter(|new| !before.contains(new)) {
            self.index.entry(new.clone()).or_default().insert(key);
        }
    }

    fn first(&self, of: &Facet) -> Option<EntryKey> {
        self.index.get(of)?.first().copied()
    }

    /// The job of that id.
    pub(super) fn by_id(&self, job_id: &JobId) -> Option<EntryKey> {
        self.first(&Facet::Id(job_id.clone()))
    }

    /// The job of that run.
    pub(super) fn by_run(&self, run_id: &RunId) -> Option<EntryKey> {
        self.first(&Facet::Run(run_id.clone()))
    }

    /// Whether a job is known to exist at this service.
    pub(super) fn is_any_at(&self, url: &Url) -> bool {
        self.index.contains_key(&Facet::At(url.clone()))
    }

    /// Whether a job may exist at this service.
    pub(super) fn is_any_in_doubt(&self, url: &Url) -> bool {
        self.index.contains_key(&Facet::InDoubt(url.clone()))
    }

    /// Submissions that take a job of their run if this service has one.
    pub(super) fn lacking(&self, url: &Url) -> Vec<(EntryKey, RunId)> {
        let keys = self.index.get(&Facet::Lacking(url.clone())).into_iter().flatten();
        keys.filter_map(|key| Some((*key, self.get(*key)?.run_id().clone()))).collect()
    }

    /// How many are in this stage.
    pub(super) fn count(&self, stage: StageName) -> usize {
        self.index.get(&Facet::Stage(stage)).map_or(0, BTreeSet::len)
    }

    /// How many that run are in each phase.
    pub(super) fn phases(&self) -> Vec<(Phase, usize)> {
        let phases = self.index.range(Facet::Phase(Phase::Completed)..=Facet::Phase(Phase::Other));
        let count = |(facet, keys): (&Facet, &BTreeSet<EntryKey>)| {
            let Facet::Phase(phase) = facet else { return None };
            Some((*phase, keys.len()))
        };
        phases.filter_map(count).collect()
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

    /// This was delivered: most often it is of one of the last jobs that ended.
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
