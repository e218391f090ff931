//! What must hold always, whatever happens: checked after each step.

mod published;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use ocps::csc::command::{Command, Sender, Via};
use ocps::csc::event::{Ack, Event, ExitCode, ResultObject};
use ocps::csc::id::{EntryKey, JobId, RunId};
use ocps::csc::record::{
    AcceptedCommand, Awaited, Completion, Receipt, Record, Recovered, RecoveredCommand, Work,
};
use ocps::csc::request::{Action, Answer, Contact, Failure, ListedJob, Request, Ticket, Wanted};
use ocps::csc::state::SummaryState;
use ocps::csc::time::Tai;
use ocps::csc::{Csc, Effect, Input};
use ocps::daemon::turn::{Goal, Turn};
use ocps::url::Url;

use super::accepted::{Accepted, RECORDING_MAX, SUSPECT_FOR, is_same};
use super::excuses;
use super::plan::{Plan, millis, secs};
use super::polling::Polling;
use super::sending::Sending;
use super::service::{Job, Service, run_of, service_at};
use super::start::Start;
use super::verdict::Counts;

/// For how long a command must be known again.
const SEEN_FOR: Duration = Duration::from_secs(3500);
/// Longest time from a list's making to its answer.
const LIST_MAX: Duration = Duration::from_secs(120);
/// How long a service may be silent.
const OUTAGE_LIMIT: Duration = Duration::from_secs(300);
/// A turn that comes so much later than a heartbeat was due comes after a pause.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// Turns at one time, beyond which there is no rest.
const TURNS_MAX: u32 = 300;

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Duration,
    is_durable: bool,
}

/// What the rules know of a journal, to go with a copy of it.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    commands: BTreeMap<EntryKey, Accepted>,
    seen: HashMap<i32, Seen>,
    durable_state: Option<SummaryState>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rules {
    max_jobs: usize,
    process: u32,
    /// The core's clock in the present turn.
    pub(crate) tai: Tai,
    pub(crate) commands: BTreeMap<EntryKey, Accepted>,
    /// By sequence number, which is unique here.
    keys: HashMap<i32, EntryKey>,
    runs: HashMap<RunId, EntryKey>,
    /// Runs of which nothing may ever be sent any more.
    lost: HashSet<RunId>,
    /// Whether a journal was lost, or one with less in it put in its place.
    was_journal_lost: bool,
    /// Whether the service's list is to be searched for jobs that the journal does not know.
    is_search_due: bool,
    /// Runs of which the journal does not know any more.
    forgotten: HashSet<RunId>,
    /// Runs that are forgotten and that the last list shows.
    listed: Vec<ListedJob>,
    /// The same of the list that was searched for them.
    searched: Vec<ListedJob>,
    /// How many of them could be followed when it was.
    room: usize,
    pub(crate) sending: Sending,
    seen: HashMap<i32, Seen>,
    /// Final acks of commands that were answered at once, in this process.
    answered: HashSet<i32>,
    /// Whether the core knows so in this turn.
    has_journal_failed: bool,
    is_stopping: bool,
    state: Option<SummaryState>,
    durable_state: Option<SummaryState>,
    last_beat: Option<Duration>,
    /// The service of each request.
    questions: HashMap<Ticket, Url>,
    /// Since when services have been silent, in time in which the process ran.
    silent: HashMap<Url, Duration>,
    turns: (Duration, u32),
    pub(crate) start: Start,
    pub(crate) polling: Polling,
    pub(crate) counts: Counts,
    pub(crate) excused: BTreeMap<&'static str, u64>,
}

impl Rules {
    pub(crate) fn new(settle_time: Duration, plan: &Plan) -> Self {
        Self {
            max_jobs: plan.max_jobs,
            process: 0,
            tai: Tai(0.0),
            commands: BTreeMap::new(),
            keys: HashMap::new(),
            runs: HashMap::new(),
            lost: HashSet::new(),
            was_journal_lost: false,
            is_search_due: true,
            forgotten: HashSet::new(),
            listed: Vec::new(),
            searched: Vec::new(),
            room: 0,
            sending: Sending::new(settle_time),
            seen: HashMap::new(),
            answered: HashSet::new(),
            has_journal_failed: false,
            is_stopping: false,
            state: None,
            durable_state: None,
            last_beat: None,
            questions: HashMap::new(),
            silent: HashMap::new(),
            turns: (Duration::ZERO, 0),
            start: Start::new(&Goal { state: None, override_name: None }, None),
            polling: Polling::default(),
            counts: Counts::default(),
            excused: BTreeMap::new(),
        }
    }

    /// A process begins with what the journal gives it: nothing unfinished or undelivered may be missing in that.
    pub(crate) fn begin(&mut self, process: u32, now: Duration, recovered: &Recovered) {
        self.process = process;
        let mut kept: BTreeMap<EntryKey, &RecoveredCommand> =
            recovered.entries.iter().map(|kept| (kept.entry.key, kept)).collect();
        assert_eq!(kept.len(), recovered.entries.len(), "a command is recovered twice");
        for (key, command) in &self.commands {
            let kept = kept.remove(key).unwrap_or_else(|| panic!("{key:?} is not recovered"));
            command.check_kept(kept);
            assert!(recovered.last_key >= key.0, "{key:?} will be given again");
        }
        assert!(kept.is_empty(), "recovered out of nothing: {kept:?}");
        for command in self.commands.values_mut().filter(|command| command.durably_suspected.is_some()) {
            command.suspected = Some(now + SUSPECT_FOR);
        }
        assert_eq!(recovered.unsearched, self.is_search_due, "unknown jobs are looked up without need");
        assert_eq!(recovered.state.as_ref().map(|(state, _)| *state), self.durable_state);
        let is_in_doubt = |command: &&Accepted| !command.is_over && command.created.is_none();
        let in_doubt = self.commands.values().filter(is_in_doubt).filter_map(Accepted::run_id);
        self.sending.begin(now, in_doubt);
        self.questions.clear();
        self.silent.clear();
    }

    /// What is known of the journal while no process has it.
    pub(crate) fn memory(&self) -> Memory {
        let (commands, seen) = (self.commands.clone(), self.seen.clone());
        Memory { commands, seen, durable_state: self.durable_state }
    }

    /// The journal is lost, or one with less in it is put in its place.
    pub(crate) fn lose(&mut self, memory: Option<Memory>) {
        self.was_journal_lost = true;
        self.is_search_due = true;
        let Memory { commands, seen, durable_state } =
            memory.unwrap_or(Memory { commands: BTreeMap::new(), seen: HashMap::new(), durable_state: None });
        let before = std::mem::replace(&mut self.commands, commands);
        self.keys =
            self.commands.iter().map(|(key, command)| (command.entry.sender.seq_num.0, *key)).collect();
        for (key, command) in before {
            if let Some(run_id) = command.run_id().filter(|_| !self.commands.contains_key(&key)) {
                self.runs.remove(run_id);
                self.forgotten.insert(run_id.clone());
            }
        }
        (self.seen, self.durable_state) = (seen, durable_state);
    }

    /// The core gets a list: unknown jobs that are active there are to be tracked, if it is searched.
    pub(crate) fn listed(&mut self, jobs: &[ListedJob]) {
        let is_forgotten =
            |job: &&ListedJob| self.forgotten.contains(&job.run_id) && job.phase.exit_code().is_none();
        self.listed = jobs.iter().filter(is_forgotten).cloned().collect();
    }

    /// The process has ended: what is not durable never was.
    pub(crate) fn end(&mut self) {
        self.polling.end();
        self.searched.clear();
        for command in self.commands.values().filter(|command| !command.is_durable) {
            if command.is_found {
                // The next process finds its job again.
                self.runs.retain(|_, key| *key != command.entry.key);
                self.forgotten.extend(command.run_id().cloned());
                continue;
            }
            self.lost.extend(command.run_id().cloned());
            self.keys.remove(&command.entry.sender.seq_num.0);
        }
        self.commands.retain(|_, command| command.is_durable);
        self.commands.values_mut().for_each(Accepted::forget);
        self.seen.retain(|_, seen| seen.is_durable);
        self.answered.clear();
        self.is_stopping = false;
        self.state = None;
        self.last_beat = None;
    }

    /// These records are on the disk.
    pub(crate) fn durable(&mut self, records: &[Record]) {
        self.counts.commits += 1;
        for record in records {
            self.durable_one(record);
        }
        if records.contains(&Record::Searched) {
            self.is_search_due = false;
            self.all_are_tracked();
        }
    }

    fn durable_one(&mut self, record: &Record) {
        match record {
            Record::Accepted(entry) => self.command(entry.key).is_durable = true,
            Record::Created { key, job_id } => {
                let command = self.command(*key);
                assert_eq!(command.created.as_ref().map(|(id, _)| id), Some(job_id));
                command.created = Some((job_id.clone(), true));
            }
            Record::Suspected { key, until } => self.command(*key).durably_suspected = Some(*until),
            Record::Cleared { key } => self.command(*key).durably_suspected = None,
            Record::Searched | Record::Noted { .. } => {}
            Record::Ended { key, end } => {
                let ending = self.command(*key).ends.last_mut().unwrap();
                assert_eq!(ending.end, **end);
                ending.is_durable = true;
            }
            Record::Delivered(Receipt { key, what }) => {
                let command = self.command(*key);
                assert!(
                    command.delivered.contains(what),
                    "{what:?} of {key:?} is recorded as delivered but was not"
                );
                command.recorded.insert(*what);
            }
            Record::Seen { sender, .. } => {
                if let Some(seen) = self.seen.get_mut(&sender.seq_num.0) {
                    seen.is_durable = true;
                }
            }
            Record::State { state, .. } => self.durable_state = Some(*state),
        }
    }

    /// One of each run that the list showed when it was searched, unless it is being aborted.
    fn all_are_tracked(&mut self) {
        let is_found = |job: &&ListedJob| self.of_run(&job.run_id).is_some_and(|command| command.is_found);
        let is_full = self.searched.iter().filter(is_found).count() >= self.room;
        for ListedJob { run_id, job_id, .. } in std::mem::take(&mut self.searched) {
            let is_tracked = self.of_run(&run_id).is_some_and(|command| command.is_durable);
            let is_aborted = self.commands.values().any(|command| command.aborts(&job_id, Some(&run_id)));
            assert!(is_tracked || is_aborted || is_full, "run {run_id} is not tracked");
        }
    }

    fn command(&mut self, key: EntryKey) -> &mut Accepted {
        self.commands.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was never accepted"))
    }

    /// This was delivered.
    pub(crate) fn delivered(&mut self, process: u32, receipt: Receipt) {
        // Messages of a command whose record was lost in a crash may be delivered after it.
        if let Some(command) = self.commands.get_mut(&receipt.key) {
            command.deliver(process, receipt.what);
        }
    }

    /// Whether this command must be ignored.
    fn is_repeated(&self, now: Duration, sender: &Sender) -> bool {
        let seen = self.seen.get(&sender.seq_num.0);
        sender.via == Via::Kafka && seen.is_some_and(|seen| now < seen.at + SEEN_FOR)
    }

    /// The core is about to learn of a failing disk, or finds one that hangs.
    pub(crate) fn before(&mut self, now: Duration, input: &Input) {
        let hangs = self.commands.values().any(|command| command.waits_longer_than(now));
        self.has_journal_failed = hangs || matches!(input, Input::JournalFailed(_));
        self.start.taken(input);
        if let Input::Journaled(record) = input {
            self.journaled(*record);
        }
        self.sending.taken(match input {
            Input::Outcome(outcome) => Some(outcome.ticket),
            Input::Command(_)
            | Input::Refused(..)
            | Input::Tick
            | Input::Configuration(_)
            | Input::ConfigurationsAvailable(_)
            | Input::Recovered(_)
            | Input::Journaled(_)
            | Input::JournalFailed(_)
            | Input::JournalBack
            | Input::Delivered(_)
            | Input::LogLevel(_)
            | Input::Joined
            | Input::DuplicateInstance(_)
            | Input::Terminate => None,
        });
    }

    /// The core has taken a command: one that it saw before is not even answered.
    pub(crate) fn taken(&mut self, now: Duration, tai: Tai, command: &Command, effects: &[Effect]) {
        let was_repeated = self.is_repeated(now, &command.sender);
        self.counts.commands += 1;
        self.counts.too_many += u64::from(self.start.is_full());
        // Many may have come while the process stood still: they are no unrest of the core's.
        self.turns.1 = self.turns.1.saturating_sub(1);
        if was_repeated {
            self.counts.repeated += 1;
            let silent = effects.iter().all(|effect| matches!(effect, Effect::Log(..)));
            assert!(silent, "carried out again: {command:?}: {effects:?}");
        } else if command.sender.via == Via::Kafka {
            let note = Effect::Journal(Record::Seen { sender: command.sender.clone(), at: tai });
            assert!(effects.contains(&note), "not noted as seen: {command:?}");
            self.seen.insert(command.sender.seq_num.0, Seen { at: now, is_durable: false });
        }
    }

    /// A command comes.
    pub(crate) fn arrived(&mut self, sender: &Sender) {
        self.counts.early += u64::from(self.start.arrived(sender));
    }

    /// The start has ended.
    pub(crate) fn started(&mut self, turn: &Turn) {
        self.start.started(turn);
        self.counts.started += 1;
        self.counts.not_reached += u64::from(turn.start_problem().is_some());
        self.counts.reached += u64::from(turn.csc().state() != SummaryState::Standby);
    }

    pub(crate) fn effect(&mut self, now: Duration, effect: &Effect, services: &[Service]) {
        match effect {
            Effect::Ack { to, ack: Ack::InProgress { job_id, .. }, receipt: None, .. } => {
                self.in_progress(now, to, job_id, services);
            }
            Effect::Ack { to, ack, .. } if to.via == Via::CommandLine => self.start.transition_ended(ack),
            Effect::Ack { to, command, ack, receipt } => self.ack(to, *command, ack, *receipt),
            Effect::Publish { event: Event::JobResult(result), receipt } => self.result(result, *receipt),
            Effect::Publish { event: Event::JobId { job_id, .. }, .. } => {
                // One that a previous process was asked to abort is asked for by that.
                let run_id = run_of(services, job_id);
                if !self.commands.values().any(|command| command.aborts(job_id, run_id)) {
                    self.polling.follow(job_id, services);
                }
            }
            Effect::Publish { event, .. } => self.event(now, event),
            Effect::Journal(record) => {
                self.start.kept(record.clone());
                self.record(now, record, services);
            }
            Effect::Request(request) => self.request(now, request, services),
            // What waits for the disk is left to the next process.
            Effect::StopRequests => self.is_stopping = true,
            Effect::ReadConfiguration { override_name } => self.start.reads(override_name),
            Effect::Log(_, line) => self.counts.log(line),
            Effect::WatchConfigurations(_) | Effect::SetLogLevel(_) | Effect::Exit | Effect::Fail(_) => {}
        }
    }

    /// The core is answered; a list was made at the service at `served`.
    pub(crate) fn answered(&mut self, now: Duration, ticket: Ticket, answer: &Answer, served: Duration) {
        self.sending.answered(now, ticket, answer, served);
        self.polling.answered(ticket, answer);
        let Some(url) = self.questions.remove(&ticket) else { return };
        let ran = now - self.sending.stood_still;
        match answer.of_service() {
            None | Some(Err(Failure { contact: Contact::NotAsked, .. })) => {}
            Some(Err(Failure { contact: Contact::Silent, .. })) => _ = self.silent.entry(url).or_insert(ran),
            Some(Err(Failure { contact: Contact::Answered, .. }) | Ok(())) => _ = self.silent.remove(&url),
        }
    }

    /// The process stood still until now: what others are waited for moves on by the time since the last heartbeat was
    /// due.
    pub(crate) fn thaw(&mut self, now: Duration) {
        let Some(last) = self.last_beat.take() else { return };
        let pause = now.saturating_sub(last + secs(1));
        if pause < PAUSE_MIN {
            return;
        }
        self.counts.pauses += 1;
        self.sending.stood_still += pause;
        for command in self.commands.values_mut() {
            for by in command.recorded_by.iter_mut().chain(&mut command.publish_by) {
                *by += pause;
            }
        }
    }

    fn record(&mut self, now: Duration, record: &Record, services: &[Service]) {
        match record {
            Record::Accepted(entry) => {
                if let Work::Abort { job_id, .. } = &entry.work {
                    self.polling.forget(job_id, services);
                }
                self.accepted(now, entry);
            }
            Record::Created { key, job_id } => {
                let command = self.command(*key);
                assert!(command.created.is_none(), "a second job for {key:?}: {job_id}");
                assert!(command.recorded_by.is_none(), "a job before the record of {key:?} is durable");
                command.created = Some((job_id.clone(), false));
                command.publish_by = Some(now + RECORDING_MAX);
            }
            Record::Suspected { key, until } => {
                let time = Duration::try_from_secs_f64(until.0 - self.tai.0).unwrap();
                self.command(*key).suspected = Some(now + time);
            }
            Record::Cleared { key } => {
                let until = self.command(*key).suspected;
                assert!(until.is_some_and(|until| until <= now), "not looked up any more: {key:?}");
            }
            Record::Searched => {
                self.searched = std::mem::take(&mut self.listed);
                let unfinished = self.commands.values().filter(|command| !command.is_over).count();
                self.room = self.max_jobs.saturating_sub(unfinished);
            }
            Record::Ended { key, end } => self.ended(now, *key, end, services),
            Record::Seen { .. } | Record::State { .. } | Record::Noted { .. } => {}
            Record::Delivered(receipt) => panic!("the core cannot know what was delivered: {receipt:?}"),
        }
    }

    fn accepted(&mut self, now: Duration, entry: &AcceptedCommand) {
        self.counts.accepted += 1;
        let mut command = Accepted::new(entry, self.process, now);
        if let Some(run_id) = command.run_id() {
            assert!(self.runs.insert(run_id.clone(), entry.key).is_none(), "{run_id} is not new");
            if self.forgotten.remove(run_id) {
                self.counts.found += 1;
                command.is_found = true;
                // Its job is there already.
                command.recorded_by = None;
                assert!(self.commands.insert(entry.key, command).is_none(), "{:?} is not new", entry.key);
                return;
            }
        }
        assert!(self.keys.insert(entry.sender.seq_num.0, entry.key).is_none(), "accepted twice: {entry:?}");
        assert!(self.commands.insert(entry.key, command).is_none(), "{:?} is not new", entry.key);
    }

    /// The core learns that this record is durable.
    fn journaled(&mut self, record: Awaited) {
        let is_so = match record {
            Awaited::Accepted(key) => {
                let command = self.command(key);
                command.recorded_by = None;
                command.is_durable
            }
            Awaited::Created(key) => self.command(key).created.as_ref().is_some_and(|(_, durable)| *durable),
            Awaited::Ended(key) => self.command(key).ends.last().is_some_and(|ending| ending.is_durable),
        };
        assert!(is_so, "the journal reports a record that is not durable: {record:?}");
    }

    /// A job that is there has not vanished, and was not removed; a command without a job is not given up too early.
    fn check_end(&self, now: Duration, command: &Accepted, end: &Completion, services: &[Service]) {
        let is_excused = |job: &Job| excuses::is_lied_about(services, job.id.as_str());
        let service = &services[service_at(command.url())];
        let job = |id| service.job(id).filter(|job| !is_excused(job));
        if let Some(result) = &end.result
            && let Some(job) = job(&result.job_id)
        {
            let is_by_itself = matches!(result.result, ResultObject::Service(_));
            assert!(
                !is_by_itself || !job.is_running(now),
                "{} is running, but its result is published",
                job.id
            );
            let is_unknown = excuses::is_unknown(end) && result.exit_code == ExitCode::Error;
            assert!(!is_unknown || !job.is_listed(now), "{} exists, but is reported as vanished", job.id);
            // It was found after an abort_job by a client who knew it was acked.
            let is_acked = self.commands.values().any(|other| other.is_over && aborts(other, job));
            // Or the journal that knew of the abort is lost.
            assert!(
                !is_unknown || !job.was_removed() || is_acked || self.was_journal_lost,
                "{} was removed by us, but is not reported as aborted",
                job.id
            );
        }
        match (&command.entry.work, &end.ack) {
            (Work::Abort { job_id, .. }, Ack::Complete) => {
                // Aborts of one job share one outcome, also where they are meant for different services; and it may be
                // named by its run.
                let run_id = run_of(services, job_id);
                let is_elsewhere =
                    |other: &Accepted| other.aborts(job_id, run_id) && other.url() != command.url();
                let is_shared = self.commands.values().any(is_elsewhere);
                // Its id was guessed, and it came to be after the service was asked; we do not know of it yet. An answer may
                // have waited while the process stood still.
                let is_known = |job: &Job| {
                    let mut created = self.commands.values().filter_map(|other| other.created.as_ref());
                    created.any(|(created, _)| *created == job.id)
                        || job.visible_for(now) > LIST_MAX + self.sending.stood_still
                };
                let there = job(job_id).filter(|job| job.is_listed(now) && is_known(job) && !is_shared);
                assert!(there.is_none(), "{job_id} exists, but is reported as aborted");
                // One that was forgotten when it was named was not known then.
                let of_run = self.commands.values().find(|other| {
                    !other.is_found && other.run_id().is_some_and(|run_id| is_same(job_id, run_id))
                });
                let goes_on = of_run.is_some_and(|other| !other.is_over);
                assert!(!goes_on, "run {job_id} continues, but is reported as aborted");
            }
            (Work::Execute { submission, .. }, Ack::Failed { .. })
                if end.result.is_none()
                    && !excuses::is_disk_refusal(&end.ack)
                    && !is_stale(&end.ack)
                    && !excuses::is_lied_about(services, submission.run_id.as_str()) =>
            {
                self.sending.given_up(&submission.run_id);
            }
            (Work::Abort { .. } | Work::Execute { .. }, _) => {}
        }
    }

    fn ended(&mut self, now: Duration, key: EntryKey, end: &Completion, services: &[Service]) {
        let Some(command) = self.commands.get(&key) else { panic!("{key:?} was never accepted") };
        self.check_end(now, command, end, services);
        if let Some(result) = &end.result {
            self.polling.forget(&result.job_id, services);
        }
        if let Some(before) = command.ends.last() {
            assert!(!before.is_durable, "{key:?} ended before: {before:?}, now {end:?}");
            let (old, new) = (&before.end, end);
            if (&old.ack, &old.result) != (&new.ack, &new.result) {
                let aborts = self.commands.values();
                let excuse = excuses::other_end(now, command, old, new, aborts, services);
                let excuse = excuse.unwrap_or_else(|| panic!("{key:?} ends otherwise: {old:?}, now {new:?}"));
                *self.excused.entry(excuse).or_default() += 1;
            }
            self.counts.ended_again += 1;
        }
        if is_stale(&end.ack) {
            self.counts.stale += 1;
        }
        if excuses::is_disk_refusal(&end.ack) {
            self.counts.disk_refusals += 1;
        }
        let process = self.process;
        let command = self.command(key);
        assert!(!command.is_over, "{key:?} ended before");
        command.end(process, end, now + RECORDING_MAX);
    }

    fn request(&mut self, now: Duration, request: &Request, services: &[Service]) {
        self.sending.note(now, request.ticket);
        self.questions.insert(request.ticket, request.url.clone());
        match &request.action {
            Action::Submit(submission) => self.submit(now, request.ticket, &submission.run_id, services),
            Action::Remove { job_id } => self.remove(job_id, services),
            Action::List(Wanted { run_ids, job_ids, active_of }) => {
                let is_for_something = !run_ids.is_empty() || !job_ids.is_empty() || active_of.is_some();
                assert!(is_for_something, "a list for nothing");
                self.sending.list(now, request.ticket);
            }
            Action::Status { job_id, run_id: Some(_) } => self.polling.polled(request.ticket, job_id),
            Action::Status { run_id: None, .. } | Action::Push { .. } | Action::Ping => {}
        }
    }

    fn submit(&mut self, now: Duration, ticket: Ticket, run_id: &RunId, services: &[Service]) {
        self.counts.puts += 1;
        assert!(!self.lost.contains(run_id), "{run_id} was never durable");
        let command = &self.commands[&self.runs[run_id]];
        let service = &services[service_at(command.url())];
        for job in command.prereqs().iter().filter_map(|id| service.job(id)) {
            // One that came to be later was guessed: it may not have been there when it was asked for.
            let runs_on = job.is_running(now) && job.visible <= command.accepted;
            // What happens to a job of that name at another service counts too: its abort, or that it is not there.
            let is_elsewhere =
                |other: &Accepted| other.url() != command.url() && other.prereqs().contains(&job.id);
            let is_excused = excuses::is_lied_about(services, job.id.as_str())
                || self.commands.values().any(is_elsewhere)
                || self.commands.values().any(|other| aborts(other, job));
            assert!(!runs_on || is_excused, "{run_id} is sent although {} has not ended", job.id);
        }
        assert!(command.is_durable, "{run_id} is sent before its record is durable");
        assert!(command.final_acks == 0 && command.created.is_none(), "{run_id} is sent again for nothing");
        self.sending.submit(self.process, ticket, run_id);
    }

    /// Only for an abort that is durable, or for an extra job of ours.
    fn remove(&self, job_id: &JobId, services: &[Service]) {
        let run_id = run_of(services, job_id);
        let is_aborted = |command: &Accepted| command.aborts(job_id, run_id) && command.is_durable;
        if self.commands.values().any(is_aborted) || excuses::is_lied_about(services, job_id.as_str()) {
            return;
        }
        let Some(run_id) = run_id else {
            panic!("no command needs {job_id}");
        };
        let command = &self.commands[&self.runs[run_id]];
        let kept = command.created.as_ref().map(|(id, _)| id);
        assert_ne!(kept, Some(job_id), "the job that is not extra is removed");
    }

    /// The service has made a job.
    pub(crate) fn made(&mut self, now: Duration, made: &Job, service: &Service) {
        self.counts.jobs += 1;
        self.counts.copies += u64::from(service.is_copy(made));
        self.counts.doubles += self.sending.doubles(now, made, service);
        self.sending.check_rerun(made, service);
    }

    /// After each turn.
    pub(crate) fn turned(&mut self, now: Duration, born: Duration, is_tick: bool, csc: &Csc) {
        let mono = now - born;
        let next = csc.next_deadline();
        assert!(next <= mono + secs(1), "no heartbeat: {next:?} at {mono:?}");
        assert!(!is_tick || next > mono, "turns without rest at {mono:?}");
        let turns = if self.turns.0 == now { self.turns.1 + 1 } else { 0 };
        assert!(turns < TURNS_MAX, "turns without rest");
        self.turns = (now, turns);
        if let Some(last) = self.last_beat {
            assert!(now <= last + secs(1), "no heartbeat since {last:?}");
        }
        if let (Some(published), state) = (self.state, csc.state()) {
            assert_eq!(published, state, "the state was not published");
        }
        // A little more, since the record of a command may come with the tick that would refuse it.
        let late = |command: &&Accepted| command.waits_longer_than(now - millis(1).min(now));
        if !self.is_stopping {
            let late = self.commands.values().find(late);
            assert!(late.is_none(), "neither sent nor refused, or not published: {late:?}");
        }
    }

    /// Whether the next process can resume this state.
    pub(crate) fn is_durable(&self, state: SummaryState) -> bool {
        self.durable_state == Some(state)
    }

    /// Whether the journal does not know of this run any more.
    pub(crate) fn is_forgotten(&self, run_id: &RunId) -> bool {
        self.forgotten.contains(run_id)
    }

    /// The command of a run, if it was ever durable.
    pub(crate) fn of_run(&self, run_id: &RunId) -> Option<&Accepted> {
        self.commands.get(self.runs.get(run_id)?)
    }

    /// Whether the command of this number has ended well, so that it works again.
    pub(crate) fn has_completed(&self, number: i32) -> bool {
        let command = self.keys.get(&number).and_then(|key| self.commands.get(key));
        let end = command.and_then(|command| command.ends.last());
        end.is_some_and(|ending| ending.end.ack == Ack::Complete)
    }

    /// Whether the command of this number was accepted and has not ended.
    pub(crate) fn is_under_way(&self, number: i32) -> bool {
        let command = self.keys.get(&number).and_then(|key| self.commands.get(key));
        command.is_some_and(|command| !command.is_over)
    }

    /// Memory is bounded.
    pub(crate) fn bounds(&self, csc: &Csc, open_requests: usize, waiting_records: usize) {
        let jobs: usize = csc.status().jobs.iter().map(|(_, count)| count).sum();
        // Twice: those that were refused for the disk's sake but became durable come back beside new ones.
        assert!(jobs <= 2 * self.max_jobs, "{jobs} jobs");
        assert!(open_requests <= 4 * self.max_jobs + 10, "{open_requests} open requests");
        assert!(waiting_records < 10_000, "{waiting_records} records wait");
    }

    /// Commands that are durably accepted and have not ended, or whose end was not delivered; and the search for others.
    pub(crate) fn unfinished(&self) -> usize {
        let commands = self.commands.values().filter(|command| !command.is_settled()).count();
        commands + usize::from(self.is_search_due)
    }
}

/// Whether a command aborts this job.
fn aborts(command: &Accepted, job: &Job) -> bool {
    command.aborts(&job.id, job.made.as_ref().map(|(run_id, _)| run_id))
}

/// Whether a command failed since its submission in doubt is too old to be sent again.
fn is_stale(ack: &Ack) -> bool {
    matches!(ack, Ack::Failed { reason } if reason.contains(" may have been submitted more than "))
}
