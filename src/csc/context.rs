//! What the parts of the core share: the time, the settings, the timers, requests that are not answered, effects.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use crate::url::Url;

use super::command::{CommandName, Sender};
use super::configuration::Configuration;
use super::event::{Ack, Event, LogLevel};
use super::id::{EntryKey, JobId};
use super::polls::Polled;
use super::record::{Receipt, Record};
use super::report::Counters;
use super::request::{Action, Request, Ticket};
use super::time::{Time, Uptime};
use super::timers::{Timer, Timers};
use super::{Effect, Settings};

/// After so long without a request the configured service is asked whether it answers.
const IDLE: Duration = Duration::from_secs(60);
/// A turn that comes so much later than a heartbeat was due comes after the process stood still: a virtual machine that
/// was moved, a container that was frozen, a stop signal.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// Longest wait between tries of one request.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What an outstanding request is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Purpose {
    Submit(EntryKey),
    Poll(Polled),
    Remove(JobId),
    List,
    Push,
    /// It only shows whether the service answers.
    Probe,
    /// The `start` of this configuration waits for it.
    Ping(Box<Configuration>),
}

/// A request that was not answered yet.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) purpose: Purpose,
    /// The service that was asked.
    pub(super) url: Url,
    /// When it was asked.
    pub(super) at: Duration,
}

/// What the parts of the core share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    /// Time of the current turn. While the process stands still, `mono` does too: nobody can answer it then, so that
    /// no limit comes nearer.
    pub(super) now: Time,
    /// How long the process has stood still in all.
    stood_still: Duration,
    /// When it last continued after it had stood still.
    pub(super) thawed: Duration,
    pub(super) rng: fastrand::Rng,
    pub(super) counters: Counters,
    pub(super) timers: Timers,
    /// Time between polls of a job.
    pub(super) poll_interval: Duration,
    /// Effects of the current turn.
    effects: Vec<Effect>,
    asked: HashMap<Ticket, Question>,
    last_ticket: u64,
    probed: Option<Url>,
}

impl Context {
    pub(super) fn new(settings: Settings, seed: u64, now: Time) -> Self {
        Self {
            settings,
            now,
            stood_still: Duration::ZERO,
            thawed: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            counters: Counters::default(),
            timers: Timers::default(),
            poll_interval: Duration::ZERO,
            effects: Vec::new(),
            asked: HashMap::new(),
            last_ticket: 0,
            probed: None,
        }
    }

    /// Begins a turn, whose effects are appended to these.
    pub(super) fn begin(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.effects = mem::take(effects);
        self.now = Time { mono: now.mono.saturating_sub(self.stood_still), tai: now.tai };
        let heartbeat = self.timers.time_of(&Timer::Heartbeat).unwrap_or(self.now.mono);
        let pause = self.now.mono.saturating_sub(heartbeat);
        if pause >= PAUSE_MIN {
            let seconds = pause.as_secs_f64();
            self.warn(format!("the process stood still for {seconds:.1} s, which count towards no limit"));
            self.stood_still += pause;
            (self.now.mono, self.thawed) = (heartbeat, heartbeat);
            // Scripts go on while we do not: what waits to be pushed may be too late for them.
            self.timers.set(Timer::Push, Some(heartbeat));
        }
    }

    /// The time of the current turn for services and senders, which do not stand still with the process.
    pub(super) fn real_time(&self) -> Duration {
        self.now.mono + self.stood_still
    }

    /// The real time of a time to come, if the process does not stand still before.
    pub(super) fn to_real_time(&self, time: Duration) -> Duration {
        time + self.stood_still
    }

    pub(super) fn end(&mut self, effects: &mut Vec<Effect>) {
        *effects = mem::take(&mut self.effects);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn log(&mut self, level: LogLevel, message: String) {
        self.effect(Effect::Log(level, message));
    }

    pub(super) fn info(&mut self, message: String) {
        self.log(LogLevel::Info, message);
    }

    pub(super) fn warn(&mut self, message: String) {
        self.log(LogLevel::Warning, message);
    }

    pub(super) fn journal(&mut self, record: Record) {
        self.effect(Effect::Journal(record));
    }

    pub(super) fn ack(&mut self, to: &Sender, command: Option<CommandName>, ack: Ack) {
        self.send_ack(to, command, ack, None);
    }

    /// Answers a command; the delivery is journaled under the receipt.
    pub(super) fn send_ack(
        &mut self,
        to: &Sender,
        command: Option<CommandName>,
        ack: Ack,
        receipt: Option<Receipt>,
    ) {
        if let Ack::Failed { .. } | Ack::Aborted = ack {
            self.counters.failed_commands += 1;
        }
        self.effect(Effect::Ack { to: to.clone(), command, ack, receipt });
    }

    /// Refuses a command, or ends it at once without success.
    pub(super) fn fail(&mut self, to: &Sender, command: Option<CommandName>, reason: String) {
        let name = command.map_or("command", CommandName::as_str);
        self.log(LogLevel::Warning, format!("{name} of {} failed: {reason}", to.identity));
        self.ack(to, command, Ack::Failed { reason });
    }

    pub(super) fn publish(&mut self, event: Event) {
        self.effect(Effect::Publish { event, receipt: None });
    }

    /// Sends a request to a service.
    pub(super) fn ask(&mut self, purpose: Purpose, url: Url, action: Action) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, Question { purpose, url: url.clone(), at: self.now.mono });
        self.counters.requests += 1;
        if self.probed.as_ref() == Some(&url) {
            self.timers.set(Timer::Probe, Some(self.now.mono + IDLE));
        }
        self.effect(Effect::Request(Request { ticket, url, action }));
        ticket
    }

    /// This service is asked whether it answers, now and whenever it was not asked anything for long. Otherwise an outage
    /// would be noticed only when a job needs the service.
    pub(super) fn probe(&mut self, url: Url) {
        self.probed = Some(url);
        self.on_probe_timer();
    }

    pub(super) fn on_probe_timer(&mut self) {
        if let Some(url) = self.probed.clone() {
            self.ask(Purpose::Probe, url, Action::Ping);
        }
    }

    /// Forgets a request that is answered or not of interest any more; gives none if it was forgotten before.
    pub(super) fn close_question(&mut self, ticket: Ticket) -> Option<Question> {
        self.asked.remove(&ticket)
    }

    /// Whether a request that changes something outside was not answered yet. It costs a look at each request, and is
    /// needed only when the daemon stops.
    pub(super) fn awaits_change(&self) -> bool {
        let mut purposes = self.asked.values().map(|question| &question.purpose);
        purposes.any(|purpose| matches!(purpose, Purpose::Submit(_) | Purpose::Remove(_) | Purpose::Push))
    }

    /// The last request that was made: only a list that is asked for later shows what it did.
    pub(super) fn last_ticket(&self) -> Ticket {
        Ticket(self.last_ticket)
    }

    /// Time until the next try after `failures` failed ones: doubles from `base` to [`BACKOFF_MAX`], less up to a
    /// quarter of jitter.
    pub(super) fn backoff(&mut self, base: Duration, failures: u32) -> Duration {
        let limit = BACKOFF_MAX.max(base);
        let doubled = base.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(limit);
        doubled.mul_f64(0.75 + 0.25 * self.rng.f64())
    }

    /// A random time in the next poll interval, so that the polls of many jobs are spread over it.
    pub(super) fn within_interval(&mut self) -> Duration {
        self.now.mono + self.poll_interval.mul_f64(self.rng.f64())
    }

    /// How long the machine has been up.
    pub(super) fn uptime(&self) -> Option<Uptime> {
        let uptime = self.settings.uptime;
        uptime.map(|start| Uptime { since: start.since + self.real_time(), ..start })
    }
}
