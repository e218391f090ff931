//! Whether a merged configuration is one, and what it says for one index.
//!
//! Invariant: all problems are found, not only the first one, and each knows its place. Values of `url` may hold a
//! password and are shown only where they cannot.

use std::time::Duration;

use ureq::http::Uri;

use crate::csc::configuration::{POLL_INTERVAL_MAX, POLL_INTERVAL_MIN, Service};
use crate::csc::id::SalIndex;

use super::yaml::{Entry, Map, Mark, Node, Value};
use super::{quoted, suggestion};
use crate::url::Url;

/// Keys of the flat shape.
const FLAT: [&str; 5] = ["url", "poll_interval", "butler", "input_collection", "output_glob"];

/// Keys of an entry of `instances`.
const INSTANCE: [&str; 7] =
    ["sal_index", "instance", "url", "poll_interval", "butler", "input_collection", "output_glob"];

/// `poll_interval` where there is no service to poll.
const NO_POLLS: Duration = Duration::from_secs(1);

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    /// Where; none if something is missing from all the files together.
    pub(super) mark: Option<Mark>,
    /// What, in one line.
    pub(super) text: String,
}

/// The service for an index, or all that is wrong, entries of other indices included.
pub(super) fn service(root: &Map, index: SalIndex) -> Result<Service, Vec<Problem>> {
    let mut check = Check { problems: Vec::new() };
    let service = match root.get("instances") {
        Some(instances) => check.instances(root, instances, index),
        None if root.is_empty() => {
            check.report(None, "neither instances nor url is given; one of them must be".to_owned());
            None
        }
        None => {
            check.unknown_keys(root, &FLAT, "");
            let service = check.service(root, None, "", &["url", "poll_interval"]);
            check.placeholder(service.as_ref(), root, "");
            service
        }
    };
    match service {
        Some(service) if check.problems.is_empty() => Ok(service),
        Some(_) | None => Err(check.problems),
    }
}

/// The indices that a merged configuration has entries for; none in the flat shape, which is for any.
pub(super) fn indices(root: &Map) -> Option<Vec<SalIndex>> {
    let Value::List(entries) = &root.get("instances")?.node.value else { return Some(Vec::new()) };
    let numbers = entries.iter().filter_map(sal_index);
    let mut found: Vec<SalIndex> = numbers.filter_map(|i| SalIndex::parse(&i.to_string()).ok()).collect();
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// The `sal_index` of an entry, if it has a number.
fn sal_index(entry: &Node) -> Option<i64> {
    let Value::Map(map) = &entry.value else { return None };
    match map.get("sal_index")?.node.value {
        Value::Integer(i) => Some(i),
        Value::Null | Value::Bool(_) | Value::Float(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
            None
        }
    }
}

/// One validation.
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn report(&mut self, mark: Option<Mark>, text: String) {
        self.problems.push(Problem { mark, text });
    }

    fn unknown_keys(&mut self, map: &Map, known: &[&str], path: &str) {
        for (name, entry) in map {
            if !known.contains(&name.as_str()) {
                let text =
                    format!("unknown key {}{}", quoted(&format!("{path}{name}")), suggestion(name, known));
                self.report(Some(entry.key), text);
            }
        }
    }

    /// The shape with `instances`.
    fn instances(&mut self, root: &Map, instances: &Entry, index: SalIndex) -> Option<Service> {
        for (name, entry) in root.iter().filter(|(name, _)| *name != "instances") {
            let text = if FLAT.contains(&name.as_str()) {
                format!("{name} stands beside instances; move it into the entries")
            } else {
                format!("unknown key {}; beside instances there is none", quoted(name))
            };
            self.report(Some(entry.key), text);
        }
        let Value::List(entries) = &instances.node.value else {
            let text = format!("instances must be a list of entries, not {}", instances.node.value);
            self.report(Some(instances.node.mark), text);
            return None;
        };
        let mut ours: Option<Option<Service>> = None;
        for (i, entry) in entries.iter().enumerate() {
            let path = format!("instances[{i}]");
            let Value::Map(map) = &entry.value else {
                self.report(Some(entry.mark), format!("{path} must be a mapping, not {}", entry.value));
                continue;
            };
            let path = format!("{path}.");
            let first = ours.is_none();
            if let Some(service) = self.entry(map, entry.mark, &path, index, first) {
                ours = ours.or(Some(service));
            }
        }
        match ours {
            Some(service) => service,
            // Rapid Analysis is driven over Redis; there is no service to name.
            None if index == SalIndex::Ra => Some(no_service()),
            None => {
                let found: Vec<String> =
                    entries.iter().filter_map(sal_index).map(|i| i.to_string()).collect();
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                let text = format!("instances has no entry with sal_index {index}; it has {found}");
                self.report(Some(instances.key), text);
                None
            }
        }
    }

    /// An entry of `instances`; none if it is not for our index, of which only the first may be.
    fn entry(
        &mut self,
        map: &Map,
        mark: Mark,
        path: &str,
        index: SalIndex,
        first: bool,
    ) -> Option<Option<Service>> {
        let required = ["sal_index", "instance", "url", "poll_interval", "butler", "output_glob"];
        self.unknown_keys(map, &INSTANCE, path);
        let (number, number_mark) = self.sal_index(map, path).unzip();
        let instance = self.text(map, "instance", path);
        let service = self.service(map, Some(mark), path, &required);
        if number != Some(i64::from(index.number())) {
            return None;
        }
        self.placeholder(service.as_ref(), map, path);
        if !first {
            let text = format!("{path}sal_index is {} as in an entry before; keep one", index.number());
            self.report(number_mark, text);
        }
        if let Some((name, mark)) = instance.filter(|(name, _)| name != index.name()) {
            let (number, expected) = (index.number(), index.name());
            let text =
                format!("{path}instance must be {expected} for sal_index {number}, not {}", quoted(&name));
            self.report(Some(mark), text);
        }
        Some(service)
    }

    fn sal_index(&mut self, map: &Map, path: &str) -> Option<(i64, Mark)> {
        let node = &map.get("sal_index")?.node;
        match node.value {
            Value::Integer(i) if i > 0 => Some((i, node.mark)),
            Value::Integer(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => {
                let text = format!("{path}sal_index must be a whole number from 1 on, not {}", node.value);
                self.report(Some(node.mark), text);
                None
            }
        }
    }

    /// What both shapes say of a service; `mark` is the mapping's place, where it has a single one.
    fn service(&mut self, map: &Map, mark: Option<Mark>, path: &str, required: &[&str]) -> Option<Service> {
        for name in required {
            if !map.contains_key(*name) {
                self.report(mark, format!("{path}{name} is missing; it must be given"));
            }
        }
        let before = self.problems.len();
        let url = self.url(map, path);
        let poll_interval = self.poll_interval(map, path);
        let butler = self.optional(map, "butler", path, required);
        let input_collection = self.optional(map, "input_collection", path, required);
        let output_glob = self.optional(map, "output_glob", path, required);
        if self.problems.len() > before {
            return None;
        }
        Some(Service { url: url?, poll_interval: poll_interval?, butler, input_collection, output_glob })
    }

    fn url(&mut self, map: &Map, path: &str) -> Option<Url> {
        let (url, mark) = self.text(map, "url", path)?;
        match Url::parse(&url) {
            Ok(url) => Some(url),
            Err(reason) => {
                // A user and a password stand before an '@'.
                let not = if url.contains('@') { String::new() } else { format!(", not {}", quoted(&url)) };
                self.report(Some(mark), format!("{path}url {reason}{not}"));
                None
            }
        }
    }

    /// The address of the example is nobody's service.
    fn placeholder(&mut self, service: Option<&Service>, map: &Map, path: &str) {
        let uri = service.and_then(|service| service.url.address().parse::<Uri>().ok());
        if uri.as_ref().and_then(Uri::host).is_some_and(is_placeholder) {
            let mark = map.get("url").map(|entry| entry.node.mark);
            let text =
                format!("{path}url is that of the example; it must be the address of the execution service");
            self.report(mark, text);
        }
    }

    fn poll_interval(&mut self, map: &Map, path: &str) -> Option<Duration> {
        let node = &map.get("poll_interval")?.node;
        let (least, most) = (POLL_INTERVAL_MIN.as_secs_f64(), POLL_INTERVAL_MAX.as_secs_f64());
        let seconds = match node.value {
            #[allow(clippy::cast_precision_loss)] // Exact up to 2^53, far beyond the limit.
            Value::Integer(i) => Some(i as f64),
            Value::Float(x) => Some(x),
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
        };
        let allowed = match seconds {
            None => "must be a number of seconds".to_owned(),
            Some(x) if x.is_nan() => "must be a number of seconds".to_owned(),
            Some(x) if x <= 0.0 => "must be greater than 0 (seconds)".to_owned(),
            Some(x) if x < least => format!("must be at least {least} (seconds)"),
            Some(x) if x > most => format!("must be at most {most} (seconds)"),
            Some(x) => return Duration::try_from_secs_f64(x).ok(),
        };
        self.report(Some(node.mark), format!("{path}poll_interval {allowed}, not {}", node.value));
        None
    }

    /// A text that may be left out or empty, unless it is required.
    fn optional(&mut self, map: &Map, name: &str, path: &str, required: &[&str]) -> Option<String> {
        let (text, mark) = self.text(map, name, path)?;
        if text.is_empty() {
            if required.contains(&name) {
                self.report(Some(mark), format!("{path}{name} must not be empty"));
            }
            return None;
        }
        Some(text)
    }

    fn text(&mut self, map: &Map, name: &str, path: &str) -> Option<(String, Mark)> {
        let node = &map.get(name)?.node;
        match &node.value {
            Value::Text(text) if !text.contains('\0') => Some((text.clone(), node.mark)),
            Value::Text(_) => {
                self.report(Some(node.mark), format!("{path}{name} must not hold a NUL character"));
                None
            }
            value @ (Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_)) => {
                let quote = if matches!(value, Value::List(_) | Value::Map(_)) {
                    ""
                } else {
                    "; put quotes around it"
                };
                self.report(Some(node.mark), format!("{path}{name} must be text, not {value}{quote}"));
                None
            }
        }
    }
}

/// The service of one who has none.
pub(super) fn no_service() -> Service {
    Service {
        url: "".into(),
        poll_interval: NO_POLLS,
        butler: None,
        input_collection: None,
        output_glob: None,
    }
}

/// Whether a host is one of the names that are reserved for examples (RFC 2606), as in the configuration that is
/// installed with the program.
fn is_placeholder(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    ["example.org", "example.com", "example.net", "example"]
        .iter()
        .any(|name| host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Stack;

    fn check(text: &str, index: SalIndex) -> Result<Service, Vec<String>> {
        let mut stack = Stack::default();
        let root = stack.parse("x.yaml", "x.yaml".into(), text.into()).map_err(|e| vec![e.to_string()])?;
        service(&root, index)
            .map_err(|ps| ps.iter().map(|p| stack.error(p.mark, &p.text).to_string()).collect())
    }

    const ENTRY: &str = "instances:\n- sal_index: 1\n  instance: LATISS\n  url: http://uws/api/v1//\n  \
                         poll_interval: 0.5\n  butler: b\n  output_glob: g\n";

    #[test]
    fn both_shapes_give_a_service() {
        let flat = check("url: http://uws:8080/\npoll_interval: 5\n", SalIndex::LsstCam).unwrap();
        assert_eq!((flat.url.address(), flat.poll_interval), ("http://uws:8080", Duration::from_secs(5)));
        assert_eq!((flat.butler, flat.input_collection, flat.output_glob), (None, None, None));
        let full = "url: http://u\npoll_interval: 1e1\nbutler: b\ninput_collection: i\noutput_glob: '*'\n";
        let full = check(full, SalIndex::Latiss).unwrap();
        assert_eq!(full.poll_interval, Duration::from_secs(10));
        assert_eq!(
            (full.butler.as_deref(), full.input_collection.as_deref(), full.output_glob.as_deref()),
            (Some("b"), Some("i"), Some("*"))
        );
        let entry = check(ENTRY, SalIndex::Latiss).unwrap();
        assert_eq!(
            (entry.url.address(), entry.poll_interval),
            ("http://uws/api/v1", Duration::from_millis(500))
        );
        assert_eq!(check(ENTRY, SalIndex::Ra), Ok(no_service()));
        assert!(check(ENTRY, SalIndex::Ra).unwrap().url.is_empty());
    }

    #[test]
    fn problems_name_place_key_and_what_is_allowed() {
        let flat = |rest: &str| format!("url: http://u\npoll_interval: 1\n{rest}");
        for (text, expected) in [
            (
                "url: http://u\npoll_interval: -1\n".to_owned(),
                "x.yaml:2:16: poll_interval must be greater than 0 (seconds), not -1",
            ),
            (
                "url: http://u\npoll_interval: .nan\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, not NaN",
            ),
            (
                "url: http://u\npoll_interval: .inf\n".to_owned(),
                "x.yaml:2:16: poll_interval must be at most 86400 (seconds), not inf",
            ),
            (
                "url: http://u\npoll_interval: 1e300\n".to_owned(),
                "x.yaml:2:16: poll_interval must be at most 86400 (seconds), not 1e300",
            ),
            (
                "url: http://u\npoll_interval: 1e-9\n".to_owned(),
                "x.yaml:2:16: poll_interval must be at least 0.001 (seconds), not 1e-9",
            ),
            (
                "url: http://u\npoll_interval: 99999999999999999999999999999999999999999999\n".to_owned(),
                "x.yaml:2:16: poll_interval must be at most 86400",
            ),
            (
                "url: http://u\npoll_interval: '1'\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, not the text '1'",
            ),
            ("poll_interval: 1\n".to_owned(), "x.yaml: url is missing; it must be given"),
            ("url: http://u\n".to_owned(), "x.yaml: poll_interval is missing; it must be given"),
            (String::new(), "x.yaml: neither instances nor url is given; one of them must be"),
            (flat("butlr: x\n"), "x.yaml:3:1: unknown key 'butlr'; did you mean butler?"),
            (flat("1: x\n"), "x.yaml:3:1: unknown key '1'; known are url"),
            (flat("butler: 7\n"), "x.yaml:3:9: butler must be text, not 7; put quotes around it"),
            (flat("butler: [a]\n"), "x.yaml:3:9: butler must be text, not a list"),
            (flat("butler:\n"), "x.yaml:3:8: butler must be text, not empty"),
            (flat("butler: \"a\\0\"\n"), "x.yaml:3:9: butler must not hold a NUL"),
        ] {
            has_problem(&text, expected);
        }
    }

    #[test]
    fn problems_of_instances_name_the_entry() {
        let edit = |from: &str, to: &str| ENTRY.replace(from, to);
        for (text, expected) in [
            (
                "url: http://u\ninstances: []\n".to_owned(),
                "x.yaml:1:1: url stands beside instances; move it into the entries",
            ),
            (
                "instances: []\nx: 1\n".to_owned(),
                "x.yaml:2:1: unknown key 'x'; beside instances there is none",
            ),
            ("instances: {}\n".to_owned(), "x.yaml:1:12: instances must be a list of entries, not a mapping"),
            (
                "instances: []\n".to_owned(),
                "x.yaml:1:1: instances has no entry with sal_index 1 (LATISS); it has none",
            ),
            ("instances: [5]\n".to_owned(), "x.yaml:1:13: instances[0] must be a mapping, not 5"),
            (
                edit("sal_index: 1", "sal_index: 2"),
                "x.yaml:1:1: instances has no entry with sal_index 1 (LATISS); it has 2",
            ),
            (
                edit("sal_index: 1", "sal_index: 1.0"),
                "x.yaml:2:14: instances[0].sal_index must be a whole number from 1 on, not 1.0",
            ),
            (edit("sal_index: 1\n  ", ""), "x.yaml:2:3: instances[0].sal_index is missing"),
            (
                edit("instance: LATISS", "instance: LSSTCam"),
                "x.yaml:3:13: instances[0].instance must be LATISS for sal_index 1, not 'LSSTCam'",
            ),
            (edit("  butler: b\n", ""), "x.yaml:2:3: instances[0].butler is missing"),
            (edit("butler: b", "butler: ''"), "x.yaml:6:11: instances[0].butler must not be empty"),
            (
                edit("butler: b", "buttler: b"),
                "x.yaml:6:3: unknown key 'instances[0].buttler'; did you mean butler?",
            ),
            (
                edit("0.5", "0"),
                "x.yaml:5:18: instances[0].poll_interval must be greater than 0 (seconds), not 0",
            ),
            (
                format!("{ENTRY}{}", ENTRY.trim_start_matches("instances:\n")),
                "x.yaml:8:14: instances[1].sal_index is 1 as in an entry before; keep one",
            ),
        ] {
            has_problem(&text, expected);
        }
    }

    fn has_problem(text: &str, expected: &str) {
        let problems = check(text, SalIndex::Latiss).unwrap_err();
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{expected}\n{problems:#?}");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems = check("poll_interval: 0\nx: 1\nbutler: 2\n", SalIndex::Latiss).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
    }

    #[test]
    fn a_password_in_a_wrong_url_is_not_shown() {
        let problems = check("poll_interval: 1\nurl: ftp://me:secret@h\n", SalIndex::Latiss).unwrap_err();
        let [problem] = &*problems else { panic!("{problems:?}") };
        assert!(
            problem.starts_with("x.yaml:2:6: url must be http:// or https:// with a host; in its "),
            "{problem}"
        );
        assert!(!problem.contains("secret"), "{problem}");
    }
}
