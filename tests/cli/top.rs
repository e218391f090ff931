//! `ocps top` at a terminal.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, Reply, ack, is_command, run_alone};
use super::terminal::Terminal;

const LEAVES_THE_SCREEN: &str = "\x1b[?1049l";

/// A daemon with two jobs, that can be made to hang up.
fn daemon() -> FakeDaemon {
    let mut queries = 0;
    FakeDaemon::start(move |line| {
        if is_command(line, "abort_job") {
            return vec![
                ack(&line["seq"], 303, "Done"),
                Reply::Pause(Duration::from_millis(300)),
                Reply::HangUp,
            ];
        }
        queries += 1;
        let job = |id: &str, pipeline: &str| json!({"job_id": id, "run_id": id, "stage": "running", "pipeline": pipeline});
        match line["query"].as_str() {
            Some("job") => {
                let note = json!({"at_utc": "2026-11-22T14:00:23.504Z", "text": "phase executing"});
                vec![Reply::Say(json!({"job": {"run_id": "job-b", "history": [note]}}))]
            }
            Some("status") => vec![Reply::Say(json!({"status": {"state": "ENABLED", "uptime_s": queries}}))],
            _ => vec![Reply::Say(json!({"jobs": [job("job-a", "first.yaml"), job("job-b", "second.yaml")]}))],
        }
    })
}

#[test]
fn a_job_is_selected_opened_filtered_and_aborted_after_a_question() {
    let (daemon, home) = (daemon(), TempDir::new().unwrap());
    let mut terminal = Terminal::showing("second.yaml", &daemon, &home, &["top"]);
    // After each key only what changes is drawn: ^L draws all, though blanks are left out.
    terminal.press("\x1b[B\r\x0c");
    terminal.wait_for("14:00:23");
    terminal.press("x/FIRST\r\x0c");
    terminal.wait_for("(Esc");
    terminal.press("a\x0c");
    terminal.wait_for("job-a?");
    terminal.press("n");
    terminal.wait_for("(Esc");
    terminal.press("\x1b");
    terminal.wait_for("second.yaml");
    terminal.press("ja\x0c");
    terminal.wait_for("job-b?");
    terminal.press("y");
    terminal.wait_for("CMD_COMPLETE");
    // The daemon goes away and comes back.
    terminal.wait_for("closed");
    terminal.press("\x0c");
    terminal.wait_for("CMD_COMPLETE");
    terminal.press("q");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains(LEAVES_THE_SCREEN), "{shown:?}");
    let aborts: Vec<_> = daemon.received().into_iter().filter(|line| is_command(line, "abort_job")).collect();
    assert_eq!(aborts.iter().map(|line| &line["params"]).collect::<Vec<_>>(), [&json!({"job_id": "job-b"})]);
}

#[test]
fn ctrl_c_restores_the_terminal_and_counts_as_interrupted() {
    let home = TempDir::new().unwrap();
    let silent = FakeDaemon::start(|_: &Value| Vec::new());
    let mut terminal = Terminal::showing("Up/Down", &silent, &home, &["top"]);
    // At most 200 lines are drawn, and 24 where the terminal reports none.
    for (columns, lines, drawn) in [(u16::MAX, u16::MAX, "\x1b[200;"), (1, 1, "\x1b[2J"), (0, 0, "\x1b[24;")]
    {
        terminal.resize(columns, lines);
        terminal.press("\x0c");
        terminal.wait_for(drawn);
    }
    terminal.wait_for("Up/Down");
    terminal.press("\x03");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130), "{shown:?}");
    assert!(shown.contains(LEAVES_THE_SCREEN), "{shown:?}");
    assert!(shown.ends_with("ocps: interrupted: jobs keep running\r\n"), "{shown:?}");
}

#[test]
fn sigterm_restores_the_terminal_too() {
    let (daemon, home) = (daemon(), TempDir::new().unwrap());
    let terminal = Terminal::showing("second.yaml", &daemon, &home, &["top"]);
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).unwrap();
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(143), "{shown:?}");
    assert!(shown.contains(LEAVES_THE_SCREEN), "{shown:?}");
}

#[test]
fn elsewhere_than_at_a_terminal_it_says_what_to_use() {
    let expected = "ocps: ocps top needs a terminal: ocps status, jobs and watch print elsewhere too\n";
    run_alone(&["top"]).check(1, &[], expected);
}
