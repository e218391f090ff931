//! `ocps send`: one command, its acks, and the result of its job.

use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::client::{Ack, Client, JOBS, Message, Sent, Standing, Target};
use super::event_text::{JOB_RESULT, ack_text, event_text};
use super::flags::{Line, seconds, shown, unknown};
use super::follow::{Style, Which, follow, run_id};
use super::output::{Output, complain};
use super::times::Zone;
use super::{Failure, Task, failed};
use crate::csc::command::CommandName;
use crate::display::job::is_unfinished;
use crate::display::text::{clean, value};
use crate::sal::topic::{FieldType, parameters};

/// The flags and arguments of `ocps send`.
#[derive(Debug)]
struct Args {
    target: Target,
    command: CommandName,
    params: Map<String, Value>,
    /// Time limit of each ack; none: as usual for the command.
    timeout: Option<Duration>,
    /// Whether it ends as soon as the job id of an execute is known.
    no_wait: bool,
    follow: bool,
    json: bool,
}

impl Args {
    fn of(line: &Line) -> Result<Self, String> {
        let words = line.words(usize::MAX)?;
        let Some((name, parameters)) = words.split_first() else {
            return Err("no COMMAND to send: for example ocps send execute pipeline=true.yaml".to_owned());
        };
        let (command, params) = command_line(name, parameters)?;
        let follow = line.has("follow");
        if follow && command != CommandName::Execute {
            return Err(format!("--follow is for execute, not for {}", command.as_str()));
        }
        if follow && line.has("no-wait") {
            return Err("--follow and --no-wait contradict each other".to_owned());
        }
        Ok(Self {
            target: line.target()?,
            command,
            params,
            timeout: line.value("timeout", seconds)?,
            no_wait: line.has("no-wait") && command == CommandName::Execute,
            follow,
            json: line.has("json"),
        })
    }
}

/// Parses a command of the daemon and its `NAME=VALUE` parameters.
///
/// An unknown parameter is sent as text, since the daemon, which may be newer, decides about it.
///
/// # Errors
/// One line: an unknown command, a word without `=`, a name given twice, text where a number must be.
pub(super) fn command_line(name: &str, words: &[&str]) -> Result<(CommandName, Map<String, Value>), String> {
    let Some(command) = CommandName::parse(name) else {
        return Err(unknown("command", name, CommandName::ALL.iter().map(|name| name.as_str())));
    };
    let mut params = Map::new();
    for word in words {
        let Some((name, text)) = word.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let first = parameters(command).first().filter(|_| !word.is_empty() && !word.starts_with('='));
            let meant = first.map(|(name, _)| format!(": did you mean {name}={}?", shown(word)));
            return Err(format!("{} is not NAME=VALUE{}", shown(word), meant.unwrap_or_default()));
        };
        let value = if parameters(command).contains(&(name, FieldType::Int)) {
            let number: Result<i32, _> = text.parse();
            number.map_err(|_| format!("{name} must be a 32-bit integer, not {}", shown(text)))?.into()
        } else {
            Value::from(text)
        };
        if params.insert(name.to_owned(), value).is_some() {
            return Err(format!("parameter {name} is given twice"));
        }
    }
    Ok((command, params))
}

/// `ocps send`.
pub(super) fn task(line: &Line) -> Result<Task, String> {
    let args = Args::of(line)?;
    Ok(Box::new(move |out| run(&args, out)))
}

fn run(args: &Args, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    client.catch_interrupt()?;
    let shows_results = matches!(args.command, CommandName::Execute | CommandName::AbortJob);
    if shows_results && !args.no_wait && !args.follow {
        client.subscribe()?;
    }
    let mut sent = client.send(args.command, &args.params, args.timeout)?;
    let mut held = None;
    let take = |sent: &Sent, message: &Message| take(args, &mut held, sent, message, out);
    let outcome = if args.follow {
        follow_execute(args, &mut client, &mut sent, out)
    } else {
        client.follow(&mut sent, take)
    };
    match outcome {
        Err(Failure::Interrupted(exit, reason)) => {
            Err(Failure::Interrupted(exit, what_continues(&sent, &mut client).unwrap_or(reason)))
        }
        outcome => outcome,
    }
}

/// Prints acks until the daemon lists the job, and follows that to its end.
fn follow_execute(
    args: &Args,
    client: &mut Client,
    sent: &mut Sent,
    out: &mut Output,
) -> Result<(), Failure> {
    // The daemon answers this after it has taken the command, whose first ack may come much later.
    client.ask(JOBS)?;
    let mut run = None;
    client.follow(sent, |sent, message| {
        run = message.documents.get(JOBS).and_then(|jobs| own_job(jobs, sent)).map(run_id);
        let ack = sent.ack_in(message);
        ack.map_or(Ok(()), |_| print(args, message, out))?;
        let is_known = run.is_some() || ack.is_some_and(|ack| ack.standing() == Standing::InProgress);
        Ok(if is_known { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let run = run.map_or_else(|| Ok(own_job(&client.query(JOBS)?, sent).map(run_id)), |run| Ok(Some(run)))?;
    let run = run.ok_or_else(|| failed(format!("the daemon does not show {sent}: see ocps jobs")))?;
    let style = Style { zone: Zone::of_machine(), json: args.json };
    follow(client, Which::Runs(vec![run]), &style, None, out)
}

/// Prints the acks of the command and the result of its job.
///
/// `held` is the latest result of the job to abort. It is printed only after the abort has succeeded, since a new
/// subscriber also gets old events.
fn take(
    args: &Args,
    held: &mut Option<Message>,
    sent: &Sent,
    message: &Message,
    out: &mut Output,
) -> Result<ControlFlow<()>, Failure> {
    let is_result = message.event.as_ref().is_some_and(|event| {
        event.topic == JOB_RESULT
            && sent.job_id.is_some()
            && event.data.get("job_id").and_then(Value::as_str) == sent.job_id.as_deref()
    });
    if is_result && args.command == CommandName::AbortJob {
        *held = Some(message.clone());
    } else if is_result {
        print(args, message, out)?;
    }
    let Some(ack) = sent.ack_in(message) else { return Ok(ControlFlow::Continue(())) };
    if ack.standing() == Standing::Complete
        && let Some(held) = held.take()
    {
        print(args, &held, out)?;
    }
    if args.no_wait && !args.json {
        show_start(ack, out)?
    } else {
        print(args, message, out)?
    }
    let is_enough = args.no_wait && ack.standing() == Standing::InProgress && sent.job_id.is_some();
    Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// With `--no-wait`, prints only the job id on standard output.
fn show_start(ack: &Ack, out: &mut Output) -> Result<(), Failure> {
    if ack.standing() == Standing::Refused {
        complain(&ack_text(ack));
    }
    let Some(job) = ack.job() else { return Ok(()) };
    if !job.missing_prereqs.is_empty() {
        complain(&format!("these prerequisites do not exist: {}", clean(&job.missing_prereqs.join(","))));
    }
    out.line(&clean(&job.job_id))
}

fn print(args: &Args, message: &Message, out: &mut Output) -> Result<(), Failure> {
    let ack = message.ack.as_ref().map(ack_text);
    let text = ack.or_else(|| message.event.as_ref().map(event_text));
    out.line(if args.json { &message.raw } else { text.as_deref().unwrap_or_default() })
}

/// The message after ^C that names the job of an execute.
fn what_continues(sent: &Sent, client: &mut Client) -> Option<String> {
    if sent.command != CommandName::Execute {
        return None;
    }
    let jobs = if sent.job_id.is_some() { Value::Null } else { client.query(JOBS).ok()? };
    let job = own_job(&jobs, sent);
    let (what, id) = match sent.job_id.as_deref().map(clean).or_else(|| value(job?, "job_id")) {
        Some(job_id) => (format!("job {job_id}"), job_id),
        None => {
            let run_id = clean(&run_id(job?));
            (format!("run {run_id}, which has no job id yet,"), run_id)
        }
    };
    Some(format!("interrupted: {what} keeps running; ocps abort {id} ends it, ocps jobs shows it"))
}

/// The job of the execute that this process sent. Before its job id is known, it is found by the process id, which the
/// daemon lists as the origin of the command.
fn own_job<'a>(jobs: &'a Value, sent: &Sent) -> Option<&'a Value> {
    let is_ours = |job: &&Value| match &sent.job_id {
        Some(job_id) => job.get("job_id").and_then(Value::as_str) == Some(job_id),
        None => {
            let origin = job.get("origin").and_then(Value::as_i64);
            origin == Some(i64::from(std::process::id())) && is_unfinished(job)
        }
    };
    jobs.as_array()?.iter().rfind(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::tests::{line, problem};
    use serde_json::json;

    #[test]
    fn parameters_have_the_types_of_their_fields() {
        let words = ["setLogLevel", "--timeout=3", "level=10", "subsystem=", "other=5", "--json"];
        let args = Args::of(&line(&[&["ocps", "send"], &words[..]].concat())).unwrap();
        assert_eq!(args.command, CommandName::SetLogLevel);
        assert_eq!(Value::Object(args.params), json!({"level": 10, "subsystem": "", "other": "5"}));
        assert_eq!(args.timeout, Some(Duration::from_secs(3)));
        assert!(args.json && !args.no_wait);

        let check = |words: &[&str], expected: &str| {
            assert_eq!(problem(&[&["send"], words].concat()), format!("{expected} (see ocps send --help)"));
        };
        check(&[], "no COMMAND to send: for example ocps send execute pipeline=true.yaml");
        check(&["exectue"], "unknown command exectue: did you mean execute?");
        check(&["execute", "a.yaml"], "a.yaml is not NAME=VALUE: did you mean pipeline=a.yaml?");
        check(&["enable", "x"], "x is not NAME=VALUE");
        check(&["execute", "=x"], "=x is not NAME=VALUE");
        check(&["execute", "a=1", "a=2"], "parameter a is given twice");
        check(&["setLogLevel", "level=high"], "level must be a 32-bit integer, not high");
        check(&["setLogLevel", "level="], "level must be a 32-bit integer, not \"\"");
        check(&["setLogLevel", "level=99999999999"], "level must be a 32-bit integer, not 99999999999");
    }
}
