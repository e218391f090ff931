//! The HTTP server of the daemon, read only: `/` for people, `/metrics` and the probes `/livez`, `/readyz` and `/standbyz` for
//! machines.
//!
//! It runs on one thread, which asks the main loop for the same documents as a client of the local socket, each at most once
//! a second, and waits a limited time for them. So HTTP clients cannot slow down the main loop. `server` does the HTTP and
//! knows no documents; `page` is the page for people.

mod page;
mod server;

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value as Json;
use ureq::http::StatusCode;

use crate::config::settings::Listen;
use crate::transport::line::Query;
use crate::transport::socket::Document;
use server::Answer;

/// Time limit of an answer of the main loop, whose turns take milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer of the main loop, or its absence, is used again.
const FRESH: Duration = Duration::from_secs(1);
/// The answer for any other path.
const PATHS: &str = "there are /, /metrics, /livez, /readyz and /standbyz";

/// A query to the main loop, and the channel for its answer.
pub type Question = (Query, Sender<Document>);

/// Listens, and serves on a thread of its own until the process ends. Its queries come over the channel.
///
/// # Errors
/// The address cannot be listened on, or the system refuses a thread.
pub fn serve(listen: &Listen) -> io::Result<Receiver<Question>> {
    let listener = server::listen(listen)?;
    // If a query still waits when the next one comes, the main loop does not answer.
    let (questions, asked) = bounded(1);
    let mut pages = Pages { questions, known: BTreeMap::new() };
    let run = move || server::run(&listener, |path| pages.answer(path));
    thread::Builder::new().name("http".to_owned()).spawn(run)?;
    Ok(asked)
}

/// Answers the requests for each path.
struct Pages {
    questions: Sender<Question>,
    /// The last answer to each query, and when; none if the main loop did not answer in time.
    known: BTreeMap<Query, (Instant, Option<Json>)>,
}

impl Pages {
    fn answer(&mut self, path: &str) -> Answer {
        let query = match path {
            "/metrics" => Query::Metrics,
            "/" | "/livez" | "/readyz" | "/standbyz" => Query::Status,
            _ => return Answer::text(StatusCode::NOT_FOUND, PATHS.to_owned()),
        };
        let silent = || {
            let reason = format!("the main loop does not answer within {} s", PATIENCE.as_secs());
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, reason)
        };
        let Some(document) = self.ask(query) else { return silent() };
        if path == "/" {
            let status = document.clone();
            let jobs = self.ask(Query::Jobs).and_then(Json::as_array);
            let page = jobs.and_then(|jobs| page::page(&status, jobs).ok());
            let content_type = "text/html; charset=utf-8";
            return page.map_or_else(silent, |body| Answer { status: StatusCode::OK, content_type, body });
        }
        let stands_by = document.pointer("/kafka/stage").is_some_and(|stage| stage == "standing by");
        match (path, document.get("not_ready").and_then(Json::as_str)) {
            ("/metrics", _) => Answer {
                status: StatusCode::OK,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body: document.as_str().unwrap_or_default().to_owned(),
            },
            ("/livez", _) => Answer::text(StatusCode::OK, "the main loop answers".to_owned()),
            ("/standbyz", Some(_)) if stands_by => {
                Answer::text(StatusCode::OK, "it stands by for another instance".to_owned())
            }
            (_, Some(reason)) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, reason.to_owned()),
            (_, None) => Answer::text(StatusCode::OK, "commands are taken".to_owned()),
        }
    }

    /// The answer of the main loop to a query; it may be as old as [`FRESH`].
    fn ask(&mut self, query: Query) -> Option<&Json> {
        // A list of jobs may be long, and the page is not loaded more often.
        let fresh = if query == Query::Jobs { Duration::from_secs(page::REFRESH_S - 1) } else { FRESH };
        let is_fresh = self.known.get(&query).is_some_and(|(at, _)| at.elapsed() < fresh);
        if !is_fresh {
            let answer = self.ask_now(query.clone());
            self.known.insert(query.clone(), (Instant::now(), answer));
        }
        self.known.get(&query)?.1.as_ref()
    }

    fn ask_now(&self, query: Query) -> Option<Json> {
        let (sender, answers) = bounded(1);
        let name = query.name();
        self.questions.try_send((query, sender)).ok()?;
        let document = answers.recv_timeout(PATIENCE).ok()?;
        let mut json: Json = serde_json::from_str(&document()).ok()?;
        json.as_object_mut()?.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of what is at a path, and its text, when the main loop answers each query so.
    fn check(path: &str, answer: Option<&'static str>, expected: (u16, &str)) {
        let (questions, asked) = bounded::<Question>(1);
        let mut pages = Pages { questions, known: BTreeMap::new() };
        let main_loop = thread::spawn(move || {
            for (_, to) in asked {
                if let Some(answer) = answer {
                    to.send(Box::new(move || answer.to_owned())).unwrap();
                }
            }
        });
        let answer = pages.answer(path);
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), expected, "{path}");
        drop(pages);
        main_loop.join().unwrap();
    }

    #[test]
    fn probes_report_what_the_status_document_says() {
        let (ready, starting) =
            (r#"{"status":{"not_ready":null}}"#, r#"{"status":{"not_ready":"it starts"}}"#);
        check("/livez", Some(starting), (200, "the main loop answers\n"));
        check("/readyz", Some(starting), (503, "it starts\n"));
        check("/readyz", Some(ready), (200, "commands are taken\n"));
        let standing_by = r#"{"status":{"not_ready":"it starts","kafka":{"stage":"standing by"}}}"#;
        check("/readyz", Some(standing_by), (503, "it starts\n"));
        check("/standbyz", Some(standing_by), (200, "it stands by for another instance\n"));
        check("/standbyz", Some(starting), (503, "it starts\n"));
        check("/standbyz", Some(ready), (200, "commands are taken\n"));
        let silent = "the main loop does not answer within 2 s\n";
        for path in ["/", "/livez", "/readyz", "/standbyz", "/metrics"] {
            check(path, None, (503, silent));
        }
        check("/metrics", Some(r##"{"metrics":"# EOF\n"}"##), (200, "# EOF\n"));
        check("/x", None, (404, &format!("{PATHS}\n")));
    }
}
