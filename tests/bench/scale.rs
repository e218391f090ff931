//! What one accepted execute and one poll cost the daemon's processor time while 100, 1,000 and 10,000 jobs run.
//!
//! `make bench` starts the real daemon for each number of jobs, with a journal and a fake service that answers at
//! once. The ratios to 100 jobs are what counts: absolute times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../support/mod.rs"]
mod support;

use support::uws_job::Timing;
use support::uws_service::{Options, UwsService};

/// Jobs that run while it is measured; the first number is what the others are compared with.
const JOBS: [usize; 3] = [100, 1000, 10_000];
/// Executes that are measured.
const EXECUTES: usize = 2000;
/// Executes whose jobs do not exist yet, at most.
const TOGETHER: usize = 20;
/// Polls a second, whatever the number of jobs.
const POLLS: usize = 100;
/// Polls that are measured, at least.
const POLLED: usize = 2000;

fn main() {
    // On the file system of the build: a journal in memory would cost nothing.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut first = None;
    for jobs in JOBS {
        let costs = [
            execute(&dir.path().join(format!("execute-{jobs}")), jobs),
            poll(&dir.path().join(format!("poll-{jobs}")), jobs),
        ];
        let first = *first.get_or_insert(costs);
        let [[execute, poll], [execute_ratio, poll_ratio]] =
            [costs.map(|cost| cost * 1e6), [costs[0] / first[0], costs[1] / first[1]]];
        println!(
            "{jobs:6} jobs  an execute {execute:6.0} us  ratio {execute_ratio:.2}  a poll {poll:6.0} us  ratio {poll_ratio:.2}"
        );
    }
}

/// Seconds of the processor for each of [`EXECUTES`] while so many jobs run, which are not polled.
fn execute(dir: &Path, jobs: usize) -> f64 {
    let mut daemon = Daemon::start(dir, 3600.0);
    daemon.execute(jobs);
    daemon.settle();
    let before = daemon.cpu();
    daemon.execute(EXECUTES);
    // The look-ups after each submission belong to it.
    daemon.settle();
    (daemon.cpu() - before) / EXECUTES as f64
}

/// Seconds of the processor for each poll while so many jobs run.
fn poll(dir: &Path, jobs: usize) -> f64 {
    let interval = jobs as f64 / POLLS as f64;
    let mut daemon = Daemon::start(dir, interval);
    daemon.execute(jobs);
    daemon.settle();
    let (before, polls) = (daemon.cpu(), daemon.service.counters().gets);
    // Whole intervals, since the polls of one may come in a burst.
    thread::sleep(Duration::from_secs_f64(interval * (POLLED as f64 / jobs as f64).ceil()));
    (daemon.cpu() - before) / (daemon.service.counters().gets - polls) as f64
}

struct Daemon {
    process: Child,
    service: UwsService,
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Daemon {
    fn start(dir: &Path, poll_interval: f64) -> Self {
        let timing = Timing { pending: 0.0, queued: 0.0, duration: 3600.0, ..Timing::default() };
        let service = UwsService::start(Options { timing, ..Options::default() });
        let configuration = dir.join("configuration");
        fs::create_dir_all(&configuration).unwrap();
        let yaml = format!("url: {}\npoll_interval: {poll_interval}\n", service.url());
        fs::write(configuration.join("_init.yaml"), yaml).unwrap();
        fs::write(
            dir.join("ocps.toml"),
            "[limits]\njobs = 20000\n[uws]\npoll = \"each\"\nsettle_time_s = 5\n",
        )
        .unwrap();
        let socket = dir.join("sock");
        let process = Command::new(env!("CARGO_BIN_EXE_ocps"))
            .args(["run", "1", "--no-kafka", "--state", "enabled", "--loglevel", "error"])
            .args(["--config".into(), dir.join("ocps.toml"), "--configdir".into(), configuration])
            .args(["--state-dir".into(), dir.join("state"), "--socket".into(), socket.clone()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stream = connect(&socket);
        Self { process, service, input: BufReader::new(stream.try_clone().unwrap()), output: stream }
    }

    /// Sends so many executes, [`TOGETHER`] at once, and waits until each has its job.
    fn execute(&mut self, count: usize) {
        let mut answer = String::new();
        for round in 0..count.div_ceil(TOGETHER) {
            let together = TOGETHER.min(count - round * TOGETHER);
            let line = "{\"command\":\"execute\",\"seq\":1,\"params\":{\"pipeline\":\"p.yaml\"}}\n";
            self.output.write_all(line.repeat(together).as_bytes()).unwrap();
            let mut made = 0;
            while made < together {
                answer.clear();
                self.input.read_line(&mut answer).unwrap();
                assert!(answer.contains("\"ack\":301"), "{answer}");
                made += usize::from(answer.contains("job_id"));
            }
        }
    }

    /// Waits until both look-ups after each submission are over (3 s and `settle_time_s` after it), so that nothing is
    /// left to do but heartbeats and polls.
    fn settle(&self) {
        thread::sleep(Duration::from_secs(12));
    }

    /// Seconds of the processor so far, of all threads.
    fn cpu(&self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let nanoseconds = |task: PathBuf| -> u64 {
            let text = fs::read_to_string(task.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        threads.map(|task| nanoseconds(task.unwrap().path())).sum::<u64>() as f64 / 1e9
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
