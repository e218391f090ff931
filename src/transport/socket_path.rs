//! The path of the local socket, decided in one place for the daemon that makes it and the clients that connect to it.
//!
//! The environment is an argument. Where everybody may write, as in `/tmp`, another user may have made something with the
//! name of our private directory: their own directory, or a link to one of ours. Neither is used.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::csc::id::SalIndex;

/// Looks up a variable of the environment.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Environment variable with the path of the socket.
pub const VARIABLE: &str = "OCPS_SOCKET";

/// File name of the socket in its directory.
const FILE: &str = "ocps.sock";

/// The permissions of others in the mode of a directory.
const OF_OTHERS: u32 = 0o077;

/// A place for the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path that was named: no other is tried.
    Named(PathBuf),
    /// In a directory where only root or the user can make files.
    Runtime(PathBuf),
    /// In a private directory below one where everybody may make files, so that its owner must be checked.
    Temporary(PathBuf),
}

impl Place {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::Runtime(path) | Self::Temporary(path) => path,
        }
    }

    /// Makes the private directory, if the place needs one.
    ///
    /// # Errors
    /// The directory cannot be made, or others can use it.
    pub fn prepare(&self) -> io::Result<()> {
        let Some(dir) = self.private_dir() else { return Ok(()) };
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => self.check(),
        }
    }

    /// Checks that only we can use the private directory, if the place needs one. In a directory with the sticky bit that
    /// cannot change later.
    ///
    /// # Errors
    /// The directory is missing, or others can use it.
    pub fn check(&self) -> io::Result<()> {
        let Some(dir) = self.private_dir() else { return Ok(()) };
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

    fn private_dir(&self) -> Option<&Path> {
        if let Self::Temporary(path) = self { path.parent() } else { None }
    }
}

/// The paths at which the daemon tries to listen; the first usable one is taken.
///
/// The first of these that is set is the only one: `flag` (`--socket`), `OCPS_SOCKET`, `setting` (of the toml),
/// `$RUNTIME_DIRECTORY` (of systemd). Otherwise for root (user 0) `/run/ocps/ocps.sock`, for others
/// `$XDG_RUNTIME_DIR/ocps/ocps.sock`, and where that is not usable, as in a container, `ocps-<uid>/ocps.sock` in
/// `$TMPDIR` or `/tmp`.
pub fn of_daemon(flag: Option<&Path>, setting: Option<&Path>, env: Env<'_>, uid: u32) -> Vec<Place> {
    if let Some(path) = named(flag, setting, env) {
        return vec![path];
    }
    // systemd joins several with colons.
    let directories = env("RUNTIME_DIRECTORY").unwrap_or_default();
    if let Some(first) = env::split_paths(&directories).find(|dir| !dir.as_os_str().is_empty()) {
        return vec![Place::Named(first.join(FILE))];
    }
    let runtime = if uid == 0 { Some(system("ocps")) } else { of_user("ocps", env) };
    runtime.into_iter().chain(temporary(env, uid)).collect()
}

/// The paths at which a client tries to reach a daemon.
///
/// A path that was named is the only one. Otherwise a user's own daemon comes before the system's, and
/// with an index the instance of that index (`ocps-2`, of the service `ocps@2`) before the plain one.
pub fn of_client(
    flag: Option<&Path>,
    setting: Option<&Path>,
    index: Option<SalIndex>,
    env: Env<'_>,
    uid: u32,
) -> Vec<Place> {
    if let Some(path) = named(flag, setting, env) {
        return vec![path];
    }
    let own = |directory: &str| if uid == 0 { None } else { of_user(directory, env) };
    let mut places = Vec::new();
    if let Some(instance) = index.map(|index| format!("ocps-{}", index.number())) {
        places.extend(own(&instance));
        places.push(system(&instance));
    }
    places.extend(own("ocps"));
    let mut others = temporary(env, uid);
    others.insert(if uid == 0 { 0 } else { others.len() }, system("ocps"));
    places.extend(others);
    places
}

fn named(flag: Option<&Path>, setting: Option<&Path>, env: Env<'_>) -> Option<Place> {
    let path = flag.map(Path::to_owned).or_else(|| set(env, VARIABLE));
    path.or_else(|| setting.map(Path::to_owned)).map(Place::Named)
}

/// A variable that is set and not empty.
fn set(env: Env<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn system(directory: &str) -> Place {
    Place::Runtime(Path::new("/run").join(directory).join(FILE))
}

fn of_user(directory: &str, env: Env<'_>) -> Option<Place> {
    set(env, "XDG_RUNTIME_DIR").map(|runtime| Place::Runtime(runtime.join(directory).join(FILE)))
}

fn temporary(env: Env<'_>, uid: u32) -> Vec<Place> {
    let private = format!("ocps-{}", uid);
    let usual = PathBuf::from("/tmp");
    // A relative path would name another directory in each process.
    let chosen = set(env, "TMPDIR").filter(|dir| dir.is_absolute() && *dir != usual);
    chosen.into_iter().chain([usual]).map(|dir| Place::Temporary(dir.join(&private).join(FILE))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn env(variables: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        }
    }

    const ROOT: u32 = 0;
    const OTHER: u32 = 7;

    /// Temporary ones begin with a question mark.
    fn usual(paths: &[&str]) -> Vec<Place> {
        let place = |path: &&str| match path.strip_prefix('?') {
            Some(path) => Place::Temporary(path.into()),
            None => Place::Runtime(path.into()),
        };
        paths.iter().map(place).collect()
    }

    #[test]
    fn the_daemon_takes_the_first_that_is_set() {
        let all = env(&[
            ("OCPS_SOCKET", "/env"),
            ("RUNTIME_DIRECTORY", "/run/ocps-2:/run/other"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ]);
        let unit = env(&[("OCPS_SOCKET", ""), ("RUNTIME_DIRECTORY", "/run/ocps-2:/run/other")]);
        let user = env(&[("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        let flag = Some(Path::new("/flag"));
        let setting = Some(Path::new("/toml"));
        let one = |found: Vec<Place>, path: &str| assert_eq!(found, [Place::Named(path.into())]);
        one(of_daemon(flag, setting, &all, OTHER), "/flag");
        one(of_daemon(None, setting, &all, OTHER), "/env");
        one(of_daemon(None, setting, &unit, ROOT), "/toml");
        one(of_daemon(None, None, &unit, ROOT), "/run/ocps-2/ocps.sock");
        let check = |user, variables: &dyn Fn(&str) -> Option<OsString>, paths: &[&str]| {
            assert_eq!(of_daemon(None, None, variables, user), usual(paths));
        };
        check(OTHER, &user, &["/run/user/7/ocps/ocps.sock", "?/tmp/ocps-7/ocps.sock"]);
        check(ROOT, &user, &["/run/ocps/ocps.sock", "?/tmp/ocps-0/ocps.sock"]);
        check(OTHER, &env(&[]), &["?/tmp/ocps-7/ocps.sock"]);
        let both = ["?/scratch/ocps-7/ocps.sock", "?/tmp/ocps-7/ocps.sock"];
        check(OTHER, &env(&[("TMPDIR", "/scratch")]), &both);
        for odd in [env(&[("TMPDIR", "")]), env(&[("TMPDIR", "here")]), env(&[("TMPDIR", "/tmp/")])] {
            check(OTHER, &odd, &["?/tmp/ocps-7/ocps.sock"]);
        }
    }

    #[test]
    fn a_client_tries_all_places_of_a_daemon() {
        let user = env(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/not/for/clients")]);
        let check = |index, user, variables: &dyn Fn(&str) -> Option<OsString>, paths: &[&str]| {
            assert_eq!(of_client(None, None, index, variables, user), usual(paths));
        };
        let (run, tmp) = ("/run/ocps/ocps.sock", "?/tmp/ocps-7/ocps.sock");
        check(None, ROOT, &user, &[run, "?/tmp/ocps-0/ocps.sock"]);
        check(None, OTHER, &env(&[]), &[tmp, run]);
        check(None, OTHER, &user, &["/run/user/7/ocps/ocps.sock", tmp, run]);
        check(None, OTHER, &env(&[("TMPDIR", "/scratch")]), &["?/scratch/ocps-7/ocps.sock", tmp, run]);
        let two = Some(SalIndex::LsstComCam);
        check(two, ROOT, &user, &["/run/ocps-2/ocps.sock", run, "?/tmp/ocps-0/ocps.sock"]);
        let all =
            ["/run/user/7/ocps-2/ocps.sock", "/run/ocps-2/ocps.sock", "/run/user/7/ocps/ocps.sock", tmp, run];
        check(two, OTHER, &user, &all);
    }

    #[test]
    fn a_path_that_was_named_is_the_only_one() {
        let variables = env(&[("OCPS_SOCKET", "/env")]);
        let (flag, setting) = (Some(Path::new("/flag")), Some(Path::new("/toml")));
        let check = |found: Vec<Place>, path: &str| assert_eq!(found, [Place::Named(path.into())]);
        check(of_client(flag, setting, None, &variables, ROOT), "/flag");
        check(of_client(None, setting, None, &variables, ROOT), "/env");
        check(of_client(None, setting, None, &env(&[]), ROOT), "/toml");
    }

    #[test]
    fn only_a_directory_of_our_own_is_used() {
        let parent = tempfile::tempdir().unwrap();
        let make = |dir: &Path| Place::Temporary(dir.join(FILE)).prepare();
        let path = parent.path().join("ours");
        assert_eq!(Place::Temporary(path.join(FILE)).check().unwrap_err().kind(), ErrorKind::NotFound);
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
