//! Jobs found by run id: duplicates that appeared late, and two jobs of one run.

use ocps::csc::event::Phase;

use super::world::{World, execute, job, none, removed, secs, unclear};
use crate::reply::Reply;

/// An execute that was sent twice because the first job did not show up; the second is `b`.
fn sent_twice() -> World {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    while !world.open_names().contains(&"PUT 1".to_owned()) {
        world.run_to_answer("LIST", none());
    }
    world.answer("PUT 1", job("b", Phase::Active));
    world.take();
    world
}

#[test]
fn of_two_jobs_of_one_run_one_is_kept() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    world.take();
    let three = world.listed(&[("b", 1), ("a", 1), ("c", 1)]);
    world.answer("LIST", three.clone());
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"b\"}", "job_id 1 b"]);
    // Now that it is recorded which one is kept.
    world.run_to("LIST");
    world.take();
    world.answer("LIST", three);
    world.expect(&["DELETE a", "DELETE c"]);
    world.answer("DELETE a", removed());
    world.answer("DELETE c", Reply::Gone);
    // Nobody hears of them.
    world.expect(&[]);
    world.converge();
}

#[test]
fn a_double_that_comes_late_is_removed_while_its_job_runs() {
    let mut world = sent_twice();
    let begun = world.now;
    world.run_to("LIST");
    // A short one would have run to its end after a minute.
    assert_eq!(world.now, begun + secs(3));
    let both = world.listed(&[("b", 1), ("late", 1)]);
    world.answer("LIST", both);
    assert_eq!(world.take().last().unwrap(), "DELETE late");
    world.answer("DELETE late", removed());
    world.expect(&[]);
}

#[test]
fn a_double_that_comes_late_is_removed_after_its_job_has_ended() {
    let mut world = sent_twice();
    let of_both = world.listed(&[("b", 1), ("late", 1)]);
    world.run_to_answer("GET b", job("b", Phase::Completed));
    world.take();
    world.run_to("LIST");
    world.take();
    world.answer("LIST", of_both);
    world.expect(&["DELETE late"]);
}

#[test]
fn a_run_id_is_remembered_for_an_hour() {
    let mut world = sent_twice();
    world.run_to_answer("GET b", job("b", Phase::Completed));
    let mut lists = 0;
    let end = world.now + secs(3600);
    while world.now < end {
        world.run_for(secs(1));
        if let Some(at) = world.open.len().checked_sub(1) {
            assert!(world.asked_run_ids().contains(&world.run_id(1)));
            world.answer_at(at, none());
            lists += 1;
        }
    }
    assert!((55..=65).contains(&lists), "{lists}");
    world.run_for(secs(60));
    while let Some(at) = world.open.len().checked_sub(1) {
        world.answer_at(at, none());
        world.run_for(secs(60));
    }
    world.run_for(secs(7200));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
}

#[test]
fn a_double_of_a_submission_that_was_given_up_is_removed() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    while world.is_busy() {
        world.run_to_answer("LIST", unclear());
    }
    // The sender learns that a job may exist, and that it will be looked up.
    let lines = world.take();
    let run_id = world.run_id(1);
    let reason = format!(
        "ack 1 CMD_FAILED Failed: no luck; it is unclear whether a job with run id {run_id} was created: if one shows \
         up within an hour, it is removed"
    );
    assert_eq!(lines.last().unwrap(), &reason);
    world.run_to("LIST");
    world.take();
    let late = world.listed(&[("late", 1)]);
    world.answer("LIST", late);
    world.expect(&["DELETE late"]);
}

#[test]
fn an_outage_of_the_list_is_waited_for() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    let mut lists = Vec::new();
    while world.is_busy() {
        if let Some(at) = world.open.len().checked_sub(1) {
            lists.push(world.now);
            world.answer_at(at, unclear());
        }
        world.run_for(std::time::Duration::from_millis(100));
    }
    assert!((3..=12).contains(&lists.len()), "{lists:?}");
    for pair in lists.windows(2) {
        assert!(pair[1] - pair[0] >= secs(3), "{lists:?}");
    }
}

/// Three executes whose PUTs were answered with their jobs.
fn sent_well() -> World {
    let mut world = World::enabled();
    world.shows_routine = true;
    for id in ["a", "b", "c"] {
        let number = world.send(execute(""));
        world.answer(&format!("PUT {number}"), job(id, Phase::Active));
    }
    world.take();
    world
}

#[test]
fn a_submission_that_went_well_is_looked_up_soon_and_once_more_with_one_list_for_all() {
    let mut world = sent_well();
    let begun = world.now;
    world.run_to("LIST");
    assert_eq!(world.now, begun + secs(3));
    assert_eq!(world.asked_run_ids(), (1..=3).map(|number| world.run_id(number)).collect());
    let repeated = world.listed(&[("a", 1), ("b", 2), ("b2", 2), ("c", 3)]);
    world.take();
    world.answer("LIST", repeated);
    world.expect(&["DELETE b2"]);
    world.answer("DELETE b2", removed());
    world.run_to("LIST");
    assert_eq!(world.now, begun + secs(15));
    let late = world.listed(&[("a", 1), ("b", 2), ("c", 3), ("c2", 3)]);
    world.answer("LIST", late);
    world.answer("DELETE c2", removed());
    // Until none is there.
    world.run_to("LIST");
    assert_eq!(world.asked_run_ids(), [world.run_id(3)].into());
    world.answer("LIST", none());
    while world.now < begun + secs(4000) {
        world.run_for(secs(1));
        while let Some(name) = world.open_names().first().cloned() {
            world.answer(&name, job(&name[4..], Phase::Active));
        }
    }
    assert_eq!(world.times("LIST").len(), 3);
    world.converge();
}

#[test]
fn a_service_whose_lists_take_long_is_spared() {
    let mut world = sent_well();
    world.run_to("LIST");
    world.run_for(secs(10));
    world.answer("LIST", none());
    let answered = world.now;
    world.run_to("LIST");
    assert_eq!(world.now, answered + secs(40));
    world.answer("LIST", none());
    // What is in doubt waits less.
    world.run_for(secs(100));
    world.send(execute(""));
    world.answer("PUT 4", unclear());
    world.run_for(secs(10));
    world.answer("LIST", none());
    let answered = world.now;
    world.run_to("LIST");
    assert_eq!(world.now, answered + secs(5));
}

#[test]
fn only_what_is_in_doubt_is_asked_for() {
    let mut world = World::tracking();
    world.run_for(secs(100));
    world.send(execute(""));
    world.answer("PUT 2", unclear());
    assert_eq!(world.asked_run_ids(), [world.run_id(2)].into());
}

#[test]
fn one_404_ends_no_job() {
    let mut world = World::tracking();
    world.run_to("GET a");
    let asked = world.now;
    world.answer("GET a", Reply::Gone);
    world.run_to("GET a");
    assert_eq!(world.now, asked + secs(3));
    world.take();
    world.answer("GET a", Reply::Gone);
    world.expect(&["LIST"]);
    // It is there: what a cache says of it is not so.
    let there = world.listed(&[("a", 1)]);
    world.answer("LIST", there);
    world.run_to_answer("GET a", job("a", Phase::Active));
    world.run_to_answer("GET a", Reply::Gone);
    world.run_to_answer("GET a", job("a", Phase::Completed));
    assert_eq!(world.take().last().unwrap(), "ack 1 CMD_COMPLETE Done");
}

#[test]
fn a_job_that_has_vanished_ends_though_no_list_can_be_had() {
    let mut world = World::tracking();
    let mut asked = 0;
    while world.is_busy() {
        world.run_to_answer("GET a", Reply::Gone);
        asked += 1;
        if world.open_names().contains(&"LIST".to_owned()) {
            world.answer("LIST", unclear());
        }
    }
    assert_eq!(asked, 8);
    assert!(world.now > secs(60));
}
