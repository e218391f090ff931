//! What comes over Kafka, message by message; and the thread that hands the commands on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;

use super::Shared;
use super::client::Context;
use super::permission::{Inquiry, is_refusal};
use super::registry::Registry;
use super::schemas::Schemas;
use super::setup::code;
use super::trouble::Kind;
use super::upkeep::is_of_partition;
use super::wire::{Record, Topic, unframe};
use crate::csc::command::Command;
use crate::csc::id::SalIndex;
use crate::sal::topic::EventName;
use crate::text::quote;

/// Longest wait for a message, after which it is looked whether to end.
const POLL: Duration = Duration::from_secs(1);
/// Messages that cannot be taken are logged once, and then one in so many.
const COMPLAIN_EACH: u64 = 10;

/// A consumer, and what makes sense of its messages.
pub(super) struct Feed {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    /// Wakes the one that finds out what cannot be read.
    pub(super) stumbled: Sender<()>,
    pub(super) schemas: Arc<Schemas>,
    pub(super) index: SalIndex,
    /// Topics by their names in Kafka.
    pub(super) topics: Arc<BTreeMap<String, Topic>>,
    pub(super) shared: Arc<Shared>,
    /// Messages that could not be taken, by topic.
    pub(super) bad: BTreeMap<Topic, u64>,
    /// Asks which topic cannot be read.
    pub(super) inquiry: Inquiry,
    /// What is read, in one word.
    pub(super) what: &'static str,
}

/// The daemon ends, or nobody takes what comes any more.
pub(super) struct Ended;

/// Where a message was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Feed {
    /// Hands all commands on until the daemon ends.
    pub(super) fn hand_on(mut self, commands: &Sender<Command>) {
        loop {
            match self.next(POLL) {
                Ok(Some((_, Taken::Command(command)))) => {
                    if commands.send(command).is_err() {
                        return;
                    }
                }
                // No other topic is read here.
                Ok(Some((_, Taken::Heartbeat { .. } | Taken::State(_))) | None) => {}
                Err(Ended) => return,
            }
        }
    }

    /// The next message for our index, if one comes in time.
    pub(super) fn next(&mut self, wait: Duration) -> Result<Option<(Position, Taken)>, Ended> {
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(Ended);
        }
        match self.consumer.poll(wait.min(POLL)) {
            None => Ok(None),
            Some(Err(error)) if is_refusal(&error) => {
                self.inquiry.start();
                Ok(None)
            }
            Some(Err(error)) if is_of_partition(&error) => {
                // A full channel means that it is about to look.
                let _ = self.stumbled.try_send(());
                Ok(None)
            }
            // The connection's own words say more.
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) => {
                Ok(None)
            }
            Some(Err(error)) => {
                let text = format!("{} cannot be read: {}", self.what, code(&error));
                self.shared.troubles.say(Kind::Consumer, self.what, &text);
                Ok(None)
            }
            Some(Ok(message)) => {
                if self.shared.troubles.over(&[Kind::Consumer], self.what) {
                    log::info!("Kafka: {} are read again", self.what);
                }
                self.shared.troubles.over(&[Kind::Skipped], message.topic());
                let Some(topic) = self.topics.get(message.topic()).copied() else { return Ok(None) };
                let position = Position { partition: message.partition(), offset: message.offset() };
                let taken = take(&self.schemas.registry, topic, message.payload(), self.index);
                drop(message);
                let taken = taken.unwrap_or_else(|reason| {
                    self.complain(topic, &reason);
                    None
                });
                Ok(taken.map(|taken| (position, taken)))
            }
        }
    }

    fn complain(&mut self, topic: Topic, reason: &str) {
        self.shared.undecodable.fetch_add(1, Ordering::Relaxed);
        let count = self.bad.entry(topic).or_insert(0);
        *count += 1;
        if *count == 1 || count.is_multiple_of(COMPLAIN_EACH) {
            let name = topic.sal_name();
            log::warn!("Kafka: message {count} of {name} that cannot be taken: {reason}; skipped");
        }
    }
}

/// What a message was.
#[derive(Debug)]
pub enum Taken {
    /// A command.
    Command(Command),
    /// A heartbeat with our index.
    Heartbeat {
        /// Whose it is, in one short line.
        identity: String,
        /// Its process.
        origin: i32,
        /// Its number.
        seq_num: i32,
        /// Its stamp.
        stamp: f64,
    },
    /// A summary state with our index; its code.
    State(i32),
}

/// Decodes the value of a message; none if it is for another index.
///
/// # Errors
/// One line: why it cannot be taken.
pub fn take(
    registry: &Registry,
    topic: Topic,
    value: Option<&[u8]>,
    index: SalIndex,
) -> Result<Option<Taken>, String> {
    let (id, datum) = unframe(value.ok_or("it has no value")?)?;
    let schema = registry.schema(topic, id)?;
    let record = Record::read(&schema, datum).or_else(|reason| {
        // The registry may have given the id anew, to another version.
        let another = registry.another(topic, id, &schema).ok_or(reason)?;
        Record::read(&another, datum)
    })?;
    if record.int("salIndex")? != index.number() {
        return Ok(None);
    }
    let name = match topic {
        Topic::Command(name) => name,
        Topic::Event(EventName::SummaryState) => return Ok(Some(Taken::State(record.int("summaryState")?))),
        Topic::Ack | Topic::Event(_) => {
            return Ok(Some(Taken::Heartbeat {
                identity: quote(record.text("private_identity")?),
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
