//! The connection to a daemon: requests out, lines in.
//!
//! A thread of its own reads lines, so that a wait for one can end in time. Whatever the daemon says that we
//! do not understand is skipped: it may be newer than we are.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select_biased};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::config::settings::Settings;
use crate::csc::command::CommandName;
use crate::csc::id::SalIndex;
use crate::sal::ack;
use crate::transport::socket_path::{self, Candidates, Place, User};

/// Longest line that is read, in bytes: a list of all jobs with room to spare, and still bounded.
const LINE_MAX: u64 = 64 << 20;

/// Lines read ahead of what has been handled.
const LINES_AHEAD: usize = 256;

/// Longest wait for the answer to a query, and for the daemon to take what we send.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest that an ack can ask us to wait, in seconds: a day.
const ACK_TIMEOUT_MAX_S: f64 = 86_400.0;

/// Which daemon a client talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--index`.
    pub index: Option<SalIndex>,
}

/// An ack.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ack {
    /// Our number of the command.
    pub(super) seq: i64,
    /// The code.
    pub(super) code: i64,
    /// The name of the code.
    pub(super) name: String,
    /// What came of it.
    pub(super) result: String,
    /// How long the next ack may take.
    pub(super) timeout: Duration,
}

/// How a command stands after an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// More acks follow.
    InProgress,
    /// It was carried out.
    Complete,
    /// It was refused, failed or aborted.
    Refused,
}

impl Ack {
    /// What the code means.
    pub(super) fn standing(&self) -> Standing {
        match i32::try_from(self.code) {
            Ok(code) if ack::NOT_FINAL.contains(&code) => Standing::InProgress,
            Ok(ack::COMPLETE) => Standing::Complete,
            Ok(_) | Err(_) => Standing::Refused,
        }
    }

    /// The job that an in-progress ack of execute names.
    pub(super) fn job_id(&self) -> Option<String> {
        let result: Value = serde_json::from_str(&self.result).ok()?;
        result.get("job_id")?.as_str().map(str::to_owned)
    }

    /// The prerequisites that do not exist, comma-joined, if it names some.
    pub(super) fn missing_prereqs(&self) -> Option<String> {
        let result: Value = serde_json::from_str(&self.result).ok()?;
        let missing = result.get("missing_prereqs")?.as_array()?;
        Some(missing.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
    }

    fn of_value(value: &Value) -> Option<Self> {
        let code = value.get("ack")?.as_i64()?;
        let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let timeout_s = value.get("timeout").and_then(Value::as_f64).unwrap_or(0.0);
        Some(Self {
            seq: value.get("seq")?.as_i64()?,
            code,
            name: text("name").unwrap_or_else(|| format!("ack {code}")),
            result: text("result").unwrap_or_default(),
            timeout: Duration::try_from_secs_f64(timeout_s.min(ACK_TIMEOUT_MAX_S)).unwrap_or_default(),
        })
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// Its name.
    pub(super) topic: String,
    /// When it was sent, as the daemon writes UTC.
    pub(super) sent_utc: Option<String>,
    /// Its fields.
    pub(super) data: Map<String, Value>,
}

impl Event {
    fn of_value(value: &Value) -> Option<Self> {
        Some(Self {
            topic: value.get("topic")?.as_str()?.to_owned(),
            sent_utc: value.get("sent_utc").and_then(Value::as_str).map(str::to_owned),
            data: value.get("data").and_then(Value::as_object).cloned().unwrap_or_default(),
        })
    }

    /// A field as text, empty if it is none.
    pub(super) fn text(&self, field: &str) -> &str {
        self.data.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a line of the daemon says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// An answer to a command.
    Ack(Ack),
    /// An event.
    Event(Event),
    /// The answer to a query for the status.
    Status(Value),
    /// The answer to a query for the jobs.
    Jobs(Value),
    /// It did not accept what we wrote.
    Error(String),
    /// Something that we do not know.
    Other,
}

impl Message {
    fn parse(line: &str) -> Self {
        let Ok(Value::Object(mut line)) = serde_json::from_str(line) else { return Self::Other };
        if let Some(message) = line.get("ack").and_then(Ack::of_value).map(Self::Ack) {
            return message;
        }
        if let Some(message) = line.get("event").and_then(Event::of_value).map(Self::Event) {
            return message;
        }
        if let Some(Value::String(error)) = line.get("error") {
            return Self::Error(error.clone());
        }
        let status = line.remove("status").map(Self::Status);
        status.or_else(|| line.remove("jobs").map(Self::Jobs)).unwrap_or(Self::Other)
    }
}

/// A line of the daemon, as it came and as it is understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Without its end.
    pub(super) raw: String,
    /// What it says.
    pub(super) message: Message,
}

/// What came over the connection.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A line.
    Line(Line),
    /// The connection broke; the reason.
    Broken(String),
}

/// What a wait for a line ended with.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// A line.
    Line(Line),
    /// Nothing in time.
    Timeout,
    /// The person at the terminal wants to leave.
    Interrupted,
    /// The daemon closed the connection, or it broke; the reason.
    Lost(String),
}

/// What may be asked of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// What it is doing.
    Status,
    /// Its jobs.
    Jobs,
}

impl Query {
    fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Jobs => "jobs",
        }
    }
}

/// A connection to a daemon.
pub(super) struct Client {
    stream: UnixStream,
    lines: Receiver<Incoming>,
}

impl Client {
    /// Connects to the daemon that is meant.
    ///
    /// # Errors
    /// [`Failure::NoDaemon`] that names the places, when there is none or none with the wanted index.
    pub(super) fn connect(target: &Target) -> Result<Self, Failure> {
        // Who may not read the toml, or finds it broken, can still say --socket.
        let setting = Settings::load(None).ok().and_then(|settings| settings.socket);
        let candidates = socket_path::of_client(
            target.socket.as_deref(),
            setting.as_deref(),
            target.index,
            &|name| std::env::var_os(name),
            User::current(),
        );
        Self::connect_to(&candidates, target.index)
    }

    fn connect_to(candidates: &Candidates, index: Option<SalIndex>) -> Result<Self, Failure> {
        let (places, remedy) = match candidates {
            Candidates::Named(path) => {
                (&[Place::Runtime(path.clone())][..], format!("ocps run --socket {}", path.display()))
            }
            Candidates::Usual(places) => {
                let instance = index.map(|index| format!("@{}", index.number())).unwrap_or_default();
                let start = format!("ocps run or systemctl start ocps{instance}");
                (places.as_slice(), format!("{start}, or say where it is with --socket PATH"))
            }
        };
        let mut tried = Vec::new();
        for place in places {
            let path = place.path();
            let stream = match connect_to_place(place) {
                Ok(stream) => stream,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    tried.push(format!("{} (no such file)", path.display()));
                    continue;
                }
                // What a killed daemon left, or another user made, hides none.
                Err(error)
                    if matches!(candidates, Candidates::Usual(_))
                        && error.kind() != ErrorKind::PermissionDenied =>
                {
                    tried.push(format!("{} ({error})", path.display()));
                    continue;
                }
                Err(error) => return Err(Failure::NoDaemon(cannot_connect(path, &error, &remedy))),
            };
            let mut client = Self::over(stream)?;
            let Some(wanted) = index else { return Ok(client) };
            let found = client.query(Query::Status)?.get("index").and_then(Value::as_i64);
            if found == Some(i64::from(wanted.number())) {
                return Ok(client);
            }
            let found = found.map_or_else(|| "unknown".to_owned(), |found| found.to_string());
            tried.push(format!("{} (its index is {found})", path.display()));
        }
        let which = index.map(|index| format!(" with index {index}")).unwrap_or_default();
        Err(Failure::NoDaemon(format!("no daemon{which} at {}: start one with {remedy}", tried.join(", "))))
    }

    /// Talks over an open connection.
    fn over(stream: UnixStream) -> Result<Self, Failure> {
        let failed = |error| Failure::Failed(format!("cannot set up the connection: {error}"));
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let reader = stream.try_clone().map_err(failed)?;
        let (sender, lines) = bounded(LINES_AHEAD);
        // It ends with the connection, or with the process: nobody needs to wait for it.
        thread::Builder::new()
            .name("read".into())
            .spawn(move || read_lines(reader, &sender))
            .map_err(failed)?;
        Ok(Self { stream, lines })
    }

    /// Sends a command.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn command(
        &mut self,
        seq: i32,
        command: CommandName,
        params: &Map<String, Value>,
    ) -> Result<(), Failure> {
        self.write(&json!({"command": command.as_str(), "seq": seq, "params": params}))
    }

    /// Asks for all events: first the latest of each, then all as they come.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn subscribe(&mut self) -> Result<(), Failure> {
        self.write(&json!({"subscribe": true}))
    }

    /// Asks for a document; its answer comes as a line.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn ask(&mut self, query: Query) -> Result<(), Failure> {
        self.write(&json!({"query": query.as_str()}))
    }

    /// Asks for a document and waits for it.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub(super) fn query(&mut self, query: Query) -> Result<Value, Failure> {
        self.ask(query)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.next(Some(deadline)) {
                Next::Line(Line { message: Message::Status(document), .. }) if query == Query::Status => {
                    return Ok(document);
                }
                Next::Line(Line { message: Message::Jobs(document), .. }) if query == Query::Jobs => {
                    return Ok(document);
                }
                Next::Line(Line { message: Message::Error(reason), .. }) => {
                    return Err(Failure::Failed(refused(&reason)));
                }
                Next::Line(_) => {}
                Next::Timeout | Next::Interrupted => {
                    let limit = ANSWER_TIMEOUT.as_secs();
                    return Err(Failure::Failed(format!("the daemon did not answer within {limit} s")));
                }
                Next::Lost(reason) => return Err(Failure::Failed(reason)),
            }
        }
    }

    /// Waits for the next line; without a deadline as long as it takes.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Next {
        self.next_unless(deadline, &never())
    }

    /// The same, unless an interrupt comes first.
    pub(super) fn next_unless(&mut self, deadline: Option<Instant>, interrupts: &Receiver<()>) -> Next {
        let timeout = deadline.map_or_else(never, at);
        // What has come is handed on before the clock is looked at.
        select_biased! {
            recv(interrupts) -> _ => Next::Interrupted,
            recv(self.lines) -> incoming => match incoming {
                Ok(Incoming::Line(line)) => Next::Line(line),
                Ok(Incoming::Broken(reason)) => Next::Lost(reason),
                Err(_) => Next::Lost(CLOSED.to_owned()),
            },
            recv(timeout) -> _ => Next::Timeout,
        }
    }

    /// The lines as they come, to wait for them and other things together.
    pub(super) fn lines(&self) -> &Receiver<Incoming> {
        &self.lines
    }

    /// Writes one line.
    ///
    /// A daemon that has closed the connection is no error here: what it said last is still to be read.
    fn write(&mut self, line: &Value) -> Result<(), Failure> {
        let Err(error) = self.stream.write_all(format!("{line}\n").as_bytes()) else { return Ok(()) };
        let kind = error.kind();
        if matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            return Ok(());
        }
        Err(Failure::Failed(if matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            format!("the daemon took nothing from us for {} s", ANSWER_TIMEOUT.as_secs())
        } else {
            format!("cannot write to the daemon: {error}")
        }))
    }
}

/// What is said when the daemon has closed the connection.
pub(super) const CLOSED: &str = "the daemon closed the connection";

/// What is said when the daemon did not accept a line of ours.
pub(super) fn refused(reason: &str) -> String {
    format!("the daemon refused the request: {}", super::text::clean(reason))
}

fn connect_to_place(place: &Place) -> std::io::Result<UnixStream> {
    place.check()?;
    UnixStream::connect(place.path())
}

fn cannot_connect(path: &Path, error: &std::io::Error, remedy: &str) -> String {
    let path = path.display();
    if error.kind() == ErrorKind::PermissionDenied {
        return format!("no permission for {path}: ask to be made a member of the group ocps");
    }
    if error.kind() == ErrorKind::ConnectionRefused {
        return format!("no daemon listens at {path} any more (connection refused): start one with {remedy}");
    }
    format!("cannot connect to {path}: {error}")
}

/// Reads lines until the connection ends or nobody wants them.
fn read_lines(stream: UnixStream, sender: &Sender<Incoming>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let end = match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.last() == Some(&b'\n') => None,
            Ok(_) if line.len() as u64 >= LINE_MAX => {
                Some(format!("the daemon sent a line of more than {LINE_MAX} bytes"))
            }
            Ok(_) => return,
            Err(error) => Some(format!("the connection to the daemon broke: {error}")),
        };
        let incoming = match end {
            Some(reason) => Incoming::Broken(reason),
            None => {
                let raw = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                Incoming::Line(Line { message: Message::parse(&raw), raw })
            }
        };
        let last = matches!(incoming, Incoming::Broken(_));
        if sender.send(incoming).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_skipped() {
        let ack = r#"{"ack":{"seq":1,"ack":301,"name":"CMD_INPROGRESS","error":0,"result":"{\"job_id\":\"j\"}","timeout":600.0,"new":1}}"#;
        let Message::Ack(ack) = Message::parse(ack) else { panic!() };
        assert_eq!(
            (ack.seq, ack.standing(), ack.timeout),
            (1, Standing::InProgress, Duration::from_secs(600))
        );
        assert_eq!(ack.job_id().as_deref(), Some("j"));

        let event = r#"{"event":{"topic":"summaryState","seq":3,"sent":1.5,"sent_utc":"now","data":{"summaryState":2}}}"#;
        let Message::Event(event) = Message::parse(event) else { panic!() };
        let Event { topic, sent_utc, data } = event;
        assert_eq!((topic.as_str(), sent_utc.as_deref(), data.len()), ("summaryState", Some("now"), 1));

        assert_eq!(Message::parse(r#"{"status":{}}"#), Message::Status(json!({})));
        assert_eq!(Message::parse(r#"{"jobs":[]}"#), Message::Jobs(json!([])));
        assert_eq!(Message::parse(r#"{"error":"no"}"#), Message::Error("no".into()));
        for other in ["", "x", "[]", "1", "{}", r#"{"ack":{}}"#, r#"{"event":{"seq":1}}"#, r#"{"error":1}"#] {
            assert_eq!(Message::parse(other), Message::Other, "{other}");
        }
    }

    #[test]
    fn odd_numbers_in_an_ack_do_no_harm() {
        for (timeout, expected) in [
            (json!(-5), Duration::ZERO),
            (json!("5"), Duration::ZERO),
            (json!(1e300), Duration::from_secs(86_400)),
            (Value::Null, Duration::ZERO),
        ] {
            let ack = Ack::of_value(&json!({"seq": 1, "ack": 301, "timeout": timeout})).unwrap();
            assert_eq!((ack.timeout, ack.name.as_str()), (expected, "ack 301"));
        }
        for (code, standing) in [
            (300, Standing::InProgress),
            (301, Standing::InProgress),
            (302, Standing::InProgress),
            (303, Standing::Complete),
            (-302, Standing::Refused),
            (-303, Standing::Refused),
            (7, Standing::Refused),
        ] {
            let ack = Ack::of_value(&json!({"seq": 1, "ack": code})).unwrap();
            assert_eq!(ack.standing(), standing, "{code}");
        }
    }
}
