//! Commands as they come, parsed into the core's types: names, parameters, types and values.

use super::Value;
use super::topic::{Field, FieldType, parameters};
use crate::csc::command::{CommandName, Execute, Order};
use crate::csc::id::JobId;
use crate::text::quoted;

/// Parses a command; what cannot be carried out becomes an [`Order::Invalid`] that says why.
///
/// A parameter that is not given has its default, as everywhere in SAL.
#[must_use]
pub fn parse(name: &str, params: Vec<(String, Value)>) -> Order {
    let Some(command) = CommandName::parse(name) else {
        return Order::Invalid { name: None, reason: unknown_command(name) };
    };
    parse_known(command, params).unwrap_or_else(|reason| Order::Invalid { name: Some(command), reason })
}

fn parse_known(command: CommandName, params: Vec<(String, Value)>) -> Result<Order, String> {
    let mut params = Params::new(command, params)?;
    Ok(match command {
        CommandName::Start => Order::Start { override_name: params.text("configurationOverride") },
        CommandName::Enable => Order::Enable,
        CommandName::Disable => Order::Disable,
        CommandName::Standby => Order::Standby,
        CommandName::ExitControl => Order::ExitControl,
        CommandName::SetLogLevel => Order::SetLogLevel { level: log_level(params.int("level"))? },
        CommandName::AbortJob => Order::AbortJob(JobId::parse(params.text("job_id").trim())?),
        CommandName::Execute => {
            let prereq_jobs = Execute::parse_prereq_jobs(&params.text("prereq_jobs"))?;
            Order::Execute(Execute {
                pipeline: params.text("pipeline"),
                version: params.text("version"),
                config: params.text("config"),
                data_query: params.text("data_query"),
                prereq_jobs,
                output_dataset_types: params.text("output_dataset_types"),
            })
        }
    })
}

fn log_level(level: Option<i32>) -> Result<i32, String> {
    match level {
        Some(level) if level >= 0 => Ok(level),
        Some(level) => Err(format!("level {level} is negative: 10 debug, 20 info, 30 warning, 40 error")),
        None => Err("level is missing: 10 debug, 20 info, 30 warning, 40 error".to_owned()),
    }
}

fn unknown_command(name: &str) -> String {
    let known: Vec<&str> = CommandName::ALL.into_iter().map(CommandName::as_str).collect();
    format!("unknown command {}: one of {}", quoted(name), known.join(", "))
}

/// Parameters whose names and types are those of the command.
struct Params(Vec<(String, Value)>);

impl Params {
    fn new(command: CommandName, params: Vec<(String, Value)>) -> Result<Self, String> {
        for (name, value) in &params {
            let Some(field) = parameters(command).iter().find(|field| field.name == name) else {
                return Err(unknown_parameter(command, name));
            };
            if value.kind() != field.kind {
                return Err(wrong_type(field));
            }
        }
        Ok(Self(params))
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let position = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.swap_remove(position).1)
    }

    fn text(&mut self, name: &str) -> String {
        match self.take(name) {
            Some(Value::String(text)) => text,
            Some(Value::Int(_) | Value::Boolean(_) | Value::Double(_)) | None => String::new(),
        }
    }

    fn int(&mut self, name: &str) -> Option<i32> {
        match self.take(name) {
            Some(Value::Int(number)) => Some(number),
            Some(Value::String(_) | Value::Boolean(_) | Value::Double(_)) | None => None,
        }
    }
}

fn unknown_parameter(command: CommandName, name: &str) -> String {
    let name = quoted(name);
    let known: Vec<&str> = parameters(command).iter().map(|field| field.name).collect();
    let command = command.as_str();
    if known.is_empty() {
        return format!("unknown parameter {name}: {command} takes none");
    }
    format!("unknown parameter {name}: {command} takes {}", known.join(", "))
}

/// Says that a parameter is not of its type.
#[must_use]
pub fn wrong_type(field: &Field) -> String {
    let expected = match field.kind {
        FieldType::String => "a string",
        FieldType::Int => "an integer of 32 bits",
        FieldType::Boolean => "true or false",
        FieldType::Float | FieldType::Double => "a number",
    };
    format!("parameter {:?} must be {expected}", field.name)
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "any other variant fails the test")]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, Value)]) -> Vec<(String, Value)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn what_cannot_be_carried_out_says_why() {
        let check = |name: &str, pairs: &[(&str, Value)], expected: &str| {
            let order = parse(name, params(pairs));
            let Order::Invalid { reason, .. } = order else { panic!("{order:?} instead of {expected}") };
            assert!(reason.contains(expected), "{reason}");
        };
        check("exec", &[], "unknown command \"exec\": one of abort_job, disable,");
        check("enable", &[("x", "1".into())], "unknown parameter \"x\": enable takes none");
        check(
            "execute",
            &[("pipline", "a".into())],
            "unknown parameter \"pipline\": execute takes pipeline, ver",
        );
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
    fn empty_items_and_doubles_of_prereq_jobs_are_dropped() {
        let pairs = [("pipeline", "a".into()), ("prereq_jobs", ",b, c ,,b,".into())];
        let Order::Execute(execute) = parse("execute", params(&pairs)) else { panic!() };
        let ids: Vec<&str> = execute.prereq_jobs.iter().map(JobId::as_str).collect();
        assert_eq!(ids, ["b", "c"]);
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        assert!(Execute::parse_prereq_jobs(&many.join(",")).unwrap_err().contains("more than 100"));
    }

    #[test]
    fn parameters_have_their_defaults() {
        assert_eq!(parse("start", Vec::new()), Order::Start { override_name: String::new() });
        for name in ["enable", "disable", "standby", "exitControl"] {
            assert_eq!(parse(name, Vec::new()).name(), CommandName::parse(name));
        }
    }
}
