//! Reads configuration files, which may be anything: in bounded memory, and without waiting for the writer of a pipe.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::Error;
use super::secret::Secret;
use super::tree::position;

/// Maximum size of a configuration file, in bytes; real ones have a few kilobytes.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads a text file; none if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    // Without NONBLOCK, opening a FIFO waits for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(unreadable(path, &e.into())),
    };
    // Of the opened file, not of the path, which could name another file by now.
    let meta = file.metadata().map_err(|e| unreadable(path, &e))?;
    if meta.is_dir() {
        return Err(Error::in_file(path, "is a directory, not a file"));
    }
    if !meta.is_file() {
        return Err(Error::in_file(path, "is not a regular file"));
    }
    if meta.len() > MAX_BYTES as u64 {
        return Err(too_large(path));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
    text(bytes, path).map(Some)
}

/// The password in a file of one line; none if the file is empty or does not exist. `of` names its owner in errors.
pub(crate) fn password(path: &Path, of: &str) -> Result<Option<Secret>, String> {
    let text = read(path).map_err(|error| error.to_string())?.unwrap_or_default();
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(_), Some(_)) => Err(format!("{}: must be one line with the {of} password", path.display())),
        (Some(password), None) if !password.is_empty() => Ok(Some(Secret(password.to_owned()))),
        (Some(_) | None, _) => Ok(None),
    }
}

/// Converts the contents of a configuration file to text without the byte order mark that some editors write; `path` is
/// for errors.
pub(super) fn text(mut bytes: Vec<u8>, path: &Path) -> Result<String, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(path));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(e.as_bytes());
        Error::at(path.display(), Some(position(&text, valid)), "not UTF-8 text; save the file as UTF-8")
    })
}

/// The error for a file that is too large.
pub(super) fn too_large(path: &Path) -> Error {
    Error::in_file(
        path,
        format!("larger than {MAX_BYTES} bytes, the most that a configuration file may have"),
    )
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::in_file(path, format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_is_no_small_text_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(100_000_000).unwrap();
        let latin = dir.path().join("latin");
        std::fs::write(&latin, b"a: b\nc: \xe9t\xe9").unwrap();
        let started = Instant::now();
        for (path, expected) in [
            (fifo.as_path(), "is not a regular file"),
            (Path::new("/dev/zero"), "is not a regular file"),
            (Path::new("/dev/null"), "is not a regular file"),
            (dir.path(), "is a directory"),
            (&huge, "larger than 1048576 bytes"),
            (&latin, "latin:2:4: not UTF-8"),
            (&latin.join("x"), "cannot be read"),
        ] {
            let error = read(path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(read(&dir.path().join("none")), Ok(None));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_byte_order_mark_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marked");
        std::fs::write(&path, "\u{feff}hunter2\n").unwrap();
        assert_eq!(read(&path), Ok(Some("hunter2\n".to_owned())));
        assert_eq!(password(&path, "Redis"), Ok(Some(Secret("hunter2".to_owned()))));
        // Places are those that an editor shows; anywhere else the mark is text like any other.
        std::fs::write(&path, b"\xef\xbb\xbfa: \xe9").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("marked:1:4: not UTF-8"));
        std::fs::write(&path, "a\u{feff}").unwrap();
        assert_eq!(read(&path), Ok(Some("a\u{feff}".to_owned())));
    }
}
