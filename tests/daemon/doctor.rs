//! `ocps doctor`: in order, and what is wrong in each case that is cheap to make.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Home, LONG, Ran};
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

/// The files of a directory and what is in them.
fn contents(directory: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name(), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn what_a_killed_daemon_wrote_last_is_part_of_its_journal() {
    let home = Home::with_toml(LONG);
    let mut daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    let mut client = daemon.connect();
    let seq = client.execute("true.yaml");
    client.job_id(seq);
    daemon.signal(Signal::KILL);
    daemon.wait();
    let state = home.path("state");
    let (journal, last) = (state.join("simulated.db"), state.join("simulated.db-wal"));
    assert!(fs::metadata(&last).unwrap().len() > 0);
    let before = contents(&state);
    let find = || {
        let (code, checks) = doctor(&home, &["--simulate"]);
        (code, of("journal", &checks).to_owned())
    };
    assert_eq!(find(), (Some(0), format!("{} is sound", journal.display())));
    assert_eq!(contents(&state), before);
    // Without the rest, each part is wrong.
    let whole = fs::read(&journal).unwrap();
    fs::remove_file(&journal).unwrap();
    let (code, found) = find();
    assert!(
        code == Some(1)
            && found.contains("it is missing, but the -wal file with what was written last is there"),
        "{found}"
    );
    fs::remove_file(&last).unwrap();
    let (code, found) = find();
    assert!(code == Some(1) && found.contains("is missing, although there was one"), "{found}");
    fs::write(&journal, &whole).unwrap();
    fs::write(&last, &before[last.file_name().unwrap()]).unwrap();
    let mut daemon = home.start(&["1", "--simulate"]);
    assert_eq!(daemon.connect().query("status")["recovery"]["running"], 1);
    daemon.terminate();
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
