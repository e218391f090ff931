//! THE CORE: a pure state machine.
//!
//! It takes an [`Input`] and the time, and gives [`Effect`]s for the daemon to carry out in order.
//! It does no I/O, reads no clock, starts no thread, writes no log, and its random numbers come
//! from a seed: the same seed and inputs give the same effects, always.
//! It knows nothing of HTTP, Kafka, JSON on a wire, files or time sources.
//!
//! * [`command`], [`event`], [`request`]: what goes in and out, as types.
//! * `transition`: summary states; `submit`: an execute until its job exists; `track`: from there to
//!   its end; `remove`: aborts; `lookup`: jobs found by run id after an unclear answer;
//!   `push`: what Rapid Analysis has in the place of jobs;
//! * [`record`], `durable`: what outlives the process; `recover`: what becomes of it in the next life;
//!   `contact`: whether a service lives; `notice`: what the log says of it; `probe`: how that is known of one that is idle; `pause`: times in which the
//!   process stood still; `seen`: commands that came twice.

mod announcements;
pub mod command;
pub mod configuration;
mod contact;
mod context;
pub mod event;
pub mod id;
mod job;
mod lookup;
mod notice;
mod pause;
mod probe;
mod push;
pub mod record;
mod recover;
mod remove;
pub mod report;
pub mod request;
mod seen;
pub mod state;
mod submit;
pub mod time;
mod track;
mod transition;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::url::Url;

use announcements::{Announcements, final_ack};
use command::{Command, CommandName, Order, Sender, Via};
use configuration::{Configuration, Service};
use context::{Context, Purpose, Question};
use event::{Ack, ConfigurationsAvailable, ErrorCode, Event, LogLevel};
use id::{EntryKey, JobId, RunId, SalIndex};
use job::{Ended, Job, Stage, Watch};
use push::Drives;
use record::{Awaited, Entry, Receipt, Record, Recovered, Work};
use request::{Action, Answer, Outcome, Payload, Request};
use state::SummaryState;
use time::{Time, Uptime};
use transition::Transitions;

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A waiting sender's patience after `CMD_INPROGRESS` is 600 s; it is told again at half of that.
const REMINDER: Duration = Duration::from_secs(300);
/// How long a PUT or DELETE in flight is waited for when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// What commands are told that come too late.
const STOPPING: &str = "the daemon is stopping";
/// Finished jobs that are remembered for `ocps jobs --all`.
const HISTORY_MAX: usize = 1000;

/// What the core needs to know for its whole life.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our index.
    pub index: SalIndex,
    /// Whether jobs are only simulated.
    pub simulated: bool,
    /// Least level that is logged, Python's number.
    pub log_level: i32,
    /// Makes the submission of an execute.
    pub payload: Arc<dyn Payload>,
    /// How long a submission is tried, from its first failed or unclear attempt.
    pub submit_timeout: Duration,
    /// How long a job may take to show up in the list after an unclear attempt.
    pub settle_time: Duration,
    /// How long the service may be away while jobs run before that is a FAULT.
    pub outage_limit: Duration,
    /// Whether to wait for [`Input::Joined`] first: nothing is published before it but logLevel.
    pub joins: bool,
    /// How old the record of a submission in doubt may be for it to be sent again.
    pub resubmit_limit: Duration,
    /// For how long jobs that ended are remembered.
    pub history: Duration,
    /// How long the machine had been up when [`Time::mono`] was zero, where that is known.
    pub uptime: Option<Uptime>,
    /// Whether there is a journal: what is unfinished is then left to the next life when the daemon ends.
    pub journal: bool,
    /// Most jobs at once; also the bound of aborts and of prerequisites that are watched.
    pub max_jobs: usize,
}

/// What happens to the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// A command came.
    Command(Command),
    /// A back-end request ended.
    Outcome(Outcome),
    /// The time that [`Csc::next_deadline`] asked for has come (or any other time: it does no harm). All that the
    /// journal has said was handed over before.
    Tick,
    /// The configuration asked for was read, or why not.
    Configuration(Result<Configuration, String>),
    /// The configuration directory was looked at.
    ConfigurationsAvailable(ConfigurationsAvailable),
    /// What earlier lives left behind; comes before anything else, or not at all.
    Recovered(Recovered),
    /// This record is durable.
    Journaled(Awaited),
    /// The journal cannot be written, and why, in one line; what is not durable yet is tried again and again.
    JournalFailed(String),
    /// The journal can be written again.
    JournalBack,
    /// Log from this level on (not by command).
    LogLevel(i32),
    /// Begin: no other instance was heard, or nobody can be asked.
    Joined,
    /// Another instance with our index lives; who it is.
    Intruder(String),
    /// End, leaving jobs running at the service.
    Terminate,
}

/// What the core wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a command.
    Ack {
        /// Whom.
        to: Sender,
        /// The command that is answered, when it is known.
        command: Option<CommandName>,
        /// What to say.
        ack: Ack,
        /// Its delivery is to be journaled under this name.
        receipt: Option<Receipt>,
    },
    /// Tell the world.
    Publish {
        /// What.
        event: Event,
        /// Its delivery is to be journaled under this name.
        receipt: Option<Receipt>,
    },
    /// Keep this; where it is [`Record::awaited`], say [`Input::Journaled`] when it is durable.
    Journal(Record),
    /// Ask the back-end.
    Request(Request),
    /// Start no request any more, also none that is queued: those fail as not sent.
    StopRequests,
    /// Read the configuration with this override, then say [`Input::Configuration`].
    ReadConfiguration {
        /// `[file][:gitref]`, may be empty.
        override_name: String,
    },
    /// Look at the configuration directory from now on, or not any more.
    WatchConfigurations(Watching),
    /// Log from this level on, Python's number.
    SetLogLevel(i32),
    /// Log a line.
    Log(LogLevel, String),
    /// End the process, successfully.
    Exit,
    /// End the process, with failure: why.
    Fail(String),
}

/// Whether the configuration directory is looked at: only in STANDBY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Every second.
    On,
    /// Not at all.
    Off,
}

/// Where the daemon is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    /// It waits for [`Input::Joined`].
    Joining,
    /// Commands are carried out.
    Serving,
    /// It waits for what is in flight, until this time at most.
    Stopping { until: Duration },
    /// [`Effect::Exit`] was given.
    Over,
}

/// The state machine.
///
/// [`Csc::handle`] takes each input and dispatches it to the parts, which know nothing of each other.
/// [`Input::Recovered`], if there is one, comes first; with [`Settings::joins`], [`Input::Joined`] comes before any command.
#[derive(Debug)]
pub struct Csc {
    ctx: Context,
    run_state: RunState,
    /// What a previous run left, until it may be touched.
    recovered: Option<Recovered>,
    recovery: report::Recovery,
    next_heartbeat: Duration,
    log_level: i32,
    transitions: Transitions,
    announcements: Announcements,
    seen: seen::Seen,
    jobs: BTreeMap<EntryKey, Job>,
    job_ids: HashMap<JobId, EntryKey>,
    history: VecDeque<Ended>,
    last_key: u64,
    watches: BTreeMap<JobId, Watch>,
    /// Aborts that are not journaled yet.
    aborts: BTreeMap<EntryKey, remove::Abort>,
    removals: BTreeMap<JobId, remove::Removal>,
    /// Jobs that ended since they were aborted, the last of them.
    aborted: VecDeque<JobId>,
    lookups: BTreeMap<Url, lookup::Lookup>,
    suspects: BTreeMap<RunId, lookup::Suspect>,
    search: lookup::Search,
    /// What recovered commands wait for, and when each was last seen to be active.
    recovered_prereqs: HashMap<JobId, Option<Duration>>,
    pushes: push::Pushes,
    /// By base URL.
    services: BTreeMap<Url, contact::Health>,
}

impl Csc {
    /// A core in STANDBY; its effects are the events that every start-up begins with.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Time, effects: &mut Vec<Effect>) -> Self {
        let mut csc = Self {
            log_level: settings.log_level,
            ctx: Context::new(settings, seed, now),
            run_state: RunState::Joining,
            recovered: None,
            recovery: report::Recovery::default(),
            next_heartbeat: now.mono + HEARTBEAT,
            transitions: Transitions::new(),
            announcements: Announcements::default(),
            seen: seen::Seen::default(),
            jobs: BTreeMap::new(),
            job_ids: HashMap::new(),
            history: VecDeque::new(),
            last_key: 0,
            watches: BTreeMap::new(),
            aborts: BTreeMap::new(),
            removals: BTreeMap::new(),
            aborted: VecDeque::new(),
            lookups: BTreeMap::new(),
            suspects: BTreeMap::new(),
            search: lookup::Search::Done,
            recovered_prereqs: HashMap::new(),
            pushes: push::Pushes::new(),
            services: BTreeMap::new(),
        };
        csc.ctx.begin(now, effects);
        csc.ctx.publish(Event::LogLevel { level: csc.log_level });
        if !csc.ctx.settings.joins {
            csc.join();
        }
        csc.ctx.end(effects);
        csc
    }

    /// Begins, with the events of start-up after logLevel, in the order that salobj has.
    fn join(&mut self) {
        if self.run_state != RunState::Joining {
            return;
        }
        self.run_state = RunState::Serving;
        self.next_heartbeat = self.ctx.now.mono + HEARTBEAT;
        self.ctx.publish(Event::Heartbeat);
        self.ctx.publish(Event::SimulationMode { mode: i32::from(self.ctx.settings.simulated) });
        self.ctx.publish(Event::SoftwareVersions);
        self.transitions.begin(&mut self.ctx);
        if let Some(recovered) = self.recovered.take() {
            self.recover(recovered);
        }
    }

    /// Takes one input; appends what is to be done to `effects`.
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        if self.run_state == RunState::Over {
            return;
        }
        self.ctx.begin(self.ctx.now, effects);
        self.note_pause(now);
        self.ctx.now = now;
        match input {
            Input::Command(command) => self.on_command(command),
            Input::Outcome(outcome) => self.on_outcome(outcome),
            Input::Tick => self.on_tick(),
            Input::Configuration(result) => self.on_configuration(result),
            Input::ConfigurationsAvailable(available) => {
                self.transitions.on_available(&mut self.ctx, available)
            }
            Input::Recovered(recovered) => self.on_recovered(recovered),
            Input::Journaled(awaited) => self.on_durable(awaited),
            Input::JournalFailed(reason) => self.on_journal_failed(&reason),
            Input::JournalBack => self.ctx.log(LogLevel::Info, "the journal can be written again".to_owned()),
            Input::LogLevel(level) => self.set_log_level(level),
            Input::Joined => self.join(),
            Input::Intruder(who) => self.on_duplicate_instance(&who),
            Input::Terminate => self.stop(),
        }
        self.finish_stop();
        self.ctx.end(effects);
    }

    /// The monotonic time at which the core wants the next [`Input::Tick`].
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let mut deadline = self.next_heartbeat;
        if let RunState::Stopping { until } = self.run_state {
            // Nothing else is due: no request is started any more.
            return deadline.min(until);
        }
        let due = self
            .jobs
            .values()
            .filter_map(Job::due)
            .chain(self.announcements.due())
            .chain(self.watches.values().filter_map(Watch::due))
            .chain(self.removals.values().filter_map(remove::Removal::due))
            .chain(self.lookups.keys().filter_map(|url| self.lookup_due(url)))
            .chain(self.outage_due())
            .chain(self.probe_due())
            .chain(self.notices_due())
            .chain(self.pushes.due());
        for time in due {
            deadline = deadline.min(time);
        }
        deadline
    }

    /// The current summary state.
    #[must_use]
    pub fn state(&self) -> SummaryState {
        self.transitions.state()
    }

    fn on_command(&mut self, command: Command) {
        if self.seen.is_repeated(&command.sender, self.ctx.now.mono) {
            let line = format!("ignored a command that came twice: {}", describe(&command));
            return self.ctx.log(LogLevel::Warning, line);
        }
        match command.sender.via {
            // It is not carried out again in the next run either.
            Via::Kafka => {
                self.ctx.journal(Record::Seen { sender: command.sender.clone(), at: self.ctx.now.tai })
            }
            Via::Socket(_) | Via::CommandLine => {}
        }
        self.ctx.counters.commands += 1;
        let name = command.order.name();
        let refusal = match self.run_state {
            RunState::Serving => None,
            RunState::Joining => Some("the daemon is starting".to_owned()),
            RunState::Stopping { .. } | RunState::Over => Some(STOPPING.to_owned()),
        };
        // A transition that waits for a `start` may be allowed then.
        let refusal = refusal.or_else(|| {
            name.filter(|name| name.transition().is_none())
                .and_then(|name| self.transitions.not_allowed(name))
        });
        if let Some(reason) = refusal {
            return self.ctx.fail(&command.sender, name, reason);
        }
        let sender = command.sender.clone();
        match (command.order, Drives::of(self.ctx.settings.index)) {
            (
                order @ (Order::Start { .. }
                | Order::Enable
                | Order::Disable
                | Order::Standby
                | Order::ExitControl),
                _,
            ) => {
                self.transitions.on_command(&mut self.ctx, Command { sender, order });
                self.stop_if_offline();
            }
            (Order::SetLogLevel { level }, _) => {
                self.set_log_level(level);
                self.ctx.ack(&sender, name, Ack::Complete);
            }
            (Order::Execute(execute), Drives::Jobs) => self.execute(sender, &execute),
            (Order::Execute(execute), Drives::Lists) => self.push(sender, execute),
            (Order::AbortJob(job_id), Drives::Jobs) => self.abort(sender, job_id),
            // A push is over before anybody could abort it.
            (Order::AbortJob(_), Drives::Lists) => {
                self.ctx.fail(&sender, name, "Rapid Analysis (index 101) has no jobs to abort".to_owned());
            }
            (Order::Invalid { name, reason }, _) => {
                let reason = name.and_then(|name| self.transitions.not_allowed(name)).unwrap_or(reason);
                self.ctx.fail(&sender, name, reason);
            }
        }
    }

    /// The configuration that a `start` waits for was read, or not. Rapid Analysis starts only where Redis answers, too.
    fn on_configuration(&mut self, result: Result<Configuration, String>) {
        match (result, Drives::of(self.ctx.settings.index)) {
            (Ok(configuration), Drives::Lists) if self.transitions.is_starting() => {
                let url = configuration.service.url.clone();
                self.ctx.ask(Purpose::Ping(Box::new(configuration)), url, Action::Ping);
            }
            (result, Drives::Lists | Drives::Jobs) => self.finish_start(result),
        }
    }

    /// Concludes a `start`, then carries out the commands that waited for it.
    fn finish_start(&mut self, result: Result<Configuration, String>) {
        if let Some(service) = self.transitions.finish_start(&mut self.ctx, result) {
            self.apply(&service);
        }
        self.transitions.make_waiting(&mut self.ctx);
        self.stop_if_offline();
    }

    /// Applies a configuration: the poll interval at once to all jobs, the rest to those to come.
    fn apply(&mut self, service: &Service) {
        let poll_interval = service.poll_interval;
        let next = self.ctx.now.mono + poll_interval;
        for job in self.jobs.values_mut() {
            job.poll_interval = poll_interval;
            if let Stage::Running(running) = &mut job.stage {
                running.poll.not_later_than(next);
            }
        }
        for watch in self.watches.values_mut() {
            watch.poll_interval = poll_interval;
            watch.poll.not_later_than(next);
        }
        self.forget_services();
        match Drives::of(self.ctx.settings.index) {
            Drives::Jobs => {
                self.begin_search(&service.url);
                self.ctx.probed =
                    (!self.ctx.settings.simulated).then(|| (service.url.clone(), self.ctx.now.mono));
                self.probe();
            }
            Drives::Lists => {}
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        // An answer that nobody waits for any more is dropped: its job went on without it.
        let Some(Question { purpose, url, at }) = self.ctx.close_question(outcome.ticket) else { return };
        if let Some(contact) = outcome.answer.of_service() {
            self.note_contact(url.clone(), at, contact);
        }
        match (purpose, outcome.answer) {
            (Purpose::Submit(key), Answer::Submit(result)) => self.submitted(key, &url, result),
            (Purpose::Poll(key), Answer::Status(result)) => self.polled(key, at, result),
            (Purpose::Prerequisite(job_id), Answer::Status(result)) => self.watched(&job_id, at, result),
            (Purpose::Remove(job_id), Answer::Remove(result)) => self.removed(job_id, at, result),
            (Purpose::Confirm(job_id), Answer::Status(result)) => self.confirmed(job_id, result),
            (Purpose::List, Answer::List(result)) => self.listed(&url, result),
            (Purpose::Push, Answer::Push(result)) => self.pushed(result),
            (Purpose::Ping(configuration), Answer::Ping(result)) => {
                self.finish_start(result.map(|()| *configuration).map_err(|failure| failure.reason));
            }
            // A probe only shows whether the service answers; and no answer is of another action than its request.
            _ => {}
        }
        // What just changed may be due at once.
        self.advance();
    }

    /// Another instance with our index: before the start it has the right of way, later both go to FAULT.
    fn on_duplicate_instance(&mut self, who: &str) {
        let report = format!("another instance with index {} lives: {who}", self.ctx.settings.index);
        self.transitions.note_other(&self.ctx, report.clone());
        match self.run_state {
            RunState::Joining => {
                self.run_state = RunState::Over;
                self.ctx.effect(Effect::Fail(report));
            }
            // One FAULT is enough; it comes again when an operator has cleared it and the other is still running.
            RunState::Serving if self.transitions.error().0 != ErrorCode::Duplicate => {
                self.transitions.fault(&mut self.ctx, ErrorCode::Duplicate, report);
            }
            RunState::Serving | RunState::Stopping { .. } | RunState::Over => {}
        }
    }

    fn on_tick(&mut self) {
        if self.run_state == RunState::Joining {
            self.next_heartbeat = self.ctx.now.mono + HEARTBEAT;
            return;
        }
        if self.ctx.now.mono >= self.next_heartbeat {
            self.ctx.publish(Event::Heartbeat);
            let late = self.ctx.now.mono.saturating_sub(self.next_heartbeat);
            // Keep the beat; after a long sleep do not catch up.
            let beats = u32::try_from(late.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            self.next_heartbeat += HEARTBEAT.saturating_mul(beats);
        }
        if self.run_state == RunState::Serving {
            self.check_records();
        }
        self.advance();
    }

    /// Does all that is due.
    fn advance(&mut self) {
        if self.run_state != RunState::Serving {
            return;
        }
        self.check_outage();
        self.advance_jobs();
        self.advance_watches();
        self.advance_removals();
        self.advance_lookups();
        self.advance_pushes();
        self.advance_probe();
        self.advance_notices();
    }

    fn set_log_level(&mut self, level: i32) {
        self.log_level = level;
        self.ctx.effect(Effect::SetLogLevel(level));
        self.ctx.publish(Event::LogLevel { level });
    }

    /// Numbers a command and makes its record durable; then it is carried out.
    fn accept(&mut self, sender: Sender, work: Work) -> EntryKey {
        self.last_key += 1;
        let key = EntryKey(self.last_key);
        let entry = Entry { key, sender, accepted: self.ctx.now.tai, uptime: self.ctx.uptime(), work };
        self.ctx.journal(Record::Accepted(Box::new(entry)));
        self.announcements.accept(&self.ctx, key);
        key
    }

    /// The record of a command is durable: from now on requests may be made for it.
    fn carry_out(&mut self, key: EntryKey) {
        self.job_journaled(key);
        self.abort_journaled(key);
    }

    fn stop_if_offline(&mut self) {
        if self.transitions.state() == SummaryState::Offline {
            self.stop();
        }
    }

    /// Ends the daemon: nothing new is begun, what is in flight is waited for.
    fn stop(&mut self) {
        match self.run_state {
            RunState::Serving => {}
            // Nobody knows that we exist.
            RunState::Joining => {
                self.run_state = RunState::Over;
                self.transitions.go_offline();
                self.ctx.effect(Effect::StopRequests);
                return self.ctx.effect(Effect::Exit);
            }
            RunState::Stopping { .. } | RunState::Over => return,
        }
        self.run_state = RunState::Stopping { until: self.ctx.now.mono + STOP_PATIENCE };
        self.ctx.effect(Effect::StopRequests);
        self.transitions.fail_waiting(&mut self.ctx);
        self.announcements.forget_accepted();
        self.stop_pushes();
    }

    fn finish_stop(&mut self) {
        let RunState::Stopping { until } = self.run_state else { return };
        // An id that came in time is still published, and so is a result.
        let is_waiting = self.ctx.awaits_change() || !self.announcements.is_empty();
        if is_waiting && self.ctx.now.mono < until {
            return;
        }
        self.run_state = RunState::Over;
        self.give_up_push("the daemon ended before Redis answered");
        if !self.ctx.settings.journal {
            self.abandon();
        } else if !self.jobs.is_empty() {
            let line = format!("{} jobs go on without us and are taken up again", self.jobs.len());
            self.ctx.log(LogLevel::Info, line);
        }
        self.transitions.go_offline();
        self.ctx.publish(Event::SummaryState(SummaryState::Offline));
        self.ctx.effect(Effect::Exit);
    }

    /// Ends without a journal: nobody will take up what is unfinished, so those who wait for it are answered.
    fn abandon(&mut self) {
        self.announce_all();
        for (key, job) in mem::take(&mut self.jobs) {
            let reason = match (&job.stage, job.job_id()) {
                (_, Some(job_id)) => {
                    format!("the daemon ended; job {job_id} is left at the execution service")
                }
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
            self.ctx.log(LogLevel::Warning, format!("run {}: {reason}", job.run_id()));
            final_ack(&mut self.ctx, key, &job.sender, CommandName::Execute, Ack::Failed { reason });
        }
        let recording = mem::take(&mut self.aborts).into_iter();
        let recording = recording.map(|(key, abort)| (abort.job_id, vec![(key, abort.sender)]));
        let removing = mem::take(&mut self.removals).into_iter();
        let removing = removing.map(|(job_id, removal)| (job_id, removal.waiting));
        for (job_id, waiting) in recording.chain(removing) {
            for (key, sender) in waiting {
                let reason = format!("the daemon ended before it was known whether job {job_id} was removed");
                final_ack(&mut self.ctx, key, &sender, CommandName::AbortJob, Ack::Failed { reason });
            }
        }
    }
}

/// A command for the log.
fn describe(command: &Command) -> String {
    let name = command.order.name().map_or("unknown", CommandName::as_str);
    format!("{name} {} of {}", command.sender.seq_num.0, command.sender.identity)
}
