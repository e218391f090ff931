//! Summary states and the transition table.

use std::fmt;

/// The summary state of a CSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SummaryState {
    /// Configured, but no jobs are accepted.
    Disabled,
    /// Jobs are accepted.
    Enabled,
    /// Something broke; an operator must look and send `standby`.
    Fault,
    /// Not under control any more; the daemon ends.
    Offline,
    /// Waiting to be configured by `start`.
    Standby,
}

impl SummaryState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Disabled, Self::Enabled, Self::Fault, Self::Offline, Self::Standby];

    /// The code in the `summaryState` event (SAL's `State` enumeration).
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Disabled => 1,
            Self::Enabled => 2,
            Self::Fault => 3,
            Self::Offline => 4,
            Self::Standby => 5,
        }
    }

    /// The name, in capitals as SAL writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Enabled => "ENABLED",
            Self::Fault => "FAULT",
            Self::Offline => "OFFLINE",
            Self::Standby => "STANDBY",
        }
    }

    /// The state of that code.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|s| i64::from(s.code()) == code)
    }

    /// Where a transition leads from here; none when it is not allowed.
    #[must_use]
    pub fn after(self, transition: Transition) -> Option<Self> {
        match (self, transition) {
            (Self::Standby, Transition::Start) | (Self::Enabled, Transition::Disable) => Some(Self::Disabled),
            (Self::Disabled, Transition::Enable) => Some(Self::Enabled),
            (Self::Disabled | Self::Fault, Transition::Standby) => Some(Self::Standby),
            (Self::Standby, Transition::ExitControl) => Some(Self::Offline),
            (Self::Disabled, Transition::Start | Transition::Disable | Transition::ExitControl)
            | (
                Self::Enabled,
                Transition::Start | Transition::Enable | Transition::Standby | Transition::ExitControl,
            )
            | (
                Self::Fault,
                Transition::Start | Transition::Enable | Transition::Disable | Transition::ExitControl,
            )
            | (Self::Standby, Transition::Enable | Transition::Disable | Transition::Standby)
            | (
                Self::Offline,
                Transition::Start
                | Transition::Enable
                | Transition::Disable
                | Transition::Standby
                | Transition::ExitControl,
            ) => None,
        }
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
