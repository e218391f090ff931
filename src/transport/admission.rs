//! Accepts commands over Kafka only while no other instance with our index can be accepting them too.
//!
//! Another instance listens for [`super::LISTENING`] before it starts, and reads any heartbeat of ours that is in Kafka
//! by then. So a heartbeat of ours that we read back, with none of another instance before it, proves that we were
//! alone when it was sent, and that no other can have started until [`super::LISTENING`] later. A process that stood
//! still for longer (a frozen container, a machine that slept) holds back the commands that piled up until it has read
//! its next heartbeat back, and with it all heartbeats that others wrote meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;
use crate::csc::command::Command;

/// How long commands are accepted after a heartbeat that was read back: less than [`super::LISTENING`], more than two
/// beats.
const READ_BACK_VALID: Duration = Duration::from_millis(2500);
/// Longest wait of a command where no heartbeat can be read back because their topic cannot be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the heartbeats the commands that piled up may take to come: they are in other topics.
const YIELDS: Duration = super::LISTENING;
/// Most commands that wait here; the others wait in Kafka.
const WAITING_MAX: usize = 1024;

/// The commands that wait, and whether others are accepted.
#[derive(Debug, Default)]
pub struct Admission {
    /// When our newest heartbeat that was read back was sent.
    last_read_back: Option<Moment>,
    /// While commands are accepted although no heartbeat can be read back: when [`Admission::look`] was last called.
    waived: Option<Moment>,
    /// When an instance was found that started while we stood still: the commands that piled up are for that one.
    yielded: Option<Moment>,
    waiting: VecDeque<(Moment, Command)>,
    /// How many commands were for another instance since the last call of `foreign`.
    foreign: usize,
}

impl Admission {
    /// How many commands wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one more command can wait.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// A command came: gives it back if it is accepted now; else it waits, or is for another instance.
    pub fn admit(&mut self, command: Command, now: Moment) -> Option<Command> {
        let is_recent = |time: &Moment| time.age(now) < READ_BACK_VALID;
        if self.yielded.is_some_and(|since| since.age(now) < YIELDS) {
            self.foreign += 1;
        } else if [self.last_read_back, self.waived].iter().flatten().any(is_recent) {
            return Some(command);
        } else {
            self.waiting.push_back((now, command));
        }
        None
    }

    /// A heartbeat of ours was read back, with all heartbeats before it. Gives the commands that are accepted now.
    pub fn read_back(&mut self, sent: Moment, now: Moment) -> Vec<Command> {
        self.waived = None;
        self.last_read_back = Some(sent);
        if sent.age(now) < READ_BACK_VALID { self.release() } else { Vec::new() }
    }

    /// The daemon has joined: commands are accepted also if no heartbeat was read back.
    pub fn begin(&mut self, now: Moment) {
        if self.last_read_back.is_none() {
            self.waived = Some(now);
        }
    }

    /// To be called every second. Gives the commands that have waited too long and are accepted nevertheless.
    pub fn look(&mut self, now: Moment) -> Vec<Command> {
        self.waived = self.waived.filter(|last| last.age(now) < READ_BACK_VALID).map(|_| now);
        match self.waiting.front() {
            Some((since, _)) if since.age(now) >= PATIENCE => {
                self.waived = Some(now);
                self.release()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Another instance is running: the commands that wait are for that one.
    pub fn yield_to_another(&mut self, now: Moment) {
        self.waived = None;
        if self.last_read_back.is_some_and(|sent| sent.age(now) >= READ_BACK_VALID) {
            self.yielded = Some(now);
        }
        self.foreign += self.release().len();
    }

    /// How many commands were for another instance since the last call.
    pub fn foreign(&mut self) -> usize {
        std::mem::take(&mut self.foreign)
    }

    fn release(&mut self) -> Vec<Command> {
        self.waiting.drain(..).map(|(_, command)| command).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::csc::command::{CommandKind, Sender, Via};
    use crate::csc::id::SeqNum;
    use crate::csc::time::Tai;

    fn command(seq_num: i32) -> Command {
        let sender = Sender {
            via: Via::Kafka,
            identity: "script@host".to_owned(),
            origin: 7,
            seq_num: SeqNum(seq_num),
            sent: Tai(1.0),
        };
        Command { sender, kind: CommandKind::Enable }
    }

    fn at(seconds: f64) -> Moment {
        Moment::new(
            Duration::from_secs_f64(1000.0 + seconds),
            SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1e9 + seconds),
        )
    }

    fn numbers(commands: &[Command]) -> Vec<i32> {
        commands.iter().map(|command| command.sender.seq_num.0).collect()
    }

    #[test]
    fn commands_are_accepted_while_a_heartbeat_that_was_read_back_is_recent() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(command(1), at(0.0)), None);
        assert_eq!(numbers(&admission.read_back(at(0.0), at(0.1))), [1]);
        assert_eq!(admission.admit(command(2), at(2.4)), Some(command(2)));
        // After a pause, commands that piled up wait, also when a heartbeat from before the pause is read back.
        assert_eq!(admission.admit(command(3), at(8.0)), None);
        assert_eq!(admission.admit(command(4), at(8.0)), None);
        assert!(admission.read_back(at(1.0), at(8.1)).is_empty());
        assert_eq!(numbers(&admission.read_back(at(8.1), at(8.2))), [3, 4]);
        assert_eq!(admission.admit(command(5), at(8.2)), Some(command(5)));
    }

    #[test]
    fn commands_that_piled_up_while_another_instance_started_are_for_that_one() {
        let mut admission = Admission::default();
        assert!(admission.read_back(at(0.0), at(0.0)).is_empty());
        assert_eq!(admission.admit(command(1), at(8.0)), None);
        admission.yield_to_another(at(8.0));
        assert!(admission.read_back(at(8.0), at(8.1)).is_empty());
        // A command of a topic that is read later.
        assert_eq!(admission.admit(command(2), at(8.2)), None);
        assert_eq!((admission.foreign(), admission.foreign()), (2, 0));
        assert!(admission.read_back(at(10.9), at(11.0)).is_empty());
        assert_eq!(admission.admit(command(3), at(11.0)), Some(command(3)));
        // An instance that starts while we are awake gets none of our commands.
        admission.yield_to_another(at(12.0));
        assert_eq!(admission.admit(command(4), at(12.0)), Some(command(4)));
    }

    #[test]
    fn where_no_heartbeat_can_be_read_back_commands_wait_for_a_limited_time() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(command(1), at(0.0)), None);
        assert!(admission.look(at(9.9)).is_empty());
        assert_eq!(numbers(&admission.look(at(10.0))), [1]);
        // The next ones need not wait again.
        for second in [11.0, 12.0, 13.0] {
            assert!(admission.look(at(second)).is_empty());
        }
        assert_eq!(admission.admit(command(2), at(13.5)), Some(command(2)));
        // But after it has stood still they do.
        assert_eq!(admission.admit(command(3), at(20.0)), None);
        assert!(admission.look(at(20.0)).is_empty());
        assert_eq!(admission.admit(command(4), at(20.5)), None);
    }

    #[test]
    fn after_a_start_that_read_no_heartbeat_back_commands_are_accepted() {
        let mut admission = Admission::default();
        admission.begin(at(0.0));
        assert_eq!(admission.admit(command(1), at(1.0)), Some(command(1)));
        assert!(admission.read_back(at(1.0), at(1.1)).is_empty());
        admission.begin(at(9.0));
        assert_eq!(admission.admit(command(2), at(9.0)), None);
    }

    #[test]
    fn when_many_wait_there_is_no_room_until_they_are_accepted() {
        let mut admission = Admission::default();
        for _ in 0..WAITING_MAX {
            assert!(admission.has_room());
            assert_eq!(admission.admit(command(1), at(0.0)), None);
        }
        assert!(!admission.has_room());
        assert_eq!(admission.read_back(at(0.0), at(0.1)).len(), WAITING_MAX);
        assert!(admission.has_room());
    }
}
