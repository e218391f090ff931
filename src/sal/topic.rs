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

/// A field of a topic: its name and type.
pub type Column = (&'static str, FieldType);

/// Fields as `name: Type`, in their order.
macro_rules! columns {
    ($($name:ident: $kind:ident),*) => { &[$((stringify!($name), FieldType::$kind)),*] };
}

/// The parameters of a command, in their order on the wire.
pub fn parameters(command: CommandName) -> &'static [Column] {
    match command {
        CommandName::Execute => columns![
            pipeline: String, version: String, config: String, data_query: String, prereq_jobs: String,
            output_dataset_types: String
        ],
        CommandName::AbortJob => columns![job_id: String],
        CommandName::Start => columns![configurationOverride: String],
        CommandName::SetLogLevel => columns![level: Int, subsystem: String],
        CommandName::Disable | CommandName::Enable | CommandName::ExitControl | CommandName::Standby => &[],
    }
}

/// The fields that every topic begins with.
pub const PRIVATE: &[Column] = columns![
    salIndex: Int, private_sndStamp: Double, private_rcvStamp: Double, private_efdStamp: Double,
    private_kafkaStamp: Double, private_seqNum: Int, private_revCode: String, private_identity: String,
    private_origin: Int
];

/// The own fields of `ackcmd`.
pub const ACK: &[Column] = columns![
    ack: Int, error: Int, result: String, identity: String, origin: Int, cmdtype: Int, timeout: Double
];

/// The name of an event of the SAL interface, without the `logevent_` prefix; in the order of the names.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, EnumString, IntoStaticStr, VariantNames,
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
    /// Declared for every component, but never published by this one.
    LargeFileObjectAvailable,
    LogLevel,
    LogMessage,
    SimulationMode,
    SoftwareVersions,
    SummaryState,
}

impl EventName {
    /// The event's own fields.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::ConfigurationApplied => columns![
                configurations: String, version: String, url: String, schemaVersion: String, otherInfo: String
            ],
            Self::ConfigurationsAvailable => {
                columns![overrides: String, version: String, url: String, schemaVersion: String]
            }
            Self::ErrorCode => columns![errorCode: Int, errorReport: String, traceback: String],
            Self::Heartbeat => columns![heartbeat: Boolean],
            Self::JobId => columns![event_name: String, seq_num: Int, job_id: String],
            Self::JobResult => columns![job_id: String, exit_code: Int, result: String],
            Self::LargeFileObjectAvailable => columns![
                url: String, generator: String, version: Float, byteSize: Int, checkSum: String,
                mimeType: String, id: String
            ],
            Self::LogLevel => columns![level: Int, subsystem: String],
            Self::LogMessage => columns![
                name: String, level: Int, message: String, traceback: String, filePath: String,
                functionName: String, lineNumber: Int, process: Int, timestamp: Double
            ],
            Self::SimulationMode => columns![mode: Int],
            Self::SoftwareVersions => {
                columns![salVersion: String, xmlVersion: String, cscVersion: String, subsystemVersions: String]
            }
            Self::SummaryState => columns![summaryState: Int],
        }
    }
}
