//! The clients of the local socket as the main loop sees them.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::net::{SendFlags, send};

use super::identity;
use crate::clock;
use crate::csc::command::Command;
use crate::csc::event::{Ack, Event};
use crate::csc::id::{ClientId, SeqNum};
use crate::sal;
use crate::sal::topic::EventName;
use crate::transport::line::{self, Query};

/// Most clients at once. For one more, the client that has been idle for longest is disconnected.
const CLIENTS_MAX: usize = 64;
/// Additional clients of root or of the daemon's own user, where all clients wait for their commands to end.
const OPERATORS_MAX: usize = 8;
/// Most connections at once. Clients above the two limits before only get a line that says why they are closed.
pub(super) const CONNECTIONS_MAX: usize = CLIENTS_MAX + 2 * OPERATORS_MAX;
/// Most lines that wait to be written to one client.
const QUEUE_LINES: usize = 4096;
/// Most bytes that wait to be written to one client: a hundred of the largest results. Lines of events are in memory only
/// once, however many clients wait for them.
const QUEUE_BYTES: usize = 64 << 20;
/// How long the last lines may take to be written when the daemon ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client did.
#[derive(Debug)]
pub enum ClientInput {
    /// The client has connected.
    Connected(ClientId, Outbox),
    /// The client sent a command.
    Command(Command),
    /// The client wants all events.
    Subscribe(ClientId),
    /// The client wants a document.
    Query(ClientId, Query, Asked),
    /// The client sent a line that is wrong for this reason.
    Invalid(ClientId, String),
    /// The client has ended its requests; it may still read.
    Silent(ClientId),
    /// The client has gone.
    Gone(ClientId),
}

/// Kept until a query is answered: when it is dropped, the next query of the client is taken.
pub type Asked = Sender<Infallible>;

/// Makes a document, which takes a while; called by the thread that writes it.
pub type Document = Box<dyn FnOnce() -> String + Send>;

/// Something to be written to a client.
pub(super) enum Item {
    /// A line with its line break, and how many of its bytes were written already.
    Line(Arc<str>, usize),
    Document(Document, Asked),
}

impl Item {
    fn line(line: String) -> Self {
        Self::Line((line + "\n").into(), 0)
    }

    /// How much it adds to [`Outbox::bytes`].
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Line(line, _) => line.len(),
            Self::Document(..) => 1,
        }
    }
}

/// A client as the main loop sees it.
#[derive(Debug)]
pub struct Outbox {
    client: ClientId,
    items: Sender<Item>,
    /// Bytes of the lines in `items`, and of the one that is being written.
    pub(super) bytes: Arc<AtomicUsize>,
    stream: UnixStream,
    /// The client runs as root or as the daemon's own user.
    is_operator: bool,
    subscribed: bool,
    /// How many commands have had no final ack.
    unanswered: usize,
    /// The client has ended its requests, and may still read.
    silent: bool,
    /// When the client last sent something or got an answer.
    active: Instant,
}

impl Outbox {
    /// Also gives the items that are to be written.
    pub(super) fn new(client: ClientId, stream: UnixStream, is_operator: bool) -> (Self, Receiver<Item>) {
        let (items, receiver) = bounded(QUEUE_LINES);
        let outbox = Self {
            client,
            items,
            bytes: Arc::default(),
            stream,
            is_operator,
            subscribed: false,
            unanswered: 0,
            silent: false,
            active: Instant::now(),
        };
        (outbox, receiver)
    }

    /// Sends an item without waiting: a line at once if nothing waits before it, else through the queue. False if the
    /// client does not read, or has gone.
    fn send(&self, mut item: Item) -> bool {
        if let Item::Line(line, from) = &mut item
            && self.bytes.load(Ordering::Acquire) == 0
        {
            // If this fails, the thread that writes finds out why.
            *from =
                send(&self.stream, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0);
            if *from == line.len() {
                return true;
            }
        }
        let size = item.size();
        let waiting = self.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        let sent =
            if waiting > QUEUE_BYTES { Err(TrySendError::Full(item)) } else { self.items.try_send(item) };
        // The thread that reads reports a client that has gone.
        if matches!(sent, Err(TrySendError::Full(_))) {
            log::warn!("client {} does not read what it is sent: disconnected", self.client.0);
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        sent.is_ok()
    }
}

/// The clients. The default has no socket.
#[derive(Debug, Default)]
pub struct Hub {
    /// The path of the socket, its device and its inode; none where it cannot be made.
    socket: Option<(PathBuf, (u64, u64))>,
    clients: HashMap<ClientId, Outbox>,
    /// The last event of each topic: its number, and its line with the line break.
    latest: BTreeMap<EventName, (i32, Arc<str>)>,
    /// Each thread that writes holds a clone.
    pub(super) writers: Arc<()>,
}

/// The error for one client too many.
pub(super) fn too_many() -> String {
    format!("{CLIENTS_MAX} clients are connected, which is the limit")
}

impl Hub {
    pub(super) fn new(path: &Path, made: (u64, u64)) -> Self {
        Self { socket: Some((path.to_owned(), made)), ..Self::default() }
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The path of the socket, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(|(path, _)| path.as_path())
    }

    /// A client has connected; if there are too many, one is disconnected.
    pub fn connected(&mut self, client: ClientId, outbox: Outbox) {
        let places = CLIENTS_MAX + if outbox.is_operator { OPERATORS_MAX } else { 0 };
        self.clients.insert(client, outbox);
        if self.clients.len() <= CLIENTS_MAX {
            return;
        }
        // Clients that want events count as idle too, but go last: somebody may watch them.
        let others = self.clients.values().filter(|other| other.client != client && other.unanswered == 0);
        let idle = others.min_by_key(|other| (other.subscribed, other.active)).map(|other| other.client);
        match idle {
            Some(idle) => {
                self.disconnect(idle, "closed for another client: this one was idle for longest");
            }
            None if self.clients.len() <= places => {}
            None => self.disconnect(client, &too_many()),
        }
    }

    /// Sends the reason; the connection is closed when all that is queued is written.
    fn disconnect(&mut self, client: ClientId, reason: &str) {
        log::info!("client {}: {reason}", client.0);
        self.send(client, Item::line(line::error(reason)));
        if let Some(outbox) = self.clients.remove(&client) {
            let _ = outbox.stream.shutdown(Shutdown::Read);
        }
    }

    /// A client sent a line that is wrong for this reason.
    pub fn refuse(&mut self, client: ClientId, reason: &str) {
        self.send(client, Item::line(line::error(reason)));
    }

    /// A client has gone, or is to be disconnected; what is queued for it is still written if possible.
    pub fn gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// The client, noted as active now.
    fn active(&mut self, client: ClientId) -> Option<&mut Outbox> {
        let outbox = self.clients.get_mut(&client)?;
        outbox.active = Instant::now();
        Some(outbox)
    }

    /// A client wants all events: sends the latest of each topic.
    pub fn subscribe(&mut self, client: ClientId) {
        let Some(outbox) = self.active(client) else { return };
        outbox.subscribed = true;
        let latest: Vec<Arc<str>> = self.latest.values().map(|(_, line)| line.clone()).collect();
        latest.into_iter().for_each(|line| self.send(client, Item::Line(line, 0)));
    }

    /// A client sent a command, to which a final ack will come.
    pub fn owe(&mut self, client: ClientId) {
        if let Some(outbox) = self.active(client) {
            outbox.unanswered += 1;
        }
    }

    /// A client has ended its requests: its connection is closed when all its commands are answered.
    pub fn silent(&mut self, client: ClientId) {
        if let Some(outbox) = self.clients.get_mut(&client) {
            outbox.silent = true;
        }
        self.close_if_done(client);
    }

    /// Answers a command.
    pub fn ack(&mut self, client: ClientId, seq_num: SeqNum, ack: &Ack) {
        let Some(outbox) = self.active(client) else { return };
        if ack.is_final() {
            outbox.unanswered = outbox.unanswered.saturating_sub(1);
        }
        self.send(client, Item::line(line::ack(seq_num, ack)));
        self.close_if_done(client);
    }

    fn close_if_done(&mut self, client: ClientId) {
        if self.clients.get(&client).is_some_and(|c| c.silent && c.unanswered == 0 && !c.subscribed) {
            self.gone(client);
        }
    }

    /// Answers a query.
    pub fn reply(&mut self, client: ClientId, document: Document, asked: Asked) {
        self.active(client);
        self.send(client, Item::Document(document, asked));
    }

    /// Sends an event to all clients that want events.
    pub fn publish(&mut self, event: &Event) {
        let (topic, fields) = sal::event::parts(event);
        let seq = self.latest.get(&topic).map_or(1, |(seq, _)| seq.checked_add(1).unwrap_or(1));
        let line: Arc<str> = (line::event(topic, &fields, seq, clock::now()) + "\n").into();
        self.latest.insert(topic, (seq, line.clone()));
        self.clients.retain(|_, outbox| !outbox.subscribed || outbox.send(Item::Line(line.clone(), 0)));
    }

    fn send(&mut self, client: ClientId, item: Item) {
        if self.clients.get(&client).is_some_and(|outbox| !outbox.send(item)) {
            self.gone(client);
        }
    }

    /// Writes what is queued, for two seconds at most, and removes the socket.
    pub fn close(mut self) {
        // Each writer ends after its last line when its senders are dropped; the reader has one until its input ends.
        for (_, outbox) in self.clients.drain() {
            let _ = outbox.stream.shutdown(Shutdown::Read);
        }
        let end = Instant::now() + FLUSH_TIMEOUT;
        while Arc::strong_count(&self.writers) > 1 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        // If our socket was removed, another daemon may have made its own at the path.
        if let Some((path, made)) = self.socket
            && identity(&path).is_ok_and(|identity| identity == made)
        {
            let _ = fs::remove_file(path);
        }
    }
}
