//! A new life: what the last one left is taken up, in every state and without configuration.

use std::sync::Arc;

use ocps::csc::command::{Sender, Via};
use ocps::csc::event::{Ack, ExitCode, JobResult, Phase, ResultObject};
use ocps::csc::id::{ClientId, EntryKey, RunId, SeqNum};
use ocps::csc::record::{Awaited, End, Entry, Kept, Recovered, Work};
use ocps::csc::request::{Answer, ListedJob, Submission};
use ocps::csc::time::Tai;
use ocps::csc::{Input, Settings};

use super::world::{
    POLL, World, abort, execute, job, job_id, object, removed, secs, settings, time, unclear,
};

fn sender(number: i32) -> Sender {
    Sender {
        via: Via::Kafka,
        identity: "root@host".to_owned(),
        origin: 7,
        seq_num: SeqNum(number),
        sent: time(secs(0)).tai,
    }
}

fn run_id(number: i32) -> RunId {
    RunId::parse(&format!("{number}-0123456789abcdef")).unwrap()
}

fn kept(number: i32, work: Work) -> Kept {
    let key = EntryKey(u64::try_from(number).unwrap());
    let entry = Entry { key, sender: sender(number), accepted: time(secs(0)).tai, work };
    Kept { entry, job_id: None, suspected: None, end: None, said_result: false, said_ack: false }
}

fn an_execute(number: i32, prereqs: &[&str]) -> Kept {
    let submission = Submission {
        run_id: run_id(number),
        command: "run".to_owned(),
        source_url: "https://scripts".to_owned(),
        commit_ref: "main".to_owned(),
        environment: vec![("PIPELINE_URL".into(), "p.yaml".to_owned())],
        pipeline: "p.yaml".to_owned(),
    };
    let prereqs = prereqs.iter().map(|id| job_id(id)).collect();
    let work = Work::Execute {
        submission: Arc::new(submission),
        url: "http://uws".into(),
        poll_interval: POLL,
        prereqs,
    };
    kept(number, work)
}

fn a_running(number: i32, id: &str) -> Kept {
    Kept { job_id: Some(job_id(id)), ..an_execute(number, &[]) }
}

fn an_ended(number: i32, id: &str) -> Kept {
    let result = JobResult {
        job_id: job_id(id),
        exit_code: ExitCode::Completed,
        result: ResultObject::Service(object(id)),
    };
    let end = End { at: time(secs(9)).tai, result: Some(result), ack: Ack::Complete, problem: None };
    Kept { end: Some(end), ..a_running(number, id) }
}

fn an_abort(number: i32, id: &str) -> Kept {
    kept(number, Work::Abort { job_id: job_id(id), url: "http://uws".into() })
}

fn recovered(entries: Vec<Kept>) -> Input {
    let last_key = entries.iter().map(|kept| kept.entry.key.0).max().unwrap_or(0);
    Input::Recovered(Recovered { entries, seen: Vec::new(), state: None, last_key })
}

/// In STANDBY, with these.
fn reborn(entries: Vec<Kept>) -> World {
    let mut world = World::new();
    world.take();
    world.records.clear();
    world.input(recovered(entries));
    world
}

fn listed(jobs: &[(&str, i32)]) -> Answer {
    let job = |(id, number): &(&str, i32)| ListedJob { job_id: job_id(id), run_id: run_id(*number) };
    Answer::Listed(jobs.iter().map(job).collect())
}

#[test]
fn a_running_job_is_followed_on_without_configuration() {
    let mut world = reborn(vec![a_running(1, "a")]);
    world.expect(&["job_id 1 a", "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}"]);
    world.run_for(POLL);
    world.answer("GET a", job("a", Phase::Completed));
    world.expect(&["GET a", "result a 0 object of a", "ack 1 CMD_COMPLETE Done"]);
    assert_eq!(world.csc.status().recovery.running, 1);
}

#[test]
fn nothing_is_touched_before_it_has_joined() {
    let mut world = World::with(Settings { joins: true, ..settings() }, 1);
    world.take();
    world.input(recovered(vec![a_running(1, "a"), an_execute(2, &[]), an_ended(3, "c"), an_abort(4, "d")]));
    world.run_for(secs(10));
    world.expect(&[]);
    world.input(Input::Joined);
    let said = world.take();
    assert!(said.contains(&"DELETE d".to_owned()) && said.contains(&"LIST".to_owned()), "{said:?}");
}

#[test]
fn a_submission_in_doubt_is_looked_for_and_adopted() {
    let mut world = reborn(vec![an_execute(1, &[])]);
    world.expect(&["LIST"]);
    world.answer("LIST", listed(&[("a", 1)]));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    // Another one may come to life still: it is extra.
    world.run_to_answer("LIST", listed(&[("a", 1), ("b", 1)]));
    assert!(world.open_names().contains(&"DELETE b".to_owned()));
    world.answer("DELETE b", removed());
    world.converge();
}

#[test]
fn one_that_is_not_there_is_sent_again_with_its_run_id() {
    let mut world = reborn(vec![an_execute(1, &[])]);
    let begun = world.now;
    while !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", listed(&[]));
        assert!(world.now < begun + secs(60));
    }
    assert!(world.now >= begun + settings().settle_time);
    assert_eq!(world.submissions[0].run_id, run_id(1));
    world.answer("PUT 1", job("a", Phase::Active));
    world.converge();
}

#[test]
fn prerequisites_are_waited_for_before_it_is_looked_for() {
    let mut world = reborn(vec![a_running(1, "a"), an_execute(2, &["a", "x"])]);
    world.run_for(POLL);
    assert_eq!(world.open_names(), ["GET x", "GET a"]);
    world.answer("GET x", job("x", Phase::Completed));
    assert_eq!(world.open_names(), ["GET a"]);
    world.answer("GET a", job("a", Phase::Error));
    assert_eq!(world.open_names(), ["LIST"]);
    world.answer("LIST", listed(&[("b", 2)]));
    world.converge();
}

#[test]
fn what_was_not_heard_is_said_again_and_the_rest_is_not() {
    let unsaid = an_ended(1, "a");
    let no_ack = Kept { said_result: true, ..an_ended(2, "b") };
    let said = Kept { said_result: true, said_ack: true, ..an_ended(3, "c") };
    let mut world = reborn(vec![unsaid, no_ack, said]);
    world.expect(&["result a 0 object of a", "ack 1 CMD_COMPLETE Done", "ack 2 CMD_COMPLETE Done"]);
    let recovery = world.csc.status().recovery;
    assert_eq!((recovery.results, recovery.acks, recovery.running), (1, 2, 0));
    let history: Vec<i32> = world.csc.job_reports().map(|job| job.seq_num.0).collect();
    assert_eq!(history, [1, 2, 3]);
    assert!(world.records.is_empty(), "{:?}", world.records);
}

#[test]
fn the_abort_of_a_job_whose_abort_was_told_tells_it_no_more_however_old_it_is() {
    let mut old = an_ended(1, "a");
    let end = old.end.as_mut().unwrap();
    end.ack = Ack::Aborted;
    end.result.as_mut().unwrap().exit_code = ExitCode::Aborted;
    let said = |kept: Kept| Kept { said_result: true, said_ack: true, ..kept };
    let newer = (2..1200).map(|number| said(an_ended(number, &format!("b{number}"))));
    let entries = [said(old)].into_iter().chain(newer).chain([an_abort(1200, "a")]);
    let mut world = reborn(entries.collect());
    world.take();
    world.answer("DELETE a", Answer::Gone);
    world.expect(&["ack 1200 CMD_COMPLETE Done"]);
}

#[test]
fn an_abort_is_gone_on_with() {
    let mut world = reborn(vec![a_running(1, "a"), an_abort(2, "a"), an_abort(3, "a")]);
    assert_eq!(world.open_names(), ["DELETE a"]);
    world.take();
    // It was carried out before the restart.
    world.answer("DELETE a", Answer::Gone);
    world.expect(&[
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
        "ack 3 CMD_COMPLETE Done",
    ]);
    assert_eq!(world.csc.status().recovery.aborts, 2);
}

#[test]
fn a_suspect_is_looked_for_as_long_as_was_said() {
    let until = Tai(time(secs(0)).tai.0 + 1000.0);
    let ended = Kept { said_result: true, said_ack: true, suspected: Some(until), ..an_ended(1, "a") };
    let mut world = reborn(vec![ended]);
    world.run_to_answer("LIST", listed(&[("a", 1), ("b", 1)]));
    // Not the one that was kept.
    assert_eq!(world.open_names(), ["DELETE b"]);
    world.answer("DELETE b", removed());
    while world.now < secs(1000) {
        if world.open_names().contains(&"LIST".to_owned()) {
            world.answer("LIST", listed(&[]));
        }
        world.run_for(secs(5));
    }
    world.run_to_answer("LIST", listed(&[]));
    assert!(world.now < secs(1070));
    world.run_for(secs(100));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
}

#[test]
fn a_suspect_is_looked_for_once_at_least_however_long_there_was_no_daemon() {
    let until = Tai(time(secs(0)).tai.0 - 5000.0);
    let ended = Kept { said_result: true, said_ack: true, suspected: Some(until), ..an_ended(1, "a") };
    let mut world = reborn(vec![ended]);
    world.run_to_answer("LIST", listed(&[("a", 1), ("b", 1)]));
    assert_eq!(world.open_names(), ["DELETE b"]);
    world.answer("DELETE b", removed());
    world.run_to_answer("LIST", listed(&[("a", 1)]));
    world.run_for(secs(1000));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
}

#[test]
fn commands_that_were_seen_are_not_carried_out_again() {
    let mut world = World::new();
    let seen = sender(1);
    let at = Tai(time(secs(0)).tai.0 - 3000.0);
    let state = None;
    world.input(Input::Recovered(Recovered {
        entries: Vec::new(),
        seen: vec![(seen.clone(), at)],
        state,
        last_key: 0,
    }));
    world.take();
    world.command(&seen, ocps::csc::command::Order::SetLogLevel { level: 10 });
    world.expect(&[]);
    world.run_for(secs(601));
    world.command(&seen, ocps::csc::command::Order::SetLogLevel { level: 10 });
    world.expect(&["set log level 10", "logLevel 10", "ack 1 CMD_COMPLETE Done"]);
}

#[test]
fn keys_go_on() {
    let mut world = World::new();
    world.input(Input::Recovered(Recovered { last_key: 41, ..Recovered::default() }));
    world.enable();
    world.journal_at_once = false;
    world.send(execute(""));
    assert_eq!(world.unjournaled, [Awaited::Accepted(EntryKey(42))]);
}

#[test]
fn a_client_of_the_last_life_is_gone_but_its_job_is_not() {
    let mut entry = a_running(1, "a");
    entry.entry.sender.via = Via::Socket(ClientId::GONE);
    let mut world = reborn(vec![entry]);
    world.run_for(POLL);
    world.answer("GET a", job("a", Phase::Completed));
    assert!(world.take().contains(&"result a 0 object of a".to_owned()));
}

#[test]
fn a_recovered_job_can_be_aborted_and_can_be_waited_for() {
    let mut world = reborn(vec![a_running(1, "a"), a_running(2, "b")]);
    world.enable();
    world.number_from(10);
    world.send(abort("a"));
    // It may have vanished while there was no daemon: a DELETE that finds nothing would not tell.
    world.answer("GET a", job("a", Phase::Active));
    world.answer("DELETE a", unclear());
    world.send(execute("b"));
    world.converge();
    assert!(world.times("result a 255 known 1 aborted").len() == 1);
}

#[test]
fn how_a_job_ended_and_why_is_known_in_the_next_life() {
    let end = |result: Option<(ExitCode, ResultObject)>, ack: Ack, problem: &str| End {
        at: time(secs(9)).tai,
        result: result.map(|(exit_code, result)| JobResult { job_id: job_id("a"), exit_code, result }),
        ack,
        problem: Some(problem.to_owned()),
    };
    let known = |phase| ResultObject::Known { job_id: job_id("a"), run_id: Some(run_id(1)), phase };
    let service = || ResultObject::Service(object("a"));
    let failed = || Ack::Failed { reason: "no".to_owned() };
    for (end, expected) in [
        (end(Some((ExitCode::Completed, service())), Ack::Complete, "x"), "completed"),
        (end(Some((ExitCode::Error, service())), Ack::Complete, "x"), "failed"),
        (end(Some((ExitCode::Error, known(Phase::Unknown))), Ack::Complete, "x"), "vanished"),
        (end(Some((ExitCode::Error, known(Phase::Unknown))), failed(), "x"), "failed"),
        (end(Some((ExitCode::Aborted, known(Phase::Aborted))), Ack::Aborted, "x"), "aborted"),
        (end(Some((ExitCode::Aborted, service())), Ack::Aborted, "x"), "aborted"),
        (end(None, Ack::Aborted, "x"), "aborted"),
        (end(None, failed(), "x"), "refused"),
    ] {
        let world =
            reborn(vec![Kept { end: Some(end), said_ack: true, said_result: true, ..an_execute(1, &[]) }]);
        let report = world.csc.job_reports().next().unwrap();
        assert_eq!(report.outcome.unwrap().as_str(), expected);
        assert_eq!(report.problem.as_deref(), Some("x"));
    }
}

#[test]
fn an_abort_by_run_id_goes_on_whatever_became_of_its_run() {
    // It waits, and may have been sent before.
    let mut world = reborn(vec![an_execute(1, &["p"]), an_abort(2, run_id(1).as_str())]);
    world.expect(&["ack 1 CMD_ABORTED Aborted", "ack 2 CMD_COMPLETE Done"]);
    world.run_to_answer("LIST", listed(&[("a", 1)]));
    world.answer("DELETE a", removed());
    assert!(!world.is_busy());
    // It has a job.
    let mut world = reborn(vec![a_running(1, "a"), an_abort(2, run_id(1).as_str())]);
    world.run_to_answer("DELETE a", removed());
    assert_eq!(world.times("ack 2 CMD_COMPLETE Done").len(), 1);
    assert_eq!(world.times("result a 255 known 1 aborted").len(), 1);
    // The crash came between its end and that of the abort.
    let aborted = End { at: time(secs(9)).tai, result: None, ack: Ack::Aborted, problem: None };
    let ended = Kept { end: Some(aborted), said_ack: true, ..an_execute(1, &[]) };
    let mut world = reborn(vec![ended, an_abort(2, run_id(1).as_str())]);
    world.expect(&["ack 2 CMD_COMPLETE Done"]);
}

#[test]
fn a_recovered_job_that_is_not_there_when_it_is_aborted_has_vanished() {
    let mut world = reborn(vec![a_running(1, "a")]);
    world.enable();
    world.number_from(10);
    world.send(abort("a"));
    world.answer("GET a", Answer::Gone);
    world.take();
    world.run_to_answer("LIST", listed(&[]));
    world.expect(&[
        "result a 1 known 1 unknown",
        "ack 1 CMD_COMPLETE Done",
        "ack 10 CMD_FAILED Failed: No such job: a",
    ]);
}
