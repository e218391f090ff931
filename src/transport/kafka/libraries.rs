//! Which versions of the C libraries are in use.

use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};

/// What librdkafka logs before the version of OpenSSL, which it gives in no other way.
const BEFORE_VERSION: &str = "OpenSSL version OpenSSL ";

/// How long what a client logged is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two polls of it.
const PAUSE: Duration = Duration::from_millis(5);

/// Names and versions: of librdkafka, and of OpenSSL where that is built in or linked to.
#[must_use]
pub fn libraries() -> Vec<String> {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let openssl = openssl().map(|version| format!("OpenSSL {version}"));
    [format!("librdkafka {librdkafka}")].into_iter().chain(openssl).collect()
}

/// The version of OpenSSL that a client of librdkafka logs when it is made; one without brokers, which connects to
/// nothing.
fn openssl() -> Option<String> {
    let (sender, found) = bounded(1);
    let mut config = ClientConfig::new();
    config.set("security.protocol", "ssl").set("debug", "security");
    let client: BaseConsumer<Listener> = config.create_with_context(Listener(sender)).ok()?;
    let until = Instant::now() + PATIENCE;
    while found.is_empty() && Instant::now() < until {
        // What it logged waits in its queue, and there is nothing else to wait for.
        drop(client.poll(PAUSE));
    }
    found.try_recv().ok()
}

struct Listener(Sender<String>);

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        let after = message.split_once(BEFORE_VERSION).and_then(|(_, after)| after.split(' ').next());
        // Only the first is of interest.
        let _ = after.map(|version| self.0.try_send(version.to_owned()));
    }
}

impl ConsumerContext for Listener {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_versions() {
        let libraries = libraries();
        assert_eq!(libraries.len(), if cfg!(feature = "kafka-sasl") { 2 } else { 1 }, "{libraries:?}");
        for library in libraries {
            let (name, version) = library.split_once(' ').unwrap();
            assert!(["librdkafka", "OpenSSL"].contains(&name), "{library}");
            assert!(version.split('.').count() >= 3 && version.starts_with(char::is_numeric), "{library}");
        }
    }
}
