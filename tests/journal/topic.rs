//! The journal in a topic of Kafka, with librdkafka's imitation of a broker. It keeps what is in a transaction that was
//! aborted, and fences nobody: those are for the real one (`tests/kafka`).

use std::time::Duration;

use fastrand::Rng;
use ocps::config::kafka::Options;
use ocps::config::settings;
use ocps::csc::id::{EntryKey, SalIndex};
use ocps::csc::record::{Record, Recovered};
use ocps::csc::time::Tai;
use ocps::journal::store::Store;
use ocps::journal::topic::{self, Address, Follower, Unopened};
use ocps::journal::{Identity, Limits, OpenError};
use ocps::lease::TERM;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::kept::Kept;
use crate::sample::{self, NOW, OURS};
use crate::store::{Model, assert_same};

pub(crate) struct Topic {
    cluster: MockCluster<'static, DefaultProducerContext>,
    address: Address,
    store: topic::Topic<Address>,
}

/// A broker with a topic for a journal, of so many partitions.
fn cluster(partitions: i32, limits: Limits) -> (MockCluster<'static, DefaultProducerContext>, Address) {
    let cluster = MockCluster::new(1).unwrap();
    let address = address(&cluster.bootstrap_servers(), OURS, limits);
    cluster.create_topic(&address.name, partitions, 1).unwrap();
    (cluster, address)
}

fn address(brokers: &str, identity: Identity, limits: Limits) -> Address {
    let settings = settings::Kafka {
        brokers: Some(brokers.to_owned()),
        topic_subname: Some("test".to_owned()),
        journal_topic: Some("ocps.test.journal.3".to_owned()),
        ..settings::Kafka::default()
    };
    Address::new(Options::new(&settings, &|_| None).unwrap(), identity, limits)
}

impl Kept for Topic {
    const SEEDS: u64 = 10;
    type Store = topic::Topic<Address>;

    fn new(limits: Limits) -> Self {
        let (cluster, address) = cluster(1, limits);
        let (store, _) = topic::Topic::open(&address, NOW).unwrap();
        Self { cluster, address, store }
    }

    fn store(&mut self) -> &mut topic::Topic<Address> {
        &mut self.store
    }

    fn read(&self) -> Recovered {
        self.store.recover().unwrap()
    }

    fn next_run(self, now: Tai) -> Self {
        let Self { cluster, address, store } = self;
        drop(store);
        let (store, _) = topic::Topic::open(&address, now).unwrap();
        Self { cluster, address, store }
    }
}

fn refs(records: &[Record]) -> Vec<&Record> {
    records.iter().collect()
}

fn some(rng: &mut Rng) -> Vec<Record> {
    (0..9).map(|_| sample::record(rng, 3)).collect()
}

#[test]
fn a_commit_that_the_broker_answers_late_is_not_durable_before_and_once_in_the_journal() {
    let mut rng = Rng::with_seed(1);
    let mut kept = Topic::new(sample::limits());
    let accepted = |key| Record::Accepted(Box::new(sample::entry(&mut Rng::with_seed(key), EntryKey(key))));
    // No record comes before its command.
    let first: Vec<Record> = (1..=3).map(accepted).chain(some(&mut rng)).collect();
    let (late, last) = (some(&mut rng), some(&mut rng));
    let mut model = Model::default();
    first.iter().chain(&late).chain(&last).for_each(|record| model.keep(record));
    kept.commit(&first);
    kept.cluster.broker_round_trip_time(1, Duration::from_secs(4)).unwrap();
    let failed = kept.store.commit(&refs(&late)).unwrap_err();
    assert!(failed.to_lowercase().contains("timed out"), "{failed}");
    kept.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    // As the journal's thread does, with what came meanwhile.
    let group: Vec<Record> = late.into_iter().chain(last).collect();
    let tries = std::iter::repeat_with(|| kept.store.commit(&refs(&group)));
    assert!(tries.take(10).any(|result| result.is_ok()));
    assert_same(&kept.read(), &model.recovered(), 1);
    assert_same(&kept.next_run(NOW).read(), &model.recovered(), 2);
}

#[test]
fn what_the_broker_refuses_has_not_happened() {
    let mut rng = Rng::with_seed(2);
    let mut kept = Topic::new(sample::limits());
    let mut model = Model::default();
    let first = some(&mut rng);
    first.iter().for_each(|record| model.keep(record));
    kept.commit(&first);
    kept.cluster
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let failed = kept.store.commit(&refs(&some(&mut rng))).unwrap_err();
    assert!(failed.contains("Message size too large"), "{failed}");
    assert_same(&kept.read(), &model.recovered(), 1);
    let last = some(&mut rng);
    last.iter().for_each(|record| model.keep(record));
    // The broker may miss the numbers of what it refused, and refuse once more.
    let tries = std::iter::repeat_with(|| kept.store.commit(&refs(&last)));
    assert!(tries.take(3).any(|result| result.is_ok()));
    assert_same(&kept.read(), &model.recovered(), 2);
    assert_same(&kept.next_run(NOW).read(), &model.recovered(), 3);
}

#[test]
fn who_is_fenced_never_writes_again() {
    let mut kept = Topic::new(sample::limits());
    kept.commit(&some(&mut Rng::with_seed(3)));
    assert_eq!(kept.store.fenced(), None);
    kept.cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let before = kept.store.confirmed();
    let failed = kept.store.upkeep(NOW).unwrap_err();
    assert!(failed.starts_with("another instance has opened it"), "{failed}");
    assert_eq!(kept.store.fenced(), Some(failed.as_str()));
    assert_eq!(kept.store.commit(&refs(&some(&mut Rng::with_seed(4)))), Err(failed));
    assert_eq!(kept.store.confirmed(), before);
}

#[test]
fn a_run_that_ends_in_order_hands_over_to_the_next_and_to_whoever_reads_along() {
    let Topic { cluster: _cluster, address, store } = Topic::new(sample::limits());
    let open = || topic::Topic::open(&address, NOW).unwrap().0;
    let mut follower = Follower::new(&address).unwrap();
    assert!(store.taken.is_none());
    drop(store);
    let killed = open();
    assert!(killed.taken.is_some());
    drop(killed);
    let early = open();
    assert!(early.taken.is_some());
    // The one before may still believe that it has the lease.
    early.close().unwrap();
    follower.read(Duration::from_secs(1));
    assert!(!follower.is_handed_over);
    let store = open();
    assert!(store.taken.is_some());
    std::thread::sleep(TERM);
    store.close().unwrap();
    follower.read(Duration::from_secs(1));
    assert!(follower.is_handed_over);
    let next = open();
    assert!(next.taken.is_none());
    follower.read(Duration::from_secs(1));
    assert!(!follower.is_handed_over);
    assert_eq!(follower.behind, Some(0));
    assert_eq!(next.recover().unwrap(), Recovered { unsearched: true, ..Recovered::default() });
}

#[test]
fn a_topic_with_two_partitions_is_refused_and_a_broker_that_is_away_is_waited_for() {
    let (_cluster, address) = cluster(2, sample::limits());
    let Err(Unopened::Refused(OpenError::Refused(reason))) = address.prepare() else { panic!("not refused") };
    assert!(reason.starts_with("the journal topic ocps.test.journal.3 has 2 partitions"), "{reason}");
    let Err(Unopened::Away(reason)) = self::address("127.0.0.1:9", OURS, sample::limits()).prepare() else {
        panic!("not away");
    };
    let expected = "the journal topic ocps.test.journal.3 cannot be opened: ";
    assert!(reason.starts_with(expected), "{reason}");
}

#[test]
fn the_topic_of_another_index_is_refused() {
    let (cluster, ours) = cluster(1, sample::limits());
    drop(topic::Topic::open(&ours, NOW).unwrap());
    let other = Identity { index: SalIndex::Latiss, simulated: false };
    let other = address(&cluster.bootstrap_servers(), other, sample::limits());
    let Err(Unopened::Refused(OpenError::Refused(reason))) = topic::Topic::open(&other, NOW) else {
        panic!("not refused");
    };
    assert!(reason.contains("is that of index 3 (LSSTCam), and this is index 1 (LATISS): "), "{reason}");
}

#[test]
fn the_tables_in_memory_have_a_limit_beyond_which_nothing_is_taken() {
    let mut kept = Topic::new(Limits { file_bytes: 1 << 20, ..sample::limits() });
    let mut rng = Rng::with_seed(5);
    let failed = (1..10_000).find_map(|key| {
        let entry = sample::entry(&mut rng, EntryKey(key));
        kept.store.commit(&[&Record::Accepted(Box::new(entry))]).err()
    });
    let failed = failed.expect("it takes no end of them");
    assert_eq!(failed, "it has reached its limit of 1 MiB: wait for jobs to end, or lower history_days");
    let before = kept.read();
    assert_same(&kept.next_run(NOW).read(), &before, 5);
}
