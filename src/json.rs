//! Splits the JSON of others into its members or elements, in bounded memory and without parsing them.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Deserializer, Error};

/// The members of an object in their order, with the text of their values.
///
/// # Errors
/// The text is no JSON object, or has more than `max` members.
pub(crate) fn members(json: &str, max: usize) -> Result<Vec<(String, &RawValue)>, Error> {
    let mut deserializer = Deserializer::from_str(json);
    let members = deserializer.deserialize_map(Members { max })?;
    deserializer.end()?;
    Ok(members)
}

/// Calls `take` with the text of each element of an array.
///
/// # Errors
/// The text is no JSON array.
pub(crate) fn elements(json: &str, take: impl FnMut(&str)) -> Result<(), Error> {
    let mut deserializer = Deserializer::from_str(json);
    deserializer.deserialize_seq(Elements(take))?;
    deserializer.end()
}

struct Members {
    max: usize,
}

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.len() == self.max {
                return Err(A::Error::custom(format_args!("an object has more than {} keys", self.max)));
            }
            members.push(member);
        }
        Ok(members)
    }
}

struct Elements<F>(F);

impl<'de, F: FnMut(&str)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.0)(element.get());
        }
        Ok(())
    }
}
