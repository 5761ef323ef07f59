//! What the API refuses in a CustomResourceDefinition: apiextensions-apiserver `pkg/apis/apiextensions/validation`.

mod conversion;
mod errors;
mod version;

use conversion::conversion;
use errors::Errors;
use version::version;

use knarr_structural::definition::{self, Strictness};
use serde_json::Value;

use super::definition::condition;
use crate::{
    names,
    registry::{FieldError, NameRule},
};
const APPROVED: &str = "api-approved.kubernetes.io";

/// What is wrong with a new definition.
pub fn validate(o: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let (plural, group) = (
        text(&o["spec"]["names"], "plural"),
        text(&o["spec"], "group"),
    );
    if o["metadata"]["name"] != format!("{plural}.{group}") {
        let value = o["metadata"]["name"].clone();
        e.invalid(
            "metadata.name",
            value,
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    spec(o, None, Strictness::FULL, true, &mut e);
    e.status(o);
    if versions(o).iter().any(|v| v["storage"] == true) {
        e.stored(o);
    }
    e.approval(o, None);
    e.preserve(o, None);
    e.0
}

/// What is wrong with a changed definition.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let schemas = schemas(old);
    let mut strictness = Strictness::after(schemas.iter().copied());
    if old["spec"]["preserveUnknownFields"] != true {
        strictness.structural = true;
    }
    let all_have = versions(old)
        .iter()
        .all(|v| v.pointer("/schema/openAPIV3Schema").is_some());
    spec(new, Some(old), strictness, all_have, &mut e);
    let mut same = |field: &str, pointer: &str| {
        if new.pointer(pointer) != old.pointer(pointer) {
            let value = new.pointer(pointer).cloned().unwrap_or_default();
            e.invalid(field, value, "field is immutable");
        }
    };
    if condition(old, "Established") == Some("True") {
        same("spec.scope", "/spec/scope");
        same("spec.names.kind", "/spec/names/kind");
    }
    same("spec.group", "/spec/group");
    same("spec.names.plural", "/spec/names/plural");
    e.status(new);
    e.stored(new);
    e.approval(new, Some(old));
    e.preserve(new, Some(old));
    e.0
}

/// What is wrong with a status that somebody wrote.
pub fn validate_status(new: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    e.status(new);
    e.0
}

/// Formats that no value is checked by.
pub fn unknown_formats(o: &Value) -> Vec<String> {
    schemas(o)
        .into_iter()
        .flat_map(definition::unknown_formats)
        .collect()
}

/// How a definition of a community's group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

/// The approval of a definition, and upstream's words on it; None when its group needs none.
pub fn approval(o: &Value) -> Option<(Approval, String)> {
    let group = text(&o["spec"], "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group == *d || group.strip_suffix(d).is_some_and(|g| g.ends_with('.')));
    if !protected {
        return None;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let given = o["metadata"]["annotations"][APPROVED]
        .as_str()
        .unwrap_or("");
    let host = given.split_once("://").map(|(scheme, rest)| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or("");
        !scheme.is_empty() && !host.is_empty()
    });
    Some(match given {
        "" => (
            Approval::Missing,
            format!("protected groups must have approval annotation {APPROVED:?}, {see}"),
        ),
        g if g.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {g:?}")),
        g if host == Some(true) => (Approval::Approved, format!("approved in {g}")),
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
            ),
        ),
    })
}

fn text<'v>(v: &'v Value, key: &str) -> &'v str {
    v[key].as_str().unwrap_or("")
}

fn versions(o: &Value) -> &[Value] {
    o["spec"]["versions"].as_array().map_or(&[], Vec::as_slice)
}

/// The schemas of all versions.
pub fn schemas(o: &Value) -> Vec<&Value> {
    versions(o)
        .iter()
        .filter_map(|v| v.pointer("/schema/openAPIV3Schema"))
        .collect()
}

/// Where a part of version `i` is in errors: upstream lifts what all versions have alike out of the versions.
pub fn place(o: &Value, i: usize, key: &str) -> String {
    let all = versions(o);
    let alike = !all.is_empty() && all.iter().all(|v| v[key] == all[0][key]);
    match (alike, key) {
        (true, "schema") => "spec.validation".into(),
        (true, key) => format!("spec.{key}"),
        (false, key) => format!("spec.versions[{i}].{key}"),
    }
}

fn spec(
    o: &Value,
    old: Option<&Value>,
    strictness: Strictness,
    schemas_required: bool,
    e: &mut Errors,
) {
    let s = &o["spec"];
    let group = text(s, "group");
    let wrong = names::check(NameRule::DnsSubdomain, group, false);
    if group.is_empty() {
        e.required("spec.group", "");
    } else if !wrong.is_empty() {
        e.invalid("spec.group", group, wrong.join(","));
    } else if !group.contains('.') {
        e.invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        );
    }
    match text(s, "scope") {
        "" => e.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => e.push(FieldError::NotSupported {
            field: "spec.scope".into(),
            value: other.into(),
            supported: vec!["Cluster".into(), "Namespaced".into()],
        }),
    }
    let all = versions(o);
    for (i, v) in all.iter().enumerate() {
        if v.pointer("/schema/openAPIV3Schema").is_some() {
            continue;
        }
        let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
        if schemas_required {
            e.required(field, "");
        } else if v["served"] == true && s["preserveUnknownFields"] != true {
            e.required(field, "because otherwise all fields are pruned");
        }
    }
    for (i, v) in all.iter().enumerate() {
        let name = text(v, "name");
        let wrong = names::check(NameRule::Dns1035Label, name, false);
        if !wrong.is_empty() {
            e.invalid(format!("spec.versions[{i}].name"), name, wrong.join(","));
        }
        version((o, old), v, i, strictness, e);
    }
    let given = s["versions"].clone();
    let mut seen = std::collections::HashSet::new();
    if !all.iter().all(|v| seen.insert(text(v, "name"))) {
        e.invalid(
            "spec.versions",
            given.clone(),
            "must contain unique version names",
        );
    }
    if all.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        e.invalid("spec.versions", given, detail);
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&s["names"], key).is_empty() {
            e.required(format!("spec.names.{key}"), "");
        }
    }
    e.names(&s["names"], "spec.names");
    conversion(&s["conversion"], e);
}
