//! Questions to the broker about our topics, when joining and in the upkeep: which exist, where their partitions begin and
//! end, and the last stamps in them.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Shared;
use super::client::{self, Context, Reader, is_of_partition, is_refusal};
use super::reader::decode;
use super::trouble::Kind;
use super::wire::Topic;
use crate::broker::{self, ANSWER, Role, admin_options, is_missing, reason};
use crate::sal::topic::EventName;

/// How long new topics may take until they have a leader.
const CREATION: Duration = Duration::from_secs(10);
/// Time between two looks for new topics.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a broker may take to report that a topic may not be read.
const REFUSAL: Duration = Duration::from_secs(1);
/// How long the last messages of our topics are read at most.
const LAST_STAMPS: Duration = Duration::from_secs(4);
/// How many of the last messages of a topic are read. Other instances write to it too: three of them write 90 heartbeats in
/// half a minute. Where none of 100 is ours, 10,000 are read, which three instances write in an hour.
const LAST_MESSAGES: [i64; 2] = [100, 10_000];
/// Later stamps, after the year 2286, are ignored.
const STAMP_MAX: f64 = 1e10;

/// One partition of a topic.
pub(super) type Place = (Topic, i32);

/// The first offsets of partitions, and those behind their last messages.
pub(super) type Ranges = BTreeMap<Place, (i64, i64)>;

/// Offsets of partitions.
pub(super) type Offsets = BTreeMap<Place, i64>;

/// The last stamps of our index in our topics.
pub(super) type Stamps = BTreeMap<Topic, f64>;

/// The present state of our topics.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) ranges: Ranges,
    /// Topics that cannot be used now, and why.
    pub(super) unready: Vec<(Topic, KafkaError)>,
}

impl Survey {
    /// Topics that do not exist.
    pub(super) fn missing(&self) -> Vec<Topic> {
        self.unready.iter().filter(|(_, error)| is_missing(error)).map(|(topic, _)| *topic).collect()
    }
}

/// Whether this is a topic of commands.
pub(super) fn is_command(topic: Topic) -> bool {
    matches!(topic, Topic::Command(_))
}

/// Whether this is the topic of heartbeats or of summary states, which show other instances.
pub(super) fn is_watched(topic: Topic) -> bool {
    matches!(topic, Topic::Event(EventName::Heartbeat | EventName::SummaryState))
}

/// Asks for each of our topics by its name: only then the broker says why a topic cannot be used.
///
/// # Errors
/// The broker does not answer.
pub(super) fn survey(shared: &Shared, asker: &Reader) -> Result<Survey, String> {
    let mut survey = Survey::default();
    for topic in Topic::all() {
        match partitions(asker, topic, &shared.name(topic)) {
            Ok(ranges) => survey.ranges.extend(ranges),
            Err(error) if is_of_partition(&error) => survey.unready.push((topic, error)),
            Err(error) => {
                let (brokers, why) = (&shared.options.brokers, reason(&error));
                return Err(format!("the broker {brokers} cannot be asked for its topics: {why}"));
            }
        }
    }
    Ok(survey)
}

/// The offsets of the partitions of a topic.
fn partitions(asker: &Reader, topic: Topic, name: &str) -> KafkaResult<Ranges> {
    let range = |(id, _)| Ok(((topic, id), asker.fetch_watermarks(name, id, ANSWER)?));
    broker::partitions(asker, name)?.into_iter().map(range).collect()
}

/// Creates our topics that are missing, and gives the offsets of all.
///
/// # Errors
/// One line: why not all of them can be used.
pub(super) fn ready(shared: &Arc<Shared>, asker: &Reader) -> Result<Ranges, String> {
    let until = Instant::now() + CREATION;
    let mut survey = survey(shared, asker)?;
    shared.troubles.over(Kind::Broker, "");
    create(shared, &survey.missing(), &admin_options())?;
    while !survey.unready.is_empty() {
        let is_late = Instant::now() > until;
        if let Some((topic, error)) = survey.unready.iter().find(|(_, error)| is_late || is_refusal(error)) {
            return Err(format!("topic {} cannot be used: {}", shared.name(*topic), reason(error)));
        }
        thread::sleep(PAUSE);
        survey = self::survey(shared, asker)?;
    }
    Ok(survey.ranges)
}

/// Creates topics; with an option that only validates, asks whether they could be created.
pub(super) fn create(shared: &Arc<Shared>, missing: &[Topic], options: &AdminOptions) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<(Topic, String)> = missing.iter().map(|topic| (*topic, shared.name(*topic))).collect();
    let new = named.iter().map(|(topic, name)| {
        let new = NewTopic::new(name, 1, TopicReplication::Fixed(shared.options.replication_factor));
        if let Topic::Event(_) = topic { new.set("cleanup.policy", "compact") } else { new }
    });
    let admin: AdminClient<Context> = client::create(shared, Role::Admin)?;
    match broker::create(&admin, &new.collect::<Vec<_>>(), options) {
        Ok(None) => Ok(()),
        Ok(Some((name, code))) => Err(format!("topic {name} cannot be created: {code}")),
        Err(error) => Err(format!("topics cannot be created: {}", reason(&error))),
    }
}

/// The ends of all partitions of the topics for which `is_such` holds.
pub(super) fn ends(ranges: &Ranges, is_such: impl Fn(Topic) -> bool) -> Offsets {
    ranges.iter().filter(|((topic, _), _)| is_such(*topic)).map(|(place, (_, end))| (*place, *end)).collect()
}

/// Lets a consumer read these partitions, and no others, from these offsets on.
pub(super) fn assign(shared: &Shared, reader: &Reader, offsets: &Offsets) -> KafkaResult<()> {
    reader.assign(&list(shared, offsets)?)
}

/// These partitions with these offsets, as librdkafka wants them.
pub(super) fn list(shared: &Shared, offsets: &Offsets) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in offsets {
        list.add_partition_offset(&shared.name(*topic), *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}

/// The offset of a partition in a list of librdkafka, if it has one.
pub(super) fn offset_in(
    shared: &Shared,
    list: &TopicPartitionList,
    (topic, partition): Place,
) -> Option<i64> {
    let found = list.find_partition(&shared.name(topic), partition)?;
    if let Offset::Offset(offset) = found.offset() { Some(offset) } else { None }
}

/// The topics that may not be read, found out by reading at their ends.
pub(super) fn unreadable(shared: &Shared, asker: &Reader, ranges: &Ranges) -> KafkaResult<Vec<Topic>> {
    let is_refused = |is_such: &dyn Fn(Topic) -> bool| -> KafkaResult<bool> {
        assign(shared, asker, &ends(ranges, is_such))?;
        let until = Instant::now() + REFUSAL;
        let mut errors = iter::from_fn(|| {
            let left = until.saturating_duration_since(Instant::now());
            (!left.is_zero()).then(|| asker.poll(left)?.err())
        });
        Ok(errors.any(|error| error.is_some_and(|error| is_refusal(&error))))
    };
    // An error does not say which topic it is about.
    let mut refused = Vec::new();
    if is_refused(&|_| true)? {
        let topics: BTreeSet<Topic> = ranges.keys().map(|(topic, _)| *topic).collect();
        for topic in topics {
            if is_refused(&|one| one == topic)? {
                refused.push(topic);
            }
        }
    }
    asker.unassign().map(|()| refused)
}

/// The newest stamp of our index in each of our topics, as far as it is found soon.
pub(super) fn last_stamps(shared: &Shared, asker: &Reader, ranges: &Ranges) -> KafkaResult<Stamps> {
    let mut stamps = Stamps::new();
    let until = Instant::now() + LAST_STAMPS;
    let mut seen = 0;
    for depth in LAST_MESSAGES {
        // A topic is read further back only if it has more messages and none of those seen is ours.
        let mut ends = ends(ranges, |topic| !is_command(topic) && !stamps.contains_key(&topic));
        let first = |place: &Place| ranges.get(place).map_or(0, |(first, _)| *first);
        ends.retain(|place, end| *end - first(place) > seen);
        let from = ends.iter().map(|(place, end)| (*place, first(place).max(end - depth)));
        assign(shared, asker, &from.collect())?;
        while !ends.is_empty() && Instant::now() < until {
            let Some(Ok(message)) = asker.poll(Duration::from_millis(100)) else { continue };
            let Some(topic) = shared.topic(message.topic()) else { continue };
            let record =
                decode(&shared.schemas.registry, topic, message.payload(), shared.index).ok().flatten();
            let stamp = record.and_then(|record| record.double("private_sndStamp").ok());
            if let Some(stamp) = stamp.filter(|stamp| (0.0..STAMP_MAX).contains(stamp)) {
                let newest = stamps.entry(topic).or_insert(stamp);
                *newest = newest.max(stamp);
            }
            let place = (topic, message.partition());
            if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
                ends.remove(&place);
            }
        }
        seen = depth;
    }
    asker.unassign().map(|()| stamps)
}
