//! The journal in a topic of Kafka.
//!
//! Its tables are in memory, and each row of them is a message of a compacted topic with one partition (see `rows`).
//! What one SQL transaction changes is one Kafka transaction, and the one is committed only when the broker has
//! committed the other: memory and topic never differ.
//!
//! *One writer*: the transactional id is the topic's name. Whoever opens the topic fences all who opened it before, at
//! the broker, and only then reads it (`opening`). Who is fenced learns so with its next transaction, which is never
//! further away than the next upkeep, and can never write again ([`Store::fenced`]).
//!
//! After a commit that the broker has not answered it is asked for the answer until there is one: librdkafka allows
//! nothing else, and nothing is written before. Every call of librdkafka here has a time limit.

mod opening;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rusqlite::Connection;

use super::error::Fault;
use super::rows::{CLOSED, Message, Tables};
use super::store::{Store, Upkeep};
use super::tables::{apply, prune, recover};
use super::{Limits, lock};
use crate::broker;
use crate::clock::Moment;
use crate::csc::record::{Record, Recovered};
use crate::csc::time::Tai;
use crate::lease::TERM;
pub use opening::{Address, Follower, Unopened};

/// How long the broker may take for a commit, or to give one up, before that counts as failed.
const ANSWER: Duration = Duration::from_secs(5);
/// Time between two looks at whether the broker has taken all messages.
const POLL: Duration = Duration::from_millis(1);
/// Time between two tries to hand over a message while librdkafka has no room for it.
const PAUSE: Duration = Duration::from_millis(5);

/// A journal in a topic.
pub struct Topic {
    name: String,
    limits: Limits,
    connection: Connection,
    tables: Tables,
    producer: ThreadedProducer<Context>,
    /// What the broker has still to say of the last transaction, before there can be another.
    unsettled: Option<End>,
    /// Why nothing can ever be written again.
    fenced: Option<String>,
    /// When it was taken over from an earlier writer, if that may not have ended.
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

/// Why a transaction did not succeed.
#[derive(Debug)]
enum Failed {
    Sql(Fault),
    Kafka(KafkaError),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Sql(fault)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error.into())
    }
}

impl From<KafkaError> for Failed {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

/// What librdkafka says besides the answers to what it is asked.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// The last thing that is wrong with the connection or with a message, in words and by its code.
    problem: Mutex<Option<(String, Option<Code>)>>,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!("librdkafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down only repeats the errors of each.
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            let (_, text) = broker::problem(&error, reason);
            *lock(&self.problem) = Some((text, None));
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Err((error, _)) if !is_purged(error) => {
                *lock(&self.problem) = Some((broker::reason(error), error.rdkafka_error_code()));
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether a message was only not sent because its transaction is aborted.
fn is_purged(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
}

impl Topic {
    /// Opens the journal at `address`, or makes an empty one, and reads what a previous run left. From the first moment
    /// on, all who opened it before are fenced.
    ///
    /// # Errors
    /// See [`Unopened`].
    pub fn open(address: &Address, now: Tai) -> Result<(Self, Recovered), Unopened> {
        let (connection, tables, producer, taken) = address.open()?;
        let recovered = recover(&connection).map_err(|fault| address.damaged(fault))?;
        let (name, limits) = (address.name.clone(), address.limits);
        let mut topic = Self {
            name,
            limits,
            connection,
            tables,
            producer,
            unsettled: None,
            fenced: None,
            taken,
            confirmed: Moment::now(),
        };
        // A first commit shows that the broker takes one.
        let begun = topic.transact(&[], |connection| {
            connection.execute("UPDATE journal SET lives = lives + 1", [])?;
            prune(connection, address.limits, now)
        });
        match begun {
            Ok(_) => Ok((topic, recovered)),
            Err(Failed::Kafka(_)) if topic.fenced.is_some() => Err(Unopened::Fenced(format!(
                "the journal topic {} cannot be opened: another instance opens it at the same time",
                topic.name
            ))),
            Err(Failed::Kafka(error)) => Err(address.unopened(&error, topic.producer.client())),
            Err(Failed::Sql(fault)) => Err(address.damaged(fault)),
        }
    }

    /// What a run that began now would be given, as [`Topic::open`] reads it.
    ///
    /// # Errors
    /// One line: a row makes no sense.
    pub fn recover(&self) -> Result<Recovered, String> {
        recover(&self.connection).map_err(|fault| fault.to_string())
    }

    /// Does something in one transaction, here and at the broker, which is given more messages, too.
    fn transact<T>(
        &mut self,
        more: &[Message],
        act: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Failed> {
        self.settle()?;
        let begun = Moment::now();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let done = act(&self.connection).and_then(|done| Ok((done, self.tables.changed(&self.connection)?)));
        let (done, messages) = done.inspect_err(|_| self.roll_back())?;
        if !messages.is_empty() || !more.is_empty() {
            *lock(&self.producer.client().context().problem) = None;
            self.unsettled = Some(End::Abort);
            let sent = self.send(messages.iter().chain(more));
            self.unsettled = sent.is_ok().then_some(End::Commit).or(self.unsettled);
            sent.and_then(|()| self.end(End::Commit)).inspect_err(|_| self.clear_up())?;
            self.confirmed = begun;
        } else {
            self.connection.execute_batch("COMMIT")?;
        }
        Ok(done)
    }

    fn roll_back(&self) {
        if self.connection.execute_batch("ROLLBACK").is_err() {
            log::debug!("an error has already rolled the transaction back");
        }
    }

    /// Hands the messages of a transaction to librdkafka.
    fn send<'a>(&self, messages: impl Iterator<Item = &'a Message>) -> Result<(), KafkaError> {
        let until = Instant::now() + ANSWER;
        self.producer.begin_transaction()?;
        for Message { key, value } in messages {
            let mut record = BaseRecord::<str, [u8]>::to(&self.name).partition(0).key(key);
            record.payload = value.as_deref();
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) || Instant::now() >= until {
                    return Err(error);
                }
                record = back;
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Ends what the last transaction left to be ended.
    fn settle(&mut self) -> Result<(), KafkaError> {
        self.unsettled.map_or(Ok(()), |end| self.end(end))
    }

    /// Ends the transaction at the broker and then here; if the broker does not answer, it is to be called again.
    fn end(&mut self, end: End) -> Result<(), KafkaError> {
        let (ended, statement) = match end {
            End::Commit => (self.flush().and_then(|()| self.producer.commit_transaction(ANSWER)), "COMMIT"),
            End::Abort => (self.producer.abort_transaction(ANSWER), "ROLLBACK"),
        };
        if let Err(error) = ended {
            self.note(end, &error);
            return Err(error);
        }
        self.unsettled = None;
        if let Err(error) = self.connection.execute_batch(statement) {
            // Memory and topic differ: only a new start mends that.
            self.fenced = Some(format!("its tables in memory do not take what the topic has: {error}"));
        }
        Ok(())
    }

    /// Waits until the broker has taken all messages. (`Producer::flush` takes 0.1 s for that, if not less than no time.)
    fn flush(&self) -> Result<(), KafkaError> {
        let until = Instant::now() + ANSWER;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= until {
                return Err(KafkaError::Flush(Code::OperationTimedOut));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Notes what is to be done after this error of an end.
    fn note(&mut self, end: End, error: &KafkaError) {
        let (is_fatal, is_open) = if let KafkaError::Transaction(error) = error {
            (error.is_fatal(), error.is_retriable())
        } else {
            // The messages have not left.
            (false, true)
        };
        self.unsettled = Some(if is_open { end } else { End::Abort });
        if is_fatal || (end == End::Abort && !is_open) {
            self.fenced = Some(format!(
                "another instance has opened it, or the broker has given us up for dead: {}",
                broker::reason(error)
            ));
        }
    }

    /// After a transaction that failed: begins to abort it, unless it may have happened.
    fn clear_up(&mut self) {
        if self.unsettled == Some(End::Abort) && self.fenced.is_none() {
            // If this fails too, the next transaction begins with it.
            let _ = self.settle();
        }
    }

    /// Why a transaction failed, in one line.
    fn reason(&self, failed: &Failed) -> String {
        match (failed, &self.fenced, &*lock(&self.producer.client().context().problem)) {
            (_, Some(reason), _) => reason.clone(),
            (Failed::Sql(fault), ..) if fault.is_lack_of_room() => {
                let most = self.limits.file_bytes >> 20;
                format!("it has reached its limit of {most} MiB: wait for jobs to end, or lower history_days")
            }
            (Failed::Sql(fault), ..) => fault.to_string(),
            (Failed::Kafka(_), _, Some((problem, _))) => problem.clone(),
            (Failed::Kafka(error), ..) => broker::reason(error),
        }
    }
}

/// The number of this run.
fn lives(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT lives FROM journal", [], |row| row.get(0))
}

/// Writes something in any case, so that the broker says whether we may.
fn ask(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE journal SET only = only", []).map(drop)
}

impl Store for Topic {
    /// By then, who was fenced knows it.
    const UPKEEP_EVERY: Duration = Duration::from_secs(2);

    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        let done = self.transact(&[], |connection| {
            ask(connection)?;
            apply(connection, records)
        });
        done.map_err(|failed| self.reason(&failed))
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        let limits = self.limits;
        let done = self.transact(&[], |connection| {
            ask(connection)?;
            prune(connection, limits, now)
        });
        done.map_err(|failed| self.reason(&failed))
    }

    fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    fn confirmed(&self) -> Option<Moment> {
        Some(self.confirmed)
    }

    /// Says in the topic that this run has ended, so that the next one need not wait.
    fn close(mut self) -> Result<(), String> {
        let closed = self.settle().map_err(Failed::Kafka).and_then(|()| {
            // One before this one may still believe that it is its own.
            if self.taken.is_some_and(|taken| taken.elapsed() < TERM) {
                return Ok(());
            }
            let value = Some(lives(&self.connection)?.to_string().into_bytes());
            self.transact(&[Message { key: CLOSED.to_owned(), value }], |_| Ok(()))
        });
        closed.map_err(|failed| self.reason(&failed))
    }
}
