//! What is due when: one table for all parts of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::url::Url;

use super::context::Context;
use super::id::{EntryKey, JobId, RunId};

/// What is due at a time. Timers that expire at the same time are handled in the order of these variants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next heartbeat.
    Heartbeat,
    /// The daemon, which stops, has waited long enough for requests in flight.
    Stop,
    /// This service has been silent for too long.
    Outage(Url),
    /// This job is submitted, its sender gets an in-progress ack, or it is looked up for the last time.
    Job(EntryKey),
    /// Jobs of this service are polled.
    Polls(Url),
    /// The next request of the removal of this job, or an in-progress ack.
    Removal(JobId),
    /// The list of this service is looked through for duplicates of this run.
    Duplicate(RunId),
    /// The list of this service is asked for.
    List(Url),
    /// A push has had its time: its sender is answered.
    Push,
    /// The configured service was not asked anything for long.
    Probe,
    /// What the log left out about this service is summed up.
    Notices(Url),
}

/// Timers by their times; setting, stopping and expiring one costs O(log n).
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Duration, Timer)>,
    times: BTreeMap<Timer, Duration>,
}

impl Timers {
    /// Sets a timer to another time, or stops it.
    pub(super) fn set(&mut self, timer: Timer, time: Option<Duration>) {
        if self.time_of(&timer) == time {
            return;
        }
        self.stop(&timer);
        if let Some(time) = time {
            self.order.insert((time, timer.clone()));
            self.times.insert(timer, time);
        }
    }

    pub(super) fn stop(&mut self, timer: &Timer) {
        if let Some((timer, time)) = self.times.remove_entry(timer) {
            self.order.remove(&(time, timer));
        }
    }

    pub(super) fn time_of(&self, timer: &Timer) -> Option<Duration> {
        self.times.get(timer).copied()
    }

    /// When the first timer expires.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(time, _)| *time)
    }

    /// The first timer that has expired, which is stopped, and its time.
    pub(super) fn expired(&mut self, now: Duration) -> Option<(Duration, Timer)> {
        self.order.first().filter(|(time, _)| *time <= now)?;
        let (time, timer) = self.order.pop_first()?;
        self.times.remove(&timer);
        Some((time, timer))
    }
}

/// Something that has a timer of its own.
pub(super) trait Timed {
    type Key: Ord + Clone;

    /// The timer of the thing with this key.
    const TIMER: fn(Self::Key) -> Timer;

    /// When something is to be done about it.
    fn due(&self) -> Option<Duration>;
}

/// Things of one kind, whose timers always expire when they are due.
#[derive(Debug)]
pub(super) struct TimedMap<T: Timed>(BTreeMap<T::Key, T>);

impl<T: Timed> Default for TimedMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Timed> TimedMap<T> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        self.0.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&T::Key, &T)> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, ctx: &mut Context, key: T::Key, value: T) {
        ctx.timers.set((T::TIMER)(key.clone()), value.due());
        self.0.insert(key, value);
    }

    pub(super) fn remove(&mut self, ctx: &mut Context, key: &T::Key) -> Option<T> {
        ctx.timers.stop(&(T::TIMER)(key.clone()));
        self.0.remove(key)
    }

    /// Changes the thing with this key, if it is there, and its timer with it.
    pub(super) fn update<R>(
        &mut self,
        ctx: &mut Context,
        key: &T::Key,
        change: impl FnOnce(&mut Context, &mut T) -> R,
    ) -> Option<R> {
        let value = self.0.get_mut(key)?;
        let result = change(ctx, value);
        ctx.timers.set((T::TIMER)(key.clone()), value.due());
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn timers_expire_once_in_the_order_of_their_times_and_then_of_their_kinds() {
        let mut timers = Timers::default();
        timers.set(Timer::Probe, Some(AT(1)));
        timers.set(Timer::Job(EntryKey(2)), Some(AT(2)));
        timers.set(Timer::Heartbeat, Some(AT(2)));
        timers.set(Timer::Job(EntryKey(1)), Some(AT(2)));
        timers.set(Timer::Push, Some(AT(3)));
        assert_eq!((timers.next(), timers.expired(AT(0))), (Some(AT(1)), None));
        let expired: Vec<Timer> =
            std::iter::from_fn(|| timers.expired(AT(2))).map(|(_, timer)| timer).collect();
        let jobs = [1, 2].map(|key| Timer::Job(EntryKey(key)));
        assert_eq!(expired, [&[Timer::Probe, Timer::Heartbeat][..], &jobs].concat());
        assert_eq!((timers.next(), timers.time_of(&Timer::Probe)), (Some(AT(3)), None));
    }

    #[test]
    fn a_timer_has_one_time_and_none_when_it_is_stopped() {
        let mut timers = Timers::default();
        timers.set(Timer::Push, Some(AT(1)));
        timers.set(Timer::Push, Some(AT(5)));
        assert_eq!((timers.next(), timers.time_of(&Timer::Push)), (Some(AT(5)), Some(AT(5))));
        timers.set(Timer::Push, None);
        assert_eq!((timers.next(), timers.expired(AT(9))), (None, None));
        timers.set(Timer::Push, Some(AT(1)));
        timers.stop(&Timer::Push);
        assert_eq!((timers.next(), timers.time_of(&Timer::Push)), (None, None));
    }
}
