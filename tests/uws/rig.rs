//! A client, what it is asked for, and its answers in few words.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ocps::backend::Backend;
use ocps::backend::uws::Uws;
use ocps::config::settings;
use ocps::csc::id::{JobId, RunId};
use ocps::csc::request::{Action, Answer, Submission, Wanted};

use crate::support::reply::Reply;
use crate::support::uws_fault::What;
use crate::support::uws_job::Timing;
use crate::support::uws_service::Options;

pub(crate) const ID: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn settings(timeout: Duration) -> settings::Uws {
    settings::Uws {
        connect_timeout: timeout,
        put_timeout: timeout,
        get_timeout: timeout,
        list_timeout: timeout,
        delete_timeout: timeout,
        connections: 4,
        ..settings::Uws::default()
    }
}

pub(crate) fn client() -> Uws {
    Uws::new(&settings(Duration::from_secs(60))).unwrap()
}

pub(crate) fn submission(run_id: &str, environment: Vec<(&'static str, String)>) -> Submission {
    let Some(run_id) = RunId::parse(run_id) else { panic!("bad run id {run_id}") };
    let uws = settings(Duration::ZERO);
    Submission {
        run_id,
        command: uws.command,
        source_url: uws.source_url,
        commit_ref: uws.commit_ref,
        environment: environment.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        pipeline: "p.yaml".to_owned(),
    }
}

pub(crate) fn submit(run_id: &str) -> Action {
    Action::Submit(Arc::new(submission(run_id, vec![("DATA_QUERY", "exposure=1".to_owned())])))
}

pub(crate) fn status(job_id: &str, run_id: Option<&str>) -> Action {
    Action::Status { job_id: JobId::parse(job_id).unwrap(), run_id: run_id.and_then(RunId::parse) }
}

pub(crate) fn remove(job_id: &str) -> Action {
    Action::Remove { job_id: JobId::parse(job_id).unwrap() }
}

pub(crate) fn list(run_ids: &[&str]) -> Action {
    Action::List(Wanted {
        run_ids: Arc::new(run_ids.iter().filter_map(|id| RunId::parse(id)).collect::<BTreeSet<_>>()),
        job_ids: Arc::default(),
        active_of: None,
    })
}

pub(crate) fn four_actions() -> [Action; 4] {
    [submit("1-a"), status(ID, Some("1-a")), remove(ID), list(&["1-a"])]
}

/// The answer in short, and its reason.
pub(crate) fn short(answer: &Answer) -> (String, String) {
    match Reply::from(answer.clone()) {
        // How far it has come depends on the machine.
        Reply::Job(job) if job.phase.exit_code().is_none() => ("job Active".to_owned(), String::new()),
        Reply::Job(job) => (format!("job {:?}", job.phase), String::new()),
        Reply::Gone => ("gone".to_owned(), String::new()),
        Reply::Removed { .. } => ("removed".to_owned(), String::new()),
        Reply::Listed(jobs) => (format!("listed {}", jobs.len()), String::new()),
        Reply::Done => ("done".to_owned(), String::new()),
        Reply::Rejected { reason } => ("rejected".to_owned(), reason),
        Reply::Broken { report } => ("broken".to_owned(), report),
        Reply::Failed(f) => (format!("{:?} {:?}", f.kind, f.contact), f.reason),
    }
}

/// Asks, and checks the answer in short and that its reason is one line that names the url.
pub(crate) fn check(client: &Uws, url: &str, action: &Action, expected: &str) -> String {
    let (label, reason) = short(&client.perform(&url.into(), action));
    assert_eq!(label, expected, "{action:?}: {reason}");
    assert!(!reason.contains('\n') && reason.len() < 1000, "{reason}");
    assert!(reason.is_empty() || reason.contains("/job") || url.len() > 300, "{reason}");
    assert!(!reason.starts_with(char::is_uppercase), "{reason}");
    reason
}

pub(crate) fn job_id(answer: Answer) -> String {
    match answer {
        Answer::Submit(Ok(job)) => job.job_id.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn status_fault(code: u16, content_type: &str, body: &str) -> What {
    What::Status { code, content_type: content_type.to_owned(), body: body.to_owned() }
}

pub(crate) fn quick() -> Options {
    let timing = Timing { pending: 0.15, queued: 0.15, duration: 0.15, ..Timing::default() };
    Options { timing, creation_wait: Duration::from_millis(300), ..Options::default() }
}

/// What a gateway answers instead of the service.
pub(crate) fn gateway(code: u16, headers: &[(&str, &str)], body: &str) -> What {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    What::Gateway { code, headers, body: body.to_owned() }
}
