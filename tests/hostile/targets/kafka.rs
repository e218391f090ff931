//! What comes over Kafka and from the schema registry: messages, schemas, and the registry's HTTP answers.

use std::collections::BTreeMap;

use ocps::csc::command::CommandName;
use ocps::csc::event::Event;
use ocps::csc::id::SalIndex;
use ocps::csc::state::SummaryState;
use ocps::csc::time::Tai;
use ocps::sal;
use ocps::sal::topic::EventName;
use ocps::transport::kafka::reader::{Taken, take};
use ocps::transport::kafka::registry::Registry;
use ocps::transport::kafka::wire::{Header, Topic, Writer};
use serde_json::json;
use ureq::Agent;

use super::http::{FarEnd, Nowhere, Script};
use super::{check_reason, join, parts};

/// Number of the schema in all answers of the registry.
const ID: u32 = 1;

/// A message whose schema is that of its topic; the first byte chooses the topic.
pub(crate) fn read_message(data: &[u8]) {
    thread_local! {
        static REGISTRIES: std::cell::RefCell<BTreeMap<Topic, Registry>> = const { std::cell::RefCell::new(BTreeMap::new()) };
    }
    let Some((first, message)) = data.split_first() else { return };
    let topics: Vec<Topic> = Topic::all().collect();
    let topic = topics[usize::from(*first) % topics.len()];
    REGISTRIES.with_borrow_mut(|registries| {
        let registry = registries.entry(topic).or_insert_with(|| registry(&answer(&topic.schema_text())));
        check_taken(topic, take(registry, topic, Some(message), SalIndex::Latiss));
    });
}

/// A registry that has this schema for everything, and a datum written with it.
pub(crate) fn read_schema(data: &[u8]) {
    let [schema, datum] = parts::<2>(data);
    let registry = registry(&answer(&String::from_utf8_lossy(schema)));
    use_registry(&registry, datum);
}

/// A registry that answers everything with these bytes, and a datum.
pub(crate) fn read_registry(data: &[u8]) {
    let [bytes, datum] = parts::<2>(data);
    use_registry(&registry(bytes), datum);
}

fn registry(bytes: &[u8]) -> Registry {
    let far = FarEnd::new(Script::new(bytes));
    Registry::with_agent(&["http://me:secret@127.0.0.1:9".into()], |config| {
        Agent::with_parts(config.clone(), far.clone(), Nowhere)
    })
}

/// The registry's answer to all that is asked.
fn answer(schema: &str) -> Vec<u8> {
    let body = json!({ "subject": "x-value", "version": 1, "id": ID, "schema": schema }).to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length:";
    format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Reads a command and then writes an event, each after what joining does for it.
fn use_registry(registry: &Registry, datum: &[u8]) {
    let execute = Topic::Command(CommandName::Execute);
    if let Err(failure) = registry.reader(execute, "x-value") {
        check_reason(&failure.to_string());
    }
    let value = [&[0], ID.to_be_bytes().as_slice(), datum].concat();
    check_taken(execute, take(registry, execute, Some(&value), SalIndex::Latiss));
    // Where the schema does not fit, ours is registered, and has its number from then on.
    match registry.writer(Topic::Event(EventName::SummaryState), "x-value") {
        Ok(writer) => write(&writer),
        Err(failure) => check_reason(&failure.to_string()),
    }
}

fn write(writer: &Writer) {
    let (_, fields) = sal::event::parts(&Event::SummaryState(SummaryState::Enabled));
    let header =
        Header { index: SalIndex::Latiss, sent: Tai(1.0), seq_num: 1, identity: "OCPS:1", origin: 7 };
    match writer.message(&header, &fields) {
        Ok(message) => assert!(message.len() > 50 && message.len() < 4 << 20, "{}", message.len()),
        Err(reason) => check_reason(&reason),
    }
}

fn check_taken(topic: Topic, taken: Result<Option<Taken>, String>) {
    match taken {
        Ok(Some(Taken::Command(command))) => {
            assert!(matches!(topic, Topic::Command(_)) && command.sender.seq_num.0 > 0, "{command:?}");
        }
        Ok(Some(Taken::Heartbeat { identity, .. })) => {
            assert!(!matches!(topic, Topic::Command(_)));
            check_reason(&format!("another lives: {identity}"));
        }
        Ok(Some(Taken::State(_))) => assert_eq!(topic, Topic::Event(EventName::SummaryState)),
        Ok(None) => {}
        Err(reason) => check_reason(&reason),
    }
}

/// The samples with the numbers of their topics.
fn samples() -> Vec<(u8, Topic, Vec<u8>)> {
    let mut samples = Vec::new();
    for line in include_str!("messages.txt").lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        let (number, topic) = (0_u8..).zip(Topic::all()).find(|(_, topic)| topic.sal_name() == name).unwrap();
        let digits: Vec<u8> = hex.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
        samples.push((number, topic, digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()));
    }
    samples
}

pub(crate) fn seeds_of_messages() -> Vec<Vec<u8>> {
    samples().into_iter().map(|(number, _, message)| [&[number], message.as_slice()].concat()).collect()
}

pub(crate) fn seeds_of_schemas() -> Vec<Vec<u8>> {
    let execute = samples().into_iter().find(|(_, topic, _)| *topic == Topic::Command(CommandName::Execute));
    let datum = execute.map(|(_, _, message)| message[5..].to_vec()).unwrap_or_default();
    let own = Topic::Command(CommandName::Execute).schema_text();
    let event = Topic::Event(EventName::SummaryState).schema_text();
    let nullable = own.replace(r#""type": "string""#, r#""type": ["null", "string"]"#);
    let more = event.replace(r#"{"name": "salIndex""#, r#"{"name": "more", "type": {"type": "array", "items": "double"}, "default": [1.0, 2.5]}, {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}, "default": "A"}, {"name": "fixed", "type": {"type": "fixed", "name": "Fixed", "size": 4}, "default": "\u0000abc"}, {"name": "map", "type": {"type": "map", "values": "long"}, "default": {"x": 1}}, {"name": "salIndex""#);
    let odd = r#"{"type": "record", "name": "x.y", "aliases": ["z"], "doc": "d", "fields": [{"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}}, {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}}, {"name": "u", "type": {"type": "string", "logicalType": "uuid"}}, {"name": "r", "type": ["null", {"type": "record", "name": "inner", "fields": [{"name": "salIndex", "type": "int"}]}]}]}"#;
    let field = |kind: &str| {
        format!(r#"{{"type": "record", "name": "x", "fields": [{{"name": "a", "type": {kind}}}]}}"#)
    };
    let endless = field(r#""x""#);
    let chain = field(r#"["null", "x"]"#);
    let fixed = field(r#"{"type": "fixed", "name": "f", "size": 9223372036854775807}"#);
    let nothings = field(r#"{"type": "array", "items": {"type": "array", "items": "null"}}"#);
    let map = field(r#"{"type": "map", "values": {"type": "map", "values": "null"}}"#);
    let many = [b"\xfe\xff\x07".as_slice(), &b"\xfe\xff\x07\x00".repeat(300)].concat();
    let with = |schema: &str, datum: &[u8]| [join(&[schema, ""]), datum.to_vec()].concat();
    let input = |schema: &str| [join(&[schema, ""]), datum.clone()].concat();
    let mut seeds =
        vec![input(&own), input(&event), input(&nullable), input(&more), input(odd), input("\"string\"")];
    seeds.extend([
        // Says the name again in its error.
        input(&own.replace("execute", "e\u{7f}ecute")),
        with(&endless, b""),
        with(&chain, &[2; 20_000]),
        with(&fixed, b""),
        with(&nothings, &many),
        with(&map, &many),
    ]);
    seeds
}

pub(crate) fn seeds_of_registry() -> Vec<Vec<u8>> {
    let schema = Topic::Event(EventName::SummaryState).schema_text();
    let unknown = b"HTTP/1.1 404 Not Found\r\nContent-Length: 45\r\n\r\n{\"error_code\":40401,\"message\":\"not found\\n\"}  ".to_vec();
    let moved =
        b"HTTP/1.1 302 Found\r\nLocation: https://user:pass@elsewhere:1/x?y#z\r\nContent-Length: 0\r\n\r\n"
            .to_vec();
    // ureq, where it follows redirects, panics at this end.
    let cut = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".to_vec();
    let refused =
        b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"message\":\"no\"}\r\n0\r\n\r\n"
            .to_vec();
    vec![answer(&schema), unknown, moved, cut, refused, answer("{\"type\":\"string\"}")]
}
