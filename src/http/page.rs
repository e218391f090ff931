//! The page for people: one HTML document without scripts, which loads itself again. `page.html` is its template, which
//! escapes all text.

use askama::Template;
use serde_json::Value as Json;

use crate::clock;
use crate::display::job::{elapsed, id, is_unfinished, note, state};
use crate::display::text::{duration, value};
use crate::display::{Tone, plain, spans, status};

/// Time between two loads, in seconds.
pub(super) const REFRESH_S: u64 = 5;
/// What the timeline shows, in seconds: the first, if all jobs began in it, else the second.
const TIMELINES_S: [f64; 2] = [3600.0, 6.0 * 3600.0];
/// Most rows of the timeline; of more jobs at once, the newest are left out.
const LANES_MAX: usize = 16;
/// Width of the timeline and height of a row, in units of the drawing.
const WIDTH: u16 = 1000;
const LANE: u16 = 14;
/// Most jobs in the table of those that have not ended, and in that of those that have.
const UNFINISHED_MAX: usize = 100;
const ENDED_MAX: usize = 20;
/// Longest text from outside, in characters.
const TEXT_MAX: usize = 200;
/// The lines of `ocps status` that are shown.
const HEALTH: [&str; 5] = ["service", "kafka", "journal", "jobs", "process"];

const STYLE: &str = include_str!("page.css");

#[derive(Template)]
#[template(path = "page.html", config = "src/http/askama.toml")]
struct Page<'a> {
    status: &'a Json,
    timeline: Timeline,
    unfinished: Vec<&'a Json>,
    ended: Vec<&'a Json>,
}

/// The page of a status document and a list of jobs, as of now.
pub(super) fn page(status: &Json, jobs: &[Json]) -> Result<String, askama::Error> {
    let (unfinished, ended) = jobs.iter().partition(|job| is_unfinished(job));
    Page { status, timeline: Timeline::of(jobs), unfinished, ended }.render()
}

impl Page<'_> {
    /// A value of the status document.
    fn at(&self, path: &str) -> String {
        text(value(self.status, path))
    }

    /// Lines of the status: name, whether nothing in it is bad, and text.
    fn health(&self) -> impl Iterator<Item = (&'static str, bool, String)> {
        let lines = status::lines(self.status).filter(|(name, _)| HEALTH.contains(name));
        lines.map(|(name, line)| {
            let is_well = spans(&line).all(|(tone, _)| tone != Some(Tone::Bad));
            (name, is_well, text(Some(plain(&line))))
        })
    }

    /// A job in a table: state, times, pipeline, id, and what there is to say.
    fn row(job: &Json) -> [String; 5] {
        let took = elapsed(job).and_then(duration);
        let ended = value(job, "ended_s").zip(took.as_ref());
        let ended = ended.map(|(ago, took)| format!("{ago} ago, took {took}"));
        [state(job), ended.or(took), value(job, "pipeline"), id(job), note(job)].map(text)
    }
}

/// A bar for each job of the last hours, from its command to its end, in as few rows as they fit into.
struct Timeline {
    span: String,
    half: String,
    height: u16,
    /// State and pipeline of the job; left, top and width.
    bars: Vec<(String, String, u16, u16, u16)>,
}

impl Timeline {
    fn of(jobs: &[Json]) -> Self {
        let number = |job: &Json, key| job.get(key).and_then(Json::as_f64).unwrap_or_default();
        let [short, long] = TIMELINES_S;
        let span = if jobs.iter().all(|job| number(job, "age_s") < short) { short } else { long };
        let x = |ago: f64| (f64::from(WIDTH) * (1.0 - ago.clamp(0.0, span) / span)) as u16;
        // Where the last bar of each row ends.
        let (mut lanes, mut height, mut bars) = ([0; LANES_MAX], LANE, Vec::new());
        for job in jobs.iter().filter(|job| number(job, "ended_s") <= span) {
            // As wide as can be seen.
            let from = x(number(job, "age_s"));
            let to = x(number(job, "ended_s")).max(from + 3);
            let Some((lane, end)) = (0..).zip(&mut lanes).find(|(_, end)| **end <= from) else { continue };
            (*end, height) = (to + 1, height.max((lane + 1) * LANE));
            bars.push((text(state(job)), text(value(job, "pipeline")), from, lane * LANE, to - from));
        }
        let time = |seconds| duration(seconds).unwrap_or_default();
        Self { span: time(span), half: time(span / 2.0), height, bars }
    }
}

/// As much of a text as is shown; nothing where there is none.
fn text(text: Option<String>) -> String {
    text.unwrap_or_default().chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_from_outside_stays_text() {
        let hostile = "</title><script>alert('1')</script>\"onload=\"x\n\u{1b}[31m&";
        let job = json!({"pipeline": hostile, "run_id": hostile, "job_id": hostile, "problem": hostile,
            "outcome": hostile, "age_s": 60.0, "ended_s": 5.0, "identity": hostile});
        let mut running = job.clone();
        running["ended_s"] = Json::Null;
        let status = json!({"state": hostile, "name": hostile, "version": hostile, "error_report": hostile,
            "not_ready": hostile, "service": {"silent_s": 5.0, "last_problem": hostile},
            "kafka": {"stage": hostile, "problem": hostile}, "journal": {"problem": hostile}, "uptime_s": -1e300});
        let waiting = json!({"stage": "waiting", "waits_for": ["<b>", "c"], "age_s": 1.0});
        let page = page(&status, &[job, running, waiting]).unwrap();
        assert!(page.contains("waits for &#60;b&#62;, c"), "{page}");
        for forbidden in ["<script", "\"onload", "alert('", "\u{1b}", "\n\u{1b}"] {
            assert!(!page.contains(forbidden), "{forbidden} is in {page}");
        }
        assert!(page.contains("&#60;script&#62;alert(&#39;1&#39;)"), "{page}");
    }

    #[test]
    fn the_page_shows_state_health_and_jobs() {
        let status = json!({"state": "ENABLED", "index": 2, "name": "LSSTComCam", "pid": 77, "uptime_s": 61,
            "service": {"reachable": false, "silent_s": 5.0}, "configuration": {"service_url": "http://uws"}});
        let jobs = [
            json!({"job_id": "j1", "stage": "finished", "outcome": "failed", "exit_code": 1, "age_s": 90.0, "ended_s": 30.0}),
            json!({"run_id": "1-x", "stage": "running", "phase": "executing", "age_s": 1800.0, "pipeline": "a.yaml"}),
        ];
        let page = page(&status, &jobs).unwrap();
        for part in [
            "<title>ENABLED: OCPS 2 LSSTComCam</title>",
            "<li class=bad><i>service</i> <b>trouble</b> <span>http://uws not reachable, silent for 5.0s",
            "<li class=good><i>process</i> <b>ok</b> <span>77, up 1m01s</span>",
            "<h2>The last 1h00m</h2>",
            "<rect class=\"executing\" x=500 y=14 width=500 height=11><title>a.yaml: executing</title></rect>",
            "<td class=\"failed\">failed<td>30.0s ago, took 1m00s<td> <small>j1</small><td>exit 1",
            "<td class=\"executing\">executing<td>30m00s<td>a.yaml <small>1-x</small><td>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }

    #[test]
    fn many_jobs_make_a_page_of_bounded_size() {
        let jobs: Vec<Json> = (0..10_000)
            .map(|n| json!({"pipeline": "x".repeat(5000), "stage": "running", "age_s": f64::from(n), "ended_s": null}))
            .collect();
        let page = page(&json!({}), &jobs).unwrap();
        assert!(page.len() < 200_000, "{}", page.len());
        assert!(page.contains("and 9900 more"));
    }
}
