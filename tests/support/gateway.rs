//! A gateway before the execution service that misbehaves: it repeats, delays, caches, cuts and refuses requests.
//!
//! It stays within what ocps bears by README.md: what it does late it does within some seconds, and a job
//! that has been there for longer is not lacking in its old lists.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::http::{self, Request, Server, Then};

/// How old a cached answer may be, and how late a request is passed on once more.
const BEHIND_MAX: Duration = Duration::from_millis(2500);
/// Longer than the client waits for anything but a list.
const TOO_LONG: Duration = Duration::from_millis(2300);
/// One of so many changes meets a trick.
const TRICKY_CHANGES: u8 = 2;
/// One of so many questions does: there are many more of them.
const TRICKY_QUESTIONS: u8 = 3;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trick {
    /// Passed on twice; the first answer is shown.
    TwiceFirst,
    /// Passed on twice; the second answer is shown.
    TwiceSecond,
    /// Passed on once more when the first answer was shown.
    Again,
    Delayed,
    /// Passed on when the client has given up.
    Late,
    /// Passed on at once; the answer comes when the client has given up.
    LateAnswer,
    /// Closed without a word.
    Unsent,
    /// Passed on, then closed without a word.
    Cut,
    /// Closed in the middle of the answer.
    Half,
    /// Refused with 429, 502, 503 or 504.
    Refused,
    /// Passed on, then refused with 502, 503 or 504.
    DoneThenRefused,
    /// A login page with status 200.
    Login,
    /// An earlier answer to the same request.
    Cached,
    /// The service's own 404 about a job that is there.
    Absent,
}

const OF_ALL: [Trick; 7] =
    [Trick::Delayed, Trick::Late, Trick::LateAnswer, Trick::Unsent, Trick::Cut, Trick::Half, Trick::Refused];
const OF_CHANGES: [Trick; 8] = [
    Trick::TwiceFirst,
    Trick::TwiceSecond,
    Trick::TwiceSecond,
    Trick::Again,
    Trick::Again,
    Trick::DoneThenRefused,
    Trick::Login,
    Trick::Login,
];
const OF_QUESTIONS: [Trick; 5] = [Trick::Cached, Trick::Cached, Trick::Cached, Trick::Absent, Trick::Login];

/// A running gateway; stops when dropped.
pub struct Gateway {
    server: Server,
    inner: Arc<Inner>,
}

struct Inner {
    service: SocketAddr,
    state: Mutex<State>,
    submissions: AtomicUsize,
}

struct State {
    rng: Rng,
    cache: BTreeMap<String, Cached>,
    played: BTreeMap<Trick, usize>,
}

/// The answers to a GET.
struct Cached {
    first: Instant,
    latest: Instant,
    answer: Vec<u8>,
}

impl Gateway {
    /// Starts one; panics where it cannot, as it is for tests.
    pub fn start(service: SocketAddr, seed: u64) -> Self {
        let state = State { rng: Rng::with_seed(seed), cache: BTreeMap::new(), played: BTreeMap::new() };
        let inner = Arc::new(Inner { service, state: Mutex::new(state), submissions: AtomicUsize::new(0) });
        let handler = Arc::clone(&inner);
        let server = Server::start(0, move |request, connection| handler.handle(request, connection))
            .unwrap_or_else(|e| panic!("cannot start the gateway: {e}"));
        Self { server, inner }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// PUTs that have not been passed on for the last time.
    pub fn submissions(&self) -> usize {
        self.inner.submissions.load(Ordering::SeqCst)
    }

    /// How often each trick was played.
    pub fn played(&self) -> String {
        format!("{:?}", self.inner.lock().played)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(self: &Arc<Self>, request: &Request, connection: &mut TcpStream) -> io::Result<Then> {
        let count = usize::from(request.method == "PUT");
        self.submissions.fetch_add(count, Ordering::SeqCst);
        let result = self.play(self.trick(request), request, connection);
        self.submissions.fetch_sub(count, Ordering::SeqCst);
        result
    }

    /// What becomes of this request; none: it is passed on.
    fn trick(&self, request: &Request) -> Option<Trick> {
        let mut state = self.lock();
        let (one_of, more) = match request.method.as_str() {
            "GET" => (TRICKY_QUESTIONS, &OF_QUESTIONS[..]),
            _ => (TRICKY_CHANGES, &OF_CHANGES[..]),
        };
        if state.rng.u8(..one_of) > 0 {
            return None;
        }
        let trick = state.rng.choice(OF_ALL.iter().chain(more).copied().collect::<Vec<_>>())?;
        let cached = state.cache.get(&request.path);
        let is_possible = match trick {
            Trick::Cached => cached.is_some_and(|cached| cached.latest.elapsed() < BEHIND_MAX),
            Trick::Absent => {
                !request.path.ends_with("/job") && cached.is_some_and(|c| c.first.elapsed() > BEHIND_MAX)
            }
            _ => true,
        };
        if is_possible {
            *state.played.entry(trick).or_default() += 1;
        }
        Some(trick).filter(|_| is_possible)
    }

    fn play(
        self: &Arc<Self>,
        trick: Option<Trick>,
        request: &Request,
        connection: &mut TcpStream,
    ) -> io::Result<Then> {
        let some_time = BEHIND_MAX.mul_f64(self.lock().rng.f64());
        match trick {
            None | Some(Trick::TwiceFirst | Trick::Again) => {
                let answer = self.pass_on(request)?;
                match trick {
                    Some(Trick::TwiceFirst) => drop(self.pass_on(request)?),
                    Some(_) => self.pass_on_again(request.clone(), some_time),
                    None => {}
                }
                return show(&answer, connection);
            }
            Some(Trick::TwiceSecond) => drop(self.pass_on(request)?),
            Some(Trick::Delayed) => thread::sleep(some_time / 4),
            Some(Trick::Late) => thread::sleep(TOO_LONG),
            Some(Trick::LateAnswer) => {
                let answer = self.pass_on(request)?;
                thread::sleep(TOO_LONG);
                return show(&answer, connection);
            }
            Some(Trick::Unsent) => return Ok(Then::Close),
            Some(Trick::Cut) => return self.pass_on(request).map(|_| Then::Close),
            Some(Trick::Half) => {
                let answer = self.pass_on(request)?;
                connection.write_all(answer.get(..answer.len() - 10).unwrap_or_default())?;
                return Ok(Then::Close);
            }
            Some(Trick::Refused) => return self.refuse(connection, &[429, 502, 503, 504]),
            Some(Trick::DoneThenRefused) => {
                self.pass_on(request)?;
                return self.refuse(connection, &[502, 503, 504]);
            }
            Some(Trick::Login) => return page(connection, 200, "<html>Please log in</html>"),
            Some(Trick::Absent) => {
                http::answer(connection, 404, &[("Content-Type", "application/json")], b"\"\"")?;
                return Ok(Then::KeepAlive);
            }
            Some(Trick::Cached) => {
                let answer = self.lock().cache.get(&request.path).map(|cached| cached.answer.clone());
                return show(&answer.unwrap_or_default(), connection);
            }
        }
        show(&self.pass_on(request)?, connection)
    }

    fn refuse(&self, connection: &mut TcpStream, codes: &[u16]) -> io::Result<Then> {
        let code = self.lock().rng.choice(codes).copied().unwrap_or(502);
        page(connection, code, "<html>The service is not available</html>")
    }

    /// The same request, some time later; nobody sees the answer.
    fn pass_on_again(self: &Arc<Self>, request: Request, after: Duration) {
        let inner = Arc::clone(self);
        let count = usize::from(request.method == "PUT");
        self.submissions.fetch_add(count, Ordering::SeqCst);
        thread::spawn(move || {
            thread::sleep(after);
            let _ = inner.pass_on(&request);
            inner.submissions.fetch_sub(count, Ordering::SeqCst);
        });
    }

    /// The service's answer. Somebody else asked for the list just before a change: that one is in the cache.
    fn pass_on(&self, request: &Request) -> io::Result<Vec<u8>> {
        if request.method == "PUT" {
            let list = Request {
                method: "GET".to_owned(),
                body: Vec::new(),
                headers: Vec::new(),
                ..request.clone()
            };
            self.exchange(&list)?;
        }
        self.exchange(request)
    }

    fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let Request { method, path, headers, body, .. } = request;
        let asked = Instant::now();
        let mut connection = TcpStream::connect(self.service)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        connection.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
        let mut reader = BufReader::new(connection);
        let (mut answer, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            answer.extend(line.as_bytes());
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.trim().parse().map_err(io::Error::other)?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        reader.take(length).read_to_end(&mut answer)?;
        if method == "GET" && answer.starts_with(b"HTTP/1.1 200") {
            let mut state = self.lock();
            let cached = state.cache.entry(path.clone());
            let cached = cached.or_insert(Cached { first: asked, latest: asked, answer: Vec::new() });
            // What is in it stays there for its time.
            if cached.answer.is_empty() || cached.latest.elapsed() > BEHIND_MAX {
                (cached.latest, cached.answer) = (asked, answer.clone());
            }
        }
        Ok(answer)
    }
}

fn show(answer: &[u8], connection: &mut TcpStream) -> io::Result<Then> {
    connection.write_all(answer)?;
    Ok(Then::KeepAlive)
}

fn page(connection: &mut TcpStream, code: u16, text: &str) -> io::Result<Then> {
    http::answer(connection, code, &[("Content-Type", "text/html")], text.as_bytes())?;
    Ok(Then::KeepAlive)
}
