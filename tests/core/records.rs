//! What is journaled, and what happens when it cannot be.

use std::time::Duration;

use ocps::csc::event::{Ack, ErrorCode, Phase};
use ocps::csc::id::EntryKey;
use ocps::csc::record::{Awaited, Deliverable, Receipt, Record};
use ocps::csc::state::SummaryState;
use ocps::csc::{Effect, Input, Settings};

use super::world::{World, abort, execute, job, none, removed, secs, settings, unclear};

const FULL: &str = "the journal cannot be written: disk full";

/// The records of one command without notes, in few words.
fn records(world: &World) -> Vec<String> {
    let records = world.records.iter().filter(|record| !record.is_note());
    let lines = records.map(|record| match record {
        Record::Accepted(entry) => format!("accepted {}", entry.key.0),
        Record::Created { key, job_id } => format!("created {} {job_id}", key.0),
        Record::Suspected { key, .. } => format!("suspected {}", key.0),
        Record::Cleared { key } => format!("cleared {}", key.0),
        Record::Ended { key, end } => {
            let ack = match &end.ack {
                Ack::InProgress { .. } => panic!("not an end"),
                Ack::Complete => "complete",
                Ack::Aborted => "aborted",
                Ack::Failed { .. } => "failed",
            };
            format!("ended {} {ack} {:?}", key.0, end.result.as_ref().map(|r| r.exit_code.number()))
        }
        Record::Noted { .. } => panic!("left out"),
        Record::Delivered(_) => panic!("the core does not know what was delivered"),
        Record::Seen { sender, .. } => format!("seen {}", sender.seq_num.0),
        Record::Searched => "searched".to_owned(),
        Record::State { state, override_name } => format!("state {state} {override_name}"),
    });
    lines.collect()
}

#[test]
fn each_step_of_a_command_is_kept() {
    let mut world = World::enabled();
    assert_eq!(records(&world), ["state STANDBY ", "state DISABLED ", "state ENABLED "]);
    world.records.clear();
    world.send_by_kafka(execute(""));
    world.answer("PUT 1", unclear());
    while !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", none());
    }
    world.answer("PUT 1", job("a", Phase::Active));
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    let all = ["seen 1", "accepted 1", "created 1 a", "suspected 1", "accepted 2"];
    let ends = ["ended 1 aborted Some(255)", "ended 2 complete None"];
    assert_eq!(records(&world), [&all[..], &ends[..]].concat());
}

#[test]
fn the_abort_of_a_job_that_we_did_not_submit_publishes_its_result() {
    let mut world = World::enabled();
    world.records.clear();
    world.send(abort("x"));
    world.send(abort("x"));
    world.answer("DELETE x", removed());
    let ends = ["ended 1 complete Some(255)", "ended 2 complete None"];
    assert_eq!(records(&world), [&["accepted 1", "accepted 2"][..], &ends[..]].concat());
}

#[test]
fn messages_that_end_a_command_have_its_receipt() {
    let mut world = World::tracking();
    world.run_to_answer("GET a", job("a", Phase::Completed));
    let receipt = |what| Receipt { key: EntryKey(1), what };
    assert_eq!(world.receipts, [receipt(Deliverable::Result), receipt(Deliverable::Ack)]);
}

#[test]
fn commands_that_are_not_durable_are_refused_and_accepted_ones_continue() {
    let mut world = World::tracking();
    world.journal_at_once = false;
    world.send(execute(""));
    world.send(abort("a"));
    world.take();
    world.input(Input::JournalFailed(FULL.to_owned()));
    let refused = |number: i32| {
        format!("ack {number} CMD_FAILED Failed: {FULL}; nothing was sent to the execution service")
    };
    world.expect(&[&refused(2), &refused(3), &format!("errorCode 4 {FULL}"), "summaryState FAULT"]);
    // Should their records become durable after all, it is too late.
    world.journal_all();
    assert_eq!(world.open_names(), <[&str; 0]>::default());
    // Said once, not with each try.
    world.input(Input::JournalFailed(FULL.to_owned()));
    world.expect(&[]);
    // That it cannot be written is reported of ends too.
    world.run_to_answer("GET a", job("a", Phase::Completed));
    world.expect(&["GET a"]);
    world.input(Input::JournalFailed(FULL.to_owned()));
    world.expect(&["result a 0 object of a", "ack 1 CMD_COMPLETE Done"]);
    world.input(Input::JournalBack);
    assert_eq!(world.csc.state(), SummaryState::Fault);
    assert_eq!(world.csc.status().error.0, ErrorCode::Journal);
}

#[test]
fn a_disk_that_hangs_is_waited_for_but_not_for_ever() {
    let mut world = World::enabled();
    world.journal_at_once = false;
    world.send(execute(""));
    world.run_for(secs(5));
    world.send(abort("x"));
    world.run_for(secs(4));
    world.expect(&["journal"]);
    world.run_for(secs(1));
    let why = "the journal cannot be written: its disk does not answer";
    let refused = |number: i32| {
        format!("ack {number} CMD_FAILED Failed: {why}; nothing was sent to the execution service")
    };
    world.expect(&[&refused(1), &refused(2), &format!("errorCode 4 {why}"), "summaryState FAULT"]);
    let beats = world.times("heartbeat").len();
    world.run_for(secs(10));
    assert_eq!(world.times("heartbeat").len(), beats + 10);
}

#[test]
fn without_a_journal_unfinished_commands_fail_when_the_daemon_ends() {
    let mut world = World::enabled_with(Settings { journal: false, ..settings() });
    world.running("a");
    world.send(execute("a"));
    world.send(abort("x"));
    world.take();
    world.input(Input::Terminate);
    world.run_for(secs(5));
    world.expect(&[
        "StopRequests",
        "ack 1 CMD_FAILED Failed: the daemon ended; job a is left at the execution service",
        "ack 2 CMD_FAILED Failed: the daemon ended before the job was submitted",
        "ack 3 CMD_FAILED Failed: the daemon ended before it was known whether job x was removed",
        "summaryState OFFLINE",
        "Exit",
    ]);
}

#[test]
fn without_a_journal_an_end_at_the_last_moment_is_still_published() {
    let mut world = World::enabled_with(Settings { journal: false, ..settings() });
    world.running("a");
    world.send(abort("a"));
    world.input(Input::Terminate);
    world.take();
    world.journal_at_once = false;
    world.now += secs(5);
    world.answer("DELETE a", removed());
    world.expect(&[
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
        "summaryState OFFLINE",
        "Exit",
    ]);
}

#[test]
fn with_a_journal_unfinished_commands_are_left_to_the_next_run() {
    let mut world = World::tracking();
    world.records.clear();
    world.input(Input::Terminate);
    world.expect(&["StopRequests", "summaryState OFFLINE", "Exit"]);
    // Not a state to which one returns.
    assert_eq!(world.records, []);
    let mut effects = Vec::new();
    world.csc.handle(super::world::time(world.now), Input::JournalFailed("x".to_owned()), &mut effects);
    assert_eq!(effects, [] as [Effect; 0]);
}

#[test]
fn the_end_of_a_command_is_published_when_it_is_durable() {
    let published = ["result a 0 object of a", "ack 1 CMD_COMPLETE Done"];
    let ended = || {
        let mut world = World::tracking();
        world.journal_at_once = false;
        world.run_to_answer("GET a", job("a", Phase::Completed));
        world.expect(&["GET a"]);
        world
    };
    let mut world = ended();
    world.run_for(secs(9));
    world.expect(&[]);
    world.journal_all();
    world.expect(&published);
    // Neither a disk that cannot be written holds it back for ever, nor one that hangs.
    let mut world = ended();
    world.input(Input::JournalFailed(FULL.to_owned()));
    world.expect(&[published[0], published[1], &format!("errorCode 4 {FULL}"), "summaryState FAULT"]);
    let mut world = ended();
    world.run_for(secs(10));
    assert_eq!(world.take()[..2], published);
    // Told once.
    world.journal_all();
    world.expect(&[]);
    // The daemon ends: it is published if possible, and else left to the next run.
    let mut world = ended();
    world.input(Input::Terminate);
    world.expect(&["StopRequests"]);
    world.journal_all();
    world.expect(&[published[0], published[1], "summaryState OFFLINE", "Exit"]);
    let mut world = ended();
    world.input(Input::Terminate);
    world.input(Input::JournalFailed(FULL.to_owned()));
    world.expect(&["StopRequests", published[0], published[1], "summaryState OFFLINE", "Exit"]);
    let mut world = ended();
    world.input(Input::Terminate);
    world.run_for(secs(5));
    world.expect(&["StopRequests", "summaryState OFFLINE", "Exit"]);
    // That a job exists is durable does not mean that its end is.
    let mut world = World::submitting();
    world.journal_at_once = false;
    world.answer("PUT 1", job("a", Phase::Completed));
    world.take();
    world.input(Input::Journaled(Awaited::Created(EntryKey(1))));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    world.input(Input::Journaled(Awaited::Created(EntryKey(1))));
    world.expect(&[]);
    world.input(Input::Journaled(Awaited::Ended(EntryKey(1))));
    world.expect(&published);
}

#[test]
fn the_id_of_a_job_is_published_when_it_is_durable() {
    let published = ["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"];
    let created = || {
        let mut world = World::submitting();
        world.journal_at_once = false;
        world.answer("PUT 1", job("a", Phase::Active));
        world.take();
        world
    };
    let mut world = created();
    world.run_for(secs(9));
    world.expect(&[]);
    world.journal_all();
    world.expect(&published);
    // A disk that cannot be written does not hold it back for ever.
    let mut world = created();
    world.input(Input::JournalFailed(FULL.to_owned()));
    world.expect(&[published[0], published[1], &format!("errorCode 4 {FULL}"), "summaryState FAULT"]);
    let mut world = created();
    world.run_for(secs(10));
    assert_eq!(world.take()[..2], published);
    // The daemon ends: it is published if possible.
    let mut world = created();
    world.input(Input::Terminate);
    world.expect(&["StopRequests"]);
    world.journal_all();
    world.expect(&[published[0], published[1], "summaryState OFFLINE", "Exit"]);
    // Somebody knows it from elsewhere.
    let mut world = created();
    world.send(abort("a"));
    world.journal_at_once = true;
    world.input(Input::Journaled(Awaited::Accepted(EntryKey(2))));
    world.expect(&[published[0], published[1], "DELETE a"]);
    world.converge();
}

#[test]
fn a_pause_of_the_process_is_no_fault_of_the_disk() {
    let mut world = World::enabled();
    world.journal_at_once = false;
    world.send(execute(""));
    world.run_for(secs(1));
    world.now += secs(90);
    world.tick();
    world.journal_all();
    assert_eq!(world.csc.state().name(), "ENABLED");
    world.expect(&["journal", "PUT 1"]);
}

#[test]
fn a_late_report_of_a_durable_record_is_not_a_failure() {
    let mut world = World::enabled();
    world.journal_at_once = false;
    for _ in 0..3 {
        world.send(execute(""));
    }
    world.expect(&["journal", "journal", "journal"]);
    // A tick comes late: all are durable, and that is reported one by one.
    world.run_until(Duration::from_millis(9900));
    world.now += secs(1);
    for _ in 0..3 {
        let record = world.unjournaled.remove(0);
        world.input(Input::Journaled(record));
    }
    world.tick();
    world.expect(&["PUT 1", "PUT 2", "PUT 3"]);
    assert_eq!(world.csc.state(), SummaryState::Enabled);
}

#[test]
fn a_pause_is_noticed_once_whatever_comes_first_after_it() {
    let mut world = World::enabled();
    world.journal_at_once = false;
    world.send(execute(""));
    world.run_for(secs(5));
    world.now += secs(60);
    for _ in 0..5 {
        world.input(Input::LogLevel(20));
    }
    world.tick();
    let pauses = world.logged.iter().filter(|(_, line)| line.starts_with("the process stood still"));
    assert_eq!(pauses.count(), 1);
    // What is left of the ten seconds is not multiplied either.
    world.run_for(secs(7));
    assert_eq!(world.csc.state(), SummaryState::Fault);
}
