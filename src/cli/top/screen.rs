//! The terminal for drawing, with a bounded size.
//!
//! It never asks the terminal for the position of the cursor: termion reads that from `/dev/tty`, and panics if it cannot be
//! opened.

use std::io::{self, Stdout, stdout};

use ratatui::backend::{Backend, ClearType, TermionBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::termion::raw::{IntoRawMode, RawTerminal};
use ratatui::termion::screen::{AlternateScreen, IntoAlternateScreen};
use rustix::termios::tcgetwinsize;

/// Maximum size that is drawn: a terminal can report 65535 columns and lines.
const LARGEST: Size = Size::new(500, 200);
/// The size of a terminal that reports none.
const USUAL: Size = Size::new(80, 24);

/// The terminal; it is restored when this is dropped.
pub(super) struct Screen(TermionBackend<AlternateScreen<RawTerminal<Stdout>>>);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(TermionBackend::new(stdout().into_raw_mode()?.into_alternate_screen()?)))
    }
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, cells: I) -> io::Result<()> {
        self.0.draw(cells)
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.0.hide_cursor()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.0.show_cursor()
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.0.set_cursor_position(position)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.0.clear()
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.0.clear_region(region)
    }

    fn size(&self) -> io::Result<Size> {
        let size = tcgetwinsize(stdout()).map(|size| Size::new(size.ws_col, size.ws_row)).unwrap_or(USUAL);
        let (width, height) = (size.width.min(LARGEST.width), size.height.min(LARGEST.height));
        Ok(if width == 0 || height == 0 { USUAL } else { Size { width, height } })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        Backend::flush(&mut self.0)
    }
}
