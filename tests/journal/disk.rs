//! Disks that are full, broken or slow: what waits is kept, reported as failed, and written when the disk works again.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ocps::csc::id::EntryKey;
use ocps::csc::record::{Awaited, Record};
use ocps::journal::store::{Sqlite, Store};
use ocps::journal::{Journal, Limits, News, OpenError, Report};

use crate::open::open;
use crate::sample::{self, NOW, OURS};

const PATIENCE: Duration = Duration::from_secs(60);

fn accepted(key: u64) -> Record {
    Record::Accepted(Box::new(sample::entry(&mut Rng::with_seed(key), EntryKey(key))))
}

fn durable(keys: &[u64]) -> Report {
    Report::Durable(keys.iter().copied().map(|key| Awaited::Accepted(EntryKey(key))).collect())
}

fn next(journal: &Journal) -> Report {
    let news = journal.news.recv_timeout(PATIENCE).unwrap();
    let News::Records(report) = news else { panic!("{news:?}") };
    report
}

#[track_caller]
fn assert_fails(journal: &Journal, expected: &str) {
    let report = next(journal);
    let Report::Failed(reason) = &report else { panic!("{report:?}") };
    assert!(reason.starts_with("the journal /") && reason.contains(expected), "{reason}");
    assert!(!reason.contains('\n'), "{reason}");
    let (shown, _) = journal.status().problem.unwrap();
    assert!(reason.ends_with(&format!(" cannot be written: {shown}")), "{shown}: {reason}");
}

/// Both come back in order, together or one after the other.
#[track_caller]
fn assert_back(journal: &Journal, keys: &[u64]) {
    assert_eq!(next(journal), Report::Back);
    assert_eq!(next(journal), durable(keys));
    assert_eq!(journal.status().problem, None);
    assert_eq!(journal.status().waiting, 0);
}

fn keys_in(path: &Path) -> Vec<u64> {
    open(path).unwrap().1.entries.iter().map(|kept| kept.entry.key.0).collect()
}

#[test]
fn a_journal_that_reached_its_limit_forgets_its_history_and_continues() {
    let limits = Limits { file_bytes: 1 << 20, history_bytes: 1 << 19, ..sample::limits() };
    let mut store = Sqlite::in_memory(OURS, limits).unwrap();
    let mut failed = None;
    for key in 1..=2000 {
        let records = crate::store::settled(key, 0.0);
        if let Err(error) = store.commit(&records.iter().collect::<Vec<_>>()) {
            failed = Some((key, error));
            break;
        }
    }
    let (key, error) = failed.unwrap();
    assert!(error.contains("is full (database or disk is full): free some space"), "{error}");
    let recovered = store.recover().unwrap();
    assert_eq!((recovered.last_key, recovered.entries.len() as u64), (key - 1, (key - 1).min(1000)));
    store.upkeep(NOW).unwrap();
    store.commit(&[&accepted(key)]).unwrap();
    assert_eq!(store.recover().unwrap().last_key, key);
}

/// A file system that is unmounted in the end.
struct Mount(PathBuf);

impl Mount {
    /// A small one in memory.
    fn small(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at).stderr(Stdio::null());
        assert!(mount.status().unwrap().success(), "no file system can be mounted here");
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a file system: make test-root"]
fn what_a_full_disk_does_not_take_is_written_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::small(&dir.path().join("small"));
    let path = mount.0.join("journal.db");
    let ballast = mount.0.join("ballast");
    // To the last byte.
    let fill = || {
        let mut file = fs::File::options().create(true).append(true).open(&ballast).unwrap();
        while file.write(&[1; 4096]).is_ok() {}
    };
    fill();
    let error = Journal::open(&path, OURS, sample::limits()).unwrap_err();
    let OpenError::Unusable(reason) = &error else { panic!("{error}") };
    assert!(reason.contains("full") && reason.ends_with("free some space"), "{reason}");
    fs::remove_file(&ballast).unwrap();

    let (journal, _) = Journal::open(&path, OURS, sample::limits()).unwrap();
    journal.write(vec![accepted(1)]).unwrap();
    assert_eq!(next(&journal), durable(&[1]));
    // What there is room for is still taken.
    let mut key = 2;
    let failed = loop {
        fill();
        journal.write(vec![accepted(key)]).unwrap();
        match next(&journal) {
            Report::Durable(records) => assert_eq!(records, [Awaited::Accepted(EntryKey(key))]),
            Report::Failed(reason) => break reason,
            Report::Back => panic!("it never failed"),
        }
        key += 1;
        assert!(key < 10_000);
    };
    assert!(failed.contains("the disk is full"), "{failed}");
    for more in key + 1..=key + 3 {
        fill();
        journal.write(vec![accepted(more)]).unwrap();
        assert_fails(&journal, "the disk is full");
    }
    fs::remove_file(&ballast).unwrap();
    assert_back(&journal, &[key, key + 1, key + 2, key + 3]);
    journal.close(PATIENCE).unwrap();
    assert_eq!(keys_in(&path), (1..=key + 3).collect::<Vec<_>>());
}

/// The disk's behaviour, for the library that is loaded into the child.
fn disk(mode: &str) {
    fs::write(env::var_os("OCPS_SHIM").unwrap(), mode).unwrap();
}

#[test]
fn a_disk_that_fails_or_stalls_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shim = dir.path().join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/journal/shim.c");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(source).arg("-ldl").status();
    assert!(made.unwrap().success(), "cc builds SQLite too");
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "disk::in_a_process_with_a_bad_disk", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", &shim)
        .env("OCPS_SHIM", dir.path().join("mode"))
        .env("OCPS_DIR", dir.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}{log}", String::from_utf8_lossy(&child.stdout));
    let keys = keys_in(&dir.path().join("journal.db"));
    let last = log.lines().find_map(|line| line.strip_prefix("last key: ")).unwrap();
    // The last one was given to a disk that did not answer any more.
    let last: u64 = last.parse().unwrap();
    assert!(keys.len() as u64 == last || keys.len() as u64 == last - 1, "{keys:?}");
}

#[test]
#[ignore = "runs in a child of its own"]
fn in_a_process_with_a_bad_disk() {
    let path = PathBuf::from(env::var_os("OCPS_DIR").unwrap()).join("journal.db");
    disk("well");
    let (journal, _) = Journal::open(&path, OURS, sample::limits()).unwrap();
    let mut key = 0;
    let mut write = || {
        key += 1;
        journal.write(vec![accepted(key)]).unwrap();
        key
    };
    for (mode, expected) in [
        ("sync", "cannot be written: disk I/O error: look at the disk"),
        ("full", "the disk is full"),
        ("write", "cannot be written: disk I/O error: look at the disk"),
        ("torn", "cannot be written: disk I/O error: look at the disk"),
        ("readonly", "cannot be written: "),
    ] {
        for wait in [1, 700] {
            let key = write();
            assert_eq!(next(&journal), durable(&[key]), "{mode}");
            if wait == 1 {
                // With checkpoints too.
                sleep(Duration::from_millis(1100));
            }
            disk(mode);
            let first = write();
            assert_fails(&journal, expected);
            // Until it was mended in vain, and opened again in vain.
            sleep(Duration::from_millis(wait));
            let second = write();
            assert!(matches!(next(&journal), Report::Failed(_)), "{mode}");
            disk("well");
            assert_back(&journal, &[first, second]);
        }
    }
    let busy_for = |time: Duration| {
        let end = Instant::now() + PATIENCE;
        while journal.status().busy_since.is_none_or(|since| since.elapsed() < time) {
            assert!(Instant::now() < end, "{:?}", journal.status());
            sleep(Duration::from_millis(5));
        }
    };
    // Nothing here waits for a disk that stands still until we let it go on.
    disk("stall");
    let stalled = write();
    busy_for(Duration::from_millis(100));
    assert!(journal.news.try_recv().is_err());
    disk("well");
    assert_eq!(next(&journal), durable(&[stalled]));
    assert_eq!(journal.status().busy_since, None);
    assert!(journal.status().last_commit.unwrap() > Duration::from_millis(100));

    disk("stall");
    write();
    busy_for(Duration::ZERO);
    let seen = |number| Record::Seen { sender: sample::sender(&mut Rng::with_seed(number)), at: NOW };
    // When much waits, commands that were seen are not taken, so that there is room for the others.
    journal.write((1..5000).map(seen).collect()).unwrap();
    assert_eq!(journal.status().waiting, 5000);
    journal.write((0..5001).map(seen).collect()).unwrap();
    assert_eq!(journal.status().waiting, 5000);
    journal.write((5000..50_000).map(|_| Record::Searched).collect()).unwrap();
    let refused = journal.write(vec![seen(0), Record::Searched]).unwrap_err();
    assert!(refused.ends_with("journal.db takes no more: 50000 records wait to be written"), "{refused}");
    let error = journal.close(Duration::from_millis(300)).unwrap_err();
    assert!(error.ends_with("it did not answer for 0.3 s; records that wait: 50000"), "{error}");
    eprintln!("last key: {key}");
    // The stalled thread is not waited for, as in the daemon.
    std::process::exit(0);
}

/// What a run after a crash would find.
fn crashed(path: &Path) -> Vec<u64> {
    let copy = tempfile::tempdir().unwrap();
    let name = path.file_name().unwrap();
    for name in [name.to_owned(), [name, "-wal".as_ref()].into_iter().collect()] {
        let _ = fs::copy(path.with_file_name(&name), copy.path().join(&name));
    }
    keys_in(&copy.path().join(name))
}

/// Waits until it was copied to its place that often.
#[track_caller]
fn await_copy(journal: &Journal, times: u32) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let notice = journal.status().notice.unwrap_or_default();
        if notice.contains(&format!("({times} times since the start)")) {
            return notice;
        }
        assert!(Instant::now() < end, "{:?}", journal.status());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_journal_that_is_deleted_moved_or_replaced_is_made_complete_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let path = state.join("journal.db");
    let (journal, _) = Journal::open(&path, OURS, sample::limits()).unwrap();
    journal.write(crate::store::settled(1, 0.0)).unwrap();
    next(&journal);
    journal.write(vec![accepted(2)]).unwrap();
    assert_eq!(next(&journal), durable(&[2]));

    fs::rename(&path, state.join("journal.db.damaged")).unwrap();
    journal.write(vec![accepted(3)]).unwrap();
    assert_eq!(next(&journal), durable(&[3]));
    let notice = await_copy(&journal, 1);
    assert!(notice.ends_with("it is complete again"), "{notice}");
    assert_eq!(crashed(&path), [1, 2, 3]);

    // The whole directory, and nothing is written: it is noticed all the same.
    fs::remove_dir_all(&state).unwrap();
    await_copy(&journal, 2);
    assert_eq!(crashed(&path), [1, 2, 3]);
    // No other daemon can take it meanwhile.
    let error = Journal::open(&path, OURS, sample::limits()).unwrap_err().to_string();
    let process = std::process::id();
    assert!(error.contains(&format!("is in use by another instance (process {process}): stop")), "{error}");

    // Another file in its place is kept beside it.
    let other = state.join("other");
    fs::write(&other, "another").unwrap();
    fs::rename(&other, &path).unwrap();
    journal.write(vec![accepted(4)]).unwrap();
    assert_eq!(next(&journal), durable(&[4]));
    let notice = await_copy(&journal, 3);
    let aside = state.join("journal.db.replaced");
    assert!(notice.ends_with(&format!("; what was in its place is now {}", aside.display())), "{notice}");
    assert_eq!(fs::read_to_string(aside).unwrap(), "another");

    // Only the part that was committed last: we still have it.
    fs::remove_file(state.join("journal.db-wal")).unwrap();
    journal.write(vec![accepted(5)]).unwrap();
    assert_eq!(next(&journal), durable(&[5]));
    journal.close(PATIENCE).unwrap();
    assert_eq!(keys_in(&path), [1, 2, 3, 4, 5]);
    // For the next run it is the same one.
    let (journal, recovered) = Journal::open(&path, OURS, sample::limits()).unwrap();
    assert_eq!((journal.status().notice, recovered.last_key), (None, 5));
    journal.close(PATIENCE).unwrap();
}

#[test]
fn a_journal_that_cannot_be_made_is_reported_and_made_as_soon_as_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let path = state.join("journal.db");
    let (journal, _) = Journal::open(&path, OURS, sample::limits()).unwrap();
    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "a file in the place of the directory").unwrap();
    journal.write(vec![accepted(1)]).unwrap();
    assert_fails(&journal, "cannot use the state directory");
    fs::remove_file(&state).unwrap();
    assert_back(&journal, &[1]);
    assert_eq!(crashed(&path), [1]);

    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "").unwrap();
    journal.write(vec![accepted(2)]).unwrap();
    let error = journal.close(PATIENCE).unwrap_err();
    assert!(
        error.contains("records that were not written: 1: the file was deleted or replaced: cannot use"),
        "{error}"
    );
}
