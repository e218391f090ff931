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
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, poll};

use super::line::{self, Line, Query};
use super::private_dir;
use super::socket_path::{Candidates, Place};
use crate::clock;
use crate::csc::command::{Command, Sender as CommandSender, Via};
use crate::csc::event::{Ack, Event};
use crate::csc::id::{ClientId, SeqNum};
use crate::sal;

/// Time between lines about clients that cannot be served.
const UNSERVED_INTERVAL: Duration = Duration::from_secs(60);
/// Most clients at once. For one more, the one that has been idle for longest goes.
pub const CLIENTS_MAX: usize = 64;
/// Places besides for root and the daemon's own user, where each of the others waits for its commands to end.
const OPERATORS_MAX: usize = 8;
/// Connections that are taken at once, some of which are only closed again.
const CONNECTIONS_MAX: usize = CLIENTS_MAX + 2 * OPERATORS_MAX;
/// Longest line that a client may send, in bytes; Kafka's default limit of a message is the same.
const LINE_MAX: usize = 1 << 20;
/// Most lines that wait to be written to one client.
const QUEUE_LINES: usize = 4096;
/// Most bytes that wait to be written to one client: a hundred of the largest results. Clients that want events share
/// the memory of these.
const QUEUE_BYTES: usize = 64 << 20;
/// Most queries of one client that are not answered yet.
const QUERIES_MAX: usize = 2;
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
    Query(ClientId, Query, Asked),
    /// It has ended its requests; it may still read.
    Silent(ClientId),
    /// It has gone.
    Gone(ClientId),
}

/// A query that is not answered yet; when this is dropped the client may ask for more.
#[derive(Debug)]
pub struct Asked(Receiver<()>);

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

/// The way to one client.
#[derive(Debug)]
pub struct Outbox {
    queue: Queue,
    stream: UnixStream,
    /// It is root's, or of our own user.
    is_operator: bool,
    subscribed: bool,
    /// Commands whose final ack is still to come.
    owed: usize,
    /// It has ended its requests, and reads on.
    silent: bool,
    /// When it last did or got something but events: the later the larger.
    active: u64,
}

/// What waits to be written to one client.
#[derive(Clone, Debug)]
struct Queue {
    items: Sender<Item>,
    /// Bytes of the lines in `items`: what is posted is added here, what is written is taken off.
    bytes: Arc<AtomicUsize>,
}

/// What is written to a client.
#[derive(Debug)]
enum Item {
    Line(Arc<str>),
    Document(Document, Asked),
}

/// A document that is still to be made, which takes its time: by the thread that writes it.
pub struct Document(Box<dyn FnOnce() -> String + Send>);

impl Document {
    /// Of what makes it.
    #[must_use]
    pub fn new(make: impl FnOnce() -> String + Send + 'static) -> Self {
        Self(Box::new(make))
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Document")
    }
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
    fn new() -> (Self, Receiver<Item>) {
        let (items, receiver) = bounded(QUEUE_LINES);
        (Self { items, bytes: Arc::new(AtomicUsize::new(0)) }, receiver)
    }

    /// Queues a line; never waits.
    fn post(&self, line: Arc<str>) -> Result<(), Refusal> {
        let len = line.len();
        if self.bytes.fetch_add(len, Ordering::Relaxed).saturating_add(len) > QUEUE_BYTES {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(Refusal::Full);
        }
        self.send(Item::Line(line)).inspect_err(|_| {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
        })
    }

    fn send(&self, item: Item) -> Result<(), Refusal> {
        self.items.try_send(item).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Full,
            TrySendError::Disconnected(_) => Refusal::Closed,
        })
    }
}

/// The clients, as the main loop sees them.
#[derive(Debug)]
pub struct Hub {
    /// Where we made the socket, and its device and inode; none where it cannot be had.
    socket: Option<(PathBuf, (u64, u64))>,
    clients: HashMap<ClientId, Outbox>,
    /// The last line and number of each topic.
    latest: BTreeMap<&'static str, (i32, Arc<str>)>,
    /// Threads that still write.
    writers: Arc<AtomicUsize>,
    /// Counts what clients do, for [`Outbox::active`].
    activity: u64,
}

/// Why there is no socket; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSocket {
    /// Another daemon has it, what is there is not ours to remove, or it cannot be made where it was asked for.
    Refused(String),
    /// It can be made in none of the usual places.
    Nowhere(String),
}

/// Binds the socket in the first place that can be had and starts to take clients; what they do comes through
/// `inputs`.
///
/// # Errors
/// See [`NoSocket`].
pub fn listen(candidates: &Candidates, inputs: Sender<ClientInput>) -> Result<Hub, NoSocket> {
    let (path, listener) = match candidates {
        Candidates::Named(path) => match bind(path) {
            Ok(listener) => (path.as_path(), listener),
            Err(NoBind::Taken(reason) | NoBind::Impossible(reason)) => return Err(NoSocket::Refused(reason)),
        },
        Candidates::Usual(places) => bind_first(places)?,
    };
    let at = |error: io::Error| NoSocket::Refused(cannot_make(path, &error));
    let made = identity(path).map_err(at)?;
    let writers = Arc::new(AtomicUsize::new(0));
    let acceptor = Acceptor { inputs, readers: Arc::new(AtomicUsize::new(0)), writers: writers.clone() };
    thread::Builder::new().name("socket".to_owned()).spawn(move || acceptor.run(&listener)).map_err(at)?;
    Ok(Hub { socket: Some((path.to_owned(), made)), writers, ..Hub::without_socket() })
}

/// Why the socket cannot be bound at a path.
enum NoBind {
    /// By another daemon, or by what is no socket.
    Taken(String),
    Impossible(String),
}

fn cannot_make(path: &Path, error: &io::Error) -> String {
    format!("cannot make the socket {}: {error}", path.display())
}

fn bind_first(places: &[Place]) -> Result<(&Path, UnixListener), NoSocket> {
    let mut tried = Vec::new();
    for place in places {
        let path = place.path();
        let ours = match place {
            Place::Runtime(_) => Ok(()),
            Place::Temporary(_) => private_dir::make(path.parent().unwrap_or(path)),
        };
        let bound = match ours {
            Ok(()) => bind(path),
            Err(error) => Err(NoBind::Impossible(cannot_make(path, &error))),
        };
        match bound {
            Ok(listener) => return Ok((path, listener)),
            Err(NoBind::Taken(reason)) => return Err(NoSocket::Refused(reason)),
            Err(NoBind::Impossible(reason)) => tried.push(reason),
        }
    }
    Err(NoSocket::Nowhere(format!("{}; choose another path with --socket", tried.join("; "))))
}

fn bind(path: &Path) -> Result<UnixListener, NoBind> {
    let at = |error: io::Error| NoBind::Impossible(cannot_make(path, &error));
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(at)?;
    }
    check_path(path).map_err(NoBind::Impossible)?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(at)?;
    Ok(listener)
}

/// Whether a path can be that of a socket.
///
/// # Errors
/// One line: it is longer than the system takes.
pub fn check_path(path: &Path) -> Result<(), String> {
    SocketAddr::from_pathname(path).map(drop).map_err(|_| {
        let path = path.display();
        format!("cannot make the socket {path}: longer than 107 bytes; choose a shorter path with --socket")
    })
}

/// Device and inode of what is at this path.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Removes what a killed daemon left; refuses what is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), NoBind> {
    let shown = path.display();
    let cannot_look = |error: io::Error| NoBind::Impossible(format!("cannot look at {shown}: {error}"));
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_look(error)),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err(NoBind::Taken(format!(
            "{shown} exists and is not a socket: remove it, or choose another path with --socket"
        )));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(NoBind::Taken(format!(
            "{shown} is in use by another instance: stop that one, or choose another path with --socket"
        ))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| NoBind::Impossible(format!("cannot remove the stale socket {shown}: {error}"))),
        Err(error) => Err(cannot_look(error)),
    }
}

/// What a client reads for which there is no place.
fn too_many() -> String {
    format!("{CLIENTS_MAX} clients are connected, which is the limit")
}

impl Hub {
    /// A hub that nobody reaches.
    #[must_use]
    pub fn without_socket() -> Self {
        Self {
            socket: None,
            clients: HashMap::new(),
            latest: BTreeMap::new(),
            writers: Arc::new(AtomicUsize::new(0)),
            activity: 0,
        }
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Where the socket is, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(|(path, _)| path.as_path())
    }

    /// A client is there; if there are too many, one goes.
    pub fn connected(&mut self, client: ClientId, outbox: Outbox) {
        let places = CLIENTS_MAX + if outbox.is_operator { OPERATORS_MAX } else { 0 };
        self.clients.insert(client, outbox);
        self.touch(client);
        if self.clients.len() <= CLIENTS_MAX {
            return;
        }
        // Those that want events are idle too, but somebody may look at them.
        let idle = self.clients.iter().filter(|(other, outbox)| **other != client && outbox.owed == 0);
        match idle.min_by_key(|(_, outbox)| (outbox.subscribed, outbox.active)).map(|(other, _)| *other) {
            Some(other) => {
                self.close_client(other, "closed for another client: this one was idle for longest")
            }
            None if self.clients.len() <= places => {}
            None => self.close_client(client, &too_many()),
        }
    }

    /// Notes that a client does something.
    fn touch(&mut self, client: ClientId) {
        self.activity += 1;
        if let Some(outbox) = self.clients.get_mut(&client) {
            outbox.active = self.activity;
        }
    }

    /// Says why, and lets a client go when it has got what is queued.
    fn close_client(&mut self, client: ClientId, reason: &str) {
        log::info!("client {}: {reason}", client.0);
        self.post(client, line::error(reason).into());
        if let Some(outbox) = self.clients.remove(&client) {
            let _ = outbox.stream.shutdown(Shutdown::Read);
        }
    }

    /// A client has gone, or is to go: what is queued is still written, if it can be.
    pub fn gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// A client wants all events: first the latest of each.
    pub fn subscribe(&mut self, client: ClientId) {
        self.touch(client);
        let Some(outbox) = self.clients.get_mut(&client) else { return };
        outbox.subscribed = true;
        let latest: Vec<Arc<str>> = self.latest.values().map(|(_, line)| line.clone()).collect();
        for line in latest {
            self.post(client, line);
        }
    }

    /// A client sent a command: it will get a final ack.
    pub fn owe(&mut self, client: ClientId) {
        self.touch(client);
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
        self.touch(client);
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
    pub fn reply(&mut self, client: ClientId, document: Document, asked: Asked) {
        self.touch(client);
        if let Some(outbox) = self.clients.get(&client) {
            let sent = outbox.queue.send(Item::Document(document, asked));
            self.after_post(client, sent);
        }
    }

    /// Tells an event to all who want events.
    pub fn publish(&mut self, event: &Event) {
        let topic = sal::event::topic(event);
        let seq = self.latest.get(topic).map_or(1, |(seq, _)| seq.checked_add(1).unwrap_or(1));
        let line: Arc<str> = line::event(event, seq, clock::now()).into();
        self.latest.insert(topic, (seq, line.clone()));
        let subscribed: Vec<ClientId> =
            self.clients.iter().filter(|(_, outbox)| outbox.subscribed).map(|(client, _)| *client).collect();
        for client in subscribed {
            self.post(client, line.clone());
        }
    }

    fn post(&mut self, client: ClientId, line: Arc<str>) {
        if let Some(outbox) = self.clients.get(&client) {
            let posted = outbox.queue.post(line);
            self.after_post(client, posted);
        }
    }

    fn after_post(&mut self, client: ClientId, posted: Result<(), Refusal>) {
        let (Some(outbox), Err(refusal)) = (self.clients.get(&client), posted) else { return };
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
        if let Some((path, made)) = self.socket
            && identity(&path).is_ok_and(|identity| identity == made)
        {
            let _ = fs::remove_file(path);
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
        if self.readers.load(Ordering::Acquire) > CONNECTIONS_MAX {
            return stream.write_all(format!("{}\n", line::error(&too_many())).as_bytes());
        }
        let peer = getsockopt(&stream, PeerCredentials)?;
        let (queue, items) = Queue::new();
        let outbox = Outbox {
            queue: queue.clone(),
            stream: stream.try_clone()?,
            is_operator: peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw(),
            subscribed: false,
            owed: 0,
            silent: false,
            active: 0,
        };
        let reader = Reader {
            client,
            identity: format!("uid-{}@localhost", peer.uid()),
            pid: peer.pid(),
            queue,
            asks: bounded(QUERIES_MAX),
            inputs: self.inputs.clone(),
            commands: 0,
        };
        let writing = Counted::new(&self.writers);
        let writer = Writer { client, stream: stream.try_clone()?, items, bytes: reader.queue.bytes.clone() };
        thread::Builder::new().name(format!("write-{}", client.0)).stack_size(STACK).spawn(move || {
            writer.run();
            drop(writing);
        })?;
        thread::Builder::new().name(format!("read-{}", client.0)).stack_size(STACK).spawn(move || {
            reader.run(&stream, outbox);
            drop(reading);
        })?;
        Ok(())
    }
}

/// The thread that writes to one client.
struct Writer {
    client: ClientId,
    stream: UnixStream,
    items: Receiver<Item>,
    bytes: Arc<AtomicUsize>,
}

impl Writer {
    /// Writes until there is no more to come or the client takes nothing.
    fn run(mut self) {
        for item in self.items.clone() {
            let done = match item {
                Item::Line(line) => {
                    let done = self.write(&line);
                    self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    done
                }
                Item::Document(Document(make), _asked) => self.write(&make()),
            };
            if let Err(error) = done {
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                    log::warn!("client {} does not read what it is sent: dropped", self.client.0);
                }
                break;
            }
        }
        // The reader sees it, and tells the main loop.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes()).and_then(|()| self.stream.write_all(b"\n"))
    }
}

/// Reads what one client says.
struct Reader {
    client: ClientId,
    identity: String,
    /// 0 for a process of another PID namespace.
    pid: i32,
    queue: Queue,
    /// Holds one for each query that is not answered.
    asks: (Sender<()>, Receiver<()>),
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
            Line::Query(query) => {
                // A client that asks faster than it reads waits here, and not in the memory of the daemon.
                let _ = self.asks.0.send(());
                ClientInput::Query(self.client, query, Asked(self.asks.1.clone()))
            }
            Line::Command { seq_num, order } => {
                self.commands = self.commands.checked_add(1).unwrap_or(1);
                let sender = CommandSender {
                    via: Via::Socket(self.client),
                    identity: self.identity.clone(),
                    origin: self.pid,
                    seq_num: seq_num.unwrap_or(SeqNum(self.commands)),
                    sent: clock::now(),
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
