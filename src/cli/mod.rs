//! The command line.
mod event_text;
pub mod flags;
