//! `ocps watch`: events as they come.

use super::client::{Client, Target};
use super::event_text::{HEARTBEAT, event_line, summary_state};
use super::flags::{Line, unknown};
use super::output::Output;
use super::{Failure, Task};
use crate::csc::state::SummaryState;
use crate::sal::topic::EVENTS;

/// The names of events among the arguments; the full SAL name does as well.
fn topics(line: &Line) -> Result<Vec<String>, String> {
    let known = || EVENTS.iter().map(|(name, _)| *name);
    let words = line.words(usize::MAX)?;
    let bare = words.iter().map(|name| name.strip_prefix("logevent_").unwrap_or(name));
    bare.map(|name| {
        if known().any(|known| known == name) {
            Ok(name.to_owned())
        } else {
            Err(unknown("topic", name, known()))
        }
    })
    .collect()
}

/// `ocps watch`. It fails when the daemon goes away without having gone OFFLINE.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let (target, topics, json) = (line.target()?, topics(line)?, line.has("json"));
    Ok(Box::new(move |out| run(&target, &topics, json, out)))
}

fn run(target: &Target, topics: &[String], json: bool, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(target)?;
    client.subscribe()?;
    let mut last_state = None;
    loop {
        let message = match client.next(None) {
            Ok(Some(message)) => message,
            Ok(None) => {
                out.expect_reader()?;
                continue;
            }
            Err(Failure::Lost(_)) if last_state == Some(SummaryState::Offline) => return Ok(()),
            Err(Failure::Lost(reason)) => {
                return Err(Failure::Lost(format!("{reason} without going OFFLINE")));
            }
            Err(failure) => return Err(failure),
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

fn is_wanted(topic: &str, topics: &[String]) -> bool {
    if topics.is_empty() { topic != HEARTBEAT } else { topics.iter().any(|wanted| wanted == topic) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::line;

    #[test]
    fn topics_may_have_their_full_name() {
        let line = line(&["ocps", "watch", "logevent_job_id", "heartbeat"]);
        assert_eq!(topics(&line).unwrap(), ["job_id", "heartbeat"]);
    }

    #[test]
    fn heartbeat_only_when_it_is_named() {
        let check = |topic: &str, topics: &[&str], expected| {
            let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
            assert_eq!(is_wanted(topic, &topics), expected, "{topic} {topics:?}");
        };
        check("summaryState", &[], true);
        check("newer", &[], true);
        check("heartbeat", &[], false);
        check("heartbeat", &["job_id", "heartbeat"], true);
        check("summaryState", &["job_id"], false);
    }
}
