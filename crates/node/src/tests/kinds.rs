//! A few plain descriptors: what the node does must not hang on the built-in kinds' defaults.

use knarr_api::registry::{Generic, Resource, Strategy};
use serde_json::Value;

struct Pods;
impl Strategy for Pods {
    fn grace_period(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let own = pod
            .pointer("/spec/terminationGracePeriodSeconds")
            .and_then(Value::as_i64);
        Some(requested.or(own).unwrap_or(30))
    }
}

const PLAIN: Resource = Resource {
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
    columns: &[],
    strategy: &Generic,
};

pub(crate) static RESOURCES: &[Resource] = &[
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        namespaced: false,
        has_status: true,
        ..PLAIN
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        namespaced: false,
        has_status: true,
        ..PLAIN
    },
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        ..PLAIN
    },
    Resource {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        ..PLAIN
    },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        ..PLAIN
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        has_status: true,
        ..PLAIN
    },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        ..PLAIN
    },
    Resource {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        namespaced: false,
        has_status: true,
        ..PLAIN
    },
    Resource {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        has_status: true,
        ..PLAIN
    },
    Resource {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        ..PLAIN
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        has_status: true,
        selectable_fields: &[("spec.nodeName", |pod| {
            pod.pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or("")
                .into()
        })],
        strategy: &Pods,
        ..PLAIN
    },
];
