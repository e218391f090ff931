//! Opening the file: made whole or not at all, checked before it is believed, never replaced.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use rustix::fs::StatVfsMountFlags;

use super::error::{OpenError, beside, holds_something, wal};
use super::format;
use super::live::Live;
use super::schema::{self, Schema};
use super::{Identity, Limits, store};
use crate::csc::id::SalIndex;
use crate::text::quote;

/// How long another program that reads the file, say an operator's `sqlite3`, is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept of the `-wal` file between commits, in bytes: room that a commit need not ask the disk for.
const WAL_KEPT: i64 = 4 << 20;

/// What a file begins with that is a database in WAL mode: its first bytes, and two further on.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const WAL_MODE: [u8; 2] = [2, 2];

/// What went wrong.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite said so.
    Sql(rusqlite::Error),
    /// What was read makes no sense.
    Nonsense(String),
    /// It could not be opened again.
    Refused(OpenError),
}

impl Fault {
    /// Whether the disk is full, or the file as large as it may be.
    pub(super) fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Which file a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// The two files of an open journal, by which it is noticed that somebody takes them away.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) main: Option<FileId>,
    pub(super) wal: Option<FileId>,
    pub(super) wal_bytes: u64,
}

impl Files {
    pub(super) fn of(path: &Path) -> Self {
        let [main, wal] = [fs::metadata(path).ok(), fs::metadata(wal(path)).ok()];
        let id = |file: &Metadata| FileId { device: file.dev(), inode: file.ino() };
        Self {
            main: main.as_ref().map(id),
            wal: wal.as_ref().map(id),
            wal_bytes: wal.map_or(0, |file| file.len()),
        }
    }
}

/// Makes room for a journal that is written anew: what was put in its place is kept under another name, and what is
/// left of the old one removed. Says whether there was something in its place.
pub(super) fn set_aside(path: &Path, ours: &Files) -> Result<Option<PathBuf>, Fault> {
    let nonsense = |error: io::Error| Fault::Nonsense(format!("{error}, and it was deleted or replaced"));
    let aside = beside(path, ".replaced");
    let is_there = |path: &Path| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(nonsense(error)),
    };
    let is_replaced = is_there(path)?;
    if is_replaced {
        if is_there(&aside)? {
            let reason = format!("another file was put in its place: move {} away", path.display());
            return Err(Fault::Nonsense(reason));
        }
        fs::rename(path, &aside).map_err(nonsense)?;
    }
    let last = wal(path);
    if is_there(&last)? {
        // It must not be taken for what was committed to the new one.
        let is_ours = ours.wal.is_some() && Files::of(path).wal == ours.wal;
        let removed = if is_ours { fs::remove_file(&last) } else { fs::rename(&last, wal(&aside)) };
        removed.map_err(nonsense)?;
    }
    Ok(is_replaced.then_some(aside))
}

/// A file that is being opened.
pub(super) struct Opening<'a> {
    pub(super) path: &'a Path,
    pub(super) identity: Identity,
    pub(super) limits: Limits,
    pub(super) schema: Schema,
}

impl Opening<'_> {
    /// Opens the journal for the first time in this life, makes it if there is none, checks all of it, and reads it.
    ///
    /// What is read is durable when this returns. A file that is refused is left as it is, to the last byte.
    pub(super) fn first<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<(Connection, T), OpenError> {
        match fs::symlink_metadata(self.path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => self.create(&Live::default())?,
            Err(error) => return Err(self.unusable(&error)),
        }
        self.check_header()?;
        let mut connection = self.connect().map_err(|error| self.failed(error.into()))?;
        self.check_version(&connection)?;
        self.check_tables(&connection).map_err(|fault| self.failed(fault))?;
        check_pages(&connection).map_err(|fault| self.failed(fault))?;
        self.check_identity(&connection)?;
        let read = self.begin_life(&mut connection, read).map_err(|fault| self.failed(fault))?;
        Ok((connection, read))
    }

    /// Opens the journal again after trouble with its disk.
    pub(super) fn again(&self) -> Result<Connection, OpenError> {
        self.check_header()?;
        let connection = self.connect().map_err(|error| self.failed(error.into()))?;
        self.check_version(&connection)?;
        self.check_identity(&connection)?;
        checkpoint(&connection, Checkpoint::Whole).map_err(|fault| self.failed(fault))?;
        Ok(connection)
    }

    /// Says what went wrong, with a remedy.
    pub(super) fn failed(&self, fault: Fault) -> OpenError {
        match fault {
            Fault::Nonsense(reason) => self.damaged(&reason),
            Fault::Refused(error) => error,
            Fault::Sql(error) if is_of_the_system(&error) => {
                let reason = reason(self.path, &error);
                OpenError::Unusable { path: self.path.to_owned(), reason }
            }
            Fault::Sql(error) => self.damaged(&error.to_string()),
        }
    }

    fn damaged(&self, reason: &str) -> OpenError {
        OpenError::Damaged { path: self.path.to_owned(), reason: quote(reason) }
    }

    fn unusable(&self, error: &io::Error) -> OpenError {
        let remedies = [
            (
                ErrorKind::PermissionDenied,
                "it must be the user's that ocps runs as, and so must its directory",
            ),
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        ];
        let remedy = remedies.into_iter().find(|(kind, _)| *kind == error.kind());
        let remedy = remedy.map_or("choose another state directory with --state-dir", |(_, remedy)| remedy);
        OpenError::Unusable { path: self.path.to_owned(), reason: format!("{error}: {remedy}") }
    }

    /// Makes a journal with this content beside its place and moves it there, so that it is never there in part.
    pub(super) fn create(&self, live: &Live) -> Result<(), OpenError> {
        if holds_something(&wal(self.path)) {
            return Err(self.damaged("it is missing, but what was written to it last is there"));
        }
        let fresh = beside(self.path, ".new");
        let remains = ["", "-wal", "-journal"].map(|ending| beside(&fresh, ending));
        for remains in &remains {
            // What a crash left; if it cannot be removed, the next step says why.
            let _ = fs::remove_file(remains);
        }
        let made = self.create_at(&fresh, live).and_then(|()| {
            let placed = fs::rename(&fresh, self.path).and_then(|()| sync_directory(self.path));
            placed.map_err(|error| self.unusable(&error))
        });
        if made.is_err() {
            for remains in &remains {
                let _ = fs::remove_file(remains);
            }
        }
        made
    }

    fn create_at(&self, fresh: &Path, live: &Live) -> Result<(), OpenError> {
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(fresh);
        let file = file.map_err(|error| self.unusable(&error))?;
        self.fill(fresh, live).map_err(|fault| self.failed(fault))?;
        file.sync_all().map_err(|error| self.unusable(&error))
    }

    fn fill(&self, fresh: &Path, live: &Live) -> Result<(), Fault> {
        let mut connection = Connection::open_with_flags(fresh, flags())?;
        populate(&mut connection, self.identity, self.schema, live)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.close().map_err(|(_, error)| error.into())
    }

    /// Looks at the first bytes, which no commit changes.
    fn check_header(&self) -> Result<(), OpenError> {
        let mut header = [0; 20];
        let read = File::open(self.path).and_then(|mut file| {
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            file.read_exact(&mut header)
        });
        match read {
            Ok(()) if header.starts_with(MAGIC) && header.ends_with(&WAL_MODE) => Ok(()),
            Ok(()) => Err(self.damaged("it is no database of ocps")),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.damaged("it is too short")),
            Err(error) => Err(self.unusable(&error)),
        }
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(self.path, flags())?;
        settle(&connection, self.limits)?;
        Ok(connection)
    }

    fn check_version(&self, connection: &Connection) -> Result<(), OpenError> {
        let numbers = || -> rusqlite::Result<(i64, i64)> {
            let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
            Ok((application, schema::version(connection)?))
        };
        let (application, found) = numbers().map_err(|error| self.failed(error.into()))?;
        let known = self.schema.version();
        if application != schema::APPLICATION || found < 1 {
            return Err(self.damaged("it is no journal of ocps"));
        }
        if found > known {
            return Err(OpenError::Newer { path: self.path.to_owned(), found, known });
        }
        Ok(())
    }

    /// Before anything is asked of them: a view in the place of a table, or a condition of one, is carried out then,
    /// for ever if it says so.
    fn check_tables(&self, connection: &Connection) -> Result<(), Fault> {
        let theirs = self.schema.of_version(schema::version(connection)?);
        if theirs.is_that_of(connection)? { Ok(()) } else { Err(other_tables()) }
    }

    fn check_identity(&self, connection: &Connection) -> Result<(), OpenError> {
        let found = identity(connection).map_err(|fault| self.failed(fault))?;
        if found == self.identity {
            return Ok(());
        }
        Err(OpenError::NotOurs { path: self.path.to_owned(), found, wanted: self.identity })
    }

    /// Brings the tables to our version and reads them, shows by a first commit that the disk takes one, and makes
    /// durable all that was read: the process before us may have died before it was.
    fn begin_life<T>(
        &self,
        connection: &mut Connection,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.schema.migrate(&transaction)?;
        if !self.schema.is_that_of(&transaction)? {
            return Err(other_tables());
        }
        let read = read(&transaction)?;
        transaction.execute("UPDATE journal SET lives = lives + 1", [])?;
        transaction.commit()?;
        checkpoint(connection, Checkpoint::Whole)?;
        Ok(read)
    }
}

fn other_tables() -> Fault {
    Fault::Nonsense("its tables are not those of a journal".to_owned())
}

/// Checks the whole file, the indexes too, by which we find what is unfinished: 0.3 s for 100,000 commands.
fn check_pages(connection: &Connection) -> Result<(), Fault> {
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Fault::Nonsense(verdict)) }
}

/// Makes the tables in an empty database, with this content.
pub(super) fn populate(
    connection: &mut Connection,
    identity: Identity,
    schema: Schema,
    live: &Live,
) -> Result<(), Fault> {
    let transaction = connection.transaction()?;
    schema.create(&transaction)?;
    let last_key = format::last_key_column(live.last_key).map_err(Fault::Nonsense)?;
    transaction.execute(
        "INSERT INTO journal (only, sal_index, simulated, lives, last_key, searched) VALUES (1, ?, ?, ?, ?, 0)",
        params![identity.index.number(), identity.simulated, live.lives, last_key],
    )?;
    let records = live.records();
    store::keep_all(&transaction, &records.iter().collect::<Vec<_>>())?;
    Ok(transaction.commit()?)
}

/// All options, written out.
pub(super) fn settle(connection: &Connection, limits: Limits) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Only we say when: what is refused stays as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Alone: so there is no shared memory in a file of its own, which a full disk would make dangerous.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    connection.pragma_update(None, "max_page_count", limits.file_bytes.checked_div(page_size).unwrap_or(1))
}

/// Ends a transaction that was left open by an error, if there is one.
pub(super) fn roll_back(connection: &Connection) -> Result<(), Fault> {
    if connection.is_autocommit() { Ok(()) } else { Ok(connection.execute_batch("ROLLBACK")?) }
}

/// Closes a connection when all is well; the `-wal` file is gone then.
pub(super) fn close(connection: Connection) -> Result<(), Fault> {
    checkpoint(&connection, Checkpoint::Whole)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, error)| error.into())
}

/// How much a checkpoint does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Checkpoint {
    /// All commits go to the main file, and the `-wal` file is used again from its beginning.
    Quiet,
    /// The `-wal` file is emptied too.
    Whole,
}

/// Brings what was committed from the `-wal` file to the main file.
pub(super) fn checkpoint(connection: &Connection, how: Checkpoint) -> Result<(), Fault> {
    let statement = match how {
        Checkpoint::Quiet => "PRAGMA wal_checkpoint(PASSIVE)",
        Checkpoint::Whole => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let busy: i64 = connection.query_row(statement, [], |row| row.get(0))?;
    if busy == 0 { Ok(()) } else { Err(Fault::Nonsense("another program uses it".to_owned())) }
}

/// Why the system did not do what SQLite asked of it, in words for people, with a remedy where there is one.
pub(super) fn reason(path: &Path, error: &rusqlite::Error) -> String {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let system = rustix::fs::statvfs(directory.unwrap_or(Path::new("."))).ok();
    if system.as_ref().is_some_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return format!("its file system is read-only ({error}): mount it writable");
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) if system.is_some_and(|system| system.f_bavail > 0) => {
            format!("it has reached its limit, or the disk is full ({error}): free some space")
        }
        Some(ErrorCode::DiskFull) => format!("the disk is full ({error}): free some space"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program uses it ({error}): end that one")
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            format!("{error}: it must be the user's that ocps runs as, and so must its directory")
        }
        Some(ErrorCode::SystemIoFailure) => format!("{error}: look at the disk (dmesg)"),
        Some(_) | None => quote(error),
    }
}

/// Whether the file may well be whole, but the system does not let us use it.
fn is_of_the_system(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
        )
    )
}

fn identity(connection: &Connection) -> Result<Identity, Fault> {
    let numbers = connection
        .query_row("SELECT sal_index, simulated FROM journal", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (number, simulated): (i32, bool) = numbers?;
    let index = SalIndex::ALL.into_iter().find(|index| index.number() == number);
    let index = index.ok_or_else(|| Fault::Nonsense(format!("{number} is no index of an OCPS")))?;
    Ok(Identity { index, simulated })
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Makes the name of a new file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Identity = Identity { index: SalIndex::LsstCam, simulated: false };

    fn opening(path: &Path, schema: Schema) -> Opening<'_> {
        Opening { path, identity: OURS, limits: Limits::new(Duration::from_secs(1)), schema }
    }

    fn lives(transaction: &Transaction<'_>) -> Result<i64, Fault> {
        Ok(transaction.query_row("SELECT lives FROM journal", [], |row| row.get(0))?)
    }

    #[test]
    fn an_older_journal_is_brought_to_our_version_and_not_back() {
        const LATER: Schema = Schema::with(&[schema::to_version_2, |transaction| {
            transaction
                .execute_batch("ALTER TABLE commands ADD COLUMN cost REAL; UPDATE journal SET lives = 100")
        }]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (connection, read) = opening(&path, Schema::KNOWN).first(lives).unwrap();
        assert_eq!(read, 0);
        close(connection).unwrap();
        let (connection, read) = opening(&path, LATER).first(lives).unwrap();
        assert_eq!(read, 100);
        close(connection).unwrap();
        let (connection, read) = opening(&path, LATER).first(lives).unwrap();
        assert_eq!(read, 101);
        close(connection).unwrap();
        let error = opening(&path, Schema::KNOWN).first(lives).unwrap_err();
        assert_eq!(error, OpenError::Newer { path: path.clone(), found: 3, known: 2 });
    }

    #[test]
    fn a_step_that_fails_leaves_the_older_journal_as_it_was() {
        const BROKEN: Schema = Schema::with(&[schema::to_version_2, |transaction| {
            transaction.execute_batch("DROP TABLE seen; nonsense")
        }]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        close(opening(&path, Schema::KNOWN).first(lives).unwrap().0).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(opening(&path, BROKEN).first(lives).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(opening(&path, Schema::KNOWN).first(lives).unwrap().1, 1);
    }
}
