//! Reports of jobs, for queries and in the log: in which stage they are, how they ended, and why.

use std::collections::BTreeMap;

use ocps::csc::command::{CommandKind, Execute};
use ocps::csc::event::{LogLevel, Phase};
use ocps::csc::report::{JobOutcome, JobReport};

use super::world::{World, abort, away, execute, job, none, refused, removed, wrong};
use crate::reply::Reply;

fn report(world: &World) -> JobReport {
    world.csc.job_reports().last().unwrap()
}

#[test]
fn the_phase_at_the_service_is_reported_as_it_changes() {
    let mut world = World::submitting();
    assert_eq!(report(&world).phase, None);
    world.answer("PUT 1", job("a", Phase::Pending));
    assert_eq!(report(&world).phase, Some(Phase::Pending));
    for phase in [Phase::Queued, Phase::Active, Phase::Held, Phase::Suspended, Phase::Other] {
        world.run_to_answer("GET a", job("a", phase));
        assert_eq!(report(&world).phase, Some(phase));
        assert_eq!(world.csc.phases(), BTreeMap::from([(phase, 1)]));
    }
    world.running("b");
    assert_eq!(world.csc.phases(), BTreeMap::from([(Phase::Active, 1), (Phase::Other, 1)]));
    world.run_to_answer("GET a", away());
    assert_eq!(world.csc.job_reports().next().unwrap().phase, Some(Phase::Other));
    world.converge();
    assert!(world.csc.phases().is_empty());
}

#[test]
fn the_words_of_phases_are_those_of_the_service() {
    for word in
        ["completed", "error", "aborted", "unknown", "pending", "queued", "executing", "held", "suspended"]
    {
        assert_eq!(Phase::parse(word).as_str(), word);
    }
    for word in ["", "archived", "EXECUTING"] {
        assert_eq!((Phase::parse(word), Phase::parse(word).exit_code()), (Phase::Other, None));
    }
}

fn execute_in_full() -> CommandKind {
    CommandKind::Execute(Execute {
        pipeline: "p.yaml".to_owned(),
        version: "w_2026_40".to_owned(),
        config: String::new(),
        data_query: "visit = 3".to_owned(),
        prereq_jobs: Vec::new(),
        output_dataset_types: String::new(),
    })
}

/// How the job of an execute ended, once in the report and once in the log.
#[track_caller]
fn check(world: &World, outcome: JobOutcome, reason: Option<&str>, level: LogLevel) {
    let report = report(world);
    assert_eq!((report.outcome, report.problem.as_deref()), (Some(outcome), reason));
    assert_eq!((report.version.as_str(), report.data_query.as_str()), ("w_2026_40", "visit = 3"));
    let name = match &report.job_id {
        Some(job_id) => format!("job {job_id} of run {}", report.run_id.as_str()),
        None => format!("run {}", report.run_id.as_str()),
    };
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let line = format!(
        "{name} {}{reason}; pipeline p.yaml, version w_2026_40, data_query visit = 3, for root@host",
        outcome.as_str()
    );
    assert!(world.logged.contains(&(level, line.clone())), "{line}: {:?}", world.logged);
}

#[test]
fn each_end_is_reported_with_its_reason() {
    let gone = "the service does not know it any more";
    let broken = || Reply::Broken { report: "broken".to_owned() };
    for (answer, outcome, reason) in [
        (job("a", Phase::Completed), JobOutcome::Completed, None),
        (job("a", Phase::Error), JobOutcome::Failed, Some("phase error")),
        (job("a", Phase::Aborted), JobOutcome::Failed, Some("aborted at the service, not by abort_job")),
        (
            job("a", Phase::Unknown),
            JobOutcome::Failed,
            Some("the service does not know how it ended (phase unknown)"),
        ),
        (Reply::Gone, JobOutcome::Vanished, Some(gone)),
        (broken(), JobOutcome::Failed, Some("broken")),
    ] {
        let level = if outcome == JobOutcome::Completed { LogLevel::Info } else { LogLevel::Warning };
        let mut world = World::enabled();
        world.send(execute_in_full());
        world.answer("PUT 1", job("a", Phase::Active));
        // What went wrong on the way is not why it ended.
        world.run_to_answer("GET a", wrong());
        world.run_to_answer("GET a", answer);
        if outcome == JobOutcome::Vanished {
            world.run_to_answer("GET a", Reply::Gone);
            world.run_to_answer("LIST", none());
        }
        check(&world, outcome, reason, level);
    }
    let mut world = World::enabled();
    world.send(execute_in_full());
    world.answer("PUT 1", job("a", Phase::Active));
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    check(&world, JobOutcome::Aborted, Some("abort_job of root@host"), LogLevel::Info);
    for answer in [Reply::Rejected { reason: "no luck".to_owned() }, refused()] {
        let mut world = World::enabled();
        world.send(execute_in_full());
        while world.is_busy() {
            let name = world.open_names().remove(0);
            let answer = if name == "LIST" { none() } else { answer.clone() };
            world.answer(&name, answer);
            world.tick();
            world.now = world.now.max(world.csc.next_deadline());
            world.tick();
        }
        check(&world, JobOutcome::Refused, Some("no luck"), LogLevel::Warning);
        let failures = world.logged.iter().filter(|(_, line)| line.contains("no luck; pipeline"));
        assert_eq!(failures.count(), 1);
        assert!(!world.logged.iter().any(|(_, line)| line.starts_with("execute of")));
    }
}

#[test]
fn long_texts_are_cut() {
    let mut world = World::enabled();
    let CommandKind::Execute(mut long) = execute("") else { panic!() };
    long.data_query = "é".repeat(5000);
    world.send(CommandKind::Execute(long));
    let shown = format!("{}…", "é".repeat(2000));
    assert_eq!(report(&world).data_query, shown);
    world.answer("PUT 1", job("a", Phase::Completed));
    assert_eq!(report(&world).data_query, shown);
}

#[test]
fn a_report_names_the_prerequisites_a_job_waits_for() {
    let mut world = World::enabled();
    let waits_for = |world: &World| {
        report(world).waits_for.iter().map(|job_id| job_id.as_str().to_owned()).collect::<Vec<_>>()
    };
    world.journal_at_once = false;
    world.send(execute("b,a"));
    assert_eq!(waits_for(&world), ["b", "a"]);
    world.journal_at_once = true;
    world.journal_all();
    assert_eq!(waits_for(&world), ["a", "b"]);
    world.answer("GET a", job("a", Phase::Completed));
    assert_eq!(waits_for(&world), ["b"]);
    world.answer("GET b", job("b", Phase::Completed));
    assert!(waits_for(&world).is_empty());
    world.converge();
}
