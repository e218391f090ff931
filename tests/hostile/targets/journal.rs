//! The journal: a file that anything may have happened to, and rows that say anything.

use std::fs;

use ocps::csc::id::SalIndex;
use ocps::csc::time::Tai;
use ocps::journal::store::Sqlite;
use ocps::journal::{Identity, Limits, OpenError};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{check_reason, join, parts};

/// One of the first version with a command of each kind.
const FILE: &[u8] = include_bytes!("../../journal/version-1.db");
const HISTORY: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// Opens a journal with this content: all of it is understood, or nothing is touched.
fn open(content: &[u8], change: impl FnOnce(&Connection)) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    fs::write(&path, content).unwrap();
    if content == FILE {
        change(&Connection::open(&path).unwrap());
    }
    let before = fs::read(&path).unwrap();
    let identity = Identity { index: SalIndex::Latiss, simulated: false };
    match Sqlite::open(&path, identity, Limits::new(HISTORY), Tai(1_795_425_891.0)) {
        Ok((_, recovered)) => {
            assert!(recovered.entries.is_sorted_by_key(|kept| kept.entry.key));
            assert!(recovered.entries.iter().all(|kept| kept.entry.key.0 <= recovered.last_key));
        }
        Err(error) => {
            check_reason(&error.to_string());
            match error {
                OpenError::NotOurs { .. } | OpenError::Newer { .. } | OpenError::Damaged { .. } => {
                    assert!(fs::read(&path).unwrap() == before, "a refused journal was changed: {error}");
                }
                OpenError::Unusable { .. } => {}
            }
        }
    }
}

/// The input is the file.
pub(crate) fn read_file(data: &[u8]) {
    open(data, |_| {});
}

pub(crate) fn seeds_of_files() -> Vec<Vec<u8>> {
    vec![FILE.to_vec()]
}

/// The input is the texts of all rows.
pub(crate) fn read_rows(data: &[u8]) {
    let [document, ending, result, job_id, identity, state] = parts(data).map(String::from_utf8_lossy);
    open(FILE, |connection| {
        let sql = "UPDATE commands SET document = ?1, ending = ?2, result = ?3, job_id = ?4";
        connection.execute(sql, [&document, &ending, &result, &job_id]).unwrap();
        connection.execute("UPDATE OR IGNORE seen SET identity = ?", [&identity]).unwrap();
        connection.execute("UPDATE summary_state SET state = ?", [&state]).unwrap();
    });
}

pub(crate) fn seeds_of_rows() -> Vec<Vec<u8>> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    fs::write(&path, FILE).unwrap();
    let connection = Connection::open(&path).unwrap();
    let sql =
        "SELECT document, coalesce(ending, ''), coalesce(result, ''), coalesce(job_id, '') FROM commands";
    let mut statement = connection.prepare(sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<u8>> {
        let texts: [String; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        let [document, ending, result, job_id] = texts.each_ref().map(String::as_str);
        Ok(join(&[document, ending, result, job_id, "root@host", "ENABLED"]))
    };
    statement.query_map([], row).unwrap().take(20).map(Result::unwrap).collect()
}
