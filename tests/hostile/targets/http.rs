//! An agent whose every connection brings the same bytes, whatever is asked: the whole way of an answer,
//! HTTP included, without a network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum End {
    #[default]
    Closed,
    Reset,
    /// Nothing comes any more.
    Silence,
}

/// What a connection brings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) bytes: Arc<[u8]>,
    /// Most bytes that come at once.
    pub(crate) piece: usize,
    pub(crate) end: End,
}

impl Script {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), piece: usize::MAX, end: End::Closed }
    }
}

/// The far end; its answer can be changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct FarEnd(Arc<Mutex<Script>>);

impl FarEnd {
    pub(crate) fn new(script: Script) -> Self {
        Self(Arc::new(Mutex::new(script)))
    }

    pub(crate) fn set(&self, script: Script) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }
}

impl Connector for FarEnd {
    type Out = Pipe;

    fn connect(&self, details: &ConnectionDetails<'_>, _chained: Option<()>) -> Result<Option<Pipe>, Error> {
        let script = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = details.config;
        // No larger than what they will hold, since to clear them would be most of the work.
        let input = config.input_buffer_size().min(script.bytes.len() + 1024);
        let buffers = LazyBuffers::new(input, config.output_buffer_size().min(8 << 10));
        Ok(Some(Pipe { buffers, script, begin: 0 }))
    }
}

/// A connection.
pub(crate) struct Pipe {
    buffers: LazyBuffers,
    script: Script,
    /// Where the bytes begin that have not come yet.
    begin: usize,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl Transport for Pipe {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _amount: usize, _timeout: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let rest = &self.script.bytes[self.begin..];
        if rest.is_empty() {
            return match self.script.end {
                End::Closed => Ok(false),
                End::Reset => Err(Error::Io(io::ErrorKind::ConnectionReset.into())),
                End::Silence => Err(Error::Timeout(timeout.reason)),
            };
        }
        let room = self.buffers.input_append_buf();
        // Small pieces only at the beginning, where they matter: each costs ureq a look at all its buffer.
        let piece = if self.begin < 2_000 { self.script.piece } else { usize::MAX };
        let amount = room.len().min(rest.len()).min(piece);
        room[..amount].copy_from_slice(&rest[..amount]);
        self.begin += amount;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.begin < self.script.bytes.len()
    }
}

/// Finds every host at once: a redirect must not make a test ask a name server.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut found = self.empty();
        found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        Ok(found)
    }
}
