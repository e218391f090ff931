//! Topics and their own fields (those that follow the private ones), as lsst-ts/ts_xml 28.0.1 declares them.
#![expect(
    missing_docs,
    reason = "the names of events say it all, and the method that strum makes has no doc"
)]

use strum::{EnumIter, EnumString, IntoStaticStr, VariantNames};

use crate::csc::command::CommandName;

/// Type of a field, shown as Avro names it. Its default is 0, 0.0, "" or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum FieldType {
    /// Avro string.
    String,
    /// Avro int, 32 bits.
    Int,
    /// Avro boolean.
    Boolean,
    /// Avro float, 32 bits.
    Float,
    /// Avro double.
    Double,
}

/// A parameter of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: FieldType,
}

const fn text(name: &'static str) -> Field {
    Field { name, kind: FieldType::String }
}

/// The parameters of a command, in their order on the wire.
#[must_use]
pub fn parameters(command: CommandName) -> &'static [Field] {
    const EXECUTE: &[Field] = &[
        text("pipeline"),
        text("version"),
        text("config"),
        text("data_query"),
        text("prereq_jobs"),
        text("output_dataset_types"),
    ];
    const ABORT_JOB: &[Field] = &[text("job_id")];
    const START: &[Field] = &[text("configurationOverride")];
    const SET_LOG_LEVEL: &[Field] = &[Field { name: "level", kind: FieldType::Int }, text("subsystem")];
    match command {
        CommandName::Execute => EXECUTE,
        CommandName::AbortJob => ABORT_JOB,
        CommandName::Start => START,
        CommandName::SetLogLevel => SET_LOG_LEVEL,
        CommandName::Disable | CommandName::Enable | CommandName::ExitControl | CommandName::Standby => &[],
    }
}

/// A field of a topic: its name and type.
pub type Column = (&'static str, FieldType);

const TEXT: FieldType = FieldType::String;
const INT: FieldType = FieldType::Int;
const DOUBLE: FieldType = FieldType::Double;

/// The fields that every topic begins with.
pub const PRIVATE: &[Column] = &[
    ("salIndex", INT),
    ("private_sndStamp", DOUBLE),
    ("private_rcvStamp", DOUBLE),
    ("private_efdStamp", DOUBLE),
    ("private_kafkaStamp", DOUBLE),
    ("private_seqNum", INT),
    ("private_revCode", TEXT),
    ("private_identity", TEXT),
    ("private_origin", INT),
];

/// The own fields of `ackcmd`.
pub const ACK: &[Column] = &[
    ("ack", INT),
    ("error", INT),
    ("result", TEXT),
    ("identity", TEXT),
    ("origin", INT),
    ("cmdtype", INT),
    ("timeout", DOUBLE),
];

/// The name of an event of the SAL interface, without the `logevent_` prefix; in the order of the names.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    EnumIter,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[strum(serialize_all = "camelCase", const_into_str)]
pub enum EventName {
    ConfigurationApplied,
    ConfigurationsAvailable,
    ErrorCode,
    Heartbeat,
    #[strum(serialize = "job_id")]
    JobId,
    #[strum(serialize = "job_result")]
    JobResult,
    /// Declared for every component, and never sent: we make no large files.
    LargeFileObjectAvailable,
    LogLevel,
    LogMessage,
    SimulationMode,
    SoftwareVersions,
    SummaryState,
}

impl EventName {
    /// The event's own fields.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::ConfigurationApplied => &[
                ("configurations", TEXT),
                ("version", TEXT),
                ("url", TEXT),
                ("schemaVersion", TEXT),
                ("otherInfo", TEXT),
            ],
            Self::ConfigurationsAvailable => {
                &[("overrides", TEXT), ("version", TEXT), ("url", TEXT), ("schemaVersion", TEXT)]
            }
            Self::ErrorCode => &[("errorCode", INT), ("errorReport", TEXT), ("traceback", TEXT)],
            Self::Heartbeat => &[("heartbeat", FieldType::Boolean)],
            Self::JobId => &[("event_name", TEXT), ("seq_num", INT), ("job_id", TEXT)],
            Self::JobResult => &[("job_id", TEXT), ("exit_code", INT), ("result", TEXT)],
            Self::LargeFileObjectAvailable => &[
                ("url", TEXT),
                ("generator", TEXT),
                ("version", FieldType::Float),
                ("byteSize", INT),
                ("checkSum", TEXT),
                ("mimeType", TEXT),
                ("id", TEXT),
            ],
            Self::LogLevel => &[("level", INT), ("subsystem", TEXT)],
            Self::LogMessage => &[
                ("name", TEXT),
                ("level", INT),
                ("message", TEXT),
                ("traceback", TEXT),
                ("filePath", TEXT),
                ("functionName", TEXT),
                ("lineNumber", INT),
                ("process", INT),
                ("timestamp", DOUBLE),
            ],
            Self::SimulationMode => &[("mode", INT)],
            Self::SoftwareVersions => &[
                ("salVersion", TEXT),
                ("xmlVersion", TEXT),
                ("cscVersion", TEXT),
                ("subsystemVersions", TEXT),
            ],
            Self::SummaryState => &[("summaryState", INT)],
        }
    }
}
