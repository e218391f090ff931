//! TAI, the time of all SAL stamps.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{DynamicClockId, clock_gettime_dynamic};

use crate::csc::time::Tai;

/// TAI minus UTC since 2017-01-01, in seconds: used where the kernel does not know the offset.
const TAI_MINUS_UTC: f64 = 37.0;

/// The time now: CLOCK_TAI where the kernel knows its offset from UTC, else UTC + 37 s.
#[must_use]
pub fn now() -> Tai {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    // Without NTP the kernel's offset is 0, and its TAI is UTC.
    let tai = kernel_tai().filter(|tai| tai - utc > 1.0);
    Tai(tai.unwrap_or(utc + TAI_MINUS_UTC))
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
    fn tai_is_37_seconds_ahead_of_utc() {
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now().0 - utc - TAI_MINUS_UTC).abs() < 1.0);
    }
}
