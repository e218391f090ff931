//! The journal in SQLite.
//!
//! A commit is one transaction, which is on the disk when it returns (WAL, `synchronous=FULL`). Checkpoints and
//! the forgetting of old commands are left to [`Store::upkeep`], for quiet turns. After an error, nothing more is
//! written before all that was committed has been brought to the main file: what the system says of a page whose
//! sync failed once is not to be relied on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::error::{OpenError, one_line};
use super::format::{self, CommandRow, SeenRow};
use super::open::{self, Checkpoint, Fault, Files, Opening};
use super::schema::Schema;
use super::{Identity, Limits};
use crate::csc::command::{CommandName, Sender};
use crate::csc::id::EntryKey;
use crate::csc::record::{Kept, Owed, Record, Recovered, Work};
use crate::csc::state::SummaryState;
use crate::csc::time::Tai;

/// How long commands that came over Kafka are remembered, in seconds: as long as the core does.
const SEEN_FOR_S: f64 = 3600.0;
/// Most of them.
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
    },
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
        let opening = Opening { path, identity, limits, schema: Schema::KNOWN };
        let (connection, recovered) = opening.first(|transaction| {
            let recovered = recover(transaction, now)?;
            forget(transaction, limits, now)?;
            Ok(recovered)
        })?;
        let place = Place::File { path: path.to_owned(), files: Files::of(path) };
        Ok((Self::new(place, identity, limits, connection), recovered))
    }

    /// A journal in memory, for tests: all that the one in a file does, but for surviving the process.
    ///
    /// # Errors
    /// One line: SQLite refuses.
    pub fn in_memory(identity: Identity, limits: Limits) -> Result<Self, String> {
        let make = || -> rusqlite::Result<Connection> {
            let mut connection = Connection::open_in_memory()?;
            open::settle(&connection, limits)?;
            open::populate(&mut connection, identity, Schema::KNOWN)?;
            Ok(connection)
        };
        let connection = make().map_err(|error| error.to_string())?;
        Ok(Self::new(Place::Memory, identity, limits, connection))
    }

    fn new(place: Place, identity: Identity, limits: Limits, connection: Connection) -> Self {
        let connection = Some(connection);
        Self { place, identity, limits, connection, doubtful: false, unlooked: 0, looked: None }
    }

    /// What a life that began now would be given: all that is unfinished, owes something, or is suspected, the
    /// executes whose jobs are being aborted, and the last 1000 of those that are over and done with.
    ///
    /// # Errors
    /// One line: a row makes no sense, or the disk cannot be read.
    pub fn recover(&self, now: Tai) -> Result<Recovered, String> {
        let connection = self.connection.as_ref().ok_or("it is not open")?;
        recover(connection, now).map_err(|fault| self.told(fault))
    }

    /// Brings all to the main file and closes it; the `-wal` file is gone then.
    ///
    /// # Errors
    /// One line; what was committed is durable all the same.
    pub fn close(mut self) -> Result<(), String> {
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
        let Place::File { path, files } = &mut self.place else {
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
        if let Place::File { path, files } = &self.place {
            let found = Files::of(path);
            if found.main != files.main {
                let reason = "it was moved away or replaced while in use: put it back, or restart ocps";
                return Err(Fault::Nonsense(reason.to_owned()));
            }
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
                format!("the journal {} cannot be written: {}", path.display(), one_line(&reason))
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

fn keep_all(transaction: &Transaction<'_>, records: &[&Record]) -> Result<(), Fault> {
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
        | Record::Ended { .. }
        | Record::Said(_)
        | Record::Seen { .. }
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
            execute(
                "INSERT INTO commands (key, kind, accepted, document) VALUES (?, ?, ?, ?)
                 ON CONFLICT (key) DO NOTHING",
                params![column(entry.key)?, kind, format::column(entry.accepted), document],
            )
        }
        Record::Created { key, job_id } => {
            execute("UPDATE commands SET job_id = ? WHERE key = ?", params![job_id.as_str(), column(*key)?])
        }
        Record::Suspected { key, until } => execute(
            "UPDATE commands SET suspected = ? WHERE key = ?",
            params![format::column(*until), column(*key)?],
        ),
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
        Record::State { state, override_name } => execute(
            "INSERT OR REPLACE INTO summary_state (only, state, override) VALUES (1, ?, ?)",
            params![state.name(), override_name],
        ),
    }
}

/// Forgets a bounded part of what need not be kept any more.
fn forget(transaction: &Transaction<'_>, limits: Limits, now: Tai) -> Result<Upkeep, Fault> {
    let hour_ago = now.0 - SEEN_FOR_S;
    transaction.execute("DELETE FROM seen WHERE at <= ?", [hour_ago])?;
    transaction.execute("DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", [SEEN_MAX])?;
    let mut oldest = transaction.prepare_cached(
        "DELETE FROM commands WHERE key IN (
           SELECT key FROM commands
           WHERE settled = 1 AND ended < ?1 AND coalesce(suspected <= ?2, 1)
           ORDER BY ended, key LIMIT ?3)",
    )?;
    let expired = now.0 - limits.history.as_secs_f64();
    let forgotten = oldest.execute(params![expired, now.0, FORGOTTEN_AT_ONCE])?;
    let left = FORGOTTEN_AT_ONCE.saturating_sub_unsigned(forgotten as u64);
    let excess = excess(transaction, limits)?.min(left);
    let forgotten = forgotten + oldest.execute(params![f64::MAX, now.0, excess])?;
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

fn recover(connection: &Connection, now: Tai) -> Result<Recovered, Fault> {
    Ok(Recovered {
        entries: recover_entries(connection, now)?,
        seen: recover_seen(connection, now)?,
        state: recover_state(connection)?,
        last_key: recover_last_key(connection)?,
    })
}

fn recover_entries(connection: &Connection, now: Tai) -> Result<Vec<Kept>, Fault> {
    let mut entries = BTreeMap::new();
    for (condition, parameters) in [("settled = 0", params![]), ("suspected > ?", params![now.0])] {
        let mut statement = connection.prepare_cached(&select(condition))?;
        for row in statement.query_map(parameters, command_row)? {
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
    let mut statement = connection.prepare_cached(&select("settled = 1 ORDER BY ended DESC, key DESC"))?;
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
        "SELECT key, kind, accepted, job_id, suspected, ended, said_result, said_ack, document, ending, result
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
    })
}

fn recover_seen(connection: &Connection, now: Tai) -> Result<Vec<(Sender, Tai)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT at, identity, origin, seq_num, sent FROM seen WHERE at > ? ORDER BY number DESC LIMIT ?",
    )?;
    let rows = statement.query_map(params![now.0 - SEEN_FOR_S, SEEN_MAX], |row| {
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
