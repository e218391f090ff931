//! The service's job object. Invariant: what leaves here is one line of valid JSON of at most 512 KiB
//! with `jobId` and `phase`, and reading it takes memory in proportion to the answer, never more stack than
//! `serde_json`'s limit of 128 levels.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Largest job object that is handed on, in bytes: it must fit into a Kafka message with room to spare.
const OBJECT_MAX: usize = 512 * 1024;

/// Most fields of a job object; the genuine one has 13.
const FIELDS_MAX: usize = 1000;

/// A JSON object, taken apart into the compact texts of its fields, in their order.
pub(super) struct Object {
    fields: Vec<Field>,
}

struct Field {
    key: String,
    /// Compact JSON.
    value: String,
}

impl Object {
    /// Reads an object; of fields with the same name the last counts.
    ///
    /// Escapes of lone surrogates count as U+FFFD: the genuine service writes them for a result file
    /// whose name is not UTF-8, and that must not make the whole job unreadable.
    ///
    /// # Errors
    /// What is wrong with the text, in one line.
    pub(super) fn read(mut json: Vec<u8>) -> Result<Self, String> {
        replace_lone_surrogates(&mut json);
        Self::parse(&json).map_err(|e| e.to_string())
    }

    fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let object = deserializer.deserialize_map(ObjectVisitor)?;
        deserializer.end()?;
        Ok(object)
    }

    /// The text of a field that is a string.
    pub(super) fn string(&self, key: &str) -> Option<String> {
        self.field(key).and_then(|f| serde_json::from_str(&f.value).ok())
    }

    fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.key == key)
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.key == key)
    }

    fn set(&mut self, key: &str, value: String) {
        match self.fields.iter_mut().find(|f| f.key == key) {
            Some(field) => field.value = value,
            None => self.fields.push(Field { key: key.to_owned(), value }),
        }
    }

    /// The object as compact JSON of at most 512 KiB.
    ///
    /// What is too large loses `parameters.environment`, then trailing `results` (with `resultsOmitted`:
    /// how many), then its largest fields, never `jobId` and `phase`, which the caller has found short.
    pub(super) fn into_bounded_json(mut self) -> String {
        if self.excess() > 0 {
            self.drop_environment();
        }
        if self.excess() > 0 {
            self.drop_results();
        }
        while self.excess() > 0 && self.drop_largest() {}
        self.to_json()
    }

    /// By how many bytes the object is too large.
    fn excess(&self) -> usize {
        let fields: usize = self.fields.iter().map(Field::size).sum();
        (fields + "{}".len()).saturating_sub(OBJECT_MAX)
    }

    fn drop_environment(&mut self) {
        let Some(Ok(mut parameters)) = self.field("parameters").map(|f| Self::parse(f.value.as_bytes()))
        else {
            return;
        };
        parameters.fields.retain(|f| f.key != "environment");
        self.set("parameters", parameters.to_json());
    }

    fn drop_results(&mut self) {
        /// Size of `"resultsOmitted":` with any number and comma.
        const OMITTED_SIZE: usize = 40;
        let Some(results) = self.field("results") else { return };
        let room = results.value.len().saturating_sub(self.excess() + OMITTED_SIZE);
        let mut deserializer = serde_json::Deserializer::from_str(&results.value);
        let Ok((kept, omitted)) = deserializer.deserialize_seq(Leading { room }) else { return };
        self.set("results", kept);
        self.fields.retain(|f| f.key != "resultsOmitted");
        let field = Field { key: "resultsOmitted".to_owned(), value: omitted.to_string() };
        let after_results = self.position("results").map_or(self.fields.len(), |i| i + 1);
        self.fields.insert(after_results, field);
    }

    /// Drops the largest field that may go, `runId` last; false if there is none.
    fn drop_largest(&mut self) -> bool {
        let largest = self.fields.iter().enumerate().filter(|(_, f)| f.key != "jobId" && f.key != "phase");
        let largest = largest.max_by_key(|(_, f)| (f.key != "runId", f.size())).map(|(i, _)| i);
        match largest {
            Some(i) => {
                self.fields.remove(i);
                true
            }
            None => false,
        }
    }

    fn to_json(&self) -> String {
        let members: Vec<_> =
            self.fields.iter().map(|f| format!("{}:{}", Value::from(f.key.as_str()), f.value)).collect();
        format!("{{{}}}", members.join(","))
    }
}

impl Field {
    /// Its part of the object's text, with a comma.
    fn size(&self) -> usize {
        Value::from(self.key.as_str()).to_string().len() + self.value.len() + ":,".len()
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object { fields: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            let mut value = String::new();
            map.next_value_seed(Compact(&mut value))?;
            object.set(&key, value);
            if object.fields.len() > FIELDS_MAX {
                return Err(A::Error::custom(format_args!("more than {FIELDS_MAX} fields")));
            }
        }
        Ok(object)
    }
}

/// Reads an array and keeps of it, as JSON, the leading elements for which there is room; counts the others.
struct Leading {
    room: usize,
}

impl<'de> Visitor<'de> for Leading {
    type Value = (String, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut kept = String::from("[");
        let mut omitted = 0;
        while omitted == 0 {
            let before = kept.len();
            if before > 1 {
                kept.push(',');
            }
            if elements.next_element_seed(Compact(&mut kept))?.is_none() {
                kept.truncate(before);
                break;
            }
            if kept.len() + "]".len() > self.room {
                kept.truncate(before);
                omitted = 1;
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {
            omitted += 1;
        }
        kept.push(']');
        Ok((kept, omitted))
    }
}

/// Copies any JSON value to a text, without blanks, keeping the order of keys.
struct Compact<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Compact<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Compact<'_> {
    fn scalar<E>(self, value: impl Into<Value>) -> Result<(), E> {
        self.0.push_str(&value.into().to_string());
        Ok(())
    }
}

impl<'de> Visitor<'de> for Compact<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        self.0.push('[');
        let mut before = self.0.len();
        while elements.next_element_seed(Compact(self.0))?.is_some() {
            before = self.0.len();
            self.0.push(',');
        }
        self.0.truncate(before);
        self.0.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push('{');
        let mut before = self.0.len();
        while map.next_key_seed(Compact(self.0))?.is_some() {
            self.0.push(':');
            map.next_value_seed(Compact(self.0))?;
            before = self.0.len();
            self.0.push(',');
        }
        self.0.truncate(before);
        self.0.push('}');
        Ok(())
    }
}

/// Overwrites, in place, the `\uXXXX` escapes of surrogates without a partner by `\ufffd`.
fn replace_lone_surrogates(json: &mut [u8]) {
    let mut rest = json;
    while let Some(start) = rest.iter().position(|b| *b == b'\\') {
        let (_, escape) = std::mem::take(&mut rest).split_at_mut(start);
        let length = match (surrogate(escape), surrogate(escape.get(6..).unwrap_or_default())) {
            (Some(Half::High), Some(Half::Low)) => 12,
            (Some(_), _) => {
                if let Some(digits) = escape.get_mut(2..6) {
                    digits.copy_from_slice(b"fffd");
                }
                6
            }
            (None, _) => 2.min(escape.len()),
        };
        (_, rest) = escape.split_at_mut(length);
    }
}

enum Half {
    High,
    Low,
}

/// Which half of a pair the `\uXXXX` at the start of the text is, if it is one.
fn surrogate(text: &[u8]) -> Option<Half> {
    let digits = text.get(..6)?.strip_prefix(b"\\u")?;
    match u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounded(json: &Value) -> Value {
        let text = Object::read(json.to_string().into_bytes()).unwrap().into_bounded_json();
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
            (r#"{"a":1,"b":2,"a":"\u00e9\n\ud83d\ude00"}"#, "{\"a\":\"é\\n😀\",\"b\":2}"),
            (r#"{"a":{"x\"y":{"z":[[],[{}]]}}}"#, r#"{"a":{"x\"y":{"z":[[],[{}]]}}}"#),
            (
                r#"{"a":"x\udcff","b":"\ud800\ud83d\ude00","c":"\\udcff","d":"\ud83d"}"#,
                "{\"a\":\"x\u{fffd}\",\"b\":\"\u{fffd}😀\",\"c\":\"\\\\udcff\",\"d\":\"\u{fffd}\"}",
            ),
        ] {
            assert_eq!(Object::read(given.into()).unwrap().into_bounded_json(), expected);
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
            assert!(Object::read(bad.into()).is_err(), "{bad:.100}");
        }
        assert!(Object::read(b"{\"a\":\"\xff\"}".to_vec()).is_err());
    }

    #[test]
    fn a_large_object_loses_its_environment_first() {
        let result = bounded(&job(600_000, 3, 0, 0));
        assert_eq!(result["parameters"], json!({"command": ["/bin/bash"]}));
        assert_eq!(result["results"].as_array().unwrap().len(), 3);
        assert_eq!(result.get("resultsOmitted"), None);
    }

    #[test]
    fn then_trailing_results_with_their_number() {
        let result = bounded(&job(0, 10_000, 0, 0));
        let kept = result["results"].as_array().unwrap();
        assert!(kept.len() > 4500, "{}", kept.len());
        assert_eq!(kept[kept.len() - 1]["id"], kept.len() - 1);
        assert_eq!(result["resultsOmitted"], 10_000 - kept.len());
        assert_eq!(result["jobInfo"], json!({"x": ""}));
    }

    #[test]
    fn then_whatever_is_largest_but_never_id_and_phase() {
        for given in [job(0, 5, 600_000, 0), job(600_000, 10_000, 300_000, 300_000), job(0, 0, 0, 9_000_000)]
        {
            let result = bounded(&given);
            for key in ["jobId", "runId", "phase"] {
                assert_eq!(result[key], given[key]);
            }
        }
        let mut odd = job(0, 0, 0, 0);
        odd["runId"] = json!("x".repeat(600_000));
        odd["results"] = json!("y".repeat(600_000));
        odd["parameters"] = json!(["z".repeat(600_000)]);
        odd["k".repeat(600_000)] = json!(1);
        assert_eq!(bounded(&odd), json!({"jobId": "j1", "phase": "completed"}));
    }
}
