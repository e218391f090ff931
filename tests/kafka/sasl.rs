//! TLS, SASL SCRAM and permissions, where `tests/kafka/real.sh` gives a broker that wants them.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Client, Daemon, QUICK, eventually};
use crate::rig::{Rig, given};

/// As the user that the broker knows, to the listener of this name.
fn user(rig: &Rig, listener: &str, args: &[&str]) -> Command {
    let listener = given(listener).unwrap_or_else(|| panic!("{listener} is not set"));
    let mut command = rig.daemon(args);
    command
        .env("LSST_KAFKA_BROKER_ADDR", listener)
        .env("LSST_KAFKA_SECURITY_USERNAME", "ocps")
        .env("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
    command
}

/// What `ocps doctor` finds as that user.
fn doctor(rig: &Rig) -> String {
    let mut command = rig.doctor_command("s.sock");
    command
        .env("LSST_KAFKA_BROKER_ADDR", given("OCPS_TEST_SASL_BROKER").unwrap())
        .env("LSST_KAFKA_SECURITY_USERNAME", "ocps")
        .env("LSST_KAFKA_SECURITY_PASSWORD", "geheim");
    crate::harness::run(&mut command).stdout
}

/// The same over TLS, with the authority of this name.
fn user_over_tls(rig: &Rig, authority: &str, args: &[&str]) -> Command {
    let certificates = given("OCPS_TEST_TLS_CERTIFICATES").unwrap();
    let mut command = user(rig, "OCPS_TEST_TLS_BROKER", args);
    rig.home.write("client.yaml", &format!("ssl.ca.location: {certificates}/{authority}.pem\n"));
    command
        .env("LSST_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
        .env("LSST_KAFKA_BROKER_CLIENT_CONFIGURATION", rig.home.path("client.yaml"));
    command
}

fn all_is_as_ever(rig: &Rig, command: Command) {
    let daemon = Daemon::start(command, rig.home.socket());
    eventually("it has joined", || daemon.stderr().contains("Kafka: at "));
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
    let log = daemon.stderr();
    assert!(!log.contains("geheim"), "{log}");
    assert!(lines(&log, "Kafka: ").is_empty(), "{log}");
}

/// It serves its socket alone, and logs the reason once, as a warning.
fn is_kept_out(rig: &Rig, command: Command, expected: &str) -> String {
    let daemon = Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    client.state(5);
    // Joining has failed too, and it is not logged again.
    eventually("the broker is asked", || {
        kafka(&mut client)["problem"].as_str().is_some_and(|problem| problem.contains("for its topics"))
    });
    let log = daemon.stderr();
    let lines: Vec<&str> = lines(&log, "Kafka: ");
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(expected), "{log}");
    let status = kafka(&mut client);
    assert_eq!(status["stage"], "connecting", "{status}");
    assert!(status["problem"].as_str().unwrap().contains(expected), "{status}");
    log
}

/// The warnings with this text.
fn lines<'a>(log: &'a str, what: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains("[WARN]") && line.contains(what)).collect()
}

#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn with_the_right_password_all_is_as_ever() {
    let rig = Rig::new(QUICK);
    let command = user(&rig, "OCPS_TEST_SASL_BROKER", &["--state", "enabled"]);
    all_is_as_ever(&rig, command);
}

#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn a_wrong_password_is_logged_in_one_line() {
    let rig = Rig::new("[kafka]\nstart_timeout_s = 3\n");
    let args = ["--loglevel", "debug"];
    let mut command = user(&rig, "OCPS_TEST_SASL_BROKER", &args);
    command.env("LSST_KAFKA_SECURITY_PASSWORD", "gehemnis");
    let log = is_kept_out(&rig, command, "the broker does not let us in: ");
    assert!(log.contains("Authentication failed"), "{log}");
    assert!(!log.contains("gehemnis"), "{log}");
}

#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn over_tls_all_is_as_ever() {
    let rig = Rig::new(QUICK);
    let command = user_over_tls(&rig, "ca", &["--state", "enabled"]);
    all_is_as_ever(&rig, command);
}

#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn a_broker_of_another_authority_is_logged_in_one_line() {
    let rig = Rig::new("[kafka]\nstart_timeout_s = 3\n");
    let command = user_over_tls(&rig, "other", &[]);
    is_kept_out(&rig, command, "the broker's certificate is not trusted (see ssl.ca.location): ");
}

fn kafka(client: &mut Client) -> Value {
    client.query("status")["kafka"].clone()
}

/// From a topic that we may not even see to one that we may write.
#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn a_topic_without_permission_is_named_and_its_messages_come_in_order_when_it_is_granted() {
    let rig = Rig::new(&format!("{QUICK}[kafka]\nstart_timeout_s = 3\n"));
    let args = ["--state", "enabled"];
    let command = user(&rig, "OCPS_TEST_SASL_BROKER", &args);
    let topic = format!("lsst.{}.OCPS.logevent_job_result", rig.subname);
    let name = topic.as_str();
    // It belongs to another user.
    rig.allow("nobody", name, &["All"]);
    let daemon = Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    client.state(2);
    let status = kafka(&mut client);
    assert_eq!(status["stage"], "connecting", "{status}");
    assert!(status["problem"].as_str().unwrap().contains(name), "{status}");
    assert_eq!(lines(&daemon.stderr(), name).len(), 1, "{}", daemon.stderr());

    rig.allow("ocps", name, &["Describe", "Read"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    // It has joined and serves; only the results are missing, which is logged.
    for _ in 0..3 {
        assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    }
    let refused = format!("topic {name} cannot be written: ");
    eventually("it is logged", || !lines(&daemon.stderr(), &refused).is_empty());
    // Longer than a topic rests: it is tried again, but not logged again.
    foreign.listen(std::time::Duration::from_secs(7));
    for _ in 0..3 {
        assert_eq!(foreign.run("execute", &json!({"pipeline": "false.yaml"})), "303 Done");
    }
    let status = kafka(&mut client);
    assert_eq!((&status["stage"], &status["dropped"]), (&json!("joined"), &json!(0)), "{status}");
    assert!(status["queued"].as_u64().unwrap() >= 6, "{status}");
    assert!(status["problem"].as_str().unwrap().contains(&refused), "{status}");
    let log = daemon.stderr();
    assert_eq!(lines(&log, "Kafka: ").len(), 2, "{log}");
    assert!(foreign.of("logevent_job_result").is_empty());

    rig.allow("ocps", name, &["Write"]);
    foreign.find("the last result", |received| {
        received.topic == "logevent_job_result" && received.int("private_seqNum") == 6
    });
    let results: Vec<(i64, i64)> = foreign
        .of("logevent_job_result")
        .iter()
        .map(|received| (received.int("private_seqNum"), received.int("exit_code")))
        .collect();
    assert_eq!(results, [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]);
    let jobs = |topic: &str| -> Vec<String> {
        foreign.of(topic).iter().map(|received| received.text("job_id").to_owned()).collect()
    };
    assert_eq!(jobs("logevent_job_result"), jobs("logevent_job_id"));
    eventually("the end of the problem is logged", || {
        daemon.stderr().contains(&format!("topic {name} can be written again"))
    });
    eventually("nothing is wrong", || kafka(&mut client)["problem"] == Value::Null);
}

#[test]
#[ignore = "needs a broker with passwords and permissions: make test-kafka"]
fn a_topic_that_we_may_not_read_is_named_until_we_may() {
    let rig = Rig::new("");
    let command = user(&rig, "OCPS_TEST_SASL_BROKER", &[]);
    // There it can be seen, but not read; who sends the command may do all.
    let topic = format!("lsst.{}.OCPS.command_start", rig.subname);
    rig.allow("ocps", &topic, &["Describe"]);
    let daemon = Daemon::start(command, rig.home.socket());
    let mut client = daemon.subscribe();
    let refused = format!("topic {topic} cannot be read: ");
    eventually("it is logged", || !lines(&daemon.stderr(), &refused).is_empty());
    let found = doctor(&rig);
    let expected = format!("WRONG topics          {topic}: it may not be read; give ");
    assert!(found.contains(&expected), "{found}");
    let mut foreign = rig.foreign();
    foreign.state(5);
    // The others are read, and that is not taken for its end.
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    let seq = foreign.send("start", &json!({}));
    foreign.listen(std::time::Duration::from_secs(3));
    assert!(kafka(&mut client)["problem"].as_str().unwrap().contains(&refused));
    assert!(!foreign.of("ackcmd").iter().any(|ack| ack.int("private_seqNum") == i64::from(seq)));
    rig.allow("ocps", &topic, &["Read"]);
    // It is late, but it was sent in this run.
    assert_eq!(foreign.final_ack(seq), "303 Done");
    eventually("nothing is wrong", || kafka(&mut client)["problem"] == Value::Null);
    let log = daemon.stderr();
    assert!(log.contains("command_start can be read again"), "{log}");
    let found = doctor(&rig);
    assert!(found.contains("ok    topics "), "{found}");
    assert_eq!(lines(&log, "Kafka: ").len(), 1, "{log}");
}
