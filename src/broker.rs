//! How a client of Kafka is made, of the SAL side and of the journal alike: librdkafka's settings, every one that matters
//! written out, its errors in words, and what is asked of a broker about a topic.

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

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Only to manage topics.
    Admin,
    /// To read: of its own group, which is never seen by the broker, since partitions are assigned by us.
    Consumer,
    /// To write. It never gives up: order within a topic is kept, whatever happens to the broker.
    Producer,
}

const COMMON: [(&str, &str); 7] = [
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    // A broker that hangs is given up after so long, and asked again.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "1000"),
    ("statistics.interval.ms", "0"),
];

const CONSUMER: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("allow.auto.create.topics", "false"),
    // Where the log was cut off, what is left may be old commands; `upkeep` finds out what is new.
    ("auto.offset.reset", "error"),
    ("fetch.error.backoff.ms", "200"),
];

const PRODUCER: [(&str, &str); 5] = [
    ("linger.ms", "0"),
    ("max.in.flight.requests.per.connection", "1"),
    // A message that timed out would be overtaken by the next one; the outbox has them in hand.
    ("message.timeout.ms", "0"),
    ("topic.metadata.propagation.max.ms", "10000"),
    ("retry.backoff.ms", "100"),
];

/// The settings of a client. What all have in common comes last, so that, as in salobj, it wins.
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

/// Whether librdkafka knows and accepts these settings, as far as that shows without a client.
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

/// In words that show no secret: a setting that librdkafka does not take.
pub(crate) fn wrong(error: &KafkaError) -> String {
    // The value may be secret, whatever the key is called.
    let KafkaError::ClientConfig(_, why, key, _) = error else {
        return format!("the Kafka settings are not possible: {error}");
    };
    format!("the Kafka setting {key} is not possible: {why}")
}

/// The plain reason of an error.
pub(crate) fn reason(error: &KafkaError) -> String {
    code(error).map_or_else(|| error.to_string(), |code| code.to_string())
}

/// The code of an error, also of an administrator's request.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() }
}

/// What is wrong with the connection, in one line, from what librdkafka says of it; and whether that is `"us"`, whom
/// the broker does not let in, or something else (`""`).
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
    // Of a certificate that we refuse it reports now this error, now that, or both.
    let (about, what) = if reason.contains("certificate verify failed") {
        ("us", "the broker's certificate is not trusted (see ssl.ca.location)")
    } else if is_refusal {
        ("us", "the broker does not let us in")
    } else {
        ("", "the broker cannot be reached")
    };
    (about, format!("{what}: {}", reason.replace(['\n', '\r'], " ")))
}
