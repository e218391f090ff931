//! The people and scripts that send commands, over all the ways that there are.

use std::time::Duration;

use fastrand::Rng;
use ocps::csc::command::{Command, CommandKind, CommandName, Execute, Sender, Via};
use ocps::csc::configuration::{Configuration, Service as ServiceConfiguration};
use ocps::csc::id::{ClientId, JobId, RunId, SeqNum};
use ocps::csc::state::SummaryState;
use ocps::csc::time::Tai;
use ocps::daemon::turn::EARLY_MAX;

use super::plan::{any, chance, millis, secs, short};
use super::rules::Rules;
use super::service::Service;
use super::world::{Event, World};

#[derive(Debug)]
pub(crate) struct Crowd {
    next_number: i32,
    /// Jobs that a command may abort or wait for.
    known: Vec<JobId>,
    /// Runs that a command may abort, by their ids.
    runs: Vec<JobId>,
    /// Executes that were sent when all was calm, to see that it works again.
    last_executes: Vec<i32>,
}

impl Crowd {
    pub(crate) fn new(services: &[Service]) -> Self {
        let known = services.iter().flat_map(|service| &service.jobs).map(|job| job.id.clone()).collect();
        Self { next_number: 1, known, runs: Vec::new(), last_executes: Vec::new() }
    }

    pub(crate) fn learn(&mut self, job_id: &JobId) {
        self.known.push(job_id.clone());
    }

    pub(crate) fn learn_run(&mut self, run_id: &RunId) {
        self.runs.push(JobId::parse(run_id.as_str()).unwrap());
    }

    /// Whether no command is to be sent any more.
    pub(crate) fn is_content(&self, rules: &Rules) -> bool {
        self.last_executes.iter().any(|number| rules.has_completed(*number))
    }

    fn sender(&mut self, via: Via, sent: Tai) -> Sender {
        let seq_num = SeqNum(self.next_number);
        self.next_number += 1;
        Sender { via, identity: "user@host".to_owned(), origin: 7, seq_num, sent }
    }

    /// What a `start` reads.
    pub(crate) fn configuration(&self, rng: &mut Rng, is_calm: bool) -> Result<Configuration, String> {
        if !is_calm && rng.u8(..10) == 0 {
            return Err("unreadable".to_owned());
        }
        let service = ServiceConfiguration {
            url: if rng.u8(..8) == 0 { "http://b" } else { "http://a" }.into(),
            poll_interval: millis(rng.u64(500..10_000)),
            butler: None,
            input_collection: None,
            output_glob: None,
        };
        Ok(Configuration {
            service,
            files: String::new(),
            version: String::new(),
            directory_url: String::new(),
        })
    }

    fn some_id(&self, rng: &mut Rng, services: &[Service]) -> JobId {
        match rng.u8(..10) {
            // One that may come to be, or was never published.
            0 => services[0].any_id(rng),
            // Mostly one of the last.
            1..7 => self.known[self.known.len() - 1 - rng.usize(..self.known.len().min(4))].clone(),
            _ => self.known[rng.usize(..self.known.len())].clone(),
        }
    }

    /// What an `abort_job` names: a job, or one of the last runs, which may have no job yet.
    fn some_name(&self, rng: &mut Rng, services: &[Service]) -> JobId {
        if self.runs.is_empty() || rng.u8(..4) > 0 {
            return self.some_id(rng, services);
        }
        self.runs[self.runs.len() - 1 - rng.usize(..self.runs.len().min(4))].clone()
    }

    fn execute(&self, rng: &mut Rng, services: &[Service]) -> CommandKind {
        let prereqs = rng.usize(..8).saturating_sub(5);
        CommandKind::Execute(Execute {
            pipeline: "p.yaml".to_owned(),
            version: String::new(),
            config: String::new(),
            data_query: String::new(),
            prereq_jobs: (0..prereqs).map(|_| self.some_id(rng, services)).collect(),
            output_dataset_types: String::new(),
        })
    }

    /// What is wanted next of a daemon in this state.
    fn kind(
        &mut self,
        state: SummaryState,
        rng: &mut Rng,
        services: &[Service],
        is_calm: bool,
    ) -> CommandKind {
        let next = state.next_towards(SummaryState::Enabled);
        if let Some(transition) = next
            && (is_calm || rng.u8(..8) > 0)
        {
            return transition_order(transition);
        }
        if is_calm {
            self.last_executes.push(self.next_number);
            return self.execute(rng, services);
        }
        match rng.u8(..100) {
            0..55 => self.execute(rng, services),
            55..90 => CommandKind::AbortJob(self.some_name(rng, services)),
            90..92 => CommandKind::SetLogLevel { level: 10 },
            92 => CommandKind::Invalid { name: None, reason: "no good".to_owned() },
            93 => CommandKind::ExitControl,
            _ => {
                let transitions =
                    [CommandName::Start, CommandName::Enable, CommandName::Disable, CommandName::Standby];
                transition_order(transitions[rng.usize(..4)])
            }
        }
    }
}

fn transition_order(transition: CommandName) -> CommandKind {
    match transition {
        CommandName::Start => CommandKind::Start { override_name: String::new() },
        CommandName::Enable => CommandKind::Enable,
        CommandName::Disable => CommandKind::Disable,
        CommandName::Standby => CommandKind::Standby,
        CommandName::ExitControl
        | CommandName::Execute
        | CommandName::AbortJob
        | CommandName::SetLogLevel => panic!("not a transition of this crowd"),
    }
}

/// Somebody does something.
pub(crate) fn act(world: &mut World) {
    let Some(process) = &world.process else { return };
    let (number, state, is_calm) = (process.number, process.turn.csc().state(), world.calm_since.is_some());
    if is_calm && !process.turn.has_started() {
        return;
    }
    if chance(&mut world.rng, world.plan.terminate) {
        return world.after(Duration::ZERO, Event::Terminate { process: number });
    }
    let World { crowd, rng, services, rules, .. } = world;
    let is_waiting = crowd.last_executes.iter().any(|number| rules.is_under_way(*number));
    if is_calm
        && (crowd.is_content(rules)
            || is_waiting
            || state == SummaryState::Enabled && world.commands_flying > 0)
    {
        return;
    }
    let kind = crowd.kind(state, rng, services, is_calm);
    let command = command(world, kind);
    if command.sender.via != Via::Kafka {
        return world.send(Duration::ZERO, command);
    }
    let delay = short(&mut world.rng, secs(5));
    world.send(delay, command.clone());
    while chance(&mut world.rng, world.plan.repeat) {
        let delay = delay + any(&mut world.rng, secs(60));
        world.send(delay, command.clone());
    }
}

fn command(world: &mut World, kind: CommandKind) -> Command {
    let (tai, by_kafka) = (world.tai(), world.plan.kafka && world.rng.u8(..3) > 0);
    let number = world.crowd.next_number;
    let via = if by_kafka { Via::Kafka } else { Via::Socket(ClientId(number.unsigned_abs().into())) };
    Command { sender: world.crowd.sender(via, tai), kind }
}

/// More commands come at once than can wait for the start.
pub(crate) fn rush(world: &mut World) {
    for _ in 0..EARLY_MAX + world.rng.usize(..30) {
        let World { crowd, rng, services, .. } = world;
        let kind = crowd.kind(SummaryState::Enabled, rng, services, false);
        let command = command(world, kind);
        let is_twice = chance(&mut world.rng, world.plan.repeat / 10.0);
        for _ in 0..=usize::from(is_twice && command.sender.via == Via::Kafka) {
            world.send(Duration::ZERO, command.clone());
        }
    }
}
