//! What is printed of a daemon: `ocps status`, `jobs` and `watch`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::fake_daemon::{FakeDaemon, Reply, event, finish, in_state, job_result, summary_state};

#[test]
fn status_and_jobs_are_tables_or_json() {
    let status = json!({"version": "0.1.0", "state": "ENABLED", "newer": [1]});
    let jobs =
        json!([{"job_id": "j1", "stage": "running", "age_s": 1.0}, {"job_id": "j0", "stage": "finished"}]);
    let (status_document, jobs_document) = (status.clone(), jobs.clone());
    let daemon = FakeDaemon::start(move |line| {
        let both = [("status", &status_document), ("jobs", &jobs_document)];
        let (name, document) = both.into_iter().find(|(name, _)| line["query"] == json!(name)).unwrap();
        // A subscriber of a previous run may still get events.
        vec![summary_state(2), Reply::Say(json!({name: document}))]
    });
    let ran = daemon.run(&["status"]);
    assert!(ran.stdout.contains("state          ENABLED\n"), "{}", ran.stdout);
    daemon.run(&["status", "--json"]).check(0, &[&status.to_string()], "");

    let ran = daemon.run(&["jobs"]);
    assert!(ran.stdout.contains("\nj1 ") && !ran.stdout.contains("j0"), "{}", ran.stdout);
    assert!(daemon.run(&["jobs", "--all"]).stdout.contains("\nj0 "));
    daemon.run(&["jobs", "--json", "--all"]).check(0, &[&jobs.to_string()], "");
    daemon.run(&["jobs", "--json"]).check(0, &[&json!([jobs[0]]).to_string()], "");
    let ran = daemon.run(&["jobs", "--csv", "--all", "--limit=1"]);
    assert!(ran.stdout.starts_with("job_id,run_id,") && ran.stdout.lines().count() == 2, "{}", ran.stdout);
    daemon.run(&["jobs", "--failed"]).check(0, &["none of the 2 known jobs (all: ocps jobs --all)"], "");
    let contradiction = "ocps: --json and --csv contradict each other (see ocps jobs --help)\n";
    daemon.run(&["jobs", "--json", "--csv"]).check(2, &[], contradiction);
}

#[test]
fn watch_prints_what_is_asked_for_until_offline() {
    let daemon = FakeDaemon::start(|_| {
        let heartbeat = event("heartbeat", json!({"heartbeat": true}));
        vec![summary_state(2), heartbeat, job_result("j1", 0), summary_state(4), Reply::HangUp]
    });
    let enabled = "2026-11-22T14:00:23.504Z summaryState ENABLED";
    let offline = "2026-11-22T14:00:23.504Z summaryState OFFLINE";
    let result = "2026-11-22T14:00:23.504Z job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}";
    daemon.run(&["watch"]).check(0, &[enabled, result, offline], "");
    daemon.run(&["watch", "job_result"]).check(0, &[result], "");
    daemon.run(&["watch", "heartbeat"]).check(0, &["2026-11-22T14:00:23.504Z heartbeat"], "");
    let ran = daemon.run(&["watch", "--json", "job_result"]);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(line["event"]["topic"], json!("job_result"));
}

#[test]
fn watch_is_exit_1_when_the_daemon_just_goes_away() {
    let daemon = FakeDaemon::start(|_| vec![summary_state(4), summary_state(5), Reply::HangUp]);
    let ran = daemon.run(&["watch"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "ocps: the daemon closed the connection without going OFFLINE\n");
}

#[test]
fn a_reader_that_goes_away_is_a_normal_end() {
    // Even when nothing more is printed: `ocps watch | head -1` ends by itself.
    let daemon = FakeDaemon::start(|_| vec![summary_state(2)]);
    for arguments in [&["watch"][..], &["console", "--wait", "1"]] {
        let mut child = daemon.spawn(arguments, Stdio::piped());
        let _open = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "2026-11-22T14:00:23.504Z summaryState ENABLED\n");
        drop(stdout);
        finish(child).check(0, &[], "");
    }
    let binary = env!("CARGO_BIN_EXE_ocps");
    let script = format!("{binary} --help | head -1; echo ${{PIPESTATUS[0]}}");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ocps: ") && text.ends_with("\n0\n"), "{text}");
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let mut stdout = String::new();
    let daemon = in_state("FAULT", "");
    let mut child = daemon.spawn(&["status"], Stdio::null());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    finish(child);
    assert!(stdout.contains("FAULT") && !stdout.contains('\x1b'), "{stdout}");
}
