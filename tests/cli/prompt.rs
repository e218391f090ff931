//! `ocps console` at a terminal.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, Reply, ack, event, is_command, runs_a_job, summary_state};
use super::terminal::Terminal;

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_R: &str = "\x12";
const UP: &str = "\x1b[A";

/// A daemon that knows jobs, says little, and completes all commands.
fn knows_jobs() -> FakeDaemon {
    FakeDaemon::start(|line| {
        if line.get("query").is_some() {
            let jobs =
                json!([{"job_id": "j7", "pipeline": "a b.yaml"}, {"job_id": "k8", "pipeline": "\u{1b}[2J"}]);
            return vec![Reply::Say(json!({"jobs": jobs}))];
        }
        if line.get("command").is_some() { vec![ack(&line["seq"], 303, "Done")] } else { Vec::new() }
    })
}

fn commands(daemon: &FakeDaemon) -> Vec<Value> {
    let received = daemon.received();
    let commands = received.iter().filter(|line| line.get("command").is_some());
    commands.map(|line| json!([line["command"], line["params"]])).collect()
}

#[test]
fn a_line_can_be_edited_completed_cleared_and_brought_back() {
    let (daemon, home) = (knows_jobs(), TempDir::new().unwrap());
    let mut terminal = Terminal::showing("ocps> ", &daemon, &home, &["console"]);
    terminal.press("exec\tpipel\ttrue.yaml\r");
    terminal.wait_for("CMD_COMPLETE");
    terminal.press("never this");
    terminal.wait_for("never this");
    terminal.press(CTRL_C);
    terminal.wait_for("ocps> ");
    terminal.press("execute pipeline=a\t\r");
    terminal.wait_for("CMD_COMPLETE");
    terminal.press(&format!("abort_job job_id=j\t{}", "\x01\x0b"));
    terminal.press(&format!("{CTRL_R}true\r"));
    terminal.wait_for("execute[3] ");
    // Before the editor reads again, ^D would be lost.
    terminal.wait_for("ocps> ");
    terminal.press(CTRL_D);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("job_id=j7"), "{shown:?}");
    assert!(!shown.contains("\u{1b}[2J"), "{shown:?}");
    let run = |pipeline| json!(["execute", {"pipeline": pipeline}]);
    assert_eq!(commands(&daemon), [run("true.yaml"), run("a b.yaml"), run("true.yaml")]);

    let mut terminal = Terminal::showing("ocps> ", &daemon, &home, &["console"]);
    terminal.press(UP);
    terminal.wait_for("execute pipeline=true.yaml");
    terminal.press("\r");
    terminal.wait_for("CMD_COMPLETE");
    terminal.press("quit\r");
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(commands(&daemon).len(), 4);
}

#[test]
fn what_comes_while_a_line_is_edited_is_printed_above_it() {
    let daemon = FakeDaemon::start(|line| {
        let news = |level| event("logLevel", json!({"level": level, "subsystem": ""}));
        if line.get("subscribe").is_some() {
            return vec![news(0)];
        }
        if line.get("query").is_none() {
            return runs_a_job(line);
        }
        let status = json!({"index": 1, "name": "LATISS", "state": "ENABLED", "simulation_mode": 1});
        let pause = || Reply::Pause(Duration::from_millis(300));
        vec![
            Reply::Say(json!({"status": status})),
            pause(),
            news(1),
            pause(),
            news(2),
            pause(),
            summary_state(5),
            Reply::HangUp,
        ]
    });
    let home = TempDir::new().unwrap();
    let mut terminal = Terminal::run(&daemon, &home, &["console"]);
    terminal.press("half a line");
    terminal.wait_for("ocps 1 (LATISS) is ENABLED, simulated");
    terminal.wait_for("level=1");
    terminal.wait_for("ocps> half a line");
    terminal.wait_for("level=2");
    terminal.wait_for("ocps> half a line");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(1), "{shown:?}");
    // The editor, which cannot be interrupted, may print what came last before it or after it.
    let expected = "\r\x1b[Kocps: the daemon closed the connection without going OFFLINE\r\n";
    assert!(shown.contains(expected), "{shown:?}");
    assert!(!shown.contains("level=0"), "{shown:?}");
}

#[test]
fn a_line_that_was_typed_too_early_is_carried_out_though_much_is_printed() {
    for _ in 0..5 {
        let daemon = FakeDaemon::start(|line| {
            if line.get("command").is_some() {
                return vec![ack(&line["seq"], 303, "Done")];
            }
            let events = (0..50).map(|level| event("logLevel", json!({"level": level, "subsystem": ""})));
            [Reply::Say(json!({"status": {}}))].into_iter().chain(events).collect()
        });
        let home = TempDir::new().unwrap();
        let mut terminal = Terminal::run(&daemon, &home, &["console"]);
        terminal.press("enable\rdisable\r");
        terminal.wait_for("disable[2] ");
        terminal.press("quit\r");
        assert_eq!(terminal.end().0, Some(0));
    }
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    // SIGINT clears the line, as ^C does.
    for signal in [Signal::TERM, Signal::HUP] {
        let (daemon, home) = (knows_jobs(), TempDir::new().unwrap());
        let mut terminal = Terminal::showing("ocps> ", &daemon, &home, &["console"]);
        terminal.press("half a line");
        terminal.wait_for("half a line");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(128 + signal.as_raw()), "{shown:?}");
        assert!(shown.ends_with("ocps: terminated: jobs keep running\r\n"), "{shown:?}");
    }
}

#[test]
fn without_a_place_for_it_there_is_no_history_and_no_error() {
    let (daemon, home) = (knows_jobs(), TempDir::new().unwrap());
    fs::write(home.path().join(".local"), "no directory").unwrap();
    let mut terminal = Terminal::showing("ocps> ", &daemon, &home, &["console"]);
    terminal.press("enable\r");
    terminal.wait_for("CMD_COMPLETE");
    // Lines that come together are carried out one by one.
    terminal.press("foo\rquit\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    assert!(shown.contains("enable[1] \x1b[32mCMD_COMPLETE"), "{shown:?}");
    assert!(shown.contains("ocps: unknown command foo (type help)\r\n"), "{shown:?}");
    assert!(is_command(daemon.received().last().unwrap(), "enable"));
}
