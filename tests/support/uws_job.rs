//! A job of the fake execution service: made from a PUT as the genuine service makes it,
//! through a YAML text into which the values are pasted raw, and with phases by the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How jobs run that do not define it themselves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds in phase pending.
    pub pending: f64,
    /// Seconds in phase queued.
    pub queued: f64,
    /// Seconds of execution; a job's DATA_QUERY, RUN_OPTIONS or PIPELINE_URL may have `dur=<s>` instead.
    pub duration: f64,
    /// Seconds between the end of execution and the final phase, in which the phase is queued once more.
    pub finish_gap: f64,
    /// Seconds after its end at which a job vanishes.
    pub time_to_live: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { pending: 0.5, queued: 0.5, duration: 5.0, finish_gap: 0.0, time_to_live: 86_400.0 }
    }
}

/// Longest execution, in seconds; what is longer fails then.
const DEADLINE: f64 = 3600.0;

/// The file that a job writes from its start on.
const LOG: &str = "ocps.log";

/// Where the genuine service keeps the files of its jobs.
const MOUNT: &str = "/uws";

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub job_id: String,
    pub run_id: String,
    /// Seconds since 1970.
    pub created: f64,
    /// From when on the cluster lists it.
    pub listed: f64,
    pub command: String,
    /// The container's environment, with the service's own variables; an empty value is null.
    pub environment: Vec<(String, Option<String>)>,
    pub image: String,
    timing: Timing,
    fails: bool,
    files: usize,
    /// Size of each in bytes; two, if the job does not say `size=`.
    file_size: Option<usize>,
    /// Their name, instead of the usual ones, if the job says `name=`.
    file_name: Option<String>,
    /// A refused DELETE removes the files all the same.
    pub files_removed: bool,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A refusal: status and text.
pub type Refusal = (u16, String);

/// What a good run_id consists of.
fn is_run_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// The cluster's rule for label values.
pub fn is_label(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= 63 && is_run_id(text) && text.ends_with(|c: char| c.is_ascii_alphanumeric()))
}

/// The text of the cluster's refusal.
pub fn cluster_refusal(code: u16, reason: &str, message: &str) -> String {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason.replace(' ', ""), "code": code});
    format!(
        "({code})\nReason: {reason}\nHTTP response headers: HTTPHeaderDict({{'Content-Type': 'application/json'}})\n\
         HTTP response body: {body}\n\n"
    )
}

/// A missing argument: the service has two answers, one with 400 and one with 500.
fn twice(text: &str) -> Refusal {
    (500, text.repeat(2))
}

impl Job {
    /// Makes a job of the body of a PUT.
    pub fn create(body: &[u8], job_id: String, timing: Timing) -> Result<Self, Refusal> {
        let json: Value = serde_json::from_slice(body).map_err(|_| {
            twice("Expecting property name enclosed in double quotes: line 1 column 2 (char 1)")
        })?;
        let Value::Object(fields) = json else {
            return Err(twice("list indices must be integers or slices, not str"));
        };
        let command = fields.get("command").ok_or_else(|| twice("'command'"))?;
        let run_id = match fields.get("run_id") {
            None | Some(Value::Null) => job_id.clone(),
            Some(Value::String(text)) if text.is_empty() => job_id.clone(),
            Some(Value::String(text)) if is_run_id(text) => text.clone(),
            Some(_) => {
                let text = "Invalid run_id. Must be 63 characters or less and begin with alphanumeric character and contain \
                            only dashes (-), underscores (_), dots (.), and alphanumerics between.";
                return Err((400, text.to_owned()));
            }
        };
        let yaml = manifest(&fields, command, &job_id).map_err(|text| (500, text))?;
        let parsed: Manifest = serde_yaml::from_str(&yaml).map_err(|e| (500, e.to_string()))?;
        if !is_label(&run_id) {
            let message = format!(
                "Job.batch \"uws-job-{job_id}\" is invalid: spec.template.labels: Invalid value: \"{run_id}\""
            );
            return Err((500, cluster_refusal(422, "Unprocessable Entity", &message)));
        }
        let [serde_yaml::Value::String(command)] = parsed.command.as_slice() else {
            let message =
                "Job in version \"v1\" cannot be handled as a Job: json: cannot unmarshal the command";
            return Err((500, cluster_refusal(400, "Bad Request", message)));
        };
        let environment: Vec<_> =
            parsed.env.into_iter().map(|v| (v.name, Some(v.value).filter(|t| !t.is_empty()))).collect();
        let hint = hint(&environment);
        let duration = number_after(&hint, "dur=").unwrap_or(timing.duration);
        let created = now();
        Ok(Self {
            job_id,
            run_id,
            created,
            listed: created,
            command: command.clone(),
            environment,
            image: parsed.image,
            timing: Timing { duration: duration.min(DEADLINE), ..timing },
            fails: hint.contains("fail") || duration > DEADLINE,
            files: number_after(&hint, "files=").unwrap_or(0.0) as usize,
            file_size: number_after(&hint, "size=").map(|size| size as usize),
            file_name: hint
                .split_once("name=")
                .map(|(_, name)| name.split(' ').next().unwrap_or(name).to_owned()),
            files_removed: false,
        })
    }

    /// Lets it end now, if it has not.
    pub fn end(&mut self) {
        let now = now();
        if now < self.ended() {
            let duration = now - self.created;
            self.timing = Timing { pending: 0.0, queued: 0.0, duration, finish_gap: 0.0, ..self.timing };
        }
    }

    /// Whether the cluster has dropped it at that time.
    pub fn vanished(&self, now: f64) -> bool {
        now > self.ended() + self.timing.time_to_live
    }

    fn started(&self) -> f64 {
        self.created + self.timing.pending
    }

    fn active(&self) -> f64 {
        self.started() + self.timing.queued
    }

    fn left(&self) -> f64 {
        self.active() + self.timing.duration
    }

    fn ended(&self) -> f64 {
        self.left() + self.timing.finish_gap
    }

    /// The phase at that time.
    pub fn phase(&self, now: f64) -> &'static str {
        match now {
            t if t >= self.ended() => {
                if self.fails {
                    "error"
                } else {
                    "completed"
                }
            }
            t if t < self.started() => "pending",
            t if t >= self.active() && t < self.left() => "executing",
            _ => "queued",
        }
    }

    /// The job object at that time.
    pub fn object(&self, now: f64) -> Map<String, Value> {
        let start = (now >= self.started()).then(|| self.started());
        // As the cluster does it: there is a completion time only for success.
        let end = (now >= self.ended() && !self.fails).then(|| self.ended());
        let duration = start.zip(end).map(|(start, end)| end.floor() - start.floor());
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let object = json!({
            "jobId": self.job_id,
            "runId": self.run_id,
            "ownerId": "",
            "phase": self.phase(now),
            "creationTime": utc(self.created),
            "startTime": start.map(utc),
            "endTime": end.map(utc),
            "executionDuration": duration,
            "destruction": null,
            "parameters": {"command": ["/bin/bash", "-c", self.command.trim()], "environment": environment},
            "results": self.results(now),
            "errorSummary": {"message": ""},
            "jobInfo": {},
        });
        match object {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn results(&self, now: f64) -> Vec<Value> {
        let uri = |name: &String| format!("{MOUNT}/jobs/{}/out/{name}", self.job_id);
        let names = self.files(now);
        names.iter().enumerate().map(|(id, name)| json!({"id": id, "uri": uri(name)})).collect()
    }

    /// The names of its files in the order of the disk: one that is new may stand before the others.
    pub fn files(&self, now: f64) -> Vec<String> {
        let mut names = Vec::new();
        if now >= self.left() {
            names.extend((0..self.files).rev().map(|i| format!("result-{i}.txt")));
        }
        if now >= self.active() {
            names.push(LOG.to_owned());
        }
        if self.files_removed {
            names.clear();
        }
        if let Some(name) = &self.file_name {
            names.iter_mut().filter(|name| *name != LOG).for_each(|file| file.clone_from(name));
        }
        names
    }

    /// What is in a file: the log says what happened so far.
    pub fn contents(&self, name: &str, now: f64) -> Vec<u8> {
        if name != LOG {
            return self
                .file_size
                .map_or_else(|| b"0\n".to_vec(), |size| (0..size).map(|n| (n % 251) as u8).collect());
        }
        let mut log = format!("job {} run {}\n", self.job_id, self.run_id);
        if now >= self.left() {
            log.push_str(if self.fails { "failed\n" } else { "done\n" });
        }
        log.into_bytes()
    }
}

fn hint(environment: &[(String, Option<String>)]) -> String {
    let value = |name| environment.iter().rfind(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
    ["DATA_QUERY", "RUN_OPTIONS", "PIPELINE_URL"].into_iter().filter_map(value).collect::<Vec<_>>().join(" ")
}

fn number_after(text: &str, key: &str) -> Option<f64> {
    let (_, rest) = text.split_once(key)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// What the cluster reads of the YAML text.
#[derive(Deserialize)]
struct Manifest {
    image: String,
    command: Vec<serde_yaml::Value>,
    env: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// The YAML text, with everything pasted in raw, as the genuine service does it.
fn manifest(fields: &Map<String, Value>, command: &Value, job_id: &str) -> Result<String, String> {
    let mut own = String::new();
    let mut tag = "w_default".to_owned();
    let text = |name| fields.get(name).map(python_text).unwrap_or_default();
    if !matches!(fields.get("url"), Some(value) if !value.is_string()) {
        own = variable("JOB_SOURCE_DIR", &format!("{MOUNT}/jobs/{job_id}/src"));
        own += &variable("SRC_GIT_URL", &text("url"));
        own += &variable("GIT_COMMIT_REF", &text("commit_ref"));
    }
    own += &variable("JOB_OUTPUT_DIR", &format!("{MOUNT}/jobs/{job_id}/out"));
    own += &variable("JOB_ID", job_id);
    let environment = match fields.get("environment") {
        None => &[][..],
        Some(Value::Array(entries)) => entries,
        Some(Value::Null) => return Err("'NoneType' object is not iterable".to_owned()),
        Some(_) => return Err("string indices must be integers, not 'str'".to_owned()),
    };
    for entry in environment {
        let name = entry.get("name").map(python_text).ok_or("'name'")?;
        let value = entry.get("value").map(python_text).unwrap_or_default();
        if name == "UWS_JOB_IMAGE_TAG" {
            tag.clone_from(&value);
        }
        own += &variable(&name, &value);
    }
    own += &variable("DAF_BUTLER_REPOSITORY_INDEX", "/project/data-repos.yaml");
    Ok(format!("image: registry.invalid/pipelines:{tag}\ncommand:\n- {}\nenv:\n{own}", python_text(command)))
}

fn variable(name: &str, value: &str) -> String {
    format!("          - name: \"{name}\"\n            value: \"{value}\"\n")
}

/// What Python's `str()` makes of it, near enough.
fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string().replace('"', "'"),
    }
}

/// `2026-11-22 18:36:01+00:00`.
fn utc(seconds: f64) -> String {
    let seconds = seconds as i64;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to civil date, counting from 1 March of year 0, so that leap days come last in a year.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}+00:00")
}
