//! Events and acks as lines for people.

use serde_json::Value;

use super::client::{Ack, Event, Standing};
use crate::csc::state::SummaryState;
use crate::display::text::{UNKNOWN, clean, fields, fill, join, level, painted_state, value};
use crate::display::{Tone, paint};
use crate::sal::topic::EventName;

/// Names of events.
pub(super) const HEARTBEAT: &str = EventName::Heartbeat.into_str();
pub(super) const JOB_RESULT: &str = EventName::JobResult.into_str();
const SUMMARY_STATE: &str = EventName::SummaryState.into_str();
const ERROR_CODE: &str = EventName::ErrorCode.into_str();
pub(super) const LOG_MESSAGE: &str = EventName::LogMessage.into_str();

/// An event with its time, in UTC.
pub(super) fn event_line(event: &Event) -> String {
    let time = event.sent_utc.as_deref().map_or_else(|| UNKNOWN.to_owned(), clean);
    format!("{} {}", paint(Tone::Quiet, &time), event_text(event))
}

/// An event without its time.
pub(super) fn event_text(event: &Event) -> String {
    let data = &event.data;
    let body = match event.topic.as_str() {
        HEARTBEAT => Some(String::new()),
        SUMMARY_STATE => summary_state(event).map(|state| painted_state(state.name())),
        ERROR_CODE if data.get("errorCode").is_some_and(|code| *code == 0) => Some("0".to_owned()),
        ERROR_CODE => Some(join(data, &["!{errorCode}: {errorReport}"])),
        LOG_MESSAGE => log_message(data),
        JOB_RESULT => job_result(data),
        _ => None,
    };
    let body = body.unwrap_or_else(|| fields(data));
    format!("{} {body}", clean(&event.topic)).trim_end().to_owned()
}

/// The state of a `summaryState` event.
pub(super) fn summary_state(event: &Event) -> Option<SummaryState> {
    (event.topic == SUMMARY_STATE).then_some(())?;
    SummaryState::of_code(event.data.get("summaryState")?.as_i64()?)
}

/// An ack without its sequence number and its command.
pub(super) fn ack_text(ack: &Ack) -> String {
    let tone = match ack.standing() {
        Standing::InProgress => Tone::Middling,
        Standing::Complete => Tone::Good,
        Standing::Refused => Tone::Bad,
    };
    let name = paint(tone, &clean(&ack.name));
    let result = match ack.job() {
        Some(job) if job.missing_prereqs.is_empty() => format!("job_id={}", job.job_id),
        Some(job) => format!("job_id={} missing_prereqs={}", job.job_id, job.missing_prereqs.join(",")),
        None => ack.result.clone(),
    };
    format!("{name} {}", clean(&result)).trim_end().to_owned()
}

fn log_message(data: &Value) -> Option<String> {
    let (name, tone) = level(data.get("level")?.as_i64()?);
    Some(paint(tone, &format!("{name} {}", fill(data, "{name}: {message}")?)))
}

fn job_result(data: &Value) -> Option<String> {
    let tone = if data.get("exit_code")? == 0 { Tone::Good } else { Tone::Bad };
    let exit_code = paint(tone, &fill(data, "exit_code={exit_code}")?);
    Some(format!("job_id={} {exit_code} {}", value(data, "job_id")?, fill(data, "result={result}")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::plain;
    use serde_json::json;

    fn event(topic: &str, data: Value) -> Event {
        let sent_utc = Some("2026-11-22T14:00:23.504Z".to_owned());
        Event { topic: topic.into(), sent_utc, data }
    }

    #[test]
    fn events_read_well() {
        let check = |topic, data, expected: &str| {
            assert_eq!(plain(&event_text(&event(topic, data))), expected);
        };
        check("summaryState", json!({"summaryState": 2}), "summaryState ENABLED");
        check("summaryState", json!({"summaryState": 9}), "summaryState summaryState=9");
        check("summaryState", json!({}), "summaryState");
        check("heartbeat", json!({"heartbeat": true}), "heartbeat");
        check("errorCode", json!({"errorCode": 0, "errorReport": ""}), "errorCode 0");
        check("errorCode", json!({"errorCode": 2, "errorReport": "no\nuse"}), "errorCode 2: no\\nuse");
        check(
            "logMessage",
            json!({"level": 30, "name": "ocps::csc", "message": "hm"}),
            "logMessage WARNING ocps::csc: hm",
        );
        check(
            "job_result",
            json!({"job_id": "j", "exit_code": 0, "result": "{\"jobId\":\"j\"}"}),
            "job_result job_id=j exit_code=0 result={\"jobId\":\"j\"}",
        );
        check(
            "logLevel",
            json!({"level": 20, "subsystem": "", "other": "a b"}),
            "logLevel level=20 subsystem=\"\" other=\"a b\"",
        );
        check("newer\x1b", json!({"x\n": "\u{9b}"}), "newer\\u{1b} x\\n=\\u{9b}");
    }

    #[test]
    fn a_line_begins_with_the_time() {
        let line = plain(&event_line(&event("heartbeat", json!({}))));
        assert_eq!(line, "2026-11-22T14:00:23.504Z heartbeat");
        let timeless = Event { sent_utc: None, ..event("heartbeat", json!({})) };
        assert_eq!(plain(&event_line(&timeless)), "- heartbeat");
    }

    #[test]
    fn acks_read_well() {
        let check = |code, name: &str, result: &str, expected: &str| {
            let ack = json!({"seq": 1, "ack": code, "name": name, "result": result});
            let ack: Ack = serde_json::from_value(ack).unwrap();
            assert_eq!(plain(&ack_text(&ack)), expected);
        };
        check(301, "CMD_INPROGRESS", "{\"job_id\":\"j\"}", "CMD_INPROGRESS job_id=j");
        check(
            301,
            "CMD_INPROGRESS",
            r#"{"job_id":"j","missing_prereqs":["a","b"]}"#,
            "CMD_INPROGRESS job_id=j missing_prereqs=a,b",
        );
        check(303, "CMD_COMPLETE", "Done", "CMD_COMPLETE Done");
        check(-302, "CMD_FAILED", "Failed: a\nb", "CMD_FAILED Failed: a\\nb");
        check(303, "CMD_COMPLETE", "", "CMD_COMPLETE");
    }
}
