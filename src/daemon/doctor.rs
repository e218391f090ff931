//! The checks of `ocps doctor`, in order: the configuration, this host, and what the daemon talks to. They ask and read
//! with the code of the daemon, and change nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

use super::options::RunArgs;
use super::setup::{self, KafkaPlan, Setup};
use crate::backend::Backend;
use crate::clock;
use crate::config::Env;
use crate::config::check::Report;
use crate::config::settings::{DEFAULT_PATH, Journal};
use crate::csc::id::SalIndex;
use crate::csc::request::Action;
use crate::journal::{self, Found};
#[cfg(feature = "kafka")]
use crate::journal::{Limits, topic::Address};
use crate::lease::Lease;
use crate::transport::LISTENING;
use crate::transport::kafka;
use crate::url::Url;

/// Less free space than this is a problem: a burst of commands and a git checkout fit into it.
const SPACE_MIN: u64 = 256 << 20;

/// What was looked at, and its state, or what is wrong and what to do.
pub type Finding = (&'static str, Result<String, String>);

/// Looks at all that `ocps run` with these arguments needs in this environment. `rest` is as for
/// [`check`](super::check), `user` is the user that the unit runs as, if it is another one, and `running` is the status
/// document of the daemon, if one is running.
pub fn doctor(
    args: &RunArgs,
    env: Env<'_>,
    rest: Report,
    user: Option<&str>,
    running: Option<&Json>,
) -> Vec<Finding> {
    let (setup, reports) = setup::examine(args, env, None, rest);
    let mut found = configuration(&reports);
    found.extend(setup.directories());
    found.extend(user.map(|user| ("user", setup.rights(user))));
    found.extend(setup.state_dir.as_deref().map(|dir| ("disk space", space(dir))));
    found.push(("journal", setup.journal(running)));
    found.push((if setup.index == SalIndex::Ra { "redis" } else { "service" }, setup.service(args)));
    found.extend(setup.kafka_found(running));
    found.push(("clock", setup.clock()));
    found
}

fn configuration(reports: &[Report]) -> Vec<Finding> {
    let problems = reports.iter().flat_map(|report| &report.problems);
    let problems: Vec<Finding> =
        problems.map(|problem| ("configuration", Err(problem.to_string()))).collect();
    if !problems.is_empty() {
        return problems;
    }
    let paths: Vec<String> = reports.iter().map(|report| report.path.display().to_string()).collect();
    vec![("configuration", Ok(paths.join(", ")))]
}

fn space(dir: &Path) -> Result<String, String> {
    let there = setup::existing(dir);
    let stat = rustix::fs::statvfs(there).map_err(|error| format!("{}: {error}", there.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} MiB free in {}", free >> 20, there.display());
    if free < SPACE_MIN {
        Err(format!("only {text}: make room, before the journal cannot be written (errorCode 4)"))
    } else {
        Ok(text)
    }
}

impl Setup {
    fn directories(&self) -> Vec<Finding> {
        let problems = self.directory_problems().into_iter();
        let lasting = self.state_dir_problem().map(str::to_owned);
        let problems: Vec<Finding> =
            problems.chain(lasting).map(|problem| ("directories", Err(problem))).collect();
        if !problems.is_empty() {
            return problems;
        }
        let named = self.written_directories().map(|dir| dir.display().to_string()).collect::<Vec<_>>();
        vec![("directories", Ok(format!("{} can be written", named.join(", "))))]
    }

    /// Whether another user may use the files and directories that exist; systemd makes the others.
    fn rights(&self, user: &str) -> Result<String, String> {
        if !rustix::process::geteuid().is_root() {
            return Err(format!(
                "the unit runs as {user}, and only root can tell what {user} may do: sudo ocps doctor"
            ));
        }
        let toml = self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let layers = self.reader.dir.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let read =
            [toml].into_iter().chain(layers.map(|layer| layer.path())).map(|path| (path, "-r", "read"));
        let written = self.written_directories().map(Path::to_owned).chain(self.journal_file());
        let denied = read.chain(written.map(|path| (path, "-w", "written")));
        let denied = denied.filter(|(path, test, _)| path.exists() && !may(user, test, path));
        let denied: Vec<String> =
            denied.map(|(path, _, what)| format!("{} cannot be {what}", path.display())).collect();
        if denied.is_empty() {
            return Ok(format!("{user} has the rights that it needs to the files that are there"));
        }
        Err(format!("for {user}, {}: see chown and chmod", denied.join(", ")))
    }

    fn journal(&self, running: Option<&Json>) -> Result<String, String> {
        let Some(path) = self.journal_file() else {
            if self.settings.journal == Journal::Kafka {
                return running.map_or_else(|| self.journal_topic(), in_use);
            }
            return Ok("off: a restart forgets all jobs".to_owned());
        };
        let shown = path.display();
        match (journal::examine(&path, self.identity())?, running) {
            (Found::Missing, _) => Ok(format!("{shown} is to be made at the start")),
            (Found::Sound, _) => Ok(format!("{shown} is sound")),
            (Found::InUse(_), Some(status)) => in_use(status),
            (Found::InUse(process), None) => {
                let process =
                    process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"));
                Err(format!(
                    "{shown} is in use by {process}, which cannot be reached at the socket: stop it, or name its socket \
                     with --socket"
                ))
            }
        }
    }

    #[cfg(feature = "kafka")]
    fn journal_topic(&self) -> Result<String, String> {
        let KafkaPlan::On(options) = &self.kafka else { return Err("Kafka is off".to_owned()) };
        let limits = Limits::in_memory(self.settings.history);
        Address::new(options.as_ref().clone(), self.identity(), limits).examine()
    }

    #[cfg(not(feature = "kafka"))]
    fn journal_topic(&self) -> Result<String, String> {
        Err("this build has no Kafka".to_owned())
    }

    /// Asks the service as the daemon does when it has nothing else to ask.
    fn service(&self, args: &RunArgs) -> Result<String, String> {
        if self.reader.simulated {
            return Ok("simulated".to_owned());
        }
        let (backend, redis) = self.backend(Lease::default()).map_err(|failure| failure.to_string())?;
        if let Some(address) = redis {
            return ask(&*backend, &"".into()).map(|()| format!("{address} answers"));
        }
        let override_name = args.goal.override_name.as_deref().unwrap_or_default();
        let read = self.reader.read(override_name);
        let url = read.map_err(|_| "not asked: the configuration does not name it".to_owned())?.service.url;
        // Only a UWS service answers as it does about an unknown job.
        ask(&*backend, &url).map(|()| format!("{url} is a UWS service"))
    }

    fn kafka_found(&self, running: Option<&Json>) -> Vec<Finding> {
        let options = match &self.kafka {
            KafkaPlan::Off => {
                return vec![("brokers", Ok("Kafka is off: the local socket alone".to_owned()))];
            }
            KafkaPlan::Impossible(problem) => return vec![("brokers", Err(problem.clone()))],
            KafkaPlan::On(options) => options.as_ref().clone(),
        };
        let mut found = kafka::examine(options, self.index);
        let instance = match found.heartbeat_age_s {
            Some(age) if age < LISTENING.as_secs_f64() && running.is_none() && !self.stands_by() => {
                Err(format!(
                    "another instance with index {} wrote a heartbeat {:.1} s ago: stop it before you start this one",
                    self.index,
                    age.max(0.0)
                ))
            }
            Some(age) => {
                Ok(format!("the last heartbeat of index {} is {:.0} s old", self.index, age.max(0.0)))
            }
            None => Ok(format!("there is no heartbeat of index {}", self.index)),
        };
        found.list.push(("other instance", instance));
        found.list
    }

    fn clock(&self) -> Result<String, String> {
        let set = f64::from(self.settings.tai_minus_utc_s);
        match clock::kernel_tai_minus_utc() {
            None => {
                Ok(format!("the kernel does not know TAI: taken to be UTC plus {set} s (tai_minus_utc_s)"))
            }
            Some(kernel) if (kernel - f64::from(clock::TAI_MINUS_UTC_S)).abs() > 2.0 => Err(format!(
                "the kernel says that TAI is UTC plus {kernel} s: check the leap seconds of its NTP"
            )),
            Some(kernel) => Ok(format!("TAI is UTC plus {kernel} s, as the kernel knows")),
        }
    }
}

/// Whether `test(1)` on this file succeeds for a user; true where that cannot be found out.
fn may(user: &str, test: &str, path: &Path) -> bool {
    let status = Command::new("runuser").args(["-u", user, "--", "test", test]).arg(path).status();
    status.map_or(true, |status| status.code() != Some(1))
}

/// The finding about the journal of a running daemon with this status document.
fn in_use(status: &Json) -> Result<String, String> {
    let text = |key: &str| status.pointer(key).and_then(Json::as_str);
    let path = text("/journal/path").unwrap_or("the journal");
    match ["/journal/problem", "/journal/upkeep_problem", "/journal/notice"].into_iter().find_map(text) {
        Some(problem) => Err(format!("{path}: {problem}")),
        None => {
            let process = status.get("pid").and_then(Json::as_i64).unwrap_or_default();
            Ok(format!("{path} is in use by process {process}"))
        }
    }
}

fn ask(backend: &dyn Backend, url: &Url) -> Result<(), String> {
    match backend.perform(url, &Action::Ping).of_service() {
        Some(Err(failure)) => Err(failure.reason.clone()),
        Some(Ok(())) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_finds_out_what_another_user_may_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocps.toml");
        fs::write(&file, "").unwrap();
        let open = |mode| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        };
        if !rustix::process::geteuid().is_root() {
            return;
        }
        open(0o755);
        assert!(may("nobody", "-r", &file) && !may("nobody", "-w", &file));
        open(0o700);
        assert!(!may("nobody", "-r", &file));
    }
}
