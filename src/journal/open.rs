//! Opening the file: it is made whole or not at all, and checked before it is used; the file of another instance is never
//! replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::error::{Fault, beside, directory, move_away, size, wal};
use super::schema::{self, Steps};
use super::{Identity, Limits};
use crate::csc::id::SalIndex;

/// How long to wait for another program that reads the file, for example an operator's `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// All other options.
const OPTIONS: &str = include_str!("options.sql");

/// The first bytes of a database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The device and inode of each of the two files of an open journal, the main file and the `-wal` file: they show that one
/// was taken away or replaced.
pub(super) type Files = [Option<(u64, u64)>; 2];

pub(super) fn files(path: &Path) -> Files {
    [path.to_owned(), wal(path)].map(|path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino())))
}

/// Where a journal is, which instance owns it, its limits and its versions.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) limits: Limits,
    pub(super) steps: Steps,
}

impl Place {
    /// Opens the journal for the first time in this run, makes it if there is none, checks all of it, and reads it.
    ///
    /// All that is read is durable when this returns. A file that is refused stays as it is, to the last byte.
    pub(super) fn open_first<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<(Connection, T), Fault> {
        match fs::symlink_metadata(&self.path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => self.create()?,
            Err(error) => return Err(error.into()),
        }
        let mut connection = self.connect()?;
        // The whole file with its indexes, which lead to the unfinished commands: 0.3 s for 100,000 commands.
        let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(verdict.into());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::migrate(&transaction, self.steps)?;
        let read = read(&transaction)?;
        // A first commit shows that the disk can be written.
        transaction.execute("UPDATE journal SET lives = lives + 1", [])?;
        transaction.commit()?;
        // The previous process may have died before its last writes were durable.
        checkpoint(&connection, WHOLE)?;
        Ok((connection, read))
    }

    /// Checks all of the journal, and writes to no file in its directory. No other process may use it meanwhile. Gives how
    /// many runs the journal has had; none if there is no journal.
    pub(super) fn examine(&self) -> Result<Option<i64>, Fault> {
        if !self.path.try_exists()? {
            return self.check_absence().map(|()| None);
        }
        self.check_header()?;
        let connection = self.connect_to_look()?;
        self.check_version(&connection)?;
        schema::check(&connection, self.steps)?;
        self.check_identity(&connection)?;
        match connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))? {
            verdict if verdict == "ok" => Ok(Some(runs(&connection)?)),
            verdict => Err(verdict.into()),
        }
    }

    /// A connection that makes and writes no file.
    fn connect_to_look(&self) -> Result<Connection, Fault> {
        if size(&wal(&self.path)) == 0 {
            let path = utf8_percent_encode(&self.path.to_string_lossy(), NON_ALPHANUMERIC).to_string();
            // Without `immutable` SQLite would make files beside the journal.
            let uri = format!("file:{}?immutable=1", path.replace("%2F", "/"));
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            return Ok(Connection::open_with_flags(uri, flags)?);
        }
        // With `immutable` SQLite would not read the `-wal` file, which a killed process leaves.
        let connection = Connection::open_with_flags(&self.path, FLAGS)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // An exclusive connection keeps the index of the `-wal` file in memory.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// Opens the journal again after an error of its disk.
    pub(super) fn reopen(&self) -> Result<Connection, Fault> {
        let connection = self.connect()?;
        checkpoint(&connection, WHOLE)?;
        Ok(connection)
    }

    fn connect(&self) -> Result<Connection, Fault> {
        self.check_header()?;
        let connection = Connection::open_with_flags(&self.path, FLAGS)?;
        set_options(&connection, self.limits)?;
        self.check_version(&connection)?;
        schema::check(&connection, self.steps)?;
        self.check_identity(&connection)?;
        Ok(connection)
    }

    /// Checks the first bytes, which no commit changes; the last two stand for the WAL mode.
    fn check_header(&self) -> Result<(), Fault> {
        let mut header = Vec::new();
        File::open(&self.path)?.take(20).read_to_end(&mut header)?;
        match *header {
            [.., 2, 2] if header.len() == 20 && header.starts_with(MAGIC) => Ok(()),
            _ if header.len() < 20 => Err("it is too short".into()),
            _ => Err("it is no database of ocps".into()),
        }
    }

    fn check_version(&self, connection: &Connection) -> Result<(), Fault> {
        let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let (found, known) = (schema::version(connection)?, self.steps.len());
        if application != schema::APPLICATION || found == 0 {
            return Err("it is no journal of ocps".into());
        }
        if found <= known {
            return Ok(());
        }
        Err(Fault::Refused(format!(
            "is of version {found}, which is newer than what this ocps knows ({known}): install a newer ocps, or {}",
            move_away(&self.path)
        )))
    }

    fn check_identity(&self, connection: &Connection) -> Result<(), Fault> {
        let found = identity(connection)?;
        if found == self.identity {
            return Ok(());
        }
        Err(Fault::Refused(format!(
            "is that of {found}, and this is {}: give each instance its own state directory with --state-dir",
            self.identity
        )))
    }

    /// Checks that a new journal may be made.
    fn check_absence(&self) -> Result<(), Fault> {
        if size(&wal(&self.path)) > 0 {
            return Err("it is missing, but the -wal file with what was written last is there".into());
        }
        Ok(())
    }

    fn create(&self) -> Result<(), Fault> {
        self.check_absence()?;
        self.make(|fresh| {
            let mut connection = Connection::open_with_flags(fresh, FLAGS)?;
            self.populate(&mut connection)?;
            Ok(connection)
        })
    }

    /// Makes the tables in an empty database.
    pub(super) fn populate(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        schema::migrate(&transaction, self.steps)?;
        introduce(&transaction, self.identity)?;
        transaction.commit()
    }

    /// Makes the file under another name and then renames it, so that there is never a part of it.
    fn make(&self, fill: impl FnOnce(&Path) -> Result<Connection, Fault>) -> Result<(), Fault> {
        let fresh = beside(&self.path, ".new");
        let clear = || ["", "-wal", "-journal"].map(|ending| fs::remove_file(beside(&fresh, ending)).ok());
        let make = || {
            let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
            let connection = fill(&fresh)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.close().map_err(|(_, error)| error)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            Ok(File::open(directory(&self.path))?.sync_all()?)
        };
        // A crash may have left some; if they cannot be removed, the next step says why.
        clear();
        let made = make();
        if made.is_err() {
            clear();
        }
        made
    }

    /// Copies the journal to its place from a connection that still has its file open. Another file that was put there
    /// is renamed; gives its new name.
    pub(super) fn copy(&self, open: &Connection, files: Files) -> Result<Option<PathBuf>, Fault> {
        let (last, [main_found, last_found]) = (wal(&self.path), self::files(&self.path));
        let other = beside(&self.path, ".replaced");
        let is_ours = files[0].is_some() && main_found == files[0];
        let is_other = !is_ours && self.path.try_exists()?;
        if is_other {
            if other.try_exists()? {
                return Err(
                    format!("another file was put in its place: move {} away", self.path.display()).into()
                );
            }
            fs::rename(&self.path, &other)?;
        }
        if last.try_exists()? {
            // SQLite must not read it as a part of the copy.
            let is_ours = files[1].is_some() && last_found == files[1];
            if is_ours { fs::remove_file(&last)? } else { fs::rename(&last, wal(&other))? }
        }
        self.make(|fresh| {
            let fresh_name = fresh.to_str().ok_or_else(|| "its path is not UTF-8".to_owned())?;
            open.execute("VACUUM INTO ?", [fresh_name])?;
            Ok(Connection::open_with_flags(fresh, FLAGS)?)
        })?;
        Ok(is_other.then_some(other))
    }
}

/// Writes into an empty journal which instance owns it.
pub(super) fn introduce(connection: &Connection, identity: Identity) -> rusqlite::Result<()> {
    let insert = "INSERT INTO journal (only, sal_index, simulated, lives, last_key, searched) VALUES (1, ?, ?, 0, 0, 0)";
    connection.execute(insert, params![identity.index.number(), identity.simulated]).map(drop)
}

/// How many runs a journal has had.
pub(super) fn runs(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT lives FROM journal", [], |row| row.get(0))
}

/// The instance that owns a journal.
pub(super) fn identity(connection: &Connection) -> Result<Identity, Fault> {
    let query = "SELECT sal_index, simulated FROM journal";
    let (number, simulated): (i32, bool) = connection.query_row(query, [], |row| row.try_into())?;
    Ok(Identity { index: SalIndex::parse(&number.to_string())?, simulated })
}

/// Sets all options.
pub(super) fn set_options(connection: &Connection, limits: Limits) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A journal that is refused stays as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(OPTIONS)?;
    set_limit(connection, limits)
}

/// Sets how large the database may be, unless it is larger already.
pub(super) fn set_limit(connection: &Connection, limits: Limits) -> rusqlite::Result<()> {
    let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    connection.pragma_update(None, "max_page_count", limits.file_bytes.checked_div(page_size).unwrap_or(1))
}

/// Closes a connection that has had no error; removes the `-wal` file.
pub(super) fn close(connection: Connection) -> Result<(), Fault> {
    checkpoint(&connection, WHOLE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection.close().map_err(|(_, error)| error)?)
}

/// A checkpoint after which the `-wal` file is written again from its beginning.
pub(super) const QUIET: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// A checkpoint that empties the `-wal` file too.
pub(super) const WHOLE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Copies all that was committed from the `-wal` file to the main file.
pub(super) fn checkpoint(connection: &Connection, statement: &str) -> Result<(), Fault> {
    let busy: bool = connection.query_row(statement, [], |row| row.get(0))?;
    if busy { Err("another program uses it".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::schema::STEPS;
    use super::*;

    fn place(path: &Path, steps: Steps) -> Place {
        let identity = Identity { index: SalIndex::LsstCam, simulated: false };
        Place { path: path.to_owned(), identity, limits: Limits::new(Duration::from_secs(1)), steps }
    }

    fn runs(transaction: &Transaction<'_>) -> Result<i64, Fault> {
        Ok(super::runs(transaction)?)
    }

    #[test]
    fn an_older_journal_is_brought_to_our_version_and_not_back() {
        const LATER: Steps = &[
            STEPS[0],
            STEPS[1],
            STEPS[2],
            "ALTER TABLE commands ADD COLUMN cost REAL; UPDATE journal SET lives = 100",
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        for (steps, expected) in [(STEPS, 0), (LATER, 100), (LATER, 101)] {
            let (connection, read) = place(&path, steps).open_first(runs).unwrap();
            assert_eq!(read, expected);
            close(connection).unwrap();
        }
        let error = place(&path, STEPS).open_first(runs).unwrap_err().refusal(&path).to_string();
        assert!(error.contains("is of version 4, which is newer than what this ocps knows (3)"), "{error}");
    }

    #[test]
    fn a_step_that_fails_leaves_the_older_journal_as_it_was() {
        const BROKEN: Steps = &[STEPS[0], STEPS[1], STEPS[2], "DROP TABLE seen; nonsense"];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        close(place(&path, STEPS).open_first(runs).unwrap().0).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(place(&path, BROKEN).open_first(runs).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(place(&path, STEPS).open_first(runs).unwrap().1, 1);
    }
}
