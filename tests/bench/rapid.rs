//! Rapid Analysis: from an execute to its final ack, beside bare round trips to Redis.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::redis_rig::{Daemon, Server, push};
use crate::report::{Report, Times};

const ROUNDS: usize = 1000;
/// Those before, that are not counted.
const WARM_UP: usize = 100;

pub fn run(report: &mut Report) {
    report.section("Rapid Analysis: from an execute of two values to its final ack");
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        return report.note("Rapid Analysis is not measured: redis-server is not installed".to_owned());
    }
    let server = Server::usual();
    let daemon = Daemon::enabled(server.port);
    let mut client = daemon.client();
    let mut redis = server.connection();
    let mut transaction = redis::pipe();
    transaction.atomic().lpush("bare_a", "1234").ignore().lpush("bare_b", "12345").ignore();
    let (mut commands, mut transactions) = (Vec::new(), Vec::new());
    // In turns, so that a drift of the machine meets both.
    for round in 0..WARM_UP + ROUNDS {
        let begun = Instant::now();
        transaction.exec(&mut redis).unwrap();
        let bare = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        assert_eq!(push(&mut client, r#"{"test_int":1234,"test_str":"12345"}"#), "Done");
        if round >= WARM_UP {
            commands.push(begun.elapsed().as_secs_f64());
            transactions.push(bare);
        }
    }
    report.row("beside MULTI/EXEC of two values", Times::of(commands).beside(Times::of(transactions)));
}
