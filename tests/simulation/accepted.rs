//! One accepted command, as clients and the disk know it.

use std::collections::BTreeSet;
use std::time::Duration;

use ocps::csc::command::Via;
use ocps::csc::id::{ClientId, JobId, RunId};
use ocps::csc::record::{AcceptedCommand, Completion, Deliverable, RecoveredCommand, Work};
use ocps::csc::time::Tai;

use super::plan::secs;

#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) entry: AcceptedCommand,
    /// When it was accepted, and in which process.
    pub(crate) accepted: Duration,
    pub(crate) process: u32,
    pub(crate) is_durable: bool,
    /// Whether this process knows that it has ended.
    pub(crate) is_over: bool,
    /// By when it is to be sent or refused, in this process.
    pub(crate) recorded_by: Option<Duration>,
    /// Its job, as far as this process knows, and whether that is durable.
    pub(crate) created: Option<(JobId, bool)>,
    /// By when the job, or the end, must be published, in this process.
    pub(crate) publish_by: Option<Duration>,
    /// Jobs that a process knew and that were not durable when it died.
    pub(crate) forgotten: BTreeSet<JobId>,
    /// Jobs whose ids were published.
    pub(crate) published: BTreeSet<JobId>,
    /// How it ended, more than once if that was forgotten; each was published.
    pub(crate) ends: Vec<Ending>,
    /// Given in this process.
    pub(crate) final_acks: u32,
    pub(crate) results: u32,
    /// What was certainly delivered.
    pub(crate) delivered: BTreeSet<Deliverable>,
    /// What is recorded as delivered on the disk.
    pub(crate) recorded: BTreeSet<Deliverable>,
    /// Until when duplicates are looked up, as the disk knows.
    pub(crate) durably_suspected: Option<Tai>,
    /// Until when they are at least.
    pub(crate) suspected: Option<Duration>,
    /// Whether it is one of a job that was found at the service, when its command was forgotten.
    pub(crate) is_found: bool,
}

/// Whether a job is named by its run.
pub(crate) fn is_same(name: &JobId, run_id: &RunId) -> bool {
    name.as_str() == run_id.as_str()
}

/// How long a command may wait for its record to be durable.
pub(crate) const RECORDING_MAX: Duration = secs(10);
/// For how long duplicates are looked up, from the start of each process.
pub(crate) const SUSPECT_FOR: Duration = secs(3600);

#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// In which it ended so.
    pub(crate) process: u32,
    pub(crate) end: Completion,
    pub(crate) is_durable: bool,
    /// Whether that was published; else it never happened.
    pub(crate) is_published: bool,
}

impl Accepted {
    pub(crate) fn new(entry: &AcceptedCommand, process: u32, now: Duration) -> Self {
        Self {
            entry: entry.clone(),
            accepted: now,
            process,
            is_durable: false,
            is_over: false,
            recorded_by: Some(now + RECORDING_MAX),
            created: None,
            publish_by: None,
            forgotten: BTreeSet::new(),
            published: BTreeSet::new(),
            ends: Vec::new(),
            final_acks: 0,
            results: 0,
            delivered: BTreeSet::new(),
            recorded: BTreeSet::new(),
            durably_suspected: None,
            suspected: None,
            is_found: false,
        }
    }

    /// The process has ended: what is not durable is lost.
    pub(crate) fn forget(&mut self) {
        if let Some((job_id, false)) = &self.created {
            self.forgotten.insert(job_id.clone());
            self.created = None;
        }
        self.ends.retain(|ending| ending.is_durable || ending.is_published);
        self.is_over = self.ends.last().is_some_and(|ending| ending.is_durable);
        (self.recorded_by, self.publish_by) = (None, None);
        (self.final_acks, self.results) = (0, 0);
    }

    /// It has ended, for all that this process knows.
    pub(crate) fn end(&mut self, process: u32, end: &Completion, publish_by: Duration) {
        self.is_over = true;
        // Deliveries of another end do not count for this one.
        self.delivered.clear();
        (self.recorded_by, self.publish_by) = (None, Some(publish_by));
        self.ends.push(Ending { process, end: end.clone(), is_durable: false, is_published: false });
    }

    /// What was published by this process has been delivered.
    pub(crate) fn deliver(&mut self, process: u32, what: Deliverable) {
        if self.ends.last().is_some_and(|ending| ending.process <= process) {
            self.delivered.insert(what);
        }
    }

    /// Whether it has ended, that was delivered, and the next process will know both.
    pub(crate) fn is_settled(&self) -> bool {
        let is_through = |what| self.delivered.contains(&what) && self.recorded.contains(&what);
        let has_result = self.ends.last().is_some_and(|ending| ending.end.result.is_some());
        self.is_over && is_through(Deliverable::Ack) && (!has_result || is_through(Deliverable::Result))
    }

    /// Whether a record that it waits for should have been durable.
    pub(crate) fn waits_longer_than(&self, now: Duration) -> bool {
        [self.recorded_by, self.publish_by].iter().flatten().any(|by| now >= *by)
    }

    pub(crate) fn run_id(&self) -> Option<&RunId> {
        match &self.entry.work {
            Work::Execute { submission, .. } => Some(&submission.run_id),
            Work::Abort { .. } => None,
        }
    }

    pub(crate) fn url(&self) -> &str {
        match &self.entry.work {
            Work::Execute { url, .. } | Work::Abort { url, .. } => url.address(),
        }
    }

    pub(crate) fn prereqs(&self) -> &[JobId] {
        match &self.entry.work {
            Work::Execute { prereqs, .. } => prereqs,
            Work::Abort { .. } => &[],
        }
    }

    /// Whether it aborts this job, by its id or by that of its run.
    pub(crate) fn aborts(&self, id: &JobId, run_id: Option<&RunId>) -> bool {
        match &self.entry.work {
            Work::Execute { .. } => false,
            Work::Abort { job_id: name, .. } => {
                name == id || run_id.is_some_and(|run_id| is_same(name, run_id))
            }
        }
    }

    /// The journal gives back what is durable of this command, no more and no less.
    pub(crate) fn check_kept(&self, kept: &RecoveredCommand) {
        let mut entry = self.entry.clone();
        entry.sender.via = match entry.sender.via {
            // Its client is gone.
            Via::Socket(_) => Via::Socket(ClientId::GONE),
            via @ (Via::Kafka | Via::CommandLine) => via,
        };
        assert_eq!(entry, kept.entry);
        assert_eq!(self.created.as_ref().map(|(id, _)| id), kept.job_id.as_ref());
        assert_eq!(self.durably_suspected, kept.suspected);
        let end = self.ends.last().filter(|ending| ending.is_durable).map(|ending| &ending.end);
        assert_eq!(end, kept.end.as_ref());
        assert_eq!(self.recorded.contains(&Deliverable::Ack), kept.ack_delivered, "{entry:?}");
        assert_eq!(self.recorded.contains(&Deliverable::Result), kept.result_delivered, "{entry:?}");
    }
}
