//! Makes text from outside fit for one line, and finds the known name that was probably meant. Works for any text.

use std::fmt;

/// Maximum length of quoted text of another program, in characters.
const QUOTE_MAX: usize = 300;
/// Maximum length of a name or value in quotes, in characters.
const QUOTED_MAX: usize = 80;
/// Maximum length of a word that is compared with known names, in bytes.
const WORD_MAX: usize = 64;

/// The text in one line: control characters become blanks.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The first [`QUOTE_MAX`] characters of text of another program, in one line.
pub(crate) fn quote(text: impl fmt::Display) -> String {
    one_line(text.to_string().trim()).chars().take(QUOTE_MAX).collect()
}

/// A name or value in quotes, with control characters escaped, cut to [`QUOTED_MAX`] characters.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED_MAX).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

/// The candidate that is most similar to `word`, if it was probably meant. Case does not matter, and the beginning of a
/// candidate counts as similar as one wrong letter.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |candidate: &str| {
        let letters = candidate.to_lowercase();
        let is_beginning = word.len() >= 2 && letters.starts_with(&word);
        if is_beginning { 1 } else { strsim::osa_distance(&word, &letters) }
    };
    let near = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    near.filter(|(distance, candidate)| {
        *distance < candidate.len() && *distance <= (word.len().max(candidate.len()) / 3).max(2)
    })
    .min_by_key(|(distance, _)| *distance)
    .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_fits_on_one_line() {
        assert_eq!(one_line("a\nb\r\u{1b}[31mc\u{85}é"), "a b  [31mc é");
        assert_eq!(quote("(403)\nReason: Forbidden\n\n"), "(403) Reason: Forbidden");
        assert_eq!(quote("é".repeat(500)), "é".repeat(300));
        assert_eq!(quoted("a\"\n"), r#""a\"\n""#);
        assert_eq!(quoted(&"é".repeat(81)), format!("\"{}\"…", "é".repeat(80)));
    }

    #[test]
    fn a_typing_mistake_finds_what_was_meant() {
        let words = ["simulate", "state", "status", "state-dir", "configdir", "jobs", "json", "run"];
        let check = |word, meant| assert_eq!(nearest(word, words), meant, "{word}");
        check("simulat", Some("simulate"));
        check("SIMULATE", Some("simulate"));
        check("sim", Some("simulate"));
        check("config-dir", Some("configdir"));
        check("stauts", Some("status"));
        check("statedir", Some("state-dir"));
        check("jbos", Some("jobs"));
        check("rnu", Some("run"));
        check("", None);
        check("x", None);
        check("xyz", None);
        check("frobnicate", None);
        check(&"x".repeat(100_000), None);
    }
}
