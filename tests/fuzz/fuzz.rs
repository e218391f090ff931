//! The targets of `tests/hostile` for libFuzzer. `OCPS_TARGET` names one; its samples are written to the directory
//! `OCPS_SAMPLES`, to begin with. Without it the names of all are printed. See `make fuzz`.
#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, path, process, thread};

use libfuzzer_sys::fuzz_target;

#[path = "../hostile/targets/mod.rs"]
#[allow(dead_code, reason = "how many cases the tests read")]
mod targets;

use targets::{TARGETS, Target};

/// Most work for one input.
const TIME_MAX: Duration = Duration::from_secs(1);

/// How long threads that an input began are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        env::var("OCPS_TARGET").ok().and_then(|name| Target::find(&name)).unwrap_or_else(|| {
            for target in TARGETS {
                println!("{}", target.name);
            }
            process::exit(i32::from(env::var_os("OCPS_TARGET").is_some()));
        })
    })
}

fn write_samples() {
    let samples = (target().seeds)();
    let Some(dir) = env::var_os("OCPS_SAMPLES").map(path::PathBuf::from) else { return };
    for (n, sample) in samples.iter().enumerate() {
        fs::write(dir.join(format!("sample-{n}")), sample).expect("the samples can be written");
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Waits until there are so many threads again: what one that is just ending still holds looks like a leak.
fn settle(before: usize) {
    let begin = Instant::now();
    while threads() > before && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_micros(20));
    }
}

fuzz_target!(init: write_samples(), |data: &[u8]| {
    let before = threads();
    target().run(data, TIME_MAX);
    settle(before);
});
