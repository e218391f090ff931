//! The clocks: TAI for the time stamps of SAL, UTC for people, and ages that stay right if the clock is set.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

use crate::csc::time::{BootId, Tai, Uptime};

/// TAI minus UTC since 2017-01-01, in seconds: used if the kernel does not know the offset.
pub const TAI_MINUS_UTC_S: u32 = 37;

/// If the clock is wrong or was set by more seconds than this, that is logged.
pub const LARGE_STEP_S: f64 = 1.0;

/// The offset for a kernel that knows none; written once, at the start.
static OFFSET_S: AtomicU32 = AtomicU32::new(TAI_MINUS_UTC_S);

/// Sets TAI minus UTC, in seconds, for a kernel that does not know of the last leap second.
pub fn set_tai_minus_utc(seconds: u32) {
    OFFSET_S.store(seconds, Ordering::Relaxed);
}

/// TAI minus UTC, in whole seconds: that of the kernel, else the configured one.
pub fn tai_minus_utc() -> f64 {
    kernel_tai_minus_utc().unwrap_or_else(|| OFFSET_S.load(Ordering::Relaxed).into())
}

/// TAI minus UTC of the kernel, in whole seconds, if it knows it.
pub fn kernel_tai_minus_utc() -> Option<f64> {
    let utc = unix_now();
    let tai = clock_gettime_dynamic(DynamicClockId::Tai).ok()?;
    // Without NTP the kernel's offset is 0, and its TAI is UTC.
    Some((since_zero(tai).as_secs_f64() - utc).round()).filter(|offset| *offset >= 1.0)
}

/// The time now.
pub fn now() -> Tai {
    Tai(unix_now() + tai_minus_utc())
}

/// The Unix time now.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A time stamp as UTC for people, see [`rfc3339`].
pub fn utc(tai: Tai) -> String {
    rfc3339(tai.0 - tai_minus_utc())
}

/// A Unix time as `2026-11-22T14:00:23.504Z`, always of this width: limited to the years 1970 to 9999.
pub fn rfc3339(unix_s: f64) -> String {
    // 9999-12-31T23:59:59.999Z; NaN becomes 0.
    const LAST_MS: f64 = 253_402_300_799_999.0;
    let since = Duration::from_millis((unix_s * 1000.0).round().clamp(0.0, LAST_MS) as u64);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// How long the machine has been up, including sleep, if the kernel reports it.
pub fn uptime() -> Option<Uptime> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = BootId(u128::from_str_radix(&boot.trim().replace('-', ""), 16).ok()?);
    Some(Uptime { boot, since: since_zero(clock_gettime(ClockId::Boottime)) })
}

/// The time of a clock since its zero.
fn since_zero(time: Timespec) -> Duration {
    time.try_into().unwrap_or_default()
}

/// A point in time for ages that include the time while the machine or the process stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The time since the boot, which includes sleep.
    since_boot: Duration,
    /// The wall clock, which may be set at any time, also forward after a pause of a virtual machine.
    wall: SystemTime,
}

impl Moment {
    /// The moment with these times of both clocks.
    pub fn new(since_boot: Duration, wall: SystemTime) -> Self {
        Self { since_boot, wall }
    }

    /// The present moment.
    pub fn now() -> Self {
        Self::new(since_zero(clock_gettime(ClockId::Boottime)), SystemTime::now())
    }

    /// The age of this moment at `later`; setting the clock back does not make it shorter.
    pub fn age(self, later: Self) -> Duration {
        let wall = later.wall.duration_since(self.wall).unwrap_or_default();
        later.since_boot.saturating_sub(self.since_boot).max(wall)
    }

    /// By how many seconds the clock was set between this moment and `later`; negative if it was set back.
    pub fn clock_step(self, later: Self) -> f64 {
        let wall = match later.wall.duration_since(self.wall) {
            Ok(forward) => forward.as_secs_f64(),
            Err(back) => -back.duration().as_secs_f64(),
        };
        wall - later.since_boot.saturating_sub(self.since_boot).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(since_boot: u64, wall: u64) -> Moment {
        Moment::new(Duration::from_secs(since_boot), UNIX_EPOCH + Duration::from_secs(wall))
    }

    #[test]
    fn a_clock_that_was_set_makes_an_age_no_shorter_and_is_noticed() {
        let begun = at(1000, 1_000_000);
        let seconds = Duration::from_secs;
        let (on_time, back) = (at(1005, 1_000_005), at(1005, 996_405));
        assert_eq!((begun.age(on_time), begun.age(back)), (seconds(5), seconds(5)));
        assert!(begun.clock_step(on_time).abs() < 1e-6);
        assert!((begun.clock_step(back) + 3600.0).abs() < 1e-6);
        // A virtual machine that was paused: only the wall clock knows.
        let paused = at(1001, 1_000_091);
        assert_eq!(begun.age(paused), seconds(91));
        assert!((begun.clock_step(paused) - 90.0).abs() < 1e-6);
    }

    #[test]
    fn times_are_dates_of_one_width() {
        for (unix_s, expected) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1_795_356_023.504, "2026-11-22T14:00:23.504Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199.999_6, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599.999, "2026-12-31T23:59:59.999Z"),
            (-5.0, "1970-01-01T00:00:00.000Z"),
            (f64::NAN, "1970-01-01T00:00:00.000Z"),
            (f64::INFINITY, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(unix_s), expected, "{unix_s}");
        }
        assert_eq!(utc(Tai(1_795_356_060.504)), "2026-11-22T14:00:23.504Z");
    }

    #[test]
    fn the_uptime_grows_within_a_boot() {
        let before = uptime().unwrap();
        let after = uptime().unwrap();
        assert_eq!(before.boot, after.boot);
        assert!(Duration::ZERO < before.since && before.since <= after.since);
    }

    #[test]
    fn tai_is_37_seconds_ahead_of_utc() {
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now().0 - utc - f64::from(TAI_MINUS_UTC_S)).abs() < 1.0);
    }
}
