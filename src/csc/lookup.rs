//! Jobs found in the service's list: what an unclear submission left, extra ones, and those that seem to have vanished.
//!
//! A PUT is not idempotent, and a gateway may repeat it and show a clean answer: so every run is looked up after its
//! submission too. One list serves all questions at a time, since a list makes the service walk through every job's
//! files: the next is asked for only after a rest that grows with the time that the last one took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::context::Purpose;
use super::event::LogLevel;
use super::id::{EntryKey, JobId, RunId};
use super::job::{Job, Stage, SubmitStep, Submitting, Watch};
use super::record::Record;
use super::request::{Action, Contact, Failure, ListedJob, Ticket};
use super::time::Tai;
use super::{Csc, RunState};

/// Time between lists while something is in doubt, and from a submission to the first look for extra jobs of its run.
const IN_DOUBT: Duration = Duration::from_secs(3);
/// Longest time between lists that only look for extra jobs: they come less and less often.
const SUSPECTED: Duration = Duration::from_secs(60);
/// How long a run of which a job may still come to life is looked for; and how long, after the time for its last
/// look, a list is waited for.
pub(super) const SUSPECT_FOR: Duration = Duration::from_secs(3600);
/// Most runs that are looked for so, unless more jobs are allowed; those that end first go first.
const SUSPECTS_MAX: usize = 1000;
/// A service that took a time for a list is asked for none for as long, and for so many times as long where it is
/// only to look for extra jobs.
const REST: u32 = 4;
/// Longest such rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// Questions for the list of one service.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// The list under way.
    asked: Option<Listing>,
    /// When the last list was asked for.
    last: Duration,
    /// The earliest time of the next one.
    not_before: Duration,
    /// The earliest time of the next one that only looks for extra jobs.
    not_routinely_before: Duration,
    /// When what is in doubt is to be looked for.
    next: Duration,
    failures: u32,
}

/// A list that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) ticket: Ticket,
    /// When it was asked for.
    pub(super) asked: Duration,
    /// How long the process stood still since.
    stood_still: Duration,
    /// What it was asked for: it says nothing about anything else.
    run_ids: Arc<BTreeSet<RunId>>,
    job_ids: Arc<BTreeSet<JobId>>,
    /// Whether it names all active jobs of our index.
    is_search: bool,
}

/// Whether the service's list is searched for jobs of ours that we do not know, since the journal is new or old.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// When a `start` says where.
    Wanted,
    /// There, as soon as it gives its list.
    At(Url),
    /// It was, or there is no reason.
    Done,
}

/// A run of which an extra job may come to life.
#[derive(Debug)]
pub(super) struct Suspect {
    key: EntryKey,
    url: Url,
    since: Duration,
    /// A list that is asked for later and shows no extra job is the last.
    until: Duration,
    /// When the next list is wanted.
    next: Duration,
    /// The one that is not extra.
    keep: Option<JobId>,
}

impl Suspect {
    /// A list was asked for at that time: when to look again. After a clean submission that is once more, at the end.
    fn looked(&mut self, asked: Duration, settle_time: Duration) {
        let pause = asked.saturating_sub(self.since).clamp(IN_DOUBT, SUSPECTED);
        let is_short = self.until.saturating_sub(self.since) <= settle_time;
        self.next = match asked < self.until {
            true if is_short => self.until,
            true => self.until.min(asked + pause),
            false => asked + pause,
        };
    }
}

impl Csc {
    /// Something came in doubt: ask at once, unless the service is being spared.
    pub(super) fn look_soon(&mut self, url: Url) {
        let now = self.ctx.now.mono;
        self.lookups.entry(url).or_default().next = now;
    }

    /// From now on, for a time, jobs of this run other than `keep` are removed when they show up.
    pub(super) fn suspect(
        &mut self,
        time: Duration,
        key: EntryKey,
        run_id: RunId,
        url: Url,
        keep: Option<JobId>,
    ) {
        self.ctx.journal(Record::Suspected { key, until: Tai(self.ctx.now.tai.0 + time.as_secs_f64()) });
        self.suspect_for(time, key, run_id, url, keep);
    }

    /// The same for what a previous run suspected. How long ago that was is nothing to rely on, and to look for too
    /// long does no harm.
    pub(super) fn suspect_again(&mut self, key: EntryKey, run_id: RunId, url: Url, keep: Option<JobId>) {
        self.suspect_for(SUSPECT_FOR, key, run_id, url, keep);
    }

    fn suspect_for(&mut self, time: Duration, key: EntryKey, run_id: RunId, url: Url, keep: Option<JobId>) {
        let now = self.ctx.now.mono;
        if self.suspects.len() >= SUSPECTS_MAX.max(self.ctx.settings.max_jobs.saturating_mul(2)) {
            let first = self.suspects.iter().min_by_key(|(_, s)| s.until).map(|(id, _)| id.clone());
            if let Some(Suspect { key, .. }) = first.and_then(|id| self.suspects.remove(&id)) {
                self.ctx.journal(Record::Cleared { key });
            }
        }
        self.lookups.entry(url.clone()).or_default();
        let suspect = Suspect { key, url, since: now, until: now + time, next: now + IN_DOUBT, keep };
        self.suspects.insert(run_id, suspect);
    }

    /// The process stood still: no service took so long for its list.
    pub(super) fn forgive_lookups(&mut self, pause: Duration) {
        for list in self.lookups.values_mut().filter_map(|lookup| lookup.asked.as_mut()) {
            list.stood_still += pause;
        }
    }

    /// The service is known now: the journal, which is new or old, may not know of jobs that run there.
    pub(super) fn begin_search(&mut self, url: &Url) {
        if self.search == Search::Wanted {
            self.search = Search::At(url.clone());
            self.look_soon(url.clone());
        }
    }

    pub(super) fn is_suspect(&self, run_id: &RunId) -> bool {
        self.suspects.contains_key(run_id)
    }

    fn is_searched(&self, url: &Url) -> bool {
        matches!(&self.search, Search::At(at) if at == url)
    }

    /// When the list of this service is to be asked for; none while it is, or when there is no reason.
    pub(super) fn lookup_due(&self, url: &Url) -> Option<Duration> {
        let lookup = self.lookups.get(url)?;
        if lookup.asked.is_some() {
            return None;
        }
        let doubt =
            (self.is_searched(url) || self.is_in_doubt(url)).then(|| lookup.next.max(lookup.not_before));
        let suspected = self.suspects.values().filter(|suspect| suspect.url == *url).map(|s| s.next).min();
        let suspected = suspected.map(|due| due.max(lookup.not_routinely_before));
        // Nothing is given up before one that is asked for after its time.
        let lost =
            self.submissions_in_doubt(url).filter_map(|submitting| submitting.lost(&self.ctx.settings));
        let last = lost.filter(|lost| *lost > lookup.last).min().map(|lost| lost.max(lookup.last + IN_DOUBT));
        [doubt, suspected, last].into_iter().flatten().min()
    }

    fn is_in_doubt(&self, url: &Url) -> bool {
        self.submissions_in_doubt(url).next().is_some() || self.missing(url).next().is_some()
    }

    fn submissions_in_doubt(&self, url: &Url) -> impl Iterator<Item = &Submitting> {
        self.jobs.values().filter(move |job| job.url == *url).filter_map(|job| match &job.stage {
            Stage::Submitting(submitting) => match submitting.step {
                SubmitStep::InDoubt { .. } => Some(submitting),
                SubmitStep::Sending | SubmitStep::Pausing { .. } => None,
            },
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Running(_) | Stage::Aborting { .. } => {
                None
            }
        })
    }

    /// Jobs of which the service says that they are not there, which its list is to confirm.
    fn missing(&self, url: &Url) -> impl Iterator<Item = &JobId> {
        let running =
            self.jobs.values().filter(move |job| job.url == *url).filter_map(|job| match &job.stage {
                Stage::Running(running) => running.poll.is_missing().then_some(&running.job_id),
                Stage::Recording { .. }
                | Stage::Waiting { .. }
                | Stage::Submitting(_)
                | Stage::Aborting { .. } => None,
            });
        let is_missing = move |watch: &Watch| watch.url == *url && watch.poll.is_missing();
        let watched = self.watches.iter().filter(move |(_, watch)| is_missing(watch)).map(|(id, _)| id);
        running.chain(watched).chain(self.missing_removals(url))
    }

    pub(super) fn advance_lookups(&mut self) {
        let now = self.ctx.now.mono;
        self.forget_suspects();
        let urls: Vec<Url> = self.lookups.keys().cloned().collect();
        for url in urls {
            match self.lookup_due(&url) {
                Some(due) if due <= now => self.look(url),
                Some(_) => {}
                None => self.forget_lookup(&url),
            }
        }
    }

    /// Forgets runs for which no list came for long enough.
    fn forget_suspects(&mut self) {
        let now = self.ctx.now.mono;
        let mut forgotten = Vec::new();
        self.suspects.retain(|run_id, suspect| {
            let is_waited_for = now < suspect.until + SUSPECT_FOR;
            if !is_waited_for {
                forgotten.push((suspect.key, run_id.clone()));
            }
            is_waited_for
        });
        for (key, run_id) in forgotten {
            self.ctx.journal(Record::Cleared { key });
            let line =
                format!("extra jobs of run {run_id} are not looked for any more: the service gave no list");
            self.ctx.log(LogLevel::Error, line);
        }
    }

    /// Forgets a service that is asked nothing and needs no rest.
    fn forget_lookup(&mut self, url: &Url) {
        let now = self.ctx.now.mono;
        let is_over =
            |lookup: &Lookup| lookup.asked.is_none() && lookup.not_routinely_before + SUSPECTED <= now;
        if self.lookups.get(url).is_some_and(is_over) {
            self.lookups.remove(url);
        }
    }

    /// Asks for the list, about all that is in doubt.
    fn look(&mut self, url: Url) {
        let lacking = self.jobs.values().filter(|job| job.url == url && lacks_job(job));
        let suspected = self.suspects.iter().filter(|(_, suspect)| suspect.url == url);
        let run_ids: BTreeSet<RunId> = lacking
            .map(|job| job.run_id().clone())
            .chain(suspected.map(|(run_id, _)| run_id.clone()))
            .collect();
        let (run_ids, job_ids) = (Arc::new(run_ids), Arc::new(self.missing(&url).cloned().collect()));
        let is_search = self.is_searched(&url);
        let active_of = is_search.then_some(self.ctx.settings.index);
        let action = Action::List { run_ids: run_ids.clone(), job_ids: Arc::clone(&job_ids), active_of };
        let ticket = self.ctx.ask(Purpose::List, url.clone(), action);
        let asked = self.ctx.now.mono;
        if let Some(lookup) = self.lookups.get_mut(&url) {
            lookup.last = asked;
            lookup.asked =
                Some(Listing { ticket, asked, stood_still: Duration::ZERO, run_ids, job_ids, is_search });
        }
    }

    /// The service's list, or why there is none.
    pub(super) fn listed(&mut self, url: &Url, result: Result<Vec<ListedJob>, Failure>) {
        let now = self.ctx.now.mono;
        let Some(lookup) = self.lookups.get_mut(url) else { return };
        let Some(list) = lookup.asked.take() else { return };
        match result {
            Ok(jobs) => {
                lookup.failures = 0;
                let took = now.saturating_sub(list.asked + list.stood_still);
                lookup.not_before = now + took.min(REST_MAX);
                lookup.not_routinely_before = now + took.saturating_mul(REST).min(REST_MAX);
                lookup.next = now + IN_DOUBT;
                if list.is_search && self.is_searched(url) {
                    self.search = Search::Done;
                    self.ctx.journal(Record::Searched);
                    self.take_unknown(url, &jobs);
                }
                self.resolve_submissions(url, &list, &jobs);
                self.resolve_suspects(url, &list, &jobs);
                self.resolve_missing(url, &list, &jobs);
            }
            Err(failure) => self.look_failed(url, &list, &failure),
        }
    }

    fn look_failed(&mut self, url: &Url, list: &Listing, failure: &Failure) {
        let Some(failures) = self.lookups.get(url).map(|lookup| lookup.failures + 1) else { return };
        let again = self.ctx.now.mono + self.ctx.backoff(IN_DOUBT, failures);
        if let Some(lookup) = self.lookups.get_mut(url) {
            lookup.failures = failures;
            (lookup.not_before, lookup.not_routinely_before) = (again, again);
            lookup.next = again;
        }
        match failure.contact {
            Contact::Answered | Contact::NotAsked if failures == 1 => {
                self.log_of_service(url, LogLevel::Warning, format!("look-up by run id: {failure}"));
            }
            Contact::Answered | Contact::NotAsked | Contact::Silent => self.leave_out(url),
        }
        // Perhaps they are answered one by one.
        self.ask_missing_again(url, list.ticket, again);
        if self.run_state == RunState::Serving && failure.contact != Contact::NotAsked {
            self.give_up_lost(url, list);
        }
    }

    /// Jobs of these runs are adopted where one is lacking; those not found go on.
    fn resolve_submissions(&mut self, url: &Url, list: &Listing, found: &[ListedJob]) {
        let candidates: Vec<(EntryKey, RunId)> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.url == *url && lacks_job(job) && list.run_ids.contains(job.run_id()))
            .map(|(key, job)| (*key, job.run_id().clone()))
            .collect();
        for (key, run_id) in candidates {
            match found.iter().find(|job| job.run_id == run_id) {
                Some(first) => {
                    self.ctx.log(LogLevel::Info, format!("found job {} of run {run_id}", first.job_id));
                    self.created(key, first.job_id.clone(), None);
                }
                None => self.not_found(key, list),
            }
        }
    }

    /// Removes what is extra, and forgets what was looked for long enough.
    fn resolve_suspects(&mut self, url: &Url, list: &Listing, found: &[ListedJob]) {
        let settle_time = self.ctx.settings.settle_time;
        let (mut extra, mut cleared) = (Vec::new(), Vec::new());
        self.suspects.retain(|run_id, suspect| {
            if suspect.url != *url || !list.run_ids.contains(run_id) {
                return true;
            }
            let is_extra =
                |job: &&ListedJob| job.run_id == *run_id && suspect.keep.as_ref() != Some(&job.job_id);
            let before = extra.len();
            extra.extend(found.iter().filter(is_extra).map(|job| job.job_id.clone()));
            let has_extra = extra.len() > before;
            if list.asked >= suspect.next {
                suspect.looked(list.asked, settle_time);
            }
            let is_kept = has_extra || list.asked < suspect.until;
            if !is_kept {
                cleared.push(suspect.key);
            }
            is_kept
        });
        for key in cleared {
            self.ctx.journal(Record::Cleared { key });
        }
        for job_id in extra {
            self.remove_stray(url.clone(), job_id);
        }
    }

    /// The list decides about jobs that the service says are not there.
    fn resolve_missing(&mut self, url: &Url, list: &Listing, found: &[ListedJob]) {
        let is_there = |job_id: &JobId| found.iter().any(|job| job.job_id == *job_id);
        for job_id in list.job_ids.iter() {
            let is_there = is_there(job_id);
            if let Some(key) = self.job_ids.get(job_id).copied() {
                self.job_looked_up(key, list.ticket, is_there);
            }
            if self.watches.get(job_id).is_some_and(|watch| watch.url == *url) {
                self.prerequisite_looked_up(job_id, list.ticket, is_there);
            }
            self.removal_looked_up(job_id, list, is_there);
        }
    }
}

/// Whether a job of this run is to be taken when one is found; while a PUT is out, its answer tells.
fn lacks_job(job: &Job) -> bool {
    match &job.stage {
        Stage::Submitting(submitting) => match submitting.step {
            SubmitStep::Pausing { .. } | SubmitStep::InDoubt { .. } => true,
            SubmitStep::Sending => false,
        },
        Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Running(_) | Stage::Aborting { .. } => false,
    }
}
