//! The priority levels and flow schemas every cluster has (apiserver `pkg/apis/flowcontrol/bootstrap`). The first two of each
//! are mandatory: they come back when deleted, and their specs are fixed.

use serde_json::{Value, json};

/// An annotation of ours: the object follows the defaults.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// Names of the mandatory objects, of both kinds.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec,
    })
}

/// All PriorityLevelConfigurations.
pub fn levels() -> Vec<Value> {
    let queued = |name, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let response = json!({"type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object(
            "PriorityLevelConfiguration",
            name,
            json!({"type": "Limited", "limited": limited}),
        )
    };
    vec![
        object(
            "PriorityLevelConfiguration",
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        object(
            "PriorityLevelConfiguration",
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}}),
        ),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

fn groups(names: &[&str]) -> Value {
    let one = |n: &&str| json!({"kind": "Group", "group": {"name": n}});
    names.iter().map(one).collect()
}
fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}
fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}})
}
fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule =
        json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// All FlowSchemas.
pub fn schemas() -> Vec<Value> {
    let schema = |name: &str, level: &str, precedence: u32, by: &str, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
        });
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({ "type": by });
        }
        object("FlowSchema", name, spec)
    };
    let everything = |subjects: Value| {
        json!({"subjects": subjects,
            "resourceRules": [resources(&["*"], "*", &["*"], true)],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
    };
    let everybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    let manager = "system:kube-controller-manager";
    let scheduler = "system:kube-scheduler";
    let leaders = json!([user(manager), user(scheduler), system_accounts()]);
    let nodes = || groups(&["system:nodes"]);
    let probes = json!({"subjects": everybody(), "nonResourceRules": [
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let node_high = json!({"subjects": nodes(), "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])]});
    let leading =
        json!({"subjects": leaders, "resourceRules": [leases(&["get", "create", "update"])]});
    vec![
        schema(
            "exempt",
            "exempt",
            1,
            "",
            everything(groups(&["system:masters"])),
        ),
        schema(
            "catch-all",
            "catch-all",
            10_000,
            by_user,
            everything(everybody()),
        ),
        schema("system-nodes", "system", 500, by_user, everything(nodes())),
        schema("system-node-high", "node-high", 400, by_user, node_high),
        schema("probes", "exempt", 2, "", probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            by_user,
            leading,
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            everything(json!([user(manager)])),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            by_namespace,
            everything(json!([user(scheduler)])),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            everything(json!([system_accounts()])),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema(
            "global-default",
            "global-default",
            9900,
            by_user,
            everything(everybody()),
        ),
    ]
}

/// The fixed spec of a mandatory object.
pub fn mandatory(kind: &str, name: &str) -> Option<Value> {
    if !MANDATORY.contains(&name) {
        return None;
    }
    let all = if kind == "FlowSchema" {
        schemas()
    } else {
        levels()
    };
    let mut found = all.into_iter().find(|o| o["metadata"]["name"] == name)?;
    Some(found["spec"].take())
}
