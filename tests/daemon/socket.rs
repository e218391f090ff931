//! The local socket: many clients, and bad ones.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Daemon, Home, Killed, LONG, PATIENCE, QUICK, StallMeter, eventually};

fn enabled(toml: &str) -> (Home, Daemon) {
    let home = Home::with_toml(toml);
    let daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    (home, daemon)
}

/// Waits until only this client is there, and the threads and files of the others are given back.
fn until_alone(daemon: &Daemon, client: &mut Client) {
    eventually("the others have gone", || client.query("status")["clients"] == 1);
    eventually("their threads have ended", || daemon.client_threads() == 2);
}

#[test]
fn the_client_that_is_idle_for_longest_makes_room_for_another() {
    let (_home, daemon) = enabled(QUICK);
    let mut first = daemon.connect();
    until_alone(&daemon, &mut first);
    let (threads, files) = (daemon.resource("Threads"), daemon.resource("files"));
    let mut idle: Vec<Client> = (0..63).map(|_| daemon.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.query("status")["state"], "ENABLED");
    }
    // One of them waits for events, one has asked again.
    idle[0].write(&json!({"subscribe": true}));
    idle[1].query("status");
    let mut extra = daemon.connect();
    assert_eq!(extra.query("status")["clients"], 64);
    first.until_closed();
    let closed = json!({"error": "closed for another client: this one was idle for longest"});
    assert_eq!(first.received.last(), Some(&closed));
    let mut another = daemon.connect();
    assert_eq!(another.query("status")["clients"], 64);
    idle[2].until_closed();
    assert_eq!(idle[2].received.last(), Some(&closed));
    // All others are still served.
    let mut others: Vec<_> = idle.iter_mut().enumerate().filter(|(number, _)| *number != 2).collect();
    let seqs: Vec<i32> = others.iter_mut().map(|(_, client)| client.execute("true.yaml")).collect();
    for ((number, client), seq) in others.iter_mut().zip(seqs) {
        assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done", "{number}");
        assert_eq!(
            client.received.iter().filter(|line| !line["ack"].is_null()).count(),
            2,
            "its own acks only"
        );
    }
    drop((idle, extra));
    until_alone(&daemon, &mut another);
    eventually("threads and files are given back", || {
        daemon.resource("Threads") == threads && daemon.resource("files") == files
    });
}

#[test]
fn an_operator_is_served_also_when_all_places_wait_for_their_commands() {
    let (_home, daemon) = enabled(LONG);
    let mut waiting: Vec<Client> = (0..64).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        let seq = client.execute("true.yaml");
        client.job_id(seq);
    }
    // We are the user of the daemon.
    let mut operators: Vec<Client> = Vec::new();
    for number in 65..=72 {
        let mut operator = daemon.connect();
        assert_eq!(operator.query("status")["clients"], number);
        let seq = operator.execute("true.yaml");
        operator.job_id(seq);
        operators.push(operator);
    }
    let mut extra = daemon.connect();
    extra.until_closed();
    assert_eq!(extra.received, [json!({"error": "64 clients are connected, which is the limit"})]);
    assert!(
        waiting.iter_mut().chain(&mut operators).all(|client| client.query("status")["state"] == "ENABLED")
    );
}

#[test]
fn long_parameters_do_not_make_the_list_of_jobs_too_long_to_read() {
    let (home, daemon) = enabled(LONG);
    let mut client = daemon.connect();
    let long = "é".repeat(450_000);
    for _ in 0..20 {
        let seq = client.send("execute", &json!({"pipeline": "true.yaml", "data_query": long}));
        client.job_id(seq);
    }
    let check = |jobs: &serde_json::Value| {
        assert_eq!(jobs.as_array().unwrap().len(), 20);
        let query = jobs[0]["data_query"].as_str().unwrap();
        assert_eq!((query.chars().count(), query.chars().last()), (2001, Some('…')));
    };
    check(&client.query("jobs"));
    drop((client, daemon));
    // The next run reads them from its journal, and the command line shows them.
    let daemon = home.start(&["1", "--simulate"]);
    check(&daemon.connect().query("jobs"));
    assert_eq!(home.client(&["jobs"]).code, Some(0));
}

#[test]
fn many_clients_that_ask_for_all_jobs_do_not_delay_heartbeats() {
    const JOBS: usize = 1000;
    let (home, daemon) = enabled("[simulation]\nmean_duration_s = 0\nsigma_s = 0\n");
    let mut client = daemon.subscribe();
    let seqs: Vec<i32> = (0..JOBS).map(|_| client.execute("true.yaml")).collect();
    for seq in seqs {
        assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    }
    client.forget();
    let stalls = StallMeter::start(daemon.pid());
    // Each asks many times before it reads an answer.
    let askers: Vec<std::thread::JoinHandle<usize>> = (0..8)
        .map(|_| {
            let mut asker = Client::connect(&home.socket());
            std::thread::spawn(move || {
                for _ in 0..25 {
                    asker.write(&json!({"query": "jobs"}));
                }
                (0..25)
                    .map(|_| {
                        asker.find("jobs", |line| line["jobs"].is_array())["jobs"].as_array().unwrap().len()
                    })
                    .sum()
            })
        })
        .collect();
    for asker in askers {
        assert_eq!(asker.join().unwrap(), 25 * JOBS);
    }
    client.event("heartbeat");
    client.listen(Duration::from_millis(100));
    let beats = client.sent("heartbeat");
    assert!(beats.len() > 2, "too few to judge: {beats:?}");
    let gap = stalls.longest_gap(&beats, 1.05);
    println!("longest of {} heartbeat gaps {gap:.3} s", beats.len() - 1);
}

#[test]
fn garbage_is_answered_and_the_connection_stays_open() {
    let (_home, daemon) = enabled(QUICK);
    let mut client = daemon.connect();
    // Deeper than any stack.
    let deep = format!("{{\"x\":{}1{}}}\n", "[{\"a\":".repeat(100_000), "}]".repeat(100_000));
    let lines: [(&[u8], &str); 9] = [
        (b"hello\n", "not JSON: expected value at line 1 column 1"),
        (b"\xff\xfe\x00\n", "not JSON: "),
        (b"{\"command\":\n", "not JSON: "),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "one of the keys"),
        (b"{\"command\":\"enable\",\"x\":1}\n", "unknown key \"x\""),
        (b"{\"query\":\"x\"}\n", "\"query\" must be"),
        (b"{\"subscribe\":1}\n", "\"subscribe\" must be true"),
        (deep.as_bytes(), "one of the keys"),
    ];
    for (line, expected) in lines {
        client.raw(b"\n \r\n");
        client.raw(line);
        let error = client.find("an error", |line| !line["error"].is_null())["error"].clone();
        assert!(error.as_str().unwrap().starts_with(expected), "{error}");
        client.forget();
    }
    // Many at once, and then the connection still works: error answers count against no limit.
    client.raw("garbage\n".repeat(1000).as_bytes());
    for _ in 0..3 {
        assert_eq!(client.query("status")["state"], "ENABLED");
    }
    assert_eq!(client.received.iter().filter(|line| !line["error"].is_null()).count(), 1000);
    assert_eq!(client.run("execute", &json!({"pipeline": "true.yaml"})), "CMD_COMPLETE Done");
    client.raw(b"{\"query\":\"status\"}\r\n");
}

#[test]
fn a_line_that_is_too_long_closes_its_connection_only() {
    let (_home, daemon) = enabled(QUICK);
    let mut other = daemon.connect();
    let mut client = daemon.connect();
    // It may be closed while we still write.
    let _ = client.try_raw(&vec![b'x'; 2 << 20]);
    client.until_closed();
    assert_eq!(client.received, [json!({"error": "the line is longer than 1048576 bytes: closed"})]);
    until_alone(&daemon, &mut other);
    // One that just fits is a line like any other.
    let mut line = format!(r#"{{"query":"status"}}{}"#, " ".repeat((1 << 20) - 19));
    line.push('\n');
    other.forget();
    other.raw(line.as_bytes());
    other.find("status", |line| line["status"]["state"] == "ENABLED");
}

#[test]
fn a_client_that_only_ended_its_requests_still_gets_its_acks() {
    let (_home, daemon) = enabled(QUICK);
    let mut client = daemon.connect();
    let seq = client.execute("true.yaml");
    client.half_close();
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    // It waits for no answer any more, so the connection is closed, and a pipe into the socket ends by itself.
    client.until_closed();
    until_alone(&daemon, &mut daemon.connect());
}

#[test]
fn clients_that_vanish_disturb_no_other() {
    let (_home, daemon) = enabled(QUICK);
    let mut watcher = daemon.subscribe();
    watcher.forget();
    for n in 0..20 {
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        let line = r#"{"command":"execute","params":{"pipeline":"true.yaml"}}"#;
        match n % 3 {
            0 => writeln!(client, "{line}").unwrap(),
            1 => client.write_all(&line.as_bytes()[..20]).unwrap(),
            _ => client.write_all(b"{\"subscribe\":true}\n{\"query\":\"jobs\"}\n").unwrap(),
        }
    }
    until_alone(&daemon, &mut watcher);
    eventually("the jobs end all the same", || {
        watcher.listen(Duration::from_millis(10));
        watcher.received.iter().filter(|line| line["event"]["data"]["exit_code"] == 0).count() == 7
    });
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let (_home, daemon) = enabled(QUICK);
    let mut first = daemon.connect();
    until_alone(&daemon, &mut first);
    let (threads, files) = (daemon.resource("Threads"), daemon.resource("files"));
    let visit = |times: usize| {
        for n in 0..times {
            let mut client = UnixStream::connect(daemon.socket()).unwrap();
            let _ = client.write_all([b"garbage\n".as_slice(), b"{\"subscribe\":true}\n", b"{"][n % 3]);
        }
    };
    // What is kept for the next ones is kept once, as many as are there at the same time; what is lost is lost again
    // each time.
    eventually("memory grows no more", || {
        let memory = daemon.resource("VmRSS");
        visit(500);
        until_alone(&daemon, &mut first);
        daemon.resource("VmRSS").saturating_sub(memory) < 4096
    });
    eventually("threads and files are given back", || {
        daemon.resource("Threads") == threads && daemon.resource("files") == files
    });
}

#[test]
fn nonsense_of_all_kinds_is_survived() {
    let (_home, daemon) = enabled(QUICK);
    let templates = [
        r#"{"command":"execute","seq":7,"params":{"pipeline":"true.yaml","prereq_jobs":"a,b"}}"#,
        r#"{"command":"abort_job","params":{"job_id":"true.yaml-1795377196.900830"}}"#,
        r#"{"command":"setLogLevel","params":{"level":20}}"#,
        r#"{"query":"jobs"}"#,
        r#"{"subscribe":true}"#,
    ];
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut clients: Vec<Client> = (0..8).map(|_| daemon.connect()).collect();
    for _ in 0..1000 {
        let mut line = rng.choice(templates).unwrap().as_bytes().to_vec();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(..line.len().max(1));
            if line.is_empty() {
                break;
            }
            match rng.u8(0..4) {
                0 => line[at] = rng.u8(..),
                1 => drop(line.remove(at)),
                2 => line.insert(at, *rng.choice(b"{}[]\",:0-e\\ \n").unwrap()),
                _ => line.truncate(at.max(1)),
            }
        }
        line.push(b'\n');
        rng.choice(&mut clients).unwrap().raw(&line);
    }
    for client in &mut clients {
        assert_eq!(client.query("status")["state"], "ENABLED");
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_dropped_and_the_others_are_served() {
    let (_home, daemon) = enabled(QUICK);
    let mut slow = UnixStream::connect(daemon.socket()).unwrap();
    slow.write_all(b"{\"subscribe\":true}\n").unwrap();
    let mut other = daemon.subscribe();
    other.forget();
    let stalls = StallMeter::start(daemon.pid());
    // Each is an event of 200 KB for all.
    let pipeline = "x".repeat(200_000);
    for _ in 0..150 {
        if daemon.stderr().contains("does not read") {
            break;
        }
        let ack = other.run("execute", &json!({ "pipeline": pipeline }));
        assert!(ack.starts_with("CMD_FAILED Failed: Unknown (simulated) pipeline: x"));
    }
    until_alone(&daemon, &mut other);
    eventually("the reason is logged", || daemon.stderr().contains("does not read"));
    stalls.longest_gap(&other.sent("heartbeat"), 2.0);
    // It gets what was written before, and then the end of the stream.
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"{\"event\":"));
}

#[test]
fn late_joiners_get_the_latest_of_each_event_and_numbers_count_from_one() {
    let home = Home::with_toml(QUICK);
    let daemon = home.start(&["1", "--simulate"]);
    let mut early = daemon.subscribe();
    for command in ["start", "enable"] {
        assert_eq!(early.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    assert_eq!(early.run("execute", &json!({"pipeline": "true.yaml"})), "CMD_COMPLETE Done");
    let mut late = daemon.connect();
    late.write(&json!({"subscribe": true}));
    late.query("status");
    let latest = |topic: &str| {
        let lines: Vec<_> = late.received.iter().filter(|line| line["event"]["topic"] == topic).collect();
        (lines.len(), lines.last().map(|line| line["event"]["seq"].clone()))
    };
    assert_eq!(latest("summaryState"), (1, Some(json!(3))));
    for topic in ["logLevel", "simulationMode", "softwareVersions", "errorCode", "job_id", "job_result"] {
        assert_eq!(latest(topic), (1, Some(json!(1))), "{topic}");
    }
    let states: Vec<_> =
        early.received.iter().filter(|line| line["event"]["topic"] == "summaryState").collect();
    let seqs: Vec<_> = states.iter().map(|line| line["event"]["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    let beats: Vec<_> = early.received.iter().filter(|line| line["event"]["topic"] == "heartbeat").collect();
    assert!(beats.windows(2).all(|two| {
        two[0]["event"]["seq"].as_i64().unwrap() + 1 == two[1]["event"]["seq"].as_i64().unwrap()
    }));
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
    let (home, mut daemon) = enabled(QUICK);
    let metadata = fs::metadata(home.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    assert!(metadata.file_type().is_socket());
    daemon.terminate();
    assert!(!home.socket().exists());
}

#[test]
fn a_stale_socket_is_replaced_but_nothing_else() {
    let home = Home::with_toml(QUICK);
    drop(UnixListener::bind(home.socket()).unwrap());
    assert!(home.socket().exists());
    let daemon = home.start(&["1", "--simulate"]);
    let shown = home.socket().display().to_string();
    let refused = home.refused(&["2", "--simulate", "--state-dir", "other"]);
    assert_eq!(
        refused.one_line(1),
        format!(
            "ocps: {shown} is in use by another instance: stop that one, or choose another path with --socket"
        )
    );
    assert_eq!(daemon.connect().query("status")["index"], 1, "the first daemon is still running");
    drop(daemon);

    fs::remove_file(home.socket()).unwrap();
    fs::write(home.socket(), "precious").unwrap();
    let refused = home.refused(&["1", "--simulate"]);
    assert!(
        refused.one_line(1).starts_with(&format!("ocps: {shown} exists and is not a socket")),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(home.socket()).unwrap(), "precious");
}

#[test]
fn the_socket_of_a_successor_is_left_alone() {
    let (home, mut first) = enabled(QUICK);
    fs::remove_file(home.socket()).unwrap();
    let second = home.start(&["2", "--simulate", "--state-dir", "other"]);
    first.terminate();
    assert_eq!(second.connect().query("status")["index"], 2);
}

#[test]
fn an_instance_that_is_stopped_by_a_debugger_still_has_its_socket() {
    let (home, daemon) = enabled(QUICK);
    daemon.signal(Signal::STOP);
    let refused = home.refused(&["1", "--simulate"]);
    daemon.signal(Signal::CONT);
    assert!(refused.one_line(1).contains("is in use by another instance"), "{refused:?}");
}

#[test]
fn a_state_directory_belongs_to_one_daemon() {
    let home = Home::with_toml(LONG);
    let _daemon = home.start(&["1"]);
    let state = home.path("state");
    let refused = home.refused(&["1", "--socket", home.path("other.sock").to_str().unwrap()]);
    let expected = format!("ocps: the state directory {} is in use by another instance", state.display());
    assert!(refused.one_line(1).starts_with(&expected), "{refused:?}");
    assert!(!home.path("other.sock").exists());
}

/// A daemon in a container cannot see the process of a client outside.
#[test]
#[ignore = "makes a PID namespace: make test-root"]
fn a_client_of_another_pid_namespace_is_served() {
    let flags = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    // Root needs no user namespace of its own.
    let flags = if rustix::process::geteuid().is_root() { &flags[2..] } else { &flags };
    let home = Home::with_toml(QUICK);
    let mut command = home.program("unshare".as_ref());
    command.args(flags).arg(env!("CARGO_BIN_EXE_ocps")).arg("run");
    home.run_args(&mut command, &["1", "--simulate", "--state", "enabled"]);
    let log = home.path("log");
    let _daemon =
        Killed(command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    eventually("it listens", || UnixStream::connect(home.socket()).is_ok());
    let ran = home.client(&["send", "execute", "pipeline=true.yaml"]);
    let log = || fs::read_to_string(&log).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}\n{}", log());
    assert_eq!(home.client(&["send", "setLogLevel", "level=20"]).code, Some(0));
    eventually("it is logged", || log().contains("@localhost (a process of another PID namespace)"));
}
