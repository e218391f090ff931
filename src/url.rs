//! URLs, which may contain a user name and password.
//!
//! Invariant: `Display` and `Debug` show neither; code that needs them calls a method for that.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use crate::text::quote;

/// Which URLs are allowed.
const ALLOWED: &str = "must be http:// or https:// with a host";
/// The same for a text with an `@`.
const ALLOWED_WITH_USER: &str = "must be http:// or https:// with a host; in its user name and password write / as %2F, \
     # as %23, ? as %3F, @ as %40, % as %25, a blank as %20, and other characters than ASCII as the bytes of UTF-8 alike";

/// A base URL, cheap to clone. Two are equal if they were written in the same way, credentials included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url(Arc<Parts>);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    written: String,
    /// Without credentials, and without a slash at the end.
    address: String,
    authorization: Option<String>,
}

impl Url {
    /// Parses a URL from a configuration.
    ///
    /// # Errors
    /// What a URL must be, without the text itself, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = if text.contains('@') { ALLOWED_WITH_USER } else { ALLOWED };
        let uri: Uri = text.parse().map_err(|_| allowed)?;
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or(allowed)?;
        if uri.path().contains('@') {
            // Most likely a password with a slash in it.
            return Err(ALLOWED_WITH_USER);
        }
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or(allowed)?;
        let (_, host) = split_user(authority.as_str());
        let port = host.strip_prefix(authority.host()).unwrap_or_default();
        if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err("must have a port from 1 to 65535, or none");
        }
        if text.contains(['?', '#']) {
            return Err("must not have a query or a fragment: paths are added to it");
        }
        if scheme == "https" && !cfg!(feature = "tls") {
            return Err("needs TLS, but this build has no TLS; use http:// or a build with the feature tls");
        }
        Ok(Self::from(text))
    }

    /// The URL without user name and password, and without a slash at the end: requests are sent there.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// The value of the request's `Authorization` header, if there is a user name. Secret.
    pub fn authorization(&self) -> Option<&str> {
        self.0.authorization.as_deref()
    }

    /// Describes a redirect for people: its target, and what to write instead of this URL.
    pub fn redirection(&self, path: &str, location: &str) -> String {
        // A query or fragment may contain the secret of a login.
        let place = location.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = split_scheme(self.address());
        let host = rest.split('/').next().unwrap_or_default();
        let place = match place {
            _ if place.starts_with("//") => format!("{}{place}", scheme.trim_end_matches('/')),
            _ if place.starts_with('/') => format!("{scheme}{host}{place}"),
            _ => place.to_owned(),
        };
        let target = quote(Self::from(&*place));
        let is_plain = !location.contains(['?', '#']);
        let base = target.strip_suffix(path).filter(|base| is_plain && *base != self.to_string());
        match base {
            Some(base) => format!("it redirects to {target}: write {base} as the url"),
            None => format!("it redirects to {target}: the url is wrong, or a login is needed"),
        }
    }

    /// The URL as it was written. Secret.
    pub fn with_credentials(&self) -> &str {
        &self.0.written
    }

    /// The URL for storing: without user name and password, but with the `@` if there were any.
    pub fn without_credentials(&self) -> String {
        if self.authorization().is_none() {
            return self.0.written.clone();
        }
        let (scheme, rest) = split_scheme(self.address());
        format!("{scheme}@{rest}")
    }

    /// Whether its credentials were removed for storing, so that they are missing.
    pub fn lacks_credentials(&self) -> bool {
        self.authorization().is_none() && self.0.written != self.0.address
    }

    /// Whether both have the same scheme, host and port.
    pub fn is_of_host(&self, other: &Self) -> bool {
        let host = |url: &Self| {
            let (scheme, rest) = split_scheme(url.address());
            format!("{scheme}{}", rest.split('/').next().unwrap_or_default()).to_ascii_lowercase()
        };
        host(self) == host(other)
    }

    /// Whether this is no URL at all.
    pub fn is_empty(&self) -> bool {
        self.0.written.is_empty()
    }
}

/// Converts a URL that was checked when it was configured; a request to anything else fails.
impl From<&str> for Url {
    fn from(text: &str) -> Self {
        let (scheme, rest) = split_scheme(text);
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = split_user(authority);
        let path = path.trim_end_matches('/');
        Self(Arc::new(Parts {
            written: format!("{scheme}{authority}{path}"),
            address: format!("{scheme}{host}{path}"),
            authorization: user.filter(|user| !user.is_empty()).map(authorization),
        }))
    }
}

/// The scheme with `://`, or nothing, and the rest.
fn split_scheme(text: &str) -> (&str, &str) {
    text.split_at(text.find("://").map_or(0, |at| at + "://".len()))
}

/// User name and password, if there are any, and the host with its port.
fn split_user(authority: &str) -> (Option<&str>, &str) {
    authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host))
}

/// The header for basic authentication (RFC 7617) from the user name and password of a URL, which are percent-encoded.
fn authorization(user: &str) -> String {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut bytes: Vec<u8> = percent_decode_str(name).collect();
    bytes.push(b':');
    bytes.extend(percent_decode_str(password));
    format!("Basic {}", STANDARD.encode(bytes))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = split_scheme(self.address());
        // In a text that was not checked, a password with a slash looks like a path.
        let (_, shown) = split_user(rest);
        write!(f, "{scheme}{shown}")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_requested_are_refused() {
        for good in ["http://h", "http://h:80/x", "HTTP://h/", "http://[::1]:8080/a", "http://u:p@h:1/x"] {
            assert!(Url::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "h",
            "/x",
            "h:80",
            "ftp://h",
            "http://",
            "http:///x",
            "http:h",
            "http://:80",
            "http://h:0",
            "http://h:99999",
            "http://h:x",
            "http://h/?a",
            "http://h/#a",
            " http://h",
            "http://h h",
            "http://h\n",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Url::parse("https://h").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn credentials_are_decoded_for_the_request() {
        let basic = |plain: &[u8]| Some(format!("Basic {}", STANDARD.encode(plain)));
        for (text, address, authorization) in [
            ("http://h/", "http://h", None),
            ("http://@h/", "http://h", None),
            ("http://jane@h:80/api//", "http://h:80/api", basic(b"jane:")),
            ("http://jane:p%40ss@[::1]:80/api", "http://[::1]:80/api", basic(b"jane:p@ss")),
            ("http://j%20d:%2F%23%3F%25%20:x@h", "http://h", basic(b"j d:/#?% :x")),
            ("http://j:caf%C3%A9@h", "http://h", basic("j:café".as_bytes())),
            ("http://j:caf%E9@h", "http://h", basic(b"j:caf\xe9")),
            ("http://j:100%@h", "http://h", basic(b"j:100%")),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.address(), url.authorization()), (address, authorization.as_deref()), "{text}");
            assert_eq!(url.with_credentials(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_stored_url_has_no_credentials_and_shows_that_they_are_missing() {
        for (text, stored) in [
            ("", ""),
            ("http://h/api", "http://h/api"),
            ("http://jane:s3cret@h:80/api", "http://@h:80/api"),
            ("http://jane@h", "http://@h"),
            ("jane:s3cret@h", "@h"),
        ] {
            let (url, again) = (Url::from(text), Url::from(stored));
            assert_eq!(url.without_credentials(), stored);
            assert_eq!(again.without_credentials(), stored);
            assert_eq!(again.lacks_credentials(), stored.contains('@'));
            assert!(!url.lacks_credentials() && url.is_of_host(&again));
        }
        for other in ["https://h/api", "http://h:80/api", "http://i/api"] {
            assert!(!Url::from("http://h/api").is_of_host(&other.into()), "{other}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        for (text, shown) in [
            ("", ""),
            ("http://uws/api/v1/job", "http://uws/api/v1/job"),
            ("http://user:secret@uws:80/api/", "http://uws:80/api"),
            ("http://user:se/c@ret@uws/api", "http://uws/api"),
            ("http://user:1/c@ret@uws/api", "http://uws/api"),
            ("user:secret@uws", "uws"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(Url::from(text).to_string(), shown);
            assert_eq!(format!("{:?}", Url::from(text)), format!("{shown:?}"));
        }
        for bad in
            ["ftp://me:secret@h", "http://me:se/cret@h", "http://me:80/sec@ret@h", "http://me:caf\u{e9}@h"]
        {
            assert!(Url::parse(bad).unwrap_err().contains("/ as %2F"), "{bad}");
        }
    }

    #[test]
    fn the_error_of_a_redirect_names_the_url_to_write_instead() {
        let url = Url::from("http://jane:secret@uws:80/api");
        let described = |location| url.redirection("/job", location);
        for (location, base) in [
            ("https://uws/api/job", "https://uws/api"),
            ("https://uws/api/job/", "https://uws/api"),
            ("https://jane:secret@uws/v2/job", "https://uws/v2"),
            ("//other/job", "http://other"),
            ("/v2/job", "http://uws:80/v2"),
        ] {
            assert_eq!(described(location), format!("it redirects to {base}/job: write {base} as the url"));
        }
        for (location, target) in [
            ("https://sso/login?next=/job&token=secret", "https://sso/login"),
            ("https://sso/job?token=secret", "https://sso/job"),
            ("http://uws:80/api/job/", "http://uws:80/api/job"),
            ("", ""),
        ] {
            let expected = format!("it redirects to {target}: the url is wrong, or a login is needed");
            assert_eq!(described(location), expected);
        }
        assert!(url.redirection("/job", &"x".repeat(100_000)).len() < 500);
    }
}
