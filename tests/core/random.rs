//! A random walk: any command, any answer, at any time. The rules hold after each step, and when the
//! service comes to its senses, everything comes to an end.
//!
//! `OCPS_SEED=42 cargo test --test core random` walks the way of that seed only.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use ocps::csc::command::{CommandKind, CommandName, Sender};
use ocps::csc::configuration::Polling;
use ocps::csc::event::Phase;
use ocps::csc::id::RunId;
use ocps::csc::request::{Action, Contact, FailureKind, ListedJob, Request, Wanted};
use ocps::csc::{Input, Settings};

use super::world::{
    World, abort, available, configuration, execute, failed, job, job_id, name, none, object, removed, secs,
    settings, start,
};
use crate::reply::Reply;

const SEEDS: u64 = 300;
const STEPS: u32 = 400;

/// How much the service can be trusted in a walk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Service {
    /// Its answers fit the questions, though they may fail.
    Believable,
    /// It may answer anything to anything.
    Lying,
}

struct Walk {
    world: World,
    rng: fastrand::Rng,
    service: Service,
    /// Jobs that the service made so far.
    made: u32,
    from_kafka: Vec<(Sender, CommandKind)>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let polling = [Polling::Each, Polling::List, Polling::Auto { from: 2 }][rng.usize(..3)];
        let mut world = World::with(Settings { polling, ..settings() }, seed);
        world.shows_routine = true;
        if rng.u8(..) < 240 {
            world.enable();
        }
        let service = if rng.bool() { Service::Believable } else { Service::Lying };
        Self { world, rng, service, made: 0, from_kafka: Vec::new() }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..22 => self.command(),
            22..62 => self.answer(),
            62..70 => self.world.journal_all(),
            70..73 => self.world.journal_at_once = self.rng.bool(),
            73 => self.world.pong_at_once = self.rng.bool(),
            74..80 => self.configuration(),
            80..96 => self.sleep(),
            96 => self.repeat(),
            97 => self.world.input(available(["", "a.yaml", "a.yaml,b.yaml"][self.rng.usize(..3)])),
            98 => self.world.input(Input::LogLevel(self.rng.i32(0..3) * 10)),
            _ => self.world.tick(),
        }
    }

    fn command(&mut self) {
        let order = match self.rng.u32(0..100) {
            0..40 => {
                let prereqs: Vec<String> =
                    (0..self.rng.u32(0..4).saturating_sub(1)).map(|_| self.id()).collect();
                execute(&prereqs.join(","))
            }
            40..60 => abort(&self.id()),
            60..65 => abort(&self.run_id()),
            65..72 => start(),
            72..86 => CommandKind::Enable,
            86..89 => CommandKind::Disable,
            89..96 => CommandKind::Standby,
            96..98 => CommandKind::SetLogLevel { level: self.rng.i32(0..3) * 10 },
            _ => {
                let name = self.rng.choice(CommandName::ALL).copied();
                CommandKind::Invalid { name, reason: "no good".to_owned() }
            }
        };
        if self.rng.bool() {
            self.world.send(order);
        } else {
            let sender = self.world.send_by_kafka(order.clone());
            self.from_kafka.push((sender, order));
        }
    }

    /// A command that came before comes again.
    fn repeat(&mut self) {
        let now = self.world.now;
        if let Some((sender, order)) = self.rng.choice(&self.from_kafka).cloned()
            && super::world::time(now).tai.0 - sender.sent.0 < 3600.0
        {
            self.world.journal_all();
            let before = self.world.lines.len();
            self.world.command(&sender, order);
            assert_eq!(self.world.lines.len(), before, "carried out twice");
        }
    }

    fn configuration(&mut self) {
        let mut configuration = configuration();
        configuration.service.poll_interval = Duration::from_millis(self.rng.u64(100..60_000));
        if self.rng.u8(..4) == 0 {
            configuration.service.url = "http://elsewhere".into();
        }
        let result = if self.rng.u8(..4) == 0 { Err("unreadable".to_owned()) } else { Ok(configuration) };
        self.world.input(Input::Configuration(result));
    }

    /// Some time passes: with all its ticks, or in one leap.
    fn sleep(&mut self) {
        let longest = [100, 2_000, 20_000, 700_000][self.rng.usize(..4)];
        let time = Duration::from_millis(self.rng.u64(0..longest));
        if self.rng.u8(..4) > 0 {
            self.world.run_for(time.min(secs(5)));
        } else {
            self.world.now += time;
            self.world.tick();
        }
    }

    /// An id that the service may have given.
    fn id(&mut self) -> String {
        format!("j{}", self.rng.u32(0..self.made + 2))
    }

    /// A run that there was.
    fn run_id(&mut self) -> String {
        let runs: Vec<String> =
            self.world.csc.job_reports().map(|job| job.run_id.as_str().to_owned()).collect();
        self.rng.choice(runs).unwrap_or_else(|| self.id())
    }

    fn new_id(&mut self) -> String {
        self.made += 1;
        format!("j{}", self.made)
    }

    fn answer(&mut self) {
        if self.world.open.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.world.open.len());
        let request = self.world.open[at].clone();
        let answer = self.answer_to(&request);
        self.world.answer_at(at, answer);
    }

    fn answer_to(&mut self, request: &Request) -> Reply {
        if self.rng.u8(..3) == 0 {
            return self.failure();
        }
        if self.service == Service::Lying && self.rng.u8(..4) == 0 {
            return self.lie(&request.action);
        }
        match &request.action {
            Action::Submit(_) => job(&self.new_id(), self.phase()),
            Action::Status { job_id, .. } if self.rng.u8(..8) > 0 => job(job_id.as_str(), self.phase()),
            Action::Status { .. } => Reply::Gone,
            Action::Remove { .. } if self.rng.bool() => removed(),
            Action::Remove { .. } => Reply::Gone,
            Action::Push { .. } | Action::Ping => Reply::Done,
            Action::List(Wanted { run_ids, job_ids, .. }) => {
                let known = (0..=self.made).map(|number| job_id(&format!("j{number}")));
                let named = known.filter(|id| job_ids.contains(&id.fingerprint()));
                let mut jobs = Vec::new();
                for job_id in named {
                    let (run_id, phase) = (RunId::parse("any").unwrap(), self.phase());
                    if self.rng.u8(..4) > 0 {
                        jobs.push(ListedJob { job_id, run_id, phase, ended: None });
                    }
                }
                for run_id in run_ids.iter() {
                    for _ in 0..self.rng.u8(..6).saturating_sub(3) {
                        let is_lie = self.service == Service::Lying && self.rng.u8(..4) == 0;
                        let id = if is_lie { self.id() } else { self.new_id() };
                        let phase = self.phase();
                        jobs.push(ListedJob {
                            job_id: job_id(&id),
                            run_id: run_id.clone(),
                            phase,
                            ended: None,
                        });
                    }
                }
                Reply::Listed(jobs)
            }
        }
    }

    fn phase(&mut self) -> Phase {
        let phases = [Phase::Completed, Phase::Error, Phase::Aborted, Phase::Unknown];
        if self.rng.u8(..4) > 0 { Phase::Active } else { phases[self.rng.usize(..4)] }
    }

    fn failure(&mut self) -> Reply {
        let kinds = [
            FailureKind::NotSent,
            FailureKind::Unclear,
            FailureKind::Refused,
            FailureKind::NotNow,
            FailureKind::Wrong,
        ];
        let contact = if self.rng.bool() { Contact::Answered } else { Contact::Silent };
        match (kinds[self.rng.usize(..4)], contact) {
            (FailureKind::NotSent, Contact::Answered) => failed(FailureKind::NotSent, Contact::NotAsked),
            (kind, contact) => failed(kind, contact),
        }
    }

    /// Anything at all, also the job of another.
    fn lie(&mut self, action: &Action) -> Reply {
        let lie = match self.rng.u32(0..8) {
            0 => job(&self.id(), self.phase()),
            1 => Reply::Gone,
            2 => removed(),
            3 => Reply::Removed { object: Some(object("x")) },
            4 => none(),
            5 => Reply::Rejected { reason: "no such thing".to_owned() },
            6 => Reply::Done,
            _ => Reply::Broken { report: "broken".to_owned() },
        };
        if lie.clone().to(action).is_some() { lie } else { self.lie(action) }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        if self.rng.u8(..4) == 0 {
            self.terminate();
        } else {
            self.world.converge();
        }
    }

    /// In the midst of everything the daemon ends: in time, and with nothing after it.
    fn terminate(&mut self) {
        self.world.input(Input::Terminate);
        for _ in 0..20 {
            self.step();
            if self.world.is_over() {
                break;
            }
        }
        // A leap is a pause, for which it waits longer.
        self.world.run_for(secs(5));
        assert!(self.world.is_over());
        for _ in 0..20 {
            self.step();
        }
    }
}

#[test]
fn every_random_walk_comes_to_its_end() {
    let seeds = match env::var("OCPS_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let mut requests = 0;
    let mut results = 0;
    for seed in seeds.clone() {
        let mut walk = Walk::new(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| walk.run())) {
            let open: Vec<String> = walk.world.open.iter().map(name).collect();
            eprintln!("after {:?}, open: {open:?}, the last lines:", walk.world.now);
            let lines: Vec<_> = walk.world.lines.iter().filter(|(_, line)| line != "heartbeat").collect();
            for (time, line) in lines.iter().skip(lines.len().saturating_sub(30)) {
                eprintln!("  {time:?} {line}");
            }
            eprintln!("OCPS_SEED={seed} walks this way again");
            resume_unwind(panic);
        }
        let counters = walk.world.csc.status().counters;
        requests += counters.requests;
        results += counters.results;
    }
    if seeds.end - seeds.start == SEEDS {
        assert!(requests > 10_000 && results > 1_000, "too quiet a walk: {requests}, {results}");
    }
}

#[test]
fn the_same_seed_goes_the_same_way() {
    let walk = |seed| {
        let mut walk = Walk::new(seed);
        walk.run();
        walk.world.lines
    };
    assert_eq!(walk(7), walk(7));
    assert_ne!(walk(7), walk(8));
}
