//! Clients of Kafka, for SAL and for the journal: their settings, the errors of librdkafka in words, and what a broker is
//! asked about a topic.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use crate::config::kafka::Options;
use crate::csc::id::SalIndex;

/// Longest wait for one answer of the broker.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// The purpose of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Manages topics.
    Admin,
    /// Reads. Partitions are assigned by ocps, so that the broker never sees its group.
    Consumer,
    /// Writes. It retries without limit, so that the order within a topic is kept.
    Producer,
}

const COMMON: [(&str, &str); 7] = [
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    // A request to a broker that hangs is repeated after this time.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "1000"),
    ("statistics.interval.ms", "0"),
];

const CONSUMER: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("allow.auto.create.topics", "false"),
    // If messages are missing, those that remain may be old commands; `upkeep` finds out which are new.
    ("auto.offset.reset", "error"),
    ("fetch.error.backoff.ms", "200"),
];

const PRODUCER: [(&str, &str); 5] = [
    ("linger.ms", "0"),
    ("max.in.flight.requests.per.connection", "1"),
    // The next message would overtake one that timed out; the outbox repeats messages.
    ("message.timeout.ms", "0"),
    ("topic.metadata.propagation.max.ms", "10000"),
    ("retry.backoff.ms", "100"),
];

/// The settings of a client. Those for all clients come last, so that they win, as in salobj.
pub(crate) fn config(options: &Options, index: SalIndex, role: Role) -> ClientConfig {
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut config = ClientConfig::new();
    match role {
        Role::Admin => {}
        Role::Consumer => {
            config.set("group.id", format!("OCPS:{}-{:016x}", index.number(), fastrand::u64(..)));
            config.extend(CONSUMER.map(owned).into_iter().chain(options.consumer.clone()));
        }
        Role::Producer => {
            config.set("acks", &options.producer_acks);
            config.extend(PRODUCER.map(owned).into_iter().chain(options.producer.clone()));
        }
    }
    config
        .set("bootstrap.servers", &options.brokers)
        .set("client.id", format!("OCPS-{}", index.number()))
        .set_log_level(RDKafkaLogLevel::Warning)
        .extend(COMMON.map(owned));
    if let Some(sasl) = &options.sasl {
        config
            .set("security.protocol", &sasl.protocol)
            .set("sasl.mechanism", &sasl.mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", &sasl.password.0);
    }
    config.extend(options.broker_client.clone());
    config
}

/// Checks that librdkafka accepts the settings, as far as it can be found out without a client.
pub(crate) fn check(options: &Options, index: SalIndex) -> Result<(), String> {
    [Role::Consumer, Role::Producer].into_iter().try_for_each(|role| {
        config(options, index, role).create_native_config().map(drop).map_err(|error| wrong(&error))
    })
}

/// The bounds of a question to an administrator's client.
pub(crate) fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

/// Creates topics; gives the first that cannot be created, and why.
pub(crate) fn create<C: ClientContext>(
    admin: &AdminClient<C>,
    new: &[NewTopic<'_>],
    options: &AdminOptions,
) -> KafkaResult<Option<(String, Code)>> {
    let results = pollster::block_on(admin.create_topics(new, options))?;
    Ok(results.into_iter().filter_map(Result::err).find(|(_, code)| *code != Code::TopicAlreadyExists))
}

/// The partitions of a topic, and how many replicas each has; an error also where one has no leader.
pub(crate) fn partitions<C: ConsumerContext>(
    asker: &BaseConsumer<C>,
    topic: &str,
) -> KafkaResult<Vec<(i32, usize)>> {
    let metadata = asker.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().first();
    if let Some(error) = found.and_then(|topic| topic.error()) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let partitions = found.map(|topic| topic.partitions()).unwrap_or_default();
    if partitions.is_empty() || partitions.iter().any(|partition| partition.leader() < 0) {
        return Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable));
    }
    Ok(partitions.iter().map(|partition| (partition.id(), partition.replicas().len())).collect())
}

/// Whether this error means that there is no such topic.
pub(crate) fn is_missing(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic))
}

/// The error text for a setting that librdkafka refuses, without its value.
pub(crate) fn wrong(error: &KafkaError) -> String {
    // The value may be secret, whatever the key is called.
    let KafkaError::ClientConfig(_, why, key, _) = error else {
        return format!("the Kafka settings are not possible: {error}");
    };
    format!("the Kafka setting {key} is not possible: {why}")
}

/// The reason in an error.
pub(crate) fn reason(error: &KafkaError) -> String {
    code(error).map_or_else(|| error.to_string(), |code| code.to_string())
}

/// The code of an error, also of a request to manage topics.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() }
}

/// What is wrong with the connection in one line, from the error and the reason that librdkafka reports. The first value is
/// `"us"` if the broker refuses this client, or this client the broker, else `""`.
pub(crate) fn problem(error: &KafkaError, reason: &str) -> (&'static str, String) {
    let is_refusal = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::SSL
                | Code::UnsupportedSASLMechanism
        )
    );
    // For a certificate that is not trusted, librdkafka reports different errors.
    let (about, what) = if reason.contains("certificate verify failed") {
        ("us", "the broker's certificate is not trusted (see ssl.ca.location)")
    } else if is_refusal {
        ("us", "the broker does not let us in")
    } else {
        ("", "the broker cannot be reached")
    };
    (about, format!("{what}: {}", reason.replace(['\n', '\r'], " ")))
}
