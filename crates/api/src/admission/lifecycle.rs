//! NamespaceLifecycle (`apiserver/pkg/admission/plugin/namespace/lifecycle`): a namespaced object needs a namespace that
//! lives.

use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    bootstrap::SYSTEM_PRIORITIES, catalog, namespaces::is_namespace, server::Inner, status::Failure,
};

/// Namespaces nobody may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// 404 in a missing namespace, 403 for a create in one that terminates, 403 for the end of an immortal one.
pub fn admit(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    if is_namespace(a.resource) {
        if a.operation == Operation::Delete && IMMORTAL.contains(&a.name.as_ref()) {
            return Err(a.forbidden("this namespace may not be deleted"));
        }
        return Ok(());
    }
    if a.operation == Operation::Delete
        && a.is("scheduling.k8s.io", "priorityclasses")
        && SYSTEM_PRIORITIES.iter().any(|p| p.0 == a.name)
    {
        return Err(a.forbidden("this is a system priority class and cannot be deleted"));
    }
    // whether somebody may do something can be asked of a namespace that isn't there
    if a.resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    if a.namespace.is_empty() || matches!(a.operation, Operation::Delete | Operation::Connect) {
        return Ok(());
    }
    // asking what somebody may do there makes nothing there
    if a.resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    let Some(namespaces) = inner.catalog().preferred("", "namespaces") else {
        return Ok(()); // a catalog without namespaces (tests) has none to check
    };
    let snapshot = inner.store.snapshot();
    let Some(entry) = snapshot.get(&catalog::key(&namespaces, "", &a.namespace)) else {
        return Err(Failure::not_found_named("", "namespaces", &a.namespace));
    };
    if a.operation != Operation::Create {
        return Ok(());
    }
    let metadata = crate::object::metadata(&entry.value).unwrap_or(Value::Null);
    if metadata.get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let namespace = &a.namespace;
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    Err(a.forbidden(&why).cause(
        "NamespaceTerminating",
        &format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    ))
}
