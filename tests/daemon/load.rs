//! Fifty jobs at once, a slow service, and one that goes away in between.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Client, Home, StallMeter};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

const JOBS: usize = 50;
const TOML: &str = "[uws]\nsettle_time_s = 2\nconnect_timeout_s = 2\n";

fn start() -> (UwsService, Home) {
    let timing = Timing { pending: 0.2, queued: 0.2, duration: 2.0, ..Timing::default() };
    let latency = Duration::from_millis(200);
    let service = UwsService::start(Options { timing, latency, ..Options::default() });
    let home = Home::for_service(&service.url(), 0.5, TOML);
    (service, home)
}

/// Every command has its result, its acks and its job, once.
fn check(client: &mut Client, seqs: &[i32], service: &UwsService) {
    let mut ids = Vec::new();
    for seq in seqs {
        assert_eq!(client.final_ack(*seq), "CMD_COMPLETE Done");
        ids.push(client.job_id(*seq));
    }
    for id in &ids {
        let result = client.job_result(id);
        let object: Value = serde_json::from_str(result["result"].as_str().unwrap()).unwrap();
        assert_eq!((&object["jobId"], &object["phase"]), (&id.as_str().into(), &"completed".into()));
    }
    client.listen(Duration::from_millis(500));
    let count = |topic: &str| client.received.iter().filter(|line| line["event"]["topic"] == topic).count();
    assert_eq!((count("job_result"), count("job_id")), (JOBS, JOBS));
    let acks = client.received.iter().filter(|line| !line["ack"].is_null()).count();
    assert_eq!(acks, 2 * JOBS);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), JOBS);
    let counters = service.counters();
    assert_eq!(counters.jobs.len(), JOBS);
    assert!(counters.jobs.values().all(|count| *count == 1), "{counters:?}");
}

/// Sends all executes at once, lets something happen meanwhile, and checks what follows.
fn run_all(meanwhile: impl FnOnce(&mut Client, &[i32], UwsService) -> UwsService) {
    let (service, home) = start();
    let daemon = home.start(&["1", "--state", "enabled"]);
    let mut client = daemon.subscribe();
    client.forget();
    let stalls = StallMeter::start(daemon.pid());
    let begun = Instant::now();
    let seqs: Vec<i32> = (0..JOBS).map(|_| client.execute("p.yaml")).collect();
    let service = meanwhile(&mut client, &seqs, service);
    check(&mut client, &seqs, &service);
    let gap = stalls.longest_gap(&client.sent("heartbeat"), 1.1);
    println!("{JOBS} jobs in {:.1} s, longest heartbeat gap {gap:.3} s", begun.elapsed().as_secs_f64());
}

#[test]
fn fifty_jobs_at_once_are_all_published_and_no_heartbeat_is_late() {
    run_all(|_, _, service| service);
}

#[test]
fn a_service_that_goes_away_loses_and_doubles_nothing() {
    run_all(|client, seqs, service| {
        // Some are submitted, some on their way, some wait.
        client.job_id(seqs[JOBS / 4]);
        let stopped = service.stop();
        client.listen(Duration::from_secs(3));
        stopped.restart()
    });
}
