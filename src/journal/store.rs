//! The journal in SQLite.
//!
//! A commit is one transaction, which is on the disk when it returns (WAL, `synchronous=FULL`). Checkpoints and
//! the forgetting of old commands are left to [`Store::upkeep`], for quiet turns. After an error, nothing more is
//! written before all that was committed has been brought to the main file: what the system says of a page whose
//! sync failed once is not to be relied on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::error::OpenError;
use super::format::{self, CommandRow, SeenRow};
use super::live::Live;
use super::lock::Lock;
use super::open::{self, Checkpoint, Fault, Files, Opening};
use super::schema::Schema;
use super::{Identity, Limits};
use crate::csc::command::{CommandName, Sender};
use crate::csc::id::EntryKey;
use crate::csc::record::{Kept, Owed, Record, Recovered, Work};
use crate::csc::state::SummaryState;
use crate::csc::time::Tai;
use crate::text::quote;

/// Most commands that came over Kafka that are remembered. Their age does not count: clocks can be wrong, and one
/// that comes again is the same however late.
const SEEN_MAX: i64 = 10_000;
/// Most commands that are read at start although they are over and done with.
const HISTORY_READ: usize = 1000;
/// Most bytes of theirs, so that large results do not fill the memory.
const HISTORY_READ_BYTES: usize = 64 << 20;
/// Most commands that are forgotten in one turn of upkeep.
const FORGOTTEN_AT_ONCE: i64 = 200;
/// After how many commands that ended or were seen it is looked for what can be forgotten.
const LOOK_AFTER: usize = 1000;
/// After what time too, in seconds.
const LOOK_EVERY_S: f64 = 3600.0;
/// How large the `-wal` file may grow between quiet turns, in bytes.
const WAL_MAX: u64 = 64 << 20;

/// Where records are kept.
pub trait Store {
    /// Keeps these records, in this order: all of them or none. They are durable when it returns.
    ///
    /// It may be called again after an error, and then with these records again, or some of them.
    ///
    /// # Errors
    /// One line: why nothing was kept.
    fn commit(&mut self, records: &[&Record]) -> Result<(), String>;

    /// Does a bounded part of what can wait for a quiet turn.
    ///
    /// # Errors
    /// One line: why it did not work; nothing is lost.
    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String>;
}

/// What is left to do in quiet turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing, until something is written or an hour has passed.
    Done,
    /// More of the same.
    More,
}

/// A journal in SQLite.
#[derive(Debug)]
pub struct Sqlite {
    place: Place,
    identity: Identity,
    limits: Limits,
    live: Live,
    notice: Option<String>,
    /// How often it was written anew.
    made_anew: u32,
    /// None after trouble that another connection may be free of.
    connection: Option<Connection>,
    /// Whether the last write failed.
    doubtful: bool,
    /// Commands that ended or were seen since it was looked for what can be forgotten.
    unlooked: usize,
    looked: Option<Tai>,
}

#[derive(Debug)]
enum Place {
    Memory,
    File {
        path: PathBuf,
        /// As they were when it was opened.
        files: Files,
        /// That of its directory, unless the caller has it.
        lock: Option<Lock>,
    },
}

impl Place {
    /// Whether the file was deleted, moved away or replaced.
    fn is_gone(&self) -> bool {
        match self {
            Self::Memory => false,
            Self::File { path, files, .. } => Files::of(path).main != files.main,
        }
    }
}

impl Sqlite {
    /// Opens the journal in the file at `path`, or makes an empty one if there is none, and reads what is left
    /// of an earlier life.
    ///
    /// # Errors
    /// See [`OpenError`]; the file is as it was.
    pub fn open(
        path: &Path,
        identity: Identity,
        limits: Limits,
        now: Tai,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_locked(path, identity, limits, now, None)
    }

    /// The same, with the lock of the directory, which says how many lives the last journal here had.
    pub(super) fn open_locked(
        path: &Path,
        identity: Identity,
        limits: Limits,
        now: Tai,
        mut lock: Option<Lock>,
    ) -> Result<(Self, Recovered), OpenError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let noted = lock.as_ref().and_then(|lock| lock.lives(&name)).unwrap_or(0);
        let opening = Opening { path, identity, limits, schema: Schema::KNOWN };
        let (connection, (recovered, lives)) = opening.first(|transaction| {
            let lives = transaction.query_row("SELECT lives FROM journal", [], |row| row.get(0))?;
            if lives < noted {
                transaction.execute("UPDATE journal SET searched = 0", [])?;
            }
            let recovered = recover(transaction)?;
            forget(transaction, limits, now)?;
            Ok((recovered, lives))
        })?;
        // The one that begins now was counted.
        let live = Live::new(&recovered, lives + 1, now);
        // Without the note, a journal that is deleted later is taken for one that never was: no reason not to begin.
        let _ = lock.as_mut().map(|lock| lock.note(&name, live.lives));
        let place = Place::File { path: path.to_owned(), files: Files::of(path), lock };
        let mut store = Self::new(place, identity, limits, connection, live);
        store.notice = lost_before(path, lives, noted);
        Ok((store, recovered))
    }

    /// A journal in memory, for tests: all that the one in a file does, but for surviving the process.
    ///
    /// # Errors
    /// One line: SQLite refuses.
    pub fn in_memory(identity: Identity, limits: Limits) -> Result<Self, String> {
        let live = Live::default();
        let connection = memory(identity, limits, &live).map_err(|fault| format!("{fault:?}"))?;
        Ok(Self::new(Place::Memory, identity, limits, connection, live))
    }

    fn new(place: Place, identity: Identity, limits: Limits, connection: Connection, live: Live) -> Self {
        let connection = Some(connection);
        Self {
            place,
            identity,
            limits,
            live,
            notice: None,
            made_anew: 0,
            connection,
            doubtful: false,
            unlooked: 0,
            looked: None,
        }
    }

    /// What people should know of it: it was missing at the start, or was deleted since and written anew.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Writes the journal anew from memory, in its place: all that is unfinished or owed, but not what is over.
    ///
    /// # Errors
    /// One line: why it could not be written.
    pub fn write_anew(&mut self) -> Result<(), String> {
        self.make_anew().map_err(|fault| self.told(fault))
    }

    fn make_anew(&mut self) -> Result<(), Fault> {
        let (identity, limits) = (self.identity, self.limits);
        let connection = match &mut self.place {
            Place::Memory => memory(identity, limits, &self.live)?,
            Place::File { path, files, lock } => {
                if let Some(lock) = lock {
                    lock.renew().map_err(Fault::Nonsense)?;
                }
                if let Some(old) = &self.connection {
                    // For whoever has the old file; nothing of ours depends on it.
                    let _ = open::checkpoint(old, Checkpoint::Whole);
                }
                let aside = open::set_aside(path, files)?;
                let opening = Opening { path, identity, limits, schema: Schema::KNOWN };
                opening.create(&self.live).map_err(Fault::Refused)?;
                let connection = opening.again().map_err(Fault::Refused)?;
                *files = Files::of(path);
                if let Some(lock) = lock {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    // As at the start.
                    let _ = lock.note(&name, self.live.lives);
                }
                let aside = aside.map(|aside| format!("; what was in its place is now {}", aside.display()));
                self.made_anew = self.made_anew.saturating_add(1);
                self.notice = Some(format!(
                    "the journal {} was deleted, moved away or replaced while in use ({} times since the start): it was \
                     written anew from memory, with {} commands that are unfinished or not confirmed; what ended before \
                     is not in it{}",
                    path.display(),
                    self.made_anew,
                    self.live.len(),
                    aside.unwrap_or_default()
                ));
                connection
            }
        };
        self.connection = Some(connection);
        self.doubtful = false;
        Ok(())
    }

    /// What a life that began now would be given: all that is unfinished, owes something, or is suspected, the
    /// executes whose jobs are being aborted, and the last 1000 of those that are over and done with.
    ///
    /// # Errors
    /// One line: a row makes no sense, or the disk cannot be read.
    pub fn recover(&self) -> Result<Recovered, String> {
        let connection = self.connection.as_ref().ok_or("it is not open")?;
        recover(connection).map_err(|fault| self.told(fault))
    }

    /// Brings all to the main file and closes it; the `-wal` file is gone then.
    ///
    /// # Errors
    /// One line; what was committed is durable all the same.
    pub fn close(mut self) -> Result<(), String> {
        if self.place.is_gone() {
            self.write_anew()?;
        }
        let connection = self.connection.take().ok_or_else(closed);
        connection.and_then(open::close).map_err(|fault| self.told(fault))
    }

    /// Makes the connection fit for use after an error.
    fn mend(&mut self) -> Result<&mut Connection, Fault> {
        if let Some(connection) = self.connection.take() {
            match open::roll_back(&connection).and_then(|()| open::checkpoint(&connection, Checkpoint::Whole))
            {
                Ok(()) => return Ok(self.connection.insert(connection)),
                Err(fault) => {
                    // The next try begins with a new one, unless all would be lost with this one.
                    if matches!(self.place, Place::Memory) {
                        self.connection = Some(connection);
                    }
                    return Err(fault);
                }
            }
        }
        let Place::File { path, files, .. } = &mut self.place else {
            return Err(Fault::Nonsense("it is not open".to_owned()));
        };
        let opening = Opening { path, identity: self.identity, limits: self.limits, schema: Schema::KNOWN };
        let connection = opening.again().map_err(Fault::Refused)?;
        *files = Files::of(path);
        Ok(self.connection.insert(connection))
    }

    /// The connection, if all is as it should be or can be made so.
    fn usable(&mut self) -> Result<&mut Connection, Fault> {
        let mut large = false;
        if self.place.is_gone() {
            self.make_anew()?;
        }
        if let Place::File { path, files, .. } = &self.place {
            let found = Files::of(path);
            if found.wal != files.wal
                && let Some(connection) = self.connection.take()
            {
                // Somebody removed it. Only we can still read what was committed last.
                self.doubtful = true;
                open::checkpoint(&connection, Checkpoint::Whole)?;
            }
            // There were no quiet turns for long, or their checkpoints failed.
            large = found.wal_bytes > WAL_MAX;
        }
        if self.doubtful {
            return self.mend();
        }
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        if large {
            open::checkpoint(connection, Checkpoint::Whole)?;
        }
        Ok(connection)
    }

    /// Does something in one transaction.
    fn transact<T>(&mut self, act: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let transact = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = act(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let result = self.usable().and_then(transact);
        self.doubtful = result.is_err();
        result
    }

    fn told(&self, fault: Fault) -> String {
        match (fault, &self.place) {
            (Fault::Refused(error), _) => error.to_string(),
            (Fault::Nonsense(reason), Place::File { path, .. }) => {
                format!("the journal {} cannot be written: {}", path.display(), quote(&reason))
            }
            (Fault::Sql(error), Place::File { path, .. }) => {
                format!("the journal {} cannot be written: {}", path.display(), open::reason(path, &error))
            }
            (Fault::Nonsense(reason), Place::Memory) => format!("the journal cannot be written: {reason}"),
            (Fault::Sql(error), Place::Memory) => format!("the journal cannot be written: {error}"),
        }
    }
}

impl Store for Sqlite {
    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        let counts = |record: &&&Record| matches!(record, Record::Ended { .. } | Record::Seen { .. });
        self.unlooked += records.iter().filter(counts).count();
        let mut result = self.transact(|transaction| keep_all(transaction, records));
        if result.as_ref().is_err_and(Fault::is_lack_of_room) {
            // What was committed takes less room in the main file, and the mending brings it there.
            result = self.transact(|transaction| keep_all(transaction, records)).or(result);
        }
        if result.is_err() {
            // There may be no room because of what can be forgotten.
            self.looked = None;
        }
        if result.is_ok() {
            records.iter().for_each(|record| self.live.keep(record));
        }
        result.map_err(|fault| self.told(fault))
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        let due = self.looked.is_none_or(|looked| (now.0 - looked.0).abs() >= LOOK_EVERY_S);
        if due || self.unlooked >= LOOK_AFTER {
            let limits = self.limits;
            match self.transact(|transaction| forget(transaction, limits, now)) {
                Ok(Upkeep::Done) => (self.looked, self.unlooked) = (Some(now), 0),
                Ok(Upkeep::More) => return Ok(Upkeep::More),
                Err(fault) => return Err(self.told(fault)),
            }
        }
        let result = self.usable().and_then(|connection| open::checkpoint(connection, Checkpoint::Quiet));
        // A connection that could be used is not doubtful any more; one that was not doubtful stays so, since a
        // checkpoint is no harm to what was committed.
        self.doubtful &= result.is_err();
        result.map_err(|fault| self.told(fault)).map(|()| Upkeep::Done)
    }
}

fn closed() -> Fault {
    Fault::Nonsense("it is not open".to_owned())
}

/// What the journal held in a previous run, of which the lock file knows.
fn lost_before(path: &Path, lives: i64, noted: i64) -> Option<String> {
    let path = path.display();
    let lost = if lives >= noted {
        return None;
    } else if lives == 0 {
        format!("the journal {path} is missing, although there was one: what it held is forgotten")
    } else {
        format!(
            "the journal {path} is an old copy ({lives} runs, but there were {noted}): what was accepted since is forgotten"
        )
    };
    Some(format!(
        "{lost}, except for jobs that still run at the execution service, which the first start looks for"
    ))
}

/// A database in memory, with this content.
fn memory(identity: Identity, limits: Limits, live: &Live) -> Result<Connection, Fault> {
    let mut connection = Connection::open_in_memory()?;
    open::settle(&connection, limits)?;
    open::populate(&mut connection, identity, Schema::KNOWN, live)?;
    Ok(connection)
}

pub(super) fn keep_all(transaction: &Transaction<'_>, records: &[&Record]) -> Result<(), Fault> {
    for record in records {
        keep(transaction, record)?;
    }
    let accepted = records.iter().filter_map(|record| accepted_key(record));
    if let Some(key) = accepted.max() {
        let mut statement = transaction.prepare_cached("UPDATE journal SET last_key = max(last_key, ?)")?;
        statement.execute([format::key_column(key).map_err(Fault::Nonsense)?])?;
    }
    Ok(())
}

/// The key of a command that this record says was accepted.
fn accepted_key(record: &Record) -> Option<EntryKey> {
    match record {
        Record::Accepted(entry) => Some(entry.key),
        Record::Created { .. }
        | Record::Suspected { .. }
        | Record::Cleared { .. }
        | Record::Ended { .. }
        | Record::Said(_)
        | Record::Seen { .. }
        | Record::Searched
        | Record::State { .. } => None,
    }
}

/// Keeps a record; keeping it again changes nothing. What is said of a command that is not known is not kept.
fn keep(transaction: &Transaction<'_>, record: &Record) -> Result<(), Fault> {
    let execute = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| -> Result<(), Fault> {
        transaction.prepare_cached(sql)?.execute(parameters)?;
        Ok(())
    };
    let column = |key: EntryKey| format::key_column(key).map_err(Fault::Nonsense);
    match record {
        Record::Accepted(entry) => {
            let document = format::document(entry).map_err(Fault::Nonsense)?;
            let kind = format::kind(&entry.work).as_str();
            let (boot, uptime) = format::uptime_columns(entry.uptime);
            execute(
                "INSERT INTO commands (key, kind, accepted, boot, uptime, document) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (key) DO NOTHING",
                params![column(entry.key)?, kind, format::column(entry.accepted), boot, uptime, document],
            )
        }
        Record::Created { key, job_id } => {
            execute("UPDATE commands SET job_id = ? WHERE key = ?", params![job_id.as_str(), column(*key)?])
        }
        Record::Suspected { key, until } => execute(
            "UPDATE commands SET suspected = ? WHERE key = ?",
            params![format::column(*until), column(*key)?],
        ),
        Record::Cleared { key } => {
            execute("UPDATE commands SET suspected = NULL WHERE key = ?", params![column(*key)?])
        }
        Record::Ended { key, end } => {
            let ending = format::ending(end).map_err(Fault::Nonsense)?;
            let result = end.result.as_ref().map(format::result).transpose().map_err(Fault::Nonsense)?;
            execute(
                "UPDATE commands SET ended = ?, ending = ?, result = ? WHERE key = ?",
                params![format::column(end.at), ending, result, column(*key)?],
            )
        }
        Record::Said(receipt) => {
            let sql = match receipt.what {
                Owed::Result => "UPDATE commands SET said_result = 1 WHERE key = ?",
                Owed::Ack => "UPDATE commands SET said_ack = 1 WHERE key = ?",
            };
            execute(sql, params![column(receipt.key)?])
        }
        Record::Seen { sender, at } => {
            let SeenRow { at, identity, origin, seq_num, sent } = SeenRow::new(sender, *at);
            execute(
                "INSERT OR REPLACE INTO seen (at, identity, origin, seq_num, sent) VALUES (?, ?, ?, ?, ?)",
                params![at, identity, origin, seq_num, sent],
            )
        }
        Record::Searched => execute("UPDATE journal SET searched = 1", params![]),
        Record::State { state, override_name } => execute(
            "INSERT OR REPLACE INTO summary_state (only, state, override) VALUES (1, ?, ?)",
            params![state.name(), override_name],
        ),
    }
}

/// Forgets a bounded part of what need not be kept any more.
///
/// The clock may be wrong: the last commands are kept whatever their age, and what is too much is forgotten in the
/// order in which it came. (`+settled` is found without the index, by key.)
fn forget(transaction: &Transaction<'_>, limits: Limits, now: Tai) -> Result<Upkeep, Fault> {
    transaction.execute("DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", [SEEN_MAX])?;
    let last_old: Option<i64> = transaction
        .query_row(
            "SELECT key FROM commands WHERE +settled = 1 ORDER BY key DESC LIMIT 1 OFFSET ?",
            [limits.history_least],
            |row| row.get(0),
        )
        .optional()?;
    let expired = now.0 - limits.history.as_secs_f64();
    let mut old = transaction.prepare_cached(
        "DELETE FROM commands WHERE key IN (
           SELECT key FROM commands
           WHERE settled = 1 AND ended < ? AND key <= ? AND suspected IS NULL
           ORDER BY ended, key LIMIT ?)",
    )?;
    let forgotten = old.execute(params![expired, last_old.unwrap_or(0), FORGOTTEN_AT_ONCE])?;
    let mut first = transaction.prepare_cached(
        "DELETE FROM commands WHERE key IN (
           SELECT key FROM commands WHERE +settled = 1 AND suspected IS NULL ORDER BY key LIMIT ?)",
    )?;
    let left = FORGOTTEN_AT_ONCE.saturating_sub_unsigned(forgotten as u64);
    let excess = excess(transaction, limits)?.min(left);
    let forgotten = forgotten + first.execute([excess])?;
    let all = u64::try_from(FORGOTTEN_AT_ONCE).is_ok_and(|most| (forgotten as u64) < most);
    Ok(if all { Upkeep::Done } else { Upkeep::More })
}

/// How many of the commands that are over are too many; at most as many as there are.
fn excess(transaction: &Transaction<'_>, limits: Limits) -> rusqlite::Result<i64> {
    let number = |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let used = (number("page_count")? - number("freelist_count")?).saturating_mul(number("page_size")?);
    if used > limits.history_bytes {
        return Ok(i64::MAX);
    }
    let count: i64 =
        transaction.query_row("SELECT count(*) FROM commands WHERE settled = 1", [], |row| row.get(0))?;
    Ok((count - limits.history_rows).max(0))
}

fn recover(connection: &Connection) -> Result<Recovered, Fault> {
    let searched: bool = connection.query_row("SELECT searched FROM journal", [], |row| row.get(0))?;
    Ok(Recovered {
        entries: recover_entries(connection)?,
        seen: recover_seen(connection)?,
        state: recover_state(connection)?,
        last_key: recover_last_key(connection)?,
        unsearched: !searched,
    })
}

fn recover_entries(connection: &Connection) -> Result<Vec<Kept>, Fault> {
    let mut entries = BTreeMap::new();
    for condition in ["settled = 0", "suspected IS NOT NULL"] {
        let mut statement = connection.prepare_cached(&select(condition))?;
        for row in statement.query_map([], command_row)? {
            add(&mut entries, row?)?;
        }
    }
    // What was told of a job whose abort is unfinished, however long ago.
    let aborting: serde_json::Value = entries.values().filter_map(aborting).collect();
    let mut statement =
        connection.prepare_cached(&select("kind = ? AND job_id IN (SELECT value FROM json_each(?))"))?;
    let parameters = params![CommandName::Execute.as_str(), aborting.to_string()];
    for row in statement.query_map(parameters, command_row)? {
        add(&mut entries, row?)?;
    }
    let mut statement = connection.prepare_cached(&select("+settled = 1 ORDER BY key DESC"))?;
    let mut bytes: usize = 0;
    for row in statement.query_map([], command_row)?.take(HISTORY_READ) {
        let row = row?;
        bytes += row.document.len() + row.result.as_ref().map_or(0, String::len);
        if bytes > HISTORY_READ_BYTES {
            break;
        }
        add(&mut entries, row)?;
    }
    Ok(entries.into_values().collect())
}

fn add(entries: &mut BTreeMap<EntryKey, Kept>, row: CommandRow) -> Result<(), Fault> {
    let kept = row.parse().map_err(Fault::Nonsense)?;
    entries.insert(kept.entry.key, kept);
    Ok(())
}

/// The job of an abort that is unfinished.
fn aborting(kept: &Kept) -> Option<&str> {
    match (&kept.entry.work, &kept.end) {
        (Work::Abort { job_id, .. }, None) => Some(job_id.as_str()),
        (Work::Abort { .. }, Some(_)) | (Work::Execute { .. }, _) => None,
    }
}

fn select(condition: &str) -> String {
    format!(
        "SELECT key, kind, accepted, job_id, suspected, ended, said_result, said_ack, document, ending, result,
           boot, uptime
         FROM commands WHERE {condition}"
    )
}

fn command_row(row: &Row<'_>) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        key: row.get(0)?,
        kind: row.get(1)?,
        accepted: row.get(2)?,
        job_id: row.get(3)?,
        suspected: row.get(4)?,
        ended: row.get(5)?,
        said_result: row.get(6)?,
        said_ack: row.get(7)?,
        document: row.get(8)?,
        ending: row.get(9)?,
        result: row.get(10)?,
        boot: row.get(11)?,
        uptime: row.get(12)?,
    })
}

fn recover_seen(connection: &Connection) -> Result<Vec<Sender>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT at, identity, origin, seq_num, sent FROM seen ORDER BY number DESC LIMIT ?",
    )?;
    let rows = statement.query_map([SEEN_MAX], |row| {
        Ok(SeenRow {
            at: row.get(0)?,
            identity: row.get(1)?,
            origin: row.get(2)?,
            seq_num: row.get(3)?,
            sent: row.get(4)?,
        })
    })?;
    let mut seen = Vec::new();
    for row in rows {
        seen.push(
            row?.parse().map_err(|error| Fault::Nonsense(format!("a command that was seen: {error}")))?,
        );
    }
    seen.reverse();
    Ok(seen)
}

fn recover_state(connection: &Connection) -> Result<Option<(SummaryState, String)>, Fault> {
    let row = connection
        .query_row("SELECT state, override FROM summary_state", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let row: Option<(String, String)> = row.optional()?;
    let parse = |(state, override_name): (String, _)| Ok((format::parse_state(&state)?, override_name));
    row.map(parse).transpose().map_err(Fault::Nonsense)
}

fn recover_last_key(connection: &Connection) -> Result<u64, Fault> {
    let numbers: (i64, i64) = connection.query_row(
        "SELECT last_key, (SELECT coalesce(max(key), 0) FROM commands) FROM journal",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let parse = |number| format::parse_last_key(number).map_err(Fault::Nonsense);
    Ok(parse(numbers.0)?.max(parse(numbers.1)?))
}
