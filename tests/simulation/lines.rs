//! What happens, as lines of the trace.

use std::collections::BTreeSet;

use ocps::csc::event::Event;
use ocps::csc::record::Record;
use ocps::csc::request::{Action, Request, Wanted};
use ocps::csc::{Effect, Input};

use super::service::Call;

/// None of what comes all the time.
pub(crate) fn input(input: &Input) -> Option<String> {
    match input {
        Input::Tick => None,
        Input::Command(command) => {
            let sender = &command.sender;
            Some(format!("> {} {:?} {:?}", sender.seq_num.0, sender.via, command.kind))
        }
        Input::Refused(command, reason) => {
            Some(format!("> refused {} {:?}: {reason}", command.sender.seq_num.0, command.sender.via))
        }
        Input::Outcome(outcome) => Some(format!("> {:?}", outcome)),
        Input::Recovered(_) => Some("> Recovered".to_owned()),
        Input::Configuration(result) => Some(format!("> Configuration {}", result.is_ok())),
        Input::ConfigurationsAvailable(_)
        | Input::Journaled(_)
        | Input::JournalFailed(_)
        | Input::JournalBack
        | Input::Delivered(_)
        | Input::LogLevel(_)
        | Input::Joined
        | Input::DuplicateInstance(_)
        | Input::Terminate => Some(format!("> {input:?}")),
    }
}

pub(crate) fn effect(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Publish { event: Event::Heartbeat, .. } => None,
        Effect::Ack { to, ack, receipt, .. } => {
            Some(format!("< ack {} {:?} {ack:?} {receipt:?}", to.seq_num.0, to.via))
        }
        Effect::Publish { event, receipt } => Some(format!("< {event:?} {receipt:?}")),
        Effect::Journal(Record::Accepted(entry)) => {
            Some(format!("< Accepted {:?} {:?}", entry.key, entry.work))
        }
        Effect::Journal(Record::Seen { .. }) => None,
        Effect::Journal(record) => Some(format!("< {record:?}")),
        Effect::Request(request) => Some(format!("< {}", self::request(request))),
        Effect::Log(level, line) => Some(format!("< {level:?}: {line}")),
        Effect::StopRequests
        | Effect::ReadConfiguration { .. }
        | Effect::WatchConfigurations(_)
        | Effect::SetLogLevel(_)
        | Effect::Exit
        | Effect::Fail(_) => Some(format!("< {effect:?}")),
    }
}

fn request(request: &Request) -> String {
    format!("{} {}: {}", request.ticket.0, request.url, action(&request.action))
}

pub(crate) fn call(call: &Call) -> String {
    format!("{} {}", call.ticket.0, action(&call.action))
}

fn action(action: &Action) -> String {
    match action {
        Action::Submit(submission) => format!("PUT {}", submission.run_id),
        Action::Status { job_id, .. } => format!("GET {job_id}"),
        Action::Remove { job_id } => format!("DELETE {job_id}"),
        Action::List(Wanted { run_ids, job_ids, active_of }) => {
            let job_ids: BTreeSet<_> = job_ids.iter().collect();
            format!("LIST {run_ids:?} {job_ids:?} {active_of:?}")
        }
        Action::Push { .. } | Action::Ping => format!("{action:?}"),
    }
}
