//! Daemon settings (toml) and component configuration (layered yaml).
//!
//! Invariant: this room reads files and asks git, and hands on types; it knows nothing of commands, jobs,
//! states or the wire. Nothing it reads is trusted: sizes, depths and times are bounded, and what is wrong is an
//! [`Error`] of one line that names the place and the remedy.

use std::fmt;
use std::path::Path;

use crate::text::nearest;

pub mod check;
pub mod component;
pub(crate) mod file;
mod git;
pub mod kafka;
mod layers;
pub mod settings;
mod validate;
pub mod watcher;
mod yaml;

/// What is wrong with a configuration, in one line: `FILE:LINE:COLUMN: what, and what is allowed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    place: Option<Place>,
    text: String,
}

/// Where in a file something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file's path as it is shown.
    pub(crate) file: String,
    /// Line and column, both counted from 1.
    pub(crate) position: Option<(usize, usize)>,
}

impl Error {
    /// An error that concerns no single file.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { place: None, text: text.into() }
    }

    /// An error about a whole file.
    pub(crate) fn in_file(path: &Path, text: impl Into<String>) -> Self {
        Self::at(Place { file: path.display().to_string(), position: None }, text)
    }

    /// An error at a place.
    pub(crate) fn at(place: Place, text: impl Into<String>) -> Self {
        Self { place: Some(place), text: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if let Some(place) = &self.place {
            line.push_str(&place.file);
            if let Some((row, column)) = place.position {
                line.push_str(&format!(":{row}:{column}"));
            }
            line.push_str(": ");
        }
        line.push_str(&self.text);
        // File names and quoted values can hold anything; an error stays one line all the same.
        for c in line.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Quotes text from a file for an error, cut where it is long.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("'{shown}'")
}

/// Line and column, from 1, of a byte of a text; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    (line, column)
}

/// The remedy for an unknown name: `; did you mean X?` if one of the known is near, else all that are known.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("; did you mean {near}?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_is_quoted() {
        let place = Place { file: "/a\nb".into(), position: Some((3, 16)) };
        assert_eq!(Error::at(place, "x\ty").to_string(), "/a\\nb:3:16: x\\ty");
    }

    #[test]
    fn the_nearest_known_name_is_suggested() {
        let known = ["url", "poll_interval", "butler"];
        for (name, expected) in [
            ("pol_interval", "; did you mean poll_interval?"),
            ("uri", "; did you mean url?"),
            ("", "; known are url, poll_interval, butler"),
            ("completely_else", "; known are url, poll_interval, butler"),
            (&"x".repeat(1000), "; known are url, poll_interval, butler"),
        ] {
            assert_eq!(suggestion(name, &known), expected, "{name}");
        }
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        for (offset, expected) in [(0, (1, 1)), (2, (1, 2)), (3, (2, 1)), (4, (2, 2)), (99, (2, 2))] {
            assert_eq!(position("é\nx", offset), expected, "{offset}");
        }
    }
}
