//! What the daemon shows over HTTP, and clients that it must not notice.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{Daemon, Home, PATIENCE, StallMeter, eventually};
use crate::metrics::value;
use crate::support::port::Port;
use crate::support::skip::skip;

/// A home whose daemon listens at this port for HTTP.
fn home(port: &Port) -> Home {
    Home::with_toml(&format!("[http]\nlisten = \"127.0.0.1:{}\"\n", port.number))
}

pub(crate) fn connect(port: &Port) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The first line of the answer, and its body.
pub(crate) fn ask(mut stream: impl Read + Write, path: &str) -> (String, String) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn probes_and_metrics_are_served() {
    let port = Port::free().unwrap();
    let home = home(&port);
    let _daemon = home.start(&["1", "--simulate"]);
    let get = |path| ask(connect(&port), path);
    let ok = |text: &str| ("HTTP/1.1 200 OK".to_owned(), format!("{text}\n"));
    assert_eq!(get("/livez"), ok("the main loop answers"));
    eventually("it is ready", || get("/readyz") == ok("commands are taken"));
    let (status, text) = get("/metrics");
    assert_eq!((status.as_str(), value(&text, "ocps_ready")), ("HTTP/1.1 200 OK", Some(1.0)), "{text}");
    let (status, page) = get("/");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(page.contains("<b class=\"state STANDBY\">STANDBY</b>"), "{page}");
    assert_eq!(get("/../etc/passwd").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn a_unix_path_is_served_and_one_that_is_taken_leaves_the_daemon_working() {
    let home = Home::with_toml("[http]\nlisten = \"/PATH\"\n");
    let path = home.path("http.sock");
    home.write("ocps.toml", &format!("[http]\nlisten = \"{}\"\n", path.display()));
    // What a killed daemon left is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let mut daemon = home.start(&["1", "--simulate"]);
    assert_eq!(ask(UnixStream::connect(&path).unwrap(), "/livez").0, "HTTP/1.1 200 OK");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    daemon.terminate();

    fs::remove_file(&path).unwrap();
    home.write("http.sock", "not a socket");
    let daemon = home.start(&["1", "--simulate"]);
    let problem = daemon.connect().query("status")["http"]["problem"].to_string();
    assert!(problem.contains("Address already in use") && problem.contains("see [http]"), "{problem}");
    assert!(daemon.stderr().contains("[ERROR] no HTTP: cannot listen on "), "{}", daemon.stderr());
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
}

#[test]
fn the_socket_of_systemd_is_served() {
    let home = Home::with_toml("[http]\nlisten = \"systemd\"\n");
    let mut daemon = home.start(&["1", "--simulate"]);
    assert!(daemon.stderr().contains("systemd hands over no socket"), "{}", daemon.stderr());
    daemon.terminate();

    let port = Port::free().unwrap();
    let mut command = home.program(Path::new("systemd-socket-activate"));
    command.arg(format!("--listen=127.0.0.1:{}", port.number));
    home.run_args(command.arg(env!("CARGO_BIN_EXE_ocps")).arg("run"), &["1", "--simulate"]);
    if Command::new(command.get_program()).arg("--version").output().is_err() {
        return skip("systemd-socket-activate is not installed");
    }
    let number = port.number;
    // The first connection starts the daemon, which answers it.
    let first = thread::spawn(move || {
        let mut stream = None;
        eventually("it listens", || {
            stream = TcpStream::connect((Ipv4Addr::LOCALHOST, number)).ok();
            stream.is_some()
        });
        ask(stream.unwrap(), "/livez").0
    });
    let _daemon = Daemon::start(command, home.socket());
    assert_eq!(first.join().unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn hostile_clients_delay_no_heartbeat_and_keep_no_other_client_out() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let port = Port::free().unwrap();
    let home = home(&port);
    let daemon = home.start(&["1", "--simulate"]);
    let mut client = daemon.subscribe();
    let stalls = StallMeter::start(daemon.pid());
    let (files, threads) = (daemon.resource("files"), daemon.resource("Threads"));

    let mut crowd: Vec<TcpStream> = (0..1000).map(|_| connect(&port)).collect();
    for (n, stream) in crowd.iter_mut().enumerate() {
        // Silent, half a request, one without an end; some are closed already, for those that came later.
        let _ = match n % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:"),
            _ => stream
                .write_all(b"GET / HTTP/1.1\r\nX-Long: ")
                .and_then(|()| stream.write_all(&[b'x'; 1 << 20])),
        };
    }
    assert_eq!(ask(connect(&port), "/livez").0, "HTTP/1.1 200 OK");
    assert!(daemon.resource("files") <= files + 65, "{files} {}", daemon.resource("files"));
    // Threads that carry out requests may have ended.
    assert!(daemon.resource("Threads") <= threads);
    // A thousand scrapes, and clients that do not read their answer.
    let unread: Vec<TcpStream> = (0..20).map(|_| connect(&port)).collect();
    unread.iter().for_each(|mut stream| stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap());
    for _ in 0..1000 {
        assert_eq!(ask(connect(&port), "/metrics").0, "HTTP/1.1 200 OK");
    }
    // All connections end by themselves.
    for mut stream in crowd {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    eventually("all are closed", || daemon.resource("files") <= files + 1);
    client.listen(Duration::from_secs(2));
    stalls.longest_gap(&client.sent("heartbeat"), 2.0);
    let text = home.client(&["metrics"]).stdout;
    assert!(value(&text, "ocps_heartbeat_lateness_seconds_count").unwrap() > 2.0, "{text}");
    drop(unread);
}
