//! The checks of NetworkPolicy (`pkg/apis/networking/validation`) and PodDisruptionBudget (`pkg/apis/policy/validation`).

use super::{
    path::{Errors, Go, Path, SELECTOR},
    rules, selectors,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;
use std::net::IpAddr;

const BUDGET: Go = Go::Struct(&[
    ("minAvailable", "MinAvailable", Go::Plain),
    ("selector", "Selector", SELECTOR),
    ("maxUnavailable", "MaxUnavailable", Go::Plain),
    (
        "unhealthyPodEvictionPolicy",
        "UnhealthyPodEvictionPolicy",
        Go::Plain,
    ),
]);

/// `old`: what it replaces. Blocks of addresses that were there may stay.
pub(crate) fn network_policy(o: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let kept = old.map(blocks).unwrap_or_default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    selectors::labels(&spec["podSelector"], &at.child("podSelector"), &mut errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let at = at.child(direction);
        for (i, rule) in list(spec, direction).iter().enumerate() {
            let at = at.index(i);
            let place = at.child("ports");
            for (j, p) in list(rule, "ports").iter().enumerate() {
                port(p, &place.index(j), &mut errors);
            }
            let place = at.child(peers);
            for (j, p) in list(rule, peers).iter().enumerate() {
                peer(p, &kept, &place.index(j), &mut errors);
            }
        }
    }
    let at = at.child("policyTypes");
    let types = list(spec, "policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.invalid(&at, types.to_vec(), detail);
        return errors.0;
    }
    for (i, t) in types.iter().enumerate() {
        let t = t.as_str().unwrap_or_default();
        if !["Ingress", "Egress"].contains(&t) {
            errors.not_supported(&at.index(i), t, &["Ingress", "Egress"]);
        }
    }
    errors.0
}

/// All blocks of addresses a policy speaks of.
fn blocks(o: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for peer in list(&o["spec"], direction)
            .iter()
            .flat_map(|rule| list(rule, peers))
        {
            all.push(peer["ipBlock"]["cidr"].clone());
            all.extend(list(&peer["ipBlock"], "except").iter().cloned());
        }
    }
    all
}

fn port(p: &Value, at: &Path<'_>, errors: &mut Errors) {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    errors.supported(&at.child("protocol"), &p["protocol"], &PROTOCOLS);
    let (place, end_at) = (at.child("port"), at.child("endPort"));
    let end = p["endPort"].as_i64();
    match (&p["port"], end) {
        (Value::Null, Some(end)) => {
            let detail = "may not be specified when `port` is not specified";
            errors.invalid(&end_at, end, detail);
        }
        (Value::Null, None) => {}
        (Value::String(name), end) => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid(&end_at, end, detail);
            }
            errors.broken(&place, name.as_str(), rules::port_name(name));
        }
        (number, end) => {
            let number = number.as_i64().unwrap_or(0);
            errors.broken(&place, number, rules::port(number));
            if let Some(end) = end {
                if end < number {
                    let detail = "must be greater than or equal to `port`";
                    errors.invalid(&end_at, number, detail);
                }
                errors.broken(&end_at, end, rules::port(end));
            }
        }
    }
}

fn peer(p: &Value, kept: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if p[field].is_object() {
            count += 1;
            selectors::labels(&p[field], &at.child(field), errors);
        }
    }
    let blocked = p["ipBlock"].is_object();
    if blocked {
        count += 1;
        block(&p["ipBlock"], kept, &at.child("ipBlock"), errors);
    }
    if count == 0 {
        errors.required(at, "must specify a peer");
    } else if count > 1 && blocked {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn block(b: &Value, kept: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let (text, place) = (str_of(b, "cidr"), at.child("cidr"));
    if text.is_empty() {
        errors.required(&place, "");
        return;
    }
    rules::legacy_cidr(text, kept, &place, errors);
    let Some(whole) = rules::sloppy_cidr(text) else {
        return;
    };
    let place = at.child("except");
    for (i, text) in list(b, "except").iter().enumerate() {
        let text = text.as_str().unwrap_or_default();
        let at = place.index(i);
        rules::legacy_cidr(text, kept, &at, errors);
        if let Some(part) = rules::sloppy_cidr(text)
            && !(part.1 > whole.1 && within(part.0, whole))
        {
            errors.invalid(&at, text, "must be a strict subset of `cidr`");
        }
    }
}

fn within(ip: IpAddr, (base, bits): (IpAddr, u32)) -> bool {
    match (ip, base) {
        (IpAddr::V4(ip), IpAddr::V4(base)) => {
            let differ = ip.to_bits() ^ base.to_bits();
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(base)) => {
            let differ = ip.to_bits() ^ base.to_bits();
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

pub(crate) fn disruption_budget(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let (least, most) = (&spec["minAvailable"], &spec["maxUnavailable"]);
    if !least.is_null() && !most.is_null() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid_go(&at, spec, &BUDGET, detail);
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        super::workloads::part_of_all(value, &at.child(field), &mut errors);
    }
    selectors::labels(&spec["selector"], &at.child("selector"), &mut errors);
    errors.supported(
        &at.child("unhealthyPodEvictionPolicy"),
        &spec["unhealthyPodEvictionPolicy"],
        &["AlwaysAllow", "IfHealthyBudget"],
    );
    errors.0
}

/// `…/status`
pub(crate) fn disruption_budget_status(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = &o["status"];
    let at = Path::Root("status");
    rules::conditions(
        list(status, "conditions"),
        &at.child("conditions"),
        &mut errors,
    );
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        errors.nonnegative(&at.child(field), &status[field]);
    }
    errors.0
}
