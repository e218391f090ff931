//! The threads that carry out requests. What each may take, and in which order, is decided by [`Lanes`].

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::Backend;
use super::lanes::{self, Lanes, Role};
use crate::csc::request::{Outcome, Request};

/// Threads that carry out requests, each answered by one [`Outcome`]. They end with the process.
pub struct Workers(Arc<Shared>);

struct Shared {
    lanes: Mutex<Lanes>,
    /// These wake the threads of a pool that found nothing to do.
    control: Condvar,
    poll: Condvar,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next request of a role.
    fn take(&self, role: Role) -> Request {
        let pool = if role == Role::Poll { &self.poll } else { &self.control };
        let mut lanes = self.lanes();
        loop {
            if let Some(request) = lanes.take(role) {
                return request;
            }
            lanes = pool.wait(lanes).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Workers {
    /// Starts the threads, `connections` of them for polls; at most `capacity` requests wait for them.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        backend: &Arc<dyn Backend>,
        connections: usize,
        capacity: usize,
        outcomes: &Sender<Outcome>,
    ) -> io::Result<Self> {
        let lanes = Mutex::new(Lanes::new(capacity));
        let shared = Arc::new(Shared { lanes, control: Condvar::new(), poll: Condvar::new() });
        for (n, role) in lanes::threads(connections).enumerate() {
            let (shared, backend, outcomes) = (shared.clone(), backend.clone(), outcomes.clone());
            let run = move || {
                loop {
                    let Request { ticket, url, action } = shared.take(role);
                    let begun = Instant::now();
                    let answer = backend.perform(&url, &action);
                    let took = begun.elapsed();
                    if outcomes.send(Outcome { ticket, took, answer }).is_err() {
                        return;
                    }
                }
            };
            let pool = if role == Role::Poll { "poll" } else { "control" };
            thread::Builder::new().name(format!("{pool}-{n}")).spawn(run)?;
        }
        Ok(Self(shared))
    }

    /// Queues a request; one that finds no room fails as not sent.
    ///
    /// # Errors
    /// That failure.
    pub fn request(&self, request: Request) -> Result<(), Outcome> {
        let role = self.0.lanes().put(request)?;
        match role {
            Role::Poll => self.0.poll.notify_one(),
            // Not each of them takes everything.
            Role::Control | Role::NoPut => self.0.control.notify_all(),
        }
        Ok(())
    }

    /// How many requests wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lanes().len()
    }

    /// Takes back all requests that no thread has begun; they fail as not sent.
    #[must_use]
    pub fn cancel_queued(&self) -> Vec<Outcome> {
        self.0.lanes().cancel()
    }
}
