//! What is typed at the console: lines, words, requests.

use std::io::{self, BufRead, Read};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value};

use super::super::client::Query;
use super::super::flags::{command_line, did_you_mean, shown};
use crate::csc::command::CommandName;
use crate::text::nearest;

/// Longest line, in bytes; the daemon takes no longer ones either.
const LINE_MAX: u64 = 1 << 20;

/// Words that are not commands of the daemon.
const OWN_WORDS: [&str; 4] = ["status", "jobs", "help", "quit"];

/// What came on standard input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A line, without its end.
    Line(String),
    /// A line that cannot be used; why.
    Bad(String),
    /// There is no more.
    End,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// Empty, or a comment.
    Nothing,
    /// Send a command.
    Send(CommandName, Map<String, Value>),
    /// Ask the daemon for a document.
    Ask(Query),
    /// Explain.
    Help,
    /// End the session.
    Quit,
}

/// Reads standard input in a thread of its own, one line ahead.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn read_standard_input() -> io::Result<Receiver<Input>> {
    let (sender, receiver) = bounded(1);
    // It ends with its input or with the process: nobody can interrupt a read of standard input.
    thread::Builder::new().name("stdin".into()).spawn(move || read(&mut io::stdin().lock(), &sender))?;
    Ok(receiver)
}

fn read(reader: &mut impl BufRead, sender: &Sender<Input>) {
    loop {
        let mut line = Vec::new();
        let input = match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => Input::End,
            Ok(_) if line.last() != Some(&b'\n') && line.len() as u64 >= LINE_MAX => {
                // What is left of it must not be taken for a line of its own.
                match reader.skip_until(b'\n') {
                    Ok(_) => Input::Bad(format!("a line of more than {LINE_MAX} bytes is too long")),
                    Err(_) => Input::End,
                }
            }
            Ok(_) => match String::from_utf8(line) {
                Ok(line) => Input::Line(line.trim_end_matches(['\n', '\r']).to_owned()),
                Err(_) => Input::Bad("the line is not UTF-8".to_owned()),
            },
            Err(_) => Input::End,
        };
        let last = input == Input::End;
        if sender.send(input).is_err() || last {
            return;
        }
    }
}

/// Parses a line.
///
/// # Errors
/// One line that says what is wrong with it and what was probably meant.
pub(super) fn parse(line: &str) -> Result<Request, String> {
    if line.trim_start().starts_with('#') {
        return Ok(Request::Nothing);
    }
    let words = split(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((name, parameters)) = words.split_first() else { return Ok(Request::Nothing) };
    let own = match *name {
        "status" => Request::Ask(Query::Status),
        "jobs" => Request::Ask(Query::Jobs),
        "help" => Request::Help,
        "quit" | "exit" => Request::Quit,
        _ if CommandName::parse(name).is_none() => {
            let known = CommandName::ALL.map(CommandName::as_str).into_iter().chain(OWN_WORDS);
            let meant = did_you_mean("", nearest(name, known));
            return Err(format!("unknown command {}{meant} (type help)", shown(name)));
        }
        _ => {
            let (command, params) = command_line(name, parameters)?;
            return Ok(Request::Send(command, params));
        }
    };
    if parameters.is_empty() { Ok(own) } else { Err(format!("{name} takes no parameters")) }
}

/// Splits a line into words as a shell does: `'…'` takes all as it is, in `"…"` and outside a backslash
/// takes the next character as it is.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => {
                let Some(next) = chars.next() else { return Err("nothing follows the last \\".to_owned()) };
                // Within quotes a shell keeps the backslash before anything that needs none.
                let keeps = quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`');
                word.get_or_insert_default().extend(keeps.then_some('\\').into_iter().chain([next]));
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a {open} is never closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_quoted_as_in_a_shell() {
        let check = |line, words: &[&str]| assert_eq!(split(line).unwrap(), words, "{line}");
        check("", &[]);
        check("  a\tb  ", &["a", "b"]);
        check(r#"x="a b" y='c "d" \' z="#, &["x=a b", r#"y=c "d" \"#, "z="]);
        check(r#""a\"b\\c\d" e\ f"#, &[r#"a"b\c\d"#, "e f"]);
        check("a''b \"\"", &["ab", ""]);
        check("é='ü'", &["é=ü"]);
        for (bad, reason) in [
            ("a 'b", "a ' is never closed"),
            ("\"b'", "a \" is never closed"),
            ("a\\", "nothing follows the last \\"),
        ] {
            assert_eq!(split(bad).unwrap_err(), reason);
        }
    }

    #[test]
    fn lines_are_requests() {
        let check = |line, request| assert_eq!(parse(line), Ok(request), "{line}");
        check("", Request::Nothing);
        check("  # execute", Request::Nothing);
        check("status", Request::Ask(Query::Status));
        check(" jobs ", Request::Ask(Query::Jobs));
        check("help", Request::Help);
        check("quit", Request::Quit);
        check("exit", Request::Quit);
        let params = |value: Value| value.as_object().cloned().unwrap_or_default();
        let execute = json!({"pipeline": "true.yaml", "data_query": "visit = 3"});
        check(
            "execute pipeline=true.yaml data_query='visit = 3'",
            Request::Send(CommandName::Execute, params(execute)),
        );
        check("setLogLevel level=10", Request::Send(CommandName::SetLogLevel, params(json!({"level": 10}))));
    }

    #[test]
    fn a_typo_is_told_with_what_was_meant() {
        let check = |line, reason: &str| assert_eq!(parse(line), Err(reason.to_owned()));
        check("exectue pipeline=x", "unknown command exectue: did you mean execute? (type help)");
        check("stauts", "unknown command stauts: did you mean status? (type help)");
        check("frobnicate", "unknown command frobnicate (type help)");
        check("status now", "status takes no parameters");
        check("setLogLevel level=x", "level must be a whole number of 32 bits, not x");
        check("execute true.yaml", "true.yaml is not NAME=VALUE");
    }

    #[test]
    fn lines_are_read_one_by_one_and_bad_ones_told() {
        let long = "x".repeat(LINE_MAX as usize + 10);
        let text = [b"a\r\n\xff\n".as_slice(), long.as_bytes(), b"\nb"].concat();
        let (sender, receiver) = bounded(9);
        read(&mut text.as_slice(), &sender);
        drop(sender);
        let expected = [
            Input::Line("a".into()),
            Input::Bad("the line is not UTF-8".into()),
            Input::Bad("a line of more than 1048576 bytes is too long".into()),
            Input::Line("b".into()),
            Input::End,
        ];
        assert_eq!(receiver.iter().collect::<Vec<_>>(), expected);
    }
}
