//! In a container like the observatory's (see `tests/container/enter.sh`), where `tests/container/run.sh` gives one:
//! from start to OFFLINE, over a broker that wants SASL.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Home, Killed, Ran, eventually, run};
use crate::rig::{Rig, given};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

/// Whether there is a directory that may be written, and a place for the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writable {
    Volume,
    Nothing,
}

/// What the container is made of.
struct Image<'a> {
    rig: &'a Rig,
    enter: PathBuf,
    dir: PathBuf,
}

impl<'a> Image<'a> {
    /// None where there can be no container.
    fn new(rig: &'a Rig, service: &UwsService, writable: Writable) -> Option<Self> {
        let enter = PathBuf::from(given("OCPS_TEST_CONTAINER")?);
        let dir = rig.home.path("image");
        fs::create_dir_all(dir.join("dm_config_ocps/OCPS/v4")).unwrap();
        let layer = format!("url: {}\npoll_interval: 0.5\n", service.url());
        fs::write(dir.join("dm_config_ocps/OCPS/v4/_init.yaml"), layer).unwrap();
        fs::write(dir.join("dm_config_ocps/ocps.toml"), "journal = \"off\"\n").unwrap();
        symlink(env!("CARGO_BIN_EXE_ocps"), dir.join("ocps")).unwrap();
        if writable == Writable::Volume {
            fs::create_dir(dir.join("volume")).unwrap();
        }
        Some(Self { rig, enter, dir })
    }

    fn start(&self, run_arg: &str) -> Container<'_> {
        // Clean as for a daemon of a test; then its own environment.
        let mut command = Home::program(&self.rig.home, &self.enter);
        command
            .env("RUN_ARG", run_arg)
            .env("LSST_SITE", "test")
            .env("LSST_TOPIC_SUBNAME", &self.rig.subname)
            .env("LSST_KAFKA_BROKER_ADDR", given("OCPS_TEST_SASL_BROKER").unwrap())
            .env("LSST_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
            .env("LSST_KAFKA_SECURITY_MECHANISM", "SCRAM-SHA-512")
            .env("LSST_KAFKA_SECURITY_USERNAME", "ocps")
            .env("LSST_KAFKA_SECURITY_PASSWORD", "geheim")
            .env("LSST_SCHEMA_REGISTRY_URL", self.rig.registry.url())
            .arg("run")
            .arg(&self.dir);
        let _ = fs::remove_file(self.dir.join("pid"));
        let mut container = Container {
            image: self,
            child: Killed(command.stdout(Stdio::null()).spawn().unwrap()),
            pid: None,
        };
        eventually("it is made", || {
            assert_eq!(container.child.0.try_wait().unwrap(), None, "{}", container.log());
            let pid = fs::read_to_string(self.dir.join("pid")).ok();
            container.pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().unwrap()));
            container.pid.is_some()
        });
        container
    }
}

struct Container<'a> {
    image: &'a Image<'a>,
    child: Killed,
    /// Process 1, as we count.
    pid: Option<Pid>,
}

impl Container<'_> {
    /// What its terminal showed.
    fn log(&self) -> String {
        fs::read_to_string(self.image.dir.join("log")).unwrap_or_default()
    }

    /// Runs `ocps` in it.
    fn exec(&self, args: &[&str]) -> Ran {
        let pid = self.pid.unwrap().as_raw_pid().to_string();
        run(Command::new(&self.image.enter).args(["exec", &pid, "ocps"]).args(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.exec(args);
        assert_eq!(ran.code, Some(0), "{ran:?}\n{}", self.log());
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Tells process 1 to end, as the engine does, and waits.
    fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid.unwrap(), Signal::TERM).unwrap();
        let mut status = None;
        eventually("it ends", || {
            status = self.child.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The daemon ended in order, and the script reported that.
    #[track_caller]
    fn ends_in_order(mut self) {
        let status = self.stop();
        let log = self.log();
        assert!(log.contains("shutting down on a signal") && log.contains("run_ocps ended with 0"), "{log}");
        // The script ends so in any case.
        assert_eq!(status.code(), Some(143), "{log}");
        assert!(!log.contains("geheim"), "{log}");
    }
}

fn service() -> UwsService {
    let timing = Timing { pending: 0.1, queued: 0.1, duration: 1.0, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

#[test]
fn a_double_sigterm_with_a_submission_in_flight_ends_in_order_and_no_job_is_forgotten() {
    let (rig, service) = (Rig::new(""), service());
    let Some(image) = Image::new(&rig, &service, Writable::Volume) else { return };
    let run_arg = "1 --state-dir /home/saluser/volume/state";
    let container = image.start(run_arg);
    let mut foreign = rig.foreign();
    foreign.state(5);
    assert_eq!(foreign.run("start", &json!({})), "303 Done", "{}", container.log());
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "p.yaml"})), "303 Done");
    // As `kubectl exec` does it.
    let status = container.json(&["status", "--json"]);
    assert_eq!(
        (&status["state"], &status["socket"]),
        (&json!("ENABLED"), &json!("/tmp/ocps-73006/ocps.sock"))
    );

    let long = foreign.send("execute", &json!({"pipeline": "long.yaml", "data_query": "dur=600"}));
    let long_job = foreign.job_id(long);
    service.inject(Fault { on: On::Put, times: 1, what: What::Latency(2.0) });
    let puts = service.counters().puts;
    let in_flight = foreign.send("execute", &json!({"pipeline": "late.yaml"}));
    eventually("the PUT is under way", || service.counters().puts > puts);
    container.ends_in_order();
    foreign.state(4);
    let late_job = foreign.job_id(in_flight);
    let counters = service.counters();
    assert_eq!((counters.jobs.len(), counters.deletes), (3, 0), "{counters:?}");

    // The next one takes up both.
    let container = image.start(run_arg);
    assert_eq!(foreign.final_ack(in_flight), "303 Done");
    foreign.find("its result", |received| {
        received.topic == "logevent_job_result" && received.text("job_id") == late_job
    });
    let jobs = container.json(&["jobs", "--json"]);
    let running: Vec<&Value> = jobs.as_array().unwrap().iter().map(|job| &job["job_id"]).collect();
    assert_eq!(running, [&json!(long_job)], "{jobs}");
    container.ends_in_order();
    let counters = service.counters();
    assert!(counters.jobs.values().all(|count| *count == 1) && counters.deletes == 0, "{counters:?}");
}

#[test]
fn where_nothing_can_be_written_it_works_over_kafka_alone() {
    let (rig, service) = (Rig::new(""), service());
    let Some(image) = Image::new(&rig, &service, Writable::Nothing) else { return };
    let container = image.start("1 --state enabled --config /home/saluser/dm_config_ocps/ocps.toml");
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "p.yaml"})), "303 Done", "{}", container.log());
    let log = container.log();
    assert!(
        log.contains("no local socket, only Kafka: cannot make the socket /tmp/ocps-73006/ocps.sock"),
        "{log}"
    );
    container.ends_in_order();
    foreign.state(4);
}
