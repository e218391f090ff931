//! How long a command takes over Kafka from a client to its first ack, beside a bare echo with the same calls.
//!
//! `OCPS_TEST_BROKER` names a real broker (`tests/kafka/broker.sh new` prints one); without it librdkafka's mock
//! is used, which is slow by itself. The ratio is what counts: absolute times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, dead_code)]
#![allow(clippy::wildcard_enum_match_arm)]

#[path = "../daemon/harness.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;

#[path = "../kafka/foreign.rs"]
mod foreign;
#[path = "../kafka/registry.rs"]
mod registry;
#[path = "../kafka/rig.rs"]
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

use harness::eventually;
use rig::Rig;

/// Commands in each series.
const ROUNDS: usize = 500;

fn main() {
    let rig = Rig::new("");
    let daemon = rig.start(&["--loglevel", "error"]);
    let mut ready = daemon.subscribe();
    eventually("it has joined", || ready.query("status")["kafka"]["stage"] == "joined");
    let foreign = rig.foreign();
    let name = |topic: &str| foreign.name(topic);
    // It is refused at once in STANDBY: the way there and back is what is measured.
    let command = |number: usize| foreign.command("enable", &json!({ "private_seqNum": number + 1 }));
    let commands: Vec<Vec<u8>> = (0..ROUNDS).map(command).collect();
    let mut refused = series(&rig.brokers, &name("command_enable"), &name("ackcmd"), &commands);

    // The echo borrows two topics of which nothing is written any more.
    let (there, back) = (name("command_disable"), name("logevent_largeFileObjectAvailable"));
    let (_, _) = (daemon.pid(), drop(daemon));
    let over = Arc::new(AtomicBool::new(false));
    let echo = thread::spawn({
        let (brokers, there, back, over) = (rig.brokers.clone(), there.clone(), back.clone(), over.clone());
        move || {
            let (consumer, producer) = clients(&brokers, &there);
            while !over.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let ack = [0_u8; 145];
                    producer.send(BaseRecord::to(&back).key(message.key().unwrap()).payload(&ack)).unwrap();
                }
            }
        }
    });
    thread::sleep(Duration::from_secs(2));
    let mut bare = series(&rig.brokers, &there, &back, &commands);
    over.store(true, Ordering::Relaxed);
    echo.join().unwrap();

    let bare = report("bare echo over the broker", &mut bare, None);
    report("refused at once by the core", &mut refused, Some(bare));
}

fn clients(brokers: &str, topic: &str) -> (BaseConsumer, ThreadedProducer<DefaultProducerContext>) {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("socket.nagle.disable", "true")
        .set("linger.ms", "0")
        .set("acks", "1")
        .set("max.in.flight.requests.per.connection", "1");
    let consumer: BaseConsumer = config.create().unwrap();
    let (_, high) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(high)).unwrap();
    consumer.assign(&list).unwrap();
    (consumer, config.create().unwrap())
}

/// Sends each message to one topic and waits for the one that comes back on the other.
fn series(brokers: &str, there: &str, back: &str, messages: &[Vec<u8>]) -> Vec<Duration> {
    let (consumer, producer) = clients(brokers, back);
    let round = |message: &Vec<u8>| {
        let begun = Instant::now();
        producer.send(BaseRecord::to(there).key("key").payload(message)).unwrap();
        loop {
            match consumer.poll(Duration::from_secs(20)) {
                Some(Ok(_)) => return begun.elapsed(),
                Some(Err(_)) => {}
                None => panic!("nothing came back"),
            }
        }
    };
    // The first ones find connections and caches cold.
    messages.iter().map(round).skip(ROUNDS / 10).collect()
}

/// Prints p50 and p99, and their ratios to those of `bare`.
fn report(name: &str, times: &mut [Duration], bare: Option<[f64; 2]>) -> [f64; 2] {
    times.sort_unstable();
    let figures = [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e6);
    print!("{name:32} p50 {:8.0} us  p99 {:8.0} us", figures[0], figures[1]);
    match bare {
        Some(bare) => println!("  ratio {:.2} and {:.2}", figures[0] / bare[0], figures[1] / bare[1]),
        None => println!(),
    }
    figures
}
