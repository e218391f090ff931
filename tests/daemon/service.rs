//! Jobs at the execution service.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Daemon, Home, eventually};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

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
    // 2 s of life, asked every 0.2 s, or later when the machine is busy.
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
    assert_eq!(client.heard.iter().filter(acked).count(), 0, "no ack before the job exists");
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
