//! The metrics: what a scrape sees of the work of the daemon.

use std::fs::File;
use std::process::Command;

use serde_json::json;

use crate::harness::{Home, eventually, run};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

/// The value of a line of the metrics; none if it is not there.
pub(crate) fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_metrics_count_what_the_daemon_does() {
    let timing = Timing { pending: 0.0, queued: 0.0, duration: 0.5, ..Timing::default() };
    let service = UwsService::start(Options { timing, ..Options::default() });
    let home = Home::for_service(&service.url(), 0.2, "");
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.subscribe();
    assert_eq!(client.run("execute", &json!({"pipeline": "p.yaml"})), "CMD_COMPLETE Done");
    assert!(client.run("execute", &json!({})).starts_with("CMD_FAILED"));
    let metrics = || home.client(&["metrics"]).stdout;
    eventually("heartbeats are counted", || {
        value(&metrics(), "ocps_heartbeat_lateness_seconds_count").is_some_and(|count| count >= 2.0)
    });
    let text = metrics();
    for (line, expected) in [
        ("ocps_state{state=\"ENABLED\"}", 1.0),
        ("ocps_state{state=\"FAULT\"}", 0.0),
        ("ocps_ready", 1.0),
        ("ocps_service_up", 1.0),
        ("ocps_jobs{stage=\"running\"}", 0.0),
        ("ocps_jobs_submitted_total", 1.0),
        ("ocps_executes_ended_total{outcome=\"completed\"}", 1.0),
        ("ocps_requests_wanted_total{kind=\"submit\"}", 1.0),
        ("ocps_request_seconds_count{kind=\"submit\",outcome=\"ok\"}", 1.0),
        ("ocps_backlog{kind=\"commands\"}", 0.0),
        ("ocps_journal_failing_seconds", -1.0),
    ] {
        assert_eq!(value(&text, line).unwrap_or(-1.0), expected, "{line}\n{text}");
    }
    for line in ["ocps_journal_commits_total", "ocps_turn_seconds_count", "process_threads"] {
        assert!(value(&text, line).is_some_and(|value| value > 0.0), "{line}\n{text}");
    }
    let polls = [
        "ocps_requests_wanted_total{kind=\"status\"}",
        "ocps_request_seconds_count{kind=\"status\",outcome=\"ok\"}",
    ];
    let [wanted, made] = polls.map(|line| value(&text, line).unwrap());
    assert!(wanted >= made && made >= 1.0, "{wanted} {made}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

/// What Prometheus itself says of the alerts and the metrics.
#[test]
fn promtool_takes_the_rules_and_the_metrics() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return eprintln!("skipped: promtool is not installed");
    }
    let rules = run(Command::new("promtool").args(["check", "rules", "etc/prometheus/ocps.rules.yml"]));
    assert_eq!(rules.code, Some(0), "{rules:?}");
    let home = Home::new();
    let _daemon = home.start(&["1", "--simulate"]);
    home.write("metrics", &home.client(&["metrics"]).stdout);
    let file = File::open(home.path("metrics")).unwrap();
    let metrics = run(Command::new("promtool").args(["check", "metrics"]).stdin(file));
    assert!(!metrics.stderr.contains("error"), "{metrics:?}");
}
