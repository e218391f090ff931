//! The service's job object. Invariant: what leaves here is one line of valid JSON of at most 512 KiB
//! with `jobId` and `phase`, and reading it takes memory in proportion to the answer, never more stack than
//! `serde_json`'s limit of 128 levels.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use indexmap::IndexMap;
use serde::de::Error as _;
use serde_json::{Deserializer, Value};
use serde_transcode::Transcoder;

use crate::json::{elements, members};

/// Largest job object that is published, in bytes: it must fit into a Kafka message with room to spare.
const OBJECT_MAX: usize = 512 * 1024;

/// Maximum number of fields of a job object; the genuine one has 13.
const FIELDS_MAX: usize = 1000;

/// The text of an answer.
///
/// Escapes of lone surrogates become U+FFFD: the genuine service writes them for a result file
/// whose name is not UTF-8, and that must not make the whole job unreadable.
///
/// # Errors
/// It is not UTF-8.
pub(super) fn readable(json: &mut [u8]) -> Result<&str, serde_json::Error> {
    replace_lone_surrogates(json);
    std::str::from_utf8(json).map_err(serde_json::Error::custom)
}

/// A job object as it is published: without blanks, on one line, of at most 512 KiB.
///
/// What is too large loses `parameters.environment`, then trailing `results` (with `resultsOmitted`: how many), then
/// all but its ids and its phase, then its run id; and the first of two fields with one name. The caller has found that it is
/// an object, with `jobId` and `phase` short.
///
/// # Errors
/// It is no JSON, or is too large and has too many fields.
pub(super) fn bounded(json: &str) -> Result<String, serde_json::Error> {
    let mut deserializer = Deserializer::from_str(json);
    let compact = serde_json::to_string(&Transcoder::new(&mut deserializer))?;
    deserializer.end()?;
    if compact.len() <= OBJECT_MAX {
        return Ok(compact);
    }
    let mut object = Object::of(&compact)?;
    object.shrink();
    Ok(object.to_json())
}

/// The fields of a JSON object in their order, each with its text as it is written.
pub(super) struct Object<'a>(IndexMap<String, Cow<'a, str>>);

impl<'a> Object<'a> {
    /// Takes an object apart; of fields with the same name the last counts.
    ///
    /// # Errors
    /// It is no object, or has too many fields.
    pub(super) fn of(json: &'a str) -> Result<Self, serde_json::Error> {
        let fields = members(json, FIELDS_MAX)?.into_iter();
        Ok(Self(fields.map(|(key, value)| (key, value.get().into())).collect()))
    }

    /// The text of a field that is a string.
    pub(super) fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.0.get(key)?).ok()
    }

    fn shrink(&mut self) {
        if self.excess() > 0 {
            self.drop_environment();
        }
        if self.excess() > 0 {
            self.drop_results();
        }
        if self.excess() > 0 {
            self.0.retain(|key, _| ["jobId", "runId", "phase"].contains(&key.as_str()));
        }
        if self.excess() > 0 {
            self.0.shift_remove("runId");
        }
    }

    /// By how many bytes the object is too large.
    fn excess(&self) -> usize {
        self.to_json().len().saturating_sub(OBJECT_MAX)
    }

    fn drop_environment(&mut self) {
        let Some(text) = self.0.get_mut("parameters") else { return };
        let Ok(mut parameters) = Object::of(text) else { return };
        parameters.0.shift_remove("environment");
        *text = parameters.to_json().into();
    }

    fn drop_results(&mut self) {
        /// Size of `"resultsOmitted":` with any number and comma.
        const OMITTED_SIZE: usize = 40;
        self.0.shift_remove("resultsOmitted");
        let excess = self.excess();
        let Some((at, _, results)) = self.0.get_full_mut("results") else { return };
        let room = results.len().saturating_sub(excess + OMITTED_SIZE);
        let (mut kept, mut omitted) = (String::new(), 0);
        let is_array = elements(results, |element| {
            if omitted > 0 || kept.len() + element.len() + ",[]".len() > room {
                omitted += 1;
                return;
            }
            let comma = if kept.is_empty() { "" } else { "," };
            kept.extend([comma, element]);
        });
        if is_array.is_err() {
            return;
        }
        *results = format!("[{kept}]").into();
        self.0.shift_insert(at + 1, "resultsOmitted".to_owned(), omitted.to_string().into());
    }

    fn to_json(&self) -> String {
        let field = |(key, value)| format!("{}:{value}", Value::from(String::as_str(key)));
        format!("{{{}}}", self.0.iter().map(field).collect::<Vec<_>>().join(","))
    }
}

/// Overwrites, in place, the `\uXXXX` escapes of surrogates without a partner by `\ufffd`.
fn replace_lone_surrogates(json: &mut [u8]) {
    let mut rest = json;
    while let Some(start) = rest.iter().position(|b| *b == b'\\') {
        let (_, escape) = std::mem::take(&mut rest).split_at_mut(start);
        let is = |at, half: RangeInclusive<u16>| unit(escape, at).is_some_and(|unit| half.contains(&unit));
        let (is_high, is_low) = (is(0, 0xd800..=0xdbff), is(0, 0xdc00..=0xdfff));
        let length = if is_high && is(6, 0xdc00..=0xdfff) { 12 } else { 2.min(escape.len()) };
        if let (true, Some(digits)) = (length == 2 && (is_high || is_low), escape.get_mut(2..6)) {
            digits.copy_from_slice(b"fffd");
        }
        (_, rest) = escape.split_at_mut(length);
    }
}

/// The UTF-16 unit of the `\uXXXX` there, if it is one.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shrunk(json: &Value) -> Value {
        let text = bounded(&json.to_string()).unwrap();
        assert!(text.len() <= OBJECT_MAX, "{}", text.len());
        serde_json::from_str(&text).unwrap()
    }

    fn job(environment: usize, results: usize, info: usize, error: usize) -> Value {
        let results: Vec<_> = (0..results).map(|i| json!({"id": i, "uri": "é".repeat(40)})).collect();
        json!({
            "jobId": "j1", "runId": "1-x", "phase": "completed",
            "parameters": {"command": ["/bin/bash"], "environment": [{"name": "A", "value": "x".repeat(environment)}]},
            "results": results,
            "errorSummary": {"message": "x".repeat(error)},
            "jobInfo": {"x": "x".repeat(info)},
        })
    }

    #[test]
    fn an_object_that_fits_is_compacted_and_otherwise_unchanged() {
        for (given, expected) in [
            ("{}", "{}"),
            (
                " { \"b\" : [ 1 , -2.50, 1e3, true , null ],\n \"a\": { } , \"c\":[]} ",
                r#"{"b":[1,-2.5,1000.0,true,null],"a":{},"c":[]}"#,
            ),
            (r#"{"a":1,"b":2,"a":"\u00e9\n\ud83d\ude00"}"#, "{\"a\":1,\"b\":2,\"a\":\"é\\n😀\"}"),
            (r#"{"a":{"x\"y":{"z":[[],[{}]]}}}"#, r#"{"a":{"x\"y":{"z":[[],[{}]]}}}"#),
            (
                r#"{"a":"x\udcff","b":"\ud800\ud83d\ude00","c":"\\udcff","d":"\ud83d"}"#,
                "{\"a\":\"x\u{fffd}\",\"b\":\"\u{fffd}😀\",\"c\":\"\\\\udcff\",\"d\":\"\u{fffd}\"}",
            ),
        ] {
            assert_eq!(bounded(readable(&mut given.as_bytes().to_vec()).unwrap()).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        let very_deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        let many: String = (0..2000).map(|i| format!("\"{i}\":1,")).collect();
        for bad in [
            "",
            "null",
            "[]",
            "\"{}\"",
            "1",
            "{",
            "{\"a\"",
            "{} x",
            "{\"a\":\"\\",
            "{\"a\":\"\\u",
            "<html>",
            "\u{0}",
            &deep,
            &very_deep,
            &format!("{{{many}\"a\":1}}"),
        ] {
            let result = Object::of(bad).map(drop).and_then(|()| bounded(bad));
            assert!(result.is_err(), "{bad:.100}");
        }
        for bad in ["", "{", "{} x", &deep, &very_deep] {
            assert!(bounded(bad).is_err(), "{bad:.100}");
        }
        assert!(readable(&mut b"{\"a\":\"\xff\"}".to_vec()).is_err());
    }

    #[test]
    fn a_large_object_loses_its_environment_first() {
        let result = shrunk(&job(600_000, 3, 0, 0));
        assert_eq!(result["parameters"], json!({"command": ["/bin/bash"]}));
        assert_eq!(result["results"].as_array().unwrap().len(), 3);
        assert_eq!(result.get("resultsOmitted"), None);
    }

    #[test]
    fn then_trailing_results_with_their_number() {
        let result = shrunk(&job(0, 10_000, 0, 0));
        let kept = result["results"].as_array().unwrap();
        assert!(kept.len() > 4500, "{}", kept.len());
        assert_eq!(kept[kept.len() - 1]["id"], kept.len() - 1);
        assert_eq!(result["resultsOmitted"], 10_000 - kept.len());
        assert_eq!(result["jobInfo"], json!({"x": ""}));
    }

    #[test]
    fn then_all_but_its_ids_and_its_phase() {
        for given in [job(0, 5, 600_000, 0), job(600_000, 10_000, 300_000, 300_000), job(0, 0, 0, 9_000_000)]
        {
            let result = shrunk(&given);
            for key in ["jobId", "runId", "phase"] {
                assert_eq!(result[key], given[key]);
            }
        }
        let mut odd = job(0, 0, 0, 0);
        odd["runId"] = json!("x".repeat(600_000));
        odd["results"] = json!("y".repeat(600_000));
        odd["parameters"] = json!(["z".repeat(600_000)]);
        odd["k".repeat(600_000)] = json!(1);
        assert_eq!(shrunk(&odd), json!({"jobId": "j1", "phase": "completed"}));
    }
}
