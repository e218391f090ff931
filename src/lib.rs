//! The OCS-Controlled Pipeline System of the Vera C. Rubin Observatory: one sync daemon, and its
//! command-line client in the same program.
//!
//! It takes *commands*, drives a *back-end* that runs pipelines as *jobs*, and reports with
//! *acks* and *events*. There is no async runtime: threads talk over channels, and one blocking main
//! loop owns all state.
//!
//! # Start reading here
//!
//! 1. [`csc::Input`] and [`csc::Effect`]: everything that can happen, and everything that the daemon can do about it.
//! 2. [`csc::Csc::handle`]: computes the effects of an input; its module names the parts of the core.
//! 3. [`daemon::turn::Turn`]: a turn of the main loop around the core: the start, early commands, records.
//! 4. `Daemon::run` and `Daemon::run_effect` in [`daemon`]: the loop, and how each effect is carried out.
//!
//! # The map
//!
//! A room imports only rooms that stand above it in this table; all may import the last six, which are small tools.
//!
//! | room | what it is | what it must not know |
//! |---|---|---|
//! | [`csc`] | the core: a pure state machine | HTTP, JSON, files, clocks, threads, the log |
//! | [`sal`] | the SAL interface as data: topics, fields, codes | jobs, sockets |
//! | [`config`] | `ocps.toml` and the layered component YAML | summary states, the command line |
//! | `broker` | how a client of Kafka is made from the settings, and questions to a broker about a topic | which topics there are, messages |
//! | [`journal`] | the durable record of commands: SQLite in a file, or in memory and a topic of Kafka; group commit, what the previous run left | what a command means |
//! | [`backend`] | what runs pipelines: UWS over HTTP, Redis for Rapid Analysis, the simulator; the worker threads | commands, acks |
//! | [`transport`] | where commands come from and events go: the local socket, Kafka | jobs, the journal |
//! | `display` | the documents of the daemon, status and jobs, as text for people | where they are shown |
//! | [`http`] | what is shown over HTTP: a page, metrics, probes | jobs, the main loop |
//! | [`timer`], [`systemd`], [`logging`] | the poll-timer thread; readiness and watchdog; the log | all the rest |
//! | [`daemon`] | the main loop: wires the rooms, owns the threads | the command line |
//! | [`cli`] | flags, help, and the client commands | the daemon's insides |
//! | [`url`] | a URL that no log, status or error shows the password of | what is requested there |
//! | [`clock`] | TAI and UTC, and ages that stay right when the clock is set | what the times are for |
//! | [`lease`] | whether this instance may change something at the service, or another one has taken over | what is changed |
//! | `text` | text from outside made fit for one line; the nearest known name | where it comes from |
//! | `json` | JSON objects of others, taken apart in bounded memory | what they mean |
//! | `resolver` | the addresses of hosts, for what asks over HTTP | what is asked |
//!
//! # The way of one command
//!
//! ```text
//! socket or Kafka thread -> parse -> Command --channel--> main loop
//!   -> Csc::handle(now, Input::Command) -> [Effect ...]
//!   -> journal thread: durable --channel--> Csc::handle(now, Input::Journaled)
//!   -> acks, events, back-end requests
//!   -> worker thread: ureq -> Outcome --channel--> main loop
//!   -> Csc::handle(now, Input::Outcome) -> [Effect ...] -> ...
//! ```
//!
//! One direction, no callbacks, no shared mutable state, no locks around the core.
//!
//! # What always holds, and why
//!
//! * **Nothing is sent to the service that the journal does not already hold**: after a crash, every job that may
//!   exist is known by its run id and is looked up, not submitted again.
//! * **A job id or a result is published only when it is durable**: a client that knows the id may abort the job, and a
//!   client that has read a result must never read a different one. Deliveries are recorded afterwards, so that after a
//!   crash something may be published twice, always with equal content.
//! * **Two instances with one journal never change something at the service at once**: a change needs a [`lease`], which
//!   the brokers confirm. An instance that takes over first waits until the lease of the other one has ended.
//! * **An unclear answer is not a failure**: each PUT makes a new job, so it is repeated only after the service's list has
//!   shown that the run does not exist. Duplicates that appear later are removed.
//! * **The core is pure**: its time and randomness are arguments. The simulation therefore runs the shipped core, turn,
//!   lanes and journal through thousands of crashes and faults in virtual time, and can repeat any of them by its seed.
//! * **The main loop never waits** for network, disk, git or a client: heartbeats are sent each second whatever hangs.
//!   Each kind of request has its own limit of requests in flight, so that a hanging poll delays no execute or abort.
//! * **Everything is bounded** by a named constant or a setting, each wait has a time limit, and what exceeds a limit is
//!   refused with one clear line.
//! * **The cost of an event does not grow with the number of jobs**: deadlines are kept in a table ordered by time, and
//!   counts are kept up to date. A list of the service leads to a look at the jobs of which it shows something new.
//! * A channel that is closed from outside is a normal end; a channel between threads of the daemon that is closed is a bug
//!   and ends the process with a message.
//!
//! # Tests
//!
//! `tests/core` drives the core and checks its rules after each input; `tests/simulation` drives the turn, the lanes, the
//! lease and both journals, also two instances with one journal; `tests/hostile` gives hostile input to everything that
//! reads from outside; `tests/daemon`, `tests/kafka`, `tests/uws`, `tests/redis` run the program against fake and real
//! servers; `tests/chaos` kills it.

#![forbid(unsafe_code)]
// The status document is one long `json!`.
#![recursion_limit = "256"]

pub mod backend;
#[cfg(feature = "kafka")]
mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod csc;
pub mod daemon;
mod display;
pub mod http;
pub mod journal;
mod json;
pub mod lease;
pub mod logging;
mod resolver;
pub mod sal;
pub mod systemd;
mod text;
pub mod timer;
pub mod transport;
pub mod url;
