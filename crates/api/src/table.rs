//! `meta.k8s.io` Table and PartialObjectMetadata.

use serde_json::{Value, json};

use crate::{query::Query, registry::Resource, status::Failure};

/// What of the object comes with each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}
impl Include {
    /// Reads `includeObject`.
    pub fn read(query: &Query) -> Result<Include, Failure> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Failure::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// One row.
pub fn row(r: &Resource, object: &Value, version: &str, include: Include) -> Value {
    let cells: Vec<Value> = if let Some(custom) = &r.custom {
        custom.cells(object)
    } else if r.columns.is_empty() {
        let m = &object["metadata"];
        vec![m["name"].clone(), m["creationTimestamp"].clone()]
    } else {
        r.columns.iter().map(|c| (c.cell)(object)).collect()
    };
    let object = match include {
        Include::None => Value::Null,
        Include::Object => object.clone(),
        Include::Metadata => partial(object["metadata"].clone(), version),
    };
    json!({"cells": cells, "object": object})
}

/// A Table; `columns`: with its column definitions (watches send them once).
pub fn table(
    r: &Resource,
    version: &str,
    metadata: Value,
    columns: bool,
    rows: Vec<Value>,
) -> Value {
    let definitions: Value = if !columns {
        Value::Null
    } else if let Some(custom) = &r.custom {
        custom.columns().into()
    } else if r.columns.is_empty() {
        json!([
            {"name": "Name", "type": "string", "format": "name", "priority": 0,
                "description": "Name must be unique within a namespace."},
            {"name": "Created At", "type": "date", "format": "", "priority": 0,
                "description": "CreationTimestamp is a timestamp representing the server time when this object was created."},
        ])
    } else {
        r.columns
            .iter()
            .map(|c| {
                json!({"name": c.name, "type": c.r#type, "format": c.format,
                    "description": c.description, "priority": c.priority})
            })
            .collect()
    };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// An object's metadata as PartialObjectMetadata.
pub fn partial(metadata: Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}
