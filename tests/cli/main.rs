//! The real binary against a small fake daemon that answers as a test tells it to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A client that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the fake daemon does in answer to a line.
enum Reply {
    Say(Value),
    Raw(&'static str),
    Pause(Duration),
    /// For so long the client writes nothing; otherwise `"too early"` is heard.
    ExpectSilence(Duration),
    HangUp,
}

type Answers = Box<dyn FnMut(&Value) -> Vec<Reply> + Send>;

struct FakeDaemon {
    directory: TempDir,
    /// All that clients wrote, in order.
    heard: Arc<Mutex<Vec<Value>>>,
}

impl FakeDaemon {
    fn start(answers: impl FnMut(&Value) -> Vec<Reply> + Send + 'static) -> Self {
        let daemon = Self { directory: TempDir::new().unwrap(), heard: Arc::default() };
        daemon.listen(answers);
        daemon
    }

    fn listen(&self, answers: impl FnMut(&Value) -> Vec<Reply> + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let heard = Arc::clone(&self.heard);
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, answers) = (Arc::clone(&heard), Arc::clone(&answers));
                thread::spawn(move || serve(stream.unwrap(), &heard, &answers));
            }
        });
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s.sock")
    }

    fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.spawn(arguments, Stdio::null()))
    }

    /// Runs with this on standard input.
    fn run_typing(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.spawn(arguments, Stdio::piped());
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        finish(child)
    }

    fn spawn(&self, arguments: &[&str], stdin: Stdio) -> Child {
        ocps().env("OCPS_SOCKET", self.socket()).args(arguments).stdin(stdin).spawn().unwrap()
    }
}

fn serve(stream: UnixStream, heard: &Mutex<Vec<Value>>, answers: &Mutex<Answers>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if matches!(reader.read_line(&mut line), Ok(0) | Err(_)) {
            return;
        }
        let line: Value = serde_json::from_str(&line).expect("clients write JSON");
        heard.lock().unwrap().push(line.clone());
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
                        heard.lock().unwrap().push(json!("too early"));
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

/// The binary, with nothing of our own environment that it heeds.
fn ocps() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocps"));
    for variable in ["OCPS_SOCKET", "XDG_RUNTIME_DIR", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What became of a client.
#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn check(&self, code: i32, stdout: &[&str], stderr: &str) {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert_eq!((self.code, lines.as_slice(), self.stderr.as_str()), (Some(code), stdout, stderr));
    }
}

/// Waits for the end of a client, and ends one that hangs.
fn finish(child: Child) -> Ran {
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

fn run_alone(arguments: &[&str]) -> Ran {
    finish(ocps().args(arguments).spawn().unwrap())
}

fn ack(seq: &Value, code: i32, result: &str) -> Reply {
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

fn event(topic: &str, data: Value) -> Reply {
    Reply::Say(json!({"event": {"topic": topic, "seq": 1, "sent": 1_795_356_060.504,
                               "sent_utc": "2026-11-22T14:00:23.504Z", "data": data}}))
}

fn summary_state(code: i32) -> Reply {
    event("summaryState", json!({"summaryState": code}))
}

fn job_result(job_id: &str, exit_code: i32) -> Reply {
    let result = json!({"jobId": job_id}).to_string();
    event("job_result", json!({"job_id": job_id, "exit_code": exit_code, "result": result}))
}

fn is_command(line: &Value, name: &str) -> bool {
    line.get("command").and_then(Value::as_str) == Some(name)
}

/// Answers an execute as the daemon does: its job is j1, and events of another job come between.
fn runs_a_job(line: &Value) -> Vec<Reply> {
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

#[test]
fn help_and_version_need_nothing() {
    let help = run_alone(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.starts_with("ocps: ") && help.stdout.contains("\n  78  "), "{}", help.stdout);
    run_alone(&["-V"]).check(0, &[concat!("ocps ", env!("CARGO_PKG_VERSION"))], "");
    let build = run_alone(&["--version"]);
    let lines: Vec<&str> = build.stdout.lines().collect();
    assert_eq!(
        (build.code, lines.len(), lines[0]),
        (Some(0), 4, concat!("ocps ", env!("CARGO_PKG_VERSION")))
    );
    for (line, name) in lines[1..].iter().zip(["commit     ", "features   ", "libraries  "]) {
        assert!(line.len() > name.len() && line.starts_with(name), "{build:?}");
    }
    assert_eq!(lines[2].contains("kafka-sasl"), cfg!(feature = "kafka-sasl"), "{build:?}");
    assert!(lines[3].contains("SQLite 3."), "{build:?}");
    // An unpacked archive has no commit.
    let git =
        Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "log", "-1", "--format=%h"]).output();
    if let Ok(commit) = git.map(|git| String::from_utf8(git.stdout).unwrap())
        && Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists()
    {
        assert!(lines[1].starts_with(&format!("commit     {} (2", commit.trim())), "{build:?}");
    }
    assert_eq!(run_alone(&["help", "send"]), run_alone(&["send", "--frobnicate", "--help"]));
}

#[test]
fn a_wrong_command_line_is_exit_2_and_one_line() {
    let expected = "ocps: unknown flag --simulat: did you mean --simulate? (see ocps run --help)\n";
    run_alone(&["run", "--simulat"]).check(2, &[], expected);
    run_alone(&["send", "setLogLevel", "level=x"]).check(
        2,
        &[],
        "ocps: level must be a 32-bit integer, not x (see ocps send --help)\n",
    );
    run_alone(&[]).check(2, &[], "ocps: no command given (see ocps --help)\n");
}

#[test]
fn the_links_of_the_python_program_mean_ocps_run() {
    let directory = TempDir::new().unwrap();
    for name in ["run_ocps", "run_OCPS.py"] {
        let link = directory.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ocps"), &link).unwrap();
        let output = Command::new(&link).args(["1", "--simulate", "--state", "fault"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("(see ocps run --help)"), "{stderr}");
    }
}

#[test]
fn without_a_daemon_every_client_is_exit_4_and_says_where_it_looked() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("no.sock");
    let socket = socket.to_str().unwrap();
    let clients: [&[&str]; 7] = [
        &["send", "enable"],
        &["state"],
        &["state", "enabled"],
        &["status"],
        &["jobs"],
        &["watch"],
        &["console"],
    ];
    let expected =
        format!("ocps: no daemon at {socket} (no such file): start one with ocps run --socket {socket}\n");
    for client in clients {
        run_alone(&[client, &["--socket", socket]].concat()).check(4, &[], &expected);
    }
    // One that was killed leaves its file.
    drop(UnixListener::bind(socket).unwrap());
    let ran = run_alone(&["status", "--socket", socket]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.stderr.contains("connection refused"), "{}", ran.stderr);
}

#[test]
fn send_shows_the_acks_and_the_result_of_its_job() {
    let daemon = FakeDaemon::start(runs_a_job);
    daemon.run(&["send", "execute", "pipeline=true.yaml", "data_query=visit = 3"]).check(
        0,
        &[
            "CMD_INPROGRESS job_id=j1",
            "job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}",
            "CMD_COMPLETE Done",
        ],
        "",
    );
    let execute = json!({"command": "execute", "seq": 1,
                         "params": {"pipeline": "true.yaml", "data_query": "visit = 3"}});
    assert_eq!(daemon.heard(), [json!({"subscribe": true}), execute]);
}

#[test]
fn send_json_prints_the_lines_as_they_came() {
    let daemon = FakeDaemon::start(runs_a_job);
    let ran = daemon.run(&["send", "execute", "pipeline=true.yaml", "--json"]);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, result, last] = lines.as_slice() else { panic!("{}", ran.stdout) };
    assert_eq!(first["ack"]["timeout"], json!(600.0));
    assert_eq!(result["event"]["data"]["job_id"], json!("j1"));
    assert_eq!(last["ack"]["ack"], json!(303));
    assert_eq!(ran.code, Some(0));
}

#[test]
fn send_no_wait_ends_with_the_job_id() {
    let daemon = FakeDaemon::start(|line| {
        assert!(line.get("subscribe").is_none());
        vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}")]
    });
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(0, &["j1"], "");
    let ran = daemon.run(&["send", "execute", "--no-wait", "--json", "pipeline=x"]);
    let ack: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ack["ack"]["result"], json!("{\"job_id\":\"j1\"}"));
}

#[test]
fn send_no_wait_prints_nothing_but_a_job_id() {
    let daemon = FakeDaemon::start(|line| vec![ack(&line["seq"], -302, "Failed: no")]);
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(
        3,
        &[],
        "ocps: CMD_FAILED Failed: no\n",
    );
    let result = "{\"job_id\":\"j1\",\"missing_prereqs\":[\"a\",\"b\"]}";
    let daemon = FakeDaemon::start(move |line| vec![ack(&line["seq"], 301, result)]);
    let stderr = "ocps: these prerequisites do not exist: a,b\n";
    daemon.run(&["send", "execute", "--no-wait", "pipeline=x"]).check(0, &["j1"], stderr);
}

/// Interrupts a client as soon as the daemon has heard of its command.
fn interrupted(daemon: &FakeDaemon, arguments: &[&str]) -> (Option<i32>, Option<i32>, String) {
    use std::os::unix::process::ExitStatusExt;
    let child = daemon.spawn(arguments, Stdio::null());
    let pid = rustix::process::Pid::from_child(&child);
    while !daemon.heard().iter().any(|line| line.get("command").is_some()) {
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), status.signal(), String::from_utf8(stderr).unwrap())
}

#[test]
fn send_says_when_it_is_interrupted_what_goes_on() {
    let execute = ["send", "execute", "pipeline=x"];
    // No job yet: the daemon knows its run, by our process id.
    let child = Arc::new(Mutex::new(Value::Null));
    let origin = child.clone();
    let daemon = FakeDaemon::start(move |line| {
        let mine = origin.lock().unwrap().clone();
        let jobs = json!([{"origin": mine, "run_id": "1-old", "ended": 5.0},
                          {"origin": mine, "run_id": "1-abc", "ended": null}, {"origin": 1, "run_id": "2-x"}]);
        if line.get("query").is_some() { vec![Reply::Say(json!({ "jobs": jobs }))] } else { Vec::new() }
    });
    let process = daemon.spawn(&execute, Stdio::null());
    *child.lock().unwrap() = json!(process.id());
    let pid = rustix::process::Pid::from_child(&process);
    while !daemon.heard().iter().any(|line| is_command(line, "execute")) {
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(process);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            None,
            "ocps: interrupted: run 1-abc, which has no job id yet, goes on; \
             ocps send abort_job job_id=1-abc ends it, ocps jobs shows it\n"
        )
    );
    // Nobody knows: it may even be on its way.
    let daemon = FakeDaemon::start(|line| {
        if line.get("query").is_some() { vec![Reply::Say(json!({"jobs": []}))] } else { Vec::new() }
    });
    let (code, signal, stderr) = interrupted(&daemon, &execute);
    assert_eq!((code, signal), (None, Some(2)));
    assert_eq!(
        stderr,
        "ocps: interrupted before the final ack of execute: it may still be carried out, see ocps status and ocps jobs\n"
    );
    let (_, _, stderr) = interrupted(&FakeDaemon::start(|_| Vec::new()), &["send", "enable"]);
    assert_eq!(
        stderr,
        "ocps: interrupted before the final ack of enable: it may still be carried out, see ocps status and ocps jobs\n"
    );
}

#[test]
fn send_says_which_job_goes_on_when_it_is_interrupted() {
    let daemon = FakeDaemon::start(|line| match is_command(line, "execute") {
        true => vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}")],
        false => Vec::new(),
    });
    let mut child = daemon.spawn(&["send", "execute", "pipeline=x"], Stdio::null());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "CMD_INPROGRESS job_id=j1\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let expected =
        "ocps: interrupted: job j1 goes on; ocps send abort_job job_id=j1 ends it, ocps jobs shows it\n";
    assert_eq!(finish(child).stderr, expected);
}

#[test]
fn send_is_exit_3_when_the_command_was_refused_failed_or_aborted() {
    let daemon = FakeDaemon::start(|line| {
        let seq = &line["seq"];
        if is_command(line, "enable") {
            return vec![ack(seq, -302, "Failed: enable not allowed in state ENABLED")];
        }
        if is_command(line, "execute") {
            let aborted = ack(seq, -303, "Aborted");
            return vec![ack(seq, 301, "{\"job_id\":\"j1\"}"), job_result("j1", 255), aborted];
        }
        Vec::new()
    });
    daemon.run(&["send", "enable"]).check(3, &["CMD_FAILED Failed: enable not allowed in state ENABLED"], "");
    daemon.run(&["send", "execute"]).check(
        3,
        &[
            "CMD_INPROGRESS job_id=j1",
            "job_result job_id=j1 exit_code=255 result={\"jobId\":\"j1\"}",
            "CMD_ABORTED Aborted",
        ],
        "",
    );
}

#[test]
fn an_abort_shows_the_result_only_if_it_succeeds() {
    // A new subscriber is told the latest job_result, which may be of a job that ended long ago.
    let daemon = FakeDaemon::start(|line| {
        let seq = &line["seq"];
        if line.get("subscribe").is_some() {
            return vec![job_result("gone", 0)];
        }
        if line["params"]["job_id"] == json!("gone") {
            return vec![ack(seq, -302, "Failed: No such job: gone")];
        }
        vec![job_result("j1", 255), ack(seq, 303, "Done")]
    });
    daemon.run(&["send", "abort_job", "job_id=gone"]).check(3, &["CMD_FAILED Failed: No such job: gone"], "");
    daemon.run(&["send", "abort_job", "job_id=j1"]).check(
        0,
        &["job_result job_id=j1 exit_code=255 result={\"jobId\":\"j1\"}", "CMD_COMPLETE Done"],
        "",
    );
}

#[test]
fn send_gives_up_in_time_and_an_ack_extends_it() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "enable") {
            return Vec::new();
        }
        let seq = &line["seq"];
        // Longer than the sender's own patience, but the first ack asked for it.
        let late = Reply::Pause(Duration::from_secs(4));
        vec![ack(seq, 301, "{\"job_id\":\"j1\"}"), late, ack(seq, 303, "Done")]
    });
    let expected =
        "ocps: no ack of enable in time: it may still be carried out, see ocps status and ocps jobs\n";
    daemon.run(&["send", "enable", "--timeout", "0.1"]).check(1, &[], expected);
    let ran = daemon.run(&["send", "standby", "--timeout=3"]);
    ran.check(0, &["CMD_INPROGRESS job_id=j1", "CMD_COMPLETE Done"], "");
}

#[test]
fn a_connection_that_ends_early_is_exit_1() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "execute") {
            return vec![ack(&line["seq"], 301, "{\"job_id\":\"j1\"}"), Reply::HangUp];
        }
        if line.get("query").is_some() { vec![Reply::HangUp] } else { Vec::new() }
    });
    let expected = "ocps: the daemon closed the connection before the final ack of execute (job_id j1): \
                    its job, if any, goes on\n";
    daemon.run(&["send", "execute"]).check(1, &["CMD_INPROGRESS job_id=j1"], expected);
    daemon.run(&["status"]).check(1, &[], "ocps: the daemon closed the connection\n");
}

#[test]
fn a_request_that_the_daemon_refuses_is_exit_1() {
    let daemon = FakeDaemon::start(|_| vec![Reply::Say(json!({"error": "too many\nclients"}))]);
    let expected = "ocps: the daemon refused the request: too many\\nclients\n";
    for client in [["send", "enable"], ["watch", "job_id"], ["state", "enabled"]] {
        daemon.run(&client).check(1, &[], expected);
    }
    daemon.run_typing(&["console"], "execute\n").check(1, &[], expected);
}

/// A daemon in this state, in which transitions succeed until one named `refuses`.
fn in_state(state: &'static str, refuses: &'static str) -> FakeDaemon {
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

#[test]
fn state_prints_the_state() {
    in_state("DISABLED", "").run(&["state"]).check(0, &["DISABLED"], "");
    let ran = in_state("CONFUSED", "").run(&["state"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("\"CONFUSED\""), "{}", ran.stderr);
}

#[test]
fn state_walks_to_its_target() {
    let daemon = in_state("FAULT", "");
    daemon.run(&["state", "Enabled", "--override", "a.yaml:v1"]).check(
        0,
        &["standby CMD_COMPLETE Done", "start CMD_COMPLETE Done", "enable CMD_COMPLETE Done", "ENABLED"],
        "",
    );
    let start = json!({"command": "start", "seq": 2, "params": {"configurationOverride": "a.yaml:v1"}});
    assert_eq!(daemon.heard().get(2), Some(&start));

    let offline = ["disable CMD_COMPLETE Done", "standby CMD_COMPLETE Done", "exitControl CMD_COMPLETE Done"];
    in_state("ENABLED", "").run(&["state", "offline"]).check(0, &[&offline[..], &["OFFLINE"]].concat(), "");
    in_state("ENABLED", "").run(&["state", "enabled"]).check(0, &["ENABLED"], "");
}

#[test]
fn state_stops_at_a_refusal() {
    let daemon = in_state("STANDBY", "start");
    daemon.run(&["state", "enabled"]).check(3, &["start CMD_FAILED Failed: no such file"], "");
    assert_eq!(daemon.heard().len(), 2);
}

#[test]
fn an_override_that_would_not_be_read_is_refused_before_anything_is_sent() {
    let daemon = in_state("DISABLED", "");
    let expected =
        "ocps: the override is read by start, which DISABLED does not need: first ocps state standby\n";
    daemon.run(&["state", "enabled", "--override", "a.yaml"]).check(1, &[], expected);
    assert_eq!(daemon.heard(), [json!({"query": "status"})]);
}

#[test]
fn a_client_talks_only_to_the_index_it_was_told() {
    let daemon = in_state("STANDBY", "");
    daemon.run(&["state", "--index", "LSSTComCam"]).check(0, &["STANDBY"], "");
    let ran = daemon.run(&["send", "enable", "--index", "3"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.stderr.starts_with("ocps: no daemon with index 3 (LSSTCam) at "), "{}", ran.stderr);
    assert!(ran.stderr.contains("(its index is 2)"), "{}", ran.stderr);
    assert!(!daemon.heard().iter().any(|line| is_command(line, "enable")));
}

#[test]
fn status_and_jobs_are_tables_or_json() {
    let status = json!({"version": "0.1.0", "state": "ENABLED", "newer": [1]});
    let jobs =
        json!([{"job_id": "j1", "stage": "running", "age_s": 1.0}, {"job_id": "j0", "stage": "finished"}]);
    let (status_document, jobs_document) = (status.clone(), jobs.clone());
    let daemon = FakeDaemon::start(move |line| {
        let both = [("status", &status_document), ("jobs", &jobs_document)];
        let (name, document) = both.into_iter().find(|(name, _)| line["query"] == json!(name)).unwrap();
        // A subscriber of an earlier life may still be told events.
        vec![summary_state(2), Reply::Say(json!({name: document}))]
    });
    let ran = daemon.run(&["status"]);
    assert!(ran.stdout.contains("state          ENABLED\n"), "{}", ran.stdout);
    daemon.run(&["status", "--json"]).check(0, &[&status.to_string()], "");

    let ran = daemon.run(&["jobs"]);
    assert!(ran.stdout.contains("\nj1 ") && !ran.stdout.contains("j0"), "{}", ran.stdout);
    assert!(daemon.run(&["jobs", "--all"]).stdout.contains("\nj0 "));
    daemon.run(&["jobs", "--json", "--all"]).check(0, &[&jobs.to_string()], "");
    daemon.run(&["jobs", "--json"]).check(0, &[&json!([jobs[0]]).to_string()], "");
}

#[test]
fn watch_prints_what_is_asked_for_until_offline() {
    let daemon = FakeDaemon::start(|_| {
        let heartbeat = event("heartbeat", json!({"heartbeat": true}));
        vec![summary_state(2), heartbeat, job_result("j1", 0), summary_state(4), Reply::HangUp]
    });
    let enabled = "2026-11-22T14:00:23.504Z summaryState ENABLED";
    let offline = "2026-11-22T14:00:23.504Z summaryState OFFLINE";
    let result = "2026-11-22T14:00:23.504Z job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}";
    daemon.run(&["watch"]).check(0, &[enabled, result, offline], "");
    daemon.run(&["watch", "job_result"]).check(0, &[result], "");
    daemon.run(&["watch", "heartbeat"]).check(0, &["2026-11-22T14:00:23.504Z heartbeat"], "");
    let ran = daemon.run(&["watch", "--json", "job_result"]);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(line["event"]["topic"], json!("job_result"));
}

#[test]
fn watch_is_exit_1_when_the_daemon_just_goes_away() {
    let daemon = FakeDaemon::start(|_| vec![summary_state(4), summary_state(5), Reply::HangUp]);
    let ran = daemon.run(&["watch"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "ocps: the daemon closed the connection without going OFFLINE\n");
}

#[test]
fn a_reader_that_goes_away_is_a_normal_end() {
    // Even when nothing more is printed: `ocps watch | head -1` ends by itself.
    let daemon = FakeDaemon::start(|_| vec![summary_state(2)]);
    for arguments in [&["watch"][..], &["console", "--wait", "1"]] {
        let mut child = daemon.spawn(arguments, Stdio::piped());
        let _open = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "2026-11-22T14:00:23.504Z summaryState ENABLED\n");
        drop(stdout);
        finish(child).check(0, &[], "");
    }
    let binary = env!("CARGO_BIN_EXE_ocps");
    let script = format!("{binary} --help | head -1; echo ${{PIPESTATUS[0]}}");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ocps: ") && text.ends_with("\n0\n"), "{text}");
}

/// The lines without the time in front.
fn timeless(stdout: &str) -> Vec<&str> {
    stdout.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest)).collect()
}

#[test]
fn console_runs_a_script_to_its_end() {
    let daemon = FakeDaemon::start(runs_a_job);
    let input = "# a comment\n\nexectue pipeline=x\nexecute pipeline=\"true.yaml\" data_query='visit = 3'\n";
    let ran = daemon.run_typing(&["console"], input);
    assert_eq!(
        timeless(&ran.stdout),
        [
            "job_result job_id=old exit_code=0 result={\"jobId\":\"old\"}",
            "summaryState ENABLED",
            "execute[1] CMD_INPROGRESS job_id=j1",
            "job_id event_name=cmd_execute seq_num=1 job_id=j1",
            "job_result job_id=other exit_code=1 result={\"jobId\":\"other\"}",
            "job_result job_id=j1 exit_code=0 result={\"jobId\":\"j1\"}",
            "execute[1] CMD_COMPLETE Done",
        ]
    );
    assert_eq!(ran.stderr, "ocps: unknown command exectue: did you mean execute? (type help)\n");
    assert_eq!(ran.code, Some(0));
    assert_eq!(
        daemon.heard().last().unwrap()["params"],
        json!({"pipeline": "true.yaml", "data_query": "visit = 3"})
    );
}

#[test]
fn console_awaits_a_change_of_state_before_the_next_line() {
    let daemon = FakeDaemon::start(|line| {
        let seq = line["seq"].clone();
        if is_command(line, "start") {
            return vec![Reply::ExpectSilence(Duration::from_millis(200)), ack(&seq, 303, "Done")];
        }
        if line.get("command").is_some() { vec![ack(&seq, -302, "Failed: no")] } else { Vec::new() }
    });
    let ran = daemon.run_typing(&["console"], "start\nenable\nquit\nexecute pipeline=never\n");
    assert_eq!(timeless(&ran.stdout), ["start[1] CMD_COMPLETE Done", "enable[2] CMD_FAILED Failed: no"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let commands: Vec<Value> = daemon.heard().iter().skip(1).map(|line| line["command"].clone()).collect();
    assert_eq!(commands, ["start", "enable"]);
}

#[test]
fn console_answers_queries_and_helps() {
    let daemon = FakeDaemon::start(|line| match line.get("query").and_then(Value::as_str) {
        Some("status") => vec![Reply::Say(json!({"status": {"state": "ENABLED"}}))],
        Some("jobs") => vec![Reply::Say(json!({"jobs": [{"job_id": "j0", "stage": "finished"}]}))],
        _ => Vec::new(),
    });
    let ran = daemon.run_typing(&["console"], "status\njobs\nhelp");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in ["state          ENABLED\n", "no jobs\n", "Type a command", "configurationOverride="] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
}

#[test]
fn console_tells_an_end_of_the_daemon_from_a_loss() {
    let daemon = FakeDaemon::start(|line| {
        if is_command(line, "exitControl") {
            return vec![ack(&line["seq"], 303, "Done"), summary_state(4), Reply::HangUp];
        }
        if is_command(line, "execute") { vec![Reply::HangUp] } else { vec![summary_state(5)] }
    });
    let ran = daemon.run_typing(&["console"], "exitControl\nexecute\n");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.ends_with("the daemon went OFFLINE and ended\n"), "{}", ran.stdout);
    let ran = daemon.run_typing(&["console"], "execute\n");
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "ocps: the daemon closed the connection without going OFFLINE\n");
}

#[test]
fn console_waits_for_a_daemon_that_is_starting() {
    let daemon = FakeDaemon { directory: TempDir::new().unwrap(), heard: Arc::default() };
    let mut child = daemon.spawn(&["console", "--wait", "20"], Stdio::piped());
    child.stdin.take().unwrap().write_all(b"execute pipeline=true.yaml\n").unwrap();
    // It has surely tried once by then; should it not have, the test is only easier.
    thread::sleep(Duration::from_millis(150));
    daemon.listen(runs_a_job);
    let ran = finish(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("execute[1] CMD_COMPLETE Done\n"), "{}", ran.stdout);
}

#[test]
fn a_usual_place_is_found_without_being_told() {
    // Only others than root have a place of their own.
    if rustix::process::geteuid().is_root() || Path::new("/run/ocps").exists() {
        return;
    }
    let daemon = in_state("STANDBY", "");
    let runtime = TempDir::new().unwrap();
    std::fs::create_dir(runtime.path().join("ocps")).unwrap();
    std::os::unix::fs::symlink(daemon.socket(), runtime.path().join("ocps/ocps.sock")).unwrap();
    let child = ocps().env("XDG_RUNTIME_DIR", runtime.path()).arg("state").spawn().unwrap();
    finish(child).check(0, &["STANDBY"], "");
}

#[test]
fn a_huge_line_and_rubbish_do_no_harm() {
    let daemon = FakeDaemon::start(|line| {
        if line.get("query").is_none() {
            return Vec::new();
        }
        let huge = "x".repeat(4 << 20);
        vec![
            Reply::Raw("\u{0}\u{1b}[31m\n\n[]\n"),
            Reply::Say(json!({"status": {"state": huge}})),
            Reply::Say(json!({"status": {"state": "FAULT"}})),
        ]
    });
    let ran = daemon.run(&["status", "--json"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.len() > 4 << 20);
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let mut stdout = String::new();
    let daemon = in_state("FAULT", "");
    let mut child = daemon.spawn(&["status"], Stdio::null());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    finish(child);
    assert!(stdout.contains("FAULT") && !stdout.contains('\x1b'), "{stdout}");
}
