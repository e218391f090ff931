//! One process of the daemon around the core: its worker queues and its journal thread, without the threads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use ocps::backend::lanes::{Ended, Lanes};
use ocps::csc::record::Record;
use ocps::csc::request::{Action, Outcome, Request, Ticket};
use ocps::csc::time::Time;
use ocps::daemon::turn::Turn;
use ocps::journal::Report;
use ocps::journal::store::{Sqlite, Store, Upkeep};
use ocps::journal::writer::Writer;
use ocps::lease::Lease;

use super::cluster::{OnTopic, instant, moment};
use super::plan::Plan;
use super::world::Event;

/// What the disk, or the broker, does with the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Works,
    /// Nothing is kept.
    Fails,
    /// All is kept, and then it fails.
    FailsAfterwards,
    /// Only of a broker: it does not answer, and what it was asked for arrives there later, or not.
    OnTheWire,
    /// Only of a broker: it does not take the messages.
    Leaderless,
    /// Only of a broker: it takes the writer for dead.
    GivesUp,
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
        if platter.disk != Disk::Works && platter.disk != Disk::FailsAfterwards {
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

/// The shipped writer, and where it writes.
#[derive(Debug)]
pub(crate) enum Kept {
    File(Writer<Faulty>),
    Topic(Writer<OnTopic>),
}

/// The same call for both.
macro_rules! either {
    ($kept:expr, $writer:ident => $call:expr) => {
        match $kept {
            Kept::File($writer) => $call,
            Kept::Topic($writer) => $call,
        }
    };
}

/// The journal thread.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Batches that were handed over and that the thread has not seen.
    pub(crate) channel: VecDeque<Vec<Record>>,
    /// Its reports that the main loop has not read.
    pub(crate) reports: VecDeque<Report>,
    pub(crate) kept: Kept,
    /// Whether something may be changed at the services.
    pub(crate) lease: Lease,
    /// Whether the disk is being asked for something.
    pub(crate) is_busy: bool,
    /// The number of the last wake-up that was asked for.
    pub(crate) wake: u64,
    /// Whether it is closed when the process ends.
    pub(crate) is_closed: bool,
}

impl Journal {
    /// As the thread does that opens it.
    pub(crate) fn new(kept: Kept) -> Self {
        let lease = match &kept {
            Kept::File(_) => Lease::default(),
            Kept::Topic(writer) => {
                let lease = Lease::unconfirmed();
                writer.store.topic.taken.into_iter().for_each(|at| lease.take_over(at));
                lease.confirm(writer.store.confirmed());
                lease
            }
        };
        let (channel, reports) = (VecDeque::new(), VecDeque::new());
        Self { channel, reports, kept, lease, is_busy: false, wake: 0, is_closed: false }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && !self.is_busy
    }

    /// The thread takes what was handed over.
    pub(crate) fn take(&mut self) {
        let batches = std::mem::take(&mut self.channel);
        either!(&mut self.kept, writer => batches.into_iter().for_each(|batch| writer.take(batch)));
    }

    pub(crate) fn wake_at(&self) -> Duration {
        either!(&self.kept, writer => writer.wake_at())
    }

    /// One turn of the real writer on a disk like that, at this time of the run; gives what became durable too.
    pub(crate) fn turn(&mut self, now: Duration, time: Time, disk: Disk) -> (Vec<Report>, Vec<Record>) {
        match &mut self.kept {
            Kept::File(writer) => {
                writer.store.platter.borrow_mut().disk = disk;
                let reports = writer.turn(time);
                (reports, std::mem::take(&mut writer.store.platter.borrow_mut().committed))
            }
            Kept::Topic(writer) => {
                writer.store.cluster.set(now, disk);
                let reports = writer.turn(time);
                // Who is fenced has no more to say.
                let is_fenced = writer.store.fenced().is_some();
                self.lease.confirm(writer.store.confirmed());
                if is_fenced {
                    self.lease.end();
                }
                (if is_fenced { Vec::new() } else { reports }, writer.store.cluster.durable())
            }
        }
    }

    pub(crate) fn is_fenced(&self) -> bool {
        either!(&self.kept, writer => writer.store.fenced().is_some())
    }

    /// Whether something may be changed at a service at this time of the run.
    pub(crate) fn is_leased(&self, now: Duration) -> bool {
        self.lease.is_valid_at(moment(now), instant(now))
    }

    /// Records that are not durable.
    pub(crate) fn waiting(&self) -> usize {
        self.channel.iter().map(Vec::len).sum::<usize>() + either!(&self.kept, writer => writer.load)
    }
}

/// How urgent a request is.
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
            Action::List(_) => Self::List,
            Action::Submit(_) | Action::Push { .. } => Self::Put,
            Action::Status { .. } | Action::Ping => Self::Poll,
        }
    }
}

/// The worker threads at the shipped lanes: there is one for each request that may begin.
#[derive(Debug)]
pub(crate) struct Workers {
    lanes: Lanes,
    connections: usize,
    /// What waits.
    queued: BTreeSet<(Kind, Ticket)>,
    /// What was begun, and when.
    begun: BTreeMap<Ticket, (Kind, Duration)>,
    /// The most PUTs in flight so far.
    puts: usize,
    /// The most lists and polls in flight: after a burst of PUTs they become more one by one.
    reads_max: usize,
    /// Whether there were more PUTs than may be in flight, and are still as many.
    is_burst: bool,
    /// For how long PUTs are to be worked on before the next list or poll, in a burst of them.
    owed: Duration,
}

impl Workers {
    fn new(plan: &Plan) -> Self {
        Self {
            lanes: Lanes::new(plan.connections, 12 * plan.max_jobs),
            connections: plan.connections,
            queued: BTreeSet::new(),
            begun: BTreeMap::new(),
            puts: 0,
            reads_max: usize::MAX,
            is_burst: false,
            owed: Duration::ZERO,
        }
    }

    /// Queues a request, or fails it.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), Outcome> {
        let key = (Kind::of(&request.action), request.ticket);
        self.lanes.put(request)?;
        self.queued.insert(key);
        let puts = self.queued.iter().filter(|(kind, _)| *kind == Kind::Put).count() + self.count(Kind::Put);
        self.is_burst |= key.0 == Kind::Put && puts > self.lanes.puts_at_once();
        Ok(())
    }

    /// The next request that a thread begins.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Request> {
        let (ready, is_held) = (self.lanes.ready(), self.is_held());
        let Some(request) = self.lanes.take() else {
            self.check_idle(is_held);
            return None;
        };
        assert!(ready > 0, "no thread is woken for it: {request:?}");
        let key = (Kind::of(&request.action), request.ticket);
        self.begun.insert(request.ticket, (key.0, now));
        self.check_begun(key, is_held);
        Some(request)
    }

    fn count(&self, wanted: Kind) -> usize {
        self.begun.values().filter(|(kind, _)| *kind == wanted).count()
    }

    fn has_waiting_puts(&self) -> bool {
        self.queued.iter().any(|(kind, _)| *kind == Kind::Put)
    }

    /// Whether no list and no poll may begin, since there is a burst of PUTs or just was one.
    fn is_held(&self) -> bool {
        let reads = self.count(Kind::List) + self.count(Kind::Poll);
        reads >= if self.is_burst { 1 } else { self.reads_max } || self.is_burst && self.owed > Duration::ZERO
    }

    /// Whether no more of a kind may be in flight.
    fn is_full(&self, kind: Kind, is_held: bool) -> bool {
        let count = self.count(kind);
        match kind {
            Kind::Delete => count == 8,
            Kind::List => is_held || count == 3,
            Kind::Put => count >= self.lanes.puts_at_once(),
            Kind::Poll => is_held || count == self.connections,
        }
    }

    /// The most urgent that may begin, and of those the first; and not too many.
    fn check_begun(&mut self, key: (Kind, Ticket), is_held: bool) {
        assert!(self.queued.remove(&key), "begun without being queued: {key:?}");
        let is_first = |kind: Kind| kind == key.0 || !self.is_full(kind, is_held);
        let before = self.queued.range(..key).find(|(kind, _)| is_first(*kind));
        assert_eq!(before, None, "more urgent than {key:?}");
        assert!(!is_held || !matches!(key.0, Kind::List | Kind::Poll), "a burst of PUTs, and not {key:?}");
        let puts = self.count(Kind::Put);
        assert!(
            puts <= 32 && puts <= (self.puts * 4).max(2),
            "{puts} PUTs, of which {} were tried",
            self.puts
        );
        self.puts = self.puts.max(puts);
        assert!(self.count(Kind::Delete) <= 8 && self.count(Kind::List) <= 3, "too many at once");
        assert!(self.count(Kind::Poll) <= self.connections, "too many polls");
    }

    /// Nothing waits that may begin.
    fn check_idle(&self, is_held: bool) {
        let idle = self.queued.iter().find(|(kind, _)| !self.is_full(*kind, is_held));
        assert_eq!(idle, None, "it waits, with these in flight: {:?}", self.begun);
        assert_eq!(self.lanes.ready(), 0);
    }

    /// A request is answered, which took so long.
    pub(crate) fn ended(&mut self, outcome: &mut Outcome, now: Duration) {
        let begun = self.begun.remove(&outcome.ticket);
        let (kind, begun) =
            begun.unwrap_or_else(|| panic!("never begun, or answered twice: {:?}", outcome.ticket));
        outcome.took = now.saturating_sub(begun);
        self.owed = match kind {
            _ if !self.is_burst => Duration::ZERO,
            Kind::Delete => self.owed,
            Kind::List | Kind::Poll => (self.owed + outcome.took * 39).min(Duration::from_secs(10)),
            Kind::Put => self.owed.saturating_sub(outcome.took),
        };
        self.lanes.ended(Ended::from(&*outcome));
        if self.is_burst {
            self.reads_max = 2;
        } else if matches!(kind, Kind::List | Kind::Poll) {
            self.reads_max = self.reads_max.saturating_add(1);
        }
        if kind == Kind::Put {
            self.is_burst &= self.has_waiting_puts() || self.count(Kind::Put) >= self.lanes.puts_at_once();
        }
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
        self.count(Kind::Put) > 0
    }

    /// Requests that were not answered.
    pub(crate) fn open(&self) -> usize {
        assert_eq!(self.queued.len(), self.lanes.len());
        self.queued.len() + self.begun.len()
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
    /// Since when the process stands still.
    pub(crate) still: Option<Duration>,
    /// Since when the instance that stands by has not heard it.
    pub(crate) unheard: Option<Duration>,
    /// What it will find when it continues.
    pub(crate) missed: Vec<Event>,
    pub(crate) workers: Workers,
    pub(crate) journal: Journal,
}

impl Process {
    pub(crate) fn new(number: u32, born: Duration, turn: Turn, journal: Journal, plan: &Plan) -> Self {
        Self {
            number,
            born,
            turn,
            over: false,
            still: None,
            unheard: None,
            missed: Vec::new(),
            workers: Workers::new(plan),
            journal,
        }
    }

    /// When it wants a tick, on the clock of the run; none while it stands still.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.still.is_none().then(|| self.born + self.turn.csc().next_deadline())
    }
}
