//! All commands, from a foreign client.

use serde_json::{Value, json};

use crate::harness::QUICK;
use crate::rig::Rig;

#[test]
fn every_command_is_acked() {
    let rig = Rig::new(QUICK);
    let mut daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("errorCode");
    let none = json!({});
    let refused = |name: &str, state: &str| format!("-302 Failed: {name} not allowed in state {state}");
    let all = [
        ("abort_job", json!({"job_id": "x"})),
        ("disable", none.clone()),
        ("enable", none.clone()),
        ("execute", json!({"pipeline": "true.yaml"})),
        ("exitControl", none.clone()),
        ("standby", none.clone()),
        ("start", none.clone()),
    ];
    let mut refuses_but = |state: &str, allowed: &[&str]| {
        for (name, params) in all.iter().filter(|(name, _)| !allowed.contains(name)) {
            assert_eq!(foreign.run(name, params), refused(name, state));
        }
        assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    };
    refuses_but("STANDBY", &["start", "exitControl"]);
    let mut other = rig.foreign();
    assert_eq!(other.run("start", &none), "303 Done");
    refuses_but("DISABLED", &["enable", "standby"]);
    assert_eq!(other.run("enable", &none), "303 Done");
    refuses_but("ENABLED", &["disable", "execute", "abort_job"]);
    let seq = other.send("execute", &json!({"pipeline": "true.yaml"}));
    let job_id = other.job_id(seq);
    assert_eq!(other.final_ack(seq), "303 Done");
    let result = other.event("job_result");
    assert_eq!((result.text("job_id"), result.int("exit_code")), (job_id.as_str(), 0));
    let object: Value = serde_json::from_str(result.text("result")).unwrap();
    assert_eq!(object["jobId"], job_id.as_str());
    let published = other.event("job_id");
    assert_eq!((published.text("job_id"), published.int("seq_num")), (job_id.as_str(), i64::from(seq)));
    assert_eq!(
        other.run("execute", &none),
        "-302 Failed: pipeline is empty: give the URL or path of a pipeline"
    );
    assert_eq!(other.run("abort_job", &json!({"job_id": "../x"})).split(':').nth(1), Some(" Invalid job id"));
    assert_eq!(other.run("disable", &none), "303 Done");
    assert_eq!(other.run("standby", &none), "303 Done");
    assert_eq!(other.run("exitControl", &none), "303 Done");
    other.state(4);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn acks_are_those_of_the_command() {
    let rig = Rig::new("");
    let _daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("errorCode");
    let names =
        ["abort_job", "disable", "enable", "execute", "exitControl", "setLogLevel", "standby", "start"];
    for (position, name) in names.iter().enumerate().filter(|(_, name)| **name != "exitControl") {
        let params = json!({"level": -1, "private_identity": format!("me@{name}"), "private_origin": 77});
        let seq = foreign.send(name, &params);
        foreign.final_ack(seq);
        let acks = foreign.of("ackcmd");
        let ack = acks.last().unwrap();
        assert_eq!(ack.int("private_seqNum"), i64::from(seq));
        assert_eq!(ack.int("cmdtype"), i64::try_from(position + 1).unwrap(), "{name}");
        assert_eq!((ack.text("identity"), ack.int("origin")), (format!("me@{name}").as_str(), 77));
        assert_eq!(ack.data["timeout"], 0.0);
        let failed = *name != "start";
        assert_eq!((ack.int("ack"), ack.int("error")), if failed { (-302, 1) } else { (303, 0) });
    }
}

#[test]
fn a_job_can_be_aborted_and_another_leads_to_fault() {
    let rig = Rig::new("[simulation]\nmean_duration_s = 2\nsigma_s = 0\n");
    let (_daemon, mut foreign) = rig.enabled();
    let execute = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    let job_id = foreign.job_id(execute);
    let in_progress = (*foreign.of("ackcmd").last().unwrap()).clone();
    assert_eq!(in_progress.data["timeout"], 600.0);
    assert_eq!(in_progress.text("result"), json!({"job_id": job_id}).to_string());
    assert_eq!(foreign.run("abort_job", &json!({"job_id": job_id})), "303 Done");
    assert_eq!(foreign.final_ack(execute), "-303 Aborted");
    assert_eq!(foreign.event("job_result").int("exit_code"), 255);
    let execute = foreign.send("execute", &json!({"pipeline": "fault.yaml"}));
    foreign.final_ack(execute);
    foreign.state(3);
    foreign.find("the error code", |received| {
        received.topic == "logevent_errorCode" && received.int("errorCode") == 2
    });
    let refused = foreign.run("execute", &json!({"pipeline": "true.yaml"}));
    assert!(refused.starts_with("-302 Failed: execute not allowed in FAULT: errorCode=2, "), "{refused}");
    assert_eq!(foreign.run("standby", &json!({})), "303 Done");
}

#[test]
fn a_command_that_comes_twice_is_carried_out_once() {
    let rig = Rig::new(QUICK);
    let (_daemon, mut foreign) = rig.enabled();
    let bytes = foreign.command("execute", &json!({"pipeline": "true.yaml", "private_seqNum": 9}));
    foreign.write("command_execute", Some(&bytes));
    foreign.write("command_execute", Some(&bytes));
    assert_eq!(foreign.final_ack(9), "303 Done");
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
    let of_nine = foreign.of("ackcmd").iter().filter(|ack| ack.int("private_seqNum") == 9).count();
    assert_eq!((of_nine, foreign.of("logevent_job_id").len()), (2, 1));
}

#[test]
fn commands_of_before_the_start_are_not_carried_out() {
    let rig = Rig::new("");
    let mut foreign = if rig.is_real() {
        // Its topics are made by the first daemon.
        let mut first = rig.start(&[]);
        crate::harness::eventually("it is there", || first.stderr().contains("Kafka: at "));
        first.terminate();
        rig.foreign()
    } else {
        rig.foreign()
    };
    let early = foreign.send("start", &json!({}));
    let _daemon = rig.start(&[]);
    foreign.find("the start", |received| received.topic == "logevent_heartbeat");
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    assert!(!foreign.of("ackcmd").iter().any(|ack| ack.int("private_seqNum") == i64::from(early)));
}

#[test]
fn our_log_is_published_but_not_that_of_the_transport() {
    let rig = Rig::new("");
    let _daemon = rig.start(&["--loglevel", "debug"]);
    let mut foreign = rig.foreign();
    foreign.event("errorCode");
    foreign.run("enable", &json!({}));
    let message = foreign.find("the refusal", |received| {
        received.topic == "logevent_logMessage"
            && received.text("message").contains("enable of someone@somewhere failed")
    });
    assert_eq!((message.int("level"), message.text("name")), (30, "ocps::csc"));
    foreign.listen(std::time::Duration::from_secs(2));
    let messages = foreign.of("logevent_logMessage").len();
    assert!(messages < 30, "{messages}");
    assert!(
        !foreign.of("logevent_logMessage").iter().any(|received| received.text("name").contains("transport"))
    );
}
