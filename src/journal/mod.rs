//! The durable record of commands: what outlives the process.
//!
//! A thread writes the core's records to a file, all that waits in one commit, and reports what is safe. Nobody
//! waits for it: [`Journal::write`] hands over, [`Journal::reports`] is for the main loop's `select!`.
//!
//! * `format`: records as rows; `schema`: the tables and their versions; `open`: the file; `lock`: its directory;
//!   `live`: what it is written anew from when it is deleted; [`store`]: SQLite; [`writer`]: when to write and what to say of it, without thread, clock or disk; [`error`]: why a journal
//!   cannot be opened.
//!
//! Invariants: what was reported as durable is found again after a crash of the process or of the machine; the
//! records of one batch are kept together or not at all, and batches in their order; what an earlier life left is
//! parsed, not trusted. It does not know what a command means, nor who asks.

pub mod error;
mod format;
mod live;
mod lock;
mod open;
mod schema;
pub mod store;
pub mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::clock;
use crate::csc::id::SalIndex;
use crate::csc::record::{Record, Recovered};
use crate::csc::time::Time;
pub use error::OpenError;
use lock::Lock;
use store::Sqlite;
pub use writer::Report;
use writer::{Load, Writer};

/// Most records that wait to be written, and most bytes of them, by a guess: what a day of a full disk makes, and
/// what the memory can spare.
const WAITING_MAX: Load = Load { records: 50_000, bytes: 256 << 20 };

/// Whose a journal is.
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

/// How much is kept of commands that ended and owe nothing; all others are kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For how long, from their end.
    pub history: Duration,
    /// How many at least, whatever a clock says of their age.
    pub history_least: i64,
    /// How many.
    pub history_rows: i64,
    /// In how many bytes of the file.
    pub history_bytes: i64,
    /// Largest size of the file, in bytes; beyond it, nothing more is written.
    pub file_bytes: i64,
}

impl Limits {
    /// The last 1,000 commands, and 100,000 in 1 GiB of a file of at most 4 GiB, for as long as is asked.
    #[must_use]
    pub fn new(history: Duration) -> Self {
        Self {
            history,
            history_least: 1000,
            history_rows: 100_000,
            history_bytes: 1 << 30,
            file_bytes: 4 << 30,
        }
    }
}

/// How the journal does, for `ocps status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub path: PathBuf,
    /// Records that wait to be written.
    pub waiting: usize,
    /// Why nothing can be written, and for how long that has been so.
    pub problem: Option<(String, Duration)>,
    /// Why the file cannot be kept small, although all is written.
    pub upkeep_problem: Option<String>,
    /// What people should know of it: it was missing at the start, or was deleted since and written anew.
    pub notice: Option<String>,
    /// How long the last commit took, or what else the disk was last asked for.
    pub last_commit: Option<Duration>,
    /// For how long the disk has not answered to what is being done just now.
    pub busy: Option<Duration>,
}

/// An open journal and its thread.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    jobs: Sender<Job>,
    reports: Receiver<Report>,
    shared: Arc<Mutex<Shared>>,
}

/// What the thread is to do.
#[derive(Debug)]
enum Job {
    Write(Vec<Record>),
    /// Write what is left, say how that went, and end.
    Close(Sender<Result<(), String>>),
}

/// What both sides look at, briefly.
#[derive(Debug, Default)]
struct Shared {
    /// What was handed over and is not written.
    load: Load,
    problem: Option<(String, Instant)>,
    upkeep_problem: Option<String>,
    notice: Option<String>,
    last_commit: Option<Duration>,
    busy_since: Option<Instant>,
}

impl Journal {
    /// Opens the journal, or makes an empty one, reads what an earlier life left, and starts the thread.
    ///
    /// Its directory is made if it is not there, and is used by nobody else for as long as the thread lives.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, identity: Identity, limits: Limits) -> Result<(Self, Recovered), OpenError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = Lock::take(dir).map_err(OpenError::Directory)?;
        let (store, recovered) = Sqlite::open_locked(path, identity, limits, clock::now(), Some(lock))?;
        let notice = store.notice().map(str::to_owned);
        if let Some(notice) = &notice {
            log::warn!("{notice}");
        }
        // Bounded by `WAITING_MAX`.
        let (jobs, queue) = unbounded();
        // At most two for each batch, and so bounded too: nobody hands over who does not listen.
        let (report, reports) = unbounded();
        let shared = Arc::new(Mutex::new(Shared { notice, ..Shared::default() }));
        let worker = Worker {
            writer: Writer::new(store),
            epoch: Instant::now(),
            queue,
            report,
            shared: Arc::clone(&shared),
        };
        let spawned = thread::Builder::new().name("journal".to_owned()).spawn(move || worker.run());
        spawned.map_err(|error| OpenError::Unusable {
            path: path.to_owned(),
            reason: format!("no thread for it: {error}"),
        })?;
        Ok((Self { path: path.to_owned(), jobs, reports, shared }, recovered))
    }

    /// Hands over the records of one turn, which are kept together or not at all. Never waits.
    ///
    /// # Errors
    /// One line: too much waits to be written, and these are not taken.
    pub fn write(&self, records: Vec<Record>) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        let mut shared = lock(&self.shared);
        let load = shared.load.plus(Load::of(&records));
        if shared.load != Load::default()
            && (load.records > WAITING_MAX.records || load.bytes > WAITING_MAX.bytes)
        {
            return Err(format!(
                "the journal {} takes no more: {} records wait to be written",
                self.path.display(),
                shared.load.records
            ));
        }
        shared.load = load;
        drop(shared);
        let sent = self.jobs.send(Job::Write(records));
        sent.map_err(|_| {
            format!("the journal {} is not written any more: its thread ended", self.path.display())
        })
    }

    /// What there is to say of what was handed over. It ends when the thread does.
    #[must_use]
    pub fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = lock(&self.shared);
        Status {
            path: self.path.clone(),
            waiting: shared.load.records,
            problem: shared.problem.as_ref().map(|(reason, since)| (reason.clone(), since.elapsed())),
            upkeep_problem: shared.upkeep_problem.clone(),
            notice: shared.notice.clone(),
            last_commit: shared.last_commit,
            busy: shared.busy_since.map(|since| since.elapsed()),
        }
    }

    /// Writes what waits and closes the file; waits for that, but not for longer than `timeout`.
    ///
    /// # Errors
    /// One line: what was not written, and why; or the disk does not answer.
    pub fn close(self, timeout: Duration) -> Result<(), String> {
        let (done, closed) = bounded(1);
        let path = self.path.display();
        self.jobs.send(Job::Close(done)).map_err(|_| format!("the journal {path} was closed before"))?;
        match closed.recv_timeout(timeout) {
            Ok(result) => result.map_err(|error| format!("the journal {path} is not complete: {error}")),
            Err(_) => Err(format!(
                "the journal {path} is not complete: its disk did not answer for {} s; {} records wait",
                timeout.as_secs_f64(),
                lock(&self.shared).load.records
            )),
        }
    }
}

/// The other side.
struct Worker {
    writer: Writer<Sqlite>,
    epoch: Instant,
    queue: Receiver<Job>,
    report: Sender<Report>,
    shared: Arc<Mutex<Shared>>,
}

impl Worker {
    fn run(mut self) {
        loop {
            // Of the load that the other side knows, this much has come here.
            let mut load = self.writer.load();
            let first = match self.queue.recv_deadline(self.epoch + self.writer.wake_at()) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return drop(self.close()),
            };
            let mut end = None;
            for job in first.into_iter().chain(self.queue.try_iter()) {
                match job {
                    Job::Write(records) => {
                        load = load.plus(Load::of(&records));
                        self.writer.take(records);
                    }
                    Job::Close(done) => end = Some(done),
                }
            }
            if let Some(done) = end {
                // If nobody waits any more, it is too late anyway.
                return drop(done.send(self.close()));
            }
            self.turn(load);
        }
    }

    /// Does what is due and says what came of it; `load` is what waited before.
    fn turn(&mut self, load: Load) {
        let begun = Instant::now();
        lock(&self.shared).busy_since = Some(begun);
        let now = Time { mono: begun - self.epoch, tai: clock::now() };
        let reports = self.writer.turn(now);
        let left = self.writer.load();
        let problem =
            self.writer.trouble().map(|trouble| (trouble.reason.clone(), self.epoch + trouble.since));
        let upkeep_problem = self.writer.upkeep_problem().map(str::to_owned);
        let notice = self.writer.store().notice().map(str::to_owned);
        let mut shared = lock(&self.shared);
        shared.load = shared.load.minus(load.minus(left));
        shared.problem = problem;
        shared.busy_since = None;
        if left != load {
            shared.last_commit = Some(begun.elapsed());
        }
        let before = std::mem::replace(&mut shared.upkeep_problem, upkeep_problem.clone());
        let notice_before = std::mem::replace(&mut shared.notice, notice.clone());
        drop(shared);
        if let Some(notice) = notice.filter(|notice| notice_before.as_ref() != Some(notice)) {
            log::warn!("{notice}");
        }
        match (before, upkeep_problem) {
            (None, Some(problem)) => log::warn!("the journal is not kept in order: {problem}"),
            (Some(_), None) => log::info!("the journal is kept in order again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        for report in reports {
            // Nobody listens at the end.
            let _ = self.report.send(report);
        }
    }

    fn close(self) -> Result<(), String> {
        let now = Time { mono: self.epoch.elapsed(), tai: clock::now() };
        lock(&self.shared).busy_since = Some(Instant::now());
        let (store, reports, finished) = self.writer.finish(now);
        for report in reports {
            let _ = self.report.send(report);
        }
        finished.and(store.close())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
