//! A journal that is deleted, missing or too old: no running job is forgotten without a word.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, Home, eventually};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

fn service() -> UwsService {
    let timing = Timing { pending: 0.05, queued: 0.05, duration: 600.0, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

/// A daemon with so many running jobs.
fn with_jobs(home: &Home, count: usize) -> Daemon {
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    for _ in 0..count {
        let seq = client.execute("p.yaml");
        client.job_id(seq);
    }
    eventually("all is kept", || client.query("status")["journal"]["waiting"] == 0);
    daemon
}

fn finished(daemon: &Daemon) -> usize {
    let jobs = daemon.connect().query("jobs");
    let is_finished = |job: &&Value| job["stage"] == "finished" && job["exit_code"] == 0;
    jobs.as_array().unwrap().iter().filter(is_finished).count()
}

#[test]
fn a_state_directory_that_is_deleted_is_made_again_and_no_job_is_forgotten() {
    let service = service();
    let home = Home::for_service(&service.url(), 0.2, "");
    let daemon = with_jobs(&home, 3);
    fs::remove_dir_all(home.path("state")).unwrap();
    let mut client = daemon.connect();
    eventually("it is made again", || client.query("status")["journal"]["notice"].is_string());
    let notice = client.query("status")["journal"]["notice"].as_str().unwrap().to_owned();
    assert!(notice.ends_with("(1 times since the start): it is complete again"), "{notice}");
    assert!(daemon.stderr().contains(&notice));
    let shown = home.client(&["status"]).stdout;
    assert!(shown.contains("was deleted, moved away or replaced while in use"), "{shown}");
    daemon.signal(Signal::KILL);
    drop(daemon);

    let daemon = home.start(&["1"]);
    assert_eq!(daemon.connect().query("status")["recovery"]["running"], 3);
    service.end_jobs();
    eventually("all jobs end", || finished(&daemon) == 3);
}

#[test]
fn jobs_that_run_are_found_at_the_service_when_the_journal_is_missing() {
    let service = service();
    let home = Home::for_service(&service.url(), 0.2, "");
    let daemon = with_jobs(&home, 2);
    daemon.signal(Signal::KILL);
    drop(daemon);
    for name in ["journal.db", "journal.db-wal"] {
        let _ = fs::remove_file(home.path("state").join(name));
    }

    let daemon = home.start(&["1"]);
    let mut client = daemon.subscribe();
    let missing = "journal.db is missing, although there was one: what it held is forgotten";
    assert!(daemon.stderr().contains(missing), "{}", daemon.stderr());
    assert!(client.query("status")["journal"]["notice"].as_str().unwrap().contains(missing));
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
    eventually("they are found", || client.query("status")["recovery"]["found"] == 2);
    let found = "jobs of index 1 (LATISS) that run at the service and are not in the journal: 2;";
    assert!(daemon.stderr().contains(found), "{}", daemon.stderr());
    assert!(home.client(&["status"]).stdout.contains("2 unknown jobs found at the service"));
    let ids: Vec<String> = service.jobs().iter().map(|job| job.job_id.clone()).collect();
    // The next run knows them.
    eventually("all is kept", || client.query("status")["journal"]["waiting"] == 0);
    daemon.signal(Signal::KILL);
    drop(daemon);
    let daemon = home.start(&["1"]);
    let mut client = daemon.subscribe();
    assert_eq!(client.query("status")["recovery"]["running"], 2);
    service.end_jobs();
    for id in ids {
        assert_eq!(client.job_result(&id)["exit_code"], 0);
    }
    assert_eq!(service.counters().puts, 2);
}

#[test]
fn what_the_next_start_may_not_know_is_logged_at_the_stop() {
    let service = service();
    let home = Home::for_service(&service.url(), 0.2, "");
    let mut daemon = with_jobs(&home, 1);
    fs::remove_dir_all(home.path("state")).unwrap();
    fs::write(home.path("state"), "a file in the place of the directory").unwrap();
    daemon.terminate();
    let log = daemon.stderr();
    assert!(log.contains("cannot use the state directory"), "{log}");
    let id = &service.jobs()[0].job_id;
    let forgotten =
        "unfinished jobs that the next start may not know: 1; the end of those that it does not find";
    assert!(log.contains(forgotten) && log.contains(&format!("{id} (run 1-ocps1-")), "{log}");
}

#[test]
fn a_submission_that_is_in_doubt_for_too_long_is_not_sent_again() {
    let service = service();
    // Nobody knows what became of it.
    service.inject(Fault { on: On::Put, times: 1, what: What::Hang(600.0) });
    let toml = "[uws]\nsettle_time_s = 0.5\nresubmit_limit_s = 0.1\n";
    let home = Home::for_service(&service.url(), 0.2, toml);
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    client.execute("p.yaml");
    eventually("it is sent", || service.counters().puts == 1);
    std::thread::sleep(Duration::from_millis(100));
    daemon.signal(Signal::KILL);
    drop(daemon);
    let daemon = home.start(&["1"]);
    let mut client = daemon.connect();
    let problem = |client: &mut crate::harness::Client| client.query("jobs")[0]["problem"].clone();
    let unclear =
        |text: &Value| text.as_str().is_some_and(|text| text.contains("may have been submitted more than"));
    eventually("it is given up", || unclear(&problem(&mut client)));
    assert_eq!(service.counters().puts, 1);
}
