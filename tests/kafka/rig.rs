//! A broker, a registry, a daemon and a foreign client for each test.
//!
//! The broker is librdkafka's mock in this process; or, when `OCPS_TEST_BROKER` names one, a real one, which the tests
//! share: each has a topic subname of its own. A test that stops the broker has one that it does not share, which
//! `OCPS_TEST_BROKER_CONTROL` (`broker.sh`) makes for it. Where there are several brokers, joined with commas, each topic
//! has a copy on each.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::foreign::{Foreign, topics};
use crate::harness::{Daemon, Home, run};
use crate::registry::Registry;
use crate::support::uws_service::UwsService;

enum Broker {
    Mock(MockCluster<'static, DefaultProducerContext>),
    /// Real ones, by the number of their cluster.
    Real(usize),
}

/// The cluster that tests share.
const SHARED: usize = 1;

pub(crate) struct Rig {
    broker: Broker,
    pub(crate) brokers: String,
    pub(crate) registry: Registry,
    pub(crate) home: Home,
    pub(crate) subname: String,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Rig {
    /// With a broker that other tests use too.
    pub(crate) fn new(toml: &str) -> Self {
        let shared = variable("OCPS_TEST_BROKER");
        Self::with(toml, shared.map(|brokers| (Broker::Real(SHARED), brokers)))
    }

    /// With a broker of its own, which the test may stop.
    pub(crate) fn alone(toml: &str) -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(SHARED);
        let own = variable("OCPS_TEST_BROKER_CONTROL").map(|_| {
            let cluster = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            let output = control(cluster, &["new"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let addresses = String::from_utf8(output.stdout).unwrap();
            (Broker::Real(cluster), addresses.split(' ').next().unwrap().to_owned())
        });
        Self::with(toml, own)
    }

    /// With these real brokers, else with a mock.
    fn with(toml: &str, real: Option<(Broker, String)>) -> Self {
        let subname = format!("test{:08x}", fastrand::u32(..));
        let (broker, brokers) = real.unwrap_or_else(|| {
            let cluster = MockCluster::new(1).unwrap();
            // It cannot create topics when asked over the wire.
            for topic in topics() {
                cluster.create_topic(&format!("lsst.{subname}.OCPS.{topic}"), 1, 1).unwrap();
            }
            let brokers = cluster.bootstrap_servers();
            (Broker::Mock(cluster), brokers)
        });
        let port = variable("OCPS_TEST_REGISTRY_PORT").and_then(|port| port.parse().ok()).unwrap_or(0);
        let home = Home::with_toml(toml);
        // The mock answers a fetch only at the end of its wait.
        home.write("consumer.yaml", "fetch.wait.max.ms: 20\n");
        Self { broker, brokers, registry: Registry::start(port), home, subname }
    }

    pub(crate) fn is_real(&self) -> bool {
        matches!(self.broker, Broker::Real(_))
    }

    /// `ocps run 1 --simulate` with these flags, joined to this rig by the environment.
    pub(crate) fn daemon(&self, args: &[&str]) -> Command {
        self.daemon_in(&self.home, args)
    }

    /// The same, with the files of another home.
    pub(crate) fn daemon_in(&self, home: &Home, args: &[&str]) -> Command {
        let mut all = vec!["1", "--simulate"];
        all.extend(args);
        self.joined(home.daemon(&all))
    }

    /// What `ocps doctor` finds for that daemon: its exit code and its output. It looks for a daemon at this socket.
    pub(crate) fn doctor(&self, socket: &str) -> (Option<i32>, String) {
        let ran = run(&mut self.doctor_command(socket));
        (ran.code, ran.stdout)
    }

    pub(crate) fn doctor_command(&self, socket: &str) -> Command {
        let mut command = self.home.ocps();
        let flags = ["--index", "1", "--simulate", "--socket", socket];
        self.home.run_args(command.arg("doctor"), &flags);
        self.joined(command)
    }

    /// Makes a daemon a part of this rig, by its environment.
    pub(crate) fn joined(&self, mut command: Command) -> Command {
        command
            .env("LSST_TOPIC_SUBNAME", &self.subname)
            .env("LSST_KAFKA_BROKER_ADDR", &self.brokers)
            .env("LSST_SCHEMA_REGISTRY_URL", self.registry.url());
        if self.brokers() > 1 {
            command
                .env("LSST_KAFKA_REPLICATION_FACTOR", self.brokers().to_string())
                .env("LSST_KAFKA_PRODUCER_WAIT_ACKS", "all");
        }
        if !self.is_real() {
            command.env("LSST_KAFKA_CONSUMER_CONFIGURATION", self.home.path("consumer.yaml"));
        }
        command
    }

    pub(crate) fn start(&self, args: &[&str]) -> Daemon {
        Daemon::start(self.daemon(args), self.home.socket())
    }

    /// A simulated daemon that is ENABLED, and a client that has seen it.
    pub(crate) fn enabled(&self) -> (Daemon, Foreign) {
        let daemon = self.start(&["--state", "enabled"]);
        let mut foreign = self.foreign();
        foreign.state(2);
        (daemon, foreign)
    }

    /// `ocps run 1` with these flags, which runs its jobs at this service.
    pub(crate) fn start_for(&self, service: &UwsService, args: &[&str]) -> Daemon {
        self.start_in(&self.home, service, args)
    }

    /// The same, with the files of another home.
    pub(crate) fn start_in(&self, home: &Home, service: &UwsService, args: &[&str]) -> Daemon {
        let layer = format!("url: {}\npoll_interval: 0.2\n", service.url());
        home.write("configuration/_init.yaml", &layer);
        let mut all = vec!["1"];
        all.extend(args);
        Daemon::start(self.joined(home.daemon(&all)), home.socket())
    }

    pub(crate) fn foreign(&self) -> Foreign {
        Foreign::new(&self.brokers, &self.subname, self.registry.memory.clone())
    }

    pub(crate) fn brokers(&self) -> usize {
        self.brokers.split(',').count()
    }

    /// Takes the broker away.
    pub(crate) fn broker_down(&self) {
        match &self.broker {
            Broker::Mock(cluster) => cluster.broker_down(1).unwrap(),
            Broker::Real(_) => self.do_with_own(&["stop"]),
        }
    }

    pub(crate) fn broker_up(&self) {
        match &self.broker {
            Broker::Mock(cluster) => cluster.broker_up(1).unwrap(),
            Broker::Real(_) => self.do_with_own(&["start"]),
        }
    }

    fn do_with_own(&self, what: &[&str]) {
        assert!(self.own(what).status().unwrap().success(), "{what:?}");
    }

    /// The command that does so with the real broker that only this test uses.
    pub(crate) fn own(&self, what: &[&str]) -> Command {
        match self.broker {
            Broker::Real(cluster) if cluster != SHARED => control(cluster, what),
            _ => panic!("other tests use this broker too: {what:?}"),
        }
    }

    /// Where that broker keeps its messages.
    pub(crate) fn own_data(&self) -> PathBuf {
        let Broker::Real(cluster) = self.broker else { panic!("a mock keeps nothing") };
        PathBuf::from(variable("KAFKA_DIR").unwrap()).join(format!("{cluster}/1/data"))
    }

    /// From now on only those who are named so may do so with this topic of the real broker.
    #[cfg(feature = "kafka-sasl")]
    pub(crate) fn allow(&self, user: &str, topic: &str, operations: &[&str]) {
        let mut all = vec!["allow", user, topic];
        all.extend(operations);
        assert!(control(SHARED, &all).status().unwrap().success(), "{all:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Broker::Real(cluster) = self.broker
            && cluster != SHARED
        {
            let _ = control(cluster, &["stop"]).status();
        }
    }
}

/// Does this with the real brokers of a cluster.
fn control(cluster: usize, what: &[&str]) -> Command {
    let mut command = Command::new(variable("OCPS_TEST_BROKER_CONTROL").unwrap());
    command.args(what).env("KAFKA_CLUSTER", cluster.to_string());
    command
}

/// Which listener of the real broker, or what else `tests/kafka/real.sh` sets.
#[cfg(feature = "kafka-sasl")]
pub(crate) fn given(name: &str) -> Option<String> {
    variable(name)
}

/// How long the broker is away in a test, in seconds: `OCPS_TEST_OUTAGE_S`, else a short while.
pub(crate) fn outage() -> Duration {
    Duration::from_secs(variable("OCPS_TEST_OUTAGE_S").and_then(|text| text.parse().ok()).unwrap_or(5))
}
