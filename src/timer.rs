//! The poll-timer thread: receives deadlines and sends a tick when the last one is reached.

use std::io;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// The deadline that was set last is reached. A stale tick is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick;

/// Starts the timer.
///
/// Each deadline that is sent replaces the one before. The thread ends when the sender is dropped.
///
/// # Errors
/// When the system refuses a thread.
pub fn start() -> io::Result<(Sender<Instant>, Receiver<Tick>)> {
    let (deadlines, deadline) = bounded::<Instant>(16);
    // While one tick waits, a second one would add nothing.
    let (tick, ticks) = bounded(1);
    thread::Builder::new().name("timer".to_owned()).spawn(move || {
        let mut next = deadline.recv().map_err(RecvTimeoutError::from);
        loop {
            next = match next {
                Ok(due) => deadline.recv_deadline(due),
                Err(RecvTimeoutError::Timeout) => {
                    let _ = tick.try_send(Tick);
                    deadline.recv().map_err(RecvTimeoutError::from)
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    })?;
    Ok((deadlines, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_deadline_counts_and_ticks_once() {
        let (deadlines, ticks) = start().unwrap();
        let now = Instant::now();
        deadlines.send(now + Duration::from_secs(3600)).unwrap();
        deadlines.send(now + Duration::from_millis(20)).unwrap();
        assert_eq!(ticks.recv_timeout(Duration::from_secs(10)), Ok(Tick));
        assert!(now.elapsed() >= Duration::from_millis(20));
        assert!(ticks.recv_timeout(Duration::from_millis(50)).is_err());
        drop(deadlines);
        assert!(ticks.recv_timeout(Duration::from_secs(10)).is_err());
    }
}
