//! One process of the daemon around the core: its worker queues and its journal thread, without the threads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use ocps::backend::lanes::{self, Lanes, Role};
use ocps::csc::record::Record;
use ocps::csc::request::{Action, Outcome, Request, Ticket};
use ocps::csc::time::Time;
use ocps::daemon::turn::Turn;
use ocps::journal::Report;
use ocps::journal::store::{Sqlite, Store, Upkeep};
use ocps::journal::writer::Writer;

use super::plan::Plan;
use super::world::Event;

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
    /// What became durable and was not taken.
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
    /// Its reports that the main loop has not read.
    pub(crate) reports: VecDeque<Report>,
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
        let (channel, reports) = (VecDeque::new(), VecDeque::new());
        Self { channel, reports, writer: Writer::new(store), platter, is_busy: false, wake: 0 }
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
        self.channel.iter().map(Vec::len).sum::<usize>() + self.writer.load
    }
}

/// How urgent a request is in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Delete,
    List,
    Put,
    Poll,
}

impl Kind {
    fn of(action: &Action) -> Self {
        match action {
            Action::Remove { .. } => Self::Delete,
            Action::List { .. } => Self::List,
            Action::Submit(_) | Action::Push { .. } => Self::Put,
            Action::Status { .. } | Action::Ping => Self::Poll,
        }
    }
}

/// The worker threads at the shipped lanes.
#[derive(Debug)]
pub(crate) struct Workers {
    lanes: Lanes,
    /// What each thread may take, and what it has begun.
    threads: Vec<(Role, Option<(Kind, Ticket)>)>,
    connections: usize,
    /// What waits.
    queued: BTreeSet<(Kind, Ticket)>,
    /// When each request was begun.
    times: BTreeMap<Ticket, Duration>,
}

impl Workers {
    fn new(plan: &Plan) -> Self {
        let threads = lanes::threads(plan.connections).map(|role| (role, None)).collect();
        let lanes = Lanes::new(12 * plan.max_jobs);
        Self {
            lanes,
            threads,
            connections: plan.connections,
            queued: BTreeSet::new(),
            times: BTreeMap::new(),
        }
    }

    /// Queues a request, or fails it.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), Outcome> {
        let key = (Kind::of(&request.action), request.ticket);
        self.lanes.put(request)?;
        self.queued.insert(key);
        Ok(())
    }

    /// The next request that a thread begins; which thread is first is chance.
    pub(crate) fn begin(&mut self, now: Duration, rng: &mut Rng) -> Option<Request> {
        let first = rng.usize(..self.threads.len());
        self.threads.rotate_left(first);
        for (role, begun) in self.threads.iter_mut().filter(|(_, begun)| begun.is_none()) {
            if let Some(request) = self.lanes.take(*role) {
                let key = (Kind::of(&request.action), request.ticket);
                *begun = Some(key);
                self.times.insert(request.ticket, now);
                self.check_begun(key);
                return Some(request);
            }
        }
        self.check_idle();
        None
    }

    fn count(&self, is_wanted: impl Fn(Kind) -> bool) -> usize {
        self.threads.iter().filter_map(|(_, begun)| *begun).filter(|(kind, _)| is_wanted(*kind)).count()
    }

    /// The most urgent, and of those the first; and neither polls nor PUTs take all threads.
    fn check_begun(&mut self, key: (Kind, Ticket)) {
        assert!(self.queued.remove(&key), "begun without being queued: {key:?}");
        let is_of_pool = |kind| (kind == Kind::Poll) == (key.0 == Kind::Poll);
        let before = self.queued.range(..key).find(|(kind, _)| is_of_pool(*kind));
        assert_eq!(before, None, "more urgent than {key:?}");
        assert!(self.count(|kind| kind == Kind::Put) <= 2, "PUTs leave no thread for an abort");
        assert!(self.count(|kind| kind == Kind::Poll) <= self.connections, "too many polls");
        assert!(self.count(|kind| kind != Kind::Poll) <= 3, "too many threads");
    }

    /// No thread is idle while there is work for it.
    fn check_idle(&self) {
        let busy = self.count(|kind| kind != Kind::Poll);
        let puts = self.count(|kind| kind == Kind::Put);
        for (kind, _) in &self.queued {
            let is_busy = match kind {
                Kind::Delete | Kind::List => busy == 3,
                // One of the threads that may do it can be busy with something else.
                Kind::Put => busy == 3 || puts == 2 || busy == 2 && self.is_spare_idle(),
                Kind::Poll => self.count(|kind| kind == Kind::Poll) == self.connections,
            };
            assert!(is_busy, "a thread is idle although {kind:?} waits: {:?}", self.threads);
        }
    }

    fn is_spare_idle(&self) -> bool {
        self.threads.iter().any(|(role, begun)| *role == Role::NoPut && begun.is_none())
    }

    /// A request is answered; gives when it was begun.
    pub(crate) fn ended(&mut self, ticket: Ticket) -> Duration {
        let is_its =
            |(_, begun): &&mut (Role, Option<(Kind, Ticket)>)| begun.is_some_and(|(_, t)| t == ticket);
        let thread = self.threads.iter_mut().find(is_its);
        thread.unwrap_or_else(|| panic!("answered twice: {ticket:?}")).1 = None;
        self.times.remove(&ticket).unwrap_or_else(|| panic!("never begun: {ticket:?}"))
    }

    pub(crate) fn cancel_queued(&mut self) -> Vec<Outcome> {
        let outcomes = self.lanes.cancel();
        let queued: BTreeSet<Ticket> =
            std::mem::take(&mut self.queued).into_iter().map(|(_, ticket)| ticket).collect();
        let cancelled: BTreeSet<Ticket> = outcomes.iter().map(|outcome| outcome.ticket).collect();
        assert_eq!(queued, cancelled, "not all of what is queued is cancelled");
        outcomes
    }

    pub(crate) fn has_put_in_flight(&self) -> bool {
        self.count(|kind| kind == Kind::Put) > 0
    }

    /// Requests that were not answered.
    pub(crate) fn open(&self) -> usize {
        assert_eq!(self.queued.len(), self.lanes.len());
        self.queued.len() + self.threads.iter().filter(|(_, begun)| begun.is_some()).count()
    }
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u32,
    pub(crate) born: Duration,
    pub(crate) turn: Turn,
    /// Whether the core has ended it.
    pub(crate) over: bool,
    /// Whether the process stands still.
    pub(crate) is_frozen: bool,
    /// What it will find when it continues.
    pub(crate) missed: Vec<Event>,
    pub(crate) workers: Workers,
    pub(crate) journal: Journal,
}

impl Process {
    pub(crate) fn new(number: u32, born: Duration, turn: Turn, store: Faulty, plan: &Plan) -> Self {
        let (workers, journal) = (Workers::new(plan), Journal::new(store));
        Self { number, born, turn, over: false, is_frozen: false, missed: Vec::new(), workers, journal }
    }

    /// When it wants a tick, on the clock of the run.
    pub(crate) fn deadline(&self) -> Duration {
        self.born + self.turn.csc().next_deadline()
    }
}
