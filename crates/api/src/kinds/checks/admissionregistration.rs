//! Webhooks, and what they share with policies (`pkg/apis/admissionregistration/validation`).

mod policies;

pub(crate) use policies::{binding, mutating_policy, policy_status, validating_policy};

use super::{
    path::{Errors, Path},
    rules, selectors,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::collections::BTreeSet;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const CONDITIONS_MAX: usize = 64;

/// Not empty and one of these; absent is told by the caller.
fn one_of(o: &Value, key: &str, supported: &[&str], at: &Path<'_>, e: &mut Errors) {
    if let Some(v) = o[key].as_str()
        && !supported.contains(&v)
    {
        e.not_supported(&at.child(key), v, supported);
    }
}

fn required_one_of(o: &Value, key: &str, supported: &[&str], at: &Path<'_>, e: &mut Errors) {
    if o[key].is_null() {
        e.required(&at.child(key), "");
    } else {
        one_of(o, key, supported, at, e);
    }
}

fn names(list: &[Value]) -> Vec<&str> {
    list.iter().map(|v| v.as_str().unwrap_or("")).collect()
}

/// Rules with operations.
fn rule(r: &Value, at: &Path<'_>, e: &mut Errors) {
    let operations = names(list(r, "operations"));
    let path = at.child("operations");
    if operations.is_empty() {
        e.required(&path, "");
    }
    if operations.len() > 1 && operations.contains(&"*") {
        let why = "if '*' is present, must not specify other operations";
        e.invalid(&path, r["operations"].clone(), why);
    }
    for (i, op) in operations.iter().enumerate() {
        if !OPERATIONS.contains(op) {
            e.not_supported(&path.index(i), *op, &OPERATIONS);
        }
    }
    for (key, what) in [("apiGroups", "groups"), ("apiVersions", "versions")] {
        let values = names(list(r, key));
        let path = at.child(key);
        if values.is_empty() {
            e.required(&path, "");
        }
        if values.len() > 1 && values.contains(&"*") {
            let why = format!("if '*' is present, must not specify other API {what}");
            e.invalid(&path, r[key].clone(), why);
        }
        if key == "apiVersions" {
            for (i, _) in values.iter().enumerate().filter(|(_, v)| v.is_empty()) {
                e.required(&path.index(i), "");
            }
        }
    }
    resources(r, &at.child("resources"), e);
    one_of(r, "scope", &["*", "Cluster", "Namespaced"], at, e);
}

fn resources(r: &Value, at: &Path<'_>, e: &mut Errors) {
    let values = names(list(r, "resources"));
    if values.is_empty() {
        e.required(at, "");
    }
    let (mut all_subs, mut all_of) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, name) in values.iter().enumerate() {
        if name.is_empty() {
            e.required(&at.index(i), "");
            continue;
        }
        let Some((resource, sub)) = name.split_once('/') else {
            plain = *name != "*";
            continue;
        };
        if all_subs.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {name}");
            e.invalid(&at.index(i), *name, why);
        }
        if all_of.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {name}");
            e.invalid(&at.index(i), *name, why);
        }
        if sub == "*" {
            all_subs.insert(resource);
        }
        if resource == "*" {
            all_of.insert(sub);
        }
    }
    if values.len() > 1 && values.contains(&"*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        e.invalid(at, r["resources"].clone(), why);
    }
    if values.contains(&"*") && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        e.invalid(at, r["resources"].clone(), why);
    }
}

/// MutatingWebhookConfiguration and ValidatingWebhookConfiguration.
pub(crate) fn webhooks(o: &Value, mutating: bool) -> Vec<FieldError> {
    let mut e = Errors::default();
    let mut seen = BTreeSet::new();
    let root = Path::Root("webhooks");
    for (i, hook) in list(o, "webhooks").iter().enumerate() {
        let at = root.index(i);
        webhook(hook, mutating, &at, &mut e);
        review_versions(hook, &at.child("admissionReviewVersions"), &mut e);
        let name = str_of(hook, "name");
        if !name.is_empty() && !seen.insert(name) {
            e.duplicate(&at.child("name"), name);
        }
    }
    e.0
}

fn review_versions(hook: &Value, at: &Path<'_>, e: &mut Errors) {
    let versions = names(list(hook, "admissionReviewVersions"));
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        e.required(at, &format!("must specify one of {known}"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, v) in versions.iter().enumerate() {
        if !seen.insert(*v) {
            e.invalid(&at.index(i), *v, "duplicate version");
            continue;
        }
        e.broken(&at.index(i), *v, rules::dns_1035_label(v));
    }
    if !versions.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        let why = format!("must include at least one of {known}");
        e.invalid(at, hook["admissionReviewVersions"].clone(), why);
    }
}

fn webhook(hook: &Value, mutating: bool, at: &Path<'_>, e: &mut Errors) {
    qualified_name(str_of(hook, "name"), &at.child("name"), e);
    for (i, r) in list(hook, "rules").iter().enumerate() {
        rule(r, &at.child("rules").index(i), e);
    }
    one_of(hook, "failurePolicy", &["Fail", "Ignore"], at, e);
    one_of(hook, "matchPolicy", &["Equivalent", "Exact"], at, e);
    let effects = ["None", "NoneOnDryRun"];
    match hook["sideEffects"].as_str() {
        None => e.required(
            &at.child("sideEffects"),
            &format!("must specify one of {}", effects.join(", ")),
        ),
        Some(_) => one_of(hook, "sideEffects", &effects, at, e),
    }
    if let Some(n) = hook["timeoutSeconds"].as_i64()
        && !(1..=30).contains(&n)
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        e.invalid(&at.child("timeoutSeconds"), n, why);
    }
    for key in ["namespaceSelector", "objectSelector"] {
        selectors::labels(&hook[key], &at.child(key), e);
    }
    if mutating {
        one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], at, e);
    }
    client_config(&hook["clientConfig"], &at.child("clientConfig"), e);
    match_conditions(hook, false, &at.child("matchConditions"), e);
}

/// `IsFullyQualifiedName`
fn qualified_name(name: &str, at: &Path<'_>, e: &mut Errors) {
    if name.is_empty() {
        e.required(at, "");
        return;
    }
    let faults = rules::dns_subdomain(name);
    if !faults.is_empty() {
        e.invalid(at, name, faults.join(","));
        return;
    }
    if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        e.invalid(at, name, why);
    }
}

fn client_config(config: &Value, at: &Path<'_>, e: &mut Errors) {
    match (config["url"].as_str(), config["service"].is_object()) {
        (Some(url), false) => webhook_url(url, &at.child("url"), e),
        (None, true) => {
            // upstream hands them over in the wrong order
            let keys = ["namespace", "name"];
            service_of(&config["service"], keys, &at.child("service"), e);
        }
        _ => e.required(at, "exactly one of url or service is required"),
    }
}

/// `webhook.ValidateWebhookURL`; used for conversion webhooks, too.
pub(crate) fn webhook_url(url: &str, at: &Path<'_>, e: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    if url.contains(|c: char| c.is_ascii_control() || c == ' ') {
        let why = format!(
            "url must be a valid URL: parse {url:?}: net/url: invalid control character in URL{FORM}"
        );
        e.required(at, &why);
        return;
    }
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        e.invalid(at, scheme, why);
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.strip_prefix("//").unwrap_or("");
    let authority = authority.split('/').next().unwrap_or("");
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if host.is_empty() {
        e.invalid(at, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        e.invalid(at, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        e.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        e.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

/// `webhook.ValidateWebhookService`.
/// `keys`: the fields that the name and the namespace are taken of.
fn service_of(service: &Value, keys: [&str; 2], at: &Path<'_>, e: &mut Errors) {
    for (key, from) in ["name", "namespace"].into_iter().zip(keys) {
        if str_of(service, from).is_empty() {
            e.required(&at.child(key), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    let faults = rules::port(port);
    if !faults.is_empty() {
        let why = format!("port is not valid: {}", faults.join(", "));
        e.invalid(&at.child("port"), port, why);
    }
    let Some(path) = service["path"].as_str() else {
        return;
    };
    let at = at.child("path");
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        e.invalid(&at, path, "segment[0] may not be empty");
        return;
    }
    if !path.starts_with('/') {
        e.invalid(&at, path, "must start with a '/'");
    }
    // as upstream: the first character is dropped, whatever it is
    let mut chars = path.chars();
    chars.next();
    let steps = chars.as_str();
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (i, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            e.invalid(&at, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for fault in rules::dns_subdomain(step) {
            e.invalid(&at, path, format!("segment[{i}]: {fault}"));
        }
    }
}

/// The CEL conditions of webhooks and policies; `params`: they may use them.
fn match_conditions(o: &Value, params: bool, at: &Path<'_>, e: &mut Errors) {
    let conditions = list(o, "matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        e.too_many(at, conditions.len(), CONDITIONS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, c) in conditions.iter().enumerate() {
        let at = at.index(i);
        let expression = str_of(c, "expression").trim();
        if expression.is_empty() {
            e.required(&at.child("expression"), "");
        } else {
            super::expressions::condition(expression, params, &at.child("expression"), e);
        }
        let name = str_of(c, "name");
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else {
            e.broken(&at.child("name"), name, rules::qualified(name));
            if !seen.insert(name) {
                e.duplicate(&at.child("name"), name);
            }
        }
    }
}
