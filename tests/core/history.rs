//! What is noted about a job, and that nothing else is.

use ocps::csc::Input;
use ocps::csc::event::Phase;
use ocps::csc::history::{NOTES_MAX, Note};
use ocps::csc::id::RunId;
use ocps::csc::record::{Deliverable, Record, RecoveredCommand};
use ocps::csc::report::JobHistory;

use super::recovery::{a_running, an_ended, an_execute, restarted, run_id};
use super::world::{World, abort, away, execute, job, none, refused, removed, secs, unclear};
use crate::reply::Reply;

#[track_caller]
fn history(world: &World, run_id: &RunId) -> JobHistory {
    world.csc.job_history(run_id).unwrap()
}

/// What happened to the job of the execute of that number.
#[track_caller]
fn check(world: &World, number: i32, expected: &[&str]) {
    let notes = history(world, &world.run_id(number)).notes;
    assert_eq!(notes.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

/// All that is noted so far, for the journal.
fn noted(world: &World) -> Vec<Note> {
    let note = |record: &Record| {
        let Record::Noted { note, .. } = record else { return None };
        Some(note.clone())
    };
    world.records.iter().filter_map(note).collect()
}

#[test]
fn a_job_has_a_history_from_its_command_to_the_late_delivery_of_its_end() {
    let mut world = World::submitting();
    world.run_for(secs(2));
    world.answer("PUT 1", job("a", Phase::Pending));
    for phase in [Phase::Pending, Phase::Queued, Phase::Queued, Phase::Active, Phase::Active] {
        world.run_to_answer("GET a", job("a", phase));
    }
    // Neither polls nor their failures.
    let count = noted(&world).len();
    for _ in 0..50 {
        world.run_to_answer("GET a", job("a", Phase::Active));
        world.run_to_answer("GET a", away());
    }
    assert_eq!((count, noted(&world).len()), (3, 3));
    world.run_to_answer("GET a", job("a", Phase::Error));
    let failed = "failed: phase error";
    let begin = ["accepted from root@host", "created as job a", "phase queued", "phase executing", failed];
    check(&world, 1, &begin);
    let run_id = world.run_id(1);
    assert_eq!(history(&world, &run_id).undelivered, [Deliverable::Result, Deliverable::Ack]);
    let receipts = world.receipts.clone();
    world.input(Input::Delivered(receipts[1]));
    assert_eq!(history(&world, &run_id).undelivered, [Deliverable::Result]);
    world.run_for(secs(5));
    check(&world, 1, &begin);
    for receipt in [receipts[0], receipts[0], receipts[1]] {
        world.input(Input::Delivered(receipt));
    }
    check(&world, 1, &[&begin[..], &["delivered: job_result and final ack"]].concat());
    let JobHistory { notes, undelivered, report } = history(&world, &run_id);
    assert_eq!((undelivered.len(), report.accepted, report.ended), (0, notes[0].at, Some(notes[4].at)));
    assert!(notes.is_sorted_by(|a, b| a.at <= b.at) && notes[1].at.0 - notes[0].at.0 >= 2.0, "{notes:?}");
}

#[test]
fn each_prerequisite_and_each_submission_is_noted() {
    let mut world = World::enabled();
    world.send(execute("b,c"));
    world.answer("GET b", job("b", Phase::Completed));
    world.answer("GET c", Reply::Gone);
    world.run_to_answer("GET c", Reply::Gone);
    world.run_to_answer("LIST", none());
    world.answer("PUT 1", away());
    world.run_to_answer("PUT 1", unclear());
    while !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", none());
    }
    world.answer("PUT 1", unclear());
    world.run_to("LIST");
    let listed = world.listed(&[("a", 1)]);
    world.answer("LIST", listed);
    check(
        &world,
        1,
        &[
            "accepted from root@host",
            "waits for b, c",
            "waits for b no longer",
            "prerequisite c does not exist: not waited for",
            "submission did not reach the service: no luck",
            "submission may have reached the service: no luck",
            "not in the service's list: submitted again",
            "submission may have reached the service: no luck",
            "found in the service's list as job a",
        ],
    );
}

#[test]
fn an_abort_is_noted_with_its_sender_also_of_a_run_without_a_job() {
    let mut world = World::tracking();
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    let aborted = ["abort_job of root@host", "aborted: abort_job of root@host"];
    let begin = ["accepted from root@host", "created as job a", "phase executing"];
    check(&world, 1, &[&begin[..], &aborted].concat());
    let number = world.send(execute("b"));
    world.send(abort(world.run_id(number).as_str()));
    let aborted = ["abort_job of root@host", "aborted: abort_job of root@host before it was submitted"];
    check(&world, number, &[&["accepted from root@host", "waits for b"][..], &aborted].concat());
}

#[test]
fn a_submission_that_is_refused_has_a_history_without_a_job() {
    let mut world = World::submitting();
    for _ in 0..2 {
        world.run_to_answer("PUT 1", refused());
        world.run_to_answer("LIST", none());
    }
    let refused = "submission was refused: no luck";
    let again = "not in the service's list: submitted again";
    let history = ["accepted from root@host", refused, again, refused, "refused: no luck"];
    check(&world, 1, &history);
    let ack = *world.receipts.last().unwrap();
    world.run_for(secs(4));
    world.input(Input::Delivered(ack));
    check(&world, 1, &history);
    assert!(self::history(&world, &world.run_id(1)).undelivered.is_empty());
}

#[test]
fn the_history_goes_on_after_a_restart() {
    let mut before = World::tracking();
    before.run_to_answer("GET a", job("a", Phase::Queued));
    let notes = noted(&before);
    let with = |kept: RecoveredCommand| RecoveredCommand { notes: notes.clone(), ..kept };
    let ended = RecoveredCommand { result_delivered: true, ..with(an_ended(4, "d")) };
    let kept = vec![with(a_running(1, "a")), an_execute(2, &["b"]), an_execute(3, &[]), ended];
    let mut world = restarted(kept);
    world.run_to_answer("GET a", job("a", Phase::Queued));
    world.run_to_answer("GET a", job("a", Phase::Active));
    let resumed = "resumed after a restart of the daemon";
    let begin = ["accepted from root@host", "created as job a", "phase executing", "phase queued"];
    check(&world, 1, &[&begin[..], &[resumed, "phase queued", "phase executing"]].concat());
    assert_eq!(history(&world, &run_id(1)).notes[4].number, 3);
    check(&world, 2, &["accepted from root@host", resumed, "waits for b"]);
    let doubt = "submission may have reached the service: the daemon was restarted before its job was known";
    check(&world, 3, &["accepted from root@host", resumed, doubt]);
    check(&world, 4, &[&begin[..], &["completed"]].concat());
    assert_eq!(history(&world, &run_id(4)).undelivered, [Deliverable::Ack]);
    world.run_for(secs(10));
    let ack = world.receipts[0];
    world.input(Input::Delivered(ack));
    check(&world, 4, &[&begin[..], &["completed", "delivered: job_result and final ack"]].concat());
}

#[test]
fn of_many_notes_the_first_and_the_last_are_kept() {
    let mut world = World::tracking();
    for count in 0..200 {
        world.run_to_answer("GET a", job("a", [Phase::Held, Phase::Active][count % 2]));
    }
    let notes = history(&world, &world.run_id(1)).notes;
    // With the command itself, and how many are left out.
    assert_eq!(notes.len(), NOTES_MAX + 2);
    assert_eq!((notes[21].to_string().as_str(), notes[22].number), ("102 notes are not kept", 122));
    let places = noted(&world).iter().map(Note::place).collect::<std::collections::BTreeSet<_>>();
    assert!(places.into_iter().eq(0..u32::try_from(NOTES_MAX).unwrap()));
}
