//! Stands in for Kafka in a build without it.

use std::convert::Infallible;

use crossbeam_channel::Sender;

use super::{KafkaFindings, KafkaInput, KafkaReport};
use crate::config::kafka::Options;
use crate::csc::command::{Command, CommandName, Sender as CommandSender};
use crate::csc::event::{Ack, Event};
use crate::csc::id::SalIndex;
use crate::csc::record::Receipt;
use crate::lease::Lease;

const NONE: &str = "this build has no Kafka: build it with --features kafka, or give --no-kafka";

/// Kafka: there is none.
pub struct Kafka(Infallible);

impl Kafka {
    /// Nothing is possible.
    ///
    /// # Errors
    /// Always.
    pub fn check(_: &Options, _: SalIndex) -> Result<(), String> {
        Err(NONE.to_owned())
    }

    /// Finds that nothing is possible.
    #[must_use]
    pub fn examine(_: Options, _: SalIndex) -> KafkaFindings {
        KafkaFindings { list: vec![("brokers", Err(NONE.to_owned()))], heartbeat_age_s: None }
    }

    /// Does not start.
    ///
    /// # Errors
    /// Always.
    pub fn start(
        _: Options,
        _: SalIndex,
        _: Lease,
        _: Sender<KafkaInput>,
        _: Sender<Command>,
    ) -> Result<Self, String> {
        Err(NONE.to_owned())
    }

    /// Never called.
    pub fn ack(&self, _: &CommandSender, _: Option<CommandName>, _: &Ack, _: Option<Receipt>) {
        match self.0 {}
    }

    /// Never called.
    pub fn publish(&self, _: &Event, _: Option<Receipt>) {
        match self.0 {}
    }

    /// Never called.
    pub fn report(&self) -> KafkaReport {
        match self.0 {}
    }

    /// Never called.
    pub fn is_connecting(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn begun(&self) {
        match self.0 {}
    }

    /// Never called.
    pub fn standing_by_for(&self) -> Option<String> {
        match self.0 {}
    }

    /// Never called.
    pub fn claim(&self) {
        match self.0 {}
    }

    /// Never called.
    pub fn take_over(&self) {
        match self.0 {}
    }

    /// Never called.
    pub fn silence(&self) {
        match self.0 {}
    }

    /// Never called.
    pub fn close(self) {
        match self.0 {}
    }
}
