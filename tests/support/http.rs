//! A small HTTP/1.1 server for tests, over blocking sockets, with full control of what goes out and when:
//! a handler gets the request and the naked connection, so that it can also answer badly, slowly or never.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Longest request head and body, in bytes.
const HEAD_LIMIT: u64 = 64 * 1024;
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// A request, read to its end.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As sent, percent-encoded, without the query.
    pub path: String,
    /// As sent, without the question mark; empty if there is none.
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    KeepAlive,
    Close,
}

type Handler = dyn Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync;

/// A running server; stops when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    stopped: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub fn start(
        port: u16,
        handler: impl Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { stopped: AtomicBool::new(false), connections: Mutex::new(Vec::new()) });
        let handler: Arc<Handler> = Arc::new(handler);
        let acceptor = thread::Builder::new().name("http-accept".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener, &handler)
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and all connections, also those in the middle of an answer.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor; an error means that it has gone already.
        let _ = TcpStream::connect(self.address);
        let _ = acceptor.join();
        for connection in self.shared.lock().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, handler: &Arc<Handler>) {
        for connection in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(connection) = connection else { continue };
            let Ok(handle) = connection.try_clone() else { continue };
            self.lock().push(handle);
            let (shared, handler) = (Arc::clone(self), Arc::clone(handler));
            let served = move || {
                let peer = connection.peer_addr().ok();
                // A client that leaves in the middle is everyday business.
                let _ = serve(connection, handler.as_ref());
                shared.lock().retain(|c| c.peer_addr().ok() != peer);
            };
            // Without a thread the connection is dropped, which the client sees.
            let _ = thread::Builder::new().name("http-serve".to_owned()).spawn(served);
        }
    }
}

fn serve(mut connection: TcpStream, handler: &Handler) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let result = loop {
        match read_request(&mut reader) {
            Ok(Some(request)) => match handler(&request, &mut connection) {
                Ok(Then::KeepAlive) => {}
                Ok(Then::Close) => break Ok(()),
                Err(e) => break Err(e),
            },
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    // The server keeps a second handle, so that dropping ours would not close the connection.
    let _ = connection.shutdown(Shutdown::Both);
    result
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next request of a connection; none when the client has closed it.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(HEAD_LIMIT);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(bad("no request line"));
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(bad("the head has no end"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without colon"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request =
        Request { method, path: path.to_owned(), query: query.to_owned(), headers, body: Vec::new() };
    let length = request.header("Content-Length").map_or(Ok(0), str::parse);
    let length: usize = length.map_err(|_| bad("the content length is no number"))?;
    if length > BODY_LIMIT {
        return Err(bad("the body is too large"));
    }
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Writes a whole answer.
pub fn answer(
    connection: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if status >= 200 && status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())?;
    connection.write_all(body)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        416 => "Range Not Satisfiable",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        _ => "Unknown",
    }
}
