//! `ocps results` and `ocps logs`: a daemon that knows the job, and the service that has its files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, Ran, Reply, finish, ocps};
use super::support::uws_fault::{Fault, On, What};
use super::support::uws_job::Timing;
use super::support::uws_service::{Options, UwsService};

/// Ends at once, and leaves what `data_query` says.
fn quick() -> Options {
    let timing = Timing { pending: 0.0, queued: 0.0, duration: 0.0, ..Timing::default() };
    Options { timing, ..Options::default() }
}

struct Rig {
    service: UwsService,
    daemon: FakeDaemon,
    job_id: String,
    dir: TempDir,
}

impl Rig {
    fn new(options: Options, data_query: &str) -> Self {
        let service = UwsService::start(options);
        let environment = json!([{"name": "DATA_QUERY", "value": data_query}]);
        let job_id =
            service.add_job(&json!({"command": "echo 1", "run_id": "1-a", "environment": environment}));
        let job = json!({"job_id": job_id, "run_id": "1-a", "service_url": service.url()});
        let daemon = FakeDaemon::start(move |line| match line["query"].as_str() {
            Some("jobs") => vec![Reply::Say(json!({"jobs": [job]}))],
            _ => vec![Reply::Say(json!({"status": {"index": 1, "version": "0.1.0"}}))],
        });
        Self { service, daemon, job_id, dir: TempDir::new().unwrap() }
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn download(&self) -> Ran {
        self.daemon.run(&["results", "1-a", "--download", self.out().to_str().unwrap()])
    }

    fn fault(&self, on: On, what: What) {
        self.service.inject(Fault { on, times: 1, what });
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

#[test]
fn results_are_listed_downloaded_once_and_kept() {
    let rig = Rig::new(quick(), "files=2 size=100000");
    let log = format!("job {} run 1-a\ndone\n", rig.job_id);
    rig.daemon.run(&["results", "1-"]).check(
        0,
        &["SIZE  NAME", "-     result-1.txt", "-     result-0.txt", "-     ocps.log"],
        "",
    );
    let listed = rig.daemon.run(&["results", "1-a", "--json"]);
    let uri = format!("/uws/jobs/{}/out/result-1.txt", rig.job_id);
    let first = json!({"id": "0", "name": "result-1.txt", "uri": uri, "size": null});
    assert_eq!(serde_json::from_str::<Value>(&listed.stdout).unwrap()[0], first);
    rig.download().check(0, &["result-1.txt  97.7 KiB", "result-0.txt  97.7 KiB", "ocps.log  50 B"], "");
    assert_eq!(names(&rig.out()), ["ocps.log", "result-0.txt", "result-1.txt"]);
    assert_eq!(fs::read(rig.out().join("result-1.txt")).unwrap(), pattern(100_000));
    assert_eq!(fs::read_to_string(rig.out().join("ocps.log")).unwrap(), log);
    fs::write(rig.out().join("ocps.log"), "mine").unwrap();
    let kept = [
        "result-1.txt  is there already: kept",
        "result-0.txt  is there already: kept",
        "ocps.log  is there already: kept",
    ];
    rig.download().check(0, &kept, "");
    assert_eq!(fs::read_to_string(rig.out().join("ocps.log")).unwrap(), "mine");
    rig.daemon.run(&["logs", &rig.job_id]).check(0, &log.lines().collect::<Vec<_>>(), "");
}

#[test]
fn a_file_that_broke_off_is_completed_and_has_its_name_only_then() {
    for ranges in [true, false] {
        let rig = Rig::new(Options { ranges, ..quick() }, "files=1 size=100000");
        rig.fault(On::File, What::Truncated);
        let ran = rig.download();
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.stderr.starts_with("ocps: result-0.txt: stopped after 48.8 KiB: ")
                && ran
                    .stderr
                    .ends_with("; the same command continues there\nocps: not downloaded: 1 of 2 files\n"),
            "{ran:?}"
        );
        assert_eq!(names(&rig.out()), ["ocps.log", "result-0.txt.part"]);
        rig.download().check(0, &["result-0.txt  97.7 KiB", "ocps.log  is there already: kept"], "");
        assert_eq!(names(&rig.out()), ["ocps.log", "result-0.txt"]);
        assert_eq!(fs::read(rig.out().join("result-0.txt")).unwrap(), pattern(100_000));

        // A part of something else is not completed.
        fs::remove_file(rig.out().join("result-0.txt")).unwrap();
        fs::write(rig.out().join("result-0.txt.part"), "x".repeat(5000)).unwrap();
        assert_eq!(rig.download().code, Some(0));
        assert_eq!(fs::read(rig.out().join("result-0.txt")).unwrap(), pattern(100_000));
    }
}

#[test]
fn a_number_that_moves_to_another_file_spoils_none() {
    // The first list is that of a moment before the job wrote its results: then number 0 was the log.
    let rig = Rig::new(quick(), "files=1");
    let before = json!([{"id": 0, "uri": format!("/uws/jobs/{}/out/ocps.log", rig.job_id)}]);
    let body = before.to_string();
    rig.fault(On::Get, What::Status { code: 200, content_type: "application/json".into(), body });
    assert_eq!(rig.download().code, Some(0));
    assert_eq!(names(&rig.out()), ["ocps.log"]);
    let log = fs::read_to_string(rig.out().join("ocps.log")).unwrap();
    assert_eq!(log, format!("job {} run 1-a\ndone\n", rig.job_id));
}

#[test]
fn files_with_hostile_names_are_not_downloaded() {
    let rig = Rig::new(quick(), "");
    let uris = [
        "/x/../y",
        "x/..",
        "/uws/jobs/ID/out/../../x",
        "/uws/jobs/ID/out/a\u{1b}[2J",
        "/uws/jobs/ID/out//etc/x",
    ];
    let body =
        uris.iter().enumerate().map(|(id, uri)| json!({"id": id, "uri": uri.replace("ID", &rig.job_id)}));
    let body = body.collect::<Value>().to_string();
    rig.fault(On::Get, What::Status { code: 200, content_type: "application/json".into(), body });
    let ran = rig.download();
    assert_eq!(ran.code, Some(1));
    let expected = [
        "ocps: y: the service no longer has it",
        "ocps: ..: its name leads out of the folder: not downloaded",
        "ocps: ../../x: its name leads out of the folder: not downloaded",
        "ocps: a\\u{1b}[2J: its name is too long or has control characters: not downloaded",
        "ocps: /etc/x: its name leads out of the folder: not downloaded",
        "ocps: not downloaded: 5 of 5 files",
    ];
    assert_eq!(ran.stderr.lines().collect::<Vec<_>>(), expected);
    assert_eq!(names(rig.dir.path()), ["out"]);
}

#[test]
fn files_of_one_name_are_told_apart_by_their_numbers() {
    let rig = Rig::new(quick(), "");
    let lists = || {
        let uris = ["http://h/a/x.txt", "http://h/b/x.txt", "http://h/y.txt", "http://h/0-x.txt"];
        let body = uris.iter().enumerate().map(|(id, uri)| json!({"id": id, "uri": uri})).collect::<Value>();
        rig.fault(
            On::Get,
            What::Status { code: 200, content_type: "application/json".into(), body: body.to_string() },
        );
    };
    lists();
    let expected = ["SIZE  NAME", "-     0-x.txt", "-     1-x.txt", "-     2-y.txt", "-     3-0-x.txt"];
    rig.daemon.run(&["results", "1-a"]).check(0, &expected, "");
    lists();
    let ran = rig.download();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("ocps: 1-x.txt: ") && ran.stderr.contains("ocps: 3-0-x.txt: "), "{ran:?}");
}

#[test]
fn a_job_that_the_service_has_forgotten_still_has_its_files() {
    let timing = Timing { time_to_live: 0.0, ..quick().timing };
    let rig = Rig::new(Options { timing, ..quick() }, "files=1");
    let expected = ["SIZE  NAME", "2 B   result-0", "50 B  result-1"];
    rig.daemon.run(&["results", "1-a"]).check(0, &expected, "");
    rig.download().check(0, &["result-0  2 B", "result-1  50 B"], "");
    assert_eq!(names(&rig.out()), ["result-0", "result-1"]);
}

#[test]
fn a_log_is_followed_to_the_end_of_its_job() {
    for ranges in [true, false] {
        let timing = Timing { pending: 0.5, queued: 0.0, duration: 2.0, ..Timing::default() };
        let rig = Rig::new(Options { timing, ranges, ..Options::default() }, "");
        let started = Instant::now();
        rig.daemon.run(&["logs", "1-a"]).check(1, &[], &format!("ocps: job {} has no log\n", rig.job_id));
        let ran = rig.daemon.run(&["logs", "1-a", "--follow"]);
        ran.check(0, &[&format!("job {} run 1-a", rig.job_id), "done"], "");
        assert!(started.elapsed() > Duration::from_millis(2400));
    }
}

#[test]
fn what_is_no_file_is_not_taken_for_one() {
    let rig = Rig::new(quick(), "");
    let page =
        || What::Status { code: 200, content_type: "text/html".into(), body: "<html>Please log in".into() };
    rig.fault(On::File, page());
    let url = rig.service.url();
    let ran = rig.daemon.run(&["logs", "1-a"]);
    let expected =
        format!("ocps: {url}/job/result/{}/0 answered GET with 200: <html>Please log in\n", rig.job_id);
    ran.check(1, &[], &expected);
    rig.fault(On::Get, page());
    let ran = rig.daemon.run(&["results", "1-a"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("/results answered GET with 200: <html>"), "{ran:?}");
    let ran = rig.daemon.run(&["logs", "x"]);
    let last = rig.job_id.get(..8).unwrap();
    let expected = format!("ocps: the daemon knows no job x; its last ones: {last} (all: ocps jobs --all)\n");
    ran.check(1, &[], &expected);
}

#[test]
fn the_password_of_the_service_is_read_from_the_configuration_and_never_shown() {
    // "me:secret"
    let authorization = Some("Basic bWU6c2VjcmV0".to_owned());
    let rig = Rig::new(Options { authorization, ..quick() }, "");
    let ran = rig.daemon.run(&["logs", "1-a", "--configdir", "/no/such"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("answered GET with 401: who are you?"), "{ran:?}");
    let url = rig.service.url().replace("http://", "http://me:secret@");
    fs::write(rig.dir.path().join("_init.yaml"), format!("url: {url}\npoll_interval: 1\n")).unwrap();
    let dir = rig.dir.path().to_str().unwrap();
    let ran = rig.daemon.run(&["logs", "1-a", "--configdir", dir]);
    assert_eq!((ran.code, ran.stdout.lines().last()), (Some(0), Some("done")), "{ran:?}");
    rig.fault(On::Any, What::Close);
    let ran = rig.daemon.run(&["results", "1-a", "--configdir", dir]);
    assert_eq!(ran.code, Some(1));
    assert!(!ran.stderr.contains("secret") && ran.stderr.contains("no answer from http://127"), "{ran:?}");
}

#[test]
fn what_has_no_files_says_so() {
    let check = |job: Value, expected: &str| {
        let daemon = FakeDaemon::start(move |line| match line["query"].as_str() {
            Some("jobs") => vec![Reply::Say(json!({"jobs": [job]}))],
            _ => vec![Reply::Say(json!({"status": {"version": "0.0.9"}}))],
        });
        daemon.run(&["results", "a"]).check(1, &[], &format!("ocps: {expected}\n"));
    };
    check(json!({"job_id": "a", "service_url": ""}), "job a has no files: it is simulated");
    check(
        json!({"run_id": "a", "service_url": "http://h", "stage": "waiting"}),
        "a has no files: it is not at the service (waiting)",
    );
    check(
        json!({"job_id": "a"}),
        "the daemon runs an older ocps, and this command needs one of ocps 0.1.0: restart the daemon",
    );
    let child = ocps().args(["results"]).spawn().unwrap();
    let expected =
        "ocps: no ID: the beginning of a job id or run id, as in ocps jobs (see ocps results --help)\n";
    finish(child).check(2, &[], expected);
}
