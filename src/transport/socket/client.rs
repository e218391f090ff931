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

use super::hub::{CONNECTIONS_MAX, ClientInput, Item, Outbox, too_many};
use crate::clock;
use crate::csc::command::{Command, Sender as CommandSender, Via};
use crate::csc::id::{ClientId, SeqNum};
use crate::transport::line::{self, Line};

/// Time between two log lines about clients that cannot be served.
const UNSERVED_INTERVAL: Duration = Duration::from_secs(60);
/// Longest line that a client may send, in bytes; Kafka's default limit of a message is the same.
const LINE_MAX: usize = 1 << 20;
/// A client that reads nothing for so long is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Stack of a client's threads, in bytes: nothing in them recurses.
const STACK: usize = 256 << 10;
/// Most bytes of the buffer for lines that are kept from one line to the next: few lines are longer.
const LINE_KEPT: usize = 16 << 10;

/// Accepts clients until the process ends; each thread that writes holds a clone of `writers`.
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
    /// Each thread that reads holds a clone.
    readers: Arc<()>,
    writers: Weak<()>,
}

impl Acceptor {
    fn run(self, listener: &UnixListener) {
        let mut last = 0;
        // Failures, as for want of descriptors, are logged once a minute.
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
                // Other clients may leave meanwhile and give descriptors back.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn welcome(&self, client: ClientId, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reading = self.readers.clone();
        // The acceptor has one of the clones.
        if Arc::strong_count(&reading) > CONNECTIONS_MAX + 1 {
            return stream.write_all(format!("{}\n", line::error(&too_many())).as_bytes());
        }
        // Without a hub the daemon is about to end.
        let Some(writing) = self.writers.upgrade() else { return Ok(()) };
        let peer = getsockopt(&stream, PeerCredentials)?;
        let is_operator = peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw();
        let (outbox, items) = Outbox::new(client, stream.try_clone()?, is_operator);
        let bytes = outbox.bytes.clone();
        let sender = CommandSender {
            via: Via::Socket(client),
            identity: format!("uid-{}@localhost", peer.uid()),
            // 0 for a process in another PID namespace.
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

/// Writes until all senders are dropped or the client reads nothing.
fn write(client: ClientId, mut stream: UnixStream, items: Receiver<Item>, bytes: &AtomicUsize) {
    for item in items {
        let size = item.size();
        let written = match item {
            Item::Line(line, from) => stream.write_all(line.as_bytes().get(from..).unwrap_or_default()),
            Item::Document(make, _asked) => stream.write_all((make() + "\n").as_bytes()),
        };
        // When no bytes wait, the main loop may write itself.
        bytes.fetch_sub(size, Ordering::Release);
        if let Err(error) = written {
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                log::warn!("client {} does not read what it is sent: disconnected", client.0);
            }
            break;
        }
    }
    // The reader notices this and reports that the client has gone.
    let _ = stream.shutdown(Shutdown::Both);
}

/// The thread that reads the lines of one client.
struct Reader {
    client: ClientId,
    /// The sender of the client's commands; its `seq_num` counts them, for those that bring no number.
    sender: CommandSender,
    /// Disconnected when the last query is answered.
    asked: Option<Receiver<Infallible>>,
    inputs: Sender<ClientInput>,
}

impl Reader {
    fn run(mut self, stream: &UnixStream, outbox: Outbox) {
        if self.inputs.send(ClientInput::Connected(self.client, outbox)).is_err() {
            return;
        }
        let mut input = BufReader::new(stream);
        let mut line = Vec::new();
        while self.read_line(&mut input, &mut line) {}
        if self.inputs.send(ClientInput::Silent(self.client)).is_err() {
            return;
        }
        // Waits until the client has closed both directions: one that only ended its requests still gets its acks.
        while poll(&mut [PollFd::new(stream, PollFlags::empty())], None) == Err(Errno::INTR) {}
        let _ = self.inputs.send(ClientInput::Gone(self.client));
    }

    /// Takes one line; false when no more come.
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
                // A client that asks faster than it reads waits here; its answers do not fill the memory.
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
