//! The thread that checks now and then whether our topics and the registry are as they were, and at once when a reader
//! meets a message that it cannot read. Partitions may be added, topics deleted and made again, and librdkafka's consumer
//! asks for ever for a message that it cannot take.
//!
//! This thread has a consumer of its own to ask and to try with; the reader goes on with the other topics meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;

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
/// How long to wait for a message that exists: mostly an error is reported at once.
const TRY: Duration = Duration::from_secs(2);
/// How long to wait for the error that a topic may not be read: it comes at once, but may wait behind another fetch.
const TRY_REFUSED: Duration = Duration::from_secs(1);
/// A message before which the reader stands still for so long counts as unreadable although there is no error.
const STANDS: Duration = Duration::from_secs(30);
/// How many offsets after an unreadable message are tried one by one.
const SINGLE_STEPS: u32 = 100;
/// How far the clocks of the senders may be apart, in seconds, where only the time of a command says whether it is new.
/// A command that is therefore taken twice is recognised.
const CLOCKS_S: f64 = 60.0;

/// The state of the checks.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    readers: Readers,
    /// The offsets that the broker had at the last check.
    ranges: Ranges,
    /// All partitions that are read.
    reading: BTreeMap<Place, Reading>,
    /// Topics that were missing at the last check.
    gone: BTreeSet<Topic>,
    /// Topics that may not be read, or where this is to be tried.
    refused: BTreeSet<Topic>,
}

/// How a partition is read.
struct Reading {
    /// The offset at which reading began.
    from: i64,
    /// When the reader was last seen at the end of the partition: Unix time, as in the messages.
    read_all: f64,
    /// The offset of a message before which the reader stands, and since when.
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
    /// No consumer can read the message at this offset.
    Unreadable(KafkaError),
    /// Neither a message nor an error comes.
    Nothing,
    /// The partition cannot be read now.
    Refused(KafkaError),
}

impl Upkeep {
    /// Starts the thread. `begun` are the offsets at which the readers have begun.
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
                // A broker that is away is logged elsewhere.
                log::debug!("Kafka: the state of our topics is not known: {reason}");
            }
            if is_early {
                // Once a second at most, however many errors come.
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

    /// Compares a topic that can be used now with what was known of it.
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
        // A topic that is made again between two checks shows by its smaller end.
        let is_shorter = |(place, end): (&Place, &i64)| known.get(place).is_some_and(|known| end < known);
        if is_deleted || ends.iter().any(is_shorter) {
            log::info!("Kafka: topic {} was made again", self.shared.name(topic));
            lock(&self.shared.ends).retain(|(of, _), _| *of != topic);
            self.shared.outbox.change(|queue| queue.repeat(topic));
        }
        ends.into_iter().for_each(|(place, end)| self.shared.reaches(place, end));
        Ok(())
    }

    /// Stops reading the partitions of a topic that was deleted.
    fn forget(&mut self, topic: Topic) -> KafkaResult<()> {
        let old =
            self.reading.iter().filter(|((of, _), _)| *of == topic).map(|(place, one)| (*place, one.from));
        let old = topics::list(&self.shared, &old.collect())?;
        self.reading.retain(|(of, _), _| *of != topic);
        self.reader(topic).incremental_unassign(&old)
    }

    /// Begins to read new partitions, from their beginning: all their messages are newer than our start.
    fn read_new<'a>(&mut self, topic: Topic, places: impl Iterator<Item = &'a Place>) -> KafkaResult<()> {
        let new = places.filter(|place| !self.reading.contains_key(place)).map(|place| (*place, 0));
        let new: Offsets = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        let (name, list) = (self.shared.name(topic), topics::list(&self.shared, &new)?);
        self.reader(topic).incremental_assign(&list)?;
        // With this, the consumer knows the partitions at once.
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

    /// The offset of the next message of a partition that the reader will read.
    fn position(&self, place: Place) -> KafkaResult<i64> {
        let from = self.reading.get(&place).map_or(0, |one| one.from);
        // A consumer that has read nothing yet has no position.
        let position = topics::offset_in(&self.shared, &self.reader(place.0).position()?, place);
        Ok(position.map_or(from, |offset| offset.max(from)))
    }

    /// Finds out whether a partition may be read, if that is in doubt, and leads its reader past messages that it cannot read.
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
            // The next message may be on its way.
            Some(_) | None => {
                one.standing = Some((position, Instant::now()));
                Ok(())
            }
        }
    }

    /// Lets the reader go on at this offset.
    fn go_on_at(&mut self, place: Place, offset: i64) -> KafkaResult<()> {
        let list = topics::list(&self.shared, &BTreeMap::from([(place, offset)]))?;
        // A seek has no effect where librdkafka has given up.
        let reader = self.reader(place.0);
        reader.incremental_unassign(&list)?;
        reader.incremental_assign(&list)?;
        if let Some(one) = self.reading.get_mut(&place) {
            (one.from, one.standing) = (offset, None);
        }
        Ok(())
    }

    /// Moves a reader from an offset at which the broker has lost or removed the messages.
    fn lead_back(&mut self, place: Place, position: i64, (first, end): (i64, i64)) -> KafkaResult<()> {
        let offset = match place.0 {
            _ if position < first => first,
            Topic::Event(_) | Topic::Ack => end,
            // The commands that are left may be old, carried out long ago.
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

    /// The offset of the first message that is newer than the last one that was read.
    fn first_new(&self, place: Place, end: i64) -> KafkaResult<i64> {
        let since_s = self.reading.get(&place).map_or_else(clock::unix_now, |one| one.read_all) - CLOCKS_S;
        let since_ms = (since_s * 1000.0) as i64;
        let times = topics::list(&self.shared, &BTreeMap::from([(place, since_ms)]))?;
        let found = self.readers.asker.offsets_for_times(times, ANSWER)?;
        Ok(topics::offset_in(&self.shared, &found, place).unwrap_or(end))
    }

    /// Finds out why the reader has stood at this offset for this time, and leads it past unreadable messages.
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

    /// The first offset after this one at which a message can be read, or the end; none if that cannot be found out now.
    ///
    /// Tries single steps first, then growing steps until one can be read, then halves the last step: exact for one
    /// unreadable batch, however many messages it has.
    fn next_readable(&self, place: Place, position: i64, end: i64) -> KafkaResult<Option<i64>> {
        // `low` is unreadable; `high` is readable or the end.
        let (mut low, mut high) = (position, end);
        let (mut step, mut steps) = (1_i64, 0);
        while high - low > 1 {
            if self.shared.is_closing() {
                return Ok(None);
            }
            // The step is 0 once a readable offset is found.
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

    /// Whether the last heartbeat can be read: otherwise it means nothing that no message comes elsewhere.
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

    /// Counts skipped messages, names them in the status, and logs them, rarely.
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
        self.shared.troubles.note(Kind::Skipped, &name, &text, Instant::now());
    }
}

/// Why a message cannot be read, in plainer words than librdkafka's.
fn why_unreadable(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::NotImplemented) => "its compression or format is not known".to_owned(),
        Some(RDKafkaErrorCode::BadCompression) => "its compressed data is damaged".to_owned(),
        Some(_) | None => reason(error),
    }
}
