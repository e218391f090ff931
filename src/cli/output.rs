//! The one place that prints. If the reader of a pipe goes away, that is a normal end.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::mem;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use super::{Failure, failed};
use crate::display::plain;

/// Standard output.
pub(super) struct Output {
    stdout: io::Stdout,
    has_colours: bool,
    /// Whether characters beyond ASCII can be shown.
    is_utf8: bool,
    /// Whether it is a terminal on which a line can be replaced.
    is_screen: bool,
    /// Whether the last line is one that will be replaced.
    has_live_line: bool,
}

/// Erases the line of the cursor.
const CLEAR_LINE: &str = "\r\x1b[K";

/// The text in ASCII: the sign of a cut becomes `~`, any other character `?`.
pub(super) fn ascii(text: &str) -> String {
    let fit = |c: char| if c == '…' { '~' } else { '?' };
    text.chars().map(|c| if c.is_ascii() { c } else { fit(c) }).collect()
}

/// Whether the locale uses UTF-8.
fn is_utf8(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
    let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
    locale.replace('-', "").contains("utf8")
}

/// Whether to use colours: only on a terminal that knows them, and not if `NO_COLOR` is set and not empty.
fn has_colours(is_terminal: bool, env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let is_wanted = env("NO_COLOR").is_none_or(|value| value.is_empty());
    is_terminal && is_wanted && knows_escapes(env)
}

fn knows_escapes(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    env("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

impl Output {
    /// The standard output of this process.
    pub(super) fn of_process() -> Self {
        let stdout = io::stdout();
        let env = |name: &str| std::env::var_os(name);
        let is_screen = stdout.is_terminal() && knows_escapes(&env);
        let has_colours = has_colours(is_screen, &env);
        let is_utf8 = !stdout.is_terminal() || is_utf8(&env);
        Self { stdout, has_colours, is_utf8, is_screen, has_live_line: false }
    }

    /// Whether there are colours.
    pub(super) fn has_colours(&self) -> bool {
        self.has_colours
    }

    /// Whether characters beyond ASCII can be shown.
    #[cfg(feature = "terminal")]
    pub(super) fn is_utf8(&self) -> bool {
        self.is_utf8
    }

    /// The text as it is printed: without colours where there are none, and in ASCII on a terminal without UTF-8.
    pub(super) fn shown(&self, text: &str) -> String {
        let text = if self.has_colours() { text.to_owned() } else { plain(text) };
        if self.is_utf8 { text } else { ascii(&text) }
    }

    /// The number of columns of the terminal, if it is one.
    pub(super) fn width(&self) -> Option<usize> {
        let size = tcgetwinsize(&self.stdout).ok()?;
        Some(size.ws_col.into()).filter(|width| *width > 0)
    }

    /// Prints a line.
    ///
    /// # Errors
    /// The reader is gone, or the disk is full.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a text and flushes it.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        let mut text = self.shown(text);
        if mem::take(&mut self.has_live_line) {
            text.insert_str(0, CLEAR_LINE);
        }
        self.bytes(text.as_bytes())
    }

    /// On a terminal, shows a line, cut to its width, that the next output replaces.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn live(&mut self, line: &str) -> Result<(), Failure> {
        if !self.is_screen {
            return Ok(());
        }
        // The last column stays free: after it some terminals begin a new line.
        let width = self.width().map_or(usize::MAX, |width| width.saturating_sub(1));
        let line: String = self.shown(line).chars().take(width).collect();
        self.has_live_line = true;
        self.bytes(format!("{CLEAR_LINE}{line}").as_bytes())
    }

    /// Prints bytes unchanged and flushes them.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                Failure::OutputClosed
            } else {
                failed(format!("cannot write to standard output: {error}"))
            }
        })
    }

    /// Checks that the reader is still there, without printing.
    ///
    /// # Errors
    /// The reader is gone.
    pub(super) fn expect_reader(&self) -> Result<(), Failure> {
        let mut fds = [PollFd::new(&self.stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // If poll fails, the next write finds out.
        let asked = poll(&mut fds, Some(&at_once)).is_ok();
        let gone = fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR));
        if asked && gone { Err(Failure::OutputClosed) } else { Ok(()) }
    }
}

impl Drop for Output {
    /// Erases the line that would have been replaced.
    fn drop(&mut self) {
        if self.has_live_line {
            let _ = self.bytes(CLEAR_LINE.as_bytes());
        }
    }
}

/// Prints an error line to standard error, if that is open.
pub(super) fn complain(reason: &str) {
    let _ = writeln!(io::stderr(), "ocps: {}", plain(reason));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::{Tone, paint};

    #[test]
    fn colours_are_for_terminals_and_never_with_no_color() {
        let check = |is_terminal, term: Option<&str>, no_color: Option<&str>, expected| {
            let env = |name: &str| match name {
                "TERM" => term.map(Into::into),
                "NO_COLOR" => no_color.map(Into::into),
                _ => None,
            };
            assert_eq!(has_colours(is_terminal, &env), expected, "{term:?} {no_color:?}");
        };
        check(true, Some("xterm"), None, true);
        check(true, Some("xterm"), Some(""), true);
        check(true, Some("xterm"), Some("0"), false);
        check(true, Some("dumb"), None, false);
        check(true, None, None, false);
        check(false, Some("xterm"), None, false);
    }

    #[test]
    fn characters_beyond_ascii_are_for_locales_that_have_them() {
        let check = |all: &str, lang: &str, expected| {
            let env = |name: &str| match name {
                "LC_ALL" => Some(all.into()),
                "LANG" => Some(lang.into()),
                _ => None,
            };
            assert_eq!(is_utf8(&env), expected, "{all} {lang}");
        };
        check("", "es_CL.UTF-8", true);
        check("C", "C.utf8", false);
        check("", "", false);
        assert_eq!(ascii("é 12345…\n"), "? 12345~\n");
    }

    #[test]
    fn a_painted_text_ends_with_a_reset() {
        let text = paint(Tone::Bad, "FAULT");
        assert_eq!(text, "\x1b[31mFAULT\x1b[0m");
        for tone in [Tone::Good, Tone::Bad, Tone::Middling, Tone::Quiet] {
            assert_eq!(plain(&paint(tone, "a m")), "a m");
        }
    }
}
