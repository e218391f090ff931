//! `ocps status`: what the daemon is doing.

use serde_json::{Map, Value};

use super::Failure;
use super::client::{Client, Query};
use super::flags::StatusArgs;
use super::output::{Output, Palette, Tone};
use super::text::{UNKNOWN, clean, duration, scalar, state};

/// Width of the names in front.
const COLUMN: usize = 15;

/// Runs `ocps status`.
///
/// # Errors
/// Whatever breaks before the status is printed.
pub(super) fn run(args: &StatusArgs, out: &mut Output) -> Result<(), Failure> {
    let status = Client::connect(&args.target)?.query(Query::Status)?;
    if args.json {
        return out.line(&status.to_string());
    }
    out.text(&status_text(out.palette(), &status))
}

/// The status document as lines for people. What it lacks is shown as a dash.
pub(super) fn status_text(palette: Palette, status: &Value) -> String {
    let get = |key: &str| scalar(status.get(key));
    let mut out = String::new();
    let mut line = |name: &str, value: &str| out.push_str(&format!("{name:<COLUMN$}{value}\n"));
    line("ocps", &format!("{} ({}), version {}", get("index"), get("name"), get("version")));
    let simulated =
        if status.get("simulation_mode").and_then(Value::as_i64) == Some(1) { ", simulated" } else { "" };
    line("state", &format!("{}{simulated}", state(palette, &get("state"))));
    if status.get("error_code").and_then(Value::as_i64).is_some_and(|code| code != 0) {
        let error = format!("{}: {}", get("error_code"), get("error_report"));
        line("error", &palette.paint(Tone::Bad, &error));
    }
    if status.get("starting") == Some(&Value::Bool(true)) {
        line("start", "under way; commands wait for its end");
    }
    if let Some(problem) = status.get("start_problem").and_then(Value::as_str) {
        line("start", &palette.paint(Tone::Bad, &clean(problem)));
    }
    line("process", &format!("{}, up {}", get("pid"), duration(status.get("uptime_s"))));
    line("configuration", &configuration(status.get("configuration")));
    line("service", &service(palette, status));
    if let Some(kafka @ Value::Object(_)) = status.get("kafka") {
        line("kafka", &self::kafka(palette, kafka));
    }
    line("jobs", &jobs(status));
    line("counters", &numbers(status.get("counters")));
    line("log level", &get("log_level"));
    if let Some(problem) = status.pointer("/log/problem").and_then(Value::as_str) {
        line("log", &palette.paint(Tone::Bad, &clean(problem)));
    }
    line("socket", &get("socket"));
    line("clients", &get("clients"));
    line("state dir", &state_dir(palette, status));
    if let Some(journal) = status.get("journal") {
        line("journal", &self::journal(palette, journal));
    }
    if let Some(recovery) = recovery(status.get("recovery")) {
        line("taken over", &recovery);
    }
    out
}

fn state_dir(palette: Palette, status: &Value) -> String {
    let dir = scalar(status.get("state_dir"));
    match status.get("state_dir_problem").and_then(Value::as_str) {
        Some(problem) => format!("{dir}, {}", palette.paint(Tone::Bad, &clean(problem))),
        None => dir,
    }
}

fn configuration(value: Option<&Value>) -> String {
    let Some(configuration @ Value::Object(_)) = value else { return UNKNOWN.to_owned() };
    let get = |key: &str| scalar(configuration.get(key));
    format!("{} in {}, version {}", get("files"), get("url"), get("version"))
}

fn service(palette: Palette, status: &Value) -> String {
    let of = |part: &str, key: &str| status.get(part).and_then(|part| part.get(key));
    let service = |key| of("service", key);
    if status.get("simulation_mode").and_then(Value::as_i64) == Some(1) {
        return "simulated".to_owned();
    }
    let redis = of("redis", "address");
    let url = match redis {
        Some(address) => format!("Redis at {}", scalar(Some(address))),
        None => match scalar(of("configuration", "service_url")) {
            url if url == UNKNOWN && service("reachable").is_some_and(Value::is_boolean) => {
                "that of earlier jobs".to_owned()
            }
            url => url,
        },
    };
    let answered = service("answered_s").filter(|time| time.is_number());
    let mut text = match service("reachable").and_then(Value::as_bool) {
        None if url == UNKNOWN => "none configured yet: start reads the configuration".to_owned(),
        None => format!("{url} not asked yet"),
        Some(true) => format!("{url} {}", palette.paint(Tone::Good, "reachable")),
        Some(false) => format!("{url} {}", palette.paint(Tone::Bad, "not reachable")),
    };
    if service("silent_s").is_some_and(Value::is_number) {
        text.push_str(&format!(", silent for {}", duration(service("silent_s"))));
    }
    if redis.is_some() {
        if answered.is_some() {
            text.push_str(&format!(", last answer {} ago", duration(answered)));
        }
    } else if of("configuration", "poll_interval_s").is_some_and(Value::is_number) {
        text.push_str(&format!(", polled every {}", duration(of("configuration", "poll_interval_s"))));
    }
    if let Some(problem) = service("last_problem").and_then(Value::as_str) {
        let age = duration(service("last_problem_s"));
        text.push_str(&format!(", last problem {age} ago: {}", clean(problem)));
    }
    text
}

fn kafka(palette: Palette, kafka: &Value) -> String {
    let count = |key: &str| kafka.get(key).and_then(Value::as_u64).filter(|count| *count > 0);
    let stage = scalar(kafka.get("stage"));
    let tone = if stage == "joined" { Tone::Good } else { Tone::Bad };
    let mut text = palette.paint(tone, &stage);
    if let Some(brokers) = kafka.get("brokers").and_then(Value::as_str) {
        text.push_str(&format!(", {}", clean(brokers)));
    }
    for (key, what) in [("queued", "waiting"), ("dropped", "dropped"), ("undecodable", "not understood")] {
        if let Some(count) = count(key) {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(problem) = kafka.get("problem").and_then(Value::as_str) {
        text.push_str(&format!(", problem: {}", clean(problem)));
    }
    text
}

fn journal(palette: Palette, journal: &Value) -> String {
    if journal.is_null() {
        return "off: a restart forgets all jobs".to_owned();
    }
    let mut text = scalar(journal.get("path"));
    if let Some(problem) = journal.get("problem").and_then(Value::as_str) {
        let problem =
            format!("cannot be written for {}: {}", duration(journal.get("failing_s")), clean(problem));
        text.push_str(&format!(", {}", palette.paint(Tone::Bad, &problem)));
    }
    if let Some(waiting) = journal.get("waiting").and_then(Value::as_u64).filter(|waiting| *waiting > 0) {
        text.push_str(&format!(", {waiting} records waiting"));
    }
    for key in ["upkeep_problem", "notice"] {
        if let Some(said) = journal.get(key).and_then(Value::as_str) {
            text.push_str(&format!(", {}", palette.paint(Tone::Bad, &clean(said))));
        }
    }
    text
}

/// What was done about what earlier runs left; nothing is said if there was nothing.
fn recovery(value: Option<&Value>) -> Option<String> {
    let names = [
        ("running", "running jobs followed on"),
        ("in_doubt", "jobs in doubt looked for"),
        ("found", "unknown jobs found at the service"),
        ("aborts", "aborts gone on with"),
        ("results", "results said again"),
        ("acks", "final acks said again"),
    ];
    let count = |key: &str| value?.get(key)?.as_u64().filter(|count| *count > 0);
    let parts = names.iter().filter_map(|(key, what)| count(key).map(|count| format!("{count} {what}")));
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The stages in which there are jobs, and of those that run their phases at the service.
fn jobs(status: &Value) -> String {
    let Some(stages) = status.get("jobs").and_then(Value::as_object) else { return UNKNOWN.to_owned() };
    let phases = status.get("phases").and_then(Value::as_object).map(counts).unwrap_or_default();
    let mut parts = counts(stages);
    for part in parts.iter_mut().filter(|part| part.ends_with(" running") && !phases.is_empty()) {
        part.push_str(&format!(" ({})", phases.join(", ")));
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// `2 running` and so on, without what there is none of.
fn counts(numbers: &Map<String, Value>) -> Vec<String> {
    let some = numbers.iter().filter(|(_, count)| count.as_i64() != Some(0));
    some.map(|(name, count)| format!("{} {}", scalar(Some(count)), clean(name))).collect()
}

fn numbers(value: Option<&Value>) -> String {
    let Some(counters) = value.and_then(Value::as_object).filter(|counters| !counters.is_empty()) else {
        return UNKNOWN.to_owned();
    };
    let part = |(name, count): (&String, &Value)| format!("{}={}", clean(name), scalar(Some(count)));
    counters.iter().map(part).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
service        http://uws/api/v1 not reachable, silent for 12.0s, polled every 5.0s, \
last problem 3.0s ago: connection refused
kafka          joined, b:1, 2 waiting, 1 not understood
jobs           2 running (1 queued, 1 executing), 1 aborting
counters       commands=3 results=1
log level      20
socket         /run/ocps/ocps.sock
clients        1
state dir      -
journal        /s/journal.db, cannot be written for 1m01s: disk full, 2 records waiting
taken over     2 running jobs followed on, 1 results said again
";
        assert_eq!(status_text(Palette::Plain, &status), expected);
    }

    #[test]
    fn a_state_directory_that_does_not_last_is_said_to() {
        let status = json!({"state_dir": "/s", "state_dir_problem": "it is in memory"});
        let text = status_text(Palette::Plain, &status);
        assert!(text.contains("\nstate dir      /s, it is in memory\n"), "{text}");
    }

    #[test]
    fn redis_is_shown_where_it_is_the_service() {
        let check = |service: Value, expected: &str| {
            let configuration = json!({"service_url": "", "poll_interval_s": 5.0});
            let redis = json!({"address": "h:6379"});
            let status = json!({"configuration": configuration, "service": service, "redis": redis});
            let text = status_text(Palette::Plain, &status);
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
            let text = status_text(Palette::Plain, &status);
            assert!(text.contains(&format!("service        {expected}\n")), "{text}");
        };
        let service = json!({"reachable": null});
        let configuration = json!({"service_url": "http://uws", "poll_interval_s": 5.0});
        let asked = json!({"service": service, "configuration": configuration});
        check(asked, "http://uws not asked yet, polled every 5.0s");
        check(
            json!({"service": service, "configuration": null}),
            "none configured yet: start reads the configuration",
        );
        check(json!({"service": service, "simulation_mode": 1}), "simulated");
        check(json!({"service": service, "redis": {"address": "h:6379"}}), "Redis at h:6379 not asked yet");
    }

    #[test]
    fn what_is_missing_or_odd_is_no_problem() {
        for status in [json!({}), json!(null), json!([1]), json!({"jobs": 5, "service": [], "state": 2})] {
            let text = status_text(Palette::Plain, &status);
            assert!(text.contains("configuration  -\n") && text.contains("jobs           -\n"), "{text}");
        }
    }
}
