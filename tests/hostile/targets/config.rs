//! Configuration files: the component's layers, `ocps.toml`, and the files of more librdkafka settings. They are
//! written to a directory and read from there, as the daemon does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use ocps::backend::uws::Uws;
use ocps::config::check::check;
use ocps::config::kafka::{Options, Problem};
use ocps::config::settings::Settings;
use tempfile::TempDir;

use super::{check_reason, join, parts, texts};

thread_local! {
    static DIR: TempDir = {
        // Memory, where there is some to write files to.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        dir.unwrap()
    };
}

fn path(name: &str) -> PathBuf {
    DIR.with(|dir| dir.path().join(name))
}

/// `_init.yaml`, a site's layer over it, and an override over both.
pub(crate) fn read_component(data: &[u8]) {
    let dir = path("v4");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in ["_init.yaml", "_base.yaml", "x.yaml"].iter().zip(parts::<3>(data)) {
        fs::write(dir.join(name), text).unwrap();
    }
    let report = check(&dir, Some("base"), None);
    assert!(report.problems.len() <= 101);
    for problem in report.problems {
        check_reason(&problem.to_string());
    }
}

pub(crate) fn read_settings(data: &[u8]) {
    let path = path("ocps.toml");
    fs::write(&path, data).unwrap();
    let settings = match Settings::load(Some(&path)) {
        Ok(settings) => settings,
        Err(error) => return check_reason(&error.to_string()),
    };
    // It may name files; those are read from elsewhere.
    let mut kafka = settings.kafka;
    kafka.broker_client_configuration = None;
    kafka.consumer_configuration = None;
    kafka.producer_configuration = None;
    check_options(Options::new(&kafka, &|_| None));
    if let Err(reason) = Uws::new(&settings.uws) {
        check_reason(&reason);
    }
}

pub(crate) fn read_client_yaml(data: &[u8]) {
    let path = path("client.yaml");
    fs::write(&path, data).unwrap();
    let env = |name: &str| match name {
        "LSST_TOPIC_SUBNAME" => Some(OsString::from("sal")),
        "LSST_KAFKA_CONSUMER_CONFIGURATION" => Some(path.clone().into_os_string()),
        _ => None,
    };
    check_options(Options::new(&Settings::default().kafka, &env));
}

fn check_options(options: Result<Options, Problem>) {
    match options {
        Ok(options) => {
            if let Err(reason) = options.check_build() {
                check_reason(&reason);
            }
        }
        Err(Problem::NoSubname(reason) | Problem::Wrong(reason)) => check_reason(&reason),
    }
}

pub(crate) fn seeds_of_component() -> Vec<Vec<u8>> {
    let init = include_str!("../../../etc/OCPS/v4/_init.yaml");
    let flat =
        "url: http://user:secret@uws/api/v1/\npoll_interval: 0.5\nbutler: /repo\ninput_collection: ''\n";
    let anchors = "x: &a {sal_index: 1, instance: LATISS, url: http://u, poll_interval: 1, butler: b, output_glob: '*'}\ninstances:\n  - *a\n  - {<<: *a, sal_index: 0x2, instance: LSSTComCam}\n  - {<<: [*a, *a], sal_index: 3, instance: 'LSSTCam'}\n";
    vec![
        join(&[init, "metadata: {a: 1}\n", ""]),
        join(&[flat, "url: http://u\n", "poll_interval: 1e3\noutput_glob: |\n  *\n"]),
        join(&[anchors, "---\n# a comment\n", "instances: !tag [1, .nan, 0x7fffffffffffffff, 1_000, ~]\n"]),
        join(&[
            "? a\n: - \"\\u00e9\\x41\\n\"\n  - 'it''s'\n  - >-\n    folded\n",
            "%YAML 1.2\n---\na: 1\n...\n",
            "{a: [b, {c: d}], \"e\": -1.5e-7, 99999999999999999999: 1}\n",
        ]),
    ]
}

pub(crate) fn seeds_of_settings() -> Vec<Vec<u8>> {
    let example = include_str!("../../../etc/ocps.toml");
    // The keys are commented out, `#key = value`, where comments have a blank after the `#`.
    let set: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            Some(_) => String::new(),
            None => format!("{line}\n"),
        })
        .collect();
    let mut seeds = texts(&[
        "index = 0x65\nsite = '''summit'''\nuws.command = \"\\u00e9\\U0001F600\\n\"\nuws.proxy = 'http://me:secret@p:1'\n[kafka]\ntopic_subname = 'sal'\npassword = 'secret'\nusername = 'me'\n",
        "[[uws]]\nx = 1979-05-27T07:32:00.999999-07:00\n[simulation]\nmean_duration_s = inf\nsigma_s = -nan\nseed = 1_000\n",
        "a.b.'c'.\"d\" = [1, [2, {x = {y = 0b1}}], 0o7, +1e9]\n",
    ]);
    seeds.push(set.into_bytes());
    seeds.push(example.as_bytes().to_vec());
    seeds
}

pub(crate) fn seeds_of_client_yaml() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "fetch.wait.max.ms: 20\nclient.id: x\nenable.auto.commit: false\nsecurity.protocol: SASL_SSL\n",
        "a: &a [*b, 1e9]\n? b\n: |\n  x\n",
        "{a: {b: [c]}, !!str d: 'e', \"f\": ~}\n",
    ]);
    // An alias of much text, often: of half a megabyte the library alone makes gigabytes.
    let uses: String = (0..1_000).map(|i| format!("k{i}: *a\n")).collect();
    seeds.push(format!("a: &a {}\n{uses}", "x".repeat(50_000)).into_bytes());
    seeds
}
