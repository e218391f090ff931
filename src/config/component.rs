//! The component configuration: what `start` reads, and what there is to choose from.
//!
//! Invariant: what is returned is complete and sound for our index, or nothing is returned. In simulation nothing of
//! it is used, so that only what an operator named must be sound.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::csc::configuration::{Configuration, Service};
use crate::csc::event::ConfigurationsAvailable;
use crate::csc::id::SalIndex;

use super::layers::{INIT, Source, Stack};
use super::settings::{self, Settings, is_site};
use super::validate::{self, no_service};
use super::yaml::Map;
use super::{Error, git, quoted};

/// Most overrides that are offered, and longest list of them in bytes, so that the event stays within what a
/// message can hold.
const MAX_OVERRIDES: (usize, usize) = (1_000, 64 << 10);

/// Longest name of a file, in bytes: what file systems hold.
const MAX_NAME: usize = 255;

/// Most faults of layers that the simulator warns of, for one `start`.
const MAX_WARNINGS: usize = 10;

/// Time between polls of a simulated job.
const SIMULATED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Where the component configuration is if nothing says where: there, if that is a directory.
const DEFAULT_DIRECTORY: &str = "/etc/ocps/OCPS/v4";

/// The directory of the component configuration: `flag` (`--configdir`), else `$DM_CONFIG_OCPS_DIR/OCPS/v4`, else the
/// setting of the toml, else `OCPS/v4` in the unit's configuration directory or in `/etc/ocps`, if one is there.
#[must_use]
pub fn directory(
    flag: Option<&Path>,
    settings: &Settings,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.map(Path::to_owned)
        .or_else(|| set("DM_CONFIG_OCPS_DIR").map(|dir| dir.join("OCPS").join("v4")))
        .or_else(|| settings.config_dir.clone())
        .or_else(|| {
            let own = settings::unit_directories(env).into_iter().map(|dir| dir.join("OCPS").join("v4"));
            own.chain([PathBuf::from(DEFAULT_DIRECTORY)]).find(|dir| dir.is_dir())
        })
}

/// The site: `LSST_SITE`, else the setting of the toml.
#[must_use]
pub fn site(settings: &Settings, env: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    let site = env("LSST_SITE").filter(|site| !site.is_empty());
    site.map(|site| site.to_string_lossy().into_owned()).or_else(|| settings.site.clone())
}

/// Reads the component configuration of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The directory, if one is configured.
    pub dir: Option<PathBuf>,
    /// The site whose layer is read after the first one, if one is configured.
    pub site: Option<String>,
    /// Whose configuration.
    pub index: SalIndex,
    /// Whether the back-end is the simulator, which uses nothing of a configuration.
    pub simulated: bool,
}

impl Reader {
    /// Reads the layers, the last one being the override that is named `[FILE][:GITREF]`.
    ///
    /// # Errors
    /// The first thing that is wrong, in one line.
    pub fn read(&self, override_name: &str) -> Result<Configuration, Error> {
        let wanted = Override::parse(override_name)?;
        let Some(dir) = &self.dir else {
            return if self.simulated { Ok(simulated(String::new())) } else { Err(no_directory()) };
        };
        let (service, files) = if self.simulated {
            let files = self.rehearse(dir, &wanted)?;
            (simulated(files.clone()).service, files)
        } else {
            self.read_layers(dir, &wanted)?
        };
        Ok(Configuration { service, files, version: git::describe(dir), directory_url: file_url(dir) })
    }

    /// What `configurationsAvailable` says now; empty without a directory.
    #[must_use]
    pub fn available(&self) -> ConfigurationsAvailable {
        let Some(dir) = &self.dir else { return ConfigurationsAvailable::default() };
        ConfigurationsAvailable {
            overrides: offered(&overrides(dir)),
            version: git::describe(dir),
            url: file_url(dir),
        }
    }

    /// Reads and merges all layers, and takes out what concerns us.
    fn read_layers(&self, dir: &Path, wanted: &Override<'_>) -> Result<(Service, String), Error> {
        if !dir.is_dir() {
            return Err(Error::in_file(dir, "is not a directory; name the one that has _init.yaml in it"));
        }
        let source = Source::open(dir, wanted.commit)?;
        let mut stack = Stack::default();
        let mut root = source.read(INIT, &mut stack)?.ok_or_else(|| source.missing(INIT))?;
        if let Some(site) = site_layer(self.site.as_deref())?
            && let Some(layer) = source.read(&site, &mut stack)?
        {
            root = stack.merge(root, layer)?;
        }
        if let Some(name) = wanted.file {
            let layer = source.read(name, &mut stack)?.ok_or_else(|| source.missing(name))?;
            root = stack.merge(root, layer)?;
        }
        let service = validate::service(&root, self.index).map_err(|problems| first(&problems, &stack))?;
        Ok((service, stack.names()))
    }

    /// Reads for the simulator: only the override that is named must be sound. Returns the names of what was read.
    fn rehearse(&self, dir: &Path, wanted: &Override<'_>) -> Result<String, Error> {
        let source = match Source::open(dir, wanted.commit) {
            Ok(source) => source,
            Err(e) if wanted.commit.is_some() => return Err(e),
            Err(e) => {
                ignored(&e);
                return Ok(String::new());
            }
        };
        let mut stack = Stack::default();
        let mut root = Map::new();
        let site = site_layer(self.site.as_deref()).unwrap_or_else(|e| {
            ignored(&e);
            None
        });
        for name in [Some(INIT.to_owned()), site].into_iter().flatten() {
            let merged = match source.read(&name, &mut stack) {
                Ok(Some(layer)) => stack.merge(root.clone(), layer),
                Ok(None) if name == INIT => Err(source.missing(&name)),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            match merged {
                Ok(merged) => root = merged,
                Err(e) => ignored(&e),
            }
        }
        let last = stack.len();
        if let Some(name) = wanted.file {
            let layer = source.read(name, &mut stack)?.ok_or_else(|| source.missing(name))?;
            root = stack.merge(root, layer)?;
        }
        if stack.len() == 0 {
            return Ok(String::new());
        }
        if let Err(problems) = validate::service(&root, self.index) {
            let (ours, others): (Vec<_>, Vec<_>) =
                problems.into_iter().partition(|p| p.mark.is_some_and(|m| m.layer == last));
            for problem in others.iter().take(MAX_WARNINGS) {
                ignored(&stack.error(problem.mark, &problem.text));
            }
            if !ours.is_empty() {
                return Err(first(&ours, &stack));
            }
        }
        Ok(stack.names())
    }
}

/// The override that a `start` names.
#[derive(Debug, PartialEq, Eq)]
struct Override<'a> {
    file: Option<&'a str>,
    commit: Option<&'a str>,
}

impl<'a> Override<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let (name, commit) = text.split_once(':').unwrap_or((text, ""));
        if name.starts_with('_') {
            return Err(Error::new(format!("configurationOverride '{name}' must not start with '_'")));
        }
        let plain = name.len() <= MAX_NAME && !name.contains('/') && !name.chars().any(char::is_control);
        let good = name.is_empty() || (plain && is_override(name));
        if !good {
            return Err(Error::new(format!(
                "configurationOverride {} must be the name of a *.yaml file in the configuration directory, \
                 without a path",
                quoted(name)
            )));
        }
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        Ok(Self { file: some(name), commit: some(commit) })
    }
}

/// Whether a file's name is that of an override.
pub(super) fn is_override(name: &str) -> bool {
    !name.starts_with('_') && name.strip_suffix(".yaml").is_some_and(|stem| !stem.is_empty())
}

/// Sorted names of the overrides in a directory; none where it cannot be read.
pub(super) fn overrides(dir: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            log::warn!("{}: cannot be read: {e}", dir.display());
            return Vec::new();
        }
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_override(name) && !name.chars().any(char::is_control))
        // Asked of the path, since a link may lead to a file.
        .filter(|name| dir.join(name).is_file())
        .collect();
    names.sort_unstable();
    names
}

/// The names comma-joined, as many as fit.
fn offered(names: &[String]) -> String {
    let (most, longest) = MAX_OVERRIDES;
    let mut text = String::new();
    for (i, name) in names.iter().enumerate() {
        if i >= most || text.len() + name.len() > longest {
            log::warn!("there are {} overrides; only the first {i} are offered", names.len());
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
    }
    text
}

/// The name of the site's layer.
pub(super) fn site_layer(site: Option<&str>) -> Result<Option<String>, Error> {
    match site {
        None | Some("") => Ok(None),
        Some(site) if is_site(site) => Ok(Some(format!("_{site}.yaml"))),
        Some(site) => Err(Error::new(format!(
            "site {} must be made of letters, digits, '.', '_' and '-'; see LSST_SITE and site in ocps.toml",
            quoted(site)
        ))),
    }
}

fn no_directory() -> Error {
    Error::new(
        "no configuration directory: give --configdir, set DM_CONFIG_OCPS_DIR, or config_dir in ocps.toml",
    )
}

fn simulated(files: String) -> Configuration {
    let service = Service { poll_interval: SIMULATED_POLL_INTERVAL, ..no_service() };
    Configuration { service, files, version: String::new(), directory_url: String::new() }
}

fn ignored(error: &Error) {
    log::warn!("ignored in simulation: {error}");
}

/// One line for several problems.
fn first(problems: &[validate::Problem], stack: &Stack) -> Error {
    let Some(problem) = problems.first() else { return stack.error(None, "not valid") };
    let text = match problems.len() {
        0 | 1 => problem.text.clone(),
        n => format!("{} (and {} more: see `ocps check`)", problem.text, n - 1),
    };
    stack.error(problem.mark, &text)
}

/// A directory as a file URI.
fn file_url(dir: &Path) -> String {
    let absolute = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    let mut url = String::from("file://");
    for byte in absolute.as_deref().unwrap_or(dir).as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            url.push(char::from(*byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_a_plain_name_and_a_commit() {
        for (text, file, commit) in [
            ("", None, None),
            (":", None, None),
            ("x.yaml", Some("x.yaml"), None),
            ("x.yaml:", Some("x.yaml"), None),
            ("x.yaml:main", Some("x.yaml"), Some("main")),
            (":v1:2", None, Some("v1:2")),
            ("..yaml", Some("..yaml"), None),
        ] {
            assert_eq!(Override::parse(text), Ok(Override { file, commit }), "{text}");
        }
        let refused = "must be the name of a *.yaml file";
        for (text, expected) in [
            ("_x.yaml", "configurationOverride '_x.yaml' must not start with '_'"),
            ("_init.yaml:main", "configurationOverride '_init.yaml' must not start with '_'"),
            ("../x.yaml", refused),
            ("a/b.yaml", refused),
            ("/etc/x.yaml", refused),
            ("..", refused),
            ("x.yml", refused),
            (".yaml", refused),
            ("x\n.yaml", refused),
            ("x\0.yaml", refused),
            (&("x".repeat(256) + ".yaml"), refused),
        ] {
            let error = Override::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn without_a_directory_only_the_simulator_starts() {
        let mut reader = Reader { dir: None, site: None, index: SalIndex::Latiss, simulated: false };
        assert_eq!(
            reader.read("").unwrap_err().to_string(),
            "no configuration directory: give --configdir, set DM_CONFIG_OCPS_DIR, or config_dir in ocps.toml"
        );
        assert_eq!(reader.available(), ConfigurationsAvailable::default());
        reader.simulated = true;
        let configuration = reader.read("x.yaml").unwrap();
        assert_eq!(configuration, simulated(String::new()));
        assert_eq!(configuration.service.poll_interval, Duration::from_millis(100));
        assert!(reader.read("_x.yaml").is_err());
    }

    #[test]
    fn a_directory_becomes_a_file_uri() {
        assert_eq!(file_url(Path::new("/no such/é?")), "file:///no%20such/%C3%A9%3F");
    }

    #[test]
    fn the_list_of_overrides_stays_small() {
        let names: Vec<String> = (0..2000).map(|i| format!("{i:04}.yaml")).collect();
        assert_eq!(offered(&names).split(',').count(), 1000);
        assert_eq!(offered(&names[..2]), "0000.yaml,0001.yaml");
        let long = vec!["x".repeat(255); 1000];
        assert!(offered(&long).len() <= (64 << 10) + 1);
    }
}
