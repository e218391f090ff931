//! One life of the daemon after another.

use std::collections::BTreeMap;

use serde_json::json;

use crate::foreign::{Heard, topics};
use crate::harness::QUICK;
use crate::rig::Rig;

/// An hour, in seconds.
const HOUR: f64 = 3600.0;

fn stamp(heard: &Heard) -> f64 {
    heard.data["private_sndStamp"].as_f64().unwrap()
}

#[test]
fn stamps_do_not_go_back_though_the_clock_did_between_two_lives() {
    let rig = Rig::new(QUICK);
    let args = ["--state", "enabled"];
    let mut first = rig.start(&args);
    let mut foreign = rig.foreign();
    foreign.state(2);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    first.terminate();
    foreign.state(4);

    // The last message of each topic again, with the stamp of a clock that is an hour ahead.
    let mut lasts = BTreeMap::new();
    for topic in topics() {
        let Some(heard) = foreign.of(&topic).last().copied().cloned() else { continue };
        let ahead = stamp(&heard) + HOUR;
        let bytes = foreign.altered(&heard, &json!({"private_sndStamp": ahead}));
        foreign.write(&topic, Some(&bytes));
        // And others write to the same topics; their clocks are none of our business.
        let other =
            json!({"salIndex": 2, "private_identity": "OCPS:2", "private_sndStamp": ahead + 10.0 * HOUR});
        let bytes = foreign.altered(&heard, &other);
        for _ in 0..if topic == "logevent_heartbeat" { 50 } else { 1 } {
            foreign.write(&topic, Some(&bytes));
        }
        lasts.insert(topic, ahead);
    }
    assert!(lasts.len() >= 10, "{lasts:?}");

    let second = rig.start(&args);
    let origin = i64::from(second.pid().as_raw_pid());
    let is_its = |heard: &Heard| heard.int("private_origin") == origin;
    foreign.find("the second life", |heard| {
        is_its(heard) && heard.topic == "logevent_summaryState" && heard.int("summaryState") == 2
    });
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    for (topic, last) in &lasts {
        foreign.find(topic, |heard| is_its(heard) && heard.topic == *topic);
        let stamps: Vec<f64> =
            foreign.of(topic).into_iter().filter(|heard| is_its(heard)).map(stamp).collect();
        assert!(stamps.iter().all(|stamp| (*last..last + HOUR).contains(stamp)), "{topic} {last} {stamps:?}");
        assert!(stamps.is_sorted(), "{topic} {stamps:?}");
    }
}
