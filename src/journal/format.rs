//! Records as rows, and rows as what an earlier life left.
//!
//! The documents in the rows are types of this file alone, so that the core can change without changing what is
//! on disks. All that is written can be read; what is read is parsed, not trusted: a row that does not parse is a
//! damaged journal.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::csc::command::{CommandName, PREREQS_MAX, Sender, Via};
use crate::csc::configuration::{POLL_INTERVAL_MAX, POLL_INTERVAL_MIN};
use crate::csc::event::{Ack, ExitCode, JobObject, JobResult, Phase, ResultObject};
use crate::csc::id::{ClientId, EntryKey, JobId, RunId, SeqNum};
use crate::csc::record::{End, Entry, Kept, Record, Work};
use crate::csc::request::Submission;
use crate::csc::state::SummaryState;
use crate::csc::time::{BootId, Tai, Uptime};
use crate::url::Url;

/// Highest key that is believed: nobody gave so many, and the next ones still fit into SQLite's integers.
const KEY_MAX: u64 = 1 << 53;

/// What a record takes in memory beside its texts, in bytes; a guess.
const RECORD_BYTES: usize = 256;

/// A row of `commands` as it is read.
pub(super) struct CommandRow {
    pub(super) key: i64,
    pub(super) kind: String,
    pub(super) accepted: f64,
    pub(super) job_id: Option<String>,
    pub(super) suspected: Option<f64>,
    pub(super) ended: Option<f64>,
    pub(super) said_result: i64,
    pub(super) said_ack: i64,
    pub(super) document: String,
    pub(super) ending: Option<String>,
    pub(super) result: Option<String>,
    pub(super) boot: Option<String>,
    pub(super) uptime: Option<f64>,
}

/// A row of `seen`.
pub(super) struct SeenRow {
    pub(super) at: f64,
    pub(super) identity: String,
    pub(super) origin: i64,
    pub(super) seq_num: i64,
    /// The bits of the stamp.
    pub(super) sent: i64,
}

impl CommandRow {
    /// The command of this row.
    ///
    /// # Errors
    /// What is wrong with the row, in one line.
    pub(super) fn parse(self) -> Result<Kept, String> {
        let number = self.key;
        self.parse_columns().map_err(|error| format!("command {number}: {error}"))
    }

    fn parse_columns(self) -> Result<Kept, String> {
        let document: Document<'_> = json(&self.document, "document")?;
        let work = document.work.parse()?;
        let kind = kind(&work).as_str();
        if self.kind != kind {
            return Err(format!("its kind is {:?}, but its document that of {kind}", self.kind));
        }
        let entry = Entry {
            key: EntryKey(parse_key(self.key)?),
            sender: document.sender.parse()?,
            accepted: finite(self.accepted)?,
            uptime: parse_uptime(self.boot.as_deref(), self.uptime)?,
            work,
        };
        Ok(Kept {
            entry,
            job_id: self.job_id.as_deref().map(JobId::parse).transpose()?,
            suspected: self.suspected.map(finite).transpose()?,
            end: parse_end(self.ended, self.ending.as_deref(), self.result.as_deref())?,
            said_result: flag(self.said_result)?,
            said_ack: flag(self.said_ack)?,
        })
    }
}

impl SeenRow {
    /// A command that was seen, which only those of Kafka are, and when it came.
    pub(super) fn new(sender: &Sender, at: Tai) -> Self {
        Self {
            at: column(at),
            identity: sender.identity.clone(),
            origin: sender.origin.into(),
            seq_num: sender.seq_num.0.into(),
            sent: sender.sent.0.to_bits().cast_signed(),
        }
    }

    /// # Errors
    /// What is wrong with the row, in one line.
    pub(super) fn parse(self) -> Result<Sender, String> {
        let small = |number: i64| i32::try_from(number).map_err(|_| format!("{number} is out of range"));
        finite(self.at)?;
        Ok(Sender {
            via: Via::Kafka,
            identity: self.identity,
            origin: small(self.origin)?,
            seq_num: SeqNum(small(self.seq_num)?),
            sent: Tai(f64::from_bits(self.sent.cast_unsigned())),
        })
    }
}

/// The command that asked for this work.
pub(super) fn kind(work: &Work) -> CommandName {
    match work {
        Work::Execute { .. } => CommandName::Execute,
        Work::Abort { .. } => CommandName::AbortJob,
    }
}

/// The `document` of a command.
///
/// # Errors
/// Cannot happen; one line all the same.
pub(super) fn document(entry: &Entry) -> Result<String, String> {
    text(&Document { sender: SenderForm::new(&entry.sender), work: WorkForm::new(&entry.work) })
}

/// The `ending` of a command: all of its end but the time and the result.
///
/// # Errors
/// Cannot happen; one line all the same.
pub(super) fn ending(end: &End) -> Result<String, String> {
    text(&EndForm { ack: AckForm::new(&end.ack), problem: end.problem.as_deref().map(Cow::Borrowed) })
}

/// The `result` of a command.
///
/// # Errors
/// Cannot happen; one line all the same.
pub(super) fn result(result: &JobResult) -> Result<String, String> {
    text(&ResultForm::new(result))
}

/// A time of ours in a column. They are finite; a time that is not would be no use to anybody later.
pub(super) fn column(time: Tai) -> f64 {
    if time.0.is_finite() { time.0 } else { 0.0 }
}

/// The boot in which a command was accepted, and how long that had lasted.
pub(super) fn uptime_columns(uptime: Option<Uptime>) -> (Option<String>, Option<f64>) {
    let columns = uptime.map(|uptime| (format!("{:032x}", uptime.boot.0), uptime.since.as_secs_f64()));
    columns.unzip()
}

fn parse_uptime(boot: Option<&str>, since: Option<f64>) -> Result<Option<Uptime>, String> {
    let (boot, since) = match (boot, since) {
        (None, None) => return Ok(None),
        (Some(boot), Some(since)) => (boot, since),
        (Some(_), None) | (None, Some(_)) => return Err("only a part of its uptime is there".to_owned()),
    };
    let boot = u128::from_str_radix(boot, 16).map_err(|_| format!("{boot:?} is no boot id"))?;
    let since = Duration::try_from_secs_f64(since).map_err(|_| format!("{since} is no uptime"))?;
    Ok(Some(Uptime { boot: BootId(boot), since }))
}

/// A key in a column.
///
/// # Errors
/// One line: no journal holds so many commands.
pub(super) fn key_column(key: EntryKey) -> Result<i64, String> {
    i64::try_from(key.0).map_err(|_| format!("{} is no key that a journal can hold", key.0))
}

/// The highest key ever given in a column, 0 if none was.
///
/// # Errors
/// One line: no journal holds so many commands.
pub(super) fn last_key_column(key: u64) -> Result<i64, String> {
    key_column(EntryKey(key))
}

/// The highest key ever given, 0 if none was.
///
/// # Errors
/// One line: nobody gave so many.
pub(super) fn parse_last_key(number: i64) -> Result<u64, String> {
    if number == 0 { Ok(0) } else { parse_key(number) }
}

/// The summary state of that name.
///
/// # Errors
/// One line: there is none.
pub(super) fn parse_state(name: &str) -> Result<SummaryState, String> {
    let state = SummaryState::ALL.into_iter().find(|state| state.name() == name);
    state.ok_or_else(|| format!("{name:?} is no summary state"))
}

/// About what a record takes in memory, in bytes.
pub(super) fn weight(record: &Record) -> usize {
    let texts = match record {
        Record::Accepted(entry) => entry.sender.identity.len() + work_weight(&entry.work),
        Record::Created { job_id, .. } => job_id.as_str().len(),
        Record::Suspected { .. } | Record::Cleared { .. } | Record::Said(_) | Record::Searched => 0,
        Record::Ended { end, .. } => {
            let object = match end.result.as_ref().map(|result| &result.result) {
                Some(ResultObject::Service(object)) => object.0.len(),
                Some(ResultObject::Known { .. }) | None => 0,
            };
            let reason = match &end.ack {
                Ack::Failed { reason } => reason.len(),
                Ack::InProgress { .. } | Ack::Complete | Ack::Aborted => 0,
            };
            object + reason + end.problem.as_ref().map_or(0, String::len)
        }
        Record::Seen { sender, .. } => sender.identity.len(),
        Record::State { override_name, .. } => override_name.len(),
    };
    RECORD_BYTES + texts
}

fn work_weight(work: &Work) -> usize {
    match work {
        Work::Execute { submission, url, prereqs, .. } => {
            let Submission { run_id: _, command, source_url, commit_ref, environment, pipeline } =
                &**submission;
            let environment: usize =
                environment.iter().map(|(name, value)| 48 + name.len() + value.len()).sum();
            let texts = command.len() + source_url.len() + commit_ref.len() + pipeline.len();
            texts + environment + url.with_credentials().len() + 64 * prereqs.len()
        }
        Work::Abort { url, .. } => url.with_credentials().len(),
    }
}

/// What was accepted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    sender: SenderForm<'a>,
    work: WorkForm<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SenderForm<'a> {
    via: ViaForm,
    identity: Cow<'a, str>,
    origin: i32,
    seq_num: i32,
    /// The stamp is somebody else's and is compared by its bits, whatever they mean.
    sent_bits: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ViaForm {
    Kafka,
    /// Whoever it was, it is gone.
    Local,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WorkForm<'a> {
    Execute {
        url: Cow<'a, str>,
        poll_interval: Duration,
        prereqs: Vec<Cow<'a, str>>,
        submission: SubmissionForm<'a>,
    },
    Abort {
        job_id: Cow<'a, str>,
        url: Cow<'a, str>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmissionForm<'a> {
    run_id: Cow<'a, str>,
    command: Cow<'a, str>,
    source_url: Cow<'a, str>,
    commit_ref: Cow<'a, str>,
    environment: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pipeline: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndForm<'a> {
    ack: AckForm<'a>,
    problem: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum AckForm<'a> {
    InProgress { job_id: Cow<'a, str> },
    Complete,
    Failed { reason: Cow<'a, str> },
    Aborted,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultForm<'a> {
    job_id: Cow<'a, str>,
    exit_code: i32,
    object: ObjectForm<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ObjectForm<'a> {
    /// The JSON text as the service's object was kept.
    Service(Cow<'a, str>),
    Known {
        job_id: Cow<'a, str>,
        run_id: Option<Cow<'a, str>>,
        phase: Cow<'a, str>,
    },
}

impl<'a> SenderForm<'a> {
    fn new(sender: &'a Sender) -> Self {
        let via = match sender.via {
            Via::Kafka => ViaForm::Kafka,
            Via::Socket(_) | Via::CommandLine => ViaForm::Local,
        };
        Self {
            via,
            identity: sender.identity.as_str().into(),
            origin: sender.origin,
            seq_num: sender.seq_num.0,
            sent_bits: sender.sent.0.to_bits(),
        }
    }

    fn parse(self) -> Result<Sender, String> {
        let via = match self.via {
            ViaForm::Kafka => Via::Kafka,
            ViaForm::Local => Via::Socket(ClientId::GONE),
        };
        Ok(Sender {
            via,
            identity: self.identity.into_owned(),
            origin: self.origin,
            seq_num: SeqNum(self.seq_num),
            sent: Tai(f64::from_bits(self.sent_bits)),
        })
    }
}

impl<'a> WorkForm<'a> {
    fn new(work: &'a Work) -> Self {
        match work {
            Work::Execute { submission, url, poll_interval, prereqs } => Self::Execute {
                url: url.with_credentials().into(),
                poll_interval: *poll_interval,
                prereqs: prereqs.iter().map(|job_id| job_id.as_str().into()).collect(),
                submission: SubmissionForm::new(submission),
            },
            Work::Abort { job_id, url } => {
                Self::Abort { job_id: job_id.as_str().into(), url: url.with_credentials().into() }
            }
        }
    }

    fn parse(self) -> Result<Work, String> {
        Ok(match self {
            Self::Execute { url, poll_interval, prereqs, submission } => {
                // A time so far away that it cannot be told would end the daemon, at every start.
                if !(POLL_INTERVAL_MIN..=POLL_INTERVAL_MAX).contains(&poll_interval) {
                    let (least, most) = (POLL_INTERVAL_MIN, POLL_INTERVAL_MAX);
                    return Err(format!(
                        "its poll interval is {poll_interval:?}, not from {least:?} to {most:?}"
                    ));
                }
                if prereqs.len() > PREREQS_MAX {
                    return Err(format!("it waits for {} jobs; {PREREQS_MAX} are the most", prereqs.len()));
                }
                Work::Execute {
                    submission: Arc::new(submission.parse()?),
                    url: Url::from(&*url),
                    poll_interval,
                    prereqs: prereqs.iter().map(|job_id| JobId::parse(job_id)).collect::<Result<_, _>>()?,
                }
            }
            Self::Abort { job_id, url } => {
                Work::Abort { job_id: JobId::parse(&job_id)?, url: Url::from(&*url) }
            }
        })
    }
}

impl<'a> SubmissionForm<'a> {
    fn new(submission: &'a Submission) -> Self {
        let Submission { run_id, command, source_url, commit_ref, environment, pipeline } = submission;
        Self {
            run_id: run_id.as_str().into(),
            command: command.into(),
            source_url: source_url.into(),
            commit_ref: commit_ref.into(),
            environment: environment.iter().map(|(name, value)| ((&**name).into(), value.into())).collect(),
            pipeline: pipeline.into(),
        }
    }

    fn parse(self) -> Result<Submission, String> {
        let variable =
            |(name, value): (Cow<'_, str>, Cow<'_, str>)| (Cow::Owned(name.into_owned()), value.into_owned());
        Ok(Submission {
            run_id: parse_run_id(&self.run_id)?,
            command: self.command.into_owned(),
            source_url: self.source_url.into_owned(),
            commit_ref: self.commit_ref.into_owned(),
            environment: self.environment.into_iter().map(variable).collect(),
            pipeline: self.pipeline.into_owned(),
        })
    }
}

impl<'a> AckForm<'a> {
    fn new(ack: &'a Ack) -> Self {
        match ack {
            Ack::InProgress { job_id, .. } => Self::InProgress { job_id: job_id.as_str().into() },
            Ack::Complete => Self::Complete,
            Ack::Failed { reason } => Self::Failed { reason: reason.into() },
            Ack::Aborted => Self::Aborted,
        }
    }

    fn parse(self) -> Result<Ack, String> {
        Ok(match self {
            Self::InProgress { job_id } => {
                Ack::InProgress { job_id: JobId::parse(&job_id)?, missing_prereqs: Vec::new() }
            }
            Self::Complete => Ack::Complete,
            Self::Failed { reason } => Ack::Failed { reason: reason.into_owned() },
            Self::Aborted => Ack::Aborted,
        })
    }
}

impl<'a> ResultForm<'a> {
    fn new(result: &'a JobResult) -> Self {
        let object = match &result.result {
            ResultObject::Service(object) => ObjectForm::Service((&*object.0).into()),
            ResultObject::Known { job_id, run_id, phase } => ObjectForm::Known {
                job_id: job_id.as_str().into(),
                run_id: run_id.as_ref().map(|run_id| run_id.as_str().into()),
                phase: phase.as_str().into(),
            },
        };
        Self { job_id: result.job_id.as_str().into(), exit_code: result.exit_code.number(), object }
    }

    fn parse(self) -> Result<JobResult, String> {
        let codes = [ExitCode::Completed, ExitCode::Error, ExitCode::Aborted];
        let exit_code = codes.into_iter().find(|code| code.number() == self.exit_code);
        Ok(JobResult {
            job_id: JobId::parse(&self.job_id)?,
            exit_code: exit_code.ok_or_else(|| format!("{} is no exit code", self.exit_code))?,
            result: self.object.parse()?,
        })
    }
}

impl ObjectForm<'_> {
    fn parse(self) -> Result<ResultObject, String> {
        Ok(match self {
            Self::Service(object) => ResultObject::Service(JobObject(Arc::from(object))),
            Self::Known { job_id, run_id, phase } => ResultObject::Known {
                job_id: JobId::parse(&job_id)?,
                run_id: run_id.as_deref().map(parse_run_id).transpose()?,
                phase: parse_phase(&phase)?,
            },
        })
    }
}

fn parse_end(ended: Option<f64>, ending: Option<&str>, result: Option<&str>) -> Result<Option<End>, String> {
    let (at, ending) = match (ended, ending, result) {
        (None, None, None) => return Ok(None),
        (Some(ended), Some(ending), _) => (finite(ended)?, ending),
        (Some(_), None, _) | (None, Some(_), _) | (None, None, Some(_)) => {
            return Err("only a part of its end is there".to_owned());
        }
    };
    let form: EndForm<'_> = json(ending, "ending")?;
    let result = result.map(|result| json::<ResultForm<'_>>(result, "result")?.parse()).transpose()?;
    let problem = form.problem.map(Cow::into_owned);
    Ok(Some(End { at, result, ack: form.ack.parse()?, problem }))
}

fn parse_key(number: i64) -> Result<u64, String> {
    let key = u64::try_from(number).ok().filter(|key| (1..=KEY_MAX).contains(key));
    key.ok_or_else(|| format!("{number} is no key"))
}

fn parse_run_id(text: &str) -> Result<RunId, String> {
    RunId::parse(text).ok_or_else(|| format!("{text:?} is no run id"))
}

fn parse_phase(word: &str) -> Result<Phase, String> {
    let phase = Phase::parse(word);
    if phase.as_str() == word { Ok(phase) } else { Err(format!("{word:?} is no phase")) }
}

fn finite(number: f64) -> Result<Tai, String> {
    if number.is_finite() { Ok(Tai(number)) } else { Err(format!("{number} is no time")) }
}

fn flag(number: i64) -> Result<bool, String> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(format!("{number} is neither 0 nor 1")),
    }
}

fn text(form: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(form).map_err(|error| error.to_string())
}

fn json<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{what}: {error}"))
}
