//! A core, its clock, and what it published and requested, as short lines of text.
//!
//! `ack 1 CMD_COMPLETE Done`, `summaryState DISABLED`, `PUT 1` (of the execute with number 1), `GET a`,
//! `DELETE a`, `LIST`, `result a 0 known completed`, `job_id 1 a`, `journal` (of an execute), `StopRequests`, `Exit`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ocps::csc::command::{Command, CommandKind, Execute, Sender, Via};
use ocps::csc::configuration::{Configuration, Service};
use ocps::csc::event::{
    Ack, ConfigurationsAvailable, ErrorCode, Event, JobObject, LogLevel, Phase, ResultObject,
};
use ocps::csc::id::{ClientId, JobId, RunId, SalIndex, SeqNum};
use ocps::csc::record::{Awaited, Receipt, Record, Work};
use ocps::csc::request::{
    Action, Answer, Contact, Failure, FailureKind, JobStatus, Listed, ListedJob, Outcome, Request,
    Submission, Ticket, Wanted,
};
use ocps::csc::time::{Tai, Time};
use ocps::csc::{Csc, Effect, Input, Settings};
use ocps::sal::ack::AckFields;

use super::rules::Rules;
pub(crate) use crate::core_settings::core_settings as settings;
use crate::reply::Reply;

/// Of `start` in [`World::enabled`]; the executes and aborts of a test are numbered from 1.
const FIRST_OWN_NUMBER: i32 = 9001;

pub(crate) const POLL: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) csc: Csc,
    pub(crate) now: Duration,
    /// Whether each record is durable at once.
    pub(crate) journal_at_once: bool,
    /// Whether pings of the service are answered at once.
    pub(crate) pong_at_once: bool,
    /// Records that are not.
    pub(crate) unjournaled: Vec<Awaited>,
    /// Requests that were not answered, in the order in which they were asked.
    pub(crate) open: Vec<Request>,
    /// Whether a list that is asked for only since each submission is followed by looks for extra jobs is shown like
    /// the others; else it is answered at once, with none.
    pub(crate) shows_routine: bool,
    /// What the back-end takes for a list, and for any other request.
    pub(crate) took: [Duration; 2],
    /// Runs that were sent once and answered with a job.
    clean: BTreeSet<RunId>,
    routine: Vec<Ticket>,
    /// Each line so far, and when.
    pub(crate) lines: Vec<(Duration, String)>,
    /// Each line of the log, with its level.
    pub(crate) logged: Vec<(LogLevel, String)>,
    /// All that was journaled.
    pub(crate) records: Vec<Record>,
    /// What waits for delivery, in the order in which it was published.
    pub(crate) receipts: Vec<Receipt>,
    /// Each submission that was sent.
    pub(crate) submissions: Vec<Arc<Submission>>,
    rules: Rules,
    /// How many of `lines` were taken.
    taken: usize,
    next_number: i32,
    /// The number of the next command of [`World::enable`].
    own_number: i32,
    effects: Vec<Effect>,
}

pub(crate) fn configuration() -> Configuration {
    Configuration {
        service: Service {
            url: "http://uws".into(),
            poll_interval: POLL,
            butler: Some("/repo".to_owned()),
            input_collection: None,
            output_glob: Some("*".to_owned()),
        },
        files: "_init.yaml".to_owned(),
        version: "v1".to_owned(),
        directory_url: "file:///etc/v4".to_owned(),
    }
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn execute(prereqs: &str) -> CommandKind {
    CommandKind::Execute(Execute {
        pipeline: "p.yaml".to_owned(),
        version: String::new(),
        config: String::new(),
        data_query: String::new(),
        prereq_jobs: Execute::parse_prereq_jobs(prereqs).unwrap(),
        output_dataset_types: String::new(),
    })
}

pub(crate) fn abort(id: &str) -> CommandKind {
    CommandKind::AbortJob(job_id(id))
}

pub(crate) fn start() -> CommandKind {
    CommandKind::Start { override_name: String::new() }
}

pub(crate) fn job_id(id: &str) -> JobId {
    JobId::parse(id).unwrap()
}

pub(crate) fn object(id: &str) -> JobObject {
    JobObject(format!("object of {id}").into())
}

pub(crate) fn job(id: &str, phase: Phase) -> Reply {
    Reply::Job(JobStatus { job_id: job_id(id), phase, object: object(id) })
}

pub(crate) fn failed(kind: FailureKind, contact: Contact) -> Reply {
    Reply::Failed(Failure { kind, contact, reason: "no luck".to_owned() })
}

/// The service is away and nothing reached it.
pub(crate) fn away() -> Reply {
    failed(FailureKind::NotSent, Contact::Silent)
}

pub(crate) fn unclear() -> Reply {
    failed(FailureKind::Unclear, Contact::Silent)
}

pub(crate) fn refused() -> Reply {
    failed(FailureKind::Refused, Contact::Answered)
}

pub(crate) fn wrong() -> Reply {
    failed(FailureKind::Wrong, Contact::Answered)
}

pub(crate) fn removed() -> Reply {
    Reply::Removed { object: None }
}

pub(crate) fn available(overrides: &str) -> Input {
    Input::ConfigurationsAvailable(ConfigurationsAvailable {
        overrides: overrides.to_owned(),
        version: "v1".to_owned(),
        url: "file:///etc/v4".to_owned(),
    })
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings(), 1)
    }

    /// A core in STANDBY, with the lines of its start not taken yet.
    pub(crate) fn with(settings: Settings, seed: u64) -> Self {
        let mut effects = Vec::new();
        let now = Duration::ZERO;
        let rules = Rules::new(&settings);
        let csc = Csc::new(settings, seed, time(now), &mut effects);
        let mut world = Self {
            csc,
            now,
            journal_at_once: true,
            pong_at_once: true,
            unjournaled: Vec::new(),
            open: Vec::new(),
            shows_routine: false,
            took: [Duration::ZERO; 2],
            clean: BTreeSet::new(),
            routine: Vec::new(),
            lines: Vec::new(),
            logged: Vec::new(),
            records: Vec::new(),
            receipts: Vec::new(),
            submissions: Vec::new(),
            rules,
            taken: 0,
            next_number: 1,
            own_number: FIRST_OWN_NUMBER,
            effects: Vec::new(),
        };
        world.absorb(&effects, None);
        world
    }

    /// A core in ENABLED, with all lines so far taken.
    pub(crate) fn enabled() -> Self {
        Self::enabled_with(settings())
    }

    pub(crate) fn enabled_with(settings: Settings) -> Self {
        let mut world = Self::with(settings, 1);
        world.enable();
        world
    }

    /// A core in ENABLED that has just sent the submission of its execute 1.
    pub(crate) fn submitting() -> Self {
        let mut world = Self::enabled();
        world.send(execute(""));
        world
    }

    /// A core in ENABLED whose execute 1 has the running job `a`.
    pub(crate) fn tracking() -> Self {
        let mut world = Self::enabled();
        world.running("a");
        world
    }

    /// From STANDBY to ENABLED.
    pub(crate) fn enable(&mut self) {
        std::mem::swap(&mut self.next_number, &mut self.own_number);
        self.send(start());
        self.input(Input::Configuration(Ok(configuration())));
        self.send(CommandKind::Enable);
        std::mem::swap(&mut self.next_number, &mut self.own_number);
        self.take();
    }

    /// Next commands are numbered from here.
    pub(crate) fn number_from(&mut self, number: i32) {
        self.next_number = number;
    }

    /// A command over the local socket; gives its number.
    pub(crate) fn send(&mut self, kind: CommandKind) -> i32 {
        let sender = self.sender(Via::Socket(ClientId(1)));
        self.command(&sender, kind)
    }

    /// A command over Kafka; what it gives can be sent again.
    pub(crate) fn send_by_kafka(&mut self, kind: CommandKind) -> Sender {
        let sender = self.sender(Via::Kafka);
        self.command(&sender, kind);
        sender
    }

    pub(crate) fn sender(&mut self, via: Via) -> Sender {
        let seq_num = SeqNum(self.next_number);
        self.next_number += 1;
        Sender { via, identity: "root@host".to_owned(), origin: 7, seq_num, sent: time(self.now).tai }
    }

    pub(crate) fn command(&mut self, sender: &Sender, kind: CommandKind) -> i32 {
        self.input(Input::Command(Command { sender: sender.clone(), kind }));
        sender.seq_num.0
    }

    pub(crate) fn tick(&mut self) {
        self.input(Input::Tick);
    }

    /// Hands the core one input and checks all rules.
    pub(crate) fn input(&mut self, input: Input) {
        let is_tick = matches!(input, Input::Tick);
        self.rules.before(self.now, &input, &self.open);
        let mut effects = std::mem::take(&mut self.effects);
        self.csc.handle(time(self.now), input.clone(), &mut effects);
        self.absorb(&effects, Some(&input));
        if !self.is_over() {
            self.rules.deadline(self.now, self.csc.next_deadline(), is_tick);
        }
        effects.clear();
        self.effects = effects;
        if self.journal_at_once {
            self.journal_all();
        }
        if self.pong_at_once {
            let is_ping = |request: &Request| request.action == Action::Ping;
            if let Some(at) = self.open.iter().position(is_ping) {
                self.answer_at(at, Reply::Done);
            }
        }
        for ticket in std::mem::take(&mut self.routine) {
            self.input(Input::Outcome(Outcome {
                ticket,
                took: self.took[0],
                answer: Answer::List(Ok(Listed::default())),
            }));
        }
    }

    fn is_routine(&self, request: &Request) -> bool {
        match &request.action {
            Action::List(Wanted { run_ids, job_ids, active_of }) => {
                let is_for_more = !job_ids.is_empty() || active_of.is_some();
                !self.shows_routine && !is_for_more && run_ids.is_subset(&self.clean)
            }
            Action::Submit(_)
            | Action::Status { .. }
            | Action::Remove { .. }
            | Action::Push { .. }
            | Action::Ping => false,
        }
    }

    fn absorb(&mut self, effects: &[Effect], input: Option<&Input>) {
        for effect in effects {
            self.rules.effect(effect, input, &self.csc);
            if let Effect::Request(request) = effect
                && self.is_routine(request)
            {
                self.routine.push(request.ticket);
                continue;
            }
            match effect {
                Effect::Request(request) => {
                    self.open.push(request.clone());
                    if let Action::Submit(submission) = &request.action {
                        self.submissions.push(submission.clone());
                    }
                }
                Effect::Journal(record) => {
                    self.records.push(record.clone());
                    self.unjournaled.extend(record.awaited());
                }
                Effect::Ack { receipt, .. } | Effect::Publish { receipt, .. } => {
                    self.receipts.extend(*receipt);
                }
                Effect::Log(level, line) => self.logged.push((*level, line.clone())),
                Effect::StopRequests
                | Effect::ReadConfiguration { .. }
                | Effect::WatchConfigurations(_)
                | Effect::SetLogLevel(_)
                | Effect::Exit
                | Effect::Fail(_) => {}
            }
            if let Some(line) = line(effect) {
                self.lines.push((self.now, line));
            }
        }
        self.rules.after(&self.csc);
    }

    pub(crate) fn journal_all(&mut self) {
        for record in std::mem::take(&mut self.unjournaled) {
            self.input(Input::Journaled(record));
        }
    }

    /// Lets time pass until `deadline`, with a tick whenever the core wants one.
    pub(crate) fn run_until(&mut self, deadline: Duration) {
        while !self.is_over() && self.csc.next_deadline() <= deadline {
            self.now = self.now.max(self.csc.next_deadline());
            self.tick();
        }
        self.now = self.now.max(deadline);
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Lets time pass until this request is asked for.
    #[track_caller]
    pub(crate) fn run_to(&mut self, request: &str) {
        let limit = self.now + secs(4000);
        while !self.open.iter().any(|open| name(open) == request) {
            assert!(self.now < limit, "{request} was never asked for: {:?}", self.open);
            self.now = self.now.max(self.csc.next_deadline());
            self.tick();
        }
    }

    /// Answers the last open request of that name.
    #[track_caller]
    pub(crate) fn answer(&mut self, request: &str, answer: Reply) {
        let Some(at) = self.open.iter().rposition(|open| name(open) == request) else {
            panic!("{request} was not asked for: {:?}", self.open);
        };
        self.answer_at(at, answer);
    }

    /// What the last open request of that name asks for.
    pub(crate) fn asked(&self, request: &str) -> &Action {
        &self.open.iter().rfind(|open| name(open) == request).unwrap().action
    }

    #[track_caller]
    pub(crate) fn answer_at(&mut self, at: usize, reply: Reply) {
        let Request { ticket, action, .. } = self.open.remove(at);
        let Some(answer) = reply.clone().to(&action) else { panic!("{reply:?} is no answer to {action:?}") };
        if let (Action::Submit(submission), Answer::Submit(Ok(_))) = (action, &answer)
            && self.submissions.iter().filter(|sent| sent.run_id == submission.run_id).count() == 1
        {
            self.clean.insert(submission.run_id.clone());
        }
        let [list, other] = self.took;
        let took = if matches!(answer, Answer::List(_)) { list } else { other };
        self.input(Input::Outcome(Outcome { ticket, took, answer }));
    }

    /// Waits for the request, then answers it.
    #[track_caller]
    pub(crate) fn run_to_answer(&mut self, request: &str, answer: Reply) {
        self.run_to(request);
        self.answer(request, answer);
    }

    /// An execute with a running job of that id; gives its number.
    #[track_caller]
    pub(crate) fn running(&mut self, id: &str) -> i32 {
        let number = self.send(execute(""));
        self.answer(&format!("PUT {number}"), job(id, Phase::Active));
        self.take();
        number
    }

    /// The run id of the execute of that number.
    #[track_caller]
    pub(crate) fn run_id(&self, number: i32) -> RunId {
        let of_number = |report: &ocps::csc::report::JobReport| report.seq_num == SeqNum(number);
        self.csc.job_reports().find(of_number).unwrap().run_id
    }

    /// A job of the list that is active.
    pub(crate) fn active(&self, id: &str, number: i32) -> ListedJob {
        ListedJob { job_id: job_id(id), run_id: self.run_id(number), phase: Phase::Active, ended: None }
    }

    /// A list with these jobs, each with the number of its execute.
    pub(crate) fn listed(&self, jobs: &[(&str, i32)]) -> Reply {
        let listed = |(id, number): &(&str, i32)| self.active(id, *number);
        Reply::Listed(jobs.iter().map(listed).collect())
    }

    /// The lines since the last call, without heartbeats.
    pub(crate) fn take(&mut self) -> Vec<String> {
        let lines = self.lines[self.taken..].iter().map(|(_, line)| line.clone());
        let lines = lines.filter(|line| line != "heartbeat").collect();
        self.taken = self.lines.len();
        lines
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[&str]) {
        assert_eq!(self.take(), expected);
    }

    /// When there was this line.
    pub(crate) fn times(&self, line: &str) -> Vec<Duration> {
        self.lines.iter().filter(|(_, other)| other == line).map(|(time, _)| *time).collect()
    }

    pub(crate) fn open_names(&self) -> Vec<String> {
        self.open.iter().map(name).collect()
    }

    /// Run ids that the open list asks for.
    #[track_caller]
    pub(crate) fn asked_run_ids(&self) -> BTreeSet<RunId> {
        let mut lists = self.open.iter().filter_map(|request| match &request.action {
            Action::List(Wanted { run_ids, .. }) => Some(run_ids),
            Action::Submit(_)
            | Action::Status { .. }
            | Action::Remove { .. }
            | Action::Push { .. }
            | Action::Ping => None,
        });
        lists.next_back().unwrap().as_ref().clone()
    }

    /// Of which index the open list asks for all active jobs.
    pub(crate) fn asked_for(&self) -> Option<SalIndex> {
        self.open.iter().find_map(|request| match &request.action {
            Action::List(Wanted { active_of, .. }) => *active_of,
            Action::Submit(_)
            | Action::Status { .. }
            | Action::Remove { .. }
            | Action::Push { .. }
            | Action::Ping => None,
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rules.is_over()
    }

    /// Whether anything is unfinished: a job, or a command without its final ack.
    pub(crate) fn is_busy(&self) -> bool {
        self.rules.is_waited_for() || self.csc.status().jobs.iter().any(|(_, count)| *count > 0)
    }

    /// From now on the service does what it should; everything must come to an end.
    #[track_caller]
    pub(crate) fn converge(&mut self) {
        let limit = self.now + secs(1000);
        while !self.is_over() && (self.is_busy() || !self.open.is_empty()) {
            assert!(self.now < limit, "does not come to an end: {:?}", self.csc.status());
            self.journal_all();
            if self.rules.is_reading() {
                self.input(Input::Configuration(Err("cannot be read".to_owned())));
            } else if let Some(request) = self.open.first().cloned() {
                self.now += Duration::from_millis(10);
                let answer = self.rules.honest(&request);
                self.answer_at(0, answer);
            } else {
                self.now += secs(4);
                self.tick();
            }
        }
        if !self.is_over() {
            self.rules.nothing_left();
        }
    }
}

/// A list without a job of ours.
pub(crate) fn none() -> Reply {
    Reply::Listed(Vec::new())
}

pub(crate) fn time(mono: Duration) -> Time {
    Time { mono, tai: Tai(1_795_367_697.0 + mono.as_secs_f64()) }
}

/// The name of a request: `PUT 1`, `GET a`, `DELETE a`, `LIST`.
pub(crate) fn name(request: &Request) -> String {
    match &request.action {
        Action::Submit(submission) => format!("PUT {}", number_of(&submission.run_id)),
        Action::Status { job_id, .. } => format!("GET {job_id}"),
        Action::Remove { job_id } => format!("DELETE {job_id}"),
        Action::List(_) => "LIST".to_owned(),
        Action::Push { config, .. } => format!("PUSH {config}"),
        Action::Ping => "PING".to_owned(),
    }
}

/// The number of the execute in its run id.
pub(crate) fn number_of(run_id: &RunId) -> i32 {
    run_id.as_str().split('-').next().unwrap().parse().unwrap()
}

fn line(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Ack { to, command, ack, .. } => {
            // Every ack names its command.
            match ack {
                Ack::InProgress { .. } | Ack::Aborted => assert!(command.is_some()),
                Ack::Complete | Ack::Failed { .. } => {}
            }
            let fields = AckFields::from(ack);
            format!("ack {} {} {}", to.seq_num.0, fields.code.name(), fields.result)
        }
        Effect::Publish { event, .. } => event_line(event),
        // Sent when there is no other request.
        Effect::Request(Request { action: Action::Ping, .. }) => return None,
        Effect::Request(request) => name(request),
        Effect::Journal(Record::Accepted(entry)) if matches!(entry.work, Work::Execute { .. }) => {
            "journal".to_owned()
        }
        Effect::Journal(_) => return None,
        Effect::StopRequests => "StopRequests".to_owned(),
        Effect::ReadConfiguration { override_name } => format!("read {override_name:?}"),
        Effect::WatchConfigurations(watching) => format!("watch {watching:?}"),
        Effect::SetLogLevel(level) => format!("set log level {level}"),
        Effect::Exit => "Exit".to_owned(),
        Effect::Fail(reason) => format!("Fail {reason}"),
        Effect::Log(..) => return None,
    })
}

fn event_line(event: &Event) -> String {
    match event {
        Event::SummaryState(state) => format!("summaryState {state}"),
        Event::ErrorCode { code: ErrorCode::None, report } => format!("errorCode 0{report}"),
        Event::ErrorCode { code, report } => format!("errorCode {} {report}", code.number()),
        Event::Heartbeat => "heartbeat".to_owned(),
        Event::LogLevel { level } => format!("logLevel {level}"),
        Event::LogMessage(message) => format!("logMessage {}", message.message),
        Event::SimulationMode { mode } => format!("simulationMode {mode}"),
        Event::SoftwareVersions => "softwareVersions".to_owned(),
        Event::ConfigurationsAvailable(available) => {
            format!("configurationsAvailable {}", available.overrides)
        }
        Event::ConfigurationApplied { configurations, version, url } => {
            format!("configurationApplied {configurations} {version} {url}")
        }
        Event::JobId { seq_num, job_id } => format!("job_id {} {job_id}", seq_num.0),
        Event::JobResult(result) => {
            let (id, exit_code) = (&result.job_id, result.exit_code.number());
            match &result.result {
                ResultObject::Service(object) => format!("result {id} {exit_code} {}", object.0),
                ResultObject::Known { job_id, run_id, phase } => {
                    assert_eq!(job_id, id);
                    let run =
                        run_id.as_ref().map_or("of nobody".to_owned(), |run| number_of(run).to_string());
                    format!("result {id} {exit_code} known {run} {}", phase.as_str())
                }
            }
        }
    }
}
