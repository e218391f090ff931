//! Summary states: which command is allowed where, the order of the events, and FAULT.

use std::time::Duration;

use ocps::csc::command::{Command, CommandKind, CommandName, Via};
use ocps::csc::event::{LogLevel, Phase};
use ocps::csc::state::SummaryState;
use ocps::csc::{Csc, Input, Settings};

use super::world::{
    World, abort, available, configuration, execute, job, removed, secs, settings, start, time,
};
use crate::reply::Reply;

const BROKEN: &str = "cannot contact the execution service (simulated)";

fn broken() -> Reply {
    Reply::Broken { report: BROKEN.to_owned() }
}

/// A core in this state; commands are numbered from 1.
fn in_state(state: SummaryState) -> World {
    let mut world = World::new();
    match state {
        SummaryState::Standby => {}
        SummaryState::Disabled => {
            world.enable();
            world.number_from(1000);
            world.send(CommandKind::Disable);
        }
        SummaryState::Enabled => world.enable(),
        SummaryState::Fault => {
            world.enable();
            world.number_from(1000);
            world.running("broken");
            world.run_to_answer("GET broken", broken());
        }
        SummaryState::Offline => {
            // It only lasts while a request is in flight.
            world.enable();
            world.number_from(1000);
            world.send(execute(""));
            world.send(CommandKind::Disable);
            world.send(CommandKind::Standby);
            world.send(CommandKind::ExitControl);
        }
    }
    assert_eq!(world.csc.state(), state);
    world.take();
    world.number_from(1);
    world
}

/// The lines that follow a command in a state, up to its first ack or the reading of the configuration.
fn check(state: SummaryState, kind: CommandKind, expected: &[&str]) {
    let mut world = in_state(state);
    world.send(kind.clone());
    assert_eq!(world.take(), expected, "{kind:?} in {state}");
    world.converge();
}

fn invalid(name: Option<CommandName>) -> CommandKind {
    CommandKind::Invalid { name, reason: "no good".to_owned() }
}

#[test]
fn each_transition_is_allowed_in_its_states_only() {
    use SummaryState::{Disabled, Enabled, Fault, Offline, Standby};
    const STOPPING: &str = "the daemon is stopping";
    let on = "watch On";
    let off = "watch Off";
    let done = "ack 1 CMD_COMPLETE Done";
    let allowed: [(SummaryState, CommandKind, &[&str]); 6] = [
        (Standby, start(), &["read \"\""]),
        (Disabled, CommandKind::Enable, &["summaryState ENABLED", done]),
        (Enabled, CommandKind::Disable, &["summaryState DISABLED", done]),
        (Disabled, CommandKind::Standby, &["summaryState STANDBY", on, done]),
        (Fault, CommandKind::Standby, &["summaryState STANDBY", on, "errorCode 0", done]),
        (Standby, CommandKind::ExitControl, &["summaryState OFFLINE", off, done, "StopRequests", "Exit"]),
    ];
    for state in SummaryState::ALL {
        for kind in [
            start(),
            CommandKind::Enable,
            CommandKind::Disable,
            CommandKind::Standby,
            CommandKind::ExitControl,
        ] {
            let found = allowed.iter().find(|(s, o, _)| *s == state && *o == kind);
            if let Some((_, _, expected)) = found {
                check(state, kind, expected);
                continue;
            }
            let name = kind.name().unwrap().as_str();
            let refused = format!("ack 1 CMD_FAILED Failed: {name} not allowed in state {state}");
            let stopping = format!("ack 1 CMD_FAILED Failed: {STOPPING}");
            let expected = if state == Offline { stopping } else { refused };
            check(state, kind, &[&expected]);
        }
    }
}

#[test]
fn execute_and_abort_job_are_allowed_in_enabled_only() {
    for (kind, name) in [(execute(""), "execute"), (abort("a"), "abort_job")] {
        for state in SummaryState::ALL {
            let reason = match state {
                SummaryState::Enabled => continue,
                SummaryState::Fault => {
                    format!("{name} not allowed in FAULT: errorCode=2, errorReport='{BROKEN}'")
                }
                SummaryState::Offline => "the daemon is stopping".to_owned(),
                SummaryState::Disabled | SummaryState::Standby => {
                    format!("{name} not allowed in state {state}")
                }
            };
            check(state, kind.clone(), &[&format!("ack 1 CMD_FAILED Failed: {reason}")]);
        }
    }
    check(SummaryState::Enabled, execute(""), &["journal", "PUT 1"]);
    check(SummaryState::Enabled, abort("a"), &["DELETE a"]);
}

#[test]
fn the_log_level_can_be_set_in_every_state() {
    for state in SummaryState::ALL {
        let kind = CommandKind::SetLogLevel { level: 10 };
        let expected: &[&str] = match state {
            SummaryState::Offline => &["ack 1 CMD_FAILED Failed: the daemon is stopping"],
            SummaryState::Disabled | SummaryState::Enabled | SummaryState::Fault | SummaryState::Standby => {
                &["set log level 10", "logLevel 10", "ack 1 CMD_COMPLETE Done"]
            }
        };
        check(state, kind, expected);
    }
}

#[test]
fn a_command_that_cannot_be_carried_out_fails_for_the_state_first() {
    for state in SummaryState::ALL {
        for name in CommandName::ALL.iter().copied().map(Some).chain([None]) {
            let mut world = in_state(state);
            world.send(invalid(name));
            let lines = world.take();
            assert_eq!(lines.len(), 1, "{name:?} in {state}: {lines:?}");
            let mut valid = in_state(state);
            let kind = match name {
                Some(CommandName::Execute) => execute(""),
                Some(CommandName::AbortJob) => abort("a"),
                Some(CommandName::Start) => start(),
                Some(CommandName::Enable) => CommandKind::Enable,
                Some(CommandName::Disable) => CommandKind::Disable,
                Some(CommandName::Standby) => CommandKind::Standby,
                Some(CommandName::ExitControl) => CommandKind::ExitControl,
                Some(CommandName::SetLogLevel) => CommandKind::SetLogLevel { level: 10 },
                None => {
                    let expected =
                        if state == SummaryState::Offline { "the daemon is stopping" } else { "no good" };
                    assert_eq!(lines, [format!("ack 1 CMD_FAILED Failed: {expected}")]);
                    continue;
                }
            };
            valid.send(kind);
            let refusal = valid.take();
            let is_refused = refusal[0].starts_with("ack 1 CMD_FAILED");
            let expected = if is_refused { refusal[0].as_str() } else { "ack 1 CMD_FAILED Failed: no good" };
            assert_eq!(lines, [expected], "{name:?} in {state}");
        }
    }
}

#[test]
fn a_start_up_publishes_all_events_in_the_order_of_salobj() {
    let begins = ["logLevel 20", "heartbeat", "simulationMode 0", "softwareVersions", "summaryState STANDBY"];
    let mut world = World::new();
    let lines: Vec<String> = world.lines.iter().map(|(_, line)| line.clone()).collect();
    assert_eq!(lines, [&begins[..], &["errorCode 0", "watch On"]].concat());
    world.take();
    world.input(available("a.yaml"));
    world.expect(&["configurationsAvailable a.yaml"]);
    let simulated = World::with(Settings { simulated: true, ..settings() }, 1);
    assert!(simulated.lines.iter().any(|(_, line)| line == "simulationMode 1"));
}

#[test]
fn a_start_applies_the_configuration_before_the_state_changes() {
    let mut world = World::new();
    world.take();
    world.send(CommandKind::Start { override_name: "o.yaml:main".to_owned() });
    world.expect(&["read \"o.yaml:main\""]);
    world.run_for(secs(9));
    world.expect(&[]);
    world.input(Input::Configuration(Ok(configuration())));
    world.expect(&[
        "configurationApplied _init.yaml v1 file:///etc/v4",
        "summaryState DISABLED",
        "watch Off",
        "ack 1 CMD_COMPLETE Done",
    ]);
    // The same configuration is applied again, and published again.
    world.send(CommandKind::Standby);
    world.send(start());
    world.take();
    world.input(Input::Configuration(Ok(configuration())));
    assert_eq!(world.take()[0], "configurationApplied _init.yaml v1 file:///etc/v4");
}

#[test]
fn a_start_that_fails_leaves_standby() {
    let mut world = World::new();
    world.send(start());
    world.take();
    world.input(Input::Configuration(Err("Config file 'x' does not exist".to_owned())));
    world.expect(&["ack 1 CMD_FAILED Failed: Config file 'x' does not exist"]);
    assert_eq!(world.csc.state(), SummaryState::Standby);
    // A late answer to nobody is dropped.
    world.input(Input::Configuration(Ok(configuration())));
    world.expect(&[]);
}

#[test]
fn transitions_wait_behind_a_start_and_other_commands_do_not() {
    let mut world = World::new();
    world.take();
    world.send(start());
    world.send(CommandKind::Enable);
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    world.send(CommandKind::Enable);
    world.expect(&["read \"\""]);
    world.send(CommandKind::SetLogLevel { level: 20 });
    world.expect(&["set log level 20", "ack 7 CMD_COMPLETE Done"]);
    world.send(execute(""));
    world.expect(&["ack 8 CMD_FAILED Failed: execute not allowed in state STANDBY"]);
    world.input(Input::Configuration(Ok(configuration())));
    world.expect(&[
        "configurationApplied _init.yaml v1 file:///etc/v4",
        "summaryState DISABLED",
        "watch Off",
        "ack 1 CMD_COMPLETE Done",
        "summaryState ENABLED",
        "ack 2 CMD_COMPLETE Done",
        "summaryState DISABLED",
        "ack 3 CMD_COMPLETE Done",
        "summaryState STANDBY",
        "watch On",
        "ack 4 CMD_COMPLETE Done",
        "read \"\"",
    ]);
    // The second start fails, and with it what relied on it.
    world.input(Input::Configuration(Err("broken".to_owned())));
    world.expect(&[
        "ack 5 CMD_FAILED Failed: broken",
        "ack 6 CMD_FAILED Failed: enable not allowed in state STANDBY",
    ]);
}

#[test]
fn a_fault_during_a_start_fails_the_start() {
    let mut world = in_state(SummaryState::Enabled);
    world.running("a");
    world.run_to("GET a");
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    world.send(CommandKind::Standby);
    world.take();
    world.answer("GET a", broken());
    let fault = format!("errorCode 2 {BROKEN}");
    let failed = format!("ack 1 CMD_FAILED Failed: {BROKEN}");
    world.expect(&["result a 1 known 1 unknown", &fault, "summaryState FAULT", "watch Off", &failed]);
    world.input(Input::Configuration(Ok(configuration())));
    let ack = format!("ack 4 CMD_FAILED Failed: start ended in state FAULT: {BROKEN}");
    world.expect(&[&ack, "summaryState STANDBY", "watch On", "errorCode 0", "ack 5 CMD_COMPLETE Done"]);
}

#[test]
fn a_fault_comes_from_every_state_and_only_standby_leaves_it() {
    for state in [SummaryState::Standby, SummaryState::Disabled, SummaryState::Enabled, SummaryState::Fault] {
        let mut world = in_state(SummaryState::Enabled);
        world.running("a");
        world.running("b");
        world.run_to("GET a");
        world.run_to("GET b");
        match state {
            SummaryState::Enabled | SummaryState::Offline => {}
            SummaryState::Disabled => _ = world.send(CommandKind::Disable),
            SummaryState::Standby => {
                world.send(CommandKind::Disable);
                world.send(CommandKind::Standby);
            }
            SummaryState::Fault => world.answer("GET a", broken()),
        }
        assert_eq!(world.csc.state(), state);
        world.take();
        world.answer("GET b", broken());
        let fault = format!("errorCode 2 {BROKEN}");
        let mut expected = vec!["result b 1 known 2 unknown", &fault];
        if state != SummaryState::Fault {
            expected.push("summaryState FAULT");
        }
        if state == SummaryState::Standby {
            expected.push("watch Off");
        }
        let failed = format!("ack 2 CMD_FAILED Failed: {BROKEN}");
        expected.push(&failed);
        world.expect(&expected);
        let critical = (LogLevel::Critical, format!("FAULT: errorCode=2, errorReport='{BROKEN}'"));
        assert!(world.logged.contains(&critical));
        // Running jobs are still followed.
        if state != SummaryState::Fault {
            world.answer("GET a", job("a", Phase::Completed));
            world.expect(&["result a 0 object of a", "ack 1 CMD_COMPLETE Done"]);
        }
        let number = world.send(CommandKind::Standby);
        let done = format!("ack {number} CMD_COMPLETE Done");
        world.expect(&["summaryState STANDBY", "watch On", "errorCode 0", &done]);
        world.converge();
    }
}

#[test]
fn events_are_published_only_when_they_change() {
    let mut world = World::new();
    world.take();
    let level = |level| CommandKind::SetLogLevel { level };
    world.send(level(20));
    world.expect(&["set log level 20", "ack 1 CMD_COMPLETE Done"]);
    world.send(level(10));
    world.expect(&["set log level 10", "logLevel 10", "ack 2 CMD_COMPLETE Done"]);
    world.input(Input::LogLevel(10));
    world.expect(&["set log level 10"]);
    world.input(Input::LogLevel(30));
    world.expect(&["set log level 30", "logLevel 30"]);
    for (overrides, is_published) in
        [("a.yaml", true), ("a.yaml", false), ("a.yaml,b.yaml", true), ("a.yaml", true)]
    {
        world.input(available(overrides));
        assert_eq!(!world.take().is_empty(), is_published, "{overrides}");
    }
    // Changes outside of STANDBY do not count, and a return to it does not repeat an event.
    world.enable();
    world.input(available("c.yaml"));
    world.expect(&[]);
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.take();
    world.input(available("a.yaml"));
    world.expect(&[]);
    world.input(available("c.yaml"));
    world.expect(&["configurationsAvailable c.yaml"]);
}

#[test]
fn a_heartbeat_goes_out_every_second_in_every_state() {
    for state in SummaryState::ALL {
        let mut world = in_state(state);
        let begun = world.now;
        let first = world.csc.next_deadline();
        let seconds = if state == SummaryState::Offline { 4 } else { 100 };
        world.run_for(secs(seconds));
        let beats: Vec<Duration> =
            world.times("heartbeat").into_iter().filter(|beat| *beat > begun).collect();
        let expected: Vec<Duration> = (0..seconds).map(|n| first + secs(n)).collect();
        assert_eq!(beats, expected, "{state}");
    }
}

#[test]
fn missed_heartbeats_are_not_caught_up() {
    let mut world = World::new();
    world.now = Duration::from_millis(100_300);
    world.tick();
    world.tick();
    assert_eq!(world.times("heartbeat").len(), 2, "one at start-up, one now");
    assert_eq!(world.csc.next_deadline(), Duration::from_millis(101_300), "each second from then on");
    // An early tick does no harm.
    world.now = Duration::from_millis(100_400);
    world.tick();
    assert_eq!(world.times("heartbeat").len(), 2);
}

#[test]
fn a_command_of_the_command_line_is_never_a_repetition() {
    let mut world = World::new();
    world.take();
    let sender = world.sender(Via::CommandLine);
    world.command(&sender, start());
    // The same sender again: nothing from the command line can have come twice.
    let sender = world.sender(Via::CommandLine);
    world.command(&sender, CommandKind::Enable);
    world.input(Input::Configuration(Ok(configuration())));
    assert_eq!(world.csc.state(), SummaryState::Enabled);
}

#[test]
fn a_command_that_kafka_delivers_twice_is_carried_out_once() {
    let mut world = World::enabled();
    let first = world.send_by_kafka(execute(""));
    world.expect(&["journal", "PUT 1"]);
    world.command(&first, execute(""));
    world.expect(&[]);
    world.answer("PUT 1", job("a", Phase::Completed));
    world.take();
    world.run_for(secs(3599));
    world.command(&first, execute(""));
    world.expect(&[]);
    world.converge();
}

#[test]
fn another_sender_origin_or_time_makes_another_command() {
    let mut csc = Csc::new(settings(), 1, time(Duration::ZERO), &mut Vec::new());
    let first = World::new().sender(Via::Kafka);
    let mut others = vec![first.clone(), first.clone(), first.clone(), first.clone(), first];
    others[1].identity = "other@host".to_owned();
    others[2].origin += 1;
    others[3].sent.0 += 0.001;
    for (n, sender) in others.into_iter().enumerate() {
        let command = Command { sender, kind: CommandKind::Enable };
        csc.handle(time(Duration::ZERO), Input::Command(command), &mut Vec::new());
        // The last one is the first again.
        assert_eq!(csc.status().counters.commands, (n as u64 + 1).min(4));
    }
}

#[test]
fn removed_is_an_answer_to_an_abort_only() {
    let mut world = World::enabled();
    world.send(abort("a"));
    world.answer("DELETE a", removed());
    world.expect(&["DELETE a", "result a 255 known of nobody aborted", "ack 1 CMD_COMPLETE Done"]);
}
