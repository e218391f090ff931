//! The connection to a daemon: requests out, lines in.
//!
//! A separate thread reads the lines, so that waiting for one can have a time limit. What a client does not understand in
//! them is skipped, since the daemon may be newer.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, bounded};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::exit::{Exit, left};
use super::version::NAME;
use super::{Failure, failed};
use crate::config::settings::Settings;
use crate::csc::command::CommandName;
use crate::csc::id::SalIndex;
use crate::display::text::{clean, value};
use crate::sal::ack::{AckCode, NOT_FINAL};
use crate::transport::socket_path::{self, Place};

/// Maximum length of a line that is read, in bytes: enough for a list of all jobs.
const LINE_MAX: u64 = 64 << 20;

/// Maximum number of lines that are read before they are handled.
const LINES_AHEAD: usize = 256;

/// Time limit of a query, and of sending to the daemon.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of an ack without `--timeout`: a `start` may read a large configuration with git.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How often deadlines, ^C and the reader of the output are checked while no line comes.
pub(super) const IDLE_TURN: Duration = Duration::from_millis(250);

/// Maximum time that an ack can ask a client to wait, in seconds: a day.
const ACK_TIMEOUT_MAX_S: f64 = 86_400.0;

/// The queries. The document that answers each has the same name.
pub(super) const STATUS: &str = "status";
pub(super) const METRICS: &str = "metrics";
pub(super) const JOBS: &str = "jobs";
/// One job with its history.
pub(super) const JOB: &str = "job";

/// Which daemon a client talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// `--socket`.
    pub(super) socket: Option<PathBuf>,
    /// `--index`.
    pub(super) index: Option<SalIndex>,
}

/// An ack.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Ack {
    seq: i64,
    #[serde(rename = "ack")]
    code: i32,
    /// The name of the code.
    #[serde(default)]
    pub(super) name: String,
    /// The job of an execute, how the command ended, or why it was refused.
    #[serde(default)]
    pub(super) result: String,
    /// How long the next ack may take, in seconds.
    #[serde(default)]
    timeout: f64,
}

/// The state of a command after an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// More acks follow.
    InProgress,
    /// The command was carried out.
    Complete,
    /// The command was refused, failed or was aborted.
    Refused,
}

/// The job in the result of an in-progress ack of execute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Job {
    pub(super) job_id: String,
    /// Its prerequisites that do not exist.
    #[serde(default)]
    pub(super) missing_prereqs: Vec<String>,
}

impl Ack {
    /// What the code means.
    pub(super) fn standing(&self) -> Standing {
        match self.code {
            code if code == AckCode::Complete.number() => Standing::Complete,
            code if NOT_FINAL.contains(&code) => Standing::InProgress,
            _ => Standing::Refused,
        }
    }

    /// The job in its result, if there is one.
    pub(super) fn job(&self) -> Option<Job> {
        serde_json::from_str(&self.result).ok()
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Event {
    pub(super) topic: String,
    pub(super) sent_utc: Option<String>,
    /// The fields.
    #[serde(default)]
    pub(super) data: Value,
}

/// A line of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Message {
    /// The line without its line break.
    #[serde(skip)]
    pub(super) raw: String,
    pub(super) ack: Option<Ack>,
    pub(super) event: Option<Event>,
    /// Why the daemon refused a request.
    pub(super) error: Option<String>,
    /// The document that answers a query, under its name.
    #[serde(flatten)]
    pub(super) documents: Map<String, Value>,
}

impl Message {
    fn parse(raw: String) -> Self {
        let message = serde_json::from_str(&raw).unwrap_or_default();
        Self { raw, ..message }
    }

    /// The message in a line.
    ///
    /// # Errors
    /// Why the connection ended.
    pub(super) fn of(line: Result<io::Result<Vec<u8>>, RecvError>) -> Result<Self, String> {
        match line {
            Ok(Ok(line)) => Ok(Self::parse(String::from_utf8_lossy(&line).into_owned())),
            Ok(Err(error)) => Err(format!("the connection to the daemon broke: {error}")),
            Err(RecvError) => Err("the daemon closed the connection".to_owned()),
        }
    }
}

/// A command that was sent and has no final ack yet.
#[derive(Debug)]
pub(super) struct Sent {
    seq: i32,
    pub(super) command: CommandName,
    /// The id of its job, once it is known.
    pub(super) job_id: Option<String>,
    /// Time limit of the next ack, unless the last ack asks for more; none: no limit.
    patience: Option<Duration>,
    /// When the next ack is late.
    pub(super) deadline: Option<Instant>,
}

impl Sent {
    /// The ack in a message, if it belongs to this command.
    pub(super) fn ack_in<'a>(&self, message: &'a Message) -> Option<&'a Ack> {
        message.ack.as_ref().filter(|ack| ack.seq == i64::from(self.seq))
    }

    /// Sets the deadline of the next ack, and notes the job id in this one.
    pub(super) fn wait_on(&mut self, ack: &Ack) {
        let wanted = Duration::try_from_secs_f64(ack.timeout.min(ACK_TIMEOUT_MAX_S)).unwrap_or_default();
        self.deadline = self.patience.map(|patience| Instant::now() + patience.max(wanted));
        self.job_id = ack.job().map(|job| job.job_id).or(self.job_id.take());
    }

    /// Whether its next ack is late.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The name of the command and its sequence number.
    pub(super) fn numbered(&self) -> String {
        format!("{}[{}]", self.command.as_str(), self.seq)
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command.as_str())?;
        self.job_id.as_ref().map_or(Ok(()), |job_id| write!(f, " (job_id {})", clean(job_id)))
    }
}

/// A connection to a daemon.
pub(super) struct Client {
    stream: UnixStream,
    /// The lines of the daemon.
    pub(super) lines: Lines,
    /// The sequence number of the last command.
    seq: i32,
    /// Set by ^C after [`Client::catch_interrupt`].
    interrupted: Arc<AtomicBool>,
}

impl Client {
    /// Connects to the target.
    ///
    /// # Errors
    /// [`Failure::NoDaemon`] with the places that were tried, if there is no daemon or none with the wanted index.
    pub(super) fn connect(target: &Target) -> Result<Self, Failure> {
        // A toml that cannot be read or is broken is ignored: --socket may be enough.
        let setting = Settings::load(None).ok().and_then(|settings| settings.socket);
        let (socket, index, env) =
            (target.socket.as_deref(), target.index, &|name: &str| std::env::var_os(name));
        let uid = rustix::process::geteuid().as_raw();
        let places = socket_path::of_client(socket, setting.as_deref(), index, env, uid);
        let remedy = if let [Place::Named(path)] = places.as_slice() {
            format!("ocps run --socket {}", path.display())
        } else {
            let instance = index.map(|index| format!("@{}", index.number())).unwrap_or_default();
            format!("ocps run or systemctl start ocps{instance}, or say where it is with --socket PATH")
        };
        let mut tried = Vec::new();
        for place in &places {
            let path = place.path().display();
            let reason = match place.check().and_then(|()| UnixStream::connect(place.path())) {
                Ok(stream) => {
                    let mut client = Self::over(stream)?;
                    let Some(wanted) = index else { return Ok(client) };
                    let found = value(&client.query(STATUS)?, "index");
                    if found == Some(wanted.number().to_string()) {
                        return Ok(client);
                    }
                    format!("its index is {}", found.as_deref().unwrap_or("unknown"))
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(Failure::NoDaemon(format!(
                        "no permission for {path}: ask to be made a member of the group ocps"
                    )));
                }
                // A killed daemon may have left its socket: the next place is tried.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    "no such file".to_owned()
                }
                Err(error) => error.to_string(),
            };
            tried.push(format!("{path} ({reason})"));
        }
        let which = index.map(|index| format!(" with index {index}")).unwrap_or_default();
        Err(Failure::NoDaemon(format!("no daemon{which} at {}: start one with {remedy}", tried.join(", "))))
    }

    /// From now on the first ^C does not end the process, but what waits for the daemon.
    ///
    /// # Errors
    /// The system does not let the process listen for signals.
    pub(super) fn catch_interrupt(&mut self) -> Result<(), Failure> {
        self.interrupted = Exit::Interrupted.flag()?;
        Ok(())
    }

    /// Whether ^C was pressed since.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// A client with an open connection.
    fn over(stream: UnixStream) -> Result<Self, Failure> {
        let failed = |error| failed(format!("cannot set up the connection: {error}"));
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let reader = stream.try_clone().map_err(failed)?;
        let lines = read_lines("read", reader, LINE_MAX, LINES_AHEAD).map_err(failed)?;
        Ok(Self { stream, lines, seq: 0, interrupted: Arc::default() })
    }

    /// Sends a command. Without `patience` the time limit of each ack is [`PATIENCE`], but an execute has none: it may wait
    /// hours for other jobs.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn send(
        &mut self,
        command: CommandName,
        params: &Map<String, Value>,
        patience: Option<Duration>,
    ) -> Result<Sent, Failure> {
        self.seq += 1;
        self.write(&json!({"command": command.as_str(), "seq": self.seq, "params": params}))?;
        let patience = patience.or((command != CommandName::Execute).then_some(PATIENCE));
        let deadline = patience.map(|patience| Instant::now() + patience);
        let job_id = params.get("job_id").and_then(Value::as_str).map(str::to_owned);
        Ok(Sent { seq: self.seq, command, job_id, patience, deadline })
    }

    /// Waits for the final ack of a command. `take` gets each message and may end the wait.
    ///
    /// # Errors
    /// The command was refused, failed or was aborted; an ack is late; the connection is lost; ^C.
    pub(super) fn follow(
        &mut self,
        sent: &mut Sent,
        mut take: impl FnMut(&Sent, &Message) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        const UNCLEAR: &str = "it may still be carried out, see ocps status and ocps jobs";
        let job = if sent.command == CommandName::Execute { ": its job, if any, keeps running" } else { "" };
        while !self.is_interrupted() {
            let next = self.next(sent.deadline);
            let next = next.map_err(|lost| lost.with(&format!("before the final ack of {sent}{job}")))?;
            let Some(message) = next else {
                if sent.is_late(Instant::now()) {
                    return Err(failed(format!("no ack of {sent} in time: {UNCLEAR}")));
                }
                continue;
            };
            let ack = sent.ack_in(&message);
            if let Some(ack) = ack {
                sent.wait_on(ack);
            }
            if take(sent, &message)?.is_break() {
                return Ok(());
            }
            match ack.map(Ack::standing) {
                Some(Standing::Complete) => return Ok(()),
                Some(Standing::Refused) => return Err(Failure::Printed(Exit::Refused)),
                Some(Standing::InProgress) | None => {}
            }
        }
        let reason = format!("interrupted before the final ack of {sent}: {UNCLEAR}");
        Err(Failure::Interrupted(Exit::Interrupted, reason))
    }

    /// Subscribes to all events; the daemon first sends the latest of each.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn subscribe(&mut self) -> Result<(), Failure> {
        self.write(&json!({"subscribe": true}))
    }

    /// Sends a query without waiting for its answer.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn ask(&mut self, name: &str) -> Result<(), Failure> {
        self.write(&json!({"query": name}))
    }

    /// Sends a query and waits for the document that answers it.
    ///
    /// # Errors
    /// There is no answer within [`ANSWER_TIMEOUT`].
    pub(super) fn query(&mut self, name: &str) -> Result<Value, Failure> {
        self.ask(name)?;
        self.answer(name)
    }

    /// Sends the query for the job of a run without waiting for its answer.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) fn ask_job(&mut self, run_id: &str) -> Result<(), Failure> {
        self.write(&json!({"query": JOB, "run_id": run_id}))
    }

    /// The job of a run with its history; null if the daemon does not know it.
    ///
    /// # Errors
    /// There is no answer within [`ANSWER_TIMEOUT`], or the daemon is too old for this query.
    pub(super) fn job(&mut self, run_id: &str) -> Result<Value, Failure> {
        self.ask_job(run_id)?;
        self.answer(JOB)
    }

    fn answer(&mut self, name: &str) -> Result<Value, Failure> {
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            let message = self.next(Some(deadline))?;
            if let Some(document) = message.and_then(|mut message| message.documents.remove(name)) {
                return Ok(document);
            }
            if self.is_interrupted() {
                deadline = deadline.min(Instant::now() + IDLE_TURN * 4);
            }
        }
        if self.is_interrupted() {
            return Err(left(Exit::Interrupted));
        }
        Err(failed(format!("the daemon did not answer within {} s", ANSWER_TIMEOUT.as_secs())))
    }

    /// The next message, if one comes before the deadline and within [`IDLE_TURN`].
    ///
    /// # Errors
    /// [`Failure::Lost`], or the daemon refused a request.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Failure> {
        let idle = Instant::now() + IDLE_TURN;
        let line = match self.lines.recv_deadline(deadline.map_or(idle, |deadline| deadline.min(idle))) {
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            line => line.map_err(|_| RecvError),
        };
        let message = Message::of(line).map_err(Failure::Lost)?;
        message.error.as_deref().map_or(Ok(()), |reason| Err(failed(refused(reason))))?;
        Ok(Some(message))
    }

    /// Writes one line. It is no error if the daemon has closed the connection: its last lines are still to be read.
    fn write(&mut self, line: &Value) -> Result<(), Failure> {
        let Err(error) = self.stream.write_all(format!("{line}\n").as_bytes()) else { return Ok(()) };
        let kind = error.kind();
        if matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            return Ok(());
        }
        Err(failed(if matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            format!("the daemon has not read a request for {} s", ANSWER_TIMEOUT.as_secs())
        } else {
            format!("cannot write to the daemon: {error}")
        }))
    }
}

/// The error text for a request that the daemon refused.
pub(super) fn refused(reason: &str) -> String {
    let is_unknown = reason.starts_with("\"query\" must be ");
    if is_unknown { too_old() } else { format!("the daemon refused the request: {}", clean(reason)) }
}

/// The error text for a daemon that is too old for a command.
pub(super) fn too_old() -> String {
    format!("the daemon runs an older ocps, and this command needs one of {NAME}: restart the daemon")
}

/// A channel of lines without their line breaks, or the error of reading one. It is closed after the last line.
pub(super) type Lines = Receiver<io::Result<Vec<u8>>>;

/// Reads lines in a thread of this name, at most `ahead` in advance. The thread ends with the input.
pub(super) fn read_lines(
    thread: &str,
    input: impl Read + Send + 'static,
    max: u64,
    ahead: usize,
) -> io::Result<Lines> {
    let (sender, lines) = bounded(ahead);
    let mut reader = BufReader::new(input);
    let read = move || {
        while let Some(line) = read_line(&mut reader, max).transpose() {
            // The rest of a line that is too long is no line of its own.
            let goes_on = line.as_ref().err().is_none_or(|error| {
                error.kind() == ErrorKind::InvalidData && reader.skip_until(b'\n').is_ok()
            });
            if sender.send(line).is_err() || !goes_on {
                return;
            }
        }
    };
    thread::Builder::new().name(thread.into()).spawn(read)?;
    Ok(lines)
}

/// The next line without its line break; none at the end of the input.
///
/// # Errors
/// The line cannot be read, or is longer than `max` bytes; then the rest of it is still to be read.
fn read_line(reader: &mut impl BufRead, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if reader.take(max).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 >= max && !line.ends_with(b"\n") {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("line too long: more than {max} bytes")));
    }
    while line.pop_if(|end| matches!(end, b'\n' | b'\r')).is_some() {}
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Message {
        Message { raw: String::new(), ..Message::parse(line.to_owned()) }
    }

    #[test]
    fn lines_are_understood_or_skipped() {
        let ack = r#"{"ack":{"seq":1,"ack":301,"name":"CMD_INPROGRESS","error":0,"result":"{\"job_id\":\"j\"}","timeout":600.0,"new":1},"new":2}"#;
        let ack = parse(ack).ack.unwrap();
        assert_eq!((ack.seq, ack.standing(), ack.name.as_str()), (1, Standing::InProgress, "CMD_INPROGRESS"));
        assert_eq!(ack.job(), Some(Job { job_id: "j".into(), missing_prereqs: Vec::new() }));

        let event = r#"{"event":{"topic":"summaryState","seq":3,"sent":1.5,"sent_utc":"now","data":{"summaryState":2}}}"#;
        let Event { topic, sent_utc, data } = parse(event).event.unwrap();
        assert_eq!((topic.as_str(), sent_utc.as_deref()), ("summaryState", Some("now")));
        assert_eq!(data, json!({"summaryState": 2}));

        assert_eq!(parse(r#"{"status":{}}"#).documents.get(STATUS), Some(&json!({})));
        assert_eq!(parse(r#"{"jobs":[]}"#).documents.get(JOBS), Some(&json!([])));
        assert_eq!(parse(r#"{"error":"no"}"#).error.as_deref(), Some("no"));
        for other in ["", "x", "[]", "1", "{}", r#"{"ack":{}}"#, r#"{"event":{"seq":1}}"#, r#"{"error":1}"#] {
            assert_eq!(parse(other), Message::default(), "{other}");
        }
    }

    /// How long such a command is waited for, after an ack that asks for so many seconds more.
    fn wait(patience: Option<f64>, command: CommandName, timeout_s: Option<f64>) -> Option<Duration> {
        let (stream, _daemon) = UnixStream::pair().unwrap();
        let mut client = Client::over(stream).unwrap();
        let mut sent = client.send(command, &Map::new(), patience.map(Duration::from_secs_f64)).unwrap();
        if let Some(timeout) = timeout_s {
            sent.wait_on(&Ack { seq: 1, code: 301, name: String::new(), result: String::new(), timeout });
        }
        // Some time has passed since.
        let wait = sent.deadline?.saturating_duration_since(Instant::now());
        Some(Duration::from_secs(wait.as_secs() + 1))
    }

    #[test]
    fn the_time_limit_of_an_ack_depends_on_flag_and_command_and_an_ack_can_extend_it() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(wait(None, CommandName::Execute, None), None);
        assert_eq!(wait(None, CommandName::Execute, Some(10.0)), None);
        assert_eq!(wait(None, CommandName::Start, None), seconds(60));
        assert_eq!(wait(Some(20.0), CommandName::Execute, None), seconds(20));
        assert_eq!(wait(Some(20.0), CommandName::Execute, Some(100.0)), seconds(100));
        assert_eq!(wait(Some(100.0), CommandName::Enable, Some(20.0)), seconds(100));
        // Odd numbers do no harm.
        assert_eq!(wait(Some(20.0), CommandName::Enable, Some(-5.0)), seconds(20));
        assert_eq!(wait(Some(20.0), CommandName::Enable, Some(1e300)), seconds(86_400));
    }

    #[test]
    fn ack_codes_show_the_progress_of_a_command() {
        for (code, standing) in [
            (300, Standing::InProgress),
            (301, Standing::InProgress),
            (302, Standing::InProgress),
            (303, Standing::Complete),
            (-302, Standing::Refused),
            (-303, Standing::Refused),
            (7, Standing::Refused),
        ] {
            let ack = parse(&json!({"ack": {"seq": 1, "ack": code}}).to_string()).ack.unwrap();
            assert_eq!(ack.standing(), standing, "{code}");
        }
    }

    #[test]
    fn lines_are_read_one_by_one_and_long_ones_skipped() {
        let text = [b"a\r\n\xff\n".as_slice(), &[b'x'; 20], b"\nb"].concat();
        let lines = read_lines("lines", io::Cursor::new(text), 10, 9).unwrap();
        let lines: Vec<_> = lines.iter().map(|line| line.map_err(|error| error.to_string())).collect();
        let too_long = Err("line too long: more than 10 bytes".to_owned());
        assert_eq!(lines, [Ok(b"a".to_vec()), Ok(b"\xff".to_vec()), too_long, Ok(b"b".to_vec())]);
    }
}
