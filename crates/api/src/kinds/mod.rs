//! The built-in kinds: one file a family, each a table of descriptors and its small hooks.

mod addresses;
mod admissionregistration;
pub(crate) mod age;
pub(crate) mod apiservices;
mod autoscaling;
mod autoscaling_v1;
mod batch;
mod cells;
pub(crate) mod certificates;
pub(crate) mod checks;
mod claims;
mod cluster;
mod components;
mod config;
mod csi;
mod endpoints;
mod events;
mod flowcontrol;
mod generation;
mod json;
mod key_pair;
mod metrics;
mod networking;
mod pod_columns;
mod pod_defaults;
mod pod_prepare;
mod pod_warnings;
mod pods;
pub(crate) mod qos;
mod rbac;
mod runtime_class;
pub(crate) mod services;
mod storage;
mod template;
mod workloads;

pub(crate) use cells::{CREATED, NAME};
pub(crate) use generation::{generation, has_generation};

use crate::registry::{Generic, Resource};
use std::sync::LazyLock;

/// A namespaced core/v1 kind without status, scale, columns or hooks: what the tables fill in.
pub(crate) const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    scale: None,
    subresources: &[],
    selectable_fields: &[],
    columns: const { &[] },
    strategy: &Generic,
    stored: None,
    custom: None,
};

/// Groups in the order discovery shows them (kube-aggregator's priorities of upstream's control plane).
const GROUPS: [&str; 22] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    crate::measured::GROUP,
];

/// The place of a group in discovery; those of custom resources come after the built-in ones.
pub(crate) fn group_order(group: &str) -> usize {
    GROUPS
        .iter()
        .position(|g| *g == group)
        .unwrap_or(GROUPS.len())
}

/// The preferred of two versions first.
fn version_order(version: &str) -> u8 {
    u8::from(version != "v2")
}

/// Messages for a name that is not an IP address in its canonical form.
pub(crate) fn canonical_ip(name: &str) -> Vec<String> {
    let mut errors = checks::path::Errors::default();
    checks::rules::strict_ip(name, &checks::path::Path::Root(""), &mut errors);
    errors.details()
}

/// All built-in resources, in discovery order.
pub fn builtin() -> &'static [Resource] {
    static ALL: LazyLock<Vec<Resource>> = LazyLock::new(|| {
        let mut all = Vec::new();
        all.extend(config::resources());
        all.extend(cluster::resources());
        all.extend(events::resources());
        all.extend(storage::resources());
        all.extend(pods::resources());
        all.extend(services::resources());
        all.extend(endpoints::resources());
        all.extend(workloads::resources());
        all.extend(batch::resources());
        all.extend(networking::resources());
        all.extend(admissionregistration::resources());
        all.extend(certificates::resources());
        all.extend(addresses::resources());
        all.extend(flowcontrol::resources());
        all.extend(apiservices::resources());
        all.extend(autoscaling::resources());
        all.extend(csi::resources());
        all.extend(claims::resources());
        all.extend(runtime_class::resources());
        all.extend(metrics::resources());
        all.push(components::resource());
        all.sort_by_key(|r| (group_order(r.group), version_order(r.version), r.plural));
        all.push(crate::crd::resource());
        all
    });
    &ALL
}

/// What users of a kind that is on its way out are told (upstream's APILifecycleDeprecated).
pub(crate) fn deprecation(r: &Resource) -> Option<&'static str> {
    match (r.group, r.kind) {
        ("", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// The built-in kinds for [`crate::ApiServer::for_tests_on_loopback`].
pub(crate) fn on_loopback() -> &'static [Resource] {
    static RESOURCES: std::sync::LazyLock<Vec<Resource>> = std::sync::LazyLock::new(|| {
        let kind = |r: &Resource| Resource {
            strategy: match r.plural {
                "endpointslices" => &crate::registry::Generic,
                _ => r.strategy,
            },
            group: r.group,
            version: r.version,
            kind: r.kind,
            plural: r.plural,
            singular: r.singular,
            short_names: r.short_names,
            categories: r.categories,
            namespaced: r.namespaced,
            has_status: r.has_status,
            scale: None,
            subresources: r.subresources,
            selectable_fields: r.selectable_fields,
            columns: r.columns,
            stored: r.stored,
            custom: None,
        };
        builtin().iter().map(kind).collect()
    });
    &RESOURCES
}
