//! Times in which the process stood still: a virtual machine that is moved, a container that is frozen, a stop signal.
//!
//! Nobody could answer us then, so what others are waited for moves on by that time.

use std::time::Duration;

use super::event::LogLevel;
use super::job::{Running, Stage, SubmitStep};
use super::time::Time;
use super::{Csc, RunState};

/// A turn that comes so much later than a heartbeat was due comes after a pause.
const PAUSE_MIN: Duration = Duration::from_secs(5);

impl Csc {
    /// Notices that the process stood still before this turn.
    pub(super) fn note_pause(&mut self, now: Time) {
        let pause = now.mono.saturating_sub(self.next_heartbeat);
        if pause < PAUSE_MIN {
            return;
        }
        let line =
            format!("the process stood still for {:.1} s: nothing is given up for that", pause.as_secs_f64());
        self.ctx.log(LogLevel::Warning, line);
        // What comes before the next tick does not come after another pause. The beat is kept.
        self.next_heartbeat += Duration::from_secs(pause.as_secs());
        self.forgive_services(pause);
        self.forgive_lookups(pause);
        for job in self.jobs.values_mut() {
            forgive(&mut job.stage, pause);
        }
        for watch in self.watches.values_mut() {
            watch.poll.believed += pause;
        }
        self.announcements.forgive(pause);
        self.pushes.forgive(pause);
        if let RunState::Stopping { until } = &mut self.run_state {
            *until += pause;
        }
    }
}

fn forgive(stage: &mut Stage, pause: Duration) {
    match stage {
        Stage::Submitting(submitting) => {
            if let Some(trouble) = &mut submitting.trouble {
                *trouble += pause;
            }
            match &mut submitting.step {
                SubmitStep::InDoubt { ended, listed, .. } => {
                    *ended += pause;
                    if let Some(listed) = listed {
                        *listed += pause;
                    }
                }
                SubmitStep::Sending | SubmitStep::Pausing { .. } => {}
            }
        }
        Stage::Running(Running { poll, .. }) => poll.believed += pause,
        Stage::Recording { .. } | Stage::Waiting { .. } | Stage::Aborting { .. } => {}
    }
}
