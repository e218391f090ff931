//! The UWS back-end against the fake execution service, and against servers that no HTTP library would make.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a failure ends the test")]

mod access;
mod raw;
mod rig;
mod service;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tls")]
mod tls;
