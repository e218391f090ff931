//! The log: where it goes, how its lines look, and the tap that makes `logMessage` events of it.
//!
//! Only our own lines are logged, not those of libraries. The level is changed for all outputs at once.
//! Nobody who logs waits for a disk, a pipe or the journal: a thread of its own writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config, SharedLogger};

use crate::clock;
use crate::csc::event::{LogLevel, LogMessage};
use crate::text;

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

/// Time between looks whether the log file is still where it was opened.
const LOOK: Duration = Duration::from_secs(5);

/// The log's outputs.
#[derive(Clone, Debug)]
pub struct Logs {
    jobs: Sender<Job>,
    file: Option<PathBuf>,
    problem: Arc<Mutex<Option<String>>>,
}

/// How it goes with the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Its file; none: standard error.
    pub file: Option<PathBuf>,
    /// Why lines are lost, or go where nobody finds them, in one line.
    pub problem: Option<String>,
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
        let problem = Arc::new(Mutex::new(None));
        let mut writer = LineWriter { target, lost, problem: problem.clone(), looked: Instant::now() };
        let write = move || writer.run(&jobs);
        thread::Builder::new().name("log".to_owned()).spawn(write).map_err(|error| failed(&error))?;
        Ok(Self { jobs: sender, file: file.map(Path::to_owned), problem })
    }

    /// How it goes.
    #[must_use]
    pub fn report(&self) -> LogReport {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LogReport { file: self.file.clone(), problem }
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
    let mut line = text::one_line(beginning(text));
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
            let (stamp, level) = (clock::rfc3339(clock::unix_now()), record.level());
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
            timestamp: clock::now(),
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

/// The thread that writes.
struct LineWriter {
    target: Target,
    lost: Arc<AtomicU64>,
    problem: Arc<Mutex<Option<String>>>,
    /// When the file was last looked at.
    looked: Instant,
}

impl LineWriter {
    /// Writes lines until nobody logs any more.
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match &self.target {
                Target::StandardError => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Target::File(..) => jobs.recv_timeout(LOOK),
            };
            match job {
                Ok(Job::Line(line)) => self.write(&line),
                Ok(Job::Reopen) => self.reopen(),
                Ok(Job::Tell(done)) => drop(done.try_send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.looked.elapsed() >= LOOK {
                self.look();
            }
            // Said only when there is room for it.
            if jobs.len() < QUEUE_LINES / 2 {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    log::warn!("{lost} lines of the log are lost: they were not taken in time");
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        let written = match &mut self.target {
            Target::StandardError => io::stderr().write_all(line),
            Target::File(file, _) => file.write_all(line),
        };
        // The line is lost; there is nowhere to complain to but the status.
        if let Err(error) = written {
            let target = match &self.target {
                Target::StandardError => "standard error".to_owned(),
                Target::File(_, path) => path.display().to_string(),
            };
            self.set_problem(Some(format!("{target} cannot be written: {error}")));
        }
    }

    fn reopen(&mut self) {
        let Target::File(file, path) = &mut self.target else { return };
        match append_to(path) {
            Ok(opened) => {
                *file = opened;
                self.set_problem(None);
            }
            Err(error) => {
                log::error!("{error}; logging goes on to the old file");
                self.set_problem(Some(error));
            }
        }
    }

    /// Looks whether the file can still be found by its name.
    fn look(&mut self) {
        self.looked = Instant::now();
        let Target::File(file, path) = &self.target else { return };
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let opened = file.metadata().map(identity);
        let problem = match fs::metadata(path).map(identity) {
            Ok(named) if opened.is_ok_and(|opened| opened == named) => return,
            Ok(_) => "was replaced",
            Err(_) => "is gone",
        };
        let text = format!("{} {problem}: reload ocps (SIGHUP), which opens it again", path.display());
        self.set_problem(Some(text));
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
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
