//! In containers (see `tests/container/enter.sh`), where `tests/container/run.sh` gives some: one like the observatory's,
//! and those of the manifests in `etc/kubernetes`. From start to OFFLINE, over a broker that wants SASL.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Home, Killed, Ran, eventually, run};
use crate::rig::{Rig, given};
use crate::support::manifest::Manifest;
use crate::support::port::Port;
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

    fn start(&self, run_arg: &str) -> Container {
        // Clean as for a daemon of a test; then its own environment.
        let mut command = Home::program(&self.rig.home, &self.enter);
        let env = variables(self.rig);
        command.env("RUN_ARG", run_arg).env("LSST_SITE", "test").envs(env).arg("run").arg(&self.dir);
        Container::start(command, &self.enter, &self.dir)
    }
}

/// What joins a container to this rig.
fn variables(rig: &Rig) -> Vec<(&'static str, String)> {
    vec![
        ("LSST_TOPIC_SUBNAME", rig.subname.clone()),
        ("LSST_KAFKA_BROKER_ADDR", given("OCPS_TEST_SASL_BROKER").unwrap()),
        ("LSST_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT".to_owned()),
        ("LSST_KAFKA_SECURITY_MECHANISM", "SCRAM-SHA-512".to_owned()),
        ("LSST_KAFKA_SECURITY_USERNAME", "ocps".to_owned()),
        ("LSST_KAFKA_SECURITY_PASSWORD", "geheim".to_owned()),
        ("LSST_SCHEMA_REGISTRY_URL", rig.registry.url()),
    ]
}

struct Container {
    enter: PathBuf,
    dir: PathBuf,
    child: Killed,
    /// Process 1, as we count.
    pid: Option<Pid>,
}

impl Drop for Container {
    /// Kills process 1, and with it all of them: to a daemon the end of its terminal is only a SIGHUP.
    fn drop(&mut self) {
        if let (Some(pid), Ok(None)) = (self.pid, self.child.0.try_wait()) {
            let _ = kill_process(pid, Signal::KILL);
            let _ = self.child.0.wait();
        }
    }
}

impl Container {
    /// Waits until it is made.
    fn start(mut command: Command, enter: &Path, dir: &Path) -> Self {
        let _ = fs::remove_file(dir.join("pid"));
        let child = Killed(command.stdout(Stdio::null()).spawn().unwrap());
        let mut container = Self { enter: enter.to_owned(), dir: dir.to_owned(), child, pid: None };
        eventually("it is made", || {
            assert_eq!(container.child.0.try_wait().unwrap(), None, "{}", container.log());
            let pid = fs::read_to_string(dir.join("pid")).ok();
            container.pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().unwrap()));
            container.pid.is_some()
        });
        container
    }

    /// What its terminal showed.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs `ocps` in it.
    fn exec(&self, args: &[&str]) -> Ran {
        let pid = self.pid.unwrap().as_raw_pid().to_string();
        run(Command::new(&self.enter).args(["exec", &pid, "ocps"]).args(args))
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

/// What a pod of the manifests runs as in a test: not in `/etc/passwd`, and not the user that the image has.
const SOMEBODY: &str = "1000640000";

/// The container of a pod, which is started as the manifest says, with the addresses of this rig.
struct Pod<'a> {
    rig: &'a Rig,
    manifest: Manifest,
    enter: PathBuf,
    dir: PathBuf,
    port: Port,
}

impl<'a> Pod<'a> {
    /// None where there can be no container.
    fn new(rig: &'a Rig, service: &UwsService, manifest: &str, name: &str) -> Option<Self> {
        let enter = PathBuf::from(given("OCPS_TEST_CONTAINER")?);
        let (manifest, port, dir) = (Manifest::read(manifest), Port::free().unwrap(), rig.home.path(name));
        // Pods have addresses of their own, our containers have not.
        let listen = format!("0.0.0.0:{}", manifest.container()["ports"][0]["containerPort"]);
        manifest.mount(&dir.join("mounts"), |text| {
            let lines = text.lines().map(|line| match line.split_once(": ") {
                Some(("url", _)) => format!("url: {}\n", service.url()),
                Some(("poll_interval", _)) => "poll_interval: 0.5\n".to_owned(),
                _ => format!("{}\n", line.replace(&listen, &format!("127.0.0.1:{}", port.number))),
            });
            lines.collect()
        });
        let mounts = manifest.container()["volumeMounts"].as_array().unwrap().iter();
        let paths = mounts.map(|mount| format!("{}\n", mount["mountPath"].as_str().unwrap()));
        fs::write(dir.join("mounts.txt"), paths.collect::<String>()).unwrap();
        symlink(env!("CARGO_BIN_EXE_ocps"), dir.join("ocps")).unwrap();
        Some(Self { rig, manifest, enter, dir, port })
    }

    fn start(&self) -> Container {
        let mut command = Home::program(&self.rig.home, &self.enter);
        command.envs(self.manifest.env()).envs(variables(self.rig)).env("LSST_KAFKA_REPLICATION_FACTOR", "1");
        command.arg("pod").arg(&self.dir).arg(SOMEBODY).args(self.manifest.args());
        Container::start(command, &self.enter, &self.dir)
    }

    /// Whether a probe of this path succeeds.
    fn probe(&self, path: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number)) else {
            return false;
        };
        let mut answer = String::new();
        let asked = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        asked
            .and_then(|()| stream.read_to_string(&mut answer))
            .is_ok_and(|_| answer.starts_with("HTTP/1.1 200"))
    }
}

impl Container {
    /// Processor time of process 1 so far.
    fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.unwrap().as_raw_pid())).unwrap();
        let ticks: u64 = stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Most memory that process 1 had, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid.unwrap().as_raw_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// A container that is started again when it ends, as Kubernetes does it.
struct Kept<'a> {
    pod: &'a Pod<'a>,
    container: Container,
    starts: usize,
}

impl<'a> Kept<'a> {
    fn new(pod: &'a Pod<'a>) -> Self {
        Self { pod, container: pod.start(), starts: 1 }
    }

    fn keep(&mut self) {
        if let Some(status) = self.container.child.0.try_wait().unwrap() {
            println!("a container ended with {:?} and is started again", status.code());
            self.container = self.pod.start();
            self.starts += 1;
        }
    }
}

/// Two pods as Kubernetes keeps them: which one takes commands, when the other one stands by.
fn active_and_standby(pods: &mut [Kept<'_>; 2]) -> usize {
    let mut active = 0;
    eventually("one takes commands, the other stands by", || {
        pods.iter_mut().for_each(Kept::keep);
        let [is_active, other] = pods.each_ref().map(|pod| pod.pod.probe("/readyz"));
        active = usize::from(other);
        is_active != other && pods.iter().all(|pod| pod.pod.probe("/standbyz"))
    });
    active
}

#[test]
fn two_pods_of_the_manifest_without_a_volume_hand_over_to_each_other() {
    let (rig, service) = (Rig::new(""), service());
    let pod = |name| Pod::new(&rig, &service, "journal-on-kafka.yaml", name);
    let (Some(one), Some(two)) = (pod("one"), pod("two")) else { return };
    let begun = Instant::now();
    let mut pods = [Kept::new(&one), Kept::new(&two)];
    eventually("both are alive", || one.probe("/livez") && two.probe("/livez"));
    let alive = begun.elapsed();
    let active = active_and_standby(&mut pods);
    println!("alive after {:.1} s, ready after {:.1} s", alive.as_secs_f64(), begun.elapsed().as_secs_f64());
    for (pod, is_active) in [(&pods[active], true), (&pods[1 - active], false)] {
        let code = |flag| pod.container.exec(&["status", flag]).code;
        let expected = (Some(0), Some(i32::from(!is_active)));
        assert_eq!((code("--alive"), code("--ready")), expected, "{}", pod.container.log());
    }

    let mut foreign = rig.foreign();
    foreign.state(5);
    assert_eq!(foreign.run("start", &json!({})), "303 Done", "{}", pods[active].container.log());
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    let long = foreign.send("execute", &json!({"pipeline": "long.yaml", "data_query": "dur=600"}));
    let job = foreign.job_id(long);
    for pod in [&pods[active], &pods[1 - active]] {
        let (before, begun) = (pod.container.processor_time(), Instant::now());
        foreign.listen(Duration::from_secs(5));
        let used = (pod.container.processor_time() - before).div_f64(begun.elapsed().as_secs_f64());
        let (used, memory) = (used.as_secs_f64() * 1000.0, pod.container.memory());
        println!("{used:.0} ms of processor time in a second, {memory} KiB of memory");
    }
    // An upgrade: one pod after the other, each when the one before stands by.
    for _ in 0..2 {
        let active = active_and_standby(&mut pods);
        let ended = Instant::now();
        assert_eq!(pods[active].container.stop().code(), Some(0), "{}", pods[active].container.log());
        eventually("the other one takes over", || pods[1 - active].pod.probe("/readyz"));
        println!("handed over in {:.1} s", ended.elapsed().as_secs_f64());
    }
    active_and_standby(&mut pods);
    let abort = foreign.send("abort_job", &json!({"job_id": job}));
    assert_eq!(foreign.final_ack(abort), "303 Done");
    for pod in &pods {
        assert!(!pod.container.log().contains("geheim"), "{}", pod.container.log());
    }
}

#[test]
fn a_pod_of_the_manifest_with_a_volume_goes_on_after_a_kill() {
    let (rig, service) = (Rig::new(""), service());
    let Some(pod) = Pod::new(&rig, &service, "journal-on-volume.yaml", "pod") else { return };
    let container = pod.start();
    let mut foreign = rig.foreign();
    foreign.state(5);
    assert_eq!(foreign.run("start", &json!({})), "303 Done", "{}", container.log());
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    let long = foreign.send("execute", &json!({"pipeline": "long.yaml", "data_query": "dur=600"}));
    let job = foreign.job_id(long);
    drop(container);
    let container = pod.start();
    eventually("it is ready", || pod.probe("/readyz"));
    let status = container.json(&["status", "--json"]);
    assert_eq!((&status["state"], &status["jobs"]["running"]), (&json!("ENABLED"), &json!(1)), "{status}");
    assert_eq!(status["state_dir_problem"], json!(null));
    let abort = foreign.send("abort_job", &json!({"job_id": job}));
    assert_eq!(foreign.final_ack(abort), "303 Done", "{}", container.log());
}
