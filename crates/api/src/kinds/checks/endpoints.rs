//! The checks of Endpoints and EndpointSlices (`pkg/apis/core/validation`, `pkg/apis/discovery/validation`).

use super::{
    path::{Errors, Path},
    rules,
};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::collections::HashSet;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub(crate) fn endpoints(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("subsets");
    for (i, subset) in list(o, "subsets").iter().enumerate() {
        let at = at.index(i);
        let sorts = ["addresses", "notReadyAddresses"];
        if sorts.iter().all(|s| list(subset, s).is_empty()) {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for sort in sorts {
            let at = at.child(sort);
            for (j, a) in list(subset, sort).iter().enumerate() {
                address(a, &at.index(j), &mut errors);
            }
        }
        let ports = list(subset, "ports");
        let at = at.child("ports");
        for (j, p) in ports.iter().enumerate() {
            let at = at.index(j);
            match str_of(p, "name") {
                "" if ports.len() > 1 => errors.required(&at.child("name"), ""),
                "" => {}
                n => errors.broken(&at.child("name"), n, rules::dns_label(n)),
            }
            let number = p["port"].as_i64().unwrap_or(0);
            errors.broken(&at.child("port"), number, rules::port(number));
            errors.one_of(&at.child("protocol"), &p["protocol"], &PROTOCOLS);
            protocol_of(p, &at, &mut errors);
        }
    }
    errors.0
}

fn protocol_of(p: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(protocol) = p["appProtocol"].as_str() {
        let messages = rules::qualified(protocol);
        errors.broken(&at.child("appProtocol"), protocol, messages);
    }
}

fn address(a: &Value, at: &Path<'_>, errors: &mut Errors) {
    let ip = str_of(a, "ip");
    rules::legacy_ip(ip, &[], &at.child("ip"), errors);
    let host = str_of(a, "hostname");
    if !host.is_empty() {
        errors.broken(&at.child("hostname"), host, rules::dns_label(host));
    }
    if let Some(node) = a["nodeName"].as_str() {
        errors.broken(&at.child("nodeName"), node, rules::dns_subdomain(node));
    }
    rules::endpoint_ip(ip, &at.child("ip"), errors);
}

/// `old`: what it replaces. Endpoints that were there may stay.
pub(crate) fn slice(o: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let kind = &o["addressType"];
    errors.one_of(&Path::Root("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    slice_ports(list(o, "ports"), &mut errors);
    let all = list(o, "endpoints");
    let at = Path::Root("endpoints");
    if all.len() > ENDPOINTS_MAX {
        errors.too_many(&at, all.len(), ENDPOINTS_MAX);
        return errors.0;
    }
    if old.is_some_and(|old| old["endpoints"] == o["endpoints"]) {
        return errors.0;
    }
    for (i, e) in all.iter().enumerate() {
        endpoint(e, str_of(o, "addressType"), &at.index(i), &mut errors);
    }
    errors.0
}

fn slice_ports(ports: &[Value], errors: &mut Errors) {
    let at = Path::Root("ports");
    if ports.len() > PORTS_MAX {
        errors.too_many(&at, ports.len(), PORTS_MAX);
        return;
    }
    let mut names = HashSet::new();
    for (i, p) in ports.iter().enumerate() {
        let at = at.index(i);
        let name = str_of(p, "name");
        if !name.is_empty() {
            errors.broken(&at.child("name"), name, rules::dns_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if p["protocol"].is_null() {
            errors.required(&at.child("protocol"), "");
        }
        errors.supported(&at.child("protocol"), &p["protocol"], &PROTOCOLS);
        protocol_of(p, &at, errors);
    }
}

fn endpoint(e: &Value, kind: &str, at: &Path<'_>, errors: &mut Errors) {
    let addresses = list(e, "addresses");
    let place = at.child("addresses");
    if addresses.is_empty() {
        errors.required(&place, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(&place, addresses.len(), ADDRESSES_MAX);
    }
    for (i, a) in addresses.iter().enumerate() {
        let (a, at) = (a.as_str().unwrap_or_default(), place.index(i));
        let before = errors.0.len();
        match kind {
            "IPv4" => {
                rules::legacy_ip(a, &[], &at, errors);
            }
            "IPv6" => rules::strict_ip(a, &at, errors),
            "FQDN" => {
                rules::fqdn(a, &at, errors);
                continue;
            }
            _ => continue,
        }
        if errors.0.len() > before {
            continue;
        }
        let v4 = rules::sloppy_ip(a).is_some_and(|ip| ip.is_ipv4());
        if v4 != (kind == "IPv4") {
            errors.invalid(&place, a, format!("must be an {kind} address"));
        }
        rules::endpoint_ip(a, &at, errors);
    }
    if let Some(node) = e["nodeName"].as_str() {
        errors.broken(&at.child("nodeName"), node, rules::dns_subdomain(node));
    }
    let topology = &e["deprecatedTopology"];
    let place = at.child("deprecatedTopology");
    let count = entries(topology).count();
    if count > TOPOLOGY_MAX {
        errors.too_many(&place, count, TOPOLOGY_MAX);
    }
    rules::labels(topology, &place, errors);
    if let Some(host) = e["hostname"].as_str() {
        errors.broken(&at.child("hostname"), host, rules::dns_label(host));
    }
    let hints = at.child("hints");
    for (field, rule) in [
        ("forZones", rules::label_value as fn(&str) -> Vec<String>),
        ("forNodes", rules::dns_subdomain),
    ] {
        let all = list(&e["hints"], field);
        let at = hints.child(field);
        if all.len() > HINTS_MAX {
            errors.too_many(&at, all.len(), HINTS_MAX);
            return;
        }
        let mut seen = HashSet::new();
        for (i, hint) in all.iter().enumerate() {
            let (name, at) = (str_of(hint, "name"), at.index(i));
            let at = at.child("name");
            if !seen.insert(name) {
                errors.duplicate(&at, name);
            }
            errors.broken(&at, name, rule(name));
        }
    }
}

pub(crate) fn slice_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors(slice(new, Some(old)));
    let at = Path::Root("addressType");
    errors.immutable(&at, &new["addressType"], &old["addressType"]);
    errors.0
}
