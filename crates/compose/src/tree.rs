//! A parsed file: values that know which file and line they came from, wherever merging carries them.

use crate::Error;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Where a value was written.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub file: Arc<str>,
    /// 1-based.
    pub line: usize,
}

/// What a later file does to the value of an earlier one (Compose specification, 13-merge.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    None,
    /// `!reset`: the earlier value goes, and this one is not looked at.
    Reset,
    /// `!override`: the earlier value goes, this one takes its place.
    Override,
}

pub(crate) type Map = BTreeMap<String, Node>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Value,
    pub mark: Mark,
    pub tag: Tag,
}

/// Equal by value; where it was written doesn't count.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Float(n) => write!(f, "{n}"),
            Value::Text(s) => f.write_str(s),
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a mapping"),
        }
    }
}

impl Value {
    pub fn text(s: impl Into<String>) -> Value {
        Value::Text(s.into())
    }
}

impl Mark {
    pub fn node(&self, value: Value) -> Node {
        Node {
            value,
            mark: self.clone(),
            tag: Tag::None,
        }
    }

    pub fn error(&self, message: impl Into<String>) -> Error {
        Error {
            file: self.file.to_string(),
            line: Some(self.line),
            message: message.into(),
        }
    }
}

impl Node {
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.mark.error(message)
    }

    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(m) => Some(m),
            _ => None,
        }
    }

    pub fn map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(m) => Some(m),
            _ => None,
        }
    }

    /// The items of a list; none when it is something else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(l) => l,
            _ => &[],
        }
    }

    pub fn items_mut(&mut self) -> &mut [Node] {
        match &mut self.value {
            Value::List(l) => l,
            _ => &mut [],
        }
    }

    /// The entries of a mapping without extensions; none when it is something else.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.map()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !k.starts_with("x-"))
    }

    /// The value of a key; a null counts as missing.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.map()?.get(key).filter(|n| !n.is_null())
    }

    pub fn str(&self) -> Option<&str> {
        match &self.value {
            Value::Text(s) => Some(s),
            _ => None,
        }
    }

    /// Scalars as the text they were written as, or near it.
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Null | Value::List(_) | Value::Map(_) => None,
            v => Some(v.to_string()),
        }
    }

    pub fn text_of(&self, key: &str) -> Option<String> {
        self.get(key)?.scalar()
    }

    pub fn bool_of(&self, key: &str) -> bool {
        self.get(key).is_some_and(|n| n.value == Value::Bool(true))
    }

    /// All scalars of a list as text.
    pub fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Node::scalar).collect()
    }

    pub fn texts_of(&self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(n) if n.str().is_some() => n.scalar().into_iter().collect(),
            Some(n) => n.texts(),
            None => vec![],
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as J;
        match &self.value {
            Value::Null => J::Null,
            Value::Bool(b) => J::Bool(*b),
            Value::Int(n) => J::from(*n),
            Value::Float(n) => J::from(*n),
            Value::Text(s) => J::from(s.as_str()),
            Value::List(l) => J::Array(l.iter().map(Node::to_json).collect()),
            Value::Map(m) => J::Object(m.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }
}

/// Whether a path of keys fits `a.*.b`; a list's items count as one key.
pub(crate) fn fits(path: &[String], pattern: &str) -> bool {
    let mut parts = pattern.split('.');
    path.iter()
        .all(|key| parts.next().is_some_and(|p| p == "*" || p == key))
        && parts.next().is_none()
}

/// `services.web.ports.0` as messages write it.
pub(crate) fn dotted(path: &[String]) -> String {
    path.join(".")
}
