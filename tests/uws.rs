//! The UWS back-end against the fake execution service, and against servers that no HTTP library would make.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a failure ends the test")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::csc::id::{JobId, RunId};
use ocps::csc::request::{Action, Answer, Submission};
use serde_json::{Value, json};

use support::http::{self, Server, Then};
use support::uws_job::Timing;
use support::uws_service::{Fault, On, Options, UwsService, What};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn settings(timeout: Duration) -> settings::Uws {
    settings::Uws {
        command: "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh".to_owned(),
        source_url: "https://github.com/lsst-dm/uws_scripts".to_owned(),
        commit_ref: "main".to_owned(),
        version_selects_image: false,
        connect_timeout: timeout,
        put_timeout: timeout,
        get_timeout: timeout,
        delete_timeout: timeout,
        submit_timeout: Duration::from_secs(60),
        settle_time: Duration::from_secs(15),
        outage_limit: Duration::from_secs(300),
        connections: 4,
        proxy: None,
    }
}

fn client() -> Uws {
    Uws::new(&settings(Duration::from_secs(60))).unwrap()
}

fn submission(run_id: &str, environment: Vec<(&'static str, String)>) -> Submission {
    let Some(run_id) = RunId::parse(run_id) else { panic!("bad run id {run_id}") };
    let uws = settings(Duration::ZERO);
    Submission {
        run_id,
        command: uws.command,
        source_url: uws.source_url,
        commit_ref: uws.commit_ref,
        environment: environment.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        pipeline: "p.yaml".to_owned(),
    }
}

fn submit(run_id: &str) -> Action {
    Action::Submit(Arc::new(submission(run_id, vec![("DATA_QUERY", "exposure=1".to_owned())])))
}

fn status(job_id: &str, run_id: Option<&str>) -> Action {
    Action::Status { job_id: JobId::parse(job_id).unwrap(), run_id: run_id.and_then(RunId::parse) }
}

fn remove(job_id: &str) -> Action {
    Action::Remove { job_id: JobId::parse(job_id).unwrap() }
}

fn list(run_ids: &[&str]) -> Action {
    Action::List {
        run_ids: Arc::new(run_ids.iter().filter_map(|id| RunId::parse(id)).collect::<BTreeSet<_>>()),
    }
}

fn four_actions() -> [Action; 4] {
    [submit("1-a"), status(ID, Some("1-a")), remove(ID), list(&["1-a"])]
}

/// The answer in short, and its reason.
fn short(answer: &Answer) -> (String, String) {
    match answer {
        Answer::Job(job) => (format!("job {:?}", job.phase), String::new()),
        Answer::Gone => ("gone".to_owned(), String::new()),
        Answer::Removed { .. } => ("removed".to_owned(), String::new()),
        Answer::Listed(jobs) => (format!("listed {}", jobs.len()), String::new()),
        Answer::Done => ("done".to_owned(), String::new()),
        Answer::Rejected { reason } => ("rejected".to_owned(), reason.clone()),
        Answer::Broken { report, .. } => ("broken".to_owned(), report.clone()),
        Answer::Failed(f) => (format!("{:?} {:?}", f.kind, f.contact), f.reason.clone()),
    }
}

/// Asks, and checks the answer in short and that its reason is one line that names the url.
fn check(client: &Uws, url: &str, action: &Action, expected: &str) -> String {
    let (label, reason) = short(&client.perform(url, action));
    assert_eq!(label, expected, "{action:?}: {reason}");
    assert!(!reason.contains('\n') && reason.len() < 1000, "{reason}");
    assert!(reason.is_empty() || reason.contains("/job") || url.len() > 300, "{reason}");
    assert!(!reason.starts_with(char::is_uppercase), "{reason}");
    reason
}

fn job_id(answer: Answer) -> String {
    match answer {
        Answer::Job(job) => job.job_id.to_string(),
        other => panic!("{other:?}"),
    }
}

fn status_fault(code: u16, content_type: &str, body: &str) -> What {
    What::Status { code, content_type: content_type.to_owned(), body: body.to_owned() }
}

fn quick() -> Options {
    let timing = Timing { pending: 0.15, queued: 0.15, duration: 0.15, ..Timing::default() };
    Options { timing, creation_wait: Duration::from_millis(300), ..Options::default() }
}

#[test]
fn a_put_says_exactly_what_the_python_ocps_says() {
    let (sender, receiver) = mpsc::channel();
    let server = Server::start(0, move |request, connection| {
        sender.send(request.clone()).unwrap();
        http::answer(connection, 500, &[], b"no")?;
        Ok(Then::KeepAlive)
    })
    .unwrap();
    let environment = vec![
        ("PIPELINE_URL", "${CP_PIPE_DIR}/pipelines/Latiss/verifyBias.yaml".to_owned()),
        ("BUTLER_REPO", "/repo/LATISS".to_owned()),
        ("RUN_OPTIONS", "-i LATISS/raw/all,LATISS/calib -c isr:doBias=True".to_owned()),
        ("OUTPUT_GLOB", "*".to_owned()),
        ("DATA_QUERY", "instrument='LATISS' AND physical_filter=\"y\"".to_owned()),
        ("IMAGE_TAG", String::new()),
    ];
    let url = format!("http://{}/api/v1/", server.address());
    check(&client(), &url, &Action::Submit(Arc::new(submission("17-abc", environment))), "Refused Answered");
    let request = receiver.recv().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/api/v1/job"));
    let content_types: Vec<_> = request
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("content-type"))
        .map(|(_, v)| v)
        .collect();
    assert_eq!(content_types, ["application/json"]);
    assert_eq!(request.header("User-Agent"), Some(concat!("ocps/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(request.header("Transfer-Encoding"), None);
    assert_eq!(request.header("Expect"), None);
    let expected = json!({
        "run_id": "17-abc",
        "command": "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh",
        "url": "https://github.com/lsst-dm/uws_scripts",
        "commit_ref": "main",
        "environment": [
            {"name": "PIPELINE_URL", "value": "${CP_PIPE_DIR}/pipelines/Latiss/verifyBias.yaml"},
            {"name": "BUTLER_REPO", "value": "/repo/LATISS"},
            {"name": "RUN_OPTIONS", "value": "-i LATISS/raw/all,LATISS/calib -c isr:doBias=True"},
            {"name": "OUTPUT_GLOB", "value": "*"},
            {"name": "DATA_QUERY", "value": "instrument='LATISS' AND physical_filter=\\\"y\\\""},
            {"name": "IMAGE_TAG", "value": ""},
        ],
    });
    assert_eq!(String::from_utf8(request.body).unwrap(), expected.to_string());

    for action in [status(ID, None), remove(ID), list(&["1-a"])] {
        client().perform(&url, &action);
        let request = receiver.recv().unwrap();
        assert_eq!(request.header("Content-Type"), None, "{action:?}");
        assert_eq!(request.body, b"");
    }
}

#[test]
fn a_job_lives_and_goes() {
    let service = UwsService::start(quick());
    let (client, url) = (client(), service.url());
    let first = submission("1-a", vec![("DATA_QUERY", "dur=600".to_owned())]);
    let first = job_id(client.perform(&url, &Action::Submit(Arc::new(first))));
    check(&client, &url, &status(&first, Some("1-a")), "job Active");
    check(&client, &url, &status(&first, Some("1-b")), "Wrong Answered");
    service.end_jobs();
    let failing = submission("2-a", vec![("RUN_OPTIONS", "please fail".to_owned())]);
    let second = job_id(client.perform(&url, &Action::Submit(Arc::new(failing))));
    check(&client, &url, &list(&["1-a"]), "listed 1");
    check(&client, &url, &list(&["1-a", "2-a", "3-a"]), "listed 2");
    check(&client, &url, &list(&[]), "listed 0");
    let deadline = Instant::now() + Duration::from_secs(30);
    while short(&client.perform(&url, &status(&second, Some("2-a")))).0 == "job Active" {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
    check(&client, &url, &status(&second, None), "job Error");
    let Answer::Job(done) = client.perform(&url, &status(&first, Some("1-a"))) else { panic!() };
    let object: Value = serde_json::from_str(&done.object.0).unwrap();
    assert_eq!(object["phase"], "completed");
    assert_eq!(object["results"][0]["uri"], format!("/uws/jobs/{first}/out/ocps.log"));
    assert!(!done.object.0.contains('\n'));
    check(&client, &url, &remove(&first), "removed");
    check(&client, &url, &remove(&first), "gone");
    check(&client, &url, &status(&first, Some("1-a")), "gone");
    assert_eq!(service.jobs().len(), 1);
    assert_eq!(service.counters().destructive, [""; 0]);
}

#[test]
fn every_value_reaches_the_job_as_written() {
    let service = UwsService::start(Options::default());
    let values = [
        "a'b",
        "{{x}}",
        "#x",
        "a: b",
        "a\tb",
        "  ends  ",
        "é€😀",
        "a\"b",
        r"a\d",
        r"a\b",
        r"C:\temp",
        "a\nb\n\nc",
        "\u{1}\u{7f}\u{85}\u{a0}\u{2028}\u{feff}\u{fffe}",
        "x\"\n          - name: \"INJECTED\"\n            value: \"y",
        "${A}",
        "\\\"",
        "%YAML",
        "--- !!x &a *a | >",
    ];
    let environment: Vec<_> = values.iter().map(|v| ("V", (*v).to_owned())).collect();
    let action = Action::Submit(Arc::new(submission("1-a", environment)));
    check(&client(), &service.url(), &action, "job Active");
    let jobs = service.jobs();
    let arrived = jobs[0].environment.iter().filter(|(name, _)| name == "V");
    assert_eq!(arrived.map(|(_, v)| v.as_deref().unwrap()).collect::<Vec<_>>(), values);
    assert!(jobs[0].environment.iter().all(|(name, _)| name != "INJECTED"));
    assert_eq!(jobs[0].command, "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh");
}

/// Each fault, and what PUT, GET, DELETE and list make of it; empty where it does not apply.
fn faults() -> Vec<(What, [&'static str; 4])> {
    let html = |code| status_fault(code, "text/html; charset=UTF-8", "a proxy says no");
    let done = |code, body: &str| What::DoneThenStatus {
        code,
        content_type: "text/html".to_owned(),
        body: body.to_owned(),
    };
    vec![
        (What::Latency(0.05), ["job Active", "job Active", "removed", "listed 1"]),
        (What::Close, ["Unclear Silent"; 4]),
        (What::Hang(60.0), ["Unclear Silent"; 4]),
        (What::DoneThenClose, ["Unclear Silent"; 4]),
        (What::DoneThenHang(60.0), ["Unclear Silent"; 4]),
        (What::Truncated, ["Unclear Silent", "Unclear Silent", "removed", "Unclear Silent"]),
        (html(400), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(302), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(304), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(201), ["Unclear Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(404), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(500), ["Refused Answered", "Refused Silent", "Unclear Answered", "Refused Silent"]),
        (html(502), ["Unclear Silent", "Refused Silent", "Unclear Silent", "Refused Silent"]),
        (html(503), ["Unclear Silent", "Refused Silent", "Unclear Silent", "Refused Silent"]),
        (html(504), ["Unclear Silent", "Refused Silent", "Unclear Silent", "Refused Silent"]),
        (done(500, "Job creation timed out."), ["Unclear Answered", "", "", ""]),
        (done(500, "(500)\nReason: x\n"), ["Refused Answered", "", "Unclear Answered", ""]),
        (What::NotFoundPage, ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (What::NotJson, ["Unclear Answered", "Wrong Answered", "removed", "Wrong Answered"]),
        (What::EmptyObject, ["Unclear Answered", "Wrong Answered", "removed", "Wrong Answered"]),
        // A PUT's jobId is new to us: nothing to compare it with.
        (What::OtherJobId, ["job Active", "Wrong Answered", "", ""]),
        (What::OtherRunId, ["Unclear Answered", "Wrong Answered", "", ""]),
        (What::NoPhase, ["Unclear Answered", "Wrong Answered", "", ""]),
        (What::HugeBody, ["Unclear Answered", "Wrong Answered", "", ""]),
        (What::FilesGone, ["", "", "Unclear Answered", ""]),
        (What::Stuck, ["", "", "Unclear Answered", ""]),
        (What::ListLag(60.0), ["Unclear Answered", "", "", ""]),
    ]
}

#[test]
fn what_follows_from_each_fault() {
    let patient = client();
    let hasty = Uws::new(&settings(Duration::from_secs(1))).unwrap();
    let service = UwsService::start(quick());
    let url = service.url();
    for (what, expected) in faults() {
        let client = if matches!(what, What::Hang(_) | What::DoneThenHang(_)) { &hasty } else { &patient };
        let job = json!({"run_id": "1-a", "command": "echo 1", "environment": [{"name": "DATA_QUERY", "value": "dur=60"}]});
        for (i, expected) in expected.into_iter().enumerate().filter(|(_, e)| !e.is_empty()) {
            for job in service.jobs() {
                client.perform(&url, &remove(&job.job_id));
            }
            let id = service.add_job(&job);
            let action = [submit("1-a"), status(&id, Some("1-a")), remove(&id), list(&["1-a"])][i].clone();
            let before = service.counters();
            service.inject(Fault { on: On::Any, times: 1, what: what.clone() });
            let started = Instant::now();
            let reason = check(client, &url, &action, expected);
            // Parsing 16 MiB takes a while in a debug build.
            assert!(started.elapsed() < Duration::from_secs(60), "{what:?} {:?}", started.elapsed());
            let after = service.counters();
            let requests = |c: &support::uws_service::Counters| c.puts + c.gets + c.deletes + c.lists;
            assert_eq!(requests(&after), requests(&before) + 1, "{what:?}: sent once");
            if let What::Status { code, body, .. } = &what {
                assert!(
                    reason.contains(&code.to_string()) && (*code == 304 || reason.contains(body)),
                    "{reason}"
                );
            }
        }
    }
}

#[test]
fn a_delete_that_can_never_be_answered_well_is_seen_in_a_get() {
    let service = UwsService::start(Options::default());
    let (client, url) = (client(), service.url());
    let id = job_id(client.perform(&url, &submit("1-a")));
    service.inject(Fault { on: On::Delete, times: 1, what: What::Stuck });
    for _ in 0..3 {
        check(&client, &url, &remove(&id), "Unclear Answered");
    }
    check(&client, &url, &status(&id, Some("1-a")), "gone");
}

#[test]
fn refusals_are_quoted_once_and_in_one_line() {
    let service = UwsService::start(quick());
    let (client, url) = (client(), service.url());
    for (text, shown) in [
        ("'command''command'", "/job answered PUT with 500: 'command'"),
        ("(403)\nReason: Forbidden\n\n", "/job answered PUT with 500: (403) Reason: Forbidden"),
        ("", "/job answered PUT with 500: (no text)"),
    ] {
        service.inject(Fault { on: On::Put, times: 1, what: status_fault(500, "text/html", text) });
        let reason = check(&client, &url, &submit("1-a"), "Refused Answered");
        assert!(reason.ends_with(shown), "{reason}");
    }
    service.inject(Fault {
        on: On::Put,
        times: 1,
        what: status_fault(500, "text/html", &"é".repeat(10_000_000)),
    });
    let reason = check(&client, &url, &submit("1-a"), "Refused Answered");
    assert!(reason.ends_with(&format!("500: {}", "é".repeat(200))), "{reason}");
    service.inject(Fault { on: On::Get, times: 1, what: What::NotJson });
    let reason = check(&client, &url, &status(ID, None), "Wrong Answered");
    assert!(reason.contains("200, but it is no job object") && reason.contains("Please log in"), "{reason}");
}

/// A server that treats each connection as it likes.
fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(connection));
        }
    });
    format!("http://{address}")
}

fn is_whole(request: &str) -> bool {
    request.contains("\r\n\r\n") && (!request.starts_with("PUT") || request.ends_with('}'))
}

/// Reads a request as far as its body can be known to go: all in one piece here.
fn read_some(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let n = connection.read(&mut buffer).unwrap_or(0);
        text.extend_from_slice(&buffer[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if n == 0 || is_whole(&whole) {
            return whole;
        }
    }
}

fn answer_text(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn where_nothing_listens_nothing_was_sent() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let client = client();
    for url in [
        format!("http://{closed}/api"),
        "http://no-such-host.invalid/api".to_owned(),
        "nonsense".to_owned(),
        String::new(),
        "http://".to_owned(),
        "http://a b/".to_owned(),
        "http://[::1/x".to_owned(),
        "http://127.0.0.1:99999".to_owned(),
        "http://127.0.0.1:0".to_owned(),
        "http://:80/".to_owned(),
        "http://%zz/".to_owned(),
        "http://é/".to_owned(),
        "http://[fe80::1%25x]:1/".to_owned(),
        format!("http://{}/", "x".repeat(70_000)),
        "/api/v1".to_owned(),
        "https://:x@:/".to_owned(),
    ] {
        for action in four_actions() {
            let reason = check(&client, &url, &action, "NotSent Silent");
            assert!(reason.starts_with("cannot reach "), "{reason}");
        }
    }
    // Another scheme: the library finds no port for it.
    for action in four_actions() {
        let (label, reason) = short(&client.perform("ftp://127.0.0.1/x", &action));
        assert_eq!(label, "NotSent Silent", "{reason}");
    }
}

/// A listener that takes no more connections, so that the system lets the next ones wait.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 1000, "the system takes any number of connections");
    }
    (listener, waiting)
}

#[test]
fn a_connection_that_does_not_come_about_in_time_sends_nothing() {
    let (listener, waiting) = full_listener();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = Uws::new(&settings(Duration::from_millis(300))).unwrap();
    check(&client, &url, &submit("1-a"), "NotSent Silent");
    drop(waiting);
}

#[test]
fn answers_that_are_no_http_or_have_no_end() {
    let timeout = Duration::from_millis(600);
    let hasty = Uws::new(&settings(timeout)).unwrap();
    let patient = client();
    for (name, answer, drip, expected) in [
        ("nothing", String::new(), false, ["Unclear Silent"; 4]),
        (
            "garbage",
            "SSH-2.0-OpenSSH_9.7\r\n\r\n".to_owned(),
            false,
            ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"],
        ),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-".to_owned(), false, ["Unclear Silent"; 4]),
        (
            "a huge head",
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(100_000)),
            false,
            ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"],
        ),
        ("a slow head", "HTTP/1.1 200 OK\r\nX: ".to_owned(), true, ["Unclear Silent"; 4]),
        (
            "a slow body",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[".to_owned(),
            true,
            ["Unclear Silent", "Unclear Silent", "removed", "Unclear Silent"],
        ),
        (
            "a cut body",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1,".to_owned(),
            false,
            ["Unclear Silent", "Unclear Silent", "removed", "Unclear Silent"],
        ),
        (
            "a cut chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1".to_owned(),
            false,
            ["Unclear Silent", "Unclear Silent", "removed", "Unclear Silent"],
        ),
        (
            "a cut body of unknown length",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1,".to_owned(),
            false,
            ["Unclear Answered", "Wrong Answered", "removed", "Wrong Answered"],
        ),
    ] {
        let url = raw(move |mut connection| {
            read_some(&mut connection);
            let mut alive = connection.write_all(answer.as_bytes()).is_ok();
            while drip && alive {
                thread::sleep(Duration::from_millis(20));
                alive = connection.write_all(b" ").is_ok();
            }
        });
        for (action, expected) in four_actions().iter().zip(expected) {
            // Only what has no end is given up.
            let client = if drip { &hasty } else { &patient };
            let started = Instant::now();
            let (label, reason) = short(&client.perform(&url, action));
            assert_eq!(label, expected, "{name}: {action:?}: {reason}");
            assert!(started.elapsed() < timeout + Duration::from_secs(10), "{name}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn an_endless_answer_ends() {
    let service = UwsService::start(quick());
    let (patient, hasty) = (client(), Uws::new(&settings(Duration::from_secs(2))).unwrap());
    for (action, expected) in four_actions().iter().zip(["Unclear", "Wrong", "Removed", ""]) {
        service.inject(Fault { on: On::Any, times: 1, what: What::EndlessBody });
        // A list may be so long that it is given up first.
        let client = if expected.is_empty() { &hasty } else { &patient };
        let started = Instant::now();
        let answer = client.perform(&service.url(), action);
        assert!(format!("{answer:?}").contains(expected), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "{action:?} {:?}", started.elapsed());
    }
}

#[test]
fn a_kept_connection_that_the_service_closes_is_replaced_before_anything_is_sent() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let (sender, closed) = mpsc::channel();
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        seen.fetch_add(1, Ordering::SeqCst);
        connection.write_all(answer_text("[]").as_bytes()).unwrap();
        drop(connection);
        sender.send(()).unwrap();
    });
    let client = client();
    for _ in 0..5 {
        check(&client, &url, &list(&["1-a"]), "listed 0");
        closed.recv().unwrap();
    }
    assert_eq!(requests.load(Ordering::SeqCst), 5);
}

#[test]
fn a_put_into_a_connection_that_closes_is_not_sent_again() {
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&puts);
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        connection.write_all(answer_text("[]").as_bytes()).unwrap();
        if read_some(&mut connection).starts_with("PUT") {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let client = client();
    check(&client, &url, &list(&["1-a"]), "listed 0");
    check(&client, &url, &submit("1-a"), "Unclear Silent");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(puts.load(Ordering::SeqCst), 1);
}

#[test]
fn connections_are_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let url = raw(move |mut connection| {
        seen.fetch_add(1, Ordering::SeqCst);
        while !read_some(&mut connection).is_empty() {
            connection.write_all(answer_text("[]").as_bytes()).unwrap();
        }
    });
    let different =
        settings::Uws { put_timeout: Duration::from_secs(7), ..settings(Duration::from_secs(10)) };
    let client = Uws::new(&different).unwrap();
    for _ in 0..3 {
        client.perform(&url, &submit("1-a"));
        client.perform(&url, &list(&["1-a"]));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn redirects_are_not_followed() {
    let service = UwsService::start(quick());
    for code in [301, 302, 303, 307, 308] {
        let location = format!("{}/job", service.url());
        let server = Server::start(0, move |_, connection| {
            http::answer(connection, code, &[("Location", &location)], b"elsewhere")?;
            Ok(Then::KeepAlive)
        })
        .unwrap();
        let url = format!("http://{}", server.address());
        for (action, kind) in four_actions().iter().zip(["Refused", "Wrong", "Wrong", "Wrong"]) {
            let reason = check(&client(), &url, action, &format!("{kind} Answered"));
            assert!(reason.contains(&code.to_string()), "{reason}");
        }
    }
    assert_eq!(service.counters(), Default::default());
}

#[test]
fn a_large_list_is_read_and_only_our_jobs_are_kept() {
    let foreign = json!({"jobId": ID, "runId": "9-z", "phase": "completed", "results": [{"id": 0, "uri": "x".repeat(2000)}]});
    let ours = json!({"results": [], "runId": "1-a", "jobId": ID});
    let mut text = vec![foreign.to_string(); 10_000];
    text.insert(7000, ours.to_string());
    let body = format!("[{}]", text.join(",\n"));
    assert!(body.len() > 20_000_000);
    let server = Server::start(0, move |_, connection| {
        http::answer(connection, 200, &[], body.as_bytes())?;
        Ok(Then::KeepAlive)
    })
    .unwrap();
    check(&client(), &format!("http://{}", server.address()), &list(&["1-a"]), "listed 1");
}

/// Everything logged by the test process.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Debug {
            self.0.lock().unwrap().push(format!("{} {}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[test]
fn requests_are_logged_and_credentials_show_nowhere() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let service = UwsService::start(quick());
    let url = service.url().replace("http://", "http://jane:s3cret@");
    let client = client();
    check(&client, &url, &list(&["1-a"]), "listed 0");
    for what in [What::Close, status_fault(500, "text/html", "x"), What::NotJson] {
        for action in four_actions() {
            service.inject(Fault { on: On::Any, times: 1, what: what.clone() });
            let (_, reason) = short(&client.perform(&url, &action));
            assert!(!reason.contains("s3cret") && !reason.contains("jane"), "{reason}");
        }
    }
    service.stop();
    let (_, reason) = short(&client.perform(&url, &submit("1-a")));
    assert!(!reason.contains("s3cret") && !reason.contains("jane"), "{reason}");
    let log = LOG.0.lock().unwrap().join("\n");
    assert!(!log.contains("s3cret"), "{log}");
    let line = format!("ocps::backend::uws GET {}/job: 200 after ", url.replace("jane:s3cret@", ""));
    assert!(log.contains(&line), "{log}");
}

#[test]
fn a_proxy_is_used_only_where_it_is_set() {
    let service = UwsService::start(quick());
    let tunnels = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&tunnels);
    let proxy = raw(move |mut connection| {
        let request = read_some(&mut connection);
        let target = request.split_whitespace().nth(1).unwrap_or_default().to_owned();
        assert!(request.starts_with("CONNECT "), "{request}");
        seen.fetch_add(1, Ordering::SeqCst);
        let mut service = TcpStream::connect(target).unwrap();
        connection.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (mut from, mut to) = (connection.try_clone().unwrap(), service.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut service, &mut connection);
    });
    let with = |proxy: &str| {
        Uws::new(&settings::Uws { proxy: Some(proxy.to_owned()), ..settings(Duration::from_secs(5)) })
    };
    check(&with(&proxy).unwrap(), &service.url(), &list(&["1-a"]), "listed 0");
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);

    let refusing = raw(|mut connection| {
        read_some(&mut connection);
        let _ =
            connection.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    });
    for action in four_actions() {
        check(&with(&refusing).unwrap(), &service.url(), &action, "NotSent Silent");
    }
    for bad in ["", "socks5://x", "http://", "ftp://x", "http://jane:s3cret@", "jane:s3cret@a b"] {
        let Err(reason) = with(bad) else { panic!("{bad} is no proxy") };
        assert!(reason.starts_with("uws.proxy: ") && !reason.contains("s3cret"), "{reason}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn https_without_the_feature_says_so() {
    let service = UwsService::start(quick());
    let url = service.url().replace("http://", "https://");
    for action in four_actions() {
        let reason = check(&client(), &url, &action, "NotSent Silent");
        assert!(reason.contains("built without https"), "{reason}");
    }
}

#[test]
fn a_service_that_comes_back_has_its_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let state = Some(directory.path().join("jobs.json"));
    let timing = Timing { duration: 600.0, ..Timing::default() };
    let service = UwsService::start(Options { state: state.clone(), timing, ..quick() });
    let (client, url) = (client(), service.url());
    let id = job_id(client.perform(&url, &submit("1-a")));
    let stopped = service.stop();
    check(&client, &url, &status(&id, Some("1-a")), "NotSent Silent");
    let service = stopped.restart();
    assert_eq!(service.url(), url);
    check(&client, &url, &status(&id, Some("1-a")), "job Active");
    drop(service);
    let service = UwsService::start(Options { state, ..quick() });
    check(&client, &service.url(), &list(&["1-a"]), "listed 1");
}

#[test]
fn a_service_that_does_one_thing_at_a_time_still_carries_out_what_was_given_up() {
    let service = UwsService::start(Options { serial: true, ..quick() });
    let url = service.url();
    let hasty = Uws::new(&settings(Duration::from_millis(200))).unwrap();
    service.inject(Fault { on: On::Put, times: 1, what: What::Latency(3.0) });
    check(&hasty, &url, &submit("1-a"), "Unclear Silent");
    let started = Instant::now();
    check(&client(), &url, &list(&["1-a"]), "listed 1");
    assert!(started.elapsed() > Duration::from_millis(200), "the list waits behind the PUT");
    assert_eq!(service.counters().jobs["1-a"], 1);
}

/// Pieces of answers, some of them wrong, from which a seeded generator makes more.
const PIECES: [&str; 40] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 103 Hints\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 302 Found\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 404 Not Found\r\n",
    "HTTP/1.1 500 Error\r\n",
    "HTTP/1.1 999 \r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/2 200\r\n",
    "HTTP/1.1 0 x\r\n",
    "HTTP/1.1\r\n",
    "Content-Length: 2\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Content-Length: x\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Type: application/json\r\n",
    "Content-Type: \u{ff}\u{1}\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Location: http://127.0.0.1:1/\r\n",
    "Location: \r\n",
    "Location: ::://\r\n",
    ": x\r\n",
    "x\r\n",
    "\r\n",
    "\n",
    "2\r\n{}\r\n0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "-1\r\n",
    "{}",
    "[]",
    "\"\"",
];

#[test]
fn no_answer_makes_the_client_panic() {
    let next: Arc<Mutex<String>> = Arc::default();
    let answer = Arc::clone(&next);
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        let text = answer.lock().unwrap().clone();
        let _ = connection.write_all(text.as_bytes());
    });
    let client = Uws::new(&settings(Duration::from_secs(2))).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..150 {
        let mut text = rng.choice(&PIECES[..14]).unwrap().to_string();
        for _ in 0..rng.usize(..6) {
            text.push_str(rng.choice(&PIECES).unwrap());
        }
        text.push_str("\r\n");
        text.push_str(PIECES[34 + rng.usize(..6)]);
        *next.lock().unwrap() = text.clone();
        for action in four_actions() {
            let (label, reason) = short(&client.perform(&url, &action));
            assert!(!label.starts_with("NotSent") && !label.starts_with("job"), "{text:?}: {label} {reason}");
        }
    }
}

/// Https, with openssl's server; in a process of its own, since the trusted certificates are an environment variable.
#[cfg(feature = "tls")]
mod tls {
    use std::path::Path;
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::support::port::Port;
    use super::*;

    const CERTIFICATE: &str = "\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = uws
[extensions]
basicConstraints = critical,CA:FALSE
subjectAltName = IP:127.0.0.1
";

    /// Kills openssl at the end.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn make_certificate(directory: &Path) -> bool {
        std::fs::write(directory.join("conf"), CERTIFICATE).unwrap();
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args("-config conf -keyout key.pem -out cert.pem".split(' '))
            .current_dir(directory)
            .output();
        made.is_ok_and(|output| output.status.success())
    }

    /// Answers each request that comes through openssl.
    fn answer_all(mut from: ChildStdout, mut to: ChildStdin) {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            if is_whole(&text) {
                text.clear();
                to.write_all(answer_text("[]").as_bytes()).unwrap();
                to.flush().unwrap();
            }
        }
    }

    #[test]
    fn https_trusts_what_the_system_trusts() {
        if let Ok(url) = std::env::var("OCPS_TEST_TLS") {
            for _ in 0..2 {
                for action in four_actions() {
                    let (label, reason) = short(&client().perform(&url, &action));
                    println!("{label} {reason}");
                }
            }
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        if !make_certificate(directory.path()) {
            println!("skipped: openssl is not there, or cannot make a certificate");
            return;
        }
        let kept = Port::free().unwrap();
        let port = kept.number;
        let mut server = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-cert",
                "cert.pem",
                "-key",
                "key.pem",
                "-accept",
                &format!("127.0.0.1:{port}"),
            ])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (from, to) = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
        let _running = Running(server);
        thread::spawn(move || answer_all(from, to));
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "openssl does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        for trusted in [false, true] {
            let mut same = Command::new(std::env::current_exe().unwrap());
            same.args(["--exact", "tls::https_trusts_what_the_system_trusts", "--nocapture"]);
            same.env("OCPS_TEST_TLS", format!("https://127.0.0.1:{port}"));
            if trusted {
                same.env("SSL_CERT_FILE", directory.path().join("cert.pem"));
            }
            let output = String::from_utf8(same.output().unwrap().stdout).unwrap();
            println!("{output}");
            let listed = output.lines().filter(|l| l.starts_with("listed 0")).count();
            let refused =
                output.lines().filter(|l| l.starts_with("NotSent Silent cannot reach https")).count();
            assert!(!output.contains("no answer"), "{output}");
            assert_eq!((listed, refused), if trusted { (2, 0) } else { (0, 8) }, "{output}");
        }
    }
}
