//! The Confluent schema registry: over HTTP, with every wait bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use serde_json::{Value as Json, json};
use ureq::Agent;
use ureq::config::Config;

use super::wire::{Topic, Writer, one_line, parse_schema};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes; a schema of ours has about 1 KiB.
const ANSWER_MAX: u64 = 1 << 20;
/// How long an id that the registry could not tell is not asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Most schemas that are kept; more than all versions of all our topics.
const CACHE_MAX: usize = 1000;
/// What the registry wants to be spoken to in.
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// The registry, and what it has told.
#[derive(Clone)]
pub struct Registry {
    agent: Agent,
    url: String,
    /// Without user name and password.
    shown: String,
    authorization: Option<String>,
    by_id: BTreeMap<u32, Result<Arc<Schema>, (Instant, String)>>,
}

/// An answer: its status and what is in it.
struct Answer {
    status: u16,
    body: Json,
}

impl Registry {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self::with_agent(url, Config::new_agent)
    }

    /// A registry that is asked by an agent which is made from our configuration of it; [`Registry::new`]
    /// takes the plain one, and whoever has another way than a network (a test, say) his own.
    pub fn with_agent(url: &str, agent: impl FnOnce(&Config) -> Agent) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            // None is followed: ureq 3.5 panics at one whose chunked body breaks off at its end.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("ocps/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(TIMEOUT));
        #[cfg(feature = "tls")]
        let config = config.tls_config(
            ureq::tls::TlsConfig::builder()
                .provider(ureq::tls::TlsProvider::Rustls)
                .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                .build(),
        );
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let shown = format!("{scheme}://{host}");
        Self {
            agent: agent(&config.build()),
            url: shown.clone(),
            shown,
            authorization: user.map(|user| format!("Basic {}", base64(user.as_bytes()))),
            by_id: BTreeMap::new(),
        }
    }

    /// A schema to write a topic with: the registry's, if all that we write fits into it, else ours.
    ///
    /// # Errors
    /// One line: it cannot be asked, or takes no schema of ours.
    pub fn writer(&mut self, topic: Topic, subject: &str) -> Result<Writer, String> {
        let mut unfit = None;
        if let Some((id, text)) = self.latest(subject)? {
            match Writer::new(topic, id, &text) {
                Ok(writer) => {
                    self.remember(id, &text);
                    return Ok(writer);
                }
                Err(reason) => {
                    unfit = Some(format!("the registry's schema {id} of {subject} does not fit: {reason}"))
                }
            }
        }
        let text = topic.schema_text();
        let id = self.register(subject, &text).map_err(|reason| match &unfit {
            Some(unfit) => format!("{unfit}; and ours is not taken: {reason}"),
            None => reason,
        })?;
        if let Some(unfit) = unfit {
            log::warn!("{unfit}; ours is registered beside it as {id}");
        }
        self.remember(id, &text);
        Writer::new(topic, id, &text)
    }

    /// Sees to it that a topic that we only read has a schema, and keeps it.
    ///
    /// # Errors
    /// One line: it cannot be asked, or takes no schema of ours.
    pub fn reader(&mut self, topic: Topic, subject: &str) -> Result<(), String> {
        let (id, text) = match self.latest(subject)? {
            Some(found) => found,
            None => {
                let text = topic.schema_text();
                (self.register(subject, &text)?, text)
            }
        };
        self.remember(id, &text);
        Ok(())
    }

    /// The schema of an id; an answer is kept, a failure for a while.
    pub(super) fn schema(&mut self, id: u32) -> Result<Arc<Schema>, String> {
        match self.by_id.get(&id) {
            Some(Ok(schema)) => return Ok(schema.clone()),
            Some(Err((since, reason))) if since.elapsed() < ASK_AGAIN => return Err(reason.clone()),
            Some(Err(_)) | None => {}
        }
        let found = self.ask_id(id);
        if self.by_id.len() >= CACHE_MAX {
            // Only hostile messages lead here; what is in use comes again at once.
            self.by_id.clear();
        }
        self.by_id.insert(id, found.clone().map_err(|reason| (Instant::now(), reason)));
        found
    }

    fn ask_id(&self, id: u32) -> Result<Arc<Schema>, String> {
        let answer = self.ask(&format!("/schemas/ids/{id}"), None)?;
        let text = answer.body.get("schema").and_then(Json::as_str);
        let text = text.ok_or_else(|| format!("schema {id} is not known to {}", self.told(&answer)))?;
        parse_schema(text).map(Arc::new).map_err(|reason| format!("schema {id}: {reason}"))
    }

    fn remember(&mut self, id: u32, text: &str) {
        if let Ok(schema) = parse_schema(text) {
            self.by_id.insert(id, Ok(Arc::new(schema)));
        }
    }

    /// Id and text of the latest version; none if the subject is not known.
    fn latest(&self, subject: &str) -> Result<Option<(u32, String)>, String> {
        let answer = self.ask(&format!("/subjects/{subject}/versions/latest"), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let id = answer.body.get("id").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
        match (id, answer.body.get("schema").and_then(Json::as_str)) {
            (Some(id), Some(text)) if answer.status == 200 => Ok(Some((id, text.to_owned()))),
            _ => Err(format!("no schema for {subject} from {}", self.told(&answer))),
        }
    }

    fn register(&self, subject: &str, text: &str) -> Result<u32, String> {
        let body = json!({ "schema": text });
        let answer = self.ask(&format!("/subjects/{subject}/versions"), Some(&body))?;
        let id = answer.body.get("id").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
        id.filter(|_| answer.status == 200)
            .ok_or_else(|| format!("the schema of {subject} was refused by {}", self.told(&answer)))
    }

    fn ask(&self, path: &str, body: Option<&Json>) -> Result<Answer, String> {
        let url = format!("{}{path}", self.url);
        let authorization = self.authorization.as_deref();
        let sent = match body {
            None => {
                let request = self.agent.get(&url).header("Accept", CONTENT_TYPE);
                match authorization {
                    Some(secret) => request.header("Authorization", secret).call(),
                    None => request.call(),
                }
            }
            Some(body) => {
                let request = self.agent.post(&url).header("Accept", CONTENT_TYPE).content_type(CONTENT_TYPE);
                match authorization {
                    Some(secret) => request.header("Authorization", secret).send(body.to_string()),
                    None => request.send(body.to_string()),
                }
            }
        };
        let failed = |error: ureq::Error| {
            let error = one_line(&error.to_string());
            format!("the schema registry {} cannot be asked: {error}", self.shown)
        };
        let response = sent.map_err(failed)?;
        let status = response.status().as_u16();
        if response.status().is_redirection() {
            return Err(format!(
                "the schema registry {} redirects elsewhere ({status}); give the URL where it is",
                self.shown
            ));
        }
        let text = response.into_body().with_config().limit(ANSWER_MAX).lossy_utf8(true).read_to_string();
        // What is no JSON has no fields, and is an error where fields are needed.
        let body = serde_json::from_str(&text.map_err(failed)?).unwrap_or_default();
        Ok(Answer { status, body })
    }

    /// The registry and what it said, for errors.
    fn told(&self, answer: &Answer) -> String {
        let message = answer.body.get("message").and_then(Json::as_str).unwrap_or_default();
        format!("the schema registry {} ({} {})", self.shown, answer.status, one_line(message))
    }
}

/// Base64 with padding (RFC 4648), for HTTP's basic authentication.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |position: usize| u32::from(chunk.get(position).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (position, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = usize::try_from(bits >> shift & 63).ok().and_then(|six| ALPHABET.get(six));
            let letter = letter.filter(|_| position <= chunk.len());
            text.push(letter.map_or('=', |letter| char::from(*letter)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in vectors {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]).unwrap();
            // The last line of the body is missing.
            let moved = "HTTP/1.1 302 Found\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
            connection.write_all(moved.as_bytes()).unwrap();
        });
        let error = Registry::new(&url).latest("x-value").unwrap_err();
        let expected =
            format!("the schema registry {url} redirects elsewhere (302); give the URL where it is");
        assert_eq!(error, expected);
        server.join().unwrap();
    }

    #[test]
    fn credentials_are_not_shown() {
        let registry = Registry::new("http://me:geheim@127.0.0.1:1");
        let error = registry.latest("x-value").unwrap_err();
        assert!(error.starts_with("the schema registry http://127.0.0.1:1 cannot be asked: "), "{error}");
        assert_eq!(registry.authorization.as_deref(), Some("Basic bWU6Z2VoZWlt"));
    }
}
