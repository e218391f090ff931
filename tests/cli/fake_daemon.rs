//! A small fake daemon that answers as a test wants, and the real binary as its client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for a client: only one that hangs reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the fake daemon does in answer to a line.
pub(crate) enum Reply {
    Say(Value),
    Raw(&'static str),
    Pause(Duration),
    /// The client must write nothing for so long; otherwise `"too early"` is received.
    ExpectSilence(Duration),
    HangUp,
}

pub(crate) type Answers = Box<dyn FnMut(&Value) -> Vec<Reply> + Send>;

pub(crate) struct FakeDaemon {
    pub(crate) directory: TempDir,
    /// All that clients wrote, in order.
    received: Arc<Mutex<Vec<Value>>>,
}

impl FakeDaemon {
    pub(crate) fn start(answers: impl FnMut(&Value) -> Vec<Reply> + Send + 'static) -> Self {
        let daemon = Self::absent();
        daemon.listen(answers);
        daemon
    }

    /// One that does not listen yet.
    pub(crate) fn absent() -> Self {
        Self { directory: TempDir::new().unwrap(), received: Arc::default() }
    }

    pub(crate) fn listen(&self, answers: impl FnMut(&Value) -> Vec<Reply> + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let received = Arc::clone(&self.received);
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (received, answers) = (Arc::clone(&received), Arc::clone(&answers));
                thread::spawn(move || serve(stream.unwrap(), &received, &answers));
            }
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s.sock")
    }

    pub(crate) fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.spawn(arguments, Stdio::null()))
    }

    /// Runs with this on standard input.
    pub(crate) fn run_typing(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.spawn(arguments, Stdio::piped());
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        finish(child)
    }

    pub(crate) fn spawn(&self, arguments: &[&str], stdin: Stdio) -> Child {
        ocps().env("OCPS_SOCKET", self.socket()).args(arguments).stdin(stdin).spawn().unwrap()
    }
}

pub(crate) fn serve(stream: UnixStream, received: &Mutex<Vec<Value>>, answers: &Mutex<Answers>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if matches!(reader.read_line(&mut line), Ok(0) | Err(_)) {
            return;
        }
        let line: Value = serde_json::from_str(&line).expect("clients write JSON");
        received.lock().unwrap().push(line.clone());
        let replies = answers.lock().unwrap()(&line);
        for reply in replies {
            let written = match reply {
                Reply::Say(value) => writeln!(writer, "{value}"),
                Reply::Raw(text) => writer.write_all(text.as_bytes()),
                Reply::Pause(time) => {
                    thread::sleep(time);
                    Ok(())
                }
                Reply::ExpectSilence(time) => {
                    reader.get_ref().set_read_timeout(Some(time)).unwrap();
                    if reader.fill_buf().is_ok() {
                        received.lock().unwrap().push(json!("too early"));
                    }
                    reader.get_ref().set_read_timeout(None).unwrap();
                    Ok(())
                }
                Reply::HangUp => {
                    writer.shutdown(std::net::Shutdown::Both).unwrap();
                    return;
                }
            };
            if written.is_err() {
                return;
            }
        }
    }
}

/// The binary, without the variables of our own environment that it reads.
pub(crate) fn ocps() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocps"));
    for variable in ["OCPS_SOCKET", "XDG_RUNTIME_DIR", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and output of a client.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn check(&self, code: i32, stdout: &[&str], stderr: &str) {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert_eq!((self.code, lines.as_slice(), self.stderr.as_str()), (Some(code), stdout, stderr));
    }
}

/// Waits for the end of a client, and ends one that hangs.
pub(crate) fn finish(child: Child) -> Ran {
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Output { status, stdout, stderr } = receiver.recv_timeout(PATIENCE).map_or_else(
        |_| {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            panic!("the client hangs")
        },
        Result::unwrap,
    );
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

pub(crate) fn run_alone(arguments: &[&str]) -> Ran {
    finish(ocps().args(arguments).spawn().unwrap())
}

pub(crate) fn ack(seq: &Value, code: i32, result: &str) -> Reply {
    let (name, timeout) = match code {
        301 => ("CMD_INPROGRESS", 600.0),
        303 => ("CMD_COMPLETE", 0.0),
        -303 => ("CMD_ABORTED", 0.0),
        _ => ("CMD_FAILED", 0.0),
    };
    let error = i32::from(code < 0);
    Reply::Say(json!({"ack": {"seq": seq, "ack": code, "name": name, "error": error,
                              "result": result, "timeout": timeout}}))
}

pub(crate) fn event(topic: &str, data: Value) -> Reply {
    Reply::Say(json!({"event": {"topic": topic, "seq": 1, "sent": 1_795_356_060.504,
                               "sent_utc": "2026-11-22T14:00:23.504Z", "data": data}}))
}

pub(crate) fn summary_state(code: i32) -> Reply {
    event("summaryState", json!({"summaryState": code}))
}

pub(crate) fn job_result(job_id: &str, exit_code: i32) -> Reply {
    let result = json!({"jobId": job_id}).to_string();
    event("job_result", json!({"job_id": job_id, "exit_code": exit_code, "result": result}))
}

pub(crate) fn is_command(line: &Value, name: &str) -> bool {
    line.get("command").and_then(Value::as_str) == Some(name)
}

/// Answers an execute as the daemon does: its job is j1, and events of another job come between.
pub(crate) fn runs_a_job(line: &Value) -> Vec<Reply> {
    if line.get("subscribe").is_some() {
        return vec![job_result("old", 0), summary_state(2)];
    }
    if !is_command(line, "execute") {
        return Vec::new();
    }
    let seq = &line["seq"];
    vec![
        Reply::Raw("not JSON\n{\"newer\":1}\n"),
        ack(&json!(77), 303, "not ours"),
        ack(seq, 301, "{\"job_id\":\"j1\"}"),
        event("job_id", json!({"event_name": "cmd_execute", "seq_num": seq, "job_id": "j1"})),
        job_result("other", 1),
        job_result("j1", 0),
        ack(seq, 303, "Done"),
    ]
}

/// A daemon in this state, in which transitions succeed until one named `refuses`.
pub(crate) fn in_state(state: &'static str, refuses: &'static str) -> FakeDaemon {
    FakeDaemon::start(move |line| {
        let seq = &line["seq"];
        if line.get("query").is_some() {
            return vec![Reply::Say(json!({"status": {"state": state, "index": 2, "newer": []}}))];
        }
        if is_command(line, refuses) {
            return vec![ack(seq, -302, "Failed: no such file")];
        }
        vec![ack(seq, 303, "Done")]
    })
}
