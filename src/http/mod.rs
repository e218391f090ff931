//! What the daemon shows over HTTP: `/` for people, `/metrics` and the probes `/livez`, `/readyz` and `/standbyz` for
//! machines. Read only.
//!
//! One thread, which asks the main loop for the same documents as a client of the local socket does, at most once a
//! second each, and waits for an answer for a bounded time. So nothing that is done to it over HTTP reaches the main
//! loop. `server` is the HTTP, which knows no documents; `page` is the page for people.

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

/// How long the main loop may take for an answer. A turn takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long an answer, or that there was none, is given again.
const FRESH: Duration = Duration::from_secs(1);
/// What is said of any other path.
const PATHS: &str = "there are /, /metrics, /livez, /readyz and /standbyz";

/// A question to the main loop, and where the answer goes.
pub type Question = (Query, Sender<Document>);

/// Listens, and serves from a thread of its own until the process ends; its questions come over the channel.
///
/// # Errors
/// It cannot listen there.
pub fn serve(listen: &Listen) -> io::Result<Receiver<Question>> {
    let listener = server::listen(listen)?;
    // Another question before the answer to the last means that there is none.
    let (questions, asked) = bounded(1);
    let mut pages = Pages { questions, known: BTreeMap::new() };
    let run = move || server::run(&listener, |path| pages.answer(path));
    thread::Builder::new().name("http".to_owned()).spawn(run)?;
    Ok(asked)
}

/// What is at each path.
struct Pages {
    questions: Sender<Question>,
    /// The last answers; none where the main loop gave none in time.
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

    /// The main loop's answer, as old as it may be.
    fn ask(&mut self, query: Query) -> Option<&Json> {
        // A list of jobs may be long; who looks at the page loads it no more often.
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
