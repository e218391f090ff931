//! Executes over the local socket: how long until CMD_INPROGRESS, how many, and what they cost.

use std::time::Instant;

use crate::bare::{Bare, cost};
use crate::daemon::{Client, Daemon, TOGETHER, poll};
use crate::report::{Report, Times};
use crate::service::Service;
use crate::target_dir;

/// Jobs that are followed meanwhile.
pub const FOLLOWED: [usize; 3] = [0, 1000, 10_000];
pub const POLL_INTERVAL: f64 = 5.0;
/// Executes one after the other, in turns with the bare limit, so that a drift of the machine meets both.
const ROUNDS: usize = 1000;
/// Executes of which many are on their way at once.
const EXECUTES: usize = 2000;
/// Executes whose system calls are counted.
const TRACED: usize = 300;

pub fn in_progress(report: &mut Report) {
    report.section("a. From an execute to its CMD_INPROGRESS, over the local socket");
    for jobs in FOLLOWED {
        let (service, own, dir, threads_dir) =
            (Service::start(), Service::start(), target_dir(), target_dir());
        let daemon = Daemon::start(&service.url(), POLL_INTERVAL, &poll());
        daemon.follow(jobs);
        let mut client = daemon.client();
        let mut bare = Client::connect(&Bare::new(&own.url(), dir.path()).serve(dir.path()));
        let mut threads = Client::connect(&Bare::serve_in_threads(&own.url(), threads_dir.path()));
        let (mut times, mut bare_times, mut threads_times) = (Vec::new(), Vec::new(), Vec::new());
        daemon.watch.begin();
        for _ in 0..ROUNDS {
            times.push(client.execute(1, "")[0].took.as_secs_f64());
            bare_times.push(bare.execute(1, "")[0].took.as_secs_f64());
            threads_times.push(threads.execute(1, "")[0].took.as_secs_f64());
        }
        let (times, threads) = (Times::of(times), Times::of(threads_times));
        let mut figures = times.beside(Times::of(bare_times));
        figures.push(("bare in threads median ms", threads.median * 1e3));
        figures.push(("ratio to that", times.median / threads.median));
        figures.push(("heartbeat gap s", daemon.watch.gap()));
        report.row(format!("{jobs} jobs are followed"), figures);
    }
}

pub fn executes(report: &mut Report) {
    report.section("b. Executes, of which 100 are on their way at once, with their look-ups afterwards");
    for jobs in [0, 10_000] {
        let (service, own, dir) = (Service::start(), Service::start(), target_dir());
        // The jobs are not polled meanwhile.
        let daemon = Daemon::start(&service.url(), 3600.0, &poll());
        daemon.follow(jobs);
        let mut client = daemon.client();
        let (begun, before) = (Instant::now(), daemon.usage());
        (0..EXECUTES / TOGETHER).for_each(|_| drop(client.execute(TOGETHER, "")));
        let rate = EXECUTES as f64 / begun.elapsed().as_secs_f64();
        daemon.settle();
        let cpu = daemon.since(&before)[0] / EXECUTES as f64;
        let mut bare = Bare::new(&own.url(), dir.path());
        let begun = Instant::now();
        let bare_cpu = cost(|| (0..EXECUTES).for_each(|_| drop(bare.execute()))) / EXECUTES as f64;
        let bare_rate = EXECUTES as f64 / begun.elapsed().as_secs_f64();
        let calls = daemon.calls(&["fsync", "fdatasync", "futex"], || {
            (0..TRACED).for_each(|_| drop(client.execute(1, "")));
        });
        let mut figures = vec![
            ("executes/s", rate),
            ("bare executes/s", bare_rate),
            ("ratio", rate / bare_rate),
            ("CPU us/execute", cpu * 1e6),
            ("bare CPU us/execute", bare_cpu * 1e6),
            ("CPU ratio", cpu / bare_cpu),
        ];
        match calls.as_deref() {
            Some([fsyncs, data, futexes]) => {
                figures.push(("fsyncs/execute alone", (fsyncs + data) / TRACED as f64));
                figures.push(("futex calls/execute alone", futexes / TRACED as f64));
            }
            _ => report.note(
                "the system calls of an execute are not counted: strace is not installed or may not trace"
                    .to_owned(),
            ),
        }
        report.row(format!("{jobs} jobs are known"), figures);
    }
}
