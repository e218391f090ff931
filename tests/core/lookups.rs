//! Jobs found by run id: doubles that came to life late, and two jobs of one run.

use ocps::csc::event::Phase;
use ocps::csc::request::Answer;

use super::world::{World, execute, job, refused, removed, secs, unclear};

fn none() -> Answer {
    Answer::Listed(Vec::new())
}

/// An execute that was sent twice because the first job did not show up; the second is `b`.
fn sent_twice() -> World {
    let mut world = World::enabled();
    world.send(execute(""));
    world.answer("PUT 1", refused());
    world.answer("LIST", none());
    world.answer("PUT 1", job("b", Phase::Active));
    world.take();
    world
}

#[test]
fn of_two_jobs_of_one_run_one_is_kept() {
    let mut world = World::enabled();
    world.send(execute(""));
    world.answer("PUT 1", unclear());
    world.take();
    let three = world.listed(&[("b", 1), ("a", 1), ("c", 1)]);
    world.answer("LIST", three);
    world.expect(&["DELETE a", "DELETE c", "ack 1 CMD_INPROGRESS {\"job_id\":\"b\"}", "job_id 1 b"]);
    world.answer("DELETE a", removed());
    world.answer("DELETE c", Answer::Gone);
    // Nobody hears of them.
    world.expect(&[]);
    world.converge();
}

#[test]
fn a_double_that_comes_late_is_removed_while_its_job_runs() {
    let mut world = sent_twice();
    world.run_to("LIST");
    assert!(world.now >= secs(60), "a list is dear: {:?}", world.now);
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
    while world.now < secs(3600) {
        world.run_for(secs(1));
        if let Some(at) = world.open.len().checked_sub(1) {
            assert!(world.asked_run_ids().contains(&world.run_id(1)));
            world.answer_at(at, none());
            lists += 1;
        }
    }
    assert!((50..=60).contains(&lists), "{lists}");
    world.run_for(secs(7200));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
}

#[test]
fn a_double_of_a_submission_that_was_given_up_is_removed() {
    let mut world = World::enabled();
    world.send(execute(""));
    world.answer("PUT 1", unclear());
    // No list is ever answered.
    world.run_for(secs(75));
    assert_eq!(world.take().last().unwrap(), "ack 1 CMD_FAILED Failed: no luck");
    let late = world.listed(&[("late", 1)]);
    world.answer("LIST", late);
    world.expect(&["DELETE late"]);
}

#[test]
fn an_outage_of_the_list_is_waited_for() {
    let mut world = World::enabled();
    world.send(execute(""));
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
