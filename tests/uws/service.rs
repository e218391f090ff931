//! Against the fake execution service: what is sent, and what follows from each answer.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::csc::request::{Action, Answer, StatusAnswer};
use ocps::url::Url;
use serde_json::{Value, json};

use crate::rig::{
    ID, check, client, job_id, list, quick, remove, settings, short, status, status_fault, submission, submit,
};
use crate::support::http;
use crate::support::http::{Server, Then};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Counters, Options, UwsService};

#[test]
fn a_put_has_the_same_body_as_from_the_python_ocps() {
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
    check(&client(), &url, &Action::Submit(Arc::new(submission("17-abc", environment))), "Unclear Answered");
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
        client().perform(&Url::from(&*url), &action);
        let request = receiver.recv().unwrap();
        assert_eq!(request.header("Content-Type"), None, "{action:?}");
        assert_eq!(request.body, b"");
    }
}

#[test]
fn a_job_is_created_polled_and_removed() {
    let service = UwsService::start(quick());
    let (client, url) = (client(), service.url());
    let first = submission("1-a", vec![("DATA_QUERY", "dur=600".to_owned())]);
    let first = job_id(client.perform(&Url::from(&*url), &Action::Submit(Arc::new(first))));
    check(&client, &url, &status(&first, Some("1-a")), "job Active");
    check(&client, &url, &status(&first, Some("1-b")), "Wrong Answered");
    service.end_jobs();
    let failing = submission("2-a", vec![("RUN_OPTIONS", "please fail".to_owned())]);
    let second = job_id(client.perform(&Url::from(&*url), &Action::Submit(Arc::new(failing))));
    check(&client, &url, &list(&["1-a"]), "listed 1");
    check(&client, &url, &list(&["1-a", "2-a", "3-a"]), "listed 2");
    check(&client, &url, &list(&[]), "listed 0");
    let deadline = Instant::now() + Duration::from_secs(30);
    while short(&client.perform(&Url::from(&*url), &status(&second, Some("2-a")))).0 == "job Active" {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
    check(&client, &url, &status(&second, None), "job Error");
    let Answer::Status(Ok(StatusAnswer::Job(done))) =
        client.perform(&Url::from(&*url), &status(&first, Some("1-a")))
    else {
        panic!()
    };
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
        (What::Truncated, ["Unclear Silent"; 4]),
        (html(400), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(302), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(304), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(201), ["Unclear Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(404), ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (html(500), ["Unclear Answered", "Refused Silent", "Unclear Answered", "Refused Silent"]),
        (html(429), ["NotNow Silent"; 4]),
        (html(502), ["Unclear Silent", "NotNow Silent", "Unclear Silent", "NotNow Silent"]),
        (html(503), ["Unclear Silent", "NotNow Silent", "Unclear Silent", "NotNow Silent"]),
        (html(504), ["Unclear Silent", "NotNow Silent", "Unclear Silent", "NotNow Silent"]),
        (done(500, "Job creation timed out."), ["Unclear Answered", "", "", ""]),
        (done(500, "(500)\nReason: x\n"), ["Unclear Answered", "", "Unclear Answered", ""]),
        (What::NotFoundPage, ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"]),
        (What::NotJson, ["Unclear Silent", "NotNow Silent", "Unclear Silent", "NotNow Silent"]),
        (What::EmptyObject, ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"]),
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
    let hasty = Uws::new(&settings(Duration::from_millis(300))).unwrap();
    let service = UwsService::start(quick());
    let url = service.url();
    for (what, expected) in faults() {
        let client = if matches!(what, What::Hang(_) | What::DoneThenHang(_)) { &hasty } else { &patient };
        let job = json!({"run_id": "1-a", "command": "echo 1", "environment": [{"name": "DATA_QUERY", "value": "dur=60"}]});
        for (i, expected) in expected.into_iter().enumerate().filter(|(_, e)| !e.is_empty()) {
            for job in service.jobs() {
                client.perform(&Url::from(&*url), &remove(&job.job_id));
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
            let requests = |c: &Counters| c.puts + c.gets + c.deletes + c.lists;
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
    let id = job_id(client.perform(&Url::from(&*url), &submit("1-a")));
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
    for (text, expected, shown) in [
        ("'command''command'", "Unclear Answered", "/job answered PUT with 500: 'command'"),
        (
            "(403)\nReason: Forbidden\n\n",
            "Refused Answered",
            "/job answered PUT with 500: (403) Reason: Forbidden",
        ),
        ("", "Unclear Answered", "/job answered PUT with 500: (no text)"),
    ] {
        service.inject(Fault { on: On::Put, times: 1, what: status_fault(500, "text/html", text) });
        let reason = check(&client, &url, &submit("1-a"), expected);
        assert!(reason.ends_with(shown), "{reason}");
    }
    service.inject(Fault {
        on: On::Put,
        times: 1,
        what: status_fault(500, "text/html", &"é".repeat(10_000_000)),
    });
    let reason = check(&client, &url, &submit("1-a"), "Unclear Answered");
    assert!(reason.ends_with(&format!("500: {}", "é".repeat(300))), "{reason}");
    service.inject(Fault { on: On::Get, times: 1, what: What::NotJson });
    let reason = check(&client, &url, &status(ID, None), "NotNow Silent");
    assert!(reason.ends_with("200: <html><body>Please log in</body></html>"), "{reason}");
}

#[test]
fn a_service_that_comes_back_has_its_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let state = Some(directory.path().join("jobs.json"));
    let timing = Timing { duration: 600.0, ..Timing::default() };
    let service = UwsService::start(Options { state: state.clone(), timing, ..quick() });
    let (client, url) = (client(), service.url());
    let id = job_id(client.perform(&Url::from(&*url), &submit("1-a")));
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
fn a_serial_service_still_carries_out_a_request_that_timed_out() {
    let service = UwsService::start(Options { serial: true, ..quick() });
    let url = service.url();
    let hasty = Uws::new(&settings(Duration::from_millis(200))).unwrap();
    service.inject(Fault { on: On::Put, times: 1, what: What::Latency(1.5) });
    check(&hasty, &url, &submit("1-a"), "Unclear Silent");
    let started = Instant::now();
    check(&client(), &url, &list(&["1-a"]), "listed 1");
    assert!(started.elapsed() > Duration::from_millis(200), "the list waits behind the PUT");
    assert_eq!(service.counters().jobs["1-a"], 1);
}

#[test]
fn a_ping_asks_for_no_job_and_shows_only_whether_a_service_answers() {
    let service = UwsService::start(Options::default());
    check(&client(), &service.url(), &Action::Ping, "done");
    assert_eq!(service.counters(), Counters { probes: 1, max_concurrency: 1, ..Counters::default() });
    // Something else answers there.
    let wrong = service.url().replace("/api/v1", "/api/v2");
    let reason = check(&client(), &wrong, &Action::Ping, "Wrong Answered");
    assert!(reason.contains("is the url right?"), "{reason}");
    service.inject(Fault { on: On::Any, times: 0, what: status_fault(503, "text/plain", "down") });
    check(&client(), &service.url(), &Action::Ping, "NotNow Silent");
    let url = service.url();
    let _stopped = service.stop();
    check(&client(), &url, &Action::Ping, "NotSent Silent");
}

#[test]
fn the_list_has_a_limit_of_its_own() {
    let service = UwsService::start(quick());
    let timeout = Duration::from_millis(300);
    let settings = settings::Uws { list_timeout: Duration::from_secs(60), ..settings(timeout) };
    let client = Uws::new(&settings).unwrap();
    for on in [On::Get, On::List] {
        service.inject(Fault { on, times: 1, what: What::Latency(0.8) });
    }
    check(&client, &service.url(), &status(ID, None), "Unclear Silent");
    check(&client, &service.url(), &list(&["1-a"]), "listed 0");
}
