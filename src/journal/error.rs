//! Why a journal cannot be opened, and what to do about it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::Identity;

/// Why a journal cannot be opened. Each is one line with the path and a remedy; nothing was changed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It is the journal of another instance.
    NotOurs {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who we are.
        wanted: Identity,
    },
    /// A newer `ocps` wrote it.
    Newer {
        /// The journal.
        path: PathBuf,
        /// The version of its form.
        found: i64,
        /// The newest that we know.
        known: i64,
    },
    /// What is there is no whole journal.
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its directory cannot be used, or another daemon uses it: one line.
    Directory(String),
    /// It cannot be opened, created or written: permissions, a full disk, a read-only file system.
    Unusable {
        /// The journal.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs { path, found, wanted } => write!(
                f,
                "the journal {} is that of {found}, and this is {wanted}: give each instance its own state directory \
                 with --state-dir",
                path.display()
            ),
            Self::Newer { path, found, known } => write!(
                f,
                "the journal {} is of version {found}, which is newer than what this ocps knows ({known}): install a \
                 newer ocps, or move it away and its unfinished jobs are forgotten: {}",
                path.display(),
                MoveAway(path)
            ),
            Self::Damaged { path, reason } => write!(
                f,
                "the journal {} is damaged ({reason}): restore it, or move it away and its unfinished jobs are \
                 forgotten: {}",
                path.display(),
                MoveAway(path)
            ),
            Self::Directory(reason) => f.write_str(reason),
            Self::Unusable { path, reason } => {
                write!(f, "the journal {} cannot be used: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// The file of what was committed last, beside the journal.
pub(super) fn wal(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// Whether there is a file with something in it. An empty `-wal` file means nothing.
pub(super) fn holds_something(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// A file beside the journal.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// The command that moves a journal away. What was committed last is in a file of its own, which belongs to it.
struct MoveAway<'a>(&'a Path);

impl fmt::Display for MoveAway<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut and = "";
        let wal = Some(wal(self.0)).filter(|path| holds_something(path));
        for path in Some(self.0.to_owned()).into_iter().filter(|path| path.exists()).chain(wal) {
            write!(f, "{and}mv {} {}", path.display(), beside(&path, ".damaged").display())?;
            and = "; ";
        }
        Ok(())
    }
}
