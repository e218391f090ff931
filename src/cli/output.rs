//! The one place that prints. A reader that goes away is a normal end, not an error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Failure;

/// Standard output.
pub(super) struct Output {
    stdout: io::Stdout,
    palette: Palette,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    /// None.
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

/// What a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Green: as it should be.
    Good,
    /// Red: somebody should look.
    Bad,
    /// Yellow: on the way, or not ready.
    Middling,
    /// Dim: less important.
    Quiet,
}

impl Palette {
    /// Colours only on a terminal that knows them, and never with `NO_COLOR` set to anything but empty.
    fn choose(is_terminal: bool, env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let wanted = env("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = env("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        if is_terminal && wanted && able { Self::Ansi } else { Self::Plain }
    }

    /// The text in the colour of the tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Middling => 33,
            Tone::Quiet => 2,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

impl Output {
    /// The standard output of this process.
    pub(super) fn of_process() -> Self {
        let stdout = io::stdout();
        let palette = Palette::choose(stdout.is_terminal(), &|name| std::env::var_os(name));
        Self { stdout, palette }
    }

    /// The colours to use.
    pub(super) fn palette(&self) -> Palette {
        self.palette
    }

    /// Whether it is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.stdout.is_terminal()
    }

    /// Prints a line.
    ///
    /// # Errors
    /// When nobody reads any more, or the disk is full.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a text as it is, at once.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                Failure::OutputClosed
            } else {
                Failure::Failed(format!("cannot write to standard output: {error}"))
            }
        })
    }

    /// Finds out whether anybody still reads, without printing.
    ///
    /// # Errors
    /// When nobody does.
    pub(super) fn expect_reader(&self) -> Result<(), Failure> {
        let mut fds = [PollFd::new(&self.stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A poll that fails tells nothing; the next write will.
        let asked = poll(&mut fds, Some(&at_once)).is_ok();
        let gone = fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR));
        if asked && gone { Err(Failure::OutputClosed) } else { Ok(()) }
    }
}

/// Prints an error line to standard error; if that is closed there is nobody left to tell.
pub(super) fn complain(reason: &str) {
    let _ = writeln!(io::stderr(), "ocps: {reason}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_never_with_no_color() {
        let check = |is_terminal, term: Option<&'static str>, no_color: Option<&'static str>, expected| {
            let env = |name: &str| match name {
                "TERM" => term.map(Into::into),
                "NO_COLOR" => no_color.map(Into::into),
                _ => None,
            };
            assert_eq!(Palette::choose(is_terminal, &env), expected, "{term:?} {no_color:?}");
        };
        check(true, Some("xterm"), None, Palette::Ansi);
        check(true, Some("xterm"), Some(""), Palette::Ansi);
        check(true, Some("xterm"), Some("0"), Palette::Plain);
        check(true, Some("dumb"), None, Palette::Plain);
        check(true, None, None, Palette::Plain);
        check(false, Some("xterm"), None, Palette::Plain);
    }

    #[test]
    fn paint_is_undone_at_its_end() {
        assert_eq!(Palette::Plain.paint(Tone::Bad, "FAULT"), "FAULT");
        assert_eq!(Palette::Ansi.paint(Tone::Bad, "FAULT"), "\x1b[31mFAULT\x1b[0m");
    }
}
