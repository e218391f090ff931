//! The SAL interface as data: topics, fields, types, codes, TAI time.
//!
//! The core does not know this module; the transports and the command line are written from it.

pub mod topic;
