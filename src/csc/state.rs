//! Summary states and the transition table.

use strum::{Display, EnumString, IntoStaticStr};

use super::command::CommandName;

/// The summary state of a CSC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr, Display)]
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
    /// Waiting to be configured by `start`; the first state.
    #[default]
    Standby = 5,
}

impl SummaryState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Disabled, Self::Enabled, Self::Fault, Self::Offline, Self::Standby];

    /// The code in the `summaryState` event (SAL's `State` enumeration).
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The name, in capitals as SAL writes it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The state of that code.
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|s| i64::from(s.code()) == code)
    }

    /// Where a transition leads from here; none if it is not allowed, or is no transition.
    pub fn after(self, transition: CommandName) -> Option<Self> {
        let transitions = [
            (Self::Standby, CommandName::Start, Self::Disabled),
            (Self::Disabled, CommandName::Enable, Self::Enabled),
            (Self::Enabled, CommandName::Disable, Self::Disabled),
            (Self::Disabled, CommandName::Standby, Self::Standby),
            (Self::Fault, CommandName::Standby, Self::Standby),
            (Self::Standby, CommandName::ExitControl, Self::Offline),
        ];
        let allowed = transitions.into_iter().find(|(from, by, _)| (*from, *by) == (self, transition));
        allowed.map(|(_, _, to)| to)
    }

    /// The next transition on the way from here to `target`; none when there is no way, or we are there.
    pub fn next_towards(self, target: Self) -> Option<CommandName> {
        if self == target || target == Self::Fault {
            return None;
        }
        match self {
            Self::Standby if target == Self::Offline => Some(CommandName::ExitControl),
            Self::Standby => Some(CommandName::Start),
            Self::Disabled if target == Self::Enabled => Some(CommandName::Enable),
            Self::Disabled | Self::Fault => Some(CommandName::Standby),
            Self::Enabled => Some(CommandName::Disable),
            Self::Offline => None,
        }
    }
}
