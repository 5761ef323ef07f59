//! One step of a path into an object, as structured-merge-diff names it.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// A step: a field, a list item by its keys, a set item by its value, or a list item by its position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    Field(String),
    /// Sorted by name.
    Key(Vec<(String, Literal)>),
    Value(Literal),
    Index(i64),
}

impl Element {
    pub(crate) fn field(name: &str) -> Element {
        Element::Field(name.to_owned())
    }

    /// `f:name`, `k:{"name":"a"}`, `v:"a"`, `i:0`.
    pub(crate) fn to_key(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(fields) => {
                let parts: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| {
                        format!("{}:{}", json(&name.as_str().into()), json(&value.0))
                    })
                    .collect();
                format!("k:{{{}}}", parts.join(","))
            }
            Element::Value(value) => format!("v:{}", json(&value.0)),
            Element::Index(index) => format!("i:{index}"),
        }
    }

    /// The reverse of [`Element::to_key`]: `Ok(None)` for a kind of step that isn't known, `Err` for text that is no step.
    pub(crate) fn from_key(key: &str) -> Result<Option<Element>, String> {
        let (kind, rest) = match key.split_at_checked(2) {
            Some((kind, rest)) if kind.ends_with(':') => (kind, rest),
            _ => return Err(format!("missing colon: {key}")),
        };
        let parse =
            |text: &str| serde_json::from_str::<Value>(text).map_err(|e| format!("{key}: {e}"));
        Ok(Some(match kind {
            "f:" => Element::field(rest),
            "v:" => Element::Value(Literal(parse(rest)?)),
            "i:" => Element::Index(rest.parse().map_err(|e| format!("{key}: {e}"))?),
            "k:" => {
                let Value::Object(fields) = parse(rest)? else {
                    return Err(format!("{key}: the keys are no object"));
                };
                let mut fields: Vec<(String, Literal)> = fields
                    .into_iter()
                    .map(|(name, value)| (name, Literal(value)))
                    .collect();
                fields.sort();
                Element::Key(fields)
            }
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                let parts: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.0))
                    .collect();
                write!(f, "[{}]", parts.join(","))
            }
            Element::Value(value) => write!(f, "[={}]", value.0),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as conflicts print it: `.spec.containers[name="a"].image`.
pub(crate) fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A JSON value with structured-merge-diff's total order: numbers, strings, booleans, lists, maps, null.
#[derive(Debug, Clone)]
pub(crate) struct Literal(pub(crate) Value);

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        compare(&self.0, &other.0) == Ordering::Equal
    }
}

impl Eq for Literal {}

impl PartialOrd for Literal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Literal {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

/// Whether two values are the same to structured-merge-diff (1 and 1.0 are).
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b) == Ordering::Equal
}

fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a
                .as_f64()
                .partial_cmp(&b.as_f64())
                .unwrap_or(Ordering::Equal),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => a
            .iter()
            .zip(b)
            .map(|(a, b)| compare(a, b))
            .find(|o| o.is_ne())
            .unwrap_or(a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |o: &serde_json::Map<String, Value>| {
                let mut keys: Vec<String> = o.keys().cloned().collect();
                keys.sort_unstable();
                keys
            };
            let (ka, kb) = (sorted(a), sorted(b));
            ka.iter()
                .zip(&kb)
                .map(|(x, y)| x.cmp(y).then_with(|| compare(&a[x], &b[y])))
                .find(|o| o.is_ne())
                .unwrap_or(ka.len().cmp(&kb.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// JSON as Go's encoder writes it, with `<`, `>` and `&` escaped.
fn json(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}
