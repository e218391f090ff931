//! No more descriptors, no more threads: the daemon keeps running, logs little, and recovers when there are some again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::getuid;
use serde_json::json;

use crate::harness::{Daemon, Home, eventually};
use crate::support::uws_job::Timing;
use crate::support::uws_service::{Options, UwsService};

const TOML: &str = "[uws]\nsettle_time_s = 1\n";

/// Longer than idle connections to the service are kept.
const PATIENCE: Duration = Duration::from_secs(3);

fn service() -> UwsService {
    let timing = Timing { pending: 0.0, queued: 0.0, duration: 3600.0, ..Timing::default() };
    UwsService::start(Options { timing, ..Options::default() })
}

/// Sets what the daemon may have, as its own user, who may do so without being root.
fn limit(daemon: &Daemon, user: Option<u32>, what: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &daemon.pid().to_string(), what]);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    assert!(command.status().unwrap().success(), "{what}");
}

/// How often the log has this.
fn count(daemon: &Daemon, what: &str) -> usize {
    daemon.stderr().lines().filter(|line| line.contains(what)).count()
}

#[test]
fn without_descriptors_it_keeps_running_and_logs_that_once() {
    let service = service();
    let home = Home::for_service(&service.url(), 0.2, TOML);
    let path = home.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = home.daemon(&["1", "--state", "enabled"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::start(command, home.socket());
    let mut client = daemon.subscribe();
    let seq = client.execute("p.yaml");
    let job_id = client.job_id(seq);
    limit(&daemon, None, "--nofile=4:");
    let stopped = service.stop();
    let waiting: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    // Whether it is the connection itself or what follows it that cannot be had.
    eventually("it is logged", || count(&daemon, "a client: Too many open files") == 1);
    let service = stopped.restart();
    eventually("the service cannot be reached", || daemon.stderr().contains("cannot reach"));
    // What the manager hears now was sent without a new descriptor.
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 4096]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(PATIENCE * 10)).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        manager.recv(&mut [0; 4096]).expect("the watchdog is petted");
    }
    assert_eq!(count(&daemon, "a client: Too many open files"), 1);
    assert_eq!(count(&daemon, "a turn of the main loop took"), 0);
    drop(waiting);
    limit(&daemon, None, "--nofile=1024:");
    assert_eq!(client.run("abort_job", &json!({"job_id": job_id})), "CMD_COMPLETE Done");
    assert_eq!(daemon.connect().query("status")["state"], "ENABLED");
    drop(service);
}

#[test]
fn without_threads_it_keeps_running_and_logs_that_once() {
    // By its name, for which a thread is needed; and without this limit's exception for root.
    let service = service();
    let home = Home::for_service(&service.url().replace("127.0.0.1", "localhost"), 0.2, TOML);
    let mut command = home.daemon(&["1", "--state", "enabled"]);
    let user = getuid().is_root().then_some(65_534);
    if let Some(user) = user {
        let program = home.path("ocps");
        fs::copy(env!("CARGO_BIN_EXE_ocps"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        command = home.program(&program);
        home.run_args(command.arg("run"), &["1", "--state", "enabled"]);
        command.uid(user).gid(user);
        for name in ["", "configuration"] {
            chown(home.path(name), Some(user), Some(user)).unwrap();
        }
    }
    let daemon = Daemon::start(command, home.socket());
    let mut client = daemon.subscribe();
    let seq = client.execute("p.yaml");
    let job_id = client.job_id(seq);
    limit(&daemon, user, "--nproc=0:");
    let service = service.stop().restart();
    eventually("the service cannot be reached", || {
        daemon.stderr().contains("no thread to look up the host with")
    });
    let refused: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    eventually("it is logged", || count(&daemon, "cannot serve a client") == 1);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(count(&daemon, "cannot serve a client"), 1);
    drop(refused);
    limit(&daemon, user, "--nproc=1000:");
    assert_eq!(client.run("abort_job", &json!({"job_id": job_id})), "CMD_COMPLETE Done");
    assert_eq!(daemon.connect().query("status")["state"], "ENABLED");
    drop(service);
}
