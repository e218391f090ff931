//! Events and acks as types. How they are written on a wire is the business of `sal` and the transports.

use std::sync::Arc;

use strum::{EnumMessage, EnumString, IntoStaticStr, VariantArray};

use super::id::{JobId, RunId, SeqNum};
use super::state::SummaryState;
use super::time::Tai;

/// An answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Ack {
    /// `CMD_INPROGRESS`: the job exists and has not ended.
    InProgress {
        /// The id by which the job can be aborted.
        job_id: JobId,
        /// Prerequisites of an execute that do not exist, and so were not waited for.
        missing_prereqs: Vec<JobId>,
    },
    /// `CMD_COMPLETE`.
    Complete,
    /// `CMD_FAILED`, result `Failed: ` and the reason.
    Failed {
        /// Why; one line, lower case unless it begins with a name.
        reason: String,
    },
    /// `CMD_ABORTED`: the job of this command was aborted.
    Aborted,
}

impl Ack {
    /// Whether it is the last one of its command.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::InProgress { .. })
    }
}

/// Levels of the log, with Python's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// 10.
    Debug = 10,
    /// 20.
    Info = 20,
    /// 30.
    Warning = 30,
    /// 40.
    Error = 40,
    /// 50: only for FAULT.
    Critical = 50,
}

impl LogLevel {
    /// The number in `logMessage` and `logLevel`.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// Why the component is in FAULT: the codes of the `errorCode` event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VariantArray)]
pub enum ErrorCode {
    /// 0: nothing is wrong.
    #[default]
    None = 0,
    /// 1: the execution service could not be reached for `outage_limit`.
    Unreachable = 1,
    /// 2: the simulator was asked to fault (`fault.yaml`).
    Simulated = 2,
    /// 3: another instance with our index is running.
    Duplicate = 3,
    /// 4: the journal cannot be written.
    Journal = 4,
}

impl ErrorCode {
    /// The number in `errorCode`.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// A log message on its way out as an event.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMessage {
    /// The logger's name: our module path.
    pub name: String,
    /// Python's number of its level.
    pub level: i32,
    /// The text.
    pub message: String,
    /// Source file, may be empty.
    pub file_path: String,
    /// Line in the source file, 0 if unknown.
    pub line_number: i32,
    /// Our process id.
    pub process: i32,
    /// When it was logged.
    pub timestamp: Tai,
}

/// An event of the SAL interface.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `summaryState`.
    SummaryState(SummaryState),
    /// `errorCode`.
    ErrorCode {
        /// What kind of error; [`ErrorCode::None`] clears the last one.
        code: ErrorCode,
        /// What happened, in one line.
        report: String,
    },
    /// `heartbeat`, every second.
    Heartbeat,
    /// `logLevel`.
    LogLevel {
        /// The minimum log level.
        level: i32,
    },
    /// `logMessage`.
    LogMessage(LogMessage),
    /// `simulationMode`.
    SimulationMode {
        /// 0: real, 1: simulated.
        mode: i32,
    },
    /// `softwareVersions`.
    SoftwareVersions,
    /// `configurationsAvailable`.
    ConfigurationsAvailable(ConfigurationsAvailable),
    /// `configurationApplied`.
    ConfigurationApplied {
        /// The names of the files read, comma-joined.
        configurations: String,
        /// `git describe` of the directory, or empty.
        version: String,
        /// The directory as a file URI, or empty.
        url: String,
    },
    /// `job_id`: a job was made for an execute.
    JobId {
        /// The sequence number of the command.
        seq_num: SeqNum,
        /// The job.
        job_id: JobId,
    },
    /// `job_result`: a job ended.
    JobResult(JobResult),
}

/// Content of `configurationsAvailable`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigurationsAvailable {
    /// Sorted names of the override files, comma-joined.
    pub overrides: String,
    /// `git describe` of the directory, or empty.
    pub version: String,
    /// The directory as a file URI, or empty.
    pub url: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct JobResult {
    /// The job.
    pub job_id: JobId,
    /// Success, failure or abort.
    pub exit_code: ExitCode,
    /// What is known of the job.
    pub result: ResultObject,
}

/// `exit_code` of a `job_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum ExitCode {
    /// 0: phase completed.
    Completed = 0,
    /// 1: phase error or unknown, or aborted, but not by us.
    Error = 1,
    /// 255: aborted by `abort_job`.
    Aborted = 255,
}

impl ExitCode {
    /// The number in `exit_code`.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// The JSON object in a `job_result`; it always has `jobId` and `phase`.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultObject {
    /// The final job object of the service.
    Service(JobObject),
    /// What we know, if the service gave no final object.
    Known {
        /// The job.
        job_id: JobId,
        /// Its run id; not known of a job that we did not submit.
        run_id: Option<RunId>,
        /// `aborted` or `unknown`.
        phase: Phase,
    },
}

/// A job object of the service as JSON text, at most 512 KiB, with `jobId` and `phase`.
///
/// A back-end makes it and a transport hands it on; the core does not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobObject(pub Arc<str>);

/// The phase of a job at the service, with the service's word for it; `other` stands for all that are not known here.
/// Its message says why a job that ended in it did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumMessage, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Phase {
    /// Final: it succeeded.
    Completed,
    /// Final: it failed.
    #[strum(message = "phase error")]
    Error,
    /// Final: it was aborted.
    #[strum(message = "aborted at the service, not by abort_job")]
    Aborted,
    /// Final: the service does not know how it ended.
    #[strum(message = "the service does not know how it ended (phase unknown)")]
    Unknown,
    /// Not final: it waits to be started.
    Pending,
    /// Not final: it waits for resources.
    Queued,
    /// Not final: it is executing.
    #[strum(serialize = "executing")]
    Active,
    /// Not final: it is held back.
    Held,
    /// Not final: it was suspended while it was executing.
    Suspended,
    /// Any other word: not final.
    Other,
}

impl Phase {
    /// Parses the service's word; all but the four final ones mean still active.
    pub fn parse(word: &str) -> Self {
        word.parse().unwrap_or(Self::Other)
    }

    /// The service's word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// How a job that ended in this phase is reported; none while it is active.
    pub fn exit_code(self) -> Option<ExitCode> {
        match self {
            Self::Completed => Some(ExitCode::Completed),
            Self::Error | Self::Aborted | Self::Unknown => Some(ExitCode::Error),
            Self::Pending | Self::Queued | Self::Active | Self::Held | Self::Suspended | Self::Other => None,
        }
    }
}
