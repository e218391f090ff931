//! The thread that reads: commands for us, and the heartbeats of others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message as _;

use super::Shared;
use super::client::Context;
use super::outbox::Outbox;
use super::permission::{Inquiry, is_refusal};
use super::registry::Registry;
use super::schemas::Schemas;
use super::setup::code;
use super::trouble::Kind;
use super::watch::is_of_partition;
use super::wire::{Record, Topic, one_line, unframe};
use crate::csc::command::Command;
use crate::csc::id::SalIndex;
use crate::transport::KafkaInput;

/// How long another instance is listened for.
const LISTENING: Duration = Duration::from_secs(3);
/// Longest wait for a message, after which it is looked whether to end.
const POLL: Duration = Duration::from_secs(1);
/// Most commands that are held back while another instance is listened for.
const HELD_MAX: usize = 1000;
/// Messages that cannot be taken are logged once, and then one in so many.
const COMPLAIN_EACH: u64 = 10;

/// Reads until the daemon ends.
pub(super) struct Reader {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    /// Wakes the one that finds out what cannot be read.
    pub(super) stumbled: Sender<()>,
    pub(super) schemas: Arc<Schemas>,
    pub(super) index: SalIndex,
    pub(super) origin: i32,
    /// Topics by their names in Kafka.
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) inputs: Sender<KafkaInput>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    /// Messages that could not be taken, by topic.
    pub(super) bad: BTreeMap<Topic, u64>,
    /// Asks which topic cannot be read.
    pub(super) inquiry: Inquiry,
}

/// Nobody takes inputs any more: the daemon ends.
struct Ended;

impl Reader {
    /// Runs the thread.
    pub(super) fn run(mut self) {
        // It ends when the daemon does.
        let _ = self.listen().and_then(|held| self.serve(held));
    }

    /// Listens for another instance; commands that come meanwhile are held.
    fn listen(&mut self) -> Result<Vec<Command>, Ended> {
        let until = Instant::now() + LISTENING;
        let mut held = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(held);
            }
            match self.poll(left)? {
                Some(KafkaInput::Command(command)) if held.len() < HELD_MAX => held.push(command),
                Some(KafkaInput::Command(_)) => log::warn!("too many commands while starting: ignored"),
                Some(input @ (KafkaInput::Intruder(_) | KafkaInput::Joined | KafkaInput::Delivered(_))) => {
                    self.hand_on(input)?
                }
                None => {}
            }
        }
    }

    fn serve(&mut self, held: Vec<Command>) -> Result<(), Ended> {
        self.shared.listening.store(false, Ordering::Release);
        self.hand_on(KafkaInput::Joined)?;
        self.outbox.open();
        for command in held {
            self.hand_on(KafkaInput::Command(command))?;
        }
        loop {
            if let Some(input) = self.poll(POLL)? {
                self.hand_on(input)?;
            }
        }
    }

    fn hand_on(&self, input: KafkaInput) -> Result<(), Ended> {
        self.inputs.send(input).map_err(|_| Ended)
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<KafkaInput>, Ended> {
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
            Some(Err(error)) => {
                let text = format!("commands cannot be read: {}", code(&error));
                self.shared.troubles.say(Kind::Consumer, "", &text);
                Ok(None)
            }
            Some(Ok(message)) => {
                if self.shared.troubles.over(&[Kind::Consumer], "") {
                    log::info!("Kafka: commands are read again");
                }
                self.shared.troubles.over(&[Kind::Skipped], message.topic());
                let Some(topic) = self.topics.get(message.topic()).copied() else { return Ok(None) };
                let taken = take(&self.schemas.registry, topic, message.payload(), self.index);
                drop(message);
                Ok(self.judge(topic, taken))
            }
        }
    }

    /// What is of interest of a message.
    fn judge(&mut self, topic: Topic, taken: Result<Option<Taken>, String>) -> Option<KafkaInput> {
        match taken {
            Ok(Some(Taken::Command(command))) => Some(KafkaInput::Command(command)),
            Ok(Some(Taken::Heartbeat { identity, origin })) => {
                // As long as we are silent every heartbeat is another's, also one with our process id,
                // which in containers is often the same.
                let listening = self.shared.listening.load(Ordering::Acquire);
                (listening || origin != self.origin)
                    .then(|| KafkaInput::Intruder(format!("{identity}, process {origin}")))
            }
            Ok(None) => None,
            Err(reason) => {
                self.shared.undecodable.fetch_add(1, Ordering::Relaxed);
                let count = self.bad.entry(topic).or_insert(0);
                *count += 1;
                if *count == 1 || count.is_multiple_of(COMPLAIN_EACH) {
                    let name = topic.sal_name();
                    log::warn!("Kafka: message {count} of {name} that cannot be taken: {reason}; skipped");
                }
                None
            }
        }
    }
}

/// What a message was.
#[derive(Debug)]
pub enum Taken {
    /// A command.
    Command(Command),
    /// Another instance lives.
    Heartbeat {
        /// Who it is, in one short line.
        identity: String,
        /// Its process.
        origin: i32,
    },
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
        Topic::Ack | Topic::Event(_) => {
            let identity = one_line(&record.text("private_identity")?);
            let origin = record.int("private_origin")?;
            return Ok(Some(Taken::Heartbeat { identity, origin }));
        }
    };
    let command = record.command(name)?;
    if command.sender.seq_num.0 < 1 {
        return Err(format!("private_seqNum {} is not positive", command.sender.seq_num.0));
    }
    Ok(Some(Taken::Command(command)))
}
