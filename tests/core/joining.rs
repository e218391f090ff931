//! Joining the control system: another instance with our index has the right of way.

use ocps::csc::command::{Command, CommandKind, Via};
use ocps::csc::{Input, Settings};

use super::world::{World, configuration, execute, secs, settings, start};

/// Besides the heartbeat, which [`World::take`] leaves out.
const REST: [&str; 5] =
    ["simulationMode 0", "softwareVersions", "summaryState STANDBY", "errorCode 0", "watch On"];
const DUPLICATE: &str = "another instance with index 1 (LATISS) is running: OCPS:1, process 7";

fn joining() -> World {
    let mut world = World::with(Settings { joins: true, ..settings() }, 1);
    world.expect(&["logLevel 20"]);
    world
}

fn intruder() -> Input {
    Input::DuplicateInstance("OCPS:1, process 7".to_owned())
}

#[test]
fn only_the_log_level_is_published_before_joining() {
    let mut world = joining();
    world.run_for(secs(10));
    world.expect(&[]);
    world.input(Input::LogLevel(10));
    world.expect(&["set log level 10", "logLevel 10"]);
    // Commands are held back; one for which there is no room is refused.
    let command = Command { sender: world.sender(Via::Kafka), kind: start() };
    let refused = Input::Refused(command.clone(), "too many".to_owned());
    world.input(refused);
    world.expect(&["ack 1 CMD_FAILED Failed: too many"]);
    assert!(world.times("heartbeat").is_empty());
    world.input(Input::Joined);
    world.expect(&REST);
    let begun = world.now;
    world.run_for(secs(2));
    assert_eq!(world.times("heartbeat"), [begun, begun + secs(1), begun + secs(2)]);
    // It is not carried out when it comes again.
    world.input(Input::Command(command));
    world.expect(&[]);
    world.input(Input::Joined);
    world.expect(&[]);
}

#[test]
fn without_kafka_nothing_is_waited_for() {
    let mut world = World::new();
    let mut all = vec!["logLevel 20"];
    all.extend(REST);
    world.expect(&all);
}

#[test]
fn it_gives_way_to_an_instance_that_was_there_before() {
    let mut world = joining();
    world.input(intruder());
    world.expect(&[&format!("Fail {DUPLICATE}")]);
    world.input(intruder());
    world.input(Input::Joined);
    world.input(Input::Terminate);
    world.expect(&[]);
}

#[test]
fn terminated_before_joining_it_publishes_nothing() {
    let mut world = joining();
    world.input(Input::Terminate);
    world.expect(&["StopRequests", "Exit"]);
}

#[test]
fn another_instance_found_later_is_a_fault_and_jobs_go_on() {
    let mut world = World::tracking();
    world.take();
    world.input(intruder());
    let fault = [&*format!("errorCode 3 {DUPLICATE}"), "summaryState FAULT"];
    world.expect(&fault);
    // It is still running, but once is enough.
    world.input(intruder());
    world.expect(&[]);
    world.send(execute(""));
    assert!(world.take()[0].contains("execute not allowed in FAULT: errorCode=3"));
    world.run_to("GET a");
    world.send(CommandKind::Standby);
    world.take();
    // Nothing was solved by that.
    world.input(intruder());
    let lines = world.take();
    assert!(fault.iter().all(|line| lines.contains(&(*line).to_owned())), "{lines:?}");
}

#[test]
fn enable_is_refused_while_another_instance_is_heard() {
    let mut world = World::enabled();
    world.input(intruder());
    world.send(CommandKind::Standby);
    world.send(start());
    world.input(Input::Configuration(Ok(configuration())));
    world.take();
    world.send(CommandKind::Enable);
    world.expect(&[&format!("ack 3 CMD_FAILED Failed: {DUPLICATE}")]);
    world.run_for(secs(3));
    world.take();
    world.send(CommandKind::Enable);
    world.expect(&["summaryState ENABLED", "ack 4 CMD_COMPLETE Done"]);
}
