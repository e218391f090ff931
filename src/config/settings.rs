//! The daemon's own settings: `ocps.toml`.
//!
//! Invariant: a [`Settings`] is complete and sound; every value in it was checked when it was read, and a key that
//! we do not know is an error. The structs of the file (`Wire…`) are only here; the rest of the program has types.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::csc::id::SalIndex;

use super::{Error, Place, file, position, quoted, suggestion};

/// Read when no other file is named, if it exists.
pub const DEFAULT_PATH: &str = "/etc/ocps/ocps.toml";

/// Longest time that can be set, in seconds: a week. Beyond it is a typing error.
const MAX_SECONDS: f64 = 604_800.0;

/// Most polls at the same time: each is a thread and a connection, and the service answers one by one.
const MAX_CONNECTIONS: usize = 32;

/// Most jobs that can be allowed at once: each costs memory and a poll per interval.
const MAX_JOBS: usize = 100_000;
/// Longest memory that can be asked for, in days.
const MAX_HISTORY_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 3600);

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
    /// Longest GET.
    pub get_timeout: Duration,
    /// Longest DELETE.
    pub delete_timeout: Duration,
    /// How long a submission is tried, from its first failed or unclear attempt.
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    pub settle_time: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    pub outage_limit: Duration,
    /// Polls at the same time (worker threads).
    pub connections: usize,
    /// HTTP proxy, if any.
    pub proxy: Option<String>,
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
    /// URL of the schema registry.
    pub schema_registry_url: Option<String>,
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
                delete_timeout: Duration::from_secs(30),
                submit_timeout: Duration::from_secs(60),
                settle_time: Duration::from_secs(15),
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
            tai_minus_utc_s: crate::sal::time::TAI_MINUS_UTC_S,
            max_jobs: 1000,
        }
    }
}

impl Settings {
    /// Reads the settings from a file, which must exist; without a path from [`DEFAULT_PATH`], if that exists.
    ///
    /// # Errors
    /// The file cannot be read, or what is wrong in it and what is allowed there.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let read = file::read(path.unwrap_or(Path::new(DEFAULT_PATH)))?;
        match (read, path) {
            (Some(text), _) => Self::parse(&text, path.unwrap_or(Path::new(DEFAULT_PATH))),
            (None, Some(path)) => {
                Err(Error::in_file(path, "no such file; name an existing ocps.toml, or none"))
            }
            (None, None) => Ok(Self::default()),
        }
    }

    /// Parses the text of an `ocps.toml`; `path` is for errors.
    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let table = DeTable::parse(text).map_err(|e| {
            let place = place(path, text, e.span().map(|s| s.start));
            Error::at(place, format!("not valid TOML: {}", e.message()))
        })?;
        let wire = Wire::deserialize(toml::de::Deserializer::from(table.clone()))
            .map_err(|e| explain(&e, table.get_ref(), text, path))?;
        Ok(wire.into_settings())
    }
}

/// `ocps.toml` as it is written. What is absent keeps its default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wire {
    index: Option<Index>,
    site: Option<Site>,
    config_dir: Option<FilePath>,
    socket: Option<FilePath>,
    state_dir: Option<FilePath>,
    journal: Option<OnOff>,
    history_days: Option<Days>,
    log: WireLog,
    uws: WireUws,
    redis: WireRedis,
    simulation: WireSimulation,
    kafka: WireKafka,
    tai_minus_utc_s: Option<LeapSeconds>,
    limits: WireLimits,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireLog {
    level: Option<Level>,
    file: Option<FilePath>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireUws {
    command: Option<Text>,
    source_url: Option<Text>,
    commit_ref: Option<Text>,
    version_selects_image: Option<Switch>,
    connect_timeout_s: Option<Positive>,
    put_timeout_s: Option<Positive>,
    get_timeout_s: Option<Positive>,
    delete_timeout_s: Option<Positive>,
    submit_timeout_s: Option<Positive>,
    settle_time_s: Option<Positive>,
    outage_limit_s: Option<Positive>,
    connections: Option<Count<MAX_CONNECTIONS>>,
    proxy: Option<Proxy>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireRedis {
    host: Option<Text>,
    port: Option<Port>,
    password_file: Option<FilePath>,
    connect_timeout_s: Option<Positive>,
    response_timeout_s: Option<Positive>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireSimulation {
    mean_duration_s: Option<Seconds>,
    sigma_s: Option<Seconds>,
    seed: Option<Seed>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireKafka {
    brokers: Option<Text>,
    topic_subname: Option<Subname>,
    schema_registry_url: Option<RegistryUrl>,
    username: Option<Text>,
    password: Option<Password>,
    security_protocol: Option<Text>,
    sasl_mechanism: Option<Text>,
    replication_factor: Option<Count<MAX_REPLICATION>>,
    producer_acks: Option<Acks>,
    broker_client_configuration: Option<FilePath>,
    consumer_configuration: Option<FilePath>,
    producer_configuration: Option<FilePath>,
    start_timeout_s: Option<Seconds>,
}

impl WireKafka {
    fn into_settings(self) -> Kafka {
        Kafka {
            brokers: self.brokers.map(|v| v.0),
            topic_subname: self.topic_subname.map(|v| v.0),
            schema_registry_url: self.schema_registry_url.map(|v| v.0),
            username: self.username.map(|v| v.0),
            password: self.password.map(|v| v.0),
            security_protocol: self.security_protocol.map(|v| v.0),
            sasl_mechanism: self.sasl_mechanism.map(|v| v.0),
            replication_factor: self.replication_factor.map(|v| v.0),
            producer_acks: self.producer_acks.map(|v| v.0),
            broker_client_configuration: self.broker_client_configuration.map(|v| v.0),
            consumer_configuration: self.consumer_configuration.map(|v| v.0),
            producer_configuration: self.producer_configuration.map(|v| v.0),
            start_timeout: self.start_timeout_s.map(|v| v.0),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireLimits {
    jobs: Option<Count<MAX_JOBS>>,
}

impl Wire {
    fn into_settings(self) -> Settings {
        let default = Settings::default();
        Settings {
            index: self.index.map(|v| v.0),
            site: self.site.map(|v| v.0),
            config_dir: self.config_dir.map(|v| v.0),
            socket: self.socket.map(|v| v.0),
            state_dir: self.state_dir.map(|v| v.0),
            journal: self.journal.map_or(default.journal, |v| v.0),
            history: self.history_days.map_or(default.history, |v| v.0),
            log: Log {
                level: self.log.level.map_or(default.log.level, |v| v.0),
                file: self.log.file.map(|v| v.0),
            },
            uws: self.uws.into_settings(default.uws),
            redis: self.redis.into_settings(&default.redis),
            simulation: Simulation {
                mean_duration: self
                    .simulation
                    .mean_duration_s
                    .map_or(default.simulation.mean_duration, |v| v.0),
                sigma: self.simulation.sigma_s.map_or(default.simulation.sigma, |v| v.0),
                seed: self.simulation.seed.map(|v| v.0),
            },
            kafka: self.kafka.into_settings(),
            tai_minus_utc_s: self.tai_minus_utc_s.map_or(default.tai_minus_utc_s, |v| v.0),
            max_jobs: self.limits.jobs.map_or(default.max_jobs, |v| v.0),
        }
    }
}

impl WireRedis {
    fn into_settings(self, default: &Redis) -> Redis {
        Redis {
            host: self.host.map(|v| v.0),
            port: self.port.map(|v| v.0),
            password_file: self.password_file.map(|v| v.0),
            connect_timeout: self.connect_timeout_s.map_or(default.connect_timeout, |v| v.0),
            response_timeout: self.response_timeout_s.map_or(default.response_timeout, |v| v.0),
        }
    }
}

impl WireUws {
    fn into_settings(self, default: Uws) -> Uws {
        Uws {
            command: self.command.map_or(default.command, |v| v.0),
            source_url: self.source_url.map_or(default.source_url, |v| v.0),
            commit_ref: self.commit_ref.map_or(default.commit_ref, |v| v.0),
            version_selects_image: self.version_selects_image.map_or(default.version_selects_image, |v| v.0),
            connect_timeout: self.connect_timeout_s.map_or(default.connect_timeout, |v| v.0),
            put_timeout: self.put_timeout_s.map_or(default.put_timeout, |v| v.0),
            get_timeout: self.get_timeout_s.map_or(default.get_timeout, |v| v.0),
            delete_timeout: self.delete_timeout_s.map_or(default.delete_timeout, |v| v.0),
            submit_timeout: self.submit_timeout_s.map_or(default.submit_timeout, |v| v.0),
            settle_time: self.settle_time_s.map_or(default.settle_time, |v| v.0),
            outage_limit: self.outage_limit_s.map_or(default.outage_limit, |v| v.0),
            connections: self.connections.map_or(default.connections, |v| v.0),
            proxy: self.proxy.map(|v| v.0),
        }
    }
}

/// A value of any type, so that each kind below can say itself what it wants instead.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Raw {
    fn number(&self) -> Option<f64> {
        match self {
            // Exact up to 2^53, far beyond every limit here.
            #[allow(clippy::cast_precision_loss)]
            Self::Integer(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            Self::Bool(_) | Self::Text(_) | Self::Other(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Other(_) => None,
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(i) => Some(*i),
            Self::Bool(_) | Self::Float(_) | Self::Text(_) | Self::Other(_) => None,
        }
    }

    /// `must be …, not …`.
    fn refused(&self, allowed: &str) -> String {
        let is = match self {
            Self::Bool(b) => b.to_string(),
            Self::Integer(i) => i.to_string(),
            Self::Float(f) => f.to_string(),
            Self::Text(text) => quoted(text),
            Self::Other(_) => "a list, table or date".to_owned(),
        };
        format!("must be {allowed}, not {is}")
    }
}

/// Defines a kind of value: how it is made of a [`Raw`] one, and what is allowed if that fails.
macro_rules! kind {
    ($(#[$doc:meta])* $name:ident $(<const $max:ident>)?($type:ty), $allowed:expr, $parse:expr) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        #[serde(try_from = "Raw")]
        struct $name $(<const $max: usize>)?($type);

        impl $(<const $max: usize>)? TryFrom<Raw> for $name $(<$max>)? {
            type Error = String;

            fn try_from(raw: Raw) -> Result<Self, String> {
                let parse: fn(&Raw) -> Option<$type> = $parse;
                parse(&raw).map(Self).ok_or_else(|| raw.refused(&$allowed))
            }
        }
    };
}

kind!(
    /// A time longer than none.
    Positive(Duration),
    format!("a number of seconds, at least 0.001 and at most {MAX_SECONDS}"),
    |raw| duration(raw).filter(|d| *d >= Duration::from_millis(1))
);
kind!(
    /// A time that may be none.
    Seconds(Duration),
    format!("a number of seconds from 0 to {MAX_SECONDS}"),
    duration
);
kind!(Switch(bool), "true or false", |raw| match raw {
    Raw::Bool(b) => Some(*b),
    Raw::Integer(_) | Raw::Float(_) | Raw::Text(_) | Raw::Other(_) => None,
});
kind!(OnOff(bool), "\"on\" or \"off\"", |raw| match raw.text() {
    Some("on") => Some(true),
    Some("off") => Some(false),
    Some(_) | None => None,
});
kind!(Text(String), "text that is not empty", |raw| {
    raw.text().filter(|t| !t.trim().is_empty() && !t.contains('\0')).map(str::to_owned)
});
kind!(FilePath(PathBuf), "the path of a file or directory", |raw| {
    raw.text().filter(|t| !t.is_empty() && !t.contains('\0')).map(PathBuf::from)
});
kind!(Site(String), "a site name of letters, digits, '.', '_' and '-'", |raw| {
    raw.text().filter(|t| is_site(t)).map(str::to_owned)
});
kind!(Index(SalIndex), "1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA), as number or name", |raw| {
    match raw {
        Raw::Integer(i) => SalIndex::parse(&i.to_string()).ok(),
        Raw::Text(text) => SalIndex::parse(text).ok(),
        Raw::Bool(_) | Raw::Float(_) | Raw::Other(_) => None,
    }
});
kind!(Level(i32), "debug, info, warning or error, or a number from 10 to 40", |raw| match raw {
    Raw::Text(text) => match text.to_ascii_lowercase().as_str() {
        "debug" => Some(10),
        "info" => Some(20),
        "warning" => Some(30),
        "error" => Some(40),
        _ => None,
    },
    Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Other(_) =>
        raw.integer().and_then(|i| i32::try_from(i).ok()).filter(|i| (10..=40).contains(i)),
});
kind!(
    /// A number from 1 to `MAX`.
    Count<const MAX>(usize),
    format!("a whole number from 1 to {MAX}"),
    |raw| raw.integer().and_then(|i| usize::try_from(i).ok()).filter(|i| (1..=MAX).contains(i))
);
kind!(Days(Duration), format!("a whole number of days from 1 to {MAX_HISTORY_DAYS}"), |raw| {
    let days = raw.integer().and_then(|i| u32::try_from(i).ok());
    days.filter(|days| (1..=MAX_HISTORY_DAYS).contains(days)).map(|days| days * DAY)
});
kind!(LeapSeconds(u32), "a whole number of seconds from 0 to 100", |raw| {
    raw.integer().and_then(|i| u32::try_from(i).ok()).filter(|i| *i <= 100)
});
kind!(Subname(String), "a word of letters, digits, '.', '_' and '-'", |raw| {
    raw.text().filter(|t| is_site(t)).map(str::to_owned)
});
kind!(Acks(String), "0, 1 or \"all\"", |raw| {
    let text = raw.integer().map(|i| i.to_string()).or_else(|| raw.text().map(str::to_owned));
    text.filter(|t| super::kafka::ACKS.contains(&t.as_str()))
});
kind!(Port(u16), "a port number from 1 to 65535", |raw| {
    raw.integer().and_then(|i| u16::try_from(i).ok()).filter(|port| *port != 0)
});
kind!(Seed(u64), "a whole number from 0 on", |raw| raw.integer().and_then(|i| u64::try_from(i).ok()));

/// The URL of the registry. Not a `kind!`: it may hold a password, which no error shows.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
struct RegistryUrl(String);

impl TryFrom<Raw> for RegistryUrl {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let url = raw.text().filter(|t| super::kafka::is_url(t)).map(|t| Self(t.to_owned()));
        url.ok_or("must be the URL of a schema registry, http://HOST:PORT or https://HOST:PORT")
    }
}

/// A password; no error shows it.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
struct Password(Secret);

impl TryFrom<Raw> for Password {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let text = raw.text().filter(|t| !t.is_empty() && !t.contains('\0'));
        text.map(|t| Self(Secret(t.to_owned()))).ok_or("must be text that is not empty")
    }
}

/// An HTTP proxy. Not a `kind!`: it may hold a password, which no error shows.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
struct Proxy(String);

impl TryFrom<Raw> for Proxy {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        raw.text()
            .filter(|t| t.starts_with("http://") && ureq::Proxy::new(t).is_ok())
            .map(|t| Self(t.to_owned()))
            .ok_or("must be the URL of an HTTP proxy, http://HOST:PORT")
    }
}

fn duration(raw: &Raw) -> Option<Duration> {
    let seconds = raw.number().filter(|s| (0.0..=MAX_SECONDS).contains(s))?;
    Duration::try_from_secs_f64(seconds).ok()
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

    const EXAMPLE: &str = include_str!("../../etc/ocps.toml");

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("o.toml")).map_err(|e| e.to_string())
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
        assert_eq!(settings.uws.proxy.as_deref(), Some("http://me:pw@p:3128"));
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
    fn errors_of_kafka_name_the_key_and_show_no_secret() {
        for (text, expected) in [
            ("[kafka]\nproducer_acks = 2", "kafka.producer_acks must be 0, 1 or \"all\", not 2"),
            ("[kafka]\npassword = ['secret']", "kafka.password must be text that is not empty"),
            ("[kafka]\nschema_registry_url = 'secret'", "kafka.schema_registry_url must be the URL"),
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
