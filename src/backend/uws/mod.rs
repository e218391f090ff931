//! The UWS job service over HTTP (lsst-dm/uws-api-server): one blocking request per action.
//!
//! Invariants: a request is sent once, never repeated here (each PUT makes a new job); no request lasts
//! longer than its timeout; nothing that a service or a network does is more than a [`Failure`] that says
//! whether the request may have been carried out. Retries, look-ups and their timing are the core's.

mod answer;
mod failure;
mod list;
mod object;
mod payload;
mod text;

use std::io::{self, Read};
use std::time::{Duration, Instant};

use log::debug;
use ureq::config::{Config, IpFamily, RedirectAuthHeaders};
use ureq::http::Response;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ureq::{Agent, Body, Proxy, RequestBuilder, SendBody};

use crate::backend::Backend;
use crate::backend::workers::CONTROL_THREADS;
use crate::config::settings;
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{Action, Answer, Contact, Failure, FailureKind, Submission};

use answer::{End, Reply};
use failure::Attempt;
use list::Wanted;

/// Largest job object that is read, in bytes.
const OBJECT_LIMIT: usize = 16 * 1024 * 1024;

/// Largest list that is read, in bytes: it walks every job's output of the last day.
const LIST_LIMIT: u64 = 128 * 1024 * 1024;

/// Largest text of a refusal that is read, in bytes; 200 characters of it are shown.
const TEXT_LIMIT: usize = 64 * 1024;

/// Largest head of a reply, in bytes; the genuine one has some 500.
const HEAD_LIMIT: usize = 64 * 1024;

/// The service compares this header by equality: with a charset the PUT fails.
const JSON: &str = "application/json";

/// Client of the UWS job service; one value is shared by all workers.
pub struct Uws {
    agent: Agent,
    connect_timeout: Duration,
    put_timeout: Duration,
    get_timeout: Duration,
    delete_timeout: Duration,
}

impl Uws {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn new(settings: &settings::Uws) -> Result<Self, String> {
        Self::with_agent(settings, Config::new_agent)
    }

    /// Makes a client over an agent that is made from our configuration of it; [`Uws::new`] takes the
    /// plain one, and whoever has another way to the service than a network (a test, say) his own.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn with_agent(
        settings: &settings::Uws,
        agent: impl FnOnce(&Config) -> Agent,
    ) -> Result<Self, String> {
        let proxy = settings.proxy.as_deref().map(proxy).transpose()?;
        Ok(Self {
            agent: agent(&agent_config(settings, proxy)),
            connect_timeout: settings.connect_timeout,
            put_timeout: settings.put_timeout,
            get_timeout: settings.get_timeout,
            delete_timeout: settings.delete_timeout,
        })
    }

    fn submit(&self, base: &str, submission: &Submission) -> Answer {
        let body = match payload::body(submission) {
            Ok(body) => body,
            Err(e) => return Answer::Rejected { reason: format!("cannot write the job as JSON: {e}") },
        };
        let call = Call::new("PUT", format!("{base}/job"), self.put_timeout);
        let mut source = Source { rest: &body, begun: false };
        let request = self.timed(self.agent.put(&call.url), call.timeout);
        let request = request.header(CONTENT_TYPE, JSON).header(CONTENT_LENGTH, body.len());
        match call.finish(request.send(SendBody::from_reader(&mut source))) {
            Ok(response) => answer::to_submit(call.read(response, OBJECT_LIMIT), &submission.run_id),
            // The service acts on a request when its body is there. None of it has left us.
            Err(error) if !source.begun => Answer::Failed(self.attempt(&call).not_sent(&error)),
            Err(error) => Answer::Failed(self.attempt(&call).sent(&error)),
        }
    }

    fn status(&self, base: &str, job_id: &JobId, run_id: Option<&RunId>) -> Answer {
        let call = Call::new("GET", format!("{base}/job/{job_id}"), self.get_timeout);
        match call.finish(self.timed(self.agent.get(&call.url), call.timeout).call()) {
            Ok(response) => answer::to_status(call.read(response, OBJECT_LIMIT), job_id, run_id),
            Err(error) => self.failed(&call, &error),
        }
    }

    fn remove(&self, base: &str, job_id: &JobId) -> Answer {
        let call = Call::new("DELETE", format!("{base}/job/{job_id}"), self.delete_timeout);
        match call.finish(self.timed(self.agent.delete(&call.url), call.timeout).call()) {
            Ok(response) => answer::to_remove(&call.read(response, TEXT_LIMIT)),
            Err(error) => self.failed(&call, &error),
        }
    }

    fn list(&self, base: &str, wanted: &Wanted<'_>) -> Answer {
        let call = Call::new("GET", format!("{base}/job"), self.get_timeout);
        let response = match call.finish(self.timed(self.agent.get(&call.url), call.timeout).call()) {
            Ok(response) => response,
            Err(error) => return self.failed(&call, &error),
        };
        if response.status() != 200 {
            return answer::to_question(&call.read(response, TEXT_LIMIT));
        }
        let mut body = response.into_body();
        match list::read(body.with_config().limit(LIST_LIMIT).reader(), wanted) {
            Ok(jobs) => Answer::Listed(jobs),
            Err(error) if error.is_io() => {
                Answer::Failed(self.attempt(&call).sent(&io::Error::from(error).into()))
            }
            Err(error) => Answer::Failed(Failure {
                kind: FailureKind::Wrong,
                contact: Contact::Answered,
                reason: format!("{} answered GET with 200, but not with a list of jobs: {error}", call.shown),
            }),
        }
    }

    /// Gives a request its timeout, where it is not the agent's own.
    ///
    /// Only where it differs: a TLS configuration is kept for requests that use the agent's settings,
    /// and made anew for the connections of others.
    fn timed<Any>(&self, request: RequestBuilder<Any>, timeout: Duration) -> RequestBuilder<Any> {
        if timeout == self.get_timeout {
            return request;
        }
        request.config().timeout_global(Some(timeout)).build()
    }

    fn attempt<'a>(&self, call: &'a Call) -> Attempt<'a> {
        let Call { method, shown, timeout, .. } = call;
        Attempt { method, url: shown, timeout: *timeout, connect_timeout: self.connect_timeout }
    }

    fn failed(&self, call: &Call, error: &ureq::Error) -> Answer {
        Answer::Failed(self.attempt(call).failure(error))
    }
}

impl Backend for Uws {
    fn perform(&self, url: &str, action: &Action) -> Answer {
        let base = url.trim_end_matches('/');
        match action {
            Action::Submit(submission) => self.submit(base, submission),
            Action::Status { job_id, run_id } => self.status(base, job_id, run_id.as_ref()),
            Action::Remove { job_id } => self.remove(base, job_id),
            Action::List { run_ids, active_of } => {
                self.list(base, &Wanted { run_ids, active_of: *active_of })
            }
            Action::Push { .. } | Action::Ping => {
                Answer::Rejected { reason: "the execution service takes jobs only".to_owned() }
            }
        }
    }
}

fn proxy(url: &str) -> Result<Proxy, String> {
    let shown = text::redact(url);
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    if scheme != "http" && !(scheme == "https" && cfg!(feature = "tls")) {
        return Err(format!("uws.proxy: {shown:?}: only http proxies are supported: write http://host:port"));
    }
    Proxy::new(url).map_err(|_| format!("uws.proxy: {shown:?} is no proxy url: write http://host:port"))
}

/// Every option that matters, written out.
fn agent_config(settings: &settings::Uws, proxy: Option<Proxy>) -> Config {
    let idle = settings.connections.saturating_add(CONTROL_THREADS);
    let builder = Agent::config_builder()
        // Refusals have texts that people must see.
        .http_status_as_error(false)
        .https_only(false)
        .ip_family(IpFamily::Any)
        // Not from the environment: only where the settings say so.
        .proxy(proxy)
        .no_delay(true)
        // A redirect is a wrong answer: following it could carry a DELETE to another service.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::Never)
        .save_redirect_history(false)
        .user_agent(concat!("ocps/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(HEAD_LIMIT)
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .max_idle_age(Duration::from_secs(15))
        .timeout_global(Some(settings.get_timeout))
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout));
    #[cfg(feature = "tls")]
    let builder = {
        use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
        builder.tls_config(
            TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .root_certs(RootCerts::PlatformVerifier)
                .client_cert(None)
                .use_sni(true)
                .disable_verification(false)
                .build(),
        )
    };
    builder.build()
}

/// One request on its way, for the log and for reasons.
struct Call {
    method: &'static str,
    url: String,
    /// The url without credentials.
    shown: String,
    timeout: Duration,
    started: Instant,
}

impl Call {
    fn new(method: &'static str, url: String, timeout: Duration) -> Self {
        Self { method, shown: text::redact(&url), url, timeout, started: Instant::now() }
    }

    fn finish(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, ureq::Error> {
        let Self { method, shown, started, .. } = self;
        let elapsed = started.elapsed().as_millis();
        match &result {
            Ok(response) => debug!("{method} {shown}: {} after {elapsed} ms", response.status().as_u16()),
            Err(_) => debug!("{method} {shown}: no answer after {elapsed} ms"),
        }
        result
    }

    /// Reads a reply, a success up to the limit, anything else as far as people want to see it.
    fn read(&self, response: Response<Body>, limit: usize) -> Reply {
        let (head, mut body) = response.into_parts();
        let limit = if head.status == 200 { limit } else { TEXT_LIMIT };
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let mut bytes = Vec::new();
        // One byte more, to tell a full body from one that is too large.
        let ended = body.as_reader().take(limit as u64 + 1).read_to_end(&mut bytes);
        let end = match ended {
            Err(e) => End::Broken(text::quote(&e.to_string())),
            Ok(_) if bytes.len() > limit => End::TooLarge,
            Ok(_) => End::Complete,
        };
        Reply {
            method: self.method,
            url: self.shown.clone(),
            status: head.status.as_u16(),
            is_json: essence.eq_ignore_ascii_case(JSON),
            body: bytes,
            end,
        }
    }
}

/// The body of a PUT; notes when the library begins to take it, which is when connection,
/// TLS handshake and request head are done.
struct Source<'a> {
    rest: &'a [u8],
    begun: bool,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begun = true;
        self.rest.read(buffer)
    }
}
