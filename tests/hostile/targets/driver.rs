//! Drives the core with the shipped turn; the journal works at once, and every configuration can be read.

use std::time::Duration;

use ocps::csc::Effect;
use ocps::csc::Input;
use ocps::csc::command::Via;
use ocps::csc::configuration::Configuration;
use ocps::csc::record::Record;
use ocps::csc::request::{Action, Answer, Outcome};
use ocps::csc::time::{Tai, Time};
use ocps::daemon::turn::{Step, Turn};
use ocps::journal::Report;
use ocps::sal;
use ocps::transport::line;

pub(super) struct Driver {
    pub(super) turn: Turn,
    pub(super) now: Time,
    pub(super) configuration: Configuration,
    /// Checks a line that is published.
    pub(super) check: fn(&str),
    /// Answers a request, if anybody does.
    pub(super) answer: fn(&Action) -> Option<Answer>,
}

impl Driver {
    /// Does all that follows from what happened.
    pub(super) fn run(&mut self) {
        while let Some(step) = self.turn.next(self.now) {
            match step {
                Step::Run(effects) => self.run_effects(effects),
                Step::Write(records) => {
                    let awaited = records.iter().filter_map(Record::awaited).collect();
                    self.turn.report(Report::Durable(awaited));
                }
                Step::Started => {}
            }
        }
    }

    pub(super) fn run_effects(&mut self, effects: Vec<Effect>) {
        effects.into_iter().for_each(|effect| self.run_effect(effect));
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Ack { to, ack, .. } => {
                (self.check)(&line::ack(to.seq_num, &ack));
                if to.via == Via::CommandLine {
                    self.turn.transition_ended(&ack);
                }
            }
            Effect::Publish { event, .. } => {
                let (topic, fields) = sal::event::parts(&event);
                (self.check)(&line::event(topic, &fields, 1, Tai(0.0)));
            }
            Effect::Journal(record) => self.turn.keep(record),
            Effect::Request(request) => {
                let outcome =
                    |answer| Input::Outcome(Outcome { ticket: request.ticket, took: Duration::ZERO, answer });
                (self.answer)(&request.action)
                    .map(outcome)
                    .into_iter()
                    .for_each(|input| self.turn.input(input));
            }
            Effect::ReadConfiguration { .. } => {
                self.turn.input(Input::Configuration(Ok(self.configuration.clone())));
            }
            // What is logged is made one line there.
            Effect::Log(..)
            | Effect::StopRequests
            | Effect::WatchConfigurations(_)
            | Effect::SetLogLevel(_)
            | Effect::Exit
            | Effect::Fail(_) => {}
        }
    }
}
