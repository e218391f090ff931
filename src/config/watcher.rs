//! The configuration thread: reads the configuration for `start`, and in STANDBY watches which overrides there are.
//!
//! Invariant: no other thread waits for it, even if the file system or git hangs; it answers requests in their order.
//! Looking at the directory each second costs a few `stat` calls; git is run only when something changed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::csc::Watching;
use crate::csc::configuration::Configuration;
use crate::csc::event::ConfigurationsAvailable;

use super::component::Reader;
use super::settings::{Keys, Settings};

/// Time between two looks at the directory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Git is asked after this time even if no watched file changed: a new tag in a folder of its own, a change elsewhere in
/// the work tree, or a commit in a linked work tree changes none of them.
const GIT_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of files of the directory that are watched.
const MAX_FILES: usize = 10_000;

/// A request to the configuration thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigRequest {
    /// Read the configuration for a `start`.
    Read {
        /// `[FILE][:GITREF]`, may be empty.
        override_name: String,
    },
    /// Read the configuration only for the password of its service.
    Service {
        /// `[FILE][:GITREF]`, may be empty.
        override_name: String,
    },
    /// Read the daemon's settings again.
    Settings {
        /// The path of the toml, if it is not the usual one.
        path: Option<PathBuf>,
    },
    /// Begin or stop to report which overrides there are, now and when they change.
    Watch(Watching),
}

/// A result of the configuration thread.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigResult {
    /// Of [`ConfigRequest::Read`]: the configuration, or one line with what is wrong.
    Read(Result<Configuration, String>),
    /// Of [`ConfigRequest::Service`]: the same.
    Service(Result<Configuration, String>),
    /// Of [`ConfigRequest::Settings`]: the settings and the keys of the toml, or one line with what is wrong.
    Settings(Box<Result<(Settings, Keys), String>>),
    /// Of [`ConfigRequest::Watch`]: which overrides there are, at once and after each change.
    Available(ConfigurationsAvailable),
}

/// Starts the thread, named `config`. It ends when one of the channels is closed by the other side.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn(
    reader: Reader,
    requests: Receiver<ConfigRequest>,
    results: Sender<ConfigResult>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("config".into()).spawn(move || run(&reader, &requests, &results))
}

fn run(reader: &Reader, requests: &Receiver<ConfigRequest>, results: &Sender<ConfigResult>) {
    let mut watch: Option<Watch> = None;
    let read = |override_name: &str| reader.read(override_name).map_err(|error| error.to_string());
    loop {
        let request = match &watch {
            Some(watch) => requests.recv_deadline(watch.next_look),
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let result = match request {
            Ok(ConfigRequest::Read { override_name }) => {
                if let Some(watch) = &mut watch {
                    watch.git_due = Instant::now();
                }
                Some(ConfigResult::Read(read(&override_name)))
            }
            Ok(ConfigRequest::Service { override_name }) => Some(ConfigResult::Service(read(&override_name))),
            Ok(ConfigRequest::Settings { path }) => {
                let read = Settings::load_with_keys(path.as_deref()).map_err(|error| error.to_string());
                Some(ConfigResult::Settings(Box::new(read)))
            }
            Ok(ConfigRequest::Watch(Watching::On)) => {
                watch.insert(Watch::new(Instant::now())).look(reader, Instant::now())
            }
            Ok(ConfigRequest::Watch(Watching::Off)) => {
                watch = None;
                None
            }
            Err(RecvTimeoutError::Timeout) => watch.as_mut().and_then(|w| w.look(reader, Instant::now())),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if result.is_some_and(|result| results.send(result).is_err()) {
            return;
        }
    }
}

/// The state while overrides are watched.
struct Watch {
    next_look: Instant,
    git_due: Instant,
    seen: Vec<Seen>,
    sent: Option<ConfigurationsAvailable>,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { next_look: now, git_due: now, seen: Vec::new(), sent: None }
    }

    /// Looks at the directory: what `configurationsAvailable` is to report, if it changed.
    fn look(&mut self, reader: &Reader, now: Instant) -> Option<ConfigResult> {
        // Counted from now, so that requests are served also where looking takes long.
        self.next_look = now.max(self.next_look) + LOOK_INTERVAL;
        let seen = reader.dir.as_deref().map(fingerprint).unwrap_or_default();
        if now < self.git_due && seen == self.seen {
            return None;
        }
        self.seen = seen;
        self.git_due = now + GIT_INTERVAL;
        let available = Some(reader.available()).filter(|available| self.sent.as_ref() != Some(available))?;
        self.sent = Some(available.clone());
        Some(ConfigResult::Available(available))
    }
}

/// A path with modification time, size and inode, if it exists: they show whether it changed.
type Seen = (PathBuf, Option<(i64, i64, u64, u64)>);

/// The files on which overrides and version depend.
fn fingerprint(dir: &Path) -> Vec<Seen> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).take(MAX_FILES).collect();
    paths.sort_unstable();
    paths.push(dir.to_owned());
    paths.extend(git_files(dir));
    let stamp = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok();
        (path, meta.map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino())))
    };
    paths.into_iter().map(stamp).collect()
}

/// The files of git that a commit, a checkout or a fetch changes; none in a linked work tree.
fn git_files(dir: &Path) -> Vec<PathBuf> {
    let absolute = dir.canonicalize().unwrap_or_default();
    let git_dir = absolute.ancestors().map(|dir| dir.join(".git")).find(|git| git.exists());
    let names =
        ["HEAD", "index", "logs/HEAD", "packed-refs", "refs", "refs/heads", "refs/tags", "refs/remotes"];
    git_dir.map(|git_dir| names.map(|name| git_dir.join(name))).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::csc::id::SalIndex;

    fn reader(dir: &Path) -> Reader {
        Reader { dir: Some(dir.to_owned()), site: None, index: SalIndex::Latiss, simulated: false }
    }

    fn overrides(result: Option<ConfigResult>) -> Option<String> {
        match result? {
            ConfigResult::Available(available) => Some(available.overrides),
            ConfigResult::Read(_) | ConfigResult::Service(_) | ConfigResult::Settings(_) => None,
        }
    }

    #[test]
    fn only_changes_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let reader = reader(dir.path());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(start);
        assert_eq!(overrides(watch.look(&reader, start)), Some(String::new()));
        assert_eq!(watch.next_look, at(1));
        assert_eq!(watch.look(&reader, at(1)), None);
        fs::write(dir.path().join("b.yaml"), "").unwrap();
        assert_eq!(overrides(watch.look(&reader, at(2))), Some("b.yaml".into()));
        // No override: nothing to report.
        fs::write(dir.path().join("_init.yaml"), "").unwrap();
        assert_eq!(watch.look(&reader, at(3)), None);
        fs::write(dir.path().join("a.yaml"), "").unwrap();
        assert_eq!(overrides(watch.look(&reader, at(4))), Some("a.yaml,b.yaml".into()));
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(overrides(watch.look(&reader, at(5))), Some(String::new()));
        assert_eq!(watch.look(&reader, at(6)), None);
    }

    #[test]
    fn git_is_asked_after_a_change_and_every_minute() {
        let dir = tempfile::tempdir().unwrap();
        let reader = reader(dir.path());
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.look(&reader, start);
        let due = watch.git_due;
        assert_eq!(due, start + GIT_INTERVAL);
        watch.look(&reader, start + GIT_INTERVAL - Duration::from_secs(1));
        assert_eq!(watch.git_due, due);
        watch.look(&reader, start + GIT_INTERVAL);
        assert_eq!(watch.git_due, due + GIT_INTERVAL);
    }

    #[test]
    fn without_a_directory_it_is_reported_once_that_nothing_is_available() {
        let mut reader = reader(Path::new("/"));
        reader.dir = None;
        for simulated in [false, true] {
            reader.simulated = simulated;
            let now = Instant::now();
            let mut watch = Watch::new(now);
            assert_eq!(
                watch.look(&reader, now),
                Some(ConfigResult::Available(ConfigurationsAvailable::default()))
            );
            assert_eq!(watch.look(&reader, now + LOOK_INTERVAL), None);
        }
    }

    #[test]
    fn the_thread_answers_and_ends_with_either_channel() {
        let wait = Duration::from_secs(20);
        let dir = tempfile::tempdir().unwrap();
        let ((to, requests), (results, from)) = (unbounded(), unbounded());
        let thread = spawn(reader(dir.path()), requests, results).unwrap();
        assert_eq!(thread.thread().name(), Some("config"));
        to.send(ConfigRequest::Watch(Watching::On)).unwrap();
        assert!(matches!(from.recv_timeout(wait), Ok(ConfigResult::Available(_))));
        to.send(ConfigRequest::Read { override_name: String::new() }).unwrap();
        let Ok(ConfigResult::Read(Err(reason))) = from.recv_timeout(wait) else { panic!() };
        assert!(reason.starts_with("Config file '") && reason.ends_with("' does not exist"), "{reason}");
        fs::write(dir.path().join("x.yaml"), "").unwrap();
        let Ok(ConfigResult::Available(available)) = from.recv_timeout(wait) else { panic!() };
        assert_eq!(available.overrides, "x.yaml");
        // A second Watch reports again, changed or not.
        to.send(ConfigRequest::Watch(Watching::On)).unwrap();
        assert_eq!(from.recv_timeout(wait), Ok(ConfigResult::Available(available)));
        to.send(ConfigRequest::Watch(Watching::Off)).unwrap();
        drop(to);
        thread.join().unwrap();
        assert!(from.try_recv().is_err());

        let ((to, requests), (results, from)) = (unbounded(), unbounded());
        let thread = spawn(reader(dir.path()), requests, results).unwrap();
        drop(from);
        to.send(ConfigRequest::Watch(Watching::On)).unwrap();
        thread.join().unwrap();
    }
}
