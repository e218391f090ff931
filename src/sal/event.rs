//! Events as SAL writes them: topic and own fields, in their order.

use serde_json::json;

use super::Value;
use super::topic::EventName;
use crate::csc::event::{ConfigurationsAvailable, Event, JobResult, ResultObject};

/// Version of the interface definition (lsst-ts/ts_xml) that this program follows.
pub const XML_VERSION: &str = "28.0.1";
/// Version of the configuration schema.
pub const SCHEMA_VERSION: &str = "v4";

/// Own fields of a topic, by name.
pub type Fields = Vec<(&'static str, Value)>;

/// The name of an event and its own fields.
pub fn parts(event: &Event) -> (EventName, Fields) {
    let (topic, values) = values(event);
    (topic, topic.columns().iter().map(|(name, _)| *name).zip(values).collect())
}

/// The name of an event, and the values of its own fields in the order of [`EventName::columns`].
fn values(event: &Event) -> (EventName, Vec<Value>) {
    match event {
        Event::SummaryState(state) => (EventName::SummaryState, vec![state.code().into()]),
        Event::ErrorCode { code, report } => {
            (EventName::ErrorCode, vec![code.number().into(), report.into(), "".into()])
        }
        // As salobj writes it; readers ignore the value.
        Event::Heartbeat => (EventName::Heartbeat, vec![Value::Boolean(false)]),
        Event::LogLevel { level } => (EventName::LogLevel, vec![(*level).into(), "".into()]),
        Event::LogMessage(message) => {
            let values = vec![
                (&message.name).into(),
                message.level.into(),
                (&message.message).into(),
                "".into(),
                (&message.file_path).into(),
                "".into(),
                message.line_number.into(),
                message.process.into(),
                Value::Double(message.timestamp.0),
            ];
            (EventName::LogMessage, values)
        }
        Event::SimulationMode { mode } => (EventName::SimulationMode, vec![(*mode).into()]),
        Event::SoftwareVersions => {
            let version = env!("CARGO_PKG_VERSION");
            (EventName::SoftwareVersions, vec!["".into(), XML_VERSION.into(), version.into(), "".into()])
        }
        Event::ConfigurationsAvailable(ConfigurationsAvailable { overrides, version, url, .. }) => {
            let values = vec![overrides.into(), version.into(), url.into(), SCHEMA_VERSION.into()];
            (EventName::ConfigurationsAvailable, values)
        }
        Event::ConfigurationApplied { configurations, version, url } => {
            let values =
                vec![configurations.into(), version.into(), url.into(), SCHEMA_VERSION.into(), "".into()];
            (EventName::ConfigurationApplied, values)
        }
        Event::JobId { seq_num, job_id } => {
            (EventName::JobId, vec!["cmd_execute".into(), seq_num.0.into(), job_id.as_str().into()])
        }
        Event::JobResult(JobResult { job_id, exit_code, result }) => {
            let result = Value::String(result_text(result));
            (EventName::JobResult, vec![job_id.as_str().into(), exit_code.number().into(), result])
        }
    }
}

/// Always a JSON object with `jobId` and `phase`: observing scripts fail without `jobId`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csc::event::{ErrorCode, ExitCode, LogMessage, Phase};
    use crate::csc::id::{JobId, SeqNum};
    use crate::csc::state::SummaryState;
    use crate::csc::time::Tai;
    use strum::IntoEnumIterator;

    #[test]
    fn every_value_has_the_type_of_its_field() {
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
            let (topic, values) = values(event);
            let written: Vec<_> = values.iter().map(Value::kind).collect();
            let declared: Vec<_> = topic.columns().iter().map(|(_, kind)| *kind).collect();
            assert_eq!(written, declared, "{event:?}");
        }
        assert_eq!(events.len() + 1, EventName::iter().count());
    }
}
