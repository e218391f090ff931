//! The schemas that we write with: chosen when joining, and checked from then on.
//!
//! Where the registry has no schema for a topic that we can write with, only this topic waits: the outbox keeps its
//! messages, and the registry is asked again now and then. A registry that lost its data gets our schemas again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::registry::{Failure, Registry};
use super::trouble::Kind;
use super::wire::{Topic, Writer, parse_schema};
use super::{Shared, lock, topics};
use crate::config::kafka::Options;

/// Most questions to the registry at once: one that answers slowly delays the start by two to four answers.
const AT_ONCE: usize = 8;
/// Time between two checks of the registry; while all is well each asks for one id.
const EACH: Duration = Duration::from_secs(10);
/// After how many failed checks in succession the failure is reported.
const FAILED_CHECKS: u32 = 2;

/// The schemas, and the registry that they come from.
pub(super) struct Schemas {
    pub(super) registry: Registry,
    /// The schemas of the topics that can be written.
    writers: Mutex<BTreeMap<Topic, Arc<Writer>>>,
}

/// How the last check of the registry ended.
#[derive(Default)]
pub(super) struct Check {
    at: Option<Instant>,
    /// How many checks failed in succession. After one, the registry may have lost its data: all our ids are checked, not
    /// only one.
    failed: u32,
}

impl Schemas {
    /// No schemas yet; asks the registry nothing.
    pub(super) fn new(options: &Options) -> Self {
        Self { registry: Registry::new(&options.registry_urls), writers: Mutex::default() }
    }

    /// The schema that we write a topic with, if there is one.
    pub(super) fn writer(&self, topic: Topic) -> Option<Arc<Writer>> {
        lock(&self.writers).get(&topic).cloned()
    }

    /// Whether `count` of our ids, or all if there are fewer, still mean our schemas.
    fn are_valid(&self, count: usize) -> Result<bool, String> {
        let writers: Vec<Arc<Writer>> = lock(&self.writers).values().cloned().collect();
        let first = fastrand::usize(..writers.len().max(1));
        for writer in writers.iter().cycle().skip(first).take(count.min(writers.len())) {
            let found = self.registry.text(writer.id)?;
            let found = found.and_then(|text| parse_schema(&text).ok());
            if found.as_ref() != Some(&writer.schema) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Shared {
    /// Chooses a schema for each topic that is written and has none yet.
    ///
    /// # Errors
    /// One line: the registry cannot be asked, or none of our topics can be written.
    pub(super) fn choose_schemas(&self) -> Result<(), String> {
        let without: Vec<Topic> = written().filter(|topic| self.schemas.writer(*topic).is_none()).collect();
        self.choose_schemas_for(&without)
    }

    fn choose_schemas_for(&self, topics: &[Topic]) -> Result<(), String> {
        let refused = ask_each(topics, |topic| {
            let writer = self.schemas.registry.writer(topic, &self.subject(topic))?;
            lock(&self.schemas.writers).insert(topic, Arc::new(writer));
            self.outbox.change(|queue| queue.set_writable(topic));
            self.troubles.over(Kind::Schema, &self.name(topic));
            Ok(())
        })?;
        if let Some((_, reason)) = refused.first().filter(|_| refused.len() == written().count()) {
            return Err(format!("no topic can be written: {reason}"));
        }
        for (topic, reason) in refused {
            lock(&self.schemas.writers).remove(&topic);
            self.outbox.change(|queue| queue.set_unwritable(topic));
            let name = self.name(topic);
            self.troubles.report(Kind::Schema, &name, &format!("nothing is published to {name}: {reason}"));
        }
        Ok(())
    }

    /// Checks the registry, if it is time.
    pub(super) fn check_schemas(&self, check: &mut Check) {
        let is_renewed = self.schemas.registry.is_renewed.swap(false, Ordering::AcqRel);
        if !is_renewed && check.at.is_some_and(|at| at.elapsed() < EACH) {
            return;
        }
        let checked = self.check_schemas_now(is_renewed || check.at.is_none() || check.failed > 0);
        let failed = if checked.is_ok() { 0 } else { check.failed + 1 };
        *check = Check { at: Some(Instant::now()), failed };
        match checked {
            Ok(()) => self.troubles.over(Kind::Registry, ""),
            Err(reason) if failed >= FAILED_CHECKS => {
                let text = format!("{reason}; known schemas are still used");
                self.troubles.report(Kind::Registry, "", &text);
            }
            Err(_) => {}
        }
    }

    fn check_schemas_now(&self, is_doubtful: bool) -> Result<(), String> {
        let registry = &self.schemas.registry;
        let is_valid = self.schemas.are_valid(if is_doubtful { usize::MAX } else { 1 })?;
        if !is_valid {
            registry.forget();
            self.choose_schemas_for(&written().collect::<Vec<_>>())?;
            log::warn!("Kafka: the schema registry has lost its data; our schemas are registered again");
            // Late joiners cannot read the messages that were written before.
            self.outbox.change(|queue| written().for_each(|topic| queue.repeat(topic)));
        }
        if is_doubtful || !is_valid {
            let commands: Vec<Topic> = Topic::all().filter(|topic| topics::is_command(*topic)).collect();
            // Senders of commands need schemas.
            for (_, reason) in ask_each(&commands, |topic| registry.reader(topic, &self.subject(topic)))? {
                log::debug!("Kafka: {reason}");
            }
        }
        // Topics that could not be written may have other schemas now.
        self.choose_schemas()
    }

    pub(super) fn subject(&self, topic: Topic) -> String {
        format!("{}-value", self.name(topic))
    }
}

fn written() -> impl Iterator<Item = Topic> {
    Topic::all().filter(|topic| !topics::is_command(*topic))
}

/// Asks for each topic, several at a time; gives the topics that are refused, and why.
///
/// # Errors
/// A question got no answer; no others are asked then.
fn ask_each(
    topics: &[Topic],
    ask: impl Fn(Topic) -> Result<(), Failure> + Sync,
) -> Result<Vec<(Topic, String)>, String> {
    let ask = &ask;
    let mut refused = Vec::new();
    for some in topics.chunks(AT_ONCE) {
        let results: Option<Vec<_>> = thread::scope(|scope| {
            let start = |topic: Topic| {
                let thread = thread::Builder::new().name("kafka-schema".to_owned());
                thread.spawn_scoped(scope, move || (topic, ask(topic)))
            };
            let started: Vec<_> = some.iter().copied().map(start).collect();
            started.into_iter().map(|thread| thread.ok()?.join().ok()).collect()
        });
        for (topic, result) in results.ok_or("cannot start a thread that asks the schema registry")? {
            match result {
                Ok(()) => {}
                Err(Failure::Refused(reason)) => refused.push((topic, reason)),
                Err(Failure::NoAnswer(reason)) => return Err(reason),
            }
        }
    }
    Ok(refused)
}
