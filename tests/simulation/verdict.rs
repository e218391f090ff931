//! What must be true when everything has come to its end, and how much has happened by then.

use std::time::Duration;

use ocps::csc::id::JobId;

use super::cluster::Commits;
use super::excuses;
use super::rules::Rules;
use super::service::{Job, Service};

/// A job that is extra is found if it shows up before the time for the last look, which is not kept to the second.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) runs: u64,
    pub(crate) processes: u64,
    pub(crate) commands: u64,
    pub(crate) accepted: u64,
    pub(crate) puts: u64,
    pub(crate) jobs: u64,
    pub(crate) doubles: u64,
    pub(crate) results: u64,
    pub(crate) repeated: u64,
    /// Final acks and results of earlier processes.
    pub(crate) sent_again: u64,
    /// Commands that ended once more, since that was forgotten.
    pub(crate) ended_again: u64,
    pub(crate) final_acks: u64,
    pub(crate) disk_refusals: u64,
    pub(crate) commits: u64,
    /// Jobs that a gateway made of a PUT that it sent twice.
    pub(crate) copies: u64,
    pub(crate) pauses: u64,
    /// Jobs that were found when their commands were forgotten.
    pub(crate) found: u64,
    /// Commands that failed since they may have been sent too long ago.
    pub(crate) stale: u64,
    /// Lists that were given up for polls, those of them that showed a job long after it had ended, and times in which a
    /// service could not keep up.
    pub(crate) given_up: u64,
    pub(crate) untrue: u64,
    pub(crate) stretched: u64,
    /// The longest times in which a job was not asked for, and its end not noticed.
    pub(crate) longest: [Duration; 2],
    /// Starts that came to their end.
    pub(crate) started: u64,
    /// Starts that led to another state than STANDBY, and those that could not.
    pub(crate) reached: u64,
    pub(crate) not_reached: u64,
    /// Commands that came during a start, and those for which there was no room.
    pub(crate) early: u64,
    pub(crate) too_many: u64,
    /// Journals that were taken over from a process that was alive, such processes that continued after a pause, those
    /// that learned that they had lost their journal, requests that they sent all the same, and those that had to wait for
    /// the lease.
    pub(crate) takeovers: u64,
    pub(crate) woken: u64,
    pub(crate) fenced: u64,
    pub(crate) late: u64,
    pub(crate) withheld: u64,
    /// What happened to the journal in a topic.
    pub(crate) topic: Commits,
}

impl Rules {
    /// Each job whose id was published has its result.
    pub(crate) fn final_check(&mut self, services: &[Service]) {
        let mut excused = Vec::new();
        for (key, command) in &self.commands {
            let has_result = |job_id: &&JobId| {
                command
                    .ends
                    .iter()
                    .filter_map(|ending| ending.end.result.as_ref())
                    .any(|result| result.job_id == **job_id)
            };
            for job_id in command.published.iter().filter(|job_id| !has_result(job_id)) {
                let excuse = excuses::no_result(command, job_id, services);
                excused.push(
                    excuse.unwrap_or_else(|| panic!("{job_id} of {key:?} was published but has no result")),
                );
            }
        }
        for excuse in excused {
            *self.excused.entry(excuse).or_default() += 1;
        }
    }

    /// A job that is left at the service although no command needs it. Allowed are the only job of a command, and one that
    /// was listed when it was not looked up any more.
    pub(crate) fn left_over<'a>(&self, now: Duration, services: &'a [Service]) -> Option<&'a Job> {
        let mut alive = services.iter().flat_map(|service| &service.jobs).filter(|job| job.is_alive(now));
        alive.find(|job| !self.may_survive(job, now, services))
    }

    fn may_survive(&self, job: &Job, now: Duration, services: &[Service]) -> bool {
        let Some((run_id, _)) = &job.made else { return true };
        if self.is_forgotten(run_id) {
            // It was shown only after the list had been searched.
            return true;
        }
        let Some(command) = self.of_run(run_id) else { return false };
        let kept = command.ends.last().and_then(|ending| ending.end.result.as_ref());
        let is_kept = kept.is_some_and(|result| result.job_id == job.id);
        let was_too_late =
            command.suspected.is_some_and(|until| until + job.visible_for(now) < now + AT_ONCE);
        is_kept || was_too_late || excuses::is_lied_about(services, run_id.as_str())
    }
}

impl Counts {
    /// What only the log shows.
    pub(crate) fn log(&mut self, line: &str) {
        self.given_up += u64::from(line.starts_with("jobs are polled singly"));
        self.untrue += u64::from(line.contains(" s later it is still listed as active"));
        self.stretched += u64::from(line.starts_with("the service cannot keep up"));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.processes += other.processes;
        self.commands += other.commands;
        self.accepted += other.accepted;
        self.puts += other.puts;
        self.jobs += other.jobs;
        self.doubles += other.doubles;
        self.results += other.results;
        self.repeated += other.repeated;
        self.sent_again += other.sent_again;
        self.ended_again += other.ended_again;
        self.final_acks += other.final_acks;
        self.disk_refusals += other.disk_refusals;
        self.commits += other.commits;
        self.copies += other.copies;
        self.pauses += other.pauses;
        self.found += other.found;
        self.stale += other.stale;
        for (longest, other) in self.longest.iter_mut().zip(other.longest) {
            *longest = other.max(*longest);
        }
        self.given_up += other.given_up;
        self.untrue += other.untrue;
        self.stretched += other.stretched;
        self.started += other.started;
        self.reached += other.reached;
        self.not_reached += other.not_reached;
        self.early += other.early;
        self.too_many += other.too_many;
        self.takeovers += other.takeovers;
        self.woken += other.woken;
        self.fenced += other.fenced;
        self.late += other.late;
        self.withheld += other.withheld;
        self.topic.unanswered += other.topic.unanswered;
        self.topic.had_happened += other.topic.had_happened;
    }

    /// A simulation in which nothing happens proves nothing.
    pub(crate) fn are_enough(&self) {
        let common = [
            self.processes,
            self.puts,
            self.results,
            self.repeated,
            self.sent_again,
            self.disk_refusals,
            self.copies,
            self.pauses,
            self.stale,
            self.given_up,
            self.stretched,
            self.reached,
            self.not_reached,
            self.early,
            self.too_many,
            self.takeovers,
            self.fenced,
            self.topic.unanswered,
        ];
        // Several coincidences each: how often they happen in a few runs is chance.
        let rare =
            [self.doubles, self.found, self.untrue, self.woken, self.withheld, self.topic.had_happened];
        assert!(common.iter().all(|count| *count * 20 > self.runs), "too quiet: {self:?}");
        assert!(self.runs < 1000 || rare.iter().all(|count| *count * 200 > self.runs), "too quiet: {self:?}");
    }
}
