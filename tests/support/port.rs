//! A port that is kept for a test although nobody listens there: not yet, for a while, or never.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// Longest wait: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A port of 127.0.0.1 that the system gives to no one who asks for any port: connections to it are refused until
/// a test listens there on purpose.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _socket: OwnedFd,
}

impl Port {
    /// One that is free.
    pub fn free() -> io::Result<Self> {
        Self::bind(0)
    }

    /// This one, when nobody listens there any more: a process that is just being started may hold for a moment what
    /// we have closed.
    pub fn keep(number: u16) -> io::Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::bind(number) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(5));
                }
                bound => return bound,
            }
        }
    }

    fn bind(number: u16) -> io::Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        // So that another socket with the same option can listen.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, number)))?;
        // Only to ask the standard library for the number: it does not listen.
        let socket = TcpListener::from(socket);
        let number = socket.local_addr()?.port();
        Ok(Self { number, _socket: socket.into() })
    }
}
