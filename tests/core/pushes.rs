//! Rapid Analysis (index 101): an execute is a push to Redis, and that is all.

use std::time::Duration;

use ocps::csc::command::{CommandKind, Execute};
use ocps::csc::id::SalIndex;
use ocps::csc::request::{Action, Contact, Failure, FailureKind};
use ocps::csc::state::SummaryState;
use ocps::csc::{Input, Settings};

use super::reply::Reply;
use super::world::{World, abort, configuration, execute, secs, settings, start};

fn of_rapid_analysis() -> Settings {
    Settings { index: SalIndex::Ra, max_jobs: 3, ..settings() }
}

fn enabled() -> World {
    World::enabled_with(of_rapid_analysis())
}

fn push(config: &str) -> CommandKind {
    CommandKind::Execute(Execute {
        pipeline: String::new(),
        version: String::new(),
        config: config.to_owned(),
        data_query: String::new(),
        prereq_jobs: Vec::new(),
        output_dataset_types: String::new(),
    })
}

fn failed(kind: FailureKind, reason: &str) -> Reply {
    Reply::Failed(Failure { kind, contact: Contact::Silent, reason: reason.to_owned() })
}

/// How long the push in progress may take, in ms.
#[track_caller]
fn patience(world: &World) -> u128 {
    let Action::Push { patience, .. } = &world.open[0].action else { panic!("{:?}", world.open) };
    patience.as_millis()
}

/// Checks that there is one line, with this beginning.
#[track_caller]
fn expect_begins(world: &mut World, beginning: &str) {
    let lines = world.take();
    assert!(lines.len() == 1 && lines[0].starts_with(beginning), "{lines:?}");
}

#[test]
fn pushes_are_made_one_by_one_in_order() {
    let mut world = enabled();
    world.send(push("a"));
    world.send(push("b"));
    world.run_for(secs(1));
    world.expect(&["PUSH a"]);
    assert_eq!(patience(&world), 4250);
    world.answer("PUSH a", Reply::Done);
    world.expect(&["ack 1 CMD_COMPLETE Done", "PUSH b"]);
    assert_eq!(patience(&world), 3250);
    world.answer("PUSH b", Reply::Rejected { reason: "no".to_owned() });
    world.expect(&["ack 2 CMD_FAILED Failed: no; nothing was pushed"]);
    assert_eq!(world.csc.next_deadline(), secs(2));
}

#[test]
fn the_health_that_is_reported_is_that_of_redis_whatever_service_is_configured() {
    let mut world = enabled();
    assert!(world.csc.status().service.last_believed.is_some());
    world.send(push("a"));
    world.answer("PUSH a", failed(FailureKind::NotSent, "connection refused"));
    assert!(world.csc.status().service.silent_for.is_some());
}

#[test]
fn the_reason_of_a_failed_push_states_whether_the_values_were_pushed() {
    let check = |kind, reason, expected: &str| {
        let mut world = enabled();
        world.send(push("a"));
        world.take();
        world.answer("PUSH a", failed(kind, reason));
        expect_begins(&mut world, &format!("ack 1 CMD_FAILED Failed: {expected}"));
        // It is not repeated.
        world.run_for(secs(59));
        world.expect(&[]);
        assert!(world.open.is_empty());
    };
    check(FailureKind::NotSent, "x", "x; nothing was pushed");
    check(FailureKind::Refused, "x", "x; nothing was pushed");
    check(FailureKind::Unclear, "x", "x; it is unclear whether the values were pushed");
    check(FailureKind::Wrong, "one of two", "one of two");
}

#[test]
fn all_are_answered_in_time_even_if_the_back_end_is_not() {
    let mut world = enabled();
    world.send(push("a"));
    world.run_for(secs(1));
    world.send(push("b"));
    world.run_for(Duration::from_millis(3499));
    world.expect(&["PUSH a"]);
    world.run_for(Duration::from_millis(1));
    expect_begins(&mut world, "ack 1 CMD_FAILED Failed: Redis did not answer in time; it is unclear");
    world.run_for(Duration::from_millis(750));
    world.expect(&[
        "ack 2 CMD_FAILED Failed: commands before it waited for Redis too long; nothing was pushed",
    ]);
    // The back-end is still at the first one: nothing overtakes it.
    world.send(push("c"));
    world.run_for(secs(1));
    world.expect(&[]);
    world.answer("PUSH a", Reply::Done);
    world.expect(&["PUSH c"]);
    assert_eq!(patience(&world), 3250);
    world.answer("PUSH c", Reply::Done);
    world.expect(&["ack 3 CMD_COMPLETE Done"]);
}

#[test]
fn a_pause_of_the_process_is_no_reason_to_give_up_the_push_in_progress() {
    let mut world = enabled();
    world.send(push("a"));
    world.send(push("b"));
    world.take();
    world.now += secs(100);
    world.tick();
    world.expect(&[
        "ack 2 CMD_FAILED Failed: commands before it waited for Redis too long; nothing was pushed",
    ]);
    world.answer("PUSH a", Reply::Done);
    world.expect(&["ack 1 CMD_COMPLETE Done"]);
}

#[test]
fn those_that_wait_are_bounded() {
    let mut world = enabled();
    for _ in 0..4 {
        world.send(push("a"));
    }
    world.expect(&["PUSH a"]);
    world.send(push("a"));
    world.expect(&[
        "ack 5 CMD_FAILED Failed: 3 commands wait for Redis, which is the limit; nothing was pushed",
    ]);
}

#[test]
fn start_needs_a_ping() {
    let mut world = World::with(of_rapid_analysis(), 1);
    world.pong_at_once = false;
    world.take();
    world.send(start());
    world.input(Input::Configuration(Ok(configuration())));
    world.send(CommandKind::Enable);
    world.expect(&["read \"\""]);
    assert_eq!(world.csc.state(), SummaryState::Standby);
    world.answer("PING", failed(FailureKind::Refused, "Redis at h:1 refuses the password"));
    world.expect(&[
        "ack 1 CMD_FAILED Failed: Redis at h:1 refuses the password",
        "ack 2 CMD_FAILED Failed: enable not allowed in state STANDBY",
    ]);
    world.send(start());
    world.input(Input::Configuration(Err("bad".to_owned())));
    world.expect(&["read \"\"", "ack 3 CMD_FAILED Failed: bad"]);
    assert!(world.open.is_empty());
    world.send(start());
    world.input(Input::Configuration(Ok(configuration())));
    world.answer("PING", Reply::Done);
    assert_eq!(world.take().last().unwrap(), "ack 4 CMD_COMPLETE Done");
    assert_eq!(world.csc.state(), SummaryState::Disabled);
}

#[test]
fn a_stop_begins_no_push_and_every_command_gets_its_final_ack() {
    let mut world = enabled();
    world.send(push("a"));
    world.send(push("b"));
    world.input(Input::Terminate);
    let refused = "ack 2 CMD_FAILED Failed: the daemon is stopping; nothing was pushed";
    world.expect(&["PUSH a", "StopRequests", refused]);
    world.answer("PUSH a", Reply::Done);
    world.expect(&["ack 1 CMD_COMPLETE Done", "summaryState OFFLINE", "Exit"]);

    let mut world = enabled();
    world.send(push("a"));
    world.input(Input::Terminate);
    world.take();
    world.run_for(secs(5));
    let lines = world.take();
    let unclear = "ack 1 CMD_FAILED Failed: the daemon ended before Redis answered; it is unclear";
    assert!(lines[0].starts_with(unclear) && lines[1..] == ["summaryState OFFLINE", "Exit"], "{lines:?}");
}

#[test]
fn what_is_allowed_depends_on_the_back_end() {
    let mut world = World::with(of_rapid_analysis(), 1);
    world.take();
    world.send(push("a"));
    world.send(abort("1-x"));
    world.expect(&[
        "ack 1 CMD_FAILED Failed: execute not allowed in state STANDBY",
        "ack 2 CMD_FAILED Failed: abort_job not allowed in state STANDBY",
    ]);
    let mut world = enabled();
    world.send(abort("1-x"));
    world.expect(&["ack 1 CMD_FAILED Failed: Rapid Analysis (index 101) has no jobs to abort"]);
    world.send(execute(""));
    world.expect(&["PUSH "]);
    let mut world = World::enabled();
    world.send(push("a"));
    world.expect(&["ack 1 CMD_FAILED Failed: pipeline is empty: give the URL or path of a pipeline"]);
}
