//! The folder into which files are downloaded. Invariant: nothing outside the folder is changed, whatever the names of the
//! files are and whatever links it contains; a file gets its name only when it is complete.

use std::fs::{File, create_dir_all};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, mkdirat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// Number of bytes at the end of a part that are compared with the file at the service before it is continued.
const OVERLAP: u64 = 4096;

/// Maximum length of a name, in bytes; file systems take 255, and `.part` is added.
const NAME_MAX: usize = 250;

/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder, and makes it if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        create_dir_all(path)?;
        Ok(Self(openat(CWD, path, FOLDER, Mode::empty())?))
    }

    /// The part of a file, new or from an earlier download; none if the complete file exists.
    ///
    /// # Errors
    /// Why the file cannot be written under this name.
    pub(super) fn part(&self, name: &str) -> Result<Option<Part>, String> {
        let is_odd = |name: &str| name.contains(char::is_control) || name.len() > NAME_MAX;
        let mut names = Vec::new();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => names.push(part.to_str().unwrap_or_default()),
                Component::CurDir => {}
                Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                    return Err("its name leads out of the folder: not downloaded".to_owned());
                }
            }
        }
        let Some(name) = names.pop() else { return Err("it has no name: not downloaded".to_owned()) };
        if is_odd(name) || names.iter().any(|name| is_odd(name)) {
            return Err("its name is too long or has control characters: not downloaded".to_owned());
        }
        let mut folder = self.0.try_clone().map_err(|error| error.to_string())?;
        for name in names {
            match mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(problem(error)),
            }
            folder = openat(&folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(problem)?;
        }
        Part::open(folder, name)
    }
}

fn problem(error: Errno) -> String {
    match error {
        Errno::LOOP | Errno::NOTDIR => {
            "a link or a file is in its way in the folder: not downloaded".to_owned()
        }
        error => format!("cannot be written: {error}"),
    }
}

/// A file that is not complete yet, `NAME.part`.
pub(super) struct Part {
    folder: OwnedFd,
    name: String,
    /// Open for writing.
    pub(super) file: File,
}

impl Part {
    fn open(folder: OwnedFd, name: &str) -> Result<Option<Self>, String> {
        // With NONBLOCK, opening a pipe does not wait.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let part = part_name(name);
        let file = openat(&folder, &part, flags, Mode::from_raw_mode(0o666)).map_err(problem)?;
        let found = fstat(&file).map_err(problem)?;
        // A file with several hard links may be one outside the folder.
        if !FileType::from_raw_mode(found.st_mode).is_file() || found.st_nlink > 1 {
            return Err(format!("{part} in the folder is no plain file: not downloaded"));
        }
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(format!("another ocps is writing {part}: not downloaded"));
        }
        let part = Self { folder, name: name.to_owned(), file: file.into() };
        match statat(&part.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Some(part)),
            Err(error) => Err(problem(error)),
            Ok(_) => part.remove().map(|()| None),
        }
    }

    /// The size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |found| found.len())
    }

    /// The byte from which on the file is to be requested: some before the end of the part.
    pub(super) fn overlap_at(&self) -> u64 {
        self.len().saturating_sub(OVERLAP)
    }

    /// Whether the file, read from that byte on, begins as the part ends. Afterwards `rest` is at the end of the part.
    pub(super) fn goes_on_with(&mut self, rest: &mut dyn Read) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(self.overlap_at()))?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        self.file.read_to_end(&mut ours)?;
        rest.take(ours.len() as u64).read_to_end(&mut theirs)?;
        Ok(ours == theirs)
    }

    /// Empties the part.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Gives the complete file its name.
    pub(super) fn finish(self) -> Result<(), String> {
        let (folder, part) = (&self.folder, part_name(&self.name));
        self.file.sync_data().map_err(|error| format!("cannot be written: {error}"))?;
        match renameat_with(folder, &part, folder, &self.name, RenameFlags::NOREPLACE) {
            // Not all file systems can refuse to replace a file; that there is none was checked before.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(folder, &part, folder, &self.name),
            renamed => renamed,
        }
        .map_err(problem)
    }

    /// Removes the part.
    pub(super) fn remove(self) -> Result<(), String> {
        unlinkat(&self.folder, part_name(&self.name), AtFlags::empty()).map_err(problem)
    }
}

fn part_name(name: &str) -> String {
    format!("{name}.part")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_hostile_file_name_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("in")).unwrap();
        symlink("..", place.path().join("in/up")).unwrap();
        symlink("../x", place.path().join("in/link.part")).unwrap();
        fs::write(place.path().join("y"), "mine").unwrap();
        fs::hard_link(place.path().join("y"), place.path().join("in/hard.part")).unwrap();
        fs::create_dir(place.path().join("in/folder.part")).unwrap();
        rustix::fs::mknodat(CWD, place.path().join("in/pipe.part"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let long = "x".repeat(251);
        for (name, problem) in [
            ("../x", "leads out"),
            ("a/../../x", "leads out"),
            ("/etc/passwd", "leads out"),
            ("..", "leads out"),
            (".", "no name"),
            ("", "no name"),
            ("a\n", "control characters"),
            ("a\0b", "control characters"),
            ("a\u{9b}/b", "control characters"),
            (&long, "too long"),
            ("up/x", "a link or a file is in its way"),
            ("y/x/", "a link"),
            ("link", "a link or a file is in its way"),
            ("hard", "hard.part in the folder is no plain file"),
            ("pipe", "is no plain file"),
            ("folder", "cannot be written: Is a directory"),
        ] {
            if name == "y/x/" {
                fs::write(place.path().join("in/y"), "").unwrap();
            }
            match folder.part(name) {
                Err(reason) => assert!(reason.contains(problem), "{name:?}: {reason}"),
                Ok(_) => panic!("{name:?} is taken"),
            }
        }
        assert_eq!(names(place.path()), ["in", "y"]);
        assert_eq!(fs::read_to_string(place.path().join("y")).unwrap(), "mine");
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_complete_and_never_replaces_another() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let mut part = folder.part("sub/a").unwrap().unwrap();
        part.file.write_all(b"half").unwrap();
        assert!(folder.part("sub/a").err().unwrap().contains("another ocps is writing a.part"));
        drop(part);
        assert_eq!(names(&place.path().join("sub")), ["a.part"]);

        let mut part = folder.part("sub/a").unwrap().unwrap();
        assert_eq!((part.len(), part.overlap_at()), (4, 0));
        assert!(!part.goes_on_with(&mut &b"other"[..]).unwrap());
        let mut rest = &b"half a file"[..];
        assert!(part.goes_on_with(&mut rest).unwrap());
        part.file.write_all(rest).unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read_to_string(place.path().join("sub/a")).unwrap(), "half a file");
        assert!(folder.part("sub/a").unwrap().is_none());
        assert_eq!(names(&place.path().join("sub")), ["a"]);

        let mut part = folder.part("b").unwrap().unwrap();
        part.file.write_all(b"x").unwrap();
        part.restart().unwrap();
        symlink("/no/such", place.path().join("b")).unwrap();
        assert!(part.finish().unwrap_err().contains("File exists"));
    }
}
