//! Where commands come from and where acks and events go. A transport knows nothing of jobs.

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
use crate::csc::record::Receipt;

/// How long another instance is listened for, before we begin and after it was heard last.
pub const LISTENING: Duration = Duration::from_secs(3);

/// What comes over Kafka besides commands.
#[derive(Debug)]
pub enum KafkaInput {
    /// No other instance was heard for long enough, or this was said.
    Joined,
    /// A heartbeat of ours was read back, and with it all heartbeats before it; when it was sent.
    Vouched(Moment),
    /// Another instance with our index lives; who it is.
    Intruder(String),
    /// The broker has taken what this names.
    Delivered(Receipt),
}

/// How it goes with Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KafkaReport {
    /// Where.
    pub brokers: String,
    /// `connecting`, `listening` (for another instance), `waiting for another instance` (to end) or `joined`.
    pub stage: &'static str,
    /// What is wrong, in one line.
    pub problem: Option<String>,
    /// Messages not confirmed yet.
    pub queued: usize,
    /// Messages dropped since there were too many.
    pub dropped: u64,
    /// Messages that came and could not be taken.
    pub undecodable: u64,
}
