//! What follows from a request that got no answer. Invariant: `NotSent` is said only where it is certain;
//! in doubt the request may have been carried out.

#![expect(clippy::wildcard_enum_match_arm, reason = "the library's errors are non_exhaustive")]

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use ureq::{Error, Timeout};

use crate::csc::request::{Contact, Failure, FailureKind};
use crate::resolver::NoThread;
use crate::text::quote;

/// The request that failed.
pub(super) struct Attempt<'a> {
    /// `PUT` and so on.
    pub(super) method: &'a str,
    /// Without credentials.
    pub(super) url: &'a str,
    /// How long it was allowed to take.
    pub(super) timeout: Duration,
    /// How long connecting was allowed to take.
    pub(super) connect_timeout: Duration,
}

impl Attempt<'_> {
    /// The failure of a request of which nothing left us.
    pub(super) fn not_sent(&self, error: &Error) -> Failure {
        let reason = format!("cannot reach {}: {}", self.url, self.describe(error));
        Failure { kind: FailureKind::NotSent, contact: Contact::Silent, reason }
    }

    /// The failure of a request of which only the error tells whether it was sent.
    pub(super) fn failure(&self, error: &Error) -> Failure {
        if never_connected(error) { self.not_sent(error) } else { self.sent(error) }
    }

    /// The failure of a request that was sent, at least in part.
    pub(super) fn sent(&self, error: &Error) -> Failure {
        let Self { url, method, .. } = self;
        let said = match error {
            Error::Protocol(_) | Error::LargeResponseHeader(..) => "gave no proper HTTP answer to",
            Error::BodyExceedsLimit(_) => "gave too large an answer to",
            _ => {
                let reason = format!("no answer from {url} to {method}: {}", self.describe(error));
                return Failure { kind: FailureKind::Unclear, contact: Contact::Silent, reason };
            }
        };
        let kind = if *method == "GET" { FailureKind::Wrong } else { FailureKind::Unclear };
        let reason = format!("{url} {said} {method}: {}", self.describe(error));
        Failure { kind, contact: Contact::Answered, reason }
    }

    /// The error for people, in one line, never with the url: that may hold credentials.
    fn describe(&self, error: &Error) -> String {
        match error {
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("no connection within {:?}", self.connect_timeout)
            }
            Error::Timeout(_) => format!("not complete within {:?}", self.timeout),
            Error::HostNotFound => "no such host".to_owned(),
            Error::Http(_) | Error::BadUri(_) => "not an http or https url".to_owned(),
            Error::TlsRequired if !cfg!(feature = "tls") => {
                "this program was built without https (cargo feature tls)".to_owned()
            }
            Error::Io(e) => quote(e),
            Error::Other(e) => quote(e),
            other => quote(other),
        }
    }
}

/// Whether the error is one of those that can only come before a request is sent.
///
/// Used where there is no body to watch. In doubt no: a wrong yes to a DELETE would say that nothing happened.
fn never_connected(error: &Error) -> bool {
    match error {
        Error::Timeout(timeout) => matches!(timeout, Timeout::Resolve | Timeout::Connect),
        Error::Http(_)
        | Error::BadUri(_)
        | Error::HostNotFound
        | Error::InvalidProxyUrl
        | Error::ConnectionFailed
        | Error::ConnectProxyFailed(_)
        | Error::Tls(_)
        | Error::TlsRequired => true,
        Error::Other(e) => e.is::<NoThread>(),
        // A connection that is there needs no new descriptor.
        Error::Io(e)
            if [Errno::MFILE, Errno::NFILE]
                .iter()
                .any(|none| Some(none.raw_os_error()) == e.raw_os_error()) =>
        {
            true
        }
        Error::Io(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable => true,
            // The standard library has no kind for a name without an address, nor rustls for a failed handshake.
            _ => {
                let text = e.to_string();
                text.starts_with("failed to lookup address information") || text.contains("certificate")
            }
        },
        _ => false,
    }
}
