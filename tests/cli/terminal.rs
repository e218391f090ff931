//! The real binary at a terminal, with a person who types and reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;

use super::fake_daemon::{FakeDaemon, PATIENCE, ocps};

/// Written when the program has ended.
const END: &str = "\x1b[END]";

/// A terminal of 80 columns and 24 lines, and the program that runs there.
pub(crate) struct Terminal {
    keyboard: File,
    /// The program's side, kept open so that what it wrote last can be read.
    line: File,
    shown: Arc<Mutex<String>>,
    /// How much of that was seen already.
    seen: usize,
    pub(crate) child: Child,
}

impl Terminal {
    /// Runs a client of the daemon, whose files of earlier sessions are below `home`, and waits until it shows this.
    #[track_caller]
    pub(crate) fn showing(text: &str, daemon: &FakeDaemon, home: &TempDir, arguments: &[&str]) -> Self {
        let mut terminal = Self::run(daemon, home, arguments);
        terminal.wait_for(text);
        terminal
    }

    /// The same, and waits for nothing.
    pub(crate) fn run(daemon: &FakeDaemon, home: &TempDir, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let line = File::from(open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        resize(&line, 80, 24);
        let side = || Stdio::from(line.try_clone().unwrap());
        let child = ocps()
            .env("OCPS_SOCKET", daemon.socket())
            .env("HOME", home.path())
            .env("TERM", "xterm")
            .env_remove("XDG_STATE_HOME")
            .args(arguments)
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let (mut reader, text) = (File::from(master.try_clone().unwrap()), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(bytes.get(..count).unwrap()));
            }
        });
        Self { keyboard: File::from(master), line, shown, seen: 0, child }
    }

    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        resize(&self.line, columns, lines);
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            let rest: String = shown[self.seen..].chars().take(5000).collect();
            assert!(Instant::now() < deadline, "{text:?} is not shown: {rest:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end of the program, which must leave the terminal as it was; gives its exit code and all that
    /// was shown.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("the client hangs: {:?}", self.shown.lock().unwrap());
            }
            thread::sleep(Duration::from_millis(10));
        };
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        // What the program wrote last is read once this is read, too.
        self.line.write_all(END.as_bytes()).unwrap();
        self.wait_for(END);
        let shown = self.shown.lock().unwrap().replace(END, "");
        (status.code().or_else(|| Some(128 + status.signal()?)), shown)
    }
}

/// After a failed test, too, the program must not stay.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn resize(line: &File, columns: u16, lines: u16) {
    tcsetwinsize(line, Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
