//! The UWS job service over HTTP (lsst-dm/uws-api-server): one blocking request per action.
//!
//! Invariants: a request is sent once, never repeated here (each PUT makes a new job); no request lasts
//! longer than its timeout; nothing that a service or a network does is more than a [`Failure`] that says
//! whether the request may have been carried out. Retries, look-ups and their timing are the core's; only a service
//! that says when to ask again (Retry-After) is not asked before, whatever the core wants.

mod answer;
mod failure;
mod list;
mod object;
mod payload;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::debug;
use ureq::config::{Config, IpFamily, RedirectAuthHeaders};
use ureq::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, LOCATION, RETRY_AFTER,
};
use ureq::http::response::Parts;
use ureq::http::{HeaderMap, Response};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, Proxy, RequestBuilder, SendBody};

use crate::backend::workers::CONTROL_THREADS;
use crate::backend::{Backend, Wanted};
use crate::config::settings;
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{
    Contact, Failure, FailureKind, JobStatus, ListedJob, NotDone, RemoveAnswer, StatusAnswer, Submission,
};
use crate::resolver;
use crate::url::Url;

use answer::{End, Reply};
use failure::Attempt;

/// Largest job object that is read, in bytes.
const OBJECT_LIMIT: usize = 16 * 1024 * 1024;

/// Largest list that is read, in bytes: it walks every job's output of the last day.
const LIST_LIMIT: u64 = 128 * 1024 * 1024;

/// Largest text of a refusal that is read, in bytes; 200 characters of it are shown.
const TEXT_LIMIT: usize = 64 * 1024;

/// Largest head of a reply, in bytes; the genuine one has some 500.
const HEAD_LIMIT: usize = 64 * 1024;

/// A service is left alone for so long at most when it says when to ask again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The service compares this header by equality: with a charset the PUT fails.
const JSON: &str = "application/json";

/// The path of no job: the ids of the service are 32 hexadecimal digits. In its log it says who asks.
const NO_JOB: &str = "/job/ocps-health-check";

/// Client of the UWS job service; one value is shared by all workers.
pub struct Uws {
    agent: Agent,
    connect_timeout: Duration,
    put_timeout: Duration,
    get_timeout: Duration,
    list_timeout: Duration,
    delete_timeout: Duration,
    /// A longer wait would be the end of submissions.
    longest_wait: Duration,
    /// Services that said when to ask again, and when that is.
    resting: Mutex<BTreeMap<Url, Instant>>,
}

impl Uws {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn new(settings: &settings::Uws) -> Result<Self, String> {
        Self::with_agent(settings, resolver::agent)
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
        let proxy = settings.proxy.as_ref().map(proxy).transpose()?;
        Ok(Self {
            agent: agent(&agent_config(settings, proxy)),
            connect_timeout: settings.connect_timeout,
            put_timeout: settings.put_timeout,
            get_timeout: settings.get_timeout,
            list_timeout: settings.list_timeout,
            delete_timeout: settings.delete_timeout,
            longest_wait: RETRY_AFTER_MAX.min(settings.submit_timeout / 2),
            resting: Mutex::default(),
        })
    }

    /// Gives a request the user's name and password, and its timeout where it is not the agent's own.
    ///
    /// The timeout only where it differs: a TLS configuration is kept for requests that use the agent's settings,
    /// and made anew for the connections of others.
    fn prepared<Any>(&self, call: &Call<'_>, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        let request = match call.base.authorization() {
            Some(secret) => request.header(AUTHORIZATION, secret),
            None => request,
        };
        if call.timeout == self.get_timeout {
            return request;
        }
        request.config().timeout_global(Some(call.timeout)).build()
    }

    /// Notes how a request ended, and when a service that cannot take it now is to be asked again.
    fn finish(
        &self,
        call: &Call<'_>,
        result: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, ureq::Error> {
        call.log(&result);
        if let Ok(response) = &result
            && let Some(wait) = retry_after(response)
        {
            let until = Instant::now() + wait.min(self.longest_wait);
            let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
            resting.retain(|_, until| Instant::now() < *until);
            resting.insert(call.base.clone(), until);
        }
        result
    }

    /// A service that is to be asked again later is not asked now.
    fn check_rest(&self, base: &Url) -> Result<(), Failure> {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let left = resting.get(base).map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        if left.is_zero() {
            return Ok(());
        }
        let shown = text::shown(&base.to_string());
        let reason = format!("{shown} said to ask again later (Retry-After): in {:.1} s", left.as_secs_f64());
        Err(Failure { kind: FailureKind::NotSent, contact: Contact::NotAsked, reason })
    }

    fn attempt<'a>(&self, call: &'a Call<'_>) -> Attempt<'a> {
        let Call { method, shown, timeout, .. } = call;
        Attempt { method, url: shown, timeout: *timeout, connect_timeout: self.connect_timeout }
    }

    /// Sends a request without a body.
    fn ask(&self, call: &Call<'_>, request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Failure> {
        self.check_rest(call.base)?;
        let result = self.prepared(call, request).call();
        self.finish(call, result).map_err(|error| self.attempt(call).failure(&error))
    }
}

impl Backend for Uws {
    fn submit(&self, base: &Url, submission: &Submission) -> Result<JobStatus, NotDone> {
        self.check_rest(base)?;
        let body = payload::body(submission)
            .map_err(|e| NotDone::Rejected(format!("cannot write the job as JSON: {e}")))?;
        let call = Call::new("PUT", base, "/job", self.put_timeout);
        let mut source = Source { rest: &body, begun: false };
        let request = self.prepared(&call, self.agent.put(&call.address));
        let request = request.header(CONTENT_TYPE, JSON).header(CONTENT_LENGTH, body.len());
        match self.finish(&call, request.send(SendBody::from_reader(&mut source))) {
            Ok(response) => Ok(answer::to_submit(call.read(response, OBJECT_LIMIT), &submission.run_id)?),
            // The service acts on a request when its body is there. None of it has left us.
            Err(error) if !source.begun => Err(self.attempt(&call).not_sent(&error).into()),
            Err(error) => Err(self.attempt(&call).sent(&error).into()),
        }
    }

    fn status(&self, base: &Url, job_id: &JobId, run_id: Option<&RunId>) -> Result<StatusAnswer, Failure> {
        let path = format!("/job/{job_id}");
        let call = Call::new("GET", base, &path, self.get_timeout);
        let response = self.ask(&call, self.agent.get(&call.address))?;
        answer::to_status(call.read(response, OBJECT_LIMIT), job_id, run_id)
    }

    fn remove(&self, base: &Url, job_id: &JobId) -> Result<RemoveAnswer, Failure> {
        let path = format!("/job/{job_id}");
        let call = Call::new("DELETE", base, &path, self.delete_timeout);
        let response = self.ask(&call, self.agent.delete(&call.address))?;
        answer::to_remove(&call.read(response, TEXT_LIMIT))
    }

    fn list(&self, base: &Url, wanted: &Wanted<'_>) -> Result<Vec<ListedJob>, Failure> {
        let call = Call::new("GET", base, "/job", self.list_timeout);
        let response = self.ask(&call, self.agent.get(&call.address))?;
        let is_page =
            header(response.headers(), CONTENT_TYPE).is_some_and(|text| text.starts_with("text/html"));
        if response.status() != 200 || is_page || compression(response.headers()).is_some() {
            return Err(answer::to_question(&call.read(response, TEXT_LIMIT)));
        }
        let mut body = response.into_body();
        list::read(body.with_config().limit(LIST_LIMIT).reader(), wanted).map_err(|error| {
            if error.is_io() {
                return self.attempt(&call).sent(&io::Error::from(error).into());
            }
            let url = &call.shown;
            let reason = format!("{url} answered GET with 200, but not with a list of jobs: {error}");
            Failure { kind: FailureKind::Wrong, contact: Contact::Answered, reason }
        })
    }

    /// Asks for a job that cannot exist, which costs the service least.
    fn ping(&self, base: &Url) -> Result<(), Failure> {
        let call = Call::new("GET", base, NO_JOB, self.get_timeout);
        let response = self.ask(&call, self.agent.get(&call.address))?;
        answer::to_ping(&call.read(response, OBJECT_LIMIT))
    }
}

/// How long a service that cannot take a request now wants to be left alone, if it says so.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    let text = header(response.headers(), RETRY_AFTER)?;
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        // By its own clock if it tells it.
        Err(_) => {
            let date = |text: &str| httpdate::parse_http_date(text).ok();
            let now = header(response.headers(), DATE).and_then(date).unwrap_or_else(SystemTime::now);
            date(text)?.duration_since(now).ok()
        }
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// How a body is compressed, if it is; we ask for none.
fn compression(headers: &HeaderMap) -> Option<&str> {
    header(headers, CONTENT_ENCODING)
        .filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("identity"))
}

fn proxy(url: &Url) -> Result<Proxy, String> {
    let shown = url.to_string();
    let scheme = shown.split_once("://").map_or("http", |(scheme, _)| scheme);
    if scheme != "http" && !(scheme == "https" && cfg!(feature = "tls")) {
        return Err(format!("uws.proxy: {shown:?}: only http proxies are supported: write http://host:port"));
    }
    Proxy::new(url.with_credentials())
        .map_err(|_| format!("uws.proxy: {shown:?} is no proxy url: write http://host:port"))
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
        .accept_encoding("identity")
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
struct Call<'a> {
    method: &'static str,
    base: &'a Url,
    path: &'a str,
    address: String,
    /// The address for people.
    shown: String,
    timeout: Duration,
    started: Instant,
}

impl<'a> Call<'a> {
    fn new(method: &'static str, base: &'a Url, path: &'a str, timeout: Duration) -> Self {
        let address = format!("{}{path}", base.address());
        let shown = text::shown(&format!("{base}{path}"));
        Self { method, base, path, address, shown, timeout, started: Instant::now() }
    }

    fn log(&self, result: &Result<Response<Body>, ureq::Error>) {
        let Self { method, shown, started, .. } = self;
        let elapsed = started.elapsed().as_millis();
        match result {
            Ok(response) => debug!("{method} {shown}: {} after {elapsed} ms", response.status().as_u16()),
            Err(_) => debug!("{method} {shown}: no answer after {elapsed} ms"),
        }
    }

    /// What people must know of a reply whose body does not tell it.
    fn remark(&self, head: &Parts) -> Option<String> {
        if let Some(location) = header(&head.headers, LOCATION).filter(|_| head.status.is_redirection()) {
            return Some(self.base.redirection(self.path, location));
        }
        let compression = text::quote(compression(&head.headers)?);
        Some(format!(
            "its text is compressed ({compression}), which was not asked for: turn that off in the gateway before the service"
        ))
    }

    /// Reads a reply, a success up to the limit, anything else as far as people want to see it.
    fn read(&self, response: Response<Body>, limit: usize) -> Reply {
        let (head, mut body) = response.into_parts();
        let limit = if head.status == 200 { limit } else { TEXT_LIMIT };
        let content_type = header(&head.headers, CONTENT_TYPE).unwrap_or_default();
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
            says_when: head.headers.contains_key(RETRY_AFTER),
            remark: self.remark(&head),
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
