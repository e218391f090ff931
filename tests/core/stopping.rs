//! The end of the daemon: no new request, what is in flight is waited for, OFFLINE, exit.

use std::time::Duration;

use ocps::csc::Input;
use ocps::csc::command::CommandKind;
use ocps::csc::event::Phase;

use super::world::{World, abort, away, configuration, execute, job, refused, removed, secs, start, unclear};
use crate::reply::Reply;

const OVER: [&str; 2] = ["summaryState OFFLINE", "Exit"];

/// Terminates a world in this condition; returns whether the end waits.
fn stop(mut prepare: impl FnMut(&mut World)) -> bool {
    let mut world = World::enabled();
    prepare(&mut world);
    world.take();
    world.input(Input::Terminate);
    let lines = world.take();
    assert_eq!(lines[0], "StopRequests");
    if world.is_over() {
        assert_eq!(lines[1..], OVER);
        return false;
    }
    assert_eq!(lines.len(), 1);
    // A second time changes nothing.
    world.input(Input::Terminate);
    let begun = world.now;
    world.run_for(secs(100));
    world.expect(&OVER);
    assert_eq!(world.times("Exit"), [begun + secs(5)]);
    // After the end nothing happens any more, whatever comes.
    world.input(Input::Tick);
    world.send(CommandKind::Enable);
    while !world.open.is_empty() {
        world.answer_at(0, away());
    }
    world.expect(&[]);
    true
}

#[test]
fn only_a_put_or_a_delete_in_flight_is_waited_for() {
    assert!(!stop(|_| {}));
    assert!(!stop(|world| {
        world.journal_at_once = false;
        world.send(execute(""));
    }));
    assert!(!stop(|world| _ = world.send(execute("p"))));
    assert!(stop(|world| _ = world.send(execute(""))));
    assert!(!stop(|world| {
        world.send(execute(""));
        world.answer("PUT 1", away());
    }));
    assert!(!stop(|world| {
        world.send(execute(""));
        world.answer("PUT 1", unclear());
    }));
    assert!(!stop(|world| _ = world.running("a")));
    assert!(!stop(|world| {
        world.running("a");
        world.run_to("GET a");
    }));
    assert!(stop(|world| {
        world.running("a");
        world.send(abort("a"));
    }));
    assert!(stop(|world| _ = world.send(abort("a"))));
    assert!(!stop(|world| {
        world.running("a");
        world.send(abort("a"));
        world.answer("DELETE a", unclear());
        world.run_to("GET a");
    }));
}

#[test]
fn an_answer_in_time_is_published_and_ends_the_stop() {
    let mut world = World::tracking();
    world.send(execute(""));
    world.send(abort("a"));
    world.take();
    world.input(Input::Terminate);
    world.run_for(secs(3));
    world.answer("PUT 2", job("b", Phase::Active));
    world.answer("DELETE a", removed());
    world.expect(&[
        "StopRequests",
        "ack 2 CMD_INPROGRESS {\"job_id\":\"b\"}",
        "job_id 2 b",
        "result a 255 known 1 aborted",
        "ack 1 CMD_ABORTED Aborted",
        "ack 3 CMD_COMPLETE Done",
        "summaryState OFFLINE",
        "Exit",
    ]);
}

#[test]
fn nothing_is_asked_after_it_whatever_is_answered() {
    for (put, deleted) in [
        (away(), away()),
        (unclear(), unclear()),
        (refused(), refused()),
        (job("a", Phase::Active), Reply::Gone),
        (job("a", Phase::Active), removed()),
    ] {
        let mut world = World::enabled();
        world.running("r");
        world.run_to("GET r");
        world.send(execute(""));
        world.send(execute("r"));
        world.send(execute(""));
        world.send(abort("x"));
        world.journal_at_once = false;
        world.send(execute(""));
        world.send(abort("y"));
        world.input(Input::Terminate);
        world.take();
        // The rules know that nothing may be asked for.
        world.answer("PUT 2", put.clone());
        world.answer("GET r", job("r", Phase::Completed));
        world.journal_all();
        world.answer("DELETE x", deleted);
        world.run_for(secs(2));
        assert!(!world.is_over());
        world.answer("PUT 4", if put == job("a", Phase::Active) { job("b", Phase::Active) } else { put });
        world.journal_all();
        assert!(world.is_over());
        assert_eq!(world.take()[..].last().unwrap(), "Exit");
    }
}

#[test]
fn while_stopping_heartbeats_go_out_and_commands_are_refused() {
    let mut world = World::submitting();
    world.take();
    world.input(Input::Terminate);
    let begun = world.now;
    for order in [start(), CommandKind::Enable, CommandKind::Standby, execute(""), abort("a")] {
        world.send(order);
    }
    let lines = world.take();
    assert_eq!(lines.len(), 6);
    assert!(lines[1..].iter().all(|line| line.ends_with("CMD_FAILED Failed: the daemon is stopping")));
    world.run_for(Duration::from_millis(4999));
    assert_eq!(world.times("heartbeat").iter().filter(|beat| **beat > begun).count(), 4);
    world.answer("PUT 1", away());
    world.expect(&OVER);
}

#[test]
fn exit_control_publishes_offline_before_its_ack_and_only_once() {
    let mut world = World::submitting();
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.take();
    world.send(CommandKind::ExitControl);
    world.expect(&["summaryState OFFLINE", "watch Off", "ack 4 CMD_COMPLETE Done", "StopRequests"]);
    world.answer("PUT 1", job("a", Phase::Active));
    world.expect(&["ack 1 CMD_INPROGRESS {\"job_id\":\"a\"}", "job_id 1 a", "Exit"]);
}

#[test]
fn there_is_no_fault_after_offline() {
    let mut world = World::tracking();
    world.run_to("GET a");
    world.send(execute(""));
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(CommandKind::ExitControl);
    world.take();
    world.answer("GET a", Reply::Broken { report: "broken".to_owned() });
    world.expect(&["result a 1 known 1 unknown", "ack 1 CMD_FAILED Failed: broken"]);
    world.run_for(secs(10));
    world.expect(&["Exit"]);
}

#[test]
fn a_start_and_what_waits_behind_it_fail() {
    let stopping = |number| format!("ack {number} CMD_FAILED Failed: the daemon is stopping");
    let mut world = World::new();
    world.take();
    world.send(start());
    world.send(CommandKind::Enable);
    world.send(CommandKind::Disable);
    world.take();
    world.input(Input::Terminate);
    world.expect(&["StopRequests", &stopping(1), &stopping(2), &stopping(3), OVER[0], OVER[1]]);
    // Also while something is in flight: the state is not left any more.
    let mut world = World::enabled();
    world.send(abort("a"));
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    world.input(Input::Terminate);
    world.take();
    world.input(Input::Configuration(Ok(configuration())));
    world.expect(&[]);
    assert_eq!(world.csc.state().name(), "STANDBY");
}

#[test]
fn what_waits_behind_a_start_after_exit_control_fails() {
    let mut world = World::new();
    world.send(start());
    for order in
        [CommandKind::ExitControl, CommandKind::Standby, CommandKind::ExitControl, CommandKind::Enable]
    {
        world.send(order);
    }
    world.take();
    world.input(Input::Configuration(Err("no".to_owned())));
    let stopping = |number| format!("ack {number} CMD_FAILED Failed: the daemon is stopping");
    world.expect(&[
        "ack 1 CMD_FAILED Failed: no",
        "summaryState OFFLINE",
        "watch Off",
        "ack 2 CMD_COMPLETE Done",
        "StopRequests",
        &stopping(3),
        &stopping(4),
        &stopping(5),
        "Exit",
    ]);
}
