//! The daemon's settings (toml) and the component configuration (layered yaml).
//!
//! Invariant: this room reads files, asks git, and returns types; it knows nothing of commands, jobs, states or the wire.
//! It trusts nothing that it reads: sizes, depths and times are bounded, and a mistake is an [`Error`] of one line that
//! names the place and the remedy.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use crate::text::one_line;

pub mod check;
pub mod component;
pub(crate) mod file;
mod git;
pub mod kafka;
mod layers;
pub mod secret;
mod service;
pub mod settings;
mod tree;
mod value;
pub mod watcher;

/// The environment: gives the value of a variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The value of a variable; an empty one counts as not set.
fn variable(env: Env<'_>, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

/// What is wrong with a configuration, in one line: `FILE:LINE:COLUMN: what, and what is allowed`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error that does not concern a single file.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        // File names and quoted values can contain line breaks.
        Self(one_line(&text.to_string()))
    }

    /// An error about a whole file.
    pub(crate) fn in_file(path: &Path, text: impl fmt::Display) -> Self {
        Self::at(path.display(), None, text)
    }

    /// An error at a place in a file.
    fn at(file: impl fmt::Display, position: Option<tree::Position>, text: impl fmt::Display) -> Self {
        match position {
            Some((line, column)) => Self::new(format!("{file}:{line}:{column}: {text}")),
            None => Self::new(format!("{file}: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_is_quoted() {
        assert_eq!(Error::at("/a\nb", Some((3, 16)), "x\ty").to_string(), "/a b:3:16: x y");
    }
}
