//! While the daemon is starting: queries are answered, commands wait.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use ocps::daemon::turn::EARLY_MAX;
use serde_json::json;

use crate::harness::{Daemon, Home, QUICK, eventually};

/// A daemon whose start lasts until the file `go` exists, and then fails.
fn starting(home: &Home) -> Daemon {
    let go = home.path("go");
    let script = format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done; exit 1\n", go.display());
    fs::create_dir(home.path("bin")).unwrap();
    home.write("bin/git", &script);
    fs::set_permissions(home.path("bin/git"), Permissions::from_mode(0o755)).unwrap();
    home.write("configuration/_init.yaml", "url: http://h\npoll_interval: 1\n");
    let mut command = home.daemon(&["1", "--state", "enabled", "--override", ":v1"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", home.path("bin").display()));
    Daemon::start(command, home.socket())
}

#[test]
fn queries_are_answered_during_the_start_and_commands_wait_for_its_end() {
    let home = Home::with_toml(QUICK);
    let daemon = starting(&home);
    let mut client = daemon.connect();
    let status = client.query("status");
    assert_eq!((&status["state"], &status["starting"]), (&json!("STANDBY"), &json!(true)));
    assert!(home.client(&["status"]).stdout.contains("\nstart          in progress"));
    assert_eq!(client.query("jobs"), json!([]));
    assert_eq!(home.client(&["status", "--alive"]).code, Some(0));
    let waiting = "ocps: not ready: the daemon is starting: commands wait until it has started";
    assert_eq!(home.client(&["status", "--ready"]).one_line(1), waiting);
    let seqs: Vec<i32> =
        (0..EARLY_MAX).map(|level| client.send("setLogLevel", &json!({ "level": 20 + level }))).collect();
    let refusal = "CMD_FAILED Failed: the daemon is starting, and 1024 commands wait for that already";
    assert_eq!(client.run("standby", &json!({})), refusal);
    let acks = |client: &crate::harness::Client| -> Vec<i64> {
        client.received.iter().filter_map(|line| line["ack"]["seq"].as_i64()).collect()
    };
    assert_eq!(acks(&client).len(), 1, "the others wait");
    home.write("go", "");
    for seq in &seqs {
        assert_eq!(client.final_ack(*seq), "CMD_COMPLETE Done");
    }
    assert!(acks(&client).get(1..).unwrap().is_sorted(), "in order");
    let status = client.query("status");
    assert_eq!((&status["starting"], &status["log_level"]), (&json!(false), &json!(19 + EARLY_MAX)));
    assert!(status["start_problem"].as_str().unwrap().starts_with("start failed: "));
    let ready = home.client(&["status", "--ready"]);
    assert_eq!((ready.code, ready.stdout.as_str()), (Some(0), ""));
}

#[test]
fn clients_that_wait_for_the_start_are_answered_when_the_daemon_ends_instead() {
    let home = Home::with_toml(QUICK);
    let mut daemon = starting(&home);
    let mut client = daemon.connect();
    let seq = client.send("enable", &json!({}));
    eventually("it is there", || client.query("status")["starting"] == true);
    daemon.terminate();
    assert_eq!(client.final_ack(seq), "CMD_FAILED Failed: the daemon is stopping");
}
