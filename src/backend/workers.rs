//! The threads that carry out requests, started when they are needed and ended when they are not. What is next, and how
//! much at once, is decided by [`Lanes`].

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Backend;
use super::lanes::{Ended, Lanes};
use crate::csc::request::{Outcome, Request};

/// A thread that has had nothing to do for so long ends, unless it is the last one.
const IDLE: Duration = Duration::from_secs(10);

/// Threads that carry out requests, each answered by one [`Outcome`]. There are never more than requests may be in
/// flight.
pub struct Workers(Arc<Pool>);

struct Pool {
    state: Mutex<State>,
    /// Wakes a thread that waits.
    work: Condvar,
    backend: Arc<dyn Backend>,
    outcomes: Sender<Outcome>,
}

struct State {
    lanes: Lanes,
    threads: usize,
    /// Threads that wait, or are about to start.
    idle: usize,
    /// How many of these were woken, or started, and have not looked for a request since.
    called: usize,
}

impl Workers {
    /// Starts the first thread. At most so many polls are in flight, and at most `capacity` requests wait.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        backend: Arc<dyn Backend>,
        connections: usize,
        capacity: usize,
        outcomes: Sender<Outcome>,
    ) -> io::Result<Self> {
        let lanes = Lanes::new(connections, capacity);
        let state = Mutex::new(State { lanes, threads: 0, idle: 0, called: 0 });
        let pool = Arc::new(Pool { state, work: Condvar::new(), backend, outcomes });
        pool.start_thread(&mut pool.state())?;
        Ok(Self(pool))
    }

    /// Queues a request; one that finds no room fails as not sent.
    ///
    /// # Errors
    /// That failure.
    pub fn request(&self, request: Request) -> Result<(), Outcome> {
        let mut state = self.0.state();
        state.lanes.put(request)?;
        self.0.wake(&mut state);
        Ok(())
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
    fn wake(self: &Arc<Self>, state: &mut State) {
        while state.lanes.ready() > state.called {
            if state.idle > state.called {
                state.called += 1;
                self.work.notify_one();
            } else if let Err(error) = self.start_thread(state) {
                log::debug!("a request waits for another, since no thread can be started: {error}");
                return;
            }
        }
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
            let begun = Instant::now();
            let answer = self.backend.perform(&url, &action);
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

    /// Waits for the next request; none: the thread is not needed any more. It was called.
    fn next(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Option<Request> {
        loop {
            state.called = state.called.saturating_sub(1);
            if let Some(request) = state.lanes.take() {
                state.idle -= 1;
                // Several may begin at once when the service takes more than before.
                self.wake(&mut state);
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
