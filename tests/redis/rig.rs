//! The real daemon for Rapid Analysis, a real redis-server, and what can stand between them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{self, Client, Home, eventually};
use crate::port::Port;

pub const PASSWORD: &str = "hunter2-the-secret";

/// The daemon for index 101; ends when dropped.
pub struct Daemon {
    pub process: harness::Daemon,
    pub home: Home,
}

impl Daemon {
    /// Runs it with this environment and no other that it heeds.
    pub fn start(env: &[(&str, &str)], toml: &str, args: &[&str]) -> Self {
        let home = Home::with_toml(toml);
        home.write("configuration/_init.yaml", "instances: []\n");
        let mut command = home.daemon(&[&["101"], args].concat());
        command.envs(env.iter().copied());
        Self { process: harness::Daemon::start(command, home.socket()), home }
    }

    /// One that has been started and enabled, with that Redis.
    pub fn enabled(port: u16) -> Self {
        let daemon = Self::start(&env(&port.to_string()), "", &["--state", "enabled"]);
        let mut client = daemon.client();
        eventually("it has started", || client.query("status")["starting"] == false);
        assert_eq!(client.query("status")["state"], "ENABLED", "{}", daemon.log());
        daemon
    }

    pub fn client(&self) -> Client {
        self.process.connect()
    }

    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits for this in the log, which is written a little later.
    pub fn wait_for_log(&self, text: &str) {
        eventually(text, || self.log().contains(text));
    }

    /// What `ocps status` prints.
    pub fn status_text(&self) -> String {
        self.home.client(&["status"]).stdout
    }
}

/// Variables that lead to a Redis on this machine.
pub fn env(port: &str) -> [(&str, &str); 3] {
    [("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", port), ("REDIS_PASSWORD", PASSWORD)]
}

/// The result of an execute with this config.
pub fn push(client: &mut Client, config: &str) -> String {
    client.received.clear();
    let ack = client.run("execute", &json!({ "config": config }));
    let (name, result) = ack.split_once(' ').unwrap();
    assert_eq!(name == "CMD_COMPLETE", result == "Done", "{ack}");
    result.to_owned()
}

/// A real redis-server; ends when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    dir: TempDir,
    args: Vec<String>,
    /// Reserved also while the server is stopped.
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
        eventually("redis-server answers", || self.try_connect().is_some());
    }

    fn try_connect(&self) -> Option<redis::Connection> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let mut connection = redis::Client::open(url).unwrap().get_connection().ok()?;
        // It refuses while it loads its data.
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

/// A server that accepts every connection and never answers.
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
