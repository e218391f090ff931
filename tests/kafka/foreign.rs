//! Another client of the control system, with schemas of its own: it sends commands and receives all that is published.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::harness::PATIENCE;
use crate::registry::Memory;

const EVENTS: [&str; 12] = [
    "configurationApplied",
    "configurationsAvailable",
    "errorCode",
    "heartbeat",
    "job_id",
    "job_result",
    "largeFileObjectAvailable",
    "logLevel",
    "logMessage",
    "simulationMode",
    "softwareVersions",
    "summaryState",
];
const COMMANDS: [&str; 8] =
    ["abort_job", "disable", "enable", "execute", "exitControl", "setLogLevel", "standby", "start"];

/// All topics of the component, without the words in front.
pub(crate) fn topics() -> Vec<String> {
    let events = EVENTS.iter().map(|name| format!("logevent_{name}"));
    events.chain(COMMANDS.iter().map(|name| format!("command_{name}"))).chain(["ackcmd".to_owned()]).collect()
}

/// The fields that every topic has.
pub(crate) const PRIVATE: [(&str, &str); 9] = [
    ("salIndex", "int"),
    ("private_sndStamp", "double"),
    ("private_rcvStamp", "double"),
    ("private_efdStamp", "double"),
    ("private_kafkaStamp", "double"),
    ("private_seqNum", "int"),
    ("private_revCode", "string"),
    ("private_identity", "string"),
    ("private_origin", "int"),
];

/// The schema of a command as a client of another version writes it: with descriptions, and a field more.
pub(crate) fn command_schema(name: &str) -> String {
    let own: &[(&str, &str)] = match name {
        "execute" => &[
            ("pipeline", "string"),
            ("version", "string"),
            ("config", "string"),
            ("data_query", "string"),
            ("prereq_jobs", "string"),
            ("output_dataset_types", "string"),
        ],
        "abort_job" => &[("job_id", "string")],
        "start" => &[("configurationOverride", "string")],
        "setLogLevel" => &[("level", "int"), ("subsystem", "string")],
        _ => &[],
    };
    let fields: Vec<Value> = [("private_futureField", "string")]
        .iter()
        .chain(&PRIVATE)
        .chain(own)
        .map(|(name, kind)| {
            let default = match *kind {
                "string" => json!(""),
                "double" => json!(0.0),
                _ => json!(0),
            };
            json!({"name": name, "type": kind, "default": default, "description": "words", "units": "unitless"})
        })
        .collect();
    json!({"type": "record", "name": format!("command_{name}"), "namespace": "lsst.sal.OCPS", "fields": fields})
        .to_string()
}

/// Frame and datum of a record with this schema; what is not given is zero or empty.
pub(crate) fn encode(id: usize, text: &str, data: &Value) -> Vec<u8> {
    let schema = Schema::parse_str(text).unwrap();
    let Schema::Record(record) = &schema else { panic!() };
    let value = |field: &apache_avro::schema::RecordField| {
        let given = &data[&field.name];
        match &field.schema {
            Schema::String => Avro::String(given.as_str().unwrap_or_default().to_owned()),
            Schema::Double => Avro::Double(given.as_f64().unwrap_or_default()),
            Schema::Boolean => Avro::Boolean(given.as_bool().unwrap_or_default()),
            Schema::Int => Avro::Int(i32::try_from(given.as_i64().unwrap_or_default()).unwrap()),
            Schema::Long => Avro::Long(given.as_i64().unwrap_or_default()),
            Schema::Array(_) => Avro::Array(Vec::new()),
            other => panic!("{other:?}"),
        }
    };
    let values = record.fields.iter().map(|field| (field.name.clone(), value(field))).collect();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(id).unwrap().to_be_bytes());
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    writer.write_value(&mut bytes, Avro::Record(values)).unwrap();
    bytes
}

/// The value of a datum.
pub(crate) fn decode(schema: &Schema, mut datum: &[u8]) -> Value {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let value = reader.read_value(&mut datum).unwrap();
    assert!(datum.is_empty(), "something is left after the datum");
    value.try_into().unwrap()
}

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Without `lsst.<subname>.OCPS.`.
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) id: usize,
    pub(crate) data: Value,
}

impl Received {
    pub(crate) fn int(&self, field: &str) -> i64 {
        self.data[field].as_i64().unwrap()
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap()
    }
}

pub(crate) struct Foreign {
    brokers: String,
    pub(crate) subname: String,
    memory: Arc<Mutex<Memory>>,
    producer: BaseProducer,
    consumer: BaseConsumer,
    pub(crate) received: Vec<Received>,
    last_seq: i32,
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "foreign")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .set("topic.metadata.refresh.interval.ms", "1000")
        .set("linger.ms", "0");
    config
}

impl Foreign {
    pub(crate) fn new(brokers: &str, subname: &str, memory: Arc<Mutex<Memory>>) -> Self {
        let consumer: BaseConsumer = config(brokers).create().unwrap();
        let foreign = Self {
            brokers: brokers.to_owned(),
            subname: subname.to_owned(),
            memory,
            producer: config(brokers).create().unwrap(),
            consumer,
            received: Vec::new(),
            // As salobj does, so that two clients do not use the same numbers.
            last_seq: fastrand::i32(1..1_000_000_000),
        };
        foreign.receive_from_the_beginning();
        foreign
    }

    fn receive_from_the_beginning(&self) {
        let mut list = TopicPartitionList::new();
        for topic in topics().iter().filter(|topic| !topic.starts_with("command_")) {
            list.add_partition_offset(&self.name(topic), 0, Offset::Beginning).unwrap();
        }
        self.consumer.assign(&list).unwrap();
    }

    /// A new client that receives everything from the beginning of the topics.
    pub(crate) fn again(&self) -> Self {
        let mut foreign = Self::new(&self.brokers, &self.subname, Arc::clone(&self.memory));
        foreign.last_seq = self.last_seq;
        foreign
    }

    pub(crate) fn name(&self, topic: &str) -> String {
        format!("lsst.{}.OCPS.{topic}", self.subname)
    }

    /// Frame and datum of a command; `fields` win over the usual private ones.
    pub(crate) fn command(&self, name: &str, fields: &Value) -> Vec<u8> {
        let text = command_schema(name);
        let subject = format!("{}-value", self.name(&format!("command_{name}")));
        let id = self.memory.lock().unwrap().register(&subject, &text).unwrap();
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() + 37.0;
        let mut all = json!({
            "salIndex": 1, "private_sndStamp": now, "private_efdStamp": now - 37.0, "private_kafkaStamp": now,
            "private_identity": "someone@somewhere", "private_origin": 4321,
        });
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        encode(id, &text, &all)
    }

    /// Frame and datum of what was received, with other values in these fields.
    pub(crate) fn altered(&self, received: &Received, fields: &Value) -> Vec<u8> {
        let mut data = received.data.clone();
        for (name, value) in fields.as_object().unwrap() {
            data[name] = value.clone();
        }
        let text = self.memory.lock().unwrap().schemas[received.id - 1].clone();
        encode(received.id, &text, &data)
    }

    /// Writes bytes to a topic and waits until they are there.
    pub(crate) fn write(&self, topic: &str, payload: Option<&[u8]>) {
        self.write_often(topic, payload, 1);
    }

    /// The same, so many times.
    pub(crate) fn write_often(&self, topic: &str, payload: Option<&[u8]>, count: usize) {
        let name = self.name(topic);
        let key = format!(r#"{{ "name": "OCPS", "index": 1, "topic": "{topic}" }}"#);
        for _ in 0..count {
            let mut record = BaseRecord::to(&name).key(&key);
            if let Some(payload) = payload {
                record = record.payload(payload);
            }
            self.producer.send(record).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    /// Sends a command; its number.
    pub(crate) fn send(&mut self, name: &str, params: &Value) -> i32 {
        self.last_seq += 1;
        let mut fields = params.clone();
        fields["private_seqNum"] = json!(self.last_seq);
        let bytes = self.command(name, &fields);
        self.write(&format!("command_{name}"), Some(&bytes));
        self.last_seq
    }

    /// Sends a command and waits for its final ack: code and result.
    #[track_caller]
    pub(crate) fn run(&mut self, name: &str, params: &Value) -> String {
        let seq = self.send(name, params);
        self.final_ack(seq)
    }

    #[track_caller]
    pub(crate) fn final_ack(&mut self, seq: i32) -> String {
        let ack = self.find(&format!("the final ack of {seq}"), |received| {
            received.topic == "ackcmd"
                && received.int("private_seqNum") == i64::from(seq)
                && received.int("ack") != 301
        });
        format!("{} {}", ack.int("ack"), ack.text("result"))
    }

    #[track_caller]
    pub(crate) fn job_id(&mut self, seq: i32) -> String {
        let ack = self.find(&format!("the first ack of {seq}"), |received| {
            received.topic == "ackcmd" && received.int("private_seqNum") == i64::from(seq)
        });
        assert_eq!(ack.int("ack"), 301, "{ack:?}");
        let result: Value = serde_json::from_str(ack.text("result")).unwrap();
        result["job_id"].as_str().unwrap().to_owned()
    }

    /// Receives for so long.
    pub(crate) fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    let received = self.decode(&message);
                    drop(message);
                    self.received.extend(received);
                }
                Some(Err(_)) => {}
                None if left.is_zero() => return,
                None => {}
            }
        }
    }

    /// None if its schema cannot be had, or is another's: the registry may have lost its data.
    fn decode(&self, message: &rdkafka::message::BorrowedMessage<'_>) -> Option<Received> {
        let payload = message.payload().unwrap();
        assert_eq!(payload[0], 0);
        let id = usize::try_from(u32::from_be_bytes(payload[1..5].try_into().unwrap())).unwrap();
        let text = self.memory.lock().unwrap().schemas.get(id - 1).cloned()?;
        let schema = Schema::parse_str(&text).unwrap();
        let topic = message.topic().rsplit('.').next().unwrap().to_owned();
        schema.name().filter(|name| name.name() == topic)?;
        let data = decode(&schema, &payload[5..]);
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        Some(Received { topic, key, id, data })
    }

    /// The first matching message, received already or to come.
    #[track_caller]
    pub(crate) fn find(&mut self, what: &str, so: impl Fn(&Received) -> bool) -> Received {
        let end = Instant::now() + PATIENCE;
        let mut next = 0;
        loop {
            while let Some(received) = self.received.get(next) {
                if so(received) {
                    return received.clone();
                }
                next += 1;
            }
            assert!(Instant::now() < end, "not received: {what}; but {:#?}", self.story());
            self.listen(Duration::from_millis(20));
        }
    }

    /// The first event of a topic.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Received {
        let topic = format!("logevent_{name}");
        self.find(name, |received| received.topic == topic)
    }

    #[track_caller]
    pub(crate) fn state(&mut self, number: i64) {
        self.find(&format!("state {number}"), |received| {
            received.topic == "logevent_summaryState" && received.int("summaryState") == number
        });
    }

    pub(crate) fn of(&self, topic: &str) -> Vec<&Received> {
        self.received.iter().filter(|received| received.topic == topic).collect()
    }

    /// What was received without heartbeats and log messages, in a few words each.
    pub(crate) fn story(&self) -> Vec<String> {
        let text = |received: &Received| {
            let own: serde_json::Map<String, Value> = received
                .data
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| !name.starts_with("private_") && *name != "salIndex")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            format!("{} {}", received.topic, Value::Object(own))
        };
        let quiet = ["logevent_heartbeat", "logevent_logMessage"];
        self.received.iter().filter(|received| !quiet.contains(&received.topic.as_str())).map(text).collect()
    }
}
