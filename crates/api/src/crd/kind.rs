//! The kind CustomResourceDefinition: defaults, rules, what a delete of one first does.

use serde_json::{Value, json};

use super::{names, rules};
use crate::{
    object::{self, meta_mut},
    registry::{FieldError, Lookup, Resource, Strategy},
};

/// Deletes the definition's objects before the definition goes.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The kind's descriptor.
pub fn resource() -> Resource {
    Resource {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        has_status: true,
        strategy: &Kind,
        ..crate::kinds::PLAIN
    }
}

/// Whether the resource is the definitions' own.
pub fn is_definition(r: &Resource) -> bool {
    r.group == "apiextensions.k8s.io" && r.plural == "customresourcedefinitions"
}

struct Kind;

/// Puts in a text where there is none.
fn fill(names: &mut Value, key: &str, text: String) {
    if names[key].as_str().is_none_or(str::is_empty) && !text.is_empty() {
        names[key] = text.into();
    }
}

/// The storage version is among those that objects may be stored in.
fn record_storage(o: &mut Value) {
    let versions = o.pointer("/spec/versions").and_then(Value::as_array);
    let Some(name) = versions
        .into_iter()
        .flatten()
        .find(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
    else {
        return;
    };
    let stored = &mut o["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(list) if list.contains(&name) => {}
        Some(list) => list.push(name),
        None => *stored = json!([name]),
    }
}

impl Strategy for Kind {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        if let Some(names) = spec.get_mut("names").filter(|n| n.is_object()) {
            let kind = names["kind"].as_str().unwrap_or("").to_owned();
            fill(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                fill(names, "listKind", format!("{kind}List"));
            }
        }
        if spec["conversion"].is_null() {
            spec["conversion"] = json!({"strategy": "None"});
        }
        if let Some(service) = spec
            .pointer_mut("/conversion/webhook/clientConfig/service")
            .filter(|s| s.is_object())
            && service["port"].is_null()
        {
            service["port"] = 443.into();
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": []});
        record_storage(o);
        Ok(())
    }
    fn prepare_update(
        &self,
        new: &mut Value,
        _: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        record_storage(new);
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        rules::validate(o)
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        rules::validate_update(new, old)
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        rules::unknown_formats(o)
            .into_iter()
            .map(|f| format!("unrecognized format {f:?}"))
            .collect()
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&Status as &dyn Strategy)
    }
}

struct Status;
impl Strategy for Status {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        rules::validate_status(new)
    }
}

/// The definition as the first delete leaves it: it waits until its objects are gone.
pub fn marked(live: &Value) -> Value {
    let mut new = live.clone();
    names::set(
        &mut new,
        "Terminating",
        true,
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    let m = meta_mut(&mut new);
    m.insert("deletionTimestamp".into(), object::now().into());
    let finalizers = m.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| f == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
    new
}
