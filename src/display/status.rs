//! The status of the daemon in lines.

use serde_json::Value;

use super::text::{UNKNOWN, fields, fill, join, level, painted_state, value};
use super::{Tone, paint};

/// Lines that are left out if they are empty.
const OPTIONAL: [&str; 7] = ["http", "error", "start", "kafka", "log", "journal", "resumed"];

fn log_level(status: &Value) -> String {
    let number = status.get("log_level").and_then(Value::as_i64);
    number.map(|number| format!("{number} ({})", level(number).0)).unwrap_or_default()
}

/// The lines of a status document: the name and the text of each. Of what is not in the document the text is a dash.
pub(crate) fn lines(status: &Value) -> impl Iterator<Item = (&'static str, String)> {
    let join = |templates: &[&str]| join(status, templates);
    let lines = [
        ("ocps", join(&["{index} ({name})", "version {version}"])),
        ("state", state(status)),
        ("error", join(&["!{+error_code}: {error_report}"])),
        ("start", start(status)),
        ("process", join(&["{pid}", "up {uptime_s}"])),
        (
            "configuration",
            join(&["{configuration/files} in {configuration/url}", "version {configuration/version}"]),
        ),
        ("service", service(status)),
        ("kafka", kafka(status)),
        ("jobs", jobs(status)),
        ("counters", fields(status.get("counters").unwrap_or(&Value::Null))),
        ("log level", log_level(status)),
        ("log", join(&["!{log/problem}"])),
        ("socket", join(&["{socket}"])),
        ("http", join(&["{http/listen}", "!{http/problem}"])),
        ("clients", join(&["{clients}"])),
        ("state dir", join(&["{state_dir}", "!{state_dir_problem}"])),
        ("journal", journal(status)),
        (
            "resumed",
            join(&[
                "{+recovery/running} running job[s]",
                "{+recovery/in_doubt} job[s] looked up at the service",
                "{+recovery/found} unknown job[s] found at the service",
                "{+recovery/aborts} abort[s]",
                "{+recovery/results} result[s] sent again",
                "{+recovery/acks} final ack[s] sent again",
            ]),
        ),
    ];
    let is_shown = |(name, text): &(&str, String)| !(text.is_empty() && OPTIONAL.contains(name));
    let dash = |text: String| if text.is_empty() { UNKNOWN.to_owned() } else { text };
    lines.into_iter().filter(is_shown).map(move |(name, text)| (name, dash(text)))
}

fn is_simulated(status: &Value) -> bool {
    status.get("simulation_mode").and_then(Value::as_i64) == Some(1)
}

fn start(status: &Value) -> String {
    if status.pointer("/kafka/stage").is_some_and(|stage| stage == "standing by") {
        return "when the other instance is gone; until then commands are refused".to_owned();
    }
    if status.get("starting") == Some(&Value::Bool(true)) {
        return "in progress; commands wait for its end".to_owned();
    }
    join(status, &["!{start_problem}"])
}

fn state(status: &Value) -> String {
    let state = painted_state(&value(status, "state").unwrap_or_default());
    if is_simulated(status) { format!("{state}, simulated") } else { state }
}

fn service(status: &Value) -> String {
    if is_simulated(status) {
        return "simulated".to_owned();
    }
    let reachable = status.pointer("/service/reachable").and_then(Value::as_bool);
    let redis = fill(status, "Redis at {redis/address}");
    let contact = if redis.is_some() {
        "last answer {service/answered_s} ago"
    } else {
        match status.pointer("/polling/way").and_then(Value::as_str) {
            Some("list") => "polled by list every {polling/interval_s}",
            Some(_) | None => "polled singly every {polling/interval_s}",
        }
    };
    let url = redis.or_else(|| value(status, "configuration/service_url"));
    let first = match (url, reachable) {
        (None, None) => "none configured yet: start reads the configuration".to_owned(),
        (Some(url), None) => format!("{url} not asked yet"),
        (url, Some(reachable)) => {
            let url = url.unwrap_or_else(|| "that of earlier jobs".to_owned());
            let (tone, text) =
                if reachable { (Tone::Good, "reachable") } else { (Tone::Bad, "not reachable") };
            format!("{url} {}", paint(tone, text))
        }
    };
    let more = [
        "silent for {service/silent_s}",
        contact,
        "last problem {service/last_problem_s} ago: {service/last_problem}",
    ];
    [first, join(status, &more)].join(", ").trim_end_matches(", ").to_owned()
}

fn kafka(status: &Value) -> String {
    let is_joined = status.pointer("/kafka/stage").is_some_and(|stage| stage == "joined");
    let parts = [
        if is_joined { "+{kafka/stage}" } else { "!{kafka/stage}" },
        "for {kafka/other}, which is active",
        "{kafka/brokers}",
        "{+kafka/queued} waiting",
        "{+kafka/dropped} dropped",
        "{+kafka/undecodable} not understood",
        "problem: {kafka/problem}",
    ];
    join(status, &parts)
}

fn journal(status: &Value) -> String {
    if status.get("journal").is_some_and(Value::is_null) {
        return "off: a restart forgets all jobs".to_owned();
    }
    let parts = [
        "{journal/path}",
        "!not writable since {journal/failing_s}: {journal/problem}",
        "{+journal/waiting} record[s] waiting",
        "{journal/behind} message[s] behind",
        "!{journal/upkeep_problem}",
        "!{journal/notice}",
    ];
    join(status, &parts)
}

/// The number of jobs in each stage, and of the running ones in each phase at the service.
fn jobs(status: &Value) -> String {
    // `2 running` and so on, without zeros.
    let counts = |key: &str| {
        let names = status.get(key).and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
        names.filter_map(|name| fill(status, &format!("{{+{key}/{name}}} {name}"))).collect::<Vec<_>>()
    };
    let phases = counts("phases").join(", ");
    let with_phases = |part: String| {
        if part.ends_with(" running") && !phases.is_empty() { format!("{part} ({phases})") } else { part }
    };
    let parts: Vec<String> = counts("jobs").into_iter().map(with_phases).collect();
    if parts.is_empty() && status.get("jobs").is_some_and(Value::is_object) {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::plain;
    use serde_json::json;

    fn status_text(status: &Value) -> String {
        lines(status).map(|(name, text)| format!("{name:<15}{text}\n")).collect()
    }

    #[test]
    fn a_full_status_reads_well() {
        let status = json!({
            "version": "0.1.0", "index": 2, "name": "LSSTComCam", "pid": 77, "state": "FAULT",
            "error_code": 1, "error_report": "service gone", "simulation_mode": 0, "log_level": 20,
            "uptime_s": 3720.5, "socket": "/run/ocps/ocps.sock", "state_dir": null, "clients": 1,
            "configuration": {"files": "_init.yaml,a.yaml", "version": "v1", "url": "file:///c",
                              "service_url": "http://uws/api/v1", "poll_interval_s": 5.0},
            "service": {"reachable": false, "silent_s": 12.0, "last_problem": "connection refused",
                        "last_problem_s": 3.0},
            "polling": {"way": "list", "interval_s": 7.5},
            "kafka": {"brokers": "b:1", "stage": "joined", "problem": null, "queued": 2, "dropped": 0,
                      "undecodable": 1},
            "jobs": {"recording": 0, "running": 2, "aborting": 1}, "phases": {"queued": 1, "executing": 1},
            "counters": {"commands": 3, "results": 1}, "new": true,
            "journal": {"path": "/s/journal.db", "waiting": 2, "problem": "disk full", "failing_s": 61.0},
            "recovery": {"running": 2, "in_doubt": 0, "results": 1},
        });
        let expected = "\
ocps           2 (LSSTComCam), version 0.1.0
state          FAULT
error          1: service gone
process        77, up 1h02m
configuration  _init.yaml,a.yaml in file:///c, version v1
service        http://uws/api/v1 not reachable, silent for 12.0s, polled by list every 7.5s, \
last problem 3.0s ago: connection refused
kafka          joined, b:1, 2 waiting, 1 not understood
jobs           2 running (1 queued, 1 executing), 1 aborting
counters       commands=3 results=1
log level      20 (INFO)
socket         /run/ocps/ocps.sock
clients        1
state dir      -
journal        /s/journal.db, not writable since 1m01s: disk full, 2 records waiting
resumed        2 running jobs, 1 result sent again
";
        assert_eq!(plain(&status_text(&status)), expected);
    }

    #[test]
    fn a_state_directory_that_does_not_last_is_reported() {
        let status = json!({"state_dir": "/s", "state_dir_problem": "it is in memory"});
        let text = plain(&status_text(&status));
        assert!(text.contains("\nstate dir      /s, it is in memory\n"), "{text}");
    }

    #[test]
    fn redis_is_shown_where_it_is_the_service() {
        let check = |service: Value, expected: &str| {
            let configuration = json!({"service_url": "", "poll_interval_s": 5.0});
            let redis = json!({"address": "h:6379"});
            let status = json!({"configuration": configuration, "service": service, "redis": redis});
            let text = plain(&status_text(&status));
            assert!(text.contains(&format!("service        Redis at h:6379 {expected}\n")), "{text}");
        };
        check(json!({"reachable": null, "answered_s": null}), "not asked yet");
        check(json!({"reachable": true, "answered_s": 3.0}), "reachable, last answer 3.0s ago");
        check(
            json!({"reachable": false, "silent_s": 2.0, "answered_s": 9.0, "last_problem": "refused",
                   "last_problem_s": 180.0}),
            "not reachable, silent for 2.0s, last answer 9.0s ago, last problem 3m00s ago: refused",
        );
    }

    #[test]
    fn a_service_that_was_never_asked_is_not_called_reachable() {
        let check = |status: Value, expected: &str| {
            let text = plain(&status_text(&status));
            assert!(text.contains(&format!("service        {expected}\n")), "{text}");
        };
        let service = json!({"reachable": null});
        let configuration = json!({"service_url": "http://uws", "poll_interval_s": 5.0});
        let polling = json!({"way": "each", "interval_s": 5.0});
        let asked = json!({"service": service, "configuration": configuration, "polling": polling});
        check(asked, "http://uws not asked yet, polled singly every 5.0s");
        check(
            json!({"service": service, "configuration": null}),
            "none configured yet: start reads the configuration",
        );
        check(json!({"service": service, "simulation_mode": 1}), "simulated");
        check(json!({"service": service, "redis": {"address": "h:6379"}}), "Redis at h:6379 not asked yet");
    }

    #[test]
    fn a_status_with_missing_or_odd_members_is_shown() {
        for status in [json!({}), json!(null), json!([1]), json!({"jobs": 5, "service": [], "state": 2})] {
            let text = plain(&status_text(&status));
            assert!(text.contains("configuration  -\n") && text.contains("jobs           -\n"), "{text}");
        }
    }
}
