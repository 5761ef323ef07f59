//! The checks of a PodSpec, in upstream's words and order (pkg/apis/core/validation/validation.go, ValidatePodSpec).

pub(crate) mod affinity;
mod annotations;
mod containers;
pub(crate) mod env;
mod mounts;
mod probes;
mod resize;
pub(crate) mod resources;
mod security;
mod spread;
mod update;

pub(crate) use affinity::node_selector;
pub(crate) use resize::resize;
pub(crate) use update::{ephemeral, update};

use crate::kinds::{
    checks::path::{Errors, Go, Path},
    checks::rules,
    json::{list, str_of, yes},
};
use crate::registry::FieldError;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// PodResourceClaim
const CLAIM: Go = Go::Struct(&[
    ("name", "Name", Go::Text),
    ("resourceClaimName", "ResourceClaimName", Go::Plain),
    (
        "resourceClaimTemplateName",
        "ResourceClaimTemplateName",
        Go::Plain,
    ),
]);

/// What the parts of a PodSpec are checked against.
struct Scope<'a> {
    /// Sound volumes by name.
    volumes: HashMap<&'a str, &'a Value>,
    claims: BTreeSet<&'a str>,
    grace: Option<i64>,
    /// `spec.os.name`; None without `os`.
    os: Option<&'a str>,
    restart: &'a str,
    host_users: bool,
}

/// A whole Pod, new or changed.
pub(crate) fn pod(o: &Value) -> Errors {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    annotations::check(
        &o["metadata"]["annotations"],
        spec,
        &Path::Root("metadata.annotations"),
        &mut errors,
    );
    pod_spec(spec, Some(&o["metadata"]), &at, &mut errors);
    if str_of(spec, "serviceAccountName").is_empty() {
        tokens_without_account(spec, &mut errors);
    }
    for field in ["containers", "initContainers"] {
        let at = at.child(field);
        for (i, c) in list(spec, field).iter().enumerate() {
            containers::trimmed_image(c, &at.index(i), &mut errors);
        }
    }
    errors
}

/// What only a new Pod must fulfil.
pub(crate) fn created(o: &Value) -> Vec<FieldError> {
    let mut errors = pod(o);
    let spec = &o["spec"];
    if !list(spec, "ephemeralContainers").is_empty() {
        let at = Path::Root("spec.ephemeralContainers");
        errors.forbidden(&at, "cannot be set on create");
    }
    if !str_of(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        errors.forbidden(
            &Path::Root("spec.nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
    errors.0
}

/// A PodTemplateSpec at `at`.
pub(crate) fn template(template: &Value, at: &Path<'_>, errors: &mut Errors) {
    let metadata = &template["metadata"];
    rules::labels(&metadata["labels"], &at.child("labels"), errors);
    let spec = &template["spec"];
    let notes = at.child("annotations");
    annotations::syntax(&metadata["annotations"], &notes, errors);
    annotations::check(&metadata["annotations"], spec, &notes, errors);
    pod_spec(spec, None, &at.child("spec"), errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(
            &at.child("spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

fn tokens_without_account(spec: &Value, errors: &mut Errors) {
    for (i, v) in list(spec, "volumes").iter().enumerate() {
        for (j, source) in list(&v["projected"], "sources").iter().enumerate() {
            if source["serviceAccountToken"].is_object() {
                let at = format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken");
                errors.forbidden(
                    &Path::Root(&at),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
}

/// A PodSpec at `at`; `metadata` is that of the Pod, None in a template.
fn pod_spec(spec: &Value, metadata: Option<&Value>, at: &Path<'_>, errors: &mut Errors) {
    let is_pod = metadata.is_some();
    if spec["terminationGracePeriodSeconds"].is_null() {
        errors.required(&at.child("terminationGracePeriodSeconds"), "");
    }
    let scope = Scope {
        volumes: super::volumes::volumes(
            list(spec, "volumes"),
            metadata.map_or("", |m| str_of(m, "name")),
            &at.child("volumes"),
            errors,
        ),
        claims: list(spec, "resourceClaims")
            .iter()
            .map(|c| str_of(c, "name"))
            .filter(|n| !n.is_empty())
            .collect(),
        grace: spec["terminationGracePeriodSeconds"].as_i64(),
        os: spec["os"].is_object().then(|| str_of(&spec["os"], "name")),
        restart: str_of(spec, "restartPolicy"),
        host_users: spec["hostUsers"] != false,
    };
    resource_claims(
        list(spec, "resourceClaims"),
        &at.child("resourceClaims"),
        errors,
    );
    containers::regular(spec, &scope, at, errors);
    containers::init(spec, &scope, at, errors);
    containers::ephemeral(spec, &scope, at, errors);
    resources::of_pod(spec, &scope.claims, at, errors);
    host_ports(spec, is_pod, at, errors);
    errors.one_of(
        &at.child("restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of(
        &at.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    rules::labels(&spec["nodeSelector"], &at.child("nodeSelector"), errors);
    security::of_pod(spec, &at.child("securityContext"), errors);
    affinity::affinity(&spec["affinity"], &at.child("affinity"), errors);
    dns_config(spec, &at.child("dnsConfig"), errors);
    let gates = at.child("readinessGates");
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = str_of(gate, "conditionType");
        let at = gates.index(i);
        errors.broken(&at.child("conditionType"), kind, rules::qualified(kind));
    }
    scheduling_gates(spec, &at.child("schedulingGates"), errors);
    spread::constraints(spec, &at.child("topologySpreadConstraints"), errors);
    security::host_process(spec, at, errors);
    security::host_users(spec, at, errors);
    names(spec, at, errors);
    affinity::tolerations(list(spec, "tolerations"), &at.child("tolerations"), errors);
    host_aliases(spec, &at.child("hostAliases"), errors);
    let class = str_of(spec, "priorityClassName");
    if !class.is_empty() {
        errors.broken(
            &at.child("priorityClassName"),
            class,
            rules::dns_subdomain(class),
        );
    }
    if let Some(class) = spec["runtimeClassName"].as_str() {
        errors.broken(
            &at.child("runtimeClassName"),
            class,
            rules::dns_subdomain(class),
        );
    }
    if !spec["preemptionPolicy"].is_null() {
        errors.one_of(
            &at.child("preemptionPolicy"),
            &spec["preemptionPolicy"],
            &["PreemptLowerPriority", "Never"],
        );
    }
    if spec["overhead"].is_object() {
        let overhead = serde_json::json!({ "limits": spec["overhead"] });
        resources::of_container(&overhead, &scope.claims, &at.child("overhead"), errors);
    }
    security::operating_system(spec, at, errors);
    env::file_volumes(spec, at, errors);
}

/// Host name, account, node, deadline.
fn names(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = spec["hostnameOverride"].as_str() {
        let at = at.child("hostnameOverride");
        if yes(spec, "setHostnameAsFQDN") {
            errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
        }
        if yes(spec, "hostNetwork") {
            errors.forbidden(&at, "may not be specified when hostNetwork is true");
        }
        if name.len() > 64 {
            errors.too_long(&at, 64);
        }
        errors.broken(&at, name, rules::dns_subdomain(name));
    }
    for (field, rule) in [
        (
            "serviceAccountName",
            rules::dns_subdomain as fn(&str) -> Vec<String>,
        ),
        ("nodeName", rules::dns_subdomain),
    ] {
        let name = str_of(spec, field);
        if !name.is_empty() {
            errors.broken(&at.child(field), name, rule(name));
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64() {
        let messages = rules::between(seconds, 1, i64::from(i32::MAX));
        errors.broken(&at.child("activeDeadlineSeconds"), seconds, messages);
    }
    for field in ["hostname", "subdomain"] {
        let name = str_of(spec, field);
        if !name.is_empty() {
            errors.broken(&at.child(field), name, rules::dns_label(name));
        }
    }
}

fn resource_claims(claims: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = at.index(i);
        let name = str_of(claim, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        } else {
            errors.broken(&at.child("name"), name, rules::dns_label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|s| !claim[**s].is_null()).count() {
            0 => errors.invalid_go(
                &at,
                claim,
                &CLAIM,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => errors.invalid_go(
                &at,
                claim,
                &CLAIM,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for source in sources {
            if let Some(name) = claim[source].as_str() {
                errors.broken(&at.child(source), name, rules::dns_subdomain(name));
            }
        }
    }
}

/// On the host's network a host port is the container's.
fn host_ports(spec: &Value, is_pod: bool, at: &Path<'_>, errors: &mut Errors) {
    if !yes(spec, "hostNetwork") {
        return;
    }
    let at = at.child("containers");
    for (i, c) in list(spec, "containers").iter().enumerate() {
        let at = at.index(i);
        let at = at.child("ports");
        for (j, p) in list(c, "ports").iter().enumerate() {
            let host = p["hostPort"].as_i64().unwrap_or(0);
            let own = p["containerPort"].as_i64().unwrap_or(0);
            if (is_pod || host != 0) && host != own {
                errors.invalid(
                    &at.index(j).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    if str_of(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errors.required(
                &at.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let place = at.child("nameservers");
    if servers.len() > 3 {
        errors.invalid(
            &place,
            servers.to_vec(),
            "must not have more than 3 nameservers",
        );
    }
    for (i, ip) in servers.iter().enumerate() {
        rules::legacy_ip(
            ip.as_str().unwrap_or_default(),
            &[],
            &place.index(i),
            errors,
        );
    }
    let place = at.child("searches");
    let searches = list(config, "searches");
    if searches.len() > 32 {
        errors.invalid(
            &place,
            searches.to_vec(),
            "must not have more than 32 search paths",
        );
    }
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > 2048 {
        errors.invalid(
            &place,
            searches.to_vec(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (i, search) in texts.iter().enumerate().filter(|(_, s)| **s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.broken(&place.index(i), search, rules::dns_search(search));
    }
    let place = at.child("options");
    for (i, option) in list(config, "options").iter().enumerate() {
        if str_of(option, "name").is_empty() {
            errors.required(&place.index(i), "must not be empty");
        }
    }
}

fn scheduling_gates(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = str_of(gate, "name");
        errors.broken(&at.index(i), name, rules::qualified(name));
        if !seen.insert(name) {
            errors.duplicate(&at.index(i), name);
        }
    }
}

fn host_aliases(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = at.index(i);
        rules::legacy_ip(str_of(alias, "ip"), &[], &at.child("ip"), errors);
        let at = at.child("hostnames");
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            errors.broken(&at.index(j), name, rules::dns_subdomain(name));
        }
    }
}
