//! What the log says of a service: each change at once, but only some lines a minute, and then one that counts.
//!
//! Hundreds of jobs fail together when their service does: what fails by its silence is counted, not said for each.

use std::time::Duration;

use crate::url::Url;

use super::Csc;
use super::contact::Health;
use super::event::LogLevel;

/// What is left out is counted for so long.
const MINUTE: Duration = Duration::from_secs(60);
/// Most lines about one service in that time, besides the one that counts.
const LINES_MAX: u32 = 4;

/// What was said of a service in the present minute, and what happened.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// When it began; none after one in which nothing was left out.
    since: Option<Duration>,
    lines: u32,
    /// Whether something was not said.
    left_out: bool,
    /// How often it fell silent.
    losses: u32,
    failures: u32,
}

impl Notices {
    fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + MINUTE)
    }
}

impl Csc {
    /// Logs a line about a service, or leaves it out if there were enough in this minute.
    pub(super) fn log_of_service(&mut self, url: &Url, level: LogLevel, line: String) {
        let notices = self.notices(url);
        if notices.lines < LINES_MAX {
            notices.lines += 1;
            self.ctx.log(level, line);
        } else {
            notices.left_out = true;
        }
    }

    /// Something that concerns a service is only counted.
    pub(super) fn leave_out(&mut self, url: &Url) {
        self.notices(url).left_out = true;
    }

    pub(super) fn count_loss(&mut self, url: &Url) {
        self.notices(url).losses += 1;
    }

    pub(super) fn count_failure(&mut self, url: &Url) {
        self.notices(url).failures += 1;
    }

    fn notices(&mut self, url: &Url) -> &mut Notices {
        let notices = &mut self.services.entry(url.clone()).or_default().notices;
        notices.since.get_or_insert(self.ctx.now.mono);
        notices
    }

    pub(super) fn notices_due(&self) -> Option<Duration> {
        self.services.values().filter_map(|health| health.notices.due()).min()
    }

    /// Says what was left out.
    pub(super) fn advance_notices(&mut self) {
        let now = self.ctx.now.mono;
        let mut lines = Vec::new();
        for health in
            self.services.values_mut().filter(|health| health.notices.due().is_some_and(|due| due <= now))
        {
            let notices = std::mem::take(&mut health.notices);
            if notices.left_out {
                lines.push(summary(&notices, health, now));
                health.notices.since = Some(now);
            }
        }
        for line in lines {
            self.ctx.log(LogLevel::Warning, line);
        }
    }
}

fn summary(notices: &Notices, health: &Health, now: Duration) -> String {
    let Notices { since, losses, failures, .. } = notices;
    let time = now.saturating_sub(since.unwrap_or(now)).as_secs_f64();
    let state = match health.silent_for(now) {
        Some(silent_for) => format!("it has not answered for {:.1} s", silent_for.as_secs_f64()),
        None => "it answers now".to_owned(),
    };
    let last = health.last_reason();
    format!(
        "the service in the last {time:.0} s: losses of contact: {losses}, failed requests: {failures}, the last: {last}; \
         {state}"
    )
}
