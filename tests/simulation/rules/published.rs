//! What is published: acks, results, states.

use std::time::Duration;

use ocps::csc::command::{CommandName, Sender, Via};
use ocps::csc::event::{Ack, ErrorCode, Event, JobResult};
use ocps::csc::id::{ClientId, JobId};
use ocps::csc::record::{Deliverable, Receipt};
use ocps::csc::state::SummaryState;

use super::super::accepted::Accepted;
use super::super::excuses;
use super::super::service::{Service, run_of};
use super::{OUTAGE_LIMIT, Rules};

impl Rules {
    pub(super) fn ack(
        &mut self,
        to: &Sender,
        name: Option<CommandName>,
        ack: &Ack,
        receipt: Option<Receipt>,
    ) {
        let number = to.seq_num.0;
        let Some(receipt) = receipt else {
            assert!(!self.keys.contains_key(&number), "no receipt for {number}: {ack:?}");
            assert!(self.answered.insert(number), "a second final ack for {number}: {ack:?}");
            return;
        };
        assert_eq!(receipt.what, Deliverable::Ack);
        assert!(ack.is_final());
        let (process, is_late) = (self.process, self.has_journal_failed);
        let command = self.command(receipt.key);
        let ending = command.ends.last_mut().unwrap_or_else(|| panic!("an end without a record: {ack:?}"));
        assert_eq!(*ack, ending.end.ack, "not what was recorded for {number}");
        assert!(ending.is_durable || is_late, "{number} gets {ack:?} before that is durable");
        ending.is_published = true;
        let is_again = ending.process != process;
        command.publish_by = None;
        command.final_acks += 1;
        assert_eq!(command.final_acks, 1, "a second final ack for {number} in process {process}");
        assert!(
            !command.recorded.contains(&Deliverable::Ack),
            "sent again although it was delivered: {number} {ack:?}"
        );
        let sender = &command.entry.sender;
        let is_sender =
            (to.seq_num, &to.identity, to.origin) == (sender.seq_num, &sender.identity, sender.origin);
        assert!(is_sender && name.is_some(), "{ack:?} of {sender:?} goes to {to:?}");
        if command.process != process {
            let client_is_gone = !matches!(to.via, Via::Socket(client) if client != ClientId::GONE);
            assert!(client_is_gone, "an ack to another client: {to:?}");
        }
        self.counts.final_acks += 1;
        self.counts.sent_again += u64::from(is_again);
    }

    /// A job is published only when it is durable, or when the journal fails, or when a client that knows it anyway
    /// aborts it.
    pub(super) fn in_progress(&mut self, now: Duration, to: &Sender, job_id: &JobId, services: &[Service]) {
        let number = to.seq_num.0;
        let is_its = |command: &Accepted| {
            command.is_found
                && command.entry.sender == *to
                && command.created.as_ref().is_some_and(|(created, _)| created == job_id)
        };
        let found = self.commands.iter().find(|(_, command)| is_its(command)).map(|(key, _)| *key);
        let key = found.or_else(|| self.keys.get(&number).copied());
        let key = &key.unwrap_or_else(|| panic!("{number} is in progress but not accepted"));
        // Whoever believes that it is extra removes it.
        let is_lied_about = excuses::is_lied_about(services, job_id.as_str());
        let run_id = run_of(services, job_id);
        let is_aborted = self.commands.values().any(|other| other.is_durable && other.aborts(job_id, run_id));
        let command = self.commands.get_mut(key).unwrap();
        assert!(!command.is_over, "{number} is in progress after its end");
        if command.run_id().is_some() {
            let (created, is_durable) = command.created.as_ref().unwrap();
            assert_eq!(created, job_id);
            let is_waited_for = command.publish_by.is_some_and(|by| now < by) && !self.has_journal_failed;
            assert!(
                *is_durable || is_aborted || is_lied_about || !is_waited_for,
                "{job_id} is published before that is durable"
            );
            command.published.insert(job_id.clone());
            command.publish_by = None;
        }
    }

    pub(super) fn result(&mut self, result: &JobResult, receipt: Option<Receipt>) {
        let receipt = receipt.unwrap_or_else(|| panic!("no receipt for {result:?}"));
        assert_eq!(receipt.what, Deliverable::Result);
        let (process, is_late) = (self.process, self.has_journal_failed);
        let command = self.command(receipt.key);
        let ending = command.ends.last_mut().unwrap_or_else(|| panic!("not recorded: {result:?}"));
        assert_eq!(Some(result), ending.end.result.as_ref());
        assert!(ending.is_durable || is_late, "published before that is durable: {result:?}");
        ending.is_published = true;
        let is_again = ending.process != process;
        command.results += 1;
        assert_eq!(command.results, 1, "published twice: {result:?}");
        assert_eq!(command.final_acks, 0, "published after the final ack: {result:?}");
        assert!(
            !command.recorded.contains(&Deliverable::Result),
            "sent again although it was delivered: {result:?}"
        );
        self.counts.results += 1;
        self.counts.sent_again += u64::from(is_again);
    }

    pub(super) fn event(&mut self, now: Duration, event: &Event) {
        match event {
            Event::ErrorCode { code: ErrorCode::Unreachable, .. } => {
                let mut silent = self.silent.values();
                let is_long = silent.any(|since| self.sending.was_asked_after(*since, OUTAGE_LIMIT));
                assert!(is_long, "no service was silent for so long: {:?}", self.silent);
            }
            Event::Heartbeat => {
                self.last_beat = Some(now);
                self.start.beats();
            }
            Event::SummaryState(state) => {
                let before = self.state.replace(*state);
                let legal = match (before, *state) {
                    (None, next) => next == SummaryState::Standby,
                    (Some(SummaryState::Offline), _) => false,
                    (Some(_), SummaryState::Offline) => true,
                    (Some(before), SummaryState::Fault) => before != SummaryState::Fault,
                    (Some(SummaryState::Standby), next) => next == SummaryState::Disabled,
                    (Some(SummaryState::Disabled), next) => {
                        next == SummaryState::Enabled || next == SummaryState::Standby
                    }
                    (Some(SummaryState::Enabled), next) => next == SummaryState::Disabled,
                    (Some(SummaryState::Fault), next) => next == SummaryState::Standby,
                };
                assert!(legal, "from {before:?} to {state}");
            }
            Event::ErrorCode { .. }
            | Event::LogLevel { .. }
            | Event::LogMessage(_)
            | Event::SimulationMode { .. }
            | Event::SoftwareVersions
            | Event::ConfigurationsAvailable(_)
            | Event::ConfigurationApplied { .. }
            | Event::JobId { .. }
            | Event::JobResult(_) => {}
        }
    }
}
