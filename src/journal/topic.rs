//! The journal in a topic of Kafka.
//!
//! Its tables are in memory, and each of their rows is a message of a compacted topic with one partition (see `rows`).
//! The changes of one SQL transaction are one Kafka transaction, and SQL commits only when the broker has committed:
//! memory and topic never differ.
//!
//! *One writer*: the transactional id follows from the index. An instance that opens the topic fences, at the broker, all
//! that opened it before, and only then reads it (`opening`). A fenced instance finds out with its next transaction, that
//! is, with the next upkeep at the latest, and can never write again ([`Store::fenced`]).
//!
//! A commit that the broker has not answered is repeated until there is an answer: librdkafka allows nothing else, and
//! nothing is written before.
//!
//! [`Broker`] and [`Producer`] are all that is asked of a broker: `opening` and `producer` ask a real one, the simulation
//! has its own.

#[cfg(feature = "kafka")]
mod opening;
#[cfg(feature = "kafka")]
mod producer;

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::error::{Fault, OpenError};
use super::open::{identity, introduce, runs};
pub use super::rows::Message;
use super::rows::{CLOSED, Content, Tables};
use super::schema::STEPS;
use super::store::{Store, Upkeep};
use super::tables::{apply, prune, recover};
use super::{Identity, Limits};
use crate::clock::Moment;
use crate::csc::record::{Record, Recovered};
use crate::csc::time::Tai;
use crate::lease::TERM;
#[cfg(feature = "kafka")]
pub use opening::{Address, Follower};
#[cfg(feature = "kafka")]
pub use producer::Transactions;

/// How many times larger than in the tables the rows may be in JSON, which writes one byte as up to seven.
const AS_JSON: i64 = 8;

/// The topic of a journal at its broker.
pub trait Broker {
    /// What writes to it.
    type Producer: Producer;

    /// The name of the topic, the instance that owns it, and how much is kept in it.
    fn topic(&self) -> (&str, Identity, Limits);

    /// Makes the one writer: from then on the broker refuses all earlier ones, and none of them has a transaction that
    /// could still be committed.
    ///
    /// # Errors
    /// See [`Unopened`].
    fn fence(&self) -> Result<Self::Producer, Unopened>;

    /// Hands over all that is committed in the topic, in its order, until `take` fails.
    ///
    /// # Errors
    /// See [`Unopened`].
    fn read(&self, take: Take<'_>) -> Result<(), Unopened>;
}

/// Takes a message of the topic: its offset, its key and its value.
pub type Take<'a> = &'a mut dyn FnMut(i64, Option<&[u8]>, Option<&[u8]>) -> Result<(), Unopened>;

/// Writes to a topic, one transaction at a time. Every call has a time limit.
pub trait Producer {
    /// Begins a transaction and hands over its messages.
    ///
    /// # Errors
    /// The transaction is to be aborted.
    fn send(&mut self, messages: &[Message]) -> Result<(), Refusal>;

    /// Commits the transaction.
    ///
    /// # Errors
    /// See [`Refusal::left`].
    fn commit(&mut self) -> Result<(), Refusal>;

    /// Aborts the transaction.
    ///
    /// # Errors
    /// See [`Refusal::left`].
    fn abort(&mut self) -> Result<(), Refusal>;

    /// The present moment.
    fn now(&self) -> Moment {
        Moment::now()
    }

    /// The present moment on the clock that is never set and stands still while the machine sleeps.
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// Why the broker, or its client, did not do what the writer asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What is left to do when a transaction could not be ended.
    pub left: Left,
    /// The reason, in one line.
    pub reason: String,
    /// What it means for the start.
    pub unopened: Unopened,
}

/// What is left to do when a transaction could not be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// To ask for the same again: there is no answer, and a commit may have happened.
    Again,
    /// To abort the transaction: it has not happened.
    Abort,
    /// Nothing: this writer can never write again.
    Nothing,
}

/// Why a topic is not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Another instance has opened it meanwhile: one line.
    #[error("{0}")]
    Fenced(String),
    /// Another instance is alive and keeps the journal.
    #[error("another instance is running")]
    Yielded,
    /// It cannot be opened before an operator has done something about it.
    #[error(transparent)]
    Refused(OpenError),
    /// The broker is away or not ready: one line. Opening is to be tried again.
    #[error("{0}")]
    Away(String),
}

impl Unopened {
    fn refused(topic: &str, reason: &str) -> Self {
        Self::Refused(OpenError::Refused(format!("the journal topic {topic} {reason}")))
    }

    /// What this fault of the topic with this name means for the start.
    fn of(topic: &str, fault: Fault) -> Self {
        match fault {
            Fault::Broker(refusal) => refusal.unopened,
            Fault::Refused(reason) => Self::refused(topic, &reason),
            fault @ (Fault::Sql(_) | Fault::Io(_) | Fault::Nonsense(_)) => Self::refused(
                topic,
                &format!(
                    "is damaged ({fault}): restore it, or delete it and its unfinished jobs are forgotten"
                ),
            ),
        }
    }
}

/// A journal in a topic.
#[derive(Debug)]
pub struct Topic<B: Broker> {
    limits: Limits,
    connection: Connection,
    tables: Tables,
    producer: B::Producer,
    /// How the last transaction is to end, where the broker has not confirmed that: until then there is no other.
    unsettled: Option<End>,
    /// Why nothing can ever be written again.
    fenced: Option<String>,
    /// When the topic was taken over from an earlier writer that may not have ended.
    pub taken: Option<Instant>,
    /// When the last transaction that the broker has committed was begun.
    confirmed: Moment,
}

/// How a transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It may have happened: what librdkafka was last asked for was to commit it.
    Commit,
    /// It has not happened.
    Abort,
}

/// All that is committed in the topic, as tables in memory, and whether the last writer may not have ended.
fn restore(broker: &impl Broker) -> Result<(Connection, Tables, bool), Unopened> {
    let (name, ours, limits) = broker.topic();
    let most = limits.file_bytes.saturating_mul(AS_JSON);
    let mut content = Content::default();
    broker.read(&mut |offset, key, value| {
        content.take(offset, key, value).map_err(|fault| Unopened::of(name, fault))?;
        if content.bytes > usize::try_from(most).unwrap_or(usize::MAX) {
            let reason = format!("holds more than {} MiB, the most that a journal may have", most >> 20);
            return Err(Unopened::refused(name, &reason));
        }
        Ok(())
    })?;
    let closed = content.take_closed();
    let restore = || {
        let (connection, tables, has_content) = content.restore(STEPS, limits)?;
        if !has_content {
            introduce(&connection, ours)?;
        }
        match identity(&connection)? {
            found if found == ours => {
                let was_open = has_content && closed != Some(runs(&connection)?);
                Ok((connection, tables, was_open))
            }
            found => Err(Fault::Refused(format!(
                "is that of {found}, and this is {ours}: give each instance its own with kafka.journal_topic"
            ))),
        }
    };
    restore().map_err(|fault| Unopened::of(name, fault))
}

impl<B: Broker> Topic<B> {
    /// Opens the journal in the topic of this broker, or makes an empty one, and reads what a previous run left. Fences
    /// first all instances that opened it before.
    ///
    /// # Errors
    /// See [`Unopened`].
    pub fn open(broker: &B, now: Tai) -> Result<(Self, Recovered), Unopened> {
        let producer = broker.fence()?;
        let fenced = producer.instant();
        let (connection, tables, was_open) = restore(broker)?;
        let (name, _, limits) = broker.topic();
        let unopened = |fault| Unopened::of(name, fault);
        let recovered = recover(&connection).map_err(unopened)?;
        let confirmed = producer.now();
        let mut topic = Self {
            limits,
            connection,
            tables,
            producer,
            unsettled: None,
            fenced: None,
            taken: was_open.then_some(fenced),
            confirmed,
        };
        // A first commit shows that the broker takes one.
        let begun = topic.transact(None, |connection| {
            connection.execute("UPDATE journal SET lives = lives + 1", [])?;
            prune(connection, limits, now)
        });
        match begun.map_err(unopened) {
            Ok(_) => Ok((topic, recovered)),
            // What the broker does not allow ends a producer too, but is refused.
            Err(Unopened::Away(_)) if topic.fenced.is_some() => Err(Unopened::Fenced(format!(
                "the journal topic {name} cannot be opened: another instance opens it at the same time"
            ))),
            Err(unopened) => Err(unopened),
        }
    }

    /// What [`Topic::open`] would give a run that began now.
    ///
    /// # Errors
    /// One line: a row makes no sense.
    pub fn recover(&self) -> Result<Recovered, String> {
        recover(&self.connection).map_err(|fault| fault.to_string())
    }

    /// Does something in one transaction, here and at the broker, which is sent one more message, if there is one.
    fn transact<T>(
        &mut self,
        more: Option<Message>,
        act: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.settle()?;
        let begun = self.producer.now();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let run = || {
            // There is always a changed row, so that the broker says whether we may still write.
            self.connection.execute_batch("UPDATE journal SET only = only")?;
            let done = act(&self.connection)?;
            Ok((done, self.tables.changed(&self.connection)?))
        };
        // An error may have rolled the transaction back already.
        let rolled_back = |_: &Fault| drop(self.connection.execute_batch("ROLLBACK"));
        let (done, mut messages) = run().inspect_err(rolled_back)?;
        messages.extend(more);
        self.unsettled = Some(End::Abort);
        let sent = self.producer.send(&messages).map_err(Fault::Broker);
        self.unsettled = sent.is_ok().then_some(End::Commit).or(self.unsettled);
        if let Err(fault) = sent.and_then(|()| self.end(End::Commit)) {
            if self.unsettled == Some(End::Abort) && self.fenced.is_none() {
                // If this fails too, the next transaction begins with it.
                let _ = self.settle();
            }
            return Err(fault);
        }
        self.confirmed = begun;
        Ok(done)
    }

    /// Ends the last transaction, where that is left to do.
    fn settle(&mut self) -> Result<(), Fault> {
        self.unsettled.map_or(Ok(()), |end| self.end(end))
    }

    /// Ends the transaction at the broker and then here; if the broker does not answer, `end` is to be called again.
    fn end(&mut self, end: End) -> Result<(), Fault> {
        let (ended, statement) = match end {
            End::Commit => (self.producer.commit(), "COMMIT"),
            End::Abort => (self.producer.abort(), "ROLLBACK"),
        };
        if let Err(refusal) = ended {
            let left = refusal.left;
            self.unsettled = Some(if left == Left::Again { end } else { End::Abort });
            if left == Left::Nothing || (end == End::Abort && left == Left::Abort) {
                self.fenced = Some(format!(
                    "another instance has opened it, or the broker has expired our producer: {refusal}"
                ));
            }
            return Err(Fault::Broker(refusal));
        }
        self.unsettled = None;
        if let Err(error) = self.connection.execute_batch(statement) {
            // Memory and topic differ: only a new start mends that.
            self.fenced = Some(format!("its tables in memory differ from the topic, restart ocps: {error}"));
        }
        Ok(())
    }

    /// Why a transaction failed, in one line.
    fn reason(&self, fault: &Fault) -> String {
        match &self.fenced {
            Some(reason) => reason.clone(),
            None if fault.is_lack_of_room() => {
                let most = self.limits.file_bytes >> 20;
                format!("it has reached its limit of {most} MiB: wait for jobs to end, or lower history_days")
            }
            None => fault.to_string(),
        }
    }
}

impl<B: Broker> Store for Topic<B> {
    /// A fenced instance finds out by then.
    const UPKEEP_EVERY: Duration = Duration::from_secs(2);

    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        self.transact(None, |connection| apply(connection, records)).map_err(|fault| self.reason(&fault))
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        let limits = self.limits;
        let done = self.transact(None, |connection| prune(connection, limits, now));
        done.map_err(|fault| self.reason(&fault))
    }

    fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    fn confirmed(&self) -> Option<Moment> {
        Some(self.confirmed)
    }

    /// Says in the topic that this run has ended, so that the next one need not wait.
    fn close(mut self) -> Result<(), String> {
        let closed = self.settle().and_then(|()| {
            // The instance before this one may still use its lease.
            let age = |taken| self.producer.instant().saturating_duration_since(taken);
            if self.taken.is_some_and(|taken| age(taken) < TERM) {
                return Ok(());
            }
            let value = Some(runs(&self.connection)?.to_string().into_bytes());
            self.transact(Some(Message { key: CLOSED.to_owned(), value }), |_| Ok(()))
        });
        closed.map_err(|fault| self.reason(&fault))
    }
}
