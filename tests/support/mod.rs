//! What the integration tests share: each declares `mod support;` and uses a part of it.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "every test is a crate of its own and uses a part"
)]
#![allow(clippy::panic, clippy::wildcard_enum_match_arm, reason = "test code: a failure ends the test")]

pub mod gateway;
pub mod http;
pub mod manifest;
pub mod port;
pub mod reply;
pub mod skip;
pub mod uws_fault;
pub mod uws_job;
pub mod uws_route;
pub mod uws_service;
