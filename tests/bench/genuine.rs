//! The genuine uws-api-server, which answers one request at a time: requests, PUTs behind polls, and how late results are.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, Made, polls, variable};
use crate::harness::{Killed, PATIENCE};
use crate::report::{Report, Times};

/// How long the cluster takes for each question of the service, in seconds.
const CLUSTER: &str = "0.02";
/// How long a job is pending and queued before it runs, in seconds.
const BEFORE: f64 = 0.2;
const POLL_INTERVAL: f64 = 1.0;
/// Executes that are measured one after the other.
const PUTS: usize = 20;
/// How long requests are counted.
const COUNTED: Duration = Duration::from_secs(5);

struct Genuine {
    _process: Killed,
    port: u16,
    control: u16,
}

impl Genuine {
    /// None where the variables of `tests/genuine.rs` are not set.
    fn start() -> Option<Self> {
        let (_, runner) = (variable("UWS_SERVER_DIR")?, variable("UWS_RUNNER")?);
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (port, control) = (free(), free());
        let mut command = Command::new(variable("UWS_PYTHON").unwrap_or("python3".to_owned()));
        command.arg(runner).env("UWS_PORT", port.to_string()).env("UWS_CTL_PORT", control.to_string());
        command.env("K8S_LIST_DELAY", CLUSTER).envs([("K8S_PENDING", "0.1"), ("K8S_QUEUED", "0.1")]);
        let process = command.env("UWS_LOG", "critical").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let genuine = Self { _process: Killed(process.unwrap()), port, control };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the genuine service does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Some(genuine)
    }

    /// Questions to the cluster so far: one for each poll or list.
    fn questions(&self) -> f64 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.control)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body["calls"]["list"].as_f64().unwrap()
    }
}

pub fn run(report: &mut Report) {
    report.section("The genuine service, its cluster answering in 20 ms; poll_interval 1 s");
    for jobs in [50, 200] {
        for poll in polls() {
            let Some(genuine) = Genuine::start() else {
                return report.note(
                    "the genuine service is not measured: UWS_SERVER_DIR and UWS_RUNNER are not set (see tests/genuine.rs)"
                        .to_owned(),
                );
            };
            let url = format!("http://127.0.0.1:{}/api/v1", genuine.port);
            let daemon = Daemon::start(&url, POLL_INTERVAL, poll);
            measure(report, &genuine, &daemon, jobs, poll);
        }
    }
}

fn measure(report: &mut Report, genuine: &Genuine, daemon: &Daemon, jobs: usize, poll: &str) {
    let mut client = daemon.client();
    let mut puts = || {
        Times::of(
            (0..PUTS).flat_map(|_| client.execute(1, "dur=3000")).map(|m| m.took.as_secs_f64()).collect(),
        )
    };
    let alone = puts();
    // Long enough for all that comes before the first of them ends.
    let duration = 20.0 + 0.3 * jobs as f64;
    let made = daemon.client().execute(jobs, &format!("dur={duration}"));
    daemon.settle();
    let (questions, begun) = (genuine.questions(), Instant::now());
    daemon.watch.begin();
    thread::sleep(COUNTED);
    let rate = (genuine.questions() - questions) / begun.elapsed().as_secs_f64();
    let behind = puts();
    let begun = Instant::now();
    while daemon.watch.lock().results.len() < jobs && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let seen = daemon.watch.lock();
    let lag = |made: &Made| {
        let (at, _) = seen.results.iter().find(|(_, data)| data["job_id"] == made.job_id)?;
        Some((*at - made.at).as_secs_f64() - BEFORE - duration)
    };
    let lags: Vec<f64> = made.iter().filter_map(lag).collect();
    let missing = jobs - lags.len();
    let lags = Times::of(lags);
    drop(seen);
    let figures = vec![
        ("requests/s", rate),
        ("CMD_INPROGRESS median s", behind.median),
        ("p99 s", behind.p99),
        ("the same without jobs s", alone.median),
        ("lag median s", lags.median),
        ("lag p99 s", lags.p99),
        ("missing", missing as f64),
        ("heartbeat gap s", daemon.watch.gap()),
    ];
    let how = if poll.is_empty() { "each" } else { poll };
    report.row(format!("{jobs} jobs, {how}"), figures);
}
