//! The OCS-Controlled Pipeline System of the Vera C. Rubin Observatory: one sync daemon, and its
//! command-line client in the same program.
//!
//! It takes *commands*, drives a *back-end* that runs pipelines as *jobs*, and reports with
//! *acks* and *events*. There is no async runtime: threads talk over channels, and one blocking main
//! loop owns all state.
//!
//! # The map
//!
//! | room | what it is | what it must not know |
//! |---|---|---|
//! | [`csc`] | the core: a pure state machine, [`csc::Csc::handle`] | HTTP, JSON, files, clocks, threads |
//! | [`sal`] | the SAL interface as data: topics, fields, codes | jobs, sockets |
//! | [`config`] | `ocps.toml` and the layered component YAML | summary states |
//! | [`backend`] | what runs pipelines: UWS over HTTP, Redis for Rapid Analysis, the simulator; the worker pools | commands, acks |
//! | [`transport`] | where commands come from and events go: the local socket, Kafka | jobs |
//! | [`journal`] | the durable record of commands: SQLite, group commit, what the previous run left | what a command means |
//! | [`daemon`] | the main loop: wires the rooms, owns the threads | what a job is |
//! | [`timer`], [`systemd`], [`logging`] | the poll-timer thread; readiness and watchdog; the log | all the rest |
//! | [`url`] | a URL that no log, status or error shows the password of | who uses it |
//! | `resolver` | the addresses of hosts, for what asks over HTTP | what is asked |
//! | [`clock`] | TAI and UTC, and ages that stay right when the clock is set | who asks |
//! | `text` | text from outside made fit for one line; the nearest known name | where it comes from |
//! | `json` | JSON objects of others, taken apart in bounded memory | what they mean |
//! | [`cli`] | flags, help, and the client commands | the daemon's insides |
//!
//! # The way of one command
//!
//! ```text
//! socket or Kafka thread -> parse -> Command --channel--> main loop
//!   -> Csc::handle(now, Input::Command) -> [Effect ...]
//!   -> journal -> Csc::handle(now, Input::Journaled)
//!   -> acks, events, back-end requests
//!   -> worker thread: ureq -> Outcome --channel--> main loop
//!   -> Csc::handle(now, Input::Outcome) -> [Effect ...] -> ...
//! ```
//!
//! One direction, no callbacks, no shared mutable state, no locks around the core. Every queue, size,
//! count and wait is bounded by a named constant or a setting.

#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod csc;
pub mod daemon;
pub mod journal;
mod json;
pub mod logging;
mod resolver;
pub mod sal;
pub mod systemd;
mod text;
pub mod timer;
pub mod transport;
pub mod url;
