//! Schemas in the registry that are not ours: newer ones, new ids for known ones; and a registry that is slow.

use std::time::{Duration, Instant};

use apache_avro::Schema;
use ocps::csc::command::CommandName;
use ocps::csc::id::SalIndex;
use ocps::csc::time::Tai;
use ocps::sal::Value as SalValue;
use ocps::sal::topic::{ACK, Column, EventName, FieldType};
use ocps::transport::kafka::reader::{Taken, take};
use ocps::transport::kafka::registry::{Failure, Registry};
use ocps::transport::kafka::wire::{Header, Topic};
use serde_json::{Value, json};
use strum::IntoEnumIterator;

use crate::foreign::{decode, encode};
use crate::harness::{Daemon, QUICK, eventually};
use crate::registry::{Memory, Registry as Server};
use crate::rig::Rig;
use crate::support::http;
use crate::support::port::Port;
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

/// What a later release of the interface may change in a topic.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Added,
    AddedList,
    Widened,
    AddedWithoutDefault,
    AddedListWithoutDefault,
    Removed,
    Retyped,
    MadeList,
}

const CHANGES: [Change; 8] = [
    Change::Added,
    Change::AddedList,
    Change::Widened,
    Change::AddedWithoutDefault,
    Change::AddedListWithoutDefault,
    Change::Removed,
    Change::Retyped,
    Change::MadeList,
];

/// The topics that we write, and their own fields.
fn written() -> Vec<(Topic, &'static [Column])> {
    let events = EventName::iter().map(|name| (Topic::Event(name), name.columns()));
    events.chain([(Topic::Ack, ACK)]).collect()
}

fn subject(subname: &str, topic: Topic) -> String {
    format!("lsst.{subname}.OCPS.{}-value", topic.sal_name())
}

/// The schema of a topic after a change; all but the added ones concern its last field.
fn changed(topic: Topic, change: Change) -> String {
    let mut schema: Value = serde_json::from_str(&topic.schema_text()).unwrap();
    let fields = schema["fields"].as_array_mut().unwrap();
    let last = fields.len() - 1;
    let kind = fields[last]["type"].clone();
    match change {
        Change::Added => fields.insert(0, json!({"name": "added", "type": "string", "default": "as it was"})),
        Change::AddedList => fields.push(
            json!({"name": "added", "type": {"type": "array", "items": "double"}, "default": [1.0, 2.5]}),
        ),
        Change::AddedWithoutDefault => fields.insert(0, json!({"name": "added", "type": "int"})),
        Change::AddedListWithoutDefault => {
            fields.push(json!({"name": "added", "type": {"type": "array", "items": "string"}}));
        }
        Change::Widened => {
            for field in fields.iter_mut() {
                let wider = match field["type"].as_str().unwrap() {
                    "int" if field["name"] == "salIndex" => "long",
                    "int" | "float" => "double",
                    same => same,
                };
                field["type"] = json!(wider);
            }
        }
        Change::Removed => drop(fields.pop()),
        Change::Retyped if kind == "string" => {
            fields[last]["type"] = json!("int");
            fields[last]["default"] = json!(0);
        }
        Change::Retyped => {
            fields[last]["type"] = json!("string");
            fields[last]["default"] = json!("");
        }
        Change::MadeList => {
            fields[last]["type"] = json!({"type": "array", "items": kind});
            fields[last]["default"] = json!([]);
        }
    }
    schema.to_string()
}

/// Why nothing can be written with the schema after a change; empty if it can.
fn misfit(columns: &[Column], change: Change) -> String {
    let (name, kind) = columns.last().unwrap();
    match change {
        Change::Added | Change::AddedList | Change::Widened => String::new(),
        Change::AddedWithoutDefault | Change::AddedListWithoutDefault => {
            "field added is not known to this release and has no default".to_owned()
        }
        Change::Removed => format!("no field {name}"),
        Change::Retyped | Change::MadeList => format!("field {name} is not of type {kind}"),
    }
}

#[test]
fn only_what_can_be_written_is_adopted() {
    let server = Server::start(0);
    let registry = Registry::new(&[server.url().as_str().into()]);
    for (topic, columns) in written() {
        let own = columns.iter().map(|(name, kind)| {
            let value = match kind {
                FieldType::String => SalValue::String("é".to_owned()),
                FieldType::Int => SalValue::Int(i32::MIN),
                FieldType::Boolean => SalValue::Boolean(true),
                FieldType::Float => SalValue::Double(0.5),
                FieldType::Double => SalValue::Double(0.1),
            };
            (*name, value)
        });
        let own = own.collect();
        for change in CHANGES {
            for strict in [false, true] {
                let what = format!("{} {change:?} {strict}", topic.sal_name());
                let subject = subject("matrix", topic);
                {
                    let mut memory = server.memory.lock().unwrap();
                    memory.lose();
                    memory.register(&subject, &changed(topic, change)).unwrap();
                    memory.strict.clear();
                    memory.strict.extend(strict.then(|| subject.clone()));
                }
                let misfit = misfit(columns, change);
                let writer = match registry.writer(topic, &subject) {
                    Ok(writer) => writer,
                    Err(Failure::Refused(reason)) => {
                        assert!(strict && !misfit.is_empty(), "{what}: {reason}");
                        assert!(reason.contains(&format!("{subject} does not fit: {misfit}")), "{reason}");
                        assert!(reason.contains("(409 Schema being registered is incompatible)"), "{reason}");
                        continue;
                    }
                    Err(Failure::NoAnswer(reason)) => panic!("{what}: {reason}"),
                };
                assert!(misfit.is_empty() || !strict, "{what}");
                let header =
                    Header { index: SalIndex::Latiss, sent: Tai(2.5), seq_num: 7, identity: "me", origin: 9 };
                let message = writer.message(&header, &own).unwrap();
                let memory = server.memory.lock().unwrap();
                let versions = &memory.subjects[&subject];
                assert_eq!(versions.len(), if misfit.is_empty() { 1 } else { 2 }, "{what}");
                let id = usize::from(message[4]);
                assert_eq!((&message[..4], Some(&id)), (&[0; 4][..], versions.last()), "{what}");
                let schema = Schema::parse_str(&memory.schemas[id - 1]).unwrap();
                let data = decode(&schema, &message[5..]);
                assert_eq!(
                    (data["salIndex"].as_f64(), data["private_sndStamp"].as_f64()),
                    (Some(1.0), Some(2.5))
                );
                for (name, value) in &own {
                    let found = &data[*name];
                    let is_same = match value {
                        SalValue::String(text) => found == text,
                        SalValue::Int(number) => found.as_f64() == Some(f64::from(*number)),
                        SalValue::Boolean(flag) => found == flag,
                        SalValue::Double(number) => found.as_f64() == Some(*number),
                    };
                    assert!(is_same, "{what}: {name} {value:?} {found}");
                }
            }
        }
    }
}

fn command(id: usize, text: &str) -> Vec<u8> {
    let data = json!({"salIndex": 1, "private_sndStamp": 2.5, "private_seqNum": 7, "private_identity": "me",
        "private_origin": 9, "pipeline": "true.yaml", "job_id": "x", "level": 10});
    encode(id, text, &data)
}

#[test]
fn commands_of_a_newer_release_are_read_by_the_names_of_their_fields() {
    let server = Server::start(0);
    for &name in CommandName::ALL {
        let topic = Topic::Command(name);
        let read = |text: &str| {
            let id = server.memory.lock().unwrap().register("commands", text).unwrap();
            let registry = Registry::new(&[server.url().as_str().into()]);
            take(&registry, topic, Some(&command(id, text)), SalIndex::Latiss)
        };
        let Ok(Some(Taken::Command(ours))) = read(&topic.schema_text()) else { panic!("{name:?}") };
        for change in CHANGES {
            let text = changed(topic, change);
            match (change, read(&text)) {
                (Change::Retyped | Change::MadeList, Err(reason)) => {
                    assert!(reason.contains("is not of type"), "{name:?} {change:?} {reason}");
                }
                (Change::Removed, Ok(Some(Taken::Command(theirs)))) => {
                    assert_eq!(theirs.sender.seq_num, ours.sender.seq_num, "{name:?}");
                }
                (_, Ok(Some(Taken::Command(theirs)))) => {
                    assert_eq!(format!("{theirs:?}"), format!("{ours:?}"), "{name:?} {change:?}");
                }
                (_, taken) => panic!("{name:?} {change:?} {taken:?}"),
            }
        }
    }
}

#[test]
fn an_id_that_means_something_else_now_is_asked_for_again() {
    let server = Server::start(0);
    let registry = Registry::new(&[server.url().as_str().into()]);
    let (start, execute) = (Topic::Command(CommandName::Start), Topic::Command(CommandName::Execute));
    let texts = |newer: Change| [start.schema_text(), changed(execute, newer)];
    let with = |act: &mut dyn FnMut(&mut Memory)| act(&mut server.memory.lock().unwrap());
    let read = |topic: Topic, id: usize, text: &str| match take(
        &registry,
        topic,
        Some(&command(id, text)),
        SalIndex::Latiss,
    ) {
        Ok(Some(Taken::Command(command))) => Ok(format!("{:?}", command.kind)),
        Ok(taken) => panic!("{taken:?}"),
        Err(reason) => Err(reason),
    };
    let [start_text, execute_text] = texts(Change::Added);
    with(&mut |memory| {
        memory.register("start", &start_text).unwrap();
        memory.register("execute", &execute_text).unwrap();
    });
    assert!(read(start, 1, &start_text).is_ok());
    let expected = read(execute, 2, &execute_text).unwrap();
    assert!(expected.contains("true.yaml"), "{expected}");
    // The ids are exchanged.
    with(&mut |memory| {
        memory.lose();
        memory.register("execute", &execute_text).unwrap();
        memory.register("start", &start_text).unwrap();
    });
    assert_eq!(read(execute, 1, &execute_text).unwrap(), expected);
    assert!(read(start, 2, &start_text).is_ok());
    // Of the same topic, but another version.
    let [_, wider] = texts(Change::AddedList);
    with(&mut |memory| {
        memory.lose();
        memory.register("execute", &wider).unwrap();
        memory.register("start", &start_text).unwrap();
    });
    assert_eq!(read(execute, 1, &wider).unwrap(), expected);
    // What stays wrong is asked for once.
    let before = server.memory.lock().unwrap().answers;
    for _ in 0..100 {
        assert_eq!(read(execute, 2, &start_text).unwrap_err(), "schema 2 is not one of command_execute");
    }
    assert!(server.memory.lock().unwrap().answers <= before + 2);
    assert!(read(start, 2, &start_text).is_ok());
}

#[test]
fn a_newer_release_in_the_registry_stops_nothing() {
    let rig = Rig::new(QUICK);
    let mut expected = Vec::new();
    for (number, (topic, columns)) in written().into_iter().enumerate() {
        let change = match topic {
            Topic::Event(EventName::Heartbeat) => Change::AddedWithoutDefault,
            _ => CHANGES[number % CHANGES.len()],
        };
        let subject = subject(&rig.subname, topic);
        let id = rig.registry.memory.lock().unwrap().register(&subject, &changed(topic, change)).unwrap();
        expected.push((topic, id, misfit(columns, change)));
    }
    let (daemon, mut foreign) = rig.enabled();
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    for (topic, theirs, misfit) in &expected {
        if *topic == Topic::Event(EventName::LargeFileObjectAvailable) {
            continue;
        }
        let name = topic.sal_name();
        let received = foreign.find(&name, |received| received.topic == name);
        assert_eq!(received.id == *theirs, misfit.is_empty(), "{received:?}");
    }
    let kafka = &daemon.connect().query("status")["kafka"];
    assert_eq!((&kafka["stage"], &kafka["problem"]), (&json!("joined"), &json!(null)));
}

/// Puts a schema into a registry that then takes no other for this topic.
fn spoil(rig: &Rig, topic: Topic, change: Change) {
    let mut memory = rig.registry.memory.lock().unwrap();
    let subject = subject(&rig.subname, topic);
    memory.register(&subject, &changed(topic, change)).unwrap();
    memory.strict.insert(subject);
}

#[test]
fn events_that_cannot_be_published_are_logged_and_the_others_are_sent() {
    let rig = Rig::new(QUICK);
    let spoilt = [
        (Topic::Event(EventName::Heartbeat), Change::AddedWithoutDefault),
        (Topic::Event(EventName::JobResult), Change::Retyped),
        (Topic::Event(EventName::ErrorCode), Change::MadeList),
    ];
    spoilt.iter().for_each(|(topic, change)| spoil(&rig, *topic, *change));
    let (daemon, mut foreign) = rig.enabled();
    let seq = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    let job = foreign.job_id(seq);
    assert_eq!(foreign.final_ack(seq), "303 Done");
    let mut client = daemon.connect();
    let status = client.query("status");
    assert_eq!(status["kafka"]["stage"], "joined");
    let problem = status["kafka"]["problem"].as_str().unwrap();
    for (topic, change) in spoilt {
        let (_, columns) = written().into_iter().find(|(written, _)| *written == topic).unwrap();
        let expected = format!("{} does not fit: {}", subject(&rig.subname, topic), misfit(columns, change));
        assert!(problem.contains(&expected), "{problem}");
        let log = daemon.stderr();
        assert_eq!(log.lines().filter(|line| line.contains(&expected)).count(), 1, "{log}");
        let name = topic.sal_name();
        assert!(foreign.of(&name).is_empty(), "{name}");
    }
    rig.registry.memory.lock().unwrap().strict.clear();
    foreign.find("the result that was kept", |received| {
        received.topic == "logevent_job_result" && received.text("job_id") == job
    });
    foreign.event("heartbeat");
    foreign.event("errorCode");
    eventually("all is well", || client.query("status")["kafka"]["problem"].is_null());
}

#[test]
fn an_ack_that_cannot_be_published_is_left_to_the_next_run() {
    let rig = Rig::new("");
    spoil(&rig, Topic::Ack, Change::Retyped);
    let timing = Timing { pending: 0.05, queued: 0.05, duration: 0.05, ..Timing::default() };
    let service = UwsService::start(Options { timing, ..Options::default() });
    let mut first = rig.start_for(&service, &["--state", "enabled"]);
    let mut foreign = rig.foreign();
    foreign.state(2);
    let seq = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    foreign.event("job_result");
    first.terminate();
    assert!(foreign.of("ackcmd").is_empty());
    rig.registry.memory.lock().unwrap().strict.clear();
    let _second = rig.start_for(&service, &["--state", "enabled"]);
    assert_eq!(foreign.final_ack(seq), "303 Done");
}

#[test]
fn a_registry_that_lost_its_data_gets_our_schemas_again_and_its_ids_are_asked_for_again() {
    let rig = Rig::new(QUICK);
    let (daemon, mut foreign) = rig.enabled();
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 20})), "303 Done");
    let mut client = daemon.subscribe();
    let name = Topic::Command(CommandName::SetLogLevel);
    {
        let mut memory = rig.registry.memory.lock().unwrap();
        let id = *memory.subjects[&subject(&rig.subname, name)].last().unwrap();
        memory.lose();
        // So that the next schema, which is that of execute, gets this id.
        for number in 1..id {
            let text = format!(r#"{{"type": "record", "name": "other{number}", "fields": []}}"#);
            memory.register("other", &text).unwrap();
        }
    }
    foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    client.event("job_result");
    assert_eq!(client.query("status")["kafka"]["undecodable"], 0);
    // A client that comes late can read the present state.
    let mut late = foreign.again();
    late.state(2);
    late.event("heartbeat");
    late.event("configurationApplied");
    assert_eq!(late.run("disable", &json!({})), "303 Done");
}

#[test]
fn the_registries_of_a_list_are_tried_in_turn() {
    let rig = Rig::new("");
    let away = Port::free().unwrap();
    let ill = http::Server::start(0, |_, connection| {
        http::answer(connection, 500, &[], b"<html>")?;
        Ok(http::Then::KeepAlive)
    });
    let ill = ill.unwrap();
    let mut command = rig.daemon(&[]);
    let list = format!("http://127.0.0.1:{},http://{}, {}/", away.number, ill.address(), rig.registry.url());
    command.env("LSST_SCHEMA_REGISTRY_URL", list);
    let _daemon = Daemon::start(command, rig.home.socket());
    rig.foreign().state(5);
}

#[test]
fn a_slow_registry_delays_the_start_by_a_few_answers() {
    let answer = Duration::from_secs(6);
    let rig = Rig::new("[kafka]\nstart_timeout_s = 100\n");
    {
        let mut memory = rig.registry.memory.lock().unwrap();
        for topic in Topic::all() {
            memory.register(&subject(&rig.subname, topic), &topic.schema_text()).unwrap();
        }
        memory.delay = answer;
    }
    let begun = Instant::now();
    let daemon = rig.start(&[]);
    let mut client = daemon.connect();
    eventually("it has joined", || client.query("status")["kafka"]["stage"] == "joined");
    let topics = u32::try_from(written().len()).unwrap();
    assert!(begun.elapsed() < answer * topics, "{:?}", begun.elapsed());
}
