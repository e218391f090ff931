//! The daemon's own settings: `ocps.toml`.
//!
//! Invariant: a [`Settings`] is complete and sound; every value in it was checked when it was read, and a key that
//! we do not know is an error.

mod value;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::csc::id::SalIndex;

use super::{Error, Place, file, position, quoted, suggestion};
use crate::url::Url;
use wire::Wire;

/// Read when no other file is named, if it exists.
pub const DEFAULT_PATH: &str = "/etc/ocps/ocps.toml";

/// Most mistakes that are reported of one file.
const MAX_PROBLEMS: usize = 100;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Our directories of configuration as systemd sets them (`ConfigurationDirectory=`): for `ocps@2` it is
/// `/etc/ocps-2`. What is not there is taken from the usual places.
pub(super) fn unit_directories(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let list = env("CONFIGURATION_DIRECTORY").unwrap_or_default();
    std::env::split_paths(&list).filter(|dir| !dir.as_os_str().is_empty()).collect()
}

/// The toml of the unit that systemd runs us as, if it has one of its own.
#[must_use]
pub fn of_unit(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    unit_directories(env).into_iter().map(|dir| dir.join("ocps.toml")).find(|path| path.exists())
}

/// All settings of the daemon, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Our index, when the command line names none.
    pub index: Option<SalIndex>,
    /// Site, for `_<site>.yaml`.
    pub site: Option<String>,
    /// Directory of the component configuration.
    pub config_dir: Option<PathBuf>,
    /// Path of the local socket.
    pub socket: Option<PathBuf>,
    /// Directory of what must survive a restart.
    pub state_dir: Option<PathBuf>,
    /// Whether commands are journaled there.
    pub journal: bool,
    /// For how long commands that ended are remembered.
    pub history: Duration,
    /// The log.
    pub log: Log,
    /// The execution service.
    pub uws: Uws,
    /// Redis, for Rapid Analysis.
    pub redis: Redis,
    /// The simulator.
    pub simulation: Simulation,
    /// SAL over Kafka.
    pub kafka: Kafka,
    /// TAI minus UTC, in seconds, where the kernel does not know it.
    pub tai_minus_utc_s: u32,
    /// Most jobs at once.
    pub max_jobs: usize,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least level that is logged, Python's number (10, 20, 30, 40).
    pub level: i32,
    /// Write the log there instead of standard error.
    pub file: Option<PathBuf>,
}

/// `[uws]`: how to talk to the execution service, and what to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Uws {
    /// Shell command of every job.
    pub command: String,
    /// Repository of the job scripts.
    pub source_url: String,
    /// Branch, tag or commit of the job scripts.
    pub commit_ref: String,
    /// Whether the version of an execute chooses the container image (`UWS_JOB_IMAGE_TAG`).
    pub version_selects_image: bool,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest PUT.
    pub put_timeout: Duration,
    /// Longest GET of one job.
    pub get_timeout: Duration,
    /// Longest GET of the list of all jobs.
    pub list_timeout: Duration,
    /// Longest DELETE.
    pub delete_timeout: Duration,
    /// How long a submission is tried, from its first failed or unclear attempt; the last attempt may be made then.
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    pub settle_time: Duration,
    /// How old the record of a submission in doubt may be for it to be sent again.
    pub resubmit_limit: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    pub outage_limit: Duration,
    /// Polls at the same time (worker threads).
    pub connections: usize,
    /// HTTP proxy, if any.
    pub proxy: Option<Url>,
}

/// `[redis]`: the Redis server of Rapid Analysis. The environment wins over host, port and password.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Its host.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// File that holds its password.
    pub password_file: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for an answer.
    pub response_timeout: Duration,
}

/// `[simulation]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulation {
    /// Mean duration of a simulated job.
    pub mean_duration: Duration,
    /// Standard deviation of the duration.
    pub sigma: Duration,
    /// Seed of the durations; none: another one at each start.
    pub seed: Option<u64>,
}

/// `[kafka]`, as far as it is set; [`super::kafka`] adds the environment and the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kafka {
    /// `HOST:PORT`, several joined with commas.
    pub brokers: Option<String>,
    /// The second word of all topic names, `sal` in `lsst.sal.OCPS.ackcmd`.
    pub topic_subname: Option<String>,
    /// URLs of the schema registry, to be tried in this order.
    pub schema_registry_url: Option<Vec<Url>>,
    /// Name to authenticate with.
    pub username: Option<String>,
    /// Password to authenticate with.
    pub password: Option<Secret>,
    /// `SASL_PLAINTEXT` or `SASL_SSL`.
    pub security_protocol: Option<String>,
    /// For example `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// Replication factor of topics that we create.
    pub replication_factor: Option<usize>,
    /// What the broker confirms: `0`, `1` or `all`.
    pub producer_acks: Option<String>,
    /// YAML mapping of more librdkafka settings for all clients.
    pub broker_client_configuration: Option<PathBuf>,
    /// YAML mapping of more librdkafka settings for the consumer.
    pub consumer_configuration: Option<PathBuf>,
    /// YAML mapping of more librdkafka settings for the producer.
    pub producer_configuration: Option<PathBuf>,
    /// How long the start waits for Kafka before it goes on without.
    pub start_timeout: Option<Duration>,
    /// How long the start waits for another instance to end.
    pub start_wait: Option<Duration>,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            index: None,
            site: None,
            config_dir: None,
            socket: None,
            state_dir: None,
            journal: true,
            history: 30 * DAY,
            log: Log { level: 20, file: None },
            uws: Uws {
                command: "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh".into(),
                source_url: "https://github.com/lsst-dm/uws_scripts".into(),
                commit_ref: "main".into(),
                version_selects_image: false,
                connect_timeout: Duration::from_secs(5),
                put_timeout: Duration::from_secs(30),
                get_timeout: Duration::from_secs(30),
                list_timeout: Duration::from_secs(120),
                delete_timeout: Duration::from_secs(30),
                submit_timeout: Duration::from_secs(60),
                settle_time: Duration::from_secs(30),
                resubmit_limit: Duration::from_secs(1800),
                outage_limit: Duration::from_secs(300),
                connections: 4,
                proxy: None,
            },
            redis: Redis {
                host: None,
                port: None,
                password_file: None,
                connect_timeout: Duration::from_secs(2),
                response_timeout: Duration::from_secs(2),
            },
            simulation: Simulation {
                mean_duration: Duration::from_secs(10),
                sigma: Duration::from_secs(4),
                seed: None,
            },
            kafka: Kafka::default(),
            tai_minus_utc_s: crate::clock::TAI_MINUS_UTC_S,
            max_jobs: 1000,
        }
    }
}

impl Settings {
    /// Reads the settings from a file, which must exist; without a path from [`DEFAULT_PATH`], if that exists.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing that is wrong in it and what is allowed there.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        Self::load_with_keys(path).map(|(settings, _)| settings)
    }

    /// Reads them like [`Settings::load`], and the keys that the file gives.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing that is wrong in it and what is allowed there.
    pub fn load_with_keys(path: Option<&Path>) -> Result<(Self, Keys), Error> {
        let text = Self::text(path)?;
        let (settings, problems) = Self::parse(&text, path.unwrap_or(Path::new(DEFAULT_PATH)));
        problems.into_iter().next().map_or_else(|| Ok((settings, Keys::of(&text))), Err)
    }

    /// Reads them like [`Settings::load`], but goes on after a mistake: all that is wrong, and the settings as they
    /// are without those keys.
    #[must_use]
    pub fn examine(path: Option<&Path>) -> (Self, Vec<Error>) {
        match Self::text(path) {
            Ok(text) => Self::parse(&text, path.unwrap_or(Path::new(DEFAULT_PATH))),
            Err(problem) => (Self::default(), vec![problem]),
        }
    }

    /// The text of the file; nothing if none is named and the usual one does not exist.
    fn text(path: Option<&Path>) -> Result<String, Error> {
        let read = file::read(path.unwrap_or(Path::new(DEFAULT_PATH)))?;
        match (read, path) {
            (Some(text), _) => Ok(text),
            (None, None) => Ok(String::new()),
            (None, Some(path)) => {
                Err(Error::in_file(path, "no such file; name an existing ocps.toml, or none"))
            }
        }
    }

    /// Parses the text of an `ocps.toml`; `path` is for errors.
    fn parse(text: &str, path: &Path) -> (Self, Vec<Error>) {
        let mut table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(e) => {
                let place = place(path, text, e.span().map(|s| s.start));
                let problem = Error::at(place, format!("not valid TOML: {}", e.message()));
                return (Self::default(), vec![problem]);
            }
        };
        let mut problems = Vec::new();
        while problems.len() < MAX_PROBLEMS {
            let error = match Wire::deserialize(toml::de::Deserializer::from(table.clone())) {
                Ok(wire) => {
                    problems.sort_by_key(|problem: &Error| problem.place.as_ref().and_then(|p| p.position));
                    return (wire.into_settings(), problems);
                }
                Err(error) => error,
            };
            problems.push(explain(&error, table.get_ref(), text, path));
            // serde stops at the first mistake; without it the next one shows.
            let found = error.span().is_some_and(|span| remove_at(table.get_mut(), span.start));
            if !found {
                break;
            }
        }
        (Self::default(), problems)
    }
}

/// The keys that a toml gives, with their values as text: to find out what changed in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, String>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secret.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Keys {
    /// Those of a text; none of one that is no TOML.
    fn of(text: &str) -> Self {
        let mut keys = BTreeMap::new();
        for (name, value) in text.parse::<toml::Table>().unwrap_or_default() {
            if let toml::Value::Table(section) = value {
                keys.extend(section.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())));
            } else {
                keys.insert(name, value.to_string());
            }
        }
        Self(keys)
    }

    /// The names of keys that are given in one of the two only, or with another value.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect()
    }
}

/// Whether a site's name can be part of a file name.
pub(super) fn is_site(text: &str) -> bool {
    const LONGEST: usize = 64;
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn place(path: &Path, text: &str, offset: Option<usize>) -> Place {
    Place { file: path.display().to_string(), position: offset.map(|offset| position(text, offset)) }
}

/// Turns an error of serde into one that names the key.
fn explain(error: &toml::de::Error, table: &DeTable<'_>, text: &str, path: &Path) -> Error {
    let offset = error.span().map(|s| s.start);
    let place = place(path, text, offset);
    let key = offset.and_then(|offset| key_at(table, offset));
    let message = error.message();
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        // serde's text: unknown field `x`, expected one of `a`, `b`.
        let mut names = unknown.split('`').skip(1).step_by(2);
        let name = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let key = key.unwrap_or_else(|| name.to_owned());
        return Error::at(place, format!("unknown key {}{}", quoted(&key), suggestion(name, &known)));
    }
    match key {
        Some(key) if message.starts_with("must be ") => Error::at(place, format!("{key} {message}")),
        Some(key) => Error::at(place, format!("{key}: {message}")),
        None => Error::at(place, message),
    }
}

/// Removes the key that is, or whose value is, at a byte of the text; whether there is one.
fn remove_at(table: &mut DeTable<'_>, offset: usize) -> bool {
    let mut removed = false;
    for (_, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut() {
            removed |= remove_here(inner, offset);
        }
    }
    removed || remove_here(table, offset)
}

fn remove_here(table: &mut DeTable<'_>, offset: usize) -> bool {
    let at = |(key, value): &(&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        key.span().contains(&offset) || value.span().contains(&offset)
    };
    let key = table.iter().find(at).map(|(key, _)| key.clone());
    key.and_then(|key| table.remove(&key)).is_some()
}

/// The dotted name of the key that is, or whose value is, at a byte of the text.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    for (section, value) in table {
        if let DeValue::Table(inner) = value.get_ref() {
            let hit = inner.iter().find(|(k, v)| k.span().contains(&offset) || v.span().contains(&offset));
            if let Some((key, _)) = hit {
                return Some(format!("{}.{}", section.get_ref(), key.get_ref()));
            }
        }
        if section.span().contains(&offset) || value.span().contains(&offset) {
            return Some(section.get_ref().to_string());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../etc/ocps.toml");

    fn parse(text: &str) -> Result<Settings, String> {
        let (settings, problems) = Settings::parse(text, Path::new("o.toml"));
        problems.first().map_or(Ok(settings), |problem| Err(problem.to_string()))
    }

    /// The example with all keys in force, or only those for which `keep` holds.
    fn uncommented(keep: impl Fn(&str) -> bool) -> String {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
            // Prose has a blank after the '#', a key has none.
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => {
                if keep(rest) {
                    rest
                } else {
                    ""
                }
            }
            Some(_) | None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The keys that the parser knows in a section; the top has the empty name.
    fn known(section: &str) -> Vec<String> {
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let error = toml::from_str::<Wire>(&format!("{header}zzz = 1\n")).err().unwrap();
        error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    const SECTIONS: [&str; 6] = ["log", "uws", "redis", "simulation", "kafka", "limits"];

    #[test]
    fn the_example_is_all_comments_and_says_the_defaults() {
        assert_eq!(parse(EXAMPLE), Ok(Settings::default()));
        let without_default = [
            "index",
            "site",
            "config_dir",
            "socket",
            "state_dir",
            "file",
            "proxy",
            "seed",
            "brokers",
            "topic_subname",
            "schema_registry_url",
            "username",
            "password",
            "security_protocol",
            "sasl_mechanism",
            "replication_factor",
            "producer_acks",
            "broker_client_configuration",
            "consumer_configuration",
            "producer_configuration",
            "start_timeout_s",
            "start_wait_s",
            "host",
            "port",
            "password_file",
        ];
        let has_default = |line: &str| !without_default.iter().any(|k| line.starts_with(&format!("{k} =")));
        assert_eq!(parse(&uncommented(has_default)), Ok(Settings::default()));

        let all = parse(&uncommented(|_| true)).unwrap();
        assert!(all.index.is_some() && all.site.is_some() && all.config_dir.is_some());
        assert!(all.socket.is_some() && all.state_dir.is_some() && all.log.file.is_some());
        assert!(all.uws.proxy.is_some() && all.simulation.seed.is_some());
        assert!(all.kafka.brokers.is_some() && all.kafka.password.is_some());
        assert!(all.redis.host.is_some() && all.redis.port.is_some() && all.redis.password_file.is_some());
    }

    #[test]
    fn the_example_shows_every_key_that_the_parser_knows() {
        let all = uncommented(|_| true);
        let table: toml::Table = all.parse().unwrap();
        let top = known("");
        assert!(top.contains(&"index".to_owned()) && SECTIONS.iter().all(|s| top.contains(&(*s).to_owned())));
        for key in top {
            assert!(table.contains_key(&key), "{key} is not in etc/ocps.toml");
        }
        for section in SECTIONS {
            let keys = known(section);
            assert!(!keys.is_empty(), "{section}");
            for key in keys {
                assert!(table[section].get(&key).is_some(), "{section}.{key} is not in etc/ocps.toml");
            }
        }
    }

    #[test]
    fn values_are_read_with_their_units() {
        let text = "index = 'latiss'\nsite = 'summit'\nsocket = '/s'\nlog = {level = 'warning'}\n\
                    uws.connect_timeout_s = 0.5\nuws.get_timeout_s = 7\nuws.connections = 32\n\
                    uws.version_selects_image = true\nuws.proxy = 'http://me:pw@p:3128'\n\
                    simulation.mean_duration_s = 0\nsimulation.seed = 7\nlimits.jobs = 100000\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.index, Some(SalIndex::Latiss));
        assert_eq!(settings.log.level, 30);
        assert_eq!(settings.uws.connect_timeout, Duration::from_millis(500));
        assert_eq!(settings.uws.get_timeout, Duration::from_secs(7));
        assert_eq!((settings.uws.connections, settings.uws.version_selects_image), (32, true));
        assert_eq!(settings.uws.proxy, Some("http://me:pw@p:3128".into()));
        assert_eq!(settings.simulation.mean_duration, Duration::ZERO);
        assert_eq!((settings.simulation.seed, settings.max_jobs), (Some(7), 100_000));
        assert_eq!(parse("index = 101\n[log]\nlevel = 35").unwrap().log.level, 35);
    }

    #[test]
    fn errors_name_place_key_and_what_is_allowed() {
        let time = "must be a number of seconds, at least 0.001 and at most 604800, not";
        for (text, expected) in [
            ("\n[uws]\nget_timeout_s = -1\n", &*format!("o.toml:3:17: uws.get_timeout_s {time} -1")),
            ("[uws]\nget_timeout_s = nan", &format!("o.toml:2:17: uws.get_timeout_s {time} NaN")),
            ("[uws]\nget_timeout_s = inf", &format!("o.toml:2:17: uws.get_timeout_s {time} inf")),
            ("[uws]\nget_timeout_s = 1e300", "o.toml:2:17: uws.get_timeout_s must be a number of seconds"),
            ("[uws]\nget_timeout_s = 0", &format!("o.toml:2:17: uws.get_timeout_s {time} 0")),
            ("[uws]\nget_timeout_s = '5'", &format!("o.toml:2:17: uws.get_timeout_s {time} '5'")),
            (
                "[uws]\nget_timeout_s = [5]",
                &format!("o.toml:2:17: uws.get_timeout_s {time} a list, table or date"),
            ),
            ("[uws]\nget_timeout_s = 2026-01-01", "o.toml:2:17: uws.get_timeout_s must be"),
            ("uws.settle_time_s = 0", "o.toml:1:21: uws.settle_time_s must be"),
            ("uws = {command = ' '}", "o.toml:1:18: uws.command must be text that is not empty, not ' '"),
            ("[uws]\ncommand = 7", "o.toml:2:11: uws.command must be text that is not empty, not 7"),
            (
                "[uws]\nconnections = 33",
                "o.toml:2:15: uws.connections must be a whole number from 1 to 32, not 33",
            ),
            (
                "[uws]\nconnections = 1.0",
                "o.toml:2:15: uws.connections must be a whole number from 1 to 32, not 1",
            ),
            ("[uws]\nversion_selects_image = 1", "uws.version_selects_image must be true or false, not 1"),
            (
                "[uws]\nproxy = 'ftp://me:secret@h'",
                "o.toml:2:9: uws.proxy must be the URL of an HTTP proxy, http://HOST:PORT",
            ),
            ("[redis]\nport = 0", "o.toml:2:8: redis.port must be a port number from 1 to 65535, not 0"),
            (
                "[redis]\npassword = 'secret'",
                "o.toml:2:1: unknown key 'redis.password'; did you mean password_file?",
            ),
            ("[limits]\njobs = 0", "limits.jobs must be a whole number from 1 to 100000, not 0"),
            (
                "[simulation]\nsigma_s = -0.1",
                "simulation.sigma_s must be a number of seconds from 0 to 604800, not -0.1",
            ),
            ("[simulation]\nseed = -1", "simulation.seed must be a whole number from 0 on, not -1"),
            (
                "[log]\nlevel = 'loud'",
                "o.toml:2:9: log.level must be debug, info, warning or error, or a number from 10 to 40, not 'loud'",
            ),
            ("[log]\nlevel = 50", "log.level must be"),
            (
                "index = 4",
                "o.toml:1:9: index must be 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA), as number or name, not 4",
            ),
            ("site = '../x'", "o.toml:1:8: site must be a site name"),
            ("config_dir = ''", "o.toml:1:14: config_dir must be the path"),
            (
                "[uws]\nconect_timeout_s = 1",
                "o.toml:2:1: unknown key 'uws.conect_timeout_s'; did you mean connect_timeout_s?",
            ),
            ("[usw]\nx = 1", "o.toml:1:2: unknown key 'usw'; did you mean uws?"),
            ("uws = 3", "o.toml:1:7: uws: invalid type: integer `3`, expected a table"),
            ("[uws", "o.toml:1:5: not valid TOML: "),
            ("index = 1\nindex = 2", "o.toml:2:1: not valid TOML: "),
            ("x", "o.toml:1:"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn all_mistakes_are_found_and_the_other_keys_are_read() {
        let text = "indx = 1\nsite = 'base'\nsocket = 7\n[uws]\nconnections = 0\nget_timeout_s = 5\nproxi = 1\n\
                    [usw]\nx = 1\n[kafka]\nproducer_acks = 2\n";
        let (settings, problems) = Settings::parse(text, Path::new("o.toml"));
        let places: Vec<String> = problems.iter().map(|p| p.to_string()[..10].to_owned()).collect();
        assert_eq!(
            places,
            ["o.toml:1:1", "o.toml:3:1", "o.toml:5:1", "o.toml:7:1", "o.toml:8:2", "o.toml:11:"],
            "{problems:#?}"
        );
        assert_eq!(settings.site.as_deref(), Some("base"));
        assert_eq!(settings.uws.get_timeout, Duration::from_secs(5));
        let many: String = (0..1000).map(|i| format!("key{i} = 1\n")).collect();
        assert_eq!(Settings::parse(&many, Path::new("o.toml")).1.len(), MAX_PROBLEMS);
    }

    #[test]
    fn errors_of_kafka_name_the_key_and_show_no_secret() {
        for (text, expected) in [
            ("[kafka]\nproducer_acks = 2", "kafka.producer_acks must be 0, 1 or \"all\", not 2"),
            ("[kafka]\npassword = ['secret']", "kafka.password must be text that is not empty"),
            (
                "[kafka]\nschema_registry_url = 'secret'",
                "kafka.schema_registry_url must be http:// or https:// with a host",
            ),
            ("[kafka]\ntopic_subname = 'a b'", "kafka.topic_subname must be a word"),
            ("[kafka]\nbroker = 'x'", "unknown key 'kafka.broker'; did you mean brokers?"),
            ("tai_minus_utc_s = 101", "tai_minus_utc_s must be a whole number of seconds from 0 to 100"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text:?}: {error}");
        }
    }

    #[test]
    fn hostile_text_is_refused_quickly() {
        let started = std::time::Instant::now();
        let large = "x = 1\n".repeat(170_000);
        for text in
            ["x = ".to_owned() + &"[".repeat(1 << 20), "[".repeat(1 << 20), "a.".repeat(1 << 19), large]
        {
            let error = parse(&text).unwrap_err();
            assert!(error.len() < 1000, "{}", &error[..200]);
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }

    #[test]
    fn a_unit_may_have_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("ocps.toml");
        let list = format!("/nonexistent:{}", dir.path().display());
        let env = |name: &str| (name == "CONFIGURATION_DIRECTORY").then(|| OsString::from(&list));
        assert_eq!(of_unit(&env), None);
        std::fs::write(&own, "").unwrap();
        assert_eq!(of_unit(&env), Some(own));
        assert_eq!(of_unit(&|_| None), None);
    }

    #[test]
    fn a_file_that_is_named_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ocps.toml");
        let error = Settings::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
        std::fs::write(&path, "site = 'base'\n").unwrap();
        assert_eq!(Settings::load(Some(&path)).unwrap().site.as_deref(), Some("base"));
        assert!(Settings::load(Some(dir.path())).unwrap_err().to_string().contains("is a directory"));
    }
}
