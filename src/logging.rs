//! The log: formats lines, writes them, and passes each to a tap.
//!
//! Only lines of ocps itself are logged, not those of libraries. Logging never waits for a disk, a pipe or the journal, since
//! a thread of its own writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
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
use crate::text::one_line;

/// Target of the lines of the core, which are logged by the daemon.
const CORE: &str = "ocps::csc";
/// Target of the lines of level CRITICAL, which the log crate does not have.
const CRITICAL: &str = "ocps::csc::critical";
/// Lines whose target begins with this are not tapped: they may be about sending tapped lines.
const UNTAPPED: &str = "ocps::transport";

/// Maximum length of a message, in bytes; longer ones are cut.
const MESSAGE_MAX: usize = 4096;
/// Maximum number of lines that wait to be written; further ones are lost, and counted.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is checked that the path of the log file still names the open file; else it is opened again.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The log after it was started.
#[derive(Clone, Debug)]
pub struct Logs {
    jobs: Sender<Job>,
    problem: Problem,
}

/// One line with why lines are lost, or are written to a file that has no name any more.
type Problem = Arc<Mutex<Option<String>>>;

/// Gets each record of the log with its message, cut as in the log, and Python's number of its level. It must not
/// block.
pub type Tap = Box<dyn Fn(&Record<'_>, &str, i32) + Send + Sync>;

impl Logs {
    /// Starts the log: to a file, else to standard error, in the form of systemd's journal if that reads it; and to `tap`.
    /// `log::logger().flush()` waits until the lines so far are written, but at most some seconds.
    ///
    /// # Errors
    /// One line: the file cannot be opened, or a log was started before.
    pub fn start(level: i32, file: Option<&Path>, tap: Tap) -> Result<Self, String> {
        let opened = file.map(|path| Ok::<_, String>((append_to(path)?, path.to_owned()))).transpose()?;
        let (sender, jobs) = bounded(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let to_journal = file.is_none() && is_journal(&io::stderr());
        let logger = Logger { to_journal, jobs: sender.clone(), lost: lost.clone(), tap };
        let failed = |error: &dyn std::fmt::Display| format!("cannot begin to log: {error}");
        CombinedLogger::init(vec![Box::new(logger)]).map_err(|error| failed(&error))?;
        set_level(level);
        let problem = Problem::default();
        let mut writer = LineWriter { file: opened, lost, problem: problem.clone(), checked: Instant::now() };
        let write = move || writer.run(&jobs);
        thread::Builder::new().name("log".to_owned()).spawn(write).map_err(|error| failed(&error))?;
        Ok(Self { jobs: sender, problem })
    }

    /// One line with why lines are lost, or are written to a file that has no name any more.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the file again at once, since it may have been moved away.
    pub fn reopen(&self) {
        if self.jobs.try_send(Job::Reopen).is_err() {
            log::error!("the log file was not opened again: too many lines wait to be written");
        }
    }
}

/// Writes why the daemon ends to standard error, since the log may not have been started or may go to a file; with the
/// priority of an error if systemd's journal reads it.
pub fn write_last_words(reason: &str) {
    let prefix = if is_journal(&io::stderr()) { "<3>" } else { "ocps: " };
    // If this fails, there is no place left to report it.
    let _ = writeln!(io::stderr(), "{prefix}{}", line_of(reason));
}

/// Sets the minimum level, Python's number.
pub fn set_level(level: i32) {
    log::set_max_level(level_of(level).to_level_filter());
}

/// Logs a line of the core; the level is Python's number.
pub fn write(level: i32, message: &str) {
    let target = if level > 40 { CRITICAL } else { CORE };
    log::log!(target: target, level_of(level), "{message}");
}

fn level_of(number: i32) -> Level {
    match number {
        ..=10 => Level::Debug,
        11..=20 => Level::Info,
        21..=30 => Level::Warn,
        31.. => Level::Error,
    }
}

/// Whether systemd's journal reads standard error (systemd.exec(5), JOURNAL_STREAM).
fn is_journal(stderr: &impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(stderr) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The message in one line without control characters, cut to [`MESSAGE_MAX`].
fn line_of(text: &str) -> String {
    let beginning = beginning(text);
    let rest =
        if beginning.len() < text.len() { format!("… ({} bytes)", text.len()) } else { String::new() };
    one_line(beginning) + &rest
}

/// The beginning of a text, at most [`MESSAGE_MAX`] bytes.
fn beginning(text: &str) -> &str {
    (0..=MESSAGE_MAX).rev().find_map(|end| text.get(..end.min(text.len()))).unwrap_or_default()
}

/// Sends lines to the writing thread, and records to the tap.
struct Logger {
    /// Whether lines have a priority, for systemd's journal, instead of time and level.
    to_journal: bool,
    jobs: Sender<Job>,
    lost: Arc<AtomicU64>,
    tap: Tap,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && metadata.target().starts_with("ocps")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (priority, level) = match record.level() {
            Level::Error if record.target() == CRITICAL => (2, 50),
            Level::Error => (3, 40),
            Level::Warn => (4, 30),
            Level::Info => (6, 20),
            Level::Debug | Level::Trace => (7, 10),
        };
        let message = record.args().to_string();
        let line = if self.to_journal {
            format!("<{priority}>{}\n", line_of(&message))
        } else {
            let time = clock::rfc3339(clock::unix_now());
            format!("{time} [{}] {}\n", record.level(), line_of(&message))
        };
        if self.jobs.try_send(Job::Write(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        if !record.target().starts_with(UNTAPPED) {
            (self.tap)(record, beginning(&message), level);
        }
    }

    fn flush(&self) {
        let (done, written) = bounded(1);
        if self.jobs.send_timeout(Job::Report(done), FLUSH_TIMEOUT).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl SharedLogger for Logger {
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

/// A request to the writing thread.
#[derive(Debug)]
enum Job {
    /// Write a line with its line break.
    Write(String),
    /// Open the file again.
    Reopen,
    /// Confirm that all earlier lines were written.
    Report(Sender<()>),
}

/// The writing thread.
struct LineWriter {
    /// The file and its path; none: standard error.
    file: Option<(File, PathBuf)>,
    lost: Arc<AtomicU64>,
    problem: Problem,
    /// When the file was last checked.
    checked: Instant,
}

impl LineWriter {
    /// Writes lines until the log ends.
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(CHECK_INTERVAL) {
                Ok(Job::Write(line)) => self.write(&line),
                Ok(Job::Reopen) => self.reopen(),
                Ok(Job::Report(done)) => drop(done.try_send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.checked.elapsed() >= CHECK_INTERVAL {
                self.check();
            }
            // Logged only when the queue has room for it.
            if jobs.len() < QUEUE_LINES / 2 {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    log::warn!("log lines that were lost because they could not be written in time: {lost}");
                }
            }
        }
    }

    fn write(&mut self, line: &str) {
        let (written, output) = match &mut self.file {
            None => (io::stderr().write_all(line.as_bytes()), Path::new("standard error")),
            Some((file, path)) => (file.write_all(line.as_bytes()), path.as_path()),
        };
        // The line is lost; only the status can report it.
        if let Err(error) = written {
            let problem = format!("{} cannot be written: {error}", output.display());
            self.set_problem(Some(problem));
        }
    }

    /// Sets the problem, and gives the one before.
    fn set_problem(&self, problem: Option<String>) -> Option<String> {
        mem::replace(&mut *self.problem.lock().unwrap_or_else(PoisonError::into_inner), problem)
    }

    fn reopen(&mut self) {
        let Some((file, path)) = &mut self.file else { return };
        let problem = append_to(path).map(|opened| *file = opened).err();
        let before = self.set_problem(problem.clone());
        if let Some(problem) = problem.filter(|problem| before.as_ref() != Some(problem)) {
            log::error!("{problem}; logging continues to the old file");
        }
    }

    /// Opens the file again if its path names another file now, or none.
    fn check(&mut self) {
        self.checked = Instant::now();
        let Some((file, path)) = &self.file else { return };
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let opened = file.metadata().map(identity);
        if !fs::metadata(path).map(identity).is_ok_and(|named| opened.is_ok_and(|opened| opened == named)) {
            self.reopen();
        }
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
    fn any_text_makes_one_line_of_bounded_length() {
        assert_eq!(line_of("a\nb\r\u{1b}[31mc\u{85}é"), "a b  [31mc é");
        let long = line_of(&"é".repeat(5000));
        assert_eq!(long, format!("{}… (10000 bytes)", "é".repeat(2048)));
        assert_eq!(beginning(&"x".repeat(5000)).len(), MESSAGE_MAX);
    }

    #[test]
    fn stamps_have_one_width_and_lost_lines_are_counted() {
        let (jobs, receiver) = bounded(1);
        let logger = Logger { to_journal: false, jobs, lost: Arc::default(), tap: Box::new(|_, _, _| {}) };
        log::set_max_level(LevelFilter::Error);
        for text in ["a\nb", "lost"] {
            let metadata = Metadata::builder().target(CORE).level(Level::Error).build();
            logger.log(&Record::builder().metadata(metadata).args(format_args!("{text}")).build());
        }
        let Ok(Job::Write(line)) = receiver.try_recv() else { panic!() };
        let (stamp, rest) = line.split_once(' ').unwrap();
        assert_eq!((stamp.len(), rest), ("2026-11-22T14:00:23.504Z".len(), "[ERROR] a b\n"));
        assert_eq!(logger.lost.load(Ordering::Relaxed), 1);
    }
}
