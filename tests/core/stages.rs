//! Each stage of a job × everything that a back-end can answer then.

use ocps::csc::Input;
use ocps::csc::event::Phase;
use ocps::csc::id::EntryKey;
use ocps::csc::record::Awaited;
use ocps::csc::request::{Contact, FailureKind};

use super::world::{World, abort, execute, failed, job, none, object, secs};
use crate::reply::Reply;

/// Everything that can be answered to some request; lists show jobs of execute 1.
fn answers(world: &World) -> Vec<(&'static str, Reply)> {
    let mut answers = vec![
        ("active", job("a", Phase::Active)),
        ("completed", job("a", Phase::Completed)),
        ("error", job("a", Phase::Error)),
        ("aborted", job("a", Phase::Aborted)),
        ("unknown", job("a", Phase::Unknown)),
        ("gone", Reply::Gone),
        ("removed", Reply::Removed { object: None }),
        ("removed with object", Reply::Removed { object: Some(object("a")) }),
        ("listed none", none()),
        ("listed one", world.listed(&[("a", 1)])),
        ("listed two", world.listed(&[("a", 1), ("b", 1)])),
        ("rejected", Reply::Rejected { reason: "no such pipeline".to_owned() }),
        ("broken", Reply::Broken { report: "broken".to_owned() }),
    ];
    let kinds = [
        ("not sent", FailureKind::NotSent),
        ("unclear", FailureKind::Unclear),
        ("refused", FailureKind::Refused),
        ("wrong", FailureKind::Wrong),
    ];
    for (name, kind) in kinds {
        let other = if kind == FailureKind::NotSent { Contact::NotAsked } else { Contact::Answered };
        for contact in [other, Contact::Silent] {
            answers.push((name, failed(kind, contact)));
        }
    }
    answers
}

/// Brings a job with number 1 to some stage; gives the request that is answered then.
type Stage = fn(&mut World) -> &'static str;

/// The lines that follow an answer at once, and the next request (empty: none, the command has ended).
type Expected = fn(&str) -> (&'static [&'static str], &'static str);

/// Checks a stage against all answers; each time everything must come to an end after it.
fn check(stage: Stage, expected: Expected) {
    let count = {
        let mut world = World::enabled();
        stage(&mut world);
        answers(&world).len()
    };
    for n in 0..count {
        let mut world = World::enabled();
        let request = stage(&mut world);
        world.take();
        let (name, answer) = answers(&world)[n].clone();
        if answer.clone().to(world.asked(request)).is_none() {
            continue;
        }
        let (lines, next) = expected(name);
        world.answer(request, answer);
        assert_eq!(world.take(), lines, "{request} is answered {name}");
        if next.is_empty() {
            world.run_for(secs(30));
            assert_eq!(world.open_names(), <[&str; 0]>::default(), "{request} is answered {name}");
        } else {
            world.run_to(next);
        }
        world.converge();
    }
}

const JOB: &str = "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}";
const ID: &str = "job_id 1 a";
const DONE: &str = "ack 1 CMD_COMPLETE Done";
const OK: &str = "result a 0 object of a";
const NOT_OK: &str = "result a 1 object of a";
const UNKNOWN: &str = "result a 1 known 1 unknown";

#[test]
fn recording() {
    // Nothing is asked for, so nothing can be answered; it begins with the record.
    let mut world = World::enabled();
    world.journal_at_once = false;
    world.send(execute(""));
    world.expect(&["journal"]);
    world.run_for(secs(9));
    world.expect(&[]);
    world.journal_all();
    world.expect(&["PUT 1"]);
    let mut prereqs = World::enabled();
    prereqs.journal_at_once = false;
    prereqs.send(execute("p"));
    prereqs.run_for(secs(9));
    prereqs.expect(&["journal"]);
    prereqs.journal_all();
    prereqs.expect(&["GET p"]);
}

#[test]
fn waiting() {
    let stage: Stage = |world| {
        world.send(execute("a"));
        "GET a"
    };
    check(stage, |answer| match answer {
        "completed" | "error" | "aborted" | "unknown" | "broken" => (&["PUT 1"], "PUT 1"),
        "gone" | "active" | "not sent" | "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn sending() {
    let stage: Stage = |world| {
        world.send(execute(""));
        "PUT 1"
    };
    check(stage, |answer| match answer {
        "active" => (&[JOB, ID], "GET a"),
        "completed" => (&[JOB, ID, OK, DONE], ""),
        "error" | "aborted" | "unknown" => (&[JOB, ID, NOT_OK, DONE], ""),
        "rejected" => (&["ack 1 CMD_FAILED Failed: no such pipeline"], ""),
        "not sent" => (&[], "PUT 1"),
        "unclear" | "refused" | "wrong" => (&["LIST"], "LIST"),
        other => panic!("{other}"),
    });
}

#[test]
fn pausing() {
    let mut world = World::submitting();
    world.answer("PUT 1", failed(FailureKind::NotSent, Contact::Silent));
    world.expect(&["journal", "PUT 1"]);
    // The abort of a job that nobody knows yet has nothing to do with it.
    world.send(abort("a"));
    world.expect(&["DELETE a"]);
    world.answer("DELETE a", Reply::Gone);
    world.expect(&["ack 2 CMD_FAILED Failed: No such job: a"]);
    world.run_to_answer("PUT 1", job("a", Phase::Active));
    world.expect(&["PUT 1", JOB, ID]);
    world.converge();
}

#[test]
fn in_doubt() {
    let stage: Stage = |world| {
        world.send(execute(""));
        world.answer("PUT 1", failed(FailureKind::Unclear, Contact::Silent));
        "LIST"
    };
    check(stage, |answer| match answer {
        "listed one" => (&[JOB, ID], "GET a"),
        "listed two" => (&[JOB, ID], "GET a"),
        "listed none" | "not sent" | "unclear" | "refused" | "wrong" => (&[], "LIST"),
        other => panic!("{other}"),
    });
}

#[test]
fn running() {
    let stage: Stage = |world| {
        world.running("a");
        world.run_to("GET a");
        "GET a"
    };
    check(stage, |answer| match answer {
        "completed" => (&[OK, DONE], ""),
        "error" | "aborted" | "unknown" => (&[NOT_OK, DONE], ""),
        "broken" => {
            (&[UNKNOWN, "errorCode 2 broken", "summaryState FAULT", "ack 1 CMD_FAILED Failed: broken"], "")
        }
        "gone" | "active" | "not sent" | "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn missing() {
    let stage: Stage = |world| {
        world.running("a");
        world.run_to_answer("GET a", Reply::Gone);
        world.run_to_answer("GET a", Reply::Gone);
        "LIST"
    };
    check(stage, |answer| match answer {
        "listed none" => (&[UNKNOWN, DONE], ""),
        "listed two" => (&["DELETE b"], "GET a"),
        "listed one" | "not sent" | "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

const WAIT: &str = "ack 2 CMD_INPROGRESS {\"job_id\":\"a\"}";
const ABORTED: &str = "ack 1 CMD_ABORTED Aborted";
const KNOWN: &str = "result a 255 known 1 aborted";
const ENDED: &[&str] = &[KNOWN, ABORTED, "ack 2 CMD_COMPLETE Done"];
const ENDED_WITH_OBJECT: &[&str] = &["result a 255 object of a", ABORTED, "ack 2 CMD_COMPLETE Done"];

#[test]
fn aborting() {
    let stage: Stage = |world| {
        world.running("a");
        world.run_to("GET a");
        world.send(abort("a"));
        // The poll under way counts for nothing any more, whatever it says.
        world.answer("GET a", job("a", Phase::Completed));
        "DELETE a"
    };
    check(stage, |answer| match answer {
        // Gone: it was there a moment ago.
        "removed" | "gone" => (ENDED, ""),
        "removed with object" => (ENDED_WITH_OBJECT, ""),
        "not sent" => (&[WAIT], "DELETE a"),
        "unclear" | "refused" | "wrong" => (&[WAIT], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn confirming_an_abort() {
    let stage: Stage = |world| {
        world.running("a");
        world.send(abort("a"));
        world.answer("DELETE a", failed(FailureKind::Unclear, Contact::Silent));
        world.run_to("GET a");
        "GET a"
    };
    check(stage, |answer| match answer {
        "gone" => (&["LIST"], "LIST"),
        // Still there, whatever its phase: once more.
        "active" | "completed" | "error" | "aborted" | "unknown" | "broken" => (&[], "DELETE a"),
        "not sent" | "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn aborting_again_after_an_unclear_try() {
    let stage: Stage = |world| {
        world.running("a");
        world.send(abort("a"));
        world.answer("DELETE a", failed(FailureKind::Unclear, Contact::Silent));
        world.run_to_answer("GET a", job("a", Phase::Active));
        world.run_to("DELETE a");
        "DELETE a"
    };
    check(stage, |answer| match answer {
        // The first one worked after all.
        "removed" | "gone" => (ENDED, ""),
        "removed with object" => (ENDED_WITH_OBJECT, ""),
        "not sent" => (&[], "DELETE a"),
        "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn removing_a_duplicate() {
    let stage: Stage = |world| {
        world.send(execute(""));
        world.answer("PUT 1", failed(FailureKind::Unclear, Contact::Silent));
        for _ in 0..2 {
            let two = world.listed(&[("b", 1), ("a", 1)]);
            world.run_to_answer("LIST", two);
        }
        "DELETE a"
    };
    check(stage, |answer| match answer {
        "removed" | "removed with object" | "gone" => (&[], "GET b"),
        "not sent" => (&[], "DELETE a"),
        "unclear" | "refused" | "wrong" => (&[], "GET a"),
        other => panic!("{other}"),
    });
}

#[test]
fn an_abort_in_each_stage_without_an_id_goes_to_the_service() {
    // Nobody can know the id of a job before the service has given it: such an abort names another job.
    for journal_at_once in [false, true] {
        for prereqs in ["", "p"] {
            let mut world = World::enabled();
            world.journal_at_once = journal_at_once;
            world.send(execute(prereqs));
            world.take();
            let abort_is_durable =
                |world: &mut World| world.input(Input::Journaled(Awaited::Accepted(EntryKey(2))));
            world.send(abort("a"));
            abort_is_durable(&mut world);
            world.expect(&["DELETE a"]);
            world.answer("DELETE a", Reply::Removed { object: None });
            world.input(Input::Journaled(Awaited::Ended(EntryKey(2))));
            world.expect(&["result a 255 known of nobody aborted", "ack 2 CMD_COMPLETE Done"]);
            world.journal_at_once = true;
            world.converge();
        }
    }
}
