//! One life of the daemon around the core: its worker queues and its journal thread, without the threads.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use ocps::csc::command::Command;
use ocps::csc::record::Record;
use ocps::csc::request::{Action, Request, Ticket};
use ocps::csc::time::Time;
use ocps::csc::{Csc, Input};
use ocps::journal::Report;
use ocps::journal::store::{Sqlite, Store, Upkeep};
use ocps::journal::writer::Writer;

use super::plan::Plan;
use super::world::Event;

/// Threads of the control pool.
const CONTROL_THREADS: usize = 2;

/// What the disk does with the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Works,
    /// Nothing is kept.
    Fails,
    /// All is kept, and then it fails.
    FailsAfterwards,
}

/// The real store, on a disk that can fail.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) sqlite: Sqlite,
    platter: Rc<RefCell<Platter>>,
}

/// What is known of the disk from outside.
#[derive(Debug)]
pub(crate) struct Platter {
    pub(crate) disk: Disk,
    /// What became durable and was not looked at.
    pub(crate) committed: Vec<Record>,
}

impl Faulty {
    pub(crate) fn new(sqlite: Sqlite) -> Self {
        let platter = Platter { disk: Disk::Works, committed: Vec::new() };
        Self { sqlite, platter: Rc::new(RefCell::new(platter)) }
    }
}

impl Store for Faulty {
    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        let mut platter = self.platter.borrow_mut();
        if platter.disk == Disk::Fails {
            return Err("no space left on device".to_owned());
        }
        self.sqlite.commit(records)?;
        platter.committed.extend(records.iter().map(|record| (*record).clone()));
        if platter.disk == Disk::FailsAfterwards {
            return Err("input/output error".to_owned());
        }
        Ok(())
    }

    fn upkeep(&mut self, now: ocps::csc::time::Tai) -> Result<Upkeep, String> {
        if self.platter.borrow().disk == Disk::Works {
            self.sqlite.upkeep(now)
        } else {
            Err("input/output error".to_owned())
        }
    }
}

/// The journal thread.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Batches that were handed over and that the thread has not seen.
    pub(crate) channel: VecDeque<Vec<Record>>,
    pub(crate) writer: Writer<Faulty>,
    pub(crate) platter: Rc<RefCell<Platter>>,
    /// Whether the disk is being asked for something.
    pub(crate) is_busy: bool,
    /// The number of the last wake-up that was asked for.
    pub(crate) wake: u64,
}

impl Journal {
    pub(crate) fn new(store: Faulty) -> Self {
        let platter = store.platter.clone();
        Self { channel: VecDeque::new(), writer: Writer::new(store), platter, is_busy: false, wake: 0 }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && !self.is_busy
    }

    /// One turn of the real writer on a disk like that; gives what became durable too.
    pub(crate) fn turn(&mut self, now: Time, disk: Disk) -> (Vec<Report>, Vec<Record>) {
        self.platter.borrow_mut().disk = disk;
        let reports = self.writer.turn(now);
        (reports, std::mem::take(&mut self.platter.borrow_mut().committed))
    }

    /// Records that are not durable.
    pub(crate) fn waiting(&self) -> usize {
        self.channel.iter().map(Vec::len).sum::<usize>() + self.writer.load.records
    }
}

/// Which pool, and how urgent there.
fn lane(action: &Action) -> usize {
    match action {
        Action::Remove { .. } => 0,
        Action::List { .. } => 1,
        Action::Submit(_) | Action::Push { .. } => 2,
        Action::Status { .. } | Action::Ping => POLL,
    }
}

const POLL: usize = 3;

/// The worker pools.
#[derive(Debug)]
pub(crate) struct Workers {
    lanes: [VecDeque<Request>; 4],
    connections: usize,
    capacity: usize,
    /// Requests that a thread has begun, and their lanes.
    flying: BTreeMap<Ticket, usize>,
}

impl Workers {
    fn new(plan: &Plan) -> Self {
        Self {
            lanes: Default::default(),
            connections: plan.connections,
            capacity: 3 * plan.max_jobs,
            flying: BTreeMap::new(),
        }
    }

    /// Queues a request, or gives it back.
    pub(crate) fn request(&mut self, request: Request) -> Option<Request> {
        let lane = &mut self.lanes[lane(&request.action)];
        if lane.len() >= self.capacity {
            return Some(request);
        }
        lane.push_back(request);
        None
    }

    /// The next request that a thread is free for.
    pub(crate) fn begin(&mut self) -> Option<Request> {
        let polls = self.flying.values().filter(|lane| **lane == POLL).count();
        let is_free = [self.flying.len() - polls < CONTROL_THREADS, polls < self.connections];
        let lane = (0..4).find(|lane| is_free[lane / POLL] && !self.lanes[*lane].is_empty())?;
        let request = self.lanes[lane].pop_front()?;
        self.flying.insert(request.ticket, lane);
        Some(request)
    }

    pub(crate) fn ended(&mut self, ticket: Ticket) {
        assert!(self.flying.remove(&ticket).is_some(), "answered twice");
    }

    pub(crate) fn cancel_queued(&mut self) -> Vec<Request> {
        self.lanes.iter_mut().flat_map(|lane| lane.drain(..)).collect()
    }

    pub(crate) fn has_put_in_flight(&self) -> bool {
        self.flying.values().any(|lane| *lane == 2)
    }

    /// Requests that were not answered.
    pub(crate) fn open(&self) -> usize {
        self.flying.len() + self.lanes.iter().map(VecDeque::len).sum::<usize>()
    }
}

/// One life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) number: u32,
    pub(crate) born: Duration,
    pub(crate) csc: Csc,
    /// Whether commands are given to the core.
    pub(crate) joined: bool,
    /// Whether the core has ended it.
    pub(crate) over: bool,
    /// Whether the process stands still.
    pub(crate) is_frozen: bool,
    /// What it will find when it goes on.
    pub(crate) missed: Vec<Event>,
    /// Commands that came before it has joined.
    pub(crate) deferred: VecDeque<Command>,
    pub(crate) inputs: VecDeque<Input>,
    /// What this turn wants to be kept.
    pub(crate) records: Vec<Record>,
    pub(crate) workers: Workers,
    pub(crate) journal: Journal,
}

impl Life {
    pub(crate) fn new(number: u32, born: Duration, csc: Csc, store: Faulty, plan: &Plan) -> Self {
        Self {
            number,
            born,
            csc,
            joined: false,
            over: false,
            is_frozen: false,
            missed: Vec::new(),
            deferred: VecDeque::new(),
            inputs: VecDeque::new(),
            records: Vec::new(),
            workers: Workers::new(plan),
            journal: Journal::new(store),
        }
    }

    /// When it wants a tick, on the clock of the run.
    pub(crate) fn deadline(&self) -> Duration {
        self.born + self.csc.next_deadline()
    }
}
