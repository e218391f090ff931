//! Time as the core sees it: an argument, never a clock.

use std::time::Duration;

/// A moment, in both of the ways that the core needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Time since an arbitrary origin (the start of the process); never goes back.
    pub mono: Duration,
    /// The same moment on the observatory's clock; can be stepped.
    pub tai: Tai,
}

/// International Atomic Time: seconds since 1970-01-01T00:00:00 TAI, the time of all SAL stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Tai(pub f64);
