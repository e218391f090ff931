//! How much the log says when much goes wrong: every line is a SAL event too.

use std::collections::BTreeMap;
use std::time::Duration;

use ocps::csc::Settings;
use ocps::csc::event::Phase;
use ocps::csc::request::{Contact, FailureKind};

use super::world::{World, away, execute, failed, job, name, none, refused, secs, settings, unclear, wrong};
use crate::reply::Reply;

/// More only take longer: what is logged of a service does not grow with them.
const JOBS: usize = 40;

fn crowd() -> World {
    World::enabled_with(Settings { max_jobs: JOBS, ..settings() })
}

fn running_crowd() -> World {
    let mut world = crowd();
    for n in 0..JOBS {
        world.running(&format!("j{n}"));
    }
    world.run_for(secs(1));
    world
}

/// What a service that is well says.
fn well(name: &str) -> Reply {
    match name.split_once(' ') {
        Some(("GET", id)) => job(id, Phase::Active),
        Some(("PUT", number)) => job(&format!("p{number}"), Phase::Active),
        _ => none(),
    }
}

/// The lines of each minute, while each request is answered soon.
fn minutes(world: &mut World, minutes: usize, answer: impl Fn(Duration, &str) -> Reply) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for _ in 0..minutes {
        let (begun, before) = (world.now, world.logged.len());
        while world.now < begun + secs(60) {
            for _ in 0..world.open.len() {
                let answer = answer(world.now, &name(&world.open[0]));
                world.answer_at(0, answer);
            }
            world.now += Duration::from_millis(250);
            world.tick();
        }
        lines.push(world.logged[before..].iter().map(|(_, line)| line.clone()).collect());
    }
    lines
}

/// Answers so in each second second.
fn flapping(bad: &Reply) -> impl Fn(Duration, &str) -> Reply {
    move |now, name| if now.as_secs() % 2 == 0 { bad.clone() } else { well(name) }
}

#[test]
fn a_service_that_flaps_is_logged_a_few_times_a_minute_and_counted() {
    for bad in [away(), unclear()] {
        let mut world = running_crowd();
        for lines in minutes(&mut world, 10, flapping(&bad)) {
            assert!(lines.len() <= 10, "{}: {:#?}", lines.len(), lines.iter().take(20).collect::<Vec<_>>());
        }
        let lines = minutes(&mut world, 1, flapping(&bad)).concat();
        let counted = |line: &&String| {
            line.starts_with("the service in the last 60 s: losses of contact: 30, failed requests: ")
                && line.contains(", the last: no luck; it ")
        };
        assert_eq!(lines.iter().filter(counted).count(), 1, "{lines:#?}");
        // It is well again: that is logged, and then nothing more.
        minutes(&mut world, 2, |_, name| well(name));
        assert_eq!(minutes(&mut world, 3, |_, name| well(name)).concat(), [""; 0]);
    }
}

#[test]
fn a_change_of_a_service_is_logged_at_once_and_an_outage_each_minute() {
    let mut world = running_crowd();
    minutes(&mut world, 1, |_, name| well(name));
    let lines = minutes(&mut world, 3, |_, _| away()).concat();
    assert_eq!(lines[0], "no contact with the service: no luck");
    assert!((3..=4).contains(&lines.len()), "{lines:#?}");
    for (n, line) in lines[1..].iter().enumerate() {
        assert!(line.starts_with("the service in the last 60 s: losses of contact: "), "{line}");
        assert!(line.ends_with(&format!("; it has not answered for {}.0 s", 60 * (n + 1))), "{line}");
    }
    // Which jobs are concerned is in their list.
    let troubled = world.csc.job_reports().filter(|job| job.problem.as_deref() == Some("no luck"));
    assert_eq!(troubled.count(), JOBS);
    let lines = minutes(&mut world, 1, |_, name| well(name)).concat();
    assert!(lines.iter().any(|line| line.starts_with("the service answers again after 1")), "{lines:#?}");
}

#[test]
fn what_concerns_a_job_is_logged_once() {
    for bad in [wrong(), refused(), Reply::Gone] {
        let mut world = running_crowd();
        // The list knows them all.
        let there: Vec<(String, i32)> = (1_i32..).take(JOBS).map(|n| (format!("j{}", n - 1), n)).collect();
        let there: Vec<(&str, i32)> = there.iter().map(|(id, number)| (id.as_str(), *number)).collect();
        let listed = world.listed(&there);
        let answer = |now: Duration, name: &str| match name {
            "LIST" => listed.clone(),
            _ => flapping(&bad)(now, name),
        };
        let lines = minutes(&mut world, 10, answer).concat();
        let mut by_job = BTreeMap::<&str, usize>::new();
        for line in &lines {
            let run = line.split(' ').find(|word| word.contains("-ocps1-")).unwrap_or(line);
            *by_job.entry(run).or_default() += 1;
        }
        assert!(lines.len() <= JOBS && by_job.values().all(|count| *count == 1), "{by_job:#?}");
    }
}

#[test]
fn a_submission_that_is_tried_again_and_again_is_logged_once() {
    for bad in [failed(FailureKind::NotNow, Contact::Answered), away()] {
        let mut world = crowd();
        for _ in 0..JOBS {
            world.send(execute(""));
        }
        let before = world.logged.len();
        let until = world.now + secs(50);
        let answer = |now: Duration, name: &str| match name {
            _ if now >= until => well(name),
            "LIST" => none(),
            _ => bad.clone(),
        };
        minutes(&mut world, 2, answer);
        let trouble = world.logged[before..].iter().filter(|(_, line)| !line.starts_with("run "));
        let count = trouble.count();
        assert!(count <= JOBS + 10, "{count}");
        let made = world.logged[before..].iter().filter(|(_, line)| line.contains(" is job p"));
        assert!(made.clone().all(|(_, line)| line.contains(", sent ")), "{:?}", world.logged);
        assert_eq!(made.count(), JOBS);
    }
}

#[test]
fn prerequisites_and_lists_that_fail_now_and_then_are_logged_once_or_counted() {
    let mut world = crowd();
    world.send(execute("a,b,c"));
    let lines = minutes(&mut world, 10, flapping(&wrong())).concat();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    // A list fails each second time, in which a submission stays in doubt.
    let mut world = crowd();
    world.shows_routine = true;
    for _ in 0..JOBS {
        world.send(execute(""));
    }
    let answer = |now: Duration, name: &str| match name {
        "LIST" if now.as_secs() % 4 < 2 => wrong(),
        "LIST" => none(),
        _ => failed(FailureKind::NotNow, Contact::Answered),
    };
    minutes(&mut world, 2, answer);
    let lists = world.logged.iter().filter(|(_, line)| line.starts_with("look-up by run id"));
    assert!((1..=8).contains(&lists.count()), "{:#?}", world.logged);
}
