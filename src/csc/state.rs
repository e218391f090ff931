//! Summary states and the transition table.

use std::fmt;

use strum::{EnumString, IntoStaticStr};

/// The summary state of a CSC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, EnumString, IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
pub enum SummaryState {
    /// Configured, but no jobs are accepted.
    Disabled = 1,
    /// Jobs are accepted.
    Enabled = 2,
    /// Something broke; an operator must look and send `standby`.
    Fault = 3,
    /// Not under control any more; the daemon ends.
    Offline = 4,
    /// Waiting to be configured by `start`: every component begins so.
    #[default]
    Standby = 5,
}

impl SummaryState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Disabled, Self::Enabled, Self::Fault, Self::Offline, Self::Standby];

    /// The code in the `summaryState` event (SAL's `State` enumeration).
    #[must_use]
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The name, in capitals as SAL writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The state of that code.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|s| i64::from(s.code()) == code)
    }

    /// Where a transition leads from here; none when it is not allowed.
    #[must_use]
    pub fn after(self, transition: Transition) -> Option<Self> {
        let transitions = [
            (Self::Standby, Transition::Start, Self::Disabled),
            (Self::Disabled, Transition::Enable, Self::Enabled),
            (Self::Enabled, Transition::Disable, Self::Disabled),
            (Self::Disabled, Transition::Standby, Self::Standby),
            (Self::Fault, Transition::Standby, Self::Standby),
            (Self::Standby, Transition::ExitControl, Self::Offline),
        ];
        let allowed = transitions.into_iter().find(|(from, by, _)| (*from, *by) == (self, transition));
        allowed.map(|(_, _, to)| to)
    }

    /// The next transition on the way from here to `target`; none when there is no way, or we are there.
    #[must_use]
    pub fn next_towards(self, target: Self) -> Option<Transition> {
        match (self, target) {
            (Self::Standby, Self::Disabled | Self::Enabled) => Some(Transition::Start),
            (Self::Disabled, Self::Enabled) => Some(Transition::Enable),
            (Self::Enabled, Self::Disabled | Self::Standby | Self::Offline) => Some(Transition::Disable),
            (Self::Disabled, Self::Standby | Self::Offline)
            | (Self::Fault, Self::Standby | Self::Disabled | Self::Enabled | Self::Offline) => {
                Some(Transition::Standby)
            }
            (Self::Standby, Self::Offline) => Some(Transition::ExitControl),
            (Self::Offline, _) | (_, Self::Fault) => None,
            (Self::Standby, Self::Standby)
            | (Self::Disabled, Self::Disabled)
            | (Self::Enabled, Self::Enabled) => None,
        }
    }
}

impl fmt::Display for SummaryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A command that changes the summary state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// STANDBY to DISABLED; reads and applies the configuration.
    Start,
    /// DISABLED to ENABLED.
    Enable,
    /// ENABLED to DISABLED.
    Disable,
    /// DISABLED or FAULT to STANDBY.
    Standby,
    /// STANDBY to OFFLINE; the daemon ends.
    ExitControl,
}
