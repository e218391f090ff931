//! The daemon that is measured, its clients, and what the system knows about it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::harness::{Home, Killed, PATIENCE};

/// Executes that are sent before the first of them is answered, where they are not measured one by one.
pub const TOGETHER: usize = 100;
/// After a submission its run is looked up, after 3 s and after `settle_time_s`, which is set to 4 s.
const SETTLED: Duration = Duration::from_secs(6);
const TOML: &str = "[limits]\njobs = 50000\n[uws]\nsettle_time_s = 4\n";

/// A variable of `make bench`, such as `FULL=1`.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The program to measure: that of this build, or of `PROGRAM`.
pub fn program() -> PathBuf {
    variable("PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_ocps").to_owned()).into()
}

/// The settings `[uws] poll` to compare: those that the daemon knows; else an empty one for the only way there is.
pub fn polls() -> Vec<&'static str> {
    let home = Home::with_toml("[uws]\npoll = \"list\"\n");
    let checked = home.program(&program()).arg("check").arg(home.path("ocps.toml")).output().unwrap();
    if checked.status.success() { vec!["each", "list"] } else { vec![""] }
}

/// The setting `[uws] poll` that `POLL` names; empty for the default.
pub fn poll() -> String {
    variable("POLL").unwrap_or_default()
}

/// What a process has used so far.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Of the processor, by all threads, also those that have ended.
    processor: Duration,
    /// Context switches of each thread, by its directory in `/proc`.
    switches: BTreeMap<PathBuf, f64>,
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    _process: Killed,
    /// After the process, which must have left it.
    group: Option<Group>,
    home: Home,
    pid: Pid,
    _state: tempfile::TempDir,
    pub watch: Watch,
    /// From the start of the process until it is ENABLED.
    pub started: Duration,
}

impl Daemon {
    /// Starts one with a journal for the service at this URL, over its local socket alone.
    pub fn start(url: &str, poll_interval: f64, poll: &str) -> Self {
        Self::start_as(&program(), url, poll_interval, poll, &["--no-kafka"], |command| command)
    }

    pub fn start_as(
        program: &Path,
        url: &str,
        poll_interval: f64,
        poll: &str,
        args: &[&str],
        join: impl FnOnce(Command) -> Command,
    ) -> Self {
        let poll = Some(poll).filter(|poll| !poll.is_empty()).map(|poll| format!("poll = \"{poll}\"\n"));
        let home = Home::for_service(url, poll_interval, &(TOML.to_owned() + &poll.unwrap_or_default()));
        // On the file system of the build: a journal in memory would cost nothing.
        let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = home.program(program);
        let fixed =
            ["1", "--state", "enabled", "--loglevel", "error", "--state-dir", state.path().to_str().unwrap()];
        home.run_args(command.arg("run"), &[&fixed, args].concat());
        let mut command = join(command);
        let begun = Instant::now();
        let process = Killed(command.stdout(Stdio::null()).spawn().unwrap());
        let watch = Watch::start(&home.socket());
        while !watch.lock().enabled {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not become ENABLED");
            thread::sleep(Duration::from_micros(200));
        }
        let pid = Pid::from_child(&process.0);
        Self { _process: process, group: None, home, pid, _state: state, watch, started: begun.elapsed() }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.home.socket())
    }

    /// Gives it so many jobs, and waits until nothing is left to do but to follow them.
    pub fn follow(&self, jobs: usize) {
        let mut client = self.client();
        let mut left = jobs;
        while left > 0 {
            client.execute(left.min(TOGETHER), "");
            left -= left.min(TOGETHER);
        }
        self.settle();
    }

    /// Waits until the look-ups of what was just submitted are over.
    pub fn settle(&self) {
        thread::sleep(SETTLED);
    }

    /// Allows it this share of one processor from now on.
    ///
    /// # Errors
    /// Why there can be no such limit here.
    pub fn limit(&mut self, share: f64) -> Result<(), String> {
        let group = Group::make(self.pid).map_err(|error| format!("no cgroup with a CPU limit: {error}"))?;
        group.limit(share).map_err(|error| format!("no CPU limit: {error}"))?;
        self.group = Some(group);
        Ok(())
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid.as_raw_pid()))
    }

    fn tasks(&self) -> Vec<PathBuf> {
        fs::read_dir(self.proc("task")).unwrap().map(|task| task.unwrap().path()).collect()
    }

    pub fn threads(&self) -> usize {
        self.tasks().len()
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        let of = |task: PathBuf| {
            let switches = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
            let switches = switches.iter().map(|name| number(&task.join("status"), name)).sum();
            (task, switches)
        };
        let pid = nix::unistd::Pid::from_raw(self.pid.as_raw_pid());
        let processor = ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now).unwrap();
        Usage { processor: processor.into(), switches: self.tasks().into_iter().map(of).collect() }
    }

    /// Seconds of the processor since then; and context switches, of the threads that still run.
    pub fn since(&self, before: &Usage) -> [f64; 2] {
        let now = self.usage();
        let switches =
            now.switches.iter().map(|(task, n)| n - before.switches.get(task).unwrap_or(&0.0)).sum();
        [(now.processor - before.processor).as_secs_f64(), switches]
    }

    /// MiB that are resident.
    pub fn memory(&self) -> f64 {
        number(&self.proc("status"), "VmRSS") / 1024.0
    }

    /// How often these system calls are made meanwhile; none without strace.
    pub fn calls(&self, names: &[&str], meanwhile: impl FnOnce()) -> Option<Vec<f64>> {
        let counted = self.home.path("strace.txt");
        let mut command = Command::new("strace");
        let trace = format!("trace={}", names.join(","));
        command.args([
            "-f",
            "-c",
            "-U",
            "name,calls",
            "-e",
            &trace,
            "-p",
            &self.pid.as_raw_pid().to_string(),
            "-o",
        ]);
        let mut strace = Killed(command.arg(&counted).stderr(Stdio::null()).spawn().ok()?);
        // Until it has attached to all threads.
        thread::sleep(Duration::from_millis(500));
        meanwhile();
        kill_process(Pid::from_child(&strace.0), Signal::INT).ok()?;
        strace.0.wait().ok()?;
        let text = fs::read_to_string(counted).ok()?;
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.map_or(0.0, |line| line.trim().parse().unwrap_or(f64::NAN))
        };
        (!text.is_empty()).then(|| names.iter().map(|name| count(name)).collect())
    }
}

fn number(status: &Path, name: &str) -> f64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// A cgroup for the daemon alone, of version 2 or else 1; removed when dropped.
struct Group {
    dir: PathBuf,
    is_v1: bool,
}

impl Group {
    fn make(pid: Pid) -> std::io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let is_v1 = !root.join("cgroup.controllers").exists();
        if !is_v1 {
            fs::write(root.join("cgroup.subtree_control"), "+cpu")?;
        }
        let parent = if is_v1 { root.join("cpu") } else { root.to_owned() };
        let group = Self { dir: parent.join(format!("ocps-bench-{}", pid.as_raw_pid())), is_v1 };
        fs::create_dir(&group.dir)?;
        fs::write(group.dir.join("cgroup.procs"), pid.as_raw_pid().to_string())?;
        Ok(group)
    }

    fn limit(&self, share: f64) -> std::io::Result<()> {
        let quota = (share * 100_000.0).round();
        if self.is_v1 {
            fs::write(self.dir.join("cpu.cfs_period_us"), "100000")?;
            return fs::write(self.dir.join("cpu.cfs_quota_us"), quota.to_string());
        }
        fs::write(self.dir.join("cpu.max"), format!("{quota} 100000"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.dir));
    }
}

fn connect(socket: &Path) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{}: {error}", socket.display()),
            Err(_) => thread::sleep(Duration::from_micros(200)),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    event: Option<Event>,
    ack: Option<Ack>,
}

#[derive(Deserialize)]
struct Event {
    topic: String,
    data: Value,
}

#[derive(Deserialize)]
struct Ack {
    seq: usize,
    ack: i64,
    result: String,
}

/// What a subscriber of all events has seen.
#[derive(Default)]
pub struct Seen {
    enabled: bool,
    latest: Option<Instant>,
    /// Longest time between two heartbeats.
    gap: Duration,
    /// When each job_result came, and what it says.
    pub results: Vec<(Instant, Value)>,
}

#[derive(Clone)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    fn start(socket: &Path) -> Self {
        let watch = Self(Arc::default());
        let (seen, mut stream) = (watch.clone(), connect(socket));
        stream.write_all(b"{\"subscribe\":true}\n").unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let at = Instant::now();
                let Ok(Line { event: Some(event), .. }) = serde_json::from_str(&line) else { continue };
                let mut seen = seen.lock();
                match event.topic.as_str() {
                    "heartbeat" => {
                        seen.gap = seen.gap.max(seen.latest.map_or(Duration::ZERO, |latest| at - latest));
                        seen.latest = Some(at);
                    }
                    "summaryState" => seen.enabled = event.data["summaryState"] == 2,
                    "job_result" => seen.results.push((at, event.data)),
                    _ => {}
                }
            }
        });
        watch
    }

    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    /// Forgets the gaps between heartbeats so far.
    pub fn begin(&self) {
        let mut seen = self.lock();
        (seen.gap, seen.latest) = (Duration::ZERO, None);
    }

    /// Seconds of the longest gap between heartbeats since then.
    pub fn gap(&self) -> f64 {
        let seen = self.lock();
        seen.gap.max(seen.latest.map_or(Duration::ZERO, |latest| latest.elapsed())).as_secs_f64()
    }
}

/// A job that an execute has made.
pub struct Made {
    pub job_id: String,
    /// When CMD_INPROGRESS came, and after what time.
    pub at: Instant,
    pub took: Duration,
}

/// A client that sends executes.
pub struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
    last_seq: usize,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let stream = connect(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), output: stream, last_seq: 0 }
    }

    /// Sends so many executes at once, and waits for the CMD_INPROGRESS of each, which names its job.
    pub fn execute(&mut self, count: usize, query: &str) -> Vec<Made> {
        let first = self.last_seq + 1;
        self.last_seq += count;
        let line = |seq| {
            format!(
                "{{\"command\":\"execute\",\"seq\":{seq},\"params\":{{\"pipeline\":\"p.yaml\",\"data_query\":\"{query}\"}}}}\n"
            )
        };
        let lines: String = (first..first + count).map(line).collect();
        let begun = Instant::now();
        self.output.write_all(lines.as_bytes()).unwrap();
        let (mut made, mut answer) = (Vec::new(), String::new());
        while made.len() < count {
            answer.clear();
            assert!(self.input.read_line(&mut answer).unwrap() > 0, "the daemon closed the connection");
            let at = Instant::now();
            let Ok(Line { ack: Some(ack), .. }) = serde_json::from_str(&answer) else { panic!("{answer}") };
            let result: Value = serde_json::from_str(&ack.result).unwrap_or_default();
            match result["job_id"].as_str() {
                Some(job_id) if ack.ack == 301 && ack.seq >= first => {
                    made.push(Made { job_id: job_id.to_owned(), at, took: at - begun });
                }
                // The end of an earlier one.
                _ => assert!(ack.seq < first, "{answer}"),
            }
        }
        made
    }
}
