//! Which request is next, and how many are in flight: a value, without the threads.
//!
//! Each kind of request has a lane with a bound of its own, so that neither PUTs nor polls that hang hold up an abort,
//! and no poll an execute. Among what may begin, DELETE goes before lists before PUT before polls: removing is what
//! an operator waits for. How many PUTs may be in flight is learned from the service. More PUTs than that are a burst:
//! until fewer are left, lists and polls get a small part of the service's time, in turns, and the polls that were held
//! back then come one at a time, two, and so on.

use std::collections::VecDeque;
use std::time::Duration;

use crate::csc::request::{Action, Answer, Failure, Outcome, Request, Ticket};
use crate::url::Url;

/// Most DELETEs in flight.
const DELETES: usize = 8;
/// Most lists in flight.
const LISTS: usize = 3;
/// Most PUTs in flight.
const PUTS_MAX: usize = 64;
/// PUTs in flight before the service is known. At one that takes 10 s for each, one after the other, a third would reach
/// the time limit of a PUT.
const PUTS_FIRST: usize = 2;
/// While PUTs in flight are not too many, their number is multiplied by a factor between these.
const GROWTH: (f64, f64) = (2.0, 8.0);
/// About how long a PUT may wait at the service when there turn out to be too many.
const GROWTH_WAIT: Duration = Duration::from_secs(2);
/// Least number of PUTs in a round.
const ROUND_MIN: usize = 4;

/// In a burst of PUTs, the service works on them this many times as long as on lists and polls.
const PUT_SHARE: u32 = 19;
/// Longest such time after a list or poll: polls that hang must not stop polls.
const OWED_MAX: Duration = Duration::from_secs(10);

/// Most requests in flight, of which `connections` are polls.
pub(super) fn in_flight_max(connections: usize) -> usize {
    connections.saturating_add(DELETES + LISTS + PUTS_MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Delete,
    List,
    Put,
    Poll,
}

/// How a request has ended: what the lanes need of it.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    kind: Kind,
    ticket: Ticket,
    took: Duration,
    is_done: bool,
}

impl From<&Outcome> for Ended {
    fn from(outcome: &Outcome) -> Self {
        let (kind, is_done) = match &outcome.answer {
            Answer::Remove(answer) => (Kind::Delete, answer.is_ok()),
            Answer::List(answer) => (Kind::List, answer.is_ok()),
            Answer::Submit(answer) => (Kind::Put, answer.is_ok()),
            Answer::Push(answer) => (Kind::Put, answer.is_ok()),
            Answer::Status(answer) => (Kind::Poll, answer.is_ok()),
            Answer::Ping(answer) => (Kind::Poll, answer.is_ok()),
        };
        Self { kind, ticket: outcome.ticket, took: outcome.took, is_done }
    }
}

/// Requests of one kind.
#[derive(Debug)]
struct Lane {
    /// Requests that no thread has begun, in the order in which they came.
    waiting: VecDeque<Request>,
    in_flight: usize,
    /// Most in flight.
    bound: usize,
}

impl Lane {
    fn new(bound: usize) -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0, bound }
    }

    /// How many may begin.
    fn ready(&self) -> usize {
        self.waiting.len().min(self.bound.saturating_sub(self.in_flight))
    }

    fn take(&mut self) -> Option<Request> {
        if self.ready() == 0 {
            return None;
        }
        self.in_flight += 1;
        self.waiting.pop_front()
    }
}

/// The requests that have no answer.
#[derive(Debug)]
pub struct Lanes {
    deletes: Lane,
    lists: Lane,
    puts: Lane,
    polls: Lane,
    /// Most polls in flight, except after a burst.
    connections: usize,
    pace: Pace,
    /// Whether more PUTs have come than may be in flight, until none waits and fewer are in flight.
    is_burst: bool,
    /// Whether the last list or poll that was begun is a list.
    was_list: bool,
    /// For how long PUTs, in a burst of them, are to be worked on before the next list or poll.
    owed_to_puts: Duration,
    capacity: usize,
}

impl Lanes {
    /// Empty lanes, for at most `connections` polls in flight and at most `capacity` requests that wait; the core never has
    /// more outstanding.
    #[must_use]
    pub fn new(connections: usize, capacity: usize) -> Self {
        Self {
            deletes: Lane::new(DELETES),
            lists: Lane::new(LISTS),
            puts: Lane::new(PUTS_FIRST),
            polls: Lane::new(connections),
            connections,
            pace: Pace::default(),
            is_burst: false,
            was_list: false,
            owed_to_puts: Duration::ZERO,
            capacity,
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// There is no room: it fails as not sent.
    pub fn put(&mut self, request: Request) -> Result<(), Outcome> {
        if self.len() >= self.capacity {
            return Err(not_sent(&request, "too many requests are queued"));
        }
        let kind = match request.action {
            Action::Remove { .. } => Kind::Delete,
            Action::List(_) => Kind::List,
            Action::Submit(_) | Action::Push { .. } => Kind::Put,
            Action::Status { .. } | Action::Ping => Kind::Poll,
        };
        self.lane(kind).waiting.push_back(request);
        self.note_burst();
        Ok(())
    }

    /// The next request; it is in flight until [`Lanes::ended`].
    pub fn take(&mut self) -> Option<Request> {
        let request = self.take_first();
        self.note_burst();
        request
    }

    fn take_first(&mut self) -> Option<Request> {
        if let Some(request) = self.deletes.take() {
            return Some(request);
        }
        let may_read = self.ready_reads() > 0;
        let is_turn_of_polls = self.is_burst && self.was_list && self.polls.ready() > 0;
        if may_read
            && !is_turn_of_polls
            && let Some(request) = self.lists.take()
        {
            self.was_list = true;
            return Some(request);
        }
        if let Some(request) = self.puts.take() {
            if self.pace.url.as_ref() != Some(&request.url) {
                self.pace =
                    Pace { url: Some(request.url.clone()), since: self.pace.begun, ..Pace::default() };
                self.puts.bound = PUTS_FIRST;
            }
            self.pace.begun = Some(request.ticket);
            return Some(request);
        }
        let poll = if may_read { self.polls.take() } else { None };
        self.was_list &= poll.is_none();
        poll
    }

    fn note_burst(&mut self) {
        let puts = &self.puts;
        let are_too_many = puts.waiting.len() > puts.ready();
        let has_ended = puts.waiting.is_empty() && puts.in_flight < puts.bound;
        self.is_burst = are_too_many || (self.is_burst && !has_ended);
        if self.is_burst {
            // After it, one more may be in flight with each that ends: all that were held back at once would be a burst too.
            self.polls.bound = self.connections.min(1);
        }
    }

    /// How many lists and polls may begin: in a burst of PUTs, one at a time and, while PUTs wait, only now and then.
    fn ready_reads(&self) -> usize {
        let ready = self.lists.ready() + self.polls.ready();
        let is_any_in_flight = self.lists.in_flight + self.polls.in_flight > 0;
        let is_owed = !self.owed_to_puts.is_zero() && !self.puts.waiting.is_empty();
        if !self.is_burst {
            ready
        } else if is_any_in_flight || is_owed {
            0
        } else {
            ready.min(1)
        }
    }

    /// A request that was taken has its answer.
    pub fn ended(&mut self, ended: Ended) {
        let lane = self.lane(ended.kind);
        let is_bound = lane.in_flight >= lane.bound;
        let together = u32::try_from(lane.in_flight.max(1)).unwrap_or(u32::MAX);
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.owed_to_puts = match ended.kind {
            _ if !self.is_burst => Duration::ZERO,
            Kind::Delete => self.owed_to_puts,
            Kind::List | Kind::Poll => {
                (self.owed_to_puts + ended.took.saturating_mul(PUT_SHARE)).min(OWED_MAX)
            }
            Kind::Put => self.owed_to_puts.saturating_sub(ended.took / together),
        };
        if ended.kind == Kind::Poll {
            self.polls.bound = (self.polls.bound + 1).min(self.connections);
        }
        if ended.kind == Kind::Put && is_bound {
            self.puts.bound = self.pace.ended(ended, self.puts.bound);
        } else if ended.kind == Kind::Put {
            // Fewer PUTs were in flight than allowed: the round begins anew.
            self.pace.round.clear();
        }
        self.note_burst();
    }

    /// Most PUTs in flight now; for tests.
    #[must_use]
    pub fn puts_at_once(&self) -> usize {
        self.puts.bound
    }

    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Delete => &mut self.deletes,
            Kind::List => &mut self.lists,
            Kind::Put => &mut self.puts,
            Kind::Poll => &mut self.polls,
        }
    }

    /// Takes all requests back that wait; they fail as not sent.
    pub fn cancel(&mut self) -> Vec<Outcome> {
        let lanes = [&mut self.deletes, &mut self.lists, &mut self.puts, &mut self.polls];
        let waiting = lanes.into_iter().flat_map(|lane| lane.waiting.drain(..));
        let outcomes = waiting.map(|request| not_sent(&request, "the daemon is stopping")).collect();
        self.note_burst();
        outcomes
    }

    /// How many requests may begin now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.deletes.ready() + self.puts.ready() + self.ready_reads()
    }

    /// How many requests wait.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is not asked")]
    pub fn len(&self) -> usize {
        [&self.deletes, &self.lists, &self.puts, &self.polls].iter().map(|lane| lane.waiting.len()).sum()
    }
}

/// Learns how many PUTs the service works on at once, in rounds of as many PUTs as may be in flight.
///
/// More are tried as long as a PUT takes no longer for it. When it does, by Little's law the service works on
/// `in flight * time of a lone PUT / mean time` of them, and the others only wait there, with every DELETE that comes
/// after them.
#[derive(Debug, Default)]
struct Pace {
    /// The service that this was learned from.
    url: Option<Url>,
    /// The last PUT that has begun.
    begun: Option<Ticket>,
    /// PUTs up to this one began when there were too many: they do not count.
    since: Option<Ticket>,
    /// How long a PUT takes that does not wait for another.
    lone: Option<Duration>,
    /// What the PUTs of this round took.
    round: Vec<Duration>,
    /// Whether there were too many once: from then on only one more is tried at a time.
    is_found: bool,
}

impl Pace {
    /// A PUT has ended while `bound` were in flight; gives the new bound.
    fn ended(&mut self, put: Ended, bound: usize) -> usize {
        // A quick failure says nothing about the pace; a slow one does.
        let counts = put.is_done || self.lone.is_some_and(|lone| put.took > lone);
        if Some(put.ticket) <= self.since || !counts {
            return bound;
        }
        self.round.push(put.took.max(Duration::from_nanos(1)));
        // The first round is to be short; one PUT of a later one alone would say little.
        let length = if self.lone.is_none() { bound } else { bound.max(ROUND_MIN) };
        if self.round.len() < length {
            return bound;
        }
        let mean = self.round.iter().sum::<Duration>().div_f64(length as f64);
        let least = self.round.drain(..).min().unwrap_or(mean);
        let lone = if bound == 1 { mean } else { self.lone.map_or(least, |lone| lone.min(mean)) };
        self.lone = Some(lone);
        let worked_on = bound as f64 * lone.div_duration_f64(mean);
        let next = if worked_on < 0.75 * bound as f64 {
            self.is_found = true;
            self.since = self.begun;
            worked_on.round() as usize
        } else if self.is_found {
            bound + 1
        } else {
            let growth = GROWTH_WAIT.div_duration_f64(lone).clamp(GROWTH.0, GROWTH.1);
            (bound as f64 * growth) as usize
        };
        next.clamp(1, PUTS_MAX)
    }
}

fn not_sent(request: &Request, reason: &str) -> Outcome {
    let failure = Failure::not_sent(reason.to_owned());
    Outcome { ticket: request.ticket, took: Duration::ZERO, answer: request.action.failed(failure) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::csc::event::{JobObject, Phase};
    use crate::csc::id::{JobId, RunId};
    use crate::csc::request::{JobStatus, Submission, Wanted};

    /// A service that works on so many PUTs at once, in the order in which they came.
    struct Model {
        at_once: usize,
        /// What a PUT takes that waits for no other, on average; each by half of this part more or less.
        time: Duration,
        jitter: f64,
        rng: fastrand::Rng,
        now: Duration,
        lanes: Lanes,
        /// The PUTs at the service by when each ends, and when each was begun.
        busy: BTreeMap<(Duration, Ticket), Duration>,
        /// Most of them.
        most: usize,
    }

    impl Model {
        fn new(at_once: usize, jitter: f64) -> Self {
            let (time, rng) = (Duration::from_millis(200), fastrand::Rng::with_seed(1));
            let (now, lanes, busy) = (Duration::ZERO, Lanes::new(4, 1000), BTreeMap::new());
            Self { at_once, time, jitter, rng, now, lanes, busy, most: 0 }
        }

        /// Sends so many PUTs at once; gives when the last one is answered, as a ratio to the least that this takes.
        fn puts(&mut self, count: u64) -> f64 {
            let (begun, first) = (self.now, self.lanes.pace.begun.map_or(0, |ticket| ticket.0 + 1));
            for ticket in first..first + count {
                self.lanes.put(put(ticket, "http://uws")).unwrap();
            }
            self.most = 0;
            self.begin();
            while let Some(((now, ticket), begun)) = self.busy.pop_first() {
                self.now = now;
                self.lanes.ended(Ended::from(&answered(ticket, now - begun)));
                self.begin();
            }
            assert_eq!(self.lanes.len(), 0);
            (self.now - begun).div_duration_f64(self.time) / count.div_ceil(self.at_once as u64) as f64
        }

        fn begin(&mut self) {
            while let Some(request) = self.lanes.take() {
                let before = self.busy.len().checked_sub(self.at_once);
                let start = before.and_then(|n| self.busy.keys().nth(n)).map_or(self.now, |key| key.0);
                let time = self.time.mul_f64(1.0 + self.jitter * (self.rng.f64() - 0.5));
                self.busy.insert((start + time, request.ticket), self.now);
                self.most = self.most.max(self.busy.len());
            }
        }
    }

    fn put(ticket: u64, url: &str) -> Request {
        let submission = Submission {
            run_id: RunId::parse("1-a").unwrap(),
            command: String::new(),
            source_url: String::new(),
            commit_ref: String::new(),
            environment: Vec::new(),
            pipeline: String::new(),
        };
        let action = Action::Submit(Arc::new(submission));
        Request { ticket: Ticket(ticket), url: url.into(), action }
    }

    fn answered(ticket: Ticket, took: Duration) -> Outcome {
        let object = JobObject("{}".into());
        let job = JobStatus { job_id: JobId::parse("j").unwrap(), phase: Phase::Pending, object };
        Outcome { ticket, took, answer: Answer::Submit(Ok(job)) }
    }

    /// The first time the service is not known; and no more PUTs wait there than are needed to find that out.
    #[test]
    fn fifty_puts_take_little_longer_than_the_service_needs_for_them() {
        for (at_once, jitter, first, later, most) in [
            (1, 0.0, 1.0, 1.0, 2),
            (1, 0.5, 1.05, 1.05, 3),
            (4, 0.0, 1.0, 1.0, 16),
            (4, 0.5, 1.15, 1.15, 16),
            (8, 0.0, 1.0, 1.0, 16),
            (8, 0.5, 1.2, 1.2, 16),
            (16, 0.0, 1.0, 1.0, 50),
            (50, 0.0, 3.0, 1.0, 50),
        ] {
            let mut service = Model::new(at_once, jitter);
            for limit in [first].into_iter().chain([later; 20]) {
                let ratio = service.puts(50);
                let found =
                    format!("{at_once} at once, jitter {jitter}: {ratio}, {} in flight", service.most);
                assert!(ratio <= limit + 1e-9 && service.most <= most, "{found}");
            }
        }
    }

    #[test]
    fn in_a_burst_of_puts_until_its_end_lists_and_polls_get_a_twentieth_of_the_time_of_the_service() {
        let (mut lanes, time) = (Lanes::new(4, 1000), Duration::from_millis(200));
        let job_id = JobId::parse("j").unwrap();
        for ticket in 0..100 {
            let poll = Action::Status { job_id: job_id.clone(), run_id: None };
            lanes.put(Request { action: poll, ..put(1000 + ticket, "http://uws") }).unwrap();
            lanes.put(put(ticket, "http://uws")).unwrap();
        }
        let mut polls = 0;
        while lanes.len() > 100 - polls {
            let began: Vec<Request> = std::iter::from_fn(|| lanes.take()).collect();
            let is_poll = |request: &&Request| matches!(request.action, Action::Status { .. });
            let begun = began.iter().filter(is_poll).count();
            assert!(begun <= 1 || lanes.puts.in_flight < lanes.puts.bound);
            polls += begun;
            assert_eq!(lanes.ready(), 0);
            // The service works on them one after the other.
            for (request, n) in began.iter().zip(1..) {
                let ended =
                    if is_poll(&request) { not_sent(request, "") } else { answered(request.ticket, time) };
                lanes.ended(Ended::from(&Outcome { took: time * n, ..ended }));
            }
        }
        assert!((3..6).contains(&polls), "{polls}");
    }

    /// Also if the last PUTs hang.
    #[test]
    fn at_the_end_of_a_burst_lists_and_polls_come_one_at_a_time_and_then_more_and_more() {
        let mut lanes = Lanes::new(4, 1000);
        let action = Action::Status { job_id: JobId::parse("j").unwrap(), run_id: None };
        let poll = |ticket| Request { action: action.clone(), ..put(ticket, "http://uws") };
        let list = |ticket| Request { action: Action::List(Wanted::default()), ..put(ticket, "http://uws") };
        (0..3).for_each(|ticket| lanes.put(put(ticket, "http://uws")).unwrap());
        (10..40).for_each(|ticket| lanes.put(poll(ticket)).unwrap());
        (40..43).for_each(|ticket| lanes.put(list(ticket)).unwrap());
        let mut taken = |ended: Option<(u64, &Request)>| {
            if let Some((milliseconds, request)) = ended {
                let took = Duration::from_millis(milliseconds);
                lanes.ended(Ended::from(&Outcome { took, ..not_sent(request, "") }));
            }
            std::iter::from_fn(|| lanes.take()).collect::<Vec<_>>()
        };
        let tickets = |taken: &[Request]| taken.iter().map(|request| request.ticket.0).collect::<Vec<_>>();
        let begun = taken(None);
        assert_eq!(tickets(&begun), [40, 0, 1]);
        // A PUT waits: it has paid for nothing yet.
        assert_eq!(tickets(&taken(Some((100, &begun[0])))), [0; 0]);
        // None waits, and two hang.
        let last = taken(Some((1, &begun[1])));
        assert_eq!(tickets(&last), [2, 10]);
        let mut read = last[1].clone();
        for expected in [41, 11, 42, 12, 13, 14] {
            let next = taken(Some((100, &read)));
            assert_eq!(tickets(&next), [expected]);
            read = next[0].clone();
        }
        // One of them ends.
        assert_eq!(tickets(&taken(Some((30_000, &begun[2])))), [0; 0]);
        let mut polls = vec![read];
        for expected in [&[15, 16][..], &[17, 18], &[19, 20], &[21]] {
            let next = taken(Some((100, &polls.remove(0))));
            assert_eq!(tickets(&next), expected);
            polls.extend(next);
        }
    }

    #[test]
    fn puts_one_by_one_teach_nothing_and_those_to_another_service_begin_anew() {
        let mut service = Model::new(8, 0.0);
        (0..100).for_each(|_| assert!(service.puts(1) <= 1.0));
        assert_eq!(service.lanes.puts.bound, PUTS_FIRST);
        service.puts(50);
        assert!(service.lanes.puts.bound >= 8);
        service.lanes.put(put(1000, "http://other")).unwrap();
        service.lanes.take();
        assert_eq!(service.lanes.puts.bound, PUTS_FIRST);
    }

    #[test]
    fn puts_that_hang_become_fewer_and_quick_refusals_change_nothing() {
        let mut service = Model::new(8, 0.0);
        service.puts(14);
        let bound = service.lanes.puts.bound;
        assert!(bound >= 8);
        for (first, took, expected) in
            [(1000, Duration::from_millis(1), bound), (2000, Duration::from_secs(30), 1)]
        {
            for ticket in first..first + 32 {
                service.lanes.put(put(ticket, "http://uws")).unwrap();
            }
            let mut taken: VecDeque<Request> = std::iter::from_fn(|| service.lanes.take()).collect();
            assert_eq!(taken.len(), bound);
            for _ in 0..bound {
                let outcome = Outcome { took, ..not_sent(&taken.pop_front().unwrap(), "") };
                service.lanes.ended(Ended::from(&outcome));
                taken.extend(service.lanes.take());
            }
            assert_eq!(service.lanes.puts.bound, expected);
            service.lanes = Lanes { puts: Lane::new(bound), ..service.lanes };
        }
    }
}
