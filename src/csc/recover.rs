//! What becomes of the commands of earlier lives, in every summary state and without configuration.
//!
//! A job that is known is followed on. One that may exist is looked for in the service's list before anything is
//! sent again, with the same run id. What was not heard for certain is said again, with equal content.

use std::time::Duration;

use super::command::{CommandName, Sender};
use super::event::{Event, LogLevel};
use super::id::{EntryKey, JobId};
use super::job::{Ended, Job, Origin, Poll, Running, Stage};
use super::lookup::SUSPECT_FOR;
use super::record::{End, Entry, Kept, Recovered, Work};
use super::{Csc, Life};

impl Csc {
    /// Takes what earlier lives left; nothing is done about it before it is clear that no other instance lives, but
    /// what was seen is known from the beginning.
    pub(super) fn take_over(&mut self, mut recovered: Recovered) {
        for (sender, at) in std::mem::take(&mut recovered.seen) {
            let age = Duration::try_from_secs_f64(self.now.tai.0 - at.0).unwrap_or_default();
            self.seen.recover(&sender, age, self.now.mono);
        }
        self.last_key = self.last_key.max(recovered.last_key);
        match self.life {
            Life::Joining => self.recovered = Some(recovered),
            Life::Serving => self.recover(recovered),
            Life::Stopping { .. } | Life::Over => {}
        }
    }

    pub(super) fn recover(&mut self, recovered: Recovered) {
        for end in recovered.entries.iter().filter_map(|kept| kept.end.as_ref()) {
            self.note_aborted(end);
        }
        let is_abort = |kept: &Kept| matches!(kept.entry.work, Work::Abort { .. });
        let (aborts, executes): (Vec<Kept>, Vec<Kept>) = recovered.entries.into_iter().partition(is_abort);
        // All jobs first, so that an abort finds the one that it is about, and a job those that it waits for.
        let mut waiting = Vec::new();
        for kept in executes {
            waiting.extend(self.recover_job(kept));
        }
        for (key, prereqs) in waiting {
            self.wait_for(key, prereqs, Origin::Recovered);
        }
        for kept in aborts {
            self.recover_abort(kept);
        }
        self.note_recovery();
        self.advance();
    }

    /// Takes up an execute; gives what its job has to wait for, if it is not known to exist.
    fn recover_job(&mut self, kept: Kept) -> Option<(EntryKey, Vec<JobId>)> {
        let Kept { entry: Entry { key, sender, accepted, work }, job_id, suspected, end, .. } = &kept;
        let Work::Execute { submission, url, poll_interval, prereqs } = work else { return None };
        let run_id = submission.run_id.clone();
        if let Some(until) = suspected {
            // Once at least: nobody looked while there was no daemon.
            let left = Duration::try_from_secs_f64(until.0 - self.now.tai.0).unwrap_or_default();
            self.suspect_for(left.min(SUSPECT_FOR), run_id.clone(), url.clone(), job_id.clone());
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
            stage: Stage::Waiting { prereqs: prereqs.iter().cloned().collect(), origin: Origin::Recovered },
            phase: None,
            missing_prereqs: Vec::new(),
            reminder: None,
            problem: None,
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
        let now = self.now.mono;
        let Some(job) = self.jobs.get_mut(&key) else { return };
        // Not all at once: spread over one poll interval.
        let first = now + job.poll_interval.mul_f64(self.rng.f64());
        job.stage =
            Stage::Running(Running { job_id: job_id.clone(), poll: Poll::new(now, first), untold: None });
        job.reminder = Some(now);
        let seq_num = job.sender.seq_num;
        self.job_ids.insert(job_id.clone(), key);
        self.publish(Event::JobId { seq_num, job_id: job_id.clone() });
        self.recovery.running += 1;
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
            self.tell_result(key, result);
        }
        if !kept.said_ack {
            self.recovery.acks += 1;
            let sender: &Sender = &kept.entry.sender;
            self.tell_final_ack(key, sender, name, end.ack.clone());
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
        self.log(LogLevel::Info, line);
    }
}
