//! An execution service that is cheap enough not to be what is measured: its job objects, as large as genuine ones,
//! are bytes that exist already. It knows when each job ended.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::support::http::{self, Request, Server, Then};

/// What a list takes for each job beyond the latency: the genuine service makes each object anew, in about this time.
const LIST_PER_JOB: Duration = Duration::from_micros(150);
/// How often a request that hangs looks whether it still does.
const HANGING: Duration = Duration::from_millis(50);

/// How it answers: after what time, and how many requests at once; the others wait for their turn.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub latency: Duration,
    pub at_once: usize,
}

impl Way {
    pub const AT_ONCE: Self = Self { latency: Duration::ZERO, at_once: usize::MAX };

    pub fn new(latency_ms: u64, at_once: usize) -> Self {
        Self { latency: Duration::from_millis(latency_ms), at_once }
    }

    /// What a list of so many jobs takes, where no other request is before it.
    pub fn list(self, jobs: usize) -> Duration {
        self.latency + LIST_PER_JOB * u32::try_from(jobs).unwrap()
    }

    pub fn name(self) -> String {
        let latency = self.latency.as_millis();
        match self.at_once {
            1 => format!("{latency} ms serial"),
            usize::MAX => format!("{latency} ms parallel"),
            several => format!("{latency} ms {several} at a time"),
        }
    }
}

/// Requests so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub gets: usize,
    pub lists: usize,
}

/// When a PUT arrived, and when it was answered.
pub type Put = (Instant, Instant);

struct Job {
    run_id: String,
    /// Where its object begins and ends in the list, and the values of its phase and of its endTime, with blanks behind
    /// them.
    begin: usize,
    end: usize,
    phase: usize,
    end_time: usize,
    ended: Option<Instant>,
}

struct State {
    way: Way,
    /// When each of the places for `at_once` requests is free again.
    places: Vec<Instant>,
    jobs: Vec<Job>,
    /// All objects, each with a comma behind it.
    list: Vec<u8>,
    /// Jobs that will end, in the order of time.
    ends: VecDeque<(Instant, usize)>,
    counts: Counts,
    puts: Vec<Put>,
}

/// A running service; stops when dropped.
pub struct Service {
    server: Server,
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    hangs: AtomicBool,
}

impl Service {
    pub fn start() -> Self {
        let state = State {
            way: Way::AT_ONCE,
            places: Vec::new(),
            jobs: Vec::new(),
            list: b"[".to_vec(),
            ends: VecDeque::new(),
            counts: Counts::default(),
            puts: Vec::new(),
        };
        let inner = Arc::new(Inner { state: Mutex::new(state), hangs: AtomicBool::new(false) });
        let handler = Arc::clone(&inner);
        let server =
            Server::start(0, move |request, connection| handler.handle(request, connection)).unwrap();
        Self { server, inner }
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.server.address())
    }

    /// How it answers from now on.
    pub fn answer(&self, way: Way) {
        let mut state = self.inner.lock();
        state.way = way;
        state.places = vec![Instant::now(); if way.at_once == usize::MAX { 0 } else { way.at_once }];
    }

    /// Whether it accepts requests and never answers.
    pub fn hang(&self, hangs: bool) {
        self.inner.hangs.store(hangs, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    pub fn puts(&self) -> Vec<Put> {
        self.inner.lock().puts.clone()
    }

    /// Lets all jobs end, at times that are spread over this time.
    pub fn end_jobs(&self, over: Duration) {
        let mut state = self.inner.lock();
        let now = Instant::now();
        let end = |job| (now + over.mul_f64(fastrand::f64()), job);
        let mut ends: Vec<_> = (0..state.jobs.len()).map(end).collect();
        ends.sort_unstable();
        state.ends = ends.into();
    }

    /// When a job ended, and the run id and exit code that its result must have.
    pub fn ended(&self, job_id: &str) -> Option<(Instant, String, i64)> {
        let index = index(job_id)?;
        let state = self.inner.lock();
        let job = state.jobs.get(index)?;
        Some((job.ended?, job.run_id.clone(), i64::from(fails(index))))
    }

    /// For how many seconds each job has ended that is not known to have.
    pub fn late(&self, is_known: impl Fn(&str) -> bool) -> Vec<f64> {
        let mut state = self.inner.lock();
        state.end_due();
        let unknown = state.jobs.iter().enumerate().filter(|(job, _)| !is_known(&format!("{job:032x}")));
        unknown.filter_map(|(_, job)| Some(job.ended?.elapsed().as_secs_f64())).collect()
    }

    /// Makes jobs that nobody has asked for.
    pub fn add(&self, count: usize) {
        let mut state = self.inner.lock();
        for number in 0..count {
            let body = PUT.replace("RUN", &format!("{number}-ocps1-0123456789abcdef"));
            state.create(body.as_bytes());
        }
    }
}

/// What ocps sends for an execute; for the bare limit.
pub const PUT: &str = r#"{"run_id":"RUN","command":"cd $JOB_SOURCE_DIR && bash bin/pipetask.sh","url":"https://github.com/lsst-dm/uws_scripts","commit_ref":"main","environment":[{"name":"PIPELINE_URL","value":"p.yaml"},{"name":"OUTPUT_GLOB","value":"*"},{"name":"DATA_QUERY","value":"instrument='LATISS' and exposure=2026112600123"},{"name":"IMAGE_TAG","value":""}]}"#;

#[derive(Deserialize)]
struct Asked {
    run_id: String,
    command: Value,
    environment: Value,
}

/// One of so many jobs ends in phase error.
fn fails(job: usize) -> bool {
    job % 10 == 9
}

fn index(job_id: &str) -> Option<usize> {
    usize::from_str_radix(job_id, 16).ok()
}

impl State {
    /// Makes a job; its number.
    fn create(&mut self, body: &[u8]) -> Option<usize> {
        let asked: Asked = serde_json::from_slice(body).ok()?;
        let number = self.jobs.len();
        let begin = self.list.len();
        let (run_id, id) = (&asked.run_id, format!("{number:032x}"));
        let head = format!(r#"{{"jobId": "{id}", "runId": "{run_id}", "ownerId": "", "phase": "#);
        let results: Vec<String> = ["ocps.log", "result-0.fits", "result-1.fits", "result-2.fits"]
            .iter()
            .enumerate()
            .map(|(n, name)| format!(r#"{{"id": {n}, "uri": "/uws/jobs/{id}/out/{name}"}}"#))
            .collect();
        self.list.extend(head.as_bytes());
        let phase = self.list.len();
        let times = r#""executing", "creationTime": "2026-11-26 20:36:01+00:00", "startTime": "2026-11-26 20:36:02+00:00", "endTime": "#;
        self.list.extend(times.as_bytes());
        let end_time = self.list.len();
        let own = format!(
            r#"{{"name": "JOB_SOURCE_DIR", "value": "/uws/jobs/{id}/src"}}, {{"name": "JOB_OUTPUT_DIR", "value": "/uws/jobs/{id}/out"}}, {{"name": "JOB_ID", "value": "{id}"}}"#
        );
        let environment = asked.environment.to_string();
        let rest = format!(
            r#"null                       , "executionDuration": null, "destruction": null, "parameters": {{"command": ["/bin/bash", "-c", {}], "environment": [{own}, {}}}, "results": [{}], "errorSummary": {{"message": ""}}, "jobInfo": {{}}}}"#,
            asked.command,
            environment.get(1..)?,
            results.join(", ")
        );
        self.list.extend(rest.as_bytes());
        let end = self.list.len();
        self.list.push(b',');
        self.jobs.push(Job { run_id: asked.run_id, begin, end, phase, end_time, ended: None });
        Some(number)
    }

    /// Ends the jobs whose time has come. As at the genuine service, endTime is in whole seconds, and null for a job that
    /// failed.
    fn end_due(&mut self) {
        let now = Instant::now();
        while let Some((at, number)) = self.ends.front().copied().filter(|(at, _)| *at <= now) {
            self.ends.pop_front();
            let job = &mut self.jobs[number];
            job.ended = Some(at);
            let time = jiff::Timestamp::now() - (now - at);
            let (phase, end_time) = if fails(number) {
                ("\"error\"    ", None)
            } else {
                ("\"completed\"", Some(time.strftime("\"%F %T+00:00\"").to_string()))
            };
            self.list[job.phase..job.phase + phase.len()].copy_from_slice(phase.as_bytes());
            if let Some(text) = end_time {
                self.list[job.end_time..job.end_time + text.len()].copy_from_slice(text.as_bytes());
            }
        }
    }

    /// When a request that arrives now, and takes so long, is answered.
    fn answered_at(&mut self, took: Duration) -> Instant {
        let now = Instant::now();
        let Some(place) = self.places.iter_mut().min() else { return now + took };
        *place = now.max(*place) + took;
        *place
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn handle(&self, request: &Request, connection: &mut TcpStream) -> io::Result<Then> {
        while self.hangs.load(Ordering::Relaxed) {
            thread::sleep(HANGING);
        }
        let arrived = Instant::now();
        let name = request.path.strip_prefix("/api/v1/job").unwrap_or("?");
        let is_list = name.is_empty() && request.method == "GET";
        let (took, at) = {
            let mut state = self.lock();
            let took = if is_list { state.way.list(state.jobs.len()) } else { state.way.latency };
            (took, state.answered_at(took))
        };
        sleep_until(at - took);
        // What it says is as old as it takes to say it, as at the genuine service.
        let body = self.carry_out(request, name, is_list);
        sleep_until(at);
        if request.method == "PUT" {
            self.lock().puts.push((arrived, Instant::now()));
        }
        let (status, body) = body.map_or((404, b"\"\"".to_vec()), |body| (200, body));
        http::answer(connection, status, &[("Content-Type", "application/json")], &body)?;
        Ok(Then::KeepAlive)
    }

    /// The body of the answer; none for a job that does not exist.
    fn carry_out(&self, request: &Request, name: &str, is_list: bool) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.end_due();
        if is_list {
            state.counts.lists += 1;
            let mut list = state.list.clone();
            // The last comma; where there are no jobs, there is none.
            list.pop_if(|last| *last == b',');
            list.push(b']');
            return Some(list);
        }
        let job = match request.method.as_str() {
            "PUT" => state.create(&request.body),
            "GET" => name.strip_prefix('/').and_then(index),
            _ => None,
        };
        // Of the job that cannot exist, by which ocps asks whether the service answers, there is no number.
        let Job { begin, end, .. } = *state.jobs.get(job?)?;
        state.counts.gets += usize::from(request.method == "GET");
        Some(state.list[begin..end].to_vec())
    }
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}
