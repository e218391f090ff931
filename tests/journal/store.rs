//! Records and what is read of them.

use std::collections::BTreeMap;

use fastrand::Rng;
use ocps::csc::command::{Sender, Via};
use ocps::csc::id::{ClientId, EntryKey};
use ocps::csc::record::{Kept, Owed, Record, Recovered};
use ocps::csc::time::Tai;
use ocps::journal::store::{Sqlite, Store};

use crate::sample::{self, NOW, OURS};

/// What the journal should hold, in words of its interface.
#[derive(Clone, Default)]
pub(crate) struct Model {
    commands: BTreeMap<EntryKey, Kept>,
    seen: Vec<(Sender, Tai)>,
    recovered: Recovered,
}

impl Model {
    pub(crate) fn keep(&mut self, record: &Record) {
        match record.clone() {
            Record::Accepted(mut entry) => {
                self.recovered.last_key = self.recovered.last_key.max(entry.key.0);
                if entry.sender.via != Via::Kafka {
                    entry.sender.via = Via::Socket(ClientId::GONE);
                }
                self.commands.entry(entry.key).or_insert(Kept {
                    entry: *entry,
                    job_id: None,
                    suspected: None,
                    end: None,
                    said_result: false,
                    said_ack: false,
                });
            }
            Record::Created { key, job_id } => self.change(key, |kept| kept.job_id = Some(job_id)),
            Record::Suspected { key, until } => self.change(key, |kept| kept.suspected = Some(until)),
            Record::Ended { key, end } => self.change(key, |kept| kept.end = Some(*end)),
            Record::Said(receipt) => self.change(receipt.key, |kept| match receipt.what {
                Owed::Result => kept.said_result = true,
                Owed::Ack => kept.said_ack = true,
            }),
            Record::Seen { sender, at } => {
                self.seen.retain(|(seen, _)| id_of(seen) != id_of(&sender));
                self.seen.push((sender, at));
            }
            Record::State { state, override_name } => self.recovered.state = Some((state, override_name)),
        }
    }

    fn change(&mut self, key: EntryKey, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.commands.get_mut(&key) {
            change(kept);
        }
    }

    /// What is to be recovered: with so few commands, all of them.
    pub(crate) fn recovered(&self, now: Tai) -> Recovered {
        let mut recovered = self.recovered.clone();
        recovered.entries = self.commands.values().cloned().collect();
        recovered.seen = self.seen.iter().filter(|(_, at)| at.0 > now.0 - 3600.0).cloned().collect();
        recovered
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
    for sender in senders.chain(recovered.seen.iter_mut().map(|(sender, _)| sender)) {
        text.push_str(&format!("{:x} ", sender.sent.0.to_bits()));
        sender.sent = Tai(0.0);
    }
    format!("{text}{recovered:#?}")
}

#[test]
fn every_record_is_read_as_it_was_written_and_may_come_twice() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut store = Sqlite::in_memory(OURS, sample::limits()).unwrap();
        let mut model = Model::default();
        for _ in 0..rng.usize(1..20) {
            let records: Vec<Record> = (0..rng.usize(1..10)).map(|_| sample::record(&mut rng, 10)).collect();
            records.iter().for_each(|record| model.keep(record));
            store.commit(&records.iter().collect::<Vec<_>>()).unwrap();
            assert_same(&store.recover(NOW).unwrap(), &model.recovered(NOW), seed);
            if rng.bool() {
                // The same turn again, as after a commit of which it is not known whether it worked.
                let twice: Vec<&Record> = records.iter().collect();
                store.commit(&twice).unwrap();
                records.iter().for_each(|record| model.keep(record));
                assert_same(&store.recover(NOW).unwrap(), &model.recovered(NOW), seed);
            }
        }
    }
}
