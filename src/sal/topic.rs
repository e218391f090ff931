//! Topics and their own fields (those that follow the private ones), as lsst-ts/ts_xml 28.0.1 declares them.

use crate::csc::command::CommandName;

/// Type of a field. Its default is 0, 0.0, "" or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl FieldType {
    /// The name of the type in an Avro schema.
    #[must_use]
    pub fn avro_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Boolean => "boolean",
            Self::Float => "float",
            Self::Double => "double",
        }
    }
}

/// A parameter of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: FieldType,
    /// What it means, for people.
    pub help: &'static str,
}

const fn text(name: &'static str, help: &'static str) -> Field {
    Field { name, kind: FieldType::String, help }
}

/// The parameters of a command, in their order on the wire.
#[must_use]
pub fn parameters(command: CommandName) -> &'static [Field] {
    const EXECUTE: &[Field] = &[
        text("pipeline", "URL or path of the pipeline YAML (required)"),
        text("version", "version of the Science Pipelines, an EUPS tag"),
        text("config", "more options for the pipeline run"),
        text("data_query", "the data to run on"),
        text("prereq_jobs", "comma-separated ids of jobs to wait for first"),
        text("output_dataset_types", "output dataset types, instead of the configured ones"),
    ];
    const ABORT_JOB: &[Field] = &[text("job_id", "id of the job, or its run id (required)")];
    const START: &[Field] =
        &[text("configurationOverride", "override file in the configuration directory, [file][:gitref]")];
    const SET_LOG_LEVEL: &[Field] = &[
        Field {
            name: "level",
            kind: FieldType::Int,
            help: "10 debug, 20 info, 30 warning, 40 error (required)",
        },
        text("subsystem", "not used"),
    ];
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

/// The fields that every topic begins with.
pub const PRIVATE: &[Column] = &[
    ("salIndex", FieldType::Int),
    ("private_sndStamp", FieldType::Double),
    ("private_rcvStamp", FieldType::Double),
    ("private_efdStamp", FieldType::Double),
    ("private_kafkaStamp", FieldType::Double),
    ("private_seqNum", FieldType::Int),
    ("private_revCode", FieldType::String),
    ("private_identity", FieldType::String),
    ("private_origin", FieldType::Int),
];

/// The own fields of `ackcmd`.
pub const ACK: &[Column] = &[
    ("ack", FieldType::Int),
    ("error", FieldType::Int),
    ("result", FieldType::String),
    ("identity", FieldType::String),
    ("origin", FieldType::Int),
    ("cmdtype", FieldType::Int),
    ("timeout", FieldType::Double),
];

/// The events, without the `logevent_` prefix, and their own fields.
pub const EVENTS: &[(&str, &[Column])] = &[
    (
        "configurationApplied",
        &[
            ("configurations", FieldType::String),
            ("version", FieldType::String),
            ("url", FieldType::String),
            ("schemaVersion", FieldType::String),
            ("otherInfo", FieldType::String),
        ],
    ),
    (
        "configurationsAvailable",
        &[
            ("overrides", FieldType::String),
            ("version", FieldType::String),
            ("url", FieldType::String),
            ("schemaVersion", FieldType::String),
        ],
    ),
    (
        "errorCode",
        &[
            ("errorCode", FieldType::Int),
            ("errorReport", FieldType::String),
            ("traceback", FieldType::String),
        ],
    ),
    ("heartbeat", &[("heartbeat", FieldType::Boolean)]),
    (
        "job_id",
        &[("event_name", FieldType::String), ("seq_num", FieldType::Int), ("job_id", FieldType::String)],
    ),
    (
        "job_result",
        &[("job_id", FieldType::String), ("exit_code", FieldType::Int), ("result", FieldType::String)],
    ),
    // Declared for every component; we have no large files to tell of.
    (
        "largeFileObjectAvailable",
        &[
            ("url", FieldType::String),
            ("generator", FieldType::String),
            ("version", FieldType::Float),
            ("byteSize", FieldType::Int),
            ("checkSum", FieldType::String),
            ("mimeType", FieldType::String),
            ("id", FieldType::String),
        ],
    ),
    ("logLevel", &[("level", FieldType::Int), ("subsystem", FieldType::String)]),
    (
        "logMessage",
        &[
            ("name", FieldType::String),
            ("level", FieldType::Int),
            ("message", FieldType::String),
            ("traceback", FieldType::String),
            ("filePath", FieldType::String),
            ("functionName", FieldType::String),
            ("lineNumber", FieldType::Int),
            ("process", FieldType::Int),
            ("timestamp", FieldType::Double),
        ],
    ),
    ("simulationMode", &[("mode", FieldType::Int)]),
    (
        "softwareVersions",
        &[
            ("salVersion", FieldType::String),
            ("xmlVersion", FieldType::String),
            ("cscVersion", FieldType::String),
            ("subsystemVersions", FieldType::String),
        ],
    ),
    ("summaryState", &[("summaryState", FieldType::Int)]),
];
