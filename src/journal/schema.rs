//! The tables of the journal, by version, and the way from one version to the next.

use rusqlite::{Connection, Transaction};

/// `application_id` of the file: "OCPS".
pub(super) const APPLICATION: i64 = 0x4f43_5053;

/// Version 1.
///
/// In `commands`, `settled` says that a command ended and owes nothing, and `suspected` is set while another job of
/// its run may come to life; large texts come last, where they are
/// not read for the sake of what comes after them. In `seen`, `sent` is the bits of the stamp.
const VERSION_1: &str = "
CREATE TABLE journal (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  sal_index INTEGER NOT NULL,
  simulated INTEGER NOT NULL,
  lives INTEGER NOT NULL,
  last_key INTEGER NOT NULL
) STRICT;
CREATE TABLE commands (
  key INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  accepted REAL NOT NULL,
  job_id TEXT,
  suspected REAL,
  ended REAL,
  said_result INTEGER NOT NULL DEFAULT 0,
  said_ack INTEGER NOT NULL DEFAULT 0,
  settled INTEGER NOT NULL
    AS (ended IS NOT NULL AND said_ack AND (said_result OR result IS NULL)),
  document TEXT NOT NULL,
  ending TEXT,
  result TEXT
) STRICT;
CREATE INDEX commands_by_end ON commands (settled, ended);
CREATE INDEX commands_suspected ON commands (suspected) WHERE suspected IS NOT NULL;
CREATE TABLE seen (
  number INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  identity TEXT NOT NULL,
  origin INTEGER NOT NULL,
  seq_num INTEGER NOT NULL,
  sent INTEGER NOT NULL,
  UNIQUE (identity, origin, seq_num, sent)
) STRICT;
CREATE TABLE summary_state (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  state TEXT NOT NULL,
  override TEXT NOT NULL
) STRICT;
";

/// One step to the next version.
pub(super) type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Version 2: how long the machine had been up when a command was accepted, and in which boot, so that its age does
/// not depend on a clock; and whether the service was searched for jobs that the journal does not know.
const VERSION_2: &str = "
ALTER TABLE commands ADD COLUMN boot TEXT;
ALTER TABLE commands ADD COLUMN uptime REAL;
ALTER TABLE journal ADD COLUMN searched INTEGER NOT NULL DEFAULT 1;
";

/// The steps: the first leads from version 1 to 2.
const MIGRATIONS: &[Migration] = &[to_version_2];

pub(super) fn to_version_2(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(VERSION_2)
}

/// A way through the versions: the last one is that which we read and write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    migrations: &'static [Migration],
}

impl Schema {
    /// What this `ocps` knows.
    pub(super) const KNOWN: Self = Self::with(MIGRATIONS);

    /// That of version 1 and these steps.
    pub(super) const fn with(migrations: &'static [Migration]) -> Self {
        Self { migrations }
    }

    /// The newest version.
    pub(super) fn version(self) -> i64 {
        i64::try_from(self.migrations.len()).map_or(i64::MAX, |steps| steps.saturating_add(1))
    }

    /// The way as far as a version.
    pub(super) fn of_version(self, version: i64) -> Self {
        let steps = usize::try_from(version).unwrap_or(0).saturating_sub(1);
        Self { migrations: self.migrations.get(..steps).unwrap_or(self.migrations) }
    }

    /// Makes the tables of the newest version in an empty database.
    pub(super) fn create(self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.execute_batch(VERSION_1)?;
        transaction.pragma_update(None, "user_version", 1)?;
        self.migrate(transaction)
    }

    /// Takes the steps from the version of the file to the newest, in the caller's transaction.
    pub(super) fn migrate(self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let version = version(transaction)?;
        let done = self.of_version(version).migrations.len();
        for (step, next) in self.migrations.iter().skip(done).zip(version + 1..) {
            step(transaction)?;
            transaction.pragma_update(None, "user_version", next)?;
        }
        Ok(())
    }

    /// Whether the tables are those of the newest version, to the letter.
    ///
    /// A damaged file may have others, which would do something else with what they are given.
    pub(super) fn is_that_of(self, connection: &Connection) -> rusqlite::Result<bool> {
        let mut fresh = Connection::open_in_memory()?;
        let transaction = fresh.transaction()?;
        self.create(&transaction)?;
        Ok(tables(&transaction)? == tables(connection)?)
    }
}

/// The version of the file.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// All that is in the schema.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<[String; 4]>> {
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")?;
    statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Schema = Schema::with(&[]);
    const LATER: Schema = Schema::with(&[
        |transaction| transaction.execute_batch("ALTER TABLE commands ADD COLUMN cost REAL"),
        |transaction| transaction.execute_batch("UPDATE journal SET lives = 100"),
    ]);

    #[test]
    fn each_step_is_taken_once_and_in_order() {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        FIRST.create(&transaction).unwrap();
        transaction.execute("INSERT INTO journal VALUES (1, 1, 0, 7, 8)", []).unwrap();
        assert_eq!(version(&transaction).unwrap(), 1);
        assert!(FIRST.is_that_of(&transaction).unwrap());
        assert!(!LATER.is_that_of(&transaction).unwrap());
        LATER.migrate(&transaction).unwrap();
        assert_eq!(version(&transaction).unwrap(), LATER.version());
        assert!(LATER.is_that_of(&transaction).unwrap());
        let lives = |transaction: &Transaction<'_>| -> i64 {
            transaction.query_row("SELECT lives FROM journal", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(lives(&transaction), 100);
        transaction.execute("UPDATE journal SET lives = 101", []).unwrap();
        LATER.migrate(&transaction).unwrap();
        assert_eq!(lives(&transaction), 101);
    }
}
