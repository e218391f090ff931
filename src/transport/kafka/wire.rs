//! The bytes on the wire: topic names, keys, private fields, Avro datums, Confluent framing.
//!
//! Invariant: we write what salobj writes, byte for byte, and trust nothing that we read. No I/O.

use std::io::{self, Read};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::SchemaKind;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use md5::{Digest, Md5};
use serde_json::json;
use strum::IntoEnumIterator;

use crate::clock;
use crate::csc::command::{Command, CommandName, Sender, Via};
use crate::csc::id::{SalIndex, SeqNum};
use crate::csc::time::Tai;
use crate::sal::event::Fields;
use crate::sal::topic::{ACK, Column, EventName, FieldType, PRIVATE, parameters};
use crate::sal::{self, Value};
use crate::text::quote;

/// Name of the component.
const COMPONENT: &str = "OCPS";
/// Namespace of all records, whatever the topic's subname.
const NAMESPACE: &str = "lsst.sal.OCPS";
/// First byte of a message with a registered schema.
const MAGIC: u8 = 0;
/// Most bytes that one Avro string or block may claim: a little more than a broker takes.
const ALLOCATION_MAX: usize = 8 << 20;

/// A topic that we read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// `command_…`, which we read.
    Command(CommandName),
    /// `ackcmd`.
    Ack,
    /// `logevent_…`, without the prefix.
    Event(EventName),
}

impl Topic {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let commands = CommandName::ALL.iter().copied().map(Self::Command);
        commands.chain([Self::Ack]).chain(EventName::iter().map(Self::Event))
    }

    /// Name of the topic in SAL, and of its Avro record.
    pub fn sal_name(self) -> String {
        match self {
            Self::Command(name) => format!("command_{}", name.as_str()),
            Self::Ack => "ackcmd".to_owned(),
            Self::Event(name) => format!("logevent_{}", name.into_str()),
        }
    }

    /// Name of the topic in Kafka.
    pub(super) fn kafka_name(self, subname: &str) -> String {
        format!("lsst.{subname}.{COMPONENT}.{}", self.sal_name())
    }

    /// The fields that follow the private ones.
    fn own(self) -> &'static [Column] {
        match self {
            Self::Command(name) => parameters(name),
            Self::Ack => ACK,
            Self::Event(name) => name.columns(),
        }
    }

    /// All fields, the private ones first.
    fn columns(self) -> Vec<Column> {
        [PRIVATE, self.own()].concat()
    }

    /// Whether a schema is one of this topic, by the name of its record; the namespace may be missing.
    pub(super) fn owns(self, schema: &Schema) -> bool {
        let Schema::Record(record) = schema else { return false };
        let namespace = record.name.namespace();
        record.name.name() == self.sal_name() && namespace.is_none_or(|namespace| namespace == NAMESPACE)
    }

    /// The key of our messages; compaction depends on each of its bytes.
    pub(super) fn key(self, index: SalIndex) -> String {
        let (index, topic) = (index.number(), self.sal_name());
        format!(r#"{{ "name": "{COMPONENT}", "index": {index}, "topic": "{topic}" }}"#)
    }

    /// The schema that we register if the registry has none.
    pub fn schema_text(self) -> String {
        let field = |(name, kind): Column| {
            let default = json!(sample(kind));
            format!(r#"{{"name": "{name}", "type": "{kind}", "default": {default}}}"#)
        };
        let fields: Vec<String> = self.columns().into_iter().map(field).collect();
        let (name, fields) = (self.sal_name(), fields.join(", "));
        format!(r#"{{"type": "record", "name": "{name}", "namespace": "{NAMESPACE}", "fields": [{fields}]}}"#)
    }
}

/// `cmdtype` of an ack: the position of the command in the sorted list of `ackcmd` and all commands.
pub(super) fn cmdtype(command: CommandName) -> i32 {
    command as i32 + 1
}

/// A schema to write with.
#[derive(Debug)]
pub struct Writer {
    /// The id of the schema in the registry.
    pub(super) id: u32,
    /// The schema that the id must mean.
    pub(super) schema: Schema,
    rev_code: String,
}

/// Parses the text of a schema: a record of plain fields and lists of such fields, as all schemas of SAL are.
///
/// Others are refused: with some of them, a few bytes of a message fill the memory (a list of lists of nothing, a fixed
/// number of bytes) or the stack (a record that contains itself).
pub(super) fn parse_schema(text: &str) -> Result<Schema, String> {
    // This sets the limit of the process; later calls change nothing.
    apache_avro::util::max_allocation_bytes(ALLOCATION_MAX);
    let schema = Schema::parse_str(text).map_err(|error| format!("not an Avro schema: {}", quote(&error)))?;
    let Schema::Record(record) = &schema else { return Err("not a record".to_owned()) };
    match record.fields.iter().find(|field| !is_flat(&field.schema)) {
        Some(field) => Err(format!("field {} has a type that no topic of SAL has", quote(&field.name))),
        None => Ok(schema),
    }
}

/// The types of plain fields.
const PLAIN: [SchemaKind; 8] = {
    use SchemaKind::{Boolean, Bytes, Double, Float, Int, Long, Null, String};
    [Null, Boolean, Int, Long, Float, Double, Bytes, String]
};

/// Whether a field is plain, or a list whose items are plain and take up bytes of the message.
fn is_flat(schema: &Schema) -> bool {
    let is_plain = |schema: &Schema| PLAIN.contains(&schema.into());
    if let Schema::Array(list) = schema {
        is_plain(&list.items) && *list.items != Schema::Null
    } else if let Schema::Union(union) = schema {
        union.variants().iter().all(is_plain)
    } else {
        is_plain(schema) || matches!(schema, Schema::Enum(_))
    }
}

impl Writer {
    /// Takes a schema for a topic, when messages can be written with it: every field of ours is there with a type
    /// that holds our values exactly, and all others have defaults.
    ///
    /// # Errors
    /// One line: why it does not fit.
    pub fn new(topic: Topic, id: u32, text: &str) -> Result<Self, String> {
        let schema = parse_schema(text)?;
        let Schema::Record(record) = &schema else { return Err("not a record".to_owned()) };
        if !topic.owns(&schema) {
            let name = quote(record.name.as_ref());
            return Err(format!("it is that of {name}, not of {NAMESPACE}.{}", topic.sal_name()));
        }
        let ours = topic.columns();
        for (name, kind) in &ours {
            let Some(field) = record.fields.iter().find(|field| field.name == *name) else {
                return Err(format!("no field {name}"));
            };
            if !fits(*kind, &field.schema) {
                return Err(format!("field {name} is not of type {}", kind));
            }
        }
        let unknown = |name: &str| !ours.iter().any(|(known, _)| *known == name);
        if let Some(field) = record.fields.iter().find(|f| f.default.is_none() && unknown(&f.name)) {
            let name = quote(&field.name);
            return Err(format!("field {name} is not known to this release and has no default"));
        }
        let digest = Md5::digest(text.as_bytes());
        let rev_code = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let writer = Self { id, schema, rev_code };
        // A default may still not be of the type of its field.
        let own = topic.own().iter().map(|&(name, kind)| (name, sample(kind))).collect();
        writer.message(&SAMPLE, &own).map(|_| writer)
    }

    /// A whole message: frame and datum. Fields of the schema that we do not know get their defaults.
    ///
    /// # Errors
    /// One line: a field that we do not know has no default.
    pub fn message(&self, header: &Header<'_>, own: &Fields) -> Result<Vec<u8>, String> {
        let efd = header.sent.0 - clock::tai_minus_utc();
        let private: [(&str, Value); PRIVATE.len()] = [
            ("salIndex", Value::Int(header.index.number())),
            ("private_sndStamp", Value::Double(header.sent.0)),
            ("private_rcvStamp", Value::Double(0.0)),
            ("private_efdStamp", Value::Double(efd)),
            ("private_kafkaStamp", Value::Double(header.sent.0)),
            ("private_seqNum", Value::Int(header.seq_num)),
            ("private_revCode", Value::String(self.rev_code.clone())),
            ("private_identity", header.identity.into()),
            ("private_origin", Value::Int(header.origin)),
        ];
        let fields = private.iter().chain(own).map(|(name, value)| ((*name).to_owned(), to_avro(value)));
        let failed = |error: apache_avro::Error| format!("cannot be encoded: {}", quote(&error));
        let record = Avro::Record(fields.collect()).resolve(&self.schema).map_err(failed)?;
        let mut bytes = vec![MAGIC];
        bytes.extend(self.id.to_be_bytes());
        let writer = GenericDatumWriter::builder(&self.schema).build().map_err(failed)?;
        writer.write_value(&mut bytes, record).map_err(failed)?;
        Ok(bytes)
    }
}

/// Whether a field can hold each of our values exactly.
fn fits(kind: FieldType, schema: &Schema) -> bool {
    match kind {
        FieldType::String => matches!(schema, Schema::String),
        // A float would hold only 24 bits.
        FieldType::Int => matches!(schema, Schema::Int | Schema::Long | Schema::Double),
        FieldType::Boolean => matches!(schema, Schema::Boolean),
        FieldType::Float => matches!(schema, Schema::Float | Schema::Double),
        FieldType::Double => matches!(schema, Schema::Double),
    }
}

/// A header to try a schema with.
const SAMPLE: Header<'_> =
    Header { index: SalIndex::Latiss, sent: Tai(0.0), seq_num: 1, identity: "OCPS:1", origin: 1 };

fn sample(kind: FieldType) -> Value {
    match kind {
        FieldType::String => Value::String(String::new()),
        FieldType::Int => Value::Int(0),
        FieldType::Boolean => Value::Boolean(false),
        FieldType::Float | FieldType::Double => Value::Double(0.0),
    }
}

fn to_avro(value: &Value) -> Avro {
    match value {
        Value::String(text) => Avro::String(text.clone()),
        Value::Int(number) => Avro::Int(*number),
        Value::Boolean(flag) => Avro::Boolean(*flag),
        Value::Double(number) => Avro::Double(*number),
    }
}

/// The value of a field as one of this type; none if it is of another type.
fn from_avro(kind: FieldType, value: &Avro) -> Option<Value> {
    match (kind, value) {
        (FieldType::String, Avro::String(text)) => Some(Value::String(text.clone())),
        (FieldType::Int, Avro::Int(number)) => Some(Value::Int(*number)),
        (FieldType::Int, Avro::Long(number)) => i32::try_from(*number).ok().map(Value::Int),
        // A newer schema may have made the field a double; we write it so, too.
        (FieldType::Int, Avro::Double(number)) => {
            let is_int = number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX);
            is_int.then_some(Value::Int(*number as i32))
        }
        (FieldType::Boolean, Avro::Boolean(flag)) => Some(Value::Boolean(*flag)),
        (FieldType::Float | FieldType::Double, Avro::Double(number)) => Some(Value::Double(*number)),
        (FieldType::Float | FieldType::Double, Avro::Float(number)) => {
            Some(Value::Double(f64::from(*number)))
        }
        (_, _) => None,
    }
}

/// The values of the private fields of a message.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// `salIndex`.
    pub index: SalIndex,
    /// When the message is sent, for all stamps.
    pub sent: Tai,
    /// `private_seqNum`.
    pub seq_num: i32,
    /// `private_identity` of the sender.
    pub identity: &'a str,
    /// `private_origin`: the process id of the sender.
    pub origin: i32,
}

/// Takes the frame off a message: the id of the schema, and the datum.
pub(super) fn unframe(message: &[u8]) -> Result<(u32, &[u8]), String> {
    let [MAGIC, a, b, c, d, datum @ ..] = message else {
        return Err(if message.is_empty() { "empty".to_owned() } else { "no schema id in front".to_owned() });
    };
    Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum))
}

/// The bytes of a datum.
struct Datum<'a> {
    rest: &'a [u8],
    /// Whether more bytes were asked for than there are: the library reads a text or flag that is cut off as null, and a
    /// command would be carried out with parameters that its sender did not write.
    is_short: bool,
}

impl Read for Datum<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.is_short |= count < buffer.len();
        Ok(count)
    }
}

/// The fields of a message that was read, with their names.
#[derive(Debug)]
pub(super) struct Record(Vec<(String, Avro)>);

impl Record {
    /// Decodes a datum with its writer's schema.
    pub(super) fn read(schema: &Schema, datum: &[u8]) -> Result<Self, String> {
        let failed = |error: apache_avro::Error| format!("does not fit its schema: {}", quote(&error));
        let reader = GenericDatumReader::builder(schema).build().map_err(failed)?;
        let mut datum = Datum { rest: datum, is_short: false };
        let value = reader.read_value(&mut datum).map_err(failed)?;
        if datum.is_short {
            return Err("it is cut off".to_owned());
        }
        if !datum.rest.is_empty() {
            return Err("it has more bytes than its schema describes".to_owned());
        }
        let Avro::Record(fields) = value else { return Err("not a record".to_owned()) };
        Ok(Self(fields))
    }

    fn find(&self, name: &str) -> Option<&Avro> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        let value = if let Avro::Union(_, inner) = value { inner.as_ref() } else { value };
        Some(value).filter(|value| **value != Avro::Null)
    }

    /// A field as a value of this type; its default if the field is missing.
    fn get(&self, name: &str, kind: FieldType) -> Result<Value, String> {
        let value = self.find(name).map_or_else(|| Some(sample(kind)), |value| from_avro(kind, value));
        value.ok_or_else(|| format!("field {name} is not of type {kind}"))
    }

    /// A field of type int.
    pub(super) fn int(&self, name: &str) -> Result<i32, String> {
        Ok(if let Value::Int(number) = self.get(name, FieldType::Int)? { number } else { 0 })
    }

    /// A field of type double.
    pub(super) fn double(&self, name: &str) -> Result<f64, String> {
        Ok(if let Value::Double(number) = self.get(name, FieldType::Double)? { number } else { 0.0 })
    }

    /// A field of type string.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        Ok(if let Value::String(text) = self.get(name, FieldType::String)? { text } else { String::new() })
    }

    /// The command with this name.
    pub(super) fn command(&self, name: CommandName) -> Result<Command, String> {
        let sender = Sender {
            via: Via::Kafka,
            identity: self.text("private_identity")?,
            origin: self.int("private_origin")?,
            seq_num: SeqNum(self.int("private_seqNum")?),
            sent: Tai(self.double("private_sndStamp")?),
        };
        let value = |(field, kind): &Column| Ok(((*field).to_owned(), Some(self.get(field, *kind)?)));
        let params = parameters(name).iter().map(value).collect::<Result<Vec<_>, String>>()?;
        Ok(Command { sender, kind: sal::command::parse(name.as_str(), params) })
    }
}

#[cfg(test)]
mod tests;
