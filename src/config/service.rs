//! Reads the execution service of one index from a merged configuration.
//!
//! Invariant: no error shows a `url`, which may contain a password.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};
use ureq::http::Uri;

use super::tree::{self, Mistake};
use super::value;
use crate::csc::configuration::Service;
use crate::csc::id::SalIndex;
use crate::text::quoted;
use crate::url::Url;

/// The poll interval where there is no service to poll.
const NO_POLLS: Duration = Duration::from_secs(1);

/// A configuration of one instance only: its keys are at the top level.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    #[serde(deserialize_with = "value::url")]
    url: Url,
    #[serde(deserialize_with = "value::poll_interval")]
    poll_interval: Duration,
    #[serde(default, deserialize_with = "value::text_or_empty")]
    butler: Option<String>,
    #[serde(default, deserialize_with = "value::text_or_empty")]
    input_collection: Option<String>,
    #[serde(default, deserialize_with = "value::text_or_empty")]
    output_glob: Option<String>,
}

/// A configuration of schema v4: a list of instances.
#[derive(Deserialize)]
struct Instances {
    instances: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
struct Entry {
    #[serde(deserialize_with = "value::any_index")]
    sal_index: u64,
    #[serde(deserialize_with = "value::text")]
    instance: String,
    #[serde(deserialize_with = "value::url")]
    url: Url,
    #[serde(deserialize_with = "value::poll_interval")]
    poll_interval: Duration,
    #[serde(deserialize_with = "value::text")]
    butler: String,
    #[serde(default, deserialize_with = "value::text_or_empty")]
    input_collection: Option<String>,
    #[serde(deserialize_with = "value::text")]
    output_glob: String,
}

/// The service of an index.
///
/// # Errors
/// Everything that is wrong, also in the entries of other indices.
pub(super) fn service(merged: &Mapping, index: SalIndex) -> Result<Service, Vec<Mistake>> {
    let beside: Vec<&str> =
        merged.keys().filter_map(Value::as_str).filter(|key| *key != "instances").collect();
    if beside.len() == merged.len() {
        let Flat { url, poll_interval, butler, input_collection, output_glob } = read(merged)?;
        check_address(&url, "url")?;
        return Ok(Service { url, poll_interval, butler, input_collection, output_glob });
    }
    if !beside.is_empty() {
        let what = "stands beside instances; move it into the entries";
        return Err(beside.into_iter().map(|key| Mistake::new(key, what)).collect());
    }
    let Instances { instances } = read(merged)?;
    let found: Vec<String> = instances.iter().map(|entry| entry.sal_index.to_string()).collect();
    let number = u64::from(index.number().unsigned_abs());
    let mut ours = (0..).zip(instances).filter(|(_, entry)| entry.sal_index == number);
    let wrong_entry = |i: usize, key, text: &str| wrong(&format!("instances[{i}].{key}"), text);
    let Some((i, entry)) = ours.next() else {
        // Rapid Analysis is driven over Redis; there is no service to name.
        if index == SalIndex::Ra {
            return Ok(no_service());
        }
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        return wrong("instances", &format!("has no entry with sal_index {index}; it has {found}"));
    };
    if let Some((i, _)) = ours.next() {
        return wrong_entry(i, "sal_index", &format!("is {number} as in an entry before; keep one"));
    }
    if entry.instance != index.name() {
        let (expected, is) = (index.name(), quoted(&entry.instance));
        return wrong_entry(i, "instance", &format!("must be {expected} for sal_index {number}, not {is}"));
    }
    check_address(&entry.url, &format!("instances[{i}].url"))?;
    Ok(Service {
        url: entry.url,
        poll_interval: entry.poll_interval,
        butler: Some(entry.butler),
        input_collection: entry.input_collection,
        output_glob: Some(entry.output_glob),
    })
}

fn wrong<T>(path: &str, text: &str) -> Result<T, Vec<Mistake>> {
    Err(vec![Mistake::new(path, text)])
}

fn read<T: DeserializeOwned>(merged: &Mapping) -> Result<T, Vec<Mistake>> {
    tree::read_whole(&Value::Mapping(merged.clone()))
}

/// The indices for which a merged configuration has entries; a single one where it has no entries or is for all indices.
pub(super) fn indices(merged: &Mapping) -> Vec<SalIndex> {
    let entries = merged.get("instances").and_then(Value::as_sequence).into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.get("sal_index")?.as_u64());
    let mut found: Vec<SalIndex> = numbers.filter_map(|i| SalIndex::parse(&i.to_string()).ok()).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { vec![SalIndex::Latiss] } else { found }
}

/// Stands for the service where there is none.
pub(super) fn no_service() -> Service {
    Service {
        url: "".into(),
        poll_interval: NO_POLLS,
        butler: None,
        input_collection: None,
        output_glob: None,
    }
}

/// Refuses the host names that are reserved for examples (RFC 2606), as in the configuration that is installed with
/// the program.
fn check_address(url: &Url, path: &str) -> Result<(), Vec<Mistake>> {
    let uri: Uri = url.address().parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let ends =
        |name| host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    if ["example.org", "example.com", "example.net", "example"].into_iter().any(ends) {
        return wrong(path, "is that of the example; it must be the address of the execution service");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;

    fn check(text: &str, index: SalIndex) -> Result<Service, Vec<String>> {
        let layers = Layers::of("x.yaml", text).map_err(|error| vec![error.to_string()])?;
        service(layers.merged(), index)
            .map_err(|mistakes| mistakes.iter().map(|mistake| layers.error(mistake).to_string()).collect())
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
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not -1",
            ),
            (
                "url: http://u\npoll_interval: .nan\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not .nan",
            ),
            (
                "url: http://u\npoll_interval: .inf\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not .inf",
            ),
            (
                "url: http://u\npoll_interval: 1e300\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not 1e300",
            ),
            (
                "url: http://u\npoll_interval: 1e-9\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not 1e-9",
            ),
            (
                "url: http://u\npoll_interval: 99999999999999999999999999999999999999999999\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not",
            ),
            (
                "url: http://u\npoll_interval: '1'\n".to_owned(),
                "x.yaml:2:16: poll_interval must be a number of seconds, at least 0.001 and at most 86400, not \"1\"",
            ),
            ("poll_interval: 1\n".to_owned(), "x.yaml: url is missing; it must be given"),
            ("url: http://u\n".to_owned(), "x.yaml: poll_interval is missing; it must be given"),
            (String::new(), "x.yaml: url is missing; it must be given"),
            (flat("butlr: x\n"), "x.yaml:3:1: unknown key \"butlr\"; did you mean butler?"),
            (flat("1: x\n"), "x.yaml:3:1: unknown key \"1\"; known are url"),
            (flat("butler: 7\n"), "x.yaml:3:9: butler must be text, not 7"),
            (flat("butler: [a]\n"), "x.yaml:3:9: butler must be text, not a list"),
            (flat("butler:\n"), "x.yaml:3:8: butler must be text, not empty"),
            (flat("butler: \"a\\0\"\n"), "x.yaml:3:9: butler must be text, not \"a\\0\""),
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
                "x.yaml:1:6: url stands beside instances; move it into the entries",
            ),
            (
                "instances: []\nx: 1\n".to_owned(),
                "x.yaml:2:4: x stands beside instances; move it into the entries",
            ),
            ("instances: {}\n".to_owned(), "x.yaml:1:12: instances must be a sequence, not map"),
            (
                "instances: []\n".to_owned(),
                "x.yaml:1:12: instances has no entry with sal_index 1 (LATISS); it has none",
            ),
            ("instances: [5]\n".to_owned(), "x.yaml:1:13: instances[0] must be a mapping, not integer `5`"),
            (
                edit("sal_index: 1", "sal_index: 2"),
                "x.yaml:2:1: instances has no entry with sal_index 1 (LATISS); it has 2",
            ),
            (
                edit("sal_index: 1", "sal_index: 1.0"),
                "x.yaml:2:14: instances[0].sal_index must be a whole number from 1 on, not 1.0",
            ),
            (edit("sal_index: 1\n  ", ""), "x.yaml:2:3: instances[0].sal_index is missing"),
            (
                edit("instance: LATISS", "instance: LSSTCam"),
                "x.yaml:3:13: instances[0].instance must be LATISS for sal_index 1, not \"LSSTCam\"",
            ),
            (edit("  butler: b\n", ""), "x.yaml:2:3: instances[0].butler is missing"),
            (
                edit("butler: b", "butler: ''"),
                "x.yaml:6:11: instances[0].butler must be text that is not empty",
            ),
            (
                edit("butler: b", "buttler: b"),
                "x.yaml:6:3: unknown key \"instances[0].buttler\"; did you mean butler?",
            ),
            (
                edit("0.5", "0"),
                "x.yaml:5:18: instances[0].poll_interval must be a number of seconds, at least 0.001 and at most 86400, not 0",
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
    fn all_problems_are_reported_at_once() {
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
