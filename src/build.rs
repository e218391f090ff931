//! Tells the program which commit it is built from, where that is known: in a git checkout of its own, and not in an
//! unpacked archive. It runs again only when the checkout's HEAD moves.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // An archive may have been unpacked inside of another repository.
    if git(&["rev-parse", "--show-prefix"]).as_deref() != Some("") {
        return;
    }
    let Some(commit) = git(&["log", "-1", "--format=%h (%cs)"]) else { return };
    println!("cargo::rustc-env=OCPS_COMMIT={commit}");
    // The log of HEAD grows with each commit, HEAD itself only changes with the branch.
    let heads = git(&["rev-parse", "--git-path", "HEAD", "--git-path", "logs/HEAD"]).unwrap_or_default();
    // One that does not exist would make it run each time.
    for head in heads.lines().filter(|head| Path::new(head).exists()) {
        println!("cargo::rerun-if-changed={head}");
    }
}

/// What git says on success.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
