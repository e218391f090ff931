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

pub mod command;
pub mod configuration;
mod contact;
mod durable;
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

use command::{Command, CommandName, Order, Sender};
use configuration::Configuration;
use event::{Ack, ConfigurationsAvailable, ErrorCode, Event, LogLevel};
use id::{EntryKey, JobId, RunId, SalIndex};
use job::{Ended, Job, Watch};
use push::Drives;
use record::{Awaited, HISTORY_MAX, Receipt, Record, Recovered};
use request::{Action, Answer, Outcome, Payload, Request, Ticket};
use state::SummaryState;
use time::{Time, Uptime};

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A waiting sender's patience after `CMD_INPROGRESS` is 600 s; it is told again at half of that.
const REMINDER: Duration = Duration::from_secs(300);
/// Longest wait between tries of one request.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a PUT or DELETE in flight is waited for when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long another instance is taken to live after it was heard: three of its heartbeats.
const OTHER_LIVES: Duration = Duration::from_secs(3);
/// What commands are told that come too late.
const STOPPING: &str = "the daemon is stopping";
/// Transition commands that may wait behind a `start`.
const WAITING_TRANSITIONS_MAX: usize = 100;

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
    /// A command came; not before [`Input::Joined`].
    Command(Command),
    /// A command came that cannot be taken, and why: it fails, and stays undone also when it comes again.
    Refused(Command, String),
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

/// Whether the daemon goes on.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    /// It waits for [`Input::Joined`].
    Joining,
    /// It does.
    Serving,
    /// It waits for what is in flight, until this time at most.
    Stopping { until: Duration },
    /// [`Effect::Exit`] was given.
    Over,
}

/// A request that was not answered.
#[derive(Debug)]
struct Question {
    asked: Asked,
    /// The service that it is for.
    url: Url,
    /// When it was asked.
    at: Duration,
}

/// What an outstanding request is for.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Submit(EntryKey),
    Poll(EntryKey),
    Watch(JobId),
    Remove(JobId),
    Confirm(JobId),
    List(Url),
    Push,
    /// Only whether it answers.
    Probe,
    /// With the configuration whose `start` waits for it.
    Ping(Box<Configuration>),
}

/// The state machine.
#[derive(Debug)]
pub struct Csc {
    settings: Settings,
    rng: fastrand::Rng,
    /// Time of the current turn.
    now: Time,
    /// Effects of the current turn.
    out: Vec<Effect>,
    life: Life,
    state: SummaryState,
    /// What an earlier life left, until it may be touched.
    recovered: Option<Recovered>,
    recovery: report::Recovery,
    error: (ErrorCode, String),
    /// When another instance with our index was heard last, and who it is.
    other: Option<(Duration, String)>,
    /// The last content of each event that is published only when it changes.
    published: Vec<Event>,
    next_heartbeat: Duration,
    log_level: i32,
    configuration: Option<Configuration>,
    /// The override of the last `start`.
    override_name: String,
    /// The `start` whose configuration is being read: its sender and its override.
    starting: Option<(Sender, String)>,
    /// Transition commands that wait behind it.
    waiting_transitions: VecDeque<Command>,
    seen: seen::Seen,
    jobs: BTreeMap<EntryKey, Job>,
    job_ids: HashMap<JobId, EntryKey>,
    history: VecDeque<Ended>,
    last_key: u64,
    asked: HashMap<Ticket, Question>,
    last_ticket: u64,
    watches: BTreeMap<JobId, Watch>,
    /// Aborts that are not journaled yet.
    aborts: BTreeMap<EntryKey, remove::Abort>,
    removals: BTreeMap<JobId, remove::Removal>,
    /// Jobs that ended since they were aborted, the last of them.
    aborted: VecDeque<JobId>,
    /// Commands that have ended, which the world does not know yet, in that order.
    ends: VecDeque<durable::UntoldEnd>,
    lookups: BTreeMap<Url, lookup::Lookup>,
    suspects: BTreeMap<RunId, lookup::Suspect>,
    search: lookup::Search,
    /// What recovered commands wait for, and when each was last seen to be active.
    recovered_prereqs: HashMap<JobId, Option<Duration>>,
    pushes: push::Pushes,
    /// By base URL.
    services: BTreeMap<Url, contact::Health>,
    counters: report::Counters,
}

impl Csc {
    /// A core in STANDBY; its effects are the events that every start-up begins with.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Time, effects: &mut Vec<Effect>) -> Self {
        let mut csc = Self {
            log_level: settings.log_level,
            settings,
            rng: fastrand::Rng::with_seed(seed),
            now,
            out: mem::take(effects),
            life: Life::Joining,
            state: SummaryState::Standby,
            recovered: None,
            recovery: report::Recovery::default(),
            error: (ErrorCode::None, String::new()),
            other: None,
            published: Vec::new(),
            next_heartbeat: now.mono + HEARTBEAT,
            configuration: None,
            override_name: String::new(),
            starting: None,
            waiting_transitions: VecDeque::new(),
            seen: seen::Seen::default(),
            jobs: BTreeMap::new(),
            job_ids: HashMap::new(),
            history: VecDeque::new(),
            last_key: 0,
            asked: HashMap::new(),
            last_ticket: 0,
            watches: BTreeMap::new(),
            aborts: BTreeMap::new(),
            removals: BTreeMap::new(),
            aborted: VecDeque::new(),
            ends: VecDeque::new(),
            lookups: BTreeMap::new(),
            suspects: BTreeMap::new(),
            search: lookup::Search::Done,
            recovered_prereqs: HashMap::new(),
            pushes: push::Pushes::new(),
            services: BTreeMap::new(),
            counters: report::Counters::default(),
        };
        csc.publish(Event::LogLevel { level: csc.log_level });
        if !csc.settings.joins {
            csc.join();
        }
        *effects = mem::take(&mut csc.out);
        csc
    }

    /// Begins, with the events of start-up after logLevel, in the order that salobj has.
    fn join(&mut self) {
        if self.life != Life::Joining {
            return;
        }
        self.life = Life::Serving;
        self.next_heartbeat = self.now.mono + HEARTBEAT;
        self.publish(Event::Heartbeat);
        self.publish(Event::SimulationMode { mode: i32::from(self.settings.simulated) });
        self.publish(Event::SoftwareVersions);
        self.publish(Event::SummaryState(self.state));
        self.publish(Event::ErrorCode { code: ErrorCode::None, report: String::new() });
        self.out.push(Effect::WatchConfigurations(Watching::On));
        self.journal_state();
        if let Some(recovered) = self.recovered.take() {
            self.recover(recovered);
        }
    }

    /// Takes one input; appends what is to be done to `effects`.
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        if self.life == Life::Over {
            return;
        }
        self.out = mem::take(effects);
        self.note_pause(now);
        self.now = now;
        match input {
            Input::Command(command) => self.take(command),
            Input::Refused(command, reason) => self.refuse(&command, reason),
            Input::Outcome(outcome) => self.hear(outcome),
            Input::Tick => self.tick(),
            Input::Configuration(result) => self.configured(result),
            Input::ConfigurationsAvailable(available) => self.available(available),
            Input::Recovered(recovered) => self.take_over(recovered),
            Input::Journaled(awaited) => self.journaled(awaited),
            Input::JournalFailed(reason) => self.journal_failed(&reason),
            Input::JournalBack => self.log(LogLevel::Info, "the journal can be written again".to_owned()),
            Input::LogLevel(level) => self.set_log_level(level),
            Input::Joined => self.join(),
            Input::Intruder(who) => self.meet(&who),
            Input::Terminate => self.stop(),
        }
        self.finish_stop();
        *effects = mem::take(&mut self.out);
    }

    /// The monotonic time at which the core wants the next [`Input::Tick`].
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let mut deadline = self.next_heartbeat;
        if let Life::Stopping { until } = self.life {
            // Nothing else is due: no request is started any more.
            return deadline.min(until);
        }
        let due = self
            .jobs
            .values()
            .filter_map(Job::due)
            .chain(self.aborts.values().map(|abort| abort.until))
            .chain(self.ends.front().map(|end| end.until))
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
        self.state
    }

    /// Notes that a command came; false if it came before.
    fn is_new(&mut self, command: &Command) -> bool {
        if self.seen.is_repeated(&command.sender, self.now.mono) {
            self.log(LogLevel::Warning, format!("ignored a command that came twice: {}", describe(command)));
            return false;
        }
        self.journal_seen(&command.sender);
        self.counters.commands += 1;
        true
    }

    fn refuse(&mut self, command: &Command, reason: String) {
        if self.is_new(command) {
            self.fail(&command.sender, command.order.name(), reason);
        }
    }

    fn take(&mut self, command: Command) {
        if self.life != Life::Serving {
            return self.refuse(&command, STOPPING.to_owned());
        }
        if !self.is_new(&command) {
            return;
        }
        let name = command.order.name();
        match command.order {
            Order::Start { .. } | Order::Enable | Order::Disable | Order::Standby | Order::ExitControl => {
                self.take_transition(command);
            }
            Order::SetLogLevel { level } => {
                self.set_log_level(level);
                self.ack(&command.sender, name, Ack::Complete);
            }
            Order::Execute(execute) => match self.not_enabled(CommandName::Execute) {
                None => match Drives::of(self.settings.index) {
                    Drives::Jobs => self.execute(command.sender, &execute),
                    Drives::Lists => self.push(command.sender, execute),
                },
                Some(reason) => self.fail(&command.sender, name, reason),
            },
            Order::AbortJob(job_id) => match self.not_enabled(CommandName::AbortJob) {
                None => match Drives::of(self.settings.index) {
                    Drives::Jobs => self.abort(command.sender, job_id),
                    Drives::Lists => self.refuse_abort(&command.sender),
                },
                Some(reason) => self.fail(&command.sender, name, reason),
            },
            Order::Invalid { name, reason } => {
                let reason = name.and_then(|name| self.not_allowed(name)).unwrap_or(reason);
                self.fail(&command.sender, name, reason);
            }
        }
    }

    fn hear(&mut self, outcome: Outcome) {
        // An answer that nobody waits for any more is dropped: its job went on without it.
        let Some(Question { asked, url, at }) = self.asked.remove(&outcome.ticket) else { return };
        if let Some(contact) = outcome.answer.of_service() {
            self.note_contact(url.clone(), at, contact);
        }
        match (asked, outcome.answer) {
            (Asked::Submit(key), Answer::Submit(result)) => self.submitted(key, &url, result),
            (Asked::Poll(key), Answer::Status(result)) => self.polled(key, at, result),
            (Asked::Watch(job_id), Answer::Status(result)) => self.watched(&job_id, at, result),
            (Asked::Remove(job_id), Answer::Remove(result)) => self.removed(job_id, at, result),
            (Asked::Confirm(job_id), Answer::Status(result)) => self.confirmed(job_id, result),
            (Asked::List(url), Answer::List(result)) => self.listed(&url, result),
            (Asked::Push, Answer::Push(result)) => self.pushed(result),
            (Asked::Ping(configuration), Answer::Ping(result)) => {
                self.conclude_start(result.map(|()| *configuration).map_err(|failure| failure.reason));
            }
            // A probe only shows whether the service answers; and no answer is of another action than its request.
            _ => {}
        }
        // What just changed may be due at once.
        self.advance();
    }

    /// Another instance with our index: before the start it has the right of way, later both are told.
    fn meet(&mut self, who: &str) {
        let report = format!("another instance with index {} lives: {who}", self.settings.index);
        self.other = Some((self.now.mono, report.clone()));
        match self.life {
            Life::Joining => {
                self.life = Life::Over;
                self.out.push(Effect::Fail(report));
            }
            // One FAULT is enough; it comes again when an operator has cleared it and the other still lives.
            Life::Serving if self.error.0 != ErrorCode::Duplicate => self.fault(ErrorCode::Duplicate, report),
            Life::Serving | Life::Stopping { .. } | Life::Over => {}
        }
    }

    fn tick(&mut self) {
        if self.life == Life::Joining {
            self.next_heartbeat = self.now.mono + HEARTBEAT;
            return;
        }
        if self.now.mono >= self.next_heartbeat {
            self.publish(Event::Heartbeat);
            let late = self.now.mono.saturating_sub(self.next_heartbeat);
            // Keep the beat; after a long sleep do not catch up.
            let beats = u32::try_from(late.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            self.next_heartbeat += HEARTBEAT.saturating_mul(beats);
        }
        if self.life == Life::Serving {
            self.check_records();
        }
        self.advance();
    }

    /// Does all that is due.
    fn advance(&mut self) {
        if self.life != Life::Serving {
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
        self.out.push(Effect::SetLogLevel(level));
        self.publish(Event::LogLevel { level });
    }

    /// Sends a request whose answer goes to `asked`.
    fn ask(&mut self, asked: Asked, url: Url, action: Action) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, Question { asked, url: url.clone(), at: self.now.mono });
        self.counters.requests += 1;
        self.services.entry(url.clone()).or_default().asked = self.now.mono;
        self.out.push(Effect::Request(Request { ticket, url, action }));
        ticket
    }

    fn ack(&mut self, to: &Sender, command: Option<CommandName>, ack: Ack) {
        match ack {
            Ack::Failed { .. } | Ack::Aborted => self.counters.failed_commands += 1,
            Ack::InProgress { .. } | Ack::Complete => {}
        }
        self.out.push(Effect::Ack { to: to.clone(), command, ack, receipt: None });
    }

    fn fail(&mut self, to: &Sender, command: Option<CommandName>, reason: String) {
        let name = command.map_or("command", CommandName::as_str);
        self.log(LogLevel::Warning, format!("{name} of {} failed: {reason}", to.identity));
        self.ack(to, command, Ack::Failed { reason });
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.out.push(Effect::Log(level, message));
    }

    /// Publishes an event; those that tell a state only when their content changed.
    fn publish(&mut self, event: Event) {
        match event {
            Event::Heartbeat
            | Event::LogMessage(_)
            | Event::ConfigurationApplied { .. }
            | Event::JobId { .. }
            | Event::JobResult(_) => {}
            Event::SummaryState(_)
            | Event::ErrorCode { .. }
            | Event::LogLevel { .. }
            | Event::SimulationMode { .. }
            | Event::SoftwareVersions
            | Event::ConfigurationsAvailable(_) => {
                let same_kind = |e: &&mut Event| mem::discriminant(*e) == mem::discriminant(&event);
                match self.published.iter_mut().find(same_kind) {
                    Some(last) if *last == event => return,
                    Some(last) => last.clone_from(&event),
                    None => self.published.push(event.clone()),
                }
            }
        }
        self.out.push(Effect::Publish { event, receipt: None });
    }

    /// Time until the next try after `failures` failed ones: doubles from `base` to [`BACKOFF_MAX`], less up to a
    /// quarter of jitter.
    fn backoff(&mut self, base: Duration, failures: u32) -> Duration {
        let limit = BACKOFF_MAX.max(base);
        let doubled = base.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(limit);
        doubled.mul_f64(0.75 + 0.25 * self.rng.f64())
    }

    /// Ends the daemon: nothing new is begun, what is in flight is waited for.
    fn stop(&mut self) {
        match self.life {
            Life::Serving => {}
            // Nobody was told that we exist.
            Life::Joining => {
                self.life = Life::Over;
                self.state = SummaryState::Offline;
                self.out.extend([Effect::StopRequests, Effect::Exit]);
                return;
            }
            Life::Stopping { .. } | Life::Over => return,
        }
        self.life = Life::Stopping { until: self.now.mono + STOP_PATIENCE };
        self.out.push(Effect::StopRequests);
        self.fail_waiting_transitions();
        self.stop_pushes();
    }

    fn finish_stop(&mut self) {
        let Life::Stopping { until } = self.life else { return };
        let in_flight = |question: &Question| match question.asked {
            Asked::Submit(_) | Asked::Remove(_) | Asked::Push => true,
            Asked::Poll(_)
            | Asked::Watch(_)
            | Asked::Confirm(_)
            | Asked::List(_)
            | Asked::Probe
            | Asked::Ping(_) => false,
        };
        // An id that came in time is still told, and so is an end.
        let untold = self.jobs.values().any(|job| job.job_id().is_some() && job.recorded_by().is_some())
            || !self.ends.is_empty();
        if (self.asked.values().any(in_flight) || untold) && self.now.mono < until {
            return;
        }
        self.life = Life::Over;
        self.give_up_push("the daemon ended before Redis answered");
        if !self.settings.journal {
            self.abandon();
        } else if !self.jobs.is_empty() {
            self.log(
                LogLevel::Info,
                format!("{} jobs go on without us and are taken up again", self.jobs.len()),
            );
        }
        self.state = SummaryState::Offline;
        self.publish(Event::SummaryState(self.state));
        self.out.push(Effect::Exit);
    }
}

/// A command for the log.
fn describe(command: &Command) -> String {
    let name = command.order.name().map_or("unknown", CommandName::as_str);
    format!("{name} {} of {}", command.sender.seq_num.0, command.sender.identity)
}
