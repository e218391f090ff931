//! Commands that came twice: Kafka delivers at least once, a command is carried out at most once.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::command::{Sender, Via};
use super::record::SEEN_MAX;

/// How long a command is remembered.
const SEEN_FOR: Duration = Duration::from_secs(3600);

/// What makes a command the same: identity, origin, sequence number and bits of the send stamp.
type Key = (String, i32, i32, u64);

/// The commands of the last hour, and the last of previous runs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    keys: HashSet<Key>,
    /// With the time at which each is forgotten, the next one first.
    order: VecDeque<(Duration, Key)>,
}

impl Seen {
    /// Whether this command was seen before; from now on it was.
    ///
    /// A local connection cannot deliver twice, so only commands from Kafka are remembered.
    pub(super) fn is_repeated(&mut self, sender: &Sender, now: Duration) -> bool {
        match sender.via {
            Via::Kafka => {}
            Via::Socket(_) | Via::CommandLine => return false,
        }
        while let Some((until, key)) = self.order.front() {
            if now < *until {
                break;
            }
            self.keys.remove(key);
            self.order.pop_front();
        }
        let key = (sender.identity.clone(), sender.origin, sender.seq_num.0, sender.sent.0.to_bits());
        if !self.keys.insert(key.clone()) {
            return true;
        }
        self.order.push_back((now + SEEN_FOR, key));
        if self.order.len() > SEEN_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::SeqNum;
    use super::super::time::Tai;
    use super::*;

    fn sender(via: Via, seq_num: i32) -> Sender {
        Sender { via, identity: "root@host".into(), origin: 7, seq_num: SeqNum(seq_num), sent: Tai(1.5) }
    }

    #[test]
    fn a_command_is_remembered_for_an_hour() {
        let mut seen = Seen::default();
        let at = Duration::from_secs;
        assert!(!seen.is_repeated(&sender(Via::Kafka, 1), at(0)));
        assert!(!seen.is_repeated(&sender(Via::Kafka, 2), at(0)));
        assert!(seen.is_repeated(&sender(Via::Kafka, 1), at(3599)));
        assert!(!seen.is_repeated(&sender(Via::Kafka, 1), at(3600)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for n in 0..2 * SEEN_MAX {
            assert!(!seen.is_repeated(&sender(Via::Kafka, i32::try_from(n).unwrap()), Duration::ZERO));
        }
        assert_eq!((seen.keys.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
    }

    #[test]
    fn local_commands_are_never_repetitions() {
        let mut seen = Seen::default();
        let local = sender(Via::Socket(super::super::id::ClientId(1)), 1);
        assert!(!seen.is_repeated(&local, Duration::ZERO));
        assert!(!seen.is_repeated(&local, Duration::ZERO));
    }
}
