//! Values of JSON documents as text for people, alone and in templates.

use serde_json::Value;

use super::{Tone, paint};

/// Shown for something that is not known.
pub(crate) const UNKNOWN: &str = "-";
/// Text from outside with its control characters escaped.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() }).collect()
}

/// The value at a path of a document, such as `service/url`; none if it is null or empty, or 0 where the path begins with
/// `+`. A name that ends in `_s` means a number of seconds.
pub(crate) fn value(document: &Value, path: &str) -> Option<String> {
    let (path, counts) = path.strip_prefix('+').map_or((path, false), |path| (path, true));
    let value =
        document.pointer(&format!("/{path}")).filter(|value| !(counts && value.as_i64() == Some(0)))?;
    if path.ends_with("_s") {
        return duration(value.as_f64()?);
    }
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    Some(clean(&text)).filter(|text| !text.is_empty())
}

/// The template with the value at each `{path}`; none if one of these is missing. `[s]` after a number is a plural ending.
pub(crate) fn fill(document: &Value, template: &str) -> Option<String> {
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

/// The templates that can be filled, joined with commas. A template that begins with `!` is shown as bad, with `+` as good.
pub(crate) fn join(document: &Value, templates: &[&str]) -> String {
    let part = |template: &&str| match (template.strip_prefix('!'), template.strip_prefix('+')) {
        (Some(template), _) => Some(paint(Tone::Bad, &fill(document, template)?)),
        (_, Some(template)) => Some(paint(Tone::Good, &fill(document, template)?)),
        (None, None) => fill(document, template),
    };
    templates.iter().filter_map(part).collect::<Vec<_>>().join(", ")
}

/// A number of seconds; none if it is negative.
pub(crate) fn duration(seconds: f64) -> Option<String> {
    // A number that is too large saturates.
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

/// The members of an object as `name=value`; a text is quoted if it is empty or contains a blank, `"` or `=`.
pub(crate) fn fields(object: &Value) -> String {
    let field = |(name, value): (&String, &Value)| {
        let plain = |text: &&str| !text.is_empty() && !text.contains([' ', '"', '=']);
        let text = value.as_str().filter(plain).map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", clean(name), clean(&text))
    };
    object.as_object().into_iter().flatten().map(field).collect::<Vec<_>>().join(" ")
}

/// A summary state in its colour.
pub(crate) fn painted_state(name: &str) -> String {
    let tone = match name {
        "ENABLED" => Tone::Good,
        "FAULT" => Tone::Bad,
        "DISABLED" | "STANDBY" => Tone::Middling,
        _ => Tone::Quiet,
    };
    paint(tone, &clean(name))
}

/// The name of a level of the log, Python's number, and its colour.
pub(crate) fn level(number: i64) -> (&'static str, Tone) {
    match number {
        50.. => ("CRITICAL", Tone::Bad),
        40.. => ("ERROR", Tone::Bad),
        30.. => ("WARNING", Tone::Middling),
        20.. => ("INFO", Tone::Quiet),
        _ => ("DEBUG", Tone::Quiet),
    }
}

/// The first of these texts, and how many more there are.
pub(crate) fn some(all: &[String], most: usize) -> String {
    let (first, rest) = all.split_at(all.len().min(most));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    first.join(", ") + &more
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
}
