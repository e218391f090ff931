//! When jobs are polled: singly and spread over the interval, or by list, which proves only that a job is still active.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ocps::csc::Settings;
use ocps::csc::configuration::Polling;
use ocps::csc::event::{LogLevel, Phase};
use ocps::csc::id::RunId;
use ocps::csc::request::{Action, Contact, FailureKind, ListedJob, Wanted};

use super::world::{POLL, World, execute, failed, job, job_id, none, secs, settings, unclear, wrong};
use crate::reply::Reply;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// So many running jobs, `j1` of execute 1 and so on.
fn crowd(settings: Settings, count: i32) -> World {
    let mut world = World::enabled_with(settings);
    (1..=count).for_each(|number| _ = world.running(&format!("j{number}")));
    world
}

fn by_list(count: i32) -> World {
    let mut world = crowd(Settings { polling: Polling::List, ..settings() }, count);
    world.tick();
    world
}

/// A list that shows these as active.
fn showing(world: &World, numbers: impl Iterator<Item = i32>) -> Reply {
    Reply::Listed(numbers.map(|number| world.active(&format!("j{number}"), number)).collect())
}

fn all(world: &World) -> Reply {
    let count = i32::try_from(world.submissions.len()).unwrap();
    let is_there =
        |number: &i32| world.csc.job_reports().any(|job| job.seq_num.0 == *number && job.ended.is_none());
    showing(world, (1..=count).filter(is_there))
}

/// Answers all at once, lists so and each job as active.
fn run(world: &mut World, time: Duration, list: impl Fn(&World) -> Reply) {
    let end = world.now + time;
    while world.now < end {
        while let Some(name) = world.open_names().first().cloned() {
            let reply = if name == "LIST" { list(world) } else { job(&name[4..], Phase::Active) };
            world.answer(&name, reply);
        }
        world.now = world.csc.next_deadline().min(end);
        world.tick();
    }
}

fn count(lines: &[String], beginning: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(beginning)).count()
}

fn logged(world: &World, beginning: &str) -> Vec<String> {
    let lines = world.logged.iter().filter(|(_, line)| line.starts_with(beginning));
    lines.map(|(level, line)| format!("{level:?}: {line}")).collect()
}

fn is_by_list(world: &World) -> bool {
    world.csc.status().polling.by_list
}

#[test]
fn jobs_that_were_created_together_are_polled_at_times_of_their_own() {
    let mut world = crowd(settings(), 10);
    let begun = world.now;
    run(&mut world, POLL * 3, none_listed);
    let mut polls: Vec<_> = world.lines.iter().filter(|(_, line)| line.starts_with("GET j")).collect();
    polls.sort();
    for round in 0..3 {
        let times = (begun + POLL * round)..(begun + POLL * (round + 1));
        let of_round = polls.iter().filter(|(time, _)| times.contains(time));
        assert_eq!(of_round.map(|(_, line)| line).collect::<BTreeSet<_>>().len(), 10);
    }
    assert!(polls.windows(4).all(|polls| polls[3].0 > polls[0].0 + POLL / 100), "{polls:?}");
}

#[test]
fn jobs_that_are_due_within_a_moment_are_polled_together_and_each_once_an_interval() {
    let mut world = crowd(Settings { max_jobs: 1000, ..settings() }, 400);
    run(&mut world, POLL, none_listed);
    let begun = world.now;
    run(&mut world, POLL * 2, none_listed);
    let polls = || world.lines.iter().filter(|(time, line)| *time > begun && line.starts_with("GET j"));
    let times: BTreeSet<Duration> = polls().map(|(time, _)| *time).collect();
    assert!((790..=810).contains(&polls().count()), "{}", polls().count());
    assert!((100..=202).contains(&times.len()), "{}", times.len());
}

fn none_listed(_: &World) -> Reply {
    none()
}

#[test]
fn a_service_that_cannot_keep_up_gets_no_pile_of_polls_and_the_log_has_numbers() {
    let mut world = crowd(Settings { connections: 1, ..settings() }, 10);
    world.took = [secs(0), secs(2)];
    let warning = "Warning: the service cannot keep up: 10 jobs at poll_interval 5 s want 2.0 answers a second, and 0.5 are \
                   possible: the interval is longer, now ";
    // One after the other, each in 2 s.
    let mut polled = Vec::new();
    for _ in 0..100 {
        while let Some(at) = world.open_names().iter().position(|name| !name.starts_with("GET")) {
            world.answer_at(at, none());
        }
        world.run_for(secs(2));
        let open = world.open_names();
        assert!(open.len() <= 2, "{open:?}");
        if let Some(name) = open.first().cloned() {
            world.answer(&name, job(&name[4..], Phase::Active));
            polled.push(name);
        }
    }
    // In turn.
    let last = &polled[polled.len() - 20..];
    assert_eq!(last[..10], last[10..]);
    let lines = logged(&world, "the service cannot keep up");
    assert!(lines.len() == 1 && lines[0].starts_with(warning), "{lines:?}");
    let real = world.csc.status().polling.interval.unwrap();
    assert!((secs(18)..=secs(22)).contains(&real), "{real:?}");
    // It is quick again.
    world.took = [secs(0); 2];
    run(&mut world, MINUTE, none_listed);
    assert_eq!(
        logged(&world, "the service keeps up"),
        ["Info: the service keeps up with poll_interval 5 s again"]
    );
    assert_eq!(world.csc.status().polling.interval, Some(POLL));
    assert_eq!(logged(&world, "the service cannot keep up").len(), 1);
}

#[test]
fn one_list_an_interval_serves_all_jobs_and_one_of_them_is_asked_for_besides() {
    let mut world = by_list(10);
    run(&mut world, POLL * 2, all);
    world.take();
    run(&mut world, POLL * 20, all);
    let lines = world.take();
    let counts = [count(&lines, "LIST"), count(&lines, "GET")];
    assert!(counts.iter().all(|count| (19..=21).contains(count)), "{lines:?}");
    // In turn.
    assert!((1..=10).all(|number| count(&lines, &format!("GET j{number}")) >= 1), "{lines:?}");
    assert!(is_by_list(&world));
}

#[test]
fn the_list_names_all_jobs_that_are_polled_prerequisites_too() {
    let mut world = by_list(1);
    world.answer("LIST", none());
    world.send(execute("p"));
    world.answer("GET p", job("p", Phase::Active));
    world.run_to("LIST");
    let Action::List(Wanted { run_ids, job_ids, active_of }) = world.asked("LIST") else { panic!() };
    assert_eq!(**job_ids, ["j1", "p"].map(|id| job_id(id).fingerprint()).into());
    assert_eq!(run_ids.len(), 1);
    assert_eq!(*active_of, None);
    world.take();
    let other =
        |phase| ListedJob { job_id: job_id("p"), run_id: RunId::parse("other").unwrap(), phase, ended: None };
    let both = |phase| Reply::Listed(vec![world.active("j1", 1), other(phase)]);
    let (active, ended) = (both(Phase::Active), both(Phase::Completed));
    world.answer("LIST", active);
    world.expect(&[]);
    world.run_to("LIST");
    world.answer("LIST", ended);
    world.take();
    world.answer("GET p", job("p", Phase::Completed));
    world.expect(&["PUT 2"]);
    // One that has ended is not named any more.
    world.answer("PUT 2", job("j2", Phase::Active));
    world.run_to("LIST");
    let Action::List(Wanted { job_ids, .. }) = world.asked("LIST") else { panic!() };
    assert_eq!(**job_ids, ["j1", "j2"].map(|id| job_id(id).fingerprint()).into());
}

#[test]
fn a_job_that_a_list_shows_as_ended_or_does_not_show_is_asked_for_before_anything_is_believed() {
    for phase in [None, Some(Phase::Completed)] {
        let mut world = by_list(2);
        run(&mut world, POLL * 2, all);
        world.run_to("LIST");
        world.take();
        let mut listed = vec![world.active("j1", 1)];
        listed.extend(phase.map(|phase| ListedJob { phase, ..world.active("j2", 2) }));
        world.answer("LIST", Reply::Listed(listed.clone()));
        assert_eq!(count(&world.take(), "GET j2"), 1);
        // It is active all the same.
        world.answer("GET j2", job("j2", Phase::Active));
        world.expect(&[]);
        world.run_to("LIST");
        world.answer("LIST", Reply::Listed(listed));
        world.take();
        world.answer("GET j2", job("j2", Phase::Completed));
        world.expect(&["result j2 0 object of j2", "ack 2 CMD_COMPLETE Done"]);
    }
}

#[test]
fn of_the_jobs_that_a_list_shows_as_ended_the_first_that_ended_is_asked_for_first() {
    let mut world = by_list(4);
    run(&mut world, POLL * 2, all);
    world.run_to("LIST");
    world.take();
    // One of the jobs may be asked for already.
    let open = world.open_names();
    let listed = |(number, ended): (i32, Option<i64>)| {
        let phase = if ended.is_some() { Phase::Completed } else { Phase::Error };
        ListedJob { phase, ended, ..world.active(&format!("j{number}"), number) }
    };
    let ended = [(1, Some(1003)), (2, Some(1001)), (3, Some(1002)), (4, None)].map(listed);
    world.answer("LIST", Reply::Listed(ended.into()));
    // The service does not say when a job failed.
    let mut expected = vec!["GET j4", "GET j2", "GET j3", "GET j1"];
    expected.retain(|name| !open.iter().any(|known| known == name));
    let asked = world.take().into_iter().filter(|line| line.starts_with("GET"));
    assert_eq!(asked.collect::<Vec<_>>(), expected);
    assert!(expected.len() >= 3, "{open:?}");
}

#[test]
fn after_a_list_with_many_ends_the_next_one_comes_earlier_by_half_an_interval_at_most() {
    for single in [0, 100, 60_000].map(Duration::from_millis) {
        let polled_by_list = Settings { polling: Polling::List, connections: 1, ..settings() };
        let mut world = crowd(polled_by_list, 10);
        world.took[1] = single;
        run(&mut world, MINUTE, all);
        world.run_to("LIST");
        let (asked, open) = (world.now, world.open_names().len() - 1);
        let ended =
            |number| ListedJob { phase: Phase::Completed, ..world.active(&format!("j{number}"), number) };
        let ended = (1..=10).map(ended).collect();
        world.answer("LIST", Reply::Listed(ended));
        world.run_to("LIST");
        let polls = single * u32::try_from(10 - open).unwrap();
        assert_eq!(world.now - asked, POLL - polls.min(POLL / 2), "{single:?}");
    }
}

#[test]
fn a_job_that_is_listed_no_more_vanishes_by_two_answers_and_a_list_asked_for_later() {
    let mut world = by_list(1);
    run(&mut world, POLL * 2, all);
    world.run_to_answer("LIST", none());
    world.answer("GET j1", Reply::Gone);
    world.run_to("GET j1");
    // Of before the second answer.
    if world.open_names().contains(&"LIST".to_owned()) {
        world.answer("LIST", none());
    }
    world.answer("GET j1", Reply::Gone);
    world.take();
    world.run_to_answer("LIST", none());
    assert_eq!(count(&world.take(), "result j1 1 known 1 unknown"), 1);
}

#[test]
fn a_job_that_is_younger_than_the_list_is_not_missed_in_it() {
    let mut world = by_list(1);
    run(&mut world, POLL * 2, all);
    world.run_to("LIST");
    let before = all(&world);
    world.running("j2");
    world.answer("LIST", before);
    assert_eq!(count(&world.take(), "GET j2"), 0);
}

#[test]
fn a_job_that_was_active_after_the_list_was_asked_for_may_have_ended_in_it() {
    for (ended, again) in [(None, 0), (Some(Phase::Completed), 1)] {
        let mut world = by_list(1);
        world.run_to_answer("LIST", showing(&world, 1..=1));
        // A sample, which is answered late.
        world.run_to("GET j1");
        world.run_to("LIST");
        world.answer("GET j1", job("j1", Phase::Active));
        world.take();
        let listed = ended.map(|phase| ListedJob { phase, ..world.active("j1", 1) });
        world.answer("LIST", Reply::Listed(listed.into_iter().collect()));
        assert_eq!(count(&world.take(), "GET j1"), again);
    }
}

/// In `auto`, from 3 jobs on.
fn measured(list_ms: u64) -> World {
    let auto = Settings { polling: Polling::Auto { from: 3 }, connections: 2, ..settings() };
    let mut world = crowd(auto, 4);
    world.took = [list_ms, 100].map(Duration::from_millis);
    run(&mut world, MINUTE, all);
    world
}

#[test]
fn lists_are_used_while_they_take_less_time_than_single_polls() {
    // For all 4 jobs over both connections it is 200 ms.
    let mut world = measured(250);
    assert!(!is_by_list(&world));
    for (list, expected) in [(250, false), (150, true), (250, false), (90, true)] {
        world.took[0] = Duration::from_millis(list);
        // A list is tried again after 10 min.
        run(&mut world, MINUTE * 11, all);
        assert_eq!(is_by_list(&world), expected, "{list:?}");
    }
}

#[test]
fn when_lists_end_each_job_is_asked_for_within_an_interval_from_the_last_one() {
    let mut world = crowd(Settings { polling: Polling::Auto { from: 10 }, ..settings() }, 10);
    run(&mut world, MINUTE, all);
    world.run_to("LIST");
    world.take();
    let asked = world.now;
    let listed = |number: i32| {
        let phase = if number > 4 { Phase::Completed } else { Phase::Active };
        ListedJob { phase, ..world.active(&format!("j{number}"), number) }
    };
    world.answer("LIST", Reply::Listed((1..=10).map(listed).collect()));
    world.run_for(POLL - secs(1));
    assert!(is_by_list(&world));
    let ended: Vec<String> = (5..=10).map(|number| format!("GET j{number}")).collect();
    while let Some(name) = world.open_names().into_iter().find(|name| ended.contains(name)) {
        world.answer(&name, job(&name[4..], Phase::Completed));
    }
    assert!(!is_by_list(&world));
    world.run_until(asked + POLL);
    let lines = world.take();
    assert!((1..=4).all(|number| count(&lines, &format!("GET j{number}")) > 0), "{lines:?}");
}

#[test]
fn when_lists_are_given_up_the_polls_are_spread_over_an_interval_from_then() {
    let mut world = by_list(10);
    run(&mut world, MINUTE, all);
    world.run_to("LIST");
    // It takes long, so that the next one comes early.
    world.run_for(POLL / 2);
    let listed = all(&world);
    world.answer("LIST", listed);
    world.run_to_answer("LIST", wrong());
    assert!(!is_by_list(&world));
    world.take();
    let begun = world.now;
    run(&mut world, POLL, none_listed);
    let polls = world.lines.iter().filter(|(time, line)| *time >= begun && line.starts_with("GET j"));
    let early = polls.clone().filter(|(time, _)| *time < begun + POLL / 2).count();
    assert!((10..=11).contains(&polls.count()) && early < 9, "{early}");
}

#[test]
fn few_jobs_are_never_polled_by_list_and_none_are_if_so_configured() {
    for (polling, jobs) in [(Polling::Auto { from: 3 }, 2), (Polling::Each, 10)] {
        let mut world = crowd(Settings { polling, ..settings() }, jobs);
        world.took = [secs(0), secs(1)];
        run(&mut world, MINUTE, none_listed);
        assert!(!is_by_list(&world));
    }
}

#[test]
fn a_list_that_fails_is_logged_once_and_tried_again_less_and_less_often() {
    for bad in [wrong(), unclear()] {
        let mut world = by_list(3);
        run(&mut world, MINUTE, all);
        let begun = world.now;
        world.take();
        run(&mut world, HOUR, |_| bad.clone());
        let lists: Vec<_> = world.times("LIST").into_iter().filter(|time| *time > begun).collect();
        assert!((5..=14).contains(&lists.len()), "{lists:?}");
        // Each job is polled meanwhile.
        let lines = world.take();
        assert!((1..=3).all(|number| count(&lines, &format!("GET j{number}")) > 600), "{}", lines.len());
        let logged = logged(&world, "jobs are polled singly");
        let line = "Warning: jobs are polled singly, since the service's list is of no use: no luck; it is tried again after \
                    1 min";
        assert_eq!(logged, [line]);
        run(&mut world, HOUR, all);
        assert!(is_by_list(&world));
    }
}

#[test]
fn a_list_and_one_job_that_fail_hold_up_no_other_job() {
    let mut world = by_list(3);
    run(&mut world, MINUTE, all);
    world.take();
    let end = world.now + HOUR;
    while world.now < end {
        while let Some(name) = world.open_names().first().cloned() {
            let fails = matches!(&*name, "LIST" | "GET j1");
            world.answer(&name, if fails { unclear() } else { job(&name[4..], Phase::Active) });
        }
        world.now = world.csc.next_deadline().min(end);
        world.tick();
    }
    let lines = world.take();
    assert!((2..=3).all(|number| count(&lines, &format!("GET j{number}")) > 500), "{}", lines.len());
}

#[test]
fn an_outage_of_the_service_is_no_reason_to_give_up_lists() {
    let mut world = by_list(3);
    run(&mut world, MINUTE, all);
    world.take();
    let end = world.now + MINUTE * 5;
    while world.now < end {
        while !world.open.is_empty() {
            world.answer_at(0, unclear());
        }
        world.now = world.csc.next_deadline();
        world.tick();
    }
    // A few requests and not one for each job and interval.
    assert!(is_by_list(&world) && world.take().len() < 60);
    run(&mut world, MINUTE, all);
    assert!(is_by_list(&world));
    assert_eq!(logged(&world, "jobs are polled singly"), [""; 0]);
}

#[test]
fn a_list_that_does_not_come_holds_up_no_job() {
    let mut world = by_list(3);
    let end = world.now + MINUTE;
    while world.now < end {
        while let Some(name) = world.open_names().into_iter().find(|name| name != "LIST") {
            world.answer(&name, job(&name[4..], Phase::Active));
        }
        world.now = world.csc.next_deadline();
        world.tick();
    }
    assert_eq!(count(&world.take(), "GET j"), 3 * 9);
    let line = "Warning: jobs are polled singly, since the service's list is of no use: there was none for 15.0 s; it is \
                tried again after 1 min";
    assert_eq!(logged(&world, "jobs are polled singly"), [line]);
}

#[test]
fn lists_that_show_a_job_as_active_long_after_it_ended_are_not_believed_for_an_hour() {
    let mut world = by_list(3);
    run(&mut world, MINUTE, all);
    let cached = all(&world);
    let list = |_: &World| cached.clone();
    let begun = world.now;
    // One after the other comes up.
    while world.is_busy() {
        while let Some(name) = world.open_names().first().cloned() {
            world
                .answer(&name, if name == "LIST" { list(&world) } else { job(&name[4..], Phase::Completed) });
        }
        world.now = world.csc.next_deadline();
        world.tick();
    }
    assert!(world.now < begun + POLL * 4, "{:?}", world.now - begun);
    for number in 4..7 {
        world.running(&format!("j{number}"));
    }
    let cached =
        Reply::Listed([1, 2, 3, 4, 5, 6].map(|number| world.active(&format!("j{number}"), number)).into());
    run(&mut world, MINUTE, |_| cached.clone());
    assert!(!is_by_list(&world));
    let lines = logged(&world, "jobs are polled singly");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains(" s later it is still listed as active; it is tried again after 60 min"), "{line}");
    run(&mut world, HOUR - MINUTE * 2, all);
    assert!(!is_by_list(&world));
    run(&mut world, MINUTE * 2, all);
    assert!(is_by_list(&world));
}

#[test]
fn lists_that_lack_many_jobs_are_given_up() {
    let mut world = crowd(Settings { polling: Polling::List, max_jobs: 100, ..settings() }, 40);
    run(&mut world, MINUTE, all);
    world.take();
    run(&mut world, MINUTE, none_listed);
    let lines = logged(&world, "jobs are polled singly");
    assert!(lines.len() == 1 && lines[0].contains(": 40 active jobs were not listed as such"), "{lines:?}");
    assert!(!is_by_list(&world));
    // Not all at once.
    assert!(count(&world.take(), "GET") <= 2 * 40 + 40 * 12);
}

#[test]
fn a_list_is_an_answer_about_each_job_that_it_shows() {
    let mut world = by_list(10);
    for _ in 0..20 {
        run(&mut world, POLL, all);
        // Also about one that is asked for singly now.
        while !world.open_names().iter().any(|name| name.starts_with("GET")) {
            if world.open_names().contains(&"LIST".to_owned()) {
                world.answer("LIST", all(&world));
            }
            world.now = world.csc.next_deadline();
            world.tick();
        }
        let ages: Vec<_> = world.csc.job_reports().map(|job| job.polled.unwrap()).collect();
        assert!(ages.len() == 10 && ages.iter().all(|age| *age <= POLL * 2), "{ages:?}");
    }
}

#[test]
fn the_list_that_finds_a_job_again_of_which_another_one_waits_does_not_hide_its_phase() {
    let mut world = by_list(1);
    world.send(execute("p"));
    world.answer("GET p", job("p", Phase::Active));
    world.send(execute(""));
    world.answer("PUT 3", unclear());
    // The first list was asked for before.
    for _ in 0..3 {
        let found = ListedJob { phase: Phase::Queued, ..world.active("p", 3) };
        world.run_to_answer("LIST", Reply::Listed(vec![world.active("j1", 1), found]));
    }
    let phase = |number| world.csc.job_reports().find(|job| job.seq_num.0 == number).unwrap().phase;
    assert_eq!([1, 3].map(phase), [Some(Phase::Active), Some(Phase::Queued)]);
}

#[test]
fn the_phase_that_a_list_shows_is_reported() {
    let mut world = by_list(1);
    let queued =
        |world: &World| Reply::Listed(vec![ListedJob { phase: Phase::Queued, ..world.active("j1", 1) }]);
    world.answer("LIST", queued(&world));
    assert_eq!(world.csc.phases(), BTreeMap::from([(Phase::Queued, 1)]));
    // A problem is over too.
    world.run_to_answer("GET j1", failed(FailureKind::Wrong, Contact::Answered));
    let problem = |world: &World| world.csc.job_reports().next().unwrap().problem;
    assert_eq!(problem(&world).as_deref(), Some("no luck"));
    world.run_to_answer("LIST", queued(&world));
    assert_eq!(problem(&world), None);
    assert_eq!(world.logged.iter().filter(|(level, _)| *level == LogLevel::Error).count(), 0);
}
