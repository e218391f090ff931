//! Power loss and damage: what was committed is found, or the file is refused; never a panic, never a hang.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ocps::csc::id::EntryKey;
use ocps::csc::record::Record;
use ocps::journal::OpenError;
use ocps::journal::store::{Sqlite, Store};

use crate::open::open;
use crate::sample::{self, NOW, OURS};
use crate::store::{Model, bits};

/// The files of a journal, as a machine that lost its power may find them.
struct Image {
    main: Vec<u8>,
    wal: Vec<u8>,
}

impl Image {
    fn of(path: &Path) -> Self {
        Self { main: fs::read(path).unwrap(), wal: fs::read(wal(path)).unwrap_or_default() }
    }

    fn restore(&self, path: &Path) {
        fs::write(path, &self.main).unwrap();
        fs::write(wal(path), &self.wal).unwrap();
    }
}

fn wal(path: &Path) -> std::path::PathBuf {
    path.with_file_name("journal.db-wal")
}

/// A turn: a command is accepted before other records of it.
fn turn(rng: &mut Rng, keys: &mut u64) -> Vec<Record> {
    *keys += 1;
    let mut records = vec![Record::Accepted(Box::new(sample::entry(rng, EntryKey(*keys))))];
    records.extend((0..rng.usize(..6)).map(|_| sample::record(rng, *keys)));
    records
}

/// Copies of both files after any commit, with the last bytes of the `-wal` file cut off anywhere: what a disk may hold
/// that was writing the next commits and did not finish.
#[test]
fn after_a_power_loss_all_is_there_that_was_committed_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let (mut store, _) = open(&path).unwrap();
    let mut rng = Rng::with_seed(4);
    let mut keys = 0;
    let mut model = Model::default();
    let mut models = vec![model.clone()];
    // After each commit: how long the `-wal` file was, and the files.
    let mut images = vec![Image::of(&path)];
    for number in 0..40 {
        let records = turn(&mut rng, &mut keys);
        records.iter().for_each(|record| model.keep(record));
        store.commit(&records.iter().collect::<Vec<_>>()).unwrap();
        models.push(model.clone());
        images.push(Image::of(&path));
        if number % 15 == 14 {
            store.upkeep(NOW).unwrap();
            images.pop();
            images.push(Image::of(&path));
        }
    }
    drop(store);
    let expected: Vec<String> = models.iter().map(|model| bits(&model.recovered())).collect();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = other.join("journal.db");
    for (number, image) in images.iter().enumerate() {
        image.restore(&other);
        let (_, recovered) = open(&other).unwrap();
        assert_eq!(bits(&recovered), expected[number], "commit {number}");
    }
    for _ in 0..300 {
        // The main file as it was after some commit, and the `-wal` file of a later one without a checkpoint between
        // them, of which anything after the first may be missing or wrong.
        let early = rng.usize(..images.len());
        let late =
            (early..images.len()).take_while(|n| images[*n].main == images[early].main).last().unwrap();
        let mut image = Image { main: images[early].main.clone(), wal: images[late].wal.clone() };
        let kept = images[early].wal.len().min(image.wal.len());
        let safe = if images[late].wal.len() < images[early].wal.len() { late } else { early };
        let cut = rng.usize(kept..=image.wal.len());
        if rng.bool() {
            image.wal.truncate(cut);
        } else {
            image.wal[cut..].iter_mut().for_each(|byte| *byte = rng.u8(..));
        }
        image.restore(&other);
        let (_, recovered) = open(&other).unwrap();
        let found = bits(&recovered);
        let position = expected.iter().position(|expected| *expected == found);
        assert!(position.is_some_and(|position| position >= safe), "{early} {late} {cut}: {position:?}");
    }
}

#[test]
fn damaged_files_are_read_or_refused_quickly_and_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let (mut store, _) = open(&path).unwrap();
    let mut rng = Rng::with_seed(5);
    let mut keys = 0;
    for _ in 0..40 {
        let records = turn(&mut rng, &mut keys);
        store.commit(&records.iter().collect::<Vec<_>>()).unwrap();
        if keys == 30 {
            store.upkeep(NOW).unwrap();
        }
    }
    let image = Image::of(&path);
    drop(store);
    let (mut read, mut refused) = (0, 0);
    let rounds = std::env::var("OCPS_DAMAGE_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    for seed in 0..rounds {
        let mut rng = Rng::with_seed(seed);
        let mut bad = Image { main: image.main.clone(), wal: image.wal.clone() };
        if rng.u8(..4) == 0 {
            bad.wal.clear();
        }
        for _ in 0..rng.usize(1..4) {
            let file = if rng.u8(..4) == 0 { &mut bad.wal } else { &mut bad.main };
            mutate(file, &mut rng);
        }
        bad.restore(&path);
        let begun = Instant::now();
        match Sqlite::open(&path, OURS, sample::limits(), NOW, None) {
            Ok((mut store, _)) => {
                read += 1;
                // What is damaged may show later; then each use fails, without a panic.
                let records = turn(&mut rng, &mut keys);
                let _ = store.commit(&records.iter().collect::<Vec<_>>());
                let _ = store.upkeep(NOW);
                let _ = store.recover();
                let _ = store.close();
            }
            Err(OpenError::Refused(_)) => refused += 1,
            Err(OpenError::Unusable(error)) => panic!("seed {seed}: {error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "seed {seed} took {:?}", begun.elapsed());
    }
    eprintln!("{read} were read, {refused} refused");
    assert!(read > rounds / 20 && refused > rounds / 10, "{read} were read, {refused} refused");
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    // Where the structure is: the beginnings of the file and of its pages are hit more often.
    let at = match rng.u8(..4) {
        0 => rng.usize(..bytes.len().min(100)),
        1 => (rng.usize(..bytes.len()) / 4096 * 4096 + rng.usize(..16)).min(bytes.len() - 1),
        _ => rng.usize(..bytes.len()),
    };
    match rng.u8(..6) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << rng.u8(..8),
        2 => bytes[at] = rng.u8(..),
        3 => {
            let end = (at + rng.usize(1..5000)).min(bytes.len());
            bytes[at..end].fill(rng.u8(..));
        }
        4 => {
            let from = rng.usize(..bytes.len());
            let length = rng.usize(1..5000).min(bytes.len() - at.max(from));
            bytes.copy_within(from..from + length, at);
        }
        _ => {
            let more = vec![rng.u8(..); rng.usize(1..5000)];
            bytes.splice(at..at, more);
        }
    }
}
