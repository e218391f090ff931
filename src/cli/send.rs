//! `ocps send`: one command, its acks, and the result of its job.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::Failure;
use super::client::{Ack, Client, Line, Message, Next, Query, Standing, refused};
use super::event_text::{JOB_RESULT, ack_text, event_text};
use super::flags::SendArgs;
use super::output::{Output, Palette, complain};
use super::text::clean;
use crate::csc::command::CommandName;

/// Our number of the command: the first and only one of this connection.
const SEQ: i32 = 1;

/// Longest wait for an ack where nobody said otherwise: a `start` may read a large configuration with git.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long the next ack of a command may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(Option<Duration>);

impl Patience {
    /// As asked, else as the command needs: an execute may wait for other jobs first, for hours.
    pub(super) fn new(asked: Option<Duration>, command: CommandName) -> Self {
        Self(asked.or(match command {
            CommandName::Execute => None,
            CommandName::AbortJob
            | CommandName::Disable
            | CommandName::Enable
            | CommandName::ExitControl
            | CommandName::SetLogLevel
            | CommandName::Standby
            | CommandName::Start => Some(PATIENCE),
        }))
    }

    /// When it ends, if the next ack asks for `more`.
    pub(super) fn deadline(self, now: Instant, more: Duration) -> Option<Instant> {
        self.0.map(|patience| now + patience.max(more))
    }
}

/// Runs `ocps send`.
///
/// # Errors
/// [`Failure::Refused`] when the command was refused, failed or was aborted, and whatever breaks before.
pub(super) fn run(args: &SendArgs, out: &mut Output) -> Result<(), Failure> {
    let mut client = Client::connect(&args.target)?;
    let interrupts = interrupts()?;
    let mut command = Sent::new(args);
    if command.wants_result() {
        client.subscribe()?;
    }
    client.command(SEQ, args.command, &args.params)?;
    let patience = Patience::new(args.timeout, args.command);
    let mut deadline = patience.deadline(Instant::now(), Duration::ZERO);
    loop {
        let line = match client.next_unless(deadline, &interrupts) {
            Next::Line(line) => line,
            Next::Interrupted => return Err(Failure::Interrupted(command.interrupted(&mut client))),
            Next::Timeout => return Err(Failure::Failed(command.unanswered())),
            Next::Lost(reason) => return Err(Failure::Failed(command.cut_off(&reason))),
        };
        match command.take(line, out)? {
            Progress::None => {}
            Progress::Ack(more) => deadline = patience.deadline(Instant::now(), more),
            Progress::End => return Ok(()),
        }
    }
}

/// The first ^C is heard here; the second one ends the process as usual.
fn interrupts() -> Result<Receiver<()>, Failure> {
    let failed = |error| Failure::Failed(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGINT]).map_err(failed)?;
    let (sender, receiver) = bounded(1);
    let listen = move || {
        for (before, _) in signals.forever().enumerate() {
            if before == 0 {
                let _ = sender.try_send(());
            } else {
                // It does not return; if it did, the first one still ends us soon.
                let _ = emulate_default_handler(SIGINT);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(receiver)
}

/// What a line meant for the command.
enum Progress {
    None,
    /// It is in progress, and its next ack may take so long.
    Ack(Duration),
    End,
}

/// The command on its way.
struct Sent<'a> {
    args: &'a SendArgs,
    job_id: Option<String>,
    /// The result of the job to abort. It may be an old one, told to every new subscriber: only when the
    /// abort succeeds is it known to be ours.
    held: Option<Line>,
}

impl<'a> Sent<'a> {
    fn new(args: &'a SendArgs) -> Self {
        let job_id = match args.command {
            CommandName::AbortJob => args.params.get("job_id").and_then(|id| id.as_str()).map(str::to_owned),
            CommandName::Execute
            | CommandName::Disable
            | CommandName::Enable
            | CommandName::ExitControl
            | CommandName::SetLogLevel
            | CommandName::Standby
            | CommandName::Start => None,
        };
        Self { args, job_id, held: None }
    }

    /// Whether it ends as soon as the job is known.
    fn only_starts(&self) -> bool {
        self.args.no_wait && self.args.command == CommandName::Execute
    }

    /// Whether the result of a job belongs to what is shown.
    fn wants_result(&self) -> bool {
        matches!(self.args.command, CommandName::Execute | CommandName::AbortJob) && !self.only_starts()
    }

    fn take(&mut self, line: Line, out: &mut Output) -> Result<Progress, Failure> {
        match &line.message {
            Message::Ack(ack) if ack.seq == i64::from(SEQ) => self.take_ack(&line, ack, out),
            Message::Event(event) => {
                let ours = self.job_id.as_deref() == Some(event.text("job_id"));
                if event.topic == JOB_RESULT && ours {
                    if self.args.command == CommandName::AbortJob {
                        self.held = Some(line);
                    } else {
                        self.print(&line, out)?;
                    }
                }
                Ok(Progress::None)
            }
            Message::Error(reason) => Err(Failure::Failed(refused(reason))),
            Message::Ack(_) | Message::Status(_) | Message::Jobs(_) | Message::Other => Ok(Progress::None),
        }
    }

    fn take_ack(&mut self, line: &Line, ack: &Ack, out: &mut Output) -> Result<Progress, Failure> {
        if ack.standing() == Standing::Complete
            && let Some(held) = self.held.take()
        {
            self.print(&held, out)?;
        }
        if self.only_starts() && !self.args.json {
            return self.take_ack_of_start(ack, out);
        }
        self.print(line, out)?;
        match ack.standing() {
            Standing::Complete => Ok(Progress::End),
            Standing::Refused => Err(Failure::Refused),
            Standing::InProgress => {
                self.job_id = ack.job_id().or(self.job_id.take());
                let known = self.only_starts() && self.job_id.is_some();
                Ok(if known { Progress::End } else { Progress::Ack(ack.timeout) })
            }
        }
    }

    /// Of an execute that is not waited for, standard output gets nothing but the id of its job.
    fn take_ack_of_start(&mut self, ack: &Ack, out: &mut Output) -> Result<Progress, Failure> {
        match (ack.standing(), ack.job_id()) {
            (Standing::InProgress, Some(job_id)) => {
                if let Some(missing) = ack.missing_prereqs() {
                    complain(&format!("these prerequisites do not exist: {}", clean(&missing)));
                }
                out.line(&clean(&job_id))?;
                Ok(Progress::End)
            }
            (Standing::InProgress, None) => Ok(Progress::Ack(ack.timeout)),
            (Standing::Complete, _) => Ok(Progress::End),
            (Standing::Refused, _) => {
                complain(&ack_text(Palette::Plain, ack));
                Err(Failure::Refused)
            }
        }
    }

    fn print(&self, line: &Line, out: &mut Output) -> Result<(), Failure> {
        if self.args.json {
            return out.line(&line.raw);
        }
        let text = match &line.message {
            Message::Ack(ack) => ack_text(out.palette(), ack),
            Message::Event(event) => event_text(out.palette(), event),
            Message::Status(_) | Message::Jobs(_) | Message::Error(_) | Message::Other => return Ok(()),
        };
        out.line(&text)
    }

    /// The command and its job, for an error line.
    fn name(&self) -> String {
        let name = self.args.command.as_str();
        match &self.job_id {
            Some(job_id) => format!("{name} (job_id {})", clean(job_id)),
            None => name.to_owned(),
        }
    }

    /// What happens to the command if this client ends now.
    fn interrupted(&self, client: &mut Client) -> String {
        let goes_on = |what: &str, id: &str| {
            format!(
                "interrupted: {what} goes on; ocps send abort_job job_id={id} ends it, ocps jobs shows it"
            )
        };
        match (self.args.command, &self.job_id) {
            (CommandName::Execute, Some(job_id)) => {
                let job_id = clean(job_id);
                goes_on(&format!("job {job_id}"), &job_id)
            }
            (CommandName::Execute, None) => match own_run(client) {
                Some(run_id) => goes_on(&format!("run {run_id}, which has no job id yet,"), &run_id),
                None => "interrupted: execute may still be carried out, see ocps jobs".to_owned(),
            },
            (
                CommandName::AbortJob
                | CommandName::Disable
                | CommandName::Enable
                | CommandName::ExitControl
                | CommandName::SetLogLevel
                | CommandName::Standby
                | CommandName::Start,
                _,
            ) => format!("interrupted: {} may still be carried out", self.name()),
        }
    }

    fn unanswered(&self) -> String {
        format!(
            "no ack of {} in time: it may still be carried out, see ocps status and ocps jobs",
            self.name()
        )
    }

    fn cut_off(&self, reason: &str) -> String {
        format!("{reason} before the final ack of {}: its job, if any, goes on", self.name())
    }
}

/// The run id of the execute that this process sent: the daemon knows who its clients are.
fn own_run(client: &mut Client) -> Option<String> {
    let jobs = client.query(Query::Jobs).ok()?;
    let is_ours = |job: &&Value| {
        let origin = job.get("origin").and_then(Value::as_i64);
        origin == Some(i64::from(std::process::id())) && job.get("ended").is_none_or(Value::is_null)
    };
    let run_id = jobs.as_array()?.iter().rfind(is_ours)?.get("run_id")?.as_str()?;
    Some(clean(run_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_as_asked_or_as_needed_and_an_ack_can_extend_it() {
        let now = Instant::now();
        let (two, ten) = (Duration::from_secs(2), Duration::from_secs(10));
        let check = |asked, command, more, expected: Option<Duration>| {
            let deadline = Patience::new(asked, command).deadline(now, more);
            assert_eq!(deadline, expected.map(|wait| now + wait));
        };
        check(None, CommandName::Execute, Duration::ZERO, None);
        check(None, CommandName::Execute, ten, None);
        check(None, CommandName::Start, Duration::ZERO, Some(PATIENCE));
        check(Some(two), CommandName::Execute, Duration::ZERO, Some(two));
        check(Some(two), CommandName::Execute, ten, Some(ten));
        check(Some(ten), CommandName::Enable, two, Some(ten));
    }
}
