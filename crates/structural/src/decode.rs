//! JSON to a value with what came twice: sigs.k8s.io/json's `UnmarshalStrict` into free maps.

use std::{cell::RefCell, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Most duplicate fields told of one object.
const DUPLICATES_MAX: usize = 100;

/// A value, and what came twice in it.
#[derive(Debug, Default)]
pub struct Decoded {
    pub value: Value,
    /// Upstream's wording: `duplicate field "spec.foo"`.
    pub duplicates: Vec<String>,
}

/// Parses JSON; of a field that comes twice the last value stays.
pub fn decode(json: &[u8]) -> Result<Decoded, serde_json::Error> {
    let found = Found::default();
    let mut de = serde_json::Deserializer::from_slice(json);
    let value = Node { found: &found }.deserialize(&mut de)?;
    de.end()?;
    let mut duplicates = found.duplicates.into_inner();
    duplicates.dedup();
    Ok(Decoded { value, duplicates })
}

#[derive(Default)]
struct Found {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
}

#[derive(Clone, Copy)]
struct Node<'f> {
    found: &'f Found,
}

impl Node<'_> {
    fn within<T>(self, step: fmt::Arguments<'_>, f: impl FnOnce(Self) -> T) -> T {
        use fmt::Write;
        let length = self.found.path.borrow().len();
        // writing to a String can't fail
        let _ = self.found.path.borrow_mut().write_fmt(step);
        let out = f(self);
        self.found.path.borrow_mut().truncate(length);
        out
    }
    fn dot(self) -> &'static str {
        if self.found.path.borrow().is_empty() {
            ""
        } else {
            "."
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(b.into())
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        // beyond int64 Go has a float
        Ok(i64::try_from(n).map_or_else(|_| (n as f64).into(), Value::from))
    }
    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Value, E> {
        // Go writes whole floats without a fraction, and so reads them as integers the next time
        if n.fract() == 0.0 && n.abs() < (1u64 << 53) as f64 {
            return Ok((n as i64).into());
        }
        Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(s.into())
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(s.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = self.within(format_args!("[{}]", out.len()), |n| {
            seq.next_element_seed(n)
        })? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let dot = self.dot();
            let value = self.within(format_args!("{dot}{key}"), |n| {
                if out.contains_key(&key) {
                    let mut told = n.found.duplicates.borrow_mut();
                    if told.len() < DUPLICATES_MAX {
                        told.push(format!("duplicate field {:?}", n.found.path.borrow()));
                    }
                }
                map.next_value_seed(n)
            });
            out.insert(key, value?);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_what_comes_twice() {
        let d =
            decode(br#"{"a":1,"spec":{"l":[{"x":1,"x":2.0}],"l2":1.5},"a":18446744073709551615}"#)
                .unwrap();
        assert_eq!(
            d.value,
            json!({"a": 18446744073709551615u64 as f64, "spec": {"l": [{"x": 2}], "l2": 1.5}})
        );
        assert_eq!(
            d.duplicates,
            ["duplicate field \"spec.l[0].x\"", "duplicate field \"a\""]
        );
        assert!(decode(b"{\"a\":1} x").is_err() && decode(&b"[".repeat(100_000)).is_err());
    }
}
