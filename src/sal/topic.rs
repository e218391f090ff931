//! Topics and their own fields (those that follow the private ones), as lsst-ts/ts_xml 28.0.1 declares them.

use crate::csc::command::CommandName;

/// Type of a field. Its default is 0, 0.0, "" or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Avro string.
    String,
    /// Avro int, 32 bits.
    Int,
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
    const ABORT_JOB: &[Field] = &[text("job_id", "id of the job (required)")];
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
