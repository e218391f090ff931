//! Whether an execution service answers: outages, jobs that it gives no valid answers about, and what the log says.
//!
//! Changes are logged at once, but only some lines a minute, and then a summary: hundreds of jobs fail together when
//! their service does.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use crate::url::Url;

use super::context::Context;
use super::event::LogLevel;
use super::report;
use super::request::{Contact, Failure};
use super::timers::Timer;

/// A job about which no valid answer came for so long at least, while the service answered others, is given up.
const NO_VALID_ANSWER_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Time after which what was not logged is summed up.
const MINUTE: Duration = Duration::from_secs(60);
/// Maximum number of lines about one service in that time, besides the summary.
const LINES_MAX: u32 = 4;

/// Every service that was asked anything, by its base URL.
#[derive(Debug, Default)]
pub(super) struct Services(BTreeMap<Url, Health>);

#[derive(Debug, Default)]
struct Health {
    /// Whether a request has reached the service, or failed to.
    known: bool,
    /// Since when it has been silent.
    silent_since: Option<Duration>,
    /// Whether this silence has been a FAULT already.
    faulted: bool,
    /// The last thing that went wrong with a request, and when: its age is not kept.
    last_problem: Option<(report::Problem, Duration)>,
    /// When it last gave a valid answer.
    last_valid_answer: Option<Duration>,
    /// When it last gave a valid answer after a long time without one.
    restored: Duration,
    notices: Notices,
}

/// What was logged in the present minute, and what happened.
#[derive(Debug, Default)]
struct Notices {
    /// When the minute began; none after one in which nothing was left out.
    since: Option<Duration>,
    lines: u32,
    /// Whether something was not logged.
    left_out: bool,
    /// How often the service fell silent.
    losses: u32,
    failures: u32,
}

/// What an answer changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The service answers again.
    Back,
    /// It has been silent for too long: the report of a FAULT.
    Outage(String),
}

impl Health {
    fn is_valid_within(&self, time: Duration, now: Duration) -> bool {
        self.last_valid_answer.is_some_and(|last| now.saturating_sub(last) < time)
    }

    fn silent_for(&self, now: Duration) -> Option<Duration> {
        self.silent_since.map(|since| now.saturating_sub(since))
    }

    fn last_reason(&self) -> &str {
        self.last_problem.as_ref().map_or("no answer", |(problem, _)| &problem.reason)
    }
}

impl Services {
    fn get(&mut self, url: &Url) -> &mut Health {
        self.0.entry(url.clone()).or_default()
    }

    /// The service gave a valid answer.
    pub(super) fn on_valid_answer(&mut self, ctx: &mut Context, url: &Url) -> Change {
        let change = self.on_answer(ctx, url);
        let (now, recent) = (ctx.now.mono, recent(ctx));
        let health = self.get(url);
        if !health.is_valid_within(recent, now) {
            health.restored = now;
        }
        health.last_valid_answer = Some(now);
        change
    }

    fn on_answer(&mut self, ctx: &mut Context, url: &Url) -> Change {
        let health = self.get(url);
        health.known = true;
        let Some(since) = health.silent_since.take() else { return Change::Nothing };
        health.faulted = false;
        ctx.timers.stop(&Timer::Outage(url.clone()));
        let silent_for = ctx.now.mono.saturating_sub(since).as_secs_f64();
        let line = format!("the service answers again after {silent_for:.1} s");
        self.log(ctx, url, LogLevel::Info, line);
        Change::Back
    }

    /// A request that was made at `asked` failed; jobs may exist there, for which a long silence is a FAULT.
    pub(super) fn on_failure(
        &mut self,
        ctx: &mut Context,
        url: &Url,
        asked: Duration,
        failure: &Failure,
        has_jobs: bool,
    ) -> Change {
        let now = ctx.now;
        ctx.counters.failed_requests += 1;
        self.notices(ctx, url).failures += 1;
        let health = self.get(url);
        let problem = report::Problem { reason: failure.reason.clone(), age: Duration::ZERO, at: now.tai };
        health.last_problem = Some((problem, now.mono));
        match failure.contact {
            Contact::NotAsked => Change::Nothing,
            Contact::Answered => self.on_answer(ctx, url),
            Contact::Silent => {
                health.known = true;
                let limit = ctx.settings.outage_limit;
                let since = match health.silent_since {
                    Some(since) => since,
                    None => {
                        health.silent_since = Some(now.mono);
                        health.notices.losses += 1;
                        ctx.timers.set(Timer::Outage(url.clone()), Some(now.mono + limit));
                        let line = format!("no contact with the service: {}", failure.reason);
                        self.log(ctx, url, LogLevel::Warning, line);
                        now.mono
                    }
                };
                let health = self.get(url);
                if health.faulted || !has_jobs || asked < since + limit {
                    return Change::Nothing;
                }
                health.faulted = true;
                let (limit, last) = (limit.as_secs_f64(), health.last_reason());
                Change::Outage(format!("cannot contact the execution service for {limit} s: {last}"))
            }
        }
    }

    /// Whether to give up a job whose last valid answer came at `last` and whose poll at `asked` failed too: its service
    /// answers about other jobs, but not about this one.
    pub(super) fn is_abandoned(&self, ctx: &Context, url: &Url, last: Duration, asked: Duration) -> bool {
        let Some(health) = self.0.get(url) else { return false };
        let since = last.max(health.restored);
        // The limit is longer than the time within which the service has to answer about another job.
        let limit = NO_VALID_ANSWER_LIMIT.max(recent(ctx).saturating_mul(2));
        asked.saturating_sub(since) >= limit && health.is_valid_within(recent(ctx), ctx.now.mono)
    }

    /// Forgets the services that are not used.
    pub(super) fn retain(&mut self, ctx: &mut Context, is_used: impl Fn(&Url) -> bool) {
        self.0.retain(|url, _| {
            let is_used = is_used(url);
            if !is_used {
                ctx.timers.stop(&Timer::Outage(url.clone()));
                ctx.timers.stop(&Timer::Notices(url.clone()));
            }
            is_used
        });
    }

    /// What is logged about this service in the present minute.
    fn notices(&mut self, ctx: &mut Context, url: &Url) -> &mut Notices {
        let notices = &mut self.get(url).notices;
        let since = *notices.since.get_or_insert(ctx.now.mono);
        ctx.timers.set(Timer::Notices(url.clone()), Some(since + MINUTE));
        notices
    }

    /// Logs a line about a service, or leaves it out if there were enough in this minute.
    pub(super) fn log(&mut self, ctx: &mut Context, url: &Url, level: LogLevel, line: String) {
        let notices = self.notices(ctx, url);
        if notices.lines < LINES_MAX {
            notices.lines += 1;
            ctx.log(level, line);
        } else {
            notices.left_out = true;
        }
    }

    /// Something about a service is not logged, but summed up.
    pub(super) fn leave_out(&mut self, ctx: &mut Context, url: &Url) {
        self.notices(ctx, url).left_out = true;
    }

    /// The minute is over: sums up what was left out.
    pub(super) fn sum_up(&mut self, ctx: &mut Context, url: &Url) {
        let now = ctx.now.mono;
        let health = self.get(url);
        let Notices { since, left_out, losses, failures, .. } = mem::take(&mut health.notices);
        if !left_out {
            return;
        }
        let time = now.saturating_sub(since.unwrap_or(now)).as_secs_f64();
        let state = match health.silent_for(now) {
            Some(silent_for) => format!("it has not answered for {:.1} s", silent_for.as_secs_f64()),
            None => "it answers now".to_owned(),
        };
        let last = health.last_reason();
        let line = format!(
            "the service in the last {time:.0} s: losses of contact: {losses}, failed requests: {failures}, \
             the last: {last}; {state}"
        );
        ctx.warn(line);
        // The next minute begins.
        self.notices(ctx, url);
    }

    /// The service that is configured or, before that, one where a previous run left something.
    pub(super) fn report(&self, now: Duration, configured: Option<&Url>) -> report::Service {
        let unknown = Health::default();
        let health = match configured {
            Some(url) => self.0.get(url),
            None => self.0.values().next(),
        };
        let health = health.unwrap_or(&unknown);
        let since = |time| now.saturating_sub(time);
        report::Service {
            asked: health.known,
            silent_for: health.silent_for(now),
            last_problem: health
                .last_problem
                .as_ref()
                .map(|(problem, at)| report::Problem { age: since(*at), ..problem.clone() }),
            last_believed: health.last_valid_answer.map(since),
        }
    }
}

/// A service that works has given a valid answer within this time, in which each of its jobs is polled.
fn recent(ctx: &Context) -> Duration {
    ctx.settings.outage_limit.max(ctx.poll_interval.saturating_mul(2))
}
