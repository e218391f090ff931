//! Everything has a bound, and says so when it is reached.

use ocps::csc::command::CommandKind;
use ocps::csc::event::Phase;

use super::world::{World, abort, execute, job, removed, secs, start};

#[test]
fn jobs() {
    let mut world = World::enabled();
    for _ in 0..10 {
        world.send(execute(""));
    }
    world.take();
    world.send(execute(""));
    world.expect(&["ack 11 CMD_FAILED Failed: 10 jobs are in progress, which is the limit"]);
    world.answer("PUT 3", job("c", Phase::Completed));
    world.take();
    world.send(execute(""));
    world.expect(&["journal", "PUT 12"]);
    world.converge();
}

#[test]
fn prerequisites() {
    let mut world = World::enabled();
    world.send(execute("a,b,c,d,e,f"));
    world.take();
    world.send(execute("g,h,i,j,k"));
    world.expect(&["ack 2 CMD_FAILED Failed: more than 10 prerequisite jobs would be waited for"]);
    world.answer("GET a", job("a", Phase::Completed));
    world.send(execute("g,h,i,j,k"));
    world.expect(&["journal", "GET g", "GET h", "GET i", "GET j", "GET k"]);
    world.converge();
}

#[test]
fn aborts() {
    let mut world = World::enabled();
    for n in 0..10 {
        world.send(abort(&format!("j{n}")));
    }
    world.take();
    world.send(abort("a"));
    world.expect(&["ack 11 CMD_FAILED Failed: 10 aborts are in progress, which is the limit"]);
    world.answer("DELETE j3", removed());
    world.take();
    world.send(abort("a"));
    world.expect(&["DELETE a"]);
    world.converge();
}

#[test]
fn commands_that_wait_for_one_abort() {
    let mut world = World::enabled();
    for _ in 0..10 {
        world.send(abort("a"));
    }
    world.expect(&["DELETE a"]);
    world.send(abort("a"));
    world.expect(&["ack 11 CMD_FAILED Failed: 10 aborts are in progress, which is the limit"]);
    world.answer("DELETE a", removed());
    assert_eq!(world.take().len(), 11);
}

#[test]
fn commands_that_wait_for_a_start() {
    let mut world = World::new();
    world.send(start());
    for _ in 0..100 {
        world.send(CommandKind::Enable);
    }
    world.take();
    world.send(CommandKind::Enable);
    world.expect(&["ack 102 CMD_FAILED Failed: too many commands wait for the configuration to be read"]);
    world.converge();
}

#[test]
fn history() {
    let mut world = World::enabled();
    for n in 0..1100 {
        let number = world.send(execute(""));
        world.answer(&format!("PUT {number}"), job(&format!("j{n}"), Phase::Completed));
    }
    assert_eq!(world.csc.job_reports().count(), 1000);
    assert_eq!(world.csc.job_reports().next().unwrap().seq_num.0, 101);
    world.run_for(secs(1));
}

#[test]
fn repeated_commands_of_which_ten_thousand_are_remembered() {
    let mut world = World::new();
    let first = world.send_by_kafka(CommandKind::Enable);
    for _ in 1..10_000 {
        world.send_by_kafka(CommandKind::Enable);
    }
    let taken = world.csc.status().counters.commands;
    world.command(&first, CommandKind::Enable);
    assert_eq!(world.csc.status().counters.commands, taken);
    world.send_by_kafka(CommandKind::Enable);
    assert_eq!(world.csc.status().counters.commands, taken + 1);
}
