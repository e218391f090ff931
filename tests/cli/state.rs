//! `ocps state`, and that commands go only to the daemon that was meant.

use serde_json::json;

use super::fake_daemon::{in_state, is_command};

#[test]
fn state_prints_the_state() {
    in_state("DISABLED", "").run(&["state"]).check(0, &["DISABLED"], "");
    let ran = in_state("CONFUSED", "").run(&["state"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("\"CONFUSED\""), "{}", ran.stderr);
}

#[test]
fn state_walks_to_its_target() {
    let daemon = in_state("FAULT", "");
    daemon.run(&["state", "Enabled", "--override", "a.yaml:v1"]).check(
        0,
        &["standby CMD_COMPLETE Done", "start CMD_COMPLETE Done", "enable CMD_COMPLETE Done", "ENABLED"],
        "",
    );
    let start = json!({"command": "start", "seq": 2, "params": {"configurationOverride": "a.yaml:v1"}});
    assert_eq!(daemon.received().get(2), Some(&start));

    let offline = ["disable CMD_COMPLETE Done", "standby CMD_COMPLETE Done", "exitControl CMD_COMPLETE Done"];
    in_state("ENABLED", "").run(&["state", "offline"]).check(0, &[&offline[..], &["OFFLINE"]].concat(), "");
    in_state("ENABLED", "").run(&["state", "enabled"]).check(0, &["ENABLED"], "");
}

#[test]
fn state_stops_at_a_refusal() {
    let daemon = in_state("STANDBY", "start");
    daemon.run(&["state", "enabled"]).check(3, &["start CMD_FAILED Failed: no such file"], "");
    assert_eq!(daemon.received().len(), 2);
}

#[test]
fn an_override_that_would_not_be_read_is_refused_before_anything_is_sent() {
    let daemon = in_state("DISABLED", "");
    let expected =
        "ocps: the override is read by start, which DISABLED does not need: first ocps state standby\n";
    daemon.run(&["state", "enabled", "--override", "a.yaml"]).check(1, &[], expected);
    assert_eq!(daemon.received(), [json!({"query": "status"})]);
}

#[test]
fn a_client_commands_only_the_index_it_was_given() {
    let daemon = in_state("STANDBY", "");
    daemon.run(&["state", "--index", "LSSTComCam"]).check(0, &["STANDBY"], "");
    let ran = daemon.run(&["send", "enable", "--index", "3"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.stderr.starts_with("ocps: no daemon with index 3 (LSSTCam) at "), "{}", ran.stderr);
    assert!(ran.stderr.contains("(its index is 2)"), "{}", ran.stderr);
    assert!(!daemon.received().iter().any(|line| is_command(line, "enable")));
}
