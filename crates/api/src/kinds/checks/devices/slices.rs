//! ResourceSlices: what a driver says that there is.

use serde_json::{Value, json};

use super::{EFFECTS, distinct, driver_name, items, label, name_of, pool_name, qualified_name};
use crate::{
    kinds::{
        checks::{
            path::{Errors, Path},
            pod::{affinity::node_selector, resources::is_native},
            rules,
        },
        json::{entries, list, str_of, yes},
    },
    registry::FieldError,
};

const DEVICES_MAX: usize = 128;
/// With taints, counters or lists as attributes.
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMED_MAX: usize = 2;
const PROPERTIES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const VALUE_BYTES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONDITIONS_MAX: usize = 4;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

pub(crate) fn slice(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&o["spec"], None, &mut errors);
    errors.0
}

pub(crate) fn slice_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&new["spec"], Some(&old["spec"]), &mut errors);
    errors.0
}

fn spec(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = Path::Root("spec");
    driver_name(str_of(spec, "driver"), &at.child("driver"), errors);
    let (pool, place) = (&spec["pool"], at.child("pool"));
    pool_name(str_of(pool, "name"), &place.child("name"), errors);
    let number = |k: &str| pool[k].as_i64().unwrap_or(0);
    let count = number("resourceSliceCount");
    if count <= 0 {
        let at = place.child("resourceSliceCount");
        errors.invalid(&at, count, "must be greater than zero");
    }
    if number("generation") < 0 {
        let at = place.child("generation");
        let detail = "must be greater than or equal to zero";
        errors.invalid(&at, number("generation"), detail);
    }
    if let Some(old) = old {
        errors.immutable(&place.child("name"), &pool["name"], &old["pool"]["name"]);
        for field in ["driver", "nodeName"] {
            errors.immutable(&at.child(field), &spec[field], &old[field]);
        }
    }
    places(spec, &at, errors);
    if spec["sharedCounters"].is_array() && spec["devices"].is_array() {
        errors.invalid(
            &at,
            "",
            "only one of `sharedCounters` or `devices` is allowed",
        );
    }
    let devices = list(spec, "devices");
    let advanced = |d: &Value| {
        let lists = |a: &Value| LISTS.iter().any(|l| a[*l].is_array());
        !list(d, "taints").is_empty()
            || !list(d, "consumesCounters").is_empty()
            || entries(&d["attributes"]).any(|(_, a)| lists(a))
    };
    let max = match devices.iter().any(advanced) {
        true => ADVANCED_DEVICES_MAX,
        false => DEVICES_MAX,
    };
    let before = |name: &str| {
        let all = list(old?, "devices");
        all.iter().find(|d| str_of(d, "name") == name)
    };
    let each = yes(spec, "perDeviceNodeSelection");
    distinct(
        devices,
        max,
        &at.child("devices"),
        errors,
        |d, at, e| device(d, before(str_of(d, "name")), each, at, e),
        name_of,
    );
    distinct(
        list(spec, "sharedCounters"),
        COUNTER_SETS_MAX,
        &at.child("sharedCounters"),
        errors,
        |set, at, e| counters(set, "name", COUNTERS_MAX, at, e),
        name_of,
    );
}

fn node_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    errors.broken(at, name, rules::dns_subdomain(name));
}

/// Where the devices are: exactly one way to say it.
fn places(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut set = Vec::new();
    match spec["nodeName"].as_str() {
        None => {}
        Some("") => errors.invalid(
            &at.child("nodeName"),
            "",
            "must be either unset or set to a non-empty string",
        ),
        Some(name) => {
            set.push("`nodeName`");
            node_name(name, &at.child("nodeName"), errors);
        }
    }
    if spec["nodeSelector"].is_object() {
        set.push("`nodeSelector`");
        let (selector, at) = (&spec["nodeSelector"], at.child("nodeSelector"));
        node_selector(selector, &at, errors);
        if list(selector, "nodeSelectorTerms").len() != 1 {
            let terms = selector["nodeSelectorTerms"].clone();
            let detail = "must have exactly one node selector term";
            errors.invalid(&at.child("nodeSelectorTerms"), terms, detail);
        }
    }
    for (field, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match spec[field].as_bool() {
            None => {}
            Some(true) => set.push(shown),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.invalid(&at.child(field), false, detail);
            }
        }
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.required(at, ONE),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.invalid(at, format!("{{{}}}", set.join(", ")), detail);
        }
    }
}

/// A set of counters, or what a device takes of one.
fn counters(set: &Value, field: &str, max: usize, at: &Path<'_>, errors: &mut Errors) {
    let name = str_of(set, field);
    if name.is_empty() {
        errors.required(&at.child(field), "");
    } else {
        label(name, &at.child(field), errors);
    }
    let at = at.child("counters");
    let count = entries(&set["counters"]).count();
    if count == 0 {
        errors.required(&at, "");
    } else if count > max {
        errors.too_many(&at, count, max);
    } else {
        for (key, _) in entries(&set["counters"]) {
            label(key, &at, errors);
        }
    }
}

fn device(d: &Value, old: Option<&Value>, each: bool, at: &Path<'_>, errors: &mut Errors) {
    label(str_of(d, "name"), &at.child("name"), errors);
    let (attributes, capacity) = (&d["attributes"], &d["capacity"]);
    let properties = entries(attributes).count() + entries(capacity).count();
    if properties > PROPERTIES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {PROPERTIES_MAX}"
        );
        errors.invalid(at, properties, detail);
    }
    let values = |a: &Value| {
        let listed: usize = LISTS.iter().map(|l| list(a, l).len()).sum();
        listed.max(1)
    };
    let values: usize = entries(attributes).map(|(_, a)| values(a)).sum();
    if values > VALUES_MAX {
        let detail = format!("the total number of attribute values must not exceed {VALUES_MAX}");
        errors.invalid(at, values, detail);
    }
    let place = at.child("attributes");
    for (name, value) in entries(attributes) {
        qualified_name(name, &place, errors);
        attribute(value, &place.key(name), errors);
    }
    let place = at.child("capacity");
    let shared = yes(d, "allowMultipleAllocations");
    for (name, value) in entries(capacity) {
        qualified_name(name, &place, errors);
        if value["requestPolicy"].is_object() && !shared {
            let at = place.key(name);
            let at = at.child("requestPolicy");
            errors.forbidden(&at, "allowMultipleAllocations must be true");
        }
    }
    if old.is_none_or(|o| o["taints"] != d["taints"]) {
        let taints = list(d, "taints");
        items(taints, TAINTS_MAX, &at.child("taints"), errors, taint);
    }
    distinct(
        list(d, "consumesCounters"),
        CONSUMED_MAX,
        &at.child("consumesCounters"),
        errors,
        |c, at, e| counters(c, "counterSet", COUNTERS_MAX, at, e),
        |c| str_of(c, "counterSet").into(),
    );
    selection(d, each, at, errors);
    conditions(d, at, errors);
    let place = at.child("nodeAllocatableResourceMappings");
    for (name, mapping) in entries(&d["nodeAllocatableResourceMappings"]) {
        let at = place.key(name);
        if !is_native(name) {
            errors.invalid(&at, name, "must be a node allocatable resource name");
        }
        match mapping["capacityKey"].as_str() {
            None if mapping["allocationMultiplier"].is_null() => {
                let detail = "at least one of allocationMultiplier or capacityKey must be set";
                errors.invalid(&at, "", detail);
            }
            Some("") => {
                let detail = "capacityKey must not be an empty string";
                errors.invalid(&at.child("capacityKey"), "", detail);
            }
            Some(key) if capacity.get(key).is_none() => {
                errors.not_found(&at.child("capacityKey"), key);
            }
            _ => {}
        }
    }
}

fn attribute(a: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut set = ["bool", "int"].iter().filter(|f| !a[**f].is_null()).count();
    if let Some(text) = a["string"].as_str() {
        set += 1;
        bounded(text, &at.child("string"), errors);
    }
    if let Some(text) = a["version"].as_str() {
        set += 1;
        version(text, &at.child("version"), errors);
    }
    for field in LISTS {
        let Some(all) = a[field].as_array() else {
            continue;
        };
        set += 1;
        let at = at.child(field);
        if all.is_empty() {
            errors.invalid(&at, json!([]), "must not be empty if specified");
        }
        for (i, item) in all.iter().enumerate() {
            let text = item.as_str().unwrap_or("");
            match field {
                "strings" => bounded(text, &at.index(i), errors),
                "versions" => version(text, &at.index(i), errors),
                _ => {}
            }
        }
    }
    match set {
        0 => errors.invalid(at, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(at, a.clone(), "exactly one value must be specified"),
    }
}

fn bounded(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.len() > VALUE_BYTES_MAX {
        errors.too_long(at, VALUE_BYTES_MAX);
    }
}

fn version(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if !is_semver(text) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.invalid(at, text, detail);
    }
    bounded(text, at, errors);
}

fn is_semver(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let number = |s: &str| digits(s) && (s == "0" || !s.starts_with('0'));
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = match text.split_once('+') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let (core, before) = match text.split_once('-') {
        Some((core, before)) => (core, Some(before)),
        None => (text, None),
    };
    let core: Vec<&str> = core.split('.').collect();
    core.len() == 3
        && core.into_iter().all(number)
        && before.is_none_or(|b| b.split('.').all(|p| word(p) && (number(p) || !digits(p))))
        && build.is_none_or(|b| b.split('.').all(word))
}

fn taint(t: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (key, value) = (str_of(t, "key"), str_of(t, "value"));
    errors.broken(&at.child("key"), key, rules::qualified(key));
    if !value.is_empty() {
        errors.broken(&at.child("value"), value, rules::label_value(value));
    }
    errors.one_of(&at.child("effect"), &t["effect"], &EFFECTS);
}

/// Where one device is, when each says so itself.
fn selection(d: &Value, each: bool, at: &Path<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !each {
        let fields = ["nodeName", "nodeSelector", "allNodes"];
        if fields.iter().any(|f| !d[*f].is_null()) {
            errors.invalid(at, Value::Null, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec");
        }
        return;
    }
    let mut set = Vec::new();
    match d["nodeName"].as_str() {
        None => {}
        Some("") => errors.invalid(&at.child("nodeName"), "", "must not be empty"),
        Some(name) => {
            set.push("`nodeName`");
            node_name(name, &at.child("nodeName"), errors);
        }
    }
    if d["nodeSelector"].is_object() {
        set.push("`nodeSelector`");
        node_selector(&d["nodeSelector"], &at.child("nodeSelector"), errors);
    }
    match d["allNodes"].as_bool() {
        None => {}
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            let detail = "must be either unset or set to true";
            errors.invalid(&at.child("allNodes"), false, detail);
        }
    }
    match set.len() {
        0 => errors.required(at, ONE),
        1 => {}
        _ => errors.invalid(at, format!("{{{}}}", set.join(", ")), ONE),
    }
}

/// Conditions that a driver waits for before a Pod is bound.
pub(super) fn conditions(d: &Value, at: &Path<'_>, errors: &mut Errors) {
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let [good, bad] = fields.map(|f| list(d, f));
    for (field, all) in fields.into_iter().zip([good, bad]) {
        items(all, CONDITIONS_MAX, &at.child(field), errors, |v, at, e| {
            let text = v.as_str().unwrap_or("");
            e.broken(at, text, rules::qualified(text));
        });
    }
    for (field, all) in fields.into_iter().zip([good, bad]) {
        let place = at.child(field);
        for (i, v) in all.iter().enumerate() {
            if all[..i].contains(v) {
                errors.duplicate(&place.index(i), v.clone());
            }
            if field == fields[1] && good.contains(v) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&place.index(i), v.clone(), detail);
            }
        }
    }
    for (none, some, field, other) in [
        (good, bad, fields[0], fields[1]),
        (bad, good, fields[1], fields[0]),
    ] {
        if none.is_empty() && !some.is_empty() {
            let detail = format!("{field} are required to use {other}");
            errors.invalid(&at.child(field), d[field].clone(), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for (text, fits) in [
            ("1.2.3", true),
            ("0.0.0-alpha.1+build.7", true),
            ("1.0.0--x", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-01", false),
            ("1.2.3+", false),
            ("v1.2.3", false),
        ] {
            assert_eq!(is_semver(text), fits, "{text}");
        }
    }

    #[test]
    fn slices_are_told_what_is_wrong() {
        let good = json!({"spec": {"driver": "d.x", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1},
            "devices": [{"name": "d", "attributes": {"a": {"int": 1}}, "taints": [{"key": "k", "effect": "None"}]}]}});
        assert!(slice(&good).is_empty(), "{:?}", slice(&good));
        for (pointer, value, want) in [
            ("/spec/nodeName", json!(null), "exactly one of `nodeName`"),
            (
                "/spec/devices/0/name",
                json!("A"),
                "spec.devices[0].name: Invalid value",
            ),
            (
                "/spec/devices/0/attributes/a",
                json!({}),
                "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
            ),
            (
                "/spec/devices/0/taints/0/effect",
                json!(""),
                "spec.devices[0].taints[0].effect: Required value",
            ),
            (
                "/spec/pool/resourceSliceCount",
                json!(0),
                "must be greater than zero",
            ),
        ] {
            let mut o = good.clone();
            *o.pointer_mut(pointer).unwrap() = value;
            let told: Vec<String> = slice(&o).iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|t| t.contains(want)), "{pointer}: {told:?}");
        }
        let mut o = good.clone();
        o["spec"]["driver"] = "e.x".into();
        assert_eq!(slice_update(&o, &good).len(), 1);
    }
}
