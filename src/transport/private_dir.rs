//! A directory of our own where everybody may write, such as `/tmp`.
//!
//! Another user may have made something of that name first: a directory of theirs, or a link that leads to one of ours.
//! Neither is used.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// What others may do with it.
const OF_OTHERS: u32 = 0o077;

/// Makes the directory, if it is not there, for our user alone.
///
/// # Errors
/// It cannot be made, or what is there is not ours alone.
pub fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => check(dir),
    }
}

/// Whether it is a directory, and ours alone. Once it is, in a directory with the sticky bit, it stays so.
///
/// # Errors
/// It is not there, or not ours alone.
pub fn check(dir: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    let problem = if !found.is_dir() {
        "it is no directory"
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if found.mode() & OF_OTHERS != 0 {
        "others may use it"
    } else {
        return Ok(());
    };
    Err(io::Error::other(problem))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_directory_of_our_own_is_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("ours");
        assert_eq!(check(&path).unwrap_err().kind(), ErrorKind::NotFound);
        make(&path).unwrap();
        make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);

        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(make(&link).unwrap_err().to_string(), "it is no directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(make(&path).unwrap_err().to_string(), "others may use it");
        assert_eq!(make(&parent.path().join("no/such")).unwrap_err().kind(), ErrorKind::NotFound);

        // Only root can give a directory away.
        let theirs = parent.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&theirs, Some(73006), None).unwrap();
            assert_eq!(make(&theirs).unwrap_err().to_string(), "it belongs to another user");
        }
    }
}
