//! Draws the live screen from the daemon's documents, in any size. It does no input or output.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table, TableState};
use serde_json::Value;
use textwrap::{Options, wrap};

use super::super::follow::run_id;
use super::super::jobs::whole::{self, COLUMN};
use super::super::output::ascii;
use super::super::times::Zone;
use crate::display::job::{id, is_unfinished, note, state};
use crate::display::text::{UNKNOWN, clean, fill, value};
use crate::display::{Tone, spans, status};

/// The lines of `ocps status` that are shown.
const STATUS_LINES: [&str; 6] = ["state", "error", "service", "kafka", "journal", "jobs"];
/// The time that the timeline covers, in seconds.
const TIMELINE_S: f64 = 6.0 * 3600.0;
/// The headings of the tables of jobs.
const UNFINISHED: [&str; 5] = ["JOB ID", "STATE", "AGE", "PIPELINE", "SENDER"];
const ENDED: [&str; 5] = ["JOB ID", "STATE", "AGO", "PIPELINE", "WHY"];
/// The widths of their columns; the last one takes the rest.
const WIDTHS: [u16; 4] = [14, 10, 7, 20];
/// Minimum number of lines for ended jobs.
const ENDED_MIN: u16 = 4;
/// Bars of ASCII characters.
const ASCII_BARS: bar::Set<'_> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "#",
    five_eighths: "=",
    half: "=",
    three_eighths: "-",
    one_quarter: "-",
    one_eighth: "_",
    empty: " ",
};
const KEYS: &str = "Up/Down select  Enter open  a abort  / filter  q quit";
const JOB_KEYS: &str = "Up/Down/PageUp/PageDown scroll  a abort  other keys go back";

/// The text of a cell for a job.
type Content<'a> = &'a dyn Fn(&Value) -> Option<String>;

/// What the keys mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The lists; keys select a job.
    #[default]
    Lists,
    /// A filter is typed.
    Filter,
    /// One job is open; keys scroll its text.
    Job,
    /// The question whether to abort the job with this id.
    Abort(String),
}

#[derive(Default)]
pub(super) struct View {
    pub(super) status: Value,
    jobs: Vec<Value>,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// The number of the selected job, counted through both lists.
    selected: usize,
    /// The job that is open.
    pub(super) opened: Option<Value>,
    /// Number of lines of the open job above the screen.
    scrolled: usize,
    /// Number of lines of the open job below the screen.
    below: usize,
    /// The answer to the last key or abort.
    pub(super) message: String,
    /// Why the documents are not up to date.
    pub(super) trouble: Option<String>,
    pub(super) has_colours: bool,
    pub(super) is_utf8: bool,
    zone: Zone,
}

impl View {
    pub(super) fn new(has_colours: bool, is_utf8: bool, zone: Zone) -> Self {
        Self { has_colours, is_utf8, zone, ..Self::default() }
    }

    /// Takes a new list of jobs; the same job stays selected.
    pub(super) fn take_jobs(&mut self, jobs: Value) {
        let run_id = self.job().and_then(|job| value(job, "run_id"));
        self.jobs = if let Value::Array(jobs) = jobs { jobs } else { Vec::new() };
        // Unfinished jobs come first, the oldest at the top, then the ended ones, the last one at the top.
        self.jobs.sort_by_key(|job| {
            (!is_unfinished(job), job.get("ended_s").and_then(Value::as_f64).map(|age| age as i64))
        });
        let at = self.shown().position(|job| run_id.is_some() && value(job, "run_id") == run_id);
        self.selected = at.unwrap_or(self.selected);
        self.select(0);
    }

    /// Takes a job with its history, if it is the open one.
    pub(super) fn take_job(&mut self, job: Value) {
        if let Some(opened) = self.opened.as_mut().filter(|opened| run_id(opened) == run_id(&job)) {
            *opened = job;
        }
    }

    /// Opens the selected job.
    pub(super) fn open(&mut self) {
        (self.opened, self.scrolled) = (self.job().cloned(), 0);
        self.go_back();
    }

    /// Closes the open job.
    pub(super) fn close(&mut self) {
        self.opened = None;
        self.go_back();
    }

    /// Returns from a question to the open job or the lists.
    pub(super) fn go_back(&mut self) {
        self.mode = if self.opened.is_some() { Mode::Job } else { Mode::Lists };
    }

    /// Scrolls the open job; drawing it limits how far.
    pub(super) fn scroll(&mut self, by: isize) {
        self.scrolled = self.scrolled.saturating_add_signed(by);
    }

    /// Moves the selection.
    pub(super) fn select(&mut self, by: isize) {
        let last = self.shown().count().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// The jobs that match the filter.
    fn shown(&self) -> impl Iterator<Item = &Value> {
        let wanted = self.filter.to_lowercase();
        let members = ["job_id", "run_id", "pipeline", "identity", "data_query"];
        self.jobs.iter().filter(move |job| {
            let texts = members.iter().filter_map(|member| value(job, member)).chain(state(job));
            wanted.is_empty() || texts.into_iter().any(|text| text.to_lowercase().contains(&wanted))
        })
    }

    /// The selected job.
    fn job(&self) -> Option<&Value> {
        self.shown().nth(self.selected)
    }

    /// The id with which to abort the open or else the selected job; none if it has ended.
    pub(super) fn abortable(&self) -> Option<String> {
        let job = self.opened.as_ref().or_else(|| self.job()).filter(|job| is_unfinished(job))?;
        let id = job.get("job_id").and_then(Value::as_str).or_else(|| job.get("run_id")?.as_str());
        id.map(str::to_owned)
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let status = self.status_lines();
        let height = u16::try_from(status.len()).unwrap_or(u16::MAX);
        let areas =
            [Constraint::Length(1), Constraint::Length(height), Constraint::Fill(1), Constraint::Length(1)];
        let [title, head, body, foot] = Layout::vertical(areas).areas(frame.area());
        frame.render_widget(Line::styled(self.title(), Modifier::REVERSED), title);
        frame.render_widget(Paragraph::new(status), head);
        if let Some(job) = &self.opened {
            let lines = self.job_lines(job, body.width);
            let excess = lines.len().saturating_sub(body.height.into());
            self.scrolled = self.scrolled.min(excess);
            self.below = excess - self.scrolled;
            let lines = lines.into_iter().skip(self.scrolled).collect::<Vec<_>>();
            frame.render_widget(Paragraph::new(lines), body);
        } else {
            self.draw_lists(frame, body);
        }
        frame.render_widget(self.foot(), foot);
    }

    fn title(&self) -> String {
        let text = fill(&self.status, " ocps {index} ({name})  version {version}  up {uptime_s}");
        // Padded to the width of any screen.
        self.fit(&format!("{:<500}", text.unwrap_or_default()))
    }

    /// The lines of `ocps status` that are shown here.
    fn status_lines(&self) -> Vec<Line<'static>> {
        let lines = status::lines(&self.status).filter(|(name, _)| STATUS_LINES.contains(name));
        lines.map(|(name, text)| self.painted(&format!("{name:COLUMN$}{text}"))).collect()
    }

    fn draw_lists(&self, frame: &mut Frame<'_>, area: Rect) {
        let (unfinished, ended): (Vec<_>, Vec<_>) = self.shown().partition(|job| is_unfinished(job));
        // A low screen has no timeline.
        let timeline = if area.height < 14 { 0 } else { 6 };
        // Unfinished jobs get the lines that they need, a free one included, but leave some for the ended ones.
        let rest = area.height.saturating_sub(ENDED_MIN.saturating_add(timeline));
        let wanted = u16::try_from(unfinished.len().saturating_add(2)).unwrap_or(u16::MAX);
        let areas = [Constraint::Length(wanted.min(rest)), Constraint::Fill(1), Constraint::Length(timeline)];
        let [upper, middle, lower] = Layout::vertical(areas).areas(area);
        let age = |job: &Value| value(job, "age_s");
        let sender = |job: &Value| note(job).or_else(|| value(job, "identity"));
        self.draw_table(frame, upper, UNFINISHED, &unfinished, 0, [&age, &sender]);
        let ago = |job: &Value| value(job, "ended_s");
        self.draw_table(frame, middle, ENDED, &ended, unfinished.len(), [&ago, &note]);
        self.draw_timeline(frame, lower);
    }

    /// Draws a table of jobs; `first` is the number of the first of them, counted through both lists.
    fn draw_table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        headings: [&'static str; 5],
        jobs: &[&Value],
        first: usize,
        cells: [Content<'_>; 2],
    ) {
        let [third, last] = cells;
        let row = |job: &&Value| {
            let texts = [id(job), state(job), third(job), value(job, "pipeline"), last(job)];
            let texts = texts.map(|text| self.fit(&text.unwrap_or_else(|| UNKNOWN.to_owned())));
            Row::new(texts).style(self.style(tone(job)))
        };
        let widths = WIDTHS.map(Constraint::Length).into_iter();
        let table = Table::new(jobs.iter().map(row), widths.chain([Constraint::Fill(1)]))
            .header(Row::new(headings).style(Modifier::BOLD))
            .row_highlight_style(Modifier::REVERSED);
        let selected = self.selected.checked_sub(first).filter(|at| *at < jobs.len());
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    }

    /// Draws how many jobs ended when in the last hours.
    fn draw_timeline(&self, frame: &mut Frame<'_>, area: Rect) {
        let areas =
            [Constraint::Length(1), Constraint::Length(2), Constraint::Length(2), Constraint::Length(1)];
        let [heading, good, bad, axis] = Layout::vertical(areas).areas(area);
        let hours = TIMELINE_S / 3600.0;
        frame.render_widget(Line::styled(format!("ENDS OF THE LAST {hours} HOURS"), Modifier::BOLD), heading);
        for (area, name, is_good) in [(good, "completed", true), (bad, "other", false)] {
            let [label, bars] = Layout::horizontal([Constraint::Length(15), Constraint::Fill(1)]).areas(area);
            let counts = self.ends(bars.width, is_good);
            let total: u64 = counts.iter().sum();
            frame.render_widget(Paragraph::new(format!("{name}\n{total}")), label);
            let tone = if is_good { Tone::Good } else { Tone::Bad };
            let set = if self.is_utf8 { bar::NINE_LEVELS } else { ASCII_BARS };
            frame.render_widget(
                Sparkline::default().data(counts).bar_set(set).style(self.style(Some(tone))),
                bars,
            );
        }
        let width = usize::from(axis.width.saturating_sub(15));
        let text = format!("{:15}-{hours} h{:>rest$}", "", "now", rest = width.saturating_sub(4));
        frame.render_widget(Line::raw(text), axis);
    }

    /// The number of jobs that ended in each part of the timeline.
    fn ends(&self, parts: u16, is_good: bool) -> Vec<u64> {
        let mut counts = vec![0; parts.into()];
        let jobs = self.shown().filter(|job| (tone(job) == Some(Tone::Good)) == is_good);
        let ages = jobs.filter_map(|job| job.get("ended_s")?.as_f64()).filter(|age| *age < TIMELINE_S);
        for age in ages {
            let part = (1.0 - age / TIMELINE_S) * f64::from(parts);
            let last = counts.len().saturating_sub(1);
            counts.get_mut((part as usize).min(last)).into_iter().for_each(|count| *count += 1);
        }
        counts
    }

    /// A job as `ocps job` prints it, wrapped to a width.
    fn job_lines(&self, job: &Value, width: u16) -> Vec<Line<'static>> {
        let (text, indent) = (self.fit(&whole::text(job, &self.zone)), " ".repeat(COLUMN));
        let options = Options::new(width.into()).subsequent_indent(&indent);
        text.lines().flat_map(|line| wrap(line, &options)).map(|line| line.into_owned().into()).collect()
    }

    /// The last line: a question, the filter as it is typed, what is wrong, the answer to the last key or abort, or the keys.
    fn foot(&self) -> Line<'static> {
        let (text, tone) = match (&self.mode, &self.trouble) {
            (Mode::Abort(id), _) => (
                format!("abort job {}? y aborts it, any other key does not", clean(id)),
                Some(Tone::Middling),
            ),
            (Mode::Filter, _) => (format!("filter: {}_", clean(&self.filter)), None),
            (Mode::Lists | Mode::Job, Some(trouble)) => (trouble.clone(), Some(Tone::Bad)),
            (Mode::Lists | Mode::Job, None) if !self.message.is_empty() => (self.message.clone(), None),
            (Mode::Job, None) if self.below > 0 => (format!("{} more lines  {JOB_KEYS}", self.below), None),
            (Mode::Job, None) => (JOB_KEYS.to_owned(), None),
            (Mode::Lists, None) if !self.filter.is_empty() => {
                (format!("only jobs with {}  (Esc shows all)", clean(&self.filter)), None)
            }
            (Mode::Lists, None) => (KEYS.to_owned(), None),
        };
        Line::styled(self.fit(&text), self.style(tone))
    }

    /// Text that the terminal can show.
    fn fit(&self, text: &str) -> String {
        if self.is_utf8 { text.to_owned() } else { ascii(text) }
    }

    fn style(&self, tone: Option<Tone>) -> Style {
        match tone.filter(|_| self.has_colours) {
            Some(Tone::Good) => Color::Green.into(),
            Some(Tone::Bad) => Color::Red.into(),
            Some(Tone::Middling) => Color::Yellow.into(),
            Some(Tone::Quiet) => Modifier::DIM.into(),
            None => Style::default(),
        }
    }

    /// A line with escape sequences of colours as one with styles.
    fn painted(&self, line: &str) -> Line<'static> {
        spans(line).map(|(tone, text)| Span::styled(self.fit(text), self.style(tone))).collect()
    }
}

/// The colour of a job: whether it ended well or badly, or waits for something.
fn tone(job: &Value) -> Option<Tone> {
    let text = |key| job.get(key).and_then(Value::as_str);
    match (text("outcome"), text("stage")) {
        (Some("completed"), _) => Some(Tone::Good),
        (Some(_), _) => Some(Tone::Bad),
        (None, Some("waiting" | "submitting" | "aborting")) => Some(Tone::Middling),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    /// A daemon with jobs of all kinds, one of them hostile.
    fn view(has_colours: bool, is_utf8: bool) -> View {
        let mut view = View::new(has_colours, is_utf8, Zone::UTC);
        view.status = json!({
            "index": 2, "name": "LSSTComCam", "version": "1.2.3", "uptime_s": 90_000.0, "state": "ENABLED",
            "error_code": 0, "service": {"reachable": false, "silent_s": 61.0}, "state_dir": "/x",
            "configuration": {"service_url": "http://uws:8080/api/v1", "poll_interval_s": 5.0},
            "polling": {"way": "list", "interval_s": 5.0},
            "kafka": {"stage": "joined", "brokers": "kafka:9092"},
            "jobs": {"waiting": 1, "running": 2}, "phases": {"executing": 1, "queued": 1},
            "journal": {"path": "/var/lib/ocps/journal.db", "waiting": 0},
        });
        let job = |id: &str, more: Value| {
            let mut job = json!({
                "job_id": id, "run_id": format!("run-{id}"), "pipeline": "drp.yaml", "identity": "ScriptQueue:1",
                "stage": "running", "phase": "executing", "age_s": 300.0, "accepted": 1.0, "waits_for": [],
            });
            job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            job
        };
        let ended = |outcome: &str, age: f64, why: &str| json!({"stage": "finished", "outcome": outcome, "ended_s": age, "problem": why});
        view.take_jobs(json!([
            job("e5", ended("completed", 14_400.0, "")),
            job("e4", ended("failed", 3_700.0, "exit 1 \u{1b}[2J\n\u{9b}31m")),
            job("e3", ended("completed", 3_600.0, "")),
            job("e2", ended("completed", 3_590.0, "")),
            job("0de1c2a7b3f94e0d8c1b", json!({"phase": "queued"})),
            job("d2", json!({"pipeline": "\u{1f52d}/\u{1b}[31mé", "age_s": 4.04})),
            job("d3", json!({"job_id": null, "stage": "waiting", "waits_for": ["d2"]})),
            7,
        ]));
        view
    }

    /// The job `e3`, with what happened to it.
    fn whole_job() -> Value {
        let note = |minute: u32, text: &str| json!({"at": minute * 60, "at_utc": format!("2026-11-22T14:{minute:02}:23.504Z"), "text": text});
        let problem = "PUT http://uws:8080/api/v1/job failed: could not connect; retrying for up to 60 s";
        json!({
            "job_id": "e3", "run_id": "run-e3", "pipeline": "drp.yaml", "identity": "ScriptQueue:1", "seq_num": 7, "origin": 12,
            "data_query": "exposure in (2026112200001..2026112200009) and detector in (1..8)", "output_glob": "*",
            "stage": "finished", "outcome": "completed", "age_s": 4000.0, "ended_s": 3600.0, "accepted": 0.0,
            "accepted_utc": "2026-11-22T14:00:23.504Z", "ended_utc": "2026-11-22T14:07:03.504Z", "undelivered": [],
            "history": [
                note(0, "accepted from ScriptQueue:1"), note(0, "waits for d1, d2"), note(1, problem),
                note(2, "accepted by the service as job e3"), note(3, "phase executing \u{1b}[2J"),
                note(7, "completed, exit code 0"), note(7, "result and final ack delivered"),
            ],
        })
    }

    fn screen(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| format!("{}\n", line(y).trim_end())).collect()
    }

    /// The screens in `screens.txt`, each after a line `== NAME`.
    #[test]
    fn the_screen_equals_the_approved_one() {
        let mut narrow = view(false, false);
        narrow.filter = "DRP".to_owned();
        let mut job = view(false, true);
        job.select(5);
        job.open();
        job.take_job(whole_job());
        let mut end = view(false, true);
        end.select(5);
        end.open();
        end.take_job(whole_job());
        end.scroll(99);
        let mut abort = view(true, true);
        abort.mode = Mode::Abort("d2".to_owned());
        let screens = [
            ("80 x 24", screen(&mut view(true, true), 80, 24)),
            ("80 x 24, neither colours nor UTF-8", screen(&mut view(false, false), 80, 24)),
            ("132 x 30, about to abort", screen(&mut abort, 132, 30)),
            ("80 x 24, one job", screen(&mut job, 80, 24)),
            ("60 x 16, the end of one job", screen(&mut end, 60, 16)),
            ("45 x 16, filtered", screen(&mut narrow, 45, 16)),
        ];
        let drawn: String = screens.iter().map(|(name, text)| format!("== {name}\n{text}")).collect();
        assert!(drawn == include_str!("screens.txt"), "not as in screens.txt:\n{drawn}");
    }

    #[test]
    fn any_size_can_be_drawn() {
        let mut view = view(true, true);
        for mode in [Mode::Lists, Mode::Filter, Mode::Abort("x".repeat(300)), Mode::Job] {
            if mode == Mode::Job {
                view.open();
            }
            view.mode = mode;
            for width in [1, 2, 14, 15, 16, 40, 500] {
                for height in [1, 2, 5, 9, 12, 200] {
                    screen(&mut view, width, height);
                }
            }
        }
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        let colours = |has_colours| {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| view(has_colours, true).draw(frame)).unwrap();
            terminal.backend().buffer().content.iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert_eq!(colours(false), 0);
        assert!(colours(true) > 0);
    }

    #[test]
    fn the_same_job_stays_selected_and_only_an_unfinished_one_can_be_aborted() {
        let mut view = view(true, true);
        assert_eq!(view.abortable().as_deref(), Some("0de1c2a7b3f94e0d8c1b"));
        view.select(2);
        assert_eq!(view.abortable().as_deref(), Some("run-d3"));
        let jobs = view.jobs.iter().skip(2).cloned().collect();
        view.take_jobs(jobs);
        assert_eq!(view.abortable().as_deref(), Some("run-d3"));
        view.select(99);
        assert_eq!((value(view.job().unwrap(), "job_id").as_deref(), view.abortable()), (Some("e5"), None));
        view.filter = "no such".to_owned();
        view.select(0);
        assert_eq!((view.job(), view.abortable()), (None, None));
    }
}
