//! A small schema registry: the four calls that clients make, over HTTP, in memory; it can be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Request, Server, Then, answer};
use crate::support::port::Port;

/// What is registered.
#[derive(Default)]
pub(crate) struct Memory {
    /// Texts, by id - 1.
    pub(crate) schemas: Vec<String>,
    /// Ids of the versions of each subject.
    pub(crate) subjects: BTreeMap<String, Vec<usize>>,
    /// Known subjects of which new versions are refused.
    pub(crate) strict: BTreeSet<String>,
    /// How long each answer takes.
    pub(crate) delay: Duration,
    /// How many were given.
    pub(crate) answers: usize,
}

impl Memory {
    /// Loses all that is registered.
    pub(crate) fn lose(&mut self) {
        self.schemas.clear();
        self.subjects.clear();
    }

    pub(crate) fn register(&mut self, subject: &str, text: &str) -> Option<usize> {
        let id = match self.schemas.iter().position(|known| known == text) {
            Some(position) => position + 1,
            None => {
                self.schemas.push(text.to_owned());
                self.schemas.len()
            }
        };
        let versions = self.subjects.entry(subject.to_owned()).or_default();
        if versions.contains(&id) {
            return Some(id);
        }
        if self.strict.contains(subject) && !versions.is_empty() {
            return None;
        }
        versions.push(id);
        Some(id)
    }
}

/// A running registry; can be stopped and started again at the same place.
pub(crate) struct Registry {
    pub(crate) memory: Arc<Mutex<Memory>>,
    server: Option<Server>,
    port: u16,
    /// While it is down.
    kept: Option<Port>,
}

impl Registry {
    pub(crate) fn start(port: u16) -> Self {
        let mut registry = Self { memory: Arc::default(), server: None, port, kept: None };
        registry.up();
        registry
    }

    pub(crate) fn up(&mut self) {
        let memory = Arc::clone(&self.memory);
        let server = Server::start(self.port, move |request, connection| serve(&memory, request, connection));
        let server = server.unwrap();
        self.port = server.address().port();
        self.server = Some(server);
        self.kept = None;
    }

    pub(crate) fn down(&mut self) {
        self.server = None;
        self.kept = Some(Port::keep(self.port).unwrap());
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn serve(memory: &Mutex<Memory>, request: &Request, connection: &mut TcpStream) -> io::Result<Then> {
    let delay = memory.lock().unwrap().delay;
    thread::sleep(delay);
    let (status, body) = reply(&mut memory.lock().unwrap(), request);
    let kind = [("Content-Type", "application/vnd.schemaregistry.v1+json")];
    answer(connection, status, &kind, body.to_string().as_bytes())?;
    Ok(Then::KeepAlive)
}

fn reply(memory: &mut Memory, request: &Request) -> (u16, Value) {
    let missing =
        |code: u32, what: &str| (404, json!({"error_code": code, "message": format!("{what} not found.")}));
    memory.answers += 1;
    let words: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    match (request.method.as_str(), words.as_slice()) {
        ("GET", ["subjects"]) => (200, json!(memory.subjects.keys().collect::<Vec<_>>())),
        ("GET", ["schemas", "ids", id]) => {
            let text = id.parse::<usize>().ok().and_then(|id| memory.schemas.get(id.checked_sub(1)?));
            text.map_or_else(|| missing(40403, "Schema"), |text| (200, json!({ "schema": text })))
        }
        ("GET", ["subjects", subject, "versions", "latest"]) => {
            let Some(versions) = memory.subjects.get(*subject) else { return missing(40401, "Subject") };
            let id = versions[versions.len() - 1];
            let text = &memory.schemas[id - 1];
            (200, json!({"subject": subject, "version": versions.len(), "id": id, "schema": text}))
        }
        ("POST", ["subjects", subject, "versions"]) => {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let Some(text) = body["schema"].as_str() else {
                return (422, json!({"error_code": 42201, "message": "Invalid schema"}));
            };
            match memory.register(subject, text) {
                Some(id) => (200, json!({ "id": id })),
                None => {
                    (409, json!({"error_code": 409, "message": "Schema being registered is incompatible"}))
                }
            }
        }
        _ => missing(404, "HTTP 404"),
    }
}
