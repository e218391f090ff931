//! The daemon's own settings: `ocps.toml`.
//!
//! Invariant: [`Settings`] are complete and valid: each value was checked when it was read, and an unknown key is an
//! error.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::secret::Secret;
use super::tree::{self, Fault, Mistake};
use super::{Env, Error, file, value, variable};
use crate::csc::configuration::Polling;
use crate::csc::id::SalIndex;
use crate::url::Url;

/// Read when no other file is named, if it exists.
pub const DEFAULT_PATH: &str = "/etc/ocps/ocps.toml";

/// The configuration directories that systemd sets for the unit (`ConfigurationDirectory=`): for `ocps@2`
/// `/etc/ocps-2`. What does not exist there is read from the usual places.
pub(super) fn unit_directories(env: Env<'_>) -> Vec<PathBuf> {
    let list = variable(env, "CONFIGURATION_DIRECTORY").unwrap_or_default();
    std::env::split_paths(&list).filter(|dir| !dir.as_os_str().is_empty()).collect()
}

/// The toml in the configuration directory of the systemd unit, if there is one.
pub fn of_unit(env: Env<'_>) -> Option<PathBuf> {
    unit_directories(env).into_iter().map(|dir| dir.join("ocps.toml")).find(|path| path.exists())
}

/// Where HTTP is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port of this host.
    Address(SocketAddr),
    /// A Unix socket.
    Path(PathBuf),
    /// The socket of the systemd socket unit.
    Systemd,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Systemd => f.write_str("the socket of systemd"),
        }
    }
}

/// Where the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Journal {
    /// In a file of the state directory.
    On,
    /// There is none.
    Off,
    /// In a topic of Kafka.
    Kafka,
}

/// Defines the tables of the file: for each key its field, type, default and the function that reads it.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $key:literal $field:ident: $type:ty = $default:expr, $read:literal;)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, PartialEq)]
        #[serde(default, deny_unknown_fields, expecting = "a table")]
        pub struct $name {
            $($(#[$field_doc])* #[serde(rename = $key, deserialize_with = $read)] pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    )*};
}

tables! {
    /// All settings of the daemon, defaults filled in.
    Settings {
        /// The index, if the command line gives none.
        "index" index: Option<SalIndex> = None, "value::index";
        /// Site, for `_<site>.yaml`.
        "site" site: Option<String> = None, "value::word";
        /// Directory of the component configuration.
        "config_dir" config_dir: Option<PathBuf> = None, "value::path";
        /// Path of the local socket.
        "socket" socket: Option<PathBuf> = None, "value::path";
        /// State directory; holds the journal.
        "state_dir" state_dir: Option<PathBuf> = None, "value::path";
        /// Where commands are journaled.
        "journal" journal: Journal = Journal::On, "value::journal";
        /// How long the journal keeps ended commands.
        "history_days" history: Duration = Duration::from_secs(30 * 24 * 3600), "value::days";
        /// The log.
        "log" log: Log = Log::default(), "Deserialize::deserialize";
        /// The execution service.
        "uws" uws: Uws = Uws::default(), "Deserialize::deserialize";
        /// Redis, for Rapid Analysis.
        "redis" redis: Redis = Redis::default(), "Deserialize::deserialize";
        /// The simulator.
        "simulation" simulation: Simulation = Simulation::default(), "Deserialize::deserialize";
        /// SAL over Kafka.
        "kafka" kafka: Kafka = Kafka::default(), "Deserialize::deserialize";
        /// TAI minus UTC, in seconds, for a kernel that does not know it.
        "tai_minus_utc_s" tai_minus_utc_s: u32 = crate::clock::TAI_MINUS_UTC_S, "value::leap_seconds";
        /// The HTTP server.
        "http" http: Http = Http::default(), "Deserialize::deserialize";
        /// Limits.
        "limits" limits: Limits = Limits::default(), "Deserialize::deserialize";
    }

    /// `[log]`.
    Log {
        /// Minimum log level, Python's number (10, 20, 30, 40).
        "level" level: i32 = 20, "value::level";
        /// File for the log, instead of standard error.
        "file" file: Option<PathBuf> = None, "value::path";
    }

    /// `[uws]`: how to talk to the execution service, and what to send.
    Uws {
        /// Shell command of every job.
        "command" command: String = "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh".into(), "value::text";
        /// Repository of the job scripts.
        "source_url" source_url: String = "https://github.com/lsst-dm/uws_scripts".into(), "value::text";
        /// Branch, tag or commit of the job scripts.
        "commit_ref" commit_ref: String = "main".into(), "value::text";
        /// Whether the version of an execute chooses the container image (`UWS_JOB_IMAGE_TAG`).
        "version_selects_image" version_selects_image: bool = false, "value::switch";
        /// Time limit of a connection attempt.
        "connect_timeout_s" connect_timeout: Duration = Duration::from_secs(5), "value::positive";
        /// Time limit of a PUT.
        "put_timeout_s" put_timeout: Duration = Duration::from_secs(30), "value::positive";
        /// Time limit of a GET of one job.
        "get_timeout_s" get_timeout: Duration = Duration::from_secs(30), "value::positive";
        /// Time limit of a GET of the list of all jobs.
        "list_timeout_s" list_timeout: Duration = Duration::from_secs(120), "value::positive";
        /// Time limit of a DELETE.
        "delete_timeout_s" delete_timeout: Duration = Duration::from_secs(30), "value::positive";
        /// How long a submission is retried after its first failed or unclear attempt.
        "submit_timeout_s" submit_timeout: Duration = Duration::from_secs(60), "value::positive";
        /// How long a job may take to appear in the list after an unclear attempt.
        "settle_time_s" settle_time: Duration = Duration::from_secs(30), "value::positive";
        /// Maximum age of the record of an unclear submission that is sent again.
        "resubmit_limit_s" resubmit_limit: Duration = Duration::from_secs(1800), "value::positive";
        /// How long the service may be unreachable while jobs run before the state becomes FAULT.
        "outage_limit_s" outage_limit: Duration = Duration::from_secs(300), "value::positive";
        /// How jobs are polled.
        "poll" polling: Polling = Polling::Auto { from: value::POLLED_BY_LIST }, "value::polling";
        /// Number of simultaneous polls (worker threads).
        "connections" connections: usize = 4, "value::connections";
        /// HTTP proxy, if any.
        "proxy" proxy: Option<Url> = None, "value::proxy";
    }

    /// `[redis]`: the Redis server of Rapid Analysis. The environment wins over host, port and password.
    Redis {
        /// Host name.
        "host" host: Option<String> = None, "value::text";
        /// Port.
        "port" port: Option<u16> = None, "value::port";
        /// File that holds its password.
        "password_file" password_file: Option<PathBuf> = None, "value::path";
        /// Time limit of a connection attempt.
        "connect_timeout_s" connect_timeout: Duration = Duration::from_secs(2), "value::positive";
        /// Time limit of an answer.
        "response_timeout_s" response_timeout: Duration = Duration::from_secs(2), "value::positive";
    }

    /// `[simulation]`.
    Simulation {
        /// Mean duration of a simulated job.
        "mean_duration_s" mean_duration: Duration = Duration::from_secs(10), "value::seconds";
        /// Standard deviation of the duration.
        "sigma_s" sigma: Duration = Duration::from_secs(4), "value::seconds";
        /// Seed of the durations; none: a new one at each start.
        "seed" seed: Option<u64> = None, "value::seed";
    }

    /// `[http]`.
    Http {
        /// Where the HTTP server listens; none: there is no server.
        "listen" listen: Option<Listen> = None, "value::listen";
    }

    /// `[limits]`.
    Limits {
        /// Maximum number of unfinished jobs.
        "jobs" jobs: usize = 1000, "value::jobs";
    }

    /// `[kafka]`; [`super::kafka`] adds the environment.
    Kafka {
        /// `HOST:PORT`, several joined with commas.
        "brokers" brokers: Option<String> = None, "value::text";
        /// The second word of all topic names, `sal` in `lsst.sal.OCPS.ackcmd`.
        "topic_subname" topic_subname: Option<String> = None, "value::word";
        /// URLs of the schema registry, to be tried in this order.
        "schema_registry_url" schema_registry_url: Vec<Url> = vec!["http://schema-registry:8081".into()], "value::urls";
        /// Name to authenticate with.
        "username" username: Option<String> = None, "value::text";
        /// Password to authenticate with.
        "password" password: Option<Secret> = None, "value::password";
        /// `SASL_PLAINTEXT` or `SASL_SSL`.
        "security_protocol" security_protocol: String = "SASL_PLAINTEXT".into(), "value::text";
        /// For example `SCRAM-SHA-512`.
        "sasl_mechanism" sasl_mechanism: String = "SCRAM-SHA-512".into(), "value::text";
        /// Replication factor of the topics that ocps creates.
        "replication_factor" replication_factor: i32 = 1, "value::replication";
        /// How many brokers confirm a message: `0`, `1` or `all`.
        "producer_acks" producer_acks: String = "1".into(), "value::acks";
        /// YAML mapping of more librdkafka settings for all clients.
        "broker_client_configuration" broker_client_configuration: Option<PathBuf> = None, "value::path";
        /// YAML mapping of more librdkafka settings for the consumer.
        "consumer_configuration" consumer_configuration: Option<PathBuf> = None, "value::path";
        /// YAML mapping of more librdkafka settings for the producer.
        "producer_configuration" producer_configuration: Option<PathBuf> = None, "value::path";
        /// How long the start waits for Kafka before it continues without it.
        "start_timeout_s" start_timeout: Duration = Duration::from_secs(30), "value::seconds";
        /// How long the start waits for another instance to end.
        "start_wait_s" start_wait: Duration = Duration::from_secs(15), "value::seconds";
        /// Whether to stand by while another instance is running, and to take over when it has ended.
        "standby" standby: bool = false, "value::switch";
        /// How long the other instance must be silent before this one takes over.
        "takeover_s" takeover: Duration = Duration::from_secs(10), "value::positive";
        /// Topic of the journal, with `journal = "kafka"`.
        "journal_topic" journal_topic: Option<String> = None, "value::word";
    }
}

impl Settings {
    /// Reads the settings from a file, which must exist; without a path from [`DEFAULT_PATH`], if that exists.
    ///
    /// # Errors
    /// The file cannot be read, or the first mistake in it and what is allowed there.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        Self::load_with_keys(path).map(|(settings, _)| settings)
    }

    /// Reads them like [`Settings::load`], and which keys the file contains.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn load_with_keys(path: Option<&Path>) -> Result<(Self, Keys), Error> {
        let (settings, keys, problems) = Self::examine(path);
        problems.into_iter().next().map_or(Ok((settings, keys)), Err)
    }

    /// Reads them like [`Settings::load`], but continues after a mistake: gives the settings and keys without the wrong
    /// ones, and everything that is wrong.
    pub fn examine(path: Option<&Path>) -> (Self, Keys, Vec<Error>) {
        let shown = path.unwrap_or(Path::new(DEFAULT_PATH));
        let none = || match path {
            Some(path) => Err(Error::in_file(path, "no such file; name an existing ocps.toml, or none")),
            None => Ok(String::new()),
        };
        let text = file::read(shown).and_then(|text| text.map_or_else(none, Ok));
        let read = text.and_then(|text| Self::parse(&text, shown));
        read.unwrap_or_else(|problem| (Self::default(), Keys::default(), vec![problem]))
    }

    /// Parses the text of an `ocps.toml`; `path` is for errors.
    fn parse(text: &str, path: &Path) -> Result<(Self, Keys, Vec<Error>), Error> {
        let error = |position, what: &str| Error::at(path.display(), position, what);
        let tree = tree::from_toml(text).map_err(|Fault { position, text }| error(position, &text))?;
        let (settings, mistakes) = tree::read(&tree);
        let place = |mistake: &Mistake| tree::locate_in_toml(text, mistake);
        let mut placed: Vec<_> = mistakes.iter().map(|mistake| (place(mistake), &*mistake.text)).collect();
        placed.sort_unstable();
        let problems = placed.into_iter().map(|(position, what)| error(position, what)).collect();
        Ok((settings.unwrap_or_default(), Keys::of(&tree), problems))
    }
}

/// The keys of a toml with their values, to find out what changed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeSet<(String, Secret)>);

impl Keys {
    fn of(tree: &Value) -> Self {
        let name = |key: &Value| key.as_str().unwrap_or_default().to_owned();
        let shown = |value: &Value| Secret(format!("{value:?}"));
        let mut keys = BTreeSet::new();
        for (key, value) in tree.as_mapping().into_iter().flatten() {
            if let Some(section) = value.as_mapping() {
                keys.extend(section.iter().map(|(k, v)| (format!("{}.{}", name(key), name(k)), shown(v))));
            } else {
                keys.insert((name(key), shown(value)));
            }
        }
        Self(keys)
    }

    /// The names of the keys whose value differs, or that only one of the two has.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let mut names: Vec<_> = self.0.symmetric_difference(&other.0).map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

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

    const SECTIONS: [&str; 7] = ["log", "uws", "redis", "simulation", "kafka", "http", "limits"];

    #[test]
    fn the_example_is_all_comments_and_shows_the_defaults() {
        assert_eq!(parse(EXAMPLE), Ok(Settings::default()));
        let without_default = [
            "index",
            "site",
            "config_dir",
            "socket",
            "state_dir",
            "file",
            "proxy",
            "listen",
            "seed",
            "brokers",
            "topic_subname",
            "username",
            "password",
            "broker_client_configuration",
            "consumer_configuration",
            "producer_configuration",
            "journal_topic",
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
            ("[uws]\nversion_selects_image = 1", "uws.version_selects_image must be true or false, not 1"),
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
            ("uws = 3", "o.toml:1:7: uws must be a table, not integer `3`"),
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
