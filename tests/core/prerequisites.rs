//! `prereq_jobs`: an execute waits for other jobs to end, ours and those of others, without blocking anything.

use std::time::Duration;

use ocps::csc::Input;
use ocps::csc::command::{CommandKind, Execute, PREREQS_MAX};
use ocps::csc::event::Phase;
use ocps::csc::id::RunId;
use ocps::csc::request::ListedJob;

use super::world::{
    POLL, World, abort, away, configuration, execute, job, job_id, none, removed, secs, start, wrong,
};
use crate::reply::Reply;

fn run_id(text: &str) -> RunId {
    RunId::parse(text).unwrap()
}

#[test]
fn all_are_asked_for_at_once() {
    let mut world = World::enabled();
    world.send(execute(" a,b ,,c,a"));
    world.expect(&["journal", "GET a", "GET b", "GET c"]);
    world.answer("GET b", job("b", Phase::Error));
    world.answer("GET a", job("a", Phase::Completed));
    world.expect(&[]);
    world.answer("GET c", job("c", Phase::Aborted));
    world.expect(&["PUT 1"]);
    world.converge();
}

#[test]
fn a_missing_prerequisite_is_polled_again_and_then_looked_up_in_the_list() {
    let mut world = World::enabled();
    world.send(execute("a"));
    let asked = world.now;
    world.answer("GET a", Reply::Gone);
    world.run_to("GET a");
    assert_eq!(world.now, asked + secs(3));
    world.take();
    world.answer("GET a", Reply::Gone);
    world.expect(&["LIST"]);
    // It is there: the answers came out of a cache.
    world.answer(
        "LIST",
        Reply::Listed(vec![ListedJob {
            job_id: job_id("a"),
            run_id: run_id("of-another"),
            phase: Phase::Active,
            ended: None,
        }]),
    );
    world.run_to("GET a");
    assert_eq!(world.now, asked + secs(3) + POLL);
    // With one good answer it all starts again.
    world.answer("GET a", job("a", Phase::Active));
    world.run_to_answer("GET a", Reply::Gone);
    world.run_to_answer("GET a", Reply::Gone);
    world.take();
    world.answer("LIST", none());
    world.expect(&["PUT 1"]);
    assert!(world.logged.iter().any(|(_, line)| line.contains("prerequisite job a does not exist")));
    world.converge();
}

#[test]
fn names_are_parsed() {
    let check =
        |text: &str, expected: Result<&[&str], &str>| match (Execute::parse_prereq_jobs(text), expected) {
            (Ok(ids), Ok(expected)) => {
                assert_eq!(ids.iter().map(|id| id.as_str()).collect::<Vec<_>>(), expected);
            }
            (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
            (result, expected) => panic!("{text}: {result:?} for {expected:?}"),
        };
    check("", Ok(&[]));
    check(" , ,,", Ok(&[]));
    check("a, b,a", Ok(&["a", "b"]));
    check("a,../x", Err("Invalid job id: "));
    let ids: Vec<String> = (0..=PREREQS_MAX).map(|n| format!("j{n}")).collect();
    check(&ids.join(","), Err("prereq_jobs names more than 100 jobs"));
    assert_eq!(Execute::parse_prereq_jobs(&ids[1..].join(",")).unwrap().len(), PREREQS_MAX);
}

#[test]
fn a_prerequisite_of_our_own_costs_no_request() {
    let mut world = World::tracking();
    world.send(execute("a"));
    world.expect(&["journal"]);
    world.run_to_answer("GET a", job("a", Phase::Error));
    world.expect(&["GET a", "PUT 2", "result a 1 object of a", "ack 1 CMD_COMPLETE Done"]);
    // Now it has ended, and is asked for like any other.
    world.send(execute("a"));
    world.expect(&["journal", "GET a"]);
    world.answer("GET a", job("a", Phase::Error));
    world.expect(&["PUT 3"]);
    world.converge();
}

#[test]
fn an_aborted_prerequisite_has_ended() {
    let mut world = World::tracking();
    world.send(execute("a,b"));
    world.answer("GET b", job("b", Phase::Active));
    world.send(abort("a"));
    world.send(abort("b"));
    world.take();
    world.answer("DELETE a", removed());
    world.expect(&["result a 255 known 1 aborted", "ack 1 CMD_ABORTED Aborted", "ack 3 CMD_COMPLETE Done"]);
    world.answer("DELETE b", removed());
    world.expect(&["PUT 2", "result b 255 known of nobody aborted", "ack 4 CMD_COMPLETE Done"]);
    world.converge();
}

#[test]
fn a_prerequisite_is_polled_until_it_ends_through_every_failure() {
    let mut world = World::enabled();
    world.send(execute("a"));
    for _ in 0..3 {
        let asked = world.now;
        world.answer("GET a", job("a", Phase::Active));
        world.run_to("GET a");
        assert_eq!(world.now, asked + POLL);
    }
    for answer in [away(), wrong(), away()] {
        world.answer("GET a", answer);
        world.run_to("GET a");
    }
    world.take();
    world.answer("GET a", job("a", Phase::Unknown));
    world.expect(&["PUT 1"]);
    world.converge();
}

#[test]
fn a_prerequisite_of_many_commands_is_polled_once() {
    let mut world = World::enabled();
    for _ in 0..3 {
        world.send(execute("a"));
    }
    world.expect(&["journal", "GET a", "journal", "journal"]);
    world.answer("GET a", job("a", Phase::Completed));
    world.expect(&["PUT 1", "PUT 2", "PUT 3"]);
    world.converge();
}

#[test]
fn a_prerequisite_that_is_answered_wrongly_for_a_day_is_given_up() {
    let mut world = World::tracking();
    world.send(execute("p"));
    let day = secs(24 * 3600);
    let mut submitted = None;
    while submitted.is_none() {
        world.now += secs(5);
        world.tick();
        while let Some(name) = world.open_names().first() {
            match name.as_str() {
                "GET p" => world.answer("GET p", wrong()),
                "GET a" => world.answer("GET a", job("a", Phase::Active)),
                _ => {
                    submitted = Some(world.now);
                    break;
                }
            }
        }
    }
    let submitted = submitted.unwrap();
    assert!(submitted >= day && submitted < day + secs(60), "{submitted:?}");
}

#[test]
fn a_missing_prerequisite_is_named_in_the_ack_with_the_job_id() {
    let mut world = World::enabled();
    world.send(execute("a,gone,lost"));
    world.send(execute("a"));
    for _ in 0..2 {
        world.run_to_answer("GET gone", Reply::Gone);
        world.run_to_answer("GET lost", Reply::Gone);
    }
    // The first list was asked for before the second of them was known to be missing.
    for _ in 0..2 {
        world.run_to_answer("LIST", none());
    }
    let missing: Vec<String> = world
        .csc
        .job_reports()
        .next()
        .unwrap()
        .missing_prereqs
        .iter()
        .map(|job_id| job_id.as_str().to_owned())
        .collect();
    assert_eq!(missing, ["gone", "lost"]);
    world.answer("GET a", job("a", Phase::Completed));
    world.answer("PUT 2", job("k", Phase::Active));
    world.take();
    world.answer("PUT 1", job("j", Phase::Active));
    let ack = "ack 1 CMD_INPROGRESS {\"job_id\":\"j\",\"missing_prereqs\":[\"gone\",\"lost\"]}";
    world.expect(&[ack, "job_id 1 j"]);
    assert_eq!(world.times("ack 2 CMD_INPROGRESS {\"job_id\":\"k\"}").len(), 1);
    world.converge();
}

#[test]
fn a_prerequisite_of_the_same_id_is_another_job_at_another_service() {
    let mut world = World::enabled();
    world.send(execute("x"));
    world.answer("GET x", job("x", Phase::Active));
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    let mut elsewhere = configuration();
    elsewhere.service.url = "http://elsewhere".into();
    world.input(Input::Configuration(Ok(elsewhere)));
    world.send(CommandKind::Enable);
    world.take();
    let second = world.send(execute("x"));
    world.expect(&["journal", "GET x"]);
    assert_eq!(world.open[0].url, "http://elsewhere".into());
    world.answer("GET x", job("x", Phase::Completed));
    world.expect(&[&format!("PUT {second}")]);
    // The other one is still active.
    world.run_to("GET x");
    assert_eq!(world.open.last().unwrap().url, "http://uws".into());
    world.converge();
}

#[test]
fn the_core_is_not_woken_for_a_prerequisite_that_no_job_waits_for() {
    let mut world = World::enabled();
    world.run_for(Duration::from_millis(100));
    world.send(execute("x"));
    world.answer("GET x", job("x", Phase::Active));
    world.send(abort(world.run_id(1).as_str()));
    for second in 1..=2 * POLL.as_secs() {
        assert_eq!(world.csc.next_deadline(), secs(second));
        world.run_until(secs(second));
    }
}
