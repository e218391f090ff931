//! The SAL interface as data: topics, fields, types, codes.
//!
//! The core does not use this module. All transports read and write with it, so that they agree.

pub mod ack;
pub mod command;
pub mod event;
pub mod topic;

use serde::Serialize;

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Avro string.
    String(String),
    /// Avro int.
    Int(i32),
    /// Avro boolean.
    Boolean(bool),
    /// Avro double.
    Double(f64),
}

impl Value {
    /// The type of the value.
    pub fn kind(&self) -> topic::FieldType {
        match self {
            Self::String(_) => topic::FieldType::String,
            Self::Int(_) => topic::FieldType::Int,
            Self::Boolean(_) => topic::FieldType::Boolean,
            Self::Double(_) => topic::FieldType::Double,
        }
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for Value {
    fn from(text: &T) -> Self {
        Self::String(text.as_ref().to_owned())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(number)
    }
}
