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
    /// The most polls in flight: after a burst of PUTs they become more one by one.
    polls_max: usize,
    /// Whether there were more PUTs than may be in flight, and are still as many, or some wait.
    is_burst: bool,
    /// Whether the last list or poll that was begun is a list.
    was_list: bool,
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
            polls_max: plan.connections,
            is_burst: false,
            was_list: false,
            owed: Duration::ZERO,
        }
    }

    /// Queues a request, or fails it.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), Outcome> {
        let key = (Kind::of(&request.action), request.ticket);
        self.lanes.put(request)?;
        self.queued.insert(key);
        self.note_burst();
        Ok(())
    }

    fn note_burst(&mut self) {
        let waiting = self.queued.iter().filter(|(kind, _)| *kind == Kind::Put).count();
        let (puts, bound) = (waiting + self.count(Kind::Put), self.lanes.puts_at_once());
        self.is_burst =
            if self.is_burst { waiting > 0 || puts >= bound } else { puts > bound && waiting > 0 };
        if self.is_burst {
            self.polls_max = self.connections.min(1);
        }
    }

    /// The next request that a thread begins.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Request> {
        let kinds = [Kind::Delete, Kind::List, Kind::Put, Kind::Poll];
        let open: BTreeSet<Kind> = kinds.into_iter().filter(|kind| !self.is_full(*kind)).collect();
        let ready = self.lanes.ready();
        let Some(request) = self.lanes.take() else {
            self.check_idle(&open);
            return None;
        };
        assert!(ready > 0, "no thread is woken for it: {request:?}");
        let key = (Kind::of(&request.action), request.ticket);
        self.begun.insert(request.ticket, (key.0, now));
        self.check_begun(key, &open);
        self.note_burst();
        Some(request)
    }

    fn count(&self, wanted: Kind) -> usize {
        self.begun.values().filter(|(kind, _)| *kind == wanted).count()
    }

    fn waits(&self, wanted: Kind) -> bool {
        self.queued.iter().any(|(kind, _)| *kind == wanted)
    }

    fn reads(&self) -> usize {
        self.count(Kind::List) + self.count(Kind::Poll)
    }

    /// Whether no list and no poll may begin, since there is a burst of PUTs.
    fn is_held(&self) -> bool {
        self.is_burst && (self.reads() > 0 || (self.waits(Kind::Put) && self.owed > Duration::ZERO))
    }

    /// Whether in a burst a poll goes before the lists.
    fn is_turn_of_polls(&self) -> bool {
        self.is_burst && self.was_list && self.waits(Kind::Poll) && self.count(Kind::Poll) < self.polls_max
    }

    /// Whether no more of a kind may be in flight.
    fn is_full(&self, kind: Kind) -> bool {
        let count = self.count(kind);
        match kind {
            Kind::Delete => count == 8,
            Kind::List => self.is_held() || count == 3 || self.is_turn_of_polls(),
            Kind::Put => count >= self.lanes.puts_at_once(),
            Kind::Poll => self.is_held() || count >= self.polls_max,
        }
    }

    /// The most urgent of the kinds that may begin, and of those the first; and not too many.
    fn check_begun(&mut self, key: (Kind, Ticket), open: &BTreeSet<Kind>) {
        let before = self.queued.range(..key).find(|(kind, _)| *kind == key.0 || open.contains(kind));
        assert_eq!(before, None, "more urgent than {key:?}");
        assert!(self.queued.remove(&key), "begun without being queued: {key:?}");
        assert!(open.contains(&key.0), "{key:?} goes too far, with these in flight: {:?}", self.begun);
        if matches!(key.0, Kind::List | Kind::Poll) {
            self.was_list = key.0 == Kind::List;
        }
        let puts = self.count(Kind::Put);
        assert!(
            puts <= 32 && puts <= (self.puts * 4).max(2),
            "{puts} PUTs, of which {} were tried",
            self.puts
        );
        self.puts = self.puts.max(puts);
    }

    /// Nothing waits that may begin.
    fn check_idle(&self, open: &BTreeSet<Kind>) {
        let idle = self.queued.iter().find(|(kind, _)| open.contains(kind));
        assert_eq!(idle, None, "it waits, with these in flight: {:?}", self.begun);
        assert_eq!(self.lanes.ready(), 0);
        let has_reads = self.waits(Kind::List) || self.waits(Kind::Poll);
        assert!(!has_reads || self.reads() > 0 || self.waits(Kind::Put), "only PUTs that wait hold up reads");
    }

    /// A request is answered, which took so long.
    pub(crate) fn ended(&mut self, outcome: &mut Outcome, now: Duration) {
        let together = u32::try_from(self.count(Kind::Put).max(1)).unwrap();
        let begun = self.begun.remove(&outcome.ticket);
        let (kind, begun) =
            begun.unwrap_or_else(|| panic!("never begun, or answered twice: {:?}", outcome.ticket));
        outcome.took = now.saturating_sub(begun);
        self.owed = match kind {
            _ if !self.is_burst => Duration::ZERO,
            Kind::Delete => self.owed,
            Kind::List | Kind::Poll => (self.owed + outcome.took * 19).min(Duration::from_secs(10)),
            Kind::Put => self.owed.saturating_sub(outcome.took / together),
        };
        self.lanes.ended(Ended::from(&*outcome));
        if kind == Kind::Poll {
            self.polls_max = self.connections.min(self.polls_max + 1);
        }
        self.note_burst();
    }

    pub(crate) fn cancel_queued(&mut self) -> Vec<Outcome> {
        let outcomes = self.lanes.cancel();
        let queued: BTreeSet<Ticket> =
            std::mem::take(&mut self.queued).into_iter().map(|(_, ticket)| ticket).collect();
        let cancelled: BTreeSet<Ticket> = outcomes.iter().map(|outcome| outcome.ticket).collect();
        assert_eq!(queued, cancelled, "not all of what is queued is cancelled");
        self.note_burst();
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
