//! DeviceClass, ResourceClaim, ResourceClaimTemplate and ResourceSlice (`pkg/apis/resource/validation`).

mod slices;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use knarr_cel::Type;
use serde_json::Value;

use super::{
    csi::driver_name,
    path::{Errors, Go, Path},
    pod::resources::is_extended,
    rules,
};
use crate::{
    expressions::compile,
    kinds::json::{list, str_of},
    registry::FieldError,
};

pub(crate) use slices::{slice, slice_update};
pub(crate) use status::claim_status_update;

const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIGS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const EXPRESSION_BYTES_MAX: usize = 10 << 10;
const PARAMETERS_BYTES_MAX: usize = 10 << 10;
const ID_BYTES_MAX: usize = 32;
const POOL_NAME_BYTES_MAX: usize = 253;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const REQUEST_NAME: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Each item, unless there are too many.
fn items<'a>(
    all: &'a [Value],
    max: usize,
    at: &Path<'_>,
    errors: &mut Errors,
    mut check: impl FnMut(&'a Value, &Path<'_>, &mut Errors),
) -> bool {
    if all.len() > max {
        errors.too_many(at, all.len(), max);
        return false;
    }
    for (i, item) in all.iter().enumerate() {
        check(item, &at.index(i), errors);
    }
    true
}

/// Items that are told apart by a key.
fn distinct<'a>(
    all: &'a [Value],
    max: usize,
    at: &Path<'_>,
    errors: &mut Errors,
    check: impl FnMut(&'a Value, &Path<'_>, &mut Errors),
    key: impl Fn(&'a Value) -> Value,
) {
    if !items(all, max, at, errors, check) {
        return;
    }
    let mut seen = HashSet::new();
    for (i, item) in all.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errors.duplicate(&at.index(i), key);
        }
    }
}

fn name_of(item: &Value) -> Value {
    str_of(item, "name").into()
}

/// Names of requests, with those of their alternatives.
type Names<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn request_names(devices: &Value) -> Names<'_> {
    let subs = |r| list(r, "firstAvailable").iter().map(|s| str_of(s, "name"));
    let requests = list(devices, "requests").iter();
    requests
        .map(|r| (str_of(r, "name"), subs(r).collect()))
        .collect()
}

fn label(text: &str, at: &Path<'_>, errors: &mut Errors) {
    errors.broken(at, text, rules::dns_label(text));
}

/// A reference to a request, or to one of its alternatives.
fn request_reference(name: &str, names: &Names<'_>, at: &Path<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.invalid(at, name, REQUEST_NAME);
        return;
    }
    for part in &parts {
        label(part, at, errors);
    }
    let there = names
        .get(parts[0])
        .is_some_and(|subs| parts.get(1).is_none_or(|sub| subs.contains(sub)));
    if !there {
        errors.invalid(at, name, REQUEST_NAME);
    }
}

fn references(of: &Value, names: &Names<'_>, at: &Path<'_>, errors: &mut Errors) {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    distinct(
        list(of, "requests"),
        REQUESTS_MAX,
        &at.child("requests"),
        errors,
        |v, at, e| request_reference(&text(v), names, at, e),
        Value::clone,
    );
}

fn devices(devices: &Value, at: &Path<'_>, errors: &mut Errors) {
    let names = request_names(devices);
    distinct(
        list(devices, "requests"),
        REQUESTS_MAX,
        &at.child("requests"),
        errors,
        request,
        name_of,
    );
    items(
        list(devices, "constraints"),
        CONSTRAINTS_MAX,
        &at.child("constraints"),
        errors,
        |c, at, e| constraint(c, &names, at, e),
    );
    items(
        list(devices, "config"),
        CONFIGS_MAX,
        &at.child("config"),
        errors,
        |c, at, e| {
            references(c, &names, at, e);
            configuration(c, at, e);
        },
    );
}

fn request(r: &Value, at: &Path<'_>, errors: &mut Errors) {
    label(str_of(r, "name"), &at.child("name"), errors);
    let first = list(r, "firstAvailable");
    let exactly = &r["exactly"];
    match (!first.is_empty(), exactly.is_object()) {
        (false, false) => errors.required(
            at,
            "exactly one of `exactly` or `firstAvailable` is required",
        ),
        (true, true) => errors.invalid(
            at,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (true, false) => distinct(
            first,
            ALTERNATIVES_MAX,
            &at.child("firstAvailable"),
            errors,
            |sub, at, e| {
                label(str_of(sub, "name"), &at.child("name"), e);
                exact(sub, at, e);
            },
            name_of,
        ),
        (false, true) => exact(exactly, &at.child("exactly"), errors),
    }
}

fn exact(r: &Value, at: &Path<'_>, errors: &mut Errors) {
    let class = str_of(r, "deviceClassName");
    let place = at.child("deviceClassName");
    if class.is_empty() {
        errors.required(&place, "");
    } else {
        errors.broken(&place, class, rules::dns_subdomain(class));
    }
    selectors(list(r, "selectors"), at, errors);
    let count = r["count"].as_i64().unwrap_or(0);
    match str_of(r, "allocationMode") {
        "All" if count != 0 => errors.invalid(
            &at.child("count"),
            count,
            "must not be specified when allocationMode is 'All'",
        ),
        "ExactCount" if count <= 0 => {
            errors.invalid(&at.child("count"), count, "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        other => errors.not_supported(&at.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    let place = at.child("tolerations");
    for (i, t) in list(r, "tolerations").iter().enumerate() {
        toleration(t, &place.index(i), errors);
    }
}

fn toleration(t: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (key, value) = (str_of(t, "key"), str_of(t, "value"));
    if !key.is_empty() {
        errors.broken(&at.child("key"), key, rules::qualified(key));
    }
    match str_of(t, "operator") {
        "Exists" if !value.is_empty() => errors.invalid(
            &at.child("value"),
            value,
            "must be empty for operator `Exists`",
        ),
        "Exists" => {}
        "Equal" => errors.broken(&at.child("value"), value, rules::label_value(value)),
        _ => errors.one_of(&at.child("operator"), &t["operator"], &["Equal", "Exists"]),
    }
    if !str_of(t, "effect").is_empty() {
        errors.one_of(&at.child("effect"), &t["effect"], &EFFECTS);
    }
}

fn selectors(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let place = at.child("selectors");
    items(all, SELECTORS_MAX, &place, errors, |s, at, e| {
        let at = at.child("cel");
        if s["cel"].is_object() {
            expression(str_of(&s["cel"], "expression"), &at.child("expression"), e);
        } else {
            e.required(&at, "");
        }
    });
}

fn expression(text: &str, at: &Path<'_>, errors: &mut Errors) {
    if text.len() > EXPRESSION_BYTES_MAX {
        errors.too_long(at, EXPRESSION_BYTES_MAX);
        return;
    }
    match compile(knarr_devices::environment(), text, &[]) {
        Err(why) => {
            let why = why.strip_prefix("compilation failed: ").unwrap_or(&why);
            errors.invalid(at, text, format!("compilation failed: {why}"));
        }
        Ok(program) => match program.result_type() {
            Type::Bool | Type::Dyn => {}
            other => errors.invalid(
                at,
                text,
                format!("must evaluate to bool or the unknown type, not {other}"),
            ),
        },
    }
}

fn constraint(c: &Value, names: &Names<'_>, at: &Path<'_>, errors: &mut Errors) {
    references(c, names, at, errors);
    let given = ["matchAttribute", "distinctAttribute"]
        .into_iter()
        .find_map(|f| Some((f, c[f].as_str()?)));
    match given {
        Some((field, name)) => full_name(name, &at.child(field), errors),
        None => errors.required(
            at,
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        ),
    }
}

fn configuration(c: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("opaque");
    let opaque = &c["opaque"];
    if !opaque.is_object() {
        errors.required(&at, "");
        return;
    }
    driver_name(str_of(opaque, "driver"), &at.child("driver"), errors);
    free(&opaque["parameters"], &at.child("parameters"), errors);
}

/// An object of anybody's making.
fn free(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Null => errors.required(at, ""),
        Value::Object(_) if value.to_string().len() > PARAMETERS_BYTES_MAX => {
            errors.too_long(at, PARAMETERS_BYTES_MAX);
        }
        Value::Object(_) => {}
        _ => errors.invalid(at, "<value omitted>", "must be a valid JSON object"),
    }
}

/// `domain/name`, or a name of the driver's own domain.
fn qualified_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(id, at, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(at, "", "the domain must not be empty");
            } else {
                driver_name(domain, at, errors);
            }
            if id.is_empty() {
                errors.invalid(at, "", "the name must not be empty");
            } else {
                identifier(id, at, errors);
            }
        }
        _ => {}
    }
}

fn full_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    qualified_name(name, at, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(at, name, detail);
    }
}

fn identifier(id: &str, at: &Path<'_>, errors: &mut Errors) {
    if id.len() > ID_BYTES_MAX {
        errors.too_long(at, ID_BYTES_MAX);
    }
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let fits = id.starts_with(first) && id.chars().all(|c| first(c) || c.is_ascii_digit());
    if !fits {
        errors.invalid(
            at,
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
}

fn pool_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
        return;
    }
    if name.len() > POOL_NAME_BYTES_MAX {
        errors.too_long(at, POOL_NAME_BYTES_MAX);
    }
    for part in name.split('/') {
        errors.broken(at, part, rules::dns_subdomain(part));
    }
}

pub(crate) fn claim(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Path::Root("spec");
    devices(&o["spec"]["devices"], &spec.child("devices"), &mut errors);
    errors.0
}

pub(crate) fn template(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Path::Root("spec");
    let (metadata, at) = (&o["spec"]["metadata"], spec.child("metadata"));
    rules::annotations(
        &metadata["annotations"],
        &at.child("annotations"),
        &mut errors,
    );
    rules::labels(&metadata["labels"], &at.child("labels"), &mut errors);
    let at = spec.child("spec.devices");
    devices(&o["spec"]["spec"]["devices"], &at, &mut errors);
    errors.0
}

/// Nobody may change a claim's or a template's spec.
pub(crate) fn claim_update(new: &Value, old: &Value) -> Vec<FieldError> {
    fixed(new, old, Go::Internal("resource.ResourceClaimSpec"))
}

pub(crate) fn template_update(new: &Value, old: &Value) -> Vec<FieldError> {
    fixed(new, old, Go::Internal("resource.ResourceClaimTemplateSpec"))
}

fn fixed(new: &Value, old: &Value, go: Go) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.immutable_go(&Path::Root("spec"), &new["spec"], &old["spec"], &go);
    errors.0
}

pub(crate) fn class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (spec, at) = (&o["spec"], Path::Root("spec"));
    selectors(list(spec, "selectors"), &at, &mut errors);
    items(
        list(spec, "config"),
        CONFIGS_MAX,
        &at.child("config"),
        &mut errors,
        configuration,
    );
    if let Some(name) = spec["extendedResourceName"].as_str()
        && !is_extended(name)
    {
        let at = at.child("extendedResourceName");
        errors.invalid(&at, name, "must be a valid extended resource name");
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_told_what_is_wrong() {
        let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}});
        let claim_of = |devices: Value| json!({"spec": {"devices": devices}});
        let with = |pointer: &str, value: Value| {
            let mut o = claim_of(
                json!({"requests": [request], "constraints": [{"requests": ["r"], "matchAttribute": "a.b/c"}],
                "config": [{"opaque": {"driver": "d", "parameters": {}}}]}),
            );
            if let Some(place) = o.pointer_mut(pointer) {
                *place = value;
            }
            o
        };
        for (name, o, want) in [
            ("good", with("/none", Value::Null), ""),
            ("none", claim_of(json!({})), ""),
            (
                "two",
                claim_of(json!({"requests": [request, request]})),
                "spec.devices.requests[1]: Duplicate value",
            ),
            (
                "count",
                with("/spec/devices/requests/0/exactly/count", json!(0)),
                "spec.devices.requests[0].exactly.count: Invalid value: 0: must be greater than zero",
            ),
            (
                "mode",
                with(
                    "/spec/devices/requests/0/exactly/allocationMode",
                    json!("x"),
                ),
                "exactly.allocationMode: Unsupported value",
            ),
            (
                "attribute",
                with("/spec/devices/constraints/0/matchAttribute", json!("c")),
                "a fully qualified name must be",
            ),
            (
                "reference",
                with("/spec/devices/constraints/0/requests/0", json!("q")),
                REQUEST_NAME,
            ),
            (
                "parameters",
                with("/spec/devices/config/0/opaque/parameters", json!([])),
                "must be a valid JSON object",
            ),
            (
                "exactly",
                with("/spec/devices/requests/0/exactly", Value::Null),
                "exactly one of `exactly` or `firstAvailable` is required",
            ),
        ] {
            let errors = claim(&o);
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told.is_empty(), want.is_empty(), "{name}: {told:?}");
            assert!(
                told.iter().any(|t| t.contains(want)) || want.is_empty(),
                "{name}: {told:?}"
            );
        }
    }

    #[test]
    fn expressions_are_of_devices() {
        for (text, fits) in [
            ("device.driver == 'x'", true),
            ("device.attributes['a.b'].c == 1", true),
            (
                "device.capacity['a.b'].m.isGreaterThan(quantity('1Gi'))",
                true,
            ),
            ("device.drivers == 'x'", false),
            ("device.driver", false),
            ("", false),
        ] {
            let mut errors = Errors::default();
            expression(text, &Path::Root("x"), &mut errors);
            assert_eq!(errors.0.is_empty(), fits, "{text}: {:?}", errors.0);
        }
    }
}
