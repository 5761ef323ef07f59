//! Containers of the three sorts.

use super::{Scope, env, mounts, probes, resources, security};
use crate::kinds::{
    checks::path::{Errors, Path},
    checks::rules,
    json::{list, str_of, yes},
};
use serde_json::Value;
use std::collections::HashSet;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// What all sorts have in common.
fn common(c: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let name = str_of(c, "name");
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        errors.broken(&at.child("name"), name, rules::dns_label(name));
    }
    if str_of(c, "image").is_empty() {
        errors.required(&at.child("image"), "");
    }
    errors.one_of(
        &at.child("terminationMessagePolicy"),
        &c["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    ports(list(c, "ports"), &at.child("ports"), errors);
    env::env(list(c, "env"), &at.child("env"), errors);
    env::env_from(list(c, "envFrom"), &at.child("envFrom"), errors);
    mounts::mounts(c, scope, &at.child("volumeMounts"), errors);
    mounts::devices(c, scope, &at.child("volumeDevices"), errors);
    errors.one_of(
        &at.child("imagePullPolicy"),
        &c["imagePullPolicy"],
        &["Always", "IfNotPresent", "Never"],
    );
    resources::of_container(
        &c["resources"],
        &scope.claims,
        &at.child("resources"),
        errors,
    );
    resize_policy(c, scope, &at.child("resizePolicy"), errors);
    let context = at.child("securityContext");
    security::of_container(&c["securityContext"], scope.host_users, &context, errors);
}

/// The list `containers`.
pub(super) fn regular(spec: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let all = list(spec, "containers");
    let at = at.child("containers");
    if all.is_empty() {
        errors.required(&at, "");
        return;
    }
    let mut names = HashSet::new();
    for (i, c) in all.iter().enumerate() {
        let at = at.index(i);
        common(c, scope, &at, errors);
        if !names.insert(str_of(c, "name")) {
            errors.duplicate(&at.child("name"), str_of(c, "name"));
        }
        lively(c, scope, &at, errors);
        restart_policy(c, &at, errors);
    }
    host_port_conflicts(all, &at, errors);
}

/// The list `initContainers`; those that restart always are sidecars.
pub(super) fn init(spec: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("initContainers");
    let mut names: HashSet<&str> = list(spec, "containers")
        .iter()
        .map(|c| str_of(c, "name"))
        .collect();
    for (i, c) in list(spec, "initContainers").iter().enumerate() {
        let (list_at, at) = (&at, at.index(i));
        common(c, scope, &at, errors);
        if !c["restartPolicy"].is_null() {
            restart_policy(c, &at, errors);
        } else if !list(c, "restartPolicyRules").is_empty() {
            errors.required(
                &at.child("restartPolicy"),
                "must specify restartPolicy when restart rules are used",
            );
        }
        let name = str_of(c, "name");
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        host_port_conflicts(std::slice::from_ref(c), list_at, errors);
        let sidecar = c["restartPolicy"] == "Always";
        if sidecar {
            lively(c, scope, &at, errors);
            continue;
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            if !c[field].is_null() {
                errors.forbidden(
                    &at.child(field),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
        let policies = at.child("resizePolicy");
        for (j, p) in list(c, "resizePolicy").iter().enumerate() {
            if p["restartPolicy"] == "RestartContainer" {
                errors.invalid(
                    &policies.index(j).child("restartPolicy"),
                    "RestartContainer",
                    "must not be set to 'RestartContainer' for non-sidecar initContainers",
                );
            }
        }
    }
}

/// The list `ephemeralContainers`.
pub(super) fn ephemeral(spec: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("ephemeralContainers");
    let others: HashSet<&str> = list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"))
        .map(|c| str_of(c, "name"))
        .collect();
    let mut names = others.clone();
    for (i, c) in list(spec, "ephemeralContainers").iter().enumerate() {
        let at = at.index(i);
        common(c, scope, &at, errors);
        trimmed_image(c, &at, errors);
        if !names.insert(str_of(c, "name")) {
            errors.duplicate(&at.child("name"), str_of(c, "name"));
        }
        let target = str_of(c, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        const NEVER: &str = "cannot be set for an Ephemeral Container";
        for field in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            let set = match &c[field] {
                Value::Object(m) => !m.is_empty(),
                v => !v.is_null(),
            };
            if set {
                errors.forbidden(&at.child(field), NEVER);
            }
        }
        let at = at.child("volumeMounts");
        for (j, m) in list(c, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !str_of(m, field).is_empty() {
                    errors.forbidden(&at.index(j).child(field), NEVER);
                }
            }
        }
    }
}

/// Lifecycle and probes: of what keeps running.
fn lively(c: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    probes::lifecycle(&c["lifecycle"], scope, &at.child("lifecycle"), errors);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probes::probe(field, &c[field], scope, &at.child(field), errors);
    }
}

/// Pods, unlike templates, don't take an image with blanks around.
pub(super) fn trimmed_image(c: &Value, at: &Path<'_>, errors: &mut Errors) {
    let image = str_of(c, "image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(&at.child("image"), image, detail);
    }
}

fn ports(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, p) in all.iter().enumerate() {
        let at = at.index(i);
        let name = str_of(p, "name");
        if !name.is_empty() {
            let messages = rules::port_name(name);
            if messages.is_empty() && !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
            errors.broken(&at.child("name"), name, messages);
        }
        match p["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.required(&at.child("containerPort"), ""),
            n => errors.broken(&at.child("containerPort"), n, rules::port(n)),
        }
        if let Some(n) = p["hostPort"].as_i64().filter(|n| *n != 0) {
            errors.broken(&at.child("hostPort"), n, rules::port(n));
        }
        errors.one_of(&at.child("protocol"), &p["protocol"], &PROTOCOLS);
    }
}

fn host_port_conflicts(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (i, c) in all.iter().enumerate() {
        let at = at.index(i);
        let at = at.child("ports");
        for (j, p) in list(c, "ports").iter().enumerate() {
            let Some(port) = p["hostPort"].as_i64().filter(|n| *n != 0) else {
                continue;
            };
            let key = format!("{}/{}/{port}", str_of(p, "protocol"), str_of(p, "hostIP"));
            if taken.contains(&key) {
                errors.duplicate(&at.index(j).child("hostPort"), key);
            } else {
                taken.insert(key);
            }
        }
    }
}

fn restart_policy(c: &Value, at: &Path<'_>, errors: &mut Errors) {
    let rules = list(c, "restartPolicyRules");
    if c["restartPolicy"].is_null() {
        if rules.is_empty() {
            return;
        }
        errors.required(
            &at.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    } else {
        let policies = ["Always", "Never", "OnFailure"];
        if !policies.contains(&str_of(c, "restartPolicy")) {
            let value = c["restartPolicy"].clone();
            errors.not_supported(&at.child("restartPolicy"), value, &policies);
        }
    }
    let at = at.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(&at, rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&str_of(rule, "action")) {
            errors.not_supported(&at.child("action"), str_of(rule, "action"), &actions);
        }
        let codes = &rule["exitCodes"];
        let at = at.child("exitCodes");
        if codes.is_null() {
            errors.required(&at, "must be specified");
            continue;
        }
        let operators = ["In", "NotIn"];
        if !operators.contains(&str_of(codes, "operator")) {
            errors.not_supported(&at.child("operator"), str_of(codes, "operator"), &operators);
        }
        let values = list(codes, "values").len();
        if values > 255 {
            errors.too_many(&at.child("values"), values, 255);
        }
    }
}

fn resize_policy(c: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, p) in list(c, "resizePolicy").iter().enumerate() {
        let name = str_of(p, "resourceName");
        if !seen.insert(name) {
            errors.duplicate(&at.index(i), name);
        }
        errors.one_of(at, &p["resourceName"], &["cpu", "memory"]);
        let policies = ["NotRequired", "RestartContainer"];
        errors.one_of(at, &p["restartPolicy"], &policies);
        if scope.restart == "Never" && p["restartPolicy"] != "NotRequired" {
            errors.invalid(
                at,
                str_of(p, "restartPolicy"),
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            );
        }
    }
}

/// Whether an init container keeps running beside the others.
pub(crate) fn is_sidecar(c: &Value) -> bool {
    c["restartPolicy"] == "Always"
}

/// Whether a container's security context asks for all the host's privileges.
pub(super) fn is_privileged(c: &Value) -> bool {
    yes(&c["securityContext"], "privileged")
}
