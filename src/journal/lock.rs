//! The lock of the state directory: one daemon at a time, also when the directory is removed and made again.
//!
//! The lock file outlives the journal beside it and notes how often that was opened, so that a journal that is
//! missing, or older than the last one, is noticed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How long the lock of the last run is waited for: a process that it was just starting when it was killed (git)
/// holds it until it has begun.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Most bytes of notes that are read.
const NOTES_MAX: u64 = 4096;

/// A state directory that this process alone uses; the lock goes with the file.
#[derive(Debug)]
pub(super) struct Lock {
    dir: PathBuf,
    file: File,
}

impl Lock {
    /// Takes a directory, which is made if it is not there.
    ///
    /// # Errors
    /// One line: it cannot be used, or another process uses it.
    pub(super) fn take(dir: &Path) -> Result<Self, String> {
        Ok(Self { dir: dir.to_owned(), file: locked(dir, PATIENCE)? })
    }

    /// Takes the directory again if it is not the one any more that was taken.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub(super) fn renew(&mut self) -> Result<(), String> {
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let there = fs::metadata(path(&self.dir)).map(id).ok();
        if there.is_none() || there != self.file.metadata().map(id).ok() {
            self.file = locked(&self.dir, Duration::ZERO)?;
        }
        Ok(())
    }

    /// How many lives the journal of that name has had, as far as was noted here.
    pub(super) fn lives(&self, name: &str) -> Option<i64> {
        let noted = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        self.notes().lines().find_map(noted)
    }

    /// Notes that. A note that cannot be written, or is torn by a crash, is only missed.
    pub(super) fn note(&mut self, name: &str, lives: i64) -> io::Result<()> {
        let notes = self.notes();
        let others = notes.lines().filter(|line| line.split(' ').next() != Some(name));
        let text: String = others.map(|line| format!("{line}\n")).collect();
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(format!("{text}{name} {lives}\n").as_bytes())
    }

    fn notes(&self) -> String {
        let mut notes = String::new();
        let mut file = &self.file;
        let read =
            file.seek(SeekFrom::Start(0)).and_then(|_| file.take(NOTES_MAX).read_to_string(&mut notes));
        if read.is_ok() { notes } else { String::new() }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("lock")
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
    let lock =
        File::options().create(true).truncate(false).read(true).write(true).open(path(dir)).map_err(at)?;
    let until = Instant::now() + patience;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(format!(
                    "the state directory {} is in use by another instance: stop that one, or choose another with \
                     --state-dir",
                    dir.display()
                ));
            }
            Err(error) => return Err(at(error.into())),
        }
    }
}
