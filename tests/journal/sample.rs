//! Records of every shape, from a seed.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ocps::csc::command::{Sender, Via};
use ocps::csc::event::{Ack, ExitCode, JobObject, JobResult, Phase, ResultObject};
use ocps::csc::id::{ClientId, EntryKey, JobId, RunId, SalIndex, SeqNum};
use ocps::csc::record::{AcceptedCommand, Completion, Deliverable, Receipt, Record, Work};
use ocps::csc::request::Submission;
use ocps::csc::state::SummaryState;
use ocps::csc::time::{BootId, Tai, Uptime};
use ocps::journal::{Identity, Limits};
use ocps::url::Url;

/// A day of the year 2026.
pub(crate) const NOW: Tai = Tai(1_795_369_818.934_519);

pub(crate) const OURS: Identity = Identity { index: SalIndex::LsstCam, simulated: false };

pub(crate) fn limits() -> Limits {
    Limits::new(Duration::from_secs(30 * 86_400))
}

/// Some text that no format should trip over.
pub(crate) fn text(rng: &mut Rng) -> String {
    const PIECES: [&str; 12] =
        ["a", "é", "\u{1f52d}", "\0", "\n", "\"", "\\", "'", " -- ;", "\u{fffd}", "\u{7f}", "{}"];
    (0..rng.usize(..20)).map(|_| PIECES[rng.usize(..PIECES.len())]).collect()
}

/// A time near [`NOW`], to the last bit.
pub(crate) fn time(rng: &mut Rng) -> Tai {
    Tai(NOW.0 + (rng.f64() - 0.5) * 1e6)
}

pub(crate) fn job_id(rng: &mut Rng) -> JobId {
    JobId::parse(&format!("job-{}.x_{}", rng.u32(..1000), rng.alphanumeric())).unwrap()
}

pub(crate) fn run_id(rng: &mut Rng) -> RunId {
    RunId::new(SeqNum(rng.i32(..)), SalIndex::LsstCam, rng)
}

pub(crate) fn sender(rng: &mut Rng) -> Sender {
    let via = match rng.u8(..4) {
        0 => Via::Socket(ClientId(rng.u64(..))),
        1 => Via::CommandLine,
        _ => Via::Kafka,
    };
    Sender {
        via,
        identity: text(rng),
        origin: rng.i32(..),
        seq_num: SeqNum(rng.i32(..)),
        // Any bits: not a number, infinite, minus zero.
        sent: Tai(f64::from_bits(rng.u64(..))),
    }
}

/// A URL as it is configured, or anything.
fn url(rng: &mut Rng) -> Url {
    let url = ["", "http://uws/api/v1", "https://jane:p%40ss@uws:8080", "http://é@/@x"][rng.usize(..4)];
    let url: Url = if rng.bool() { url.into() } else { text(rng).trim_end_matches('/').into() };
    // Credentials are not kept.
    url.without_credentials().as_str().into()
}

pub(crate) fn entry(rng: &mut Rng, key: EntryKey) -> AcceptedCommand {
    let work = if rng.u8(..4) == 0 {
        Work::Abort { job_id: job_id(rng), url: url(rng) }
    } else {
        Work::Execute {
            submission: Arc::new(Submission {
                run_id: run_id(rng),
                command: text(rng),
                source_url: text(rng),
                commit_ref: text(rng),
                environment: (0..rng.usize(..6)).map(|_| (text(rng).into(), text(rng))).collect(),
                pipeline: text(rng),
            }),
            url: url(rng),
            poll_interval: Duration::new(rng.u64(..10_000), rng.u32(1_000_000..1_000_000_000)),
            prereqs: (0..rng.usize(..4)).map(|_| job_id(rng)).collect(),
        }
    };
    let uptime = rng
        .bool()
        .then(|| Uptime { boot: BootId(rng.u128(..)), since: Duration::from_micros(rng.u64(..1 << 40)) });
    AcceptedCommand { key, sender: sender(rng), accepted: time(rng), uptime, work }
}

pub(crate) fn end(rng: &mut Rng) -> Completion {
    let result = match rng.u8(..3) {
        0 => None,
        1 => Some(ResultObject::Service(JobObject(
            format!(r#"{{"jobId":"x","phase":"{}"}}"#, text(rng)).into(),
        ))),
        _ => Some(ResultObject::Known {
            job_id: job_id(rng),
            run_id: rng.bool().then(|| run_id(rng)),
            phase: [Phase::Completed, Phase::Error, Phase::Aborted, Phase::Unknown, Phase::Active]
                [rng.usize(..5)],
        }),
    };
    let codes = [ExitCode::Completed, ExitCode::Error, ExitCode::Aborted];
    let ack = match rng.u8(..4) {
        0 => Ack::Complete,
        1 => Ack::Failed { reason: text(rng) },
        2 => Ack::InProgress { job_id: job_id(rng), missing_prereqs: Vec::new() },
        _ => Ack::Aborted,
    };
    Completion {
        at: time(rng),
        result: result.map(|result| JobResult {
            job_id: job_id(rng),
            exit_code: codes[rng.usize(..3)],
            result,
        }),
        ack,
        problem: rng.bool().then(|| text(rng)),
    }
}

/// A record of any shape about one of the commands 1 to `keys`.
pub(crate) fn record(rng: &mut Rng, keys: u64) -> Record {
    let key = EntryKey(rng.u64(1..=keys));
    match rng.u8(..10) {
        0 | 1 => Record::Accepted(Box::new(entry(rng, key))),
        2 => Record::Created { key, job_id: job_id(rng) },
        3 => Record::Suspected { key, until: time(rng) },
        4 => Record::Ended { key, end: Box::new(end(rng)) },
        5 => Record::Delivered(Receipt {
            key,
            what: if rng.bool() { Deliverable::Result } else { Deliverable::Ack },
        }),
        6 => Record::Seen { sender: Sender { via: Via::Kafka, ..sender(rng) }, at: time(rng) },
        7 => Record::Cleared { key },
        8 => Record::Searched,
        _ => Record::State {
            state: SummaryState::ALL[rng.usize(..SummaryState::ALL.len())],
            override_name: text(rng),
        },
    }
}
