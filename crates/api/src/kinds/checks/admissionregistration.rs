//! `pkg/apis/admissionregistration/validation`.

use super::{
    path::{Errors, Path},
    rules, selectors,
};
use crate::{
    kinds::json::{items, list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::collections::BTreeSet;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

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

fn match_resources(m: &Value, at: &Path<'_>, e: &mut Errors) {
    required_one_of(m, "matchPolicy", &["Equivalent", "Exact"], at, e);
    for key in ["namespaceSelector", "objectSelector"] {
        if m[key].is_null() {
            e.required(&at.child(key), "");
        } else {
            selectors::labels(&m[key], &at.child(key), e);
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        let at = at.child(key);
        for (i, r) in list(m, key).iter().enumerate() {
            let at = at.index(i);
            let mut seen = BTreeSet::new();
            for (j, name) in names(list(r, "resourceNames")).into_iter().enumerate() {
                let at = at.child("resourceNames");
                e.broken(&at.index(j), name, rules::path_segment(name));
                if !seen.insert(name) {
                    e.duplicate(&at.index(j), name);
                }
            }
            rule(r, &at, e);
        }
    }
}

fn mutating_operations(m: &Value, at: &Path<'_>, e: &mut Errors) {
    for r in items(m, "/resourceRules") {
        for op in names(list(r, "operations")) {
            if !MUTATING_OPERATIONS.contains(&op) {
                e.not_supported(
                    &at.child("resourceRules.operations"),
                    op,
                    &MUTATING_OPERATIONS,
                );
            }
        }
    }
}

/// What both kinds of policy have; tells whether there are params.
fn policy_head(spec: &Value, at: &Path<'_>, e: &mut Errors) -> bool {
    required_one_of(spec, "failurePolicy", &["Fail", "Ignore"], at, e);
    let params = spec["paramKind"].is_object();
    if params {
        param_kind(&spec["paramKind"], &at.child("paramKind"), e);
    }
    let constraints = &spec["matchConstraints"];
    let path = at.child("matchConstraints");
    if constraints.is_object() {
        match_resources(constraints, &path, e);
        if list(constraints, "resourceRules").is_empty() {
            e.required(&path.child("resourceRules"), "");
        }
    } else {
        e.required(&path, "");
    }
    params
}

fn param_kind(kind: &Value, at: &Path<'_>, e: &mut Errors) {
    let version = str_of(kind, "apiVersion");
    let path = at.child("apiVersion");
    if version.is_empty() {
        e.required(&path, "");
    } else if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        e.invalid(&path, version, why);
    } else {
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        if !group.is_empty() {
            let faults = rules::dns_subdomain(group);
            if !faults.is_empty() {
                e.invalid(&path, group, faults.join(","));
            }
        }
        if short.is_empty() {
            e.invalid(&path, version, "version must be specified");
        } else {
            let faults = rules::dns_1035_label(short);
            if !faults.is_empty() {
                e.invalid(&path, short, faults.join(","));
            }
        }
    }
    let name = str_of(kind, "kind");
    if name.is_empty() {
        e.required(&at.child("kind"), "");
        return;
    }
    let faults = rules::dns_1035_label(&name.to_lowercase());
    if !faults.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            faults.join(",")
        );
        e.invalid(&at.child("kind"), name, why);
    }
}

/// ValidatingAdmissionPolicy
pub(crate) fn validating_policy(o: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let (spec, root) = (&o["spec"], Path::Root("spec"));
    let params = policy_head(spec, &root, &mut e);
    match_conditions(spec, params, &root.child("matchConditions"), &mut e);
    let mut env = super::expressions::Policy::new(params);
    variables(spec, &mut env, &root, &mut e);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        e.required(&root.child("validations"), why);
        e.required(&root.child("auditAnnotations"), why);
        return e.0;
    }
    let at = root.child("validations");
    for (i, v) in validations.iter().enumerate() {
        validation(v, &env, &at.index(i), &mut e);
    }
    let at = root.child("auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let why = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        e.invalid(&at, spec["auditAnnotations"].clone(), why);
    }
    let mut keys = BTreeSet::new();
    let name = str_of(&o["metadata"], "name");
    for (i, a) in annotations.iter().enumerate() {
        let at = at.index(i);
        audit_annotation(a, name, &env, &at, &mut e);
        let key = str_of(a, "key");
        if !keys.insert(key) {
            e.duplicate(&at.child("key"), key);
        }
    }
    e.0
}

fn variables(spec: &Value, env: &mut super::expressions::Policy, root: &Path<'_>, e: &mut Errors) {
    let at = root.child("variables");
    for (i, v) in list(spec, "variables").iter().enumerate() {
        let at = at.index(i);
        let name = str_of(v, "name");
        if name.trim().is_empty() {
            e.required(&at.child("name"), "name is not specified");
        } else if !knarr_cel::is_identifier(name) {
            e.invalid(&at.child("name"), name, "must be a valid CEL identifier");
        }
        let expression = str_of(v, "expression");
        if expression.trim().is_empty() {
            e.required(&at.child("expression"), "expression is not specified");
        } else {
            env.variable(name, expression, &at.child("expression"), e);
        }
    }
}

fn validation(v: &Value, env: &super::expressions::Policy, at: &Path<'_>, e: &mut Errors) {
    let expression = str_of(v, "expression");
    if expression.trim().is_empty() {
        e.required(&at.child("expression"), "expression is not specified");
    } else {
        env.validation(expression, &at.child("expression"), e);
    }
    let message = str_of(v, "messageExpression");
    if !message.is_empty() && message.trim().is_empty() {
        e.invalid(
            &at.child("messageExpression"),
            message,
            "must be non-empty if specified",
        );
    } else if !message.is_empty() {
        env.message(message, &at.child("messageExpression"), e);
    }
    let message = str_of(v, "message");
    if !message.is_empty() && message.trim().is_empty() {
        e.invalid(
            &at.child("message"),
            message,
            "must be non-empty if specified",
        );
    } else if message.trim().contains(['\n', '\r']) {
        e.invalid(
            &at.child("message"),
            message,
            "must not contain line breaks",
        );
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    one_of(v, "reason", &reasons, at, e);
}

fn audit_annotation(
    a: &Value,
    policy: &str,
    env: &super::expressions::Policy,
    at: &Path<'_>,
    e: &mut Errors,
) {
    let key = str_of(a, "key");
    if policy.is_empty() {
        e.invalid(&at.child("key"), key, "requires metadata.name be non-empty");
    } else {
        let full = format!("{policy}/{key}");
        e.broken(&at.child("key"), full.as_str(), rules::qualified(&full));
    }
    let expression = str_of(a, "valueExpression").trim();
    let path = at.child("valueExpression");
    if expression.is_empty() {
        e.required(&path, "valueExpression is not specified");
    } else if expression.len() > AUDIT_EXPRESSION_BYTES_MAX {
        let why = format!("must not exceed {AUDIT_EXPRESSION_BYTES_MAX} bytes in length");
        e.required(&path, &why);
    } else {
        env.audit_value(expression, &path, e);
    }
}

/// MutatingAdmissionPolicy
pub(crate) fn mutating_policy(o: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let (spec, root) = (&o["spec"], Path::Root("spec"));
    let params = policy_head(spec, &root, &mut e);
    mutating_operations(
        &spec["matchConstraints"],
        &root.child("matchConstraints"),
        &mut e,
    );
    match_conditions(spec, params, &root.child("matchConditions"), &mut e);
    let mut env = super::expressions::Policy::new(params);
    variables(spec, &mut env, &root, &mut e);
    let at = root.child("mutations");
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        e.required(&at, "mutations must contain at least one item");
    }
    for (i, m) in mutations.iter().enumerate() {
        mutation(m, &env, &at.index(i), &mut e);
    }
    required_one_of(
        spec,
        "reinvocationPolicy",
        &["IfNeeded", "Never"],
        &root,
        &mut e,
    );
    e.0
}

fn mutation(m: &Value, env: &super::expressions::Policy, at: &Path<'_>, e: &mut Errors) {
    let kinds = ["ApplyConfiguration", "JSONPatch"];
    let (own, other) = match str_of(m, "patchType") {
        "" => return e.required(&at.child("patchType"), ""),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        unknown => return e.not_supported(&at.child("patchType"), unknown, &kinds),
    };
    let kind = str_of(m, "patchType");
    if m[own].is_object() {
        let expression = str_of(&m[own], "expression").trim();
        let path = at.child(own);
        let path = path.child("expression");
        if expression.is_empty() {
            e.required(&path, "");
        } else {
            env.mutation(expression, own == "jsonPatch", &path, e);
        }
    } else {
        let why = format!("must be specified when patchType is {kind}");
        e.required(&at.child(own), &why);
    }
    if m[other].is_object() {
        let why = format!("must not be specified when patchType is {kind}");
        e.invalid(&at.child(other), format!("{{{other}}}"), why);
    }
}

/// The status of a ValidatingAdmissionPolicy.
pub(crate) fn policy_status(o: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let root = Path::Root("status");
    let at = root.child("typeChecking.expressionWarnings");
    for (i, w) in items(o, "/status/typeChecking/expressionWarnings")
        .iter()
        .enumerate()
    {
        let at = at.index(i);
        for key in ["warning", "fieldRef"] {
            if str_of(w, key).trim().is_empty() {
                e.required(&at.child(key), "");
            }
        }
    }
    e.0
}

/// ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding.
pub(crate) fn binding(o: &Value, mutating: bool) -> Vec<FieldError> {
    let mut e = Errors::default();
    let (spec, root) = (&o["spec"], Path::Root("spec"));
    let policy = str_of(spec, "policyName");
    let at = root.child("policyName");
    if policy.is_empty() {
        e.required(&at, "");
    } else {
        e.broken(&at, policy, rules::dns_subdomain(policy));
    }
    if spec["paramRef"].is_object() {
        param_ref(&spec["paramRef"], &root.child("paramRef"), &mut e);
    }
    if spec["matchResources"].is_object() {
        let at = root.child("matchResources");
        match_resources(&spec["matchResources"], &at, &mut e);
        if mutating {
            mutating_operations(&spec["matchResources"], &at, &mut e);
        }
    }
    if !mutating {
        actions(spec, &root.child("validationActions"), &mut e);
    }
    e.0
}

fn param_ref(r: &Value, at: &Path<'_>, e: &mut Errors) {
    let exclusive = "name and selector are mutually exclusive";
    let (name, selector) = (str_of(r, "name"), &r["selector"]);
    if !name.is_empty() {
        e.broken(&at.child("name"), name, rules::path_segment(name));
        if selector.is_object() {
            e.forbidden(&at.child("name"), exclusive);
        }
    }
    if selector.is_object() {
        selectors::labels(selector, &at.child("selector"), e);
        if !name.is_empty() {
            e.forbidden(&at.child("selector"), exclusive);
        }
    }
    if name.is_empty() && !selector.is_object() {
        e.required(at, "one of name or selector must be specified");
    }
    let place = at.child("parameterNotFoundAction");
    e.one_of(&place, &r["parameterNotFoundAction"], &["Deny", "Allow"]);
}

fn actions(spec: &Value, at: &Path<'_>, e: &mut Errors) {
    let actions = names(list(spec, "validationActions"));
    let mut seen = BTreeSet::new();
    for (i, a) in actions.iter().enumerate() {
        if !["Audit", "Deny", "Warn"].contains(a) {
            e.not_supported(&at.index(i), *a, &["Audit", "Deny", "Warn"]);
        }
        if !seen.insert(*a) {
            e.duplicate(&at.index(i), *a);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.invalid(at, spec["validationActions"].clone(), why);
    }
    if actions.is_empty() {
        e.required(at, "at least one validation action is required");
    }
}
