//! The ways by which commands arrive and acks and events are sent. A transport knows nothing of jobs.

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

/// How long we listen for another instance before we start, and after its last heartbeat.
pub const LISTENING: Duration = Duration::from_secs(3);

/// What Kafka reports besides commands.
#[derive(Debug)]
pub enum KafkaInput {
    /// No other instance was heard for long enough: ours may begin, and claims the index when it is asked to.
    Alone,
    /// The index is claimed, and no other instance was first.
    Joined,
    /// A command that was sent when no instance took any: it is too late to carry it out.
    Missed(Command),
    /// A heartbeat of ours, sent at this moment, was read back, and with it all heartbeats before it.
    ReadBack(Moment),
    /// Another instance with our index is running; who it is.
    DuplicateInstance(String),
    /// The broker has taken what this names.
    Delivered(Receipt),
}

/// SAL over Kafka, as the main loop sees it.
pub trait Kafka {
    /// Answers a command that came over Kafka; its delivery is reported with [`KafkaInput::Delivered`].
    fn ack(&self, to: &CommandSender, command: Option<CommandName>, ack: &Ack, receipt: Option<Receipt>);

    /// Publishes an event; its delivery is reported with [`KafkaInput::Delivered`].
    fn publish(&self, event: &Event, receipt: Option<Receipt>);

    /// How it goes.
    fn report(&self) -> KafkaReport;

    /// Whether broker and registry were not reached yet.
    fn is_connecting(&self) -> bool;

    /// The other instance, if ours stands by for it.
    fn standing_by_for(&self) -> Option<String>;

    /// The daemon is ready to be the one instance with its index.
    fn claim(&self);

    /// The instance for which ours stands by has ended: ours need not wait longer.
    fn take_over(&self);

    /// From now on nothing is written any more.
    fn silence(&self);

    /// The daemon has begun its work: another instance that shows up from now on is not waited for.
    fn begun(&self);

    /// Ends: waits a little for the last messages to leave, unless there is no broker.
    fn close(self: Box<Self>);
}

/// What a look at Kafka found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KafkaFindings {
    /// What was looked at, and how it is, or what is wrong.
    pub list: Vec<(&'static str, Result<String, String>)>,
    /// How old the last heartbeat of our index is, in seconds, if there is one.
    pub heartbeat_age_s: Option<f64>,
}

/// The state of the connection to Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KafkaReport {
    /// Where.
    pub brokers: String,
    /// `connecting`, `listening` (for another instance), `waiting for another instance` (to end), `standing by` (for it)
    /// or `joined`.
    pub stage: &'static str,
    /// Whether it has joined, the brokers can be reached and commands are read, as far as is known.
    pub up: bool,
    /// The other instance that is waited for.
    pub other: Option<String>,
    /// What is wrong, in one line.
    pub problem: Option<String>,
    /// Messages not confirmed yet.
    pub queued: usize,
    /// Messages dropped since there were too many.
    pub dropped: u64,
    /// Messages that arrived and could not be decoded.
    pub undecodable: u64,
}
