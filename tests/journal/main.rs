//! The journal: what was reported as durable is found again, whatever happens to the process, the machine or the disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod damage;
mod disk;
mod kept;
mod open;
mod sample;
mod store;
mod thread;
#[cfg(feature = "kafka")]
mod topic;
mod writer;
