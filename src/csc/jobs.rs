//! All jobs of ours that have not ended, and the last that have: found by their ids and counted by their stages
//! without a look at each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::url::Url;

use super::context::Context;
use super::event::Phase;
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
    /// The jobs in each place.
    places: BTreeMap<Place, BTreeSet<EntryKey>>,
    /// The last jobs that ended, the oldest first.
    ended: VecDeque<EndedJob>,
}

/// The service of a job, its stage and, while it runs, its phase where that is known.
type Place = (Url, StageName, Option<Phase>);

fn place(job: &Job) -> Place {
    let stage = StageName::of(&job.stage);
    (job.url.clone(), stage, job.phase.filter(|_| stage == StageName::Running))
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
        self.places.entry(place(&job)).or_default().insert(key);
        self.jobs.insert(ctx, key, job);
    }

    pub(super) fn remove(&mut self, ctx: &mut Context, key: EntryKey) -> Option<Job> {
        let job = self.jobs.remove(ctx, &key)?;
        self.runs.remove(job.run_id());
        job.job_id().and_then(|job_id| self.ids.remove(job_id));
        self.leave(&place(&job), key);
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
            let (before, had_id) = (place(job), job.job_id().is_some());
            let result = change(ctx, job);
            self.ids.extend(job.job_id().filter(|_| !had_id).map(|job_id| (job_id.clone(), key)));
            (before, place(job), result)
        })?;
        if before != after {
            self.leave(&before, key);
            self.places.entry(after).or_default().insert(key);
        }
        Some(result)
    }

    fn leave(&mut self, place: &Place, key: EntryKey) {
        if let Some(keys) = self.places.get_mut(place) {
            keys.remove(&key);
        }
        self.places.retain(|_, keys| !keys.is_empty());
    }

    /// The job of that id.
    pub(super) fn by_id(&self, job_id: &JobId) -> Option<EntryKey> {
        self.ids.get(job_id).copied()
    }

    /// The job of that run.
    pub(super) fn by_run(&self, run_id: &RunId) -> Option<EntryKey> {
        self.runs.get(run_id).copied()
    }

    /// The submissions at this service.
    fn submitting(&self, url: &Url) -> impl Iterator<Item = (EntryKey, &Job, &Submitting)> {
        let keys = self.places.get(&(url.clone(), StageName::Submitting, None)).into_iter().flatten();
        keys.filter_map(|key| {
            let job = self.get(*key)?;
            Some((*key, job, job.submitting()?))
        })
    }

    /// Whether a job is known to exist at this service.
    pub(super) fn is_any_at(&self, url: &Url) -> bool {
        let exists = [StageName::Running, StageName::Aborting];
        self.places.keys().any(|(at, stage, _)| at == url && exists.contains(stage))
    }

    /// Whether a job may exist at this service.
    pub(super) fn is_any_in_doubt(&self, url: &Url) -> bool {
        self.submitting(url).any(|(.., submitting)| submitting.doubt.is_some())
    }

    /// Submissions that take a job of their run if this service has one. While a PUT is in flight, its answer decides.
    pub(super) fn lacking(&self, url: &Url) -> Vec<(EntryKey, RunId)> {
        let lacking = self.submitting(url).filter(|(.., it)| it.retry.due.is_some() || it.doubt.is_some());
        lacking.map(|(key, job, _)| (key, job.run_id().clone())).collect()
    }

    /// How many jobs are in this stage.
    pub(super) fn count(&self, stage: StageName) -> usize {
        self.places.iter().filter(|((_, at, _), _)| *at == stage).map(|(_, keys)| keys.len()).sum()
    }

    /// How many running jobs are in each phase, where that is known.
    pub(super) fn phases(&self) -> BTreeMap<Phase, usize> {
        let mut phases = BTreeMap::new();
        for (phase, keys) in self.places.iter().filter_map(|((.., phase), keys)| Some(((*phase)?, keys))) {
            *phases.entry(phase).or_default() += keys.len();
        }
        phases
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
