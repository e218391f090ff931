//! The writer of a topic at a real broker: a transactional producer of librdkafka.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use super::super::lock;
use super::opening::Address;
use super::{Left, Message, Producer, Refusal};
use crate::broker::{self, ANSWER};

/// Time between two looks at whether the broker has taken all messages.
const POLL: Duration = Duration::from_millis(1);
/// Time between two tries to hand over a message while librdkafka has no room for it.
const PAUSE: Duration = Duration::from_millis(5);

/// What librdkafka reports besides its answers.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The last problem with the connection or with a message, in words, and of a message by its code.
    pub(super) problem: Mutex<Option<(String, Option<Code>)>>,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!("librdkafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // `AllBrokersDown` only repeats the errors of each broker.
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            let (_, text) = broker::problem(&error, reason);
            *lock(&self.problem) = Some((text, None));
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // A message that was purged was not sent only because its transaction is aborted.
        if let Err((error, _)) = result
            && !matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
        {
            *lock(&self.problem) = Some((broker::reason(error), error.rdkafka_error_code()));
        }
    }
}

/// The producer, and the topic that it writes to.
pub struct Transactions {
    pub(super) producer: ThreadedProducer<Context>,
    pub(super) address: Address,
}

impl Transactions {
    fn refusal(&self, error: &KafkaError) -> Refusal {
        let left = if let KafkaError::Transaction(error) = error {
            match (error.is_fatal(), error.is_retriable()) {
                (true, _) => Left::Nothing,
                (false, true) => Left::Again,
                (false, false) => Left::Abort,
            }
        } else {
            // The messages have not left.
            Left::Again
        };
        let client = self.producer.client();
        let problem = lock(&client.context().problem).as_ref().map(|(text, _)| text.clone());
        let reason = problem.unwrap_or_else(|| broker::reason(error));
        Refusal { left, reason, unopened: self.address.meaning(error, client) }
    }

    /// Waits until the broker has taken all messages. (`Producer::flush` would wait for 0.1 s at least.)
    fn flush(&self) -> Result<(), KafkaError> {
        let until = Instant::now() + ANSWER;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= until {
                return Err(KafkaError::Flush(Code::OperationTimedOut));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Producer for Transactions {
    fn send(&mut self, messages: &[Message]) -> Result<(), Refusal> {
        *lock(&self.producer.client().context().problem) = None;
        let until = Instant::now() + ANSWER;
        self.producer.begin_transaction().map_err(|error| self.refusal(&error))?;
        for Message { key, value } in messages {
            let mut record = BaseRecord::<str, [u8]>::to(&self.address.name).partition(0).key(key);
            record.payload = value.as_deref();
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) || Instant::now() >= until {
                    return Err(self.refusal(&error));
                }
                record = back;
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Refusal> {
        let committed = self.flush().and_then(|()| self.producer.commit_transaction(ANSWER));
        committed.map_err(|error| self.refusal(&error))
    }

    fn abort(&mut self) -> Result<(), Refusal> {
        self.producer.abort_transaction(ANSWER).map_err(|error| self.refusal(&error))
    }
}
