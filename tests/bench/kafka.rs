//! Executes over Kafka: how long until CMD_INPROGRESS, and what they cost.
//!
//! `OCPS_TEST_BROKER` names a real broker (`tests/kafka/broker.sh new` prints one); without it librdkafka's mock is used,
//! which is slow by itself.

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

use crate::bare::Bare;
use crate::commands::{FOLLOWED, POLL_INTERVAL};
use crate::daemon::{Daemon, poll, program};
use crate::harness::PATIENCE;
use crate::kafka_rig::Rig;
use crate::report::{Report, Times};
use crate::service::Service;
use crate::target_dir;

/// Executes one after the other, in turns with the bare limit.
const ROUNDS: usize = 300;

pub fn in_progress(report: &mut Report) {
    report.section("a. From an execute to its CMD_INPROGRESS, over Kafka");
    let mut cpu = None;
    for jobs in FOLLOWED {
        let (service, own, dir, rig) = (Service::start(), Service::start(), target_dir(), Rig::new(""));
        // The mock answers a fetch only at the end of its wait.
        rig.home.write("consumer.yaml", "fetch.wait.max.ms: 5\n");
        let url = service.url();
        let daemon = Daemon::start_as(&program(), &url, POLL_INTERVAL, &poll(), &["--kafka"], |command| {
            rig.joined(command)
        });
        daemon.follow(jobs);
        let foreign = rig.foreign();
        let message =
            |seq: usize| foreign.command("execute", &json!({"private_seqNum": seq, "pipeline": "p.yaml"}));
        let mut client = Client::new(&rig, &foreign.name("command_execute"), &foreign.name("ackcmd"));
        // The bare limit borrows two topics of which nothing is written any more.
        let [there, back] = ["logevent_softwareVersions", "logevent_largeFileObjectAvailable"]
            .map(|topic| foreign.name(topic));
        let over = Arc::new(AtomicBool::new(false));
        let bare = serve(Bare::new(&own.url(), dir.path()), Client::new(&rig, &back, &there), over.clone());
        let mut bare_client = Client::new(&rig, &there, &back);
        if jobs == 0 {
            cpu = Some(cost(&daemon, || (1..=ROUNDS).for_each(|seq| _ = client.round(&message(seq)))));
        }
        let (mut times, mut bare_times) = (Vec::new(), Vec::new());
        daemon.watch.begin();
        for seq in 1..=ROUNDS {
            let message = message(ROUNDS + seq);
            times.push(client.round(&message));
            bare_times.push(bare_client.round(&message));
        }
        over.store(true, Ordering::Relaxed);
        bare.join().unwrap();
        let mut figures = Times::of(times).beside(Times::of(bare_times));
        figures.push(("heartbeat gap s", daemon.watch.gap()));
        report.row(format!("{jobs} jobs are followed"), figures);
    }
    report.section("b. Executes over Kafka, one after the other, with their look-ups afterwards");
    report.row("0 jobs are known", vec![("CPU us/execute", cpu.unwrap_or(f64::NAN) * 1e6)]);
}

/// Seconds of the processor for each of [`ROUNDS`] executes, beyond what the daemon needs anyway.
fn cost(daemon: &Daemon, executes: impl FnOnce()) -> f64 {
    let (begun, before) = (Instant::now(), daemon.usage());
    daemon.settle();
    let idle = daemon.since(&before)[0] / begun.elapsed().as_secs_f64();
    let (begun, before) = (Instant::now(), daemon.usage());
    executes();
    daemon.settle();
    (daemon.since(&before)[0] - idle * begun.elapsed().as_secs_f64()) / ROUNDS as f64
}

struct Client {
    consumer: BaseConsumer,
    producer: ThreadedProducer<DefaultProducerContext>,
    there: String,
}

impl Client {
    /// One that writes to a topic, and reads what will be written to another one.
    fn new(rig: &Rig, there: &str, back: &str) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &rig.brokers)
            .set("group.id", "bench")
            .set("linger.ms", "0")
            .set("acks", "1");
        let producer = config.create().unwrap();
        if !rig.is_real() {
            config.set("fetch.wait.max.ms", "5");
        }
        let consumer: BaseConsumer = config.create().unwrap();
        let (_, high) = consumer.fetch_watermarks(back, 0, Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(back, 0, Offset::Offset(high)).unwrap();
        consumer.assign(&list).unwrap();
        Self { consumer, producer, there: there.to_owned() }
    }

    fn send(&self, message: &[u8]) {
        self.producer.send(BaseRecord::to(&self.there).key("key").payload(message)).unwrap();
    }

    /// Sends a command and waits for the ack that names its job; how many seconds that took.
    fn round(&mut self, message: &[u8]) -> f64 {
        let begun = Instant::now();
        self.send(message);
        loop {
            assert!(begun.elapsed() < PATIENCE, "no ack came");
            let Some(Ok(ack)) = self.consumer.poll(Duration::from_secs(1)) else { continue };
            if ack.payload().is_some_and(|ack| ack.windows(6).any(|word| word == b"job_id")) {
                return begun.elapsed().as_secs_f64();
            }
        }
    }
}

fn serve(mut bare: Bare, client: Client, over: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            if let Some(Ok(_)) = client.consumer.poll(Duration::from_millis(100)) {
                let job_id = bare.execute();
                client.send(format!("{:100}{{\"job_id\":\"{job_id}\"}}", "").as_bytes());
            }
        }
    })
}
