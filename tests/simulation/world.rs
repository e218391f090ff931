//! The run of one seed: lives of the daemon one after the other, what goes on around them, and time.
//!
//! A turn is that of `daemon`: inputs are handed to the core, their effects carried out in order, and all records
//! of the turn given to the journal as one batch.

mod journal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ocps::csc::command::{Command, Via};
use ocps::csc::event::{Ack, Event as SalEvent};
use ocps::csc::id::SalIndex;
use ocps::csc::record::{Owed, Receipt, Record, Work};
use ocps::csc::request::{Answer, Outcome, Payload, Request};
use ocps::csc::time::{BootId, Tai, Time, Uptime};
use ocps::csc::{Csc, Effect, Input, Settings};
use ocps::journal::store::{Sqlite, Store, Upkeep};
use ocps::journal::{Identity, Limits, Report};

use super::crowd::Crowd;
use super::lines;
use super::plan::{Plan, any, chance, secs, short};
use super::process::{Disk, Faulty, Life};
use super::rules::{Counts, Memory, Rules};
use super::sending::SUBMIT_TIMEOUT;
use super::service::{Call, Fate, Job, Service, cancelled, service_at, unclear};
use super::trace::Trace;
use crate::reply::failed_instead;

/// How long a job may take to show up in the list after an unclear attempt.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// TAI at the beginning of each run.
const EPOCH_S: f64 = 1_795_367_697.0;
/// Most lives with faults.
const LIVES_MAX: u32 = 40;
/// Time between looks at the weather.
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
    /// A command arrives; whether another life may get it if none is there.
    Command(Command),
    /// The daemon is started.
    Start,
    Joined {
        life: u32,
    },
    Intruder {
        life: u32,
    },
    Terminate {
        life: u32,
    },
    Configuration {
        life: u32,
        result: Result<ocps::csc::configuration::Configuration, String>,
    },
    /// The service carries out a request.
    Serve {
        life: u32,
        call: Box<Call>,
        at: usize,
    },
    Answer {
        life: u32,
        outcome: Outcome,
        served: Duration,
    },
    /// The process goes on after it stood still.
    Thaw {
        life: u32,
    },
    JournalWakes {
        life: u32,
        wake: u64,
    },
    JournalActs {
        life: u32,
    },
    JournalSays {
        life: u32,
        reports: Vec<Report>,
    },
    /// A message is with the broker.
    Delivered {
        life: u32,
        receipt: Receipt,
    },
    /// We know that it is.
    Reported {
        life: u32,
        receipt: Receipt,
    },
}

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    away_until: Duration,
    /// When the last message of each topic is there: they stay in order.
    last: BTreeMap<Owed, Duration>,
    /// Messages that are on their way.
    flying: usize,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) now: Duration,
    skew: f64,
    events: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    pub(crate) life: Option<Life>,
    lives: u32,
    /// The journal while no life has it.
    store: Option<Faulty>,
    /// All that was ever committed to it.
    committed: Vec<Record>,
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

/// A new journal.
fn empty() -> Sqlite {
    let identity = Identity { index: SalIndex::Latiss, simulated: false };
    Sqlite::in_memory(identity, Limits::new(secs(30 * 86_400))).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng);
        let sqlite = empty();
        let services = [Service::new('a', &plan, &mut rng), Service::new('b', &plan, &mut rng)];
        let mut world = Self {
            now: Duration::ZERO,
            skew: 0.0,
            events: BTreeMap::new(),
            last_event: 0,
            life: None,
            lives: 0,
            store: Some(Faulty::new(sqlite)),
            committed: Vec::new(),
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
        world.say(&plan);
        world.after(world.plan.faults, Event::Calm);
        world.after(WEATHER, Event::Weather);
        world.after(Duration::ZERO, Event::Start);
        world.after(secs(1), Event::Act);
        world
    }

    /// A phase with faults, one in which everything converges, and a last life that has nothing left to do.
    pub(crate) fn run(&mut self) {
        while self.calm_since.is_none_or(|since| !self.is_settled(since)) {
            self.step();
        }
        self.rules.final_check(&self.services);
        self.crash("the last time");
        let until = self.now + secs(100);
        let before = self.rules.counts;
        while self.now < until {
            self.step();
        }
        let counts = self.rules.counts;
        assert_eq!(before.puts, counts.puts, "a last life does more");
        let said = |counts: Counts| (counts.results, counts.final_acks);
        assert_eq!(said(before), said(counts), "a last life says more");
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.trace.say(self.now, line);
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
        if let Some(life) = &mut self.life
            && !life.is_frozen
            && life.deadline() <= next
        {
            self.now = self.now.max(life.deadline());
            life.inputs.push_back(Input::Tick);
            return self.turn();
        }
        let ((time, _), event) = self.events.pop_first().unwrap();
        self.now = time;
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
            Event::Joined { life } if self.is_alive(life) => self.join(),
            Event::Intruder { life } if self.is_alive(life) => {
                self.input(Input::Intruder("another".to_owned()))
            }
            Event::Terminate { life } if self.is_alive(life) => self.input(Input::Terminate),
            Event::Configuration { life, result } if self.is_alive(life) => {
                self.input(Input::Configuration(result));
            }
            Event::Serve { life, call, at } => self.serve(life, &call, at),
            Event::Answer { life, outcome, served } if self.is_alive(life) => self.answer(outcome, served),
            Event::JournalWakes { life, wake } if self.is_alive(life) => self.journal_wakes(wake),
            Event::JournalActs { life } if self.is_alive(life) => self.journal_acts(),
            Event::JournalSays { life, reports } if self.is_alive(life) => self.journal_says(reports),
            Event::Thaw { life } if self.is_alive(life) => self.thaw(),
            Event::Delivered { life, receipt } => self.deliver(life, receipt),
            Event::Reported { life, receipt } if self.is_alive(life) => {
                self.life_mut().records.push(Record::Said(receipt));
                self.turn();
            }
            // To a process that is dead.
            Event::Joined { .. }
            | Event::Intruder { .. }
            | Event::Terminate { .. }
            | Event::Configuration { .. }
            | Event::Answer { .. }
            | Event::Thaw { .. }
            | Event::JournalWakes { .. }
            | Event::JournalActs { .. }
            | Event::JournalSays { .. }
            | Event::Reported { .. } => {}
        }
    }

    /// A process that stands still finds later what happens to it now.
    fn hold_back(&mut self, event: Event) -> Option<Event> {
        let number = self.lives;
        let Some(life) = self.life.as_mut().filter(|life| life.is_frozen) else { return Some(event) };
        let is_for_it = match &event {
            Event::Act | Event::Weather | Event::Calm | Event::Start | Event::Serve { .. } => false,
            Event::Thaw { .. } => false,
            Event::Command(_) => true,
            Event::Joined { life }
            | Event::Intruder { life }
            | Event::Terminate { life }
            | Event::Configuration { life, .. }
            | Event::Answer { life, .. }
            | Event::JournalWakes { life, .. }
            | Event::JournalActs { life }
            | Event::JournalSays { life, .. }
            | Event::Delivered { life, .. }
            | Event::Reported { life, .. } => *life == number,
        };
        if !is_for_it {
            return Some(event);
        }
        life.missed.push(event);
        None
    }

    /// The process stands still for a while.
    fn freeze(&mut self) {
        let pause = secs(10) + any(&mut self.rng, secs(400));
        let Some(life) = self.life.as_mut().filter(|life| !life.is_frozen) else { return };
        life.is_frozen = true;
        let life = life.number;
        self.say(&format!("the process stands still for {pause:?}"));
        self.after(pause, Event::Thaw { life });
    }

    fn thaw(&mut self) {
        self.say("the process goes on");
        self.rules.thaw(self.now);
        let life = self.life_mut();
        life.is_frozen = false;
        for mut event in std::mem::take(&mut life.missed) {
            if let Event::Answer { outcome, .. } = &mut event
                && self.rng.bool()
            {
                // It was there in time, but nobody read it.
                outcome.answer = failed_instead(&outcome.answer, unclear());
            }
            self.at(self.now, event);
        }
    }

    /// Whether this life goes on.
    fn is_alive(&self, number: u32) -> bool {
        self.life.as_ref().is_some_and(|life| life.number == number)
    }

    fn life_mut(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    fn time(&self) -> Time {
        let born = self.life.as_ref().map_or(self.now, |life| life.born);
        Time { mono: self.now - born, tai: self.tai() }
    }

    fn settings(&self) -> Settings {
        Settings {
            index: SalIndex::Latiss,
            simulated: false,
            log_level: 20,
            payload: payload(),
            submit_timeout: SUBMIT_TIMEOUT,
            settle_time: SETTLE_TIME,
            outage_limit: secs(300),
            resubmit_limit: self.plan.resubmit_limit,
            history: secs(30 * 86_400),
            // The machine was there before us.
            uptime: Some(Uptime { boot: BootId(self.boot.0), since: self.now - self.boot.1 + secs(100) }),
            joins: self.plan.joins,
            journal: true,
            max_jobs: self.plan.max_jobs,
        }
    }

    fn start(&mut self) {
        if self.store.is_none() {
            return;
        }
        self.meanwhile();
        let Some(mut store) = self.store.take() else { return };
        self.lives += 1;
        self.rules.counts.lives += 1;
        // Opening forgets by the clock too.
        let tai = self.tai();
        while store.sqlite.upkeep(tai) == Ok(Upkeep::More) {}
        let mut recovered = store.sqlite.recover().unwrap();
        recovered.unsearched |= self.is_old;
        self.say(&format!("life {} begins with {} commands", self.lives, recovered.entries.len()));
        self.rules.begin(self.lives, self.now, &recovered);
        let mut effects = Vec::new();
        let (settings, seed) = (self.settings(), self.rng.u64(..));
        let csc = Csc::new(settings, seed, self.time(), &mut effects);
        let mut life = Life::new(self.lives, self.now, csc, store, &self.plan);
        life.inputs.push_back(Input::Recovered(recovered));
        let number = life.number;
        self.life = Some(life);
        if self.carry_out(effects) {
            let delay = if self.plan.joins { short(&mut self.rng, secs(10)) } else { Duration::ZERO };
            self.after(delay, Event::Joined { life: number });
            if self.calm_since.is_none() && chance(&mut self.rng, 0.02) {
                let delay = any(&mut self.rng, secs(30));
                self.after(delay, Event::Intruder { life: number });
            }
            self.turn();
        }
    }

    /// What happens to the machine, its clock and its journal while no life is there.
    fn meanwhile(&mut self) {
        if chance(&mut self.rng, self.plan.reboot) {
            self.boot = (self.boot.0 + 1, self.now);
        }
        if chance(&mut self.rng, self.plan.leap) {
            let leap = [4.0, -4.0, 10.0 * 365.0 * 24.0, -10.0 * 365.0 * 24.0][self.rng.usize(..4)] * 3600.0;
            self.say(&format!("the clock leaps by {leap} s"));
            self.skew += leap;
        }
        if self.plan.loss > 0.0 && self.rng.u8(..4) == 0 {
            self.copy = Some((self.committed.len(), self.rules.memory()));
        }
        if !chance(&mut self.rng, self.plan.loss) {
            return;
        }
        let copy = self.copy.clone().filter(|_| self.rng.bool());
        self.say(&format!(
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
        self.is_old &= !records.contains(&Record::Searched);
        self.committed.extend(records.iter().cloned());
        self.rules.durable(records);
    }

    /// No other instance is there: what was held back may come.
    fn join(&mut self) {
        let by_command_line = self.rng.u8(..3) == 0;
        let tai = self.tai();
        let orders = if by_command_line { self.crowd.command_line(tai) } else { Vec::new() };
        let life = self.life_mut();
        life.joined = true;
        life.inputs.push_back(Input::Joined);
        life.inputs.extend(orders.into_iter().chain(life.deferred.drain(..)).map(Input::Command));
        self.turn();
    }

    fn arrive(&mut self, command: Command) {
        let early = chance(&mut self.rng, 0.1);
        let Some(life) = &mut self.life else {
            // A client of the socket finds nobody there; Kafka may keep it for the next life.
            if command.sender.via == Via::Kafka && self.rng.bool() {
                let delay = any(&mut self.rng, secs(30));
                self.after(delay, Event::Command(command));
            } else {
                self.commands_flying -= 1;
            }
            return;
        };
        self.commands_flying -= 1;
        if life.joined || early {
            life.inputs.push_back(Input::Command(command));
        } else {
            life.deferred.push_back(command);
        }
        self.turn();
    }

    pub(crate) fn send(&mut self, delay: Duration, command: Command) {
        self.commands_flying += 1;
        self.after(delay, Event::Command(command));
    }

    fn input(&mut self, input: Input) {
        self.life_mut().inputs.push_back(input);
        self.turn();
    }

    /// Hands all inputs to the core, carries out what it wants, and gives the records to the journal.
    fn turn(&mut self) {
        while let Some(life) = &mut self.life {
            let Some(input) = life.inputs.pop_front() else { break };
            if life.over {
                continue;
            }
            if !self.handle(input) {
                return;
            }
        }
        if self.crashes() {
            return self.crash("before the records are handed over");
        }
        let life = self.life_mut();
        let records = std::mem::take(&mut life.records);
        if !records.is_empty() {
            life.journal.channel.push_back(records);
        }
        if life.over {
            return self.end();
        }
        self.wake_journal();
        if self.crashes() {
            self.crash("after a turn");
        }
    }

    /// Hands one input to the core; whether the process lives on.
    fn handle(&mut self, input: Input) -> bool {
        if let Some(line) = lines::input(&input) {
            self.say(&line);
        }
        let (time, now) = (self.time(), self.now);
        let is_tick = matches!(input, Input::Tick);
        let mut command = None;
        if let Input::Command(taken) = &input {
            command = Some((taken.clone(), self.rules.is_repeated(now, &taken.sender)));
        }
        self.rules.before(now, &input);
        let mut effects = Vec::new();
        self.life_mut().csc.handle(time, input, &mut effects);
        if let Some((command, was_repeated)) = command {
            self.rules.taken(now, time.tai, &command, was_repeated, &effects);
        }
        if !self.carry_out(effects) {
            return false;
        }
        let life = self.life.as_ref().unwrap();
        if !life.over {
            self.rules.turned(now, life.born, is_tick, &life.csc);
            self.rules.bounds(&life.csc, life.workers.open(), life.journal.waiting());
        }
        true
    }

    /// Carries out what the core wants, unless the process dies over it; whether it lives on.
    fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        for effect in effects {
            if self.crashes() {
                self.crash("in the midst of a turn");
                return false;
            }
            if let Some(line) = lines::effect(&effect) {
                self.say(&line);
            }
            self.rules.tai = self.tai();
            self.rules.effect(self.now, &effect, &self.services);
            self.perform(effect);
        }
        self.begin_requests();
        true
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ack { to, ack, receipt, .. } => self.ack(to.via, &ack, receipt),
            Effect::Publish { event, receipt } => self.publish(&event, receipt),
            Effect::Journal(record) => {
                if let Record::Accepted(entry) = &record
                    && let Work::Execute { submission, .. } = &entry.work
                {
                    self.crowd.learn_run(&submission.run_id);
                }
                self.life_mut().records.push(record);
            }
            Effect::Request(request) => {
                if let Some(refused) = self.life_mut().workers.request(request) {
                    let answer = refused.action.failed(cancelled());
                    self.rules.answered(self.now, refused.ticket, &answer, Duration::ZERO);
                    let outcome = Outcome { ticket: refused.ticket, answer };
                    self.life_mut().inputs.push_back(Input::Outcome(outcome));
                }
            }
            Effect::StopRequests => {
                for Request { ticket, action, .. } in self.life_mut().workers.cancel_queued() {
                    let answer = action.failed(cancelled());
                    self.rules.answered(self.now, ticket, &answer, Duration::ZERO);
                    self.life_mut().inputs.push_back(Input::Outcome(Outcome { ticket, answer }));
                }
            }
            Effect::ReadConfiguration { .. } => {
                let result = self.crowd.configuration(&mut self.rng, self.calm_since.is_some());
                let delay = short(&mut self.rng, secs(5));
                let life = self.lives;
                self.after(delay, Event::Configuration { life, result });
            }
            Effect::Exit | Effect::Fail(_) => self.life_mut().over = true,
            Effect::WatchConfigurations(_) | Effect::SetLogLevel(_) | Effect::Log(..) => {}
        }
    }

    fn ack(&mut self, via: Via, _ack: &Ack, receipt: Option<Receipt>) {
        match (via, receipt) {
            (Via::Kafka, Some(receipt)) => self.produce(receipt),
            // It is written to the client at once, or there is no client any more.
            (Via::Socket(_), Some(receipt)) => self.said(receipt),
            (Via::CommandLine, _) | (_, None) => {}
        }
    }

    fn publish(&mut self, event: &SalEvent, receipt: Option<Receipt>) {
        if let SalEvent::JobId { job_id, .. } = event {
            self.crowd.learn(job_id);
        }
        match receipt {
            Some(receipt) if self.plan.kafka => self.produce(receipt),
            Some(receipt) => self.said(receipt),
            None => {}
        }
    }

    fn said(&mut self, receipt: Receipt) {
        self.rules.heard(self.lives, receipt);
        self.life_mut().records.push(Record::Said(receipt));
    }

    /// Gives a message to Kafka's client, which tries until it is delivered or we die.
    fn produce(&mut self, receipt: Receipt) {
        let delay = short(&mut self.rng, secs(2));
        let last = self.broker.last.get(&receipt.what).copied().unwrap_or_default();
        let time = (self.now.max(self.broker.away_until) + delay).max(last);
        self.broker.last.insert(receipt.what, time);
        self.broker.flying += 1;
        let life = self.lives;
        self.at(time, Event::Delivered { life, receipt });
    }

    fn deliver(&mut self, life: u32, receipt: Receipt) {
        self.broker.flying -= 1;
        if !self.is_alive(life) && self.rng.bool() {
            // It died with the process; or else it was on the wire.
            return;
        }
        if self.now < self.broker.away_until && self.is_alive(life) {
            return self.produce(receipt);
        }
        self.say(&format!("heard {receipt:?}"));
        self.rules.heard(life, receipt);
        let delay = short(&mut self.rng, secs(5));
        self.after(delay, Event::Reported { life, receipt });
    }

    fn begin_requests(&mut self) {
        while let Some(request) = self.life_mut().workers.begin() {
            let at = service_at(request.url.address());
            let (now, life) = (self.now, self.lives);
            let Self { services, plan, rng, .. } = self;
            let Fate { served, answer } = services[at].send(now, life, &request, plan, rng);
            if let Some((time, call)) = served {
                self.at(time, Event::Serve { life, call: Box::new(call), at });
            }
            if let Some((time, answer)) = answer {
                let outcome = Outcome { ticket: request.ticket, answer };
                self.at(time, Event::Answer { life, outcome, served: Duration::ZERO });
            }
        }
    }

    fn serve(&mut self, life: u32, call: &Call, at: usize) {
        let Self { services, plan, rng, .. } = self;
        let jobs = services[at].jobs.len();
        let answer = services[at].serve(self.now, call, plan, rng);
        let mut lines = Vec::new();
        for job in services[at].jobs.iter().skip(jobs) {
            self.rules.made(self.now, job, &services[at]);
            lines.push(format!("made {} of {:?}, visible at {:?}", job.id, job.made, job.visible));
        }
        for line in lines {
            self.say(&line);
        }
        let line = lines::call(call);
        self.say(&format!("served {line}"));
        if let Some((time, answer)) = answer {
            let outcome = Outcome { ticket: call.ticket, answer };
            let served = self.now;
            self.at(time, Event::Answer { life, outcome, served });
        }
    }

    fn answer(&mut self, outcome: Outcome, served: Duration) {
        self.life_mut().workers.ended(outcome.ticket);
        self.rules.answered(self.now, outcome.ticket, &outcome.answer, served);
        if let Answer::List(Ok(jobs)) = &outcome.answer {
            self.rules.listed(jobs);
        }
        self.input(Input::Outcome(outcome));
        if self.life.is_some() {
            self.begin_requests();
        }
    }

    fn crashes(&mut self) -> bool {
        let Some(life) = &self.life else { return false };
        if self.lives >= LIVES_MAX {
            return false;
        }
        let is_delicate = life.workers.has_put_in_flight() || life.journal.is_busy;
        let probability = self.plan.crash * if is_delicate { 10.0 } else { 1.0 };
        chance(&mut self.rng, probability)
    }

    /// The process dies.
    fn crash(&mut self, when: &str) {
        let is_committing = self.life_mut().journal.is_busy;
        self.say(&format!("CRASH {when}"));
        if is_committing && self.rng.bool() {
            // The commit was durable before anybody could say so.
            self.write(Disk::Works);
        }
        self.bury();
    }

    fn bury(&mut self) {
        let life = self.life.take().unwrap();
        self.store = Some(life.journal.writer.into_store());
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
            self.say(&format!("something is away until {until:?}"));
        }
        if chance(&mut self.rng, self.plan.pause) {
            self.freeze();
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
        self.say("CALM");
        self.calm_since = Some(self.now);
        self.disk_away_until = self.now;
        self.broker.away_until = self.now;
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
        let Some(life) = &self.life else { return false };
        let has_jobs = life.csc.status().jobs.iter().any(|(_, count)| *count > 0);
        self.crowd.is_content(&self.rules)
            && !has_jobs
            && life.journal.is_idle()
            && self.broker.flying == 0
            && self.commands_flying == 0
            && self.rules.unfinished() == 0
            && visible.clone().all(|visible| visible <= self.now)
            && self.left_over().is_none()
    }

    fn left_over(&self) -> Option<&Job> {
        self.rules.left_over(self.now, &self.services)
    }

    fn describe(&self) -> String {
        let status = self.life.as_ref().map(|life| format!("{:?}", life.csc.status()));
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

/// What the jobs of our executes are submitted with.
fn payload() -> Arc<dyn Payload> {
    let uws = ocps::config::settings::Uws {
        command: "run".to_owned(),
        source_url: "https://scripts".to_owned(),
        ..ocps::config::settings::Settings::default().uws
    };
    Arc::new(uws)
}
