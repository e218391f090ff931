//! SAL over Kafka: commands in, acks and events out.
//!
//! Four threads: `kafka` joins and then writes, `kafka-watch` reads the heartbeats of other instances and our own,
//! `kafka-read` reads commands, `kafka-upkeep` checks the topics and the registry now and then. librdkafka has its own
//! threads, one of which reports what became of our messages. All of them use one `Shared`. The main loop only puts
//! messages into the `outbox` and takes commands and [`KafkaInput`]s; it never waits for a broker or a registry. Nothing
//! here knows what a job is.
//!
//! * `wire`: the bytes of messages; `registry`: questions to the schema registry; `schemas`: the schemas that we write with
//! * `outbox`: messages that are not yet confirmed; `trouble`: what is wrong
//! * `client`: the clients of librdkafka and their callbacks; `topics`: questions to the broker about our topics
//! * `examine`: what `ocps doctor` finds out
//! * `writer`, `watch`, `reader`, `upkeep`: one thread each

mod client;
mod examine;
mod outbox;
pub mod reader;
pub mod registry;
mod schemas;
mod topics;
mod trouble;
mod upkeep;
mod watch;
pub mod wire;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Kafka, KafkaInput, KafkaReport, Stage};
use crate::broker::{self, Role};
use crate::config::kafka::Options;
use crate::csc::command::{Command, CommandName, Sender as CommandSender};
use crate::csc::event::{Ack, Event};
use crate::csc::id::SalIndex;
use crate::csc::record::Receipt;
use crate::lease::Lease;
use crate::sal;
use crate::sal::ack::AckFields;
pub use examine::examine;
use outbox::{Message, Outbox};
use schemas::Schemas;
use topics::Place;
use trouble::{Kind, Troubles};
use watch::OwnHeartbeats;
use wire::Topic;

/// First and longest wait between tries to join.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest sleep of a thread, which then notices that the daemon ends.
const STEP: Duration = Duration::from_millis(100);
/// Longest wait for the last messages to leave when the daemon ends.
const FLUSH: Duration = Duration::from_secs(3);
/// The first skipped message of a topic is logged, and then one in so many.
const LOG_EACH: u64 = 10;

/// What the threads share.
struct Shared {
    options: Options,
    index: SalIndex,
    /// Our process id.
    origin: i32,
    inputs: Sender<KafkaInput>,
    outbox: Outbox,
    schemas: Schemas,
    /// The daemon ends.
    closing: AtomicBool,
    /// The daemon has begun its work, with Kafka or without.
    has_begun: AtomicBool,
    /// The daemon is ready to claim the index.
    may_claim: AtomicBool,
    /// The instance for which ours stands by has ended.
    is_handed_over: AtomicBool,
    /// The other instance for which ours waits or stands by.
    other: Mutex<Option<String>>,
    own: OwnHeartbeats,
    /// The ends of partitions as far as we know, from the broker's answers or from the offsets of our messages.
    ends: Mutex<BTreeMap<Place, i64>>,
    /// How many messages could not be read or decoded.
    skipped: Mutex<BTreeMap<Topic, u64>>,
    /// A reader may not read a topic; librdkafka does not report which.
    is_refused: AtomicBool,
    wake_upkeep: Sender<()>,
    troubles: Troubles,
    /// Decides whether ours or another instance that is heard has to end.
    lease: Lease,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(
        options: Options,
        index: SalIndex,
        lease: Lease,
        inputs: Sender<KafkaInput>,
        outbox: Outbox,
        wake_upkeep: Sender<()>,
    ) -> Self {
        Self {
            schemas: Schemas::new(&options),
            options,
            index,
            origin: i32::try_from(std::process::id()).unwrap_or(0),
            inputs,
            outbox,
            closing: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            may_claim: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
            other: Mutex::default(),
            own: OwnHeartbeats::default(),
            ends: Mutex::default(),
            skipped: Mutex::default(),
            is_refused: AtomicBool::new(false),
            wake_upkeep,
            troubles: Troubles::default(),
            lease,
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn enter(&self, stage: Stage) {
        self.outbox.change(|queue| queue.stage = stage);
    }

    /// Name of a topic in Kafka.
    fn name(&self, topic: Topic) -> String {
        topic.kafka_name(&self.options.topic_subname)
    }

    /// The topic with this name in Kafka.
    fn topic(&self, name: &str) -> Option<Topic> {
        Topic::all().find(|topic| self.name(*topic) == name)
    }

    /// Our `private_identity`.
    fn identity(&self) -> String {
        format!("OCPS:{}", self.index.number())
    }

    /// Has the upkeep check at once; if the channel is full, it is about to.
    fn wake_upkeep(&self) {
        let _ = self.wake_upkeep.try_send(());
    }

    /// Notes that a partition ends at this offset or later.
    fn reaches(&self, place: Place, end: i64) {
        let mut ends = lock(&self.ends);
        let known = ends.entry(place).or_insert(end);
        *known = end.max(*known);
    }

    /// Counts skipped messages; gives how many of this topic there are so far, and whether this is to be logged.
    fn skip(&self, topic: Topic, count: u64) -> (u64, bool) {
        let mut skipped = lock(&self.skipped);
        let total = skipped.entry(topic).or_default();
        let before = *total;
        *total = total.saturating_add(count);
        (*total, before == 0 || *total / LOG_EACH > before / LOG_EACH)
    }

    /// Sleeps; for a shorter time if the daemon ends.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_closing() && Instant::now() < until {
            thread::sleep(STEP.min(time));
        }
    }

    /// Repeats an attempt until it succeeds; none if the daemon ends before.
    fn persist<T>(&self, attempt: impl Fn() -> Result<T, String>) -> Option<T> {
        let mut wait = BACKOFF.0;
        while !self.is_closing() {
            match attempt() {
                Ok(result) => {
                    self.troubles.over(Kind::SetUp, "");
                    return Some(result);
                }
                Err(problem) => self.troubles.report(Kind::SetUp, "", &problem),
            }
            self.sleep(wait);
            wait = (wait * 2).min(BACKOFF.1);
        }
        None
    }
}

/// Starts a thread; if that fails, logs what is lacking without it.
fn spawn(name: &str, lack: &str, run: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        log::error!("Kafka: cannot start a thread, so {lack}: {error}");
    }
}

/// Checks that this build can do what these settings ask for, and that librdkafka accepts them. Connects to nothing.
///
/// # Errors
/// One line: what is not possible.
pub fn check(options: &Options, index: SalIndex) -> Result<(), String> {
    options.check_build()?;
    broker::check(options, index)
}

/// Begins to join. Commands go to `taker`, and all else to `inputs`.
///
/// # Errors
/// One line: the settings are not possible. That no broker answers is no error: joining is retried without end.
pub fn start(
    options: Options,
    index: SalIndex,
    lease: Lease,
    inputs: Sender<KafkaInput>,
    taker: Sender<Command>,
) -> Result<Box<dyn Kafka>, String> {
    check(&options, index)?;
    let (outbox, woken) = Outbox::new();
    let (wake_upkeep, upkeep_woken) = bounded(1);
    let (done_sender, done) = bounded(1);
    let shared = Arc::new(Shared::new(options, index, lease, inputs, outbox, wake_upkeep));
    let readers = watch::Readers {
        asker: client::create(&shared, Role::Consumer)?,
        watched: Arc::new(client::create(&shared, Role::Consumer)?),
        commands: Arc::new(client::create(&shared, Role::Consumer)?),
        upkeep_woken,
        taker,
    };
    let producer = client::create(&shared, Role::Producer)?;
    let writing = shared.clone();
    let run = move || {
        writer::run(writing, producer, woken, readers);
        let _ = done_sender.send(());
    };
    let thread = thread::Builder::new().name("kafka".to_owned()).spawn(run);
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(Box::new(Running { shared, done }))
}

/// Kafka, once it is started.
struct Running {
    shared: Arc<Shared>,
    done: Receiver<()>,
}

impl Kafka for Running {
    fn ack(&self, to: &CommandSender, command: Option<CommandName>, ack: &Ack, receipt: Option<Receipt>) {
        let fields = AckFields::from(ack);
        let own = vec![
            ("ack", sal::Value::Int(fields.code.number())),
            ("error", sal::Value::Int(fields.code.error())),
            ("result", sal::Value::String(fields.result)),
            ("identity", to.identity.as_str().into()),
            ("origin", sal::Value::Int(to.origin)),
            ("cmdtype", sal::Value::Int(command.map_or(0, wire::cmdtype))),
            ("timeout", sal::Value::Double(fields.timeout)),
        ];
        let message = Message { topic: Topic::Ack, seq_num: Some(to.seq_num.0), own, receipt };
        self.shared.outbox.change(|queue| queue.push(message));
    }

    fn publish(&self, event: &Event, receipt: Option<Receipt>) {
        self.shared.outbox.change(|queue| queue.push(Message::event(event, receipt)));
    }

    fn report(&self) -> KafkaReport {
        let (queued, dropped) = self.shared.outbox.queue().counts();
        let stage = self.stage();
        KafkaReport {
            brokers: self.shared.options.brokers.clone(),
            stage: stage.into(),
            up: stage == Stage::Joined && !self.shared.troubles.is_cut_off(),
            other: lock(&self.shared.other).clone(),
            problem: self.shared.troubles.current(),
            queued,
            dropped,
            undecodable: lock(&self.shared.skipped).values().sum(),
        }
    }

    fn stage(&self) -> Stage {
        self.shared.outbox.queue().stage
    }

    fn claim(&self) {
        self.shared.may_claim.store(true, Ordering::Release);
    }

    fn take_over(&self) {
        self.shared.is_handed_over.store(true, Ordering::Release);
    }

    fn silence(&self) {
        self.shared.enter(Stage::Connecting);
    }

    fn begun(&self) {
        self.shared.has_begun.store(true, Ordering::Release);
    }

    fn close(self: Box<Self>) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.outbox.change(|_| ());
        self.shared.wake_upkeep();
        if self.stage() != Stage::Connecting {
            let _ = self.done.recv_timeout(FLUSH + Duration::from_secs(1));
        }
        let (left, _) = self.shared.outbox.queue().counts();
        if left > 0 {
            log::warn!("Kafka: messages that were not delivered: {left}");
        }
    }
}
