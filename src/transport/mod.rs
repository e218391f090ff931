//! Where commands come from and where acks and events go. A transport knows nothing of jobs.

pub mod document;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(not(feature = "kafka"))]
#[path = "no_kafka.rs"]
pub mod kafka;
pub mod line;
pub mod private_dir;
pub mod socket;
pub mod socket_path;

use crate::csc::command::Command;
use crate::csc::record::Receipt;

/// What comes over Kafka.
#[derive(Debug)]
pub enum KafkaInput {
    /// A command for us.
    Command(Command),
    /// For three seconds no other instance was heard, or this was said.
    Joined,
    /// Another instance with our index lives; who it is.
    Intruder(String),
    /// The broker has taken what this names.
    Delivered(Receipt),
}

/// How it goes with Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaReport {
    /// Where.
    pub brokers: String,
    /// `connecting`, `listening` (for another instance) or `joined`.
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
