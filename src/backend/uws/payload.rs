//! What a PUT says. Invariant: whatever the values are, the job gets exactly them and no variable more.

use serde::Serialize;

use crate::csc::request::Submission;

/// The body of a PUT, in the service's order.
#[derive(Serialize)]
struct Body<'a> {
    run_id: &'a str,
    command: &'a str,
    url: String,
    commit_ref: String,
    environment: Vec<Variable<'a>>,
}

#[derive(Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: String,
}

/// The JSON text that asks the service for this job.
pub(super) fn body(submission: &Submission) -> Result<Vec<u8>, serde_json::Error> {
    let pairs = submission.environment.iter();
    serde_json::to_vec(&Body {
        run_id: submission.run_id.as_str(),
        command: &submission.command,
        url: escape(&submission.source_url),
        commit_ref: escape(&submission.commit_ref),
        environment: pairs.map(|(name, value)| Variable { name, value: escape(value) }).collect(),
    })
}

/// A value as the inside of a JSON string.
///
/// The service pastes url, commit_ref and the environment's values, as they are, between double quotes
/// into a YAML text. YAML reads the escapes of JSON, so that this form arrives as what was written;
/// raw, a quote or backslash breaks the job or changes the value, and a crafted one adds variables.
/// Beyond what JSON demands, the characters are escaped that YAML refuses (DEL, C1, U+FFFE, U+FFFF)
/// or takes for line breaks and marks (U+0085, U+2028, U+2029, U+FEFF).
fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_without_special_characters_are_unchanged() {
        for plain in [
            "",
            "a'b",
            "{{x}}",
            "#x",
            "a: b",
            "  both ends  ",
            "é€😀",
            "instrument='LATISS' and exposure IN (2022112000001)",
            &"x".repeat(5000),
        ] {
            assert_eq!(escape(plain), plain);
        }
    }

    #[test]
    fn escaped_values_read_as_json_strings_give_the_original() {
        for (value, escaped) in [
            ("a\"b", r#"a\"b"#),
            ("physical_filter=\"y\"", r#"physical_filter=\"y\""#),
            (r"a\d", r"a\\d"),
            (r"C:\temp", r"C:\\temp"),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1}\u{7f}\u{85}\u{2028}\u{feff}", r"\u0001\u007f\u0085\u2028\ufeff"),
            ("x\"\n          - name: \"Y", r#"x\"\n          - name: \"Y"#),
        ] {
            assert_eq!(escape(value), escaped);
            assert_eq!(serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap(), value);
        }
    }

    #[test]
    fn no_character_leaves_its_quotes() {
        for c in (0..=0x10ffff).filter_map(char::from_u32) {
            let escaped = format!("\"{}\"", escape(&format!("{c}{c}")));
            assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), format!("{c}{c}"));
        }
    }
}
