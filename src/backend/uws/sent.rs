//! Whether a request was sent. What fails before its head went out whole has done nothing at the service.
//!
//! The library does not report it. But it sends in the thread that makes the request, so that the connection can
//! note it for that thread.

use std::cell::Cell;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

thread_local! {
    static IS_SENT: Cell<bool> = const { Cell::new(false) };
}

/// Carries out a request; gives whether it has left us, too.
pub(super) fn watch<T>(send: impl FnOnce() -> T) -> (T, bool) {
    IS_SENT.set(false);
    let result = send();
    (result, IS_SENT.get())
}

/// Wraps each connection into one that notes what is sent.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Whether requests go through a proxy: what is sent to make it connect is no request.
    pub(super) has_proxy: bool,
}

impl<In: Transport> Connector<In> for Watcher {
    type Out = Watched<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let is_to_proxy = self.has_proxy && details.config.proxy().is_none();
        Ok(chained.map(|inner| Watched { inner, is_to_proxy }))
    }
}

#[derive(Debug)]
pub(super) struct Watched<In> {
    inner: In,
    is_to_proxy: bool,
}

impl<In: Transport> Transport for Watched<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
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
