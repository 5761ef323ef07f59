//! What of the volumes a container sees, and where.

use super::{Scope, containers};
use crate::kinds::{
    checks::path::{Errors, Path},
    checks::rules,
    json::{list, str_of, yes},
};
use serde_json::Value;
use std::collections::HashSet;

/// The list `volumeMounts` of container `c`.
pub(super) fn mounts(c: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let devices = list(c, "volumeDevices");
    let mut targets = HashSet::new();
    for (i, m) in list(c, "volumeMounts").iter().enumerate() {
        let place = at.index(i);
        let name = str_of(m, "name");
        if name.is_empty() {
            errors.required(&place.child("name"), "");
        }
        if !scope.volumes.contains_key(name) {
            errors.not_found(&place.child("name"), name);
        }
        let target = str_of(m, "mountPath");
        if target.is_empty() {
            errors.required(&place.child("mountPath"), "");
        }
        if !targets.insert(target) {
            errors.invalid(&place.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|d| str_of(d, "name") == name) {
            let detail = "must not already exist in volumeDevices";
            errors.invalid(&place.child("name"), name, detail);
        }
        if devices.iter().any(|d| str_of(d, "devicePath") == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&place.child("mountPath"), target, detail);
        }
        // From here on upstream names the list, not the item.
        let (sub, expression) = (str_of(m, "subPath"), str_of(m, "subPathExpr"));
        if !sub.is_empty() {
            rules::descending_path(sub, &at.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&place.child("subPathExpr"), expression, detail);
            }
            rules::descending_path(expression, &at.child("subPathExpr"), errors);
        }
        propagation(c, m, at, errors);
    }
}

fn propagation(c: &Value, m: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kinds = ["Bidirectional", "HostToContainer", "None"];
    let place = at.child("mountPropagation");
    if let Some(kind) = m["mountPropagation"].as_str() {
        if !kinds.contains(&kind) {
            errors.not_supported(&place, kind, &kinds);
        }
        if kind == "Bidirectional" && !containers::is_privileged(c) {
            errors.forbidden(
                &place,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    let place = at.child("recursiveReadOnly");
    match m["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !yes(m, "readOnly") {
                errors.forbidden(&place, "may only be specified when readOnly is true");
            }
            if m["mountPropagation"].as_str().is_some_and(|k| k != "None") {
                errors.forbidden(
                    &place,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        Some(other) => {
            errors.not_supported(&place, other, &["Disabled", "Enabled", "IfPossible"]);
        }
    }
}

/// The list `volumeDevices` of container `c`.
pub(super) fn devices(c: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mounts = list(c, "volumeMounts");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (i, d) in list(c, "volumeDevices").iter().enumerate() {
        let place = at.index(i);
        let (name_at, path_at) = (place.child("name"), place.child("devicePath"));
        let (name, path) = (str_of(d, "name"), str_of(d, "devicePath"));
        if name.is_empty() {
            errors.required(&name_at, "");
        }
        if names.contains(name) {
            errors.invalid(&name_at, name, "must be unique");
        }
        match scope.volumes.get(name) {
            None => errors.not_found(&name_at, name),
            Some(v) if v["persistentVolumeClaim"].is_null() && v["ephemeral"].is_null() => {
                errors.invalid(&name_at, name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.required(&path_at, "");
        }
        if paths.contains(path) {
            errors.invalid(&path_at, path, "must be unique");
        }
        if path.split('/').any(|p| p == "..") {
            errors.invalid(&path_at, path, "can not contain backsteps ('..')");
        } else {
            paths.insert(path);
        }
        if mounts.iter().any(|m| str_of(m, "name") == name) {
            errors.invalid(&name_at, name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| str_of(m, "mountPath") == path) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&path_at, path, detail);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
