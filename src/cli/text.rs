//! Small things as text for people: numbers of JSON documents, times, tables.

use serde_json::Value;

use super::output::{Palette, Tone};

/// What stands for something that is not known.
pub(super) const UNKNOWN: &str = "-";

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

/// A time of a document to the second, `2026-11-22 14:00:23`: RFC 3339, and UTC as all that the daemon says.
pub(super) fn date_and_time(value: Option<&Value>) -> String {
    let to_the_second = |text: &str| Some(text.get(..19)?.replacen('T', " ", 1));
    value
        .and_then(Value::as_str)
        .and_then(to_the_second)
        .map_or_else(|| UNKNOWN.to_owned(), |text| clean(&text))
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
    fn dates_are_told_to_the_second() {
        for (value, expected) in [
            (json!("2026-11-22T14:00:23.504Z"), "2026-11-22 14:00:23"),
            (json!("soon"), "-"),
            (json!("2026-11-22T14:00:2é"), "-"),
            (json!(5), "-"),
        ] {
            assert_eq!(date_and_time(Some(&value)), expected);
        }
        assert_eq!(date_and_time(None), "-");
    }

    #[test]
    fn columns_are_as_wide_as_needed() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows = [row(&["A", "LONG", "C"]), row(&["ää", "b", ""]), row(&["x"])];
        assert_eq!(table(&rows), "A   LONG  C\nää  b\nx\n");
    }
}
