//! SAL over Kafka: commands in, acks and events out.
//!
//! Six threads of ours: `kafka` joins and then writes, `kafka-watch` hears other instances and our own heartbeats,
//! `kafka-read` reads commands, `kafka-schemas` looks after the registry, `kafka-upkeep` after the topics, and one takes
//! the producer's reports; librdkafka has its own underneath. The main loop only puts messages into the `outbox` and
//! takes commands and [`KafkaInput`]s; it never waits for a broker or a registry. Nothing here knows what a job is.
//!
//! * `wire`: bytes; `registry`: its questions; `schemas`: what we write with; `outbox`: what is still to be said
//! * `client`: librdkafka's settings and callbacks; `setup`: joining; `reader`: reading; `watch`: other instances
//! * `own`: which heartbeats are ours; `upkeep`: topics that change, and what cannot be read
//! * `trouble`: what is wrong, said once and then rarely; `permission`: which topic we may not read

mod client;
mod libraries;
mod outbox;
mod own;
mod permission;
pub mod reader;
pub mod registry;
mod schemas;
mod setup;
mod trouble;
mod upkeep;
mod watch;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, ThreadedProducer};

use super::{KafkaInput, KafkaReport};
use crate::clock::{self, LARGE_STEP_S, Moment};
use crate::config::kafka::Options;
use crate::csc::command::{Command, CommandName, Sender as CommandSender};
use crate::csc::event::{Ack, Event};
use crate::csc::id::SalIndex;
use crate::csc::record::Receipt;
use crate::csc::time::Tai;
use crate::sal;
use crate::sal::ack::AckFields;
use client::{Context, Report, Written};
pub use libraries::libraries;
use outbox::{Fate, HEARTBEAT, Message, Outbox, Outgoing, Refusal};
use own::OwnHeartbeats;
use permission::Inquiry;
use reader::Feed;
use schemas::Schemas;
use setup::{Failure, Session};
use trouble::{Kind, Troubles};
use upkeep::{Place, Upkeep};
use watch::{Progress, Watch};
use wire::{Header, Topic};

/// First and longest wait between tries to join.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest wait for the last messages to leave when the daemon ends.
const FLUSH: Duration = Duration::from_secs(3);
/// Reports that wait to be heard: more than there are messages in flight.
const REPORTS: usize = 1024;
/// Longest sleep of a thread that has nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// What the threads share.
struct Shared {
    /// The daemon ends.
    closing: Arc<AtomicBool>,
    stage: Mutex<Stage>,
    /// The daemon does its work, with Kafka or without.
    has_begun: AtomicBool,
    own: OwnHeartbeats,
    undecodable: AtomicU64,
    troubles: Arc<Troubles>,
}

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Broker and registry were not reached yet.
    Connecting,
    /// No other instance was heard yet, but may be.
    Listening,
    /// Another instance was heard, and may end.
    Waiting,
    /// We are the one.
    Joined,
}

impl Shared {
    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

/// Kafka, as the main loop sees it.
pub struct Kafka {
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    done: Receiver<()>,
    brokers: String,
}

impl Kafka {
    /// Whether this build can do what these settings ask for, and librdkafka takes them; nothing is connected to.
    ///
    /// # Errors
    /// One line: what is not possible.
    pub fn check(options: &Options, index: SalIndex) -> Result<(), String> {
        options.check_build()?;
        client::check(options, index)
    }

    /// Begins to join; from then on commands are sent to `taker`, and what else comes to `inputs`.
    ///
    /// # Errors
    /// One line: the settings are not possible. That nobody is there is no error: it is tried on and on.
    pub fn start(
        options: Options,
        index: SalIndex,
        inputs: Sender<KafkaInput>,
        taker: Sender<Command>,
    ) -> Result<Self, String> {
        Self::check(&options, index)?;
        let (wake, woken) = bounded(1);
        let (done_sender, done) = bounded(1);
        let (report_sender, reports) = bounded(REPORTS);
        let outbox = Arc::new(Outbox::new(wake));
        let shared = Arc::new(Shared {
            closing: Arc::default(),
            stage: Mutex::new(Stage::Connecting),
            has_begun: AtomicBool::new(false),
            own: OwnHeartbeats::default(),
            undecodable: AtomicU64::new(0),
            troubles: Arc::default(),
        });
        let context = Context {
            troubles: shared.troubles.clone(),
            reports: report_sender,
            written: Written::default(),
            closing: shared.closing.clone(),
        };
        let consumer = client::consumer(&options, index, context.clone())?;
        let watch = client::consumer(&options, index, context.clone())?;
        let producer = client::producer(&options, index, context.clone())?;
        let brokers = options.brokers.clone();
        let schemas = Arc::new(Schemas::new(&options, outbox.clone(), shared.clone()));
        let link = Link {
            options,
            index,
            origin: i32::try_from(std::process::id()).unwrap_or(0),
            inputs,
            taker,
            outbox: outbox.clone(),
            shared: shared.clone(),
            woken,
            reports,
            context,
            producer,
            schemas,
            stamps: BTreeMap::new(),
        };
        let run = move || {
            link.run(consumer, watch);
            let _ = done_sender.send(());
        };
        let thread = thread::Builder::new().name("kafka".to_owned()).spawn(run);
        thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { outbox, shared, done, brokers })
    }

    /// Answers a command that came over Kafka; its delivery is told with [`KafkaInput::Delivered`].
    pub fn ack(&self, to: &CommandSender, command: Option<CommandName>, ack: &Ack, receipt: Option<Receipt>) {
        let fields = AckFields::from(ack);
        let own = vec![
            ("ack", sal::Value::Int(fields.ack)),
            ("error", sal::Value::Int(fields.error)),
            ("result", sal::Value::String(fields.result)),
            ("identity", to.identity.as_str().into()),
            ("origin", sal::Value::Int(to.origin)),
            ("cmdtype", sal::Value::Int(command.map_or(0, wire::cmdtype))),
            ("timeout", sal::Value::Double(fields.timeout)),
        ];
        self.outbox.push(Message { topic: Topic::Ack, seq_num: Some(to.seq_num.0), own, receipt });
    }

    /// Tells an event; its delivery is told with [`KafkaInput::Delivered`].
    pub fn publish(&self, event: &Event, receipt: Option<Receipt>) {
        let topic = Topic::Event(sal::event::topic(event));
        self.outbox.push(Message { topic, seq_num: None, own: sal::event::fields(event), receipt });
    }

    /// How it goes.
    #[must_use]
    pub fn report(&self) -> KafkaReport {
        let (queued, dropped) = self.outbox.counts();
        let stage = match self.shared.stage() {
            Stage::Connecting => "connecting",
            Stage::Listening => "listening",
            Stage::Waiting => "waiting for another instance",
            Stage::Joined => "joined",
        };
        KafkaReport {
            brokers: self.brokers.clone(),
            stage,
            problem: self.shared.troubles.current(),
            queued,
            dropped,
            undecodable: self.shared.undecodable.load(Ordering::Relaxed),
        }
    }

    /// Whether broker and registry were not reached yet.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.shared.stage() == Stage::Connecting
    }

    /// The daemon has begun its work: another instance that is heard from now on is not waited for.
    pub fn begun(&self) {
        self.shared.has_begun.store(true, Ordering::Release);
    }

    /// Ends: waits a little for what is still to be said, if there is somebody to say it to.
    pub fn close(self) {
        self.shared.closing.store(true, Ordering::Release);
        self.outbox.wake();
        if !self.is_connecting() {
            let _ = self.done.recv_timeout(FLUSH + Duration::from_secs(1));
        }
        let (left, _) = self.outbox.counts();
        if left > 0 {
            log::warn!("Kafka: {left} messages were not delivered");
        }
    }
}

/// Our `private_identity`.
fn component(index: SalIndex) -> String {
    format!("OCPS:{}", index.number())
}

/// The thread that joins and then writes.
struct Link {
    options: Options,
    index: SalIndex,
    origin: i32,
    inputs: Sender<KafkaInput>,
    taker: Sender<Command>,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    woken: Receiver<()>,
    reports: Receiver<Report>,
    context: Context,
    producer: ThreadedProducer<Context>,
    schemas: Arc<Schemas>,
    /// The last stamp of each topic: none may be earlier.
    stamps: BTreeMap<Topic, f64>,
}

impl Link {
    fn run(mut self, consumer: BaseConsumer<Context>, watch: BaseConsumer<Context>) {
        let Some(Session { stamps, watched, commands }) = self.join(&consumer, &watch) else { return };
        self.stamps = stamps;
        self.compare_clock();
        self.shared.enter(Stage::Listening);
        let names = Topic::all().map(|topic| (topic.kafka_name(&self.options.topic_subname), topic));
        let topics = Arc::new(names.collect());
        let (stumbled, woken) = bounded(1);
        let (consumer, watch) = (Arc::new(consumer), Arc::new(watch));
        let upkeep = self.upkeep(&consumer, &watch, woken, watched);
        let inquiry = Inquiry {
            options: self.options.clone(),
            index: self.index,
            context: self.context.clone(),
            shared: self.shared.clone(),
            running: Arc::default(),
        };
        let feed = |consumer, what| Feed {
            consumer,
            stumbled: stumbled.clone(),
            schemas: self.schemas.clone(),
            index: self.index,
            topics: Arc::clone(&topics),
            shared: self.shared.clone(),
            bad: BTreeMap::new(),
            inquiry: inquiry.clone(),
            what,
        };
        let (heartbeats, reads) = (feed(watch, "heartbeats"), feed(consumer, "commands"));
        // The upkeep ends with the readers.
        drop(stumbled);
        let watch = Watch {
            feed: heartbeats,
            commands: reads,
            places: commands,
            upkeep,
            options: self.options.clone(),
            origin: self.origin,
            inputs: self.inputs.clone(),
            taker: self.taker.clone(),
            outbox: self.outbox.clone(),
            heartbeats: Progress::default(),
        };
        let watching = thread::Builder::new().name("kafka-watch".to_owned()).spawn(|| watch.run());
        if let Err(error) = watching {
            log::error!("Kafka: cannot start a thread, so no commands are read: {error}");
        }
        let schemas = self.schemas.clone();
        let looking =
            thread::Builder::new().name("kafka-schemas".to_owned()).spawn(move || schemas.look_after());
        if let Err(error) = looking {
            log::error!("Kafka: cannot start a thread, so schemas stay as they are: {error}");
        }
        self.write();
    }

    /// What looks after the topics that these two read.
    fn upkeep(
        &self,
        commands: &Arc<BaseConsumer<Context>>,
        watch: &Arc<BaseConsumer<Context>>,
        woken: Receiver<()>,
        watched: BTreeMap<Place, i64>,
    ) -> Upkeep {
        Upkeep {
            options: self.options.clone(),
            index: self.index,
            context: self.context.clone(),
            shared: self.shared.clone(),
            outbox: self.outbox.clone(),
            commands: commands.clone(),
            watched: watch.clone(),
            woken,
            begun: watched,
            gone: BTreeSet::new(),
            ranges: BTreeMap::new(),
            written: BTreeMap::new(),
            read_all: BTreeMap::new(),
            standing: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Says so when the clock is behind the stamps of an earlier run, which are then gone on from.
    fn compare_clock(&self) {
        let newest = self.stamps.values().copied().fold(f64::NEG_INFINITY, f64::max);
        let behind = newest - clock::now().0;
        if behind >= LARGE_STEP_S {
            log::warn!(
                "the clock is {behind:.1} s behind the stamps of the last run: stamps stay ahead of it until it has \
                 caught up"
            );
        }
    }

    /// Tries until it succeeds; none if the daemon ends before.
    fn join(&self, consumer: &BaseConsumer<Context>, watch: &BaseConsumer<Context>) -> Option<Session> {
        let mut wait = BACKOFF.0;
        loop {
            if self.is_closing() {
                return None;
            }
            match setup::join(&self.options, self.index, consumer, watch, &self.context, &self.schemas) {
                Ok(session) => {
                    self.shared.troubles.over(&[Kind::SetUp, Kind::Broker, Kind::Authentication], "");
                    log::info!(
                        "Kafka: at {} as {} of lsst.{}",
                        self.options.brokers,
                        component(self.index),
                        self.options.topic_subname
                    );
                    return Some(session);
                }
                Err(Failure::NoAnswer(problem)) => self.shared.troubles.say_no_answer(&problem),
                Err(Failure::Wrong(problem)) => self.shared.troubles.say(Kind::SetUp, "", &problem),
            }
            let until = Instant::now() + wait;
            // What is pushed wakes us too.
            while !self.is_closing() && self.woken.recv_deadline(until).is_ok() {}
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }

    fn write(&mut self) {
        let mut end: Option<Instant> = None;
        loop {
            while let Some(outgoing) = self.outbox.take() {
                self.hand_over(outgoing);
            }
            if self.is_closing() {
                let end = *end.get_or_insert_with(|| Instant::now() + FLUSH);
                if self.outbox.is_done() || Instant::now() >= end {
                    return;
                }
            }
            let sleep = if self.is_closing() { Duration::from_millis(10) } else { IDLE };
            let sleep = match self.outbox.next_try() {
                Some(time) => {
                    time.saturating_duration_since(Instant::now()).max(Duration::from_millis(5)).min(sleep)
                }
                None => sleep,
            };
            select! {
                recv(self.woken) -> _ => {}
                recv(self.reports) -> report => if let Ok(report) = report { self.hear(report) },
                default(sleep) => {}
            }
            while let Ok(report) = self.reports.try_recv() {
                self.hear(report);
            }
        }
    }

    fn hand_over(&mut self, outgoing: Outgoing) {
        let Outgoing { id, seq_num, message } = outgoing;
        let topic = message.topic;
        let Some(writer) = self.schemas.writer(topic) else {
            // It was just taken away: the outbox keeps the rest by itself.
            self.outbox.refused(id, Refusal::Later);
            return;
        };
        let identity = component(self.index);
        let sent = self.stamp(topic);
        let header =
            Header { index: self.index, sent: Tai(sent), seq_num, identity: &identity, origin: self.origin };
        let bytes = match writer.message(&header, &message.own) {
            Ok(bytes) => bytes,
            // The schema was tried with every field, so this concerns only this message.
            Err(reason) => {
                log::error!("Kafka: {} {seq_num} {reason}", topic.sal_name());
                self.outbox.delivered(id);
                return;
            }
        };
        let (name, key) = (topic.kafka_name(&self.options.topic_subname), topic.key(self.index));
        if topic == HEARTBEAT {
            self.shared.own.add(sent, seq_num, Moment::now());
        }
        let record = BaseRecord::with_opaque_to(&name, id).key(&key).payload(&bytes);
        if let Err((error, _)) = self.producer.send(record) {
            self.refused(id, topic, &error);
        }
    }

    /// TAI now, and always later than the last of this topic: readers drop what is older.
    fn stamp(&mut self, topic: Topic) -> f64 {
        let now = clock::now().0;
        let stamp = match self.stamps.get(&topic) {
            // By another step each time, so that two instances whose clock was set back do not stamp alike.
            Some(last) if *last >= now => last + f64::from(fastrand::u16(1..=1000)) * 1e-6,
            Some(_) | None => now,
        };
        self.stamps.insert(topic, stamp);
        stamp
    }

    fn hear(&self, report: Report) {
        match report.result {
            Ok(()) => {
                if let Some(topic) = self.outbox.topic(report.id) {
                    let name = topic.kafka_name(&self.options.topic_subname);
                    if self.shared.troubles.over(&[Kind::Topic], &name) {
                        log::info!("Kafka: topic {name} can be written again");
                    }
                }
                if let Some(receipt) = self.outbox.delivered(report.id) {
                    self.confirm(receipt);
                }
                if self.shared.troubles.over(&[Kind::Broker, Kind::Authentication], "") {
                    log::info!("Kafka: the broker takes our messages again");
                }
            }
            Err(error) => {
                let topic = self.outbox.topic(report.id);
                if let Some(topic) = topic {
                    self.refused(report.id, topic, &error);
                }
            }
        }
    }

    /// Tells the main loop, which waits for us when it ends: then what cannot be told at once is said again.
    fn confirm(&self, receipt: Receipt) {
        let input = KafkaInput::Delivered(receipt);
        let told = if self.is_closing() {
            self.inputs.try_send(input).is_ok()
        } else {
            self.inputs.send(input).is_ok()
        };
        if !told {
            log::debug!("Kafka: a delivery was not noted");
        }
    }

    fn refused(&self, id: usize, topic: Topic, error: &KafkaError) {
        let (name, why) = (topic.kafka_name(&self.options.topic_subname), setup::code(error));
        match self.outbox.refused(id, client::refusal(error)) {
            Fate::Kept if self.is_closing() => {}
            Fate::Kept => {
                let text = format!("topic {name} cannot be written: {why}");
                self.shared.troubles.say(Kind::Topic, &name, &text);
            }
            Fate::Minimal => {
                log::error!(
                    "Kafka: a message for {name} was refused ({why}); its minimal form is sent instead"
                );
            }
            Fate::Dropped => log::error!("Kafka: a message for {name} was refused ({why}); it is lost"),
        }
    }
}
