//! A daemon of its own for each test, and clients of it that wait long, but not for ever.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for anything: longer than a busy machine takes, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Simulated jobs end soon.
pub(crate) const QUICK: &str = "[simulation]\nmean_duration_s = 0.2\nsigma_s = 0\n";
/// Simulated jobs run longer than any test.
pub(crate) const LONG: &str = "[simulation]\nmean_duration_s = 3600\nsigma_s = 0\n";

/// The directory with all files of a daemon; it is kept when the daemon ends.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { dir: TempDir::with_prefix("ocps-test-").unwrap() };
        fs::create_dir(home.path("configuration")).unwrap();
        home.write("ocps.toml", "");
        home
    }

    pub(crate) fn with_toml(text: &str) -> Self {
        let home = Self::new();
        home.write("ocps.toml", text);
        home
    }

    /// A home whose component configuration has the url of this service.
    pub(crate) fn for_service(url: &str, poll_interval: f64, toml: &str) -> Self {
        let home = Self::with_toml(toml);
        home.write("configuration/_init.yaml", &format!("url: {url}\npoll_interval: {poll_interval}\n"));
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    /// The binary in this home, without the variables of our own environment that it reads.
    pub(crate) fn ocps(&self) -> Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_ocps")))
    }

    pub(crate) fn program(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        let is_read = |name: &str| {
            ["LSST_", "DM_CONFIG_", "OCPS_", "XDG_", "REDIS_", "WATCHDOG_"]
                .iter()
                .any(|p| name.starts_with(p))
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_read) {
                command.env_remove(name);
            }
        }
        for name in [
            "NOTIFY_SOCKET",
            "JOURNAL_STREAM",
            "STATE_DIRECTORY",
            "RUNTIME_DIRECTORY",
            "CREDENTIALS_DIRECTORY",
            "NO_COLOR",
        ] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// `ocps run` with these flags and the files of this home.
    pub(crate) fn daemon(&self, args: &[&str]) -> Command {
        let mut command = self.ocps();
        self.run_args(command.arg("run"), args);
        command
    }

    pub(crate) fn run_args(&self, command: &mut Command, args: &[&str]) {
        command.args(args);
        for (flag, name) in [
            ("--config", "ocps.toml"),
            ("--socket", "s.sock"),
            ("--state-dir", "state"),
            ("--configdir", "configuration"),
        ] {
            if !args.contains(&flag) {
                command.arg(flag).arg(self.path(name));
            }
        }
    }

    /// A daemon that has started.
    pub(crate) fn start(&self, args: &[&str]) -> Daemon {
        let daemon = Daemon::start(self.daemon(args), self.socket());
        let mut client = daemon.connect();
        eventually("it has started", || client.query("status")["starting"] == false);
        daemon
    }

    /// Runs a daemon that refuses to start, until it has ended.
    pub(crate) fn refused(&self, args: &[&str]) -> Ran {
        run(&mut self.daemon(args))
    }

    /// Runs a client command.
    pub(crate) fn client(&self, args: &[&str]) -> Ran {
        run(self.ocps().env("OCPS_SOCKET", self.socket()).args(args))
    }
}

/// Exit code and output of a process.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        let output = receiver.recv().unwrap().unwrap();
        panic!("the process does not end; it says: {}", String::from_utf8_lossy(&output.stderr));
    });
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// Checks that it exited with this code and wrote one line to standard error.
    #[track_caller]
    pub(crate) fn one_line(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end()
    }
}

/// Waits until the condition is true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is killed when the test ends, however it ends.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon; killed when dropped. Its log is shown when the test fails.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts it, its standard error in a file, and waits until it listens.
    pub(crate) fn start(mut command: Command, socket: PathBuf) -> Self {
        let stderr = socket.with_extension("stderr");
        let file = File::options().create(true).append(true).open(&stderr).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut daemon = Self { child, socket, stderr };
        let pid = daemon.pid();
        eventually("the socket answers", || {
            assert_eq!(daemon.child.try_wait().unwrap(), None, "ended: {}", daemon.stderr());
            // A process that a killed daemon was just starting may hold its socket for a moment.
            UnixStream::connect(&daemon.socket)
                .is_ok_and(|stream| socket_peercred(&stream).is_ok_and(|peer| peer.pid == pid))
        });
        daemon
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Terminates it and waits for its end; returns how long that took.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0));
        begun.elapsed()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// A subscriber that has received the latest event of each topic.
    #[track_caller]
    pub(crate) fn subscribe(&self) -> Client {
        let mut client = self.connect();
        client.write(&json!({"subscribe": true}));
        // The last event of the start-up is published by another thread, some time after the others.
        client.event("configurationsAvailable");
        // The latest events are sent in the order of their names, so this one is the last.
        client.event("summaryState");
        client
    }

    /// Number of threads that serve clients: two for each.
    pub(crate) fn client_threads(&self) -> usize {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("read-") || name.starts_with("write-")).count()
    }

    /// Lines of `/proc/PID/status`, and the number of open files.
    pub(crate) fn resource(&self, name: &str) -> usize {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        if name == "files" {
            return fs::read_dir(proc.join("fd")).unwrap().count();
        }
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            if let Ok(Some(status)) = ended {
                eprintln!("--- the daemon had ended: {status}");
            }
            eprintln!("--- the log of the daemon:\n{}---", self.stderr());
        }
    }
}

/// A client of the socket; it keeps all that it received.
pub(crate) struct Client {
    stream: UnixStream,
    lines: Receiver<Value>,
    pub(crate) received: Vec<Value>,
    closed: bool,
    last_seq: i32,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let (sender, lines) = channel();
        let input = BufReader::new(stream.try_clone().unwrap());
        thread::spawn(move || {
            for line in input.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "not JSON": line }));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Self { stream, lines, received: Vec::new(), closed: false, last_seq: 0 }
    }

    pub(crate) fn write(&mut self, line: &Value) {
        self.raw(format!("{line}\n").as_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends nothing more, but still reads.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a command; its number.
    pub(crate) fn send(&mut self, command: &str, params: &Value) -> i32 {
        self.last_seq += 1;
        self.write(&json!({"command": command, "seq": self.last_seq, "params": params}));
        self.last_seq
    }

    pub(crate) fn execute(&mut self, pipeline: &str) -> i32 {
        self.send("execute", &json!({ "pipeline": pipeline }))
    }

    /// Sends a command and waits for its final ack: name and result.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str, params: &Value) -> String {
        let seq = self.send(command, params);
        self.final_ack(seq)
    }

    /// The first matching line, received already or to come.
    #[track_caller]
    pub(crate) fn find(&mut self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        let mut next = 0;
        loop {
            while let Some(line) = self.received.get(next) {
                if so(line) {
                    return line.clone();
                }
                next += 1;
            }
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.received.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("not received: {what}; but {:#?}", self.story()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("closed before: {what}; but {:#?}", self.story())
                }
            }
        }
    }

    /// Reads for so long.
    pub(crate) fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.received.push(line);
        }
    }

    /// Reads until the daemon closes the connection.
    #[track_caller]
    pub(crate) fn until_closed(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.closed {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.received.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("not closed; {:#?}", self.story()),
                Err(RecvTimeoutError::Disconnected) => self.closed = true,
            }
        }
    }

    /// The final ack of a command: name and result.
    #[track_caller]
    pub(crate) fn final_ack(&mut self, seq: i32) -> String {
        let is_final = |line: &Value| {
            line["ack"]["seq"] == seq && ![301, 302].contains(&line["ack"]["ack"].as_i64().unwrap())
        };
        let line = self.find(&format!("the final ack of {seq}"), is_final);
        format!("{} {}", line["ack"]["name"].as_str().unwrap(), line["ack"]["result"].as_str().unwrap())
    }

    /// The job id in the in-progress ack of an execute.
    #[track_caller]
    pub(crate) fn job_id(&mut self, seq: i32) -> String {
        let line = self.find(&format!("an ack of {seq}"), |line| line["ack"]["seq"] == seq);
        assert_eq!(line["ack"]["ack"], 301, "{line}");
        let result: Value = serde_json::from_str(line["ack"]["result"].as_str().unwrap()).unwrap();
        result["job_id"].as_str().unwrap().to_owned()
    }

    /// The data of the first event of a topic.
    #[track_caller]
    pub(crate) fn event(&mut self, topic: &str) -> Value {
        self.find(topic, |line| line["event"]["topic"] == topic)["event"]["data"].clone()
    }

    /// Waits for the summary state of this number.
    #[track_caller]
    pub(crate) fn state(&mut self, number: i32) {
        self.find(&format!("state {number}"), |line| line["event"]["data"]["summaryState"] == number);
    }

    #[track_caller]
    pub(crate) fn job_result(&mut self, job_id: &str) -> Value {
        let of_job = |line: &Value| {
            line["event"]["topic"] == "job_result" && line["event"]["data"]["job_id"] == job_id
        };
        self.find(&format!("the result of {job_id}"), of_job)["event"]["data"].clone()
    }

    #[track_caller]
    pub(crate) fn query(&mut self, document: &str) -> Value {
        let before = self.received.iter().filter(|line| !line[document].is_null()).count();
        self.write(&json!({ "query": document }));
        eventually("the answer to a query", || {
            self.listen(Duration::from_millis(1));
            self.received.iter().filter(|line| !line[document].is_null()).count() > before
        });
        self.received.iter().rfind(|line| !line[document].is_null()).unwrap()[document].clone()
    }

    /// Drops all that the daemon has sent so far, also what is still on its way.
    #[track_caller]
    pub(crate) fn forget(&mut self) {
        self.query("status");
        self.received.clear();
    }

    /// What was received without heartbeats and log messages: one text each, with job and run ids as `J1`, `R1` and so on.
    pub(crate) fn story(&self) -> Vec<String> {
        let mut ids = BTreeMap::new();
        let mut story = Vec::new();
        for line in &self.received {
            let mut text = match (&line["ack"], &line["event"]) {
                (Value::Object(ack), _) => format!(
                    "ack {} {} {} {} {}",
                    ack["seq"],
                    ack["name"].as_str().unwrap_or_default(),
                    ack["error"],
                    ack["result"].as_str().unwrap_or_default(),
                    ack["timeout"]
                ),
                (_, Value::Object(event)) => match event["topic"].as_str().unwrap_or_default() {
                    "heartbeat" | "logMessage" => continue,
                    topic => format!("{topic} {}", event["data"]),
                },
                _ => line.to_string(),
            };
            let plain = text.replace('\\', "");
            let named = |name: &str| -> Option<String> {
                let (_, rest) = plain.split_once(&format!("\"{name}\":\""))?;
                Some(rest.split('"').next()?.to_owned()).filter(|id| !id.is_empty())
            };
            for (key, letter) in [("job_id", 'J'), ("jobId", 'J'), ("runId", 'R')] {
                if let Some(id) = named(key) {
                    let number = ids.values().filter(|short: &&String| short.starts_with(letter)).count() + 1;
                    ids.entry(id).or_insert_with(|| format!("{letter}{number}"));
                }
            }
            for (id, short) in &ids {
                text = text.replace(id.as_str(), short);
            }
            story.push(text);
        }
        story
    }

    /// When the events of a topic were sent, in seconds.
    pub(crate) fn sent(&self, topic: &str) -> Vec<f64> {
        let of_topic = self.received.iter().filter(|line| line["event"]["topic"] == topic);
        of_topic.map(|line| line["event"]["sent"].as_f64().unwrap()).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The thread that reads holds the connection too.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Measures how long the machine held up the test or the daemon, to excuse late heartbeats.
pub(crate) struct StallMeter {
    stop: Sender<()>,
    measuring: JoinHandle<Duration>,
}

impl StallMeter {
    /// Time between two measurements.
    const PERIOD: Duration = Duration::from_millis(10);
    /// Longest gap between two heartbeats that can be excused.
    const GAP: Duration = Duration::from_secs(2);

    /// Measures from now on.
    pub(crate) fn start(daemon: Pid) -> Self {
        let (stop, stopped) = channel();
        let measuring = thread::spawn(move || {
            let (mut late, mut starved) = (Duration::ZERO, Duration::ZERO);
            let (mut seen, mut threads) = (VecDeque::new(), Vec::new());
            loop {
                if threads.len() < 2 {
                    threads = heartbeat_threads(daemon);
                }
                let begun = Instant::now();
                if stopped.recv_timeout(Self::PERIOD) != Err(RecvTimeoutError::Timeout) {
                    return 2 * late + starved;
                }
                late = late.max(begun.elapsed().saturating_sub(Self::PERIOD));
                let waited = processor_wait(&threads);
                seen.push_back((begun, waited));
                while seen.front().is_some_and(|(at, _)| begun - *at > Self::GAP) {
                    seen.pop_front();
                }
                let before = seen.front().map_or(waited, |(_, before)| *before);
                starved = starved.max(waited.saturating_sub(before));
            }
        });
        Self { stop, measuring }
    }

    /// The longest time between two of these heartbeats, sent while it measured. Checks that it is below the limit, in
    /// seconds, plus the time for which the machine held up us or the threads that send heartbeats.
    #[track_caller]
    pub(crate) fn longest_gap(self, beats: &[f64], limit: f64) -> f64 {
        drop(self.stop);
        let excuse = self.measuring.join().unwrap().as_secs_f64();
        let gap = beats.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(gap < limit + excuse, "{gap} s, of which {excuse} s are excused: {beats:?}");
        gap
    }
}

/// The threads of a daemon that send heartbeats, in `/proc`: its main loop and, once it has started, its timer.
pub(crate) fn heartbeat_threads(daemon: Pid) -> Vec<PathBuf> {
    let proc = PathBuf::from(format!("/proc/{}", daemon.as_raw_pid()));
    let tasks = fs::read_dir(proc.join("task")).into_iter().flatten().filter_map(Result::ok);
    let is_timer = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "timer\n");
    let timer = tasks.map(|task| task.path()).find(is_timer);
    [proc].into_iter().chain(timer).collect()
}

/// How long these threads have waited for a processor, where the kernel counts that.
fn processor_wait(threads: &[PathBuf]) -> Duration {
    // Before it stands the processor time that they had.
    let wait = |thread: &PathBuf| -> Option<u64> {
        fs::read_to_string(thread.join("schedstat")).ok()?.split_whitespace().nth(1)?.parse().ok()
    };
    Duration::from_nanos(threads.iter().filter_map(wait).sum())
}
