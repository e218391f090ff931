//! `ocps check`: everything that is wrong with a configuration file or directory, without a daemon.
//!
//! Invariant: it reads with the code of the daemon and reports problems in the daemon's words, but does not stop at the
//! first one.

use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::IndexSet;

use super::Error;
use super::component::{overrides, site_layer, yaml_files};
use super::layers::{INIT, Layers, Source};
use super::service::{indices, service};
use super::settings::Settings;
use crate::csc::id::SalIndex;

/// Maximum number of problems that are reported for one path: each costs another reading of its file.
const MAX_PROBLEMS: usize = 100;

/// What was found at one path. Displays as `PATH: ok`, or as one line for each problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The path as it was given.
    pub path: PathBuf,
    /// Everything that is wrong there.
    pub problems: Vec<Error>,
}

impl Report {
    /// Adds a problem without a place in the file.
    pub(crate) fn add(&mut self, problem: impl fmt::Display) {
        self.problems.push(Error::in_file(&self.path, problem));
    }

    /// Whether nothing is wrong.
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
/// In a directory, each combination of layers is checked: `_init.yaml` with each site's file (only with that of `site`, if
/// it is given), and these with each override. A site's file or an override is checked together with the `_init.yaml`
/// beside it; any other file must be complete by itself. The check is for `index`, or without it for each index that has
/// an entry.
pub fn check(path: &Path, site: Option<&str>, index: Option<SalIndex>) -> Report {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let problems = if path.is_dir() || extension == "yaml" {
        check_component(path, site, index).unwrap_or_else(|problem| vec![problem])
    } else if extension == "toml" {
        Settings::examine(Some(path)).2
    } else if path.exists() {
        vec![Error::in_file(path, "is neither a directory nor a .toml or .yaml file; name one of these")]
    } else {
        vec![Error::in_file(path, "no such file or directory")]
    };
    Report { path: path.to_owned(), problems }
}

/// Checks each combination of layers of a directory, or those that contain a file.
fn check_component(path: &Path, site: Option<&str>, index: Option<SalIndex>) -> Result<Vec<Error>, Error> {
    // A bare name has an empty parent, which is no directory to open.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = if path.is_dir() { path } else { parent };
    let init = INIT.to_owned();
    let (first, sites, overrides) = if path.is_dir() {
        let overrides = overrides(dir).into_iter().map(Some);
        (init, sites(dir, site)?, [None].into_iter().chain(overrides).collect())
    } else {
        let name = path.file_name().and_then(|name| name.to_str());
        match name.ok_or_else(|| Error::in_file(path, "has a name that is not UTF-8"))?.to_owned() {
            name if name == INIT || !dir.join(INIT).is_file() => (name, vec![None], vec![None]),
            name if name.starts_with('_') => (init, vec![Some(name)], vec![None]),
            name => (init, sites(dir, site)?, vec![Some(name)]),
        }
    };
    // One mistake shows up in several combinations.
    let mut problems = IndexSet::new();
    for (site, file) in sites.iter().flat_map(|site| overrides.iter().map(move |file| (site, file))) {
        let layers = [Some(&first), site.as_ref(), file.as_ref()].into_iter().flatten();
        problems.extend(check_layers(dir, layers, index).unwrap_or_else(|problem| vec![problem]));
        if problems.len() >= MAX_PROBLEMS {
            problems.truncate(MAX_PROBLEMS);
            let text = format!("not checked any further after {MAX_PROBLEMS} problems; correct these first");
            problems.insert(Error::in_file(dir, text));
            break;
        }
    }
    Ok(problems.into_iter().collect())
}

/// The site layers to check with: that of the site, or without a site all; a single none where there is no such file.
fn sites(dir: &Path, site: Option<&str>) -> Result<Vec<Option<String>>, Error> {
    if let Some(name) = site_layer(site)? {
        return Ok(vec![Some(name).filter(|name| dir.join(name).exists())]);
    }
    let names = yaml_files(dir)?.into_iter().filter(|name| name.starts_with('_') && name != INIT);
    let sites: Vec<_> = names.map(Some).collect();
    Ok(if sites.is_empty() { vec![None] } else { sites })
}

/// What is wrong with these layers when they are merged.
///
/// # Errors
/// The first layer that cannot be read or merged.
fn check_layers<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
    index: Option<SalIndex>,
) -> Result<Vec<Error>, Error> {
    let source = Source::open(dir, None)?;
    let mut layers = Layers::default();
    for name in names {
        layers.add_needed(&source, name)?;
    }
    let mut mistakes = Vec::new();
    for index in index.map_or_else(|| indices(layers.merged()), |index| vec![index]) {
        let mut new = service(layers.merged(), index).err().unwrap_or_default();
        new.retain(|mistake| !mistakes.contains(mistake));
        mistakes.append(&mut new);
    }
    Ok(mistakes.iter().take(MAX_PROBLEMS).map(|mistake| layers.error(mistake)).collect())
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
    fn a_directory_is_checked_in_all_combinations_and_each_mistake_reported_once() {
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
                "typo.yaml:1:12: instanses stands beside instances; move it into the entries",
                "wrong.yaml:2:28: instances[0].instance must be LSSTComCam for sal_index 2, not \"LSSTCam\"",
                "_summit.yaml:1:6: url stands beside instances; move it into the entries",
            ]
        );
        assert_eq!(problems(dir.path(), "", Some("base"), None).len(), 3);
        let lacks = problems(dir.path(), "", Some("base"), Some(SalIndex::LsstComCam));
        assert_eq!(
            lacks[0],
            "_init.yaml:2:1: instances has no entry with sal_index 2 (LSSTComCam); it has 1, 3"
        );
        assert_eq!(problems(dir.path(), "", Some("a/b"), None).len(), 1);
    }

    #[test]
    fn a_file_is_checked_with_its_init_file_or_alone() {
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
            (
                "",
                &[
                    "x.yaml:1:16: poll_interval must be a number of seconds",
                    "x.yaml:2:9: butler must be text",
                ],
            ),
            (
                "x.yaml",
                &[
                    "x.yaml:1:16: poll_interval must be a number of seconds",
                    "x.yaml:2:9: butler must be text",
                ],
            ),
            ("_init.yaml", &["_init.yaml: url is missing"]),
            ("o.toml", &["o.toml:1:8: site must be a word"]),
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
            problems(dir.path(), "x.yaml", Some("base"), None)[2],
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
    fn the_check_stops_after_many_problems() {
        let many: String = (0..2_000).map(|i| format!("key{i}: 1\n")).collect();
        let dir = dir(&[("_init.yaml", &many), ("x.yaml", "")]);
        let found = problems(dir.path(), "", None, None);
        assert_eq!(found.len(), MAX_PROBLEMS + 1);
        assert!(found[MAX_PROBLEMS].contains("correct these first"), "{}", found[MAX_PROBLEMS]);
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
