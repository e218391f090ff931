//! Each exit code that `ocps --help` lists, in a case that ends with it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, PATIENCE, Reply, in_state, run_alone};

/// What a shell says of a client that such a signal ends while it waits for events.
fn ended_by(signal: Signal) -> Option<i32> {
    let silent = FakeDaemon::start(|_| Vec::new());
    // Where the tests run in the background, a shell may have them ignore SIGINT.
    let mut watch = Command::new("env");
    watch.args(["--default-signal", env!("CARGO_BIN_EXE_ocps"), "watch"]).env("OCPS_SOCKET", silent.socket());
    let mut watch = watch.stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while silent.received().is_empty() {
        assert!(Instant::now() < deadline, "the client does not connect");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&watch), signal).unwrap();
    watch.wait().unwrap().signal().map(|signal| 128 + signal)
}

#[test]
fn every_exit_code_of_the_help_has_a_case() {
    let directory = TempDir::new().unwrap();
    let toml = directory.path().join("ocps.toml");
    fs::write(&toml, "nonsense").unwrap();
    let hangs_up = FakeDaemon::start(|_| vec![Reply::HangUp]);
    let help = run_alone(&["--help"]).stdout;
    let (_, list) = help.split_once("Exit codes:\n").unwrap();
    let codes = list.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    for code in codes {
        let found = match code {
            0 => run_alone(&["-V"]).code,
            1 => hangs_up.run(&["status"]).code,
            2 => run_alone(&["frobnicate"]).code,
            3 => in_state("STANDBY", "start").run(&["state", "enabled"]).code,
            4 => run_alone(&["status", "--socket", directory.path().join("none").to_str().unwrap()]).code,
            // Only a real broker lets one daemon take over from another: tests/kafka/journal.rs.
            5 => continue,
            78 => run_alone(&["check", toml.to_str().unwrap()]).code,
            129 => ended_by(Signal::HUP),
            130 => ended_by(Signal::INT),
            143 => ended_by(Signal::TERM),
            other => panic!("no case ends with {other}"),
        };
        assert_eq!(found, Some(code));
    }
}
