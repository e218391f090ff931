//! Events as lines for people.

/// The events of the component, in the order of their names.
pub(super) const TOPICS: [&str; 12] = [
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
