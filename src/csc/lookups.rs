//! Jobs that are looked up in the service's list: those of unclear submissions, duplicates, and those that seem to be gone.
//!
//! A PUT is not idempotent, and a gateway may repeat it and show a clean answer: so every run is looked up after its
//! submission too. A list makes the service walk through every job's files. So one list answers all questions about a
//! service, and the next is asked for only after a rest that grows with the time that the last one took.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::context::{Context, Purpose};
use super::event::LogLevel;
use super::id::{EntryKey, Fingerprint, JobId, RunId};
use super::job::Job;
use super::polls::Polled;
use super::record::Record;
use super::request::{Action, Contact, Failure, Listed, Ticket, Wanted};
use super::retry::Retry;
use super::time::Tai;
use super::timers::{Timed, TimedMap, Timer};
use super::{Csc, RunState};

/// Time between lists while something is in doubt, and from a submission to the first look for duplicates.
const IN_DOUBT: Duration = Duration::from_secs(3);
/// Longest time between lists that only look for duplicates: they come less and less often.
const ROUTINE_MAX: Duration = Duration::from_secs(60);
/// How long duplicates of a run are looked for after an unclear submission; and how long after that the last list may take.
pub(super) const DUPLICATES_FOR: Duration = Duration::from_secs(3600);
/// Most runs whose duplicates are looked for, or twice max_jobs if that is more; beyond it the run whose time ends first is
/// dropped.
const DUPLICATES_MAX: usize = 1000;
/// After a list the service rests for half of the time that it took, after a failure to give one for all of it: it may answer
/// only one request at a time. Before a list that only looks for duplicates it rests this many times as long as the last took.
const REST: u32 = 4;
/// Longest such rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// What is to be looked up in the lists of all services.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    services: TimedMap<Lookup>,
    duplicates: TimedMap<PossibleDuplicate>,
    /// The ends of the times for which duplicates are looked for.
    ends: BTreeSet<(Duration, RunId)>,
    /// Whether, since the journal is new or old, the list of the service that the next `start` names is searched for jobs
    /// of ours that the journal does not know.
    wants_search: bool,
}

/// What is to be looked up in the list of one service.
#[derive(Debug, Default)]
struct Lookup {
    /// The list in progress, or the earliest time of the next.
    retry: Retry,
    list: Option<Listing>,
    /// Until when the service rests, also if a submission is in doubt.
    rested: Duration,
    /// The earliest time of the next list that only looks for duplicates.
    not_routinely_before: Duration,
    /// When to look for the jobs of submissions in doubt.
    doubt: Option<Duration>,
    /// Whether to look for duplicates.
    is_routine: bool,
    /// Whether the list is to serve as a poll of all jobs.
    is_of_all: bool,
    /// Whether a submission is given up if the next list does not show its job.
    is_last: bool,
    /// Jobs of which the service says that there is no such job, each with the last request before that answer: a list that
    /// is asked for later decides.
    missing: BTreeMap<Polled, (JobId, Ticket)>,
    /// Whether the list is searched for jobs of ours that the journal does not know.
    is_searched: bool,
}

/// A list that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) ticket: Ticket,
    /// When it was asked for.
    pub(super) asked: Duration,
    /// The runs that it was asked about: it says nothing about others.
    run_ids: Arc<BTreeSet<RunId>>,
    /// Whether it names all active jobs of our index, to find those that the journal does not know.
    is_search: bool,
    /// Whether it names all jobs that are polled, to serve as a poll.
    pub(super) is_of_all: bool,
}

impl Lookup {
    /// This list has come or failed: the service rests for this time. Gives until when.
    fn rest(&mut self, list: &Listing, now: Duration, time: Duration) -> Duration {
        let until = now + time.min(REST_MAX);
        self.rested = until.max(list.asked + IN_DOUBT);
        until
    }
}

/// A run of which a second job may appear.
#[derive(Debug)]
struct PossibleDuplicate {
    key: EntryKey,
    url: Url,
    since: Duration,
    /// A list that is asked for after this time and shows no duplicate is the last.
    until: Duration,
    /// When the next list is wanted.
    next: Duration,
    /// Whether that list is already waited for.
    is_wanted: bool,
    /// The job of the run that is not a duplicate.
    keep: Option<JobId>,
}

impl Timed for Lookup {
    type Key = Url;

    const TIMER: fn(Url) -> Timer = Timer::List;

    fn due(&self) -> Option<Duration> {
        let not_before = self.retry.due?;
        let doubt = self.doubt.map(|time| time.max(not_before));
        let routine = self.is_routine.then_some(self.not_routinely_before);
        let of_all = self.is_of_all.then_some(not_before);
        let last = self.is_last.then_some(self.rested);
        [doubt, routine, of_all, last].into_iter().flatten().min()
    }
}

impl Timed for PossibleDuplicate {
    type Key = RunId;

    const TIMER: fn(RunId) -> Timer = Timer::Duplicate;

    fn due(&self) -> Option<Duration> {
        Some(if self.is_wanted { self.until + DUPLICATES_FOR } else { self.next })
    }
}

impl PossibleDuplicate {
    /// A list that was asked for at `asked` shows no duplicate: sets the time of the next. After a clean submission there is
    /// only one more, at the end.
    fn note_list(&mut self, asked: Duration, settle_time: Duration) {
        if asked < self.next {
            return;
        }
        let pause = asked.saturating_sub(self.since).clamp(IN_DOUBT, ROUTINE_MAX);
        let is_short = self.until.saturating_sub(self.since) <= settle_time;
        self.is_wanted = false;
        self.next = match asked < self.until {
            true if is_short => self.until,
            true => self.until.min(asked + pause),
            false => asked + pause,
        };
    }
}

impl Lookups {
    fn update(&mut self, ctx: &mut Context, url: &Url, change: impl FnOnce(&mut Lookup)) {
        if self.services.get(url).is_none() {
            self.services.insert(ctx, url.clone(), Lookup::default());
        }
        self.services.update(ctx, url, |_, lookup| change(lookup));
    }

    /// A submission is in doubt: the list is asked for at once, or as soon as the service has rested.
    pub(super) fn look_soon(&mut self, ctx: &mut Context, url: &Url) {
        let now = ctx.now.mono;
        self.update(ctx, url, |lookup| lookup.doubt = Some(now));
    }

    /// The service says that there is no such job: its list decides.
    pub(super) fn miss(&mut self, ctx: &mut Context, url: &Url, polled: Polled, job_id: JobId) {
        let (now, after) = (ctx.now.mono, ctx.last_ticket());
        self.update(ctx, url, |lookup| {
            lookup.missing.insert(polled, (job_id, after));
            lookup.doubt = Some(now);
        });
    }

    /// The next list is to serve as a poll of all jobs.
    pub(super) fn look_for_all(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |lookup| lookup.is_of_all = true);
    }

    /// It does not matter any more whether this job is in the list.
    pub(super) fn forget_missing(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.services.update(ctx, url, |_, lookup| lookup.missing.remove(polled));
    }

    /// A submission is given up if the next list does not show its job.
    pub(super) fn look_a_last_time(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |lookup| lookup.is_last = true);
    }

    /// From now on, for `time`, jobs of the run of `job` are removed when a list shows them, except `keep`. Where a previous
    /// run of the daemon has begun with it already, the time begins anew: to look for too long does no harm.
    pub(super) fn look_for_duplicates(
        &mut self,
        ctx: &mut Context,
        time: Duration,
        key: EntryKey,
        job: &Job,
        keep: Option<&JobId>,
    ) {
        ctx.journal(Record::Suspected { key, until: Tai(ctx.now.tai.0 + time.as_secs_f64()) });
        let run_id = job.run_id();
        let now = ctx.now.mono;
        if self.duplicates.len() >= DUPLICATES_MAX.max(ctx.settings.max_jobs.saturating_mul(2))
            && let Some((_, first)) = self.ends.first().cloned()
        {
            self.forget_duplicates(ctx, &first);
        }
        let until = now + time;
        if let Some(known) = self.duplicates.get(run_id) {
            self.ends.remove(&(known.until, run_id.clone()));
        }
        self.ends.insert((until, run_id.clone()));
        let (url, keep, next) = (job.url.clone(), keep.cloned(), now + IN_DOUBT);
        let duplicate = PossibleDuplicate { key, url, since: now, until, next, is_wanted: false, keep };
        self.duplicates.insert(ctx, run_id.clone(), duplicate);
    }

    fn forget_duplicates(&mut self, ctx: &mut Context, run_id: &RunId) {
        if let Some(known) = self.duplicates.remove(ctx, run_id) {
            self.ends.remove(&(known.until, run_id.clone()));
            ctx.journal(Record::Cleared { key: known.key });
        }
    }

    pub(super) fn has_duplicates(&self, run_id: &RunId) -> bool {
        self.duplicates.get(run_id).is_some()
    }

    /// A list is due that looks for duplicates of this run, or none came for too long.
    pub(super) fn on_duplicate_timer(&mut self, ctx: &mut Context, run_id: &RunId) {
        let Some(known) = self.duplicates.get(run_id) else { return };
        if known.is_wanted {
            self.forget_duplicates(ctx, run_id);
            let line =
                format!("duplicates of run {run_id} are not looked for any more: the service gave no list");
            return ctx.log(LogLevel::Error, line);
        }
        let url = known.url.clone();
        self.duplicates.update(ctx, run_id, |_, known| known.is_wanted = true);
        self.update(ctx, &url, |lookup| lookup.is_routine = true);
    }

    /// The journal is new or old: it may not know jobs that run at the service that the next `start` names.
    pub(super) fn want_search(&mut self) {
        self.wants_search = true;
    }

    /// A `start` has named the service.
    pub(super) fn begin_search(&mut self, ctx: &mut Context, url: &Url) {
        if mem::take(&mut self.wants_search) {
            self.update(ctx, url, |lookup| lookup.is_searched = true);
            self.look_soon(ctx, url);
        }
    }

    /// Asks for the list, if it is due. It is asked about the runs with possible duplicates and those of `lacking`, which are
    /// submitted and have no job id; where it serves as a poll, about the jobs of `polled` too.
    fn ask(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        lacking: &[(EntryKey, RunId)],
        is_in_doubt: bool,
        polled: Option<Arc<HashSet<Fingerprint>>>,
    ) {
        let now = ctx.now.mono;
        let duplicates = || self.duplicates.iter().filter(|(_, duplicate)| duplicate.url == *url);
        let is_routine = duplicates().any(|(_, duplicate)| duplicate.is_wanted);
        let run_ids = duplicates().map(|(run_id, _)| run_id).chain(lacking.iter().map(|(_, run_id)| run_id));
        let run_ids: BTreeSet<RunId> = run_ids.cloned().collect();
        self.services.update(ctx, url, |ctx, lookup| {
            // The reason to ask for it may be gone.
            let is_search = lookup.is_searched;
            if !is_in_doubt && !is_search && lookup.missing.is_empty() {
                lookup.doubt = None;
            }
            lookup.is_routine &= is_routine;
            lookup.is_of_all &= polled.is_some();
            lookup.is_last &= is_in_doubt;
            if lookup.due().is_none_or(|due| now < due) {
                return;
            }
            let run_ids = Arc::new(run_ids);
            let is_of_all = polled.is_some();
            let mut job_ids = polled.unwrap_or_default();
            let missing = lookup.missing.values().map(|(job_id, _)| job_id.fingerprint());
            if missing.clone().any(|id| !job_ids.contains(&id)) {
                Arc::make_mut(&mut job_ids).extend(missing);
            }
            let active_of = is_search.then_some(ctx.settings.index);
            let action = Action::List(Wanted { run_ids: Arc::clone(&run_ids), job_ids, active_of });
            let ticket = ctx.ask(Purpose::List, url.clone(), action);
            lookup.retry.due = None;
            (lookup.doubt, lookup.is_routine, lookup.is_last, lookup.is_of_all) = (None, false, false, false);
            lookup.list = Some(Listing { ticket, asked: now, run_ids, is_search, is_of_all });
        });
    }

    /// The list came: the service rests, and submissions that are in doubt after that are looked up again. Gives what the list
    /// was, and whether it ends the search for jobs that the journal does not know.
    fn note_list(&mut self, ctx: &mut Context, url: &Url) -> Option<(Listing, bool)> {
        let now = ctx.now.mono;
        let note = |_: &mut Context, lookup: &mut Lookup| {
            let list = lookup.list.take()?;
            let took = now.saturating_sub(list.asked);
            lookup.retry = Retry::at(lookup.rest(&list, now, took / 2));
            lookup.not_routinely_before = now + took.saturating_mul(REST).min(REST_MAX);
            lookup.doubt = Some(now + IN_DOUBT);
            let ends_search = list.is_search && mem::take(&mut lookup.is_searched);
            Some((list, ends_search))
        };
        self.services.update(ctx, url, note).flatten()
    }

    /// There is no list: the service rests too. Gives what the list was, when the next is due, and how many failed in a row.
    fn note_failure(&mut self, ctx: &mut Context, url: &Url) -> Option<(Listing, Duration, u32)> {
        let now = ctx.now.mono;
        let note = |ctx: &mut Context, lookup: &mut Lookup| {
            let list = lookup.list.take()?;
            lookup.rest(&list, now, now.saturating_sub(list.asked));
            lookup.retry.fail(ctx, 2 * IN_DOUBT);
            let again = lookup.retry.due?.max(lookup.rested);
            lookup.retry.due = Some(again);
            (lookup.doubt, lookup.is_routine, lookup.not_routinely_before) = (Some(again), true, again);
            Some((list, again, lookup.retry.failures))
        };
        self.services.update(ctx, url, note).flatten()
    }

    /// Gives the duplicates that this list shows; forgets runs whose duplicates were looked for long enough. Those of a
    /// command of which something is still to be recorded are left to a later list: after a crash, the next run of the
    /// daemon might keep one of them instead.
    fn resolve_duplicates(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        list: &Listing,
        found: &BTreeMap<&RunId, Vec<&JobId>>,
        is_recorded: impl Fn(EntryKey) -> bool,
    ) -> Vec<JobId> {
        let mut extra = Vec::new();
        for run_id in list.run_ids.iter() {
            let Some(known) = self.duplicates.get(run_id).filter(|known| known.url == *url) else { continue };
            let jobs = found.get(run_id).into_iter().flatten().copied();
            let mut jobs = jobs.filter(|job_id| known.keep.as_ref() != Some(*job_id)).cloned().peekable();
            let is_any = jobs.peek().is_some();
            extra.extend(jobs.filter(|_| is_recorded(known.key)));
            if is_any || list.asked < known.until {
                let settle_time = ctx.settings.settle_time;
                self.duplicates.update(ctx, run_id, |_, known| known.note_list(list.asked, settle_time));
            } else {
                self.forget_duplicates(ctx, run_id);
            }
        }
        extra
    }

    /// The jobs about which a list with this ticket decides.
    fn take_missing(&mut self, ctx: &mut Context, url: &Url, list: Ticket) -> Vec<(Polled, JobId)> {
        let take = |_: &mut Context, lookup: &mut Lookup| {
            let all = mem::take(&mut lookup.missing).into_iter();
            let (decided, left): (Vec<_>, Vec<_>) = all.partition(|(_, (_, after))| *after < list);
            lookup.missing = left.into_iter().collect();
            decided.into_iter().map(|(polled, (job_id, _))| (polled, job_id)).collect()
        };
        self.services.update(ctx, url, take).unwrap_or_default()
    }
}

impl Csc {
    /// The list of this service may be due.
    pub(super) fn on_list_timer(&mut self, url: &Url) {
        let lacking = self.jobs.lacking(url);
        let polled = self.polls.wanted_of_list(url);
        self.lookups.ask(&mut self.ctx, url, &lacking, self.jobs.is_any_in_doubt(url), polled);
    }

    /// The list of a service came, and took this long, or failed.
    pub(super) fn on_list(&mut self, url: &Url, took: Duration, result: Result<Listed, Failure>) {
        let Listed { named, jobs } = match result {
            Ok(listed) => listed,
            Err(failure) => return self.on_list_failed(url, &failure),
        };
        let Some((list, ends_search)) = self.lookups.note_list(&mut self.ctx, url) else { return };
        if ends_search {
            self.ctx.journal(Record::Searched);
            self.take_unknown(url, &jobs);
        }
        let mut runs: BTreeMap<&RunId, Vec<&JobId>> = BTreeMap::new();
        for job in jobs.iter().filter(|job| list.run_ids.contains(&job.run_id)) {
            runs.entry(&job.run_id).or_default().push(&job.job_id);
        }
        self.resolve_submissions(url, &list, &runs);
        let is_recorded = |key| self.announcements.is_recorded(key);
        for job_id in self.lookups.resolve_duplicates(&mut self.ctx, url, &list, &runs, is_recorded) {
            self.remove_duplicate(url, job_id);
        }
        let missing = self.lookups.take_missing(&mut self.ctx, url, list.ticket);
        for (polled, job_id) in &missing {
            let is_there = named.contains_key(&job_id.fingerprint());
            self.on_looked_up(polled, url, list.asked, Ok(is_there));
        }
        self.note_listed(url, took, &list, named);
    }

    fn on_list_failed(&mut self, url: &Url, failure: &Failure) {
        let Some((list, again, failures)) = self.lookups.note_failure(&mut self.ctx, url) else { return };
        if failure.contact != Contact::Silent && failures == 1 {
            let line = format!("look-up by run id: {failure}");
            self.services.log(&mut self.ctx, url, LogLevel::Warning, line);
        } else {
            self.services.leave_out(&mut self.ctx, url);
        }
        // Perhaps single polls are answered.
        for (polled, _) in self.lookups.take_missing(&mut self.ctx, url, list.ticket) {
            self.on_looked_up(&polled, url, list.asked, Err(again));
        }
        if list.is_of_all {
            self.polls.note_list_failure(&mut self.ctx, url, failure, again);
        }
        if self.run_state == RunState::Serving && failure.contact != Contact::NotAsked {
            self.give_up_lost(url, &list);
        }
    }

    /// Submissions without a job id take the job of their run that the list shows; for the others it says that there is none.
    fn resolve_submissions(&mut self, url: &Url, list: &Listing, found: &BTreeMap<&RunId, Vec<&JobId>>) {
        for (key, run_id) in self.jobs.lacking(url) {
            if !list.run_ids.contains(&run_id) {
                continue;
            }
            match found.get(&run_id).and_then(|jobs| jobs.first()) {
                Some(job_id) => {
                    self.ctx.info(format!("found job {job_id} of run {run_id}"));
                    self.created(key, (*job_id).clone(), None);
                }
                None => self.not_found(key, list),
            }
        }
    }
}
