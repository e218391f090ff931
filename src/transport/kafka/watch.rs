//! The thread that watches for other instances with our index, and begins to read commands when there is none.
//!
//! It listens for another instance, waits a while for the end of one that is running, and then claims the index with a
//! first heartbeat. Of several that do so at once, the one whose heartbeat comes first in Kafka stays: each reads
//! all that was written before its own. It has a consumer of its own, so that no burst of commands comes before a
//! heartbeat.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::Reader;
use super::outbox::Message;
use super::reader::{Ended, Feed, POLL, Position, Taken};
use super::topics::{self, Ranges};
use super::trouble::Kind;
use super::upkeep::Upkeep;
use super::{Shared, lock, spawn};
use crate::broker::reason;
use crate::clock::Moment;
use crate::config::kafka::Options;
use crate::csc::command::Command;
use crate::csc::event::Event;
use crate::csc::state::SummaryState;
use crate::transport::{KafkaInput, LISTENING, Stage};
use crossbeam_channel::{Receiver, Sender};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;

/// How long an instance that said OFFLINE must be silent: its next heartbeat would have come.
const FAREWELL: Duration = Duration::from_millis(1500);
/// Longest wait until our first heartbeat is read back; it cannot be where its topic is out of reach.
const CLAIMING: Duration = Duration::from_secs(10);
/// How long the first heartbeat of another instance may take to us, and ours to it, when both begin together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long an instance that the journal refuses from now on may take to notice that and end.
const ENDING: Duration = Duration::from_secs(8);
/// How long before its last heartbeat the other instance may have left a command: what it has taken, its journal knows.
const DOUBT: Duration = Duration::from_secs(3);
/// How long commands are read between two looks for heartbeats.
const READING: Duration = Duration::from_millis(50);
/// Most commands that are refused at a takeover; the first ones are not answered.
const UNANSWERED_MAX: usize = 1024;
/// Time between looks at whether the other instance has handed over.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for the broker to say how many heartbeats it has.
const ANSWER: Duration = Duration::from_secs(2);
/// Time between looks at whether the daemon is ready.
const WAITING: Duration = Duration::from_millis(10);
/// Heartbeats of ours that are remembered: more than the outbox can hold, all of which may leave before one is read.
const REMEMBERED: usize = 16_384;

/// The consumers, and what reading needs besides.
pub(super) struct Readers {
    /// To ask about topics and to try what can be read, once joined.
    pub(super) asker: Reader,
    /// Heartbeats and summary states.
    pub(super) watched: Arc<Reader>,
    /// Commands: read when no other instance is running.
    pub(super) commands: Arc<Reader>,
    pub(super) upkeep_woken: Receiver<()>,
    pub(super) taker: Sender<Command>,
}

/// Which heartbeats are ours: those that were handed to the producer, by stamp (its bits, which sort as it does) and
/// number, and when that was. Another instance with our index may have our process id too (in containers it is often 1).
#[derive(Debug, Default)]
pub(super) struct OwnHeartbeats(Mutex<BTreeMap<(u64, i32), Moment>>);

impl OwnHeartbeats {
    /// This one is about to be handed over.
    pub(super) fn add(&self, stamp: f64, seq_num: i32, now: Moment) {
        let mut own = lock(&self.0);
        if own.len() == REMEMBERED {
            own.pop_first();
        }
        own.insert((stamp.to_bits(), seq_num), now);
    }

    /// When this one was handed over, if it is ours.
    fn sent(&self, stamp: f64, seq_num: i32) -> Option<Moment> {
        lock(&self.0).get(&(stamp.to_bits(), seq_num)).copied()
    }
}

/// Begins to watch, now that the heartbeats are assigned; the commands begin at the ends of their topics.
pub(super) fn start(shared: &Arc<Shared>, readers: Readers, ranges: Ranges) {
    let feed = Feed { consumer: readers.watched.clone(), shared: shared.clone(), what: "heartbeats" };
    let commands = Feed { consumer: readers.commands.clone(), shared: shared.clone(), what: "commands" };
    let watch = Watch {
        feed,
        commands,
        shared: shared.clone(),
        heartbeats: Progress::default(),
        begun: topics::ends(&ranges, topics::is_watched),
        along: None,
        unanswered: VecDeque::new(),
    };
    spawn("kafka-watch", "no commands are read", || {
        // It ends when the daemon does.
        let _ = watch.run(readers, ranges);
    });
}

struct Watch {
    feed: Feed,
    commands: Feed,
    shared: Arc<Shared>,
    heartbeats: Progress,
    /// From where on heartbeats and summary states are read.
    begun: topics::Offsets,
    /// From where on commands are read while we stand by.
    along: Option<topics::Offsets>,
    /// Those that the other instance may not have taken, and when they came.
    unanswered: VecDeque<(Instant, Command)>,
}

/// How far the heartbeats were read.
#[derive(Debug, Default)]
struct Progress {
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    /// Reading began again at an earlier place (the log was cut off, the topic is a new one), and none of ours that
    /// we remember came since: what comes may be of long ago.
    is_behind: bool,
}

impl Progress {
    /// This message was read.
    fn read(&mut self, (partition, offset): Position) {
        let next = self.next.insert(partition, offset + 1);
        self.is_behind |= next.is_some_and(|next| offset < next);
    }
}

/// What is of interest of a message.
#[derive(Debug)]
enum Heard {
    /// A heartbeat of ours, and when it was sent.
    Own(Moment),
    /// A heartbeat of another instance with our index: who it is, and its number.
    Other(String, i32),
    /// An instance with our index said OFFLINE.
    Offline,
}

/// What it means that no other instance is heard.
enum Silence {
    /// None is running, as far as is known.
    Believed,
    /// There are messages that were not read yet, or cannot be.
    Unread,
    /// The brokers cannot be reached.
    Deaf,
}

impl Watch {
    fn run(mut self, readers: Readers, ranges: Ranges) -> Result<(), Ended> {
        let mut ranges = ranges;
        loop {
            if self.listen()?.is_some() && self.along.is_none() {
                // A command that came before is for the other instance, whatever it made of it: ours begin now. One that
                // came after its last heartbeat and that nobody answers is the lesser evil: its sender sees no ack, unless
                // we stand by. (Answers to one that reads are slow.)
                ranges = self.shared.persist(|| topics::ready(&self.shared, &readers.asker)).ok_or(Ended)?;
            }
            if self.wait_for_daemon()? {
                break;
            }
        }
        self.claim()?;
        self.shared.enter(Stage::Joined);
        self.send(KafkaInput::Joined)?;
        for (_, command) in mem::take(&mut self.unanswered) {
            self.send(KafkaInput::Missed(command))?;
        }
        let commands = self.along.take().unwrap_or_else(|| {
            let commands = topics::ends(&ranges, topics::is_command);
            self.read_commands(&commands);
            commands
        });
        let (consumer, shared) = (readers.commands.clone(), self.shared.clone());
        Feed { consumer, shared, what: "commands" }.start(readers.taker.clone());
        let mut begun = self.begun.clone();
        begun.extend(commands);
        Upkeep::start(&self.shared, readers, begun);
        self.watch()
    }

    /// Reads commands from there on.
    fn read_commands(&self, from: &topics::Offsets) {
        if let Err(error) = topics::assign(&self.shared, &self.commands.consumer, from) {
            log::error!("Kafka: commands cannot be read: {}", reason(&error));
        }
    }

    /// Standing by, notes the commands that came since the other instance was last heard, and a little before.
    fn read_along(&mut self, is_heard: bool) -> Result<(), Ended> {
        let until = Instant::now() + READING;
        while Instant::now() < until {
            if let Some((_, Taken::Command(command))) = self.commands.next(WAITING)? {
                self.unanswered.push_back((Instant::now(), command));
            }
        }
        let excess = self.unanswered.len().saturating_sub(UNANSWERED_MAX);
        self.unanswered.drain(..excess);
        self.unanswered.retain(|(came, _)| !is_heard || came.elapsed() < DOUBT);
        Ok(())
    }

    fn watch(&mut self) -> Result<(), Ended> {
        // As long as only our first heartbeat is there, or is new, the first one of another instance comes from one that
        // began together with us and has not read ours: it ends when it does. If not, its second one is noticed.
        let (until, ended) = (Instant::now() + TOGETHER, Instant::now() + ENDING);
        let mut is_first = true;
        loop {
            let input = match self.hear(POLL)? {
                Some(Heard::Own(sent)) => {
                    is_first = false;
                    KafkaInput::ReadBack(sent)
                }
                Some(Heard::Other(who, 1)) if is_first || Instant::now() < until => {
                    log::warn!(
                        "another instance began together with us, and ends since we were first: {who}"
                    );
                    continue;
                }
                Some(Heard::Other(who, _)) if Instant::now() < ended && !self.shared.lease.yields() => {
                    log::warn!("another instance, from which ours has taken over, has yet to end: {who}");
                    continue;
                }
                Some(Heard::Other(who, _)) => KafkaInput::DuplicateInstance(who),
                Some(Heard::Offline) | None => continue,
            };
            self.send(input)?;
        }
    }

    /// Listens until no other instance is running; gives the one that was.
    fn listen(&mut self) -> Result<Option<String>, Ended> {
        let (begun, wait) = (Instant::now(), self.shared.options.start_wait);
        let standby = self.shared.options.standby;
        let silence = standby.unwrap_or(LISTENING);
        let waited = || format!("waited {:.1} s for it to end", begun.elapsed().as_secs_f64());
        let (mut since, mut until) = (begun, begun + silence);
        let mut other = None;
        self.shared.is_handed_over.store(false, Ordering::Release);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if other.is_some() && self.shared.is_handed_over.swap(false, Ordering::AcqRel) {
                log::info!("the other instance hands over");
                break;
            }
            let heard = self.hear(if standby.is_some() { left.min(LOOK) } else { left })?;
            if self.along.is_some() {
                self.read_along(matches!(heard, Some(Heard::Other(..))))?;
            }
            match heard {
                Some(Heard::Other(who, _)) => {
                    if self.has_begun() || (standby.is_none() && begun.elapsed() >= wait) {
                        self.give_way(format!("{who}; {}", waited()))?;
                        return Ok(None);
                    }
                    if other.as_ref() != Some(&who) {
                        self.shared.is_handed_over.store(false, Ordering::Release);
                        self.wait_for(&who);
                    }
                    if standby.is_some() && self.along.is_none() {
                        let ranges =
                            self.shared.persist(|| topics::ready(&self.shared, &self.commands.consumer));
                        let commands = topics::ends(&ranges.ok_or(Ended)?, topics::is_command);
                        self.read_commands(&commands);
                        self.along = Some(commands);
                    }
                    other = Some(who);
                    since = Instant::now();
                    until = since + silence;
                }
                Some(Heard::Offline) if other.is_some() => {
                    until = (begun + LISTENING).max(Instant::now() + FAREWELL);
                }
                Some(Heard::Offline | Heard::Own(_)) | None => {}
            }
            let is_last = Instant::now() >= until && since.elapsed() < 3 * silence;
            match self.examine_silence(is_last) {
                Silence::Believed => {}
                Silence::Unread => until = until.max(Instant::now() + POLL),
                Silence::Deaf => {
                    since = Instant::now();
                    until = since + silence;
                }
            }
        }
        if let Some(who) = &other {
            log::info!("the other instance is gone: {who}; {}", waited());
            *lock(&self.shared.other) = None;
        }
        self.shared.enter(Stage::Listening);
        Ok(other)
    }

    /// What it means that nothing is heard. Where nothing seems to be wrong, the brokers are asked only at the last moment.
    fn examine_silence(&self, is_last: bool) -> Silence {
        let is_in_doubt = self.shared.troubles.is_cut_off();
        if !is_in_doubt && !is_last {
            return Silence::Believed;
        }
        match self.is_all_read() {
            Ok(is_all_read) => {
                if is_in_doubt {
                    self.shared.troubles.over(Kind::Broker, "");
                    for feed in [&self.feed, &self.commands] {
                        self.shared.troubles.over(Kind::Consumer, feed.what);
                    }
                }
                if is_last && !is_all_read { Silence::Unread } else { Silence::Believed }
            }
            Err(error) => {
                let text = format!("{} of others cannot be heard: {}", self.feed.what, reason(&error));
                self.shared.troubles.report(Kind::Consumer, self.feed.what, &text);
                Silence::Deaf
            }
        }
    }

    /// Whether all was read that the brokers have.
    fn is_all_read(&self) -> KafkaResult<bool> {
        let read = self.feed.consumer.position()?;
        for ((topic, partition), begun) in &self.begun {
            let name = self.shared.name(*topic);
            let next = read.find_partition(&name, *partition).and_then(|place| place.offset().to_raw());
            // There is none where nothing was read yet.
            let next = next.filter(|next| *next >= 0).unwrap_or(*begun);
            let (_, end) = self.feed.consumer.fetch_watermarks(&name, *partition, ANSWER)?;
            if next < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says that this one is waited for.
    fn wait_for(&self, who: &str) {
        let Options { start_wait, standby, .. } = &self.shared.options;
        *lock(&self.shared.other) = Some(who.to_owned());
        let (stage, how) = match standby {
            None => (Stage::Waiting, format!("waiting up to {} s for it to end", start_wait.as_secs_f64())),
            Some(time) => {
                let time = time.as_secs_f64();
                (Stage::StandingBy, format!("standing by until it ends or is silent for {time} s"))
            }
        };
        self.shared.enter(stage);
        log::warn!("another instance with index {} is running: {who}; {how}", self.shared.index);
    }

    /// Whether the daemon does its work, because Kafka was away too long: then it waits for no other instance.
    fn has_begun(&self) -> bool {
        self.shared.has_begun.load(Ordering::Acquire)
    }

    /// Another instance was there first: the daemon ends; or if it has begun, it is in FAULT and joins nevertheless.
    fn give_way(&self, who: String) -> Result<(), Ended> {
        self.send(KafkaInput::DuplicateInstance(who))?;
        if self.has_begun() { Ok(()) } else { Err(Ended) }
    }

    /// Waits until the daemon has opened its journal; false if another instance shows up before that was begun, and is to be
    /// stood by for.
    fn wait_for_daemon(&mut self) -> Result<bool, Ended> {
        self.shared.lease.is_alone();
        self.send(KafkaInput::Alone)?;
        while !self.shared.may_claim.load(Ordering::Acquire) {
            match self.hear(WAITING)? {
                // Of two that open the journal, the later one has it.
                Some(Heard::Other(who, _)) if self.shared.lease.yields() => {
                    let stands_by = self.shared.options.standby.is_some();
                    return if stands_by { Ok(false) } else { self.give_way(who).map(|()| true) };
                }
                Some(Heard::Other(..) | Heard::Own(_) | Heard::Offline) | None => {}
            }
        }
        Ok(true)
    }

    /// Writes the first heartbeat and reads all up to it.
    fn claim(&mut self) -> Result<(), Ended> {
        self.shared.outbox.change(|queue| queue.push(Message::event(&Event::Heartbeat, None)));
        self.shared.enter(Stage::Claiming);
        let until = Instant::now() + CLAIMING;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.hear(left)? {
                Some(Heard::Own(sent)) => return self.send(KafkaInput::ReadBack(sent)),
                // It was first.
                Some(Heard::Other(who, _)) if self.shared.lease.yields() => return self.give_way(who),
                Some(Heard::Other(..) | Heard::Offline) | None => {}
            }
        }
        log::warn!("Kafka: our heartbeat cannot be read back, so another instance may go unnoticed");
        Ok(())
    }

    fn send(&self, input: KafkaInput) -> Result<(), Ended> {
        self.shared.inputs.send(input).map_err(|_| Ended)
    }

    fn hear(&mut self, wait: Duration) -> Result<Option<Heard>, Ended> {
        let Some((position, taken)) = self.feed.next(wait)? else { return Ok(None) };
        Ok(match taken {
            Taken::Heartbeat { identity, origin, seq_num, stamp } => {
                self.heartbeats.read(position);
                let is_alike = origin == self.shared.origin && identity == self.shared.identity();
                if let Some(sent) = self.shared.own.sent(stamp, seq_num).filter(|_| is_alike) {
                    self.heartbeats.is_behind = false;
                    return Ok(Some(Heard::Own(sent)));
                }
                let who = format!("{identity}, process {origin}");
                (!self.heartbeats.is_behind).then_some(Heard::Other(who, seq_num))
            }
            Taken::State(code) => (code == SummaryState::Offline.code()).then_some(Heard::Offline),
            // They are read elsewhere.
            Taken::Command(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_once_more_may_be_of_long_ago() {
        let mut progress = Progress::default();
        for (partition, offset) in [(0, 7), (0, 9), (1, 3), (0, 10)] {
            progress.read((partition, offset));
            assert!(!progress.is_behind);
        }
        progress.read((1, 0));
        assert!(progress.is_behind);
    }

    #[test]
    fn a_heartbeat_is_ours_only_with_the_very_stamp_and_number() {
        let (own, now) = (OwnHeartbeats::default(), Moment::now());
        own.add(1.5, 1, now);
        own.add(2.5, 2, now);
        assert_eq!(own.sent(1.5, 1), Some(now));
        assert_eq!(own.sent(2.5, 2), Some(now));
        assert_eq!(own.sent(1.5, 2), None);
        assert_eq!(own.sent(f64::from_bits(1.5_f64.to_bits() + 1), 1), None);
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (own, now) = (OwnHeartbeats::default(), Moment::now());
        for number in 0..=i32::try_from(REMEMBERED).unwrap() {
            own.add(1.0, number, now);
        }
        assert_eq!((own.sent(1.0, 0), own.sent(1.0, 1)), (None, Some(now)));
    }
}
