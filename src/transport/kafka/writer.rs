//! The thread that joins and then writes, and what the producer reports about its messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, ThreadedProducer};

use super::client::{Context, is_final};
use super::outbox::{Entry, HEARTBEAT};
use super::topics::{self, Ranges, Stamps};
use super::trouble::Kind;
use super::watch::{self, Readers};
use super::wire::{Header, Topic};
use super::{FLUSH, Shared};
use crate::broker::reason;
use crate::clock::{self, LARGE_STEP_S, Moment};
use crate::csc::time::Tai;
use crate::transport::{KafkaInput, Stage};

/// Longest and shortest sleep, and the longest one while the daemon ends.
const SLEEP: Duration = Duration::from_secs(60);
const SHORT_SLEEP: Duration = Duration::from_millis(5);
const LAST_SLEEP: Duration = Duration::from_millis(10);

/// Runs until the daemon ends and all is written.
pub(super) fn run(
    shared: Arc<Shared>,
    producer: ThreadedProducer<Context>,
    woken: Receiver<()>,
    readers: Readers,
) {
    let Some((ranges, stamps)) = shared.persist(|| join(&shared, &readers)) else { return };
    shared.troubles.over(Kind::Broker, "");
    let (brokers, subname) = (&shared.options.brokers, &shared.options.topic_subname);
    log::info!("Kafka: at {brokers} as {} of lsst.{subname}", shared.identity());
    compare_clock(&stamps);
    shared.enter(Stage::Listening);
    watch::start(&shared, readers, ranges);
    Writer { shared, producer, woken, stamps }.write();
}

/// Finds or makes topics and schemas, and begins to read heartbeats.
fn join(shared: &Arc<Shared>, readers: &Readers) -> Result<(Ranges, Stamps), String> {
    // The consumer of commands asks, so that it is connected and knows its topics when commands are to be read.
    topics::ready(shared, &readers.commands)?;
    shared.choose_schemas()?;
    // Asked again, as the registry may be slow: commands that were sent meanwhile are not for us.
    let ranges = topics::ready(shared, &readers.commands)?;
    let watched = topics::ends(&ranges, topics::is_watched);
    let stamps = topics::last_stamps(shared, &readers.commands, &ranges)
        .and_then(|stamps| topics::assign(shared, &readers.watched, &watched).map(|()| stamps));
    let stamps = stamps.map_err(|error| format!("our topics cannot be read: {}", reason(&error)))?;
    Ok((ranges, stamps))
}

/// Warns when the clock is behind the stamps of the previous run, which ours must follow.
fn compare_clock(stamps: &Stamps) {
    let newest = stamps.values().copied().fold(f64::NEG_INFINITY, f64::max);
    let behind = newest - clock::now().0;
    if behind >= LARGE_STEP_S {
        log::warn!(
            "the clock is {behind:.1} s behind the stamps of the last run: stamps stay ahead of it until it has \
             caught up"
        );
    }
}

struct Writer {
    shared: Arc<Shared>,
    producer: ThreadedProducer<Context>,
    /// Wakes the thread: there may be something to write.
    woken: Receiver<()>,
    stamps: Stamps,
}

impl Writer {
    fn write(&mut self) {
        let mut end: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let next = self.shared.outbox.queue().take(now);
            if let Some(entry) = next {
                self.hand_over(&entry);
                continue;
            }
            let mut sleep = SLEEP;
            if self.shared.is_closing() {
                if self.shared.outbox.queue().is_done() || now >= *end.get_or_insert(now + FLUSH) {
                    return;
                }
                sleep = LAST_SLEEP;
            }
            let next = self.shared.outbox.queue().next_try(now).unwrap_or(now + sleep);
            let _ = self.woken.recv_deadline(next.clamp(now + SHORT_SLEEP, now + sleep));
        }
    }

    fn hand_over(&mut self, Entry { id, message, .. }: &Entry) {
        let (topic, seq_num) = (message.topic, message.seq_num.unwrap_or_default());
        let Some(writer) = self.shared.schemas.writer(topic) else {
            // The schema was just taken away; the outbox holds further messages back.
            self.shared.outbox.change(|queue| queue.postpone(*id, Instant::now()));
            return;
        };
        let sent = self.stamp(topic);
        let header = Header {
            index: self.shared.index,
            sent: Tai(sent),
            seq_num,
            identity: &self.shared.identity(),
            origin: self.shared.origin,
        };
        let bytes = match writer.message(&header, &message.own) {
            Ok(bytes) => bytes,
            // The schema was tried with every field, so only this message is wrong.
            Err(reason) => {
                log::error!("Kafka: {} {seq_num} {reason}", topic.sal_name());
                self.shared.outbox.change(|queue| queue.delivered(*id));
                return;
            }
        };
        if topic == HEARTBEAT {
            self.shared.own.add(sent, seq_num, Moment::now());
        }
        let (name, key) = (self.shared.name(topic), topic.key(self.shared.index));
        let record = BaseRecord::with_opaque_to(&name, *id).key(&key).payload(&bytes);
        if let Err((error, _)) = self.producer.send(record) {
            self.shared.refused(*id, &error);
        }
    }

    /// TAI now, but always later than the last stamp of this topic: readers drop older events.
    fn stamp(&mut self, topic: Topic) -> f64 {
        let now = clock::now().0;
        let stamp = match self.stamps.get(&topic) {
            // A random step, so that two instances whose clock was set back have different stamps.
            Some(last) if *last >= now => last + f64::from(fastrand::u16(1..=1000)) * 1e-6,
            Some(_) | None => now,
        };
        self.stamps.insert(topic, stamp);
        stamp
    }
}

/// The reports of the producer.
impl Shared {
    /// The broker has taken this message, at this partition and offset.
    pub(super) fn delivered(&self, id: usize, partition: i32, offset: i64) {
        let Some(message) = self.outbox.change(|queue| queue.delivered(id)) else { return };
        self.reaches((message.topic, partition), offset.saturating_add(1));
        self.troubles.over(Kind::Topic, &self.name(message.topic));
        self.troubles.over(Kind::Broker, "");
        let Some(receipt) = message.receipt else { return };
        let input = KafkaInput::Delivered(receipt);
        // The main loop waits for this thread when it ends, so that this must not wait for the main loop. The next run
        // publishes again what is not noted as delivered.
        let is_reported = if self.is_closing() {
            self.inputs.try_send(input).is_ok()
        } else {
            self.inputs.send(input).is_ok()
        };
        if !is_reported {
            log::debug!("Kafka: a delivery was not noted");
        }
    }

    /// This message was not delivered.
    pub(super) fn refused(&self, id: usize, error: &KafkaError) {
        let why = reason(error);
        if !is_final(error) {
            let Some(topic) = self.outbox.change(|queue| queue.postpone(id, Instant::now())) else { return };
            let name = self.name(topic);
            if !self.is_closing() {
                self.troubles.report(Kind::Topic, &name, &format!("topic {name} cannot be written: {why}"));
            }
        } else if let Some((topic, is_lost)) = self.outbox.change(|queue| queue.reduce(id, Instant::now())) {
            let fate = if is_lost { "it is lost" } else { "its minimal form is sent instead" };
            log::error!("Kafka: a message for {} was refused ({why}); {fate}", self.name(topic));
        }
    }
}
