//! Times in which the process stood still: a virtual machine that is moved, a container that is frozen, a stop signal.
//!
//! Nobody could answer us then, so what others are waited for moves on by that time.

use std::time::Duration;

use super::Csc;
use super::time::Time;
use super::timers::Timer;

/// A turn that comes so much later than a heartbeat was due comes after a pause.
const PAUSE_MIN: Duration = Duration::from_secs(5);

impl Csc {
    /// Notices that the process stood still before this turn.
    pub(super) fn note_pause(&mut self, now: Time) {
        let ctx = &mut self.ctx;
        let Some(next_heartbeat) = ctx.timers.time_of(&Timer::Heartbeat) else { return };
        let pause = now.mono.saturating_sub(next_heartbeat);
        if pause < PAUSE_MIN {
            return;
        }
        let line =
            format!("the process stood still for {:.1} s, which count towards no limit", pause.as_secs_f64());
        ctx.warn(line);
        // What comes before the next tick does not come after another pause. The beat is kept.
        ctx.timers.set(Timer::Heartbeat, Some(next_heartbeat + Duration::from_secs(pause.as_secs())));
        self.services.forgive(ctx, pause);
        self.lookups.forgive(ctx, pause);
        self.jobs.update_times(ctx, |_, job| job.forgive(pause));
        self.polls.forgive(ctx, pause);
        self.announcements.forgive(pause);
        self.pushes.forgive(ctx, pause);
        let stop = ctx.timers.time_of(&Timer::Stop);
        ctx.timers.set(Timer::Stop, stop.map(|time| time + pause));
    }
}
