//! The real binary over Kafka, commanded by a foreign client, with a small registry of our own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::wildcard_enum_match_arm, reason = "test code: a failure ends the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod harness;

mod bad_input;
mod commands;
#[cfg(feature = "kafka-sasl")]
mod container;
mod foreign;
mod instances;
mod journal;
mod outages;
mod registry;
mod restarts;
mod rig;
#[cfg(feature = "kafka-sasl")]
mod sasl;
mod schemas;
mod startup;
mod topics;
mod unreadable;
