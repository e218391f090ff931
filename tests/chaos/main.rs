//! The real daemon, killed again and again while commands come and jobs run: nothing is lost, nothing is doubled.
//!
//! `OCPS_KILLS=1000 OCPS_SEED=7 cargo test --test chaos -- --nocapture` kills it so often, in the way of that seed;
//! when a kill hits is up to the machine all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::indexing_slicing, reason = "an index into JSON gives null, and other tests may panic")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../daemon/harness.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use harness::{Client, Daemon, Home, eventually};
use support::uws_job::Timing;
use support::uws_service::{Options, UwsService};

/// Kills of a plain `cargo test`.
const KILLS: u32 = 8;
/// After so many everything must come to an end, and is counted.
const ROUND: u32 = 25;
/// Longest time from ready to the kill, in milliseconds.
const LIFE_MAX: u64 = 400;
/// A submission that was cut off is carried out within the settle time, however busy the machine is.
const TOML: &str = "[uws]\nsettle_time_s = 1\nconnect_timeout_s = 2\n";

/// What the world was told in all lives.
#[derive(Default)]
struct World {
    rng: fastrand::Rng,
    /// Executes sent so far: each bears its number as its data query.
    sent: u64,
    /// By job id and exit code, each `job_result` that was heard: one that ended can be aborted all the same.
    results: BTreeMap<(String, i64), Vec<Value>>,
    /// By job id, each execute that was heard to have it.
    started: BTreeMap<String, u64>,
    /// The same, in the order in which they were heard: those are aborted that may still run.
    recent: Vec<String>,
    /// What became of each run, from the history: its job and its exit code.
    ended: BTreeMap<String, (Option<String>, Value)>,
    aborts: u64,
}

impl World {
    /// One life: commands, and in the midst of them the end.
    fn live(&mut self, daemon: Daemon) {
        let mut client = subscribe(&daemon);
        let mut numbers = BTreeMap::new();
        let end = Instant::now() + Duration::from_millis(self.rng.u64(0..LIFE_MAX));
        while Instant::now() < end {
            self.act(&mut client, &mut numbers);
            client.listen(Duration::from_millis(self.rng.u64(0..60)));
        }
        daemon.signal(Signal::KILL);
        drop(daemon);
        client.until_closed();
        self.hear(&client, &numbers);
    }

    /// Sends a command; the kill may be quicker.
    fn act(&mut self, client: &mut Client, numbers: &mut BTreeMap<i32, u64>) {
        if self.rng.u8(..6) == 0
            && let Some(job_id) =
                self.rng.choice(self.recent.iter().rev().take(5).cloned().collect::<Vec<_>>())
        {
            client.send("abort_job", &json!({ "job_id": job_id }));
            self.aborts += 1;
            return;
        }
        self.sent += 1;
        let seq = client.send("execute", &json!({"pipeline": "p.yaml", "data_query": self.sent.to_string()}));
        numbers.insert(seq, self.sent);
    }

    fn hear(&mut self, client: &Client, numbers: &BTreeMap<i32, u64>) {
        for line in &client.heard {
            let (ack, event) = (&line["ack"], &line["event"]);
            if event["topic"] == "job_result" {
                let id = event["data"]["job_id"].as_str().unwrap().to_owned();
                let exit_code = event["data"]["exit_code"].as_i64().unwrap();
                self.results.entry((id, exit_code)).or_default().push(event["data"].clone());
            }
            let number = ack["seq"].as_i64().and_then(|seq| numbers.get(&i32::try_from(seq).unwrap()));
            if let Some(number) = number
                && ack["ack"] == 301
            {
                let result: Value = serde_json::from_str(ack["result"].as_str().unwrap()).unwrap();
                let job_id = result["job_id"].as_str().unwrap().to_owned();
                self.recent.push(job_id.clone());
                self.started.insert(job_id, *number);
            }
        }
    }

    /// Lets everything come to an end, then notes what became of it.
    fn settle(&mut self, daemon: &Daemon) {
        let mut client = subscribe(daemon);
        eventually("all jobs end", || {
            let jobs = client.query("jobs");
            jobs.as_array().unwrap().iter().all(|job| job["stage"] == "finished")
        });
        for job in client.query("jobs").as_array().unwrap() {
            let run_id = job["run_id"].as_str().unwrap().to_owned();
            let job_id = job["job_id"].as_str().map(str::to_owned);
            self.ended.insert(run_id, (job_id, job["exit_code"].clone()));
        }
        self.hear(&client, &BTreeMap::new());
    }

    /// Counts what was lost and what was doubled.
    fn judge(&self, service: &UwsService, kills: u32, took: Duration) {
        let counters = service.counters();
        let mut runs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for put in service.puts() {
            let variables = put["environment"].as_array().unwrap();
            let query = variables.iter().find(|v| v["name"] == "DATA_QUERY").unwrap();
            let run_id = put["run_id"].as_str().unwrap().to_owned();
            runs.entry(query["value"].as_str().unwrap().to_owned()).or_default().push(run_id);
        }
        let made: usize = counters.jobs.values().sum();
        let doubled = counters.jobs.values().filter(|count| **count > 1).count()
            + runs.values().filter(|ids| ids.iter().any(|id| id != &ids[0])).count();
        let lost: Vec<&String> =
            counters.jobs.keys().filter(|run_id| !self.ended.contains_key(*run_id)).collect();
        let unequal: Vec<_> =
            self.results.iter().filter(|(_, results)| results.iter().any(|r| r != &results[0])).collect();
        let said_twice = self.results.values().map(|results| results.len() - 1).sum::<usize>();
        let of_job = |id: &String| self.ended.values().any(|(job_id, _)| job_id.as_ref() == Some(id));
        let forgotten: Vec<&String> = self.started.keys().filter(|id| !of_job(id)).collect();
        let codes = |code: i32| self.ended.values().filter(|(_, exit_code)| *exit_code == code).count();
        println!(
            "{kills} kills in {:.0} s: {} executes sent, {made} jobs made, {} ended (exit codes 0: {}, 255: {}), {} aborts; \
             lost {}, forgotten {}, doubled submissions {doubled}, results said again {said_twice}, unequal {}",
            took.as_secs_f64(),
            self.sent,
            self.ended.len(),
            codes(0),
            codes(255),
            self.aborts,
            lost.len(),
            forgotten.len(),
            unequal.len(),
        );
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert!(forgotten.is_empty(), "told, then forgotten: {forgotten:?}");
        assert_eq!(doubled, 0, "{:?}", counters.jobs);
        assert!(unequal.is_empty(), "{unequal:?}");
        assert!(
            self.ended.values().all(|(_, code)| [json!(0), json!(255)].contains(code)),
            "{:?}",
            self.ended
        );
        assert!(made > kills as usize / 2, "too quiet");
    }
}

/// A client that has all events. A process that the last run was just forking when it was killed may hold its socket
/// for a moment, and take what is meant for the next one.
fn subscribe(daemon: &Daemon) -> Client {
    let mut subscribed = None;
    eventually("it is the new daemon that listens", || {
        let mut client = daemon.connect();
        let mut looks = 0;
        if client.try_raw(b"{\"subscribe\":true}\n").is_ok() {
            while client.heard.is_empty() && looks < 250 {
                client.listen(Duration::from_millis(20));
                looks += 1;
            }
        }
        subscribed = Some(client).filter(|client| !client.heard.is_empty());
        subscribed.is_some()
    });
    subscribed.unwrap()
}

#[test]
fn killed_at_any_moment_it_loses_and_doubles_nothing() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let kills = number("OCPS_KILLS").map_or(KILLS, |kills| u32::try_from(kills).unwrap());
    let seed = number("OCPS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("OCPS_SEED={seed}");
    let timing = Timing { pending: 0.02, queued: 0.02, duration: 0.3, ..Timing::default() };
    let latency = Duration::from_millis(10);
    let service = UwsService::start(Options { timing, latency, ..Options::default() });
    let home = Home::for_service(&service.url(), 0.1, TOML);
    let mut world = World { rng: fastrand::Rng::with_seed(seed), ..World::default() };
    let begun = Instant::now();
    let mut daemon = home.start(&["1", "--state", "enabled"]);
    for kill in 1..=kills {
        world.live(daemon);
        daemon = home.start(&["1", "--state", "resume"]);
        if kill % ROUND == 0 || kill == kills {
            world.settle(&daemon);
            world.judge(&service, kill, begun.elapsed());
        }
    }
}
