//! Admission policies and their bindings.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{match_conditions, names, one_of, required_one_of, rule};
use crate::{
    kinds::{
        checks::{
            expressions,
            path::{Errors, Path},
            rules, selectors,
        },
        json::{items, list, str_of},
    },
    registry::FieldError,
};

const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

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
    let mut env = expressions::Policy::new(params);
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

fn variables(spec: &Value, env: &mut expressions::Policy, root: &Path<'_>, e: &mut Errors) {
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

fn validation(v: &Value, env: &expressions::Policy, at: &Path<'_>, e: &mut Errors) {
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
    env: &expressions::Policy,
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
    let mut env = expressions::Policy::new(params);
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

fn mutation(m: &Value, env: &expressions::Policy, at: &Path<'_>, e: &mut Errors) {
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
