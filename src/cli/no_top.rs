//! `ocps top` in a build without the live screen.

use super::flags::Line;
use super::{Task, failed};

/// `ocps top`: says that this build does not have it.
pub(super) fn task(_: &Line) -> Result<Task, String> {
    let reason =
        "this build has no live screen: build it with --features terminal, or see ocps status and ocps jobs";
    Ok(Box::new(move |_| Err(failed(reason))))
}
