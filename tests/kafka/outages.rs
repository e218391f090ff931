//! Broker or registry go away and come back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::QUICK;
use crate::rig::{Rig, outage};

#[test]
fn messages_of_a_broker_outage_are_published_in_order_after_it() {
    let rig = Rig::alone(QUICK);
    let (daemon, mut foreign) = rig.enabled();
    // Jobs that end while the broker is away, commanded over Kafka.
    let executes: Vec<i32> =
        (0..30).map(|_| foreign.send("execute", &json!({"pipeline": "true.yaml"}))).collect();
    rig.broker_down();
    // And a load of others, over the socket.
    let mut client = daemon.subscribe();
    let end = Instant::now() + outage();
    let mut jobs = 0;
    while Instant::now() < end {
        let seq = client.execute("true.yaml");
        client.final_ack(seq);
        jobs += 1;
    }
    rig.broker_up();
    let last = client.execute("false.yaml");
    let last = client.job_id(last);
    let mut foreign = foreign.again();
    foreign.find("the last result", |received| {
        received.topic == "logevent_job_result" && received.text("job_id") == last
    });
    for seq in &executes {
        assert_eq!(foreign.final_ack(*seq), "303 Done");
    }
    foreign.listen(Duration::from_millis(500));
    for topic in ["logevent_job_result", "logevent_job_id", "logevent_summaryState", "logevent_heartbeat"] {
        let numbers: Vec<i64> =
            foreign.of(topic).iter().map(|received| received.int("private_seqNum")).collect();
        // At least once: what was not confirmed may come twice, but never out of order.
        assert!(numbers.is_sorted(), "{topic} {numbers:?}");
        let mut once = numbers.clone();
        once.dedup();
        assert!(once.iter().copied().eq((1..).take(once.len())), "{topic} {numbers:?}");
        if topic == "logevent_job_result" {
            assert_eq!(once.len(), executes.len() + jobs + 1);
        }
    }
    // The first ack of each comes before its last.
    for seq in &executes {
        let mut acks: Vec<i64> = foreign
            .of("ackcmd")
            .iter()
            .filter(|ack| ack.int("private_seqNum") == i64::from(*seq))
            .map(|ack| ack.int("ack"))
            .collect();
        acks.dedup();
        assert_eq!(acks, [301, 303], "{seq}");
    }
    // And it receives commands again.
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
}

#[test]
fn without_the_registry_known_schemas_go_on_working() {
    let mut rig = Rig::new(QUICK);
    let (_daemon, mut foreign) = rig.enabled();
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    rig.registry.down();
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
    assert_eq!(foreign.run("enable", &json!({})), "303 Done");
    // A schema that it has not seen cannot be read now; it keeps running.
    foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.run("disable", &json!({})), "303 Done");
}
