//! The local socket as a whole: a client that sends anything, in pieces, is served by the daemon's own threads
//! and leaves nothing behind.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use ocps::transport::socket::{ClientInput, Hub, listen};
use ocps::transport::socket_path::Place;

use super::check_reason;
use super::line::{self, LINE_MAX};

/// What counts as a hang.
const PATIENCE: Duration = Duration::from_secs(50);

/// A socket, and what comes through it.
struct Served {
    // Keeps the socket.
    hub: Hub,
    inputs: Receiver<ClientInput>,
    _dir: tempfile::TempDir,
}

fn served() -> &'static Mutex<Served> {
    static SERVED: OnceLock<Mutex<Served>> = OnceLock::new();
    SERVED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (sender, inputs) = bounded(16);
        let hub = listen(&[Place::Named(dir.path().join("ocps.sock"))], sender).unwrap();
        Mutex::new(Served { hub, inputs, _dir: dir })
    })
}

/// The first byte is how many bytes are sent at once.
pub(crate) fn read(data: &[u8]) {
    let Some((first, sent)) = data.split_first() else { return };
    let piece = [usize::MAX, 1000, 7, 1][usize::from(*first) % 4];
    let mut served = served().lock().unwrap_or_else(PoisonError::into_inner);
    let mut stream = UnixStream::connect(served.hub.path().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = String::new();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        // Each in a thread of its own, so that no end waits for another.
        let reader = scope.spawn(|| stream.read_to_string(&mut received));
        scope.spawn(move || {
            let mut parts = sent.chunks(piece.min(sent.len().max(1))).take(5_000);
            // A line that is too long ends the connection, here while it is written.
            let _ = parts.try_for_each(|part| writer.write_all(part));
            let _ = writer.shutdown(Shutdown::Write);
        });
        served.serve();
        // A client that is sent away may find the connection reset, since not all that it sent was read.
        if let Err(error) = reader.join().unwrap() {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            assert!(sent.len() > LINE_MAX, "a client was sent away that sent only {} bytes", sent.len());
        }
    });
    for line in received.lines() {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        check_reason(answer["error"].as_str().unwrap());
    }
}

impl Served {
    /// Does as the daemon does, until the client is gone.
    fn serve(&mut self) {
        let mut current = None;
        loop {
            match self.inputs.recv_timeout(PATIENCE).unwrap() {
                ClientInput::Connected(client, outbox) => {
                    current = Some(client);
                    self.hub.connected(client, outbox);
                }
                ClientInput::Command(command) => drop(command),
                ClientInput::Subscribe(_) | ClientInput::Query(..) => {}
                ClientInput::Invalid(client, reason) => self.hub.refuse(client, &reason),
                ClientInput::Silent(client) => self.hub.gone(client),
                ClientInput::Gone(client) => {
                    self.hub.gone(client);
                    // One before, that was sent away for a line too long, is gone once more when it really is.
                    if current == Some(client) {
                        assert_eq!(self.hub.clients(), 0);
                        return;
                    }
                }
            }
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lines = line::seeds();
    (0_u8..).zip(lines).map(|(n, line)| [&[n % 4], line.as_slice()].concat()).collect()
}
