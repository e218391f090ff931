//! A disk that is full: nothing new is accepted, what was accepted continues, and nothing is forgotten.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Home, StallMeter, eventually};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

/// A small disk of its own, until the end of the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at).stderr(Stdio::null());
        assert!(mount.status().unwrap().success(), "no file system can be mounted here");
        Self(at.to_owned())
    }

    /// Until nothing more fits.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a file system: make test-root"]
fn a_full_disk_refuses_what_is_new_and_forgets_nothing() {
    let timing = Timing { pending: 0.05, queued: 0.05, duration: 600.0, ..Timing::default() };
    let service = UwsService::start(Options { timing, ..Options::default() });
    let home = Home::for_service(&service.url(), 0.2, "[uws]\nsettle_time_s = 0.5\n");
    let disk = Disk::mount(&home.path("state"));
    let daemon = home.start(&["1", "--state", "enabled"]);
    let stalls = StallMeter::start(daemon.pid());
    let mut client = daemon.subscribe();
    let known = client.execute("p.yaml");
    let job_id = client.job_id(known);
    disk.fill();
    // There may be room in the file for a small one.
    let large = json!({"pipeline": "p.yaml", "config": "x".repeat(150_000)});
    let refused = client.run("execute", &large);
    assert!(refused.starts_with("CMD_FAILED Failed: "), "{refused}");
    assert!(refused.contains("journal.db cannot be written: the disk is full"), "{refused}");
    assert!(refused.ends_with("; nothing was sent to the execution service"), "{refused}");
    client.state(3);
    let error = client.find("errorCode 4", |line| line["event"]["data"]["errorCode"] == 4);
    assert!(error["event"]["data"]["errorReport"].as_str().unwrap().contains("full"), "{error}");
    let puts = service.counters().puts;
    assert!(client.run("execute", &json!({"pipeline": "p.yaml"})).contains("execute not allowed in FAULT"));
    // Commands accepted before continue.
    service.end_jobs();
    assert_eq!(client.job_result(&job_id)["exit_code"], 0);
    assert_eq!(client.final_ack(known), "CMD_COMPLETE Done");
    assert_eq!(service.counters().puts, puts);

    disk.free();
    eventually("all is written", || client.query("status")["journal"]["waiting"] == 0);
    assert!(client.query("status")["journal"]["problem"].is_null());
    assert_eq!(client.run("standby", &json!({})), "CMD_COMPLETE Done");
    stalls.longest_gap(&client.sent("heartbeat"), 2.0);
    // What was delivered is written with the next heartbeat.
    client.listen(Duration::from_millis(1200));
    eventually("all is written", || client.query("status")["journal"]["waiting"] == 0);
    daemon.signal(Signal::KILL);
    drop(daemon);

    // The next run knows how it ended, and does not publish that again.
    let daemon = home.start(&["1"]);
    let mut client = daemon.subscribe();
    let jobs = client.query("jobs");
    assert_eq!((&jobs[0]["job_id"], &jobs[0]["exit_code"]), (&json!(job_id), &json!(0)));
    client.listen(Duration::from_millis(300));
    assert!(!client.received.iter().any(|line| line["event"]["topic"] == "job_result"));
    drop(daemon);
    drop(disk);
}
