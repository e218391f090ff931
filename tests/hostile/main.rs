//! Hostile input: whatever comes from outside, the daemon does not panic, hang, or take much memory.
//!
//! Each test reads the samples of a target as they are, then thousands of mutations of them, one for each seed.
//! A failure names the seed, and keeps the input in a file:
//! * `OCPS_SEED=42 cargo test --test hostile line` reads the mutation of that seed only;
//! * `OCPS_INPUT=FILE cargo test --test hostile line` reads a file, such as one that the fuzzer found;
//! * `OCPS_CASES=100000 cargo test --test hostile` reads more.
//!
//! Where the whole process dies (a stack overflow, no memory), `target/tmp/hostile-*.case` have what was being read.
//! `make fuzz` gives the same targets to libFuzzer.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]

mod mutate;
mod targets;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{env, fs, process, thread};

use targets::{Cost, Target};

/// What counts as a hang: far longer than any input may take, so that a busy machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most work for one input: a second, were the program optimized.
const TIME_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });

macro_rules! tests {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            read(stringify!($name));
        })*

        pub(crate) const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

tests!(line, values, socket, component, settings, client_yaml, uws, journal, rows);

#[cfg(feature = "kafka")]
mod kafka {
    use super::read;

    tests!(message, schema, registry);
}

#[test]
fn every_target_has_a_test() {
    #[cfg(feature = "kafka")]
    let more = kafka::TESTED;
    #[cfg(not(feature = "kafka"))]
    let more: &[&str] = &[];
    let tested: Vec<&str> = TESTED.iter().chain(more).copied().collect();
    let targets: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(tested, targets);
}

/// What to do in place of all: a seed or a file.
enum Wish {
    Seeds(std::ops::Range<u64>),
    Input(PathBuf),
}

fn wish(target: &Target) -> Wish {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (env::var_os("OCPS_INPUT"), number("OCPS_SEED")) {
        (Some(file), _) => Wish::Input(file.into()),
        (None, Some(seed)) => Wish::Seeds(seed..seed + 1),
        (None, None) => Wish::Seeds(0..number("OCPS_CASES").unwrap_or(target.cases)),
    }
}

/// Reads all inputs of a target, and watches that each comes to an end.
fn read(name: &'static str) {
    let target = Target::find(name).unwrap();
    let (begun, beginning) = mpsc::channel();
    let reader = thread::spawn(move || read_all(target, &begun));
    let mut current = String::new();
    loop {
        match beginning.recv_timeout(PATIENCE) {
            Ok(next) => current = next,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("{name}: {current} hangs: {}", replay(name, &current));
                process::exit(101);
            }
        }
    }
    if let Err(panic) = reader.join() {
        resume_unwind(panic);
    }
}

fn read_all(target: &Target, begun: &mpsc::Sender<String>) {
    let corpus = (target.seeds)();
    let mut worst = Cost::default();
    let mut case = |what: String, data: &[u8]| {
        let cost = read_one(target, what, data, begun);
        worst = Cost { time: worst.time.max(cost.time), memory: worst.memory.max(cost.memory) };
    };
    match wish(target) {
        Wish::Input(path) => case(path.display().to_string(), &fs::read(&path).unwrap()),
        Wish::Seeds(seeds) => {
            for (n, sample) in corpus.iter().enumerate() {
                case(format!("sample {n}"), sample);
            }
            for seed in seeds {
                case(format!("OCPS_SEED={seed}"), &mutate::input(seed, &corpus));
            }
        }
    }
    println!("{}: at most {:?} and {} bytes of memory for one input", target.name, worst.time, worst.memory);
}

fn read_one(target: &Target, what: String, data: &[u8], begun: &mpsc::Sender<String>) -> Cost {
    let file =
        |kind: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}.{kind}", target.name));
    thread_local! {
        static CASE: std::cell::RefCell<Option<File>> = const { std::cell::RefCell::new(None) };
    }
    CASE.with_borrow_mut(|case| {
        let case = case.get_or_insert_with(|| File::create(file("case")).unwrap());
        case.write_all_at(format!("{what:40}\n").as_bytes(), 0).unwrap();
    });
    begun.send(what.clone()).unwrap();
    match catch_unwind(AssertUnwindSafe(|| target.run(data, TIME_MAX))) {
        Ok(cost) => cost,
        Err(panic) => {
            fs::write(file("input"), data).unwrap();
            eprintln!("{}: {what} found this: {}", target.name, replay(target.name, &what));
            eprintln!("the input, {} bytes, is in {}", data.len(), file("input").display());
            eprintln!("it begins with {:?}", String::from_utf8_lossy(data.get(..500).unwrap_or(data)));
            resume_unwind(panic);
        }
    }
}

fn replay(name: &str, what: &str) -> String {
    let what = if what.starts_with("OCPS_SEED") { what } else { "OCPS_CASES=0" };
    format!("{what} cargo test --test hostile {name}")
}
