//! What it costs to follow jobs: requests, processor time, memory; and what a daemon needs that has nothing to do.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::bare::{Bare, cost};
use crate::daemon::{Daemon, polls, program, variable};
use crate::report::{Figure, Report};
use crate::service::Service;
use crate::target_dir;

/// Intervals over which it is measured.
const INTERVALS: u32 = 3;
/// How long a daemon without jobs is watched.
const IDLE: Duration = Duration::from_secs(10);

/// Jobs, and their poll_interval.
const CASES: [(usize, u64); 3] = [(100, 1), (1000, 2), (10_000, 5)];

pub fn polling(report: &mut Report) {
    report.section("d. Following jobs, at a service without latency");
    let mut singly = [f64::NAN; CASES.len()];
    for poll in polls() {
        for ((jobs, interval), singly) in CASES.into_iter().zip(&mut singly) {
            let (service, interval) = (Service::start(), Duration::from_secs(interval));
            let daemon = Daemon::start(&service.url(), interval.as_secs_f64(), poll);
            daemon.follow(jobs);
            daemon.watch.begin();
            let (counts, before, begun) = (service.counts(), daemon.usage(), Instant::now());
            thread::sleep(INTERVALS * interval);
            let rounds = begun.elapsed().as_secs_f64() / interval.as_secs_f64();
            let after = service.counts();
            let [cpu, switches] = daemon.since(&before);
            let (each, list) = bare_costs(&service, jobs);
            let bare = if poll == "list" { list } else { each };
            let of_job = cpu / rounds / jobs as f64;
            if poll != "list" {
                *singly = of_job;
            }
            let figures: Vec<Figure> = vec![
                ("polls/round", (after.gets - counts.gets) as f64 / rounds),
                ("lists/round", (after.lists - counts.lists) as f64 / rounds),
                ("CPU us/job and round", of_job * 1e6),
                ("bare CPU us", bare * 1e6),
                ("ratio", of_job / bare),
                ("ratio to each", of_job / *singly),
                ("CPU %", cpu / rounds / interval.as_secs_f64() * 100.0),
                ("switches/s", switches / rounds / interval.as_secs_f64()),
                ("memory MiB", daemon.memory()),
                ("threads", daemon.threads() as f64),
                ("heartbeat gap s", daemon.watch.gap()),
            ];
            let how = if poll.is_empty() { "each (no [uws] poll)" } else { poll };
            report.row(format!("{how}, {jobs} jobs, poll_interval {} s", interval.as_secs()), figures);
        }
    }
}

/// Seconds of the processor for each job, by a poll for each and by list.
fn bare_costs(service: &Service, jobs: usize) -> (f64, f64) {
    let dir = target_dir();
    let bare = Bare::new(&service.url(), dir.path());
    let polled = jobs.min(1000);
    let each = cost(|| (0..polled).for_each(|job| drop(bare.get(job)))) / polled as f64;
    (each, cost(|| (0..INTERVALS).for_each(|_| drop(bare.list()))) / f64::from(INTERVALS) / jobs as f64)
}

pub fn resources(report: &mut Report) {
    report.section("f. Without Kafka and without jobs");
    let programs =
        [("as it is built", Some(program())), ("small build", variable("SMALL").map(PathBuf::from))];
    for (name, program) in programs {
        let Some(program) = program else {
            report.note(
                "SMALL=PATH also measures a program that was built with --no-default-features".to_owned(),
            );
            continue;
        };
        let service = Service::start();
        let daemon = Daemon::start_as(&program, &service.url(), 5.0, "", &["--no-kafka"], |command| command);
        daemon.settle();
        daemon.watch.begin();
        let (before, begun) = (daemon.usage(), Instant::now());
        thread::sleep(IDLE);
        let took = begun.elapsed().as_secs_f64();
        let [cpu, switches] = daemon.since(&before);
        let figures = vec![
            ("start to ENABLED ms", daemon.started.as_secs_f64() * 1e3),
            ("memory MiB", daemon.memory()),
            ("threads", daemon.threads() as f64),
            ("CPU %", cpu / took * 100.0),
            ("switches/s", switches / took),
            ("program MiB", fs::metadata(&program).unwrap().len() as f64 / f64::from(1 << 20)),
            ("heartbeat gap s", daemon.watch.gap()),
        ];
        report.row(name, figures);
    }
}
