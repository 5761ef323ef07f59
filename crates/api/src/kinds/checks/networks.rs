//! The checks of IngressClass, IPAddress and ServiceCIDR (`pkg/apis/networking/validation`).

use super::{
    path::{Errors, Go, Path},
    rules,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;

const CONTROLLER_BYTES_MAX: usize = 250;

/// A name that must be there and be a path's segment.
fn segment(o: &Value, field: &str, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child(field);
    match str_of(o, field) {
        "" => errors.required(&at, ""),
        name => errors.broken(&at, name, rules::path_segment(name)),
    }
}

pub(crate) fn ingress_class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec.controller");
    let controller = str_of(spec, "controller");
    if controller.len() > CONTROLLER_BYTES_MAX {
        errors.too_long(&at, CONTROLLER_BYTES_MAX);
    }
    rules::domain_prefixed_path(controller, &at, &mut errors);
    let parameters = &spec["parameters"];
    if !parameters.is_object() {
        return errors.0;
    }
    let at = Path::Root("spec.parameters");
    if let Some(group) = parameters["apiGroup"].as_str() {
        errors.broken(&at.child("apiGroup"), group, rules::dns_subdomain(group));
    }
    segment(parameters, "kind", &at, &mut errors);
    segment(parameters, "name", &at, &mut errors);
    let place = at.child("namespace");
    let namespace = parameters["namespace"].as_str();
    match (parameters["scope"].as_str(), namespace) {
        (None, _) => errors.required(&at.child("scope"), ""),
        (Some("Namespace"), None) => {
            errors.required(&place, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(n)) => errors.broken(&place, n, rules::dns_label(n)),
        (Some("Cluster"), Some(_)) => {
            errors.forbidden(&place, "`parameters.scope` is set to 'Cluster'");
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            errors.not_supported(&at.child("scope"), other, &["Cluster", "Namespace"]);
        }
    }
    errors.0
}

pub(crate) fn ingress_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.controller");
    errors.immutable(&at, &new["spec"]["controller"], &old["spec"]["controller"]);
    errors.0
}

pub(crate) fn ip_address(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let parent = &o["spec"]["parentRef"];
    let at = Path::Root("spec.parentRef");
    if !parent.is_object() {
        errors.required(&at, "");
        return errors.0;
    }
    let group = str_of(parent, "group");
    if !group.is_empty() {
        errors.broken(&at.child("group"), group, rules::dns_subdomain(group));
    }
    segment(parent, "resource", &at, &mut errors);
    segment(parent, "name", &at, &mut errors);
    let namespace = str_of(parent, "namespace");
    if !namespace.is_empty() {
        let messages = rules::path_segment(namespace);
        errors.broken(&at.child("namespace"), namespace, messages);
    }
    errors.0
}

pub(crate) fn ip_address_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.parentRef");
    let (is, was) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    errors.immutable_go(&at, is, was, &Go::Internal("networking.ParentReference"));
    errors.0
}

pub(crate) fn service_cidr(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    cidrs(&o["spec"], &mut errors);
    errors.0
}

fn cidrs(spec: &Value, errors: &mut Errors) {
    let at = Path::Root("spec.cidrs");
    let all = list(spec, "cidrs");
    if all.is_empty() {
        errors.required(&at, "at least one CIDR required");
        return;
    }
    if all.len() > 2 {
        let shown = serde_json::json!({ "CIDRs": all });
        errors.invalid(&at, shown, "may only hold up to 2 values");
        return;
    }
    for (i, cidr) in all.iter().enumerate() {
        rules::strict_cidr(cidr.as_str().unwrap_or_default(), &at.index(i), errors);
    }
    let family = |v: &Value| {
        let (ip, _) = rules::sloppy_cidr(v.as_str()?)?;
        Some(ip.is_ipv4())
    };
    if let [a, b] = all
        && family(a).is_some()
        && family(a) == family(b)
    {
        errors.invalid(
            &at,
            all.to_vec(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}

pub(crate) fn service_cidr_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.cidrs");
    let (is, was) = (list(&new["spec"], "cidrs"), list(&old["spec"], "cidrs"));
    if is.len() == was.len() || (was.len() == 1 && is.len() == 2) {
        for (i, (a, b)) in is.iter().zip(was).enumerate() {
            errors.immutable(&at.index(i), a, b);
        }
    } else {
        errors.immutable(&at, &is.to_vec().into(), &was.to_vec().into());
    }
    errors.0
}
