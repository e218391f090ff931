//! Times for people: shows them in local time or UTC, and reads them as they are typed.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::flags::Line;

/// A time zone.
pub(super) struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl Zone {
    /// UTC.
    pub(super) const UTC: Self = Self(TimeZone::UTC);

    /// UTC with `--utc`, else the zone of this machine.
    pub(super) fn of(line: &Line) -> Self {
        if line.has("utc") { Self::UTC } else { Self::of_machine() }
    }

    /// The zone of this machine, or UTC if it has none.
    pub(super) fn of_machine() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// Its present name, for a heading.
    pub(super) fn name(&self) -> String {
        self.format(Timestamp::now(), "%Z")
    }

    /// The present time.
    pub(super) fn now(&self) -> String {
        self.format(Timestamp::now(), "%F %T")
    }

    /// A time in UTC, as the daemon writes it, in this zone.
    pub(super) fn show(&self, utc: &str) -> Option<String> {
        Some(self.format(utc.parse().ok()?, "%F %T"))
    }

    /// The same, with the name of the zone at that time.
    pub(super) fn show_in_full(&self, utc: &str) -> Option<String> {
        Some(self.format(utc.parse().ok()?, "%F %T %Z"))
    }

    fn format(&self, time: Timestamp, format: &str) -> String {
        time.to_zoned_datetime(self.0.clone()).strftime(format).to_string()
    }

    /// Reads a time as it is typed: how long ago it was, a date, a date with a time of day, or a time of day, which means the
    /// last one before `now`.
    ///
    /// # Errors
    /// One line: the text is none of these.
    pub(super) fn parse(&self, text: &str, now: Timestamp) -> Result<Timestamp, String> {
        let ago = humantime::parse_duration(text).ok();
        let ago = ago.and_then(|ago| now.checked_sub(SignedDuration::try_from(ago).ok()?).ok());
        let here = |time: DateTime| Some(time.to_zoned_datetime(self.0.clone()).ok()?.timestamp());
        let of_day = || {
            let (time, today) = (text.parse::<Time>().ok()?, now.to_zoned_datetime(self.0.clone()).date());
            let at = here(today.to_datetime(time))?;
            if at <= now { Some(at) } else { here(today.yesterday().ok()?.to_datetime(time)) }
        };
        let time = ago.or_else(|| text.parse().ok());
        let time = time.or_else(|| text.parse().ok().and_then(here)).or_else(of_day);
        time.ok_or_else(|| {
            format!("{text:?} is not a time: for example 2h, 3days, 22:30, 2026-11-22 or 2026-11-22T14:00")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_in_the_zone() {
        let santiago = Zone(TimeZone::fixed(jiff::tz::offset(-3)));
        let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let check = |zone: &Zone, text: &str, expected: &str| {
            let time = zone.parse(text, now).unwrap();
            assert_eq!(time.to_string(), expected, "{text}");
        };
        check(&Zone::UTC, "2h", "2026-11-22T00:00:00Z");
        check(&Zone::UTC, "1day 30min", "2026-11-21T01:30:00Z");
        check(&Zone::UTC, "01:30", "2026-11-22T01:30:00Z");
        check(&Zone::UTC, "22:30", "2026-11-21T22:30:00Z");
        check(&Zone::UTC, "2026-11-20", "2026-11-20T00:00:00Z");
        check(&santiago, "22:30", "2026-11-22T01:30:00Z");
        check(&santiago, "2026-11-20 12:00", "2026-11-20T15:00:00Z");
        check(&santiago, "2026-11-20T12:00:05Z", "2026-11-20T12:00:05Z");
        assert_eq!(santiago.show("2026-11-22T02:00:00.504Z").as_deref(), Some("2026-11-21 23:00:00"));
        assert_eq!(santiago.show("soon"), None);
        assert_eq!((Zone::UTC.name(), santiago.name()), ("UTC".to_owned(), "-03".to_owned()));
        for text in ["", "2", "soon", "25:00", "2026-13-01", "99999999999999y"] {
            let problem = Zone::UTC.parse(text, now).unwrap_err();
            assert!(problem.starts_with(&format!("{text:?} is not a time: for example 2h")), "{problem}");
        }
    }
}
