//! What we have to say and the broker has not confirmed yet.
//!
//! Invariant: messages of one topic leave in the order in which they came, and none leaves while an earlier one
//! of its topic waits to be tried again. Kafka keeps no order between topics, so an ack leaves when the events
//! before it are confirmed: a script that has its ack looks at the state at once; and heartbeats, which others time,
//! leave before all else. Bounded: when there is too much, the oldest heartbeats and logMessages go first, then the
//! oldest of other events, but never an ack, a job_id or a job_result. Of a topic that cannot be written until the
//! registry is changed, less is kept: the latest state, and a bounded number of what is owed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde_json::{Value as Json, json};

use super::wire::Topic;
use crate::csc::record::Receipt;
use crate::sal::Value;
use crate::sal::event::Fields;
use crate::sal::topic::EventName;

/// Messages that wait, beyond which the least important are dropped: hours of heartbeats.
const WAITING_MAX: usize = 10_000;
/// Bytes of text that wait, beyond which job_results are kept in their minimal form.
const BYTES_MAX: usize = 64 << 20;
/// Messages handed to the producer and not confirmed: enough for full speed, few enough to keep in hand.
const IN_FLIGHT_MAX: usize = 200;
/// Heartbeats that may be on their way besides.
const HEARTBEATS_MORE: usize = 20;
/// Most acks, or job_results and the like, that wait for a topic that cannot be written. What is dropped is not
/// confirmed: the journal still owes it.
const UNWRITABLE_MAX: usize = 1000;
/// How long a topic rests that the broker does not take.
const REST: Duration = Duration::from_secs(5);
/// Longest that an ack waits for the events before it: their partition may be away while that of the acks is not.
const ACK_WAIT: Duration = Duration::from_secs(1);
/// Longest text in a minimal form, in characters.
const MINIMAL_TEXT: usize = 1000;

/// The topic that goes first.
pub(super) const HEARTBEAT: Topic = Topic::Event(EventName::Heartbeat);

/// Something to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) topic: Topic,
    /// Of an ack: the number of the command. The others are counted when they leave.
    pub(super) seq_num: Option<i32>,
    pub(super) own: Fields,
    /// By which its delivery is told.
    pub(super) receipt: Option<Receipt>,
}

/// What may be dropped, the least important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Heartbeat,
    Log,
    State,
    Owed,
}

impl Message {
    fn worth(&self) -> Worth {
        match self.topic {
            HEARTBEAT => Worth::Heartbeat,
            Topic::Event(EventName::LogMessage) => Worth::Log,
            Topic::Event(EventName::JobResult | EventName::JobId) | Topic::Ack | Topic::Command(_) => {
                Worth::Owed
            }
            Topic::Event(_) => Worth::State,
        }
    }

    /// Whether it may leave.
    fn passes(&self, gate: Gate) -> bool {
        match gate {
            Gate::Early => matches!(self.topic, Topic::Event(EventName::LogLevel | EventName::LogMessage)),
            Gate::Heartbeats => self.passes(Gate::Early) || self.topic == HEARTBEAT,
            Gate::Open => true,
        }
    }

    fn size(&self) -> usize {
        let text = |value: &Value| match value {
            Value::String(text) => text.len(),
            Value::Int(_) | Value::Boolean(_) | Value::Double(_) => 0,
        };
        self.own.iter().map(|(_, value)| text(value)).sum()
    }

    /// The same in few bytes: texts are cut, and of a job_result only its identity is left.
    pub(super) fn minimal(&self) -> Self {
        let cut = |name: &str, value: &Value| match value {
            Value::String(text) if self.topic == Topic::Event(EventName::JobResult) && name == "result" => {
                Value::String(minimal_result(text))
            }
            Value::String(text) => Value::String(text.chars().take(MINIMAL_TEXT).collect()),
            Value::Int(_) | Value::Boolean(_) | Value::Double(_) => value.clone(),
        };
        let own = self.own.iter().map(|(name, value)| (*name, cut(name, value))).collect();
        Self { topic: self.topic, seq_num: self.seq_num, own, receipt: self.receipt }
    }
}

/// `jobId`, `runId` and `phase` of a job object, as far as they are there.
fn minimal_result(text: &str) -> String {
    let object: Json = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| object.get(name).and_then(Json::as_str).unwrap_or_default();
    json!({ "jobId": field("jobId"), "runId": field("runId"), "phase": field("phase") }).to_string()
}

/// Which messages may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Only logLevel and logMessage.
    Early,
    /// These and heartbeats.
    Heartbeats,
    /// All.
    Open,
}

/// Why the producer did not deliver a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may succeed later.
    Later,
    /// It is too large, or else never acceptable as it is.
    Never,
}

/// What became of a refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It will be tried again.
    Kept,
    /// It will be tried in its minimal form.
    Minimal,
    /// It is lost.
    Dropped,
}

#[derive(Clone, Debug)]
struct Entry {
    id: usize,
    message: Arc<Message>,
    minimal: bool,
    seq_num: Option<i32>,
    /// When it was handed over the last time.
    left: Option<Instant>,
}

impl Entry {
    /// Until when acks that came after it wait for its confirmation.
    fn holds_acks(&self, now: Instant) -> Option<Instant> {
        let holds = self.message.topic != Topic::Ack && self.message.worth() >= Worth::State;
        let until = self.left.filter(|_| holds)? + ACK_WAIT;
        (now < until).then_some(until)
    }
}

/// The queue without its lock.
#[derive(Debug)]
struct Queue {
    gate: Gate,
    /// Heartbeats that wait: they leave before all others, or a burst of acks would hold them up for seconds.
    heartbeats: VecDeque<Entry>,
    /// All others.
    waiting: VecDeque<Entry>,
    in_flight: BTreeMap<usize, Entry>,
    /// Topics that rest until this time, and until nothing of them is in flight.
    resting: BTreeMap<Topic, Instant>,
    /// Topics that have no schema with which they can be written.
    unwritable: BTreeSet<Topic>,
    bytes: usize,
    last_id: usize,
    seq_nums: BTreeMap<Topic, i32>,
    /// The last of each event that tells how something is, to be said again.
    latest: BTreeMap<Topic, Message>,
    dropped: u64,
}

/// A message on its way to the producer.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// By which its delivery is reported.
    pub(super) id: usize,
    /// `private_seqNum`.
    pub(super) seq_num: i32,
    pub(super) message: Arc<Message>,
}

impl Queue {
    fn new() -> Self {
        Self {
            gate: Gate::Early,
            heartbeats: VecDeque::new(),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            resting: BTreeMap::new(),
            unwritable: BTreeSet::new(),
            bytes: 0,
            last_id: 0,
            seq_nums: BTreeMap::new(),
            latest: BTreeMap::new(),
            dropped: 0,
        }
    }

    fn push(&mut self, mut message: Message) {
        if self.unwritable.contains(&message.topic) && message.worth() < Worth::State {
            self.dropped += 1;
            return;
        }
        if self.bytes + message.size() > BYTES_MAX {
            message = message.minimal();
        }
        if message.worth() == Worth::State {
            self.latest.insert(message.topic, Message { receipt: None, ..message.clone() });
        }
        self.bytes += message.size();
        self.last_id += 1;
        let topic = message.topic;
        let entry =
            Entry { id: self.last_id, message: Arc::new(message), minimal: false, seq_num: None, left: None };
        self.queue_of(topic).push_back(entry);
        if self.unwritable.contains(&topic) {
            self.shorten(topic);
        }
        if self.heartbeats.len() + self.waiting.len() > WAITING_MAX || self.bytes > BYTES_MAX {
            self.drop_one();
        }
    }

    fn queue_of(&mut self, topic: Topic) -> &mut VecDeque<Entry> {
        if topic == HEARTBEAT { &mut self.heartbeats } else { &mut self.waiting }
    }

    /// Says the last of an event that tells how something is once more, unless it waits to be said anyway.
    fn say_again(&mut self, topic: Topic) {
        if self.waiting.iter().any(|entry| entry.message.topic == topic) {
            return;
        }
        if let Some(message) = self.latest.get(&topic).cloned() {
            self.push(message);
        }
    }

    /// Drops the oldest of the least important that wait.
    fn drop_one(&mut self) {
        if self.drop_heartbeat() {
            return;
        }
        for worth in [Worth::Log, Worth::State] {
            let Some(position) = self.waiting.iter().position(|entry| entry.message.worth() == worth) else {
                continue;
            };
            self.drop_at(position);
            return;
        }
    }

    /// Whether there was one.
    fn drop_heartbeat(&mut self) -> bool {
        let Some(entry) = self.heartbeats.pop_front() else { return false };
        self.bytes = self.bytes.saturating_sub(entry.message.size());
        self.dropped += 1;
        true
    }

    fn drop_at(&mut self, position: usize) {
        if let Some(entry) = self.waiting.remove(position) {
            self.bytes = self.bytes.saturating_sub(entry.message.size());
            self.dropped += 1;
        }
    }

    /// Keeps only the latest of what waits for a topic that cannot be written.
    fn shorten(&mut self, topic: Topic) {
        if topic == HEARTBEAT {
            while self.drop_heartbeat() {}
            return;
        }
        let waits = |entry: &Entry| entry.message.topic == topic;
        let Some(entry) = self.waiting.iter().find(|entry| waits(entry)) else { return };
        let most = match entry.message.worth() {
            Worth::Heartbeat | Worth::Log => 0,
            Worth::State => 1,
            Worth::Owed => UNWRITABLE_MAX,
        };
        let mut excess = self.waiting.iter().filter(|entry| waits(entry)).count().saturating_sub(most);
        while let Some(position) = self.waiting.iter().position(waits).filter(|_| excess > 0) {
            self.drop_at(position);
            excess -= 1;
        }
    }

    fn set_unwritable(&mut self, topic: Topic) {
        self.unwritable.insert(topic);
        self.shorten(topic);
    }

    /// Whether a message waits for nothing that lasts.
    fn is_due(&self, entry: &Entry) -> bool {
        entry.message.passes(self.gate) && !self.unwritable.contains(&entry.message.topic)
    }

    /// The next message that may leave.
    fn take(&mut self, now: Instant) -> Option<Outgoing> {
        let room = (IN_FLIGHT_MAX + HEARTBEATS_MORE).saturating_sub(self.in_flight.len());
        if room == 0 {
            return None;
        }
        let in_flight = &self.in_flight;
        let flies = |topic: Topic| in_flight.values().any(|entry| entry.message.topic == topic);
        self.resting.retain(|topic, until| now < *until || flies(*topic));
        let holding = in_flight.values().find(|entry| entry.holds_acks(now).is_some()).map(|entry| entry.id);
        let is_held = |entry: &Entry| {
            entry.message.topic == Topic::Ack && holding.is_some_and(|holding| holding < entry.id)
        };
        let may_leave = |entry: &Entry| {
            self.is_due(entry) && !self.resting.contains_key(&entry.message.topic) && !is_held(entry)
        };
        let mut entry = if self.heartbeats.front().is_some_and(may_leave) {
            self.heartbeats.pop_front()?
        } else if room > HEARTBEATS_MORE {
            let position = self.waiting.iter().position(may_leave)?;
            self.waiting.remove(position)?
        } else {
            return None;
        };
        let seq_num = match entry.message.seq_num.or(entry.seq_num) {
            Some(seq_num) => seq_num,
            None => {
                let last = self.seq_nums.entry(entry.message.topic).or_insert(0);
                *last = last.checked_add(1).unwrap_or(1);
                *last
            }
        };
        entry.seq_num = Some(seq_num);
        entry.left = Some(now);
        let outgoing = Outgoing { id: entry.id, seq_num, message: entry.message.clone() };
        self.in_flight.insert(entry.id, entry);
        Some(outgoing)
    }

    /// Forgets a message; gives what is to be told of its delivery.
    fn delivered(&mut self, id: usize) -> Option<Receipt> {
        let entry = self.in_flight.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(entry.message.size());
        entry.message.receipt
    }

    fn refused(&mut self, id: usize, refusal: Refusal, now: Instant) -> Fate {
        let Some(mut entry) = self.in_flight.remove(&id) else { return Fate::Dropped };
        let fate = match refusal {
            Refusal::Later => {
                self.resting.insert(entry.message.topic, now + REST);
                Fate::Kept
            }
            Refusal::Never if entry.minimal => {
                self.bytes = self.bytes.saturating_sub(entry.message.size());
                self.dropped += 1;
                return Fate::Dropped;
            }
            Refusal::Never => {
                let minimal = entry.message.minimal();
                self.bytes = (self.bytes + minimal.size()).saturating_sub(entry.message.size());
                entry.message = Arc::new(minimal);
                entry.minimal = true;
                // No rest: it only waits for those that fly.
                self.resting.insert(entry.message.topic, now);
                Fate::Minimal
            }
        };
        let waiting = self.queue_of(entry.message.topic);
        let position = waiting.partition_point(|waiting| waiting.id < entry.id);
        waiting.insert(position, entry);
        fate
    }

    /// When a resting topic may be tried again, or an ack has waited long enough.
    fn next_try(&self, now: Instant) -> Option<Instant> {
        let held = self.in_flight.values().filter_map(|entry| entry.holds_acks(now)).min();
        let held = held.filter(|_| self.waiting.iter().any(|entry| entry.message.topic == Topic::Ack));
        self.resting.values().min().copied().into_iter().chain(held).min()
    }
}

/// The queue that the main loop fills and the Kafka thread empties. Its lock is never held for long.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    wake: Sender<()>,
}

impl Outbox {
    /// An empty one; `wake` is a channel of one.
    pub(super) fn new(wake: Sender<()>) -> Self {
        Self { queue: Mutex::new(Queue::new()), wake }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the thread that empties it.
    pub(super) fn wake(&self) {
        // A full channel means that it is about to wake.
        let _ = self.wake.try_send(());
    }

    pub(super) fn push(&self, message: Message) {
        self.with(|queue| queue.push(message));
        self.wake();
    }

    /// The topic or its schema was made again: who comes late to it shall hear how things are.
    pub(super) fn say_again(&self, topic: Topic) {
        self.with(|queue| queue.say_again(topic));
        self.wake();
    }

    pub(super) fn open(&self, gate: Gate) {
        self.with(|queue| queue.gate = gate);
        self.wake();
    }

    /// The topic has a schema.
    pub(super) fn set_writable(&self, topic: Topic) {
        if self.with(|queue| queue.unwritable.remove(&topic)) {
            self.wake();
        }
    }

    /// The topic has no schema with which it can be written.
    pub(super) fn set_unwritable(&self, topic: Topic) {
        self.with(|queue| queue.set_unwritable(topic));
    }

    pub(super) fn take(&self) -> Option<Outgoing> {
        self.with(|queue| queue.take(Instant::now()))
    }

    pub(super) fn delivered(&self, id: usize) -> Option<Receipt> {
        self.with(|queue| queue.delivered(id))
    }

    pub(super) fn refused(&self, id: usize, refusal: Refusal) -> Fate {
        self.with(|queue| queue.refused(id, refusal, Instant::now()))
    }

    pub(super) fn next_try(&self) -> Option<Instant> {
        self.with(|queue| queue.next_try(Instant::now()))
    }

    /// The topic of a message in flight.
    pub(super) fn topic(&self, id: usize) -> Option<Topic> {
        self.with(|queue| queue.in_flight.get(&id).map(|entry| entry.message.topic))
    }

    /// Messages not confirmed yet, and messages dropped so far.
    pub(super) fn counts(&self) -> (usize, u64) {
        self.with(|queue| {
            (queue.heartbeats.len() + queue.waiting.len() + queue.in_flight.len(), queue.dropped)
        })
    }

    /// Whether nothing is left that may leave.
    pub(super) fn is_done(&self) -> bool {
        self.with(|queue| {
            let mut waiting = queue.heartbeats.iter().chain(&queue.waiting);
            queue.in_flight.is_empty() && !waiting.any(|entry| queue.is_due(entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, number: i32) -> Message {
        Message {
            topic: Topic::Event(name.parse().unwrap()),
            seq_num: None,
            own: vec![("n", Value::Int(number))],
            receipt: None,
        }
    }

    fn ack(seq_num: i32) -> Message {
        Message { topic: Topic::Ack, seq_num: Some(seq_num), own: Vec::new(), receipt: None }
    }

    fn open() -> Queue {
        Queue { gate: Gate::Open, ..Queue::new() }
    }

    fn take_all(queue: &mut Queue, now: Instant) -> Vec<(String, i32)> {
        let mut taken = Vec::new();
        while let Some(outgoing) = queue.take(now) {
            taken.push((outgoing.message.topic.sal_name(), outgoing.seq_num));
            queue.delivered(outgoing.id);
        }
        taken
    }

    #[test]
    fn the_latest_state_is_said_again_once() {
        let (mut queue, now) = (open(), Instant::now());
        for (name, number) in [("errorCode", 1), ("summaryState", 5), ("job_id", 1), ("summaryState", 2)] {
            queue.push(event(name, number));
        }
        let state = Topic::Event(EventName::SummaryState);
        // It waits to be said anyway.
        queue.say_again(state);
        assert_eq!(take_all(&mut queue, now).len(), 4);
        for topic in [state, Topic::Event(EventName::JobId), Topic::Event(EventName::Heartbeat), Topic::Ack] {
            queue.say_again(topic);
        }
        let again = queue.take(now).unwrap();
        assert_eq!((again.seq_num, &*again.message), (3, &event("summaryState", 2)));
        assert!(queue.take(now).is_none());
    }

    #[test]
    fn only_the_log_leaves_before_the_gate_is_open() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for name in ["heartbeat", "logLevel", "summaryState", "logMessage"] {
            queue.push(event(name, 0));
        }
        let taken =
            |pairs: &[(&str, i32)]| pairs.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
        assert_eq!(take_all(&mut queue, now), taken(&[("logevent_logLevel", 1), ("logevent_logMessage", 1)]));
        queue.gate = Gate::Open;
        queue.push(event("heartbeat", 1));
        let rest = [("logevent_heartbeat", 1), ("logevent_heartbeat", 2), ("logevent_summaryState", 1)];
        assert_eq!(take_all(&mut queue, now), taken(&rest));
        assert_eq!((queue.bytes, queue.dropped), (0, 0));
    }

    #[test]
    fn a_heartbeat_leaves_before_a_burst_of_acks() {
        let (mut queue, now) = (open(), Instant::now());
        for n in 1..=5000 {
            queue.push(ack(n));
        }
        // As many as may be on their way are.
        let mut ids = Vec::new();
        while let Some(outgoing) = queue.take(now) {
            ids.push(outgoing.id);
        }
        assert_eq!(ids.len(), IN_FLIGHT_MAX);
        queue.push(event("heartbeat", 0));
        assert_eq!(queue.take(now).unwrap().message.topic, HEARTBEAT);
        assert!(queue.take(now).is_none());
        queue.push(event("heartbeat", 0));
        queue.delivered(ids[0]);
        assert_eq!(queue.take(now).unwrap().seq_num, 2);
        // No more of them than so many.
        for n in 0..100 {
            queue.push(event("heartbeat", n));
        }
        while queue.take(now).is_some() {}
        assert_eq!(queue.in_flight.len(), IN_FLIGHT_MAX + HEARTBEATS_MORE);
    }

    #[test]
    fn the_first_heartbeat_may_leave_alone() {
        let (mut queue, now) = (Queue { gate: Gate::Heartbeats, ..Queue::new() }, Instant::now());
        queue.push(event("summaryState", 0));
        queue.push(event("heartbeat", 0));
        assert_eq!(take_all(&mut queue, now), [("logevent_heartbeat".to_owned(), 1)]);
    }

    #[test]
    fn a_topic_waits_until_its_earlier_messages_are_tried_again() {
        let (mut queue, now) = (open(), Instant::now());
        for n in 1..=3 {
            queue.push(ack(n));
        }
        queue.push(event("summaryState", 0));
        let first = queue.take(now).unwrap();
        let second = queue.take(now).unwrap();
        assert_eq!(queue.refused(first.id, Refusal::Later, now), Fate::Kept);
        // The other topic goes on; of this one nothing more leaves.
        let other = queue.take(now).unwrap();
        assert_eq!(other.message.topic, Topic::Event(EventName::SummaryState));
        queue.delivered(other.id);
        assert!(queue.take(now).is_none());
        assert!(queue.take(now + REST).is_none());
        queue.refused(second.id, Refusal::Later, now);
        assert_eq!(queue.next_try(now), Some(now + REST));
        assert!(queue.take(now + REST - Duration::from_millis(1)).is_none());
        let numbers: Vec<i32> = take_all(&mut queue, now + REST).into_iter().map(|(_, n)| n).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn an_ack_waits_for_the_events_before_it_but_not_for_ever() {
        let (mut queue, now) = (open(), Instant::now());
        for name in ["heartbeat", "logMessage", "summaryState"] {
            queue.push(event(name, 0));
        }
        queue.push(ack(1));
        queue.push(event("job_result", 0));
        queue.push(ack(2));
        let events: Vec<Outgoing> = (0..4).map(|_| queue.take(now).unwrap()).collect();
        assert!(queue.take(now).is_none());
        assert_eq!(queue.next_try(now), Some(now + ACK_WAIT));
        // Of a heartbeat or a log message nobody waits for the ack.
        let [_, _, state, result] = events.as_slice() else { panic!() };
        queue.delivered(state.id);
        assert_eq!(queue.take(now).unwrap().seq_num, 1);
        assert!(queue.take(now).is_none());
        queue.push(event("summaryState", 0));
        assert_eq!(queue.take(now).unwrap().message.topic, Topic::Event(EventName::SummaryState));
        assert!(queue.take(now).is_none());
        // A topic that cannot be written holds up no other.
        queue.refused(result.id, Refusal::Later, now);
        assert_eq!(queue.take(now).unwrap().seq_num, 2);
        queue.push(ack(3));
        assert!(queue.take(now + ACK_WAIT - Duration::from_millis(1)).is_none());
        assert_eq!(queue.take(now + ACK_WAIT).unwrap().seq_num, 3);
    }

    #[test]
    fn what_is_too_large_is_said_in_few_words() {
        let (mut queue, now) = (open(), Instant::now());
        let long = "x".repeat(5000);
        let result = json!({ "jobId": "a", "runId": "r", "phase": "error", "more": long }).to_string();
        let own =
            vec![("job_id", "a".into()), ("exit_code", Value::Int(1)), ("result", Value::String(result))];
        queue.push(Message { topic: Topic::Event(EventName::JobResult), seq_num: None, own, receipt: None });
        queue.push(event("job_result", 2));
        let large = queue.take(now).unwrap();
        assert_eq!(queue.refused(large.id, Refusal::Never, now), Fate::Minimal);
        let small = queue.take(now).unwrap();
        assert_eq!((small.id, small.seq_num), (large.id, large.seq_num));
        let expected = r#"{"jobId":"a","runId":"r","phase":"error"}"#;
        assert_eq!(small.message.own[2].1, Value::String(expected.to_owned()));
        assert_eq!(queue.refused(small.id, Refusal::Never, now), Fate::Dropped);
        assert_eq!(queue.take(now).unwrap().seq_num, 2);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn acks_and_results_are_never_dropped() {
        let mut queue = open();
        queue.push(event("summaryState", 0));
        for n in 1..=20_000 {
            queue.push(event("heartbeat", n));
            if n % 2 == 0 {
                queue.push(ack(n));
            }
            if n % 5 == 0 {
                queue.push(event("job_result", n));
                queue.push(event("logMessage", n));
            }
        }
        let count = |worth| queue.waiting.iter().filter(|entry| entry.message.worth() == worth).count();
        assert_eq!(count(Worth::Owed), 14_000);
        assert_eq!((queue.heartbeats.len(), count(Worth::Log), count(Worth::State)), (0, 0, 0));
        let ids: Vec<usize> = queue.waiting.iter().map(|entry| entry.id).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn of_a_topic_that_cannot_be_written_the_latest_is_kept() {
        let (mut queue, now) = (open(), Instant::now());
        let owed = i32::try_from(UNWRITABLE_MAX).unwrap();
        for name in ["heartbeat", "errorCode", "job_result"] {
            queue.push(event(name, 0));
            queue.set_unwritable(Topic::Event(name.parse().unwrap()));
        }
        queue.set_unwritable(Topic::Ack);
        for n in 1..=owed {
            for name in ["heartbeat", "errorCode", "job_result"] {
                queue.push(event(name, n));
            }
            queue.push(ack(n));
            queue.push(event("summaryState", n));
        }
        // The others leave as ever, and nothing is waited for.
        let left = take_all(&mut queue, now);
        assert_eq!(left.len(), UNWRITABLE_MAX);
        assert!(left.iter().all(|(name, _)| name == "logevent_summaryState"));
        assert_eq!(
            (queue.next_try(now), queue.waiting.iter().any(|entry| queue.is_due(entry))),
            (None, false)
        );
        let errors =
            queue.waiting.iter().filter(|entry| entry.message.topic == Topic::Event(EventName::ErrorCode));
        let errors: Vec<&Fields> = errors.map(|entry| &entry.message.own).collect();
        assert_eq!(errors, [&vec![("n", Value::Int(owed))]]);
        assert_eq!(queue.waiting.len(), 2 * UNWRITABLE_MAX + 1);
        // All heartbeats, all error codes but one, and the first job_result.
        assert_eq!(queue.dropped, 2 * u64::try_from(owed).unwrap() + 2);
        for topic in [EventName::Heartbeat, EventName::ErrorCode, EventName::JobResult]
            .map(Topic::Event)
            .into_iter()
            .chain([Topic::Ack])
        {
            queue.unwritable.remove(&topic);
        }
        assert_eq!(take_all(&mut queue, now).len(), 2 * UNWRITABLE_MAX + 1);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn memory_is_bounded_by_minimal_results() {
        let mut queue = open();
        let result = json!({ "jobId": "a", "phase": "error", "more": "x".repeat(1 << 20) }).to_string();
        for _ in 0..200 {
            let own = vec![("result", Value::String(result.clone()))];
            queue.push(Message {
                topic: Topic::Event(EventName::JobResult),
                seq_num: None,
                own,
                receipt: None,
            });
        }
        assert_eq!(queue.waiting.len(), 200);
        assert!(queue.bytes <= BYTES_MAX + 200 * MINIMAL_TEXT, "{}", queue.bytes);
    }

    #[test]
    fn numbers_wrap_to_one() {
        let mut queue = open();
        queue.seq_nums.insert(Topic::Event(EventName::Heartbeat), i32::MAX - 1);
        queue.push(event("heartbeat", 0));
        queue.push(event("heartbeat", 0));
        let numbers: Vec<i32> = take_all(&mut queue, Instant::now()).into_iter().map(|(_, n)| n).collect();
        assert_eq!(numbers, [i32::MAX, 1]);
    }
}
