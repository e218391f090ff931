//! What every journal does alike, wherever it is kept: the tests of `store` run with each of these.

use ocps::csc::record::{Record, Recovered};
use ocps::csc::time::Tai;
use ocps::journal::Limits;
use ocps::journal::store::{Sqlite, Store};
use tempfile::TempDir;

use crate::sample::{NOW, OURS};

pub(crate) trait Kept: Sized {
    /// How many seeds a random test takes: each of its commits takes time.
    const SEEDS: u64;
    type Store: Store;

    /// A new one.
    fn new(limits: Limits) -> Self;

    fn store(&mut self) -> &mut Self::Store;

    /// What a run that began now would be given.
    fn read(&self) -> Recovered;

    /// The process was killed, and the next run begins.
    fn next_run(self, now: Tai) -> Self;

    fn commit(&mut self, records: &[Record]) {
        self.store().commit(&records.iter().collect::<Vec<_>>()).unwrap();
    }
}

/// In a file.
pub(crate) struct File {
    dir: TempDir,
    limits: Limits,
    store: Sqlite,
}

impl File {
    fn open(dir: TempDir, limits: Limits, now: Tai) -> Self {
        let (store, _) = Sqlite::open(&dir.path().join("journal.db"), OURS, limits, now, None).unwrap();
        Self { dir, limits, store }
    }
}

impl Kept for File {
    const SEEDS: u64 = 50;
    type Store = Sqlite;

    fn new(limits: Limits) -> Self {
        Self::open(tempfile::tempdir().unwrap(), limits, NOW)
    }

    fn store(&mut self) -> &mut Sqlite {
        &mut self.store
    }

    fn read(&self) -> Recovered {
        self.store.recover().unwrap()
    }

    fn next_run(self, now: Tai) -> Self {
        let Self { dir, limits, store } = self;
        drop(store);
        Self::open(dir, limits, now)
    }
}

/// Runs each test with each of them.
macro_rules! suite {
    ($($name:ident)*) => {
        mod file {
            $(#[test] fn $name() { super::$name::<crate::kept::File>(); })*
        }

        #[cfg(feature = "kafka")]
        mod topic {
            $(#[test] fn $name() { super::$name::<crate::topic::Topic>(); })*
        }
    };
}
pub(crate) use suite;
