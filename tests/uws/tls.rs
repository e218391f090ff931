//! Https, with openssl's server; in a process of its own, since the trusted certificates are an environment variable.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ocps::backend::Backend;
use ocps::url::Url;

use crate::raw::{answer_text, is_whole};
use crate::rig::{client, four_actions, short};
use crate::support::port::Port;
use crate::support::skip::skip;

const CERTIFICATE: &str = "\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = uws
[extensions]
basicConstraints = critical,CA:FALSE
subjectAltName = IP:127.0.0.1
";

/// Kills openssl at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_certificate(directory: &Path) -> bool {
    std::fs::write(directory.join("conf"), CERTIFICATE).unwrap();
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args("-config conf -keyout key.pem -out cert.pem".split(' '))
        .current_dir(directory)
        .output();
    made.is_ok_and(|output| output.status.success())
}

/// Answers each request that comes through openssl.
fn answer_all(mut from: ChildStdout, mut to: ChildStdin) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        if is_whole(&text) {
            text.clear();
            to.write_all(answer_text("[]").as_bytes()).unwrap();
            to.flush().unwrap();
        }
    }
}

#[test]
fn https_trusts_what_the_system_trusts() {
    if let Ok(url) = std::env::var("OCPS_TEST_TLS") {
        for _ in 0..2 {
            for action in four_actions() {
                let (label, reason) = short(&client().perform(&Url::from(&*url), &action));
                println!("{label} {reason}");
            }
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    if !make_certificate(directory.path()) {
        return skip("openssl is not there, or cannot make a certificate");
    }
    let kept = Port::free().unwrap();
    let port = kept.number;
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (from, to) = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
    let _running = Running(server);
    thread::spawn(move || answer_all(from, to));
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < deadline, "openssl does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    for trusted in [false, true] {
        let mut same = Command::new(std::env::current_exe().unwrap());
        same.args(["--exact", "tls::https_trusts_what_the_system_trusts", "--nocapture"]);
        same.env("OCPS_TEST_TLS", format!("https://127.0.0.1:{port}"));
        if trusted {
            same.env("SSL_CERT_FILE", directory.path().join("cert.pem"));
        }
        let output = String::from_utf8(same.output().unwrap().stdout).unwrap();
        println!("{output}");
        let listed = output.lines().filter(|l| l.starts_with("listed 0")).count();
        let refused = output.lines().filter(|l| l.starts_with("NotSent Silent cannot reach https")).count();
        assert!(!output.contains("no answer"), "{output}");
        assert_eq!((listed, refused), if trusted { (2, 0) } else { (0, 8) }, "{output}");
    }
}
