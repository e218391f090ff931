//! The real daemon, killed again and again while commands come and jobs run: nothing is lost, nothing is doubled.
//! Behind a gateway that repeats submissions a job can be made twice: then nothing runs twice to its end.
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
use support::gateway::Gateway;
use support::uws_job::{Job, Timing, now};
use support::uws_service::{Options, UwsService};

/// Kills of a plain `cargo test`.
const KILLS: u32 = 8;
/// After so many everything must come to an end, and is counted.
const ROUND: u32 = 25;
/// Longest time from ready to the kill, in milliseconds.
const LIFE_MAX: u64 = 400;
/// Of so many runs behind the gateway, one is long enough for lookups in the service's list.
const LONG_LIFE: u8 = 8;
/// Longest of those, in milliseconds.
const LONG_LIFE_MAX: u64 = 8000;
/// A submission that was cut off is carried out within the settle time, however busy the machine is.
const TOML: &str = "[uws]\nsettle_time_s = 1\nconnect_timeout_s = 2\n";

/// Shorter than the gateway is late, but for lists; what it repeats shows up within the settle time.
const GATEWAY_TOML: &str = "[uws]\nsettle_time_s = 8\nconnect_timeout_s = 2\nput_timeout_s = 2\nget_timeout_s = 2\n\
                            list_timeout_s = 5\ndelete_timeout_s = 2\nconnections = 8\n";
/// Longer than an extra job may run, in seconds; the other ones are ended as soon as there is no extra one.
const LONG_JOB: f64 = 100.0;
/// The data query of a job that ends at once. A duplicate of it cannot be noticed in time.
const SHORT_JOB: &str = "dur=0.3";

/// How the history shows that a run ended.
#[derive(Debug)]
struct Ended {
    job_id: Option<String>,
    exit_code: Value,
    problem: Value,
}

/// What clients received in all runs.
#[derive(Default)]
struct World {
    rng: fastrand::Rng,
    is_behind_gateway: bool,
    /// Executes sent so far: each bears its number as its data query.
    sent: u64,
    /// By job id and exit code, each `job_result` that was received: one that ended can be aborted all the same.
    results: BTreeMap<(String, i64), Vec<Value>>,
    /// By job id, each execute that was received to have it.
    started: BTreeMap<String, u64>,
    /// The same, in the order in which they were received: those are aborted that may still run.
    recent: Vec<String>,
    /// What became of each run, from the history.
    ended: BTreeMap<String, Ended>,
    aborts: u64,
}

impl World {
    /// One run of the daemon: commands, and in the midst of them the end.
    fn run_once(&mut self, daemon: Daemon) {
        let mut client = subscribe(&daemon);
        let mut numbers = BTreeMap::new();
        let is_long = self.is_behind_gateway && self.rng.u8(..LONG_LIFE) == 0;
        let life_max = if is_long { LONG_LIFE_MAX } else { LIFE_MAX };
        let pause_max = if self.is_behind_gateway { life_max / 2 } else { 60 };
        let end = Instant::now() + Duration::from_millis(self.rng.u64(0..life_max));
        while Instant::now() < end {
            self.act(&mut client, &mut numbers);
            client.listen(Duration::from_millis(self.rng.u64(0..pause_max)));
        }
        daemon.signal(Signal::KILL);
        drop(daemon);
        client.until_closed();
        self.receive(&client, &numbers);
    }

    /// Sends a command; the kill may be quicker.
    fn act(&mut self, client: &mut Client, numbers: &mut BTreeMap<i32, u64>) {
        let one_of = if self.is_behind_gateway { 3 } else { 6 };
        if self.rng.u8(..one_of) == 0
            && let Some(job_id) =
                self.rng.choice(self.recent.iter().rev().take(5).cloned().collect::<Vec<_>>())
        {
            client.send("abort_job", &json!({ "job_id": job_id }));
            self.aborts += 1;
            return;
        }
        self.sent += 1;
        let end = if self.is_behind_gateway && self.rng.bool() { SHORT_JOB } else { "" };
        let data_query = format!("{} {end}", self.sent);
        let seq = client.send("execute", &json!({"pipeline": "p.yaml", "data_query": data_query}));
        numbers.insert(seq, self.sent);
    }

    fn receive(&mut self, client: &Client, numbers: &BTreeMap<i32, u64>) {
        for line in &client.received {
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
    fn settle(&mut self, daemon: &Daemon, service: &UwsService, gateway: Option<&Gateway>) {
        let mut client = subscribe(daemon);
        if let Some(gateway) = gateway {
            end_all_but_extra(daemon, service, gateway);
        }
        eventually("all jobs end", || {
            let jobs = client.query("jobs");
            jobs.as_array().unwrap().iter().all(|job| job["stage"] == "finished")
        });
        for job in client.query("jobs").as_array().unwrap() {
            let run_id = job["run_id"].as_str().unwrap().to_owned();
            let job_id = job["job_id"].as_str().map(str::to_owned);
            let (exit_code, problem) = (job["exit_code"].clone(), job["problem"].clone());
            self.ended.insert(run_id, Ended { job_id, exit_code, problem });
        }
        self.receive(&client, &BTreeMap::new());
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
        let renamed = runs.values().filter(|ids| ids.iter().any(|id| id != &ids[0])).count();
        let doubled = counters.jobs.values().filter(|count| **count > 1).count() + renamed;
        let fates = fates(service);
        let extra: Vec<&Fate> = fates.iter().filter(|fate| self.is_extra(fate)).collect();
        let wrong = self.wrong(&fates);
        let lost: Vec<&String> =
            counters.jobs.keys().filter(|run_id| !self.ended.contains_key(*run_id)).collect();
        let unequal: Vec<_> =
            self.results.iter().filter(|(_, results)| results.iter().any(|r| r != &results[0])).collect();
        let sent_twice = self.results.values().map(|results| results.len() - 1).sum::<usize>();
        let of_job = |id: &String| self.ended.values().any(|end| end.job_id.as_ref() == Some(id));
        let forgotten: Vec<&String> = self.started.keys().filter(|id| !of_job(id)).collect();
        let codes = |code: &Value| self.ended.values().filter(|end| end.exit_code == *code).count();
        let place = if self.is_behind_gateway { "behind a gateway, " } else { "" };
        println!(
            "{place}{kills} kills in {:.0} s: {} executes sent, {made} jobs made, {} ended (exit codes 0: {}, 255: {}, none: {}), \
             {} aborts; lost {}, forgotten {}, doubled submissions {doubled}, doubled to the end {}, \
             results sent again {sent_twice}, unequal {}, wrong {}",
            took.as_secs_f64(),
            self.sent,
            self.ended.len(),
            codes(&json!(0)),
            codes(&json!(255)),
            codes(&Value::Null),
            self.aborts,
            lost.len(),
            forgotten.len(),
            extra.len(),
            unequal.len(),
            wrong.len(),
        );
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert!(forgotten.is_empty(), "published, then forgotten: {forgotten:?}");
        assert!(extra.is_empty(), "doubled to their end: {extra:#?}");
        assert_eq!(renamed, 0, "{runs:?}");
        assert!(unequal.is_empty(), "{unequal:?}");
        assert!(wrong.is_empty(), "{wrong:#?}");
        if !self.is_behind_gateway {
            assert_eq!(doubled, 0, "{:?}", counters.jobs);
            assert_eq!(codes(&Value::Null), 0, "{:?}", self.ended);
        }
        assert!(made > kills as usize / 2, "too quiet");
    }

    /// Whether a job ran to its end beside the one of its command.
    fn is_extra(&self, fate: &Fate) -> bool {
        let job_id = self.ended.get(fate.run_id()).and_then(|end| end.job_id.as_ref());
        fate.ran_to_its_end && !fate.is_short() && job_id != Some(&fate.job.job_id)
    }

    /// Where what was published is not what the service did.
    fn wrong(&self, fates: &[Fate]) -> Vec<String> {
        let agrees = |job_id: &str, exit_code: i64| {
            let fate = fates.iter().find(|fate| fate.job.job_id == job_id);
            fate.is_some_and(|fate| match exit_code {
                0 => fate.ran_to_its_end,
                255 => fate.is_removed,
                _ => false,
            })
        };
        let results = self.results.keys().filter(|(job_id, exit_code)| !agrees(job_id, *exit_code));
        let results = results.map(|(job_id, exit_code)| format!("job {job_id} has exit code {exit_code}"));
        // The lookup of a short job may have been in vain, which the reason shows.
        let is_unclear = |fate: &Fate, problem: &Value| {
            fate.is_short() && problem.as_str().is_some_and(|text| text.contains("it is unclear whether"))
        };
        let ends = self.ended.iter().filter(|(run_id, end)| match &end.job_id {
            Some(job_id) => !end.exit_code.as_i64().is_some_and(|exit_code| agrees(job_id, exit_code)),
            None => fates
                .iter()
                .filter(|fate| fate.run_id() == *run_id && fate.ran_to_its_end)
                .any(|fate| !is_unclear(fate, &end.problem)),
        });
        results.chain(ends.map(|(run_id, end)| format!("run {run_id} ended as {end:?}"))).collect()
    }
}

/// What became of a job at the service.
#[derive(Debug)]
struct Fate {
    job: Job,
    ran_to_its_end: bool,
    is_removed: bool,
}

impl Fate {
    fn run_id(&self) -> &String {
        &self.job.run_id
    }

    fn is_short(&self) -> bool {
        self.job.environment.iter().any(|(_, value)| value.as_ref().is_some_and(|v| v.contains(SHORT_JOB)))
    }
}

/// What became of all jobs that were ever made, when all commands have ended.
fn fates(service: &UwsService) -> Vec<Fate> {
    let there = service.jobs().into_iter().map(|job| Fate { job, ran_to_its_end: true, is_removed: false });
    let removed = service.removed().into_iter().map(|(job, phase)| Fate {
        job,
        ran_to_its_end: phase == "completed",
        is_removed: true,
    });
    there.chain(removed).collect()
}

/// Waits until each job that runs is followed, and no other one can come; then all may end.
fn end_all_but_extra(daemon: &Daemon, service: &UwsService, gateway: &Gateway) {
    eventually("extra jobs are removed, or have ended", || {
        let jobs = daemon.connect().query("jobs");
        let going_on = jobs.as_array().unwrap().iter().filter(|job| job["stage"] != "finished");
        let going_on: Vec<&Value> = going_on.collect();
        let is_followed = |job: &Job| going_on.iter().any(|of| of["job_id"] == job.job_id);
        let have_jobs = going_on.iter().all(|job| job["job_id"].is_string());
        have_jobs
            && gateway.submissions() == 0
            && service.jobs().iter().all(|job| job.phase(now()) == "completed" || is_followed(job))
    });
    service.end_jobs();
}

/// A client that has all events. A process that the last run was just forking when it was killed may hold its socket
/// for a moment, and take what is meant for the next one.
fn subscribe(daemon: &Daemon) -> Client {
    let mut subscribed = None;
    eventually("it is the new daemon that listens", || {
        let mut client = daemon.connect();
        let mut looks = 0;
        if client.try_raw(b"{\"subscribe\":true}\n").is_ok() {
            while client.received.is_empty() && looks < 250 {
                client.listen(Duration::from_millis(20));
                looks += 1;
            }
        }
        subscribed = Some(client).filter(|client| !client.received.is_empty());
        subscribed.is_some()
    });
    subscribed.unwrap()
}

/// Kills and seed of this run.
fn plan(test: &str) -> (u32, u64) {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let kills = number("OCPS_KILLS").map_or(KILLS, |kills| u32::try_from(kills).unwrap());
    let seed = number("OCPS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("{test}: OCPS_SEED={seed}");
    (kills, seed)
}

fn service(duration: f64) -> UwsService {
    let timing = Timing { pending: 0.02, queued: 0.02, duration, ..Timing::default() };
    let latency = Duration::from_millis(10);
    UwsService::start(Options { timing, latency, ..Options::default() })
}

fn kill_again_and_again(
    mut world: World,
    kills: u32,
    home: &Home,
    service: &UwsService,
    gateway: Option<&Gateway>,
) {
    let begun = Instant::now();
    let mut daemon = home.start(&["1", "--state", "enabled"]);
    for kill in 1..=kills {
        world.run_once(daemon);
        daemon = home.start(&["1", "--state", "resume"]);
        if kill % ROUND == 0 || kill == kills {
            world.settle(&daemon, service, gateway);
            world.judge(service, kill, begun.elapsed());
        }
    }
}

#[test]
fn killed_at_any_moment_it_loses_and_doubles_nothing() {
    let (kills, seed) = plan("without a gateway");
    let service = service(0.3);
    let home = Home::for_service(&service.url(), 0.1, TOML);
    let world = World { rng: fastrand::Rng::with_seed(seed), ..World::default() };
    kill_again_and_again(world, kills, &home, &service, None);
}

#[test]
fn killed_behind_a_gateway_it_loses_nothing_and_no_double_runs_to_its_end() {
    let (kills, seed) = plan("behind a gateway");
    let service = service(LONG_JOB);
    let gateway = Gateway::start(service.address(), seed);
    let url = service.url().replace(&service.address().to_string(), &gateway.address().to_string());
    let home = Home::for_service(&url, 0.5, GATEWAY_TOML);
    let world = World { rng: fastrand::Rng::with_seed(seed), is_behind_gateway: true, ..World::default() };
    kill_again_and_again(world, kills, &home, &service, Some(&gateway));
    println!("the gateway: {}", gateway.played());
}
