//! The log, as the journal and people see it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Daemon, Home, Killed, QUICK, StallMeter, eventually};

#[test]
fn the_journal_gets_priorities_and_no_stamps() {
    let home = Home::with_toml(QUICK);
    let metadata = File::create(home.path("s.stderr")).unwrap().metadata().unwrap();
    let mut command = home.daemon(&["1", "--simulate", "--state", "enabled"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    let daemon = Daemon::start(command, home.socket());
    let mut client = daemon.connect();
    client.run("execute", &json!({"pipeline": "fault.yaml"}));
    client.run("execute", &json!({"pipeline": "a\nb\u{1b}[31m"}));
    drop(client);
    eventually("it is logged", || daemon.stderr().contains("not allowed in FAULT"));
    let log = daemon.stderr();
    assert!(log.contains("<6>summary state ENABLED\n"), "{log}");
    assert!(log.contains("\n<2>FAULT: errorCode=2"), "{log}");
    assert!(log.contains("\n<4>execute of uid-"), "{log}");
    for line in log.lines() {
        let bytes = line.as_bytes();
        let prefixed = bytes[0] == b'<' && bytes[1].is_ascii_digit() && bytes[2] == b'>';
        assert!(prefixed && !bytes[3].is_ascii_digit(), "{line}");
    }
}

#[test]
fn what_others_write_does_not_make_lines_or_colours_in_the_log() {
    let home = Home::with_toml(QUICK);
    let daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    let mut client = daemon.subscribe();
    client.run("execute", &json!({"pipeline": "a\n2026-01-01T00:00:00Z [ERROR] forged\u{1b}[31m"}));
    eventually("it is logged", || daemon.stderr().contains("forged"));
    let log = daemon.stderr();
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains("Z [")), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains("\n2026-01-01"), "{log}");
}

#[test]
fn log_messages_are_published_from_the_log_level_on() {
    let home = Home::with_toml(QUICK);
    let daemon = home.start(&["1", "--simulate", "--loglevel", "warning"]);
    let mut client = daemon.subscribe();
    client.run("enable", &json!({}));
    let message = client.event("logMessage");
    assert_eq!(message["level"], 30);
    assert!(
        message["message"].as_str().unwrap().contains("enable not allowed in state STANDBY"),
        "{message}"
    );
    assert_eq!(client.run("setLogLevel", &json!({"level": 10})), "CMD_COMPLETE Done");
    client.run("start", &json!({}));
    client.find("an info", |line| line["event"]["data"]["message"] == "summary state DISABLED");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let home = Home::with_toml(QUICK);
    let mut command = home.daemon(&["1", "--simulate", "--state", "enabled", "--loglevel", "debug"]);
    // A pipe that is never read: it holds 64 KiB.
    let mut child = Killed(command.stderr(Stdio::piped()).spawn().unwrap());
    eventually("the socket answers", || std::os::unix::net::UnixStream::connect(home.socket()).is_ok());
    let mut client = Client::connect(&home.socket());
    let stalls = StallMeter::start(rustix::process::Pid::from_child(&child.0));
    client.write(&json!({"subscribe": true}));
    let pipeline = "x".repeat(1000);
    for _ in 0..200 {
        let ack = client.run("execute", &json!({ "pipeline": pipeline }));
        assert!(ack.starts_with("CMD_FAILED"), "{ack}");
    }
    client.listen(Duration::from_millis(2500));
    stalls.longest_gap(&client.sent("heartbeat"), 2.0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), rustix::process::Signal::TERM)
        .unwrap();
    client.state(4);
    eventually("it ends", || child.0.try_wait().unwrap().is_some());
}
