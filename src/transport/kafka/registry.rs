//! Questions to the Confluent schema registry, over HTTP; every wait is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use ureq::config::Config;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE as CONTENT_TYPE_HEADER, LOCATION};
use ureq::http::{Method, Request};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, AsSendBody};

use crate::resolver::{Lookup, http_config};
use crate::text::quote;
use crate::url::Url;

use super::lock;
use super::wire::{Topic, Writer, parse_schema};

/// Longest wait for an answer; a registry under load is slow.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes; a schema of ours has about 1 KiB.
const ANSWER_MAX: u64 = 1 << 20;
/// Time until an id whose schema was of no use is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Most schemas that are kept: more than all versions of all our topics.
const CACHE_MAX: usize = 1000;
/// The media type of questions and answers.
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// The registry, and its answers so far. Threads may share it: no lock is held while the registry is asked.
pub struct Registry {
    agent: Agent,
    urls: Vec<Url>,
    /// The index of the URL that answered last.
    current: AtomicUsize,
    known: Mutex<BTreeMap<u32, Known>>,
    /// An id has got another meaning, and the other ids were not checked since.
    pub(super) is_renewed: AtomicBool,
}

/// The schema of an id, or why there is none.
#[derive(Clone)]
struct Known {
    meaning: Result<Arc<Schema>, String>,
    /// When the id is asked for again, if this meaning is of no use.
    again: Instant,
}

/// Why there is no schema for a topic, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The registry cannot be asked, or its answer makes no sense; the next answer may.
    #[error("{0}")]
    NoAnswer(String),
    /// The registry forbids it, or accepts no schema that we can write with, until someone changes that.
    #[error("{0}")]
    Refused(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::NoAnswer(reason)
    }
}

/// An answer. One that is not the expected JSON has no fields, and is an error where fields are needed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// The URL of the registry.
    #[serde(skip)]
    from: String,
    #[serde(skip)]
    status: u16,
    id: Option<u32>,
    schema: Option<String>,
    message: String,
}

impl Answer {
    /// The registry and its message, for errors.
    fn describe(&self) -> String {
        format!("the schema registry {} ({} {})", self.from, self.status, quote(&self.message))
    }

    /// The failure that an unsuccessful answer means.
    fn failure(&self, what: &str) -> Failure {
        let reason = format!("{what} {}", self.describe());
        // Forbidden, incompatible, invalid: asking again changes nothing.
        let is_final = [403, 409, 422].contains(&self.status);
        if is_final { Failure::Refused(reason) } else { Failure::NoAnswer(reason) }
    }
}

impl Registry {
    /// Connects to nothing yet.
    pub fn new(urls: &[Url]) -> Self {
        let over = DefaultConnector::default();
        Self::with_agent(urls, |config| Agent::with_parts(config.clone(), over, Lookup::default()))
    }

    /// As [`Registry::new`], with an agent that is made from our configuration; a test may replace the network.
    pub fn with_agent(urls: &[Url], agent: impl FnOnce(&Config) -> Agent) -> Self {
        let config = http_config(None).timeout_global(Some(TIMEOUT)).timeout_connect(Some(CONNECT_TIMEOUT));
        Self {
            agent: agent(&config.build()),
            urls: urls.to_vec(),
            current: AtomicUsize::new(0),
            known: Mutex::default(),
            is_renewed: AtomicBool::new(false),
        }
    }

    /// A schema to write a topic with: the registry's latest, if all our fields fit into it, else ours, which is registered.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn writer(&self, topic: Topic, subject: &str) -> Result<Writer, Failure> {
        let unfit = match self.latest(subject)? {
            None => None,
            Some((id, text)) => match Writer::new(topic, id, &text) {
                Ok(writer) => return Ok(writer),
                Err(reason) => {
                    Some(format!("the registry's schema {id} of {subject} does not fit: {reason}"))
                }
            },
        };
        let text = topic.schema_text();
        let id = self.register(subject, &text).map_err(|failure| match (&unfit, failure) {
            (Some(unfit), Failure::Refused(reason)) => {
                let cure = "delete that version, or let the subject take ours (compatibility NONE)";
                Failure::Refused(format!("{unfit}; and ours is refused: {reason}; {cure}"))
            }
            (_, failure) => failure,
        })?;
        if let Some(unfit) = unfit {
            log::warn!("Kafka: {unfit}; ours is registered beside it as {id}");
        }
        Ok(Writer::new(topic, id, &text)?)
    }

    /// Checks that the registry's schema of a topic fits; none if it has none. Registers nothing.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) fn fits(&self, topic: Topic, subject: &str) -> Result<Option<()>, Failure> {
        let Some((id, text)) = self.latest(subject)? else { return Ok(None) };
        // The schemas of commands are the senders'; a command is decoded with the schema of its sender.
        if super::topics::is_command(topic) {
            return Ok(Some(()));
        }
        let fits = Writer::new(topic, id, &text).map(|_| Some(()));
        fits.map_err(|reason| Failure::Refused(format!("schema {id} of {subject} does not fit: {reason}")))
    }

    /// Registers our schema for a topic that we only read, if the topic has none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn reader(&self, topic: Topic, subject: &str) -> Result<(), Failure> {
        if self.latest(subject)?.is_none() {
            self.register(subject, &topic.schema_text())?;
        }
        Ok(())
    }

    /// The schema with this id, for a message of a topic; never `unfit`, which did not fit the message. Useful answers are
    /// kept, others for a while.
    ///
    /// A registry that lost its data gives its ids again: an id that means a schema of another topic is asked for again.
    pub(super) fn schema(
        &self,
        topic: Topic,
        id: u32,
        unfit: Option<&Schema>,
    ) -> Result<Arc<Schema>, String> {
        let useful = |meaning: Result<Arc<Schema>, String>| match meaning {
            Ok(schema) if !topic.owns(&schema) => {
                Err(format!("schema {id} is not one of {}", topic.sal_name()))
            }
            Ok(schema) if Some(&*schema) == unfit => Err(format!("schema {id} is still the same")),
            meaning => meaning,
        };
        let mut before = None;
        if let Some(known) = lock(&self.known).get(&id).cloned() {
            before = known.meaning.clone().ok();
            let found = useful(known.meaning);
            if found.is_ok() || Instant::now() < known.again {
                return found;
            }
        }
        let meaning = self.ask_id(id);
        let found = useful(meaning.clone());
        let mut known = lock(&self.known);
        let is_renewed = before.is_some() && meaning.as_ref().is_ok_and(|now| Some(now) != before.as_ref());
        self.is_renewed.fetch_or(is_renewed, Ordering::AcqRel);
        // The other ids may have another meaning then, too; and only hostile messages lead to so many ids.
        if is_renewed || known.len() >= CACHE_MAX {
            known.clear();
        }
        let again = Instant::now() + if found.is_ok() { Duration::ZERO } else { ASK_AGAIN };
        // Where the registry does not answer, the earlier meaning stays.
        let meaning = meaning.or_else(|reason| before.ok_or(reason));
        known.insert(id, Known { meaning, again });
        found
    }

    /// Forgets the meaning of all ids.
    pub(super) fn forget(&self) {
        lock(&self.known).clear();
    }

    /// The text of a schema; none if the registry does not know this id.
    pub(super) fn text(&self, id: u32) -> Result<Option<String>, String> {
        let answer = self.ask(&format!("/schemas/ids/{id}"), None)?;
        match &answer.schema {
            _ if answer.status == 404 => Ok(None),
            None => Err(format!("no schema {id} from {}", answer.describe())),
            Some(text) => Ok(Some(text.clone())),
        }
    }

    fn ask_id(&self, id: u32) -> Result<Arc<Schema>, String> {
        let text =
            self.text(id)?.ok_or_else(|| format!("schema {id} is not known to the schema registry"))?;
        parse_schema(&text).map(Arc::new).map_err(|reason| format!("schema {id}: {reason}"))
    }

    fn remember(&self, id: u32, text: &str) {
        if let Ok(schema) = parse_schema(text) {
            let known = Known { meaning: Ok(Arc::new(schema)), again: Instant::now() };
            lock(&self.known).insert(id, known);
        }
    }

    /// Id and text of the latest version; none if the subject is not known.
    fn latest(&self, subject: &str) -> Result<Option<(u32, String)>, Failure> {
        let answer = self.ask(&format!("/subjects/{subject}/versions/latest"), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        match (answer.id, &answer.schema) {
            (Some(id), Some(text)) if answer.status == 200 => {
                self.remember(id, text);
                Ok(Some((id, text.clone())))
            }
            _ => Err(answer.failure(&format!("no schema for {subject} from"))),
        }
    }

    fn register(&self, subject: &str, text: &str) -> Result<u32, Failure> {
        let body = json!({ "schema": text });
        let answer = self.ask(&format!("/subjects/{subject}/versions"), Some(&body))?;
        let id = answer.id.filter(|_| answer.status == 200);
        let id = id.ok_or_else(|| answer.failure(&format!("the schema of {subject} was refused by")))?;
        self.remember(id, text);
        Ok(id)
    }

    /// Asks at the URL that answered last; where that fails, at the others in their order.
    fn ask(&self, path: &str, body: Option<&Json>) -> Result<Answer, String> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failed: Vec<String> = Vec::new();
        for (at, url) in self.urls.iter().enumerate().cycle().skip(first).take(self.urls.len()) {
            match self.ask_at(url, path, body) {
                // This one is broken or overloaded.
                Ok(answer) if self.urls.len() > 1 && (answer.status >= 500 || answer.status == 429) => {
                    failed.push(format!("no answer from {}", answer.describe()));
                }
                Ok(answer) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(reason) => failed.push(reason),
            }
        }
        Err(failed.join("; "))
    }

    fn ask_at(&self, base: &Url, path: &str, body: Option<&Json>) -> Result<Answer, String> {
        let url = format!("{}{path}", base.address());
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(&url).header(ACCEPT, CONTENT_TYPE);
        request = request.header(CONTENT_TYPE_HEADER, CONTENT_TYPE);
        if let Some(secret) = base.authorization() {
            request = request.header(AUTHORIZATION, secret);
        }
        let failed = |error: ureq::Error| {
            let error = quote(&error);
            format!("the schema registry {} cannot be asked: {error}", base)
        };
        let (mut text, mut none) = (body.map(Json::to_string), ());
        let body = text.as_mut().map_or_else(|| none.as_body(), AsSendBody::as_body);
        let request = request.body(body).map_err(ureq::Error::from);
        let response = request.and_then(|request| self.agent.run(request)).map_err(failed)?;
        let status = response.status().as_u16();
        if response.status().is_redirection() {
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let where_to = base.redirection(path, location.unwrap_or_default());
            return Err(format!("the schema registry {base} answered {status}: {where_to}"));
        }
        let text = response.into_body().with_config().limit(ANSWER_MAX).lossy_utf8(true).read_to_string();
        let answer = serde_json::from_str(&text.map_err(failed)?).unwrap_or_default();
        Ok(Answer { from: base.to_string(), status, ..answer })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_redirect_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]).unwrap();
            // The last line of the body is missing.
            let moved = "HTTP/1.1 302 Found\r\nLocation: /v2/subjects/x-value/versions/latest\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
            connection.write_all(moved.as_bytes()).unwrap();
        });
        let failure = Registry::new(&[Url::from(&*url)]).latest("x-value").unwrap_err();
        let error = failure.to_string();
        let expected = format!(
            "the schema registry {url} answered 302: it redirects to {url}/v2/subjects/x-value/versions/latest: write \
             {url}/v2 as the url"
        );
        assert_eq!(error, expected);
        server.join().unwrap();
    }

    #[test]
    fn credentials_are_sent_decoded_and_not_shown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let registry = Registry::new(&[format!("http://me:p%40ss%2F@{address}").as_str().into()]);
        let error = registry.latest("x-value").unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with(&format!("the schema registry http://{address} cannot be asked: ")),
            "{error}"
        );
        let request = server.join().unwrap();
        assert!(request.contains("authorization: Basic bWU6cEBzcy8=\r\n"), "{request}");
    }
}
