//! Joining: topics that must be there, schemas to write and read with, where reading begins, the last stamps.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll, Wake};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{self, Context};
use super::registry::Registry;
use super::schemas::Schemas;
use super::upkeep::Place;
use super::wire::{Record, Topic, unframe};
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;
use crate::sal::topic::EventName;

/// Longest wait for one answer of the broker.
const ANSWER: Duration = Duration::from_secs(5);
/// How long new topics may take until they have a leader.
const CREATION: Duration = Duration::from_secs(10);
/// How long the last messages of our topics are looked for.
const LAST_STAMPS: Duration = Duration::from_secs(4);
/// How many of the last messages of a topic are looked at: other instances write to it too, and three of them
/// 90 heartbeats in half a minute; where none of them is ours, 10,000, for an hour.
const LAST_MESSAGES: [i64; 2] = [100, 10_000];
/// No clock shows more: the year 2286.
const STAMP_MAX: f64 = 1e10;

/// What was there when we joined.
pub(super) struct Session {
    /// The last stamps of our topics, of an earlier run.
    pub(super) stamps: BTreeMap<Topic, f64>,
    /// The heartbeats and summary states that are read, and from which offset on.
    pub(super) watched: BTreeMap<Place, i64>,
    /// Where the commands begin.
    pub(super) commands: BTreeMap<Place, i64>,
}

/// Why joining failed.
pub(super) enum Failure {
    /// No broker answers.
    NoAnswer(String),
    /// Something else is not as it must be.
    Wrong(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

/// Does all that is needed once; `watch` then reads what other instances say from now on.
pub(super) fn join(
    options: &Options,
    index: SalIndex,
    consumer: &BaseConsumer<Context>,
    watch: &BaseConsumer<Context>,
    context: &Context,
    schemas: &Schemas,
) -> Result<Session, Failure> {
    let metadata = ensure_topics(options, index, consumer, context)?;
    schemas.choose()?;
    let places = Places { consumer, subname: &options.topic_subname, metadata: &metadata };
    // In this order: behind a fetch that waits for more, each question for an end takes half a second.
    let commands = places.ends(topics_commanded())?;
    let watched = places.ends(topics_watched())?;
    let stamps = places.last_stamps(index, &schemas.registry)?;
    let failed = |error: KafkaError| format!("our topics cannot be read: {}", code(&error));
    // The commands come later.
    consumer.unassign().map_err(failed)?;
    watch.assign(&partition_list(&watched, &options.topic_subname)?).map_err(failed)?;
    Ok(Session { stamps, watched, commands })
}

/// The commands from what comes next on.
pub(super) fn command_places(
    options: &Options,
    consumer: &BaseConsumer<Context>,
) -> Result<BTreeMap<Place, i64>, Failure> {
    let metadata = look(options, consumer)?;
    let places = Places { consumer, subname: &options.topic_subname, metadata: &metadata };
    Ok(places.ends(topics_commanded())?)
}

/// These partitions from these offsets on, as librdkafka wants them.
pub(super) fn partition_list(
    offsets: &BTreeMap<Place, i64>,
    subname: &str,
) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in offsets {
        list.add_partition_offset(&topic.kafka_name(subname), *partition, Offset::Offset(*offset))
            .map_err(|error| code(&error))?;
    }
    Ok(list)
}

/// Creates the topics that are missing.
fn ensure_topics(
    options: &Options,
    index: SalIndex,
    consumer: &BaseConsumer<Context>,
    context: &Context,
) -> Result<Metadata, Failure> {
    let metadata = look(options, consumer)?;
    let missing = missing(options, &metadata);
    if missing.is_empty() {
        return Ok(metadata);
    }
    create(options, index, &missing, context)?;
    let end = Instant::now() + CREATION;
    loop {
        let metadata = look(options, consumer)?;
        let still = self::missing(options, &metadata);
        match still.first() {
            None => return Ok(metadata),
            Some((_, name)) if Instant::now() > end => {
                return Err(format!("topic {name} has no leader").into());
            }
            Some((_, name)) => {
                check_permission(consumer, name)?;
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// A topic that we may not see is missing in the list of all; asked for by its name, the broker says why.
fn check_permission(consumer: &BaseConsumer<Context>, name: &str) -> Result<(), String> {
    let metadata = consumer
        .fetch_metadata(Some(name), ANSWER)
        .map_err(|error| format!("topic {name} cannot be asked for: {}", code(&error)))?;
    let error = metadata.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
    match error {
        Some(error @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
            Err(format!("topic {name} cannot be used: {error}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn look(options: &Options, consumer: &BaseConsumer<Context>) -> Result<Metadata, Failure> {
    consumer.fetch_metadata(None, ANSWER).map_err(|error| {
        let why = code(&error);
        Failure::NoAnswer(format!("the broker {} cannot be asked for its topics: {why}", options.brokers))
    })
}

/// Topics of ours that are not there, or have no leader yet.
fn missing(options: &Options, metadata: &Metadata) -> Vec<(Topic, String)> {
    let ready: BTreeSet<&str> = metadata
        .topics()
        .iter()
        .filter(|topic| !topic.partitions().is_empty() && topic.partitions().iter().all(|p| p.leader() >= 0))
        .map(|topic| topic.name())
        .collect();
    let named = Topic::all().map(|topic| (topic, topic.kafka_name(&options.topic_subname)));
    named.filter(|(_, name)| !ready.contains(name.as_str())).collect()
}

pub(super) fn create(
    options: &Options,
    index: SalIndex,
    missing: &[(Topic, String)],
    context: &Context,
) -> Result<(), String> {
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|(topic, name)| {
            let new = NewTopic::new(name, 1, TopicReplication::Fixed(options.replication_factor));
            match topic {
                Topic::Event(_) => new.set("cleanup.policy", "compact"),
                Topic::Ack | Topic::Command(_) => new,
            }
        })
        .collect();
    let admin = client::admin(options, index, context.clone())?;
    let admin_options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let results = block_on(admin.create_topics(&new, &admin_options))
        .map_err(|error| format!("topics cannot be created: {}", code(&error)))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, error)) => return Err(format!("topic {name} cannot be created: {error}")),
        }
    }
    Ok(())
}

/// The plain reason of an error.
pub(super) fn code(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Whether a partition only has no leader yet.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

/// Wakes the thread that waits.
struct Waker(Thread);

impl Wake for Waker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for the one future that librdkafka's binding makes; its own timeouts end it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = task::Waker::from(Arc::new(Waker(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut task::Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(ANSWER),
        }
    }
}

/// The commands.
fn topics_commanded() -> impl Iterator<Item = Topic> {
    Topic::all().filter(|topic| matches!(topic, Topic::Command(_)))
}

/// The heartbeats and summary states, of which some may be another instance's.
fn topics_watched() -> impl Iterator<Item = Topic> {
    [EventName::Heartbeat, EventName::SummaryState].into_iter().map(Topic::Event)
}

/// All that we read.
pub(super) fn topics_read() -> impl Iterator<Item = Topic> {
    topics_commanded().chain(topics_watched())
}

/// Where messages are.
struct Places<'a> {
    consumer: &'a BaseConsumer<Context>,
    subname: &'a str,
    metadata: &'a Metadata,
}

impl Places<'_> {
    /// Partitions of a topic with their low and high watermarks.
    fn watermarks(&self, topic: Topic) -> Result<Vec<(i32, i64, i64)>, String> {
        let name = topic.kafka_name(self.subname);
        let found = self.metadata.topics().iter().find(|found| found.name() == name);
        let partitions = found.map(|found| found.partitions()).unwrap_or_default();
        let marks = partitions.iter().map(|partition| {
            let (low, high) = self.watermark(&name, partition.id())?;
            Ok((partition.id(), low, high))
        });
        marks.collect()
    }

    /// Low and high; of a new topic the leader may not know yet that it is.
    fn watermark(&self, name: &str, partition: i32) -> Result<(i64, i64), String> {
        let end = Instant::now() + CREATION;
        loop {
            match self.consumer.fetch_watermarks(name, partition, ANSWER) {
                Ok(marks) => return Ok(marks),
                Err(error) if is_passing(&error) && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(format!("topic {name} cannot be read: {}", code(&error))),
            }
        }
    }

    /// These topics from what comes next on.
    fn ends(&self, topics: impl Iterator<Item = Topic>) -> Result<BTreeMap<Place, i64>, String> {
        let mut ends = BTreeMap::new();
        for topic in topics {
            for (partition, _, high) in self.watermarks(topic)? {
                ends.insert((topic, partition), high);
            }
        }
        Ok(ends)
    }

    /// The newest stamp that was written with our index to each of our topics, as far as it is soon found.
    fn last_stamps(&self, index: SalIndex, registry: &Registry) -> Result<BTreeMap<Topic, f64>, String> {
        let mut parts = Vec::new();
        for topic in Topic::all().filter(|topic| !matches!(topic, Topic::Command(_))) {
            let marks = self.watermarks(topic)?.into_iter();
            parts.extend(marks.map(|(partition, low, high)| Part { topic, partition, low, high }));
        }
        let mut stamps = BTreeMap::new();
        let until = Instant::now() + LAST_STAMPS;
        let mut seen = 0;
        for depth in LAST_MESSAGES {
            // A topic is looked at again only if there is more of it, and nothing of ours in what was seen.
            parts.retain(|part| part.high - part.low > seen && !stamps.contains_key(&part.topic));
            self.read_stamps(&parts, depth, index, registry, until, &mut stamps)?;
            seen = depth;
        }
        Ok(stamps)
    }

    /// Adds what the last `depth` messages of these partitions tell.
    fn read_stamps(
        &self,
        parts: &[Part],
        depth: i64,
        index: SalIndex,
        registry: &Registry,
        until: Instant,
        stamps: &mut BTreeMap<Topic, f64>,
    ) -> Result<(), String> {
        let mut list = TopicPartitionList::new();
        let mut ends: BTreeMap<(String, i32), &Part> = BTreeMap::new();
        for part in parts {
            let name = part.topic.kafka_name(self.subname);
            let from = Offset::Offset(part.low.max(part.high - depth));
            list.add_partition_offset(&name, part.partition, from).map_err(|error| code(&error))?;
            ends.insert((name, part.partition), part);
        }
        if ends.is_empty() {
            return Ok(());
        }
        self.consumer
            .assign(&list)
            .map_err(|error| format!("our topics cannot be read: {}", code(&error)))?;
        while !ends.is_empty() && Instant::now() < until {
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(100)) else { continue };
            let place = (message.topic().to_owned(), message.partition());
            let Some(part) = ends.get(&place) else { continue };
            if let Some(stamp) =
                message.payload().and_then(|payload| stamp_of(payload, part.topic, index, registry))
            {
                let newest = stamps.entry(part.topic).or_insert(stamp);
                *newest = newest.max(stamp);
            }
            if message.offset() + 1 >= part.high {
                ends.remove(&place);
            }
        }
        Ok(())
    }
}

/// A partition of a topic of ours, and where its messages begin and end.
struct Part {
    topic: Topic,
    partition: i32,
    low: i64,
    high: i64,
}

fn stamp_of(payload: &[u8], topic: Topic, index: SalIndex, registry: &Registry) -> Option<f64> {
    let (id, datum) = unframe(payload).ok()?;
    let record = Record::read(&*registry.schema(topic, id).ok()?, datum).ok()?;
    if record.int("salIndex").ok()? != index.number() {
        return None;
    }
    record.double("private_sndStamp").ok().filter(|stamp| (0.0..STAMP_MAX).contains(stamp))
}
