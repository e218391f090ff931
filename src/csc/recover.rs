//! What becomes of the commands of earlier lives, in every summary state and without configuration.
//!
//! A job that is known is followed on. One that may exist is looked for in the service's list before anything is
//! sent again, with the same run id. What was not heard for certain is said again, with equal content.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use super::announcements::{final_ack, publish_result};
use super::command::{CommandName, Sender, Via};
use super::event::{Event, LogLevel};
use super::id::{ClientId, EntryKey, JobId, RunId, SeqNum};
use super::job::{Ended, Job, Origin, Poll, Running, Stage};
use super::lookup::SUSPECT_FOR;
use super::lookup::Search;
use super::record::{End, Entry, Kept, Recovered, Work};
use super::request::{ListedJob, Submission};
use super::time::{BootId, Tai};
use super::{Csc, RunState};

/// Most jobs that one log line names.
const NAMED_MAX: usize = 20;

/// The latest clock time that is known of each boot of the machine.
struct Clocks(HashMap<Option<BootId>, Tai>);

impl Clocks {
    fn new(entries: &[Kept]) -> Self {
        let mut latest = HashMap::new();
        for kept in entries {
            let at = kept.end.as_ref().map_or(kept.entry.accepted, |end| end.at);
            let latest = latest.entry(boot_of(&kept.entry)).or_insert(at);
            if *latest < at {
                *latest = at;
            }
        }
        Self(latest)
    }

    /// In the boot in which this was accepted.
    fn latest(&self, entry: &Entry) -> Option<Tai> {
        self.0.get(&boot_of(entry)).copied()
    }
}

fn boot_of(entry: &Entry) -> Option<BootId> {
    entry.uptime.map(|uptime| uptime.boot)
}

impl Csc {
    /// Takes what earlier lives left; nothing is done about it before it is clear that no other instance lives, but
    /// what was seen is known from the beginning.
    pub(super) fn on_recovered(&mut self, mut recovered: Recovered) {
        for sender in std::mem::take(&mut recovered.seen) {
            self.seen.recover(&sender, self.ctx.now.mono);
        }
        self.last_key = self.last_key.max(recovered.last_key);
        match self.run_state {
            RunState::Joining => self.recovered = Some(recovered),
            RunState::Serving => self.recover(recovered),
            RunState::Stopping { .. } | RunState::Over => {}
        }
    }

    pub(super) fn recover(&mut self, recovered: Recovered) {
        if recovered.unsearched {
            self.search = Search::Wanted;
        }
        let clocks = Clocks::new(&recovered.entries);
        for end in recovered.entries.iter().filter_map(|kept| kept.end.as_ref()) {
            self.note_aborted(end);
        }
        let is_abort = |kept: &Kept| matches!(kept.entry.work, Work::Abort { .. });
        let (aborts, executes): (Vec<Kept>, Vec<Kept>) = recovered.entries.into_iter().partition(is_abort);
        // All jobs first, so that an abort finds the one that it is about, and a job those that it waits for.
        let mut waiting = Vec::new();
        for kept in executes {
            let age = self.age(&kept.entry, &clocks);
            let left = age.map_or(Duration::ZERO, |age| self.ctx.settings.resubmit_limit.saturating_sub(age));
            let waits = self.recover_job(kept);
            waiting.extend(waits.map(|(key, prereqs)| (key, prereqs, self.ctx.now.mono + left)));
        }
        for (key, prereqs, stale_at) in waiting {
            self.recovered_prereqs.extend(prereqs.iter().map(|job_id| (job_id.clone(), None)));
            self.wait_for(key, prereqs, Origin::Recovered { stale_at });
        }
        for kept in aborts {
            self.recover_abort(kept);
        }
        self.note_recovery();
        self.advance();
    }

    /// How old the record of a command is: to the second within one boot of the machine, else by the clock; none if
    /// nobody can tell.
    fn age(&self, entry: &Entry, clocks: &Clocks) -> Option<Duration> {
        match (self.ctx.uptime(), entry.uptime) {
            (Some(now), Some(then)) if now.boot == then.boot => now.since.checked_sub(then.since),
            // It was set back since, or was ahead then.
            (_, _) if clocks.latest(entry).is_some_and(|latest| latest > self.ctx.now.tai) => None,
            (_, _) => Duration::try_from_secs_f64(self.ctx.now.tai.0 - entry.accepted.0).ok(),
        }
    }

    /// Takes up an execute; gives what its job has to wait for, if it is not known to exist.
    fn recover_job(&mut self, kept: Kept) -> Option<(EntryKey, Vec<JobId>)> {
        let Kept { entry: Entry { key, sender, accepted, work, .. }, job_id, suspected, end, .. } = &kept;
        let Work::Execute { submission, url, poll_interval, prereqs } = work else { return None };
        let run_id = submission.run_id.clone();
        if suspected.is_some() {
            self.suspect_again(*key, run_id.clone(), url.clone(), job_id.clone());
        }
        if let Some(end) = end {
            self.say_again(&kept, end, CommandName::Execute);
            self.remember(Ended::new(sender, submission, job_id.clone(), *accepted, end));
            return None;
        }
        let job = Job {
            sender: sender.clone(),
            submission: submission.clone(),
            url: url.clone(),
            poll_interval: *poll_interval,
            accepted: *accepted,
            // Until it is known what it waits for.
            stage: Stage::Recording { prereqs: Vec::new() },
            phase: None,
            missing_prereqs: Vec::new(),
            reminder: None,
            problem: None,
            trouble_logged: false,
        };
        self.jobs.insert(*key, job);
        match job_id {
            Some(job_id) if !self.job_ids.contains_key(job_id) => {
                self.follow(*key, job_id);
                None
            }
            Some(_) | None => {
                self.recovery.in_doubt += 1;
                Some((*key, prereqs.clone()))
            }
        }
    }

    /// Polls a job of an earlier life on; its sender may not have heard of it.
    fn follow(&mut self, key: EntryKey, job_id: &JobId) {
        let now = self.ctx.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        // Not all at once: spread over one poll interval.
        let first = now + job.poll_interval.mul_f64(self.ctx.rng.f64());
        job.stage = Stage::Running(Running {
            job_id: job_id.clone(),
            poll: Poll::new(now, first),
            is_announced: true,
        });
        job.reminder = Some(now);
        let seq_num = job.sender.seq_num;
        self.job_ids.insert(job_id.clone(), key);
        self.ctx.publish(Event::JobId { seq_num, job_id: job_id.clone() });
        self.recovery.running += 1;
    }

    /// Takes up the jobs of our index that run at the service and that we do not know: the journal that knew of their
    /// commands is lost. Nobody can be answered, but the world learns how they end.
    pub(super) fn take_unknown(&mut self, url: &Url, found: &[ListedJob]) {
        let Some(poll_interval) = self.transitions.configuration().map(|c| c.service.poll_interval) else {
            return;
        };
        let mut known: BTreeSet<RunId> = self.jobs.values().map(|job| job.run_id().clone()).collect();
        known.extend(self.history.iter().map(|ended| ended.run_id.clone()));
        let (mut names, mut left_out) = (Vec::new(), 0);
        for ListedJob { job_id, run_id } in found {
            let Some((seq_num, index)) = run_id.made_for() else { continue };
            let is_known = known.contains(run_id)
                || self.is_suspect(run_id)
                || self.job_ids.contains_key(job_id)
                || self.removals.contains_key(job_id);
            if index != self.ctx.settings.index || is_known {
                continue;
            }
            if self.jobs.len() >= self.ctx.settings.max_jobs {
                left_out += 1;
                continue;
            }
            // One of each run; another is extra.
            known.insert(run_id.clone());
            names.push(format!("{job_id} (run {run_id})"));
            self.take_up(seq_num, run_id, job_id, url, poll_interval);
        }
        if left_out > 0 {
            let max = self.ctx.settings.max_jobs;
            let line =
                format!("{left_out} unknown jobs at the service are not followed: {max} jobs is the limit");
            self.ctx.log(LogLevel::Warning, line);
        }
        if names.is_empty() {
            return;
        }
        self.recovery.found += names.len() as u64;
        let (count, index) = (names.len(), self.ctx.settings.index);
        names.truncate(NAMED_MAX);
        let line = format!(
            "{count} jobs of index {index} run at the service that the journal does not know: they are followed to their \
             job_result, but nobody can be answered: {}",
            names.join(", ")
        );
        self.ctx.log(LogLevel::Warning, line);
    }

    fn take_up(
        &mut self,
        seq_num: SeqNum,
        run_id: &RunId,
        job_id: &JobId,
        url: &Url,
        poll_interval: Duration,
    ) {
        let now = self.ctx.now.mono;
        let sender = Sender {
            via: Via::Socket(ClientId::GONE),
            identity: "unknown".to_owned(),
            origin: 0,
            seq_num,
            sent: self.ctx.now.tai,
        };
        let submission = Arc::new(Submission {
            run_id: run_id.clone(),
            command: String::new(),
            source_url: String::new(),
            commit_ref: String::new(),
            environment: Vec::new(),
            pipeline: String::new(),
        });
        let work = Work::Execute {
            submission: submission.clone(),
            url: url.clone(),
            poll_interval,
            prereqs: Vec::new(),
        };
        let key = self.accept(sender.clone(), work);
        self.announcements.create(&mut self.ctx, key, job_id.clone(), None);
        let poll = Poll::new(now, now + poll_interval.mul_f64(self.ctx.rng.f64()));
        let job = Job {
            sender,
            submission,
            url: url.clone(),
            poll_interval,
            accepted: self.ctx.now.tai,
            stage: Stage::Running(Running { job_id: job_id.clone(), poll, is_announced: false }),
            phase: None,
            missing_prereqs: Vec::new(),
            reminder: None,
            problem: None,
            trouble_logged: false,
        };
        self.jobs.insert(key, job);
        self.job_ids.insert(job_id.clone(), key);
        // The life that is forgotten may have sent it twice.
        self.suspect(SUSPECT_FOR, key, run_id.clone(), url.clone(), Some(job_id.clone()));
    }

    fn recover_abort(&mut self, kept: Kept) {
        let Work::Abort { job_id, url } = &kept.entry.work else { return };
        if let Some(end) = &kept.end {
            return self.say_again(&kept, end, CommandName::AbortJob);
        }
        self.recovery.aborts += 1;
        self.recover_removal(kept.entry.key, kept.entry.sender, job_id.clone(), url.clone());
    }

    /// Says what is not known to have been heard.
    fn say_again(&mut self, kept: &Kept, end: &End, name: CommandName) {
        let key = kept.entry.key;
        if let Some(result) = end.result.clone().filter(|_| !kept.said_result) {
            self.recovery.results += 1;
            publish_result(&mut self.ctx, key, result);
        }
        if !kept.said_ack {
            self.recovery.acks += 1;
            let sender: &Sender = &kept.entry.sender;
            final_ack(&mut self.ctx, key, sender, name, end.ack.clone());
        }
    }

    fn note_recovery(&mut self) {
        let report = self.recovery;
        if report == super::report::Recovery::default() {
            return;
        }
        let line = format!(
            "taken over from the last run: {} running jobs, {} in doubt, {} aborts; said again: {} results, {} acks",
            report.running, report.in_doubt, report.aborts, report.results, report.acks
        );
        self.ctx.log(LogLevel::Info, line);
    }
}
