//! The page for people: one HTML document without scripts, which loads itself again. All text from outside is escaped.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::Value as Json;

use crate::clock;
use crate::text::one_line;

/// Time between two loads, in seconds.
pub(super) const REFRESH_S: u64 = 5;
/// What the timeline shows, in seconds: the first, if all jobs began in it, else the second.
const TIMELINES_S: [f64; 2] = [3600.0, 6.0 * 3600.0];
/// Into how many parts it is divided.
const PARTS: u32 = 6;
/// Most rows of the timeline; of more jobs at once, the newest are left out.
const LANES_MAX: usize = 16;
/// Width of the timeline and height of its rows, in units of its own.
const WIDTH: f64 = 1000.0;
const LANE: f64 = 14.0;
/// Most jobs in the table of those that have not ended, and in that of those that have.
const ROWS_MAX: [usize; 2] = [100, 20];
/// Longest text of a cell, in characters.
const CELL_MAX: usize = 200;

const STYLE: &str = include_str!("page.css");

/// Text from outside, so that it is nothing but text in HTML, also in an attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in one_line(self.0).chars().take(CELL_MAX) {
            match c {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                c => f.write_char(c),
            }?;
        }
        Ok(())
    }
}

/// The page of a status document and a list of jobs, as of now.
pub(super) fn page(status: &Json, jobs: &[Json]) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let (state, name) = (text(status, "state"), text(status, "name"));
    let index = number(status, "index").unwrap_or_default();
    let (name, state) = (Text(name), Text(state));
    write!(
        out,
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content={REFRESH_S}>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><title>{state}: OCPS {index} {name}</title>\
         <style>{STYLE}</style><header><h1>OCPS {index} <small>{name}</small></h1><b class=\"state {state}\">{state}</b>\
         </header><main>"
    )?;
    for key in ["not_ready", "error_report", "start_problem", "state_dir_problem"] {
        let problem = text(status, key);
        if !problem.is_empty() {
            write!(out, "<p class=bad>{}</p>", Text(problem))?;
        }
    }
    out.push_str(&health(status)?);
    out.push_str(&timeline(jobs)?);
    let (ended, unfinished): (Vec<&Json>, Vec<&Json>) =
        jobs.iter().partition(|job| number(job, "ended_s").is_some());
    out.push_str(&table("Jobs that have not ended", &unfinished, ROWS_MAX[0])?);
    out.push_str(&table("Last ends", &ended, ROWS_MAX[1])?);
    let (now, version) = (clock::rfc3339(clock::unix_now()), Text(text(status, "version")));
    write!(out, "</main><footer>ocps {version}, as of {now}</footer></html>")?;
    Ok(out)
}

/// What is healthy, and what is not.
fn health(status: &Json) -> Result<String, fmt::Error> {
    let at = |pointer: &str| status.pointer(pointer).unwrap_or(&Json::Null);
    let word = |pointer: &str| at(pointer).as_str().unwrap_or_default();
    let silent = at("/service/silent_s").as_f64();
    let url = [word("/redis/address"), word("/configuration/service_url"), "no service configured"];
    let url = url.into_iter().find(|url| !url.is_empty()).unwrap_or_default();
    let service = match silent {
        _ if number(status, "simulation_mode") == Some(1.0) => (true, "simulated".to_owned()),
        Some(silent) => (false, format!("silent for {}: {}", age(silent), word("/service/last_problem"))),
        None => (true, url.to_owned()),
    };
    let kafka = match (at("/kafka").is_null(), at("/kafka/up").as_bool()) {
        (true, _) => (true, "off".to_owned()),
        (false, up) => {
            let problem = word("/kafka/problem");
            let stage = word("/kafka/stage");
            let text = if problem.is_empty() { stage } else { problem };
            (up == Some(true), text.to_owned())
        }
    };
    let journal = match (at("/journal").is_null(), word("/journal/problem")) {
        (true, _) => (true, "off".to_owned()),
        (false, "") => (true, format!("{} commits", at("/journal/commits"))),
        (false, problem) => (false, problem.to_owned()),
    };
    let mut out = String::from("<ul class=health>");
    for (name, (is_well, text)) in [("service", service), ("Kafka", kafka), ("journal", journal)] {
        let (class, word) = if is_well { ("good", "ok") } else { ("bad", "trouble") };
        write!(out, "<li class={class}><i>{name}</i> <b>{word}</b> <span>{}</span>", Text(&text))?;
    }
    let uptime = age(number(status, "uptime_s").unwrap_or_default());
    write!(out, "<li class=good><i>process</i> <b>up {uptime}</b> <span>{}</span></ul>", at("/pid"))?;
    Ok(out)
}

/// A bar for each job of the last hours, from its command to its end, in as few rows as they fit into.
fn timeline(jobs: &[Json]) -> Result<String, fmt::Error> {
    let oldest = jobs.iter().filter_map(|job| number(job, "age_s")).fold(0.0, f64::max);
    let span = if oldest < TIMELINES_S[0] { TIMELINES_S[0] } else { TIMELINES_S[1] };
    let x = |ago: f64| WIDTH * (1.0 - ago.clamp(0.0, span) / span);
    // Where the last bar of each row ends.
    let (mut lanes, mut rows) = ([0.0; LANES_MAX], 1);
    let mut bars = String::new();
    for job in jobs {
        let (begun, ended) =
            (number(job, "age_s").unwrap_or_default(), number(job, "ended_s").unwrap_or(0.0));
        if ended > span {
            continue;
        }
        // As wide as can be seen.
        let (from, to) = (x(begun), x(ended).max(x(begun) + 3.0));
        let Some((lane, end)) = (0..).zip(&mut lanes).find(|(_, end)| **end <= from) else { continue };
        (*end, rows) = (to + 1.0, rows.max(lane + 1));
        let (how, pipeline) = (Text(how(job)), Text(text(job, "pipeline")));
        write!(
            bars,
            "<rect class=\"{how}\" x={from:.1} y={:.0} width={:.1} height={:.0}><title>{pipeline}: {how}</title></rect>",
            f64::from(lane) * LANE,
            to - from,
            LANE - 3.0,
        )?;
    }
    let height = f64::from(rows) * LANE;
    let mut out = format!(
        "<h2>The last {}</h2><svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=none role=img \
         style=\"height:{height}px\">",
        age(span)
    );
    for part in 0..=PARTS {
        let x = WIDTH * f64::from(part) / f64::from(PARTS);
        write!(out, "<line x1={x} x2={x} y1=0 y2={height} />")?;
    }
    let (begin, middle) = (age(span), age(span / 2.0));
    write!(
        out,
        "{bars}</svg><p class=hours><span>{begin} ago</span><span>{middle} ago</span><span>now</span></p>"
    )?;
    Ok(out)
}

/// The newest of these jobs.
fn table(title: &str, jobs: &[&Json], most: usize) -> Result<String, fmt::Error> {
    let mut out = format!("<h2>{title} <small>{}</small></h2>", jobs.len());
    if jobs.is_empty() {
        out.push_str("<p>none</p>");
        return Ok(out);
    }
    out.push_str("<table>");
    for job in jobs.iter().rev().take(most) {
        let waits = job.get("waits_for").and_then(Json::as_array).into_iter().flatten();
        let waits: Vec<&str> = waits.filter_map(Json::as_str).collect();
        let reason = match (text(job, "problem"), waits.as_slice()) {
            ("", [_, ..]) => format!("waits for {}", waits.join(", ")),
            (problem, _) => problem.to_owned(),
        };
        let (how, pipeline, reason) = (Text(how(job)), Text(text(job, "pipeline")), Text(&reason));
        let id = [text(job, "job_id"), text(job, "run_id")].into_iter().find(|id| !id.is_empty());
        let (begun, ended) = (number(job, "age_s").unwrap_or_default(), number(job, "ended_s"));
        let time = match ended {
            None => age(begun),
            Some(ended) => format!("{} ago, took {}", age(ended), age(begun - ended)),
        };
        write!(
            out,
            "<tr><td class=\"{how}\">{how}<td>{time}<td>{pipeline} <small>{}</small><td>{reason}",
            Text(id.unwrap_or_default())
        )?;
    }
    out.push_str("</table>");
    let more = jobs.len().saturating_sub(most);
    if more > 0 {
        write!(out, "<p>and {more} more: see ocps jobs --all</p>")?;
    }
    Ok(out)
}

/// How a job ended, or how far it is: one word.
fn how(job: &Json) -> &str {
    let words = ["outcome", "phase", "stage"].map(|key| text(job, key));
    words.into_iter().find(|word| !word.is_empty()).unwrap_or("unknown")
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn number(json: &Json, key: &str) -> Option<f64> {
    json.get(key).and_then(Json::as_f64)
}

/// A time for people, in at most two units.
fn age(seconds: f64) -> String {
    // A clock that was set makes none negative, and none lasts for ever.
    let whole = Duration::from_secs(seconds.clamp(0.0, 1e9) as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
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
        assert!(page.contains("waits for &lt;b&gt;, c"), "{page}");
        for forbidden in ["<script", "\"onload", "alert('", "\u{1b}", "\n\u{1b}"] {
            assert!(!page.contains(forbidden), "{forbidden} is in {page}");
        }
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)"), "{page}");
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
