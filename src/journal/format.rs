//! How commands are written in the tables: the columns, and the JSON documents in some of them.
//!
//! The documents are described here and not by the core's types, so that the core can change and the files stay: this
//! module does not compile with a renamed field until its old name stands beside it. All that is read is checked: a
//! row that makes no sense means a damaged journal.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::FromSql;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::error::Fault;
use crate::csc::command::{CommandName, PREREQS_MAX, Sender, Via};
use crate::csc::configuration::{POLL_INTERVAL_MAX, POLL_INTERVAL_MIN};
use crate::csc::event::{Ack, ExitCode, JobObject, JobResult, Phase, ResultObject};
use crate::csc::history::{Note, NoteKind};
use crate::csc::id::{ClientId, EntryKey, JobId, RunId, SeqNum};
use crate::csc::record::{AcceptedCommand, Completion, RecoveredCommand, Work};
use crate::csc::request::Submission;
use crate::csc::state::SummaryState;
use crate::csc::time::{BootId, Tai, Uptime};
use crate::url::Url;

/// The highest key that is accepted: no daemon makes so many commands, and the keys after it still fit into SQLite's
/// integers.
const KEY_MAX: u64 = 1 << 53;

/// A value that is written as a number or a text.
pub(super) trait Plain: Sized {
    type As;

    fn plain(&self) -> Self::As;

    /// # Errors
    /// What is wrong with it, in one line.
    fn parse(plain: Self::As) -> Result<Self, String>;
}

/// `TYPE as PLAIN: to write it, to read it`.
macro_rules! plain {
    ($($type:ty as $plain:ty: $write:expr, $read:expr;)*) => {
        $(impl Plain for $type {
            type As = $plain;

            fn plain(&self) -> $plain {
                let write: fn(&Self) -> $plain = $write;
                write(self)
            }

            fn parse(plain: $plain) -> Result<Self, String> {
                let read: fn($plain) -> Result<Self, String> = $read;
                read(plain)
            }
        })*
    };
}

plain! {
    JobId as String: |id| id.as_str().to_owned(), |text| Self::parse(&text);
    RunId as String: |id| id.as_str().to_owned(),
        |text| Self::parse(&text).ok_or_else(|| format!("{text:?} is no run id"));
    // Other users may be able to read the journal.
    Url as String: Url::without_credentials, |text| Ok(Self::from(&*text));
    JobObject as String: |object| (*object.0).to_owned(), |text| Ok(Self(text.into()));
    Phase as String: |phase| phase.as_str().to_owned(),
        |word| word.parse().map_err(|_| format!("{word:?} is no phase"));
    NoteKind as String: |kind| kind.as_str().to_owned(),
        |word| word.parse().map_err(|_| format!("{word:?} is no kind of note"));
    SummaryState as String: |state| state.name().to_owned(),
        |name| name.parse().map_err(|_| format!("{name:?} is no summary state"));
    // A client of the local socket is gone when the next run reads this.
    Via as String: |via| if *via == Self::Kafka { "kafka" } else { "local" }.to_owned(), |word| match &*word {
        "kafka" => Ok(Self::Kafka),
        "local" => Ok(Self::Socket(ClientId::GONE)),
        _ => Err(format!("{word:?} is no source of commands")),
    };
    BootId as String: |boot| format!("{:032x}", boot.0), |text| {
        u128::from_str_radix(&text, 16).map(Self).map_err(|_| format!("{text:?} is no boot id"))
    };
    Duration as f64: |time| time.as_secs_f64(),
        |number| Self::try_from_secs_f64(number).map_err(|_| format!("{number} is no uptime"));
    Vec<JobId> as Vec<String>: |ids| ids.iter().map(JobId::plain).collect(),
        |texts| texts.into_iter().map(Plain::parse).collect();
    SeqNum as i32: |number| number.0, |number| Ok(Self(number));
    ExitCode as i32: |code| code.number(), |number| {
        let code = [Self::Completed, Self::Error, Self::Aborted].into_iter().find(|code| code.number() == number);
        code.ok_or_else(|| format!("{number} is no exit code"))
    };
    // Our keys are far below the highest key.
    EntryKey as i64: |key| key.0.cast_signed(), |number| {
        let key = u64::try_from(number).ok().filter(|key| (1..=KEY_MAX).contains(key));
        key.map(Self).ok_or_else(|| format!("{number} is no key"))
    };
    // The sender of a command made this stamp; it is only compared, bit by bit.
    Tai as u64: |time| time.0.to_bits(), |bits| Ok(Self(f64::from_bits(bits)));
    bool as i64: |flag| i64::from(*flag), |number| match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(format!("{number} is neither 0 nor 1")),
    };
}

impl<T: Plain> Plain for Option<T> {
    type As = Option<T::As>;

    fn plain(&self) -> Self::As {
        self.as_ref().map(T::plain)
    }

    fn parse(plain: Self::As) -> Result<Self, String> {
        plain.map(T::parse).transpose()
    }
}

fn serialize<T: Plain<As: Serialize>, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.plain().serialize(serializer)
}

fn deserialize<'de, T: Plain<As: DeserializeOwned>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    T::parse(T::As::deserialize(json)?).map_err(D::Error::custom)
}

/// The `document` of a command: the command as it was accepted.
#[derive(Serialize, Deserialize)]
#[serde(remote = "AcceptedCommand", deny_unknown_fields)]
pub(super) struct AcceptedForm {
    /// The key and the next two fields are in columns of their own.
    #[serde(skip, default = "no_key")]
    key: EntryKey,
    #[serde(skip)]
    accepted: Tai,
    #[serde(skip)]
    uptime: Option<Uptime>,
    #[serde(with = "SenderForm")]
    sender: Sender,
    #[serde(with = "WorkForm")]
    work: Work,
}

fn no_key() -> EntryKey {
    EntryKey(0)
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Sender", deny_unknown_fields)]
struct SenderForm {
    #[serde(with = "self")]
    via: Via,
    identity: String,
    origin: i32,
    #[serde(with = "self")]
    seq_num: SeqNum,
    #[serde(rename = "sent_bits", with = "self")]
    sent: Tai,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Work", rename_all = "snake_case", deny_unknown_fields)]
enum WorkForm {
    Execute {
        #[serde(with = "self")]
        url: Url,
        poll_interval: Duration,
        #[serde(with = "self")]
        prereqs: Vec<JobId>,
        #[serde(serialize_with = "SubmissionForm::serialize", deserialize_with = "shared")]
        submission: Arc<Submission>,
    },
    Abort {
        #[serde(with = "self")]
        job_id: JobId,
        #[serde(with = "self")]
        url: Url,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Submission", deny_unknown_fields)]
struct SubmissionForm {
    #[serde(with = "self")]
    run_id: RunId,
    command: String,
    source_url: String,
    commit_ref: String,
    environment: Vec<(Cow<'static, str>, String)>,
    pipeline: String,
}

/// The `ending` of a command: its time and result are in columns of their own.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Completion", deny_unknown_fields)]
pub(super) struct CompletionForm {
    #[serde(skip)]
    at: Tai,
    #[serde(skip)]
    result: Option<JobResult>,
    #[serde(with = "AckForm")]
    ack: Ack,
    problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ack", rename_all = "snake_case", deny_unknown_fields)]
enum AckForm {
    InProgress {
        #[serde(with = "self")]
        job_id: JobId,
        #[serde(skip)]
        missing_prereqs: Vec<JobId>,
    },
    Complete,
    Failed {
        reason: String,
    },
    Aborted,
}

/// The `result` of a command.
#[derive(Serialize, Deserialize)]
#[serde(remote = "JobResult", deny_unknown_fields)]
pub(super) struct ResultForm {
    #[serde(with = "self")]
    job_id: JobId,
    #[serde(with = "self")]
    exit_code: ExitCode,
    #[serde(rename = "object", with = "ObjectForm")]
    result: ResultObject,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ResultObject", rename_all = "snake_case", deny_unknown_fields)]
enum ObjectForm {
    /// The JSON text as the service's object was kept.
    Service(#[serde(with = "self")] JobObject),
    Known {
        #[serde(with = "self")]
        job_id: JobId,
        #[serde(with = "self")]
        run_id: Option<RunId>,
        #[serde(with = "self")]
        phase: Phase,
    },
}

fn shared<'de, D: Deserializer<'de>>(json: D) -> Result<Arc<Submission>, D::Error> {
    SubmissionForm::deserialize(json).map(Arc::new)
}

/// The document for a column, as a form writes it.
pub(super) fn text(
    write: impl FnOnce(&mut serde_json::Serializer<&mut Vec<u8>>) -> serde_json::Result<()>,
) -> Result<String, Fault> {
    let mut document = Vec::new();
    write(&mut serde_json::Serializer::new(&mut document)).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(document).map_err(|error| error.to_string())?)
}

/// Reads the document in a column, if there is one.
fn json<T>(
    row: &Row<'_>,
    column: &str,
    form: impl FnOnce(Value) -> serde_json::Result<T>,
) -> Result<Option<T>, Fault> {
    let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    let value = serde_json::from_str(&text).and_then(form);
    Ok(Some(value.map_err(|error| format!("{column}: {error}"))?))
}

/// Reads a column.
pub(super) fn get<T: Plain<As: FromSql>>(row: &Row<'_>, column: &str) -> Result<T, Fault> {
    Ok(T::parse(row.get(column)?)?)
}

/// Reads a column with a time of our clock, which is finite.
fn time(row: &Row<'_>, column: &str) -> Result<Option<Tai>, Fault> {
    match row.get(column)? {
        Some(number) if !f64::is_finite(number) => Err(format!("{number} is no time").into()),
        number => Ok(number.map(Tai)),
    }
}

/// A time of our clock for a column; 0 for one that is not finite, which could not be read.
pub(super) fn column(time: Tai) -> f64 {
    if time.0.is_finite() { time.0 } else { 0.0 }
}

/// The name of the command that asked for this work.
pub(super) fn kind(work: &Work) -> &'static str {
    match work {
        Work::Execute { .. } => CommandName::Execute.as_str(),
        Work::Abort { .. } => CommandName::AbortJob.as_str(),
    }
}

/// The command in a row of `commands`.
pub(super) fn command(row: &Row<'_>) -> Result<RecoveredCommand, Fault> {
    let number: i64 = row.get("key")?;
    command_of(row).map_err(|fault| format!("command {number}: {fault}").into())
}

fn command_of(row: &Row<'_>) -> Result<RecoveredCommand, Fault> {
    let entry = json(row, "document", AcceptedForm::deserialize)?;
    let mut entry = entry.ok_or("it has no document")?;
    let (found, kind) = (row.get::<_, String>("kind")?, kind(&entry.work));
    if found != kind {
        return Err(format!("its kind is {found:?}, but the kind of its document is {kind}").into());
    }
    let limits = POLL_INTERVAL_MIN..=POLL_INTERVAL_MAX;
    match &entry.work {
        // With such an interval the time of the next poll would overflow and end the daemon at every start.
        Work::Execute { poll_interval: interval, prereqs, .. }
            if !limits.contains(interval) || prereqs.len() > PREREQS_MAX =>
        {
            let count = prereqs.len();
            return Err(
                format!("it polls every {interval:?} and waits for {count} jobs: out of bounds").into()
            );
        }
        Work::Execute { .. } | Work::Abort { .. } => {}
    }
    entry.key = get(row, "key")?;
    entry.accepted = time(row, "accepted")?.unwrap_or_default();
    let (boot, since): (Option<_>, Option<_>) = (get(row, "boot")?, get(row, "uptime")?);
    if boot.is_some() != since.is_some() {
        return Err("only a part of its uptime is there".into());
    }
    entry.uptime = boot.zip(since).map(|(boot, since)| Uptime { boot, since });
    Ok(RecoveredCommand {
        entry,
        job_id: get(row, "job_id")?,
        suspected: time(row, "suspected")?,
        end: end(row)?,
        result_delivered: get(row, "said_result")?,
        ack_delivered: get(row, "said_ack")?,
        notes: Vec::new(),
    })
}

fn end(row: &Row<'_>) -> Result<Option<Completion>, Fault> {
    let end = json(row, "ending", CompletionForm::deserialize)?;
    match (time(row, "ended")?, end, json(row, "result", ResultForm::deserialize)?) {
        (None, None, None) => Ok(None),
        (Some(at), Some(end), result) => Ok(Some(Completion { at, result, ..end })),
        _ => Err("only a part of its end is there".into()),
    }
}

/// The note in a row of `history`.
pub(super) fn note(row: &Row<'_>) -> Result<Note, Fault> {
    let at = time(row, "at")?.unwrap_or_default();
    Ok(Note { number: row.get("number")?, at, kind: get(row, "kind")?, about: row.get("about")? })
}

/// The sender in a row of `seen`, which holds only commands that came over Kafka.
pub(super) fn seen(row: &Row<'_>) -> Result<Sender, Fault> {
    time(row, "at")?;
    Ok(Sender {
        via: Via::Kafka,
        identity: row.get("identity")?,
        origin: row.get("origin")?,
        seq_num: SeqNum(row.get("seq_num")?),
        sent: Tai(f64::from_bits(row.get::<_, i64>("sent")?.cast_unsigned())),
    })
}
