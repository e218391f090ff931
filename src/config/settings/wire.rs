//! `ocps.toml` as it is written: its tables and keys. It knows nothing of where the text comes from.

use serde::Deserialize;

use super::value::{
    Acks, Count, Days, FilePath, Index, LeapSeconds, Level, OnOff, Password, Port, Positive, Proxy,
    RegistryUrls, Seconds, Seed, Site, Subname, Switch, Text,
};
use super::{Kafka, Log, Redis, Settings, Simulation, Uws};

/// Most polls at the same time: each is a thread and a connection, and the service answers one by one.
const MAX_CONNECTIONS: usize = 32;

/// Most jobs that can be allowed at once: each costs memory and a poll per interval.
const MAX_JOBS: usize = 100_000;

/// Highest replication factor of a topic.
const MAX_REPLICATION: usize = 100;

/// `ocps.toml` as it is written. What is absent keeps its default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wire {
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
    list_timeout_s: Option<Positive>,
    delete_timeout_s: Option<Positive>,
    submit_timeout_s: Option<Positive>,
    settle_time_s: Option<Positive>,
    resubmit_limit_s: Option<Positive>,
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
    schema_registry_url: Option<RegistryUrls>,
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
    start_wait_s: Option<Seconds>,
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
            start_wait: self.start_wait_s.map(|v| v.0),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
struct WireLimits {
    jobs: Option<Count<MAX_JOBS>>,
}

impl Wire {
    pub(super) fn into_settings(self) -> Settings {
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
            list_timeout: self.list_timeout_s.map_or(default.list_timeout, |v| v.0),
            delete_timeout: self.delete_timeout_s.map_or(default.delete_timeout, |v| v.0),
            submit_timeout: self.submit_timeout_s.map_or(default.submit_timeout, |v| v.0),
            settle_time: self.settle_time_s.map_or(default.settle_time, |v| v.0),
            resubmit_limit: self.resubmit_limit_s.map_or(default.resubmit_limit, |v| v.0),
            outage_limit: self.outage_limit_s.map_or(default.outage_limit, |v| v.0),
            connections: self.connections.map_or(default.connections, |v| v.0),
            proxy: self.proxy.map(|v| v.0),
        }
    }
}
