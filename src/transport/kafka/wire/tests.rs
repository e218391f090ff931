//! Byte for byte against messages of the Python CSC and a salobj client, as observed.

use super::*;
use crate::csc::command::CommandKind;

struct Sample {
    /// The topic without its prefix.
    topic: &'static str,
    key: &'static str,
    id: u32,
    rev_code: &'static str,
    sent: f64,
    seq_num: i32,
    identity: &'static str,
    origin: i32,
    own: &'static [(&'static str, Own)],
    hex: &'static str,
}

#[derive(Clone, Copy)]
enum Own {
    Text(&'static str),
    Int(i32),
    Flag(bool),
    Double(f64),
}

impl From<Own> for Value {
    fn from(own: Own) -> Self {
        match own {
            Own::Text(text) => text.into(),
            Own::Int(number) => Self::Int(number),
            Own::Flag(flag) => Self::Boolean(flag),
            Own::Double(number) => Self::Double(number),
        }
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        topic: "ackcmd",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "ackcmd" }"#,
        id: 9,
        rev_code: "33c9967f",
        sent: 1795369804.2083368,
        seq_num: 731281302,
        identity: "OCPS:1",
        origin: 1945,
        own: &[
            ("ack", Own::Int(-302)),
            ("error", Own::Int(1)),
            ("result", Own::Text("Failed: enable not allowed in state <State.STANDBY: 5>")),
            ("identity", Own::Text("root@localhost")),
            ("origin", Own::Int(1466)),
            ("cmdtype", Own::Int(3)),
            ("timeout", Own::Double(0.0)),
        ],
        hex: "00000000090264550dd3cac0da4100000000000000006455cdc9cac0da4164550dd3cac0da41acdeb3b9051033336339393637660c4f4350533a31b21edb04026c4661696c65643a20656e61626c65206e6f7420616c6c6f77656420696e207374617465203c53746174652e5354414e4442593a20353e1c726f6f74406c6f63616c686f7374f416060000000000000000",
    },
    Sample {
        topic: "command_abort_job",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_abort_job" }"#,
        id: 1,
        rev_code: "77a716e1",
        sent: 1795369806.6702468,
        seq_num: 73432224,
        identity: "root@localhost",
        origin: 1466,
        own: &[("job_id", Own::Text("x"))],
        hex: "00000000010253e5aad3cac0da41000000000000000053e56acacac0da4153e5aad3cac0da41c0f283461037376137313665311c726f6f74406c6f63616c686f7374f4160278",
    },
    Sample {
        topic: "command_disable",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_disable" }"#,
        id: 2,
        rev_code: "05f90081",
        sent: 1795369804.8155453,
        seq_num: 494283389,
        identity: "root@localhost",
        origin: 1466,
        own: &[],
        hex: "000000000202e53134d3cac0da410000000000000000e531f4c9cac0da41e53134d3cac0da41faa9b1d7031030356639303038311c726f6f74406c6f63616c686f7374f416",
    },
    Sample {
        topic: "command_enable",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_enable" }"#,
        id: 3,
        rev_code: "a9a2f376",
        sent: 1795369804.2019079,
        seq_num: 731281302,
        identity: "root@localhost",
        origin: 1466,
        own: &[],
        hex: "0000000003020fec0cd3cac0da4100000000000000000fecccc9cac0da410fec0cd3cac0da41acdeb3b9051061396132663337361c726f6f74406c6f63616c686f7374f416",
    },
    Sample {
        topic: "command_execute",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_execute" }"#,
        id: 4,
        rev_code: "8e8af9f0",
        sent: 1795369806.0565298,
        seq_num: 987256192,
        identity: "root@localhost",
        origin: 1466,
        own: &[
            ("pipeline", Own::Text("true.yaml")),
            ("version", Own::Text("")),
            ("config", Own::Text("")),
            ("data_query", Own::Text("")),
            ("prereq_jobs", Own::Text("")),
            ("output_dataset_types", Own::Text("")),
        ],
        hex: "0000000004022f9e83d3cac0da4100000000000000002f9e43cacac0da412f9e83d3cac0da4180d6c2ad071038653861663966301c726f6f74406c6f63616c686f7374f41612747275652e79616d6c0000000000",
    },
    Sample {
        topic: "command_exitControl",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_exitControl" }"#,
        id: 5,
        rev_code: "5e9f8e3a",
        sent: 1795369814.0815718,
        seq_num: 1301380784,
        identity: "root@localhost",
        origin: 1466,
        own: &[],
        hex: "000000000502793885d5cac0da410000000000000000793845cccac0da41793885d5cac0da41e0fa8bd9091035653966386533611c726f6f74406c6f63616c686f7374f416",
    },
    Sample {
        topic: "command_setLogLevel",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_setLogLevel" }"#,
        id: 6,
        rev_code: "dd1210b9",
        sent: 1795369809.1469526,
        seq_num: 1418577499,
        identity: "root@localhost",
        origin: 1466,
        own: &[("level", Own::Int(10)), ("subsystem", Own::Text(""))],
        hex: "000000000602ac6749d4cac0da410000000000000000ac6709cbcac0da41ac6749d4cac0da41b699eec80a1064643132313062391c726f6f74406c6f63616c686f7374f4161400",
    },
    Sample {
        topic: "command_standby",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_standby" }"#,
        id: 7,
        rev_code: "b2e66f26",
        sent: 1795369805.4293132,
        seq_num: 1784844090,
        identity: "root@localhost",
        origin: 1466,
        own: &[],
        hex: "000000000702de795bd3cac0da410000000000000000de791bcacac0da41de795bd3cac0da41f4bc94a60d1062326536366632361c726f6f74406c6f63616c686f7374f416",
    },
    Sample {
        topic: "command_start",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "command_start" }"#,
        id: 8,
        rev_code: "b02bab64",
        sent: 1795369807.2825706,
        seq_num: 1908939216,
        identity: "root@localhost",
        origin: 1466,
        own: &[("configurationOverride", Own::Text("no_such_file.yaml"))],
        hex: "000000000802a315d2d3cac0da410000000000000000a31592cacac0da41a315d2d3cac0da41a0e7c09c0e1062303262616236341c726f6f74406c6f63616c686f7374f416226e6f5f737563685f66696c652e79616d6c",
    },
    Sample {
        topic: "logevent_errorCode",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_errorCode" }"#,
        id: 12,
        rev_code: "34a12bda",
        sent: 1795369800.5147548,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[("errorCode", Own::Int(0)), ("errorReport", Own::Text("")), ("traceback", Own::Text(""))],
        hex: "000000000c02bef120d2cac0da410000000000000000bef1e0c8cac0da41bef120d2cac0da41021033346131326264610c4f4350533a31b21e000000",
    },
    Sample {
        topic: "logevent_heartbeat",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_heartbeat" }"#,
        id: 13,
        rev_code: "624d5504",
        sent: 1795369800.4200075,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[("heartbeat", Own::Flag(false))],
        hex: "000000000d0267e11ad2cac0da41000000000000000067e1dac8cac0da4167e11ad2cac0da41021036323464353530340c4f4350533a31b21e00",
    },
    Sample {
        topic: "logevent_job_result",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_job_result" }"#,
        id: 15,
        rev_code: "0853982a",
        sent: 1795369823.1165028,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[
            ("job_id", Own::Text("true.yaml-1795369818.934519")),
            ("exit_code", Own::Int(0)),
            ("result", Own::Text("{\"result\": true}")),
        ],
        hex: "000000000f02c874c7d7cac0da410000000000000000c87487cecac0da41c874c7d7cac0da41021030383533393832610c4f4350533a31b21e36747275652e79616d6c2d313739353336393831382e39333435313900207b22726573756c74223a20747275657d",
    },
    Sample {
        topic: "logevent_logLevel",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_logLevel" }"#,
        id: 17,
        rev_code: "25d43fca",
        sent: 1795369796.620616,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[("level", Own::Int(20)), ("subsystem", Own::Text(""))],
        hex: "0000000011022cb827d1cac0da4100000000000000002cb8e7c7cac0da412cb827d1cac0da41021032356434336663610c4f4350533a31b21e2800",
    },
    Sample {
        topic: "logevent_simulationMode",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_simulationMode" }"#,
        id: 19,
        rev_code: "d8164d1a",
        sent: 1795369800.4198022,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[("mode", Own::Int(1))],
        hex: "0000000013020ade1ad2cac0da4100000000000000000adedac8cac0da410ade1ad2cac0da41021064383136346431610c4f4350533a31b21e02",
    },
    Sample {
        topic: "logevent_softwareVersions",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_softwareVersions" }"#,
        id: 20,
        rev_code: "6ab0a20f",
        sent: 1795369800.4237385,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[
            ("salVersion", Own::Text("")),
            ("xmlVersion", Own::Text("28.0.1")),
            ("cscVersion", Own::Text("4.3.0")),
            ("subsystemVersions", Own::Text("")),
        ],
        hex: "000000001402881e1bd2cac0da410000000000000000881edbc8cac0da41881e1bd2cac0da41021036616230613230660c4f4350533a31b21e000c32382e302e310a342e332e3000",
    },
    Sample {
        topic: "logevent_summaryState",
        key: r#"{ "name": "OCPS", "index": 1, "topic": "logevent_summaryState" }"#,
        id: 21,
        rev_code: "9aceaf80",
        sent: 1795369800.470905,
        seq_num: 1,
        identity: "OCPS:1",
        origin: 1945,
        own: &[("summaryState", Own::Int(5))],
        hex: "0000000015024f231ed2cac0da4100000000000000004f23dec8cac0da414f231ed2cac0da41021039616365616638300c4f4350533a31b21e0a",
    },
];

fn topic(name: &str) -> Topic {
    Topic::all().find(|topic| topic.sal_name() == name).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn ours(topic: Topic) -> Writer {
    Writer::new(topic, 1, &topic.schema_text()).unwrap()
}

#[test]
fn keys_and_messages_are_those_of_the_python_csc() {
    for sample in SAMPLES {
        let topic = topic(sample.topic);
        assert_eq!(topic.key(SalIndex::Latiss), sample.key);
        let writer = Writer { id: sample.id, rev_code: sample.rev_code.to_owned(), ..ours(topic) };
        let header = Header {
            index: SalIndex::Latiss,
            sent: Tai(sample.sent),
            seq_num: sample.seq_num,
            identity: sample.identity,
            origin: sample.origin,
        };
        let own = sample.own.iter().map(|(name, value)| (*name, Value::from(*value))).collect();
        let written = writer.message(&header, &own).unwrap();
        assert_eq!(written, bytes(sample.hex), "{}", sample.topic);
    }
    assert_eq!(SAMPLES.len(), 16);
}

#[test]
fn commands_are_read_as_they_were_meant() {
    for sample in SAMPLES.iter().filter(|sample| sample.topic.starts_with("command_")) {
        let message = bytes(sample.hex);
        let (id, datum) = unframe(&message).unwrap();
        assert_eq!(id, sample.id);
        let Topic::Command(name) = topic(sample.topic) else { panic!() };
        let record = Record::read(&ours(topic(sample.topic)).schema, datum).unwrap();
        assert_eq!(record.int("salIndex"), Ok(1));
        let command = record.command(name).unwrap();
        assert_eq!(command.sender.identity, "root@localhost");
        assert_eq!(command.sender.origin, sample.origin);
        assert_eq!(command.sender.seq_num, SeqNum(sample.seq_num));
        assert_eq!(command.sender.sent, Tai(sample.sent));
        assert_eq!(command.kind.name(), Some(name));
        match &command.kind {
            CommandKind::Execute(execute) => assert_eq!(execute.pipeline, "true.yaml"),
            CommandKind::SetLogLevel { level } => assert_eq!(*level, 10),
            CommandKind::Start { override_name } => assert_eq!(override_name, "no_such_file.yaml"),
            CommandKind::AbortJob(id) => assert_eq!(id.as_str(), "x"),
            CommandKind::Enable | CommandKind::Disable | CommandKind::Standby | CommandKind::ExitControl => {}
            CommandKind::Invalid { reason, .. } => panic!("{reason}"),
        }
    }
}

#[test]
fn cmdtype_is_the_position_in_the_sorted_list() {
    let types: Vec<i32> = CommandName::ALL.iter().copied().map(cmdtype).collect();
    assert_eq!(types, [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut names: Vec<String> =
        Topic::all().map(Topic::sal_name).filter(|n| !n.starts_with("logevent")).collect();
    names.sort();
    assert_eq!(names.iter().position(|name| name == "command_execute"), Some(4));
}

#[test]
fn a_foreign_schema_is_adopted_when_our_fields_are_in_it() {
    let topic = Topic::Event(EventName::SummaryState);
    // Another order, and a field more.
    let text = topic.schema_text().replace(
        r#"[{"name": "salIndex", "type": "int", "default": 0}, "#,
        r#"[{"name": "new", "type": "string", "default": "x"}, {"name": "salIndex", "type": "int"}, "#,
    );
    let writer = Writer::new(topic, 300, &text).unwrap();
    let header =
        Header { index: SalIndex::Latiss, sent: Tai(2.0), seq_num: 7, identity: "OCPS:1", origin: 3 };
    let message = writer.message(&header, &vec![("summaryState", Value::Int(5))]).unwrap();
    let (id, datum) = unframe(&message).unwrap();
    assert_eq!(id, 300);
    let record = Record::read(&parse_schema(&text).unwrap(), datum).unwrap();
    assert_eq!(record.text("new").unwrap(), "x");
    assert_eq!((record.int("summaryState"), record.int("private_seqNum")), (Ok(5), Ok(7)));

    let missing = topic.schema_text().replace("summaryState\", \"type\"", "other\", \"type\"");
    assert_eq!(Writer::new(topic, 1, &missing).unwrap_err(), "no field summaryState");
    let typed = topic
        .schema_text()
        .replace(r#""summaryState", "type": "int", "default": 0"#, r#""summaryState", "type": "string""#);
    assert_eq!(Writer::new(topic, 1, &typed).unwrap_err(), "field summaryState is not of type int");
    assert_eq!(Writer::new(topic, 1, "\"int\"").unwrap_err(), "not a record");
    assert!(Writer::new(topic, 1, "nonsense").unwrap_err().starts_with("not an Avro schema"));
}

#[test]
fn hostile_messages_are_errors() {
    for bad in [&b""[..], b"\x01\0\0\0\x01", b"\0\0\0"] {
        assert!(unframe(bad).is_err());
    }
    let schema = ours(Topic::Command(CommandName::Execute)).schema;
    let sample = SAMPLES.iter().find(|sample| sample.topic == "command_execute").unwrap();
    let whole = bytes(sample.hex);
    for end in 5..whole.len() {
        assert!(Record::read(&schema, &whole[5..end]).is_err(), "{end}");
    }
    // Cut off in the last field, where the library would make a null of it.
    for (name, last) in [("command_start", "configurationOverride"), ("logevent_heartbeat", "heartbeat")] {
        let topic = topic(name);
        let sample = SAMPLES.iter().find(|sample| sample.topic == name).unwrap();
        let whole = bytes(sample.hex);
        let schema = ours(topic).schema;
        assert!(topic.schema_text().contains(&format!("\"{last}\"")));
        assert!(Record::read(&schema, &whole[5..]).is_ok());
        for end in 5..whole.len() {
            assert!(Record::read(&schema, &whole[5..end]).is_err(), "{name} {end}");
        }
        assert_eq!(Record::read(&schema, &whole[5..whole.len() - 1]).unwrap_err(), "it is cut off");
    }
    // A string that claims to have 2^40 bytes.
    let mut huge = whole[5..whole.len() - 6].to_vec();
    huge.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x40]);
    assert!(Record::read(&schema, &huge).is_err());
    // The writer's own idea of a field.
    let other = r#"{"type":"record","name":"x","fields":[{"name":"pipeline","type":"long"},
        {"name":"private_seqNum","type":"long"},{"name":"private_identity","type":["null","string"]}]}"#;
    let other = parse_schema(other).unwrap();
    let record = Record::read(&other, &[2, 4, 0]).unwrap();
    assert_eq!(record.int("private_seqNum"), Ok(2));
    assert_eq!(record.text("private_identity").unwrap(), "");
    assert_eq!(record.command(CommandName::Execute).unwrap_err(), "field pipeline is not of type string");
    let huge = Record::read(&other, &[2, 0x80, 0x80, 0x80, 0x80, 0x20, 0]).unwrap();
    assert!(huge.int("private_seqNum").unwrap_err().contains("is not of type int"));
}

#[test]
fn schemas_that_could_fill_memory_or_stack_are_refused() {
    let schema = |kind: &str| {
        let text = format!(r#"{{"type":"record","name":"x","fields":[{{"name":"a","type":{kind}}}]}}"#);
        parse_schema(&text).map(|_| ())
    };
    let list = |items: &str| format!(r#"{{"type":"array","items":{items}}}"#);
    for good in [
        "\"double\"",
        r#"["null","string"]"#,
        &list("\"double\""),
        &list("\"string\""),
        r#"{"type":"enum","name":"e","symbols":["A"]}"#,
    ] {
        assert_eq!(schema(good), Ok(()), "{good}");
    }
    for bad in [
        "\"x\"",
        r#"["null","x"]"#,
        &list("\"null\""),
        &list(&list("\"int\"")),
        &list(r#"{"type":"enum","name":"e","symbols":["A"]}"#),
        r#"{"type":"map","values":"int"}"#,
        r#"{"type":"fixed","name":"f","size":9223372036854775807}"#,
        r#"{"type":"record","name":"y","fields":[]}"#,
        r#"{"type":"bytes","logicalType":"big-decimal"}"#,
    ] {
        assert_eq!(schema(bad).unwrap_err(), "field a has a type that no topic of SAL has", "{bad}");
    }
    let odd = format!(r#"{{"type":"record","name":"{}","fields":[]}}"#, "é ".repeat(1000));
    assert!(parse_schema(&odd).unwrap_err().len() < 1000);
    // The library says such names again as they are.
    let odd = r#"{"type":"record","name":"a\nb","fields":[]}"#;
    assert!(!parse_schema(odd).unwrap_err().contains('\n'));
}

#[test]
fn a_schema_of_ours_is_what_salobj_expects() {
    assert_eq!(
        Topic::Event(EventName::Heartbeat).schema_text(),
        concat!(
            r#"{"type": "record", "name": "logevent_heartbeat", "namespace": "lsst.sal.OCPS", "fields": ["#,
            r#"{"name": "salIndex", "type": "int", "default": 0}, "#,
            r#"{"name": "private_sndStamp", "type": "double", "default": 0.0}, "#,
            r#"{"name": "private_rcvStamp", "type": "double", "default": 0.0}, "#,
            r#"{"name": "private_efdStamp", "type": "double", "default": 0.0}, "#,
            r#"{"name": "private_kafkaStamp", "type": "double", "default": 0.0}, "#,
            r#"{"name": "private_seqNum", "type": "int", "default": 0}, "#,
            r#"{"name": "private_revCode", "type": "string", "default": ""}, "#,
            r#"{"name": "private_identity", "type": "string", "default": ""}, "#,
            r#"{"name": "private_origin", "type": "int", "default": 0}, "#,
            r#"{"name": "heartbeat", "type": "boolean", "default": false}]}"#
        )
    );
    for topic in Topic::all() {
        ours(topic);
    }
    assert_eq!(Topic::all().count(), 21);
    assert_eq!(Topic::Ack.kafka_name("sal"), "lsst.sal.OCPS.ackcmd");
}
