//! Two with the same index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::foreign::{Foreign, Received};
use crate::harness::{Client, Daemon, Home, Killed, QUICK, eventually, run};
use crate::rig::Rig;

/// Its settings, with which it does not wait long for another instance.
const IMPATIENT: &str = "[kafka]\nstart_wait_s = 1\n";

#[test]
fn the_second_instance_gives_the_reason_and_ends() {
    let rig = Rig::new("");
    let _first = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("heartbeat");
    let home = Home::with_toml(IMPATIENT);
    let mut second = rig.daemon_in(&home, &[]);
    let ran = run(&mut second);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("another instance with index 1 (LATISS) is running: OCPS:1, process"),
        "{ran:?}"
    );
    // It is logged, once.
    let reasons: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("; waited ")).collect();
    let [reason] = *reasons else { panic!("{ran:?}") };
    assert!(reason.contains("ERROR"), "{ran:?}");
    assert!(reason.contains("; waited 1.") || reason.contains("; waited 2."), "{ran:?}");
    // It has published nothing but its log level.
    foreign.listen(Duration::from_millis(500));
    let origins: std::collections::BTreeSet<i64> = foreign
        .received
        .iter()
        .filter(|received| !["logevent_logLevel", "logevent_logMessage"].contains(&received.topic.as_str()))
        .map(|received| received.int("private_origin"))
        .collect();
    assert_eq!(origins.len(), 1);
}

/// A daemon that is process 1, where the system lets us make one; else one with a number of its own.
struct First(Killed);

impl First {
    fn start(rig: &Rig, home: &Home) -> Self {
        let daemon = rig.daemon_in(home, &["--state", "enabled"]);
        let is_possible = Command::new("unshare").args(["--fork", "--pid", "--kill-child", "true"]).output();
        let mut command = daemon;
        if is_possible.is_ok_and(|output| output.status.success()) {
            let mut inside = Command::new("unshare");
            inside
                .args(["--fork", "--pid", "--kill-child"])
                .arg(command.get_program())
                .args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => inside.env(name, value),
                    None => inside.env_remove(name),
                };
            }
            inside.current_dir(home.path("")).stdin(Stdio::null());
            command = inside;
        }
        let stderr = File::create(home.path("stderr")).unwrap();
        Self(Killed(command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap()))
    }

    /// Stops or continues.
    fn signal(&self, signal: Signal) {
        let outer = self.0.0.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        let inner = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let pid = Pid::from_raw(inner.unwrap_or(i32::try_from(outer).unwrap())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.0.0.try_wait().unwrap().map(|status| status.code().unwrap())
    }
}

fn log(home: &Home) -> String {
    fs::read_to_string(home.path("stderr")).unwrap()
}

/// How many jobs were made for each command.
fn jobs(foreign: &Foreign) -> BTreeMap<i64, usize> {
    let mut jobs = BTreeMap::new();
    for received in foreign.of("logevent_job_id") {
        *jobs.entry(received.int("seq_num")).or_default() += 1;
    }
    jobs
}

fn count(foreign: &Foreign, topic: &str, so: impl Fn(&Received) -> bool) -> usize {
    foreign.of(topic).into_iter().filter(|received| so(received)).count()
}

#[test]
fn an_instance_that_stood_still_and_its_successor_never_both_carry_out_a_command() {
    let rig = Rig::new("");
    let (home, other) = (Home::with_toml(QUICK), Home::with_toml(QUICK));
    let frozen = First::start(&rig, &home);
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");

    frozen.signal(Signal::STOP);
    let _successor = First::start(&rig, &other);
    let is_enabled = |received: &Received| received.int("summaryState") == 2;
    eventually("the other begins", || {
        foreign.listen(Duration::from_millis(20));
        count(&foreign, "logevent_summaryState", is_enabled) == 2
    });
    // They pile up for the one that stands still.
    let between: Vec<i32> =
        (0..5).map(|_| foreign.send("execute", &json!({"pipeline": "true.yaml"}))).collect();
    for seq in &between {
        assert_eq!(foreign.final_ack(*seq), "303 Done");
    }
    frozen.signal(Signal::CONT);
    let is_published = |received: &Received| received.int("errorCode") == 3;
    eventually("both notice", || {
        foreign.send("execute", &json!({"pipeline": "true.yaml"}));
        foreign.listen(Duration::from_millis(50));
        count(&foreign, "logevent_errorCode", is_published) == 2
    });
    let acks = |foreign: &Foreign, seq: i32| {
        count(foreign, "ackcmd", |ack| ack.int("private_seqNum") == i64::from(seq) && ack.int("ack") != 301)
    };
    eventually("both refuse", || {
        let last = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
        foreign.listen(Duration::from_millis(200));
        acks(&foreign, last) == 2
    });
    let jobs = jobs(&foreign);
    assert!(jobs.len() >= 6 && jobs.values().all(|count| *count == 1), "{jobs:?}");
    // What piled up was for the other, and is not even refused.
    assert!(between.iter().all(|seq| acks(&foreign, *seq) == 1), "{:#?}", foreign.story());
    eventually("it is logged", || {
        log(&home).contains("commands for another instance, which are not carried out: ")
    });
}

#[test]
fn of_two_instances_that_start_together_one_stays() {
    let rig = Rig::new("");
    let toml = format!("{QUICK}{IMPATIENT}");
    let homes = [Home::with_toml(&toml), Home::with_toml(&toml)];
    let mut daemons = homes.each_ref().map(|home| First::start(&rig, home));
    let mut foreign = rig.foreign();
    eventually("one ends", || {
        foreign.send("execute", &json!({"pipeline": "true.yaml"}));
        foreign.listen(Duration::from_millis(20));
        daemons.iter_mut().any(|daemon| daemon.code().is_some())
    });
    let codes = daemons.each_mut().map(First::code);
    assert!(
        codes == [None, Some(1)] || codes == [Some(1), None],
        "{codes:?} {}{}",
        log(&homes[0]),
        log(&homes[1])
    );
    foreign.state(2);
    let last = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.final_ack(last), "303 Done");
    let jobs = jobs(&foreign);
    assert!(jobs.values().all(|count| *count == 1), "{jobs:?}");
    assert_eq!(count(&foreign, "logevent_errorCode", |received| received.int("errorCode") != 0), 0);
}

#[test]
fn an_instance_that_is_still_ending_is_waited_for() {
    let rig = Rig::new(QUICK);
    let (mut first, mut foreign) = rig.enabled();
    let home = Home::with_toml(QUICK);
    let second = Daemon::start(rig.daemon_in(&home, &["--state", "enabled"]), home.socket());
    let mut client = second.connect();
    eventually("it waits", || client.query("status")["kafka"]["stage"] == "waiting for another instance");
    // Longer than it listens.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(client.query("status")["kafka"]["stage"], "waiting for another instance");
    // The first one's, whatever it makes of them.
    let done = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.final_ack(done), "303 Done");
    let refused = foreign.send("enable", &json!({}));
    assert!(foreign.final_ack(refused).starts_with("-302 "));
    first.terminate();
    foreign.state(4);
    let origin = i64::from(second.pid().as_raw_pid());
    let is_its = |received: &Received| received.int("private_origin") == origin;
    assert_eq!(count(&foreign, "logevent_heartbeat", is_its), 0);
    foreign.find("its state", |received| {
        received.topic == "logevent_summaryState" && is_its(received) && received.int("summaryState") == 2
    });
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    assert_eq!(client.query("status")["kafka"]["stage"], "joined");
    for seq in [done, refused] {
        let is_ack = |ack: &Received| ack.int("private_seqNum") == i64::from(seq) && ack.int("ack") != 301;
        assert_eq!(count(&foreign, "ackcmd", is_ack), 1);
    }
    assert!(jobs(&foreign).values().all(|count| *count == 1));
}

#[test]
fn an_instance_that_falls_silent_is_waited_for() {
    let rig = Rig::new("");
    let first = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.event("heartbeat");
    let home = Home::new();
    let second = Daemon::start(rig.daemon_in(&home, &[]), home.socket());
    let mut client = second.connect();
    eventually("it waits", || client.query("status")["kafka"]["stage"] == "waiting for another instance");
    first.signal(Signal::KILL);
    eventually("it begins", || client.query("status")["kafka"]["stage"] == "joined");
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
}

#[test]
fn silence_while_the_broker_is_away_is_none() {
    // It listens for three seconds, asks the broker for two, and listens again: the broker comes back in each of these.
    let away = [3500, 5000, 6000].map(|millis| {
        std::thread::spawn(move || {
            let rig = Rig::alone("");
            let daemon = rig.start(&[]);
            let mut client = daemon.connect();
            let stage = |client: &mut Client| client.query("status")["kafka"]["stage"].clone();
            eventually("it listens", || stage(&mut client) == "listening");
            rig.broker_down();
            std::thread::sleep(Duration::from_millis(millis));
            let status = client.query("status");
            assert_eq!(status["kafka"]["stage"], "listening");
            assert!(status["kafka"]["problem"].is_string(), "{status}");
            let back = Instant::now();
            rig.broker_up();
            eventually("it joins", || stage(&mut client) == "joined");
            assert!(back.elapsed() > Duration::from_millis(2900), "{millis}: {:?}", back.elapsed());
        })
    });
    away.into_iter().for_each(|away| away.join().unwrap());
}

#[test]
fn another_with_our_process_id_is_a_fault() {
    let rig = Rig::new("");
    let daemon = rig.start(&[]);
    let mut foreign = rig.foreign();
    foreign.state(5);
    let ours = foreign.event("heartbeat");
    // Ours once more, as Kafka may deliver it; then another's, later than all of ours.
    let same = foreign.altered(&ours, &json!({}));
    foreign.write("logevent_heartbeat", Some(&same));
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
    assert!(!daemon.stderr().contains("another instance"));
    let other = foreign.altered(&ours, &json!({"private_seqNum": 1000}));
    foreign.write("logevent_heartbeat", Some(&other));
    foreign.state(3);
    let pid = daemon.pid().as_raw_pid();
    let report = format!("another instance with index 1 (LATISS) is running: OCPS:1, process {pid}");
    foreign
        .find("the code", |heard| heard.topic == "logevent_errorCode" && heard.text("errorReport") == report);
}

#[test]
fn a_second_instance_that_appears_later_is_a_fault() {
    let rig = Rig::new("");
    let (daemon, mut foreign) = rig.enabled();
    // Its heartbeat, as ours but of another process.
    let ours = foreign.event("heartbeat");
    // Of another index: none of our business.
    let other = foreign.altered(&ours, &json!({"salIndex": 2, "private_origin": 99}));
    let intruder = foreign.altered(&ours, &json!({"private_origin": 99}));
    foreign.write("logevent_heartbeat", Some(&other));
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
    assert!(!daemon.stderr().contains("another instance"));
    foreign.write("logevent_heartbeat", Some(&intruder));
    foreign.state(3);
    let code =
        foreign.find("the code", |heard| heard.topic == "logevent_errorCode" && heard.int("errorCode") == 3);
    assert_eq!(
        code.text("errorReport"),
        "another instance with index 1 (LATISS) is running: OCPS:1, process 99"
    );
    // Once is enough. What follows in its topic and is counted shows that it was read, before the command in another.
    foreign.write("logevent_heartbeat", Some(&intruder));
    let other = r#"{"type":"record","name":"x","fields":[{"name":"salIndex","type":"int"},{"name":"private_identity","type":"int"}]}"#;
    let id = rig.registry.memory.lock().unwrap().register("other", other).unwrap();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(id).unwrap().to_be_bytes());
    bytes.extend([2, 2]);
    foreign.write("logevent_heartbeat", Some(&bytes));
    let mut client = daemon.connect();
    eventually("it was read", || client.query("status")["kafka"]["undecodable"] == 1);
    assert_eq!(foreign.run("standby", &json!({})), "303 Done");
    let faults = |foreign: &Foreign| {
        foreign
            .of("logevent_summaryState")
            .iter()
            .filter(|received| received.int("summaryState") == 3)
            .count()
    };
    assert_eq!(faults(&foreign), 1);
}

#[test]
fn commands_during_the_start_are_carried_out_after_it() {
    let mut rig = Rig::new("");
    // Without it the start could end before we check.
    rig.registry.down();
    let mut child = Killed(rig.daemon(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the socket", || std::os::unix::net::UnixStream::connect(rig.home.socket()).is_ok());
    let mut client = Client::connect(&rig.home.socket());
    // The status is answered at once, a command is carried out after the start.
    let seq = client.send("start", &json!({}));
    let status = client.query("status");
    assert_ne!(status["kafka"]["stage"], "joined");
    assert!(!client.received.iter().any(|line| line["ack"]["seq"] == seq));
    rig.registry.up();
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    assert_eq!(client.query("status")["kafka"]["stage"], "joined");
    assert!(child.0.try_wait().unwrap().is_none());
}
