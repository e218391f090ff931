//! Where commands come from and where acks and events go. A transport knows nothing about jobs.

pub mod admission;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(not(feature = "kafka"))]
#[path = "no_kafka.rs"]
pub mod kafka;
pub mod line;
pub mod socket;
pub mod socket_path;

use std::time::Duration;

use serde::Serialize;

use crate::clock::Moment;
use crate::csc::command::{Command, CommandName, Sender as CommandSender};
use crate::csc::event::{Ack, Event};
use crate::csc::record::Receipt;

/// How long we listen for another instance before we start; also how long one counts as running after its last heartbeat.
pub const LISTENING: Duration = Duration::from_secs(3);

/// What Kafka reports besides commands.
#[derive(Debug)]
pub enum KafkaInput {
    /// No other instance was heard for long enough: ours may begin, and claims the index after [`Kafka::claim`].
    Alone,
    /// The index is claimed, and no other instance was first.
    Joined,
    /// A command that was sent while no instance took commands: it is too late to carry it out.
    Missed(Command),
    /// A heartbeat of ours, sent at this moment, was read back, and with it all heartbeats before it.
    ReadBack(Moment),
    /// Another instance with our index is running: its identity and process.
    DuplicateInstance(String),
    /// The broker has taken the message with this receipt.
    Delivered(Receipt),
}

/// How far Kafka has come. What may be written depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Stage {
    /// Broker and registry were not reached yet.
    #[default]
    Connecting,
    /// No heartbeat of another instance has come yet, but one may.
    Listening,
    /// Another instance is running, and may end.
    #[strum(serialize = "waiting for another instance")]
    Waiting,
    /// Another instance is running, and ours takes over when it is gone.
    #[strum(serialize = "standing by")]
    StandingBy,
    /// No other instance is heard: ours writes heartbeats, and waits until the first of them is read back.
    #[strum(serialize = "listening")]
    Claiming,
    /// No other instance is running.
    Joined,
}

/// SAL over Kafka, as the main loop sees it.
pub trait Kafka {
    /// Answers a command that came over Kafka; its delivery is reported with [`KafkaInput::Delivered`].
    fn ack(&self, to: &CommandSender, command: Option<CommandName>, ack: &Ack, receipt: Option<Receipt>);

    /// Publishes an event; its delivery is reported with [`KafkaInput::Delivered`].
    fn publish(&self, event: &Event, receipt: Option<Receipt>);

    /// The state of the connection, for people.
    fn report(&self) -> KafkaReport;

    /// How far Kafka has come.
    fn stage(&self) -> Stage;

    /// The daemon is ready to be the only instance with its index.
    fn claim(&self);

    /// The instance for which ours stands by has ended: ours need not wait longer.
    fn take_over(&self);

    /// Nothing may be written from now on.
    fn silence(&self);

    /// The daemon has begun its work: it does not wait for another instance that shows up from now on.
    fn begun(&self);

    /// Ends; waits a little for the last messages to leave, unless no broker was ever reached.
    fn close(self: Box<Self>);
}

/// What a look at Kafka found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KafkaFindings {
    /// What was looked at, and its state, or what is wrong.
    pub list: Vec<(&'static str, Result<String, String>)>,
    /// The age of the last heartbeat of our index in seconds, if there is one.
    pub heartbeat_age_s: Option<f64>,
}

/// The state of the connection to Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KafkaReport {
    /// The addresses of the brokers.
    pub brokers: String,
    /// The name of the [`Stage`].
    pub stage: &'static str,
    /// Whether Kafka is joined, the brokers can be reached and commands are read, as far as is known.
    pub up: bool,
    /// The other instance for which ours waits or stands by.
    pub other: Option<String>,
    /// What is wrong, in one line.
    pub problem: Option<String>,
    /// Messages that the broker has not confirmed yet.
    pub queued: usize,
    /// Messages that were dropped because there were too many.
    pub dropped: u64,
    /// Messages that came and could not be decoded.
    pub undecodable: u64,
}
