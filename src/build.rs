//! Sets `OCPS_COMMIT` to the commit that the program is built from, if it is built in its own git checkout. It runs again
//! only when HEAD of the checkout moves.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // An archive without git may have been unpacked inside another repository.
    if git(&["rev-parse", "--show-prefix"]).as_deref() != Some("") {
        return;
    }
    let Some(commit) = git(&["log", "-1", "--format=%h (%cs)"]) else { return };
    println!("cargo::rustc-env=OCPS_COMMIT={commit}");
    // HEAD changes only with the branch, its log with each commit.
    let heads = git(&["rev-parse", "--git-path", "HEAD", "--git-path", "logs/HEAD"]).unwrap_or_default();
    // A path that does not exist would make it run each time.
    for head in heads.lines().filter(|head| Path::new(head).exists()) {
        println!("cargo::rerun-if-changed={head}");
    }
}

/// The output of git, if it succeeds.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
