//! What outlives the process: commands are accepted only when their record is durable, and how they ended is
//! kept until the world was told.

use super::command::{CommandName, Sender, Via};
use super::event::{Ack, ErrorCode, Event, JobResult, LogLevel};
use super::id::{EntryKey, JobId};
use super::job::{Job, Stage};
use super::record::{End, Entry, Owed, Receipt, Record, Work};
use super::report::StageName;
use super::state::SummaryState;
use super::{Csc, Effect, Life};

impl Csc {
    pub(super) fn journal(&mut self, record: Record) {
        self.out.push(Effect::Journal(record));
    }

    /// Numbers a command and makes its record durable.
    pub(super) fn accept(&mut self, sender: Sender, work: Work) -> EntryKey {
        self.last_key += 1;
        let key = EntryKey(self.last_key);
        let entry = Entry { key, sender, accepted: self.now.tai, work };
        self.journal(Record::Accepted(Box::new(entry)));
        key
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

    /// How an accepted command ended.
    pub(super) fn journal_end(
        &mut self,
        key: EntryKey,
        result: Option<&JobResult>,
        ack: &Ack,
        problem: Option<String>,
    ) {
        let end = End { at: self.now.tai, result: result.cloned(), ack: ack.clone(), problem };
        self.journal(Record::Ended { key, end: Box::new(end) });
    }

    /// Tells the result of an accepted command.
    pub(super) fn tell_result(&mut self, key: EntryKey, result: JobResult) {
        self.counters.results += 1;
        let receipt = Some(Receipt { key, what: Owed::Result });
        self.out.push(Effect::Publish { event: Event::JobResult(result), receipt });
    }

    /// Gives an accepted command its final ack.
    pub(super) fn tell_end(&mut self, key: EntryKey, sender: &Sender, name: CommandName, ack: Ack) {
        match &ack {
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

    /// A record that this command waited for is durable.
    pub(super) fn journaled(&mut self, key: EntryKey) {
        self.tell_job(key);
        // One that ends begins nothing more; the next life will.
        if self.life == Life::Serving {
            self.job_journaled(key);
            self.abort_journaled(key);
            self.advance();
        }
    }

    /// The journal cannot be written: what is not durable is refused, what was accepted before goes on.
    pub(super) fn journal_failed(&mut self, reason: &str) {
        if self.life != Life::Serving {
            return;
        }
        self.refuse_recording(reason);
        let untold: Vec<EntryKey> =
            self.jobs.iter().filter(|(_, job)| job.recorded_by().is_some()).map(|(key, _)| *key).collect();
        for key in untold {
            self.tell_job(key);
        }
        if self.error.0 != ErrorCode::Journal {
            self.fault(ErrorCode::Journal, reason.to_owned());
        }
    }

    /// A disk that hangs fails like one that is full.
    pub(super) fn check_records(&mut self) {
        let now = self.now.mono;
        let jobs = self.jobs.values().filter_map(Job::recorded_by);
        let mut all = jobs.chain(self.aborts.values().map(|abort| abort.until));
        if all.any(|until| until <= now) {
            self.journal_failed("the journal cannot be written: its disk does not answer");
        }
    }

    fn refuse_recording(&mut self, report: &str) {
        let ack = Ack::Failed { reason: format!("{report}; nothing was sent to the execution service") };
        let recording = |job: &Job| StageName::of(&job.stage) == StageName::Recording;
        let jobs: Vec<EntryKey> =
            self.jobs.iter().filter(|(_, job)| recording(job)).map(|(key, _)| *key).collect();
        for key in jobs {
            if let Some(job) = self.jobs.remove(&key) {
                self.journal_end(key, None, &ack, None);
                self.tell_end(key, &job.sender, CommandName::Execute, ack.clone());
                self.remember_unsubmitted(job, report.to_owned());
            }
        }
        for (key, abort) in std::mem::take(&mut self.aborts) {
            self.journal_end(key, None, &ack, None);
            self.tell_end(key, &abort.sender, CommandName::AbortJob, ack.clone());
        }
    }

    /// Ends without a journal: nobody will take up what is unfinished, so those who wait for it are told.
    pub(super) fn abandon(&mut self) {
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
            self.tell_end(key, &job.sender, CommandName::Execute, Ack::Failed { reason });
        }
        let recording = std::mem::take(&mut self.aborts).into_iter();
        let recording = recording.map(|(key, abort)| (abort.job_id, vec![(key, abort.sender)]));
        let removing = std::mem::take(&mut self.removals).into_iter();
        let removing = removing.map(|(job_id, removal)| (job_id, removal.waiting));
        for (job_id, waiting) in recording.chain(removing).collect::<Vec<_>>() {
            for (key, sender) in waiting {
                let reason = format!("the daemon ended before it was known whether job {job_id} was removed");
                self.tell_end(key, &sender, CommandName::AbortJob, Ack::Failed { reason });
            }
        }
    }
}
