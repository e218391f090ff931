//! A service's refusal made fit for a one-line reason.

use crate::text::quote;

/// A service's refusal for people: quoted, and once only where it is an exact doubling.
///
/// The genuine service prints the message twice when it misses an argument (`'command''command'`).
pub(super) fn quote_once(text: &str) -> String {
    quote(half_if_doubled(text).unwrap_or(text))
}

/// Half of the text, if it is the same text twice.
fn half_if_doubled(text: &str) -> Option<&str> {
    let (first, second) = text.split_at_checked(text.len() / 2)?;
    (!first.is_empty() && first == second).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_fit_on_one_line_without_repetition() {
        let invalid = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)";
        for (text, expected) in [
            ("", ""),
            ("x", "x"),
            ("'command''command'", "'command'"),
            ("'name''eman'", "'name''eman'"),
            ("(403)\nReason: Forbidden\n\n", "(403) Reason: Forbidden"),
            ("a\u{1b}[31mb\u{0}c\u{85}d", "a [31mb c d"),
            ("éé", "é"),
            ("ééé", "ééé"),
            (&invalid.repeat(2), invalid),
            ("(422)\nx\n\n(422)\nx\n\n", "(422) x"),
        ] {
            assert_eq!(quote_once(text), expected, "{text:?}");
        }
    }
}
