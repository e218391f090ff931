//! Notifications to the service manager (`Type=notify`).

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Daemon, Home, Killed, PATIENCE, QUICK};

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl Manager {
    fn wait_for(&mut self, expected: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.received.iter().any(|line| line.starts_with(expected)) {
            let rest = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(rest)).unwrap();
            let mut buffer = [0; 4096];
            let len = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {expected}: {e}; {:?}", self.received));
            let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
            self.received.extend(text.lines().map(str::to_owned));
        }
    }
}

#[test]
fn readiness_status_watchdog_and_the_end_are_notified() {
    let home = Home::with_toml(QUICK);
    let path = home.path("notify.sock");
    let mut manager = Manager { socket: UnixDatagram::bind(&path).unwrap(), received: Vec::new() };
    let mut command = home.daemon(&["1", "--simulate", "--state", "enabled", "--loglevel", "error"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
    let mut daemon = Daemon::start(command, home.socket());
    manager.wait_for("READY=1");
    assert_eq!(daemon.connect().query("status")["state"], "ENABLED", "ready means in the state asked for");
    manager.wait_for("STATUS=ENABLED: no jobs");
    manager.received.clear();
    let begun = Instant::now();
    for _ in 0..2 {
        manager.wait_for("WATCHDOG=1");
        manager.received.clear();
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "as often as twice a period, nearly");
    daemon.terminate();
    manager.wait_for("STOPPING=1");
}

#[test]
fn the_status_line_names_what_is_wrong() {
    let home = Home::with_toml(QUICK);
    let path = home.path("notify.sock");
    let mut manager = Manager { socket: UnixDatagram::bind(&path).unwrap(), received: Vec::new() };
    let mut command = home.daemon(&["1", "--simulate", "--state", "enabled", "--override", "_x.yaml"]);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start(command, home.socket());
    let reason = "start failed: configurationOverride '_x.yaml' must not start with '_'";
    manager.wait_for(&format!("STATUS=STANDBY: no jobs; {reason}"));
    let mut client = daemon.connect();
    assert_eq!(client.query("status")["start_problem"], reason);
    assert!(home.client(&["status"]).stdout.contains(&format!("\nstart          {reason}\n")));
    // With the next change of state it is over.
    for command in ["start", "enable"] {
        assert_eq!(client.run(command, &json!({})), "CMD_COMPLETE Done");
    }
    assert!(client.query("status")["start_problem"].is_null());
    client.run("execute", &json!({"pipeline": "fault.yaml"}));
    manager.wait_for("STATUS=FAULT: no jobs; errorCode 2: cannot contact the execution service");
}

#[test]
fn an_idle_daemon_without_clients_pets_the_watchdog() {
    let home = Home::with_toml(QUICK);
    let path = home.path("notify.sock");
    let mut manager = Manager { socket: UnixDatagram::bind(&path).unwrap(), received: Vec::new() };
    let args =
        ["run", "1", "--simulate", "--loglevel", "error", "--socket", "s.sock", "--config", "ocps.toml"];
    let child = Killed(
        home.ocps().args(args).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000").spawn().unwrap(),
    );
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    drop(child);
}
