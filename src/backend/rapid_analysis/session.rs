//! One connection to Redis: let in with a password, with a time by which each step must be over.
//!
//! Invariant: it tells for sure whether values were pushed wherever that can be known. Redis carries out a
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
use crate::text::{quote, quoted};

/// Why something did not work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection, or it was lost; nothing was carried out.
    Lost(String),
    /// The server said no, or spoke nonsense; nothing was carried out.
    Refused(String),
    /// It may have been carried out.
    Unclear(String),
    /// Some of it was carried out.
    Partial(String),
}

/// Times that a session keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) response: Duration,
}

/// A connection that was let in.
pub(super) struct Session {
    connection: Connection,
    response_timeout: Duration,
}

impl Session {
    /// Connects and gives the password.
    pub(super) fn open(target: &Target, timeouts: Timeouts, end: Instant) -> Result<Self, Trouble> {
        let connect_end = end.min(Instant::now() + timeouts.connect);
        let connection = connect(target, connect_end).map_err(Trouble::Lost)?;
        let mut session = Self { connection, response_timeout: timeouts.response };
        session.authenticate(target, end)?;
        Ok(session)
    }

    /// What the server says to a password is not shown: a strange one could repeat it.
    fn authenticate(&mut self, target: &Target, end: Instant) -> Result<(), Trouble> {
        let command = redis::cmd("AUTH").arg(target.password.0.as_bytes()).get_packed_command();
        self.send(&command, end).map_err(|error| self.lost(&error))?;
        match self.receive(end).map_err(|error| self.lost(&error))? {
            redis::Value::Okay => Ok(()),
            redis::Value::ServerError(error) => {
                let details = error.details().unwrap_or_default();
                Err(Trouble::Refused(
                    if error.code() == "WRONGPASS" || details.contains("invalid password") {
                        "refuses the password".to_owned()
                    } else if details.contains("without any password") {
                        "wants no password: it has none set".to_owned()
                    } else {
                        "does not let us in".to_owned()
                    },
                ))
            }
            _ => Err(nonsense("AUTH")),
        }
    }

    /// Asks whether the server is there for us.
    pub(super) fn ping(&mut self, end: Instant) -> Result<(), Trouble> {
        self.send(&redis::cmd("PING").get_packed_command(), end).map_err(|error| self.lost(&error))?;
        match self.receive(end).map_err(|error| self.lost(&error))? {
            redis::Value::SimpleString(pong) if pong == "PONG" => Ok(()),
            redis::Value::ServerError(error) => Err(refused("PING", &error)),
            _ => Err(nonsense("PING")),
        }
    }

    /// Pushes all values, in one transaction. After a failure the session must not be used any more.
    pub(super) fn push(&mut self, values: &[Value], end: Instant) -> Result<(), Trouble> {
        self.prepare(values, end)?;
        let exec = redis::cmd("EXEC").get_packed_command();
        // What could not be sent whole is not carried out.
        self.send(&exec, end).map_err(|error| self.lost(&error))?;
        match self.receive(end) {
            Ok(redis::Value::Array(answers)) => judge(values, &answers),
            Ok(redis::Value::ServerError(error)) => Err(refused("EXEC", &error)),
            Ok(redis::Value::Nil) => Err(Trouble::Refused("did not carry out EXEC".to_owned())),
            Ok(_) => Err(Trouble::Unclear("answered EXEC with nonsense".to_owned())),
            Err(error) => Err(Trouble::Unclear(self.words(&error))),
        }
    }

    /// Everything up to EXEC. Redis does not undo: a key that is no list would fail alone, after the others were
    /// pushed; so the types are asked for first.
    fn prepare(&mut self, values: &[Value], end: Instant) -> Result<(), Trouble> {
        let mut commands = Vec::new();
        for Value { key, .. } in values {
            commands.extend(redis::cmd("TYPE").arg(key).get_packed_command());
        }
        commands.extend(redis::cmd("MULTI").get_packed_command());
        for Value { key, text } in values {
            commands.extend(redis::cmd("LPUSH").arg(key).arg(text).get_packed_command());
        }
        self.send(&commands, end).map_err(|error| self.lost(&error))?;
        for Value { key, .. } in values {
            match self.receive(end).map_err(|error| self.lost(&error))? {
                redis::Value::SimpleString(kind) if kind == "none" || kind == "list" => {}
                redis::Value::SimpleString(kind) => {
                    let text = format!("holds a {} in {}, not a list", quote(kind), quoted(key));
                    return Err(Trouble::Refused(text));
                }
                // We may not be allowed to ask; then LPUSH will tell.
                redis::Value::ServerError(_) => {}
                _ => return Err(nonsense("TYPE")),
            }
        }
        match self.receive(end).map_err(|error| self.lost(&error))? {
            redis::Value::Okay => {}
            redis::Value::ServerError(error) => return Err(refused("MULTI", &error)),
            _ => return Err(nonsense("MULTI")),
        }
        for _ in values {
            match self.receive(end).map_err(|error| self.lost(&error))? {
                redis::Value::SimpleString(queued) if queued == "QUEUED" => {}
                redis::Value::ServerError(error) => return Err(refused("LPUSH", &error)),
                _ => return Err(nonsense("LPUSH")),
            }
        }
        Ok(())
    }

    fn send(&mut self, commands: &[u8], end: Instant) -> Result<(), RedisError> {
        self.connection.set_write_timeout(Some(self.left(end)?))?;
        self.connection.send_packed_command(commands)
    }

    fn receive(&mut self, end: Instant) -> Result<redis::Value, RedisError> {
        self.connection.set_read_timeout(Some(self.left(end)?))?;
        self.connection.recv_response()
    }

    /// How long the next step may take.
    fn left(&self, end: Instant) -> Result<Duration, io::Error> {
        left(end).map(|left| left.min(self.response_timeout))
    }

    fn lost(&self, error: &RedisError) -> Trouble {
        Trouble::Lost(self.words(error))
    }

    fn words(&self, error: &RedisError) -> String {
        if error.is_timeout() {
            return format!("gave no answer within {} s", self.response_timeout.as_secs_f64());
        }
        if error.is_connection_dropped() {
            return "closed the connection".to_owned();
        }
        format!("failed: {}", quote(error))
    }
}

/// Connects to the first address of the host that answers; all of them together have until `end`.
fn connect(target: &Target, end: Instant) -> Result<Connection, String> {
    let addresses = (target.host.as_str(), target.port).to_socket_addrs();
    let addresses: Vec<SocketAddr> =
        addresses.map_err(|error| format!("cannot be found: {error}"))?.collect();
    let mut last = "has no address".to_owned();
    for address in addresses {
        let opened = left(end).map_err(RedisError::from).and_then(|left| connect_to(address, left));
        match opened {
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

fn connect_to(address: SocketAddr, timeout: Duration) -> Result<Connection, RedisError> {
    let info = ConnectionAddr::Tcp(address.ip().to_string(), address.port()).into_connection_info()?;
    let redis = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(redis);
    Client::open(info)?.get_connection_with_timeout(timeout)
}

/// The time until `end`, if any is left.
fn left(end: Instant) -> Result<Duration, io::Error> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether the answers to EXEC say that every value was pushed.
fn judge(values: &[Value], answers: &[redis::Value]) -> Result<(), Trouble> {
    let pushed = answers.iter().filter(|answer| matches!(answer, redis::Value::Int(_))).count();
    if pushed == values.len() && pushed == answers.len() {
        return Ok(());
    }
    let failed = values.iter().zip(answers).find_map(|(value, answer)| match answer {
        redis::Value::ServerError(error) => Some(format!("{}: {}", quoted(&value.key), said(error))),
        _ => None,
    });
    match failed {
        Some(failed) if pushed == 0 => Err(Trouble::Refused(format!("refuses LPUSH to {failed}"))),
        Some(failed) => Err(Trouble::Partial(format!(
            "pushed only {pushed} of {} values; it refuses {failed}",
            values.len()
        ))),
        None => Err(Trouble::Unclear("answered EXEC with nonsense".to_owned())),
    }
}

fn refused(command: &str, error: &ServerError) -> Trouble {
    Trouble::Refused(format!("refuses {command}: {}", said(error)))
}

fn nonsense(command: &str) -> Trouble {
    Trouble::Refused(format!("answered {command} with nonsense: is it Redis?"))
}

/// What the server said.
fn said(error: &ServerError) -> String {
    quote(format_args!("{} {}", error.code(), error.details().unwrap_or_default()))
}
