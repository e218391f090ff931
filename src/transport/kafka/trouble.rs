//! Says once what is wrong, and then rarely; and says when it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a trouble that lasts is said again.
const AGAIN: Duration = Duration::from_secs(600);

/// What can be wrong, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Something on the way to being joined.
    SetUp,
    /// The connection to the brokers.
    Broker,
    /// Who we are to the brokers.
    Authentication,
    /// Reading.
    Consumer,
    /// Reading one topic that we may not.
    Reading,
    /// Reading one topic, for another reason.
    Partition,
    /// Messages that cannot be read.
    Skipped,
    /// Making topics again.
    Deleted,
    /// Writing one topic.
    Topic,
    /// The schema of one topic that we write.
    Schema,
    /// Asking the schema registry, once joined.
    Registry,
}

/// The troubles that last.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<BTreeMap<(Kind, String), Trouble>>);

#[derive(Debug)]
struct Trouble {
    said: Instant,
    text: String,
}

impl Troubles {
    /// Something is wrong; `about` is the topic, if it concerns only one.
    pub(super) fn say(&self, kind: Kind, about: &str, text: &str) {
        if self.note(kind, about, text, Instant::now()) {
            log::warn!("Kafka: {text}; trying on");
        }
    }

    /// Joining failed because no broker answers; it is said only if nothing that was said tells why.
    pub(super) fn say_no_answer(&self, text: &str) {
        if self.is_known(&[Kind::Broker, Kind::Authentication]) {
            let _ = self.note(Kind::SetUp, "", text, Instant::now());
        } else {
            self.say(Kind::SetUp, "", text);
        }
    }

    /// What was said already is shown too.
    pub(super) fn keep(&self, kind: Kind, about: &str, text: &str) {
        let _ = self.note(kind, about, text, Instant::now());
    }

    fn is_known(&self, kinds: &[Kind]) -> bool {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.keys().any(|(kind, _)| kinds.contains(kind))
    }

    /// Whether this is to be said.
    fn note(&self, kind: Kind, about: &str, text: &str, now: Instant) -> bool {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match troubles.get_mut(&(kind, about.to_owned())) {
            // Joining goes from one trouble to the next; elsewhere texts differ only in numbers.
            Some(trouble)
                if now.saturating_duration_since(trouble.said) < AGAIN
                    && (kind != Kind::SetUp || trouble.text == text) =>
            {
                text.clone_into(&mut trouble.text);
                false
            }
            Some(_) | None => {
                troubles.insert((kind, about.to_owned()), Trouble { said: now, text: text.to_owned() });
                true
            }
        }
    }

    /// It is over, if it was.
    pub(super) fn over(&self, kinds: &[Kind], about: &str) -> bool {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = troubles.len();
        troubles.retain(|(kind, topic), _| topic != about || !kinds.contains(kind));
        troubles.len() < before
    }

    /// What is wrong now, in one line.
    pub(super) fn current(&self) -> Option<String> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let texts: Vec<&str> = troubles.values().map(|trouble| trouble.text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_and_then_rarely() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.note(Kind::Broker, "", "a", now));
        assert!(!troubles.note(Kind::Broker, "", "b", now + AGAIN / 2));
        assert!(troubles.note(Kind::SetUp, "", "c", now));
        assert_eq!(troubles.current().as_deref(), Some("c; b"));
        assert!(troubles.note(Kind::Broker, "", "d", now + AGAIN));
        assert!(troubles.over(&[Kind::Broker, Kind::Consumer], ""));
        assert!(!troubles.over(&[Kind::Broker], ""));
        assert!(troubles.note(Kind::Broker, "", "e", now + AGAIN));
        // What goes well with one topic says nothing of another.
        assert!(troubles.note(Kind::Topic, "x", "f", now));
        assert!(!troubles.over(&[Kind::Topic], "y"));
        assert!(!troubles.note(Kind::Topic, "x", "f", now));
        // Joining met something else.
        assert!(troubles.note(Kind::SetUp, "", "g", now));
        assert!(!troubles.note(Kind::SetUp, "", "g", now));
    }
}
