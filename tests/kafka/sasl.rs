//! SASL SCRAM, where `OCPS_TEST_SASL_BROKER` names a listener that wants it.

use serde_json::json;

use crate::harness::{Daemon, eventually};
use crate::rig::Rig;

fn listener() -> Option<String> {
    std::env::var("OCPS_TEST_SASL_BROKER").ok().filter(|value| !value.is_empty())
}

#[test]
fn with_the_right_password_all_is_as_ever() {
    let Some(listener) = listener() else { return };
    let rig = Rig::new("");
    let mut command = rig.daemon(&["--state", "enabled"]);
    command
        .env("LSST_KAFKA_BROKER_ADDR", listener)
        .env("LSST_KAFKA_SECURITY_USERNAME", "ocps")
        .env("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
    let daemon = Daemon::start(command, rig.home.socket());
    eventually("it has joined", || daemon.stderr().contains("Kafka: at "));
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
    assert!(!daemon.stderr().contains("geheim"));
}

#[test]
fn a_wrong_password_is_told_in_one_line() {
    let Some(listener) = listener() else { return };
    let rig = Rig::new("[kafka]\nstart_timeout_s = 3\n");
    let mut command = rig.daemon(&["--loglevel", "debug"]);
    command
        .env("LSST_KAFKA_BROKER_ADDR", listener)
        .env("LSST_KAFKA_SECURITY_USERNAME", "ocps")
        .env("LSST_KAFKA_SECURITY_PASSWORD", "gehemnis");
    let daemon = Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    client.state(5);
    let log = daemon.stderr();
    let lines = log.lines().filter(|line| line.contains("[WARN]") && line.contains("does not let us in"));
    assert_eq!(lines.count(), 1, "{log}");
    assert!(!log.contains("gehemnis"), "{log}");
}
