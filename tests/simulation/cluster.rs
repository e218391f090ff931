//! Brokers that keep the topic of a journal, under virtual time: the shipped journal writes to them and opens it.
//!
//! They keep the promises of Kafka's transactions, and no others: a commit that is not answered may have happened, may
//! yet happen, or may not; whoever fences ends all that, and what an earlier writer asks for from then on is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use ocps::clock::Moment;
use ocps::csc::record::Record;
use ocps::csc::time::Tai;
use ocps::journal::store::{Store, Upkeep};
use ocps::journal::topic::{Broker, Left, Message, Producer, Refusal, Take, Topic, Unopened};
use ocps::journal::{Identity, Limits};

use super::process::Disk;

/// The brokers; each copy is a way to the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Cluster(Rc<RefCell<Brokers>>);

#[derive(Debug)]
struct Brokers {
    identity: Identity,
    limits: Limits,
    rng: Rng,
    now: Duration,
    /// What happens to what they are asked for.
    mood: Disk,
    log: Vec<Message>,
    /// Of the writer that may write.
    epoch: u64,
    /// How many transactions there were.
    begun: u64,
    /// Those that were committed.
    committed: BTreeSet<u64>,
    /// A commit on its way, and its writer.
    on_the_wire: Option<(u64, Transaction)>,
    /// What the next transaction is of.
    records: Vec<Record>,
    /// What became durable and was not taken.
    durable: Vec<Record>,
    counts: Commits,
}

/// How many commits were not answered, and how many of them had happened all the same when the writer asked again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Commits {
    pub(crate) unanswered: u64,
    pub(crate) had_happened: u64,
}

#[derive(Clone, Debug)]
struct Transaction {
    number: u64,
    messages: Vec<Message>,
    records: Vec<Record>,
    /// Whether it was asked to be committed.
    is_asked: bool,
}

impl Cluster {
    pub(crate) fn new(identity: Identity, limits: Limits, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Brokers {
            identity,
            limits,
            rng: Rng::with_seed(seed),
            now: Duration::ZERO,
            mood: Disk::Works,
            log: Vec::new(),
            epoch: 0,
            begun: 0,
            committed: BTreeSet::new(),
            on_the_wire: None,
            records: Vec::new(),
            durable: Vec::new(),
            counts: Commits::default(),
        })))
    }

    /// From now on they are so.
    pub(crate) fn set(&self, now: Duration, mood: Disk) {
        let mut brokers = self.0.borrow_mut();
        (brokers.now, brokers.mood) = (now, mood);
    }

    /// The writer has died: what is on its way arrives now or never.
    pub(crate) fn part(&self) {
        let mut brokers = self.0.borrow_mut();
        brokers.arrive();
        brokers.on_the_wire = None;
    }

    /// What became durable since this was last asked.
    pub(crate) fn durable(&self) -> Vec<Record> {
        mem::take(&mut self.0.borrow_mut().durable)
    }

    pub(crate) fn counts(&self) -> Commits {
        self.0.borrow().counts
    }
}

impl Brokers {
    /// Time passes: what is on its way may arrive.
    fn arrive(&mut self) {
        if !self.rng.bool() {
            return;
        }
        if let Some((_, transaction)) = self.on_the_wire.take_if(|(epoch, _)| *epoch == self.epoch) {
            self.commit(&transaction);
        }
    }

    fn commit(&mut self, transaction: &Transaction) {
        if self.committed.insert(transaction.number) {
            self.log.extend_from_slice(&transaction.messages);
            self.durable.extend_from_slice(&transaction.records);
        }
    }

    /// Keeps the last message of each key.
    fn compact(&mut self) {
        let mut keys = BTreeSet::new();
        let mut kept: Vec<Message> = mem::take(&mut self.log)
            .into_iter()
            .rev()
            .filter(|message| keys.insert(message.key.clone()))
            .collect();
        kept.reverse();
        self.log = kept;
    }
}

impl Broker for Cluster {
    type Producer = Client;

    fn topic(&self) -> (&str, Identity, Limits) {
        let brokers = self.0.borrow();
        ("simulated", brokers.identity, brokers.limits)
    }

    fn fence(&self) -> Result<Client, Unopened> {
        let mut brokers = self.0.borrow_mut();
        brokers.arrive();
        if brokers.mood == Disk::Fails {
            return Err(Unopened::Away("away".to_owned()));
        }
        brokers.epoch += 1;
        brokers.on_the_wire = None;
        // What the one before has not handed over.
        brokers.records.clear();
        Ok(Client { cluster: self.clone(), epoch: brokers.epoch, transaction: None, is_fenced: false })
    }

    fn read(&self, take: Take<'_>) -> Result<(), Unopened> {
        let mut brokers = self.0.borrow_mut();
        brokers.arrive();
        if brokers.rng.bool() {
            brokers.compact();
        }
        (0..).zip(&brokers.log).try_for_each(|(offset, Message { key, value })| {
            take(offset, Some(key.as_bytes()), value.as_deref())
        })
    }
}

/// A writer.
#[derive(Debug)]
pub(crate) struct Client {
    cluster: Cluster,
    epoch: u64,
    transaction: Option<Transaction>,
    /// Whether it knows that it may not write any more.
    is_fenced: bool,
}

impl Client {
    /// What the brokers answer to who may not write any more, if they answer.
    fn check(&mut self) -> Result<(), Refusal> {
        let brokers = &mut *self.cluster.0.borrow_mut();
        if brokers.epoch == self.epoch {
            brokers.arrive();
        }
        if brokers.mood == Disk::GivesUp {
            brokers.epoch += 1;
            brokers.on_the_wire = None;
            brokers.mood = Disk::Works;
        }
        if self.is_fenced {
            return Err(refusal(Left::Nothing));
        }
        if brokers.mood == Disk::Fails {
            return Err(refusal(Left::Again));
        }
        if brokers.epoch != self.epoch {
            self.is_fenced = true;
            return Err(refusal(Left::Nothing));
        }
        Ok(())
    }
}

fn refusal(left: Left) -> Refusal {
    let reason = format!("{left:?}");
    Refusal { left, unopened: Unopened::Away(reason.clone()), reason }
}

impl Producer for Client {
    fn send(&mut self, messages: &[Message]) -> Result<(), Refusal> {
        assert!(self.transaction.is_none(), "a transaction begins in another");
        if self.is_fenced {
            return Err(refusal(Left::Nothing));
        }
        let brokers = &mut *self.cluster.0.borrow_mut();
        brokers.begun += 1;
        let (number, records) = (brokers.begun, mem::take(&mut brokers.records));
        let messages = messages.to_vec();
        self.transaction = Some(Transaction { number, messages, records, is_asked: false });
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Refusal> {
        self.check()?;
        let brokers = &mut *self.cluster.0.borrow_mut();
        let Some(transaction) = self.transaction.as_mut() else { panic!("nothing to commit") };
        let had_happened = brokers.committed.contains(&transaction.number);
        match brokers.mood {
            Disk::Leaderless if !transaction.is_asked => return Err(refusal(Left::Abort)),
            Disk::FailsAfterwards | Disk::OnTheWire if !had_happened => {
                brokers.counts.unanswered += 1;
                transaction.is_asked = true;
                if brokers.mood == Disk::OnTheWire {
                    brokers.on_the_wire = Some((self.epoch, transaction.clone()));
                } else {
                    brokers.commit(transaction);
                }
                return Err(refusal(Left::Again));
            }
            Disk::Works
            | Disk::Fails
            | Disk::FailsAfterwards
            | Disk::OnTheWire
            | Disk::Leaderless
            | Disk::GivesUp => {}
        }
        brokers.counts.had_happened += u64::from(had_happened);
        brokers.commit(transaction);
        brokers.on_the_wire = None;
        self.transaction = None;
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Refusal> {
        self.check()?;
        let is_asked = self.transaction.take().is_some_and(|transaction| transaction.is_asked);
        assert!(!is_asked, "given up although it may have happened");
        Ok(())
    }

    fn now(&self) -> Moment {
        moment(self.cluster.0.borrow().now)
    }

    fn instant(&self) -> Instant {
        instant(self.cluster.0.borrow().now)
    }
}

/// The clocks at this time of the run.
pub(crate) fn moment(now: Duration) -> Moment {
    Moment::new(now, SystemTime::UNIX_EPOCH + now)
}

/// The clock that only counts on.
pub(crate) fn instant(now: Duration) -> Instant {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGINNING + now
}

/// The shipped journal in this topic, for which the cluster notes what is durable.
#[derive(Debug)]
pub(crate) struct OnTopic {
    pub(crate) topic: Topic<Cluster>,
    pub(crate) cluster: Cluster,
}

impl OnTopic {
    fn begin(&self, records: Vec<Record>) {
        self.cluster.0.borrow_mut().records = records;
    }
}

impl Store for OnTopic {
    const UPKEEP_EVERY: Duration = Topic::<Cluster>::UPKEEP_EVERY;

    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        self.begin(records.iter().map(|record| (*record).clone()).collect());
        self.topic.commit(records)
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        self.begin(Vec::new());
        self.topic.upkeep(now)
    }

    fn fenced(&self) -> Option<&str> {
        self.topic.fenced()
    }

    fn confirmed(&self) -> Option<Moment> {
        self.topic.confirmed()
    }

    fn close(self) -> Result<(), String> {
        self.begin(Vec::new());
        self.topic.close()
    }
}
