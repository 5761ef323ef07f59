//! Which kinds count the generations of their spec.

use crate::registry::Resource;
use serde_json::Value;

/// Kinds with a status whose generation upstream never sets.
const WITHOUT: [(&str, &str); 11] = [
    ("", "services"),
    ("", "nodes"),
    ("", "namespaces"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "resourcequotas"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("networking.k8s.io", "servicecidrs"),
    ("resource.k8s.io", "resourceclaims"),
    ("storage.k8s.io", "volumeattachments"),
];
/// Kinds without a status that have one.
const WITH: [(&str, &str); 12] = [
    ("", "podtemplates"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("discovery.k8s.io", "endpointslices"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "deviceclasses"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
    ),
];

/// Does a new object start with generation 1?
pub(crate) fn has_generation(r: &Resource) -> bool {
    if r.custom.is_some() {
        return true;
    }
    let name = (r.group, r.plural);
    if r.has_status {
        !WITHOUT.contains(&name)
    } else {
        WITH.contains(&name)
    }
}

/// The generation that a change of the object counts on from; None where changes aren't counted.
pub(crate) fn generation(r: &Resource, live: &Value) -> Option<i64> {
    let given = live["metadata"]["generation"].as_i64();
    match (r.group, r.plural) {
        ("scheduling.k8s.io", "priorityclasses") => None,
        // only their changes are counted
        ("storage.k8s.io", "csidrivers") => Some(given.unwrap_or(0)),
        _ => given,
    }
}
