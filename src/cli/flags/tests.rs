use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::cli::exit::Exit;
use crate::csc::command::CommandName;
use crate::csc::event::{ErrorCode, ExitCode};
use crate::sal::ack::AckCode;
use crate::sal::topic::{EventName, parameters};
use strum::{VariantArray, VariantNames};

/// The command line of these words, read.
pub(in crate::cli) fn line(words: &[&str]) -> Line {
    let argv: Vec<OsString> = words.iter().map(OsString::from).collect();
    let mut line = Line::default();
    line.read(&argv).unwrap();
    line
}

fn run(words: &[&str]) -> RunArgs {
    line(words).run_args().unwrap()
}

/// What is wrong with `ocps` and these words.
#[track_caller]
pub(in crate::cli) fn problem(words: &[&str]) -> String {
    match parse(["ocps"].iter().chain(words).map(OsString::from)) {
        Err(problem) => problem,
        Ok(_) => panic!("{words:?} are not refused"),
    }
}

fn all_flags() -> Vec<(&'static str, Option<&'static str>)> {
    flags_of(None).collect()
}

#[test]
fn kafka_is_on_or_off_but_not_both() {
    assert_eq!(run(&["ocps", "run"]).kafka, None);
    assert_eq!(run(&["ocps", "run", "--kafka"]).kafka, Some(true));
    assert_eq!(run(&["ocps", "run", "--no-kafka"]).kafka, Some(false));
    assert!(problem(&["run", "--kafka", "--no-kafka"]).contains("contradict each other"));
}

#[test]
fn run_takes_an_index_and_flags_in_any_order() {
    assert_eq!(run(&["ocps", "run"]), RunArgs::default());
    for (index, expected) in [
        ("1", SalIndex::Latiss),
        ("latiss", SalIndex::Latiss),
        ("lsstComcam", SalIndex::LsstComCam),
        ("LSSTCam", SalIndex::LsstCam),
        ("101", SalIndex::Ra),
    ] {
        assert_eq!(run(&["ocps", "run", index]).index, Some(expected));
    }
    let all = "ocps run --simulate --state=enabled 2 --override a.yaml:v1 --configdir c --config=t.toml --socket s \
               --state-dir d --loglevel debug --standby";
    let expected = RunArgs {
        index: Some(SalIndex::LsstComCam),
        simulate: true,
        goal: Goal { state: Some(SummaryState::Enabled), override_name: Some("a.yaml:v1".into()) },
        config_dir: Some("c".into()),
        config: Some("t.toml".into()),
        socket: Some("s".into()),
        state_dir: Some("d".into()),
        log_level: Some(10),
        kafka: None,
        standby: true,
    };
    assert_eq!(run(&all.split_whitespace().collect::<Vec<_>>()), expected);
}

#[test]
fn values_are_taken_in_any_case_or_refused() {
    let state = |name| run(&["ocps", "run", "--state", name]).goal.state;
    assert_eq!(state("Disabled"), Some(SummaryState::Disabled));
    assert_eq!(state("ENABLED"), Some(SummaryState::Enabled));
    assert_eq!(state("Resume"), None);
    for (name, level) in [("10", 10), ("debug", 10), ("INFO", 20), ("warning", 30), ("40", 40)] {
        assert_eq!(run(&["ocps", "run", "--loglevel", name]).log_level, Some(level));
    }
    let check = |words: &[&str], expected: &str| {
        assert_eq!(problem(words), format!("{expected} (see ocps {} --help)", words[0]));
    };
    for state in ["offline", "fault", "on"] {
        let expected = format!("--state: must be one of standby, disabled, enabled, resume, not {state}");
        check(&["run", "--state", state], &expected);
    }
    check(
        &["run", "--loglevel", "15"],
        "--loglevel: must be one of debug, info, warning, error, 10, 20, 30, 40, not 15",
    );
    for flag in ["configdir", "config", "socket", "state-dir"] {
        check(&["run", &format!("--{flag}=")], &format!("--{flag}: the path is empty"));
    }
    for bad in ["", "abc", "-1", "NaN", "inf", "1e9"] {
        let expected = format!("--timeout: {bad:?} is not a number of seconds from 0 to 86400");
        check(&["send", "enable", &format!("--timeout={bad}")], &expected);
    }
    check(
        &["status", "--index", "7"],
        "--index: unknown index \"7\": 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA)",
    );
    let value = <OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"\xff".to_vec());
    let line = Line { flags: vec![("override", Some(value))], ..Line::default() };
    assert_eq!(line.run_args(), Err("--override: the value is not UTF-8".to_owned()));
}

#[test]
fn the_names_of_the_python_program_are_ocps_run() {
    for program in ["run_ocps", "/usr/bin/run_ocps", "./run_OCPS.py"] {
        let read = line(&[program, "1", "--simulate"]);
        assert!(read.runs_the_daemon() && read.has("simulate"));
        assert_eq!(line(&[program, "--version"]).text, Some(version::text()));
        assert_eq!(line(&[program, "-V"]).text, Some(format!("{}\n", version::NAME)));
        assert!(line(&[program, "-h"]).text.unwrap().contains("ocps run"));
    }
    let problem_of = |argv: &[&str]| parse(argv.iter().map(OsString::from)).err();
    assert_eq!(problem_of(&["run_ocps", "--simulat"]), problem_of(&["ocps", "run", "--simulat"]));
    assert_eq!(problem_of(&["/run_ocps/ocps"]).unwrap(), "no command given (see ocps --help)");
}

#[test]
fn a_mistake_is_one_line_with_what_was_meant() {
    let check = |words: &[&str], expected: &str| assert_eq!(problem(words), expected);
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
        "unknown flag --json: ocps run does not take it, only send, status, jobs, job, results, watch, check, \
         doctor \
         (see ocps run --help)",
    );
    check(
        &["--socket", "s", "status"],
        "the command comes before its flags: ocps COMMAND --socket … (see ocps --help)",
    );
    check(
        &["run", "--simulate=1"],
        "unexpected argument for option '--simulate': \"1\" (see ocps run --help)",
    );
    check(&["run", "--socket"], "--socket needs a value: --socket PATH (see ocps run --help)");
    check(&["run", "--socket", "--simulate"], "--socket needs a value: --socket PATH (see ocps run --help)");
    check(&["run", "1", "2"], "unexpected argument 2 (see ocps run --help)");
    check(
        &["run", "5"],
        "unknown index \"5\": 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA) (see ocps run --help)",
    );
    check(&["status", "x"], "unexpected argument x (see ocps status --help)");
    check(
        &["watch", "sumaryState"],
        "unknown topic sumaryState: did you mean summaryState? (see ocps watch --help)",
    );
}

#[test]
fn a_flag_given_twice_must_have_the_same_value() {
    let same = ["ocps", "run", "--simulate", "--simulate", "--socket=a", "--socket", "a"];
    assert_eq!(run(&same).socket, Some("a".into()));
    assert_eq!(
        problem(&["run", "--socket=a", "--socket", "b"]),
        "--socket is given twice with different values (see ocps run --help)"
    );
}

#[test]
fn client_commands_take_socket_and_index() {
    let expected = Target { socket: Some("s".into()), index: Some(SalIndex::LsstComCam) };
    for command in [
        "send", "state", "status", "jobs", "job", "wait", "abort", "metrics", "results", "logs", "top",
        "watch", "console",
    ] {
        for index in ["--index=2", "--index=lsstcomcam"] {
            let target = line(&["ocps", command, "--socket", "s", index]).target();
            assert_eq!(target.as_ref(), Ok(&expected), "{command}");
        }
    }
}

#[test]
fn help_works_whatever_else_is_broken() {
    let check = |words: &[&str], command: &str| {
        let words: Vec<&str> = ["ocps"].iter().chain(words).copied().collect();
        let mut line = Line::default();
        // What went wrong before does not count.
        let _ = line.read(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(line.help(), help(command), "{words:?}");
        assert!(parse(words.iter().map(OsString::from)).is_ok(), "{words:?}");
    };
    for words in [&["--help"][..], &["-h"], &["help"], &["frobnicate", "--help"]] {
        check(words, PROGRAM);
    }
    for command in command_names() {
        check(&["help", command], command);
        check(&[command, "--help"], command);
        check(&[command, "--frobnicate", "-h"], command);
        check(&[command, "a", "b", "--help"], command);
    }
    // After `--` it is an argument.
    assert_eq!(problem(&["status", "--", "--help"]), "unexpected argument --help (see ocps status --help)");
}

#[test]
fn every_flag_is_taken_by_exactly_the_commands_whose_help_shows_it() {
    for command in command_names() {
        let text = help(command);
        assert!(text.starts_with(&format!("Usage: ocps {command} [FLAG ...]")), "{text}");
        for (flag, value) in all_flags() {
            let form = value.map_or_else(|| flag.to_owned(), |value| format!("{flag} {value}"));
            let is_shown = text.lines().any(|line| {
                let line = line.trim_start().trim_start_matches("-h, ").trim_start_matches("-V, ");
                line.strip_prefix(&format!("--{form}"))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
            let argv = ["ocps", command, &format!("--{flag}")].map(OsString::from);
            let is_refused =
                Line::default().read(&argv).is_err_and(|problem| problem.starts_with("unknown flag"));
            assert_eq!(is_shown, !is_refused, "{command} --{flag}");
        }
    }
}

#[test]
fn help_is_complete_and_fits_in_80_columns() {
    let sections: Vec<&str> = HELP.lines().filter_map(|line| line.strip_prefix("== ")).collect();
    assert_eq!(sections.iter().collect::<BTreeSet<_>>().len(), sections.len(), "a section twice");
    for name in &sections {
        let text = help(name);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line:?}");
            assert_eq!(line, line.trim_end(), "{name}: blanks at the end");
        }
        assert!(!text.contains("\n\n\n") && !text.contains('{'), "{text}");
        for included in section(name).lines().filter_map(included) {
            assert!(sections.contains(&included), "{name} includes {included}");
        }
    }
    for name in command_names().chain([PROGRAM]) {
        assert!(help(name).ends_with(&section("exit codes")), "{name}");
        assert!(help(PROGRAM).contains(&format!("\n  {name} ")) || name == PROGRAM, "{name}");
    }
    for name in ["send", "console", "console help"] {
        let text = help(name);
        for &command in CommandName::ALL {
            assert!(text.contains(&format!("\n  {}\n", command.as_str())));
            for (name, _) in parameters(command) {
                assert!(words_of(&text).contains(&format!(" {name}= ")), "{name}");
            }
        }
    }
    for topic in EventName::VARIANTS {
        assert!(words_of(&help("watch")).contains(&format!(" {topic} ")), "{topic}");
    }
}

#[test]
fn the_examples_in_help_are_commands() {
    let examples = HELP.lines().filter_map(|line| line.rsplit("| ").next()?.strip_prefix("  ocps "));
    let examples: Vec<&str> = examples.chain(["console"]).filter(|line| !line.starts_with(' ')).collect();
    assert!(examples.len() > 12, "{examples:?}");
    for example in examples {
        let argv = ["ocps"].into_iter().chain(example.split(' ')).map(OsString::from);
        assert!(parse(argv).is_ok(), "{example}");
    }
}

/// The words of a text, a blank between and around them.
fn words_of(text: &str) -> String {
    format!(" {} ", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A manual page as its reader sees it, more or less.
fn page(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    let plain = |line: &str| {
        let line =
            [".SH ", ".SS ", ".BR ", ".B "].iter().fold(line, |line, macro_| line.trim_start_matches(macro_));
        line.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\").replace("\\&", "")
    };
    let lines = text.lines().filter(|line| {
        ![".PP", ".TP", ".RS", ".RE", ".nf", ".fi", ".br"].contains(&&line[..line.len().min(3)])
    });
    words_of(&lines.map(plain).collect::<Vec<_>>().join(" "))
}

#[test]
fn the_manual_agrees_with_help() {
    let page = page("etc/man/ocps.1");
    for command in command_names() {
        for paragraph in section(command).split("\n\n").filter(|text| !text.contains(['{', ':'])) {
            assert!(page.contains(&words_of(paragraph)), "ocps(1) lacks: {paragraph}");
        }
        let flags: Vec<String> = flags_of(Some(command)).map(|(flag, _)| format!("--{flag}")).collect();
        assert!(page.contains(&format!(" Flags: {}. ", flags.join(", "))), "ocps(1): the flags of {command}");
    }
    let entries = HELP.split("\n== ").filter(|section| section.starts_with("--"));
    for entry in entries.filter_map(|section| section.split_once('\n')) {
        assert!(page.contains(&words_of(entry.1)), "ocps(1) lacks: {}", entry.1);
    }
    for (name, title) in
        [("parameters", "Commands of the daemon and their parameters:"), ("exit codes", "Exit codes:")]
    {
        let text = help(name).replace(title, "");
        assert!(page.contains(&words_of(&text)), "ocps(1) lacks: {text}");
    }
}

#[test]
fn the_other_manuals_name_every_event_command_and_setting() {
    let protocol = page("etc/man/ocps-protocol.7");
    for word in EventName::VARIANTS.iter().copied().chain(CommandName::ALL.iter().map(|name| name.as_str())) {
        assert!(protocol.contains(word), "ocps-protocol(7) does not name {word}");
    }
    let page = fs::read_to_string("etc/man/ocps.toml.5").unwrap();
    let roff = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    for line in fs::read_to_string("etc/ocps.toml").unwrap().lines() {
        let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).and_then(|rest| {
            let (key, value) = rest.split_once(" = ")?;
            Some(format!(".BR {key} \" = {}\"", roff(value).replace('"', "\"\"")))
        });
        let wanted = key.or_else(|| line.starts_with('[').then(|| format!(".SS {line}")));
        if let Some(wanted) = wanted {
            assert!(page.contains(&wanted), "ocps.toml(5) has no line {wanted}");
        }
    }
}

/// The codes that a text tells apart: what stands first in each of these lines.
fn codes<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    lines.map(|line| line.trim().replace('\\', "")).collect()
}

#[test]
fn every_code_is_in_readme_and_manual_and_no_other() {
    let readme = fs::read_to_string("README.md").unwrap();
    let table = |heading: &str| {
        let (_, rest) = readme.split_once(&format!("\n| {heading} | ")).unwrap();
        let rows = rest.lines().skip(2).take_while(|line| line.starts_with("| "));
        codes(rows.map(|row| row.split('|').nth(1).unwrap()))
    };
    let manual = |path: &str, title: &str| {
        let text = fs::read_to_string(path).unwrap();
        let (_, rest) = text.split_once(&format!("\n{title}\n")).unwrap();
        let lines = rest.lines().take_while(|line| !line.starts_with(".S"));
        codes(lines.filter_map(|line| line.strip_prefix(".B ")))
    };
    let protocol = "etc/man/ocps-protocol.7";
    let numbers = |codes: &[i32]| codes.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let exits = numbers(&Exit::VARIANTS.iter().map(|exit| exit.code().into()).collect::<Vec<_>>());
    let errors = numbers(&ErrorCode::VARIANTS.iter().map(|code| code.number()).collect::<Vec<_>>());
    let ends = numbers(&ExitCode::VARIANTS.iter().map(|code| code.number()).collect::<Vec<_>>());
    let acks = AckCode::VARIANTS.iter().map(|code| format!("{} {}", code.number(), code.name())).collect();
    for (heading, path, title, expected) in [
        ("exit code", "etc/man/ocps.1", ".SH EXIT STATUS", &exits),
        ("errorCode", protocol, ".SS Of the errorCode event", &errors),
        ("ack", protocol, ".SS Of acks", &acks),
        ("exit_code", protocol, ".SS exit_code of a job_result", &ends),
    ] {
        assert_eq!(&table(heading), expected, "README: {heading}");
        assert_eq!(&manual(path, title), expected, "{path}: {title}");
    }
    let help = section("exit codes");
    let listed = help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    assert_eq!(codes(listed.map(|line| line.trim_start().split(' ').next().unwrap())), exits);
    for (text, known) in [("errorCode ", &errors), ("FAULT ", &errors), ("exit code ", &exits)] {
        for rest in readme.split(text).skip(1) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            assert!(number.is_empty() || known.contains(&number), "README: {text}{number}");
        }
    }
}

/// What may be typed after a command, besides its flags, and after each flag with choices.
fn choices(name: &str) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    match name {
        "run" | "--index" => words(&["1", "2", "3", "101", "LATISS", "LSSTComCam", "LSSTCam", "RA"]),
        "send" => {
            let fields = CommandName::ALL.iter().copied().flat_map(parameters);
            let fields = fields.map(|(name, _)| format!("{name}="));
            CommandName::ALL.iter().map(|command| command.as_str().to_owned()).chain(fields).collect()
        }
        "state" => crate::cli::state::GOALS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        "watch" => words(EventName::VARIANTS),
        "help" => command_names().map(str::to_owned).collect(),
        "--state" => INITIAL_STATES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        "--loglevel" => words(&["debug", "info", "warning", "error"]),
        _ => Vec::new(),
    }
}

/// Each shell's completions name every command, and of each its flags, no others, and all choices.
#[test]
fn completions_know_every_flag_command_parameter_and_choice() {
    for shell in ["bash", "zsh", "fish"] {
        let text = fs::read_to_string(format!("etc/completions/ocps.{shell}")).unwrap();
        for command in command_names().chain(["help"]) {
            let begins = format!("\n    {command})\n");
            let here = format!("-n '__fish_seen_subcommand_from {command}'");
            let block: String = match text.split_once(&begins) {
                Some((_, rest)) => rest.split(" ;;\n").next().unwrap().to_owned(),
                None => text.lines().filter(|line| line.contains(&here)).collect::<Vec<_>>().join("\n"),
            };
            let is_word = |block: &str, word: &str| {
                block.split(&[' ', '\'', '"', '(', ')', '[', '\n'][..]).any(|w| w == word)
            };
            for (flag, value) in all_flags() {
                let form = match (shell, value) {
                    ("fish", _) => format!("-l {flag} "),
                    ("zsh", Some(_)) => format!("'--{flag}=["),
                    ("zsh", None) => format!("'--{flag}["),
                    (_, _) => format!("--{flag}"),
                };
                let is_named = if shell == "bash" { is_word(&block, &form) } else { block.contains(&form) };
                let is_taken = command != "help" && flags_of(Some(command)).any(|(taken, _)| taken == flag)
                    || command == "help" && ["help", "version"].contains(&flag);
                assert_eq!(is_named, is_taken, "{shell}: {command} --{flag}");
            }
            for choice in choices(command) {
                assert!(
                    is_word(&block, &choice) || is_word(&block, &format!("{choice}}}")),
                    "{shell}: {command} {choice}"
                );
            }
            assert!(text.contains(command), "{shell}: {command}");
        }
        for flag in ["--state", "--index", "--loglevel"] {
            let words = choices(flag).join(" ");
            let flag = if shell == "fish" { flag.replace("--", "-l ") } else { flag.to_owned() };
            let lines: Vec<&str> =
                text.lines().filter(|line| line.contains(&flag) && line.contains(&words)).collect();
            assert!(!lines.is_empty(), "{shell}: {flag} {words}");
        }
    }
}
