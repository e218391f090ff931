//! The simulator: a job service in memory. `true.yaml` succeeds, `false.yaml` fails, `fault.yaml` breaks it.
//!
//! It is driven by the same core, through the same workers, as the real service, and needs nothing else.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Backend, rapid_analysis};
use crate::clock;
use crate::config::settings::Simulation;
use crate::csc::event::{ErrorCode, JobObject, Phase};
use crate::csc::id::{JobId, RunId};
use crate::csc::request::{Action, Answer, Contact, Failure, FailureKind, JobStatus, ListedJob, Submission};
use crate::url::Url;

/// Finished jobs that are remembered, so that a status asked for late still finds them.
const JOBS_MAX: usize = 100_000;

/// How a simulated pipeline ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    Faults,
}

#[derive(Debug)]
struct Job {
    run_id: RunId,
    fate: Fate,
    ends: Instant,
    /// Whether its end was told: from then on there is nothing to abort.
    told: bool,
}

/// Simulated jobs and the randomness of their durations.
#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    jobs: HashMap<JobId, Job>,
}

/// The simulator.
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
        Self { settings, state: Mutex::new(State { rng, jobs: HashMap::new() }) }
    }

    fn submit(&self, submission: &Submission, state: &mut State) -> Answer {
        let pipeline = submission.pipeline.as_str();
        let fate = match pipeline {
            "true.yaml" => Fate::Succeeds,
            "false.yaml" => Fate::Fails,
            "fault.yaml" => Fate::Faults,
            _ => return Answer::Rejected { reason: format!("Unknown (simulated) pipeline: {pipeline}") },
        };
        if state.jobs.len() >= JOBS_MAX {
            state.jobs.retain(|_, job| !job.told);
        }
        let Some(job_id) = unused_id(pipeline, &state.jobs) else {
            return wrong("no id is left for a simulated job");
        };
        let ends = Instant::now() + duration(&self.settings, &mut state.rng);
        state.jobs.insert(job_id.clone(), Job { run_id: submission.run_id.clone(), fate, ends, told: false });
        job_answer(job_id, Phase::Active, json!({}))
    }

    fn status(job_id: &JobId, state: &mut State) -> Answer {
        let Some(job) = state.jobs.get_mut(job_id) else { return Answer::Gone };
        if Instant::now() < job.ends {
            return job_answer(job_id.clone(), Phase::Active, json!({}));
        }
        job.told = true;
        match job.fate {
            Fate::Succeeds => job_answer(job_id.clone(), Phase::Completed, json!({ "result": true })),
            Fate::Fails => job_answer(job_id.clone(), Phase::Error, json!({ "result": false })),
            Fate::Faults => Answer::Broken {
                code: ErrorCode::Simulated,
                report: "cannot contact the execution service (simulated)".to_owned(),
            },
        }
    }

    /// A job can be aborted as long as nobody was told of its end.
    fn remove(job_id: &JobId, state: &mut State) -> Answer {
        match state.jobs.remove(job_id) {
            Some(job) if !job.told => {
                let more = json!({ "abort_time": clock::now().0 });
                Answer::Removed { object: Some(object(job_id, Phase::Aborted, more)) }
            }
            Some(_) | None => Answer::Gone,
        }
    }
}

impl Backend for Simulated {
    fn perform(&self, _url: &Url, action: &Action) -> Answer {
        // The state is whole after any panic: every change to it is a single insert or remove.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match action {
            Action::Submit(submission) => self.submit(submission, &mut state),
            Action::Status { job_id, .. } => Self::status(job_id, &mut state),
            Action::Remove { job_id } => Self::remove(job_id, &mut state),
            Action::Push { config, .. } => rapid_analysis::rehearse(config),
            Action::Ping => Answer::Done,
            // Its jobs are as old as the process: there are none that it does not know.
            Action::List { run_ids, job_ids, active_of: _ } => Answer::Listed(
                state
                    .jobs
                    .iter()
                    .filter(|(job_id, job)| run_ids.contains(&job.run_id) || job_ids.contains(*job_id))
                    .map(|(job_id, job)| ListedJob { job_id: job_id.clone(), run_id: job.run_id.clone() })
                    .collect(),
            ),
        }
    }
}

/// `<pipeline>-<TAI seconds>`, made unique by moving on by microseconds.
fn unused_id(pipeline: &str, jobs: &HashMap<JobId, Job>) -> Option<JobId> {
    let now = clock::now().0;
    (0..10_000)
        .filter_map(|n| JobId::parse(&format!("{pipeline}-{:.6}", now + f64::from(n) * 1e-6)).ok())
        .find(|id| !jobs.contains_key(id))
}

/// |N(mean, sigma)|, by the Box-Muller transform.
fn duration(settings: &Simulation, rng: &mut fastrand::Rng) -> Duration {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    let normal = radius * (TAU * rng.f64()).cos();
    let seconds = settings.mean_duration.as_secs_f64() + normal * settings.sigma.as_secs_f64();
    Duration::from_secs_f64(seconds.abs())
}

fn job_answer(job_id: JobId, phase: Phase, more: Value) -> Answer {
    let object = object(&job_id, phase, more);
    Answer::Job(JobStatus { job_id, phase, object })
}

fn object(job_id: &JobId, phase: Phase, more: Value) -> JobObject {
    let mut object = json!({ "jobId": job_id.as_str() });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
        object.insert("phase".to_owned(), phase.as_str().into());
    }
    JobObject(Arc::from(object.to_string()))
}

fn wrong(reason: &str) -> Answer {
    Answer::Failed(Failure {
        kind: FailureKind::Wrong,
        contact: Contact::Answered,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "any other variant fails the test")]
mod tests {
    use super::*;
    use crate::csc::id::{SalIndex, SeqNum};

    fn simulator(mean: Duration) -> Simulated {
        Simulated::new(Simulation { mean_duration: mean, sigma: Duration::ZERO, seed: Some(1) })
    }

    fn submission(pipeline: &str) -> Action {
        Action::Submit(Arc::new(Submission {
            run_id: RunId::new(SeqNum(1), SalIndex::Latiss, &mut fastrand::Rng::new()),
            command: String::new(),
            source_url: String::new(),
            commit_ref: String::new(),
            environment: Vec::new(),
            pipeline: pipeline.to_owned(),
        }))
    }

    fn submitted(simulator: &Simulated, pipeline: &str) -> JobId {
        let answer = simulator.perform(&"".into(), &submission(pipeline));
        let Answer::Job(status) = answer else { panic!("{answer:?}") };
        status.job_id
    }

    #[test]
    fn pipelines_end_as_their_names_say() {
        let check = |pipeline: &str, expected: &str| {
            let simulator = simulator(Duration::ZERO);
            let job_id = submitted(&simulator, pipeline);
            assert!(job_id.as_str().starts_with(&format!("{pipeline}-1")), "{job_id}");
            let answer =
                simulator.perform(&"".into(), &Action::Status { job_id: job_id.clone(), run_id: None });
            let said = if let Answer::Job(status) = answer {
                status.object.0.replace(job_id.as_str(), "ID")
            } else {
                let Answer::Broken { code, report } = answer else { panic!("{answer:?}") };
                format!("{} {report}", code.number())
            };
            assert_eq!(said, expected);
        };
        check("true.yaml", r#"{"jobId":"ID","result":true,"phase":"completed"}"#);
        check("false.yaml", r#"{"jobId":"ID","result":false,"phase":"error"}"#);
        check("fault.yaml", "2 cannot contact the execution service (simulated)");
    }

    #[test]
    fn other_pipelines_are_rejected() {
        let answer = simulator(Duration::ZERO).perform(&"".into(), &submission("x.yaml"));
        assert_eq!(answer, Answer::Rejected { reason: "Unknown (simulated) pipeline: x.yaml".to_owned() });
    }

    #[test]
    fn a_running_job_can_be_aborted_once() {
        let simulator = simulator(Duration::from_secs(100));
        let job_id = submitted(&simulator, "true.yaml");
        let Answer::Removed { object: Some(object) } =
            simulator.perform(&"".into(), &Action::Remove { job_id: job_id.clone() })
        else {
            panic!()
        };
        let object: Value = serde_json::from_str(&object.0).unwrap();
        assert_eq!(
            (object["phase"].as_str(), object["jobId"].as_str()),
            (Some("aborted"), Some(job_id.as_str()))
        );
        assert!(object["abort_time"].as_f64().unwrap() > 1.7e9);
        assert_eq!(simulator.perform(&"".into(), &Action::Remove { job_id: job_id.clone() }), Answer::Gone);
        assert_eq!(simulator.perform(&"".into(), &Action::Status { job_id, run_id: None }), Answer::Gone);
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
