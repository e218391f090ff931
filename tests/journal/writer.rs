//! When it is written and what is reported, in virtual time, with a store whose disk fails and comes back.

use std::time::Duration;

use fastrand::Rng;
use ocps::csc::id::EntryKey;
use ocps::csc::record::{Awaited, Deliverable, Receipt, Record, Recovered};
use ocps::csc::time::{Tai, Time};
use ocps::journal::store::{Sqlite, Store, Upkeep};
use ocps::journal::writer::{Report, Writer};

use crate::sample::{self, NOW, OURS};
use crate::store::{Model, bits};

/// What the disk does with a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    Well,
    Fails,
    /// The commit is there, but the disk reports a failure.
    Lies,
}

#[derive(Debug)]
struct FaultyStore {
    store: Sqlite,
    disk: Disk,
    /// Sizes of the commits that were tried.
    tried: Vec<usize>,
    upkeeps: usize,
}

impl FaultyStore {
    fn new() -> Self {
        let store = Sqlite::in_memory(OURS, sample::limits()).unwrap();
        Self { store, disk: Disk::Well, tried: Vec::new(), upkeeps: 0 }
    }
}

impl Store for FaultyStore {
    fn commit(&mut self, records: &[&Record]) -> Result<(), String> {
        self.tried.push(records.len());
        if self.disk != Disk::Fails {
            self.store.commit(records)?;
        }
        if self.disk == Disk::Well { Ok(()) } else { Err("the disk is full".to_owned()) }
    }

    fn upkeep(&mut self, now: Tai) -> Result<Upkeep, String> {
        self.upkeeps += 1;
        self.store.upkeep(now)
    }
}

/// A writer and its clock.
struct Rig {
    writer: Writer<FaultyStore>,
    now: Duration,
}

impl Rig {
    fn new() -> Self {
        Self { writer: Writer::new(FaultyStore::new()), now: Duration::ZERO }
    }

    fn disk(&mut self, disk: Disk) {
        self.writer.store.disk = disk;
    }

    fn turn(&mut self) -> Vec<Report> {
        self.writer.turn(Time { mono: self.now, tai: Tai(NOW.0 + self.now.as_secs_f64()) })
    }

    /// Takes all turns that are due until then.
    fn run(&mut self, millis: u64) -> Vec<(u64, Report)> {
        let end = self.now + Duration::from_millis(millis);
        let mut reports = Vec::new();
        let mut turns = 0;
        while self.writer.wake_at() <= end {
            self.now = self.now.max(self.writer.wake_at());
            let at = u64::try_from(self.now.as_millis()).unwrap();
            reports.extend(self.turn().into_iter().map(|report| (at, report)));
            turns += 1;
            assert!(turns < 1000, "it spins");
        }
        self.now = end;
        reports
    }
}

fn accepted(key: u64) -> Record {
    Record::Accepted(Box::new(sample::entry(&mut Rng::with_seed(key), EntryKey(key))))
}

fn seen(number: u64) -> Record {
    Record::Seen { sender: sample::sender(&mut Rng::with_seed(number)), at: NOW }
}

fn durable(keys: &[u64]) -> Report {
    Report::Durable(keys.iter().copied().map(|key| Awaited::Accepted(EntryKey(key))).collect())
}

fn failed() -> Report {
    Report::Failed("the disk is full".to_owned())
}

#[test]
fn all_that_waits_is_written_together() {
    let mut rig = Rig::new();
    for key in 1..=3 {
        rig.writer.take(vec![accepted(key), seen(key)]);
    }
    assert_eq!(rig.turn(), [durable(&[1, 2, 3])]);
    assert_eq!(rig.writer.store.tried, [6]);
    assert_eq!(rig.writer.load, 0);
}

fn ended(key: u64, has_result: bool) -> Record {
    let mut ends = (0..).map(|seed| sample::end(&mut Rng::with_seed(seed)));
    let end = ends.find(|end| end.result.is_some() == has_result).unwrap();
    Record::Ended { key: EntryKey(key), end: Box::new(end) }
}

fn durable_ends(keys: &[u64]) -> Report {
    Report::Durable(keys.iter().copied().map(|key| Awaited::Ended(EntryKey(key))).collect())
}

/// A writer that has written a result at this moment.
fn with_a_result() -> Rig {
    let mut rig = Rig::new();
    rig.writer.take((1..=9).map(accepted).collect());
    rig.writer.take(vec![ended(1, true)]);
    assert_eq!(rig.run(0).len(), 1);
    rig
}

#[test]
fn results_wait_for_one_another_with_what_is_known_of_their_jobs() {
    let mut rig = with_a_result();
    rig.run(30);
    rig.writer.take(vec![ended(2, true)]);
    assert_eq!(rig.run(30), []);
    let note = Record::Noted { key: EntryKey(3), note: sample::note(&mut Rng::with_seed(1)) };
    let delivered = Record::Delivered(Receipt { key: EntryKey(1), what: Deliverable::Ack });
    rig.writer.take(vec![ended(3, true), note, delivered]);
    assert_eq!(rig.run(500), [(100, durable_ends(&[2, 3]))]);
    rig.writer.take(vec![ended(4, true)]);
    assert_eq!(rig.run(0), [(560, durable_ends(&[4]))]);
    rig.writer.take(vec![ended(5, true)]);
    let (reports, _) = rig.writer.finish(Time { mono: rig.now, tai: NOW });
    assert_eq!(reports, [durable_ends(&[5])]);
}

#[test]
fn nothing_else_waits_nor_does_what_is_too_much_for_one_commit() {
    for urgent in [vec![], vec![accepted(10)], vec![ended(3, false)], vec![ended(3, true), seen(1)]] {
        let mut rig = with_a_result();
        rig.writer.take(vec![ended(2, true)]);
        rig.writer.take(urgent);
        assert_eq!(rig.run(0).len(), 1);
        assert_eq!(rig.writer.waiting(), 0);
    }
    let mut rig = with_a_result();
    (0..25).for_each(|_| rig.writer.take((0..100).map(|_| ended(2, true)).collect()));
    rig.run(0);
    assert_eq!(rig.writer.waiting(), 500);
    rig.run(100);
    assert_eq!(rig.writer.store.tried[1..], [1000, 1000, 500]);
}

#[test]
fn one_commit_has_a_bounded_size_but_a_turn_is_never_split() {
    let mut rig = Rig::new();
    rig.writer.take((0..2500).map(seen).collect::<Vec<_>>());
    for key in 1..=3 {
        rig.writer.take((0..400).map(|n| if n == 0 { accepted(key) } else { seen(n) }).collect::<Vec<_>>());
    }
    let reports = rig.run(0);
    assert_eq!(reports, [(0, durable(&[1, 2])), (0, durable(&[3]))]);
    assert_eq!(rig.writer.store.tried, [2500, 800, 400]);
}

#[test]
fn records_that_cannot_be_written_are_reported_once_and_retried_ever_more_rarely() {
    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    rig.writer.take(vec![accepted(1)]);
    assert_eq!(rig.run(20_000), [(0, failed())]);
    // At 0, 0.25, 0.75, 1.75, 3.75, 7.75 and 15.75 s.
    assert_eq!(rig.writer.store.tried.len(), 7);
    assert_eq!(rig.writer.failure.as_ref().map(|failure| failure.since), Some(Duration::ZERO));
    assert_eq!(rig.run(10_000), []);
    rig.disk(Disk::Well);
    assert_eq!(rig.run(10_000), [(35_750, Report::Back), (35_750, durable(&[1]))]);
    assert_eq!(rig.writer.failure, None);
}

#[test]
fn notes_that_cannot_be_written_are_dropped_and_are_no_failure() {
    let noted = || Record::Noted { key: EntryKey(1), note: sample::note(&mut Rng::with_seed(1)) };
    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    rig.writer.take(vec![noted(), noted()]);
    assert_eq!(rig.run(1000), []);
    assert_eq!((rig.writer.load, &rig.writer.failure, &rig.writer.store.tried[..]), (0, &None, &[2][..]));
    rig.writer.take(vec![noted(), accepted(1)]);
    rig.writer.take(vec![noted()]);
    assert_eq!(rig.run(0), [(1000, failed())]);
    rig.disk(Disk::Well);
    assert_eq!(rig.run(1000), [(1250, Report::Back), (1250, durable(&[1]))]);
    assert_eq!((rig.writer.load, &rig.writer.store.tried[..]), (0, &[2, 3, 1][..]));
}

#[test]
fn new_records_are_tried_at_once_but_not_more_often_than_four_times_a_second() {
    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    rig.writer.take(vec![accepted(1)]);
    assert_eq!(rig.run(10_000).len(), 1);
    rig.writer.take(vec![accepted(2)]);
    assert_eq!(rig.run(0), [(10_000, failed())]);
    rig.writer.take(vec![accepted(3)]);
    rig.writer.take(vec![accepted(4)]);
    assert_eq!(rig.run(1000), [(10_250, failed())]);
    rig.disk(Disk::Well);
    rig.writer.take(vec![accepted(5)]);
    assert_eq!(rig.run(0), [(11_000, Report::Back), (11_000, durable(&[1, 2, 3, 4, 5]))]);
}

#[test]
fn upkeep_waits_for_a_quiet_second_but_not_for_ever() {
    let mut rig = Rig::new();
    rig.run(5000);
    let begun = rig.writer.store.upkeeps;
    for key in 1..=50 {
        rig.writer.take(vec![accepted(key)]);
        rig.run(100);
    }
    assert_eq!(rig.writer.store.upkeeps, begun);
    rig.run(1000);
    assert_eq!(rig.writer.store.upkeeps, begun + 1);
    for key in 1..=1000 {
        rig.writer.take(vec![accepted(key)]);
        rig.run(100);
    }
    let busy = rig.writer.store.upkeeps - begun;
    assert!((5..=20).contains(&busy), "{busy}");
    rig.run(1_000_000);
    let idle = rig.writer.store.upkeeps - begun - busy;
    // So that a journal that was deleted is noticed in seconds.
    assert!((90..=100).contains(&idle), "{idle}");
}

#[test]
fn at_the_end_all_is_written_without_patience() {
    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    rig.writer.take(vec![accepted(1)]);
    rig.run(0);
    rig.disk(Disk::Well);
    rig.writer.take(vec![accepted(2)]);
    let (reports, result) = rig.writer.finish(Time { mono: rig.now, tai: NOW });
    assert_eq!((reports, result), (vec![Report::Back, durable(&[1, 2])], Ok(())));
    assert_eq!(rig.writer.store.store.recover().unwrap().last_key, 2);

    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    let mut large = seen(1);
    if let Record::Seen { sender, .. } = &mut large {
        sender.identity = "x".repeat(50_000);
    }
    rig.writer.take(vec![accepted(1), large]);
    let (reports, result) = rig.writer.finish(Time { mono: rig.now, tai: NOW });
    assert_eq!(reports, [failed()]);
    // A large record counts for more where the queue is limited, but is one record for people.
    assert!(rig.writer.load > 10);
    assert_eq!(result.unwrap_err(), "records that were not written: 2: the disk is full");
}

#[test]
fn a_disk_that_fails_again_right_after_it_came_back_is_reported_again() {
    let mut rig = Rig::new();
    rig.disk(Disk::Fails);
    for key in 1..=3 {
        rig.writer.take((0..900).map(|n| if n == 0 { accepted(key) } else { seen(n) }).collect());
    }
    assert_eq!(rig.run(0), [(0, failed())]);
    rig.now += Duration::from_secs(1);
    rig.disk(Disk::Well);
    assert_eq!(rig.turn(), [Report::Back, durable(&[1])], "the others are too many for one commit");
    rig.disk(Disk::Fails);
    assert_eq!(rig.run(10_000).first(), Some(&(1000, failed())));
}

/// Random turns, faults and crashes: what is found is what some number of turns left, no less than was reported.
#[test]
fn a_crash_leaves_whole_turns_in_order_and_all_that_was_reported_as_durable() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let mut rig = Rig::new();
        let mut models = vec![Model::default()];
        let mut keys = 0;
        // How many turns are known to be durable: that of the last key that was reported.
        let mut safe = 0;
        let mut turn_of_key = vec![0];
        for _ in 0..rng.usize(1..40) {
            if rng.u8(..3) == 0 {
                let disks = [Disk::Well, Disk::Well, Disk::Fails, Disk::Lies];
                rig.disk(disks[rng.usize(..disks.len())]);
            }
            let mut records: Vec<Record> =
                (0..rng.usize(..4)).map(|_| sample::record(&mut rng, keys.max(1))).collect();
            // A command is accepted before other records of it.
            records.retain(|record| matches!(record, Record::Seen { .. } | Record::State { .. }) || keys > 0);
            if rng.bool() {
                keys += 1;
                turn_of_key.push(models.len());
                records.push(accepted(keys));
            }
            if !records.is_empty() {
                let mut model = models.last().unwrap().clone();
                records.iter().for_each(|record| model.keep(record));
                models.push(model);
                rig.writer.take(records);
            }
            let pause = rng.u64(..400);
            for (_, report) in rig.run(pause) {
                if let Report::Durable(records) = report {
                    let key = |record: &Awaited| match record {
                        Awaited::Accepted(key) | Awaited::Created(key) | Awaited::Ended(key) => *key,
                    };
                    let turns =
                        records.iter().map(|record| turn_of_key[usize::try_from(key(record).0).unwrap()]);
                    safe = safe.max(turns.max().unwrap());
                }
            }
        }
        let live = rng.bool();
        if live {
            rig.disk(Disk::Well);
            rig.run(10_000);
            assert_eq!((rig.writer.load, rig.writer.failure), (0, None), "seed {seed}");
            safe = models.len() - 1;
        }
        // Notes can be missed.
        let needed = |mut recovered: Recovered| {
            recovered.entries.iter_mut().for_each(|kept| kept.notes.clear());
            bits(&recovered)
        };
        let found = needed(rig.writer.store.store.recover().unwrap());
        let held = models.iter().skip(safe).any(|model| needed(model.recovered()) == found);
        assert!(held, "seed {seed}: none of the turns from {safe} on left this");
    }
}
