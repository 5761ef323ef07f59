//! Columns that many kinds share, and the shapes of cells.

use super::{age, json::items};
use crate::registry::Column;
use serde_json::Value;

/// A column that is always shown.
pub(crate) const fn column(
    name: &'static str,
    r#type: &'static str,
    cell: fn(&Value) -> Value,
) -> Column {
    Column {
        name,
        r#type,
        format: "",
        description: "",
        priority: 0,
        cell,
    }
}

/// A column of `-o wide`.
pub(crate) const fn wide(
    name: &'static str,
    r#type: &'static str,
    cell: fn(&Value) -> Value,
) -> Column {
    Column {
        name,
        r#type,
        format: "",
        description: "",
        priority: 1,
        cell,
    }
}

pub(crate) const NAME: Column = Column {
    name: "Name",
    r#type: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
    cell: |o| o["metadata"]["name"].clone(),
};

pub(crate) const AGE: Column = Column {
    name: "Age",
    r#type: "string",
    format: "",
    description: "Time since the object was created.",
    priority: 0,
    cell: |o| age::since(&o["metadata"]["creationTimestamp"]).into(),
};

/// What kinds without columns of their own show besides the name.
pub(crate) const CREATED: Column = Column {
    name: "Created At",
    r#type: "date",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
    priority: 0,
    cell: |o| o["metadata"]["creationTimestamp"].clone(),
};

/// `<none>` for nothing.
pub(crate) fn or_none(text: String) -> Value {
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

/// `a=b,c=d` in key order; `<none>` for nothing.
pub(crate) fn labels(map: &Value) -> Value {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or_none(pairs.join(","))
}

/// A LabelSelector in the text form of selectors.
pub(crate) fn selector(s: &Value) -> Value {
    let mut parts: Vec<String> = s["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for e in items(s, "/matchExpressions") {
        let key = e["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = items(e, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match e["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    or_none(parts.join(","))
}

/// Names and images of a pod template's containers.
pub(crate) fn containers(o: &Value, field: &str) -> Value {
    let all: Vec<&str> = items(o, "/spec/template/spec/containers")
        .iter()
        .map(|c| c[field].as_str().unwrap_or_default())
        .collect();
    all.join(",").into()
}
