//! `ocps send`: acks, the result of the job, and exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake_daemon::{FakeDaemon, Reply, ack, finish, is_command, job_result, runs_a_job};

#[test]
fn send_shows_the_acks_and_the_result_of_its_job() {
    let daemon = FakeDaemon::start(runs_a_job);
    daemon.run(&["send", "execute", "pipeline=true.yaml", "data_query=visit = 3"]).check(
        0,
        &[
            "CMD_INPROGRESS job_id=j1",
            "job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}",
            "CMD_COMPLETE Done",
        ],
        "",
    );
    let execute = json!({"command": "execute", "seq": 1,
                         "params": {"pipeline": "true.yaml", "data_query": "visit = 3"}});
    assert_eq!(daemon.received(), [json!({"subscribe": true}), execute]);
}

#[test]
fn send_json_prints_the_lines_as_they_came() {
    let daemon = FakeDaemon::start(runs_a_job);
    let ran = daemon.run(&["send", "execute", "pipeline=true.yaml", "--json"]);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, result, last] = lines.as_slice() else { panic!("{}", ran.stdout) };
    assert_eq!(first["ack"]["timeout"], json!(600.0));
    assert_eq!(result["event"]["data"]["job_id"], json!("j1"));
    assert_eq!(last["ack"]["ack"], json!(303));
    assert_eq!(ran.code, Some(0));
}

#[test]
fn send_no_wait_ends_with_the_job_id() {
    let daemon = FakeDaemon::start(|line| {
        assert!(line.get("subscribe").is_none());
        vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}")]
    });
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(0, &["j1"], "");
    let ran = daemon.run(&["send", "execute", "--no-wait", "--json", "pipeline=x"]);
    let ack: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ack["ack"]["result"], json!("{\"job_id\":\"j1\"}"));
}

#[test]
fn send_no_wait_prints_nothing_but_a_job_id() {
    let daemon = FakeDaemon::start(|line| vec![ack(&line["seq"], -302, "Failed: no")]);
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(
        3,
        &[],
        "ocps: CMD_FAILED Failed: no\n",
    );
    let result = "{\"job_id\":\"j1\",\"missing_prereqs\":[\"a\",\"b\"]}";
    let daemon = FakeDaemon::start(move |line| vec![ack(&line["seq"], 301, result)]);
    let stderr = "ocps: these prerequisites do not exist: a,b\n";
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(0, &["j1"], stderr);
}

/// Interrupts a client as soon as the daemon has received its command.
fn interrupted(daemon: &FakeDaemon, arguments: &[&str]) -> (Option<i32>, Option<i32>, String) {
    use std::os::unix::process::ExitStatusExt;
    let child = daemon.spawn(arguments, Stdio::null());
    let pid = rustix::process::Pid::from_child(&child);
    while !daemon.received().iter().any(|line| line.get("command").is_some()) {
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), status.signal(), String::from_utf8(stderr).unwrap())
}

#[test]
fn an_interrupted_send_names_the_command_that_continues() {
    let execute = ["send", "execute", "pipeline=x"];
    // No job yet: the daemon knows its run, by our process id.
    let child = Arc::new(Mutex::new(Value::Null));
    let origin = child.clone();
    let daemon = FakeDaemon::start(move |line| {
        let mine = origin.lock().unwrap().clone();
        let jobs = json!([{"origin": mine, "run_id": "1-old", "ended": 5.0},
                          {"origin": mine, "run_id": "1-abc", "ended": null}, {"origin": 1, "run_id": "2-x"}]);
        if line.get("query").is_some() { vec![Reply::Say(json!({ "jobs": jobs }))] } else { Vec::new() }
    });
    let process = daemon.spawn(&execute, Stdio::null());
    *child.lock().unwrap() = json!(process.id());
    let pid = rustix::process::Pid::from_child(&process);
    while !daemon.received().iter().any(|line| is_command(line, "execute")) {
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(process);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            None,
            "ocps: interrupted: run 1-abc, which has no job id yet, keeps running; \
             ocps abort 1-abc ends it, ocps jobs shows it\n"
        )
    );
    // Nobody knows: it may even be on its way.
    let daemon = FakeDaemon::start(|line| {
        if line.get("query").is_some() { vec![Reply::Say(json!({"jobs": []}))] } else { Vec::new() }
    });
    let (code, signal, stderr) = interrupted(&daemon, &execute);
    assert_eq!((code, signal), (None, Some(2)));
    assert_eq!(
        stderr,
        "ocps: interrupted before the final ack of execute: it may still be carried out, see ocps status and ocps jobs\n"
    );
    let (_, _, stderr) = interrupted(&FakeDaemon::start(|_| Vec::new()), &["send", "enable"]);
    assert_eq!(
        stderr,
        "ocps: interrupted before the final ack of enable: it may still be carried out, see ocps status and ocps jobs\n"
    );
}

#[test]
fn an_interrupted_send_names_the_job_that_continues() {
    let daemon = FakeDaemon::start(|line| match is_command(line, "execute") {
        true => vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}")],
        false => Vec::new(),
    });
    let mut child = daemon.spawn(&["send", "execute", "pipeline=x"], Stdio::null());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "CMD_INPROGRESS job_id=j1\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let expected = "ocps: interrupted: job j1 keeps running; ocps abort j1 ends it, ocps jobs shows it\n";
    assert_eq!(finish(child).stderr, expected);
}

#[test]
fn send_is_exit_3_when_the_command_was_refused_failed_or_aborted() {
    let daemon = FakeDaemon::start(|line| {
        let seq = &line["seq"];
        if is_command(line, "enable") {
            return vec![ack(seq, -302, "Failed: enable not allowed in state ENABLED")];
        }
        if is_command(line, "execute") {
            let aborted = ack(seq, -303, "Aborted");
            return vec![ack(seq, 301, "{\"job_id\":\"j1\"}"), job_result("j1", 255), aborted];
        }
        Vec::new()
    });
    daemon.run(&["send", "enable"]).check(3, &["CMD_FAILED Failed: enable not allowed in state ENABLED"], "");
    daemon.run(&["send", "execute"]).check(
        3,
        &[
            "CMD_INPROGRESS job_id=j1",
            "job_result job_id=j1 exit_code=255 result={\"jobId\":\"j1\"}",
            "CMD_ABORTED Aborted",
        ],
        "",
    );
}

#[test]
fn an_abort_shows_the_result_only_if_it_succeeds() {
    // A new subscriber gets the latest job_result, which may be of a job that ended long ago.
    let daemon = FakeDaemon::start(|line| {
        let seq = &line["seq"];
        if line.get("subscribe").is_some() {
            return vec![job_result("gone", 0)];
        }
        if line["params"]["job_id"] == json!("gone") {
            return vec![ack(seq, -302, "Failed: No such job: gone")];
        }
        vec![job_result("j1", 255), ack(seq, 303, "Done")]
    });
    daemon.run(&["send", "abort_job", "job_id=gone"]).check(3, &["CMD_FAILED Failed: No such job: gone"], "");
    daemon.run(&["send", "abort_job", "job_id=j1"]).check(
        0,
        &["job_result job_id=j1 exit_code=255 result={\"jobId\":\"j1\"}", "CMD_COMPLETE Done"],
        "",
    );
}

#[test]
fn send_gives_up_in_time_and_an_ack_extends_it() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "enable") {
            return Vec::new();
        }
        let seq = &line["seq"];
        // Longer than the sender's own patience, but the first ack asked for it.
        let late = Reply::Pause(Duration::from_secs(4));
        vec![ack(seq, 301, "{\"job_id\":\"j1\"}"), late, ack(seq, 303, "Done")]
    });
    let expected =
        "ocps: no ack of enable in time: it may still be carried out, see ocps status and ocps jobs\n";
    daemon.run(&["send", "enable", "--timeout", "0.1"]).check(1, &[], expected);
    let ran = daemon.run(&["send", "standby", "--timeout=3"]);
    ran.check(0, &["CMD_INPROGRESS job_id=j1", "CMD_COMPLETE Done"], "");
}

#[test]
fn a_connection_that_ends_early_is_exit_1() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "execute") {
            return vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}"), Reply::HangUp];
        }
        if line.get("query").is_some() { vec![Reply::HangUp] } else { Vec::new() }
    });
    let expected = "ocps: the daemon closed the connection before the final ack of execute (job_id j1): \
                    its job, if any, keeps running\n";
    daemon.run(&["send", "execute"]).check(1, &["CMD_INPROGRESS job_id=j1"], expected);
    daemon.run(&["status"]).check(1, &[], "ocps: the daemon closed the connection\n");
}

#[test]
fn a_request_that_the_daemon_refuses_is_exit_1() {
    let daemon = FakeDaemon::start(|_| vec![Reply::Say(json!({"error": "too many\nclients"}))]);
    let expected = "ocps: the daemon refused the request: too many\\nclients\n";
    for client in [["send", "enable"], ["watch", "job_id"], ["state", "enabled"]] {
        daemon.run(&client).check(1, &[], expected);
    }
    daemon.run_typing(&["console"], "execute\n").check(1, &[], expected);
}
