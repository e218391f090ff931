//! What is published at the start, in which order, and how it is written.

use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use serde_json::json;

use crate::foreign::{PRIVATE, topics};
use crate::harness::{Daemon, PATIENCE, QUICK, eventually};
use crate::rig::Rig;

#[test]
fn the_start_is_published_in_the_order_of_salobj() {
    let rig = Rig::new("");
    let _daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    // Each is in a partition of its own, so a consumer may get them in another order; the stamps have it.
    let order = [
        "logLevel",
        "heartbeat",
        "simulationMode",
        "softwareVersions",
        "summaryState",
        "errorCode",
        "configurationsAvailable",
    ];
    let stamps = order.map(|name| {
        let first = foreign.event(name);
        assert_eq!(first.int("private_seqNum"), 1, "{first:?}");
        first.data["private_sndStamp"].as_f64().unwrap()
    });
    assert!(stamps.windows(2).all(|pair| pair[0] <= pair[1]), "{order:?} {stamps:?}");
    // Three seconds of listening for another instance lie between.
    assert!(stamps[1] - stamps[0] > 2.9, "{stamps:?}");
}

#[test]
fn messages_have_our_keys_and_private_fields() {
    let rig = Rig::new(QUICK);
    let (daemon, mut foreign) = rig.enabled();
    let seq = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.final_ack(seq), "303 Done");
    foreign.event("job_result");
    let pid = i64::from(daemon.pid().as_raw_pid());
    let utc = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for received in &foreign.received {
        let topic = &received.topic;
        assert_eq!(received.key, format!(r#"{{ "name": "OCPS", "index": 1, "topic": "{topic}" }}"#));
        let number = |field: &str| received.data[field].as_f64().unwrap();
        assert_eq!(received.int("salIndex"), 1);
        assert_eq!(received.int("private_origin"), pid);
        assert_eq!(received.text("private_identity"), "OCPS:1");
        assert_eq!(received.text("private_revCode").len(), 8);
        assert!(received.id >= 1);
        assert!((number("private_sndStamp") - utc - 37.0).abs() < 30.0, "{received:?}");
        assert!((number("private_sndStamp") - number("private_efdStamp") - 37.0).abs() < 1e-6);
        assert_eq!(number("private_kafkaStamp"), number("private_sndStamp"));
        assert_eq!(number("private_rcvStamp"), 0.0);
    }
    for topic in topics().iter().filter(|topic| *topic != "ackcmd") {
        let numbers: Vec<i64> =
            foreign.of(topic).iter().map(|received| received.int("private_seqNum")).collect();
        assert!(numbers.iter().copied().eq((1..).take(numbers.len())), "{topic} {numbers:?}");
        let stamps: Vec<f64> = foreign
            .of(topic)
            .iter()
            .map(|received| received.data["private_sndStamp"].as_f64().unwrap())
            .collect();
        assert!(stamps.is_sorted(), "{topic} {stamps:?}");
    }
}

#[test]
fn a_schema_of_the_registry_is_adopted() {
    let rig = Rig::new("");
    let subject = format!("lsst.{}.OCPS.logevent_summaryState-value", rig.subname);
    let fields: Vec<serde_json::Value> = [("new", "string")]
        .iter()
        .chain(&PRIVATE)
        .chain(&[("summaryState", "int")])
        .map(|(name, kind)| match *kind {
            "string" => json!({"name": name, "type": kind, "default": "as it was"}),
            "double" => json!({"name": name, "type": kind, "default": 0.0}),
            _ => json!({"name": name, "type": kind, "default": 0}),
        })
        .collect();
    let text = json!({"type": "record", "name": "logevent_summaryState", "namespace": "lsst.sal.OCPS",
        "fields": fields})
    .to_string();
    let id = rig.registry.memory.lock().unwrap().register(&subject, &text).unwrap();
    let _daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    let state = foreign.event("summaryState");
    assert_eq!((state.id, state.int("summaryState"), state.text("new")), (id, 5, "as it was"));
    assert_eq!(rig.registry.memory.lock().unwrap().subjects[&subject], [id]);
}

#[test]
fn without_broker_and_registry_the_socket_works_and_kafka_is_joined_later() {
    let mut rig = Rig::alone("[kafka]\nstart_timeout_s = 1\n");
    rig.broker_down();
    rig.registry.down();
    let mut daemon = rig.start(&["--state", "enabled"]);
    let mut client = daemon.subscribe();
    client.state(2);
    let status = client.query("status");
    assert!(status["not_ready"].as_str().unwrap().starts_with("no commands over Kafka: "), "{status}");
    assert_eq!(status["kafka"]["up"], false);
    assert_eq!(client.run("disable", &json!({})), "CMD_COMPLETE Done");
    rig.broker_up();
    eventually("the registry is missed", || daemon.stderr().contains("the schema registry http://127.0.0.1"));
    rig.registry.up();
    let mut foreign = rig.foreign();
    // All that happened meanwhile is published now, in its order.
    foreign.find("the last state", |received| {
        received.topic == "logevent_summaryState" && received.int("private_seqNum") == 4
    });
    let states: Vec<i64> =
        foreign.of("logevent_summaryState").iter().map(|received| received.int("summaryState")).collect();
    assert_eq!(states, [5, 1, 2, 1]);
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    assert_eq!(client.query("status")["not_ready"], json!(null));
    daemon.terminate();
}

#[test]
fn it_is_ready_when_it_has_joined() {
    let rig = Rig::new("");
    let manager = UnixDatagram::bind(rig.home.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    // The second run finds topics, schemas and what the first has written.
    for run in ["first", "second"] {
        let mut command = rig.daemon(&["--state", "enabled"]);
        command.env("NOTIFY_SOCKET", rig.home.path("notify"));
        let begun = Instant::now();
        let mut daemon = Daemon::start(command, rig.home.socket());
        let mut notified = [0; 4096];
        while !String::from_utf8_lossy(&notified).contains("READY=1") {
            notified.fill(0);
            manager.recv(&mut notified).unwrap();
        }
        // Three seconds of it are for listening; `--nocapture` shows the rest.
        println!("the {run} is ready after {:.3} s", begun.elapsed().as_secs_f64());
        let kafka = &daemon.connect().query("status")["kafka"];
        assert_eq!((&kafka["stage"], &kafka["problem"]), (&json!("joined"), &json!(null)));
        daemon.terminate();
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_with_kafka() {
    let mut rig = Rig::alone("");
    let has = |(code, text): &(Option<i32>, String), wanted: i32, lines: &[&str]| {
        assert_eq!(*code, Some(wanted), "{text}");
        for line in lines {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is not in {text}");
        }
    };
    let none = "ok    other instance  there is no heartbeat of index 1";
    let schemas = "ok    schemas         all fit, ";
    let lines = ["ok    brokers ", "ok    topics ", "ok    compaction ", "ok    registry ", schemas, none];
    has(&rig.doctor("s.sock"), 0, &lines);
    assert!(rig.registry.memory.lock().unwrap().subjects.is_empty(), "nothing is registered");

    let mut daemon = rig.start(&[]);
    let mut client = daemon.subscribe();
    eventually("it has joined", || client.query("status")["not_ready"].is_null());
    let all = "ok    schemas         all fit, 0 are to be registered at the start";
    // Those of the commands are registered a little later.
    eventually("all are registered", || rig.doctor("s.sock").1.contains(all));
    has(&rig.doctor("s.sock"), 0, &[all, "ok    other instance  the last heartbeat of index 1 "]);
    // That one is not ours.
    has(&rig.doctor("elsewhere.sock"), 1, &["WRONG other instance  another instance with index "]);
    daemon.terminate();

    let subject = format!("lsst.{}.OCPS.logevent_summaryState-value", rig.subname);
    let unfit = r#"{"type": "record", "name": "logevent_summaryState", "fields": [{"name": "must", "type": "string"}]}"#;
    rig.registry.memory.lock().unwrap().register(&subject, unfit).unwrap();
    has(&rig.doctor("s.sock"), 1, &["WRONG schemas         schema "]);
    rig.registry.down();
    has(&rig.doctor("s.sock"), 1, &["WRONG registry "]);
    rig.broker_down();
    has(&rig.doctor("s.sock"), 1, &["WRONG brokers         the broker "]);
}
