//! `ocps wait` and `ocps abort`.

use std::ops::ControlFlow;
use std::time::Duration;

use indexmap::IndexSet;
use serde_json::{Map, Value};

use super::client::{Client, JOBS, Target};
use super::event_text::ack_text;
use super::exit::Exit;
use super::find::find;
use super::flags::{Line, seconds};
use super::follow::{Style, Which, follow, run_id};
use super::output::Output;
use super::times::Zone;
use super::{Failure, Task, failed};
use crate::csc::command::CommandName;
use crate::display::job::{id, is_unfinished, state_text};

/// The arguments of both.
struct Args {
    target: Target,
    ids: Vec<String>,
    timeout: Option<Duration>,
}

impl Args {
    fn of(line: &Line) -> Result<Self, String> {
        let ids: Vec<String> = line.words(usize::MAX)?.into_iter().map(str::to_owned).collect();
        if ids.is_empty() {
            return Err("no ID: the beginning of a job id or run id, as in ocps jobs".to_owned());
        }
        Ok(Self { target: line.target()?, ids, timeout: line.value("timeout", seconds)? })
    }

    /// The jobs with these ids, each once.
    fn find<'a>(&self, document: &'a Value) -> Result<IndexSet<&'a Value>, Failure> {
        self.ids.iter().map(|id| find(document, id)).collect()
    }
}

/// `ocps wait`.
pub(super) fn wait_task(line: &Line) -> Result<Task, String> {
    let (args, zone) = (Args::of(line)?, Zone::of(line));
    Ok(Box::new(move |out| {
        let mut client = Client::connect(&args.target)?;
        client.catch_interrupt()?;
        let document = client.query(JOBS)?;
        let runs = args.find(&document)?.into_iter().map(run_id).collect();
        let style = Style { zone, json: false };
        follow(&mut client, Which::Runs(runs), &style, args.timeout, out)
    }))
}

/// `ocps abort`.
pub(super) fn abort_task(line: &Line) -> Result<Task, String> {
    let args = Args::of(line)?;
    Ok(Box::new(move |out| abort(&args, out)))
}

fn abort(args: &Args, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    client.catch_interrupt()?;
    let document = client.query(JOBS)?;
    let jobs = args.find(&document)?;
    let name = |job: &Value| id(job).unwrap_or_default();
    // For a job that has ended, the service would delete its results.
    if let Some(job) = jobs.iter().find(|job| !is_unfinished(job)) {
        let state = state_text(job).unwrap_or_default();
        return Err(failed(format!("{} has ended ({state}): nothing was aborted", name(job))));
    }
    let mut outcome = Ok(());
    for job in jobs {
        let job_id = job.get("job_id").filter(|id| id.is_string()).or_else(|| job.get("run_id"));
        let params = Map::from_iter(job_id.map(|id| ("job_id".to_owned(), id.clone())));
        let mut sent = client.send(CommandName::AbortJob, &params, args.timeout)?;
        let ended = client.follow(&mut sent, |sent, message| {
            let ack = sent.ack_in(message).map(|ack| format!("{}  {}", name(job), ack_text(ack)));
            ack.map_or(Ok(()), |line| out.line(&line))?;
            Ok(ControlFlow::Continue(()))
        });
        match ended {
            Err(Failure::Printed(Exit::Refused)) => outcome = Err(Failure::Printed(Exit::Refused)),
            ended => ended?,
        }
    }
    outcome
}
