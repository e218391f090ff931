//! The right to change something at the execution service, which two instances with one journal never have at once.
//!
//! An instance has the lease for [`TERM`] after it was last certain that no other instance has taken its journal over. The
//! instance that takes over waits as long, unless the one before has given the lease back. The age of a confirmation
//! includes the time in which process or machine stood still, so that an instance that wakes up changes nothing before the
//! journal has confirmed the lease again.
//!
//! Not covered: a request that is already in the buffer of the kernel, or is stopped between the last check of the lease
//! and the call that hands it to the kernel; and a virtual machine whose clocks do not notice that it was paused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Moment;

/// How long a confirmation is valid. A journal on Kafka confirms the lease every 2 s, so that a late confirmation does no
/// harm.
pub const TERM: Duration = Duration::from_secs(4);
/// Longest wait of a request for a lease that is not valid.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two checks of the lease meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Whether this instance may change something; clones share the state.
///
/// The default is always valid: for an instance whose journal no other instance can take over.
#[derive(Clone, Debug, Default)]
pub struct Lease(Option<Arc<Mutex<State>>>);

#[derive(Debug, Default)]
struct State {
    /// When it was last certain that no other instance has taken over.
    confirmed: Option<Moment>,
    /// When ours took over from an instance that may still have had the lease.
    taken: Option<Instant>,
    has_ended: bool,
    other: Other,
}

/// What is known about another instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Other {
    /// No other instance was heard.
    #[default]
    Unheard,
    /// Another instance was heard: ours must not take over.
    Heard,
    /// Ours takes over, or has taken over: the journal refuses another instance that is still alive, which then ends.
    Refused,
}

impl State {
    fn is_valid(&self, now: Moment, at: Instant) -> bool {
        !self.has_ended
            && self.confirmed.is_some_and(|confirmed| confirmed.age(now) < TERM)
            && self.taken.is_none_or(|taken| at.saturating_duration_since(taken) >= TERM)
    }
}

impl Lease {
    /// A lease that is valid only after it was confirmed.
    pub fn unconfirmed() -> Self {
        Self(Some(Arc::default()))
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.0.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another instance was heard: ours must not take over. False if ours has begun to, so that the other one has to end.
    #[must_use]
    pub fn yields(&self) -> bool {
        self.state().is_none_or(|mut state| {
            if state.other != Other::Refused {
                state.other = Other::Heard;
            }
            state.other == Other::Heard
        })
    }

    /// The other instance is not heard any more, or ours could not take over.
    pub fn is_alone(&self) {
        self.state().into_iter().for_each(|mut state| state.other = Other::Unheard);
    }

    /// Ours begins to take over; false if another instance was heard, so that it must not.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.state().is_none_or(|mut state| {
            if state.other == Other::Unheard {
                state.other = Other::Refused;
            }
            state.other == Other::Refused
        })
    }

    /// Ours took over at that time, from an instance that may still have had the lease.
    pub fn take_over(&self, at: Instant) {
        self.state().into_iter().for_each(|mut state| state.taken = Some(at));
    }

    /// It was certain at that moment that no other instance has taken over.
    pub fn confirm(&self, at: Option<Moment>) {
        self.state().into_iter().for_each(|mut state| state.confirmed = at);
    }

    /// Another instance has taken over, or may from now on: the lease is never valid again.
    pub fn end(&self) {
        self.state().into_iter().for_each(|mut state| state.has_ended = true);
    }

    /// When the lease was last confirmed; none before the first time, and for one that is always valid.
    pub fn confirmed(&self) -> Option<Moment> {
        self.state().and_then(|state| state.confirmed)
    }

    /// Whether something may be changed now.
    pub fn is_valid(&self) -> bool {
        self.is_valid_at(Moment::now(), Instant::now())
    }

    /// As [`Lease::is_valid`], at this time on both clocks.
    pub fn is_valid_at(&self, now: Moment, at: Instant) -> bool {
        self.state().is_none_or(|state| state.is_valid(now, at))
    }

    /// Waits until the lease is valid, for [`PATIENCE`] at most; false if it is not by then.
    #[must_use]
    pub fn wait(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.is_valid() {
            if self.state().is_some_and(|state| state.has_ended) || Instant::now() >= until {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn moment(seconds: f64) -> Moment {
        let since = Duration::from_secs_f64(1000.0 + seconds);
        Moment::new(since, SystemTime::UNIX_EPOCH + since)
    }

    #[test]
    fn it_ends_with_the_age_of_its_confirmation_and_for_ever_when_another_has_taken_over() {
        let (lease, at) = (Lease::unconfirmed(), Instant::now());
        let is_valid = |now| lease.is_valid_at(moment(now), at);
        assert!(!is_valid(0.0));
        lease.confirm(Some(moment(0.0)));
        assert!(is_valid(0.0) && is_valid(3.9) && !is_valid(4.0));
        lease.confirm(Some(moment(3.0)));
        assert!(is_valid(6.9));
        lease.end();
        assert!(!is_valid(3.0) && !lease.is_valid());
        assert!(Lease::default().is_valid() && Lease::default().wait());
    }

    #[test]
    fn it_is_taken_only_while_no_other_instance_is_heard_and_none_is_yielded_to_afterwards() {
        let lease = Lease::unconfirmed();
        assert!(lease.yields() && !lease.takes() && lease.yields());
        lease.is_alone();
        assert!(lease.takes() && !lease.yields() && lease.takes());
        lease.is_alone();
        assert!(lease.yields());
        assert!(Lease::default().yields());
    }

    #[test]
    fn whoever_takes_over_waits_until_that_of_the_one_before_has_ended() {
        let (before, after, at) = (Lease::unconfirmed(), Lease::unconfirmed(), Instant::now());
        before.confirm(Some(moment(0.0)));
        after.take_over(at);
        for tenth in 0..60 {
            let (now, at) = (f64::from(tenth) / 10.0, at + Duration::from_millis(100 * tenth as u64));
            after.confirm(Some(moment(now)));
            let is_valid = |lease: &Lease| lease.is_valid_at(moment(now), at);
            assert_ne!(is_valid(&before), is_valid(&after), "{now}");
        }
    }
}
