//! Finds out which topics we may not read: our consumer is told that there is one, but not which, and not when
//! that is over. A consumer of its own asks for each topic alone, as long as one is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Shared;
use super::client::{self, Context};
use super::setup::{code, topics_read};
use super::trouble::Kind;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;

/// How long a topic is listened to: a refusal comes at once.
const LISTEN: Duration = Duration::from_secs(1);
/// How long until all are asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest sleep, after which it is looked whether to end.
const SLEEP: Duration = Duration::from_millis(500);

/// Whether this error means that a topic is not ours to read or write.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// What is needed to ask.
#[derive(Clone)]
pub(super) struct Inquiry {
    pub(super) options: Options,
    pub(super) index: SalIndex,
    pub(super) context: Context,
    pub(super) shared: Arc<Shared>,
    /// It is asked already.
    pub(super) running: Arc<AtomicBool>,
}

impl Inquiry {
    /// Begins to ask, if it does not yet, on a thread of its own.
    pub(super) fn start(&self) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let inquiry = self.clone();
        let thread = thread::Builder::new().name("kafka-asks".to_owned()).spawn(move || inquiry.run());
        if let Err(error) = thread {
            self.running.store(false, Ordering::Release);
            log::error!("Kafka: cannot start a thread to find out which topic cannot be read: {error}");
        }
    }

    fn run(&self) {
        while !self.is_closing() {
            match self.ask_all() {
                Ok(false) => break,
                Ok(true) => {}
                Err(reason) => log::debug!("Kafka: which topic cannot be read is not known: {reason}"),
            }
            let until = Instant::now() + AGAIN;
            while !self.is_closing() && Instant::now() < until {
                thread::sleep(SLEEP);
            }
        }
        self.running.store(false, Ordering::Release);
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }

    /// Whether one is refused.
    fn ask_all(&self) -> Result<bool, String> {
        let consumer = client::consumer(&self.options, self.index, self.context.clone())?;
        let mut refused = false;
        for topic in topics_read().take_while(|_| !self.is_closing()) {
            let name = topic.kafka_name(&self.options.topic_subname);
            let partitions = partitions(&consumer, &name).map_err(|error| code(&error))?;
            if let Some(error) = listen(&consumer, &partitions).map_err(|error| code(&error))? {
                refused = true;
                let text = format!("topic {name} cannot be read: {}", code(&error));
                self.shared.troubles.say(Kind::Reading, &name, &text);
            } else if self.shared.troubles.over(&[Kind::Reading], &name) {
                log::info!("Kafka: topic {name} can be read again");
            }
        }
        Ok(refused)
    }
}

/// All of a topic, from their ends on.
fn partitions(consumer: &BaseConsumer<Context>, name: &str) -> Result<TopicPartitionList, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(name), LISTEN)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition_offset(name, partition.id(), Offset::End)?;
    }
    Ok(list)
}

/// The refusal, if there is one.
fn listen(
    consumer: &BaseConsumer<Context>,
    partitions: &TopicPartitionList,
) -> Result<Option<KafkaError>, KafkaError> {
    consumer.assign(partitions)?;
    let until = Instant::now() + LISTEN;
    while Instant::now() < until {
        match consumer.poll(until.saturating_duration_since(Instant::now())) {
            Some(Err(error)) if is_refusal(&error) => return Ok(Some(error)),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) => return Ok(None),
            None => {}
        }
    }
    Ok(None)
}
