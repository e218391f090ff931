//! Events and acks as lines for people.

use serde_json::Value;
use strum::VariantNames;

use super::client::{Ack, Event, Standing};
use super::output::{Palette, Tone};
use super::text::{UNKNOWN, clean, scalar, state};
use crate::csc::state::SummaryState;
use crate::sal::topic::EventName;

/// The events of the component, in the order of their names.
pub(super) const TOPICS: &[&str] = EventName::VARIANTS;

/// The event of every second.
pub(super) const HEARTBEAT: &str = EventName::Heartbeat.into_str();
/// The event at the end of a job.
pub(super) const JOB_RESULT: &str = EventName::JobResult.into_str();
/// The event of a new summary state.
pub(super) const SUMMARY_STATE: &str = EventName::SummaryState.into_str();

/// An event with its time, in UTC.
pub(super) fn event_line(palette: Palette, event: &Event) -> String {
    let time = event.sent_utc.as_deref().map_or_else(|| UNKNOWN.to_owned(), clean);
    format!("{} {}", palette.paint(Tone::Quiet, &time), event_text(palette, event))
}

/// An event without its time.
pub(super) fn event_text(palette: Palette, event: &Event) -> String {
    let body = match event.topic.as_str() {
        HEARTBEAT => String::new(),
        SUMMARY_STATE => summary_state(event)
            .map_or_else(|| fields(event), |summary_state| state(palette, summary_state.name())),
        "errorCode" => error_code(palette, event),
        "logMessage" => log_message(palette, event),
        JOB_RESULT => job_result(palette, event),
        _ => fields(event),
    };
    format!("{} {body}", clean(&event.topic)).trim_end().to_owned()
}

/// The state that a `summaryState` event tells.
pub(super) fn summary_state(event: &Event) -> Option<SummaryState> {
    (event.topic == SUMMARY_STATE).then_some(())?;
    SummaryState::of_code(event.data.get("summaryState")?.as_i64()?)
}

/// An ack without its number and its command.
pub(super) fn ack_text(palette: Palette, ack: &Ack) -> String {
    let tone = match ack.standing() {
        Standing::InProgress => Tone::Middling,
        Standing::Complete => Tone::Good,
        Standing::Refused => Tone::Bad,
    };
    let name = palette.paint(tone, &clean(&ack.name));
    let result = match ack.job_id() {
        Some(job_id) => match ack.missing_prereqs() {
            Some(missing) => format!("job_id={} missing_prereqs={}", clean(&job_id), clean(&missing)),
            None => format!("job_id={}", clean(&job_id)),
        },
        None => clean(&ack.result),
    };
    format!("{name} {result}").trim_end().to_owned()
}

fn error_code(palette: Palette, event: &Event) -> String {
    let code = event.data.get("errorCode");
    if code.and_then(Value::as_i64) == Some(0) {
        return "0".to_owned();
    }
    palette.paint(Tone::Bad, &format!("{}: {}", scalar(code), clean(event.text("errorReport"))))
}

fn log_message(palette: Palette, event: &Event) -> String {
    let (level, tone) = match event.data.get("level").and_then(Value::as_i64) {
        Some(50..) => ("CRITICAL", Tone::Bad),
        Some(40..) => ("ERROR", Tone::Bad),
        Some(30..) => ("WARNING", Tone::Middling),
        Some(20..) => ("INFO", Tone::Quiet),
        Some(_) => ("DEBUG", Tone::Quiet),
        None => (UNKNOWN, Tone::Quiet),
    };
    let text = format!("{level} {}: {}", clean(event.text("name")), clean(event.text("message")));
    palette.paint(tone, &text)
}

fn job_result(palette: Palette, event: &Event) -> String {
    let exit_code = event.data.get("exit_code");
    let tone = if exit_code.and_then(Value::as_i64) == Some(0) { Tone::Good } else { Tone::Bad };
    format!(
        "job_id={} {} result={}",
        scalar(event.data.get("job_id")),
        palette.paint(tone, &format!("exit_code={}", scalar(exit_code))),
        clean(event.text("result"))
    )
}

/// `name=value` of all fields; a text in which a blank could mislead is quoted.
fn fields(event: &Event) -> String {
    let field = |(name, value): (&String, &Value)| {
        let plain = |text: &str| !text.is_empty() && !text.contains([' ', '"', '=']);
        let text = value.as_str().filter(|text| plain(text)).map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", clean(name), clean(&text))
    };
    event.data.iter().map(field).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn event(topic: &str, data: Value) -> Event {
        let sent_utc = Some("2026-11-22T14:00:23.504Z".to_owned());
        Event { topic: topic.into(), sent_utc, data: data.as_object().cloned().unwrap_or_default() }
    }

    #[test]
    fn events_read_well() {
        let check = |topic, data, expected: &str| {
            assert_eq!(event_text(Palette::Plain, &event(topic, data)), expected);
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
        let line = event_line(Palette::Plain, &event("heartbeat", json!({})));
        assert_eq!(line, "2026-11-22T14:00:23.504Z heartbeat");
        let timeless = Event { sent_utc: None, ..event("heartbeat", json!({})) };
        assert_eq!(event_line(Palette::Plain, &timeless), "- heartbeat");
    }

    #[test]
    fn acks_read_well() {
        let check = |code, name: &str, result: &str, expected: &str| {
            let ack = Ack { seq: 1, code, name: name.into(), result: result.into(), timeout: Duration::ZERO };
            assert_eq!(ack_text(Palette::Plain, &ack), expected);
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
