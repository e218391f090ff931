//! One authenticated connection to Redis; each step has a time by which it must be over.
//!
//! Invariant: whether values were pushed is known for certain wherever it can be. Redis carries out a
//! transaction at its EXEC, so only an EXEC that was sent and not answered is unclear.
#![allow(clippy::wildcard_enum_match_arm, reason = "redis::Value is not ours and may get more variants")]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Connection, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerError,
};

use super::access::Target;
use super::values::Value;
use crate::config::settings;
use crate::csc::request::FailureKind;
use crate::lease::Lease;
use crate::text::{quote, quoted};

/// What may have become of what was asked for, and why, as the end of a sentence about Redis.
#[derive(Debug)]
pub(super) struct Trouble(pub(super) FailureKind, pub(super) String);

/// A connection that has given the password.
pub(super) struct Session {
    connection: Connection,
    response_timeout: Duration,
}

impl Session {
    /// Connects and gives the password.
    pub(super) fn open(target: &Target, settings: &settings::Redis, end: Instant) -> Result<Self, Trouble> {
        let connect_end = end.min(Instant::now() + settings.connect_timeout);
        let connection = connect(target, connect_end).map_err(|why| Trouble(FailureKind::NotSent, why))?;
        let mut session = Self { connection, response_timeout: settings.response_timeout };
        session.authenticate(target, end)?;
        Ok(session)
    }

    /// What the server says to a password is not shown: a strange one could repeat it.
    fn authenticate(&mut self, target: &Target, end: Instant) -> Result<(), Trouble> {
        self.send(redis::cmd("AUTH").arg(target.password.0.as_bytes()), end)?;
        let error = match self.receive(end)? {
            redis::Value::Okay => return Ok(()),
            redis::Value::ServerError(error) => error,
            _ => return Err(nonsense("AUTH")),
        };
        let details = error.details().unwrap_or_default();
        let why = if error.code() == "WRONGPASS" || details.contains("invalid password") {
            "refuses the password"
        } else if details.contains("without any password") {
            "wants no password: it has none set"
        } else {
            "does not let us in"
        };
        Err(Trouble(FailureKind::Refused, why.to_owned()))
    }

    /// Asks whether the server serves us.
    pub(super) fn ping(&mut self, end: Instant) -> Result<(), Trouble> {
        self.send(&redis::cmd("PING"), end)?;
        self.expect("PONG", "PING", end)
    }

    /// Pushes all values, in one transaction, if the lease is valid then. After a failure the session must not be used any
    /// more.
    pub(super) fn push(&mut self, values: &[Value], lease: &Lease, end: Instant) -> Result<(), Trouble> {
        self.prepare(values, end)?;
        if !lease.is_valid() {
            return Err(Trouble(FailureKind::NotSent, "was not asked to push".to_owned()));
        }
        // What could not be sent whole is not carried out.
        self.send(&redis::cmd("EXEC"), end)?;
        match self.receive(end) {
            Ok(redis::Value::Array(answers)) => judge(values, &answers),
            Ok(redis::Value::ServerError(error)) => Err(refused("EXEC", &error)),
            Ok(redis::Value::Nil) => Err(Trouble(FailureKind::Refused, "did not carry out EXEC".to_owned())),
            Ok(_) => Err(Trouble(FailureKind::Unclear, "answered EXEC with nonsense".to_owned())),
            Err(Trouble(_, why)) => Err(Trouble(FailureKind::Unclear, why)),
        }
    }

    /// Everything up to EXEC. Redis does not undo: a key that is no list would fail alone, after the others were
    /// pushed; so the types are asked for first.
    fn prepare(&mut self, values: &[Value], end: Instant) -> Result<(), Trouble> {
        let mut commands = redis::pipe();
        for Value { key, .. } in values {
            commands.cmd("TYPE").arg(key);
        }
        commands.cmd("MULTI");
        for Value { key, text } in values {
            commands.cmd("LPUSH").arg(key).arg(text);
        }
        self.send_packed(&commands.get_packed_pipeline(), end)?;
        for Value { key, .. } in values {
            match self.receive(end)? {
                redis::Value::SimpleString(kind) if kind == "none" || kind == "list" => {}
                redis::Value::SimpleString(kind) => {
                    let text = format!("holds a {} in {}, not a list", quote(kind), quoted(key));
                    return Err(Trouble(FailureKind::Refused, text));
                }
                // We may not be allowed to ask; then LPUSH fails by itself.
                redis::Value::ServerError(_) => {}
                _ => return Err(nonsense("TYPE")),
            }
        }
        self.expect("OK", "MULTI", end)?;
        values.iter().try_for_each(|_| self.expect("QUEUED", "LPUSH", end))
    }

    /// Receives the answer to a command that is to be this word.
    fn expect(&mut self, word: &str, command: &str, end: Instant) -> Result<(), Trouble> {
        match self.receive(end)? {
            redis::Value::Okay if word == "OK" => Ok(()),
            redis::Value::SimpleString(text) if text == word => Ok(()),
            redis::Value::ServerError(error) => Err(refused(command, &error)),
            _ => Err(nonsense(command)),
        }
    }

    fn send(&mut self, command: &redis::Cmd, end: Instant) -> Result<(), Trouble> {
        self.send_packed(&command.get_packed_command(), end)
    }

    fn send_packed(&mut self, commands: &[u8], end: Instant) -> Result<(), Trouble> {
        let sent = self.left(end).and_then(|left| {
            self.connection.set_write_timeout(Some(left))?;
            self.connection.send_packed_command(commands)
        });
        sent.map_err(|error| self.lost(&error))
    }

    fn receive(&mut self, end: Instant) -> Result<redis::Value, Trouble> {
        let received = self.left(end).and_then(|left| {
            self.connection.set_read_timeout(Some(left))?;
            self.connection.recv_response()
        });
        received.map_err(|error| self.lost(&error))
    }

    /// How long the next step may take.
    fn left(&self, end: Instant) -> Result<Duration, RedisError> {
        Ok(left(end)?.min(self.response_timeout))
    }

    fn lost(&self, error: &RedisError) -> Trouble {
        Trouble(
            FailureKind::NotSent,
            if error.is_timeout() {
                format!("gave no answer within {} s", self.response_timeout.as_secs_f64())
            } else if error.is_connection_dropped() {
                "closed the connection".to_owned()
            } else {
                format!("failed: {}", quote(error))
            },
        )
    }
}

/// Connects to the first address of the host that answers; all of them together have until `end`.
fn connect(target: &Target, end: Instant) -> Result<Connection, String> {
    let addresses = (target.host.as_str(), target.port).to_socket_addrs();
    let mut last = "has no address".to_owned();
    for address in addresses.map_err(|error| format!("cannot be found: {error}"))? {
        match connect_to(address, end) {
            Ok(connection) => return Ok(connection),
            Err(error) if error.is_timeout() => last = "cannot be reached: no answer in time".to_owned(),
            Err(error) if error.is_connection_refusal() => {
                last = "refuses the connection: is it running there?".to_owned();
            }
            Err(error) => last = format!("cannot be reached: {}", quote(error)),
        }
    }
    Err(last)
}

fn connect_to(address: SocketAddr, end: Instant) -> Result<Connection, RedisError> {
    let info = ConnectionAddr::Tcp(address.ip().to_string(), address.port()).into_connection_info()?;
    let redis = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(redis);
    Client::open(info)?.get_connection_with_timeout(left(end)?)
}

/// The time until `end`, if any is left.
fn left(end: Instant) -> Result<Duration, io::Error> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether the answers to EXEC say that every value was pushed.
fn judge(values: &[Value], answers: &[redis::Value]) -> Result<(), Trouble> {
    let pushed = answers.iter().filter(|answer| matches!(answer, redis::Value::Int(_))).count();
    let all = values.len();
    if pushed == all && pushed == answers.len() {
        return Ok(());
    }
    let failed = values.iter().zip(answers).find_map(|(value, answer)| match answer {
        redis::Value::ServerError(error) => Some(format!("{}: {}", quoted(&value.key), shown(error))),
        _ => None,
    });
    Err(match failed {
        Some(failed) if pushed == 0 => Trouble(FailureKind::Refused, format!("refuses LPUSH to {failed}")),
        Some(failed) => {
            Trouble(FailureKind::Wrong, format!("pushed only {pushed} of {all} values; it refuses {failed}"))
        }
        None => Trouble(FailureKind::Unclear, "answered EXEC with nonsense".to_owned()),
    })
}

fn refused(command: &str, error: &ServerError) -> Trouble {
    Trouble(FailureKind::Refused, format!("refuses {command}: {}", shown(error)))
}

fn nonsense(command: &str) -> Trouble {
    Trouble(FailureKind::Refused, format!("answered {command} with nonsense: is it Redis?"))
}

/// The server's error for people.
fn shown(error: &ServerError) -> String {
    quote(format_args!("{} {}", error.code(), error.details().unwrap_or_default()))
}
