//! The table: every command and every flag once, with all that parsing and help need to know of it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use super::Verb;
use crate::csc::id::SalIndex;
use crate::csc::state::SummaryState;
use crate::daemon::options::InitialState;

/// Longest time that a flag may ask for: a day, longer than any job is tracked without an answer.
const SECONDS_MAX: f64 = 86_400.0;

/// A command of the command line.
pub(super) struct Command {
    /// Which one.
    pub(super) verb: Verb,
    /// Its name.
    pub(super) name: &'static str,
    /// Its arguments, as the usage line shows them.
    pub(super) arguments: &'static str,
    /// What it does, for the list of commands.
    pub(super) summary: &'static str,
    /// What it does, in paragraphs.
    pub(super) about: &'static [&'static str],
    /// Examples, each with a word on it.
    pub(super) examples: &'static [(&'static str, &'static str)],
}

/// A flag.
pub(super) struct Flag {
    /// Its name, without the dashes.
    pub(super) name: &'static str,
    /// Its one-letter name.
    pub(super) short: Option<char>,
    /// The commands that take it.
    pub(super) verbs: &'static [Verb],
    /// What it means, for people.
    pub(super) help: &'static str,
    /// What it does.
    pub(super) action: Action,
}

/// What a flag does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// Ends parsing: help is wanted.
    Help,
    /// Ends parsing: the version is wanted.
    Version,
    /// Is on when it is there.
    Switch(fn(&mut Draft)),
    /// Takes a value.
    Value {
        /// What the value is called in help.
        name: &'static str,
        /// Parses the value; the error is one line that names it.
        set: fn(&mut Draft, &OsStr) -> Result<(), String>,
    },
}

/// What the flags said, before it is known to fit together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Draft {
    pub(super) simulate: bool,
    pub(super) state: Option<InitialState>,
    pub(super) override_name: Option<String>,
    pub(super) config_dir: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) log_level: Option<i32>,
    pub(super) kafka: bool,
    pub(super) no_kafka: bool,
    pub(super) index: Option<SalIndex>,
    pub(super) timeout: Option<Duration>,
    pub(super) no_wait: bool,
    pub(super) json: bool,
    pub(super) all: bool,
    pub(super) site: Option<String>,
    pub(super) wait: Option<Duration>,
}

/// All commands, in the order of help.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        verb: Verb::Run,
        name: "run",
        arguments: "[INDEX]",
        summary: "Run the daemon",
        about: &[
            "Runs the daemon in the foreground until it is told to exit (exitControl, SIGTERM or ^C). \
             Jobs that run then go on at the execution service.",
            "INDEX says which OCPS this is: 1 or LATISS, 2 or LSSTComCam, 3 or LSSTCam, 101 or RA, in \
             any case. Without one it is the index in ocps.toml.",
            "The links run_ocps and run_OCPS.py to this program mean ocps run.",
        ],
        examples: &[
            ("ocps run 1 --simulate --state enabled", "a rehearsal that needs nothing else"),
            ("ocps run LSSTCam --state enabled --override summit.yaml:v1.2", "ready for jobs at once"),
        ],
    },
    Command {
        verb: Verb::Send,
        name: "send",
        arguments: "COMMAND [NAME=VALUE ...]",
        summary: "Send one command to the daemon and show its acks",
        about: &[
            "Sends a command and prints its acks until the final one; for execute and abort_job also \
             the job_result of the job. A parameter that is not given is empty, or 0.",
            "That a job failed is told by the exit_code of its job_result: the command is complete \
             all the same, and ocps exits 0.",
            "^C leaves a job running, and says by which id it goes on. A job that has no id yet, since it waits \
             for others, is aborted by its run id (ocps jobs shows it).",
        ],
        examples: &[
            ("ocps send execute pipeline=true.yaml", "run a pipeline and wait for its end"),
            ("ocps send execute --no-wait pipeline=true.yaml", "only start it; prints its job id"),
            ("ocps send abort_job job_id=true.yaml-1795369818.934519", "abort it"),
        ],
    },
    Command {
        verb: Verb::State,
        name: "state",
        arguments: "[TARGET]",
        summary: "Print the summary state, or walk to another one",
        about: &["Without TARGET prints the summary state of the daemon. With TARGET (standby, disabled, \
             enabled or offline, in any case) sends the transitions that lead there, one after the \
             other; from FAULT by way of STANDBY. A daemon that goes OFFLINE ends."],
        examples: &[
            ("ocps state", "prints, for example, ENABLED"),
            ("ocps state enabled --override summit.yaml", "start with an override, then enable"),
        ],
    },
    Command {
        verb: Verb::Status,
        name: "status",
        arguments: "",
        summary: "Show what the daemon is doing",
        about: &["Shows state, configuration, execution service, jobs and counters of the daemon."],
        examples: &[("ocps status --json", "the same as one JSON document")],
    },
    Command {
        verb: Verb::Jobs,
        name: "jobs",
        arguments: "",
        summary: "List the jobs",
        about: &["Lists the jobs that the daemon tracks. The state of a job is recording, waiting (for its \
             prerequisites), submitting, then its phase at the execution service (pending, queued, executing, \
             held, suspended), or aborting; at its end completed, failed, vanished (the service does not know it \
             any more), aborted or refused (never submitted). The last column says what it waits for, what is \
             wrong, or why it ended so. Times are UTC."],
        examples: &[("ocps jobs --all", "those that ended a while ago, too")],
    },
    Command {
        verb: Verb::Watch,
        name: "watch",
        arguments: "[TOPIC ...]",
        summary: "Print events as they come",
        about: &[
            "Prints the latest event of each topic, then all as they come, until the daemon ends or ^C. \
             With TOPICs only those; heartbeat is shown only when it is named. Times are UTC. \
             Exits 0 when the daemon went OFFLINE, 1 when it just went away.",
        ],
        examples: &[("ocps watch summaryState job_result", "only these two")],
    },
    Command {
        verb: Verb::Console,
        name: "console",
        arguments: "",
        summary: "Type commands at a prompt, see acks and events",
        about: &[
            "Reads one command a line: a command of the daemon with NAME=VALUE parameters, quoted as in \
             a shell, or status, jobs, help, quit. Acks and events are printed as they come. A line that \
             starts with # is a comment.",
            "When commands come from a pipe or a file there is no prompt, a change of state is awaited \
             before the next line is read, and after the last line all final acks are. It ends with 0 also \
             when a command failed or a line was wrong: a script that wants to know uses ocps send.",
        ],
        examples: &[("echo 'execute pipeline=true.yaml' | ocps console", "run it, see all, end")],
    },
    Command {
        verb: Verb::Check,
        name: "check",
        arguments: "[PATH ...]",
        summary: "Check the configuration without a daemon",
        about: &[
            "Checks ocps.toml and the component configuration as the daemon would read them. PATH is a \
             toml file, a YAML file or a configuration directory. Exits 78 when something is wrong.",
            "Without PATH, checks all that a start needs: with flags of ocps run, what ocps run with these \
             flags and the present environment would use (the index by --index); without any, what \
             systemctl start ocps would use, or ocps@N with --index N, where such a unit is installed.",
        ],
        examples: &[
            ("ocps check", "before systemctl start ocps"),
            ("ocps check --index 1 --configdir etc/OCPS/v4 --state enabled", "before such an ocps run"),
            ("ocps check etc/ocps.toml etc/OCPS/v4 --site summit", "what goes to the summit"),
        ],
    },
    Command {
        verb: Verb::Generate,
        name: "generate",
        arguments: "man|bash|zsh|fish",
        summary: "Print the manual page or shell completions",
        about: &[
            "Prints the manual page ocps(1), or the completions for a shell. Packages and make install have \
             them already.",
        ],
        examples: &[("ocps generate bash", "the completions for bash")],
    },
    Command {
        verb: Verb::Help,
        name: "help",
        arguments: "[COMMAND]",
        summary: "Explain a command",
        about: &["Prints the help of a command, the same as ocps COMMAND --help."],
        examples: &[],
    },
];

/// All flags, in the order of help.
pub(super) const FLAGS: &[Flag] = &[
    SIMULATE, STATE, OVERRIDE, CONFIGDIR, CONFIG, SITE, TIMEOUT, NO_WAIT, ALL, WAIT, SOCKET, INDEX,
    STATE_DIR, LOGLEVEL, KAFKA, NO_KAFKA, JSON, HELP, VERSION,
];

/// The entry of a command.
pub(super) fn command(verb: Verb) -> &'static Command {
    const UNLISTED: Command =
        Command { verb: Verb::Help, name: "help", arguments: "", summary: "", about: &[], examples: &[] };
    // Every verb is listed (a test holds that), so the second is never seen.
    COMMANDS.iter().find(|command| command.verb == verb).unwrap_or(&UNLISTED)
}

/// The commands that talk to a daemon.
#[cfg(test)]
const CLIENTS: &[Verb] = &[Verb::Send, Verb::State, Verb::Status, Verb::Jobs, Verb::Watch, Verb::Console];

const SIMULATE: Flag = Flag {
    name: "simulate",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Simulate jobs: no execution service, configuration or Kafka is needed. true.yaml succeeds, \
           false.yaml fails, fault.yaml leads to FAULT.",
    action: Action::Switch(|draft| draft.simulate = true),
};

#[test]
fn test_simulate() {
    check(&SIMULATE, "", |draft| draft.simulate = true);
}

const STATE: Flag = Flag {
    name: "state",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Go to this state at start: standby, disabled, enabled, or resume, which is the one before the \
           restart (disabled or enabled, with the same override) [default: standby].",
    action: Action::Value { name: "STATE", set: |draft, value| put(&mut draft.state, initial_state(value)) },
};

#[test]
fn test_state() {
    let at = |state| Some(InitialState::At(state));
    check(&STATE, "standby", |draft| draft.state = at(SummaryState::Standby));
    check(&STATE, "Disabled", |draft| draft.state = at(SummaryState::Disabled));
    check(&STATE, "ENABLED", |draft| draft.state = at(SummaryState::Enabled));
    check(&STATE, "Resume", |draft| draft.state = Some(InitialState::Resume));
    check_bad(&STATE, "offline", "a daemon cannot start OFFLINE: give standby, disabled, enabled or resume");
    check_bad(&STATE, "fault", "a daemon cannot start in FAULT: give standby, disabled, enabled or resume");
    check_bad(&STATE, "on", "unknown state \"on\": give standby, disabled, enabled or resume");
}

const OVERRIDE: Flag = Flag {
    name: "override",
    short: None,
    verbs: &[Verb::Run, Verb::State, Verb::Check],
    help: "Override file in the configuration directory for the start command, and the git commit, tag or \
           branch to read all of the configuration from.",
    action: Action::Value {
        name: "FILE[:REF]",
        set: |draft, value| put(&mut draft.override_name, text(value).map(str::to_owned)),
    },
};

#[test]
fn test_override() {
    check(&OVERRIDE, "summit.yaml:v1", |draft| draft.override_name = Some("summit.yaml:v1".to_owned()));
    check_bad(&OVERRIDE, "\u{fffd}", "the value is not UTF-8");
}

const CONFIGDIR: Flag = Flag {
    name: "configdir",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Directory of the component configuration [default: $DM_CONFIG_OCPS_DIR/OCPS/v4, else config_dir \
           in ocps.toml].",
    action: Action::Value { name: "DIR", set: |draft, value| put(&mut draft.config_dir, path(value)) },
};

#[test]
fn test_configdir() {
    check(&CONFIGDIR, "/etc/OCPS/v4", |draft| draft.config_dir = Some("/etc/OCPS/v4".into()));
    check_bad(&CONFIGDIR, "", "the path is empty");
}

const CONFIG: Flag = Flag {
    name: "config",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "The daemon's own settings [default: /etc/ocps/ocps.toml if it exists].",
    action: Action::Value { name: "FILE", set: |draft, value| put(&mut draft.config, path(value)) },
};

#[test]
fn test_config() {
    check(&CONFIG, "x.toml", |draft| draft.config = Some("x.toml".into()));
    check_bad(&CONFIG, "", "the path is empty");
}

const SITE: Flag = Flag {
    name: "site",
    short: None,
    verbs: &[Verb::Check],
    help: "Check with the layer of this site, _<site>.yaml [default: $LSST_SITE, else site in ocps.toml].",
    action: Action::Value {
        name: "SITE",
        set: |draft, value| put(&mut draft.site, text(value).map(str::to_owned)),
    },
};

#[test]
fn test_site() {
    check(&SITE, "summit", |draft| draft.site = Some("summit".to_owned()));
    check_bad(&SITE, "\u{fffd}", "the value is not UTF-8");
}

const TIMEOUT: Flag = Flag {
    name: "timeout",
    short: None,
    verbs: &[Verb::Send, Verb::State],
    help: "Wait so many seconds for the next ack; an ack that asks for more gets more [default: 60, and no \
           limit for execute].",
    action: Action::Value { name: "S", set: |draft, value| put(&mut draft.timeout, seconds(value)) },
};

#[test]
fn test_timeout() {
    check(&TIMEOUT, "2.5", |draft| draft.timeout = Some(Duration::from_millis(2500)));
    for bad in ["", "abc", "-1", "NaN", "inf", "1e9"] {
        check_bad(&TIMEOUT, bad, &format!("{bad:?} is not a number of seconds from 0 to 86400"));
    }
}

const NO_WAIT: Flag = Flag {
    name: "no-wait",
    short: None,
    verbs: &[Verb::Send],
    help: "For execute, print the job id as soon as it is known and end. Other commands are waited for all \
           the same.",
    action: Action::Switch(|draft| draft.no_wait = true),
};

#[test]
fn test_no_wait() {
    check(&NO_WAIT, "", |draft| draft.no_wait = true);
}

const ALL: Flag = Flag {
    name: "all",
    short: None,
    verbs: &[Verb::Jobs],
    help: "List finished jobs, too.",
    action: Action::Switch(|draft| draft.all = true),
};

#[test]
fn test_all() {
    check(&ALL, "", |draft| draft.all = true);
}

const WAIT: Flag = Flag {
    name: "wait",
    short: None,
    verbs: &[Verb::Console],
    help: "Wait up to so many seconds for a daemon that is just starting [default: 0].",
    action: Action::Value { name: "S", set: |draft, value| put(&mut draft.wait, seconds(value)) },
};

#[test]
fn test_wait() {
    check(&WAIT, "10", |draft| draft.wait = Some(Duration::from_secs(10)));
    check_bad(&WAIT, "soon", "\"soon\" is not a number of seconds from 0 to 86400");
}

const SOCKET: Flag = Flag {
    name: "socket",
    short: None,
    verbs: &[
        Verb::Run,
        Verb::Send,
        Verb::State,
        Verb::Status,
        Verb::Jobs,
        Verb::Watch,
        Verb::Console,
        Verb::Check,
    ],
    help: "Path of the daemon's socket [default: $OCPS_SOCKET, else, for the daemon, socket in ocps.toml or \
           $RUNTIME_DIRECTORY/ocps.sock, else /run/ocps/ocps.sock for root and \
           $XDG_RUNTIME_DIR/ocps/ocps.sock for others, else, as in a container, \
           ocps-UID/ocps.sock in $TMPDIR or /tmp; clients look in all these places].",
    action: Action::Value { name: "PATH", set: |draft, value| put(&mut draft.socket, path(value)) },
};

#[test]
fn test_socket() {
    check(&SOCKET, "./s.sock", |draft| draft.socket = Some("./s.sock".into()));
    check_bad(&SOCKET, "", "the path is empty");
    for verb in CLIENTS {
        assert!(SOCKET.verbs.contains(verb) && INDEX.verbs.contains(verb), "{verb:?}");
    }
}

const INDEX: Flag = Flag {
    name: "index",
    short: None,
    verbs: &[Verb::Send, Verb::State, Verb::Status, Verb::Jobs, Verb::Watch, Verb::Console, Verb::Check],
    help: "Which OCPS: 1 or LATISS, 2 or LSSTComCam, 3 or LSSTCam, 101 or RA. A client talks only to a daemon \
           with this index; that of the service ocps@2, for example, has /run/ocps-2/ocps.sock.",
    action: Action::Value {
        name: "INDEX",
        set: |draft, value| put(&mut draft.index, text(value).and_then(SalIndex::parse)),
    },
};

#[test]
fn test_index() {
    check(&INDEX, "2", |draft| draft.index = Some(SalIndex::LsstComCam));
    check(&INDEX, "lsstcam", |draft| draft.index = Some(SalIndex::LsstCam));
    check_bad(&INDEX, "7", "unknown index \"7\": 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA)");
}

const STATE_DIR: Flag = Flag {
    name: "state-dir",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Directory of what must survive a restart [default: state_dir in ocps.toml, else \
           $STATE_DIRECTORY, else /var/lib/ocps for root and $XDG_STATE_HOME/ocps for others].",
    action: Action::Value { name: "DIR", set: |draft, value| put(&mut draft.state_dir, path(value)) },
};

#[test]
fn test_state_dir() {
    check(&STATE_DIR, "/var/lib/ocps", |draft| draft.state_dir = Some("/var/lib/ocps".into()));
    check_bad(&STATE_DIR, "", "the path is empty");
}

const LOGLEVEL: Flag = Flag {
    name: "loglevel",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Least level that is logged: debug or 10, info or 20, warning or 30, error or 40 [default: level \
           in ocps.toml, else info].",
    action: Action::Value { name: "LEVEL", set: |draft, value| put(&mut draft.log_level, log_level(value)) },
};

#[test]
fn test_loglevel() {
    for (value, level) in [("10", 10), ("debug", 10), ("INFO", 20), ("warning", 30), ("40", 40)] {
        check(&LOGLEVEL, value, |draft| draft.log_level = Some(level));
    }
    check_bad(&LOGLEVEL, "15", "unknown level \"15\": give 10, 20, 30, 40, debug, info, warning or error");
}

const KAFKA: Flag = Flag {
    name: "kafka",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Use Kafka [default: if brokers are set in ocps.toml, or $LSST_KAFKA_BROKER_ADDR or \
           $LSST_TOPIC_SUBNAME are set].",
    action: Action::Switch(|draft| draft.kafka = true),
};

#[test]
fn test_kafka() {
    check(&KAFKA, "", |draft| draft.kafka = true);
}

const NO_KAFKA: Flag = Flag {
    name: "no-kafka",
    short: None,
    verbs: &[Verb::Run, Verb::Check],
    help: "Do not use Kafka, whatever is set: only the local socket.",
    action: Action::Switch(|draft| draft.no_kafka = true),
};

#[test]
fn test_no_kafka() {
    check(&NO_KAFKA, "", |draft| draft.no_kafka = true);
}

const JSON: Flag = Flag {
    name: "json",
    short: None,
    verbs: &[Verb::Send, Verb::Status, Verb::Jobs, Verb::Watch, Verb::Check],
    help: "Print JSON, for programs.",
    action: Action::Switch(|draft| draft.json = true),
};

#[test]
fn test_json() {
    check(&JSON, "", |draft| draft.json = true);
}

const HELP: Flag =
    Flag { name: "help", short: Some('h'), verbs: &Verb::ALL, help: "Print help.", action: Action::Help };

const VERSION: Flag = Flag {
    name: "version",
    short: Some('V'),
    verbs: &Verb::ALL,
    help: "Print version, commit, features and library versions; -V only the version.",
    action: Action::Version,
};

/// Stores what was parsed.
fn put<T>(slot: &mut Option<T>, parsed: Result<T, String>) -> Result<(), String> {
    *slot = Some(parsed?);
    Ok(())
}

fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "the value is not UTF-8".to_owned())
}

fn path(value: &OsStr) -> Result<PathBuf, String> {
    if value.is_empty() { Err("the path is empty".to_owned()) } else { Ok(PathBuf::from(value)) }
}

fn seconds(value: &OsStr) -> Result<Duration, String> {
    let number: Option<f64> = value.to_str().and_then(|text| text.parse().ok());
    match number {
        Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) | None => Err(format!("{value:?} is not a number of seconds from 0 to {SECONDS_MAX}")),
    }
}

fn log_level(value: &OsStr) -> Result<i32, String> {
    match text(value)?.to_lowercase().as_str() {
        "10" | "debug" => Ok(10),
        "20" | "info" => Ok(20),
        "30" | "warning" => Ok(30),
        "40" | "error" => Ok(40),
        other => Err(format!("unknown level {other:?}: give 10, 20, 30, 40, debug, info, warning or error")),
    }
}

fn initial_state(value: &OsStr) -> Result<InitialState, String> {
    const ALLOWED: &str = "give standby, disabled, enabled or resume";
    let value = text(value)?;
    if value.eq_ignore_ascii_case("resume") {
        return Ok(InitialState::Resume);
    }
    match SummaryState::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(value)) {
        Some(state @ (SummaryState::Standby | SummaryState::Disabled | SummaryState::Enabled)) => {
            Ok(InitialState::At(state))
        }
        Some(SummaryState::Offline) => Err(format!("a daemon cannot start OFFLINE: {ALLOWED}")),
        Some(SummaryState::Fault) => Err(format!("a daemon cannot start in FAULT: {ALLOWED}")),
        None => Err(format!("unknown state {value:?}: {ALLOWED}")),
    }
}

/// The flag takes the value, and what it sets is exactly what `expected` does.
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
fn check(flag: &Flag, value: &str, expected: impl FnOnce(&mut Draft)) {
    let (mut draft, mut wanted) = (Draft::default(), Draft::default());
    match flag.action {
        Action::Switch(set) => set(&mut draft),
        Action::Value { set, .. } => set(&mut draft, OsStr::new(value)).unwrap(),
        Action::Help | Action::Version => panic!("--{} sets nothing", flag.name),
    }
    expected(&mut wanted);
    assert_eq!(draft, wanted, "--{} {value}", flag.name);
}

/// The flag refuses the value (U+FFFD stands for bytes that are not UTF-8) and says so in these words.
#[cfg(test)]
#[allow(clippy::panic, reason = "a test")]
fn check_bad(flag: &Flag, value: &str, expected: &str) {
    use std::os::unix::ffi::OsStrExt;
    let value = if value == "\u{fffd}" { OsStr::from_bytes(b"\xff") } else { OsStr::new(value) };
    let Action::Value { set, .. } = flag.action else { panic!("--{} takes no value", flag.name) };
    assert_eq!(set(&mut Draft::default(), value), Err(expected.to_owned()), "--{}", flag.name);
}
