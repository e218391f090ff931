//! Follows.

pub mod socket_path;
