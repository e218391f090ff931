//! `ocps watch`: events as they come.

use std::time::{Duration, Instant};

use super::Failure;
use super::client::{Client, Event, Message, Next, refused};
use super::event_text::{HEARTBEAT, event_line, summary_state};
use super::flags::WatchArgs;
use super::output::Output;
use crate::csc::state::SummaryState;

/// How often we look whether anybody still reads, when there is nothing to print.
const READER_CHECK: Duration = Duration::from_millis(500);

/// Runs `ocps watch`.
///
/// # Errors
/// When the daemon goes away without having gone OFFLINE, and whatever breaks before.
pub(super) fn run(args: &WatchArgs, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    client.subscribe()?;
    let mut last_state = None;
    loop {
        let line = match client.next(Some(Instant::now() + READER_CHECK)) {
            Next::Line(line) => line,
            Next::Timeout | Next::Interrupted => {
                out.expect_reader()?;
                continue;
            }
            Next::Lost(_) if last_state == Some(SummaryState::Offline) => return Ok(()),
            Next::Lost(reason) => return Err(Failure::Failed(format!("{reason} without going OFFLINE"))),
        };
        match &line.message {
            Message::Event(event) => {
                last_state = summary_state(event).or(last_state);
                if is_wanted(event, &args.topics) {
                    let text = if args.json { line.raw } else { event_line(out.palette(), event) };
                    out.line(&text)?;
                } else {
                    out.expect_reader()?;
                }
            }
            Message::Error(reason) => return Err(Failure::Failed(refused(reason))),
            Message::Ack(_) | Message::Status(_) | Message::Jobs(_) | Message::Other => {}
        }
    }
}

fn is_wanted(event: &Event, topics: &[&str]) -> bool {
    if topics.is_empty() { event.topic != HEARTBEAT } else { topics.contains(&event.topic.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_only_when_it_is_named() {
        let check = |topic: &str, topics: &[&str], expected| {
            let event = Event { topic: topic.into(), sent_utc: None, data: serde_json::Map::new() };
            assert_eq!(is_wanted(&event, topics), expected, "{topic} {topics:?}");
        };
        check("summaryState", &[], true);
        check("newer", &[], true);
        check("heartbeat", &[], false);
        check("heartbeat", &["job_id", "heartbeat"], true);
        check("summaryState", &["job_id"], false);
    }
}
