//! What cannot be taken is skipped, counted and logged; what cannot be set is refused.

use serde_json::json;

use crate::harness::{QUICK, eventually, run};
use crate::rig::Rig;

#[test]
fn malformed_messages_are_skipped_and_later_commands_are_executed() {
    let rig = Rig::new(QUICK);
    let (daemon, mut foreign) = rig.enabled();
    let good = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": 1}));
    let mut unknown = good.clone();
    unknown[1..5].copy_from_slice(&9999_u32.to_be_bytes());
    let zero = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": 0}));
    let negative = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": -5}));
    let mut poison: Vec<Option<Vec<u8>>> = vec![
        None,
        Some(Vec::new()),
        Some(b"garbage".to_vec()),
        Some(vec![0, 0]),
        Some(unknown),
        Some(good[..good.len() - 4].to_vec()),
        Some(zero),
        Some(negative),
    ];
    // A schema that means something else.
    let other = r#"{"type":"record","name":"x","fields":[{"name":"salIndex","type":"int"},{"name":"pipeline","type":"int"}]}"#;
    let id = rig.registry.memory.lock().unwrap().register("other", other).unwrap();
    let mut foreign_schema = vec![0];
    foreign_schema.extend(u32::try_from(id).unwrap().to_be_bytes());
    foreign_schema.extend([2, 2]);
    poison.push(Some(foreign_schema));
    for payload in &poison {
        foreign.write("command_execute", payload.as_deref());
    }
    for _ in 0..16 {
        foreign.write("command_execute", Some(b"garbage"));
    }
    let seq = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.final_ack(seq), "303 Done");
    assert_eq!(foreign.of("ackcmd").len(), 2);
    let total = poison.len() + 16;
    let mut client = daemon.connect();
    assert_eq!(client.query("status")["kafka"]["undecodable"], total);
    let complaints = || daemon.stderr().lines().filter(|line| line.contains("that cannot be taken")).count();
    eventually("the last is logged", || complaints() > total / 10);
    assert_eq!(complaints(), 1 + total / 10, "{}", daemon.stderr());
}

#[test]
fn a_command_of_another_index_is_not_ours() {
    let rig = Rig::new("");
    let _daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("errorCode");
    for index in [0, 2, 101] {
        foreign.send("start", &json!({ "salIndex": index }));
    }
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    assert_eq!(foreign.of("ackcmd").len(), 1);
}

#[test]
fn an_ack_too_large_for_the_broker_stops_nothing() {
    let rig = Rig::new("");
    rig.home.write("producer.yaml", "message.max.bytes: 4000\n");
    let mut command = rig.daemon(&["--state", "enabled"]);
    command.env("LSST_KAFKA_PRODUCER_CONFIGURATION", rig.home.path("producer.yaml"));
    let daemon = crate::harness::Daemon::start(command, rig.home.socket());
    let mut foreign = rig.foreign();
    foreign.state(2);
    // Repeated in the refusal, so that the ack and the log message get long.
    let long = "x".repeat(3000);
    foreign.run("start", &json!({ "configurationOverride": format!("{long}.yaml") }));
    let seq = foreign.send("setLogLevel", &json!({"level": 10}));
    assert_eq!(foreign.final_ack(seq), "303 Done");
    drop(daemon);
}

#[test]
fn settings_that_cannot_be_are_refused_in_one_line() {
    let rig = Rig::new("");
    rig.home.write("bad.yaml", "no.such.setting: 1\n");
    let with = |name: &str, value: &str| {
        let mut command = rig.daemon(&[]);
        command.env(name, value);
        run(&mut command)
    };
    let check = |ran: &crate::harness::Ran, expected: &str| {
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
        assert!(!ran.stderr.contains("geheim"), "{ran:?}");
    };
    let bad = rig.home.path("bad.yaml");
    let bad = bad.to_str().unwrap();
    check(&with("LSST_KAFKA_PRODUCER_CONFIGURATION", bad), "no.such.setting");
    check(&with("LSST_KAFKA_REPLICATION_FACTOR", "many"), "LSST_KAFKA_REPLICATION_FACTOR");
    check(&with("LSST_SCHEMA_REGISTRY_URL", "nowhere"), "LSST_SCHEMA_REGISTRY_URL");
    let brokers = "LSST_KAFKA_BROKER_ADDR";
    check(&with(brokers, "tcp://broker:9092"), "\"tcp://broker:9092\" begins with a protocol that is none");
    check(
        &with(brokers, "a:9092 b:9092"),
        "\"a:9092 b:9092\" is not the name of a host and its port; write HOST:PORT",
    );
    check(&with(brokers, "broker"), "\"broker\" has no port");
    check(&with("LSST_KAFKA_SECURITY_USERNAME", "me"), "the Kafka user \"me\" has no password");
    check(&with("LSST_KAFKA_SECURITY_PASSWORD", "geheim"), "the Kafka password has no user");
    if !cfg!(feature = "kafka-sasl") {
        let mut command = rig.daemon(&[]);
        command.env("LSST_KAFKA_SECURITY_USERNAME", "me").env("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
        check(&run(&mut command), "built without the feature kafka-sasl");
    }
}

#[test]
fn without_a_subname_it_logs_that_and_serves_its_socket() {
    let rig = Rig::new("");
    let mut command = rig.daemon(&["--state", "enabled"]);
    command.env_remove("LSST_TOPIC_SUBNAME");
    let daemon = crate::harness::Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    client.state(2);
    eventually("it is logged", || daemon.stderr().contains("set LSST_TOPIC_SUBNAME or kafka.topic_subname"));
    assert_eq!(client.query("status")["kafka"]["stage"], "off");
}

#[test]
fn a_wrong_address_is_named_once() {
    let rig = Rig::new("[kafka]\nstart_timeout_s = 3\n");
    let mut command = rig.daemon(&[]);
    command.env("LSST_KAFKA_BROKER_ADDR", "127.0.0.1:1");
    let mut daemon = crate::harness::Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    client.state(5);
    eventually("the reason is logged", || daemon.stderr().contains("Connection refused"));
    eventually("what follows is logged", || daemon.stderr().contains("starting without it"));
    daemon.terminate();
    let log = daemon.stderr();
    assert!(log.lines().filter(|line| line.contains("127.0.0.1:1")).count() <= 2, "{log}");
}
