//! The log: where it goes, how its lines look, and the tap that makes `logMessage` events of it.
//!
//! Only our own lines are logged, not those of libraries. The level is changed for all outputs at once.
//! Nobody who logs waits for a disk, a pipe or the journal: a thread of its own writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config, SharedLogger};

use crate::csc::event::{LogLevel, LogMessage};
use crate::sal::time;

/// Target of the lines of the core, which does not log by itself.
const CORE: &str = "ocps::csc";
/// Target of the lines of level CRITICAL, which the log crate does not have.
const CRITICAL: &str = "ocps::csc::critical";
/// Lines whose target begins so make no events: they may be about the sending of events.
const UNTAPPED: &str = "ocps::transport";

/// Longest message that is logged, in bytes; the rest of a longer one is left out.
const MESSAGE_MAX: usize = 4096;
/// Lines that wait to be written; more are lost, and counted.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log's outputs.
#[derive(Clone, Debug)]
pub struct Logs {
    jobs: Sender<Job>,
}

impl Logs {
    /// Begins to log: to a file, else to the journal if standard error leads there, else to standard error.
    ///
    /// Lines are also sent to `tap`, without waiting: what it does not take is not told.
    /// `log::logger().flush()` waits a little for what was logged to be written.
    ///
    /// # Errors
    /// One line: the file cannot be opened, or a log was begun before.
    pub fn start(level: i32, file: Option<&Path>, tap: Sender<LogMessage>) -> Result<Self, String> {
        let target = match file {
            Some(path) => Target::File(append_to(path)?, path.to_owned()),
            None => Target::StandardError,
        };
        let (sender, jobs) = bounded(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let lines = Lines { jobs: sender.clone(), lost: lost.clone() };
        let output: Box<dyn SharedLogger> = if file.is_none() && is_journal(&io::stderr()) {
            Box::new(Journal(lines))
        } else {
            Box::new(Plain(lines))
        };
        let tap = Box::new(Tap { sender: tap, process: i32::try_from(std::process::id()).unwrap_or(0) });
        let failed = |error: &dyn std::fmt::Display| format!("cannot begin to log: {error}");
        CombinedLogger::init(vec![output, tap]).map_err(|error| failed(&error))?;
        set_level(level);
        let write = move || write_lines(target, &jobs, &lost);
        thread::Builder::new().name("log".to_owned()).spawn(write).map_err(|error| failed(&error))?;
        Ok(Self { jobs: sender })
    }

    /// Opens the file again, which may have been moved away.
    pub fn reopen(&self) {
        if self.jobs.try_send(Job::Reopen).is_err() {
            log::error!("the log file is not opened again: too much waits to be written");
        }
    }
}

/// Says why the daemon does not start, which may be before the log begins: to standard error, with the priority of
/// an error if that leads to the journal.
pub fn write_last_words(reason: &str) {
    let prefix = if is_journal(&io::stderr()) { "<3>" } else { "ocps: " };
    // There is nowhere to complain to.
    let _ = writeln!(io::stderr(), "{prefix}{}", one_line(reason));
}

/// Logs from this level on, Python's number.
pub fn set_level(level: i32) {
    log::set_max_level(match level {
        ..=10 => LevelFilter::Debug,
        11..=20 => LevelFilter::Info,
        21..=30 => LevelFilter::Warn,
        31.. => LevelFilter::Error,
    });
}

/// Logs a line of the core.
pub fn write(level: LogLevel, message: &str) {
    match level {
        LogLevel::Debug => log::debug!(target: CORE, "{message}"),
        LogLevel::Info => log::info!(target: CORE, "{message}"),
        LogLevel::Warning => log::warn!(target: CORE, "{message}"),
        LogLevel::Error => log::error!(target: CORE, "{message}"),
        LogLevel::Critical => log::error!(target: CRITICAL, "{message}"),
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("ocps")
}

/// Whether standard error leads to the journal (systemd.exec(5), JOURNAL_STREAM).
fn is_journal(stderr: &impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(stderr) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// A message may be made of foreign text; it stays one line, of bearable length, that a terminal only shows.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = beginning(text).chars().map(shown).collect();
    if beginning(text).len() < text.len() {
        line.push_str(&format!("… ({} bytes)", text.len()));
    }
    line
}

/// As much of a text as is logged.
fn beginning(text: &str) -> &str {
    let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
    let end = ends.take_while(|end| *end <= MESSAGE_MAX).last().unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// The message for an event: it may have several lines, but is no longer than others.
fn told(text: &str) -> String {
    beginning(text).to_owned()
}

/// Lines for people: UTC, level and text.
struct Plain(Lines);

impl Log for Plain {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_ours(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (stamp, level) = (time::rfc3339(time::unix_now()), record.level());
            let line = one_line(&record.args().to_string());
            self.0.post(format!("{stamp} [{level}] {line}\n").into_bytes());
        }
    }

    fn flush(&self) {
        self.0.wait();
    }
}

impl SharedLogger for Plain {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Lines for journald: a priority and no time, since it has its own.
struct Journal(Lines);

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_ours(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let priority = match record.level() {
            Level::Error if record.target() == CRITICAL => 2,
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        self.0.post(format!("<{priority}>{}\n", one_line(&record.args().to_string())).into_bytes());
    }

    fn flush(&self) {
        self.0.wait();
    }
}

impl SharedLogger for Journal {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Makes `logMessage` events of lines.
struct Tap {
    sender: Sender<LogMessage>,
    process: i32,
}

impl Log for Tap {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_ours(metadata) && !metadata.target().starts_with(UNTAPPED)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error if record.target() == CRITICAL => LogLevel::Critical,
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warning,
            Level::Info => LogLevel::Info,
            Level::Debug | Level::Trace => LogLevel::Debug,
        };
        let _ = self.sender.try_send(LogMessage {
            name: record.target().to_owned(),
            level: level.number(),
            message: told(&record.args().to_string()),
            file_path: record.file().unwrap_or_default().to_owned(),
            line_number: record.line().and_then(|line| i32::try_from(line).ok()).unwrap_or(0),
            process: self.process,
            timestamp: time::now(),
        });
    }

    fn flush(&self) {}
}

impl SharedLogger for Tap {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// What the thread that writes is to do, in this order.
#[derive(Debug)]
enum Job {
    /// Write a line, which has its line break.
    Line(Vec<u8>),
    /// Open the file again.
    Reopen,
    /// Say that all before was written.
    Tell(Sender<()>),
}

/// The way to the thread that writes.
#[derive(Clone, Debug)]
struct Lines {
    jobs: Sender<Job>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    fn post(&self, line: Vec<u8>) {
        if self.jobs.try_send(Job::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wait(&self) {
        let (done, written) = bounded(1);
        if self.jobs.send_timeout(Job::Tell(done), FLUSH_TIMEOUT).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Where lines are written.
#[derive(Debug)]
enum Target {
    StandardError,
    File(File, PathBuf),
}

/// Writes lines until nobody logs any more.
fn write_lines(mut target: Target, jobs: &Receiver<Job>, lost: &AtomicU64) {
    for job in jobs {
        match job {
            // A line that cannot be written is lost: there is nowhere to complain to.
            Job::Line(line) => drop(target.write(&line)),
            Job::Reopen => {
                if let Err(error) = target.reopen() {
                    log::error!("{error}; logging goes on to the old file");
                }
            }
            Job::Tell(done) => drop(done.try_send(())),
        }
        // Said only when there is room for it.
        if jobs.len() < QUEUE_LINES / 2 {
            let lost = lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                log::warn!("{lost} lines of the log are lost: they were not taken in time");
            }
        }
    }
}

impl Target {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardError => io::stderr().write_all(line),
            Self::File(file, _) => file.write_all(line),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        match self {
            Self::StandardError => {}
            Self::File(file, path) => *file = append_to(path)?,
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| format!("cannot open the log file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_makes_one_line_of_bearable_length() {
        assert_eq!(one_line("a\nb\r\u{1b}[31mc\u{85}é"), "a b  [31mc é");
        let long = one_line(&"é".repeat(5000));
        assert_eq!(long, format!("{}… (10000 bytes)", "é".repeat(2048)));
        assert_eq!(told(&"x".repeat(5000)).len(), MESSAGE_MAX);
    }

    #[test]
    fn stamps_have_one_width_and_what_is_not_taken_is_counted() {
        let (jobs, receiver) = bounded(1);
        let lines = Lines { jobs, lost: Arc::default() };
        let plain = Plain(lines.clone());
        log::set_max_level(LevelFilter::Error);
        for text in ["a\nb", "lost"] {
            let metadata = Metadata::builder().target(CORE).level(Level::Error).build();
            plain.log(&Record::builder().metadata(metadata).args(format_args!("{text}")).build());
        }
        let Ok(Job::Line(line)) = receiver.try_recv() else { panic!() };
        let line = String::from_utf8(line).unwrap();
        let (stamp, rest) = line.split_once(' ').unwrap();
        assert_eq!((stamp.len(), rest), ("2026-11-22T14:00:23.504Z".len(), "[ERROR] a b\n"));
        assert_eq!(lines.lost.load(Ordering::Relaxed), 1);
    }
}
