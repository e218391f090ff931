//! The process: drives the shipped turn as the main loop does, and carries out what it wants.

use std::time::Duration;

use ocps::csc::command::Via;
use ocps::csc::event::{Ack, Event as SalEvent};
use ocps::csc::record::{Receipt, Record, Work};
use ocps::csc::request::{Answer, Outcome, Request};
use ocps::csc::{Effect, Input};
use ocps::daemon::turn::Step;
use ocps::lease::PATIENCE;

use super::super::lines;
use super::super::plan::{millis, secs, short};
use super::super::service::{Call, Fate, service_at, withheld};
use super::{Event, World};

/// Time between two looks of a thread at whether it may send.
const LOOK: Duration = millis(250);

impl World {
    pub(super) fn input(&mut self, input: Input) {
        self.rules.start.input(&input);
        self.process_mut().turn.input(input);
        self.turn();
    }

    /// The deadline has come, as in the main loop.
    pub(super) fn tick(&mut self) {
        let process = self.process.as_mut().unwrap();
        process.journal.reports.iter().for_each(|report| self.rules.start.report(report));
        process.journal.reports.drain(..).for_each(|report| process.turn.report(report));
        process.turn.tick();
        self.turn();
    }

    /// Does all that follows from what happened, unless the process dies over it.
    pub(super) fn turn(&mut self) {
        loop {
            let time = self.time();
            let Some(process) = &mut self.process else { return };
            let input = process.turn.upcoming().cloned();
            match process.turn.next(time) {
                Some(Step::Run(effects)) if process.over => assert_eq!(effects, [], "after the end"),
                Some(Step::Run(effects)) => {
                    if !self.handled(input.unwrap(), effects) {
                        return;
                    }
                }
                Some(Step::Started) => {
                    self.note("started");
                    self.rules.started(&self.process.as_ref().unwrap().turn);
                }
                Some(Step::Write(records)) => {
                    if self.crashes() {
                        return self.crash("before the records are handed over");
                    }
                    self.rules.start.written(&records);
                    self.process_mut().journal.channel.push_back(records);
                }
                None => break,
            }
        }
        if self.process_mut().over {
            return self.end();
        }
        self.rules.start.rest();
        self.wake_journal();
        if self.crashes() {
            self.crash("after a turn");
        }
    }

    /// The core has taken one input; returns whether the process is still running.
    fn handled(&mut self, input: Input, effects: Vec<Effect>) -> bool {
        if let Some(line) = lines::input(&input) {
            self.note(&line);
        }
        let (time, now) = (self.time(), self.now);
        self.rules.before(now, &input);
        if let Input::Command(command) | Input::Refused(command, _) = &input {
            self.rules.taken(now, time.tai, command, &effects);
        }
        if !self.run_effects(effects) {
            return false;
        }
        let process = self.process.as_ref().unwrap();
        if !process.over {
            let csc = process.turn.csc();
            self.rules.turned(now, process.born, matches!(input, Input::Tick), csc);
            self.rules.polling.turned(now, &self.services);
            self.rules.bounds(csc, process.workers.open(), process.journal.waiting());
        }
        true
    }

    /// Carries out effects, unless the process dies meanwhile; returns whether it is still running.
    pub(super) fn run_effects(&mut self, effects: Vec<Effect>) -> bool {
        for effect in effects {
            if self.crashes() {
                self.crash("in the midst of a turn");
                return false;
            }
            if let Some(line) = lines::effect(&effect) {
                self.note(&line);
            }
            self.rules.tai = self.tai();
            self.rules.effect(self.now, &effect, &self.services);
            self.run_effect(effect);
        }
        self.begin_requests();
        true
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Ack { to, ack, receipt, .. } => self.ack(to.via, &ack, receipt),
            Effect::Publish { event, receipt } => self.publish(&event, receipt),
            Effect::Journal(record) => {
                if let Record::Accepted(entry) = &record
                    && let Work::Execute { submission, .. } = &entry.work
                {
                    self.crowd.learn_run(&submission.run_id);
                }
                self.process_mut().turn.keep(record);
            }
            Effect::Request(request) => {
                if let Err(outcome) = self.process_mut().workers.request(request) {
                    self.not_sent(outcome);
                }
            }
            Effect::StopRequests => {
                for outcome in self.process_mut().workers.cancel_queued() {
                    self.not_sent(outcome);
                }
            }
            Effect::ReadConfiguration { .. } => {
                let result = self.crowd.configuration(&mut self.rng, self.calm_since.is_some());
                let delay = short(&mut self.rng, secs(5));
                let process = self.number();
                self.after(delay, Event::Configuration { process, result });
            }
            Effect::Exit | Effect::Fail(_) => self.process_mut().over = true,
            Effect::WatchConfigurations(_) | Effect::SetLogLevel(_) | Effect::Log(..) => {}
        }
    }

    fn not_sent(&mut self, outcome: Outcome) {
        self.rules.answered(self.now, outcome.ticket, &outcome.answer, Duration::ZERO);
        self.process_mut().turn.input(Input::Outcome(outcome));
    }

    fn ack(&mut self, via: Via, ack: &Ack, receipt: Option<Receipt>) {
        match (via, receipt) {
            (Via::Kafka, Some(receipt)) => self.produce(receipt),
            // It is written to the client at once, or there is no client any more.
            (Via::Socket(_), Some(receipt)) => self.delivered_at_once(receipt),
            (Via::CommandLine, _) => self.process_mut().turn.transition_ended(ack),
            (_, None) => {}
        }
    }

    fn publish(&mut self, event: &SalEvent, receipt: Option<Receipt>) {
        if let SalEvent::JobId { job_id, .. } = event {
            self.crowd.learn(job_id);
        }
        match receipt {
            Some(receipt) if self.plan.kafka => self.produce(receipt),
            Some(receipt) => self.delivered_at_once(receipt),
            None => {}
        }
    }

    fn delivered_at_once(&mut self, receipt: Receipt) {
        self.rules.delivered(self.number(), receipt);
        self.delivered(receipt);
    }

    pub(super) fn delivered(&mut self, receipt: Receipt) {
        self.rules.start.kept(Record::Delivered(receipt));
        self.process_mut().turn.delivered(Some(receipt));
    }

    /// Gives a message to Kafka's client, which tries until it is delivered or we die.
    fn produce(&mut self, receipt: Receipt) {
        let delay = short(&mut self.rng, secs(2));
        let last = self.broker.last.get(&receipt.what).copied().unwrap_or_default();
        let time = (self.now.max(self.broker.away_until) + delay).max(last);
        self.broker.last.insert(receipt.what, time);
        self.broker.flying += 1;
        let process = self.number();
        self.at(time, Event::Delivered { process, receipt });
    }

    pub(super) fn deliver(&mut self, process: u32, receipt: Receipt) {
        self.broker.flying -= 1;
        if !self.is_alive(process) && self.rng.bool() {
            // It died with the process; or else it was on the wire.
            return;
        }
        if self.now < self.broker.away_until && self.is_alive(process) {
            return self.produce(receipt);
        }
        self.note(&format!("delivered {receipt:?}"));
        self.rules.delivered(process, receipt);
        let delay = short(&mut self.rng, secs(5));
        self.after(delay, Event::Reported { process, receipt });
    }

    pub(super) fn begin_requests(&mut self) {
        while let Some(request) = self.process.as_mut().and_then(|process| process.workers.begin(self.now)) {
            self.permit(request, self.now + PATIENCE);
        }
    }

    /// A thread sends a request; with one that changes something it waits until then for the right to do so.
    pub(super) fn permit(&mut self, request: Request, until: Duration) {
        let now = self.now;
        let process = self.process_mut();
        let (process, is_leased) = (process.number, process.journal.is_leased(now));
        if !request.action.is_change() {
            return self.send_request(&request);
        }
        if is_leased {
            self.check_sender(&request.action);
            self.may_be_disturbed();
            return self.send_request(&request);
        }
        self.rules.counts.withheld += u64::from(until == now + PATIENCE);
        if now < until {
            return self.after(LOOK, Event::Permit { process, request: Box::new(request), until });
        }
        let answer = request.action.failed(withheld());
        let outcome = Outcome { ticket: request.ticket, took: Duration::ZERO, answer };
        self.after(Duration::ZERO, Event::Answer { process, outcome, served: Duration::ZERO });
    }

    fn send_request(&mut self, request: &Request) {
        let at = service_at(request.url.address());
        let (now, process) = (self.now, self.number());
        let Self { services, plan, rng, .. } = self;
        let Fate { served, answer } = services[at].send(now, process, request, plan, rng);
        if let Some((time, call)) = served {
            self.at(time, Event::Serve { process, call: Box::new(call), at });
        }
        if let Some((time, answer)) = answer {
            let outcome = Outcome { ticket: request.ticket, took: Duration::ZERO, answer };
            self.at(time, Event::Answer { process, outcome, served: Duration::ZERO });
        }
    }

    pub(super) fn serve(&mut self, process: u32, call: &Call, at: usize) {
        let Self { services, plan, rng, .. } = self;
        let jobs = services[at].jobs.len();
        let answer = services[at].serve(self.now, call, plan, rng);
        let mut lines = Vec::new();
        for job in services[at].jobs.iter().skip(jobs) {
            self.rules.made(self.now, job, &services[at]);
            lines.push(format!("made {} of {:?}, visible at {:?}", job.id, job.made, job.visible));
        }
        for line in lines {
            self.note(&line);
        }
        let line = lines::call(call);
        self.note(&format!("served {line}"));
        if let Some((time, answer)) = answer {
            let outcome = Outcome { ticket: call.ticket, took: Duration::ZERO, answer };
            let served = self.now;
            self.at(time, Event::Answer { process, outcome, served });
        }
    }

    pub(super) fn answer(&mut self, mut outcome: Outcome, served: Duration) {
        let now = self.now;
        self.process_mut().workers.ended(&mut outcome, now);
        self.answered(outcome, served);
        if self.process.is_some() {
            self.begin_requests();
        }
    }

    /// The main loop reads an answer.
    pub(super) fn answered(&mut self, outcome: Outcome, served: Duration) {
        self.rules.answered(self.now, outcome.ticket, &outcome.answer, served);
        if let Answer::List(Ok(listed)) = &outcome.answer {
            self.rules.listed(&listed.jobs);
        }
        self.input(Input::Outcome(outcome));
    }
}
