//! The journal: a file that anything may have happened to, and rows with any content.

use std::fs;
use std::time::Duration;

use ocps::csc::event::{JobObject, Phase};
use ocps::csc::id::{JobId, SalIndex};
use ocps::csc::record::Recovered;
use ocps::csc::request::{Action, Answer, JobStatus, Listed, RemoveAnswer, StatusAnswer};
use ocps::csc::time::{Tai, Time};
use ocps::daemon::turn::{Goal, Turn};
use ocps::journal::store::Sqlite;
use ocps::journal::{Identity, Limits, OpenError};
use rusqlite::Connection;
use tempfile::TempDir;

use super::driver::Driver;
use super::line::{configuration, settings};
use super::{check_reason, join, parts};

/// One of the first version with a command of each kind.
const FILE: &[u8] = include_bytes!("../../journal/version-1.db");
const HISTORY: Duration = Duration::from_secs(30 * 24 * 3600);
const NOW: Tai = Tai(1_795_425_891.0);
/// How often the core is ticked after the recovery, mostly a second later: until a job is sent again.
const TICKS: usize = 40;

/// Opens a journal with this content: all of it is understood, or nothing is touched.
fn open(content: &[u8], change: impl FnOnce(&Connection)) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    fs::write(&path, content).unwrap();
    if content == FILE {
        change(&Connection::open(&path).unwrap());
    }
    let before = fs::read(&path).unwrap();
    let identity = Identity { index: SalIndex::LsstCam, simulated: false };
    match Sqlite::open(&path, identity, Limits::new(HISTORY), NOW, None) {
        Ok((_, recovered)) => {
            assert!(recovered.entries.is_sorted_by_key(|kept| kept.entry.key));
            assert!(recovered.entries.iter().all(|kept| kept.entry.key.0 <= recovered.last_key));
            take_over(recovered);
        }
        Err(error) => {
            check_reason(&error.to_string());
            let is_damaged = error.to_string().contains(" is damaged (");
            assert!(is_damaged || content != FILE, "no row was read: {error}");
            match error {
                OpenError::Refused(_) => {
                    assert!(fs::read(&path).unwrap() == before, "a refused journal was changed");
                }
                OpenError::Unusable(_) => {}
            }
        }
    }
}

/// Goes on with what was read, as far as the first answers of the service.
fn take_over(recovered: Recovered) {
    let now = Time { mono: Duration::from_secs(1), tai: NOW };
    let goal = Goal { state: None, override_name: None };
    let (turn, effects) = Turn::new(settings(), 1, now, &goal, Some(recovered));
    let answer = |action: &Action| Some(answer(action));
    let mut driver = Driver { turn, now, configuration: configuration(), check: check_text, answer };
    driver.run_effects(effects);
    for _ in 0..TICKS {
        driver.run();
        let next = driver.turn.csc().next_deadline().max(driver.now.mono);
        let passed = next - driver.now.mono;
        driver.now = Time { mono: next, tai: Tai(driver.now.tai.0 + passed.as_secs_f64()) };
        driver.turn.tick();
    }
}

/// Jobs that it knows are active for ever, and it lists none.
fn answer(action: &Action) -> Answer {
    let active = |job_id: &str| {
        let object = JobObject(r#"{"jobId":"x","phase":"executing"}"#.into());
        JobStatus { job_id: JobId::parse(job_id).unwrap(), phase: Phase::Active, object }
    };
    match action {
        Action::Submit(submission) => Answer::Submit(Ok(active(submission.run_id.as_str()))),
        Action::Status { job_id, .. } => Answer::Status(Ok(StatusAnswer::Job(active(job_id.as_str())))),
        Action::Remove { .. } => Answer::Remove(Ok(RemoveAnswer::Removed { object: None })),
        Action::List(_) => Answer::List(Ok(Listed::default())),
        Action::Push { .. } => Answer::Push(Ok(())),
        Action::Ping => Answer::Ping(Ok(())),
    }
}

/// One line; a job's object may be any JSON.
fn check_text(line: &str) {
    assert!(!line.contains(|c: char| c < ' '), "not one line: {line:.500?}");
}

/// The input is the file.
pub(crate) fn read_file(data: &[u8]) {
    open(data, |_| {});
}

pub(crate) fn seeds_of_files() -> Vec<Vec<u8>> {
    vec![FILE.to_vec(), file_of(ENDLESS)]
}

/// Reading a table never ends.
const ENDLESS: &str = "DROP TABLE journal;
    CREATE VIEW journal AS WITH RECURSIVE r(sal_index, simulated) AS
      (SELECT 7, 7 UNION ALL SELECT sal_index + 1, 7 FROM r) SELECT * FROM r WHERE sal_index < 0";

/// A journal that was changed so.
fn file_of(sql: &str) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    fs::write(&path, FILE).unwrap();
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    fs::read(&path).unwrap()
}

/// The input is the texts of all rows.
pub(crate) fn read_rows(data: &[u8]) {
    let [document, ending, result, job_id, identity, state] = parts(data).map(String::from_utf8_lossy);
    open(FILE, |connection| {
        // Where there is no text there is no column; the others are such that the texts are read on.
        let sql = "UPDATE commands SET document = ?1, ending = nullif(?2, ''), result = nullif(?3, ''),
              job_id = nullif(?4, ''), ended = iif(?2 = '', NULL, coalesce(ended, accepted)),
              kind = iif(instr(?1, '\"abort\":'), 'abort_job', 'execute')";
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
    let mut seeds: Vec<Vec<u8>> =
        statement.query_map([], row).unwrap().take(20).map(Result::unwrap).collect();
    seeds.extend(hostile_rows(&seeds));
    seeds
}

/// Those that once found something, made of a real one.
fn hostile_rows(rows: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let [document, _, _, job_id, identity, state] = parts(&rows[0]).map(String::from_utf8_lossy);
    let row = |document: &str, state: &str| join(&[document, "", "", "", &identity, state]);
    let long = "x".repeat(5_000);
    let begin = |key: &str| document.replacen('{', &format!(r#"{{"{key}":0,"#), 1);
    // The time of the next poll could not be expressed.
    let seldom = document.replace(r#""secs":704"#, r#""secs":18446744073709551615"#);
    assert_ne!(seldom, document);
    vec![
        join(&[&document, "", "", &job_id, &identity, &state]),
        row(&document, &state),
        row(&seldom, &state),
        // Quoted in the error.
        row(&begin(r"a\u0000\n"), &state),
        row(&begin(&long), &state),
        row(&document, &long),
    ]
}
