//! One authenticated connection to Redis; each step has a time by which it must be over.
//!
//! Invariant: whether values were pushed is known for certain wherever it can be. Redis carries out a
//! transaction at its EXEC, so only an EXEC that was sent and not answered is unclear.
#![allow(clippy::wildcard_enum_match_arm, reason = "redis::Value is not ours and may get more variants")]

use std::io;
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Connection, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, ServerError,
};

use super::access::Target;
use super::values::Value;
use crate::config::settings;
use crate::csc::request::FailureKind;
use crate::lease::Lease;
use crate::text::{quote, quoted};

/// What a failed step may have done, and why it failed, as the end of a sentence that begins with `Redis at host:port`.
#[derive(Debug)]
pub(super) struct Trouble(pub(super) FailureKind, pub(super) String);

/// A connection that has given the password.
pub(super) struct Session {
    connection: Connection,
    response_timeout: Duration,
}

impl Session {
    /// Connects and gives the password, within the time limit for connecting.
    pub(super) fn open(target: &Target, settings: &settings::Redis, end: Instant) -> Result<Self, Trouble> {
        let redis = RedisConnectionInfo::default()
            .set_password(target.password.0.as_str())
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let connection = || {
            let info = ConnectionAddr::Tcp(target.host.clone(), target.port).into_connection_info()?;
            let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
            let time = left(end)?.min(settings.connect_timeout);
            Client::open(info.set_redis_settings(redis))?.get_connection_with_timeout(time)
        };
        match connection() {
            Ok(connection) => Ok(Self { connection, response_timeout: settings.response_timeout }),
            // What the server says to a password is not shown: a strange one could repeat it.
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(Trouble(FailureKind::Refused, "refuses the password".to_owned()))
            }
            Err(error) => Err(lost(&error)),
        }
    }

    /// Asks whether the server answers.
    pub(super) fn ping(&mut self, end: Instant) -> Result<(), Trouble> {
        self.send(&redis::cmd("PING"), end)?;
        self.expect("PONG", "PING", end)
    }

    /// Pushes all values in one transaction, if the lease is valid when that is sent. After a failure the session must not be
    /// used any more.
    pub(super) fn push(&mut self, values: &[Value], lease: &Lease, end: Instant) -> Result<(), Trouble> {
        self.prepare(values, end)?;
        if !lease.is_valid() {
            return Err(Trouble(FailureKind::NotSent, "was not asked to push".to_owned()));
        }
        // An EXEC that could not be sent whole is not carried out.
        self.send(&redis::cmd("EXEC"), end)?;
        match self.receive(end) {
            Ok(redis::Value::Array(answers)) => judge(values, &answers),
            Ok(redis::Value::ServerError(error)) => Err(refused("EXEC", &error)),
            Ok(redis::Value::Nil) => Err(Trouble(FailureKind::Refused, "did not carry out EXEC".to_owned())),
            Ok(_) => Err(Trouble(FailureKind::Unclear, "answered EXEC with nonsense".to_owned())),
            Err(Trouble(_, why)) => Err(Trouble(FailureKind::Unclear, why)),
        }
    }

    /// Sends everything up to EXEC. Redis does not roll back: the push to a key that is no list would fail alone, and the
    /// other values would be pushed. So the types are asked for first.
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
                // Perhaps TYPE is not allowed. If the key is no list, its LPUSH fails.
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
        sent.map_err(|error| lost(&error))
    }

    fn receive(&mut self, end: Instant) -> Result<redis::Value, Trouble> {
        let received = self.left(end).and_then(|left| {
            self.connection.set_read_timeout(Some(left))?;
            self.connection.recv_response()
        });
        received.map_err(|error| lost(&error))
    }

    /// How long the next step may take.
    fn left(&self, end: Instant) -> Result<Duration, RedisError> {
        Ok(left(end)?.min(self.response_timeout))
    }
}

/// The trouble of a connection that fails, or cannot be made.
fn lost(error: &RedisError) -> Trouble {
    let why = if error.is_timeout() {
        "gave no answer in time".to_owned()
    } else if error.is_connection_refusal() {
        "refuses the connection: is it running there?".to_owned()
    } else if error.is_connection_dropped() {
        "closed the connection".to_owned()
    } else {
        format!("cannot be reached: {}", quote(error))
    };
    Trouble(FailureKind::NotSent, why)
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
