//! Deterministic simulation: the real turn with the core, the real lanes and the real journal under virtual time, in a
//! world that does them harm.
//!
//! Each seed is a run: a phase with faults (of the service, the disk, Kafka, the clock, and crashes anywhere), then
//! a calm one in which everything must come to its end. What must hold is in [`rules`] and [`verdict`], and where
//! the world is to blame for what cannot hold, in [`excuses`].
//!
//! In one run of four the journal is in a topic of Kafka, whose brokers are in [`cluster`]; in half of these another
//! instance stands by, and takes over also from one that only sleeps, or is not heard.
//!
//! `make simulate SEEDS=10000` runs many; `OCPS_SEED=42 cargo test --test simulation` runs one and shows its trace
//! if it fails.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]

#[path = "../support/core_settings.rs"]
#[allow(missing_docs, unreachable_pub, reason = "it is shared with other tests")]
mod core_settings;
#[path = "../support/reply.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "it is shared with other tests")]
mod reply;

mod accepted;
mod cluster;
mod crowd;
mod excuses;
mod lines;
mod plan;
mod polling;
mod process;
mod rules;
mod sending;
mod service;
mod start;
mod trace;
mod verdict;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, thread};

use trace::Trace;
use verdict::Counts;
use world::World;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 150;
/// Lines of the trace that are shown of one seed among many.
const LINES: usize = 60;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn seeds() -> Range<u64> {
    match number("OCPS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OCPS_SEEDS").unwrap_or(SEEDS),
    }
}

/// What several seeds came to.
#[derive(Default)]
struct Sum {
    counts: Counts,
    excused: BTreeMap<&'static str, u64>,
    /// The lowest seed that failed, its trace and its panic.
    failure: Option<(u64, Trace, Box<dyn Any + Send>)>,
}

impl Sum {
    /// Runs seeds, the next of which is there, until one has failed below it. All below the one that is shown are run.
    fn run(sum: &Mutex<Self>, next: &AtomicU64, seeds: &Range<u64>, lines: usize) {
        let lock = || sum.lock().unwrap();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_failed = lock().failure.as_ref().is_some_and(|(failed, ..)| *failed < seed);
            if seed >= seeds.end || is_failed {
                return;
            }
            let mut world = World::new(seed, Trace::new(lines));
            let result = catch_unwind(AssertUnwindSafe(|| world.run()));
            let polling = &world.rules.polling;
            world.rules.counts.longest = [polling.longest_unasked, polling.longest_unnoticed];
            let mut sum = lock();
            match result {
                Ok(()) => {
                    sum.counts.runs += 1;
                    sum.counts.add(&world.rules.counts);
                    for (excuse, count) in &world.rules.excused {
                        *sum.excused.entry(*excuse).or_default() += count;
                    }
                }
                Err(panic) if sum.failure.as_ref().is_none_or(|(failed, ..)| seed < *failed) => {
                    sum.failure = Some((seed, world.trace, panic));
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn no_job_is_ever_lost() {
    let seeds = seeds();
    let lines = if seeds.end - seeds.start == 1 { usize::MAX } else { LINES };
    let (sum, next) = (Mutex::default(), AtomicU64::new(seeds.start));
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| Sum::run(&sum, &next, &seeds, lines));
        }
    });
    let Sum { counts, excused, failure } = sum.into_inner().unwrap();
    if let Some((seed, trace, panic)) = failure {
        trace.show();
        eprintln!("again: OCPS_SEED={seed} cargo test --no-default-features --test simulation no_job");
        resume_unwind(panic);
    }
    println!("{counts:#?}\n{excused:#?}");
    if seeds.end - seeds.start >= SEEDS {
        counts.are_enough();
    }
}

#[test]
fn the_same_seed_goes_the_same_way() {
    let run = |seed| {
        let mut world = World::new(seed, Trace::new(LINES));
        world.run();
        world.trace.sum()
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(7), run(8));
}
