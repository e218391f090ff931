//! The journal with its thread and a real file.

use std::time::Duration;

use fastrand::Rng;
use ocps::csc::id::EntryKey;
use ocps::csc::record::{Awaited, Record};
use ocps::journal::{Journal, News, Report};

use crate::sample::{self, OURS};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn written_records_are_reported_as_durable_and_found_in_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let mut rng = Rng::with_seed(1);
    let (journal, recovered) = Journal::open(&path, OURS, sample::limits()).unwrap();
    assert!(recovered.entries.is_empty());
    let entry = sample::entry(&mut rng, EntryKey(7));
    journal.write(vec![Record::Accepted(Box::new(entry.clone()))]).unwrap();
    assert_eq!(
        journal.news.recv_timeout(PATIENCE),
        Ok(News::Records(Report::Durable(vec![Awaited::Accepted(EntryKey(7))])))
    );
    let status = journal.status();
    assert_eq!((status.waiting, status.problem), (0, None));
    assert!(status.last_commit.is_some());
    journal.close(PATIENCE).unwrap();

    let (journal, recovered) = Journal::open(&path, OURS, sample::limits()).unwrap();
    assert_eq!(recovered.last_key, 7);
    assert_eq!(recovered.entries[0].entry.work, entry.work);
    journal.close(PATIENCE).unwrap();
    let mut files: Vec<_> = dir.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["journal.db", "lock"]);
}

#[test]
fn a_journal_that_is_dropped_writes_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let mut rng = Rng::with_seed(2);
    let (journal, _) = Journal::open(&path, OURS, sample::limits()).unwrap();
    let news = journal.news.clone();
    for key in 1..=100 {
        journal.write(vec![Record::Accepted(Box::new(sample::entry(&mut rng, EntryKey(key))))]).unwrap();
    }
    drop(journal);
    // It ends when the thread has closed the file.
    while news.recv_timeout(PATIENCE).is_ok() {}
    let (journal, recovered) = Journal::open(&path, OURS, sample::limits()).unwrap();
    assert_eq!(recovered.entries.len(), 100);
    journal.close(PATIENCE).unwrap();
}
