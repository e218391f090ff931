//! The real binary against a small fake daemon that answers as a test wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod codes;
mod console;
mod fake_daemon;
mod files;
mod jobs;
mod output;
#[cfg(feature = "terminal")]
mod prompt;
mod send;
mod state;
#[path = "../support/mod.rs"]
mod support;
#[cfg_attr(not(feature = "terminal"), allow(dead_code, reason = "only the prompt types"))]
mod terminal;
#[cfg(feature = "terminal")]
mod top;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use fake_daemon::{FakeDaemon, Reply, finish, in_state, ocps, run_alone};

#[test]
fn help_and_version_need_nothing() {
    let help = run_alone(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.starts_with("ocps: ") && help.stdout.contains("\n  78  "), "{}", help.stdout);
    run_alone(&["-V"]).check(0, &[concat!("ocps ", env!("CARGO_PKG_VERSION"))], "");
    let build = run_alone(&["--version"]);
    let lines: Vec<&str> = build.stdout.lines().collect();
    assert_eq!(
        (build.code, lines.len(), lines[0]),
        (Some(0), 4, concat!("ocps ", env!("CARGO_PKG_VERSION")))
    );
    for (line, name) in lines[1..].iter().zip(["commit     ", "features   ", "libraries  "]) {
        assert!(line.len() > name.len() && line.starts_with(name), "{build:?}");
    }
    assert_eq!(lines[2].contains("kafka-sasl"), cfg!(feature = "kafka-sasl"), "{build:?}");
    assert!(lines[3].contains("SQLite 3."), "{build:?}");
    // An unpacked archive has no commit.
    let git =
        Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "log", "-1", "--format=%h"]).output();
    if let Ok(commit) = git.map(|git| String::from_utf8(git.stdout).unwrap())
        && Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists()
    {
        assert!(lines[1].starts_with(&format!("commit     {} (2", commit.trim())), "{build:?}");
    }
    assert_eq!(run_alone(&["help", "send"]), run_alone(&["send", "--frobnicate", "--help"]));
}

#[test]
fn a_wrong_command_line_is_exit_2_and_one_line() {
    let expected = "ocps: unknown flag --simulat: did you mean --simulate? (see ocps run --help)\n";
    run_alone(&["run", "--simulat"]).check(2, &[], expected);
    run_alone(&["send", "setLogLevel", "level=x"]).check(
        2,
        &[],
        "ocps: level must be a 32-bit integer, not x (see ocps send --help)\n",
    );
    run_alone(&[]).check(2, &[], "ocps: no command given (see ocps --help)\n");
}

#[test]
fn the_links_of_the_python_program_mean_ocps_run() {
    let directory = TempDir::new().unwrap();
    for name in ["run_ocps", "run_OCPS.py"] {
        let link = directory.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ocps"), &link).unwrap();
        let output = Command::new(&link).args(["1", "--simulate", "--state", "fault"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("(see ocps run --help)"), "{stderr}");
        // As the observatory's images are started; a script that hands it on has the variable too.
        for (args, expected) in
            [(vec![], "not from-variable"), (vec!["1", "--state", "from-script"], "not from-script")]
        {
            let mut run = Command::new(&link);
            let output = run.env("RUN_ARG", "1  --state from-variable").args(args).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(2) && stderr.contains(expected), "{stderr}");
        }
    }
}

#[test]
fn without_a_daemon_every_client_exits_with_4_and_names_the_socket() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("no.sock");
    let socket = socket.to_str().unwrap();
    let clients: [&[&str]; 9] = [
        &["send", "enable"],
        &["state"],
        &["state", "enabled"],
        &["status"],
        &["jobs"],
        &["results", "a"],
        &["logs", "a"],
        &["watch"],
        &["console"],
    ];
    let expected =
        format!("ocps: no daemon at {socket} (no such file): start one with ocps run --socket {socket}\n");
    for client in clients {
        run_alone(&[client, &["--socket", socket]].concat()).check(4, &[], &expected);
    }
    // One that was killed leaves its file.
    drop(UnixListener::bind(socket).unwrap());
    let ran = run_alone(&["status", "--socket", socket]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.stderr.contains("connection refused"), "{}", ran.stderr);
}

#[test]
fn a_daemon_in_a_usual_place_is_found_without_a_flag() {
    // Only others than root have a place of their own.
    if rustix::process::geteuid().is_root() || Path::new("/run/ocps").exists() {
        return;
    }
    let daemon = in_state("STANDBY", "");
    let runtime = TempDir::new().unwrap();
    std::fs::create_dir(runtime.path().join("ocps")).unwrap();
    std::os::unix::fs::symlink(daemon.socket(), runtime.path().join("ocps/ocps.sock")).unwrap();
    let child = ocps().env("XDG_RUNTIME_DIR", runtime.path()).arg("state").spawn().unwrap();
    finish(child).check(0, &["STANDBY"], "");
}

#[test]
fn a_huge_line_is_printed_and_garbage_is_ignored() {
    let daemon = FakeDaemon::start(|line| {
        if line.get("query").is_none() {
            return Vec::new();
        }
        let huge = "x".repeat(4 << 20);
        vec![
            Reply::Raw("\u{0}\u{1b}[31m\n\n[]\n"),
            Reply::Say(json!({"status": {"state": huge}})),
            Reply::Say(json!({"status": {"state": "FAULT"}})),
        ]
    });
    let ran = daemon.run(&["status", "--json"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.len() > 4 << 20);
}
