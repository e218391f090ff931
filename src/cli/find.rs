//! Finds a job by the beginning of its job id or run id.

use serde_json::Value;

use super::table::shortest;
use super::{Failure, failed};
use crate::display::text::{clean, some, value};

/// Number of jobs that an error names.
const SHOWN: usize = 5;

/// The job with this job id or run id, or the only one with an id that begins so, in the daemon's list.
///
/// # Errors
/// There is no such job, or there are several.
pub(super) fn find<'a>(jobs: &'a Value, wanted: &str) -> Result<&'a Value, Failure> {
    let ids =
        |job: &Value| [value(job, "job_id"), value(job, "run_id")].into_iter().flatten().collect::<Vec<_>>();
    let all = || jobs.as_array().into_iter().flatten();
    if let Some(job) = all().find(|job| ids(job).iter().any(|id| id == wanted)) {
        return Ok(job);
    }
    let found: Vec<_> = all().filter(|job| ids(job).iter().any(|id| id.starts_with(wanted))).collect();
    match found.as_slice() {
        [job] => Ok(job),
        [] => {
            let known: Vec<String> = all().flat_map(ids).collect();
            let first = all().filter_map(|job| ids(job).into_iter().next()).collect::<Vec<_>>();
            let last = first.iter().rev().take(SHOWN).rev();
            let last: Vec<String> = last.map(|id| shortest(id, known.iter().map(String::as_str))).collect();
            let last = if last.is_empty() { "it has none".to_owned() } else { last.join(", ") };
            Err(failed(format!(
                "the daemon knows no job {}; its last ones: {last} (all: ocps jobs --all)",
                clean(wanted)
            )))
        }
        several => {
            let named =
                several.iter().filter_map(|job| ids(job).into_iter().find(|id| id.starts_with(wanted)));
            let named = some(&named.collect::<Vec<_>>(), SHOWN);
            Err(failed(format!("{} means several jobs: {named}; give a longer beginning", clean(wanted))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_found_by_the_beginning_of_its_id_or_run_id() {
        let jobs = json!([{"job_id": "ab1", "run_id": "1-x"}, {"job_id": "ab", "run_id": "2-x"}, {"run_id": "2-y"}, 7]);
        let job = |wanted| find(&jobs, wanted);
        assert_eq!(job("ab1"), Ok(&jobs[0]));
        assert_eq!(job("ab"), Ok(&jobs[1]));
        assert_eq!(job("1-"), Ok(&jobs[0]));
        assert_eq!(job("2-y"), Ok(&jobs[2]));
        let problem = |wanted| match job(wanted) {
            Err(Failure::Failed(problem)) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            problem("c\n"),
            "the daemon knows no job c\\n; its last ones: ab1, ab, 2-y (all: ocps jobs --all)"
        );
        assert_eq!(problem("a"), "a means several jobs: ab1, ab; give a longer beginning");
        assert_eq!(problem("2"), "2 means several jobs: 2-x, 2-y; give a longer beginning");
        let many = (0..9).map(|n| json!({"job_id": format!("j{n}")})).collect();
        let several = find(&many, "j");
        assert_eq!(
            several,
            Err(Failure::Failed(
                "j means several jobs: j0, j1, j2, j3, j4 and 4 more; give a longer beginning".into()
            ))
        );
    }
}
