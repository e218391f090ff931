//! The thread that looks now and then whether our topics are as they were, and at once when the reader meets what
//! it cannot read. Partitions may be added, topics deleted and made again, and librdkafka's consumer asks for ever
//! for a message that it cannot take.
//!
//! It has a consumer of its own to ask and to try with: the reader's goes on with the other topics meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Shared;
use super::client::{self, Context};
use super::outbox::{HEARTBEAT, Outbox};
use super::permission::is_refusal;
use super::setup::{self, code, partition_list};
use super::trouble::Kind;
use super::wire::Topic;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;

/// How often it looks.
const EACH: Duration = Duration::from_secs(10);
/// How often it looks while something is wrong.
const SOON: Duration = Duration::from_secs(1);
/// Longest wait for one answer of the broker.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a message is waited for that is there: what is wrong with one is mostly said at once.
const TRY: Duration = Duration::from_secs(2);
/// How long the reader has to stand still before a message until that is taken for one that nobody can read although
/// no error says so.
const STANDS: Duration = Duration::from_secs(30);
/// How many offsets are tried one by one for the first that can be read.
const SINGLE_STEPS: u32 = 100;
/// How far the clocks of those who command us may be apart, where only the time of a message says whether it is new.
/// One that is taken twice within an hour is known.
const CLOCKS: Duration = Duration::from_secs(60);
/// Skipped messages of a topic are logged once, and then one in so many.
const COMPLAIN_EACH: u64 = 10;

/// One partition of a topic.
pub(super) type Place = (Topic, i32);

/// Whether this error is about a partition, and not about the connection.
pub(super) fn is_of_partition(error: &KafkaError) -> bool {
    is_of_message(error)
        || match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::IllegalSASLState,
            )
            | None => false,
            Some(
                RDKafkaErrorCode::Unknown
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::LogTruncation,
            ) => true,
            // What the broker says has a positive number.
            Some(code) => code as i32 > 0,
        }
}

/// Whether it is about what was written there: it will never be readable.
fn is_of_message(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotImplemented
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidRecord
        )
    )
}

/// What is needed to look.
pub(super) struct Upkeep {
    pub(super) options: Options,
    pub(super) index: SalIndex,
    pub(super) context: Context,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Arc<Outbox>,
    /// The reader's of the commands.
    pub(super) commands: Arc<BaseConsumer<Context>>,
    /// The reader's of what other instances say.
    pub(super) watched: Arc<BaseConsumer<Context>>,
    /// A reader met an error of a partition; it ends with the readers.
    pub(super) woken: Receiver<()>,
    /// All that is read, and the offset from which on.
    pub(super) begun: BTreeMap<Place, i64>,
    /// Topics that were away when it looked last.
    pub(super) gone: BTreeSet<Topic>,
    /// Where the partitions began and ended when it looked last.
    pub(super) ranges: BTreeMap<Place, (i64, i64)>,
    /// What we had written when it looked last.
    pub(super) written: BTreeMap<(String, i32), i64>,
    /// When the reader was last seen to have read all that there was, by the clock of the messages.
    pub(super) read_all: BTreeMap<Place, SystemTime>,
    /// Where the reader stands before something that is there, and since when.
    pub(super) standing: BTreeMap<Place, (i64, Instant)>,
    /// Messages that were skipped, by topic.
    pub(super) skipped: BTreeMap<Topic, u64>,
}

/// What comes of reading at an offset.
enum Found {
    Message,
    /// Nobody can read what is there.
    Unreadable(KafkaError),
    /// Nothing comes, and no error.
    Nothing,
    /// The partition cannot be read now.
    Refused(KafkaError),
}

impl Upkeep {
    /// Begins, on a thread of its own, now that the commands are read too, from these places on.
    pub(super) fn start(mut self, commands: BTreeMap<Place, i64>) {
        self.begun.extend(commands);
        let now = SystemTime::now();
        self.read_all.extend(self.begun.keys().map(|place| (*place, now)));
        let thread = thread::Builder::new().name("kafka-upkeep".to_owned()).spawn(|| self.run());
        if let Err(error) = thread {
            log::error!("Kafka: cannot start a thread, so changes of topics are not seen: {error}");
        }
    }

    fn run(mut self) {
        let asker = match client::consumer(&self.options, self.index, self.context.clone()) {
            Ok(asker) => asker,
            Err(reason) => {
                log::error!("Kafka: changes of topics are not seen: {reason}");
                return;
            }
        };
        let mut next = Instant::now();
        loop {
            let is_early = match self.woken.recv_deadline(next) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let looked = self.look(&asker);
            if let Err(reason) = &looked {
                // That the broker is away is said elsewhere.
                log::debug!("Kafka: the state of our topics is not known: {reason}");
            }
            let calm = looked.is_ok() && self.gone.is_empty() && self.standing.is_empty() && !is_early;
            next = Instant::now() + if calm { EACH } else { SOON };
            if is_early {
                // However many errors come, it looks once a second.
                thread::sleep(SOON);
            }
        }
    }

    /// The consumer that reads this topic.
    fn reading(&self, topic: Topic) -> &BaseConsumer<Context> {
        match topic {
            Topic::Command(_) => &self.commands,
            Topic::Event(_) | Topic::Ack => &self.watched,
        }
    }

    fn name(&self, topic: Topic) -> String {
        topic.kafka_name(&self.options.topic_subname)
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }

    fn look(&mut self, asker: &BaseConsumer<Context>) -> Result<(), String> {
        let mut gone = Vec::new();
        for topic in Topic::all() {
            if self.is_closing() {
                return Ok(());
            }
            let name = self.name(topic);
            let metadata = asker.fetch_metadata(Some(&name), ANSWER).map_err(|error| code(&error))?;
            match partitions(&metadata) {
                Ok(partitions) => self.compare(asker, topic, &partitions)?,
                Err(Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                    gone.push((topic, name));
                }
                // It changes its leader, or we may not see it.
                Err(_) => {}
            }
        }
        self.written = self.context.written.all();
        self.create(&gone);
        self.step_over(asker)
    }

    /// Makes topics again.
    fn create(&mut self, gone: &[(Topic, String)]) {
        let new: Vec<&str> = gone
            .iter()
            .filter(|(topic, _)| self.gone.insert(*topic))
            .map(|(_, name)| name.as_str())
            .collect();
        if !new.is_empty() {
            log::warn!("Kafka: deleted topics are created again: {}", new.join(", "));
        }
        if gone.is_empty() {
            return;
        }
        match setup::create(&self.options, self.index, gone, &self.context) {
            Ok(()) => {
                self.shared.troubles.over(&[Kind::Deleted], "");
            }
            Err(reason) => self.shared.troubles.say(Kind::Deleted, "", &reason),
        }
    }

    /// Sees what became of a topic that is there.
    fn compare(
        &mut self,
        asker: &BaseConsumer<Context>,
        topic: Topic,
        partitions: &[i32],
    ) -> Result<(), String> {
        let name = self.name(topic);
        let mut is_again = self.gone.contains(&topic);
        for partition in partitions {
            let range = match asker.fetch_watermarks(&name, *partition, ANSWER) {
                Ok(range) => range,
                // It is too new, or not ours to read.
                Err(error) if is_of_partition(&error) => return Ok(()),
                Err(error) => return Err(code(&error)),
            };
            // One that is made again between two looks is seen by its end.
            let before = self.ranges.insert((topic, *partition), range).map(|(_, end)| end);
            let written = self.written.get(&(name.clone(), *partition)).map(|last| last.saturating_add(1));
            is_again |= before.max(written).is_some_and(|before| range.1 < before);
        }
        let is_deleted = self.gone.remove(&topic);
        if setup::topics_read().any(|read| read == topic) {
            if is_deleted {
                self.forget(topic)?;
            }
            self.read_new(topic, partitions)?;
        }
        if is_again {
            log::info!("Kafka: topic {name} was made again");
            self.context.written.forget(&name);
            self.written.retain(|(of, _), _| *of != name);
            self.outbox.say_again(topic);
        }
        Ok(())
    }

    /// Reads what is left of a deleted topic no more.
    fn forget(&mut self, topic: Topic) -> Result<(), String> {
        let old: BTreeMap<Place, i64> = self
            .begun
            .iter()
            .filter(|((of, _), _)| *of == topic)
            .map(|(place, from)| (*place, *from))
            .collect();
        let list = partition_list(&old, &self.options.topic_subname)?;
        self.reading(topic).incremental_unassign(&list).map_err(|error| code(&error))?;
        self.read_all.retain(|(of, _), _| *of != topic);
        self.begun.retain(|(of, _), _| *of != topic);
        self.standing.retain(|(of, _), _| *of != topic);
        Ok(())
    }

    /// Reads partitions that were not there before, from their beginning: all in them is newer than we.
    fn read_new(&mut self, topic: Topic, partitions: &[i32]) -> Result<(), String> {
        let new: BTreeMap<Place, i64> = partitions
            .iter()
            .map(|partition| ((topic, *partition), 0))
            .filter(|(place, _)| !self.begun.contains_key(place))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let list = partition_list(&new, &self.options.topic_subname)?;
        self.reading(topic).incremental_assign(&list).map_err(|error| code(&error))?;
        // So that its consumer hears of them at once.
        self.reading(topic).fetch_metadata(Some(&self.name(topic)), ANSWER).map_err(|error| code(&error))?;
        let numbers: Vec<String> = new.keys().map(|(_, partition)| partition.to_string()).collect();
        log::info!(
            "Kafka: topic {} has new partitions, which are read: {}",
            self.name(topic),
            numbers.join(", ")
        );
        self.begun.extend(new);
        Ok(())
    }

    /// Where the reader is in each partition.
    fn positions(&self) -> Result<BTreeMap<Place, i64>, String> {
        let at = |consumer: &BaseConsumer<Context>| consumer.position().map_err(|error| code(&error));
        let (commands, watched) = (at(&self.commands)?, at(&self.watched)?);
        let position = |topic: Topic, partition: i32| {
            let list = match topic {
                Topic::Command(_) => &commands,
                Topic::Event(_) | Topic::Ack => &watched,
            };
            match list.find_partition(&self.name(topic), partition).map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => offset,
                // It has read nothing yet.
                Some(_) | None => 0,
            }
        };
        Ok(self
            .begun
            .iter()
            .map(|((topic, partition), from)| ((*topic, *partition), position(*topic, *partition).max(*from)))
            .collect())
    }

    /// Leads the reader over what it cannot read.
    fn step_over(&mut self, asker: &BaseConsumer<Context>) -> Result<(), String> {
        for (place, position) in self.positions()? {
            let Some((first, end)) = self.ranges.get(&place).copied() else { continue };
            if position == end {
                self.read_all.insert(place, SystemTime::now());
                self.standing.remove(&place);
                self.shared.troubles.over(&[Kind::Partition], &self.name(place.0));
                continue;
            }
            match self.standing.get(&place) {
                Some((before, _)) if *before == position && !(first..end).contains(&position) => {
                    self.lead_back(asker, place, position, (first, end))?;
                }
                Some((before, since)) if *before == position => {
                    let stands = since.elapsed();
                    self.try_at(asker, place, position, end, stands)?;
                    asker.unassign().map_err(|error| code(&error))?;
                }
                // It may be on its way.
                Some(_) | None => {
                    self.standing.insert(place, (position, Instant::now()));
                }
            }
        }
        Ok(())
    }

    /// Lets the reader go on at this offset.
    fn go_on_at(&mut self, place: Place, offset: i64) -> Result<(), String> {
        let list = partition_list(&BTreeMap::from([(place, offset)]), &self.options.topic_subname)?;
        // It cannot seek where librdkafka has given up.
        let reading = self.reading(place.0);
        reading.incremental_unassign(&list).map_err(|error| code(&error))?;
        reading.incremental_assign(&list).map_err(|error| code(&error))?;
        self.begun.insert(place, offset);
        self.standing.remove(&place);
        Ok(())
    }

    /// The broker has lost or removed messages, and the reader stands where there is nothing.
    fn lead_back(
        &mut self,
        asker: &BaseConsumer<Context>,
        place: Place,
        position: i64,
        (first, end): (i64, i64),
    ) -> Result<(), String> {
        let offset = match place.0 {
            _ if position < first => first,
            Topic::Event(_) | Topic::Ack => end,
            // What is left may be old commands, carried out long ago.
            Topic::Command(_) => self.first_new(asker, place, end)?,
        };
        self.go_on_at(place, offset)?;
        log::warn!(
            "Kafka: topic {}, partition {}: the broker has lost messages; reading from offset {offset} instead of \
             {position}",
            self.name(place.0),
            place.1
        );
        Ok(())
    }

    /// The first message that is newer than what was read last.
    fn first_new(&self, asker: &BaseConsumer<Context>, place: Place, end: i64) -> Result<i64, String> {
        let Some(since) = self.read_all.get(&place).and_then(|time| time.checked_sub(CLOCKS)) else {
            return Ok(end);
        };
        let since = since.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        let since = i64::try_from(since.as_millis()).map_err(|error| error.to_string())?;
        let name = self.name(place.0);
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(&name, place.1, Offset::Offset(since)).map_err(|error| code(&error))?;
        let found = asker.offsets_for_times(times, ANSWER).map_err(|error| code(&error))?;
        Ok(match found.find_partition(&name, place.1).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset,
            Some(_) | None => end,
        })
    }

    /// Finds out why the reader stands here.
    fn try_at(
        &mut self,
        asker: &BaseConsumer<Context>,
        place: Place,
        position: i64,
        end: i64,
        stands: Duration,
    ) -> Result<(), String> {
        let name = self.name(place.0);
        let reason = match self.read_at(asker, place, position)? {
            Found::Message => {
                self.shared.troubles.over(&[Kind::Partition], &name);
                return Ok(());
            }
            Found::Refused(error) => {
                if !is_refusal(&error) {
                    let text = format!("topic {name} cannot be read: {}", code(&error));
                    self.shared.troubles.say(Kind::Partition, &name, &text);
                }
                return Ok(());
            }
            Found::Nothing if stands < STANDS || !self.hears_heartbeats(asker)? => return Ok(()),
            Found::Nothing => "it is no message".to_owned(),
            Found::Unreadable(error) => why(&error),
        };
        let Some(readable) = self.next_readable(asker, place, position, end)? else { return Ok(()) };
        if self.positions()?.get(&place) != Some(&position) {
            return Ok(());
        }
        self.go_on_at(place, readable)?;
        self.tell(place, position, readable, &reason);
        Ok(())
    }

    /// The first offset after this one at which a message can be read, or the end; none if that cannot be said now.
    ///
    /// One after the other for a while; then in growing steps and, beyond it, back by halves: exact for one batch,
    /// however many messages it has.
    fn next_readable(
        &self,
        asker: &BaseConsumer<Context>,
        place: Place,
        position: i64,
        end: i64,
    ) -> Result<Option<i64>, String> {
        // Unreadable, and readable or the end.
        let (mut low, mut high) = (position, None);
        let (mut step, mut steps) = (1, 0);
        loop {
            let offset = match high {
                Some(high) if high - low <= 1 => return Ok(Some(high)),
                Some(high) => low + (high - low) / 2,
                None => low.saturating_add(step).min(end),
            };
            if self.is_closing() {
                return Ok(None);
            }
            if offset >= end {
                high = Some(end);
                continue;
            }
            match self.read_at(asker, place, offset)? {
                Found::Message => high = Some(offset),
                Found::Refused(_) => return Ok(None),
                Found::Unreadable(_) | Found::Nothing => low = offset,
            }
            steps += 1;
            if steps > SINGLE_STEPS {
                step = step.saturating_mul(2);
            }
        }
    }

    /// Whether a message that can be read comes: else that nothing comes says nothing.
    fn hears_heartbeats(&self, asker: &BaseConsumer<Context>) -> Result<bool, String> {
        let heartbeat = |(topic, _): &Place| *topic == HEARTBEAT;
        let found = self.ranges.iter().find(|(place, (first, end))| heartbeat(place) && first < end);
        let Some((place, (_, end))) = found else { return Ok(false) };
        Ok(matches!(self.read_at(asker, *place, *end - 1)?, Found::Message))
    }

    /// Tries to read what is at this offset.
    fn read_at(&self, asker: &BaseConsumer<Context>, place: Place, offset: i64) -> Result<Found, String> {
        let list = partition_list(&BTreeMap::from([(place, offset)]), &self.options.topic_subname)?;
        asker.assign(&list).map_err(|error| code(&error))?;
        let until = Instant::now() + TRY;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match asker.poll(left) {
                Some(Ok(message)) if message.offset() >= offset => return Ok(Found::Message),
                Some(Err(error)) if is_of_message(&error) => return Ok(Found::Unreadable(error)),
                Some(Err(error)) if is_of_partition(&error) => return Ok(Found::Refused(error)),
                Some(Err(error)) => return Err(code(&error)),
                Some(Ok(_)) => {}
                None if left.is_zero() => return Ok(Found::Nothing),
                None => {}
            }
        }
    }

    /// Counts what was skipped, names it in the status, and says it, rarely.
    fn tell(&mut self, (topic, partition): Place, from: i64, to: i64, reason: &str) {
        let count = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        self.shared.undecodable.fetch_add(count, Ordering::Relaxed);
        let name = self.name(topic);
        let total = self.skipped.entry(topic).or_insert(0);
        let said = *total / COMPLAIN_EACH;
        let is_first = *total == 0;
        *total = total.saturating_add(count);
        let last = to.saturating_sub(1);
        let text = format!(
            "topic {name}: messages that cannot be read were skipped, {total} so far, the last at offset {last} of \
             partition {partition}: {reason}"
        );
        if is_first || *total / COMPLAIN_EACH > said {
            log::warn!("Kafka: {text}");
        }
        self.shared.troubles.keep(Kind::Skipped, &name, &text);
    }
}

/// Why a message cannot be read, in plain words where librdkafka's are none.
fn why(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::NotImplemented) => "its compression or format is not known".to_owned(),
        Some(RDKafkaErrorCode::BadCompression) => "its compressed data is damaged".to_owned(),
        Some(_) | None => code(error),
    }
}

/// The numbers of the partitions of the one topic that was asked for; else why there is none.
fn partitions(metadata: &Metadata) -> Result<Vec<i32>, Option<RDKafkaErrorCode>> {
    let topic = metadata.topics().first().ok_or(None)?;
    if let Some(error) = topic.error() {
        return Err(Some(RDKafkaErrorCode::from(error)));
    }
    let all: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    let is_led = topic.partitions().iter().all(|partition| partition.leader() >= 0);
    if is_led && !all.is_empty() { Ok(all) } else { Err(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_partition_is_not_the_connection() {
        let error = KafkaError::MessageConsumption;
        for of_message in [RDKafkaErrorCode::NotImplemented, RDKafkaErrorCode::BadCompression] {
            assert!(is_of_partition(&error(of_message)) && is_of_message(&error(of_message)));
        }
        for of_partition in [
            RDKafkaErrorCode::Unknown,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnsupportedCompressionType,
            RDKafkaErrorCode::AutoOffsetReset,
        ] {
            assert!(is_of_partition(&error(of_partition)) && !is_of_message(&error(of_partition)));
        }
        for other in [
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::Resolve,
            RDKafkaErrorCode::Authentication,
            RDKafkaErrorCode::SaslAuthenticationFailed,
        ] {
            assert!(!is_of_partition(&error(other)));
        }
    }
}
