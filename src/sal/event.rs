//! Events as SAL writes them: topic and own fields, in their order.

use serde_json::json;

use super::Value;
use crate::csc::event::{Event, LogMessage, ResultObject};

/// Version of the interface definition (lsst-ts/ts_xml) that we speak.
pub const XML_VERSION: &str = "28.0.1";
/// Version of the configuration schema.
pub const SCHEMA_VERSION: &str = "v4";

/// Own fields of a topic, by name.
pub type Fields = Vec<(&'static str, Value)>;

/// The name of an event's topic, without the `logevent_` prefix.
#[must_use]
pub fn topic(event: &Event) -> &'static str {
    match event {
        Event::SummaryState(_) => "summaryState",
        Event::ErrorCode { .. } => "errorCode",
        Event::Heartbeat => "heartbeat",
        Event::LogLevel { .. } => "logLevel",
        Event::LogMessage(_) => "logMessage",
        Event::SimulationMode { .. } => "simulationMode",
        Event::SoftwareVersions => "softwareVersions",
        Event::ConfigurationsAvailable(_) => "configurationsAvailable",
        Event::ConfigurationApplied { .. } => "configurationApplied",
        Event::JobId { .. } => "job_id",
        Event::JobResult(_) => "job_result",
    }
}

/// The own fields of an event.
#[must_use]
pub fn fields(event: &Event) -> Fields {
    match event {
        Event::SummaryState(state) => vec![("summaryState", Value::Int(state.code()))],
        Event::ErrorCode { code, report } => vec![
            ("errorCode", Value::Int(code.number())),
            ("errorReport", report.as_str().into()),
            ("traceback", "".into()),
        ],
        // salobj writes false, and readers look only at the fact.
        Event::Heartbeat => vec![("heartbeat", Value::Boolean(false))],
        Event::LogLevel { level } => vec![("level", Value::Int(*level)), ("subsystem", "".into())],
        Event::LogMessage(message) => log_message(message),
        Event::SimulationMode { mode } => vec![("mode", Value::Int(*mode))],
        Event::SoftwareVersions => vec![
            ("salVersion", "".into()),
            ("xmlVersion", XML_VERSION.into()),
            ("cscVersion", env!("CARGO_PKG_VERSION").into()),
            ("subsystemVersions", "".into()),
        ],
        Event::ConfigurationsAvailable(available) => vec![
            ("overrides", available.overrides.as_str().into()),
            ("version", available.version.as_str().into()),
            ("url", available.url.as_str().into()),
            ("schemaVersion", SCHEMA_VERSION.into()),
        ],
        Event::ConfigurationApplied { configurations, version, url } => vec![
            ("configurations", configurations.as_str().into()),
            ("version", version.as_str().into()),
            ("url", url.as_str().into()),
            ("schemaVersion", SCHEMA_VERSION.into()),
            ("otherInfo", "".into()),
        ],
        Event::JobId { seq_num, job_id } => vec![
            ("event_name", "cmd_execute".into()),
            ("seq_num", Value::Int(seq_num.0)),
            ("job_id", job_id.as_str().into()),
        ],
        Event::JobResult(result) => vec![
            ("job_id", result.job_id.as_str().into()),
            ("exit_code", Value::Int(result.exit_code.number())),
            ("result", Value::String(result_text(&result.result))),
        ],
    }
}

/// Always a JSON object with `jobId` and `phase`: observing scripts die on a missing `jobId`.
fn result_text(result: &ResultObject) -> String {
    match result {
        ResultObject::Service(object) => object.0.to_string(),
        ResultObject::Known { job_id, run_id: Some(run_id), phase } => {
            json!({ "jobId": job_id.as_str(), "runId": run_id.as_str(), "phase": phase.as_str() }).to_string()
        }
        ResultObject::Known { job_id, run_id: None, phase } => {
            json!({ "jobId": job_id.as_str(), "phase": phase.as_str() }).to_string()
        }
    }
}

fn log_message(message: &LogMessage) -> Fields {
    vec![
        ("name", message.name.as_str().into()),
        ("level", Value::Int(message.level)),
        ("message", message.message.as_str().into()),
        ("traceback", "".into()),
        ("filePath", message.file_path.as_str().into()),
        ("functionName", "".into()),
        ("lineNumber", Value::Int(message.line_number)),
        ("process", Value::Int(message.process)),
        ("timestamp", Value::Double(message.timestamp.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csc::event::{ConfigurationsAvailable, ErrorCode, ExitCode, JobResult, Phase};
    use crate::csc::id::{JobId, SeqNum};
    use crate::csc::state::SummaryState;
    use crate::csc::time::Tai;
    use crate::sal::topic::EVENTS;

    #[test]
    fn what_is_written_has_the_declared_fields_in_their_order() {
        let job_id = JobId::parse("a").unwrap();
        let known = ResultObject::Known { job_id: job_id.clone(), run_id: None, phase: Phase::Unknown };
        let result = JobResult { job_id: job_id.clone(), exit_code: ExitCode::Error, result: known };
        let message = LogMessage {
            name: String::new(),
            level: 10,
            message: String::new(),
            file_path: String::new(),
            line_number: 1,
            process: 1,
            timestamp: Tai(1.0),
        };
        let text = String::new;
        let events = [
            Event::SummaryState(SummaryState::Standby),
            Event::ErrorCode { code: ErrorCode::None, report: text() },
            Event::Heartbeat,
            Event::LogLevel { level: 20 },
            Event::LogMessage(message),
            Event::SimulationMode { mode: 0 },
            Event::SoftwareVersions,
            Event::ConfigurationsAvailable(ConfigurationsAvailable::default()),
            Event::ConfigurationApplied { configurations: text(), version: text(), url: text() },
            Event::JobId { seq_num: SeqNum(1), job_id },
            Event::JobResult(result),
        ];
        for event in &events {
            let (_, columns) = EVENTS.iter().find(|(name, _)| *name == topic(event)).unwrap();
            let written: Vec<_> =
                fields(event).into_iter().map(|(name, value)| (name, value.kind())).collect();
            assert_eq!(written, *columns, "{}", topic(event));
        }
        assert_eq!(events.len() + 1, EVENTS.len());
    }
}
