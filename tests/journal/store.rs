//! Records and what is read of them, in every kind of journal.

use std::collections::BTreeMap;

use fastrand::Rng;
use ocps::csc::command::{Sender, Via};
use ocps::csc::event::{Ack, ExitCode, JobResult, Phase, ResultObject};
use ocps::csc::history::Note;
use ocps::csc::id::{ClientId, EntryKey, JobId};
use ocps::csc::record::{
    AcceptedCommand, Completion, Deliverable, Receipt, Record, Recovered, RecoveredCommand, Work,
};
use ocps::csc::time::Tai;
use ocps::journal::Limits;
use ocps::journal::store::{Sqlite, Store, Upkeep};

use crate::kept::{File, Kept, suite};
use crate::sample::{self, NOW, OURS};

suite! {
    every_record_is_read_as_it_was_written_and_may_come_twice
    only_settled_commands_are_pruned_and_keys_never_go_back
    history_is_bounded_in_rows_and_bytes_and_pruned_in_small_parts
    a_clock_ten_years_ahead_erases_nothing_that_can_be_shown
    a_new_run_reads_the_last_thousand_and_all_that_is_unfinished
    commands_that_were_seen_are_kept_however_long_ago_but_only_so_many
    the_first_and_the_last_notes_are_kept_as_long_as_their_command
}

/// What the journal should hold, in words of its interface.
#[derive(Clone)]
pub(crate) struct Model {
    commands: BTreeMap<EntryKey, RecoveredCommand>,
    recovered: Recovered,
}

impl Default for Model {
    fn default() -> Self {
        Self { commands: BTreeMap::new(), recovered: Recovered { unsearched: true, ..Recovered::default() } }
    }
}

impl Model {
    pub(crate) fn keep(&mut self, record: &Record) {
        match record.clone() {
            Record::Accepted(mut entry) => {
                self.recovered.last_key = self.recovered.last_key.max(entry.key.0);
                if entry.sender.via != Via::Kafka {
                    entry.sender.via = Via::Socket(ClientId::GONE);
                }
                self.commands.entry(entry.key).or_insert(RecoveredCommand {
                    entry: *entry,
                    job_id: None,
                    suspected: None,
                    end: None,
                    result_delivered: false,
                    ack_delivered: false,
                    notes: Vec::new(),
                });
            }
            Record::Created { key, job_id } => self.change(key, |kept| kept.job_id = Some(job_id)),
            Record::Suspected { key, until } => self.change(key, |kept| kept.suspected = Some(until)),
            Record::Cleared { key } => self.change(key, |kept| kept.suspected = None),
            Record::Ended { key, end } => self.change(key, |kept| kept.end = Some(*end)),
            Record::Delivered(receipt) => self.change(receipt.key, |kept| match receipt.what {
                Deliverable::Result => kept.result_delivered = true,
                Deliverable::Ack => kept.ack_delivered = true,
            }),
            Record::Noted { key, note } => self.change(key, |kept| {
                kept.notes.retain(|other| other.place() != note.place());
                kept.notes.push(note);
                kept.notes.sort_by_key(|note| note.number);
            }),
            Record::Seen { sender, .. } => {
                let seen = &mut self.recovered.seen;
                seen.retain(|seen| id_of(seen) != id_of(&sender));
                seen.push(sender);
            }
            Record::Searched => self.recovered.unsearched = false,
            Record::State { state, override_name } => self.recovered.state = Some((state, override_name)),
        }
    }

    fn change(&mut self, key: EntryKey, change: impl FnOnce(&mut RecoveredCommand)) {
        if let Some(kept) = self.commands.get_mut(&key) {
            change(kept);
        }
    }

    /// What is to be recovered: with so few commands, all of them.
    pub(crate) fn recovered(&self) -> Recovered {
        Recovered { entries: self.commands.values().cloned().collect(), ..self.recovered.clone() }
    }
}

/// What makes a command the same.
fn id_of(sender: &Sender) -> (&str, i32, i32, u64) {
    (&sender.identity, sender.origin, sender.seq_num.0, sender.sent.0.to_bits())
}

/// Compares to the last bit, which `==` of floats does not.
#[track_caller]
pub(crate) fn assert_same(found: &Recovered, expected: &Recovered, seed: u64) {
    assert_eq!(found.entries.len(), expected.entries.len(), "seed {seed}");
    assert_eq!(bits(found), bits(expected), "seed {seed}");
}

pub(crate) fn bits(recovered: &Recovered) -> String {
    let mut recovered = recovered.clone();
    let mut text = String::new();
    let senders = recovered.entries.iter_mut().map(|kept| &mut kept.entry.sender);
    for sender in senders.chain(recovered.seen.iter_mut()) {
        text.push_str(&format!("{:x} ", sender.sent.0.to_bits()));
        sender.sent = Tai(0.0);
    }
    format!("{text}{recovered:#?}")
}

fn every_record_is_read_as_it_was_written_and_may_come_twice<K: Kept>() {
    for seed in 0..K::SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut kept = K::new(sample::limits());
        let mut model = Model::default();
        for _ in 0..rng.usize(1..20) {
            let records: Vec<Record> = (0..rng.usize(1..10)).map(|_| sample::record(&mut rng, 10)).collect();
            records.iter().for_each(|record| model.keep(record));
            kept.commit(&records);
            assert_same(&kept.read(), &model.recovered(), seed);
            if rng.bool() {
                // The same turn again, as after a commit of which it is not known whether it worked.
                kept.commit(&records);
                records.iter().for_each(|record| model.keep(record));
                assert_same(&kept.read(), &model.recovered(), seed);
            }
            if rng.u8(..16) == 0 {
                kept = kept.next_run(NOW);
                assert_same(&kept.read(), &model.recovered(), seed);
            }
        }
    }
}

/// Either file, or both, at any time: the open connection still reads them.
#[test]
fn a_journal_whose_files_are_deleted_is_copied_with_all_that_is_in_it() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let open = || Sqlite::open(&path, OURS, sample::limits(), NOW, None).unwrap().0;
        let mut store = open();
        let mut model = Model::default();
        for _ in 0..rng.usize(1..10) {
            let records: Vec<Record> = (0..rng.usize(1..8)).map(|_| sample::record(&mut rng, 10)).collect();
            records.iter().for_each(|record| model.keep(record));
            store.commit(&records.iter().collect::<Vec<_>>()).unwrap();
            if rng.u8(..4) == 0 {
                store.upkeep(NOW).unwrap();
            }
            let names = [&["journal.db"][..], &["journal.db-wal"], &["journal.db", "journal.db-wal"], &[]];
            for name in names[rng.usize(..4)] {
                std::fs::remove_file(dir.path().join(name)).unwrap();
            }
        }
        if rng.bool() {
            store.close().unwrap();
        } else {
            store.commit(&[]).unwrap();
            drop(store);
        }
        assert_same(&open().recover().unwrap(), &model.recovered(), seed);
    }
}

const DAY_S: f64 = 86_400.0;
const YEAR_S: f64 = 365.0 * DAY_S;

fn accepted(key: u64) -> Record {
    Record::Accepted(Box::new(sample::entry(&mut Rng::with_seed(key), EntryKey(key))))
}

fn ended(key: u64, days_ago: f64, has_result: bool) -> Record {
    let mut rng = Rng::with_seed(key);
    let job_id = sample::job_id(&mut rng);
    let known = ResultObject::Known { job_id: job_id.clone(), run_id: None, phase: Phase::Completed };
    let result = JobResult { job_id, exit_code: ExitCode::Completed, result: known };
    let at = Tai(NOW.0 - days_ago * DAY_S);
    let end = Completion { at, result: has_result.then_some(result), ack: Ack::Complete, problem: None };
    Record::Ended { key: EntryKey(key), end: Box::new(end) }
}

fn delivered(key: u64, what: Deliverable) -> Record {
    Record::Delivered(Receipt { key: EntryKey(key), what })
}

/// A command that ended and whose result and ack were delivered.
pub(crate) fn settled(key: u64, days_ago: f64) -> Vec<Record> {
    vec![
        accepted(key),
        ended(key, days_ago, true),
        delivered(key, Deliverable::Result),
        delivered(key, Deliverable::Ack),
    ]
}

/// Does all the upkeep that is due, and returns in how many turns.
fn keep_up<K: Kept>(kept: &mut K, now: Tai) -> usize {
    let turns = std::iter::repeat_with(|| kept.store().upkeep(now).unwrap());
    1 + turns.take_while(|upkeep| *upkeep == Upkeep::More).count()
}

fn keys<K: Kept>(kept: &K) -> Vec<u64> {
    kept.read().entries.iter().map(|entry| entry.entry.key.0).collect()
}

fn only_settled_commands_are_pruned_and_keys_never_go_back<K: Kept>() {
    let limits = Limits { history_least: 0, ..sample::limits() };
    let mut kept = K::new(limits);
    // However long ago.
    let suspected = |key| Record::Suspected { key: EntryKey(key), until: Tai(NOW.0 - 1e6) };
    kept.commit(&settled(1, 31.0));
    kept.commit(&settled(2, 29.0));
    kept.commit(&[accepted(3)]);
    kept.commit(&[accepted(4), ended(4, 31.0, true), delivered(4, Deliverable::Ack)]);
    kept.commit(&[accepted(5), ended(5, 31.0, true), delivered(5, Deliverable::Result)]);
    kept.commit(&[accepted(6), ended(6, 31.0, false), delivered(6, Deliverable::Ack)]);
    kept.commit(&settled(7, 31.0));
    kept.commit(&[suspected(7)]);
    kept.commit(&settled(8, 31.0));
    kept.commit(&[suspected(8), Record::Cleared { key: EntryKey(8) }]);
    kept.commit(&settled(9, 31.0));
    assert_eq!(keys(&kept), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    keep_up(&mut kept, NOW);
    assert_eq!(keys(&kept), [2, 3, 4, 5, 7]);
    assert_eq!(kept.read().last_key, 9);
    kept.commit(&settled(10, 31.0));
    keep_up(&mut kept, NOW);
    assert_eq!(keys(&kept), [2, 3, 4, 5, 7]);
    assert_eq!(kept.read().last_key, 10);
}

fn history_is_bounded_in_rows_and_bytes_and_pruned_in_small_parts<K: Kept>() {
    let limits = Limits { history_rows: 500, ..sample::limits() };
    let mut kept = K::new(limits);
    let records: Vec<Record> = (1..=1000).flat_map(|key| settled(key, 1.0 - key as f64 / 1e6)).collect();
    kept.commit(&records);
    assert_eq!(keep_up(&mut kept, NOW), 3);
    assert_eq!(keys(&kept), (501..=1000).collect::<Vec<_>>());

    let limits = Limits { history_bytes: 500_000, ..sample::limits() };
    let mut kept = K::new(limits);
    kept.commit(&records);
    kept.commit(&[accepted(1001)]);
    keep_up(&mut kept, NOW);
    let left = keys(&kept);
    assert!((200..700).contains(&left.len()), "{}", left.len());
    assert_eq!(left.last(), Some(&1001));
}

fn a_clock_ten_years_ahead_erases_nothing_that_can_be_shown<K: Kept>() {
    let mut kept = K::new(sample::limits());
    let records: Vec<Record> = (1..=1200).flat_map(|key| settled(key, 1.0)).collect();
    kept.commit(&records);
    let wrong = Tai(NOW.0 + 10.0 * YEAR_S);
    let mut kept = kept.next_run(wrong);
    // What ends while the clock is wrong is not in the way of what ends later.
    kept.commit(&settled(1201, -10.0 * 365.0));
    keep_up(&mut kept, wrong);
    let mut kept = kept.next_run(NOW);
    keep_up(&mut kept, NOW);
    assert_eq!(keys(&kept), (202..=1201).collect::<Vec<_>>());
}

fn a_new_run_reads_the_last_thousand_and_all_that_is_unfinished<K: Kept>() {
    let mut kept = K::new(sample::limits());
    kept.commit(&(1..=10).map(accepted).collect::<Vec<_>>());
    let records: Vec<Record> = (11..=1510).flat_map(|key| settled(key, 1.0 - key as f64 / 1e6)).collect();
    kept.commit(&records);
    let expected: Vec<u64> = (1..=10).chain(511..=1510).collect();
    assert_eq!(keys(&kept), expected);
    // What is known of a job that is being aborted, however old it is.
    let job_id = JobId::parse("old").unwrap();
    kept.commit(&[Record::Created { key: EntryKey(20), job_id: job_id.clone() }]);
    assert_eq!(keys(&kept), expected);
    let work = Work::Abort { job_id, url: "http://uws".into() };
    let entry = AcceptedCommand { work, ..sample::entry(&mut Rng::with_seed(0), EntryKey(1511)) };
    kept.commit(&[Record::Accepted(Box::new(entry))]);
    let expected: Vec<u64> = (1..=10).chain([20]).chain(511..=1511).collect();
    assert_eq!(keys(&kept), expected);
}

fn commands_that_were_seen_are_kept_however_long_ago_but_only_so_many<K: Kept>() {
    let mut kept = K::new(sample::limits());
    let sender = |number: u64| Sender { via: Via::Kafka, ..sample::sender(&mut Rng::with_seed(number)) };
    let seen = |number: u64, ago_s: f64| Record::Seen { sender: sender(number), at: Tai(NOW.0 - ago_s) };
    kept.commit(&[seen(1, 3601.0), seen(2, 3599.0), seen(1, 10.0), seen(3, 5.0)]);
    let identities = |numbers: &[u64]| numbers.iter().map(|n| sender(*n).identity).collect::<Vec<_>>();
    let found =
        |kept: &K| -> Vec<String> { kept.read().seen.into_iter().map(|sender| sender.identity).collect() };
    assert_eq!(found(&kept), identities(&[2, 1, 3]));
    keep_up(&mut kept, Tai(NOW.0 + YEAR_S));
    assert_eq!(found(&kept), identities(&[2, 1, 3]));
    kept.commit(&(10..11_010).map(|number| seen(number, 1.0)).collect::<Vec<_>>());
    assert_eq!(kept.read().seen.len(), 10_000);
    keep_up(&mut kept, NOW);
    let found = kept.read().seen;
    assert_eq!((found.len(), &found[9999].identity), (10_000, &sender(11_009).identity));
}

fn noted(key: u64, number: u32, about: &str) -> Record {
    let note = Note { number, about: about.into(), ..sample::note(&mut Rng::with_seed(key)) };
    Record::Noted { key: EntryKey(key), note }
}

fn the_first_and_the_last_notes_are_kept_as_long_as_their_command<K: Kept>() {
    let numbers = |kept: &K| -> Vec<u32> { kept.read().entries[0].notes.iter().map(|n| n.number).collect() };
    let mut kept = K::new(Limits { history_least: 0, ..sample::limits() });
    // One about a command that is not known is dropped.
    kept.commit(&[noted(1, 0, "early")]);
    kept.commit(&settled(1, 29.0));
    assert!(numbers(&kept).is_empty());
    kept.commit(&(0..250).map(|number| noted(1, number, "")).collect::<Vec<_>>());
    assert_eq!(numbers(&kept), (0..20).chain(170..250).collect::<Vec<_>>());
    let mut kept = kept.next_run(NOW);
    assert_eq!(numbers(&kept).len(), 100);
    keep_up(&mut kept, Tai(NOW.0 + 2.0 * DAY_S));
    assert!(keys(&kept).is_empty());
    kept.commit(&[accepted(1)]);
    assert!(numbers(&kept).is_empty());
    assert!(numbers(&kept.next_run(NOW)).is_empty());
}

#[test]
fn notes_for_which_there_is_no_room_are_left_out() {
    let mut kept = File::new(Limits { file_bytes: 1 << 20, ..sample::limits() });
    kept.commit(&[accepted(1), noted(1, 0, "short")]);
    kept.commit(&[noted(1, 1, &"x".repeat(2 << 20)), accepted(2)]);
    let found = kept.read().entries;
    assert_eq!((found.len(), found[0].notes.len()), (2, 1));
}
