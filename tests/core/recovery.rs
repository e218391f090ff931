//! A restart: what the previous run left is resumed, in every state and without configuration.

use std::sync::Arc;

use ocps::csc::command::{CommandKind, Sender, Via};
use ocps::csc::configuration::Polling;
use ocps::csc::event::{Ack, ExitCode, JobResult, Phase, ResultObject};
use ocps::csc::history::{Note, NoteKind};
use ocps::csc::id::{ClientId, EntryKey, RunId, SeqNum};
use ocps::csc::record::{AcceptedCommand, Awaited, Completion, Record, Recovered, RecoveredCommand, Work};
use ocps::csc::request::{ListedJob, Submission};
use ocps::csc::time::{BootId, Tai, Uptime};
use ocps::csc::{Input, Settings};

use super::world::{
    POLL, World, abort, execute, job, job_id, object, removed, secs, settings, time, unclear,
};
use crate::reply::Reply;

fn sender(number: i32) -> Sender {
    Sender {
        via: Via::Kafka,
        identity: "root@host".to_owned(),
        origin: 7,
        seq_num: SeqNum(number),
        sent: time(secs(0)).tai,
    }
}

pub(super) fn run_id(number: i32) -> RunId {
    RunId::parse(&format!("{number}-0123456789abcdef")).unwrap()
}

fn kept(number: i32, work: Work) -> RecoveredCommand {
    let key = EntryKey(u64::try_from(number).unwrap());
    let entry =
        AcceptedCommand { key, sender: sender(number), accepted: time(secs(0)).tai, uptime: None, work };
    RecoveredCommand {
        entry,
        job_id: None,
        suspected: None,
        end: None,
        result_delivered: false,
        ack_delivered: false,
        notes: Vec::new(),
    }
}

pub(super) fn an_execute(number: i32, prereqs: &[&str]) -> RecoveredCommand {
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

pub(super) fn a_running(number: i32, id: &str) -> RecoveredCommand {
    RecoveredCommand { job_id: Some(job_id(id)), ..an_execute(number, &[]) }
}

pub(super) fn an_ended(number: i32, id: &str) -> RecoveredCommand {
    let result = JobResult {
        job_id: job_id(id),
        exit_code: ExitCode::Completed,
        result: ResultObject::Service(object(id)),
    };
    let end = Completion { at: time(secs(9)).tai, result: Some(result), ack: Ack::Complete, problem: None };
    RecoveredCommand { end: Some(end), ..a_running(number, id) }
}

fn an_abort(number: i32, id: &str) -> RecoveredCommand {
    kept(number, Work::Abort { job_id: job_id(id), url: "http://uws".into() })
}

fn recovered(entries: Vec<RecoveredCommand>) -> Input {
    let last_key = entries.iter().map(|kept| kept.entry.key.0).max().unwrap_or(0);
    Input::Recovered(Recovered { entries, last_key, ..Recovered::default() })
}

/// In STANDBY, with these.
pub(super) fn restarted(entries: Vec<RecoveredCommand>) -> World {
    restarted_with(settings(), entries)
}

fn restarted_with(settings: Settings, entries: Vec<RecoveredCommand>) -> World {
    let mut world = World::with(settings, 1);
    world.take();
    world.records.clear();
    world.input(recovered(entries));
    world
}

fn listed(jobs: &[(&str, i32)]) -> Reply {
    let job = |(id, number): &(&str, i32)| ListedJob {
        job_id: job_id(id),
        run_id: run_id(*number),
        phase: Phase::Active,
        ended: None,
    };
    Reply::Listed(jobs.iter().map(job).collect())
}

#[test]
fn a_running_job_is_tracked_without_configuration() {
    let mut world = restarted(vec![a_running(1, "a")]);
    world.expect(&["job_id 1 a", "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}"]);
    world.run_for(POLL);
    world.answer("GET a", job("a", Phase::Completed));
    world.expect(&["GET a", "result a 0 object of a", "ack 1 CMD_COMPLETE Done"]);
    assert_eq!(world.csc.status().recovery.running, 1);
}

#[test]
fn the_first_round_of_many_jobs_is_one_list() {
    let settings = Settings { polling: Polling::Auto { from: 10 }, max_jobs: 100, ..settings() };
    let ids: Vec<String> = (1..=100).map(|number| format!("j{number}")).collect();
    let jobs: Vec<(&str, i32)> = ids.iter().map(String::as_str).zip(1..).collect();
    let entries = jobs.iter().map(|(id, number)| a_running(*number, id)).collect();
    let mut world = restarted_with(settings, entries);
    world.tick();
    world.answer("LIST", listed(&jobs));
    world.take();
    world.run_for(POLL - secs(1));
    let lines = world.take();
    assert!(lines.len() == 1 && lines[0].starts_with("GET j"), "{lines:?}");
}

#[test]
fn nothing_is_touched_before_it_has_joined() {
    let mut world = World::with(Settings { joins: true, ..settings() }, 1);
    world.take();
    world.input(recovered(vec![a_running(1, "a"), an_execute(2, &[]), an_ended(3, "c"), an_abort(4, "d")]));
    world.run_for(secs(10));
    world.expect(&[]);
    world.input(Input::Joined);
    let lines = world.take();
    assert!(lines.contains(&"DELETE d".to_owned()) && lines.contains(&"LIST".to_owned()), "{lines:?}");
}

#[test]
fn a_submission_in_doubt_is_looked_up_and_adopted() {
    let mut world = restarted(vec![an_execute(1, &[])]);
    world.expect(&["LIST"]);
    world.answer("LIST", listed(&[("a", 1)]));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    // Another job may still appear: it is a duplicate.
    world.run_to_answer("LIST", listed(&[("a", 1), ("b", 1)]));
    assert!(world.open_names().contains(&"DELETE b".to_owned()));
    world.answer("DELETE b", removed());
    world.converge();
}

#[test]
fn a_submission_without_a_job_is_sent_again_with_its_run_id() {
    let mut world = restarted(vec![an_execute(1, &[])]);
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
fn prerequisites_are_waited_for_before_the_job_is_looked_up() {
    let mut world = restarted(vec![a_running(1, "a"), an_execute(2, &["a", "x"])]);
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
fn only_undelivered_messages_are_sent_again() {
    let undelivered = an_ended(1, "a");
    let no_ack = RecoveredCommand { result_delivered: true, ..an_ended(2, "b") };
    let delivered = RecoveredCommand { result_delivered: true, ack_delivered: true, ..an_ended(3, "c") };
    let mut world = restarted(vec![undelivered, no_ack, delivered]);
    world.expect(&["result a 0 object of a", "ack 1 CMD_COMPLETE Done", "ack 2 CMD_COMPLETE Done"]);
    let recovery = world.csc.status().recovery;
    assert_eq!((recovery.results, recovery.acks, recovery.running), (1, 2, 0));
    let history: Vec<i32> = world.csc.job_reports().map(|job| job.seq_num.0).collect();
    assert_eq!(history, [1, 2, 3]);
    assert!(world.records.is_empty(), "{:?}", world.records);
}

#[test]
fn an_abort_that_was_published_is_not_published_again_however_old_it_is() {
    let mut old = an_ended(1, "a");
    let end = old.end.as_mut().unwrap();
    end.ack = Ack::Aborted;
    end.result.as_mut().unwrap().exit_code = ExitCode::Aborted;
    let delivered =
        |kept: RecoveredCommand| RecoveredCommand { result_delivered: true, ack_delivered: true, ..kept };
    let newer = (2..1200).map(|number| delivered(an_ended(number, &format!("b{number}"))));
    let entries = [delivered(old)].into_iter().chain(newer).chain([an_abort(1200, "a")]);
    let mut world = restarted(entries.collect());
    world.take();
    world.answer("DELETE a", Reply::Gone);
    world.expect(&["ack 1200 CMD_COMPLETE Done"]);
}

#[test]
fn an_abort_is_gone_on_with() {
    let mut world = restarted(vec![a_running(1, "a"), an_abort(2, "a"), an_abort(3, "a")]);
    assert_eq!(world.open_names(), ["DELETE a"]);
    world.take();
    // It was carried out before the restart.
    world.answer("DELETE a", Reply::Gone);
    world.expect(&[
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
        "ack 3 CMD_COMPLETE Done",
    ]);
    assert_eq!(world.csc.status().recovery.aborts, 2);
}

#[test]
fn a_possible_duplicate_is_looked_up_for_an_hour_again_whatever_the_clock_shows() {
    // By our clock that is long over.
    let until = Tai(time(secs(0)).tai.0 - 4.0 * 3600.0);
    let ended = RecoveredCommand {
        result_delivered: true,
        ack_delivered: true,
        suspected: Some(until),
        ..an_ended(1, "a")
    };
    let mut world = restarted(vec![ended]);
    world.run_to_answer("LIST", listed(&[("a", 1), ("b", 1)]));
    // Not the one that was kept.
    assert_eq!(world.open_names(), ["DELETE b"]);
    world.answer("DELETE b", removed());
    let cleared = Record::Cleared { key: EntryKey(1) };
    while world.now < secs(3599) {
        assert!(!world.records.contains(&cleared));
        if world.open_names().contains(&"LIST".to_owned()) {
            world.answer("LIST", listed(&[]));
        }
        world.run_for(secs(5));
    }
    // The last look is asked for after that time.
    world.run_to_answer("LIST", listed(&[("a", 1)]));
    assert!(world.now < secs(3700));
    world.run_for(secs(100));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
    // Only now may the next run not know it.
    assert!(world.records.contains(&cleared));
}

#[test]
fn commands_that_were_seen_are_not_carried_out_again() {
    let mut world = World::new();
    let seen = sender(1);
    world.input(Input::Recovered(Recovered { seen: vec![seen.clone()], ..Recovered::default() }));
    world.take();
    world.command(&seen, CommandKind::SetLogLevel { level: 10 });
    world.expect(&[]);
    world.run_for(secs(4000));
    world.command(&seen, CommandKind::SetLogLevel { level: 10 });
    world.expect(&[]);
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
fn a_client_of_the_previous_run_is_gone_but_its_job_is_not() {
    let mut entry = a_running(1, "a");
    entry.entry.sender.via = Via::Socket(ClientId::GONE);
    let mut world = restarted(vec![entry]);
    world.run_for(POLL);
    world.answer("GET a", job("a", Phase::Completed));
    assert!(world.take().contains(&"result a 0 object of a".to_owned()));
}

#[test]
fn a_recovered_job_can_be_aborted_and_can_be_waited_for() {
    let mut world = restarted(vec![a_running(1, "a"), a_running(2, "b")]);
    world.enable();
    world.number_from(10);
    world.send(abort("a"));
    // It may have vanished while there was no daemon: a DELETE that finds nothing would not show that.
    world.answer("GET a", job("a", Phase::Active));
    world.answer("DELETE a", unclear());
    world.send(execute("b"));
    world.converge();
    assert!(world.times("result a 255 known 1 aborted").len() == 1);
}

#[test]
fn how_and_why_a_job_ended_is_known_in_the_next_run() {
    let end = |result: Option<(ExitCode, ResultObject)>, ack: Ack, problem: &str| Completion {
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
        let world = restarted(vec![RecoveredCommand {
            end: Some(end),
            ack_delivered: true,
            result_delivered: true,
            ..an_execute(1, &[])
        }]);
        let report = world.csc.job_reports().next().unwrap();
        assert_eq!(report.outcome.unwrap().as_str(), expected);
        assert_eq!(report.problem.as_deref(), Some("x"));
    }
}

#[test]
fn an_abort_by_run_id_continues_in_whatever_condition_its_run_is() {
    // It waits, and may have been sent before.
    let mut world = restarted(vec![an_execute(1, &["p"]), an_abort(2, run_id(1).as_str())]);
    world.expect(&["ack 1 CMD_ABORTED Aborted", "ack 2 CMD_COMPLETE Done"]);
    world.run_to_answer("LIST", listed(&[("a", 1)]));
    world.answer("DELETE a", removed());
    assert!(!world.is_busy());
    // It has a job.
    let mut world = restarted(vec![a_running(1, "a"), an_abort(2, run_id(1).as_str())]);
    world.run_to_answer("DELETE a", removed());
    assert_eq!(world.times("ack 2 CMD_COMPLETE Done").len(), 1);
    assert_eq!(world.times("result a 255 known 1 aborted").len(), 1);
    // The crash came between its end and that of the abort.
    let aborted = Completion { at: time(secs(9)).tai, result: None, ack: Ack::Aborted, problem: None };
    let ended = RecoveredCommand { end: Some(aborted), ack_delivered: true, ..an_execute(1, &[]) };
    let mut world = restarted(vec![ended, an_abort(2, run_id(1).as_str())]);
    world.expect(&["ack 2 CMD_COMPLETE Done"]);
}

#[test]
fn a_recovered_job_that_is_not_there_when_it_is_aborted_has_vanished() {
    let mut world = restarted(vec![a_running(1, "a")]);
    world.enable();
    world.number_from(10);
    world.send(abort("a"));
    world.answer("GET a", Reply::Gone);
    world.take();
    world.run_to_answer("LIST", listed(&[]));
    world.expect(&[
        "result a 1 known 1 unknown",
        "ack 1 CMD_COMPLETE Done",
        "ack 10 CMD_FAILED Failed: No such job: a",
    ]);
}

/// A run on the third boot of the machine, which has been up for an hour.
fn on_this_boot() -> Settings {
    Settings { uptime: Some(Uptime { boot: BootId(3), since: secs(3600) }), ..settings() }
}

/// What becomes of an execute in doubt that was accepted so many seconds ago by the clock, and at this uptime.
#[track_caller]
fn doubt(settings: Settings, ago_s: f64, uptime: Option<Uptime>) -> World {
    let mut kept = an_execute(1, &[]);
    kept.entry.accepted = Tai(time(secs(0)).tai.0 - ago_s);
    kept.entry.uptime = uptime;
    let mut world = restarted_with(settings, vec![kept]);
    while world.is_busy() && !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", listed(&[]));
        assert!(world.now < secs(60));
    }
    world
}

#[track_caller]
fn assert_unclear(mut world: World) {
    assert!(world.submissions.is_empty());
    world.expect(&["LIST", "LIST", "LIST", "LIST", "LIST", "LIST",
        "ack 1 CMD_FAILED Failed: run 1-0123456789abcdef may have been submitted more than 1800 s ago, and a job that \
         ended since may not be listed any more: look for its output before you send the command again; it is unclear \
         whether a job with run id 1-0123456789abcdef was created: if one shows up within an hour, it is removed",
    ]);
    // Should the job appear after all, it is a duplicate.
    world.run_to_answer("LIST", listed(&[("a", 1)]));
    assert_eq!(world.open_names(), ["DELETE a"]);
}

#[track_caller]
fn assert_sent_again(mut world: World) {
    assert_eq!(world.submissions.len(), 1);
    world.answer("PUT 1", job("a", Phase::Active));
    world.converge();
}

#[test]
fn old_doubt_is_not_sent_again() {
    assert_sent_again(doubt(settings(), 1700.0, None));
    assert_unclear(doubt(settings(), 1801.0, None));
    // The clock has been set back, and nobody knows how old it is.
    assert_unclear(doubt(settings(), -1.0, None));
}

#[test]
fn doubt_is_not_old_if_its_prerequisite_was_active_since_unless_it_was_taken_for_missing() {
    let missing = Note { number: 0, at: time(secs(0)).tai, kind: NoteKind::MissingPrereq, about: "x".into() };
    for (notes, sent) in [(vec![], 1), (vec![missing], 0)] {
        let mut kept = RecoveredCommand { notes, ..an_execute(1, &["x"]) };
        kept.entry.accepted = Tai(time(secs(0)).tai.0 - 1801.0);
        let mut world = restarted(vec![kept]);
        world.run_to_answer("GET x", job("x", Phase::Active));
        world.run_to_answer("GET x", job("x", Phase::Completed));
        while world.is_busy() && !world.open_names().contains(&"PUT 1".to_owned()) {
            world.run_to_answer("LIST", listed(&[]));
            assert!(world.now < secs(90));
        }
        assert_eq!(world.submissions.len(), sent);
    }
}

#[test]
fn within_a_boot_of_the_machine_no_clock_makes_doubt_older_or_younger() {
    let up = |boot, secs_| Some(Uptime { boot: BootId(boot), since: secs(secs_) });
    // By the clock it is four hours old, or not yet accepted; by the machine's count five minutes.
    assert_sent_again(doubt(on_this_boot(), 4.0 * 3600.0, up(3, 3300)));
    assert_sent_again(doubt(on_this_boot(), -4.0 * 3600.0, up(3, 3300)));
    assert_unclear(doubt(on_this_boot(), 10.0, up(3, 1700)));
    // Another boot counts from another beginning.
    assert_sent_again(doubt(on_this_boot(), 10.0, up(2, 1700)));
    assert_unclear(doubt(on_this_boot(), 4.0 * 3600.0, up(2, 3300)));
}

#[test]
fn no_age_is_known_by_a_clock_that_is_behind_the_records() {
    // Another command ended an hour later than now, by the clock of that time.
    let mut young = an_execute(1, &[]);
    young.entry.accepted = Tai(time(secs(0)).tai.0 - 10.0);
    let mut later = an_ended(2, "b");
    later.end.as_mut().unwrap().at = Tai(time(secs(0)).tai.0 + 3600.0);
    let later = RecoveredCommand { result_delivered: true, ack_delivered: true, ..later };
    let mut world = restarted_with(on_this_boot(), vec![young, later]);
    while world.is_busy() && world.submissions.is_empty() {
        world.run_to_answer("LIST", listed(&[]));
    }
    assert!(world.submissions.is_empty());
}

#[test]
fn what_waits_for_a_job_that_is_active_was_not_sent_however_old_it_is() {
    let mut kept = an_execute(1, &["x"]);
    kept.entry.accepted = Tai(time(secs(0)).tai.0 - 1e5);
    let mut world = restarted(vec![kept]);
    for _ in 0..1000 {
        world.run_to_answer("GET x", job("x", Phase::Active));
    }
    world.run_to_answer("GET x", job("x", Phase::Completed));
    while !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", listed(&[]));
    }
    world.answer("PUT 1", job("a", Phase::Active));
    world.converge();
}

fn found(jobs: &[(&str, &str)]) -> Reply {
    let job = |(id, run): &(&str, &str)| ListedJob {
        job_id: job_id(id),
        run_id: RunId::parse(run).unwrap(),
        phase: Phase::Active,
        ended: None,
    };
    Reply::Listed(jobs.iter().map(job).collect())
}

/// A run whose journal is new, or an old copy with these commands.
fn without_a_journal(entries: Vec<RecoveredCommand>) -> World {
    let mut world = World::new();
    let last_key = entries.iter().map(|kept| kept.entry.key.0).max().unwrap_or(0);
    world.input(Input::Recovered(Recovered { entries, last_key, unsearched: true, ..Recovered::default() }));
    world.take();
    world
}

#[test]
fn without_a_journal_jobs_of_our_index_are_found_at_the_service_and_tracked() {
    let mut world = without_a_journal(Vec::new());
    world.run_for(secs(10));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
    world.enable();
    world.run_to("LIST");
    assert_eq!(world.asked_for(), Some(settings().index));
    // The service is asked until it says.
    world.answer("LIST", unclear());
    world.run_to("LIST");
    assert!(!world.records.contains(&Record::Searched));
    let jobs = [("a", "17-ocps1-x"), ("b", "17-ocps1-x"), ("c", "18-ocps2-x"), ("d", "19-x")];
    world.take();
    world.answer("LIST", found(&jobs));
    assert!(world.records.contains(&Record::Searched));
    // One of each run is kept, and others are none of our business.
    world.expect(&["journal", "ack 17 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 17 a"]);
    // A second one is extra.
    world.run_to_answer("LIST", found(&jobs));
    world.answer("DELETE b", removed());
    assert_eq!(world.csc.status().recovery.found, 1);
    let logged = world.logged.iter().any(|(_, line)| {
        line.starts_with("jobs of index 1 (LATISS) that run at the service and are not in the journal: 1;")
            && line.ends_with(": a (run 17-ocps1-x)")
    });
    assert!(logged, "{:?}", world.logged);
    world.run_to_answer("GET a", job("a", Phase::Completed));
    assert!(world.take().contains(&"result a 0 object of a".to_owned()));
    // Never again.
    world.number_from(100);
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.enable();
    assert_eq!(world.asked_for(), None);
    world.converge();
}

#[test]
fn what_an_old_copy_of_the_journal_knows_is_not_found_again() {
    let mut running = a_running(17, "a");
    let mut ended = an_ended(18, "b");
    for (kept, run) in [(&mut running, "17-ocps1-x"), (&mut ended, "18-ocps1-x")] {
        let Work::Execute { submission, .. } = &mut kept.entry.work else { unreachable!() };
        Arc::make_mut(submission).run_id = RunId::parse(run).unwrap();
    }
    let ended = RecoveredCommand { result_delivered: true, ack_delivered: true, ..ended };
    let mut world = without_a_journal(vec![running, ended]);
    world.enable();
    world.run_to("LIST");
    world.take();
    let jobs = [("a", "17-ocps1-x"), ("b", "18-ocps1-x"), ("c", "19-ocps1-x")];
    world.answer("LIST", found(&jobs));
    world.expect(&["journal", "ack 19 CMD_INPROGRESS {\"job_id\":\"c\"}", "job_id 19 c"]);
    world.converge();
}

#[test]
fn jobs_that_ended_are_shown_for_as_long_as_history_is_kept() {
    let settings = Settings { history: secs(3600), ..settings() };
    let delivered =
        |kept: RecoveredCommand| RecoveredCommand { result_delivered: true, ack_delivered: true, ..kept };
    let mut old = an_ended(1, "a");
    old.end.as_mut().unwrap().at = Tai(time(secs(0)).tai.0 - 3000.0);
    let mut world = restarted_with(settings, vec![delivered(old), delivered(an_ended(2, "b"))]);
    let shown = |world: &World| world.csc.job_reports().map(|job| job.seq_num.0).collect::<Vec<_>>();
    assert_eq!(shown(&world), [1, 2]);
    world.run_for(secs(605));
    assert_eq!(shown(&world), [2]);
}
