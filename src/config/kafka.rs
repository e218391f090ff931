//! How to reach Kafka: from the toml, the environment variables of salobj, which win over it, and defaults.
//!
//! Invariant: [`Options`] are complete, and no log shows a secret of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::secret::Secret;
use super::{Env, Error, file, settings, tree, value, variable};
use crate::url::Url;

/// What may stand before `://` in the address of a broker.
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// How to reach Kafka.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// `HOST:PORT`, several joined with commas.
    pub brokers: String,
    /// The second word of all topic names.
    pub topic_subname: String,
    /// URLs of the schema registry, to be tried in this order.
    pub registry_urls: Vec<Url>,
    /// User name and password, if there are any.
    pub sasl: Option<Sasl>,
    /// Replication factor of the topics that ocps creates.
    pub replication_factor: i32,
    /// How many brokers confirm a message: `0`, `1`, or `all`.
    pub producer_acks: String,
    /// More librdkafka settings for all clients.
    pub broker_client: Vec<(String, String)>,
    /// More librdkafka settings for the consumer.
    pub consumer: Vec<(String, String)>,
    /// More librdkafka settings for the producer.
    pub producer: Vec<(String, String)>,
    /// How long the start waits for another instance to end.
    pub start_wait: Duration,
    /// With `standby`: how long the running instance must be silent before this one takes over. Without: none, and this
    /// instance ends if another one is running.
    pub standby: Option<Duration>,
    /// The topic of the journal, if it is not the usual one.
    pub journal_topic: Option<String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest may hold secrets.
        write!(f, "Options({} at {})", self.topic_subname, self.brokers)
    }
}

/// Name of the credential of systemd that holds the password.
const CREDENTIAL: &str = "kafka-password";

/// Authentication.
#[derive(Clone, Debug, PartialEq)]
pub struct Sasl {
    /// `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// For example `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// Why there are no [`Options`]: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The topic subname is not set; the daemon works without Kafka.
    NoSubname(String),
    /// A setting is wrong.
    Wrong(String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Wrong(text)
    }
}

/// Whether the toml or the environment says how to reach Kafka.
pub fn is_configured(settings: &settings::Kafka, env: Env<'_>) -> bool {
    settings.brokers.is_some()
        || ["LSST_KAFKA_BROKER_ADDR", "LSST_TOPIC_SUBNAME"].iter().any(|name| env(name).is_some())
}

impl Options {
    /// Combines the settings with the environment; a variable that is empty counts as not set.
    ///
    /// # Errors
    /// One line: which setting is missing or wrong.
    pub fn new(settings: &settings::Kafka, env: Env<'_>) -> Result<Self, Problem> {
        let subname = given(env, "LSST_TOPIC_SUBNAME", &settings.topic_subname, value::word);
        let Some(topic_subname) = subname.ok().flatten() else {
            let text = "the topic subname is not set, or not a word; set LSST_TOPIC_SUBNAME or kafka.topic_subname, \
                        or give --no-kafka";
            return Err(Problem::NoSubname(text.to_owned()));
        };
        let list = given(env, "LSST_KAFKA_BROKER_ADDR", &settings.brokers, value::text)?;
        let registry_urls =
            given(env, "LSST_SCHEMA_REGISTRY_URL", &settings.schema_registry_url, value::urls)?;
        let replication_factor =
            given(env, "LSST_KAFKA_REPLICATION_FACTOR", &settings.replication_factor, value::replication)?;
        let producer_acks =
            given(env, "LSST_KAFKA_PRODUCER_WAIT_ACKS", &settings.producer_acks, value::acks)?;
        let file = |whose: &str, setting: &Option<PathBuf>| {
            let path = given(env, &format!("LSST_KAFKA_{whose}_CONFIGURATION"), setting, value::path)?;
            path.map_or(Ok(Vec::new()), |path| read_mapping(&path))
        };
        Ok(Self {
            brokers: brokers(list.as_deref().unwrap_or("broker:29092"))?,
            topic_subname,
            registry_urls,
            sasl: sasl(settings, env)?,
            replication_factor,
            producer_acks,
            broker_client: file("BROKER_CLIENT", &settings.broker_client_configuration)?,
            consumer: file("CONSUMER", &settings.consumer_configuration)?,
            producer: file("PRODUCER", &settings.producer_configuration)?,
            start_wait: settings.start_wait,
            standby: settings.standby.then_some(settings.takeover),
            journal_topic: settings.journal_topic.clone(),
        })
    }

    /// Checks that this build can connect with these options.
    ///
    /// # Errors
    /// One line: TLS or SASL is configured, but this build has no OpenSSL.
    pub fn check_build(&self) -> Result<(), String> {
        let secure = |(key, value): &(String, String)| {
            key == "security.protocol" && !value.eq_ignore_ascii_case("plaintext")
        };
        let more = [&self.broker_client, &self.consumer, &self.producer];
        let asked = self.sasl.is_some() || more.into_iter().flatten().any(secure);
        if asked && !cfg!(feature = "kafka-sasl") {
            let text = "this build cannot do SASL or TLS to Kafka: it was built without the feature kafka-sasl. Install \
                        a full build, unset LSST_KAFKA_SECURITY_USERNAME and LSST_KAFKA_SECURITY_PASSWORD, or give \
                        --no-kafka";
            return Err(text.to_owned());
        }
        Ok(())
    }
}

/// The value of a variable, checked like the setting, or the setting if the variable is not set.
fn given<T: Clone>(
    env: Env<'_>,
    name: &str,
    setting: &T,
    kind: fn(Value) -> Result<T, serde_yaml::Error>,
) -> Result<T, String> {
    let Some(value) = variable(env, name) else { return Ok(setting.clone()) };
    let text = value.into_string().map_err(|_| format!("{name} is not UTF-8"))?;
    kind(Value::String(text)).map_err(|error| format!("{name} {error}"))
}

/// The list of brokers without blanks and empty entries. It is checked here because librdkafka's own errors come late and
/// do not name the setting.
fn brokers(list: &str) -> Result<String, String> {
    let entries: Vec<&str> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let wrong = |entry: &str, why: &str| {
        // The part before an @ may be a password.
        let shown = entry.rsplit('@').next().unwrap_or_default();
        format!(
            "LSST_KAFKA_BROKER_ADDR or kafka.brokers: {shown:?} {why}; write HOST:PORT, as in broker:29092, \
             several joined with commas"
        )
    };
    entries.iter().try_for_each(|entry| check_broker(entry).map_err(|why| wrong(entry, why)))?;
    if entries.is_empty() {
        return Err(wrong(list, "names no broker"));
    }
    Ok(entries.join(","))
}

/// What is wrong with one broker of the list.
fn check_broker(entry: &str) -> Result<(), &'static str> {
    let (protocol, address) = entry.split_once("://").unwrap_or((PROTOCOLS[0], entry));
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_port =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    let is_strange = |c: char| c.is_whitespace() || c.is_control() || "/@;?#[]".contains(c);
    if !PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
        Err("begins with a protocol that is none of Kafka's")
    } else if !is_port {
        Err("has no port from 1 to 65535")
    } else if bare.unwrap_or(host).is_empty() || bare.unwrap_or(host).contains(is_strange) {
        Err("is not the name of a host and its port")
    } else if bare.is_none() && host.contains(':') {
        Err("has more than one colon (an IPv6 address stands in brackets, as in [::1]:9092)")
    } else {
        Ok(())
    }
}

fn sasl(settings: &settings::Kafka, env: Env<'_>) -> Result<Option<Sasl>, String> {
    let username = given(env, "LSST_KAFKA_SECURITY_USERNAME", &settings.username, value::text)?;
    let password = match given(env, "LSST_KAFKA_SECURITY_PASSWORD", &settings.password, value::password)? {
        Some(password) => Some(password),
        None => credential(env)?,
    };
    match (username, password) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => Ok(Some(Sasl {
            protocol: given(env, "LSST_KAFKA_SECURITY_PROTOCOL", &settings.security_protocol, value::text)?,
            mechanism: given(env, "LSST_KAFKA_SECURITY_MECHANISM", &settings.sasl_mechanism, value::text)?,
            username,
            password,
        })),
        (Some(username), None) => Err(format!(
            "the Kafka user {username:?} has no password: set LSST_KAFKA_SECURITY_PASSWORD or kafka.password, or unset \
             LSST_KAFKA_SECURITY_USERNAME and kafka.username"
        )),
        (None, Some(_)) => Err("the Kafka password has no user: set LSST_KAFKA_SECURITY_USERNAME or kafka.username, or \
                                remove the password (LSST_KAFKA_SECURITY_PASSWORD, kafka.password or the credential \
                                kafka-password)"
            .to_owned()),
    }
}

/// The password that systemd passes to the service (`LoadCredential=kafka-password:…`), if it has one.
fn credential(env: Env<'_>) -> Result<Option<Secret>, String> {
    let Some(dir) = variable(env, "CREDENTIALS_DIRECTORY") else { return Ok(None) };
    file::password(&Path::new(&dir).join(CREDENTIAL), "Kafka")
}

/// Whether the value of a setting of librdkafka is the path of a file, as for `ssl.ca.location`. librdkafka does not say
/// which file it could not read.
fn is_file(key: &str) -> bool {
    let what = key.strip_prefix("ssl.").and_then(|key| key.strip_suffix(".location"));
    what.is_some_and(|what| ["ca", "certificate", "crl", "key", "keystore"].contains(&what))
}

/// The value of a setting of librdkafka.
#[derive(Deserialize)]
#[serde(transparent)]
struct Setting(#[serde(deserialize_with = "value::scalar")] String);

/// Reads a YAML mapping of librdkafka settings; their values may be secret, so no error shows one.
fn read_mapping(path: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let text = file::read(path)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{shown}: no such file; it is named for more Kafka settings"))?;
    let read = tree::read_yaml::<Option<BTreeMap<String, Setting>>>(&text).map_err(|fault| {
        let what = "must be a YAML mapping of librdkafka settings to texts, numbers or booleans";
        Error::at(&shown, fault.position, what).to_string()
    })?;
    let pairs: Vec<_> = read.into_iter().flatten().map(|(key, Setting(value))| (key, value)).collect();
    for (key, value) in &pairs {
        // "probe" makes librdkafka look in the usual places.
        if is_file(key) && value != "probe" {
            std::fs::File::open(value)
                .map_err(|error| format!("{shown}: {key}: {value} cannot be read: {error}"))?;
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn options(toml: &settings::Kafka, env: &[(&str, &str)]) -> Result<Options, String> {
        let options = Options::new(toml, &|name| {
            env.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        });
        options.map_err(|problem| match problem {
            Problem::NoSubname(text) | Problem::Wrong(text) => text,
        })
    }

    #[test]
    fn the_password_may_be_a_credential_of_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let env = [
            ("LSST_KAFKA_BROKER_ADDR", "b:1"),
            ("LSST_TOPIC_SUBNAME", "test"),
            ("LSST_KAFKA_SECURITY_USERNAME", "me"),
            ("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap()),
        ];
        let toml = settings::Kafka::default();
        assert!(options(&toml, &env).unwrap_err().contains("has no password"));
        std::fs::write(dir.path().join(CREDENTIAL), "geheim\n").unwrap();
        assert_eq!(options(&toml, &env).unwrap().sasl.unwrap().password, Secret("geheim".to_owned()));
        std::fs::write(dir.path().join(CREDENTIAL), "geheim\nx\n").unwrap();
        let error = options(&toml, &env).unwrap_err();
        assert!(error.contains("must be one line") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_toml_and_the_rest_has_defaults() {
        let toml = settings::Kafka {
            brokers: Some("toml:1".to_owned()),
            topic_subname: Some("toml".to_owned()),
            ..settings::Kafka::default()
        };
        let plain = options(&toml, &[]).unwrap();
        assert_eq!((plain.brokers.as_str(), plain.topic_subname.as_str()), ("toml:1", "toml"));
        assert_eq!(plain.registry_urls, ["http://schema-registry:8081".into()]);
        assert_eq!((plain.replication_factor, plain.producer_acks.as_str()), (1, "1"));
        assert_eq!(plain.sasl, None);
        let env = [
            ("LSST_KAFKA_BROKER_ADDR", "env:2"),
            ("LSST_TOPIC_SUBNAME", "test"),
            ("LSST_SCHEMA_REGISTRY_URL", "http://r:8081/, http://me:a%2Cb@s"),
            ("LSST_KAFKA_SECURITY_USERNAME", "me"),
            ("LSST_KAFKA_SECURITY_PASSWORD", "geheim"),
            ("LSST_KAFKA_REPLICATION_FACTOR", "3"),
            ("LSST_KAFKA_PRODUCER_WAIT_ACKS", "all"),
        ];
        let all = options(&toml, &env).unwrap();
        assert_eq!((all.brokers.as_str(), all.topic_subname.as_str()), ("env:2", "test"));
        assert_eq!(all.registry_urls, ["http://r:8081/".into(), "http://me:a%2Cb@s".into()]);
        assert_eq!((all.replication_factor, all.producer_acks.as_str()), (3, "all"));
        let sasl = all.sasl.clone().unwrap();
        assert_eq!((sasl.protocol.as_str(), sasl.mechanism.as_str()), ("SASL_PLAINTEXT", "SCRAM-SHA-512"));
        assert!(!format!("{all:?} {sasl:?}").contains("geheim"));
        assert_eq!(all.check_build().is_ok(), cfg!(feature = "kafka-sasl"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let none = settings::Kafka::default();
        let check = |env: &[(&str, &str)], expected: &str| {
            let error = options(&none, env).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(&[], "set LSST_TOPIC_SUBNAME or kafka.topic_subname");
        check(&[("LSST_TOPIC_SUBNAME", "a b")], "the topic subname is not set, or not a word");
        let sub = ("LSST_TOPIC_SUBNAME", "sal");
        for bad in ["registry", "http://r:8081,registry", "http://r:8081,", ","] {
            check(&[sub, ("LSST_SCHEMA_REGISTRY_URL", bad)], "LSST_SCHEMA_REGISTRY_URL must be");
        }
        check(&[sub, ("LSST_KAFKA_REPLICATION_FACTOR", "0")], "LSST_KAFKA_REPLICATION_FACTOR must be");
        check(&[sub, ("LSST_KAFKA_PRODUCER_WAIT_ACKS", "2")], "LSST_KAFKA_PRODUCER_WAIT_ACKS must be");
        check(&[sub, ("LSST_KAFKA_CONSUMER_CONFIGURATION", "/none.yaml")], "/none.yaml: no such file");
        let user = ("LSST_KAFKA_SECURITY_USERNAME", "me");
        check(&[sub, user], "the Kafka user \"me\" has no password: set LSST_KAFKA_SECURITY_PASSWORD");
        let password = ("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
        check(&[sub, password], "the Kafka password has no user: set LSST_KAFKA_SECURITY_USERNAME");
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for (list, expected) in [
            ("broker:29092", "broker:29092"),
            (" a:1, b:2 ,", "a:1,b:2"),
            ("127.0.0.1:9092,[::1]:65535", "127.0.0.1:9092,[::1]:65535"),
            ("PLAINTEXT://a:1,sasl_ssl://b:2", "PLAINTEXT://a:1,sasl_ssl://b:2"),
        ] {
            assert_eq!(brokers(list).as_deref(), Ok(expected));
        }
        for (list, shown, why) in [
            ("broker", "broker", "has no port from 1 to 65535"),
            ("a:1,b", "b", "has no port from 1 to 65535"),
            ("tcp://a:1", "tcp://a:1", "a protocol that is none of Kafka's"),
            ("http://a:1", "http://a:1", "a protocol that is none of Kafka's"),
            ("a:1 b:2", "a:1 b:2", "is not the name of a host"),
            ("a: 1", "a: 1", "has no port from 1 to 65535"),
            ("a b:1", "a b:1", "is not the name of a host"),
            ("a:1;b:2", "a:1;b:2", "is not the name of a host"),
            ("a:1/x", "a:1/x", "has no port from 1 to 65535"),
            ("me:geheim@a:1", "a:1", "is not the name of a host"),
            ("a:", "a:", "has no port from 1 to 65535"),
            ("a:port", "a:port", "has no port from 1 to 65535"),
            ("a:0", "a:0", "has no port from 1 to 65535"),
            ("a:+1", "a:+1", "has no port from 1 to 65535"),
            ("a:65536", "a:65536", "has no port from 1 to 65535"),
            (":1", ":1", "is not the name of a host"),
            ("[]:1", "[]:1", "is not the name of a host"),
            ("[::1]", "[::1]", "has no port"),
            ("::1:9092", "::1:9092", "in brackets"),
            (" , ", " , ", "names no broker"),
        ] {
            let error = brokers(list).unwrap_err();
            let expected = format!("LSST_KAFKA_BROKER_ADDR or kafka.brokers: {shown:?} ");
            assert!(error.starts_with(&expected) && error.contains(why), "{list}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn more_settings_are_a_yaml_mapping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("more.yaml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_mapping(&path)
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            read("fetch.wait.max.ms: 20\nclient.id: x\na: true\nb: 1.50\n").unwrap(),
            [pair("a", "true"), pair("b", "1.5"), pair("client.id", "x"), pair("fetch.wait.max.ms", "20")]
        );
        assert_eq!(read("").unwrap(), []);
        for (bad, place) in
            [("[1]", ":1:1"), ("x: 1\na: [geheim]", ":2:4"), ("geheim", ":1:1"), ("a: b: geheim", ":1:5")]
        {
            let error = read(bad).unwrap_err();
            assert!(error.contains(&format!("more.yaml{place}: must be a YAML mapping")), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let shown = path.display();
        assert_eq!(
            read("ssl.ca.location: /nowhere/ca.pem\n").unwrap_err(),
            format!(
                "{shown}: ssl.ca.location: /nowhere/ca.pem cannot be read: No such file or directory (os error 2)"
            )
        );
        assert_eq!(read("ssl.ca.location: probe\n").unwrap(), [pair("ssl.ca.location", "probe")]);
        let itself = format!("ssl.ca.location: {shown}\n");
        assert_eq!(read(&itself).unwrap(), [pair("ssl.ca.location", &shown.to_string())]);
        // What the library alone would take gigabytes or minutes for.
        let uses: String = (0..40_000).map(|i| format!("k{i}: *a\n")).collect();
        let aliases = format!("a: &a {}\n{uses}", "x".repeat(500_000));
        let started = std::time::Instant::now();
        for bad in [aliases, "[".repeat(1 << 20), "{a: ".repeat(200_000)] {
            assert!(read(&bad).unwrap_err().contains("must be a YAML mapping"));
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }

    #[test]
    fn kafka_is_configured_in_the_toml_or_the_environment() {
        let toml = settings::Kafka { brokers: Some("b:1".to_owned()), ..settings::Kafka::default() };
        let none = settings::Kafka::default();
        let nothing = |_: &str| None;
        let subname = |name: &str| (name == "LSST_TOPIC_SUBNAME").then(|| OsString::from("sal"));
        assert!(!is_configured(&none, &nothing));
        assert!(is_configured(&none, &subname));
        assert!(is_configured(&toml, &nothing));
    }
}
