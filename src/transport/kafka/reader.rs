//! Reads messages from Kafka, and the thread that passes commands to the main loop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;

use super::client::{Reader, is_of_partition, is_refusal};
use super::registry::Registry;
use super::trouble::Kind;
use super::wire::{Record, Topic, unframe};
use super::{Shared, spawn};
use crate::broker::reason;
use crate::csc::command::Command;
use crate::csc::id::SalIndex;
use crate::sal::topic::EventName;
use crate::text::quote;

/// Longest wait for a message; then the thread notices that the daemon ends.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// A consumer whose messages are decoded.
#[derive(Clone)]
pub(super) struct Feed {
    pub(super) consumer: Arc<Reader>,
    pub(super) shared: Arc<Shared>,
    /// What is read, in one word for the log.
    pub(super) what: &'static str,
}

/// The partition and offset of a message.
pub(super) type Position = (i32, i64);

/// The daemon ends.
pub(super) struct Ended;

impl Feed {
    /// Starts a thread that passes all commands to the main loop until the daemon ends.
    pub(super) fn start(self, taker: Sender<Command>) {
        let run = move || {
            while let Ok(message) = self.next(POLL) {
                // No other topic is read here.
                if let Some((_, Taken::Command(command))) = message
                    && taker.send(command).is_err()
                {
                    return;
                }
            }
        };
        spawn("kafka-read", "no commands are read", run);
    }

    /// The next message for our index, if one comes in time.
    pub(super) fn next(&self, wait: Duration) -> Result<Option<(Position, Taken)>, Ended> {
        if self.shared.is_closing() {
            return Err(Ended);
        }
        let message = match self.consumer.poll(wait.min(POLL)) {
            None => return Ok(None),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                if is_of_partition(&error) {
                    // The upkeep finds out which, and why.
                    self.shared.is_refused.fetch_or(is_refusal(&error), Ordering::AcqRel);
                    self.shared.wake_upkeep();
                // `AllBrokersDown` only repeats the errors of each broker.
                } else if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
                    let text = format!("{} cannot be read: {}", self.what, reason(&error));
                    self.shared.troubles.report(Kind::Consumer, self.what, &text);
                }
                return Ok(None);
            }
        };
        self.shared.troubles.over(Kind::Consumer, self.what);
        self.shared.troubles.over(Kind::Skipped, message.topic());
        let Some(topic) = self.shared.topic(message.topic()) else { return Ok(None) };
        let position = (message.partition(), message.offset());
        let registry = &self.shared.schemas.registry;
        let taken = take(registry, topic, message.payload(), self.shared.index).unwrap_or_else(|reason| {
            let (count, is_logged) = self.shared.skip(topic, 1);
            if is_logged {
                let name = topic.sal_name();
                log::warn!("Kafka: message {count} of {name} that cannot be taken: {reason}; skipped");
            }
            None
        });
        if registry.is_renewed.load(Ordering::Acquire) {
            self.shared.wake_upkeep();
        }
        Ok(taken.map(|taken| (position, taken)))
    }
}

/// A decoded message.
#[derive(Debug)]
pub enum Taken {
    /// A command.
    Command(Command),
    /// A heartbeat with our index.
    Heartbeat {
        /// `private_identity`, in one short line.
        identity: String,
        /// `private_origin`, the process id.
        origin: i32,
        /// `private_seqNum`.
        seq_num: i32,
        /// `private_sndStamp`.
        stamp: f64,
    },
    /// A summary state with our index; its code.
    State(i32),
}

/// Decodes a message; none if it is for another index.
///
/// # Errors
/// One line: why the message cannot be taken.
pub fn take(
    registry: &Registry,
    topic: Topic,
    value: Option<&[u8]>,
    index: SalIndex,
) -> Result<Option<Taken>, String> {
    let Some(record) = decode(registry, topic, value, index)? else { return Ok(None) };
    let name = match topic {
        Topic::Command(name) => name,
        Topic::Event(EventName::SummaryState) => return Ok(Some(Taken::State(record.int("summaryState")?))),
        Topic::Ack | Topic::Event(_) => {
            return Ok(Some(Taken::Heartbeat {
                identity: quote(&record.text("private_identity")?),
                origin: record.int("private_origin")?,
                seq_num: record.int("private_seqNum")?,
                stamp: record.double("private_sndStamp")?,
            }));
        }
    };
    let command = record.command(name)?;
    if command.sender.seq_num.0 < 1 {
        return Err(format!("private_seqNum {} is not positive", command.sender.seq_num.0));
    }
    Ok(Some(Taken::Command(command)))
}

/// The fields of a message; none if it is for another index.
pub(super) fn decode(
    registry: &Registry,
    topic: Topic,
    value: Option<&[u8]>,
    index: SalIndex,
) -> Result<Option<Record>, String> {
    let (id, datum) = unframe(value.ok_or("it has no value")?)?;
    let schema = registry.schema(topic, id, None)?;
    let record = Record::read(&schema, datum).or_else(|reason| {
        // The registry may have given the id to another schema.
        Record::read(&*registry.schema(topic, id, Some(&schema)).map_err(|_| reason)?, datum)
    })?;
    Ok((record.int("salIndex")? == index.number()).then_some(record))
}
