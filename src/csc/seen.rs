//! Commands that came twice: Kafka delivers a command at least once, and it is carried out at most once.

use std::collections::{HashSet, VecDeque};

use super::command::{Sender, Via};
use super::record::SEEN_MAX;

/// What makes a command the same: identity, origin, sequence number and bits of the send stamp.
type Key = (String, i32, i32, u64);

/// The last commands, also those of previous runs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    keys: HashSet<Key>,
    /// The oldest first.
    order: VecDeque<Key>,
}

impl Seen {
    /// Whether this command was seen before; from now on it was.
    ///
    /// A local connection cannot deliver twice, so only commands from Kafka are remembered.
    pub(super) fn is_repeated(&mut self, sender: &Sender) -> bool {
        if sender.via != Via::Kafka {
            return false;
        }
        let key = (sender.identity.clone(), sender.origin, sender.seq_num.0, sender.sent.0.to_bits());
        if !self.keys.insert(key.clone()) {
            return true;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
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
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        let kafka = |n: usize| sender(Via::Kafka, i32::try_from(n).unwrap());
        for n in 0..2 * SEEN_MAX {
            assert!(!seen.is_repeated(&kafka(n)));
        }
        assert!(seen.is_repeated(&kafka(SEEN_MAX)), "the oldest that is remembered");
        assert_eq!((seen.keys.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
    }

    #[test]
    fn local_commands_are_never_repetitions() {
        let mut seen = Seen::default();
        let local = sender(Via::Socket(super::super::id::ClientId(1)), 1);
        assert!(!seen.is_repeated(&local));
        assert!(!seen.is_repeated(&local));
    }
}
