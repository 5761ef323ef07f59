//! The status of a ResourceClaim: who uses it, and which devices it has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    CONFIGS_MAX, Names, configuration, distinct, driver_name, free, items, label, pool_name,
    references, request_names, request_reference, slices,
};
use crate::{
    kinds::{
        checks::{
            path::{Errors, Go, Path},
            pod::affinity::node_selector,
            rules,
        },
        json::{list, str_of},
    },
    registry::FieldError,
};

const USERS_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;

/// What tells one device, or one share of it, from others.
fn id(d: &Value) -> String {
    let parts = ["driver", "pool", "device", "shareID"].map(|f| str_of(d, f));
    let mut text = parts[..3].join("/");
    if !parts[3].is_empty() {
        text = format!("{text}/{}", parts[3]);
    }
    text
}

pub(crate) fn claim_status_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("status");
    let (status, before) = (&new["status"], &old["status"]);
    let users = list(status, "reservedFor");
    let place = at.child("reservedFor");
    distinct(users, USERS_MAX, &place, &mut errors, user, |u| {
        str_of(u, "uid").into()
    });
    let allocation = &status["allocation"];
    let allocated: BTreeSet<String> = list(&allocation["devices"], "results")
        .iter()
        .map(id)
        .collect();
    distinct(
        list(status, "devices"),
        usize::MAX,
        &at.child("devices"),
        &mut errors,
        |d, at, e| device(d, &allocated, at, e),
        |d| id(d).into(),
    );
    if !users.is_empty() {
        let deleted = new["metadata"]["deletionTimestamp"].is_string();
        let known = list(before, "reservedFor");
        if allocation.is_null() {
            let detail = "may not be specified when `allocated` is not set";
            errors.forbidden(&place, detail);
        } else if deleted && users.iter().any(|u| !known.contains(u)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&place, detail);
        }
    }
    let place = at.child("allocation");
    match (before["allocation"].is_object(), allocation.is_object()) {
        (true, true) => {
            let go = Go::Internal("resource.AllocationResult");
            errors.immutable_go(&place, allocation, &before["allocation"], &go);
        }
        (false, true) => {
            let names = request_names(&new["spec"]["devices"]);
            result(allocation, &names, &place, &mut errors);
        }
        _ => {}
    }
    errors.0
}

fn user(u: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in ["resource", "name", "uid"] {
        if str_of(u, field).is_empty() {
            errors.required(&at.child(field), "");
        }
    }
}

fn device(d: &Value, allocated: &BTreeSet<String>, at: &Path<'_>, errors: &mut Errors) {
    driver_name(str_of(d, "driver"), &at.child("driver"), errors);
    pool_name(str_of(d, "pool"), &at.child("pool"), errors);
    label(str_of(d, "device"), &at.child("device"), errors);
    let id = id(d);
    if !allocated.contains(&id) {
        errors.invalid(at, id, "must be an allocated device in the claim");
    }
    let (conditions, place) = (list(d, "conditions"), at.child("conditions"));
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(&place, conditions.len(), CONDITIONS_MAX);
    }
    rules::conditions(conditions, &place, errors);
    if !d["data"].is_null() {
        free(&d["data"], &at.child("data"), errors);
    }
}

fn result(allocation: &Value, names: &Names<'_>, at: &Path<'_>, errors: &mut Errors) {
    let (devices, place) = (&allocation["devices"], at.child("devices"));
    items(
        list(devices, "results"),
        RESULTS_MAX,
        &place.child("results"),
        errors,
        |r, at, e| {
            request_reference(str_of(r, "request"), names, &at.child("request"), e);
            driver_name(str_of(r, "driver"), &at.child("driver"), e);
            pool_name(str_of(r, "pool"), &at.child("pool"), e);
            label(str_of(r, "device"), &at.child("device"), e);
            slices::conditions(r, at, e);
        },
    );
    items(
        list(devices, "config"),
        2 * CONFIGS_MAX,
        &place.child("config"),
        errors,
        |c, at, e| {
            e.one_of(
                &at.child("source"),
                &c["source"],
                &["FromClaim", "FromClass"],
            );
            references(c, names, at, e);
            configuration(c, at, e);
        },
    );
    if allocation["nodeSelector"].is_object() {
        let selector = &allocation["nodeSelector"];
        node_selector(selector, &at.child("nodeSelector"), errors);
    }
}
