//! The journal in a topic: with a real broker, since the mock fences nobody and cannot be asked for a topic's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pollster::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::Signal;
use serde_json::json;

use crate::foreign::{Foreign, Received};
use crate::harness::{Client, Daemon, Home, Killed, PATIENCE, QUICK, Ran, eventually, run};
use crate::rig::Rig;
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

const ON_KAFKA: &str = "journal = \"kafka\"\n";

fn rig() -> Rig {
    Rig::new(&format!("{ON_KAFKA}{QUICK}"))
}

fn rig_alone() -> Rig {
    Rig::alone(&format!("{ON_KAFKA}{QUICK}"))
}

fn service(duration: f64) -> UwsService {
    let timing = Timing { pending: 0.05, queued: 0.05, duration, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

fn name(rig: &Rig, index: &str) -> String {
    format!("ocps.{}.journal.{index}", rig.subname)
}

fn make(rig: &Rig, name: &str, partitions: i32, policy: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap();
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("cleanup.policy", policy);
    block_on(admin.create_topics(&[new], &options)).unwrap().remove(0).unwrap();
}

fn write(rig: &Rig, name: &str, key: &str, value: &str) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &rig.brokers).create().unwrap();
    producer.send(BaseRecord::to(name).partition(0).key(key).payload(value)).unwrap();
    producer.flush(PATIENCE).unwrap();
}

/// Runs a daemon with such a toml that must not start.
fn refused(rig: &Rig, toml: &str, replicas: &str) -> Ran {
    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}{toml}"));
    run(rig.daemon_in(&home, &[]).env("LSST_KAFKA_REPLICATION_FACTOR", replicas))
}

/// What `ocps doctor` finds about the journal.
fn doctor(rig: &Rig) -> String {
    let (_, text) = rig.doctor("s.sock");
    text.lines().find(|line| line.contains(" journal ")).unwrap().to_owned()
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_killed_daemon_forgets_nothing_though_its_directories_are_empty() {
    let (rig, service) = (rig(), service(3.0));
    let mut first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let seq = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    let id = foreign.job_id(seq);
    // That of a simulation is another one.
    let found = rig.doctor("elsewhere.sock").1;
    assert!(found.contains(".simulated is to be made at the start\n"), "{found}");
    first.signal(Signal::KILL);
    first.wait();
    assert!(!rig.home.path("state").exists(), "nothing is kept there");
    std::fs::remove_file(rig.home.socket()).unwrap();

    let second = rig.start_for(&service, &["--state", "resume"]);
    assert_eq!(foreign.final_ack(seq), "303 Done");
    foreign.find("its result", |received| {
        received.topic == "logevent_job_result" && received.text("job_id") == id
    });
    let shown = rig.home.client(&["job", &id]).stdout;
    for what in [format!("created as job {id}"), "resumed after a restart of the daemon".to_owned()] {
        assert!(shown.contains(&what), "{shown}");
    }
    // The state was kept too, and so are the keys.
    let next = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    assert_eq!(foreign.final_ack(next), "303 Done");
    let mut client = second.connect();
    let journal = client.query("status")["journal"].clone();
    assert_eq!(journal["path"], format!("{} on {}", name(&rig, "1"), rig.brokers));
    assert!(journal["problem"].is_null() && journal["upkeep_problem"].is_null(), "{journal}");
    assert_eq!(service.counters().puts, 2);
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn whoever_starts_later_takes_over_and_the_earlier_one_stops_when_it_wakes_up() {
    let timing = Timing { duration: 600.0, ..Timing::default() };
    let latency = Duration::from_secs(2);
    let service = UwsService::start(Options { timing, latency, ..Options::default() });
    let rig = rig();
    let mut first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let seq = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    let id = foreign.job_id(seq);
    // More than may be in flight at once: the others wait for their turn when it stands still.
    for _ in 0..20 {
        foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    }
    let count = |client: &mut Client| client.query("jobs").as_array().map_or(0, Vec::len);
    let mut client = first.connect();
    eventually("they are accepted", || count(&mut client) == 21);
    eventually("they are kept", || client.query("status")["journal"]["waiting"] == 0);
    first.signal(Signal::STOP);
    foreign.listen(2 * latency);
    assert!(service.counters().puts < 21);

    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}"));
    let second = rig.start_in(&home, &service, &["--state", "resume"]);
    let mut client = second.connect();
    eventually("the second has the jobs", || {
        let jobs = client.query("jobs");
        let is_running = |job: &&serde_json::Value| job["stage"] == "running";
        jobs.as_array().is_some_and(|jobs| jobs.iter().filter(is_running).count() == 21)
    });
    foreign.listen(Duration::from_millis(500));
    let (asked, said) = (service.counters(), foreign.received.len());
    first.signal(Signal::CONT);
    assert_eq!(first.wait().code(), Some(5), "{}", first.stderr());
    let last = first.stderr();
    let last = last.lines().last().unwrap_or_default().to_owned();
    assert!(last.contains("another instance has opened it"), "{last}");
    foreign.listen(Duration::from_secs(1));
    let origin = i64::from(first.pid().as_raw_pid());
    let published: Vec<&str> = foreign.received[said..]
        .iter()
        .filter(|received| received.int("private_origin") == origin)
        .map(|received| received.topic.as_str())
        .collect();
    assert_eq!(published, [""; 0]);
    let after = service.counters();
    assert_eq!((after.puts, after.deletes), (asked.puts, asked.deletes));
    assert!(after.jobs.values().all(|count| *count == 1), "{:?}", after.jobs);
    // The second is the one that is obeyed.
    let abort = foreign.send("abort_job", &json!({"job_id": id}));
    assert_eq!(foreign.final_ack(abort), "303 Done");
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_second_instance_that_hears_the_first_gives_way_and_does_not_touch_its_journal() {
    let rig = Rig::new(&format!("{ON_KAFKA}{QUICK}"));
    let (first, mut foreign) = rig.enabled();
    let ran =
        run(&mut rig
            .daemon_in(&Home::with_toml(&format!("{ON_KAFKA}{QUICK}[kafka]\nstart_wait_s = 1\n")), &[]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    assert!(!first.stderr().contains("another instance"), "{}", first.stderr());
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn the_doctor_reads_the_topic_of_a_daemon_that_was_killed() {
    let rig = rig();
    let (mut first, mut foreign) = rig.enabled();
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    let found = doctor(&rig);
    assert!(found.starts_with("ok ") && found.contains(" is in use by process "), "{found}");
    first.signal(Signal::KILL);
    first.wait();
    let found = doctor(&rig);
    // One that is killed in a transaction leaves it open until the next start.
    let is_sound = found.starts_with("ok ") && found.contains(" is sound: compacted, of 1 replicas, ");
    assert!(is_sound || found.contains(" a transaction is open from "), "{found}");
    // Nobody is fenced by that, and nothing is written.
    let mut second = rig.start(&["--state", "resume"]);
    eventually("it has joined", || second.connect().query("status")["not_ready"].is_null());
    for _ in 0..2 {
        let found = rig.doctor("elsewhere.sock").1;
        assert!(found.contains(" is sound: "), "{found}");
    }
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    second.terminate();
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_topic_that_is_no_journal_of_ours_is_refused_and_left_as_it_is() {
    for (make_it, expected) in [
        (&(|rig: &Rig, name: &str| make(rig, name, 2, "compact")) as &dyn Fn(&Rig, &str), "has 2 partitions"),
        (&|rig, name| make(rig, name, 1, "delete"), "has cleanup.policy=delete"),
        (&|rig, name| make(rig, name, 1, "compact,delete"), "has cleanup.policy=compact,delete"),
        (
            &|rig, name| {
                make(rig, name, 1, "compact");
                write(rig, name, "something", "else");
            },
            "the message at offset 0 is not of a journal",
        ),
        (
            &|rig, name| {
                make(rig, name, 1, "compact");
                write(rig, name, "journal/1", r#"{"version":99,"row":{}}"#);
            },
            "is of version 99, which is newer",
        ),
        (
            &|rig, name| {
                make(rig, name, 1, "compact");
                let row = r#"{"only":1,"sal_index":2,"simulated":1,"lives":1,"last_key":0}"#;
                write(rig, name, "journal/1", &format!(r#"{{"version":2,"row":{row}}}"#));
            },
            "is that of index 2 (LSSTComCam), simulated, and this is index 1 (LATISS), simulated",
        ),
        (
            &|rig, name| {
                make(rig, name, 1, "compact");
                let row = r#"{"only":1,"sal_index":1,"simulated":1,"lives":1,"last_key":0}"#;
                write(rig, name, "journal/1", &format!(r#"{{"version":2,"row":{row}}}"#));
                write(rig, name, "commands/7", r#"{"version":2,"row":{"key":7}}"#);
            },
            "is damaged (commands/7 at offset 1: ",
        ),
    ] {
        let rig = rig();
        let name = name(&rig, "1.simulated");
        make_it(&rig, &name);
        let found = doctor(&rig);
        assert!(found.starts_with("WRONG ") && found.contains(expected), "{found}");
        let ran = refused(&rig, "", "1");
        let last = ran.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(expected) && last.contains(&name), "{expected}: {ran:?}");
        assert_eq!(ran.code, Some(78), "{ran:?}");
    }
    // More replicas than there are brokers.
    let rig = rig();
    make(&rig, &name(&rig, "1.simulated"), 1, "compact");
    let ran = refused(&rig, "", "3");
    assert!(ran.stderr.contains("has 1 replicas, and kafka.replication_factor asks for 3"), "{ran:?}");
    assert_eq!(ran.code, Some(78), "{ran:?}");
}

#[cfg(feature = "kafka-sasl")]
#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn a_topic_that_we_may_not_use_is_refused_with_what_is_to_be_allowed() {
    let broker = crate::rig::given("OCPS_TEST_SASL_BROKER").expect("OCPS_TEST_SASL_BROKER is not set");
    for allowed in
        [&["Describe"][..], &["Describe", "DescribeConfigs"], &["Describe", "DescribeConfigs", "Read"]]
    {
        let rig = rig();
        let name = name(&rig, "1.simulated");
        make(&rig, &name, 1, "compact");
        rig.allow("ocps", &name, allowed);
        let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}"));
        let mut daemon = rig.daemon_in(&home, &[]);
        daemon.env("LSST_KAFKA_BROKER_ADDR", &broker);
        daemon.env("LSST_KAFKA_SECURITY_USERNAME", "ocps").env("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
        let ran = run(&mut daemon);
        let expected = format!("the journal topic {name} cannot be used: TopicAuthorizationFailed");
        assert!(ran.stderr.contains(&expected) && ran.stderr.contains(": allow our user"), "{ran:?}");
        assert_eq!(ran.code, Some(78), "{ran:?}");
    }
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn what_lies_behind_the_open_transaction_of_another_program_is_not_forgotten() {
    let rig = rig();
    let name = name(&rig, "1.simulated");
    make(&rig, &name, 1, "compact");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &rig.brokers).set("transactional.id", &rig.subname);
    let other: BaseProducer = config.create().unwrap();
    other.init_transactions(PATIENCE).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to(&name).partition(0).key("something").payload("else")).unwrap();
    other.flush(PATIENCE).unwrap();
    let daemon = rig.start(&["--state", "enabled"]);
    let mut client = daemon.connect();
    client.write(&json!({"subscribe": true}));
    eventually("it says what it waits for", || {
        let status = client.query("status");
        let problem = status["journal"]["problem"].as_str();
        problem.is_some_and(|problem| problem.contains("a transaction is open from offset 0 on"))
    });
    other.abort_transaction(PATIENCE).unwrap();
    client.state(2);
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn while_the_broker_is_away_nothing_new_is_taken_and_what_is_known_is_followed() {
    let (rig, service) = (rig_alone(), service(4.0));
    let daemon = rig.start_for(&service, &["--state", "enabled"]);
    let mut client = daemon.subscribe();
    let known = client.execute("p.yaml");
    let id = client.job_id(known);
    rig.broker_down();
    let begun = Instant::now();
    let refused = client.execute("p.yaml");
    let ack = client.final_ack(refused);
    assert!(ack.starts_with("CMD_FAILED") && begun.elapsed() < Duration::from_secs(12), "{ack} {begun:?}");
    let status = client.query("status");
    assert!(status["journal"]["problem"].as_str().is_some(), "{status}");
    // Its end is found out, and published though it cannot be recorded.
    client.job_result(&id);
    // A slow machine makes it stand still, too: it need not end, since nothing has changed by that.
    daemon.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(3));
    daemon.signal(Signal::CONT);
    assert!(client.query("status")["journal"]["problem"].as_str().is_some());
    rig.broker_up();
    eventually("it can be written again", || client.query("status")["journal"]["problem"].is_null());
    eventually("the fault can be cleared", || client.run("standby", &json!({})) == "CMD_COMPLETE Done");
    assert_eq!(service.counters().puts, 1);
    for command in ["start", "enable"] {
        assert_eq!(client.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    let next = client.execute("p.yaml");
    assert_eq!(client.final_ack(next), "CMD_COMPLETE Done");
    drop(daemon);
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_start_without_a_broker_waits_for_it_and_says_so() {
    let rig = Rig::alone(&format!("{ON_KAFKA}{QUICK}[kafka]\nstart_timeout_s = 1\n"));
    rig.broker_down();
    let daemon = rig.start(&["--state", "enabled"]);
    let mut client = daemon.connect();
    eventually("it says what it waits for", || {
        let status = client.query("status");
        status["starting"] == true
            && status["journal"]["problem"]
                .as_str()
                .is_some_and(|problem| problem.contains("cannot be opened"))
    });
    let early = client.execute("true.yaml");
    rig.broker_up();
    assert_eq!(client.final_ack(early), "CMD_COMPLETE Done");
    let mut foreign = rig.foreign();
    let is_its = |received: &Received| received.topic == "logevent_heartbeat";
    foreign.find("it is on Kafka too", is_its);
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_start_without_the_registry_takes_over_only_when_nothing_is_written_to_the_journal() {
    let mut rig = rig();
    let mut first = rig.start(&["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    rig.registry.down();
    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}[kafka]\nstart_timeout_s = 1\n"));
    let second = Daemon::start(rig.daemon_in(&home, &["--state", "enabled"]), home.socket());
    let mut client = second.connect();
    eventually("it says for whom it waits", || {
        let status = client.query("status");
        let problem = status["journal"]["problem"].as_str();
        problem.is_some_and(|problem| problem.contains("another instance writes to the journal topic"))
    });
    std::thread::sleep(Duration::from_secs(8));
    let ack = first.connect().run("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(ack, "CMD_COMPLETE Done");
    first.signal(Signal::KILL);
    first.wait();
    eventually("it takes over", || client.query("status")["state"] == "ENABLED");
}

/// A standby takes over from an instance that ends in this way; gives how long nobody sent a heartbeat, and what it logged.
fn taken_over_after(end: impl FnOnce(&mut Daemon)) -> (f64, String) {
    let (rig, service) = (rig(), service(600.0));
    let mut first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}[kafka]\ntakeover_s = 5\n"));
    let second = rig.start_in(&home, &service, &["--standby", "--state", "resume"]);
    let mut client = second.connect();
    eventually("it stands by", || client.query("status")["kafka"]["stage"] == "standing by");
    let other = format!("OCPS:1, process {}", first.pid().as_raw_pid());
    assert_eq!(client.query("status")["kafka"]["other"], other);
    let ack = client.run("execute", &json!({"pipeline": "p.yaml"}));
    assert!(ack.starts_with("CMD_FAILED Failed: this instance stands by for another one"), "{ack}");
    let jobs: Vec<String> = (0..50)
        .map(|_| {
            let seq = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
            foreign.job_id(seq)
        })
        .collect();
    // Longer than an impatient start waits.
    foreign.listen(Duration::from_secs(3));
    eventually("it has read along", || client.query("status")["journal"]["behind"] == 0);
    let text = home.client(&["status"]).stdout;
    assert!(text.contains(&format!("for {other}, which is active")), "{text}");
    assert!(text.contains("0 messages behind"), "{text}");
    // So that the standby has not taken over when the next command is sent.
    second.signal(Signal::STOP);
    end(&mut first);
    let missed = foreign.send("execute", &json!({"pipeline": "p.yaml"}));
    second.signal(Signal::CONT);
    let origin = i64::from(second.pid().as_raw_pid());
    let is_its = |received: &Received| received.int("private_origin") == origin;
    foreign.find("the standby is ENABLED", |received| {
        is_its(received) && received.topic == "logevent_summaryState" && received.int("summaryState") == 2
    });
    let reason = "no instance took commands when it was sent: send it again";
    assert_eq!(foreign.final_ack(missed), format!("-302 Failed: {reason}"));
    let beats = |is_wanted: bool| {
        let beats = foreign.of("logevent_heartbeat").into_iter();
        let stamps = beats.filter(move |beat| is_its(beat) == is_wanted);
        stamps.map(|beat| beat.data["private_sndStamp"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let gap = beats(true)[0] - beats(false).last().unwrap();
    for id in &jobs {
        let abort = foreign.send("abort_job", &json!({"job_id": id}));
        assert_eq!(foreign.final_ack(abort), "303 Done");
    }
    assert_eq!(service.counters().puts, jobs.len());
    assert_eq!(client.query("status")["kafka"]["other"], json!(null));
    (gap, second.stderr())
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_standby_takes_over_at_once_from_an_instance_that_ends() {
    let (gap, log) = taken_over_after(|first| {
        first.terminate();
    });
    println!("{gap:.1} s without heartbeat");
    assert!(gap < 5.0 && log.contains("the other instance hands over"), "{gap} {log}");
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_standby_takes_over_from_an_instance_that_was_killed_when_it_is_silent_for_long_enough() {
    let (gap, log) = taken_over_after(|first| {
        first.signal(Signal::KILL);
        first.wait();
    });
    println!("{gap:.1} s without heartbeat");
    assert!((5.0..10.0).contains(&gap) && !log.contains("hands over"), "{gap} {log}");
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn of_several_that_start_together_one_is_active_and_the_others_stand_by_or_end() {
    for flags in [&["--standby", "--state", "enabled"][..], &["--state", "enabled"]] {
        let toml = format!("{ON_KAFKA}{QUICK}[kafka]\ntakeover_s = 3\n");
        let rig = Rig::new(&toml);
        let homes = [(); 3].map(|()| Home::with_toml(&toml));
        let mut daemons = homes.each_ref().map(|home| {
            let stderr = File::create(home.path("stderr")).unwrap();
            Killed(rig.daemon_in(home, flags).stdout(Stdio::null()).stderr(stderr).spawn().unwrap())
        });
        let mut foreign = rig.foreign();
        foreign.state(2);
        // Until those that have to end have noticed it.
        foreign.listen(Duration::from_secs(12));
        let heard = foreign.received.len();
        foreign.listen(Duration::from_secs(4));
        let beats = foreign.received[heard..].iter().filter(|beat| beat.topic == "logevent_heartbeat");
        let active: BTreeSet<i64> = beats.map(|beat| beat.int("private_origin")).collect();
        let ends = daemons.each_mut().map(|daemon| daemon.0.try_wait().unwrap().map(|end| end.code()));
        let logs = homes.each_ref().map(|home| std::fs::read_to_string(home.path("stderr")).unwrap());
        println!("{ends:?}");
        assert_eq!(active.len(), 1, "{logs:#?}");
        assert!(ends.iter().flatten().all(|code| [Some(1), Some(5)].contains(code)), "{ends:?} {logs:#?}");
        let alive = ends.iter().filter(|end| end.is_none()).count();
        assert!(alive == 1 || flags.contains(&"--standby"), "{ends:?} {logs:#?}");
        assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
        let faults = foreign.of("logevent_summaryState").into_iter();
        assert_eq!(faults.filter(|state| state.int("summaryState") == 3).count(), 0, "{logs:#?}");
    }
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn a_standby_does_not_take_over_because_the_brokers_were_away() {
    let rig = rig_alone();
    let first = rig.start(&["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}[kafka]\ntakeover_s = 3\n"));
    let second = Daemon::start(rig.daemon_in(&home, &["--standby"]), home.socket());
    let mut client = second.connect();
    eventually("it stands by", || client.query("status")["kafka"]["stage"] == "standing by");
    rig.broker_down();
    std::thread::sleep(Duration::from_secs(8));
    let status = client.query("status");
    assert_eq!(status["kafka"]["stage"], "standing by");
    assert!(status["journal"]["behind"].is_null(), "{status}");
    rig.broker_up();
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(client.query("status")["kafka"]["stage"], "standing by");
    assert_eq!(first.connect().query("status")["state"], "ENABLED");
    eventually("it has no trouble any more", || client.query("status")["kafka"]["problem"].is_null());
}

/// Kills of the daemon: `OCPS_TEST_KILLS`, else a few.
fn kills() -> usize {
    std::env::var("OCPS_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Brokers that are killed in turn: one is away at a time, or where there is only one, it is started again at once.
struct Outages<'a> {
    rig: &'a Rig,
    kills: usize,
    away: Option<Away>,
}

/// Why a broker is away.
enum Away {
    Killed(usize),
    Starting(Killed),
}

impl Outages<'_> {
    /// Kills the next one, or starts the one that is away; if there is only one, both.
    fn next(&mut self) {
        self.step();
        if self.rig.brokers() == 1 {
            self.end();
        }
    }

    /// Waits until all are there.
    fn end(&mut self) {
        eventually("all brokers are there", || {
            if self.away.is_some() {
                self.step();
            }
            self.away.is_none()
        });
    }

    fn step(&mut self) {
        self.away = match self.away.take() {
            Some(Away::Killed(broker)) => {
                let mut start = self.rig.own(&["start", &broker.to_string()]);
                Some(Away::Starting(Killed(start.spawn().unwrap())))
            }
            Some(Away::Starting(mut starting)) => match starting.0.try_wait().unwrap() {
                None => Some(Away::Starting(starting)),
                Some(status) => {
                    assert!(status.success());
                    None
                }
            },
            None => {
                let broker = self.kills % self.rig.brokers() + 1;
                self.kills += 1;
                assert!(self.rig.own(&["stop", &broker.to_string()]).status().unwrap().success());
                Some(Away::Killed(broker))
            }
        };
    }
}

/// Waits for a daemon, and does what an operator does for it to be ENABLED: a broker that is away may lead to FAULT.
fn enable(daemon: &Daemon) {
    let mut client = daemon.connect();
    eventually("it is ENABLED", || {
        let status = client.query("status");
        if status["starting"] != false {
            return false;
        }
        let command = match status["state"].as_str().unwrap() {
            "FAULT" => "standby",
            "STANDBY" => "start",
            "DISABLED" => "enable",
            _ => return true,
        };
        client.run(command, &json!({}));
        false
    });
}

#[test]
#[ignore = "needs a real broker: make test-kafka"]
fn kills_of_daemon_and_brokers_lose_and_double_no_job_though_no_directory_outlives_them() {
    let (rig, service) = (rig_alone(), service(2.0));
    let mut foreign = rig.foreign();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut outages = Outages { rig: &rig, kills: 0, away: None };
    let begun = Instant::now();
    for round in 0..kills() {
        let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}"));
        let state = if round == 0 { "enabled" } else { "resume" };
        let mut daemon = rig.start_in(&home, &service, &["--state", state]);
        enable(&daemon);
        for _ in 0..5 {
            foreign.send("execute", &json!({"pipeline": "p.yaml"}));
        }
        let is_before_the_kill = rng.u8(..if rig.brokers() > 1 { 2 } else { 3 }) == 0;
        if is_before_the_kill {
            foreign.listen(Duration::from_millis(rng.u64(..300)));
            outages.next();
        }
        foreign.listen(Duration::from_millis(rng.u64(..3000)));
        daemon.signal(Signal::KILL);
        daemon.wait();
        if !is_before_the_kill && rig.brokers() > 1 {
            outages.next();
        }
    }
    let took = begun.elapsed().as_secs_f64();
    outages.end();
    let home = Home::with_toml(&format!("{ON_KAFKA}{QUICK}"));
    let daemon = rig.start_in(&home, &service, &["--state", "resume"]);
    let mut client = daemon.connect();
    eventually("all have ended", || {
        let status = client.query("status");
        let jobs = client.query("jobs");
        status["starting"] == false
            && jobs.as_array().is_some_and(|jobs| jobs.iter().all(|job| !job["ended"].is_null()))
    });
    // All that is in Kafka from the beginning, since brokers were away.
    let mut foreign = foreign.again();
    foreign.listen(Duration::from_secs(3));
    println!(
        "{} kills of the daemon and {} of {} brokers in {took:.0} s",
        kills(),
        outages.kills,
        rig.brokers()
    );
    judge(&foreign, &service.counters().jobs);
}

/// Compares all that was published with the jobs that were made, by run id.
fn judge(foreign: &Foreign, jobs: &BTreeMap<String, usize>) {
    let mut results: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for received in foreign.of("logevent_job_result") {
        results.entry(received.text("job_id")).or_default().push(received.text("result"));
    }
    let (mut promised, mut ended): (BTreeSet<i64>, BTreeMap<i64, BTreeSet<String>>) = Default::default();
    for received in foreign.of("ackcmd") {
        let (seq, ack) = (received.int("private_seqNum"), received.int("ack"));
        if ack == 301 {
            promised.insert(seq);
        } else {
            ended.entry(seq).or_default().insert(format!("{ack} {}", received.text("result")));
        }
    }
    let sent_twice = results.values().map(|texts| texts.len() - 1).sum::<usize>();
    println!(
        "{} jobs, {} with a result, {sent_twice} results sent again; {} commands in progress, {} answered",
        jobs.len(),
        results.len(),
        promised.len(),
        ended.len(),
    );
    assert!(jobs.values().all(|count| *count == 1), "doubled: {jobs:?}");
    assert!(jobs.len() >= kills(), "too quiet: {jobs:?}");
    assert_eq!(results.len(), jobs.len(), "forgotten");
    assert!(results.values().all(|texts| texts.windows(2).all(|pair| pair[0] == pair[1])), "{results:?}");
    let unanswered: Vec<&i64> = promised.iter().filter(|seq| !ended.contains_key(seq)).collect();
    assert!(unanswered.is_empty(), "lost: {unanswered:?}");
    // A command that was refused since the brokers were away is carried out by the next run if its record had reached them
    // and the daemon was killed before it could withdraw that.
    let is_refusal = |ack: &&String| ack.starts_with("-302") && ack.contains("cannot be written");
    let ends_once = |acks: &BTreeSet<String>| acks.iter().filter(|ack| !is_refusal(ack)).count() <= 1;
    assert!(ended.values().all(ends_once), "{ended:?}");
}
