//! The journal in SQLite.
//!
//! A commit is one transaction, which is on the disk when it returns (WAL, `synchronous=FULL`). Checkpoints and
//! the pruning of old commands are left to [`Store::upkeep`], for quiet turns, except that SQLite itself makes a checkpoint
//! when 4 MiB were committed without one: then commits write over the `-wal` file, which is quicker than to let it grow. After
//! an error, nothing more is written before all that was committed has been brought to the main file: what the system says
//! about a page whose sync failed once cannot be relied on. A file that is deleted or replaced is copied to its place again:
//! the open connection can still read it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::error::{Fault, OpenError, size, wal};
use super::lock::Lock;
use super::open::{self, Files, Place, QUIET, WHOLE};
use super::schema::STEPS;
use super::tables::{apply, prune, recover};
use super::{Identity, Limits};
use crate::clock::Moment;
use crate::csc::record::{Record, Recovered};
use crate::csc::time::Tai;

/// How large the `-wal` file may grow while checkpoints fail, in bytes.
const WAL_MAX: u64 = 64 << 20;

/// Where records are kept.
pub trait Store {
    /// Time between upkeeps when nothing is written, and after one that failed: an upkeep notices what is wrong.
    const UPKEEP_EVERY: Duration = Duration::from_secs(10);

    /// Keeps these records, in this order: all of them or none. They are durable when the call returns.
    ///
    /// After an error it may be called again with these records, or some of them.
    ///
    /// # Errors
    /// One line: why nothing was kept.
    fn commit(&mut self, records: &[&Record]) -> Result<(), String>;

    /// Does a bounded part of what can wait for a quiet turn.
    ///
    /// # Errors
    /// One line: why it did not work; nothing is lost.
    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String>;

    /// Why nothing can ever be written again, if so: another writer has taken the place of this one.
    fn fenced(&self) -> Option<&str> {
        None
    }

    /// When it was last certain that this is the only writer; none if there cannot be another.
    fn confirmed(&self) -> Option<Moment> {
        None
    }

    /// What an operator should know about the journal.
    fn notice(&self) -> Option<&str> {
        None
    }

    /// Closes it in order; what was committed is durable in any case.
    ///
    /// # Errors
    /// One line: why that did not work.
    fn close(self) -> Result<(), String>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// What is left to do in quiet turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing, until something is written or time has passed.
    Done,
    /// Another upkeep soon.
    More,
}

/// A journal in SQLite.
#[derive(Debug)]
pub struct Sqlite {
    place: Place,
    /// The lock of the directory, unless the caller holds it.
    lock: Option<Lock>,
    /// How many runs the journal has had, this one included.
    runs: i64,
    /// The files when the connection was opened.
    files: Files,
    /// None after an error that a new connection may not have.
    connection: Option<Connection>,
    /// Whether the last write failed.
    needs_repair: bool,
    /// That the file was missing at the start, or was deleted since.
    notice: Option<String>,
    /// How often the file was copied to its place again.
    copies: u32,
}

/// Checks a journal that no process uses, and changes nothing; gives whether there is one. `noted` is how many runs the
/// last journal of that name had.
pub(super) fn examine(path: &Path, identity: Identity, noted: i64) -> Result<bool, String> {
    let limits = Limits::new(Duration::ZERO);
    let place = Place { path: path.to_owned(), identity, limits, steps: STEPS };
    let runs = place.examine().map_err(|fault| fault.refusal(path).to_string())?;
    lost_before(path, runs.unwrap_or(0), noted).map_or(Ok(runs.is_some()), Err)
}

impl Sqlite {
    /// Opens the journal in the file at `path`, or makes an empty one if there is none, and reads what a previous run
    /// left. The lock of the directory knows how many runs the last journal of that name had.
    ///
    /// # Errors
    /// See [`OpenError`]; the file is unchanged.
    pub fn open(
        path: &Path,
        identity: Identity,
        limits: Limits,
        now: Tai,
        mut lock: Option<Lock>,
    ) -> Result<(Self, Recovered), OpenError> {
        let noted = lock.as_ref().map_or(0, Lock::runs);
        let place = Place { path: path.to_owned(), identity, limits, steps: STEPS };
        let opened = place.open_first(|transaction| {
            let runs = open::runs(transaction)?;
            if runs < noted {
                transaction.execute("UPDATE journal SET searched = 0", [])?;
            }
            let recovered = recover(transaction)?;
            prune(transaction, limits, now)?;
            Ok((recovered, runs))
        });
        let (connection, (recovered, runs)) = opened.map_err(|fault| fault.refusal(path))?;
        let mut store = Self::new(place, connection);
        // The one that begins now is counted.
        store.runs = runs + 1;
        if let Some(lock) = &mut lock {
            lock.note(store.runs);
        }
        store.lock = lock;
        store.notice = lost_before(path, runs, noted);
        if let Some(notice) = &store.notice {
            log::warn!("{notice}");
        }
        Ok((store, recovered))
    }

    /// A journal in memory, for tests: like the one in a file, except that it does not survive the process.
    ///
    /// # Errors
    /// One line: SQLite refuses.
    pub fn in_memory(identity: Identity, limits: Limits) -> Result<Self, String> {
        let place = Place { path: PathBuf::from(":memory:"), identity, limits, steps: STEPS };
        let open = || {
            let mut connection = Connection::open_in_memory()?;
            open::set_options(&connection, limits)?;
            place.populate(&mut connection)?;
            Ok(connection)
        };
        let connection = open().map_err(|error: rusqlite::Error| error.to_string())?;
        Ok(Self::new(place, connection))
    }

    fn new(place: Place, connection: Connection) -> Self {
        Self {
            files: open::files(&place.path),
            place,
            lock: None,
            runs: 1,
            connection: Some(connection),
            needs_repair: false,
            notice: None,
            copies: 0,
        }
    }

    /// What a run that began now would be given: all commands that are unfinished, not confirmed, or suspected, the
    /// executes whose jobs are being aborted, and the last 1000 settled commands.
    ///
    /// # Errors
    /// One line: a row makes no sense, or the disk cannot be read.
    pub fn recover(&self) -> Result<Recovered, String> {
        let connection = self.connection.as_ref().ok_or("it is not open")?;
        recover(connection).map_err(|fault| fault.reason(&self.place.path))
    }

    /// The connection, after the repair that it may need.
    fn usable(&mut self) -> Result<&mut Connection, Fault> {
        let found = open::files(&self.place.path);
        // While there is no connection, another `-wal` file does no harm.
        let is_replaced = found[0] != self.files[0] || (self.connection.is_some() && found != self.files);
        if self.needs_repair || is_replaced || size(&wal(&self.place.path)) > WAL_MAX {
            self.repair(is_replaced)?;
            self.needs_repair = false;
        }
        self.connection.as_mut().ok_or_else(|| "it is not open".into())
    }

    /// Makes the connection fit for use after an error, or after the file was deleted or replaced.
    fn repair(&mut self, is_replaced: bool) -> Result<(), Fault> {
        if let Some(open) = self.connection.take() {
            if !open.is_autocommit() {
                // An error left a transaction open; if it stays so, the checkpoint fails.
                let _ = open.execute_batch("ROLLBACK");
            }
            let mended = open::checkpoint(&open, WHOLE);
            if is_replaced {
                if let Err(fault) = self.copy(&open) {
                    // Only this connection can still read the file.
                    self.connection = Some(open);
                    let reason = fault.reason(&self.place.path);
                    return Err(format!("the file was deleted or replaced: {reason}").into());
                }
            } else if mended.is_ok() {
                self.connection = Some(open);
                return Ok(());
            }
        } else if is_replaced {
            let reason = "the file was deleted or replaced while its disk did not work: restart ocps";
            return Err(reason.into());
        }
        self.connection = Some(self.place.reopen()?);
        self.files = open::files(&self.place.path);
        Ok(())
    }

    /// Copies the journal to its place again.
    fn copy(&mut self, open: &Connection) -> Result<(), Fault> {
        if let Some(lock) = &mut self.lock {
            lock.renew()?;
            lock.note(self.runs);
        }
        let other = self.place.copy(open, self.files)?;
        self.files = open::files(&self.place.path);
        self.copies = self.copies.saturating_add(1);
        let other = other.map(|other| format!("; what was in its place is now {}", other.display()));
        let notice = format!(
            "the journal {} was deleted, moved away or replaced while in use ({} times since the start): it is complete \
             again{}",
            self.place.path.display(),
            self.copies,
            other.unwrap_or_default()
        );
        log::warn!("{notice}");
        self.notice = Some(notice);
        Ok(())
    }

    /// Does something in one transaction.
    fn transact<T>(&mut self, act: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let transact = |connection: &mut Connection| {
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let done = act(connection)?;
            connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(done)
        };
        // What an error leaves open is rolled back by the repair.
        let result = self.usable().and_then(transact);
        self.needs_repair = result.is_err();
        result
    }
}

impl Store for Sqlite {
    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        let mut result = self.transact(|transaction| apply(transaction, records));
        if result.as_ref().is_err_and(Fault::is_lack_of_room) {
            // What was committed takes less room in the main file, and the repair brings it there; and notes are dispensable.
            let needed: Vec<_> = records.iter().copied().filter(|record| !record.is_note()).collect();
            result = self.transact(|transaction| apply(transaction, &needed)).or(result);
        }
        result.map_err(|fault| fault.reason(&self.place.path))
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        let limits = self.place.limits;
        let left = self.transact(|transaction| prune(transaction, limits, now)).and_then(|left| {
            if left == Upkeep::Done {
                // What was committed is safe also where this fails.
                open::checkpoint(self.usable()?, QUIET)?;
            }
            Ok(left)
        });
        left.map_err(|fault| fault.reason(&self.place.path))
    }

    fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Brings all records to the main file and removes the `-wal` file.
    fn close(mut self) -> Result<(), String> {
        let usable = self.usable().map(drop);
        let closed = usable.and_then(|()| self.connection.take().map_or(Ok(()), open::close));
        closed.map_err(|fault| fault.reason(&self.place.path))
    }
}

/// What is lost where the journal has had fewer runs than the lock file has noted.
fn lost_before(path: &Path, runs: i64, noted: i64) -> Option<String> {
    let lost = match runs {
        _ if runs >= noted => return None,
        0 => "missing, although there was one: what it held".to_owned(),
        _ => format!("an old copy ({runs} runs, but there were {noted}): what was accepted since"),
    };
    Some(format!(
        "the journal {} is {lost} is forgotten, except for jobs that still run at the execution service, which the \
         first start looks for",
        path.display()
    ))
}
