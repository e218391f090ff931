//! The lock of the state directory: one daemon at a time, also when the directory is removed and made again.
//!
//! The lock file outlives the journal beside it and notes how often that was opened, so that a journal that is
//! missing, or older than the last one, is noticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::directory;

/// How long the lock of the last run is waited for: a process that it was just starting when it was killed (git)
/// holds it until it has begun.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Most bytes of notes that are read.
const NOTES_MAX: u64 = 4096;
/// The name of the note of the process that has the lock.
const PROCESS: &str = "process";

/// The state directory of a journal, which this process alone uses; the lock is released with the file.
#[derive(Debug)]
pub struct Lock {
    dir: PathBuf,
    /// The name of the journal.
    name: String,
    file: File,
}

impl Lock {
    /// Takes the directory of a journal, which is made if it is not there.
    ///
    /// # Errors
    /// One line: it cannot be used, or another process uses it.
    pub(super) fn take(journal: &Path) -> Result<Self, String> {
        let name = journal.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = directory(journal).to_owned();
        Ok(Self { file: locked(&dir, PATIENCE)?, dir, name })
    }

    /// The process that uses the directory, if one does: `Some(None)` if it is not known which.
    pub(super) fn holder(dir: &Path) -> Option<Option<i64>> {
        let lock = File::open(dir.join("lock")).ok()?;
        let taken = flock(&lock, FlockOperation::NonBlockingLockShared);
        (taken == Err(Errno::WOULDBLOCK)).then(|| notes(&lock).get(PROCESS).copied())
    }

    /// How many runs a journal has had, as [`Lock::runs`], by whoever has not taken its directory.
    pub(super) fn noted(journal: &Path) -> i64 {
        let name = journal.file_name().unwrap_or_default().to_string_lossy();
        let lock = File::open(directory(journal).join("lock"));
        lock.map_or(0, |lock| notes(&lock).get(&*name).copied().unwrap_or(0))
    }

    /// Takes the directory again if it is no longer the one that was taken.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub(super) fn renew(&mut self) -> Result<(), String> {
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let there = fs::metadata(self.dir.join("lock")).map(id).ok();
        if there.is_none() || there != self.file.metadata().map(id).ok() {
            self.file = locked(&self.dir, Duration::ZERO)?;
        }
        Ok(())
    }

    /// How many runs the journal has had, as far as that is noted here.
    pub(super) fn runs(&self) -> i64 {
        notes(&self.file).get(&self.name).copied().unwrap_or(0)
    }

    /// Notes that. Without the note, a journal that is deleted later is taken for one that never was: no reason not to
    /// begin. The same goes for a note that is torn by a crash.
    pub(super) fn note(&mut self, runs: i64) {
        let mut notes = notes(&self.file);
        notes.insert(self.name.clone(), runs);
        notes.insert(PROCESS.to_owned(), process::id().into());
        let text: String = notes.iter().map(|(name, number)| format!("{name} {number}\n")).collect();
        let _ = self.file.set_len(0);
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(text.as_bytes()));
    }
}

/// How many runs each journal of the directory has had, by its name; and the process that has the lock.
fn notes(mut file: &File) -> BTreeMap<String, i64> {
    let mut notes = String::new();
    // What cannot be read is missing.
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(NOTES_MAX).read_to_string(&mut notes));
    let lines = notes.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

fn locked(dir: &Path, patience: Duration) -> Result<File, String> {
    let at = |error: io::Error| {
        format!(
            "cannot use the state directory {}: {error}; choose another with --state-dir, or do without a journal \
             (journal = \"off\" in ocps.toml)",
            dir.display()
        )
    };
    fs::create_dir_all(dir).map_err(at)?;
    let mut options = File::options();
    let lock = options.create(true).truncate(false).read(true).write(true).open(dir.join("lock"));
    let lock = lock.map_err(at)?;
    let until = Instant::now() + patience;
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(at(error.into()));
        }
        if Instant::now() >= until {
            let process = notes(&lock).get(PROCESS).map_or(String::new(), |id| format!(" (process {id})"));
            return Err(format!(
                "the state directory {} is in use by another instance{process}: stop that one, or choose another with \
                 --state-dir",
                dir.display()
            ));
        }
        thread::sleep(PAUSE);
    }
    Ok(lock)
}
