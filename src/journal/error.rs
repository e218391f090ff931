//! What can go wrong with a journal, in words for people, and what to do about it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode::{
    CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OutOfMemory,
    PermissionDenied, ReadOnly, SystemIoFailure,
};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::topic::Refusal;
use crate::text::quote;

/// Why a journal cannot be opened. Each is one line with the path and a remedy; nothing was changed or replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The journal belongs to another instance, is of a newer version, or is damaged.
    #[error("{0}")]
    Refused(String),
    /// The journal cannot be opened, created or written (permissions, a full disk, a read-only file system), or another
    /// instance uses it.
    #[error("{0}")]
    Unusable(String),
}

/// What went wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was read from the journal makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// The journal must not be opened: why, as it follows the path of the journal in the error.
    #[error("it {0}")]
    Refused(String),
    #[error(transparent)]
    Broker(#[from] Refusal),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Nonsense(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Nonsense(reason.to_owned())
    }
}

impl Fault {
    /// The kind of the system's error; none if the file itself is wrong.
    fn kind(&self) -> Option<ErrorKind> {
        let code = match self {
            Self::Io(error) => return Some(error.kind()),
            Self::Sql(error) => error.sqlite_error_code(),
            Self::Nonsense(_) | Self::Refused(_) | Self::Broker(_) => None,
        };
        match code {
            Some(DiskFull) => Some(ErrorKind::StorageFull),
            Some(DatabaseBusy | DatabaseLocked) => Some(ErrorKind::ResourceBusy),
            Some(CannotOpen | PermissionDenied | ReadOnly) => Some(ErrorKind::PermissionDenied),
            Some(SystemIoFailure | FileLockingProtocolFailed | OutOfMemory) => Some(ErrorKind::Other),
            Some(_) | None => None,
        }
    }

    /// Whether the disk is full, or the file has reached its limit.
    pub(super) fn is_lack_of_room(&self) -> bool {
        self.kind() == Some(ErrorKind::StorageFull)
    }

    /// Why the system refuses access to the file at `path`, with a remedy; none if the file itself is wrong.
    fn of_the_system(&self, path: &Path) -> Option<String> {
        let remedy = match self.kind() {
            None => return None,
            Some(ErrorKind::PermissionDenied) => {
                "it and its directory must belong to the user that ocps runs as"
            }
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => "free some space",
            Some(ErrorKind::ResourceBusy) => "end the program that uses it",
            Some(ErrorKind::Other) => "look at the disk (dmesg)",
            Some(_) => "choose another state directory with --state-dir",
        };
        let (problem, remedy) = match statvfs(directory(path)).ok() {
            Some(disk) if disk.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                ("its file system is read-only", "mount it writable")
            }
            Some(disk) if self.is_lack_of_room() && disk.f_bavail > 0 => {
                ("it has reached its limit, or the disk is full", remedy)
            }
            _ if self.is_lack_of_room() => ("the disk is full", remedy),
            _ => return Some(format!("{self}: {remedy}")),
        };
        Some(format!("{problem} ({self}): {remedy}"))
    }

    /// Why the journal at `path` cannot be written, in one line.
    pub(super) fn reason(&self, path: &Path) -> String {
        self.of_the_system(path).unwrap_or_else(|| quote(self))
    }

    /// Why the journal at `path` cannot be opened.
    pub(super) fn refusal(self, path: &Path) -> OpenError {
        let shown = path.display();
        if let Some(reason) = self.of_the_system(path) {
            return OpenError::Unusable(format!("the journal {shown} cannot be used: {reason}"));
        }
        let reason = match self {
            Self::Refused(reason) => reason,
            Self::Sql(_) | Self::Io(_) | Self::Nonsense(_) | Self::Broker(_) => {
                format!("is damaged ({}): restore it, or {}", self.reason(path), move_away(path))
            }
        };
        OpenError::Refused(format!("the journal {shown} {reason}"))
    }
}

/// How to move a journal away: its file, and the `-wal` file beside it with what was committed last.
pub(super) fn move_away(path: &Path) -> String {
    let parts = [path.to_owned(), wal(path)];
    let parts = parts.iter().filter(|part| *part == path && path.exists() || size(part) > 0);
    let moves = parts.map(|part| format!("mv {} {}", part.display(), beside(part, ".damaged").display()));
    format!("move it away and its unfinished jobs are forgotten: {}", moves.collect::<Vec<_>>().join("; "))
}

/// The `-wal` file beside the journal, with what was committed last.
pub(super) fn wal(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The size of a file in bytes, 0 if there is none: an empty `-wal` file is as good as none.
pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// The file beside the journal whose name has this ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    [path.as_os_str(), OsStr::new(ending)].into_iter().collect::<OsString>().into()
}

/// The directory of the journal.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
