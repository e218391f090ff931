//! One request to the service: reading its reply, and its failure where there is none.

#![expect(clippy::wildcard_enum_match_arm, reason = "the library's errors are non_exhaustive")]

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http::Response;
use ureq::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::response::Parts;
use ureq::{Body, Error, Timeout};

use super::answer::{End, Reply};
use super::{JSON, TEXT_LIMIT, compression, header};
use crate::csc::request::{Contact, Failure, FailureKind};
use crate::text::quote;
use crate::url::Url;

/// Room for a usual body, in bytes.
const USUAL_BODY: usize = 4096;

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) base: &'a Url,
    /// The path below the base.
    pub(super) path: &'a str,
}

impl Address<'_> {
    /// The URL of the request, without credentials: those go in a header.
    pub(super) fn address(self) -> String {
        format!("{}{}", self.base.address(), self.path)
    }
}

/// The URL for people, without credentials.
impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(format_args!("{}{}", self.base, self.path)))
    }
}

pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    pub(super) url: Address<'a>,
    /// How long the request may take, and connecting for it.
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl<'a> Call<'a> {
    /// Reads a reply, a success up to the limit, anything else as far as people want to see it.
    pub(super) fn read(&self, response: Response<Body>, limit: usize) -> Reply<'a> {
        let (head, mut body) = response.into_parts();
        let limit = if head.status == 200 { limit } else { TEXT_LIMIT };
        let content_type = header(&head.headers, CONTENT_TYPE).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let mut bytes = Vec::with_capacity(USUAL_BODY);
        // One byte more, to tell a full body from one that is too large.
        let ended = body.as_reader().take(limit as u64 + 1).read_to_end(&mut bytes);
        let end = match ended {
            Err(e) => End::Broken(quote(e)),
            Ok(_) if bytes.len() > limit => End::TooLarge,
            Ok(_) => End::Complete,
        };
        Reply {
            method: self.method,
            url: self.url,
            status: head.status.as_u16(),
            is_json: essence.eq_ignore_ascii_case(JSON),
            body: bytes,
            end,
            says_when: head.headers.contains_key(RETRY_AFTER),
            remark: self.remark(&head),
        }
    }

    /// What people must know about a reply, if its body does not say it.
    fn remark(&self, head: &Parts) -> Option<String> {
        if let Some(location) = header(&head.headers, LOCATION).filter(|_| head.status.is_redirection()) {
            return Some(self.url.base.redirection(self.url.path, location));
        }
        let compression = quote(compression(&head.headers)?);
        Some(format!(
            "its text is compressed ({compression}), which was not asked for: turn that off in the gateway before the service"
        ))
    }

    /// The failure of a request that got no answer. If it was sent, it may have been carried out.
    pub(super) fn failure(&self, error: &Error, is_sent: bool) -> Failure {
        let (url, method, what) = (self.url, self.method, self.describe(error));
        let said = match error {
            _ if !is_sent => {
                let reason = format!("cannot reach {url}: {what}");
                return Failure { kind: FailureKind::NotSent, contact: Contact::Silent, reason };
            }
            Error::Protocol(_) | Error::LargeResponseHeader(..) => "gave no proper HTTP answer to",
            Error::BodyExceedsLimit(_) => "gave too large an answer to",
            _ => {
                let reason = format!("no answer from {url} to {method}: {what}");
                return Failure { kind: FailureKind::Unclear, contact: Contact::Silent, reason };
            }
        };
        let kind = if method == "GET" { FailureKind::Wrong } else { FailureKind::Unclear };
        Failure { kind, contact: Contact::Answered, reason: format!("{url} {said} {method}: {what}") }
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
            other => quote(other),
        }
    }
}
