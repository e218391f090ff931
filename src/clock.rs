//! The clocks: TAI, the time of all SAL stamps, UTC for people, and how long ago something was, whatever happens to
//! the clock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

use crate::csc::time::{BootId, Tai, Uptime};

/// TAI minus UTC since 2017-01-01, in seconds: used where the kernel does not know the offset.
pub const TAI_MINUS_UTC_S: u32 = 37;

/// A clock that is off, or was set, by more seconds is worth a line in the log.
pub const LARGE_STEP_S: f64 = 1.0;

/// The offset where the kernel knows none; written once, at start.
static OFFSET_S: AtomicU32 = AtomicU32::new(TAI_MINUS_UTC_S);

/// Sets TAI minus UTC, in seconds, for a kernel that does not know of the last leap second.
pub fn set_tai_minus_utc(seconds: u32) {
    OFFSET_S.store(seconds, Ordering::Relaxed);
}

/// TAI minus UTC, in whole seconds: as the kernel knows it, else as it was set.
pub fn tai_minus_utc() -> f64 {
    kernel_tai_minus_utc().unwrap_or_else(|| OFFSET_S.load(Ordering::Relaxed).into())
}

/// TAI minus UTC as the kernel knows it, in whole seconds, if it does.
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

/// A stamp as UTC for people, see [`rfc3339`].
pub fn utc(tai: Tai) -> String {
    rfc3339(tai.0 - tai_minus_utc())
}

/// A Unix time as `2026-11-22T14:00:23.504Z`, always so wide; one that is no time of our era as its nearest end.
pub fn rfc3339(unix_s: f64) -> String {
    // 9999-12-31T23:59:59.999Z; what is no number becomes 0.
    const LAST_MS: f64 = 253_402_300_799_999.0;
    let since = Duration::from_millis((unix_s * 1000.0).round().clamp(0.0, LAST_MS) as u64);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// How long the machine has been up, with the time that it slept, where the kernel knows.
pub fn uptime() -> Option<Uptime> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = BootId(u128::from_str_radix(&boot.trim().replace('-', ""), 16).ok()?);
    Some(Uptime { boot, since: since_zero(clock_gettime(ClockId::Boottime)) })
}

/// A clock's time since its zero.
fn since_zero(time: Timespec) -> Duration {
    time.try_into().unwrap_or_default()
}

/// A point in time from which ages are counted that include the time in which machine or process stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// It continues while the machine sleeps.
    since_boot: Duration,
    /// It may be set at any time: forward also when a virtual machine was paused.
    wall: SystemTime,
}

impl Moment {
    /// The moment that these clocks show.
    pub fn new(since_boot: Duration, wall: SystemTime) -> Self {
        Self { since_boot, wall }
    }

    /// The present moment.
    pub fn now() -> Self {
        Self::new(since_zero(clock_gettime(ClockId::Boottime)), SystemTime::now())
    }

    /// How long before `later` it was; a clock that was set back makes it no shorter.
    pub fn age(self, later: Self) -> Duration {
        let wall = later.wall.duration_since(self.wall).unwrap_or_default();
        later.since_boot.saturating_sub(self.since_boot).max(wall)
    }

    /// By how many seconds the clock was set between here and `later`; negative when it was set back.
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
