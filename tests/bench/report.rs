//! What was measured: rows of figures, shown as tables and written as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A figure and the heading of its column, which ends with the unit.
pub type Figure = (&'static str, f64);
type Row = (String, Vec<Figure>);

/// Seconds: the median, the 99th percentile and the longest of a series.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub median: f64,
    pub p99: f64,
    pub longest: f64,
}

impl Times {
    /// All are NaN for an empty series.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| seconds.get(seconds.len() * percent / 100).copied().unwrap_or(f64::NAN);
        Self { median: at(50), p99: at(99), longest: seconds.last().copied().unwrap_or(f64::NAN) }
    }

    /// Milliseconds beside those of the bare limit.
    pub fn beside(self, bare: Self) -> Vec<Figure> {
        vec![
            ("median ms", self.median * 1e3),
            ("p99 ms", self.p99 * 1e3),
            ("bare median ms", bare.median * 1e3),
            ("bare p99 ms", bare.p99 * 1e3),
            ("ratio median", self.median / bare.median),
            ("ratio p99", self.p99 / bare.p99),
        ]
    }
}

#[derive(Default)]
pub struct Report {
    sections: Vec<(String, Vec<Row>)>,
    notes: Vec<String>,
}

impl Report {
    pub fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), Vec::new()));
        eprintln!("{title}");
    }

    /// A row of the latest section; it is also shown at once, for who waits.
    pub fn row(&mut self, name: impl Into<String>, figures: Vec<Figure>) {
        let name = name.into();
        let text: Vec<String> =
            figures.iter().map(|(heading, value)| format!("{heading} {}", rounded(*value))).collect();
        eprintln!("  {name}: {}", text.join(", "));
        if let Some((_, rows)) = self.sections.last_mut() {
            rows.push((name, figures));
        }
    }

    /// A line that explains what is not in the tables.
    pub fn note(&mut self, text: String) {
        eprintln!("  {text}");
        self.notes.push(text);
    }

    /// Prints the tables, and writes them to this file.
    pub fn finish(self, machine: &[(&str, String)], path: &Path) {
        let mut sections = Map::new();
        let mut text = String::new();
        for (name, value) in machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        for (title, rows) in self.sections.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            text.push_str(&table(&title, &rows));
            let rows = rows.into_iter().map(|(name, figures)| {
                let fields = figures.into_iter().map(|(heading, value)| (heading.to_owned(), json!(value)));
                (name, Value::Object(fields.collect()))
            });
            sections.insert(title, Value::Object(rows.collect()));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        let machine: Map<String, Value> =
            machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let document = json!({"machine": machine, "sections": sections, "notes": self.notes});
        fs::write(path, format!("{document:#}\n")).unwrap();
        println!("{text}\nas JSON: {}", path.display());
    }
}

fn table(title: &str, rows: &[Row]) -> String {
    let mut headings: Vec<&str> = Vec::new();
    for (heading, _) in rows.iter().flat_map(|(_, figures)| figures) {
        if !headings.contains(heading) {
            headings.push(heading);
        }
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = format!("\n## {title}\n\n| {:width$} |", "");
    headings.iter().for_each(|heading| text.push_str(&format!(" {heading} |")));
    text.push_str(&format!("\n|{:-<1$}|", "", width + 2));
    headings.iter().for_each(|heading| text.push_str(&format!("{:->1$}:|", "", heading.len() + 1)));
    for (name, figures) in rows {
        text.push_str(&format!("\n| {name:width$} |"));
        for heading in &headings {
            let figure = figures.iter().find(|(of, _)| of == heading);
            let shown = figure.map_or(String::new(), |(_, value)| rounded(*value));
            text.push_str(&format!(" {shown:>0$} |", heading.len()));
        }
    }
    text.push('\n');
    text
}

/// Three digits are more than a measurement repeats.
fn rounded(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
