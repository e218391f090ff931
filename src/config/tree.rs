//! Parses TOML and YAML files to trees of values, and reads trees as types.
//!
//! A tree holds no positions. To find the line of a mistake, the text is parsed once more.
//!
//! Invariant: a tree is small, whatever the text: its depth, values and bytes are bounded, aliases included.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::{Mapping, Value};
use toml::de::DeTable;

use crate::text::{nearest, quote, quoted};

/// Line and column, both counted from 1; columns count characters.
pub(super) type Position = (usize, usize);

/// Maximum number of mistakes that are reported for one tree.
pub(super) const MAX_MISTAKES: usize = 100;

/// Maximum content of a YAML file with its aliases replaced: the bytes of keys and texts, and one for each value.
const MAX_CONTENT: usize = 256 << 10;

/// Maximum number of `[`, `{`, `- `, `? ` and `: ` in a YAML file. They are counted first, since the library's scanner takes
/// time in the square of the depth before it refuses a deep file.
const MAX_OPENERS: usize = 5_000;

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) position: Option<Position>,
    pub(super) text: String,
}

/// A mistake in a tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mistake {
    /// The path to it: keys, and the numbers of list elements.
    steps: Vec<String>,
    /// Whether the key is wrong, not its value.
    is_key: bool,
    /// The mistake in one line, with the name of the key.
    pub(super) text: String,
}

impl Mistake {
    /// A mistake in the value at a path such as `instances[0].url`; its text is the path and `text`.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
        Self {
            steps: steps.map(str::to_owned).collect(),
            is_key: false,
            text: format!("{} {text}", quote(path)),
        }
    }

    /// The top-level key of its path.
    pub(super) fn top(&self) -> Option<&str> {
        self.steps.first().map(String::as_str)
    }

    fn of(error: &serde_path_to_error::Error<serde_yaml::Error>) -> Self {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        let step =
            |segment: &serde_path_to_error::Segment| segment.to_string().trim_matches(['[', ']']).to_owned();
        let mut steps: Vec<String> = error.path().iter().map(step).collect();
        let is_key = message.starts_with("unknown field ");
        let text = if is_key {
            // serde's text: unknown field `x`, expected one of `a`, `b`.
            let known = message.rsplit(", expected ").next().unwrap_or_default();
            let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
            let remedy = match nearest(steps.last().map_or("", String::as_str), known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known are {}", known.join(", ")),
            };
            format!("unknown key {}; {remedy}", quoted(&path))
        } else if let Some(field) = message.strip_prefix("missing field ") {
            let field = field.trim_matches('`');
            let text = if steps.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
            steps.push(field.to_owned());
            format!("{text} is missing; it must be given")
        } else {
            let whole = if steps.is_empty() { "the file" } else { &path };
            // serde's text: invalid type: integer `1`, expected a list.
            let kinds =
                message.strip_prefix("invalid type: ").and_then(|kinds| kinds.split_once(", expected "));
            match kinds {
                Some((is, wanted)) => format!("{whole} must be {wanted}, not {}", quote(is)),
                None => format!("{whole} {}", quote(message)),
            }
        };
        Self { steps, is_key, text }
    }
}

/// Reads a tree as a type: the value without the wrong keys, if they can be left out, and the mistakes.
pub(super) fn read<T: DeserializeOwned>(tree: &Value) -> (Option<T>, Vec<Mistake>) {
    let mut tree = tree.clone();
    let mut mistakes: Vec<Mistake> = Vec::new();
    while mistakes.len() < MAX_MISTAKES {
        // serde stops at the first mistake, so that key is removed and the tree read again.
        let mistake = match serde_path_to_error::deserialize(&tree) {
            Ok(value) => return (Some(value), mistakes),
            Err(error) => Mistake::of(&error),
        };
        let removed = remove(&mut tree, &mistake.steps);
        // A required key that was removed is reported as missing, but it was reported already.
        if mistakes.iter().all(|known| known.steps != mistake.steps) {
            mistakes.push(mistake);
        }
        if !removed {
            break;
        }
    }
    (None, mistakes)
}

/// Reads a tree as a type.
///
/// # Errors
/// All mistakes.
pub(super) fn read_whole<T: DeserializeOwned>(tree: &Value) -> Result<T, Vec<Mistake>> {
    match read(tree) {
        (Some(whole), mistakes) if mistakes.is_empty() => Ok(whole),
        (_, mistakes) => Err(mistakes),
    }
}

/// Reads a YAML text as a type.
///
/// # Errors
/// The first mistake.
pub(super) fn read_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    read_whole(&from_yaml(text)?).map_err(|mistakes| {
        let mistake = mistakes.into_iter().next();
        let position = mistake.as_ref().and_then(|mistake| locate_in_yaml(text, mistake));
        Fault { position, text: mistake.map(|mistake| mistake.text).unwrap_or_default() }
    })
}

/// Removes the key at the end of a path; false if it does not exist.
fn remove(tree: &mut Value, steps: &[String]) -> bool {
    let Some((last, parents)) = steps.split_last() else { return false };
    let parent = parents.iter().try_fold(tree, child);
    parent.and_then(Value::as_mapping_mut).and_then(|parent| parent.remove(last)).is_some()
}

fn child<'a>(node: &'a mut Value, step: &String) -> Option<&'a mut Value> {
    match step.parse::<usize>() {
        Ok(index) if node.is_sequence() => node.get_mut(index),
        Ok(_) | Err(_) => node.get_mut(step),
    }
}

/// A value as it is shown in an error; texts are quoted.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) | Value::Tagged(_) => "a table of keys".to_owned(),
    }
}

/// Parses TOML.
pub(super) fn from_toml(text: &str) -> Result<Value, Fault> {
    toml::from_str(text).map_err(|error| Fault {
        position: error.span().map(|span| position(text, span.start)),
        text: format!("not valid TOML: {}", error.message()),
    })
}

/// The place of a mistake in a TOML text.
pub(super) fn locate_in_toml(text: &str, mistake: &Mistake) -> Option<Position> {
    let table = DeTable::parse(text).ok()?;
    let (last, sections) = mistake.steps.split_last()?;
    let inner = |table, section: &String| DeTable::get(table, section.as_str())?.get_ref().as_table();
    let section = sections.iter().try_fold(table.get_ref(), inner)?;
    let (key, value) = section.get_key_value(last.as_str())?;
    let span = if mistake.is_key { key.span() } else { value.span() };
    Some(position(text, span.start))
}

/// Parses a YAML text with at most one document; without one it gives [`Value::Null`].
fn from_yaml(text: &str) -> Result<Value, Fault> {
    check_openers(text)?;
    let build = Build { room: &Cell::new(MAX_CONTENT), seek: None };
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(document) = documents.next() else { return Ok(Value::Null) };
    let mut tree = build.deserialize(document).map_err(|error| {
        let position = place(&error);
        let line = position.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or_default();
        let is_tab = line.trim_start_matches(' ').starts_with('\t');
        let remedy = if is_tab { "; indent with blanks, not with tabs" } else { "" };
        Fault { position, text: format!("not valid YAML: {}{remedy}", quote(error)) }
    })?;
    if let Some(second) = documents.next() {
        let position = Nothing::deserialize(second).err().as_ref().and_then(place);
        let text = "a second YAML document begins; a configuration file has one".to_owned();
        return Err(Fault { position, text });
    }
    tree.apply_merge().map_err(|error| Fault {
        position: text.find("<<").map(|at| position(text, at)),
        text: format!("the merge key <<: {error}"),
    })?;
    Ok(tree)
}

/// The place of a mistake in a YAML text, or of the mapping or list that contains it.
pub(super) fn locate_in_yaml(text: &str, mistake: &Mistake) -> Option<Position> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let build = Build { room: &Cell::new(MAX_CONTENT), seek: Some(&mistake.steps) };
    let error = build.deserialize(document).err()?;
    let value = error.location()?;
    // The key is before its value, with only blanks and comments between them.
    let before: String = text.chars().take(value.index()).collect();
    let key = mistake.steps.last().filter(|_| mistake.is_key).and_then(|key| before.rfind(key));
    key.map(|at| position(text, at)).or_else(|| place(&error))
}

fn place(error: &serde_yaml::Error) -> Option<Position> {
    error.location().map(|place| (place.line(), place.column()))
}

/// Line and column of a byte of a text.
pub(super) fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    (line, column)
}

fn check_openers(text: &str) -> Result<(), Fault> {
    let opens = |pair: &&[u8]| match pair {
        [b'[' | b'{', _] => true,
        [b'-' | b'?' | b':', next] => next.is_ascii_whitespace(),
        _ => false,
    };
    if text.as_bytes().windows(2).filter(opens).nth(MAX_OPENERS).is_none() {
        return Ok(());
    }
    let text = format!("more than {MAX_OPENERS} lists and mappings; a configuration file has a few");
    Err(Fault { position: None, text })
}

/// Builds the tree of a document within [`MAX_CONTENT`]. A tag, and a key that occurs twice in a mapping, are errors.
#[derive(Clone, Copy)]
struct Build<'a> {
    /// How much more content is allowed.
    room: &'a Cell<usize>,
    /// The rest of the path to a place. Building fails at that place, or where the path ends before it, because the error
    /// of the library contains the position.
    seek: Option<&'a [String]>,
}

/// A type without values: reading it always fails, with the position.
#[derive(Deserialize)]
enum Nothing {}

impl Build<'_> {
    fn take<E: de::Error>(self, size: usize) -> Result<(), E> {
        let room = self.room.get().checked_sub(size);
        let too_much = || E::custom(format!("more than {MAX_CONTENT} bytes of values, aliases included"));
        room.map(|room| self.room.set(room)).ok_or_else(too_much)
    }

    /// Builds the value at a step inside this one.
    fn inner(self, step: &str) -> Self {
        let seek = self.seek.and_then(<[String]>::split_first);
        Self { seek: seek.filter(|(first, _)| *first == step).map(|(_, rest)| rest), ..self }
    }

    fn done<E: de::Error>(self, tree: Value) -> Result<Value, E> {
        if self.seek.is_some() { Err(E::custom("the steps lead no further")) } else { Ok(tree) }
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        match self.seek {
            Some([]) => Nothing::deserialize(from).map(|never| match never {}),
            Some(_) | None => from.deserialize_any(self),
        }
    }
}

macro_rules! leaves {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: de::Error>(self, value: $type) -> Result<Value, E> {
            self.take(1).map(|()| value.into())
        })*
    };
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag (!…)")
    }

    leaves!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.take(1).map(|()| Value::Null)
    }

    /// An empty document.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.take(1 + text.len()).map(|()| text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.take(1)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner(&list.len().to_string()))? {
            list.push(item);
        }
        self.done(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.take(1)?;
        let mut map = Mapping::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.take(key.len())?;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "the key {} stands here twice; keep one",
                    quoted(&key)
                )));
            }
            let value = entries.next_value_seed(self.inner(&key))?;
            map.insert(key.into(), value);
        }
        self.done(Value::Mapping(map))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fault(text: &str) -> String {
        match from_yaml(text) {
            Ok(_) => "accepted".to_owned(),
            Err(fault) => {
                let (line, column) = fault.position.unwrap_or_default();
                format!("{line}:{column}: {}", fault.text)
            }
        }
    }

    #[test]
    fn every_part_of_a_yaml_text_can_be_found() {
        let text = "# é\na: 1\nlist:\n  - x: &anchor {y: 'é', z: -2}\n  - *anchor\nlast: *anchor\nkey: # why\n  - 1\n";
        let at = |steps: &[&str]| locate_in_yaml(text, &Mistake::new(&steps.join("."), "")).unwrap();
        for (steps, expected) in [
            (&[][..], (2, 1)),
            (&["a"], (2, 4)),
            (&["list", "0"], (4, 5)),
            (&["list", "0", "x", "z"], (4, 28)),
            (&["list", "1", "y"], (4, 20)),
            // What an alias brings stands where its anchor is.
            (&["last", "z"], (4, 28)),
            // What is missing: where it should be.
            (&["list", "0", "nowhere"], (4, 5)),
            (&["nowhere"], (2, 1)),
        ] {
            assert_eq!(at(steps), expected, "{steps:?}");
        }
        let key = Mistake { is_key: true, ..Mistake::new("key", "") };
        assert_eq!(locate_in_yaml(text, &key), Some((7, 1)));
    }

    #[test]
    fn a_key_wins_over_a_merge_key() {
        let text = "base: &b {x: 1, y: 2}\nother: &o {x: 3, z: 4}\nall: {<<: [*b, *o], y: 5}\n";
        let root = from_yaml(text).unwrap();
        let all = root.get("all").unwrap();
        for (key, expected) in [("x", 1), ("y", 5), ("z", 4)] {
            assert_eq!(all.get(key).and_then(Value::as_i64), Some(expected), "{key}");
        }
    }

    #[test]
    fn empty_texts_are_null() {
        for text in ["", "\n", "# comment\n", "---\n", "---\n...\n", "~", "\u{feff}"] {
            assert_eq!(from_yaml(text).unwrap(), Value::Null, "{text:?}");
        }
    }

    #[test]
    fn faults_name_place_and_remedy() {
        for (text, expected) in [
            ("b: 1\nc: {a: 1, a: 3}\n", "2:4: not valid YAML: c: the key \"a\" stands here twice"),
            ("a:\n\tb: 1\n", "2:1: not valid YAML"),
            ("a:\n\tb: 1\n", "not with tabs"),
            ("a: 1\n---\nb: 2\n", "3:1: a second YAML document"),
            ("a: [1, 2\nb: 3\n", "not valid YAML"),
            ("a: !secret x\n", "expected a value without a tag"),
            ("a: *nowhere\n", "1:4: not valid YAML: unknown anchor"),
            ("[a]: 1\n", "1:1: not valid YAML: invalid type: sequence, expected a string"),
            ("? {a: 1}\n: 1\n", "invalid type: map, expected a string"),
            ("a: {<<: 1}\n", "1:5: the merge key <<: expected a mapping"),
            ("a: &a [*a]\n", "recursion limit exceeded"),
            ("a: \u{0}\n", "not valid YAML"),
            ("a: \"\\ud800\"\n", "not valid YAML"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        for (offset, expected) in [(0, (1, 1)), (2, (1, 2)), (3, (2, 1)), (4, (2, 2)), (99, (2, 2))] {
            assert_eq!(position("é\nx", offset), expected, "{offset}");
        }
    }

    /// Of this thread: however busy the machine is.
    fn processor_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    #[test]
    fn hostile_texts_are_refused_quickly() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..30 {
            let uses = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{uses}]\n"));
        }
        let long = "x".repeat(500_000);
        let stairs: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        for (text, expected) in [
            (laughs, "bytes of values"),
            (format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 4000].join(",")), "bytes of values"),
            (format!("a: {}", "[".repeat(100_000)), "more than 5000 lists and mappings"),
            ("[".repeat(1 << 20), "more than 5000 lists and mappings"),
            ("{a: ".repeat(200_000), "more than 5000 lists and mappings"),
            ("- ".repeat(500_000), "more than 5000 lists and mappings"),
            ("? ".repeat(500_000), "more than 5000 lists and mappings"),
            ("? - ".repeat(2_400), ""),
            ("[".repeat(4_999), "recursion limit"),
            ("- ".repeat(4_999), "recursion limit"),
            ("{".repeat(4_999), ""),
            ("{? ".repeat(2_499), ""),
            (stairs, "recursion limit"),
            ("a: b\n---\n".repeat(1_000), "second YAML document"),
            ("a\n".repeat(500_000) + ": 1", ""),
            ("&a ".repeat(300_000), ""),
            ("!a ".repeat(300_000), ""),
            ("%".repeat(1 << 20), ""),
            ("'".repeat(1 << 20) + "\"", ""),
            ("*".repeat(1 << 20), ""),
            ("a,".repeat(500_000) + ": [", ""),
            ("|".repeat(1 << 20), ""),
        ] {
            let before = processor_time();
            let fault = fault(&text);
            let took = processor_time().saturating_sub(before);
            let head: String = text.chars().take(20).collect();
            assert!(fault.contains(expected), "{head:?}: {fault}");
            assert_ne!(fault, "accepted", "{head:?}");
            assert!(took < Duration::from_secs(2), "{head:?} took {took:?}");
            assert!(fault.len() < 2_000, "{head:?}: an error of {} bytes", fault.len());
        }
    }
}
