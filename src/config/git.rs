//! Asks git about the configuration directory: its version, and its files at a commit.
//!
//! Invariant: git runs as a child process with a time limit and an output limit, and cannot prompt. The environment of the
//! daemon does not lead it to another repository. The repository is trusted like the configuration in it, whoever owns it.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Error, file};
use crate::text::{quote, quoted};

/// Git is killed after this time, since a `start` command waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum output of git that is read, in bytes: as much as a configuration file may have.
const MAX_OUTPUT: usize = file::MAX_BYTES;

/// Maximum length of a git reference that is passed on, in bytes.
const MAX_REF: usize = 255;

/// A commit of the repository around the configuration directory.
pub(super) struct Commit {
    dir: PathBuf,
    /// The reference as the operator wrote it.
    pub(super) name: String,
    /// The hash of the commit: all files are of this commit even if the branch moves meanwhile.
    id: String,
}

/// The version of the directory (`git describe`); empty without a directory, and where git knows none.
pub(super) fn describe(dir: &Path) -> String {
    if !dir.is_dir() {
        // The reader of the layers reports that.
        return String::new();
    }
    match run(command(dir, &["describe", "--all", "--long", "--always", "--dirty"]), TIMEOUT) {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
        }
        // Usually because it is not in a repository.
        Ok(_) => String::new(),
        Err(e) => {
            log::warn!("no version of {}: {e}", dir.display());
            String::new()
        }
    }
}

impl Commit {
    /// Finds the commit of a branch, tag or hash.
    pub(super) fn find(dir: &Path, name: &str) -> Result<Self, Error> {
        if name.starts_with('-') || name.len() > MAX_REF || name.chars().any(char::is_control) {
            return Err(Error::new(format!(
                "{} cannot name a commit; give a branch, a tag or a hash after the ':'",
                quoted(name)
            )));
        }
        let wanted = format!("{name}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
        let found = git(dir, &args).map_err(|said| {
            let why = if said.is_empty() { "no such commit; name a branch, a tag or a hash" } else { &said };
            Error::in_file(dir, format!("git reference {}: {why}", quoted(name)))
        })?;
        let id = String::from_utf8_lossy(&found).trim_end().to_owned();
        Ok(Self { dir: dir.to_owned(), name: name.to_owned(), id })
    }

    /// Reads a file of the directory at this commit; none if it does not exist there.
    pub(super) fn read(&self, file_name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = PathBuf::from(self.label(file_name));
        let fail = |e: String| Error::in_file(&path, e);
        let args = ["ls-tree", "-z", "-l", "--end-of-options", &self.id, file_name];
        let listed = git(&self.dir, &args).map_err(|said| fail(format!("git cannot list it: {said}")))?;
        // `100644 blob <hash> <size>\t<name>\0`, or nothing.
        let text = String::from_utf8_lossy(&listed);
        let Some((entry, _)) = text.split_once('\t') else { return Ok(None) };
        let [mode, "blob", id, size] = entry.split_ascii_whitespace().collect::<Vec<_>>()[..] else {
            return Err(fail("is not a file in this commit".to_owned()));
        };
        if mode == "120000" {
            return Err(fail("is a symbolic link in this commit; commit the file itself".to_owned()));
        }
        if size.parse().is_ok_and(|size: usize| size > file::MAX_BYTES) {
            return Err(file::too_large(&path));
        }
        let bytes = git(&self.dir, &["cat-file", "blob", id]);
        bytes.map(Some).map_err(|said| fail(format!("git cannot read it: {said}")))
    }

    /// The name of a file of the commit in errors: its path, `@` and the reference.
    pub(super) fn label(&self, file_name: &str) -> String {
        format!("{}@{}", self.dir.join(file_name).display(), self.name)
    }
}

/// A git command to be run in the directory.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    // The repository often belongs to another user than the daemon's; the operator has configured it, so it is safe.
    // Its settings may name programs; the one that these commands would run, fsmonitor, is turned off.
    command.args(["--no-pager", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"]);
    command.args(args).current_dir(dir);
    // A daemon that was started from a git hook has variables that lead to the repository of the hook.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_LITERAL_PATHSPECS", "1").env("GIT_NO_LAZY_FETCH", "1");
    command
}

/// What git prints.
///
/// # Errors
/// The last line of its error output, or why it could not be run.
fn git(dir: &Path, args: &[&str]) -> Result<Vec<u8>, String> {
    let output = run(command(dir, args), TIMEOUT)?;
    if output.status.success() { Ok(output.stdout) } else { Err(last_words(&output)) }
}

/// The last line on standard error, without git's prefix.
fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    quote(line.trim_start_matches("fatal: "))
}

/// Runs a command with a limit on time and output.
fn run(mut command: Command, timeout: Duration) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e: io::Error| format!("cannot run {program}: {e}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a process group of its own, git does not get the ^C of the terminal, and its children are killed with it.
    command.process_group(0);
    let child = command.spawn().map_err(failed)?;
    let group = Pid::from_child(&child);
    // On a file system that hangs, even a killed process does not end: a thread of its own waits for it.
    let ending = on_thread(move || output_of(child)).map_err(failed);
    let output = ending.and_then(|ending| match ending.recv_timeout(timeout) {
        Err(_) => Err(format!("{program} did not end within {} s and was killed", timeout.as_secs_f64())),
        Ok(Ok(output)) if output.stdout.len().max(output.stderr.len()) > MAX_OUTPUT => {
            Err(format!("{program} wrote more than {MAX_OUTPUT} bytes"))
        }
        Ok(output) => output.map_err(failed),
    });
    output.inspect_err(|_| {
        // This fails if the process has just ended.
        let _ = kill_process_group(group, Signal::KILL);
    })
}

/// Runs the work on a thread; its result comes over the channel.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (sender, receiver) = bounded(1);
    // After a timeout the receiver no longer exists.
    thread::Builder::new().name("git".into()).spawn(move || drop(sender.send(work())))?;
    Ok(receiver)
}

/// Reads both pipes to their ends, or one byte more than is allowed, and waits for the end of the process.
fn output_of(mut child: Child) -> io::Result<Output> {
    fn drain(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        pipe.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes))?;
        Ok(bytes)
    }
    let stderr = child.stderr.take();
    let stderr = on_thread(move || drain(stderr))?;
    let stdout = drain(child.stdout.take())?;
    let stderr = stderr.recv().map_err(io::Error::other)??;
    Ok(Output { status: child.wait()?, stdout, stderr })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_hangs_or_floods_is_killed() {
        let short = Duration::from_millis(200);
        for (script, expected) in [
            ("sleep 60", "sh did not end within 0.2 s"),
            ("sleep 60 & exec sleep 60", "did not end within 0.2 s"),
            ("exec >&- 2>&-; sleep 60", "did not end within 0.2 s"),
            ("exec cat /dev/zero", "wrote more than 1048576 bytes"),
        ] {
            let started = Instant::now();
            // The flood is measured in bytes, not in time.
            let timeout = if script.contains("zero") { TIMEOUT } else { short };
            let error = run(shell(script), timeout).err().unwrap_or_default();
            assert!(error.contains(expected), "{script}: {error}");
            assert!(started.elapsed() < Duration::from_secs(30), "{script}");
        }
        let error = run(Command::new("/no/such/program"), short).err().unwrap_or_default();
        assert!(error.starts_with("cannot run /no/such/program: "), "{error}");
        let output = run(shell("echo out; echo 'fatal: err' >&2; exit 3"), TIMEOUT).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"out\n"[..]));
        assert_eq!(last_words(&output), "err");
    }

    #[test]
    fn a_repository_of_another_user_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = |mut command: Command| {
            // Git's own switch for its tests: it takes every owner for another one.
            command.env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1").env("GIT_CONFIG_NOSYSTEM", "1");
            command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME").env_remove("GIT_CONFIG_GLOBAL");
            run(command, TIMEOUT).unwrap()
        };
        run(command(dir.path(), &["init", "--quiet"]), TIMEOUT).unwrap();
        let mut plain = Command::new("git");
        plain.args(["rev-parse", "--git-dir"]).current_dir(dir.path());
        let refused = foreign(plain);
        assert!(!refused.status.success(), "the switch has no effect, this test shows nothing");
        let ours = foreign(command(dir.path(), &["rev-parse", "--git-dir"]));
        assert!(ours.status.success(), "{}", last_words(&ours));
    }

    #[test]
    fn names_that_are_no_commits_are_refused_before_git_is_asked() {
        for bad in ["-x", "--output=/tmp/x", "a\nb", &"x".repeat(256)] {
            let error = Commit::find(Path::new("/nonexistent"), bad).err().unwrap().to_string();
            assert!(error.contains("cannot name a commit"), "{error}");
        }
    }
}
