//! What must hold always, whatever happens. Checked after each input of each test.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use ocps::csc::command::{CommandKind, CommandName, Via};
use ocps::csc::event::{Ack, ErrorCode, Event, ExitCode, JobResult, Phase};
use ocps::csc::id::{ClientId, EntryKey, JobId, RunId, SalIndex};
use ocps::csc::record::{AcceptedCommand, Awaited, Receipt, Record, RecoveredCommand, Work};
use ocps::csc::request::{Action, Answer, FailureKind, Outcome, Request, Ticket, Wanted};
use ocps::csc::{Csc, Effect, Input, Settings};

use super::world::{job, none, number_of, removed};
use crate::reply::Reply;

/// How long a record may be waited for.
const RECORDING_MAX: Duration = Duration::from_secs(10);

/// How far a command has come.
struct Progress {
    name: Option<CommandName>,
    /// The job it is about: of an execute once it is known, of an abort from the beginning, which may name a run.
    job_id: Option<JobId>,
    is_in_progress: bool,
    has_result: bool,
    is_ended: bool,
    prereqs: Vec<JobId>,
}

/// A submission at the service.
#[derive(Default)]
struct Put {
    is_out: bool,
    count: u32,
    /// A list that was asked for after the last one ended was answered, or it never was sent.
    may_repeat: bool,
    /// While it is out, its ticket; then the last ticket given when it ended.
    ticket: u64,
}

pub(crate) struct Rules {
    commands: BTreeMap<i32, Progress>,
    /// The execute of each record.
    records: BTreeMap<EntryKey, i32>,
    journaled: BTreeSet<i32>,
    /// Commands whose end is durable, or that need not be.
    durable_ends: BTreeSet<EntryKey>,
    has_journal: bool,
    /// Whether an execute makes a job.
    has_jobs: bool,
    /// Whether the journal fails: then what is not durable is published too.
    is_failing: bool,
    /// Records that are not durable, and since when they are waited for.
    waiting: Vec<(Awaited, Duration)>,
    now: Duration,
    puts: BTreeMap<RunId, Put>,
    /// Jobs that were published and have no result yet, with the number of their execute.
    live: BTreeMap<JobId, i32>,
    /// Jobs that we ever asked to remove.
    removed: HashSet<JobId>,
    /// Jobs whose abort was published.
    aborted: HashSet<JobId>,
    last_ticket: u64,
    last_events: Vec<Event>,
    is_stopped: bool,
    is_over: bool,
    /// Whether the configuration is being read.
    is_reading: bool,
    /// Number of jobs that the honest service made.
    made: u32,
    /// Tickets of all lists.
    lists: HashSet<u64>,
}

impl Rules {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            has_journal: settings.journal,
            has_jobs: settings.index != SalIndex::Ra,
            commands: BTreeMap::new(),
            records: BTreeMap::new(),
            journaled: BTreeSet::new(),
            durable_ends: BTreeSet::new(),
            is_failing: false,
            waiting: Vec::new(),
            now: Duration::ZERO,
            puts: BTreeMap::new(),
            live: BTreeMap::new(),
            removed: HashSet::new(),
            aborted: HashSet::new(),
            last_ticket: 0,
            last_events: Vec::new(),
            is_stopped: false,
            is_over: false,
            is_reading: false,
            made: 0,
            lists: HashSet::new(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Whether a command has not had its final ack.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.commands.values().any(|progress| !progress.is_ended)
    }

    /// Notes what is about to happen.
    pub(crate) fn before(&mut self, now: Duration, input: &Input, open: &[Request]) {
        self.now = now;
        self.is_failing = matches!(input, Input::JournalFailed(_));
        if let Input::Journaled(record) = input {
            self.waiting.retain(|(waiting, _)| waiting != record);
        }
        match input {
            Input::Command(command) | Input::Refused(command, _) => {
                let (job_id, prereqs) = match &command.kind {
                    CommandKind::AbortJob(job_id) => (Some(job_id.clone()), Vec::new()),
                    CommandKind::Execute(execute) => (None, execute.prereq_jobs.clone()),
                    CommandKind::Start { .. }
                    | CommandKind::Enable
                    | CommandKind::Disable
                    | CommandKind::Standby
                    | CommandKind::ExitControl
                    | CommandKind::SetLogLevel { .. }
                    | CommandKind::Invalid { .. } => (None, Vec::new()),
                };
                self.commands.entry(command.sender.seq_num.0).or_insert(Progress {
                    name: command.kind.name(),
                    job_id,
                    is_in_progress: false,
                    has_result: false,
                    is_ended: self.is_over,
                    prereqs,
                });
            }
            Input::Journaled(Awaited::Accepted(key)) => {
                self.journaled.insert(self.records[key]);
            }
            Input::Journaled(Awaited::Created(_)) => {}
            Input::Journaled(Awaited::Ended(key)) => {
                self.durable_ends.insert(*key);
            }
            Input::Recovered(recovered) => recovered.entries.iter().for_each(|kept| self.recovered(kept)),
            Input::Configuration(_) => self.is_reading = false,
            Input::Outcome(outcome) => {
                assert!(open.iter().all(|request| request.ticket != outcome.ticket), "answered twice");
                self.answered(outcome.ticket, &outcome.answer);
            }
            Input::Tick
            | Input::ConfigurationsAvailable(_)
            | Input::LogLevel(_)
            | Input::JournalFailed(_)
            | Input::JournalBack
            | Input::Delivered(_)
            | Input::Joined
            | Input::DuplicateInstance(_)
            | Input::Terminate => {}
        }
    }

    /// A command of a previous run.
    fn recovered(&mut self, kept: &RecoveredCommand) {
        let number = kept.entry.sender.seq_num.0;
        let result = kept.end.as_ref().and_then(|end| end.result.as_ref());
        if let Some(result) =
            result.filter(|result| result.exit_code == ExitCode::Aborted && kept.result_delivered)
        {
            self.aborted.insert(result.job_id.clone());
        }
        let (name, job_id, prereqs) = match &kept.entry.work {
            Work::Execute { submission, prereqs, .. } => {
                // It may have been sent: a list must be asked for first.
                self.puts.insert(submission.run_id.clone(), Put { count: 1, ..Put::default() });
                if let Some(result) = result.filter(|_| !kept.result_delivered) {
                    self.live.insert(result.job_id.clone(), number);
                }
                (CommandName::Execute, kept.job_id.clone(), prereqs.clone())
            }
            Work::Abort { job_id, .. } => (CommandName::AbortJob, Some(job_id.clone()), Vec::new()),
        };
        self.journaled.insert(number);
        self.records.insert(kept.entry.key, number);
        if kept.end.is_some() {
            self.durable_ends.insert(kept.entry.key);
        }
        let progress = Progress {
            name: Some(name),
            is_in_progress: job_id.is_some(),
            has_result: result.is_some() && kept.result_delivered,
            is_ended: kept.end.is_some() && kept.ack_delivered,
            job_id,
            prereqs,
        };
        assert!(self.commands.insert(number, progress).is_none());
    }

    fn answered(&mut self, ticket: Ticket, answer: &Answer) {
        let last_ticket = self.last_ticket;
        let is_list = self.lists.contains(&ticket.0) && matches!(answer, Answer::List(Ok(_)));
        for put in self.puts.values_mut() {
            if put.is_out && put.ticket == ticket.0 {
                let never_sent =
                    matches!(answer.of_service(), Some(Err(f)) if f.kind == FailureKind::NotSent);
                put.is_out = false;
                put.may_repeat = never_sent;
                put.ticket = last_ticket;
            } else if !put.is_out && is_list && ticket.0 > put.ticket {
                put.may_repeat = true;
            }
        }
    }

    pub(crate) fn effect(&mut self, effect: &Effect, input: Option<&Input>, csc: &Csc) {
        assert!(!self.is_over, "after Exit: {effect:?}");
        if let Effect::Ack { receipt: Some(receipt), .. } | Effect::Publish { receipt: Some(receipt), .. } =
            effect
        {
            self.receipt(*receipt);
        }
        if let Effect::Journal(record) = effect {
            self.waiting.extend(record.awaited().map(|awaited| (awaited, self.now)));
        }
        match effect {
            Effect::Ack { to, command, ack, .. } => self.ack(to.seq_num.0, *command, ack),
            Effect::Publish { event, .. } => self.event(event),
            Effect::Request(request) => self.request(request),
            Effect::Journal(Record::Accepted(entry)) => {
                match input {
                    Some(Input::Command(command)) => assert_eq!(entry.sender, command.sender),
                    Some(Input::Outcome(Outcome { answer: Answer::List(Ok(_)), .. })) => self.found(entry),
                    _ => panic!("a record without a command"),
                }
                assert!(self.records.insert(entry.key, entry.sender.seq_num.0).is_none());
            }
            Effect::Journal(_) => {}
            Effect::StopRequests => self.is_stopped = true,
            Effect::ReadConfiguration { .. } => self.is_reading = true,
            Effect::Exit => {
                assert!(self.is_stopped);
                assert_eq!(csc.state().name(), "OFFLINE");
                self.is_over = true;
            }
            Effect::Fail(_) => self.is_over = true,
            Effect::WatchConfigurations(_) | Effect::SetLogLevel(_) | Effect::Log(..) => {}
        }
    }

    /// A job of ours that runs although its command is forgotten: nobody can be answered.
    fn found(&mut self, entry: &AcceptedCommand) {
        assert_eq!(entry.sender.via, Via::Socket(ClientId::GONE));
        let progress = Progress {
            name: Some(CommandName::Execute),
            job_id: None,
            is_in_progress: false,
            has_result: false,
            is_ended: false,
            prereqs: Vec::new(),
        };
        assert!(self.commands.insert(entry.sender.seq_num.0, progress).is_none());
    }

    /// The end of a command is published when it is durable, or when the journal fails, or when there is none.
    fn receipt(&self, Receipt { key, .. }: Receipt) {
        let is_late = self.waiting.iter().any(|(_, since)| *since + RECORDING_MAX <= self.now);
        let may_be_published =
            is_late || self.is_failing || !self.has_journal || self.durable_ends.contains(&key);
        assert!(may_be_published, "{key:?} is published before it is durable");
    }

    /// The number of the execute of which this is the run id.
    fn run_of(&self, id: &JobId) -> Option<i32> {
        let number = id.as_str().split_once('-')?.0.parse().unwrap();
        (self.commands.get(&number)?.name == Some(CommandName::Execute)).then_some(number)
    }

    /// The job that a command is about; none of an execute that has none (yet), however it is named.
    fn job_of(&self, progress: &Progress) -> Option<JobId> {
        let id = progress.job_id.as_ref()?;
        self.run_of(id).map_or_else(|| Some(id.clone()), |number| self.commands[&number].job_id.clone())
    }

    /// Whether an abort names the run of this execute.
    fn is_run_aborted(&self, number: i32) -> bool {
        let mut ids = self.commands.values().filter(|progress| progress.name == Some(CommandName::AbortJob));
        ids.any(|progress| progress.job_id.as_ref().and_then(|id| self.run_of(id)) == Some(number))
    }

    fn ack(&mut self, number: i32, command: Option<CommandName>, ack: &Ack) {
        let about = self.job_of(&self.commands[&number]);
        // Looked for only where it counts: there may be many commands.
        let is_run_aborted = *ack == Ack::Aborted && self.is_run_aborted(number);
        let progress = self.commands.get_mut(&number).unwrap();
        assert!(!progress.is_ended, "a second final ack for {number}: {ack:?}");
        assert_eq!(command, progress.name);
        let is_execute = command == Some(CommandName::Execute);
        match ack {
            Ack::InProgress { job_id, .. } => {
                if progress.is_in_progress || command == Some(CommandName::AbortJob) {
                    assert_eq!(about.as_ref(), Some(job_id));
                } else {
                    assert!(is_execute, "{command:?} is never in progress");
                    progress.job_id = Some(job_id.clone());
                }
                progress.is_in_progress = true;
                return;
            }
            Ack::Aborted if is_execute && !progress.is_in_progress => {
                assert!(is_run_aborted && !progress.has_result, "{number} was aborted without an abort_job");
            }
            Ack::Complete | Ack::Aborted if is_execute && self.has_jobs => {
                assert!(progress.is_in_progress, "{number} ended before it began");
                assert!(progress.has_result, "{number} ended without a result");
            }
            Ack::Aborted => panic!("only an execute is aborted"),
            Ack::Failed { reason } => {
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
                // Without a journal nobody will publish the result of what is left.
                let is_left = reason.starts_with("the daemon ended");
                assert!(!is_execute || is_left || progress.is_in_progress == progress.has_result);
            }
            Ack::Complete if command == Some(CommandName::AbortJob) => {
                // A run that had no job has no result.
                let is_aborted = about.as_ref().is_none_or(|job_id| self.aborted.contains(job_id));
                assert!(progress.has_result || is_aborted, "abort {number} ended without a result");
            }
            Ack::Complete => {}
        }
        progress.is_ended = true;
        if command == Some(CommandName::AbortJob)
            && let (Some(job_id), Ack::Complete) = (&about, ack)
        {
            assert!(!self.live.contains_key(job_id), "{job_id} has no result after abort {number}");
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::JobId { seq_num, job_id } => {
                let progress = &self.commands[&seq_num.0];
                assert_eq!(progress.job_id.as_ref(), Some(job_id), "published before the ack, or twice");
                assert!(self.live.insert(job_id.clone(), seq_num.0).is_none(), "{job_id} is published twice");
            }
            Event::JobResult(result) => self.result(result),
            Event::Heartbeat | Event::LogMessage(_) | Event::ConfigurationApplied { .. } => {}
            Event::SummaryState(_)
            | Event::ErrorCode { .. }
            | Event::LogLevel { .. }
            | Event::SimulationMode { .. }
            | Event::SoftwareVersions
            | Event::ConfigurationsAvailable(_) => {
                let is_fault = matches!(event, Event::ErrorCode { code, .. } if *code != ErrorCode::None);
                assert!(is_fault || !self.last_events.contains(event), "nothing changed: {event:?}");
                let kind = std::mem::discriminant(event);
                self.last_events.retain(|last| std::mem::discriminant(last) != kind);
                self.last_events.push(event.clone());
            }
        }
    }

    fn result(&mut self, result: &JobResult) {
        let job_id = &result.job_id;
        let is_about = |progress: &Progress| {
            progress.name == Some(CommandName::AbortJob)
                && !progress.is_ended
                && self.job_of(progress).as_ref() == Some(job_id)
        };
        let aborts =
            self.commands.iter().filter(|(_, progress)| is_about(progress)).map(|(number, _)| *number);
        let aborts: Vec<i32> = aborts.collect();
        let mut was_waited_for = false;
        if result.exit_code == ExitCode::Aborted {
            self.aborted.insert(job_id.clone());
        }
        for abort in aborts {
            self.commands.get_mut(&abort).unwrap().has_result = true;
            was_waited_for = true;
        }
        if let Some(number) = self.live.remove(job_id) {
            let progress = self.commands.get_mut(&number).unwrap();
            assert!(!progress.has_result && !progress.is_ended, "a second result of {job_id}");
            progress.has_result = true;
        } else {
            assert!(was_waited_for, "a result of {job_id}, which no command waits for");
            assert_eq!(result.exit_code, ExitCode::Aborted);
        }
    }

    fn request(&mut self, request: &Request) {
        assert!(!self.is_stopped, "asked after StopRequests: {request:?}");
        assert!(request.ticket.0 > self.last_ticket, "an old ticket");
        self.last_ticket = request.ticket.0;
        match &request.action {
            Action::Submit(submission) => {
                let run_id = &submission.run_id;
                assert!(self.journaled.contains(&number_of(run_id)), "sent before it was journaled");
                let progress = &self.commands[&number_of(run_id)];
                assert!(
                    !progress.is_in_progress && !progress.is_ended,
                    "sent although it has a job or has ended"
                );
                let put = self.puts.entry(run_id.clone()).or_default();
                assert!(!put.is_out, "two PUTs at once");
                assert!(put.count == 0 || put.may_repeat, "sent again without a lookup");
                *put =
                    Put { is_out: true, count: put.count + 1, may_repeat: false, ticket: request.ticket.0 };
            }
            Action::Status { job_id, run_id } => {
                let is_live = self.live.contains_key(job_id);
                let is_prerequisite = self.commands.iter().any(|(number, progress)| {
                    !progress.is_ended && self.journaled.contains(number) && progress.prereqs.contains(job_id)
                });
                let is_known = is_live || is_prerequisite || self.removed.contains(job_id);
                assert!(is_known, "no command needs {job_id}");
                assert!(is_live || run_id.is_none());
            }
            Action::Remove { job_id } => {
                self.removed.insert(job_id.clone());
            }
            Action::List(Wanted { run_ids, job_ids, active_of }) => {
                let is_for_something = !run_ids.is_empty() || !job_ids.is_empty() || active_of.is_some();
                assert!(is_for_something, "a list for nothing");
                self.lists.insert(request.ticket.0);
            }
            Action::Push { .. } | Action::Ping => {}
        }
    }

    /// When nothing is busy any more.
    pub(crate) fn nothing_left(&self) {
        assert!(self.live.is_empty(), "jobs without a result: {:?}", self.live);
        assert!(self.puts.values().all(|put| !put.is_out));
    }

    /// After all effects of an input.
    pub(crate) fn after(&self, csc: &Csc) {
        // Before it has joined the core publishes its log level alone, and then it may have to end.
        let is_state = |event: &Event| matches!(event, Event::SummaryState(_));
        if !self.last_events.iter().any(is_state) {
            return;
        }
        let state = Event::SummaryState(csc.state());
        assert!(self.last_events.contains(&state), "the state was not published: {state:?}");
        let (code, report) = csc.status().error;
        let error = Event::ErrorCode { code, report: report.to_owned() };
        assert!(self.last_events.contains(&error), "the error code was not published: {error:?}");
    }

    /// The core never waits for longer than a heartbeat, and has done all that was due after a tick.
    pub(crate) fn deadline(&self, now: Duration, next: Duration, is_tick: bool) {
        assert!(next <= now + Duration::from_secs(1), "no heartbeat: {next:?} at {now:?}");
        assert!(!is_tick || next > now, "turns without rest at {now:?}");
    }

    /// What a service that does its work answers: jobs end with the first poll.
    pub(crate) fn honest(&mut self, request: &Request) -> Reply {
        match &request.action {
            Action::Submit(_) => {
                self.made += 1;
                job(&format!("honest{}", self.made), Phase::Active)
            }
            Action::Status { job_id, .. } if self.removed.contains(job_id) => Reply::Gone,
            Action::Status { job_id, .. } => job(job_id.as_str(), Phase::Completed),
            Action::Remove { .. } => removed(),
            Action::List(_) => none(),
            Action::Push { .. } | Action::Ping => Reply::Done,
        }
    }
}
