//! The component configuration with real directories and real git repositories.

// Clippy lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::unbounded;
use ocps::config::component::Reader;
use ocps::config::watcher::{ConfigRequest, ConfigResult, spawn};
use ocps::csc::Watching;
use ocps::csc::id::SalIndex;
use tempfile::TempDir;

/// A directory, of which `Reader`s are made.
struct Dir(TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn reader(&self, sub: &str) -> Reader {
        Reader {
            dir: Some(if sub.is_empty() { self.path().to_owned() } else { self.path().join(sub) }),
            site: Some("summit".into()),
            index: SalIndex::Latiss,
            simulated: false,
        }
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"])
            .args(["-c", "init.defaultBranch=main", "-c", "core.hooksPath=/dev/null"])
            .args(args)
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

const FLAT: &str = "url: http://init/\npoll_interval: 1\nbutler: init\n";

fn error(reader: &Reader, name: &str) -> String {
    let error = reader.read(name).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn layers_are_read_in_order_and_the_later_one_wins() {
    let dir = Dir::new(&[
        ("_init.yaml", FLAT),
        ("_summit.yaml", "butler: summit\noutput_glob: s\n"),
        ("x.yaml", "metadata: {author: me}\noutput_glob: x\n"),
    ]);
    let mut reader = dir.reader("");
    let plain = reader.read("").unwrap();
    assert_eq!(plain.files, "_init.yaml,_summit.yaml");
    assert_eq!(plain.service.butler.as_deref(), Some("summit"));
    let with = reader.read("x.yaml").unwrap();
    assert_eq!(with.files, "_init.yaml,_summit.yaml,x.yaml");
    assert_eq!(with.service.url.address(), "http://init");
    assert_eq!(with.service.poll_interval, Duration::from_secs(1));
    assert_eq!(with.service.output_glob.as_deref(), Some("x"));
    assert_eq!(with.version, "");
    let canonical = dir.path().canonicalize().unwrap();
    assert_eq!(with.directory_url, format!("file://{}", canonical.display()));
    reader.site = None;
    assert_eq!(reader.read("").unwrap().service.butler.as_deref(), Some("init"));
    reader.site = Some("base".into());
    assert_eq!(reader.read("").unwrap().files, "_init.yaml");
    reader.site = Some("../x".into());
    assert!(error(&reader, "").contains("site \"../x\" must be made of"));
}

#[test]
fn a_file_that_begins_with_a_byte_order_mark_is_read_like_any_other() {
    let marked = format!("\u{feff}{FLAT}");
    let dir =
        Dir::new(&[("_init.yaml", &marked), ("x.yaml", "\u{feff}# a comment\nbutler: x\noutput_glob: y\n")]);
    let read = dir.reader("").read("x.yaml").unwrap();
    assert_eq!(read.service.butler.as_deref(), Some("x"));
    // Of a commit too.
    dir.git(&["init", "--quiet"]);
    let commit = dir.commit();
    let read = dir.reader("").read(&format!("x.yaml:{commit}")).unwrap();
    assert_eq!((read.service.url.address(), read.service.output_glob.as_deref()), ("http://init", Some("y")));
}

#[test]
fn the_example_configuration_lacks_only_the_address_of_the_service() {
    let example =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/OCPS/v4/_init.yaml")).unwrap();
    let dir = Dir::new(&[("_init.yaml", &example)]);
    for &index in SalIndex::ALL {
        let reader = Reader { site: None, index, ..dir.reader("") };
        if index == SalIndex::Ra {
            assert_eq!(reader.read("").unwrap().service.url.address(), "");
        } else {
            let error = error(&reader, "");
            assert!(error.contains(".url is that of the example; it must be the address"), "{error}");
        }
    }
    dir.write("_init.yaml", &example.replace("uws-server.example.org", "uws-server"));
    for &index in SalIndex::ALL {
        let reader = Reader { site: None, index, ..dir.reader("") };
        assert_eq!(reader.read("").unwrap().service.url.is_empty(), index == SalIndex::Ra, "{index}");
    }
}

#[test]
fn errors_cite_the_file_that_the_mistake_is_in() {
    let dir = Dir::new(&[
        ("_init.yaml", FLAT),
        ("negative.yaml", "# a comment\n\npoll_interval: -1\n"),
        ("unknown.yaml", "url: http://x\npol_interval: 1\n"),
        ("clash.yaml", "url: {a: 1}\n"),
        ("bad.yaml", "url: [\n"),
        ("both.yaml", "instances: []\n"),
        ("many.yaml", "url: 1\nbutler: 2\noutput_glob: 3\n"),
    ]);
    fs::create_dir(dir.path().join("dir.yaml")).unwrap();
    let reader = dir.reader("");
    let at = dir.path().display();
    for (name, expected) in [
        (
            "negative.yaml",
            format!(
                "{at}/negative.yaml:3:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not -1"
            ),
        ),
        (
            "unknown.yaml",
            format!("{at}/unknown.yaml:2:1: unknown key \"pol_interval\"; did you mean poll_interval?"),
        ),
        ("clash.yaml", format!("{at}/clash.yaml:1:6: url is a mapping here but none in {at}/_init.yaml")),
        ("bad.yaml", format!("{at}/bad.yaml:2:1: not valid YAML")),
        (
            "both.yaml",
            format!(
                "{at}/_init.yaml:1:6: url stands beside instances; move it into the entries (and 2 more: see `ocps check`)"
            ),
        ),
        ("many.yaml", format!("{at}/many.yaml:1:6: url must be http:// or https:// with a host (and 2 more")),
        ("none.yaml", format!("Config file '{at}/none.yaml' does not exist")),
        ("_init.yaml", "configurationOverride '_init.yaml' must not start with '_'".into()),
        ("dir.yaml", format!("{at}/dir.yaml: is a directory, not a file")),
        ("negative.yaml:main", format!("{at}: git reference \"main\": not a git repository")),
    ] {
        let error = error(&reader, name);
        assert!(error.starts_with(&expected), "{name}: {error}\nexpected {expected}");
    }
    dir.write("_init.yaml", "poll_interval: 1\n");
    assert_eq!(error(&reader, ""), format!("{at}/_init.yaml: url is missing; it must be given"));
    fs::remove_file(dir.path().join("_init.yaml")).unwrap();
    assert_eq!(error(&reader, ""), format!("Config file '{at}/_init.yaml' does not exist"));
    assert!(error(&dir.reader("nowhere"), "").contains("/nowhere: is not a directory"));
}

#[test]
fn the_simulator_ignores_all_but_the_override_that_is_named() {
    let dir = Dir::new(&[
        ("_init.yaml", "url: [\n"),
        ("_summit.yaml", "butler: 7\n"),
        ("good.yaml", "poll_interval: 5\n"),
        ("typo.yaml", "pol_interval: 5\n"),
        ("bad.yaml", "a: b: c\n"),
        ("clash.yaml", "butler: {a: 1}\n"),
    ]);
    let mut reader = dir.reader("");
    reader.simulated = true;
    for (name, files) in [("", "_summit.yaml"), ("good.yaml", "_summit.yaml,good.yaml")] {
        let read = reader.read(name).unwrap();
        assert_eq!((read.service.url.address(), read.files.as_str()), ("", files));
        assert_eq!(read.service.poll_interval, Duration::from_millis(100));
        assert_eq!(read.service.butler, None);
        assert!(read.directory_url.starts_with("file:///"));
    }
    for (name, expected) in [
        ("typo.yaml", "typo.yaml:1:1: unknown key"),
        ("bad.yaml", "bad.yaml:1:5: not valid YAML"),
        ("clash.yaml", "clash.yaml:1:9: butler is a mapping here"),
        ("none.yaml", "none.yaml' does not exist"),
    ] {
        let error = error(&reader, name);
        assert!(error.contains(expected), "{error}");
    }
    reader.dir = Some(dir.path().join("nowhere"));
    assert_eq!(reader.read("").unwrap().files, "");
}

#[test]
fn a_git_reference_reads_all_layers_as_of_that_commit() {
    let dir = Dir::new(&[
        ("OCPS/v4/_init.yaml", FLAT),
        ("OCPS/v4/_summit.yaml", "butler: old\n"),
        ("OCPS/v4/x.yaml", "output_glob: old\n"),
    ]);
    std::os::unix::fs::symlink("x.yaml", dir.path().join("OCPS/v4/link.yaml")).unwrap();
    dir.git(&["init", "--quiet"]);
    let old = dir.commit();
    dir.git(&["tag", "v1"]);
    dir.git(&["checkout", "--quiet", "-b", "feature/x"]);
    dir.write("OCPS/v4/x.yaml", "output_glob: 7\n");
    dir.commit();
    dir.git(&["checkout", "--quiet", "main"]);
    // In the work tree there is neither site file nor override.
    for name in ["_summit.yaml", "x.yaml"] {
        fs::remove_file(dir.path().join("OCPS/v4").join(name)).unwrap();
    }
    dir.commit();
    let reader = dir.reader("OCPS/v4");
    for name in ["x.yaml:v1", &format!("x.yaml:{old}"), &format!("x.yaml:{}", &old[..10]), "x.yaml:main~1"] {
        let read = reader.read(name).unwrap();
        assert_eq!(read.files, "_init.yaml,_summit.yaml,x.yaml", "{name}");
        assert_eq!(read.service.butler.as_deref(), Some("old"));
        assert_eq!(read.service.output_glob.as_deref(), Some("old"));
    }
    assert_eq!(reader.read(":v1").unwrap().files, "_init.yaml,_summit.yaml");
    assert_eq!(reader.read("").unwrap().files, "_init.yaml");
    let at = dir.path().join("OCPS/v4");
    let at = at.display();
    for (name, expected) in [
        ("x.yaml:feature/x", format!("{at}/x.yaml@feature/x:1:14: output_glob must be text, not 7")),
        ("x.yaml:main", format!("Config file '{at}/x.yaml' does not exist at git reference 'main'")),
        ("x.yaml:nowhere", format!("{at}: git reference \"nowhere\": no such commit")),
        ("x.yaml:--help", "\"--help\" cannot name a commit".into()),
        ("link.yaml:main", format!("{at}/link.yaml@main: is a symbolic link in this commit")),
        ("x.yaml:v1:OCPS", format!("{at}: git reference \"v1:OCPS\": no such commit")),
    ] {
        let error = error(&reader, name);
        assert!(error.starts_with(&expected), "{name}: {error}\nexpected {expected}");
    }
}

#[test]
fn a_large_file_in_a_commit_is_refused() {
    let dir = Dir::new(&[("_init.yaml", FLAT), ("large.yaml", &"# comment\n".repeat(200_000))]);
    dir.git(&["init", "--quiet"]);
    dir.commit();
    let error = error(&dir.reader(""), "large.yaml:main");
    assert!(error.contains("large.yaml@main: larger than 1048576 bytes"), "{error}");
}

#[test]
fn the_version_is_what_git_describes() {
    let dir = Dir::new(&[
        ("a b/_init.yaml", FLAT),
        ("a b/x.yaml", ""),
        ("a b/.hidden.yaml", ""),
        ("a b/b.yml", ""),
    ]);
    fs::create_dir(dir.path().join("a b/dir.yaml")).unwrap();
    let reader = dir.reader("a b");
    let before = reader.available();
    assert_eq!((before.overrides.as_str(), before.version.as_str()), (".hidden.yaml,x.yaml", ""));
    assert!(before.url.ends_with("/a%20b"), "{}", before.url);
    dir.git(&["init", "--quiet"]);
    let id = dir.commit();
    let clean = reader.available();
    assert_eq!(clean.version, format!("heads/main-0-g{}", &id[..7]));
    assert_eq!(reader.read("").unwrap().version, clean.version);
    dir.write("a b/_init.yaml", &FLAT.replace("init/", "dirty/"));
    assert_eq!(reader.available().version, format!("{}-dirty", clean.version));
}

#[test]
fn links_in_the_directory_are_followed() {
    // As Kubernetes mounts a ConfigMap.
    let dir = Dir::new(&[("..2026/_init.yaml", FLAT), ("..2026/x.yaml", "butler: x\n")]);
    for name in ["_init.yaml", "x.yaml"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("..2026", dir.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
    let reader = dir.reader("");
    assert_eq!(reader.available().overrides, "x.yaml");
    assert_eq!(reader.read("x.yaml").unwrap().service.butler.as_deref(), Some("x"));
}

#[test]
fn the_watcher_reports_edits_commits_and_tags() {
    let dir = Dir::new(&[("sub/_init.yaml", FLAT)]);
    dir.git(&["init", "--quiet"]);
    let first = dir.commit();
    let ((to, requests), (results, from)) = (unbounded(), unbounded());
    let thread = spawn(dir.reader("sub"), requests, results).unwrap();
    let reported = || match from.recv_timeout(Duration::from_secs(20)) {
        Ok(ConfigResult::Available(available)) => available.version,
        other => panic!("{other:?}"),
    };
    to.send(ConfigRequest::Watch(Watching::On)).unwrap();
    assert_eq!(reported(), format!("heads/main-0-g{}", &first[..7]));
    dir.write("sub/_init.yaml", &FLAT.replace("init/", "edited/"));
    assert_eq!(reported(), format!("heads/main-0-g{}-dirty", &first[..7]));
    let second = dir.commit();
    // The directory may be read while git makes the commit, so that a state between may be reported as well.
    let expected = format!("heads/main-0-g{}", &second[..7]);
    while reported() != expected {}
    dir.git(&["tag", "-a", "-m", "x", "v1"]);
    assert_eq!(reported(), format!("tags/v1-0-g{}", &second[..7]));
    drop(to);
    thread.join().unwrap();
}

/// What a mistake of a person's hand or a broken disk may leave: no text at all may end the daemon.
#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let dir = Dir::new(&[]);
    let reader = dir.reader("");
    let example = include_str!("../etc/OCPS/v4/_init.yaml");
    let mut rng = fastrand::Rng::with_seed(7);
    let pieces = [
        "\t", "- ", "? ", ": ", "[", "]", "{", "}", "&a ", "*a", "!x ", "<<: ", "|\n", "'", "\"", "\n", "%",
        "é", "#", "---\n", "\0", "\u{feff}",
    ];
    for _ in 0..2_000 {
        let mut text = example.to_owned();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..=text.len());
            if !text.is_char_boundary(at) {
                continue;
            }
            match rng.usize(0..3) {
                0 => text.insert_str(at, rng.choice(pieces).unwrap()),
                1 => text.truncate(at),
                _ => {
                    let end = (at + rng.usize(0..40)).min(text.len());
                    if text.is_char_boundary(end) {
                        text.replace_range(at..end, "");
                    }
                }
            }
        }
        dir.write("_init.yaml", &text);
        // Sound or not, the error is one line.
        if let Err(error) = reader.read("") {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
