//! Whether a request was sent. One that fails before its whole head is sent has done nothing at the service. One that
//! changes something is sent only while the lease is valid, however long it took to connect.
//!
//! The HTTP library does not report that. But it sends in the thread that makes the request, so that the connection can
//! note it in a variable of that thread.

use std::cell::Cell;
use std::io;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use crate::lease::Lease;

thread_local! {
    static IS_SENT: Cell<bool> = const { Cell::new(false) };
    static IS_CHANGE: Cell<bool> = const { Cell::new(false) };
}

/// Carries out a request; gives its result and whether it was sent.
pub(super) fn watch<T>(is_change: bool, send: impl FnOnce() -> T) -> (T, bool) {
    IS_SENT.set(false);
    IS_CHANGE.set(is_change);
    let result = send();
    (result, IS_SENT.get())
}

/// Wraps each connection into one that notes what is sent.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Whether requests go through a proxy: what makes the proxy connect is no request.
    pub(super) has_proxy: bool,
    pub(super) lease: Lease,
}

impl<In: Transport> Connector<In> for Watcher {
    type Out = Watched<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let is_to_proxy = self.has_proxy && details.config.proxy().is_none();
        Ok(chained.map(|inner| Watched { inner, is_to_proxy, lease: self.lease.clone() }))
    }
}

#[derive(Debug)]
pub(super) struct Watched<In> {
    inner: In,
    is_to_proxy: bool,
    lease: Lease,
}

impl<In: Transport> Transport for Watched<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if IS_CHANGE.get() && !self.lease.is_valid() {
            return Err(io::Error::other("the lease has ended").into());
        }
        self.inner.transmit_output(amount, timeout)?;
        IS_SENT.set(IS_SENT.get() || !self.is_to_proxy);
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
