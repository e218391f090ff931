//! Troubles of Kafka: each is logged when it begins, rarely while it lasts, and when it is over.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// Time until a trouble that lasts is logged again.
const AGAIN: Duration = Duration::from_secs(600);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Joining fails.
    SetUp,
    /// The brokers cannot be reached (about `""`), or do not let us in (about `"us"`).
    Broker,
    /// A consumer cannot read.
    Consumer,
    /// One topic cannot be read.
    Reading,
    /// Messages of one topic were skipped.
    Skipped,
    /// Deleted topics cannot be created again.
    Deleted,
    /// One topic cannot be written.
    Topic,
    /// One topic has no schema that we can write with.
    Schema,
    /// The schema registry does not answer, once joined.
    Registry,
}

impl Kind {
    /// The log line when such a trouble is over.
    fn end(self, about: &str) -> Option<String> {
        match self {
            Self::SetUp | Self::Skipped | Self::Deleted => None,
            Self::Broker => Some("the broker can be reached again".to_owned()),
            Self::Consumer => Some(format!("{about} are read again")),
            Self::Reading => Some(format!("topic {about} can be read again")),
            Self::Topic => Some(format!("topic {about} can be written again")),
            Self::Schema => Some(format!("topic {about} has a schema that fits now")),
            Self::Registry => Some("the schema registry answers again".to_owned()),
        }
    }
}

/// The troubles that last.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<BTreeMap<(Kind, String), Trouble>>);

#[derive(Debug)]
struct Trouble {
    logged: Instant,
    text: String,
}

impl Troubles {
    /// Notes a trouble and logs it if it is time; `about` tells troubles of one kind apart, mostly by the topic.
    pub(super) fn report(&self, kind: Kind, about: &str, text: &str) {
        if self.note(kind, about, text, Instant::now()) {
            log::warn!("Kafka: {text}; retrying");
        }
    }

    /// Notes a trouble; gives whether it is to be logged.
    pub(super) fn note(&self, kind: Kind, about: &str, text: &str, now: Instant) -> bool {
        let mut troubles = lock(&self.0);
        // Trouble with the connection explains why joining fails.
        let is_explained = kind == Kind::SetUp && troubles.keys().any(|(kind, _)| *kind == Kind::Broker);
        let known = troubles.get(&(kind, about.to_owned())).filter(|known| {
            // When joining, another text is another trouble; elsewhere texts differ only in numbers.
            now.saturating_duration_since(known.logged) < AGAIN && (kind != Kind::SetUp || known.text == text)
        });
        let (logged, is_new) = known.map_or((now, !is_explained), |known| (known.logged, false));
        troubles.insert((kind, about.to_owned()), Trouble { logged, text: text.to_owned() });
        is_new
    }

    /// A trouble is over, if there was one; of the connection, whatever it was about. Logged once.
    pub(super) fn over(&self, kind: Kind, about: &str) {
        let mut troubles = lock(&self.0);
        let before = troubles.len();
        troubles.retain(|(of, what), _| *of != kind || (what != about && kind != Kind::Broker));
        if let Some(text) = kind.end(about).filter(|_| troubles.len() < before) {
            log::info!("Kafka: {text}");
        }
    }

    /// Whether a trouble keeps commands from coming.
    pub(super) fn is_cut_off(&self) -> bool {
        let is_needed = |kind: &Kind| matches!(kind, Kind::SetUp | Kind::Broker | Kind::Consumer);
        lock(&self.0).keys().any(|(kind, _)| is_needed(kind))
    }

    /// All present troubles in one line.
    pub(super) fn current(&self) -> Option<String> {
        let troubles = lock(&self.0);
        let texts: Vec<&str> = troubles.values().map(|trouble| trouble.text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_logged_once_and_then_rarely() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.note(Kind::SetUp, "", "c", now));
        assert!(troubles.note(Kind::Broker, "", "a", now));
        assert!(!troubles.note(Kind::Broker, "", "b", now + AGAIN / 2));
        assert_eq!(troubles.current().as_deref(), Some("c; b"));
        // The trouble with the connection explains it, until that is over.
        assert!(!troubles.note(Kind::SetUp, "", "d", now));
        assert!(troubles.note(Kind::Broker, "", "e", now + AGAIN));
        troubles.over(Kind::Broker, "");
        assert_eq!(troubles.current().as_deref(), Some("d"));
        assert!(troubles.note(Kind::Broker, "", "f", now + AGAIN));
        troubles.over(Kind::Broker, "");
        troubles.over(Kind::SetUp, "");
        // That one topic works does not mean that another does.
        assert!(troubles.note(Kind::Topic, "x", "g", now));
        troubles.over(Kind::Topic, "y");
        assert!(!troubles.note(Kind::Topic, "x", "g", now));
        // Joining met something else.
        assert!(troubles.note(Kind::SetUp, "", "h", now));
        assert!(troubles.note(Kind::SetUp, "", "i", now));
        assert!(!troubles.note(Kind::SetUp, "", "i", now));
    }
}
