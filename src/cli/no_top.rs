//! Stands in for the live screen in a build without it.

use super::flags::Line;
use super::{Failure, Task};

/// `ocps top`.
pub(super) fn task(_: &Line) -> Result<Task, String> {
    let reason =
        "this build has no live screen: build it with --features terminal, or see ocps status and ocps jobs";
    Ok(Box::new(move |_| Err(Failure::Failed(reason.to_owned()))))
}
