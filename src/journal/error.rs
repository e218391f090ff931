//! What can go wrong with a journal, in words for people, and what to do about it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Longest quotation of what a journal says, in characters.
const QUOTE_MAX: usize = 300;

/// Why a journal cannot be opened. Each is one line with the path and a remedy; nothing was changed or replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It belongs to another instance, is of a newer version, or is damaged.
    #[error("{0}")]
    Refused(String),
    /// It cannot be opened, created or written (permissions, a full disk, a read-only file system), or another
    /// instance uses it.
    #[error("{0}")]
    Unusable(String),
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was read makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// It is not to be opened.
    #[error(transparent)]
    Open(OpenError),
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
    /// The same, with where it was found.
    pub(super) fn at(self, place: &str) -> Self {
        match self {
            Self::Nonsense(reason) => Self::Nonsense(format!("{place}: {reason}")),
            Self::Sql(_) | Self::Io(_) | Self::Open(_) => self,
        }
    }

    /// Whether the disk is full, or the file as large as it may be.
    pub(super) fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    /// Why the system does not let us use the file at `path`, with a remedy where there is one; none if the file
    /// itself is wrong.
    fn of_the_system(&self, path: &Path) -> Option<String> {
        let (error, remedy) = match self {
            Self::Io(error) => (error.to_string(), remedy(error.kind())),
            Self::Sql(error) => (error.to_string(), remedy_of_sqlite(error.sqlite_error_code()?)?),
            Self::Nonsense(_) | Self::Open(_) => return None,
        };
        let disk = statvfs(directory(path)).ok();
        if disk.as_ref().is_some_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            return Some(format!("its file system is read-only ({error}): mount it writable"));
        }
        Some(match disk {
            Some(disk) if self.is_lack_of_room() && disk.f_bavail > 0 => {
                format!("it has reached its limit, or the disk is full ({error}): {remedy}")
            }
            Some(_) | None if self.is_lack_of_room() => format!("the disk is full ({error}): {remedy}"),
            Some(_) | None => format!("{error}: {remedy}"),
        })
    }

    /// Why the journal at `path` cannot be written, in one line.
    pub(super) fn reason(&self, path: &Path) -> String {
        self.of_the_system(path).unwrap_or_else(|| one_line(&self.to_string()))
    }

    /// Why the journal at `path` cannot be opened.
    pub(super) fn refusal(self, path: &Path) -> OpenError {
        if let Self::Open(error) = self {
            return error;
        }
        let shown = path.display();
        match self.of_the_system(path) {
            Some(reason) => OpenError::Unusable(format!("the journal {shown} cannot be used: {reason}")),
            None => OpenError::Refused(format!(
                "the journal {shown} is damaged ({}): restore it, or move it away and its unfinished jobs are \
                 forgotten: {}",
                self.reason(path),
                move_away(path)
            )),
        }
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => "it must be the user's that ocps runs as, and so must its directory",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        _ => "choose another state directory with --state-dir",
    }
}

/// None where the file itself is wrong.
fn remedy_of_sqlite(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::DiskFull => "free some space",
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => "end the program that uses it",
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly => {
            remedy(ErrorKind::PermissionDenied)
        }
        ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed | ErrorCode::OutOfMemory => {
            "look at the disk (dmesg)"
        }
        _ => return None,
    })
}

/// The beginning of a reason, on one line: what is damaged may say anything.
fn one_line(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTE_MAX).collect()
}

/// The command that moves a journal away. What was committed last is in a file of its own, which belongs to it.
pub(super) fn move_away(path: &Path) -> String {
    let parts = [path.to_owned(), wal(path)];
    let parts = parts.iter().filter(|part| *part == path && path.exists() || holds_something(part));
    let moves = parts.map(|part| format!("mv {} {}", part.display(), beside(part, ".damaged").display()));
    moves.collect::<Vec<_>>().join("; ")
}

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
    [path.as_os_str(), OsStr::new(ending)].into_iter().collect::<OsString>().into()
}

/// The directory of the journal.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
