//! Whether the service answers: outages, FAULT 1, and jobs that it answers wrongly while it answers others.

use std::time::Duration;

use ocps::csc::command::CommandKind;
use ocps::csc::configuration::{Configuration, Service};
use ocps::csc::event::{LogLevel, Phase};
use ocps::csc::id::SalIndex;
use ocps::csc::request::{Contact, FailureKind};
use ocps::csc::{Input, Settings};

use super::world::{
    World, abort, away, configuration, execute, failed, job, secs, settings, start, unclear, wrong,
};
use crate::reply::Reply;

const FAULT: &str = "errorCode 1 cannot contact the execution service for 300 s: no luck";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Answers every poll at once until `deadline`.
fn run_answering(world: &mut World, deadline: Duration, answer: impl Fn(&str) -> Reply) {
    run_in_steps(world, deadline, Duration::ZERO, answer);
}

/// Until nothing is looked for any more after a submission, and a job is asked for.
fn run_well(world: &mut World) {
    run_answering(world, secs(20), |name| job(&name[4..], Phase::Active));
    world.run_to("GET a");
}

/// The same over days, in longer steps.
fn run_long(world: &mut World, deadline: Duration, answer: impl Fn(&str) -> Reply) {
    run_in_steps(world, deadline, secs(5), answer);
}

fn run_in_steps(world: &mut World, deadline: Duration, step: Duration, answer: impl Fn(&str) -> Reply) {
    while world.now < deadline {
        while let Some(name) = world.open_names().first().cloned() {
            world.answer(&name, answer(&name));
        }
        world.now = (world.now + step).max(world.csc.next_deadline()).min(deadline);
        world.tick();
    }
}

#[test]
fn an_outage_is_one_fault_and_tracking_continues() {
    for answer in [away(), unclear(), failed(FailureKind::Refused, Contact::Silent)] {
        let mut world = World::tracking();
        world.running("b");
        run_well(&mut world);
        let begun = world.now;
        run_answering(&mut world, begun + secs(900), |_| answer.clone());
        assert_eq!(world.times(FAULT), [begun + secs(300)]);
        assert_eq!(world.times("summaryState FAULT"), [begun + secs(300)]);
        assert!(world.csc.status().service.silent_for.is_some());
        // An operator who goes on in the same outage is not thrown back.
        world.pong_at_once = false;
        world.send(CommandKind::Standby);
        world.enable();
        let now = world.now;
        run_answering(&mut world, now + secs(900), |_| answer.clone());
        world.pong_at_once = true;
        assert_eq!(world.times(FAULT).len(), 1);
        assert_eq!(world.csc.state().name(), "ENABLED");
        // It ends; the next one is another FAULT.
        let now = world.now;
        run_answering(&mut world, now + secs(100), |name| job(&name[4..], Phase::Active));
        assert!(world.csc.status().service.silent_for.is_none());
        world.run_to("GET a");
        let begun = world.now;
        run_answering(&mut world, begun + secs(600), |_| answer.clone());
        let times = world.times(FAULT);
        assert_eq!(times.len(), 2);
        assert!(times[1] >= begun + secs(300) && times[1] < begun + secs(310));
        world.converge();
    }
}

#[test]
fn polls_come_back_within_one_interval_after_an_outage() {
    let mut world = World::tracking();
    world.running("b");
    let now = world.now;
    run_answering(&mut world, now + secs(250), |_| away());
    while !world.open.is_empty() {
        world.answer_at(0, away());
    }
    world.send(execute(""));
    world.answer("PUT 3", job("c", Phase::Active));
    world.run_for(secs(5));
    let mut open = world.open_names();
    open.sort();
    assert_eq!(open, ["GET a", "GET b", "GET c"]);
    assert_eq!(world.times(FAULT).len(), 0);
}

#[test]
fn an_outage_counts_only_while_jobs_run() {
    let mut world = World::enabled();
    world.send(execute("p"));
    run_answering(&mut world, secs(1000), |_| away());
    assert_eq!(world.csc.state().name(), "ENABLED");
    // What is being aborted runs.
    let mut world = World::tracking();
    world.send(abort("a"));
    run_answering(&mut world, secs(1000), |_| away());
    assert_eq!(world.csc.state().name(), "FAULT");
}

/// Another `start`, with another service or another poll interval.
fn reconfigure(world: &mut World, change: impl FnOnce(&mut Service)) {
    let mut next: Configuration = configuration();
    change(&mut next.service);
    world.send(CommandKind::Disable);
    world.send(CommandKind::Standby);
    world.send(start());
    world.input(Input::Configuration(Ok(next)));
    world.send(CommandKind::Enable);
    world.take();
}

#[test]
fn each_service_has_a_health_of_its_own() {
    let mut world = World::tracking();
    reconfigure(&mut world, |service| service.url = "http://new".into());
    world.send(execute(""));
    let number = world.open_names().into_iter().find(|name| name.starts_with("PUT")).unwrap();
    world.answer(&number, job("b", Phase::Active));
    run_well(&mut world);
    let begun = world.now;
    // The old one is away, the new one answers: that is one outage and one FAULT.
    let answer = |name: &str| if name == "GET a" { away() } else { job("b", Phase::Active) };
    run_answering(&mut world, begun + secs(900), answer);
    assert_eq!(world.times(FAULT), [begun + secs(300)]);
    let contacts = world.logged.iter().filter(|(_, line)| line.contains("contact with the service"));
    assert_eq!(contacts.filter(|(level, _)| *level == LogLevel::Warning).count(), 1);
    // The new one is reported.
    assert_eq!(world.csc.status().service.silent_for, None);
    world.converge();
}

#[test]
fn a_job_that_is_answered_wrongly_for_a_day_is_given_up_however_seldom_it_is_asked_for() {
    let mut world = World::enabled();
    reconfigure(&mut world, |service| service.poll_interval = secs(900));
    for id in ["a", "b"] {
        world.send(execute(""));
        let number = world.open_names().into_iter().find(|name| name.starts_with("PUT")).unwrap();
        world.answer(&number, job(id, Phase::Active));
        world.run_for(secs(450));
    }
    let answer = |name: &str| if name == "GET a" { wrong() } else { job("b", Phase::Active) };
    run_long(&mut world, DAY + secs(2000), answer);
    let unknown = world.lines.iter().filter(|(_, line)| line.starts_with("result a 1 known"));
    let [(ended, _)] = unknown.collect::<Vec<_>>()[..] else { panic!("{:?}", world.csc.status()) };
    assert!(*ended >= DAY && *ended < DAY + secs(2000), "{ended:?}");
    world.converge();
}

#[test]
fn useless_answers_still_count_as_contact() {
    let mut world = World::tracking();
    run_answering(&mut world, secs(3000), |_| wrong());
    assert_eq!(world.csc.state().name(), "ENABLED");
    assert!(world.is_busy());
}

#[test]
fn a_request_that_was_never_sent_proves_nothing_about_the_service() {
    // The workers' queues are full because the service hangs.
    let full = || failed(FailureKind::NotSent, Contact::NotAsked);
    let mut world = World::tracking();
    world.running("b");
    run_answering(&mut world, secs(400), |name| if name == "GET a" { unclear() } else { full() });
    assert_eq!(world.csc.state().name(), "FAULT");
    let mut world = World::tracking();
    run_answering(&mut world, secs(400), |_| full());
    assert_eq!(world.csc.state().name(), "ENABLED");
}

#[test]
fn a_job_that_is_answered_wrongly_for_a_day_is_given_up() {
    for answer in [wrong(), away()] {
        let mut world = World::tracking();
        world.running("b");
        run_long(&mut world, DAY + secs(60), |name| match name {
            "GET a" => answer.clone(),
            _ => job("b", Phase::Active),
        });
        let [ended] = world.times("result a 1 known 1 unknown")[..] else { panic!() };
        assert!(ended >= DAY && ended < DAY + secs(60), "{ended:?}");
        assert_eq!(world.times("ack 1 CMD_COMPLETE Done"), [ended]);
        world.converge();
    }
}

#[test]
fn a_job_that_is_asked_for_once_a_day_is_not_given_up_for_one_answer() {
    let mut world = World::enabled();
    reconfigure(&mut world, |service| service.poll_interval = DAY);
    world.running("a");
    world.run_for(DAY);
    world.answer("GET a", away());
    assert!(world.is_busy());
    world.run_for(DAY);
    world.answer("GET a", job("a", Phase::Completed));
    assert!(!world.is_busy());
}

#[test]
fn a_job_alone_is_not_given_up() {
    let mut world = World::tracking();
    run_long(&mut world, DAY * 2, |_| wrong());
    assert!(world.is_busy());
    // One good answer, and the day starts again.
    world.run_to_answer("GET a", job("a", Phase::Active));
    world.running("b");
    let now = world.now;
    let half = |name: &str| if name == "GET b" { job("b", Phase::Active) } else { wrong() };
    run_long(&mut world, now + DAY - secs(60), half);
    assert!(world.times("result a 1 known 1 unknown").is_empty());
    run_long(&mut world, now + DAY + secs(60), half);
    assert_eq!(world.times("result a 1 known 1 unknown").len(), 1);
}

#[test]
fn after_an_outage_of_the_whole_service_the_day_starts_again() {
    // Whether it was silent, or a proxy answered in its place.
    for outage in [away(), wrong()] {
        let mut world = World::tracking();
        world.running("b");
        run_long(&mut world, DAY * 2, |_| outage.clone());
        let now = world.now;
        let back = |name: &str| if name == "GET b" { job("b", Phase::Active) } else { wrong() };
        run_long(&mut world, now + DAY - secs(60), back);
        assert!(world.times("result a 1 known 1 unknown").is_empty(), "{outage:?}");
        run_long(&mut world, now + DAY + secs(60), back);
        assert_eq!(world.times("result a 1 known 1 unknown").len(), 1);
    }
}

/// The pings so far.
fn pings(world: &World) -> u64 {
    world.csc.status().counters.requests
}

#[test]
fn a_service_is_asked_whether_it_answers_once_at_start_and_then_when_it_is_idle() {
    let mut world = World::new();
    world.pong_at_once = false;
    world.run_for(secs(300));
    assert_eq!((pings(&world), world.csc.status().service.asked), (0, false));
    world.enable();
    assert_eq!(world.open_names(), ["PING"]);
    assert!(!world.csc.status().service.asked, "nothing is known of it yet");
    // It is away: the start does not fail by that, and it is no FAULT.
    world.answer("PING", away());
    let service = world.csc.status().service;
    assert!(service.asked && service.silent_for.is_some());
    assert_eq!(world.csc.state().name(), "ENABLED");
    world.run_for(secs(59));
    assert!(world.open.is_empty());
    world.run_for(secs(1));
    world.answer("PING", failed(FailureKind::Refused, Contact::Silent));
    world.run_for(secs(60));
    world.answer("PING", Reply::Done);
    let service = world.csc.status().service;
    assert_eq!((service.silent_for, service.last_believed), (None, Some(Duration::ZERO)));
    // The old trouble has an age.
    let problem = service.last_problem.unwrap();
    assert_eq!((problem.reason.as_str(), problem.age), ("no luck", secs(60)));
    assert_eq!(problem.at, super::world::time(world.now - secs(60)).tai);
    // While it is asked something else, nothing more is asked.
    world.running("a");
    let asked = pings(&world);
    let now = world.now;
    run_answering(&mut world, now + secs(600), |name| job(&name[4..], Phase::Active));
    // The polls, and two lists that look for extra jobs of the run.
    assert_eq!(pings(&world) - asked, 122);
    world.converge();
}

#[test]
fn neither_a_simulator_nor_redis_is_asked_when_idle() {
    let simulated = Settings { simulated: true, ..settings() };
    for settings in [simulated, Settings { index: SalIndex::Ra, ..settings() }] {
        let mut world = World::with(settings, 1);
        world.enable();
        let asked = pings(&world);
        world.run_for(secs(300));
        assert_eq!(pings(&world), asked);
    }
}

#[test]
fn a_pause_of_the_process_is_no_outage() {
    let mut world = World::tracking();
    run_well(&mut world);
    world.answer("GET a", away());
    world.run_for(secs(1));
    // One poll had failed, and then nobody asked.
    world.now += secs(400);
    world.tick();
    let now = world.now;
    run_answering(&mut world, now + secs(60), |_| away());
    assert_eq!(world.csc.state().name(), "ENABLED");
    // The rest of the time, and it is one.
    let now = world.now;
    run_answering(&mut world, now + secs(230), |_| away());
    assert_eq!(world.csc.state().name(), "ENABLED");
    run_answering(&mut world, now + secs(310), |_| away());
    assert_eq!(world.csc.state().name(), "FAULT");
}

#[test]
fn an_outage_is_a_fault_only_when_what_was_asked_at_its_end_has_failed() {
    let mut world = World::tracking();
    run_well(&mut world);
    let begun = world.now;
    world.answer("GET a", away());
    while world.now < begun + secs(299) {
        world.run_for(secs(1));
        if !world.open.is_empty() {
            world.answer("GET a", away());
        }
    }
    world.run_until(begun + secs(300));
    world.run_for(secs(20));
    assert_eq!(world.csc.state().name(), "ENABLED");
    world.answer("GET a", job("a", Phase::Active));
    assert!(world.csc.status().service.silent_for.is_none());
    world.converge();
}

#[test]
fn a_pause_of_the_process_moves_the_end_of_an_outage() {
    let mut world = World::enabled();
    world.pong_at_once = false;
    world.running("a");
    reconfigure(&mut world, |service| service.poll_interval = secs(1000));
    // When no list is asked for any more.
    world.run_to_answer("GET a", job("a", Phase::Active));
    world.run_to("GET a");
    let begun = world.now;
    world.answer("GET a", away());
    world.now += secs(101);
    world.tick();
    let is_asked = |world: &World| world.open_names().contains(&"GET a".to_owned());
    world.run_until(begun + secs(395));
    assert!(!is_asked(&world), "asked although the pause was no outage");
    world.run_until(begun + secs(402));
    assert!(is_asked(&world), "not asked when the outage lasts too long");
}
