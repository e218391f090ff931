//! What a start of the daemon can be given; the command line fills it in.

use std::path::PathBuf;

use crate::csc::id::SalIndex;
use crate::csc::state::SummaryState;

/// The state in which the daemon begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// This one: STANDBY, DISABLED or ENABLED.
    At(SummaryState),
    /// The state of the previous run if that was DISABLED or ENABLED, with the same override; else STANDBY.
    Resume,
}

impl Default for InitialState {
    fn default() -> Self {
        Self::At(SummaryState::Standby)
    }
}

/// The arguments of `ocps run`; each is named after its flag.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunArgs {
    /// INDEX; none: the toml's.
    pub index: Option<SalIndex>,
    /// `--simulate`.
    pub simulate: bool,
    /// `--state`.
    pub state: InitialState,
    /// `--override`: `[file][:gitref]`.
    pub override_name: Option<String>,
    /// `--configdir`.
    pub config_dir: Option<PathBuf>,
    /// `--config`: the toml.
    pub config: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--loglevel`: Python's number.
    pub log_level: Option<i32>,
    /// `--kafka` or `--no-kafka`; none: Kafka is used if it is configured.
    pub kafka: Option<bool>,
}
