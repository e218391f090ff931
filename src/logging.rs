//! The log: where it goes, how its lines look, and the tap that makes `logMessage` events of it.
//!
//! Only our own lines are logged, not those of libraries. The level is changed for all outputs at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config, ConfigBuilder, SharedLogger, WriteLogger};

use crate::csc::event::{LogLevel, LogMessage};
use crate::sal::time;

/// Target of the lines of the core, which does not log by itself.
const CORE: &str = "ocps::csc";
/// Target of the lines of level CRITICAL, which the log crate does not have.
const CRITICAL: &str = "ocps::csc::critical";
/// Lines whose target begins so make no events: they may be about the sending of events.
const UNTAPPED: &str = "ocps::transport";

/// The log's outputs.
#[derive(Clone, Debug)]
pub struct Logs {
    file: Option<LogFile>,
}

impl Logs {
    /// Begins to log: to a file, else to the journal if standard error leads there, else to standard error.
    ///
    /// Lines are also sent to `tap`, without waiting: what it does not take is not told.
    ///
    /// # Errors
    /// One line: the file cannot be opened, or a log was begun before.
    pub fn start(level: i32, file: Option<&Path>, tap: Sender<LogMessage>) -> Result<Self, String> {
        let file = file.map(LogFile::open).transpose()?;
        let output: Box<dyn SharedLogger> = match &file {
            Some(file) => WriteLogger::new(LevelFilter::Trace, config(), file.clone()),
            None if is_journal(&io::stderr()) => Box::new(Journal),
            None => WriteLogger::new(LevelFilter::Trace, config(), io::stderr()),
        };
        let tap = Box::new(Tap { sender: tap, process: i32::try_from(std::process::id()).unwrap_or(0) });
        CombinedLogger::init(vec![output, tap]).map_err(|error| format!("cannot begin to log: {error}"))?;
        set_level(level);
        Ok(Self { file })
    }

    /// Opens the file again, which may have been moved away.
    pub fn reopen(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(LogFile::reopen) {
            log::error!("{error}; logging goes on to the old file");
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

fn config() -> Config {
    ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_allow_str("ocps")
        .build()
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

/// A line may be made of foreign text; it stays one line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Lines for journald: a priority and no time, since it has its own.
struct Journal;

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
        let line = format!("<{priority}>{}\n", one_line(&record.args().to_string()));
        // There is nowhere to complain to.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
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
            message: record.args().to_string(),
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

/// A file that can be opened again while others write to it.
#[derive(Clone, Debug)]
struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(append_to(path)?)) })
    }

    fn reopen(&self) -> Result<(), String> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| format!("cannot open the log file {}: {error}", path.display()))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
