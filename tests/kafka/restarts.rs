//! One run of the daemon after another.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::json;

use rustix::process::Signal;

use crate::foreign::{Received, topics};
use crate::harness::{Daemon, QUICK, eventually};
use crate::rig::Rig;
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

/// An hour, in seconds.
const HOUR: f64 = 3600.0;

fn stamp(received: &Received) -> f64 {
    received.data["private_sndStamp"].as_f64().unwrap()
}

#[test]
fn stamps_do_not_go_back_though_the_clock_did_between_two_runs() {
    let rig = Rig::new(QUICK);
    let args = ["--state", "enabled"];
    let mut first = rig.start(&args);
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    first.terminate();
    foreign.state(4);

    // The last message of each topic again, with the stamp of a clock that is an hour ahead.
    let mut lasts = BTreeMap::new();
    let topics =
        topics().into_iter().filter(|topic| !topic.starts_with("command_") && !topic.contains("large"));
    for topic in topics {
        foreign.find(&topic, |received| received.topic == topic);
        let received = (*foreign.of(&topic).last().unwrap()).clone();
        let ahead = stamp(&received) + HOUR;
        let bytes = foreign.altered(&received, &json!({"private_sndStamp": ahead}));
        foreign.write(&topic, Some(&bytes));
        // And others write to the same topics; their clocks are none of our business.
        let other =
            json!({"salIndex": 2, "private_identity": "OCPS:2", "private_sndStamp": ahead + 10.0 * HOUR});
        let bytes = foreign.altered(&received, &other);
        // Three of them, while we were away for a quarter of an hour.
        foreign.write_often(&topic, Some(&bytes), if topic == "logevent_heartbeat" { 2700 } else { 1 });
        lasts.insert(topic, ahead);
    }
    assert_eq!(lasts.len(), 12, "{lasts:?}");

    let second = rig.start(&args);
    let line = "behind the stamps of the last run";
    eventually("it is logged", || second.stderr().contains(line));
    let origin = i64::from(second.pid().as_raw_pid());
    let is_its = |received: &Received| received.int("private_origin") == origin;
    foreign.find("the second run", |received| {
        is_its(received) && received.topic == "logevent_summaryState" && received.int("summaryState") == 2
    });
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    for (topic, last) in &lasts {
        foreign.find(topic, |received| is_its(received) && received.topic == *topic);
        let stamps: Vec<f64> =
            foreign.of(topic).into_iter().filter(|received| is_its(received)).map(stamp).collect();
        assert!(stamps.iter().all(|stamp| (*last..last + HOUR).contains(stamp)), "{topic} {last} {stamps:?}");
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{topic} {stamps:?}");
    }
}

fn kill(daemon: Daemon) {
    daemon.signal(Signal::KILL);
    drop(daemon);
}

fn service(duration: f64) -> UwsService {
    let timing = Timing { pending: 0.05, queued: 0.05, duration, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

/// How many commands are recorded as ended and delivered. It is read in a copy, since the daemon has its journal
/// for itself; a copy that is made in the midst of a change cannot be read.
fn settled(rig: &Rig) -> isize {
    let copy = tempfile::tempdir().unwrap();
    for name in ["journal.db", "journal.db-wal"] {
        let _ = fs::copy(rig.home.path("state").join(name), copy.path().join(name));
    }
    let count = "SELECT count(*) FROM commands WHERE settled";
    let found = rusqlite::Connection::open(copy.path().join("journal.db"))
        .and_then(|copy| copy.query_row(count, [], |row| row.get::<_, isize>(0)));
    found.unwrap_or(0)
}

/// All job_results and final acks of this command.
fn ends(rig: &Rig, seq: i32) -> (usize, usize) {
    let mut foreign = rig.foreign();
    foreign.final_ack(seq);
    foreign.event("job_result");
    foreign.listen(Duration::from_secs(2));
    let acks = foreign.of("ackcmd").into_iter();
    let acks =
        acks.filter(|ack| ack.int("private_seqNum") == i64::from(seq) && ack.int("ack") != 301).count();
    (foreign.of("logevent_job_result").len(), acks)
}

#[test]
fn the_final_ack_of_a_job_of_the_previous_run_is_for_the_command_that_began_it() {
    let (rig, service) = (Rig::new(QUICK), service(600.0));
    let first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let seq = foreign.send("execute", &json!({"pipeline": "p.yaml", "private_identity": "script@host"}));
    let id = foreign.job_id(seq);
    let begun =
        foreign.find("the first ack", |received| received.topic == "ackcmd" && received.int("ack") == 301);
    kill(first);

    let second = rig.start_for(&service, &[]);
    service.end_jobs();
    let is_end = |received: &Received| {
        received.topic == "ackcmd"
            && received.int("ack") == 303
            && received.int("cmdtype") == begun.int("cmdtype")
    };
    let ended = foreign.find("the final ack", is_end);
    for field in ["private_seqNum", "identity", "origin", "cmdtype"] {
        assert_eq!(ended.data[field], begun.data[field], "{field}");
    }
    assert_eq!(ended.text("identity"), "script@host");
    let result = foreign.find("the result", |received| received.topic == "logevent_job_result");
    assert_eq!((result.text("job_id"), result.int("exit_code")), (id.as_str(), 0));

    // What was delivered is not published again.
    eventually("that it was delivered is recorded", || settled(&rig) == 1);
    kill(second);
    let _third = rig.start_for(&service, &[]);
    foreign.listen(Duration::from_secs(5));
    assert_eq!(ends(&rig, seq), (1, 1));
}

#[test]
fn messages_that_the_broker_did_not_take_are_published_by_the_next_run() {
    let (rig, service) = (Rig::alone(QUICK), service(600.0));
    let first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let seq = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    let id = foreign.job_id(seq);
    rig.broker_down();
    service.end_jobs();
    let mut client = first.connect();
    eventually("the job ends", || client.query("jobs")[0]["stage"] == "finished");
    eventually("its end is kept", || client.query("status")["journal"]["waiting"] == 0);
    kill(first);
    rig.broker_up();
    let second = rig.start_for(&service, &[]);
    let mut foreign = foreign.again();
    assert_eq!(foreign.final_ack(seq), "303 Done");
    let result = foreign.find("the result", |received| received.topic == "logevent_job_result");
    assert_eq!(result.text("job_id"), id);
    let recovery = second.connect().query("status")["recovery"].clone();
    assert_eq!((&recovery["results"], &recovery["acks"]), (&json!(1), &json!(1)));
}

#[test]
fn a_command_that_was_seen_before_the_crash_is_not_carried_out_again() {
    let rig = Rig::new(QUICK);
    let (first, mut foreign) = rig.enabled();
    let bytes =
        foreign.command("disable", &json!({"private_seqNum": 77, "private_sndStamp": 1_795_369_818.5}));
    foreign.write("command_disable", Some(&bytes));
    foreign.state(1);
    let mut client = first.connect();
    eventually("it is kept", || client.query("status")["journal"]["waiting"] == 0);
    kill(first);
    let second = rig.start(&["--state", "enabled"]);
    let mut foreign = rig.foreign();
    let origin = i64::from(second.pid().as_raw_pid());
    foreign.find("the second run", |received| {
        received.topic == "logevent_summaryState"
            && received.int("summaryState") == 2
            && received.int("private_origin") == origin
    });
    foreign.write("command_disable", Some(&bytes));
    // Another one comes after it and is carried out.
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
    assert_eq!(second.connect().query("status")["state"], "ENABLED");
}
