//! TAI, the time of all SAL stamps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};

use crate::csc::time::{BootId, Tai, Uptime};

/// TAI minus UTC since 2017-01-01, in seconds: used where the kernel does not know the offset.
pub const TAI_MINUS_UTC_S: u32 = 37;

/// The offset in use; written once, at start.
static OFFSET_S: AtomicU32 = AtomicU32::new(TAI_MINUS_UTC_S);

/// Sets TAI minus UTC, in seconds, for the day on which a leap second comes and the kernel is not told.
pub fn set_tai_minus_utc(seconds: u32) {
    OFFSET_S.store(seconds, Ordering::Relaxed);
}

/// TAI minus UTC, in seconds.
#[must_use]
pub fn tai_minus_utc() -> f64 {
    f64::from(OFFSET_S.load(Ordering::Relaxed))
}

/// The time now: CLOCK_TAI where the kernel knows its offset from UTC, else UTC and the offset that is set (37 s).
#[must_use]
pub fn now() -> Tai {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    // Without NTP the kernel's offset is 0, and its TAI is UTC.
    let tai = kernel_tai().filter(|tai| tai - utc > 1.0);
    Tai(tai.unwrap_or(utc + tai_minus_utc()))
}

/// How long the machine has been up, with the time that it slept, where the kernel tells.
#[must_use]
pub fn uptime() -> Option<Uptime> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = BootId(u128::from_str_radix(&boot.trim().replace('-', ""), 16).ok()?);
    let time = clock_gettime(ClockId::Boottime);
    let since = Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    Some(Uptime { boot, since })
}

fn kernel_tai() -> Option<f64> {
    let time = clock_gettime_dynamic(DynamicClockId::Tai).ok()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 seconds are far off, and nanoseconds are below 10^9"
    )]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

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
