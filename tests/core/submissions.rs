//! From an execute to its job: what is sent, when it is sent again, and when it is given up.

use std::time::Duration;

use ocps::csc::event::Phase;
use ocps::csc::request::{Contact, FailureKind};

use super::world::{World, away, execute, failed, job, none, refused, secs, unclear, wrong};

fn just_before(time: Duration) -> Duration {
    time - Duration::from_nanos(1)
}

const FAILED: &str = "ack 1 CMD_FAILED Failed: no luck";

#[test]
fn a_job_id_is_published_when_the_job_exists() {
    let mut world = World::submitting();
    world.expect(&["journal", "PUT 1"]);
    world.run_for(secs(1000));
    world.expect(&[]);
    world.answer("PUT 1", job("a", Phase::Active));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    assert!(world.run_id(1).as_str().starts_with("1-"));
    world.converge();
}

#[test]
fn after_an_unclear_attempt_the_list_is_asked_over_the_settle_time() {
    for answer in [unclear(), wrong()] {
        let mut world = World::submitting();
        world.answer("PUT 1", answer);
        world.expect(&["journal", "PUT 1", "LIST"]);
        assert!(world.asked_run_ids().contains(&world.run_id(1)));
        // The settle time counts from the first list that was answered.
        world.run_for(secs(2));
        world.answer("LIST", none());
        let settled = world.now + secs(15);
        while world.now < settled {
            world.expect(&[]);
            world.run_to("LIST");
            world.expect(&["LIST"]);
            if world.now < settled {
                world.answer("LIST", none());
            }
        }
        // This list was asked for when the job would have shown up.
        assert!(world.now < settled + secs(3));
        world.answer("LIST", none());
        world.expect(&["PUT 1"]);
        assert_eq!(world.submissions[0], world.submissions[1], "with the same run id");
        world.converge();
    }
}

#[test]
fn a_list_requested_before_the_attempt_ended_proves_nothing() {
    let mut world = World::submitting();
    world.send(execute(""));
    world.answer("PUT 1", refused());
    world.expect(&["journal", "PUT 1", "journal", "PUT 2", "LIST"]);
    // Even in the same moment.
    world.answer("PUT 2", refused());
    world.answer("LIST", none());
    world.expect(&["PUT 1"]);
    world.run_to_answer("LIST", none());
    world.expect(&["LIST", "PUT 2"]);
    world.converge();
}

#[test]
fn a_submission_that_never_reached_the_service_is_sent_again_without_a_lookup() {
    let mut world = World::submitting();
    world.take();
    let begun = world.now;
    let mut attempts = 1;
    loop {
        world.answer("PUT 1", away());
        let failed = world.now;
        while world.open.is_empty() && world.is_busy() {
            world.run_for(Duration::from_millis(100));
        }
        if !world.is_busy() {
            break;
        }
        attempts += 1;
        assert!(world.now >= failed + Duration::from_millis(750));
        assert!(world.now <= failed + secs(38));
    }
    assert!(attempts >= 5, "{attempts}");
    let lines = world.take();
    assert_eq!(lines.last().unwrap(), FAILED);
    // The last one was sent when the time was over.
    let [failed] = world.times(FAILED)[..] else { panic!() };
    assert!(failed >= begun + secs(60) && failed <= begun + Duration::from_millis(60_100), "{failed:?}");
    // Nothing can have come of it, so nothing is looked for.
    world.run_for(secs(4000));
    assert_eq!(world.open_names(), <[&str; 0]>::default());
    assert_eq!(world.csc.state().name(), "ENABLED");
}

#[test]
fn the_time_to_submit_does_not_run_while_it_is_queued() {
    let mut world = World::submitting();
    world.run_for(secs(500));
    world.answer("PUT 1", away());
    world.run_for(just_before(secs(60)));
    assert!(world.is_busy());
    while let Some(at) = world.open.len().checked_sub(1) {
        world.answer_at(at, away());
    }
    world.run_for(Duration::from_nanos(1));
    world.answer("PUT 1", away());
    assert!(!world.is_busy());
    // Nor is there less time for a second attempt.
    let mut world = World::submitting();
    world.run_for(secs(500));
    world.answer("PUT 1", refused());
    world.take();
    world.answer("LIST", none());
    world.expect(&["PUT 1"]);
    world.converge();
}

#[test]
fn a_refused_submission_is_looked_up_once_and_tried_once_more() {
    let mut world = World::submitting();
    world.answer("PUT 1", refused());
    world.answer("LIST", none());
    world.expect(&["journal", "PUT 1", "LIST", "PUT 1"]);
    world.answer("PUT 1", refused());
    world.answer("LIST", none());
    world.expect(&["LIST", FAILED]);
    assert_eq!(world.csc.state().name(), "ENABLED");
    // One that a gateway made of it all the same is found.
    world.run_to("LIST");
    let late = world.listed(&[("late", 1)]);
    world.answer("LIST", late);
    world.expect(&["LIST", "DELETE late"]);
}

#[test]
fn not_now_is_no_refusal_however_often_it_comes() {
    let mut world = World::submitting();
    for _ in 0..5 {
        world.answer("PUT 1", failed(FailureKind::NotNow, Contact::Silent));
        world.run_to_answer("LIST", none());
    }
    world.take();
    world.answer("PUT 1", job("a", Phase::Active));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    world.converge();
}

#[test]
fn a_refusal_that_left_a_job_is_no_failure() {
    for refusals in [1, 2] {
        let mut world = World::submitting();
        for n in 0..refusals {
            world.answer("PUT 1", refused());
            let answer = if n + 1 == refusals { world.listed(&[("a", 1)]) } else { none() };
            world.answer("LIST", answer);
        }
        let lines = world.take();
        assert!(lines.contains(&"job_id 1 a".to_owned()), "{lines:?}");
        world.converge();
    }
}

#[test]
fn a_submission_in_doubt_is_given_up_when_no_list_can_be_had_after_submit_timeout_and_settle_time() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    let begun = world.now;
    let mut asked = Duration::ZERO;
    while world.is_busy() {
        world.run_to("LIST");
        asked = world.now;
        world.run_for(secs(1));
        world.answer("LIST", away());
    }
    assert!(asked >= begun + secs(75) && asked < begun + secs(78), "{asked:?}");
    let lines = world.take();
    assert!(lines.last().unwrap().starts_with(FAILED), "{lines:?}");
    assert_eq!(world.submissions.len(), 1);
    assert_eq!(world.csc.state().name(), "ENABLED");
}

#[test]
fn a_service_whose_list_took_long_to_fail_is_asked_for_none_for_as_long_not_even_the_last() {
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    let begun = world.now;
    world.run_to("LIST");
    world.run_for(secs(50));
    world.answer("LIST", away());
    let failed = world.now;
    world.run_to("LIST");
    assert!(world.now >= failed + secs(50) && world.now > begun + secs(75), "{:?}", world.now);
}

/// Lists show nothing from `listing` on, before that there is none; until something is sent again or it has ended.
fn look(world: &mut World, listing: Duration) {
    while world.is_busy() && !world.open_names().contains(&"PUT 1".to_owned()) {
        if let Some(at) = world.open.len().checked_sub(1) {
            world.answer_at(at, if world.now < listing { away() } else { none() });
        }
        world.run_for(Duration::from_millis(500));
    }
}

#[test]
fn an_attempt_that_the_service_answered_is_not_repeated_when_its_time_is_over() {
    let mut world = World::submitting();
    world.answer("PUT 1", failed(FailureKind::Unclear, Contact::Answered));
    look(&mut world, secs(50));
    assert!(!world.is_busy());
    assert_eq!(world.submissions.len(), 1);
}

#[test]
fn a_submission_that_never_reached_the_service_is_sent_once_more_when_its_time_is_over() {
    // A gateway without the service behind it, for 50 s.
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    look(&mut world, secs(50));
    assert!(world.now > secs(60));
    assert_eq!(world.submissions.len(), 2);
    world.answer("PUT 1", job("a", Phase::Active));
    world.converge();
    // That was the last one.
    let mut world = World::submitting();
    world.answer("PUT 1", unclear());
    look(&mut world, secs(50));
    world.answer("PUT 1", unclear());
    look(&mut world, secs(0));
    assert!(!world.is_busy());
    assert_eq!(world.submissions.len(), 2);
}

#[test]
fn a_pause_of_the_process_uses_up_no_time() {
    // While it is looked for, and while the next attempt is waited for.
    for answer in [unclear(), away()] {
        let mut world = World::submitting();
        world.answer("PUT 1", answer);
        if let Some(at) = world.open.len().checked_sub(1) {
            world.answer_at(at, none());
        }
        world.run_for(secs(5));
        world.now += secs(600);
        world.tick();
        assert!(world.is_busy());
        look(&mut world, Duration::ZERO);
        world.answer("PUT 1", away());
        assert!(world.is_busy(), "it has its time still");
        world.run_to_answer("PUT 1", job("a", Phase::Active));
        world.converge();
    }
}

/// The last PUT went out just before the time to submit was over, and hangs.
fn last_attempt() -> World {
    let mut world = World::submitting();
    world.answer("PUT 1", away());
    while world.now < secs(5) {
        world.run_to_answer("PUT 1", away());
    }
    world.run_to("PUT 1");
    world.run_until(secs(200));
    world
}

#[test]
fn the_last_attempt_is_looked_up_however_late_it_ended() {
    let mut world = last_attempt();
    world.take();
    world.answer("PUT 1", unclear());
    world.expect(&["LIST"]);
    assert!(world.is_busy(), "it is looked up first");
    world.answer("LIST", none());
    world.run_for(secs(10));
    let found = world.listed(&[("a", 1)]);
    world.answer("LIST", found);
    world.expect(&["LIST", "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a"]);
    world.converge();
}

#[test]
fn a_last_attempt_that_is_not_found_over_the_settle_time_fails() {
    let mut world = last_attempt();
    world.answer("PUT 1", unclear());
    look(&mut world, Duration::ZERO);
    assert!(world.now >= secs(215) && world.now < secs(219), "{:?}", world.now);
    // One more, which decides.
    let refusal = failed(FailureKind::Unclear, Contact::Answered);
    world.answer("PUT 1", refusal);
    look(&mut world, Duration::ZERO);
    assert!(!world.is_busy());
}

#[test]
fn a_job_that_shows_up_while_the_next_attempt_waits_is_taken() {
    let mut world = World::submitting();
    world.send(execute(""));
    world.answer("PUT 1", refused());
    world.answer("LIST", none());
    world.answer("PUT 1", away());
    world.answer("PUT 2", unclear());
    world.run_to("LIST");
    world.take();
    // It was to be sent again in a moment; now that would make a second job.
    let both = world.listed(&[("a", 1), ("b", 2)]);
    assert!(!world.open_names().contains(&"PUT 1".to_owned()));
    world.answer("LIST", both);
    world.expect(&[
        "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}",
        "job_id 1 a",
        "ack 2 CMD_INPROGRESS {\"job_id\":\"b\"}",
        "job_id 2 b",
    ]);
    world.converge();
    assert_eq!(world.submissions.len(), 3);
}

#[test]
fn a_job_id_of_another_command_is_not_accepted() {
    let mut world = World::enabled();
    world.shows_routine = true;
    world.running("a");
    world.send(execute(""));
    world.answer("PUT 2", job("a", Phase::Active));
    world.expect(&["journal", "PUT 2", "LIST"]);
    let found = world.listed(&[("b", 2)]);
    world.answer("LIST", found);
    world.expect(&["ack 2 CMD_INPROGRESS {\"job_id\":\"b\"}", "job_id 2 b"]);
    world.converge();
}
