//! The manifests in `etc/kubernetes`, as far as a test needs them to do what a cluster would.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an index into JSON gives null, and tests may panic"
)]

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// A file of manifests with one pod in it.
pub struct Manifest {
    pub documents: Vec<Value>,
}

impl Manifest {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/kubernetes").join(name);
        let text = fs::read_to_string(path).unwrap();
        let documents = serde_yaml::Deserializer::from_str(&text);
        Self { documents: documents.map(|document| Value::deserialize(document).unwrap()).collect() }
    }

    /// All of this kind.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.documents.iter().filter(move |document| document["kind"] == kind)
    }

    pub fn one<'a>(&'a self, kind: &'a str) -> &'a Value {
        self.all(kind).next().unwrap()
    }

    pub fn pod(&self) -> &Value {
        &self.one("Deployment")["spec"]["template"]["spec"]
    }

    pub fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    pub fn args(&self) -> Vec<&str> {
        self.container()["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect()
    }

    /// The environment; all secrets are "geheim".
    pub fn env<'a>(&'a self) -> Vec<(&'a str, &'a str)> {
        let variables = self.container()["env"].as_array().unwrap();
        let value =
            |variable: &'a Value| variable.get("value").map_or("geheim", |value| value.as_str().unwrap());
        variables.iter().map(|it| (it["name"].as_str().unwrap(), value(it))).collect()
    }

    pub fn volume(&self, name: &Value) -> &Value {
        let volumes = self.pod()["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == *name).unwrap()
    }

    /// Makes the file system of the container under `root`, with the files of the ConfigMap. `change` is done to the
    /// text of each.
    pub fn mount(&self, root: &Path, change: impl Fn(&str) -> String) {
        for mount in self.container()["volumeMounts"].as_array().unwrap() {
            let at = root.join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
            fs::create_dir_all(&at).unwrap();
            for item in self.volume(&mount["name"])["configMap"]["items"].as_array().into_iter().flatten() {
                let text = self.one("ConfigMap")["data"][item["key"].as_str().unwrap()].as_str().unwrap();
                let file = at.join(item["path"].as_str().unwrap());
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, change(text)).unwrap();
            }
        }
    }
}
