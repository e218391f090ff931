//! The files of a component configuration, and how they become one.
//!
//! Invariant: whatever is merged still knows which file, and where in it, it came from.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::git::Commit;
use super::yaml::{self, Entry, Map, Mark, Node, Value};
use super::{Error, Place, file};

/// The first layer; it must exist.
pub(super) const INIT: &str = "_init.yaml";

/// Most bytes that are read again to find the places of errors, save that one is always looked for: as many as one
/// of the largest files has. Beyond that errors name only their file.
const LOCATE_MAX: usize = 1 << 20;

/// Where layers are read from.
pub(super) struct Source<'a> {
    dir: &'a Path,
    commit: Option<Commit>,
}

impl<'a> Source<'a> {
    /// The directory as it is, or as it is in a commit.
    pub(super) fn open(dir: &'a Path, commit: Option<&str>) -> Result<Self, Error> {
        let commit = commit.map(|name| Commit::find(dir, name)).transpose()?;
        Ok(Self { dir, commit })
    }

    /// The directory as it is.
    pub(super) fn work_tree(dir: &'a Path) -> Self {
        Self { dir, commit: None }
    }

    /// Reads and parses a layer; none if it does not exist. Its number in `stack` becomes part of it.
    pub(super) fn read(&self, name: &str, stack: &mut Stack) -> Result<Option<Map>, Error> {
        let (label, text) = match &self.commit {
            None => {
                let path = self.dir.join(name);
                (path.display().to_string(), file::read(&path)?)
            }
            Some(commit) => {
                let label = commit.label(name);
                let bytes = commit.read(name)?;
                let text = bytes.map(|b| file::text(b, Path::new(&label))).transpose()?;
                (label, text)
            }
        };
        text.map(|text| stack.parse(name, label, text)).transpose()
    }

    /// The reason where a layer that is needed does not exist.
    pub(super) fn missing(&self, name: &str) -> Error {
        let path: PathBuf = self.dir.join(name);
        let at =
            self.commit.as_ref().map(|c| format!(" at git reference '{}'", c.name())).unwrap_or_default();
        Error::new(format!("Config file '{}' does not exist{at}", path.display()))
    }
}

/// The texts of the layers that were read, to find places in.
#[derive(Default)]
pub(super) struct Stack {
    texts: Vec<Text>,
    /// Bytes that were read again to find places.
    searched: Cell<usize>,
}

struct Text {
    name: String,
    label: String,
    text: String,
}

impl Stack {
    /// Parses the text of a layer and takes it in, if it is sound.
    pub(super) fn parse(&mut self, name: &str, label: String, text: String) -> Result<Map, Error> {
        let at = |position| Place { file: label.clone(), position };
        let root = yaml::parse(&text, self.texts.len()).map_err(|f| Error::at(at(f.position), f.text))?;
        let map = match root.value {
            Value::Null => Map::new(),
            Value::Map(mut map) => {
                map.remove("metadata");
                map
            }
            value @ (Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)) => {
                let place = at(yaml::locate(&text, root.mark));
                return Err(Error::at(
                    place,
                    format!("a configuration file must be a mapping of keys to values, not {value}"),
                ));
            }
        };
        self.texts.push(Text { name: name.to_owned(), label, text });
        Ok(map)
    }

    /// How many layers there are; the next one gets this number.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The names of the files, comma-joined.
    pub(super) fn names(&self) -> String {
        self.texts.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// An error at a place, or, without one, about all the files together.
    pub(super) fn error(&self, mark: Option<Mark>, text: &str) -> Error {
        let all: Vec<usize> = (0..self.texts.len()).collect();
        self.error_among(&all, mark, text)
    }

    /// An error at a place, or, without one, about some of the files together.
    pub(super) fn error_among(&self, layers: &[usize], mark: Option<Mark>, text: &str) -> Error {
        let Some(mark) = mark else {
            let files: Vec<&str> =
                layers.iter().filter_map(|i| self.texts.get(*i)).map(|t| t.label.as_str()).collect();
            return Error::at(Place { file: files.join(", "), position: None }, text);
        };
        match self.texts.get(mark.layer) {
            Some(layer) => {
                let searched = self.searched.get();
                self.searched.set(searched.saturating_add(layer.text.len()));
                let position = if searched < LOCATE_MAX { yaml::locate(&layer.text, mark) } else { None };
                Error::at(Place { file: layer.label.clone(), position }, text)
            }
            None => Error::new(text),
        }
    }

    /// Merges a layer over those below: mappings by key, all else is replaced.
    pub(super) fn merge(&self, base: Map, over: Map) -> Result<Map, Error> {
        merge(base, over, "").map_err(|clash| {
            let below = self.error(Some(clash.base), "").to_string();
            let below = below.trim_end_matches(": ");
            let text =
                format!("{} is {} here but {} in {below}; make them alike", clash.key, clash.is, clash.was);
            self.error(Some(clash.over), &text)
        })
    }
}

/// A mapping against something else.
struct Clash {
    key: String,
    is: &'static str,
    was: &'static str,
    base: Mark,
    over: Mark,
}

/// Recursion ends: the depth of trees is bounded.
fn merge(mut base: Map, over: Map, path: &str) -> Result<Map, Clash> {
    for (name, Entry { key, node }) in over {
        let Some(below) = base.remove(&name) else {
            base.insert(name, Entry { key, node });
            continue;
        };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let (is, was) = (kind(&node.value), kind(&below.node.value));
        if is != was {
            return Err(Clash { key: path, is, was, base: below.key, over: key });
        }
        let value = match (below.node.value, node.value) {
            (Value::Map(below), Value::Map(over)) => Value::Map(merge(below, over, &path)?),
            (_, value) => value,
        };
        let node = Node { mark: node.mark, value };
        base.insert(name, Entry { key, node });
    }
    Ok(base)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Map(_) => "a mapping",
        Value::Null
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::List(_) => "no mapping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, over: &str) -> Result<Map, String> {
        let mut stack = Stack::default();
        let base =
            stack.parse("_init.yaml", "/c/_init.yaml".into(), base.into()).map_err(|e| e.to_string())?;
        let over = stack.parse("x.yaml", "/c/x.yaml".into(), over.into()).map_err(|e| e.to_string())?;
        stack.merge(base, over).map_err(|e| e.to_string())
    }

    #[test]
    fn mappings_merge_and_all_else_is_replaced() {
        for (base, over, expected) in [
            ("a: 1\nb: 2\n", "b: 3\n", "a: 1\nb: 3\n"),
            ("a: {x: 1, y: {z: 2}}\n", "a: {y: {w: 3}}\n", "a: {x: 1, y: {z: 2, w: 3}}\n"),
            ("a: [1, 2]\n", "a: [3]\n", "a: [3]\n"),
            ("a: 1\n", "", "a: 1\n"),
            ("", "a: 1\n", "a: 1\n"),
            ("metadata: {x: 1}\na: 1\n", "metadata: 7\n", "a: 1\n"),
        ] {
            let got = merged(base, over).unwrap();
            let want = merged(expected, "").unwrap();
            assert_eq!(plain(&got), plain(&want), "{base:?} {over:?}");
        }
    }

    /// The values alone.
    fn plain(map: &Map) -> String {
        let items: Vec<String> = map
            .iter()
            .map(|(k, e)| match &e.node.value {
                Value::Map(inner) => format!("{k}={{{}}}", plain(inner)),
                Value::List(items) => {
                    format!("{k}={:?}", items.iter().map(|i| i.value.to_string()).collect::<Vec<_>>())
                }
                value @ (Value::Null
                | Value::Bool(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Text(_)) => format!("{k}={value}"),
            })
            .collect();
        items.join(",")
    }

    #[test]
    fn what_cannot_be_merged_names_both_places() {
        for (base, over, expected) in [
            (
                "x: 0\na: {b: 1}\n",
                "\na: 2\n",
                "/c/x.yaml:2:1: a is no mapping here but a mapping in /c/_init.yaml:2:1; make them alike",
            ),
            (
                "a: {b: 1}\n",
                "a:\n  b: {c: 2}\n",
                "/c/x.yaml:2:3: a.b is a mapping here but no mapping in /c/_init.yaml:1:5; make them alike",
            ),
            ("a: {b: 1}\n", "a:\n", "/c/x.yaml:1:1: a is no mapping here"),
            ("a: 1\n", "# list\n- 1\n", "/c/x.yaml:2:1: a configuration file must be a mapping"),
            (
                "hello\n",
                "",
                "/c/_init.yaml:1:1: a configuration file must be a mapping of keys to values, not the text 'hello'",
            ),
            ("a: b: c\n", "", "/c/_init.yaml:1:5: not valid YAML"),
        ] {
            let error = merged(base, over).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
