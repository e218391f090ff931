//! The tables of the journal: each version is a step from the one before, the first from an empty file.

use rusqlite::Connection;

use super::error::Fault;

/// `application_id` of the file: "OCPS".
pub(super) const APPLICATION: i64 = 0x4f43_5053;

/// The step to each version; the last one leads to the version that we read and write.
pub(super) type Steps = &'static [&'static str];

pub(super) const STEPS: Steps =
    &[include_str!("version-1.sql"), include_str!("version-2.sql"), include_str!("version-3.sql")];

/// The version of the file; 0 if it is empty.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // A negative number counts as newer than all.
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

/// Takes the steps that are missing, in the open transaction.
pub(super) fn migrate(connection: &Connection, steps: Steps) -> rusqlite::Result<()> {
    let version = version(connection)?;
    for (step, next) in steps.iter().zip(1_i64..).skip(version) {
        connection.execute_batch(step)?;
        connection.pragma_update(None, "user_version", next)?;
    }
    connection.pragma_update(None, "application_id", APPLICATION)
}

/// Checks that the tables are those of the file's version, to the letter.
///
/// A damaged file may have others, which do something else with what is written to them or read from them: a view in the
/// place of a table runs when it is read, for ever if it is made so.
pub(super) fn check(connection: &Connection, steps: Steps) -> Result<(), Fault> {
    let mut fresh = Connection::open_in_memory()?;
    let transaction = fresh.transaction()?;
    migrate(&transaction, steps.get(..version(connection)?).unwrap_or(steps))?;
    if tables(&transaction)? == tables(connection)? {
        return Ok(());
    }
    Err("its tables are not those of a journal".into())
}

/// All entries of the schema.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Transaction;

    const LATER: Steps =
        &[STEPS[0], "ALTER TABLE commands ADD COLUMN cost REAL", "UPDATE journal SET lives = 100"];

    #[test]
    fn each_step_is_taken_once_and_in_order() {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        migrate(&transaction, &LATER[..1]).unwrap();
        transaction.execute("INSERT INTO journal VALUES (1, 1, 0, 7, 8)", []).unwrap();
        assert_eq!(version(&transaction).unwrap(), 1);
        check(&transaction, LATER).unwrap();
        migrate(&transaction, LATER).unwrap();
        assert_eq!(version(&transaction).unwrap(), 3);
        check(&transaction, LATER).unwrap();
        assert!(check(&transaction, STEPS).is_err());
        let runs = |transaction: &Transaction<'_>| -> i64 {
            transaction.query_row("SELECT lives FROM journal", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(runs(&transaction), 100);
        transaction.execute("UPDATE journal SET lives = 101", []).unwrap();
        migrate(&transaction, LATER).unwrap();
        assert_eq!(runs(&transaction), 101);
    }
}
