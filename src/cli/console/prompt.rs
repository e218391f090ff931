//! The prompt at a terminal: a line editor in a thread of its own, and printing while a line is edited.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write, stdin};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{DefaultHistory, History, SearchDirection};
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use serde_json::Value;

use super::super::client::{Client, JOBS, Lines, Target};
use super::super::output::Output;
use super::input::{Request, first_words, parse};
use crate::csc::command::CommandName;
use crate::sal::topic::parameters;

const PROMPT: &str = "ocps> ";
/// Erases the line of the prompt.
const ERASE_LINE: &[u8] = b"\r\x1b[K";
/// Maximum number of texts that wait to be printed.
const TEXTS: usize = 10_000;
/// Time limit for printing the last texts.
const LAST_TEXTS: Duration = Duration::from_millis(300);
/// Maximum number of lines in the history.
const HISTORY_LINES: usize = 1000;
/// A larger history file, in bytes, was written by something else and is not used.
const HISTORY_BYTES: u64 = 8 << 20;

/// The prompt for the session, which prints above the line that is edited.
pub(super) struct Prompt {
    /// To the printing thread; none at the end.
    texts: Option<Sender<String>>,
    /// Closed when the printing thread has ended.
    printed: Receiver<()>,
    /// Lets the editor read the next line.
    carried_out: Sender<()>,
    terminal: Termios,
}

impl Prompt {
    /// Starts the line editor, which sends the lines that are typed, until ^D or `quit`.
    ///
    /// # Errors
    /// Standard input and output are no terminal on which a line can be edited.
    pub(super) fn start(target: Target) -> Result<(Self, Lines), ReadlineError> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            // Several pasted lines are carried out one by one.
            .bracketed_paste(false)
            .build();
        let mut editor = Editor::with_config(config)?;
        let printer = editor.create_external_printer()?;
        let terminal = tcgetattr(stdin()).map_err(io::Error::from)?;
        editor.set_helper(Some(Completion { target }));
        let (sender, lines) = bounded(1);
        let (carried_out, goes_on) = bounded(1);
        let (texts, waiting) = bounded(TEXTS);
        let (printing, printed) = bounded(0);
        thread::Builder::new()
            .name("printer".to_owned())
            .spawn(move || print(printer, &waiting, printing))?;
        thread::Builder::new().name("prompt".to_owned()).spawn(move || edit(editor, &sender, &goes_on))?;
        Ok((Self { texts: Some(texts), printed, carried_out, terminal }, lines))
    }

    /// The last line was carried out and its output printed: lets the editor read the next one.
    pub(super) fn go_on(&self) {
        // This fails after the last line.
        let _ = self.carried_out.try_send(());
    }

    /// Prints whole lines.
    pub(super) fn print(&mut self, text: &str, out: &Output) {
        let _ = self.texts.as_ref().map(|texts| texts.send(out.shown(text)));
    }
}

impl Drop for Prompt {
    /// Restores the terminal, since the editor cannot be interrupted.
    fn drop(&mut self) {
        self.texts = None;
        let _ = self.printed.recv_timeout(LAST_TEXTS);
        if tcsetattr(stdin(), OptionalActions::Now, &self.terminal).is_ok() {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(ERASE_LINE).and_then(|()| stdout.flush());
        }
    }
}

/// The printing thread. While no line is edited, the editor takes only one text and the next call blocks; the session must
/// not block there, since the editor waits for it.
fn print(mut printer: impl ExternalPrinter, texts: &Receiver<String>, _printing: Sender<()>) {
    for text in texts {
        // This fails if the terminal is closed; then the input ends, too.
        let _ = printer.print(text);
    }
}

type LineEditor = Editor<Completion, DefaultHistory>;

/// Sends each line that is typed, and waits until it is carried out before the next one is edited: text that is printed
/// while the editor ends would be lost.
fn edit(mut editor: LineEditor, lines: &Sender<io::Result<Vec<u8>>>, goes_on: &Receiver<()>) {
    let history = history_file(&|name| env::var_os(name));
    // The prompt also works without a history.
    let _ = history.as_ref().map(|path| editor.load_history(path));
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            // ^C clears the line.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return,
            Err(error) => {
                let _ = lines.send(Err(io::Error::other(format!("cannot read from the terminal: {error}"))));
                return;
            }
        };
        let _ = editor.add_history_entry(&line);
        let _ = history.as_ref().map(|path| editor.append_history(path));
        let is_last = parse(&line) == Ok(Request::Quit);
        if lines.send(Ok(line.into_bytes())).is_err() || is_last || goes_on.recv().is_err() {
            return;
        }
    }
}

/// The history file, `ocps/history` in the user's state directory; none if that directory cannot be made, or something else
/// has this name.
fn history_file(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let directory = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?;
    let directory = state.join("ocps");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    let path = directory.join("history");
    let is_ours = |found: fs::Metadata| found.is_file() && found.len() <= HISTORY_BYTES;
    fs::metadata(&path).map_or(true, is_ours).then_some(path)
}

/// Completes commands, parameters, and the values of some parameters from the daemon's jobs and from the history.
struct Completion {
    target: Target,
}

impl Completion {
    /// The values of the first of these members that a job has, for all jobs; none if the daemon does not answer.
    fn of_jobs(&self, members: &[&str]) -> Vec<String> {
        let jobs =
            Client::connect(&self.target).and_then(|mut client| client.query(JOBS)).unwrap_or_default();
        let value =
            |job: &Value| members.iter().find_map(|member| job.get(member)?.as_str().map(str::to_owned));
        jobs.as_array().into_iter().flatten().filter_map(value).collect()
    }

    /// Possible values of a parameter.
    fn values(&self, parameter: &str, context: &Context<'_>) -> Vec<String> {
        match parameter {
            "pipeline" => [earlier_pipelines(context.history()), self.of_jobs(&["pipeline"])].concat(),
            "job_id" => self.of_jobs(&["job_id", "run_id"]),
            "prereq_jobs" => self.of_jobs(&["job_id"]),
            "level" => ["10", "20", "30", "40"].map(str::to_owned).into(),
            _ => Vec::new(),
        }
    }
}

/// The pipelines in the history.
fn earlier_pipelines(history: &dyn History) -> Vec<String> {
    let line = |at| history.get(at, SearchDirection::Forward).ok().flatten();
    let lines = (0..history.len()).filter_map(line);
    let words = lines.filter_map(|line| shlex::split(&line.entry)).flatten();
    words.filter_map(|word| word.strip_prefix("pipeline=").map(str::to_owned)).collect()
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        end: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..end).unwrap_or_default();
        let begin = before.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        let (earlier, word) = before.split_at(begin);
        // Inside quotes nothing is completed.
        let Some(words) = shlex::split(earlier) else { return Ok((end, Vec::new())) };
        let Some(name) = words.first() else {
            let commands = first_words().filter(|name| name.starts_with(word)).map(|name| format!("{name} "));
            return Ok((begin, commands.collect()));
        };
        let parameters = CommandName::parse(name).map_or(&[][..], parameters).iter().map(|(name, _)| *name);
        let Some((parameter, typed)) = word.split_once('=') else {
            let is_new = |name: &str| !words.iter().any(|word| word.split('=').next() == Some(name));
            let names = parameters.filter(|name| name.starts_with(word) && is_new(name));
            return Ok((begin, names.map(|name| format!("{name}=")).collect()));
        };
        // Of several ids the last one is completed.
        let typed =
            if parameter == "prereq_jobs" { typed.rsplit(',').next().unwrap_or_default() } else { typed };
        let mut values = if parameters.into_iter().any(|name| name == parameter) {
            self.values(parameter, context)
        } else {
            Vec::new()
        };
        values.retain(|value| {
            value.starts_with(typed) && !value.is_empty() && !value.contains(char::is_control)
        });
        values.sort_unstable();
        values.dedup();
        let quoted = |value: &String| shlex::try_quote(value).ok().map(|word| word.into_owned());
        Ok((end - typed.len(), values.iter().filter_map(quoted).collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_parameters_and_values_are_completed() {
        let completion = Completion { target: Target { socket: Some("/no/such.sock".into()), index: None } };
        let mut history = DefaultHistory::new();
        history.add("execute pipeline='a b.yaml' version=w").unwrap();
        let check = |line: &str, begin: usize, expected: &[&str]| {
            let found = completion.complete(line, line.len(), &Context::new(&history)).unwrap();
            assert_eq!(found, (begin, expected.iter().map(ToString::to_string).collect()), "{line}");
        };
        check("sta", 0, &["standby ", "start ", "status "]);
        check(" abo", 1, &["abort_job "]);
        check("execute v", 8, &["version="]);
        check("execute version=w pi", 18, &["pipeline="]);
        check("execute version=w ver", 21 - 3, &[]);
        check("execute pipeline=", 17, &["'a b.yaml'"]);
        check("execute pipeline=x", 17, &[]);
        check("setLogLevel level=", 18, &["10", "20", "30", "40"]);
        check("standby level=", 14, &[]);
        check("abort_job job_id=", 17, &[]);
        check("frobnicate x", 11, &[]);
        // Inside of quotes.
        check("execute data_query='a pi", 24, &[]);
    }

    #[test]
    fn the_history_file_is_in_the_state_directory_of_the_user() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &'static str, value: &str| {
            history_file(&|wanted| (wanted == name).then(|| OsString::from(value)))
        };
        let path = home.path().join(".local/state/ocps/history");
        let home = home.path().to_str().unwrap();
        assert_eq!(file("HOME", home).as_deref(), Some(&*path));
        assert_eq!(file("XDG_STATE_HOME", &format!("{home}/.local/state")).as_deref(), Some(&*path));
        for (name, value) in [("HOME", ""), ("HOME", "here"), ("HOME", "/dev/null"), ("PATH", home)] {
            assert_eq!(file(name, value), None);
        }
        fs::File::create(&path).unwrap().set_len(HISTORY_BYTES + 1).unwrap();
        assert_eq!(file("HOME", home), None);
    }
}
