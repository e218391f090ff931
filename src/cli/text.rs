//! Small things as text for people: numbers of JSON documents, times, tables.

use serde_json::Value;

use super::output::{Palette, Tone};

/// What stands for something that is not known.
pub(super) const UNKNOWN: &str = "-";

/// TAI minus UTC since 2017-01-01 (IERS Bulletin C 52); no further leap second has been announced.
const TAI_MINUS_UTC_S: f64 = 37.0;

/// Text from outside with nothing in it that moves a cursor or begins a new line.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A value of a document: scalars as they are, anything else as JSON, null and nothing as unknown.
pub(super) fn scalar(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => UNKNOWN.to_owned(),
        Some(Value::String(text)) if text.is_empty() => UNKNOWN.to_owned(),
        Some(Value::String(text)) => clean(text),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            clean(&value.to_string())
        }
    }
}

/// A duration of a document, given in seconds.
pub(super) fn duration(value: Option<&Value>) -> String {
    let Some(seconds) = value.and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0) else {
        return UNKNOWN.to_owned();
    };
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    // Saturates, which is as good as any answer for a duration of a billion years.
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match (days, hours) {
        (0, 0) => format!("{minutes}m{:02}s", whole % 60),
        (0, _) => format!("{hours}h{:02}m", minutes % 60),
        (_, _) => format!("{days}d{:02}h", hours % 24),
    }
}

/// The UTC time of day of a TAI stamp, to the millisecond.
pub(super) fn tai_time_of_day(tai_s: f64) -> String {
    utc_time_of_day(tai_s - TAI_MINUS_UTC_S)
}

/// The time of day of a Unix time, to the millisecond.
pub(super) fn utc_time_of_day(unix_s: f64) -> String {
    let ms = (unix_s * 1000.0).round().rem_euclid(86_400_000.0) as u64;
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, ms % 1000)
}

/// A summary state in its colour.
pub(super) fn state(palette: Palette, name: &str) -> String {
    let tone = match name {
        "ENABLED" => Tone::Good,
        "FAULT" => Tone::Bad,
        "DISABLED" | "STANDBY" => Tone::Middling,
        _ => Tone::Quiet,
    };
    palette.paint(tone, &clean(name))
}

/// Rows in columns as wide as their widest cell; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_from_outside_cannot_steer_a_terminal() {
        assert_eq!(clean("a\x1b[31mb\r\nc\u{9b}é"), "a\\u{1b}[31mb\\r\\nc\\u{9b}é");
    }

    #[test]
    fn what_is_missing_is_a_dash() {
        for (value, expected) in [
            (json!(null), "-"),
            (json!(""), "-"),
            (json!("a b"), "a b"),
            (json!(0), "0"),
            (json!(true), "true"),
            (json!([1]), "[1]"),
            (json!(["\u{9b}"]), "[\"\\u{9b}\"]"),
        ] {
            assert_eq!(scalar(Some(&value)), expected);
        }
        assert_eq!(scalar(None), "-");
    }

    #[test]
    fn durations_keep_two_places() {
        for (seconds, expected) in [
            (json!(0), "0.0s"),
            (json!(1.04), "1.0s"),
            (json!(60.0), "1m00s"),
            (json!(3599.9), "59m59s"),
            (json!(3720), "1h02m"),
            (json!(90_000), "1d01h"),
            (json!(-1), "-"),
            (json!("1"), "-"),
        ] {
            assert_eq!(duration(Some(&seconds)), expected);
        }
        assert_eq!(duration(None), "-");
    }

    #[test]
    fn stamps_become_times_of_day() {
        // 2026-11-22T14:00:23.504 UTC.
        assert_eq!(tai_time_of_day(1_795_356_060.504), "14:00:23.504");
        assert_eq!(utc_time_of_day(0.0), "00:00:00.000");
        assert_eq!(utc_time_of_day(86_399.999_9), "00:00:00.000");
        assert_eq!(utc_time_of_day(-1.0), "23:59:59.000");
        assert_eq!(utc_time_of_day(f64::NAN), "00:00:00.000");
    }

    #[test]
    fn columns_are_as_wide_as_needed() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows = [row(&["A", "LONG", "C"]), row(&["ää", "b", ""]), row(&["x"])];
        assert_eq!(table(&rows), "A   LONG  C\nää  b\nx\n");
    }
}
