//! Every compression is read; what no consumer can read is skipped, counted and logged.

use std::io::{Read, Write};
use std::net::TcpStream;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

use crate::harness::{Client, PATIENCE, QUICK, eventually};
use crate::rig::Rig;

#[test]
fn every_compression_is_read() {
    let rig = Rig::new(QUICK);
    let (_daemon, mut foreign) = rig.enabled();
    // What does not get smaller is sent as it is.
    let config = "x".repeat(5000);
    for (number, codec) in (1..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &rig.brokers)
            .set("compression.type", codec)
            .create()
            .unwrap();
        let fields = json!({"pipeline": "true.yaml", "config": config, "private_seqNum": number});
        let bytes = foreign.command("execute", &fields);
        let name = foreign.name("command_execute");
        producer.send(BaseRecord::to(&name).key("x").payload(&bytes)).unwrap();
        producer.flush(PATIENCE).unwrap();
        assert_eq!(foreign.final_ack(number), "303 Done", "{codec}");
    }
}

/// A batch of so many records with this content, compressed as these attributes name.
fn batch(attributes: i16, records: i32, content: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend(0_i32.to_be_bytes());
    rest.push(2);
    // No consumer checks this sum by default.
    rest.extend(0_i32.to_be_bytes());
    rest.extend(attributes.to_be_bytes());
    rest.extend((records - 1).to_be_bytes());
    for _ in ["first", "last"] {
        rest.extend(1_700_000_000_000_i64.to_be_bytes());
    }
    rest.extend((-1_i64).to_be_bytes());
    rest.extend((-1_i16).to_be_bytes());
    rest.extend((-1_i32).to_be_bytes());
    rest.extend(records.to_be_bytes());
    rest.extend(content);
    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend(i32::try_from(rest.len()).unwrap().to_be_bytes());
    batch.extend(rest);
    batch
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = i16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Produces bytes as they are.
fn produce(rig: &Rig, topic: &str, batch: &[u8]) {
    let name = format!("lsst.{}.OCPS.{topic}", rig.subname);
    // Produce, version 7; no transaction, one ack, one topic, one partition.
    let mut request = [0, 0, 0, 7, 0, 0, 0, 1].to_vec();
    request.extend(text("raw"));
    request.extend((-1_i16).to_be_bytes());
    request.extend([0, 1]);
    request.extend(5000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(text(&name));
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(i32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    let mut connection = TcpStream::connect(rig.brokers.split(',').next().unwrap()).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    connection.write_all(&request).unwrap();
    let mut length = [0; 4];
    connection.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    connection.read_exact(&mut answer).unwrap();
    // Correlation id, one topic, its name, one partition, its number, the error.
    let error = 4 + 4 + 2 + name.len() + 4 + 4;
    assert_eq!(answer[error..error + 2], [0, 0], "{answer:?}");
}

/// A compression that no consumer knows, and a known one, of what was not compressed.
const UNKNOWN: i16 = 5;
const ZSTD: i16 = 4;

fn problem(client: &mut Client) -> Option<String> {
    client.query("status")["kafka"]["problem"].as_str().map(str::to_owned)
}

#[test]
fn unreadable_records_are_skipped_and_logged() {
    let rig = Rig::new(QUICK);
    if rig.is_real() {
        // It takes no such thing.
        return;
    }
    let (daemon, mut foreign) = rig.enabled();
    let mut client = daemon.connect();
    produce(&rig, "command_execute", &batch(UNKNOWN, 3, b"garbage"));
    let named = "command_execute: messages that cannot be read were skipped, 3 so far, the last at offset 2 of \
                 partition 0: its compression or format is not known";
    eventually("it is reported", || problem(&mut client).is_some_and(|problem| problem.contains(named)));
    assert_eq!(client.query("status")["kafka"]["undecodable"], 3);
    assert_eq!(foreign.run("execute", &json!({"pipeline": "true.yaml"})), "303 Done");
    eventually("that is over", || problem(&mut client).is_none());

    // Good ones before, between and behind are taken; other topics are not affected.
    let first = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    produce(&rig, "command_execute", &batch(UNKNOWN, 1, b"garbage"));
    let second = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    produce(&rig, "command_execute", &batch(ZSTD, 150, b"garbage"));
    produce(&rig, "command_execute", &batch(UNKNOWN, 2, b"garbage"));
    let third = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    assert_eq!(foreign.run("setLogLevel", &json!({"level": 10})), "303 Done");
    for seq in [first, second, third] {
        assert_eq!(foreign.final_ack(seq), "303 Done");
    }
    assert_eq!(client.query("status")["kafka"]["undecodable"], 3 + 1 + 150 + 2);
    let log = daemon.stderr();
    assert!(!log.contains("cannot be reached") && !log.contains("commands cannot be read"), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("were skipped")).collect();
    assert!((2..=3).contains(&lines.len()), "{log}");
}

#[test]
fn a_batch_that_is_no_message_is_skipped_although_there_is_no_error() {
    let rig = Rig::new(QUICK);
    if rig.is_real() {
        return;
    }
    let (daemon, mut foreign) = rig.enabled();
    let mut client = daemon.connect();
    produce(&rig, "command_execute", &batch(0, 1, &[0x7f; 40]));
    let seq = foreign.send("execute", &json!({"pipeline": "true.yaml"}));
    // The daemon waits for it for a while, since no error comes instead.
    assert_eq!(foreign.final_ack(seq), "303 Done");
    assert_eq!(client.query("status")["kafka"]["undecodable"], 1);
}
