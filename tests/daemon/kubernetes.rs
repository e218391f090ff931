//! `etc/kubernetes` and `etc/container`: what they name is what the program knows, and their configuration is sound.

use std::fs;

use ocps::config::settings::DEFAULT_PATH;
use serde_json::{Value, json};

use crate::harness::{Home, eventually, run};
use crate::http::{ask, connect};
use crate::support::manifest::Manifest;
use crate::support::port::Port;

const MANIFESTS: [&str; 2] = ["journal-on-kafka.yaml", "journal-on-volume.yaml"];

/// A home with the files of the pod at their paths.
fn home(manifest: &Manifest, change: impl Fn(&str) -> String) -> Home {
    let home = Home::new();
    manifest.mount(&home.path(""), change);
    home
}

#[test]
fn what_a_pod_is_started_with_is_sound() {
    let known = include_str!("../../etc/ocps.toml");
    for name in MANIFESTS {
        let manifest = Manifest::read(name);
        let home = home(&manifest, str::to_owned);
        // Where the daemon looks by itself.
        let [toml, init] = [DEFAULT_PATH, "/etc/ocps/OCPS/v4/_init.yaml"].map(|path| home.path(&path[1..]));
        assert!(toml.is_file() && init.is_file(), "{name}");
        let args = manifest.args();
        let mut command = home.ocps();
        command.args(["check", "--index", args[0]]).args(&args[1..]);
        command.arg("--config").arg(&toml).arg("--configdir").arg(init.parent().unwrap());
        // The directory of the state need not be there on this machine.
        command.arg("--state-dir").arg(home.path("state")).envs(manifest.env());
        let ran = run(&mut command);
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
        for (variable, _) in manifest.env() {
            assert!(known.contains(variable), "{name}: {variable}");
        }
        let state_dir = fs::read_to_string(&toml)
            .unwrap()
            .lines()
            .find_map(|line| Some(line.strip_prefix("state_dir = \"")?.trim_end_matches('"').to_owned()));
        let mut mounts = manifest.container()["volumeMounts"].as_array().unwrap().iter();
        let is_kept = |mount: &&Value| !manifest.volume(&mount["name"])["persistentVolumeClaim"].is_null();
        let kept = mounts.find(is_kept).map(|mount| mount["mountPath"].as_str().unwrap().to_owned());
        assert_eq!(state_dir, kept, "{name}");
    }
}

#[test]
fn the_probes_ask_for_what_is_served() {
    for name in MANIFESTS {
        let manifest = Manifest::read(name);
        let container = manifest.container();
        let (port, number) = (Port::free().unwrap(), &container["ports"][0]["containerPort"]);
        let listen = format!("0.0.0.0:{number}");
        let home = home(&manifest, |text| {
            let text = text.replace(&listen, &format!("127.0.0.1:{}", port.number));
            text.replace("journal = \"kafka\"", "journal = \"off\"")
        });
        let toml = home.path("etc/ocps/ocps.toml");
        let _daemon = home.start(&["1", "--simulate", "--config", toml.to_str().unwrap()]);
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["port"], container["ports"][0]["name"]);
            eventually(&format!("{name}: {get}"), || {
                ask(connect(&port), get["path"].as_str().unwrap()).0 == "HTTP/1.1 200 OK"
            });
        }
    }
}

#[test]
fn what_a_manifest_refers_to_is_in_it() {
    for name in MANIFESTS {
        let manifest = Manifest::read(name);
        let deployment = manifest.one("Deployment");
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let mut selectors = vec![&deployment["spec"]["selector"]];
        selectors.extend(manifest.all("PodDisruptionBudget").map(|budget| &budget["spec"]["selector"]));
        let spread = manifest.pod()["topologySpreadConstraints"].as_array().into_iter().flatten();
        selectors.extend(spread.map(|constraint| &constraint["labelSelector"]));
        assert!(selectors.iter().all(|selector| selector["matchLabels"] == *labels), "{name}: {selectors:?}");
        let is_there = |kind: &str, wanted: &Value| {
            wanted.is_null() || manifest.all(kind).any(|document| document["metadata"]["name"] == *wanted)
        };
        for volume in manifest.pod()["volumes"].as_array().unwrap() {
            assert!(is_there("ConfigMap", &volume["configMap"]["name"]), "{name}: {volume}");
            let claim = &volume["persistentVolumeClaim"]["claimName"];
            assert!(is_there("PersistentVolumeClaim", claim), "{name}: {volume}");
        }
        assert_eq!(manifest.container()["image"], concat!("ocps:", env!("CARGO_PKG_VERSION")));
        let limits = json!({"cpu": "100m", "memory": "64Mi"});
        assert_eq!(manifest.container()["resources"]["limits"], limits, "{name}");
    }
}

#[test]
fn the_image_is_made_with_our_compiler_and_starts_a_program_that_is_installed() {
    let text = include_str!("../../etc/container/Containerfile");
    assert!(text.contains(concat!("FROM rust:", env!("CARGO_PKG_RUST_VERSION"), "-slim-trixie AS build\n")));
    assert!(text.contains("FROM debian:trixie-slim\n"));
    assert!(text.contains(concat!("-t ocps:", env!("CARGO_PKG_VERSION"), " ")));
    let user = Manifest::read(MANIFESTS[0]).pod()["securityContext"]["runAsUser"].to_string();
    assert!(text.contains(&format!("USER {user}:{user}\n")));
    let entry = text.split_once("ENTRYPOINT [\"/usr/bin/").unwrap().1.trim_end_matches("\"]\n");
    assert!(include_str!("../../Makefile").contains(&format!("$(bindir)/{entry}\n")), "{entry}");
}
