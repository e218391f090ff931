//! `ocps watch`: prints events as they come.

use strum::VariantNames;

use super::client::{Client, Target};
use super::event_text::{HEARTBEAT, event_line, summary_state};
use super::flags::{Line, unknown};
use super::output::Output;
use super::{Failure, Task};
use crate::csc::state::SummaryState;
use crate::sal::topic::EventName;

/// The events that the arguments name, also by their full SAL name.
fn topics(line: &Line) -> Result<Vec<EventName>, String> {
    let topic = |word: &&str| {
        let name = word.strip_prefix("logevent_").unwrap_or(word);
        name.parse().map_err(|_| unknown("topic", name, EventName::VARIANTS.iter().copied()))
    };
    line.words(usize::MAX)?.iter().map(topic).collect()
}

/// `ocps watch`. It fails if the connection is lost before the daemon has gone OFFLINE.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let (target, topics, json) = (line.target()?, topics(line)?, line.has("json"));
    Ok(Box::new(move |out| run(&target, &topics, json, out)))
}

fn run(target: &Target, topics: &[EventName], json: bool, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(target)?;
    client.subscribe()?;
    let mut last_state = None;
    loop {
        let next = match client.next(None) {
            Err(Failure::Lost(_)) if last_state == Some(SummaryState::Offline) => return Ok(()),
            next => next.map_err(|lost| lost.with("without going OFFLINE"))?,
        };
        let Some(message) = next else {
            out.expect_reader()?;
            continue;
        };
        let Some(event) = &message.event else { continue };
        last_state = summary_state(event).or(last_state);
        if is_wanted(&event.topic, topics) {
            out.line(&if json { message.raw } else { event_line(event) })?;
        } else {
            out.expect_reader()?;
        }
    }
}

fn is_wanted(topic: &str, topics: &[EventName]) -> bool {
    if topics.is_empty() {
        topic != HEARTBEAT
    } else {
        topics.iter().any(|wanted| wanted.into_str() == topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::line;

    #[test]
    fn topics_may_have_their_full_name() {
        let line = line(&["ocps", "watch", "logevent_job_id", "heartbeat"]);
        assert_eq!(topics(&line).unwrap(), [EventName::JobId, EventName::Heartbeat]);
    }

    #[test]
    fn heartbeat_only_when_it_is_named() {
        let check = |topic, topics: &[EventName], expected| {
            assert_eq!(is_wanted(topic, topics), expected, "{topic} {topics:?}");
        };
        check("summaryState", &[], true);
        check("newer", &[], true);
        check("heartbeat", &[], false);
        check("heartbeat", &[EventName::JobId, EventName::Heartbeat], true);
        check("summaryState", &[EventName::JobId], false);
    }
}
