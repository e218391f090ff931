//! The fake execution service, on its own.
fn main() {}
