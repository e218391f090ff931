//! The real daemon, a client of its socket, a real redis-server, and what can stand between them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::port::Port;

/// Nothing here takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const PASSWORD: &str = "hunter2-the-secret";

/// The daemon for index 101; ends when dropped.
pub struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    /// Runs it with this environment and no other that it heeds.
    pub fn start(env: &[(&str, &str)], toml: &str, args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("_init.yaml"), "instances: []\n").unwrap();
        fs::write(path("ocps.toml"), toml).unwrap();
        let child = ocps()
            .args(["run", "101", "--configdir"])
            .arg(dir.path())
            .arg("--config")
            .arg(path("ocps.toml"))
            .arg("--state-dir")
            .arg(path("state"))
            .arg("--socket")
            .arg(path("sock"))
            .args(args)
            .envs(env.iter().copied())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// One that has been started and enabled, with that Redis.
    pub fn enabled(port: u16) -> Self {
        let daemon = Self::start(&env(&port.to_string()), "", &["--state", "enabled"]);
        let mut client = daemon.client();
        let mut status = client.query_status();
        while status["starting"] == true {
            thread::sleep(Duration::from_millis(10));
            status = client.query_status();
        }
        assert_eq!(status["state"], "ENABLED", "{}", daemon.log());
        daemon
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Waits for this in the log, which is written a little later.
    pub fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "{text}: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `ocps status` prints.
    pub fn status_text(&self) -> String {
        let output = ocps().arg("status").arg("--socket").arg(self.socket()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, with nothing of our own environment that it heeds.
pub fn ocps() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocps"));
    for name in
        ["OCPS_SOCKET", "LSST_SITE", "DM_CONFIG_OCPS_DIR", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"]
    {
        command.env_remove(name);
    }
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
    command.stdin(Stdio::null());
    command
}

/// Variables that lead to a Redis on this machine.
pub fn env(port: &str) -> [(&str, &str); 3] {
    [("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", port), ("REDIS_PASSWORD", PASSWORD)]
}

/// A client of the local socket.
pub struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
    seq: i64,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{}: {error}", path.display()),
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), output: stream, seq: 0 }
    }

    pub fn say(&mut self, line: &Value) {
        self.output.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.input.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Sends a command without waiting for it; returns its number.
    pub fn send(&mut self, name: &str, params: &Value) -> i64 {
        self.seq += 1;
        self.say(&json!({"command": name, "seq": self.seq, "params": params}));
        self.seq
    }

    /// The only ack of a command: its name and result.
    pub fn command(&mut self, name: &str, params: &Value) -> (String, String) {
        let seq = self.send(name, params);
        let ack = self.hear()["ack"].clone();
        assert_eq!(ack["seq"], seq);
        (ack["name"].as_str().unwrap().to_owned(), ack["result"].as_str().unwrap().to_owned())
    }

    /// What became of an execute: the result of its ack.
    pub fn push(&mut self, config: &str) -> String {
        let (name, result) = self.command("execute", &json!({ "config": config }));
        assert_eq!(name == "CMD_COMPLETE", result == "Done", "{name} {result}");
        result
    }

    pub fn query_status(&mut self) -> Value {
        self.say(&json!({"query": "status"}));
        self.hear()["status"].clone()
    }
}

/// A real redis-server; ends when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    dir: TempDir,
    args: Vec<String>,
    /// Also while it does not listen.
    _kept: Port,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let kept = Port::free().unwrap();
        let port = kept.number;
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(port, dir.path(), &args).unwrap_or_else(|e| panic!("redis-server: {e}"));
        let server = Self { child, port, dir, args, _kept: kept };
        server.wait();
        server
    }

    /// One that wants the password and keeps nothing.
    pub fn usual() -> Self {
        Self::start(&["--requirepass", PASSWORD, "--save", ""])
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        while self.try_connect().is_none() {
            assert!(Instant::now() < end, "redis-server does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_connect(&self) -> Option<redis::Connection> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let mut connection = redis::Client::open(url).unwrap().get_connection().ok()?;
        // While it loads its data, it says so.
        let _ = redis::cmd("AUTH").arg(PASSWORD).exec(&mut connection);
        redis::cmd("PING").exec(&mut connection).ok()?;
        Some(connection)
    }

    pub fn connection(&self) -> redis::Connection {
        self.try_connect().unwrap()
    }

    /// A list, from the value that was pushed last to the first.
    pub fn list(&self, key: &str) -> Vec<String> {
        redis::cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut self.connection()).unwrap()
    }

    /// How often a command was carried out.
    pub fn calls(&self, command: &str) -> u64 {
        let text: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection()).unwrap();
        let prefix = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.dir.path(), &self.args).unwrap();
        self.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &Path, args: &[String]) -> std::io::Result<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// What a proxy does with a piece that the daemon sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing is passed on, and the connection is closed.
    Before,
    /// It is passed on, and the connection is closed before the answer.
    After,
}

/// Stands before a Redis and cuts the connection at the first piece that holds `word`.
pub struct Proxy {
    pub port: u16,
    plan: Arc<Mutex<Option<(&'static str, Cut)>>>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Option<(&'static str, Cut)>>> = Arc::default();
        let plans = plan.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
                let (client, plans) = (client.unwrap(), plans.clone());
                let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut back, &mut forth));
                thread::spawn(move || forward(client, server, &plans));
            }
        });
        Self { port, plan }
    }

    /// Cuts once, at the next piece that holds this word.
    pub fn cut(&self, word: &'static str, cut: Cut) {
        *self.plan.lock().unwrap() = Some((word, cut));
    }

    /// Whether it has cut what it was to cut.
    pub fn has_cut(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}

fn forward(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Option<(&'static str, Cut)>>) {
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let piece = &buffer[..n];
        let mut plan = plan.lock().unwrap();
        let cut = plan.filter(|(word, _)| piece.windows(word.len()).any(|part| part == word.as_bytes()));
        if let Some((_, cut)) = cut {
            *plan = None;
            // The daemon first, so that no answer comes through.
            let _ = client.shutdown(Shutdown::Both);
            if cut == Cut::After {
                server.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
            break;
        }
        if server.write_all(piece).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

/// A server that accepts everybody and never says a word.
pub fn silent_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            kept.push(stream);
        }
    });
    port
}
