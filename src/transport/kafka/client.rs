//! The transport's clients of librdkafka, and their callbacks.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;

use super::Shared;
use super::trouble::Kind;
use crate::broker::{self, Role};

/// The callbacks of librdkafka.
pub(super) struct Context(Arc<Shared>);

/// A consumer.
pub(super) type Reader = BaseConsumer<Context>;

impl ClientContext for Context {
    // Warnings of librdkafka repeat what `error` gets; the rest is for debugging it.
    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!("librdkafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // `AllBrokersDown` only repeats the errors of each broker; errors of partitions reach reader and writer.
        if self.0.is_closing()
            || error.rdkafka_error_code() == Some(Code::AllBrokersDown)
            || is_of_partition(&error)
        {
            return;
        }
        let (about, problem) = broker::problem(&error, reason);
        self.0.troubles.report(Kind::Broker, about, &problem);
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

/// Whether this error means that we may not read or write a topic.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed)
}

/// Errors of the connection that have positive numbers, as errors of the broker have.
const OF_CONNECTION: [Code; 3] =
    [Code::SaslAuthenticationFailed, Code::UnsupportedSASLMechanism, Code::IllegalSASLState];
/// Errors of a partition that have negative numbers, as librdkafka's own errors have.
const OF_PARTITION: [Code; 5] =
    [Code::Unknown, Code::UnknownTopic, Code::UnknownPartition, Code::AutoOffsetReset, Code::LogTruncation];

/// Whether this error is about a partition, and not about the connection.
pub(super) fn is_of_partition(error: &KafkaError) -> bool {
    let is_such = |code| OF_PARTITION.contains(&code) || (code as i32 > 0 && !OF_CONNECTION.contains(&code));
    is_of_message(error) || error.rdkafka_error_code().is_some_and(is_such)
}

/// Whether this error is about a message that will never be readable.
pub(super) fn is_of_message(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    is_final(error) || matches!(code, Some(Code::NotImplemented | Code::BadCompression | Code::BadMessage))
}

/// Whether this error means that the broker never takes the message as it is.
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

/// A client; librdkafka connects it.
pub(super) fn create<T: FromClientConfigAndContext<Context>>(
    shared: &Arc<Shared>,
    role: Role,
) -> Result<T, String> {
    let config = broker::config(&shared.options, shared.index, role);
    config.create_with_context(Context(shared.clone())).map_err(|error| broker::wrong(&error))
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
