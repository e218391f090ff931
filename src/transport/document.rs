//! The documents that answer a query on the local socket. For people and scripts: see the README.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::csc::event::{ExitCode, Phase};
use crate::csc::id::{JobId, SalIndex};
use crate::csc::report::{JobOutcome, JobReport, Recovery, Service, Status};
use crate::csc::time::Tai;
use crate::journal;
use crate::logging::LogReport;
use crate::sal::time::utc;
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
    /// Where the local socket is, if there is one.
    pub socket: Option<&'a Path>,
    /// Where the state directory is; none without a journal.
    pub state_dir: Option<&'a Path>,
    /// Why it does not outlive the container or the machine.
    pub state_dir_problem: Option<&'a str>,
    /// How it goes with the journal; none where there is none.
    pub journal: Option<journal::Status>,
    /// How it goes with the log.
    pub log: LogReport,
    /// Whether the start has not ended.
    pub starting: bool,
    /// Why the state that the command line asks for was not reached.
    pub start_problem: Option<&'a str>,
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
            "service_url": configuration.service.url.to_string(),
            "poll_interval_s": configuration.service.poll_interval.as_secs_f64(),
        })
    });
    let jobs: Map<String, Json> =
        status.jobs.iter().map(|(stage, count)| (stage.as_str().to_owned(), (*count).into())).collect();
    let phases: Map<String, Json> =
        status.phases.iter().map(|(phase, count)| (phase.as_str().to_owned(), (*count).into())).collect();
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
        "starting": process.starting,
        "start_problem": process.start_problem,
        "simulation_mode": i32::from(process.simulated),
        "log_level": status.log_level,
        "uptime_s": process.uptime.as_secs_f64(),
        "socket": process.socket.map(Path::to_string_lossy),
        "state_dir": process.state_dir.map(Path::to_string_lossy),
        "log": { "file": process.log.file, "problem": process.log.problem },
        "state_dir_problem": process.state_dir_problem,
        "clients": process.clients,
        "kafka": kafka,
        "configuration": configuration,
        "service": service(&status.service),
        "redis": process.redis.map(|address| json!({ "address": address })),
        "jobs": jobs,
        "phases": phases,
        "counters": counters,
        "journal": process.journal.as_ref().map(journal),
        "recovery": recovery(&status.recovery),
    });
    json!({ "status": document }).to_string()
}

fn service(service: &Service) -> Json {
    let problem = service.last_problem.as_ref();
    json!({
        "reachable": service.asked.then_some(service.silent_for.is_none()),
        "silent_s": service.silent_for.map(|silent| silent.as_secs_f64()),
        "last_problem": problem.map(|problem| &problem.reason),
        "last_problem_s": problem.map(|problem| problem.age.as_secs_f64()),
        "last_problem_utc": problem.map(|problem| utc(problem.at)),
        "answered_s": service.last_believed.map(|time| time.as_secs_f64()),
    })
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
    let jobs: Vec<Json> = reports.map(|report| job(&report, now)).collect();
    json!({ "jobs": jobs }).to_string()
}

fn job(job: &JobReport, now: Tai) -> Json {
    let since = |time: Tai| (now.0 - time.0).max(0.0);
    let ids = |ids: &[JobId]| ids.iter().map(JobId::as_str).collect::<Json>();
    json!({
        "job_id": job.job_id.as_ref().map(JobId::as_str),
        "run_id": job.run_id.as_str(),
        "seq_num": job.seq_num.0,
        "identity": job.identity,
        "origin": job.origin,
        "pipeline": job.pipeline,
        "version": job.version,
        "data_query": job.data_query,
        "stage": job.stage.as_str(),
        "phase": job.phase.map(Phase::as_str),
        "waits_for": ids(&job.waits_for),
        "missing_prereqs": ids(&job.missing_prereqs),
        "accepted": job.accepted.0,
        "accepted_utc": utc(job.accepted),
        "age_s": since(job.accepted),
        "ended": job.ended.map(|time| time.0),
        "ended_utc": job.ended.map(utc),
        "ended_s": job.ended.map(since),
        "exit_code": job.exit_code.map(ExitCode::number),
        "outcome": job.outcome.map(JobOutcome::as_str),
        "reason": job.outcome.and(job.problem.as_ref()),
        "problem": job.problem,
    })
}
