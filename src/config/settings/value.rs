//! The kinds of values in `ocps.toml`: what each allows, and what it says of anything else.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::csc::id::SalIndex;

use super::super::{kafka, quoted};
use super::{DAY, Secret, is_site};
use crate::url::Url;

/// Longest time that can be set, in seconds: a week. Beyond it is a typing error.
const MAX_SECONDS: f64 = 604_800.0;

/// Longest memory that can be asked for, in days.
const MAX_HISTORY_DAYS: u32 = 3650;

/// A value of any type, so that each kind below can say itself what it wants instead.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Raw {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Raw {
    fn number(&self) -> Option<f64> {
        match self {
            // Exact up to 2^53, far beyond every limit here.
            #[allow(clippy::cast_precision_loss)]
            Self::Integer(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            Self::Bool(_) | Self::Text(_) | Self::Other(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Other(_) => None,
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(i) => Some(*i),
            Self::Bool(_) | Self::Float(_) | Self::Text(_) | Self::Other(_) => None,
        }
    }

    /// `must be …, not …`.
    fn refused(&self, allowed: &str) -> String {
        let is = match self {
            Self::Bool(b) => b.to_string(),
            Self::Integer(i) => i.to_string(),
            Self::Float(f) => f.to_string(),
            Self::Text(text) => quoted(text),
            Self::Other(_) => "a list, table or date".to_owned(),
        };
        format!("must be {allowed}, not {is}")
    }
}

/// Defines a kind of value: how it is made of a [`Raw`] one, and what is allowed if that fails.
macro_rules! kind {
    ($(#[$doc:meta])* $name:ident $(<const $max:ident>)?($type:ty), $allowed:expr, $parse:expr) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        #[serde(try_from = "Raw")]
        pub(super) struct $name $(<const $max: usize>)?(pub(super) $type);

        impl $(<const $max: usize>)? TryFrom<Raw> for $name $(<$max>)? {
            type Error = String;

            fn try_from(raw: Raw) -> Result<Self, String> {
                let parse: fn(&Raw) -> Option<$type> = $parse;
                parse(&raw).map(Self).ok_or_else(|| raw.refused(&$allowed))
            }
        }
    };
}

kind!(
    /// A time longer than none.
    Positive(Duration),
    format!("a number of seconds, at least 0.001 and at most {MAX_SECONDS}"),
    |raw| duration(raw).filter(|d| *d >= Duration::from_millis(1))
);
kind!(
    /// A time that may be none.
    Seconds(Duration),
    format!("a number of seconds from 0 to {MAX_SECONDS}"),
    duration
);
kind!(Switch(bool), "true or false", |raw| match raw {
    Raw::Bool(b) => Some(*b),
    Raw::Integer(_) | Raw::Float(_) | Raw::Text(_) | Raw::Other(_) => None,
});
kind!(OnOff(bool), "\"on\" or \"off\"", |raw| match raw.text() {
    Some("on") => Some(true),
    Some("off") => Some(false),
    Some(_) | None => None,
});
kind!(Text(String), "text that is not empty", |raw| {
    raw.text().filter(|t| !t.trim().is_empty() && !t.contains('\0')).map(str::to_owned)
});
kind!(FilePath(PathBuf), "the path of a file or directory", |raw| {
    raw.text().filter(|t| !t.is_empty() && !t.contains('\0')).map(PathBuf::from)
});
kind!(Site(String), "a site name of letters, digits, '.', '_' and '-'", |raw| {
    raw.text().filter(|t| is_site(t)).map(str::to_owned)
});
kind!(Index(SalIndex), "1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA), as number or name", |raw| {
    match raw {
        Raw::Integer(i) => SalIndex::parse(&i.to_string()).ok(),
        Raw::Text(text) => SalIndex::parse(text).ok(),
        Raw::Bool(_) | Raw::Float(_) | Raw::Other(_) => None,
    }
});
kind!(Level(i32), "debug, info, warning or error, or a number from 10 to 40", |raw| match raw {
    Raw::Text(text) => match text.to_ascii_lowercase().as_str() {
        "debug" => Some(10),
        "info" => Some(20),
        "warning" => Some(30),
        "error" => Some(40),
        _ => None,
    },
    Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Other(_) =>
        raw.integer().and_then(|i| i32::try_from(i).ok()).filter(|i| (10..=40).contains(i)),
});
kind!(
    /// A number from 1 to `MAX`.
    Count<const MAX>(usize),
    format!("a whole number from 1 to {MAX}"),
    |raw| raw.integer().and_then(|i| usize::try_from(i).ok()).filter(|i| (1..=MAX).contains(i))
);
kind!(Days(Duration), format!("a whole number of days from 1 to {MAX_HISTORY_DAYS}"), |raw| {
    let days = raw.integer().and_then(|i| u32::try_from(i).ok());
    days.filter(|days| (1..=MAX_HISTORY_DAYS).contains(days)).map(|days| days * DAY)
});
kind!(LeapSeconds(u32), "a whole number of seconds from 0 to 100", |raw| {
    raw.integer().and_then(|i| u32::try_from(i).ok()).filter(|i| *i <= 100)
});
kind!(Subname(String), "a word of letters, digits, '.', '_' and '-'", |raw| {
    raw.text().filter(|t| is_site(t)).map(str::to_owned)
});
kind!(Acks(String), "0, 1 or \"all\"", |raw| {
    let text = raw.integer().map(|i| i.to_string()).or_else(|| raw.text().map(str::to_owned));
    text.filter(|t| kafka::ACKS.contains(&t.as_str()))
});
kind!(Port(u16), "a port number from 1 to 65535", |raw| {
    raw.integer().and_then(|i| u16::try_from(i).ok()).filter(|port| *port != 0)
});
kind!(Seed(u64), "a whole number from 0 on", |raw| raw.integer().and_then(|i| u64::try_from(i).ok()));

/// The URLs of the registry. Not a `kind!`: they may hold a password, which no error shows.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
pub(super) struct RegistryUrls(pub(super) Vec<Url>);

impl TryFrom<Raw> for RegistryUrls {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        kafka::registry_urls(raw.text().unwrap_or_default()).map(Self)
    }
}

/// A password; no error shows it.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
pub(super) struct Password(pub(super) Secret);

impl TryFrom<Raw> for Password {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let text = raw.text().filter(|t| !t.is_empty() && !t.contains('\0'));
        text.map(|t| Self(Secret(t.to_owned()))).ok_or("must be text that is not empty")
    }
}

/// An HTTP proxy. Not a `kind!`: it may hold a password, which no error shows.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
pub(super) struct Proxy(pub(super) Url);

impl TryFrom<Raw> for Proxy {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        raw.text()
            .filter(|t| t.starts_with("http://") && ureq::Proxy::new(t).is_ok())
            .map(|t| Self(t.into()))
            .ok_or("must be the URL of an HTTP proxy, http://HOST:PORT")
    }
}

fn duration(raw: &Raw) -> Option<Duration> {
    let seconds = raw.number().filter(|s| (0.0..=MAX_SECONDS).contains(s))?;
    Duration::try_from_secs_f64(seconds).ok()
}
