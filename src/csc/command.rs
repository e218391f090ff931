//! Commands as types. A transport makes them; from there on nothing is left to validate.

use strum::{EnumString, IntoStaticStr, VariantArray};

use super::id::{ClientId, JobId, SeqNum};
use super::time::Tai;

/// Maximum number of jobs in the `prereq_jobs` of one command.
pub const PREREQS_MAX: usize = 100;

/// The name of a command of the SAL interface; in the order of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "camelCase")]
pub enum CommandName {
    /// Abort a job.
    #[strum(serialize = "abort_job")]
    AbortJob,
    /// ENABLED to DISABLED.
    Disable,
    /// DISABLED to ENABLED.
    Enable,
    /// Run a pipeline.
    Execute,
    /// STANDBY to OFFLINE.
    ExitControl,
    /// Set the level of the log.
    SetLogLevel,
    /// To STANDBY.
    Standby,
    /// STANDBY to DISABLED.
    Start,
}

impl CommandName {
    /// All commands.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The name as SAL spells it, without the `command_` prefix.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The command of that name.
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Whether the command changes the summary state.
    pub fn is_transition(self) -> bool {
        match self {
            Self::Start | Self::Enable | Self::Disable | Self::Standby | Self::ExitControl => true,
            Self::AbortJob | Self::Execute | Self::SetLogLevel => false,
        }
    }
}

/// Which way a command came, and so which way its acks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The observatory's control system.
    Kafka,
    /// A client of the local socket.
    Socket(ClientId),
    /// Our own command line (`--state`): nobody waits for its acks.
    CommandLine,
}

/// Who sent a command: all that its acks need.
#[derive(Clone, Debug, PartialEq)]
pub struct Sender {
    /// Where the command came from.
    pub via: Via,
    /// `private_identity`, for example `root@localhost`.
    pub identity: String,
    /// `private_origin`: the sender's process id, 0 if it is unknown.
    pub origin: i32,
    /// `private_seqNum`: the sender's number of this command.
    pub seq_num: SeqNum,
    /// `private_sndStamp`.
    pub sent: Tai,
}

/// A command as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Who sent it.
    pub sender: Sender,
    /// What it asks for.
    pub kind: CommandKind,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// `start`: read the configuration with this override (may be empty) and go to DISABLED.
    Start {
        /// `configurationOverride`: `[file][:gitref]`.
        override_name: String,
    },
    /// `enable`.
    Enable,
    /// `disable`.
    Disable,
    /// `standby`.
    Standby,
    /// `exitControl`.
    ExitControl,
    /// `setLogLevel`: Python's numbers, 0 and up.
    SetLogLevel {
        /// The minimum log level.
        level: i32,
    },
    /// `execute`.
    Execute(Execute),
    /// `abort_job`.
    AbortJob(JobId),
    /// A command that cannot be carried out as it was written.
    Invalid {
        /// The command, when at least that is known.
        name: Option<CommandName>,
        /// Why not, for the ack.
        reason: String,
    },
}

impl CommandKind {
    /// The name of the command, when it is known.
    pub fn name(&self) -> Option<CommandName> {
        match self {
            Self::Start { .. } => Some(CommandName::Start),
            Self::Enable => Some(CommandName::Enable),
            Self::Disable => Some(CommandName::Disable),
            Self::Standby => Some(CommandName::Standby),
            Self::ExitControl => Some(CommandName::ExitControl),
            Self::SetLogLevel { .. } => Some(CommandName::SetLogLevel),
            Self::Execute(_) => Some(CommandName::Execute),
            Self::AbortJob(_) => Some(CommandName::AbortJob),
            Self::Invalid { name, .. } => *name,
        }
    }
}

/// The parameters of `execute`.
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// URL or path of the pipeline; empty only for Rapid Analysis, which has none.
    pub pipeline: String,
    /// Version of the Science Pipelines (an EUPS tag); may be empty.
    pub version: String,
    /// More options for the pipeline run, or what Rapid Analysis is to push; may be empty.
    pub config: String,
    /// The data to run on; may be empty.
    pub data_query: String,
    /// Jobs to wait for first.
    pub prereq_jobs: Vec<JobId>,
    /// Output dataset types; empty: as configured.
    pub output_dataset_types: String,
}

impl Execute {
    /// Parses the comma-separated ids of `prereq_jobs`; empty items are dropped, doubles too.
    ///
    /// # Errors
    /// The reason for an ack: a malformed id, or more than [`PREREQS_MAX`].
    pub fn parse_prereq_jobs(text: &str) -> Result<Vec<JobId>, String> {
        let mut ids: Vec<JobId> = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let id = JobId::parse(item)?;
            if ids.contains(&id) {
                continue;
            }
            if ids.len() == PREREQS_MAX {
                return Err(format!("prereq_jobs names more than {PREREQS_MAX} jobs"));
            }
            ids.push(id);
        }
        Ok(ids)
    }
}
