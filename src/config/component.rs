//! The component configuration: what `start` reads, and which overrides there are.
//!
//! Invariant: a configuration that is returned is complete and valid for its index. The simulator uses no value of it, so
//! that there only the override that `start` names must be valid.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::csc::configuration::{Configuration, Service};
use crate::csc::event::ConfigurationsAvailable;
use crate::csc::id::SalIndex;

use super::layers::{INIT, Layers, Source};
use super::service::{no_service, service};
use super::settings::{self, Settings};
use super::tree::Mistake;
use super::value::is_word;
use super::{Env, Error, git, variable};
use crate::text::quoted;

/// Maximum length of the list of overrides in `configurationsAvailable`, in bytes: a message has a limited size.
const MAX_OVERRIDES: usize = 64 << 10;

/// Maximum length of a file name, in bytes, as on most file systems.
const MAX_NAME: usize = 255;

/// Time between polls of a simulated job.
const SIMULATED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The directory of the component configuration where none is configured, if it exists.
const DEFAULT_DIRECTORY: &str = "/etc/ocps/OCPS/v4";

/// The directory of the component configuration: `flag` (`--configdir`), else `$DM_CONFIG_OCPS_DIR/OCPS/v4`, else the
/// setting of the toml, else `OCPS/v4` in the unit's configuration directory or in `/etc/ocps`, if one is there.
pub fn directory(flag: Option<&Path>, settings: &Settings, env: Env<'_>) -> Option<PathBuf> {
    let own = || {
        let units = settings::unit_directories(env).into_iter().map(|dir| dir.join("OCPS/v4"));
        units.chain([PathBuf::from(DEFAULT_DIRECTORY)]).find(|dir| dir.is_dir())
    };
    flag.map(Path::to_owned)
        .or_else(|| variable(env, "DM_CONFIG_OCPS_DIR").map(|dir| Path::new(&dir).join("OCPS/v4")))
        .or_else(|| settings.config_dir.clone())
        .or_else(own)
}

/// The site: `LSST_SITE`, else the setting of the toml.
pub fn site(settings: &Settings, env: Env<'_>) -> Option<String> {
    let site = variable(env, "LSST_SITE");
    site.map(|site| site.to_string_lossy().into_owned()).or_else(|| settings.site.clone())
}

/// Reads the component configuration of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The directory, if one is configured.
    pub dir: Option<PathBuf>,
    /// The site whose layer is read after the first one, if one is configured.
    pub site: Option<String>,
    /// The index of the instance.
    pub index: SalIndex,
    /// Whether jobs are simulated: then mistakes outside the named override are only warnings.
    pub simulated: bool,
}

impl Reader {
    /// Reads the layers, the last one being the override that is named `[FILE][:GITREF]`.
    ///
    /// # Errors
    /// The first thing that is wrong, in one line.
    pub fn read(&self, override_name: &str) -> Result<Configuration, Error> {
        let wanted = parse_override(override_name)?;
        let Some(dir) = &self.dir else {
            if !self.simulated {
                return Err(Error::new(
                    "no configuration directory: give --configdir, set DM_CONFIG_OCPS_DIR, or config_dir in ocps.toml",
                ));
            }
            let (files, version, directory_url) = Default::default();
            return Ok(Configuration { service: simulated_service(), files, version, directory_url });
        };
        let (service, files) = self.read_layers(dir, wanted)?;
        Ok(Configuration { service, files, version: git::describe(dir), directory_url: file_url(dir) })
    }

    /// What `configurationsAvailable` says now; empty without a directory.
    pub fn available(&self) -> ConfigurationsAvailable {
        let Some(dir) = &self.dir else { return ConfigurationsAvailable::default() };
        ConfigurationsAvailable {
            overrides: offered(&overrides(dir)),
            version: git::describe(dir),
            url: file_url(dir),
        }
    }

    /// Reads and merges all layers: gives the service of this index, and the names of the files.
    fn read_layers(&self, dir: &Path, (file, commit): (&str, &str)) -> Result<(Service, String), Error> {
        if !self.simulated && !dir.is_dir() {
            return Err(Error::in_file(dir, "is not a directory; name the one that has _init.yaml in it"));
        }
        let ignored = |error: Error| {
            log::warn!("ignored in simulation: {error}");
            Ok(())
        };
        let unless_simulated = |error| if self.simulated { ignored(error) } else { Err(error) };
        let source = Source::open(dir, Some(commit).filter(|commit| !commit.is_empty()))?;
        let mut layers = Layers::default();
        layers.add_needed(&source, INIT).or_else(unless_simulated)?;
        site_layer(self.site.as_deref())
            .and_then(|site| site.map_or(Ok(false), |site| layers.add(&source, &site)))
            .map(drop)
            .or_else(unless_simulated)?;
        if !file.is_empty() {
            layers.add_needed(&source, file)?;
        }
        let mistakes = match service(layers.merged(), self.index) {
            Ok(service) if !self.simulated => return Ok((service, layers.names())),
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes,
        };
        let counts = |mistake: &&Mistake| !self.simulated || layers.name_of(mistake) == Some(file);
        let mut counted = mistakes.iter().filter(counts);
        let Some(mistake) = counted.next() else {
            let first = mistakes.first().filter(|_| !layers.names().is_empty());
            first.map_or(Ok(()), |mistake| ignored(layers.error(mistake)))?;
            return Ok((simulated_service(), layers.names()));
        };
        let error = layers.error(mistake);
        Err(match counted.count() {
            0 => error,
            n => Error::new(format!("{error} (and {n} more: see `ocps check`)")),
        })
    }
}

/// The file and the git reference of a `configurationOverride`; each may be empty.
fn parse_override(text: &str) -> Result<(&str, &str), Error> {
    let (name, commit) = text.split_once(':').unwrap_or((text, ""));
    if name.starts_with('_') {
        return Err(Error::new(format!("configurationOverride '{name}' must not start with '_'")));
    }
    let is_plain = name.len() <= MAX_NAME && !name.contains('/') && !name.chars().any(char::is_control);
    let is_good = name.is_empty() || (is_plain && is_override(name));
    if !is_good {
        return Err(Error::new(format!(
            "configurationOverride {} must be the name of a *.yaml file in the configuration directory, \
             without a path",
            quoted(name)
        )));
    }
    Ok((name, commit))
}

/// Whether a file with this name is an override.
fn is_override(name: &str) -> bool {
    !name.starts_with('_') && name.strip_suffix(".yaml").is_some_and(|stem| !stem.is_empty())
}

/// Sorted names of the overrides in a directory; none where it cannot be read.
pub(super) fn overrides(dir: &Path) -> Vec<String> {
    let mut names = yaml_files(dir).unwrap_or_else(|problem| {
        log::warn!("{problem}");
        Vec::new()
    });
    // A symbolic link to a file counts as a file.
    names.retain(|name| is_override(name) && dir.join(name).is_file());
    names
}

/// The sorted names of the files of a directory that end in `.yaml`.
pub(super) fn yaml_files(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::in_file(dir, format!("cannot be read: {e}")))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".yaml") && !name.chars().any(char::is_control)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The names joined with commas, as many as fit into [`MAX_OVERRIDES`].
fn offered(names: &[String]) -> String {
    let mut list = names.join(",");
    if list.len() > MAX_OVERRIDES {
        list.truncate(list.bytes().take(MAX_OVERRIDES).rposition(|byte| byte == b',').unwrap_or(0));
        let offered = list.split(',').count();
        log::warn!("there are {} overrides; only the first {offered} are offered", names.len());
    }
    list
}

/// The name of the site's layer; none without a site.
pub(super) fn site_layer(site: Option<&str>) -> Result<Option<String>, Error> {
    match site {
        None | Some("") => Ok(None),
        Some(site) if is_word(site) => Ok(Some(format!("_{site}.yaml"))),
        Some(site) => Err(Error::new(format!(
            "site {} must be made of letters, digits, '.', '_' and '-'; see LSST_SITE and site in ocps.toml",
            quoted(site)
        ))),
    }
}

fn simulated_service() -> Service {
    Service { poll_interval: SIMULATED_POLL_INTERVAL, ..no_service() }
}

/// A directory as a file URI.
fn file_url(dir: &Path) -> String {
    const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let absolute = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    let path = absolute.as_deref().unwrap_or(dir).as_os_str().as_bytes();
    format!("file://{}", percent_encode(path, &PLAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_a_plain_name_and_a_commit() {
        for (text, file, commit) in [
            ("", "", ""),
            (":", "", ""),
            ("x.yaml", "x.yaml", ""),
            ("x.yaml:", "x.yaml", ""),
            ("x.yaml:main", "x.yaml", "main"),
            (":v1:2", "", "v1:2"),
            ("..yaml", "..yaml", ""),
        ] {
            assert_eq!(parse_override(text), Ok((file, commit)), "{text}");
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
            let error = parse_override(text).unwrap_err().to_string();
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
        assert_eq!((configuration.service, configuration.files), (simulated_service(), String::new()));
        assert!(reader.read("_x.yaml").is_err());
    }

    #[test]
    fn a_directory_becomes_a_file_uri() {
        assert_eq!(file_url(Path::new("/no such/é?")), "file:///no%20such/%C3%A9%3F");
    }

    #[test]
    fn the_list_of_overrides_stays_small() {
        let names: Vec<String> = (0..10_000).map(|i| format!("{i:04}.yaml")).collect();
        assert_eq!(offered(&names[..2]), "0000.yaml,0001.yaml");
        assert_eq!(offered(&names).split(',').next_back(), Some("6552.yaml"));
        let long = vec!["x".repeat(255); 1000];
        assert_eq!(offered(&long).len(), 255 * 256 + 255);
    }
}
