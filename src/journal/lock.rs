//! The lock of the state directory: one daemon at a time, also when the directory is removed and made again.
//!
//! The lock file notes how many runs each journal beside it has had, so that a journal that is missing, or is an old
//! copy, is noticed.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use super::error::directory;

/// How long a start waits for the lock of the previous run: where that run was killed while it started git, git holds the
/// lock for a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two tries to take the lock.
const PAUSE: Duration = Duration::from_millis(20);
/// Most bytes of notes that are read.
const NOTES_MAX: u64 = 4096;
/// The name of the note that says which process has the lock.
const PROCESS: &str = "process";

/// The lock of the state directory of a journal; closing the file releases it.
#[derive(Debug)]
pub struct Lock {
    dir: PathBuf,
    /// The name of the journal.
    name: String,
    file: File,
}

impl Lock {
    /// Locks the directory of a journal, which is made if it is missing.
    ///
    /// # Errors
    /// One line: the directory cannot be used, or another process uses it.
    pub(super) fn take(journal: &Path) -> Result<Self, String> {
        let name = journal.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = directory(journal).to_owned();
        Ok(Self { file: locked(&dir, PATIENCE)?, dir, name })
    }

    /// The process that holds the lock of the directory, if one does: `Some(None)` if it is not known which.
    pub(super) fn holder(dir: &Path) -> Option<Option<i64>> {
        let lock = File::open(dir.join("lock")).ok()?;
        let is_held = matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock));
        is_held.then(|| notes(&lock).get(PROCESS).copied())
    }

    /// As [`Lock::runs`], without holding the lock.
    pub(super) fn noted(journal: &Path) -> i64 {
        let name = journal.file_name().unwrap_or_default().to_string_lossy();
        let lock = File::open(directory(journal).join("lock"));
        lock.map_or(0, |lock| notes(&lock).get(&*name).copied().unwrap_or(0))
    }

    /// Locks the directory again if it was removed and made again.
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

    /// How many runs the journal has had, as the lock file notes; 0 without a note.
    pub(super) fn runs(&self) -> i64 {
        notes(&self.file).get(&self.name).copied().unwrap_or(0)
    }

    /// Notes how many runs the journal has had. Where the note cannot be written, or a crash tears it, a journal that is
    /// deleted later counts as one that never was; the daemon starts nevertheless.
    pub(super) fn note(&mut self, runs: i64) {
        let mut notes = notes(&self.file);
        notes.insert(self.name.clone(), runs);
        notes.insert(PROCESS.to_owned(), process::id().into());
        let text: String = notes.iter().map(|(name, number)| format!("{name} {number}\n")).collect();
        let _ = self.file.set_len(0);
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(text.as_bytes()));
    }
}

/// How many runs each journal of the directory has had, by its name; and the process that holds the lock.
fn notes(mut file: &File) -> BTreeMap<String, i64> {
    let mut notes = String::new();
    // A note that cannot be read counts as missing.
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
    while let Err(error) = lock.try_lock() {
        if let TryLockError::Error(error) = error {
            return Err(at(error));
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
