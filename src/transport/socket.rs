//! The local socket: a Unix stream socket for operators, scripts and `make sim`.
//!
//! Each client has two threads, one that reads and one that writes, so that neither a slow nor a broken
//! one ever holds up the main loop or another client. The main loop owns the [`Hub`] and only puts
//! lines into bounded queues; a client whose queue is full is dropped, never waited for.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;

use super::line::{self, Line, Query};
use crate::csc::command::{Command, Sender as CommandSender, Via};
use crate::csc::event::{Ack, Event};
use crate::csc::id::{ClientId, SeqNum};
use crate::sal;

/// Time between lines about clients that cannot be served.
const UNSERVED_INTERVAL: Duration = Duration::from_secs(60);
/// Most clients at once.
pub const CLIENTS_MAX: usize = 64;
/// Longest line that a client may send, in bytes; Kafka's default limit of a message is the same.
const LINE_MAX: usize = 1 << 20;
/// Most lines that wait to be written to one client.
const QUEUE_LINES: usize = 4096;
/// Most bytes that wait to be written to one client: a few of the largest results.
const QUEUE_BYTES: usize = 16 << 20;
/// A client that takes nothing for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last lines may take to be written when the daemon ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Stack of a client's threads, in bytes: nothing in them recurses.
const STACK: usize = 256 << 10;
/// Room for a line that is kept from one line to the next, in bytes: few are longer.
const LINE_KEPT: usize = 16 << 10;

/// What the clients do.
#[derive(Debug)]
pub enum ClientInput {
    /// One is there.
    Connected(ClientId, Outbox),
    /// It sent a command.
    Command(Command),
    /// It wants all events.
    Subscribe(ClientId),
    /// It wants a document.
    Query(ClientId, Query),
    /// It has ended its requests; it may still read.
    Silent(ClientId),
    /// It has gone.
    Gone(ClientId),
}

/// The way to one client.
#[derive(Debug)]
pub struct Outbox {
    queue: Queue,
    stream: UnixStream,
    subscribed: bool,
    /// Commands whose final ack is still to come.
    owed: usize,
    /// It has ended its requests, and reads on.
    silent: bool,
}

/// Lines that wait to be written to one client.
#[derive(Clone, Debug)]
struct Queue {
    lines: Sender<Arc<str>>,
    /// Bytes in `lines`: what is posted is added here, what is written is taken off.
    bytes: Arc<AtomicUsize>,
}

/// Why a line was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Too much waits already.
    Full,
    /// The client takes no more.
    Closed,
}

impl Queue {
    fn new() -> (Self, Receiver<Arc<str>>) {
        let (lines, receiver) = bounded(QUEUE_LINES);
        (Self { lines, bytes: Arc::new(AtomicUsize::new(0)) }, receiver)
    }

    /// Queues a line; never waits.
    fn post(&self, line: Arc<str>) -> Result<(), Refusal> {
        let len = line.len();
        if self.bytes.fetch_add(len, Ordering::Relaxed).saturating_add(len) > QUEUE_BYTES {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(Refusal::Full);
        }
        self.lines.try_send(line).map_err(|error| {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => Refusal::Full,
                TrySendError::Disconnected(_) => Refusal::Closed,
            }
        })
    }
}

/// The clients, as the main loop sees them.
#[derive(Debug)]
pub struct Hub {
    path: PathBuf,
    /// Device and inode of the socket that we made at `path`.
    made: (u64, u64),
    clients: HashMap<ClientId, Outbox>,
    /// The last line and number of each topic.
    latest: BTreeMap<&'static str, (i32, Arc<str>)>,
    /// Threads that still write.
    writers: Arc<AtomicUsize>,
}

/// Binds the socket and starts to take clients; what they do comes through `inputs`.
///
/// # Errors
/// One line: the path is in use by another daemon, is no socket, or cannot be made.
pub fn listen(path: &Path, inputs: Sender<ClientInput>) -> Result<Hub, String> {
    let at = |error: io::Error| format!("cannot make the socket {}: {error}", path.display());
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(at)?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|error| {
        // The standard library's word for a path that the system cannot take.
        if error.kind() != io::ErrorKind::InvalidInput {
            return at(error);
        }
        let path = path.display();
        format!("cannot make the socket {path}: longer than 107 bytes; choose a shorter path with --socket")
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(at)?;
    let made = identity(path).map_err(at)?;
    let writers = Arc::new(AtomicUsize::new(0));
    let acceptor = Acceptor { inputs, readers: Arc::new(AtomicUsize::new(0)), writers: writers.clone() };
    thread::Builder::new().name("socket".to_owned()).spawn(move || acceptor.run(&listener)).map_err(at)?;
    Ok(Hub { path: path.to_owned(), made, clients: HashMap::new(), latest: BTreeMap::new(), writers })
}

/// Device and inode of what is at this path.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Removes what a killed daemon left; refuses what is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot look at {shown}: {error}")),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err(format!(
            "{shown} exists and is not a socket: remove it, or choose another path with --socket"
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(format!(
            "{shown} is in use by another instance: stop that one, or choose another path with --socket"
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("cannot remove the stale socket {shown}: {error}"))
        }
        Err(error) => Err(format!("cannot look at {shown}: {error}")),
    }
}

impl Hub {
    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A client is there.
    pub fn connected(&mut self, client: ClientId, outbox: Outbox) {
        self.clients.insert(client, outbox);
    }

    /// A client has gone, or is to go: what is queued is still written, if it can be.
    pub fn gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// A client wants all events: first the latest of each.
    pub fn subscribe(&mut self, client: ClientId) {
        let Some(outbox) = self.clients.get_mut(&client) else { return };
        outbox.subscribed = true;
        let latest: Vec<Arc<str>> = self.latest.values().map(|(_, line)| line.clone()).collect();
        for line in latest {
            self.post(client, line);
        }
    }

    /// A client sent a command: it will get a final ack.
    pub fn owe(&mut self, client: ClientId) {
        if let Some(outbox) = self.clients.get_mut(&client) {
            outbox.owed += 1;
        }
    }

    /// A client will send nothing any more: it goes when it has got all that is owed to it.
    pub fn silent(&mut self, client: ClientId) {
        if let Some(outbox) = self.clients.get_mut(&client) {
            outbox.silent = true;
        }
        self.part(client);
    }

    /// Answers a command.
    pub fn ack(&mut self, client: ClientId, seq_num: SeqNum, ack: &Ack) {
        self.post(client, line::ack(seq_num, ack).into());
        if ack.is_final()
            && let Some(outbox) = self.clients.get_mut(&client)
        {
            outbox.owed = outbox.owed.saturating_sub(1);
            self.part(client);
        }
    }

    /// Lets a client go that asks for nothing and waits for nothing.
    fn part(&mut self, client: ClientId) {
        if self.clients.get(&client).is_some_and(|c| c.silent && c.owed == 0 && !c.subscribed) {
            self.gone(client);
        }
    }

    /// Answers a query.
    pub fn reply(&mut self, client: ClientId, document: String) {
        self.post(client, document.into());
    }

    /// Tells an event to all who want events.
    pub fn publish(&mut self, event: &Event) {
        let topic = sal::event::topic(event);
        let seq = self.latest.get(topic).map_or(1, |(seq, _)| seq.checked_add(1).unwrap_or(1));
        let line: Arc<str> = line::event(event, seq, sal::time::now()).into();
        self.latest.insert(topic, (seq, line.clone()));
        let subscribed: Vec<ClientId> =
            self.clients.iter().filter(|(_, outbox)| outbox.subscribed).map(|(client, _)| *client).collect();
        for client in subscribed {
            self.post(client, line.clone());
        }
    }

    fn post(&mut self, client: ClientId, line: Arc<str>) {
        let Some(outbox) = self.clients.get(&client) else { return };
        let Err(refusal) = outbox.queue.post(line) else { return };
        // One that has closed ends like any other, and its reader will say so.
        if refusal == Refusal::Full {
            log::warn!("client {} does not read what it is sent: dropped", client.0);
            let _ = outbox.stream.shutdown(Shutdown::Both);
        }
        self.gone(client);
    }

    /// Writes what is queued, within two seconds, and removes the socket.
    pub fn close(mut self) {
        // Without a sender each writer ends after its last line; the readers hold one until their input ends.
        for (_, outbox) in self.clients.drain() {
            let _ = outbox.stream.shutdown(Shutdown::Read);
        }
        let end = Instant::now() + FLUSH_TIMEOUT;
        while self.writers.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        // Another daemon may have its socket there by now, if somebody removed ours.
        if identity(&self.path).is_ok_and(|identity| identity == self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Clients that could not be served, say because there are no more descriptors or threads: one line a minute.
#[derive(Default)]
struct Unserved {
    told: Option<Instant>,
    since: u64,
}

impl Unserved {
    fn note(&mut self, what: &str, error: &io::Error) {
        self.since += 1;
        if self.told.is_some_and(|told| told.elapsed() < UNSERVED_INTERVAL) {
            return;
        }
        let more = if self.since > 1 { format!(" ({} times by now)", self.since) } else { String::new() };
        log::warn!("{what}: {error}{more}");
        (self.told, self.since) = (Some(Instant::now()), 0);
    }
}

/// Takes clients.
struct Acceptor {
    inputs: Sender<ClientInput>,
    readers: Arc<AtomicUsize>,
    writers: Arc<AtomicUsize>,
}

/// Counts itself for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Acceptor {
    fn run(self, listener: &UnixListener) {
        let mut last = 0;
        let mut unserved = Unserved::default();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    last += 1;
                    if let Err(error) = self.welcome(ClientId(last), stream) {
                        unserved.note("cannot serve a client", &error);
                    }
                }
                Err(error) => {
                    // Out of file descriptors, say: give others time to go.
                    unserved.note("cannot take a client", &error);
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn welcome(&self, client: ClientId, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reading = Counted::new(&self.readers);
        if self.readers.load(Ordering::Acquire) > CLIENTS_MAX {
            let line = line::error(&format!("{CLIENTS_MAX} clients are connected, which is the limit"));
            return stream.write_all(format!("{line}\n").as_bytes());
        }
        let peer = socket_peercred(&stream)?;
        let (queue, lines) = Queue::new();
        let bytes = queue.bytes.clone();
        let outbox = Outbox {
            queue: queue.clone(),
            stream: stream.try_clone()?,
            subscribed: false,
            owed: 0,
            silent: false,
        };
        let reader = Reader {
            client,
            identity: format!("uid-{}@localhost", peer.uid.as_raw()),
            pid: peer.pid.as_raw_pid(),
            queue,
            inputs: self.inputs.clone(),
            commands: 0,
        };
        let writing = Counted::new(&self.writers);
        let write_to = stream.try_clone()?;
        thread::Builder::new().name(format!("write-{}", client.0)).stack_size(STACK).spawn(move || {
            write_lines(client, write_to, &lines, &bytes);
            drop(writing);
        })?;
        thread::Builder::new().name(format!("read-{}", client.0)).stack_size(STACK).spawn(move || {
            reader.run(&stream, outbox);
            drop(reading);
        })?;
        Ok(())
    }
}

/// Writes lines until there are no more to come or the client takes none.
fn write_lines(client: ClientId, mut stream: UnixStream, lines: &Receiver<Arc<str>>, bytes: &AtomicUsize) {
    for line in lines {
        let done = stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"));
        bytes.fetch_sub(line.len(), Ordering::Relaxed);
        if let Err(error) = done {
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                log::warn!("client {} does not read what it is sent: dropped", client.0);
            }
            break;
        }
    }
    // The reader sees it, and tells the main loop.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads what one client says.
struct Reader {
    client: ClientId,
    identity: String,
    pid: i32,
    queue: Queue,
    inputs: Sender<ClientInput>,
    /// Commands so far: the number of one that brings none.
    commands: i32,
}

impl Reader {
    fn run(mut self, stream: &UnixStream, outbox: Outbox) {
        let client = self.client;
        let inputs = self.inputs.clone();
        if inputs.send(ClientInput::Connected(client, outbox)).is_err() {
            return;
        }
        let mut input = BufReader::new(stream);
        let mut line = Vec::new();
        while self.read_line(&mut input, &mut line) {}
        // Only the main loop may keep a sender now, so that the writer can end.
        drop(self);
        if inputs.send(ClientInput::Silent(client)).is_err() {
            return;
        }
        await_hang_up(stream);
        let _ = inputs.send(ClientInput::Gone(client));
    }

    /// Takes one line; false when there are no more.
    fn read_line(&mut self, input: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
        line.clear();
        line.shrink_to(LINE_KEPT);
        let limit = u64::try_from(LINE_MAX + 1).unwrap_or(u64::MAX);
        match input.take(limit).read_until(b'\n', line) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        if line.len() > LINE_MAX {
            let _ = self.say(&format!("the line is longer than {LINE_MAX} bytes: closed"));
            let _ = self.inputs.send(ClientInput::Gone(self.client));
            return false;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            return true;
        }
        match line::parse(text) {
            Ok(parsed) => {
                let input = self.input(parsed);
                self.inputs.send(input).is_ok()
            }
            Err(reason) => self.say(&reason),
        }
    }

    fn say(&self, reason: &str) -> bool {
        self.queue.post(line::error(reason).into()).is_ok()
    }

    fn input(&mut self, line: Line) -> ClientInput {
        match line {
            Line::Subscribe => ClientInput::Subscribe(self.client),
            Line::Query(query) => ClientInput::Query(self.client, query),
            Line::Command { seq_num, order } => {
                self.commands = self.commands.checked_add(1).unwrap_or(1);
                let sender = CommandSender {
                    via: Via::Socket(self.client),
                    identity: self.identity.clone(),
                    origin: self.pid,
                    seq_num: seq_num.unwrap_or(SeqNum(self.commands)),
                    sent: sal::time::now(),
                };
                ClientInput::Command(Command { sender, order })
            }
        }
    }
}

/// Waits until the client has closed both directions: one that only ended its requests still gets its acks.
fn await_hang_up(stream: &UnixStream) {
    loop {
        let mut fds = [PollFd::new(stream, PollFlags::empty())];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
