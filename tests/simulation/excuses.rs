//! Where a command may end otherwise in a later process than was published before, each with the reason why.
//!
//! All of them need a disk that failed or hung, and a crash before it worked again. Only then is published what is not
//! durable: a disk must not silence us for good.

use std::time::Duration;

use ocps::csc::event::{Ack, Phase, ResultObject};
use ocps::csc::id::JobId;
use ocps::csc::record::{Completion, Work};

use super::accepted::Accepted;
use super::service::{Service, run_of};

/// Whether the service said about this run or job what is not so. Whoever believes a lie repeats it, and finds out
/// or not.
pub(crate) fn is_lied_about(services: &[Service], name: &str) -> bool {
    services.iter().any(|service| service.lied_about.contains(name))
}

fn is_lied_about_command(services: &[Service], command: &Accepted) -> bool {
    match &command.entry.work {
        Work::Execute { submission, .. } => is_lied_about(services, submission.run_id.as_str()),
        Work::Abort { job_id, .. } => is_lied_about(services, job_id.as_str()),
    }
}

/// Whether the command was refused since its record was not durable in time.
pub(crate) fn is_disk_refusal(ack: &Ack) -> bool {
    matches!(ack, Ack::Failed { reason } if reason.ends_with("nothing was sent to the execution service"))
}

fn is_failure(ack: &Ack) -> bool {
    matches!(ack, Ack::Failed { .. })
}

fn job_of(end: &Completion) -> Option<&JobId> {
    end.result.as_ref().map(|result| &result.job_id)
}

pub(crate) fn is_unknown(end: &Completion) -> bool {
    let phase = end.result.as_ref().map(|result| &result.result);
    matches!(phase, Some(ResultObject::Known { phase: Phase::Unknown, .. }))
}

/// Why a command ends otherwise than was published by a process that forgot it.
pub(crate) fn other_end<'a>(
    now: Duration,
    command: &Accepted,
    old: &Completion,
    new: &Completion,
    mut others: impl Iterator<Item = &'a Accepted>,
    services: &[Service],
) -> Option<&'static str> {
    if is_lied_about_command(services, command) {
        return Some("the service lied");
    }
    if is_disk_refusal(&old.ack) {
        return Some("refused for the disk's sake, but it became durable");
    }
    let is_abort = matches!(command.entry.work, Work::Abort { .. });
    match (job_of(old), job_of(new)) {
        // The next process may have sent its DELETE before, and so takes its absence for success.
        _ if is_abort && is_failure(&old.ack) && new.ack == Ack::Complete => {
            Some("no such job, but an abort that is taken up again cannot know that")
        }
        // The execute of the same job was over, which was forgotten too: now this one publishes the result.
        (None, Some(_)) | (Some(_), None) if is_abort && old.ack == new.ack => {
            Some("the result is published by another command")
        }
        (None, _) if is_failure(&old.ack) => Some("given up, but that was forgotten"),
        (Some(before), Some(after)) if before != after && command.forgotten.contains(before) => {
            Some("its job was forgotten, and another one of its run is kept")
        }
        (Some(before), None) if is_failure(&new.ack) && command.forgotten.contains(before) => {
            Some("its job was forgotten, and not found for too long")
        }
        (Some(before), None) if new.ack == Ack::Aborted && command.forgotten.contains(before) => {
            Some("its job was forgotten, and its run was aborted before it was found")
        }
        (Some(before), Some(after)) if before == after && is_unknown(new) => {
            let job = services.iter().find_map(|service| service.job(before));
            job.is_some_and(|job| !job.is_alive(now)).then_some("its job is not at the service any more")
        }
        (Some(before), Some(after)) if before == after && new.ack == Ack::Aborted => others
            .any(|other| other.is_durable && other.aborts(before, run_of(services, before)))
            .then_some("its job was aborted when it was forgotten that it had ended"),
        _ => None,
    }
}

/// Why a job whose id was published has no result.
pub(crate) fn no_result(command: &Accepted, job_id: &JobId, services: &[Service]) -> Option<&'static str> {
    if is_lied_about_command(services, command) || is_lied_about(services, job_id.as_str()) {
        return Some("the service lied");
    }
    command.forgotten.contains(job_id).then_some("a job without a result: it was forgotten")
}
