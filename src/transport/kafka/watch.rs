//! The thread that watches for other instances with our index, and begins to read commands when there is none.
//!
//! It listens for another instance, waits a while for the end of one that it hears, and then claims the index with a
//! first heartbeat. Of several that do so at once, the one whose heartbeat comes first in Kafka stays: each reads
//! all that was written before its own. It has a consumer of its own, so that no burst of commands comes before a
//! heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::consumer::Consumer;

use super::outbox::{Gate, HEARTBEAT, Message, Outbox};
use super::reader::{Ended, Feed, Position, Taken};
use super::setup::{self, Failure};
use super::trouble::Kind;
use super::upkeep::{Place, Upkeep};
use super::{Stage, component};
use crate::clock::Moment;
use crate::config::kafka::Options;
use crate::csc::command::Command;
use crate::csc::event::Event;
use crate::csc::state::SummaryState;
use crate::sal;
use crate::transport::{KafkaInput, LISTENING};

/// How long an instance that said OFFLINE must be silent: its next heartbeat would have come.
const FAREWELL: Duration = Duration::from_millis(1500);
/// Longest wait until our first heartbeat is read back; it cannot be where its topic is out of reach.
const CLAIMING: Duration = Duration::from_secs(10);
/// Longest wait for a message, after which it is looked whether to end.
const POLL: Duration = Duration::from_secs(1);
/// Time between tries to find the ends of the command topics.
const RETRY: Duration = Duration::from_millis(500);

/// Watches until the daemon ends.
pub(super) struct Watch {
    /// Heartbeats and summary states.
    pub(super) feed: Feed,
    /// Commands: read when we are the one.
    pub(super) commands: Feed,
    /// Where they begin.
    pub(super) places: BTreeMap<Place, i64>,
    pub(super) options: Options,
    pub(super) origin: i32,
    pub(super) inputs: Sender<KafkaInput>,
    pub(super) taker: Sender<Command>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) heartbeats: Progress,
    /// Begins when the commands are read.
    pub(super) upkeep: Upkeep,
}

/// How far the heartbeats were read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    /// Reading began again at an earlier place (the log was cut off, the topic is a new one), and none of ours that
    /// we remember came since: what comes may be of long ago.
    is_behind: bool,
}

impl Progress {
    /// This message was read.
    fn read(&mut self, Position { partition, offset }: Position) {
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

impl Watch {
    /// Runs the thread.
    pub(super) fn run(self) {
        // It ends when the daemon does.
        let _ = self.begin_and_watch();
    }

    fn begin_and_watch(mut self) -> Result<(), Ended> {
        self.listen()?;
        self.claim()?;
        self.feed.shared.enter(Stage::Joined);
        self.hand_on(KafkaInput::Joined)?;
        self.outbox.open(Gate::Open);
        let Self {
            mut feed, commands, places, options, origin, inputs, taker, mut heartbeats, upkeep, ..
        } = self;
        read_commands(commands, &places, &options.topic_subname, taker);
        upkeep.start(places);
        // As long as only our first heartbeat is there, the first one of another instance comes from one that began
        // together with us and has not read ours: it ends when it does.
        let mut is_first = true;
        loop {
            let input = match hear(&mut feed, &mut heartbeats, origin, POLL)? {
                Some(Heard::Own(sent)) => {
                    is_first = false;
                    KafkaInput::Vouched(sent)
                }
                Some(Heard::Other(who, 1)) if is_first => {
                    log::warn!(
                        "another instance began together with us, and ends since we were first: {who}"
                    );
                    continue;
                }
                Some(Heard::Other(who, _)) => KafkaInput::Intruder(who),
                Some(Heard::Offline) | None => continue,
            };
            inputs.send(input).map_err(|_| Ended)?;
        }
    }

    /// Listens until no other instance is there.
    ///
    /// A command that came before another instance was known to be gone is for that one, whatever it made of it: ours
    /// begin when it is gone. One that comes after its last heartbeat and is not answered by anybody is the lesser
    /// evil; its sender sees that there is no ack.
    fn listen(&mut self) -> Result<(), Ended> {
        let begun = Instant::now();
        let mut until = begun + LISTENING;
        let mut other = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.hear(left)? {
                Some(Heard::Other(who, _)) => {
                    if self.has_begun() || begun.elapsed() >= self.options.start_wait {
                        return self.give_way(waited(&who, begun));
                    }
                    if other.is_none() {
                        self.feed.shared.enter(Stage::Waiting);
                        log::warn!(
                            "another instance with index {} lives: {who}; waiting up to {} s for it to end",
                            self.feed.index,
                            self.options.start_wait.as_secs_f64()
                        );
                    }
                    other = Some(who);
                    until = Instant::now() + LISTENING;
                }
                Some(Heard::Offline) if other.is_some() => {
                    until = (begun + LISTENING).max(Instant::now() + FAREWELL);
                }
                Some(Heard::Offline | Heard::Own(_)) | None => {}
            }
        }
        if let Some(who) = other {
            log::info!("the other instance is gone: {}", waited(&who, begun));
            self.skip_commands()?;
        }
        Ok(())
    }

    /// Lets our commands begin with the next one that is sent.
    fn skip_commands(&mut self) -> Result<(), Ended> {
        loop {
            let problem = match setup::command_places(&self.options, &self.commands.consumer) {
                Ok(places) => {
                    self.places = places;
                    self.feed.shared.troubles.over(&[Kind::SetUp], "");
                    return Ok(());
                }
                Err(Failure::NoAnswer(problem) | Failure::Wrong(problem)) => problem,
            };
            self.feed.shared.troubles.say(Kind::SetUp, "", &problem);
            thread::sleep(RETRY);
            if self.feed.shared.closing.load(Ordering::Acquire) {
                return Err(Ended);
            }
        }
    }

    /// Whether the daemon does its work, because Kafka was away too long: then it waits for no other instance.
    fn has_begun(&self) -> bool {
        self.feed.shared.has_begun.load(Ordering::Acquire)
    }

    /// Another instance was there first: the daemon ends; or if it has begun, it is in FAULT and joins nevertheless.
    fn give_way(&self, who: String) -> Result<(), Ended> {
        self.hand_on(KafkaInput::Intruder(who))?;
        if self.has_begun() { Ok(()) } else { Err(Ended) }
    }

    /// Writes the first heartbeat and reads all up to it.
    fn claim(&mut self) -> Result<(), Ended> {
        self.outbox.push(Message {
            topic: HEARTBEAT,
            seq_num: None,
            own: sal::event::fields(&Event::Heartbeat),
            receipt: None,
        });
        self.outbox.open(Gate::Heartbeats);
        let until = Instant::now() + CLAIMING;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("Kafka: our heartbeat cannot be read back, so another instance may go unnoticed");
                return Ok(());
            }
            match self.hear(left)? {
                Some(Heard::Own(sent)) => return self.hand_on(KafkaInput::Vouched(sent)),
                // It was first.
                Some(Heard::Other(who, _)) => return self.give_way(who),
                Some(Heard::Offline) | None => {}
            }
        }
    }

    fn hand_on(&self, input: KafkaInput) -> Result<(), Ended> {
        self.inputs.send(input).map_err(|_| Ended)
    }

    fn hear(&mut self, wait: Duration) -> Result<Option<Heard>, Ended> {
        hear(&mut self.feed, &mut self.heartbeats, self.origin, wait)
    }
}

fn hear(
    feed: &mut Feed,
    heartbeats: &mut Progress,
    origin: i32,
    wait: Duration,
) -> Result<Option<Heard>, Ended> {
    let Some((position, taken)) = feed.next(wait)? else { return Ok(None) };
    Ok(match taken {
        Taken::Heartbeat { identity, origin: theirs, seq_num, stamp } => {
            heartbeats.read(position);
            let is_alike = theirs == origin && identity == component(feed.index);
            if let Some(sent) = feed.shared.own.sent(stamp, seq_num).filter(|_| is_alike) {
                heartbeats.is_behind = false;
                return Ok(Some(Heard::Own(sent)));
            }
            let who = format!("{identity}, process {theirs}");
            (!heartbeats.is_behind).then_some(Heard::Other(who, seq_num))
        }
        Taken::State(code) => (code == SummaryState::Offline.code()).then_some(Heard::Offline),
        // They are read elsewhere.
        Taken::Command(_) => None,
    })
}

/// Begins to read commands, on a thread of its own.
fn read_commands(feed: Feed, places: &BTreeMap<Place, i64>, subname: &str, taker: Sender<Command>) {
    let assigned = setup::partition_list(places, subname)
        .and_then(|list| feed.consumer.assign(&list).map_err(|error| setup::code(&error)));
    if let Err(reason) = assigned {
        log::error!("Kafka: commands cannot be read: {reason}");
        return;
    }
    let reading = thread::Builder::new().name("kafka-read".to_owned()).spawn(move || feed.hand_on(&taker));
    if let Err(error) = reading {
        log::error!("Kafka: cannot start a thread, so no commands are read: {error}");
    }
}

/// Who it is, and for how long it was waited for.
fn waited(who: &str, begun: Instant) -> String {
    format!("{who}; waited {:.1} s for it to end", begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_once_more_may_be_of_long_ago() {
        let mut progress = Progress::default();
        for (partition, offset) in [(0, 7), (0, 9), (1, 3), (0, 10)] {
            progress.read(Position { partition, offset });
            assert!(!progress.is_behind);
        }
        progress.read(Position { partition: 1, offset: 0 });
        assert!(progress.is_behind);
    }
}
