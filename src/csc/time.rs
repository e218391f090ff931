//! Time as the core sees it: an argument, never a clock.

use std::time::Duration;

/// A moment, by both clocks that the core needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Time since an arbitrary origin (the start of the process); never goes back.
    pub mono: Duration,
    /// The same moment on the observatory's clock, which can be set back.
    pub tai: Tai,
}

/// How long the machine has been up: it does not change when the clock is set. It can be compared within one boot only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uptime {
    /// Which boot.
    pub boot: BootId,
    /// Since it began.
    pub since: Duration,
}

/// The kernel's own random name of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub u128);

/// International Atomic Time: seconds since 1970-01-01T00:00:00 TAI, the time of all SAL stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Tai(pub f64);
