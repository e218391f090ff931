//! What must hold of the turn, and of the start of a process above all: who is served when, what is recorded when,
//! and when the daemon reports that the requested state was reached.

use std::collections::VecDeque;

use ocps::csc::Input;
use ocps::csc::command::{Command, CommandKind, Sender, Via};
use ocps::csc::event::Ack;
use ocps::csc::record::Record;
use ocps::csc::state::SummaryState;
use ocps::daemon::turn::{DELIVERIES_MAX, EARLY_MAX, Goal, Turn};
use ocps::journal::Report;

/// A process from its start on.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    target: SummaryState,
    override_name: String,
    /// The transitions to that state that have not begun.
    transitions: VecDeque<CommandKind>,
    is_under_way: bool,
    has_failed: bool,
    has_joined: bool,
    has_started: bool,
    /// It ends before it has started.
    is_cut_off: bool,
    /// Numbers of the commands that came and that the core has not got, in that order.
    waiting: VecDeque<i32>,
    /// What is to be written at the end of the turn.
    unwritten: Vec<Record>,
    /// The last state of the start, which is written at its end.
    unwritten_state: Option<Record>,
    /// Reports of the journal that the core has not got.
    unread: usize,
    /// Whether the turn is one of a heartbeat.
    is_beat: bool,
}

impl Start {
    pub(crate) fn new(goal: &Goal, recorded: Option<&(SummaryState, String)>) -> Self {
        let resumed = recorded.filter(|_| goal.state.is_none());
        let is_resumed = |state| state == SummaryState::Disabled || state == SummaryState::Enabled;
        let resumed = resumed.filter(|(state, _)| is_resumed(*state));
        let target = goal.state.or(resumed.map(|(state, _)| *state)).unwrap_or(SummaryState::Standby);
        let override_name = goal.override_name.clone().or(resumed.map(|(_, name)| name.clone()));
        let override_name = override_name.unwrap_or_default();
        let start = CommandKind::Start { override_name: override_name.clone() };
        let transitions = match target {
            SummaryState::Standby => VecDeque::new(),
            SummaryState::Disabled => VecDeque::from([start]),
            SummaryState::Enabled => VecDeque::from([start, CommandKind::Enable]),
            SummaryState::Fault | SummaryState::Offline => panic!("{target} is never requested"),
        };
        Self {
            target,
            override_name,
            transitions,
            is_under_way: false,
            has_failed: false,
            has_joined: false,
            has_started: false,
            is_cut_off: false,
            waiting: VecDeque::new(),
            unwritten: Vec::new(),
            unwritten_state: None,
            unread: 0,
            is_beat: true,
        }
    }

    fn is_starting(&self) -> bool {
        !self.has_started && !self.is_cut_off
    }

    /// A command comes; whether it comes early.
    pub(crate) fn arrived(&mut self, sender: &Sender) -> bool {
        self.waiting.push_back(sender.seq_num.0);
        self.is_starting()
    }

    /// Something else happens.
    pub(crate) fn input(&mut self, input: &Input) {
        let ends = matches!(input, Input::Terminate) && !self.has_started
            || matches!(input, Input::DuplicateInstance(_)) && !self.has_joined;
        if ends {
            self.is_cut_off = true;
            self.unwritten_state = None;
        }
    }

    pub(crate) fn report(&mut self, report: &Report) {
        self.unread += match report {
            Report::Durable(records) => records.len(),
            Report::Failed(_) | Report::Back => 1,
        };
    }

    /// The core takes this.
    pub(crate) fn taken(&mut self, input: &Input) {
        match input {
            Input::Command(command) if command.sender.via == Via::CommandLine => self.transition(command),
            Input::Command(command) => {
                assert!(!self.is_starting(), "carried out before the start has ended: {command:?}");
                self.next(&command.sender);
            }
            Input::Refused(command, reason) => {
                let is_stopping = self.is_cut_off && !reason.contains("wait");
                let is_too_many = self.waiting.len() > EARLY_MAX && reason.contains("1024 commands wait");
                assert!(is_stopping || self.is_starting() && is_too_many, "refused: {command:?} {reason}");
                if is_stopping {
                    self.next(&command.sender);
                } else {
                    assert_eq!(self.waiting.pop_back(), Some(command.sender.seq_num.0), "not the last");
                }
            }
            Input::Joined => {
                assert!(!self.has_joined, "joined twice");
                self.has_joined = true;
            }
            Input::Journaled(_) | Input::JournalFailed(_) | Input::JournalBack => {
                self.unread = self.unread.checked_sub(1).unwrap_or_else(|| panic!("not reported: {input:?}"));
            }
            Input::Tick => {
                assert_eq!(self.unread, 0, "a tick before the reports of the journal");
            }
            Input::Outcome(_)
            | Input::Configuration(_)
            | Input::ConfigurationsAvailable(_)
            | Input::Recovered(_)
            | Input::Delivered(_)
            | Input::LogLevel(_)
            | Input::DuplicateInstance(_)
            | Input::Terminate => {}
        }
    }

    /// Whether no more commands can wait.
    pub(crate) fn is_full(&self) -> bool {
        self.is_starting() && self.waiting.len() == EARLY_MAX
    }

    fn next(&mut self, sender: &Sender) {
        assert_eq!(self.waiting.pop_front(), Some(sender.seq_num.0), "out of order: {sender:?}");
    }

    /// One that the command line asks for.
    fn transition(&mut self, command: &Command) {
        assert!(self.has_joined && self.is_starting(), "not now: {command:?}");
        assert!(!self.is_under_way && !self.has_failed, "the one before has not ended well: {command:?}");
        assert_eq!(self.transitions.pop_front().as_ref(), Some(&command.kind), "not asked for");
        self.is_under_way = true;
    }

    /// It is answered.
    pub(crate) fn transition_ended(&mut self, ack: &Ack) {
        assert!(self.is_under_way, "no transition is under way: {ack:?}");
        self.is_under_way = false;
        self.has_failed |= *ack != Ack::Complete;
    }

    /// The configuration is read with this.
    pub(crate) fn reads(&self, override_name: &str) {
        let is_its = override_name == self.override_name;
        assert!(is_its || !self.is_under_way, "{override_name} instead of {}", self.override_name);
    }

    /// A heartbeat is published.
    pub(crate) fn beats(&mut self) {
        self.is_beat = true;
    }

    /// The core wants this kept, or it was delivered.
    pub(crate) fn kept(&mut self, record: Record) {
        if self.is_starting() && matches!(record, Record::State { .. }) {
            self.unwritten_state = Some(record);
        } else {
            self.unwritten.push(record);
        }
    }

    /// It is reported that the start has ended.
    pub(crate) fn started(&mut self, turn: &Turn) {
        assert!(self.is_starting() && self.has_joined, "not now: {self:?}");
        let is_through = self.transitions.is_empty() && !self.is_under_way;
        assert!(self.has_failed || is_through, "ready before {} is reached", self.target);
        assert_eq!(self.has_failed, turn.start_problem().is_some(), "{:?}", turn.start_problem());
        let state = turn.csc().state();
        assert!(self.has_failed || state == self.target, "ready in {state} instead of {}", self.target);
        self.has_started = true;
        self.unwritten.extend(self.unwritten_state.take());
    }

    /// These are handed to the journal.
    pub(crate) fn written(&mut self, records: &[Record]) {
        let are_all_due = std::mem::take(&mut self.is_beat) || self.unwritten.len() >= DELIVERIES_MAX;
        let is_due = |record: &mut Record| are_all_due || !may_wait(record);
        let due: Vec<Record> = self.unwritten.extract_if(.., is_due).collect();
        assert_eq!(records, due, "not what is to be kept of this turn");
    }

    /// These are handed to the journal when the daemon ends.
    pub(crate) fn written_at_the_end(&mut self, records: &[Record]) {
        assert_eq!(records, std::mem::take(&mut self.unwritten), "not all that is to be kept");
    }

    /// The turn is over.
    pub(crate) fn rest(&mut self) {
        let is_beat = std::mem::take(&mut self.is_beat);
        let may_all_wait = !is_beat && self.unwritten.len() < DELIVERIES_MAX;
        let is_written = self.unwritten.is_empty() || may_all_wait && self.unwritten.iter().all(may_wait);
        assert!(is_written, "not handed to the journal: {:?}", self.unwritten);
        assert_eq!(self.unread, 0, "the core has not got all reports of the journal");
        if self.is_starting() {
            assert!(self.waiting.len() <= EARLY_MAX, "{} wait", self.waiting.len());
            let is_due = self.has_joined && !self.is_under_way;
            assert!(!is_due, "the start neither continues nor ends: {self:?}");
        } else {
            assert!(self.waiting.is_empty(), "not carried out: {:?}", self.waiting);
        }
    }

    /// The process ends in order. Commands after the one to end are not answered.
    pub(crate) fn ended(&self) {
        assert!(self.has_started || self.waiting.is_empty(), "not answered: {:?}", self.waiting);
    }
}

/// What was delivered and notes may wait for the next heartbeat.
fn may_wait(record: &Record) -> bool {
    matches!(record, Record::Delivered(_)) || record.is_note()
}
