//! The UWS back-end against the genuine uws-api-server, and the fake service compared with it.
//!
//! `make test-genuine` runs it. It needs:
//!
//! * `UWS_SERVER_DIR`: the folder `server/` of lsst-dm/uws-api-server, unpacked somewhere;
//! * `UWS_RUNNER`: a Python program that runs it on 127.0.0.1 with a stand-in for Kubernetes, and takes
//!   `UWS_PORT`, `UWS_DIR` (where the job files go) and `K8S_PENDING`, `K8S_QUEUED` (seconds);
//! * `UWS_PYTHON`: a Python with tornado 6.3, pyyaml and jinja2; by default `python3`.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::print_stderr, clippy::wildcard_enum_match_arm, reason = "a failure ends the test")]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings::Settings;
use ocps::csc::event::Phase;
use ocps::csc::id::RunId;
use ocps::csc::request::{FailureKind, JobStatus, RemoveAnswer, StatusAnswer, Submission, Wanted};
use ocps::url::Url;
use serde_json::{Value, json};

use support::uws_job::Timing;
use support::uws_service::{Options, UwsService};

/// The genuine service, running; stops when dropped.
struct Genuine {
    child: Child,
    url: String,
    /// Where it keeps the files of its jobs.
    jobs: PathBuf,
    _sandbox: tempfile::TempDir,
}

impl Genuine {
    fn start() -> Self {
        let (Some(_), Some(runner)) = (std::env::var_os("UWS_SERVER_DIR"), std::env::var_os("UWS_RUNNER"))
        else {
            panic!("UWS_SERVER_DIR and UWS_RUNNER are not set (see the top of tests/genuine.rs)");
        };
        let python = std::env::var_os("UWS_PYTHON").unwrap_or_else(|| "python3".into());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let sandbox = tempfile::tempdir().unwrap();
        let child = Command::new(python)
            .arg(runner)
            .env("UWS_PORT", port.to_string())
            .env("UWS_DIR", sandbox.path())
            .env("UWS_LOG", "critical")
            .envs([("K8S_PENDING", "0.1"), ("K8S_QUEUED", "0.1")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let jobs = sandbox.path().canonicalize().unwrap().join("cluster/pv/data/uws/jobs");
        let genuine = Self { child, url: format!("http://127.0.0.1:{port}/api/v1"), jobs, _sandbox: sandbox };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "the genuine service does not start");
            thread::sleep(Duration::from_millis(50));
        }
        genuine
    }
}

impl Drop for Genuine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> Uws {
    Uws::new(&Settings::default().uws).unwrap()
}

fn submit(client: &Uws, url: &str, run_id: &str, values: &[String]) -> JobStatus {
    let submission = Submission {
        run_id: RunId::parse(run_id).unwrap(),
        command: "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh".to_owned(),
        source_url: "https://github.com/lsst-dm/uws_scripts".to_owned(),
        commit_ref: "main".to_owned(),
        environment: values.iter().map(|v| ("DATA_QUERY".into(), v.clone())).collect(),
        pipeline: String::new(),
    };
    client.submit(&url.into(), &submission).unwrap()
}

/// Submits a job and follows it to its end, from where on its object is kept.
fn run(client: &Uws, url: &str, run_id: &str, values: &[String]) -> JobStatus {
    let mut job = submit(client, url, run_id, values);
    let deadline = Instant::now() + Duration::from_secs(20);
    while job.phase.exit_code().is_none() {
        assert!(Instant::now() < deadline, "it does not end: {job:?}");
        thread::sleep(Duration::from_millis(50));
        job = status(client, url, run_id, &job);
    }
    job
}

fn status(client: &Uws, url: &str, run_id: &str, known: &JobStatus) -> JobStatus {
    match client.status(&Url::from(url), &known.job_id, RunId::parse(run_id).as_ref()).unwrap() {
        StatusAnswer::Job(job) => job,
        other => panic!("{other:?}"),
    }
}

/// Every character up to U+FFFF, in pieces, the texts that break a job when they are sent raw, and how long it takes.
fn hostile_values() -> Vec<String> {
    let characters: Vec<char> = (0..=0xffff).filter_map(char::from_u32).collect();
    let mut values: Vec<String> = characters.chunks(8192).map(|c| c.iter().collect()).collect();
    let texts = [
        "a\"b",
        r"a\d",
        "a\n\nb",
        "x\"\n          - name: \"INJECTED\"\n            value: \"y",
        "{{x}}{%",
        "😀",
        "dur=0.2",
    ];
    values.extend(texts.map(str::to_owned));
    values
}

/// The values of DATA_QUERY in the job object.
fn arrived(job: &JobStatus) -> Vec<String> {
    let object: Value = serde_json::from_str(&job.object.0).unwrap();
    let environment = object["parameters"]["environment"].as_array().unwrap();
    assert!(environment.iter().all(|v| v["name"] != "INJECTED"));
    let values = environment.iter().filter(|v| v["name"] == "DATA_QUERY");
    values.map(|v| v["value"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
#[ignore = "needs the genuine service: make test-genuine"]
fn the_client_and_the_genuine_service_understand_each_other() {
    let genuine = Genuine::start();
    let (client, url) = (client(), genuine.url.as_str());
    let values = hostile_values();
    let first = run(&client, url, "1-a", &values);
    let fake = UwsService::start(Options::default());
    let same = run(&client, &fake.url(), "1-a", &values);
    for (values, job) in [(&values, &first), (&values, &same)] {
        let arrived = arrived(job);
        assert_eq!(arrived.len(), values.len());
        for (value, arrived) in values.iter().zip(arrived) {
            let wrong = value.chars().zip(arrived.chars()).find(|(a, b)| a != b);
            assert!(*value == arrived, "{wrong:?}");
        }
    }

    let run_id = RunId::parse("1-a");
    let base = Url::from(url);
    // A result file whose name is not UTF-8: the service writes a lone surrogate.
    let out = genuine.jobs.join(first.job_id.as_str()).join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join(Path::new(OsStr::from_bytes(b"x\xff.fits"))), "").unwrap();
    let seen = status(&client, url, "1-a", &first);
    assert!(seen.object.0.contains("x\u{fffd}.fits"), "{}", seen.object.0);
    let run_ids: BTreeSet<RunId> = run_id.iter().cloned().collect();
    let wanted = Wanted { run_ids: run_ids.into(), ..Wanted::default() };
    assert_eq!(client.list(&base, &wanted).unwrap().jobs.len(), 1);

    let remove = || client.remove(&base, &first.job_id).unwrap();
    assert_eq!(remove(), RemoveAnswer::Removed { object: None });
    assert_eq!(remove(), RemoveAnswer::Gone);
    assert_eq!(client.status(&base, &first.job_id, run_id.as_ref()), Ok(StatusAnswer::Gone));
    assert_eq!(client.ping(&base), Ok(()));
    assert!(!out.exists());

    let quick = run(&client, url, "1-a", &["dur=0.2 fail".to_owned()]);
    assert_eq!(quick.phase, Phase::Error);
    // A wrong base URL is no missing job.
    let wrong = client.status(&Url::from(&*url.replace("/v1", "/v2")), &quick.job_id, None);
    assert_eq!(wrong.unwrap_err().kind, FailureKind::Wrong);
}

/// One request: method, path below the base URL (`{id}` is a job that runs, `{gone}` a deleted one),
/// Content-Type, body.
type Asked = (&'static str, &'static str, &'static str, Value);

const J: &str = "application/json";

fn puts() -> Vec<Asked> {
    let put = |body: Value| ("PUT", "/job", J, body);
    let run_id = |id: &str| put(json!({"command": "true", "run_id": id}));
    let with = |environment: Value| put(json!({"command": "echo 1", "environment": environment}));
    let value = |value: &str| with(json!([{"name": "V", "value": value}]));
    vec![
        put(json!({"command": "echo 1", "run_id": "1-a"})),
        run_id(""),
        run_id("a b"),
        run_id("a/b"),
        run_id("é"),
        run_id("-a"),
        run_id(".a"),
        run_id("a-"),
        put(json!({"command": "echo 1", "run_id": "x".repeat(63)})),
        put(json!({"command": "echo 1", "run_id": "x".repeat(64)})),
        put(json!({"command": "echo 1", "run_id": null})),
        put(json!({"command": "echo 1", "run_id": 7})),
        put(json!({"run_id": "1-a"})),
        put(json!([1])),
        ("PUT", "/job", "application/json; charset=utf-8", json!({"command": "echo 1"})),
        ("PUT", "/job", "Application/JSON", json!({"command": "echo 1"})),
        ("PUT", "/job/", J, json!({"command": "echo 1"})),
        with(Value::Null),
        with(json!("x")),
        with(json!([{"value": "x"}])),
        with(json!([{"name": "V"}])),
        with(json!([{"name": "V", "value": 5}, {"name": "W", "value": true}, {"name": "X", "value": null}])),
        with(json!([{"name": "V", "value": "1"}, {"name": "V", "value": "2"}])),
        value(""),
        value("a'b {{x}} #x a: b é€😀"),
        value("a\"b"),
        value("a\\d"),
        value("a\\b"),
        value("a\nb"),
        value("a\n\nb"),
        value("a\u{1}b"),
        value("a\u{7f}b"),
        value("a\\\"b\\\\d\\n\\u0001"),
        value("x\"\n          - name: \"INJECTED\"\n            value: \"y"),
        with(json!([{"name": "UWS_JOB_IMAGE_TAG", "value": ""}])),
        with(json!([{"name": "UWS_JOB_IMAGE_TAG", "value": " "}])),
        with(json!([{"name": "UWS_JOB_IMAGE_TAG", "value": "w_2025_20"}])),
        put(json!({"command": "echo 1", "url": null})),
        put(json!({"command": "echo 1", "url": "https://x/y", "commit_ref": "main"})),
        put(json!({"command": "a # c"})),
        put(json!({"command": "true"})),
        put(json!({"command": "12"})),
        put(json!({"command": "echo a: b"})),
        put(json!({"command": "@x"})),
        put(json!({"command": ""})),
    ]
}

fn others() -> Vec<Asked> {
    let get = |path| ("GET", path, "", Value::Null);
    let delete = |path| ("DELETE", path, "", Value::Null);
    vec![
        get("/job/{id}"),
        get("/job/{id}/phase"),
        get("/job/{id}/results"),
        get("/job/{id}/parameters"),
        get("/job/{id}/bogus"),
        get("/job/{id}/"),
        get("/job/{id}%20"),
        get("/job/result/{id}/0"),
        get("/job/result/{id}/1"),
        get("/job/result/{id}/-1"),
        get("/job/result/{id}/-2"),
        get("/job/result/{id}/x"),
        get("/job/result/{id}/ocps.log"),
        get("/job/result/{id}/0/0"),
        get("/job/result/{id}/"),
        get("/job/result/{gone}/0"),
        get("/job/{gone}/results"),
        get("/job/{gone}"),
        get("/job/{gone}/phase"),
        get("/job/0123456789ABCDEF0123456789ABCDEF"),
        get("/job/..%2F..%2Fx"),
        get("/job/a%20b"),
        get("/job/%FF"),
        ("GET", "/job/{id}", J, Value::Null),
        ("GET", "/job", J, Value::Null),
        get("/job?phase=held"),
        get("/job?phase=bogus"),
        get("/nowhere"),
        get("//job"),
        delete("/job/{gone}"),
        delete("/job/x%2Fphase"),
        delete("/job/a%20b"),
        delete("/job/x/phase"),
        delete("/job"),
        ("POST", "/job", J, json!({})),
        ("HEAD", "/job", "", Value::Null),
        ("OPTIONS", "/job", "", Value::Null),
        delete("/job/{id}"),
        delete("/job/{id}"),
        get("/job/{id}"),
    ]
}

/// A text without what may differ: other texts than the fixed ones are compared by kind.
fn shape_of_text(text: &str) -> Value {
    if text.starts_with("Traceback") {
        return json!("traceback");
    }
    if text.starts_with("job ") {
        return json!("log");
    }
    if text.starts_with('(') {
        return json!(text.chars().take(5).collect::<String>());
    }
    let yaml = [
        "while ",
        "unacceptable",
        "mapping values",
        "found ",
        "could not find",
        "control characters",
        " at line ",
    ];
    if yaml.iter().any(|start| text.contains(start)) {
        return json!("not YAML");
    }
    json!(text)
}

/// JSON without what differs from job to job.
fn shape_of_json(value: Value, ids: &[String]) -> Value {
    match value {
        Value::String(text) => {
            let named = ids.iter().fold(text, |t, id| t.replace(id, "{id}"));
            let own = named.len() == 32 && named.bytes().all(|b| b.is_ascii_hexdigit());
            let time = named.ends_with("+00:00");
            match () {
                () if own => json!("{id}"),
                () if time => json!("{time}"),
                () => match named.split_once("/jobs/") {
                    Some((_, path)) => json!(path.chars().skip_while(|c| *c != '/').collect::<String>()),
                    None => json!(named),
                },
            }
        }
        Value::Array(values) => values.into_iter().map(|v| shape_of_json(v, ids)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, shape_of_json(v, ids))).collect(),
        other => other,
    }
}

fn ask(base: &str, ids: &[String], asked: &Asked) -> Value {
    let (method, path, content_type, body) = asked;
    let path = path.replace("{id}", &ids[0]).replace("{gone}", &ids[1]);
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0).build();
    let mut request = ureq::http::Request::builder().method(*method).uri(format!("{base}{path}"));
    if !content_type.is_empty() {
        request = request.header("Content-Type", *content_type);
    }
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let agent = config.new_agent();
    let response = if body.is_empty() {
        agent.run(request.body(()).unwrap())
    } else {
        agent.run(request.body(body).unwrap())
    };
    let mut response = response.unwrap_or_else(|e| panic!("{asked:?}: {e}"));
    let types = response.headers().get_all("Content-Type").iter();
    let content_type =
        types.map(|v| v.to_str().unwrap().to_owned()).reduce(|first, next| format!("{first}, {next}"));
    let text = response.body_mut().read_to_string().unwrap();
    let shape = match (content_type.as_deref(), serde_json::from_str(&text)) {
        (Some("application/json"), Ok(json)) => shape_of_json(json, ids),
        _ => shape_of_text(&text),
    };
    // What belongs to no body.
    let content_type = content_type.filter(|_| response.status() != 204);
    json!([response.status().as_u16(), content_type, shape])
}

/// Makes a running and a deleted job.
fn prepare(url: &str) -> Vec<String> {
    let client = client();
    let ids = ["1-a", "2-b"].map(|run_id| submit(&client, url, run_id, &["dur=600".to_owned()]).job_id);
    assert_eq!(client.remove(&url.into(), &ids[1]), Ok(RemoveAnswer::Removed { object: None }));
    // The log file appears when the job starts.
    thread::sleep(Duration::from_millis(600));
    ids.iter().map(ToString::to_string).collect()
}

#[test]
#[ignore = "needs the genuine service: make test-genuine"]
fn the_fake_answers_like_the_genuine_service() {
    let genuine = Genuine::start();
    let timing = Timing { pending: 0.1, queued: 0.1, ..Timing::default() };
    let fake = UwsService::start(Options { timing, ..Options::default() });
    let (genuine_ids, fake_ids) = (prepare(&genuine.url), prepare(&fake.url()));
    let mut different = Vec::new();
    let requests = [puts(), others()].concat();
    for asked in &requests {
        let (expected, got) = (ask(&genuine.url, &genuine_ids, asked), ask(&fake.url(), &fake_ids, asked));
        if expected != got {
            different.push(format!("{asked:?}\n  genuine {expected}\n  fake    {got}"));
        }
    }
    eprintln!("{} requests compared", requests.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}
