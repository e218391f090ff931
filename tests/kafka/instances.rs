//! Two with the same index.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Home, Killed, eventually, run};
use crate::rig::Rig;

#[test]
fn the_second_instance_says_so_and_ends() {
    let rig = Rig::new("");
    let _first = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("heartbeat");
    let home = Home::new();
    let mut second = rig.daemon_in(&home, &[]);
    let ran = run(&mut second);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("another instance with index 1 (LATISS) lives: OCPS:1, process"), "{ran:?}");
    // It has said nothing but its log level.
    foreign.listen(Duration::from_millis(500));
    let origins: std::collections::BTreeSet<i64> = foreign
        .heard
        .iter()
        .filter(|heard| !["logevent_logLevel", "logevent_logMessage"].contains(&heard.topic.as_str()))
        .map(|heard| heard.int("private_origin"))
        .collect();
    assert_eq!(origins.len(), 1);
}

#[test]
fn one_that_shows_up_later_is_a_fault() {
    let rig = Rig::new("");
    let daemon = rig.start(&["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    // Its heartbeat, as ours but of another process.
    let ours = foreign.event("heartbeat");
    // Of another index: none of our business.
    let other = foreign.altered(&ours, &json!({"salIndex": 2, "private_origin": 99}));
    let intruder = foreign.altered(&ours, &json!({"private_origin": 99}));
    foreign.write("logevent_heartbeat", Some(&other));
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
    assert!(!daemon.stderr().contains("another instance"));
    foreign.write("logevent_heartbeat", Some(&intruder));
    foreign.state(3);
    let code =
        foreign.find("the code", |heard| heard.topic == "logevent_errorCode" && heard.int("errorCode") == 3);
    assert_eq!(code.text("errorReport"), "another instance with index 1 (LATISS) lives: OCPS:1, process 99");
    // Once is enough. What follows in its topic and is counted tells that it was read, before the command in another.
    foreign.write("logevent_heartbeat", Some(&intruder));
    let other = r#"{"type":"record","name":"x","fields":[{"name":"salIndex","type":"int"},{"name":"private_identity","type":"int"}]}"#;
    let id = rig.registry.memory.lock().unwrap().register("other", other).unwrap();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(id).unwrap().to_be_bytes());
    bytes.extend([2, 2]);
    foreign.write("logevent_heartbeat", Some(&bytes));
    let mut client = daemon.connect();
    eventually("it was read", || client.query("status")["kafka"]["undecodable"] == 1);
    assert_eq!(foreign.run("standby", &json!({})), "303 Done");
    let faults = |foreign: &crate::foreign::Foreign| {
        foreign.of("logevent_summaryState").iter().filter(|heard| heard.int("summaryState") == 3).count()
    };
    assert_eq!(faults(&foreign), 1);
}

#[test]
fn what_is_asked_for_while_starting_is_done_after_it() {
    let mut rig = Rig::new("");
    // Without it the start cannot end before we have looked.
    rig.registry.down();
    let mut child = Killed(rig.daemon(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the socket", || std::os::unix::net::UnixStream::connect(rig.home.socket()).is_ok());
    let mut client = crate::harness::Client::connect(&rig.home.socket());
    // The status is told at once, a command is carried out after the start.
    let seq = client.send("start", &json!({}));
    let status = client.query("status");
    assert_ne!(status["kafka"]["stage"], "joined");
    assert!(!client.heard.iter().any(|line| line["ack"]["seq"] == seq));
    rig.registry.up();
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    assert_eq!(client.query("status")["kafka"]["stage"], "joined");
    assert!(child.0.try_wait().unwrap().is_none());
}
