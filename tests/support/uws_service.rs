//! The fake execution service: answers as the genuine uws-api-server does (what was observed of it, above all its
//! oddities), without a cluster, and fails on request.
//!
//! ```ignore
//! let service = UwsService::start(Options::default());
//! service.inject(Fault { on: On::Put, times: 1, what: What::DoneThenClose });
//! // … let the client work against service.url() …
//! assert_eq!(service.counters().puts, 1);
//! let service = service.stop().restart();  // same port, same jobs
//! ```
//!
//! Not imitated: Etag, the exact wording of tracebacks and of YAML errors.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::http::{self, Request, Server, Then};
use super::port::Port;
use super::uws_fault::{Fault, On, What};
use super::uws_job::{Job, Timing, cluster_refusal, is_label, now};
use super::uws_route::{Odd, Route};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";
const PLAIN: &str = "text/plain";

/// Phases that a list may be filtered by.
const PHASES: [&str; 9] =
    ["pending", "queued", "executing", "completed", "error", "unknown", "held", "suspended", "aborted"];

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port on 127.0.0.1; 0: a free one.
    pub port: u16,
    /// What stands before `/job`.
    pub base: String,
    pub timing: Timing,
    /// Added to every request.
    pub latency: Duration,
    /// One request at a time, as the genuine service works: everything else waits.
    pub serial: bool,
    /// How long a PUT waits for its job to be listed before it answers `Job creation timed out.`
    pub creation_wait: Duration,
    /// Jobs are kept there over a restart of the process.
    pub state: Option<PathBuf>,
    /// Whether `/control` answers: GET shows, POST injects a [`Fault`], DELETE forgets the faults, PUT ends all jobs.
    pub control: bool,
    /// What must stand in the Authorization header of every request, if anything.
    pub authorization: Option<String>,
    /// Whether parts of files are sent, which the genuine service does not do.
    pub ranges: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            base: "/api/v1".to_owned(),
            timing: Timing::default(),
            latency: Duration::ZERO,
            serial: false,
            creation_wait: Duration::from_secs(9),
            state: None,
            control: false,
            authorization: None,
            ranges: false,
        }
    }
}

/// What was asked so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub puts: usize,
    pub gets: usize,
    pub files: usize,
    /// GETs of the job that cannot exist, by which ocps asks whether the service answers: no `gets`, and only what
    /// goes wrong for all requests goes wrong for them.
    pub probes: usize,
    pub deletes: usize,
    pub lists: usize,
    /// Anything else below the base URL, and all outside of it.
    pub others: usize,
    /// Jobs made per run id, gone ones included.
    pub jobs: BTreeMap<String, usize>,
    /// Most requests at the same time.
    pub max_concurrency: usize,
    /// DELETEs by which the genuine service would have removed foreign files.
    pub destructive: Vec<String>,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<String, Job>,
    /// Gone jobs whose files cannot be removed.
    stuck: BTreeSet<String>,
    /// Removed jobs, and the phase in which each was then.
    removed: Vec<(Job, &'static str)>,
    faults: Vec<Fault>,
    counters: Counters,
    puts: Vec<Value>,
    concurrency: usize,
    stopped: bool,
}

/// A running service; stops when dropped.
pub struct UwsService {
    server: Server,
    inner: Arc<Inner>,
}

/// A service that was stopped, with its jobs, faults and counters.
pub struct Stopped {
    port: Port,
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    state: Mutex<State>,
    wake: Condvar,
    turn: Mutex<()>,
}

impl UwsService {
    /// Starts a service; panics where it cannot, as it is for tests.
    pub fn start(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|e| panic!("cannot start the fake execution service: {e}"))
    }

    /// Starts a service.
    ///
    /// # Errors
    /// The port is taken, or the state file cannot be read.
    pub fn try_start(options: Options) -> io::Result<Self> {
        let jobs = match options.state.as_deref().map(std::fs::read) {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes)?,
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Some(Err(_)) | None => BTreeMap::new(),
        };
        let state = Mutex::new(State { jobs, ..State::default() });
        let port = options.port;
        Self::run(port, Arc::new(Inner { options, state, wake: Condvar::new(), turn: Mutex::new(()) }))
    }

    fn run(port: u16, inner: Arc<Inner>) -> io::Result<Self> {
        inner.lock().stopped = false;
        let handler = Arc::clone(&inner);
        let server = Server::start(port, move |request, connection| handler.handle(request, connection))?;
        Ok(Self { server, inner })
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.server.address(), self.inner.options.base)
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Lets something go wrong; the oldest fault that fits a request takes it.
    pub fn inject(&self, fault: Fault) {
        self.inner.lock().faults.push(fault);
    }

    /// The jobs that there are.
    pub fn jobs(&self) -> Vec<Job> {
        self.inner.lock().jobs.values().cloned().collect()
    }

    /// The jobs that were removed, and the phase in which each was then.
    pub fn removed(&self) -> Vec<(Job, &'static str)> {
        self.inner.lock().removed.clone()
    }

    pub fn counters(&self) -> Counters {
        self.inner.lock().counters.clone()
    }

    /// The bodies of the PUTs so far; null for one that is not JSON.
    pub fn puts(&self) -> Vec<Value> {
        self.inner.lock().puts.clone()
    }

    /// Puts a job there that came from elsewhere.
    pub fn add_job(&self, body: &Value) -> String {
        let mut state = self.inner.lock();
        match self.inner.create(&mut state, body.to_string().as_bytes(), 0.0) {
            Ok(job_id) => job_id,
            Err((_, text)) => panic!("cannot make a job: {text}"),
        }
    }

    /// Lets all jobs end now, however long they were to take.
    pub fn end_jobs(&self) {
        self.inner.lock().jobs.values_mut().for_each(Job::end);
    }

    /// Stops: the listener and all connections are closed, also in the middle of a request.
    pub fn stop(mut self) -> Stopped {
        let port = self.server.address().port();
        self.inner.lock().stopped = true;
        self.inner.wake.notify_all();
        self.server.stop();
        let port = Port::keep(port).unwrap_or_else(|e| panic!("cannot keep port {port}: {e}"));
        Stopped { port, inner: Arc::clone(&self.inner) }
    }
}

impl Stopped {
    /// Starts it again on the same port.
    pub fn restart(self) -> UwsService {
        UwsService::run(self.port.number, self.inner)
            .unwrap_or_else(|e| panic!("cannot restart the fake execution service: {e}"))
    }
}

impl Drop for UwsService {
    fn drop(&mut self) {
        self.inner.lock().stopped = true;
        self.inner.wake.notify_all();
    }
}

/// An answer before it is written.
struct Answer {
    status: u16,
    content_type: &'static str,
    /// A further one, as the genuine service adds it.
    second: Option<&'static str>,
    /// Which part of a file it is.
    range: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, second: None, range: None, body: body.into() }
    }

    /// As the genuine service writes JSON: indented by 2, ASCII only.
    fn json(status: u16, value: &Value) -> Self {
        let mut text = String::new();
        let pretty = if value.is_string() { value.to_string() } else { format!("{value:#}") };
        for c in pretty.chars() {
            let mut units = [0; 2];
            match c {
                ' '..='~' | '\n' => text.push(c),
                _ => text.extend(c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}"))),
            }
        }
        Self::new(status, JSON, text)
    }

    /// An uncaught error: the genuine service runs in debug mode.
    fn traceback(status: u16, error: &str) -> Self {
        let text = format!(
            "Traceback (most recent call last):\n  File \"web.py\", line 1711, in _execute\n{error}\n"
        );
        Self::new(status, PLAIN, text)
    }

    fn write(&self, connection: &mut TcpStream) -> io::Result<Then> {
        let mut headers = vec![
            ("Server", "TornadoServer/6.3.3"),
            ("Content-Type", self.content_type),
            ("Access-Control-Allow-Origin", "*"),
        ];
        headers.extend(self.second.map(|kind| ("Content-Type", kind)));
        headers.extend(self.range.as_deref().map(|range| ("Content-Range", range)));
        http::answer(connection, self.status, &headers, &self.body)?;
        Ok(Then::KeepAlive)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, but not beyond the service's end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while !state.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn handle(&self, request: &Request, connection: &mut TcpStream) -> io::Result<Then> {
        if self.options.control && request.path == "/control" {
            return self.control(request).write(connection);
        }
        let expected = self.options.authorization.as_deref();
        if expected.is_some() && request.header("Authorization") != expected {
            http::answer(connection, 401, &[("WWW-Authenticate", "Basic")], b"who are you?")?;
            return Ok(Then::KeepAlive);
        }
        let route = Route::of(request, &self.options.base);
        let fault = self.note(request, &route);
        let turn = self.options.serial.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        self.pause(self.options.latency);
        let result = self.perform(request, &route, fault.as_ref(), connection);
        drop(turn);
        self.lock().concurrency -= 1;
        result
    }

    /// Counts a request and finds the fault that meets it.
    fn note(&self, request: &Request, route: &Route) -> Option<What> {
        let mut state = self.lock();
        let state = &mut *state;
        state.concurrency += 1;
        let counters = &mut state.counters;
        counters.max_concurrency = counters.max_concurrency.max(state.concurrency);
        match route {
            Route::Put => {
                counters.puts += 1;
                state.puts.push(serde_json::from_slice(&request.body).unwrap_or_default());
            }
            Route::List => counters.lists += 1,
            Route::Get { .. } if route.is_probe() => counters.probes += 1,
            Route::Get { .. } => counters.gets += 1,
            Route::File { .. } => counters.files += 1,
            Route::Delete { id } => {
                counters.deletes += 1;
                if id.is_empty() || id == "." || id == ".." || id.contains('/') {
                    counters.destructive.push(id.clone());
                }
            }
            Route::Other(_) => counters.others += 1,
        }
        let kind = route.kind()?;
        let meets = |f: &Fault| (f.on == kind || f.on == On::Any) && (f.times == 0 || !route.is_probe());
        let index = state.faults.iter().position(meets)?;
        let fault = state.faults.get_mut(index)?;
        let what = fault.what.clone();
        match fault.times {
            0 => {}
            1 => drop(state.faults.remove(index)),
            _ => fault.times -= 1,
        }
        Some(what)
    }

    fn perform(
        &self,
        request: &Request,
        route: &Route,
        fault: Option<&What>,
        connection: &mut TcpStream,
    ) -> io::Result<Then> {
        let seconds = Duration::from_secs_f64;
        match fault {
            None | Some(What::FilesGone | What::Stuck | What::ListLag(_)) => {
                self.carry_out(request, route, fault).write(connection)
            }
            Some(What::Latency(s)) => {
                self.pause(seconds(*s));
                self.carry_out(request, route, None).write(connection)
            }
            Some(What::Twice) => {
                self.carry_out(request, route, None);
                self.carry_out(request, route, None).write(connection)
            }
            Some(What::Close) => Ok(Then::Close),
            Some(What::Hang(s)) => {
                self.pause(seconds(*s));
                Ok(Then::Close)
            }
            Some(What::Status { code, content_type, body }) => {
                http::answer(connection, *code, &[("Content-Type", content_type)], body.as_bytes())?;
                Ok(Then::KeepAlive)
            }
            Some(What::Gateway { code, headers, body }) => {
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                http::answer(connection, *code, &headers, body.as_bytes())?;
                Ok(Then::KeepAlive)
            }
            Some(What::NotFoundPage) => {
                Answer::traceback(404, "tornado.web.HTTPError: HTTP 404: Not Found").write(connection)
            }
            Some(spoilt) => {
                let answer = self.carry_out(request, route, None);
                self.spoil(answer, spoilt, connection)
            }
        }
    }

    /// Writes the answer to a request that was carried out, spoilt.
    fn spoil(&self, answer: Answer, fault: &What, connection: &mut TcpStream) -> io::Result<Then> {
        let spoilt = |body: Vec<u8>| Answer { body, range: None, ..answer };
        match fault {
            What::DoneThenHang(s) => {
                self.pause(Duration::from_secs_f64(*s));
                return Ok(Then::Close);
            }
            What::DoneThenStatus { code, content_type, body } => {
                http::answer(connection, *code, &[("Content-Type", content_type)], body.as_bytes())?;
                return Ok(Then::KeepAlive);
            }
            What::NotJson => {
                return Answer::new(200, HTML, "<html><body>Please log in</body></html>").write(connection);
            }
            What::EmptyObject => return spoilt(b"{}".to_vec()).write(connection),
            What::EndlessBody => return endless(connection),
            What::Truncated => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n",
                    answer.body.len()
                );
                connection.write_all(head.as_bytes())?;
                connection.write_all(answer.body.get(..answer.body.len() / 2).unwrap_or_default())?;
                return Ok(Then::Close);
            }
            What::OtherJobId | What::OtherRunId | What::NoPhase | What::HugeBody => {}
            _ => return Ok(Then::Close),
        }
        let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(&answer.body) else {
            return answer.write(connection);
        };
        match fault {
            What::OtherJobId => drop(object.insert("jobId".to_owned(), json!("f".repeat(32)))),
            What::OtherRunId => drop(object.insert("runId".to_owned(), json!("1-other"))),
            What::NoPhase => drop(object.shift_remove("phase")),
            _ => {
                let filler = " ".repeat(20_000_000).into_bytes();
                return Answer { body: [answer.body, filler].concat(), ..answer }.write(connection);
            }
        }
        Answer::json(200, &Value::Object(object)).write(connection)
    }

    fn carry_out(&self, request: &Request, route: &Route, fault: Option<&What>) -> Answer {
        match route {
            Route::Put => self.put(request, fault),
            Route::List => self.list(request),
            Route::Get { id, property } => self.get(id, property.as_deref()),
            Route::File { id, number } => self.file(request, id, number),
            Route::Delete { id } => self.delete(id, fault),
            Route::Other(Odd::NoSuchUrl) => {
                Answer::traceback(404, "tornado.web.HTTPError: HTTP 404: Not Found")
            }
            Route::Other(Odd::NoSuchMethod) => {
                Answer::traceback(405, "tornado.web.HTTPError: HTTP 405: Method Not Allowed")
            }
            Route::Other(Odd::Options) => Answer::new(204, HTML, ""),
            Route::Other(Odd::BadEncoding) => {
                Answer::traceback(400, "tornado.web.HTTPError: HTTP 400: Bad Request")
            }
            Route::Other(Odd::WrongArguments) => {
                Answer::traceback(500, "TypeError: unexpected or missing argument: 'job_id'")
            }
        }
    }

    fn put(&self, request: &Request, fault: Option<&What>) -> Answer {
        if request.header("Content-Type") != Some(JSON) {
            let text = "HTTP 400: Bad Request (Missing argument command)";
            return Answer::new(500, HTML, text.repeat(2));
        }
        let lag = if let Some(What::ListLag(s)) = fault { *s } else { 0.0 };
        let created = self.create(&mut self.lock(), &request.body, lag);
        let job_id = match created {
            Ok(job_id) => job_id,
            Err((status, text)) => return Answer::new(status, HTML, text),
        };
        self.pause(self.options.creation_wait.min(Duration::from_secs_f64(lag)));
        match self.lock().jobs.get(&job_id).filter(|job| job.listed <= now()) {
            Some(job) => Answer::json(200, &Value::Object(job.object(now()))),
            None => Answer::new(500, HTML, "Job creation timed out."),
        }
    }

    fn create(&self, state: &mut State, body: &[u8], lag: f64) -> Result<String, (u16, String)> {
        let job_id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut job = Job::create(body, job_id.clone(), self.options.timing)?;
        job.listed += lag;
        *state.counters.jobs.entry(job.run_id.clone()).or_default() += 1;
        state.jobs.insert(job_id.clone(), job);
        self.save(state);
        Ok(job_id)
    }

    /// Writes the jobs down, so that a killed service finds them again.
    fn save(&self, state: &State) {
        let Some(path) = &self.options.state else { return };
        let temporary = path.with_extension("new");
        let text = serde_json::to_vec(&state.jobs).unwrap_or_default();
        let saved = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
        saved.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    fn list(&self, request: &Request) -> Answer {
        if request.header("Content-Type") == Some(JSON) {
            return Answer::traceback(
                500,
                "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
            );
        }
        let phase = request.query.split('&').find_map(|p| p.strip_prefix("phase=")).unwrap_or_default();
        if !phase.is_empty() && !PHASES.contains(&phase) {
            let names: Vec<_> = PHASES.iter().map(|p| format!("'{p}'")).collect();
            return Answer::new(400, HTML, format!("Valid job categories are: [{}]", names.join(", ")));
        }
        let now = now();
        let state = self.lock();
        let jobs = state.jobs.values().filter(|job| job.listed <= now && !job.vanished(now));
        let jobs = jobs.filter(|job| phase.is_empty() || job.phase(now) == phase);
        Answer::json(200, &jobs.map(|job| Value::Object(job.object(now))).collect())
    }

    fn get(&self, id: &str, property: Option<&str>) -> Answer {
        if property.is_some_and(|p| !["phase", "results", "parameters"].contains(&p)) {
            let text = "Invalid job property requested. Supported properties are phase, results, parameters";
            return Answer::json(400, &json!(text));
        }
        if !is_label(id.trim()) {
            let message = format!("unable to parse requirement: values[0][jobId]: Invalid value: \"{id}\"");
            return Answer::new(500, HTML, cluster_refusal(400, "Bad Request", &message));
        }
        let now = now();
        let state = self.lock();
        let job = state.jobs.get(id.trim()).filter(|job| job.listed <= now && !job.vanished(now));
        let Some(job) = job else { return Answer::json(404, &json!("")) };
        let object = job.object(now);
        match property {
            Some(property) => Answer::json(200, object.get(property).unwrap_or(&Value::Null)),
            None => Answer::json(200, &Value::Object(object)),
        }
    }

    /// A file by its number, which counts from the end if it is negative. A job that has vanished leaves its files.
    fn file(&self, request: &Request, id: &str, number: &str) -> Answer {
        if number.is_empty() {
            return Answer::json(400, &json!("Invalid result ID."));
        }
        let now = now();
        let state = self.lock();
        let found = state.jobs.get(id).zip(number.parse::<isize>().ok()).and_then(|(job, number)| {
            let files = job.files(now);
            let at = if number < 0 { files.len().checked_add_signed(number)? } else { number.unsigned_abs() };
            let name = files.get(at)?.clone();
            Some((job.contents(&name, now), name))
        });
        let Some((body, name)) = found else { return Answer::new(404, HTML, "Result file not found.") };
        let second = if name.ends_with(".txt") { PLAIN } else { "application/octet-stream" };
        let range = request.header("Range").filter(|_| self.options.ranges);
        let first =
            range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let Some(first) = first else {
            return Answer { second: Some(second), ..Answer::new(200, HTML, body) };
        };
        let Some(rest) = body.get(first..).filter(|rest| !rest.is_empty()) else {
            return Answer::new(416, HTML, "");
        };
        let range = format!("bytes {first}-{}/{}", body.len() - 1, body.len());
        Answer { second: Some(second), range: Some(range), ..Answer::new(206, HTML, rest) }
    }

    fn delete(&self, id: &str, fault: Option<&What>) -> Answer {
        let mut state = self.lock();
        let gone = cluster_refusal(404, "Not Found", &format!("jobs.batch \"uws-job-{id}\" not found"));
        let not_removed = format!("\n\n[Errno 13] Permission denied: '/uws/jobs/{id}'");
        if state.stuck.contains(id) {
            return Answer::new(500, HTML, gone + &not_removed);
        }
        let Some(job) = state.jobs.get_mut(id) else {
            let status = if id == "." || id == ".." { 500 } else { 404 };
            return Answer::new(status, HTML, gone);
        };
        if matches!(fault, Some(What::FilesGone)) {
            job.files_removed = true;
            return Answer::new(500, HTML, cluster_refusal(500, "Internal Server Error", "delete refused"));
        }
        if let Some(job) = state.jobs.remove(id) {
            let phase = job.phase(now());
            state.removed.push((job, phase));
        }
        self.save(&state);
        if matches!(fault, Some(What::Stuck)) {
            state.stuck.insert(id.to_owned());
            return Answer::new(500, HTML, not_removed);
        }
        Answer::json(200, &json!({"status": "Success", "message": "", "code": 200}))
    }

    fn control(&self, request: &Request) -> Answer {
        let mut state = self.lock();
        match request.method.as_str() {
            "GET" => {}
            "DELETE" => state.faults.clear(),
            "PUT" => state.jobs.values_mut().for_each(Job::end),
            "POST" => match serde_json::from_slice(&request.body) {
                Ok(fault) => state.faults.push(fault),
                Err(e) => return Answer::json(400, &json!(format!("no fault: {e}"))),
            },
            _ => return Answer::json(405, &json!("GET, POST, DELETE or PUT")),
        }
        let jobs: Vec<_> = state.jobs.values().map(|job| Value::Object(job.object(now()))).collect();
        Answer::json(200, &json!({"counters": state.counters, "faults": state.faults, "jobs": jobs}))
    }
}

/// An answer that continues until the client disconnects.
fn endless(connection: &mut TcpStream) -> io::Result<Then> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.write_all(head.as_bytes())?;
    connection.write_all(b"2\r\n[{\r\n")?;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    loop {
        connection.write_all(&chunk)?;
    }
}
