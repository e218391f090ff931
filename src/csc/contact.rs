//! Whether an execution service lives: outages, and jobs that it answers wrongly while it answers others.

use std::collections::HashSet;
use std::time::Duration;

use crate::url::Url;

use super::event::{ErrorCode, LogLevel};
use super::job::Stage;
use super::notice::Notices;
use super::remove::Removal;
use super::request::{Contact, Failure};
use super::time::Tai;
use super::{Csc, report};

/// A job for which nothing believable came for so long at least, while the service answered others, is given up.
pub(super) const DISBELIEF_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What we know of the health of one service.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether it is known if it answers: a request has reached it, or could not.
    known: bool,
    /// Since when it has been silent.
    silent_since: Option<Duration>,
    /// Whether it was asked once more when this silence had lasted too long.
    probed: bool,
    /// Whether this silence has been a FAULT already.
    faulted: bool,
    /// The last thing that went wrong.
    last_problem: Option<Problem>,
    /// When it last gave a believable answer.
    last_believed: Option<Duration>,
    /// When it last gave one after it had given none for long.
    restored: Duration,
    /// What the log says of it.
    pub(super) notices: Notices,
}

/// Something that went wrong with a request.
#[derive(Debug)]
struct Problem {
    reason: String,
    at: Duration,
    tai: Tai,
}

impl Health {
    /// Whether a believable answer to anything came within this time.
    fn was_believed_within(&self, time: Duration, now: Duration) -> bool {
        self.last_believed.is_some_and(|believed| now.saturating_sub(believed) < time)
    }

    /// For how long it has been silent.
    pub(super) fn silent_for(&self, now: Duration) -> Option<Duration> {
        self.silent_since.map(|since| now.saturating_sub(since))
    }

    /// The last thing that went wrong.
    pub(super) fn last_reason(&self) -> &str {
        self.last_problem.as_ref().map_or("no answer", |problem| &problem.reason)
    }
}

impl Csc {
    /// Learns from an answer to something asked for at that time whether the service is there.
    pub(super) fn note_contact(&mut self, url: Url, asked: Duration, result: Result<(), &Failure>) {
        let now = self.ctx.now.mono;
        match result {
            Err(failure) => {
                self.ctx.counters.failed_requests += 1;
                self.count_failure(&url);
                let health = self.services.entry(url.clone()).or_default();
                health.last_problem =
                    Some(Problem { reason: failure.reason.clone(), at: now, tai: self.ctx.now.tai });
                match failure.contact {
                    Contact::NotAsked => {}
                    Contact::Answered => {
                        health.known = true;
                        self.note_answer(&url);
                    }
                    Contact::Silent => {
                        health.known = true;
                        if health.silent_since.is_none() {
                            health.silent_since = Some(now);
                            self.count_loss(&url);
                            let line = format!("no contact with the service: {}", failure.reason);
                            self.log_of_service(&url, LogLevel::Warning, line);
                        }
                        self.note_silence(&url, asked);
                    }
                }
            }
            Ok(()) => {
                self.note_answer(&url);
                let recent = self.recent(&url);
                let health = self.services.entry(url).or_default();
                if !health.was_believed_within(recent, now) {
                    health.restored = now;
                }
                health.known = true;
                health.last_believed = Some(now);
            }
        }
    }

    fn note_answer(&mut self, url: &Url) {
        let Some(health) = self.services.get_mut(url) else { return };
        let Some(since) = health.silent_since.take() else { return };
        (health.probed, health.faulted) = (false, false);
        let now = self.ctx.now.mono;
        let silent_for = now.saturating_sub(since);
        let line = format!("the service answers again after {:.1} s", silent_for.as_secs_f64());
        self.log_of_service(url, LogLevel::Info, line);
        // What had backed off need not wait any longer; spread over one poll interval.
        let Self { jobs, ctx, .. } = self;
        for job in jobs.values_mut().filter(|job| job.url == *url) {
            if let Stage::Running(running) = &mut job.stage {
                running.poll.hurry(now + job.poll_interval.mul_f64(ctx.rng.f64()));
            }
        }
    }

    /// When a service that is silent has been so for too long and is asked once more.
    pub(super) fn outage_due(&self) -> Option<Duration> {
        let unprobed = self.services.iter().filter(|(_, health)| !health.probed);
        unprobed.filter_map(|(url, _)| self.outage_of(url)).min()
    }

    fn outage_of(&self, url: &Url) -> Option<Duration> {
        let health = self.services.get(url).filter(|health| !health.faulted)?;
        let since = health.silent_since?;
        let tracking = self.jobs.values().filter(|job| job.url == *url).any(|job| match job.stage {
            Stage::Running(_) | Stage::Aborting { .. } => true,
            Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Submitting(_) => false,
        });
        tracking.then(|| since + self.ctx.settings.outage_limit)
    }

    /// Asks services that have been silent for too long once more: only what they are asked then decides.
    pub(super) fn check_outage(&mut self) {
        let now = self.ctx.now.mono;
        let is_due = |url: &&Url| self.outage_of(url).is_some_and(|due| due <= now);
        let due: Vec<Url> = self.services.keys().filter(is_due).cloned().collect();
        for url in due {
            let Some(health) = self.services.get_mut(&url) else { continue };
            if std::mem::replace(&mut health.probed, true) {
                continue;
            }
            let jobs = self.jobs.values_mut().filter(|job| job.url == url);
            let mut polls = jobs.filter_map(|job| match &mut job.stage {
                Stage::Running(running) => running.poll.due().is_some().then_some(&mut running.poll),
                Stage::Recording { .. }
                | Stage::Waiting { .. }
                | Stage::Submitting(_)
                | Stage::Aborting { .. } => None,
            });
            if let Some(poll) = polls.next() {
                poll.not_later_than(now);
            }
            self.retry_a_removal(&url);
        }
    }

    /// A service did not answer what it was asked at that time; it is a FAULT if it had been silent for too long then.
    fn note_silence(&mut self, url: &Url, asked: Duration) {
        if self.outage_of(url).is_none_or(|due| asked < due) {
            return;
        }
        let Some(health) = self.services.get_mut(url) else { return };
        health.faulted = true;
        let last = health.last_reason();
        let limit = self.ctx.settings.outage_limit.as_secs_f64();
        let report = format!("cannot contact the execution service for {limit} s: {last}");
        self.transitions.fault(&mut self.ctx, ErrorCode::Unreachable, report);
    }

    /// The process stood still for a time, in which no service could answer.
    pub(super) fn forgive_services(&mut self, pause: Duration) {
        for health in self.services.values_mut() {
            for time in health.silent_since.iter_mut().chain(&mut health.last_believed) {
                *time += pause;
            }
            health.restored += pause;
        }
    }

    /// Forgets services that an earlier configuration named and that nothing is left at.
    pub(super) fn forget_services(&mut self) {
        let Self { jobs, watches, removals, lookups, transitions, services, .. } = self;
        let mut used: HashSet<&Url> = jobs.values().map(|job| &job.url).collect();
        used.extend(watches.values().map(|watch| &watch.url));
        used.extend(removals.values().map(Removal::url));
        used.extend(lookups.keys());
        used.extend(transitions.service().map(|service| &service.url));
        services.retain(|url, _| used.contains(url));
    }

    /// Whether a job last believed at `believed` must be given up, when an answer to what was asked at `asked` is no
    /// use either: its service answers others, but not for it.
    pub(super) fn is_disbelieved(&self, url: &Url, believed: Duration, asked: Duration) -> bool {
        let Some(health) = self.services.get(url) else { return false };
        let (now, recent) = (self.ctx.now.mono, self.recent(url));
        let since = believed.max(health.restored);
        // Its own last answer is not one to others.
        let limit = DISBELIEF_LIMIT.max(recent.saturating_mul(2));
        asked.saturating_sub(since) >= limit && health.was_believed_within(recent, now)
    }

    /// How old the last answer of a living service can be: each of its jobs has been asked for in this time.
    fn recent(&self, url: &Url) -> Duration {
        let intervals = self.jobs.values().filter(|job| job.url == *url).map(|job| job.poll_interval);
        let longest = intervals.max().unwrap_or_default();
        self.ctx.settings.outage_limit.max(longest.saturating_mul(2))
    }

    /// Of the service that is configured or, before that, of one where an earlier life left something.
    pub(super) fn service_report(&self) -> report::Service {
        let now = self.ctx.now.mono;
        let configured = self.transitions.configuration().map(|configuration| &configuration.service.url);
        let health = match configured {
            Some(url) => self.services.get(url),
            None => self.services.values().next(),
        };
        report::Service {
            asked: health.is_some_and(|health| health.known),
            silent_for: health.and_then(|health| health.silent_for(now)),
            last_problem: health.and_then(|health| health.last_problem.as_ref()).map(|problem| {
                report::Problem {
                    reason: problem.reason.clone(),
                    age: now.saturating_sub(problem.at),
                    at: problem.tai,
                }
            }),
            last_believed: health
                .and_then(|health| health.last_believed)
                .map(|time| now.saturating_sub(time)),
        }
    }
}
