//! Attributes of a principal: department, level, location and whatever else policies look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One attribute's value. Nested objects do not exist here: whoever reads claims flattens or drops them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<AttributeValue>),
}

impl AttributeValue {
    /// Reads a JSON value; `null` and objects have no attribute form.
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }

    /// Reads what a person typed after `--attr key=`: a boolean, a number, else the text itself.
    pub fn from_text(text: &str) -> Self {
        match text {
            "true" => Self::Boolean(true),
            "false" => Self::Boolean(false),
            _ => text.parse::<i64>().map(Self::Integer).unwrap_or_else(|_| Self::Text(text.to_owned())),
        }
    }
}

/// Attributes by name, in name order.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(pub BTreeMap<String, AttributeValue>);

impl Attributes {
    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
