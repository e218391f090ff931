//! The files of a job at the service, for `ocps results` and `ocps logs`. Invariant: only the piece of a file that is
//! being read is in memory.
//!
//! The genuine service gives neither sizes nor parts of files: it reads each from its disk as a whole and sends it. It
//! numbers files in the order in which its disk lists them, so that a new file can change the numbers of others.

use std::io::{self, Read, empty, sink};
use std::time::Duration;

use serde_json::Value;
use ureq::Body;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use ureq::http::{Request, Response};

use super::answer::End;
use super::object::readable;
use super::{OBJECT_LIMIT, TEXT_LIMIT, Uws, compression, header};
use crate::csc::id::JobId;
use crate::csc::request::{Contact, Failure, FailureKind};
use crate::json::elements;
use crate::url::Url;

/// A service that sends nothing for so long has failed: it may read a large file, or serve others, first.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Maximum number of files of one job.
const FILES_MAX: usize = 100_000;

/// A file of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFile {
    /// Its number in the list.
    pub id: String,
    /// Its place at the service, not to be trusted; none for a job that the service does not list any more.
    pub uri: Option<String>,
    /// In bytes, where the service gives it.
    pub size: Option<u64>,
}

/// A file that is being read.
pub struct Contents {
    /// The contents from the requested byte on.
    pub body: Box<dyn Read>,
    /// Size of the whole file in bytes, where the service gives it.
    pub size: Option<u64>,
}

impl Uws {
    /// The files that a job has written so far; none if the service does not know the job.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn files(&self, base: &Url, job_id: &JobId) -> Result<Option<Vec<JobFile>>, Failure> {
        let path = format!("/job/{job_id}/results");
        let call = self.call("GET", base, &path, self.settings.list_timeout);
        let mut reply = call.read(self.send(&call, ())?, OBJECT_LIMIT);
        if reply.is_no_such_job() {
            return Ok(None);
        }
        if reply.status != 200 || !reply.is_json || reply.end != End::Complete {
            return Err(reply.refusal());
        }
        let wrong = |error| {
            let reason = format!("{} answered GET with 200, but not with a list of files: {error}", call.url);
            Failure { kind: FailureKind::Wrong, contact: Contact::Answered, reason }
        };
        let list = readable(&mut reply.body).map_err(wrong)?;
        let mut files = Vec::new();
        let listed = elements(list, |element| {
            files.extend(job_file(element).filter(|_| files.len() < FILES_MAX));
        });
        listed.map_err(wrong)?;
        Ok(Some(files))
    }

    /// A file of a job, from a byte on; none if there is no such file.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn file(
        &self,
        base: &Url,
        job_id: &JobId,
        file: &JobFile,
        from: u64,
    ) -> Result<Option<Contents>, Failure> {
        let path = format!("/job/result/{job_id}/{}", file.id);
        let call = self.call("GET", base, &path, SILENCE_MAX);
        let mut request = Request::get(call.url.address());
        if let Some(secret) = base.authorization() {
            request = request.header(AUTHORIZATION, secret);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.body(()).map_err(ureq::Error::from).and_then(|request| {
            let config = self.agent.configure_request(request).timeout_global(None);
            self.agent.run(config.timeout_per_read(Some(SILENCE_MAX)).build())
        });
        let response = response.map_err(|error| call.failure(&error, true))?;
        let refuse = |response| Err(call.read(response, TEXT_LIMIT).refusal());
        if compression(response.headers()).is_some() || is_page(&response, file) {
            return refuse(response);
        }
        let broken = |error: io::Error| call.failure(&error.into(), true);
        match response.status().as_u16() {
            200 => {
                let size = number(&response);
                let mut body = Box::new(response.into_body().into_reader());
                io::copy(&mut body.by_ref().take(from), &mut sink()).map_err(broken)?;
                Ok(Some(Contents { body, size }))
            }
            206 if range(&response).is_some_and(|(first, _)| first == from) => {
                let size = range(&response).and_then(|(_, size)| size);
                Ok(Some(Contents { body: Box::new(response.into_body().into_reader()), size }))
            }
            // The file has no more bytes.
            416 => Ok(Some(Contents { body: Box::new(empty()), size: None })),
            404 => {
                let reply = call.read(response, TEXT_LIMIT);
                let is_none = reply.body.trim_ascii() == b"Result file not found.";
                if is_none { Ok(None) } else { Err(reply.refusal()) }
            }
            _ => refuse(response),
        }
    }
}

/// A file of the list, if its id is a number or a plain word.
fn job_file(element: &str) -> Option<JobFile> {
    let file: Value = serde_json::from_str(element).ok()?;
    let id = file.get("id")?;
    let id = id.as_str().map(str::to_owned).or_else(|| Some(id.as_u64()?.to_string()))?;
    let is_plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let uri = file.get("uri").and_then(Value::as_str).map(str::to_owned);
    let size = file.get("size").and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok()));
    is_plain.then_some(JobFile { id, uri, size })
}

/// Whether it is a web page of a gateway before the service, such as a login. The service itself sends two Content-Type
/// headers for each file, of which the first is text/html.
fn is_page(response: &Response<Body>, file: &JobFile) -> bool {
    let types = response.headers().get_all(CONTENT_TYPE);
    let is_html = types.iter().all(|value| value.as_bytes().starts_with(b"text/html"));
    let is_meant = file.uri.as_ref().is_some_and(|uri| uri.ends_with(".html") || uri.ends_with(".htm"));
    response.status().is_success() && is_html && types.iter().count() == 1 && !is_meant
}

fn number(response: &Response<Body>) -> Option<u64> {
    header(response.headers(), CONTENT_LENGTH)?.parse().ok()
}

/// The first byte of a part, and the size of the whole.
fn range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, size) = header(response.headers(), CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}
