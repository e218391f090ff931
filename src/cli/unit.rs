//! What `systemctl start` would run: the command line and the environment of the unit.
//!
//! systemctl knows them, drop-ins included. Only the environment files and passwords are read here, as systemd reads them.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::flags::Line;
use crate::config::check::Report;
use crate::csc::id::SalIndex;
use crate::daemon::options::RunArgs;

/// The files of the unit's passwords (`LoadCredential=`), and the variables that have the same effect.
const CREDENTIALS: [(&str, &str); 2] = [
    ("/etc/credstore/ocps.kafka-password", "LSST_KAFKA_SECURITY_PASSWORD"),
    ("/etc/credstore/ocps.redis-password", "REDIS_PASSWORD"),
];

/// A way to start the daemon.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// The flags and arguments of `ocps run`.
    pub(super) start: RunArgs,
    /// The environment of the daemon.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// The user of the daemon, if it is not the user of this process.
    pub(super) user: Option<String>,
    /// What is wrong with all this, under the command that starts the daemon.
    pub(super) report: Report,
}

impl Unit {
    /// `ocps run` in the environment of this process.
    pub(super) fn of_process(start: RunArgs) -> Self {
        let report = Report { path: "ocps run".into(), ..Report::default() };
        Self { start, environment: env::vars_os().collect(), user: None, report }
    }

    /// The unit `ocps@INDEX`, or `ocps` without an index, and its name; none if systemd has no such unit.
    pub(super) fn find(index: Option<SalIndex>) -> Option<(String, Self)> {
        let name = index.map_or("ocps".to_owned(), |index| format!("ocps@{}", index.number()));
        let shown = Command::new("systemctl")
            .args(["show", "--property=LoadState,User,ExecStart,Environment,EnvironmentFiles", &name])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        if property(&shown, "LoadState").next() != Some("loaded") {
            return None;
        }
        let user = property(&shown, "User").next().filter(|user| !user.is_empty() && !is_ours(user));
        let mut unit = Self { user: user.map(str::to_owned), ..Self::default() };
        unit.report.path = format!("systemctl start {name}").into();
        unit.read_command_line(&name, &shown);
        // The directories that systemd makes for the unit.
        let own = name.replace('@', "-");
        unit.set("CONFIGURATION_DIRECTORY", &format!("/etc/{own}"));
        unit.set("STATE_DIRECTORY", &format!("/var/lib/{own}"));
        unit.set("RUNTIME_DIRECTORY", &format!("/run/{own}"));
        for assignment in environment(&shown) {
            if let Some((name, value)) = assignment.split_once('=') {
                unit.set(name, value);
            }
        }
        for file in property(&shown, "EnvironmentFiles") {
            let (path, rest) = file.rsplit_once(" (").unwrap_or((file, ""));
            unit.read_variables(Path::new(path), rest.contains("ignore_errors=yes"));
        }
        unit.read_credentials();
        Some((name, unit))
    }

    fn read_command_line(&mut self, name: &str, shown: &str) {
        let argv = property(shown, "ExecStart").last().and_then(|start| {
            let (_, rest) = start.split_once("argv[]=")?;
            rest.split(" ; ").next()
        });
        let words: Vec<OsString> = argv.unwrap_or_default().split_whitespace().map(OsString::from).collect();
        let mut line = Line::default();
        let start = line.read(&words).and_then(|()| {
            if line.runs_the_daemon() {
                line.run_args()
            } else {
                Err("this does not run the daemon".to_owned())
            }
        });
        match start {
            Ok(start) => self.start = start,
            Err(problem) => self.report.add(format!("ExecStart of {name}: {problem}")),
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    fn read_variables(&mut self, path: &Path, may_be_missing: bool) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => return,
            Err(error) => return self.report.add(format!("{}: cannot be read: {error}", path.display())),
        };
        let plain = text.strip_prefix('\u{feff}');
        if plain.is_some() {
            let what = "begins with a byte order mark: remove it, systemd ignores the variable after it";
            self.report.add(format!("{}: {what}", path.display()));
        }
        for (number, line) in plain.unwrap_or(&text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) => self.set(name.trim_end(), unquoted(value.trim())),
                None => {
                    let place = format!("{}:{}", path.display(), number + 1);
                    self.report.add(format!("{place}: must be NAME=VALUE; systemd ignores this line"));
                }
            }
        }
    }

    fn read_credentials(&mut self) {
        for (path, variable) in CREDENTIALS {
            let password = match fs::read_to_string(path) {
                Ok(password) => password.trim_start_matches('\u{feff}').trim_end_matches('\n').to_owned(),
                // Without the right to read it, it is only known that there is a password.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "?".to_owned(),
                Err(_) => continue,
            };
            self.environment.entry(variable.into()).or_insert(password.into());
        }
    }

    /// A variable of the environment; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.get(OsStr::new(name)).filter(|value| !value.is_empty()).cloned()
    }
}

/// Whether this process runs as this user.
fn is_ours(user: &str) -> bool {
    let id = Command::new("id").args(["-u", user]).stderr(Stdio::null()).output();
    let id = id.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    id == Some(rustix::process::geteuid().as_raw())
}

/// The values of a property in the output of `systemctl show`, which has a line for each.
fn property<'a>(shown: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    shown.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The variables that the unit file sets, as `NAME=VALUE`.
fn environment(shown: &str) -> impl Iterator<Item = String> {
    property(shown, "Environment").flat_map(|line| shlex::split(line).unwrap_or_default())
}

/// A value without the quotes around it.
fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csc::state::SummaryState;

    fn problems(unit: &Unit) -> Vec<String> {
        unit.report.problems.iter().map(|problem| problem.to_string().replacen(": ", "", 1)).collect()
    }

    #[test]
    fn what_systemctl_shows_is_understood() {
        let shown = "LoadState=loaded\n\
            ExecStart={ path=/usr/bin/ocps ; argv[]=/usr/bin/ocps run 2 --state enabled ; ignore_errors=no ; pid=0 }\n\
            Environment=LSST_SITE=summit \"TWO=a b\"\n\
            EnvironmentFiles=/a/b.env (ignore_errors=yes)\nEnvironmentFiles=/c d.env (ignore_errors=no)\n";
        let mut unit = Unit::default();
        unit.read_command_line("ocps@2", shown);
        assert_eq!(unit.start.index, Some(SalIndex::LsstComCam));
        assert_eq!(unit.start.goal.state, Some(SummaryState::Enabled));
        let set: Vec<String> = environment(shown).collect();
        assert_eq!(set, ["LSST_SITE=summit", "TWO=a b"]);
        assert_eq!(property(shown, "EnvironmentFiles").count(), 2);
        unit.read_command_line("ocps@2", "ExecStart={ argv[]=/usr/bin/ocps run --stat enabled ; x }\n");
        assert!(
            problems(&unit)[0].starts_with("ExecStart of ocps@2: unknown flag --stat"),
            "{:?}",
            problems(&unit)
        );
    }

    #[test]
    fn a_file_of_variables_is_read_as_systemd_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ocps.env");
        let text = "\u{feff}LSST_SITE=summit\n# a comment\n; another\n\nLSST_TOPIC_SUBNAME = 'sal'\nREDIS_PORT=\"1\"\nnonsense\n";
        fs::write(&path, text).unwrap();
        let mut unit = Unit::default();
        unit.read_variables(&path, true);
        unit.read_variables(&dir.path().join("none"), true);
        assert_eq!(unit.variable("LSST_SITE"), Some("summit".into()));
        assert_eq!(unit.variable("LSST_TOPIC_SUBNAME"), Some("sal".into()));
        assert_eq!(unit.variable("REDIS_PORT"), Some("1".into()));
        assert_eq!(problems(&unit).len(), 2, "{:?}", problems(&unit));
        assert!(
            problems(&unit)[0].contains("byte order mark") && problems(&unit)[1].contains("ocps.env:7: ")
        );
        unit.read_variables(&dir.path().join("none"), false);
        assert!(problems(&unit)[2].contains("none: cannot be read"), "{:?}", problems(&unit));
    }
}
