//! Reads the lines of the console.

use std::io;

use serde_json::{Map, Value};

use super::super::client::{JOBS, Lines, STATUS, read_lines};
use super::super::flags::unknown;
use super::super::send::command_line;
use crate::csc::command::CommandName;

/// Maximum length of a line, in bytes, as at the daemon.
const LINE_MAX: u64 = 1 << 20;

/// The commands of the console itself.
const OWN_WORDS: [&str; 4] = [STATUS, JOBS, "help", "quit"];

/// All commands with which a line can begin.
pub(super) fn first_words() -> impl Iterator<Item = &'static str> {
    CommandName::ALL.iter().map(|name| name.as_str()).chain(OWN_WORDS)
}

/// The request in a line.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// An empty line, or a comment.
    Nothing,
    /// Send a command.
    Send(CommandName, Map<String, Value>),
    /// Query a document of the daemon.
    Ask(&'static str),
    /// Print help.
    Help,
    /// End the session.
    Quit,
}

/// Reads standard input, one line ahead.
///
/// # Errors
/// The system refuses a thread.
pub(super) fn read_standard_input() -> io::Result<Lines> {
    read_lines("stdin", io::stdin(), LINE_MAX, 1)
}

/// The request in a line of standard input.
///
/// # Errors
/// One line that says what is wrong with it and what was probably meant.
pub(super) fn request(line: io::Result<Vec<u8>>) -> Result<Request, String> {
    let line = line.map_err(|error| error.to_string())?;
    parse(str::from_utf8(&line).map_err(|_| "the line is not UTF-8")?)
}

/// The request in a line.
///
/// # Errors
/// As for [`request`].
pub(super) fn parse(line: &str) -> Result<Request, String> {
    let words = shlex::split(line).ok_or("unterminated quote, or nothing after the last \\")?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((name, parameters)) = words.split_first() else { return Ok(Request::Nothing) };
    let own = match *name {
        "status" | "state" => Request::Ask(STATUS),
        "jobs" => Request::Ask(JOBS),
        "help" => Request::Help,
        "quit" | "exit" => Request::Quit,
        _ if CommandName::parse(name).is_none() => {
            return Err(format!("{} (type help)", unknown("command", name, first_words())));
        }
        _ => {
            let (command, params) = command_line(name, parameters)?;
            return Ok(Request::Send(command, params));
        }
    };
    if parameters.is_empty() { Ok(own) } else { Err(format!("{name} takes no parameters")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_requests() {
        let check = |line, request| assert_eq!(parse(line), Ok(request), "{line}");
        check("", Request::Nothing);
        check("  # execute", Request::Nothing);
        check("status", Request::Ask(STATUS));
        check("state", Request::Ask(STATUS));
        check(" jobs ", Request::Ask(JOBS));
        check("help", Request::Help);
        check("quit", Request::Quit);
        check("exit", Request::Quit);
        let params = |value: Value| value.as_object().cloned().unwrap_or_default();
        let execute = json!({"pipeline": "true.yaml", "data_query": "visit = 3"});
        check(
            "execute pipeline=true.yaml data_query='visit = 3'",
            Request::Send(CommandName::Execute, params(execute)),
        );
        let config = json!({"config": r#"{"a":"b c"}"#, "version": ""});
        check(
            r#"execute  config="{\"a\":\"b c\"}" version="#,
            Request::Send(CommandName::Execute, params(config)),
        );
        check("setLogLevel level=10", Request::Send(CommandName::SetLogLevel, params(json!({"level": 10}))));
    }

    #[test]
    fn a_typo_is_answered_with_what_was_meant() {
        let check = |line, reason: &str| assert_eq!(parse(line), Err(reason.to_owned()));
        check("exectue pipeline=x", "unknown command exectue: did you mean execute? (type help)");
        check("stauts", "unknown command stauts: did you mean status? (type help)");
        check("frobnicate", "unknown command frobnicate (type help)");
        check("status now", "status takes no parameters");
        check("setLogLevel level=x", "level must be a 32-bit integer, not x");
        check("execute true.yaml", "true.yaml is not NAME=VALUE: did you mean pipeline=true.yaml?");
        for unterminated in ["execute 'b", "execute \"b'", "execute b\\"] {
            check(unterminated, "unterminated quote, or nothing after the last \\");
        }
    }

    #[test]
    fn a_line_that_is_no_text_is_reported() {
        assert_eq!(request(Ok(b"\xff".to_vec())), Err("the line is not UTF-8".to_owned()));
        assert_eq!(request(Err(io::Error::other("line too long"))), Err("line too long".to_owned()));
    }
}
