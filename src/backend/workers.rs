//! The two worker pools: *control* makes, finds and removes jobs, *poll* asks how they are.
//!
//! They are apart so that a hanging poll never holds up an execute or an abort. Requests are taken in
//! the order DELETE, look-up, PUT: removing is what an operator waits for. One thread of control takes no PUT,
//! since each may hang for 30 s.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select_biased, unbounded};

use super::Backend;
use crate::csc::request::{Action, Contact, Failure, FailureKind, Outcome, Request};

/// Threads of the control pool that take everything.
const PUT_THREADS: usize = 2;
/// All threads of the control pool.
pub(super) const CONTROL_THREADS: usize = PUT_THREADS + 1;

/// A way in for requests, and out again when they are cancelled.
struct Queue {
    sender: Sender<Request>,
    receiver: Receiver<Request>,
    capacity: usize,
}

impl Queue {
    fn new(capacity: usize) -> Self {
        // Bounded by us, since only the main loop sends: a bounded channel takes its memory at once,
        // which for the most jobs that can be set would be 100 MB.
        let (sender, receiver) = unbounded();
        Self { sender, receiver, capacity }
    }

    /// Queues a request, or gives it back with the reason.
    fn put(&self, request: Request) -> Result<(), (Request, &'static str)> {
        if self.sender.len() >= self.capacity {
            return Err((request, "too many requests are queued"));
        }
        self.sender.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => {
                (request, "the workers have ended")
            }
        })
    }
}

/// Threads that carry out requests, each answered by one [`Outcome`].
pub struct Workers {
    delete: Queue,
    list: Queue,
    put: Queue,
    poll: Queue,
}

impl Workers {
    /// Starts the threads: three for control and `connections` for polls.
    ///
    /// `capacity` bounds each queue; the core never has more requests of one kind outstanding.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        backend: &Arc<dyn Backend>,
        connections: usize,
        capacity: usize,
        outcomes: &Sender<Outcome>,
    ) -> io::Result<Self> {
        let queue = || Queue::new(capacity);
        let workers = Self { delete: queue(), list: queue(), put: queue(), poll: queue() };
        for n in 0..CONTROL_THREADS {
            let (delete, list) = (workers.delete.receiver.clone(), workers.list.receiver.clone());
            let put = if n < PUT_THREADS { workers.put.receiver.clone() } else { never() };
            let (backend, outcomes) = (backend.clone(), outcomes.clone());
            thread::Builder::new().name(format!("control-{n}")).spawn(move || {
                loop {
                    let request = select_biased! {
                        recv(delete) -> request => request,
                        recv(list) -> request => request,
                        recv(put) -> request => request,
                    };
                    let Ok(request) = request else { return };
                    if outcomes.send(perform(&*backend, request)).is_err() {
                        return;
                    }
                }
            })?;
        }
        for n in 0..connections {
            let (poll, backend, outcomes) =
                (workers.poll.receiver.clone(), backend.clone(), outcomes.clone());
            thread::Builder::new().name(format!("poll-{n}")).spawn(move || {
                for request in poll {
                    if outcomes.send(perform(&*backend, request)).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(workers)
    }

    /// Queues a request; never blocks. One that finds its queue full fails as not sent.
    #[must_use]
    pub fn request(&self, request: Request) -> Option<Outcome> {
        let queue = match request.action {
            Action::Remove { .. } => &self.delete,
            Action::List { .. } => &self.list,
            Action::Submit(_) | Action::Push { .. } => &self.put,
            Action::Status { .. } | Action::Ping => &self.poll,
        };
        queue.put(request).err().map(|(request, reason)| not_sent(&request, reason))
    }

    /// Takes back all requests that no thread has begun; they fail as not sent.
    pub fn cancel_queued(&self) -> impl Iterator<Item = Outcome> {
        [&self.delete, &self.list, &self.put, &self.poll]
            .into_iter()
            .flat_map(|queue| queue.receiver.try_iter())
            .map(|request| not_sent(&request, "the daemon is stopping"))
    }
}

fn perform(backend: &dyn Backend, request: Request) -> Outcome {
    Outcome { ticket: request.ticket, answer: backend.perform(&request.url, &request.action) }
}

fn not_sent(request: &Request, reason: &str) -> Outcome {
    let failure =
        Failure { kind: FailureKind::NotSent, contact: Contact::NotAsked, reason: reason.to_owned() };
    Outcome { ticket: request.ticket, answer: request.action.failed(failure) }
}
