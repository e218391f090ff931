//! What outlives the process: commands are accepted, ids of jobs told, and ends told, only when that is durable.
//!
//! While the journal cannot be written, or hangs for longer than [`RECORDING_MAX`], what is known is told without it.

use std::time::Duration;

use super::command::{CommandName, Sender, Via};
use super::event::{Ack, ErrorCode, Event, JobResult, LogLevel};
use super::id::{EntryKey, JobId};
use super::job::{Job, Stage};
use super::record::{Awaited, End, Entry, Owed, Receipt, Record, Work};
use super::report::StageName;
use super::state::SummaryState;
use super::time::Uptime;
use super::{Csc, Effect, Life};

/// How long a record is waited for: a commit takes milliseconds, a hanging disk for ever.
pub(super) const RECORDING_MAX: Duration = Duration::from_secs(10);

/// How a command ended, to be told when it is durable.
#[derive(Debug)]
pub(super) struct UntoldEnd {
    key: EntryKey,
    sender: Sender,
    name: CommandName,
    end: End,
    /// What broke down.
    fault: Option<(ErrorCode, String)>,
    /// Not later than then.
    pub(super) until: Duration,
}

impl Csc {
    pub(super) fn journal(&mut self, record: Record) {
        self.out.push(Effect::Journal(record));
    }

    /// Numbers a command and makes its record durable.
    pub(super) fn accept(&mut self, sender: Sender, work: Work) -> EntryKey {
        self.last_key += 1;
        let key = EntryKey(self.last_key);
        let entry = Entry { key, sender, accepted: self.now.tai, uptime: self.uptime(), work };
        self.journal(Record::Accepted(Box::new(entry)));
        key
    }

    /// How long the machine has been up.
    pub(super) fn uptime(&self) -> Option<Uptime> {
        let uptime = self.settings.uptime;
        uptime.map(|start| Uptime { since: start.since + self.now.mono, ..start })
    }

    /// A command from Kafka is not carried out again in the next life either.
    pub(super) fn journal_seen(&mut self, sender: &Sender) {
        match sender.via {
            Via::Kafka => self.journal(Record::Seen { sender: sender.clone(), at: self.now.tai }),
            Via::Socket(_) | Via::CommandLine => {}
        }
    }

    /// The state to which the next life can be told to return; ending is none.
    pub(super) fn journal_state(&mut self) {
        if self.state != SummaryState::Offline {
            self.journal(Record::State { state: self.state, override_name: self.override_name.clone() });
        }
    }

    /// An accepted command has ended. The world learns how when that is durable, so that no crash can make it end
    /// in another way.
    pub(super) fn end(&mut self, key: EntryKey, sender: Sender, name: CommandName, end: End) {
        self.end_with_fault(key, sender, name, end, None);
    }

    /// The same; between its result and its final ack the component goes to FAULT, if something broke down.
    pub(super) fn end_with_fault(
        &mut self,
        key: EntryKey,
        sender: Sender,
        name: CommandName,
        end: End,
        fault: Option<(ErrorCode, String)>,
    ) {
        self.journal(Record::Ended { key, end: Box::new(end.clone()) });
        self.note_aborted(&end);
        let until = self.now.mono + RECORDING_MAX;
        self.ends.push_back(UntoldEnd { key, sender, name, end, fault, until });
    }

    /// The world learns how a command ended.
    fn tell_end(&mut self, untold: UntoldEnd) {
        let UntoldEnd { key, sender, name, end, fault, .. } = untold;
        if let Some(result) = end.result {
            self.tell_result(key, result);
        }
        if let Some((code, report)) = fault {
            self.fault(code, report);
        }
        self.tell_final_ack(key, &sender, name, end.ack);
    }

    /// The command whose job this was, while its result is not told.
    pub(super) fn untold_end_of(&self, job_id: &JobId) -> Option<EntryKey> {
        let has_result = |end: &&UntoldEnd| end.end.result.as_ref().is_some_and(|r| r.job_id == *job_id);
        self.ends.iter().find(has_result).map(|end| end.key)
    }

    /// Tells the result of an accepted command.
    pub(super) fn tell_result(&mut self, key: EntryKey, result: JobResult) {
        self.counters.results += 1;
        let receipt = Some(Receipt { key, what: Owed::Result });
        self.out.push(Effect::Publish { event: Event::JobResult(result), receipt });
    }

    /// Gives an accepted command its final ack.
    pub(super) fn tell_final_ack(&mut self, key: EntryKey, sender: &Sender, name: CommandName, ack: Ack) {
        match &ack {
            // The line of its job's end says all of an execute.
            Ack::Failed { .. } if name == CommandName::Execute => self.counters.failed_commands += 1,
            Ack::Failed { reason } => {
                let line = format!("{} of {} failed: {reason}", name.as_str(), sender.identity);
                self.log(LogLevel::Warning, line);
                self.counters.failed_commands += 1;
            }
            Ack::Aborted => self.counters.failed_commands += 1,
            Ack::InProgress { .. } | Ack::Complete => {}
        }
        let receipt = Some(Receipt { key, what: Owed::Ack });
        self.out.push(Effect::Ack { to: sender.clone(), command: Some(name), ack, receipt });
    }

    /// A record that was waited for is durable.
    pub(super) fn journaled(&mut self, awaited: Awaited) {
        match awaited {
            // One that ends begins nothing more; the next life will.
            Awaited::Accepted(_) if self.life != Life::Serving => {}
            Awaited::Accepted(key) => {
                self.job_journaled(key);
                self.abort_journaled(key);
                self.advance();
            }
            Awaited::Created(key) => {
                self.tell_job(key);
                self.advance();
            }
            Awaited::Ended(key) => {
                let at = self.ends.iter().position(|end| end.key == key);
                if let Some(end) = at.and_then(|at| self.ends.remove(at)) {
                    self.tell_end(end);
                }
            }
        }
    }

    /// The journal cannot be written: what is not durable is refused, what was accepted before goes on.
    pub(super) fn journal_failed(&mut self, reason: &str) {
        match self.life {
            Life::Serving => self.refuse_recording(reason),
            // What was accepted last is left to the next life, if that will know of it.
            Life::Stopping { .. } => {}
            Life::Joining | Life::Over => return,
        }
        self.tell_all();
        if self.life == Life::Serving && self.error.0 != ErrorCode::Journal {
            self.fault(ErrorCode::Journal, reason.to_owned());
        }
    }

    /// The world learns all that was not durable in time.
    fn tell_all(&mut self) {
        self.tell_ends();
        let created = |(key, job): (&EntryKey, &Job)| job.recorded_by().map(|_| *key);
        let untold: Vec<EntryKey> = self.jobs.iter().filter_map(created).collect();
        for key in untold {
            self.tell_job(key);
        }
    }

    fn tell_ends(&mut self) {
        for end in std::mem::take(&mut self.ends) {
            self.tell_end(end);
        }
    }

    /// A disk that hangs fails like one that is full. Only a tick decides that, before which all that the journal has
    /// said was heard: in a turn that comes late, its words may still wait behind others.
    pub(super) fn check_records(&mut self) {
        let now = self.now.mono;
        let jobs = self.jobs.values().filter_map(Job::recorded_by);
        let aborts = self.aborts.values().map(|abort| abort.until);
        if jobs.chain(aborts).chain(self.ends.front().map(|end| end.until)).any(|until| until <= now) {
            self.journal_failed("the journal cannot be written: its disk does not answer");
        }
    }

    fn refuse_recording(&mut self, report: &str) {
        let ack = Ack::Failed { reason: format!("{report}; nothing was sent to the execution service") };
        let end = End { at: self.now.tai, result: None, ack, problem: Some(report.to_owned()) };
        let recording = |job: &Job| StageName::of(&job.stage) == StageName::Recording;
        let jobs: Vec<EntryKey> =
            self.jobs.iter().filter(|(_, job)| recording(job)).map(|(key, _)| *key).collect();
        for key in jobs {
            if let Some(job) = self.jobs.remove(&key) {
                self.close(key, job, end.clone(), None);
            }
        }
        for (key, abort) in std::mem::take(&mut self.aborts) {
            self.end(key, abort.sender, CommandName::AbortJob, end.clone());
        }
    }

    /// Ends without a journal: nobody will take up what is unfinished, so those who wait for it are told.
    pub(super) fn abandon(&mut self) {
        self.tell_ends();
        let untold =
            |job_id: &JobId| format!("the daemon ended; job {job_id} is left at the execution service");
        for (key, job) in std::mem::take(&mut self.jobs) {
            let reason = match (&job.stage, job.job_id()) {
                (_, Some(job_id)) => untold(job_id),
                (Stage::Submitting(_), None) => {
                    "the daemon ended before it was known whether the job was created".to_owned()
                }
                (
                    Stage::Recording { .. }
                    | Stage::Waiting { .. }
                    | Stage::Running(_)
                    | Stage::Aborting { .. },
                    None,
                ) => "the daemon ended before the job was submitted".to_owned(),
            };
            self.log(LogLevel::Warning, format!("run {}: {reason}", job.run_id()));
            self.tell_final_ack(key, &job.sender, CommandName::Execute, Ack::Failed { reason });
        }
        let recording = std::mem::take(&mut self.aborts).into_iter();
        let recording = recording.map(|(key, abort)| (abort.job_id, vec![(key, abort.sender)]));
        let removing = std::mem::take(&mut self.removals).into_iter();
        let removing = removing.map(|(job_id, removal)| (job_id, removal.waiting));
        for (job_id, waiting) in recording.chain(removing).collect::<Vec<_>>() {
            for (key, sender) in waiting {
                let reason = format!("the daemon ended before it was known whether job {job_id} was removed");
                self.tell_final_ack(key, &sender, CommandName::AbortJob, Ack::Failed { reason });
            }
        }
    }
}
