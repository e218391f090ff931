//! A turn of the main loop: what goes to the core, in which order, and what follows. It has no I/O, thread or clock, so
//! that the simulation runs the shipped code.
//!
//! The main loop hands over what happened, carries out each [`Step`] of [`Turn::next`] until there is none, and hands back
//! the results: refused requests ([`Turn::input`]), records ([`Turn::keep`]), deliveries ([`Turn::delivered`]) and acks to
//! the command line ([`Turn::transition_ended`]).
//!
//! At the *start* the core joins the control system and then makes the transitions to the state that the command line
//! asks for. Commands that come before the start has ended wait here, at most [`EARLY_MAX`] of them, and are carried out
//! in the order in which they came.
//!
//! The records of a turn go to the journal together, and so into one commit: accepting an execute, the id of its job and
//! its end take one commit each at most. Only deliveries and notes ([`Record::Noted`]) wait for the next heartbeat, which comes
//! within a second, or until there are [`DELIVERIES_MAX`]: nothing depends on them, and what is published again after a
//! crash has equal content.

use std::collections::VecDeque;
use std::mem;

use crate::csc::command::{Command, CommandKind, Sender, Via};
use crate::csc::event::{Ack, Event, LogLevel};
use crate::csc::id::SeqNum;
use crate::csc::record::{Receipt, Record, Recovered};
use crate::csc::state::SummaryState;
use crate::csc::time::Time;
use crate::csc::{Csc, Effect, Input, Settings};
use crate::journal::Report;

/// Most commands that wait for the start to end; more are refused.
pub const EARLY_MAX: usize = 1024;

/// Most deliveries and notes that wait for the next heartbeat.
pub const DELIVERIES_MAX: usize = 100;

/// Where the start is to lead.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// STANDBY, DISABLED or ENABLED; none: the state of the previous run, if that was one of these, else STANDBY.
    pub state: Option<SummaryState>,
    /// The override for `start`, `[file][:gitref]`; none: that of the previous run, where its state is resumed.
    pub override_name: Option<String>,
}

impl Default for Goal {
    fn default() -> Self {
        Self { state: Some(SummaryState::Standby), override_name: None }
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Carry out these effects, in this order.
    Run(Vec<Effect>),
    /// Hand these records to the journal, which keeps them together.
    Write(Vec<Record>),
    /// Report that the start has ended: commands are carried out, in the state asked for unless there is a
    /// [`Turn::start_problem`].
    Started,
}

/// The core, and what waits to go in or has come out.
#[derive(Debug)]
pub struct Turn {
    csc: Csc,
    has_journal: bool,
    /// Where the start is to lead; none from [`Turn::recovered`] on.
    goal: Option<Goal>,
    has_joined: bool,
    has_started: bool,
    /// Transitions of the start that have not ended; the first is under way, once the core has joined.
    transitions: VecDeque<Command>,
    start_problem: Option<String>,
    /// Commands that wait for the start to end.
    early: VecDeque<Command>,
    /// The last summary state of the start. It is recorded when the start ends: after a start that is cut off, the next
    /// run goes where this one was to go.
    reached: Option<Record>,
    /// What the core has not handled yet.
    inputs: VecDeque<Input>,
    /// The records of this turn, and earlier deliveries and notes.
    records: Vec<Record>,
    /// A heartbeat was published: deliveries and notes are to be written.
    is_beat: bool,
}

impl Turn {
    /// A core at its start, and the effects to be carried out first. Without `recovered`, the journal is still being opened,
    /// and the core must not join before [`Turn::recovered`].
    pub fn new(
        settings: Settings,
        seed: u64,
        now: Time,
        goal: &Goal,
        recovered: Option<Recovered>,
    ) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        let (has_journal, joins) = (settings.journal, settings.joins);
        let csc = Csc::new(settings, seed, now, &mut effects);
        let mut turn = Self {
            csc,
            has_journal,
            goal: Some(goal.clone()),
            has_joined: false,
            has_started: false,
            transitions: VecDeque::new(),
            start_problem: None,
            early: VecDeque::new(),
            reached: None,
            inputs: VecDeque::new(),
            records: Vec::new(),
            is_beat: true,
        };
        effects.extend(recovered.into_iter().flat_map(|recovered| turn.recovered(now, recovered)));
        if !joins {
            turn.inputs.push_back(Input::Joined);
        }
        (turn, effects)
    }

    /// The journal is open, with what the previous run left; gives the effects to be carried out at once.
    pub fn recovered(&mut self, now: Time, recovered: Recovered) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(goal) = self.goal.take() {
            self.transitions = transitions(&goal, &recovered, now, &mut effects);
            self.inputs.push_back(Input::Recovered(recovered));
        }
        effects
    }

    /// A command came.
    pub fn command(&mut self, command: Command) {
        if self.has_started {
            self.inputs.push_back(Input::Command(command));
        } else if self.early.len() < EARLY_MAX {
            self.early.push_back(command);
        } else {
            let reason = format!("the daemon is starting, and {EARLY_MAX} commands wait for that already");
            self.inputs.push_back(Input::Refused(command, reason));
        }
    }

    /// No other instance is running, as far as can be known. May come again when Kafka comes back.
    pub fn joined(&mut self) {
        if !self.has_joined {
            self.inputs.push_back(Input::Joined);
        }
    }

    /// Anything else happened.
    pub fn input(&mut self, input: Input) {
        // The process ends before it has started: the next run goes where this one was to go.
        if matches!(input, Input::Terminate) && !self.has_started {
            self.cut_off("the daemon is stopping");
        } else if matches!(input, Input::DuplicateInstance(_)) && !self.has_joined {
            self.cut_off("another instance is running");
        }
        self.inputs.push_back(input);
    }

    /// The deadline has come. What the journal has reported until now goes first ([`Turn::report`]): a tick decides that it
    /// does not answer.
    pub fn tick(&mut self) {
        self.inputs.push_back(Input::Tick);
    }

    /// The journal has reported something.
    pub fn report(&mut self, report: Report) {
        match report {
            Report::Durable(records) => self.inputs.extend(records.into_iter().map(Input::Journaled)),
            Report::Failed(reason) => self.inputs.push_back(Input::JournalFailed(reason)),
            Report::Back => self.inputs.push_back(Input::JournalBack),
        }
    }

    /// The ack or result with this receipt was delivered.
    pub fn delivered(&mut self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            self.records.push(Record::Delivered(receipt));
            self.inputs.push_back(Input::Delivered(receipt));
        }
    }

    /// The core wants this record kept.
    pub fn keep(&mut self, record: Record) {
        if matches!(record, Record::State { .. }) && !self.has_started {
            self.reached = Some(record);
        } else {
            self.records.push(record);
        }
    }

    /// The core has answered a transition of the start. After one that failed the others are left out.
    pub fn transition_ended(&mut self, ack: &Ack) {
        match ack {
            Ack::InProgress { .. } => {}
            Ack::Complete => {
                self.transitions.pop_front();
                self.make_transition();
            }
            Ack::Failed { reason } => {
                let name = self.transitions.front().and_then(|command| command.kind.name());
                self.start_problem = name.map(|name| format!("{} failed: {reason}", name.as_str()));
                self.transitions.clear();
            }
            Ack::Aborted => self.transitions.clear(),
        }
    }

    /// What is to be done next, if anything.
    pub fn next(&mut self, now: Time) -> Option<Step> {
        if self.has_joined && self.transitions.is_empty() && !self.has_started {
            self.has_started = true;
            self.records.extend(self.reached.take());
            self.inputs.extend(self.early.drain(..).map(Input::Command));
            return Some(Step::Started);
        }
        if let Some(input) = self.inputs.pop_front() {
            return Some(Step::Run(self.handle(now, input)));
        }
        let may_wait = |record: &Record| matches!(record, Record::Delivered(_)) || record.is_note();
        let are_all_due =
            mem::take(&mut self.is_beat) || !self.has_journal || self.records.len() >= DELIVERIES_MAX;
        let records: Vec<Record> =
            self.records.extract_if(.., |record| are_all_due || !may_wait(record)).collect();
        if records.is_empty() {
            return None;
        }
        if self.has_journal {
            return Some(Step::Write(records));
        }
        // Without a journal, all counts as durable at once.
        self.inputs.extend(records.iter().filter_map(Record::awaited).map(Input::Journaled));
        self.next(now)
    }

    /// The records that wait; at the end of the daemon they go to the journal too.
    pub fn left(&mut self) -> Vec<Record> {
        mem::take(&mut self.records)
    }

    fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let joins = matches!(input, Input::Joined);
        let mut effects = Vec::new();
        self.csc.handle(now, input, &mut effects);
        if joins {
            self.has_joined = true;
            self.make_transition();
        }
        let publishes = |is_it: fn(&Event) -> bool| {
            effects.iter().any(|effect| matches!(effect, Effect::Publish { event, .. } if is_it(event)))
        };
        self.is_beat |= publishes(|event| matches!(event, Event::Heartbeat));
        if publishes(|event| matches!(event, Event::SummaryState(_))) {
            self.start_problem = None;
        }
        effects
    }

    fn make_transition(&mut self) {
        self.inputs.extend(self.transitions.front().cloned().map(Input::Command));
    }

    fn cut_off(&mut self, reason: &str) {
        self.has_started = true;
        self.transitions.clear();
        self.refuse_early(reason);
    }

    /// Refuses the commands that wait for the start to end.
    pub fn refuse_early(&mut self, reason: &str) {
        let refused = self.early.drain(..).map(|command| Input::Refused(command, reason.to_owned()));
        self.inputs.extend(refused);
    }

    /// The core.
    pub fn csc(&self) -> &Csc {
        &self.csc
    }

    /// Whether the turn waits for [`Turn::recovered`].
    pub fn is_recovering(&self) -> bool {
        self.goal.is_some()
    }

    /// Whether the turn waits for [`Input::Joined`].
    pub fn is_joining(&self) -> bool {
        !self.has_joined
    }

    /// How many commands wait for the start to end.
    pub fn early(&self) -> usize {
        self.early.len()
    }

    /// Whether the start has ended.
    pub fn has_started(&self) -> bool {
        self.has_started
    }

    /// Why the start did not reach its goal; none after the next change of state.
    pub fn start_problem(&self) -> Option<&str> {
        self.start_problem.as_deref()
    }

    /// What the core handles next; for tests.
    pub fn upcoming(&self) -> Option<&Input> {
        self.inputs.front()
    }
}

/// The transitions from STANDBY to the goal.
fn transitions(
    goal: &Goal,
    recovered: &Recovered,
    now: Time,
    effects: &mut Vec<Effect>,
) -> VecDeque<Command> {
    use SummaryState::{Disabled, Enabled, Fault, Offline, Standby};
    let mut log = |line| effects.push(Effect::Log(LogLevel::Info, line));
    let (target, resumed) = match (goal.state, &recovered.state) {
        (Some(state), _) => (state, None),
        (None, Some((state @ (Standby | Disabled | Enabled), override_name))) => {
            (*state, Some(override_name))
        }
        (None, Some((state @ (Fault | Offline), _))) => {
            log(format!("the previous run was in {state}, which is not resumed: beginning in STANDBY"));
            (Standby, None)
        }
        (None, None) => {
            log("no summary state to resume is known: STANDBY".to_owned());
            (Standby, None)
        }
    };
    let override_name = goal.override_name.as_ref().or(resumed).cloned().unwrap_or_default();
    let count = match target {
        Standby | Fault | Offline => 0,
        Disabled => 1,
        Enabled => 2,
    };
    let identity = "ocps run --state".to_owned();
    let sender = Sender { via: Via::CommandLine, identity, origin: 0, seq_num: SeqNum(1), sent: now.tai };
    let kinds = [CommandKind::Start { override_name }, CommandKind::Enable];
    kinds.into_iter().take(count).map(|kind| Command { sender: sender.clone(), kind }).collect()
}
