//! Built-in admission: a namespaced object needs a namespace that lives.

use serde_json::Value;

use crate::{catalog, registry::Resource, server::Inner, status::Failure};

/// Namespaces nobody may delete.
pub const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// NamespaceLifecycle for a create: 404 in a missing namespace, 403 in one that terminates.
pub fn namespace_for_create(
    inner: &Inner,
    r: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    if !r.namespaced {
        return Ok(());
    }
    let Some(namespaces) = inner.catalog().preferred("", "namespaces") else {
        return Ok(()); // a catalog without namespaces (tests) has none to check
    };
    let snapshot = inner.store.snapshot();
    let Some(entry) = snapshot.get(&catalog::key(&namespaces, "", namespace)) else {
        return Err(Failure::not_found_named("", "namespaces", namespace));
    };
    let metadata = crate::object::metadata(&entry.value).unwrap_or(Value::Null);
    if metadata.get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    Err(Failure::forbidden(r, name, &why).cause(
        "NamespaceTerminating",
        &format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    ))
}
