use super::table::FLAGS;
use super::*;
use crate::daemon::options::InitialState;

fn line(words: &[&str]) -> Result<Invocation, Usage> {
    parse(words.iter().map(OsString::from))
}

fn run(words: &[&str]) -> RunArgs {
    match line(words) {
        Ok(Invocation::Run(args)) => args,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn problem(words: &[&str]) -> String {
    match line(words) {
        Err(usage) => usage.to_string(),
        Ok(other) => panic!("{words:?}: {other:?}"),
    }
}

fn plain_run() -> RunArgs {
    RunArgs {
        index: None,
        simulate: false,
        state: InitialState::At(SummaryState::Standby),
        override_name: None,
        config_dir: None,
        config: None,
        socket: None,
        state_dir: None,
        log_level: None,
        kafka: None,
    }
}

#[test]
fn kafka_is_on_or_off_but_not_both() {
    assert_eq!(run(&["ocps", "run", "--kafka"]).kafka, Some(true));
    assert_eq!(run(&["ocps", "run", "--no-kafka"]).kafka, Some(false));
    assert!(problem(&["ocps", "run", "--kafka", "--no-kafka"]).contains("contradict each other"));
}

#[test]
fn run_takes_an_index_and_flags_in_any_order() {
    assert_eq!(run(&["ocps", "run"]), plain_run());
    for (index, expected) in [
        ("1", SalIndex::Latiss),
        ("latiss", SalIndex::Latiss),
        ("lsstComcam", SalIndex::LsstComCam),
        ("LSSTCam", SalIndex::LsstCam),
        ("101", SalIndex::Ra),
    ] {
        assert_eq!(run(&["ocps", "run", index]).index, Some(expected));
    }
    let all = [
        "ocps",
        "run",
        "--simulate",
        "--state=enabled",
        "2",
        "--override",
        "a.yaml:v1",
        "--configdir",
        "c",
        "--config=t.toml",
        "--socket",
        "s",
        "--state-dir",
        "d",
        "--loglevel",
        "debug",
    ];
    let expected = RunArgs {
        index: Some(SalIndex::LsstComCam),
        simulate: true,
        state: InitialState::At(SummaryState::Enabled),
        override_name: Some("a.yaml:v1".into()),
        config_dir: Some("c".into()),
        config: Some("t.toml".into()),
        socket: Some("s".into()),
        state_dir: Some("d".into()),
        log_level: Some(10),
        kafka: None,
    };
    assert_eq!(run(&all), expected);
}

#[test]
fn the_names_of_the_python_program_are_ocps_run() {
    for program in ["run_ocps", "/usr/bin/run_ocps", "./run_OCPS.py"] {
        assert_eq!(run(&[program, "1", "--simulate"]).index, Some(SalIndex::Latiss));
        assert_eq!(line(&[program, "--version"]), Ok(Invocation::Build));
        assert_eq!(line(&[program, "-V"]), Ok(Invocation::Version));
        assert!(matches!(line(&[program, "-h"]), Ok(Invocation::Text(text)) if text.contains("ocps run")));
    }
    assert_eq!(problem(&["run_ocps", "--simulat"]), problem(&["ocps", "run", "--simulat"]));
    assert_eq!(problem(&["/run_ocps/ocps"]), "no command given (see ocps --help)");
}

#[test]
fn a_mistake_is_one_line_with_what_was_meant() {
    let check = |words: &[&str], expected: &str| {
        let words: Vec<&str> = ["ocps"].iter().chain(words).copied().collect();
        assert_eq!(problem(&words), expected);
    };
    check(&[], "no command given (see ocps --help)");
    check(&[""], "unknown command \"\" (see ocps --help)");
    check(&["stauts"], "unknown command stauts: did you mean status? (see ocps --help)");
    check(&["frobnicate"], "unknown command frobnicate (see ocps --help)");
    check(&["help", "snd"], "unknown command snd: did you mean send? (see ocps --help)");
    check(&["run", "--simulat"], "unknown flag --simulat: did you mean --simulate? (see ocps run --help)");
    check(&["run", "--simulat=1"], "unknown flag --simulat: did you mean --simulate? (see ocps run --help)");
    check(&["run", "-simulate"], "unknown flag -simulate: did you mean --simulate? (see ocps run --help)");
    check(&["run", "-x"], "unknown flag -x (see ocps run --help)");
    check(
        &["run", "--json"],
        "unknown flag --json: ocps run does not take it, only send, status, jobs, watch, check \
         (see ocps run --help)",
    );
    check(
        &["--socket", "s", "status"],
        "the command comes before its flags: ocps COMMAND --socket … (see ocps --help)",
    );
    check(&["run", "--simulate=1"], "--simulate takes no value (see ocps run --help)");
    check(&["run", "--socket"], "--socket needs a value: --socket PATH (see ocps run --help)");
    check(&["run", "--socket", "--simulate"], "--socket needs a value: --socket PATH (see ocps run --help)");
    check(
        &["run", "--state", "offline"],
        "--state: a daemon cannot start OFFLINE: give standby, disabled, enabled or resume (see ocps run --help)",
    );
    check(&["run", "1", "2"], "unexpected argument 2 (see ocps run --help)");
    check(
        &["run", "5"],
        "unknown index \"5\": 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA) (see ocps run --help)",
    );
    check(&["status", "x"], "unexpected argument x (see ocps status --help)");
    check(
        &["state", "fault"],
        "no transition leads to FAULT: give standby, disabled, enabled or offline (see ocps state --help)",
    );
    check(
        &["state", "on"],
        "unknown state on: give standby, disabled, enabled or offline (see ocps state --help)",
    );
    check(
        &["state", "standby", "--override", "a.yaml"],
        "--override is for the start command: give it with disabled or enabled (see ocps state --help)",
    );
    check(
        &["watch", "sumaryState"],
        "unknown topic sumaryState: did you mean summaryState? (see ocps watch --help)",
    );
}

#[test]
fn a_flag_given_twice_must_say_the_same() {
    assert_eq!(
        run(&["ocps", "run", "--simulate", "--simulate", "--socket=a", "--socket", "a"]).socket,
        Some("a".into())
    );
    assert_eq!(
        problem(&["ocps", "run", "--socket=a", "--socket", "b"]),
        "--socket is given twice with different values (see ocps run --help)"
    );
}

#[test]
fn help_works_whatever_else_is_broken() {
    let check = |words: &[&str], beginning: &str| {
        let words: Vec<&str> = ["ocps"].iter().chain(words).copied().collect();
        match line(&words) {
            Ok(Invocation::Text(text)) => assert!(text.starts_with(beginning), "{words:?}: {text}"),
            other => panic!("{words:?}: {other:?}"),
        }
    };
    check(&["--help"], "ocps: runs");
    check(&["-h"], "ocps: runs");
    check(&["help"], "ocps: runs");
    check(&["help", "run"], "Usage: ocps run ");
    check(&["frobnicate", "--help"], "ocps: runs");
    for command in COMMANDS {
        let beginning = format!("Usage: ocps {} ", command.name);
        check(&[command.name, "--help"], &beginning);
        check(&[command.name, "--frobnicate", "-h"], &beginning);
        check(&[command.name, "a", "b", "--help"], &beginning);
    }
    // After `--` it is an argument.
    assert_eq!(
        problem(&["ocps", "status", "--", "--help"]),
        "unexpected argument --help (see ocps status --help)"
    );
}

#[test]
fn every_flag_is_taken_by_exactly_its_commands() {
    for command in COMMANDS {
        for flag in FLAGS {
            let refused = match line(&["ocps", command.name, &format!("--{}", flag.name)]) {
                Err(usage) => usage.problem.starts_with("unknown flag"),
                Ok(_) => false,
            };
            assert_eq!(refused, !flag.verbs.contains(&command.verb), "{} --{}", command.name, flag.name);
        }
    }
}

#[test]
fn names_in_the_table_are_unique_and_every_verb_is_there() {
    for (list, count) in [
        (COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>(), Verb::ALL.len()),
        (FLAGS.iter().map(|flag| flag.name).collect(), FLAGS.len()),
    ] {
        assert_eq!(list.iter().collect::<std::collections::BTreeSet<_>>().len(), count);
    }
    for verb in Verb::ALL {
        assert_eq!(table::command(verb).verb, verb);
    }
}

#[test]
fn the_examples_in_help_are_commands() {
    for (example, _) in COMMANDS.iter().flat_map(|command| command.examples) {
        let words = example.rsplit("| ").next().unwrap_or_default().split(' ').map(OsString::from);
        assert!(parse(words).is_ok(), "{example}");
    }
}

#[test]
fn send_types_the_parameters() {
    let Ok(Invocation::Send(args)) =
        line(&["ocps", "send", "setLogLevel", "--timeout=3", "level=10", "subsystem=", "other=5", "--json"])
    else {
        panic!()
    };
    assert_eq!(args.command, CommandName::SetLogLevel);
    let params = serde_json::json!({"level": 10, "subsystem": "", "other": "5"});
    assert_eq!(Value::Object(args.params), params);
    assert_eq!(args.timeout, Some(Duration::from_secs(3)));
    assert!(args.json && !args.no_wait);

    let check = |words: &[&str], expected: &str| {
        let words: Vec<&str> = ["ocps", "send"].iter().chain(words).copied().collect();
        assert_eq!(problem(&words), format!("{expected} (see ocps send --help)"));
    };
    check(&[], "no COMMAND to send: for example ocps send execute pipeline=true.yaml");
    check(&["exectue"], "unknown command exectue: did you mean execute?");
    check(&["execute", "pipeline"], "pipeline is not NAME=VALUE");
    check(&["execute", "=x"], "=x is not NAME=VALUE");
    check(&["execute", "a=1", "a=2"], "parameter a is given twice");
    check(&["setLogLevel", "level=high"], "level must be a whole number of 32 bits, not high");
    check(&["setLogLevel", "level="], "level must be a whole number of 32 bits, not \"\"");
    check(&["setLogLevel", "level=99999999999"], "level must be a whole number of 32 bits, not 99999999999");
}

#[test]
fn client_commands_take_socket_and_index() {
    let expected = Target { socket: Some("s".into()), index: Some(SalIndex::LsstComCam) };
    for words in [["send", "enable"], ["state", "enabled"], ["watch", "heartbeat"]] {
        let words = ["ocps", words[0], "--socket", "s", "--index", "lsstcomcam", words[1]];
        let target = match line(&words) {
            Ok(Invocation::Send(args)) => args.target,
            Ok(Invocation::State(args)) => args.target,
            Ok(Invocation::Watch(args)) => args.target,
            other => panic!("{other:?}"),
        };
        assert_eq!(target, expected);
    }
    for command in ["status", "jobs", "console"] {
        let target = match line(&["ocps", command, "--socket", "s", "--index=2"]) {
            Ok(Invocation::Status(args)) => args.target,
            Ok(Invocation::Jobs(args)) => args.target,
            Ok(Invocation::Console(args)) => args.target,
            other => panic!("{other:?}"),
        };
        assert_eq!(target, expected);
    }
}

#[test]
fn the_other_commands_keep_what_they_were_told() {
    let Ok(Invocation::Jobs(jobs)) = line(&["ocps", "jobs", "--all", "--json"]) else { panic!() };
    assert!(jobs.all && jobs.json);
    let Ok(Invocation::Watch(watch)) = line(&["ocps", "watch", "logevent_job_id", "heartbeat"]) else {
        panic!()
    };
    assert_eq!(watch.topics, ["job_id", "heartbeat"]);
    let Ok(Invocation::Console(console)) = line(&["ocps", "console", "--wait=10"]) else { panic!() };
    assert_eq!(console.wait, Duration::from_secs(10));
    let Ok(Invocation::Check(check)) = line(&["ocps", "check", "a", "b", "--site", "summit", "--index", "1"])
    else {
        panic!()
    };
    assert_eq!(check.paths, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!((check.site.as_deref(), check.index), (Some("summit"), Some(SalIndex::Latiss)));
    let Ok(Invocation::State(state)) = line(&["ocps", "state", "Enabled", "--override", "a.yaml"]) else {
        panic!()
    };
    assert_eq!((state.goal, state.override_name.as_deref()), (Some(SummaryState::Enabled), Some("a.yaml")));
}
