//! From the end of a job at the service to its job_result: how long, and whether all results are right.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bare;
use crate::daemon::{Daemon, poll, variable};
use crate::report::{Figure, Report, Times};
use crate::service::{Service, Way};
use crate::target_dir;

const ALL: usize = usize::MAX;
/// Jobs, the latency of the service in ms and how many requests it serves at once, poll_interval.
type Case = (usize, u64, usize, f64);
const CASES: [Case; 7] = [
    (10, 0, ALL, 0.5),
    (100, 200, ALL, 0.5),
    (100, 200, 8, 0.5),
    (100, 200, 1, 2.0),
    (1000, 20, ALL, 2.0),
    (1000, 20, 1, 2.0),
    (10_000, 20, ALL, 5.0),
];
const LIMITED: [Case; 2] = [(1000, 20, 1, 2.0), (10_000, 20, ALL, 5.0)];
/// Jobs that end in a second, at most; and where the daemon has a tenth of a processor. Each is asked for singly when it
/// has ended, which is to take half of the service's time at most.
const ENDS: f64 = 400.0;
const ENDS_LIMITED: f64 = 100.0;
/// Jobs that take longer than this to end are not measured.
const OVER_MAX: f64 = 300.0;
const TENTH: f64 = 0.1;
/// The jobs of a case end over this time at least, so that there are some heartbeats.
const OVER_MIN: Duration = Duration::from_secs(5);
/// How long the service hangs.
const HANG: Duration = Duration::from_secs(15);

/// How many of these jobs end in a second.
fn ends((_, latency, at_once, _): Case, share: f64) -> f64 {
    let most = if share < 1.0 { ENDS_LIMITED } else { ENDS };
    if at_once == ALL { most } else { most.min(500.0 * at_once as f64 / latency as f64) }
}

/// The cases, or with `FULL=1` all combinations.
fn cases(usual: &[Case], share: f64) -> Vec<Case> {
    if variable("FULL").is_none() {
        return usual.to_vec();
    }
    let mut all = Vec::new();
    for jobs in [10, 100, 1000, 10_000] {
        for latency in [0, 20, 200] {
            for at_once in [ALL, 8, 1] {
                all.extend([0.5, 2.0, 5.0].map(|interval| (jobs, latency, at_once, interval)));
            }
        }
    }
    all.retain(|case| case.0 as f64 / ends(*case, share) <= OVER_MAX);
    all
}

pub fn lag(report: &mut Report) {
    report.section("c. From the end of a job to its job_result");
    cases(&CASES, 1.0).into_iter().for_each(|case| results(report, case, 1.0));
}

pub fn hang(report: &mut Report) {
    report.section("e. The service accepts requests and never answers, for 15 s");
    silence(report, 1.0);
}

pub fn limited(report: &mut Report) {
    report.section("g. With a tenth of a processor");
    let daemon = Daemon::start("http://127.0.0.1:9", 5.0, "").limit(TENTH);
    if let Err(reason) = daemon {
        return report.note(format!("nothing is measured with a tenth of a processor: {reason}"));
    }
    cases(&LIMITED, TENTH).into_iter().for_each(|case| results(report, case, TENTH));
    silence(report, TENTH);
}

/// A daemon that follows these jobs, with this share of a processor.
fn following(service: &Service, jobs: usize, interval: f64, share: f64) -> Daemon {
    let mut daemon = Daemon::start(&service.url(), interval, &poll());
    daemon.follow(jobs);
    if share < 1.0 {
        daemon.limit(share).unwrap();
    }
    daemon
}

fn results(report: &mut Report, case: Case, share: f64) {
    let (jobs, latency, at_once, interval) = case;
    let (way, poll_interval) = (Way::new(latency, at_once), Duration::from_secs_f64(interval));
    let bare = bare::lag(jobs, way, poll_interval, target_dir().path());
    let service = Service::start();
    let daemon = following(&service, jobs, interval, share);
    service.answer(way);
    thread::sleep(2 * poll_interval);
    daemon.watch.begin();
    let (counts, before, begun) = (service.counts(), daemon.usage(), Instant::now());
    let over = Duration::from_secs_f64(jobs as f64 / ends(case, share)).max(2 * poll_interval).max(OVER_MIN);
    service.end_jobs(over);
    // What is later than that is missing.
    let patience = over + Duration::from_secs(if variable("FULL").is_some() { 600 } else { 30 });
    while daemon.watch.lock().results.len() < jobs && begun.elapsed() < patience {
        thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed().as_secs_f64();
    let (after, [cpu, _]) = (service.counts(), daemon.since(&before));
    // A result that is published twice would come now.
    thread::sleep(Duration::from_secs(1));
    let (lags, missing, wrong) = verdict(&service, &daemon);
    let times = Times::of(lags);
    let figures: Vec<Figure> = vec![
        ("median s", times.median),
        ("p99 s", times.p99),
        ("longest s", times.longest),
        ("bare median s", bare.median),
        ("bare p99 s", bare.p99),
        ("ratio median", times.median / bare.median),
        ("ratio p99", times.p99 / bare.p99),
        ("interval + list s", interval + way.list(jobs).as_secs_f64()),
        ("missing", missing as f64),
        ("wrong", wrong as f64),
        ("polls/s", (after.gets - counts.gets) as f64 / took),
        ("lists/s", (after.lists - counts.lists) as f64 / took),
        ("CPU %", cpu / took * 100.0),
        ("heartbeat gap s", daemon.watch.gap()),
    ];
    report.row(format!("{jobs} jobs, {}, poll_interval {interval} s", way.name()), figures);
}

/// How late the right results are, those that are still missing as late as it is now; how many are missing, and how many
/// are wrong or doubled.
fn verdict(service: &Service, daemon: &Daemon) -> (Vec<f64>, usize, usize) {
    let seen = daemon.watch.lock();
    let (mut lags, mut right, mut wrong) = (Vec::new(), BTreeSet::new(), 0);
    for (at, data) in &seen.results {
        let job_id = data["job_id"].as_str().unwrap_or_default();
        let object: Value =
            serde_json::from_str(data["result"].as_str().unwrap_or_default()).unwrap_or_default();
        let Some((ended, run_id, exit_code)) = service.ended(job_id) else {
            wrong += 1;
            continue;
        };
        let phase = if exit_code == 0 { "completed" } else { "error" };
        let is_right = data["exit_code"] == exit_code
            && (&object["phase"], &object["jobId"], &object["runId"])
                == (&phase.into(), &job_id.into(), &run_id.into())
            && object["parameters"].is_object();
        if is_right && right.insert(job_id) {
            lags.push(at.saturating_duration_since(ended).as_secs_f64());
        } else {
            wrong += 1;
        }
    }
    let missing: Vec<f64> = service.late(|job_id| right.contains(job_id));
    let count = missing.len();
    lags.extend(missing);
    (lags, count, wrong)
}

fn silence(report: &mut Report, share: f64) {
    let (service, jobs) = (Service::start(), 1000);
    let daemon = following(&service, jobs, 2.0, share);
    service.hang(true);
    daemon.watch.begin();
    thread::sleep(HANG);
    let gap = daemon.watch.gap();
    service.hang(false);
    report.row(format!("{jobs} jobs, the service hangs"), vec![("heartbeat gap s", gap)]);
}

/// Executes that come at once.
const BURST: usize = 50;

pub fn burst(report: &mut Report) {
    report.section("c. 50 executes at once, at a service with a latency of 200 ms");
    for at_once in [ALL, 8, 1] {
        let (service, way) = (Service::start(), Way::new(200, at_once));
        let daemon = Daemon::start(&service.url(), 2.0, &poll());
        service.answer(way);
        let least = way.latency.as_secs_f64() * BURST.div_ceil(at_once) as f64;
        // The second time it is known how many PUTs the service works on at once.
        for time in ["first", "second"] {
            let (begun, before) = (Instant::now(), service.puts().len());
            daemon.client().execute(BURST, "");
            let puts = service.puts().split_off(before);
            let latest = |times: Vec<Instant>| {
                times.into_iter().max().map_or(f64::NAN, |at| (at - begun).as_secs_f64())
            };
            let left = latest(puts.iter().map(|(left, _)| *left).collect());
            let answered = latest(puts.iter().map(|(_, answered)| *answered).collect());
            let figures = vec![
                ("last PUT leaves s", left),
                ("last PUT is answered s", answered),
                ("the service's own time s", least),
                ("ratio", answered / least),
                ("PUTs", puts.len() as f64),
            ];
            report.row(format!("{}, the {time} time", way.name()), figures);
        }
    }
}
