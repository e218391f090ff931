//! Messages that the broker has not confirmed yet.
//!
//! Invariant: messages of one topic leave in the order in which they came, and none leaves while an earlier one of its
//! topic waits for another try. Kafka keeps no order between topics, so an ack leaves when the events before it are
//! confirmed: a script that has its ack looks at the state at once. Heartbeats, whose times others check, leave first.
//!
//! Bounded: where too many messages wait, the oldest heartbeats and logMessages are dropped first, then the oldest of other
//! events, but never an ack, a job_id or a job_result. For a topic that cannot be written until the registry is changed,
//! less is kept: the latest state, and a bounded number of acks and results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value as Json, json};

use super::lock;
use super::wire::Topic;
use crate::csc::event::Event;
use crate::csc::record::Receipt;
use crate::sal::event::Fields;
use crate::sal::topic::EventName;
use crate::sal::{self, Value};
use crate::transport::Stage;

/// Most messages that wait; of more, the least important are dropped. It is hours of heartbeats.
const WAITING_MAX: usize = 10_000;
/// Most bytes of text that wait; beyond it, job_results are kept in their minimal form.
const BYTES_MAX: usize = 64 << 20;
/// Most messages that are handed to the producer and not confirmed: enough for full speed.
const IN_FLIGHT_MAX: usize = 200;
/// How many heartbeats may be in flight besides.
const HEARTBEATS_MORE: usize = 20;
/// Most messages that are never dropped otherwise, for a topic that cannot be written. The journal keeps those that are
/// dropped for the next run.
const UNWRITABLE_MAX: usize = 1000;
/// How long nothing is sent to a topic after the broker refused a message.
const REST: Duration = Duration::from_secs(5);
/// Longest wait of an ack for the events before it: their partition may be away while that of the acks is not.
const ACK_WAIT: Duration = Duration::from_secs(1);
/// Longest text in a minimal form, in characters.
const MINIMAL_TEXT: usize = 1000;

/// The topic whose messages leave first.
pub(super) const HEARTBEAT: Topic = Topic::Event(EventName::Heartbeat);

/// An ack or an event to be published.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) topic: Topic,
    /// `private_seqNum`: of an ack the number of the command; events are counted when they leave.
    pub(super) seq_num: Option<i32>,
    pub(super) own: Fields,
    /// The receipt that is reported when the message is delivered.
    pub(super) receipt: Option<Receipt>,
}

/// How important a message is, from the least important on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Heartbeat,
    Log,
    State,
    /// Never dropped.
    Essential,
}

impl Message {
    pub(super) fn event(event: &Event, receipt: Option<Receipt>) -> Self {
        let (name, own) = sal::event::parts(event);
        Self { topic: Topic::Event(name), seq_num: None, own, receipt }
    }

    fn priority(&self) -> Priority {
        match self.topic {
            HEARTBEAT => Priority::Heartbeat,
            Topic::Event(EventName::LogMessage) => Priority::Log,
            Topic::Event(EventName::JobResult | EventName::JobId) | Topic::Ack | Topic::Command(_) => {
                Priority::Essential
            }
            Topic::Event(_) => Priority::State,
        }
    }

    /// Whether the message may leave at this stage.
    fn may_leave(&self, stage: Stage) -> bool {
        match self.topic {
            Topic::Event(EventName::LogLevel | EventName::LogMessage) => true,
            HEARTBEAT => stage >= Stage::Claiming,
            Topic::Event(_) | Topic::Ack | Topic::Command(_) => stage == Stage::Joined,
        }
    }

    fn size(&self) -> usize {
        let text = |value: &Value| if let Value::String(text) = value { text.len() } else { 0 };
        self.own.iter().map(|(_, value)| text(value)).sum()
    }

    /// The same message in few bytes: texts are cut, and of a job_result only ids and phase are left.
    fn minimal(&self) -> Self {
        let mut minimal = self.clone();
        for (name, value) in &mut minimal.own {
            if let Value::String(text) = value {
                *text = match (self.topic, *name) {
                    (Topic::Event(EventName::JobResult), "result") => minimal_result(text),
                    _ => text.chars().take(MINIMAL_TEXT).collect(),
                };
            }
        }
        minimal
    }
}

/// `jobId`, `runId` and `phase` of a job object; empty where they are missing.
fn minimal_result(text: &str) -> String {
    let object: Json = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| object.get(name).and_then(Json::as_str).unwrap_or_default();
    json!({ "jobId": field("jobId"), "runId": field("runId"), "phase": field("phase") }).to_string()
}

/// A message that is not confirmed yet.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The number by which librdkafka reports the delivery.
    pub(super) id: usize,
    pub(super) message: Arc<Message>,
    is_minimal: bool,
    /// When the message was last handed to the producer.
    left: Option<Instant>,
}

impl Entry {
    /// Heartbeats sort before all other messages: a burst of acks would delay them by seconds.
    fn key(&self) -> (bool, usize) {
        (self.message.topic != HEARTBEAT, self.id)
    }

    /// Until when later acks wait for the confirmation of this message; none if they do not wait.
    fn holds_acks(&self, now: Instant) -> Option<Instant> {
        let holds = self.message.topic != Topic::Ack && self.message.priority() >= Priority::State;
        self.left.filter(|_| holds).map(|left| left + ACK_WAIT).filter(|until| now < *until)
    }
}

/// The queue without its lock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) stage: Stage,
    /// Messages that wait, in the order in which they leave.
    waiting: BTreeMap<(bool, usize), Entry>,
    in_flight: BTreeMap<usize, Entry>,
    /// Topics to which nothing is sent until this time, and as long as a message to them is in flight.
    resting: BTreeMap<Topic, Instant>,
    /// Topics without a schema that we can write with.
    unwritable: BTreeSet<Topic>,
    bytes: usize,
    last_id: usize,
    seq_nums: BTreeMap<Topic, i32>,
    /// The last event of each topic that describes a state, for [`Queue::repeat`].
    latest: BTreeMap<Topic, Message>,
    dropped: u64,
}

impl Queue {
    pub(super) fn push(&mut self, mut message: Message) {
        if self.bytes + message.size() > BYTES_MAX {
            message = message.minimal();
        }
        let topic = message.topic;
        if message.priority() == Priority::State {
            self.latest.insert(topic, Message { receipt: None, ..message.clone() });
        }
        self.bytes += message.size();
        self.last_id += 1;
        let entry = Entry { id: self.last_id, message: Arc::new(message), is_minimal: false, left: None };
        self.waiting.insert(entry.key(), entry);
        if self.unwritable.contains(&topic) {
            self.shorten(topic);
        }
        if self.waiting.len() > WAITING_MAX || self.bytes > BYTES_MAX {
            let heartbeat = self.waiting.keys().next().copied().filter(|(is_other, _)| !is_other);
            let oldest = |priority| self.find(|message| message.priority() == priority);
            let least = heartbeat.or_else(|| [Priority::Log, Priority::State].into_iter().find_map(oldest));
            self.drop_all(least);
        }
    }

    /// The first message that waits and for which `is_it` holds.
    fn find(&self, is_it: impl Fn(&Message) -> bool) -> Option<(bool, usize)> {
        self.waiting.iter().find(|(_, entry)| is_it(&entry.message)).map(|(key, _)| *key)
    }

    /// Publishes the last event of a topic that describes a state once more, unless one waits anyway: the topic or its
    /// schema is new, and late joiners are to get the present state.
    pub(super) fn repeat(&mut self, topic: Topic) {
        let is_waiting = self.find(|message| message.topic == topic).is_some();
        if let Some(message) = self.latest.get(&topic).cloned().filter(|_| !is_waiting) {
            self.push(message);
        }
    }

    fn drop_all(&mut self, keys: impl IntoIterator<Item = (bool, usize)>) {
        for entry in keys.into_iter().filter_map(|key| self.waiting.remove(&key)).collect::<Vec<_>>() {
            self.forget(&entry);
            self.dropped += 1;
        }
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_sub(entry.message.size());
    }

    /// Drops all but the latest messages for a topic that cannot be written.
    fn shorten(&mut self, topic: Topic) {
        let waiting: Vec<_> = self.waiting.values().filter(|entry| entry.message.topic == topic).collect();
        let most = match waiting.first().map(|entry| entry.message.priority()) {
            None | Some(Priority::Heartbeat | Priority::Log) => 0,
            Some(Priority::State) => 1,
            Some(Priority::Essential) => UNWRITABLE_MAX,
        };
        let excess = waiting.len().saturating_sub(most);
        let excess: Vec<_> = waiting.into_iter().take(excess).map(Entry::key).collect();
        self.drop_all(excess);
    }

    /// The topic has a schema that we can write with.
    pub(super) fn set_writable(&mut self, topic: Topic) {
        self.unwritable.remove(&topic);
    }

    /// The topic has no schema that we can write with.
    pub(super) fn set_unwritable(&mut self, topic: Topic) {
        self.unwritable.insert(topic);
        self.shorten(topic);
    }

    /// Whether stage and schema let a message leave.
    fn is_due(&self, entry: &Entry) -> bool {
        entry.message.may_leave(self.stage) && !self.unwritable.contains(&entry.message.topic)
    }

    /// The next message that may leave, to hand to the producer.
    pub(super) fn take(&mut self, now: Instant) -> Option<Entry> {
        let room = (IN_FLIGHT_MAX + HEARTBEATS_MORE).checked_sub(self.in_flight.len() + 1)?;
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
        // The last places in flight are for heartbeats only.
        let mut candidates = self.waiting.range(..=(room >= HEARTBEATS_MORE, usize::MAX));
        let key = candidates.find(|(_, entry)| may_leave(entry)).map(|(key, _)| *key)?;
        let mut entry = self.waiting.remove(&key)?;
        if entry.message.seq_num.is_none() {
            let last = self.seq_nums.entry(entry.message.topic).or_insert(0);
            *last = last.checked_add(1).unwrap_or(1);
            Arc::make_mut(&mut entry.message).seq_num = Some(*last);
        }
        entry.left = Some(now);
        self.in_flight.insert(entry.id, entry.clone());
        Some(entry)
    }

    /// Forgets a message that was delivered, and gives it.
    pub(super) fn delivered(&mut self, id: usize) -> Option<Arc<Message>> {
        let entry = self.in_flight.remove(&id)?;
        self.forget(&entry);
        Some(entry.message)
    }

    /// Keeps a message that was not delivered for another try later; gives its topic.
    pub(super) fn postpone(&mut self, id: usize, now: Instant) -> Option<Topic> {
        let entry = self.in_flight.remove(&id)?;
        let topic = entry.message.topic;
        self.resting.insert(topic, now + REST);
        self.waiting.insert(entry.key(), entry);
        Some(topic)
    }

    /// Replaces a message that the broker never accepts by its minimal form, or drops it if it was that already; gives its
    /// topic, and whether the message is lost.
    pub(super) fn reduce(&mut self, id: usize, now: Instant) -> Option<(Topic, bool)> {
        let entry = self.in_flight.remove(&id)?;
        let topic = entry.message.topic;
        self.forget(&entry);
        if entry.is_minimal {
            self.dropped += 1;
            return Some((topic, true));
        }
        let minimal = entry.message.minimal();
        self.bytes += minimal.size();
        // The message waits only for those in flight.
        self.resting.insert(topic, now);
        self.waiting.insert(entry.key(), Entry { message: Arc::new(minimal), is_minimal: true, ..entry });
        Some((topic, false))
    }

    /// When a topic may be tried again, or an ack has waited long enough.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        let held = self.in_flight.values().filter_map(|entry| entry.holds_acks(now)).min();
        let held = held.filter(|_| self.find(|message| message.topic == Topic::Ack).is_some());
        self.resting.values().copied().chain(held).min()
    }

    /// How many messages are not confirmed yet, and how many were dropped so far.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.waiting.len() + self.in_flight.len(), self.dropped)
    }

    /// Whether nothing is left that may leave.
    pub(super) fn is_done(&self) -> bool {
        self.in_flight.is_empty() && !self.waiting.values().any(|entry| self.is_due(entry))
    }
}

/// The queue that the main loop fills and the Kafka thread empties. Its lock is never held for long.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    wake: Sender<()>,
}

impl Outbox {
    /// An empty outbox, and the channel that wakes the thread that empties it.
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (wake, woken) = bounded(1);
        (Self { queue: Mutex::default(), wake }, woken)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Changes the queue, and wakes the thread that empties it.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        let result = act(&mut self.queue());
        // If the channel is full, the thread is about to wake.
        let _ = self.wake.try_send(());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &'static str, number: i32) -> Message {
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
        Queue { stage: Stage::Joined, ..Queue::default() }
    }

    fn take_all(queue: &mut Queue, now: Instant) -> Vec<(String, i32)> {
        let mut taken = Vec::new();
        while let Some(outgoing) = queue.take(now) {
            taken.push((outgoing.message.topic.sal_name(), outgoing.message.seq_num.unwrap()));
            queue.delivered(outgoing.id);
        }
        taken
    }

    #[test]
    fn the_latest_state_is_published_again_once() {
        let (mut queue, now) = (open(), Instant::now());
        for (name, number) in [("errorCode", 1), ("summaryState", 5), ("job_id", 1), ("summaryState", 2)] {
            queue.push(event(name, number));
        }
        let state = Topic::Event(EventName::SummaryState);
        // Not repeated while one waits.
        queue.repeat(state);
        assert_eq!(take_all(&mut queue, now).len(), 4);
        for topic in [state, Topic::Event(EventName::JobId), Topic::Event(EventName::Heartbeat), Topic::Ack] {
            queue.repeat(topic);
        }
        let again = queue.take(now).unwrap();
        assert_eq!(*again.message, Message { seq_num: Some(3), ..event("summaryState", 2) });
        assert!(queue.take(now).is_none());
    }

    #[test]
    fn only_the_log_leaves_before_we_have_joined() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["heartbeat", "logLevel", "summaryState", "logMessage"] {
            queue.push(event(name, 0));
        }
        let taken =
            |pairs: &[(&str, i32)]| pairs.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
        assert_eq!(take_all(&mut queue, now), taken(&[("logevent_logLevel", 1), ("logevent_logMessage", 1)]));
        queue.stage = Stage::Joined;
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
        assert_eq!(queue.take(now).unwrap().message.seq_num, Some(2));
        // No more of them than so many.
        for n in 0..100 {
            queue.push(event("heartbeat", n));
        }
        while queue.take(now).is_some() {}
        assert_eq!(queue.in_flight.len(), IN_FLIGHT_MAX + HEARTBEATS_MORE);
    }

    #[test]
    fn the_first_heartbeat_may_leave_alone() {
        let (mut queue, now) = (Queue { stage: Stage::Claiming, ..Queue::default() }, Instant::now());
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
        queue.postpone(first.id, now);
        // The other topic goes on; of this one nothing more leaves.
        let other = queue.take(now).unwrap();
        assert_eq!(other.message.topic, Topic::Event(EventName::SummaryState));
        queue.delivered(other.id);
        assert!(queue.take(now).is_none());
        assert!(queue.take(now + REST).is_none());
        queue.postpone(second.id, now);
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
        let events: Vec<Entry> = (0..4).map(|_| queue.take(now).unwrap()).collect();
        assert!(queue.take(now).is_none());
        assert_eq!(queue.next_try(now), Some(now + ACK_WAIT));
        // Of a heartbeat or a log message no sender waits for the ack.
        let [_, _, state, result] = events.as_slice() else { panic!() };
        queue.delivered(state.id);
        assert_eq!(queue.take(now).unwrap().message.seq_num, Some(1));
        assert!(queue.take(now).is_none());
        queue.push(event("summaryState", 0));
        assert_eq!(queue.take(now).unwrap().message.topic, Topic::Event(EventName::SummaryState));
        assert!(queue.take(now).is_none());
        // A topic that cannot be written holds up no other.
        queue.postpone(result.id, now);
        assert_eq!(queue.take(now).unwrap().message.seq_num, Some(2));
        queue.push(ack(3));
        assert!(queue.take(now + ACK_WAIT - Duration::from_millis(1)).is_none());
        assert_eq!(queue.take(now + ACK_WAIT).unwrap().message.seq_num, Some(3));
    }

    #[test]
    fn what_is_too_large_is_sent_in_few_words() {
        let (mut queue, now) = (open(), Instant::now());
        let long = "x".repeat(5000);
        let result = json!({ "jobId": "a", "runId": "r", "phase": "error", "more": long }).to_string();
        let own =
            vec![("job_id", "a".into()), ("exit_code", Value::Int(1)), ("result", Value::String(result))];
        queue.push(Message { topic: Topic::Event(EventName::JobResult), seq_num: None, own, receipt: None });
        queue.push(event("job_result", 2));
        let large = queue.take(now).unwrap();
        assert!(!queue.reduce(large.id, now).unwrap().1);
        let small = queue.take(now).unwrap();
        assert_eq!((small.id, small.message.seq_num), (large.id, large.message.seq_num));
        let expected = r#"{"jobId":"a","runId":"r","phase":"error"}"#;
        assert_eq!(small.message.own[2].1, Value::String(expected.to_owned()));
        assert!(queue.reduce(small.id, now).unwrap().1);
        assert_eq!(queue.take(now).unwrap().message.seq_num, Some(2));
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
        let count =
            |priority| queue.waiting.values().filter(|entry| entry.message.priority() == priority).count();
        assert_eq!(count(Priority::Essential), 14_000);
        assert_eq!((count(Priority::Heartbeat), count(Priority::Log), count(Priority::State)), (0, 0, 0));
        let ids: Vec<usize> = queue.waiting.values().map(|entry| entry.id).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn of_a_topic_that_cannot_be_written_the_latest_is_kept() {
        let (mut queue, now) = (open(), Instant::now());
        let most = i32::try_from(UNWRITABLE_MAX).unwrap();
        for name in ["heartbeat", "errorCode", "job_result"] {
            queue.push(event(name, 0));
            queue.set_unwritable(Topic::Event(name.parse().unwrap()));
        }
        queue.set_unwritable(Topic::Ack);
        for n in 1..=most {
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
            (queue.next_try(now), queue.waiting.values().any(|entry| queue.is_due(entry))),
            (None, false)
        );
        let errors =
            queue.waiting.values().filter(|entry| entry.message.topic == Topic::Event(EventName::ErrorCode));
        let errors: Vec<&Fields> = errors.map(|entry| &entry.message.own).collect();
        assert_eq!(errors, [&vec![("n", Value::Int(most))]]);
        assert_eq!(queue.waiting.len(), 2 * UNWRITABLE_MAX + 1);
        // All heartbeats, all error codes but one, and the first job_result.
        assert_eq!(queue.dropped, 2 * u64::try_from(most).unwrap() + 2);
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
