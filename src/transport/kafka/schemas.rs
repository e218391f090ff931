//! The schemas that we write with: chosen when joining, some at a time, and looked after from then on.
//!
//! A topic for which the registry has no schema that can be written waits alone: the outbox keeps what is owed
//! there, and the registry is asked again now and then. A registry that lost its data gets our schemas again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use super::outbox::Outbox;
use super::registry::{Failure, Registry};
use super::trouble::Kind;
use super::wire::{Topic, Writer};
use crate::config::kafka::Options;

/// Questions under way at once: one that answers slowly delays the start by two or four answers.
const AT_ONCE: usize = 8;
/// Time between two looks at the registry; while all is well each asks for one id.
const LOOK: Duration = Duration::from_secs(10);
/// How long until a topic that cannot be written is asked about again.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// Longest sleep, after which it is looked whether to end.
const SLEEP: Duration = Duration::from_millis(500);
/// After how many looks in succession that failed it is said.
const FAILED_LOOKS: u32 = 2;

/// The schemas, and the registry that they come from.
pub(super) struct Schemas {
    pub(super) registry: Registry,
    subname: String,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    /// Of the topics that can be written.
    writers: Mutex<BTreeMap<Topic, Arc<Writer>>>,
}

/// What is to be looked at next.
struct Look {
    /// The topics that we read are registered.
    commands: bool,
    /// All our ids are to be looked at, not only the next.
    all: bool,
    /// Which is the next.
    next: usize,
    /// When the topics that cannot be written were asked about.
    refused: Instant,
    failed: u32,
}

impl Schemas {
    /// Asks nothing yet.
    pub(super) fn new(options: &Options, outbox: Arc<Outbox>, shared: Arc<Shared>) -> Self {
        Self {
            registry: Registry::new(&options.registry_urls),
            subname: options.topic_subname.clone(),
            outbox,
            shared,
            writers: Mutex::default(),
        }
    }

    /// What a topic is written with, if it can be.
    pub(super) fn writer(&self, topic: Topic) -> Option<Arc<Writer>> {
        self.writers().get(&topic).cloned()
    }

    /// Chooses a schema for each topic that has none yet.
    ///
    /// # Errors
    /// One line: the registry cannot be asked, or none of our topics can be written.
    pub(super) fn choose(&self) -> Result<(), String> {
        let chosen: Vec<Topic> = self.writers().keys().copied().collect();
        self.choose_for(&written().filter(|topic| !chosen.contains(topic)).collect::<Vec<_>>())
    }

    fn choose_for(&self, topics: &[Topic]) -> Result<(), String> {
        let (mut refused, mut no_answer) = (Vec::new(), None);
        let ask = |topic| self.registry.writer(topic, &self.subject(topic));
        for (topic, result) in some_at_a_time(topics, ask) {
            match result {
                Ok(writer) => self.take(topic, writer),
                Err(Failure::Refused(reason)) => refused.push((topic, reason)),
                Err(Failure::NoAnswer(reason)) => no_answer = Some(reason),
            }
        }
        if let Some(reason) = no_answer {
            return Err(reason);
        }
        if let Some((_, reason)) = refused.first().filter(|_| refused.len() == written().count()) {
            return Err(format!("no topic can be written: {reason}"));
        }
        refused.iter().for_each(|(topic, reason)| self.refuse(*topic, reason));
        Ok(())
    }

    fn take(&self, topic: Topic, writer: Writer) {
        self.writers().insert(topic, Arc::new(writer));
        self.outbox.set_writable(topic);
        let name = topic.kafka_name(&self.subname);
        if self.shared.troubles.over(&[Kind::Schema], &name) {
            log::info!("Kafka: topic {name} has a schema now that can be written");
        }
    }

    fn refuse(&self, topic: Topic, reason: &str) {
        self.writers().remove(&topic);
        self.outbox.set_unwritable(topic);
        let name = topic.kafka_name(&self.subname);
        let text = format!("nothing is published to {name}: {reason}");
        self.shared.troubles.say(Kind::Schema, &name, &text);
    }

    /// Runs until the daemon ends.
    pub(super) fn look_after(&self) {
        let mut look = Look { commands: false, all: false, next: 0, refused: Instant::now(), failed: 0 };
        while !self.shared.closing.load(Ordering::Acquire) {
            match self.look(&mut look) {
                Ok(()) => {
                    look.failed = 0;
                    if self.shared.troubles.over(&[Kind::Registry], "") {
                        log::info!("Kafka: the schema registry answers again");
                    }
                }
                Err(reason) => {
                    look.failed += 1;
                    // It may come back without its data.
                    look.all = true;
                    if look.failed >= FAILED_LOOKS {
                        let text = format!("{reason}; schemas that are known go on working");
                        self.shared.troubles.say(Kind::Registry, "", &text);
                    }
                }
            }
            let until = Instant::now() + LOOK;
            while Instant::now() < until && !self.shared.closing.load(Ordering::Acquire) {
                if self.registry.renewed().recv_timeout(SLEEP).is_ok() {
                    look.all = true;
                    break;
                }
            }
        }
    }

    fn look(&self, look: &mut Look) -> Result<(), String> {
        if !self.are_valid(look)? {
            look.all = true;
            self.registry.forget();
            self.choose_for(&written().collect::<Vec<_>>())?;
            log::warn!("Kafka: the schema registry has lost its data; it has our schemas again");
            // What was written before can no longer be read by those who come late.
            written().for_each(|topic| self.outbox.say_again(topic));
            look.commands = false;
        }
        look.all = false;
        if !look.commands {
            let commands: Vec<Topic> = Topic::all().filter(|topic| !is_written(*topic)).collect();
            let ask = |topic| self.registry.reader(topic, &self.subject(topic));
            for (_, result) in some_at_a_time(&commands, ask) {
                match result {
                    Ok(()) => {}
                    Err(Failure::NoAnswer(reason)) => return Err(reason),
                    // Whoever commands has a schema.
                    Err(Failure::Refused(reason)) => log::debug!("Kafka: {reason}"),
                }
            }
            look.commands = true;
        }
        if look.refused.elapsed() >= REFUSED_AGAIN {
            look.refused = Instant::now();
            self.choose()?;
        }
        Ok(())
    }

    /// Whether our ids still mean our schemas, as far as it is time to look.
    fn are_valid(&self, look: &mut Look) -> Result<bool, String> {
        let writers: Vec<Arc<Writer>> = self.writers().values().cloned().collect();
        let count = if look.all { writers.len() } else { 1 };
        for writer in writers.iter().cycle().skip(look.next % writers.len().max(1)).take(count) {
            look.next = look.next.wrapping_add(1);
            if !self.registry.means(writer.id(), writer.schema())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn subject(&self, topic: Topic) -> String {
        format!("{}-value", topic.kafka_name(&self.subname))
    }

    fn writers(&self) -> MutexGuard<'_, BTreeMap<Topic, Arc<Writer>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_written(topic: Topic) -> bool {
    match topic {
        Topic::Ack | Topic::Event(_) => true,
        Topic::Command(_) => false,
    }
}

fn written() -> impl Iterator<Item = Topic> {
    Topic::all().filter(|topic| is_written(*topic))
}

/// Asks for each topic; when one gets no answer, no more are begun.
fn some_at_a_time<T: Send>(
    topics: &[Topic],
    ask: impl Fn(Topic) -> Result<T, Failure> + Sync,
) -> Vec<(Topic, Result<T, Failure>)> {
    let (next, failed, results) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(topic) = topics.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let result = ask(*topic);
            failed.fetch_or(matches!(result, Err(Failure::NoAnswer(_))), Ordering::Relaxed);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((*topic, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(topics.len()) {
            // Without it the others do its part.
            let _ = thread::Builder::new().name("kafka-schema".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}
