//! The client commands of `ocps` against the real daemon.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Home, Killed, QUICK, eventually};

#[test]
fn send_state_status_and_jobs_work_end_to_end() {
    let home = Home::with_toml(QUICK);
    let mut daemon = home.start(&["1", "--simulate"]);
    let check = |args: &[&str], code: i32, expected: &str| {
        let ran = home.client(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stdout.contains(expected), "{args:?}: {ran:?}");
    };
    check(&["state"], 0, "STANDBY\n");
    check(
        &["send", "execute", "pipeline=true.yaml"],
        3,
        "CMD_FAILED Failed: execute not allowed in state STANDBY",
    );
    check(&["state", "enabled"], 0, "ENABLED\n");
    check(&["send", "execute", "pipeline=true.yaml"], 0, "CMD_COMPLETE Done");
    check(&["send", "execute", "pipeline=false.yaml"], 0, "exit_code=1");
    check(&["send", "execute", "pipeline=x.yaml"], 3, "Failed: Unknown (simulated) pipeline: x.yaml");
    check(&["send", "execute", "pipeline=true.yaml", "--no-wait"], 0, "");
    check(&["send", "setLogLevel", "level=10"], 0, "CMD_COMPLETE Done");
    check(&["jobs", "--all"], 0, "false.yaml");
    check(&["status"], 0, "ENABLED, simulated");
    let status: Value = serde_json::from_str(&home.client(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["state"], &status["log_level"]), (&"ENABLED".into(), &10.into()), "{status}");
    check(&["send", "execute", "pipeline=fault.yaml"], 3, "CMD_FAILED Failed: cannot contact");
    check(&["state"], 0, "FAULT\n");
    check(&["state", "standby"], 0, "STANDBY\n");
    check(&["send", "exitControl"], 0, "CMD_COMPLETE Done");
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(home.client(&["state"]).code, Some(4));
}

#[test]
fn watch_shows_events_until_the_daemon_ends() {
    let home = Home::with_toml(QUICK);
    let mut daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    let mut watch = Killed(
        home.ocps()
            .env("OCPS_SOCKET", home.socket())
            .args(["watch", "job_result", "summaryState", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap()).unwrap() };
    assert_eq!(next()["event"]["data"]["summaryState"], 2);
    assert_eq!(home.client(&["send", "execute", "pipeline=true.yaml"]).code, Some(0));
    assert_eq!(next()["event"]["data"]["exit_code"], 0);
    daemon.terminate();
    assert_eq!(next()["event"]["data"]["summaryState"], 4);
    eventually("watch ends", || watch.0.try_wait().unwrap().is_some());
}
