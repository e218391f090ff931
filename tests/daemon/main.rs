//! The real daemon, from outside: its socket, its signals, its service manager, its log, and an execution service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::indexing_slicing, reason = "an index into JSON gives null, and other tests may panic")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod clients;
mod container;
mod disk;
mod doctor;
mod exhaustion;
mod harness;
mod http;
#[cfg(feature = "kafka-sasl")]
mod kubernetes;
mod load;
mod logging;
mod lost;
mod manager;
mod metrics;
mod restarts;
mod service;
mod signals;
mod simulate;
mod socket;
mod starting;
