//! What one execute and one poll cost must not depend on how many jobs there are.

use std::time::{Duration, Instant};

use ocps::csc::command::{Command, CommandKind, Sender, Via};
use ocps::csc::event::{JobObject, Phase};
use ocps::csc::id::{ClientId, JobId, SeqNum};
use ocps::csc::request::{Action, Answer, JobStatus, Outcome, StatusAnswer};
use ocps::csc::time::Tai;
use ocps::csc::{Csc, Effect, Input, Settings};

use super::world::{configuration, execute, settings, start, time};

/// A core, and a service and a journal that answer at once.
struct Plant {
    csc: Csc,
    now: Duration,
    commands: i32,
    polls: u32,
}

impl Plant {
    fn new(poll_interval: Duration) -> Self {
        let settings = Settings { max_jobs: 100_000, ..settings() };
        let csc = Csc::new(settings, 1, time(Duration::ZERO), &mut Vec::new());
        let mut plant = Self { csc, now: Duration::ZERO, commands: 0, polls: 0 };
        plant.command(start());
        let mut configuration = configuration();
        configuration.service.poll_interval = poll_interval;
        plant.input(Input::Configuration(Ok(configuration)));
        plant.command(CommandKind::Enable);
        plant
    }

    fn command(&mut self, kind: CommandKind) {
        self.commands += 1;
        let (via, identity) = (Via::Socket(ClientId(1)), "root@host".to_owned());
        let seq_num = SeqNum(self.commands);
        let sender = Sender { via, identity, origin: 7, seq_num, sent: Tai(0.0) };
        self.input(Input::Command(Command { sender, kind }));
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.csc.handle(time(self.now), input, &mut effects);
            // What the daemon asks for after each turn.
            assert!(self.csc.next_deadline() > self.now && self.csc.status().phases.len() < 2);
            for effect in effects {
                match effect {
                    Effect::Journal(record) => inputs.extend(record.awaited().map(Input::Journaled)),
                    Effect::Request(request) => {
                        let answer = self.answer(request.action);
                        inputs.push(Input::Outcome(Outcome { ticket: request.ticket, answer }));
                    }
                    Effect::Ack { .. }
                    | Effect::Publish { .. }
                    | Effect::StopRequests
                    | Effect::ReadConfiguration { .. }
                    | Effect::WatchConfigurations(_)
                    | Effect::SetLogLevel(_)
                    | Effect::Log(..)
                    | Effect::Exit
                    | Effect::Fail(_) => {}
                }
            }
        }
    }

    fn answer(&mut self, action: Action) -> Answer {
        let job = |job_id: JobId| JobStatus { job_id, phase: Phase::Active, object: JobObject("{}".into()) };
        match action {
            Action::Submit(submission) => {
                Answer::Submit(Ok(job(JobId::parse(submission.run_id.as_str()).unwrap())))
            }
            Action::Status { job_id, .. } => {
                self.polls += 1;
                Answer::Status(Ok(StatusAnswer::Job(job(job_id))))
            }
            Action::List { .. } => Answer::List(Ok(Vec::new())),
            Action::Ping => Answer::Ping(Ok(())),
            Action::Remove { .. } | Action::Push { .. } => panic!("nothing is removed or pushed"),
        }
    }

    /// Time for one of `count` executes, with that many jobs before them and at the end polled once each.
    fn measure(jobs: u32, count: u32) -> [Duration; 2] {
        let mut plant = Self::new(Duration::from_secs(3600));
        (0..jobs).for_each(|_| plant.command(execute("")));
        let began = Instant::now();
        (0..count).for_each(|_| plant.command(execute("")));
        let execute = began.elapsed() / count;
        // The lists that are due by then.
        while plant.now < Duration::from_secs(3599) {
            plant.now = plant.csc.next_deadline();
            plant.input(Input::Tick);
        }
        plant.now = Duration::from_secs(3600);
        let began = Instant::now();
        plant.input(Input::Tick);
        assert_eq!(plant.polls, jobs + count);
        [execute, began.elapsed() / plant.polls]
    }
}

#[test]
#[ignore = "measures time, of a release build"]
fn the_cost_of_an_execute_and_of_a_poll_does_not_depend_on_the_number_of_jobs() {
    for jobs in [100, 1000, 10_000, 100_000 - 1000] {
        let [execute, poll] = Plant::measure(jobs, 1000);
        println!("{jobs:6} jobs: {execute:?} per execute, {poll:?} per poll");
    }
}
