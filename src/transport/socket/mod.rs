//! The local socket: a Unix stream socket for operators, scripts and `make sim`.
//!
//! Each client has two threads, one that reads and one that writes, so that a slow or broken client never holds up the
//! main loop or another client. The main loop owns the [`Hub`] and only puts lines into bounded queues; a client whose
//! queue is full is disconnected.

mod client;
mod hub;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use crossbeam_channel::Sender;

use super::socket_path::Place;
pub use hub::{Asked, ClientInput, Document, Hub, Outbox};

/// Why there is no socket; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSocket {
    /// Another daemon has it, there is something else at the path, or it cannot be made at the path that was named.
    Refused(String),
    /// It cannot be made at any of the usual paths.
    Nowhere(String),
}

/// Binds the socket in the first usable place and starts to accept clients, whose inputs go to `inputs`.
///
/// # Errors
/// See [`NoSocket`].
pub fn listen(places: &[Place], inputs: Sender<ClientInput>) -> Result<Hub, NoSocket> {
    let (path, listener) = bind_first(places)?;
    let at = |error: io::Error| NoSocket::Refused(cannot_make(path, &error));
    let hub = Hub::new(path, identity(path).map_err(at)?);
    client::accept(listener, inputs, &hub.writers).map_err(at)?;
    Ok(hub)
}

fn cannot_make(path: &Path, error: &io::Error) -> String {
    format!("cannot make the socket {}: {error}", path.display())
}

fn bind_first(places: &[Place]) -> Result<(&Path, UnixListener), NoSocket> {
    let mut tried = Vec::new();
    for place in places {
        let path = place.path();
        let prepared = place.prepare().map_err(|error| NoSocket::Nowhere(cannot_make(path, &error)));
        match (prepared.and_then(|()| bind(path)), place) {
            (Ok(listener), _) => return Ok((path, listener)),
            (Err(NoSocket::Refused(reason)), _) | (Err(NoSocket::Nowhere(reason)), Place::Named(_)) => {
                return Err(NoSocket::Refused(reason));
            }
            (Err(NoSocket::Nowhere(reason)), Place::Runtime(_) | Place::Temporary(_)) => tried.push(reason),
        }
    }
    Err(NoSocket::Nowhere(format!("{}; choose another path with --socket", tried.join("; "))))
}

fn bind(path: &Path) -> Result<UnixListener, NoSocket> {
    let at = |error: io::Error| NoSocket::Nowhere(cannot_make(path, &error));
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(at)?;
    check_path(path).map_err(NoSocket::Nowhere)?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(at)?;
    Ok(listener)
}

/// Checks that a socket can have this path.
///
/// # Errors
/// One line: the path is longer than the system takes.
pub fn check_path(path: &Path) -> Result<(), String> {
    SocketAddr::from_pathname(path).map(drop).map_err(|_| {
        let path = path.display();
        format!("cannot make the socket {path}: longer than 107 bytes; choose a shorter path with --socket")
    })
}

/// Device and inode of the file at this path.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Removes the socket of a killed daemon; refuses a path where there is anything else.
fn remove_stale(path: &Path) -> Result<(), NoSocket> {
    let shown = path.display();
    let cannot = |what: &str, error: io::Error| NoSocket::Nowhere(format!("cannot {what} {shown}: {error}"));
    let taken = |by: &str, remedy: &str| {
        NoSocket::Refused(format!("{shown} {by}: {remedy}, or choose another path with --socket"))
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("look at", error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(taken("exists and is not a socket", "remove it")),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(taken("is in use by another instance", "stop that one")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| cannot("remove the stale socket", error))
        }
        Err(error) => Err(cannot("look at", error)),
    }
}
