//! `ocps console`, as a script uses it.

use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake_daemon::{FakeDaemon, Reply, ack, event, finish, is_command, runs_a_job, summary_state};

/// The lines without the time in front.
fn timeless(stdout: &str) -> Vec<&str> {
    stdout.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest)).collect()
}

#[test]
fn console_runs_a_script_to_its_end() {
    let daemon = FakeDaemon::start(runs_a_job);
    let input = "# a comment\n\nexectue pipeline=x\nexecute pipeline=\"true.yaml\" data_query='visit = 3'\n";
    let ran = daemon.run_typing(&["console"], input);
    assert_eq!(
        timeless(&ran.stdout),
        [
            "job_result job_id=old exit_code=0 result={\"jobId\":\"old\"}",
            "summaryState ENABLED",
            "execute[1] CMD_INPROGRESS job_id=j1",
            "job_id event_name=cmd_execute seq_num=1 job_id=j1",
            "job_result job_id=other exit_code=1 result={\"jobId\":\"other\"}",
            "job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}",
            "execute[1] CMD_COMPLETE Done",
        ]
    );
    assert_eq!(ran.stderr, "ocps: unknown command exectue: did you mean execute? (type help)\n");
    assert_eq!(ran.code, Some(0));
    assert_eq!(
        daemon.received().last().unwrap()["params"],
        json!({"pipeline": "true.yaml", "data_query": "visit = 3"})
    );
}

#[test]
fn console_awaits_a_change_of_state_before_the_next_line() {
    let daemon = FakeDaemon::start(|line| {
        let seq = line["seq"].clone();
        if is_command(line, "start") {
            return vec![Reply::ExpectSilence(Duration::from_millis(200)), ack(&seq, 303, "Done")];
        }
        if line.get("command").is_some() { vec![ack(&seq, -302, "Failed: no")] } else { Vec::new() }
    });
    let ran = daemon.run_typing(&["console"], "start\nenable\nquit\nexecute pipeline=never\n");
    assert_eq!(timeless(&ran.stdout), ["start[1] CMD_COMPLETE Done", "enable[2] CMD_FAILED Failed: no"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let commands: Vec<Value> = daemon.received().iter().skip(1).map(|line| line["command"].clone()).collect();
    assert_eq!(commands, ["start", "enable"]);
}

#[test]
fn console_shows_a_refusal_once() {
    let daemon = FakeDaemon::start(|line| {
        let log = |text| event("logMessage", json!({"level": 30, "name": "ocps::csc", "message": text}));
        let seq = line["seq"].clone();
        if is_command(line, "enable") {
            return vec![
                ack(&seq, -302, "Failed: no"),
                log("enable of me failed: no"),
                log("another one failed: no"),
            ];
        }
        if line.get("command").is_some() { vec![ack(&seq, 303, "Done")] } else { Vec::new() }
    });
    let ran = daemon.run_typing(&["console"], "enable\nstart\n");
    let log = "logMessage WARNING ocps::csc: another one failed: no";
    assert_eq!(timeless(&ran.stdout), ["enable[1] CMD_FAILED Failed: no", log, "start[2] CMD_COMPLETE Done"]);
}

#[test]
fn console_answers_queries_and_helps() {
    let daemon = FakeDaemon::start(|line| match line.get("query").and_then(Value::as_str) {
        Some("status") => vec![Reply::Say(json!({"status": {"state": "ENABLED"}}))],
        Some("jobs") => vec![Reply::Say(json!({"jobs": [{"job_id": "j0", "stage": "finished"}]}))],
        _ => Vec::new(),
    });
    let ran = daemon.run_typing(&["console"], "status\njobs\nhelp");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in
        ["state          ENABLED\n", "none of the 1 known jobs", "Type a command", "configurationOverride="]
    {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
}

#[test]
fn console_distinguishes_an_end_of_the_daemon_from_a_lost_connection() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "exitControl") {
            return vec![ack(&line["seq"], 303, "Done"), summary_state(4), Reply::HangUp];
        }
        if is_command(line, "execute") { vec![Reply::HangUp] } else { vec![summary_state(5)] }
    });
    let ran = daemon.run_typing(&["console"], "exitControl\nexecute\n");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.ends_with("the daemon went OFFLINE and ended\n"), "{}", ran.stdout);
    let ran = daemon.run_typing(&["console"], "execute\n");
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "ocps: the daemon closed the connection without going OFFLINE\n");
}

#[test]
fn console_waits_for_a_daemon_that_is_starting() {
    let daemon = FakeDaemon::absent();
    let mut child = daemon.spawn(&["console", "--wait", "20"], Stdio::piped());
    child.stdin.take().unwrap().write_all(b"execute pipeline=true.yaml\n").unwrap();
    // It has surely tried once by then; should it not have, the test is only easier.
    thread::sleep(Duration::from_millis(150));
    daemon.listen(runs_a_job);
    let ran = finish(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("execute[1] CMD_COMPLETE Done\n"), "{}", ran.stdout);
}
