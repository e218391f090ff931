//! What is logged of requests, and the ways to a service: a proxy, https.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::csc::request::Action;
use ocps::url::Url;

use crate::raw::{raw, read_some};
use crate::rig::{
    ID, check, client, four_actions, gateway, list, quick, settings, short, status_fault, submit,
};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_service::{Options, UwsService};

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
fn what_was_stored_without_credentials_is_asked_with_those_that_are_configured_for_its_host() {
    let authorization = Some("Basic amFuZTpzM2NyZXQ=".to_owned());
    let service = UwsService::start(Options { authorization, ..quick() });
    let configured = Url::from(&*service.url().replace("http://", "http://jane:s3cret@"));
    let stored = configured.without_credentials();
    let client = client();
    let reason = check(&client, &stored, &list(&["1-a"]), "NotSent NotAsked");
    assert!(reason.contains("no configuration was read"), "{reason}");
    client.configured(&"http://jane:s3cret@elsewhere/api/v1".into());
    check(&client, &stored, &list(&["1-a"]), "Wrong Answered");
    client.configured(&configured);
    check(&client, &stored, &list(&["1-a"]), "listed 0");
    // What was configured without is asked without.
    check(&client, &service.url(), &list(&["1-a"]), "Wrong Answered");
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
fn https_without_the_feature_is_refused() {
    let service = UwsService::start(quick());
    let url = service.url().replace("http://", "https://");
    for action in four_actions() {
        let reason = check(&client(), &url, &action, "NotSent Silent");
        assert!(reason.contains("built without https"), "{reason}");
    }
}

#[test]
fn the_error_of_a_redirect_names_the_url_to_configure() {
    let service = UwsService::start(quick());
    let labels = ["Refused Answered", "Wrong Answered", "Wrong Answered", "Wrong Answered"];
    for (action, label) in four_actions().iter().zip(labels) {
        for code in [301, 308] {
            // As an ingress answers that serves https only.
            let url = service.url();
            let is_of_all = matches!(action, Action::Submit(_) | Action::List(_));
            let path = if is_of_all { "/job".to_owned() } else { format!("/job/{ID}") };
            let location = format!("{}{path}", url.replace("http://", "https://"));
            let what =
                gateway(code, &[("Location", &location), ("Content-Type", "text/html")], "<html>Moved");
            service.inject(Fault { on: On::Any, times: 1, what });
            let reason = check(&client(), &url, action, label);
            let base = url.replace("http://", "https://");
            assert!(
                reason.ends_with(&format!("it redirects to {location}: write {base} as the url")),
                "{reason}"
            );
        }
    }
}

#[test]
fn a_compressed_answer_is_named() {
    let service = UwsService::start(quick());
    let labels = ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"];
    for (action, label) in four_actions().iter().zip(labels) {
        let headers = [("Content-Encoding", "gzip"), ("Content-Type", "application/json")];
        service.inject(Fault { on: On::Any, times: 1, what: gateway(200, &headers, "\u{1f}\u{8b}...") });
        let reason = check(&client(), &service.url(), action, label);
        assert!(reason.contains("is compressed (gzip), which was not asked for"), "{reason}");
    }
}

#[test]
fn a_retry_after_of_the_service_is_respected() {
    let service = UwsService::start(quick());
    let url = service.url();
    let asked = || {
        let counters = service.counters();
        counters.puts + counters.gets + counters.deletes + counters.lists
    };
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    let dated = [("Retry-After", &*later), ("Date", &*httpdate::fmt_http_date(SystemTime::now()))];
    for headers in [&[("Retry-After", "3600")][..], &[("Retry-After", &later)], &dated] {
        for (code, action) in [429, 503, 429, 503].into_iter().zip(four_actions()) {
            let client = client();
            service.inject(Fault { on: On::Any, times: 1, what: gateway(code, headers, "slow down") });
            check(&client, &url, &action, "NotNow Silent");
            let before = asked();
            for action in four_actions() {
                let (label, reason) = short(&client.perform(&Url::from(&*url), &action));
                assert_eq!(label, "NotSent NotAsked", "{reason}");
                let seconds = reason.rsplit(' ').nth(1).unwrap().parse::<f64>().unwrap();
                assert!(
                    reason.contains("said to ask again later (Retry-After)") && seconds <= 30.0,
                    "{reason}"
                );
            }
            assert_eq!(asked(), before);
            // Another service is another matter.
            check(&client, &url.replace("127.0.0.1", "localhost"), &list(&["1-a"]), "listed 0");
        }
    }
    let client = client();
    service.inject(Fault { on: On::Any, times: 1, what: gateway(429, &[("Retry-After", "1")], "") });
    check(&client, &url, &list(&["1-a"]), "NotNow Silent");
    while short(&client.perform(&Url::from(&*url), &list(&["1-a"]))).0 != "listed 0" {
        thread::sleep(Duration::from_millis(20));
    }
    // What cannot be read, and what is over, is no wait.
    for headers in
        [("Retry-After", "soon"), ("Retry-After", "-1"), ("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")]
    {
        service.inject(Fault { on: On::Any, times: 1, what: gateway(503, &[headers], "") });
        check(&client, &url, &list(&["1-a"]), "NotNow Silent");
        check(&client, &url, &list(&["1-a"]), "listed 0");
    }
}
