//! How long a command takes from a client to its first ack, beside the least that a local socket takes; and what the
//! journal costs an execute until its first ack, which waits for two commits.
//!
//! `make bench` starts the real daemon in simulation and, in the same run on the same machine, a bare
//! echo of lines of the same lengths, and a second daemon that keeps a journal. The ratio is what counts: absolute
//! times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Commands in each series.
const ROUNDS: usize = 2000;
/// Series; they alternate with those of the bare echo, so that a drift of the machine meets both.
const SERIES: usize = 5;
/// Executes in each series.
const EXECUTES: usize = 200;
/// Executes that are sent before the first of them is answered.
const TOGETHER: usize = 100;

fn main() {
    // On the file system of the build: a journal in memory would cost nothing.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    commands(dir.path());
    executes(dir.path());
}

fn commands(dir: &Path) {
    let mut daemon = start_daemon(dir, "daemon", &[]);
    let mut client = Client::connect(&dir.join("daemon.sock"));
    let mut echo = Client::connect(&start_echo(dir));
    let (mut refused, mut submitted, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SERIES {
        let line = r#"{"command":"enable","seq":1}"#;
        refused.extend((0..ROUNDS).map(|_| client.round(line)));
        bare.extend((0..ROUNDS).map(|_| echo.round(line)));
    }
    for n in 0..ROUNDS / 10 {
        // The simulator refuses this one, but only after all that a real submission goes through.
        let line = format!(r#"{{"command":"execute","seq":{},"params":{{"pipeline":"none.yaml"}}}}"#, n + 1);
        submitted.push(client.round(&line));
    }
    let bare = report("bare echo over a Unix socket", &mut bare, None);
    report("refused at once by the core", &mut refused, Some(bare));
    report("through core, queue, worker and back-end", &mut submitted, Some(bare));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Executes a second until their first acks, with and without a journal.
fn executes(dir: &Path) {
    let state = dir.join("state");
    let daemons =
        [start_daemon(dir, "off", &[]), start_daemon(dir, "on", &["--state-dir", state.to_str().unwrap()])];
    let mut clients = ["off", "on"].map(|name| Client::connect(&dir.join(format!("{name}.sock"))));
    let mut totals = [[Duration::ZERO; 2]; 2];
    for _ in 0..SERIES {
        for (client, [alone, together]) in clients.iter_mut().zip(&mut totals) {
            *alone += (0..EXECUTES).map(|_| client.execute(1)).sum::<Duration>();
            *together += (0..EXECUTES / TOGETHER).map(|_| client.execute(TOGETHER)).sum::<Duration>();
        }
    }
    println!("executes in a second, until their first acks:");
    let rate = |total: Duration| (SERIES * EXECUTES) as f64 / total.as_secs_f64();
    for (which, what) in ["one at a time", "a hundred at a time"].into_iter().enumerate() {
        let [off, on] = [rate(totals[0][which]), rate(totals[1][which])];
        println!("{what:22} journal off {off:7.0}/s  on {on:7.0}/s  ratio {:.2}", on / off);
    }
    for mut daemon in daemons {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

/// Prints p50 and p99, and their ratios to those of `bare`.
fn report(name: &str, times: &mut [Duration], bare: Option<[Duration; 2]>) -> [Duration; 2] {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    let figures = [at(50), at(99)];
    let [p50, p99] = figures.map(|time| time.as_secs_f64() * 1e6);
    match bare.map(|bare| bare.map(|time| time.as_secs_f64() * 1e6)) {
        Some([b50, b99]) => println!(
            "{name:42} p50 {p50:7.1} us  p99 {p99:7.1} us  ratio {:.2} and {:.2}",
            p50 / b50,
            p99 / b99
        ),
        None => println!("{name:42} p50 {p50:7.1} us  p99 {p99:7.1} us"),
    }
    figures
}

fn start_daemon(dir: &Path, name: &str, more: &[&str]) -> Child {
    // Jobs that outlive the measurement, so that only their beginning is measured.
    let toml = dir.join("ocps.toml");
    std::fs::write(&toml, "[simulation]\nmean_duration_s = 36000\nsigma_s = 0\n[limits]\njobs = 10000\n")
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_ocps"))
        .args([
            "run",
            "1",
            "--simulate",
            "--no-kafka",
            "--state",
            "enabled",
            "--loglevel",
            "error",
            "--config",
        ])
        .arg(toml)
        .arg("--socket")
        .arg(dir.join(format!("{name}.sock")))
        .args(more)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A server that answers each line with one as long as an ack.
fn start_echo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut output = stream.try_clone().unwrap();
        let ack = format!("{}\n", "x".repeat(130));
        for line in BufReader::new(stream).lines() {
            line.unwrap();
            output.write_all(ack.as_bytes()).unwrap();
        }
    });
    path
}

struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let end = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        Self { input: BufReader::new(stream.try_clone().unwrap()), output: stream }
    }

    /// Sends so many executes at once and waits for the first ack of each.
    fn execute(&mut self, count: usize) -> Duration {
        let line = "{\"command\":\"execute\",\"seq\":1,\"params\":{\"pipeline\":\"true.yaml\"}}\n";
        let begun = Instant::now();
        self.output.write_all(line.repeat(count).as_bytes()).unwrap();
        let mut answer = String::new();
        for _ in 0..count {
            answer.clear();
            self.input.read_line(&mut answer).unwrap();
            assert!(answer.contains("\"ack\":301"), "{answer}");
        }
        begun.elapsed()
    }

    /// Sends a line and waits for the answer.
    fn round(&mut self, line: &str) -> Duration {
        let begun = Instant::now();
        self.output.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.input.read_line(&mut answer).unwrap();
        begun.elapsed()
    }
}
