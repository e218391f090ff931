//! YAML into a tree that remembers where each part stands.
//!
//! The YAML library tells places only in errors. So a tree holds for each node its number in the order of reading,
//! and [`locate`] reads the text once more and fails on purpose at that number: the library's error has the place.
//! That costs nothing as long as nothing is wrong.
//!
//! Invariant: a tree is small whatever the text: depth, number of nodes and bytes are bounded, aliases included,
//! so that later steps may recurse over it and clone it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_yaml::Deserializer;

use super::quoted;

/// Deepest nesting; a sound configuration has 3.
const MAX_DEPTH: usize = 32;

/// Most nodes of a tree, counted after aliases are followed.
const MAX_NODES: usize = 100_000;

/// Most bytes of text in a tree, counted after aliases are followed.
const MAX_TEXT: usize = 4 << 20;

/// Most `[`, `{`, `- ` and `? ` in a file. The library's scanner takes time in the square of the depth before it
/// says a word, so that this is counted before it is asked.
const MAX_OPENERS: usize = 5_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

/// A place in one of several texts; [`locate`] turns it into line and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Which of the texts, as the reader numbers them.
    pub(super) layer: usize,
    /// The how-manieth node of the text.
    ordinal: usize,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// Also integers that do not fit 64 bits.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// A mapping; keys that are no text are held as the text that stands for them.
pub(super) type Map = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Mark,
    pub(super) node: Node,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("empty"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Integer(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Text(text) => write!(f, "the text {}", quoted(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// What is wrong with a text, and where: line and column from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) position: Option<(usize, usize)>,
    pub(super) text: String,
}

/// Parses the one document of a text; an empty one gives [`Value::Null`].
pub(super) fn parse(text: &str, layer: usize) -> Result<Node, Fault> {
    check_openers(text)?;
    let walk = Walk::new(layer, None);
    let mut documents = Deserializer::from_str(text);
    let Some(document) = documents.next() else {
        return Ok(Node { mark: Mark { layer, ordinal: 0 }, value: Value::Null });
    };
    let node = NodeSeed { walk: &walk, depth: 0 }.deserialize(document).map_err(|e| walk.fault(&e, text))?;
    match documents.next() {
        None => Ok(node),
        Some(second) => {
            let walk = Walk::new(layer, Some(0));
            let error = NodeSeed { walk: &walk, depth: 0 }.deserialize(second).err();
            let position = error.and_then(|e| e.location()).map(|l| (l.line(), l.column()));
            let text = "a second YAML document begins; a configuration file has one".to_owned();
            Err(Fault { position, text })
        }
    }
}

/// Finds line and column, from 1, of a place in the text that was parsed.
pub(super) fn locate(text: &str, mark: Mark) -> Option<(usize, usize)> {
    let walk = Walk::new(mark.layer, Some(mark.ordinal));
    let document = Deserializer::from_str(text).next()?;
    let error = NodeSeed { walk: &walk, depth: 0 }.deserialize(document).err()?;
    error.location().map(|l| (l.line(), l.column()))
}

fn check_openers(text: &str) -> Result<(), Fault> {
    let opens = |pair: &&[u8]| match pair {
        [b'[' | b'{', _] => true,
        [b'-' | b'?' | b':', next] => next.is_ascii_whitespace(),
        _ => false,
    };
    let count = text.as_bytes().windows(2).filter(opens).take(MAX_OPENERS + 1).count();
    if count <= MAX_OPENERS {
        return Ok(());
    }
    let text = format!("more than {MAX_OPENERS} lists and mappings; a configuration file has a few");
    Err(Fault { position: None, text })
}

/// One reading of a text.
struct Walk {
    layer: usize,
    /// Number of the next node.
    next: Cell<usize>,
    /// Bytes of text so far.
    bytes: Cell<usize>,
    /// The node to fail at.
    stop_at: Option<usize>,
    /// Our own words for the error that is on its way.
    message: RefCell<Option<String>>,
}

impl Walk {
    fn new(layer: usize, stop_at: Option<usize>) -> Self {
        Self { layer, next: Cell::new(0), bytes: Cell::new(0), stop_at, message: RefCell::new(None) }
    }

    /// Numbers a node.
    fn enter<E: serde::de::Error>(&self) -> Result<Mark, E> {
        let ordinal = self.next.get();
        if self.stop_at == Some(ordinal) {
            return Err(E::custom("found"));
        }
        if ordinal >= MAX_NODES {
            return Err(self.fail(format!("more than {MAX_NODES} values, aliases included")));
        }
        self.next.set(ordinal + 1);
        Ok(Mark { layer: self.layer, ordinal })
    }

    fn own<E: serde::de::Error>(&self, text: &str) -> Result<String, E> {
        self.bytes.set(self.bytes.get() + text.len());
        if self.bytes.get() > MAX_TEXT {
            return Err(self.fail(format!("more than {MAX_TEXT} bytes of text, aliases included")));
        }
        Ok(text.to_owned())
    }

    fn fail<E: serde::de::Error>(&self, text: String) -> E {
        *self.message.borrow_mut() = Some(text);
        // The library adds the place, and nothing else of it is used.
        E::custom("refused")
    }

    fn fault(&self, error: &serde_yaml::Error, text: &str) -> Fault {
        let position = error.location().map(|l| (l.line(), l.column()));
        if let Some(text) = self.message.take() {
            return Fault { position, text };
        }
        let at_tab = position.is_some_and(|(line, column)| {
            let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            line.chars().nth(column.saturating_sub(1)) == Some('\t')
        });
        let remedy = if at_tab { "; indent with blanks, not with tabs" } else { "" };
        Fault { position, text: format!("not valid YAML: {error}{remedy}") }
    }
}

/// Reads a value.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    walk: &'a Walk,
    depth: usize,
}

impl NodeSeed<'_> {
    fn scalar<E: serde::de::Error>(self, value: Value) -> Result<Node, E> {
        Ok(Node { mark: self.walk.enter()?, value })
    }

    /// The seed of what is inside of this node.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(self.walk.fail(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { walk: self.walk, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.scalar(Value::Integer(value))
    }

    #[allow(clippy::cast_precision_loss)] // Only said again in errors, where the size is what matters.
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.scalar(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.scalar(Value::Float(value as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        self.scalar(Value::Float(value as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        self.scalar(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        let mark = self.walk.enter()?;
        Ok(Node { mark, value: Value::Text(self.walk.own(value)?) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mark = self.walk.enter()?;
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Node { mark, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mark = self.walk.enter()?;
        let inner = self.inner()?;
        let mut map = Map::new();
        let mut inherited = Vec::new();
        while let Some((name, key)) = entries.next_key_seed(KeySeed { walk: self.walk, known: &map })? {
            let node = entries.next_value_seed(inner)?;
            if name == "<<" {
                inherited.push(node);
            } else {
                map.insert(name, Entry { key, node });
            }
        }
        for node in inherited {
            inherit(&mut map, node).map_err(|text| self.walk.fail(text))?;
        }
        Ok(Node { mark, value: Value::Map(map) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _tagged: A) -> Result<Node, A::Error> {
        Err(self.walk.fail("a tag (!…) has no meaning here; leave it out".to_owned()))
    }
}

/// Applies a merge key (`<<`): what it brings gives way to what is there.
fn inherit(map: &mut Map, node: Node) -> Result<(), String> {
    let sources = match node.value {
        Value::List(list) => list,
        value @ (Value::Map(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)) => vec![Node { mark: node.mark, value }],
    };
    for source in sources {
        let Value::Map(source) = source.value else {
            return Err("the merge key << takes a mapping or a list of mappings".to_owned());
        };
        for (name, entry) in source {
            map.entry(name).or_insert(entry);
        }
    }
    Ok(())
}

/// Reads a key that must not be there yet.
struct KeySeed<'a> {
    walk: &'a Walk,
    known: &'a Map,
}

impl KeySeed<'_> {
    fn key<E: serde::de::Error>(&self, text: &str) -> Result<(String, Mark), E> {
        let mark = self.walk.enter()?;
        if self.known.contains_key(text) {
            return Err(self.walk.fail(format!("key {} stands here twice; keep one", quoted(text))));
        }
        Ok((self.walk.own(text)?, mark))
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (String, Mark);

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = (String, Mark);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.key(text)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.key("null")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.key(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.key(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.key(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.key(&value.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _items: A) -> Result<Self::Value, A::Error> {
        Err(self.walk.fail("a key must be text, not a list".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, _entries: A) -> Result<Self::Value, A::Error> {
        Err(self.walk.fail("a key must be text, not a mapping".to_owned()))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _tagged: A) -> Result<Self::Value, A::Error> {
        Err(self.walk.fail("a tag (!…) has no meaning here; leave it out".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fault(text: &str) -> String {
        match parse(text, 0) {
            Ok(_) => "accepted".to_owned(),
            Err(fault) => {
                let (line, column) = fault.position.unwrap_or_default();
                format!("{line}:{column}: {}", fault.text)
            }
        }
    }

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Value::Map(map) = &node.value else { panic!("{node:?}") };
        &map[key]
    }

    #[test]
    fn every_part_of_a_tree_can_be_found_again_in_its_text() {
        let text = "# comment\na: 1\nlist:\n  - x: &anchor {y: 'é', z: -2}\n  - *anchor\nlast: *anchor\n";
        let root = parse(text, 7).unwrap();
        let at = |mark| locate(text, mark).unwrap();
        assert_eq!(root.mark.layer, 7);
        assert_eq!(at(root.mark), (2, 1));
        assert_eq!((at(entry(&root, "a").key), at(entry(&root, "a").node.mark)), ((2, 1), (2, 4)));
        let Value::List(items) = &entry(&root, "list").node.value else { panic!() };
        assert_eq!(at(items[0].mark), (4, 5));
        let x = entry(&items[0], "x");
        assert_eq!((at(x.key), at(entry(&x.node, "z").key)), ((4, 5), (4, 25)));
        assert_eq!(at(entry(&x.node, "z").node.mark), (4, 28));
        // What an alias brings stands where its anchor is.
        assert_eq!(at(entry(&entry(&root, "last").node, "z").node.mark), (4, 28));
        assert_eq!(at(entry(&root, "last").key), (6, 1));
    }

    #[test]
    fn merge_keys_give_way_to_what_is_there() {
        let text = "base: &b {x: 1, y: 2}\nother: &o {x: 3, z: 4}\nall: {<<: [*b, *o], y: 5}\n";
        let root = parse(text, 0).unwrap();
        let all = &entry(&root, "all").node;
        for (key, expected) in [("x", 1), ("y", 5), ("z", 4)] {
            assert_eq!(entry(all, key).node.value, Value::Integer(expected), "{key}");
        }
        assert_eq!(locate(text, entry(all, "z").node.mark), Some((2, 21)));
    }

    #[test]
    fn empty_texts_are_null() {
        for text in ["", "\n", "# comment\n", "---\n", "---\n...\n", "~", "\u{feff}"] {
            assert_eq!(parse(text, 0).unwrap().value, Value::Null, "{text:?}");
        }
    }

    #[test]
    fn faults_tell_place_and_remedy() {
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3\n", "3:1: key 'a' stands here twice"),
            ("a:\n\tb: 1\n", "2:1: not valid YAML"),
            ("a:\n\tb: 1\n", "not with tabs"),
            ("a: 1\n---\nb: 2\n", "3:1: a second YAML document"),
            ("a: [1, 2\nb: 3\n", "not valid YAML"),
            ("a: !secret x\n", "1:4: a tag"),
            ("a: *nowhere\n", "1:4: not valid YAML: unknown anchor"),
            ("[a]: 1\n", "1:1: a key must be text, not a list"),
            ("? {a: 1}\n: 1\n", "a key must be text, not a mapping"),
            ("a: {<<: 1}\n", "the merge key << takes"),
            ("a: &a [*a]\n", "nested deeper than 32 levels"),
            ("a: \u{0}\n", "not valid YAML"),
            ("a: \"\\ud800\"\n", "not valid YAML"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(expected), "{text:?}: {fault}");
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
            (laughs, "more than 100000 values"),
            (format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 4000].join(",")), "bytes of text"),
            (format!("a: {}", "[".repeat(100_000)), "more than 5000 lists and mappings"),
            ("[".repeat(1 << 20), "more than 5000 lists and mappings"),
            ("{a: ".repeat(200_000), "more than 5000 lists and mappings"),
            ("- ".repeat(500_000), "more than 5000 lists and mappings"),
            ("? ".repeat(500_000), "more than 5000 lists and mappings"),
            ("? - ".repeat(2_400), "a key must be text"),
            ("[".repeat(4_999), "nested deeper"),
            ("- ".repeat(4_999), "nested deeper"),
            ("{".repeat(4_999), ""),
            ("{? ".repeat(2_499), ""),
            (stairs, "nested deeper"),
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
