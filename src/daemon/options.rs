//! The arguments of the daemon, which the command line fills in.

use std::path::PathBuf;

use super::turn::Goal;
use crate::csc::id::SalIndex;

/// The arguments of `ocps run`; each is named after its flag.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunArgs {
    /// INDEX; none: that of the toml.
    pub index: Option<SalIndex>,
    /// `--simulate`.
    pub simulate: bool,
    /// `--state` and `--override`.
    pub goal: Goal,
    /// `--configdir`.
    pub config_dir: Option<PathBuf>,
    /// `--config`: the toml.
    pub config: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--loglevel`, as Python's number.
    pub log_level: Option<i32>,
    /// `--kafka` or `--no-kafka`; none: Kafka is used if it is configured.
    pub kafka: Option<bool>,
    /// `--standby`.
    pub standby: bool,
}
