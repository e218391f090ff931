//! Polls of running jobs: their pace, reminders, results.

use std::time::Duration;

use ocps::csc::Input;
use ocps::csc::command::CommandKind;
use ocps::csc::event::Phase;

use super::world::{
    POLL, World, abort, away, configuration, execute, job, removed, secs, start, unclear, wrong,
};

const TOLD: &str = "ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}";

fn restart(world: &mut World, poll_interval: Duration, url: &str) {
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    let mut new = configuration();
    new.service.poll_interval = poll_interval;
    new.service.url = url.into();
    world.input(Input::Configuration(Ok(new)));
    world.send(CommandKind::Enable);
}

#[test]
fn a_job_is_polled_at_its_pace_in_every_state() {
    let mut world = World::tracking();
    let begun = world.now;
    world.run_to_answer("GET a", job("a", Phase::Active));
    assert!(world.now <= begun + POLL);
    let mut expected = world.now;
    for n in 0..100 {
        match n {
            20 => _ = world.send(CommandKind::Disable),
            40 => _ = world.send(CommandKind::Standby),
            _ => {}
        }
        expected += POLL;
        world.run_to("GET a");
        assert_eq!(world.now, expected);
        world.answer("GET a", job("a", Phase::Active));
    }
    world.converge();
}

#[test]
fn a_hanging_poll_is_waited_for() {
    let mut world = World::tracking();
    world.run_for(secs(1000));
    assert_eq!(world.open_names(), ["GET a"]);
}

#[test]
fn failing_polls_back_off_and_come_back() {
    let mut world = World::tracking();
    world.run_to("GET a");
    let mut times = vec![world.now.as_secs_f64()];
    for _ in 0..8 {
        world.answer("GET a", wrong());
        world.run_to("GET a");
        times.push(world.now.as_secs_f64());
    }
    for (n, pair) in times.windows(2).enumerate() {
        let expected = f64::from((5_u32 << n.min(10)).min(30));
        let waited = pair[1] - pair[0];
        assert!((0.75 * expected..=1.25 * expected).contains(&waited), "{n}: {waited} s");
    }
    world.answer("GET a", job("a", Phase::Active));
    let answered = world.now;
    world.run_to("GET a");
    assert_eq!(world.now, answered + POLL);
}

#[test]
fn a_waiting_sender_is_reminded_every_five_minutes() {
    let mut world = World::tracking();
    let begun = world.now;
    while world.now < begun + secs(1000) {
        world.run_for(secs(1));
        if !world.open.is_empty() {
            world.answer_at(0, job("a", Phase::Active));
        }
    }
    assert_eq!(world.times(TOLD), [0, 300, 600, 900].map(|s| begun + secs(s)));
    // Also while the service is away, in other states, and while it is aborted.
    world.send(abort("a"));
    world.send(CommandKind::Disable);
    world.run_until(begun + secs(1200));
    assert_eq!(world.times(TOLD).last(), Some(&(begun + secs(1200))));
    world.answer("DELETE a", removed());
    world.run_for(secs(1000));
    assert_eq!(world.times(TOLD).len(), 5);
}

#[test]
fn phases_may_go_backwards_and_only_final_ones_count() {
    let mut world = World::tracking();
    for _ in 0..5 {
        world.run_to_answer("GET a", job("a", Phase::Active));
    }
    world.run_to("GET a");
    world.take();
    world.answer("GET a", job("a", Phase::Completed));
    world.expect(&["result a 0 object of a", "ack 1 CMD_COMPLETE Done"]);
}

#[test]
fn a_new_start_changes_the_pace_at_once_but_no_url() {
    for prerequisite in [false, true] {
        let mut world = World::enabled();
        restart(&mut world, secs(600), "http://uws");
        if prerequisite {
            world.send(execute("a"));
            world.answer("GET a", job("a", Phase::Active));
        } else {
            let number = world.send(execute(""));
            world.answer(&format!("PUT {number}"), job("a", Phase::Active));
        }
        world.run_for(secs(10));
        restart(&mut world, secs(2), "http://elsewhere");
        let changed = world.now;
        world.run_to_answer("GET a", job("a", Phase::Active));
        assert!(world.now <= changed + secs(2), "{prerequisite}");
        let first = world.now;
        for n in 1..4 {
            world.run_to("GET a");
            assert_eq!(world.now, first + n * secs(2), "{prerequisite}");
            assert_eq!(world.open[0].url.address(), "http://uws");
            world.answer("GET a", job("a", Phase::Active));
        }
        restart(&mut world, secs(60), "http://elsewhere");
        world.run_to_answer("GET a", job("a", Phase::Active));
        let changed = world.now;
        world.run_to("GET a");
        assert_eq!(world.now, changed + secs(60));
        let number = world.send(execute(""));
        assert_eq!(world.open.last().unwrap().url.address(), "http://elsewhere");
        world.answer(&format!("PUT {number}"), away());
        world.converge();
    }
}

#[test]
fn a_job_that_ends_well_has_no_problem_left() {
    let mut world = World::tracking();
    world.run_to_answer("GET a", away());
    let problem = |world: &World| world.csc.job_reports().next().unwrap().problem;
    assert_eq!(problem(&world).as_deref(), Some("no luck"));
    world.run_to_answer("GET a", job("a", Phase::Completed));
    assert_eq!(problem(&world), None);
}

#[test]
fn a_job_is_reported_from_its_start_to_its_end() {
    let mut world = World::enabled();
    world.journal_at_once = false;
    let mut stages = Vec::new();
    let mut note = |world: &World| {
        let report = world.csc.job_reports().next().unwrap();
        stages.push(report.stage.as_str());
        (report.job_id, report.exit_code, report.problem)
    };
    world.send(execute("p"));
    note(&world);
    world.journal_all();
    note(&world);
    world.answer("GET p", job("p", Phase::Completed));
    world.answer("PUT 1", unclear());
    assert_eq!(note(&world).2.as_deref(), Some("no luck"));
    let found = world.listed(&[("a", 1)]);
    world.answer("LIST", found);
    assert_eq!(note(&world).2, None);
    world.send(abort("a"));
    world.journal_all();
    note(&world);
    world.answer("DELETE a", removed());
    let (job_id, exit_code, _) = note(&world);
    assert_eq!((job_id.unwrap().as_str(), exit_code.unwrap().number()), ("a", 255));
    assert_eq!(stages, ["recording", "waiting", "submitting", "running", "aborting", "finished"]);
}
