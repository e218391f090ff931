//! The run of one seed: processes of the daemon one after the other, what happens around them, and time.

mod asleep;
mod journal;
mod standby;
mod turn;

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use ocps::csc::command::{Command, Via};
use ocps::csc::id::SalIndex;
use ocps::csc::record::{Deliverable, Receipt, Record, Recovered};
use ocps::csc::request::{Outcome, Request};
use ocps::csc::state::SummaryState;
use ocps::csc::time::{BootId, Tai, Time, Uptime};
use ocps::csc::{Input, Settings};
use ocps::daemon::turn::{Goal, Turn};
use ocps::journal::store::{Sqlite, Store};
use ocps::journal::{Identity, Limits, Report};

use super::cluster::Cluster;
use super::crowd::Crowd;
use super::plan::{Plan, any, chance, secs, short};
use super::process::{Disk, Faulty, Journal, Kept, Process};
use super::rules::{Memory, Rules};
use super::service::{Call, Job, Service};
use super::start::Start;
use super::trace::Trace;
use super::verdict::Counts;
use crate::core_settings::core_settings;
use standby::Superseded;

/// How long a job may take to show up in the list after an unclear attempt.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// TAI at the beginning of each run.
const EPOCH_S: f64 = 1_795_367_697.0;
/// Most processes with faults.
const PROCESSES_MAX: u32 = 40;
/// Time between changes of the weather.
const WEATHER: Duration = Duration::from_secs(10);
/// Longest time until a run must have come to its end after its last fault.
const CALM_MAX: Duration = Duration::from_secs(3600);

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody wants something.
    Act,
    Weather,
    /// Faults are over.
    Calm,
    /// A command arrives; whether another process may get it if none is there.
    Command(Command),
    /// The daemon is started.
    Start,
    Joined {
        process: u32,
    },
    DuplicateInstance {
        process: u32,
    },
    Terminate {
        process: u32,
    },
    Configuration {
        process: u32,
        result: Result<ocps::csc::configuration::Configuration, String>,
    },
    /// The service carries out a request.
    Serve {
        process: u32,
        call: Box<Call>,
        at: usize,
    },
    Answer {
        process: u32,
        outcome: Outcome,
        served: Duration,
    },
    /// A thread waits until then for the right to send.
    Permit {
        process: u32,
        request: Box<Request>,
        until: Duration,
    },
    /// The main loop reads an answer that one of its threads got when it stood still.
    Answered {
        process: u32,
        outcome: Outcome,
        served: Duration,
    },
    /// The process stands still from now on.
    Freeze {
        process: u32,
    },
    /// The process continues after it stood still.
    Thaw {
        process: u32,
    },
    /// The instance that stands by has not heard this one since then, and takes over.
    TakeOver {
        process: u32,
        since: Duration,
    },
    /// It hears it again.
    Heard {
        process: u32,
    },
    /// The process learns that another one has taken over.
    Fenced {
        process: u32,
    },
    JournalWakes {
        process: u32,
        wake: u64,
    },
    JournalActs {
        process: u32,
    },
    /// The main loop reads the reports of the journal thread.
    JournalSays {
        process: u32,
        reports: Vec<Report>,
    },
    /// The main loop gets round to that.
    JournalReported {
        process: u32,
    },
    /// A message is with the broker.
    Delivered {
        process: u32,
        receipt: Receipt,
    },
    /// We know that it is.
    Reported {
        process: u32,
        receipt: Receipt,
    },
}

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    away_until: Duration,
    /// When the last message of each topic is there: they stay in order.
    last: BTreeMap<Deliverable, Duration>,
    /// Messages that are on their way.
    flying: usize,
}

impl Event {
    /// Whether it happens to this process, or is what it does.
    fn is_for(&self, number: u32) -> bool {
        match self {
            Self::Act | Self::Weather | Self::Calm | Self::Start | Self::Command(_) | Self::Serve { .. } => {
                false
            }
            Self::Joined { process }
            | Self::DuplicateInstance { process }
            | Self::Terminate { process }
            | Self::Configuration { process, .. }
            | Self::Answer { process, .. }
            | Self::Answered { process, .. }
            | Self::Permit { process, .. }
            | Self::Freeze { process }
            | Self::Thaw { process }
            | Self::TakeOver { process, .. }
            | Self::Heard { process }
            | Self::Fenced { process }
            | Self::JournalWakes { process, .. }
            | Self::JournalActs { process }
            | Self::JournalSays { process, .. }
            | Self::JournalReported { process }
            | Self::Delivered { process, .. }
            | Self::Reported { process, .. } => *process == number,
        }
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) now: Duration,
    skew: f64,
    events: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    pub(crate) process: Option<Process>,
    /// The one before, if it has not noticed that its journal was taken over.
    superseded: Option<Box<Superseded>>,
    processes: u32,
    /// The journal in a file while no process has it.
    store: Option<Faulty>,
    /// The journal in a topic, if it is in one.
    cluster: Option<Cluster>,
    /// All that was ever committed to it.
    committed: Vec<Record>,
    /// Whether [`World::process`] is the superseded one, for the moment.
    is_superseded: bool,
    /// Whether something was changed at a service since the last takeover.
    has_sent: bool,
    /// A copy of it: how much of that is in it, and what the rules knew then.
    copy: Option<(usize, Memory)>,
    /// Whether it is an old copy, and jobs may run that it does not know.
    is_old: bool,
    /// Which boot of the machine it is, and when that was.
    boot: (u128, Duration),
    disk_away_until: Duration,
    pub(crate) services: [Service; 2],
    broker: Broker,
    pub(crate) crowd: Crowd,
    pub(crate) rules: Rules,
    pub(crate) trace: Trace,
    pub(crate) calm_since: Option<Duration>,
    pub(crate) commands_flying: usize,
}

/// Whose the journal is.
const IDENTITY: Identity = Identity { index: SalIndex::Latiss, simulated: false };
/// How long it keeps what is settled.
const HISTORY: Duration = secs(30 * 86_400);

/// A new journal.
fn empty() -> Sqlite {
    Sqlite::in_memory(IDENTITY, Limits::new(HISTORY)).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(seed, &mut rng);
        let cluster = plan.topic.then(|| Cluster::new(IDENTITY, Limits::in_memory(HISTORY), seed));
        let services = [Service::new('a', &plan, &mut rng), Service::new('b', &plan, &mut rng)];
        let mut world = Self {
            now: Duration::ZERO,
            skew: 0.0,
            events: BTreeMap::new(),
            last_event: 0,
            process: None,
            superseded: None,
            processes: 0,
            store: cluster.is_none().then(|| Faulty::new(empty())),
            cluster,
            committed: Vec::new(),
            is_superseded: false,
            has_sent: false,
            copy: None,
            is_old: false,
            boot: (0, Duration::ZERO),
            disk_away_until: Duration::ZERO,
            crowd: Crowd::new(&services),
            services,
            broker: Broker::default(),
            rules: Rules::new(SETTLE_TIME, &plan),
            trace,
            calm_since: None,
            commands_flying: 0,
            rng,
            plan,
        };
        let plan = format!("{:?}", world.plan);
        world.note(&plan);
        world.after(world.plan.faults, Event::Calm);
        world.after(WEATHER, Event::Weather);
        world.after(Duration::ZERO, Event::Start);
        world.after(secs(1), Event::Act);
        world
    }

    /// A phase with faults, one in which everything converges, and a last process that has nothing left to do.
    pub(crate) fn run(&mut self) {
        while self.calm_since.is_none_or(|since| !self.is_settled(since)) {
            self.step();
        }
        self.rules.final_check(&self.services);
        self.rules.counts.topic = self.cluster.as_ref().map(Cluster::counts).unwrap_or_default();
        self.crash("the last time");
        let until = self.now + secs(100);
        let before = self.rules.counts;
        while self.now < until {
            self.step();
        }
        let counts = self.rules.counts;
        assert_eq!(before.puts, counts.puts, "a last process does more");
        let published = |counts: Counts| (counts.results, counts.final_acks);
        assert_eq!(published(before), published(counts), "a last process publishes more");
    }

    pub(crate) fn note(&mut self, line: &str) {
        self.trace.note(self.now, line);
    }

    pub(crate) fn tai(&self) -> Tai {
        Tai(EPOCH_S + self.now.as_secs_f64() + self.skew)
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.last_event += 1;
        self.events.insert((time.max(self.now), self.last_event), event);
    }

    /// The next thing that happens: an event, or the tick that the core wants.
    fn step(&mut self) {
        let next = self.events.first_key_value().map(|((time, _), _)| *time).unwrap();
        let deadline = self.process.as_ref().and_then(Process::deadline).filter(|deadline| *deadline <= next);
        let other = self.superseded.as_ref().and_then(|other| other.process.deadline());
        if let Some(other) = other.filter(|other| *other <= deadline.unwrap_or(next)) {
            self.now = self.now.max(other);
            return self.as_superseded(Self::tick);
        }
        if let Some(deadline) = deadline {
            self.now = self.now.max(deadline);
            return self.tick();
        }
        let ((time, _), event) = self.events.pop_first().unwrap();
        self.now = time;
        if self.superseded.as_ref().is_some_and(|other| event.is_for(other.process.number)) {
            return self.as_superseded(|world| world.happen(event));
        }
        self.happen(event);
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.hold_back(event) else { return };
        match event {
            Event::Act => self.act(),
            Event::Weather => self.weather(),
            Event::Calm => self.calm_down(),
            Event::Start => self.start(),
            Event::Command(command) => self.arrive(command),
            Event::Joined { process } if self.is_alive(process) => {
                self.process_mut().turn.joined();
                self.turn();
            }
            Event::DuplicateInstance { process } if self.is_alive(process) => {
                self.input(Input::DuplicateInstance("another".to_owned()))
            }
            Event::Terminate { process } if self.is_alive(process) => self.input(Input::Terminate),
            Event::Configuration { process, result } if self.is_alive(process) => {
                self.input(Input::Configuration(result));
            }
            Event::Serve { process, call, at } => self.serve(process, &call, at),
            Event::Answer { process, outcome, served } if self.is_alive(process) => {
                self.answer(outcome, served)
            }
            Event::Permit { process, request, until } if self.is_alive(process) => {
                self.permit(*request, until);
            }
            Event::Answered { process, outcome, served } if self.is_alive(process) => {
                self.answered(outcome, served);
            }
            Event::JournalWakes { process, wake } if self.is_alive(process) => self.journal_wakes(wake),
            Event::JournalActs { process } if self.is_alive(process) => self.journal_acts(),
            Event::JournalSays { process, reports } if self.is_alive(process) => {
                self.journal_reports(reports)
            }
            Event::JournalReported { process } if self.is_alive(process) => self.journal_reported(),
            Event::Freeze { process } if self.is_alive(process) => self.freeze(),
            Event::Thaw { process } if self.is_alive(process) => self.thaw(),
            Event::TakeOver { process, since } if self.is_unheard(process, since) => self.take_over(since),
            Event::Heard { process } if self.is_alive(process) => self.process_mut().unheard = None,
            Event::Fenced { process } if self.is_alive(process) => self.fenced(),
            Event::Delivered { process, receipt } => self.deliver(process, receipt),
            Event::Reported { process, receipt } if self.is_alive(process) => {
                self.delivered(receipt);
                self.turn();
            }
            // To a process that is dead.
            Event::Joined { .. }
            | Event::DuplicateInstance { .. }
            | Event::Terminate { .. }
            | Event::Configuration { .. }
            | Event::Answer { .. }
            | Event::Answered { .. }
            | Event::Permit { .. }
            | Event::Freeze { .. }
            | Event::Thaw { .. }
            | Event::TakeOver { .. }
            | Event::Heard { .. }
            | Event::Fenced { .. }
            | Event::JournalWakes { .. }
            | Event::JournalActs { .. }
            | Event::JournalSays { .. }
            | Event::JournalReported { .. }
            | Event::Reported { .. } => {}
        }
    }

    /// Whether this process is running.
    fn is_alive(&self, number: u32) -> bool {
        self.process.as_ref().is_some_and(|process| process.number == number)
    }

    fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// The number of the process, or of the last one.
    fn number(&self) -> u32 {
        self.process.as_ref().map_or(self.processes, |process| process.number)
    }

    fn time(&self) -> Time {
        let born = self.process.as_ref().map_or(self.now, |process| process.born);
        Time { mono: self.now - born, tai: self.tai() }
    }

    fn settings(&self) -> Settings {
        Settings {
            settle_time: SETTLE_TIME,
            resubmit_limit: self.plan.resubmit_limit,
            // The machine was there before us.
            uptime: Some(Uptime { boot: BootId(self.boot.0), since: self.now - self.boot.1 + secs(100) }),
            joins: self.plan.joins,
            polling: self.plan.polling,
            connections: self.plan.connections,
            max_jobs: self.plan.max_jobs,
            ..core_settings()
        }
    }

    fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.meanwhile();
        match self.open() {
            Ok((journal, recovered)) => self.begin(journal, recovered),
            Err(wait) => self.after(wait, Event::Start),
        }
    }

    /// A process begins, whose journal is open.
    fn begin(&mut self, journal: Journal, mut recovered: Recovered) {
        self.processes += 1;
        self.rules.counts.processes += 1;
        recovered.unsearched |= self.is_old;
        self.note(&format!("process {} begins with {} commands", self.processes, recovered.entries.len()));
        self.rules.begin(self.processes, self.now, &recovered);
        let (settings, seed) = (self.settings(), self.rng.u64(..));
        let goal = self.goal();
        self.rules.start = Start::new(&goal, recovered.state.as_ref());
        let (turn, effects) = Turn::new(settings, seed, self.time(), &goal, Some(recovered));
        let process = Process::new(self.processes, self.now, turn, journal, &self.plan);
        let number = process.number;
        self.process = Some(process);
        if self.run_effects(effects) {
            self.join_later(number);
            self.turn();
        }
    }

    /// What the command line asks for.
    fn goal(&mut self) -> Goal {
        let states = [None, None, Some(SummaryState::Standby), Some(SummaryState::Disabled), None];
        let state = states[self.rng.usize(..5)].or_else(|| self.rng.bool().then_some(SummaryState::Enabled));
        let override_name = self.rng.bool().then(|| format!("{}.yaml", self.rng.u8(..9)));
        Goal { state, override_name }
    }

    /// What comes over Kafka when it is there; and commands that come before.
    fn join_later(&mut self, process: u32) {
        if self.plan.joins {
            let delay = short(&mut self.rng, secs(10));
            self.after(delay, Event::Joined { process });
            if chance(&mut self.rng, 0.1) {
                // Kafka was away for so long that the start did not wait for it.
                let later = delay + short(&mut self.rng, secs(10));
                self.after(later, Event::Joined { process });
            }
        }
        if self.calm_since.is_some() {
            return;
        }
        if chance(&mut self.rng, 0.02) {
            let delay = any(&mut self.rng, secs(30));
            self.after(delay, Event::DuplicateInstance { process });
        }
        if chance(&mut self.rng, 0.02) {
            super::crowd::rush(self);
        }
    }

    /// What happens to the machine, its clock and its journal while no process is there.
    fn meanwhile(&mut self) {
        if chance(&mut self.rng, self.plan.reboot) {
            self.boot = (self.boot.0 + 1, self.now);
        }
        if chance(&mut self.rng, self.plan.leap) {
            let leap = [4.0, -4.0, 10.0 * 365.0 * 24.0, -10.0 * 365.0 * 24.0][self.rng.usize(..4)] * 3600.0;
            self.note(&format!("the clock leaps by {leap} s"));
            self.skew += leap;
        }
        if self.plan.loss > 0.0 && self.rng.u8(..4) == 0 {
            self.copy = Some((self.committed.len(), self.rules.memory()));
        }
        if !chance(&mut self.rng, self.plan.loss) {
            return;
        }
        let copy = self.copy.clone().filter(|_| self.rng.bool());
        self.note(&format!(
            "the journal is lost, but for {:?} records",
            copy.as_ref().map(|(count, _)| *count)
        ));
        self.committed.truncate(copy.as_ref().map_or(0, |(count, _)| *count));
        let mut sqlite = empty();
        sqlite.commit(&self.committed.iter().collect::<Vec<_>>()).unwrap();
        self.store = Some(Faulty::new(sqlite));
        self.is_old = copy.is_some();
        if copy.is_none() {
            self.copy = None;
        }
        self.rules.lose(copy.map(|(_, memory)| memory));
    }

    /// These are on the disk.
    fn durable(&mut self, records: &[Record]) {
        assert!(!self.is_superseded, "written after the journal was taken over: {records:?}");
        self.is_old &= !records.contains(&Record::Searched);
        self.committed.extend(records.iter().cloned());
        self.rules.durable(records);
    }

    fn arrive(&mut self, command: Command) {
        let Some(process) = &mut self.process else {
            // A client of the socket finds no daemon; Kafka may keep it for the next process.
            if command.sender.via == Via::Kafka && self.rng.bool() {
                let delay = any(&mut self.rng, secs(30));
                self.after(delay, Event::Command(command));
            } else {
                self.commands_flying -= 1;
            }
            return;
        };
        self.commands_flying -= 1;
        self.rules.arrived(&command.sender);
        process.turn.command(command);
        self.turn();
    }

    pub(crate) fn send(&mut self, delay: Duration, command: Command) {
        self.commands_flying += 1;
        self.after(delay, Event::Command(command));
    }

    fn crashes(&mut self) -> bool {
        let Some(process) = &self.process else { return false };
        if self.processes >= PROCESSES_MAX {
            return false;
        }
        let is_delicate = process.workers.has_put_in_flight() || process.journal.is_busy;
        let probability = self.plan.crash * if is_delicate { 10.0 } else { 1.0 };
        chance(&mut self.rng, probability)
    }

    /// The process dies.
    fn crash(&mut self, when: &str) {
        let is_committing = self.process_mut().journal.is_busy;
        self.note(&format!("CRASH {when}"));
        if is_committing && self.rng.bool() {
            // The commit was durable before it was reported.
            self.write(Disk::Works);
        }
        self.bury();
    }

    fn bury(&mut self) {
        let process = self.process.take().unwrap();
        match process.journal.kept {
            Kept::File(writer) => self.store = Some(writer.store),
            Kept::Topic(writer) => self.part(writer.store, process.journal.is_closed),
        }
        if self.is_superseded {
            return;
        }
        self.keep_durable();
        self.rules.end();
        let longest = if self.rng.u8(..10) == 0 { secs(600) } else { secs(30) };
        let delay = short(&mut self.rng, longest);
        self.after(delay, Event::Start);
    }

    /// Somebody wants something.
    fn act(&mut self) {
        let delay = any(&mut self.rng, self.plan.pace * 2);
        self.after(delay, Event::Act);
        super::crowd::act(self);
    }

    /// Things go away for a while, and the clock is set.
    fn weather(&mut self) {
        self.after(WEATHER, Event::Weather);
        let Self { plan, rng, .. } = self;
        if chance(rng, plan.outage) {
            let until = self.now + short(rng, secs(500));
            match rng.u8(..6) {
                0 => self.services[0].away_until = until,
                5 => self.services[0].bad_gateway_until = until,
                1 => self.services[0].hang(until),
                2 => self.disk_away_until = until,
                3 => self.broker.away_until = until,
                _ => self.services[1].away_until = until,
            }
            self.note(&format!("something is away until {until:?}"));
        }
        if chance(&mut self.rng, self.plan.pause) {
            self.freeze();
        }
        if chance(&mut self.rng, self.plan.deaf) {
            self.go_unheard();
        }
        if chance(&mut self.rng, self.plan.step) {
            self.skew += self.rng.f64() * 4.0 - 2.0;
        }
    }

    fn calm_down(&mut self) {
        self.plan.calm_down();
        // Requests wait there that cannot be called back.
        let hangs_until = self.services[0].hangs_until;
        if hangs_until > self.now {
            return self.at(hangs_until, Event::Calm);
        }
        self.note("CALM");
        self.calm_since = Some(self.now);
        self.disk_away_until = self.now;
        self.broker.away_until = self.now;
        // One that does not stand still is heard again.
        self.process
            .iter_mut()
            .filter(|process| process.still.is_none())
            .for_each(|process| process.unheard = None);
        for service in &mut self.services {
            service.away_until = self.now;
            service.bad_gateway_until = self.now;
        }
    }

    /// Whether everything has come to its end.
    fn is_settled(&self, calm_since: Duration) -> bool {
        let visible = self.services.iter().flat_map(|service| &service.jobs).map(|job| job.visible);
        let limit =
            calm_since + visible.clone().max().unwrap_or_default().saturating_sub(calm_since) + CALM_MAX;
        assert!(self.now < limit, "it does not come to an end: {}", self.describe());
        let Some(process) = &self.process else { return false };
        let has_jobs = process.turn.csc().status().jobs.iter().any(|(_, count)| *count > 0);
        self.crowd.is_content(&self.rules)
            && !has_jobs
            && process.journal.is_idle()
            && self.broker.flying == 0
            && self.commands_flying == 0
            && self.rules.unfinished() == 0
            && self.rules.is_durable(process.turn.csc().state())
            && visible.clone().all(|visible| visible <= self.now)
            && self.left_over().is_none()
            && self.superseded.is_none()
    }

    fn left_over(&self) -> Option<&Job> {
        self.rules.left_over(self.now, &self.services)
    }

    fn describe(&self) -> String {
        let status = self.process.as_ref().map(|process| format!("{:?}", process.turn.csc().status()));
        format!(
            "{} unfinished, {} messages, {} commands, content {}, left over {:?}, {status:?}",
            self.rules.unfinished(),
            self.broker.flying,
            self.commands_flying,
            self.crowd.is_content(&self.rules),
            self.left_over(),
        )
    }
}
