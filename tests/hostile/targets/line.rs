//! Lines of the local socket, and how far a command gets from there: through the core to its answers, and to
//! the request that submits its job.

use std::sync::Arc;
use std::time::Duration;

use ocps::backend::Backend;
use ocps::backend::rapid_analysis::values;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::csc::Settings;
use ocps::csc::command::{Command, CommandKind, Sender, Via};
use ocps::csc::configuration::{Configuration, Service};
use ocps::csc::id::{ClientId, SeqNum};
use ocps::csc::record::Recovered;
use ocps::csc::request::{Action, Answer};
use ocps::csc::state::SummaryState;
use ocps::csc::time::{Tai, Time};
use ocps::daemon::turn::{Goal, Turn};
use ocps::lease::Lease;
use ocps::transport::line::{self, Line};

use super::core_settings::core_settings;
use super::driver::Driver;
use super::http::{FarEnd, Nowhere, Script};
use super::{check_reason, texts};

/// Longest line that is read.
pub(super) const LINE_MAX: usize = 1 << 20;

pub(crate) fn read(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let line = line.get(..LINE_MAX).unwrap_or(line).trim_ascii();
        match line::parse(line) {
            Ok(Line::Command { kind, .. }) => obey(kind),
            Ok(Line::Subscribe | Line::Query(_)) => {}
            Err(reason) => check_reason(&reason),
        }
    }
}

pub(crate) fn read_values(data: &[u8]) {
    match values::parse(&String::from_utf8_lossy(data)) {
        Ok(values) => {
            assert!((1..=10_000).contains(&values.len()));
            check_reason(&values::shown(&values));
        }
        Err(reason) => check_reason(&reason),
    }
}

/// Has the core carry out a command, and performs its effects.
fn obey(kind: CommandKind) {
    let goal = Goal { state: Some(SummaryState::Enabled), override_name: None };
    let (turn, effects) = Turn::new(settings(), 1, now(), &goal, Some(Recovered::default()));
    let mut driver =
        Driver { turn, now: now(), configuration: configuration(), check: check_line, answer: send };
    driver.run_effects(effects);
    driver.run();
    let sender = Sender {
        via: Via::Socket(ClientId(1)),
        identity: "test".to_owned(),
        origin: 1,
        seq_num: SeqNum(1),
        sent: Tai(0.0),
    };
    driver.turn.command(Command { sender, kind });
    driver.run();
}

/// Of a core that does all it can.
pub(super) fn settings() -> Settings {
    let uws = settings::Uws { version_selects_image: true, ..settings::Uws::default() };
    Settings { payload: Arc::new(uws), ..core_settings() }
}

fn now() -> Time {
    Time { mono: Duration::from_secs(1), tai: Tai(1.0) }
}

pub(super) fn configuration() -> Configuration {
    Configuration {
        service: Service {
            url: "http://127.0.0.1:9/api".into(),
            poll_interval: Duration::from_secs(5),
            butler: Some("/repo".to_owned()),
            input_collection: Some("raw".to_owned()),
            output_glob: Some("*".to_owned()),
        },
        files: "_init.yaml".to_owned(),
        version: "v1".to_owned(),
        directory_url: "file:///etc/v4".to_owned(),
    }
}

fn check_line(line: &str) {
    assert!(!line.contains(char::is_control), "not one line: {line:.500?}");
}

/// Sends a request, to which nobody answers.
fn send(action: &Action) -> Option<Answer> {
    thread_local! {
        static CLIENT: Option<Uws> = {
            let nobody = FarEnd::new(Script::new(b""));
            Uws::over(&settings::Uws::default(), Lease::default(), nobody, Nowhere).ok()
        };
    }
    CLIENT.with(|client| {
        let Some(client) = client else { return };
        let answer = client.perform(&"http://127.0.0.1:9/api".into(), action);
        let Some(Err(failure)) = answer.of_service() else { panic!("{answer:?}") };
        check_reason(&failure.reason);
    });
    None
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"command":"execute","seq":1,"params":{"pipeline":"${CP_PIPE_DIR}/pipelines/Latiss/verifyBias.yaml","version":"w_2025_20","config":"-c isr:doBias=True","data_query":"instrument='LATISS' AND physical_filter=\"y\"","prereq_jobs":"0123456789abcdef0123456789abcdef, b","output_dataset_types":"*"}}"#,
        // It waits for no other job, so that its own is submitted.
        r#"{"command":"execute","seq":5,"params":{"pipeline":"a.yaml","version":"","config":"","data_query":""}}"#,
        r#"{"command":"start","seq":1,"params":{"configurationOverride":"x.yaml:main"}}"#,
        "{\"command\":\"enable\"}\n{\"command\":\"disable\",\"seq\":2}\n{\"command\":\"standby\",\"seq\":3}\n{\"command\":\"exitControl\",\"seq\":2147483647}\n",
        r#"{"command":"abort_job","seq":4,"params":{"job_id":" true.yaml-1795369818.934519 "}}"#,
        r#"{"command":"setLogLevel","params":{"level":10,"subsystem":""}}"#,
        "{\"subscribe\":true}\r\n{\"query\":\"status\"}\n{\"query\":\"jobs\"}\n\n",
        r#"{"command":"execute","params":{"pipeline":null,"x":[{}],"y":1.5e300,"pipeline":"\ud83d\ude00\u0000"}}"#,
    ])
}

pub(crate) fn seeds_of_values() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"LSSTComCam-FROM-OCS_DONUTPAIR":"1,2"}"#,
        r#" {"a":1e3,"b":1.0,"c":-0,"d":123456789012345678901234567890,"e":" \u00e9\n\"\\ \ud83d\ude00 "} "#,
        r#"{"a":[1,{"b":null}],"k\u0041":true}"#,
    ])
}
