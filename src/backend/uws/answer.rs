//! What the service's replies mean. Pure. Invariant: a reply is believed only if it names the job that was asked for;
//! anything else is a failure of this one request.
//!
//! The genuine replies are those of lsst-dm/uws-api-server; its status codes are loose (500 for most refusals,
//! 404 for a wrong base URL too), so that a 404 counts only in the exact form that its handlers give.

use serde_json::Value;

use crate::csc::event::{JobObject, Phase};
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{Contact, Failure, FailureKind, JobStatus, RemoveAnswer, StatusAnswer};

use super::call::Address;
use super::object::{Object, bounded, readable};
use crate::text::quote;

/// Longest phase that is accepted, in bytes.
const PHASE_MAX: usize = 100;

/// How the text of a 500 to a PUT begins where the service refuses the request itself, before it makes anything: its
/// YAML template cannot be read with our values, or the cluster does not accept the job.
const REFUSALS: [&str; 9] = [
    "while parsing",
    "while scanning",
    "mapping values are not allowed",
    "unacceptable character",
    "(400)\nReason:",
    "(401)\nReason:",
    "(403)\nReason:",
    "(404)\nReason:",
    "(422)\nReason:",
];

/// A reply to one request, its body read as far as the limits allow.
pub(super) struct Reply<'a> {
    /// `PUT` and so on.
    pub(super) method: &'static str,
    pub(super) url: Address<'a>,
    pub(super) status: u16,
    /// Whether the Content-Type is application/json.
    pub(super) is_json: bool,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
    /// Whether it says when to ask again (Retry-After).
    pub(super) says_when: bool,
    /// What its head says, if its text is of no use: where a redirect leads, or that the body is compressed.
    pub(super) remark: Option<String>,
}

/// How the body ended.
#[derive(PartialEq, Eq)]
pub(super) enum End {
    Complete,
    /// It is larger than the limit.
    TooLarge,
    /// The connection broke or the time was over.
    Broken(String),
}

impl Reply<'_> {
    /// The beginning of the text, as far as it is compared or shown.
    fn text(&self) -> String {
        const ENOUGH: usize = 4096;
        String::from_utf8_lossy(self.body.get(..ENOUGH).unwrap_or(&self.body)).into_owned()
    }

    /// Whether it is a web page. The service sends none, though it calls its refusals text/html.
    fn is_page(&self) -> bool {
        let body = self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body);
        body.trim_ascii_start().starts_with(b"<")
    }

    /// What a reply of a gateway before the service means; none if the service itself may have sent it.
    fn of_gateway(&self) -> Option<FailureKind> {
        match self.status {
            300..=399 => None,
            429 => Some(FailureKind::NotNow),
            503 if self.says_when => Some(FailureKind::NotNow),
            400..=499 if self.is_page() => Some(FailureKind::NotNow),
            // The service behind it may have got the request.
            502..=504 => Some(FailureKind::Unclear),
            _ => self.is_page().then_some(FailureKind::Unclear),
        }
    }

    fn is_success(&self) -> bool {
        self.status == 200 && self.of_gateway().is_none()
    }

    /// Whether it is the service's reply that there is no such job.
    pub(super) fn is_no_such_job(&self) -> bool {
        self.status == 404 && self.is_json && self.body.trim_ascii() == b"\"\""
    }

    /// Whether it is the service's reply that it has removed a job: a JSON object with `"code": 200`.
    fn is_removal(&self) -> bool {
        let object: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        self.is_json
            && object.get("code") == Some(&200.into())
            && object.get("status").is_some_and(Value::is_string)
    }

    /// The failure of a request that was not answered with success: `answered PUT with 500: its text`.
    pub(super) fn refusal(&self) -> Failure {
        let Self { method, url, status, .. } = self;
        let is_refused = || REFUSALS.iter().any(|start| self.text().trim_start().starts_with(start));
        let (kind, contact) = match (self.of_gateway(), *method, status) {
            (Some(_), "GET", _) => (FailureKind::NotNow, Contact::Silent),
            (Some(kind), _, _) => (kind, Contact::Silent),
            (None, "GET", 500..=599) => (FailureKind::Refused, Contact::Silent),
            (None, "PUT", 500) if is_refused() => (FailureKind::Refused, Contact::Answered),
            // A PUT may have made a job all the same, perhaps one that starts some 20 s later; to a DELETE the
            // service says 500 for ever when only the job's files cannot be removed.
            (None, _, 500..=599) | (None, "PUT", 200..=299) => (FailureKind::Unclear, Contact::Answered),
            (None, "PUT", _) => (FailureKind::Refused, Contact::Answered),
            (None, _, _) => (FailureKind::Wrong, Contact::Answered),
        };
        let text = self.remark.clone().unwrap_or_else(|| quote_once(&self.text()));
        let text = if text.is_empty() { "(no text)" } else { &text };
        // The service's own 404 is no refusal and does not come here.
        let remedy = if *status == 404 { ", as no execution service does (is the url right?)" } else { "" };
        Failure { kind, contact, reason: format!("{url} answered {method} with {status}{remedy}: {text}") }
    }

    /// The failure of a reply with status 200 that could not be read to its end, or is not an answer to the request.
    fn unbelievable(&self, why: &str, text: &str) -> Failure {
        let Self { method, url, .. } = self;
        if let End::Broken(reason) = &self.end {
            let reason = format!("{url} broke off its answer to {method}: {reason}");
            return Failure { kind: FailureKind::Unclear, contact: Contact::Silent, reason };
        }
        let why = if self.end == End::TooLarge { "the answer is too large" } else { why };
        let text = self.remark.clone().unwrap_or_else(|| quote(text));
        let kind = if *method == "GET" { FailureKind::Wrong } else { FailureKind::Unclear };
        let reason = format!("{url} answered {method} with 200, but {why}: {text}");
        Failure { kind, contact: Contact::Answered, reason }
    }

    /// The job that it shows, if it is the one that was asked for.
    pub(super) fn job(
        mut self,
        job_id: Option<&JobId>,
        run_id: Option<&RunId>,
    ) -> Result<JobStatus, Failure> {
        if !self.is_success() {
            return Err(self.refusal());
        }
        let job = match self.end {
            End::Complete => believe(&mut self.body, job_id, run_id),
            End::TooLarge | End::Broken(_) => Err(String::new()),
        };
        job.map_err(|why| self.unbelievable(&why, &self.text()))
    }
}

fn believe(body: &mut [u8], job_id: Option<&JobId>, run_id: Option<&RunId>) -> Result<JobStatus, String> {
    let no_object = |e: serde_json::Error| format!("it is no job object ({e})");
    let text = readable(body).map_err(no_object)?;
    let object = Object::of(text).map_err(no_object)?;
    let id = object.string("jobId").ok_or("it has no jobId")?;
    let id = JobId::parse(&id).map_err(|_| "its jobId is malformed")?;
    if job_id.is_some_and(|asked| *asked != id) {
        return Err("it is another job".to_owned());
    }
    if run_id.is_some_and(|asked| object.string("runId").as_deref() != Some(asked.as_str())) {
        return Err("its runId is not ours".to_owned());
    }
    let phase = object.string("phase").filter(|p| p.len() <= PHASE_MAX).ok_or("it has no phase")?;
    let phase = Phase::parse(&phase);
    // Only the object of a job that has ended is needed.
    let object = match phase.exit_code() {
        None => String::new(),
        Some(_) => bounded(text).map_err(no_object)?,
    };
    Ok(JobStatus { job_id: id, phase, object: JobObject(object.into()) })
}

/// A service's refusal for people. The genuine service prints the message twice when it misses an argument
/// (`'command''command'`): that is quoted once.
fn quote_once(text: &str) -> String {
    let halves = text.split_at_checked(text.len() / 2).filter(|(first, second)| first == second);
    quote(halves.map_or(text, |(first, _)| first))
}

/// The answer to the GET of one job.
pub(super) fn to_status(
    reply: Reply<'_>,
    job_id: &JobId,
    run_id: Option<&RunId>,
) -> Result<StatusAnswer, Failure> {
    if reply.is_no_such_job() {
        return Ok(StatusAnswer::Gone);
    }
    reply.job(Some(job_id), run_id).map(StatusAnswer::Job)
}

/// The answer to the GET of a job that cannot exist.
pub(super) fn to_ping(reply: &Reply<'_>) -> Result<(), Failure> {
    if reply.is_no_such_job() { Ok(()) } else { Err(reply.refusal()) }
}

/// The answer to a DELETE.
pub(super) fn to_remove(reply: &Reply<'_>) -> Result<RemoveAnswer, Failure> {
    if reply.is_success() && reply.is_removal() {
        Ok(RemoveAnswer::Removed { object: None })
    } else if reply.is_success() {
        Err(reply.unbelievable("it does not say that the job was removed", &reply.text()))
    } else if reply.status == 404 && reply.body.starts_with(b"(404)") {
        Ok(RemoveAnswer::Gone)
    } else {
        Err(reply.refusal())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::url::Url;

    static UWS: LazyLock<Url> = LazyLock::new(|| Url::from("http://uws"));
    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn reply(method: &'static str, status: u16, content_type: &str, body: &str) -> Reply<'static> {
        let is_json = content_type == "application/json";
        let url = Address { base: &UWS, path: "/job" };
        Reply {
            method,
            url,
            status,
            is_json,
            body: body.into(),
            end: End::Complete,
            says_when: false,
            remark: None,
        }
    }

    fn label(result: Result<StatusAnswer, Failure>) -> String {
        match result {
            Ok(StatusAnswer::Job(job)) => format!("job {} {:?}", job.job_id, job.phase),
            Ok(StatusAnswer::Gone) => "Gone".to_owned(),
            Ok(StatusAnswer::Broken { report }) => report,
            Err(f) => format!("{:?} {:?}", f.kind, f.contact),
        }
    }

    fn put(reply: Reply<'_>) -> Result<StatusAnswer, Failure> {
        reply.job(None, RunId::parse("1-a").as_ref()).map(StatusAnswer::Job)
    }

    fn get(reply: Reply<'_>) -> Result<StatusAnswer, Failure> {
        to_status(reply, &JobId::parse(ID).unwrap(), RunId::parse("1-a").as_ref())
    }

    fn delete(reply: &Reply<'_>) -> Result<StatusAnswer, Failure> {
        to_remove(reply).map(|answer| match answer {
            RemoveAnswer::Removed { .. } => StatusAnswer::Broken { report: "removed".to_owned() },
            RemoveAnswer::Gone => StatusAnswer::Gone,
        })
    }

    fn job(job_id: &str, run_id: &str, phase: &str) -> String {
        format!(r#"{{"jobId":{job_id},"runId":{run_id},"phase":{phase}}}"#)
    }

    /// Bodies with status 200, and whether PUT and GET believe them.
    fn bodies() -> Vec<(String, bool)> {
        let ours = format!("\"{ID}\"");
        vec![
            (job(&ours, "\"1-a\"", "\"pending\""), true),
            (job(&ours, "\"1-a\"", "\"no such phase\""), true),
            (job(&ours, "\"1-b\"", "\"pending\""), false),
            (job(&ours, "1", "\"pending\""), false),
            (job(&ours, "\"1-a\"", "7"), false),
            (job(&ours, "\"1-a\"", "null"), false),
            (job(&ours, "\"1-a\"", &format!("{:?}", "x".repeat(101))), false),
            (job("\"../x\"", "\"1-a\"", "\"pending\""), false),
            (job("\"\"", "\"1-a\"", "\"pending\""), false),
            (job("7", "\"1-a\"", "\"pending\""), false),
            (format!("[{}]", job(&ours, "\"1-a\"", "\"pending\"")), false),
            (format!(r#"{{"jobId":{ours},"runId":"1-a"}}"#), false),
            ("{}".to_owned(), false),
            (String::new(), false),
        ]
    }

    #[test]
    fn only_our_own_job_object_is_believed() {
        for (body, good) in bodies() {
            let phase = if body.contains("no such phase") { "Other" } else { "Pending" };
            let expected =
                |kind: &str| if good { format!("job {ID} {phase}") } else { format!("{kind} Answered") };
            assert_eq!(label(put(reply("PUT", 200, J, &body))), expected("Unclear"), "{body}");
            assert_eq!(label(get(reply("GET", 200, H, &body))), expected("Wrong"), "{body}");
        }
        let get = |body: &str| to_status(reply("GET", 200, J, body), &JobId::parse(ID).unwrap(), None);
        let other = job(&format!("\"{}\"", ID.replace('0', "9")), "\"1-a\"", "\"pending\"");
        assert_eq!(label(get(&other)), "Wrong Answered");
        let foreign = job(&format!("\"{ID}\""), "\"anything\"", "\"error\"");
        assert_eq!(label(get(&foreign)), format!("job {ID} Error"));
    }

    const J: &str = "application/json";
    const H: &str = "text/html; charset=UTF-8";

    fn check_statuses(cases: &[(&'static str, u16, &str, &str, &str)]) {
        for (method, status, content_type, body, expected) in cases {
            let reply = reply(method, *status, content_type, body);
            let answer = match *method {
                "PUT" => put(reply),
                "GET" => get(reply),
                _ => delete(&reply),
            };
            assert_eq!(label(answer.clone()), *expected, "{method} {status} {body}");
            if let Err(failure) = answer {
                let start = format!("http://uws/job answered {method} with {status}");
                assert!(failure.reason.starts_with(&start), "{failure}");
                assert!(!failure.reason.contains('\n'), "{failure}");
            }
        }
    }

    #[test]
    fn other_statuses() {
        check_statuses(&[
            ("PUT", 201, J, "{}", "Unclear Answered"),
            ("PUT", 204, H, "", "Unclear Answered"),
            ("PUT", 101, H, "", "Refused Answered"),
            ("PUT", 302, H, "", "Refused Answered"),
            ("PUT", 400, H, "Invalid run_id.", "Refused Answered"),
            ("PUT", 404, J, "\"\"", "Refused Answered"),
            ("PUT", 500, H, "'command''command'", "Unclear Answered"),
            ("PUT", 500, H, "Job creation timed out.", "Unclear Answered"),
            ("PUT", 200, H, "<html>login</html>", "Unclear Silent"),
            ("PUT", 302, H, "<html>", "Refused Answered"),
            ("PUT", 403, H, "(403)\nReason: Forbidden\n", "Refused Answered"),
            ("PUT", 403, H, "\u{feff}\n<!DOCTYPE html>", "NotNow Silent"),
            ("PUT", 429, H, "", "NotNow Silent"),
            ("PUT", 500, H, "<html>500 Internal Server Error</html>", "Unclear Silent"),
            ("PUT", 500, H, "(403)\nReason: Forbidden\nHTTP", "Refused Answered"),
            ("PUT", 500, H, "(422)\nReason: Unprocessable Entity\n", "Refused Answered"),
            ("PUT", 500, H, "(409)\nReason: Conflict\n", "Unclear Answered"),
            ("PUT", 500, H, "(429)\nReason: Too Many Requests\n", "Unclear Answered"),
            ("PUT", 500, H, "(500)\nReason: Internal Server Error\n", "Unclear Answered"),
            ("PUT", 500, H, "(504)\nReason: Gateway Timeout\n", "Unclear Answered"),
            ("PUT", 500, H, "\nwhile parsing a block mapping\n", "Refused Answered"),
            ("PUT", 500, H, "unacceptable character #x0001", "Refused Answered"),
            ("PUT", 500, H, "", "Unclear Answered"),
            ("PUT", 502, H, "", "Unclear Silent"),
            ("PUT", 503, H, "", "Unclear Silent"),
            ("PUT", 504, H, "", "Unclear Silent"),
            ("PUT", 505, H, "", "Unclear Answered"),
            ("GET", 404, J, "\"\"", "Gone"),
            ("GET", 404, J, "\"\"\n", "Gone"),
            ("GET", 404, J, "{}", "Wrong Answered"),
            ("GET", 404, H, "\"\"", "Wrong Answered"),
            ("GET", 404, H, "<html>", "NotNow Silent"),
            ("GET", 200, H, "<html>login</html>", "NotNow Silent"),
            ("GET", 429, H, "", "NotNow Silent"),
            ("GET", 302, H, "<html>", "Wrong Answered"),
            ("GET", 502, H, "<html>", "NotNow Silent"),
            ("GET", 204, J, "", "Wrong Answered"),
            ("GET", 301, H, "", "Wrong Answered"),
            ("GET", 400, H, "x", "Wrong Answered"),
            ("GET", 500, H, "x", "Refused Silent"),
            ("GET", 503, H, "x", "NotNow Silent"),
        ]);
    }

    #[test]
    fn a_delete_is_believed_only_in_the_words_of_the_service() {
        check_statuses(&[
            ("DELETE", 200, J, r#"{"status": "Success", "message": "", "code": 200}"#, "removed"),
            ("DELETE", 200, J, r#"{"status": "{'active': 1}", "message": "", "code": 200}"#, "removed"),
            ("DELETE", 200, J, r#"{"status": "Failure", "message": "", "code": 500}"#, "Unclear Answered"),
            ("DELETE", 200, H, r#"{"status": "Success", "message": "", "code": 200}"#, "Unclear Answered"),
            ("DELETE", 200, J, "{}", "Unclear Answered"),
            ("DELETE", 200, J, "", "Unclear Answered"),
            ("DELETE", 200, H, "<html>login</html>", "Unclear Silent"),
            ("DELETE", 429, H, "", "NotNow Silent"),
            ("DELETE", 204, H, "", "Wrong Answered"),
            ("DELETE", 302, H, "", "Wrong Answered"),
            ("DELETE", 400, H, "x", "Wrong Answered"),
            ("DELETE", 404, H, "(404)\nReason: Not Found\n", "Gone"),
            ("DELETE", 404, H, "<html>404</html>", "NotNow Silent"),
            ("DELETE", 404, J, "\"\"", "Wrong Answered"),
            ("DELETE", 500, H, "(404)\nReason: Not Found\n\n[Errno 13]", "Unclear Answered"),
            ("DELETE", 502, H, "", "Unclear Silent"),
            ("DELETE", 503, H, "", "Unclear Silent"),
        ]);
    }

    #[test]
    fn an_answer_that_breaks_off_is_unclear_and_a_huge_one_is_not_believed() {
        let body = job(&format!("\"{ID}\""), "\"1-a\"", "\"pending\"");
        let cut = |method, end| Reply { end, ..reply(method, 200, "application/json", &body) };
        let broken = || End::Broken("connection reset".to_owned());
        assert_eq!(label(put(cut("PUT", broken()))), "Unclear Silent");
        assert_eq!(label(get(cut("GET", broken()))), "Unclear Silent");
        assert_eq!(label(put(cut("PUT", End::TooLarge))), "Unclear Answered");
        assert_eq!(label(get(cut("GET", End::TooLarge))), "Wrong Answered");
    }

    #[test]
    fn a_404_that_is_not_the_services_asks_whether_the_url_is_right() {
        let reason = |status, body| put(reply("PUT", status, H, body)).unwrap_err().reason;
        let text = reason(404, "<html>");
        assert!(text.contains("404, as no execution service does (is the url right?): <html>"), "{text}");
        let text = reason(400, "no");
        assert!(text.ends_with("answered PUT with 400: no"), "{text}");
    }

    #[test]
    fn refusals_fit_on_one_line_and_are_said_once() {
        let invalid = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)";
        for (text, expected) in [
            ("", ""),
            ("x", "x"),
            ("'command''command'", "'command'"),
            ("'name''eman'", "'name''eman'"),
            ("(403)\nReason: Forbidden\n\n", "(403) Reason: Forbidden"),
            ("a\u{1b}[31mb\u{0}c\u{85}d", "a [31mb c d"),
            ("éé", "é"),
            ("ééé", "ééé"),
            (&invalid.repeat(2), invalid),
            ("(422)\nx\n\n(422)\nx\n\n", "(422) x"),
        ] {
            assert_eq!(quote_once(text), expected, "{text:?}");
        }
    }
}
