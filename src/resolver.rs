//! The configuration of all HTTP requests, and the addresses of their hosts. Invariant: without free threads or file
//! descriptors, only the request fails.
//!
//! The resolver of the library starts a thread for each request, also for numeric addresses and where a connection is open
//! already, and panics if it cannot.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Error, Proxy};

/// Maximum number of addresses of a host that are tried, a limit of the library.
const ADDRESSES_MAX: usize = 16;

/// How long the addresses of a host are used again.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// The configuration of all HTTP requests, without timeouts.
pub(crate) fn http_config(proxy: Option<Proxy>) -> ConfigBuilder<AgentScope> {
    let config = Agent::config_builder()
        // The text of a refusal is needed for the error.
        .http_status_as_error(false)
        // The proxy of the settings, not of the environment.
        .proxy(proxy)
        // Following a redirect could send a DELETE to another service. And ureq 3.5 panics if the chunked body of a redirect
        // breaks off at its end.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("ocps/", env!("CARGO_PKG_VERSION")));
    #[cfg(feature = "tls")]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build(),
    );
    config
}

/// A resolver that keeps the addresses of the last host for [`KNOWN_FOR`].
#[derive(Debug, Default)]
pub(crate) struct Lookup(Mutex<Option<Known>>);

/// The addresses of a host, and when they were found.
#[derive(Debug)]
struct Known {
    host: String,
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let parts = uri.scheme().zip(uri.authority());
        let host = parts.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority));
        let host = host.ok_or_else(|| Error::BadUri("neither http nor https".to_owned()))?;
        let mut found = self.empty();
        match host.parse::<SocketAddr>() {
            Ok(address) => found.push(address),
            Err(_) => {
                self.find(host, timeout)?.into_iter().take(ADDRESSES_MAX).for_each(|one| found.push(one))
            }
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

impl Lookup {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, host: String, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        if let Some(known) = &*self.known()
            && known.host == host
            && known.at.elapsed() < KNOWN_FOR
        {
            return Ok(known.addresses.clone());
        }
        let addresses = look_up(host.clone(), timeout)?;
        *self.known() = Some(Known { host, at: Instant::now(), addresses: addresses.clone() });
        Ok(addresses)
    }
}

/// Asks the system for the addresses of a host. That can take any time, so a thread does it, which is abandoned after the
/// timeout.
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

#[cfg(test)]
mod tests {
    use ureq::Timeout;
    use ureq::unversioned::transport::time;

    use super::*;

    #[test]
    fn the_addresses_of_a_host_are_used_for_a_while_and_then_asked_for_again() {
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let find = |age, host: &str| {
            let known =
                Known { host: "a.invalid:80".into(), at: Instant::now() - age, addresses: vec![address] };
            let timeout = NextTimeout {
                after: time::Duration::from_secs(5),
                reason: Timeout::Resolve,
                per_read: None,
                per_write: None,
            };
            Lookup(Mutex::new(Some(known))).find(host.to_owned(), timeout).ok()
        };
        assert_eq!(find(Duration::ZERO, "a.invalid:80"), Some(vec![address]));
        assert_eq!(find(Duration::ZERO, "b.invalid:80"), None);
        assert_eq!(find(KNOWN_FOR, "a.invalid:80"), None);
    }
}
