//! What a journal that was deleted is written anew from: all that a next life must know, in memory.

use std::collections::{BTreeMap, VecDeque};

use crate::csc::command::Sender;
use crate::csc::id::EntryKey;
use crate::csc::record::{Kept, Owed, Receipt, Record, Recovered};
use crate::csc::state::SummaryState;
use crate::csc::time::Tai;

/// Most commands that were seen; there are as many in the file.
const SEEN_MAX: usize = 10_000;

/// The content of a journal, but for the commands that are over and done with.
#[derive(Debug, Default)]
pub(super) struct Live {
    commands: BTreeMap<EntryKey, Kept>,
    /// Commands that were seen, oldest first.
    seen: VecDeque<(Sender, Tai)>,
    state: Option<(SummaryState, String)>,
    pub(super) last_key: u64,
    pub(super) is_searched: bool,
    /// How many lives the journal has had.
    pub(super) lives: i64,
}

impl Live {
    /// What the journal holds at the start.
    pub(super) fn new(recovered: &Recovered, lives: i64, now: Tai) -> Self {
        let mut live = Self {
            commands: recovered.entries.iter().map(|kept| (kept.entry.key, kept.clone())).collect(),
            seen: recovered.seen.iter().map(|sender| (sender.clone(), now)).collect(),
            state: recovered.state.clone(),
            last_key: recovered.last_key,
            is_searched: !recovered.unsearched,
            lives,
        };
        live.commands.retain(|_, kept| !is_settled(kept));
        live
    }

    /// Commands that have not ended, owe something, or are suspected.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// The journal holds this too now.
    pub(super) fn keep(&mut self, record: &Record) {
        match record {
            Record::Accepted(entry) => {
                // One that comes again has not been settled: it is in the same commit, which was tried twice.
                self.last_key = self.last_key.max(entry.key.0);
                self.commands.entry(entry.key).or_insert_with(|| Kept {
                    entry: (**entry).clone(),
                    job_id: None,
                    suspected: None,
                    end: None,
                    said_result: false,
                    said_ack: false,
                });
            }
            Record::Created { key, job_id } => {
                self.change(*key, |kept| kept.job_id = Some(job_id.clone()));
            }
            Record::Suspected { key, until } => self.change(*key, |kept| kept.suspected = Some(*until)),
            Record::Cleared { key } => self.change(*key, |kept| kept.suspected = None),
            Record::Ended { key, end } => self.change(*key, |kept| kept.end = Some((**end).clone())),
            Record::Said(Receipt { key, what: Owed::Result }) => {
                self.change(*key, |kept| kept.said_result = true);
            }
            Record::Said(Receipt { key, what: Owed::Ack }) => self.change(*key, |kept| kept.said_ack = true),
            Record::Seen { sender, at } => {
                self.seen.push_back((sender.clone(), *at));
                if self.seen.len() > SEEN_MAX {
                    self.seen.pop_front();
                }
            }
            Record::Searched => self.is_searched = true,
            Record::State { state, override_name } => self.state = Some((*state, override_name.clone())),
        }
    }

    fn change(&mut self, key: EntryKey, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.commands.get_mut(&key) {
            change(kept);
            if is_settled(kept) {
                self.commands.remove(&key);
            }
        }
    }

    /// The records that lead to this content.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (key, kept) in &self.commands {
            let Kept { entry, job_id, suspected, end, said_result, said_ack } = kept.clone();
            let key = *key;
            let said = |what| Record::Said(Receipt { key, what });
            records.push(Record::Accepted(Box::new(entry)));
            records.extend(job_id.map(|job_id| Record::Created { key, job_id }));
            records.extend(suspected.map(|until| Record::Suspected { key, until }));
            records.extend(end.map(|end| Record::Ended { key, end: Box::new(end) }));
            records.extend(said_result.then(|| said(Owed::Result)));
            records.extend(said_ack.then(|| said(Owed::Ack)));
        }
        records.extend(self.seen.iter().cloned().map(|(sender, at)| Record::Seen { sender, at }));
        records.extend(self.is_searched.then_some(Record::Searched));
        let state = self.state.clone();
        records.extend(state.map(|(state, override_name)| Record::State { state, override_name }));
        records
    }
}

/// Whether a next life need not know of it.
fn is_settled(kept: &Kept) -> bool {
    let owes_nothing = |has_result: bool| kept.said_ack && (kept.said_result || !has_result);
    kept.suspected.is_none() && kept.end.as_ref().is_some_and(|end| owes_nothing(end.result.is_some()))
}
