//! Jobs that are waited for, followed and aborted, at a daemon that says what a test wants.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, Ran, Reply, ack, finish, is_command};
use super::terminal::Terminal;

fn running(phase: &str) -> Value {
    json!({"job_id": "j1", "run_id": "1-a", "stage": "running", "phase": phase, "age_s": 61.0, "polled_s": 0.5})
}

fn ended(outcome: &str, exit_code: i32) -> Value {
    json!({"job_id": "j1", "run_id": "1-a", "stage": "finished", "outcome": outcome, "exit_code": exit_code,
           "age_s": 65.0, "ended_s": 2.0, "accepted_utc": "2026-11-22T14:00:23.504Z",
           "ended_utc": "2026-11-22T14:01:26.504Z"})
}

/// A daemon that has another job, and of ours at each look the next state until the last; commands succeed, but those that
/// abort `2-b`.
fn daemon(states: Vec<Value>) -> FakeDaemon {
    let looks = AtomicUsize::new(0);
    FakeDaemon::start(move |line| {
        if line.get("query") == Some(&json!("job")) {
            let history =
                json!([{"at": 101.5, "at_utc": "2026-11-22T14:00:25.004Z", "text": "phase queued"}]);
            let mut job = states.first().unwrap().as_object().unwrap().clone();
            let more = [("accepted", json!(100.0)), ("history", history), ("undelivered", json!([]))];
            job.extend(more.map(|(key, value)| (key.to_owned(), value)));
            let known = line.get("run_id") == Some(&json!("1-a"));
            return vec![Reply::Say(json!({"job": known.then_some(job)}))];
        }
        if line.get("query").is_some() {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            let job = states.get(look).or(states.last()).unwrap();
            let other = json!({"run_id": "2-b", "stage": "waiting", "waits_for": ["j1"], "age_s": 1.0});
            return vec![Reply::Say(json!({"jobs": [job, other]}))];
        }
        let is_refused = line.pointer("/params/job_id") == Some(&json!("2-b"));
        match line.get("command") {
            Some(_) if is_refused => vec![ack(&line["seq"], -302, "Failed: no")],
            Some(_) if is_command(line, "execute") => vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}")],
            Some(_) => vec![ack(&line["seq"], 303, "Done")],
            None => Vec::new(),
        }
    })
}

/// The lines without their times, which must be there.
fn without_times(ran: &Ran) -> Vec<String> {
    let rest = |line: &str| {
        assert_eq!(line.split_at(19).0.bytes().filter(|byte| *byte == b':').count(), 2, "{line}");
        line.split_at(21).1.to_owned()
    };
    ran.stdout.lines().map(rest).collect()
}

#[test]
fn wait_prints_each_change_and_its_exit_code_follows_the_jobs() {
    for (outcome, exit_code, line, code) in [
        ("completed", 0, "j1  completed, 1m03s", 0),
        ("failed", 1, "j1  failed: exit 1, 1m03s", 3),
        ("aborted", 255, "j1  aborted, 1m03s", 3),
    ] {
        let ended = ended(outcome, exit_code);
        let daemon = daemon(vec![running("queued"), running("queued"), running("executing"), ended]);
        let ran = daemon.run(&["wait", "j", "1-a"]);
        assert_eq!(without_times(&ran), ["j1  queued, 1m01s", "j1  executing, 1m01s", line]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), ""), "{outcome}");
    }
}

#[test]
fn an_id_that_means_no_job_or_several_is_exit_1() {
    let daemon = daemon(vec![running("queued")]);
    let unknown = "ocps: the daemon knows no job x; its last ones: j1, 2-b (all: ocps jobs --all)\n";
    let several = "ocps: \"\" means several jobs: j1, 2-b; give a longer beginning\n";
    daemon.run(&["abort", "1-a", "x"]).check(1, &[], unknown);
    for command in ["wait", "abort", "job"] {
        daemon.run(&[command, "x"]).check(1, &[], unknown);
        daemon.run(&[command, ""]).check(1, &[], &several.replace("\"\"", ""));
        let usage =
            "ocps: no ID: the beginning of a job id or run id, as in ocps jobs (see ocps COMMAND --help)\n";
        daemon.run(&[command]).check(2, &[], &usage.replace("COMMAND", command));
    }
    assert!(!daemon.received().iter().any(|line| is_command(line, "abort_job")));
}

#[test]
fn one_job_is_shown_as_lines_or_json() {
    let daemon = daemon(vec![ended("failed", 1)]);
    let expected = ["job            j1", "run            1-a", "state          failed: exit 1"];
    let ran = daemon.run(&["job", "1-", "--utc"]);
    assert_eq!(ran.stdout.lines().take(3).collect::<Vec<_>>(), expected);
    let rest = "accepted       2026-11-22 14:00:23 UTC
ended          2026-11-22 14:01:26 UTC
elapsed        1m03s
delivered      yes
history        2026-11-22 14:00:25  1.5s  phase queued
";
    assert!(ran.stdout.ends_with(rest), "{}", ran.stdout);
    let ran = daemon.run(&["job", "1-", "--json"]);
    let job: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&job["exit_code"], &job["history"][0]["text"]), (&json!(1), &json!("phase queued")));
    daemon.run(&["job", "2-"]).check(1, &[], "ocps: the daemon no longer knows run 2-b\n");
}

#[test]
fn a_daemon_that_is_too_old_is_named() {
    let daemon = FakeDaemon::start(|line| match line.get("query") {
        Some(query) if query == "jobs" => vec![Reply::Say(json!({"jobs": [running("queued")]}))],
        _ => vec![Reply::Say(json!({"error": "\"query\" must be \"status\", \"jobs\" or \"metrics\""}))],
    });
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "ocps: the daemon runs an older ocps, and this command needs one of ocps {version}: restart the daemon\n"
    );
    daemon.run(&["job", "j1"]).check(1, &[], &expected);
}

#[test]
fn a_wait_ends_in_time_or_with_ctrl_c() {
    let daemon = daemon(vec![running("queued")]);
    let ran = daemon.run(&["wait", "j1", "--timeout", "0.2"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "ocps: not ended within 0.2 s: j1\n"));
    let child = daemon.spawn(&["wait", "j1"], Stdio::null());
    let pid = Pid::from_child(&child);
    // Once it has looked, it can be interrupted.
    while daemon.received().len() < 4 {
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(pid, Signal::INT).unwrap();
    let ran = finish(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (None, "ocps: interrupted: jobs keep running\n"));
}

#[test]
fn abort_sends_the_whole_id_and_spares_what_has_ended() {
    let daemon = daemon(vec![running("queued")]);
    daemon.run(&["abort", "2-", "1-"]).check(3, &["2-b  CMD_FAILED Failed: no", "j1  CMD_COMPLETE Done"], "");
    let aborts = daemon.received().into_iter().filter(|line| is_command(line, "abort_job"));
    assert_eq!(aborts.map(|line| line["params"]["job_id"].clone()).collect::<Vec<_>>(), ["2-b", "j1"]);
    let daemon = self::daemon(vec![ended("completed", 0)]);
    daemon.run(&["abort", "2-b", "j1"]).check(
        1,
        &[],
        "ocps: j1 has ended (completed): nothing was aborted\n",
    );
    assert!(!daemon.received().iter().any(|line| is_command(line, "abort_job")));
}

#[test]
fn an_execute_is_followed_to_the_end_of_its_job() {
    let daemon = daemon(vec![running("queued"), running("executing"), ended("failed", 1)]);
    let ran = daemon.run(&["send", "execute", "--follow", "pipeline=x"]);
    let (first, rest) = ran.stdout.split_once('\n').unwrap();
    assert_eq!(first, "CMD_INPROGRESS job_id=j1");
    assert!(rest.ends_with("  j1  failed: exit 1, 1m03s\n"), "{rest}");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(3), ""));
    let refused = FakeDaemon::start(|line| match is_command(line, "execute") {
        true => vec![ack(&line["seq"], -302, "Failed: no")],
        false => vec![Reply::Say(json!({"jobs": []}))],
    });
    refused.run(&["send", "execute", "--follow", "pipeline=x"]).check(3, &["CMD_FAILED Failed: no"], "");
    let problem = "ocps: --follow is for execute, not for enable (see ocps send --help)\n";
    refused.run(&["send", "enable", "--follow"]).check(2, &[], problem);
}

#[test]
fn all_jobs_are_followed_on_a_terminal_with_a_line_that_is_up_to_date() {
    let home = TempDir::new().unwrap();
    let daemon = daemon(vec![running("queued"), running("executing"), ended("completed", 0)]);
    let mut terminal = Terminal::run(&daemon, &home, &["jobs", "--follow"]);
    terminal.wait_for("j1  queued, 1m01s\r\n");
    terminal.wait_for("2-b  waiting for j1, 1.0s\r\n");
    terminal.wait_for("\r\x1b[K2 unfinished: 1 queued, 1 waiting");
    terminal.wait_for("j1  executing, 1m01s\r\n");
    terminal.wait_for("j1  completed, 1m03s\r\n");
    terminal.wait_for("\r\x1b[K2-b  waiting for j1, 1.0s");
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130));
    assert!(shown.ends_with("\r\x1b[Kocps: interrupted: jobs keep running\r\n"), "{shown:?}");
}

#[test]
fn an_interrupt_ends_a_client_whose_daemon_does_not_answer() {
    let home = TempDir::new().unwrap();
    for arguments in
        [&["wait", "x"][..], &["jobs", "--follow"], &["send", "execute", "--follow", "pipeline=a"]]
    {
        let silent = FakeDaemon::start(|_: &Value| Vec::new());
        let terminal = Terminal::run(&silent, &home, arguments);
        while silent.received().is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(130), "{arguments:?}: {shown:?}");
    }
}
