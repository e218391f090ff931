//! The prompt in a build without line editor: input is read as from a pipe.

use std::convert::Infallible;

use super::super::client::{Lines, Target};
use super::super::output::Output;

pub(super) struct Prompt(Infallible);

impl Prompt {
    /// Starts no line editor.
    ///
    /// # Errors
    /// Always.
    pub(super) fn start(_: Target) -> Result<(Self, Lines), &'static str> {
        Err("this build has no line editor")
    }

    pub(super) fn go_on(&self) {
        match self.0 {}
    }

    pub(super) fn print(&mut self, _: &str, _: &Output) {
        match self.0 {}
    }
}
