//! Rapid Analysis: the real daemon for index 101 against a real redis-server.
//!
//! `make test-redis` runs those that need redis-server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failure ends the test")]
#![allow(clippy::print_stderr, missing_docs, unreachable_pub, reason = "test code")]

#[cfg(feature = "redis")]
mod cases;
#[cfg(feature = "redis")]
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../daemon/harness.rs"]
mod harness;
#[cfg(feature = "redis")]
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/port.rs"]
mod port;
#[cfg(feature = "redis")]
mod rig;

#[cfg(not(feature = "redis"))]
#[test]
fn a_build_without_redis_refuses_index_101() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_ocps")).args(["run", "101"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("this build of ocps cannot: it was made without the feature redis"), "{said}");
}
