//! Answers of the execution service: status line, headers, body and all, to each of our four requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings::Settings;
use ocps::csc::id::{Fingerprint, JobId, RunId, SalIndex};
use ocps::csc::request::{Action, Answer, JobStatus, Listed, StatusAnswer, Submission, Wanted};
use ocps::lease::Lease;

use super::check_reason;
use super::http::{End, FarEnd, Nowhere, Script};

const ID: &str = "0123456789abcdef0123456789abcdef";
const RUN_ID: &str = "17-abc";
/// Most bytes of a job's object.
const OBJECT_MAX: usize = 512 << 10;

/// The first byte chooses the request, the pieces in which the answer comes, and how the connection ends.
pub(crate) fn read(data: &[u8]) {
    thread_local! {
        static SERVICE: (FarEnd, Option<Uws>) = {
            let far = FarEnd::default();
            let client = Uws::over(&Settings::default().uws, Lease::default(), far.clone(), Nowhere).ok();
            (far, client)
        };
    }
    let Some((first, bytes)) = data.split_first() else { return };
    let actions = actions();
    let action = &actions[usize::from(first & 3)];
    let piece = [usize::MAX, 1, 7, 1000][usize::from(first >> 2 & 3)];
    let end = [End::Closed, End::Closed, End::Reset, End::Silence][usize::from(first >> 4 & 3)];
    let answer = SERVICE.with(|(far, client)| {
        far.set(Script { bytes: bytes.into(), piece, end });
        client.as_ref().unwrap().perform(&"http://127.0.0.1:9/api/v1".into(), action)
    });
    check_answer(action, &answer);
}

fn actions() -> [Action; 4] {
    let job_id = JobId::parse(ID).unwrap();
    let run_id = RunId::parse(RUN_ID).unwrap();
    let submission = Submission {
        run_id: run_id.clone(),
        command: "run".to_owned(),
        source_url: "https://scripts".to_owned(),
        commit_ref: "main".to_owned(),
        environment: vec![("DATA_QUERY".into(), "exposure=1".to_owned())],
        pipeline: "p.yaml".to_owned(),
    };
    [
        Action::Submit(Arc::new(submission)),
        Action::Status { job_id: job_id.clone(), run_id: Some(run_id.clone()) },
        Action::Remove { job_id },
        Action::List(Wanted {
            run_ids: Arc::new(BTreeSet::from([run_id])),
            job_ids: Arc::new([Fingerprint::of(ID)].into()),
            active_of: Some(SalIndex::Latiss),
        }),
    ]
}

/// Only what was asked for is believed.
fn check_answer(action: &Action, answer: &Answer) {
    let check_job = |job: &JobStatus| {
        let text: &str = &job.object.0;
        assert!(text.len() <= OBJECT_MAX, "{}", text.len());
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(object["jobId"], job.job_id.as_str());
        assert_eq!(object["runId"], RUN_ID);
    };
    match answer {
        Answer::Submit(Ok(job)) => check_job(job),
        Answer::Status(Ok(StatusAnswer::Job(job))) => {
            assert_eq!(job.job_id.as_str(), ID);
            check_job(job);
        }
        Answer::List(Ok(Listed { named, jobs })) => {
            assert!(
                named.len() <= 1
                    && jobs.len() <= 10_000
                    && jobs.iter().all(|job| job.run_id.as_str() == RUN_ID)
            );
        }
        Answer::Status(Ok(StatusAnswer::Gone)) | Answer::Remove(Ok(_)) => {}
        Answer::Submit(_)
        | Answer::Status(_)
        | Answer::Remove(_)
        | Answer::List(_)
        | Answer::Push(_)
        | Answer::Ping(_) => match answer.of_service() {
            Some(Err(failure)) => check_reason(&failure.reason),
            Some(Ok(())) | None => panic!("{action:?}: {answer:?}"),
        },
    }
}

/// An answer as the service gives it, to the action of that number.
fn answer(action: u8, status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nServer: TornadoServer/6.3.3\r\nContent-Type: {content_type}\r\nDate: Sun, 22 Nov 2026 18:36:01 GMT\r\nAccess-Control-Allow-Origin: *\r\nEtag: \"0a1b\"\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [&[action], head.as_bytes(), body.as_bytes()].concat()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const JSON: &str = "application/json";
    const HTML: &str = "text/html; charset=UTF-8";
    let job = format!(
        r#"{{"jobId": "{ID}", "runId": "{RUN_ID}", "ownerId": "", "phase": "completed", "creationTime": "2026-11-22 18:36:01+00:00", "startTime": "2026-11-22 18:36:01+00:00", "endTime": "2026-11-22 18:36:05+00:00", "executionDuration": 4.0, "destruction": null, "parameters": {{"command": ["/bin/bash", "-c", "cd $JOB_SOURCE_DIR && bash bin/pipetask.sh"], "environment": [{{"name": "JOB_ID", "value": "x"}}, {{"name": "A", "value": null}}]}}, "results": [{{"id": 0, "uri": "/mnt/jobs/{ID}/out/ocps.log"}}, {{"id": 1, "uri": "\u00e9\ud83d\ude00\udcff"}}], "errorSummary": {{"message": ""}}, "jobInfo": {{}}}}"#
    );
    let list = format!("[{job}, {{\"jobId\":\"b\",\"runId\":\"other\",\"phase\":\"x\"}}, {job}, 7, {{}}]");
    let mut seeds = vec![
        answer(0, "200 OK", JSON, &job),
        answer(1, "200 OK", JSON, &job),
        answer(2, "200 OK", JSON, "{\n  \"status\": \"Success\",\n  \"message\": \"\",\n  \"code\": 200\n}"),
        answer(3, "200 OK", JSON, &list),
        answer(
            0,
            "400 Bad Request",
            HTML,
            "Invalid run_id. Must be 63 characters or less and begin with alphanumeric",
        ),
        answer(0, "500 Internal Server Error", HTML, "Job creation timed out."),
        answer(0, "500 Internal Server Error", HTML, "'command''command'"),
        answer(1, "404 Not Found", JSON, "\"\""),
        answer(
            2,
            "404 Not Found",
            HTML,
            "(404)\nReason: Not Found\nHTTP response headers: HTTPHeaderDict({})\n",
        ),
        answer(
            3,
            "500 Internal Server Error",
            "text/plain",
            "Traceback (most recent call last):\n  File \"x\"\n",
        ),
        answer(1, "301 Moved Permanently\r\nLocation: http://elsewhere/", HTML, "<html>"),
        answer(2, "204 No Content", HTML, ""),
    ];
    let chunked = |action: u8, body: &str| {
        let (a, b) = body.split_at(body.len() / 2);
        format!("{}HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: {JSON}\r\n\r\n{:x}\r\n{a}\r\n{:x};x=y\r\n{b}\r\n0\r\nX: y\r\n\r\n", char::from(action), a.len(), b.len()).into_bytes()
    };
    seeds.push(chunked(1, &job));
    seeds.push(chunked(3 | 1 << 2, &list));
    seeds.push(b"\x01HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.0 200\r\nConnection: close\r\n\r\n{}".to_vec());
    seeds
}
