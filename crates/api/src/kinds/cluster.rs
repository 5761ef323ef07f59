//! Namespace, Node, Lease, PriorityClass, PodDisruptionBudget, and the descriptors of RBAC.

use super::{
    PLAIN,
    cells::{AGE, CREATED, NAME, column, or_none, wide},
    checks::{cluster as checks, policies, quantity},
    json::{child, default, items, map, number, text},
    rbac,
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Strategy};
use serde_json::{Value, json};

struct Namespace;
impl Strategy for Namespace {
    fn name(&self) -> NameRule {
        NameRule::DnsLabel
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "phase": "Active" });
        Ok(())
    }
    fn default(&self, o: &mut Value) {
        if let Some(status) = child(o, "status") {
            default(status, "phase", "Active");
        }
    }
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        if !new["spec"].is_object() {
            new["spec"] = json!({});
        }
        new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
        new["status"] = old["status"].clone();
        Ok(())
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::namespace(o)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        match subresource {
            "status" => Some(&NamespaceStatus),
            "finalize" => Some(&NamespaceFinalize),
            _ => None,
        }
    }
}

/// `…/status`
struct NamespaceStatus;
impl Strategy for NamespaceStatus {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        checks::namespace_status(new)
    }
}

/// `…/finalize`
struct NamespaceFinalize;
impl Strategy for NamespaceFinalize {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        checks::namespace_finalize(new)
    }
}

struct Node;
impl Strategy for Node {
    fn default(&self, o: &mut Value) {
        if o.get("status").is_some_and(Value::is_object)
            && o["status"]["allocatable"].is_null()
            && !o["status"]["capacity"].is_null()
        {
            o["status"]["allocatable"] = o["status"]["capacity"].clone();
        }
        default(o, "spec", json!({}));
        default(o, "status", json!({}));
        let spec = &mut o["spec"];
        let cidr = text(spec, "/podCIDR").to_string();
        let first = items(spec, "/podCIDRs").first().cloned();
        if !cidr.is_empty() && first.as_ref().is_none_or(|f| *f != cidr) {
            spec["podCIDRs"] = json!([cidr]);
        } else if let Some(first) = first {
            spec["podCIDR"] = first;
        }
        let status = &mut o["status"];
        for field in ["capacity", "allocatable"] {
            quantity::canonical_list(status.get_mut(field), true);
        }
        // Go writes these whether or not there is something in them
        default(status, "daemonEndpoints", json!({}));
        if let Some(endpoint) = child(&mut status["daemonEndpoints"], "kubeletEndpoint") {
            default(endpoint, "Port", 0);
        }
        default(status, "nodeInfo", json!({}));
        for field in NODE_INFO {
            default(&mut status["nodeInfo"], field, "");
        }
    }
    fn takes_status(&self) -> bool {
        true
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::node(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::node_update(new, old)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&NodeStatus)
    }
}

/// `…/status`
struct NodeStatus;
impl Strategy for NodeStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::node_update(new, old)
    }
}

const NODE_INFO: [&str; 10] = [
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
];

struct Lease;
impl Strategy for Lease {
    fn unconditional_update(&self) -> bool {
        false
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        without_election(o);
        Ok(())
    }
    fn prepare_update(
        &self,
        new: &mut Value,
        _: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        without_election(new);
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::lease(o)
    }
}

/// Coordinated election is not on by default, and so are its fields (upstream's dropDisabledFields).
fn without_election(o: &mut Value) {
    if let Some(spec) = o["spec"].as_object_mut() {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

struct Budget;
impl Strategy for Budget {
    fn name(&self) -> NameRule {
        // upstream's own checks forget it; the storage's remain
        NameRule::PathSegment
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
        });
        Ok(())
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        policies::disruption_budget(o)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&BudgetStatus)
    }
}

/// `…/status`
struct BudgetStatus;
impl Strategy for BudgetStatus {
    fn validate_update(&self, new: &Value, _: &Value) -> Vec<FieldError> {
        policies::disruption_budget_status(new)
    }
}

/// As a column of nodes shows what isn't known.
fn or_unknown(text: &str) -> Value {
    match text {
        "" => "<unknown>".into(),
        known => known.into(),
    }
}

struct PriorityClass;
impl Strategy for PriorityClass {
    fn default(&self, o: &mut Value) {
        default(o, "preemptionPolicy", "PreemptLowerPriority");
        default(o, "value", 0);
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::priority_class(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::priority_class_update(new, old)
    }
}

fn node_status(o: &Value) -> String {
    let ready = items(o, "/status/conditions")
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut all = vec![match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if o["spec"]["unschedulable"] == true {
        all.push("SchedulingDisabled");
    }
    all.join(",")
}

fn address(o: &Value, kind: &str) -> Value {
    or_none(
        items(o, "/status/addresses")
            .iter()
            .find(|a| a["type"] == kind)
            .map(|a| text(a, "/address").to_string())
            .unwrap_or_default(),
    )
}

/// Names of the subjects of one sort.
fn subjects(o: &Value, kind: &str) -> Value {
    let all: Vec<String> = items(o, "/subjects")
        .iter()
        .filter(|s| s["kind"] == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
            _ => text(s, "/name").to_string(),
        })
        .collect();
    all.join(", ").into()
}

const BINDING: &[crate::registry::Column] = &[
    NAME,
    column("Role", "string", role),
    AGE,
    wide("Users", "string", |o| subjects(o, "User")),
    wide("Groups", "string", |o| subjects(o, "Group")),
    wide("ServiceAccounts", "string", |o| {
        subjects(o, "ServiceAccount")
    }),
];

fn role(o: &Value) -> Value {
    format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")).into()
}

pub(crate) fn resources() -> Vec<Resource> {
    let rbac = |kind: &'static str, plural, singular, namespaced, columns| Resource {
        group: "rbac.authorization.k8s.io",
        kind,
        plural,
        singular,
        namespaced,
        columns,
        strategy: match (kind, namespaced) {
            ("Role", _) => &rbac::Role { namespaced: true },
            ("ClusterRole", _) => &rbac::Role { namespaced: false },
            (_, true) => &rbac::Binding { namespaced: true },
            (_, false) => &rbac::Binding { namespaced: false },
        },
        ..PLAIN
    };
    vec![
        Resource {
            kind: "Namespace",
            plural: "namespaces",
            singular: "namespace",
            short_names: &["ns"],
            namespaced: false,
            has_status: true,
            subresources: &["finalize"],
            strategy: &Namespace,
            selectable_fields: &[("status.phase", |o| text(o, "/status/phase").into())],
            columns: const {
                &[
                    NAME,
                    column("Status", "string", |o| text(o, "/status/phase").into()),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "Node",
            plural: "nodes",
            singular: "node",
            short_names: &["no"],
            namespaced: false,
            has_status: true,
            subresources: &["proxy"],
            strategy: &Node,
            selectable_fields: &[("spec.unschedulable", |o| {
                (o["spec"]["unschedulable"] == true).to_string()
            })],
            columns: const {
                &[
                    NAME,
                    column("Status", "string", |o| node_status(o).into()),
                    column("Roles", "string", |o| {
                        let prefix = "node-role.kubernetes.io/";
                        let roles: Vec<&str> = map(o, "/metadata/labels")
                            .into_iter()
                            .flatten()
                            .filter_map(|(k, _)| k.strip_prefix(prefix))
                            .collect();
                        or_none(roles.join(","))
                    }),
                    AGE,
                    column("Version", "string", |o| {
                        text(o, "/status/nodeInfo/kubeletVersion").into()
                    }),
                    wide("Internal-IP", "string", |o| address(o, "InternalIP")),
                    wide("External-IP", "string", |o| address(o, "ExternalIP")),
                    wide("OS-Image", "string", |o| {
                        or_unknown(text(o, "/status/nodeInfo/osImage"))
                    }),
                    wide("Kernel-Version", "string", |o| {
                        or_unknown(text(o, "/status/nodeInfo/kernelVersion"))
                    }),
                    wide("Container-Runtime", "string", |o| {
                        or_unknown(text(o, "/status/nodeInfo/containerRuntimeVersion"))
                    }),
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "coordination.k8s.io",
            kind: "Lease",
            plural: "leases",
            singular: "lease",
            strategy: &Lease,
            columns: const {
                &[
                    NAME,
                    column("Holder", "string", |o| {
                        text(o, "/spec/holderIdentity").into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "scheduling.k8s.io",
            kind: "PriorityClass",
            plural: "priorityclasses",
            singular: "priorityclass",
            short_names: &["pc"],
            namespaced: false,
            strategy: &PriorityClass,
            columns: const {
                &[
                    NAME,
                    column("Value", "integer", |o| number(o, "/value").into()),
                    column("Global-Default", "boolean", |o| {
                        (o["globalDefault"] == true).into()
                    }),
                    AGE,
                    column("PreemptionPolicy", "string", |o| {
                        text(o, "/preemptionPolicy").into()
                    }),
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "policy",
            kind: "PodDisruptionBudget",
            plural: "poddisruptionbudgets",
            singular: "poddisruptionbudget",
            short_names: &["pdb"],
            strategy: &Budget,
            has_status: true,
            columns: const {
                &[
                    NAME,
                    column(
                        "Min Available",
                        "string",
                        |o| match &o["spec"]["minAvailable"] {
                            Value::Null => "N/A".into(),
                            v => v.clone(),
                        },
                    ),
                    column("Max Unavailable", "string", |o| {
                        match &o["spec"]["maxUnavailable"] {
                            Value::Null => "N/A".into(),
                            v => v.clone(),
                        }
                    }),
                    column("Allowed Disruptions", "integer", |o| {
                        number(o, "/status/disruptionsAllowed").into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
        rbac("Role", "roles", "role", true, &[NAME, CREATED]),
        rbac(
            "ClusterRole",
            "clusterroles",
            "clusterrole",
            false,
            const { &[NAME, CREATED] },
        ),
        rbac(
            "RoleBinding",
            "rolebindings",
            "rolebinding",
            true,
            const { BINDING },
        ),
        rbac(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
            false,
            const { BINDING },
        ),
    ]
}
