//! When records are written, and what is reported: the journal without its thread, its clock and its disk.
//!
//! Records come in batches, one for each turn of the core. A batch is never split; all batches that wait are written
//! together, in order, in one commit. Where many jobs end, their results wait for one another, so that commits do not take
//! the processor that the results need. Batches that cannot be written are kept and tried again. Knows nothing of SQLite.

use std::collections::VecDeque;
use std::time::Duration;

use super::store::{Store, Upkeep};
use crate::csc::event::ResultObject;
use crate::csc::record::{Awaited, Record, Work};
use crate::csc::time::Time;

/// Most records in one commit, unless a single batch has more.
const GROUP_MAX: usize = 1000;
/// A record with large texts counts as one more for each of so many bytes.
const TEXT_BYTES: usize = 4096;
/// Time between the beginnings of two commits of results, unless something is to be written that does not wait.
const RESULTS_EVERY: Duration = Duration::from_millis(100);
/// Time until the first retry, and the least time between two retries when new records come.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest time between two retries; each comes after twice as long as the one before.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long nothing was written when upkeep begins.
const QUIET: Duration = Duration::from_secs(1);
/// How long upkeep is put off where records keep coming.
const UPKEEP_PATIENCE: Duration = Duration::from_secs(10);
/// Time between parts of upkeep.
const UPKEEP_PAUSE: Duration = Duration::from_millis(50);

/// What became of the records that were handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The first commit succeeded after one or more that failed; comes before the report of what it made durable.
    Back,
    /// These records are durable ([`Record::awaited`]).
    Durable(Vec<Awaited>),
    /// The records that wait could not be written, why in one line. They are kept and written as soon as possible.
    ///
    /// A retry that fails is not reported unless new records came.
    Failed(String),
}

/// Takes records and writes them to a store.
#[derive(Debug)]
pub struct Writer<S> {
    /// Where the records are written; what a crash would leave.
    pub store: S,
    /// The records of each turn that are not written yet.
    waiting: VecDeque<Vec<Record>>,
    /// How many records wait to be written; one with large texts counts as several.
    pub load: usize,
    /// Why nothing can be written at present.
    pub failure: Option<Failure>,
    /// Until when results wait for others.
    results_at: Duration,
    upkeep_at: Duration,
    /// Why the last upkeep failed: all is durable, but the files grow.
    pub upkeep_problem: Option<String>,
    /// Since when upkeep has something to do.
    unkept_since: Option<Duration>,
}

/// How many records these count as.
pub(super) fn load(records: &[Record]) -> usize {
    records.iter().map(|record| 1 + text_bytes(record) / TEXT_BYTES).sum()
}

/// Whether these records can wait for a moment: results, deliveries and notes. An empty batch asks whether the journal is
/// still ours, which cannot wait.
fn may_wait(records: &[Record]) -> bool {
    let waits = |record: &Record| match record {
        // Without a result it is the answer to a client, which may wait for it before it sends the next command.
        Record::Ended { end, .. } => end.result.is_some(),
        Record::Delivered(_) | Record::Noted { .. } => true,
        Record::Accepted(_)
        | Record::Created { .. }
        | Record::Suspected { .. }
        | Record::Cleared { .. }
        | Record::Seen { .. }
        | Record::Searched
        | Record::State { .. } => false,
    };
    !records.is_empty() && records.iter().all(waits)
}

/// The size of the texts of a record that may be large, in bytes.
fn text_bytes(record: &Record) -> usize {
    match record {
        Record::Accepted(entry) => match &entry.work {
            Work::Execute { submission, .. } => {
                submission.environment.iter().map(|(_, value)| value.len()).sum()
            }
            Work::Abort { .. } => 0,
        },
        Record::Ended { end, .. } => match end.result.as_ref().map(|result| &result.result) {
            Some(ResultObject::Service(object)) => object.0.len(),
            Some(ResultObject::Known { .. }) | None => 0,
        },
        Record::Seen { sender, .. } => sender.identity.len(),
        Record::State { override_name, .. } => override_name.len(),
        Record::Noted { note, .. } => note.about.len(),
        Record::Created { .. }
        | Record::Suspected { .. }
        | Record::Cleared { .. }
        | Record::Delivered(_)
        | Record::Searched => 0,
    }
}

/// Why nothing can be written at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why, in one line.
    pub reason: String,
    /// Since when.
    pub since: Duration,
    tried: Duration,
    pause: Duration,
    /// How many turns waited at the last try.
    turns: usize,
}

impl<S: Store> Writer<S> {
    /// Nothing waits yet.
    pub fn new(store: S) -> Self {
        Self {
            store,
            waiting: VecDeque::new(),
            load: 0,
            failure: None,
            results_at: Duration::ZERO,
            upkeep_at: QUIET,
            upkeep_problem: None,
            unkept_since: None,
        }
    }

    /// Takes the records of one turn, which wait for the next [`Writer::turn`].
    pub fn take(&mut self, records: Vec<Record>) {
        self.load += load(&records);
        self.waiting.push_back(records);
    }

    /// When the next turn is due, on the clock of [`Time::mono`]; it may be in the past.
    pub fn wake_at(&self) -> Duration {
        match (self.write_at(), &self.failure) {
            (Some(at), Some(_)) => at,
            (Some(at), None) => at.min(self.upkeep_at),
            (None, _) => self.upkeep_at,
        }
    }

    /// Does what is due: one commit, or a part of the upkeep.
    pub fn turn(&mut self, now: Time) -> Vec<Report> {
        let write = self.write_at().is_some_and(|at| at <= now.mono);
        let patient = self.unkept_since.is_none_or(|since| now.mono < since + UPKEEP_PATIENCE);
        if self.failure.is_none() && self.upkeep_at <= now.mono && (!write || !patient) {
            self.upkeep(now);
            return Vec::new();
        }
        if !write {
            return Vec::new();
        }
        if self.failure.is_some() {
            // Upkeep may make room; if it fails, the commit says why.
            let _ = self.store.upkeep(now.tai);
        }
        self.write(now.mono)
    }

    /// Writes all that waits, without retries: the daemon ends.
    ///
    /// # Errors
    /// One line: why the records that still wait are lost.
    pub fn finish(&mut self, now: Time) -> (Vec<Report>, Result<(), String>) {
        let mut reports = Vec::new();
        while !self.waiting.is_empty() {
            reports.extend(self.write(now.mono));
            if let Some(failure) = &self.failure {
                let lost = format!("records that were not written: {}: {}", self.waiting(), failure.reason);
                return (reports, Err(lost));
            }
        }
        (reports, Ok(()))
    }

    /// How many records wait.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(Vec::len).sum()
    }

    /// When to write; none while nothing waits.
    fn write_at(&self) -> Option<Duration> {
        let at = match &self.failure {
            None if self.load <= GROUP_MAX && self.waiting.iter().all(|records| may_wait(records)) => {
                self.results_at
            }
            None => Duration::ZERO,
            Some(failure) if self.waiting.len() > failure.turns => failure.tried + RETRY_MIN,
            Some(failure) => failure.tried + failure.pause,
        };
        (!self.waiting.is_empty()).then_some(at)
    }

    fn write(&mut self, now: Duration) -> Vec<Report> {
        let count = self.group();
        let group: Vec<&Record> = self.waiting.iter().take(count).flatten().collect();
        match self.store.commit(&group) {
            Ok(()) => {
                let awaited: Vec<Awaited> = group.into_iter().filter_map(Record::awaited).collect();
                self.written(count, awaited, now)
            }
            Err(reason) => self.failed(reason, now),
        }
    }

    /// How many batches are written together.
    fn group(&self) -> usize {
        let mut group = 0;
        let fits = |records: &&Vec<Record>| {
            group += load(records);
            group <= GROUP_MAX
        };
        self.waiting.iter().take_while(fits).count().max(1)
    }

    fn written(&mut self, count: usize, awaited: Vec<Awaited>, now: Duration) -> Vec<Report> {
        if awaited.iter().any(|record| matches!(record, Awaited::Ended(_))) {
            self.results_at = now + RESULTS_EVERY;
        }
        for batch in self.waiting.drain(..count) {
            self.load = self.load.saturating_sub(load(&batch));
        }
        let since = *self.unkept_since.get_or_insert(now);
        self.upkeep_at = (now + QUIET).min(since + UPKEEP_PATIENCE);
        let back = self.failure.take().map(|_| Report::Back);
        let durable = (!awaited.is_empty()).then_some(Report::Durable(awaited));
        back.into_iter().chain(durable).collect()
    }

    fn failed(&mut self, reason: String, now: Duration) -> Vec<Report> {
        // While nothing can be written, notes are not kept: they take room, and only people read them.
        self.waiting.iter_mut().for_each(|batch| batch.retain(|record| !record.is_note()));
        self.waiting.retain(|batch| !batch.is_empty());
        self.load = self.waiting.iter().map(|batch| load(batch)).sum();
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let (since, pause, known) = match &self.failure {
            None => (now, RETRY_MIN, 0),
            Some(failure) => (failure.since, (failure.pause * 2).min(RETRY_MAX), failure.turns),
        };
        // What failed is written before all else that waits.
        let turns = self.waiting.len();
        self.failure = Some(Failure { reason: reason.clone(), since, tried: now, pause, turns });
        if turns > known { vec![Report::Failed(reason)] } else { Vec::new() }
    }

    fn upkeep(&mut self, now: Time) {
        let result = self.store.upkeep(now.tai);
        let pause = match &result {
            Ok(Upkeep::More) => UPKEEP_PAUSE,
            Ok(Upkeep::Done) | Err(_) => S::UPKEEP_EVERY,
        };
        self.upkeep_at = now.mono + pause;
        self.unkept_since = None;
        match (&self.upkeep_problem, &result) {
            (None, Err(problem)) => log::warn!("the upkeep of the journal fails: {problem}"),
            (Some(_), Ok(_)) => log::info!("the upkeep of the journal works again"),
            (None, Ok(_)) | (Some(_), Err(_)) => {}
        }
        self.upkeep_problem = result.err();
    }
}
