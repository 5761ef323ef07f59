//! The checks of Namespace, Node, Lease, PriorityClass and RuntimeClass (`pkg/apis/*/validation`).

use super::{
    path::{Errors, Go, Path},
    pod::{affinity, resources},
    quantity::Quantity,
    rules,
};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

const PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_PRIORITIES: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

pub(crate) fn namespace(o: &Value) -> Vec<FieldError> {
    let all = list(&o["spec"], "finalizers").iter();
    all.filter_map(Value::as_str)
        .flat_map(|f| finalizer(f, "spec.finalizers"))
        .collect()
}

/// `…/finalize`
pub(crate) fn namespace_finalize(o: &Value) -> Vec<FieldError> {
    let all = list(&o["spec"], "finalizers").iter().enumerate();
    all.filter_map(|(i, f)| Some((i, f.as_str()?)))
        .flat_map(|(i, f)| finalizer(f, &format!("spec.finalizers[{i}]")))
        .collect()
}

fn finalizer(name: &str, at: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root(at);
    errors.broken(&at, name, rules::qualified(name));
    let known = ["kubernetes", "orphan", "foregroundDeletion"];
    if !name.contains('/') && !known.contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid(&at, name, detail);
    }
    errors.0
}

/// `…/status`
pub(crate) fn namespace_status(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (want, when) = match o["metadata"]["deletionTimestamp"].is_null() {
        true => ("Active", "empty"),
        false => ("Terminating", "not empty"),
    };
    let phase = str_of(&o["status"], "phase");
    if phase != want {
        let detail = format!("may only be '{want}' if `deletionTimestamp` is {when}");
        errors.invalid(&Path::Root("status.Phase"), phase, detail);
    }
    errors.0
}

pub(crate) fn node(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    taints(list(&o["spec"], "taints"), &mut errors);
    node_resources(o, &mut errors);
    let cidrs = list(&o["spec"], "podCIDRs");
    let at = Path::Root("spec.podCIDRs");
    for (i, cidr) in cidrs.iter().enumerate() {
        rules::legacy_cidr(
            cidr.as_str().unwrap_or_default(),
            &[],
            &at.index(i),
            &mut errors,
        );
    }
    if cidrs.len() > 1 {
        let of = |v4: bool| {
            cidrs.iter().any(|c| {
                c.as_str()
                    .and_then(rules::sloppy_cidr)
                    .is_some_and(|(ip, _)| ip.is_ipv4() == v4)
            })
        };
        if cidrs.len() > 2 || !of(true) || !of(false) {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.invalid(&at, cidrs.to_vec(), detail);
        }
    }
    errors.0
}

fn taints(all: &[Value], errors: &mut Errors) {
    // upstream looks for them in the metadata
    let at = Path::Root("metadata.taints");
    let mut seen = HashSet::new();
    for (i, t) in all.iter().enumerate() {
        let at = at.index(i);
        let (key, effect) = (str_of(t, "key"), str_of(t, "effect"));
        errors.broken(&at.child("key"), key, rules::qualified(key));
        let value = str_of(t, "value");
        let messages = rules::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&at.child("value"), value, messages.join(";"));
        }
        affinity::taint_effect(effect, false, &at.child("effect"), errors);
        if !seen.insert((key, effect)) {
            errors.duplicate_because(
                &at,
                Go::Struct(&[
                    ("key", "Key", Go::Text),
                    ("value", "Value", Go::Text),
                    ("effect", "Effect", Go::Text),
                    ("timeAdded", "TimeAdded", Go::Plain),
                ])
                .write(t),
                "taints must be unique by key and effect pair",
            );
        }
    }
}

fn node_resources(o: &Value, errors: &mut Errors) {
    let at = Path::Root("status");
    for field in ["capacity", "allocatable"] {
        let at = at.child(field);
        for (name, value) in entries(&o["status"][field]) {
            if let Some(q) = Quantity::of(value) {
                resources::amount(name, &q, &at.child(name), errors);
            }
        }
    }
}

pub(crate) fn node_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors(node(new));
    node_resources(new, &mut errors);
    let at = Path::Root("status.addresses");
    let mut seen = HashSet::new();
    for (i, address) in list(&new["status"], "addresses").iter().enumerate() {
        let (kind, text) = (str_of(address, "type"), str_of(address, "address"));
        if !seen.insert((kind, text)) {
            let shown = format!("{{\"Type\":{kind:?},\"Address\":{text:?}}}");
            errors.duplicate_shown(&at.index(i), shown);
        }
    }
    let (is, was) = (&new["spec"], &old["spec"]);
    let (now, then) = (list(is, "podCIDRs"), list(was, "podCIDRs"));
    if !then.is_empty() {
        let changes = match now.len() == then.len() {
            true => now.iter().zip(then).filter(|(a, b)| a != b).count(),
            false => 1,
        };
        for _ in 0..changes {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&Path::Root("spec.podCIDRs"), detail);
        }
    }
    let provider = str_of(was, "providerID");
    if !provider.is_empty() && str_of(is, "providerID") != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&Path::Root("spec.providerID"), detail);
    }
    taints(list(is, "taints"), &mut errors);
    if str_of(is, "externalID") != str_of(was, "externalID") {
        errors.forbidden(&Path::Root("spec.externalID"), "may not be updated");
    }
    errors.0
}

pub(crate) fn lease(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let field = "leaseDurationSeconds";
    errors.positive(&at.child(field), &spec[field]);
    let field = "leaseTransitions";
    errors.nonnegative(&at.child(field), &spec[field]);
    let strategy = str_of(spec, "strategy");
    if spec["strategy"].is_string() {
        let at = at.child("strategy");
        let at = at.child("strategy");
        if strategy.contains('/') {
            errors.broken(&at, strategy, rules::qualified(strategy));
        } else if strategy != "OldestEmulationVersion" {
            errors.not_supported(&at, strategy, &["OldestEmulationVersion"]);
        }
    }
    if strategy.is_empty() && !str_of(spec, "preferredHolder").is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        errors.forbidden(&at.child("preferredHolder"), detail);
    }
    errors.0
}

pub(crate) fn priority_class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let name = str_of(&o["metadata"], "name");
    let value = o["value"].as_i64().unwrap_or(0);
    if name.starts_with("system-") {
        if let Some(problem) = not_known(name, value, o["globalDefault"] == true) {
            errors.forbidden(
                &Path::Root("metadata.name"),
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                ),
            );
        }
    } else if value > PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
        errors.forbidden(&Path::Root("value"), detail);
    }
    if let Some(policy) = o["preemptionPolicy"].as_str() {
        let at = Path::Root("preemptionPolicy");
        let known = ["PreemptLowerPriority", "Never"];
        if policy.is_empty() {
            errors.required(&at, "");
        } else if !known.contains(&policy) {
            errors.not_supported(&at, policy, &known);
        }
    }
    errors.0
}

/// Why this isn't one of the system's own.
fn not_known(name: &str, value: i64, global: bool) -> Option<String> {
    let Some((_, want)) = SYSTEM_PRIORITIES.iter().find(|(n, _)| *n == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *want {
        return Some(format!("value of {name} PriorityClass must be {want}"));
    }
    global.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

pub(crate) fn priority_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if new["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
        errors.forbidden(&Path::Root("value"), "may not be changed in an update.");
    }
    let field = "preemptionPolicy";
    errors.immutable(&Path::Root(field), &new[field], &old[field]);
    errors.0
}

pub(crate) fn runtime_class(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let handler = str_of(o, "handler");
    let at = Path::Root("handler");
    match handler {
        "" => errors.required(&at, ""),
        name => errors.broken(&at, name, rules::dns_label(name)),
    }
    let overhead = &o["overhead"];
    if overhead.is_object() {
        let shaped = json!({ "limits": overhead["podFixed"] });
        let none = BTreeSet::new();
        resources::of_container(&shaped, &none, &Path::Root("overhead"), &mut errors);
    }
    let scheduling = &o["scheduling"];
    if scheduling.is_object() {
        let at = Path::Root("scheduling");
        let place = at.child("nodeSelector");
        rules::labels(&scheduling["nodeSelector"], &place, &mut errors);
        let all = list(scheduling, "tolerations");
        let at = at.child("tolerations");
        affinity::tolerations(all, &at, &mut errors);
        let mut seen = HashSet::new();
        for (i, t) in all.iter().enumerate() {
            let key = ["key", "operator", "value", "effect"].map(|f| str_of(t, f));
            if !seen.insert(key) {
                let go = Go::Struct(&[
                    ("key", "Key", Go::Text),
                    ("operator", "Operator", Go::Text),
                    ("value", "Value", Go::Text),
                    ("effect", "Effect", Go::Text),
                    ("tolerationSeconds", "TolerationSeconds", Go::Plain),
                ]);
                errors.duplicate_shown(&at.index(i), go.write(t));
            }
        }
    }
    errors.0
}

pub(crate) fn runtime_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.immutable(&Path::Root("handler"), &new["handler"], &old["handler"]);
    errors.0
}
