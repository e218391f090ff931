//! The thread that watches for other instances with our index, and begins to read commands when there is none.
//!
//! It listens for another instance, waits a while for the end of one that is running, and then claims the index with a
//! first heartbeat. Of several instances that do so at once, the one whose heartbeat comes first in Kafka stays: each reads
//! all heartbeats before its own. The thread has a consumer of its own, so that no burst of commands delays a heartbeat.

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

/// How long an instance must be silent after it has published OFFLINE: a next heartbeat would have come by then.
const FAREWELL: Duration = Duration::from_millis(1500);
/// Longest wait until our first heartbeat is read back; where its topic cannot be read it never is.
const CLAIMING: Duration = Duration::from_secs(10);
/// How long the first heartbeats of two instances that begin together may take to reach each other.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long an instance that the journal refuses may take to notice that and end.
const ENDING: Duration = Duration::from_secs(8);
/// Commands from so long before the last heartbeat of the other instance count as not taken by it; the journal knows those
/// that it took.
const DOUBT: Duration = Duration::from_secs(3);
/// How long commands are read between two looks for heartbeats.
const READING: Duration = Duration::from_millis(50);
/// Most commands that are refused at a takeover; where there are more, the first ones get no answer.
const UNANSWERED_MAX: usize = 1024;
/// Time between two looks at whether the other instance has handed over.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for the broker to give the end of a partition of heartbeats.
const ANSWER: Duration = Duration::from_secs(2);
/// Time between two looks at whether the daemon is ready.
const WAITING: Duration = Duration::from_millis(10);
/// Most heartbeats of ours that are remembered: more than the outbox holds, which may all leave before one is read back.
const REMEMBERED: usize = 16_384;

/// The consumers, and the channels that their threads need.
pub(super) struct Readers {
    /// Asks about topics and tries to read messages, once joined.
    pub(super) asker: Reader,
    /// Reads heartbeats and summary states.
    pub(super) watched: Arc<Reader>,
    /// Reads commands, when no other instance is running.
    pub(super) commands: Arc<Reader>,
    pub(super) upkeep_woken: Receiver<()>,
    pub(super) taker: Sender<Command>,
}

/// Our heartbeats that were handed to the producer, by the bits of the stamp (which sort as stamps do) and number, and when
/// they were. Only these tell ours from those of another instance with our process id: in containers it is often 1.
#[derive(Debug, Default)]
pub(super) struct OwnHeartbeats(Mutex<BTreeMap<(u64, i32), Moment>>);

impl OwnHeartbeats {
    /// This heartbeat is about to be handed to the producer.
    pub(super) fn add(&self, stamp: f64, seq_num: i32, now: Moment) {
        let mut own = lock(&self.0);
        if own.len() == REMEMBERED {
            own.pop_first();
        }
        own.insert((stamp.to_bits(), seq_num), now);
    }

    /// When this heartbeat was handed to the producer, if it is ours.
    fn sent(&self, stamp: f64, seq_num: i32) -> Option<Moment> {
        lock(&self.0).get(&(stamp.to_bits(), seq_num)).copied()
    }
}

/// Starts the thread. The consumer of heartbeats is assigned already; commands are read from the ends of `ranges` on.
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
        let _ = watch.run(readers, ranges);
    });
}

struct Watch {
    feed: Feed,
    commands: Feed,
    shared: Arc<Shared>,
    heartbeats: Progress,
    /// The offsets at which reading heartbeats and summary states has begun.
    begun: topics::Offsets,
    /// While we stand by: the offsets at which reading commands has begun.
    along: Option<topics::Offsets>,
    /// Commands that the other instance may not have taken, and when they came.
    unanswered: VecDeque<(Instant, Command)>,
}

/// How far the heartbeats were read.
#[derive(Debug, Default)]
struct Progress {
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    /// Reading began again at an earlier offset (the log was cut off, or the topic made again), and no remembered heartbeat
    /// of ours came since: a heartbeat that comes may be an old one.
    is_behind: bool,
}

impl Progress {
    /// A message at this position was read.
    fn read(&mut self, (partition, offset): Position) {
        let next = self.next.insert(partition, offset + 1);
        self.is_behind |= next.is_some_and(|next| offset < next);
    }
}

/// What a message says about an instance with our index.
#[derive(Debug)]
enum Heard {
    /// A heartbeat of ours, and when it was sent.
    Own(Moment),
    /// A heartbeat of another instance: its identity and process, and the number of the heartbeat.
    Other(String, i32),
    /// An instance has published OFFLINE.
    Offline,
}

impl Watch {
    fn run(mut self, readers: Readers, mut ranges: Ranges) -> Result<(), Ended> {
        loop {
            if self.listen()?.is_some() && self.along.is_none() {
                // Commands that came until now are for the other instance; ours begin at the present ends. A command that
                // came after its last heartbeat gets no ack (unless we stand by), which is better than to run it twice.
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
        self.commands.clone().start(readers.taker.clone());
        let mut begun = self.begun.clone();
        begun.extend(commands);
        Upkeep::start(&self.shared, readers, begun);
        self.watch()
    }

    /// Reads commands from these offsets on.
    fn read_commands(&self, from: &topics::Offsets) {
        if let Err(error) = topics::assign(&self.shared, &self.commands.consumer, from) {
            log::error!("Kafka: commands cannot be read: {}", reason(&error));
        }
    }

    /// While we stand by: collects the commands since the last heartbeat of the other instance, and from shortly before it.
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
        // A first heartbeat of another instance, right after our own first one, is from an instance that began together with
        // us: it ends when it reads ours. If it does not, its second heartbeat is reported.
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
                        "another instance started at the same time; it has to end, as our heartbeat was first: {who}"
                    );
                    continue;
                }
                Some(Heard::Other(who, _)) if Instant::now() < ended && !self.shared.lease.yields() => {
                    log::warn!("the instance from which ours has taken over is still running: {who}");
                    continue;
                }
                Some(Heard::Other(who, _)) => KafkaInput::DuplicateInstance(who),
                Some(Heard::Offline) | None => continue,
            };
            self.send(input)?;
        }
    }

    /// Listens until no other instance is running; gives the last one that was heard.
    fn listen(&mut self) -> Result<Option<String>, Ended> {
        let (begun, wait) = (Instant::now(), self.shared.options.start_wait);
        let standby = self.shared.options.standby;
        let silence = standby.unwrap_or(LISTENING);
        let waited = || format!("waited {:.1} s for it to end", begun.elapsed().as_secs_f64());
        let (mut since, mut until) = (begun, begun + silence);
        let (mut other, mut was_away) = (None, false);
        self.shared.is_handed_over.store(false, Ordering::Release);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if other.is_some() && self.shared.is_handed_over.swap(false, Ordering::AcqRel) {
                log::info!("the other instance hands over");
                break;
            }
            let at_most = match standby {
                Some(_) => LOOK,
                None if was_away => POLL,
                None => left,
            };
            let heard = self.hear(left.min(at_most))?;
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
            let (asked, is_in_doubt) = (Instant::now(), self.shared.troubles.is_cut_off());
            let is_believed = self.is_believed(is_last);
            let is_back = was_away || (is_in_doubt && asked.elapsed() >= POLL);
            was_away = is_believed.is_err();
            match is_believed {
                Ok(true) if !is_back => {}
                Ok(false) if !is_back => until = until.max(Instant::now() + POLL),
                // The brokers do not answer, or did not until now: the silence begins again.
                Ok(_) | Err(_) => {
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

    /// Whether it can be believed that no other instance is running where none is heard: not while there are messages that
    /// were not read yet. Unless there is trouble, the brokers are asked only at the last moment.
    fn is_believed(&self, is_last: bool) -> KafkaResult<bool> {
        let is_in_doubt = self.shared.troubles.is_cut_off();
        if !is_in_doubt && !is_last {
            return Ok(true);
        }
        let is_all_read = self.is_all_read().inspect_err(|error| {
            let text = format!("{} of others cannot be heard: {}", self.feed.what, reason(error));
            self.shared.troubles.report(Kind::Consumer, self.feed.what, &text);
        })?;
        if is_in_doubt {
            self.shared.troubles.over(Kind::Broker, "");
            for feed in [&self.feed, &self.commands] {
                self.shared.troubles.over(Kind::Consumer, feed.what);
            }
        }
        Ok(is_all_read || !is_last)
    }

    /// Whether all heartbeats and summary states that the brokers have were read.
    fn is_all_read(&self) -> KafkaResult<bool> {
        let read = self.feed.consumer.position()?;
        for (place @ (topic, partition), begun) in &self.begun {
            // There is no position where nothing was read yet.
            let next = topics::offset_in(&self.shared, &read, *place).unwrap_or(*begun);
            let name = self.shared.name(*topic);
            let (_, end) = self.feed.consumer.fetch_watermarks(&name, *partition, ANSWER)?;
            if next < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reports that we wait or stand by for another instance.
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

    /// Whether the daemon has begun its work because Kafka was away for too long: then it waits for no other instance.
    fn has_begun(&self) -> bool {
        self.shared.has_begun.load(Ordering::Acquire)
    }

    /// Another instance was first: the daemon ends; or if it has begun its work, it is in FAULT and joins nevertheless.
    fn give_way(&self, who: String) -> Result<(), Ended> {
        self.send(KafkaInput::DuplicateInstance(who))?;
        if self.has_begun() { Ok(()) } else { Err(Ended) }
    }

    /// Waits until the daemon has opened its journal; false if another instance is heard before that has begun, for which
    /// we are to stand by.
    fn wait_for_daemon(&mut self) -> Result<bool, Ended> {
        self.shared.lease.is_alone();
        self.send(KafkaInput::Alone)?;
        while !self.shared.may_claim.load(Ordering::Acquire) {
            match self.hear(WAITING)? {
                // Once ours has begun to open the journal, the other instance has to end.
                Some(Heard::Other(who, _)) if self.shared.lease.yields() => {
                    let stands_by = self.shared.options.standby.is_some();
                    return if stands_by { Ok(false) } else { self.give_way(who).map(|()| true) };
                }
                Some(Heard::Other(..) | Heard::Own(_) | Heard::Offline) | None => {}
            }
        }
        Ok(true)
    }

    /// Writes our first heartbeat and reads all heartbeats before it.
    fn claim(&mut self) -> Result<(), Ended> {
        self.shared.outbox.change(|queue| queue.push(Message::event(&Event::Heartbeat, None)));
        self.shared.enter(Stage::Claiming);
        let until = Instant::now() + CLAIMING;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.hear(left)? {
                Some(Heard::Own(sent)) => return self.send(KafkaInput::ReadBack(sent)),
                // Its heartbeat was first.
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
            // This consumer reads no commands.
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
