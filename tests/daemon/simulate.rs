//! The simulator from end to end: what `make sim` and a rehearsal rely on.

use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::{Value, json};

use crate::harness::{Daemon, Home, Killed, LONG, QUICK, eventually, heartbeat_threads};

fn enabled(home: &Home) -> Daemon {
    home.start(&["1", "--simulate", "--state", "enabled"])
}

#[test]
fn events_of_a_job_that_succeeds_and_one_that_fails_are_in_order() {
    let home = Home::with_toml(QUICK);
    let daemon = enabled(&home);
    for (pipeline, exit_code, result, phase) in
        [("true.yaml", 0, true, "completed"), ("false.yaml", 1, false, "error")]
    {
        let mut client = daemon.subscribe();
        client.forget();
        let seq = client.execute(pipeline);
        assert_eq!(client.final_ack(seq), "CMD_COMPLETE Done");
        let object = format!(r#"{{\"jobId\":\"J1\",\"result\":{result},\"phase\":\"{phase}\"}}"#);
        assert_eq!(
            client.story(),
            [
                r#"ack 1 CMD_INPROGRESS 0 {"job_id":"J1"} 600.0"#.to_owned(),
                r#"job_id {"event_name":"cmd_execute","seq_num":1,"job_id":"J1"}"#.to_owned(),
                format!(r#"job_result {{"job_id":"J1","exit_code":{exit_code},"result":"{object}"}}"#),
                "ack 1 CMD_COMPLETE 0 Done 0.0".to_owned(),
            ]
        );
    }
}

#[test]
fn a_fault_is_left_by_standby() {
    let home = Home::with_toml(QUICK);
    let daemon = enabled(&home);
    let mut client = daemon.subscribe();
    client.forget();
    let seq = client.execute("fault.yaml");
    assert_eq!(client.final_ack(seq), "CMD_FAILED Failed: cannot contact the execution service (simulated)");
    let refused = "CMD_FAILED Failed: execute not allowed in FAULT: errorCode=2, \
                   errorReport='cannot contact the execution service (simulated)'";
    assert_eq!(client.run("execute", &json!({"pipeline": "true.yaml"})), refused);
    for command in ["standby", "start", "enable"] {
        assert_eq!(client.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    assert_eq!(client.run("execute", &json!({"pipeline": "true.yaml"})), "CMD_COMPLETE Done");
    let report = "cannot contact the execution service (simulated)";
    let story = client.story();
    assert_eq!(
        story[..10],
        [
            r#"ack 1 CMD_INPROGRESS 0 {"job_id":"J1"} 600.0"#.to_owned(),
            r#"job_id {"event_name":"cmd_execute","seq_num":1,"job_id":"J1"}"#.to_owned(),
            concat!(
                r#"job_result {"job_id":"J1","exit_code":1,"#,
                r#""result":"{\"jobId\":\"J1\",\"runId\":\"R1\",\"phase\":\"unknown\"}"}"#
            )
            .to_owned(),
            format!(r#"errorCode {{"errorCode":2,"errorReport":"{report}","traceback":""}}"#),
            r#"summaryState {"summaryState":3}"#.to_owned(),
            format!("ack 1 CMD_FAILED 1 Failed: {report} 0.0"),
            format!("ack 2 {} 0.0", refused.replacen("CMD_FAILED", "CMD_FAILED 1", 1)),
            r#"summaryState {"summaryState":5}"#.to_owned(),
            r#"errorCode {"errorCode":0,"errorReport":"","traceback":""}"#.to_owned(),
            "ack 3 CMD_COMPLETE 0 Done 0.0".to_owned(),
        ],
        "{story:#?}"
    );
}

#[test]
fn a_running_job_is_aborted() {
    let home = Home::with_toml(LONG);
    let daemon = enabled(&home);
    let mut client = daemon.subscribe();
    client.forget();
    let execute = client.execute("true.yaml");
    let job_id = client.job_id(execute);
    let abort = client.send("abort_job", &json!({ "job_id": job_id }));
    assert_eq!(client.final_ack(abort), "CMD_COMPLETE Done");
    let data = client.job_result(&job_id);
    let result: Value = serde_json::from_str(data["result"].as_str().unwrap()).unwrap();
    assert_eq!((data["exit_code"].as_i64(), &result["phase"]), (Some(255), &json!("aborted")));
    assert!(result["abort_time"].as_f64().unwrap() > 1.7e9, "{result}");
    let story = client.story();
    assert!(story[2].starts_with(r#"job_result {"job_id":"J1","exit_code":255"#), "{story:#?}");
    assert_eq!(story[3..], ["ack 1 CMD_ABORTED 1 Aborted 0.0", "ack 2 CMD_COMPLETE 0 Done 0.0"]);
    assert_eq!(
        client.run("abort_job", &json!({ "job_id": job_id })),
        format!("CMD_FAILED Failed: No such job: {job_id}")
    );
}

#[test]
fn the_command_line_chooses_the_state() {
    let home = Home::with_toml(QUICK);
    for (state, number) in [("standby", 5), ("disabled", 1), ("enabled", 2)] {
        let mut daemon = home.start(&["LSSTCam", "--simulate", "--state", state]);
        let mut client = daemon.connect();
        client.write(&json!({"subscribe": true}));
        assert_eq!(client.event("summaryState"), json!({ "summaryState": number }));
        assert_eq!(client.event("simulationMode"), json!({"mode": 1}));
        let status = client.query("status");
        assert_eq!((&status["index"], &status["name"]), (&json!(3), &json!("LSSTCam")));
        daemon.terminate();
    }
}

#[test]
fn an_idle_daemon_sends_heartbeats() {
    let home = Home::with_toml(QUICK);
    // Nothing is logged, no directory is watched, and no client connects before the first heartbeats.
    let args =
        ["run", "1", "--simulate", "--loglevel", "error", "--socket", "s.sock", "--config", "ocps.toml"];
    let mut command = home.ocps();
    command.args(args);
    let stderr = std::fs::File::create(home.path("s.stderr")).unwrap();
    let child = Killed(command.stderr(stderr).spawn().unwrap());
    // It has started when it has a timer; at least two heartbeats follow.
    eventually("it has started", || heartbeat_threads(Pid::from_child(&child.0)).len() == 2);
    std::thread::sleep(Duration::from_millis(3500));
    let mut client = crate::harness::Client::connect(&home.socket());
    client.write(&json!({"subscribe": true}));
    let beat = client.find("heartbeat", |line| line["event"]["topic"] == "heartbeat");
    drop(child);
    assert!(beat["event"]["seq"].as_i64().unwrap() >= 2, "{beat}");
}

#[test]
fn the_simulator_ignores_a_broken_configuration_but_not_the_override_that_is_named() {
    let home = Home::with_toml(QUICK);
    home.write("configuration/_init.yaml", "url: [\n");
    home.write("configuration/good.yaml", "poll_interval: 2\n");
    home.write("configuration/bad.yaml", "poll_interval: -2\n");
    let daemon = home.start(&["1", "--simulate"]);
    let mut client = daemon.subscribe();
    assert_eq!(client.event("configurationsAvailable")["overrides"], "bad.yaml,good.yaml");
    let bad = client.run("start", &json!({"configurationOverride": "bad.yaml"}));
    assert!(bad.starts_with("CMD_FAILED Failed: ") && bad.contains("bad.yaml:1"), "{bad}");
    let missing = client.run("start", &json!({"configurationOverride": "none.yaml"}));
    assert_eq!(
        missing,
        format!(
            "CMD_FAILED Failed: Config file '{}' does not exist",
            home.path("configuration/none.yaml").display()
        )
    );
    client.forget();
    assert_eq!(client.run("start", &json!({"configurationOverride": "good.yaml"})), "CMD_COMPLETE Done");
    assert_eq!(client.event("configurationApplied")["configurations"], "good.yaml");
    assert_eq!(client.event("summaryState")["summaryState"], 1);
    eventually("it is logged", || daemon.stderr().contains("ignored in simulation"));

    drop(daemon);
    let daemon = home.start(&["1", "--simulate", "--state", "enabled", "--override", "bad.yaml"]);
    assert_eq!(daemon.connect().query("status")["state"], "STANDBY");
    eventually("it is logged", || daemon.stderr().contains("bad.yaml:1"));
}

#[test]
fn the_simulator_needs_no_configuration_directory() {
    let home = Home::with_toml(QUICK);
    let mut command = home.ocps();
    command.args(["run", "1", "--simulate", "--config", "ocps.toml", "--socket", "s.sock"]);
    let daemon = Daemon::start(command, home.socket());
    let mut client = daemon.subscribe();
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
    let applied = client.event("configurationApplied");
    let empty = json!({
        "configurations": "", "version": "", "url": "", "schemaVersion": applied["schemaVersion"], "otherInfo": "",
    });
    assert_eq!(applied, empty);
    assert_eq!(client.run("enable", &json!({})), "CMD_COMPLETE Done");
    assert_eq!(client.run("execute", &json!({"pipeline": "true.yaml"})), "CMD_COMPLETE Done");
}

#[test]
fn under_its_python_name_it_is_ocps_run() {
    let home = Home::with_toml(QUICK);
    let link = home.path("run_ocps");
    symlink(env!("CARGO_BIN_EXE_ocps"), &link).unwrap();
    let mut command = home.program(&link);
    home.run_args(&mut command, &["latiss", "--simulate", "--state", "enabled"]);
    let daemon = Daemon::start(command, home.socket());
    assert_eq!(daemon.connect().run("execute", &json!({"pipeline": "true.yaml"})), "CMD_COMPLETE Done");
}
