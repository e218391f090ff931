//! The manual page and the shell completions, made from the table. They are committed under `etc/`; a test compares.

use super::Verb;
use super::help::{ENVIRONMENT, EXIT_CODES, form};
use super::table::{Action, COMMANDS, Command, FLAGS, Flag};
use crate::cli::event_text::TOPICS;
use crate::csc::command::CommandName;
use crate::sal::topic::parameters;

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// ocps(1).
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}

impl Product {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Man, Self::Bash, Self::Zsh, Self::Fish];

    /// What it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Man => "man",
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }

    /// Its text.
    pub(super) fn text(self) -> String {
        match self {
            Self::Man => man(),
            Self::Bash => bash(),
            Self::Zsh => zsh(),
            Self::Fish => fish(),
        }
    }
}

/// What may stand at a place of the command line.
#[derive(Clone, PartialEq)]
enum Choices {
    /// One of these.
    Words(Vec<String>),
    /// The path of a file or directory.
    Paths,
    /// Anything.
    Free,
}

fn words(list: &[&str]) -> Choices {
    Choices::Words(list.iter().map(|word| (*word).to_owned()).collect())
}

const INDEXES: &[&str] = &["1", "2", "3", "101", "LATISS", "LSSTComCam", "LSSTCam", "RA"];

/// The values of a flag.
fn values(name: &str) -> Choices {
    match name {
        "FILE" | "DIR" | "PATH" => Choices::Paths,
        "STATE" => words(&["standby", "disabled", "enabled", "resume"]),
        "INDEX" => words(INDEXES),
        "LEVEL" => words(&["debug", "info", "warning", "error"]),
        _ => Choices::Free,
    }
}

/// The arguments of a command.
fn arguments(verb: Verb) -> Choices {
    match verb {
        Verb::Run => words(INDEXES),
        Verb::Send => Choices::Words(sendable()),
        Verb::State => words(&["standby", "disabled", "enabled", "offline"]),
        Verb::Watch => words(TOPICS),
        Verb::Check => Choices::Paths,
        Verb::Generate => words(&Product::ALL.map(Product::name)),
        Verb::Help => words(&COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>()),
        Verb::Status | Verb::Jobs | Verb::Console => Choices::Free,
    }
}

/// The commands of the daemon, then their parameters.
fn sendable() -> Vec<String> {
    let names = CommandName::ALL.iter().map(|command| command.as_str().to_owned());
    let fields = CommandName::ALL.into_iter().flat_map(parameters);
    names.chain(fields.map(|field| format!("{}=", field.name))).collect()
}

fn flags_of(verb: Verb) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(move |flag| flag.verbs.contains(&verb))
}

fn value_of(flag: &Flag) -> Option<&'static str> {
    match flag.action {
        Action::Value { name, .. } => Some(name),
        Action::Help | Action::Version | Action::Switch(_) => None,
    }
}

/// What a completion says of a flag: the beginning of its help, up to the first stop or default.
fn brief(flag: &Flag) -> &'static str {
    let end = [". ", " [default", ": ", "; "].iter().filter_map(|end| flag.help.find(end)).min();
    flag.help.get(..end.unwrap_or(flag.help.len())).unwrap_or(flag.help).trim_end_matches('.')
}

const MADE: &str = "Made with `make generate` from src/cli/flags.";

fn man() -> String {
    let mut out = format!(".\\\" {MADE}\n.TH OCPS 1 \"\" \"ocps\" \"User Commands\"\n");
    out.push_str(".SH NAME\nocps \\- runs data pipelines on command of the Rubin Observatory\n");
    out.push_str(".SH SYNOPSIS\n");
    let usage = COMMANDS.iter().map(|Command { name, arguments, .. }| {
        let rest = if arguments.is_empty() { String::new() } else { format!(" {}", roff(arguments)) };
        format!(".B ocps {name}\n[FLAG ...]{rest}\n")
    });
    out.push_str(&usage.collect::<Vec<_>>().join(".br\n"));
    out.push_str(
        ".SH DESCRIPTION\nThe OCS-Controlled Pipeline System takes commands, submits jobs to an execution service, \
         watches them to their end, and tells the world with acks and events. This program is both the daemon \
         (\\fBocps run\\fR) and its clients, which reach it over a local socket.\n",
    );
    out.push_str(".SH COMMANDS\n");
    for command in COMMANDS {
        out.push_str(&man_command(command));
    }
    out.push_str(".SH FLAGS\n");
    for flag in FLAGS {
        let takers: Vec<&str> =
            COMMANDS.iter().filter(|c| flag.verbs.contains(&c.verb)).map(|c| c.name).collect();
        let takers =
            if takers.len() == COMMANDS.len() { "all commands".to_owned() } else { takers.join(", ") };
        out.push_str(&format!(".TP\n.B {}\n{}\n.br\nOf: {takers}.\n", roff(&form(flag)), roff(flag.help)));
    }
    let daemon = [
        ("LSST_SITE", "the site, whose _<site>.yaml is read; wins over ocps.toml"),
        ("DM_CONFIG_OCPS_DIR", "the component configuration is in OCPS/v4 there; wins over ocps.toml"),
    ];
    let files = [
        ("/etc/ocps/ocps.toml", "the settings of the daemon, see ocps.toml(5)"),
        ("/etc/ocps/ocps.env", "the environment of the service"),
        ("/etc/ocps/OCPS/v4", "the component configuration"),
        ("/run/ocps/ocps.sock", "the socket, see ocps-protocol(7); that of ocps@2 is in /run/ocps-2"),
        ("/var/lib/ocps", "what survives a restart"),
    ];
    let environment: Vec<(&str, &str)> = ENVIRONMENT.iter().chain(&daemon).copied().collect();
    for (title, entries) in
        [("ENVIRONMENT", environment.as_slice()), ("EXIT STATUS", EXIT_CODES), ("FILES", &files)]
    {
        out.push_str(&format!(".SH {title}\n"));
        for (name, meaning) in entries {
            out.push_str(&format!(".TP\n.B {}\n{}\n", roff(name), roff(meaning)));
        }
    }
    out.push_str(".SH SEE ALSO\n.BR ocps.toml (5),\n.BR ocps\\-protocol (7),\n.BR systemctl (1)\n");
    out
}

fn man_command(command: &Command) -> String {
    let mut out = format!(".SS ocps {} {}\n", command.name, roff(command.arguments)).replace(" \n", "\n");
    let mut paragraphs = Vec::new();
    paragraphs.extend(command.about.iter().map(|paragraph| roff(paragraph)));
    let flags: Vec<String> = flags_of(command.verb).map(|flag| format!("--{}", flag.name)).collect();
    paragraphs.push(roff(&format!("Flags: {}.", flags.join(", "))));
    out.push_str(&paragraphs.join("\n.PP\n"));
    out.push('\n');
    if command.verb == Verb::Send {
        for name in CommandName::ALL {
            out.push_str(&format!(".TP\n.B {}\n", name.as_str()));
            for field in parameters(name) {
                out.push_str(&format!(".RS\n.TP\n.BR {}=\n{}\n.RE\n", roff(field.name), roff(field.help)));
            }
        }
    }
    for (example, meaning) in command.examples {
        out.push_str(&format!(
            ".PP\n.RS 4\n.nf\n$ {}\n.fi\n.RS 4\n{}\n.RE\n.RE\n",
            roff(example),
            roff(meaning)
        ));
    }
    out
}

/// Text as it is, in the language of manual pages.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The choices in a language in which words, paths and the rest are written so.
fn choose(choices: &Choices, words: impl Fn(&str) -> String, paths: &str, free: &str) -> String {
    match choices {
        Choices::Words(list) => words(&list.join(" ")),
        Choices::Paths => paths.to_owned(),
        Choices::Free => free.to_owned(),
    }
}

fn bash() -> String {
    let complete = |choices: &Choices| {
        choose(
            choices,
            |list| format!("COMPREPLY=($(compgen -W '{list}' -- \"$word\"))"),
            "compopt -o default",
            "return",
        )
    };
    let mut valued = String::new();
    for flag in FLAGS {
        if let Some(name) = value_of(flag) {
            valued.push_str(&format!("    --{}) {}; return ;;\n", flag.name, complete(&values(name))));
        }
    }
    let mut verbs = String::new();
    for command in COMMANDS {
        let flags: Vec<String> = flags_of(command.verb).map(|flag| format!("--{}", flag.name)).collect();
        verbs.push_str(&format!(
            "    {})\n      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n      \
             else {}; fi ;;\n",
            command.name,
            flags.join(" "),
            complete(&arguments(command.verb))
        ));
    }
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let names = names.join(" ");
    format!(
        "# bash completion for ocps. {MADE}\n\
         _ocps() {{\n  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb='' i\n  \
         COMPREPLY=()\n  [[ $word == = ]] && word=''\n  \
         [[ $before == = && $COMP_CWORD -ge 2 ]] && before=${{COMP_WORDS[COMP_CWORD-2]}}\n  \
         case $(basename -- \"$1\") in\n    run_*) verb=run ;;\n    \
         *) for ((i = 1; i < COMP_CWORD; i++)); do\n      \
         [[ ${{COMP_WORDS[i]}} == -* ]] || {{ verb=${{COMP_WORDS[i]}}; break; }}\n    done ;;\n  esac\n  \
         case $before in\n{valued}  esac\n  case $verb in\n    \
         '') COMPREPLY=($(compgen -W '{names} --help --version' -- \"$word\")) ;;\n{verbs}  esac\n  \
         # A parameter goes on after its =.\n  \
         [[ ${{COMPREPLY[0]-}} != *= ]] || compopt -o nospace\n}}\n\
         complete -F _ocps ocps run_ocps run_OCPS.py\n"
    )
}

/// Text in the specifications of zsh's `_arguments`, within single quotes.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    text.replace('\'', "'\\''")
}

fn zsh() -> String {
    let action = |choices: &Choices| {
        let words = |list: &str| {
            // The values of parameters follow at once.
            if list.contains('=') { format!("{{compadd -S \"\" -- {list}}}") } else { format!("({list})") }
        };
        choose(choices, words, "_files", " ")
    };
    let mut verbs = String::new();
    let mut names = String::new();
    for command in COMMANDS {
        names.push_str(&format!("    '{}:{}'\n", command.name, zsh_text(command.summary)));
        verbs.push_str(&format!("    {})\n      _arguments", command.name));
        for flag in flags_of(command.verb) {
            let value = value_of(flag)
                .map(|name| format!(":{}:{}", zsh_text(name), action(&values(name))))
                .unwrap_or_default();
            let brief = zsh_text(brief(flag));
            let equals = if value.is_empty() { "" } else { "=" };
            verbs.push_str(&format!(" \\\n        '--{}{equals}[{brief}]{value}'", flag.name));
        }
        let choices = arguments(command.verb);
        if choices != Choices::Free {
            verbs.push_str(&format!(" \\\n        '*:{}:{}'", zsh_text(command.arguments), action(&choices)));
        }
        verbs.push_str(" ;;\n");
    }
    format!(
        "#compdef ocps run_ocps run_OCPS.py\n# {MADE}\n_ocps() {{\n  local curcontext=$curcontext state line verb\n  \
         local -a commands\n  commands=(\n{names}  )\n  \
         if [[ $service == run_* ]]; then\n    verb=run\n  else\n    \
         _arguments -C '--help[Print help]' '--version[Print version, commit, features and library versions]' '1:command:->command' '*::argument:->argument' \
         && return\n    \
         if [[ $state == command ]]; then _describe command commands; return; fi\n    verb=$words[1]\n  fi\n  \
         case $verb in\n{verbs}  esac\n}}\n_ocps \"$@\"\n"
    )
}

fn fish() -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let take = |choices: &Choices| choose(choices, |list| format!(" -x -a {}", quote(list)), " -r -F", " -x");
    let mut out = format!(
        "# fish completion for ocps. {MADE}\n\
         complete -c ocps -f\n\
         complete -c run_ocps -w 'ocps run'\ncomplete -c run_OCPS.py -w 'ocps run'\n\
         complete -c ocps -n __fish_use_subcommand -l help -s h -d 'Print help'\n\
         complete -c ocps -n __fish_use_subcommand -l version -s V -d 'Print the version'\n"
    );
    for command in COMMANDS {
        let here = format!("complete -c ocps -n '__fish_seen_subcommand_from {}'", command.name);
        let summary = quote(command.summary);
        out.push_str(&format!(
            "complete -c ocps -n __fish_use_subcommand -a {} -d {summary}\n",
            command.name
        ));
        for flag in flags_of(command.verb) {
            let value = value_of(flag).map(|name| take(&values(name))).unwrap_or_default();
            out.push_str(&format!("{here} -l {}{value} -d {}\n", flag.name, quote(brief(flag))));
        }
        match arguments(command.verb) {
            Choices::Words(list) => out.push_str(&format!("{here} -a {}\n", quote(&list.join(" ")))),
            Choices::Paths => out.push_str(&format!("{here} -F\n")),
            Choices::Free => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_made() {
        for (product, path) in [
            (Product::Man, "etc/man/ocps.1"),
            (Product::Bash, "etc/completions/ocps.bash"),
            (Product::Zsh, "etc/completions/ocps.zsh"),
            (Product::Fish, "etc/completions/ocps.fish"),
        ] {
            let committed = std::fs::read_to_string(path).unwrap_or_default();
            assert!(committed == product.text(), "{path} is not what the flags make: run `make generate`");
        }
    }

    #[test]
    fn the_manuals_by_hand_name_all_there_is() {
        let page = std::fs::read_to_string("etc/man/ocps-protocol.7").unwrap();
        for word in TOPICS.iter().copied().chain(CommandName::ALL.map(CommandName::as_str)) {
            assert!(page.contains(word), "ocps-protocol(7) does not name {word}");
        }
        let page = std::fs::read_to_string("etc/man/ocps.toml.5").unwrap();
        for line in std::fs::read_to_string("etc/ocps.toml").unwrap().lines() {
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

    #[test]
    fn every_flag_is_in_every_product() {
        for product in Product::ALL {
            let text = product.text();
            for flag in FLAGS {
                let name = match product {
                    Product::Man => roff(&format!("--{}", flag.name)),
                    Product::Bash | Product::Zsh => format!("--{}", flag.name),
                    Product::Fish => format!("-l {}", flag.name),
                };
                assert!(text.contains(&name), "{product:?}: {name}");
            }
        }
    }

    #[test]
    fn choices_are_what_parsing_takes() {
        for flag in FLAGS {
            let Action::Value { name, set } = flag.action else { continue };
            let Choices::Words(list) = values(name) else { continue };
            for word in list {
                let mut draft = super::super::table::Draft::default();
                assert_eq!(set(&mut draft, std::ffi::OsStr::new(&word)), Ok(()), "--{} {word}", flag.name);
            }
        }
        assert_eq!(roff(".a-b\\"), "\\&.a\\-b\\e");
    }
}
