//! THE CORE: a pure state machine.
pub mod command;
pub mod event;
pub mod id;
pub mod request;
pub mod state;
pub mod time;
