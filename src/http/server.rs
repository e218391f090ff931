//! A server for small pages over HTTP/1.1 with bounded clients, sizes and times. One thread polls all connections, so that
//! no client delays another one.
//!
//! A connection gets one answer and is closed, at the latest after [`PATIENCE`]. If there are too many connections, the
//! oldest is closed.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, accept_with};
use ureq::http::StatusCode;

use crate::config::settings::Listen;

/// Maximum number of open connections.
const CLIENTS_MAX: usize = 64;
/// Maximum size of a request with its headers, in bytes; a body is not read.
const REQUEST_MAX: usize = 8 << 10;
/// Maximum number of headers of a request.
const HEADERS_MAX: usize = 64;
/// Time limit of a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted, for example for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// An answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    /// An answer of one line of text.
    pub(super) fn text(status: StatusCode, line: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: line + "\n" }
    }

    /// The bytes of the answer, for a HEAD request without the body.
    fn bytes(&self, is_head: bool) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nAllow: GET, HEAD\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
        );
        if is_head { head.into_bytes() } else { (head + &self.body).into_bytes() }
    }
}

/// A listening socket that does not block.
pub(super) fn listen(listen: &Listen) -> io::Result<OwnedFd> {
    let listener = match listen {
        Listen::Address(address) => TcpListener::bind(address)?.into(),
        Listen::Path(path) => bind(path)?.into(),
        Listen::Systemd => of_systemd()?,
    };
    ioctl_fionbio(&listener, true)?;
    Ok(listener)
}

/// The first socket that systemd passes.
fn of_systemd() -> io::Result<OwnedFd> {
    let mut sockets = listenfd::ListenFd::from_env();
    if let Ok(Some(listener)) = sockets.take_tcp_listener(0) {
        return Ok(listener.into());
    }
    let listener = sockets.take_unix_listener(0)?.map(OwnedFd::from);
    listener.ok_or_else(|| io::Error::other("systemd hands over no socket: enable ocps-http.socket"))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // A killed daemon leaves its socket.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// A connection.
struct Client {
    stream: File,
    until: Instant,
    /// The part of the request that was received.
    request: Vec<u8>,
    /// The part of the answer that is still to be sent; none before the request is complete.
    answer: Option<Vec<u8>>,
}

/// Serves until the process ends.
pub(super) fn run(listener: &OwnedFd, mut answer: impl FnMut(&str) -> Answer) {
    let mut clients: Vec<Client> = Vec::new();
    let mut is_short = false;
    loop {
        let mut ready = wait(listener, &clients).into_iter();
        let accepts = ready.next().unwrap_or(false);
        let now = Instant::now();
        clients.retain_mut(|client| {
            let goes_on = !ready.next().unwrap_or(false) || client.advance(&mut answer);
            goes_on && now < client.until
        });
        if accepts {
            match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => {
                    if clients.len() >= CLIENTS_MAX {
                        clients.remove(0);
                    }
                    let (stream, until) = (stream.into(), now + PATIENCE);
                    clients.push(Client { stream, until, request: Vec::new(), answer: None });
                    is_short = false;
                }
                Err(Errno::AGAIN) => {}
                Err(error) => {
                    if !mem::replace(&mut is_short, true) {
                        log::warn!("HTTP: no connection can be accepted: {error}; retrying");
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// Waits until a socket is ready or the time of a client is over. Gives for the listener and each client whether it is ready.
fn wait(listener: &OwnedFd, clients: &[Client]) -> Vec<bool> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(clients.iter().map(|client| {
        let flags = if client.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
        PollFd::new(&client.stream, flags)
    }));
    let first = clients.iter().map(|client| client.until).min();
    let time = first.and_then(|until| {
        // One more millisecond, so that the time is over afterwards.
        let time = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(time).ok()
    });
    // After an error, for example an interruption, the loop polls again.
    let _ = poll(&mut fds, time.as_ref());
    fds.iter().map(|fd| !fd.revents().is_empty()).collect()
}

impl Client {
    /// Reads or writes without blocking; false if the connection is to be closed.
    fn advance(&mut self, answer: &mut impl FnMut(&str) -> Answer) -> bool {
        if self.answer.is_none() {
            let mut chunk = [0; REQUEST_MAX];
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.request.extend(chunk.iter().take(count)),
                Err(error) => return is_temporary(&error),
            }
            self.answer = respond(&self.request, answer);
        }
        let Some(rest) = &mut self.answer else { return true };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return false,
                Ok(count) => drop(rest.drain(..count)),
                Err(error) => return is_temporary(&error),
            }
        }
        false
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The answer to a request; none while the request is not complete.
fn respond(request: &[u8], answer: &mut impl FnMut(&str) -> Answer) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let refused = |status, reason: &str| Some(Answer::text(status, reason.to_owned()).bytes(false));
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) if request.len() < REQUEST_MAX => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => refused(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            &format!("a request has at most {REQUEST_MAX} bytes and {HEADERS_MAX} headers"),
        ),
        Ok(httparse::Status::Complete(_)) => {
            let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
            match method {
                "GET" | "HEAD" => {
                    let path = target.split('?').next().unwrap_or_default();
                    Some(answer(path).bytes(method == "HEAD"))
                }
                _ => refused(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "only GET and HEAD: nothing can be changed over HTTP",
                ),
            }
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, &format!("not a request of HTTP/1: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_line(request: &[u8]) -> Option<String> {
        let answer = respond(request, &mut |path| Answer::text(StatusCode::OK, path.to_owned()))?;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Some(format!(
            "{} {}",
            head.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap(),
            body.trim_end()
        ))
    }

    #[test]
    fn requests_are_answered_refused_or_not_complete() {
        let check = |request: &[u8], expected: Option<&str>| {
            assert_eq!(first_line(request).as_deref(), expected, "{:?}", String::from_utf8_lossy(request));
        };
        check(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n", Some("200 OK /a"));
        check(b"HEAD /a HTTP/1.0\r\n\r\n", Some("200 OK "));
        check(
            b"POST / HTTP/1.1\r\n\r\n",
            Some("405 Method Not Allowed only GET and HEAD: nothing can be changed over HTTP"),
        );
        check(b"", None);
        check(b"GET / HTTP/1.1\r\nHost: h\r\n", None);
        check(b"\x16\x03\x01\x02", Some("400 Bad Request not a request of HTTP/1: invalid token"));
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; REQUEST_MAX]].concat();
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(HEADERS_MAX + 1), b"\r\n"].concat();
        let too_large = "431 Request Header Fields Too Large a request has at most 8192 bytes and 64 headers";
        check(&long, Some(too_large));
        check(&many, Some(too_large));
    }
}
