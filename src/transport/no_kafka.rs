//! Replaces `kafka` in a build without it: says so to all who ask for Kafka.

use crossbeam_channel::Sender;

use super::{Kafka, KafkaFindings, KafkaInput};
use crate::config::kafka::Options;
use crate::csc::command::Command;
use crate::csc::id::SalIndex;
use crate::lease::Lease;

const NONE: &str = "this build has no Kafka: build it with --features kafka, or give --no-kafka";

/// # Errors
/// Always.
pub fn check(_: &Options, _: SalIndex) -> Result<(), String> {
    Err(NONE.to_owned())
}

/// Finds that this build has no Kafka.
pub fn examine(_: Options, _: SalIndex) -> KafkaFindings {
    KafkaFindings { list: vec![("brokers", Err(NONE.to_owned()))], heartbeat_age_s: None }
}

/// # Errors
/// Always.
pub fn start(
    _: Options,
    _: SalIndex,
    _: Lease,
    _: Sender<KafkaInput>,
    _: Sender<Command>,
) -> Result<Box<dyn Kafka>, String> {
    Err(NONE.to_owned())
}
