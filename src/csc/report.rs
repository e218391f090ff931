//! What the core tells of itself to those who ask: read-only, made on demand.

use std::time::Duration;

use super::Csc;
use super::event::{ErrorCode, ExitCode};
use super::id::{JobId, RunId, SeqNum};
use super::job::{Ended, Job, Stage};
use super::request::Configuration;
use super::state::SummaryState;
use super::time::Tai;

/// Numbers since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands taken.
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
}

/// What was done about what earlier lives left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Jobs that are followed on.
    pub running: u64,
    /// Jobs that wait for their prerequisites, or are looked for at the service since they may exist.
    pub in_doubt: u64,
    /// Jobs of ours that ran at the service although the journal did not know them; they are followed too.
    pub found: u64,
    /// Aborts that are gone on with.
    pub aborts: u64,
    /// Results that were said again, since it is not known that they were heard.
    pub results: u64,
    /// Final acks that were said again.
    pub acks: u64,
}

/// The service's health.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// For how long it has been silent; none while it answers.
    pub silent_for: Option<Duration>,
    /// The last thing that went wrong with a request.
    pub last_problem: Option<String>,
    /// Time since its last believable answer; none before the first.
    pub last_believed: Option<Duration>,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Those of a job that has not ended.
    pub const UNFINISHED: [Self; 5] =
        [Self::Recording, Self::Waiting, Self::Submitting, Self::Running, Self::Aborting];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Waiting => "waiting",
            Self::Submitting => "submitting",
            Self::Running => "running",
            Self::Aborting => "aborting",
            Self::Finished => "finished",
        }
    }

    pub(super) fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Recording { .. } => Self::Recording,
            Stage::Waiting { .. } => Self::Waiting,
            Stage::Submitting(_) => Self::Submitting,
            Stage::Running(_) => Self::Running,
            Stage::Aborting { .. } => Self::Aborting,
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
    /// Least level that is logged, Python's number.
    pub log_level: i32,
    /// What the last `start` read.
    pub configuration: Option<&'a Configuration>,
    /// The service's health.
    pub service: Service,
    /// Jobs that have not ended, by stage.
    pub jobs: [(StageName, usize); 5],
    /// What was done about what earlier lives left behind.
    pub recovery: Recovery,
    /// Numbers since the start.
    pub counters: Counters,
}

/// One job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobReport {
    /// Its id, once it exists.
    pub job_id: Option<JobId>,
    /// Our key for it.
    pub run_id: RunId,
    /// The command's sequence number.
    pub seq_num: SeqNum,
    /// Who sent the command.
    pub identity: String,
    /// The pipeline.
    pub pipeline: String,
    /// Where it is in its life.
    pub stage: StageName,
    /// When the command was accepted.
    pub accepted: Tai,
    /// When it ended.
    pub ended: Option<Tai>,
    /// How it ended; none of one that was never submitted.
    pub exit_code: Option<ExitCode>,
    /// The last thing that went wrong.
    pub problem: Option<String>,
}

impl Csc {
    /// The component as a whole.
    #[must_use]
    pub fn status(&self) -> Status<'_> {
        let count = |name| self.jobs.values().filter(|job| StageName::of(&job.stage) == name).count();
        Status {
            state: self.state,
            error: (self.error.0, &self.error.1),
            log_level: self.log_level,
            configuration: self.configuration.as_ref(),
            service: self.service_report(),
            jobs: StageName::UNFINISHED.map(|name| (name, count(name))),
            recovery: self.recovery,
            counters: self.counters,
        }
    }

    /// All jobs that have not ended, and the last that have, as long as they are remembered, oldest first.
    pub fn job_reports(&self) -> impl Iterator<Item = JobReport> {
        let is_remembered =
            |job: &&Ended| self.now.tai.0 - job.ended.0 <= self.settings.history.as_secs_f64();
        let ended = self.history.iter().filter(is_remembered).map(|job| JobReport {
            job_id: job.job_id.clone(),
            run_id: job.run_id.clone(),
            seq_num: job.sender.seq_num,
            identity: job.sender.identity.clone(),
            pipeline: job.pipeline.clone(),
            stage: StageName::Finished,
            accepted: job.accepted,
            ended: Some(job.ended),
            exit_code: job.exit_code,
            problem: job.problem.clone(),
        });
        ended.chain(self.jobs.values().map(unfinished))
    }
}

fn unfinished(job: &Job) -> JobReport {
    JobReport {
        job_id: job.job_id().cloned(),
        run_id: job.run_id().clone(),
        seq_num: job.sender.seq_num,
        identity: job.sender.identity.clone(),
        pipeline: job.submission.pipeline.clone(),
        stage: StageName::of(&job.stage),
        accepted: job.accepted,
        ended: None,
        exit_code: None,
        problem: job.problem.clone(),
    }
}
