//! An execution service as it is observed to be (see `backends.md` and `tests/support/uws_service.rs`), in virtual
//! time, and all that can happen to a request on its way there and back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use ocps::csc::event::{JobObject, Phase};
use ocps::csc::id::{JobId, RunId};
use ocps::csc::request::{
    Action, Answer, Contact, Failure, FailureKind, JobStatus, ListedJob, Request, Ticket, Wanted,
};

use super::plan::{Plan, any, chance, millis, secs, short};
use crate::reply::Reply;

/// How long our client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits for a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a cache keeps an answer at most.
const CACHED: Duration = Duration::from_secs(60);
/// How long the service waits for a new job to be listed before it answers `Job creation timed out.`
const CREATION_WAIT: Duration = Duration::from_secs(9);
/// Jobs of other people.
const FOREIGN: u32 = 3;

/// A PUT: the process that sent it, and its ticket there. Later ones are greater.
pub(crate) type Put = (u32, Ticket);

/// Which of the services has this url.
pub(crate) fn service_at(url: &str) -> usize {
    usize::from(url == "http://b")
}

/// Of which of our runs this job is.
pub(crate) fn run_of<'a>(services: &'a [Service], id: &JobId) -> Option<&'a RunId> {
    let job = services.iter().find_map(|service| service.job(id))?;
    job.made.as_ref().map(|(run_id, _)| run_id)
}

/// A job at the service.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// None: a job that we did not submit.
    pub(crate) made: Option<(RunId, Put)>,
    /// From when on it is listed and can be asked for.
    pub(crate) visible: Duration,
    ends: Duration,
    /// In which it ends.
    phase: Phase,
    vanishes: Duration,
    removed: bool,
}

impl Job {
    /// Whether it is there, seen or unseen.
    pub(crate) fn is_alive(&self, now: Duration) -> bool {
        !self.removed && now < self.vanishes
    }

    fn is_visible(&self, now: Duration) -> bool {
        self.is_alive(now) && self.visible <= now
    }

    pub(crate) fn is_listed(&self, now: Duration) -> bool {
        self.is_visible(now)
    }

    /// Whether it is there and has not ended.
    pub(crate) fn is_running(&self, now: Duration) -> bool {
        self.is_visible(now) && now < self.ends
    }

    /// Whether it ended so long ago that it had vanished by then.
    pub(crate) fn had_vanished(&self, at: Duration) -> bool {
        !self.removed && self.vanishes <= at
    }

    /// Since when it has been listed.
    pub(crate) fn visible_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.visible)
    }

    pub(crate) fn was_removed(&self) -> bool {
        self.removed
    }

    pub(crate) fn is_of(&self, run_id: &RunId) -> bool {
        self.made.as_ref().is_some_and(|(made_of, _)| made_of == run_id)
    }

    fn status(&self, now: Duration) -> JobStatus {
        let phase = if now >= self.ends { self.phase } else { Phase::Active };
        status(&self.id, phase)
    }
}

fn status(id: &JobId, phase: Phase) -> JobStatus {
    // What a job that has ended is reported as does not change any more.
    let object = JobObject(format!("{{\"jobId\":\"{id}\",\"phase\":\"{}\"}}", phase.as_str()).into());
    JobStatus { job_id: id.clone(), phase, object }
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoil {
    Nothing,
    /// It never leaves us, and we know.
    NotSent,
    /// It is lost, and we do not know.
    LostRequest,
    /// It is carried out, but we get no answer.
    LostAnswer,
    /// The service refuses, and does nothing.
    Refused,
    /// The service refuses, but carries it out; it makes a job that shows up 5 to 20 s later.
    DoneThenRefused,
    /// It is carried out, but the answer cannot be understood.
    Wrong,
    /// The answer is not true.
    Lie,
}

/// A request on its way to the service.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) ticket: Ticket,
    pub(crate) action: Action,
    process: u32,
    /// How late a job that it makes is shown.
    lag: Duration,
    spoil: Spoil,
    /// Whether a gateway sends it twice.
    is_repeated: bool,
    /// When its answer is with us; none if none comes, or came in the place of it.
    reply: Option<Duration>,
}

/// What happens to a request.
pub(crate) struct Fate {
    /// When it is carried out.
    pub(crate) served: Option<(Duration, Call)>,
    /// An answer that does not need the service.
    pub(crate) answer: Option<(Duration, Answer)>,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    prefix: char,
    pub(crate) jobs: Vec<Job>,
    busy_until: Duration,
    pub(crate) hangs_until: Duration,
    pub(crate) away_until: Duration,
    /// Until when a gateway answers in its place.
    pub(crate) bad_gateway_until: Duration,
    /// Jobs of which a cache answers that they do not exist, and until when.
    stale: BTreeMap<JobId, Duration>,
    /// Run ids and job ids about which it answered something false.
    pub(crate) lied_about: BTreeSet<String>,
}

impl Service {
    pub(crate) fn new(prefix: char, plan: &Plan, rng: &mut Rng) -> Self {
        let mut service = Self {
            prefix,
            jobs: Vec::new(),
            busy_until: Duration::ZERO,
            hangs_until: Duration::ZERO,
            away_until: Duration::ZERO,
            bad_gateway_until: Duration::ZERO,
            stale: BTreeMap::new(),
            lied_about: BTreeSet::new(),
        };
        for _ in 0..FOREIGN {
            service.make(Duration::ZERO, None, Duration::ZERO, plan, rng);
        }
        service
    }

    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == *id)
    }

    /// Whether it answers, and not a gateway or nobody.
    pub(crate) fn answers(&self, now: Duration) -> bool {
        self.away_until.max(self.hangs_until).max(self.bad_gateway_until) <= now
    }

    /// Whether the same PUT has made another job before.
    pub(crate) fn is_copy(&self, made: &Job) -> bool {
        let mut before = self.jobs.iter().take_while(|job| job.id != made.id);
        before.any(|job| job.made.is_some() && job.made == made.made)
    }

    fn find(&self, id: &JobId, now: Duration) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == *id && job.is_visible(now))
    }

    /// A worker begins a request.
    pub(crate) fn send(
        &mut self,
        now: Duration,
        process: u32,
        request: &Request,
        plan: &Plan,
        rng: &mut Rng,
    ) -> Fate {
        let failed = |failure| request.action.failed(failure);
        let only = |time: Duration, failure| Fate { served: None, answer: Some((time, failed(failure))) };
        if now < self.away_until {
            return match rng.u8(..4) {
                0 => only(now + any(rng, TIMEOUT), unclear()),
                1 => only(now + secs(5), not_sent()),
                _ => only(now + millis(1), not_sent()),
            };
        }
        if now < self.bad_gateway_until {
            // Its upstream is away, or it spares it.
            let failure = if rng.bool() { unclear() } else { failure(FailureKind::NotNow, Contact::Silent) };
            return only(now + millis(1), failure);
        }
        let spoil = draw(plan, rng);
        match spoil {
            Spoil::NotSent => return only(now + any(rng, secs(5)), not_sent()),
            Spoil::LostRequest => return only(now + any(rng, TIMEOUT), unclear()),
            Spoil::Nothing
            | Spoil::LostAnswer
            | Spoil::Refused
            | Spoil::DoneThenRefused
            | Spoil::Wrong
            | Spoil::Lie => {}
        }
        let is_put = matches!(request.action, Action::Submit(_));
        let is_list = matches!(request.action, Action::List(_));
        let is_delete = matches!(request.action, Action::Remove { .. });
        let lag = if is_put && spoil == Spoil::DoneThenRefused {
            secs(5) + any(rng, secs(15))
        } else if is_put && chance(rng, plan.late) {
            any(rng, plan.latest)
        } else {
            Duration::ZERO
        };
        let timeout = if is_list { LIST_TIMEOUT } else { TIMEOUT };
        let is_repeated = (is_put || is_delete) && chance(rng, plan.repeated);
        let mut served = now + short(rng, secs(2));
        if plan.serial {
            served = served.max(self.busy_until);
        }
        let list_time = if is_list { any(rng, plan.list_time) } else { Duration::ZERO };
        let done = served + lag.min(CREATION_WAIT) + list_time + short(rng, secs(1));
        self.busy_until = self.busy_until.max(done);
        let mut reply = Some(done + short(rng, secs(1)));
        let mut answer = None;
        if spoil == Spoil::LostAnswer {
            answer = Some((now + any(rng, timeout), failed(unclear())));
        } else if done > now + timeout {
            answer = Some((now + timeout, failed(unclear())));
        }
        if answer.is_some() {
            reply = None;
        }
        let (ticket, action) = (request.ticket, request.action.clone());
        let call = Call { ticket, action, process, lag, spoil, is_repeated, reply };
        Fate { served: Some((served, call)), answer }
    }

    /// Hangs for a while: what comes waits.
    pub(crate) fn hang(&mut self, until: Duration) {
        self.hangs_until = self.hangs_until.max(until);
        self.busy_until = self.busy_until.max(until);
    }

    /// Carries a request out; gives its answer and when that is with us.
    pub(crate) fn serve(
        &mut self,
        now: Duration,
        call: &Call,
        plan: &Plan,
        rng: &mut Rng,
    ) -> Option<(Duration, Answer)> {
        let reply = match &call.action {
            Action::Submit(submission) => self.put(now, call, &submission.run_id, plan, rng),
            Action::Status { job_id, .. } => self.get(now, call.spoil, job_id, plan, rng),
            Action::Remove { job_id } => {
                let first = self.delete(now, call.spoil, job_id, rng);
                if call.is_repeated { self.delete(now, call.spoil, job_id, rng) } else { first }
            }
            Action::List(wanted) => self.list(now, call.spoil, wanted, plan, rng),
            Action::Ping if call.spoil == Spoil::Nothing => Reply::Done,
            Action::Ping => failed(FailureKind::Refused, Contact::Silent),
            Action::Push { .. } => panic!("no request for this service"),
        };
        let answer = reply.to(&call.action).unwrap();
        call.reply.map(|time| (time.max(now), answer))
    }

    fn make(
        &mut self,
        now: Duration,
        made: Option<(RunId, Put)>,
        lag: Duration,
        plan: &Plan,
        rng: &mut Rng,
    ) -> JobStatus {
        let id = JobId::parse(&format!("{}{}", self.prefix, self.jobs.len() + 1)).unwrap();
        if let Some((run_id, _)) = &made
            && self.lied_about.contains(id.as_str())
        {
            // It was named in a lie before it was there: its id may be taken for another's.
            self.lied_about.insert(run_id.to_string());
        }
        let phase = match rng.u8(..12) {
            0 => Phase::Error,
            1 => Phase::Aborted,
            2 => Phase::Unknown,
            _ => Phase::Completed,
        };
        let ends = now + lag + any(rng, plan.job_time);
        let vanishes = ends + plan.time_to_live;
        let job = Job { id, made, visible: now + lag, ends, phase, vanishes, removed: false };
        let status = job.status(now);
        self.jobs.push(job);
        status
    }

    fn put(&mut self, now: Duration, call: &Call, run_id: &RunId, plan: &Plan, rng: &mut Rng) -> Reply {
        if call.spoil == Spoil::Refused {
            // By the service itself, or by a gateway that spares it.
            return match rng.bool() {
                true => failed(FailureKind::Refused, Contact::Answered),
                false => failed(FailureKind::NotNow, Contact::Silent),
            };
        }
        if call.spoil == Spoil::Lie {
            return self.lie_to_put(run_id, rng);
        }
        let made = Some((run_id.clone(), (call.process, call.ticket)));
        let mut status = self.make(now, made.clone(), call.lag, plan, rng);
        if call.is_repeated {
            // The one that is answered with is listed by then.
            let is_shown = rng.bool();
            let lag = call.lag + if is_shown { Duration::ZERO } else { short(rng, secs(10)) };
            let second = self.make(now, made, lag, plan, rng);
            status = if is_shown { second } else { status };
        }
        match call.spoil {
            Spoil::DoneThenRefused | Spoil::Wrong => failed(FailureKind::Unclear, Contact::Answered),
            Spoil::Nothing
            | Spoil::NotSent
            | Spoil::LostRequest
            | Spoil::LostAnswer
            | Spoil::Refused
            | Spoil::Lie => {
                // `Job creation timed out.`
                let is_late = call.lag > CREATION_WAIT;
                if is_late { failed(FailureKind::Unclear, Contact::Answered) } else { Reply::Job(status) }
            }
        }
    }

    fn get(&mut self, now: Duration, spoil: Spoil, id: &JobId, plan: &Plan, rng: &mut Rng) -> Reply {
        let mut status = self.find(id, now).map(|at| self.jobs[at].status(now));
        if chance(rng, plan.stale) {
            let time = if rng.bool() { Duration::ZERO } else { any(rng, CACHED) };
            self.stale.insert(id.clone(), now + time);
        }
        if self.stale.get(id).is_some_and(|until| now <= *until) {
            status = None;
        }
        let truth = status.map_or(Reply::Gone, Reply::Job);
        match spoil {
            Spoil::Refused | Spoil::DoneThenRefused => failed(FailureKind::Refused, Contact::Silent),
            Spoil::Wrong => failed(FailureKind::Wrong, Contact::Answered),
            Spoil::Lie => {
                self.lied_about(id);
                match rng.u8(..4) {
                    0 => Reply::Gone,
                    1 => Reply::Job(status_of_a_liar(id, rng)),
                    2 => Reply::Broken { report: "broken".to_owned() },
                    _ => Reply::Job(self::status(id, Phase::Active)),
                }
            }
            Spoil::Nothing | Spoil::NotSent | Spoil::LostRequest | Spoil::LostAnswer => truth,
        }
    }

    fn delete(&mut self, now: Duration, spoil: Spoil, id: &JobId, rng: &mut Rng) -> Reply {
        match spoil {
            Spoil::Refused => return failed(FailureKind::Unclear, Contact::Answered),
            Spoil::Lie => {
                self.lied_about(id);
                return if rng.bool() { Reply::Gone } else { Reply::Removed { object: None } };
            }
            Spoil::Nothing
            | Spoil::NotSent
            | Spoil::LostRequest
            | Spoil::LostAnswer
            | Spoil::DoneThenRefused
            | Spoil::Wrong => {}
        }
        let found = self.find(id, now);
        if let Some(at) = found {
            self.jobs[at].removed = true;
        }
        match spoil {
            // It answers so although only the job's files could not be removed.
            Spoil::DoneThenRefused => failed(FailureKind::Unclear, Contact::Answered),
            Spoil::Wrong => failed(FailureKind::Wrong, Contact::Answered),
            Spoil::Nothing
            | Spoil::NotSent
            | Spoil::LostRequest
            | Spoil::LostAnswer
            | Spoil::Refused
            | Spoil::Lie => found.map_or(Reply::Gone, |_| Reply::Removed { object: None }),
        }
    }

    fn list(&mut self, now: Duration, spoil: Spoil, wanted: &Wanted, plan: &Plan, rng: &mut Rng) -> Reply {
        if chance(rng, plan.list_fails) {
            return failed(FailureKind::Wrong, Contact::Answered);
        }
        match spoil {
            Spoil::Refused | Spoil::DoneThenRefused => return failed(FailureKind::Refused, Contact::Silent),
            Spoil::Wrong => return failed(FailureKind::Wrong, Contact::Answered),
            Spoil::Nothing | Spoil::NotSent | Spoil::LostRequest | Spoil::LostAnswer | Spoil::Lie => {}
        }
        let mut listed: Vec<ListedJob> = Vec::new();
        for job in self.jobs.iter().filter(|job| job.is_visible(now)) {
            let of_another = || RunId::parse("of-another").unwrap();
            let run_id = job.made.as_ref().map_or_else(of_another, |(run_id, _)| run_id.clone());
            let at = plan.frozen.map_or(now, |frozen| now.min(frozen)).saturating_sub(plan.list_lag);
            let is_wrong = chance(rng, plan.wrong_phase);
            let phase = if (at >= job.ends) != is_wrong { job.phase } else { Phase::Active };
            let ended = (phase.exit_code().is_some() && rng.bool()).then(|| rng.i64(..));
            let shown = ListedJob { job_id: job.id.clone(), run_id, phase, ended };
            // The list decides whether a run has a job, and whether one is gone of which a cache says so.
            let decides = wanted.run_ids.contains(&shown.run_id) || self.stale.contains_key(&job.id);
            let is_wanted = wanted.job_ids.contains(&job.id.fingerprint())
                || wanted.wants_run(shown.run_id.as_str(), shown.phase);
            if is_wanted && (decides || !chance(rng, plan.left_out)) {
                listed.push(shown);
            }
        }
        // In no order that means anything.
        rng.shuffle(&mut listed);
        if spoil == Spoil::Lie {
            self.lie_in_list(&mut listed, &wanted.run_ids, rng);
        }
        Reply::Listed(listed)
    }

    fn lied_about(&mut self, id: &JobId) {
        self.lied_about.insert(id.to_string());
        let run_id = self.job(id).and_then(|job| job.made.as_ref()).map(|(run_id, _)| run_id.to_string());
        self.lied_about.extend(run_id);
    }

    /// Nothing is made; a job of another is shown, or one that does not exist.
    fn lie_to_put(&mut self, run_id: &RunId, rng: &mut Rng) -> Reply {
        let id = self.any_id(rng);
        self.lied_about(&id);
        self.lied_about.insert(run_id.to_string());
        match rng.u8(..3) {
            0 => Reply::Rejected { reason: "no such thing".to_owned() },
            1 => Reply::Job(status_of_a_liar(&id, rng)),
            _ => Reply::Job(status(&id, Phase::Active)),
        }
    }

    /// Jobs are left out, or have the wrong names.
    fn lie_in_list(&mut self, listed: &mut Vec<ListedJob>, run_ids: &BTreeSet<RunId>, rng: &mut Rng) {
        for job in listed.iter() {
            self.lied_about(&job.job_id);
        }
        if rng.bool() {
            listed.clear();
        }
        let Some(run_id) = run_ids.iter().nth(rng.usize(..run_ids.len().max(1))) else { return };
        let job_id = self.any_id(rng);
        self.lied_about(&job_id);
        self.lied_about.insert(run_id.to_string());
        listed.push(ListedJob { job_id, run_id: run_id.clone(), phase: Phase::Active, ended: None });
    }

    /// One that there is, or was, or may come to be.
    pub(crate) fn any_id(&self, rng: &mut Rng) -> JobId {
        JobId::parse(&format!("{}{}", self.prefix, rng.usize(1..self.jobs.len() + 3))).unwrap()
    }
}

fn status_of_a_liar(id: &JobId, rng: &mut Rng) -> JobStatus {
    status(id, [Phase::Completed, Phase::Error, Phase::Aborted, Phase::Unknown][rng.usize(..4)])
}

fn draw(plan: &Plan, rng: &mut Rng) -> Spoil {
    if chance(rng, plan.lie) {
        return Spoil::Lie;
    }
    if !chance(rng, plan.spoilt) {
        return Spoil::Nothing;
    }
    let all = [
        Spoil::NotSent,
        Spoil::LostRequest,
        Spoil::LostAnswer,
        Spoil::LostAnswer,
        Spoil::Refused,
        Spoil::DoneThenRefused,
        Spoil::Wrong,
    ];
    all[rng.usize(..all.len())]
}

fn failed(kind: FailureKind, contact: Contact) -> Reply {
    Reply::Failed(failure(kind, contact))
}

fn failure(kind: FailureKind, contact: Contact) -> Failure {
    Failure { kind, contact, reason: format!("{kind:?}") }
}

pub(crate) fn unclear() -> Failure {
    failure(FailureKind::Unclear, Contact::Silent)
}

pub(crate) fn not_sent() -> Failure {
    failure(FailureKind::NotSent, Contact::Silent)
}

/// It was not sent, since another instance may have taken over.
pub(crate) fn withheld() -> Failure {
    failure(FailureKind::NotSent, Contact::NotAsked)
}
