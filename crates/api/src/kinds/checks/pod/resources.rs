//! Amounts that containers ask for and are held to.

use crate::kinds::{
    checks::{
        path::{Errors, Path},
        quantity::Quantity,
        rules,
    },
    json::{entries, list, str_of},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}
/// One of Kubernetes' own.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}
/// One of somebody else's, which counts devices.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rules::qualified(&format!("requests.{name}")).is_empty()
}
/// A name that quotas know.
pub(crate) fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}
/// Whether more of it may be promised than there is.
pub(crate) fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// A resource's name in any list.
pub(crate) fn name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let messages = rules::qualified(name);
    if !messages.is_empty() {
        errors.broken(at, name, messages);
    } else if !name.contains('/') && !is_standard(name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.invalid(at, name, detail);
    }
}

/// The name of something a container may ask for.
pub(crate) fn container_name(of: &str, at: &Path<'_>, errors: &mut Errors) {
    name(of, at, errors);
    if !of.contains('/') {
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&of);
        if !standard && !is_huge_pages(of) {
            errors.invalid(at, of, "must be a standard resource for containers");
        }
    } else if !is_native(of) && !is_extended(of) {
        errors.invalid(at, of, "doesn't follow extended resource name standard");
    }
}

fn pod_name(of: &str, at: &Path<'_>, errors: &mut Errors) {
    let before = errors.0.len();
    name(of, at, errors);
    if errors.0.len() == before && !["cpu", "memory"].contains(&of) && !is_huge_pages(of) {
        errors.not_supported(at, of, &["cpu", "hugepages-", "memory"]);
    }
}

/// ValidateResourceQuantityValue: not negative, whole when it counts things.
pub(crate) fn amount(of: &str, q: &Quantity, at: &Path<'_>, errors: &mut Errors) {
    if q.sign() < 0 {
        let detail = "must be greater than or equal to 0";
        errors.invalid(at, q.canonical(), detail);
    }
    if (COUNTED.contains(&of) || is_extended(of)) && !q.is_whole() {
        errors.invalid(at, q.canonical(), "must be an integer");
    }
}

/// A container's `resources`.
pub(crate) fn of_container(r: &Value, claims: &BTreeSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    requirements(r, container_name, claims, at, errors);
}

fn huge(of: &str, q: &Quantity, at: &Path<'_>, errors: &mut Errors) -> bool {
    let Some(size) = of.strip_prefix("hugepages-") else {
        return false;
    };
    let size = Quantity::parse(size).map_or(0, |s| if s.is_whole() { s.value() } else { 0 });
    if size <= 0 || q.value() % size != 0 {
        let text = q.canonical();
        let detail = format!("{text} is not positive integer multiple of {of}");
        errors.invalid(at, text, detail);
    }
    true
}

fn requirements(
    r: &Value,
    name: fn(&str, &Path<'_>, &mut Errors),
    claims: &BTreeSet<&str>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let (limits, requests) = (at.child("limits"), at.child("requests"));
    let (mut computes, mut pages) = (false, false);
    let compute = |of: &str| of == "cpu" || of == "memory";
    for (of, value) in entries(&r["limits"]) {
        let Some(q) = Quantity::of(value) else {
            continue;
        };
        let at = limits.key(of);
        name(of, &at, errors);
        amount(of, &q, &at, errors);
        pages |= huge(of, &q, &at, errors);
        computes |= compute(of);
    }
    for (of, value) in entries(&r["requests"]) {
        let Some(q) = Quantity::of(value) else {
            continue;
        };
        let at = requests.key(of);
        name(of, &at, errors);
        amount(of, &q, &at, errors);
        match Quantity::of(&r["limits"][of]) {
            Some(limit) => {
                let (text, most) = (q.canonical(), limit.canonical());
                if q != limit && !overcommits(of) {
                    let detail = format!("must be equal to {of} limit of {most}");
                    errors.invalid(&requests, text, detail);
                } else if q > limit {
                    let detail = format!("must be less than or equal to {of} limit of {most}");
                    errors.invalid(&requests, text, detail);
                }
            }
            None if !overcommits(of) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.required(&limits, detail);
            }
            None => {}
        }
        pages |= huge(of, &q, &at, errors);
        computes |= compute(of);
    }
    if pages && !computes {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
    claim_names(list(r, "claims"), claims, &at.child("claims"), errors);
}

fn claim_names(all: &[Value], known: &BTreeSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in all.iter().enumerate() {
        let at = at.index(i);
        let (name, request) = (str_of(claim, "name"), str_of(claim, "request"));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if names.contains(name) {
            errors.duplicate(&at, name);
        } else {
            let mut key = name.to_string();
            if !request.is_empty() {
                errors.broken(&at.child("request"), request, rules::dns_label(request));
                key = format!("{name}/{request}");
            }
            if names.contains(&key) {
                errors.duplicate(&at, key.as_str());
            } else if request.is_empty() {
                let part = |n: &&String| n.split_once('/').is_some_and(|(c, _)| c == name);
                for _ in names.iter().filter(part) {
                    errors.duplicate(&at, name);
                }
            }
            names.insert(key);
        }
        if !known.contains(name) {
            let all: Vec<&str> = known.iter().copied().collect();
            let among = if all.is_empty() {
                " which is empty".to_string()
            } else {
                format!(": {}", all.join(", "))
            };
            errors.not_found_because(
                &at,
                name,
                format!("must be one of the names in pod.spec.resourceClaims{among}"),
            );
        }
    }
}

/// Sums of what all containers ask for at once (component-helpers `resource`).
pub(crate) fn sum(spec: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let mut total: BTreeMap<String, Quantity> = BTreeMap::new();
    let add = |to: &mut BTreeMap<String, Quantity>, of: &Value| {
        for (name, q) in entries(of) {
            let Some(q) = Quantity::of(q) else { continue };
            let sum = to.get(name).map_or(q.clone(), |have| have.plus(&q));
            to.insert(name.to_string(), sum);
        }
    };
    for c in list(spec, "containers") {
        add(&mut total, &c["resources"][field]);
    }
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
    for c in list(spec, "initContainers") {
        let own = &c["resources"][field];
        let mut now = sidecars.clone();
        add(&mut now, own);
        if super::containers::is_sidecar(c) {
            add(&mut total, own);
            sidecars = now.clone();
        }
        for (name, q) in now {
            if peak.get(&name).is_none_or(|p| q > *p) {
                peak.insert(name, q);
            }
        }
    }
    for (name, q) in peak {
        if total.get(&name).is_none_or(|t| q > *t) {
            total.insert(name, q);
        }
    }
    total
}

/// The Pod's own `resources`.
pub(super) fn of_pod(spec: &Value, claims: &BTreeSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    let r = &spec["resources"];
    if !r.is_object() {
        return;
    }
    let at = at.child("resources");
    if spec["os"]["name"] == "windows" {
        errors.forbidden(&at, "may not be set for a windows pod");
        return;
    }
    if r["claims"].is_array() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.forbidden(&at.child("claims"), detail);
    }
    requirements(r, pod_name, claims, &at, errors);
    let place = at.child("requests");
    for (name, total) in sum(spec, "requests") {
        if let Some(q) = Quantity::of(&r["requests"][&name]).filter(|q| total > *q) {
            let total = total.canonical();
            let detail =
                format!("must be greater than or equal to aggregate container requests of {total}");
            errors.invalid(&place.key(&name), q.canonical(), detail);
        }
    }
    let place = at.child("limits");
    for (name, total) in sum(spec, "limits") {
        if let Some(q) =
            Quantity::of(&r["limits"][&name]).filter(|q| is_huge_pages(&name) && total > *q)
        {
            let total = total.canonical();
            let detail =
                format!("must be greater than or equal to aggregate container limits of {total}");
            errors.invalid(&place.key(&name), q.canonical(), detail);
        }
    }
    let place = at.child("containers");
    for (i, c) in list(spec, "containers").iter().enumerate() {
        for (name, q) in entries(&c["resources"]["limits"]) {
            if let (Some(q), Some(most)) = (Quantity::of(q), Quantity::of(&r["limits"][name]))
                && q > most
            {
                let most = most.canonical();
                let detail = format!("must be less than or equal to pod limits of {most}");
                let at = place.index(i);
                errors.invalid(&at.key(name).child("limits"), q.canonical(), detail);
            }
        }
    }
}
