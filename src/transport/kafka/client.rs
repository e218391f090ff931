//! librdkafka's clients, with every option that matters written out.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;

use super::Shared;
use super::trouble::Kind;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;

/// What librdkafka calls back.
pub(super) struct Context(Arc<Shared>);

/// A client to read with.
pub(super) type Reader = BaseConsumer<Context>;

impl ClientContext for Context {
    // Its warnings repeat what `error` gets; the rest is for debugging librdkafka.
    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!("librdkafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down only repeats the errors of each; those of partitions reach reader and writer.
        if self.0.is_closing()
            || error.rdkafka_error_code() == Some(Code::AllBrokersDown)
            || is_of_partition(&error)
        {
            return;
        }
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
        let reason = reason.replace(['\n', '\r'], " ");
        self.0.troubles.report(Kind::Broker, about, &format!("{what}: {reason}"));
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        match result {
            Ok(message) => self.0.delivered(id, message.partition(), message.offset()),
            Err((error, _)) => self.0.refused(id, error),
        }
    }
}

/// The plain reason of an error.
pub(super) fn reason(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Whether this error means that a topic is not ours to read or write.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed)
}

/// Whether this error is about a partition, and not about the connection.
pub(super) fn is_of_partition(error: &KafkaError) -> bool {
    is_of_message(error)
        || match error.rdkafka_error_code() {
            Some(
                Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism | Code::IllegalSASLState,
            )
            | None => false,
            Some(
                Code::Unknown
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::AutoOffsetReset
                | Code::LogTruncation,
            ) => true,
            // The broker's own errors have positive numbers.
            Some(code) => code as i32 > 0,
        }
}

/// Whether it is about what was written there: it will never be readable.
pub(super) fn is_of_message(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    is_final(error) || matches!(code, Some(Code::NotImplemented | Code::BadCompression | Code::BadMessage))
}

/// Whether a message is never taken as it is.
pub(super) fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::MessageBatchTooLarge
                | Code::InvalidMessage
                | Code::InvalidRecord
                | Code::InvalidTimestamp
        )
    )
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
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
fn config(options: &Options, index: SalIndex, role: Role) -> ClientConfig {
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

/// A client, which connects by itself.
pub(super) fn create<T: FromClientConfigAndContext<Context>>(
    shared: &Arc<Shared>,
    role: Role,
) -> Result<T, String> {
    let config = config(&shared.options, shared.index, role);
    config.create_with_context(Context(shared.clone())).map_err(|error| wrong(&error))
}

/// Whether librdkafka knows and accepts these settings, as far as that shows without a client.
pub(super) fn check(options: &Options, index: SalIndex) -> Result<(), String> {
    [Role::Consumer, Role::Producer].into_iter().try_for_each(|role| {
        config(options, index, role).create_native_config().map(drop).map_err(|error| wrong(&error))
    })
}

fn wrong(error: &KafkaError) -> String {
    let KafkaError::ClientConfig(_, why, key, value) = error else {
        return format!("the Kafka settings are not possible: {error}");
    };
    if key.contains("password") || key.contains("jaas") {
        return format!("the Kafka setting {key} is not possible: {why}");
    }
    format!("the Kafka setting {key} = {value:?} is not possible: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_partition_is_not_the_connection() {
        let error = KafkaError::MessageConsumption;
        for of_message in [Code::NotImplemented, Code::BadCompression] {
            assert!(is_of_partition(&error(of_message)) && is_of_message(&error(of_message)));
        }
        for of_partition in [
            Code::Unknown,
            Code::UnknownTopicOrPartition,
            Code::TopicAuthorizationFailed,
            Code::UnsupportedCompressionType,
            Code::AutoOffsetReset,
        ] {
            assert!(is_of_partition(&error(of_partition)) && !is_of_message(&error(of_partition)));
        }
        for other in [
            Code::BrokerTransportFailure,
            Code::AllBrokersDown,
            Code::Resolve,
            Code::Authentication,
            Code::SaslAuthenticationFailed,
        ] {
            assert!(!is_of_partition(&error(other)));
        }
    }
}
