//! What a run leaves to the next: the records of the journal, as data.
//!
//! The core says what is to be kept ([`Effect::Journal`](super::Effect::Journal)) and, in its next run, is given
//! what was kept ([`Input::Recovered`](super::Input::Recovered)). How it is kept is the business of the journal.
//!
//! All records of one turn are written together or not at all, in the order in which the core asked for them; only
//! deliveries and notes may come up to a second later. A record may be written twice.

use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::command::Sender;
use super::event::{Ack, JobResult};
use super::history::Note;
use super::id::{EntryKey, JobId};
use super::request::Submission;
use super::state::SummaryState;
use super::time::{Tai, Uptime};

/// Maximum number of commands from Kafka that are remembered, whatever their age.
pub const SEEN_MAX: usize = 10_000;

/// Maximum number of commands that ended that are remembered.
pub const HISTORY_MAX: usize = 1000;

/// A record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A command was accepted. Only when this is durable may anything be sent to the service for it.
    Accepted(Box<AcceptedCommand>),
    /// The job of an execute exists. Its id is published only when this is durable.
    Created {
        /// The execute.
        key: EntryKey,
        /// The id of its job.
        job_id: JobId,
    },
    /// A second job with the run id of this execute may still appear at the service: a duplicate.
    Suspected {
        /// The execute.
        key: EntryKey,
        /// Until about when it is looked for; the next run does not trust the clock and looks for as long again.
        until: Tai,
    },
    /// Duplicates of the job of this execute are not looked for any more.
    Cleared {
        /// The execute.
        key: EntryKey,
    },
    /// The command ended. Its result and final ack are published only when this is durable.
    Ended {
        /// The command.
        key: EntryKey,
        /// How it ended.
        end: Box<Completion>,
    },
    /// This was delivered and need not be sent again in the next run. It is written within about a second: what is sent again
    /// after a crash has equal content.
    Delivered(Receipt),
    /// This happened to the job of an execute. It is written within about a second, or not at all if the journal cannot be
    /// written: nothing depends on it.
    Noted {
        /// The execute.
        key: EntryKey,
        /// What happened.
        note: Note,
    },
    /// This command came over Kafka; if it comes again, it is not carried out again.
    Seen {
        /// Its sender, with its number and its stamp.
        sender: Sender,
        /// When it came.
        at: Tai,
    },
    /// The service's list was searched for jobs of ours that the journal does not know.
    Searched,
    /// The summary state and, for `start`, the override that led there.
    State {
        /// The state.
        state: SummaryState,
        /// The `configurationOverride` of the last `start`.
        override_name: String,
    },
}

impl Record {
    /// If something is done only when this is durable: the name by which [`Input::Journaled`](super::Input::Journaled)
    /// reports that.
    pub fn awaited(&self) -> Option<Awaited> {
        match self {
            Self::Accepted(entry) => Some(Awaited::Accepted(entry.key)),
            Self::Created { key, .. } => Some(Awaited::Created(*key)),
            Self::Ended { key, .. } => Some(Awaited::Ended(*key)),
            Self::Suspected { .. }
            | Self::Cleared { .. }
            | Self::Delivered(_)
            | Self::Noted { .. }
            | Self::Seen { .. }
            | Self::Searched
            | Self::State { .. } => None,
        }
    }

    /// Whether nothing depends on it.
    pub fn is_note(&self) -> bool {
        matches!(self, Self::Noted { .. })
    }
}

/// Names a record that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// [`Record::Accepted`] of this command: then something may be sent for it.
    Accepted(EntryKey),
    /// [`Record::Created`] of this execute: then the id of its job is published.
    Created(EntryKey),
    /// [`Record::Ended`] of this command: then its result is published and its final ack sent.
    Ended(EntryKey),
}

/// An `execute` or `abort_job` that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedCommand {
    /// Our number of it.
    pub key: EntryKey,
    /// Who gets its acks.
    pub sender: Sender,
    /// When it was accepted.
    pub accepted: Tai,
    /// The uptime of the machine at that moment, if it is known.
    pub uptime: Option<Uptime>,
    /// What is done for it.
    pub work: Work,
}

/// What an accepted command asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// `execute`: submit a job and follow it to its end.
    Execute {
        /// The whole body of the PUT, with the run id.
        submission: Arc<Submission>,
        /// Base URL of the service.
        url: Url,
        /// Time between polls.
        poll_interval: Duration,
        /// Jobs to wait for first.
        prereqs: Vec<JobId>,
    },
    /// `abort_job`: remove a job.
    Abort {
        /// The job.
        job_id: JobId,
        /// Base URL of the service.
        url: Url,
    },
}

impl Work {
    /// Base URL of the service.
    pub fn url(&self) -> &Url {
        match self {
            Self::Execute { url, .. } | Self::Abort { url, .. } => url,
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// When.
    pub at: Tai,
    /// The `job_result` that goes with it, if there is one.
    pub result: Option<JobResult>,
    /// Its final ack.
    pub ack: Ack,
    /// Why it did not succeed, or the last thing that went wrong with it.
    pub problem: Option<String>,
}

impl Completion {
    /// What must be delivered.
    pub fn deliverables(&self) -> Vec<Deliverable> {
        let result = self.result.as_ref().map(|_| Deliverable::Result);
        result.into_iter().chain([Deliverable::Ack]).collect()
    }
}

/// Names something that must be delivered, so that its delivery can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// The command that it belongs to.
    pub key: EntryKey,
    /// Its result or its final ack.
    pub what: Deliverable,
}

/// What must be delivered when a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::IntoStaticStr)]
pub enum Deliverable {
    /// Its `job_result`.
    #[strum(serialize = "job_result")]
    Result,
    /// Its final ack.
    #[strum(serialize = "final ack")]
    Ack,
}

/// All that previous runs left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// Commands in the order of their keys: those that are unfinished, whose end was not delivered, or that may have
    /// duplicates, the executes whose jobs are being aborted, and the last commands that ended.
    pub entries: Vec<RecoveredCommand>,
    /// The last commands that came over Kafka, oldest first.
    pub seen: Vec<Sender>,
    /// The last summary state and override.
    pub state: Option<(SummaryState, String)>,
    /// The highest key of all commands, also of those that were forgotten since.
    pub last_key: u64,
    /// Whether jobs of ours may run that the journal does not know: it is new, or an old copy, and the service's list was
    /// not searched since.
    pub unsearched: bool,
}

/// All that is known of one command of a previous run.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredCommand {
    /// As it was accepted. A sender of the local socket is gone.
    pub entry: AcceptedCommand,
    /// Of an execute: its job, if it is known to exist.
    pub job_id: Option<JobId>,
    /// Of an execute: set while a duplicate of its job may appear.
    pub suspected: Option<Tai>,
    /// How it ended, if it did.
    pub end: Option<Completion>,
    /// Whether its result was delivered.
    pub result_delivered: bool,
    /// Whether its final ack was delivered.
    pub ack_delivered: bool,
    /// Of an execute: what happened to its job, the first first.
    pub notes: Vec<Note>,
}
