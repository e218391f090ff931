//! What ocps costs, beside the bare limit of the machine: the same work with the same libraries, and no logic.
//!
//! `make bench` measures all, `make bench ONLY=lag` what is named (several with commas), `FULL=1` all combinations of `lag`
//! and `limited`, `POLL=each` with that `[uws] poll`, `PROGRAM=PATH` another build than this one. The ratios are what counts: absolute times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]
#![allow(dead_code, missing_docs, unreachable_pub, clippy::wildcard_enum_match_arm)]

mod bare;
mod commands;
mod daemon;
#[cfg(feature = "kafka")]
#[path = "../kafka/foreign.rs"]
mod foreign;
mod genuine;
#[path = "../daemon/harness.rs"]
mod harness;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
#[path = "../kafka/rig.rs"]
mod kafka_rig;
mod lag;
mod polls;
#[cfg(feature = "redis")]
mod rapid;
#[cfg(feature = "redis")]
#[path = "../redis/rig.rs"]
mod redis_rig;
#[cfg(feature = "kafka")]
#[path = "../kafka/registry.rs"]
mod registry;
mod report;
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, exit};
use std::time::Instant;

use daemon::{program, variable};
use report::Report;
#[cfg(feature = "redis")]
use support::port;

type Measure = fn(&mut Report);

/// The measurements, by the names that `ONLY` takes.
const BENCHES: &[(&str, Measure)] = &[
    ("commands", commands::in_progress),
    #[cfg(feature = "kafka")]
    ("kafka", kafka::in_progress),
    ("executes", commands::executes),
    ("lag", lag::lag),
    ("burst", lag::burst),
    ("polls", polls::polling),
    ("hang", lag::hang),
    ("resources", polls::resources),
    ("limited", lag::limited),
    ("genuine", genuine::run),
    #[cfg(feature = "redis")]
    ("redis", rapid::run),
];

fn main() {
    let only = variable("ONLY").unwrap_or_default();
    let wanted: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != *name)) {
        let known: Vec<&str> = BENCHES.iter().map(|(known, _)| *known).collect();
        eprintln!("ONLY={unknown}: there is no such measurement; there are {}", known.join(", "));
        exit(2);
    }
    let begun = Instant::now();
    let mut report = Report::default();
    for (name, run) in BENCHES {
        if wanted.is_empty() || wanted.contains(name) {
            run(&mut report);
        }
    }
    let mut machine = machine();
    machine.push(("measured in", format!("{:.0} s", begun.elapsed().as_secs_f64())));
    report.finish(&machine, &Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench.json"));
}

/// What the figures are of.
fn machine() -> Vec<(&'static str, String)> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = Command::new(program()).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap().lines().collect::<Vec<_>>().join(", ");
    vec![
        ("ocps", version),
        ("processor", format!("{} x {}", cores, model.trim_start_matches([':', ' ', '\t']))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load at the end", read("/proc/loadavg").split(' ').take(2).collect::<Vec<_>>().join(" ")),
    ]
}

/// A directory on the file system of the build: a journal in memory would cost nothing.
fn target_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
