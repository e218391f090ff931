//! Small things as text for people: values of JSON documents, times, tables.

use serde_json::Value;

use super::output::{Tone, paint};

/// What stands for something that is not known.
pub(super) const UNKNOWN: &str = "-";
/// What is between two columns.
const GAP: &str = "  ";
/// No column is cut to less.
const CELL_MIN: usize = 8;
/// So many times as wide as the others may the last column stay.
const LAST_SHARE: usize = 3;
/// The last column has at least so much if others can be left out.
const LAST_MIN: usize = 24;

/// Text from outside with nothing in it that moves a cursor or begins a new line.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() }).collect()
}

/// The value at a path of a document, `service/url`, if there is any: what is null or empty is not there. One whose
/// name ends in `_s` is a number of seconds, in `_utc` a time; one whose path begins with `+` is there if it is not 0.
pub(super) fn value(document: &Value, path: &str) -> Option<String> {
    let (path, counts) = path.strip_prefix('+').map_or((path, false), |path| (path, true));
    let value =
        document.pointer(&format!("/{path}")).filter(|value| !(counts && value.as_i64() == Some(0)))?;
    if path.ends_with("_s") {
        return duration(value.as_f64()?);
    }
    let text = match value {
        Value::Null => return None,
        Value::String(text) if path.ends_with("_utc") => text.get(..19)?.replacen('T', " ", 1),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    Some(clean(&text)).filter(|text| !text.is_empty())
}

/// The template with the value at each `{path}`; none if one of these is not there. After a number, `[s]` is the ending
/// of the plural.
pub(super) fn fill(document: &Value, template: &str) -> Option<String> {
    let mut text = String::new();
    for (at, part) in template.split(['{', '}']).enumerate() {
        if at % 2 == 0 {
            text.push_str(&part.replace("[s]", if text == "1" { "" } else { "s" }));
        } else {
            text.push_str(&value(document, part)?);
        }
    }
    Some(text)
}

/// Those of the templates that can be filled, joined with commas; `!` is before something bad, `+` before something
/// good.
pub(super) fn join(document: &Value, templates: &[&str]) -> String {
    let part = |template: &&str| match (template.strip_prefix('!'), template.strip_prefix('+')) {
        (Some(template), _) => Some(paint(Tone::Bad, &fill(document, template)?)),
        (_, Some(template)) => Some(paint(Tone::Good, &fill(document, template)?)),
        (None, None) => fill(document, template),
    };
    templates.iter().filter_map(part).collect::<Vec<_>>().join(", ")
}

/// A number of seconds; none of a negative one.
pub(super) fn duration(seconds: f64) -> Option<String> {
    // Saturates, which is as good as any answer for a duration of a billion years.
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    Some(match (days, hours, minutes) {
        _ if seconds < 0.0 => return None,
        (0, 0, 0) => format!("{seconds:.1}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        (_, _, _) => format!("{days}d{:02}h", hours % 24),
    })
}

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    let power = count.checked_ilog(1024).unwrap_or(0).min(4);
    let size = count as f64 / 1024_f64.powf(power.into());
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"].get(power as usize).unwrap_or(&"");
    format!("{:.*} {unit}", usize::from(power > 0), size)
}

/// The members of an object as `name=value`; a text in which a blank could mislead is quoted.
pub(super) fn fields(object: &Value) -> String {
    let field = |(name, value): (&String, &Value)| {
        let plain = |text: &&str| !text.is_empty() && !text.contains([' ', '"', '=']);
        let text = value.as_str().filter(plain).map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", clean(name), clean(&text))
    };
    object.as_object().into_iter().flatten().map(field).collect::<Vec<_>>().join(" ")
}

/// A summary state in its colour.
pub(super) fn state_text(name: &str) -> String {
    let tone = match name {
        "ENABLED" => Tone::Good,
        "FAULT" => Tone::Bad,
        "DISABLED" | "STANDBY" => Tone::Middling,
        _ => Tone::Quiet,
    };
    paint(tone, &clean(name))
}

/// The columns, which have names, as they fit the width of a terminal: without as many of the dispensable ones as it takes to
/// leave the others some room, then with the widest cut that are not rigid, the last less than the others.
pub(super) fn fit(
    mut columns: Vec<(&str, Vec<String>)>,
    (dispensable, rigid): (&[&str], &[&str]),
    width: Option<usize>,
) -> Vec<Vec<String>> {
    let max = width.unwrap_or(usize::MAX);
    let widest = |cells: &[String]| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let excess = |widths: &[usize]| {
        (widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)).saturating_sub(max)
    };
    let needed = |columns: &[(&str, Vec<String>)]| {
        let least = |(at, (name, cells)): (usize, &(&str, Vec<String>))| match widest(cells) {
            width if rigid.contains(name) => width,
            width if at + 1 == columns.len() => width.min(LAST_MIN),
            width => width.min(CELL_MIN),
        };
        columns.iter().enumerate().map(least).collect::<Vec<usize>>()
    };
    for name in dispensable {
        if excess(&needed(&columns)) > 0 {
            columns.retain(|(other, _)| other != name);
        }
    }
    let mut widths: Vec<usize> = columns.iter().map(|(_, cells)| widest(cells)).collect();
    let last = widths.len().saturating_sub(1);
    while excess(&widths) > 0 {
        let soft =
            widths.iter_mut().zip(&columns).enumerate().filter(|(_, (_, (name, _)))| !rigid.contains(name));
        let wide = soft.map(|(at, (width, _))| (at, width)).filter(|(_, width)| **width > CELL_MIN);
        let share = |at: usize, width: usize| if at == last { width / LAST_SHARE } else { width };
        let Some((_, width)) = wide.max_by_key(|(at, width)| share(*at, **width)) else { break };
        *width -= 1;
    }
    let cut = |cell: String, width: usize| {
        let is_long = cell.chars().nth(width).is_some();
        if is_long { cell.chars().take(width - 1).chain(['…']).collect() } else { cell }
    };
    let cut_all = |((_, cells), width): ((&str, Vec<String>), usize)| {
        cells.into_iter().map(|cell| cut(cell, width)).collect()
    };
    columns.into_iter().zip(widths).map(cut_all).collect()
}

/// The first of these, and how many more there are.
pub(super) fn some(all: &[String], most: usize) -> String {
    let (first, rest) = all.split_at(all.len().min(most));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    first.join(", ") + &more
}

/// The beginning of an id that none of the others has, of a few characters at least.
pub(super) fn shortest<'a>(id: &str, others: impl Iterator<Item = &'a str>) -> String {
    let common = |other: &str| id.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let common = others.filter(|other| *other != id).map(common).max().unwrap_or(0);
    id.chars().take((common + 1).max(CELL_MIN)).collect()
}

/// Columns of equal length, each as wide as its widest cell; the first cell is the heading.
pub(super) fn table(columns: &[Vec<String>]) -> String {
    let mut lines = vec![String::new(); columns.first().map_or(0, Vec::len)];
    for column in columns {
        let width = column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(column) {
            line.push_str(&format!("{cell:<width$}{GAP}"));
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
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
    fn values_are_text_or_are_not_there() {
        let check = |path, document: Value, expected: Option<&str>| {
            assert_eq!(value(&document, path).as_deref(), expected, "{path} {document}");
        };
        for (value, expected) in [
            (json!(null), None),
            (json!(""), None),
            (json!("a b"), Some("a b")),
            (json!(0), Some("0")),
            (json!(true), Some("true")),
            (json!([1]), Some("[1]")),
            (json!(["\u{9b}"]), Some("[\"\\u{9b}\"]")),
        ] {
            check("a", json!({"a": value}), expected);
        }
        check("a/b", json!({"a": {"b": 1}}), Some("1"));
        check("a/b", json!({"a": 1}), None);
        check("+a", json!({"a": 0}), None);
        check("+a", json!({"a": 2}), Some("2"));
        for (seconds, expected) in [
            (json!(0), Some("0.0s")),
            (json!(1.04), Some("1.0s")),
            (json!(60.0), Some("1m00s")),
            (json!(3599.9), Some("59m59s")),
            (json!(3720), Some("1h02m")),
            (json!(90_000), Some("1d01h")),
            (json!(-1), None),
            (json!("1"), None),
        ] {
            check("a_s", json!({"a_s": seconds}), expected);
        }
        for (time, expected) in [
            (json!("2026-11-22T14:00:23.504Z"), Some("2026-11-22 14:00:23")),
            (json!("soon"), None),
            (json!("2026-11-22T14:00:2é"), None),
        ] {
            check("a_utc", json!({"a_utc": time}), expected);
        }
    }

    #[test]
    fn sizes_are_short() {
        for (count, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (100_000, "97.7 KiB"), (10 << 30, "10.0 GiB")]
        {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn a_template_is_filled_or_left_out() {
        let document = json!({"a": 1, "b": {"c_s": 61}});
        assert_eq!(fill(&document, "{a} since {b/c_s}").as_deref(), Some("1 since 1m01s"));
        assert_eq!(fill(&document, "{a} in {d}"), None);
        let parts = ["{d}", "{a}", "!{b/c_s} ago"];
        assert_eq!(join(&document, &parts), "1, \x1b[31m1m01s ago\x1b[0m");
        assert_eq!(join(&json!(null), &parts), "");
    }

    #[test]
    fn an_id_is_as_short_as_it_can_be() {
        let ids = ["0de1c2f3a4", "true.yaml-10", "true.yaml-12", "12"];
        let short = |id| shortest(id, ids.into_iter());
        assert_eq!(ids.map(short), ["0de1c2f3", "true.yaml-10", "true.yaml-12", "12"]);
        assert_eq!(short("true.yaml-200"), "true.yaml-2");
    }

    #[test]
    fn columns_are_as_wide_as_needed() {
        let column = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let columns = [column(&["A", "ää", "x"]), column(&["LONG", "b", ""]), column(&["C", "", ""])];
        assert_eq!(table(&columns), "A   LONG  C\nää  b\nx\n");
        assert_eq!(table(&[]), "");
    }
}
