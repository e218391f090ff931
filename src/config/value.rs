//! The kinds of values in configuration files: what each allows, and its error for everything else.
//!
//! Each kind is a function for serde's `deserialize_with`, for required and for optional fields.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::secret::Secret;
use super::settings::{Journal, Listen};
use super::tree::shown;
use crate::csc::configuration::{POLL_INTERVAL_MAX, POLL_INTERVAL_MIN, Polling};
use crate::csc::id::SalIndex;
use crate::url::Url;

/// Maximum time that can be set, in seconds: a week. More is most likely a typing error.
const MAX_SECONDS: f64 = 604_800.0;

/// Maximum of `history_days`.
const MAX_HISTORY_DAYS: u32 = 3650;

/// Maximum number of simultaneous polls: each is a thread and a connection.
const MAX_CONNECTIONS: usize = 32;

/// Maximum of `limits.jobs`: each job costs memory and a poll per interval.
const MAX_JOBS: usize = 100_000;

/// With `poll = "auto"`, the number of jobs from which on they are polled by list.
pub(super) const POLLED_BY_LIST: usize = 10;

/// Maximum replication factor of a topic.
const MAX_REPLICATION: i32 = 100;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Defines kinds of values: their type, what is allowed, and the function that converts an allowed value.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $allowed:expr, $parse:expr;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name<'de, D: Deserializer<'de>, T: From<$type>>(from: D) -> Result<T, D::Error> {
            let value = Value::deserialize(from)?;
            let parse: fn(&Value) -> Option<$type> = $parse;
            parse(&value)
                .map(T::from)
                .ok_or_else(|| D::Error::custom(format!("must be {}, not {}", $allowed, shown(&value))))
        }
    )*};
}

/// The same for values that may hold a password, which no error shows.
macro_rules! secret_kinds {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $parse:expr;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name<'de, D: Deserializer<'de>, T: From<$type>>(from: D) -> Result<T, D::Error> {
            let value = Value::deserialize(from)?;
            let parse: fn(&str) -> Result<$type, &'static str> = $parse;
            parse(value.as_str().unwrap_or_default()).map(T::from).map_err(D::Error::custom)
        }
    )*};
}

kinds! {
    /// A time greater than zero.
    positive: Duration, format!("a number of seconds, at least 0.001 and at most {MAX_SECONDS}"),
    |value| seconds_between(value, 0.001, MAX_SECONDS);

    /// A time that may be zero.
    seconds: Duration, format!("a number of seconds from 0 to {MAX_SECONDS}"),
    |value| seconds_between(value, 0.0, MAX_SECONDS);

    poll_interval: Duration,
    format!(
        "a number of seconds, at least {} and at most {}",
        POLL_INTERVAL_MIN.as_secs_f64(),
        POLL_INTERVAL_MAX.as_secs_f64()
    ),
    |value| seconds_between(value, POLL_INTERVAL_MIN.as_secs_f64(), POLL_INTERVAL_MAX.as_secs_f64());

    days: Duration, format!("a whole number of days from 1 to {MAX_HISTORY_DAYS}"),
    |value| whole(value, 1, MAX_HISTORY_DAYS).map(|days| days * DAY);

    connections: usize, format!("a whole number from 1 to {MAX_CONNECTIONS}"),
    |value| whole(value, 1, MAX_CONNECTIONS);

    jobs: usize, format!("a whole number from 1 to {MAX_JOBS}"), |value| whole(value, 1, MAX_JOBS);

    /// Also as text, since environment variables are texts.
    replication: i32, format!("a whole number from 1 to {MAX_REPLICATION}"), |value| {
        text_or_number(value)?.parse().ok().filter(|factor| (1..=MAX_REPLICATION).contains(factor))
    };

    switch: bool, "true or false", Value::as_bool;

    journal: Journal, "\"on\", \"off\" or \"kafka\"", |value| value.as_str().and_then(|word| word.parse().ok());

    polling: Polling, "\"auto\", \"each\" or \"list\"", |value| match value.as_str() {
        Some("auto") => Some(Polling::Auto { from: POLLED_BY_LIST }),
        Some("each") => Some(Polling::Each),
        Some("list") => Some(Polling::List),
        Some(_) | None => None,
    };

    text: String, "text that is not empty", |value| text_of(value).filter(|text| !text.trim().is_empty());

    /// A text; none if it is empty.
    text_or_empty: Option<String>, "text", |value| {
        text_of(value).map(|text| Some(text).filter(|text| !text.is_empty()))
    };

    path: PathBuf, "the path of a file or directory", |value| {
        text_of(value).filter(|path| !path.is_empty()).map(PathBuf::from)
    };

    /// A site, or the second word of the topic names.
    word: String, "a word of letters, digits, '.', '_' and '-'", |value| text_of(value).filter(|word| is_word(word));

    index: SalIndex, "1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA), as number or name", |value| {
        SalIndex::parse(&text_or_number(value)?).ok()
    };

    /// The index of any instance.
    any_index: u64, "a whole number from 1 on", |value| whole(value, 1, u64::MAX);

    level: i32, "debug, info, warning or error, or a number from 10 to 40", |value| {
        match text_or_number(value)?.to_ascii_lowercase().as_str() {
            "debug" => Some(10),
            "info" => Some(20),
            "warning" => Some(30),
            "error" => Some(40),
            number => number.parse().ok().filter(|level| value.is_number() && (10..=40).contains(level)),
        }
    };

    leap_seconds: u32, "a whole number of seconds from 0 to 100", |value| whole(value, 0, 100);

    acks: String, "0, 1 or \"all\"", |value| {
        text_or_number(value).filter(|acks| ["0", "1", "-1", "all"].contains(&acks.as_str()))
    };

    port: u16, "a port number from 1 to 65535", |value| whole(value, 1, u16::MAX);

    /// The value of a setting of librdkafka.
    scalar: String, "text, a number, true or false", |value| {
        text_or_number(value).or_else(|| Some(value.as_bool()?.to_string()))
    };

    listen: Listen, "IP:PORT, the path of a socket that begins with /, or \"systemd\"", |value| {
        match value.as_str()? {
            "systemd" => Some(Listen::Systemd),
            path if path.starts_with('/') => Some(Listen::Path(path.into())),
            address => address.parse().ok().map(Listen::Address),
        }
    };

    seed: u64, "a whole number from 0 on", Value::as_u64;
}

secret_kinds! {
    password: Secret, |text| {
        let good = !text.is_empty() && !text.contains('\0');
        good.then(|| Secret(text.to_owned())).ok_or("must be text that is not empty")
    };

    proxy: Url, |text| {
        let good = text.starts_with("http://") && ureq::Proxy::new(text).is_ok();
        good.then(|| text.into()).ok_or("must be the URL of an HTTP proxy, http://HOST:PORT")
    };

    url: Url, Url::parse;

    /// A list separated by commas; a comma in a password is written as %2C.
    urls: Vec<Url>, |list| list.split(',').map(|url| Url::parse(url.trim())).collect();
}

/// Whether a text may be part of a file name and of a topic name.
pub(super) fn is_word(text: &str) -> bool {
    const LONGEST: usize = 64;
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn whole<T: TryFrom<u64> + PartialOrd>(value: &Value, least: T, most: T) -> Option<T> {
    let number = T::try_from(value.as_u64()?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

fn seconds_between(value: &Value, least: f64, most: f64) -> Option<Duration> {
    let seconds = value.as_f64().filter(|seconds| (least..=most).contains(seconds))?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.contains('\0')).map(str::to_owned)
}

fn text_or_number(value: &Value) -> Option<String> {
    let number = || value.is_number().then(|| shown(value));
    text_of(value).or_else(number)
}
