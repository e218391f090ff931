//! Opening: each refusal is one line with a remedy, and leaves the file as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ocps::csc::id::{EntryKey, SalIndex};
use ocps::csc::record::{Deliverable, Receipt, Record, Recovered, RecoveredCommand};
use ocps::journal::store::{Sqlite, Store};
use ocps::journal::{Identity, Journal, OpenError};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::sample::{self, NOW, OURS};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn open(path: &Path) -> Result<(Sqlite, Recovered), OpenError> {
    Sqlite::open(path, OURS, sample::limits(), NOW, None)
}

fn accepted(key: u64) -> Record {
    Record::Accepted(Box::new(sample::entry(&mut fastrand::Rng::with_seed(key), EntryKey(key))))
}

/// A journal with a command in it, closed.
fn journal() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let (mut store, recovered) = open(&path).unwrap();
    assert_eq!(recovered, Recovered { unsearched: true, ..Recovered::default() });
    store.commit(&[&accepted(1)]).unwrap();
    store.close().unwrap();
    (dir, path)
}

/// Changes a closed journal as only SQLite can.
fn change(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// The refusal, with `DIR` for the directory; the files are as they were.
#[track_caller]
fn refusal(path: &Path) -> String {
    let before = contents(path);
    let error = open(path).unwrap_err();
    assert!(contents(path) == before, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(path.parent().unwrap().to_str().unwrap(), "DIR")
}

/// All files of the directory that are not empty.
pub(crate) fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(dir) = path.parent().unwrap().read_dir() else { return Vec::new() };
    let paths = dir.map(|file| file.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect();
    files.retain(|(_, bytes)| !bytes.is_empty());
    files.sort();
    files
}

#[test]
fn a_new_journal_is_private_and_whole() {
    let (dir, path) = journal();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(contents(&path).len(), 1);
    // A crash while it was made.
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("journal.db.new"), "half").unwrap();
    let (store, recovered) = open(&path).unwrap();
    assert_eq!(recovered, Recovered { unsearched: true, ..Recovered::default() });
    store.close().unwrap();
    assert_eq!(contents(&path).len(), 1);
}

#[test]
fn the_journal_of_another_instance_is_refused() {
    let (_dir, path) = journal();
    for (index, simulated, shown) in [
        (SalIndex::Latiss, false, "index 1 (LATISS)"),
        (SalIndex::LsstCam, true, "index 3 (LSSTCam), simulated"),
    ] {
        let wanted = Identity { index, simulated };
        let error = Sqlite::open(&path, wanted, sample::limits(), NOW, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the journal {} is that of index 3 (LSSTCam), and this is {shown}: give each instance its own state \
                 directory with --state-dir",
                path.display()
            )
        );
    }
    assert_eq!(open(&path).unwrap().1.entries.len(), 1);
}

#[test]
fn a_newer_version_is_refused() {
    let (_dir, path) = journal();
    change(&path, "PRAGMA user_version = 4; ALTER TABLE commands ADD COLUMN more TEXT");
    assert_eq!(
        refusal(&path),
        "the journal DIR/journal.db is of version 4, which is newer than what this ocps knows (3): install a newer \
         ocps, or move it away and its unfinished jobs are forgotten: mv DIR/journal.db DIR/journal.db.damaged"
    );
}

#[test]
fn an_incomplete_journal_is_refused_and_never_replaced() {
    let damaged = |reason: &str, and: &str| {
        format!(
            "the journal DIR/journal.db is damaged ({reason}): restore it, or move it away and its unfinished jobs \
             are forgotten: {and}"
        )
    };
    let mv = "mv DIR/journal.db DIR/journal.db.damaged";
    let (_dir, path) = journal();
    let good = fs::read(&path).unwrap();
    let mut not_wal = good.clone();
    not_wal[18] = 1;
    let mut zeros = good.clone();
    zeros[4096..].fill(0);
    let cases: [(&str, &[u8]); 5] = [
        ("it is too short", b""),
        ("it is no database of ocps", &[b'x'; 5000]),
        ("it is no database of ocps", &not_wal),
        ("database disk image is malformed", &good[..8192]),
        ("database disk image is malformed", &zeros),
    ];
    for (reason, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let text = refusal(&path);
        assert!(text == damaged(reason, mv) || text.contains("Tree "), "{text}");
    }
    let wrong = [
        ("PRAGMA application_id = 0", "it is no journal of ocps"),
        ("PRAGMA user_version = 0", "it is no journal of ocps"),
        ("DROP INDEX commands_by_end", "its tables are not those of a journal"),
        (
            "CREATE TRIGGER t AFTER INSERT ON seen BEGIN DELETE FROM commands; END",
            "its tables are not those of a journal",
        ),
        (
            "UPDATE journal SET sal_index = 7",
            "unknown index \"7\": 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA)",
        ),
        ("UPDATE journal SET last_key = -1", "-1 is no key"),
        ("UPDATE journal SET last_key = 9223372036854775807", "9223372036854775807 is no key"),
        ("UPDATE commands SET boot = 'abc', uptime = NULL", "command 1: only a part of its uptime is there"),
        ("UPDATE commands SET boot = 'xyz', uptime = 1", "command 1: \"xyz\" is no boot id"),
        ("UPDATE commands SET boot = 'abc', uptime = -1", "command 1: -1 is no uptime"),
        ("DELETE FROM journal", "Query returned no rows"),
        (
            "UPDATE commands SET job_id = '../x'",
            "command 1: Invalid job id: \"../x\" (1 to 63 letters, digits, '.', '_' or '-', a letter or digit first and last)",
        ),
        ("UPDATE commands SET key = -1", "command -1: -1 is no key"),
        ("UPDATE commands SET said_ack = 2", "command 1: 2 is neither 0 nor 1"),
        ("UPDATE commands SET suspected = 9e999", "command 1: inf is no time"),
        ("UPDATE commands SET ended = 1", "command 1: only a part of its end is there"),
        (
            "UPDATE commands SET kind = 'start'",
            "command 1: its kind is \"start\", but the kind of its document is execute",
        ),
        (
            "UPDATE commands SET document = '{'",
            "command 1: document: EOF while parsing an object at line 1 column 1",
        ),
        ("INSERT INTO summary_state VALUES (1, 'HAPPY', '')", "\"HAPPY\" is no summary state"),
        (
            "INSERT INTO seen VALUES (1, 9e99, 'a', 4294967296, 1, 1)",
            "Integer 4294967296 out of range at index 3",
        ),
    ];
    for (sql, reason) in wrong {
        fs::write(&path, &good).unwrap();
        change(&path, sql);
        assert_eq!(refusal(&path), damaged(reason, mv), "{sql}");
    }
}

/// By the index, nothing would be unfinished: a job would be lost in silence.
#[test]
fn an_index_that_does_not_fit_its_table_is_damage() {
    let (_dir, path) = journal();
    let connection = Connection::open(&path).unwrap();
    let select = "SELECT rootpage, sql FROM sqlite_schema WHERE name = 'commands_by_end'";
    let (root, sql): (i64, String) =
        connection.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let forget = "PRAGMA writable_schema = 1; DELETE FROM sqlite_schema WHERE name = 'commands_by_end'";
    connection.execute_batch(forget).unwrap();
    drop(connection);
    change(&path, "UPDATE commands SET ended = 1, said_ack = 1");
    let remember = format!(
        "PRAGMA writable_schema = 1;
         INSERT INTO sqlite_schema VALUES ('index', 'commands_by_end', 'commands', {root}, '{sql}')"
    );
    change(&path, &remember);
    let text = refusal(&path);
    assert!(text.contains("is damaged (row 1 missing from index commands_by_end): restore it"), "{text}");
}

#[test]
fn what_was_committed_last_belongs_to_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let (mut store, _) = open(&path).unwrap();
    store.commit(&[&accepted(1)]).unwrap();
    let wal = dir.path().join("journal.db-wal");
    let (main, last) = (fs::read(&path).unwrap(), fs::read(&wal).unwrap());
    store.close().unwrap();
    fs::write(&path, &main).unwrap();
    fs::write(&wal, &last).unwrap();
    change(&path, "");
    fs::write(&wal, &last).unwrap();
    // A crash left both, and only one was moved away.
    fs::remove_file(&path).unwrap();
    assert_eq!(
        refusal(&path),
        "the journal DIR/journal.db is damaged (it is missing, but the -wal file with what was written last is there): restore it, \
         or move it away and its unfinished jobs are forgotten: mv DIR/journal.db-wal DIR/journal.db-wal.damaged"
    );
    // Both are moved away with the journal.
    fs::write(&path, "").unwrap();
    let text = refusal(&path);
    let remedy = "mv DIR/journal.db DIR/journal.db.damaged; mv DIR/journal.db-wal DIR/journal.db-wal.damaged";
    assert!(text.ends_with(remedy), "{text}");
}

#[test]
fn what_the_system_does_not_allow_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (
            dir.path().join("none/journal.db"),
            "cannot be used: No such file or directory (os error 2): choose another state directory with --state-dir",
        ),
        (
            dir.path().join(""),
            "cannot be used: Is a directory (os error 21): choose another state directory with --state-dir",
        ),
    ];
    for (path, expected) in cases {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Unusable(_)), "{error:?}");
        assert_eq!(error.to_string(), format!("the journal {} {expected}", path.display()));
    }
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may open what is forbidden to others");
        return;
    }
    let (_dir, path) = journal();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let text = open(&path).unwrap_err().to_string();
    assert!(
        text.contains("Permission denied (os error 13): it and its directory must belong to the user"),
        "{text}"
    );
}

#[test]
fn a_journal_that_another_program_uses_is_refused() {
    let (_dir, path) = journal();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM commands").unwrap();
    assert_eq!(
        refusal_of_used(&path),
        "the journal DIR/journal.db cannot be used: database is locked: end the program that uses it"
    );
    drop(other);
    let (store, _) = open(&path).unwrap();
    assert_eq!(
        refusal_of_used(&path),
        "the journal DIR/journal.db cannot be used: database is locked: end the program that uses it"
    );
    drop(store);
}

fn refusal_of_used(path: &Path) -> String {
    open(path).unwrap_err().to_string().replace(path.parent().unwrap().to_str().unwrap(), "DIR")
}

#[test]
fn a_missing_or_old_journal_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let copy = dir.path().join("copy.db");
    // One run: whether jobs may run that it does not know, and what people should know of it.
    let run = || {
        let (journal, recovered) = Journal::open(&path, OURS, sample::limits()).unwrap();
        let unsearched = recovered.unsearched;
        let notice = journal.status().notice;
        journal.write(vec![Record::Searched]).unwrap();
        journal.close(PATIENCE).unwrap();
        (unsearched, notice)
    };
    assert_eq!(run(), (true, None));
    assert_eq!(run(), (false, None));
    fs::copy(&path, &copy).unwrap();
    assert_eq!(run(), (false, None));
    fs::copy(&copy, &path).unwrap();
    let (unsearched, notice) = run();
    let shown = path.display();
    let rest = "except for jobs that still run at the execution service, which the first start looks for";
    let expected = format!(
        "the journal {shown} is an old copy (2 runs, but there were 3): what was accepted since is forgotten, {rest}"
    );
    assert_eq!((unsearched, notice), (true, Some(expected)));
    assert_eq!(run(), (false, None));
    fs::remove_file(&path).unwrap();
    let expected =
        format!("the journal {shown} is missing, although there was one: what it held is forgotten, {rest}");
    assert_eq!(run(), (true, Some(expected)));
    assert_eq!(run(), (false, None));
}

/// The form of version 1 is kept for ever: a journal of it, which holds one of each, opens with the same content.
#[test]
fn the_journal_of_the_first_version_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    fs::write(&path, include_bytes!("version-1.db")).unwrap();
    let (store, recovered) = open(&path).unwrap();
    assert_eq!(format!("{recovered:#?}\n"), include_str!("version-1.txt"));
    store.close().unwrap();
}

/// All rows but the times at which commands were seen, which are not needed again.
fn rows(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let queries = [
        "SELECT * FROM commands ORDER BY key",
        "SELECT number, identity, origin, seq_num, sent FROM seen ORDER BY number",
        "SELECT * FROM summary_state",
        "SELECT * FROM history ORDER BY place",
        "SELECT last_key, searched, (SELECT user_version FROM pragma_user_version) FROM journal",
    ];
    let rows = |query| {
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            (0..columns).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect()
        };
        let rows: Vec<Result<Vec<_>, _>> = statement.query_map([], row).unwrap().collect();
        rows.into_iter().map(|row| format!("{:?}", row.unwrap())).collect::<Vec<_>>()
    };
    queries.into_iter().flat_map(rows).collect()
}

/// The records that lead to this.
fn records(recovered: Recovered) -> Vec<Record> {
    let mut records = Vec::new();
    for RecoveredCommand { entry, job_id, suspected, end, result_delivered, ack_delivered, notes } in
        recovered.entries
    {
        let key = entry.key;
        let delivered = |what| Record::Delivered(Receipt { key, what });
        records.push(Record::Accepted(Box::new(entry)));
        records.extend(job_id.map(|job_id| Record::Created { key, job_id }));
        records.extend(suspected.map(|until| Record::Suspected { key, until }));
        records.extend(end.map(|end| Record::Ended { key, end: Box::new(end) }));
        records.extend(result_delivered.then(|| delivered(Deliverable::Result)));
        records.extend(ack_delivered.then(|| delivered(Deliverable::Ack)));
        records.extend(notes.into_iter().map(|note| Record::Noted { key, note }));
    }
    records.extend(recovered.seen.into_iter().map(|sender| Record::Seen { sender, at: NOW }));
    records.extend((!recovered.unsearched).then_some(Record::Searched));
    let state = recovered.state;
    records.extend(state.map(|(state, override_name)| Record::State { state, override_name }));
    records
}

/// The form of versions 2 and 3 is what is written, to the last byte: what is read of a journal that was kept, with one of
/// each, and written to a new one gives the same rows. Only passwords are not written any more.
#[test]
fn versions_2_and_3_are_written_as_they_were_when_they_were_new() {
    for (bytes, count) in [(&include_bytes!("version-2.db")[..], 15), (include_bytes!("version-3.db"), 28)] {
        let dir = tempfile::tempdir().unwrap();
        let [kept, fresh] = ["kept.db", "fresh.db"].map(|name| dir.path().join(name));
        fs::write(&kept, bytes).unwrap();
        let (store, recovered) = open(&kept).unwrap();
        store.close().unwrap();
        let (mut store, _) = open(&fresh).unwrap();
        store.commit(&records(recovered).iter().collect::<Vec<_>>()).unwrap();
        store.upkeep(NOW).unwrap();
        store.close().unwrap();
        let [kept, fresh] = [rows(&kept), rows(&fresh)];
        let kept: Vec<String> =
            kept.iter().map(|row| row.replace("jane:p%40ss@", "@").replace("é@/@x", "@/@x")).collect();
        assert_eq!((kept.len(), &kept), (count, &fresh));
    }
}
