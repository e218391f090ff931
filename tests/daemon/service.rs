//! Jobs at the execution service.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Daemon, Home, eventually};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};
use rustix::process::{Pid, Signal, kill_process};

/// Short enough for tests; the order of the times is that of the defaults.
const TOML: &str = "[uws]\nsettle_time_s = 1\nsubmit_timeout_s = 20\nput_timeout_s = 3\nget_timeout_s = 3\n\
                    delete_timeout_s = 3\n";

fn timing(duration: f64) -> Timing {
    Timing { pending: 0.1, queued: 0.1, duration, ..Timing::default() }
}

/// A service whose jobs take so many seconds, and an enabled daemon for it.
fn with_service(duration: f64) -> (UwsService, Home, Daemon) {
    let service = UwsService::start(Options { timing: timing(duration), ..Options::default() });
    let home = Home::for_service(&service.url(), 0.2, TOML);
    let daemon = home.start(&["1", "--state", "enabled"]);
    (service, home, daemon)
}

fn result_of(client: &mut Client, job_id: &str) -> (i64, Value) {
    let data = client.job_result(job_id);
    let result = serde_json::from_str(data["result"].as_str().unwrap()).unwrap();
    (data["exit_code"].as_i64().unwrap(), result)
}

/// Each run id has exactly one job.
fn assert_no_doubles(service: &UwsService, jobs: usize) {
    let counters = service.counters();
    assert_eq!(counters.jobs.len(), jobs, "{counters:?}");
    assert!(counters.jobs.values().all(|count| *count == 1), "{counters:?}");
    assert!(counters.destructive.is_empty(), "{counters:?}");
}

#[test]
fn an_execute_is_the_documented_put_and_ends_with_the_final_job_object() {
    let service = UwsService::start(Options { timing: timing(1.8), ..Options::default() });
    let home = Home::with_toml(TOML);
    let instances = format!(
        "instances:\n  - {{sal_index: 2, instance: LSSTComCam, url: 'http://other/', poll_interval: 1, butler: x, \
         output_glob: x}}\n  - sal_index: 1\n    instance: LATISS\n    url: {}/\n    poll_interval: 0.2\n    \
         butler: s3://butler\n    output_glob: '*'\n    input_collection: LATISS/defaults\n",
        service.url()
    );
    home.write("configuration/_init.yaml", &instances);
    let daemon = home.start(&["1", "--state", "enabled"]);
    let sent = home.client(&[
        "send",
        "execute",
        "pipeline=${CP_PIPE_DIR}/pipelines/cpBias.yaml",
        "version=w_2026_40",
        "config=-c isr:doDark=False -c x:y='a \"b\" \\c'",
        "data_query=exposure in (2026111500001..2026111500010) and detector=0",
        "output_dataset_types=bias,dark",
        "--json",
    ]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let puts = service.puts();
    let [put] = puts.as_slice() else { panic!("{puts:?}") };
    let run_id = put["run_id"].as_str().unwrap();
    assert!(run_id.starts_with("1-") && run_id.len() > 12, "{run_id}");
    let expected = json!({
        "run_id": run_id,
        "command": "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh",
        "url": "https://github.com/lsst-dm/uws_scripts",
        "commit_ref": "main",
        "environment": [
            {"name": "IMAGE_TAG", "value": "w_2026_40"},
            {"name": "PIPELINE_URL", "value": "${CP_PIPE_DIR}/pipelines/cpBias.yaml"},
            {"name": "BUTLER_REPO", "value": "s3://butler"},
            {"name": "RUN_OPTIONS", "value": "-i LATISS/defaults -c isr:doDark=False -c x:y='a \\\"b\\\" \\\\c'"},
            {"name": "OUTPUT_GLOB", "value": "bias,dark"},
            {"name": "DATA_QUERY", "value": "exposure in (2026111500001..2026111500010) and detector=0"},
            {"name": "EUPS_TAG", "value": "w_2026_40"},
        ],
    });
    assert_eq!(*put, expected, "{put:#}");
    let lines: Vec<Value> = sent.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [progress, result, complete] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!((&progress["ack"]["ack"], &complete["ack"]["ack"]), (&json!(301), &json!(303)));
    let object: Value = serde_json::from_str(result["event"]["data"]["result"].as_str().unwrap()).unwrap();
    let job = service.jobs().remove(0);
    let end = Value::Object(job.object(job.created + 60.0));
    assert_eq!(object, end, "the result is the final job object");
    assert_eq!((&object["phase"], &object["runId"]), (&json!("completed"), &json!(run_id)));
    // The job runs for 2 s and is polled every 0.2 s, or less often when the machine is busy.
    let gets = service.counters().gets;
    assert!((2..=11).contains(&gets), "{gets}");
    drop(daemon);
}

#[test]
fn with_the_flat_configuration_nothing_is_sent_that_is_not_there() {
    let (service, _home, daemon) = with_service(0.1);
    let mut client = daemon.connect();
    assert_eq!(client.run("execute", &json!({"pipeline": "p.yaml", "config": "-c a"})), "CMD_COMPLETE Done");
    let environment = json!([
        {"name": "IMAGE_TAG", "value": ""},
        {"name": "PIPELINE_URL", "value": "p.yaml"},
        {"name": "RUN_OPTIONS", "value": "-c a"},
        {"name": "OUTPUT_GLOB", "value": "*"},
        {"name": "DATA_QUERY", "value": ""},
    ]);
    assert_eq!(service.puts()[0]["environment"], environment);
}

#[test]
fn a_job_that_fails_completes_its_command() {
    let (_service, _home, daemon) = with_service(0.1);
    let mut client = daemon.subscribe();
    let seq = client.send("execute", &json!({"pipeline": "p.yaml", "data_query": "fail"}));
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    let job_id = client.job_id(seq);
    let (exit_code, result) = result_of(&mut client, &job_id);
    assert_eq!((exit_code, &result["phase"], &result["endTime"]), (1, &json!("error"), &Value::Null));
}

#[test]
fn an_abort_removes_the_job() {
    let (service, _home, daemon) = with_service(3600.0);
    let mut client = daemon.subscribe();
    client.forget();
    let execute = client.execute("p.yaml");
    let job_id = client.job_id(execute);
    assert_eq!(client.run("abort_job", &json!({ "job_id": job_id })), "CMD_COMPLETE Done");
    assert_eq!(
        client.story()[2..],
        [
            concat!(
                r#"job_result {"job_id":"J1","exit_code":255,"#,
                r#""result":"{\"jobId\":\"J1\",\"runId\":\"R1\",\"phase\":\"aborted\"}"}"#
            ),
            "ack 1 CMD_ABORTED 1 Aborted 0.0",
            "ack 2 CMD_COMPLETE 0 Done 0.0",
        ]
    );
    assert!(service.jobs().is_empty());
    let unknown = format!("CMD_FAILED Failed: No such job: {job_id}");
    assert_eq!(client.run("abort_job", &json!({ "job_id": job_id })), unknown);
    assert_eq!(service.counters().deletes, 2);
}

#[test]
fn an_abort_whose_answer_is_lost_is_confirmed() {
    let (service, _home, daemon) = with_service(3600.0);
    let mut client = daemon.subscribe();
    let execute = client.execute("p.yaml");
    let job_id = client.job_id(execute);
    service.inject(Fault { on: On::Delete, times: 1, what: What::DoneThenClose });
    assert_eq!(client.run("abort_job", &json!({ "job_id": job_id })), "CMD_COMPLETE Done");
    assert_eq!(client.final_ack(execute), "CMD_ABORTED Aborted");
    assert_eq!(result_of(&mut client, &job_id).0, 255);
}

#[test]
fn malformed_ids_make_no_request() {
    let (service, _home, daemon) = with_service(0.1);
    let mut client = daemon.connect();
    for id in ["../x", "", "..", "a/b", "%2e%2e", "-a", "a\u{e9}", &"a".repeat(64)] {
        for (command, params) in [
            ("abort_job", json!({ "job_id": id })),
            ("execute", json!({ "pipeline": "p.yaml", "prereq_jobs": format!("x{id},{id}x/") })),
        ] {
            let ack = client.run(command, &params);
            assert!(ack.starts_with("CMD_FAILED Failed: Invalid job id: "), "{id:?}: {ack}");
            assert!(!ack.contains('\n'));
        }
    }
    let counters = service.counters();
    assert_eq!(
        (counters.puts, counters.gets, counters.deletes, counters.others),
        (0, 0, 0, 0),
        "{counters:?}"
    );
}

#[test]
fn an_execute_waits_for_its_prerequisites() {
    let (service, _home, daemon) = with_service(600.0);
    let mut client = daemon.subscribe();
    let first = client.execute("first.yaml");
    let own = client.job_id(first);
    service.end_jobs();
    let foreign =
        service.add_job(&json!({"command": "x", "run_id": "foreign", "url": "u", "commit_ref": "c"}));
    let prereqs = format!("{own}, {foreign},,gone");
    let second = client.send("execute", &json!({"pipeline": "second.yaml", "prereq_jobs": prereqs}));
    assert_eq!(client.final_ack(first), "CMD_COMPLETE Done");
    let gets = service.counters().gets;
    eventually("the other one is asked for again and again", || service.counters().gets >= gets + 3);
    client.query("status");
    let acked = |line: &&Value| line["ack"]["seq"] == second;
    assert_eq!(client.received.iter().filter(acked).count(), 0, "no ack before the job exists");
    assert_eq!(service.counters().puts, 1);
    service.end_jobs();
    client.job_id(second);
    service.end_jobs();
    assert_eq!(client.final_ack(second), "CMD_COMPLETE Done");
    eventually("it is logged", || daemon.stderr().contains("prerequisite job gone does not exist"));
    assert_eq!(service.counters().puts, 2);
}

#[test]
fn a_wrong_base_url_fails_the_execute_and_ends_no_job() {
    let service = UwsService::start(Options { timing: timing(0.1), ..Options::default() });
    let url = service.url().replace("/api/v1", "/api/v2");
    let home = Home::for_service(&url, 0.2, "[uws]\nsettle_time_s = 0.5\nsubmit_timeout_s = 1\n");
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.subscribe();
    let ack = client.run("execute", &json!({"pipeline": "p.yaml"}));
    assert!(
        ack.starts_with("CMD_FAILED Failed: ") && ack.contains("404") && ack.contains("/api/v2"),
        "{ack}"
    );
    assert!(!ack.contains('\n'), "{ack}");
    assert!(service.jobs().is_empty());
    // An unclear abort is not believed to have worked: the page of a proxy is no proof.
    let abort = client.send("abort_job", &json!({"job_id": "abc"}));
    client.find("in progress", |line| line["ack"]["seq"] == abort && line["ack"]["ack"] == 301);
    assert_eq!(client.query("status")["state"], "ENABLED");
}

#[test]
fn an_unclear_submission_makes_one_job() {
    let timed_out = What::DoneThenStatus {
        code: 500,
        content_type: "text/html".to_owned(),
        body: "Job creation timed out.".to_owned(),
    };
    for what in [timed_out, What::DoneThenClose, What::Close, What::NotJson, What::EmptyObject] {
        let (service, _home, daemon) = with_service(0.1);
        let shown = format!("{what:?}");
        service.inject(Fault { on: On::Put, times: 1, what });
        let mut client = daemon.subscribe();
        let seq = client.execute("p.yaml");
        assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done", "{shown}");
        let job_id = client.job_id(seq);
        assert_eq!(result_of(&mut client, &job_id).0, 0, "{shown}");
        assert_no_doubles(&service, 1);
    }
}

#[test]
fn a_restart_of_the_service_between_put_and_answer_is_survived() {
    let (service, _home, daemon) = with_service(1.5);
    service.inject(Fault { on: On::Put, times: 1, what: What::DoneThenHang(60.0) });
    let mut client = daemon.subscribe();
    let seq = client.execute("p.yaml");
    eventually("the job is there", || service.jobs().len() == 1);
    let stopped = service.stop();
    std::thread::sleep(Duration::from_millis(700));
    let service = stopped.restart();
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    assert_no_doubles(&service, 1);
}

#[test]
fn a_new_configuration_changes_the_polls_but_not_the_address_of_running_jobs() {
    let (service, home, daemon) = with_service(2.0);
    let mut client = daemon.subscribe();
    let seq = client.execute("p.yaml");
    let job_id = client.job_id(seq);
    for command in ["disable", "standby"] {
        assert_eq!(client.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    home.write("configuration/other.yaml", "url: http://127.0.0.1:9/other\npoll_interval: 0.1\n");
    assert_eq!(client.run("start", &json!({"configurationOverride": "other.yaml"})), "CMD_COMPLETE Done");
    assert_eq!(client.event("configurationApplied")["configurations"], "_init.yaml");
    assert_eq!(result_of(&mut client, &job_id).0, 0);
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    assert_eq!(client.query("status")["state"], "DISABLED");
    drop(service);
}

#[test]
fn status_shows_whether_the_service_answers_although_no_job_runs() {
    let service = UwsService::start(Options::default());
    let home = Home::for_service(&service.url(), 0.2, "");
    let daemon = home.start(&["1"]);
    let mut client = daemon.connect();
    assert_eq!(client.query("status")["service"]["reachable"], Value::Null);
    let shown = || home.client(&["status"]).stdout;
    assert!(shown().contains("service        none configured yet"), "{}", shown());
    // It is away, and the start succeeds all the same.
    let stopped = service.stop();
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
    eventually("it is missed", || client.query("status")["service"]["reachable"] == json!(false));
    let health = client.query("status")["service"].clone();
    assert!(health["last_problem_s"].is_number() && health["last_problem"].is_string(), "{health}");
    assert!(health["last_problem_utc"].as_str().unwrap().starts_with("20"), "{health}");
    assert!(shown().contains(" not reachable, silent for ") && shown().contains(" ago: "), "{}", shown());
    // Back again.
    let service = stopped.restart();
    assert_eq!(client.run("standby", &json!({})), "CMD_COMPLETE Done");
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
    eventually("it answers", || client.query("status")["service"]["reachable"] == json!(true));
    assert_eq!((service.counters().probes, service.counters().gets), (1, 0));
}

#[test]
fn a_run_that_waits_is_shown_with_what_it_waits_for_and_can_be_aborted() {
    let (service, home, daemon) = with_service(3600.0);
    let foreign =
        service.add_job(&json!({"command": "x", "run_id": "foreign", "url": "u", "commit_ref": "c"}));
    let mut client = daemon.connect();
    let params = json!({"pipeline": "p.yaml", "version": "w_1", "data_query": "visit = 3", "config": "-c x:y=1",
                        "output_dataset_types": "raw", "prereq_jobs": format!("gone,{foreign}")});
    let seq = client.send("execute", &params);
    let job = |client: &mut Client| client.query("jobs")[0].clone();
    eventually("one of them is missed", || job(&mut client)["missing_prereqs"] == json!(["gone"]));
    let waiting = job(&mut client);
    assert_eq!(waiting["waits_for"], json!([foreign]));
    assert_eq!((&waiting["version"], &waiting["data_query"]), (&json!("w_1"), &json!("visit = 3")));
    assert!(waiting["run_options"].as_str().unwrap().ends_with("-c x:y=1"), "{waiting}");
    assert_eq!(waiting["output_glob"], "raw");
    let shown = home.client(&["jobs"]).stdout;
    assert!(shown.contains(&format!("waiting for {foreign}; prerequisite gone does not exist")), "{shown}");
    let run_id = waiting["run_id"].as_str().unwrap();
    assert!(shown.contains(run_id), "{shown}");
    assert_eq!(client.run("abort_job", &json!({ "job_id": run_id })), "CMD_COMPLETE Done");
    assert_eq!(client.final_ack(seq), "CMD_ABORTED Aborted");
    assert_eq!((service.counters().puts, service.counters().deletes), (0, 0));
    let ended = job(&mut client);
    assert_eq!((&ended["outcome"], &ended["stage"]), (&json!("aborted"), &json!("finished")));
    assert!(ended["ended_utc"].as_str().unwrap().ends_with('Z'), "{ended}");
}

#[test]
fn the_phase_at_the_service_and_each_end_are_shown() {
    let timing = Timing { pending: 3600.0, queued: 3600.0, ..timing(3600.0) };
    let service = UwsService::start(Options { timing, ..Options::default() });
    let home = Home::for_service(&service.url(), 0.2, TOML);
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.connect();
    let seq = client.send("execute", &json!({"pipeline": "p.yaml", "data_query": "fail"}));
    client.job_id(seq);
    let job = client.query("jobs")[0].clone();
    assert_eq!((&job["stage"], &job["phase"]), (&json!("running"), &json!("pending")));
    let shown = home.client(&["jobs"]).stdout;
    assert!(shown.contains("  pending\n") && !shown.contains("running"), "{shown}");
    assert!(home.client(&["status"]).stdout.contains("jobs           1 running (1 pending)\n"));
    service.end_jobs();
    assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
    let job = client.query("jobs")[0].clone();
    assert_eq!((&job["outcome"], &job["phase"]), (&json!("failed"), &Value::Null));
    assert_eq!(job["reason"], "phase error");
    let line = "failed: phase error; pipeline p.yaml, data_query fail, for uid-";
    eventually("it is logged", || daemon.stderr().contains(line));
    assert!(daemon.stderr().lines().any(|l| l.contains(" [WARN] job ") && l.contains(line)));
    // The next run knows it too.
    drop(client);
    drop(daemon);
    let daemon = home.start(&["1"]);
    let again = daemon.connect().query("jobs")[0].clone();
    for key in ["job_id", "run_id", "outcome", "reason", "data_query", "ended_utc", "accepted_utc"] {
        assert_eq!(again[key], job[key], "{key}");
    }
    let shown = home.client(&["jobs", "--all"]).stdout;
    assert!(shown.contains("  failed: exit 1, phase error\n"), "{shown}");
}

#[test]
fn an_interrupted_client_names_the_run_that_continues() {
    let (service, home, daemon) = with_service(3600.0);
    let foreign =
        service.add_job(&json!({"command": "x", "run_id": "foreign", "url": "u", "commit_ref": "c"}));
    let mut command = home.ocps();
    command.env("OCPS_SOCKET", home.socket()).args(["send", "execute", "pipeline=p.yaml"]);
    command.arg(format!("prereq_jobs={foreign}")).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let mut client = daemon.connect();
    eventually("it is taken", || client.query("jobs")[0]["stage"] == "waiting");
    let run_id = client.query("jobs")[0]["run_id"].as_str().unwrap().to_owned();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("run {run_id}, which has no job id yet, keeps running")), "{stderr}");
    assert!(stderr.contains(&format!("ocps abort {run_id} ends it")), "{stderr}");
    assert_eq!(output.status.code(), None);
}

/// The keys of a document, those of documents in it too.
fn keys(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(members) => {
            for (key, value) in members {
                found.push(key.clone());
                keys(value, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_manual_explains_every_key_of_the_documents() {
    let (_service, _home, daemon) = with_service(0.1);
    let mut client = daemon.connect();
    assert_eq!(client.run("execute", &json!({"pipeline": "p.yaml"})), "CMD_COMPLETE Done");
    let manual = include_str!("../../etc/man/ocps-protocol.7");
    let (_, manual) = manual.split_once(".SS Keys of a job").unwrap();
    let words: Vec<&str> = manual.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut found = Vec::new();
    keys(&client.query("jobs"), &mut found);
    keys(&client.query("status"), &mut found);
    assert!(found.len() > 60, "{found:?}");
    let unexplained: Vec<&String> = found.iter().filter(|key| !words.contains(&key.as_str())).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn a_password_in_the_url_is_decoded_for_the_service_and_shown_nowhere() {
    // jane:p@ss/w#?%é
    let authorization = Some("Basic amFuZTpwQHNzL3cjPyXDqQ==".to_owned());
    let service = UwsService::start(Options { timing: timing(60.0), authorization, ..Options::default() });
    let url = service.url().replace("http://", "http://jane:p%40ss%2Fw%23%3F%25%C3%A9@");
    let home = Home::for_service(&url, 0.2, &format!("{TOML}[log]\nlevel = 'debug'\n"));
    let mut daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.subscribe();
    let seq = client.execute("p.yaml");
    let job_id = client.job_id(seq);
    let service = service.stop();
    eventually("the outage is seen", || client.query("status")["service"]["reachable"] == false);
    let seen = [
        home.client(&["status"]).stdout,
        home.client(&["status", "--json"]).stdout,
        home.client(&["jobs", "--json"]).stdout,
        client.query("status").to_string(),
        client.query("jobs").to_string(),
    ];
    let service = service.restart();
    daemon.signal(Signal::KILL);
    daemon.wait();
    let state = fs::read_dir(home.path("state")).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
    let kept = String::from_utf8_lossy(&state.collect::<Vec<_>>().concat()).into_owned();
    assert!(kept.contains(&job_id));
    // Without a start it follows the job with what is configured.
    let mut daemon = home.start(&["1"]);
    let before = client;
    let mut client = daemon.subscribe();
    eventually("the service answers", || client.query("status")["service"]["reachable"] == true);
    for command in ["start", "enable"] {
        assert_eq!(client.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    assert_eq!(client.run("abort_job", &json!({"job_id": job_id})), "CMD_COMPLETE Done");
    daemon.terminate();
    let lines = before.received.iter().chain(&client.received).map(Value::to_string);
    for text in seen.into_iter().chain(lines).chain([daemon.stderr(), kept]) {
        assert!(!text.contains("jane") && !text.contains("p%40ss") && !text.contains("p@ss"), "{text}");
    }
    let shown = url.replace("jane:p%40ss%2Fw%23%3F%25%C3%A9@", "");
    assert!(daemon.stderr().contains(&format!("DELETE {shown}/job/{job_id}: 200 after ")));
    drop(service);
}

/// An answer of a gateway in front of a healthy service.
fn gateway(code: u16, headers: &[(&str, &str)], body: &str) -> What {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    What::Gateway { code, headers, body: body.to_owned() }
}

const PAGE: &str = "<!DOCTYPE html><html><body>Please log in</body></html>";

/// Tests all cases in parallel, as each waits for retries most of the time.
fn each_at_once<T: Send, const N: usize>(cases: [T; N], test: impl Fn(T) + Sync) {
    let test = &test;
    std::thread::scope(|scope| cases.into_iter().for_each(|case| drop(scope.spawn(move || test(case)))));
}

#[test]
fn a_refusal_of_a_gateway_is_not_that_of_the_service() {
    each_at_once(
        [
            (gateway(429, &[("Retry-After", "1")], "slow down"), "429: slow down"),
            (gateway(429, &[], ""), "429: (no text)"),
            (gateway(403, &[("Content-Type", "text/html")], PAGE), "403: <!DOCTYPE html>"),
        ],
        |(what, shown)| {
            let (service, _home, daemon) = with_service(0.1);
            // Once more than the service itself may refuse.
            service.inject(Fault { on: On::Put, times: 3, what });
            let mut client = daemon.subscribe();
            let seq = client.execute("p.yaml");
            assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done", "{shown}");
            assert!(daemon.stderr().contains(shown), "{}", daemon.stderr());
            assert_no_doubles(&service, 1);
            assert_eq!(service.counters().puts, 4);
        },
    );
}

#[test]
fn a_delete_that_a_login_page_answers_has_removed_nothing() {
    let json = [("Content-Type", "application/json")];
    each_at_once([gateway(200, &[("Content-Type", "text/html")], PAGE), gateway(200, &json, "{}")], |what| {
        let (service, _home, daemon) = with_service(3600.0);
        let mut client = daemon.subscribe();
        let seq = client.execute("p.yaml");
        let job_id = client.job_id(seq);
        service.inject(Fault { on: On::Delete, times: 2, what });
        assert_eq!(client.run("abort_job", &json!({"job_id": job_id})), "CMD_COMPLETE Done");
        assert_eq!(client.final_ack(seq), "CMD_ABORTED Aborted");
        assert_eq!(service.counters().deletes, 3);
        assert!(service.jobs().is_empty());
    });
}

#[test]
fn a_gateway_that_sends_things_twice_leaves_one_job_that_can_be_aborted() {
    let (service, _home, daemon) = with_service(3600.0);
    service.inject(Fault { on: On::Put, times: 1, what: What::Twice });
    let mut client = daemon.subscribe();
    let execute = client.execute("p.yaml");
    let job_id = client.job_id(execute);
    eventually("the extra one is removed", || service.counters().deletes == 1);
    eventually("one is left", || service.jobs().len() == 1);
    assert_eq!(service.counters().puts, 1);
    service.inject(Fault { on: On::Delete, times: 1, what: What::Twice });
    assert_eq!(client.run("abort_job", &json!({ "job_id": job_id })), "CMD_COMPLETE Done");
    assert_eq!(client.final_ack(execute), "CMD_ABORTED Aborted");
    assert!(service.jobs().is_empty());
}

#[test]
fn an_old_404_out_of_a_cache_ends_no_job() {
    let (service, _home, daemon) = with_service(3600.0);
    let mut client = daemon.subscribe();
    let execute = client.execute("p.yaml");
    let job_id = client.job_id(execute);
    let what =
        What::Status { code: 404, content_type: "application/json".to_owned(), body: "\"\"".to_owned() };
    service.inject(Fault { on: On::Get, times: 3, what });
    let problem = |client: &mut Client| client.query("jobs")[0]["problem"].as_str().map(str::to_owned);
    eventually("it is answered so", || problem(&mut client).is_some_and(|text| text.contains("no such job")));
    service.end_jobs();
    assert_eq!(client.final_ack(execute), "CMD_COMPLETE Done");
    assert_eq!(result_of(&mut client, &job_id).0, 0);
}

#[test]
fn a_process_that_stands_still_gives_nothing_up() {
    let service = UwsService::start(Options { timing: timing(0.1), ..Options::default() });
    let toml = "[uws]\nsettle_time_s = 2\nsubmit_timeout_s = 2\n";
    let home = Home::for_service(&service.url(), 0.2, toml);
    let daemon = home.start(&["1", "--state", "enabled"]);
    service.inject(Fault { on: On::Put, times: 1, what: What::Close });
    let mut client = daemon.subscribe();
    let execute = client.execute("p.yaml");
    // The first list is that of the start-up, which looks up jobs that the new journal does not know.
    eventually("it is in doubt", || service.counters().lists >= 2);
    daemon.signal(Signal::STOP);
    // Longer than the two times together.
    std::thread::sleep(Duration::from_secs(7));
    daemon.signal(Signal::CONT);
    assert_eq!(client.final_ack(execute), "CMD_COMPLETE Done");
    assert_no_doubles(&service, 1);
    assert!(daemon.stderr().contains("the process stood still for"));
}
