//! The checks of Ingress (`pkg/apis/networking/validation`).

use super::{
    path::{Errors, Path},
    rules, services,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;

pub(crate) const CLASS: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const SUFFIXES: [&str; 2] = ["/..", "/."];

pub(crate) fn create(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    ingress(&o["spec"], &Kept::default(), &mut errors);
    let note = o["metadata"]["annotations"][CLASS].as_str();
    if let (Some(note), Some(class)) = (note, o["spec"]["ingressClassName"].as_str())
        && note != class
    {
        let detail = "must match `ingressClassName` when both are specified";
        errors.invalid(&Path::Root("annotations").child(CLASS), note, detail);
    }
    errors.0
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let was = &old["spec"];
    let bad_secret = |tls: &Value| !secret_name(str_of(tls, "secretName")).is_empty();
    let bad_rule = |rule: &Value| {
        let mut found = Errors::default();
        let at = Path::Root("rule");
        paths(rule, &at, &mut found);
        str_of(rule, "host").contains('*') && !found.0.is_empty()
    };
    let kept = Kept {
        secrets: list(was, "tls").iter().any(bad_secret),
        wildcard_rules: list(was, "rules").iter().any(bad_rule),
    };
    let mut errors = Errors::default();
    ingress(&new["spec"], &kept, &mut errors);
    errors.0
}

/// What was let in once, and may stay.
#[derive(Default)]
struct Kept {
    secrets: bool,
    wildcard_rules: bool,
}

fn ingress(spec: &Value, kept: &Kept, errors: &mut Errors) {
    let at = Path::Root("spec");
    let all = list(spec, "rules");
    let backend_given = &spec["defaultBackend"];
    if all.is_empty() && backend_given.is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&at, spec["rules"].clone(), detail);
    }
    if backend_given.is_object() {
        backend(backend_given, &at.child("defaultBackend"), errors);
    }
    let place = at.child("rules");
    for (i, rule) in all.iter().enumerate() {
        let at = place.index(i);
        let host = str_of(rule, "host");
        let place = at.child("host");
        if !host.is_empty() {
            if rules::sloppy_ip(host).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&place, host, detail);
            }
            errors.broken(&place, host, host_name(host));
        }
        if !(host.contains('*') && kept.wildcard_rules) {
            paths(rule, &at, errors);
        }
    }
    tls(list(spec, "tls"), kept, &at.child("tls"), errors);
    if let Some(class) = spec["ingressClassName"].as_str() {
        let at = at.child("ingressClassName");
        errors.broken(&at, class, rules::dns_subdomain(class));
    }
}

fn host_name(host: &str) -> Vec<String> {
    if host.contains('*') {
        rules::wildcard(host)
    } else {
        rules::dns_subdomain(host)
    }
}

fn secret_name(name: &str) -> Vec<String> {
    match name {
        "" => vec![],
        n => rules::dns_subdomain(n),
    }
}

fn tls(all: &[Value], kept: &Kept, at: &Path<'_>, errors: &mut Errors) {
    for (i, tls) in all.iter().enumerate() {
        let at = at.index(i);
        let hosts = at.child("hosts");
        for (j, host) in list(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            errors.broken(&hosts.index(j), host, host_name(host));
        }
        if !kept.secrets {
            let name = str_of(tls, "secretName");
            errors.broken(&at.child("secretName"), name, secret_name(name));
        }
    }
}

fn paths(rule: &Value, at: &Path<'_>, errors: &mut Errors) {
    let http = &rule["http"];
    if !http.is_object() {
        return;
    }
    let at = at.child("http");
    let at = at.child("paths");
    let all = list(http, "paths");
    if all.is_empty() {
        errors.required(&at, "");
    }
    for (i, p) in all.iter().enumerate() {
        path(p, &at.index(i), errors);
    }
}

fn path(p: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (text, place) = (str_of(p, "path"), at.child("path"));
    let Some(kind) = p["pathType"].as_str() else {
        errors.required(&at.child("pathType"), "pathType must be specified");
        return;
    };
    let literal = ["Exact", "Prefix"].contains(&kind);
    if !PATH_TYPES.contains(&kind) {
        errors.not_supported(&at.child("pathType"), kind, &PATH_TYPES);
    } else if !text.starts_with('/') && (literal || !text.is_empty()) {
        errors.invalid(&place, text, "must be an absolute path");
    }
    if literal {
        for part in SEQUENCES.iter().filter(|part| text.contains(**part)) {
            errors.invalid(&place, text, format!("must not contain '{part}'"));
        }
        for end in SUFFIXES.iter().filter(|end| text.ends_with(**end)) {
            errors.invalid(&place, text, format!("cannot end with '{end}'"));
        }
    }
    backend(&p["backend"], &at.child("backend"), errors);
}

fn backend(b: &Value, at: &Path<'_>, errors: &mut Errors) {
    match (b["resource"].is_object(), b["service"].is_object()) {
        (true, true) => errors.invalid(at, "", "cannot set both resource and service backends"),
        (true, false) => resource(&b["resource"], &at.child("resource"), errors),
        (false, true) => service(&b["service"], at, errors),
        (false, false) => errors.invalid(at, "", "resource or service backend is required"),
    }
}

fn resource(r: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = r["apiGroup"].as_str() {
        errors.broken(&at.child("apiGroup"), group, rules::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        let at = at.child(field);
        match str_of(r, field) {
            "" => errors.required(&at, ""),
            text => errors.broken(&at, text, rules::path_segment(text)),
        }
    }
}

fn service(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let place = at.child("service");
    let name = str_of(s, "name");
    match name {
        "" => errors.required(&place.child("name"), ""),
        n => errors.broken(&place.child("name"), n, rules::dns_label(n)),
    }
    let port = str_of(&s["port"], "name");
    let number = s["port"]["number"].as_i64().unwrap_or(0);
    let place = place.child("port");
    match (port, number) {
        ("", 0) => errors.required(at, "port name or number is required"),
        ("", n) => errors.broken(&place.child("number"), n, rules::port(n)),
        (p, 0) => errors.broken(&place.child("name"), p, rules::port_name(p)),
        _ => errors.invalid(at, "", "cannot set both port name & port number"),
    }
}

/// `…/status`
pub(crate) fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("status.loadBalancer.ingress");
    let before = list(&old["status"]["loadBalancer"], "ingress");
    let kept: Vec<Value> = before.iter().map(|i| i["ip"].clone()).collect();
    let all = list(&new["status"]["loadBalancer"], "ingress");
    services::ingresses(all, &kept, false, &at, &mut errors);
    errors.0
}
