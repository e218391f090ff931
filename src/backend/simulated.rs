//! The simulator: a job service in memory. `true.yaml` succeeds, `false.yaml` fails, `fault.yaml` breaks it.
//!
//! It is driven by the same core, through the same workers, as the real service, and needs nothing else.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Backend;
use super::rapid_analysis::values;
use crate::clock;
use crate::config::settings::Simulation;
use crate::csc::event::{JobObject, Phase};
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{
    Failure, JobStatus, Listed, ListedJob, RemoveAnswer, StatusAnswer, Submission, Wanted,
};
use crate::url::Url;

/// Maximum number of jobs that are remembered. Beyond it, those whose end was reported are forgotten.
const JOBS_MAX: usize = 100_000;

#[derive(Debug)]
struct Job {
    run_id: RunId,
    ends: Instant,
    /// The phase in which it ends; none if the back-end breaks down then.
    last_phase: Option<Phase>,
    /// Whether its end was reported: from then on there is nothing to abort.
    is_reported: bool,
}

/// Simulated jobs, with ids `<pipeline>-<TAI seconds>`, and the random numbers for their durations.
#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    jobs: HashMap<JobId, Job>,
    /// TAI seconds in the last id.
    last: f64,
}

/// A back-end without a service.
#[derive(Debug)]
pub struct Simulated {
    settings: Simulation,
    state: Mutex<State>,
}

impl Simulated {
    /// A simulator without jobs. Durations follow `settings`.
    #[must_use]
    pub fn new(settings: Simulation) -> Self {
        let rng = settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { settings, state: Mutex::new(State { rng, jobs: HashMap::new(), last: 0.0 }) }
    }

    /// The state is whole after any panic: every change to it is a single insert or remove.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Simulated {
    fn submit(&self, _url: &Url, submission: &Submission) -> Result<JobStatus, Failure> {
        let pipeline = submission.pipeline.as_str();
        let last_phase = match pipeline {
            "true.yaml" => Some(Phase::Completed),
            "false.yaml" => Some(Phase::Error),
            "fault.yaml" => None,
            _ => return Err(Failure::rejected(format!("Unknown (simulated) pipeline: {pipeline}"))),
        };
        let mut state = self.state();
        if state.jobs.len() >= JOBS_MAX {
            state.jobs.retain(|_, job| !job.is_reported);
        }
        // Each id is later than the one before, by more than the rounding to six digits.
        state.last = clock::now().0.max(state.last + 2e-6);
        let job_id = JobId::parse(&format!("{pipeline}-{:.6}", state.last)).map_err(Failure::rejected)?;
        let ends = Instant::now() + duration(&self.settings, &mut state.rng);
        let run_id = submission.run_id.clone();
        state.jobs.insert(job_id.clone(), Job { run_id, ends, last_phase, is_reported: false });
        Ok(status(&job_id, Phase::Active, json!({})))
    }

    fn status(&self, _url: &Url, job_id: &JobId, _run_id: Option<&RunId>) -> Result<StatusAnswer, Failure> {
        let mut state = self.state();
        let Some(job) = state.jobs.get_mut(job_id) else { return Ok(StatusAnswer::Gone) };
        job.is_reported = Instant::now() >= job.ends;
        Ok(match job.last_phase {
            _ if !job.is_reported => StatusAnswer::Job(status(job_id, Phase::Active, json!({}))),
            Some(phase) => {
                StatusAnswer::Job(status(job_id, phase, json!({ "result": phase == Phase::Completed })))
            }
            None => {
                StatusAnswer::Broken { report: "cannot contact the execution service (simulated)".to_owned() }
            }
        })
    }

    /// A job can be aborted until its end was reported.
    fn remove(&self, _url: &Url, job_id: &JobId) -> Result<RemoveAnswer, Failure> {
        let running = self.state().jobs.remove(job_id).filter(|job| !job.is_reported);
        let more = json!({ "abort_time": clock::now().0 });
        Ok(running.map_or(RemoveAnswer::Gone, |_| RemoveAnswer::Removed {
            object: Some(status(job_id, Phase::Aborted, more).object),
        }))
    }

    fn list(&self, _url: &Url, wanted: &Wanted) -> Result<Listed, Failure> {
        let state = self.state();
        let now = Instant::now();
        let all = state.jobs.iter().map(|(id, job)| ListedJob {
            job_id: id.clone(),
            run_id: job.run_id.clone(),
            phase: if now < job.ends { Phase::Active } else { job.last_phase.unwrap_or(Phase::Unknown) },
            ended: None,
        });
        Ok(wanted.pick(all))
    }

    fn push(&self, config: &str, _patience: Duration) -> Result<(), Failure> {
        let values = values::parse(config).map_err(Failure::rejected)?;
        log::info!("would push to Redis: {}", values::shown(&values));
        Ok(())
    }

    fn ping(&self, _url: &Url) -> Result<(), Failure> {
        Ok(())
    }
}

/// |N(mean, sigma)|, by the Box-Muller transform.
fn duration(settings: &Simulation, rng: &mut fastrand::Rng) -> Duration {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    let normal = radius * (TAU * rng.f64()).cos();
    let seconds = settings.mean_duration.as_secs_f64() + normal * settings.sigma.as_secs_f64();
    Duration::from_secs_f64(seconds.abs())
}

fn status(job_id: &JobId, phase: Phase, more: Value) -> JobStatus {
    let mut object = json!({ "jobId": job_id.as_str() });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
        object.insert("phase".to_owned(), phase.as_str().into());
    }
    JobStatus { job_id: job_id.clone(), phase, object: JobObject(object.to_string().into()) }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "any other variant fails the test")]
mod tests {
    use super::*;
    use crate::csc::id::{SalIndex, SeqNum};

    fn simulator(mean: Duration) -> Simulated {
        Simulated::new(Simulation { mean_duration: mean, sigma: Duration::ZERO, seed: Some(1) })
    }

    fn submit(simulator: &Simulated, pipeline: &str) -> Result<JobStatus, Failure> {
        let submission = Submission {
            run_id: RunId::new(SeqNum(1), SalIndex::Latiss, &mut fastrand::Rng::new()),
            command: String::new(),
            source_url: String::new(),
            commit_ref: String::new(),
            environment: Vec::new(),
            pipeline: pipeline.to_owned(),
        };
        simulator.submit(&"".into(), &submission)
    }

    fn submitted(simulator: &Simulated, pipeline: &str) -> JobId {
        submit(simulator, pipeline).unwrap().job_id
    }

    #[test]
    fn pipelines_end_as_their_names_say() {
        let check = |pipeline: &str, expected: &str| {
            let simulator = simulator(Duration::ZERO);
            let job_id = submitted(&simulator, pipeline);
            assert!(job_id.as_str().starts_with(&format!("{pipeline}-1")), "{job_id}");
            let said = match simulator.status(&"".into(), &job_id, None).unwrap() {
                StatusAnswer::Job(status) => status.object.0.replace(job_id.as_str(), "ID"),
                StatusAnswer::Broken { report } => report,
                StatusAnswer::Gone => panic!("gone"),
            };
            assert_eq!(said, expected);
        };
        check("true.yaml", r#"{"jobId":"ID","result":true,"phase":"completed"}"#);
        check("false.yaml", r#"{"jobId":"ID","result":false,"phase":"error"}"#);
        check("fault.yaml", "cannot contact the execution service (simulated)");
    }

    #[test]
    fn other_pipelines_are_rejected() {
        let result = submit(&simulator(Duration::ZERO), "x.yaml");
        assert_eq!(result, Err(Failure::rejected("Unknown (simulated) pipeline: x.yaml".to_owned())));
    }

    #[test]
    fn a_running_job_can_be_aborted_once() {
        let simulator = simulator(Duration::from_secs(100));
        let job_id = submitted(&simulator, "true.yaml");
        let remove = || simulator.remove(&"".into(), &job_id);
        let Ok(RemoveAnswer::Removed { object: Some(object) }) = remove() else { panic!() };
        let object: Value = serde_json::from_str(&object.0).unwrap();
        assert_eq!(
            (object["phase"].as_str(), object["jobId"].as_str()),
            (Some("aborted"), Some(job_id.as_str()))
        );
        assert!(object["abort_time"].as_f64().unwrap() > 1.7e9);
        assert_eq!(remove(), Ok(RemoveAnswer::Gone));
        assert_eq!(simulator.status(&"".into(), &job_id, None), Ok(StatusAnswer::Gone));
    }

    #[test]
    fn ids_are_unique_and_durations_normal() {
        let simulator = simulator(Duration::from_secs(10));
        let ids: std::collections::HashSet<JobId> =
            (0..100).map(|_| submitted(&simulator, "true.yaml")).collect();
        assert_eq!(ids.len(), 100);
        let settings =
            Simulation { mean_duration: Duration::from_secs(10), sigma: Duration::from_secs(4), seed: None };
        let mut rng = fastrand::Rng::with_seed(7);
        let sample: Vec<f64> = (0..10_000).map(|_| duration(&settings, &mut rng).as_secs_f64()).collect();
        let mean = sample.iter().sum::<f64>() / 1e4;
        let sigma = (sample.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 1e4).sqrt();
        assert!((9.8..10.2).contains(&mean) && (3.8..4.2).contains(&sigma), "{mean} {sigma}");
    }
}
