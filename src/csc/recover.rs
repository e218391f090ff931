//! How the commands of previous runs go on, in every summary state and without configuration.
//!
//! A job that is known is polled on. One that may exist is looked for in the service's list before anything is
//! sent again, with the same run id. What may not have been delivered is published and acked again, unchanged.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::announcements::{final_ack, publish_result};
use super::command::{CommandName, Sender, Via};
use super::event::Event;
use super::history::{History, NoteKind};
use super::id::{ClientId, JobId, RunId, SeqNum};
use super::job::{Job, Stage};
use super::jobs::EndedJob;
use super::lookups::DUPLICATES_FOR;
use super::polls::{Poll, Polled};
use super::record::{AcceptedCommand, Completion, Deliverable, Recovered, RecoveredCommand, Work};
use super::removals::Abort;
use super::report::{JobReport, Recovery};
use super::request::{ListedJob, Submission};
use super::time::Tai;
use super::{Csc, RunState};

/// Most jobs that one log line names.
const NAMED_MAX: usize = 20;

impl Csc {
    /// Takes what previous runs left. It is resumed only when it is clear that no other instance is running; commands
    /// that were seen are known from the beginning.
    pub(super) fn on_recovered(&mut self, mut recovered: Recovered) {
        for sender in mem::take(&mut recovered.seen) {
            self.seen.is_repeated(&sender);
        }
        self.last_key = self.last_key.max(recovered.last_key);
        match self.run_state {
            RunState::Joining => self.recovered = Some(recovered),
            RunState::Serving => self.recover(recovered),
            RunState::Stopping | RunState::Over => {}
        }
    }

    /// Resumes what previous runs left.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        if recovered.unsearched {
            self.lookups.want_search();
        }
        let mut latest = Tai(0.0);
        for RecoveredCommand { entry, end, .. } in &recovered.entries {
            latest = Tai(latest.0.max(end.as_ref().map_or(entry.accepted, |end| end.at).0));
            end.iter().for_each(|end| self.removals.note_aborted(end));
        }
        let is_abort = |kept: &RecoveredCommand| matches!(kept.entry.work, Work::Abort { .. });
        let (aborts, executes): (Vec<RecoveredCommand>, Vec<RecoveredCommand>) =
            recovered.entries.into_iter().partition(is_abort);
        // All jobs first, so that an abort finds its job, and a job finds its prerequisites.
        for kept in &executes {
            self.recover_job(kept);
        }
        for RecoveredCommand { entry, .. } in &executes {
            let age = self.age(entry, latest);
            let left = age.map_or(Duration::ZERO, |age| self.ctx.settings.resubmit_limit.saturating_sub(age));
            self.wait_for_prereqs(entry.key, Some(self.ctx.real_time() + left));
        }
        for kept in aborts {
            self.recover_abort(kept);
        }
        let Recovery { running, in_doubt, aborts, results, acks, .. } = self.recovery;
        if self.recovery != Recovery::default() {
            let line = format!(
                "resumed from the previous run: jobs running: {running}, to be submitted or looked up: {in_doubt}, aborts: \
                 {aborts}; sent again: results: {results}, acks: {acks}"
            );
            self.ctx.info(line);
        }
    }

    /// How old the record of a command is: to the second within one boot of the machine, else by the clock, whose latest
    /// time in the records is this; none if that is unknown.
    fn age(&self, entry: &AcceptedCommand, latest: Tai) -> Option<Duration> {
        match (self.ctx.uptime(), entry.uptime) {
            (Some(now), Some(then)) if now.boot == then.boot => now.since.checked_sub(then.since),
            // The clock was set back since, or was ahead then.
            (_, _) if latest > self.ctx.now.tai => None,
            (_, _) => Duration::try_from_secs_f64(self.ctx.now.tai.0 - entry.accepted.0).ok(),
        }
    }

    /// Resumes an execute; one that is not known to have a job goes on as if it were accepted now.
    fn recover_job(&mut self, kept: &RecoveredCommand) {
        let RecoveredCommand { entry, job_id, suspected, end, .. } = kept;
        let (Some(mut job), Work::Execute { poll_interval, .. }) = (Job::of(entry), &entry.work) else {
            return;
        };
        job.history = History(kept.notes.clone());
        if suspected.is_some() {
            self.lookups.look_for_duplicates(&mut self.ctx, DUPLICATES_FOR, entry.key, &job, job_id.as_ref());
        }
        if let Some(end) = end {
            self.announce_again(kept, end, CommandName::Execute);
            let (key, report) = (entry.key, JobReport::of_ended(&job, job_id.clone(), end));
            let mut undelivered = end.deliverables();
            undelivered.retain(|what| match what {
                Deliverable::Result => !kept.result_delivered,
                Deliverable::Ack => !kept.ack_delivered,
            });
            return self.jobs.remember(EndedJob { key, report, history: job.history, undelivered });
        }
        job.history.note(&mut self.ctx, entry.key, NoteKind::Resumed, "");
        // It is used until the next `start`.
        self.ctx.poll_interval = self.ctx.poll_interval.max(*poll_interval);
        match job_id.clone().filter(|job_id| self.jobs.by_id(job_id).is_none()) {
            Some(job_id) => {
                self.recovery.running += 1;
                self.ctx.publish(Event::JobId { seq_num: job.sender.seq_num, job_id: job_id.clone() });
                let poll = Poll::new(&self.ctx, job_id.clone(), Some(job.run_id().clone()));
                self.polls.insert(&job.url, Polled::Ours(entry.key), poll);
                self.polls.begin(&mut self.ctx, &job.url, &Polled::Ours(entry.key));
                job.stage = Stage::Running { job_id };
                // Its sender may not have got an ack with its id.
                job.reminder = Some(self.ctx.now.mono);
            }
            None => self.recovery.in_doubt += 1,
        }
        self.jobs.insert(&mut self.ctx, entry.key, job);
    }

    /// Takes up the jobs of our index that run at the service and that we do not know, since the journal with their
    /// commands is lost. Their senders get no acks, but their results are published.
    pub(super) fn take_unknown(&mut self, url: &Url, found: &[ListedJob]) {
        let mut ended: BTreeSet<RunId> = self.jobs.ended().map(|ended| ended.report.run_id.clone()).collect();
        let mut names = Vec::new();
        let (index, max) = (self.ctx.settings.index, self.ctx.settings.max_jobs);
        for ListedJob { job_id, run_id, phase, .. } in found {
            let Some((seq_num, _)) = run_id.made_for().filter(|(_, of)| *of == index) else { continue };
            let is_known = phase.exit_code().is_some()
                || ended.contains(run_id)
                || self.jobs.by_run(run_id).is_some()
                || self.lookups.has_duplicates(run_id)
                || self.jobs.by_id(job_id).is_some()
                || self.removals.contains(job_id);
            if is_known {
                continue;
            }
            // One of each run; another is a duplicate.
            ended.insert(run_id.clone());
            names.push(format!("{job_id} (run {run_id})"));
            if self.jobs.len() < max {
                self.take_up(seq_num, run_id, job_id, url);
                self.recovery.found += 1;
            }
        }
        if names.is_empty() {
            return;
        }
        let count = names.len();
        names.truncate(NAMED_MAX);
        let line = format!(
            "jobs of index {index} that run at the service and are not in the journal: {count}; up to the limit of {max} \
             jobs they are followed to their job_result, but their senders are not known and get no ack: {}",
            names.join(", ")
        );
        self.ctx.warn(line);
    }

    /// Makes an execute of an unknown sender of a job that runs at the service.
    fn take_up(&mut self, seq_num: SeqNum, run_id: &RunId, job_id: &JobId, url: &Url) {
        let sender = Sender {
            via: Via::Socket(ClientId::GONE),
            identity: "unknown".to_owned(),
            origin: 0,
            seq_num,
            sent: self.ctx.now.tai,
        };
        let submission = Submission {
            run_id: run_id.clone(),
            command: String::new(),
            source_url: String::new(),
            commit_ref: String::new(),
            environment: Vec::new(),
            pipeline: String::new(),
        };
        let work = Work::Execute {
            submission: Arc::new(submission),
            url: url.clone(),
            poll_interval: self.ctx.poll_interval,
            prereqs: Vec::new(),
        };
        let entry = self.accept(sender, work);
        let Some(mut job) = Job::of(&entry) else { return };
        self.announcements.create(&mut self.ctx, entry.key, job_id.clone(), None);
        self.polls.insert(
            url,
            Polled::Ours(entry.key),
            Poll::new(&self.ctx, job_id.clone(), Some(run_id.clone())),
        );
        job.stage = Stage::Running { job_id: job_id.clone() };
        job.history.note(&mut self.ctx, entry.key, NoteKind::Found, job_id.as_str());
        // The run whose journal is lost may have sent it twice.
        self.lookups.look_for_duplicates(&mut self.ctx, DUPLICATES_FOR, entry.key, &job, Some(job_id));
        self.jobs.insert(&mut self.ctx, entry.key, job);
    }

    fn recover_abort(&mut self, kept: RecoveredCommand) {
        if let Some(end) = &kept.end {
            return self.announce_again(&kept, end, CommandName::AbortJob);
        }
        let AcceptedCommand { key, sender, work, .. } = kept.entry;
        let Work::Abort { job_id, url } = work else { return };
        self.recovery.aborts += 1;
        self.recover_removal(key, Abort { sender, job_id, url });
    }

    /// Publishes and acks again what is not known to have been delivered.
    fn announce_again(&mut self, kept: &RecoveredCommand, end: &Completion, name: CommandName) {
        let key = kept.entry.key;
        if let Some(result) = end.result.clone().filter(|_| !kept.result_delivered) {
            self.recovery.results += 1;
            publish_result(&mut self.ctx, key, result);
        }
        if !kept.ack_delivered {
            self.recovery.acks += 1;
            final_ack(&mut self.ctx, key, &kept.entry.sender, name, end.ack.clone());
        }
    }
}
