//! How long an execute of Rapid Analysis takes from a client to its final ack, beside bare Redis round trips.
//!
//! `make bench` starts the real daemon and a real redis-server; without one there is nothing to measure. The ratio
//! is what counts: absolute times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]
#![allow(dead_code, missing_docs, unreachable_pub)]

#[cfg(feature = "redis")]
#[path = "../daemon/harness.rs"]
mod harness;
#[cfg(feature = "redis")]
#[path = "../support/port.rs"]
mod port;
#[cfg(feature = "redis")]
#[path = "../redis/rig.rs"]
mod rig;

#[cfg(not(feature = "redis"))]
fn main() {
    println!("this build is without Redis: nothing to measure");
}

#[cfg(feature = "redis")]
fn main() {
    measure::run();
}

#[cfg(feature = "redis")]
mod measure {
    use std::time::{Duration, Instant};

    use super::rig::{Daemon, Server, push};

    /// Commands in a row.
    const ROUNDS: usize = 1000;
    /// Those before, that are not counted.
    const WARM_UP: usize = 100;

    pub fn run() {
        let server = Server::usual();
        let daemon = Daemon::enabled(server.port);
        let mut client = daemon.client();
        let mut redis = server.connection();
        let ping = redis::cmd("PING");
        let mut transaction = redis::pipe();
        transaction.atomic().lpush("bare_a", "1234").ignore().lpush("bare_b", "12345").ignore();
        let (mut pings, mut transactions, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        // In turns, so that a drift of the machine meets all of them.
        for round in 0..WARM_UP + ROUNDS {
            let times = [
                time(|| ping.exec(&mut redis).unwrap()),
                time(|| transaction.exec(&mut redis).unwrap()),
                time(|| assert_eq!(push(&mut client, r#"{"test_int":1234,"test_str":"12345"}"#), "Done")),
            ];
            if round >= WARM_UP {
                pings.push(times[0]);
                transactions.push(times[1]);
                commands.push(times[2]);
            }
        }
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            assert_eq!(push(&mut client, r#"{"test_int":1234,"test_str":"12345"}"#), "Done");
        }
        let in_a_row = begun.elapsed();
        let bare = report("bare PING", &mut pings, None);
        report("bare MULTI/EXEC of two values", &mut transactions, Some(bare));
        report("execute of two values, to its final ack", &mut commands, Some(bare));
        println!("{ROUNDS} executes in a row took {:.0} ms", in_a_row.as_secs_f64() * 1e3);
        assert_eq!(server.list("test_int").len(), WARM_UP + 2 * ROUNDS);
    }

    fn time(what: impl FnOnce()) -> Duration {
        let begun = Instant::now();
        what();
        begun.elapsed()
    }

    /// Prints p50 and p99 in µs, and their ratios to those of `bare`.
    fn report(name: &str, times: &mut [Duration], bare: Option<[f64; 2]>) -> [f64; 2] {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
        let [p50, p99] = [at(50), at(99)];
        let ratio =
            bare.map_or(String::new(), |[b50, b99]| format!("  ratio {:.2} and {:.2}", p50 / b50, p99 / b99));
        println!("{name:42} p50 {p50:7.1} us  p99 {p99:7.1} us{ratio}");
        [p50, p99]
    }
}
