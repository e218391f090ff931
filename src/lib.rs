//! The map of the code.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;
pub mod config;
pub mod csc;
pub mod daemon;
pub mod logging;
pub mod sal;
pub mod systemd;
pub mod timer;
pub mod transport;
