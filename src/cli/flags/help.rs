//! Help, made from the table. Fits in 80 columns.

use super::Verb;
use super::table::{Action, COMMANDS, Command, FLAGS, Flag, command};
use crate::cli::event_text::TOPICS;
use crate::csc::command::CommandName;
use crate::sal::topic::parameters;

/// Widest line.
const WIDTH: usize = 80;
/// Where explanations begin.
const COLUMN: usize = 26;

pub(super) const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "ok"),
    ("1", "failure: an outage, a timeout, a daemon that went away"),
    ("2", "the command line is wrong"),
    ("3", "the command was refused or failed; its ack says why"),
    ("4", "no daemon could be reached"),
    ("78", "the configuration is wrong"),
];

pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("OCPS_SOCKET", "path of the daemon's socket, unless --socket is given"),
    ("NO_COLOR", "when set, nothing is coloured; only terminals ever are"),
];

/// The help of a command, or of the whole program.
pub(super) fn text(verb: Option<Verb>) -> String {
    match verb.map(command) {
        Some(command) => of_command(command),
        None => of_program(),
    }
}

fn of_program() -> String {
    let mut out = String::from("ocps: runs data pipelines on command of the Rubin Observatory\n\n");
    out.push_str("Usage: ocps COMMAND [ARGUMENT ...]\n\nCommands:\n");
    for command in COMMANDS {
        entry(&mut out, command.name, command.summary);
    }
    out.push_str("\nFlags:\n");
    entry(&mut out, "-h, --help", "Print help; ocps COMMAND --help explains a command.");
    entry(&mut out, "-V, --version", "Print version, commit, features and libraries; -V the version.");
    section(&mut out, "Environment", ENVIRONMENT);
    section(&mut out, "Exit codes", EXIT_CODES);
    out
}

fn of_command(command: &Command) -> String {
    let arguments =
        if command.arguments.is_empty() { String::new() } else { format!(" {}", command.arguments) };
    let mut out = format!("Usage: ocps {} [FLAG ...]{arguments}\n", command.name);
    for paragraph in command.about {
        out.push('\n');
        for line in wrap(paragraph, WIDTH) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out.push_str("\nFlags:\n");
    for flag in FLAGS.iter().filter(|flag| flag.verbs.contains(&command.verb)) {
        entry(&mut out, &form(flag), flag.help);
    }
    match command.verb {
        Verb::Send | Verb::Console => {
            out.push('\n');
            out.push_str(&commands_of_the_daemon());
        }
        Verb::Watch => {
            out.push_str("\nTopics:\n");
            for line in wrap(&TOPICS.join(" "), WIDTH - 2) {
                out.push_str(&format!("  {line}\n"));
            }
        }
        Verb::Run | Verb::State | Verb::Status | Verb::Jobs | Verb::Check | Verb::Generate | Verb::Help => {}
    }
    if !command.examples.is_empty() {
        out.push_str("\nExamples:\n");
        for (example, meaning) in command.examples {
            out.push_str(&format!("  {example}\n      {meaning}\n"));
        }
    }
    section(&mut out, "Exit codes", EXIT_CODES);
    out
}

/// The commands of the daemon and their parameters.
pub(crate) fn commands_of_the_daemon() -> String {
    let mut out = String::from("Commands of the daemon and their parameters:\n");
    for command in CommandName::ALL {
        out.push_str(&format!("  {}\n", command.as_str()));
        for field in parameters(command) {
            entry(&mut out, &format!("  {}=", field.name), field.help);
        }
    }
    out
}

/// How a flag is written.
pub(super) fn form(flag: &Flag) -> String {
    let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    match flag.action {
        Action::Value { name, .. } => format!("{short}--{} {name}", flag.name),
        Action::Help | Action::Version | Action::Switch(_) => format!("{short}--{}", flag.name),
    }
}

fn section(out: &mut String, title: &str, entries: &[(&str, &str)]) {
    out.push_str(&format!("\n{title}:\n"));
    for (name, meaning) in entries {
        entry(out, name, meaning);
    }
}

/// A name and, in a column of its own, what it means.
fn entry(out: &mut String, name: &str, meaning: &str) {
    let mut left = format!("  {name}");
    if left.len() >= COLUMN {
        out.push_str(&left);
        out.push('\n');
        left.clear();
    }
    for line in wrap(meaning, WIDTH - COLUMN) {
        out.push_str(&format!("{left:<COLUMN$}{line}\n"));
        left.clear();
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_in_80_columns_and_tells_the_exit_codes() {
        for verb in Verb::ALL.into_iter().map(Some).chain([None]) {
            let text = text(verb);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{verb:?}: {line:?}");
                assert_eq!(line, line.trim_end(), "{verb:?}: blanks at the end");
            }
            assert!(text.contains("\n  78                      the configuration is wrong\n"), "{text}");
            assert!(!text.contains("\n\n\n"), "{text}");
        }
    }

    #[test]
    fn help_shows_every_flag_of_a_command_and_no_other() {
        for command in COMMANDS {
            let text = of_command(command);
            for flag in FLAGS {
                let shown = text.contains(&format!("  {}", form(flag)));
                assert_eq!(shown, flag.verbs.contains(&command.verb), "{}: --{}", command.name, flag.name);
            }
        }
    }

    #[test]
    fn the_columns_leave_room_for_the_longest_name() {
        let names = FLAGS.iter().map(form).chain(COMMANDS.iter().map(|command| command.name.to_owned()));
        for name in names {
            assert!(name.len() + 3 <= COLUMN, "{name}");
        }
    }

    #[test]
    fn help_of_send_names_all_commands_and_parameters() {
        let text = text(Some(Verb::Send));
        for command in CommandName::ALL {
            assert!(text.contains(&format!("\n  {}\n", command.as_str())));
            for field in parameters(command) {
                assert!(text.contains(&format!("\n    {}=", field.name)), "{}", field.name);
            }
        }
    }
}
