//! The checks of what drivers of storage say about themselves (`pkg/apis/storage/validation`).

use super::{
    path::{Errors, Go, Path},
    quantity, rules, selectors,
};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;
const NODE_ID_CHARACTERS_MAX: usize = 256;
const ERROR_BYTES_MAX: usize = 1024;

/// The name of a driver: a subdomain in any case, short.
pub(crate) fn driver_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(at, 63);
    }
    errors.broken(at, name, rules::dns_subdomain(&name.to_lowercase()));
}

pub(crate) fn driver(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    for (field, place) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if spec[field].is_null() {
            errors.required(&at.child(place), "");
        }
    }
    errors.supported(
        &at.child("fsGroupPolicy"),
        &spec["fsGroupPolicy"],
        &["File", "None", "ReadWriteOnceWithFSType"],
    );
    token_requests(
        list(spec, "tokenRequests"),
        &at.child("tokenRequests"),
        &mut errors,
    );
    for mode in list(spec, "volumeLifecycleModes") {
        let at = at.child("volumeLifecycleModes");
        errors.supported(&at, mode, &["Persistent", "Ephemeral"]);
    }
    if spec["seLinuxMount"].is_null() {
        errors.required(&at.child("seLinuxMount"), "");
    }
    if let Some(n) = spec["nodeAllocatableUpdatePeriodSeconds"]
        .as_i64()
        .filter(|n| *n < 10)
    {
        errors.invalid(
            &at.child("nodeAllocatableUpdatePeriodSeconds"),
            n,
            "must be greater than or equal to 10 seconds",
        );
    }
    let in_secrets = &spec["serviceAccountTokenInSecrets"];
    if !in_secrets.is_null() && list(spec, "tokenRequests").is_empty() {
        errors.invalid(
            &at.child("serviceAccountTokenInSecrets"),
            in_secrets.clone(),
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
    }
    errors.0
}

fn token_requests(requests: &[Value], at: &Path<'_>, errors: &mut Errors) {
    const SECONDS_MIN: i64 = 600;
    const SECONDS_MAX: i64 = 1 << 32;
    let mut seen = HashSet::new();
    for (i, request) in requests.iter().enumerate() {
        let at = at.index(i);
        let audience = str_of(request, "audience");
        if !seen.insert(audience) {
            errors.duplicate(&at.child("audience"), audience);
            continue;
        }
        let seconds = request["expirationSeconds"].as_i64();
        let at = at.child("expirationSeconds");
        match seconds {
            Some(n) if n < SECONDS_MIN => {
                errors.invalid(&at, n, "may not specify a duration less than 10 minutes");
            }
            Some(n) if n > SECONDS_MAX => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&at, n, detail);
            }
            _ => {}
        }
    }
}

pub(crate) fn driver_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for (field, place) in [
        ("attachRequired", "spec.attachedRequired"),
        ("volumeLifecycleModes", "spec.volumeLifecycleModes"),
    ] {
        let at = Path::Root(place);
        errors.immutable(&at, &new["spec"][field], &old["spec"][field]);
    }
    errors.0
}

pub(crate) fn node(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.drivers");
    let mut seen = HashSet::new();
    for (i, driver) in list(&o["spec"], "drivers").iter().enumerate() {
        let at = at.index(i);
        let name = str_of(driver, "name");
        driver_name(name, &at.child("name"), &mut errors);
        let id = str_of(driver, "nodeID");
        let place = at.child("nodeID");
        if id.is_empty() {
            errors.required(&place, "");
        }
        if id.len() > NODE_ID_CHARACTERS_MAX {
            errors.invalid(
                &place,
                id,
                format!("must be {NODE_ID_CHARACTERS_MAX} characters or less"),
            );
        }
        let count = &driver["allocatable"]["count"];
        errors.nonnegative(&at.child("allocatable.count"), count);
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let mut keys = HashSet::new();
        for key in list(driver, "topologyKeys") {
            let key = key.as_str().unwrap_or_default();
            if key.is_empty() {
                errors.required(&at, "");
            }
            if !keys.insert(key) {
                errors.duplicate(&at, key);
            }
            errors.broken(&at, key, rules::qualified(key));
        }
    }
    errors.0
}

/// CSINodeDriver
const DRIVER: Go = Go::Struct(&[
    ("name", "Name", Go::Text),
    ("nodeID", "NodeID", Go::Text),
    ("topologyKeys", "TopologyKeys", Go::Plain),
    ("allocatable", "Allocatable", Go::Plain),
]);
/// VolumeAttachmentSpec
const ATTACHMENT: Go = Go::Struct(&[
    ("attacher", "Attacher", Go::Text),
    (
        "source",
        "Source",
        Go::Struct(&[
            ("persistentVolumeName", "PersistentVolumeName", Go::Plain),
            ("inlineVolumeSpec", "InlineVolumeSpec", Go::Plain),
        ]),
    ),
    ("nodeName", "NodeName", Go::Text),
]);

pub(crate) fn node_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let fixed = |d: &Value| {
        let mut d = d.clone();
        if let Some(map) = d.as_object_mut() {
            map.remove("allocatable");
        }
        d
    };
    for was in list(&old["spec"], "drivers") {
        for is in list(&new["spec"], "drivers") {
            if was["name"] == is["name"] {
                let at = Path::Root("spec.drivers");
                errors.immutable_go(&at, &fixed(is), &fixed(was), &DRIVER);
            }
        }
    }
    errors.0
}

pub(crate) fn capacity(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    selectors::labels(&o["nodeTopology"], &Path::Root("nodeTopology"), &mut errors);
    let class = str_of(o, "storageClassName");
    let at = Path::Root("storageClassName");
    errors.broken(&at, class, rules::dns_subdomain(class));
    quantity::nonnegative(&o["capacity"], &Path::Root("capacity"), &mut errors);
    errors.0
}

pub(crate) fn capacity_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for field in ["nodeTopology", "storageClassName"] {
        errors.immutable(&Path::Root(field), &new[field], &old[field]);
    }
    errors.0
}

pub(crate) fn attachment(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    driver_name(str_of(spec, "attacher"), &at.child("attacher"), &mut errors);
    let source = &spec["source"];
    let place = at.child("source");
    match (
        source["inlineVolumeSpec"].is_object(),
        source["persistentVolumeName"].as_str(),
    ) {
        (false, None) => errors.required(
            &place,
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (true, Some(_)) => errors.forbidden(
            &place,
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (false, Some("")) => errors.required(
            &place.child("persistentVolumeName"),
            "must specify non empty persistentVolumeName",
        ),
        _ => {}
    }
    let node = str_of(spec, "nodeName");
    errors.broken(&at.child("nodeName"), node, rules::dns_subdomain(node));
    let status = &o["status"];
    let at = Path::Root("status");
    let bytes: usize = entries(&status["attachmentMetadata"])
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if bytes > PARAMETERS_BYTES_MAX {
        errors.too_long(&at.child("attachmentMetadata"), PARAMETERS_BYTES_MAX);
    }
    for field in ["attachError", "detachError"] {
        let at = at.child(field);
        let e = &status[field];
        if str_of(e, "message").len() > ERROR_BYTES_MAX {
            // upstream names the other bound here
            errors.too_long(&at.child("message"), PARAMETERS_BYTES_MAX);
        }
        if let Some(code) = e["errorCode"].as_i64() {
            let messages = rules::between(code, 0, i64::from(i32::MAX));
            errors.broken(&at.child("errorCode"), code, messages);
        }
    }
    if let Some(volume) = source["persistentVolumeName"].as_str() {
        let at = Path::Root("spec.source.persistentVolumeName");
        errors.broken(&at, volume, rules::dns_subdomain(volume));
    }
    errors.0
}

pub(crate) fn attachment_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec");
    errors.immutable_go(&at, &new["spec"], &old["spec"], &ATTACHMENT);
    errors.0
}

/// A provisioner's name.
pub(crate) fn provisioner(name: &str, at: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
    } else {
        let lower = name.to_lowercase();
        errors.broken(at, lower.as_str(), rules::qualified(&lower));
    }
}

/// A class's parameters.
pub(crate) fn parameters(map: &Value, may_be_empty: bool, at: &Path<'_>, errors: &mut Errors) {
    let count = entries(map).count();
    if count > PARAMETERS_MAX {
        errors.too_long(at, PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in entries(map) {
        if key.is_empty() {
            errors.invalid(at, "", "field can not be empty.");
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_BYTES_MAX {
        errors.too_long(at, PARAMETERS_BYTES_MAX);
    }
    if !may_be_empty && count == 0 {
        errors.required(at, "must contain at least one key/value pair");
    }
}

pub(crate) fn attributes_class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("driverName");
    provisioner(str_of(o, "driverName"), &at, &mut errors);
    let at = Path::Root("parameters");
    parameters(&o["parameters"], false, &at, &mut errors);
    errors.0
}

pub(crate) fn attributes_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for (field, detail) in [
        ("driverName", "updates to driverName are forbidden."),
        ("parameters", "updates to parameters are forbidden."),
    ] {
        if new[field] != old[field] {
            errors.forbidden(&Path::Root(field), detail);
        }
    }
    errors.0
}

pub(crate) fn storage_class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("provisioner");
    provisioner(str_of(o, "provisioner"), &at, &mut errors);
    let at = Path::Root("parameters");
    parameters(&o["parameters"], true, &at, &mut errors);
    if o["reclaimPolicy"] != "" {
        let at = Path::Root("reclaimPolicy");
        errors.supported(&at, &o["reclaimPolicy"], &["Delete", "Retain"]);
    }
    let at = Path::Root("volumeBindingMode");
    let modes = ["Immediate", "WaitForFirstConsumer"];
    if o["volumeBindingMode"].is_null() {
        errors.required(&at, "");
    }
    errors.supported(&at, &o["volumeBindingMode"], &modes);
    topologies(list(o, "allowedTopologies"), &mut errors);
    errors.0
}

fn topologies(terms: &[Value], errors: &mut Errors) {
    let at = Path::Root("allowedTopologies");
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let at = at.index(i);
        let place = at.child("matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (j, e) in list(term, "matchLabelExpressions").iter().enumerate() {
            let at = place.index(j);
            let values = at.child("values");
            let all = list(e, "values");
            if all.is_empty() {
                errors.required(&values, "");
            }
            let mut set = BTreeSet::new();
            for (k, v) in all.iter().filter_map(Value::as_str).enumerate() {
                if !set.insert(v) {
                    errors.duplicate(&values.index(k), v);
                }
            }
            let key = str_of(e, "key");
            errors.broken(&at.child("key"), key, rules::qualified(key));
            if keys.insert(key, set).is_some() {
                errors.duplicate(&at.child("key"), key);
            }
        }
        // upstream compares with as many empty ones, too
        let empty = if keys.is_empty() { terms.len() } else { 0 };
        let same = seen.iter().filter(|s| **s == keys).count();
        for _ in 0..empty + same {
            errors.duplicate(&place, "");
        }
        seen.push(keys);
    }
}

pub(crate) fn storage_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for field in [
        "parameters",
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ] {
        errors.immutable(&Path::Root(field), &new[field], &old[field]);
    }
    errors.0
}
