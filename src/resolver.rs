//! Finds the addresses of hosts for all HTTP requests. Invariant: a lack of threads or descriptors is an error of one
//! request.
//!
//! The library's own resolver starts a thread for each new connection, addresses in digits included, and panics where
//! there is none.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Most addresses of one host that are tried; the library takes no more.
const ADDRESSES_MAX: usize = 16;

/// Finds hosts as described here.
#[derive(Debug)]
pub(crate) struct Lookup;

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let parts = uri.scheme().zip(uri.authority());
        let host = parts.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority));
        let host = host.ok_or_else(|| Error::BadUri("neither http nor https".to_owned()))?;
        let mut found = self.empty();
        match host.parse::<SocketAddr>() {
            Ok(address) => found.push(address),
            Err(_) => look_up(host, timeout)?.into_iter().take(ADDRESSES_MAX).for_each(|one| found.push(one)),
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

/// Asks the system, which can take any time, in a thread that is left alone when the time is over.
fn look_up(host: String, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
    let (sender, receiver) = sync_channel(1);
    let ask = move || sender.send(host.to_socket_addrs().map(Iterator::collect)).is_ok();
    let thread = thread::Builder::new().name("lookup".to_owned()).spawn(ask);
    thread.map_err(|error| {
        io::Error::new(error.kind(), format!("no thread to look up the host with: {error}"))
    })?;
    match receiver.recv_timeout(*timeout.after) {
        Ok(addresses) => Ok(addresses?),
        Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(timeout.reason)),
        Err(RecvTimeoutError::Disconnected) => Err(Error::HostNotFound),
    }
}
