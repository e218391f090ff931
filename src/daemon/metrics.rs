//! The metrics, as a text in OpenMetrics: the numbers of the status document, and distributions.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value as Json;

use crate::clock;
use crate::csc::HEARTBEAT;
use crate::csc::request::{Action, Answer, Outcome};
use crate::csc::state::SummaryState;

/// Upper bounds of the times of requests, in seconds: a poll takes milliseconds, a submission may take a minute.
const REQUEST_BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// Upper bounds of the times within the process, in seconds.
const TURN_BOUNDS: [f64; 9] = [0.0001, 0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0];

/// A number of the status document: its name, its meaning, and its place. `PLACE/* LABEL` is an object, each key of which
/// is a value of the label. A number that is null is left out.
type Number = (&'static str, &'static str, &'static str);

const GAUGES: [Number; 24] = [
    ("ocps_error_code", "errorCode that was not cleared; 0 is none", "/error_code"),
    ("ocps_starting", "1 while the daemon is starting", "/starting"),
    ("ocps_uptime_seconds", "Time since the start", "/uptime_s"),
    ("ocps_clients", "Clients of the local socket", "/clients"),
    ("ocps_simulation_mode", "1 if jobs are only simulated", "/simulation_mode"),
    ("ocps_jobs", "Jobs that have not ended, by stage", "/jobs/* stage"),
    ("ocps_jobs_running", "Running jobs, by phase at the service", "/phases/* phase"),
    ("ocps_backlog", "What waits to be handled: commands, requests to the service", "/backlog/* kind"),
    ("ocps_service_up", "Whether the execution service answers", "/service/reachable"),
    ("ocps_service_silent_seconds", "For how long the service has not answered", "/service/silent_s"),
    ("ocps_service_answered_seconds", "Time since its last valid answer", "/service/answered_s"),
    ("ocps_poll_interval_seconds", "Time between polls of a job", "/configuration/poll_interval_s"),
    ("ocps_kafka_up", "Whether Kafka is joined and its brokers can be reached", "/kafka/up"),
    ("ocps_kafka_queued", "Messages that the broker has not confirmed", "/kafka/queued"),
    ("ocps_journal_waiting", "Records that are not on the disk", "/journal/waiting"),
    ("ocps_journal_lag_seconds", "For how long the oldest of them has waited", "/journal/lag_s"),
    ("ocps_journal_busy_seconds", "For how long the disk has not answered", "/journal/busy_s"),
    ("ocps_journal_failing_seconds", "For how long nothing can be written", "/journal/failing_s"),
    ("ocps_journal_last_commit_seconds", "How long the last commit took", "/journal/last_commit_s"),
    ("ocps_recovered_jobs", "Jobs of the previous run that are tracked", "/recovery/running"),
    ("process_resident_memory_bytes", "Resident memory", "/process/resident_bytes"),
    ("process_threads", "Threads", "/process/threads"),
    ("process_open_fds", "Open file descriptors", "/process/open_fds"),
    ("process_max_fds", "Most file descriptors", "/process/max_fds"),
];

const COUNTERS: [Number; 8] = [
    ("ocps_commands", "Commands taken", "/counters/commands"),
    ("ocps_commands_failed", "Commands refused, failed or aborted", "/counters/failed_commands"),
    ("ocps_jobs_submitted", "Jobs created at the service", "/counters/submitted"),
    ("ocps_results", "job_result events", "/counters/results"),
    ("ocps_executes_ended", "Executes that ended, by outcome", "/executes/* outcome"),
    ("ocps_kafka_dropped", "Messages dropped since there were too many", "/kafka/dropped"),
    ("ocps_kafka_undecodable", "Messages that were not understood", "/kafka/undecodable"),
    ("ocps_journal_commits", "Commits of the journal", "/journal/commits"),
];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The distributions, which the main loop measures; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    asked: Family<Labels<1>, Counter>,
    answered: Family<Labels<2>, Histogram, fn() -> Histogram>,
    turns: Histogram,
    lateness: Histogram,
    last_heartbeat: Option<Instant>,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            asked: Family::default(),
            answered: Family::new_with_constructor(|| Histogram::new(REQUEST_BOUNDS)),
            turns: Histogram::new(TURN_BOUNDS),
            lateness: Histogram::new(TURN_BOUNDS),
            last_heartbeat: None,
        }
    }

    /// The core asks for this request.
    pub(super) fn asked(&self, action: &Action) {
        self.asked.get_or_create(&[("kind", action.into())]).inc();
    }

    /// A request was answered, or failed.
    pub(super) fn answered(&self, outcome: &Outcome) {
        let labels = [("kind", (&outcome.answer).into()), ("outcome", came_of(&outcome.answer))];
        self.answered.get_or_create(&labels).observe(outcome.took.as_secs_f64());
    }

    pub(super) fn turn(&self, took: Duration) {
        self.turns.observe(took.as_secs_f64());
    }

    /// A heartbeat is published; its lateness follows from the time of the one before.
    pub(super) fn heartbeat(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last_heartbeat.replace(now) {
            self.lateness.observe((now - last).saturating_sub(HEARTBEAT).as_secs_f64());
        }
    }

    /// All metrics, those of a status document included. Reads `/proc`, and so is not for the main loop.
    pub(super) fn text(&self, mut status: Json) -> Result<String, fmt::Error> {
        if let Json::Object(status) = &mut status {
            status.insert("process".to_owned(), process());
        }
        let word = |key: &str| {
            let value = status.get(key).unwrap_or(&Json::Null);
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        let build = ["version", "commit", "index", "name"].map(|key| (key, word(key)));
        let start = clock::unix_now() - status.get("uptime_s").and_then(Json::as_f64).unwrap_or(0.0);
        let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        let yes = |is_so: bool| f64::from(u8::from(is_so));
        let states = SummaryState::ALL
            .map(|known| (vec![("state", known.name().to_owned())], yes(word("state") == known.name())));
        let ready = yes(status.get("not_ready").is_some_and(Json::is_null));
        let alone = |value: f64| vec![(Vec::new(), value)];
        let gauges = [
            // Not of the type `info`, which the textfile collector does not know.
            ("ocps_build_info", "This program", vec![(build.to_vec(), 1.0)]),
            ("ocps_state", "1 for the summary state", states.to_vec()),
            ("ocps_ready", "Whether commands are taken", alone(ready)),
            ("process_start_time_seconds", "Unix time of the start", alone(start)),
        ];
        let counters = [("process_cpu_seconds", "Processor time", alone(cpu.as_secs_f64()))];
        let of_status = |(name, help, place): Number| (name, help, values(&status, place));
        let mut registry = Registry::default();
        registry.register(
            "ocps_requests_wanted",
            "Requests to the service that were wanted, by kind; status is a poll",
            self.asked.clone(),
        );
        registry.register(
            "ocps_request_seconds",
            "Time of requests to the service that were made, by kind and outcome",
            self.answered.clone(),
        );
        registry.register("ocps_turn_seconds", "Time of turns of the main loop", self.turns.clone());
        registry.register(
            "ocps_heartbeat_lateness_seconds",
            "How late heartbeats are",
            self.lateness.clone(),
        );
        for metric in gauges.into_iter().chain(GAUGES.map(of_status)) {
            register(&mut registry, metric, |gauge: &Gauge<f64, AtomicU64>, value| {
                gauge.set(value);
            });
        }
        for metric in counters.into_iter().chain(COUNTERS.map(of_status)) {
            register(&mut registry, metric, |counter: &Counter<f64, AtomicU64>, value| {
                counter.inc_by(value);
            });
        }
        let mut out = String::new();
        text::encode(&mut out, &registry).map(|()| out)
    }
}

/// Values with their labels.
type Values = Vec<(Vec<(&'static str, String)>, f64)>;

/// The values of a number of a status document.
fn values(status: &Json, place: &'static str) -> Values {
    let value = |json: &Json| json.as_f64().or_else(|| json.as_bool().map(|yes| f64::from(u8::from(yes))));
    let Some((place, label)) = place.split_once("/* ") else {
        return status.pointer(place).and_then(value).map(|value| (Vec::new(), value)).into_iter().collect();
    };
    let object = status.pointer(place).and_then(Json::as_object).into_iter().flatten();
    object.filter_map(|(key, json)| Some((vec![(label, key.clone())], value(json)?))).collect()
}

/// Registers a metric, unless it has no values.
fn register<M: Metric + TypedMetric + Default>(
    registry: &mut Registry,
    (name, help, values): (&str, &str, Values),
    set: impl Fn(&M, f64),
) {
    if !values.is_empty() {
        let family = Family::<Vec<(&str, String)>, M>::default();
        values.into_iter().for_each(|(labels, value)| set(&family.get_or_create(&labels), value));
        registry.register(name, help, family);
    }
}

/// The outcome of a request, in one word.
fn came_of(answer: &Answer) -> &'static str {
    match answer.of_service() {
        None => "rejected",
        Some(Ok(())) => "ok",
        Some(Err(failure)) => failure.kind.into(),
    }
}

/// The figures of this process, as far as the kernel gives them.
fn process() -> Json {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let open = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    serde_json::json!({
        "resident_bytes": number("VmRSS").map(|kib| kib * 1024),
        "threads": number("Threads"),
        // Without the descriptor of this directory.
        "open_fds": open.map(|open| open.saturating_sub(1)),
        "max_fds": getrlimit(Resource::Nofile).current,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::csc::request::{Outcome, Ticket};

    /// All names that a scrape may see.
    fn names() -> BTreeSet<String> {
        let mut figures = Figures::new();
        figures.asked(&Action::Ping);
        figures.answered(&Outcome { ticket: Ticket(1), took: Duration::ZERO, answer: Answer::Ping(Ok(())) });
        figures.turn(Duration::ZERO);
        figures.heartbeat();
        let text = figures.text(Json::Object(serde_json::Map::new())).unwrap();
        let word = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        let seen = text.lines().filter(|line| !line.starts_with('#')).map(word);
        let gauges = GAUGES.iter().map(|(name, ..)| (*name).to_owned());
        let counters = COUNTERS.iter().map(|(name, ..)| format!("{name}_total"));
        seen.chain(gauges).chain(counters).collect()
    }

    #[test]
    fn alerts_and_dashboard_use_metrics_that_exist() {
        let known = names();
        for path in ["etc/prometheus/ocps.rules.yml", "etc/grafana/ocps.json"] {
            let text = fs::read_to_string(path).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names = words.filter(|word| word.starts_with("ocps_") || word.starts_with("process_"));
            let used: Vec<&str> = names.filter(|name| !name.ends_with("_limit_s")).collect();
            assert!(used.len() > 12, "{used:?}");
            for name in used {
                assert!(known.contains(name), "{path} uses {name}, which is none of {known:#?}");
            }
        }
        let dashboard: Json =
            serde_json::from_str(&fs::read_to_string("etc/grafana/ocps.json").unwrap()).unwrap();
        assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    }
}
