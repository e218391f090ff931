//! Which request waits in which lane, and which thread may take what: a value, without the threads.
//!
//! There are two pools: *control* makes, finds and removes jobs, *poll* asks how they are. They are apart so that a
//! hanging poll never holds up an execute or an abort. Control takes DELETE before look-ups before PUT: removing is
//! what an operator waits for. One of its threads takes no PUT, since each may hang for 30 s.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use crate::csc::request::{Action, Contact, Failure, FailureKind, Outcome, Request, Ticket};

/// Threads of the control pool.
pub(super) const CONTROL_THREADS: usize = CONTROL.len();
const CONTROL: [Role; 3] = [Role::Control, Role::Control, Role::NoPut];

/// The threads that there are, of which `connections` poll.
pub fn threads(connections: usize) -> impl Iterator<Item = Role> {
    CONTROL.into_iter().chain(iter::repeat_n(Role::Poll, connections))
}

/// What a thread may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All lanes of the control pool.
    Control,
    /// These without PUT.
    NoPut,
    /// The lane of the poll pool.
    Poll,
}

/// The first ones are the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Delete,
    List,
    Put,
    Poll,
}

/// The requests that no thread has begun. The tickets of a lane are in the order in which they came.
#[derive(Debug)]
pub struct Lanes {
    waiting: BTreeMap<(Lane, Ticket), Request>,
    capacity: usize,
}

impl Lanes {
    /// Empty lanes for so many requests; the core never has more outstanding.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { waiting: BTreeMap::new(), capacity }
    }

    /// Queues a request, and says which role can take it.
    ///
    /// # Errors
    /// There is no room: it fails as not sent.
    pub fn put(&mut self, request: Request) -> Result<Role, Outcome> {
        if self.len() >= self.capacity {
            return Err(not_sent(&request, "too many requests are queued"));
        }
        let (lane, role) = match request.action {
            Action::Remove { .. } => (Lane::Delete, Role::NoPut),
            Action::List { .. } => (Lane::List, Role::NoPut),
            Action::Submit(_) | Action::Push { .. } => (Lane::Put, Role::Control),
            Action::Status { .. } | Action::Ping => (Lane::Poll, Role::Poll),
        };
        self.waiting.insert((lane, request.ticket), request);
        Ok(role)
    }

    /// The next request for a thread of this role.
    pub fn take(&mut self, role: Role) -> Option<Request> {
        let (first, last) = match role {
            Role::Control => (Lane::Delete, Lane::Put),
            Role::NoPut => (Lane::Delete, Lane::List),
            Role::Poll => (Lane::Poll, Lane::Poll),
        };
        let mut range = self.waiting.range((first, Ticket(0))..=(last, Ticket(u64::MAX)));
        let key = *range.next()?.0;
        self.waiting.remove(&key)
    }

    /// Takes all requests back; they fail as not sent.
    pub fn cancel(&mut self) -> Vec<Outcome> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.values().map(|request| not_sent(request, "the daemon is stopping")).collect()
    }

    /// How many requests wait.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is not asked")]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn not_sent(request: &Request, reason: &str) -> Outcome {
    let failure =
        Failure { kind: FailureKind::NotSent, contact: Contact::NotAsked, reason: reason.to_owned() };
    Outcome { ticket: request.ticket, took: Duration::ZERO, answer: request.action.failed(failure) }
}
