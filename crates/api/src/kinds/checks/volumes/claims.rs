//! PersistentVolumeClaims, and their templates in Pods and StatefulSets.

use super::super::{
    difference::diff_of,
    path::{Errors, Path},
    quantity::Quantity,
    rules, selectors,
};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::Value;

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
pub(super) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Each of the modes known, and the exclusive one alone.
pub(super) fn access_modes(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    for mode in all {
        errors.supported(at, mode, &MODES);
    }
    let exclusive = |m: &&Value| **m == "ReadWriteOncePod";
    let others = all
        .iter()
        .any(|m| !exclusive(&m) && m.as_str().is_some_and(|m| MODES.contains(&m)));
    if all.iter().any(|m| exclusive(&m)) && others {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden(at, detail);
    }
}

/// The claim of an `ephemeral` volume.
pub(super) fn template(t: &Value, at: &Path<'_>, errors: &mut Errors) {
    let metadata = &t["metadata"];
    let place = at.child("metadata");
    rules::annotations(
        &metadata["annotations"],
        &place.child("annotations"),
        errors,
    );
    rules::labels(&metadata["labels"], &place.child("labels"), errors);
    for (field, _) in entries(metadata).filter(|(_, v)| !v.is_null()) {
        if !["annotations", "labels"].contains(&field) {
            errors.forbidden(&place.child(field), "cannot be set");
        }
    }
    spec(&t["spec"], &at.child("spec"), errors);
}

/// A claim's spec.
pub(crate) fn spec(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let modes = list(spec, "accessModes");
    let place = at.child("accessModes");
    if modes.is_empty() {
        errors.required(&place, "at least 1 access mode is required");
    }
    selectors::labels(&spec["selector"], &at.child("selector"), errors);
    access_modes(modes, &place, errors);
    let resources = at.child("resources");
    let place = resources.key("storage");
    match Quantity::of(&spec["resources"]["requests"]["storage"]) {
        None => errors.required(&place, ""),
        Some(q) if q.sign() <= 0 => {
            errors.invalid(&place, q.canonical(), "must be greater than zero");
        }
        Some(_) => {}
    }
    class_name(spec, "storageClassName", at, errors);
    errors.supported(&at.child("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (field, s) in [("dataSource", source), ("dataSourceRef", reference)] {
        if s.is_object() {
            data_source(s, &at.child(field), errors);
        }
    }
    let space = str_of(reference, "namespace");
    if source.is_object() && reference.is_object() {
        let same = ["apiGroup", "kind", "name"]
            .iter()
            .all(|f| source[*f] == reference[*f]);
        if !space.is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(at, serde_json::json!({}), detail);
        } else if !same {
            errors.invalid(at, serde_json::json!({}), "must match dataSourceRef");
        }
    }
    class_name(spec, "volumeAttributesClassName", at, errors);
}

/// A class's name, when there is one.
pub(super) fn class_name(spec: &Value, field: &str, at: &Path<'_>, errors: &mut Errors) {
    let name = str_of(spec, field);
    if !name.is_empty() {
        errors.broken(&at.child(field), name, rules::dns_subdomain(name));
    }
}

fn data_source(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kind = str_of(s, "kind");
    super::sources::required(s, &["name", "kind"], at, errors);
    let group = str_of(s, "apiGroup");
    if group.is_empty() {
        if kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(at, kind, detail);
        }
    } else {
        errors.broken(&at.child("apiGroup"), group, rules::dns_subdomain(group));
    }
    let space = str_of(s, "namespace");
    if !space.is_empty() {
        errors.broken(&at.child("namespace"), space, rules::dns_label(space));
    }
}

pub(crate) fn claim(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&o["spec"], &Path::Root("spec"), &mut errors);
    errors.0
}

pub(crate) fn claim_update(new: &Value, old: &Value) -> Vec<FieldError> {
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let mut errors = Errors::default();
    let (mut is, mut was) = (new["spec"].clone(), old["spec"].clone());
    let note = |o: &Value| o["metadata"]["annotations"][CLASS].clone();
    // a volume's name may be set once
    if str_of(&was, "volumeName").is_empty() {
        was["volumeName"] = is["volumeName"].clone();
    }
    let (class, before) = (new["spec"]["storageClassName"].clone(), note(old));
    let upgraded = was["storageClassName"].is_null() && class.is_string();
    if upgraded
        && before.is_string()
        && class == before
        && (note(new).is_null() || note(new) == before)
    {
        is["storageClassName"] = Value::Null;
    } else {
        if note(new) != before {
            let at = Path::Root("metadata");
            let at = at.child("annotations");
            let shown = note(new).as_str().unwrap_or_default().to_string();
            errors.invalid(&at.key(CLASS), shown, "field is immutable");
        }
        if upgraded && (before.is_null() || class == before) {
            is["storageClassName"] = was["storageClassName"].clone();
        }
    }
    if new["status"]["phase"] == "Bound" {
        if is["resources"]["requests"].is_object() {
            is["resources"]["requests"]["storage"] =
                was["resources"]["requests"]["storage"].clone();
        }
        is["volumeAttributesClassName"] = was["volumeAttributesClassName"].clone();
    }
    for s in [&mut is, &mut was] {
        drop_nulls(s);
    }
    if is != was {
        errors.forbidden(
            &Path::Root("spec"),
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                diff_of("core.PersistentVolumeClaimSpec", &was, &is)
            ),
        );
    }
    let size = |o: &Value| Quantity::of(&o["spec"]["resources"]["requests"]["storage"]);
    let held = Quantity::of(&old["status"]["capacity"]["storage"]);
    if let (Some(now), Some(then)) = (size(new), size(old))
        && now < then
        && held.map_or(now.sign() <= 0, |held| now <= held)
    {
        errors.forbidden(
            &Path::Root("spec.resources.requests.storage"),
            "field can not be less than status.capacity",
        );
    }
    errors.immutable(
        &Path::Root("volumeMode"),
        &new["spec"]["volumeMode"],
        &old["spec"]["volumeMode"],
    );
    if !old["status"]["currentVolumeAttributesClassName"].is_null() {
        let at = Path::Root("spec.volumeAttributesClassName");
        let what = match new["spec"]["volumeAttributesClassName"].as_str() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return errors.0,
        };
        errors.forbidden(
            &at,
            format!(
                "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            ),
        );
    }
    errors.0
}

fn drop_nulls(v: &mut Value) {
    if let Some(m) = v.as_object_mut() {
        m.retain(|_, v| !v.is_null());
    }
}
