//! `abort_job`: what is removed, what proves that, and which acks and results are published.

use ocps::csc::Input;
use ocps::csc::command::CommandKind;
use ocps::csc::event::Phase;
use ocps::csc::id::EntryKey;
use ocps::csc::record::Awaited;
use ocps::csc::request::Action;

use super::world::{
    World, abort, away, configuration, execute, job, none, refused, removed, secs, start, unclear,
};
use crate::reply::Reply;

/// What follows when job `a` of execute 1 was removed for abort 2.
const ABORTED: [&str; 3] =
    ["result a 255 known 1 aborted", "ack 1 CMD_ABORTED Aborted", "ack 2 CMD_COMPLETE Done"];

#[test]
fn the_result_comes_before_the_acks() {
    let mut world = World::tracking();
    world.send(abort("a"));
    world.send(abort("a"));
    world.expect(&["DELETE a"]);
    world.answer("DELETE a", removed());
    world.expect(&[
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
        "ack 3 CMD_COMPLETE Done",
    ]);
    world.converge();
}

#[test]
fn an_abort_of_a_job_that_is_not_there_fails() {
    let mut world = World::enabled();
    world.send(abort("a"));
    world.send(abort("a"));
    world.answer("DELETE a", Reply::Gone);
    world.expect(&[
        "DELETE a",
        "ack 1 CMD_FAILED Failed: No such job: a",
        "ack 2 CMD_FAILED Failed: No such job: a",
    ]);
}

#[test]
fn a_failing_abort_is_acked_at_once_and_every_five_minutes() {
    let mut world = World::tracking();
    world.send(abort("a"));
    world.send(abort("a"));
    world.take();
    world.answer("DELETE a", away());
    let two = "ack 2 CMD_INPROGRESS {\"job_id\":\"a\"}";
    let three = "ack 3 CMD_INPROGRESS {\"job_id\":\"a\"}";
    let four = "ack 4 CMD_INPROGRESS {\"job_id\":\"a\"}";
    world.expect(&[two, three]);
    // One that comes later learns at once that it takes longer.
    world.send(abort("a"));
    world.expect(&[four]);
    let begun = world.now;
    while world.now < begun + secs(650) {
        if world.open_names().contains(&"DELETE a".to_owned()) {
            world.answer("DELETE a", away());
        }
        world.run_for(secs(1));
    }
    assert_eq!(world.times(two), [0, 300, 600].map(|s| begun + secs(s)));
    assert_eq!(world.times(four), [0, 300, 600].map(|s| begun + secs(s)));
    world.converge();
}

#[test]
fn a_removal_backs_off() {
    let mut world = World::tracking();
    world.send(abort("a"));
    let mut times = Vec::new();
    while times.len() < 10 {
        world.run_to("DELETE a");
        times.push(world.now.as_secs_f64());
        world.answer("DELETE a", away());
    }
    for (n, pair) in times.windows(2).enumerate() {
        let expected = (1_u32 << n.min(10)).min(30);
        let waited = pair[1] - pair[0];
        let range = 0.75 * f64::from(expected)..=1.25 * f64::from(expected);
        assert!(range.contains(&waited), "{n}: {waited} s");
    }
}

#[test]
fn a_refused_removal_is_confirmed_and_tried_again() {
    let mut world = World::tracking();
    world.send(abort("a"));
    for _ in 0..5 {
        world.run_to_answer("DELETE a", refused());
        world.run_to_answer("GET a", job("a", Phase::Completed));
    }
    world.run_to_answer("DELETE a", refused());
    world.run_to("GET a");
    world.take();
    world.answer("GET a", Reply::Gone);
    world.expect(&["LIST"]);
    world.answer("LIST", none());
    world.expect(&ABORTED);
}

#[test]
fn an_abort_goes_to_the_service_of_its_job() {
    let mut world = World::tracking();
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    let mut elsewhere = configuration();
    elsewhere.service.url = "http://elsewhere".into();
    world.input(Input::Configuration(Ok(elsewhere)));
    world.send(CommandKind::Enable);
    world.send(abort("a"));
    world.send(abort("b"));
    let url = |id: &str| {
        let is_it = |action: &Action| matches!(action, Action::Remove { job_id } if job_id.as_str() == id);
        world.open.iter().find(|request| is_it(&request.action)).unwrap().url.to_string()
    };
    assert_eq!(url("a"), "http://uws");
    assert_eq!(url("b"), "http://elsewhere");
}

#[test]
fn a_job_that_turns_out_to_be_ours_while_it_is_aborted_ends_once() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    // Somebody found its id in the service's list before we did.
    world.send(abort("a"));
    let found = world.listed(&[("a", 1)]);
    world.answer("LIST", found);
    world.take();
    world.run_for(secs(100));
    // An extra one is looked for, and that is all.
    world.expect(&["LIST"]);
    world.answer("DELETE a", removed());
    world.expect(&ABORTED);
    world.converge();
}

#[test]
fn an_answer_with_a_job_that_is_being_aborted_ends_it_once() {
    let mut world = World::submitting();
    world.send(abort("a"));
    world.take();
    world.answer("PUT 1", job("a", Phase::Completed));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    world.answer("DELETE a", removed());
    world.expect(&ABORTED);
}

#[test]
fn an_abort_of_a_duplicate_is_answered_when_it_is_gone() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    let two = world.listed(&[("a", 1), ("stray", 1)]);
    world.answer("LIST", two);
    world.send(abort("stray"));
    world.take();
    world.answer("DELETE stray", removed());
    world.expect(&["result stray 255 known of nobody aborted", "ack 2 CMD_COMPLETE Done"]);
    world.converge();
}

#[test]
fn an_abort_continues_in_every_state() {
    let mut world = World::tracking();
    world.send(abort("a"));
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.answer("DELETE a", unclear());
    world.run_to("GET a");
    world.take();
    world.answer("GET a", Reply::Gone);
    world.answer("LIST", none());
    world.expect(&[
        "LIST",
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
    ]);
}

#[test]
fn the_abort_of_a_job_that_we_did_not_submit_is_published_once() {
    let mut world = World::enabled();
    world.send(abort("x"));
    world.take();
    world.answer("DELETE x", removed());
    world.expect(&["result x 255 known of nobody aborted", "ack 1 CMD_COMPLETE Done"]);
    // The service can answer so for ever although the job is gone.
    world.send(abort("x"));
    world.answer("DELETE x", refused());
    world.run_to_answer("GET x", Reply::Gone);
    world.answer("LIST", none());
    let lines = world.take();
    assert!(!lines.iter().any(|line| line.starts_with("result")), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "ack 2 CMD_COMPLETE Done");
}

#[test]
fn the_abort_of_a_job_is_published_once() {
    let mut world = World::tracking();
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    world.take();
    // An unclear DELETE, after which nobody can say whether there was something to remove.
    world.send(abort("a"));
    world.answer("DELETE a", unclear());
    world.take();
    world.run_to_answer("GET a", Reply::Gone);
    world.answer("LIST", none());
    world.expect(&["GET a", "LIST", "ack 3 CMD_COMPLETE Done"]);
}

#[test]
fn one_404_out_of_a_cache_is_no_proof_of_a_removal() {
    let mut world = World::tracking();
    world.send(abort("a"));
    // It never came to the service.
    world.answer("DELETE a", unclear());
    world.run_to_answer("GET a", Reply::Gone);
    let there = world.listed(&[("a", 1)]);
    world.take();
    world.answer("LIST", there);
    world.expect(&[]);
    world.run_to_answer("DELETE a", removed());
    world.expect(&[&["DELETE a"][..], &ABORTED].concat());
    world.converge();
}

#[test]
fn a_delete_that_finds_nothing_of_a_job_that_was_just_there_was_sent_twice_by_a_gateway() {
    let mut world = World::tracking();
    world.run_to_answer("GET a", job("a", Phase::Active));
    world.send(abort("a"));
    world.take();
    world.answer("DELETE a", Reply::Gone);
    world.expect(&ABORTED);
    // If it was last seen long ago, nobody can say what became of it.
    let lost =
        ["result a 1 known 1 unknown", "ack 1 CMD_COMPLETE Done", "ack 2 CMD_FAILED Failed: No such job: a"];
    let mut world = World::tracking();
    world.run_for(secs(700));
    world.send(abort("a"));
    world.take();
    world.answer("DELETE a", Reply::Gone);
    world.expect(&lost);
    world.converge();
    // Time in which the process stands still counts too.
    for (pause, expected) in [(100, &ABORTED[..]), (700, &lost)] {
        let mut world = World::tracking();
        world.run_to_answer("GET a", job("a", Phase::Active));
        world.now += secs(pause);
        world.send(abort("a"));
        world.take();
        world.answer("DELETE a", Reply::Gone);
        world.expect(expected);
    }
}

#[test]
fn a_list_requested_before_a_job_was_created_proves_nothing_about_it() {
    // Whoever names a job that is about to be created is in time all the same.
    let mut world = World::submitting();
    world.send(abort("a"));
    world.run_for(secs(1));
    world.take();
    world.answer("PUT 1", job("a", Phase::Active));
    world.take();
    world.answer("DELETE a", Reply::Gone);
    world.expect(&["DELETE a"]);
    world.answer("DELETE a", removed());
    world.expect(&ABORTED);
    world.converge();

    // The same with a list that was made before.
    let mut world = World::submitting();
    world.send(abort("a"));
    world.answer("DELETE a", unclear());
    world.run_to_answer("GET a", Reply::Gone);
    world.run_to("LIST");
    world.run_for(secs(1));
    world.take();
    world.answer("PUT 1", job("a", Phase::Active));
    world.take();
    world.answer("LIST", none());
    world.expect(&[]);
    world.run_to_answer("DELETE a", removed());
    world.expect(&[&["DELETE a"][..], &ABORTED].concat());
    world.converge();
}

#[test]
fn a_run_that_waits_for_others_is_aborted_by_its_run_id_without_a_request() {
    let mut world = World::enabled();
    world.send(execute("p,q"));
    world.send(execute("q"));
    world.take();
    let run_id = world.run_id(1);
    world.send(abort(run_id.as_str()));
    world.expect(&["ack 1 CMD_ABORTED Aborted", "ack 3 CMD_COMPLETE Done"]);
    let report = world.csc.job_reports().next().unwrap();
    assert_eq!(report.outcome.unwrap().as_str(), "aborted");
    assert_eq!(report.problem.as_deref(), Some("abort_job of root@host before it was submitted"));
    // What only it waited for is not asked for any more, what others wait for is.
    world.answer("GET p", job("p", Phase::Active));
    world.answer("GET q", job("q", Phase::Active));
    world.run_for(secs(10));
    world.expect(&["GET q"]);
    // Who aborts it again has what he wants.
    world.send(abort(run_id.as_str()));
    world.expect(&["ack 4 CMD_COMPLETE Done"]);
    world.converge();
}

#[test]
fn a_run_id_is_another_name_of_its_job() {
    let mut world = World::tracking();
    let run_id = world.run_id(1);
    world.send(abort(run_id.as_str()));
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    world.expect(&[
        "DELETE a",
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 2 CMD_COMPLETE Done",
        "ack 3 CMD_COMPLETE Done",
    ]);
    world.send(abort(run_id.as_str()));
    world.answer("DELETE a", Reply::Gone);
    world.expect(&["DELETE a", "ack 4 CMD_FAILED Failed: No such job: a"]);
}

#[test]
fn a_run_without_an_id_is_aborted_and_what_comes_of_its_submission_is_removed() {
    // The answer to its PUT comes later.
    let mut world = World::submitting();
    let run_id = world.run_id(1);
    world.send(abort(run_id.as_str()));
    world.answer("PUT 1", job("a", Phase::Active));
    world.answer("DELETE a", removed());
    world.expect(&["journal", "PUT 1", "ack 1 CMD_ABORTED Aborted", "ack 2 CMD_COMPLETE Done", "DELETE a"]);
    // It comes before the abort is recorded: a list finds the job later.
    let mut world = World::submitting();
    let (run_id, found) = (world.run_id(1), world.listed(&[("a", 1)]));
    world.take();
    (world.journal_at_once, world.shows_routine) = (false, true);
    world.send(abort(run_id.as_str()));
    world.input(Input::Journaled(Awaited::Accepted(EntryKey(2))));
    world.answer("PUT 1", job("a", Phase::Active));
    assert!(!world.open_names().contains(&"DELETE a".to_owned()));
    world.journal_at_once = true;
    world.journal_all();
    world.run_to_answer("LIST", found);
    world.answer("DELETE a", removed());
    // There is none: its job shows up in the list.
    for answer in [unclear(), refused()] {
        let mut world = World::submitting();
        let run_id = world.run_id(1);
        let found = world.listed(&[("a", 1)]);
        world.answer("PUT 1", answer);
        world.answer("LIST", none());
        world.take();
        world.send(abort(run_id.as_str()));
        world.expect(&["ack 1 CMD_ABORTED Aborted", "ack 2 CMD_COMPLETE Done"]);
        world.run_to_answer("LIST", found);
        world.answer("DELETE a", removed());
        assert!(world.times("PUT 1").len() <= 2 && !world.is_busy());
    }
    // Nothing of it ever reached the service.
    let mut world = World::submitting();
    world.answer("PUT 1", away());
    let run_id = world.run_id(1);
    world.send(abort(run_id.as_str()));
    world.take();
    world.run_for(secs(300));
    world.expect(&[]);
}

#[test]
fn a_run_that_failed_is_not_aborted() {
    let mut world = World::submitting();
    let run_id = world.run_id(1);
    world.answer("PUT 1", Reply::Rejected { reason: "no".to_owned() });
    world.take();
    world.send(abort(run_id.as_str()));
    world.expect(&["ack 2 CMD_FAILED Failed: No such job: its submission failed"]);
}
