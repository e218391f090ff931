//! Address and password of Redis: the environment wins over `ocps.toml`.
//!
//! Invariant: a [`Secret`] is never shown; it only goes to the server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::file;
use crate::config::secret::Secret;
use crate::config::settings;

/// Where Redis listens if nothing says where.
const DEFAULT_PORT: u16 = 6379;

/// Name of the credential that systemd may hand to us (`LoadCredential=redis-password:…`).
const CREDENTIAL: &str = "redis-password";

/// What the environment and the settings say. It may be incomplete or wrong: `start` checks it.
#[derive(Clone, Debug)]
pub struct Access {
    host: Option<String>,
    port: Result<u16, String>,
    /// The password from the environment.
    password: Option<Result<Secret, String>>,
    /// Without one there, it is read from this file at each connection, so that a new password needs no restart.
    password_file: Option<PathBuf>,
}

/// What a connection needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) password: Secret,
}

impl Access {
    /// Takes REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, else the settings; for the password also the credential
    /// of the service. A variable that is empty counts as not set.
    #[must_use]
    pub fn new(settings: &settings::Redis, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let host = set("REDIS_HOST").map(|host| host.to_string_lossy().into_owned());
        let port = match set("REDIS_PORT") {
            Some(port) => parse_port(&port.to_string_lossy()),
            None => Ok(settings.port.unwrap_or(DEFAULT_PORT)),
        };
        let secret = |password: OsString| match password.into_string() {
            Ok(password) => Ok(Secret(password)),
            Err(_) => Err("REDIS_PASSWORD is not UTF-8".to_owned()),
        };
        let credential = || {
            let dir = set("CREDENTIALS_DIRECTORY").map(PathBuf::from)?;
            Some(dir.join(CREDENTIAL)).filter(|path| path.exists())
        };
        Self {
            host: host.or_else(|| settings.host.clone()),
            port,
            password: set("REDIS_PASSWORD").map(secret),
            password_file: settings.password_file.clone().or_else(credential),
        }
    }

    /// `host:port`, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let host: String = self.host.as_deref().unwrap_or("?").escape_debug().collect();
        let port = self.port.as_ref().map_or("?".to_owned(), u16::to_string);
        // An IPv6 address needs brackets.
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether all is there that a connection needs.
    ///
    /// # Errors
    /// What is missing or wrong, and what to do, in one line.
    pub fn check(&self) -> Result<(), String> {
        self.target().map(drop)
    }

    /// All that a connection needs.
    ///
    /// # Errors
    /// What is missing or wrong, and what to do, in one line.
    pub(super) fn target(&self) -> Result<Target, String> {
        let host = self.host.clone().ok_or("no Redis host: set REDIS_HOST, or redis.host in ocps.toml")?;
        if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("Redis host {host:?} is not the name or address of a host"));
        }
        let port = self.port.clone()?;
        let file = || self.password_file.as_deref().map(read);
        let none = "no Redis password: set REDIS_PASSWORD, or redis.password_file in ocps.toml";
        let password = self.password.clone().or_else(file).ok_or(none)??;
        Ok(Target { host, port, password })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.trim().parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("REDIS_PORT must be a number from 1 to 65535, not {text:?}"))
}

fn read(path: &Path) -> Result<Secret, String> {
    let none =
        || format!("{}: no such file or nothing in it; it should hold the Redis password", path.display());
    file::password(path, "Redis")?.ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    const PASSWORD: &str = "hunter2-the-secret";

    fn access(toml: &settings::Redis, env: &[(&str, &str)]) -> Access {
        Access::new(toml, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    fn settings(change: impl Fn(&mut settings::Redis)) -> settings::Redis {
        let mut redis = Settings::default().redis;
        change(&mut redis);
        redis
    }

    #[test]
    fn the_environment_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
        let toml = settings(|redis| {
            redis.host = Some("toml".to_owned());
            redis.port = Some(7000);
            redis.password_file = Some(file.path().to_owned());
        });
        let target = access(&toml, &[]).target().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("toml", 7000));
        assert_eq!(target.password.0.as_bytes(), PASSWORD.as_bytes());
        let env = [("REDIS_HOST", "env"), ("REDIS_PORT", "8000"), ("REDIS_PASSWORD", "other")];
        let target = access(&toml, &env).target().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("env", 8000));
        assert_eq!(target.password.0.as_bytes(), b"other");
        // Set, but empty: as if it was not.
        let env = [("REDIS_HOST", ""), ("REDIS_PORT", ""), ("REDIS_PASSWORD", "")];
        assert_eq!(access(&toml, &env).target().unwrap().host, "toml");
    }

    #[test]
    fn a_credential_of_the_service_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let env = [("REDIS_HOST", "h"), ("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())];
        assert!(access(&settings(|_| {}), &env).target().unwrap_err().contains("no Redis password"));
        std::fs::write(dir.path().join(CREDENTIAL), PASSWORD).unwrap();
        let target = access(&settings(|_| {}), &env).target().unwrap();
        assert_eq!((target.port, target.password.0.as_bytes()), (6379, PASSWORD.as_bytes()));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let (empty, two) = (write("empty", "\n"), write("two", "hunter2-the-secret\nx\n"));
        let with = |file: PathBuf| settings(|redis| redis.password_file = Some(file.clone()));
        let plain = settings(|_| {});
        let host = ("REDIS_HOST", "h");
        let password = ("REDIS_PASSWORD", PASSWORD);
        for (toml, env, expected) in [
            (&plain, vec![password], "no Redis host: set REDIS_HOST, or redis.host in ocps.toml"),
            (
                &plain,
                vec![host],
                "no Redis password: set REDIS_PASSWORD, or redis.password_file in ocps.toml",
            ),
            (
                &plain,
                vec![host, password, ("REDIS_PORT", "x")],
                "REDIS_PORT must be a number from 1 to 65535",
            ),
            (&plain, vec![host, password, ("REDIS_PORT", "0")], "not \"0\""),
            (&plain, vec![host, password, ("REDIS_PORT", "65536")], "not \"65536\""),
            (&plain, vec![("REDIS_HOST", "a b"), password], "Redis host \"a b\" is not the name"),
            (&with(dir.path().join("none")), vec![host], "none: no such file"),
            (&with(dir.path().to_owned()), vec![host], "is a directory"),
            (&with(empty), vec![host], "empty: no such file or nothing in it"),
            (&with(two), vec![host], "two: must be one line"),
        ] {
            let reason = access(toml, &env).target().unwrap_err();
            assert!(reason.contains(expected), "{reason}");
            assert!(!reason.contains('\n') && !reason.contains(PASSWORD), "{reason}");
        }
    }

    #[test]
    fn nothing_shows_the_password() {
        let access = access(&settings(|_| {}), &[("REDIS_HOST", "::1"), ("REDIS_PASSWORD", PASSWORD)]);
        let shown = format!("{access:?} {:#?} {:?} {}", access, access.target(), access.shown());
        assert!(!shown.contains("hunter2") && shown.contains("(not shown)"), "{shown}");
        // Not as numbers either.
        assert!(!shown.contains("104, 117"), "{shown}");
        assert_eq!(access.shown(), "[::1]:6379");
    }
}
