//! What a request asks of the fake execution service, by the routing of the genuine one.

use super::http::Request;
use super::uws_fault::On;

/// A request, understood.
#[derive(Clone, Debug)]
pub enum Route {
    Put,
    List,
    Get { id: String, property: Option<String> },
    File { id: String, number: String },
    Delete { id: String },
    Other(Odd),
}

/// Requests that no client should make.
#[derive(Clone, Debug)]
pub enum Odd {
    NoSuchUrl,
    NoSuchMethod,
    Options,
    BadEncoding,
    WrongArguments,
}

impl Route {
    pub fn kind(&self) -> Option<On> {
        match self {
            Self::Put => Some(On::Put),
            Self::List => Some(On::List),
            Self::Get { .. } => Some(On::Get),
            Self::File { .. } => Some(On::File),
            Self::Delete { .. } => Some(On::Delete),
            Self::Other(_) => None,
        }
    }

    pub fn is_probe(&self) -> bool {
        matches!(self, Self::Get { id, .. } if id == "ocps-health-check")
    }

    /// The service's routing: by the path as sent, decoded afterwards.
    pub fn of(request: &Request, base: &str) -> Self {
        let Some(tail) = request.path.strip_prefix(base).and_then(|p| p.strip_prefix("/job")) else {
            return Self::Other(Odd::NoSuchUrl);
        };
        let groups: Vec<&str> = match tail.strip_prefix('/') {
            None if tail.is_empty() => Vec::new(),
            None => return Self::Other(Odd::NoSuchUrl),
            Some(rest) => rest.rsplitn(2, '/').collect(),
        };
        let Some(mut groups) = groups.into_iter().map(decode).collect::<Option<Vec<String>>>() else {
            return Self::Other(Odd::BadEncoding);
        };
        match (request.method.as_str(), groups.len()) {
            ("GET", 2) if tail.starts_with("/result/") => {
                let id = groups.pop().unwrap_or_default();
                let id = id.strip_prefix("result/").unwrap_or_default().to_owned();
                Self::File { id, number: groups.pop().unwrap_or_default() }
            }
            ("PUT", 0) => Self::Put,
            ("GET", 0) => Self::List,
            ("GET", 1) if groups.concat().is_empty() => Self::List,
            ("GET", _) => {
                let id = groups.pop().unwrap_or_default();
                Self::Get { id, property: groups.pop() }
            }
            ("DELETE", 1) => Self::Delete { id: groups.concat() },
            ("PUT" | "DELETE", _) => Self::Other(Odd::WrongArguments),
            ("OPTIONS", _) => Self::Other(Odd::Options),
            _ => Self::Other(Odd::NoSuchMethod),
        }
    }
}

/// Undoes percent-encoding; none if the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}
