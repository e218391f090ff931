//! When each job is asked for: singly, or with all others of its service by the service's list.
//!
//! Singly, each job is asked for once an interval, at a time of its own. Only some polls of a service are out at a time,
//! and the one that has been due for longest is next: where the service cannot keep up, the interval stretches and
//! nothing piles up.
//!
//! By list, one request an interval shows all jobs that are still active. It proves nothing else, since a list can lag, be
//! partial or come out of a cache: a job that it does not show is asked for singly before anything is believed, and some
//! of the others are asked for in each round too. Where that contradicts the lists, they are not used for long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::ops::Bound;
use std::time::Duration;

use crate::url::Url;

use super::configuration::Polling;
use super::context::{Context, Purpose};
use super::event::Phase;
use super::id::{EntryKey, JobId, RunId};
use super::report;
use super::request::{Action, Contact, Failure, ListedJob, Ticket};
use super::timers::Timer;

/// How soon a job is asked for again that the service does not know.
const ABSENT_AGAIN: Duration = Duration::from_secs(3);
/// Polls of a service that are out at once, for each connection: one is under way, one waits for the thread.
const OUT_PER_CONNECTION: usize = 2;
/// Single polls that are due in the same of so many parts of an interval, or of at most this time, are asked together: to
/// wake up for each costs more than to ask.
const PARTS: u32 = 32;
const PART_MAX: Duration = Duration::from_millis(50);
/// One of so many jobs is asked for singly in each round of lists; one at least.
const SAMPLED: usize = 100;
/// How old a list may be, and two poll intervals at least: longer ago than that no job that it shows as active ended.
const LAG_MAX: Duration = Duration::from_secs(30);
/// How long it is known what a list takes: then one is tried.
const LIST_KNOWN_FOR: Duration = Duration::from_secs(600);
/// How long lists are not used for polls after they failed once; it doubles with each failure.
const LIST_AGAIN: Duration = Duration::from_secs(60);
/// The longest such time; it follows at once when lists are not true.
const LIST_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// A job that is asked for, by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Polled {
    Ours(EntryKey),
    /// One that we did not submit, but that one of ours waits for.
    Prerequisite(JobId),
    /// One that is being removed; its removal asks by itself.
    Removal(JobId),
}

#[derive(Debug)]
pub(super) struct Poll {
    job_id: JobId,
    /// Of a job of ours.
    run_id: Option<RunId>,
    next: Next,
    /// Failures in a row.
    failures: u32,
    /// When the last valid answer came (or we began to ask).
    pub(super) last_valid_answer: Duration,
    /// When the service last showed that the job is there.
    pub(super) seen: Option<Duration>,
    /// Answers in a row that there is no such job.
    absences: u32,
    /// Whether the last list did not show it as active.
    is_unlisted: bool,
}

/// What comes next for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Its id is to be published first.
    Held,
    /// It is asked for singly at that time.
    At(Duration),
    /// It was asked for singly, and that was due then.
    Asked { ticket: Ticket, due: Duration },
    /// The next list.
    List,
    /// The service says that it is not there: a list is to decide.
    Missing,
}

impl Poll {
    /// Of a job of which nothing is known yet.
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

    /// Of a job that is there.
    pub(super) fn of_present(ctx: &Context, job_id: JobId, run_id: RunId) -> Self {
        Self { seen: Some(ctx.now.mono), ..Self::new(ctx, job_id, Some(run_id)) }
    }
}

/// How the jobs of a service are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Each,
    /// By list: when the next one is due, and whether it was wanted since.
    List { due: Duration, is_wanted: bool },
}

/// The polls of all services.
#[derive(Debug, Default)]
pub(super) struct Polls(BTreeMap<Url, AtService>);

#[derive(Debug, Default)]
struct AtService {
    polls: BTreeMap<Polled, Poll>,
    /// Those that are asked for singly, by their times.
    due: BTreeSet<(Duration, Polled)>,
    /// How many are out.
    out: usize,
    way: Way,
    /// What a single poll takes, smoothed.
    single: Option<Duration>,
    /// What the last list took, and when it came.
    list: Option<(Duration, Duration)>,
    /// When the last list of a round was asked for.
    last_list: Option<Duration>,
    /// Lists are not used before.
    no_list_before: Duration,
    /// Failures of lists since the last that served.
    list_failures: u32,
    /// Why the last list failed, if that may be an outage of the service.
    list_problem: Option<String>,
    /// The last job that was asked for although the list showed it.
    sampled: Option<Polled>,
    /// A job that has ended although the last list showed it as active, and since when.
    witness: Option<(JobId, Duration)>,
    /// Jobs that were active although the last list did not show them so.
    left_out: usize,
    /// The time between polls of a job, while it is twice as long as it should be.
    stretched: Option<Duration>,
}

/// The end of the part of an interval that a time to come is in.
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
        let Some(poll) = self.polls.get_mut(polled) else { return };
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
    }

    /// Those of which this holds.
    fn which(&self, is_it: impl Fn(&Poll) -> bool) -> Vec<Polled> {
        self.polls.iter().filter(|(_, poll)| is_it(poll)).map(|(polled, _)| polled.clone()).collect()
    }

    /// When something is to be done.
    fn next(&self, ctx: &Context) -> Option<Duration> {
        let is_full = self.out >= ctx.settings.connections.saturating_mul(OUT_PER_CONNECTION);
        let single = self.due.first().filter(|_| !is_full).map(|(time, _)| end_of_part(ctx, *time));
        let list = match self.way {
            Way::Each => None,
            Way::List { due, is_wanted: false } => Some(due),
            Way::List { due, is_wanted: true } => Some(due + self.patience(ctx)),
        };
        [single, list].into_iter().flatten().min()
    }

    /// What it takes to ask for all jobs singly, as far as that is known.
    fn all_singly(&self, ctx: &Context) -> Option<Duration> {
        let count = u32::try_from(self.polls.len()).unwrap_or(u32::MAX);
        let connections = u32::try_from(ctx.settings.connections).unwrap_or(u32::MAX).max(1);
        Some(self.single?.saturating_mul(count) / connections)
    }

    /// How long a list is waited for.
    fn patience(&self, ctx: &Context) -> Duration {
        let round = ctx.poll_interval.max(self.all_singly(ctx).unwrap_or_default()).saturating_mul(2);
        // The service rests for as long as the last one took.
        round.max(self.list.map_or(Duration::ZERO, |(took, _)| took.saturating_mul(3)))
    }

    /// Goes over to lists or to single polls where that is better: to lists if one takes at most half the time, and back
    /// if it takes more.
    fn choose(&mut self, ctx: &mut Context) {
        let list = self.list.filter(|(_, at)| ctx.now.mono.saturating_sub(*at) < LIST_KNOWN_FOR);
        let is_cheap = |factor| match (list, self.all_singly(ctx)) {
            (Some((list, _)), Some(singly)) => list.saturating_mul(factor) <= singly,
            (_, _) => true,
        };
        let count = self.polls.len();
        let (begins, ends) = match ctx.settings.polling {
            Polling::Each => (false, true),
            Polling::List => (count > 0, count == 0),
            Polling::Auto { from } => (count >= from && is_cheap(2), count < from / 2 || !is_cheap(1)),
        };
        match self.way {
            Way::Each if begins && ctx.now.mono >= self.no_list_before => self.begin_lists(ctx),
            Way::List { .. } if ends => self.end_lists(ctx),
            Way::Each | Way::List { .. } => {}
        }
    }

    fn begin_lists(&mut self, ctx: &Context) {
        self.way = Way::List { due: ctx.now.mono, is_wanted: false };
        self.left_out = 0;
        self.polls.values_mut().for_each(|poll| poll.is_unlisted = false);
        let is_in_order =
            |poll: &Poll| matches!(poll.next, Next::At(_)) && poll.failures == 0 && poll.absences == 0;
        // A prerequisite may have ended long ago and is asked for first.
        for polled in self.which(|poll| is_in_order(poll) && (poll.run_id.is_some() || poll.seen.is_some())) {
            self.set(&polled, Next::List);
        }
    }

    fn end_lists(&mut self, ctx: &mut Context) {
        (self.way, self.last_list, self.list_problem, self.left_out) = (Way::Each, None, None, 0);
        for polled in self.which(|poll| poll.next == Next::List) {
            self.set(&polled, Next::At(ctx.within_interval()));
        }
    }

    /// Lists are of no use: for a time jobs are asked for singly.
    fn give_up_lists(&mut self, ctx: &mut Context, reason: &str, time: Duration) {
        if self.list_failures == 0 {
            let minutes = time.as_secs() / 60;
            ctx.warn(format!(
                "jobs are polled singly, since the service's list is of no use: {reason}; it is tried again after {minutes} min"
            ));
        }
        self.list_failures += 1;
        self.witness = None;
        self.no_list_before = ctx.now.mono + time;
        self.end_lists(ctx);
    }

    /// The list failed; the next one may not.
    fn list_failed(&mut self, ctx: &mut Context, reason: &str) {
        let time = LIST_AGAIN.saturating_mul(1 << self.list_failures.min(6)).min(LIST_AGAIN_MAX);
        self.give_up_lists(ctx, reason, time);
    }

    /// Asks for what is due; gives whether a list is wanted.
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
            if self.way == Way::Each {
                let is_too_much = self.all_singly(ctx).is_some_and(|time| time > ctx.poll_interval);
                let late = if is_too_much { now.saturating_sub(due) } else { Duration::ZERO };
                self.note_interval(ctx, ctx.poll_interval + late);
            }
        }
        match self.way {
            Way::List { due, is_wanted: false } if due <= now => {
                self.way = Way::List { due, is_wanted: true };
                true
            }
            Way::List { due, is_wanted: true } if due + self.patience(ctx) <= now => {
                let reason = format!("there was none for {:.1} s", self.patience(ctx).as_secs_f64());
                self.list_failed(ctx, &reason);
                false
            }
            Way::Each | Way::List { .. } => false,
        }
    }

    /// A job is asked for after this time: whether the service keeps up is logged when it changes.
    fn note_interval(&mut self, ctx: &mut Context, real: Duration) {
        let interval = ctx.poll_interval;
        let is_stretched = self.stretched.is_some();
        if real >= interval.saturating_mul(2) {
            self.stretched = Some(real);
            if !is_stretched {
                let (jobs, wanted) = (self.polls.len(), interval.as_secs_f64());
                let possible =
                    self.all_singly(ctx).filter(|_| self.way == Way::Each).unwrap_or(real).as_secs_f64();
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
        self.left_out += usize::from(mem::take(&mut poll.is_unlisted));
        let next = match (self.way, poll.next) {
            (Way::List { .. }, _) => Next::List,
            // It keeps its place in the interval, unless it is late.
            (Way::Each, Next::Asked { due, .. }) => Next::At((due + ctx.poll_interval).max(now)),
            (Way::Each, Next::At(time)) => Next::At(time),
            (Way::Each, Next::Held | Next::List | Next::Missing) => Next::At(now + ctx.poll_interval),
        };
        self.set(polled, next);
    }

    /// What a list of a round shows: those of ours that are still active, and their phases.
    fn note_list(
        &mut self,
        ctx: &mut Context,
        asked: Duration,
        jobs: &[ListedJob],
    ) -> Vec<(EntryKey, Phase)> {
        let now = ctx.now.mono;
        let is_active = |job: &&ListedJob| job.phase.exit_code().is_none();
        let active: HashMap<&JobId, Phase> =
            jobs.iter().filter(is_active).map(|job| (&job.job_id, job.phase)).collect();
        if let Some(problem) = self.disproof(ctx, asked, &active) {
            self.give_up_lists(ctx, &problem, LIST_AGAIN_MAX);
            return Vec::new();
        }
        let (mut shown, mut changed) = (Vec::with_capacity(active.len()), Vec::new());
        for (polled, poll) in &mut self.polls {
            match (poll.next, active.get(&poll.job_id)) {
                (Next::Held | Next::Missing, _) => {}
                (next, Some(phase)) => {
                    poll.last_valid_answer = poll.last_valid_answer.max(asked);
                    poll.seen = poll.seen.max(Some(asked));
                    if mem::take(&mut poll.is_unlisted) && matches!(next, Next::At(_)) {
                        changed.push((polled.clone(), Next::List));
                    }
                    if let Polled::Ours(key) = polled {
                        shown.push((*key, *phase));
                    }
                }
                // Unless it is known from later.
                (next, None) if poll.seen.is_none_or(|seen| seen < asked) => {
                    poll.is_unlisted = true;
                    if next == Next::List {
                        changed.push((polled.clone(), Next::At(now)));
                    }
                }
                (_, None) => {}
            }
        }
        changed.into_iter().for_each(|(polled, next)| self.set(&polled, next));
        self.sample(ctx);
        self.left_out = 0;
        (self.list_failures, self.list_problem) = (0, None);
        // What it takes counts: no job's news is to be older than an interval, as far as the service's rest allows.
        let pause = ctx.poll_interval.saturating_sub(now.saturating_sub(asked));
        self.way = Way::List { due: asked + pause, is_wanted: false };
        if let Some(last) = self.last_list.replace(asked) {
            self.note_interval(ctx, asked.saturating_sub(last));
        }
        shown
    }

    /// Why lists are not to be believed, as far as single answers have shown.
    fn disproof(
        &mut self,
        ctx: &Context,
        asked: Duration,
        active: &HashMap<&JobId, Phase>,
    ) -> Option<String> {
        let lag_max = LAG_MAX.max(ctx.poll_interval.saturating_mul(2));
        if let Some((job_id, ended)) = self.witness.take_if(|(_, ended)| *ended < asked) {
            if active.contains_key(&job_id) && asked >= ended + lag_max {
                let lag = asked.saturating_sub(ended).as_secs_f64();
                return Some(format!(
                    "job {job_id} ended, and {lag:.0} s later it is still listed as active"
                ));
            } else if active.contains_key(&job_id) {
                self.witness = Some((job_id, ended));
            }
        }
        let (left_out, most) = (self.left_out, (self.polls.len() / 10).max(10));
        (left_out > most).then(|| format!("{left_out} active jobs were not listed as such"))
    }

    /// A job that is not out is asked for at once; of those that wait for a list, none has failed.
    fn hurry_one(&mut self, ctx: &Context) {
        let listed = self.polls.iter().find(|(_, poll)| poll.next == Next::List).map(|(polled, _)| polled);
        let waiting = || self.due.first().map(|(_, polled)| polled);
        if let Some(polled) = listed.or_else(waiting).cloned() {
            self.set(&polled, Next::At(ctx.now.mono));
        }
    }

    /// All of this kind that is due later than after this time comes within one interval, at its normal pace.
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

    /// Some jobs are asked for singly within the interval, in turn, whatever the list says.
    fn sample(&mut self, ctx: &mut Context) {
        let from = self.sampled.take().map_or(Bound::Unbounded, Bound::Excluded);
        let count = (self.polls.len() / SAMPLED).max(1);
        let rest = self.polls.range((from, Bound::Unbounded)).chain(&self.polls);
        let listed = rest.filter(|(_, poll)| poll.next == Next::List).map(|(polled, _)| polled.clone());
        let listed: Vec<Polled> = listed.take(count).collect();
        // As many together as may be out, which costs less than one by one.
        for together in listed.chunks(ctx.settings.connections.saturating_mul(OUT_PER_CONNECTION).max(1)) {
            let time = ctx.within_interval();
            together.iter().for_each(|polled| self.set(polled, Next::At(time)));
        }
        self.sampled = listed.last().cloned();
    }
}

impl Polls {
    /// Changes what is at a service, and then what is due there.
    fn update<R>(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        change: impl FnOnce(&mut Context, &mut AtService) -> R,
    ) -> Option<R> {
        let at = self.0.get_mut(url)?;
        let result = change(ctx, at);
        at.choose(ctx);
        ctx.timers.set(Timer::Polls(url.clone()), at.next(ctx));
        Some(result)
    }

    /// All services in turn.
    fn update_all(&mut self, ctx: &mut Context, mut change: impl FnMut(&mut Context, &mut AtService)) {
        for url in self.0.keys().cloned().collect::<Vec<_>>() {
            self.update(ctx, &url, &mut change);
        }
    }

    /// A job that is not asked for yet.
    pub(super) fn insert(&mut self, url: &Url, polled: Polled, poll: Poll) {
        let at = self.0.entry(url.clone()).or_default();
        at.polls.insert(polled, poll);
    }

    /// From now on it is asked for.
    pub(super) fn begin(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            let time = ctx.within_interval();
            let next = match (at.way, polled) {
                // It may have ended long ago: at once, as if it had been late, and then at a time of its own.
                (_, Polled::Prerequisite(_)) => Next::At(time.saturating_sub(ctx.poll_interval)),
                (Way::List { .. }, _) => Next::List,
                (Way::Each, _) => Next::At(time),
            };
            at.set(polled, next);
        });
    }

    /// It is not asked for any more, and whatever a poll in progress still says is of no interest.
    pub(super) fn remove(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            if let Some(Next::Asked { ticket, .. }) = at.polls.get(polled).map(|poll| poll.next) {
                ctx.close_question(ticket);
            }
            at.set(polled, Next::Held);
            at.polls.remove(polled);
        });
    }

    pub(super) fn get(&self, url: &Url, polled: &Polled) -> Option<&Poll> {
        self.0.get(url)?.polls.get(polled)
    }

    /// How many prerequisites are asked for.
    pub(super) fn prerequisites(&self) -> usize {
        self.0.keys().map(|url| self.prerequisites_at(url).count()).sum()
    }

    /// The prerequisites that are asked for at a service.
    fn prerequisites_at(&self, url: &Url) -> impl Iterator<Item = &JobId> {
        let after = Bound::Excluded(Polled::Ours(EntryKey(u64::MAX)));
        let polls = self.0.get(url).map(|at| at.polls.range((after, Bound::Unbounded)));
        polls.into_iter().flatten().map(|(_, poll)| &poll.job_id)
    }

    /// Whether a list of this service is to show all jobs, and which of them besides ours.
    pub(super) fn wanted_of_list(&self, url: &Url) -> Option<impl Iterator<Item = &JobId>> {
        let is_by_list = self.0.get(url).is_some_and(|at| at.way != Way::Each);
        is_by_list.then(|| self.prerequisites_at(url))
    }

    /// Asks for what is due; gives whether a list is wanted.
    pub(super) fn on_timer(&mut self, ctx: &mut Context, url: &Url) -> bool {
        self.update(ctx, url, |ctx, at| at.on_timer(ctx, url)).unwrap_or_default()
    }

    /// A single poll was answered well, in that time.
    pub(super) fn note_single(&mut self, ctx: &mut Context, url: &Url, took: Duration) {
        self.update(ctx, url, |ctx, at| {
            at.single = Some(at.single.map_or(took, |single| (single * 7 + took) / 8));
            if let Some(problem) = at.list_problem.take() {
                // It answers: only its list fails.
                at.list_failed(ctx, &problem);
            }
        });
    }

    /// The service shows that a job is there and has not ended.
    pub(super) fn note_present(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| at.note_present(ctx, polled));
    }

    /// A job has ended, whatever the lists say.
    pub(super) fn note_end(&mut self, ctx: &mut Context, url: &Url, polled: &Polled) {
        self.update(ctx, url, |ctx, at| {
            let Some(poll) = at.polls.get(polled).filter(|poll| !poll.is_unlisted) else { return };
            if at.way != Way::Each && poll.run_id.is_some() && at.witness.is_none() {
                at.witness = Some((poll.job_id.clone(), ctx.now.mono));
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
                // Not only the list fails.
                at.list_problem = None;
            }
        });
    }

    /// The service says that there is no such job; how often it has said so, and its id. One such answer can be wrong, or
    /// an old one out of a cache: it is asked again, and then the list decides.
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

    /// A list shows a job that seemed not to be there, or not; or it could not be had, and it is asked again then.
    /// Gives whether that was to be decided.
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

    /// A list came, in that time; if it was to show all jobs, it serves as a poll of them.
    pub(super) fn note_list(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        took: Duration,
        asked: Option<Duration>,
        jobs: &[ListedJob],
    ) -> Vec<(EntryKey, Phase)> {
        let note = |ctx: &mut Context, at: &mut AtService| {
            at.list = Some((took, ctx.now.mono));
            let asked = asked.filter(|_| at.way != Way::Each);
            asked.map_or_else(Vec::new, |asked| at.note_list(ctx, asked, jobs))
        };
        self.update(ctx, url, note).unwrap_or_default()
    }

    /// A list could not be had, and could be asked for again at that time.
    pub(super) fn note_list_failure(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        failure: &Failure,
        again: Duration,
    ) {
        self.update(ctx, url, |ctx, at| match (at.way, failure.contact) {
            (Way::Each, _) => {}
            (Way::List { .. }, Contact::Answered) => at.list_failed(ctx, &failure.reason),
            (Way::List { .. }, Contact::Silent | Contact::NotAsked) => {
                (at.way, at.last_list) = (Way::List { due: again, is_wanted: false }, None);
                if failure.contact == Contact::Silent {
                    // Perhaps it is away, perhaps only its list is: a single poll shows.
                    at.list_problem = Some(failure.reason.clone());
                    at.hurry_one(ctx);
                }
            }
        });
    }

    /// One job of this service is asked for at once.
    pub(super) fn hurry_one(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |ctx, at| at.hurry_one(ctx));
    }

    /// All jobs of this service whose polls failed are asked for within one interval.
    pub(super) fn hurry_failed(&mut self, ctx: &mut Context, url: &Url) {
        self.update(ctx, url, |ctx, at| at.hurry_all(ctx, Duration::ZERO, |poll| poll.failures > 0));
    }

    /// There is another poll interval.
    pub(super) fn note_new_interval(&mut self, ctx: &mut Context) {
        self.update_all(ctx, |ctx, at| {
            at.hurry_all(ctx, ctx.poll_interval, |_| true);
            if let Way::List { due, is_wanted: false } = &mut at.way {
                *due = (ctx.now.mono + ctx.poll_interval).min(*due);
            }
        });
    }

    /// Forgets services without a job, but for those.
    pub(super) fn retain(&mut self, ctx: &mut Context, is_used: impl Fn(&Url) -> bool) {
        self.0.retain(|url, at| {
            let is_used = !at.polls.is_empty() || is_used(url);
            if !is_used {
                ctx.timers.stop(&Timer::Polls(url.clone()));
            }
            is_used
        });
    }

    /// How the jobs of a service are asked for, and how often: of the one that is configured or, before that, of one where
    /// a previous run left something.
    pub(super) fn report(&self, ctx: &Context, url: Option<&Url>) -> report::Polling {
        let at = url.map_or_else(|| self.0.values().next(), |url| self.0.get(url));
        report::Polling {
            by_list: at.is_some_and(|at| at.way != Way::Each),
            interval: at
                .and_then(|at| at.stretched)
                .or(Some(ctx.poll_interval).filter(|time| !time.is_zero())),
        }
    }
}
