//! When each job is polled: singly, or with all other jobs of its service by the service's list.
//!
//! Singly, each job is polled once an interval, at a time of its own. Only some polls of a service are out at a time,
//! and the one that has been due for longest is next: where the service cannot keep up, the interval stretches and
//! nothing piles up. By list, one request an interval serves as a poll of all jobs that it shows as active; see `lists`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::context::{Context, Purpose};
use super::event::Phase;
use super::id::{EntryKey, Fingerprint, JobId, RunId};
use super::lists::Lists;
use super::report;
use super::request::{Action, Contact, Failure, Named, Shown, Ticket};
use super::timers::Timer;

/// How soon a job is polled again of which the service says that there is no such job.
const ABSENT_AGAIN: Duration = Duration::from_secs(3);
/// Polls of a service that are out at once, for each connection: one is under way, one waits for the thread.
const OUT_PER_CONNECTION: usize = 2;
/// An interval has this many parts, and no part is longer than that. Single polls that are due in the same part are sent
/// together: to wake up for each costs more than the poll.
const PARTS: u32 = 32;
const PART_MAX: Duration = Duration::from_millis(50);
/// A single poll that is overdue for so long does not wait for a list.
const OVERDUE: Duration = Duration::from_secs(60);
/// After each list one of this many jobs is polled singly all the same; one job at least.
const SAMPLED: usize = 100;

/// A job that is polled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Polled {
    /// A job that we submitted.
    Ours(EntryKey),
    /// A job that we did not submit, but that one of ours waits for.
    Prerequisite(JobId),
    /// A job that is being removed. `removals` polls it, not this part.
    Removal(JobId),
}

#[derive(Debug)]
pub(super) struct Poll {
    job_id: JobId,
    /// The run id of a job of ours.
    run_id: Option<RunId>,
    next: Next,
    /// Polls in a row that failed.
    failures: u32,
    /// When the last valid answer came or, before the first, when polling began; while it waits for a list, see
    /// [`AtService::listed_at`].
    pub(super) last_valid_answer: Duration,
    /// When the service last showed that the job is there; see [`AtService::listed_at`].
    seen: Option<Duration>,
    /// Answers in a row that there is no such job.
    absences: u32,
    /// Whether the last list did not show it as active.
    is_unlisted: bool,
}

/// What comes next for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Polling begins once its job id is published.
    Held,
    /// A single poll at this time.
    At(Duration),
    /// The answer to a single poll that was due at this time.
    Asked { ticket: Ticket, due: Duration },
    /// The next list, which serves as its poll.
    List,
    /// A list that decides whether the job is gone, as the service says.
    Missing,
}

impl Poll {
    /// The poll of a job of which nothing is known yet.
    pub(super) fn new(ctx: &Context, job_id: JobId, run_id: Option<RunId>) -> Self {
        Self {
            job_id,
            run_id,
            next: Next::Held,
            failures: 0,
            last_valid_answer: ctx.now.mono,
            seen: None,
            absences: 0,
            is_unlisted: false,
        }
    }

    /// Whether its last poll showed how the job is.
    fn is_answered(&self) -> bool {
        self.failures == 0 && self.absences == 0
    }

    /// The poll of a job that exists.
    pub(super) fn of_present(ctx: &Context, job_id: JobId, run_id: RunId) -> Self {
        Self { seen: Some(ctx.now.mono), ..Self::new(ctx, job_id, Some(run_id)) }
    }
}

/// The polls of all services.
#[derive(Debug, Default)]
pub(super) struct Polls(BTreeMap<Url, AtService>);

#[derive(Debug, Default)]
struct AtService {
    polls: BTreeMap<Polled, Poll>,
    /// The same by the fingerprints of the job ids.
    by_id: BTreeSet<(Fingerprint, Polled)>,
    /// These fingerprints, which a list in progress shares.
    ids: Arc<HashSet<Fingerprint>>,
    /// What the last list showed that served as a poll, and when it was asked for.
    listed: (Named, Duration),
    /// At which jobs the next list leads to a look, besides those of which it shows something new: all that have not waited
    /// for it since the last one.
    apart: BTreeSet<Polled>,
    /// Single polls to come, by their times.
    due: BTreeSet<(Duration, Polled)>,
    /// How many single polls have no answer yet.
    out: usize,
    /// What a single poll takes: an exponential mean.
    single: Option<Duration>,
    lists: Lists,
    /// The last job that was polled singly although a list had shown it.
    sampled: Option<Polled>,
    /// The time between polls of a job, while that is at least twice poll_interval.
    stretched: Option<Duration>,
}

/// The end of the part of the interval that `time` is in; a time that has passed stays as it is.
fn end_of_part(ctx: &Context, time: Duration) -> Duration {
    let part = (ctx.poll_interval / PARTS).min(PART_MAX).as_nanos();
    if time <= ctx.now.mono || part == 0 {
        return time;
    }
    let left = (part - time.as_nanos() % part) % part;
    time + Duration::from_nanos(u64::try_from(left).unwrap_or_default())
}

impl AtService {
    fn set(&mut self, polled: &Polled, next: Next) {
        let listed_at = self.polls.get(polled).and_then(|poll| self.listed_at(poll));
        let Some(poll) = self.polls.get_mut(polled) else { return };
        poll.seen = poll.seen.max(listed_at);
        poll.last_valid_answer = poll.last_valid_answer.max(listed_at.unwrap_or_default());
        match mem::replace(&mut poll.next, next) {
            Next::At(time) => _ = self.due.remove(&(time, polled.clone())),
            Next::Asked { .. } => self.out -= 1,
            Next::Held | Next::List | Next::Missing => {}
        }
        match next {
            Next::At(time) => _ = self.due.insert((time, polled.clone())),
            Next::Asked { .. } => self.out += 1,
            Next::Held | Next::List | Next::Missing => {}
        }
        self.apart.insert(polled.clone());
    }

    fn insert(&mut self, polled: Polled, poll: Poll) {
        let id = poll.job_id.fingerprint();
        Arc::make_mut(&mut self.ids).insert(id);
        self.by_id.insert((id, polled.clone()));
        self.apart.insert(polled.clone());
        self.polls.insert(polled, poll);
    }

    fn remove(&mut self, polled: &Polled) {
        self.set(polled, Next::Held);
        let Some(poll) = self.polls.remove(polled) else { return };
        self.apart.remove(polled);
        let id = poll.job_id.fingerprint();
        self.by_id.remove(&(id, polled.clone()));
        if self.polled_as(id).next().is_none() {
            Arc::make_mut(&mut self.ids).remove(&id);
        }
    }

    /// The polls of the job with this fingerprint: most often one.
    fn polled_as(&self, id: Fingerprint) -> impl Iterator<Item = &Polled> {
        let of_id =
            self.by_id.range((id, Polled::Ours(EntryKey(0)))..).take_while(move |(other, _)| *other == id);
        of_id.map(|(_, polled)| polled)
    }

    /// When the last list was asked for, if it showed this job as active and the job waits for the next: so a list need not
    /// be noted at each job.
    fn listed_at(&self, poll: &Poll) -> Option<Duration> {
        let (listed, asked) = &self.listed;
        let shown = listed.get(&poll.job_id.fingerprint()).filter(|_| poll.next == Next::List)?;
        shown.active().map(|_| *asked)
    }

    /// The jobs for whose polls `is_it` holds.
    fn which(&self, is_it: impl Fn(&Poll) -> bool) -> Vec<Polled> {
        self.polls.iter().filter(|(_, poll)| is_it(poll)).map(|(polled, _)| polled.clone()).collect()
    }

    /// When something is to be done.
    fn next(&self, ctx: &Context) -> Option<Duration> {
        let is_full = self.out >= ctx.settings.connections.saturating_mul(OUT_PER_CONNECTION);
        let single = self.due.first().filter(|_| !is_full).map(|(time, _)| end_of_part(ctx, *time));
        let list = self.lists.due(ctx, self.all_singly(ctx));
        [single, list].into_iter().flatten().min()
    }

    /// How long it takes to poll all jobs singly, if that is known.
    fn all_singly(&self, ctx: &Context) -> Option<Duration> {
        self.singly(ctx, self.polls.len())
    }

    /// How long it takes to poll so many jobs singly, if that is known.
    fn singly(&self, ctx: &Context, count: usize) -> Option<Duration> {
        let [count, connections] =
            [count, ctx.settings.connections.max(1)].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Some(self.single?.saturating_mul(count) / connections)
    }

    /// From now on jobs are polled by list.
    fn begin_lists(&mut self, ctx: &Context) {
        self.polls.values_mut().for_each(|poll| poll.is_unlisted = false);
        // A poll that is long overdue keeps its place among the single ones: lists may fail again.
        let is_in_time = |time| ctx.now.mono < time + OVERDUE;
        let is_in_order =
            |poll: &Poll| matches!(poll.next, Next::At(time) if is_in_time(time)) && poll.is_answered();
        // A prerequisite may have ended long ago: it is polled singly first.
        for polled in self.which(|poll| is_in_order(poll) && (poll.run_id.is_some() || poll.seen.is_some())) {
            self.set(&polled, Next::List);
        }
    }

    /// From now on jobs are polled singly, each within an interval from the last list; within one from now where lists are
    /// given up, since the service may be in trouble and many jobs would be overdue.
    fn end_lists(&mut self, ctx: &mut Context) {
        let age = ctx.now.mono.saturating_sub(self.listed.1);
        let is_usual = age < ctx.poll_interval && !self.lists.are_given_up(ctx);
        let age = if is_usual { age } else { Duration::ZERO };
        for polled in self.which(|poll| poll.next == Next::List) {
            self.set(&polled, Next::At(ctx.within_interval().saturating_sub(age)));
        }
        self.listed.0 = Named::default();
    }

    /// Sends the single polls that are due; gives whether a list is wanted from now on.
    fn on_timer(&mut self, ctx: &mut Context, url: &Url) -> bool {
        let now = ctx.now.mono;
        let most = ctx.settings.connections.saturating_mul(OUT_PER_CONNECTION);
        while self.out < most
            && let Some((due, polled)) = self.due.first().filter(|(due, _)| *due <= now).cloned()
            && let Some(poll) = self.polls.get(&polled)
        {
            let action = Action::Status { job_id: poll.job_id.clone(), run_id: poll.run_id.clone() };
            let ticket = ctx.ask(Purpose::Poll(polled.clone()), url.clone(), action);
            self.set(&polled, Next::Asked { ticket, due });
            if !self.lists.are_used() {
                let is_too_much = self.all_singly(ctx).is_some_and(|time| time > ctx.poll_interval);
                let late = if is_too_much { now.saturating_sub(due) } else { Duration::ZERO };
                self.note_interval(ctx, ctx.poll_interval + late);
            }
        }
        self.lists.on_timer(ctx, self.all_singly(ctx))
    }

    /// The time between two polls of a job was `real`: logs when the service begins or ceases to keep up.
    fn note_interval(&mut self, ctx: &mut Context, real: Duration) {
        let interval = ctx.poll_interval;
        let is_stretched = self.stretched.is_some();
        if real >= interval.saturating_mul(2) {
            self.stretched = Some(real);
            if !is_stretched {
                let (jobs, wanted) = (self.polls.len(), interval.as_secs_f64());
                let possible =
                    self.all_singly(ctx).filter(|_| !self.lists.are_used()).unwrap_or(real).as_secs_f64();
                let [wants, can] = [wanted, possible].map(|time| jobs as f64 / time);
                ctx.warn(format!(
                    "the service cannot keep up: {jobs} jobs at poll_interval {wanted} s want {wants:.1} answers a second, \
                     and {can:.1} are possible: the interval is longer, now {:.1} s", real.as_secs_f64()
                ));
            }
        } else if is_stretched && real <= interval.mul_f64(1.25) {
            self.stretched = None;
            ctx.info(format!("the service keeps up with poll_interval {} s again", interval.as_secs_f64()));
        }
    }

    /// The service shows that a job is there and has not ended.
    fn note_present(&mut self, ctx: &Context, polled: &Polled) {
        let now = ctx.now.mono;
        let Some(poll) = self.polls.get_mut(polled) else { return };
        (poll.seen, poll.last_valid_answer, poll.absences, poll.failures) = (Some(now), now, 0, 0);
        if mem::take(&mut poll.is_unlisted) {
            self.lists.note_left_out();
        }
        let next = match poll.next {
            _ if self.lists.are_used() => Next::List,
            // It keeps its place in the interval, unless it is late.
            Next::Asked { due, .. } => Next::At((due + ctx.poll_interval).max(now)),
            Next::At(time) => Next::At(time),
            Next::Held | Next::List | Next::Missing => Next::At(now + ctx.poll_interval),
        };
        self.set(polled, next);
    }

    /// The jobs at which this list leads to a look. It may show no job as active, or in another phase than the last list did.
    fn looked_at(&self, shown: &Named) -> BTreeSet<Polled> {
        let phase = |list: &Named, id: Fingerprint| list.get(&id).and_then(Shown::active);
        let is_new = |id: &&Fingerprint| {
            let now = phase(shown, **id);
            now.is_none() || now != phase(&self.listed.0, **id)
        };
        let ids = self.ids.iter().filter(is_new);
        ids.flat_map(|id| self.polled_as(*id)).chain(&self.apart).cloned().collect()
    }

    /// A list serves as a poll: gives the phases of our jobs that it shows as active, where they may be new.
    fn note_list(&mut self, ctx: &mut Context, asked: Duration, shown: Named) -> Vec<(EntryKey, Phase)> {
        let now = ctx.now.mono;
        let Some(interval) = self.lists.note_list(ctx, asked, &shown, self.polls.len()) else {
            return Vec::new();
        };
        let latest = shown.values().filter(|job| job.active().is_none()).filter_map(|job| job.ended).max();
        // How long before the last of them a job ended. One that failed counts as the first: the service gives no time for it.
        let age = |job: &Shown| Some(Duration::from_secs(latest?.abs_diff(job.ended?)));
        let age = |job| age(job).unwrap_or(Duration::MAX).min(ctx.poll_interval);
        let (mut phases, mut changed) = (Vec::new(), Vec::new());
        for polled in self.looked_at(&shown) {
            let Some(poll) = self.polls.get_mut(&polled) else { continue };
            let job = shown.get(&poll.job_id.fingerprint());
            match (poll.next, job.and_then(Shown::active)) {
                (Next::Held | Next::Missing, _) => {}
                (next, Some(phase)) => {
                    poll.last_valid_answer = poll.last_valid_answer.max(asked);
                    poll.seen = poll.seen.max(Some(asked));
                    if let Polled::Ours(key) = polled {
                        phases.push((key, phase));
                    }
                    if mem::take(&mut poll.is_unlisted) && matches!(next, Next::At(_)) {
                        changed.push((polled, Next::List));
                    }
                }
                // A job that was active after the list was asked for may be missing there for being new, but has ended if it
                // is listed so.
                (next, None) if job.is_some() || poll.seen.is_none_or(|seen| seen < asked) => {
                    poll.is_unlisted = true;
                    // The first that ended has been due for longest. Half of its age gives the order too, and makes no poll
                    // late.
                    let due = now.saturating_sub(job.map_or(Duration::ZERO, age) / 2);
                    let is_later = matches!(next, Next::At(time) if time > due) && poll.is_answered();
                    if next == Next::List || is_later {
                        changed.push((polled, Next::At(due)));
                    }
                }
                (_, None) => {}
            }
        }
        changed.into_iter().for_each(|(polled, next)| self.set(&polled, next));
        self.listed = (shown, asked);
        let waits = |polled: &Polled| self.polls.get(polled).is_none_or(|poll| poll.next == Next::List);
        self.apart.retain(|polled| !waits(polled));
        let due = self.due.iter().take_while(|(time, _)| *time <= now).count();
        self.lists.leave_time(ctx, self.singly(ctx, due).unwrap_or_default());
        self.sample(ctx);
        interval.into_iter().for_each(|interval| self.note_interval(ctx, interval));
        phases
    }

    /// Polls one job at once, singly: rather one that waits for a list, of which no poll has failed.
    fn hurry_one(&mut self, ctx: &Context) {
        let listed = self.polls.iter().find(|(_, poll)| poll.next == Next::List).map(|(polled, _)| polled);
        let waiting = || self.due.first().map(|(_, polled)| polled);
        if let Some(polled) = listed.or_else(waiting).cloned() {
            self.set(&polled, Next::At(ctx.now.mono));
        }
    }

    /// Single polls for which `is_it` holds and that are due later than in `later` come within one interval instead.
    fn hurry_all(&mut self, ctx: &mut Context, later: Duration, is_it: impl Fn(&Poll) -> bool) {
        let after = ctx.now.mono + later;
        for polled in self.which(|poll| is_it(poll) && matches!(poll.next, Next::At(time) if time > after)) {
            let Some(poll) = self.polls.get_mut(&polled) else { continue };
            poll.failures = 0;
            if let Next::At(time) = poll.next {
                self.set(&polled, Next::At(time.min(ctx.within_interval())));
            }
        }
    }

    /// Some jobs, in turn, are polled singly within the interval, although the list shows them.
    fn sample(&mut self, ctx: &mut Context) {
        let from = self.sampled.take().map_or(Bound::Unbounded, Bound::Excluded);
        let count = (self.polls.len() / SAMPLED).max(1);
        let rest = self.polls.range((from, Bound::Unbounded)).chain(&self.polls);
        let listed = rest.filter(|(_, poll)| poll.next == Next::List).map(|(polled, _)| polled.clone());
        let listed: Vec<Polled> = listed.take(count).collect();
        // Together as many as may be out: that costs less than one by one.
        for together in listed.chunks(ctx.settings.connections.saturating_mul(OUT_PER_CONNECTION).max(1)) {
            let time = ctx.within_interval();
            together.iter().for_each(|polled| self.set(polled, Next::At(time)));
        }
        self.sampled = listed.last().cloned();
    }
}

impl Polls {
    /// Changes the polls of a service, then its way of polling if another one is better now, then its timer.
    fn update<R>(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        change: impl FnOnce(&mut Context, &mut AtService) -> R,
    ) -> Option<R> {
        let at = self.0.get_mut(url)?;
        let were_used = at.lists.are_used();
        let result = change(ctx, at);
        at.lists.choose(ctx, at.polls.len(), at.all_singly(ctx));
        match (were_used, at.lists.are_used()) {
            (false, true) => at.begin_lists(ctx),
            (true, false) => at.end_lists(ctx),
            (false, false) | (true, true) => {}
        }
        ctx.timers.set(Timer::Polls(url.clone()), at.next(ctx));
        Some(result)
    }

    /// Adds a job that is not polled yet.
    pub(super) fn insert(&mut self, url: &Url, polled: Polled, poll: Poll) {
        let at = self.0.entry(url.clone()).or_default();
        at.insert(polled, poll);
    }

    /// From now on this job is polled.
    pub(super) fn begin(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            let time = ctx.within_interval();
            let next = match polled {
                // It may have ended long ago: at once, as if it had been late, and then at a time of its own.
                Polled::Prerequisite(_) => Next::At(time.saturating_sub(ctx.poll_interval)),
                Polled::Ours(_) | Polled::Removal(_) if at.lists.are_used() => Next::List,
                Polled::Ours(_) | Polled::Removal(_) => Next::At(time),
            };
            at.set(polled, next);
        });
    }

    /// This job is not polled any more, and the answer to a poll that is out is dropped.
    pub(super) fn remove(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            if let Some(Next::Asked { ticket, .. }) = at.polls.get(polled).map(|poll| poll.next) {
                ctx.close_question(ticket);
            }
            at.remove(polled);
        });
    }

    pub(super) fn get(&self, url: &Url, polled: &Polled) -> Option<&Poll> {
        self.0.get(url)?.polls.get(polled)
    }

    /// How many prerequisites are polled.
    pub(super) fn prerequisites(&self) -> usize {
        self.0.keys().map(|url| self.prerequisites_at(url).count()).sum()
    }

    /// The prerequisites that are polled at a service.
    fn prerequisites_at(&self, url: &Url) -> impl Iterator<Item = &JobId> {
        let after = Bound::Excluded(Polled::Ours(EntryKey(u64::MAX)));
        let polls = self.0.get(url).map(|at| at.polls.range((after, Bound::Unbounded)));
        polls.into_iter().flatten().map(|(_, poll)| &poll.job_id)
    }

    /// When the service last showed that the job is there.
    pub(super) fn seen(&self, url: &Url, polled: &Polled) -> Option<Duration> {
        let at = self.0.get(url)?;
        let poll = at.polls.get(polled)?;
        poll.seen.max(at.listed_at(poll))
    }

    /// Where jobs are polled by list: the jobs that it is to show, by the fingerprints of their ids.
    pub(super) fn wanted_of_list(&self, url: &Url) -> Option<Arc<HashSet<Fingerprint>>> {
        let at = self.0.get(url).filter(|at| at.lists.are_used())?;
        let mut ids = Arc::clone(&at.ids);
        if let Some(witness) = at.lists.witness().map(JobId::fingerprint).filter(|id| !ids.contains(id)) {
            Arc::make_mut(&mut ids).insert(witness);
        }
        Some(ids)
    }

    /// Sends the single polls that are due; gives whether a list is wanted from now on.
    pub(super) fn on_timer(&mut self, ctx: &mut Context, url: &Url) -> bool {
        self.update(ctx, url, |ctx, at| at.on_timer(ctx, url)).unwrap_or_default()
    }

    /// A single poll got a valid answer, and took this long.
    pub(super) fn note_single(&mut self, ctx: &mut Context, url: &Url, took: Duration) {
        self.update(ctx, url, |ctx, at| {
            at.single = Some(at.single.map_or(took, |single| (single * 7 + took) / 8));
            at.lists.note_answer(ctx);
        });
    }

    /// The service shows that a job is there and has not ended.
    pub(super) fn note_present(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| at.note_present(ctx, polled));
    }

    /// A job has ended, as a single poll shows.
    pub(super) fn note_end(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            let Some(poll) = at.polls.get(polled).filter(|poll| !poll.is_unlisted) else { return };
            if poll.run_id.is_some() {
                at.lists.note_end(ctx, &poll.job_id);
            }
        });
    }

    /// A poll failed: the next one comes later with each failure.
    pub(super) fn note_failure(&mut self, ctx: &mut Context, url: &Url, polled: &Polled, contact: Contact) {
        self.update(ctx, url, |ctx, at| {
            let Some(poll) = at.polls.get_mut(polled) else { return };
            let time = ctx.now.mono + ctx.backoff(ctx.poll_interval, poll.failures);
            poll.failures += 1;
            at.set(polled, Next::At(time));
            if contact != Contact::NotAsked {
                at.lists.note_silence();
            }
        });
    }

    /// The service says that there is no such job: gives how often in a row it has said so, and the job id. One such answer
    /// can be wrong, or old and out of a cache: the job is polled once more, and then the list decides.
    pub(super) fn note_absence(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        polled: &Polled,
    ) -> Option<(u32, JobId)> {
        let note = |ctx: &mut Context, at: &mut AtService| {
            let poll = at.polls.get_mut(polled)?;
            poll.absences += 1;
            let (absences, job_id) = (poll.absences, poll.job_id.clone());
            let again = Next::At(ctx.now.mono + ABSENT_AGAIN);
            at.set(polled, if absences == 1 { again } else { Next::Missing });
            Some((absences, job_id))
        };
        self.update(ctx, url, note)?
    }

    /// A list shows, or does not show, a job of which the service said that there is no such job; or there was no list, and
    /// the job is polled again at that time. Gives whether this was still to be decided.
    pub(super) fn decide(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        polled: &Polled,
        found: Result<bool, Duration>,
    ) -> bool {
        let decide = |ctx: &mut Context, at: &mut AtService| {
            if at.polls.get(polled).is_none_or(|poll| poll.next != Next::Missing) {
                return false;
            }
            match found {
                Ok(true) => at.note_present(ctx, polled),
                Ok(false) => {}
                Err(time) => at.set(polled, Next::At(time)),
            }
            true
        };
        self.update(ctx, url, decide).unwrap_or_default()
    }

    /// A list came and took this long. If it was to show all jobs, it serves as a poll of them: gives the phases of our jobs
    /// that it shows as active, where they may be new.
    pub(super) fn note_list(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        took: Duration,
        asked: Option<Duration>,
        shown: Named,
    ) -> Vec<(EntryKey, Phase)> {
        let note = |ctx: &mut Context, at: &mut AtService| {
            at.lists.note_duration(ctx, took);
            let asked = asked.filter(|_| at.lists.are_used());
            asked.map_or_else(Vec::new, |asked| at.note_list(ctx, asked, shown))
        };
        self.update(ctx, url, note).unwrap_or_default()
    }

    /// A list failed, and can be asked for again at `again`.
    pub(super) fn note_list_failure(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        failure: &Failure,
        again: Duration,
    ) {
        self.update(ctx, url, |ctx, at| {
            if at.lists.note_failure(ctx, failure, again) {
                at.hurry_one(ctx);
            }
        });
    }

    /// Polls one job of this service at once.
    pub(super) fn hurry_one(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |ctx, at| at.hurry_one(ctx));
    }

    /// Polls all jobs of this service whose polls failed within one interval.
    pub(super) fn hurry_failed(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |ctx, at| at.hurry_all(ctx, Duration::ZERO, |poll| poll.failures > 0));
    }

    /// The poll interval has changed.
    pub(super) fn note_new_interval(&mut self, ctx: &mut Context) {
        for url in self.0.keys().cloned().collect::<Vec<_>>() {
            self.update(ctx, &url, |ctx, at| {
                at.hurry_all(ctx, ctx.poll_interval, |_| true);
                at.lists.note_new_interval(ctx);
            });
        }
    }

    /// Forgets the services without jobs for which `is_used` does not hold.
    pub(super) fn retain(&mut self, ctx: &mut Context, is_used: impl Fn(&Url) -> bool) {
        self.0.retain(|url, at| {
            let is_used = !at.polls.is_empty() || is_used(url);
            if !is_used {
                ctx.timers.stop(&Timer::Polls(url.clone()));
            }
            is_used
        });
    }

    /// How, and how often, jobs are polled at the service that is configured or, before that, at one where a previous run
    /// left something.
    pub(super) fn report(&self, ctx: &Context, url: Option<&Url>) -> report::Polling {
        let at = url.map_or_else(|| self.0.values().next(), |url| self.0.get(url));
        report::Polling {
            by_list: at.is_some_and(|at| at.lists.are_used()),
            interval: at
                .and_then(|at| at.stretched)
                .or(Some(ctx.poll_interval).filter(|time| !time.is_zero())),
        }
    }
}
