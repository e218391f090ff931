//! The daemon's own settings: `ocps.toml`.
//!
//! Invariant: a [`Settings`] is complete and sound; every value in it was checked when it was read, and a key that
//! we do not know is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::secret::Secret;
use super::tree::{self, Fault};
use super::{Error, file, value};
use crate::csc::id::SalIndex;
use crate::url::Url;

/// Read when no other file is named, if it exists.
pub const DEFAULT_PATH: &str = "/etc/ocps/ocps.toml";

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Most polls at the same time: each is a thread and a connection, and the service answers one by one.
const MAX_CONNECTIONS: usize = 32;

/// Most jobs that can be allowed at once: each costs memory and a poll per interval.
const MAX_JOBS: usize = 100_000;

/// Highest replication factor of a topic.
const MAX_REPLICATION: usize = 100;

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
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Settings {
    /// Our index, when the command line names none.
    #[serde(deserialize_with = "value::index")]
    pub index: Option<SalIndex>,
    /// Site, for `_<site>.yaml`.
    #[serde(deserialize_with = "value::word")]
    pub site: Option<String>,
    /// Directory of the component configuration.
    #[serde(deserialize_with = "value::path")]
    pub config_dir: Option<PathBuf>,
    /// Path of the local socket.
    #[serde(deserialize_with = "value::path")]
    pub socket: Option<PathBuf>,
    /// Directory of what must survive a restart.
    #[serde(deserialize_with = "value::path")]
    pub state_dir: Option<PathBuf>,
    /// Whether commands are journaled there.
    #[serde(deserialize_with = "value::on_off")]
    pub journal: bool,
    /// For how long commands that ended are remembered.
    #[serde(rename = "history_days", deserialize_with = "value::days")]
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
    #[serde(deserialize_with = "value::leap_seconds")]
    pub tai_minus_utc_s: u32,
    /// Limits.
    pub limits: Limits,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Log {
    /// Least level that is logged, Python's number (10, 20, 30, 40).
    #[serde(deserialize_with = "value::level")]
    pub level: i32,
    /// Write the log there instead of standard error.
    #[serde(deserialize_with = "value::path")]
    pub file: Option<PathBuf>,
}

/// `[uws]`: how to talk to the execution service, and what to send.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Uws {
    /// Shell command of every job.
    #[serde(deserialize_with = "value::text")]
    pub command: String,
    /// Repository of the job scripts.
    #[serde(deserialize_with = "value::text")]
    pub source_url: String,
    /// Branch, tag or commit of the job scripts.
    #[serde(deserialize_with = "value::text")]
    pub commit_ref: String,
    /// Whether the version of an execute chooses the container image (`UWS_JOB_IMAGE_TAG`).
    pub version_selects_image: bool,
    /// Longest wait for a connection.
    #[serde(rename = "connect_timeout_s", deserialize_with = "value::positive")]
    pub connect_timeout: Duration,
    /// Longest PUT.
    #[serde(rename = "put_timeout_s", deserialize_with = "value::positive")]
    pub put_timeout: Duration,
    /// Longest GET of one job.
    #[serde(rename = "get_timeout_s", deserialize_with = "value::positive")]
    pub get_timeout: Duration,
    /// Longest GET of the list of all jobs.
    #[serde(rename = "list_timeout_s", deserialize_with = "value::positive")]
    pub list_timeout: Duration,
    /// Longest DELETE.
    #[serde(rename = "delete_timeout_s", deserialize_with = "value::positive")]
    pub delete_timeout: Duration,
    /// How long a submission is tried, from its first failed or unclear attempt; the last attempt may be made then.
    #[serde(rename = "submit_timeout_s", deserialize_with = "value::positive")]
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    #[serde(rename = "settle_time_s", deserialize_with = "value::positive")]
    pub settle_time: Duration,
    /// How old the record of a submission in doubt may be for it to be sent again.
    #[serde(rename = "resubmit_limit_s", deserialize_with = "value::positive")]
    pub resubmit_limit: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    #[serde(rename = "outage_limit_s", deserialize_with = "value::positive")]
    pub outage_limit: Duration,
    /// Polls at the same time (worker threads).
    #[serde(deserialize_with = "value::count::<_, _, MAX_CONNECTIONS>")]
    pub connections: usize,
    /// HTTP proxy, if any.
    #[serde(deserialize_with = "value::proxy")]
    pub proxy: Option<Url>,
}

/// `[redis]`: the Redis server of Rapid Analysis. The environment wins over host, port and password.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Redis {
    /// Its host.
    #[serde(deserialize_with = "value::text")]
    pub host: Option<String>,
    /// Its port.
    #[serde(deserialize_with = "value::port")]
    pub port: Option<u16>,
    /// File that holds its password.
    #[serde(deserialize_with = "value::path")]
    pub password_file: Option<PathBuf>,
    /// Longest wait for a connection.
    #[serde(rename = "connect_timeout_s", deserialize_with = "value::positive")]
    pub connect_timeout: Duration,
    /// Longest wait for an answer.
    #[serde(rename = "response_timeout_s", deserialize_with = "value::positive")]
    pub response_timeout: Duration,
}

/// `[simulation]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Simulation {
    /// Mean duration of a simulated job.
    #[serde(rename = "mean_duration_s", deserialize_with = "value::seconds")]
    pub mean_duration: Duration,
    /// Standard deviation of the duration.
    #[serde(rename = "sigma_s", deserialize_with = "value::seconds")]
    pub sigma: Duration,
    /// Seed of the durations; none: another one at each start.
    #[serde(deserialize_with = "value::seed")]
    pub seed: Option<u64>,
}

/// `[limits]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Limits {
    /// Most jobs at once.
    #[serde(deserialize_with = "value::count::<_, _, MAX_JOBS>")]
    pub jobs: usize,
}

/// `[kafka]`, as far as it is set; [`super::kafka`] adds the environment and the defaults.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Kafka {
    /// `HOST:PORT`, several joined with commas.
    #[serde(deserialize_with = "value::text")]
    pub brokers: Option<String>,
    /// The second word of all topic names, `sal` in `lsst.sal.OCPS.ackcmd`.
    #[serde(deserialize_with = "value::word")]
    pub topic_subname: Option<String>,
    /// URLs of the schema registry, to be tried in this order.
    #[serde(deserialize_with = "value::urls")]
    pub schema_registry_url: Option<Vec<Url>>,
    /// Name to authenticate with.
    #[serde(deserialize_with = "value::text")]
    pub username: Option<String>,
    /// Password to authenticate with.
    #[serde(deserialize_with = "value::password")]
    pub password: Option<Secret>,
    /// `SASL_PLAINTEXT` or `SASL_SSL`.
    #[serde(deserialize_with = "value::text")]
    pub security_protocol: Option<String>,
    /// For example `SCRAM-SHA-512`.
    #[serde(deserialize_with = "value::text")]
    pub sasl_mechanism: Option<String>,
    /// Replication factor of topics that we create.
    #[serde(deserialize_with = "value::count::<_, _, MAX_REPLICATION>")]
    pub replication_factor: Option<usize>,
    /// What the broker confirms: `0`, `1` or `all`.
    #[serde(deserialize_with = "value::acks")]
    pub producer_acks: Option<String>,
    /// YAML mapping of more librdkafka settings for all clients.
    #[serde(deserialize_with = "value::path")]
    pub broker_client_configuration: Option<PathBuf>,
    /// YAML mapping of more librdkafka settings for the consumer.
    #[serde(deserialize_with = "value::path")]
    pub consumer_configuration: Option<PathBuf>,
    /// YAML mapping of more librdkafka settings for the producer.
    #[serde(deserialize_with = "value::path")]
    pub producer_configuration: Option<PathBuf>,
    /// How long the start waits for Kafka before it goes on without.
    #[serde(rename = "start_timeout_s", deserialize_with = "value::seconds")]
    pub start_timeout: Option<Duration>,
    /// How long the start waits for another instance to end.
    #[serde(rename = "start_wait_s", deserialize_with = "value::seconds")]
    pub start_wait: Option<Duration>,
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
            log: Log::default(),
            uws: Uws::default(),
            redis: Redis::default(),
            simulation: Simulation::default(),
            kafka: Kafka::default(),
            tai_minus_utc_s: crate::clock::TAI_MINUS_UTC_S,
            limits: Limits::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: 20, file: None }
    }
}

impl Default for Uws {
    fn default() -> Self {
        Self {
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
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        let timeout = Duration::from_secs(2);
        Self {
            host: None,
            port: None,
            password_file: None,
            connect_timeout: timeout,
            response_timeout: timeout,
        }
    }
}

impl Default for Simulation {
    fn default() -> Self {
        Self { mean_duration: Duration::from_secs(10), sigma: Duration::from_secs(4), seed: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 1000 }
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
        let (settings, keys, problems) = Self::read(path)?;
        problems.into_iter().next().map_or(Ok((settings, keys)), Err)
    }

    /// Reads them like [`Settings::load`], but goes on after a mistake: all that is wrong, and the settings as they
    /// are without those keys.
    #[must_use]
    pub fn examine(path: Option<&Path>) -> (Self, Vec<Error>) {
        match Self::read(path) {
            Ok((settings, _, problems)) => (settings, problems),
            Err(problem) => (Self::default(), vec![problem]),
        }
    }

    fn read(path: Option<&Path>) -> Result<(Self, Keys, Vec<Error>), Error> {
        let shown = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match (file::read(shown)?, path) {
            (Some(text), _) => text,
            (None, None) => String::new(),
            (None, Some(path)) => {
                return Err(Error::in_file(path, "no such file; name an existing ocps.toml, or none"));
            }
        };
        Self::parse(&text, shown)
    }

    /// Parses the text of an `ocps.toml`; `path` is for errors.
    fn parse(text: &str, path: &Path) -> Result<(Self, Keys, Vec<Error>), Error> {
        let error = |position, what: &str| Error::at(path.display(), position, what);
        let tree = tree::from_toml(text).map_err(|Fault { position, text }| error(position, &text))?;
        let (settings, mistakes) = tree::read(&tree);
        let placed = mistakes.iter().map(|mistake| (tree::locate_in_toml(text, mistake), &*mistake.text));
        let mut placed: Vec<_> = placed.collect();
        placed.sort_unstable();
        let problems = placed.into_iter().map(|(position, what)| error(position, what)).collect();
        Ok((settings.unwrap_or_default(), Keys::of(&tree), problems))
    }
}

/// The keys that a toml gives, with their values: to find out what changed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, Secret>);

impl Keys {
    fn of(tree: &Value) -> Self {
        let mut keys = BTreeMap::new();
        for (name, value) in tree.as_mapping().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            match value.as_mapping() {
                Some(section) => keys.extend(section.iter().map(|(key, value)| {
                    (format!("{name}.{}", key.as_str().unwrap_or_default()), Secret(format!("{value:?}")))
                })),
                None => drop(keys.insert(name.to_owned(), Secret(format!("{value:?}")))),
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../etc/ocps.toml");

    fn parse(text: &str) -> Result<Settings, String> {
        let read = Settings::parse(text, Path::new("o.toml"));
        let (settings, _, problems) = read.map_err(|error| error.to_string())?;
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
        let error = toml::from_str::<Settings>(&format!("{header}zzz = 1\n")).err().unwrap();
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
        assert_eq!((settings.simulation.seed, settings.limits.jobs), (Some(7), 100_000));
        assert_eq!(parse("index = 101\n[log]\nlevel = 35").unwrap().log.level, 35);
    }

    #[test]
    fn errors_name_place_key_and_what_is_allowed() {
        let time = "must be a number of seconds, at least 0.001 and at most 604800, not";
        for (text, expected) in [
            ("\n[uws]\nget_timeout_s = -1\n", &*format!("o.toml:3:17: uws.get_timeout_s {time} -1")),
            ("[uws]\nget_timeout_s = nan", &format!("o.toml:2:17: uws.get_timeout_s {time} .nan")),
            ("[uws]\nget_timeout_s = inf", &format!("o.toml:2:17: uws.get_timeout_s {time} .inf")),
            ("[uws]\nget_timeout_s = 1e300", "o.toml:2:17: uws.get_timeout_s must be a number of seconds"),
            ("[uws]\nget_timeout_s = 0", &format!("o.toml:2:17: uws.get_timeout_s {time} 0")),
            ("[uws]\nget_timeout_s = '5'", &format!("o.toml:2:17: uws.get_timeout_s {time} \"5\"")),
            ("[uws]\nget_timeout_s = [5]", &format!("o.toml:2:17: uws.get_timeout_s {time} a list")),
            ("[uws]\nget_timeout_s = 2026-01-01", "o.toml:2:17: uws.get_timeout_s must be"),
            ("uws.settle_time_s = 0", "o.toml:1:21: uws.settle_time_s must be"),
            ("uws = {command = ' '}", "o.toml:1:18: uws.command must be text that is not empty, not \" \""),
            ("[uws]\ncommand = 7", "o.toml:2:11: uws.command must be text that is not empty, not 7"),
            (
                "[uws]\nconnections = 33",
                "o.toml:2:15: uws.connections must be a whole number from 1 to 32, not 33",
            ),
            (
                "[uws]\nconnections = 1.0",
                "o.toml:2:15: uws.connections must be a whole number from 1 to 32, not 1.0",
            ),
            (
                "[uws]\nversion_selects_image = 1",
                "uws.version_selects_image: invalid type: integer `1`, expected a boolean",
            ),
            (
                "[uws]\nproxy = 'ftp://me:secret@h'",
                "o.toml:2:9: uws.proxy must be the URL of an HTTP proxy, http://HOST:PORT",
            ),
            ("[redis]\nport = 0", "o.toml:2:8: redis.port must be a port number from 1 to 65535, not 0"),
            (
                "[redis]\npassword = 'secret'",
                "o.toml:2:1: unknown key \"redis.password\"; did you mean password_file?",
            ),
            ("[limits]\njobs = 0", "limits.jobs must be a whole number from 1 to 100000, not 0"),
            (
                "[simulation]\nsigma_s = -0.1",
                "simulation.sigma_s must be a number of seconds from 0 to 604800, not -0.1",
            ),
            ("[simulation]\nseed = -1", "simulation.seed must be a whole number from 0 on, not -1"),
            (
                "[log]\nlevel = 'loud'",
                "o.toml:2:9: log.level must be debug, info, warning or error, or a number from 10 to 40, not \"loud\"",
            ),
            ("[log]\nlevel = 50", "log.level must be"),
            (
                "index = 4",
                "o.toml:1:9: index must be 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA), as number or name, not 4",
            ),
            ("site = '../x'", "o.toml:1:8: site must be a word"),
            ("config_dir = ''", "o.toml:1:14: config_dir must be the path"),
            (
                "[uws]\nconect_timeout_s = 1",
                "o.toml:2:1: unknown key \"uws.conect_timeout_s\"; did you mean connect_timeout_s?",
            ),
            ("[usw]\nx = 1", "o.toml:1:2: unknown key \"usw\"; did you mean uws?"),
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
        let (settings, _, problems) = Settings::parse(text, Path::new("o.toml")).unwrap();
        let places: Vec<String> = problems.iter().map(|p| p.to_string()[..10].to_owned()).collect();
        assert_eq!(
            places,
            ["o.toml:1:1", "o.toml:3:1", "o.toml:5:1", "o.toml:7:1", "o.toml:8:2", "o.toml:11:"],
            "{problems:#?}"
        );
        assert_eq!(settings.site.as_deref(), Some("base"));
        assert_eq!(settings.uws.get_timeout, Duration::from_secs(5));
        let many: String = (0..1000).map(|i| format!("key{i} = 1\n")).collect();
        assert_eq!(Settings::parse(&many, Path::new("o.toml")).unwrap().2.len(), tree::MAX_MISTAKES);
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
            ("[kafka]\nbroker = 'x'", "unknown key \"kafka.broker\"; did you mean brokers?"),
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
