//! Rapid Analysis (index 101): the values of a command are pushed to Redis lists, from which other programs take them.
//!
//! Invariants: all values of a command are pushed, or none; nothing is sent twice that may have been carried out;
//! a push ends within its patience, a ping within its timeouts. The password is in no log, status or error.
//!
//! [`values`] is what a command asks for, `access` the address and password of Redis, `session` one
//! connection. Without the cargo feature `redis` only the values are left, for the simulator.

#[cfg(feature = "redis")]
pub mod access;
#[cfg(feature = "redis")]
mod client;
#[cfg(feature = "redis")]
mod session;
pub mod values;

#[cfg(feature = "redis")]
pub use client::RapidAnalysis;
