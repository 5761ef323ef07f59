//! What the engine itself knows of namespaces.

use serde_json::{Value, json};

use crate::{
    object::{meta, meta_mut},
    registry::Resource,
};

/// Is this the resource `namespaces`?
pub fn is_namespace(r: &Resource) -> bool {
    r.group.is_empty() && r.plural == "namespaces"
}

/// A new namespace is active and held by the namespace controller's finalizer.
pub fn defaults(o: &mut Value) {
    let finalizers = o
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        let mut finalizers = finalizers;
        finalizers.push("kubernetes".into());
        o["spec"] = json!({ "finalizers": finalizers });
    }
    o["status"] = json!({"phase": "Active"});
}

/// The label by which selectors find a namespace by its name.
pub fn label(o: &mut Value) {
    let name = meta(o, "name").to_string();
    let labels = meta_mut(o).entry("labels").or_insert_with(|| json!({}));
    if let Some(map) = labels.as_object_mut() {
        map.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}
