//! What the log tells of requests, and the ways to a service: a proxy, https.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::config::url::Url;

use crate::raw::{raw, read_some};
use crate::rig::{check, client, four_actions, list, quick, settings, short, status_fault, submit};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_service::UwsService;

/// Everything logged by the test process.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Debug {
            self.0.lock().unwrap().push(format!("{} {}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[test]
fn requests_are_logged_and_credentials_show_nowhere() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let service = UwsService::start(quick());
    let url = service.url().replace("http://", "http://jane:s3cret@");
    let client = client();
    check(&client, &url, &list(&["1-a"]), "listed 0");
    for what in [What::Close, status_fault(500, "text/html", "x"), What::NotJson] {
        for action in four_actions() {
            service.inject(Fault { on: On::Any, times: 1, what: what.clone() });
            let (_, reason) = short(&client.perform(&Url::from(&*url), &action));
            assert!(!reason.contains("s3cret") && !reason.contains("jane"), "{reason}");
        }
    }
    service.stop();
    let (_, reason) = short(&client.perform(&Url::from(&*url), &submit("1-a")));
    assert!(!reason.contains("s3cret") && !reason.contains("jane"), "{reason}");
    let log = LOG.0.lock().unwrap().join("\n");
    assert!(!log.contains("s3cret"), "{log}");
    let line = format!("ocps::backend::uws GET {}/job: 200 after ", url.replace("jane:s3cret@", ""));
    assert!(log.contains(&line), "{log}");
}

#[test]
fn a_proxy_is_used_only_where_it_is_set() {
    let service = UwsService::start(quick());
    let tunnels = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&tunnels);
    let proxy = raw(move |mut connection| {
        let request = read_some(&mut connection);
        let target = request.split_whitespace().nth(1).unwrap_or_default().to_owned();
        assert!(request.starts_with("CONNECT "), "{request}");
        seen.fetch_add(1, Ordering::SeqCst);
        let mut service = TcpStream::connect(target).unwrap();
        connection.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (mut from, mut to) = (connection.try_clone().unwrap(), service.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut service, &mut connection);
    });
    let with = |proxy: &str| {
        Uws::new(&settings::Uws { proxy: Some(proxy.into()), ..settings(Duration::from_secs(5)) })
    };
    check(&with(&proxy).unwrap(), &service.url(), &list(&["1-a"]), "listed 0");
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);

    let refusing = raw(|mut connection| {
        read_some(&mut connection);
        let _ =
            connection.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    });
    for action in four_actions() {
        check(&with(&refusing).unwrap(), &service.url(), &action, "NotSent Silent");
    }
    for bad in ["", "socks5://x", "http://", "ftp://x", "http://jane:s3cret@", "jane:s3cret@a b"] {
        let Err(reason) = with(bad) else { panic!("{bad} is no proxy") };
        assert!(reason.starts_with("uws.proxy: ") && !reason.contains("s3cret"), "{reason}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn https_without_the_feature_says_so() {
    let service = UwsService::start(quick());
    let url = service.url().replace("http://", "https://");
    for action in four_actions() {
        let reason = check(&client(), &url, &action, "NotSent Silent");
        assert!(reason.contains("built without https"), "{reason}");
    }
}
