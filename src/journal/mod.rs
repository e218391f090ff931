//! The durable record of commands: what outlives the process.
//!
//! A thread writes the core's records to a file or to a topic of Kafka, all that waits in one commit, and reports what is
//! durable. The main loop never waits for the thread: [`Journal::write`] hands records over, and the main loop selects on
//! [`Journal::news`].
//!
//! * `format`: records as rows; `schema`: the tables and their versions; `tables`: reading and writing them
//! * `open`: the file; `lock`: its directory; [`store`]: a journal in SQLite
//! * [`topic`]: a journal in Kafka; `rows`: rows as its messages
//! * [`writer`]: when to write and what to report, without thread, clock or disk; [`error`]: what can go wrong, in words
//!
//! Invariants: what was reported as durable is found again after a crash of the process or of the machine; the
//! records of one batch are kept together or not at all, and batches in their order; what a previous run left is
//! checked, not trusted. This room does not know what a command means.

pub mod error;
mod format;
mod lock;
mod open;
mod rows;
mod schema;
pub mod store;
mod tables;
pub mod topic;
pub mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::clock;
use crate::csc::id::SalIndex;
use crate::csc::record::{HISTORY_MAX, Record, Recovered};
use crate::csc::time::Time;
use crate::lease::Lease;
pub use error::OpenError;
use lock::Lock;
use store::{Sqlite, Store};
pub use writer::Report;
use writer::{Writer, load};

/// Most records that wait to be written: as many as come in a day of a full disk. A record with large texts counts as
/// several, so that all together take some 200 MiB at most.
const WAITING_MAX: usize = 50_000;

/// Where more records than these would wait, two kinds are not taken: notes, which only people read, and the commands that
/// were seen. Without the latter, a command that comes twice around a crash is carried out twice, but there is room for
/// what is worse to lose.
const SEEN_WAITING: usize = 10_000;

/// First and longest wait between tries to open a topic while its broker is away.
#[cfg(feature = "kafka")]
const OPEN_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long a standby reads what the other instance writes between two looks at what the main loop asks for.
#[cfg(feature = "kafka")]
const FOLLOW: Duration = Duration::from_millis(100);

/// Shortest wait, and half of the longest, of an instance that was fenced while it opened a topic. If the other instance
/// has come further, its heartbeat is heard by then.
#[cfg(feature = "kafka")]
const FENCED: Duration = Duration::from_secs(3);

/// The instance that owns a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The index of the instance.
    pub index: SalIndex,
    /// Whether its jobs are only simulated.
    pub simulated: bool,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulated = if self.simulated { ", simulated" } else { "" };
        write!(f, "index {}{simulated}", self.index)
    }
}

/// How many settled commands are kept: those that ended and whose result and final ack were delivered. All others are
/// kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For how long they are kept after their end.
    pub history: Duration,
    /// How many are kept whatever a clock says of their age.
    pub history_least: usize,
    /// Most that are kept.
    pub history_rows: i64,
    /// Most bytes of the file, beyond which none is kept.
    pub history_bytes: i64,
    /// Largest size of the file, or of the tables in memory, in bytes; beyond it, nothing more is written.
    pub file_bytes: i64,
}

impl Limits {
    /// The last 1,000 commands in any case, and up to 100,000 for this long, in 1 GiB of a file of at most 4 GiB.
    pub fn new(history: Duration) -> Self {
        Self {
            history,
            history_least: HISTORY_MAX,
            history_rows: 100_000,
            history_bytes: 1 << 30,
            file_bytes: 4 << 30,
        }
    }

    /// The same for tables in memory: 16 MiB of at most 128 MiB.
    pub fn in_memory(history: Duration) -> Self {
        Self { history_bytes: 16 << 20, file_bytes: 128 << 20, ..Self::new(history) }
    }
}

/// The state of the journal, for `ocps status`.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The file, or the topic and its brokers.
    pub path: PathBuf,
    /// How many records were handed over and are not written.
    pub waiting: usize,
    /// The same, where a record with large texts counts as several.
    load: usize,
    /// Why nothing can be written, and since when.
    pub problem: Option<(String, Instant)>,
    /// Why the file cannot be kept small, although all is written.
    pub upkeep_problem: Option<String>,
    /// What an operator should know: the file was missing at the start, or was deleted since.
    pub notice: Option<String>,
    /// Since when the oldest record that is not written has waited.
    pub waiting_since: Option<Instant>,
    /// Commits so far.
    pub commits: u64,
    /// How long the last commit took.
    pub last_commit: Option<Duration>,
    /// While this instance stands by: how many messages of the other one it has not read, as far as is known.
    pub behind: Option<i64>,
    /// Since when the disk or the broker has not answered.
    pub busy_since: Option<Instant>,
}

/// What a look at a journal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none yet.
    Missing,
    /// A process uses it: its id, if that is known.
    InUse(Option<i64>),
    /// The next run can use it.
    Sound,
}

/// Looks at the journal at `path` as the next run would, and changes nothing.
///
/// # Errors
/// One line: why the next run could not use it, and what to do.
pub fn examine(path: &Path, identity: Identity) -> Result<Found, String> {
    if let Some(process) = Lock::holder(error::directory(path)) {
        return Ok(Found::InUse(process));
    }
    let is_there = store::examine(path, identity, Lock::noted(path))?;
    Ok(if is_there { Found::Sound } else { Found::Missing })
}

/// What the journal's thread reports.
#[derive(Debug, PartialEq)]
pub enum News {
    /// The journal was opened; what a previous run left.
    Open(Box<Recovered>),
    /// The instance that had the journal open has said in it that it has ended.
    HandedOver,
    /// The journal cannot be opened.
    Refused(OpenError),
    /// Another instance has opened the journal: nothing can be written any more, why in one line. The process ends at once.
    Fenced(String),
    /// What became of records that were handed over.
    Records(Report),
}

/// What the main loop asks of the thread before the journal is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To open the journal.
    Open,
    /// To open it when nothing has been written there for a while: Kafka could not be listened to for another instance.
    OpenUnheard,
    /// To read along what another instance writes there ([`Status::behind`], [`News::HandedOver`]).
    Follow,
}

/// A journal and its thread.
#[derive(Debug)]
pub struct Journal {
    /// What the thread reports; disconnected when it ends.
    pub news: Receiver<News>,
    batches: Sender<Vec<Record>>,
    asks: Sender<Ask>,
    /// How the thread ended.
    closed: Receiver<Result<(), String>>,
    status: Arc<Mutex<Status>>,
}

impl Journal {
    /// Opens the journal, or makes an empty one, reads what a previous run left, and starts the thread.
    ///
    /// The directory of the file is made if it is missing, and no other daemon can use it as long as the thread runs.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, identity: Identity, limits: Limits) -> Result<(Self, Recovered), OpenError> {
        let lock = Lock::take(path).map_err(OpenError::Unusable)?;
        let (store, recovered) = Sqlite::open(path, identity, limits, clock::now(), Some(lock))?;
        let notice = store.notice().map(str::to_owned);
        let status = Status { path: path.to_owned(), notice, ..Status::default() };
        let journal = Self::start(status, Lease::default(), move |channels, _| channels.worker(store).run());
        Ok((journal?, recovered))
    }

    /// A journal in a topic, which the thread opens when it is asked to ([`Journal::ask`]), however long the broker is
    /// away, and then reports ([`News::Open`]). Each commit confirms the lease.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(feature = "kafka")]
    pub fn on_topic(address: topic::Address, lease: Lease) -> Result<Self, OpenError> {
        let path = format!("{} on {}", address.name, address.options.brokers).into();
        Self::start(Status { path, ..Status::default() }, lease, move |channels, begun| {
            match channels.open(&address, begun) {
                Some(store) => channels.worker(store).run(),
                None => drop(channels.end.send(Ok(()))),
            }
        })
    }

    fn start(
        status: Status,
        lease: Lease,
        run: impl FnOnce(Channels, &Receiver<Ask>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let path = status.path.clone();
        let status = Arc::new(Mutex::new(status));
        // Bounded by `WAITING_MAX`.
        let (batches, queue) = unbounded();
        // At most two for each batch, and so bounded too: only the main loop writes, and it also drains these.
        let (sender, news) = unbounded();
        let (end, closed) = bounded(1);
        // The main loop asks once for each thing that it hears about another instance.
        let (asks, asked) = unbounded();
        let channels = Channels { queue, news: sender, end, status: Arc::clone(&status), lease };
        let spawned = thread::Builder::new().name("journal".to_owned()).spawn(move || run(channels, &asked));
        spawned.map_err(|error| {
            let path = path.display();
            OpenError::Unusable(format!("the journal {path} cannot be used: no thread for it: {error}"))
        })?;
        Ok(Self { news, batches, asks, closed, status })
    }

    /// Asks the thread for something while the journal is not open. Never waits.
    pub fn ask(&self, ask: Ask) {
        // The main loop repeats this one each second.
        if ask != Ask::OpenUnheard || self.asks.is_empty() {
            let _ = self.asks.send(ask);
        }
    }

    /// Has the thread find out at once whether another instance has taken the journal over ([`Lease::confirmed`],
    /// [`News::Fenced`]).
    pub fn confirm(&self) {
        let _ = self.batches.send(Vec::new());
    }

    /// Hands over the records of one turn, which are kept together or not at all. Never waits.
    ///
    /// # Errors
    /// One line: too much waits to be written, and these are not taken.
    pub fn write(&self, mut records: Vec<Record>) -> Result<(), String> {
        let mut status = lock(&self.status);
        if status.load + records.len() > SEEN_WAITING {
            records.retain(|record| !record.is_note() && !matches!(record, Record::Seen { .. }));
        }
        if records.is_empty() {
            return Ok(());
        }
        let load = load(&records);
        let waiting = status.waiting;
        if waiting > 0 && status.load + load > WAITING_MAX {
            let path = status.path.display();
            return Err(format!("the journal {path} takes no more: {waiting} records wait to be written"));
        }
        status.waiting += records.len();
        status.waiting_since.get_or_insert_with(Instant::now);
        status.load += load;
        // The thread that is woken takes this lock at once.
        drop(status);
        self.batches.send(records).map_err(|_| {
            let path = lock(&self.status).path.clone();
            format!("the journal {} is not written any more: its thread ended", path.display())
        })
    }

    /// The state of the journal.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    /// Writes what waits and closes the file; waits for that, but not for longer than `timeout`.
    ///
    /// # Errors
    /// One line: what was not written, and why; or the disk does not answer.
    pub fn close(self, timeout: Duration) -> Result<(), String> {
        let Self { batches, asks, closed, status, news: _ } = self;
        drop((batches, asks));
        let closed = closed.recv_timeout(timeout).unwrap_or_else(|_| {
            let (seconds, waiting) = (timeout.as_secs_f64(), lock(&status).waiting);
            Err(format!("it did not answer for {seconds} s; records that wait: {waiting}"))
        });
        closed
            .map_err(|error| format!("the journal {} is not complete: {error}", lock(&status).path.display()))
    }
}

/// The thread's side of the channels.
struct Channels {
    queue: Receiver<Vec<Record>>,
    news: Sender<News>,
    end: Sender<Result<(), String>>,
    status: Arc<Mutex<Status>>,
    lease: Lease,
}

impl Channels {
    fn worker<S: Store>(self, store: S) -> Worker<S> {
        self.lease.confirm(store.confirmed());
        Worker { writer: Writer::new(store), epoch: Instant::now(), channels: self }
    }

    /// Opens a topic when the main loop asks for it, and reads along before if it asks for that; none if the topic is
    /// refused, or the daemon ends before.
    #[cfg(feature = "kafka")]
    fn open(&self, address: &topic::Address, asked: &Receiver<Ask>) -> Option<topic::Topic<topic::Address>> {
        let (mut ask, mut follows, mut follower) = (None, false, None);
        let (mut wait, mut again) = (Duration::MAX, OPEN_AGAIN.0);
        loop {
            match asked.recv_timeout(wait) {
                Ok(Ask::Follow) => follows = true,
                Ok(open @ (Ask::Open | Ask::OpenUnheard)) => ask = Some(open),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            let Some(how) = ask else {
                self.follow(address, &mut follower);
                wait = Duration::ZERO;
                continue;
            };
            lock(&self.status).behind = None;
            // A topic that another instance has open was checked by that one.
            let prepared = if follower.is_some() { Ok(()) } else { address.prepare() };
            let free = prepared.and_then(|()| match how {
                Ask::OpenUnheard => address.await_silence(),
                Ask::Open | Ask::Follow => Ok(()),
            });
            let opened = free.and_then(|()| match self.lease.takes() {
                true => topic::Topic::open(address, clock::now()),
                false => Err(topic::Unopened::Yielded),
            });
            match opened {
                Ok((topic, recovered)) => {
                    topic.taken.into_iter().for_each(|at| self.lease.take_over(at));
                    lock(&self.status).problem = None;
                    let _ = self.news.send(News::Open(Box::new(recovered)));
                    return Some(topic);
                }
                Err(topic::Unopened::Refused(error)) => {
                    let _ = self.news.send(News::Refused(error));
                    asked.iter().for_each(drop);
                    return None;
                }
                Err(topic::Unopened::Yielded) => {
                    ask = None;
                    wait = if follows { Duration::ZERO } else { Duration::MAX };
                }
                Err(unopened @ (topic::Unopened::Fenced(_) | topic::Unopened::Away(_))) => {
                    self.lease.is_alone();
                    let mut status = lock(&self.status);
                    let since = status.problem.as_ref().map(|(_, since)| *since);
                    if since.is_none() {
                        log::warn!("{unopened}; retrying");
                    }
                    status.problem = Some((unopened.to_string(), since.unwrap_or_else(Instant::now)));
                    wait = again;
                    if let topic::Unopened::Fenced(_) = unopened {
                        wait = again.max(FENCED).mul_f64(1.0 + fastrand::f64());
                    }
                    again = (wait * 2).min(OPEN_AGAIN.1);
                }
            }
        }
    }

    /// Reads along for a while what another instance writes to the topic.
    #[cfg(feature = "kafka")]
    fn follow(&self, address: &topic::Address, follower: &mut Option<topic::Follower>) {
        let Some(follower) = follower else {
            match topic::Follower::new(address) {
                Ok(new) => *follower = Some(new),
                Err(error) => {
                    log::debug!("{error}");
                    thread::sleep(FOLLOW);
                }
            }
            return;
        };
        let was_handed_over = follower.is_handed_over;
        follower.read(FOLLOW);
        lock(&self.status).behind = follower.behind;
        if follower.is_handed_over && !was_handed_over {
            let _ = self.news.send(News::HandedOver);
        }
    }
}

/// The thread of an open journal.
struct Worker<S> {
    writer: Writer<S>,
    epoch: Instant,
    channels: Channels,
}

impl<S: Store> Worker<S> {
    fn run(mut self) {
        loop {
            match self.channels.queue.recv_deadline(self.epoch + self.writer.wake_at()) {
                Ok(first) => {
                    self.writer.take(first);
                    self.channels.queue.try_iter().for_each(|records| self.writer.take(records));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.turn();
            if let Some(reason) = self.writer.store.fenced() {
                self.channels.lease.end();
                let Channels { queue, news, end, .. } = self.channels;
                let _ = news.send(News::Fenced(reason.to_owned()));
                // Records that still come are not written.
                queue.iter().for_each(drop);
                let _ = end.send(Err(reason.to_owned()));
                return;
            }
        }
        let now = self.begin();
        let (reports, finished) = self.writer.finish(now);
        self.send(reports);
        // From now on another instance may change something at the service.
        self.channels.lease.end();
        let _ = self.channels.end.send(finished.and(self.writer.store.close()));
    }

    fn begin(&self) -> Time {
        let begun = Instant::now();
        lock(&self.channels.status).busy_since = Some(begun);
        Time { mono: begun - self.epoch, tai: clock::now() }
    }

    /// Does what is due and publishes how that went.
    fn turn(&mut self) {
        let (now, waited, load) = (self.begin(), self.writer.waiting(), self.writer.load);
        let reports = self.writer.turn(now);
        let written = waited.saturating_sub(self.writer.waiting());
        self.channels.lease.confirm(self.writer.store.confirmed());
        let mut status = lock(&self.channels.status);
        status.waiting = status.waiting.saturating_sub(written);
        status.load = status.load.saturating_sub(load.saturating_sub(self.writer.load));
        status.problem =
            self.writer.failure.as_ref().map(|failure| (failure.reason.clone(), self.epoch + failure.since));
        status.upkeep_problem = self.writer.upkeep_problem.clone();
        status.notice = self.writer.store.notice().map(str::to_owned);
        let begun = status.busy_since.take();
        if written > 0 {
            status.commits += 1;
            // Records that still wait came since this commit began.
            status.waiting_since = begun.filter(|_| status.waiting > 0);
            status.last_commit = begun.map(|begun| begun.elapsed());
        }
        drop(status);
        // A fenced instance reports nothing more.
        if self.writer.store.fenced().is_none() {
            self.send(reports);
        }
    }

    fn send(&self, reports: Vec<Report>) {
        for mut report in reports {
            if let Report::Failed(reason) = &mut report {
                let path = lock(&self.channels.status).path.clone();
                *reason = format!("the journal {} cannot be written: {reason}", path.display());
            }
            // At the end, the main loop does not listen any more.
            let _ = self.channels.news.send(News::Records(report));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
