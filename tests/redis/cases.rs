use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{PATIENCE, StallMeter};
use super::port::Port;
use super::rig::{Cut, Daemon, PASSWORD, Proxy, Server, env, push, silent_server};

/// The scripts wait so long.
const SCRIPT: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn values_arrive_as_the_python_ocps_pushes_them() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    assert_eq!(push(&mut client, r#"{"test_int":1234,"test_str":"12345"}"#), "Done");
    assert_eq!(push(&mut client, r#"{"LSSTComCam-FROM-OCS_DONUTPAIR":"1,2"}"#), "Done");
    assert_eq!(push(&mut client, r#"{"LSSTComCam-FROM-OCS_DONUTPAIR":"3,4"}"#), "Done");
    assert_eq!(server.list("test_int"), ["1234"]);
    assert_eq!(server.list("test_str"), ["12345"]);
    assert_eq!(server.list("LSSTComCam-FROM-OCS_DONUTPAIR"), ["3,4", "1,2"]);
    // A pipeline and prerequisites are ignored.
    let params = json!({"pipeline": "x", "version": "v", "prereq_jobs": "a", "config": "{\"p\":-1.50}"});
    assert_eq!(client.run("execute", &params), "CMD_COMPLETE Done");
    assert_eq!(server.list("p"), ["-1.50"]);
    let config = r#"{"n1":1e3,"n2":1.0,"n3":123456789012345678901234567890,"s":"é \" \n 😀","":""}"#;
    assert_eq!(push(&mut client, config), "Done");
    let lists = ["n1", "n2", "n3", "s", ""].map(|key| server.list(key));
    assert_eq!(lists, [["1e3"], ["1.0"], ["123456789012345678901234567890"], ["é \" \n 😀"], [""]]);
    // One transaction for each command, however many values it has.
    assert_eq!((server.calls("multi"), server.calls("exec"), server.calls("lpush")), (5, 5, 10));
    assert_eq!(client.query("status")["counters"]["submitted"], 0);
    daemon.wait_for_log(r#"pushed to Redis: "n1""#);
    assert!(!daemon.log().contains(PASSWORD));
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn the_order_of_many_commands_is_kept() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    // As many at once as even a slow machine pushes before the last has waited too long.
    for first in (0..500).step_by(25) {
        let send = |n| client.send("execute", &json!({ "config": format!("{{\"many\":{n}}}") }));
        for seq in (first..first + 25).map(send).collect::<Vec<_>>() {
            assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
        }
    }
    let acks: Vec<i64> = client.received.iter().filter_map(|line| line["ack"]["seq"].as_i64()).collect();
    assert_eq!(acks, (1..=500).collect::<Vec<_>>());
    let expected: Vec<String> = (0..500).rev().map(|n| n.to_string()).collect();
    assert_eq!(server.list("many"), expected);
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn what_cannot_be_pushed_whole_is_not_pushed() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    let mut redis = server.connection();
    redis::cmd("SET").arg("text").arg("x").exec(&mut redis).unwrap();
    for (config, expected) in [
        ("", "config is empty"),
        ("{}", "config is an empty object"),
        ("[1]", "config must be a JSON object"),
        (r#"{"good":1,"bad":[1]}"#, "the value of \"bad\" must be a string or a number, not a list"),
        (r#"{"good":1,"bad":{"a":1}}"#, "not an object"),
        (r#"{"good":1,"bad":true}"#, "not a boolean"),
        (r#"{"good":1,"bad":null}"#, "not null"),
        (r#"{"good":1"#, "not valid JSON"),
        (r#"{"good":1,"text":2}"#, "holds a string in \"text\", not a list"),
    ] {
        let result = push(&mut client, config);
        assert!(result.starts_with("Failed: ") && result.contains(expected), "{config}: {result}");
        assert!(result.ends_with("; nothing was pushed"), "{result}");
    }
    assert_eq!(server.list("good"), [""; 0]);
    // A server that has no room refuses while it queues.
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut redis).unwrap();
    let result = push(&mut client, r#"{"good":1}"#);
    assert!(result.contains("refuses LPUSH: OOM") && result.ends_with("; nothing was pushed"), "{result}");
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).exec(&mut redis).unwrap();
    assert_eq!(push(&mut client, r#"{"good":1}"#), "Done");
    assert_eq!(
        client.run("abort_job", &json!({"job_id": "a"})),
        "CMD_FAILED Failed: Rapid Analysis (index 101) has no jobs to abort"
    );
}

/// Why `start` fails with this environment and these settings; the state stays STANDBY.
fn why_not(env: &[(&str, &str)], toml: &str) -> String {
    let daemon = Daemon::start(env, toml, &[]);
    let mut client = daemon.client();
    let begun = Instant::now();
    let ack = client.run("start", &json!({}));
    assert!(begun.elapsed() < SCRIPT, "{:?}", begun.elapsed());
    let result = ack.strip_prefix("CMD_FAILED ").unwrap().to_owned();
    let status = client.query("status");
    assert_eq!(status["state"], "STANDBY");
    daemon.wait_for_log("start of uid-");
    let text = daemon.status_text();
    assert!(text.contains("not reachable") || text.contains(" reachable, last problem"), "{text}");
    for text in [&result, &status.to_string(), &text, &daemon.log()] {
        assert!(!text.contains(PASSWORD) && !text.contains("wrong-secret"), "{text}");
    }
    assert!(!result.contains('\n'));
    result
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn start_fails_with_one_clear_line() {
    let server = Server::usual();
    let open = Server::start(&["--save", ""]);
    let port = server.port.to_string();
    let open = open.port.to_string();
    let kept = Port::free().unwrap();
    let nobody = kept.number.to_string();
    let silent = silent_server().to_string();
    let at = |port: &str, why: &str| format!("Failed: Redis at 127.0.0.1:{port} {why}");
    let [host, _, password] = env("");
    assert_eq!(why_not(&[password], ""), "Failed: no Redis host: set REDIS_HOST, or redis.host in ocps.toml");
    assert_eq!(
        why_not(&[host], ""),
        "Failed: no Redis password: set REDIS_PASSWORD, or redis.password_file in ocps.toml"
    );
    assert_eq!(why_not(&env(&nobody), ""), at(&nobody, "refuses the connection: is it running there?"));
    let wrong = [host, ("REDIS_PORT", port.as_str()), ("REDIS_PASSWORD", "wrong-secret")];
    assert_eq!(why_not(&wrong, ""), at(&port, "refuses the password"));
    assert_eq!(why_not(&env(&open), ""), at(&open, "refuses the password"));
    assert!(why_not(&env("x"), "").starts_with("Failed: REDIS_PORT must be a number"));
    assert_eq!(why_not(&env(&silent), ""), at(&silent, "gave no answer in time"));
    let nowhere = [("REDIS_HOST", "no-such-host.invalid"), password];
    assert!(why_not(&nowhere, "").contains("no-such-host.invalid:6379 cannot be reached: "));
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn host_and_password_file_may_be_settings() {
    let server = Server::usual();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong-secret\n").unwrap();
    let port = server.port;
    let toml = format!("[redis]\nhost = '127.0.0.1'\nport = {port}\npassword_file = '{}'\n", file.display());
    let daemon = Daemon::start(&[], &toml, &[]);
    let mut client = daemon.client();
    assert!(client.run("start", &json!({})).ends_with("refuses the password"));
    // Read again at each connection.
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
    assert_eq!(client.run("enable", &json!({})), "CMD_COMPLETE Done");
    assert_eq!(push(&mut client, r#"{"a":1}"#), "Done");
    let status = client.query("status");
    assert_eq!(status["redis"]["address"], format!("127.0.0.1:{port}"));
    let text = daemon.status_text();
    assert!(
        text.contains(&format!("service        Redis at 127.0.0.1:{port} reachable, last answer ")),
        "{text}"
    );
    for text in [&daemon.log(), &text, &status.to_string()] {
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn a_restarted_server_is_connected_to_again() {
    let mut server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    assert_eq!(push(&mut client, r#"{"a":1}"#), "Done");
    server.stop();
    let refused =
        format!("Failed: Redis at 127.0.0.1:{} refuses the connection: is it running there?", server.port);
    for _ in 0..2 {
        assert_eq!(push(&mut client, r#"{"a":2}"#), format!("{refused}; nothing was pushed"));
    }
    assert_eq!(client.query("status")["service"]["reachable"], false);
    assert!(daemon.status_text().contains("not reachable, silent for"), "{}", daemon.status_text());
    // Redis does not change the summary state: the next command may work again.
    assert_eq!(client.query("status")["state"], "ENABLED");
    server.restart();
    assert_eq!(push(&mut client, r#"{"a":3}"#), "Done");
    server.stop();
    server.restart();
    assert_eq!(push(&mut client, r#"{"a":4}"#), "Done");
    assert_eq!(server.list("a"), ["4"]);
    assert_eq!(client.query("status")["service"]["reachable"], true);
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn a_push_whose_answer_was_lost_is_not_repeated() {
    let server = Server::usual();
    let proxy = Proxy::start(server.port);
    let daemon = Daemon::enabled(proxy.port);
    let mut client = daemon.client();
    let mut pushed = Vec::new();
    let cases = [
        // Until EXEC nothing is carried out: it is sent once more.
        ("MULTI", Cut::Before, "Done", true),
        ("MULTI", Cut::After, "Done", true),
        // From there on nobody knows.
        ("EXEC", Cut::Before, "closed the connection; it is unclear", false),
        ("EXEC", Cut::After, "closed the connection; it is unclear", true),
        // There is no connection after that: one is made, and not a second one.
        ("AUTH", Cut::Before, "closed the connection; nothing was pushed", false),
    ];
    for (n, (word, cut, expected, arrives)) in cases.into_iter().enumerate() {
        proxy.cut(word, cut);
        let result = push(&mut client, &format!("{{\"x\":{n},\"y\":{n}}}"));
        assert!(proxy.has_cut(), "{word}");
        assert!(result.contains(expected), "{word} {cut:?}: {result}");
        if arrives {
            pushed.push(n.to_string());
        }
    }
    pushed.reverse();
    assert_eq!((server.list("x"), server.list("y")), (pushed.clone(), pushed));
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn a_frozen_server_does_not_delay_the_ack() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    assert_eq!(push(&mut client, r#"{"a":1}"#), "Done");
    server.signal(Signal::STOP);
    let begun = Instant::now();
    let result = push(&mut client, r#"{"a":2}"#);
    let took = begun.elapsed();
    server.signal(Signal::CONT);
    assert!(took < SCRIPT, "{took:?}");
    assert!(result.ends_with("gave no answer in time; nothing was pushed"), "{result}");
    assert_eq!(push(&mut client, r#"{"a":3}"#), "Done");
    // What the server finds in its buffers when it wakes up is no transaction.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.list("a"), ["3", "1"]);
}

/// Whatever Redis does, commands are answered in time and heartbeats go out.
#[test]
#[ignore = "needs redis-server: make test-redis"]
fn a_server_that_accepts_and_never_answers_does_not_stop_heartbeats() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    server.signal(Signal::STOP);
    let stalls = StallMeter::start(daemon.process.pid());
    let mut listener = daemon.client();
    listener.write(&json!({"subscribe": true}));
    let mut client = daemon.client();
    let begun = Instant::now();
    let send = |_| client.send("execute", &json!({"config": "{\"a\":1}"}));
    for seq in (0..5).map(send).collect::<Vec<_>>() {
        let ack = client.final_ack(seq);
        assert!(ack.ends_with("; nothing was pushed"), "{ack}");
        assert!(begun.elapsed() < SCRIPT, "{:?}: {ack}", begun.elapsed());
    }
    listener.listen(Duration::from_secs(6).saturating_sub(begun.elapsed()));
    let beats = listener.sent("heartbeat");
    assert!(beats.len() >= 4, "{beats:?}");
    stalls.longest_gap(&beats, 1.5);
    server.signal(Signal::CONT);
    assert_eq!(push(&mut client, r#"{"a":2}"#), "Done");
    assert_eq!(server.list("a"), ["2"]);
}

/// The server dies again and again while commands come: each ack is true, and no command is pushed in part or twice.
#[test]
#[ignore = "needs redis-server: make test-redis"]
fn acks_are_true_while_the_server_dies_again_and_again() {
    let durable = ["--requirepass", PASSWORD, "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::start(&durable);
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let (counting, over) = (counts.clone(), Arc::new(AtomicBool::new(false)));
    let at_end = over.clone();
    let pusher = thread::spawn(move || {
        let mut results: Vec<(String, String)> = Vec::new();
        let mut ended = None;
        // In the end all is well again, at once or when the disk is.
        while results.last().is_none_or(|(_, result)| result != "Done" || ended.is_none()) {
            if at_end.load(Ordering::Relaxed) {
                assert!(ended.get_or_insert_with(Instant::now).elapsed() < PATIENCE, "{results:?}");
            }
            let n = results.len().to_string();
            let result = push(&mut client, &format!("{{\"x\":{n},\"y\":{n}}}"));
            counting[kind(&result)].fetch_add(1, Ordering::Relaxed);
            results.push((n, result));
        }
        results
    });
    let mut rng = fastrand::Rng::with_seed(6);
    let mut deaths = 0;
    let counted = |kind: usize| counts[kind].load(Ordering::Relaxed);
    // Until enough has happened, however long this disk takes for it.
    while deaths < 15 || counted(DONE) < 100 || counted(NOT_PUSHED) < 1 {
        assert!(!pusher.is_finished() && deaths < 1000, "{counts:?}");
        thread::sleep(Duration::from_millis(rng.u64(20..200)));
        server.stop();
        server.restart();
        deaths += 1;
    }
    over.store(true, Ordering::Relaxed);
    let results = pusher.join().unwrap();
    let (xs, ys) = (server.list("x"), server.list("y"));
    assert_eq!(xs, ys);
    let there: HashSet<&String> = xs.iter().collect();
    assert_eq!(there.len(), xs.len(), "something was pushed twice");
    for (n, result) in &results {
        match kind(result) {
            DONE => assert!(there.contains(n), "{n} is done but not there"),
            NOT_PUSHED => assert!(!there.contains(n), "{n} is there although {result}"),
            _ => assert!(result.contains("it is unclear"), "{result}"),
        }
    }
    eprintln!("{deaths} deaths; done, not pushed, unclear: {counts:?}");
}

const DONE: usize = 0;
const NOT_PUSHED: usize = 1;
const UNCLEAR: usize = 2;

/// What a result says.
fn kind(result: &str) -> usize {
    match result {
        "Done" => DONE,
        _ if result.ends_with("; nothing was pushed") => NOT_PUSHED,
        _ => UNCLEAR,
    }
}

#[test]
fn the_simulator_needs_no_redis_and_logs_what_would_be_pushed() {
    let daemon = Daemon::start(&[], "", &["--simulate", "--state", "enabled"]);
    let mut client = daemon.client();
    assert_eq!(push(&mut client, r#"{"a":1e3,"b":"x"}"#), "Done");
    daemon.wait_for_log(r#"would push to Redis: "a" <- "1e3", "b" <- "x""#);
    assert!(push(&mut client, r#"{"a":[]}"#).contains("not a list"));
    assert_eq!(client.query("status")["redis"], Value::Null);
}

#[test]
#[ignore = "needs redis-server: make test-redis"]
fn ocps_send_ends_with_the_final_ack() {
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let send = |config: &str| {
        let ran = daemon.home.client(&["send", "execute", &format!("config={config}")]);
        (ran.code, ran.stdout)
    };
    assert_eq!(send(r#"{"a":1}"#), (Some(0), "CMD_COMPLETE Done\n".to_owned()));
    assert_eq!(send("{}").0, Some(3));
}
