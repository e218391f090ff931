//! `ocps check`: all that is wrong with a file or directory, without a daemon.
//!
//! Invariant: it says what the daemon would say, in the same words, because it reads with the same code; but it goes
//! on after the first problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::csc::id::SalIndex;

use super::Error;
use super::component::{overrides, site_layer};
use super::layers::{INIT, Source, Stack};
use super::settings::Settings;
use super::validate;
use super::yaml::Map;

/// Most problems that are told of one path: finding the place of each means to read its file again, and nobody reads
/// more at once.
const MAX_PROBLEMS: usize = 100;

/// What was found at one path. Displays as `PATH: ok`, or as one line for each problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The path as it was given.
    pub path: PathBuf,
    /// All that is wrong; nothing if it is empty.
    pub problems: Vec<Error>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return write!(f, "{}", Error::in_file(&self.path, "ok"));
        }
        let lines: Vec<String> = self.problems.iter().map(Error::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Checks an `ocps.toml`, a directory of component configuration, or one file of such a directory.
///
/// Of a directory, `_init.yaml` is checked with each site's file over it (with that of `site` alone, if it is given),
/// and then with each override over those. A site's file or an override that has an `_init.yaml` beside it is checked
/// over that; any other file must be complete by itself. All is checked for `index`, or without it for each index
/// that has an entry.
#[must_use]
pub fn check(path: &Path, site: Option<&str>, index: Option<SalIndex>) -> Report {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let problems = if path.is_dir() {
        check_directory(path, site, index)
    } else if extension == "toml" {
        Settings::examine(Some(path)).1
    } else if extension == "yaml" {
        check_file(path, site, index)
    } else if path.exists() {
        vec![Error::in_file(path, "is neither a directory nor a .toml or .yaml file; name one of these")]
    } else {
        vec![Error::in_file(path, "no such file or directory")]
    };
    Report { path: path.to_owned(), problems }
}

fn check_directory(dir: &Path, site: Option<&str>, index: Option<SalIndex>) -> Vec<Error> {
    let mut check = Check::new(dir, index);
    let Some(sites) = check.sites(site) else { return check.finish() };
    let overrides = overrides(dir);
    for site in &sites {
        check.layers([Some(INIT), site.as_deref(), None]);
        for file in &overrides {
            check.layers([Some(INIT), site.as_deref(), Some(file)]);
        }
    }
    check.finish()
}

fn check_file(path: &Path, site: Option<&str>, index: Option<SalIndex>) -> Vec<Error> {
    // A bare name has an empty parent, which is no directory to open.
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return vec![Error::in_file(path, "has a name that is not UTF-8")];
    };
    let mut check = Check::new(dir, index);
    if name == INIT || !dir.join(INIT).is_file() {
        check.layers([Some(name), None, None]);
    } else if name.starts_with('_') {
        check.layers([Some(INIT), Some(name), None]);
    } else {
        for site in check.sites(site).unwrap_or_default() {
            check.layers([Some(INIT), site.as_deref(), Some(name)]);
        }
    }
    check.finish()
}

/// The check of one directory.
struct Check<'a> {
    dir: &'a Path,
    index: Option<SalIndex>,
    stack: Stack,
    /// What was read, with its number in `stack`; none where that failed.
    layers: BTreeMap<String, Option<(usize, Map)>>,
    problems: Vec<Error>,
    /// What was said, since one mistake shows up in many combinations.
    said: BTreeSet<String>,
}

impl<'a> Check<'a> {
    fn new(dir: &'a Path, index: Option<SalIndex>) -> Self {
        Self {
            dir,
            index,
            stack: Stack::default(),
            layers: BTreeMap::new(),
            problems: Vec::new(),
            said: BTreeSet::new(),
        }
    }

    fn report(&mut self, problem: Error) {
        if self.said.insert(problem.to_string()) {
            self.problems.push(problem);
        }
    }

    /// Whether there are as many problems as are told.
    fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    fn finish(mut self) -> Vec<Error> {
        if self.is_full() {
            let text = format!("not checked any further after {MAX_PROBLEMS} problems; mend these first");
            self.problems.push(Error::in_file(self.dir, text));
        }
        self.problems
    }

    /// The site layers to check with: that of the site, or all, or none if there are none.
    fn sites(&mut self, site: Option<&str>) -> Option<Vec<Option<String>>> {
        match site_layer(site) {
            Ok(Some(name)) => return Some(vec![Some(name).filter(|n| self.dir.join(n).exists())]),
            Ok(None) => {}
            Err(e) => {
                self.report(e);
                return None;
            }
        }
        let entries = match std::fs::read_dir(self.dir) {
            Ok(entries) => entries,
            Err(e) => {
                self.report(Error::in_file(self.dir, format!("cannot be read: {e}")));
                return None;
            }
        };
        let mut sites: Vec<Option<String>> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with('_') && name.ends_with(".yaml") && name != INIT)
            .map(Some)
            .collect();
        sites.sort_unstable();
        if sites.is_empty() {
            sites.push(None);
        }
        Some(sites)
    }

    /// Merges layers and validates what comes out.
    fn layers(&mut self, names: [Option<&str>; 3]) {
        if self.is_full() {
            return;
        }
        let mut root = Map::new();
        let mut numbers = Vec::new();
        for name in names.into_iter().flatten() {
            let Some((number, layer)) = self.layer(name) else { return };
            numbers.push(number);
            match self.stack.merge(root, layer) {
                Ok(merged) => root = merged,
                Err(e) => return self.report(e),
            }
        }
        for index in self.indices(&root) {
            for problem in validate::service(&root, index).err().unwrap_or_default() {
                if self.is_full() {
                    return;
                }
                let error = self.stack.error_among(&numbers, problem.mark, &problem.text);
                self.report(error);
            }
        }
    }

    fn layer(&mut self, name: &str) -> Option<(usize, Map)> {
        if let Some(known) = self.layers.get(name) {
            return known.clone();
        }
        let source = Source::work_tree(self.dir);
        let number = self.stack.len();
        let read = match source.read(name, &mut self.stack) {
            Ok(Some(map)) => Some((number, map)),
            Ok(None) => {
                self.report(source.missing(name));
                None
            }
            Err(e) => {
                self.report(e);
                None
            }
        };
        self.layers.insert(name.to_owned(), read.clone());
        read
    }

    fn indices(&self, root: &Map) -> Vec<SalIndex> {
        if let Some(index) = self.index {
            return vec![index];
        }
        match validate::indices(root) {
            Some(found) if !found.is_empty() => found,
            // The flat shape is the same for all; where there is no entry at all, any index shows that.
            Some(_) | None => vec![SalIndex::Latiss],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(index: i32, name: &str) -> String {
        format!(
            "- {{sal_index: {index}, instance: {name}, url: 'http://u', poll_interval: 1, butler: b, output_glob: g}}\n"
        )
    }

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    /// The problems, without the directory's path.
    fn problems(dir: &Path, file: &str, site: Option<&str>, index: Option<SalIndex>) -> Vec<String> {
        let path = if file.is_empty() { dir.to_owned() } else { dir.join(file) };
        let prefix = format!("{}/", dir.display());
        check(&path, site, index).problems.iter().map(|p| p.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn a_directory_is_checked_in_all_combinations_and_each_mistake_told_once() {
        let init = format!("instances:\n{}{}", entry(1, "LATISS"), entry(3, "LSSTCam"));
        let lacking = format!("instances:\n{}", entry(2, "LSSTCam"));
        let dir = dir(&[
            ("_init.yaml", &init),
            ("_base.yaml", "metadata: {a: 1}\n"),
            ("_summit.yaml", "url: http://u\n"),
            ("good.yaml", ""),
            ("syntax.yaml", "a: b: c\n"),
            ("typo.yaml", "instanses: []\n"),
            ("wrong.yaml", &lacking),
        ]);
        assert_eq!(
            problems(dir.path(), "", None, None),
            [
                "syntax.yaml:1:5: not valid YAML: mapping values are not allowed in this context at line 1 column 5",
                "typo.yaml:1:1: unknown key 'instanses'; beside instances there is none",
                "wrong.yaml:2:28: instances[0].instance must be LSSTComCam for sal_index 2, not 'LSSTCam'",
                "_summit.yaml:1:1: url stands beside instances; move it into the entries",
            ]
        );
        assert_eq!(problems(dir.path(), "", Some("base"), None).len(), 3);
        let lacks = problems(dir.path(), "", Some("base"), Some(SalIndex::LsstComCam));
        assert_eq!(
            lacks[0],
            "_init.yaml:1:1: instances has no entry with sal_index 2 (LSSTComCam); it has 1, 3"
        );
        assert_eq!(problems(dir.path(), "", Some("a/b"), None).len(), 1);
    }

    #[test]
    fn a_file_is_checked_over_its_init_file_or_by_itself() {
        let dir = dir(&[
            ("_init.yaml", "poll_interval: 1\n"),
            ("_summit.yaml", "url: http://u\n"),
            ("x.yaml", "poll_interval: 0\nbutler: 1\n"),
            ("o.toml", "site = 7\n"),
            ("note.txt", ""),
        ]);
        let none: [&str; 0] = [];
        for (file, expected) in [
            ("_summit.yaml", &none[..]),
            ("", &["x.yaml:1:16: poll_interval must be greater than 0", "x.yaml:2:9: butler must be text"]),
            (
                "x.yaml",
                &["x.yaml:1:16: poll_interval must be greater than 0", "x.yaml:2:9: butler must be text"],
            ),
            ("_init.yaml", &["_init.yaml: url is missing"]),
            ("o.toml", &["o.toml:1:8: site must be a site name"]),
            ("note.txt", &["note.txt: is neither"]),
            ("none", &["none: no such file or directory"]),
            ("none.toml", &["none.toml: no such file"]),
            ("none.yaml", &["Config file 'none.yaml' does not exist"]),
        ] {
            let found = problems(dir.path(), file, None, None);
            assert_eq!(found.len(), expected.len(), "{file}: {found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}\n{expected}");
            }
        }
        // A site without a file of its own.
        assert_eq!(
            problems(dir.path(), "x.yaml", Some("base"), None)[0],
            "_init.yaml, x.yaml: url is missing; it must be given"
        );
        fs::remove_file(dir.path().join("_init.yaml")).unwrap();
        assert_eq!(problems(dir.path(), "", None, None), ["Config file '_init.yaml' does not exist"]);
        assert_eq!(
            problems(dir.path(), "_summit.yaml", None, None),
            ["_summit.yaml: poll_interval is missing; it must be given"]
        );
    }

    #[test]
    fn after_many_problems_it_stops() {
        let many: String = (0..2_000).map(|i| format!("key{i}: 1\n")).collect();
        let dir = dir(&[("_init.yaml", &many), ("x.yaml", "")]);
        let found = problems(dir.path(), "", None, None);
        assert_eq!(found.len(), MAX_PROBLEMS + 1);
        assert!(found[MAX_PROBLEMS].contains("mend these first"), "{}", found[MAX_PROBLEMS]);
    }

    #[test]
    fn places_in_large_files_are_looked_for_only_so_long() {
        let many: String = (0..200).map(|i| format!("key{i:03}: 1\n")).collect();
        let dir = dir(&[("_init.yaml", &format!("# {}\n{many}", "x".repeat(600_000)))]);
        let found = problems(dir.path(), "_init.yaml", None, Some(SalIndex::Latiss));
        assert_eq!(found.len(), MAX_PROBLEMS + 1);
        for (problem, place) in found.iter().zip(["_init.yaml:2:1: ", "_init.yaml:3:1: "]) {
            assert!(problem.starts_with(place), "{problem}");
        }
        assert!(found[2].starts_with("_init.yaml: unknown key 'key"), "{}", found[2]);
    }

    #[test]
    fn a_report_prints_ok_or_a_line_for_each_problem() {
        let dir = dir(&[("_init.yaml", "url: http://u\npoll_interval: 1\n")]);
        let report = check(dir.path(), None, None);
        assert!(report.is_ok());
        assert_eq!(report.to_string(), format!("{}: ok", dir.path().display()));
        fs::write(dir.path().join("x.yaml"), "url: 1\nx: 1\n").unwrap();
        let report = check(dir.path(), None, None);
        assert_eq!((report.is_ok(), report.to_string().lines().count()), (false, 2));
    }
}
