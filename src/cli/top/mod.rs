//! `ocps top`: the live screen. One thread reads keys, another one the daemon's lines; the main thread draws.

mod view;

use std::env;
use std::io::{self, IsTerminal, Stdout, Write, stdin, stdout};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never, select};
use ratatui::backend::TermionBackend;
use ratatui::layout::Rect;
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::{IntoRawMode, RawTerminal};
use ratatui::termion::screen::{AlternateScreen, IntoAlternateScreen};
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::termios::tcgetwinsize;
use serde_json::{Map, Value};

use self::view::{Mode, View};
use super::client::{
    ANSWER_TIMEOUT, Client, IDLE_TURN, JOB, JOBS, Lines, Message, STATUS, Sent, Standing, Target, refused,
};
use super::event_text::ack_text;
use super::exit::{Exit, Signals, left};
use super::flags::Line;
use super::follow::run_id;
use super::output::Output;
use super::times::Zone;
use super::{Failure, Task, failed};
use crate::csc::command::CommandName;
use crate::display::plain;

/// Time between two rounds of queries; longer if the daemon takes more than a tenth of it to answer.
const REFRESH: Duration = Duration::from_secs(1);
/// Number of lines that PageUp and PageDown scroll.
const PAGE: isize = 10;
/// Maximum number of keys that wait to be handled.
const KEYS_AHEAD: usize = 64;
/// Maximum size that is drawn, columns and lines: a terminal can report 65535 of each.
const LARGEST: (u16, u16) = (500, 200);
/// The size of a terminal that reports none.
const USUAL: (u16, u16) = (80, 24);

/// The terminal for drawing; it is restored when this is dropped.
type Screen = Terminal<TermionBackend<AlternateScreen<RawTerminal<Stdout>>>>;

/// `ocps top`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    line.words(0)?;
    let (target, zone) = (line.target()?, Zone::of(line));
    Ok(Box::new(move |out| run(target, zone, out)))
}

fn run(target: Target, zone: Zone, out: &Output) -> Result<(), Failure> {
    let is_dumb = env::var("TERM").is_ok_and(|term| term == "dumb");
    if is_dumb || !(stdin().is_terminal() && stdout().is_terminal()) {
        let reason = "ocps top needs a terminal: ocps status, jobs and watch print elsewhere too";
        return Err(failed(reason));
    }
    let client = Client::connect(&target)?;
    let failed = |error: io::Error| failed(format!("cannot use the terminal: {error}"));
    // A second signal ends the process even if it hangs while it writes to the terminal.
    let signals = Signals::listen()?;
    let keys = read_keys().map_err(failed)?;
    let mut screen = open_screen().map_err(failed)?;
    let mut session = Session {
        target,
        client: Some(client),
        view: View::new(out.has_colours(), out.is_utf8(), zone),
        asked: None,
        next: Instant::now(),
        abort: None,
    };
    let result = session.run(&keys, &signals, &mut screen);
    // Restores the terminal before a signal can end the process.
    drop(screen);
    let _ = stdout().flush();
    result
}

/// A viewport of fixed size is used because a terminal that finds out its size by itself also asks for the position of the
/// cursor, for which termion panics without `/dev/tty`.
fn open_screen() -> io::Result<Screen> {
    let backend = TermionBackend::new(stdout().into_raw_mode()?.into_alternate_screen()?);
    Terminal::with_options(backend, TerminalOptions { viewport: Viewport::Fixed(area()) })
}

/// The part of the terminal that is drawn.
fn area() -> Rect {
    let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (width, height) = size.map_or(USUAL, |size| (size.ws_col, size.ws_row));
    Rect::new(0, 0, width.min(LARGEST.0), height.min(LARGEST.1))
}

fn read_keys() -> io::Result<Receiver<Key>> {
    let (sender, keys) = bounded(KEYS_AHEAD);
    let read = move || {
        for key in stdin().keys() {
            if key.is_err() || key.is_ok_and(|key| sender.send(key).is_err()) {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(keys)
}

struct Session {
    target: Target,
    /// None while there is no connection.
    client: Option<Client>,
    view: View,
    /// When the present round of queries began; none between two rounds. A round is the status, then the jobs, then the open
    /// job, if there is one.
    asked: Option<Instant>,
    /// When the next round begins.
    next: Instant,
    /// The last abort_job, until its final ack.
    abort: Option<Sent>,
}

impl Session {
    fn run(&mut self, keys: &Receiver<Key>, signals: &Signals, screen: &mut Screen) -> Result<(), Failure> {
        let no_lines: Lines = never();
        loop {
            signals.expect_none()?;
            let area = area();
            let is_resized = screen.get_frame().area() != area;
            let resized = if is_resized { screen.resize(area) } else { Ok(()) };
            let drawn = resized.and_then(|()| screen.draw(|frame| self.view.draw(frame)).map(drop));
            drawn.map_err(|error| failed(format!("cannot draw on the terminal: {error}")))?;
            let lines = self.client.as_ref().map_or_else(|| no_lines.clone(), |client| client.lines.clone());
            select! {
                recv(keys) -> key => match key {
                    Ok(Key::Ctrl('c')) => return Err(left(Exit::Interrupted)),
                    // Everything is drawn again.
                    Ok(Key::Ctrl('l')) => drop(screen.resize(area)),
                    Ok(key) => if self.key(key)?.is_break() {
                        return Ok(());
                    },
                    // The terminal is closed.
                    Err(_) => return Err(Failure::OutputClosed),
                },
                recv(lines) -> line => match Message::of(line) {
                    Ok(message) => self.message(message)?,
                    Err(reason) => self.lose(&reason),
                },
                default(IDLE_TURN) => {}
            }
            self.refresh()?;
        }
    }

    /// Begins a round of queries when it is due, and reconnects after the connection was lost.
    fn refresh(&mut self) -> Result<(), Failure> {
        if let Some(silent) = self.asked.map(|asked| asked.elapsed()) {
            if silent > ANSWER_TIMEOUT {
                self.view.trouble = Some(format!("the daemon has not answered for {} s", silent.as_secs()));
            }
        } else if Instant::now() >= self.next {
            if let Some(client) = &mut self.client {
                client.ask(STATUS)?;
                self.asked = Some(Instant::now());
            } else {
                self.next = Instant::now() + REFRESH;
                self.client = Client::connect(&self.target).ok();
            }
        }
        Ok(())
    }

    fn message(&mut self, mut message: Message) -> Result<(), Failure> {
        let Some(client) = &mut self.client else { return Ok(()) };
        if let Some(sent) = &mut self.abort
            && let Some(ack) = sent.ack_in(&message)
        {
            self.view.message = plain(&format!("{sent}: {}", ack_text(ack)));
            if ack.standing() != Standing::InProgress {
                self.abort = None;
            }
        }
        if let Some(status) = message.documents.remove(STATUS) {
            self.view.status = status;
            return client.ask(JOBS);
        } else if let Some(jobs) = message.documents.remove(JOBS) {
            self.view.take_jobs(jobs);
            if let Some(job) = &self.view.opened {
                return client.ask_job(&run_id(job));
            }
        } else if let Some(job) = message.documents.remove(JOB) {
            self.view.take_job(job);
        } else if let Some(reason) = &message.error {
            self.view.message = refused(reason);
        } else {
            return Ok(());
        }
        let took = self.asked.take().map(|asked| asked.elapsed()).unwrap_or_default();
        self.next = Instant::now() + REFRESH.max(took * 10);
        self.view.trouble = None;
        Ok(())
    }

    fn lose(&mut self, reason: &str) {
        self.view.trouble = Some(format!("{reason}: connecting again"));
        (self.client, self.asked, self.abort) = (None, None, None);
    }

    fn key(&mut self, key: Key) -> Result<ControlFlow<()>, Failure> {
        let view = &mut self.view;
        view.message.clear();
        match (view.mode.clone(), key) {
            (Mode::Filter, Key::Char('\n')) => view.mode = Mode::Lists,
            (Mode::Filter, Key::Char(c)) => view.filter.push(c),
            (Mode::Filter, Key::Backspace) => drop(view.filter.pop()),
            (Mode::Abort(job_id), Key::Char('y')) => {
                view.go_back();
                if let Some(client) = &mut self.client {
                    let params = Map::from_iter([("job_id".to_owned(), Value::from(job_id))]);
                    self.abort = Some(client.send(CommandName::AbortJob, &params, None)?);
                }
            }
            (Mode::Lists | Mode::Filter, Key::Esc) => {
                view.filter.clear();
                view.mode = Mode::Lists;
            }
            (Mode::Lists, Key::Char('q')) => return Ok(ControlFlow::Break(())),
            (Mode::Lists, Key::Char('/')) => view.mode = Mode::Filter,
            (Mode::Lists, Key::Char('\n')) => {
                view.open();
                self.next = Instant::now();
            }
            (Mode::Lists, Key::Up | Key::Char('k')) => view.select(-1),
            (Mode::Lists, Key::Down | Key::Char('j')) => view.select(1),
            (Mode::Lists | Mode::Job, Key::Char('a')) => match view.abortable() {
                Some(job_id) => view.mode = Mode::Abort(job_id),
                None => view.message = "no job is selected that could be aborted".to_owned(),
            },
            (Mode::Job, Key::Up | Key::Char('k')) => view.scroll(-1),
            (Mode::Job, Key::Down | Key::Char('j')) => view.scroll(1),
            (Mode::Job, Key::PageUp) => view.scroll(-PAGE),
            (Mode::Job, Key::PageDown | Key::Char(' ')) => view.scroll(PAGE),
            (Mode::Job, _) => view.close(),
            (Mode::Abort(_), _) => view.go_back(),
            (Mode::Lists | Mode::Filter, _) => {}
        }
        view.select(0);
        Ok(ControlFlow::Continue(()))
    }
}
