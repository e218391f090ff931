//! The job that a PUT asks for. Invariant: whatever the values are, the job gets exactly these, and no other variable.

use serde::Serialize;
use serde_json::json;

use crate::config::settings;
use crate::csc::command::Execute;
use crate::csc::configuration::Service;
use crate::csc::id::RunId;
use crate::csc::request::{Payload, Submission};

impl Payload for settings::Uws {
    /// What dm_OCPS sends, so that the job scripts (lsst-dm/uws_scripts) work unchanged;
    /// EUPS_TAG is what these scripts really read for the version.
    fn submission(&self, service: &Service, run_id: RunId, execute: &Execute) -> Submission {
        let Execute { pipeline, version, config, data_query, prereq_jobs: _, output_dataset_types } = execute;
        let input = service.input_collection.as_ref().map_or(String::new(), |name| format!("-i {name} "));
        let output_glob = if output_dataset_types.is_empty() {
            service.output_glob.as_deref().unwrap_or("*")
        } else {
            output_dataset_types
        };
        // A blank tag is a broken job template at the service.
        let is_image = self.version_selects_image && !version.trim().is_empty();
        let variables = [
            ("IMAGE_TAG", Some(version.clone())),
            ("PIPELINE_URL", Some(pipeline.clone())),
            ("BUTLER_REPO", service.butler.clone()),
            ("RUN_OPTIONS", Some(format!("{input}{config}"))),
            ("OUTPUT_GLOB", Some(output_glob.to_owned())),
            ("DATA_QUERY", Some(data_query.clone())),
            ("EUPS_TAG", Some(version.clone()).filter(|version| !version.is_empty())),
            ("UWS_JOB_IMAGE_TAG", is_image.then(|| version.clone())),
        ];
        let set = variables.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
        Submission {
            run_id,
            command: self.command.clone(),
            source_url: self.source_url.clone(),
            commit_ref: self.commit_ref.clone(),
            environment: set.collect(),
            pipeline: pipeline.clone(),
        }
    }
}

/// What a PUT sends.
#[derive(Serialize)]
struct Body<'a> {
    run_id: &'a str,
    command: &'a str,
    url: String,
    commit_ref: String,
    environment: Vec<Variable<'a>>,
}

#[derive(Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: String,
}

/// The JSON text that asks the service for this job.
pub(super) fn body(submission: &Submission) -> serde_json::Result<String> {
    let variables = submission.environment.iter();
    let body = Body {
        run_id: submission.run_id.as_str(),
        command: &submission.command,
        url: escape(&submission.source_url),
        commit_ref: escape(&submission.commit_ref),
        environment: variables.map(|(name, value)| Variable { name, value: escape(value) }).collect(),
    };
    serde_json::to_string(&body)
}

/// A value as the inside of a JSON string.
///
/// The service pastes url, commit_ref and the environment's values, as they are, between double quotes
/// into a YAML text. YAML reads the escapes of JSON, so that this form arrives as what was written;
/// raw, a quote or backslash breaks the job or changes the value, and a crafted one adds variables.
/// Beyond what JSON demands, the characters are escaped that YAML refuses (DEL, C1, U+FFFE, U+FFFF)
/// or takes for line breaks and marks (U+0085, U+2028, U+2029, U+FEFF).
fn escape(value: &str) -> String {
    let quoted = json!(value).to_string();
    let inside = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default();
    let mut escaped = String::with_capacity(inside.len());
    for c in inside.chars() {
        match c {
            '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn the_environment_is_that_of_the_job_scripts() {
        let versions = ["", " ", "w_2025_20"];
        for n in 0..32_u32 {
            let is = |bit: u32| n & (1 << bit) != 0;
            for version in versions {
                let of = Execute {
                    pipeline: "p.yaml".to_owned(),
                    version: version.to_owned(),
                    config: "-c x:y=\"1\" \\d".to_owned(),
                    data_query: "exposure=1".to_owned(),
                    prereq_jobs: Vec::new(),
                    output_dataset_types: if is(0) { "raw,calexp".to_owned() } else { String::new() },
                };
                let service = Service {
                    url: "http://uws".into(),
                    poll_interval: Duration::from_secs(1),
                    butler: is(1).then(|| "/repo".to_owned()),
                    input_collection: is(2).then(|| "in/coll".to_owned()),
                    output_glob: is(3).then(|| "postISR*".to_owned()),
                };
                let mut expected = vec![("IMAGE_TAG", version), ("PIPELINE_URL", "p.yaml")];
                if is(1) {
                    expected.push(("BUTLER_REPO", "/repo"));
                }
                let options = if is(2) { "-i in/coll -c x:y=\"1\" \\d" } else { "-c x:y=\"1\" \\d" };
                expected.push(("RUN_OPTIONS", options));
                let glob = match (is(0), is(3)) {
                    (true, _) => "raw,calexp",
                    (false, true) => "postISR*",
                    (false, false) => "*",
                };
                expected.push(("OUTPUT_GLOB", glob));
                expected.push(("DATA_QUERY", "exposure=1"));
                if !version.is_empty() {
                    expected.push(("EUPS_TAG", version));
                }
                if is(4) && version == "w_2025_20" {
                    expected.push(("UWS_JOB_IMAGE_TAG", version));
                }
                let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.into(), v.to_owned())).collect();
                let uws = settings::Uws { version_selects_image: is(4), ..Settings::default().uws };
                let run_id = RunId::parse("1-a").unwrap();
                assert_eq!(uws.submission(&service, run_id, &of).environment, expected);
            }
        }
    }

    #[test]
    fn values_without_special_characters_are_unchanged() {
        for plain in [
            "",
            "a'b",
            "{{x}}",
            "#x",
            "a: b",
            "  both ends  ",
            "é€😀",
            "instrument='LATISS' and exposure IN (2022112000001)",
            &"x".repeat(5000),
        ] {
            assert_eq!(escape(plain), plain);
        }
    }

    #[test]
    fn escaped_values_read_as_json_strings_give_the_original() {
        for (value, escaped) in [
            ("a\"b", r#"a\"b"#),
            ("physical_filter=\"y\"", r#"physical_filter=\"y\""#),
            (r"a\d", r"a\\d"),
            (r"C:\temp", r"C:\\temp"),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1}\u{7f}\u{85}\u{2028}\u{feff}", r"\u0001\u007f\u0085\u2028\ufeff"),
            ("x\"\n          - name: \"Y", r#"x\"\n          - name: \"Y"#),
        ] {
            assert_eq!(escape(value), escaped);
            assert_eq!(serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap(), value);
        }
    }

    #[test]
    fn no_character_leaves_its_quotes() {
        let all: Vec<char> = (0..=0x10ffff).filter_map(char::from_u32).collect();
        for some in all.chunks(8192) {
            let text: String = some.iter().flat_map(|c| [*c, *c]).collect();
            assert_eq!(serde_json::from_str::<String>(&format!("\"{}\"", escape(&text))).unwrap(), text);
        }
    }
}
