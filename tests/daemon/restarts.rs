//! Restarts: accepted commands continue in the next run, whatever ended the daemon.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Daemon, Home, LONG, QUICK, eventually};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

const TOML: &str = "[uws]\nsettle_time_s = 0.5\nput_timeout_s = 2\n";

fn service(duration: f64) -> UwsService {
    let timing = Timing { pending: 0.05, queued: 0.05, duration, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

/// Kills it when all it has to keep is kept.
fn kill(daemon: Daemon) {
    let mut client = daemon.connect();
    eventually("all is kept", || client.query("status")["journal"]["waiting"] == 0);
    daemon.signal(Signal::KILL);
    drop(daemon);
}

/// The history and what is running, in few words: number, stage, exit code.
fn jobs(daemon: &Daemon) -> Vec<String> {
    let jobs = daemon.connect().query("jobs");
    let text = |job: &serde_json::Value| format!("{} {} {}", job["seq_num"], job["stage"], job["exit_code"]);
    jobs.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn running_jobs_are_tracked_in_standby_and_without_configuration() {
    let service = service(600.0);
    let home = Home::for_service(&service.url(), 0.2, TOML);
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    for seq in 1..=3 {
        client.execute("p.yaml");
        client.job_id(seq);
    }
    kill(daemon);
    fs::remove_file(home.path("configuration/_init.yaml")).unwrap();
    let daemon = home.start(&["1"]);
    let status = daemon.connect().query("status");
    assert_eq!((&status["state"], &status["recovery"]["running"]), (&json!("STANDBY"), &json!(3)));
    let shown = home.client(&["status"]).stdout;
    assert!(shown.contains("resumed        3 running jobs\n"), "{shown}");
    service.end_jobs();
    eventually("all jobs end", || jobs(&daemon).iter().all(|job| job.ends_with("\"finished\" 0")));
    // The next run knows what ended, and, once that it was published is recorded, does not publish it again.
    thread::sleep(Duration::from_millis(1500));
    kill(daemon);
    let daemon = home.start(&["1"]);
    let mut client = daemon.subscribe();
    client.listen(Duration::from_millis(300));
    assert!(!client.story().iter().any(|line| line.starts_with("job_result")), "{:?}", client.story());
    assert_eq!(jobs(&daemon), ["1 \"finished\" 0", "2 \"finished\" 0", "3 \"finished\" 0"]);
    assert!(home.client(&["jobs", "--all"]).stdout.contains("completed"));
}

#[test]
fn a_submission_that_was_cut_off_is_found_and_not_sent_again() {
    let service = service(0.3);
    // The service makes the job and does not answer.
    service.inject(Fault { on: On::Put, times: 1, what: What::DoneThenHang(600.0) });
    let home = Home::for_service(&service.url(), 0.2, "[uws]\nsettle_time_s = 0.5\nput_timeout_s = 20\n");
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    client.execute("p.yaml");
    eventually("the job is there", || service.jobs().len() == 1);
    kill(daemon);
    let daemon = home.start(&["1"]);
    assert_eq!(daemon.connect().query("status")["recovery"]["in_doubt"], 1);
    eventually("it ends", || jobs(&daemon) == ["1 \"finished\" 0"]);
    let counters = service.counters();
    assert_eq!((counters.puts, counters.jobs.len()), (1, 1), "{counters:?}");
}

/// What `ocps job` shows of the history of a job, without times.
fn history(home: &Home, id: &str) -> Vec<String> {
    let shown = home.client(&["job", id]).stdout;
    let lines = shown.lines().skip_while(|line| !line.starts_with("history"));
    // The name, date, time and the time since the command.
    let text = |line: &str| line[15..].split_whitespace().skip(3).collect::<Vec<_>>().join(" ");
    lines.map(text).collect()
}

#[test]
fn the_history_of_a_job_is_shown_after_a_restart_too() {
    let service = service(600.0);
    service.inject(Fault { on: On::Put, times: 1, what: What::DoneThenHang(600.0) });
    let home = Home::for_service(&service.url(), 0.2, TOML);
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    client.execute("p.yaml");
    let id = client.job_id(1);
    eventually("it is executed", || client.query("jobs")[0]["phase"] == "executing");
    // What happened is recorded within a second.
    thread::sleep(Duration::from_millis(1500));
    let before = history(&home, &id);
    assert!(before[0].starts_with("accepted from "), "{before:?}");
    assert!(before[1].starts_with("submission may have reached the service: "), "{before:?}");
    assert_eq!(before[2], format!("found in the service's list as job {id}"), "{before:?}");
    assert_eq!(before.last().unwrap(), "phase executing");
    kill(daemon);
    service.end_jobs();
    let daemon = home.start(&["1"]);
    eventually("it ends", || jobs(&daemon) == ["1 \"finished\" 0"]);
    let rest = ["resumed after a restart of the daemon", "completed"];
    let whole = [&before[..], &rest.map(str::to_owned)].concat();
    assert_eq!(history(&home, &id), whole);
    thread::sleep(Duration::from_millis(1500));
    kill(daemon);
    let daemon = home.start(&["1"]);
    let run_id = daemon.connect().query("jobs")[0]["run_id"].as_str().unwrap().to_owned();
    assert_eq!(history(&home, &run_id), whole);
    let ran = home.client(&["job", &id, "--json"]);
    let job: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(home.client(&["job", &id]).stdout.contains("\ndelivered      yes\n"));
    assert_eq!((&job["undelivered"], &job["history"][2]["about"]), (&json!([]), &json!(id)), "{job}");
}

#[test]
fn the_state_is_resumed_with_its_override() {
    let home = Home::with_toml(QUICK);
    home.write("configuration/_init.yaml", "url: http://h\npoll_interval: 1\n");
    home.write("configuration/night.yaml", "poll_interval: 2\n");
    let daemon = home.start(&["1", "--state", "enabled", "--override", "night.yaml"]);
    kill(daemon);
    let daemon = home.start(&["1", "--state", "resume"]);
    let status = daemon.connect().query("status");
    assert_eq!(
        (&status["state"], &status["configuration"]["poll_interval_s"]),
        (&json!("ENABLED"), &json!(2.0))
    );
    assert_eq!(daemon.connect().run("disable", &json!({})), "CMD_COMPLETE Done");
    kill(daemon);
    let daemon = home.start(&["1", "--state", "resume"]);
    assert_eq!(daemon.connect().query("status")["state"], "DISABLED");
    assert_eq!(daemon.connect().run("standby", &json!({})), "CMD_COMPLETE Done");
    kill(daemon);
    let daemon = home.start(&["1", "--state", "resume"]);
    assert_eq!(daemon.connect().query("status")["state"], "STANDBY");
}

#[test]
fn an_interrupted_start_is_resumed() {
    let home = Home::with_toml(QUICK);
    home.write("configuration/_init.yaml", "url: http://h\npoll_interval: 1\n");
    kill(home.start(&["1", "--state", "enabled"]));
    // At any moment of the start: from before it listens to after it is ready.
    for delay in 0..40 {
        let mut child = home.daemon(&["1", "--state", "resume"]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let daemon = home.start(&["1", "--state", "resume"]);
    assert_eq!(daemon.connect().query("status")["state"], "ENABLED");
}

#[test]
fn without_a_journal_unfinished_commands_fail_at_the_stop() {
    let service = service(60.0);
    let home = Home::for_service(&service.url(), 0.2, "journal = \"off\"\n");
    let mut daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    client.execute("p.yaml");
    let id = client.job_id(1);
    daemon.terminate();
    let failed = format!("CMD_FAILED Failed: the daemon ended; job {id} is left at the execution service");
    assert_eq!(client.final_ack(1), failed);
    assert!(!home.path("state/journal.db").exists());
    assert!(home.client(&["status"]).code == Some(4));
}

/// As in a container whose root is read-only.
#[test]
fn without_a_journal_no_state_directory_is_wanted() {
    let home = Home::new();
    home.write("file", "");
    let nowhere = home.path("file/state");
    let args = ["1", "--state-dir", nowhere.to_str().unwrap()];
    let refused = home.refused(&args);
    let line = refused.one_line(1);
    assert!(line.contains("cannot use the state directory") && line.contains("journal = \"off\""), "{line}");
    home.write("ocps.toml", "journal = \"off\"\n");
    let daemon = home.start(&args);
    let status = daemon.connect().query("status");
    assert_eq!((&status["state"], &status["state_dir"]), (&json!("STANDBY"), &json!(null)), "{status}");
    // Nor is one looked up.
    let mut command = home.ocps();
    command
        .args(["run", "1", "--socket"])
        .arg(home.path("other.sock"))
        .arg("--config")
        .arg(home.path("ocps.toml"));
    if !rustix::process::geteuid().is_root() {
        command.env_remove("HOME");
    }
    Daemon::start(command, home.path("other.sock"));
    assert!(!home.path("state").exists());
}

#[test]
fn a_journal_that_is_not_ours_or_no_journal_is_refused() {
    let home = Home::with_toml(QUICK);
    drop(home.start(&["1"]));
    let refused = home.refused(&["2"]);
    let line = refused.one_line(78);
    assert!(line.contains("is that of index 1 (LATISS), and this is index 2 (LSSTComCam)"), "{line}");
    let path = home.path("state/journal.db");
    fs::write(&path, "not a database at all, but long enough to be looked at by someone who wants to know")
        .unwrap();
    let refused = home.refused(&["1"]);
    let line = refused.one_line(78);
    assert!(line.contains("is damaged") && line.contains("mv "), "{line}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("not a database"));
}

#[test]
fn a_rehearsal_keeps_a_journal_of_its_own() {
    let home = Home::with_toml(LONG);
    let daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    let mut client = daemon.connect();
    client.execute("true.yaml");
    let id = client.job_id(1);
    kill(daemon);
    assert!(home.path("state/simulated.db").exists() && !home.path("state/journal.db").exists());
    // Its jobs are gone with it.
    let daemon = home.start(&["1", "--simulate"]);
    eventually("it ends", || jobs(&daemon) == ["1 \"finished\" 1"]);
    let result = daemon.connect().query("jobs")[0]["job_id"].clone();
    assert_eq!(result, json!(id));
}
