//! `ocps doctor`: in order, and what is wrong in each case that is cheap to make.

use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{Home, Ran};
use crate::support::port::Port;
use crate::support::uws_service::{Options, UwsService};

/// What it finds in a home, for `ocps run 1` with these flags besides: exit code, and each check with its text, that of
/// a wrong one after `WRONG`.
fn doctor(home: &Home, flags: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
    let mut command = home.ocps();
    home.run_args(command.args(["doctor", "--json", "--index", "1"]), flags);
    let Ran { code, stdout, stderr } = crate::harness::run(&mut command);
    let document: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    let text = |check: &Value| {
        let text = check["text"].as_str().unwrap();
        if check["ok"] == true { text.to_owned() } else { format!("WRONG {text}") }
    };
    let checks = document["checks"].as_array().unwrap().iter();
    (code, checks.map(|check| (check["name"].as_str().unwrap().to_owned(), text(check))).collect())
}

/// The text of the check of that name.
#[track_caller]
fn of<'a>(name: &str, checks: &'a [(String, String)]) -> &'a str {
    let found = checks.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("no {name} in {checks:?}")).1
}

#[test]
fn all_is_ok_where_a_start_works_and_nothing_is_changed() {
    let service = UwsService::start(Options::default());
    let home = Home::for_service(&service.url(), 1.0, "");
    let (code, checks) = doctor(&home, &[]);
    let names: Vec<&str> = checks.iter().map(|(name, _)| name.as_str()).collect();
    let order = [
        "configuration",
        "directories",
        "disk space",
        "journal",
        "service",
        "brokers",
        "clock",
        "unit",
        "daemon",
    ];
    assert_eq!((code, names), (Some(0), order.to_vec()), "{checks:?}");
    assert!(of("journal", &checks).ends_with("journal.db is to be made at the start"), "{checks:?}");
    assert!(of("service", &checks).ends_with(" is a UWS service"), "{checks:?}");
    assert_eq!(of("daemon", &checks), "none is running");
    assert!(!home.path("state").exists());

    let mut daemon = home.start(&["1"]);
    let (code, checks) = doctor(&home, &[]);
    let process = daemon.pid().to_string();
    assert_eq!(code, Some(0), "{checks:?}");
    assert!(of("journal", &checks).ends_with(&format!("is in use by process {process}")), "{checks:?}");
    assert_eq!(of("daemon", &checks), format!("process {process} is STANDBY"));
    daemon.terminate();
    let before = fs::read(home.path("state/journal.db")).unwrap();
    let (code, checks) = doctor(&home, &[]);
    assert!(code == Some(0) && of("journal", &checks).ends_with("journal.db is sound"), "{checks:?}");
    assert_eq!(fs::read(home.path("state/journal.db")).unwrap(), before);
    assert_eq!(fs::read_dir(home.path("state")).unwrap().count(), 2, "the journal and its lock");
    let people = home.client(&["doctor", "--simulate", "--index", "1", "--no-kafka", "--state-dir", "state"]);
    assert_eq!(people.stdout.lines().next().unwrap(), "ok    configuration   ocps run", "{people:?}");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let port = Port::free().unwrap();
    let home = Home::for_service(&format!("http://127.0.0.1:{}/api/v1", port.number), 1.0, "");
    let (code, checks) = doctor(&home, &[]);
    assert_eq!(code, Some(1), "{checks:?}");
    assert!(of("service", &checks).starts_with("WRONG cannot reach "), "{checks:?}");

    let service = UwsService::start(Options::default());
    let elsewhere = service.url().replace("/api/v1", "/else");
    home.write("configuration/_init.yaml", &format!("url: {elsewhere}\npoll_interval: 1\n"));
    let (_, checks) = doctor(&home, &[]);
    assert!(of("service", &checks).contains("(is the url right?)"), "{checks:?}");

    home.write("configuration/_init.yaml", "url: 7\npoll_interval: 1\n");
    let (code, checks) = doctor(&home, &[]);
    assert_eq!(code, Some(78), "{checks:?}");
    assert!(
        of("configuration", &checks).starts_with("WRONG ") && of("configuration", &checks).contains("url")
    );
    assert_eq!(of("service", &checks), "WRONG not asked: the configuration does not name it");

    home.write("file", "");
    let (code, checks) = doctor(&home, &["--simulate", "--state-dir", "file/state"]);
    assert_eq!(code, Some(1), "{checks:?}");
    assert!(of("directories", &checks).starts_with("WRONG file/state: cannot be written: "), "{checks:?}");
}

#[test]
fn a_journal_that_the_next_run_cannot_use_is_wrong() {
    let home = Home::new();
    let flags = ["--simulate"];
    let journal = home.path("state/simulated.db");
    fs::create_dir(home.path("state")).unwrap();
    let wrong = |expected: &str| {
        let (code, checks) = doctor(&home, &flags);
        assert_eq!(code, Some(1), "{checks:?}");
        let found = of("journal", &checks);
        assert!(found.starts_with("WRONG the journal ") && found.contains(expected), "{found}");
    };
    fs::write(&journal, "short").unwrap();
    wrong("it is too short");
    fs::remove_file(&journal).unwrap();
    home.start(&["2", "--simulate"]).terminate();
    wrong("is that of index 2");
    Connection::open(&journal).unwrap().pragma_update(None, "user_version", 99).unwrap();
    wrong("is of version 99, which is newer");
}
