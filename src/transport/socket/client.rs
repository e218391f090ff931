//! The threads that accept clients, read their lines and write ours.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::hub::{CONNECTIONS_MAX, ClientInput, Item, Outbox, Queue, too_many};
use crate::clock;
use crate::csc::command::{Command, Sender as CommandSender, Via};
use crate::csc::id::{ClientId, SeqNum};
use crate::transport::line::{self, Line};

/// Time between lines about clients that cannot be served.
const UNSERVED_INTERVAL: Duration = Duration::from_secs(60);
/// Longest line that a client may send, in bytes; Kafka's default limit of a message is the same.
const LINE_MAX: usize = 1 << 20;
/// A client that reads nothing for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Stack of a client's threads, in bytes: nothing in them recurses.
const STACK: usize = 256 << 10;
/// Room for a line that is kept from one line to the next, in bytes: few are longer.
const LINE_KEPT: usize = 16 << 10;

/// Accepts clients until the process ends; each thread that writes has a part in `writers`.
pub(super) fn accept(
    listener: UnixListener,
    inputs: Sender<ClientInput>,
    writers: &Arc<()>,
) -> io::Result<()> {
    let acceptor = Acceptor { inputs, readers: Arc::default(), writers: Arc::downgrade(writers) };
    thread::Builder::new().name("socket".to_owned()).spawn(move || acceptor.run(&listener)).map(drop)
}

struct Acceptor {
    inputs: Sender<ClientInput>,
    /// Shared with each thread that reads.
    readers: Arc<()>,
    writers: Weak<()>,
}

impl Acceptor {
    fn run(self, listener: &UnixListener) {
        let mut last = 0;
        // A lack of descriptors, say, is logged once a minute.
        let (mut warned, mut unserved): (Option<Instant>, u64) = (None, 0);
        loop {
            let accepted = listener.accept();
            let is_accepted = accepted.is_ok();
            let served = accepted.and_then(|(stream, _)| {
                last += 1;
                self.welcome(ClientId(last), stream)
            });
            let Err(error) = served else { continue };
            unserved += 1;
            if warned.is_none_or(|warned| warned.elapsed() >= UNSERVED_INTERVAL) {
                let more = if unserved > 1 { format!(" ({unserved} times by now)") } else { String::new() };
                log::warn!("cannot serve a client: {error}{more}");
                (warned, unserved) = (Some(Instant::now()), 0);
            }
            if !is_accepted {
                // Out of descriptors, say: give other clients time to leave.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn welcome(&self, client: ClientId, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reading = self.readers.clone();
        // One is our own.
        if Arc::strong_count(&reading) > CONNECTIONS_MAX + 1 {
            return stream.write_all(format!("{}\n", line::error(&too_many())).as_bytes());
        }
        // There is no hub any more: the daemon ends.
        let Some(writing) = self.writers.upgrade() else { return Ok(()) };
        let peer = getsockopt(&stream, PeerCredentials)?;
        let is_operator = peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw();
        let (queue, items) = Queue::new();
        let bytes = queue.bytes.clone();
        let outbox = Outbox::new(client, queue, stream.try_clone()?, is_operator);
        let sender = CommandSender {
            via: Via::Socket(client),
            identity: format!("uid-{}@localhost", peer.uid()),
            // 0 for a process of another PID namespace.
            origin: peer.pid(),
            seq_num: SeqNum(0),
            sent: clock::now(),
        };
        let reader = Reader { client, sender, asked: None, inputs: self.inputs.clone() };
        let writer = stream.try_clone()?;
        spawn("write", client, move || {
            write(client, writer, items, &bytes);
            drop(writing);
        })?;
        spawn("read", client, move || {
            reader.run(&stream, outbox);
            drop(reading);
        })
    }
}

fn spawn(what: &str, client: ClientId, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(format!("{what}-{}", client.0)).stack_size(STACK);
    builder.spawn(work).map(drop)
}

/// Writes until all senders are gone or the client reads nothing.
fn write(client: ClientId, mut stream: UnixStream, items: Receiver<Item>, bytes: &AtomicUsize) {
    for item in items {
        let size = item.size();
        let written = match item {
            Item::Line(line, from) => stream.write_all(line.as_bytes().get(from..).unwrap_or_default()),
            Item::Document(make, _asked) => stream.write_all((make() + "\n").as_bytes()),
        };
        // From now on the main loop may write itself.
        bytes.fetch_sub(size, Ordering::Release);
        if let Err(error) = written {
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                log::warn!("client {} does not read what it is sent: disconnected", client.0);
            }
            break;
        }
    }
    // The reader notices, and reports it to the main loop.
    let _ = stream.shutdown(Shutdown::Both);
}

/// The thread that reads the lines of one client.
struct Reader {
    client: ClientId,
    /// Of its last command; its number is that of one that brings none.
    sender: CommandSender,
    /// Disconnected when its last query is answered.
    asked: Option<Receiver<Infallible>>,
    inputs: Sender<ClientInput>,
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
        // Until the client has closed both directions: one that only ended its requests still gets its acks.
        while poll(&mut [PollFd::new(stream, PollFlags::empty())], None) == Err(Errno::INTR) {}
        let _ = inputs.send(ClientInput::Gone(client));
    }

    /// Takes one line; false when there are no more.
    fn read_line(&mut self, input: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
        line.clear();
        line.shrink_to(LINE_KEPT);
        let limit = u64::try_from(LINE_MAX + 1).unwrap_or(u64::MAX);
        if matches!(input.take(limit).read_until(b'\n', line), Ok(0) | Err(_)) {
            return false;
        }
        if line.len() > LINE_MAX {
            let reason = format!("the line is longer than {LINE_MAX} bytes: closed");
            let _ = self.inputs.send(ClientInput::Invalid(self.client, reason));
            let _ = self.inputs.send(ClientInput::Gone(self.client));
            return false;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            return true;
        }
        let input = match line::parse(text) {
            Ok(parsed) => self.input(parsed),
            Err(reason) => ClientInput::Invalid(self.client, reason),
        };
        self.inputs.send(input).is_ok()
    }

    fn input(&mut self, line: Line) -> ClientInput {
        match line {
            Line::Subscribe => ClientInput::Subscribe(self.client),
            Line::Query(query) => {
                // A client that asks faster than it reads waits here, and not in the memory of the daemon.
                let _ = self.asked.take().map(|answered| answered.recv());
                let (asked, answered) = bounded(0);
                self.asked = Some(answered);
                ClientInput::Query(self.client, query, asked)
            }
            Line::Command { seq_num, kind } => {
                let count = &mut self.sender.seq_num.0;
                *count = count.checked_add(1).unwrap_or(1);
                let seq_num = seq_num.unwrap_or(self.sender.seq_num);
                let sender = CommandSender { seq_num, sent: clock::now(), ..self.sender.clone() };
                ClientInput::Command(Command { sender, kind })
            }
        }
    }
}
