//! Where the local socket is: one answer for the daemon that makes it and for the clients that look for it.
//!
//! Knows no socket and no file: it only puts names together. The environment is an argument.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::csc::id::SalIndex;

/// Environment variable with the path of the socket.
pub const VARIABLE: &str = "OCPS_SOCKET";

/// File name of the socket in its directory.
const FILE: &str = "ocps.sock";

/// Who runs this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Uses `/run`.
    Root,
    /// Uses `$XDG_RUNTIME_DIR`.
    Other,
}

impl User {
    /// The user of this process.
    #[must_use]
    pub fn current() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::Other }
    }
}

/// Paths that a client tries, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// Somebody named this one, and meant it.
    Named(PathBuf),
    /// The usual places.
    Usual(Vec<PathBuf>),
}

/// The path at which the daemon listens.
///
/// In this order: `flag` (`--socket`), `OCPS_SOCKET`, `setting` (the toml's), `$RUNTIME_DIRECTORY` as systemd
/// sets it, and for root `/run/ocps/ocps.sock`, for others `$XDG_RUNTIME_DIR/ocps/ocps.sock`.
///
/// # Errors
/// When none of these is set; one line that says what to set.
pub fn of_daemon(
    flag: Option<&Path>,
    setting: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
    user: User,
) -> Result<PathBuf, String> {
    if let Some(path) = named(flag, setting, env) {
        return Ok(path);
    }
    let runtime_directories = set(env, "RUNTIME_DIRECTORY");
    if let Some(first) = runtime_directories.as_deref().and_then(first_of_list) {
        return Ok(first.join(FILE));
    }
    match user {
        User::Root => Ok(system("ocps")),
        User::Other => of_user("ocps", env).ok_or_else(|| {
            format!(
                "no place for the socket: XDG_RUNTIME_DIR is not set; give --socket PATH or set {VARIABLE}"
            )
        }),
    }
}

/// The paths at which a client looks for a daemon.
///
/// A path that somebody named is the only one. Otherwise a user's own daemon comes before the system's, and
/// with an index the instance of that index (`ocps-2`, of the service `ocps@2`) before the plain one.
#[must_use]
pub fn of_client(
    flag: Option<&Path>,
    setting: Option<&Path>,
    index: Option<SalIndex>,
    env: &dyn Fn(&str) -> Option<OsString>,
    user: User,
) -> Candidates {
    if let Some(path) = named(flag, setting, env) {
        return Candidates::Named(path);
    }
    let instance = index.map(|index| format!("ocps-{}", index.number()));
    let mut paths = Vec::new();
    for directory in instance.iter().map(String::as_str).chain(["ocps"]) {
        if user == User::Other {
            paths.extend(of_user(directory, env));
        }
        paths.push(system(directory));
    }
    Candidates::Usual(paths)
}

fn named(
    flag: Option<&Path>,
    setting: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    flag.map(Path::to_owned).or_else(|| set(env, VARIABLE)).or_else(|| setting.map(Path::to_owned))
}

/// A variable that is set and not empty.
fn set(env: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// systemd joins several directories with colons.
fn first_of_list(list: &Path) -> Option<&Path> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let first = list.as_os_str().as_bytes().split(|byte| *byte == b':').find(|item| !item.is_empty())?;
    Some(Path::new(OsStr::from_bytes(first)))
}

fn system(directory: &str) -> PathBuf {
    Path::new("/run").join(directory).join(FILE)
}

fn of_user(directory: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    set(env, "XDG_RUNTIME_DIR").map(|runtime| runtime.join(directory).join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        }
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
        let check = |found: Result<PathBuf, String>, path: &str| assert_eq!(found, Ok(path.into()));
        check(of_daemon(flag, setting, &all, User::Other), "/flag");
        check(of_daemon(None, setting, &all, User::Other), "/env");
        check(of_daemon(None, setting, &unit, User::Root), "/toml");
        check(of_daemon(None, None, &unit, User::Root), "/run/ocps-2/ocps.sock");
        check(of_daemon(None, None, &user, User::Other), "/run/user/7/ocps/ocps.sock");
        check(of_daemon(None, None, &user, User::Root), "/run/ocps/ocps.sock");
        let error = of_daemon(None, None, &env(&[]), User::Other).unwrap_err();
        assert!(error.contains("XDG_RUNTIME_DIR") && error.contains("--socket"), "{error}");
    }

    #[test]
    fn a_client_looks_where_a_daemon_may_be() {
        let user = env(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/not/for/clients")]);
        let check = |index, user, variables: &dyn Fn(&str) -> Option<OsString>, paths: &[&str]| {
            let expected = Candidates::Usual(paths.iter().map(PathBuf::from).collect());
            assert_eq!(of_client(None, None, index, variables, user), expected);
        };
        check(None, User::Root, &user, &["/run/ocps/ocps.sock"]);
        check(None, User::Other, &env(&[]), &["/run/ocps/ocps.sock"]);
        check(None, User::Other, &user, &["/run/user/7/ocps/ocps.sock", "/run/ocps/ocps.sock"]);
        let two = Some(SalIndex::LsstComCam);
        check(two, User::Root, &user, &["/run/ocps-2/ocps.sock", "/run/ocps/ocps.sock"]);
        let both = [
            "/run/user/7/ocps-2/ocps.sock",
            "/run/ocps-2/ocps.sock",
            "/run/user/7/ocps/ocps.sock",
            "/run/ocps/ocps.sock",
        ];
        check(two, User::Other, &user, &both);
    }

    #[test]
    fn a_path_that_somebody_named_is_the_only_one() {
        let variables = env(&[("OCPS_SOCKET", "/env")]);
        let (flag, setting) = (Some(Path::new("/flag")), Some(Path::new("/toml")));
        let check = |found, path: &str| assert_eq!(found, Candidates::Named(path.into()));
        check(of_client(flag, setting, None, &variables, User::Root), "/flag");
        check(of_client(None, setting, None, &variables, User::Root), "/env");
        check(of_client(None, setting, None, &env(&[]), User::Root), "/toml");
    }
}
