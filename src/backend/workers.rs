//! The threads that carry out requests, started when they are needed and ended when they are not. [`Lanes`] decides which
//! request is next, and how many are in flight.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::lanes::{Ended, Lanes};
use super::{Backend, withheld};
use crate::csc::request::{Outcome, Request};
use crate::lease::Lease;
use crate::url::Url;

/// A thread ends that has had nothing to do for this long, unless it is the last one.
const IDLE: Duration = Duration::from_secs(10);

/// Threads that carry out requests; each request ends in one [`Outcome`]. There are never more threads than requests may be
/// in flight.
pub struct Workers(Arc<Pool>);

struct Pool {
    state: Mutex<State>,
    /// Wakes a thread that waits.
    work: Condvar,
    backend: Arc<dyn Backend>,
    lease: Lease,
    outcomes: Sender<Outcome>,
}

struct State {
    lanes: Lanes,
    threads: usize,
    /// Threads that wait, or are about to start.
    idle: usize,
    /// How many of the idle threads were woken or started, and have not looked for a request since.
    called: usize,
}

impl Workers {
    /// Starts the first thread. At most `connections` polls are in flight, and at most `capacity` requests wait. A request
    /// that changes something waits until the lease is confirmed; it fails as not sent if the lease ends.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        backend: Arc<dyn Backend>,
        lease: Lease,
        connections: usize,
        capacity: usize,
        outcomes: Sender<Outcome>,
    ) -> io::Result<Self> {
        let lanes = Lanes::new(connections, capacity);
        let state = Mutex::new(State { lanes, threads: 0, idle: 0, called: 0 });
        let pool = Arc::new(Pool { state, work: Condvar::new(), backend, lease, outcomes });
        pool.start_thread(&mut pool.state())?;
        Ok(Self(pool))
    }

    /// Queues a request.
    ///
    /// # Errors
    /// There is no room: the request fails as not sent.
    pub fn request(&self, request: Request) -> Result<(), Outcome> {
        let mut state = self.0.state();
        state.lanes.put(request)?;
        self.0.wake(state);
        Ok(())
    }

    /// See [`Backend::configured`].
    pub fn configured(&self, url: &Url) {
        self.0.backend.configured(url);
    }

    /// How many requests wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state().lanes.len()
    }

    /// Takes back all requests that no thread has begun; they fail as not sent.
    #[must_use]
    pub fn cancel_queued(&self) -> Vec<Outcome> {
        self.0.state().lanes.cancel()
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that there is a thread for each request that may begin.
    fn wake(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut woken = 0;
        while state.lanes.ready() > state.called {
            if state.idle > state.called {
                state.called += 1;
                woken += 1;
            } else if let Err(error) = self.start_thread(&mut state) {
                log::debug!("a request waits for another, since no thread can be started: {error}");
                break;
            }
        }
        // A thread that is woken takes this lock at once.
        drop(state);
        (0..woken).for_each(|_| self.work.notify_one());
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let pool = Arc::clone(self);
        thread::Builder::new().name("request".to_owned()).spawn(move || pool.run())?;
        state.threads += 1;
        state.idle += 1;
        state.called += 1;
        Ok(())
    }

    fn run(self: &Arc<Self>) {
        let mut next = self.next(self.state());
        while let Some(Request { ticket, url, action }) = next {
            let is_permitted = !action.is_change() || self.lease.wait();
            let begun = Instant::now();
            let answer =
                if is_permitted { self.backend.perform(&url, &action) } else { action.failed(withheld()) };
            let outcome = Outcome { ticket, took: begun.elapsed(), answer };
            let ended = Ended::from(&outcome);
            if self.outcomes.send(outcome).is_err() {
                return;
            }
            let mut state = self.state();
            state.lanes.ended(ended);
            state.idle += 1;
            state.called += 1;
            next = self.next(state);
        }
    }

    /// A thread that was called waits for the next request; none: it is not needed any more.
    fn next(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Option<Request> {
        loop {
            state.called = state.called.saturating_sub(1);
            if let Some(request) = state.lanes.take() {
                state.idle -= 1;
                // More may begin at once when the service proves to take more PUTs.
                self.wake(state);
                return Some(request);
            }
            let (woken, waited) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            let is_needed = state.lanes.ready() > 0 || state.called > 0 || state.threads == 1;
            if waited.timed_out() && !is_needed {
                state.idle -= 1;
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, unbounded};

    use super::*;
    use crate::clock::Moment;
    use crate::csc::id::JobId;
    use crate::csc::request::{Action, Answer, Failure, RemoveAnswer, Ticket};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Says what it is asked, and answers when it is allowed to.
    struct Service(Sender<&'static str>, Receiver<()>);

    impl Backend for Service {
        fn ping(&self, _url: &Url) -> Result<(), Failure> {
            self.0.send("ping").unwrap();
            Ok(())
        }

        fn remove(&self, _url: &Url, _job_id: &JobId) -> Result<RemoveAnswer, Failure> {
            self.0.send("remove").unwrap();
            self.1.recv_timeout(PATIENCE).unwrap();
            Ok(RemoveAnswer::Gone)
        }
    }

    #[test]
    fn what_changes_something_waits_for_the_lease_and_is_never_begun_once_that_has_ended() {
        let (asked_sender, asked) = unbounded();
        let (answer, answers) = unbounded();
        let (outcome_sender, outcomes) = unbounded();
        let lease = Lease::unconfirmed();
        let service = Arc::new(Service(asked_sender, answers));
        let workers = Workers::start(service, lease.clone(), 1, 100, outcome_sender).unwrap();
        let request = |ticket, action| {
            workers.request(Request { ticket: Ticket(ticket), url: "".into(), action }).unwrap()
        };
        let remove = || Action::Remove { job_id: JobId::parse("x").unwrap() };
        // More than may be in flight.
        (0..10).for_each(|ticket| request(ticket, remove()));
        request(10, Action::Ping);
        assert_eq!(asked.recv_timeout(PATIENCE), Ok("ping"));
        assert!(asked.is_empty());
        lease.confirm(Some(Moment::now()));
        for _ in 0..8 {
            assert_eq!(asked.recv_timeout(PATIENCE), Ok("remove"));
        }
        lease.end();
        (0..8).for_each(|_| answer.send(()).unwrap());
        let failed = (0..11).filter(|_| {
            let outcome = outcomes.recv_timeout(PATIENCE).unwrap();
            matches!(outcome.answer, Answer::Remove(Err(_)))
        });
        assert_eq!((failed.count(), asked.len()), (2, 0));
    }
}
