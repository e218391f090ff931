//! Where commands come from and where acks and events go. A transport knows nothing of jobs.

pub mod document;
pub mod line;
pub mod socket;
pub mod socket_path;
