//! Reads the files of a component configuration and merges them.
//!
//! Invariant: the place of every merged value in its file can still be found.

use std::path::Path;

use serde_yaml::Mapping;

use super::git::Commit;
use super::tree::{self, Fault, Mistake};
use super::{Error, file};

/// The name of the first layer, which must exist.
pub(super) const INIT: &str = "_init.yaml";

/// A directory, or a commit of it, from which layers are read.
pub(super) struct Source<'a> {
    dir: &'a Path,
    commit: Option<Commit>,
}

impl<'a> Source<'a> {
    /// The directory as it is now, or at a commit.
    pub(super) fn open(dir: &'a Path, commit: Option<&str>) -> Result<Self, Error> {
        let commit = commit.map(|name| Commit::find(dir, name)).transpose()?;
        Ok(Self { dir, commit })
    }

    /// The name of a file in errors, and its text if it exists.
    fn read(&self, name: &str) -> Result<(String, Option<String>), Error> {
        let path = self.dir.join(name);
        let Some(commit) = &self.commit else {
            return Ok((path.display().to_string(), file::read(&path)?));
        };
        let label = commit.label(name);
        let text = commit.read(name)?.map(|bytes| file::text(bytes, Path::new(&label))).transpose()?;
        Ok((label, text))
    }

    /// The error for a layer that must exist and does not.
    fn missing(&self, name: &str) -> Error {
        let at = self.commit.as_ref().map(|commit| format!(" at git reference '{}'", commit.name));
        let path = self.dir.join(name);
        Error::new(format!("Config file '{}' does not exist{}", path.display(), at.unwrap_or_default()))
    }
}

/// The layers that were read, merged.
#[derive(Default)]
pub(super) struct Layers {
    merged: Mapping,
    files: Vec<Layer>,
}

struct Layer {
    name: String,
    /// The name of the file in errors.
    label: String,
    text: String,
    keys: Mapping,
}

impl Layer {
    fn parse(name: &str, label: String, text: String) -> Result<Self, Error> {
        let error = |Fault { position, text }| Error::at(&label, position, text);
        let mut keys: Mapping = tree::read_yaml::<Option<Mapping>>(&text).map_err(error)?.unwrap_or_default();
        keys.remove("metadata");
        Ok(Self { name: name.to_owned(), label, text, keys })
    }

    fn error(&self, mistake: &Mistake) -> Error {
        Error::at(&self.label, tree::locate_in_yaml(&self.text, mistake), &mistake.text)
    }
}

impl Layers {
    /// One layer alone.
    #[cfg(test)]
    pub(super) fn of(name: &str, text: &str) -> Result<Self, Error> {
        let mut layers = Self::default();
        layers.merge(Layer::parse(name, name.to_owned(), text.to_owned())?)?;
        Ok(layers)
    }

    /// Reads a layer and merges it over the earlier ones; false if it does not exist.
    pub(super) fn add(&mut self, source: &Source<'_>, name: &str) -> Result<bool, Error> {
        let (label, Some(text)) = source.read(name)? else { return Ok(false) };
        self.merge(Layer::parse(name, label, text)?)?;
        Ok(true)
    }

    /// Reads a layer that must exist.
    pub(super) fn add_needed(&mut self, source: &Source<'_>, name: &str) -> Result<(), Error> {
        if self.add(source, name)? { Ok(()) } else { Err(source.missing(name)) }
    }

    /// Merges the keys of a layer over the earlier ones. Mappings inside them are not merged: no key of the configuration
    /// has one, and reading it as a type reports that later.
    fn merge(&mut self, layer: Layer) -> Result<(), Error> {
        for (key, value) in &layer.keys {
            let key = key.as_str().unwrap_or_default();
            let below = self.merged.get(key).filter(|below| below.is_mapping() != value.is_mapping());
            if let Some(file) = self.file_of(key).filter(|_| below.is_some()) {
                let (is, was) = if value.is_mapping() { ("a", "none") } else { ("no", "one") };
                let text = format!("is {is} mapping here but {was} in {}; make them alike", file.label);
                return Err(layer.error(&Mistake::new(key, &text)));
            }
        }
        self.merged.extend(layer.keys.clone());
        self.files.push(layer);
        Ok(())
    }

    /// The merged keys of all layers.
    pub(super) fn merged(&self) -> &Mapping {
        &self.merged
    }

    /// The names of the files, joined with commas.
    pub(super) fn names(&self) -> String {
        self.files.iter().map(|layer| &*layer.name).collect::<Vec<_>>().join(",")
    }

    /// The name of the file with the mistake; none if a key is missing in all files.
    pub(super) fn name_of(&self, mistake: &Mistake) -> Option<&str> {
        self.file_of(mistake.top()?).map(|layer| &*layer.name)
    }

    fn file_of(&self, key: &str) -> Option<&Layer> {
        self.files.iter().rev().find(|layer| layer.keys.contains_key(key))
    }

    /// The error for a mistake, with its place.
    pub(super) fn error(&self, mistake: &Mistake) -> Error {
        if let Some(layer) = mistake.top().and_then(|key| self.file_of(key)) {
            return layer.error(mistake);
        }
        let labels: Vec<&str> = self.files.iter().map(|layer| &*layer.label).collect();
        Error::at(labels.join(", "), None, &mistake.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, over: &str) -> Result<Mapping, String> {
        let mut layers = Layers::default();
        for (name, text) in [("_init.yaml", base), ("x.yaml", over)] {
            let layer = Layer::parse(name, format!("/c/{name}"), text.to_owned());
            layer.and_then(|layer| layers.merge(layer)).map_err(|error| error.to_string())?;
        }
        Ok(layers.merged)
    }

    #[test]
    fn a_later_layer_wins_and_metadata_is_dropped() {
        for (base, over, expected) in [
            ("a: 1\nb: 2\n", "b: 3\n", "a: 1\nb: 3\n"),
            ("a: [1, 2]\n", "a: [3]\n", "a: [3]\n"),
            ("a: 1\n", "", "a: 1\n"),
            ("", "a: 1\n", "a: 1\n"),
            ("metadata: {x: 1}\na: 1\n", "metadata: 7\n", "a: 1\n"),
        ] {
            assert_eq!(merged(base, over), merged(expected, ""), "{base:?} {over:?}");
        }
    }

    #[test]
    fn what_cannot_be_merged_names_both_places() {
        for (base, over, expected) in [
            (
                "x: 0\na: {b: 1}\n",
                "\na: 2\n",
                "/c/x.yaml:2:4: a is no mapping here but one in /c/_init.yaml; make them alike",
            ),
            ("a: 1\n", "a:\n  b: 2\n", "/c/x.yaml:2:3: a is a mapping here but none in /c/_init.yaml"),
            ("a: {b: 1}\n", "a:\n", "/c/x.yaml:1:3: a is no mapping here"),
            ("a: 1\n", "# list\n- 1\n", "/c/x.yaml:2:1: the file must be a YAML mapping, not sequence"),
            ("hello\n", "", "/c/_init.yaml:1:1: the file must be a YAML mapping, not string \"hello\""),
            ("a: b: c\n", "", "/c/_init.yaml:1:5: not valid YAML"),
        ] {
            let error = merged(base, over).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
