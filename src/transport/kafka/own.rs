//! Which heartbeats are ours: told by what was handed to the producer, since another instance with our index may
//! have our process id too (in containers it is often 1).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::clock::Moment;

/// Heartbeats that are remembered: more than the outbox can hold, all of which may leave before one is read.
const REMEMBERED: usize = 16_384;

/// The heartbeats that were handed to the producer, the newest last: stamp, number, and when that was.
#[derive(Debug, Default)]
pub(super) struct OwnHeartbeats(Mutex<VecDeque<(u64, i32, Moment)>>);

impl OwnHeartbeats {
    /// This one is about to be handed over.
    pub(super) fn add(&self, stamp: f64, seq_num: i32, now: Moment) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() == REMEMBERED {
            own.pop_front();
        }
        own.push_back((stamp.to_bits(), seq_num, now));
    }

    /// When this one was handed over, if it is ours.
    pub(super) fn sent(&self, stamp: f64, seq_num: i32) -> Option<Moment> {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = own.iter().rev().find(|(bits, number, _)| (*bits, *number) == (stamp.to_bits(), seq_num));
        found.map(|(_, _, moment)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_ours_only_with_the_very_stamp_and_number() {
        let (own, now) = (OwnHeartbeats::default(), Moment::now());
        own.add(1.5, 1, now);
        own.add(2.5, 2, now);
        assert_eq!(own.sent(1.5, 1), Some(now));
        assert_eq!(own.sent(2.5, 2), Some(now));
        assert_eq!(own.sent(1.5, 2), None);
        assert_eq!(own.sent(f64::from_bits(1.5_f64.to_bits() + 1), 1), None);
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (own, now) = (OwnHeartbeats::default(), Moment::now());
        for number in 0..=i32::try_from(REMEMBERED).unwrap() {
            own.add(1.0, number, now);
        }
        assert_eq!((own.sent(1.0, 0), own.sent(1.0, 1)), (None, Some(now)));
    }
}
