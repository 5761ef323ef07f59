//! From and to JSON: text, or a bare number.

use crate::Quantity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;

impl Quantity {
    /// Reads an amount from JSON. None when there is none.
    pub fn of(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(s) => Quantity::parse(s.trim()).ok(),
            Value::Number(n) => Quantity::parse(&n.to_string()).ok(),
            _ => None,
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Quantity, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Text(#[serde(borrow)] Cow<'a, str>),
            Number(serde_json::Number),
            Nothing,
        }
        let parsed = match Form::deserialize(d)? {
            Form::Text(t) => Quantity::parse(t.trim()),
            Form::Number(n) => Quantity::parse(&n.to_string()),
            Form::Nothing => Ok(Quantity::ZERO),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}
