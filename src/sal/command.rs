//! Commands parsed into the core's types: names, parameters, types and values.

use std::collections::BTreeMap;

use super::Value;
use super::topic::{FieldType, parameters};
use crate::csc::command::{CommandKind, CommandName, Execute};
use crate::csc::id::JobId;
use crate::text::{nearest, quoted};

/// Parses a command; what cannot be carried out becomes an [`CommandKind::Invalid`] that says why.
///
/// A missing parameter has its default, as everywhere in SAL. A value is `None` if it is of a type that no parameter
/// has.
pub fn parse(name: &str, params: impl IntoIterator<Item = (String, Option<Value>)>) -> CommandKind {
    let Some(command) = CommandName::parse(name) else {
        let known: Vec<&str> = CommandName::ALL.iter().map(|name| name.as_str()).collect();
        let reason = format!("unknown command {}: one of {}", quoted(name), known.join(", "));
        return CommandKind::Invalid { name: None, reason };
    };
    let kind = Params::new(command, params).and_then(|params| kind(command, params));
    kind.unwrap_or_else(|reason| CommandKind::Invalid { name: Some(command), reason })
}

fn kind(command: CommandName, mut params: Params) -> Result<CommandKind, String> {
    Ok(match command {
        CommandName::Start => CommandKind::Start { override_name: params.text("configurationOverride") },
        CommandName::Enable => CommandKind::Enable,
        CommandName::Disable => CommandKind::Disable,
        CommandName::Standby => CommandKind::Standby,
        CommandName::ExitControl => CommandKind::ExitControl,
        CommandName::SetLogLevel => CommandKind::SetLogLevel { level: params.log_level()? },
        CommandName::AbortJob => CommandKind::AbortJob(JobId::parse(params.text("job_id").trim())?),
        CommandName::Execute => CommandKind::Execute(Execute {
            prereq_jobs: Execute::parse_prereq_jobs(&params.text("prereq_jobs"))?,
            pipeline: params.text("pipeline"),
            version: params.text("version"),
            config: params.text("config"),
            data_query: params.text("data_query"),
            output_dataset_types: params.text("output_dataset_types"),
        }),
    })
}

/// Parameters whose names and types are those of the command.
struct Params(BTreeMap<String, Value>);

impl Params {
    fn new(
        command: CommandName,
        params: impl IntoIterator<Item = (String, Option<Value>)>,
    ) -> Result<Self, String> {
        let checked = params.into_iter().map(|(name, value)| {
            let field = parameters(command).iter().find(|(known, _)| *known == name);
            let (_, kind) = field.ok_or_else(|| unknown_parameter(command, &name))?;
            let value = value.filter(|value| value.kind() == *kind);
            Ok((name.clone(), value.ok_or_else(|| wrong_type(&name, *kind))?))
        });
        checked.collect::<Result<_, String>>().map(Self)
    }

    fn text(&mut self, name: &str) -> String {
        let Some(Value::String(text)) = self.0.remove(name) else { return String::new() };
        text
    }

    fn log_level(&mut self) -> Result<i32, String> {
        let problem = match self.0.get("level") {
            Some(Value::Int(level @ 0..)) => return Ok(*level),
            Some(Value::Int(level)) => format!("level {level} is negative"),
            Some(Value::String(_) | Value::Boolean(_) | Value::Double(_)) | None => {
                "level is missing".to_owned()
            }
        };
        Err(format!("{problem}: 10 debug, 20 info, 30 warning, 40 error"))
    }
}

fn unknown_parameter(command: CommandName, name: &str) -> String {
    let known: Vec<&str> = parameters(command).iter().map(|(name, _)| *name).collect();
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("unknown parameter {}: did you mean {near}?", quoted(name));
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("unknown parameter {}: {} takes {known}", quoted(name), command.as_str())
}

fn wrong_type(name: &str, kind: FieldType) -> String {
    let expected = match kind {
        FieldType::String => "a string",
        FieldType::Int => "an integer of 32 bits",
        FieldType::Boolean => "true or false",
        FieldType::Float | FieldType::Double => "a number",
    };
    format!("parameter {name:?} must be {expected}")
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "any other variant fails the test")]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, Value)]) -> Vec<(String, Option<Value>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Some(value.clone()))).collect()
    }

    #[test]
    fn an_invalid_command_has_a_reason() {
        let check = |name: &str, pairs: &[(&str, Value)], expected: &str| {
            let kind = parse(name, params(pairs));
            let CommandKind::Invalid { reason, .. } = kind else { panic!("{kind:?} instead of {expected}") };
            assert!(reason.contains(expected), "{reason}");
        };
        check("exec", &[], "unknown command \"exec\": one of abort_job, disable,");
        check("enable", &[("x", "1".into())], "unknown parameter \"x\": enable takes none");
        check("execute", &[("pipline", "a".into())], "unknown parameter \"pipline\": did you mean pipeline?");
        check("execute", &[("pipeline", Value::Int(1))], "\"pipeline\" must be a string");
        check(
            "execute",
            &[("pipeline", "a".into()), ("prereq_jobs", "b,../c".into())],
            "Invalid job id: \"../c\"",
        );
        check("abort_job", &[], "Invalid job id: \"\"");
        check("abort_job", &[("job_id", "..".into())], "Invalid job id: \"..\"");
        check("setLogLevel", &[], "level is missing");
        check("setLogLevel", &[("level", "10".into())], "\"level\" must be an integer");
        check("setLogLevel", &[("level", Value::Int(-1))], "level -1 is negative");
        check("start", &[("configurationOverride", Value::Boolean(true))], "must be a string");
    }

    #[test]
    fn empty_items_and_duplicates_in_prereq_jobs_are_dropped() {
        let pairs = [("pipeline", "a".into()), ("prereq_jobs", ",b, c ,,b,".into())];
        let CommandKind::Execute(execute) = parse("execute", params(&pairs)) else { panic!() };
        let ids: Vec<&str> = execute.prereq_jobs.iter().map(JobId::as_str).collect();
        assert_eq!(ids, ["b", "c"]);
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        assert!(Execute::parse_prereq_jobs(&many.join(",")).unwrap_err().contains("more than 100"));
    }

    #[test]
    fn a_value_of_no_type_is_refused_and_parameters_have_their_defaults() {
        let kind = parse("execute", [("pipeline".to_owned(), None)]);
        let reason = "parameter \"pipeline\" must be a string".to_owned();
        assert_eq!(kind, CommandKind::Invalid { name: Some(CommandName::Execute), reason });
        assert_eq!(parse("start", Vec::new()), CommandKind::Start { override_name: String::new() });
        for name in ["enable", "disable", "standby", "exitControl"] {
            assert_eq!(parse(name, Vec::new()).name(), CommandName::parse(name));
        }
    }
}
