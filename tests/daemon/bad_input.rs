//! What bad input gets: one clear line, and nothing else happens.

use serde_json::json;

use crate::harness::{Home, QUICK, eventually, run};

#[test]
fn commands_that_cannot_be_carried_out_fail_with_one_clear_line() {
    let home = Home::with_toml(QUICK);
    let daemon = home.start(&["1", "--simulate", "--state", "enabled"]);
    let mut client = daemon.connect();
    let commands = "abort_job, disable, enable, execute, exitControl, setLogLevel, standby, start";
    let execute = "pipeline, version, config, data_query, prereq_jobs, output_dataset_types";
    let id = "(1 to 63 letters, digits, '.', '_' or '-', a letter or digit first and last)";
    for (command, params, reason) in [
        ("exec", json!({}), format!("unknown command \"exec\": one of {commands}")),
        ("disable", json!({"x": 1}), "unknown parameter \"x\": disable takes none".into()),
        ("execute", json!({"foo": "a"}), format!("unknown parameter \"foo\": execute takes {execute}")),
        ("execute", json!({"pipeline": 1}), "parameter \"pipeline\" must be a string".into()),
        ("execute", json!({"pipeline": null}), "parameter \"pipeline\" must be a string".into()),
        ("execute", json!({}), "pipeline is empty: give the URL or path of a pipeline".into()),
        ("execute", json!({"pipeline": ""}), "pipeline is empty: give the URL or path of a pipeline".into()),
        (
            "execute",
            json!({"pipeline": "a", "prereq_jobs": "../x"}),
            format!("Invalid job id: \"../x\" {id}"),
        ),
        ("abort_job", json!({}), format!("Invalid job id: \"\" {id}")),
        ("abort_job", json!({"job_id": "a b"}), format!("Invalid job id: \"a b\" {id}")),
        ("abort_job", json!({"job_id": "abc"}), "No such job: abc".into()),
        ("setLogLevel", json!({}), "level is missing: 10 debug, 20 info, 30 warning, 40 error".into()),
        ("setLogLevel", json!({"level": "10"}), "parameter \"level\" must be an integer of 32 bits".into()),
        (
            "setLogLevel",
            json!({"level": -1}),
            "level -1 is negative: 10 debug, 20 info, 30 warning, 40 error".into(),
        ),
        ("enable", json!({}), "enable not allowed in state ENABLED".into()),
        ("start", json!({}), "start not allowed in state ENABLED".into()),
        ("exitControl", json!({}), "exitControl not allowed in state ENABLED".into()),
    ] {
        assert_eq!(client.run(command, &params), format!("CMD_FAILED Failed: {reason}"));
    }
    assert_eq!(client.run("disable", &json!({})), "CMD_COMPLETE Done");
    for (command, params) in [("execute", json!({"pipeline": "a"})), ("abort_job", json!({"job_id": "a"}))] {
        let reason = format!("CMD_FAILED Failed: {command} not allowed in state DISABLED");
        assert_eq!(client.run(command, &params), reason);
    }
}

#[test]
fn a_journal_on_kafka_without_kafka_is_refused() {
    let home = Home::with_toml("journal = \"kafka\"\n");
    let refused = home.refused(&["1", "--simulate", "--no-kafka"]);
    let line = refused.one_line(78);
    let expected = "the journal cannot be on Kafka (journal = \"kafka\" in ocps.toml): ";
    let why = if cfg!(feature = "kafka") { "Kafka is off" } else { "this build has no Kafka" };
    assert!(line.contains(&format!("{expected}{why}")), "{line}");
    let refused = Home::new().refused(&["1", "--simulate", "--kafka", "--standby"]);
    assert!(refused.one_line(78).contains("set journal = \"kafka\" for both"), "{refused:?}");
}

#[test]
fn a_wrong_command_line_or_toml_ends_it_with_one_line() {
    let home = Home::new();
    let refused = home.refused(&["1", "--simulat"]);
    assert!(refused.one_line(2).contains("did you mean --simulate?"), "{refused:?}");
    let refused = home.refused(&["--simulate"]);
    assert_eq!(
        refused.one_line(2),
        "ocps: no index: give 1, 2, 3 or 101 (ocps run INDEX), or set index in ocps.toml"
    );
    let refused = home.refused(&["4", "--simulate"]);
    assert!(refused.one_line(2).contains('4'), "{refused:?}");
    let toml = home.path("ocps.toml");
    for (text, place, reason) in [
        ("index = 1\nsokcet = \"x\"\n", ":2", "sokcet"),
        ("index = 7\n", ":1", "7"),
        ("[log]\n\nlevel = \"loud\"\n", ":3", "loud"),
        ("[uws\n", ":1", "TOML"),
        ("[uws]\nput_timeout_s = -1\n", ":2", "-1"),
    ] {
        home.write("ocps.toml", text);
        let refused = home.refused(&["1", "--simulate"]);
        let line = refused.one_line(78);
        assert!(
            line.starts_with(&format!("ocps: {}{place}", toml.display())) && line.contains(reason),
            "{line}"
        );
    }
    let refused = home.refused(&["1", "--config", "/nonexistent.toml"]);
    assert!(refused.one_line(78).contains("/nonexistent.toml"), "{refused:?}");
    assert!(!home.socket().exists());
}

#[test]
fn a_bad_configuration_fails_start_and_standby_stays() {
    let home = Home::new();
    let daemon = home.start(&["1"]);
    let mut client = daemon.subscribe();
    let init = home.path("configuration/_init.yaml");
    let shown = init.display();
    let good = "url: http://127.0.0.1:9\npoll_interval: 1\n";
    let entry = |index: u32| {
        format!(
            "instances:\n- {{sal_index: {index}, instance: X, url: 'http://a', poll_interval: 1, butler: b, output_glob: g}}\n"
        )
    };
    let fails = |client: &mut crate::harness::Client, params: serde_json::Value| {
        let ack = client.run("start", &params);
        assert!(!ack.contains('\n'), "{ack}");
        assert_eq!(client.query("status")["state"], "STANDBY");
        ack.strip_prefix("CMD_FAILED Failed: ").unwrap_or_else(|| panic!("{ack}")).to_owned()
    };
    assert_eq!(fails(&mut client, json!({})), format!("Config file '{shown}' does not exist"));
    for (text, line, expected) in [
        ("poll_interval: 1\n", "", "url"),
        ("url: http://a\n\npoll_interval: -1\n", ":3", "poll_interval"),
        ("url: http://a\npoll_interval: 1\nurll: x\n", ":3", "urll"),
        ("url: http://a\npoll_interval: [\n", ":", "_init.yaml"),
        ("url: http://a\npoll_interval: \"x\"\n", ":2", "poll_interval"),
        (&entry(2), "", "1"),
        (&entry(1), ":2", "instance"),
    ] {
        home.write("configuration/_init.yaml", text);
        let reason = fails(&mut client, json!({}));
        assert!(
            reason.starts_with(&format!("{shown}{line}")) && reason.contains(expected),
            "{text}: {reason}"
        );
        let checked = home.client(&["check", "--index", "1", init.parent().unwrap().to_str().unwrap()]);
        let first = reason.split(" (and ").next().unwrap();
        assert!(checked.code == Some(78) && checked.stdout.contains(first), "{reason}: {checked:?}");
    }
    home.write("configuration/_init.yaml", good);
    home.write("configuration/x.yaml", "url: http://a\npoll_interval: -3\n");
    let reason = fails(&mut client, json!({"configurationOverride": "x.yaml"}));
    assert!(reason.starts_with(&format!("{}:2", home.path("configuration/x.yaml").display())), "{reason}");
    let reason = fails(&mut client, json!({"configurationOverride": "_x.yaml"}));
    assert_eq!(reason, "configurationOverride '_x.yaml' must not start with '_'");
    assert_eq!(client.run("start", &json!({})), "CMD_COMPLETE Done");
}

#[test]
fn without_a_configuration_directory_start_fails() {
    let home = Home::new();
    let mut command = home.ocps();
    command.args(["run", "1", "--config", "ocps.toml", "--socket", "s.sock", "--state-dir", "state"]);
    let daemon = crate::harness::Daemon::start(command, home.socket());
    let reason =
        "no configuration directory: give --configdir, set DM_CONFIG_OCPS_DIR, or config_dir in ocps.toml";
    let mut client = daemon.connect();
    assert_eq!(client.run("start", &json!({})), format!("CMD_FAILED Failed: {reason}"));
    assert_eq!(client.query("status")["state"], "STANDBY");
    drop(client);
    drop(daemon);
    let daemon = home.start(&["1", "--configdir", "/nonexistent"]);
    let ack = daemon.connect().run("start", &json!({}));
    assert!(ack.starts_with("CMD_FAILED Failed: /nonexistent: "), "{ack}");
}

#[test]
fn a_start_that_fails_is_logged_once_and_nothing_more_is_tried() {
    let home = Home::new();
    let daemon = home.start(&["1", "--state", "enabled"]);
    eventually("the reason is logged", || daemon.stderr().contains("start of ocps run --state failed: "));
    assert_eq!(daemon.connect().query("status")["state"], "STANDBY");
    assert!(!daemon.stderr().contains("enable of ocps run --state"), "{}", daemon.stderr());
}

#[test]
fn a_log_file_that_cannot_be_opened_is_a_wrong_configuration() {
    let home = Home::with_toml("[log]\nfile = \"/nonexistent/ocps.log\"\n");
    assert!(home.refused(&["1", "--simulate"]).one_line(78).contains("/nonexistent/ocps.log"));
}

#[test]
fn a_socket_path_that_is_too_long_is_refused() {
    let home = Home::new();
    let long = home.path(&"s".repeat(120));
    let ran = home.refused(&["1", "--simulate", "--socket", long.to_str().unwrap()]);
    assert!(
        ran.one_line(1).contains("longer than 107 bytes; choose a shorter path with --socket"),
        "{ran:?}"
    );
}

#[test]
fn check_reports_what_a_run_with_the_same_flags_would_fail_on() {
    let home = Home::new();
    home.write("configuration/_init.yaml", "url: http://127.0.0.1:1/api/v1\npoll_interval: 1\n");
    let check = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.ocps();
        home.run_args(command.arg("check"), flags);
        run(command.envs(variables.iter().copied()))
    };
    let subname = ("LSST_TOPIC_SUBNAME", "sal");
    for (toml, flags, variables) in [
        ("", &[][..], &[][..]),
        ("index = 7\n", &[], &[]),
        ("index = 1\n", &["--config", "none.toml"], &[]),
        ("index = 1\n", &[], &[subname, ("LSST_KAFKA_REPLICATION_FACTOR", "many")]),
        ("index = 1\n", &[], &[subname, ("LSST_SCHEMA_REGISTRY_URL", "nowhere")]),
        ("index = 1\n", &["--socket", "/a/socket/whose/path/is/too/long/".repeat(9).leak()], &[]),
    ] {
        home.write("ocps.toml", toml);
        let checked = check(flags, variables);
        assert_eq!(checked.code, Some(78), "{toml} {flags:?}: {checked:?}");
        let refused = run(home.daemon(flags).envs(variables.iter().copied()));
        let reason = refused.stderr.lines().last().unwrap_or_default().trim_start_matches("ocps: ");
        assert!(checked.stdout.contains(reason), "{reason}\n{checked:?}");
    }
    let checked = check(&["--index", "1", "--state-dir", "/dev/null/x"], &[]);
    assert!(checked.stdout.contains("ocps run: /dev/null/x: cannot be written: "), "{checked:?}");
    // All of it at once, and what only a `start` would meet.
    home.write("ocps.toml", "site = 7\n[uws]\nconnections = 0\n");
    home.write("configuration/_init.yaml", "url: http://uws-server.example.org/api/v1\npoll_interval: 0\n");
    let checked = check(&["--kafka"], &[]);
    let lines = [
        "ocps.toml:1:8: site must",
        "ocps.toml:3:15: uws.connections must",
        "_init.yaml:2:16: poll_interval must",
        "ocps run: no index",
        "ocps run: the topic subname is not set",
    ];
    for line in lines {
        assert!(checked.stdout.contains(line), "{line}\n{checked:?}");
    }
    home.write("ocps.toml", "index = 1\n");
    home.write("configuration/_init.yaml", "url: http://uws-server.example.org/api/v1\npoll_interval: 1\n");
    let checked = check(&["--override", "none.yaml:v1"], &[]);
    assert!(checked.stdout.contains("url is that of the example"), "{checked:?}");
    assert!(checked.stdout.contains("ocps run: ") && checked.stdout.contains("v1"), "{checked:?}");
    home.write("configuration/_init.yaml", "url: http://uws-server/api/v1\npoll_interval: 1\n");
    let checked = check(&["--state", "enabled"], &[]);
    assert_eq!(
        (checked.code, checked.stdout.lines().filter(|line| line.ends_with(": ok")).count()),
        (Some(0), 3)
    );
    // A simulation needs no configuration.
    std::fs::remove_dir_all(home.path("configuration")).unwrap();
    assert_eq!(check(&["--simulate"], &[]).code, Some(0));
    assert_eq!(check(&["--state", "enabled"], &[]).code, Some(78));
}
