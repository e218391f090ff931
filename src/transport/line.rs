//! The lines of the local socket's protocol: newline-delimited JSON.
//!
//! Parses the lines of clients and writes those of the daemon. No I/O.

use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::clock;
use crate::csc::command::CommandKind;
use crate::csc::event::Ack;
use crate::csc::id::{RunId, SeqNum};
use crate::csc::time::Tai;
use crate::json::members;
use crate::sal::ack::AckFields;
use crate::sal::event::Fields;
use crate::sal::topic::EventName;
use crate::sal::{self, Value};
use crate::text::quoted;

/// Most keys of one object; no command has more than a few parameters.
const MEMBERS_MAX: usize = 100;

/// A line of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A command.
    Command {
        /// The client's number for the command, which its acks repeat; none: the daemon counts.
        seq_num: Option<SeqNum>,
        /// The command with its parameters.
        kind: CommandKind,
    },
    /// The client wants the latest event of each topic, and all events from now on.
    Subscribe,
    /// The client wants one document.
    Query(Query),
}

/// A document that a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Query {
    /// The state of the daemon.
    Status,
    /// All jobs.
    Jobs,
    /// The metrics, as a text.
    Metrics,
    /// The job with this run id, and its history.
    Job(RunId),
}

impl Query {
    /// The name of the query, which is also the key of the document that answers it.
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// Parses a line without its line break.
///
/// Takes little more memory than the line has bytes, whatever it contains, and does not recurse.
///
/// # Errors
/// One line for the client that says what is wrong.
pub fn parse(line: &[u8]) -> Result<Line, String> {
    let json: &RawValue = serde_json::from_slice(line).map_err(not_json)?;
    let Some(mut object) = members_of(json)? else {
        return Err("not a JSON object: {\"command\":…}, {\"subscribe\":true} or {\"query\":…}".to_owned());
    };
    let parsed = if let Some(command) = object.shift_remove("command") {
        parse_command(command, &mut object)?
    } else if let Some(subscribe) = object.shift_remove("subscribe") {
        if value(subscribe)? != Some(Value::Boolean(true)) {
            return Err("\"subscribe\" must be true".to_owned());
        }
        Line::Subscribe
    } else if let Some(query) = object.shift_remove("query") {
        Line::Query(parse_query(query, &mut object)?)
    } else {
        return Err("one of the keys \"command\", \"subscribe\" and \"query\" is needed".to_owned());
    };
    match object.first() {
        Some((key, _)) => Err(format!("unknown key {}", quoted(key))),
        None => Ok(parsed),
    }
}

fn parse_query(query: &RawValue, object: &mut Members<'_>) -> Result<Query, String> {
    let text = |value| if let Some(Value::String(text)) = value { text } else { String::new() };
    match text(value(query)?).as_str() {
        "status" => Ok(Query::Status),
        "jobs" => Ok(Query::Jobs),
        "metrics" => Ok(Query::Metrics),
        "job" => {
            let run_id = object.shift_remove("run_id").map(value).transpose()?.flatten();
            let run_id = RunId::parse(&text(run_id));
            run_id.map(Query::Job).ok_or_else(|| "\"run_id\" must be the run id of a job".to_owned())
        }
        _ => Err("\"query\" must be \"status\", \"jobs\", \"job\" or \"metrics\"".to_owned()),
    }
}

/// A wrong command name or parameter is no error here: it is answered with an ack.
fn parse_command(command: &RawValue, object: &mut Members<'_>) -> Result<Line, String> {
    let Some(Value::String(name)) = value(command)? else {
        return Err("\"command\" must be a string".to_owned());
    };
    let seq_num = match object.shift_remove("seq").map(value).transpose()? {
        None => None,
        Some(Some(Value::Int(seq @ 1..))) => Some(SeqNum(seq)),
        Some(_) => return Err(format!("\"seq\" must be an integer from 1 to {}", i32::MAX)),
    };
    let params = match object.shift_remove("params") {
        None => Members::default(),
        Some(params) => members_of(params)?.ok_or("\"params\" must be an object")?,
    };
    let params = params.into_iter().map(|(name, json)| Ok((name, value(json)?)));
    let params: Vec<_> = params.collect::<Result<_, String>>()?;
    Ok(Line::Command { seq_num, kind: sal::command::parse(&name, params) })
}

/// The members of an object, with their values as written; the last one of a key that occurs twice.
type Members<'a> = IndexMap<String, &'a RawValue>;

/// The members of an object; none if the JSON is not one.
fn members_of(json: &RawValue) -> Result<Option<Members<'_>>, String> {
    if !json.get().starts_with('{') {
        return Ok(None);
    }
    members(json.get(), MEMBERS_MAX).map(|members| Some(members.into_iter().collect())).map_err(not_json)
}

/// The value of a parameter; none if no parameter has a value of such a type.
fn value(json: &RawValue) -> Result<Option<Value>, String> {
    if json.get().starts_with(['[', '{']) {
        return Ok(None);
    }
    Ok(match serde_json::from_str(json.get()).map_err(not_json)? {
        Json::String(text) => Some(Value::String(text)),
        Json::Number(number) => number.as_i64().and_then(|number| i32::try_from(number).ok()).map(Value::Int),
        Json::Bool(flag) => Some(Value::Boolean(flag)),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    })
}

fn not_json(error: serde_json::Error) -> String {
    format!("not JSON: {error}")
}

/// An ack, as a line.
pub fn ack(seq_num: SeqNum, ack: &Ack) -> String {
    let fields = AckFields::from(ack);
    let body = json!({
        "seq": seq_num.0, "ack": fields.code.number(), "name": fields.code.name(), "error": fields.code.error(),
        "result": fields.result, "timeout": fields.timeout,
    });
    json!({ "ack": body }).to_string()
}

/// What a line with an event says.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum EventForm<'a> {
    Event {
        topic: &'static str,
        seq: i32,
        sent: f64,
        sent_utc: String,
        #[serde(serialize_with = "as_object")]
        data: &'a Fields,
    },
}

fn as_object<S: Serializer>(fields: &Fields, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

/// An event, as a line.
pub fn event(topic: EventName, fields: &Fields, seq: i32, sent: Tai) -> String {
    let (topic, sent_utc) = (topic.into_str(), clock::utc(sent));
    let form = EventForm::Event { topic, seq, sent: sent.0, sent_utc, data: fields };
    // A tree of values, as for an ack, would hold a copy of a large result.
    serde_json::to_string(&form).unwrap_or_else(|problem| error(&problem.to_string()))
}

/// An error, as a line.
pub fn error(reason: &str) -> String {
    json!({ "error": reason }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_malformed_line_names_what_is_wrong() {
        let check = |line: &str, expected: &str| {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
            assert!(!error.contains('\n'));
        };
        check("", "not JSON");
        check("hello", "not JSON: expected value at line 1 column 1");
        check("[1]", "not a JSON object");
        check("{}", "one of the keys");
        check(r#"{"command":1}"#, "\"command\" must be a string");
        check(r#"{"command":"enable","seq":0}"#, "\"seq\" must be an integer from 1 to 2147483647");
        check(r#"{"command":"enable","seq":2147483648}"#, "\"seq\" must be");
        check(r#"{"command":"enable","params":[]}"#, "\"params\" must be an object");
        check(r#"{"command":"enable","parms":{}}"#, "unknown key \"parms\"");
        check(r#"{"subscribe":false}"#, "\"subscribe\" must be true");
        check(r#"{"query":"all"}"#, "\"query\" must be");
        check(r#"{"query":7}"#, "\"query\" must be");
        for run_id in ["", r#","run_id":7"#, r#","run_id":"../x""#] {
            check(&format!(r#"{{"query":"job"{run_id}}}"#), "\"run_id\" must be the run id of a job");
        }
        check(r#"{"query":"jobs","run_id":"x"}"#, "unknown key \"run_id\"");
        check(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), "not a JSON object");
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        check(&format!(r#"{{"query":{deep}}}"#), "\"query\" must be");
        check(&format!(r#"{{"x":{deep}}}"#), "one of the keys");
        let many: Vec<String> = (0..101).map(|n| format!("\"{n}\":0")).collect();
        check(&format!("{{{}}}", many.join(",")), "not JSON: an object has more than 100 keys");
        check(r#"{"command":"\ud800"}"#, "not JSON: ");
        check(r#"{"command":"enable","params":{"\ud800":1}}"#, "not JSON: ");
    }

    #[test]
    fn a_command_with_wrong_parameters_is_still_a_command() {
        let check = |line: &str, expected: &str| match parse(line.as_bytes()) {
            Ok(Line::Command { seq_num: Some(SeqNum(3)), kind: CommandKind::Invalid { reason, .. } }) => {
                assert!(reason.contains(expected), "{reason}");
            }
            other => panic!("{other:?}"),
        };
        check(r#"{"command":"nothing","seq":3}"#, "unknown command");
        check(r#"{"command":"execute","seq":3,"params":{"pipeline":null}}"#, "\"pipeline\" must be a string");
        check(r#"{"command":"execute","seq":3,"params":{"pipeline":true}}"#, "\"pipeline\" must be a string");
        check(r#"{"command":"setLogLevel","seq":3,"params":{"level":1.5}}"#, "\"level\" must be an integer");
        check(
            r#"{"command":"setLogLevel","seq":3,"params":{"level":2147483648}}"#,
            "\"level\" must be an integer",
        );
        check(
            r#"{"command":"enable","seq":3,"params":{"x":[]}}"#,
            "unknown parameter \"x\": enable takes none",
        );
        check(r#"{"command":"execute","seq":3,"params":{"pipeline":[]}}"#, "\"pipeline\" must be a string");
    }

    #[test]
    fn acks_and_events_are_the_documented_lines() {
        let job_id = crate::csc::id::JobId::parse("abc").unwrap();
        assert_eq!(
            ack(SeqNum(1), &Ack::InProgress { job_id, missing_prereqs: Vec::new() }),
            r#"{"ack":{"seq":1,"ack":301,"name":"CMD_INPROGRESS","error":0,"result":"{\"job_id\":\"abc\"}","timeout":600.0}}"#
        );
        assert_eq!(
            ack(SeqNum(1), &Ack::Complete),
            r#"{"ack":{"seq":1,"ack":303,"name":"CMD_COMPLETE","error":0,"result":"Done","timeout":0.0}}"#
        );
        let fields =
            vec![("level", Value::Int(2)), ("message", "\"é\"".into()), ("timestamp", Value::Double(0.5))];
        assert_eq!(
            event(EventName::LogMessage, &fields, 3, Tai(1_795_367_697.5)),
            r#"{"event":{"topic":"logMessage","seq":3,"sent":1795367697.5,"sent_utc":"2026-11-22T17:14:20.500Z","data":{"level":2,"message":"\"é\"","timestamp":0.5}}}"#
        );
    }
}
