//! The UWS job service over HTTP (lsst-dm/uws-api-server): one blocking request per action.
//!
//! Invariants: a request is sent once, never repeated here (each PUT makes a new job); no request lasts
//! longer than its timeout; nothing that a service or a network does is more than a [`Failure`] that says
//! whether the request may have been carried out. Retries, look-ups and their timing are the core's; only a service
//! that says when to ask again (Retry-After) is not asked before, whatever the core wants.

mod answer;
mod call;
mod files;
mod list;
mod object;
mod payload;
mod sent;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::debug;
use ureq::config::Config;
use ureq::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER,
};
use ureq::http::{Request, Response};
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, AsSendBody, Body, Error, Proxy};

use crate::backend::lanes::in_flight_max;
use crate::backend::{Backend, withheld};
use crate::config::settings;
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{
    Contact, Failure, FailureKind, JobStatus, Listed, RemoveAnswer, StatusAnswer, Submission, Wanted,
};
use crate::lease::Lease;
use crate::resolver::{Lookup, http_config};
use crate::text::quote;
use crate::url::Url;

pub use files::{Contents, JobFile};

use call::{Address, Call};
use sent::Watcher;

/// Largest job object that is read, in bytes.
const OBJECT_LIMIT: usize = 16 * 1024 * 1024;

/// Largest list that is read, in bytes: it walks every job's output of the last day.
const LIST_LIMIT: u64 = 128 * 1024 * 1024;

/// Largest text of a refusal that is read, in bytes; 200 characters of it are shown.
const TEXT_LIMIT: usize = 64 * 1024;

/// Largest head of a reply, in bytes; the genuine one has some 500.
const HEAD_LIMIT: usize = 64 * 1024;

/// Longest time for which a service is not asked because it said when to ask again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The service compares this header by equality: with a charset the PUT fails.
const JSON: &str = "application/json";

/// The path of a job that cannot exist, since the service's ids are 32 hexadecimal digits. Its log shows who asks.
const NO_JOB: &str = "/job/ocps-health-check";

/// Client of the UWS job service; one value is shared by all workers.
pub struct Uws {
    agent: Agent,
    settings: settings::Uws,
    lease: Lease,
    /// The service as it is configured, with credentials.
    configured: Mutex<Option<Url>>,
    /// Services that said when to ask again, and that time.
    resting: Mutex<BTreeMap<Url, Instant>>,
}

impl Uws {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn new(settings: &settings::Uws) -> Result<Self, String> {
        Self::leased(settings, Lease::default())
    }

    /// Makes a client that changes something only while the lease is valid.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn leased(settings: &settings::Uws, lease: Lease) -> Result<Self, String> {
        Self::over(settings, lease, DefaultConnector::default(), Lookup::default())
    }

    /// Makes a client with its own way to reach the service, for tests.
    ///
    /// # Errors
    /// The proxy is no usable URL.
    pub fn over(
        settings: &settings::Uws,
        lease: Lease,
        connector: impl Connector,
        resolver: impl Resolver,
    ) -> Result<Self, String> {
        let proxy = settings.proxy.as_ref().map(proxy).transpose()?;
        let watcher = Watcher { has_proxy: proxy.is_some(), lease: lease.clone() };
        let agent = Agent::with_parts(agent_config(settings, proxy), connector.chain(watcher), resolver);
        Ok(Self {
            agent,
            settings: settings.clone(),
            lease,
            configured: Mutex::default(),
            resting: Mutex::default(),
        })
    }

    fn call<'a>(&self, method: &'static str, base: &'a Url, path: &'a str, timeout: Duration) -> Call<'a> {
        let (url, connect_timeout) = (Address { base, path }, self.settings.connect_timeout);
        Call { method, url, timeout, connect_timeout }
    }

    fn send(&self, call: &Call<'_>, body: impl AsSendBody) -> Result<Response<Body>, Failure> {
        let base = call.url.base;
        self.check_rest(base)?;
        let secret = self.authorization(call.url)?;
        let (started, url) = (Instant::now(), call.url);
        let is_change = call.method != "GET";
        let (result, is_sent) = sent::watch(is_change, || self.run(call, secret, body));
        let (method, ms) = (call.method, started.elapsed().as_millis());
        match &result {
            Ok(response) => debug!("{method} {url}: {} after {ms} ms", response.status().as_u16()),
            Err(_) => debug!("{method} {url}: no answer after {ms} ms"),
        }
        let response = result.map_err(|error| {
            let is_withheld = is_change && !is_sent && !self.lease.is_valid();
            if is_withheld { withheld() } else { call.failure(&error, is_sent) }
        })?;
        if let Some(wait) = retry_after(&response) {
            // With a longer wait submissions would run out of time.
            let longest = RETRY_AFTER_MAX.min(self.settings.submit_timeout / 2);
            let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
            resting.retain(|_, until| Instant::now() < *until);
            resting.insert(base.clone(), Instant::now() + wait.min(longest));
        }
        Ok(response)
    }

    fn run(
        &self,
        call: &Call<'_>,
        secret: Option<String>,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::builder().method(call.method).uri(call.url.address());
        if let Some(secret) = secret {
            request = request.header(AUTHORIZATION, secret);
        }
        if call.method == "PUT" {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let request = request.body(body)?;
        // The library keeps a TLS configuration only for requests with the agent's own settings.
        if call.timeout == self.settings.get_timeout {
            return self.agent.run(request);
        }
        self.agent.run(self.agent.configure_request(request).timeout_global(Some(call.timeout)).build())
    }

    /// The credentials for a service: those of its URL or, if the journal has removed them, those that are configured for the
    /// same host; none if another host is configured.
    fn authorization(&self, address: Address<'_>) -> Result<Option<String>, Failure> {
        let base = address.base;
        if !base.lacks_credentials() {
            return Ok(base.authorization().map(str::to_owned));
        }
        match &*self.configured.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(url) if url.is_of_host(base) => Ok(url.authorization().map(str::to_owned)),
            Some(_) => Ok(None),
            None => Err(Failure::not_sent(format!(
                "{address} is not asked: the journal keeps no passwords, and no configuration was read that has one: \
                     see the log, and send start"
            ))),
        }
    }

    /// Fails if the service said to ask again later.
    fn check_rest(&self, base: &Url) -> Result<(), Failure> {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let left = resting.get(base).map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        if left.is_zero() {
            return Ok(());
        }
        let shown = quote(base);
        let seconds = left.as_secs_f64();
        Err(Failure::not_sent(format!("{shown} said to ask again later (Retry-After): in {seconds:.1} s")))
    }
}

impl Backend for Uws {
    fn submit(&self, base: &Url, submission: &Submission) -> Result<JobStatus, Failure> {
        let body = payload::body(submission)
            .map_err(|error| Failure::not_sent(format!("the job cannot be written as JSON: {error}")))?;
        let call = self.call("PUT", base, "/job", self.settings.put_timeout);
        let response = self.send(&call, &body)?;
        call.read(response, OBJECT_LIMIT).job(None, Some(&submission.run_id))
    }

    fn status(&self, base: &Url, job_id: &JobId, run_id: Option<&RunId>) -> Result<StatusAnswer, Failure> {
        let path = format!("/job/{job_id}");
        let call = self.call("GET", base, &path, self.settings.get_timeout);
        answer::to_status(call.read(self.send(&call, ())?, OBJECT_LIMIT), job_id, run_id)
    }

    fn remove(&self, base: &Url, job_id: &JobId) -> Result<RemoveAnswer, Failure> {
        let path = format!("/job/{job_id}");
        let call = self.call("DELETE", base, &path, self.settings.delete_timeout);
        answer::to_remove(&call.read(self.send(&call, ())?, TEXT_LIMIT))
    }

    fn list(&self, base: &Url, wanted: &Wanted) -> Result<Listed, Failure> {
        let call = self.call("GET", base, "/job", self.settings.list_timeout);
        let response = self.send(&call, ())?;
        let is_page =
            header(response.headers(), CONTENT_TYPE).is_some_and(|text| text.starts_with("text/html"));
        if response.status() != 200 || is_page || compression(response.headers()).is_some() {
            return Err(call.read(response, TEXT_LIMIT).refusal());
        }
        let mut body = response.into_body();
        let read = list::read(body.with_config().limit(LIST_LIMIT).reader(), wanted);
        read.map_err(|error| match error.downcast::<serde_json::Error>() {
            Ok(error) => {
                let url = call.url;
                let reason = format!("{url} answered GET with 200, but not with a list of jobs: {error}");
                Failure { kind: FailureKind::Wrong, contact: Contact::Answered, reason }
            }
            Err(error) => call.failure(&error.into(), true),
        })
    }

    fn configured(&self, url: &Url) {
        *self.configured.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.clone());
    }

    /// Asks for a job that cannot exist, which costs the service least.
    fn ping(&self, base: &Url) -> Result<(), Failure> {
        let call = self.call("GET", base, NO_JOB, self.settings.get_timeout);
        answer::to_ping(&call.read(self.send(&call, ())?, OBJECT_LIMIT))
    }
}

/// How long a service that cannot take a request now wants to be left alone, if it says so.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    let text = header(response.headers(), RETRY_AFTER)?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    // By the service's own clock, if it gives that.
    let now = header(response.headers(), DATE).and_then(date).unwrap_or_else(SystemTime::now);
    date(text)?.duration_since(now).ok()
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// How a body is compressed, if it is. No request asks for that.
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

/// The settings that differ from the library's defaults, and every timeout.
fn agent_config(settings: &settings::Uws, proxy: Option<Proxy>) -> Config {
    let idle = in_flight_max(settings.connections);
    http_config(proxy)
        .no_delay(true)
        .accept_encoding("identity")
        .max_response_header_size(HEAD_LIMIT)
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .max_idle_age(Duration::from_secs(15))
        .timeout_global(Some(settings.get_timeout))
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout))
        .build()
}
