//! Against servers that no HTTP library would make: connections, and answers that are none.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::lease::Lease;
use ocps::url::Url;
use serde_json::json;

use crate::rig::{ID, check, client, four_actions, list, quick, remove, settings, short, status, submit};
use crate::support::http;
use crate::support::http::{Server, Then};
use crate::support::uws_fault::{Fault, On, What};
use crate::support::uws_service::UwsService;

/// A server that treats each connection as it likes.
pub(crate) fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(connection));
        }
    });
    format!("http://{address}")
}

pub(crate) fn is_whole(request: &str) -> bool {
    request.contains("\r\n\r\n") && (!request.starts_with("PUT") || request.ends_with('}'))
}

/// Reads a request as far as its body can be known to go: all in one piece here.
pub(crate) fn read_some(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let n = connection.read(&mut buffer).unwrap_or(0);
        text.extend_from_slice(&buffer[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if n == 0 || is_whole(&whole) {
            return whole;
        }
    }
}

pub(crate) fn answer_text(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn what_changes_something_is_not_sent_while_the_lease_is_not_valid() {
    let (sender, requests) = mpsc::channel();
    let url = raw(move |mut connection| drop(sender.send(read_some(&mut connection))));
    let client = Uws::leased(&settings(Duration::from_secs(60)), Lease::unconfirmed()).unwrap();
    for action in [submit("1-a"), remove(ID)] {
        let (label, reason) = short(&client.perform(&url.as_str().into(), &action));
        assert_eq!(label, "NotSent NotAsked", "{reason}");
        assert!(reason.contains("no other instance has taken over"), "{reason}");
        // It has only connected.
        assert_eq!(requests.recv().unwrap(), "");
    }
    let (label, _) = short(&client.perform(&url.as_str().into(), &status(ID, None)));
    assert_ne!(label, "NotSent NotAsked");
    assert!(requests.recv().unwrap().starts_with("GET"));
}

#[test]
fn where_nothing_listens_nothing_was_sent() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let client = client();
    for url in [
        format!("http://{closed}/api"),
        "http://no-such-host.invalid/api".to_owned(),
        "nonsense".to_owned(),
        String::new(),
        "http://".to_owned(),
        "http://a b/".to_owned(),
        "http://[::1/x".to_owned(),
        "http://127.0.0.1:99999".to_owned(),
        "http://127.0.0.1:0".to_owned(),
        "http://:80/".to_owned(),
        "http://%zz/".to_owned(),
        "http://é/".to_owned(),
        "http://[fe80::1%25x]:1/".to_owned(),
        format!("http://{}/", "x".repeat(70_000)),
        "/api/v1".to_owned(),
        "https://:x@:/".to_owned(),
    ] {
        for action in four_actions() {
            let reason = check(&client, &url, &action, "NotSent Silent");
            assert!(reason.starts_with("cannot reach "), "{reason}");
        }
    }
    // Another scheme: the library finds no port for it.
    for action in four_actions() {
        let (label, reason) = short(&client.perform(&"ftp://127.0.0.1/x".into(), &action));
        assert_eq!(label, "NotSent Silent", "{reason}");
    }
}

/// A listener that takes no more connections, so that the system lets the next ones wait.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 1000, "the system takes any number of connections");
    }
    (listener, waiting)
}

#[test]
fn a_connection_that_does_not_come_about_in_time_sends_nothing() {
    let (listener, waiting) = full_listener();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = Uws::new(&settings(Duration::from_millis(300))).unwrap();
    check(&client, &url, &submit("1-a"), "NotSent Silent");
    drop(waiting);
}

#[test]
fn answers_that_are_no_http_or_have_no_end() {
    let timeout = Duration::from_millis(300);
    let hasty = Uws::new(&settings(timeout)).unwrap();
    let patient = client();
    for (name, answer, drip, expected) in [
        ("nothing", String::new(), false, ["Unclear Silent"; 4]),
        (
            "garbage",
            "SSH-2.0-OpenSSH_9.7\r\n\r\n".to_owned(),
            false,
            ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"],
        ),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-".to_owned(), false, ["Unclear Silent"; 4]),
        (
            "a huge head",
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(100_000)),
            false,
            ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"],
        ),
        ("a slow head", "HTTP/1.1 200 OK\r\nX: ".to_owned(), true, ["Unclear Silent"; 4]),
        (
            "a slow body",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[".to_owned(),
            true,
            ["Unclear Silent"; 4],
        ),
        (
            "a cut body",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1,".to_owned(),
            false,
            ["Unclear Silent"; 4],
        ),
        (
            "a cut chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1".to_owned(),
            false,
            ["Unclear Silent"; 4],
        ),
        (
            "a cut body of unknown length",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1,".to_owned(),
            false,
            ["Unclear Answered", "Wrong Answered", "Unclear Answered", "Wrong Answered"],
        ),
    ] {
        let url = raw(move |mut connection| {
            read_some(&mut connection);
            let mut alive = connection.write_all(answer.as_bytes()).is_ok();
            while drip && alive {
                thread::sleep(Duration::from_millis(20));
                alive = connection.write_all(b" ").is_ok();
            }
        });
        for (action, expected) in four_actions().iter().zip(expected) {
            // Only what has no end is given up.
            let client = if drip { &hasty } else { &patient };
            let started = Instant::now();
            let (label, reason) = short(&client.perform(&Url::from(&*url), action));
            assert_eq!(label, expected, "{name}: {action:?}: {reason}");
            assert!(started.elapsed() < timeout + Duration::from_secs(10), "{name}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn an_endless_answer_ends() {
    let service = UwsService::start(quick());
    let (patient, hasty) = (client(), Uws::new(&settings(Duration::from_millis(500))).unwrap());
    for (action, expected) in four_actions().iter().zip(["Unclear", "Wrong", "Unclear", ""]) {
        service.inject(Fault { on: On::Any, times: 1, what: What::EndlessBody });
        // A list may be so long that it is given up first.
        let client = if expected.is_empty() { &hasty } else { &patient };
        let started = Instant::now();
        let answer = client.perform(&Url::from(&*service.url()), action);
        assert!(format!("{answer:?}").contains(expected), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "{action:?} {:?}", started.elapsed());
    }
}

#[test]
fn a_kept_connection_that_the_service_closes_is_replaced_before_anything_is_sent() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let (sender, closed) = mpsc::channel();
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        seen.fetch_add(1, Ordering::SeqCst);
        connection.write_all(answer_text("[]").as_bytes()).unwrap();
        drop(connection);
        sender.send(()).unwrap();
    });
    let client = client();
    for _ in 0..5 {
        check(&client, &url, &list(&["1-a"]), "listed 0");
        closed.recv().unwrap();
    }
    assert_eq!(requests.load(Ordering::SeqCst), 5);
}

#[test]
fn a_put_into_a_connection_that_closes_is_not_sent_again() {
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&puts);
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        connection.write_all(answer_text("[]").as_bytes()).unwrap();
        if read_some(&mut connection).starts_with("PUT") {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let client = client();
    check(&client, &url, &list(&["1-a"]), "listed 0");
    check(&client, &url, &submit("1-a"), "Unclear Silent");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(puts.load(Ordering::SeqCst), 1);
}

#[test]
fn connections_are_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let url = raw(move |mut connection| {
        seen.fetch_add(1, Ordering::SeqCst);
        while !read_some(&mut connection).is_empty() {
            connection.write_all(answer_text("[]").as_bytes()).unwrap();
        }
    });
    let different =
        settings::Uws { put_timeout: Duration::from_secs(7), ..settings(Duration::from_secs(10)) };
    let client = Uws::new(&different).unwrap();
    for _ in 0..3 {
        client.perform(&Url::from(&*url), &submit("1-a"));
        client.perform(&Url::from(&*url), &list(&["1-a"]));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn redirects_are_not_followed() {
    let service = UwsService::start(quick());
    for code in [301, 302, 303, 307, 308] {
        let location = format!("{}/job", service.url());
        let server = Server::start(0, move |_, connection| {
            http::answer(connection, code, &[("Location", &location)], b"elsewhere")?;
            Ok(Then::KeepAlive)
        })
        .unwrap();
        let url = format!("http://{}", server.address());
        for (action, kind) in four_actions().iter().zip(["Refused", "Wrong", "Wrong", "Wrong"]) {
            let reason = check(&client(), &url, action, &format!("{kind} Answered"));
            assert!(reason.contains(&code.to_string()), "{reason}");
        }
    }
    assert_eq!(service.counters(), Default::default());
}

#[test]
fn a_large_list_is_read_and_only_our_jobs_are_kept() {
    let foreign = json!({"jobId": ID, "runId": "9-z", "phase": "completed", "results": [{"id": 0, "uri": "x".repeat(2000)}]});
    let ours = json!({"results": [], "runId": "1-a", "jobId": ID});
    let mut text = vec![foreign.to_string(); 10_000];
    text.insert(7000, ours.to_string());
    let body = format!("[{}]", text.join(",\n"));
    assert!(body.len() > 20_000_000);
    let server = Server::start(0, move |_, connection| {
        http::answer(connection, 200, &[], body.as_bytes())?;
        Ok(Then::KeepAlive)
    })
    .unwrap();
    check(&client(), &format!("http://{}", server.address()), &list(&["1-a"]), "listed 1");
}

/// Pieces of answers, some of them wrong, from which a seeded generator makes more.
const PIECES: [&str; 40] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 103 Hints\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 302 Found\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 404 Not Found\r\n",
    "HTTP/1.1 500 Error\r\n",
    "HTTP/1.1 999 \r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/2 200\r\n",
    "HTTP/1.1 0 x\r\n",
    "HTTP/1.1\r\n",
    "Content-Length: 2\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Content-Length: x\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Type: application/json\r\n",
    "Content-Type: \u{ff}\u{1}\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Location: http://127.0.0.1:1/\r\n",
    "Location: \r\n",
    "Location: ::://\r\n",
    ": x\r\n",
    "x\r\n",
    "\r\n",
    "\n",
    "2\r\n{}\r\n0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "-1\r\n",
    "{}",
    "[]",
    "\"\"",
];

#[test]
fn no_answer_makes_the_client_panic() {
    let next: Arc<Mutex<String>> = Arc::default();
    let answer = Arc::clone(&next);
    let url = raw(move |mut connection| {
        read_some(&mut connection);
        let text = answer.lock().unwrap().clone();
        let _ = connection.write_all(text.as_bytes());
    });
    let client = Uws::new(&settings(Duration::from_secs(2))).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..150 {
        let mut text = rng.choice(&PIECES[..14]).unwrap().to_string();
        for _ in 0..rng.usize(..6) {
            text.push_str(rng.choice(&PIECES).unwrap());
        }
        text.push_str("\r\n");
        text.push_str(PIECES[34 + rng.usize(..6)]);
        *next.lock().unwrap() = text.clone();
        for action in four_actions() {
            let (label, reason) = short(&client.perform(&Url::from(&*url), &action));
            assert!(!label.starts_with("NotSent") && !label.starts_with("job"), "{text:?}: {label} {reason}");
        }
    }
}

#[test]
fn a_request_whose_connection_is_reset_may_have_been_carried_out() {
    let url = raw(|mut connection| {
        read_some(&mut connection);
        rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
    });
    for action in four_actions() {
        let reason = check(&client(), &url, &action, "Unclear Silent");
        assert!(reason.starts_with("no answer from "), "{reason}");
    }
}

#[test]
fn nothing_is_sent_to_a_server_without_tls() {
    let url = raw(|mut connection| {
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = connection.read_to_end(&mut Vec::new());
    });
    for action in four_actions() {
        check(&client(), &url.replace("http", "https"), &action, "NotSent Silent");
    }
}

#[test]
fn nothing_is_sent_where_the_proxy_makes_no_connection() {
    for answer in ["HTTP/1.1 403 Forbidden\r\n\r\n", "nonsense", ""] {
        let proxy = raw(move |mut connection| {
            read_some(&mut connection);
            let _ = connection.write_all(answer.as_bytes());
        });
        let with = settings::Uws { proxy: Some(proxy.as_str().into()), ..settings(Duration::from_secs(5)) };
        let client = Uws::new(&with).unwrap();
        for action in four_actions() {
            check(&client, "http://127.0.0.1:9/api", &action, "NotSent Silent");
        }
    }
}
