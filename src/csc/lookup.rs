//! Jobs found by run id in the service's list: what an unclear submission left, and doubles that came to life late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::event::LogLevel;
use super::id::{EntryKey, JobId, RunId};
use super::job::{Stage, SubmitStep};
use super::record::Record;
use super::request::{Action, Answer, Failure, ListedJob, Ticket};
use super::time::Tai;
use super::track::out_of_place;
use super::{Asked, Csc};

/// Time between lists while a submission is in doubt. A list makes the service walk through every job's files.
const IN_DOUBT: Duration = Duration::from_secs(3);
/// Time between lists that only look for late doubles.
const SUSPECTED: Duration = Duration::from_secs(60);
/// How long a run id of which a job may still come to life is remembered.
pub(super) const SUSPECT_FOR: Duration = Duration::from_secs(3600);
/// Most run ids that are remembered so; the oldest go first.
const SUSPECTS_MAX: usize = 1000;

/// Questions for the list of one service.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// The list under way.
    asked: Option<Listing>,
    /// The earliest time of the next one.
    not_before: Duration,
    failures: u32,
}

/// A list that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing {
    pub(super) ticket: Ticket,
    /// When it was asked for.
    pub(super) asked: Duration,
    /// Whether it names all active jobs of our index.
    is_search: bool,
}

/// Whether the service's list is searched for jobs of ours that we do not know, since the journal is new or old.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// When a `start` says where.
    Wanted,
    /// There, as soon as it gives its list.
    At(Arc<str>),
    /// It was, or there is no reason.
    Done,
}

/// A run id of which an extra job may come to life.
#[derive(Debug)]
pub(super) struct Suspect {
    key: EntryKey,
    url: Arc<str>,
    until: Duration,
    /// The one that is not extra.
    keep: Option<JobId>,
}

impl Csc {
    /// A submission came in doubt: ask at once, unless a failing service is being spared.
    pub(super) fn look_soon(&mut self, url: Arc<str>) {
        let now = self.now.mono;
        let lookup = self.lookups.entry(url).or_default();
        if lookup.failures == 0 {
            lookup.not_before = now;
        }
    }

    /// From now on, jobs of this run other than `keep` are removed when they show up.
    pub(super) fn suspect(&mut self, key: EntryKey, run_id: RunId, url: Arc<str>, keep: Option<JobId>) {
        self.journal(Record::Suspected { key, until: Tai(self.now.tai.0 + SUSPECT_FOR.as_secs_f64()) });
        self.suspect_again(key, run_id, url, keep);
    }

    /// The same for what an earlier life suspected. How long ago that was is nothing to rely on, and to look for too
    /// long does no harm.
    pub(super) fn suspect_again(&mut self, key: EntryKey, run_id: RunId, url: Arc<str>, keep: Option<JobId>) {
        let now = self.now.mono;
        if self.suspects.len() >= SUSPECTS_MAX {
            let oldest = self.suspects.iter().min_by_key(|(_, s)| s.until).map(|(id, _)| id.clone());
            let oldest = oldest.and_then(|id| self.suspects.remove(&id));
            if let Some(Suspect { key, .. }) = oldest {
                self.journal(Record::Cleared { key });
            }
        }
        let lookup = self.lookups.entry(url.clone()).or_default();
        lookup.not_before = lookup.not_before.max(now);
        self.suspects.insert(run_id, Suspect { key, url, until: now + SUSPECT_FOR, keep });
    }

    /// The service is known now: the journal, which is new or old, may not know of jobs that run there.
    pub(super) fn begin_search(&mut self, url: &Arc<str>) {
        if self.search == Search::Wanted {
            self.search = Search::At(url.clone());
            self.look_soon(url.clone());
        }
    }

    pub(super) fn is_suspect(&self, run_id: &RunId) -> bool {
        self.suspects.contains_key(run_id)
    }

    fn is_searched(&self, url: &Arc<str>) -> bool {
        matches!(&self.search, Search::At(at) if at == url)
    }

    /// When the list of this service is to be asked for; none while it is, or when there is no reason.
    pub(super) fn lookup_due(&self, url: &Arc<str>) -> Option<Duration> {
        let lookup = self.lookups.get(url)?;
        if lookup.asked.is_some() {
            return None;
        }
        if self.is_searched(url) || self.is_in_doubt(url) {
            return Some(lookup.not_before);
        }
        let suspected = self.suspects.values().any(|suspect| suspect.url == *url);
        suspected.then(|| lookup.not_before + SUSPECTED)
    }

    fn is_in_doubt(&self, url: &Arc<str>) -> bool {
        self.jobs.values().any(|job| {
            job.url == *url
                && match &job.stage {
                    Stage::Submitting(submitting) => matches!(submitting.step, SubmitStep::InDoubt { .. }),
                    Stage::Recording { .. }
                    | Stage::Waiting { .. }
                    | Stage::Running(_)
                    | Stage::Aborting { .. } => false,
                }
        })
    }

    pub(super) fn advance_lookups(&mut self) {
        let now = self.now.mono;
        let is_over = |(_, suspect): &(&RunId, &Suspect)| suspect.until <= now;
        let over: Vec<EntryKey> =
            self.suspects.iter().filter(is_over).map(|(_, suspect)| suspect.key).collect();
        self.suspects.retain(|_, suspect| now < suspect.until);
        for key in over {
            self.journal(Record::Cleared { key });
        }
        let urls: Vec<Arc<str>> = self.lookups.keys().cloned().collect();
        for url in urls {
            match self.lookup_due(&url) {
                Some(due) if due <= now => self.look(url),
                Some(_) => {}
                None => self.forget_lookup(&url),
            }
        }
    }

    /// Forgets a service that is asked nothing.
    fn forget_lookup(&mut self, url: &Arc<str>) {
        if self.lookups.get(url).is_some_and(|lookup| lookup.asked.is_none()) {
            self.lookups.remove(url);
        }
    }

    fn look(&mut self, url: Arc<str>) {
        let ours = self.jobs.values().filter(|job| job.url == url).map(|job| job.run_id().clone());
        let suspected =
            self.suspects.iter().filter(|(_, suspect)| suspect.url == url).map(|(id, _)| id.clone());
        let run_ids: BTreeSet<RunId> = ours.chain(suspected).collect();
        let is_search = self.is_searched(&url);
        let active_of = is_search.then_some(self.settings.index);
        let action = Action::List { run_ids: Arc::new(run_ids), active_of };
        let ticket = self.ask(Asked::List(url.clone()), url.clone(), action);
        if let Some(lookup) = self.lookups.get_mut(&url) {
            lookup.asked = Some(Listing { ticket, asked: self.now.mono, is_search });
        }
    }

    /// The service's list, or why there is none.
    pub(super) fn listed(&mut self, url: &Arc<str>, answer: Answer) {
        let Some(lookup) = self.lookups.get_mut(url) else { return };
        let Some(list) = lookup.asked.take() else { return };
        match answer {
            Answer::Listed(jobs) => {
                lookup.failures = 0;
                lookup.not_before = self.now.mono + IN_DOUBT;
                self.resolve(url, &list, &jobs);
            }
            Answer::Failed(failure) => self.look_failed(url, &failure),
            // No back-end answers a list so.
            Answer::Job(_)
            | Answer::Gone
            | Answer::Removed { .. }
            | Answer::Rejected { .. }
            | Answer::Done
            | Answer::Broken { .. } => self.look_failed(url, &out_of_place()),
        }
    }

    fn look_failed(&mut self, url: &Arc<str>, failure: &Failure) {
        let Some(failures) = self.lookups.get(url).map(|lookup| lookup.failures + 1) else { return };
        let not_before = self.now.mono + self.backoff(IN_DOUBT, failures);
        if let Some(lookup) = self.lookups.get_mut(url) {
            lookup.failures = failures;
            lookup.not_before = not_before;
        }
        self.log(LogLevel::Warning, format!("look-up by run id: {failure}"));
    }

    /// Adopts what is found, removes what is too much, and lets those not found go on.
    fn resolve(&mut self, url: &Arc<str>, list: &Listing, found: &[ListedJob]) {
        if list.is_search && self.is_searched(url) {
            self.search = Search::Done;
            self.journal(Record::Searched);
            self.take_unknown(url, found);
        }
        let candidates: Vec<(EntryKey, RunId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.url == *url)
            .map(|(key, job)| (*key, job.run_id().clone()))
            .collect();
        for (key, run_id) in candidates {
            let of_run = |job: &&ListedJob| job.run_id == run_id;
            match found.iter().find(of_run) {
                Some(first) if self.lacks_job(key) => {
                    self.log(LogLevel::Info, format!("found job {} of run {run_id}", first.job_id));
                    self.created(key, first.job_id.clone(), None);
                }
                Some(_) => {}
                None => self.not_found(key, list),
            }
            let kept = self.jobs.get(&key).and_then(|job| job.job_id().cloned());
            if let Some(kept) = kept {
                self.remove_extra(url, &kept, found.iter().filter(of_run));
            }
        }
        let suspects: Vec<(RunId, Option<JobId>)> = self
            .suspects
            .iter()
            .filter(|(_, suspect)| suspect.url == *url)
            .map(|(run_id, suspect)| (run_id.clone(), suspect.keep.clone()))
            .collect();
        for (run_id, keep) in suspects {
            for job in found.iter().filter(|job| job.run_id == run_id && keep.as_ref() != Some(&job.job_id)) {
                self.remove_stray(url.clone(), job.job_id.clone());
            }
        }
    }

    /// Whether a job of this run is to be taken when one is found; while a PUT is out, its answer tells.
    fn lacks_job(&self, key: EntryKey) -> bool {
        self.jobs.get(&key).is_some_and(|job| match &job.stage {
            Stage::Submitting(submitting) => match submitting.step {
                SubmitStep::Pausing { .. } | SubmitStep::InDoubt { .. } => true,
                SubmitStep::Sending => false,
            },
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Running(_) | Stage::Aborting { .. } => {
                false
            }
        })
    }

    fn remove_extra<'a>(&mut self, url: &Arc<str>, kept: &JobId, found: impl Iterator<Item = &'a ListedJob>) {
        for job in found.filter(|job| job.job_id != *kept) {
            self.remove_stray(url.clone(), job.job_id.clone());
        }
    }
}
