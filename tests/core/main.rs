//! The core, driven through its public interface in virtual time: no threads, no sleeps, no service.
//!
//! Every test goes through [`world::World`], which checks after each input what must hold always
//! ([`rules::Rules`]): acks, results, requests, deadlines. Seeds that once failed are kept in `random`.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]

mod aborts;
mod contact;
mod found;
mod history;
mod joining;
mod limits;
mod lookups;
mod noise;
mod polls;
mod prerequisites;
mod pushes;
mod random;
mod records;
mod recovery;
mod reports;
mod rules;
mod stages;
mod states;
mod stopping;
mod submissions;
mod tracking;
mod world;

#[path = "../support/core_settings.rs"]
#[allow(missing_docs, unreachable_pub, reason = "it is shared with other tests")]
mod core_settings;
#[path = "../support/reply.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "it is shared with other tests")]
mod reply;
