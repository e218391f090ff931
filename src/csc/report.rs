//! What the core reports about itself: read-only, made on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray, VariantNames};

use super::Csc;
use super::configuration::Configuration;
use super::event::{Ack, ErrorCode, ExitCode, Phase, ResultObject};
use super::history::{History, Note, NoteKind};
use super::id::{EntryKey, JobId, RunId, SeqNum};
use super::job::{Job, Stage};
use super::jobs::EndedJob;
use super::polls::Polled;
use super::record::{Completion, Deliverable};
use super::state::SummaryState;
use super::time::Tai;
use crate::url::Url;

/// Longest text of a command that is reported, in characters.
const TEXT_MAX: usize = 2000;

/// Numbers since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands that were received.
    pub commands: u64,
    /// Commands that were refused, failed or were aborted.
    pub failed_commands: u64,
    /// Jobs created at the service.
    pub submitted: u64,
    /// `job_result` events.
    pub results: u64,
    /// Requests to the back-end.
    pub requests: u64,
    /// Requests that failed.
    pub failed_requests: u64,
    /// Executes that were accepted and have ended, by outcome.
    pub executes: BTreeMap<JobOutcome, usize>,
}

/// What was resumed from previous runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Running jobs that are polled on.
    pub running: u64,
    /// Jobs that wait for their prerequisites, or are looked for at the service since they may exist.
    pub in_doubt: u64,
    /// Jobs of ours that ran at the service although the journal did not know them; they are polled too.
    pub found: u64,
    /// Aborts that were resumed.
    pub aborts: u64,
    /// Results that were published again, since their delivery was not confirmed.
    pub results: u64,
    /// Final acks that were sent again.
    pub acks: u64,
}

/// The service's health.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Whether it was asked anything, with an answer or without.
    pub asked: bool,
    /// For how long it has been silent; none while it answers.
    pub silent_for: Option<Duration>,
    /// The last thing that went wrong with a request.
    pub last_problem: Option<Problem>,
    /// Time since its last valid answer; none before the first.
    pub last_believed: Option<Duration>,
}

/// How the jobs of a service are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// Whether by its list, not by a request for each job.
    pub by_list: bool,
    /// Time between polls of a job, once it is configured; longer than configured if the service cannot keep up.
    pub interval: Option<Duration>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What went wrong, in one line.
    pub reason: String,
    /// How long ago it went wrong.
    pub age: Duration,
    /// When it went wrong.
    pub at: Tai,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum StageName {
    /// Its record is being made durable.
    Recording,
    /// It waits for its prerequisites.
    Waiting,
    /// The service is asked to create it.
    Submitting,
    /// It exists and is polled.
    Running,
    /// It is being aborted.
    Aborting,
    /// It has ended.
    Finished,
}

impl StageName {
    /// The stages of a job that has not ended.
    pub const UNFINISHED: [Self; 5] =
        [Self::Recording, Self::Waiting, Self::Submitting, Self::Running, Self::Aborting];

    /// The stage in one word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    pub(super) fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Recording { .. } => Self::Recording,
            Stage::Waiting { .. } => Self::Waiting,
            Stage::Submitting(_) => Self::Submitting,
            Stage::Running { .. } => Self::Running,
            Stage::Aborting { .. } => Self::Aborting,
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum JobOutcome {
    /// The service says that it succeeded.
    Completed,
    /// The service says that it did not succeed.
    Failed,
    /// The service does not know it any more, or gives no valid answer about it.
    Vanished,
    /// It was aborted by `abort_job`.
    Aborted,
    /// There never was a job: its submission was refused or given up.
    Refused,
}

impl JobOutcome {
    /// The outcome in one word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The outcome of the job of an execute that ended so.
    pub(super) fn of(end: &Completion) -> Self {
        match end.result.as_ref().map(|result| (result.exit_code, &result.result)) {
            None if end.ack == Ack::Aborted => Self::Aborted,
            None => Self::Refused,
            Some((ExitCode::Completed, _)) => Self::Completed,
            Some((ExitCode::Aborted, _)) => Self::Aborted,
            // The ack differs only if the simulator broke down, which is a failure.
            Some((ExitCode::Error, ResultObject::Known { .. })) if end.ack == Ack::Complete => Self::Vanished,
            Some((ExitCode::Error, ResultObject::Known { .. } | ResultObject::Service(_))) => Self::Failed,
        }
    }
}

/// The component as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Status<'a> {
    /// Its summary state.
    pub state: SummaryState,
    /// The last error code that was not cleared, and its report.
    pub error: (ErrorCode, &'a str),
    /// Minimum log level, Python's number.
    pub log_level: i32,
    /// What the last `start` read.
    pub configuration: Option<&'a Configuration>,
    /// The service's health.
    pub service: Service,
    /// How its jobs are polled.
    pub polling: Polling,
    /// Jobs that have not ended, by stage.
    pub jobs: [(StageName, usize); 5],
    /// What was resumed from previous runs.
    pub recovery: Recovery,
    /// Numbers since the start of the daemon.
    pub counters: &'a Counters,
}

/// One job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobReport {
    /// Its id, once it exists.
    pub job_id: Option<JobId>,
    /// Its run id.
    pub run_id: RunId,
    /// Its service; empty in simulation.
    pub url: Url,
    /// The command's sequence number.
    pub seq_num: SeqNum,
    /// Who sent the command.
    pub identity: String,
    /// The sender's `private_origin`: the process id of a client of the local socket.
    pub origin: i32,
    /// The pipeline. Of a long text only the beginning, as in the next four.
    pub pipeline: String,
    /// The version.
    pub version: String,
    /// The data query.
    pub data_query: String,
    /// The options of the run, as submitted: the configured input collection, and those of the command.
    pub run_options: String,
    /// The outputs that are kept, as submitted: those of the command, else the configured ones.
    pub output_glob: String,
    /// How far it is.
    pub stage: StageName,
    /// Its phase at the service, as of the last answer; none if it has ended.
    pub phase: Option<Phase>,
    /// How long ago the service showed that it is there.
    pub polled: Option<Duration>,
    /// The jobs that it waits for.
    pub waits_for: Vec<JobId>,
    /// Prerequisites that do not exist, and so were not waited for.
    pub missing_prereqs: Vec<JobId>,
    /// When the command was accepted.
    pub accepted: Tai,
    /// When it ended.
    pub ended: Option<Tai>,
    /// Its exit code; none if it never existed.
    pub exit_code: Option<ExitCode>,
    /// How it ended.
    pub outcome: Option<JobOutcome>,
    /// Why it ended so; of a job that has not ended, the last thing that went wrong.
    pub problem: Option<String>,
}

/// One job, and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobHistory {
    /// The job.
    pub report: JobReport,
    /// What happened to it, from the command on.
    pub notes: Vec<Note>,
    /// Which of its result and final ack are not known to be delivered.
    pub undelivered: Vec<Deliverable>,
}

impl Csc {
    /// The component as a whole.
    pub fn status(&self) -> Status<'_> {
        let configured = self.transitions.service().map(|service| &service.url);
        Status {
            state: self.transitions.state(),
            error: self.transitions.error(),
            log_level: self.log_level,
            configuration: self.transitions.configuration(),
            service: self.services.report(self.ctx.now.mono, configured),
            polling: self.polls.report(&self.ctx, configured),
            jobs: StageName::UNFINISHED.map(|name| (name, self.jobs.count(name))),
            recovery: self.recovery,
            counters: &self.ctx.counters,
        }
    }

    /// Running jobs by their phase at the service, where it is known.
    pub fn phases(&self) -> BTreeMap<Phase, usize> {
        self.jobs.phases()
    }

    /// The last jobs that ended, as long as they are remembered, and all that have not ended; the oldest first.
    pub fn job_reports(&self) -> impl Iterator<Item = JobReport> {
        let oldest = self.ctx.now.tai.0 - self.ctx.settings.history.as_secs_f64();
        let is_remembered = move |job: &&JobReport| job.ended.is_some_and(|ended| ended.0 >= oldest);
        let ended = self.jobs.ended().map(|ended| &ended.report).filter(is_remembered).cloned();
        ended.chain(self.jobs.iter().map(|(key, job)| self.job_report(*key, job)))
    }

    fn job_report(&self, key: EntryKey, job: &Job) -> JobReport {
        let seen = self.polls.seen(&job.url, &Polled::Ours(key));
        let polled = seen.map(|seen| self.ctx.now.mono.saturating_sub(seen));
        JobReport { polled, ..JobReport::new(job) }
    }

    /// The job of this run, while it is remembered, and what happened to it.
    pub fn job_history(&self, run_id: &RunId) -> Option<JobHistory> {
        if let Some((key, job)) = self.jobs.by_run(run_id).and_then(|key| Some((key, self.jobs.get(key)?))) {
            return Some(JobHistory::new(self.job_report(key, job), &job.history, Vec::new()));
        }
        let ended = self.jobs.ended().rev().find(|ended| ended.report.run_id == *run_id)?;
        let EndedJob { report, history, undelivered, .. } = ended;
        Some(JobHistory::new(report.clone(), history, undelivered.clone()))
    }
}

impl JobHistory {
    fn new(report: JobReport, history: &History, undelivered: Vec<Deliverable>) -> Self {
        let note = |at, kind, about: &str| Note { number: 0, at, kind, about: about.into() };
        let accepted = note(report.accepted, NoteKind::Accepted, &report.identity);
        let ended = report.ended.zip(report.outcome).map(|(at, outcome)| {
            let reason = report.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            note(at, NoteKind::Ended, &format!("{}{reason}", outcome.as_str()))
        });
        let mut notes = history.complete();
        // That the end was delivered comes after it.
        let delivered = notes.pop_if(|note| note.kind == NoteKind::Delivered);
        let notes = [accepted].into_iter().chain(notes).chain(ended).chain(delivered).collect();
        Self { report, notes, undelivered }
    }
}

/// At most so many characters from the beginning of a text, which may be as long as a line of the socket.
pub(super) fn beginning(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl JobReport {
    fn new(job: &Job) -> Self {
        let variable = |name| beginning(job.submission.variable(name), TEXT_MAX);
        Self {
            job_id: job.job_id().cloned(),
            run_id: job.run_id().clone(),
            url: job.url.clone(),
            seq_num: job.sender.seq_num,
            identity: job.sender.identity.clone(),
            origin: job.sender.origin,
            pipeline: beginning(&job.submission.pipeline, TEXT_MAX),
            version: variable("IMAGE_TAG"),
            data_query: variable("DATA_QUERY"),
            run_options: variable("RUN_OPTIONS"),
            output_glob: variable("OUTPUT_GLOB"),
            stage: StageName::of(&job.stage),
            phase: job.phase,
            polled: None,
            waits_for: match &job.stage {
                Stage::Recording { prereqs, .. } => prereqs.clone(),
                Stage::Waiting { prereqs, .. } => prereqs.iter().map(|(_, job_id)| job_id.clone()).collect(),
                Stage::Submitting(_) | Stage::Running { .. } | Stage::Aborting { .. } => Vec::new(),
            },
            missing_prereqs: job.missing_prereqs.clone(),
            accepted: job.accepted,
            ended: None,
            exit_code: None,
            outcome: None,
            problem: job.problem.clone(),
        }
    }

    /// The report of a job that has ended.
    pub(super) fn of_ended(job: &Job, job_id: Option<JobId>, end: &Completion) -> Self {
        Self {
            job_id,
            stage: StageName::Finished,
            phase: None,
            waits_for: Vec::new(),
            missing_prereqs: Vec::new(),
            ended: Some(end.at),
            exit_code: end.result.as_ref().map(|result| result.exit_code),
            outcome: Some(JobOutcome::of(end)),
            problem: end.problem.clone(),
            ..Self::new(job)
        }
    }
}

/// The line of the log about a job that has ended.
impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run_id, pipeline, identity, .. } = self;
        match &self.job_id {
            Some(job_id) => write!(f, "job {job_id} of run {run_id}")?,
            None => write!(f, "run {run_id}")?,
        }
        write!(f, " {}", self.outcome.map_or("in progress", JobOutcome::as_str))?;
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        write!(f, "; pipeline {pipeline}")?;
        for (name, value) in [("version", &self.version), ("data_query", &self.data_query)] {
            if !value.is_empty() {
                write!(f, ", {name} {value}")?;
            }
        }
        write!(f, ", for {identity}")
    }
}
