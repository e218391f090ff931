//! Topics change while the daemon runs. Only a real broker can do that: the mock has no such requests.

use std::time::Duration;

use pollster::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

use crate::foreign::{Foreign, topics};
use crate::harness::{PATIENCE, QUICK, eventually};
use crate::rig::Rig;

fn admin(rig: &Rig) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

fn add_partitions(rig: &Rig, foreign: &Foreign, topic: &str, total: usize) {
    let name = foreign.name(topic);
    let results = block_on(admin(rig).create_partitions(&[NewPartitions::new(&name, total)], &options()));
    for result in results.unwrap() {
        result.unwrap();
    }
}

fn delete(rig: &Rig, foreign: &Foreign, topics: &[&str]) {
    let names: Vec<String> = topics.iter().map(|topic| foreign.name(topic)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for result in block_on(admin(rig).delete_topics(&names, &options())).unwrap() {
        result.unwrap();
    }
}

/// Writes to this partition, as soon as there is one.
fn write(rig: &Rig, foreign: &Foreign, topic: &str, partition: i32, payload: &[u8]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap();
    let name = foreign.name(topic);
    eventually("the partition is there", || {
        let found = producer.client().fetch_metadata(Some(&name), PATIENCE).unwrap();
        found.topics()[0].partitions().iter().any(|found| found.id() == partition && found.leader() >= 0)
    });
    producer.send(BaseRecord::to(&name).partition(partition).key("x").payload(payload)).unwrap();
    producer.flush(PATIENCE).unwrap();
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let rig = Rig::new(QUICK);
    if !rig.is_real() {
        return;
    }
    let (daemon, mut foreign) = rig.enabled();
    add_partitions(&rig, &foreign, "command_execute", 3);
    // Written before the daemon has seen that they are there.
    for partition in [2, 1, 0] {
        let seq = 100 + partition;
        let bytes = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": seq}));
        write(&rig, &foreign, "command_execute", partition, &bytes);
    }
    for seq in [102, 101, 100] {
        assert_eq!(foreign.final_ack(seq), "303 Done");
    }
    eventually("it is logged", || daemon.stderr().contains("command_execute has new partitions"));
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
}

#[test]
fn topics_that_are_deleted_are_made_again_with_the_latest_state_in_them() {
    let rig = Rig::new(QUICK);
    if !rig.is_real() {
        return;
    }
    let (daemon, mut foreign) = rig.enabled();
    for _ in 0..3 {
        assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    }
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    let all = topics();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    delete(&rig, &foreign, &all);
    eventually("all are there again", || {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap();
        let found = producer.client().fetch_metadata(None, PATIENCE).unwrap();
        let names: Vec<&str> = found.topics().iter().map(|topic| topic.name()).collect();
        all.iter().all(|topic| names.contains(&foreign.name(topic).as_str()))
    });
    // A client that comes late gets the present state, though nothing has happened since.
    let mut late = foreign.again();
    late.state(2);
    let event = |late: &mut Foreign, name: &str| late.event(name).data;
    assert_eq!(event(&mut late, "logLevel")["level"], 10);
    assert_eq!(event(&mut late, "errorCode")["errorCode"], 0);
    for name in ["configurationApplied", "configurationsAvailable", "softwareVersions", "simulationMode"] {
        event(&mut late, name);
    }
    assert_eq!(late.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    assert_eq!(late.run("disable", &json!({})), "303 Done");
    // The next check finds nothing new.
    late.listen(Duration::from_secs(12));
    let log = daemon.stderr();
    assert_eq!(log.matches("job_result was made again").count(), 1, "{log}");
    assert!(log.contains("deleted topics are created again"), "{log}");
    assert!(!log.contains("cannot be reached") && !log.contains("ERROR"), "{log}");
    let problem = || daemon.connect().query("status")["kafka"]["problem"].clone();
    eventually("nothing is wrong any more", || problem().is_null());
}

#[test]
fn a_topic_that_others_make_again_at_once_is_read_and_written_too() {
    let rig = Rig::new(QUICK);
    if !rig.is_real() {
        return;
    }
    let (_daemon, mut foreign) = rig.enabled();
    for _ in 0..3 {
        assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    }
    let changed = ["logevent_summaryState", "command_execute"];
    delete(&rig, &foreign, &changed);
    let names = changed.map(|topic| foreign.name(topic));
    let new: Vec<NewTopic<'_>> =
        names.iter().map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1))).collect();
    // The daemon may have been faster.
    block_on(admin(&rig).create_topics(&new, &options())).unwrap();
    let mut late = foreign.again();
    late.state(2);
    assert_eq!(late.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
}

/// The first so many batches of a partition's log.
fn beginning(log: &[u8], batches: usize) -> usize {
    let length = |at: usize| {
        12 + usize::try_from(i32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap())).unwrap()
    };
    (0..batches).fold(0, |at, _| at + length(at))
}

#[test]
fn old_commands_are_not_carried_out_when_the_broker_has_lost_the_newest() {
    let rig = Rig::alone(QUICK);
    if !rig.is_real() {
        return;
    }
    let (mut first, foreign) = rig.enabled();
    first.terminate();
    // Of yesterday.
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap();
    let name = foreign.name("command_execute");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let yesterday = i64::try_from(now.as_millis()).unwrap() - 86_400_000;
    for seq in 1..=5 {
        let bytes = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": seq}));
        producer.send(BaseRecord::to(&name).key("x").payload(&bytes).timestamp(yesterday)).unwrap();
        producer.flush(PATIENCE).unwrap();
    }

    let second = rig.start(&["--state", "enabled"]);
    let mut foreign = foreign.again();
    let origin = i64::from(second.pid().as_raw_pid());
    foreign.find("the second", |received| {
        received.topic == "logevent_summaryState"
            && received.int("summaryState") == 2
            && received.int("private_origin") == origin
    });
    rig.broker_down();
    let log = rig.own_data().join(format!("{name}-0/00000000000000000000.log"));
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..beginning(&bytes, 3)]).unwrap();
    rig.broker_up();
    let mut foreign = foreign.again();
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    let old = |received: &&crate::foreign::Received| received.int("private_seqNum") <= 5;
    assert_eq!(foreign.of("ackcmd").into_iter().filter(old).count(), 0, "{:#?}", foreign.story());
    eventually("it is logged", || {
        second.stderr().contains("command_execute, partition 0: the broker has lost messages")
    });
}
