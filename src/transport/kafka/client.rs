//! librdkafka's clients, with every option that matters written out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message as _};
use rdkafka::producer::{ProducerContext, ThreadedProducer};

use super::outbox::Refusal;
use super::trouble::{Kind, Troubles};
use super::upkeep::is_of_partition;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;

/// What became of a message that was handed to the producer.
pub(super) struct Report {
    pub(super) id: usize,
    pub(super) result: Result<(), KafkaError>,
}

/// The offset of the last message that the broker took from us, by topic and partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Arc<Mutex<BTreeMap<(String, i32), i64>>>);

impl Written {
    fn note(&self, message: &BorrowedMessage<'_>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert((message.topic().to_owned(), message.partition()), message.offset());
    }

    /// What was written to this topic is gone.
    pub(super) fn forget(&self, topic: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != topic);
    }

    /// All of them, as they are now.
    pub(super) fn all(&self) -> BTreeMap<(String, i32), i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What librdkafka calls back.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) troubles: Arc<Troubles>,
    pub(super) reports: Sender<Report>,
    pub(super) written: Written,
    /// Our side ends: what the connection then says is of no interest.
    pub(super) closing: Arc<AtomicBool>,
}

impl ClientContext for Context {
    // Its warnings repeat what `error` says; what else it says is for debugging it.
    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!("librdkafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        let kind = match error.rdkafka_error_code() {
            // Says only that the others were all.
            Some(RDKafkaErrorCode::AllBrokersDown) => return,
            // Reader and writer hear of it too.
            Some(_) if is_of_partition(&error) => return,
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::UnsupportedSASLMechanism,
            ) => Kind::Authentication,
            // Of the same refusal it tells now this, now that, or both.
            Some(_) | None if is_distrust(reason) => Kind::Authentication,
            Some(_) | None => Kind::Broker,
        };
        let reason = reason.replace(['\n', '\r'], " ");
        let what = match kind {
            Kind::Authentication if is_distrust(&reason) => {
                "the broker's certificate is not trusted (see ssl.ca.location)"
            }
            Kind::Authentication => "the broker does not let us in",
            Kind::SetUp
            | Kind::Broker
            | Kind::Consumer
            | Kind::Reading
            | Kind::Partition
            | Kind::Skipped
            | Kind::Deleted
            | Kind::Topic
            | Kind::Schema
            | Kind::Registry => "the broker cannot be reached",
        };
        self.troubles.say(kind, "", &format!("{what}: {reason}"));
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let result = match result {
            Ok(message) => {
                self.written.note(message);
                Ok(())
            }
            Err((error, _)) => Err(error.clone()),
        };
        // There is room for all that is in flight; nobody listens at the very end.
        let _ = self.reports.send(Report { id, result });
    }
}

/// Whether it is we who do not let the broker in.
fn is_distrust(reason: &str) -> bool {
    reason.contains("certificate verify failed")
}

/// Whether a message may be taken later.
pub(super) fn refusal(error: &KafkaError) -> Refusal {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp,
        ) => Refusal::Never,
        Some(_) | None => Refusal::Later,
    }
}

/// What all clients have in common; it comes last, so that, as in salobj, it wins.
fn common(config: &mut ClientConfig, options: &Options, index: SalIndex) {
    config
        .set("bootstrap.servers", &options.brokers)
        .set("client.id", format!("OCPS-{}", index.number()))
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        // A broker that hangs is given up after so long, and asked again.
        .set("socket.timeout.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "10000")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("statistics.interval.ms", "0")
        .set_log_level(RDKafkaLogLevel::Warning);
    if let Some(sasl) = &options.sasl {
        config
            .set("security.protocol", &sasl.protocol)
            .set("sasl.mechanism", &sasl.mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", &sasl.password.0);
    }
    for (key, value) in &options.broker_client {
        config.set(key, value);
    }
}

/// A client that only manages topics.
pub(super) fn admin(
    options: &Options,
    index: SalIndex,
    context: Context,
) -> Result<AdminClient<Context>, String> {
    let mut config = ClientConfig::new();
    common(&mut config, options, index);
    config.create_with_context(context).map_err(|error| wrong(&error))
}

/// Whether librdkafka knows and takes these settings, as far as it says so without a client.
pub(super) fn check(options: &Options, index: SalIndex) -> Result<(), String> {
    let configs = [consumer_config(options, index), producer_config(options, index)];
    configs
        .iter()
        .try_for_each(|config| config.create_native_config().map(drop))
        .map_err(|error| wrong(&error))
}

/// A consumer of its own group, which is never seen by the broker: partitions are assigned by us.
pub(super) fn consumer(
    options: &Options,
    index: SalIndex,
    context: Context,
) -> Result<BaseConsumer<Context>, String> {
    consumer_config(options, index).create_with_context(context).map_err(|error| wrong(&error))
}

fn consumer_config(options: &Options, index: SalIndex) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("group.id", format!("OCPS:{}-{:016x}", index.number(), fastrand::u64(..)))
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        // Where the log was cut off, what is left may be old commands; `watch` finds out what is new.
        .set("auto.offset.reset", "error")
        .set("fetch.error.backoff.ms", "200");
    for (key, value) in &options.consumer {
        config.set(key, value);
    }
    common(&mut config, options, index);
    config
}

/// A producer that never gives up: order within a topic is kept, whatever happens to the broker.
pub(super) fn producer(
    options: &Options,
    index: SalIndex,
    context: Context,
) -> Result<ThreadedProducer<Context>, String> {
    producer_config(options, index).create_with_context(context).map_err(|error| wrong(&error))
}

fn producer_config(options: &Options, index: SalIndex) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("acks", &options.producer_acks)
        .set("linger.ms", "0")
        .set("max.in.flight.requests.per.connection", "1")
        // A message that timed out would be overtaken by the next one; the outbox has them in hand.
        .set("message.timeout.ms", "0")
        .set("topic.metadata.propagation.max.ms", "10000")
        .set("retry.backoff.ms", "100");
    for (key, value) in &options.producer {
        config.set(key, value);
    }
    common(&mut config, options, index);
    config
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
