//! The objects a binding gives its policy as `params` (`policy/generic/policy_dispatcher.go`, CollectParams).

use serde_json::Value;

use crate::{
    admission::{Attributes, json::text},
    catalog, crd,
    registry::Handle,
    selector::{LabelSelector, label_selector_string},
    server::Inner,
    versions,
};

/// A policy's `paramKind`.
pub struct ParamKind {
    /// `group/version`, or a version.
    api_version: String,
    kind: String,
}

impl ParamKind {
    /// From a policy's spec; None when it has none.
    pub fn read(spec: &Value) -> Option<ParamKind> {
        let kind = spec.get("paramKind").filter(|k| k.is_object())?;
        Some(ParamKind {
            api_version: text(kind, "/apiVersion").to_string(),
            kind: text(kind, "/kind").to_string(),
        })
    }

    /// Group (empty for the core) and version.
    pub fn group_version(&self) -> (&str, &str) {
        let plain = ("", self.api_version.as_str());
        self.api_version.split_once('/').unwrap_or(plain)
    }

    /// The resource whose objects are meant.
    pub fn resource(&self, inner: &Inner) -> Option<Handle> {
        let catalog = inner.catalog();
        let all = catalog.all().iter();
        all.into_iter()
            .find(|r| r.kind == self.kind && catalog::api_version(r) == self.api_version)
            .cloned()
    }

    /// What is said when nothing of that kind is served.
    pub fn unknown(&self) -> String {
        let (group, version) = self.group_version();
        format!(
            "failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'",
            self.kind
        )
    }
}

/// The params of one binding for one request: `[null]` when there are none to be had, an empty list when the binding is
/// to be passed over.
pub async fn collect(
    inner: &Inner,
    kind: Option<&ParamKind>,
    reference: &Value,
    a: &Attributes<'_>,
) -> Result<Vec<Value>, String> {
    let Some(kind) = kind else {
        return Ok(vec![Value::Null]);
    };
    let r = kind.resource(inner).ok_or_else(|| kind.unknown())?;
    if !reference.is_object() {
        return Ok(vec![Value::Null]);
    }
    let given = text(reference, "/namespace");
    let namespace = if r.namespaced {
        match (given, a.namespace.as_ref()) {
            ("", "") => {
                return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            ("", own) => own.to_string(),
            (given, _) => given.to_string(),
        }
    } else if given.is_empty() {
        String::new()
    } else {
        return Err(
            "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into(),
        );
    };
    let name = text(reference, "/name");
    let bytes = {
        let snapshot = inner.store.snapshot();
        if name.is_empty() {
            let prefix = catalog::prefix(&r, &namespace);
            let all = snapshot.range(&prefix, None);
            all.map(|e| e.value.clone()).collect()
        } else {
            let entry = snapshot.get(&catalog::key(&r, &namespace, name));
            entry.map(|e| e.value.clone()).into_iter().collect()
        }
    };
    let bytes = crd::bring_all(inner, &r, bytes)
        .await
        .map_err(|f| f.message().to_owned())?;
    let mut found: Vec<Value> = bytes
        .iter()
        .filter_map(|b| Some(versions::read(&r, serde_json::from_slice(b).ok()?)))
        .collect();
    if name.is_empty() {
        let selector = LabelSelector::parse(&label_selector_string(&reference["selector"], false))?;
        found.retain(|o| {
            let labels = o.pointer("/metadata/labels").unwrap_or(&Value::Null);
            selector.matches(labels)
        });
    }
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found)
}
