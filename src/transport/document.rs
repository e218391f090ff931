//! The documents that answer a query on the local socket. For people and scripts: see the README.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::csc::id::SalIndex;
use crate::csc::report::{JobReport, Recovery, Status};
use crate::csc::time::Tai;
use crate::journal;
use crate::transport::KafkaReport;

/// What the daemon adds to the core's status.
#[derive(Clone, Debug)]
pub struct Process<'a> {
    /// Our index.
    pub index: SalIndex,
    /// Whether jobs are only simulated.
    pub simulated: bool,
    /// Where Redis is, `host:port`; none where it is not used.
    pub redis: Option<&'a str>,
    /// Time since the start.
    pub uptime: Duration,
    /// Where the local socket is.
    pub socket: &'a Path,
    /// Where the state directory is; none in a simulation that keeps nothing.
    pub state_dir: Option<&'a Path>,
    /// How it goes with the journal; none where there is none.
    pub journal: Option<journal::Status>,
    /// Clients of the local socket.
    pub clients: usize,
    /// How it goes with Kafka, if it is used.
    pub kafka: Option<KafkaReport>,
    /// Why it is not used although it is wanted.
    pub kafka_problem: Option<&'a str>,
}

/// The answer to `{"query":"status"}`.
#[must_use]
pub fn status(status: &Status<'_>, process: &Process<'_>) -> String {
    let configuration = status.configuration.map(|configuration| {
        json!({
            "files": configuration.files,
            "version": configuration.version,
            "url": configuration.directory_url,
            "service_url": &*configuration.service.url,
            "poll_interval_s": configuration.service.poll_interval.as_secs_f64(),
        })
    });
    let service = json!({
        "reachable": status.service.silent_for.is_none(),
        "silent_s": status.service.silent_for.map(|silent| silent.as_secs_f64()),
        "last_problem": status.service.last_problem,
        "answered_s": status.service.last_believed.map(|time| time.as_secs_f64()),
    });
    let jobs: Map<String, Json> =
        status.jobs.iter().map(|(stage, count)| (stage.as_str().to_owned(), (*count).into())).collect();
    let counters = json!({
        "commands": status.counters.commands,
        "failed_commands": status.counters.failed_commands,
        "submitted": status.counters.submitted,
        "results": status.counters.results,
        "requests": status.counters.requests,
        "failed_requests": status.counters.failed_requests,
    });
    let kafka = match (&process.kafka, process.kafka_problem) {
        (Some(report), _) => json!({
            "brokers": report.brokers,
            "stage": report.stage,
            "problem": report.problem,
            "queued": report.queued,
            "dropped": report.dropped,
            "undecodable": report.undecodable,
        }),
        (None, Some(problem)) => json!({ "stage": "off", "problem": problem }),
        (None, None) => Json::Null,
    };
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "index": process.index.number(),
        "name": process.index.name(),
        "pid": std::process::id(),
        "state": status.state.name(),
        "error_code": status.error.0.number(),
        "error_report": status.error.1,
        "simulation_mode": i32::from(process.simulated),
        "log_level": status.log_level,
        "uptime_s": process.uptime.as_secs_f64(),
        "socket": process.socket.to_string_lossy(),
        "state_dir": process.state_dir.map(Path::to_string_lossy),
        "clients": process.clients,
        "kafka": kafka,
        "configuration": configuration,
        "service": service,
        "redis": process.redis.map(|address| json!({ "address": address })),
        "jobs": jobs,
        "counters": counters,
        "journal": process.journal.as_ref().map(journal),
        "recovery": recovery(&status.recovery),
    });
    json!({ "status": document }).to_string()
}

fn journal(journal: &journal::Status) -> Json {
    let problem = journal.problem.as_ref();
    json!({
        "path": journal.path.to_string_lossy(),
        "waiting": journal.waiting,
        "problem": problem.map(|(reason, _)| reason),
        "failing_s": problem.map(|(_, time)| time.as_secs_f64()),
        "upkeep_problem": journal.upkeep_problem,
        "notice": journal.notice,
        "busy_s": journal.busy.map(|time| time.as_secs_f64()),
        "last_commit_ms": journal.last_commit.map(|time| time.as_secs_f64() * 1e3),
    })
}

fn recovery(recovery: &Recovery) -> Json {
    json!({
        "running": recovery.running,
        "in_doubt": recovery.in_doubt,
        "found": recovery.found,
        "aborts": recovery.aborts,
        "results": recovery.results,
        "acks": recovery.acks,
    })
}

/// The answer to `{"query":"jobs"}`.
#[must_use]
pub fn jobs(reports: impl Iterator<Item = JobReport>, now: Tai) -> String {
    let since = |time: Tai| (now.0 - time.0).max(0.0);
    let jobs: Vec<Json> = reports
        .map(|job| {
            json!({
                "job_id": job.job_id.map(|id| id.to_string()),
                "run_id": job.run_id.as_str(),
                "seq_num": job.seq_num.0,
                "identity": job.identity,
                "pipeline": job.pipeline,
                "stage": job.stage.as_str(),
                "accepted": job.accepted.0,
                "age_s": since(job.accepted),
                "exit_code": job.exit_code.map(|code| code.number()),
                "ended_s": job.ended.map(since),
                "problem": job.problem,
            })
        })
        .collect();
    json!({ "jobs": jobs }).to_string()
}
