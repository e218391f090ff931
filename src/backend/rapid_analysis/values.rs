//! What a command asks to push: `config` is a JSON object of lists and values.
//!
//! Invariant: the values are pushed in the order and with the text in which they were written. A number is never parsed,
//! since `1e3`, `1.0` and very long integers would get another text.

use std::collections::HashSet;

use crate::json::members;
use crate::text::quoted;

/// Maximum number of values of one command, which must be done within seconds.
const VALUES_MAX: usize = 10_000;

/// Longest text of keys and values that is logged, in characters.
const SHOWN_MAX: usize = 200;

/// A value, and the list to which it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Name of the Redis list.
    pub key: String,
    /// What is pushed, as plain text.
    pub text: String,
}

/// Takes the values out of a command's `config`.
///
/// # Errors
/// Why it is not an object of strings and numbers, in one line, for the ack.
pub fn parse(config: &str) -> Result<Vec<Value>, String> {
    let text = config.trim();
    if text.is_empty() {
        return Err("config is empty: give a JSON object of Redis lists and the values to push".to_owned());
    }
    if !text.starts_with('{') {
        return Err(format!("config must be a JSON object of Redis lists and values, not {}", kind(text)));
    }
    let unusable = |why: String| format!("config cannot be used: {why}");
    let members = members(text, VALUES_MAX).map_err(|error| {
        let is_too_many = error.is_data();
        unusable(if is_too_many {
            format!("it has more than {VALUES_MAX} values")
        } else {
            format!("not valid JSON: {error}")
        })
    })?;
    let mut keys = HashSet::new();
    let mut values = Vec::with_capacity(members.len());
    for (key, raw) in &members {
        let text = plain(raw.get()).map_err(|is| {
            unusable(format!("the value of {} must be a string or a number, not {is}", quoted(key)))
        })?;
        if !keys.insert(key) {
            return Err(unusable(format!("{} is in it twice", quoted(key))));
        }
        values.push(Value { key: key.clone(), text });
    }
    if values.is_empty() {
        return Err("config is an empty object: there is nothing to push".to_owned());
    }
    Ok(values)
}

/// The values for a log line, cut where that gets long.
#[must_use]
pub fn shown(values: &[Value]) -> String {
    let mut line = String::new();
    for (n, Value { key, text }) in values.iter().enumerate() {
        if line.len() > SHOWN_MAX {
            line.push_str(&format!(", and {} more", values.len() - n));
            break;
        }
        let separator = if n == 0 { "" } else { ", " };
        line.push_str(&format!("{separator}{} <- {}", quoted(key), quoted(text)));
    }
    line
}

/// The plain text of a string or number, or what the value is instead.
fn plain(raw: &str) -> Result<String, String> {
    match raw.bytes().next() {
        Some(b'"') => serde_json::from_str(raw).map_err(|_| "one with half a surrogate pair".to_owned()),
        Some(b'-' | b'0'..=b'9') => Ok(raw.to_owned()),
        Some(_) | None => Err(kind(raw).to_owned()),
    }
}

/// What a piece of JSON is, by how it begins.
fn kind(raw: &str) -> &'static str {
    match raw.bytes().next() {
        Some(b'"') => "a string",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) | None => "other text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(config: &str) -> Result<Vec<(String, String)>, String> {
        parse(config).map(|values| values.into_iter().map(|v| (v.key, v.text)).collect())
    }

    #[test]
    fn order_and_words_are_kept() {
        let check = |config: &str, expected: &[(&str, &str)]| {
            let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parsed(config), Ok(expected), "{config}");
        };
        check(r#"{"test_int":1234,"test_str":"12345"}"#, &[("test_int", "1234"), ("test_str", "12345")]);
        check(r#"{"LSSTComCam-FROM-OCS_DONUTPAIR":"1,2"}"#, &[("LSSTComCam-FROM-OCS_DONUTPAIR", "1,2")]);
        check(r#" {"b":1, "a" : 2 ,"c":3}"#, &[("b", "1"), ("a", "2"), ("c", "3")]);
        check(
            r#"{"a":1e3,"b":1.0,"c":-0,"d":123456789012345678901234567890,"e":1.10,"f":1E+5,"g":0.1e-7}"#,
            &[
                ("a", "1e3"),
                ("b", "1.0"),
                ("c", "-0"),
                ("d", "123456789012345678901234567890"),
                ("e", "1.10"),
                ("f", "1E+5"),
                ("g", "0.1e-7"),
            ],
        );
        check(r#"{"":"","a":" \u00e9\n\"\\ \ud83d\ude00 "}"#, &[("", ""), ("a", " é\n\"\\ 😀 ")]);
        check(r#"{"k\u0041":"x"}"#, &[("kA", "x")]);
    }

    #[test]
    fn all_else_is_refused() {
        let nested = "{\"a\":".to_owned() + &"[".repeat(100_000);
        let many: Vec<String> = (0..=VALUES_MAX).map(|n| format!("\"{n}\":{n}")).collect();
        let many = format!("{{{}}}", many.join(","));
        let is = "the value of \"b\" must be a string or a number, not";
        for (config, expected) in [
            ("", "config is empty: give a JSON object"),
            ("  ", "config is empty"),
            ("{}", "config is an empty object: there is nothing to push"),
            ("[1]", "config must be a JSON object of Redis lists and values, not a list"),
            ("\"a\"", "values, not a string"),
            ("1", "values, not a number"),
            ("null", "values, not null"),
            ("-c isr:doBias=True", "values, not "),
            (r#"{"a":1,"b":{"c":1}}"#, &format!("config cannot be used: {is} an object")),
            (r#"{"a":1,"b":[1]}"#, &format!("{is} a list")),
            (r#"{"a":1,"b":true}"#, &format!("{is} a boolean")),
            (r#"{"a":1,"b":null}"#, &format!("{is} null")),
            (r#"{"b":"\ud800"}"#, &format!("{is} one with half a surrogate")),
            (r#"{"a":1,"a":2}"#, "\"a\" is in it twice"),
            (r#"{"a":NaN}"#, "not valid JSON"),
            (r#"{"a":01}"#, "not valid JSON"),
            (r#"{"a":1,}"#, "not valid JSON"),
            (r#"{"a":1"#, "not valid JSON"),
            (r#"{"a":1} {"b":2}"#, "not valid JSON"),
            ("{'a':1}", "not valid JSON"),
            (&nested, "not valid JSON"),
            (&many, "more than 10000 values"),
        ] {
            let reason = parse(config).unwrap_err();
            assert!(reason.contains(expected), "{config:.80}: {reason}");
            assert!(reason.len() < 300 && !reason.contains('\n'), "{reason}");
        }
    }

    #[test]
    fn a_log_line_stays_one_and_short() {
        let value = |n: usize| Value { key: format!("k\n{n}"), text: "x".repeat(1000) };
        let line = shown(&(0..1000).map(value).collect::<Vec<_>>());
        assert!(line.starts_with("\"k\\n0\" <- \"xxx") && line.ends_with(" more"), "{line}");
        assert!(line.len() < 600 && !line.contains('\n'), "{line}");
    }
}
