//! The thread that checks now and then whether our topics and the registry are as they were, and at once when a reader
//! meets what it cannot read. Partitions may be added, topics deleted and made again, and librdkafka's consumer asks
//! for ever for a message that it cannot take.
//!
//! It has a consumer of its own to ask and to try with: the reader's goes on with the other topics meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Reader, is_of_message, is_of_partition};
use super::outbox::HEARTBEAT;
use super::schemas::Check;
use super::topics::{self, Offsets, Place, Ranges, Survey};
use super::trouble::Kind;
use super::watch::Readers;
use super::wire::Topic;
use super::{Shared, lock, spawn};
use crate::broker::{self, ANSWER, reason};
use crate::clock;

/// How often it checks.
const EACH: Duration = Duration::from_secs(10);
/// How often it checks while something is wrong.
const SOON: Duration = Duration::from_secs(1);
/// How long a message is waited for that is there: what is wrong with one is mostly reported at once.
const TRY: Duration = Duration::from_secs(2);
/// How long the refusal of a topic is waited for: it comes at once, but may wait behind another fetch.
const TRY_REFUSED: Duration = Duration::from_secs(1);
/// How long the reader has to stand still before a message until that is taken for one that no consumer can read although
/// no error says so.
const STANDS: Duration = Duration::from_secs(30);
/// How many offsets are tried one by one for the first that can be read.
const SINGLE_STEPS: u32 = 100;
/// How far the clocks of those who command us may be apart, where only the time of a message says whether it is new.
/// One that is taken twice within an hour is known.
const CLOCKS_S: f64 = 60.0;

/// What the checks know.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    readers: Readers,
    /// What the broker had at the last check.
    ranges: Ranges,
    /// All that is read.
    reading: BTreeMap<Place, Reading>,
    /// Topics that were away at the last check.
    gone: BTreeSet<Topic>,
    /// Topics that may not be read, or whose permission is to be tried.
    refused: BTreeSet<Topic>,
}

/// How a partition is read.
struct Reading {
    /// The offset from which on.
    from: i64,
    /// When the reader was last seen to have read all that there was: Unix time, by the clock of the messages.
    read_all: f64,
    /// Where the reader stands before something that is there, and since when.
    standing: Option<(i64, Instant)>,
}

impl Reading {
    fn new(from: i64) -> Self {
        Self { from, read_all: clock::unix_now(), standing: None }
    }
}

/// The result of reading at an offset.
enum Found {
    Message,
    /// No consumer can read what is there.
    Unreadable(KafkaError),
    /// Nothing comes, and no error.
    Nothing,
    /// The partition cannot be read now.
    Refused(KafkaError),
}

impl Upkeep {
    /// Begins, on a thread of its own, now that all is read from these places on.
    pub(super) fn start(shared: &Arc<Shared>, readers: Readers, begun: Offsets) {
        let reading = begun.into_iter().map(|(place, from)| (place, Reading::new(from))).collect();
        let (ranges, gone, refused) = (Ranges::new(), BTreeSet::new(), BTreeSet::new());
        let mut upkeep = Self { shared: shared.clone(), readers, ranges, reading, gone, refused };
        spawn("kafka-upkeep", "changes of topics and schemas are not seen", move || upkeep.run());
    }

    fn run(&mut self) {
        let mut schemas = Check::default();
        let mut is_early = false;
        while !self.shared.is_closing() {
            self.shared.check_schemas(&mut schemas);
            let known = lock(&self.shared.ends).clone();
            let checked = topics::survey(&self.shared, &self.readers.asker)
                .and_then(|survey| self.check_topics(&known, survey).map_err(|error| reason(&error)));
            if let Err(reason) = &checked {
                // That the broker is away is logged elsewhere.
                log::debug!("Kafka: the state of our topics is not known: {reason}");
            }
            if is_early {
                // However many errors come, it checks once a second.
                self.shared.sleep(SOON);
            }
            let is_well = checked.is_ok() && self.gone.is_empty() && self.refused.is_empty();
            let is_calm = is_well && !is_early && self.reading.values().all(|one| one.standing.is_none());
            is_early = self.readers.upkeep_woken.recv_timeout(if is_calm { EACH } else { SOON }).is_ok();
        }
    }

    /// The consumer that reads this topic.
    fn reader(&self, topic: Topic) -> &Reader {
        if topics::is_command(topic) { &self.readers.commands } else { &self.readers.watched }
    }

    fn check_topics(&mut self, known: &Offsets, survey: Survey) -> KafkaResult<()> {
        let missing = survey.missing();
        self.ranges = survey.ranges;
        for topic in Topic::all() {
            self.compare(topic, known)?;
        }
        self.create(&missing);
        if self.shared.is_refused.swap(false, Ordering::AcqRel) {
            self.refused = self.reading.keys().map(|(topic, _)| *topic).collect();
        }
        for place in self.reading.keys().copied().collect::<Vec<_>>() {
            if !self.shared.is_closing() {
                self.check_reader(place)?;
            }
        }
        self.readers.asker.unassign()
    }

    /// Creates topics again.
    fn create(&mut self, missing: &[Topic]) {
        let new = missing.iter().filter(|topic| self.gone.insert(**topic));
        let new: Vec<String> = new.map(|topic| self.shared.name(*topic)).collect();
        if !new.is_empty() {
            log::warn!("Kafka: deleted topics are created again: {}", new.join(", "));
        }
        if missing.is_empty() {
            return;
        }
        match topics::create(&self.shared, missing, &broker::admin_options()) {
            Ok(()) => self.shared.troubles.over(Kind::Deleted, ""),
            Err(reason) => self.shared.troubles.report(Kind::Deleted, "", &reason),
        }
    }

    /// Sees what became of a topic that is there, as far as it can be used now.
    fn compare(&mut self, topic: Topic, known: &Offsets) -> KafkaResult<()> {
        let ends = topics::ends(&self.ranges, |of| of == topic);
        if ends.is_empty() {
            return Ok(());
        }
        let is_deleted = self.gone.remove(&topic);
        if topics::is_command(topic) || topics::is_watched(topic) {
            if is_deleted {
                self.forget(topic)?;
            }
            self.read_new(topic, ends.keys())?;
        }
        // One that is made again between two checks is seen by its end.
        let is_shorter = |(place, end): (&Place, &i64)| known.get(place).is_some_and(|known| end < known);
        if is_deleted || ends.iter().any(is_shorter) {
            log::info!("Kafka: topic {} was made again", self.shared.name(topic));
            lock(&self.shared.ends).retain(|(of, _), _| *of != topic);
            self.shared.outbox.change(|queue| queue.repeat(topic));
        }
        ends.into_iter().for_each(|(place, end)| self.shared.reaches(place, end));
        Ok(())
    }

    /// Reads what is left of a deleted topic no more.
    fn forget(&mut self, topic: Topic) -> KafkaResult<()> {
        let old =
            self.reading.iter().filter(|((of, _), _)| *of == topic).map(|(place, one)| (*place, one.from));
        let old = topics::list(&self.shared, &old.collect())?;
        self.reading.retain(|(of, _), _| *of != topic);
        self.reader(topic).incremental_unassign(&old)
    }

    /// Reads partitions that were not there before, from their beginning: all in them is newer than we.
    fn read_new<'a>(&mut self, topic: Topic, places: impl Iterator<Item = &'a Place>) -> KafkaResult<()> {
        let new = places.filter(|place| !self.reading.contains_key(place)).map(|place| (*place, 0));
        let new: Offsets = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        let (name, list) = (self.shared.name(topic), topics::list(&self.shared, &new)?);
        self.reader(topic).incremental_assign(&list)?;
        // So that its consumer knows them at once.
        self.reader(topic).fetch_metadata(Some(&name), ANSWER)?;
        let numbers: Vec<String> = new.keys().map(|(_, partition)| partition.to_string()).collect();
        log::info!("Kafka: topic {name} has new partitions, which are read: {}", numbers.join(", "));
        self.reading.extend(new.into_iter().map(|(place, from)| (place, Reading::new(from))));
        Ok(())
    }

    fn report_refused(&self, topic: Topic, error: &KafkaError) {
        let name = self.shared.name(topic);
        let text = format!("topic {name} cannot be read: {}", reason(error));
        self.shared.troubles.report(Kind::Reading, &name, &text);
    }

    /// Where the reader of a partition is.
    fn position(&self, place: Place) -> KafkaResult<i64> {
        let from = self.reading.get(&place).map_or(0, |one| one.from);
        // If there is none, it has read nothing yet.
        let position = self.offset_in(&self.reader(place.0).position()?, place);
        Ok(position.map_or(from, |offset| offset.max(from)))
    }

    /// The offset of a partition in a list, if it has one.
    fn offset_in(&self, list: &TopicPartitionList, (topic, partition): Place) -> Option<i64> {
        let found = list.find_partition(&self.shared.name(topic), partition)?;
        if let Offset::Offset(offset) = found.offset() { Some(offset) } else { None }
    }

    /// Finds out whether a partition may be read, if that is in doubt, and leads its reader over what it cannot read.
    fn check_reader(&mut self, place: Place) -> KafkaResult<()> {
        let Some(&(first, end)) = self.ranges.get(&place) else { return Ok(()) };
        let name = self.shared.name(place.0);
        if self.refused.contains(&place.0) {
            if let Found::Refused(error) = self.read_at(place, end, TRY_REFUSED)? {
                self.report_refused(place.0, &error);
                return Ok(());
            }
            self.refused.remove(&place.0);
            self.shared.troubles.over(Kind::Reading, &name);
        }
        let position = self.position(place)?;
        let Some(one) = self.reading.get_mut(&place) else { return Ok(()) };
        if position == end {
            *one = Reading::new(one.from);
            self.shared.troubles.over(Kind::Reading, &name);
            return Ok(());
        }
        match one.standing {
            Some((before, since)) if before == position && (first..end).contains(&position) => {
                self.try_at(place, position, end, since.elapsed())
            }
            Some((before, _)) if before == position => self.lead_back(place, position, (first, end)),
            // It may be on its way.
            Some(_) | None => {
                one.standing = Some((position, Instant::now()));
                Ok(())
            }
        }
    }

    /// Lets the reader go on at this offset.
    fn go_on_at(&mut self, place: Place, offset: i64) -> KafkaResult<()> {
        let list = topics::list(&self.shared, &BTreeMap::from([(place, offset)]))?;
        // It cannot seek where librdkafka has given up.
        let reader = self.reader(place.0);
        reader.incremental_unassign(&list)?;
        reader.incremental_assign(&list)?;
        if let Some(one) = self.reading.get_mut(&place) {
            (one.from, one.standing) = (offset, None);
        }
        Ok(())
    }

    /// The broker has lost or removed messages, and the reader stands where there is nothing.
    fn lead_back(&mut self, place: Place, position: i64, (first, end): (i64, i64)) -> KafkaResult<()> {
        let offset = match place.0 {
            _ if position < first => first,
            Topic::Event(_) | Topic::Ack => end,
            // What is left may be old commands, carried out long ago.
            Topic::Command(_) => self.first_new(place, end)?,
        };
        self.go_on_at(place, offset)?;
        log::warn!(
            "Kafka: topic {}, partition {}: the broker has lost messages; reading from offset {offset} instead of \
             {position}",
            self.shared.name(place.0),
            place.1
        );
        Ok(())
    }

    /// The first message that is newer than what was read last.
    fn first_new(&self, place: Place, end: i64) -> KafkaResult<i64> {
        let since_s = self.reading.get(&place).map_or_else(clock::unix_now, |one| one.read_all) - CLOCKS_S;
        let since_ms = (since_s * 1000.0) as i64;
        let times = topics::list(&self.shared, &BTreeMap::from([(place, since_ms)]))?;
        let found = self.readers.asker.offsets_for_times(times, ANSWER)?;
        Ok(self.offset_in(&found, place).unwrap_or(end))
    }

    /// Finds out why the reader stands here, for so long.
    fn try_at(&mut self, place: Place, position: i64, end: i64, stands: Duration) -> KafkaResult<()> {
        let why = match self.read_at(place, position, TRY)? {
            Found::Message => {
                self.shared.troubles.over(Kind::Reading, &self.shared.name(place.0));
                return Ok(());
            }
            Found::Refused(error) => {
                self.report_refused(place.0, &error);
                return Ok(());
            }
            Found::Nothing if stands < STANDS || !self.hears_heartbeats()? => return Ok(()),
            Found::Nothing => "it is no message".to_owned(),
            Found::Unreadable(error) => why_unreadable(&error),
        };
        let Some(readable) = self.next_readable(place, position, end)? else { return Ok(()) };
        if self.position(place)? == position {
            self.go_on_at(place, readable)?;
            self.report_skipped(place, position, readable, &why);
        }
        Ok(())
    }

    /// The first offset after this one at which a message can be read, or the end; none if that is not known now.
    ///
    /// One after the other for a while; then in growing steps and, beyond it, back by halves: exact for one batch,
    /// however many messages it has.
    fn next_readable(&self, place: Place, position: i64, end: i64) -> KafkaResult<Option<i64>> {
        // Unreadable, and readable or the end.
        let (mut low, mut high) = (position, end);
        let (mut step, mut steps) = (1_i64, 0);
        while high - low > 1 {
            if self.shared.is_closing() {
                return Ok(None);
            }
            // No step is left once a readable one is found.
            let offset =
                if step > 0 { low.saturating_add(step).min(high - 1) } else { low + (high - low) / 2 };
            match self.read_at(place, offset, TRY)? {
                Found::Message => (high, step) = (offset, 0),
                Found::Refused(_) => return Ok(None),
                Found::Unreadable(_) | Found::Nothing => low = offset,
            }
            steps += 1;
            if steps > SINGLE_STEPS {
                step = step.saturating_mul(2);
            }
        }
        Ok(Some(high))
    }

    /// Whether a message comes where there surely is one: else it means nothing that none comes elsewhere.
    fn hears_heartbeats(&self) -> KafkaResult<bool> {
        let is_one = |((topic, _), (first, end)): &(&Place, &(i64, i64))| *topic == HEARTBEAT && first < end;
        let Some((place, (_, end))) = self.ranges.iter().find(is_one) else { return Ok(false) };
        Ok(matches!(self.read_at(*place, end - 1, TRY)?, Found::Message))
    }

    /// Tries to read what is at this offset.
    fn read_at(&self, place: Place, offset: i64, wait: Duration) -> KafkaResult<Found> {
        topics::assign(&self.shared, &self.readers.asker, &BTreeMap::from([(place, offset)]))?;
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.readers.asker.poll(left) {
                Some(Ok(message)) if message.offset() >= offset => return Ok(Found::Message),
                Some(Err(error)) if is_of_message(&error) => return Ok(Found::Unreadable(error)),
                Some(Err(error)) if is_of_partition(&error) => return Ok(Found::Refused(error)),
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) => {}
                None if left.is_zero() => return Ok(Found::Nothing),
                None => {}
            }
        }
    }

    /// Counts what was skipped, names it in the status, and logs it, rarely.
    fn report_skipped(&self, (topic, partition): Place, from: i64, to: i64, why: &str) {
        let count = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        let (total, is_logged) = self.shared.skip(topic, count);
        let name = self.shared.name(topic);
        let last = to.saturating_sub(1);
        let text = format!(
            "topic {name}: messages that cannot be read were skipped, {total} so far, the last at offset {last} of \
             partition {partition}: {why}"
        );
        if is_logged {
            log::warn!("Kafka: {text}");
        }
        self.shared.troubles.keep(Kind::Skipped, &name, &text);
    }
}

/// Why a message cannot be read, in plain words where librdkafka's are none.
fn why_unreadable(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::NotImplemented) => "its compression or format is not known".to_owned(),
        Some(RDKafkaErrorCode::BadCompression) => "its compressed data is damaged".to_owned(),
        Some(_) | None => reason(error),
    }
}
