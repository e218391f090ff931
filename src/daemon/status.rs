//! The documents that answer a query on the local socket, described in ocps-protocol(7), and the status line for the
//! service manager.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use strum::VariantArray;

use super::Daemon;
use crate::clock::utc;
use crate::csc::event::{ErrorCode, ExitCode, Phase};
use crate::csc::history::Note;
use crate::csc::id::JobId;
use crate::csc::report::{JobHistory, JobOutcome, JobReport, Service, StageName, Status};
use crate::csc::state::SummaryState;
use crate::csc::time::Tai;
use crate::journal;
use crate::transport::Stage;
use crate::transport::line::Query;
use crate::transport::socket::Document;

/// A JSON object of these fields of a value.
macro_rules! fields {
    ($of:expr; $($name:ident),*) => { json!({ $(stringify!($name): $of.$name),* }) };
}

impl Daemon {
    /// The document that answers a query.
    pub(super) fn answer(&self, query: Query) -> Document {
        match query {
            Query::Status => {
                let document = json!({ "status": self.status() });
                Box::new(move || document.to_string())
            }
            Query::Metrics => {
                let (figures, status) = (self.figures.clone(), self.status());
                Box::new(move || json!({ "metrics": figures.text(status).unwrap_or_default() }).to_string())
            }
            // Only the reports are collected here: writing them as JSON takes ten times as long.
            Query::Jobs => {
                let (reports, now) = (self.turn.csc().job_reports().collect::<Vec<_>>(), self.now().tai);
                let job = move |report: &JobReport| job(report, now);
                Box::new(move || json!({ "jobs": reports.iter().map(job).collect::<Json>() }).to_string())
            }
            Query::Job(run_id) => {
                let (found, now) = (self.turn.csc().job_history(&run_id), self.now().tai);
                Box::new(move || json!({ "job": found.map(|found| whole(&found, now)) }).to_string())
            }
        }
    }

    fn status(&self) -> Json {
        let status = self.turn.csc().status();
        let setup = &self.setup;
        let waiting_commands = self.turn.early() + self.admission.waiting() + self.commands.len();
        let kafka = match (&self.kafka, self.setup.kafka.problem()) {
            (Some(kafka), _) => json!(kafka.report()),
            (None, Some(problem)) => json!({ "stage": "off", "problem": problem }),
            (None, None) => Json::Null,
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("OCPS_COMMIT"),
            "index": setup.index.number(),
            "name": setup.index.name(),
            "pid": std::process::id(),
            "state": status.state.name(),
            "error_code": status.error.0.number(),
            "error_report": status.error.1,
            "starting": !self.turn.has_started(),
            "start_problem": self.turn.start_problem(),
            "not_ready": self.not_ready(),
            "simulation_mode": i32::from(setup.reader.simulated),
            "log_level": status.log_level,
            "uptime_s": self.epoch.elapsed().as_secs_f64(),
            "socket": self.hub.path().map(Path::to_string_lossy),
            "state_dir": setup.state_dir.as_deref().map(Path::to_string_lossy),
            "log": {
                "file": setup.settings.log.file.as_deref().map(Path::to_string_lossy),
                "problem": self.logs.problem(),
            },
            "state_dir_problem": self.state_dir_problem,
            "http": {
                "listen": setup.settings.http.listen.as_ref().map(ToString::to_string),
                "problem": self.http_problem,
            },
            "clients": self.hub.clients(),
            "kafka": kafka,
            "configuration": configuration(&status),
            "service": service(&status.service),
            "polling": {
                "way": if status.polling.by_list { "list" } else { "each" },
                "interval_s": seconds(status.polling.interval),
            },
            "redis": self.redis.as_ref().map(|address| json!({ "address": address })),
            "jobs": counts(status.jobs.iter().map(|(stage, count)| (stage.as_str(), *count))),
            "phases": counts(self.turn.csc().phases().iter().map(|(phase, count)| (phase.as_str(), *count))),
            "executes": counts(JobOutcome::VARIANTS.iter().map(|outcome| {
                (outcome.as_str(), status.counters.executes.get(outcome).copied().unwrap_or_default())
            })),
            "backlog": { "commands": waiting_commands, "requests": self.workers.waiting() },
            "counters": fields!(status.counters;
                commands, failed_commands, submitted, results, requests, failed_requests),
            "journal": self.journal.as_ref().map(|journal| self::journal(&journal.status())),
            "recovery": fields!(status.recovery; running, in_doubt, found, aborts, results, acks),
        })
    }

    /// Why commands cannot be taken now, in one line, for the readiness probes.
    fn not_ready(&self) -> Option<String> {
        if !self.turn.has_started() {
            return Some("the daemon is starting: commands wait until it has started".to_owned());
        }
        if self.turn.csc().state() == SummaryState::Offline {
            return Some("the daemon is stopping".to_owned());
        }
        let off = self.setup.kafka.problem().map(str::to_owned);
        let kafka = self.kafka.as_ref().map(|kafka| kafka.report()).filter(|report| !report.up);
        let kafka = off.or(kafka.map(|report| report.problem.unwrap_or_else(|| report.stage.to_owned())));
        if let Some(problem) = kafka {
            return Some(format!("no commands over Kafka: {problem}"));
        }
        let (problem, _) = self.journal.as_ref()?.status().problem?;
        Some(format!("the journal cannot be written: {problem}"))
    }

    /// The status line for the service manager.
    pub(super) fn manager_status(&self) -> String {
        let status = self.turn.csc().status();
        let jobs: usize = status.jobs.iter().map(|(_, count)| count).sum();
        let running =
            status.jobs.iter().find(|(name, _)| *name == StageName::Running).map_or(0, |(_, count)| *count);
        let error = match (status.error, self.turn.start_problem()) {
            ((ErrorCode::None, _), None) => String::new(),
            ((ErrorCode::None, _), Some(problem)) => format!("; {problem}"),
            ((code, report), _) => format!("; errorCode {}: {report}", code.number()),
        };
        let (other, problem) = match self.kafka.as_ref().map(|kafka| kafka.report()) {
            Some(report) => (report.other, report.problem),
            None => (None, self.setup.kafka.problem().map(str::to_owned)),
        };
        let kafka = problem.map(|problem| format!("; Kafka: {problem}")).unwrap_or_default();
        if let Some(who) = other.filter(|_| self.stage() == Some(Stage::StandingBy)) {
            return format!("standing by for {who}{kafka}");
        }
        let jobs = match jobs {
            0 => "no jobs".to_owned(),
            jobs => format!("unfinished jobs: {jobs}, running: {running}"),
        };
        format!("{}: {jobs}{error}{kafka}", status.state)
    }
}

fn counts<'a>(counts: impl Iterator<Item = (&'a str, usize)>) -> Map<String, Json> {
    counts.map(|(name, count)| (name.to_owned(), count.into())).collect()
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

fn configuration(status: &Status<'_>) -> Option<Json> {
    let configuration = status.configuration?;
    Some(json!({
        "files": configuration.files,
        "version": configuration.version,
        "url": configuration.directory_url,
        "service_url": configuration.service.url.to_string(),
        "poll_interval_s": configuration.service.poll_interval.as_secs_f64(),
    }))
}

fn service(service: &Service) -> Json {
    let problem = service.last_problem.as_ref();
    json!({
        "reachable": service.asked.then_some(service.silent_for.is_none()),
        "silent_s": seconds(service.silent_for),
        "last_problem": problem.map(|problem| &problem.reason),
        "last_problem_s": seconds(problem.map(|problem| problem.age)),
        "last_problem_utc": problem.map(|problem| utc(problem.at)),
        "answered_s": seconds(service.last_believed),
    })
}

fn journal(journal: &journal::Status) -> Json {
    json!({
        "path": journal.path.to_string_lossy(),
        "waiting": journal.waiting,
        "behind": journal.behind,
        "lag_s": journal.waiting_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
        "commits": journal.commits,
        "problem": journal.problem.as_ref().map(|(reason, _)| reason),
        "failing_s": seconds(journal.problem.as_ref().map(|(_, since)| since.elapsed())),
        "upkeep_problem": journal.upkeep_problem,
        "notice": journal.notice,
        "busy_s": seconds(journal.busy_since.map(|since| since.elapsed())),
        "last_commit_s": seconds(journal.last_commit),
    })
}

fn whole(whole: &JobHistory, now: Tai) -> Json {
    let Json::Object(mut document) = job(&whole.report, now) else { return Json::Null };
    let note = |note: &Note| {
        json!({
            "at": note.at.0,
            "at_utc": utc(note.at),
            "kind": note.kind.as_str(),
            "about": &*note.about,
            "text": note.to_string(),
        })
    };
    let undelivered = whole.undelivered.iter().map(<&str>::from);
    document.insert("history".to_owned(), whole.notes.iter().map(note).collect());
    document.insert("undelivered".to_owned(), undelivered.collect());
    Json::Object(document)
}

fn job(job: &JobReport, now: Tai) -> Json {
    let since = |time: Tai| (now.0 - time.0).max(0.0);
    let ids = |ids: &[JobId]| ids.iter().map(JobId::as_str).collect::<Json>();
    json!({
        "job_id": job.job_id.as_ref().map(JobId::as_str),
        "run_id": job.run_id.as_str(),
        "service_url": job.url.to_string(),
        "seq_num": job.seq_num.0,
        "identity": job.identity,
        "origin": job.origin,
        "pipeline": job.pipeline,
        "version": job.version,
        "data_query": job.data_query,
        "run_options": job.run_options,
        "output_glob": job.output_glob,
        "stage": job.stage.as_str(),
        "phase": job.phase.map(Phase::as_str),
        "polled_s": seconds(job.polled),
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
